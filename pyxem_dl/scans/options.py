"""What is read of a signal, and what computes: two small objects that travel in the place of ten keywords."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from pyxem_dl.checks import flag
from pyxem_dl.devices import check_batch_size, default_batch_size, resolve_device
from pyxem_dl.messages import say


@dataclass(frozen=True, eq=False)
class Reading:
    """How a signal is read; what is given is checked against the signal by ``Scan.from_signal``.

    Parameters
    ----------
    navigation_mask : array of bool, optional
        True where a pattern is excluded, of the navigation's shape in data order (y, x).
    signal_mask : array of bool, shape (rows, columns), optional
        True where the detector is excluded.
    center : optional
        Position of the direct beam: None for the calibration's; "auto" to find it in each pattern; (row, column) in
        pixels; an array (..., 2) of those, of the navigation's shape in data order; or pyxem's ``BeamShift``.
    beam_energy : float, optional
        In kV; by default that of the metadata.
    """

    navigation_mask: np.ndarray | None = None
    signal_mask: np.ndarray | None = None
    center: object = None
    beam_energy: float | None = None

    def asked(self) -> dict:
        """Give what was asked for, without what was not: for the record of a result."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class Computing:
    """What computes, and who hears of it.

    Parameters
    ----------
    device : str or torch.device
        "auto" (CUDA, else MPS, else CPU) or a name of torch.
    batch_size : int, optional
        Patterns on the device at once; by default chosen for the device.
    show_progressbar : bool, optional
        By default HyperSpy's preference.
    on_part : callable, optional
        Called with each :class:`~pyxem_dl.scans.steps.Part` as it comes, in the thread that called. If it returns
        False, the work stops there as by Ctrl-C.
    on_message : callable, optional
        Called with each line that would be printed.

    Raises
    ------
    ValueError, TypeError
        For a device that is not there, a batch size that is no whole number, and callbacks that cannot be called.
    """

    device: str | torch.device = "auto"
    batch_size: int | None = None
    show_progressbar: bool | None = None
    on_part: Callable | None = None
    on_message: Callable | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_size", check_batch_size(self.batch_size))
        _ = self.torch_device
        if self.show_progressbar is not None:
            flag("show_progressbar", self.show_progressbar)
        for name in ("on_part", "on_message"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise TypeError(f"{name} must be a function, not {getattr(self, name)!r}.")

    @property
    def torch_device(self) -> torch.device:
        """The device here; a worker of a cluster resolves "auto" for itself."""
        return resolve_device(self.device)

    def say(self, line: str) -> None:
        """Print and log a line, or hand it to who listens."""
        (say if self.on_message is None else self.on_message)(line)

    def describe(self, step) -> str:
        """Device and batches in words."""
        device = self.torch_device
        if device.type != "cpu":
            return f"{device}, batches of {self.batch_size or default_batch_size(device)}"
        threads = torch.get_num_threads() if step.in_threads or step.divides else 1
        return f"cpu, {threads} threads" if threads > 1 else "cpu, 1 thread"
