"""Batches on a CUDA device: the next one is copied there, and the last one's results back, while one is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from pyxem_dl.scans.steps import Padded, Part, to_host, to_tensor
from pyxem_dl.scans.streaming import OneByOne, cut, joined

# Batches whose copies are under way, or that are computed, at the same time
_IN_FLIGHT = 3


class _Flying(NamedTuple):
    """A batch on the device: its results on their way to the host, and the event after which they are there."""

    indices: np.ndarray
    results: dict
    arrived: torch.cuda.Event


class CudaRunner(OneByOne):
    """Run batches with copies beside the computing.

    Patterns keep their dtype until they are on the device: they go through a ring of pinned buffers and a stream of
    their own.  Results are read one batch late, so that nothing waits for the device but the end.

    Parameters
    ----------
    step : Step
        What is done.
    device : torch.device
        Of the kind "cuda".
    size : int
        Patterns of a batch.
    """

    def __init__(self, step, device: torch.device, size: int) -> None:
        super().__init__(step, device, size)
        self._copying = torch.cuda.Stream(device)
        self._ring: deque = deque(maxlen=_IN_FLIGHT)

    def run(self, pieces) -> Iterator[Part]:
        """Results of pieces (indices, patterns)."""
        flying: deque[_Flying] = deque()
        for indices, patterns in cut(pieces, lambda: self.size):
            try:
                flying.append(self._launch(indices, patterns))
            except RuntimeError:  # what is under way is brought home, and this batch is tried again in smaller ones
                yield from self._land(flying, 0)
                yield from self.told(self.compute(indices, joined(patterns)))
            yield from self._land(flying, _IN_FLIGHT - 1)
        yield from self._land(flying, 0)

    def _launch(self, indices: np.ndarray, patterns: list[np.ndarray]) -> _Flying:
        """Start a batch, and let its results follow; nothing here waits for the device."""
        batch = patterns[0] if patterns[0].dtype == object else self._upload(list(map(to_tensor, patterns))).float()
        with torch.inference_mode():
            results = self.step(batch, indices)
            home = {name: _to_pinned(value) for name, value in results.items()}
        arrived = torch.cuda.Event()
        arrived.record(torch.cuda.current_stream(self.device))
        return _Flying(indices, home, arrived)

    def _upload(self, pieces: list[torch.Tensor]) -> torch.Tensor:
        """Copy the pieces of a batch through pinned memory, which is the only copy that the host makes."""
        n = sum(map(len, pieces))
        pinned, copied = self._buffer(n, pieces[0])
        if copied is not None:
            copied.synchronize()  # the copy that last used this buffer
        start = 0
        for piece in pieces:
            pinned[start : start + len(piece)].copy_(piece)
            start += len(piece)
        with torch.cuda.stream(self._copying):
            there = pinned[:n].to(self.device, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record(self._copying)
        self._ring.append((pinned, copied))
        computing = torch.cuda.current_stream(self.device)
        computing.wait_event(copied)
        _needed_by(computing, there)
        return there

    def _buffer(self, n: int, like: torch.Tensor):
        """Return the pinned buffer that was used longest ago, or a new one."""
        if len(self._ring) == _IN_FLIGHT:
            pinned, copied = self._ring.popleft()
            if pinned.dtype == like.dtype and pinned.shape[1:] == like.shape[1:] and len(pinned) >= n:
                return pinned, copied
        return _pinned((max(self.size, n), *like.shape[1:]), like.dtype), None

    def _land(self, flying: deque, left: int) -> Iterator[Part]:
        """Give the results of all but the last few batches."""
        while len(flying) > left:
            each = flying.popleft()
            each.arrived.synchronize()
            yield Part(each.indices, to_host(each.results))


def _to_pinned(value):
    """Results on their way to pinned memory."""
    if isinstance(value, Padded):
        return Padded(*map(_to_pinned, value))
    value = value.float() if value.dtype == torch.bfloat16 else value
    return _pinned(value.shape, value.dtype).copy_(value, non_blocking=True)


def _pinned(shape, dtype: torch.dtype) -> torch.Tensor:
    """Make a tensor in memory that a device copies from and to by itself."""
    return torch.empty(shape, dtype=dtype, pin_memory=True)


def _needed_by(stream: torch.cuda.Stream, tensor: torch.Tensor) -> None:
    """Keep the memory of a tensor until a stream has done with it, which did not make it."""
    tensor.record_stream(stream)
