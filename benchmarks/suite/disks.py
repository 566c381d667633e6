"""The benchmark of Bragg disks: multislice patterns with every reflection known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pyxem_dl.crystals import ReflectionTable, find_spots, reflections
from pyxem_dl.frames import Calibration, k_to_pixel
from pyxem_dl.metrics.disks import HIT_RADII, DiskScore, score_disks
from pyxem_dl.scans import make_signal
from suite.datasets import SEED, multislice_file, multislice_phase

#: Doses of the patterns: electrons per pattern in all
ELECTRONS = (1e4, 1e5, 1e6)

# What counts as a disk that can be found: excitation error and |k| in Å⁻¹, expected electrons
_EXCITATION_ERROR = 0.03
_RADIUS = 1.5
_LEAST_ELECTRONS = 20


@dataclass(frozen=True)
class BraggDisks:
    """Patterns with known disks.

    Parameters
    ----------
    title : str
        What they are, for the table.
    signal : pyxem.signals.ElectronDiffraction2D
        With one navigation dimension of n patterns.
    vacuum : array, shape (rows, columns)
        The probe, without noise.
    radius : float
        Of a disk in pixels.
    truth : list of array, shape (t, 3)
        For each pattern row, column (px) and expected electrons of its disks.
    ignored : list of array, shape (w, 2)
        Row and column (px) of all else that scatters there: weak reflections, and the direct beam.
    far : list of array, shape (f, 2)
        Row and column (px) of the crystal's reflections that are further from their Bragg condition than those.
    """

    title: str
    signal: object
    vacuum: np.ndarray
    radius: float
    truth: list
    ignored: list
    far: list


def bragg_disks(
    folder: Path,
    name: str,
    electrons: float,
    seed: int = SEED,
    *,
    semi_angle: str = "3mrad",
    scattered: bool = False,
    least: float = _LEAST_ELECTRONS,
    isolated: bool = False,
    n: int | None = None,
) -> BraggDisks:
    """Multislice patterns of a material with Poisson noise, and their disks.

    Parameters
    ----------
    folder : pathlib.Path
        The benchmark data.
    name : {"Al", "LiNiO2"}
        Material.
    electrons : float
        Expected in every pattern, in all or (`scattered`) outside of the direct beam's disk and 1.5 px around it.
    seed : int
        Of the noise.
    semi_angle : {"3mrad", "1.5mrad"}
        Convergence: disks of 10.2 px in 256 x 256, or of 2.55 px in 128 x 128.
    scattered : bool
        What `electrons` counts.
    least : float
        A true disk has more expected electrons.
    isolated : bool
        Disks within two radii of a stronger one, or of the direct beam, count neither way.
    n : int, optional
        The first so many patterns only.

    Returns
    -------
    BraggDisks
        True disks are those with ``|s| < 0.03`` and ``|k| < 1.5`` Å⁻¹ and more than `least` expected electrons.
    """
    with np.load(multislice_file(folder, name, semi_angle)) as file:
        data = {key: file[key] for key in file.files}
    images = data["images"][:n].astype(float)
    radius = float(data["disk_radius_px"])
    row, column = np.indices(images.shape[1:])
    counted = np.hypot(row - data["centre"][0], column - data["centre"][1]) > (radius + 1.5 if scattered else -1)
    factor = electrons / images[:, counted].sum(1)
    scale, energy = float(data["px"]), float(data["energy"]) / 1000
    calibration = Calibration((scale, scale), tuple(float(c) for c in data["centre"]), images.shape[1:], energy)
    patterns = np.random.default_rng(seed).poisson(images * factor[:, None, None]).astype(np.float32)
    truth, ignored = [], []
    for i in range(len(images)):
        spots, weak = (_reflections(data, kind, i, calibration) for kind in ("spot", "weak"))
        expected = spots[:, 2] * factor[i]
        visible = (spots[:, 3] < _RADIUS) & (spots[:, 4] < _EXCITATION_ERROR) & (expected > least)
        if isolated:
            visible &= _isolated(spots[:, :2], expected, calibration.center, 2 * radius)
        truth.append(np.column_stack([spots[visible, :2], expected[visible]]))
        ignored.append(np.concatenate([spots[~visible, :2], weak[:, :2], [calibration.center]]))
    title = f"multislice {name}, {semi_angle}, {electrons:.0e} electrons"
    signal = make_signal(patterns, calibration, title)
    far = _far_reflections(folder, name, data["quat"][: len(images)], calibration)
    return BraggDisks(title, signal, data["vacuum"], radius, truth, ignored, far)


def _far_reflections(folder: Path, name: str, rotations, calibration: Calibration) -> list[np.ndarray]:
    """Row and column (px) of reflections with excitation errors from 0.12 to 0.4 Å⁻¹ in patterns."""
    table = ReflectionTable.stack([reflections(multislice_phase(folder, name), 1.6)], calibration.beam_energy, "cpu")
    spots = find_spots(
        table, torch.zeros(len(rotations), dtype=torch.long), torch.as_tensor(rotations, dtype=torch.float32),
        calibration.beam_energy, n_spots=2000, max_excitation_error=0.4,
    )  # fmt: skip
    there = (spots.structure_factor > 0) & (spots.excitation_error.abs() > 0.12)
    row, column = k_to_pixel(spots.kx, spots.ky, calibration)
    positions = torch.stack([row, column], dim=-1).numpy()
    return [found[here] for found, here in zip(positions, there.numpy(), strict=True)]


def _isolated(positions, expected, center, distance: float) -> np.ndarray:
    """Tell which disks (n,) have no stronger one, and not the direct beam, nearer than `distance` px."""
    apart = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    beside = (apart < distance) & (expected[None] > expected[:, None])
    return ~beside.any(1) & (np.linalg.norm(positions - center, axis=1) >= distance)


def _reflections(data, kind: str, i: int, calibration: Calibration) -> np.ndarray:
    """Row, column (px), share of the beam, |k| and |excitation error| (Å⁻¹) of a pattern's reflections."""
    here = slice(*data[f"{kind}_ptr"][i : i + 2])
    kx, ky, s, share, hkl = (data[f"{kind}_{x}"][here] for x in ("kx", "ky", "s", "idisk", "hkl"))
    table = np.column_stack([*k_to_pixel(kx, ky, calibration), share, np.hypot(kx, ky), np.abs(s)])
    return table[np.abs(hkl).sum(1) > 0]


def score(vectors, disks: BraggDisks, threshold: float | None = None, *, with_far: bool = False) -> DiskScore:
    """Compare vectors with the known disks.

    Parameters
    ----------
    vectors : pyxem.signals.DiffractionVectors
        Of `disks.signal`, centred, with the columns ky, kx, intensity and confidence.
    disks : BraggDisks
        The truth.
    threshold : float, optional
        Only vectors with at least this confidence are taken.
    with_far : bool
        A detection at a reflection that no list has, since it is so far from its Bragg condition, counts neither way:
        at 10⁶ electrons many of these are there to be seen.
    """
    calibration = Calibration.from_signal(disks.signal)
    found = []
    for table in vectors.data:
        table = table if threshold is None else table[table[:, 3] >= threshold]
        # pyxem's y axis runs downwards, along the rows
        positions = table[:, :2] / calibration.scale + calibration.center
        found.append(np.column_stack([positions, table[:, 2]]))
    ignored = disks.ignored
    if with_far:
        ignored = [np.concatenate(both) for both in zip(ignored, disks.far, strict=True)]
    return score_disks(found, disks.truth, ignored, HIT_RADII * disks.radius)
