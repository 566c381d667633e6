"""Training of the network that verifies orientations of any crystal, on many crystals."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pyxem_dl import symmetry
from pyxem_dl.crystals import Structures, load_phases, manifest_of
from pyxem_dl.messages import say
from pyxem_dl.models import OrientationModel, load_model
from pyxem_dl.networks import build_network
from pyxem_dl.networks.any_crystal import AnyCrystalNetwork
from pyxem_dl.networks.candidates import OrientationCandidates
from pyxem_dl.simulation import SimulationSettings
from pyxem_dl.training.bragg import divided, training_phases
from pyxem_dl.training.configuration import LearningConfiguration, check_names
from pyxem_dl.training.crystal_batches import GRID, CrystalBatches, NamedPatterns, validation_patterns
from pyxem_dl.training.learning import FALSE_CRYSTALS, ClockedTraining
from pyxem_dl.training.report import any_crystal_card, join_logs, provenance
from pyxem_dl.training.running import begin, device_and_precision, fit

if TYPE_CHECKING:
    from pyxem_dl.annotations import Phases

# Share of the patterns of another crystal that may pass the threshold: less than the 5 % that are bearable, since there
# are crystals that are more alike, and real vacuum that is not as empty as simulated one
_FALSE_FOREIGN = 0.03
# Added to the seed of a training that goes on, so that it does not see the same patterns once more
_OTHER_PATTERNS = 10_000_000
# Temperatures that are tried
_TEMPERATURES = torch.linspace(0.5, 3.0, 26)


def _simulation() -> SimulationSettings:
    return SimulationSettings(
        shape_factors=("many_beam",) * 4 + ("two_beam", "two_beam", "kinematical", "lorentzian", "gaussian"),
        overlap_share=0.15, empty_share=0.12, fault_share=0.15, ghost_share=0.25, ghost_specks=6, texture=(0.0, 0.4),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class AnyCrystalConfiguration(LearningConfiguration):
    """All that the training is made of; saved with the weights.

    Parameters
    ----------
    beam_energy, reciprocal_radius : tuple of float
        Between which they are drawn for each crystal, in kV and Å⁻¹.
    crystals_at_once : int
        So many wait to be drawn for batches; one of them is replaced after every `steps_each` batches.
    uses : int
        So many times a pattern is learnt from: to make it takes longer.
    setups_each : int
        So many setups of a crystal go through the network together: on a GPU several take as long as one.
    foreign_share : float
        Of the patterns, that are of another crystal than the one that is looked for.
    validation_share : float
        Of the crystals, on which is not trained: with some of them it is validated.
    simulation : SimulationSettings
        What the patterns look like; batches are of several setups.
    **further
        Those of :class:`~pyxem_dl.training.configuration.LearningConfiguration`; `network` holds
        arguments of :class:`pyxem_dl.networks.any_crystal.AnyCrystalNetwork`.
    """

    max_minutes: float = 120.0
    batch_size: int = 96
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    validation_minutes: float = 10.0
    beam_energy: tuple[float, float] = (60.0, 300.0)
    reciprocal_radius: tuple[float, float] = (1.0, 2.0)
    crystals_at_once: int = 32
    steps_each: int = 16
    uses: int = 3
    setups_each: int = 1
    foreign_share: float = 0.2
    validation_share: float = 0.1
    simulation: SimulationSettings = field(default_factory=_simulation)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("learning_rate", "crystals_at_once", "steps_each", "uses", "setups_each")
        self._check_batch_size(self.patterns_each)
        for name in ("foreign_share", "validation_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, not {getattr(self, name)!r}.")


    @property
    def patterns_each(self) -> int:
        """Patterns of each crystal in a batch."""
        return self.setups_each * self.simulation.setup_size


class AnyCrystalTraining(ClockedTraining):
    """Loss and validation of the verifier.

    Parameters
    ----------
    network : AnyCrystalNetwork
        To be trained.
    configuration : AnyCrystalConfiguration
        Of the training.
    stage : str
        Of the configuration's.
    batches : CrystalBatches
        To train on.
    validation : list of NamedPatterns
        Of crystals that are not trained on.
    """

    def __init__(self, network, configuration, stage, batches, validation) -> None:
        super().__init__(configuration, stage, batches)
        self.network, self.validation = network, validation

    @property
    def trainable(self):
        """The network."""
        return self.network

    def training_step(self, batch, _):
        """Return the mean loss of a batch's crystals."""
        losses = []
        for patterns in batch:
            loss, parts = patterns.network.loss(*patterns[1:])
            losses.append(loss)
            self.patterns_seen += len(patterns.phase_id)
        self.log_dict({f"loss_{name}": value for name, value in parts.items()})
        loss = torch.stack(losses).mean()
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_results(self) -> dict[str, float]:
        """Accuracy on crystals that are not trained on."""
        return validate(self.network, self.validation)

    def validation_objective(self, results):
        """Share of the crystals whose orientation is not found."""
        return 1 - results["within_5_modulo_180"]


