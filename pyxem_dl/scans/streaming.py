"""From the patterns of a scan to batches on a device to results in order, in bounded memory.

One thread reads a block while those before are computed; batches are cut across the borders of blocks, so that neither
chunks nor batches show in the results.  On a CPU every core takes micro-batches of its own, from one pool for the whole
run; a GPU gets the next batch and gives the results of the last one back while it computes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch

from pyxem_dl.devices import default_batch_size, is_out_of_memory, one_core_each
from pyxem_dl.messages import warn
from pyxem_dl.preprocessing import check_patterns
from pyxem_dl.scans.blocks import BlockReader, Blocks, as_scan, navigation_shape, plan_blocks, wanted_blocks
from pyxem_dl.scans.options import Computing
from pyxem_dl.scans.steps import Part, Step, to_host, to_tensor

# After so many blocks of which none could be read, the rest is not tried
_GIVE_UP_AFTER = 8


class NotRead:
    """Chunks, or blocks of them, that could not be read.

    Parameters
    ----------
    any_read : bool
        Whether others were read before.
    noun : str
        What they are called.

    Attributes
    ----------
    indices : list of array of int
        Flat indices of what is missing.
    errors : list of Exception
        Why, for each.
    """

    def __init__(self, any_read: bool = False, noun: str = "patterns") -> None:
        self._noun = noun
        self.indices: list[np.ndarray] = []
        self.errors: list[Exception] = []
        self._any_read = any_read

    def add(self, indices: np.ndarray, error: Exception) -> None:
        """Note what is missing; the error is raised where none at all can be read."""
        self.indices.append(indices)
        self.errors.append(error)
        if not self._any_read and len(self.errors) >= _GIVE_UP_AFTER:
            raise error

    def read(self) -> None:
        """Note that something was read."""
        self._any_read = True

    def finish(self) -> None:
        """Raise the first error if nothing could be read, else warn of what is missing."""
        if not self.errors:
            return
        if not self._any_read:
            raise self.errors[0]
        missing = np.concatenate(self.indices)
        first = self.errors[0]
        warn(
            f"{len(missing)} {self._noun} could not be read (flat indices {_ranges(missing)}; "
            f"{type(first).__name__}: {first}). They are not in the data of the result. With output=, a repeated call "
            "does only them, once they can be read."
        )


def _ranges(indices: np.ndarray, most: int = 3) -> str:
    """First and last of rising runs of indices, a few of them."""
    runs = np.split(np.sort(indices), np.flatnonzero(np.diff(np.sort(indices)) > 1) + 1)
    text = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs[:most])
    return text + (f" and {len(runs) - most} more ranges" if len(runs) > most else "")


def stream(
    data,
    step: Step,
    computing: Computing,
    *,
    wanted: np.ndarray | None = None,
    blocks: Blocks | None = None,
    look: Callable | None = None,
    any_read: bool = False,
) -> Iterator[Part]:
    """Call a step with batches of patterns and yield its results.

    Parameters
    ----------
    data : numpy.ndarray or dask.array.Array, shape (..., rows, columns)
        Patterns with 0, 1 or 2 navigation dimensions in data order, of any real dtype; or an object array of tables.
    step : Step
        What is done. It runs without gradients, on float32 patterns.
    computing : Computing
        Where, and how many at once. Where memory runs out fewer are taken, with a warning.
    wanted : array of bool, optional
        Which patterns, of the navigation's size; by default all. Chunks of which none is wanted are not read.
    blocks : Blocks, optional
        How the scan is read; by default as :func:`~pyxem_dl.scans.blocks.plan_blocks` says.
    look : callable, optional
        ``look(indices, patterns)`` sees each block as it was read, in the thread that reads.
    any_read : bool
        Others were read before: where none can be read now, it is a warning.

    Yields
    ------
    Part
        In the order of the blocks; together they cover what is wanted, each once, but for blocks that cannot be read.

    Raises
    ------
    ValueError, TypeError
        For data that are no patterns.
    Exception
        What the step raises; and what reading raises, where nothing at all can be read.

    Warns
    -----
    UserWarning
        For blocks that cannot be read, at the end; where memory runs out.
    """
    if data.dtype != object:
        check_patterns(data)
    data = as_scan(data)
    wanted = _checked(wanted, navigation_shape(data))
    blocks = plan_blocks(data, step.keep_every) if blocks is None else blocks
    missing = NotRead(any_read, step.noun)
    device = computing.torch_device
    step.prepare(device)
    with runner_for(step, device, computing.batch_size) as runner:
        yield from runner.run(_blocks_ahead(data, blocks, wanted, missing, look))
    missing.finish()


def _checked(wanted, shape) -> np.ndarray:
    n = int(np.prod(shape))
    if wanted is None:
        return np.ones(n, dtype=bool)
    wanted = np.asarray(wanted)
    if wanted.dtype != bool or wanted.size != n:
        raise ValueError(f"wanted must be bool of {n} positions, not {wanted.dtype} of {wanted.size}.")
    return wanted.reshape(-1)


def _blocks_ahead(data, blocks: Blocks, wanted, missing: NotRead, look) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read blocks in one thread, each while the caller works with the one before."""
    reader = BlockReader(data, blocks, wanted)

    def read(i):
        try:
            pieces = reader.read(i)
        except MemoryError:
            raise
        except Exception as error:  # whatever the reader of a file raises: the rest may be whole
            pieces = reader.read_singly(i, error)
        if look is not None:
            for indices, patterns in pieces:
                if not isinstance(patterns, Exception):
                    look(indices, patterns)
        return pieces

    todo = wanted_blocks(blocks, wanted)
    with ThreadPoolExecutor(1, thread_name_prefix="pyxem_dl-reader") as pool:
        ahead: deque = deque()
        for i in todo:
            ahead.append(pool.submit(read, i))
            if len(ahead) > 1:
                yield from _result(ahead.popleft(), missing)
        while ahead:
            yield from _result(ahead.popleft(), missing)


