"""Sample data: a piece of a real scan, the phases of the bundled models, and a simulated multilayer.

Everything here comes with the package; nothing is downloaded.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from pyxem_dl.crystals import load_phases

_DATA = Path(__file__).parent / "_data"


def mgo_nanocubes(lazy: bool = True):
    """Load a piece of a real scan: precession diffraction of MgO nanocubes on holey carbon.

    Every third position of a part of the scan in which cubes lie alone and on top of each other, beside carbon film
    and holes.  Spots are 2 to 3 px wide; the patterns have a halo, a ghost disk above the direct beam and a few percent
    of distortion.

    Parameters
    ----------
    lazy : bool
        Read patterns from the file when they are needed.

    Returns
    -------
    pyxem.signals.ElectronDiffraction2D
        28 x 21 positions (y, x), 9.09 nm apart, of 144 x 144 px with 0.03246 1/Angstrom per px; uint16, 300 kV.

    Notes
    -----
    Cut from ``mgo_nano.zspy`` by Tina Bergh, NTNU (Zenodo record 15490547, doi 10.5281/zenodo.15490547), under
    CC-BY-4.0; the values are the original's, stored as integers.  The experiment is described in J. Microsc. 279, 202
    (2020), doi 10.1111/jmi.12850.

    Examples
    --------
    >>> import pyxem_dl
    >>> pyxem_dl.data.mgo_nanocubes()
    <LazyElectronDiffraction2D, title: MgO nanocubes, dimensions: (21, 28|144, 144)>
    """
    import hyperspy.api as hs

    return hs.load(_DATA / "mgo_nanocubes.hspy", lazy=lazy)


def mgo_phase():
    """MgO (periclase) from the bundled ``MgO.cif``: Fm-3m, a = 4.217 Å, COD 1000053, public domain.

    Returns
    -------
    orix.crystal_map.Phase
        The phase of :func:`mgo_nanocubes`.
    """
    (phase,) = load_phases(_DATA / "MgO.cif")
    phase.name = "MgO"
    return phase


def aluminium():
    """Aluminium: Fm-3m, a = 4.05 Å.

    Returns
    -------
    orix.crystal_map.Phase
        The phase of the bundled model ``al-200kv``.
    """
    return _phase("Al", 225, (4.05, 4.05, 4.05, 90, 90, 90), [("Al", (0, 0, 0))])


def lithium_nickel_oxide():
    """LiNiO₂, a layered oxide: R-3m, a = 2.88, c = 14.19 Å; Ni 3a, Li 3b, O 6c with z = 0.242.

    Returns
    -------
    orix.crystal_map.Phase
        The phase of the bundled model ``linio2-200kv``, in the hexagonal cell of 12 atoms.
    """
    atoms = [("Ni", (0, 0, 0)), ("Li", (0, 0, 0.5)), ("O", (0, 0, 0.242))]
    return _phase("LiNiO2", 166, (2.88, 2.88, 14.19, 90, 90, 120), atoms)


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
    shape: tuple[int, int] = (12, 48), electrons: float = 1e5, *, pixels: int = 128, seed: int = 0
) -> StrainedMultilayer:
    """Simulate a scan over germanium layers that are strained along x.

    The crystal lies with <001> along the beam and along x, it is bent by up to 12 mrad along the scan, and its
    thickness grows along y from 80 to 900 Angstrom; the disks are those of a many-beam calculation, and uneven inside.

    Parameters
    ----------
    shape : tuple of int
        Positions (y, x).
    electrons : float
        Expected in each pattern.
    pixels : int
        Of the detector along each side; it covers 1.25 1/Angstrom to all sides.
    seed : int
        Of the counts.

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
    import numpy as np
    import torch

    from pyxem_dl.frames import Calibration, electron_wavelength
    from pyxem_dl.maps import make_signal
    from pyxem_dl.simulation.detector import draw_spots

    calibration = Calibration((2.5 / pixels,) * 2, (pixels / 2,) * 2, (pixels, pixels), 200.0)
    disk_radius = 3e-3 / electron_wavelength(200.0)
    optics = {"disk_radius": disk_radius, "blur": 0.4}
    rows, columns = shape
    layer = np.minimum(np.arange(columns) * len(LAYERS) // columns, len(LAYERS) - 1)
    strain = np.tile(np.array(LAYERS)[layer], (rows, 1))
    thickness = np.tile(np.linspace(80, 900, rows)[:, None], (1, columns))
    bending = 0.012 * np.sin(np.linspace(0, 2 * math.pi, columns))[None] * np.linspace(0.5, 1, rows)[:, None]
    patterns = np.zeros((rows * columns, pixels, pixels), dtype=np.float32)
    for value in sorted(set(LAYERS)):
        where = np.flatnonzero(strain.ravel() == value)
        for part in np.array_split(where, math.ceil(len(where) / 32)) if len(where) else ():
            beams = _germanium_disks(value, bending.ravel()[part], thickness.ravel()[part], disk_radius)
            inside = _interpolated(beams.intensity, disk_radius)
            images = draw_spots(
                beams.kx, beams.ky, electrons * beams.present, calibration, rocking_curve=inside, **optics
            )
            patterns[part] = images.numpy()
    counts = np.random.default_rng(seed).poisson(patterns).astype(np.uint32).reshape(*shape, pixels, pixels)
    zero = torch.zeros(1, 1)
    vacuum = draw_spots(zero, zero, zero + electrons, calibration, **optics)[0].numpy()
    signal = make_signal(counts, calibration, "Strained multilayer")
    for axis, name in zip(signal.axes_manager.navigation_axes, "xy"):
        axis.name, axis.units, axis.scale = name, "nm", 2.0
    return StrainedMultilayer(signal, strain, thickness, vacuum)


def _germanium_disks(strain: float, bending, thickness, disk_radius: float):
    """Many-beam disks of germanium whose c axis, along x, is strained; bent about y by angles in radians."""
    import numpy as np
    import torch

    from pyxem_dl.rotations import from_matrix, multiply
    from pyxem_dl.simulation.many_beam import ManyBeam

    # the cubic cell seen as a tetragonal one, whose c axis may have another length
    a = 5.658
    cell = (a / math.sqrt(2), a / math.sqrt(2), a * (1 + strain), 90, 90, 90)
    phase = _phase("Ge", 141, cell, [("Ge", (0, 0, 0))])
    # x along c and the beam along [110], which is [010] of the cubic cell
    half = 1 / math.sqrt(2)
    flat = from_matrix(torch.tensor([[[0.0, half, half], [0.0, -half, half], [1.0, 0.0, 0.0]]]))
    angle = torch.as_tensor(np.asarray(bending) / 2, dtype=torch.float32)
    zero = torch.zeros_like(angle)
    tilt = torch.stack([angle.cos(), zero, angle.sin(), zero], dim=1)
    thickness = torch.as_tensor(np.asarray(thickness), dtype=torch.float32)
    return ManyBeam(phase, 200.0, 1.4)(multiply(flat, tilt), thickness, disk_radius, 11)


def _interpolated(intensity, disk_radius: float):
    """Intensity of disks (n, m, p, p) as a function of the place in them."""
    import torch
    from torch.nn.functional import grid_sample

    images = intensity.flatten(0, 1)[:, None]

    def inside(qx, qy):
        u, v = torch.broadcast_tensors(qx / disk_radius, qy / disk_radius)
        grid = torch.stack([u, v], dim=-1).flatten(0, 1)
        return grid_sample(images, grid, align_corners=True, padding_mode="border").reshape(u.shape)

    return inside


def _phase(name: str, space_group: int, cell, atoms):
    """Phase of the atoms of an asymmetric unit."""
    from diffpy.structure import Atom, Lattice, Structure
    from orix.crystal_map import Phase

    structure = Structure(lattice=Lattice(*cell), atoms=[Atom(*atom) for atom in atoms])
    (phase,) = load_phases(Phase(name=name, space_group=space_group, structure=structure))
    return phase
