"""Phases made of a few numbers."""

from __future__ import annotations

from pyxem_dl.crystals import load_phases


def phase_of_atoms(name: str, space_group: int, cell, atoms):
    """Phase of the atoms of an asymmetric unit."""
    from diffpy.structure import Atom, Lattice, Structure
    from orix.crystal_map import Phase

    structure = Structure(lattice=Lattice(*cell), atoms=[Atom(*atom) for atom in atoms])
    (phase,) = load_phases(Phase(name=name, space_group=space_group, structure=structure))
    return phase
