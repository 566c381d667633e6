"""Training of the disk detector on simulated convergent-beam patterns."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pyxem_dl.crystals import Structures, load_phases, manifest_of, structures
from pyxem_dl.messages import say
from pyxem_dl.metrics.disks import HIT_RADII, rank_correlation, score_disks
from pyxem_dl.models import BraggModel
from pyxem_dl.networks import Disks, build_network
from pyxem_dl.simulation.disks import DiskSettings, DiskSimulator
from pyxem_dl.training.configuration import LearningConfiguration, check_names
from pyxem_dl.training.disk_batches import STORE, VISIBLE, DiskBatch, DiskBatches, ReadingBatch, ReadingBatches
from pyxem_dl.training.learning import ClockedTraining
from pyxem_dl.training.report import bragg_card, join_logs, provenance
from pyxem_dl.training.running import begin, device_and_precision, fit

if TYPE_CHECKING:
    from pyxem_dl.annotations import Phases

# Larger disks are binned: nothing else changes.  In px.
_LARGEST_RADIUS = 40.0

VALIDATION_BATCHES = 40
# Excitation errors within so many half ranges of a disk are near Bragg's condition
_NEAR = 3.0
_THRESHOLDS = torch.linspace(0.05, 0.9, 35)
#: Of what a detector reports by default, so much is true in patterns of crystals that it has not seen
PRECISION = 0.95


@dataclass(frozen=True, kw_only=True)
class BraggConfiguration(LearningConfiguration):
    """All that the training of a disk detector is made of; saved with the weights.

    Parameters
    ----------
    reading_share : float
        Of the time, for the reading of the disks: sub-pixel positions, excitation errors, potentials.
    validation_share : float
        Of the crystals, on which is not trained: with them it is validated. Fewer than three crystals are not divided.
    simulation : DiskSettings
        What the patterns look like.
    **further
        Those of :class:`~pyxem_dl.training.configuration.LearningConfiguration`; `network` holds
        arguments of :class:`pyxem_dl.networks.FCUNet`.
    """

    max_minutes: float = 115.0
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    validation_minutes: float = 5.0
    reading_share: float = 0.4
    validation_share: float = 0.1
    simulation: DiskSettings = field(default_factory=DiskSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("learning_rate")
        if self.batch_size > STORE:
            raise ValueError(f"batch_size must be from 1 to {STORE}, not {self.batch_size!r}.")
        for name in ("reading_share", "validation_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, not {getattr(self, name)!r}.")

    @property
    def shares(self) -> dict[str, float]:
        """The U-Net learns to find disks, then the reader learns where exactly they are, and what they tell."""
        return {"detect": 1 - self.reading_share, "read": self.reading_share}


class BraggTraining(ClockedTraining):
    """Loss and validation of the disk detector.

    Parameters
    ----------
    network : FCUNet
        To be trained.
    configuration : BraggConfiguration
        Of the training.
    stage : {"detect", "read"}
        What is learnt.
    batches : DiskBatches or ReadingBatches
        To train on.
    validation : list of DiskBatch or of ReadingBatch
        Not trained on.
    """

    def __init__(self, network, configuration, stage, batches, validation) -> None:
        super().__init__(configuration, stage, batches)
        self.network, self._validation = network, validation

    @property
    def trainable(self):
        """The network, or its reader alone."""
        return self.network if self.stage == "detect" else self.network.reader

    def training_step(self, batch, _):
        """Return the loss of a batch."""
        loss, parts = self.trainable.loss(*batch)
        self.patterns_seen += self.configuration.batch_size
        self.log("loss", loss, prog_bar=True)
        self.log_dict({f"loss_{name}": value for name, value in parts.items()})
        return loss

    def validation_results(self) -> dict[str, float]:
        """Precision, recall and errors on patterns that are not trained on."""
        if self.stage == "detect":
            return validate(self.network, self._validation)
        return validate_reader(self.network.reader, self._validation)

    def validation_objective(self, results):
        """Return what the F1 score lacks, or the loss of the reader."""
        return 1 - results["best_f1"] if self.stage == "detect" else results["reading_loss"]


def validate(network, batches: list[DiskBatch]) -> dict[str, float]:
    """Measure a detector on simulated patterns.

    Returns
    -------
    dict of float
        ``threshold``, the lowest confidence with a precision of :data:`PRECISION`; ``f1``, ``precision`` and ``recall``
        there; ``best_f1`` of all thresholds; ``position_error``: root mean square in disk radii of what is found;
        ``intensity``: rank correlation with the true one.
    """
    training = network.training
    network.eval()
    with torch.inference_mode():
        found = [network.predict(b.patterns, b.probe, 96) for b in batches]
    network.train(training)
    scores = scores_at(_THRESHOLDS.tolist(), found, batches, network.radius)
    best_f1 = max(score.f1 for score in scores.values())
    # one that has learnt nothing yet is nowhere so precise: the threshold with the best F1 then
    precise = [t for t, score in scores.items() if score.precision >= PRECISION and score.n_hits]
    threshold = min(precise, default=max(scores, key=lambda t: scores[t].f1))
    at = scores[threshold]
    return {
        "f1": at.f1, "precision": at.precision, "recall": at.recall, "threshold": threshold, "best_f1": best_f1,
        "position_error": at.position_error / network.radius, "intensity": at.rank_correlation,
    }  # fmt: skip


def scores_at(thresholds: list[float], found: list[Disks], batches: list[DiskBatch], radius: float):
    """Compare detections with the truth, one to one, for several thresholds of the confidence.

    Parameters
    ----------
    thresholds : list of float
        Least confidences of detections that are counted.
    found : list of Disks
        What was found in the patterns of each batch, in px.
    batches : list of DiskBatch
        Their visible disks should be found; those that count, but are not visible, count neither way.
    radius : float
        Of the disks in px.

    Returns
    -------
    dict of float to DiskScore
    """
    detections, confidences, truth, doubtful = [], [], [], []
    for disks, batch in zip(found, batches, strict=True):
        columns = (
            torch.stack([disks.row, disks.column, disks.intensity], dim=-1), disks.confidence,
            torch.cat([batch.positions, batch.electrons[..., None]], dim=-1), batch.visible,
            batch.positions, batch.counted & ~batch.visible,
        )  # fmt: skip
        for where, confidence, disk, visible, position, neither in zip(*(x.cpu().numpy() for x in columns)):
            detections.append(where)
            confidences.append(confidence)
            truth.append(disk[visible])
            doubtful.append(position[neither])
    scores = {}
    for threshold in thresholds:
        kept = [some[confidence >= threshold] for some, confidence in zip(detections, confidences, strict=True)]
        scores[threshold] = score_disks(kept, truth, doubtful, HIT_RADII * radius)
    return scores


def validate_reader(reader, batches: list[ReadingBatch]) -> dict[str, float]:
    """Measure a reader on simulated disks.

    Returns
    -------
    dict of float
        ``position_error``: root mean square in disk radii; ``expected_error``: what it expects; ``near_error``: root
        mean square error of excitation errors within three half ranges, in half ranges; ``near_sign``: share of those
        with the right sign; ``potential``: rank correlation of the potential with the true one; ``reading_loss``: the
        loss.
    """
    training = reader.training
    reader.eval()
    with torch.inference_mode():
        read = [reader(b.views) for b in batches]
        loss = torch.stack([reader.loss(*b)[0] for b in batches]).mean()
    reader.train(training)
    read = type(read[0])(*map(torch.cat, zip(*read, strict=True)))
    truth = type(batches[0].truth)(*map(torch.cat, zip(*(b.truth for b in batches), strict=True)))
    near = truth.has_distance & (truth.distance.abs() < _NEAR)
    distance = torch.tanh(read.side / 2) * read.distance.clamp(0, 6).sinh()  # the mean of both signs, as it is told
    wrong = (distance - truth.distance)[near]
    phases = torch.stack([read.log_phase, truth.log_phase], dim=1)[truth.has_phase]
    return {
        "position_error": float((read.offset - truth.offset).square().sum(1).mean().sqrt()),
        "expected_error": float((2 * read.log_error).exp().sum(1).mean().sqrt()),
        "near_error": float(wrong.square().mean().sqrt()),
        "near_sign": float((distance * truth.distance > 0)[near].float().mean()),
        "potential": rank_correlation(phases.cpu().numpy()),
        "reading_loss": float(loss),
    }


#: What the bundled detector is measured on, and so not trained on, nor on what diffracts like it
HELD_OUT = ("Al", "Cu", "Si", "Ag", "MgO", "LiNiO2")
# Atoms of the largest cells that it is trained on
_MAX_ATOMS = 100


def training_phases(show_progressbar: bool | None = None) -> Structures:
    """Crystals on which the bundled detector is trained: those of the embedded table, but for :data:`HELD_OUT`.

    Parameters
    ----------
    show_progressbar : bool, optional
        By default HyperSpy's preference.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*atoms.*")  # the largest cells are left out, as is meant
        return structures("prototypes", exclude=HELD_OUT, max_atoms=_MAX_ATOMS, show_progressbar=show_progressbar)


