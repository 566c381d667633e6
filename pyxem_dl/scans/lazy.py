"""Lazy output: tables of a ragged field as a dask array with the chunks of the signal, in whatever process they run."""

from __future__ import annotations

import hashlib

import numpy as np

from pyxem_dl.scans.blocks import as_scan, is_lazy
from pyxem_dl.scans.options import Computing
from pyxem_dl.scans.scan import Scan
from pyxem_dl.scans.sent import SentStep
from pyxem_dl.scans.steps import Collected, Step


def lazy_tables(scan: Scan, step: Step, name: str, computing: Computing):
    """Dask array of object tables (m, columns), of the navigation's shape.

    Parameters
    ----------
    scan : Scan
        With the patterns.
    step : Step
        What is done.
    name : str
        Of its ragged field.
    computing : Computing
        Where; its callbacks are not called.
    """
    import dask.array as da

    data = as_scan(scan.data)
    data = data if is_lazy(data) else da.from_array(data)
    data = data.rechunk({data.ndim - 2: -1, data.ndim - 1: -1})
    shape = data.shape[:-2]
    index = da.from_array(np.arange(scan.size).reshape(shape), chunks=data.chunks[:-2])[..., None, None]
    block = LazyBlock(SentStep(step, computing), name, ~scan.navigation_mask)
    drop, meta = [data.ndim - 2, data.ndim - 1], np.empty((0,) * len(shape), object)
    return da.map_blocks(block, data, index, dtype=object, drop_axis=drop, meta=meta)


class LazyBlock:
    """Does a step with a chunk.

    Dask knows it by a token of its content, so that the same work has the same name.

    Parameters
    ----------
    step : SentStep
        What is done, with its bytes.
    name : str
        Of its ragged field.
    wanted : array of bool, shape (n,)
        Which positions of the scan.
    """

    def __init__(self, step: SentStep, name: str, wanted: np.ndarray) -> None:
        self._step, self._name, self._wanted = step, name, wanted

    def __dask_tokenize__(self) -> tuple:
        mask = hashlib.sha256(self._wanted.tobytes()).hexdigest()
        return type(self).__name__, *self._step.__dask_tokenize__(), self._name, mask

    def __call__(self, patterns, index):
        """Tables of a chunk (..., rows, columns) with the flat positions `index` (..., 1, 1)."""
        places = index.reshape(-1)
        found = Collected(len(places))
        tables = found.tables(self._name, self._step.load().fields[self._name].shape)
        keep = np.flatnonzero(self._wanted[places])
        flat = patterns.reshape(-1, *patterns.shape[-2:])
        done = 0
        for part in self._step.compute(places[keep], flat[keep]):
            here = keep[done : done + len(part.indices)]  # parts come in order
            found.add(part._replace(indices=here))
            done += len(here)
        return tables.reshape(patterns.shape[:-2])
