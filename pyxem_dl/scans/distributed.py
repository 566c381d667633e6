"""The same stream on the workers of dask.distributed: blocks are read and computed there, results come back.

The step goes to each worker once, with a plugin, and to those that start later or in the place of dead ones.  One task
is one block: what a worker was doing when it died is done again by another.  So many tasks are under way as the workers
can take, no more, and memory does not grow with the scan.
"""

from __future__ import annotations

import importlib.metadata
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress

import numpy as np

from pyxem_dl.scans.blocks import (
    Blocks,
    as_scan,
    is_lazy,
    navigation_shape,
    plan_blocks,
    users_scheduler,
    wanted_blocks,
)
from pyxem_dl.scans.fingerprint import pattern_checksums
from pyxem_dl.scans.options import Computing
from pyxem_dl.scans.sent import SentStep
from pyxem_dl.scans.steps import Part, Rows, Step
from pyxem_dl.scans.streaming import NotRead

# Tasks for each thread of the workers: one that is computed and one that waits, so that none is idle
_IN_FLIGHT = 2
# Blocks for each thread of the workers, at least
_SHARES = 6
# How often a block is tried whose reading fails
_RETRIES = 2


def current_client():
    """Return the client of dask.distributed that dask would compute with; None without one."""
    scheduler = users_scheduler()
    if "distributed" not in sys.modules:
        return None
    from distributed import Client

    client = getattr(scheduler, "__self__", None)
    return client if isinstance(client, Client) and client.status == "running" else None


def describe(client) -> str:
    """Workers of a client in words."""
    threads = client.nthreads()
    return f"dask cluster of {len(threads)} workers with {sum(threads.values())} threads"


def n_blocks(client) -> int:
    """Into how many blocks to cut a scan at least, so that all workers end at about the same time."""
    return max(16, _SHARES * sum(client.nthreads().values()))


def stream_on(
    client,
    data,
    step: Step,
    computing: Computing,
    *,
    wanted: np.ndarray,
    blocks: Blocks | None = None,
    look: Callable | None = None,
    any_read: bool = False,
) -> Iterator[Part]:
    """As :func:`~pyxem_dl.scans.streaming.stream`, on the workers of a client.

    Parameters
    ----------
    client : distributed.Client
        Whose workers have pyxem_dl, and can read the file that the data come from.

    Raises
    ------
    RuntimeError
        If a worker has no pyxem_dl, or another version; if a block kills one worker after the other.
    """
    data = as_scan(data)
    wanted = np.ones(int(np.prod(navigation_shape(data))), bool) if wanted is None else wanted.reshape(-1)
    blocks = plan_blocks(data, step.keep_every) if blocks is None else blocks
    _check_workers(client)
    sent = SentStep(step, computing)
    plugin = _plugin(sent)
    client.register_plugin(plugin)
    task = BlockTask(sent.without_bytes(), look is not None)
    missing = NotRead(any_read, step.noun)
    todo = wanted_blocks(blocks, wanted)
    running: dict = {}
    try:
        yield from _run(client, data, blocks, wanted, task, todo, running, missing, look)
    finally:
        with suppress(Exception):  # the cluster may be gone
            client.cancel(list(running))
            client.unregister_worker_plugin(plugin.name)
    missing.finish()


def _run(client, data, blocks, wanted, task, todo, running, missing, look) -> Iterator[Part]:
    from distributed import as_completed

    finished = as_completed()

    def submit() -> bool:
        i = next(todo, None)
        if i is None:
            return False
        future = _submit(client, data, blocks, i, wanted, task)
        running[future] = i
        finished.add(future)
        return True

    while len(running) < _window(client) and submit():
        pass
    for future in finished:
        i = running.pop(future)
        part = _result(future, i, blocks, wanted, missing)
        future.release()
        while len(running) < _window(client) and submit():
            pass
        if part is not None:
            missing.read()
            arrays = dict(part.arrays)
            if look is not None:
                look.take(part.indices, arrays.pop("checksum"))
            yield Part(part.indices, arrays)
        if not running:
            return


def _window(client) -> int:
    """So many tasks keep all threads of the workers busy; workers may come and go."""
    return _IN_FLIGHT * max(1, sum(client.nthreads().values()))