def _named(phases: list, most: int = 12) -> str:
    """Names of phases, or of the first of many."""
    names = ", ".join(p.name for p in phases[:most])
    return names if len(phases) <= most else f"{names} and {len(phases) - most} more"


def divided(phases: list, configuration: BraggConfiguration) -> tuple[list, list]:
    """Crystals to train on, and others to validate with; the same ones where there are fewer than three."""
    if len(phases) < 3 or configuration.validation_share == 0:
        return phases, phases
    n = min(max(1, round(configuration.validation_share * len(phases))), len(phases) - 1)
    chosen = set(random.Random(configuration.seed).sample(range(len(phases)), n))
    return [p for i, p in enumerate(phases) if i not in chosen], [phases[i] for i in sorted(chosen)]


def train_bragg(
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
) -> BraggModel:
    """Train a disk detector on simulated convergent-beam patterns.

    Parameters
    ----------
    phases : orix.crystal_map.Phase, path of a CIF file, or a list of these, optional
        Crystals whose patterns it is trained on; by default those of
        :func:`training_phases`.  The detector is for any crystal.
    output : path
        The model's folder; made if it is not there.
    max_minutes : float, optional
        Time limit, by default 115.
    resume : bool
        Go on from the checkpoint of an interrupted training in the same folder.
    overwrite : bool
        Replace a model that is in the folder already.
    device : str
        "auto" (CUDA, else CPU), "cpu" or "cuda".
    show_progressbar : bool, optional
        By default HyperSpy's preference.
    name, description : str, optional
        Of the model; the name is by default the folder's.
    **settings
        Further fields of :class:`BraggConfiguration`.

    Returns
    -------
    BraggModel
        The trained model; the same as ``load_model(output)``.

    Raises
    ------
    ValueError, FileNotFoundError
        For phases, settings or a device that cannot be trained with, and for the checkpoint of
        another training in the folder.
    FileExistsError
        If the folder already holds a model.
    KeyboardInterrupt
        If the training is interrupted; the same call continues it.
    """
    if max_minutes is not None:
        settings["max_minutes"] = max_minutes
    check_names(settings, BraggConfiguration)
    configuration = BraggConfiguration(**settings)
    phases = training_phases(show_progressbar) if phases is None else phases
    phases = phases if isinstance(phases, Structures) else load_phases(phases)
    output = Path(output)
    name = name or output.name
    work = begin(output, phases, configuration, resume=resume, overwrite=overwrite, titles=(name, description))
    root, precision = device_and_precision(device)

    learnt, held_out = divided(phases, configuration)

    def batches(phases: list, seed: int, stage: str, uses: int = 2) -> DiskBatches:
        simulator = DiskSimulator(phases, settings=configuration.simulation, seed=seed, device=root)
        return (DiskBatches if stage == "detect" else ReadingBatches)(simulator, configuration.batch_size, uses)

    network = build_network(
        "fcunet", radius=configuration.simulation.radius, **configuration.network
    ).to(root)
    say(
        f"Training {name}: disks of {_named(phases)}; "
        f"{configuration.max_minutes:g} minutes on {root}, precision {precision}"
    )
    modules = {}
    for i, stage in enumerate(configuration.stages()):
        if stage == "read":
            network.to(root).add_reader()  # Lightning has moved it to the CPU
        fresh = batches(held_out, configuration.seed + 1_000_000, stage, uses=1)
        validation = [fresh.make() for _ in range(VALIDATION_BATCHES)]
        learnt_from = batches(learnt, configuration.seed + i, stage)
        modules[stage] = BraggTraining(network, configuration, stage, learnt_from, validation)
        fit(modules[stage], work / stage, root, precision, show_progressbar)
    model = BraggModel(
        network_name="fcunet",
        network=network.float().cpu(),
        domain={"disk_radius": [configuration.simulation.native_radius[0], _LARGEST_RADIUS]},
        thresholds={"confidence": round(modules["detect"].results["threshold"], 3)},
        name=name,
        description=description or "Bragg disks of any crystal",
        training=json.loads(json.dumps(asdict(configuration))),
        provenance=provenance(modules.values(), root, precision),
    )
    model.save(
        output, dtype=torch.float16,
        card=bragg_card(model, modules, phases, [] if held_out is phases else held_out, VISIBLE),
        training_log=join_logs(work, configuration.stages()), crystals=manifest_of(phases),
    )  # fmt: skip
    shutil.rmtree(work, ignore_errors=True)
    return model
