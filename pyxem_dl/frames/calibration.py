"""Pixels, units and reciprocal space: where on the detector a scattering vector lies."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pyxem_dl.electrons import HOW_TO_SET_BEAM_ENERGY, beam_energy_of, electron_wavelength, read_beam_energy

if TYPE_CHECKING:
    from hyperspy.signals import BaseSignal

_TO_INVERSE_ANGSTROM = {"A": 1.0, "nm": 0.1, "pm": 100.0, "um": 1e-4}
_REAL_SPACE = {"A", "nm", "pm", "um", "mm", "m"}
_ANGLES = {"rad": 1.0, "mrad": 1e-3, "deg": math.pi / 180}
#: Item of a signal's metadata with what its axes cannot hold of the calibration: (xx, xy, yy) of the distortion
STORED_DISTORTION = "Pyxem_dl.Calibration.distortion"
#: The same, of the metadata of vectors whose places are those of the pattern without it
UNDONE_DISTORTION = "Pyxem_dl.Calibration.undone"


@dataclass(frozen=True)
class Calibration:
    """How a detector's pixels lie in reciprocal space.

    Parameters
    ----------
    scale : tuple of float
        Size of a pixel in Å⁻¹, (along rows, along columns); both positive.
    center : tuple of float
        Position of the direct beam in pixels, (row, column); pixel centres are integers.
    shape : tuple of int
        Shape of the pattern, (rows, columns).
    beam_energy : float, optional
        In kV.
    distortion : tuple of tuple of float, optional
        Symmetric 2 x 2 matrix: a spot at ``k`` (kx, ky) is seen where one at ``k @ distortion`` would be without it.
        None: there is none.
    """

    scale: tuple[float, float]
    center: tuple[float, float]
    shape: tuple[int, int]
    beam_energy: float | None = None
    distortion: tuple[tuple[float, float], tuple[float, float]] | None = None

    def __post_init__(self) -> None:
        for name in ("scale", "center", "shape"):
            numbers = getattr(self, name)
            if np.shape(numbers) != (2,) or any(isinstance(n, str) for n in numbers):
                raise ValueError(f"{name} of a calibration is two numbers, of rows and of columns, not {numbers!r}.")
        if not all(np.isfinite(s) and s > 0 for s in self.scale):
            raise ValueError(
                f"The scale must be positive and finite (Å⁻¹ per pixel), not {self.scale}. "
                "Set it with `s.calibration.scale = ...`. If an axis runs backwards, "
                "flip the data first."
            )
        if self.distortion is not None:
            object.__setattr__(self, "distortion", _checked_distortion(self.distortion))

    @property
    def wavelength(self) -> float:
        """Wavelength in Angstrom; a ValueError where the beam energy is not known."""
        if self.beam_energy is None:
            raise ValueError(
                "The beam energy is unknown. " + HOW_TO_SET_BEAM_ENERGY
            )
        return electron_wavelength(self.beam_energy)

    @property
    def reciprocal_radius(self) -> float:
        """Distance in Å⁻¹ from the direct beam to the detector's nearest edge."""
        (rows, cols), (row, col) = self.shape, self.center
        # a distortion brings an edge nearer by the length of its row
        to_x, to_y = (1.0, 1.0) if self.distortion is None else (math.hypot(*line) for line in self.distortion)
        return min(
            (row + 0.5) * self.scale[0] / to_y,
            (rows - 0.5 - row) * self.scale[0] / to_y,
            (col + 0.5) * self.scale[1] / to_x,
            (cols - 0.5 - col) * self.scale[1] / to_x,
        )

    @property
    def pixel_area(self) -> float:
        """Area of a pixel in Å⁻²."""
        area = self.scale[0] * self.scale[1]
        if self.distortion is not None:
            (xx, xy), (_, yy) = self.distortion
            area /= xx * yy - xy * xy
        return area

    def replace(self, **changes) -> Calibration:
        """Return a copy with some fields changed."""
        return replace(self, **changes)

    @classmethod
    def from_signal(cls, signal: BaseSignal, beam_energy: float | None = None) -> Calibration:
        """Read a diffraction signal's axes and metadata.

        Parameters
        ----------
        signal : hyperspy.signals.Signal2D
            Two signal axes in units of reciprocal length or of angle.
        beam_energy : float, optional
            In kV; by default that of the metadata.

        Raises
        ------
        ValueError
            If the signal is not a calibrated diffraction pattern; the message says what to do.
        """
        axes = signal.axes_manager.signal_axes
        if len(axes) != 2:
            raise ValueError(
                f"Diffraction patterns have two signal dimensions; this signal has {len(axes)}. "
                "Use `s.transpose(signal_axes=2)` to make the detector axes the signal axes."
            )
        x, y = axes
        if not (x.is_uniform and y.is_uniform):
            raise ValueError("The signal axes must be uniform; use `s.interpolate_on_axis(...)`.")
        beam_energy = beam_energy_of(signal) if beam_energy is None else read_beam_energy(beam_energy)
        factors = [_unit_factor(axis.units, beam_energy) for axis in (y, x)]
        if x.scale == 0 or y.scale == 0:
            raise ValueError("A signal axis has scale 0. Set it with `s.calibration.scale = ...`.")
        # The direct beam is where the axis says 0.
        center = (-y.offset / y.scale, -x.offset / x.scale)
        if x.offset == 0 and y.offset == 0:
            # Axes that were never centred: the middle of the detector, as pyxem takes it.
            center = (y.size / 2, x.size / 2)
        return cls(
            scale=(y.scale * factors[0], x.scale * factors[1]),
            center=center,
            shape=(y.size, x.size),
            beam_energy=beam_energy,
            distortion=stored_distortion(signal),
        )


