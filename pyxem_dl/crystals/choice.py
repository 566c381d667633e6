"""Which space group, in which setting, a file means: operations before symbols before the number, and what fits."""

from __future__ import annotations

import numpy as np

from pyxem_dl.crystals import checks
from pyxem_dl.crystals.atoms import Atoms, expanded
from pyxem_dl.crystals.cif import CifStructure, Site
from pyxem_dl.crystals.space_groups import (
    LATTICE_TOLERANCE,
    Group,
    group_of_hall,
    group_of_texts,
    metric_tensor,
    settings_of_number,
    settings_of_symbol,
)

# Of two origins: the second is taken where it has the atoms this much better apart (parts of covalent radii).
_TOO_TIGHT, _BETTER = 0.9, 0.06


def completed(structure: CifStructure, unit: Atoms, formula, doubts: list[str]) -> tuple[Atoms, Group]:
    """All atoms of the cell, with the first of the groups that the file may mean which makes a possible crystal."""
    reasons = []
    tiers = _tiers(structure, doubts)
    for n, tier in enumerate(tiers):
        tried, possible = [], []
        for group in tier:
            said: list[str] = []
            try:
                atoms = expanded(unit, group, said)
            except ValueError as error:
                raise ValueError(f"{structure.where}: {error}. Give one unit cell of a crystal.") from error
            reason = checks.impossible(atoms)
            if reason is None:
                text, gross = checks.compare_formula(atoms, formula, structure.formula_units)
                reason = text if gross else None
            tried.append((atoms, group, said))
            possible += [] if reason else [len(tried) - 1]
            reasons += [f"with the operations of {group.name} ({group.number}), {reason}"] if reason else []
        if possible:
            index = _best_of(tried, possible, structure, formula, doubts)
            atoms, group, said = tried[index]
            if n:
                doubts.append(f"{'; '.join(reasons)}: {group.name} ({group.number}) is used, because it fits")
            doubts += said
            return atoms, group
    raise ValueError(
        f"{structure.where}: {'; '.join(dict.fromkeys(reasons[:4]))}. The symmetry, setting, cell, occupancies or "
        "formula in the file is wrong: correct it or delete the wrong item. Symmetry operations "
        "(_space_group_symop_operation_xyz) define the setting without doubt."
    )


def _tiers(structure: CifStructure, doubts: list[str]) -> list[list[Group]]:
    """List the groups that a file may mean, by how well it says so: operations, symbols, number."""
    where, metric = structure.where, metric_tensor(structure.cell)
    symbolic = settings_of_symbol(structure.symbol) if structure.symbol else []
    hall = group_of_hall(structure.hall) if structure.hall else None
    said = f"{structure.symbol}" + (f" ({structure.number})" if structure.number else "")
    if structure.operations:
        # those of a magnetic structure are listed as factors: operations times centring
        group = group_of_texts(structure.operations, where, None if structure.magnetic else doubts)
        error = group.metric_error(metric)
        if error > LATTICE_TOLERANCE:
            raise ValueError(
                f"{where}: the symmetry operations of {group.name} ({group.number}) do not map the lattice onto "
                f"itself (they change it by {error:.0%}). Correct the cell or the operations."
            )
        if structure.magnetic:
            return [[group]]
        others = [other for other in symbolic if other.metric_error(metric) < LATTICE_TOLERANCE]
        agrees = any(other.key == group.key for other in (*symbolic, *([hall] if hall else [])))
        if structure.symbol and symbolic and not agrees:
            doubts.append(f"its operations are those of {group.name} ({group.number}), but its symbol is {said}")
        elif not symbolic and structure.number and structure.number != group.number:
            doubts.append(
                f"its operations are those of {group.name} ({group.number}), but its number is {structure.number}"
            )
        return [[group], others] if others and not agrees else [[group]]
    tiers = []
    if hall is not None:
        tiers.append([hall])
        if symbolic and all(other.key != hall.key for other in symbolic):
            doubts.append(
                f"its Hall symbol {structure.hall} is that of {hall.name} ({hall.number}), but its symbol is {said}"
            )
    elif structure.hall and not structure.symbol and not structure.number:
        raise ValueError(f"{where}: {structure.hall[:40]!r} is not a Hall symbol, and there is no other symmetry. "
                         "Correct it, or give the symmetry operations (_space_group_symop_operation_xyz).")  # fmt: skip
    elif structure.hall:
        doubts.append(f"its Hall symbol {structure.hall[:40]!r} could not be read")
    if symbolic:
        tiers.append(symbolic)
        if structure.number and symbolic[0].number != structure.number:
            doubts.append(f"its symbol {structure.symbol} is that of number {symbolic[0].number}, but its number is "
                          f"{structure.number}")  # fmt: skip
            tiers.append(settings_of_number(structure.number))
    elif structure.number:
        settings = settings_of_number(structure.number, all_axes=True)
        if structure.symbol:
            doubts.append(f"its symbol {structure.symbol[:40]!r} is unknown")
            settings = _centred_alike(settings, structure)
        tiers.append(settings)
    elif structure.symbol:
        raise ValueError(
            f"{where}: the space group symbol {structure.symbol[:40]!r} is unknown, and the file lists no symmetry "
            "operations. Correct the symbol, or give _space_group_IT_number or the operations."
        )
    if not tiers:
        return [[settings_of_number(1)[0]]]
    return _fitting(structure, tiers, metric, doubts)


