"""How good are orientations without truth: the spots that they explain, and where these are seen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from pyxem_dl.crystals import near_ewald_sphere
from pyxem_dl.frames import Calibration, pixel_to_k
from pyxem_dl.metrics.orientations import quaternions_of
from pyxem_dl.patterns.peaks import are_highest, parabola_shift

# The peaks are turned by these angles (degrees) to see what chance explains: none of them is a
# symmetry of a zone axis.
_CHANCE_ANGLES = 7.5 + 15 * np.arange(24)
# With fewer peaks no distortion is measured.
_LEAST_MATCHED = 20
# Patterns of a lazy scan that are in memory at once.
_BLOCK = 64


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
    peak = are_highest(torch.from_numpy(difference[None]), distance)[0].numpy()
    peak &= difference > ring_median + threshold * noise
    peak[[0, -1]] = peak[:, [0, -1]] = False
    row, column = np.nonzero(peak)
    middle = difference[row, column]

    def shift(before, after):
        return parabola_shift(*(torch.from_numpy(x) for x in (before, middle, after))).numpy()

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
        In Å⁻¹.
    max_excitation_error : float
        In Å⁻¹.
    reciprocal_radius : float, optional
        Peaks beyond are not counted, in Å⁻¹; by default the detector's nearest edge.
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
        if len(k):
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
        So near to a spot a peak is that spot, in Å⁻¹.
    max_excitation_error : float
        Of reflections whose spots are looked for, in Å⁻¹.
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
    from scipy.linalg import polar
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
                f"The orientations explain only {len(there)} peaks, too few to measure the scale: give more patterns, "
                "or more reliable orientations."
            )
        general = np.linalg.lstsq(there, seen, rcond=None)[0]
        # a rotation is the orientations' affair: what is left without it is the distortion
        _, distortion = polar(general)
    return distortion


def _peaks_and_spots(xmap, peaks, reflections, calibration, max_excitation_error, centers) -> Iterator:
    """Places (m, 2) of peaks, and of the spots (s, 2) that each orientation has, in Å⁻¹."""
    if not isinstance(reflections, Mapping):
        reflections = dict(enumerate(reflections))
    g = {key: r.g.double() for key, r in reflections.items()}
    rotations, phase_id = torch.as_tensor(quaternions_of(xmap), dtype=torch.float64), xmap.phase_id
    for i, found in enumerate(peaks):
        center = None if centers is None else np.asarray(centers).reshape(-1, 2)[xmap.id[i]]
        k = np.stack(pixel_to_k(found[:, 0], found[:, 1], calibration, center), axis=1)
        spots = np.zeros((0, 2))
        if len(k) and phase_id[i] >= 0:  # where there is no peak, nobody asks for spots
            (lab,), _, (near,) = near_ewald_sphere(
                g[phase_id[i]], rotations[i, None], calibration.wavelength, max_excitation_error
            )
            spots = lab[near, :2].numpy()
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
