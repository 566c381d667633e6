"""The benchmark of Bragg disks: multislice patterns with every reflection known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import KDTree
from scipy.spatial.distance import cdist

from pyxem_dl.crystals import near_ewald_sphere, structure_factors
from pyxem_dl.electrons import POTENTIAL, electron_wavelength
from pyxem_dl.frames import Calibration, k_to_pixel, out_of_plane, pixel_to_k
from pyxem_dl.metrics.disks import HIT_RADII, DiskScore, match_points, rank_correlation, score_disks
from pyxem_dl.scans import make_signal
from pyxem_dl.training.disk_batches import VISIBLE
from suite.datasets import SEED, multislice_file, multislice_phase

#: Doses of the patterns: electrons per pattern in all
ELECTRONS = (1e4, 1e5, 1e6)

# What counts as a disk that can be found: excitation error and |k| in Å⁻¹, expected electrons
_EXCITATION_ERROR = 0.03
_RADIUS = 1.5
_LEAST_ELECTRONS = 20
# Where a detection counts neither way: points of the lattice so near to the Ewald sphere and to the origin (Å⁻¹)
_LATTICE_DISTANCE, _LATTICE_RADIUS = 0.3, 2.3
#: What a true disk may be: with nothing near it; within two radii of one with more than a tenth of its electrons; cut
#: by the frame
KINDS = ("isolated", "overlapped", "cut")
_COVERS = 0.1
# Patterns with fewer disks do not tell whether potentials are in the right order
_LEAST_DISKS = 5
# Half ranges of a disk within which its reflection is near Bragg's condition
_NEAR = 3.0
# Å², of the multislice patterns (see the data's README)
_DEBYE_WALLER = 0.49


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
    kinds : list of array of int, shape (t,)
        For each true disk whether it is isolated (0), overlapped (1) or cut by the frame (2): see :data:`KINDS`.
    details : list of array, shape (t, 3)
        Of each true disk excitation error and half range (Å⁻¹), and V_g x thickness (V Å).
    ignored : list of array, shape (w, 2)
        Row and column (px) of all points of the lattice, allowed or forbidden, within 0.3 Å⁻¹ of the Ewald sphere that
        are none of the true ones, and of the direct beam: what is found there counts neither way, unless it is a true
        disk's second detection.
    expected : array, shape (n, rows, columns), optional
        Electrons, without noise.
    """

    title: str
    signal: object
    vacuum: np.ndarray
    radius: float
    truth: list
    kinds: list
    details: list
    ignored: list
    expected: np.ndarray | None = None


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
    truth, kinds, details, ignored = [], [], [], []
    potential = _Potential(folder, name)
    lattice = _lattice_points(folder, name, data["quat"][: len(images)], calibration)
    for i in range(len(images)):
        spots, weak = (_reflections(data, kind, i, calibration) for kind in ("spot", "weak"))
        expected = spots[:, 2] * factor[i]
        visible = (spots[:, 3] < _RADIUS) & (np.abs(spots[:, 4]) < _EXCITATION_ERROR) & (expected > least)
        if isolated:
            visible &= _isolated(spots[:, :2], expected, calibration.center, 2 * radius)
        truth.append(np.column_stack([spots[visible, :2], expected[visible]]))
        beam = [*calibration.center, factor[i] * float(data["i000"][i])]
        everything = np.concatenate([x[:, :3] * [1, 1, factor[i]] for x in (spots, weak)] + [[beam]])
        kinds.append(_kinds(truth[-1], everything, images.shape[1:], radius))
        half_range = electron_wavelength(energy) * spots[visible, 3] * radius * scale
        volts = potential(spots[visible, 5:]) * float(data["thickness"][i])
        details.append(np.column_stack([spots[visible, 4], half_range, volts]))
        # the true ones are points of the lattice, too
        others = lattice[i][(cdist(lattice[i], truth[-1][:, :2]) > 1).all(1)]
        ignored.append(np.concatenate([spots[~visible, :2], weak[:, :2], others, [calibration.center]]))
    title = f"multislice {name}, {semi_angle}, {electrons:.0e} electrons"
    signal = make_signal(patterns, calibration, title)
    expected = (images * factor[:, None, None]).astype(np.float32)
    return BraggDisks(title, signal, data["vacuum"], radius, truth, kinds, details, ignored, expected)


