"""What is kept of a job while it runs: whose store it is, whether it may go on, and the file that it becomes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pyxem_dl.files import PARTIAL, NotWritten, check_target, claimed, move_aside
from pyxem_dl.records import KEY
from pyxem_dl.scans.fingerprint import (
    LOOKED_AT,
    fingerprint,
    is_in_memory,
    pattern_checksums,
    readable_patterns,
    source_of,
    spread,
)
from pyxem_dl.scans.output import Contents, NewerFormat, ResultStore, read_contents
from pyxem_dl.scans.steps import Collected, Field

#: Ending of a store that is itself the result
STORE = ".zarr"
_CHECKSUM, _CHECKSUM_FIELD = "checksum", Field((), "uint64")
# Room that a store needs beside its arrays: a file takes at least a block of the file system
_SMALLEST_FILE = 4096
# Rows of a pattern for which there must be room, at least
_ROWS = 10
# Patterns that are compared, where the file has another date or size than when they were done: so many times more
_MORE = 8
_OTHER_WORK = "belongs to another signal, model or setting, or to another version of pyxem_dl"


@dataclass(frozen=True)
class Target:
    """A file for a result.

    Parameters
    ----------
    path : pathlib.Path
        Where.
    write : callable
        ``write(path, result)``; called with a path that is claimed.
    overwrite : bool
        Replace what is there.
    """

    path: Path
    write: Callable
    overwrite: bool = False

    @classmethod
    def of(cls, output: str | Path | None, write: Callable, check: Callable, overwrite: bool) -> Target | None:
        """Read an `output` that a user gave.

        Parameters
        ----------
        output : str, pathlib.Path or None
            None keeps all in memory.
        write, overwrite
            As above.
        check : callable
            ``check(path, overwrite=...)`` raises an error for a file that cannot be written: before the work.
        """
        if output is None:
            return None
        target = cls(Path(output), write, overwrite)
        if not target.is_store:
            check(target.path, overwrite=overwrite)
        if target.path.parent.is_dir():
            with claimed(target.path):  # an error at once, where another process writes it
                pass
        return target

    @property
    def is_store(self) -> bool:
        """Whether the store itself is the result."""
        return self.path.suffix.lower() == STORE

    @property
    def store(self) -> Path:
        """Where results are kept while they come."""
        return self.path if self.is_store else self.path.with_name(self.path.name + PARTIAL)


class Keeper:
    """Keeps what a job does, and takes what an earlier run of it did.

    Parameters
    ----------
    job : Job
        What is done.
    target : Target
        Where its result goes.
    """

    def __init__(self, job, target: Target) -> None:
        self.job, self.target = job, target
        self._check_room()

    def _check_room(self) -> None:
        target, fields = self.target, self.job.step.fields.values()
        nbytes = sum(np.prod((*f.shape, _ROWS if f.ragged else 1)) * np.dtype(f.dtype).itemsize for f in fields)
        files = len(self.job.blocks) * (len(fields) + 1) * _SMALLEST_FILE
        check_target(
            target.path, overwrite=target.overwrite or target.is_store, folder=target.is_store,
            needed=self.job.scan.n_patterns * nbytes + files,
        )  # fmt: skip

    def open(self) -> ResultStore:
        """Open the store of an earlier run of the same work, or a new one, for a claimed path."""
        path, contents = self.target.store, self._contents()
        store = self._earlier(contents) if os.path.lexists(path) else None
        if store is None:
            store = ResultStore.create(path, contents, Collected(self.job.scan.size, contents.fields))
        store.expect(~self.job.scan.navigation_mask)
        return store

    def _contents(self) -> Contents:
        job, scan = self.job, self.job.scan
        fields = dict(job.step.fields)
        in_memory = job.data is not None or is_in_memory(scan.data)
        if not in_memory:
            fields[_CHECKSUM] = _CHECKSUM_FIELD
        name, *source = [""] if job.signal is None or in_memory else source_of(job.signal)
        arrays = scan.navigation_mask, scan.signal_mask, scan.centers
        settings = [*job.settings, repr(scan.calibration)]
        # of which patterns on a disk it is, what is done says itself, by its checksums
        number = fingerprint(job.patterns, settings, arrays, name, on_disk=False)
        about = job.assemble.to_dict() | ({KEY: job.record} if job.record else {})
        return Contents(job.assemble.kind, number, job.blocks, fields, about, scan.n_patterns, source)

    def _earlier(self, contents: Contents) -> ResultStore | None:
        """Return what an earlier run left, if it is of use; else make room, or say that it is in the way."""
        path = self.target.store
        try:
            is_other = read_contents(path).fingerprint != contents.fingerprint
            store = None if is_other else ResultStore.open(path)
        except NewerFormat as error:
            return self._make_room(f"cannot be used ({error})", "newer")
        except (ValueError, OSError) as error:
            return self._make_room(f"cannot be used ({error})", "damaged")
        if is_other:
            return self._make_room(_OTHER_WORK, "old")
        kept = store.contents
        if kept.fields != contents.fields or kept.blocks.shape != contents.blocks.shape:
            return self._make_room("cannot be used (it holds other positions or fields)", "damaged")
        if not self._same_patterns(store, contents.source):
            return self._make_room("belongs to other patterns", "old")
        store.clear()
        if store.n_kept == self.job.scan.n_patterns:
            self.job.computing.say(f"  All {store.n_kept} patterns are done in {path}.")
        elif store.n_kept:
            self.job.computing.say(f"  Continuing after {store.n_kept} patterns from {path}.")
        return store

    def _make_room(self, why: str, ending: str) -> None:
        """Move away what is in the place of the store."""
        path = self.target.store
        if self.target.is_store and not self.target.overwrite:
            raise FileExistsError(
                f"{path} {why}. Give another name, or overwrite=True to start again: what is there is then renamed."
            )
        try:
            where = f"It was renamed to {move_aside(path, ending).name}"
        except OSError as error:
            where = f"It could not be moved aside ({error})"
        self.job.computing.say(f"  {path} {why}: starting again. {where}.")

    def _same_patterns(self, store: ResultStore, source: list) -> bool:
        """Read a spread of patterns that are done again, and compare their checksums."""
        kept, positions = store.collected.arrays.get(_CHECKSUM), np.flatnonzero(store.collected.done)
        if kept is None or not len(positions):
            return True
        data = self.job.scan.data
        most = LOOKED_AT if source == store.contents.source else _MORE * LOOKED_AT
        positions = spread(positions, data.dtype.itemsize * int(np.prod(data.shape[-2:])), most)
        positions, patterns = readable_patterns(data, positions)
        return bool((pattern_checksums(np.stack(patterns)) == kept[positions]).all())

    def finish(self, store: ResultStore, result, *, write: bool) -> None:
        """Write the result into its file; where that fails, nothing has to be computed again.

        Parameters
        ----------
        store : ResultStore
            From :meth:`open`.
        result : object
            What the job returns.
        write : bool
            Whether there is a file to write: not of what was stopped.

        Raises
        ------
        NotWritten
            If the store or the file could not be written.
        """
        target, found = self.target, store.collected
        error = store.finish()
        try:
            if error is not None:
                raise error
            if write and not target.is_store:
                target.write(target.path, result)
        except Exception as failed:  # of whatever library: hours of computing must not be lost
            raise NotWritten(
                f"{target.path} could not be written: {failed}. {store.n_kept} of {found.n_done} patterns are saved in "
                f"{store.path}. Free some space and repeat the call: it continues from there. In Python the result is "
                "not lost: `error.result` holds it.",
                result,
            ) from failed
        if found.n_done < self.job.scan.n_patterns:
            again = " with overwrite=True" if write and not target.is_store else ""
            self.job.computing.say(
                f"  {store.n_kept} of {self.job.scan.n_patterns} patterns are saved in {store.path}: repeat the call"
                f"{again} to do the rest."
            )
        elif not target.is_store:
            shutil.rmtree(store.path, ignore_errors=True)


def checksums_of(store: ResultStore | None):
    """Return what notes the checksums of patterns that are read, where a store has them; else None."""
    if store is None or _CHECKSUM not in store.fields:
        return None
    return Checksums(store.collected)


class Checksums:
    """Notes the checksums of what is read, as one of the fields.

    Parameters
    ----------
    found : Collected
        Where they go.
    """

    def __init__(self, found: Collected) -> None:
        self._sums = found.arrays.setdefault(_CHECKSUM, np.zeros(len(found.done), np.uint64))

    def __call__(self, indices: np.ndarray, patterns: np.ndarray) -> None:
        """Look at patterns that were read here."""
        self.take(indices, pattern_checksums(patterns))

    def take(self, indices: np.ndarray, sums: np.ndarray) -> None:
        """Take the checksums of patterns that were read elsewhere."""
        self._sums[indices] = sums
