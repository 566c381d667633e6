"""A sample of a scan's patterns: the same few for any chunks, read once, that stand for all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pyxem_dl.preprocessing import as_float32
from pyxem_dl.scans.fingerprint import readable_patterns

# Patterns of a sample: so many, but no more than fit into so many bytes, and at least so many
MOST_PATTERNS, _MOST_BYTES, _FEWEST = 64, 256 * 2**20, 12
# Neighbours that are taken at each place: of a file, a chunk holds them all, and fewer chunks are read
_NEIGHBOURS = 2
# The highest intensity and the usual ones for which float32 has room, below and above
_LOWEST, _USUAL = 1e-33, 1e33
# Standard deviation in pixels of the Gaussian that fills masked gaps
_FILLED_FROM = 2.0


@dataclass(frozen=True, eq=False)
class Sample:
    """Some patterns of a scan, spread over what is not excluded.

    Parameters
    ----------
    indices : array of int, shape (n,)
        Flat navigation indices, rising.
    patterns : array, shape (n, rows, columns), float32
        As they are, in the same order.
    """

    indices: np.ndarray
    patterns: np.ndarray


def sample_indices(navigation_mask: np.ndarray, nbytes: int) -> np.ndarray:
    """Choose the positions of a sample, whatever the chunks.

    Parameters
    ----------
    navigation_mask : array of bool, shape (n,)
        True where a pattern is excluded.
    nbytes : int
        Of one pattern.

    Returns
    -------
    array of int
        Up to 64 flat indices, rising; fewer of patterns of more than 4 MiB.
    """
    there = np.flatnonzero(~navigation_mask)
    most = min(MOST_PATTERNS, max(_FEWEST, _MOST_BYTES // max(1, nbytes)))
    if len(there) <= most:
        return there
    places = np.linspace(0, len(there) - _NEIGHBOURS, most // _NEIGHBOURS).astype(int)
    return there[np.unique(places[:, None] + np.arange(_NEIGHBOURS))]


def read_sample(data, navigation_mask: np.ndarray) -> Sample:
    """Read the sample of a scan.

    Parameters
    ----------
    data : numpy.ndarray or dask.array.Array, shape (..., rows, columns)
        In data order; of a lazy one only the chunks that hold the sample are computed, where the file allows it only
        the patterns themselves.  What cannot be read is left out.
    navigation_mask : array of bool, shape (n,)
        True where a pattern is excluded.

    Raises
    ------
    ValueError
        For intensities that are too small or too large for float32.
    """
    shape = data.shape[:-2] or (1,)
    data = data[None] if data.ndim == 2 else data
    indices = sample_indices(navigation_mask, 4 * data.shape[-2] * data.shape[-1])
    if not hasattr(data, "dask"):
        found = data[np.unravel_index(indices, shape)]
        _check_range(found)
        return Sample(indices, as_float32(found))
    indices, found = readable_patterns(data, indices)
    found = [np.asarray(x) for x in found]
    _check_range(found)
    return Sample(indices, np.stack([as_float32(x) for x in found]))


def _check_range(patterns) -> None:
    """Raise an error for intensities that are lost in float32, which is computed with."""
    if patterns[0].dtype.kind != "f":
        return
    some = np.abs(np.stack(patterns[:: max(1, len(patterns) // 8)]).astype(float))
    some = some[np.isfinite(some) & (some > 0)]
    highest, usual = (some.max(), np.median(some)) if len(some) else (1, 1)  # a few large ones are wrong pixels
    if highest < _LOWEST or usual > _USUAL:
        raise ValueError(
            f"The intensities reach {highest:.2g}, which float32 cannot hold together with weaker ones. Give other "
            f"units: `s.data = s.data * {10.0 ** -np.floor(np.log10(highest)):.0e}`."
        )


def filled(patterns, valid) -> np.ndarray:
    """Patterns whose masked gaps are filled with what is beside them.

    Parameters
    ----------
    patterns : array, shape (n, rows, columns)
        Finite where they are valid.
    valid : array of bool, shape (rows, columns)
        False where a pixel is excluded.

    Returns
    -------
    array, shape (n, rows, columns)
        In the middle of what is wider than some 10 px they are nearly 0.
    """
    from scipy.ndimage import gaussian_filter

    if valid.all():
        return patterns
    patterns = np.where(valid, patterns, 0).astype(np.float32)
    cover = gaussian_filter(valid.astype(np.float32), _FILLED_FROM)
    beside = gaussian_filter(patterns, (0, _FILLED_FROM, _FILLED_FROM)) / np.maximum(cover, 0.02)
    return np.where(valid, patterns, beside)
