"""Reference frames: detector pixels, the lab, and the crystal.

This is the only module of the package that may flip a sign.  The conventions, all of
them measured against diffsims, orix and pyxem in ``tests/test_frames.py``:

* **Lab frame**: x to the right of the pattern, y up, z towards the electron source.
* **Pattern**: an array ``pattern[row, column]``; +kx is +column, +ky is -row.  k is in
  Å⁻¹ (crystallographer's convention, without 2 pi).
* **Orientation**: an orix rotation R takes lab to crystal coordinates,
  ``g_crystal = R * g_lab`` and ``g_lab = ~R * g_crystal``.  Quaternions are (w, x, y, z).
* **In-plane rotation**: turning the crystal about the beam by +a degrees turns the spots
  by +a in (kx, ky) and adds +a to the first Euler angle of R (Bunge, degrees).
* **Ewald sphere**: its centre lies at ``(0, 0, +1 / wavelength)``; the excitation error is
  positive for a reflection on the origin's side of the sphere's surface, that is below it
  (``s = z_sphere - z``), as in diffsims.
* **Merlin's .mib files** hold the last row of a pattern first.  RosettaSciIO (``hs.load``) turns them, LiberTEM does
  not: what that gives has to be turned before it is a pattern in this sense (``tests/test_formats.py``).
* **The 180 degree ambiguity**: zero-order reflections alone cannot tell R from
  ``R * Rz(180)``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pyxem_dl.electrons import (
    HOW_TO_SET_BEAM_ENERGY,
    beam_energy_of,
    electron_wavelength,
    interaction_parameter,  # noqa: F401 (by its old name, as the others)
    read_beam_energy,
)

if TYPE_CHECKING:
    from hyperspy.signals import BaseSignal

_TO_INVERSE_ANGSTROM = {"A": 1.0, "nm": 0.1, "pm": 100.0, "um": 1e-4}
_REAL_SPACE = {"A", "nm", "pm", "um", "mm", "m"}
_ANGLES = {"rad": 1.0, "mrad": 1e-3, "deg": math.pi / 180}


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
    """

    scale: tuple[float, float]
    center: tuple[float, float]
    shape: tuple[int, int]
    beam_energy: float | None = None

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
        return min(
            (row + 0.5) * self.scale[0],
            (rows - 0.5 - row) * self.scale[0],
            (col + 0.5) * self.scale[1],
            (cols - 0.5 - col) * self.scale[1],
        )

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
        )


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
    return kx, ky


def k_to_pixel(kx, ky, calibration: Calibration, center=None):
    """Reciprocal coordinates to pixel position: the inverse of :func:`pixel_to_k`."""
    row0, column0 = calibration.center if center is None else center
    return row0 - ky / calibration.scale[0], column0 + kx / calibration.scale[1]


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


def excitation_error(kx, ky, kz, wavelength: float):
    """Distance of reflections from the Ewald sphere along z, as diffsims gives it.

    Parameters
    ----------
    kx, ky, kz : array
        Reflections in the lab frame, in Å⁻¹.
    wavelength : float
        In Angstrom.

    Returns
    -------
    array
        In Å⁻¹.
    """
    radius = 1 / wavelength
    in_plane = kx**2 + ky**2
    # radius - sqrt(radius^2 - q^2) without the loss of digits
    return in_plane / (radius + (radius**2 - in_plane) ** 0.5) - kz


def out_of_plane(kx, ky, excitation_error, wavelength: float):
    """Out-of-plane component q_z of reflections, along z towards the source: the inverse of :func:`excitation_error`.

    Parameters
    ----------
    kx, ky : array
        In-plane components in the lab frame, in Å⁻¹.
    excitation_error : array
        In Å⁻¹, as :func:`excitation_error` gives it.
    wavelength : float
        In Angstrom.

    Returns
    -------
    array
        In Å⁻¹: (kx, ky, q_z) is the reflection's reciprocal vector in the lab frame.
    """
    radius = 1 / wavelength
    in_plane = kx**2 + ky**2
    return in_plane / (radius + (radius**2 - in_plane) ** 0.5) - excitation_error


