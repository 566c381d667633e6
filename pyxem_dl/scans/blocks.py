"""Blocks: boxes of the scan that are read at once, in a budget of bytes, whatever the chunks."""

from __future__ import annotations

import itertools
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pyxem_dl.messages import warn

# Chunks are merged up to so many bytes, as the file has them, and so many patterns; a chunk alone may be larger, up to
# the second number, and beyond is read in pieces
MERGED_BYTES, LARGEST_BYTES, MOST_PATTERNS = 32 * 2**20, 128 * 2**20, 4096
# A file whose chunks have to be read so many times each is worth a warning
_READ_OFTEN = 4


@dataclass(frozen=True)
class Blocks:
    """A scan cut into boxes of equal size; those at the end may be smaller.

    Parameters
    ----------
    shape : tuple of int
        Of the navigation, in data order; (1,) for a single pattern.
    size : tuple of int
        Of a box.
    """

    shape: tuple[int, ...]
    size: tuple[int, ...]

    @property
    def grid(self) -> tuple[int, ...]:
        """How many boxes along each axis."""
        return tuple(-(-n // size) for n, size in zip(self.shape, self.size))

    def __len__(self) -> int:
        return math.prod(self.grid)

    def box(self, i: int) -> tuple[slice, ...]:
        """Slices of box i, in data order."""
        place = np.unravel_index(i, self.grid)
        return tuple(slice(int(p) * s, min((int(p) + 1) * s, n)) for p, s, n in zip(place, self.size, self.shape))

    def indices(self, i: int) -> np.ndarray:
        """Flat indices of the positions in box i."""
        axes = [np.arange(s.start, s.stop) for s in self.box(i)]
        return np.ravel_multi_index(np.ix_(*axes), self.shape).reshape(-1)

    def of(self, indices: np.ndarray) -> np.ndarray:
        """Which box each position lies in."""
        places = np.unravel_index(indices, self.shape)
        return np.ravel_multi_index([p // s for p, s in zip(places, self.size)], self.grid)


def navigation_shape(data) -> tuple[int, ...]:
    """Shape of the navigation of patterns (..., rows, columns), or of an object array of tables; (1,) for a single."""
    return tuple(data.shape if data.dtype == object else data.shape[:-2]) or (1,)


def plan_blocks(data, most: int = MOST_PATTERNS) -> Blocks:
    """Choose blocks that follow the chunks of the data; of an array in memory they are views.

    Parameters
    ----------
    data : numpy.ndarray or dask.array.Array, shape (..., rows, columns)
        Patterns; or an object array of tables.
    most : int
        Patterns of a block.

    Warns
    -----
    UserWarning
        If chunks are so large, or split the detector so, that each is read many times.
    """
    shape = navigation_shape(data)
    if data.dtype == object or data.ndim == 2:
        return Blocks(shape, _grown((1,) * len(shape), shape, most))
    nbytes = data.dtype.itemsize * math.prod(data.shape[-2:])
    chunk = tuple(max(c) for c in data.chunks[:-2]) if is_lazy(data) else (1,) * len(shape)
    most = max(1, min(most, MERGED_BYTES // nbytes)) if is_lazy(data) else most
    if math.prod(chunk) <= most:
        return Blocks(shape, _grown(chunk, shape, most))
    largest = max(1, LARGEST_BYTES // nbytes)
    if math.prod(chunk) > largest:
        size = _cut(chunk, largest)
        _warn_of_chunks(data, chunk, size)
        return Blocks(shape, size)
    return Blocks(shape, chunk)


def _grown(chunk, shape, most: int) -> tuple[int, ...]:
    """Several chunks together, along the last axis first."""
    size, left = list(chunk), most // math.prod(chunk)
    for axis in reversed(range(len(shape))):
        times = max(1, min(left, -(-shape[axis] // chunk[axis])))
        size[axis] = min(shape[axis], times * chunk[axis])
        left //= times
        if size[axis] < shape[axis]:
            break
    return tuple(size)


def _cut(chunk, largest: int) -> tuple[int, ...]:
    """Cut a chunk into pieces of whole parts of each axis, so that no piece lies in two chunks."""
    size = list(chunk)
    for axis in range(len(chunk)):
        others = math.prod(size) // size[axis]
        wanted = max(1, largest // others)
        if wanted < size[axis]:
            size[axis] = next(n for n in range(wanted, 0, -1) if chunk[axis] % n == 0)
    return tuple(size)


def _warn_of_chunks(data, chunk, size) -> None:
    times = math.prod(-(-c // s) for c, s in zip(chunk, size))
    if times > _READ_OFTEN:
        whole = tuple(int(max(c)) for c in data.chunks)
        warn(
            f"The chunks {whole} of the data are too large to be held in memory with whole patterns: they are read in "
            f"{times} pieces, each perhaps anew. Load the file with chunks that keep the detector whole, such as "
            f"`hs.load(..., lazy=True, chunks={(*size, -1, -1)})` where its reader takes them, or save the scan as "
            ".zspy first."
        )


def is_lazy(data) -> bool:
    """Whether the patterns are a dask array."""
    return hasattr(data, "dask")


def as_scan(data):
    """Patterns with at least one navigation axis."""
    return data.reshape(1, *data.shape) if data.dtype != object and data.ndim == 2 else data


def compute_here(*collections):
    """Compute dask collections: where the user says (a client, a scheduler), or with few threads of this process."""
    import dask.local
    import dask.threaded

    if users_scheduler() is not None:
        return dask.compute(*collections)
    # the functions, not their names, for which dask would import distributed
    scheduler = dask.threaded.get if _readers() > 1 else dask.local.get_sync
    return dask.compute(*collections, scheduler=scheduler, num_workers=_readers())


def _readers() -> int:
    """Threads that read: torch has the cores, and one is enough."""
    return max(1, min(8, (os.cpu_count() or 2) // 2))


def users_scheduler():
    """Scheduler that the user has set, or that of a client of dask.distributed; None without either."""
    import dask

    # dask would import distributed to look for a client, which takes half a second
    if "distributed" in sys.modules or dask.config.get("scheduler", None) is not None:
        return dask.base.get_scheduler()
    return None


class BlockReader:
    """Reads what is wanted of blocks, in the pieces that their chunks are: nothing is copied to put them together.

    Parameters
    ----------
    data : numpy.ndarray or dask.array.Array
        With at least one navigation axis.
    blocks : Blocks
        How it is read.
    wanted : array of bool, shape (n,)
        Of all positions of the scan; chunks of which none is wanted are not read.
    """

    def __init__(self, data, blocks: Blocks, wanted: np.ndarray) -> None:
        self.data, self.blocks, self.wanted = data, blocks, wanted.reshape(blocks.shape)
        self._flat = np.arange(wanted.size).reshape(blocks.shape)
        self._chunks = _Chunks(data) if is_lazy(data) and users_scheduler() is None else None

    def read(self, i: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Flat indices (n,), and patterns (n, rows, columns) or tables (n,), of each piece of block `i`."""
        box = self.blocks.box(i)
        if not is_lazy(self.data):
            return [self._kept(self.data[box], box)]
        pieces = self._pieces(box)
        if self._chunks is None:
            found = compute_here(*(self.data[piece] for piece in pieces))
        else:
            found = self._chunks.read(pieces)
        return [self._kept(np.asarray(part), piece) for part, piece in zip(found, pieces)]

    def read_singly(self, i: int, error: Exception) -> list[tuple[np.ndarray, np.ndarray | Exception]]:
        """As :meth:`read`, after an error, each piece alone: of what cannot be read the error is in its place."""
        box = self.blocks.box(i)
        pieces = self._pieces(box) if is_lazy(self.data) else [box]
        if len(pieces) == 1:
            return [(self._flat[box][self.wanted[box]], error)]
        found = []
        for piece in pieces:
            try:
                (part,) = compute_here(self.data[piece])
                found.append(self._kept(np.asarray(part), piece))
            except MemoryError:
                raise
            except Exception as failed:  # whatever the reader of a file raises
                found.append((self._flat[piece][self.wanted[piece]], failed))
        return found

    def _pieces(self, box) -> list[tuple[slice, ...]]:
        return [piece for piece in _pieces(self.data, box) if self.wanted[piece].any()]

    def _kept(self, part: np.ndarray, piece) -> tuple[np.ndarray, np.ndarray]:
        indices, wanted = self._flat[piece], self.wanted[piece]
        if not wanted.all():
            return indices[wanted], part[wanted]
        return indices.reshape(-1), part.reshape(indices.size, *part.shape[indices.ndim :])


class _Chunks:
    """Chunks of a dask array, from a graph that is prepared once for all of them.

    For each collection that dask computes it prepares the graph anew, which takes a millisecond, and copies the result.
    """

    def __init__(self, data) -> None:
        import dask

        self._data = data
        if data.numblocks[-2:] != (1, 1):
            data = data.rechunk({data.ndim - 2: -1, data.ndim - 1: -1})
        (ready,) = dask.optimize(data)
        self._graph, self._keys = dict(ready.__dask_graph__()), ready.__dask_keys__()
        self._starts = [np.cumsum((0, *chunks)) for chunks in data.chunks]

    def read(self, pieces) -> list[np.ndarray]:
        """Patterns of pieces of the scan, none of which lies in two chunks of the navigation."""
        keys = [self._key(piece) for piece in pieces]
        whole = self._compute([key for key in keys if key is not None])
        others = compute_here(*(self._data[piece] for piece, key in zip(pieces, keys) if key is None))
        whole, others = iter(whole), iter(others)
        return [next(others) if key is None else next(whole) for key in keys]

    def _key(self, piece):
        """Key of the chunk that a piece is; None where it is a part of one, which may be too large to be read whole."""
        block = [int(np.searchsorted(s, p.start, side="right")) - 1 for s, p in zip(self._starts, piece)]
        if any(s[i] != p.start or s[i + 1] != p.stop for s, i, p in zip(self._starts, block, piece)):
            return None
        key = self._keys
        for i in (*block, 0, 0):
            key = key[i]
        return key

    def _compute(self, keys: list) -> list[np.ndarray]:
        import dask.local
        import dask.threaded
        from dask.optimization import cull

        if not keys:
            return []
        graph, _ = cull(self._graph, keys)
        n = _readers()
        return dask.threaded.get(graph, keys, num_workers=n) if n > 1 else dask.local.get_sync(graph, keys)


def _pieces(data, box) -> Iterator[tuple[slice, ...]]:
    """Cut a box where chunks end."""
    axes = []
    for inside, chunks in zip(box, data.chunks):
        ends = np.cumsum((0, *chunks))
        edges = [inside.start, *ends[(ends > inside.start) & (ends < inside.stop)].tolist(), inside.stop]
        axes.append([slice(*pair) for pair in itertools.pairwise(edges)])
    return itertools.product(*axes)


def wanted_blocks(blocks: Blocks, wanted: np.ndarray) -> Iterator[int]:
    """Blocks of which anything is wanted, in data order."""
    return itertools.compress(range(len(blocks)), (wanted[blocks.indices(i)].any() for i in range(len(blocks))))
