"""Crystal structures in, orix' phases out: all atoms of the cell, and the symmetry of the file's own setting."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyxem_dl.crystals import checks
from pyxem_dl.crystals.atoms import MAX_ATOMS, Atoms, expanded, is_complete
from pyxem_dl.crystals.choice import completed
from pyxem_dl.crystals.cif import CifStructure, Site, read_cif, shortened
from pyxem_dl.crystals.elements import elements_of, is_vacancy, known_type, read_formula
from pyxem_dl.crystals.space_groups import (
    LATTICE_TOLERANCE,
    Group,
    cell_of_metric,
    group_of_diffpy,
    group_of_spglib,
    group_of_texts,
    settings_of_number,
    space_group,
)
from pyxem_dl.messages import warn
from pyxem_dl.symmetry import setting

if TYPE_CHECKING:
    from orix.crystal_map import Phase

    from pyxem_dl.annotations import Phases

_GENERIC_NAMES = {"x", "i", "global", "structure", "phase", "crystal", "cif", "image0", "image", "unknown", "unnamed"}


def load_phases(phases: Phases) -> list[Phase]:
    """Read and check phases, and complete their unit cells.

    CIF files are read by gemmi: listed symmetry operations take precedence over the symbol, and the symbol over the
    number; cell and setting of the file are kept.  The space group completes the atoms, charges are removed (``Mg2+``
    becomes ``Mg``), and a structure without symmetry gets its space group and standard cell from spglib.  The result
    is checked: the cell, the distances, the file's formula.

    Parameters
    ----------
    phases : orix.crystal_map.Phase, path of a CIF file, or an iterable of these
        Phases need a structure: the asymmetric unit or the whole cell.

    Returns
    -------
    list of orix.crystal_map.Phase
        New phases, with space group and full unit cell; one for each structure in a file.

    Warns
    -----
    UserWarning
        If something had to be guessed, or if two items of a file contradict each other.

    Raises
    ------
    FileNotFoundError, ValueError
        For a file or a phase that cannot be used; the message says why.
    """
    from orix.crystal_map import Phase, PhaseList

    if isinstance(phases, (Phase, str, Path)):
        phases = [phases]
    elif isinstance(phases, (bytes, dict)):
        phases = [phases]  # neither letters nor keys are phases: an error below
    elif isinstance(phases, PhaseList):
        phases = [phase for _, phase in phases if phase.name != "not_indexed"]
    elif not isinstance(phases, Iterable):
        raise TypeError(f"A phase must be an orix Phase or the path of a CIF file, not {phases!r}.")
    loaded, notes = [], []
    for phase in phases:
        if not isinstance(phase, (Phase, str, Path)):
            raise TypeError(f"A phase must be an orix Phase or the path of a CIF file, not {reprlib.repr(phase)}.")
        loaded += [_from_phase(phase, notes)] if isinstance(phase, Phase) else phases_of_file(Path(phase), notes)
    if not loaded:
        raise ValueError("No phase was given: give an orix Phase or the path of a CIF file.")
    for note in dict.fromkeys(notes):
        warn(note)
    names = [phase.name for phase in loaded]
    for i, phase in enumerate(loaded):
        if names.count(phase.name) > 1:
            phase.name = f"{phase.name} ({i})"
    return loaded


# -------------------------------------------------------------------------------------------------------- CIF files


def phases_of_file(path: Path, notes: list[str]) -> list:
    """Phases of a CIF file; what is doubtful goes to the notes."""
    structures = read_cif(path)
    if len(structures) > 1:
        blocks = shortened([s.block for s in structures], 20)
        notes.append(
            f"{path.name} holds {len(structures)} structures, in the blocks {blocks}: each becomes a phase. To use "
            "only one of them, give `pyxem_dl.load_phases(...)[i]`."
        )
    return [phase_of_structure(s, _name(path, s, len(structures) > 1), notes) for s in structures]


def _name(path: Path, structure: CifStructure, several: bool) -> str:
    """Name a phase as the file is named; where that says nothing, as the file calls its crystal."""
    candidates = [structure.block, path.stem] if several else [path.stem]
    for name in (*candidates, *structure.titles, structure.block):
        name = " ".join(name.split())[:80].replace(" ", "") if name == structure.formula else name.strip()[:80]
        if name and not name.replace("-", "").isdigit() and name.lower() not in _GENERIC_NAMES:
            return name
    return path.stem


def phase_of_structure(structure: CifStructure, name: str, notes: list[str]):
    """Phase of what a file (or a database) says; what is doubtful goes to the notes."""
    where = structure.where
    checks.check_cell(structure.cell, where)
    doubts = list(structure.notes)
    formula = read_formula(structure.formula)
    unit = _unit(structure, formula, doubts)
    atoms, group = completed(structure, unit, formula, doubts)
    text, _ = checks.compare_formula(atoms, formula, structure.formula_units)
    doubts += [text] if text else []
    doubts += checks.doubtful(atoms)
    notes += [f"{where}: {doubt}." for doubt in dict.fromkeys(doubts)]
    phase = _phase(name, atoms, group)
    if group.number == 1 or structure.magnetic:
        return _with_symmetry_found(phase, atoms, [] if structure.all_atoms else notes)
    _check_axes(phase, group, where, notes)
    return phase


def _unit(structure: CifStructure, formula, doubts: list[str]) -> Atoms:
    """Sites of a file that hold atoms."""
    sites, empty = [], []
    for site in structure.sites:
        (empty if is_vacancy(site) or site.occupancy == 0 else sites).append(site)
    vacant = [site.label for site in empty if is_vacancy(site)]
    if vacant:
        doubts.append(f"the sites {shortened(vacant)} are vacancies and are ignored")
    if len(empty) > len(vacant):
        names = shortened(site.label for site in empty if not is_vacancy(site))
        doubts.append(f"the sites {names} have an occupancy of 0 and are ignored")
    if not sites:
        raise ValueError(f"{structure.where} has no atoms: every site is empty. Give a CIF file with atoms.")
    elements = elements_of(sites, formula, structure.where, doubts)
    return Atoms(
        elements=tuple(elements),
        species=tuple(site.text if site.type_symbol else element for site, element in zip(sites, elements)),
        labels=tuple(site.label for site in sites),
        xyz=np.array([site.xyz for site in sites]),
        occupancy=np.array([site.occupancy for site in sites]),
        site=np.arange(len(sites)),
        cell=structure.cell,
    )


def _phase(name: str, atoms: Atoms, group: Group, color: str | None = None):
    """Orix' phase of a full cell."""
    from diffpy.structure import Atom, Lattice, Structure
    from orix.crystal_map import Phase

    parts = zip(atoms.elements, atoms.xyz, atoms.occupancy, atoms.labels, strict=True)
    structure = Structure([Atom(e, x, label=n, occupancy=float(o)) for e, x, o, n in parts], Lattice(*atoms.cell))
    return Phase(name=name, space_group=space_group(group), structure=structure, color=color)