def _centred_alike(settings: list[Group], structure: CifStructure) -> list[Group]:
    """Keep the settings of a number whose lattice is centred as an unknown symbol says."""
    letter = structure.symbol.strip()[:1].upper()
    alike = [group for group in settings if group.name[0] == letter]
    if not alike:
        raise ValueError(
            f"{structure.where}: the space group symbol {structure.symbol[:40]!r} is unknown, and it is not the "
            f"standard setting {settings[0].name} of number {structure.number}. Give the symmetry operations "
            "(_space_group_symop_operation_xyz)."
        )
    return alike


def _fitting(structure: CifStructure, tiers, metric: np.ndarray, doubts: list[str]) -> list[list[Group]]:
    """Keep the settings that the cell's shape allows; of those with other axes, the first."""
    kept = []
    for tier in tiers:
        fitting = [group for group in tier if group.metric_error(metric) < LATTICE_TOLERANCE]
        first = fitting[0].name.partition(":")[0] if fitting else ""
        kept.append([group for group in fitting if group.name.partition(":")[0] == first])
    kept = [tier for tier in kept if tier]
    if not kept:
        group = tiers[0][0]
        raise ValueError(
            f"{structure.where}: the space group {group.name} ({group.number}) does not fit the cell: the operations "
            f"do not map the lattice onto itself (they change it by {group.metric_error(metric):.0%}). Correct one of "
            "the two, or give the symmetry operations (_space_group_symop_operation_xyz)."
        )
    group = kept[0][0]
    by_number = not structure.operations and not structure.symbol and not structure.hall
    if by_number and group.number > 1:
        standard = settings_of_number(group.number)[0]
        if group.key not in {other.key for other in settings_of_number(group.number)}:
            raise ValueError(
                f"{structure.where}: the cell does not fit the standard setting {standard.name} of space group "
                f"number {group.number}, and the file does not name its setting. Give the symbol "
                "(_space_group_name_H-M_alt) or the operations (_space_group_symop_operation_xyz)."
            )
        if len(settings_of_number(group.number, all_axes=True)) > 1:
            doubts.append(f"it gives only the number {group.number} of its space group: the standard setting "
                          f"{kept[0][0].name} is used")  # fmt: skip
    return kept


def _best_of(tried: list, possible: list[int], structure: CifStructure, formula, doubts: list[str]) -> int:
    """Choose between two origins: by the formula, multiplicities of sites, distances; else the first, and say so."""
    first = possible[0]
    if len(tried) == 1:
        return first
    names = ", ".join(group.name for _, group, _ in tried)
    if len(possible) == 1:
        doubts.append(f"it does not say which of {names} it means: {tried[first][1].name} is used; only it fits")
        return first
    best, why = first, None
    units = structure.formula_units
    fits = [i for i in possible if formula and not checks.compare_formula(tried[i][0], formula, units)[0]]
    right = [i for i in possible if _has_multiplicities(tried[i][0], structure.sites, len(tried[i][1]))]
    parts = {i: checks.closest(tried[i][0])[1] for i in possible}
    looser = max(possible, key=lambda i: (min(parts[i], 1.3), -i))
    if fits and len(fits) < len(possible):
        best, why = fits[0], "the formula"
    elif right and len(right) < len(possible):
        best, why = right[0], "the multiplicities of its sites"
    elif tried[first][2] and any(not tried[i][2] for i in possible):
        # the first has atoms off its special positions, or copies of one another
        best, why = next(i for i in possible if not tried[i][2]), "the special positions of its atoms"
    elif parts[first] < _TOO_TIGHT and parts[looser] > parts[first] + _BETTER:
        best, why = looser, "the distances between atoms"
    others = [checks.formula_text(checks.count(tried[i][0])) for i in possible if i != best]
    chosen = checks.formula_text(checks.count(tried[best][0]))
    doubts.append(
        f"it does not say which of {names} it means: {tried[best][1].name} is used "
        + (f"because of {why}" if why else "as a guess")
        + f" ({chosen} in the cell; otherwise {', '.join(others)})"
        + ". Name the setting in the symbol, as in 'F d -3 m:2'"
    )
    return best


def _has_multiplicities(atoms: Atoms, sites: list[Site], order: int) -> bool:
    """Whether sites have the multiplicities that the file says: images in the cell, or (SHELXL) the sites' order."""
    number = np.bincount(atoms.site)
    labels = {site.label: site.multiplicity for site in sites}
    known = [(labels.get(atoms.labels[int(np.argmax(atoms.site == i))]), n) for i, n in enumerate(number) if n]
    if not known or any(m is None for m, _ in known):
        return False
    return all(m == n for m, n in known) or all(m * n == order for m, n in known)
