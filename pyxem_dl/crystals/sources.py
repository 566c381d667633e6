"""Crystals to train on: from the embedded table, folders of CIF files, the Materials Project and OPTIMADE."""

from __future__ import annotations

import difflib
import hashlib
import reprlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pyxem_dl.checks import number, whole_number
from pyxem_dl.crystals import online
from pyxem_dl.crystals.elements import read_formula
from pyxem_dl.crystals.phases import load_phases, phase_of_structure, phases_of_file
from pyxem_dl.crystals.prototypes import LICENCE, phase_of_entry, prototype_of, standard, table
from pyxem_dl.crystals.provenance import (
    MANIFEST,
    Structures,
    entry_of,
    read_manifest,
    structure_hash,
    user_entry,
)
from pyxem_dl.crystals.twins import Look, Reference, composition, references
from pyxem_dl.crystals.writing import printable
from pyxem_dl.messages import warn
from pyxem_dl.progress import progressbar

if TYPE_CHECKING:
    from pyxem_dl.annotations import Phases, Unwanted

#: What `structures` takes, for messages
KNOWN = ("'prototypes'", "a folder of CIF files", "a manifest (.json)", "'mp:<query>'",
         "'optimade:<database>?<filter>'")  # fmt: skip
#: Files of a folder that are read
_MOST_FILES = 200_000
#: So many are named in a warning
_NAMED = 5
#: Prototypes that have no count of their own
OTHER = "Other"


@dataclass
class _Candidate:
    """A crystal that may be drawn; its phase is made when it is asked for."""

    id: str
    make: Callable
    n_atoms: int
    composition: dict
    known: dict = field(default_factory=dict)
    _phase: object = None

    @property
    def phase(self):
        if self._phase is None:
            self._phase = self.make()
        return self._phase

    @property
    def prototype(self) -> str:
        if "prototype" not in self.known:
            self.known["prototype"] = prototype_of(standard(self.phase))
        return self.known["prototype"]

    def entry(self) -> dict:
        return self.known.get("entry") or entry_of(self.phase, id=self.id, **self.known)


def structures(
    source: str | Path | Phases = "prototypes",
    n: int | None = None,
    *,
    law: Literal["sqrt", "uniform"] | None = None,
    counts: Mapping[str, int] | None = None,
    seed: int = 0,
    exclude: Unwanted = (),
    max_atoms: int = 500,
    limit: int = 1000,
    timeout: float = 60.0,
    show_progressbar: bool | None = None,
) -> Structures:
    """Get crystals to simulate and to train on, each with where it comes from.

    Parameters
    ----------
    source : str, pathlib.Path, or phases
        - ``"prototypes"``: 268 real crystals of 253 AFLOW prototypes, which come with the package;
        - a folder of CIF files, or the manifest of such a folder from :meth:`Structures.save`;
        - ``"mp:<query>"``: the Materials Project, with numbers (``"mp:mp-149,mp-13"``), a chemical system
          (``"mp:Li-Ni-O"``), a formula (``"mp:MgO"``) or parameters (``"mp:elements=O,Ti&is_stable=true"``).  Your key
          is taken from the environment variable ``MP_API_KEY`` and kept nowhere;
        - ``"optimade:<database>?<filter>"``: a database that speaks OPTIMADE, by name (cod, tcod, mp, oqmd, alexandria,
          odbx) or base address, with a filter in OPTIMADE's language: ``'optimade:cod?elements HAS ALL "Mg","O" AND
          nelements=2'``;
        - phases and CIF files, as :func:`load_phases` takes them.
    n : int, optional
        How many to draw; by default all that the law gives.
    law : {"sqrt", "uniform"}, optional
        How many of each prototype.  ``"sqrt"``: round(√count), as Munshi et al. (2022) chose their crystals;
        ``"uniform"``: as equal numbers as there are; by default every crystal has the same chance.
    counts : dict, optional
        How often each prototype occurs, for ``law="sqrt"``, by its name in the manifest; those without one share the
        count ``"Other"``.  By default as often as it is found in the source itself, after exclusions.
    seed : int
        Of the draw: the same seed draws the same crystals on any computer.  The first of a longer draw are those of a
        shorter one.
    exclude : str, set of str, phase, path of a CIF file, or a list of these
        What is left out: formulas (``"MgO"``), chemical systems (``"Li-Ni-O"`` or a set of elements), structures, **and
        their twins**: what has the structure type and nearly the cell of one of these, or diffracts like it (see
        :mod:`pyxem_dl.crystals.twins`).
    max_atoms : int
        Crystals with more atoms in their cell are left out, with a warning.
    limit : int
        How many structures are read from the network at most.
    timeout : float
        Seconds to wait for each answer from the network.
    show_progressbar : bool, optional
        For sources on the network, and exclusions; by default as HyperSpy's preferences say.

    Returns
    -------
    Structures
        A list of orix phases with ``manifest`` and ``left_out``; ``save(folder)`` writes CIF files.

    Raises
    ------
    ValueError, TypeError
        For an unknown source, a query without a hit, a folder without a CIF file that can be read, a manifest that does
        not fit, or settings that are none.
    OSError
        If a database cannot be reached (``ConnectionError``, ``TimeoutError``) or there is no key
        (``PermissionError``).

    Warns
    -----
    UserWarning
        If structures could not be read or are too large, with the first few reasons, or if fewer are there than `n`.

    References
    ----------
    Munshi, J. et al. Disentangling multiple scattering with deep learning: application to strain mapping from electron
    diffraction patterns. npj Computational Materials 8, 254 (2022). https://doi.org/10.1038/s41524-022-00939-9

    Examples
    --------
    >>> phases = pyxem_dl.structures("prototypes", n=200, law="sqrt", seed=0, exclude=["Al", "MgO"])
    >>> phases.manifest[0]["id"]
    """
    n = None if n is None else whole_number("n", n, 1)
    seed, limit = whole_number("seed", seed), whole_number("limit", limit, 1, 100_000)
    max_atoms = whole_number("max_atoms", max_atoms, 1)
    timeout = number("timeout", timeout, 0, 86_400, above=True)
    if law not in ("sqrt", "uniform", None):
        raise ValueError(f"law must be 'sqrt', 'uniform' or None, not {reprlib.repr(law)}.")
    counts = _checked_counts(counts, law)
    unwanted = references(exclude)
    left_out: dict[str, str] = {}
    found = _candidates(source, left_out, limit, max_atoms, timeout, show_progressbar)
    _tell("could not be read", left_out)
    found = _small(found, max_atoms, left_out)
    found = _wanted(found, unwanted, left_out, show_progressbar)
    if not found:
        raise ValueError(
            f"No crystal is left of {_said(source)}: {len(left_out)} were left out"
            + (f", such as {_example(left_out)}." if left_out else ".")
        )
    order = _drawn(found, n, law, counts, seed)
    if n is not None and len(order) < n:
        warn(_too_few(n, len(order), len(found), law, counts))
    drawn = [found[i] for i in order]
    phases = [candidate.phase for candidate in drawn]
    _name_apart(phases)
    return Structures(phases, [candidate.entry() for candidate in drawn], left_out)


