"""Turns and mirrors: quaternions of turns about the beam, Euler angles, the frames of other programs."""

from __future__ import annotations

import math

import numpy as np


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


def zone_axis_quaternion(direction, along):
    """Orientation of a crystal that stands with a direction along the beam.

    Parameters
    ----------
    direction : array, shape (3,)
        In the crystal's Cartesian frame: what points at the source (NumPy).
    along : array, shape (3,)
        Of what, seen along the beam, lies along x.

    Returns
    -------
    quaternion : array, shape (4,)
        Lab to crystal.
    to_lab : array, shape (3, 3)
        By which vectors of the crystal come into the lab frame, ``to_lab @ vector``.
    """
    from scipy.spatial.transform import Rotation

    z = np.asarray(direction, dtype=float) / np.linalg.norm(direction)
    x = np.asarray(along, dtype=float) - (np.asarray(along, dtype=float) @ z) * z
    x = x / np.linalg.norm(x)
    to_lab = np.array([x, np.cross(z, x), z])
    x, y, z, w = Rotation.from_matrix(to_lab.T).as_quat()
    return np.array([w, x, y, z]), to_lab


def image_to_lab(row, column):
    """Places in an image to the lab frame, both from the same origin: x to the right, y up."""
    return column, -row


def lab_to_image(x, y):
    """Lab frame to (row, column) in an image: the inverse of :func:`image_to_lab`."""
    return -y, x


def lab_to_box(lab):
    """Lab coordinates to those of a multislice box, whose third axis runs along the beam: down from the source.

    Parameters
    ----------
    lab : array, shape (..., 3)
        x, y, z (NumPy).
    """
    return lab * np.array([1.0, 1.0, -1.0])


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


def after_turn(kx, ky, angle):
    """Say where in a pattern is after a turn about the beam what was at (kx, ky), see :func:`before_turn`."""
    return before_turn(kx, ky, -angle)


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
