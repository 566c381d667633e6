"""Training of the disk detector on simulated convergent-beam patterns."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.utils.data import IterableDataset

from pyxem_dl.crystals import load_phases
from pyxem_dl.messages import say
from pyxem_dl.metrics.disks import HIT_RADII, score_disks
from pyxem_dl.models import BraggModel
from pyxem_dl.networks import Disks, build_network
from pyxem_dl.patterns.patches import cut_patches, probe_patch
from pyxem_dl.simulation.disks import DiskSettings, DiskSimulator
from pyxem_dl.training.configuration import LearningConfiguration, check_names
from pyxem_dl.training.learning import ClockedTraining
from pyxem_dl.training.report import bragg_card, join_logs, provenance
from pyxem_dl.training.running import begin, device_and_precision, fit

if TYPE_CHECKING:
    from pyxem_dl.annotations import Phases

# Larger disks are binned: nothing else changes.  In px.
_LARGEST_RADIUS = 40.0

VALIDATION_BATCHES = 40
# A disk is a target if it stands out of the noise of counting it by this factor; below the second nobody could see it.
# Between the two a prediction counts neither way.  With 4 instead of 2.75 it learns to pass over disks of 20 electrons.
_VISIBLE, _INVISIBLE = 2.75, 0.8
# So far from its Bragg condition (Å⁻¹) a reflection is a target; further than the second it is none, however
# many electrons make it visible.  Between the two a prediction counts neither way.
_EXCITED, _NOT_EXCITED = 0.05, 0.12
_SETUP_SIZE = 8
# How far off (radii) disks are found before they are localised: most a little, some far
_OFF, _FAR_OFF, _FAR_SHARE, _FURTHEST = 0.12, 0.4, 0.15, 0.8
_THRESHOLDS = torch.linspace(0.05, 0.9, 35)


@dataclass(frozen=True, kw_only=True)
class BraggConfiguration(LearningConfiguration):
    """All that the training of a disk detector is made of; saved with the weights.

    Parameters
    ----------
    placement_share : float
        Of the time, for the sub-pixel localisation of the disks.
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
    placement_share: float = 0.25
    simulation: DiskSettings = field(default_factory=DiskSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("learning_rate")
        self._check_batch_size(_SETUP_SIZE)
        if not 0 <= self.placement_share < 1:
            raise ValueError(f"placement_share must be at least 0 and below 1, not {self.placement_share!r}.")

    @property
    def shares(self) -> dict[str, float]:
        """The U-Net learns to find disks, then the localisation learns where exactly they are."""
        return {"detect": 1 - self.placement_share, "place": self.placement_share}


class DiskBatch(NamedTuple):
    """Patterns (n, size, size) with probes of the same shape, and the truth of their disks."""

    patterns: torch.Tensor
    probe: torch.Tensor
    positions: torch.Tensor
    electrons: torch.Tensor
    visible: torch.Tensor
    counted: torch.Tensor


class DiskBatches(IterableDataset):
    """Endless batches of simulated patterns with disks.

    Parameters
    ----------
    simulator : DiskSimulator
        Makes the patterns.
    batch_size : int
        Patterns in a batch.
    """

    def __init__(self, simulator: DiskSimulator, batch_size: int) -> None:
        self.simulator, self.n_setups = simulator, max(1, batch_size // _SETUP_SIZE)

    def make(self) -> DiskBatch:
        """Make one batch of several setups."""
        with torch.no_grad():
            parts = [self.simulator(_SETUP_SIZE) for _ in range(self.n_setups)]
        probes = torch.cat([p.probe.expand(_SETUP_SIZE, -1, -1) for p in parts])
        most = max(p.electrons.shape[1] for p in parts)
        patterns = torch.cat([p.patterns for p in parts])
        positions = torch.cat([_widened(p.positions, most) for p in parts])
        electrons, significance, error = (
            torch.cat([_widened(getattr(p, name), most) for p in parts])
            for name in ("electrons", "significance", "excitation_error")
        )
        inside = ((positions >= 0) & (positions <= patterns.shape[-1] - 1)).all(-1)
        there = inside & (electrons > 0)
        return DiskBatch(
            patterns, probes, positions, electrons,
            visible=there & (significance > _VISIBLE) & (error.abs() < _EXCITED),
            counted=there & (significance > _INVISIBLE) & (error.abs() < _NOT_EXCITED),
        )  # fmt: skip

    def reseed(self, seed: int) -> None:
        """Go on with other patterns."""
        self.simulator.reseed(seed)

    def __iter__(self) -> Iterator:
        while True:
            yield self.make()


class LocalisationBatch(NamedTuple):
    """Surroundings of disks (p, size, size), their probes, and where the centres are: (p, 2), in radii."""

    patches: torch.Tensor
    probe: torch.Tensor
    offset: torch.Tensor


class LocalisationBatches(DiskBatches):
    """Endless batches of the surroundings of disks, found a little beside where they are.

    Parameters
    ----------
    simulator : DiskSimulator
        Makes the patterns.
    batch_size : int
        Patterns whose disks are in a batch.
    """

    def make(self) -> LocalisationBatch:
        """Make one batch of several setups."""
        with torch.no_grad():
            parts = [self._disks_of(self.simulator(_SETUP_SIZE)) for _ in range(self.n_setups)]
        return LocalisationBatch(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _disks_of(self, p) -> LocalisationBatch:
        rows, columns = p.counts.shape[1:]
        there = (p.electrons > 0) & (p.significance > _VISIBLE) & (p.excitation_error.abs() < _EXCITED)
        there &= (p.places >= 0).all(-1) & (p.places[..., 0] <= rows - 1) & (p.places[..., 1] <= columns - 1)
        pattern, which = there.nonzero(as_tuple=True)
        draw = self.simulator
        far = draw._happens(_FAR_SHARE, len(pattern))[:, None]
        off = torch.where(far, _FAR_OFF, _OFF) * draw._normal(len(pattern), 2)
        off = off.clamp(-_FURTHEST, _FURTHEST)
        patches = cut_patches(p.counts, pattern, p.places[pattern, which] + off * p.radius, p.radius)
        probe = probe_patch(p.probe, draw.settings.radius)
        return LocalisationBatch(patches, probe.expand(len(pattern), -1, -1), -off)


def _widened(column: torch.Tensor, most: int) -> torch.Tensor:
    missing = most - column.shape[1]
    return torch.cat([column, column.new_zeros(len(column), missing, *column.shape[2:])], dim=1)


class BraggTraining(ClockedTraining):
    """Loss and validation of the disk detector.

    Parameters
    ----------
    network : FCUNet
        To be trained.
    configuration : BraggConfiguration
        Of the training.
    stage : {"detect", "place"}
        What is learnt.
    batches : DiskBatches or LocalisationBatches
        To train on.
    validation : list of DiskBatch or of LocalisationBatch
        Not trained on.
    """

    def __init__(self, network, configuration, stage, batches, validation) -> None:
        super().__init__(configuration, stage, batches)
        self.network, self._validation = network, validation

    @property
    def trainable(self):
        """The network, or its sub-pixel localisation alone."""
        return self.network if self.stage == "detect" else self.network.placement

    def training_step(self, batch, _):
        """Return the loss of a batch."""
        loss, parts = self.network.loss(*batch) if self.stage == "detect" else (self.trainable.loss(*batch), {})
        self.patterns_seen += self.configuration.batch_size
        self.log("loss", loss, prog_bar=True)
        self.log_dict({f"loss_{name}": value for name, value in parts.items()})
        return loss

    def validation_results(self) -> dict[str, float]:
        """Precision, recall and errors on patterns that are not trained on."""
        if self.stage == "detect":
            return validate(self.network, self._validation)
        return validate_localisation(self.network.placement, self._validation)

    def validation_objective(self, results):
        """Return what the F1 score lacks, or the error of the localisation in radii."""
        return 1 - results["f1"] if self.stage == "detect" else results["position_error"]


def validate(network, batches: list[DiskBatch]) -> dict[str, float]:
    """Measure a detector on simulated patterns.

    Returns
    -------
    dict of float
        ``threshold`` with the best ``f1``, ``precision`` and ``recall`` there;
        ``position_error``: root mean square in disk radii of what is found; ``intensity``: rank
        correlation with the true one.
    """
    training = network.training
    network.eval()
    with torch.inference_mode():
        found = [network.predict(b.patterns, b.probe, 96) for b in batches]
    network.train(training)
    scores = scores_at(_THRESHOLDS.tolist(), found, batches, network.radius)
    threshold, best = max(scores.items(), key=lambda item: item[1].f1)
    return {
        "f1": best.f1, "precision": best.precision, "recall": best.recall, "threshold": threshold,
        "position_error": best.position_error / network.radius, "intensity": best.rank_correlation,
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


def validate_localisation(localisation, batches: list[LocalisationBatch]) -> dict[str, float]:
    """Measure a sub-pixel localisation on simulated disks.

    Returns
    -------
    dict of float
        ``position_error``: root mean square in disk radii; ``expected_error``: what it expects.
    """
    training = localisation.training
    localisation.eval()
    with torch.inference_mode():
        found = [localisation(b.patches, b.probe) for b in batches]
    localisation.train(training)
    error = torch.cat([(offset - b.offset).square().sum(1) for (offset, _), b in zip(found, batches, strict=True)])
    expected = torch.cat([2 * (2 * log_error).exp() for _, log_error in found])
    return {"position_error": float(error.mean().sqrt()), "expected_error": float(expected.mean().sqrt())}


#: Crystals on which the bundled detector is trained: space group, cell (Angstrom, degrees), atoms.
PHASES = {
    "Cu": (225, (3.615, 3.615, 3.615, 90, 90, 90), [("Cu", (0, 0, 0))]),
    "Si": (227, (5.431, 5.431, 5.431, 90, 90, 90), [("Si", (0, 0, 0))]),
    "Fe": (229, (2.867, 2.867, 2.867, 90, 90, 90), [("Fe", (0, 0, 0))]),
    "Ti": (194, (2.951, 2.951, 4.686, 90, 90, 120), [("Ti", (1 / 3, 2 / 3, 0.25))]),
    "TiO2": (136, (4.594, 4.594, 2.959, 90, 90, 90), [("Ti", (0, 0, 0)), ("O", (0.305, 0.305, 0))]),
    "SrTiO3": (
        221, (3.905, 3.905, 3.905, 90, 90, 90), [("Sr", (0, 0, 0)), ("Ti", (0.5, 0.5, 0.5)), ("O", (0.5, 0.5, 0))]
    ),
    "GaN": (186, (3.189, 3.189, 5.185, 90, 90, 120), [("Ga", (1 / 3, 2 / 3, 0)), ("N", (1 / 3, 2 / 3, 0.377))]),
    "Al2O3": (167, (4.759, 4.759, 12.993, 90, 90, 120), [("Al", (0, 0, 0.352)), ("O", (0.306, 0, 0.25))]),
    "MoS2": (194, (3.160, 3.160, 12.294, 90, 90, 120), [("Mo", (1 / 3, 2 / 3, 0.25)), ("S", (1 / 3, 2 / 3, 0.621))]),
    "YBa2Cu3O7": (
        47, (3.823, 3.887, 11.68, 90, 90, 90),
        [("Y", (0.5, 0.5, 0.5)), ("Ba", (0.5, 0.5, 0.184)), ("Cu", (0, 0, 0)), ("Cu", (0, 0, 0.355)),
         ("O", (0, 0.5, 0)), ("O", (0, 0, 0.159)), ("O", (0.5, 0, 0.378)), ("O", (0, 0.5, 0.377))],
    ),
    "W": (229, (3.165, 3.165, 3.165, 90, 90, 90), [("W", (0, 0, 0))]),
}  # fmt: skip


def training_phases() -> list:
    """Crystals of :data:`PHASES` as orix phases with full cells."""
    from diffpy.structure import Atom, Lattice, Structure
    from orix.crystal_map import Phase

    from pyxem_dl.crystals import load_phases

    return load_phases([
        Phase(name, space_group=group, structure=Structure([Atom(*a) for a in atoms], Lattice(*cell)))
        for name, (group, cell, atoms) in PHASES.items()
    ])  # fmt: skip


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
        Crystals whose patterns it is trained on; by default the eleven of :data:`PHASES`.  The
        detector is for any crystal.
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
    phases = training_phases() if phases is None else load_phases(phases)
    output = Path(output)
    name = name or output.name
    work = begin(output, phases, configuration, resume=resume, overwrite=overwrite, titles=(name, description))
    root, precision = device_and_precision(device)

    def batches(seed: int, stage: str) -> DiskBatches:
        simulator = DiskSimulator(phases, settings=configuration.simulation, seed=seed, device=root)
        return (DiskBatches if stage == "detect" else LocalisationBatches)(simulator, configuration.batch_size)

    network = build_network(
        "fcunet", radius=configuration.simulation.radius, **configuration.network
    ).to(root)
    say(
        f"Training {name}: disks of {', '.join(p.name for p in phases)}; "
        f"{configuration.max_minutes:g} minutes on {root}, precision {precision}"
    )
    modules = {}
    for i, stage in enumerate(configuration.stages()):
        if stage == "place":
            network.to(root).add_localisation()  # Lightning has moved it to the CPU
        fresh = batches(configuration.seed + 1_000_000, stage)
        validation = [fresh.make() for _ in range(VALIDATION_BATCHES)]
        learnt_from = batches(configuration.seed + i, stage)
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
        card=bragg_card(model, modules, phases, _VISIBLE),
        training_log=join_logs(work, configuration.stages()),
    )  # fmt: skip
    shutil.rmtree(work, ignore_errors=True)
    return model