# ------------------------------------------------------------------------------------------------------------- sources


def _candidates(source, left_out, limit, max_atoms, timeout, show) -> list[_Candidate]:
    """List what a source has; what of it cannot be used goes to `left_out`, with the reason."""
    from orix.crystal_map import Phase, PhaseList

    if isinstance(source, Structures):
        return [_of_phase(phase, entry["id"], {"entry": entry}) for phase, entry in zip(source, source.manifest)]
    if isinstance(source, (Phase, PhaseList)) or not isinstance(source, (str, Path)):
        if not isinstance(source, (Phase, Iterable)) or isinstance(source, (bytes, dict)):
            raise TypeError(f"source must be {', '.join(KNOWN)}, or phases, not {reprlib.repr(source)}.")
        return [_of_phase(phase, **_as_user(phase)) for phase in load_phases(source)]
    text = str(source)
    if isinstance(source, str):
        if text == "prototypes":
            return [_of_table(entry) for entry in table()]
        for prefix, ask in (("mp:", online.materials_project), ("optimade:", online.optimade)):
            if text.lower().startswith(prefix):
                answers = ask(text[len(prefix) :], limit=limit, max_atoms=max_atoms, timeout=timeout)
                return _of_network(answers, left_out, limit, show, text)
    path = Path(source)
    if path.is_dir():
        return _of_folder(path, left_out)
    if path.suffix.lower() == ".json":
        return _of_manifest(read_manifest(path), path.parent)
    if path.suffix.lower() == ".cif":
        return [_of_phase(phase, **_as_user(phase)) for phase in load_phases(path)]
    near = difflib.get_close_matches(text, ["prototypes"], cutoff=0.6)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"There is no source {printable(text)!r}, and no such folder.{hint} Sources are {', '.join(KNOWN)}, and phases."
    )


def _of_phase(phase, id: str, known: dict) -> _Candidate:
    return _Candidate(id, lambda: phase, len(phase.structure), composition(phase), dict(known))


def _as_user(phase) -> dict:
    entry = user_entry(phase)
    return {"id": entry["id"], "known": {"entry": entry, "prototype": entry["prototype"]}}


