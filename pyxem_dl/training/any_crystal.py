"""Training of the network that verifies orientations of any crystal, on many crystals."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.utils.data import IterableDataset

from pyxem_dl import symmetry
from pyxem_dl.crystals import Structures, load_phases, manifest_of
from pyxem_dl.crystals.twins import SIMILARITY, intensity_curve, similarity
from pyxem_dl.messages import say
from pyxem_dl.models import OrientationModel
from pyxem_dl.networks import build_network
from pyxem_dl.networks.any_crystal import AnyCrystalNetwork
from pyxem_dl.networks.candidates import OrientationCandidates
from pyxem_dl.preprocessing import PolarPreprocessing
from pyxem_dl.simulation import PatternSimulator, SimulatedPatterns, SimulationSettings
from pyxem_dl.training.bragg import divided, training_phases
from pyxem_dl.training.configuration import LearningConfiguration, check_names
from pyxem_dl.training.learning import FALSE_CRYSTALS, ClockedTraining
from pyxem_dl.training.report import any_crystal_card, join_logs, provenance
from pyxem_dl.training.running import begin, device_and_precision, fit

if TYPE_CHECKING:
    from pyxem_dl.annotations import Phases

#: The polar grid, at the radius of 1.5 Å⁻¹; at others the rings are as wide
GRID = PolarPreprocessing(1.5)
# Reflections of the largest cells that are looked for: their templates are made in seconds
_MOST_REFLECTIONS = 30_000
_VALIDATION_CRYSTALS, _VALIDATION_PATTERNS = 16, 96
# Share of the patterns of another crystal that may pass the threshold of the score
_FALSE_FOREIGN = 0.05
# Temperatures that are tried
_TEMPERATURES = torch.linspace(0.5, 3.0, 26)


def _simulation() -> SimulationSettings:
    return SimulationSettings(
        shape_factors=("many_beam",) * 4 + ("two_beam", "two_beam", "kinematical", "lorentzian", "gaussian"),
        overlap_share=0.15, empty_share=0.08, fault_share=0.15,
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
    steps_each: int = 8
    setups_each: int = 1
    foreign_share: float = 0.12
    validation_share: float = 0.1
    simulation: SimulationSettings = field(default_factory=_simulation)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("learning_rate", "crystals_at_once", "steps_each", "setups_each")
        self._check_batch_size(self.patterns_each)
        for name in ("foreign_share", "validation_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, not {getattr(self, name)!r}.")


    @property
    def patterns_each(self) -> int:
        """Patterns of each crystal in a batch."""
        return self.setups_each * self.simulation.setup_size


class NamedPatterns(NamedTuple):
    """Patterns in which a crystal is looked for.

    ``phase``, ``beam_energy`` and ``preprocessing`` as the network's ``with_phases`` takes them; ``inputs``;
    ``rotations (n, 4)``; ``phase_id (n,)``, 0, or -1 where the crystal is not.
    """

    network: AnyCrystalNetwork
    inputs: tuple
    rotations: torch.Tensor
    phase_id: torch.Tensor


class _Setup:
    """A crystal at a beam energy, with all that is looked for and simulated of it."""

    def __init__(self, network, phase, draw: random.Random, configuration: AnyCrystalConfiguration, device) -> None:
        self.phase = phase
        low, high = map(math.log, configuration.beam_energy)
        energy, radius = math.exp(draw.uniform(low, high)), draw.uniform(*configuration.reciprocal_radius)
        most = (_MOST_REFLECTIONS / (4 / 3 * math.pi * phase.structure.lattice.volume)) ** (1 / 3)
        radius = min(radius, most)
        n_k = 2 * round(GRID.n_k * radius / GRID.reciprocal_radius / 2)
        self.preprocessing = PolarPreprocessing(radius, n_k=n_k, n_phi=GRID.n_phi)
        self.network = network.with_phases([phase], energy, self.preprocessing)
        self.simulator = PatternSimulator(
            [phase], energy, radius, configuration.simulation, seed=draw.randrange(2**31), device=device
        )

    def is_like(self, other: _Setup) -> bool:
        """Whether the patterns of the other crystal might be of this one."""
        return similarity(_curve(self.phase), _curve(other.phase)) >= SIMILARITY

    def look_at(self, simulator: PatternSimulator, n_setups: int = 1, n: int | None = None) -> NamedPatterns:
        """Simulate setups of this crystal, or of another one, and look for this one in their patterns."""
        with torch.no_grad():
            made = simulator.several(n_setups, n)
            inputs, rotations, phase_id = zip(*((self._inputs(s), s.rotations, s.phase_id) for s in made), strict=True)
        inputs = tuple(torch.cat(column) for column in zip(*inputs, strict=True))
        phase_id = torch.cat(phase_id)
        phase_id = phase_id if simulator is self.simulator else torch.full_like(phase_id, -1)
        return NamedPatterns(self.network, inputs, torch.cat(rotations), phase_id)

    def _inputs(self, s: SimulatedPatterns) -> tuple[torch.Tensor, ...]:
        """Make what the network takes, each of its parts for every pattern."""
        polar, valid, intensity, pixels = self.preprocessing.counted(
            s.patterns, s.calibration, signal_mask=s.signal_mask
        )
        return polar, valid.expand_as(polar), intensity, pixels.expand(len(polar), -1)


@lru_cache(maxsize=1024)
def _curve(phase):
    return intensity_curve(phase)


class CrystalBatches(IterableDataset):
    """Endless batches of patterns of many crystals, each pattern new.

    Parameters
    ----------
    network : AnyCrystalNetwork
        That learns.
    phases : list of orix.crystal_map.Phase
        To train on.
    configuration : AnyCrystalConfiguration
        Of the training.
    seed : int
        Of all that is drawn.
    device : torch.device
        Where patterns are made.
    """

    def __init__(self, network, phases: list, configuration: AnyCrystalConfiguration, seed: int, device) -> None:
        self.network, self.phases, self.configuration, self.device = network, phases, configuration, device
        self._waiting: list[_Setup] = []
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Go on with other crystals and patterns."""
        self._draw, self._made = random.Random(seed), 0
        self._waiting = []

    def fresh(self, phase=None) -> _Setup:
        """Draw a crystal, or take this one, at a new beam energy."""
        phase = self._draw.choice(self.phases) if phase is None else phase
        return _Setup(self.network, phase, self._draw, self.configuration, self.device)

    def make(self) -> list[NamedPatterns]:
        """Draw a batch: some patterns of each of a few crystals."""
        c = self.configuration
        while len(self._waiting) < c.crystals_at_once:
            self._waiting.append(self.fresh())
        if self._made % c.steps_each == 0:
            self._waiting[self._draw.randrange(len(self._waiting))] = self.fresh()
        self._made += 1
        chosen = self._draw.sample(self._waiting, min(len(self._waiting), c.batch_size // c.patterns_each))
        return [setup.look_at(self._source(setup), c.setups_each) for setup in chosen]

    def _source(self, setup: _Setup) -> PatternSimulator:
        if self._draw.random() >= self.configuration.foreign_share:
            return setup.simulator
        others = [other for other in self._waiting if not setup.is_like(other)]
        return self._draw.choice(others or [setup]).simulator

    def __iter__(self) -> Iterator[list[NamedPatterns]]:
        while True:
            yield self.make()


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
        self.network, self._validation = network, validation

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
        return validate(self.network, self._validation)

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
        columns = [_angles(each, each.network.predict(each.inputs, 1)) for each in patterns]
    network.train(training)
    angle, modulo_180, score, there = (torch.cat(column) for column in zip(*columns, strict=True))
    result = {}
    for name, x in (("strict", angle[there]), ("modulo_180", modulo_180[there])):
        result |= {f"within_{limit}_{name}": float((x < limit).float().mean()) for limit in (2, 5)}
        result[f"median_{name}"] = float(x.median())
    result["score"] = float(score[there].mean())
    result["false"] = float((score[~there] > 0.5).float().mean())
    return result


def _angles(patterns: NamedPatterns, found: OrientationCandidates) -> tuple[torch.Tensor, ...]:
    """Disorientations (n,) in degrees, strict and modulo 180°, scores, and where there is a crystal."""
    operations = patterns.network.operations[patterns.phase_id.clamp_min(0)]
    angles = (
        torch.rad2deg(
            symmetry.disorientation_angle(found.rotations[:, 0].float(), patterns.rotations, operations, modulo_180=m)
        )
        for m in (False, True)
    )
    return (*angles, found.scores[:, 0].float(), patterns.phase_id >= 0)


def fit_scores(network: AnyCrystalNetwork, patterns: list[NamedPatterns]) -> float:
    """Make scores probabilities, by their temperature; return a threshold that what is no crystal stays below.

    Of patterns without a crystal the share :data:`~pyxem_dl.training.learning.FALSE_CRYSTALS` passes it, of those of
    another crystal, which may be much like the one that is looked for, 5 %.

    Parameters
    ----------
    network : AnyCrystalNetwork
        Trained; its temperature is set.
    patterns : list of NamedPatterns
        Of crystals that are not trained on.
    """
    with torch.inference_mode():
        found = [each.network.verify(each.inputs) for each in patterns]

    def measured(temperature: float):
        network.set_temperature(temperature)
        with torch.inference_mode():
            columns = [_angles(each, each.network.separated(f, 1)) for each, f in zip(patterns, found, strict=True)]
        angle, _, score, there = (torch.cat(column) for column in zip(*columns, strict=True))
        return (there & (angle < 5)).to(score), score, there

    def unlikely(temperature: float) -> float:
        right, score, _ = measured(temperature)
        return float(torch.nn.functional.binary_cross_entropy(score.clamp(1e-4, 1 - 1e-4), right))

    _, score, there = measured(min(_TEMPERATURES.tolist(), key=unlikely))
    foreign = torch.cat([(each.phase_id < 0).all().expand(len(each.phase_id)) for each in patterns])
    limits = [
        float(score[false].quantile(1 - share))
        for false, share in ((~there & ~foreign, FALSE_CRYSTALS), (foreign, _FALSE_FOREIGN)) if bool(false.any())
    ]  # fmt: skip
    return round(max(limits, default=0.5), 4)


def train_any_crystal(
    phases: Phases | None = None,
    *,
    output: str | Path,
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
    work = begin(output, phases, configuration, resume=resume, overwrite=overwrite, titles=(name, description))
    root, precision = device_and_precision(device)
    learnt, held_out = divided(phases, configuration)
    network = build_network("any_crystal", **configuration.network).to(root)
    say(f"Training {name} on {len(learnt)} crystals; {configuration.max_minutes:g} minutes on {root}")
    batches = CrystalBatches(network, learnt, configuration, configuration.seed, root)
    validation = validation_patterns(network, held_out, configuration, root)
    module = AnyCrystalTraining(network, configuration, "train", batches, validation)
    fit(module, work / "train", root, precision, show_progressbar)
    network.eval()
    threshold = fit_scores(network, validation)
    results = validate(network, validation)
    model = OrientationModel(
        network_name="any_crystal", network=network.float().cpu(), preprocessing=GRID, phases=[],
        domain={"scale": None, "disk_radius": list(configuration.simulation.disk_radius)},
        thresholds={"crystal": 0.5, "score": threshold}, name=name,
        description=description or "Orientations of any crystal",
        training=json.loads(json.dumps(asdict(configuration))),
        provenance=provenance([module], root, precision),
    )  # fmt: skip
    model.save(
        output, dtype=torch.float16, card=any_crystal_card(model, configuration, results, phases, held_out),
        training_log=join_logs(work, configuration.stages()), crystals=manifest_of(phases),
    )  # fmt: skip
    shutil.rmtree(work, ignore_errors=True)
    return model


def validation_patterns(network, phases: list, configuration: AnyCrystalConfiguration, device) -> list[NamedPatterns]:
    """Patterns of crystals that are not trained on, and, as many as of one of them, of the wrong crystals."""
    batches = CrystalBatches(network, phases, configuration, configuration.seed + 1_000_000, device)
    setups = [batches.fresh(phase) for phase in phases[:_VALIDATION_CRYSTALS]]
    others = [*setups[1:], setups[0]]
    n = _VALIDATION_PATTERNS
    return [s.look_at(s.simulator, n=n) for s in setups] + [
        s.look_at(other.simulator, n=n // 4) for s, other in zip(setups, others, strict=True) if not s.is_like(other)
    ]