def _check_axes(phase, group: Group, where: str, notes: list[str]) -> None:
    """Say where orix takes other axes for the symmetry's than the cell has; ours are the cell's, see `setting`."""
    turn = setting(phase)
    point = {tuple(r) for s in (1, -1) for r in (s * group.rotations).reshape(-1, 9).tolist()}
    standard = settings_of_number(group.number)[0].rotations
    if point != {tuple(r) for s in (1, -1) for r in (s * standard).reshape(-1, 9).tolist()} and turn[1:].any():
        notes.append(
            f"{where}: orientations refer to the cell of the file, {group.name}. Its axes differ from those that orix "
            f"uses for {phase.point_group.name}. Results and plots of pyxem_dl allow for that; the disorientations and "
            "inverse pole figures of orix do not."
        )


# ---------------------------------------------------------------------------------------------------- orix' phases


def _from_phase(phase, notes: list[str]):
    """Check a phase that somebody made, and complete it where it holds the asymmetric unit only."""
    where = f"The phase {phase.name!r}"
    if len(phase.structure) == 0:
        raise ValueError(
            f"The phase {phase.name!r} has no atoms. Give a CIF file with atom sites, or a Phase "
            "with `structure=diffpy.structure.Structure(atoms=..., lattice=...)`."
        )
    readings = _atoms_of_phase(phase, notes)
    atoms = readings[0]
    if phase.space_group is None or phase.space_group.number == 1:
        group = settings_of_number(1)[0]
        _refuse_impossible(atoms, group, where)
        return _with_symmetry_found(_phase(phase.name, atoms, group, phase.color), atoms, notes)
    group = group_of_diffpy(phase.space_group)
    if len(readings) > 1:
        atoms = min(readings, key=lambda reading: _atoms_needed(reading, group))
    if not is_complete(atoms, group):
        atoms, group = _complete_phase(atoms, group, where, notes)
    _refuse_impossible(atoms, group, where)
    notes += [f"{where}: {doubt}." for doubt in checks.doubtful(atoms)]
    return _phase(phase.name, atoms, group, phase.color)


