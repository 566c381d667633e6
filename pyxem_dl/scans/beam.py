"""Where the direct beam is: found in a sample of patterns by two witnesses, then in each pattern near what they say.

The first witness is what is bright at the same place in all patterns (or at places that move smoothly over the scan):
Bragg disks come and go with the orientation. The second is the centre of inversion: at the midpoint of pairs ±g lies
the beam, whether it is seen or not. One alone may be fooled, by a strong disk of a single crystal or by a lattice that
is symmetric about other points, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from pyxem_dl.patterns.correlation import soft_disk
from pyxem_dl.patterns.peaks import find_maxima, parabola_shift
from pyxem_dl.patterns.probes import follow_edge
from pyxem_dl.scans.sample import filled

# Candidates for the beam in each pattern, and hypotheses that are compared
_CANDIDATES, _HYPOTHESES = 10, 12
# What the centre of inversion weighs where nothing bright is there, and what is bright where it is not symmetric
_UNSEEN, _ASYMMETRIC = 0.12, 0.1
# A hypothesis so many times as good as the next is certain if the witnesses agree, and if there is but one
_CLEAR, _CLEAR_ALONE = 1.3, 1.7
# So bright in the patterns must a beam be that moves over the scan, or that is looked for farther away in some
_SEEN = 0.4
# Where less of the disk is seen the beam is hidden; so many pixels must have a partner for a centre of inversion
_HIDDEN, _LEAST_OVERLAP = 0.4, 0.3
# Of a disk that is less seen than this no single pattern is asked; where less is seen of it and 2 px around (of disks
# below a radius in px, and of larger ones) pairs of other disks say better where it is than the part that is seen
_ENOUGH, _ENOUGH_AROUND, _SMALL = 0.6, (0.75, 0.5), 5.0
# About a disk of so many radii, and px at least, nothing is looked at for pairs, whose correlation is so high at least
_HOLE, _LEAST_HOLE, _LEAST_PAIRS = 2.5, 5.0, 0.3
# The largest radius that the autocorrelation tells is this part of a detector
_LARGEST_RADIUS = 6
# A radius (px) from which on the edge of the beam is followed, and a radius to which larger disks are binned
_EDGE, _FINE_RADIUS = 4.0, 8.0
# Patterns of which the sample's beam is found, by pixels of the detector
_MOST_PIXELS = 2**22
# The beam may move over the scan by so much of the detector, seen as a plane, that must explain so much more
_LARGEST_SLOPE, _MORE = 0.25, 1.25
# Window of the search in each pattern: a multiple of the scatter about the plane, and at least this and a radius' part
_SCATTERS, _LEAST_SEARCH, _RADIUS_SHARE = 4.0, 2.0, 0.3
# Correlation with a disk below which a pattern's own position is not believed
_LEAST_CORRELATION = 0.25


@dataclass(frozen=True, eq=False)
class Beam:
    """What a sample of patterns says of the direct beam.

    Parameters
    ----------
    center : array, shape (2,)
        (row, column) in pixels: the median over the sample.
    plane : array, shape (3, 2)
        Of the centre over the scan: constant, and change per row and per column of the scan.
    radius : float
        Of the disk in pixels.
    search : float
        How far from the plane patterns are searched, in pixels.
    seen : float
        Share of the patterns in which something bright is there.
    certain : bool
        Whether the witnesses agree.
    other : array, shape (2,), or None
        What else it might be, where they do not.
    positions : array, shape (n, 2)
        Found in patterns of the sample, those of
    indices : array of int, shape (n,)
        the scan.
    """

    center: np.ndarray
    plane: np.ndarray
    radius: float
    search: float
    seen: float
    certain: bool
    other: np.ndarray | None
    positions: np.ndarray
    indices: np.ndarray

    def expected(self, indices, shape) -> np.ndarray:
        """Centres (n, 2) that the plane has at flat indices of a scan of a shape."""
        return _design(indices, shape) @ self.plane

    def find(self, patterns: torch.Tensor, indices, shape, signal_mask=None) -> torch.Tensor:
        """Find the beam in each pattern of a batch.

        Parameters
        ----------
        patterns : tensor, shape (n, rows, columns)
            Intensities.
        indices : array of int, shape (n,)
            Flat positions in the scan.
        shape : tuple of int
            Of the scan.
        signal_mask : tensor of bool, shape (rows, columns), optional
            True where the detector is excluded.

        Returns
        -------
        tensor, shape (n, 2)
            (row, column) in pixels, no farther than :attr:`search` from the plane; the plane's where a pattern shows
            no disk there.
        """
        start = torch.as_tensor(self.expected(indices, shape), dtype=torch.float32, device=patterns.device)
        if not self.search:
            return start
        found, correlation = find_disk(patterns, start, self.radius, self.search, signal_mask)
        return torch.where((correlation > _LEAST_CORRELATION)[:, None], found, start)


def find_disk(patterns, start, radius: float, search: float, signal_mask=None) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the disk that is nearest to be one in the surroundings of a place, in each pattern.

    Parameters
    ----------
    patterns : tensor, shape (n, rows, columns)
        Intensities of any scale.
    start : tensor, shape (n, 2)
        Where to look, (row, column) in pixels, and
    radius, search : float
        a disk of what radius, and how far away, in pixels.
    signal_mask : tensor of bool, shape (rows, columns), optional
        True where the detector is excluded.

    Returns
    -------
    position : tensor, shape (n, 2)
        In pixels.
    correlation : tensor, shape (n,)
        With a disk: of the fourth root of the intensities, normalised over what is seen of a window of twice the
        radius.
    """
    radius = max(1.0, radius)
    reach, kernel = math.ceil(search) + 1, math.ceil(2 * radius + 1)
    half = reach + kernel
    middle = start.round()
    cut, seen = _cut(patterns, middle.long(), half, signal_mask)
    cut = cut / cut.amax((1, 2), keepdim=True).clamp_min(1e-30)
    cut = cut.sqrt().sqrt()
    at = torch.arange(-half, half + 1, device=cut.device, dtype=torch.float32)
    distance = torch.hypot(at[:, None], at[None])
    disk, window = (soft_disk(distance, r) for r in (radius, 2 * radius + 0.5))

    def correlate(images, of):
        # lags beyond the reach come back in at the other side, and are not looked at
        product = torch.fft.rfft2(images) * torch.fft.rfft2(of.roll((-half, -half), (0, 1))).conj()
        return torch.fft.irfft2(product, s=images.shape[-2:])[:, kernel:-kernel, kernel:-kernel]

    d, w = (correlate(seen, x) for x in (disk, window))
    total, square, inside = correlate(cut, window), correlate(cut**2, window), correlate(cut, disk)
    w = w.clamp_min(1e-3)
    variance = (square - total**2 / w).clamp_min(0)
    norm = (d - d**2 / w).clamp_min(0.05 * float(disk.sum()))
    product = inside - total * d / w
    enough = d > 0.3 * disk.sum()
    most = torch.where(enough, variance, 0).amax((1, 2), keepdim=True)
    # weak features far from the strongest are no beam
    score = torch.where(enough, product / (norm * (variance + 0.2 * most) + 1e-20).sqrt(), -1)
    lag = torch.arange(-reach, reach + 1, device=cut.device, dtype=torch.float32)
    offset = middle - start
    away = torch.hypot(lag[:, None] + offset[:, 0, None, None], lag[None] + offset[:, 1, None, None])
    score = torch.where(away <= search + 0.7, score * (1 - 0.2 * (away / (search + 1)) ** 2), -1)
    best, index = score.flatten(1).max(1)
    row, column = index // len(lag), index % len(lag)
    n = torch.arange(len(cut), device=cut.device)
    moved = torch.stack([_parabola(score, n, row, column, 1), _parabola(score, n, row, column, 2)], 1)
    correlation = (product / (norm * variance + 1e-20).sqrt())[n, row, column]
    position = middle + torch.stack([lag[row], lag[column]], 1) + moved
    return position, torch.where(best > 0, correlation, 0)


