"""Many-beam diffraction against multislice: what is inside of disks, and how much of the beam they hold.

Disks that overlap interfere in multislice and are added in the many-beam calculation: only pixels of one disk count.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from diffpy.structure import Atom, Lattice, Structure
from orix.crystal_map import Phase
from scipy.ndimage import map_coordinates

from pyxem_dl.crystals import load_phases
from pyxem_dl.electrons import electron_wavelength
from pyxem_dl.frames import Calibration, k_to_pixel
from pyxem_dl.rotations import random_rotations
from pyxem_dl.simulation.cells import zone_axis_rotation
from pyxem_dl.simulation.many_beam import BeamIntensities, ManyBeam
from pyxem_dl.simulation.multislice import Multislice
from suite.tables import header, line

#: Thicknesses in Angstrom
THICKNESSES = (100.0, 300.0, 600.0, 1000.0)
#: Name: space group, lattice (Å, degrees), asymmetric unit
MATERIALS = {
    "Al": (225, (4.05, 4.05, 4.05, 90, 90, 90), [("Al", (0, 0, 0))]),
    "Si": (227, (5.431, 5.431, 5.431, 90, 90, 90), [("Si", (0, 0, 0))]),
    "LiNiO2": (166, (2.88, 2.88, 14.19, 90, 90, 120), [("Ni", (0, 0, 0)), ("Li", (0, 0, 0.5)), ("O", (0, 0, 0.242))]),
    "GaN": (186, (3.19, 3.19, 5.189, 90, 90, 120), [("Ga", (1 / 3, 2 / 3, 0)), ("N", (1 / 3, 2 / 3, 0.377))]),
    "SrTiO3": (
        221,
        (3.905, 3.905, 3.905, 90, 90, 90),
        [("Sr", (0, 0, 0)), ("Ti", (0.5, 0.5, 0.5)), ("O", (0.5, 0.5, 0))],
    ),
    "W": (229, (3.165, 3.165, 3.165, 90, 90, 90), [("W", (0, 0, 0))]),
}
_ENERGY, _SEMIANGLE, _N_RANDOM, _SEED = 200.0, 3e-3, 2, 11
_CALIBRATION = Calibration((0.01171875,) * 2, (128.0, 128.0), (256, 256), _ENERGY)
# What is scattered to this radius (Å⁻¹) takes part in multislice, and the points of many-beam disks along a diameter
_RADIUS, _GRID = 2.0, 33
# Mean intensity of disks that count, of the incident beam's, and of those that spoil the pixels that they cover
_BRIGHT, _SPOILING = 2e-3, 2e-4


def phase_of(name: str, materials: dict = MATERIALS) -> Phase:
    """One of the materials as an orix phase."""
    group, lattice, unit = materials[name]
    structure = Structure([Atom(element, xyz) for element, xyz in unit], Lattice(*lattice))
    return load_phases(Phase(name, space_group=group, structure=structure))[0]


def measure(materials=tuple(MATERIALS), thicknesses=THICKNESSES, n_random: int = _N_RANDOM) -> Iterator:
    """Yield rows (data, predictor, numbers) for each material, along a zone axis and in random orientations."""
    disk_radius = _SEMIANGLE / electron_wavelength(_ENERGY)
    for name in materials:
        phase = phase_of(name)
        many_beam, multislice = ManyBeam(phase, _ENERGY, 1.5), Multislice(phase, _ENERGY, _RADIUS)
        axis = zone_axis_rotation(phase, [0, 0, 1], 10.0)[None]
        random = random_rotations(n_random, torch.Generator().manual_seed(_SEED)).double().numpy()
        for label, rotations in ((f"{name}, [001]", axis), (f"{name}, random", random)):
            found = {depth: [] for depth in thicknesses}
            for rotation in rotations:
                patterns = multislice(rotation[None], np.array([thicknesses]), disk_radius, _CALIBRATION)[0]
                for depth, pattern in zip(thicknesses, patterns):
                    one = torch.as_tensor(rotation, dtype=torch.float32)[None], torch.tensor([depth])
                    beams = many_beam(*one, disk_radius, _GRID)
                    beams = beams.joined(many_beam.far(*one, disk_radius, _GRID))
                    found[depth] += compare(pattern, beams, disk_radius, _CALIBRATION)
            yield label, "many-beam", {f"{depth:g}": _summary(rows) for depth, rows in found.items()}


def compare(pattern: np.ndarray, beams: BeamIntensities, disk_radius: float, calibration: Calibration) -> list:
    """Compare the disks of one pattern.

    Returns
    -------
    list of tuple
        Of each bright disk that is whole and mostly free of others: correlation inside, and the many-beam intensity
        over that of the pattern.
    """
    kx, ky, intensity = (column[0].numpy() for column in (beams.kx, beams.ky, beams.intensity))
    radius = disk_radius / calibration.scale[0]
    row, column = k_to_pixel(kx, ky, calibration)
    grid = np.indices(calibration.shape)
    covered, disks = np.zeros(calibration.shape, dtype=int), []
    for i in np.flatnonzero(beams.present[0].numpy() & (intensity.mean((1, 2)) > _SPOILING)):
        down, right = (grid - np.array([row[i], column[i]])[:, None, None]) / radius
        distance = np.hypot(down, right) * radius
        covered += distance < radius + 1
        margin = min(row[i], column[i], calibration.shape[0] - 1 - row[i], calibration.shape[1] - 1 - column[i])
        if i and margin > radius:
            disks.append((i, distance < radius - 1, down, right))
    result = []
    for i, core, down, right in disks:
        alone = core & (covered == 1)
        if alone.sum() < 0.5 * core.sum():
            continue
        # intensity (qy, qx) from -1 to 1, with qy up
        places = np.stack([1 - down[alone], 1 + right[alone]]) * (_GRID - 1) / 2
        expected = map_coordinates(intensity[i], places, order=3, mode="nearest")
        measured = pattern[alone] * np.pi * radius**2
        if measured.mean() > _BRIGHT:
            result.append((float(np.corrcoef(expected, measured)[0, 1]), float(expected.mean() / measured.mean())))
    return result


def _summary(rows: list) -> dict:
    """Correlation (median, 10 % quantile), ratio of intensities (median, standard deviation) and number of disks."""
    if not rows:
        return {"n": 0}
    correlation, ratio = np.array(rows).T
    return {
        "n": len(rows),
        "correlation": [round(float(np.median(correlation)), 4), round(float(np.quantile(correlation, 0.1)), 3)],
        "ratio": [round(float(np.median(ratio)), 3), round(float(ratio.std()), 3)],
    }


def table(rows: list, letter) -> str:
    """Write the rows as Markdown."""
    depths = [key for key in rows[0] if key.isdigit()]

    def cell(found: dict) -> str:
        if not found.get("n"):
            return "–"
        (middle, low), (ratio, scatter) = found["correlation"], found["ratio"]
        return f"{middle:.3f} (≥ {low:.2f}); {ratio:.2f} ± {scatter:.2f}; {found['n']}"

    lines = [
        "## Many-beam and multislice", "",
        "Disks of 3 mrad at 200 kV, by `ManyBeam` against `Multislice` (abTEM, 2 Å⁻¹, slices of 2 Å): correlation"
        " inside of disks (median, and what nine in ten exceed); integrated intensity over that of multislice (median ±"
        f" standard deviation); number of diffracted disks of more than {100 * _BRIGHT:g} % of the beam. [001] is"
        " exactly along the beam; random: two orientations.",
        "",
        *header("crystal", *(f"{depth} Å" for depth in depths), "run"),
    ]  # fmt: skip
    lines += [line(row["data"], *(cell(row[depth]) for depth in depths), letter(row)) for row in rows]
    return "\n".join(lines)
