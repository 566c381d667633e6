"""What is impossible in a crystal, and what is doubtful: cells, distances, the formula."""

from __future__ import annotations

import numpy as np

from pyxem_dl.crystals.atoms import Atoms
from pyxem_dl.symmetry import laue_group

#: Lengths of a cell in Angstrom that are taken for real
_LENGTHS = (1.0, 500.0)
# Two atoms cannot be nearer than this (Angstrom), hydrogen in the second place
_TOO_NEAR, _TOO_NEAR_HYDROGEN = 0.7, 0.6
# Volume (cubic Angstrom) of an atom other than hydrogen: 5.7 in diamond, 115 in caesium, thousands around a molecule
_VOLUME = (3.5, 20_000.0)
_PLAUSIBLE_VOLUME = (5.0, 80.0)
# Atoms nearer than this (Angstrom) take turns at one place
_ONE_PLACE = 0.3
#: Distances below this part of the sum of covalent radii are doubted (W-W 0.85, U-U 0.70)
_DOUBTED = 0.62
# A crystal is another one if its cell's lengths differ by this share, or the angles by so many degrees
_LONGER, _WIDER = 0.1, 3.0
# Shares of a formula that may be left out by an author who did not find them: hydrogen, solvent
_LIGHT = {"H", "C", "N", "O", "F", "B", "Li"}


def check_cell(cell, where: str) -> None:
    """Refuse a cell that is not finite or not sane; lengths in Angstrom, angles in degrees.

    Raises
    ------
    ValueError
        With the cell and the reason.
    """
    text = "(" + ", ".join(f"{x:.6g}" for x in cell) + ")"
    if len(cell) != 6 or not np.isfinite(cell).all():
        raise ValueError(f"{where}: the cell {text} is not finite. Correct the file.")
    if 0 < min(cell[:3]) and max(cell[:3]) < 0.999 * _LENGTHS[0]:
        raise ValueError(
            f"{where}: the cell {text} is smaller than an atom. It may be in nm: give lengths in Å (ten times larger)."
        )
    # rounding makes a length of 1 Å, which orix gives to a phase without a lattice, a little smaller
    if min(cell[:3]) < 0.999 * _LENGTHS[0] or max(cell[:3]) > _LENGTHS[1]:
        raise ValueError(
            f"{where}: the cell {text} has a length outside {_LENGTHS[0]:g} to {_LENGTHS[1]:g} Å. Give lengths in Å."
        )
    cosines = np.cos(np.deg2rad(cell[3:]))
    volume = 1 - (cosines**2).sum() + 2 * cosines.prod()
    if min(cell[3:]) < 5 or max(cell[3:]) > 175 or volume < 1e-4:
        raise ValueError(f"{where}: a cell with the angles of {text} has no volume. Correct the angles (degrees).")


def closest(atoms: Atoms, radius: float = 3.2) -> tuple[float, float, str]:
    """How near the fully occupied atoms are: the distance (Å), its part of the covalent radii's sum, and the pair.

    Of the pair with the smallest part; infinite where no two atoms are that near, or where they are too many to look
    at.
    """
    import gemmi

    full = atoms.take(np.nonzero(atoms.occupancy > 0.9)[0])
    if not len(full) or len(full) > 5000:
        return np.inf, np.inf, ""
    i, j, distance = full.neighbours(radius)
    if not len(i):
        return np.inf, np.inf, ""
    radii = np.array([gemmi.Element(element).covalent_r for element in full.elements])
    part = distance / (radii[i] + radii[j])
    n = int(part.argmin())
    return float(distance[n]), float(part[n]), f"{full.labels[i[n]]} and {full.labels[j[n]]}"


def impossible(atoms: Atoms) -> str | None:
    """Why a cell full of atoms cannot be a crystal; None where it can."""
    i, j, distance = atoms.neighbours(_TOO_NEAR)
    hydrogen = np.array([element == "H" for element in atoms.elements])
    limit = np.where(hydrogen[i] | hydrogen[j], _TOO_NEAR_HYDROGEN, _TOO_NEAR)
    bad = (np.minimum(atoms.occupancy[i], atoms.occupancy[j]) > 0.99) & (distance < limit)
    if bad.any():
        n = int(np.nonzero(bad)[0][distance[bad].argmin()])
        return (
            f"two fully occupied atoms, {atoms.labels[i[n]]} and {atoms.labels[j[n]]}, are only {distance[n]:.2f} Å "
            f"apart ({int(bad.sum())} such pairs)"
        )
    counted = np.ones(len(atoms), dtype=bool) if hydrogen.all() else ~hydrogen
    volume = np.sqrt(np.linalg.det(atoms.metric)) / max(float(atoms.occupancy[counted].sum()), 1e-3)
    if volume < _VOLUME[0] and not hydrogen.all():
        return f"the cell has {volume:.2g} Å³ per atom, less than any crystal (diamond: 5.7)"
    if volume > _VOLUME[1]:
        return f"the cell has {volume:.3g} Å³ per atom: its lengths may not be in Å (in pm?)"
    return None


