"""How a model computes: precision, threads, and patterns that are fit for it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import torch

from pyxem_dl.rotations import full_float32


def usable_patterns(
    patterns: torch.Tensor, signal_mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Make patterns fit for computing, and tell which of them say anything.

    Parameters
    ----------
    patterns : tensor, shape (n, rows, columns)
        Intensities.
    signal_mask : tensor of bool, shape (rows, columns), optional
        True where the detector is excluded.

    Returns
    -------
    patterns : tensor, shape (n, rows, columns)
        Not negative, 0 where masked, and all 0 where not usable.
    usable : tensor of bool, shape (n,)
        False for NaN or infinite pixels and for constant patterns, where not masked.
    """
    patterns = patterns.float()
    # NaN stays; minus infinity is no small number, but nothing at all
    patterns = torch.where(patterns == -torch.inf, torch.nan, patterns.clamp_min(0))
    lowest = highest = patterns
    if signal_mask is not None:
        mask = signal_mask.to(patterns.device)
        # what is masked is neither the lowest nor the highest; a mask over all leaves +inf and -inf
        lowest, highest = (torch.where(mask, limit, patterns) for limit in (torch.inf, -torch.inf))
        patterns = torch.where(mask, 0.0, patterns)
    low, high = lowest.flatten(1).amin(1), highest.flatten(1).amax(1)  # NaN where there is one
    usable = low.isfinite() & high.isfinite() & (high > low)
    # nobody waits for a device to look; on a CPU a look costs less than another copy of the patterns
    if usable.device.type == "cpu" and bool(usable.all()):
        return patterns, usable
    return torch.where(usable[:, None, None], patterns, 0.0), usable


def in_portions(function, size: int, device: torch.device, *columns) -> list[torch.Tensor]:
    """Call a function with portions of batches, and put its results together.

    Parameters
    ----------
    function : callable
        Takes a portion of each of the columns, returns a tuple of tensors.
    size : int
        Of the portions.
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
        # a single portion, too: how an operation is divided among cores shows in the last bit
        parts = _in_threads(function, threads, first, *others)
    else:
        parts = [function(*each) for each in zip(first, *others, strict=True)]
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def filled_up(x: torch.Tensor | None, size: int) -> torch.Tensor | None:
    """Pad a portion to its full size with its last row, for the size must not show in the answers; None stays None.

    Libraries take other algorithms, and sum in another order, for another number of patterns: in float32 that moves the
    last digits, and where bfloat16 then rounds them the other way, answers by 10⁻³ to 10⁻².
    """
    if x is None or len(x) in (0, size):
        return x
    return torch.cat([x, x[-1:].expand(size - len(x), *x.shape[1:])])


def _in_threads(function, threads: int, *portions) -> list:
    """Compute portions side by side, each on one core: faster than all cores on one portion."""
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, *portions))
    finally:
        # parts of torch take the number that was set last, in whatever thread
        torch.set_num_threads(threads)


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
        for which the library takes another algorithm, shows in the answers (10⁻³ to 10⁻²).
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(full_float32())
        if precision == "bfloat16":
            stack.enter_context(torch.autocast(device.type, dtype=torch.bfloat16))
        yield
