"""Which crystals are so near to one another that a network that knows one has seen the other.

A detector that is to be measured on aluminium may not learn on aluminium, nor on silver, whose pattern is the same to
within one per cent of its scale. A crystal is a **twin** of another if

- it has the same elements in the same ratio (another polymorph, too: exclusion is meant to be on the safe side); or
- its atoms lie on the same sorts of places of the same space group, whatever the elements, in a standard cell whose
  lengths agree within `LENGTH_TOLERANCE` and whose angles within `ANGLE_TOLERANCE`: MgO and NiO, LiNiO₂ and LiCoO₂, and
  what mixes on one site (a Cu–Ni solid solution has the space group and nearly the cell of Cu); or
- its diffraction is the same: the intensities |F|²/V² over |g|, stretched by at most `LENGTH_TOLERANCE`, have a cosine
  of at least `SIMILARITY` with those of the other. That finds ordered alloys with weak superstructures (Cu₃Au of Cu),
  slightly distorted cells, and relatives such as GaAs of Si. It sees lengths only, so that it finds one too many now
  and then (bcc metals have the lengths of a simple cubic lattice).
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyxem_dl.crystals.elements import known, read_formula
from pyxem_dl.crystals.phases import atoms_of, load_phases
from pyxem_dl.crystals.prototypes import Standard, standard
from pyxem_dl.messages import warn

if TYPE_CHECKING:
    from orix.crystal_map import Phase

#: Relative difference of lengths of cells
LENGTH_TOLERANCE = 0.05
#: Difference of angles of cells in degrees
ANGLE_TOLERANCE = 3.0
#: Cosine of two curves of intensities from which they count as the same
SIMILARITY = 0.9
#: Curves of intensities: smallest and largest |g| in Å⁻¹, step and standard deviation of their lines in ln |g|.  With
#: this width a cubic crystal that is stretched by 5 % along one axis is still like itself (fcc: cosine 0.91)
_RANGE, _STEP, _WIDTH = (0.08, 1.0), 0.0025, 0.012

#: Crystals that detectors are often measured on, known by their formula: space group, cell (Å, degrees), atoms
COMMON = {
    "Ag": (225, (4.0862, 4.0862, 4.0862, 90, 90, 90), [("Ag", (0, 0, 0))]),
    "Al": (225, (4.0496, 4.0496, 4.0496, 90, 90, 90), [("Al", (0, 0, 0))]),
    "Au": (225, (4.0786, 4.0786, 4.0786, 90, 90, 90), [("Au", (0, 0, 0))]),
    "Cu": (225, (3.6149, 3.6149, 3.6149, 90, 90, 90), [("Cu", (0, 0, 0))]),
    "Ni": (225, (3.5240, 3.5240, 3.5240, 90, 90, 90), [("Ni", (0, 0, 0))]),
    "Fe": (229, (2.8665, 2.8665, 2.8665, 90, 90, 90), [("Fe", (0, 0, 0))]),
    "W": (229, (3.1652, 3.1652, 3.1652, 90, 90, 90), [("W", (0, 0, 0))]),
    "Si": (227, (5.4310, 5.4310, 5.4310, 90, 90, 90), [("Si", (0, 0, 0))]),
    "Ge": (227, (5.6579, 5.6579, 5.6579, 90, 90, 90), [("Ge", (0, 0, 0))]),
    "GaAs": (216, (5.6533, 5.6533, 5.6533, 90, 90, 90), [("Ga", (0, 0, 0)), ("As", (0.25, 0.25, 0.25))]),
    "MgO": (225, (4.2112, 4.2112, 4.2112, 90, 90, 90), [("Mg", (0, 0, 0)), ("O", (0.5, 0.5, 0.5))]),
    "SrTiO3": (221, (3.905, 3.905, 3.905, 90, 90, 90),
               [("Sr", (0, 0, 0)), ("Ti", (0.5, 0.5, 0.5)), ("O", (0.5, 0.5, 0))]),
    "LiNiO2": (166, (2.88, 2.88, 14.19, 90, 90, 120), [("Ni", (0, 0, 0)), ("Li", (0, 0, 0.5)), ("O", (0, 0, 0.242))]),
}  # fmt: skip


class Look:
    """What a crystal looks like, found when it is asked for.

    Parameters
    ----------
    phase : orix.crystal_map.Phase
        From :func:`load_phases`.
    """

    def __init__(self, phase: Phase) -> None:
        self.phase = phase

    @cached_property
    def crystal(self) -> Standard:
        """Its standard cell, and the places of its atoms."""
        return standard(self.phase)

    @cached_property
    def curve(self) -> np.ndarray:
        """Its diffraction."""
        return intensity_curve(self.phase)


@dataclass(frozen=True)
class Reference:
    """What is left out, and everything like it.

    Parameters
    ----------
    name : str
        As the user calls it.
    look : Look or None
        Its structure, where it is known.
    formula : dict or None
        Composition that is left out.
    elements : frozenset of str
        Crystals of no other elements than these are left out; empty if none.
    """

    name: str
    look: Look | None = None
    formula: dict | None = None
    elements: frozenset = frozenset()

    def consists(self, composition: dict) -> str | None:
        """Why a composition is left out for this one; None if it is not."""
        if self.elements and set(composition) <= self.elements:
            return f"it consists of {self.name} only"
        if self.formula and same_composition(self.formula, composition):
            return f"it has the composition of {self.name}"
        return None

    def like(self, look: Look) -> str | None:
        """Why a structure is left out for this one; None if it is not."""
        if self.look is None:
            return None
        if isostructural(self.look.crystal, look.crystal):
            return f"it has the structure type and nearly the cell of {self.name}"
        alike = similarity(self.look.curve, look.curve)
        return f"it diffracts like {self.name} ({alike:.2f})" if alike >= SIMILARITY else None


def references(exclude) -> list[Reference]:
    """Make references of what a user wants left out.

    Parameters
    ----------
    exclude : str, set of str, phase, path of a CIF file, or an iterable of these
        A formula (``"MgO"``), a chemical system (``"Li-Ni-O"``, or a set of elements), or a structure.

    Raises
    ------
    ValueError, TypeError
        For what is none of these.

    Warns
    -----
    UserWarning
        For formulas of which no structure is known here: only their composition can be left out.
    """
    from orix.crystal_map import Phase

    single = isinstance(exclude, (str, Path, Phase)) or _is_system(exclude)
    found = []
    for item in [exclude] if single else _listed(exclude):
        if isinstance(item, Phase) or (isinstance(item, (str, Path)) and _is_file(item)):
            found += [Reference(phase.name, Look(phase), composition(phase)) for phase in load_phases(item)]
        elif _is_system(item):
            found.append(_system(item))
        elif isinstance(item, str):
            found += _of_text(item)
        else:
            raise _no_reference(item)
    return found


def _listed(exclude) -> list:
    if not isinstance(exclude, Iterable) or isinstance(exclude, (bytes, dict)):
        raise _no_reference(exclude)
    return list(exclude)


def _no_reference(item) -> TypeError:
    return TypeError(f"exclude takes formulas, chemical systems, phases and CIF files, not {reprlib.repr(item)}.")


def _is_file(item) -> bool:
    return isinstance(item, Path) or item.lower().endswith(".cif")


def _is_system(item) -> bool:
    return isinstance(item, (set, frozenset))


def _system(elements) -> Reference:
    unknown = [reprlib.repr(each) for each in elements if not (isinstance(each, str) and known(each))]
    if unknown or not elements:
        raise ValueError(f"exclude: {', '.join(unknown) or 'an empty set'} is no chemical element.")
    return Reference("-".join(sorted(elements)), elements=frozenset(elements))


def _of_text(text: str) -> list[Reference]:
    """Read a formula or a chemical system."""
    parts = text.split("-")
    if len(parts) > 1:
        return [_system(set(parts))]
    formula = read_formula(text)
    if formula is None:
        raise ValueError(
            f"exclude: {reprlib.repr(text)} is neither a formula ('MgO'), nor a chemical system ('Li-Ni-O'), nor a CIF "
            "file (*.cif)."
        )
    from pyxem_dl.crystals.prototypes import phase_of_entry, table

    phases = [_common(name) for name in COMMON if same_composition(read_formula(name), formula)]
    phases += [phase_of_entry(e) for e in table() if same_composition(read_formula(e["formula"]), formula)]
    if not phases:
        warn(
            f"exclude: no structure of {text} is known here, so only crystals of its composition are left out. Give a "
            "phase or a CIF file to leave out what is like it as well."
        )
    return [Reference(text, formula=formula), *(Reference(text, Look(phase), formula) for phase in phases)]


def _common(name: str):
    from diffpy.structure import Atom, Lattice, Structure
    from orix.crystal_map import Phase

    group, cell, atoms = COMMON[name]
    structure = Structure([Atom(*atom) for atom in atoms], Lattice(*cell))
    return load_phases(Phase(name, space_group=group, structure=structure))[0]


# ----------------------------------------------------------------------------------------------------------- likeness


def composition(phase) -> dict[str, float]:
    """How many atoms of each element a cell holds."""
    counts: dict[str, float] = {}
    atoms = atoms_of(phase)
    for element, occupancy in zip(atoms.elements, atoms.occupancy, strict=True):
        counts[element] = counts.get(element, 0.0) + float(occupancy)
    return counts


def same_composition(first: dict, second: dict) -> bool:
    """Whether two compositions have the same elements in the same ratio, within a per cent of all atoms."""
    if set(first) != set(second):
        return False
    one, other = sum(first.values()), sum(second.values())
    return all(abs(first[element] / one - second[element] / other) < 0.01 for element in first)


def isostructural(first: Standard, second: Standard) -> bool:
    """Whether two crystals have atoms on the same sorts of places, and nearly the same cell."""
    if first.signature != second.signature or first.pearson != second.pearson:
        return False
    one, other = np.array(first.cell), np.array(second.cell)
    lengths = np.abs(np.log(one[:3] / other[:3])).max() <= np.log1p(LENGTH_TOLERANCE)
    return bool(lengths and np.abs(one[3:] - other[3:]).max() <= ANGLE_TOLERANCE)


def intensity_curve(phase) -> np.ndarray:
    """Intensities over ln |g|: the sum of |F|²/V² of all reflections of one length, as lines of 1.2 % width."""
    from pyxem_dl.crystals.reflections import reflections

    low, high = np.log(_RANGE)
    n = int(np.ceil((high - low) / _STEP))
    found = reflections(phase, _RANGE[1])
    length = np.linalg.norm(found.g.numpy().astype(float), axis=1)
    power = (found.structure_factor.numpy().astype(float) / found.volume) ** 2
    place = (np.log(length) - low) / _STEP
    inside = (place >= 0) & (place < n)
    counted = np.bincount(place[inside].astype(int), weights=power[inside], minlength=n)[:n]
    reach = np.arange(-4 * _WIDTH / _STEP, 4 * _WIDTH / _STEP + 1)
    return np.convolve(counted, np.exp(-0.5 * (reach * _STEP / _WIDTH) ** 2), mode="same")


def similarity(first: np.ndarray, second: np.ndarray) -> float:
    """Cosine of two curves of :func:`intensity_curve`, the largest over stretches up to `LENGTH_TOLERANCE`."""
    furthest = int(np.log1p(LENGTH_TOLERANCE) / _STEP)
    shifted = np.lib.stride_tricks.sliding_window_view(np.pad(first, furthest), len(first))
    norm = np.linalg.norm(first) * np.linalg.norm(second)
    return float((shifted @ second).max() / norm) if norm else 0.0
