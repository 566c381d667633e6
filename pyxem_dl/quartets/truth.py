"""What is true of a pattern: tables of its disks, and images of their potential and out-of-plane component."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from pyxem_dl.electrons import electron_wavelength
from pyxem_dl.frames import Calibration, excitation_error, k_to_pixel, out_of_plane
from pyxem_dl.rotations import to_matrix


class Disks(NamedTuple):
    """Disks of patterns, the direct beam first, then the brightest; padding behind them is 0, and not ``present``.

    Of one pattern the arrays have the shape (m,), of several (n, m).

    Parameters
    ----------
    hkl : array of int, shape (..., 3)
        Miller indices; (0, 0, 0) is the direct beam.
    kx, ky : array
        Of their centres, in Å⁻¹.
    excitation_error : array
        At their centres, in Å⁻¹.
    q_z : array
        Out-of-plane component of the reciprocal vectors, towards the source, in Å⁻¹.
    v_g : array of complex
        Fourier coefficients of the potential in volts, with the Debye-Waller factor of the simulation: structure
        factors (sums over exp(2 pi i g r)) as volts.  Of the direct beam the mean inner potential of atoms without
        bonds.
    intensity : array
        Electrons in the whole disk, relative to the incident beam.
    present : array of bool
        False for padding.
    """

    hkl: np.ndarray
    kx: np.ndarray
    ky: np.ndarray
    excitation_error: np.ndarray
    q_z: np.ndarray
    v_g: np.ndarray
    intensity: np.ndarray
    present: np.ndarray


class Quartet(NamedTuple):
    """Four images of one pattern and the numbers behind them; of several patterns, each array has one axis more.

    Parameters
    ----------
    probe, pattern : array of float32, shape (rows, columns)
        Without and with the crystal: the share of the incident electrons that is expected in each pixel.
    potential : array of float32, shape (rows, columns)
        abs(v_g) x thickness in V Å, in the disk of each reflection; 0 elsewhere.
    q_z : array of float32, shape (rows, columns)
        Out-of-plane component in Å⁻¹, in the same disks; 0 elsewhere.
    disks : Disks
        The table that the images are drawn of.
    orientation : array, shape (4,)
        Quaternion, lab to crystal.
    phase_id : int
        Which of the set's phases.
    thickness, beam_energy, semi_angle, disk_radius : float
        Angstrom, kV, mrad, Å⁻¹.
    """

    probe: np.ndarray
    pattern: np.ndarray
    potential: np.ndarray
    q_z: np.ndarray
    disks: Disks
    orientation: np.ndarray
    phase_id: int
    thickness: float
    beam_energy: float
    semi_angle: float
    disk_radius: float


def in_lab(hkl: np.ndarray, phase, rotation: np.ndarray, beam_energy: float) -> dict[str, np.ndarray]:
    """Say where reflections are: ``kx``, ``ky``, ``excitation_error`` and ``q_z``, all in Å⁻¹ and in double precision.

    Parameters
    ----------
    hkl : array of int, shape (m, 3)
        Miller indices.
    phase : orix.crystal_map.Phase
        From :func:`pyxem_dl.crystals.load_phases`.
    rotation : array, shape (4,)
        Lab to crystal.
    beam_energy : float
        In kV.
    """
    wavelength = electron_wavelength(beam_energy)
    # g_lab = R^-1 g
    g = hkl @ phase.structure.lattice.recbase.T @ to_matrix(torch.as_tensor(rotation)).numpy()
    kx, ky = g[:, 0], g[:, 1]
    error = excitation_error(*g.T, wavelength)
    return {"kx": kx, "ky": ky, "excitation_error": error, "q_z": out_of_plane(kx, ky, error, wavelength)}


def miller_indices(kx, ky, error, phase, rotation: np.ndarray, beam_energy: float) -> np.ndarray:
    """Give the Miller indices (m, 3) of reflections of which it is known where they are: the inverse of :func:`in_lab`.

    Raises
    ------
    ValueError
        If they are no whole numbers: then they are reflections of another crystal or orientation.
    """
    q_z = out_of_plane(kx, ky, error, electron_wavelength(beam_energy))
    g = np.stack([kx, ky, q_z], axis=1) @ to_matrix(torch.as_tensor(rotation)).numpy().T
    indices = g @ phase.structure.lattice.base.T
    hkl = np.rint(indices).astype(np.int16)
    if len(hkl) and np.abs(indices - hkl).max() > 0.05:
        raise ValueError(f"{indices[np.abs(indices - hkl).max(1).argmax()]} are no Miller indices of {phase.name!r}.")
    return hkl


def disk_images(disks: Disks, thickness: float, disk_radius: float, calibration: Calibration) -> tuple:
    """Draw the potential x thickness (V Å) and the out-of-plane component (Å⁻¹) of reflections.

    Parameters
    ----------
    disks : Disks
        Of one pattern.  Where disks overlap, the brightest is seen; the direct beam is not drawn.
    thickness : float
        In Angstrom.
    disk_radius : float
        In Å⁻¹: all pixels whose middle is as near to the centre of a disk are its.
    calibration : Calibration
        Of the detector.

    Returns
    -------
    potential, q_z : array of float32, shape (rows, columns)
    """
    potential, height = (np.zeros(calibration.shape, dtype=np.float32) for _ in range(2))
    radius = disk_radius / calibration.scale[0]
    row, column = k_to_pixel(disks.kx, disks.ky, calibration)
    axes = [np.arange(n, dtype=float) for n in calibration.shape]
    scattered = np.flatnonzero(disks.present & disks.hkl.any(axis=-1))
    for i in scattered[np.argsort(disks.intensity[scattered], kind="stable")]:
        box = tuple(
            slice(max(0, math.ceil(x - radius)), max(0, min(n, math.floor(x + radius) + 1)))
            for x, n in zip((row[i], column[i]), calibration.shape)
        )
        y, x = (pixels[part] - place for pixels, part, place in zip(axes, box, (row[i], column[i])))
        inside = y[:, None] ** 2 + x**2 <= radius**2
        potential[box][inside] = abs(disks.v_g[i]) * thickness
        height[box][inside] = disks.q_z[i]
    return potential, height
