"""Where the positions of a scan lie: what a map needs of a signal, in plain numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Positions:
    """The grid of a scan.

    Parameters
    ----------
    shape : tuple of int
        Of the navigation, in data order (y, x); () for a single pattern.
    steps : tuple of float
        Along the axes of `shape`, positive.
    scan_unit : str
        Of the steps, "px" where they have none.
    """

    shape: tuple[int, ...]
    steps: tuple[float, ...]
    scan_unit: str

    @classmethod
    def of_axes(cls, axes, shape) -> Positions:
        """Read HyperSpy's navigation axes, x first."""
        if not shape:
            return cls((), (), "px")
        steps, units = [], []
        for axis in axes:
            step = abs(float(axis.scale)) if axis.is_uniform else 1.0
            units.append(_scan_unit(axis.units) if step and axis.is_uniform else "px")
            steps.append(step or 1.0)
        return cls(tuple(int(n) for n in shape), tuple(steps[::-1]), units[0])

    @property
    def size(self) -> int:
        """Number of positions."""
        return int(np.prod(self.shape, dtype=int))

    @property
    def x(self) -> np.ndarray:
        """Coordinates (n,) along x, from 0, in :attr:`scan_unit`."""
        if not self.shape:
            return np.zeros(1)
        return np.indices(self.shape)[-1].reshape(-1) * self.steps[-1]

    @property
    def y(self) -> np.ndarray | None:
        """Coordinates (n,) along y; None where there is only x."""
        return np.indices(self.shape)[0].reshape(-1) * self.steps[0] if len(self.shape) == 2 else None

    def to_dict(self) -> dict:
        """Plain numbers for a file."""
        return {"shape": list(self.shape), "steps": list(self.steps), "scan_unit": self.scan_unit}

    @classmethod
    def from_dict(cls, entry: dict) -> Positions:
        """Read what :meth:`to_dict` gave; a ValueError for what it cannot have given."""
        shape, steps = tuple(entry["shape"]), tuple(float(step) for step in entry["steps"])
        if len(steps) != len(shape) or len(shape) > 2 or not all(isinstance(n, int) and n > 0 for n in shape):
            raise ValueError(f"no positions of a scan: {entry!r}")
        if not all(np.isfinite(step) and step > 0 for step in steps):
            raise ValueError(f"no steps of a scan: {steps!r}")
        return cls(shape, steps, str(entry["scan_unit"]))


def _scan_unit(units) -> str:
    text = "" if units is None else str(units)
    return "px" if text in ("", "<undefined>", "None") else text