def excitation_error_after_tilt(error, kx, ky, tilt_x, tilt_y):
    """Excitation errors after a small turn of the crystal, to first order.

    Parameters
    ----------
    error, kx, ky : array
        Excitation errors and positions of reflections in Å⁻¹.
    tilt_x, tilt_y : array
        Rotation vector in radians, about x and y: the orientation R becomes ``R * exp(tilt)``, see
        :func:`pyxem_dl.rotations.exponential`.

    Returns
    -------
    array
        In Å⁻¹.
    """
    # the crystal's vectors turn by the inverse: g - tilt x g, of which s has the opposite of z
    return error + (tilt_x * ky - tilt_y * kx)


def excitation_phase(error, depth):
    """Phase that a diffracted beam gathers on the direct beam while both go on through the crystal.

    Of waves ``exp(2 pi i k r)``, whose phase an attractive potential advances.  A reflection with a positive excitation
    error lies outside of the Ewald sphere, and its wave lags behind.  (Textbooks that write the other sign measure the
    excitation error the other way round.)  Two beams cannot tell, three can.

    Parameters
    ----------
    error : array
        Excitation error in Å⁻¹.
    depth : float or array
        In Angstrom, along the beam.

    Returns
    -------
    array
        In radians.
    """
    return -2 * math.pi * depth * error


def excitation_error_in_disk(error, kx, ky, qx, qy, wavelength: float):
    """Excitation error at a point of a convergent-beam disk.

    The point at ``(qx, qy)`` from the centre of the disk belongs to the incident beam that
    is tilted to ``(qx, qy)``; to first order the Ewald sphere turns by as much about the
    origin, and meets the reflection elsewhere.

    Parameters
    ----------
    error, kx, ky : array
        Excitation error at the centre of the disk, and position of the reflection, Å⁻¹.
    qx, qy : array
        Position in the disk from its centre, Å⁻¹.
    wavelength : float
        In Angstrom.

    Returns
    -------
    array
        In Å⁻¹.
    """
    return error + wavelength * (kx * qx + ky * qy)


def in_plane_quaternion(angle):
    """Quaternion that, multiplied from the right, turns the spots by ``angle``.

    Parameters
    ----------
    angle : array
        In radians, counter-clockwise in (kx, ky), any shape (NumPy or torch).

    Returns
    -------
    w, x, y, z : tuple of array
        ``R * q`` is the crystal R turned about the beam by ``+angle``: Euler angle
        phi1 grows by ``angle``.
    """
    xp = np if isinstance(angle, (float, int, np.ndarray, np.floating)) else angle
    cos, sin = (
        (np.cos(angle / 2), np.sin(angle / 2))
        if xp is np
        else ((angle / 2).cos(), (angle / 2).sin())
    )
    return cos, 0 * cos, 0 * cos, -sin


def in_plane_angle(w, z):
    """Angle that :func:`in_plane_quaternion` turned by, in radians (the inverse of it).

    Parameters
    ----------
    w, z : array
        First and last component of a quaternion that turns about z (torch).
    """
    return 2 * (-z).atan2(w)


def tilt_quaternion(angle, azimuth):
    """Quaternion that, multiplied from the right, tilts the crystal.

    Parameters
    ----------
    angle : float or array
        By which the crystal is tilted, in radians (NumPy).
    azimuth : float or array
        Direction, counter-clockwise in (kx, ky) in radians, to which what pointed at the source now leans.

    Returns
    -------
    w, x, y, z : tuple of array
        ``R * q`` is the crystal R after the tilt: a zone axis along z stands at ``angle`` from it.
    """
    cos, sin = np.cos(angle / 2), np.sin(angle / 2)
    return cos, sin * np.sin(azimuth), -sin * np.cos(azimuth), 0 * cos


def lab_to_box(lab):
    """Lab coordinates to those of a multislice box, whose third axis runs along the beam: down from the source.

    Parameters
    ----------
    lab : array, shape (..., 3)
        x, y, z (NumPy).
    """
    return lab * np.array([1.0, 1.0, -1.0])


