"""Crystals for the tests, with all atoms of their cells typed in: an answer to compare with."""

import numpy as np
from diffpy.structure import Atom, Lattice, Structure
from orix.crystal_map import Phase

from pyxem_dl.crystals import load_phases

FCC = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
RHOMBOHEDRAL = np.array([[0, 0, 0], [2, 1, 1], [1, 2, 2]]) / 3

#: name: (space group, lattice, asymmetric unit, all atoms of the cell), atoms as (element, xyz, occupancy)
STRUCTURES = {
    "Al": (225, (4.05, 4.05, 4.05, 90, 90, 90), [("Al", (0, 0, 0), 1)], [("Al", x, 1) for x in FCC]),
    "MgO": (
        225,
        (4.217, 4.217, 4.217, 90, 90, 90),
        [("Mg", (0, 0, 0), 1), ("O", (0.5, 0.5, 0.5), 1)],
        [("Mg", x, 1) for x in FCC] + [("O", x + 0.5, 1) for x in FCC],
    ),
    # half of the magnesium is iron
    "MgFeO": (
        225,
        (4.25, 4.25, 4.25, 90, 90, 90),
        [("Mg", (0, 0, 0), 0.5), ("Fe", (0, 0, 0), 0.4), ("O", (0.5, 0.5, 0.5), 1)],
        [("Mg", x, 0.5) for x in FCC] + [("Fe", x, 0.4) for x in FCC] + [("O", x + 0.5, 1) for x in FCC],
    ),
    "Mg": (
        194,
        (3.209, 3.209, 5.211, 90, 90, 120),
        [("Mg", (1 / 3, 2 / 3, 0.25), 1)],
        [("Mg", (1 / 3, 2 / 3, 0.25), 1), ("Mg", (2 / 3, 1 / 3, 0.75), 1)],
    ),
    "LiNiO2": (
        166,
        (2.88, 2.88, 14.19, 90, 90, 120),
        [("Ni", (0, 0, 0), 1), ("Li", (0, 0, 0.5), 1), ("O", (0, 0, 0.242), 1)],
        [("Ni", x, 1) for x in RHOMBOHEDRAL]
        + [("Li", x + (0, 0, 0.5), 1) for x in RHOMBOHEDRAL]
        + [("O", x + (0, 0, z), 1) for x in RHOMBOHEDRAL for z in (0.242, -0.242)],
    ),
    # baddeleyite, P2_1/c
    "ZrO2": (
        14,
        (5.15, 5.212, 5.317, 90, 99.23, 90),
        [("Zr", (0.2754, 0.0395, 0.2083), 1), ("O", (0.07, 0.3317, 0.3447), 1)],
        [
            (element, xyz, 1)
            for element, (x, y, z) in (("Zr", (0.2754, 0.0395, 0.2083)), ("O", (0.07, 0.3317, 0.3447)))
            for xyz in ((x, y, z), (-x, -y, -z), (-x, y + 0.5, 0.5 - z), (x, 0.5 - y, z + 0.5))
        ],
    ),
}


def raw_phase(name, full=False):
    """An orix phase of the asymmetric unit, or of the whole cell without symmetry."""
    group, lattice, unit, cell = STRUCTURES[name]
    atoms = [Atom(element, np.array(xyz), occupancy=occ) for element, xyz, occ in (cell if full else unit)]
    structure = Structure(lattice=Lattice(*lattice), atoms=atoms)
    return Phase(name=name, space_group=1 if full else group, structure=structure)


def phase(name):
    """The same as load_phases makes it."""
    return load_phases(raw_phase(name))[0]


def cell_atoms(name):
    """Elements, fractional coordinates (n, 3) and occupancies of all atoms, and the lattice."""
    _, lattice, _, cell = STRUCTURES[name]
    elements, xyz, occupancy = zip(*cell)
    return elements, np.array(xyz, dtype=float), np.array(occupancy), Lattice(*lattice)
