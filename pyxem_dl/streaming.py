"""From the patterns of a signal to batches on a device to results in order, in bounded memory.

A reader thread computes one group of chunks while the device works on the one before; batches
are cut across the borders of chunks, so that neither chunking nor batch size shows in the
results.  Never more is in memory than two groups of chunks and the batch.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from pyxem_dl.checks import flag, whole_number
from pyxem_dl.messages import warn
from pyxem_dl.preprocessing import as_float32, check_patterns

# A group of chunks is read at once, up to so many bytes (but at least one chunk).
_GROUP_BYTES = 128 * 2**20
# More patterns than any device holds at once
_LARGEST_BATCH = 2**24


class Part(NamedTuple):
    """Results of one batch.

    Parameters
    ----------
    indices : array of int, shape (n,)
        Flat navigation indices, in data order (y, x).
    results : object
        What the function returned, its tensors as NumPy arrays.
    checksums : array of int, shape (n,), or None
        Of the patterns, where they were asked for.
    """

    indices: np.ndarray
    results: object
    checksums: np.ndarray | None = None


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Turn a name into a device that is there.

    Parameters
    ----------
    device : str or torch.device
        "auto" takes CUDA, else MPS, else the CPU.

    Raises
    ------
    ValueError
        If the device is unknown or not available here; with those that are.
    """
    if isinstance(device, bool) or not isinstance(device, (str, torch.device)):
        raise TypeError(f"The device must be a name or a torch.device, not {device!r}. Give {_devices()}.")
    has_mps = torch.backends.mps.is_available()
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu")
    try:
        device = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{device!r} is not a device. Give {_devices()}.") from error
    if device.type not in _COUNTS:
        raise ValueError(f"The device '{device}' cannot be used for computing here. Give {_devices()}.")
    n = _COUNTS[device.type]()
    if (device.index or 0) >= n:
        seen = f": torch {torch.__version__} sees {n} CUDA devices" if device.type == "cuda" else " here"
        raise ValueError(f"The device '{device}' is not available{seen}. Give {_devices()}.")
    return torch.device("cpu") if device.type == "cpu" else device


#: How many devices of each kind there are
_COUNTS = {
    "cpu": lambda: 1,
    "cuda": lambda: torch.cuda.device_count(),
    "mps": lambda: int(torch.backends.mps.is_available()),
    "xpu": lambda: torch.xpu.device_count() if hasattr(torch, "xpu") and torch.xpu.is_available() else 0,
}


def _devices() -> str:
    """Names of the devices that there are."""
    names = ["auto"]
    for kind, count in _COUNTS.items():
        n = count()
        names += [kind] * (n > 0) + [f"{kind}:{i}" for i in range(n) if n > 1]
    return ", ".join(map(repr, names))


def default_batch_size(device: torch.device) -> int:
    """Patterns per batch that fill a device without filling its memory."""
    return {"cuda": 2048, "mps": 512}.get(torch.device(device).type, 256)


def stream(
    data,
    function: Callable,
    *,
    device: str | torch.device = "auto",
    batch_size: int | None = None,
    navigation_mask: np.ndarray | None = None,
    skip: np.ndarray | None = None,
    checksum: Callable | None = None,
    show_progressbar: bool | None = None,
) -> Iterator[Part]:
    """Call a function with batches of patterns and yield its results.

    Parameters
    ----------
    data : numpy.ndarray or dask.array.Array, shape (..., rows, columns)
        Patterns, with 0, 1 or 2 navigation dimensions in data order; any real dtype.
    function : callable
        ``function(patterns, indices)``: `patterns` is a float32 tensor (n, rows, columns) on
        the device, `indices` an array (n,) of flat navigation indices.  It returns a tensor, or
        a (named) tuple or dict of tensors, of length n.  It runs without gradients.
    device : str or torch.device
        See :func:`resolve_device`.
    batch_size : int, optional
        Patterns per call; by default :func:`default_batch_size`.  Where memory runs out it is
        halved, with a warning.
    navigation_mask : array of bool, optional
        True where a pattern is excluded; chunks that are wholly excluded are not read.
    skip : array of bool, optional
        Like `navigation_mask`: what was done before.
    checksum : callable, optional
        Gives a whole number for a pattern (rows, columns) of float32; called in the thread that reads.
    show_progressbar : bool, optional
        By default HyperSpy's preference.

    Yields
    ------
    Part
        In the order of the chunks; together they cover what is not excluded, each once.

    Raises
    ------
    ValueError, TypeError
        For data that are no patterns, and for a mask of another shape.
    """
    device = resolve_device(device)
    if show_progressbar is not None:
        flag("show_progressbar", show_progressbar)
    size = check_batch_size(batch_size) or default_batch_size(device)
    wanted = _wanted(data, navigation_mask, skip)
    data = data.reshape(1, *data.shape) if data.ndim == 2 else data
    read = _dask_groups(data, wanted, size) if _is_dask(data) else _numpy_groups(data, wanted, size)
    if checksum is not None:
        read = (partial(_with_checksums, each, checksum) for each in read)
    runner = _Runner(function, device, size)
    with progressbar(int(wanted.sum()), show_progressbar) as bar:
        for part in _batches(_one_ahead(read), runner):
            bar.update(len(part.indices))
            yield part