def stored_distortion(signal: BaseSignal) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """Read the distortion that a signal's metadata hold under :data:`STORED_DISTORTION`; None where there is none."""
    stored = signal.metadata.get_item(STORED_DISTORTION, None)
    if stored is None:
        return None
    try:
        xx, xy, yy = (float(x) for x in stored)
        return _checked_distortion(((xx, xy), (xy, yy)))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"The metadata of the signal hold the distortion {stored!r} ({STORED_DISTORTION}), which is none: {error} "
            "Remove it with `del s.metadata.Pyxem_dl`."
        ) from None


def _checked_distortion(matrix):
    """Nested tuples of a symmetric, positive matrix, None for the identity; a ValueError for all others."""
    numbers = np.asarray(matrix, dtype=float)
    if numbers.shape != (2, 2) or not np.isfinite(numbers).all() or abs(numbers[0, 1] - numbers[1, 0]) > 1e-6:
        raise ValueError(f"A distortion is a symmetric matrix of 2 x 2 finite numbers, not {matrix!r}.")
    if np.linalg.eigvalsh(numbers)[0] < 0.2 or np.linalg.eigvalsh(numbers)[1] > 5:
        raise ValueError(f"A distortion stretches by 0.2 to 5 times along each direction, which {matrix!r} does not.")
    if (numbers == np.eye(2)).all():
        return None
    return tuple(tuple(float(x) for x in line) for line in numbers)


def _plain_unit(units) -> str:
    """Strip TeX, brackets and spaces from a unit; ``1/nm`` and its like become ``nm^-1``."""
    text = str(units).replace("$", "").replace("\\AA", "A").replace("\\mathrm", "")
    text = re.sub(r"[{}\s]|\\", "", text)
    for angstrom in ("Å", "Å", "angstrom", "Angstrom", "Ang"):
        # "Angle" is no Angstrom
        if not text.lower().startswith("angle"):
            text = text.replace(angstrom, "A")
    text = text.replace("µ", "u").replace("μ", "u").replace("⁻¹", "^-1").replace("**", "^")
    text = text.removeprefix("k_")  # pyFAI's and pyxem's "k_nm^-1"
    if text.startswith("1/"):
        text = text[2:] + "^-1"
    return re.sub(r"_?(\^|-|\^-)1$", "^-1", text)


