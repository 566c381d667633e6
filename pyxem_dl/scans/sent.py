"""A step on its way to other processes: its bytes, and the hash by which each process knows it."""

from __future__ import annotations

import hashlib
import pickle
import threading
from collections.abc import Iterator

import numpy as np

from pyxem_dl.devices import on_one_core, resolve_device
from pyxem_dl.scans.options import Computing
from pyxem_dl.scans.steps import Part, Step
from pyxem_dl.scans.streaming import OneByOne, runner_for

#: Steps of this process by their hash, the last few
_STEPS: dict[str, Step] = {}
_MOST_STEPS = 4
# Tasks of several threads take turns on a device, whose memory is that of one; and one of them gets a step ready
_turn, _ready = threading.Lock(), threading.Lock()


class SentStep:
    """A step that any process can do.

    Each process unpacks it once, and gets it ready for the device that it has itself.

    Parameters
    ----------
    step : Step
        What is done.
    computing : Computing
        Where; its callbacks stay here.
    """

    def __init__(self, step: Step, computing: Computing) -> None:
        self.bytes: bytes | None = pickle.dumps(step)
        self.digest = hashlib.sha256(self.bytes).hexdigest()
        self.device, self.batch_size = str(computing.device), computing.batch_size

    def __dask_tokenize__(self) -> tuple:
        return type(self).__name__, self.digest, self.device, self.batch_size

    def without_bytes(self) -> SentStep:
        """Make the same for processes that have been given the bytes."""
        small = object.__new__(SentStep)
        small.__dict__ = self.__dict__ | {"bytes": None}
        return small

    def load(self) -> Step:
        """Get the step, ready for this process' device."""
        with _ready:
            step = _STEPS.get(self.digest)
            if step is None:
                if self.bytes is None:
                    raise RuntimeError("What is to be done did not reach this process. Repeat the call.")
                step = pickle.loads(self.bytes)
                step.prepare(resolve_device(self.device))
                _STEPS[self.digest] = step
                while len(_STEPS) > _MOST_STEPS:
                    _STEPS.pop(next(iter(_STEPS)), None)
            return step

    def compute(self, indices: np.ndarray, patterns: np.ndarray) -> Iterator[Part]:
        """Do the step with patterns (n, rows, columns), on one core or in turns on the device."""
        if not len(indices):
            return
        step, device = self.load(), resolve_device(self.device)
        if device.type == "cpu":
            size = min(step.micro_batch, self.batch_size or step.micro_batch)
            with on_one_core():
                yield from OneByOne(step, device, size).run(iter([(indices, patterns)]))
            return
        with _turn, runner_for(step, device, self.batch_size) as runner:
            yield from runner.run(iter([(indices, patterns)]))
