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


def aluminium():
    """Aluminium: Fm-3m, a = 4.05 Å.

    Returns
    -------
    orix.crystal_map.Phase
        The phase of the bundled model ``al-200kv``.
    """
    return phase_of_atoms("Al", 225, (4.05, 4.05, 4.05, 90, 90, 90), [("Al", (0, 0, 0))])


def lithium_nickel_oxide():
    """LiNiO₂, a layered oxide: R-3m, a = 2.88, c = 14.19 Å; Ni 3a, Li 3b, O 6c with z = 0.242.

    Returns
    -------
    orix.crystal_map.Phase
        The phase of the bundled model ``linio2-200kv``, in the hexagonal cell of 12 atoms.
    """
    atoms = [("Ni", (0, 0, 0)), ("Li", (0, 0, 0.5)), ("O", (0, 0, 0.242))]
    return phase_of_atoms("LiNiO2", 166, (2.88, 2.88, 14.19, 90, 90, 120), atoms)
