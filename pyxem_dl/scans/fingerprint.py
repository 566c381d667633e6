"""What results depend on, as a number: the patterns, where they come from, masks and settings."""

from __future__ import annotations

import hashlib
import json
import math
from contextlib import suppress
from pathlib import Path

import numpy as np

from pyxem_dl.scans.blocks import as_scan, compute_here, is_lazy

# Patterns that are looked at: all that are so many bytes together, else a spread
_LOOKED_AT_BYTES, LOOKED_AT = 64 * 2**20, 32


def fingerprint(data, settings, arrays, source=None, *, on_disk: bool = True) -> str:
    """Hash what results depend on.

    Parameters
    ----------
    data : numpy.ndarray or dask.array.Array, shape (..., rows, columns)
        Patterns: of an array in memory all are looked at, of others, which may take hours to read, 32 from the first to
        the last (or all, up to 64 MiB).
    settings : list
        Plain numbers and texts.
    arrays : iterable of array, str or None
        Masks, centers and the like.
    source : list, optional
        Where the patterns come from; see :func:`source_of`.
    on_disk : bool
        Look at patterns that are not in memory, too.
    """
    from pyxem_dl import __version__

    shape = tuple(int(n) for n in data.shape)
    digest = hashlib.sha256(json.dumps([__version__, shape, str(data.dtype), settings, source]).encode())
    for array in arrays:
        digest.update(b"none" if array is None else _bytes(array))
    if is_in_memory(data):
        for part in data[None] if data.dtype == object else data:
            digest.update(_bytes(part))
    elif on_disk:
        positions = spread(np.arange(math.prod(shape[:-2])), data.dtype.itemsize * math.prod(shape[-2:]))
        for pattern in read_patterns(data, positions):
            digest.update(_bytes(pattern))
    return digest.hexdigest()


def is_in_memory(data) -> bool:
    """Whether all patterns can be looked at without reading a disk."""
    return not hasattr(data, "dask") and not isinstance(data, np.memmap)


def source_of(signal) -> list:
    """Say from which file a signal comes, as far as it knows: name, size in bytes and time of the last change."""
    name = str(signal.metadata.get_item("General.original_filename", ""))
    where = getattr(signal, "tmp_parameters", None)
    where = {} if where is None else where.as_dictionary()
    if where.get("filename"):
        path = Path(str(where.get("folder", ""))) / f"{where['filename']}{where.get('extension', '')}"
        if path.exists():
            return [path.name, path.stat().st_size, path.stat().st_mtime_ns]
        name = path.name
    return [name]


def _bytes(array) -> bytes:
    if isinstance(array, str):
        return array.encode()
    if array.dtype == object:  # tables: its own bytes are only where these lie in the memory
        return b"".join(str(table.shape).encode() + _bytes(table) for table in array.ravel())
    return np.ascontiguousarray(array).tobytes()


def spread(positions: np.ndarray, nbytes: int, most: int = LOOKED_AT) -> np.ndarray:
    """All positions where their patterns, of so many bytes, are few; else some from the first to the last."""
    if len(positions) * nbytes <= _LOOKED_AT_BYTES or len(positions) <= most:
        return positions
    return positions[np.linspace(0, len(positions) - 1, most).astype(int)]


def read_patterns(data, positions) -> list[np.ndarray]:
    """Patterns at flat positions of a NumPy or dask array (..., rows, columns)."""
    data = as_scan(data)
    patterns = [data[np.unravel_index(i, data.shape[:-2])] for i in positions]
    return list(compute_here(*patterns)) if is_lazy(data) else patterns


def readable_patterns(data, positions: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """As :func:`read_patterns`, without those that cannot be read; the positions that can, and their patterns.

    Raises
    ------
    Exception
        What reading raises, where none can be read.
    """
    try:
        return positions, read_patterns(data, positions)
    except MemoryError:
        raise
    except Exception as error:  # whatever the reader of a file raises
        found = {}
        for i in positions.tolist():
            with suppress(Exception):
                found[i] = read_patterns(data, [i])[0]
        if not found:
            raise error
        return np.array(list(found)), list(found.values())


def pattern_checksums(patterns: np.ndarray) -> np.ndarray:
    """Checksum of each pattern (n, rows, columns), as it is in the file, as unsigned integers of 64 bits.

    Sums of its 64-bit words, each times an odd number of its own: so fast that reading does not wait for it (a CRC
    takes ten times as long), while other values, or the same ones at other places, give another sum.
    """
    flat = np.ascontiguousarray(patterns).reshape(len(patterns), -1).view(np.uint8)
    if flat.shape[1] % 8:
        flat = np.pad(flat, [(0, 0), (0, -flat.shape[1] % 8)])
    words = flat.view(np.uint64)
    weights = np.arange(1, 2 * words.shape[1], 2, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return np.einsum("ij,j->i", words, weights)