def validate(network: AnyCrystalNetwork, patterns: list[NamedPatterns]) -> dict[str, float]:
    """Measure a network on patterns of crystals that it has not seen.

    Returns
    -------
    dict of float
        Shares within 2 and 5 degrees of the truth and the median disorientation in degrees, strict and modulo 180
        degrees about the beam; ``score``, the mean probability of the best orientation, which should be
        ``within_5_strict``; ``false``, the share of patterns without the crystal whose score is above one half.
    """
    training = network.training
    network.eval()
    with torch.inference_mode():
        columns = [compared(each, each.network.predict(each.inputs, 1)) for each in patterns]
    network.train(training)
    angle, modulo_180, score, there = (torch.cat(column) for column in zip(*columns, strict=True))
    result = {}
    for name, x in (("strict", angle[there]), ("modulo_180", modulo_180[there])):
        result |= {f"within_{limit}_{name}": float((x < limit).float().mean()) for limit in (2, 5)}
        result[f"median_{name}"] = float(x.median()) if len(x) else math.nan
    result["score"] = float(score[there].mean())
    result["false"] = float((score[~there] > 0.5).float().mean())
    return result


def compared(patterns: NamedPatterns, found: OrientationCandidates) -> tuple[torch.Tensor, ...]:
    """Disorientations (n,) in degrees, strict and modulo 180°, scores, and where there is a crystal.

    Where another phase is found than the true one they are 180 degrees.
    """
    operations = patterns.network.operations[patterns.phase_id.clamp_min(0)]
    right_phase = found.phase_id[:, 0] == patterns.phase_id
    angles = (
        torch.where(right_phase, torch.rad2deg(
            symmetry.disorientation_angle(found.rotations[:, 0].float(), patterns.rotations, operations, modulo_180=m)
        ), 180.0)
        for m in (False, True)
    )  # fmt: skip
    return (*angles, found.scores[:, 0].float(), patterns.phase_id >= 0)


def fit_scores(network: AnyCrystalNetwork, patterns: list[NamedPatterns]) -> dict[str, float]:
    """Make scores probabilities, by their temperature; return thresholds that what is not there stays below.

    Of patterns of another crystal, which may be much like the one that is looked for, 3 % pass that of the probability
    that it is one of the crystals looked for; of those without a crystal, the share
    :data:`~pyxem_dl.training.learning.FALSE_CRYSTALS` passes that of the score.  The score itself is no measure of what
    is another crystal: where an orientation and the one that is turned by 180° look alike, each has half of it.

    Parameters
    ----------
    network : AnyCrystalNetwork
        Trained; its temperature is set.
    patterns : list of NamedPatterns
        Of crystals that are not trained on.
    """
    score, there, crystal = fit_temperature(network, patterns)
    foreign = torch.cat([(each.phase_id < 0).all().expand(len(each.phase_id)) for each in patterns])
    empty = ~there & ~foreign
    return {"crystal": _passed_by(_FALSE_FOREIGN, crystal[foreign]), "score": _passed_by(FALSE_CRYSTALS, score[empty])}


def fit_temperature(network: AnyCrystalNetwork, patterns: list[NamedPatterns]) -> tuple[torch.Tensor, ...]:
    """Set the temperature with which scores are probabilities; return them, where there is a crystal, and of a crystal.

    Parameters
    ----------
    network, patterns
        Those of :func:`fit_scores`.
    """
    with torch.inference_mode():
        found = [each.network.verify(each.inputs) for each in patterns]

    def measured(temperature: float):
        network.set_temperature(temperature)
        with torch.inference_mode():
            best = [each.network.separated(f, 1) for each, f in zip(patterns, found, strict=True)]
            columns = [(*compared(each, b), b.crystal) for each, b in zip(patterns, best, strict=True)]
        angle, _, score, there, crystal = (torch.cat(column) for column in zip(*columns, strict=True))
        return (there & (angle < 5)).to(score), score, there, crystal

    def unlikely(temperature: float) -> float:
        right, score, *_ = measured(temperature)
        return float(torch.nn.functional.binary_cross_entropy(score.clamp(1e-4, 1 - 1e-4), right))

    _, *columns = measured(min(_TEMPERATURES.tolist(), key=unlikely))
    return tuple(columns)


