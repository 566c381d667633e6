"""The runner of every verb: announcement, progress, Ctrl-C, results as they come, a store on the disk, a cluster."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from pyxem_dl.files import claimed
from pyxem_dl.messages import warn
from pyxem_dl.progress import progressbar
from pyxem_dl.records import with_record
from pyxem_dl.scans import distributed
from pyxem_dl.scans.blocks import Blocks, plan_blocks
from pyxem_dl.scans.keeping import Keeper, Target, checksums_of
from pyxem_dl.scans.options import Computing
from pyxem_dl.scans.scan import Scan
from pyxem_dl.scans.steps import Collected, Part, Step
from pyxem_dl.scans.streaming import stream

# A scan is cut into so many blocks at least, so that what an interrupted run was doing is a small part
_FEWEST_BLOCKS = 16

logger = logging.getLogger(__name__)


class Assembly(Protocol):
    """Makes the result that the user gets of what was collected."""

    #: By which :func:`pyxem_dl.open_result` knows it
    kind: str

    def __call__(self, found: Collected):
        """Return the result; what is not done is not in its data."""

    def to_dict(self) -> dict:
        """Plain numbers and texts from which the same assembly can be made again."""


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
    record : dict, optional
        Where the result comes from; see :func:`pyxem_dl.records.made_by`.
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
    record: dict | None = None
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
        return self.result(found)

    def result(self, found: Collected):
        """Make the result of what was found, with the record of where it comes from."""
        return with_record(self.assemble(found), self.record)

    def iterate(self) -> Iterator[Partial]:
        """Do it, and yield what is there after each batch; the last one is whole."""
        self.announce()
        found = Collected(self.scan.size, self.step.fields)
        partial = Partial(self.result, found, self.scan)
        for _ in self._work(found):
            yield partial

    def _run_into(self, target: Target):
        keeper = Keeper(self, target)
        self.announce()
        with claimed(target.path):
            store = keeper.open()
            self._blocks = store.contents.blocks  # those of the run that began
            try:
                for part in self._work(store.collected, checksums_of(store)):
                    store.add(part)
            except BaseException:
                if store.collected.done.any():
                    store.finish()
                    n = self.scan.n_patterns
                    self.computing.say(f"  {store.n_kept} of {n} {self.step.noun} are saved in {store.path}")
                raise
            self._say_if_stopped(store.collected)
            result = self.result(store.collected)
            keeper.finish(store, result, write=not self._stopped)
        return result

    # ---------------------------------------------------------------- the work
    def _work(self, found: Collected, look=None) -> Iterator[Part]:
        """Add what is not done, part by part, and say how fast it was."""
        wanted = ~self.scan.navigation_mask & ~found.done
        computing, n = self.computing, 0
        if not wanted.any():
            return
        start = time.perf_counter()
        try:
            with progressbar(int(wanted.sum()), computing.show_progressbar, f" {self.step.noun}") as bar:
                for part in self._parts(wanted, look, found.done.any()):
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
                rate = n / max(seconds, 1e-9)
                computing.say(f"  Speed: {rate:.5g} {self.step.noun}/s ({n} in {seconds:.1f} s)")

    def _parts(self, wanted: np.ndarray, look, any_read: bool) -> Iterator[Part]:
        """Parts from the workers of a client, where there is one, or from this process."""
        how = {"wanted": wanted, "blocks": self.blocks, "look": look, "any_read": any_read}
        if self._client is not None:
            return distributed.stream_on(self._client, self.patterns, self.step, self.computing, **how)
        return stream(self.patterns, self.step, self.computing, **how)

    @property
    def patterns(self):
        """What the step is called with: patterns, or tables of vectors."""
        return self.scan.data if self.data is None else self.data

    @property
    def _client(self):
        """The client whose workers compute; tables are small, and stay here."""
        return distributed.current_client() if self.data is None else None

    @property
    def blocks(self) -> Blocks:
        """How the scan is read and kept."""
        if self._blocks is None:
            shares = _FEWEST_BLOCKS if self._client is None else distributed.n_blocks(self._client)
            most = min(self.step.keep_every, max(self.step.micro_batch, -(-self.scan.size // shares)))
            self._blocks = plan_blocks(self.patterns, most)
        return self._blocks

    def announce(self) -> None:
        """Say what will be done."""
        self.scan.forget_sample()  # the work needs the memory
        self.computing.say(f"{self.title}:")
        for name, value in (self.lines | {"Device": self._where()}).items():
            self.computing.say(f"  {name}: {value}")
        logger.info("%s: %s", self.title, self.lines)

    def _where(self) -> str:
        return self.computing.describe(self.step) if self._client is None else distributed.describe(self._client)

    def _say_if_stopped(self, found: Collected) -> None:
        if self._stopped:
            warn(
                f"Interrupted after {found.n_done} of {self.scan.n_patterns} {self.step.noun}: the rest is not in the "
                "data of the result."
            )


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

    def to_result(self, assemble: Assembly | None = None):
        """Make the result of what is done, as was said or by another assembly; the rest is not in its data."""
        return (assemble or self._assemble)(self._found)

    def to_crystal_map(self):
        """Make the same, by the name that it has for orientations."""
        return self.to_result()

    def __repr__(self) -> str:
        return f"Partial result: {self.n_done} of {self.n} positions"