def _atoms_needed(atoms: Atoms, group: Group) -> float:
    """How many atoms a group makes of some: least where they are at the special positions that they were meant for."""
    if group.metric_error(atoms.metric) > LATTICE_TOLERANCE:
        return np.inf
    if is_complete(atoms, group):
        return 0
    try:
        full = expanded(atoms, group)
    except ValueError:
        return np.inf
    return np.inf if checks.impossible(full) else len(full)


def _refuse_impossible(atoms: Atoms, group: Group, where: str) -> None:
    reason = checks.impossible(atoms)
    if reason:
        raise ValueError(
            f"{where}: with {group.name} ({group.number}), {reason}. Its space group, cell or coordinates are wrong. "
            "If it came from a CIF file, give the path of that file instead of a Phase."
        )


def _complete_phase(atoms: Atoms, group: Group, where: str, notes: list[str]) -> tuple[Atoms, Group]:
    """Atoms that the group does not map onto themselves: a full cell in another setting, or an asymmetric unit."""
    for other in settings_of_number(group.number, all_axes=True):
        if other.metric_error(atoms.metric) < LATTICE_TOLERANCE and is_complete(atoms, other):
            notes.append(f"{where}: its atoms fill a cell of {other.name}, which is used instead of {group.name}.")
            return atoms, other
    error = group.metric_error(atoms.metric)
    if error > LATTICE_TOLERANCE:
        cell = ", ".join(f"{x:.4g}" for x in atoms.cell)
        raise ValueError(
            f"{where}: the symmetry does not fit the cell: the operations of {group.name} ({group.number}) do not map "
            f"the lattice ({cell}) onto itself. Check the CIF file, and give its path: then its own setting is read."
        )
    try:
        said: list[str] = []
        atoms = expanded(atoms, group, said)
    except ValueError as error:
        raise ValueError(f"{where}: {error}. Give one unit cell of a crystal.") from error
    notes += [f"{where}: {text}." for text in said]
    return atoms, group


def _atoms_of_phase(phase, notes: list[str]) -> list[Atoms]:
    """Atoms of an orix phase, checked to be finite, without charges and vacancies; for each reading of `_fractions`."""
    where = f"The phase {phase.name!r}"
    if len(phase.structure) > MAX_ATOMS:
        raise ValueError(f"{where} has {len(phase.structure)} atoms, more than {MAX_ATOMS}. Give one unit cell.")
    cell = tuple(float(x) for x in phase.structure.lattice.abcABG())
    checks.check_cell(cell, where)
    readings = _fractions(phase)
    xyz = readings[0]
    occupancy = np.array([1.0 if atom.occupancy is None else float(atom.occupancy) for atom in phase.structure])
    if not (np.isfinite(xyz).all() and np.isfinite(occupancy).all() and np.abs(xyz).max() < 1000):
        raise ValueError(f"{where} has coordinates or occupancies that are not finite numbers.")
    if occupancy.min() < -1e-9 or occupancy.max() > 1.05:
        raise ValueError(f"{where} has an occupancy of {occupancy.max():g}; it must be between 0 and 1.")
    elements, keep, vacant = [], [], []
    for i, atom in enumerate(phase.structure):
        text = str(atom.element)
        if known_type(text) is None and is_vacancy(Site(text, text, (0, 0, 0), 1.0)):
            vacant.append(text)
        elif known_type(text) is None:
            raise ValueError(f"{text!r} in the phase {phase.name!r} is not an element that diffsims knows.")
        elif occupancy[i] > 0:
            keep.append(i)
        elements.append(known_type(text) or "")
    if vacant:
        notes.append(f"{where}: {len(vacant)} sites ({shortened(vacant)}) are vacancies and are ignored.")
    if not keep:
        raise ValueError(f"{where} has no atoms: every site is empty.")
    labels = tuple(str(atom.label or atom.element) for atom in phase.structure)
    species = tuple(str(atom.element) for atom in phase.structure)
    everything = Atoms(tuple(elements), species, labels, xyz, np.clip(occupancy, 0, 1), np.arange(len(elements)), cell)
    atoms = replace(everything.take(np.array(keep)), site=np.arange(len(keep)))
    return [replace(atoms, xyz=reading[keep]) for reading in readings]


