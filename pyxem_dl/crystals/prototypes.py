"""Real crystals by AFLOW prototype, in a table that comes with the package; and which prototype a crystal has."""

from __future__ import annotations

import string
from dataclasses import dataclass
from functools import cache
from math import gcd
from pathlib import Path

import numpy as np

from pyxem_dl.checks import read_json, read_text
from pyxem_dl.crystals.cif import CifStructure, Site
from pyxem_dl.crystals.phases import atoms_of, phase_of_structure, shared_places
from pyxem_dl.crystals.space_groups import cell_of_metric, group_of_spglib

#: How the table may be used, for manifests
LICENCE = "MIT (pymatgen); cite doi 10.1016/j.commatsci.2017.01.017"
_TABLE = Path(__file__).resolve().parent.parent / "_data" / "prototypes.json"
#: Of spglib, in Å: coordinates of three digits, as many files have them, are off by 0.003 Å
SYMPREC = 1e-2
#: Letters of Pearson symbols, by the last space group of each crystal family
_FAMILIES = ((2, "a"), (15, "m"), (74, "o"), (142, "t"), (194, "h"), (230, "c"))


@cache
def table() -> tuple[dict, ...]:
    """Entries of the table: id, name, formula, prototype, Pearson symbol, Strukturbericht, cell, sites, reference."""
    return tuple(read_json(read_text(_TABLE), _TABLE)["entries"])


def phase_of_entry(entry: dict):
    """Phase of an entry of the table."""
    structure = CifStructure(
        where=entry["name"], block=entry["name"], cell=tuple(entry["cell"]), all_atoms=True,
        sites=[Site(element, element, tuple(xyz), 1.0) for element, *xyz in entry["sites"]],
        operations=_operations(entry["hall"]),
    )  # fmt: skip
    return phase_of_structure(structure, entry["name"], [])


@cache
def _operations(hall: int) -> list[str]:
    return group_of_spglib(hall).triplets()


@dataclass(frozen=True)
class Kind:
    """Atoms of one kind in a crystal; atoms that share a place are one.

    Parameters
    ----------
    orbits : tuple of (int, str)
        Multiplicity in the standard cell, and site symmetry, of each orbit.
    content : tuple of (str, float)
        Elements with their occupancies.
    xyz : array, shape (n, 3)
        Where they are, in fractions of the crystal's own cell.
    """

    orbits: tuple
    content: tuple
    xyz: np.ndarray

    @property
    def multiplicity(self) -> int:
        """How many there are in the standard cell."""
        return sum(n for n, _ in self.orbits)


@dataclass(frozen=True)
class Standard:
    """A crystal as spglib standardises it.

    Parameters
    ----------
    number : int
        Of the space group.
    cell : tuple of 6 float
        Standard cell in Å and degrees.
    pearson : str
        Pearson symbol; its number is that of places with atoms.
    kinds : tuple of Kind
        In an order that does not depend on which elements they are.
    metric : array, shape (3, 3)
        Metric tensor of the crystal's own cell, in square Å.
    """

    number: int
    cell: tuple
    pearson: str
    kinds: tuple[Kind, ...]
    metric: np.ndarray

    @property
    def signature(self) -> tuple:
        """The same for crystals whose atoms lie on the same sorts of places, whatever the elements."""
        return self.number, tuple(kind.orbits for kind in self.kinds)


def standard(phase) -> Standard:
    """Standardise a phase from :func:`load_phases`, to compare it with others."""
    import spglib

    atoms = atoms_of(phase)
    places, contents = shared_places(atoms)
    names = {content: i for i, content in enumerate(dict.fromkeys(contents))}
    try:
        cell = (atoms.base, atoms.xyz[places], [names[content] for content in contents])
        found = spglib.get_symmetry_dataset(cell, symprec=SYMPREC)
    except Exception:  # spglib's errors are its own: to us they all mean that it found nothing
        found = None
    if found is None:
        kinds = [Kind(((1, "1"),) * contents.count(c), c, _where(atoms, places, contents, c)) for c in names]
        return Standard(1, atoms.cell, f"aP{len(places)}", _sorted(kinds), atoms.metric)
    n, kinds = len(found.std_types), []
    for content in names:
        orbits: dict[int, list] = {}
        for i, here in enumerate(contents):
            if here == content:
                symmetry = found.site_symmetry_symbols[i].replace(".", "")
                orbits.setdefault(int(found.crystallographic_orbits[i]), [0, symmetry])[0] += 1
        sizes = sorted((round(count * n / len(places)), symmetry) for count, symmetry in orbits.values())
        kinds.append(Kind(tuple(sizes), content, _where(atoms, places, contents, content)))
    metric = np.asarray(found.std_lattice) @ np.asarray(found.std_lattice).T
    return Standard(int(found.number), cell_of_metric(metric), _pearson(found, n), _sorted(kinds), atoms.metric)