def _unit_factor(units, beam_energy: float | None) -> float:
    """Return what a length in some unit is multiplied with to be Å⁻¹."""
    how = (
        "Set the calibration, for example `s.calibration.scale = 0.02; "
        "s.calibration.units = '1/Å'; s.calibration.center = None` (pyxem), "
        "or `for ax in s.axes_manager.signal_axes: ax.scale, ax.units = 0.02, '1/Å'`."
    )
    if units is None or str(units) in ("", "<undefined>", "px", "None"):
        raise ValueError(f"The signal axes are not calibrated (units {units!r}). {how}")
    plain = _plain_unit(units)
    if plain.endswith("^-1") and plain[:-3] in _TO_INVERSE_ANGSTROM:
        return _TO_INVERSE_ANGSTROM[plain[:-3]]
    if plain in _ANGLES:
        if beam_energy is None:
            raise ValueError(
                f"The signal axes are angles ({units!r}): this needs the beam energy. " + HOW_TO_SET_BEAM_ENERGY
            )
        return _ANGLES[plain] / electron_wavelength(beam_energy)
    if plain in _REAL_SPACE:
        raise ValueError(
            f"The signal axes are in real space (units {units!r}): this looks like an image, not "
            f"a diffraction pattern. If it is a pattern: {how}"
        )
    raise ValueError(f"The unit {units!r} of the signal axes is not understood. {how}")


def pixel_to_k(row, column, calibration: Calibration, center=None):
    """Pixel position to reciprocal coordinates.

    Parameters
    ----------
    row, column : array
        Position in pixels, any shape (NumPy or torch).
    calibration : Calibration
        Of the detector.
    center : tuple of array, optional
        Direct beam (row, column) in pixels, by default the calibration's.

    Returns
    -------
    kx, ky : array
        In Å⁻¹.
    """
    row0, column0 = calibration.center if center is None else center
    kx = (column - column0) * calibration.scale[1]
    ky = -(row - row0) * calibration.scale[0]
    return undistorted(kx, ky, calibration)


def k_to_pixel(kx, ky, calibration: Calibration, center=None):
    """Reciprocal coordinates to pixel position: the inverse of :func:`pixel_to_k`."""
    row0, column0 = calibration.center if center is None else center
    kx, ky = distorted(kx, ky, calibration)
    return row0 - ky / calibration.scale[0], column0 + kx / calibration.scale[1]


def distorted(kx, ky, calibration: Calibration):
    """Where (kx, ky) in Å⁻¹ spots at kx, ky seem to be, to who knows scale and center but no distortion."""
    if calibration.distortion is None:
        return kx, ky
    (xx, xy), (_, yy) = calibration.distortion
    return xx * kx + xy * ky, xy * kx + yy * ky


def undistorted(kx, ky, calibration: Calibration):
    """Where (kx, ky) in Å⁻¹ a spot is that seems to be at kx, ky: the inverse of :func:`distorted`."""
    if calibration.distortion is None:
        return kx, ky
    (xx, xy), (_, yy) = calibration.distortion
    area = xx * yy - xy * xy
    return (yy * kx - xy * ky) / area, (xx * ky - xy * kx) / area


def vector_undistorted(along_rows, along_columns, calibration: Calibration, units):
    """Components of pyxem's diffraction vectors, as :func:`vector_to_k` has them, of the pattern without distortion.

    Parameters
    ----------
    along_rows, along_columns : array
        Measured from the direct beam, in `units`.
    calibration : Calibration
        With the distortion, and the beam energy where units are angles.
    units : sequence of str
        Of the two; they stay.
    """
    if calibration.distortion is None:
        return along_rows, along_columns
    k = vector_to_k(along_rows, along_columns, units, calibration.beam_energy)
    return k_to_vector(*undistorted(*k, calibration), units, calibration.beam_energy)


def vector_to_k(along_rows, along_columns, units, beam_energy: float | None = None):
    """Wave vectors of pyxem's diffraction vectors, which run as the rows and columns of the pattern do.

    Parameters
    ----------
    along_rows, along_columns : float, array or tensor
        First and second column of the vectors, measured from the direct beam.
    units : sequence of str
        Of the two.
    beam_energy : float, optional
        In kV; needed where the units are angles.

    Returns
    -------
    kx, ky
        Å⁻¹.

    Raises
    ------
    ValueError
        For units that are neither a reciprocal length nor an angle.
    """
    row_factor, column_factor = (_unit_factor(unit, beam_energy) for unit in units)
    return along_columns * column_factor, -along_rows * row_factor