def _fractions(phase) -> list[np.ndarray]:
    """Fractional coordinates; two readings of them, where the lattice was given in orix' own frame.

    orix turns a lattice to its frame and moves the coordinates along.  Where there was nothing to turn, the phase may
    be a copy of one whose coordinates were moved before, or it may have been written in that frame.
    """
    lattice = phase.structure.lattice
    given = np.asarray(getattr(phase, "_diffpy_lattice", lattice.base), dtype=float)
    usual = fractional_coordinates(phase.structure)
    if np.allclose(given, lattice.stdbase, atol=1e-6) or abs(np.linalg.det(given)) < 1e-6:
        return [usual]
    if np.allclose(given, lattice.base, atol=1e-6):
        return [usual, np.array(phase.structure.xyz)]
    return [np.asarray(phase.structure.xyz) @ lattice.base @ np.linalg.inv(given)]


def _with_symmetry_found(phase, atoms: Atoms, notes: list[str]):
    """Give a phase without symmetry the space group that spglib finds, in its standard cell."""
    import spglib

    places, contents = shared_places(atoms)
    kinds: dict = {}
    numbers = [kinds.setdefault(content, len(kinds)) for content in contents]
    cell = (atoms.base, atoms.xyz[places], numbers)
    # coordinates of three digits, as many files have them, are off by 0.003 Angstrom
    try:
        data = spglib.get_symmetry_dataset(cell, symprec=1e-2)
    except Exception:  # spglib's errors are its own: to us they all mean that it found nothing
        data = None
    if data is None or data.number == 1:
        phase.space_group = 1
        notes.append(f"{phase.name!r} has no symmetry, and spglib finds none: space group P1 (1) is used.")
        return phase
    species = list(kinds)
    parts = [
        (element, xyz, occupancy)
        for kind, xyz in zip(data.std_types, data.std_positions, strict=True)
        for element, occupancy in species[kind]
    ]
    metric = np.asarray(data.std_lattice) @ np.asarray(data.std_lattice).T
    group = group_of_spglib(int(data.hall_number))
    standard = Atoms(
        **dict.fromkeys(("elements", "species", "labels"), tuple(part[0] for part in parts)),
        xyz=np.array([part[1] for part in parts]) % 1.0,
        occupancy=np.array([part[2] for part in parts]),
        site=np.arange(len(parts)),
        cell=cell_of_metric(group.symmetric_metric(metric)),
    )
    found = _phase(phase.name, standard, group, phase.color)
    cell_text = ", ".join(f"{x:.4g}" for x in found.structure.lattice.abcABG())
    notes.append(
        f"{phase.name!r} has no symmetry; spglib finds space group {data.international} "
        f"({data.number}). Orientations refer to its standard cell ({cell_text})."
    )
    return found


def shared_places(atoms: Atoms) -> tuple[list[int], list[tuple]]:
    """Atoms that share a place, as one: the number of the first, and the contents as (element, occupancy)."""
    leader = np.arange(len(atoms))
    for i, j, _ in sorted(zip(*atoms.neighbours(0.05), strict=True)):
        leader[j] = min(leader[j], leader[i])
    places = [int(i) for i in np.unique(leader)]
    contents = []
    for place in places:
        here = np.nonzero(leader == place)[0]
        contents.append(tuple(sorted((atoms.elements[i], round(float(atoms.occupancy[i]), 4)) for i in here)))
    return places, contents


# ------------------------------------------------------------------------------------------------ numbers and strings