def _parabola(score, n, row, column, axis: int) -> torch.Tensor:
    """Shift of a maximum to the top of the parabola through its neighbours."""
    last = score.shape[axis] - 1
    step = (1, 0) if axis == 1 else (0, 1)
    place = row if axis == 1 else column
    before = score[n, (row - step[0]).clamp_min(0), (column - step[1]).clamp_min(0)]
    after = score[n, (row + step[0]).clamp_max(score.shape[1] - 1), (column + step[1]).clamp_max(score.shape[2] - 1)]
    good = (place > 0) & (place < last) & (before > -1) & (after > -1)
    return torch.where(good, parabola_shift(before, score[n, row, column], after), 0)


def _cut(patterns, middle, half: int, signal_mask) -> tuple[torch.Tensor, torch.Tensor]:
    """Squares (n, 2 half + 1, 2 half + 1) about pixels (n, 2), 0 where nothing is measured, and what is seen."""
    n, rows, columns = patterns.shape
    offset = torch.arange(-half, half + 1, device=patterns.device)
    row, column = middle[:, 0, None] + offset, middle[:, 1, None] + offset
    inside = ((row >= 0) & (row < rows))[:, :, None] & ((column >= 0) & (column < columns))[:, None]
    row, column = row.clamp(0, rows - 1), column.clamp(0, columns - 1)
    square = patterns[torch.arange(n, device=patterns.device)[:, None, None], row[:, :, None], column[:, None]]
    if signal_mask is not None:
        inside = inside & ~signal_mask.to(patterns.device)[row[:, :, None], column[:, None]]
    inside = inside & square.isfinite()
    return torch.where(inside, square, 0).float().clamp_min(0), inside.float()


