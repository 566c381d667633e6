"""Networks without their weights: what shapes they would have, before memory is taken for them."""

from __future__ import annotations

import math
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode

# Tensors with more elements than this are not filled, either
_LARGE = 2**20
_FILLED = (torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)


class WithoutWeights(TorchFunctionMode):
    """Inside of it weights have shapes, and no memory: torch's "meta" device.

    The layers of torch and timm make their weights with ``torch.empty``.  All that is computed (grids of orientations,
    tables of indices) stays what it is, so that networks can be built that cannot be on the meta device as a whole.

    Parameters
    ----------
    most : int, optional
        So many numbers may be made of a network that cannot be built without its weights; a MemoryError for more.
    """

    #: Off while a network is built that computes with its weights while it is built
    active = True

    def __init__(self, most: int | None = None) -> None:
        super().__init__()
        self.most, self._made = most, 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if self.active and (function is torch.empty or (function in _FILLED and _is_large(args, kwargs))):
            kwargs["device"] = "meta"
        elif self.most is not None and not self.active and function in (torch.empty, *_FILLED):
            self._made += _n_elements(args, kwargs)
            if self._made > self.most:
                raise MemoryError(f"the network has more weights than the {self.most} numbers that are allowed for")
        return function(*args, **kwargs)


@contextmanager
def with_weights():
    """Take memory for weights after all, inside of :class:`WithoutWeights`, too."""
    before, WithoutWeights.active = WithoutWeights.active, False
    try:
        yield
    finally:
        WithoutWeights.active = before


def needs_weights(error: BaseException) -> bool:
    """Whether a network could not be built without its weights, for it computes with them while it is built."""
    text = str(error)
    return isinstance(error, RuntimeError) and ("device meta" in text or "meta tensor" in text)


def _is_large(args, kwargs) -> bool:
    return _n_elements(args, kwargs) > _LARGE


def _n_elements(args, kwargs) -> int:
    size = args[0] if args and not isinstance(args[0], int) else args or kwargs.get("size", ())
    return math.prod(n for n in size if isinstance(n, int))


def moved(network: torch.nn.Module, device) -> torch.nn.Module:
    """Move a part of a network to a device; one without weights stays as it is."""
    return network if any(tensor.is_meta for tensor in network.parameters()) else network.to(device)
