"""The crystals of the open benchmark, as published.

None of them is in the table of prototypes that pyxem_dl's any-crystal model was trained on; some have a structure type
that is.  ``python -m open_benchmark cif FOLDER`` writes them as CIF files for other programs.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Crystal:
    """One crystal: cell (Å, degrees), space group, asymmetric unit in fractions of the cell, and its source."""

    name: str
    space_group: int
    laue_group: str
    cell: tuple[float, float, float, float, float, float]
    unit: tuple[tuple[str, tuple[float, float, float]], ...]
    reference: str


def _cubic(a: float) -> tuple:
    return a, a, a, 90.0, 90.0, 90.0


def _hexagonal(a: float, c: float) -> tuple:
    return a, a, c, 90.0, 90.0, 120.0


_THIRD = 1 / 3
#: In this order everywhere: a pattern's seed is made of the crystal's place here
CRYSTALS = (
    Crystal(
        "Cu", 225, "m-3m", _cubic(3.61491), (("Cu", (0, 0, 0)),),
        "M. E. Straumanis and L. S. Yu, Acta Crystallographica A 25, 676 (1969)",
    ),
    Crystal(
        "Si", 227, "m-3m", _cubic(5.43102), (("Si", (0, 0, 0)),),
        "P. J. Mohr et al., CODATA recommended values, Reviews of Modern Physics 84, 1527 (2012)",
    ),
    Crystal(
        "RuS2", 205, "m-3", _cubic(5.6106), (("Ru", (0, 0, 0)), ("S", (0.3883, 0.3883, 0.3883))),
        "Sutarno, O. Knop and K. I. G. Reid, Canadian Journal of Chemistry 45, 1391 (1967)",
    ),
    Crystal(
        "ZnO", 186, "6/mmm", _hexagonal(3.2501, 5.2071),
        (("Zn", (_THIRD, 2 * _THIRD, 0)), ("O", (_THIRD, 2 * _THIRD, 0.3817))),
        "E. H. Kisi and M. M. Elcombe, Acta Crystallographica C 45, 1867 (1989)",
    ),
    Crystal(
        "Fe2O3", 167, "-3m", _hexagonal(5.038, 13.772), (("Fe", (0, 0, 0.3553)), ("O", (0.3059, 0, 0.25))),
        "R. L. Blake et al., American Mineralogist 51, 123 (1966)",
    ),
    Crystal(
        "SnO2", 136, "4/mmm", (4.7373, 4.7373, 3.1864, 90.0, 90.0, 90.0),
        (("Sn", (0, 0, 0)), ("O", (0.3056, 0.3056, 0))),
        "A. A. Bolzan et al., Acta Crystallographica B 53, 373 (1997)",
    ),
    Crystal(
        "LiFePO4", 62, "mmm", (10.332, 6.010, 4.692, 90.0, 90.0, 90.0),
        (
            ("Li", (0, 0, 0)), ("Fe", (0.28222, 0.25, 0.97472)), ("P", (0.09486, 0.25, 0.4182)),
            ("O", (0.09678, 0.25, 0.7428)), ("O", (0.4571, 0.25, 0.2060)), ("O", (0.16558, 0.0465, 0.28478)),
        ),
        "V. A. Streltsov et al., Acta Crystallographica B 49, 147 (1993)",
    ),
    Crystal(
        "CaMgSi2O6", 15, "2/m", (9.746, 8.899, 5.251, 90.0, 105.63, 90.0),
        (
            ("Ca", (0, 0.3015, 0.25)), ("Mg", (0, 0.9082, 0.25)), ("Si", (0.2862, 0.0933, 0.2293)),
            ("O", (0.1156, 0.0873, 0.1422)), ("O", (0.3611, 0.2500, 0.3180)), ("O", (0.3505, 0.0176, 0.9953)),
        ),
        "M. Cameron et al., American Mineralogist 58, 594 (1973)",
    ),
)  # fmt: skip
NAMES = tuple(crystal.name for crystal in CRYSTALS)


def phase_of(name: str):
    """One of the crystals as an orix phase with all atoms of the cell."""
    from diffpy.structure import Atom, Lattice, Structure
    from orix.crystal_map import Phase

    from pyxem_dl.crystals import load_phases

    crystal = CRYSTALS[NAMES.index(name)]
    structure = Structure([Atom(element, xyz) for element, xyz in crystal.unit], Lattice(*crystal.cell))
    return load_phases(Phase(name, space_group=crystal.space_group, structure=structure))[0]
