"""How good are orientations: with truth, and on scans without truth.

With truth: disorientation under the Laue group, strict and modulo the 180 degree ambiguity of
zero-order patterns, misindexing rate, accuracy.  Without truth: agreement with the neighbours,
and the share of the detected peaks that the orientations explain.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from pyxem_dl.frames import Calibration, excitation_error, pixel_to_k
from pyxem_dl.rotations import disorientation_angle, proper_operations, to_matrix

# The peaks are turned by these angles (degrees) to see what chance explains: none of them is a
# symmetry of a zone axis.
_CHANCE_ANGLES = 7.5 + 15 * np.arange(24)
# With fewer peaks no distortion is measured.
_LEAST_MATCHED = 20
# Patterns of a lazy scan that are in memory at once.
_BLOCK = 64


def disorientation(a, b, phase=None, *, modulo_180: bool = False) -> np.ndarray:
    """Smallest angle between orientations over the Laue group.

    Parameters
    ----------
    a, b : CrystalMap, orix Rotation, array or tensor of shape (..., 4)
        Orientations lab to crystal; the shapes broadcast.  Of a map the best orientation at
        each point that is in its data.
    phase : orix.crystal_map.Phase or orix.quaternion.Symmetry, optional
        Whose Laue group is taken; by default a map's own phase at each point.
    modulo_180 : bool
        Take orientations that differ by 180 degrees about the beam for the same.

    Returns
    -------
    array, shape (...)
        In degrees; NaN at a map's points that are not indexed, or that two maps give to
        different phases.

    Raises
    ------
    ValueError
        If neither a phase nor a map is given.
    """
    maps = [m for m in (a, b) if hasattr(m, "phase_id")]
    if phase is None and not maps:
        raise ValueError("Give the phase (or its point group), whose symmetry decides.")
    q, p = (torch.as_tensor(_quaternions(x), dtype=torch.float64) for x in (a, b))
    shape = torch.broadcast_shapes(q.shape[:-1], p.shape[:-1])
    q, p = q.expand(*shape, 4), p.expand(*shape, 4)
    groups = {None: phase} if phase is not None else _phases_of(maps[0])
    ids = np.zeros(shape, dtype=int)
    for m in maps:
        ids = np.where((m.phase_id < 0) | (m.phase_id != maps[0].phase_id), -1, m.phase_id)
        ids = np.broadcast_to(ids, shape)
    result = np.full(shape, np.nan)
    for key, group in groups.items():
        here = ids >= 0 if key is None else ids == key
        if not here.any():
            continue
        select = torch.from_numpy(np.ascontiguousarray(here))
        operations = proper_operations(group)
        angle = disorientation_angle(q[select], p[select], operations, modulo_180=modulo_180)
        result[here] = np.rad2deg(angle.numpy())
    return result


def misindexing_rate(disorientations, tolerance: float = 5.0) -> float:
    """Share of disorientations above a tolerance.

    Parameters
    ----------
    disorientations : array
        In degrees; NaN (not indexed) counts as misindexed.
    tolerance : float
        In degrees.
    """
    angles = np.asarray(disorientations, dtype=float)
    return float(np.mean(~(angles <= tolerance))) if angles.size else math.nan


@dataclass(frozen=True)
class Accuracy:
    """Disorientations from the truth in a few numbers.

    Parameters
    ----------
    n : int
        How many there are, with those that are not indexed.
    within_2, within_5 : float
        Share within 2 and 5 degrees; what is not indexed is not within.
    median, percentile_90 : float
        Of those that are indexed, in degrees.
    not_indexed : float
        Share without an orientation.
    """

    n: int
    within_2: float
    within_5: float
    median: float
    percentile_90: float
    not_indexed: float

    @classmethod
    def from_disorientations(cls, disorientations) -> Accuracy:
        """Sum up an array of disorientations in degrees, NaN where not indexed."""
        angles = np.asarray(disorientations, dtype=float).ravel()
        indexed = angles[np.isfinite(angles)]
        return cls(
            n=angles.size,
            within_2=1 - misindexing_rate(angles, 2),
            within_5=1 - misindexing_rate(angles, 5),
            median=float(np.median(indexed)) if indexed.size else math.nan,
            percentile_90=float(np.percentile(indexed, 90)) if indexed.size else math.nan,
            not_indexed=1 - indexed.size / angles.size if angles.size else math.nan,
        )


def accuracy(orientations, truth, phase=None) -> dict[str, Accuracy]:
    """Compare orientations with the truth, strictly and modulo 180 degrees about the beam.

    Parameters are those of :func:`disorientation`.

    Returns
    -------
    dict
        With the keys "strict" and "modulo_180".
    """
    return {
        name: Accuracy.from_disorientations(
            disorientation(orientations, truth, phase, modulo_180=name == "modulo_180")
        )
        for name in ("strict", "modulo_180")
    }


@dataclass(frozen=True, eq=False)
class ReliabilityCurve:
    """Errors of groups of answers, from the surest to the least sure.

    Parameters
    ----------
    expected, rms, median : array, shape (n,)
        Root mean square of the expected errors, and of the true ones; median of the true ones, in degrees.
    """

    expected: np.ndarray
    rms: np.ndarray
    median: np.ndarray


def reliability_curve(expected, error, n_bins: int = 10) -> ReliabilityCurve:
    """Compare expected errors with true ones.

    Parameters
    ----------
    expected, error : array, shape (n,)
        In degrees; what is not finite is left out.
    n_bins : int
        Groups of equal size.

    Returns
    -------
    ReliabilityCurve
    """
    expected, error = (np.asarray(x, dtype=float).ravel() for x in (expected, error))
    known = np.isfinite(expected) & np.isfinite(error)
    if known.sum() < n_bins:
        raise ValueError(f"There are {known.sum()} pairs of expected and true errors: too few for {n_bins} groups.")
    order = np.flatnonzero(known)[np.argsort(expected[known], kind="stable")]
    groups = np.array_split(order, n_bins)
    return ReliabilityCurve(
        np.array([np.sqrt(np.mean(expected[g] ** 2)) for g in groups]),
        np.array([np.sqrt(np.mean(error[g] ** 2)) for g in groups]),
        np.array([np.median(error[g]) for g in groups]),
    )


def neighbour_disorientation(xmap, *, modulo_180: bool = False) -> np.ndarray:
    """Median disorientation of each point from its up to 4 neighbours of the same phase.

    Parameters
    ----------
    xmap : orix.crystal_map.CrystalMap
        A scan in 1 or 2 dimensions.
    modulo_180 : bool
        Take orientations that differ by 180 degrees about the beam for the same.

    Returns
    -------
    array, shape (n,)
        In degrees, for the points in the map's data; NaN where not indexed or without such a
        neighbour.
    """
    row, column = _grid_positions(xmap)
    grid = np.full((row.max() + 3, column.max() + 3), -1)
    grid[row + 1, column + 1] = np.arange(len(row))
    q = torch.as_tensor(_quaternions(xmap), dtype=torch.float64)
    angles = np.full((4, len(row)), np.nan)
    for i, (down, right) in enumerate([(0, 1), (1, 0)]):
        other = grid[row + 1 + down, column + 1 + right]
        for key, phase in _phases_of(xmap).items():
            here = (other >= 0) & (xmap.phase_id == key) & (xmap.phase_id[other] == key)
            here = np.flatnonzero(here)
            there = other[here]
            angle = disorientation_angle(
                q[here], q[there], proper_operations(phase), modulo_180=modulo_180
            )
            # the one is the other's neighbour, too
            angles[i, here] = angles[2 + i, there] = np.rad2deg(angle.numpy())
    result = np.full(len(row), np.nan)
    known = np.isfinite(angles).any(0)
    result[known] = np.nanmedian(angles[:, known], axis=0)
    return result


def find_peaks(
    patterns,
    center=None,
    *,
    spot_radius: float = 1.5,
    threshold: float = 4.5,
    exclude_radius: float = 6.0,
    signal_mask=None,
) -> list[np.ndarray]:
    """Find the spots of diffraction patterns, the direct beam left out.

    A pattern smoothed to `spot_radius` less the same smoothed to three times that (a difference
    of Gaussians) is compared with its own noise: on rings two pixels wide about the centre, the
    first quartile of its distance from the ring's median / 0.319, as of a normal distribution
    (of the quartiles this one minds crowded rings the least).  Where the pattern holds whole
    numbers the noise is taken for no less than that of Poisson counts, an electron being the
    smallest value that is not 0.  Peaks are local maxima above `threshold` times the noise
    above that median, with positions refined by parabolas.

    Parameters
    ----------
    patterns : array, shape (n, rows, columns) or (rows, columns)
        Intensities.
    center : array, shape (2,) or (n, 2), optional
        Direct beam (row, column) in pixels, by default the middle of the detector.
    spot_radius : float
        Standard deviation of a spot in pixels.
    threshold : float
        In units of the noise.
    exclude_radius : float
        About the direct beam, in pixels.
    signal_mask : array of bool, shape (rows, columns), optional
        True where the detector is excluded.

    Returns
    -------
    list of array, shape (m, 3)
        For each pattern row, column (px) and height (in units of the noise) of its peaks, the
        highest first; none for patterns that are not finite.
    """
    patterns = np.asarray(patterns)
    if patterns.ndim == 2:
        patterns = patterns[None]
    shape = patterns.shape[1:]
    center = (np.array(shape) - 1) / 2 if center is None else center
    centers = np.broadcast_to(np.asarray(center, dtype=float), (len(patterns), 2))
    masked = np.zeros(shape, bool) if signal_mask is None else np.asarray(signal_mask)
    row, column = np.indices(shape)
    found = []
    for start in range(0, len(patterns), _BLOCK):
        some, where = patterns[start : start + _BLOCK], centers[start : start + _BLOCK]
        row0, column0 = where.mean(axis=0)
        ring = (np.hypot(row - row0, column - column0) / 2).astype(int)
        for difference, middle, noise, (row0, column0) in zip(
            *_difference_and_noise(some, ring, masked, spot_radius), where, strict=True
        ):
            noise[np.hypot(row - row0, column - column0) < exclude_radius] = np.inf
            distance = max(1, round(1.5 * spot_radius))
            found.append(_local_maxima(difference, middle, noise, threshold, distance))
    return found


def _difference_and_noise(patterns, ring, masked, spot_radius) -> tuple[np.ndarray, ...]:
    """Difference of Gaussians, its ring medians and its noise (infinite where masked)."""
    from scipy.ndimage import binary_dilation, gaussian_filter

    valid = ~masked
    x = np.where(valid, patterns, 0).astype(np.float32)
    finite = np.isfinite(x).all(axis=(1, 2))
    x[~finite] = 0
    narrow, wide = (
        gaussian_filter(x, (0, s, s)) / np.maximum(gaussian_filter(valid * 1.0, s), 1e-3)
        for s in (spot_radius, 3 * spot_radius)
    )
    difference = narrow - wide
    order = np.argsort(ring[valid], kind="stable")
    values = difference[:, valid][:, order]
    ends = np.cumsum(np.bincount(ring[valid], minlength=ring.max() + 1))
    middle, noise = np.zeros((2, len(x), len(ends)))
    for i, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        if end > start:
            middle[:, i], noise[:, i] = _middle_and_spread(values[:, start:end])
    middle, noise = middle[:, ring], noise[:, ring]
    # the squares of the narrow kernel's weights add up to 1 / (4 pi sigma^2)
    # one electron makes at least the smallest value that is not 0
    electron = np.where(x > 0, x, np.inf).min(axis=(1, 2), keepdims=True)
    electron = np.where(np.isfinite(electron), electron, 1)
    variance = electron * np.maximum(wide, 0) / (4 * np.pi * spot_radius**2)
    # and no less than half an electron
    poisson = np.maximum(np.sqrt(variance), 0.5 * electron / (2 * np.pi * spot_radius**2))
    whole = (x == np.round(x)).all(axis=(1, 2))
    noise = np.where(whole[:, None, None], np.maximum(noise, poisson), noise)
    floor = 1e-6 * np.abs(narrow).max(axis=(1, 2), keepdims=True)
    noise = np.maximum(noise, np.maximum(floor, 1e-30))
    noise[:, binary_dilation(masked, iterations=math.ceil(spot_radius))] = np.inf
    return difference, middle, noise


def _middle_and_spread(values) -> tuple[np.ndarray, np.ndarray]:
    """Median (n,) of values (n, m), and standard deviation from the nearest quarter of them."""
    m = values.shape[1]
    middle = np.partition(values, m // 2, axis=1)[:, m // 2]
    distance = np.abs(values - middle[:, None])
    return middle, np.partition(distance, m // 4, axis=1)[:, m // 4] / 0.31864


def _local_maxima(difference, ring_median, noise, threshold, distance) -> np.ndarray:
    """Row, column and height (m, 3) of maxima, refined by parabolas, the highest first."""
    from scipy.ndimage import maximum_filter

    highest = maximum_filter(difference, 2 * distance + 1)
    peak = (difference == highest) & (difference > ring_median + threshold * noise)
    peak[[0, -1]] = peak[:, [0, -1]] = False
    row, column = np.nonzero(peak)
    middle = difference[row, column]

    def shift(before, after):
        bend = np.minimum(before - 2 * middle + after, -1e-12)
        return np.clip(0.5 * (before - after) / bend, -0.5, 0.5)

    rows = row + shift(difference[row - 1, column], difference[row + 1, column])
    columns = column + shift(difference[row, column - 1], difference[row, column + 1])
    height = (middle - ring_median[row, column]) / noise[row, column]
    return np.stack([rows, columns, height], axis=1)[np.argsort(-height, kind="stable")]


@dataclass(frozen=True, eq=False)
class ExplainedPeaks:
    """What :func:`explained_peaks` counted at each of the n points in the map's data.

    Parameters
    ----------
    n_peaks : array of int, shape (n,)
        Detected peaks.
    n_explained : array of int, shape (n,)
        Those within the tolerance of a reflection; 0 where not indexed.
    n_chance : array, shape (n,)
        How many would be explained after turning the peaks about the beam.
    indexed : array of bool, shape (n,)
        Where there is an orientation.
    """

    n_peaks: np.ndarray
    n_explained: np.ndarray
    n_chance: np.ndarray
    indexed: np.ndarray

    @property
    def share(self) -> np.ndarray:
        """Share of the peaks that is explained (n,); NaN where there are none."""
        return np.where(self.n_peaks > 0, self.n_explained / np.maximum(self.n_peaks, 1), np.nan)

    def summary(self) -> dict[str, float]:
        """Sum up a scan.

        Returns
        -------
        dict
            "share": of all detected peaks, those that are explained; "chance": the same with
            turned peaks; "share_indexed" and "chance_indexed": of the peaks at points that are
            indexed; "excess": ``(share_indexed - chance_indexed) / (1 - chance_indexed)``,
            0 for random orientations and 1 if all is explained; "peaks": how many there are.
        """

        def over(numerator, denominator):
            return float(numerator / denominator) if denominator else math.nan

        explained, chance = self.n_explained.sum(), self.n_chance.sum()
        peaks, peaks_indexed = self.n_peaks.sum(), self.n_peaks[self.indexed].sum()
        return {
            "share": over(explained, peaks),
            "chance": over(chance, peaks),
            "share_indexed": over(explained, peaks_indexed),
            "chance_indexed": over(chance, peaks_indexed),
            "excess": over(explained - chance, peaks_indexed - chance),
            "peaks": int(peaks),
        }


def explained_peaks(
    xmap,
    patterns,
    reflections,
    calibration: Calibration | None = None,
    *,
    tolerance: float = 0.03,
    max_excitation_error: float = 0.04,
    reciprocal_radius: float | None = None,
    centers=None,
    signal_mask=None,
    peaks: list[np.ndarray] | None = None,
    **find_peaks_arguments,
) -> ExplainedPeaks:
    """Count the detected peaks that the orientations of a map explain.

    A peak is explained if a reflection of the phase that is kinematically allowed and nearer to
    the Ewald sphere than `max_excitation_error` lies within `tolerance` of it.  Many reflections
    explain much by chance; how much is counted with the peaks turned about the beam by 24 angles
    (7.5, 22.5, ... degrees), which keeps their distances from the beam.

    Parameters
    ----------
    xmap : orix.crystal_map.CrystalMap
        Of the whole scan, by any method.
    patterns : signal, or array of shape (..., rows, columns)
        The scan that `xmap` indexes, in data order, in memory or lazy.
    reflections : sequence or mapping of pyxem_dl.crystals.Reflections
        By phase id, from :func:`pyxem_dl.crystals.reflections`.
    calibration : Calibration, optional
        With the beam energy; by default the signal's.
    tolerance : float
        In 1/Angstrom.
    max_excitation_error : float
        In 1/Angstrom.
    reciprocal_radius : float, optional
        Peaks beyond are not counted, in 1/Angstrom; by default the detector's nearest edge.
    centers : array, shape (n, 2), optional
        Direct beam (row, column) in pixels of every pattern of the scan.
    signal_mask : array of bool, shape (rows, columns), optional
        True where the detector is excluded.
    peaks : list of array, optional
        What :func:`find_peaks` found in the patterns of the map's data, to compare several maps.
    **find_peaks_arguments
        Of :func:`find_peaks`.

    Returns
    -------
    ExplainedPeaks
        For the points in the map's data.
    """
    if calibration is None:
        calibration = Calibration.from_signal(patterns)
    radius = reciprocal_radius or calibration.reciprocal_radius
    if peaks is None:
        peaks = _peaks_of_scan(
            patterns, xmap.id, calibration, centers, signal_mask, find_peaks_arguments
        )
    counts = np.zeros((3, len(peaks)))
    pairs = _peaks_and_spots(xmap, peaks, reflections, calibration, max_excitation_error, centers)
    for i, (k, spots) in enumerate(pairs):
        k = k[np.hypot(*k.T) <= radius]
        counts[0, i] = len(k)
        if xmap.phase_id[i] >= 0 and len(k):
            counts[1:, i] = _count_explained(k, spots, tolerance)
    n_peaks, n_explained, n_chance = counts
    return ExplainedPeaks(
        n_peaks.astype(int), n_explained.astype(int), n_chance, np.asarray(xmap.phase_id >= 0)
    )


def fit_distortion(
    xmap,
    patterns,
    reflections,
    calibration: Calibration | None = None,
    *,
    largest: float = 0.1,
    tolerance: float = 0.03,
    max_excitation_error: float = 0.02,
    peaks: list[np.ndarray] | None = None,
) -> np.ndarray:
    """Measure by how much the calibration is off, where orientations are known: the scale's error, and an ellipse.

    Parameters
    ----------
    xmap : orix.crystal_map.CrystalMap
        Orientations; those of a few hundred confident ones do.
    patterns : signal, or array of shape (..., rows, columns)
        The whole scan, in data order, in memory or lazy.
    reflections : sequence or mapping of pyxem_dl.crystals.Reflections
        By phase id, as for :func:`explained_peaks`.
    calibration : Calibration, optional
        With the beam energy; by default the signal's.
    largest : float
        Error of the scale that is looked for, relative.
    tolerance : float
        So near to a spot a peak is that spot, in 1/Angstrom.
    max_excitation_error : float
        Of reflections whose spots are looked for, in 1/Angstrom.
    peaks : list of array, optional
        As in :func:`explained_peaks`.

    Returns
    -------
    array, shape (2, 2)
        Symmetric; a spot at ``k`` (kx, ky) is seen at ``k @ distortion``.

    Raises
    ------
    ValueError
        If fewer than 20 peaks are explained.
    """
    from scipy.spatial import cKDTree

    if calibration is None:
        calibration = Calibration.from_signal(patterns)
    if peaks is None:
        peaks = _peaks_of_scan(patterns, xmap.id, calibration, None, None, {})
    pairs = _peaks_and_spots(xmap, peaks, reflections, calibration, max_excitation_error, None)
    pairs = [(k, cKDTree(k), spots) for k, spots in pairs if len(k) and len(spots)]

    def matched(distortion):
        """Spots with a peak near where they would be seen, and these peaks: (n, 2) each."""
        there, seen = [np.zeros((0, 2))], [np.zeros((0, 2))]
        for k, tree, spots in pairs:
            distance, nearest = tree.query(spots @ distortion, distance_upper_bound=tolerance)
            there.append(spots[distance <= tolerance])
            seen.append(k[nearest[distance <= tolerance]])
        return np.concatenate(there), np.concatenate(seen)

    scales = 1 + largest * np.linspace(-1, 1, 41)
    distortion = np.eye(2) * max(scales, key=lambda scale: len(matched(np.eye(2) * scale)[0]))
    for _ in range(8):
        there, seen = matched(distortion)
        if len(there) < _LEAST_MATCHED:
            raise ValueError(
                f"Only {len(there)} peaks are explained by the orientations, too few to measure the scale: give more, "
                "or more confident ones."
            )
        general = np.linalg.lstsq(there, seen, rcond=None)[0]
        # a rotation is the orientations' affair: what is left without it is the distortion (polar decomposition)
        _, stretches, axes = np.linalg.svd(general)
        distortion = axes.T @ np.diag(stretches) @ axes
    return distortion


def _peaks_and_spots(xmap, peaks, reflections, calibration, max_excitation_error, centers) -> Iterator:
    """Places (m, 2) of peaks, and of the spots (s, 2) that each orientation has, in 1/Angstrom."""
    if not isinstance(reflections, Mapping):
        reflections = dict(enumerate(reflections))
    g = {key: r.g.double() for key, r in reflections.items()}
    matrices = to_matrix(torch.as_tensor(_quaternions(xmap), dtype=torch.float64))
    for i, found in enumerate(peaks):
        center = None if centers is None else np.asarray(centers).reshape(-1, 2)[xmap.id[i]]
        k = np.stack(pixel_to_k(found[:, 0], found[:, 1], calibration, center), axis=1)
        spots = np.zeros((0, 2))
        if xmap.phase_id[i] >= 0:
            lab = (g[xmap.phase_id[i]] @ matrices[i]).numpy()
            error = excitation_error(*lab.T, calibration.wavelength)
            spots = lab[np.abs(error) < max_excitation_error, :2]
        yield k, spots


def _count_explained(k, spots, tolerance) -> tuple[int, float]:
    """How many peaks k (m, 2) lie near a spot, as they are and turned."""
    from scipy.spatial import cKDTree

    if not len(spots):
        return 0, 0.0
    angles = np.deg2rad(np.concatenate([[0], _CHANCE_ANGLES]))
    turned = (k[:, 0] + 1j * k[:, 1]) * np.exp(1j * angles)[:, None]
    points = np.stack([turned.real, turned.imag], axis=-1)
    near = cKDTree(spots).query(points, distance_upper_bound=tolerance)[0] <= tolerance
    count = near.sum(1)
    return int(count[0]), float(count[1:].mean())


def _peaks_of_scan(patterns, ids, calibration, centers, signal_mask, arguments) -> list:
    """Peaks of the patterns with the given flat indices, block by block."""
    data = patterns.data if hasattr(patterns, "axes_manager") else patterns
    found = {}
    for start, block in _blocks(data):
        wanted = ids[(ids >= start) & (ids < start + len(block))]
        center = calibration.center
        if centers is not None:
            center = np.asarray(centers).reshape(-1, 2)[wanted]
        each = find_peaks(block[wanted - start], center, signal_mask=signal_mask, **arguments)
        found.update(zip(wanted, each))
    return [found[i] for i in ids]


def _blocks(data) -> Iterator[tuple[int, np.ndarray]]:
    """Pieces (n, rows, columns) of a scan in data order, with the flat index where they begin."""
    shape = data.shape[:-2]
    if not shape:
        yield 0, np.asarray(data)[None]
        return
    per_row = math.prod(shape[1:])
    if hasattr(data, "chunks") and hasattr(data, "dask"):
        sizes = data.chunks[0]
    else:
        step = max(1, _BLOCK // max(1, per_row))
        sizes = [min(step, shape[0] - i) for i in range(0, shape[0], step)]
    start = 0
    for size in sizes:
        block = np.asarray(data[start : start + size])
        yield start * per_row, block.reshape(-1, *data.shape[-2:])
        start += size


def _quaternions(x) -> np.ndarray:
    """Quaternions (..., 4) of whatever holds rotations."""
    if hasattr(x, "phase_id"):
        data = x.rotations.data
        return data[:, 0] if data.ndim == 3 else data
    if isinstance(x, torch.Tensor):
        return x.detach().cpu().numpy()
    data = np.asarray(getattr(x, "data", x) if not isinstance(x, np.ndarray) else x)
    if data.shape[-1:] != (4,):
        raise ValueError(f"Rotations are quaternions of shape (..., 4), not {data.shape}.")
    return data


def _phases_of(xmap) -> dict:
    """Phases of a map by their ids, without "not indexed"."""
    return {key: phase for key, phase in xmap.phases if key >= 0}


def _grid_positions(xmap) -> tuple[np.ndarray, np.ndarray]:
    """Row and column (n,) of the points in a map's data, from 0."""
    positions = []
    for coordinate in (xmap.y, xmap.x):
        if coordinate is None or not len(coordinate):
            positions.append(np.zeros(xmap.size, dtype=int))
        else:
            steps = np.unique(coordinate)
            gaps = np.diff(steps)
            # what differs by rounding only is no step
            gaps = gaps[gaps > 1e-6 * np.ptp(steps)] if len(steps) > 1 else gaps
            step = gaps.min() if len(gaps) else 1.0
            positions.append(np.round((coordinate - steps[0]) / step).astype(int))
    return positions[0], positions[1]