def _of_table(entry: dict) -> _Candidate:
    known = {"source": "prototypes", "licence": LICENCE, "prototype": entry["prototype"],
             "reference": entry["reference"]}  # fmt: skip
    n_atoms = sum(n for kind in entry["orbits"] for n, _ in kind)
    return _Candidate(entry["id"], lambda: phase_of_entry(entry), n_atoms, read_formula(entry["formula"]), known)


def _of_network(answers, left_out, limit, show, text) -> list[_Candidate]:
    found: dict[str, _Candidate] = {}
    notes: dict[str, str] = {}
    with progressbar(limit, show, " structures") as bar:
        for each in answers:
            bar.total = min(limit, answers.total) if answers.total else limit
            bar.update()
            key, said = f"{each.source.partition(':')[2] or each.source}:{each.id}", []
            if key in found or key in left_out:
                key = f"{key} ({len(found) + len(left_out) + 1})"
            if each.structure is None:
                left_out[key] = each.reason
                continue
            try:
                phase = phase_of_structure(each.structure, each.structure.block[:80], said)
            except (ValueError, RuntimeError) as error:
                # what to do about it is said for files
                reason = str(error).removeprefix(f"{each.structure.where}: ").partition(". ")[0]
                left_out[key] = printable(reason, 300)
                continue
            if said:
                notes[key] = printable(said[0].removeprefix(f"{each.structure.where}: "), 300)
            found[key] = _of_phase(phase, key, {"source": each.source, "licence": each.licence})
    if not found and not left_out:
        raise ValueError(f"{printable(text, 200)!r} finds no structure. Check the query, or make it wider.")
    if answers.total is not None and answers.total > limit:
        warn(
            f"{printable(text, 200)!r} finds {answers.total} structures; the first {limit} were read. Narrow the query "
            "or give a larger limit=."
        )
    _tell("are doubtful", notes)
    return list(found.values())


def _of_folder(folder: Path, left_out: dict) -> list[_Candidate]:
    """Read the CIF files of a folder and its folders; the manifest that is there says where they come from."""
    files = [path for path in folder.rglob("*") if path.suffix.lower() == ".cif" and path.is_file()]
    if not files:
        raise ValueError(f"{folder} holds no CIF file (*.cif).")
    if len(files) > _MOST_FILES:
        raise ValueError(f"{folder} holds {len(files)} CIF files; at most {_MOST_FILES} are read.")
    entries = {}
    if (folder / MANIFEST).is_file():
        entries = {entry.get("file"): entry for entry in read_manifest(folder / MANIFEST)}
    found, notes, changed = [], {}, {}
    names = {path.relative_to(folder).as_posix(): path for path in files}
    order = {name: i for i, name in enumerate(entries)}
    for name in sorted(names, key=lambda name: (order.get(name, len(order)), name)):
        path, said = names[name], []
        shown = printable(name, 250)
        try:
            phases = phases_of_file(path, said)
        except (ValueError, OSError, RuntimeError) as error:
            left_out[shown] = printable(str(error), 300)
            continue
        entry = entries.get(name)
        for i, phase in enumerate(phases):
            id = shown if len(phases) == 1 else f"{shown}#{i + 1}"
            if entry is not None and structure_hash(phase) == entry["hash"]:
                found.append(_of_entry(phase, entry))
                continue
            if entry is not None:
                changed[shown] = "its structure has another hash"
            found.append(_of_phase(phase, id, {"source": "folder", "licence": "not stated"}))
        # of what was saved by us nothing is news
        if said and entry is None:
            notes[shown] = printable(said[0].partition(": ")[2] or said[0], 300)
    if not found:
        raise ValueError(f"None of the {len(files)} CIF files in {folder} could be read, such as {_example(left_out)}.")
    _tell("are doubtful", notes)
    _tell(f"are not what {MANIFEST} says, and count as files without it", changed)
    return found


def _of_entry(phase, entry: dict) -> _Candidate:
    phase.name = entry["name"]
    kept = {key: value for key, value in entry.items() if key != "file"}
    return _of_phase(phase, entry["id"], {"entry": kept, "prototype": entry["prototype"]})


def _of_manifest(entries: list[dict], folder: Path) -> list[_Candidate]:
    """Make the crystals of a manifest again: from the table, or from CIF files beside it."""
    listed, found, missing = {entry["id"]: entry for entry in table()}, [], {}
    for entry in entries:
        phase = None
        path = folder / entry["file"] if "file" in entry else None
        if path is not None and path.is_file():
            (phase, *_) = phases_of_file(path, [])
        elif entry["source"] == "prototypes" and entry["id"] in listed:
            phase = phase_of_entry(listed[entry["id"]])
        if phase is None:
            missing[entry["id"]] = f"from {entry['source']}, not here"
        elif structure_hash(phase) != entry["hash"]:
            missing[entry["id"]] = "its structure has another hash"
        else:
            found.append(_of_entry(phase, entry))
    if missing:
        raise ValueError(
            f"The manifest does not fit: {len(missing)} of its {len(entries)} structures cannot be made again, such as "
            f"{_example(missing)}. Give the folder that was saved with it."
        )
    return found