def _where(atoms, places: list[int], contents: list, content: tuple) -> np.ndarray:
    return atoms.xyz[[place for place, here in zip(places, contents, strict=True) if here == content]]


def _sorted(kinds: list[Kind]) -> tuple[Kind, ...]:
    return tuple(sorted(kinds, key=lambda kind: (kind.multiplicity, kind.orbits, kind.content)))


def _pearson(found, n: int) -> str:
    """Pearson symbol, with AFLOW's habits: side-centred lattices are C, rhombohedral ones count their own cell."""
    centring = found.international[0]
    centring = "C" if centring in "ABC" else centring
    family = next(letter for last, letter in _FAMILIES if found.number <= last)
    return f"{family}{centring}{n // 3 if centring == 'R' else n}"


def prototype_of(crystal: Standard) -> str:
    """Name the prototype of a crystal.

    Parameters
    ----------
    crystal : Standard
        From :func:`standard`.

    Returns
    -------
    str
        The AFLOW label (``AB_cF8_225_a_b``) where a crystal of the table has its atoms on the same sorts of places;
        else one made alike, with multiplicities and site symmetries for Wyckoff letters, which depend on the origin:
        ``AB2_hP6_194_2(-6m2)_4(3m)``.
    """
    known = _by_signature().get((crystal.pearson, crystal.signature))
    if known is not None:
        return min(known, key=lambda each: np.abs(each[1] - distances(crystal)).max())[0] if known[1:] else known[0][0]
    counts = [kind.multiplicity for kind in crystal.kinds]
    shared = gcd(*counts)
    letters = string.ascii_uppercase + string.ascii_lowercase
    stoichiometry = "".join(
        f"{letters[i % 52]}{n // shared if n > shared else ''}" for i, n in enumerate(counts)
    )  # fmt: skip
    sites = "_".join("".join(f"{n}({symmetry})" for n, symmetry in kind.orbits) for kind in crystal.kinds)
    label = f"{stoichiometry}_{crystal.pearson}_{crystal.number}_{sites}"
    return label if len(label) <= 150 else f"{stoichiometry[:60]}_{crystal.pearson}_{crystal.number}"


@cache
def _by_signature() -> dict[tuple, list[tuple[str, np.ndarray]]]:
    """Labels and shapes of the table's crystals, by what they have in common with others."""
    found: dict[tuple, list] = {}
    for entry in table():
        orbits = tuple(tuple((n, symmetry) for n, symmetry in kind) for kind in entry["orbits"])
        key = entry["pearson"], (entry["number"], orbits)
        found.setdefault(key, []).append((entry["prototype"], np.array(entry["distances"])))
    return found


def distances(crystal: Standard) -> np.ndarray:
    """Shortest distances between atoms of any two kinds, in cube roots of the volume of an atom.

    They tell crystals apart that have one signature: Cu₃Au and ReO₃.
    """
    steps = np.stack(np.meshgrid(*[np.arange(-1, 2)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    volume = np.sqrt(np.linalg.det(crystal.metric)) / sum(len(kind.xyz) for kind in crystal.kinds)
    found = []
    for i, first in enumerate(crystal.kinds):
        for second in crystal.kinds[i:]:
            delta = (first.xyz % 1)[:, None, None] - (second.xyz % 1)[:, None] + steps
            squared = np.einsum("abci,ij,abcj->abc", delta, crystal.metric, delta)
            found.append(np.sqrt(squared[squared > 1e-4].min()))
    return np.array(found) / np.cbrt(volume)
