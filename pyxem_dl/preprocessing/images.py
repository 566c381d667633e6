"""Patterns on the detector: checks, the direct beam, counts, and other sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional

from pyxem_dl.frames import Calibration
from pyxem_dl.preprocessing.elementary import square_root

# Levels of intensity at which the noise of a detector is looked at
_GAIN_BINS = 12
# So many electrons in a pixel float32 still counts one by one, when they were multiplied by a number
_LARGEST_MULTIPLE = 2e4


def check_patterns(data) -> None:
    """Raise an error that says why, if an array does not hold patterns.

    Parameters
    ----------
    data : numpy.ndarray or dask.array.Array
        To be of shape (..., rows, columns), with 0, 1 or 2 navigation dimensions.
    """
    if data.ndim not in (2, 3, 4):
        raise ValueError(
            f"The data have {data.ndim} dimensions; they must have 2, 3 or 4 (0, 1 or 2 navigation "
            "dimensions). Give one scan at a time, for example `s.inav[:, :, 0]`."
        )
    if np.dtype(data.dtype).kind not in "buif":
        raise TypeError(f"Patterns must be real numbers, not {data.dtype}.")
    if 0 in data.shape:
        raise ValueError(f"The data are empty (shape {tuple(data.shape)}): they hold no pattern.")


def as_float32(patterns: np.ndarray) -> np.ndarray:
    """Contiguous float32 in the machine's byte order, which torch takes."""
    with np.errstate(over="ignore"):  # beyond float32 is inf, and not indexed
        return np.ascontiguousarray(patterns, dtype=np.float32)


def rescaled(calibration: Calibration, factor: float) -> Calibration:
    """Multiply the scale of a calibration."""
    if factor == 1:
        return calibration
    return replace(calibration, scale=tuple(factor * scale for scale in calibration.scale))