# ------------------------------------------------------------------------------------------------------------ choosing


def _small(found: list[_Candidate], max_atoms: int, left_out: dict) -> list[_Candidate]:
    """Leave out what has too many atoms, and what is there twice."""
    kept, large, hashes = [], {}, {}
    for each in found:
        if each.n_atoms > max_atoms:
            large[each.id] = f"it has {each.n_atoms} atoms, more than max_atoms={max_atoms}"
            continue
        if each.known.get("source") != "prototypes":
            first = hashes.setdefault(structure_hash(each.phase), each.id)
            if first != each.id:
                left_out[each.id] = f"it is the same structure as {first}"
                continue
        kept.append(each)
    if large:
        _tell("are too large", large)
        left_out |= large
    return kept


def _wanted(found: list[_Candidate], unwanted: list[Reference], left_out: dict, show) -> list[_Candidate]:
    """Leave out what is like something unwanted."""
    if not unwanted:
        return found
    kept = []
    with progressbar(len(found), show, " crystals") as bar:
        for each in found:
            bar.update()
            reason = next((why for ref in unwanted if (why := ref.consists(each.composition))), None)
            if reason is None and any(ref.look for ref in unwanted):
                look = Look(each.phase)
                reason = next((why for ref in unwanted if (why := ref.like(look))), None)
            if reason:
                left_out[each.id] = reason
            else:
                kept.append(each)
    return kept


def _drawn(found: list[_Candidate], n: int | None, law: str | None, counts: dict | None, seed: int) -> list[int]:
    """Numbers of the crystals that are drawn, in the order in which they are."""
    if n is None and law is None:
        return list(range(len(found)))
    order = sorted(range(len(found)), key=lambda i: _rank(seed, found[i].id))
    if law is not None:
        groups, places = Counter(), {}
        kind = {i: _group(found[i].prototype, counts) for i in order}
        for i in order:
            places[i] = groups[kind[i]]
            groups[kind[i]] += 1
        if law == "uniform":
            order = sorted(order, key=lambda i: places[i])
            order = [i for i in order if n is not None or places[i] == 0]
        else:
            share = {group: round((counts or groups).get(group, 0) ** 0.5) for group in groups}
            order = [i for i in order if places[i] < share[kind[i]]]
    return order[:n]


def _group(prototype: str, counts: dict | None) -> str:
    return prototype if counts is None or prototype in counts else OTHER


def _rank(seed: int, id: str) -> bytes:
    """Return what orders crystals at random: the same on any computer, and whatever else is there."""
    return hashlib.sha256(f"{seed}:{id}".encode()).digest()


def _checked_counts(counts, law: str | None) -> dict[str, int] | None:
    if counts is None:
        return None
    if law != "sqrt":
        raise ValueError(f"counts= is for law='sqrt', not for law={law!r}.")
    if not isinstance(counts, Mapping) or not all(isinstance(key, str) for key in counts):
        raise TypeError(f"counts must be a dict of numbers by prototype, not {reprlib.repr(counts)}.")
    return {key: whole_number(f"counts[{printable(key)!r}]", value) for key, value in counts.items()}


# ------------------------------------------------------------------------------------------------------------ messages


def _tell(what: str, reasons: dict[str, str]) -> None:
    """Warn once for many structures, with the first few."""
    if reasons:
        first = "; ".join(f"{printable(id)}: {reason.rstrip('.')}" for id, reason in list(reasons.items())[:_NAMED])
        more = f"; and {len(reasons) - _NAMED} more" if len(reasons) > _NAMED else ""
        warn(f"{len(reasons)} structures {what}: {first}{more}.")


def _example(reasons: dict[str, str]) -> str:
    id, reason = next(iter(reasons.items()))
    return f"{printable(id)} ({reason.rstrip('.')})"


def _said(source) -> str:
    return printable(repr(source) if isinstance(source, str) else str(source), 200)


def _too_few(n: int, given: int, there: int, law: str | None, counts: dict | None) -> str:
    if given < there:
        more = " (counts= has no or small numbers for the prototypes that are there)" if counts else ""
        return (
            f"n={n} crystals were asked for; law={law!r} takes {given} of the {there} that are there{more}. All of "
            "them are returned; law='uniform' or law=None takes more."
        )
    return f"n={n} crystals were asked for, and {there} are there: all of them are returned."


def _name_apart(phases: list) -> None:
    """Give phases different names, as maps and models need them."""
    taken = Counter(phase.name for phase in phases)
    for i, phase in enumerate(phases):
        if taken[phase.name] > 1:
            phase.name = f"{phase.name} ({i})"
