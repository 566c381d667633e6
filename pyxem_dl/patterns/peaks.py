"""Peaks of many maps at once: local maxima, their separation and their sub-pixel positions.

Everything is batched on the device of the maps; there is no loop over maps, and no map's peaks depend on the others of
its batch.  A CPU looks at the candidates that there are; a device is not asked how many there are, which would make the
host wait, and looks at as many as there may be.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch.nn.functional import pad

# Candidates that are looked at for each peak that is kept, before the separation
_CANDIDATES_PER_PEAK = 4
# So many rounds separate the peaks on a device; odd, see there
_ROUNDS = 31


class Maxima(NamedTuple):
    """Peaks of n maps, padded to the m of the map that has most; the strongest first.

    Parameters
    ----------
    row, column : tensor, shape (n, m)
        Sub-pixel positions in pixels; pixel centres are integers.
    value : tensor, shape (n, m)
        The map's value at the pixel of the maximum.
    valid : tensor of bool, shape (n, m)
        False where a row is padded: all else is 0 there.
    """

    row: torch.Tensor
    column: torch.Tensor
    value: torch.Tensor
    valid: torch.Tensor

    @property
    def count(self) -> torch.Tensor:
        """Number of peaks of each map, shape (n,)."""
        return self.valid.sum(1)

    def select(self, keep: torch.Tensor) -> Maxima:
        """Drop the peaks where `keep` (n, m) is False: the others move up, the padding stays at the end."""
        keep = keep & self.valid
        width = keep.shape[1]
        if keep.device.type == "cpu":
            width = max(1, int(keep.sum(1).max())) if len(keep) else 1
        order = (~keep).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
        kept = keep.gather(1, order)
        return Maxima(*(torch.where(kept, x.gather(1, order), 0) for x in self[:3]), kept)


def find_maxima(
    maps: torch.Tensor,
    threshold: float | torch.Tensor,
    min_distance: float,
    max_peaks: int,
    subpixel: str | None = "parabola",
) -> Maxima:
    """Find the local maxima of maps.

    A peak is a pixel above the threshold that none within ``min_distance / sqrt(2)`` along rows and columns exceeds; of
    peaks that are nearer to each other than `min_distance` the strongest is kept.

    Parameters
    ----------
    maps : tensor, shape (n, rows, columns)
        Floating point.  Where they are NaN or -inf there is no peak.
    threshold : float or tensor, shape (n,)
        What a peak exceeds, one for all maps or one for each.
    min_distance : float
        Between two peaks of a map, in pixels; below 1 it is 1.
    max_peaks : int
        Largest number of peaks to keep in each map, the strongest first.
    subpixel : {"parabola", None}
        Refine positions by the parabolas through the neighbours along rows and columns, by half a pixel at most; at the
        border of the map neighbours are missing, so there is no refinement.

    Returns
    -------
    Maxima
        Of shape (n, m) with ``1 <= m <= max_peaks``; on a CPU m is no larger than has to be.

    Raises
    ------
    ValueError
        For arguments that make no sense.
    """
    if maps.ndim != 3:
        raise ValueError(f"Maps have the shape (n, rows, columns), not {tuple(maps.shape)}.")
    if subpixel not in ("parabola", None):
        raise ValueError(f"subpixel must be 'parabola' or None, not {subpixel!r}.")
    if isinstance(max_peaks, bool) or int(max_peaks) != max_peaks or max_peaks < 1:
        raise ValueError(f"max_peaks must be a whole number of at least 1, not {max_peaks!r}.")
    if not (math.isfinite(min_distance) and min_distance >= 0):
        raise ValueError(f"min_distance must be a number of pixels of at least 0, not {min_distance!r}.")
    min_distance = max(1.0, float(min_distance))
    maps = torch.nan_to_num(maps, nan=-math.inf, posinf=-math.inf, neginf=-math.inf)
    candidates = _candidates(maps, threshold, min_distance, _CANDIDATES_PER_PEAK * int(max_peaks))
    separated = _separated if maps.device.type == "cpu" else _separated_in_rounds
    peaks = candidates.select(separated(candidates, min_distance))
    peaks = Maxima(*(x[:, :max_peaks] for x in peaks))
    return _refined(maps, peaks) if subpixel else peaks


def _candidates(maps, threshold, min_distance, most: int) -> Maxima:
    """Largest pixels of the squares that lie inside of circles of the radius `min_distance`, the strongest first."""
    if isinstance(threshold, torch.Tensor):
        threshold = threshold.to(maps).reshape(-1, 1, 1)
    half = max(1, int(min_distance / math.sqrt(2)))
    there = are_highest(maps, half) & (maps > threshold)
    return (_listed if maps.device.type == "cpu" else _sorted)(maps, there, most)


def _sorted(maps, there, most: int) -> Maxima:
    """Candidates of all pixels in order; what is equal stays in the order of rows and columns."""
    values = torch.where(there, maps, -math.inf).flatten(1)
    values, index = (x[:, :most] for x in values.sort(dim=1, descending=True, stable=True))
    valid = values > -math.inf
    row, column = torch.div(index, maps.shape[2], rounding_mode="floor"), index % maps.shape[2]
    return Maxima(*(torch.where(valid, x, 0).to(maps) for x in (row, column, values)), valid)


def _listed(maps, there, most: int) -> Maxima:
    """Candidates of the few pixels that are maxima: several times faster than :func:`_sorted` on a CPU."""
    index, row, column = there.nonzero(as_tuple=True)
    value = maps[index, row, column]
    # by map, in each by strength; what is equal stays in the order of rows and columns
    order = value.argsort(descending=True, stable=True)
    order = order[index[order].argsort(stable=True)]
    index, row, column, value = (x[order] for x in (index, row, column, value))
    count = torch.bincount(index, minlength=len(maps))
    rank = torch.arange(len(index), device=maps.device) - (count.cumsum(0) - count)[index]
    width = max(1, min(most, int(count.max()) if len(maps) else 1))
    here = rank < width
    index, rank = index[here], rank[here]

    def padded(x):
        return x.new_zeros(len(maps), width).index_put_((index, rank), x[here])

    valid = padded(torch.ones_like(row, dtype=torch.bool))
    return Maxima(padded(row.to(maps)), padded(column.to(maps)), padded(value), valid)


def are_highest(maps: torch.Tensor, half: int) -> torch.Tensor:
    """Tell which pixels of maps (n, rows, columns) none exceeds that is up to `half` rows and columns away."""
    return maps == _sliding_maximum(_sliding_maximum(maps, half, 1), half, 2)


def parabola_shift(before: torch.Tensor, middle: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """How far from a maximum, between -0.5 and 0.5 steps, the parabola through it and its neighbours is highest."""
    bend = (before - 2 * middle + after).clamp_max(-1e-12)
    return (0.5 * (before - after) / bend).clamp(-0.5, 0.5)


def _sliding_maximum(x: torch.Tensor, half: int, dim: int) -> torch.Tensor:
    """Maximum of the 2 half + 1 neighbours along a dimension, by doubling: several times faster than pooling."""
    x = pad(x, (0, 0) * (x.ndim - 1 - dim) + (half, half), value=-math.inf)
    size, width = 2 * half + 1, 1
    while width < size:
        step = min(width, size - width)
        n = x.shape[dim] - step
        x = torch.maximum(x.narrow(dim, 0, n), x.narrow(dim, step, n))
        width += step
    return x


def _separated(peaks: Maxima, min_distance: float) -> torch.Tensor:
    """Tell which peaks (n, m), from the strongest on, have no kept one nearer than `min_distance`."""
    keep = peaks.valid.clone()
    for i in range(keep.shape[1] - 1):
        squared = (peaks.row[:, i + 1 :] - peaks.row[:, i, None]) ** 2
        squared += (peaks.column[:, i + 1 :] - peaks.column[:, i, None]) ** 2
        keep[:, i + 1 :] &= ~(keep[:, i, None] & (squared < min_distance**2))
    return keep


def _separated_in_rounds(peaks: Maxima, min_distance: float) -> torch.Tensor:
    """Tell what :func:`_separated` does, without a step for each peak.

    A peak is kept if no stronger one in its way is.  From all peaks on, each round is right about the peaks that hang
    on one more other than before: after an even number of rounds too many are kept, after an odd one too few, until
    nothing changes.  So of a chain of more peaks than rounds, each too near to the one before, the end is dropped.
    """
    squared = (peaks.row[:, :, None] - peaks.row[:, None]) ** 2
    squared += (peaks.column[:, :, None] - peaks.column[:, None]) ** 2
    rank = torch.arange(peaks.row.shape[1], device=squared.device)
    # (n, peak, a stronger one that is too near)
    near = (squared < min_distance**2) & (rank[None] < rank[:, None])
    keep = peaks.valid
    for _ in range(_ROUNDS):
        keep = peaks.valid & ~(near & keep[:, None]).any(2)
    return keep


def _refined(maps, peaks: Maxima) -> Maxima:
    """Move peaks to the tops of the parabolas through the neighbours, where there are two that are lower."""
    around = pad(maps, (1, 1, 1, 1), value=-math.inf)
    index = torch.arange(len(maps), device=maps.device)[:, None]
    row, column = peaks.row.long() + 1, peaks.column.long() + 1
    middle = around[index, row, column]
    shifts = []
    for step in ((1, 0), (0, 1)):
        before = around[index, row - step[0], column - step[1]]
        after = around[index, row + step[0], column + step[1]]
        good = peaks.valid & before.isfinite() & after.isfinite()
        shifts.append(torch.where(good, parabola_shift(before, middle, after), 0))
    return peaks._replace(row=peaks.row + shifts[0], column=peaks.column + shifts[1])
