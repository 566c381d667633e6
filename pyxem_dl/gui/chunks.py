"""Single patterns of a scan, from chunks that stay in memory while there is room."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict

import numpy as np

from pyxem_dl.scans.blocks import as_scan, compute_here, is_lazy

#: Bytes of all chunks that are kept
MOST_BYTES = 256_000_000


class ChunkCache:
    """Reads single patterns; of a lazy scan the chunk around each is kept, and those longest not used are forgotten.

    Parameters
    ----------
    data : numpy.ndarray or dask.array.Array, shape (..., rows, columns)
        Patterns in data order.
    most_bytes : int
        Of all that is kept. Of larger chunks only the pattern itself is.
    """

    def __init__(self, data, most_bytes: int = MOST_BYTES) -> None:
        self._data, self._most = as_scan(data), most_bytes
        self._kept: OrderedDict[tuple, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes that are kept now."""
        return sum(part.nbytes for part in self._kept.values())

    def pattern(self, index: int) -> np.ndarray:
        """Pattern (rows, columns) at a flat navigation index; it is the caller's own."""
        place = tuple(int(i) for i in np.unravel_index(index, self._data.shape[:-2]))
        if not is_lazy(self._data):
            return np.array(self._data[place])
        box = self._box(place)
        with self._lock:
            part = self._kept.pop(box, None)
            if part is None:
                part = self._read(box)
            self._kept[box] = part  # the newest is the last
        return part[tuple(i - start for i, (start, _) in zip(place, box, strict=True))].copy()

    def _box(self, place: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        """First and last position, along each axis, of what is read for one."""
        box = []
        for i, chunks in zip(place, self._data.chunks):
            ends = np.cumsum((0, *chunks))
            block = int(np.searchsorted(ends, i, side="right")) - 1
            box.append((int(ends[block]), int(ends[block + 1])))
        return tuple(box) if self._size(box) <= self._most else tuple((i, i + 1) for i in place)

    def _size(self, box) -> int:
        pattern = self._data.dtype.itemsize * math.prod(self._data.shape[-2:])
        return pattern * math.prod(stop - start for start, stop in box)

    def _read(self, box) -> np.ndarray:
        """Patterns of a box, for which there is room before they are there."""
        size = self._size(box)
        while self._kept and self.nbytes + size > self._most:
            self._kept.popitem(last=False)
        (part,) = compute_here(self._data[tuple(slice(*ends) for ends in box)])
        return np.asarray(part)
