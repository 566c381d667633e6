"""The runner of every verb: announcement, progress, Ctrl-C, results as they come, a store on the disk, a cluster."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from pyxem_dl.files import PARTIAL, NotWritten, check_target, claimed, move_aside
from pyxem_dl.messages import warn
from pyxem_dl.progress import progressbar
from pyxem_dl.scans import distributed
from pyxem_dl.scans.blocks import Blocks, plan_blocks
from pyxem_dl.scans.fingerprint import (
    LOOKED_AT,
    fingerprint,
    is_in_memory,
    pattern_checksums,
    readable_patterns,
    source_of,
    spread,
)
from pyxem_dl.scans.options import Computing
from pyxem_dl.scans.output import Contents, ResultStore, read_contents
from pyxem_dl.scans.scan import Scan
from pyxem_dl.scans.steps import Collected, Field, Part, Step
from pyxem_dl.scans.streaming import stream

#: Ending of a store that is itself the result
STORE = ".zarr"
_CHECKSUM, _CHECKSUM_FIELD = "checksum", Field((), "uint64")
# Room that a store needs beside its arrays: a file takes at least a block of the file system
_SMALLEST_FILE = 4096
# A scan is cut into so many blocks at least, so that what an interrupted run was doing is a small part
_FEWEST_BLOCKS = 16
# Patterns that are compared, where the file has another date or size than when they were done: so many times more
_MORE = 8
# Rows of a pattern for which there must be room, at least
_ROWS = 10

_OF_ANOTHER = "belongs to another signal, model or setting, or to another version of pyxem_dl"

logger = logging.getLogger(__name__)


class Assembly(Protocol):
    """Makes the result that the user gets of what was collected."""

    #: By which :func:`pyxem_dl.open_result` knows it
    kind: str

    def __call__(self, found: Collected):
        """Return the result; what is not done is not in its data."""

    def to_dict(self) -> dict:
        """Plain numbers and texts from which the same assembly can be made again."""


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

    @property
    def is_store(self) -> bool:
        """Whether the store itself is the result."""
        return self.path.suffix.lower() == STORE

    @property
    def store(self) -> Path:
        """Where results are kept while they come."""
        return self.path if self.is_store else self.path.with_name(self.path.name + PARTIAL)


@dataclass
class Job:
    """One verb on one scan, checked and ready to run.

    Parameters
    ----------
    title : str
        What it is, for the announcement.
    lines : dict of str to str
        What it is done with.
    scan : Scan
        The positions; with the patterns, unless there are `data`.
    step : Step
        What is done to every pattern.
    computing : Computing
        What computes, and who hears of it.
    assemble : Assembly
        Makes the result.
    settings : list
        Plain numbers and texts on which the results depend, beside the scan.
    signal : object, optional
        From which the patterns are, to say from which file.
    data : object array, optional
        What the step is called with, where it is not patterns.
    """

    title: str
    lines: dict
    scan: Scan
    step: Step
    computing: Computing
    assemble: Assembly
    settings: list
    signal: object = None
    data: object = None
    _blocks: Blocks | None = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)

    # ---------------------------------------------------------------- the ways to run
    def run(self, output: Target | None = None):
        """Do it, and return the result.

        Raises
        ------
        KeyboardInterrupt
            If nothing is done yet; or there is an `output`, which keeps what is done.
        """
        if output is not None:
            return self._run_into(output)
        self.announce()
        found = Collected(self.scan.size, self.step.fields)
        try:
            for _ in self._work(found):
                pass
        except KeyboardInterrupt:
            if not found.done.any():
                raise
            self._stopped = True
        self._say_if_stopped(found)
        return self.assemble(found)

    def iterate(self) -> Iterator[Partial]:
        """Do it, and yield what is there after each batch; the last one is whole."""
        self.announce()
        found = Collected(self.scan.size, self.step.fields)
        partial = Partial(self.assemble, found, self.scan)
        for _ in self._work(found):
            yield partial

    def _run_into(self, output: Target):
        scan = self.scan
        self._check_room(output)
        self.announce()
        with claimed(output.path):
            store = self._store(output)
            found = store.collected
            try:
                for part in self._work(found, store):
                    store.add(part)
            except BaseException:
                if found.done.any():
                    store.finish()
                    self.computing.say(f"  {store.n_kept} of {scan.n_patterns} patterns are saved in {store.path}")
                raise
            self._say_if_stopped(found)
            result = self.assemble(found)
            self._finish(store, output, result)
        return result

    # ---------------------------------------------------------------- the work
    def _work(self, found: Collected, store: ResultStore | None = None) -> Iterator[Part]:
        """Add what is not done, part by part, and say how fast it was."""
        wanted = ~self.scan.navigation_mask & ~found.done
        look = None
        if store is not None:
            store.expect(~self.scan.navigation_mask)
            look = _Checksums(found) if _CHECKSUM in store.fields else None
        computing, n = self.computing, 0
        if not wanted.any():
            return
        start = time.perf_counter()
        try:
            with progressbar(int(wanted.sum()), computing.show_progressbar) as bar:
                for part in self._parts(wanted, look):
                    found.add(part)
                    n += len(part.indices)
                    bar.update(len(part.indices))
                    go_on = computing.on_part is None or computing.on_part(part) is not False
                    yield part
                    if not go_on:
                        self._stopped = True
                        return
        finally:
            seconds = time.perf_counter() - start
            if n:
                computing.say(f"  Speed: {n / max(seconds, 1e-9):.5g} patterns/s ({n} in {seconds:.1f} s)")

    def _parts(self, wanted: np.ndarray, look=None) -> Iterator[Part]:
        """Parts from the workers of a client, where there is one, or from this process."""
        data = self.scan.data if self.data is None else self.data
        client = distributed.current_client()
        if client is not None and self.data is None:
            return distributed.stream_on(
                client, data, self.step, self.computing, wanted=wanted, blocks=self.blocks, look=look
            )
        return stream(data, self.step, self.computing, wanted=wanted, blocks=self.blocks, look=look)

    @property
    def blocks(self) -> Blocks:
        """How the scan is read and kept."""
        if self._blocks is None:
            data = self.scan.data if self.data is None else self.data
            client = distributed.current_client()
            shares = _FEWEST_BLOCKS if client is None else distributed.n_blocks(client)
            most = min(self.step.keep_every, max(self.step.micro_batch, -(-self.scan.size // shares)))
            self._blocks = plan_blocks(data, most)
        return self._blocks

    def announce(self) -> None:
        """Say what will be done."""
        self.scan.forget_sample()  # the work needs the memory
        self.computing.say(f"{self.title}:")
        for name, value in (self.lines | {"Device": self._where()}).items():
            self.computing.say(f"  {name}: {value}")
        logger.info("%s: %s", self.title, self.lines)

    def _where(self) -> str:
        client = distributed.current_client()
        if client is not None and self.data is None:
            return distributed.describe(client)
        return self.computing.describe(self.step)

    def _say_if_stopped(self, found: Collected) -> None:
        if self._stopped:
            warn(
                f"Interrupted after {found.n_done} of {self.scan.n_patterns} patterns: the rest is not in the data of "
                "the result."
            )

    # ---------------------------------------------------------------- the store
    def _check_room(self, output: Target) -> None:
        arrays = sum(
            np.prod(f.shape, dtype=float) * np.dtype(f.dtype).itemsize * (_ROWS if f.ragged else 1)
            for f in self.step.fields.values()
        )
        files = len(self.blocks) * (len(self.step.fields) + 1) * _SMALLEST_FILE
        overwrite = output.overwrite or output.is_store
        check_target(
            output.path, overwrite=overwrite, needed=self.scan.n_patterns * arrays + files, folder=output.is_store
        )

    def _contents(self) -> Contents:
        scan, data = self.scan, self.scan.data if self.data is None else self.data
        fields = dict(self.step.fields)
        if self.data is None and not is_in_memory(data):
            fields[_CHECKSUM] = _CHECKSUM_FIELD
        name, source = "", []
        if self.signal is not None and not is_in_memory(data):
            name, *source = source_of(self.signal)
        arrays = scan.navigation_mask, scan.signal_mask, scan.centers
        # what is done says itself of which patterns it is, by their checksums
        settings = [*self.settings, repr(scan.calibration)]
        number = fingerprint(data, settings, arrays, name, on_disk=_CHECKSUM not in fields)
        about = self.assemble.to_dict()
        return Contents(self.assemble.kind, number, self.blocks, fields, about, scan.n_patterns, source)

    def _store(self, output: Target) -> ResultStore:
        """Open the store of an earlier run of the same work, or a new one."""
        path, contents = output.store, self._contents()
        if os.path.lexists(path):
            store = self._kept(output, contents)
            if store is not None:
                self._blocks = store.contents.blocks
                return store
        return ResultStore.create(path, contents, Collected(self.scan.size, self.step.fields))

    def _kept(self, output: Target, contents: Contents) -> ResultStore | None:
        """Return what an earlier run left, if it is of use; else make room, or say that it is in the way."""
        path = output.store
        try:
            if output.is_store and read_contents(path).fingerprint != contents.fingerprint:
                self._make_room(output, _OF_ANOTHER, "old")
                return None
            store = ResultStore.open(path)
        except (ValueError, OSError) as error:
            newer = "Update pyxem_dl" in str(error)
            self._make_room(output, f"cannot be used ({error})", "newer" if newer else "damaged")
            return None
        why = None
        if store.contents.fingerprint != contents.fingerprint:
            why = _OF_ANOTHER
        elif store.contents.fields != contents.fields or store.contents.blocks.shape != contents.blocks.shape:
            why = "cannot be used (it holds other positions or fields)"
        elif not self._same_patterns(store, contents.source):
            why = "belongs to other patterns"
        if why is not None:
            self._make_room(output, why, "old" if "belongs" in why else "damaged")
            return None
        store.clear()
        if store.n_kept == self.scan.n_patterns:
            self.computing.say(f"  All {store.n_kept} patterns are done in {path}.")
        elif store.n_kept:
            self.computing.say(f"  Continuing after {store.n_kept} patterns from {path}.")
        return store

    def _make_room(self, output: Target, why: str, ending: str) -> None:
        """Move away what is in the place of the store."""
        path = output.store
        if output.is_store and not output.overwrite:
            raise FileExistsError(
                f"{path} {why}. Give another name, or overwrite=True to start again: what is there is then renamed."
            )
        try:
            where = f"It was renamed to {move_aside(path, ending).name}"
        except OSError as error:
            where = f"It could not be moved aside ({error})"
        self.computing.say(f"  {path} {why}: starting again. {where}.")

    def _same_patterns(self, store: ResultStore, source: list) -> bool:
        """Read a spread of patterns that are done again, and compare their checksums."""
        kept, positions = store.collected.arrays.get(_CHECKSUM), np.flatnonzero(store.collected.done)
        if kept is None or not len(positions):
            return True
        data = self.scan.data
        most = LOOKED_AT if source == store.contents.source else _MORE * LOOKED_AT
        positions = spread(positions, data.dtype.itemsize * int(np.prod(data.shape[-2:])), most)
        positions, patterns = readable_patterns(data, positions)
        return bool((pattern_checksums(np.stack(patterns)) == kept[positions]).all())

    def _finish(self, store: ResultStore, output: Target, result) -> None:
        """Write the result; where that fails, nothing has to be computed again."""
        error, found = store.finish(), store.collected
        whole = found.n_done == self.scan.n_patterns
        try:
            if error is not None:
                raise error
            if not output.is_store and not self._stopped:
                output.write(output.path, result)
        except Exception as failed:  # of whatever library: hours of computing must not be lost
            raise NotWritten(
                f"{output.path} could not be written: {failed}. {store.n_kept} of {found.n_done} patterns are "
                f"saved in {store.path}. Free some space and repeat the call: it continues from there. In Python the "
                "result is not lost: `error.result` holds it.",
                result,
            ) from failed
        if whole and not output.is_store:
            shutil.rmtree(store.path, ignore_errors=True)
        if not whole:
            again = "" if output.is_store or self._stopped else " with overwrite=True"
            self.computing.say(
                f"  {store.n_kept} of {self.scan.n_patterns} patterns are saved in {store.path}: repeat the call"
                f"{again} to do the rest."
            )


class _Checksums:
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


class Partial:
    """What is done of unfinished work; it grows while the work goes on.

    Attributes
    ----------
    done : array of bool
        Where there are results, of the navigation's shape.
    n_done, n : int
        How many positions are done, of how many.
    """

    def __init__(self, assemble: Assembly, found: Collected, scan: Scan) -> None:
        self._assemble, self._found, self._shape = assemble, found, scan.shape
        self.n = scan.n_patterns

    @property
    def done(self) -> np.ndarray:
        """Where there are results, of the navigation's shape in data order."""
        return self._found.done.reshape(self._shape).copy()

    @property
    def n_done(self) -> int:
        """How many positions have results."""
        return self._found.n_done

    def to_result(self):
        """Make the result of what is done; the rest is not in its data."""
        return self._assemble(self._found)

    def to_crystal_map(self):
        """Make the same, by the name that it has for orientations."""
        return self.to_result()

    def __repr__(self) -> str:
        return f"Partial result: {self.n_done} of {self.n} positions"
