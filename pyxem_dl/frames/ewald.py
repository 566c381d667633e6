"""The Ewald sphere: excitation errors, out-of-plane components, Laue circles, and their signs."""

from __future__ import annotations

import math


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


def direction_of_tilt(tilt_x, tilt_y):
    """Direction of the incident beam that meets a crystal as the beam along z meets it after a small turn.

    Parameters
    ----------
    tilt_x, tilt_y : array
        Of the crystal, as of :func:`excitation_error_after_tilt`, in radians.

    Returns
    -------
    x, y : array
        In radians; divided by the wavelength, the point ``(qx, qy)`` of :func:`excitation_error_in_disk`.
    """
    return -tilt_y, tilt_x


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
