"""Pixels and units of images in real space."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyxem_dl.frames.calibration import _ANGLES, _plain_unit

if TYPE_CHECKING:
    from hyperspy.signals import BaseSignal

_TO_ANGSTROM = {"A": 1.0, "nm": 10.0, "pm": 0.01, "um": 1e4, "mm": 1e7, "m": 1e10}
# Share by which the pixels may be longer along one axis
_SQUARE = 0.01
# Sizes of a pixel, in Å, with which an image can have atomic columns
_SMALLEST_PIXEL, _LARGEST_PIXEL = 1e-3, 1.0
_HOW = (
    "Set it, for example `for ax in s.axes_manager.signal_axes: ax.scale, ax.units = 0.012, 'nm'` (nm, pm and Å are "
    "understood)."
)


@dataclass(frozen=True)
class ImageCalibration:
    """How the pixels of an image lie in real space.

    Parameters
    ----------
    pixel : float
        Size of a pixel in Å; pixels are square.
    shape : tuple of int
        Of the image, (rows, columns).
    """

    pixel: float
    shape: tuple[int, int]

    @property
    def size(self) -> tuple[float, float]:
        """Of the image in Å, (along rows, along columns)."""
        return self.shape[0] * self.pixel, self.shape[1] * self.pixel

    @classmethod
    def from_signal(cls, signal: BaseSignal) -> ImageCalibration:
        """Read the signal axes of an image.

        Parameters
        ----------
        signal : hyperspy.signals.Signal2D
            With two signal axes in units of length.

        Raises
        ------
        ValueError
            If they have no unit, one of reciprocal space, or one with which no atomic column can be seen; if pixels are
            not square.  The message says what to do.
        """
        axes = signal.axes_manager.signal_axes
        if len(axes) != 2:
            raise ValueError(
                f"Images have two signal dimensions; this signal has {len(axes)}. Use `s.transpose(signal_axes=2)`."
            )
        if not all(axis.is_uniform for axis in axes):
            raise ValueError("The signal axes must be uniform; use `s.interpolate_on_axis(...)`.")
        x, y = axes
        along = [abs(float(axis.scale)) * length_in_angstrom(axis.units) for axis in (y, x)]
        if not all(math.isfinite(size) and size > 0 for size in along):
            raise ValueError(f"A pixel of {along[0]:g} x {along[1]:g} Å is none. {_HOW}")
        pixel = math.sqrt(along[0] * along[1])
        if abs(along[0] - along[1]) > _SQUARE * pixel:
            raise ValueError(
                f"The pixels are {along[0]:.4g} Å high and {along[1]:.4g} Å wide; square ones are needed. If the "
                "calibration is right, resample the image: `s.interpolate_on_axis(new_axis, axis)`."
            )
        if not _SMALLEST_PIXEL <= pixel <= _LARGEST_PIXEL:
            raise ValueError(
                f"The pixels are {pixel:.4g} Å wide; an image with atomic columns has pixels of {_SMALLEST_PIXEL} to "
                f"{_LARGEST_PIXEL:g} Å. Is the unit right? {_HOW}"
            )
        return cls(pixel, (y.size, x.size))


def drift_gradient(along_x, along_y) -> np.ndarray:
    """Deformation gradients (..., 2, 2) of images that were scanned row by row while what they show moved.

    Parameters
    ----------
    along_x, along_y : float or array
        Movement in the lab frame (x to the right, y up), per length scanned downwards; no unit.
    """
    along_x, along_y = np.broadcast_arrays(np.asarray(along_x, dtype=float), np.asarray(along_y, dtype=float))
    # y falls while rows are scanned, and what is at y has moved by -y times the drift
    one, zero = np.ones_like(along_x), np.zeros_like(along_x)
    return np.stack([np.stack([one, -along_x], -1), np.stack([zero, 1 - along_y], -1)], -2)


def drift_of_strain(xx, yy, xy) -> tuple:
    """Return the drift (along x, along y) that makes such a strain, to first order: see :func:`drift_gradient`.

    A change of scale, the same along x and y, is left out.
    """
    return -2 * xy, xx - yy


def length_unit(signal: BaseSignal) -> tuple[float, str]:
    """Length of a pixel and its unit, whatever these are; 1 px where an image has no scale.

    Raises
    ------
    ValueError
        If the unit is not one of length, or pixels are not square.
    """
    x, y = signal.axes_manager.signal_axes
    if not (x.is_uniform and y.is_uniform):
        raise ValueError("The signal axes must be uniform; use `s.interpolate_on_axis(...)`.")
    if str(x.units) in ("", "<undefined>", "px", "None") and str(y.units) == str(x.units):
        return 1.0, "px"
    along = [abs(float(axis.scale)) * length_in_angstrom(axis.units) for axis in (y, x)]
    if not all(math.isfinite(size) and size > 0 for size in along):
        raise ValueError(f"A pixel of {along[0]:g} x {along[1]:g} Å is none. {_HOW}")
    if abs(along[0] - along[1]) > _SQUARE * max(along):
        raise ValueError(
            f"The pixels are {along[0]:.4g} Å high and {along[1]:.4g} Å wide; square ones are needed. If the "
            "calibration is right, resample the images: `s.interpolate_on_axis(new_axis, axis)`."
        )
    return abs(float(x.scale)), str(x.units)


def length_in_angstrom(units) -> float:
    """Return what a length in some unit is multiplied with to be in Å.

    Raises
    ------
    ValueError
        For what is no unit of length; the message says what to do.
    """
    if units is None or str(units) in ("", "<undefined>", "px", "None"):
        raise ValueError(f"The image has no scale (units {units!r}). {_HOW}")
    plain = _plain_unit(_repaired(str(units)))
    if plain in _TO_ANGSTROM:
        return _TO_ANGSTROM[plain]
    if plain.endswith("^-1") or plain in _ANGLES:
        raise ValueError(
            f"The signal axes are in {units!r}: this looks like a diffraction pattern, not like an image. If it is an "
            f"image, correct its scale. {_HOW}"
        )
    raise ValueError(f"The unit {units!r} of the signal axes is not understood. {_HOW}")


def _repaired(text: str) -> str:
    """Text that was written as UTF-8 and read as Latin-1, as orix reads the Å of its own files."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text
