"""A search for disks in a scan, whatever finds them: at once, lazily, or into a file."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pyxem_dl.bragg_vectors.vectors import FoundDisks, to_diffraction_vectors
from pyxem_dl.checks import flag
from pyxem_dl.files import check_hdf5, check_target, claimed, replacing, reserve
from pyxem_dl.messages import warn
from pyxem_dl.partial_results import PartialResults, fingerprint, is_in_memory, pattern_checksum, source_of
from pyxem_dl.results.maps import print_summary, timed
from pyxem_dl.results.py4dstem import to_py4dstem
from pyxem_dl.scans import Scan
from pyxem_dl.streaming import stream

# Disks of a pattern for which there must be room, at least: found, kept, and written
_KEPT_DISKS = 3 * 10
# Of an .hspy file without its data, at most
_HSPY_BYTES = 200_000
_PYXEM, _PY4DSTEM = (".hspy", ".zspy"), (".h5", ".hdf5", ".emd")


@dataclass
class Search:
    """One search for disks, checked and ready to run.

    Parameters
    ----------
    title : str
        What it is.
    lines : dict
        What it is done with, to be printed.
    signal : pyxem.signals.Diffraction2D
        Of which the vectors are.
    scan : Scan
        The same, checked.
    find : callable
        ``find(patterns)`` returns row and column (n, m) in pixels, a tuple of further columns (n, m), and which of
        them are there.
    columns : sequence of str
        Of the vectors.
    settings : list
        Plain numbers and texts on which the answers depend, beside the scan.
    reciprocal_radius : float, optional
        Disks beyond are left out, in Å⁻¹.
    subtract_center : bool
        Measure from the direct beam; else from the first pixel.
    device : torch.device
        Where to search.
    batch_size : int, optional
        Patterns per batch.
    check : callable, optional
        Called before the search, but not before a lazy one: it looks at patterns, and may warn.
    """

    title: str
    lines: dict
    signal: object
    scan: Scan
    find: Callable
    columns: Sequence[str]
    settings: list
    reciprocal_radius: float | None
    subtract_center: bool
    device: torch.device
    batch_size: int | None
    check: Callable | None = None

    def run(self, show_progressbar: bool | None = None, lazy_output: bool = False):
        """Search, or prepare to; an interrupted search gives what was done."""
        if flag("lazy_output", lazy_output):
            self.scan.forget_sample()
            return self._to_vectors(self._lazy_tables())
        self._announce()
        found = FoundDisks(self.scan.size, len(self.columns))
        try:
            with timed(lambda: int(found.done.sum())):
                for part in self._parts(None, show_progressbar):
                    found.add(part)
        except KeyboardInterrupt:
            if not found.done.any():
                raise
            warn(
                f"Interrupted after {found.done.sum()} of {self.scan.n_patterns} patterns: the rest has no vectors."
            )
        return self._to_vectors(found.tables)

    def run_to_file(
        self, path: str | Path, *, overwrite: bool = False, show_progressbar: bool | None = None,
        save_every: float = 10.0,
    ):  # fmt: skip
        """Search, keep what is done in ``<path>.partial``, and write the vectors."""
        scan = self.scan
        needed = scan.n_patterns * _KEPT_DISKS * 8 * len(self.columns)
        path = check_vectors_path(path, overwrite=overwrite, needed=needed)
        self._announce()
        in_memory = is_in_memory(scan.data)
        arrays = (scan.navigation_mask, scan.signal_mask, scan.centers)
        settings = [*self.settings, list(self.columns), self.reciprocal_radius, self.subtract_center]
        settings.append(repr(scan.calibration))
        source = None if in_memory else source_of(self.signal)
        with claimed(path):
            partial = PartialResults(path, fingerprint(scan.data, settings, arrays, source))
            found = FoundDisks(scan.size, len(self.columns))
            checksum = None if in_memory else pattern_checksum
            with timed(lambda: partial.n_new):
                partial.gather(
                    found, lambda done: self._parts(done, show_progressbar, checksum), scan.n_patterns,
                    data=scan.data, save_every=save_every,
                )  # fmt: skip
            vectors = self._to_vectors(found.tables)
            partial.finish(found, lambda: _write_vectors(path, vectors), vectors)
        return vectors

    def _announce(self) -> None:
        if self.check is not None:
            self.check()
        self.scan.forget_sample()  # the search needs the memory
        print_summary(self.title, self.lines | {"Patterns": self.scan.describe(), "Device": self.device})

    def _parts(self, skip, show_progressbar: bool | None, checksum=None):
        return stream(
            self.scan.data, self._step(), device=self.device, batch_size=self.batch_size,
            navigation_mask=self.scan.navigation_mask, skip=skip, checksum=checksum, show_progressbar=show_progressbar,
        )  # fmt: skip

    def _step(self) -> Step:
        scan = self.scan.without_data()
        return Step(scan, self.find, self.reciprocal_radius, self.subtract_center, len(self.columns), self.device)

    def _to_vectors(self, tables):
        return to_diffraction_vectors(
            self.signal, tables, self.scan.calibration, subtract_center=self.subtract_center, columns=self.columns
        )

    def _lazy_tables(self):
        """Dask array of the navigation's shape, whose chunks are computed when they are asked for."""
        import dask.array as da

        scan = self.scan
        data = scan.data if hasattr(scan.data, "dask") else da.from_array(scan.data)
        if data.ndim == 2:
            data = data[None]
        data = data.rechunk({data.ndim - 2: -1, data.ndim - 1: -1})
        shape = data.shape[:-2]
        indices = da.from_array(np.arange(scan.size).reshape(shape), chunks=data.chunks[:-2])[..., None, None]
        drop = [data.ndim - 2, data.ndim - 1]
        meta = np.empty((0,) * len(shape), object)
        block = LazyBlock(self._step(), self.batch_size)
        return da.map_blocks(block, data, indices, dtype=object, drop_axis=drop, meta=meta)