def k_to_vector(kx, ky, units, beam_energy: float | None = None):
    """Components of pyxem's diffraction vectors, the inverse of :func:`vector_to_k`.

    Parameters
    ----------
    kx, ky : float, array or tensor
        Å⁻¹.
    units, beam_energy
        As there.

    Returns
    -------
    along_rows, along_columns
        In these units.
    """
    row_factor, column_factor = (_unit_factor(unit, beam_energy) for unit in units)
    return -ky / row_factor, kx / column_factor


def beam_shift_to_center(shifts, calibration: Calibration):
    """Centre of the direct beam from pyxem's ``BeamShift``.

    Parameters
    ----------
    shifts : array, shape (..., 2)
        What ``get_direct_beam_position`` returns: (x, y) in pixels, the shift that brings
        the direct beam to the middle ``shape / 2`` of the detector.
    calibration : Calibration
        Of the detector.

    Returns
    -------
    array, shape (..., 2)
        (row, column) in pixels.
    """
    rows, columns = calibration.shape
    shifts = np.asarray(shifts, dtype=float)
    return np.stack([rows / 2 - shifts[..., 1], columns / 2 - shifts[..., 0]], axis=-1)


def beam_drift_to_axes(drift, scale, steps, middle) -> list[float]:
    """Drift of the direct beam in the units of a signal's axes, which stays true where the signal is cut.

    Parameters
    ----------
    drift : array, shape (2, 2)
        (row, column) in px over the scan along y, and along x.
    scale : tuple of float
        Of the signal axes, along rows and columns.
    steps : sequence of float
        Length of the scan along y and x, or along x alone, in the units of the navigation axes.
    middle : sequence of float
        Coordinates there of the middle of the scan.

    Returns
    -------
    list of float
        For each axis of the navigation, y first, its coordinate in the middle, and the change along rows and columns in
        the units of the signal axes for each of its own.
    """
    numbers = []
    for i in range(-len(steps), 0):
        each = np.array(drift)[i] * np.array(scale) / (steps[i] or 1.0)
        numbers += [float(middle[i]), *(float(x) for x in each)]
    return numbers


def centers_of_drift(numbers, signal: BaseSignal, center) -> np.ndarray:
    """Direct beams (..., 2) as (row, column) in px of :func:`beam_drift_to_axes`, in the signal's shape."""
    axes = signal.axes_manager.navigation_axes[::-1]
    x, y = signal.axes_manager.signal_axes
    numbers = np.asarray(numbers, dtype=float).reshape(-1, 3)
    if not np.isfinite(numbers).all():
        raise ValueError("no drift")
    found = np.array(center, dtype=float)
    for i, axis in enumerate(axes):
        middle, *along = numbers[i]
        moved = (axis.axis - middle)[:, None] * np.array(along) / (y.scale, x.scale)
        found = found + moved.reshape(*(n.size if n is axis else 1 for n in axes), 2)
    return found


def scan_places(shape: tuple[int, ...], indices) -> np.ndarray:
    """Places (n, 2) of flat positions along x and y of a scan, from -1 to 1; 0 along what has one position."""
    whole = (1,) * (2 - len(shape)) + tuple(shape)
    row, column = np.unravel_index(np.asarray(indices), whole)
    found = [2 * i / max(n - 1, 1) - (n > 1) for i, n in ((column, whole[1]), (row, whole[0]))]
    return np.stack(found, axis=1).astype(float)


def drift_over_scan(drift, shape: tuple[int, ...]) -> np.ndarray:
    """How far the direct beam has moved at all positions of a scan from where it is in the middle.

    Parameters
    ----------
    drift : array, shape (2, 2)
        (row, column) in px from the first to the last position along y, and along x.
    shape : tuple of int
        Of the navigation, in data order.

    Returns
    -------
    array, shape (n, 2)
        (row, column) in px.
    """
    return scan_places(shape, np.arange(int(np.prod(shape, dtype=int))))[:, ::-1] @ (np.asarray(drift) / 2)


def grid_center(calibration: Calibration) -> tuple[float, float]:
    """Where on a grid [kx, ky], whose indices grow with kx and ky, the direct beam lies: its two indices."""
    (row, column), rows = calibration.center, calibration.shape[0]
    return column, rows - 1 - row


def grid_to_pattern(grid):
    """Grid (..., columns, rows) whose indices grow with kx and ky, to patterns (..., rows, columns); a view."""
    return grid.swapaxes(-1, -2)[..., ::-1, :]