def doubtful(atoms: Atoms) -> list[str]:
    """Say what is odd about a cell full of atoms."""
    notes = []
    distance, part, pair = closest(atoms)
    if part < _DOUBTED and " and H" not in pair:
        notes.append(
            f"{pair} are {distance:.2f} Å apart, {part:.0%} of the sum of their covalent radii: check the "
            "coordinates and the space group"
        )
    notes += [note for note in (_overfull(atoms), _nearly_empty(atoms)) if note]
    return notes


def _overfull(atoms: Atoms) -> str | None:
    """Sites that hold more than one atom: together with all that is too near to be there at the same time."""
    total = atoms.occupancy.copy()
    i, j, _ = atoms.neighbours(_ONE_PLACE)
    i, j = i[i != j], j[i != j]
    np.add.at(total, i, atoms.occupancy[j])
    np.add.at(total, j, atoms.occupancy[i])
    worst = int(total.argmax())
    if total[worst] > 1.05:
        return f"the occupancies at {atoms.labels[worst]} add up to {total[worst]:.2f}, which is more than 1"
    return None


def _nearly_empty(atoms: Atoms) -> str | None:
    """Say that no site is half full, as where a refinement program has multiplied occupancies by multiplicities."""
    total = atoms.occupancy.copy()
    i, j, _ = atoms.neighbours(_ONE_PLACE)
    np.add.at(total, i, atoms.occupancy[j])
    np.add.at(total, j, atoms.occupancy[i])
    if total.max() > 0.5:
        return None
    return (
        f"no site is occupied by more than {total.max():.0%}: an occupancy is the occupied share of a site, from 0 to "
        "1, without its multiplicity"
    )


def count(atoms: Atoms) -> dict[str, float]:
    """Atoms of each element in the cell, by occupancy."""
    counts: dict[str, float] = {}
    for element, occupancy in zip(atoms.elements, atoms.occupancy, strict=True):
        counts[element] = counts.get(element, 0.0) + float(occupancy)
    return counts


def formula_text(counts: dict[str, float]) -> str:
    """``{"Mo": 2, "S": 4}`` -> ``Mo2 S4``."""
    return " ".join(f"{element}{n:.4g}" if abs(n - 1) > 1e-3 else element for element, n in sorted(counts.items()))


def compare_formula(atoms: Atoms, formula: dict[str, float] | None, units: float | None) -> tuple[str | None, bool]:
    """Compare the atoms of the cell with the file's formula x Z.

    Parameters
    ----------
    atoms : Atoms
        The full cell.
    formula : dict, optional
        Atoms of a formula unit.
    units : float, optional
        Z; without it only the ratios are compared.

    Returns
    -------
    text : str or None
        Both formulas, where they differ.
    gross : bool
        Whether the difference is one that wrong symmetry makes: an element is there too often, or a heavy one too
        rarely.  Missing hydrogen, solvent and other light atoms are none; nor is how elements share a site.
    """
    found = count(atoms)
    if not formula or not found:
        return None, False
    groups = _sharing(atoms, set(formula) | set(found))
    if not units or units <= 0:
        units = _units_by_ratio(found, formula, groups)
    readings = [{element: n * units for element, n in formula.items()}]
    if _is_of_the_cell(formula, units):
        readings.append(formula)
    if not all(_differs(found, reading, groups) for reading in readings):
        return None, False
    # of two readings, the one with a number of atoms that is nearer to that of the cell
    expected = min(readings, key=lambda reading: abs(sum(reading.values()) - sum(found.values())))
    units = units if expected is readings[0] else 1
    total = sum(expected.values())
    places = {element: atoms.elements.count(element) for element in found}
    gross = any(_gross(group, found, places, expected, total) for group in groups.values())
    ratios = [found.get(e, 0) / expected[e] for e in expected if e != "H"]
    uniform = bool(ratios) and max(ratios) - min(ratios) < 0.05 * max(ratios)
    volume = np.sqrt(np.linalg.det(atoms.metric)) / max(sum(n for e, n in found.items() if e != "H"), 1e-6)
    if gross and uniform and ratios[0] > 0:
        # only Z differs: by which of the two an atom has the volume of an atom?
        low, high = _PLAUSIBLE_VOLUME
        theirs = volume * ratios[0]
        gross = not (low < volume < high and not low < theirs < high)
    text = f"the cell holds {formula_text(found)}, but the file's formula x Z ({units:g}) is {formula_text(expected)}"
    return text, gross