class Collected:
    """Results of a stream, gathered in arrays that are allocated once.

    Parameters
    ----------
    n : int
        Number of patterns of the scan.

    Attributes
    ----------
    arrays : dict of str to array, shape (n, ...)
        The fields of the results; 0 where nothing was done.
    done : array of bool, shape (n,)
        Where there are results.
    """

    def __init__(self, n: int) -> None:
        self.done = np.zeros(n, dtype=bool)
        self.arrays: dict[str, np.ndarray] = {}

    def add(self, part: Part) -> None:
        """Put the results of a batch (a named tuple or a dict) where they belong."""
        results = part.results
        fields = results if isinstance(results, dict) else results._asdict()
        for name, values in fields.items():
            if name not in self.arrays:
                shape = (len(self.done), *values.shape[1:])
                self.arrays[name] = np.zeros(shape, dtype=values.dtype)
            self.arrays[name][part.indices] = values
        self.done[part.indices] = True

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything, to be kept in a file."""
        return {"done": self.done, **self.arrays}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`to_arrays` gave; a ValueError for what it cannot have given."""
        fields = {name: values for name, values in arrays.items() if name != "done"}
        if arrays["done"].shape != self.done.shape or any(len(v) != len(self.done) for v in fields.values()):
            raise ValueError("results of another scan")
        self.done, self.arrays = arrays["done"], fields


def check_batch_size(batch_size) -> int | None:
    """Return a batch size as an int, None as None; a ValueError for what is neither."""
    if batch_size is None:
        return None
    return whole_number("batch_size", batch_size, 1, _LARGEST_BATCH)


def _wanted(data, *masks) -> np.ndarray:
    """Positions (navigation shape) that no mask excludes."""
    check_patterns(data)
    shape = data.shape[:-2]
    wanted = np.ones(shape, dtype=bool)
    for mask in masks:
        if mask is not None:
            mask = np.asarray(mask)
            if mask.dtype != bool or mask.size != wanted.size:
                raise ValueError(
                    f"navigation_mask must be bool of shape {shape}, not {mask.dtype} of shape {mask.shape}."
                )
            wanted &= ~mask.reshape(shape)
    return wanted.reshape(shape or (1,))


def _is_dask(data) -> bool:
    return hasattr(data, "dask")