def _result(future, missing: NotRead):
    """Give what could be read of a block."""
    pieces = future.result()
    while pieces:
        indices, patterns = pieces.pop(0)
        if isinstance(patterns, Exception):
            missing.add(indices, patterns)
        else:
            missing.read()
            yield indices, patterns


def cut(pieces: Iterator[tuple[np.ndarray, np.ndarray]], size: Callable[[], int]):
    """Cut pieces into batches of `size()` patterns across their borders: (indices, list of patterns)."""
    held, n = [], 0
    for indices, patterns in pieces:
        start = 0
        while n + len(indices) - start >= (wanted := size()):
            end = start + max(0, wanted - n)
            held.append((indices[start:end], patterns[start:end]))
            yield _batch(held)
            held, n, start = [], 0, end
        if start < len(indices):
            rest = patterns[start:]
            # a copy, so that the piece does not stay in memory while the ones after it are read
            held.append((indices[start:], rest.copy() if start else rest))
            n += len(rest)
    if held:
        yield _batch(held)


def _batch(held: list) -> tuple[np.ndarray, list[np.ndarray]]:
    held = [pair for pair in held if len(pair[0])]
    return np.concatenate([indices for indices, _ in held]), [patterns for _, patterns in held]


def joined(patterns: list[np.ndarray]) -> np.ndarray:
    """Patterns of a batch in one array."""
    return patterns[0] if len(patterns) == 1 else np.concatenate(patterns)


# ---------------------------------------------------------------- what computes
@contextmanager
def runner_for(step: Step, device: torch.device, batch_size: int | None):
    """Make the runner for a device, for the time of a run."""
    if device.type == "cuda":
        from pyxem_dl.scans.on_cuda import CudaRunner

        yield CudaRunner(step, device, batch_size or default_batch_size(device))
        return
    if device.type != "cpu":
        yield OneByOne(step, device, batch_size or default_batch_size(device))
        return
    threads = torch.get_num_threads()
    size = min(step.micro_batch, batch_size or step.micro_batch)
    if not step.in_threads:
        yield OneByOne(step, device, size)
        return
    if batch_size is not None:
        threads = max(1, min(threads, batch_size // size))
    with one_core_each(threads) as pool:
        yield InThreads(step, device, size, pool, threads)


class OneByOne:
    """Run batches one after the other, smaller ones where memory runs out.

    Parameters
    ----------
    step : Step
        What is done.
    device : torch.device
        Where.
    size : int
        Patterns of a batch.
    """

    def __init__(self, step: Step, device: torch.device, size: int) -> None:
        self.step, self.device, self.size = step, device, size
        self._lock, self._notes = threading.Lock(), deque()

    def run(self, pieces) -> Iterator[Part]:
        """Results of pieces (indices, patterns)."""
        try:
            for indices, patterns in cut(pieces, lambda: self.size):
                yield from self.told(self.compute(indices, joined(patterns)))
        finally:
            self.told([])

    def compute(self, indices: np.ndarray, patterns: np.ndarray) -> list[Part]:
        """Results of a batch, in several parts where it does not fit into the memory."""
        parts = []
        while len(indices):
            n = min(len(indices), self.size)
            try:
                parts.append(Part(indices[:n], self._run(indices[:n], patterns[:n])))
                indices, patterns = indices[n:], patterns[n:]
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or n == 1:
                    raise
            # Outside of the except clause: the traceback kept the tensors alive
            self._halve(n)
        return parts

    def _compute_pieces(self, indices: np.ndarray, patterns: list[np.ndarray]) -> list[Part]:
        return self.compute(indices, joined(patterns))

    def told(self, parts: list[Part]) -> list[Part]:
        """Parts, after warning (in the thread of the caller) of what happened on the way."""
        while self._notes:
            warn(self._notes.popleft())
        return parts

    def _run(self, indices, patterns) -> dict:
        with torch.inference_mode():  # which holds for this thread only
            batch = to_tensor(patterns)
            if isinstance(batch, torch.Tensor):
                batch = batch.to(self.device).float()
            return to_host(self.step(batch, indices))

    def _halve(self, n: int) -> None:
        with self._lock:
            if self.size < n:
                return  # another thread did
            self.size = max(1, n // 2)
            self._notes.append(
                f"A batch of {n} patterns does not fit into the memory of '{self.device}': continuing "
                f"with {self.size}. Give batch_size={self.size} to start with that."
            )
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class InThreads(OneByOne):
    """Run micro-batches on all cores, as they become free; results come in order.

    Parameters
    ----------
    step, device, size
        As in :class:`OneByOne`.
    pool : ThreadPoolExecutor
        Of so many `threads`.
    """

    def __init__(self, step: Step, device: torch.device, size: int, pool: ThreadPoolExecutor, threads: int) -> None:
        super().__init__(step, device, size)
        self._pool, self._window = pool, 2 * threads

    def run(self, pieces) -> Iterator[Part]:
        """Results of pieces (indices, patterns)."""
        running: deque = deque()
        try:
            for indices, patterns in cut(pieces, lambda: self.size):
                running.append(self._pool.submit(self._compute_pieces, indices, patterns))
                if len(running) >= self._window:
                    yield from self.told(running.popleft().result())
            while running:
                yield from self.told(running.popleft().result())
        finally:
            for future in running:
                future.cancel()
            self.told([])
