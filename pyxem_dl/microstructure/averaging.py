"""Patterns added to those of neighbours that look alike: more electrons for each, and no boundary is crossed.

Neighbours count the less, the more their patterns differ than two draws of electrons from one pattern would (NLPAR:
P. T. Brewick, S. I. Wright & D. J. Rowenhorst, Ultramicroscopy 200, 2019, 50; after S. I. Wright et al.,
Ultramicroscopy 159, 2015, 81).
"""

from __future__ import annotations

import math

import numpy as np
import torch

# Positions away that take part, along each axis of the scan
_REACH = 2
# Pixels are added up to so many bins along a side, before patterns are compared
_BINS = 32
# Bins nearer to the direct beam than this share of the detector do not count: it is bright, and says little
_BEAM = 0.05
# Differences, in standard deviations of what electrons alone make, at which a neighbour counts a third
_TOLERATED = 3.0
# Positions of a block, in bytes of their patterns as they are added, and along a side at least
_BLOCK_BYTES, _LEAST = 2**26, 8


def with_neighbours(data, center: tuple[float, float], gain: float, signal_mask: torch.Tensor | None = None):
    """Add to each pattern those of its neighbours that look alike.

    Parameters
    ----------
    data : numpy.ndarray or dask.array.Array, shape (..., rows, columns)
        Patterns of a scan in one or two dimensions, counts of electrons but for `gain`.
    center : tuple of float
        Direct beam (row, column) in pixels.
    gain : float
        What the detector writes for an electron.
    signal_mask : tensor of bool, shape (rows, columns), optional
        True where the detector is excluded.

    Returns
    -------
    dask.array.Array
        float32, of the shape of `data`: weighted sums. A block is computed when it is read.
    """
    import dask.array as da

    n_axes = data.ndim - 2
    n_bytes = 4 * math.prod(data.shape[-2:])
    side = max(_LEAST, int((_BLOCK_BYTES / n_bytes) ** (1 / n_axes)))
    chunks = {axis: side if axis < n_axes else -1 for axis in range(data.ndim)}
    lazy = da.asarray(data).rechunk(chunks)
    mask = np.zeros(data.shape[-2:], bool) if signal_mask is None else signal_mask.cpu().numpy()
    compared = _compared(data.shape[-2:], center, mask)
    depth = {axis: min(_REACH, data.shape[axis] - 1) for axis in range(n_axes)}
    return lazy.map_overlap(
        _added, depth=depth, boundary="none", dtype=np.float32,
        meta=np.zeros((0,) * data.ndim, np.float32), compared=compared, mask=mask, gain=gain,
    )  # fmt: skip


def _compared(shape, center, mask: np.ndarray) -> np.ndarray:
    """Which of the bins (bins, bins) patterns are compared by."""
    step = _step(shape)
    row, column = (step * (np.arange(-(-n // step)) + 0.5) - 0.5 - c for n, c in zip(shape, center, strict=True))
    far = np.hypot(row[:, None], column) > _BEAM * min(shape)
    return far & ~_binned(mask[None].astype(np.float32), step)[0].astype(bool)


def _step(shape) -> int:
    return max(1, -(-max(shape) // _BINS))


def _binned(patterns: np.ndarray, step: int) -> np.ndarray:
    """Add up squares of pixels: (n, bins, bins)."""
    rows, columns = patterns.shape[-2:]
    patterns = np.pad(patterns, ((0, 0), (0, -rows % step), (0, -columns % step)))
    n, rows, columns = patterns.shape
    return patterns.reshape(n, rows // step, step, columns // step, step).sum((2, 4))


def _added(block: np.ndarray, compared: np.ndarray, mask: np.ndarray, gain: float) -> np.ndarray:
    """Add up what is alike in a block of patterns (..., rows, columns), with what lies around it."""
    block = np.asarray(block)
    patterns = block.reshape(*((1,) * (4 - block.ndim)), *block.shape)
    height, width = patterns.shape[:2]
    patterns = patterns.reshape(height * width, *block.shape[-2:]).astype(np.float32)
    own = patterns.copy()
    patterns = torch.from_numpy(np.nan_to_num(patterns, copy=False, nan=0, posinf=0, neginf=0)).flatten(1)
    binned = _binned(np.where(mask, 0, patterns.numpy().reshape(own.shape)) / gain, _step(block.shape[-2:]))
    binned = torch.from_numpy(binned[:, compared].clip(0)).unflatten(0, (height, width))
    patterns, total = patterns.unflatten(0, (height, width)), torch.from_numpy(own).flatten(1)
    total = total.unflatten(0, (height, width))
    for down in range(-_REACH, _REACH + 1):
        for right in range(-_REACH, _REACH + 1):
            if (down or right) and abs(down) < height and abs(right) < width:
                here = _inside(height, down), _inside(width, right)
                there = _inside(height, -down), _inside(width, -right)
                weight = _alike(binned[here], binned[there])
                total[here] += weight[..., None] * patterns[there]
    return total.reshape(block.shape).numpy()


def _inside(n: int, step: int) -> slice:
    """Positions of n of which those that are a step further exist."""
    return slice(max(0, -step), n - max(0, step))


def _alike(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """How much patterns (..., bins) count beside others, from 0 to 1."""
    both = a + b
    seen = both > 0
    square = torch.where(seen, (a - b).square() / both.clamp_min(1e-6), 0.0)
    # of counts with one mean, each term is 1 in the mean, and its variance less than 2 where they are few
    expected, variance = seen.sum(-1), (seen * (2 - 2 / both.clamp_min(1))).sum(-1)
    return torch.exp(-((square.sum(-1) - expected) / variance.clamp_min(1).sqrt()).clamp_min(0) / _TOLERATED)