def fractional_coordinates(structure) -> np.ndarray:
    """Fractional coordinates (n, 3) of the atoms of an orix phase's structure.

    orix turns the lattice to its own Cartesian frame and keeps the atoms where they were in
    diffpy's; this undoes it.
    """
    lattice = structure.lattice
    if not len(structure):
        return np.zeros((0, 3))
    return np.asarray(structure.xyz) @ np.linalg.inv(lattice.stdbase @ lattice.recbase)


def atoms_of(phase) -> Atoms:
    """Atoms of the full cell of a phase from :func:`load_phases`."""
    elements = tuple(str(atom.element) for atom in phase.structure)
    return Atoms(
        **dict.fromkeys(("elements", "species", "labels"), elements),
        xyz=fractional_coordinates(phase.structure),
        occupancy=np.array([float(atom.occupancy) for atom in phase.structure]),
        site=np.arange(len(elements)),
        cell=tuple(float(x) for x in phase.structure.lattice.abcABG()),
    )


def phase_to_dict(phase) -> dict:
    """Phase as plain numbers and strings, for a model's ``config.json``.

    ``operations`` are there where the setting is not the one that orix takes for the space group's number.
    """
    if phase.space_group is None and phase.point_group is None:
        raise ValueError(
            f"The phase {phase.name!r} has neither a space group nor a point group. A model cannot be saved "
            "without one: set phase.space_group or phase.point_group."
        )
    known = {"space_group": None}
    if phase.space_group is None:  # as files of orientation maps have it
        known["point_group"] = phase.point_group.name
    if phase.space_group is not None:
        group = group_of_diffpy(phase.space_group)
        known = {"space_group": int(phase.space_group.number)}
        if group.key != group_of_diffpy(_diffpy_group(known["space_group"])).key:
            known["operations"] = group.triplets()
    return {
        "name": phase.name,
        **known,
        "color": phase.color,
        "lattice": [float(x) for x in phase.structure.lattice.abcABG()],
        "atoms": [
            [atom.element, *(round(float(x), 8) for x in xyz), float(atom.occupancy)]
            for atom, xyz in zip(phase.structure, fractional_coordinates(phase.structure), strict=True)
        ],
    }


def _diffpy_group(number: int):
    from diffpy.structure.spacegroups import GetSpaceGroup

    return GetSpaceGroup(number)


def phase_from_dict(entry: dict):
    """Phase from what :func:`phase_to_dict` returned.

    Raises
    ------
    ValueError
        For a cell, atoms or operations that are none: a model's configuration may come from a stranger.
    """
    from diffpy.structure import Atom, Lattice, Structure
    from orix.crystal_map import Phase

    missing = {"name", "space_group", "color", "lattice", "atoms"} - set(entry if isinstance(entry, dict) else ())
    if missing:
        raise ValueError(f"A phase must be a dict from phase_to_dict; {', '.join(sorted(missing))} is missing.")
    where = f"The phase {str(entry['name'])[:80]!r}"
    try:
        numbers = [float(x) for x in entry["lattice"]]
        values = np.array([[float(x) for x in atom[1:5]] for atom in entry["atoms"][: MAX_ATOMS + 1]]).reshape(-1, 4)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{where}: its lattice must be six numbers, its atoms [element, x, y, z, occupancy] ({error})."
        ) from error
    checks.check_cell(numbers, where)
    if len(entry["atoms"]) > MAX_ATOMS:
        raise ValueError(f"{where} has {len(entry['atoms'])} atoms; at most {MAX_ATOMS} are allowed.")
    if not np.isfinite(values).all() or (len(values) and np.abs(values).max() > 1000):
        raise ValueError(f"{where} has coordinates or occupancies that are not finite numbers.")
    atoms = [Atom(str(a[0]), v[:3], occupancy=float(v[3])) for a, v in zip(entry["atoms"], values, strict=True)]
    number = entry["space_group"]
    if number is not None and entry.get("operations"):
        group = group_of_texts([str(text) for text in entry["operations"]], where)
        if group.number != int(number):
            raise ValueError(f"{where} has space group {number}, but the operations of {group.name} ({group.number}).")
        number = space_group(group)
    return Phase(
        name=entry["name"],
        space_group=number,
        point_group=entry.get("point_group"),
        structure=Structure(lattice=Lattice(*numbers), atoms=atoms),
        color=entry["color"],
    )