def grid_center(calibration: Calibration) -> tuple[float, float]:
    """Where on a grid [kx, ky], whose indices grow with kx and ky, the direct beam lies: its two indices."""
    (row, column), rows = calibration.center, calibration.shape[0]
    return column, rows - 1 - row


def grid_to_pattern(grid):
    """Grid (..., columns, rows) whose indices grow with kx and ky, to patterns (..., rows, columns); a view."""
    return grid.swapaxes(-1, -2)[..., ::-1, :]


def before_turn(kx, ky, angle):
    """Say where in a pattern was what is at (kx, ky) after a turn about the beam.

    Parameters
    ----------
    kx, ky : tensor
        In any unit (torch).
    angle : tensor
        Of the turn, in radians, counter-clockwise.
    """
    cos, sin = angle.cos(), angle.sin()
    return cos * kx + sin * ky, cos * ky - sin * kx


def angle_before_turn(angle, turn):
    """Do the same for an angle, counter-clockwise from +kx in the unit of the turn."""
    return angle - turn


def mirror(kx, ky):
    """Mirror places in a pattern: what was above the direct beam is below it.

    Parameters
    ----------
    kx, ky : array
        In any unit (NumPy or torch).
    """
    return kx, -ky


def upside_down(patterns):
    """Frames with the last row first: what HyperSpy shows of a file of a Merlin camera, and LiberTEM does not.

    RosettaSciIO turns the frames of ``.mib`` files upside down when it reads them; LiberTEM gives them as the camera
    writes them, from a file and while it measures.  A calibration, a mask or a model goes with one of the two.

    Parameters
    ----------
    patterns : array, shape (..., rows, columns)
        As the camera writes them, or as HyperSpy shows them.

    Returns
    -------
    array
        The other one; a view.
    """
    return patterns[..., ::-1, :]


def mirror_angle(angle):
    """Mirror angles in a pattern, counter-clockwise from +kx, as :func:`mirror` does."""
    return -angle


#: ``R * MIRROR_QUATERNION`` is the crystal whose pattern is the mirrored one of the crystal R.  A mirror is an
#: inversion after a turn by 180 degrees about y, and diffraction does not see the inversion: not at all where the
#: crystal has it, and hardly (Friedel's law) where it does not.
MIRROR_QUATERNION = (0.0, 0.0, 1.0, 0.0)


def euler_to_quaternion(phi1, Phi, phi2):
    """Quaternion (lab to crystal) of Bunge's Euler angles, as orix has it.

    Parameters
    ----------
    phi1, Phi, phi2 : tensor
        In radians (torch).

    Returns
    -------
    w, x, y, z : tuple of tensor
    """
    cos, sin = (Phi / 2).cos(), (Phi / 2).sin()
    total, difference = (phi1 + phi2) / 2, (phi1 - phi2) / 2
    return cos * total.cos(), -sin * difference.cos(), -sin * difference.sin(), -cos * total.sin()


def quaternion_to_euler(w, x, y, z):
    """Bunge's Euler angles of a quaternion (lab to crystal), the inverse of :func:`euler_to_quaternion`.

    Parameters
    ----------
    w, x, y, z : tensor
        Of unit length together (torch).

    Returns
    -------
    phi1, Phi, phi2 : tuple of tensor
        In radians, phi1 and phi2 in [0, 2 pi), Phi in [0, pi].
    """
    total, difference = 2 * (-z).atan2(w), 2 * (-y).atan2(-x)
    # where Phi is 0 or 180 degrees one of the two is not defined, and atan2 gives 0
    phi1, phi2 = (total + difference) / 2, (total - difference) / 2
    Phi = 2 * (x.square() + y.square()).sqrt().atan2((w.square() + z.square()).sqrt())
    return phi1 % (2 * math.pi), Phi, phi2 % (2 * math.pi)


