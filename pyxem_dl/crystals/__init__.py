"""Crystals: structures in (:mod:`~pyxem_dl.crystals.phases`), reflections with structure factors out.

CIF files are read by gemmi alone: diffpy, which orix' phases are made of, gives a file's symmetry operations to
Python's ``eval``, and takes another setting where it does not know the file's.
"""

from pyxem_dl.crystals.phases import fractional_coordinates, load_phases, phase_from_dict, phase_to_dict
from pyxem_dl.crystals.reflections import (
    Reflections,
    ReflectionTable,
    Spots,
    find_spots,
    near_ewald_sphere,
    reflections,
    structure_factors,
)

__all__ = [
    "ReflectionTable",
    "Reflections",
    "Spots",
    "find_spots",
    "fractional_coordinates",
    "load_phases",
    "near_ewald_sphere",
    "phase_from_dict",
    "phase_to_dict",
    "reflections",
    "structure_factors",
]
