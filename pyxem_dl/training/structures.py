"""Training of networks that tell structures in atomic-resolution images, from crystals alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import product
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import IterableDataset

from pyxem_dl.checks import whole_number
from pyxem_dl.crystals import load_phases
from pyxem_dl.frames import lab_to_image
from pyxem_dl.models.structure import StructureModel
from pyxem_dl.networks import build_network
from pyxem_dl.networks.images.spectra import LARGEST_PIXEL, SMALLEST_PIXEL, SpectrumGrid
from pyxem_dl.simulation.columns import ProjectedCrystal, draw_columns, project_columns
from pyxem_dl.simulation.windows import WindowSettings, WindowSimulator
from pyxem_dl.training.configuration import LearningConfiguration, check_names
from pyxem_dl.training.learning import ClockedTraining
from pyxem_dl.training.report import join_logs, provenance, structure_card
from pyxem_dl.training.running import begin, device_and_precision, fit

if TYPE_CHECKING:
    from pyxem_dl.annotations import Phases

# Windows of the validation, of a store from which batches are drawn, and how often each is used
_VALIDATION, _STORE, _USES = 1024, 1024, 3
#: Share of windows of known structures that the threshold rejects
LOSS = 0.05
# Correlation of spectra, at the best scale and angle, from which two classes cannot be told apart; scales tried
_ALIKE, _SCALES = 0.985, 15


@dataclass(frozen=True, kw_only=True)
class StructureConfiguration(LearningConfiguration):
    """All that the training of a structure model is made of; saved with the weights.

    Parameters
    ----------
    tolerance : float
        Of the calibration, relative: within it two classes that look alike are named as alternatives.
    simulation : WindowSettings
        What windows look like.
    **further
        Those of :class:`~pyxem_dl.training.configuration.LearningConfiguration`; `network` holds arguments of
        :class:`~pyxem_dl.networks.images.StructureNetwork`.
    """

    max_minutes: float = 5.0
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    validation_minutes: float = 1.0
    tolerance: float = 0.05
    simulation: WindowSettings = field(default_factory=WindowSettings)


class WindowBatches(IterableDataset):
    """Endless batches of spectra, labels and angles; every window is used a few times.

    Parameters
    ----------
    simulator : WindowSimulator
        Of the windows.
    grid : SpectrumGrid
        Of the spectra.
    batch_size : int
        Windows in a batch.
    """

    def __init__(self, simulator: WindowSimulator, grid: SpectrumGrid, batch_size: int) -> None:
        self.simulator, self.grid, self.batch_size = simulator, grid, batch_size

    def reseed(self, seed: int) -> None:
        """Go on with other windows."""
        self.simulator.rng = np.random.default_rng(seed)

    def make(self, n: int, **given) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Simulate n windows: spectra (n, 1, n_k, n_phi), labels (n,), and angles (n,) in radians."""
        parts = []
        for start in range(0, n, 256):
            with torch.no_grad():
                made = self.simulator(min(256, n - start), **given)
                parts.append((self.grid(made.images, made.pixel), made.label, made.angle))
        return tuple(map(torch.cat, zip(*parts)))

    def __iter__(self) -> Iterator:
        while True:
            store = self.make(max(self.batch_size, _STORE // 4))
            for _ in range(_USES):
                order = torch.randperm(len(store[0]))
                for chosen in order.split(self.batch_size):
                    if len(chosen) == self.batch_size:
                        yield tuple(column[chosen] for column in store)


class StructureTraining(ClockedTraining):
    """Loss and validation of a structure network.

    Parameters
    ----------
    network : StructureNetwork
        To be trained.
    configuration : StructureConfiguration
        Of the training.
    batches : WindowBatches
        To train on.
    validation : tuple of tensor
        Spectra, labels and angles that are not trained on.
    """

    def __init__(self, network, configuration, batches, validation) -> None:
        super().__init__(configuration, "train", batches)
        self.network, self._validation = network, validation

    @property
    def trainable(self):
        """The network."""
        return self.network

    def training_step(self, batch, _):
        """Return the loss of a batch."""
        loss = self.network.loss(*batch)
        self.patterns_seen += len(batch[0])
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_results(self) -> dict[str, float]:
        """Shares that are right, and what separates the classes from all else."""
        return validate_structures(self.network, self._validation)

    def validation_objective(self, results):
        """Return what is not right."""
        return 2 - results["right"] - results["auroc"]


def validate_structures(network, validation) -> dict[str, float]:
    """Measure a network on windows.

    Returns
    -------
    dict of float
        ``right``: share of windows of classes with the right class, what is none left aside; ``auroc`` of the
        probability of "none"; ``threshold`` at which 5 % of the windows of classes are lost, and ``rejected``, the
        share of the others then; ``rotation``: median error in degrees; ``calibration``: expected calibration error.
    """
    spectra, label, angle = validation
    training = network.training
    network.eval()
    with torch.inference_mode():
        parts = [network.probabilities(network.features(x.to(next(network.parameters()).device)))
                 for x in spectra.split(256)]  # fmt: skip
    network.train(training)
    p, found = (torch.cat(column).cpu() for column in zip(*parts))
    return structure_scores(p, found, label, angle, network.folds)


def structure_scores(p, found, label, angle, folds) -> dict[str, float]:
    """Compare what is said of windows with what they are.

    Parameters
    ----------
    p : tensor, shape (n, classes + 1)
        Probabilities, the last of none of the classes.
    found : tensor, shape (n, classes)
        Angles in radians.
    label, angle : tensor, shape (n,)
        The truth.
    folds : sequence of int
        By which fraction of a turn classes look the same again.

    Returns
    -------
    dict of float
        As :func:`validate_structures`.
    """
    known = label < p.shape[1] - 1
    best = p[:, :-1].argmax(1)
    right = best == label
    other = p[:, -1]
    threshold = float(other[known].quantile(1 - LOSS))
    ranks = torch.argsort(torch.argsort(other)).double()
    n, m = int(known.sum()), int((~known).sum())
    auroc = float((ranks[~known].sum() - m * (m - 1) / 2) / max(n * m, 1))
    chosen = known & right
    fold = torch.tensor([*folds, 2])[label[chosen]]
    off = fold * (found[chosen, label[chosen]] - angle[chosen])
    rotation = torch.rad2deg(torch.atan2(off.sin(), off.cos()) / fold).abs().median()
    sure = p.max(1)
    hit = (sure.indices == label).float()
    bins = (sure.values * 15).long().clamp(0, 14)
    gap = sum(float((sure.values[bins == i] - hit[bins == i]).sum().abs()) for i in range(15)) / len(label)
    return {
        "right": float(right[known].float().mean()), "auroc": auroc, "threshold": threshold,
        "rejected": float((other[~known] > threshold).float().mean()), "rotation": float(rotation), "calibration": gap,
    }  # fmt: skip


# ---------------------------------------------------------------- classes
def low_index_axes(phase, most: int = 4, largest: int = 2) -> list[tuple[int, int, int]]:
    """Zone axes of low indices that symmetry does not make equal: those with the longest spacings of columns first.

    Parameters
    ----------
    phase : orix.crystal_map.Phase
        Of which.
    most : int
        How many.
    largest : int
        Index.
    """
    operations = np.round(phase.point_group.laue.to_matrix(), 6)
    base = np.asarray(phase.structure.lattice.base, dtype=float)
    found, seen = [], []
    for axis in sorted(product(range(-largest, largest + 1), repeat=3), key=lambda n: (sum(map(abs, n)), n)):
        if gcd(*axis) != 1:
            continue
        direction = np.array(axis) @ base
        if any(np.abs(operations @ direction - other).max(1).min() < 1e-3 for other in seen):
            continue
        seen.append(direction)
        found.append((np.abs(np.linalg.det(project_columns(phase, axis).basis)), axis))
    found.sort(key=lambda each: -round(each[0], 3))
    return [tuple(int(abs(n)) if max(axis) <= 0 else int(n) for n in axis) for _, axis in found[:most]]


def find_alternatives(crystals: list[ProjectedCrystal], grid: SpectrumGrid, tolerance: float) -> list[list[int]]:
    """Say which classes cannot be told apart when the calibration is off by so much.

    Parameters
    ----------
    crystals : list of ProjectedCrystal
        The classes.
    grid : SpectrumGrid
        Of the spectra in which they are seen.
    tolerance : float
        Of the calibration, relative.

    Returns
    -------
    list of list of int
        Of each class the others.
    """
    spectra = [_plain_spectrum(crystal, grid, 1.0) for crystal in crystals]
    scales = np.linspace(1 - tolerance, 1 + tolerance, _SCALES)
    found = [[] for _ in crystals]
    for j, crystal in enumerate(crystals):
        scaled = torch.stack([_plain_spectrum(crystal, grid, s) for s in scales])
        turned = torch.stack([scaled.roll(i, 2) for i in range(grid.n_phi)], 1)
        for i, own in enumerate(spectra):
            if i != j and float((turned * own).sum((2, 3)).max()) > _ALIKE:
                found[i].append(j)
                if i not in found[j]:
                    found[j].append(i)
    return [sorted(set(others)) for others in found]


def _plain_spectrum(crystal: ProjectedCrystal, grid: SpectrumGrid, scale: float) -> torch.Tensor:
    """Spectrum of a crystal without faults, with a mean of 0 and a length of 1."""
    pixel = 0.2
    size = int(grid.window / pixel) + 1
    places, weights = crystal.within((0, 0), grid.window)
    rows, columns, weights = (
        torch.tensor(x, dtype=torch.float32)
        for x in (*(each * scale / pixel + size / 2 for each in lab_to_image(*places.T)), weights / weights.max())
    )
    image = draw_columns(rows, columns, weights, 0.4 / pixel, (size, size))
    image = image * 50 / image.mean() + 20
    noisy = torch.poisson(image.expand(8, size, size), torch.Generator().manual_seed(0))
    spectrum = grid(noisy, torch.full((8,), pixel)).mean(0)[0]
    spectrum = spectrum - spectrum.mean()
    return spectrum / spectrum.norm()


# ---------------------------------------------------------------- the training
def train_structures(
    phases: Phases,
    zone_axes: str | list = "low-index",
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
) -> StructureModel:
    """Train a model that tells in atomic-resolution images which crystal is seen along which zone axis.

    Parameters
    ----------
    phases : orix.crystal_map.Phase, path of a CIF file, or a list of these
        What may be in the images.
    zone_axes : "low-index" or list
        Zone axes (u, v, w) that are told apart: a list of them for all phases, or a list of such lists, one for each
        phase.  "low-index": up to four of each phase with indices up to 2, those with the largest cells in projection.
    output : str or pathlib.Path
        The model's folder; made if it is not there.
    max_minutes : float, optional
        Time limit, by default 5.
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
        Further fields of :class:`StructureConfiguration`.

    Returns
    -------
    StructureModel
        The trained model; the same as ``load_model(output)``.  Its ``alternatives`` name the classes that cannot be
        told apart within the tolerance of the calibration.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        For phases, zone axes, settings or a device that cannot be trained with.
    FileExistsError
        If the folder already holds a model.
    KeyboardInterrupt
        If the training is interrupted; the same call continues it.
    """
    if max_minutes is not None:
        settings["max_minutes"] = max_minutes
    check_names(settings, StructureConfiguration)
    configuration = StructureConfiguration(**settings)
    phases = load_phases(phases)
    classes = _classes(phases, zone_axes)
    crystals = [project_columns(phases[i], axis) for i, axis in classes]
    output = Path(output)
    name = name or output.name
    work = begin(output, phases, configuration, resume=resume, overwrite=overwrite, titles=(name, description),
                 data=[json.dumps(classes)])  # fmt: skip
    root, precision = device_and_precision(device)
    precision = precision if root.type == "cuda" else "32-true"  # so small a network is no faster in bfloat16
    network = build_network("structure", folds=[c.fold() for c in crystals], **configuration.network).to(root)

    def batches(seed: int) -> WindowBatches:
        return WindowBatches(WindowSimulator(crystals, configuration.simulation, seed), network.grid,
                             configuration.batch_size)  # fmt: skip

    validation = batches(configuration.seed + 1_000_000).make(_VALIDATION)
    module = StructureTraining(network, configuration, batches(configuration.seed), validation)
    fit(module, work / "train", root, precision, show_progressbar)
    model = StructureModel(
        network_name="structure",
        network=network.float().cpu(),
        phases=phases,
        classes=classes,
        alternatives=find_alternatives(crystals, network.grid, configuration.tolerance),
        domain={"pixel": [SMALLEST_PIXEL, LARGEST_PIXEL]},
        thresholds={"other": round(module.results["threshold"], 4)},
        name=name,
        description=description or f"Structures in atomic-resolution images: {', '.join(p.name for p in phases)}",
        training=json.loads(json.dumps(asdict(configuration))),
        provenance=provenance([module], root, precision),
    )
    model.save(output, card=structure_card(model, module), training_log=join_logs(work, configuration.stages()))
    shutil.rmtree(work, ignore_errors=True)
    return model


def _classes(phases: list, zone_axes) -> list[tuple[int, tuple[int, int, int]]]:
    """Index of the phase and zone axis of each class."""
    if isinstance(zone_axes, str):
        if zone_axes != "low-index":
            raise ValueError(f'zone_axes must be "low-index" or a list of zone axes, not {zone_axes!r}.')
        chosen = [low_index_axes(phase) for phase in phases]
    else:
        chosen = list(zone_axes)
        if not chosen:
            raise ValueError("zone_axes is empty: give at least one zone axis, like (1, 0, 0).")
        if np.ndim(chosen[0]) == 1:
            chosen = [chosen] * len(phases)
        if len(chosen) != len(phases):
            raise ValueError(f"zone_axes has {len(chosen)} lists, for {len(phases)} phases.")
    classes = [(i, tuple(whole_number("zone_axes", n, -100, 100) for n in axis))
               for i, axes in enumerate(chosen) for axis in axes]  # fmt: skip
    if len(set(classes)) != len(classes):
        raise ValueError("A zone axis is given twice.")
    return classes