class _Potential:
    """Moduli of V_g in volts of a benchmark crystal's reflections, with the damping that its patterns have."""

    def __init__(self, folder: Path, name: str) -> None:
        self.phase = multislice_phase(folder, name)

    def __call__(self, hkl) -> np.ndarray:
        hkl = np.asarray(hkl).astype(int)
        limits = np.abs(hkl).max(axis=0, initial=0)
        factors = np.abs(structure_factors(self.phase, limits, _DEBYE_WALLER))
        return POTENTIAL / self.phase.structure.lattice.volume * factors[tuple((hkl + limits).T)]


def _lattice_points(folder: Path, name: str, rotations, calibration: Calibration) -> list[np.ndarray]:
    """Row and column (px) of the points of a crystal's lattice within 0.3 Å⁻¹ of the Ewald sphere, in patterns."""
    lattice = multislice_phase(folder, name).structure.lattice
    limits = np.ceil(_LATTICE_RADIUS * np.array([lattice.a, lattice.b, lattice.c])).astype(int)
    hkl = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in limits), indexing="ij"), axis=-1).reshape(-1, 3)
    g = hkl @ lattice.recbase.T
    length = np.linalg.norm(g, axis=1)
    g = torch.as_tensor(g[(length > 0) & (length < _LATTICE_RADIUS)])
    wavelength, points = electron_wavelength(calibration.beam_energy), []
    for rotation in torch.as_tensor(rotations, dtype=torch.float64):
        lab, _, near = near_ewald_sphere(g, rotation[None], wavelength, _LATTICE_DISTANCE)
        kx, ky, _ = lab[0, near[0]].unbind(-1)
        points.append(torch.stack(k_to_pixel(kx, ky, calibration), dim=-1).numpy())
    return points


def _kinds(true, everything, shape, radius: float) -> np.ndarray:
    """Which of :data:`KINDS` disks are, by what lies near them.

    Parameters
    ----------
    true, everything : array, shape (t, 3) and (m, 3)
        Row, column (px) and electrons of the disks in question, and of all that is there, they and the direct beam
        among it. Electrons are all those within the disk, whichever reflection they belong to.
    shape : tuple of int
        Rows and columns of the pattern.
    radius : float
        Of the disks in px.

    Returns
    -------
    array of int, shape (t,)
    """
    apart = cdist(true[:, :2], everything[:, :2])
    mine, theirs, shared = true[:, None, 2], everything[None, :, 2], _shared_area(apart, radius)
    # A dark reflection half in a bright disk has electrons of that: of two disks that share an area, each has its own
    # and this share of the other's. Both sides are times 1 - shared².
    covers = theirs - shared * mine > _COVERS * (mine - shared * theirs)
    overlapped = ((apart < 2 * radius) & (apart > 1e-6) & covers).any(1)
    edge = np.minimum(true[:, :2], np.subtract(shape, 1) - true[:, :2]).min(1) if len(true) else np.zeros(0)
    return np.where(edge < radius, 2, np.where(overlapped, 1, 0))


def _shared_area(apart, radius: float) -> np.ndarray:
    """Part of a disk's area that lies in an equal one whose middle is so far (px, any shape) from its own."""
    half = np.clip(np.asarray(apart) / (2 * radius), 0, 1)
    return 2 / np.pi * (np.arccos(half) - half * np.sqrt(1 - half**2))


def _isolated(positions, expected, center, distance: float) -> np.ndarray:
    """Tell which disks (n,) have no stronger one, and not the direct beam, nearer than `distance` px."""
    apart = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    beside = (apart < distance) & (expected[None] > expected[:, None])
    return ~beside.any(1) & (np.linalg.norm(positions - center, axis=1) >= distance)


