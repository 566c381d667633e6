"""A simulated scan with known strain."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from pyxem_dl.data.phases import phase_of_atoms
from pyxem_dl.electrons import electron_wavelength
from pyxem_dl.frames import Calibration
from pyxem_dl.rotations import from_matrix, multiply
from pyxem_dl.scans import make_signal
from pyxem_dl.simulation.detector import draw_beams, draw_spots
from pyxem_dl.simulation.many_beam import ManyBeam


class StrainedMultilayer(NamedTuple):
    """A simulated scan with known strain.

    ``signal``: pyxem's, navigation (y, x); ``strain (y, x)``: of the lattice along x; ``thickness (y, x)`` in
    Angstrom; ``vacuum (rows, columns)``: the probe alone, in electrons.
    """

    signal: object
    strain: object
    thickness: object
    vacuum: object


#: Strain along x of the layers of :func:`strained_multilayer`
LAYERS = (0.0, 0.02, 0.0, -0.02, 0.0, 0.01, -0.01, 0.0)


def strained_multilayer(
    shape: tuple[int, int] = (12, 48),
    electrons: float = 1e5,
    *,
    pixels: int = 128,
    seed: int = 0,
    thickness: tuple[float, float] = (80.0, 900.0),
) -> StrainedMultilayer:
    """Simulate a scan over germanium layers that are strained along x.

    The crystal lies with <001> along the beam and along x, it is bent by up to 12 mrad along the scan, and its
    thickness grows along y; the disks are those of a many-beam calculation, and uneven inside.

    Parameters
    ----------
    shape : tuple of int
        Positions (y, x).
    electrons : float
        Expected in each pattern.
    pixels : int
        Of the detector along each side; it covers 1.25 Å⁻¹ to all sides.
    seed : int
        Of the counts.
    thickness : tuple of float
        Of the first and the last row, in Angstrom.

    Returns
    -------
    StrainedMultilayer
        200 kV, 3 mrad; strain in steps of 0.01 between -0.02 and 0.02; along y there is none.

    Examples
    --------
    >>> import pyxem_dl
    >>> scan = pyxem_dl.data.strained_multilayer((2, 8))
    >>> scan.signal
    <ElectronDiffraction2D, title: Strained multilayer, dimensions: (8, 2|128, 128)>
    """
    calibration = Calibration((2.5 / pixels,) * 2, (pixels / 2,) * 2, (pixels, pixels), 200.0)
    disk_radius = 3e-3 / electron_wavelength(200.0)
    optics = {"disk_radius": disk_radius, "blur": 0.4}
    rows, columns = shape
    layer = np.minimum(np.arange(columns) * len(LAYERS) // columns, len(LAYERS) - 1)
    strain = np.tile(np.array(LAYERS)[layer], (rows, 1))
    thickness = np.tile(np.linspace(*thickness, rows)[:, None], (1, columns))
    bending = 0.012 * np.sin(np.linspace(0, 2 * math.pi, columns))[None] * np.linspace(0.5, 1, rows)[:, None]
    patterns = np.zeros((rows * columns, pixels, pixels), dtype=np.float32)
    for value in sorted(set(LAYERS)):
        where = np.flatnonzero(strain.ravel() == value)
        for part in np.array_split(where, math.ceil(len(where) / 32)) if len(where) else ():
            beams = _germanium_disks(value, bending.ravel()[part], thickness.ravel()[part], disk_radius)
            patterns[part] = draw_beams(beams, electrons, calibration, **optics).numpy()
    counts = np.random.default_rng(seed).poisson(patterns).astype(np.uint32).reshape(*shape, pixels, pixels)
    zero = torch.zeros(1, 1)
    vacuum = draw_spots(zero, zero, zero + electrons, calibration, **optics)[0].numpy()
    signal = make_signal(counts, calibration, "Strained multilayer")
    for axis, name in zip(signal.axes_manager.navigation_axes, "xy"):
        axis.name, axis.units, axis.scale = name, "nm", 2.0
    return StrainedMultilayer(signal, strain, thickness, vacuum)


def _germanium_disks(strain: float, bending, thickness, disk_radius: float):
    """Many-beam disks of germanium whose c axis, along x, is strained; bent about y by angles in radians."""
    # the cubic cell seen as a tetragonal one, whose c axis may have another length
    a = 5.658
    cell = (a / math.sqrt(2), a / math.sqrt(2), a * (1 + strain), 90, 90, 90)
    phase = phase_of_atoms("Ge", 141, cell, [("Ge", (0, 0, 0))])
    # x along c and the beam along [110], which is [010] of the cubic cell
    half = 1 / math.sqrt(2)
    flat = from_matrix(torch.tensor([[[0.0, half, half], [0.0, -half, half], [1.0, 0.0, 0.0]]]))
    angle = torch.as_tensor(np.asarray(bending) / 2, dtype=torch.float32)
    zero = torch.zeros_like(angle)
    tilt = torch.stack([angle.cos(), zero, angle.sin(), zero], dim=1)
    thickness = torch.as_tensor(np.asarray(thickness), dtype=torch.float32)
    return ManyBeam(phase, 200.0, 1.4)(multiply(flat, tilt), thickness, disk_radius, 11)