def _numpy_groups(data, wanted, size) -> Iterator[Callable]:
    """Readers of pieces of an array in memory (or memory-mapped)."""
    flat = np.flatnonzero(wanted)
    nbytes = 4 * math.prod(data.shape[-2:])
    step = max(1, min(size, _GROUP_BYTES // nbytes))
    for start in range(0, len(flat), step):
        indices = flat[start : start + step]
        position = np.unravel_index(indices, wanted.shape)
        yield lambda p=position, i=indices: (i, as_float32(data[p]))


def _dask_groups(data, wanted, size) -> Iterator[Callable]:
    """Readers of groups of neighbouring chunks, at least a batch each where memory allows."""
    if any(n > 1 for n in data.numblocks[-2:]):
        data = data.rechunk({data.ndim - 2: -1, data.ndim - 1: -1})
    starts = [np.cumsum((0, *c)) for c in data.chunks[:-2]]
    flat = np.arange(wanted.size).reshape(wanted.shape)
    delayed = data.to_delayed()
    group, count, nbytes = [], 0, 0
    for block in np.ndindex(*data.numblocks[:-2]):
        slices = tuple(slice(s[b], s[b + 1]) for s, b in zip(starts, block, strict=True))
        keep = wanted[slices]
        if not keep.any():
            continue
        block_bytes = max(4, data.dtype.itemsize) * keep.size * math.prod(data.shape[-2:])
        if group and nbytes + block_bytes > _GROUP_BYTES:
            yield _chunk_reader(group)
            group, count, nbytes = [], 0, 0
        group.append((delayed[(*block, 0, 0)], keep, flat[slices][keep]))
        count, nbytes = count + int(keep.sum()), nbytes + block_bytes
        if count >= size:
            yield _chunk_reader(group)
            group, count, nbytes = [], 0, 0
    if group:
        yield _chunk_reader(group)


def _chunk_reader(group) -> Callable:
    """Make a function that computes the chunks of a group and returns (indices, patterns)."""

    def read():
        import dask

        chunks, keeps, indices = zip(*group, strict=True)
        # A client of dask.distributed, or what the user has set, else few threads: torch has
        # the cores, and one is enough to read
        if dask.base.get_scheduler() is None:
            workers = max(1, min(8, (os.cpu_count() or 2) // 2))
            blocks = dask.compute(*chunks, scheduler="threads", num_workers=workers)
        else:
            blocks = dask.compute(*chunks)
        kept = [as_float32(np.asarray(b)[k]) for b, k in zip(blocks, keeps, strict=True)]
        return np.concatenate(indices), kept[0] if len(kept) == 1 else np.concatenate(kept)

    return read


def _with_checksums(read: Callable, checksum: Callable):
    indices, patterns = read()
    return indices, patterns, np.fromiter(map(checksum, patterns), np.int64, len(patterns))


def _one_ahead(readers) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Call readers in one thread, each while the caller works with the result before."""
    with ThreadPoolExecutor(1, thread_name_prefix="pyxem_dl-reader") as pool:
        ahead = None
        for read in readers:
            following = pool.submit(read)
            if ahead is not None:
                result, ahead = ahead.result(), None
                yield result
                del result
            ahead = following
        if ahead is not None:
            result, ahead = ahead.result(), None
            yield result


def _batches(blocks, runner: _Runner) -> Iterator[Part]:
    """Cut blocks into batches across their borders, and run them."""
    rest = None
    for block in blocks:
        if rest is not None:
            # fill up the batch that the last block began
            missing = max(0, runner.size - len(rest[0]))
            begun = tuple(np.concatenate([a, b[:missing]]) for a, b in zip(rest, block))
            block = tuple(b[missing:] for b in block)
            rest = begun
            if len(rest[0]) < runner.size:
                block = None
                continue
            while len(rest[0]):
                part, rest = runner(*rest)
                yield part
        while len(block[0]) >= runner.size:
            part, block = runner(*block)
            yield part
        # a copy, so that the block does not stay in memory while the one after the next is read
        rest = tuple(b.copy() for b in block) if len(block[0]) else None
        block = None
    while rest is not None and len(rest[0]):
        part, rest = runner(*rest)
        yield part


class _Runner:
    """Run batches on the device, smaller ones where memory runs out."""

    def __init__(self, function, device: torch.device, size: int) -> None:
        self.function, self.device, self.size = function, device, size

    def __call__(self, indices, patterns, *checksums):
        """Run the first `size` patterns; return their part, and what is left."""
        while True:
            n = min(self.size, len(indices))
            try:
                results = self._run(indices[:n], patterns[:n])
                left = (indices[n:], patterns[n:], *(c[n:] for c in checksums))
                return Part(indices[:n], results, *(c[:n] for c in checksums)), left
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or n == 1:
                    raise
            # Outside of the except clause: the traceback kept the tensors alive
            self.size = max(1, n // 2)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            warn(
                f"A batch of {n} patterns does not fit into the memory of '{self.device}': continuing "
                f"with {self.size}. Give batch_size={self.size} to start with that."
            )

    def _run(self, indices, patterns):
        batch = torch.from_numpy(patterns)
        if self.device.type == "cuda":
            batch = batch.pin_memory().to(self.device, non_blocking=True)
        else:
            batch = batch.to(self.device)
        with torch.inference_mode():  # which holds for this thread only
            return _to_numpy(self.function(batch, indices))


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that the device's memory is full."""
    text = str(error).lower()
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or any(
        phrase in text for phrase in ("out of memory", "can't allocate memory")
    )


def _to_numpy(results):
    """Tensors to arrays, in tuples and dicts, too."""
    if isinstance(results, torch.Tensor):
        results = results.float() if results.dtype == torch.bfloat16 else results
        return results.cpu().numpy()
    if isinstance(results, dict):
        return {name: _to_numpy(value) for name, value in results.items()}
    if hasattr(results, "_fields"):
        return type(results)(*(_to_numpy(value) for value in results))
    if isinstance(results, (tuple, list)):
        return tuple(_to_numpy(value) for value in results)
    return results


def progressbar(total: int, show: bool | None, unit: str = " patterns"):
    """Return tqdm's bar; `show` None asks HyperSpy's preference."""
    from tqdm.auto import tqdm

    if show is None:
        import hyperspy.api as hs

        show = hs.preferences.General.show_progressbar
    # in a log file every refresh is a line of its own
    return tqdm(total=total, unit=unit, disable=not show, mininterval=0.1 if can_draw() else 30.0)


def can_draw() -> bool:
    """Whether a bar can be seen: in a terminal, or in a notebook."""
    if sys.stderr is not None and sys.stderr.isatty():
        return True
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None