def _reflections(data, kind: str, i: int, calibration: Calibration) -> np.ndarray:
    """Row, column (px), share of the beam, |k| and excitation error (Å⁻¹), h, k, l of a pattern's reflections."""
    here = slice(*data[f"{kind}_ptr"][i : i + 2])
    kx, ky, s, share, hkl = (data[f"{kind}_{x}"][here] for x in ("kx", "ky", "s", "idisk", "hkl"))
    table = np.column_stack([*k_to_pixel(kx, ky, calibration), share, np.hypot(kx, ky), s, hkl])
    return table[np.abs(hkl).sum(1) > 0]


def score(vectors, disks: BraggDisks, threshold: float | None = None) -> DiskScore:
    """Compare vectors with the known disks.

    Parameters
    ----------
    vectors : pyxem.signals.DiffractionVectors
        Of `disks.signal`, centred, with the columns ky, kx, intensity and confidence.
    disks : BraggDisks
        The truth.
    threshold : float, optional
        Only vectors with at least this confidence are taken.
    """
    found = found_disks(vectors, disks, threshold)
    return score_disks(found, disks.truth, disks.ignored, HIT_RADII * disks.radius)


def found_disks(vectors, disks: BraggDisks, threshold: float | None = None) -> list[np.ndarray]:
    """Row and column (px), then all further columns, of the vectors of each pattern."""
    calibration, found = Calibration.from_signal(disks.signal), []
    for table in vectors.data:
        table = table if threshold is None else table[table[:, 3] >= threshold]
        # pyxem's y axis runs downwards, along the rows
        positions = table[:, :2] / calibration.scale + calibration.center
        found.append(np.column_stack([positions, table[:, 2:]]))
    return found


def ignored_share(disks: BraggDisks) -> float:
    """Share of the area outside the true disks' reach where a detection counts neither way.

    Only in the rest of it a detection can be wrong. NaN where true disks are in reach of every pixel.
    """
    shape, reach = disks.signal.data.shape[-2:], HIT_RADII * disks.radius
    # a quarter of the pixels tells a share as well as all
    pixels = np.indices(shape)[:, ::2, ::2].reshape(2, -1).T
    outside = neither = 0
    for there, ignored in zip(disks.truth, disks.ignored, strict=True):
        free = ~_within(pixels, there[:, :2], reach)
        outside += free.sum()
        neither += (free & _within(pixels, ignored, reach)).sum()
    return float(neither / outside) if outside else float("nan")


def visible_false(found: list, disks: BraggDisks) -> float:
    """Share of the wrong detections at which a disk of the noise-free pattern stands out.

    By as many standard deviations of its count as the detector is trained for; NaN where nothing is wrong.  Multislice
    has disks of reflections further from the sphere than 0.3 Å⁻¹, too, by scattering twice and for its slices.
    """
    visible, reach = [], HIT_RADII * disks.radius
    for here, there, ignored, image in zip(found, disks.truth, disks.ignored, disks.expected, strict=True):
        wrong = ~_within(here[:, :2], there[:, :2], reach) & ~_within(here[:, :2], ignored, reach)
        visible += [_stands_out(image, place, disks.radius) > VISIBLE for place in here[wrong, :2]]
    return float(np.mean(visible)) if visible else float("nan")


def _stands_out(image, place, radius: float) -> float:
    """Electrons of a disk above the median around it, in standard deviations of their number."""
    away = np.hypot(*(np.indices(image.shape) - np.reshape(place, (2, 1, 1)))) / radius
    electrons, around = image[away < 1], image[(away > 1.15) & (away < 1.5)]
    level = np.median(around) if around.size else 0
    return float((electrons.sum() - level * electrons.size) / np.sqrt(max(electrons.sum(), 1e-9)))


def _within(places, points, reach: float) -> np.ndarray:
    """Tell which places (n, 2) have one of the points (m, 2) within reach, all in px: bool, shape (n,)."""
    if not len(points):
        return np.zeros(len(places), dtype=bool)
    return np.isfinite(KDTree(points).query(places, distance_upper_bound=reach)[0])


