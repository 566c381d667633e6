"""Settings of a viewer that are checked when they are set; errors say what is asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from traits.api import TraitType

from pyxem_dl.checks import number

# A calibration that is off by more has to be found, not tried
_SCALES = (0.95, 1.05)


class Checked(TraitType):
    """What a function makes of a value, or the words of its error.

    Parameters
    ----------
    default
        At first.
    check : callable
        ``check(object, name, value)`` returns what is kept.
    """

    def __init__(self, default, check: Callable) -> None:
        super().__init__(default)
        self._check = check

    def validate(self, object, name, value):
        """See :class:`traits.api.TraitType`."""
        return self._check(object, name, value)


def share(object, name: str, value) -> float:
    """Check a number from 0 to 1."""
    return number(name, value, 0, 1)


def scale_factor(object, name: str, value) -> float:
    """Check a factor of a scale."""
    return number(name, value, *_SCALES)


def shift(object, name: str, value) -> tuple[float, float]:
    """Check rows and columns in pixels."""
    if np.shape(value) != (2,):
        raise ValueError(f"{name} must be two numbers, (rows, columns) in pixels, not {value!r}.")
    return tuple(number(name, each) for each in value)