def find_direct_beam(
    patterns: torch.Tensor, calibration: Calibration, search_radius: float = 0.25
) -> torch.Tensor:
    """Find the direct beam: centre of mass of the brightest blob near the nominal centre.

    Parameters
    ----------
    patterns : tensor, shape (n, rows, columns)
        Intensities.
    calibration : Calibration
        Its centre is where the search begins.
    search_radius : float
        How far to search, in Å⁻¹.

    Returns
    -------
    tensor, shape (n, 2)
        (row, column) in pixels.
    """
    rows, columns = patterns.shape[1:]
    device = patterns.device
    r = torch.arange(rows, device=device, dtype=torch.float32)[:, None]
    c = torch.arange(columns, device=device, dtype=torch.float32)[None]

    def distance(center_row, center_column):
        return torch.hypot(
            (r - center_row) * calibration.scale[0], (c - center_column) * calibration.scale[1]
        )

    near = distance(*calibration.center) <= search_radius
    x = torch.nan_to_num(patterns.float()).clamp_min(0) * near
    # The blob is the beam at half its height: halo and neighbouring disks stay below.  The
    # blurred maximum is not fooled by a hot pixel.
    blurred = functional.avg_pool2d(x[:, None], 3, 1, 1)[:, 0]
    height = blurred.amax((1, 2), keepdim=True)
    peak = blurred.flatten(1).argmax(1)
    peak_row = (peak // columns).float()[:, None, None]
    peak_column = (peak % columns).float()[:, None, None]
    weight = (blurred - 0.5 * height).clamp_min(0)
    weight = weight * (distance(peak_row, peak_column) <= search_radius / 2)
    total = weight.sum((1, 2)).clamp_min(1e-20)
    found = torch.stack([(weight * r).sum((1, 2)), (weight * c).sum((1, 2))], -1) / total[:, None]
    nominal = zip(found.unbind(-1), calibration.center, strict=True)
    return torch.stack([torch.where(height[:, 0, 0] > 0, one, other) for one, other in nominal], dim=-1)


def counts_per_electron(patterns: torch.Tensor, signal_mask: torch.Tensor | None = None) -> float:
    """Estimate what a detector writes for an electron.

    Parameters
    ----------
    patterns : tensor, shape (n, rows, columns)
        Of one detector.
    signal_mask : tensor of bool, shape (rows, columns), optional
        True where the detector is excluded.

    Returns
    -------
    float
        Exactly the smallest step of the values for a detector that counts (1 for counts, 1e-6 for counts times 1e-6):
        what is multiplied by a number has a gain that is multiplied by it.  Where nothing can be said, that step, or
        a thousandth of the highest value where there is none.

    Notes
    -----
    Neighbouring pixels of an even region differ by counting and by the noise of the readout, and the mean square of
    their difference grows with the mean intensity by twice the gain (a photon transfer curve, see Janesick, *Photon
    Transfer*, SPIE 2007).  The growth is looked at from the faintest to the middle of what is not empty: brighter
    regions are not even.
    """
    patterns = patterns.float()
    if signal_mask is not None:
        patterns = torch.where(signal_mask.to(patterns.device), 0.0, patterns)
    patterns = patterns[patterns.isfinite().all(2).all(1)]
    highest = float(patterns.abs().max()) if patterns.numel() else 0.0
    if not highest:
        return 1.0
    step = _smallest_step(patterns)
    # no square may be too small or too large for float32
    gain = _growth_of_noise(patterns / highest, signal_mask)
    if gain is not None:
        gain *= highest
    if step is not None and (gain is None or 0.6 < gain / step < 1.6):
        return step  # what is near to counts is counts
    return 1e-3 * highest if gain is None else gain


def _smallest_step(patterns: torch.Tensor) -> float | None:
    """Smallest positive value, where all others are multiples of it (of a direct beam float32 says no more)."""
    positive = patterns[patterns > 0]
    if len(positive) > 100_000:
        positive = torch.cat([positive[:: len(positive) // 100_000], positive.min()[None]])
    if not len(positive) or bool((patterns < 0).any()):
        return None
    multiples = positive / positive.min()
    known = multiples < _LARGEST_MULTIPLE
    multiples, positive = multiples[known], positive[known]
    largest, uneven = float(multiples.max()), float((multiples - multiples.round()).abs().max())
    if float(known.float().mean()) < 0.5 or uneven > max(1e-6 * largest, 1e-3):
        return None
    # rounding of the smallest value counts less in the largest one
    return float(positive.max()) / round(largest)


def in_electrons(patterns: torch.Tensor, gain: float) -> torch.Tensor:
    """Divide intensities by what the detector writes for an electron.

    Parameters
    ----------
    patterns : tensor
        Intensities.
    gain : float
        See :func:`counts_per_electron`.

    Returns
    -------
    tensor
        Whole numbers where they are whole but for rounding: the same ones whatever counts were multiplied by.
    """
    if gain == 1:
        return patterns
    electrons = patterns / gain
    whole = electrons.round()
    # in place, for whole batches are moved through the memory here
    tolerance = whole.abs().mul_(3e-7).clamp_(1e-3, 0.25)
    near = (electrons - whole).abs_() <= tolerance
    return torch.where(near, whole, electrons)


def _growth_of_noise(patterns: torch.Tensor, signal_mask: torch.Tensor | None) -> float | None:
    """Slope of the variance over the mean between neighbouring pixels; None where there is too little to tell it."""
    left, right = patterns[..., :-1], patterns[..., 1:]
    around = functional.avg_pool2d(patterns[:, None], 5, 1, 2, count_include_pad=False)[:, 0, :, :-1]
    signed = bool((patterns < 0).any())
    seen = torch.ones_like(around, dtype=torch.bool) if signed else around > 0
    if signal_mask is not None:
        seen &= ~(signal_mask[:, :-1] | signal_mask[:, 1:]).to(seen.device)
    order = around[seen].argsort()
    size = len(order) // (2 * _GAIN_BINS)
    if size < 20:
        return None
    bins = order[: size * _GAIN_BINS].reshape(_GAIN_BINS, size)
    mean = (0.5 * (left + right)[seen])[bins].mean(1).double()
    variance = (0.5 * (left - right).square()[seen])[bins].mean(1).double()
    if not float(variance.max()):
        return None
    # the noise of the readout is the same everywhere; a variance weighs as the inverse of its own
    weight = 1 / variance.clamp_min(1e-6 * float(variance.max()))
    middle_mean, middle = (weight * mean).sum() / weight.sum(), (weight * variance).sum() / weight.sum()
    spread = (weight * (mean - middle_mean).square()).sum()
    gain = float((weight * (mean - middle_mean) * (variance - middle)).sum() / spread.clamp_min(1e-30))
    if not signed and float(mean.max() - mean.min()) < 0.5 * float(mean.mean()):
        gain = float(variance.sum() / mean.sum())  # one level tells no growth
    return gain if gain > 0 else None


def rescale(patterns: torch.Tensor, factor: float) -> torch.Tensor:
    """Change the size of patterns and keep their counts.

    Parameters
    ----------
    patterns : tensor, shape (n, rows, columns)
        Intensities.
    factor : float
        New size relative to the old one.

    Returns
    -------
    tensor, shape (n, floor(factor * rows), floor(factor * columns))
        A place at pixel (row, column) is now at ``(row + 0.5) * factor - 0.5``, and so is its
        column.
    """
    if factor == 1:
        return patterns
    scaled = functional.interpolate(
        patterns[:, None], scale_factor=factor, mode="bilinear", align_corners=False,
        antialias=factor < 1, recompute_scale_factor=False,
    )  # fmt: skip
    return scaled[:, 0] / factor**2


def shift_to_center(patterns, centers, calibration: Calibration) -> torch.Tensor:
    """Move each pattern so that its direct beam lies at the calibration's centre."""
    rows, columns = patterns.shape[1:]
    row, column = (x - middle for x, middle in zip(centers.to(patterns).unbind(-1), calibration.center, strict=True))
    r = torch.arange(rows, device=patterns.device, dtype=patterns.dtype)
    c = torch.arange(columns, device=patterns.device, dtype=patterns.dtype)
    y = (r[None, :, None] + row[:, None, None]) * (2 / (rows - 1)) - 1
    x = (c[None, None, :] + column[:, None, None]) * (2 / (columns - 1)) - 1
    grid = torch.stack(torch.broadcast_tensors(x, y), dim=-1)
    shifted = functional.grid_sample(
        patterns[:, None], grid, mode="bilinear", padding_mode="zeros", align_corners=True
    )
    return shifted[:, 0]


def bin_pixels(factor: int, patterns, weights, centers, calibration: Calibration):
    """Average blocks of `factor` x `factor` pixels; all that goes with the patterns (or None) follows."""
    pool = functional.avg_pool2d
    patterns = pool(patterns[:, None], factor)[:, 0]
    if weights is not None:
        weights = pool(weights[:, None], factor)[:, 0]
    middle = (factor - 1) / 2
    if centers is not None:
        centers = (centers - middle) / factor
    binned = calibration.replace(
        scale=tuple(s * factor for s in calibration.scale),
        center=tuple((c - middle) / factor for c in calibration.center),
        shape=tuple(patterns.shape[1:]),
    )
    return patterns, weights, centers, binned


def normalised(images: torch.Tensor, weight: torch.Tensor, gamma: float, clip: float) -> torch.Tensor:
    """Compress intensities, and bring them to a root mean square of 1.

    Parameters
    ----------
    images : tensor, shape (n, ...)
        Intensities; negative ones count as 0.
    weight : tensor, shape (n or 1, ...)
        Where the mean square is taken.
    gamma : float
        Exponent; 0.5 makes Poisson noise even.
    clip : float
        Largest value of the result.
    """
    x = _power(images.clamp_min(0), gamma)
    over = tuple(range(1, x.ndim))
    mean_square = (x.square() * weight).sum(over, keepdim=True) / weight.sum(over, keepdim=True).clamp_min(1)
    return (x / mean_square.sqrt().clamp_min(1e-20)).clamp_max_(clip)


def _power(x: torch.Tensor, gamma: float) -> torch.Tensor:
    return square_root(x) if gamma == 0.5 else x.pow(gamma)