def position_errors(found: list, disks: BraggDisks) -> dict[str, float]:
    """Root mean square distance (px) of the hits from the truth, of each of :data:`KINDS`."""
    distances, kinds = [], []
    for here, there, kind in zip(found, disks.truth, disks.kinds, strict=True):
        i, j = match_points(here[:, :2], there[:, :2], HIT_RADII * disks.radius)
        distances.append(np.hypot(*(here[i, :2] - there[j, :2]).T))
        kinds.append(kind[j])
    distances, kinds = np.concatenate(distances), np.concatenate(kinds)
    return {
        name: float(np.sqrt(np.mean(distances[kinds == i] ** 2))) if (kinds == i).any() else float("nan")
        for i, name in enumerate(KINDS)
    }  # fmt: skip


def readings(vectors, disks: BraggDisks) -> dict[str, float]:
    """Errors of what single disks tell of excitation errors and potentials.

    Parameters
    ----------
    vectors : pyxem.signals.DiffractionVectors
        Of `disks.signal`, centred, with the columns v_g, q_z and their errors.
    disks : BraggDisks
        The truth.

    Returns
    -------
    dict of float
        ``q_z_error`` (Å⁻¹, root mean square) and ``q_z_sign`` (share of excitation errors whose sign is right; true
        ones of exactly 0 have none) of hits within three half ranges of Bragg's condition, ``n_near`` of them; rank
        correlation of V_g x thickness, ``v_g`` of all hits, and ``v_g_within``, the mean of that in each pattern with
        at least five, ``n_within`` of them. Hits whose numbers are not finite are left out of each.
    """
    s, true_s, half_range, volts, true_volts, pattern = _read_hits(vectors, disks).T
    near = (np.abs(true_s) < _NEAR * half_range) & np.isfinite(s)
    signed = near & (true_s != 0)
    told = np.isfinite(volts) & np.isfinite(true_volts)
    within = _within_patterns(np.column_stack([volts, true_volts])[told], pattern[told])
    return {
        "n_near": int(near.sum()), "q_z_error": _mean((s - true_s)[near] ** 2) ** 0.5,
        "q_z_sign": _mean((s * true_s > 0)[signed]),
        "v_g": rank_correlation(np.column_stack([volts, true_volts])[told]),
        "v_g_within": _mean(within), "n_within": len(within),
    }  # fmt: skip


def _read_hits(vectors, disks: BraggDisks) -> np.ndarray:
    """List what was read of the hits, and the truth.

    Parameters
    ----------
    vectors : pyxem.signals.DiffractionVectors
        As for :func:`readings`.
    disks : BraggDisks
        The truth.

    Returns
    -------
    array, shape (p, 6)
        Excitation error, the true one, half range (Å⁻¹), V_g x thickness, the true one (V Å), index of the pattern.
    """
    calibration, names = Calibration.from_signal(disks.signal), list(vectors.column_names)
    v_g, q_z = (names.index(name) for name in ("v_g", "q_z"))
    hits = [np.empty((0, 6))]
    found = found_disks(vectors, disks)
    for n, (here, there, details) in enumerate(zip(found, disks.truth, disks.details, strict=True)):
        i, j = match_points(here[:, :2], there[:, :2], HIT_RADII * disks.radius)
        kx, ky = pixel_to_k(*here[i, :2].T, calibration)
        # the distance from the Ewald sphere is that of the sphere from the plane less that of the reflection
        s = out_of_plane(kx, ky, 0 * kx, calibration.wavelength) - here[i, q_z]
        true_s, half_range, volts = details[j].T
        hits.append(np.column_stack([s, true_s, half_range, here[i, v_g], volts, np.full(len(i), n)]))
    return np.concatenate(hits)


def _within_patterns(pairs, pattern) -> list[float]:
    """Rank correlations of pairs (p, 2) in each pattern (p,) with enough of them, where there is one.

    Thickness is the same there: over all patterns it alone puts V_g x thickness in some order.
    """
    index, count = np.unique(pattern, return_counts=True)
    each = [rank_correlation(pairs[pattern == n]) for n in index[count >= _LEAST_DISKS]]
    return [x for x in each if np.isfinite(x)]


def _mean(values) -> float:
    """Mean of numbers (n,); NaN, without a warning, where there are none."""
    return float(np.mean(values)) if len(values) else float("nan")