def _submit(client, data, blocks: Blocks, i: int, wanted: np.ndarray, task: BlockTask):
    """Start a block."""
    import dask

    indices = blocks.indices(i)
    keep = wanted[indices]
    part = data[blocks.box(i)]
    name = f"pyxem_dl-block-{i}-{uuid.uuid4().hex}"  # no two runs share one
    if is_lazy(part):
        (part,) = dask.optimize(part)  # of a large scan's graph, what this block needs
        call = dask.delayed(task, pure=False)(part, indices, keep, dask_key_name=name)
        return client.compute(call, retries=_RETRIES)
    held = client.scatter(np.ascontiguousarray(part), hash=False)
    return client.submit(task, held, indices, keep, pure=False, key=name, retries=_RETRIES)


def _result(future, i: int, blocks: Blocks, wanted, missing: NotRead) -> Part | None:
    """Return what came of a block; None if it could not be read."""
    from distributed import KilledWorker

    try:
        found = future.result()
    except KilledWorker as error:
        raise RuntimeError(
            f"Block {i} (patterns {blocks.indices(i)[0]} and following) ended every worker that it was given to, "
            f"which mostly means that their memory was full: {error}. Give the workers more memory, or fewer threads "
            "each; with output= what is done is kept, and a repeated call continues."
        ) from error
    except Exception as error:  # whatever the reader of a file raises
        indices = blocks.indices(i)
        if isinstance(error, FileNotFoundError):
            raise FileNotFoundError(
                f"The workers cannot read the scan: {error}. The file must be where the client sees it, under the same "
                "path, on a file system that all of them share."
            ) from error
        missing.add(indices[wanted[indices]], error)
        return None
    if isinstance(found, _Failed):
        raise found.error
    return found


def _check_workers(client) -> None:
    """Make sure that all workers have pyxem_dl, in this version."""
    here = importlib.metadata.version("pyxem_dl")
    # a function of Python's own: one of ours could not even be sent
    found = client.run(importlib.metadata.version, "pyxem_dl", on_error="return")
    for worker, version in found.items():
        if isinstance(version, Exception):
            raise RuntimeError(f"The worker {worker} has no pyxem_dl ({version!r}). Install pyxem_dl {here} there.")
        if version != here:
            raise RuntimeError(f"The worker {worker} has pyxem_dl {version}, here it is {here}: install the same.")


class _Failed:
    """An error of the step, which no other worker would do better."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class BlockTask:
    """What a worker does with a block that it has just read.

    Parameters
    ----------
    step : SentStep
        Without its bytes, which come with the plugin.
    with_checksums : bool
        Give the patterns' checksums, too.
    """

    def __init__(self, step: SentStep, with_checksums: bool) -> None:
        self._step, self._with_checksums = step, with_checksums

    def __call__(self, patterns, indices: np.ndarray, keep: np.ndarray) -> Part | _Failed:
        """Results for the positions of a block that are kept."""
        patterns = np.asarray(patterns).reshape(len(indices), *np.shape(patterns)[-2:])
        indices, patterns = indices[keep], patterns[keep]
        try:
            parts = list(self._step.compute(indices, patterns))
        except Exception as error:
            return _Failed(error)
        arrays = _joined([part.arrays for part in parts])
        if self._with_checksums:
            arrays["checksum"] = pattern_checksums(patterns)
        return Part(indices, arrays)


def _joined(parts: list[dict]) -> dict:
    """Arrays of several parts in one."""
    joined = {}
    for name, first in parts[0].items():
        values = [part[name] for part in parts]
        if isinstance(first, Rows):
            joined[name] = Rows(*(np.concatenate(column) for column in zip(*values)))
        else:
            joined[name] = np.concatenate(values)
    return joined


def _plugin(step: SentStep):
    """Make a plugin that takes a step to every worker, now and later, and makes it ready there."""
    from distributed import WorkerPlugin

    class StepPlugin(WorkerPlugin):
        name = f"pyxem_dl-{step.digest[:16]}"
        idempotent = True

        def setup(self, worker) -> None:
            step.load()

    return StepPlugin()
