"""Devices: which there are, how precisely they compute, and how much they take at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import torch

from pyxem_dl.checks import whole_number
from pyxem_dl.rotations import full_float32

# More patterns than any device holds at once
_LARGEST_BATCH = 2**24


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


def check_batch_size(batch_size) -> int | None:
    """Return a batch size as an int, None as None; a ValueError for what is neither."""
    if batch_size is None:
        return None
    return whole_number("batch_size", batch_size, 1, _LARGEST_BATCH)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that the device's memory is full."""
    text = str(error).lower()
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or any(
        phrase in text for phrase in ("out of memory", "can't allocate memory")
    )


def in_micro_batches(function, size: int, device: torch.device, *columns) -> list[torch.Tensor]:
    """Call a function with micro-batches of batches, and put its results together.

    Parameters
    ----------
    function : callable
        Takes a micro-batch of each of the columns, returns a tuple of tensors.
    size : int
        Of the micro-batches.
    device : torch.device
        Where they go; on a CPU they are computed side by side.
    *columns : tensor or None
        Of one length; None stays None.
    """
    first = columns[0].to(device).split(size)
    others = [
        [None] * len(first) if column is None else column.to(device).split(size)
        for column in columns[1:]
    ]
    threads = torch.get_num_threads()
    if device.type == "cpu" and threads > 1:
        # a single micro-batch, too: how an operation is divided among cores shows in the last bit
        parts = _in_threads(function, threads, first, *others)
    else:
        parts = [function(*each) for each in zip(first, *others, strict=True)]
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def padded(x: torch.Tensor | None, size: int) -> torch.Tensor | None:
    """Pad a micro-batch to its full size with its last row, for the size must not show in the results; None stays None.

    Libraries take other algorithms, and sum in another order, for another number of patterns: in float32 that moves the
    last digits, and where bfloat16 then rounds them the other way, predictions by 10⁻³ to 10⁻².
    """
    if x is None or len(x) in (0, size):
        return x
    return torch.cat([x, x[-1:].expand(size - len(x), *x.shape[1:])])


def as_column(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Mask (n,) with the dimensions of another tensor (n, ...)."""
    return mask.reshape(-1, *[1] * (like.ndim - 1))


def _in_threads(function, threads: int, *micro_batches) -> list:
    """Compute micro-batches side by side, each on one core: faster than all cores on one micro-batch."""
    with one_core_each(threads) as pool:
        return list(pool.map(function, *micro_batches))


@contextmanager
def on_one_core():
    """Let torch compute on one core in this thread; several threads may be inside at once.

    How an operation is divided among cores shows in the last bit of its result, and many small operations are faster
    side by side than each on all cores.
    """
    with _guard:
        if not _inside["n"]:
            _inside["threads"] = _threads_of_torch()
        _inside["n"] += 1
    try:
        torch.set_num_threads(1)
        yield
    finally:
        with _guard:
            _inside["n"] -= 1
            if not _inside["n"]:
                # parts of torch take the number that was set last, in whatever thread
                torch.set_num_threads(_inside["threads"])


_guard, _inside = threading.Lock(), {"n": 0, "threads": 1}


def _threads_of_torch() -> int:
    """Ask torch for the number that was set last: a new thread has it, this one may still have an earlier one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


@contextmanager
def one_core_each(threads: int):
    """Make a pool of threads in each of which torch computes on one core."""
    with on_one_core():
        pool = ThreadPoolExecutor(threads, "pyxem_dl-worker", initializer=torch.set_num_threads, initargs=(1,))
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


def native_precision(device: torch.device) -> str:
    """Return "bfloat16" where the device computes in it, else "float32"."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        return "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"
    return "float32"


@contextmanager
def computing(device: torch.device, precision: str = "float32"):
    """Compute without gradients in a stated precision.

    Parameters
    ----------
    device : torch.device
        Where.
    precision : {"float32", "bfloat16"}
        float32 is without TF32: like bfloat16, it rounds so coarsely that another batch size,
        for which the library takes another algorithm, shows in the predictions (10⁻³ to 10⁻²).
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(full_float32())
        if precision == "bfloat16":
            stack.enter_context(torch.autocast(device.type, dtype=torch.bfloat16))
        yield