def other_frame_quaternion(turn: float = 0.0, flipped: bool = False) -> np.ndarray:
    """Quaternion that, multiplied from the right, brings orientations of another reference frame into the lab frame.

    Parameters
    ----------
    turn : float
        Angle in degrees, counter-clockwise in the pattern, from the lab's x axis to that of the other frame.
    flipped : bool
        Whether the other frame's y axis then points down and its z axis away from the source.

    Returns
    -------
    array, shape (4,)
        ``R_lab = R_other * q``.
    """
    w, _, _, z = (float(x) for x in in_plane_quaternion(math.radians(turn)))
    if not flipped:
        return np.array([w, 0.0, 0.0, z])
    # first half a turn about x, then the turn: (0, 1, 0, 0) * (w, 0, 0, z)
    return np.array([0.0, w, -z, 0.0])


def other_crystal_quaternion(lattice) -> np.ndarray:
    """Quaternion that, multiplied from the left, brings orientations with other crystal axes to those of orix.

    Parameters
    ----------
    lattice : diffpy.structure.Lattice
        Of an orix phase: e1 along a, e3 along c*.  The other axes are x along a*, z along c.

    Returns
    -------
    array, shape (4,)
        ``R = q * R_other``: in trigonal and hexagonal crystals +30 degrees about c, in cubic ones nothing.
    """
    from orix.quaternion import Rotation

    x, z = lattice.recbase[:, 0], lattice.base[2]
    x, z = x / np.linalg.norm(x), z / np.linalg.norm(z)
    return Rotation.from_matrix(np.stack([x, np.cross(z, x), z], axis=1)).data[0]


def repair_pyxem_orientation(quaternions, factor, azimuthal_step: float) -> np.ndarray:
    """Bring what pyxem 0.21's ``OrientationMap.to_rotation`` returns into our convention.

    Three faults are repaired.  Every rotation is off by 180 degrees about the beam: ``R``
    becomes ``R * Rz(180)``.  A mirrored template (factor -1) is the pattern of ``R * Ry(180)``,
    by the inversion that every Laue group has, where pyxem negates the Euler angles; the two
    differ by ``Ry(180)`` on the crystal's side, which is a symmetry only where the Laue group
    has a mirror normal to y.  And spots of templates are rounded to the nearest of the bins'
    edges, while a pattern's pixels fall between two of them: the in-plane rotation comes out
    half a bin too small.

    Parameters
    ----------
    quaternions : array, shape (..., 4)
        As pyxem returns them.
    factor : array, shape (...)
        The column "factor" of pyxem's orientation map, 1 or -1 (mirrored template).
    azimuthal_step : float
        Width of the polar pattern's bins in radians.

    Returns
    -------
    array, shape (..., 4)
        Orientations lab to crystal.
    """
    w, x, y, z = np.moveaxis(np.asarray(quaternions, dtype=float), -1, 0)
    mirrored = np.asarray(factor) < 0
    # Ry(180) * q
    w, x, y, z = (np.where(mirrored, m, q) for m, q in zip((-y, z, w, -x), (w, x, y, z)))
    # q turned in the plane by 180 degrees and half a step
    c, _, _, d = in_plane_quaternion(math.pi + azimuthal_step / 2)
    return np.stack([w * c - z * d, x * c + y * d, y * c - x * d, w * d + z * c], axis=-1)


def laue_circle_center(normal_x, normal_y, wavelength: float):
    """Centre of the Laue circle, on which the zone's reflections are excited.

    Parameters
    ----------
    normal_x, normal_y : array
        In-plane components of the zone axis, a unit vector that points to the source.
    wavelength : float
        In Angstrom.

    Returns
    -------
    kx, ky : array
        In Å⁻¹.  The circle goes through the direct beam; its radius is their length.
    """
    return -normal_x / wavelength, -normal_y / wavelength


def zone_axis_after_tilt(tilt_x, tilt_y):
    """Where a zone axis that was along the beam points after a small turn of the crystal, to first order.

    Parameters
    ----------
    tilt_x, tilt_y : array
        Rotation vector in radians, about x and y: the orientation R becomes ``R * exp(tilt)``.

    Returns
    -------
    x, y : array
        In-plane components of the axis in the lab, in radians.
    """
    # the crystal's vectors turn by the inverse: z - tilt x z
    return -tilt_y, tilt_x