def _passed_by(share: float, false: torch.Tensor) -> float:
    """Threshold that this share of false ones passes."""
    return round(float(false.float().quantile(1 - share)), 4) if len(false) else 0.5


def train_any_crystal(
    phases: Phases | None = None,
    *,
    output: str | Path,
    start: str | Path | OrientationModel | None = None,
    max_minutes: float | None = None,
    resume: bool = True,
    overwrite: bool = False,
    device: str = "auto",
    show_progressbar: bool | None = None,
    name: str | None = None,
    description: str = "",
    **settings,
) -> OrientationModel:
    """Train the network that indexes any crystal.

    Parameters
    ----------
    phases : orix.crystal_map.Phase, path of a CIF file, or a list of these, optional
        Crystals whose patterns it is trained on; by default those of
        :func:`~pyxem_dl.training.bragg.training_phases`.
    output : path
        The model's folder; made if it is not there.
    start : str, path or OrientationModel, optional
        A model whose weights the training begins with.
    max_minutes : float, optional
        Time limit, by default 120.
    resume, overwrite, device, show_progressbar, name, description
        As of :func:`pyxem_dl.train_bragg`.
    **settings
        Further fields of :class:`AnyCrystalConfiguration`.

    Returns
    -------
    OrientationModel
        That takes phases.
    """
    if max_minutes is not None:
        settings["max_minutes"] = max_minutes
    check_names(settings, AnyCrystalConfiguration)
    configuration = AnyCrystalConfiguration(**settings)
    phases = training_phases(show_progressbar) if phases is None else phases
    phases = phases if isinstance(phases, Structures) else load_phases(phases)
    output = Path(output)
    name = name or output.name
    start = None if start is None else load_generalist(start)
    work = begin(
        output, phases, configuration, resume=resume, overwrite=overwrite, titles=(name, description),
        data=[] if start is None else [start.fingerprint],
    )  # fmt: skip
    root, precision = device_and_precision(device)
    learnt, held_out = divided(phases, configuration)
    network = network_of(start, configuration).to(root)
    say(f"Training {name} on {len(learnt)} crystals; {configuration.max_minutes:g} minutes on {root}")
    seed = configuration.seed + (0 if start is None else _OTHER_PATTERNS)
    batches = CrystalBatches(network, learnt, configuration, seed, root)
    validation = validation_patterns(network, held_out, configuration, root)
    module = AnyCrystalTraining(network, configuration, "train", batches, validation)
    fit(module, work / "train", root, precision, show_progressbar)
    model, results = learnt_model(module, name=name, description=description or "Orientations of any crystal")
    model.provenance = provenance([module], root, precision)
    model.save(
        output, dtype=torch.float16, card=any_crystal_card(model, configuration, results, phases, held_out, start),
        training_log=join_logs(work, configuration.stages()), crystals=manifest_of(phases),
    )  # fmt: skip
    shutil.rmtree(work, ignore_errors=True)
    return model


def load_generalist(start) -> OrientationModel:
    """Load the model whose weights a training begins with."""
    model = load_model(start)
    if not isinstance(model.network, AnyCrystalNetwork):
        raise ValueError(f"The model {model.name!r} takes no crystals: a training begins with one as 'any-crystal'.")
    return model


def network_of(start: OrientationModel | None, configuration: AnyCrystalConfiguration) -> AnyCrystalNetwork:
    """Make a network to be trained: a new one, or with the weights of another model."""
    arguments = configuration.network if start is None else start.network.arguments | configuration.network
    network = build_network("any_crystal", **arguments)
    if start is not None:
        network.load_state_dict(start.network.state_dict())
    return network.float().train()


def learnt_model(module: AnyCrystalTraining, **facts) -> tuple[OrientationModel, dict[str, float]]:
    """Fit scores and thresholds of a network that has learnt, and measure it."""
    network, configuration = module.network.eval(), module.configuration
    thresholds = fit_scores(network, module.validation)
    results = validate(network, module.validation)
    return OrientationModel(
        network_name="any_crystal", network=network.float().cpu(), preprocessing=GRID, thresholds=thresholds,
        training=json.loads(json.dumps(asdict(configuration))),
        **{"phases": [], "domain": {"scale": None, "disk_radius": list(configuration.simulation.disk_radius)}} | facts,
    ), results  # fmt: skip
