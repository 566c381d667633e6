"""Crystals: structures in (:mod:`~pyxem_dl.crystals.phases`), reflections with structure factors out.

Many at once come from :mod:`~pyxem_dl.crystals.sources`, each with an entry in a manifest.

CIF files are read by gemmi alone: diffpy, which orix' phases are made of, gives a file's symmetry operations to
Python's ``eval``, and takes another setting where it does not know the file's.
"""

from pyxem_dl.crystals.phases import fractional_coordinates, load_phases, phase_from_dict, phase_to_dict
from pyxem_dl.crystals.provenance import Structures, check_manifest, manifest_of, read_manifest, structure_hash
from pyxem_dl.crystals.reflections import (
    Reflections,
    ReflectionTable,
    Spots,
    find_spots,
    near_ewald_sphere,
    reflections,
    structure_factors,
)
from pyxem_dl.crystals.sources import structures

__all__ = [
    "ReflectionTable",
    "Reflections",
    "Spots",
    "Structures",
    "check_manifest",
    "find_spots",
    "fractional_coordinates",
    "load_phases",
    "manifest_of",
    "near_ewald_sphere",
    "phase_from_dict",
    "phase_to_dict",
    "read_manifest",
    "reflections",
    "structure_factors",
    "structure_hash",
    "structures",
]