def _differs(found: dict, expected: dict, groups: dict) -> bool:
    """Whether an element is there more or less often than expected, beyond what occupancies of few digits explain."""
    total = sum(expected.values())
    return any(
        abs(found.get(e, 0) - expected.get(e, 0)) > 0.02 * total + 0.03 * expected.get(e, 0)
        or (abs(found.get(e, 0) - expected.get(e, 0)) > 0.45 and len(groups[e]) == 1)
        for e in {**expected, **found}
    )


def _is_of_the_cell(formula: dict[str, float], units: float) -> bool:
    """Whether a formula may be that of the whole cell, as pymatgen writes it beside Z: all its numbers hold Z."""
    return units > 1 and all(n >= units - 1e-6 and abs(n / units - round(n / units)) < 1e-6 for n in formula.values())


def _sharing(atoms: Atoms, elements: set[str]) -> dict[str, frozenset[str]]:
    """Elements that share sites, by element: an author's formula may divide a mixed site in another way."""
    groups = {element: frozenset([element]) for element in elements}
    i, j, _ = atoms.neighbours(0.3)
    for first, second in {(atoms.elements[a], atoms.elements[b]) for a, b in zip(i, j, strict=True)}:
        merged = groups[first] | groups[second]
        groups.update(dict.fromkeys(merged, merged))
    return groups


def _units_by_ratio(found: dict, formula: dict, groups: dict) -> float:
    """Z where the file has none: that of which most electrons fit; a whole number, unless all elements agree."""
    import gemmi

    ratios = []
    for group in set(groups.values()) - {frozenset(["H"])}:
        here, there = (sum(counts.get(e, 0) for e in group) for counts in (found, formula))
        ratios += [here / there] if here and there else []
    if not ratios or max(ratios) - min(ratios) < 0.05 * max(ratios):
        return float(np.mean(ratios)) if ratios else 1.0
    weight = {e: gemmi.Element(e).atomic_number for e in groups}

    def misfit(z):
        return sum(w * abs(found.get(e, 0) - z * formula.get(e, 0)) for e, w in weight.items())

    return min(sorted({max(round(z), 1.0) for z in ratios}), key=misfit)


def _gross(group: frozenset, found: dict, places: dict, expected: dict, total: float) -> bool:
    """Whether elements that share sites are there too often, or, if heavy, too rarely even on full sites."""
    here, full, there = (sum(counts.get(e, 0) for e in group) for counts in (found, places, expected))
    allowed = max(0.2 * there, 0.05 * total)
    if group == {"H"}:
        return here - there > 0.5 * total
    return here - there > allowed or (there - full > allowed and not group <= _LIGHT)


def check_same_crystal(mapped, phase) -> None:
    """Refuse a phase that is not the crystal of a map: another cell, or a symmetry that has nothing to do with it.

    Parameters
    ----------
    mapped, phase : orix.crystal_map.Phase
        Of the map, which may have neither cell nor symmetry, and the one that is given for it.
    """
    cell, given = (np.array(each.structure.lattice.abcABG()) for each in (mapped, phase))
    what = None
    if not np.allclose(cell[:3], 1):  # lengths of 1 Å are those of a cell that is not known
        longer, wider = np.abs(given[:3] / cell[:3] - 1).max(), np.abs(given[3:] - cell[3:]).max()
        if longer > _LONGER or wider > _WIDER:
            cells = [f"{', '.join(f'{x:.4g}' for x in each[:3])} Å, {', '.join(f'{x:.4g}' for x in each[3:])}°"
                     for each in (cell, given)]  # fmt: skip
            what = f"of the cell {cells[0]}, and the one that is given has {cells[1]}"
    elif getattr(mapped, "point_group", None) is not None:
        groups = [laue_group(each) for each in (mapped, phase)]
        names = [{each.name for each in group.subgroups} for group in groups]
        if groups[0].name not in names[1] and groups[1].name not in names[0]:
            what = f"of the Laue group {groups[0].name}, and the one that is given of {groups[1].name}"
    if what is not None:
        raise ValueError(f"The map's phase {mapped.name!r} is {what}: give the crystal that the map was made with.")