@dataclass(eq=False)
class Step:
    """What is done with a batch: no signal is in it, so that it can go to other processes.

    Parameters
    ----------
    scan : Scan
        Without its patterns.
    find : callable
        See :class:`Search`.
    reciprocal_radius : float, optional
        Disks beyond are left out, in Å⁻¹.
    subtract_center : bool
        Measure from the direct beam; else from the first pixel.
    columns : int
        Of the tables.
    device : torch.device
        Where to search.
    """

    scan: Scan
    find: Callable
    reciprocal_radius: float | None
    subtract_center: bool
    columns: int
    device: torch.device

    def __call__(self, patterns, indices) -> dict:
        """Table (n, m, columns) in pixels from the direct beam or from the first pixel, and which rows are there."""
        row, column, extras, keep = self.find(patterns)
        centers = self.scan.batch_centers(patterns, indices)
        centers = row.new_tensor([self.scan.calibration.center]) if centers is None else centers.to(row)
        from_beam = row - centers[:, :1], column - centers[:, 1:]
        if self.reciprocal_radius is not None:
            scale = self.scan.calibration.scale
            k = torch.hypot(from_beam[0] * scale[0], from_beam[1] * scale[1])
            keep = keep & (k <= self.reciprocal_radius)
        place = from_beam if self.subtract_center else (row, column)
        return {"table": torch.stack([*place, *extras], -1), "keep": keep}


class LazyBlock:
    """Finds the disks of a chunk, in whatever process.

    What is sent is small but for the weights: they go as bytes, and each process unpacks them once.  Dask knows it by a
    token of its content, so that the same search has the same name.

    Parameters
    ----------
    step : Step
        What is done.
    batch_size : int, optional
        Patterns per batch.
    """

    def __init__(self, step: Step, batch_size: int | None) -> None:
        self._bytes = pickle.dumps(step)
        self._digest = hashlib.sha256(self._bytes).hexdigest()
        self._batch_size = batch_size
        _remember(self._digest, step)

    def __dask_tokenize__(self) -> tuple:
        return type(self).__name__, self._digest, self._batch_size

    def __call__(self, patterns, index):
        """Tables of a chunk (..., rows, columns) with the flat positions `index` (..., 1, 1)."""
        step = _STEPS.get(self._digest)
        if step is None:
            step = _remember(self._digest, pickle.loads(self._bytes))
        index = index.reshape(-1)
        found = FoundDisks(len(index), step.columns)
        for part in stream(
            patterns.reshape(-1, *patterns.shape[-2:]), lambda x, i: step(x, index[i]), device=step.device,
            batch_size=self._batch_size, navigation_mask=step.scan.navigation_mask[index], show_progressbar=False,
        ):  # fmt: skip
            found.add(part)
        return found.tables.reshape(patterns.shape[:-2])


#: Steps of this process by their digest, the last few
_STEPS: dict[str, Step] = {}
_MOST_STEPS = 4


def _remember(digest: str, step: Step) -> Step:
    """Keep a step for the next chunk."""
    _STEPS[digest] = step
    while len(_STEPS) > _MOST_STEPS:
        _STEPS.pop(next(iter(_STEPS)), None)
    return step


def check_vectors_path(path: str | Path, *, overwrite: bool = False, needed: float = 0) -> Path:
    """Make sure that vectors can be saved there, in so many bytes (`needed`), before they are searched for.

    Raises
    ------
    ValueError
        For a name that tells no format.
    FileExistsError
        If the file is there and not `overwrite`.
    OSError
        If it cannot be written, or the disk has no room.
    """
    path = Path(path)
    if path.suffix.lower() not in (*_PYXEM, *_PY4DSTEM):
        raise ValueError(
            f"Vectors are saved as {', '.join(_PYXEM)} (HyperSpy) or {', '.join(_PY4DSTEM)} (py4DSTEM), "
            f"not as {path.name!r}."
        )
    return check_target(path, overwrite=overwrite, needed=needed, folder=path.suffix.lower() == ".zspy")


def save_vectors(path: str | Path, vectors, *, overwrite: bool = False) -> Path:
    """Save diffraction vectors as HyperSpy does, or as py4DSTEM's ``BraggVectors``: all of them, or nothing.

    Parameters
    ----------
    path : str or pathlib.Path
        Ending in ``.hspy`` or ``.zspy`` (everything; ``hyperspy.api.load`` gives it back), or in ``.h5``, ``.hdf5``
        or ``.emd`` (see :func:`to_py4dstem`).
    vectors : pyxem.signals.DiffractionVectors
        To save.
    overwrite : bool
        Replace a file that is there.
    """
    path = check_vectors_path(path, overwrite=overwrite)
    with claimed(path):
        _write_vectors(path, vectors)
    return path


def _write_vectors(path: Path, vectors) -> None:
    """Write to a path that is checked and claimed."""
    if path.suffix.lower() in _PY4DSTEM:
        to_py4dstem(vectors, path, overwrite=True)
        return
    with replacing(path) as new:
        if path.suffix.lower() == ".hspy":
            tables = vectors.data.ravel() if isinstance(vectors.data, np.ndarray) else ()
            reserve(new, _HSPY_BYTES + sum(table.nbytes + 64 for table in tables))
        vectors.save(new, overwrite=True)
        if new.is_file():
            check_hdf5(new)