def find_beam(patterns, indices, shape, nominal, signal_mask=None) -> Beam | None:
    """Find the direct beam in a sample of patterns, wherever it is on the detector.

    Parameters
    ----------
    patterns : array, shape (n, rows, columns)
        A sample.
    indices : array of int, shape (n,)
        Its flat positions in the scan.
    shape : tuple of int
        Of the scan.
    nominal : tuple of float
        Where it should be, (row, column) in pixels: of equals the nearest is taken.
    signal_mask : array of bool, shape (rows, columns), optional
        True where the detector is excluded.

    Returns
    -------
    Beam or None
        None where no pattern shows anything.
    """
    x, valid, indices = _prepared(patterns, np.asarray(indices), signal_mask)
    if not len(x):
        return None
    radius = _typical_radius(x, valid)
    coarse = max(1, min(int(radius / 2), min(valid.shape) // 96))
    candidates, weights, inversion = _witnesses(x, valid, radius, coarse)
    tolerance, apart = max(1.5, 0.5 * radius), max(4.0, 2 * radius)
    symmetric, clear = inversion.highest(apart / coarse)
    symmetric = (symmetric + 0.5) * coarse - 0.5
    places = _hypotheses(candidates, weights, symmetric, tolerance)
    support = np.array([_support(candidates, weights, place, tolerance).mean() for place in places])
    turned = np.array([inversion.at((place + 0.5) / coarse - 0.5, tolerance / coarse) for place in places])
    quality = (support + _UNSEEN) * (turned + _ASYMMETRIC)
    # of equals the one that should be it
    nominal = np.asarray(nominal, dtype=float)
    near = np.exp(-np.hypot(*(places - nominal).T) / (0.5 * min(x.shape[1:])))
    order = np.argsort(-quality * (1 + 0.1 * near))
    best = order[0]
    others = [i for i in order[1:] if np.hypot(*(places[i] - places[best])) > apart]
    other = places[others[0]] if others else None
    ratio = quality[best] / max(quality[others[0]], 1e-12) if others else np.inf
    agree = np.hypot(*(places[best] - symmetric)) < 2 * tolerance
    seen = support[best]
    plane = np.zeros((3, 2))
    plane[0] = places[best]
    hidden = _share_seen(valid, nominal, radius) < _HIDDEN and np.hypot(*(places[best] - nominal)) > apart
    moved = _moving(candidates, weights, _design(indices, shape), seen, tolerance, min(valid.shape))
    if moved is not None and not hidden:
        plane, seen = moved
        return _measured(x, valid, indices, shape, plane, radius, seen, True, other)
    if seen > _UNSEEN:
        certain = not hidden and ratio > (_CLEAR if agree else _CLEAR_ALONE)
    else:
        certain = agree and clear > _CLEAR_ALONE
    poor = seen < _SEEN or _share_seen(valid, places[best], radius + 2) < _ENOUGH_AROUND[radius >= _SMALL]
    if poor and certain:
        place, certain = _between_pairs(x, valid, places[best], radius, seen > _SEEN)
        if certain:
            center = np.asarray(place)
            plane[0] = center
            return Beam(center, plane, radius, 0.0, float(seen), True, None, _design(indices, shape) @ plane, indices)
    if not certain and (hidden or seen <= _UNSEEN):
        # nothing to be seen says where: what is said stays
        other, plane[0], seen = places[best], nominal, 0.0
    return _measured(x, valid, indices, shape, plane, radius, seen, bool(certain), other)


def _witnesses(x, valid, radius: float, coarse: int):
    """Candidates and their weights in each pattern, and the correlation with the inverted mean (of binned patterns)."""
    x, valid = _binned_patterns(x, valid, coarse)
    # a gap is filled where it is no wider than that the disk shows on both sides
    from scipy.ndimage import binary_closing

    reach = np.ones((2 * math.ceil(max(2, radius / coarse)) + 1,) * 2)
    bridged = valid | binary_closing(np.pad(valid, 8, constant_values=True), reach)[8:-8, 8:-8]
    whole = np.where(bridged, filled(x, valid), 0)
    candidates, weights = _candidates(_contrast(whole, bridged, radius / coarse), radius / coarse)
    return (candidates + 0.5) * coarse - 0.5, weights, _Inversion(x, valid)


def _between_pairs(x, valid, place, radius: float, near: bool) -> tuple[np.ndarray, bool]:
    """Centre of inversion near a place, of what is around a disk there but not of the disk; and whether it is one.

    Of a disk that is weak, or half behind a mask, the part that is seen would draw the centre to itself.
    """
    row, column = np.indices(valid.shape)
    around = np.hypot(row - place[0], column - place[1]) > max(_LEAST_HOLE, _HOLE * radius)
    inversion = _Inversion(x, valid & around)
    reach = max(4.0, 1.5 * radius)
    found, height, inside = inversion.highest_near(place, reach)
    if not inside or height < _LEAST_PAIRS:
        return found, False
    if near:
        return found, True  # of several centres of a lattice, the one where something bright is
    symmetric, clear = inversion.highest(max(4.0, 2 * radius))
    return found, clear > _CLEAR and np.hypot(*(symmetric - found)) < 1.5


def _binned_patterns(x, valid, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Means of what is valid in squares of pixels, and where there is enough of it."""
    if factor == 1:
        return x, valid
    rows, columns = (n // factor * factor for n in valid.shape)
    weight = _binned(valid[None, :rows, :columns].astype(np.float32), factor)
    x = _binned(x[:, :rows, :columns], factor) / np.maximum(weight, 1e-6)
    valid = weight[0] > 0.3
    return np.where(valid, x, 0), valid


def _binned(x, factor: int) -> np.ndarray:
    return functional.avg_pool2d(torch.from_numpy(x)[:, None], factor)[:, 0].numpy()


def _share_seen(valid, place, radius: float) -> float:
    """Share of a disk that is on the detector and not masked."""
    reach = math.ceil(radius)
    row, column = (np.arange(round(c) - reach, round(c) + reach + 1) for c in place)
    inside = np.hypot(row[:, None] - place[0], column - place[1]) <= max(radius, 1)
    on = ((row >= 0) & (row < valid.shape[0]))[:, None] & ((column >= 0) & (column < valid.shape[1]))
    seen = valid[np.clip(row, 0, valid.shape[0] - 1)[:, None], np.clip(column, 0, valid.shape[1] - 1)] & on
    return float((seen & inside).sum() / inside.sum())


def _measured(x, valid, indices, shape, plane, radius, seen, certain, other) -> Beam:
    """Find the disk in each pattern about a plane, and the plane through what was found."""
    design = _design(indices, shape)
    if seen <= _UNSEEN:  # nothing to be found in a pattern
        return Beam(plane[0], plane, radius, 0.0, float(seen), certain, other, design @ plane, indices)
    if _share_seen(valid, plane[0], radius) < _ENOUGH and not plane[1:].any():
        # so little of the disk tells no more of a single pattern than all of them do
        other = None if certain else other
        return Beam(plane[0], plane, radius, 0.0, float(seen), certain, other, design @ plane, indices)
    largest = radius > 0.99 * min(valid.shape) / _LARGEST_RADIUS
    plane[0], radius, followed = _followed_edge(x, valid, plane[0], design @ plane, radius)
    certain = certain and (followed or not largest)  # of what is wider than is looked for nothing is known
    factor = max(1, int(radius / _FINE_RADIUS))
    images, measured = _binned_patterns(x, valid, factor)
    images, mask = torch.from_numpy(images), torch.from_numpy(~measured)
    search = max(2 * _LEAST_SEARCH, 1.5 * radius)
    for _ in range(2):
        expected = design @ plane
        start = torch.as_tensor((expected + 0.5) / factor - 0.5, dtype=torch.float32)
        found, correlation = find_disk(images, start, radius / factor, search / factor, mask)
        found = (found.double().numpy() + 0.5) * factor - 0.5
        found = np.where((correlation > _LEAST_CORRELATION).numpy()[:, None], found, expected)
        plane = _fitted_plane(design, found, flat=not plane[1:].any())
        scatter = 1.4826 * np.median(np.hypot(*(found - design @ plane).T))
        # about a beam that is weaker than the disks around it a pattern may err by any distance
        search = max(_LEAST_SEARCH, _RADIUS_SHARE * radius, _SCATTERS * scatter if seen > _SEEN else 0)
    search = min(search, max(2 * _LEAST_SEARCH, 2 * radius))
    center = np.median(found, axis=0)
    other = None if certain else other
    return Beam(center, plane, float(radius), float(search), float(seen), certain, other, found, indices)


def _followed_edge(x, valid, place, expected, radius: float) -> tuple[np.ndarray, float, bool]:
    """Place (2,) and radius of the beam by its edge in the mean of patterns, and whether it has one that is seen.

    A radius that is too small, as the autocorrelation of uneven disks makes it, lets a disk slide inside of the beam.
    """
    if radius < _EDGE:
        return place, radius, False
    half = math.ceil(2.5 * radius + 3)
    middle = torch.from_numpy(expected).round().long()
    cut, seen = _cut(torch.from_numpy(x), middle, half, torch.from_numpy(~valid))
    seen = seen.sum(0).numpy()
    mean = np.where(seen > 0, cut.square().sum(0).numpy() / np.maximum(seen, 1), np.nan)
    start = half + np.median(expected - middle.numpy(), axis=0)
    for factor in (1.0, 1.4):  # of far too small a circle both sides are in the disk
        edge = follow_edge(mean, *start, factor * radius)
        moved = np.array([edge.row, edge.column]) - start
        good = edge.seen > _ENOUGH and edge.uneven < 0.15 * radius and 0.7 * radius < edge.radius < 2 * radius
        if good and np.hypot(*moved) < 0.7 * radius:
            return place + moved, float(edge.radius), True
    return place, radius, False


def _prepared(patterns, indices, signal_mask) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Square roots of the patterns that say something, 0 where masked; where they are valid; their indices."""
    valid = np.ones(patterns.shape[1:], bool) if signal_mask is None else ~np.asarray(signal_mask)
    most = max(8, _MOST_PIXELS // valid.size)
    step = max(1, math.ceil(len(patterns) / most))
    patterns, indices = patterns[::step], indices[::step]
    x = np.where(valid, patterns, 0).astype(np.float32)
    good = np.isfinite(x).all((1, 2))
    x, indices = x[good].clip(0), indices[good]
    highest = x.max((1, 2), initial=0)
    good = highest > 0
    x, indices = x[good] / highest[good, None, None], indices[good]
    return np.sqrt(x), valid, indices


def _typical_radius(x, valid) -> float:
    """Radius (px) of disks, by the width of the patterns' autocorrelation: where it falls to half it is 0.81 radii.

    Gaps that are masked are filled with what is beside them; of a halo the square of the intensities holds little.
    """
    from scipy.ndimage import gaussian_filter

    x = x[:: max(1, len(x) // 16)]
    factor = min(valid.shape) // 192
    if factor > 1:
        radius = factor * _typical_radius(*_binned_patterns(x, valid, factor))
        if radius > _FINE_RADIUS:
            return radius
    y = filled(x**2, valid)
    radius = _half_width(y)
    for _ in range(2):
        # a beam in the middle of a halo
        narrow = _half_width(y - gaussian_filter(y, (0, radius, radius)))
        if narrow > 0.5 * radius:
            break
        radius = narrow
    return radius


def _half_width(y) -> float:
    """Radius (px) of the disks in images (n, rows, columns), by their autocorrelation."""
    rows, columns = y.shape[1:]
    shape = [2 * rows, 2 * columns]
    power = torch.fft.rfft2(torch.from_numpy(y), s=shape).abs().square().mean(0)
    together = torch.fft.irfft2(power, s=shape).numpy()
    longest = min(rows, columns) // 3
    at = np.fft.fftfreq(shape[0], 1 / shape[0])[:, None], np.fft.fftfreq(shape[1], 1 / shape[1])[None]
    ring = np.hypot(*at).round().astype(int)
    inside = ring <= longest
    profile = np.bincount(ring[inside], together[inside]) / np.bincount(ring[inside])
    # at 0 the noise correlates with itself
    top = 2 * profile[1] - profile[2]
    profile = (profile - profile.min()) / max(top - profile.min(), 1e-30)
    below = np.flatnonzero(profile[1:] < 0.5) + 1
    if not len(below):
        return max(1.5, longest / 3)
    i = below[0]
    upper = profile[i - 1] if i > 1 else 1.0
    share = np.clip((upper - 0.5) / max(upper - profile[i], 1e-12), 0, 1)
    return float(np.clip((i - 1 + share) / 0.81, 1.5, min(rows, columns) / _LARGEST_RADIUS))


def _contrast(x, valid, radius: float) -> np.ndarray:
    """Mean over a disk less the mean over the ring around it (n, rows, columns), of what is valid."""
    half = math.ceil(2 * radius + 2)
    at = torch.arange(-half, half + 1, dtype=torch.float64)
    distance = torch.hypot(at[:, None], at[None])
    disk = soft_disk(distance, radius)
    ring = soft_disk(distance, 2 * radius + 1) - soft_disk(distance, 1.3 * radius + 1)
    shape = [n + 2 * half for n in valid.shape]
    kernels = []
    for kernel in (disk, ring):
        padded = torch.zeros(shape)
        padded[: 2 * half + 1, : 2 * half + 1] = kernel
        kernels.append(torch.fft.rfft2(padded.roll((-half, -half), (0, 1))))
    cover = torch.fft.rfft2(torch.from_numpy(valid.astype(np.float32)), s=shape)
    images = torch.fft.rfft2(torch.from_numpy(x), s=shape)
    rows, columns = valid.shape
    means = []
    for kernel, whole in zip(kernels, (disk.sum(), ring.sum()), strict=True):
        covered = torch.fft.irfft2(cover * kernel.conj(), s=shape)[:rows, :columns]
        mean = torch.fft.irfft2(images * kernel.conj(), s=shape)[:, :rows, :columns]
        means.append(torch.where(covered > 0.3 * whole, mean / covered.clamp_min(0.1), torch.nan))
    found = means[0] - torch.where(means[1].isnan(), 0, means[1])
    return torch.nan_to_num(found, nan=0.0).clamp_min(0).numpy()


def _candidates(contrast, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Places (n, m, 2) of the brightest maxima of each map, and their heights (n, m), 1 for the highest."""
    found = find_maxima(torch.from_numpy(contrast), 0.0, max(2.0, radius), _CANDIDATES)
    places = torch.stack([found.row, found.column], -1).double().numpy()
    weights = np.where(found.valid, found.value, 0).astype(float)
    return places, weights / np.maximum(weights.max(1, keepdims=True), 1e-12)


class _Inversion:
    """How well the mean of patterns correlates with itself turned by 180 degrees about a point, of what is seen twice.

    Each pattern counts the same, and strong disks hardly more than weak ones.  The correlation is normalised over the
    pixels whose partner is seen, too (Padfield, IEEE Trans. Image Process. 21, 2706 (2012)).
    """

    def __init__(self, x, valid) -> None:
        mean = torch.from_numpy(np.sqrt(x).mean(0, dtype=float) * valid)
        seen = torch.from_numpy(valid.astype(float))
        shape = [2 * n for n in valid.shape]
        f, v, q = (torch.fft.rfft2(image, s=shape) for image in (mean, seen, mean**2))
        number, total, square, product = (torch.fft.irfft2(a * b, s=shape) for a, b in ((v, v), (f, v), (q, v), (f, f)))
        enough = number > _LEAST_OVERLAP * seen.sum()
        number = number.clamp_min(1)
        variance = (square - total**2 / number).clamp_min(1e-12 * float(mean.square().sum()) + 1e-30)
        self.map = torch.where(enough, (product - total**2 / number) / variance, 0).clamp_min(0).numpy()

    def highest(self, distance: float) -> tuple[np.ndarray, float]:
        """Point (2,) of the highest correlation, and how many times it is that of the next, so far away at least."""
        best = np.array(np.unravel_index(self.map.argmax(), self.map.shape))
        row, column = np.indices(self.map.shape)
        away = np.hypot(row - best[0], column - best[1]) > 2 * distance
        return best / 2, float(self.map.max() / max(1e-3, self.map[away].max(initial=0)))

    def highest_near(self, place, reach: float) -> tuple[np.ndarray, float, bool]:
        """Point (2,) of the highest correlation near a place, its height, and whether all around it is lower."""
        middle = np.round(2 * np.asarray(place)).astype(int)
        low = np.clip(middle - math.ceil(2 * reach), 1, np.array(self.map.shape) - 2)
        high = np.clip(middle + math.ceil(2 * reach) + 1, low + 1, np.array(self.map.shape) - 1)
        part = self.map[low[0] : high[0], low[1] : high[1]]
        row, column = low + np.unravel_index(part.argmax(), part.shape)
        around = self.map[row - 1 : row + 2, column - 1 : column + 2]
        height = float(around[1, 1])
        inside = height > 0 and height >= around.max()
        moved = []
        for before, after in ((around[0, 1], around[2, 1]), (around[1, 0], around[1, 2])):
            bend = before - 2 * height + after
            moved.append(float(np.clip(0.5 * (before - after) / bend, -0.5, 0.5)) if bend < 0 else 0.0)
        return (np.array([row, column]) + moved) / 2, height, inside

    def at(self, place, tolerance: float) -> float:
        """Correlation at a point, or one near to it."""
        low = np.maximum(np.floor(2 * (np.asarray(place) - tolerance)).astype(int), 0)
        high = np.maximum(np.ceil(2 * (np.asarray(place) + tolerance)).astype(int) + 1, 0)
        return float(self.map[low[0] : high[0], low[1] : high[1]].max(initial=0))


def _support(candidates, weights, places, tolerance: float) -> np.ndarray:
    """How bright each pattern (n,) is at a place (2,), or at one of its own (n, 2)."""
    away = np.hypot(*np.moveaxis(candidates - np.asarray(places).reshape(-1, 1, 2), -1, 0))
    return (weights * np.exp(-0.5 * (away / tolerance) ** 2)).max(1)


def _hypotheses(candidates, weights, center_of_inversion, tolerance: float) -> np.ndarray:
    """Places (m, 2) that are bright in many patterns, and the centre of inversion."""
    points, heights = candidates.reshape(-1, 2), weights.reshape(-1)
    there = heights > 0.05
    points, heights = points[there], heights[there]
    best = np.argsort(-heights)[:400]
    points = points[best]
    support = np.array([_support(candidates, weights, point, tolerance).mean() for point in points])
    chosen = []
    for i in np.argsort(-support):
        if all(np.hypot(*(points[i] - other)) > 2 * tolerance for other in chosen):
            chosen.append(points[i])
        if len(chosen) == _HYPOTHESES:
            break
    return np.array([*chosen, center_of_inversion])


def _design(indices, shape) -> np.ndarray:
    """Matrix (n, 3) of a plane over the scan: 1, row and column."""
    shape = shape or (1,)
    position = np.unravel_index(np.asarray(indices), shape)
    row, column = position if len(shape) == 2 else (np.zeros(len(position[0])), position[0])
    return np.stack([np.ones(len(row)), row, column], 1).astype(float)


def _moving(candidates, weights, design, support, tolerance, size):
    """Plane (3, 2) of a beam that moves over the scan and its support; None where a fixed one explains as much."""
    if len(design) < 12 or support > 0.9:
        return None
    rng = np.random.default_rng(0)
    best, best_support = None, max(_MORE * support, _SEEN)
    strongest = candidates[np.arange(len(candidates)), weights.argmax(1)]
    second = candidates[np.arange(len(candidates)), np.argsort(-weights, 1)[:, min(1, weights.shape[1] - 1)]]
    extent = design[:, 1:].max(0) - design[:, 1:].min(0)
    for i in range(400):
        three = rng.choice(len(design), 3, replace=False)
        chosen = np.where(rng.random((3, 1)) < (0.0 if i % 2 else 0.4), second[three], strongest[three])
        plane = np.linalg.lstsq(design[three], chosen, rcond=None)[0]
        if (np.abs(plane[1:]) * extent[:, None]).sum(0).max() > _LARGEST_SLOPE * size:
            continue
        found = _support(candidates, weights, design @ plane, tolerance).mean()
        if found > best_support:
            best, best_support = plane, found
    if best is None:
        return None
    for _ in range(3):
        away = np.hypot(*np.moveaxis(candidates - (design @ best)[:, None], -1, 0))
        nearest = (weights * np.exp(-0.5 * (away / (2 * tolerance)) ** 2)).argmax(1)
        n = np.arange(len(design))
        good = away[n, nearest] < 3 * tolerance
        best = _fitted_plane(design[good], candidates[n, nearest][good])
    return best, _support(candidates, weights, design @ best, tolerance).mean()


def _fitted_plane(design, places, flat: bool = False) -> np.ndarray:
    """Plane (3, 2) through places (n, 2), without the outliers; a median where it is flat or they are few."""
    plane = np.zeros((3, 2))
    plane[0] = np.median(places, 0)
    if flat or len(places) < 6:
        return plane
    keep = np.ones(len(places), bool)
    for _ in range(3):
        plane = np.linalg.lstsq(design[keep], places[keep], rcond=None)[0]
        away = np.hypot(*(places - design @ plane).T)
        keep = away <= 3 * 1.4826 * np.median(away) + 0.2
    return plane
