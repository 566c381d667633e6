"""Where crystals come from: an entry for each in a manifest, which travels with the sets and models made of them."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field

from pyxem_dl.checks import Strict, checked, read_json, read_text
from pyxem_dl.crystals.atoms import MAX_ATOMS, Atoms
from pyxem_dl.crystals.phases import atoms_of, load_phases, shared_places
from pyxem_dl.crystals.prototypes import Standard, prototype_of, standard
from pyxem_dl.crystals.space_groups import group_of_diffpy
from pyxem_dl.crystals.writing import cif_text, file_names, printable
from pyxem_dl.files import check_target, replacing

#: Manifests of another version are refused
VERSION = 1
#: Name of the manifest in a folder of CIF files
MANIFEST = "manifest.json"
#: Steps of what is hashed: fractions of the cell, Å, degrees
_FRACTION, _LENGTH, _ANGLE = 1e-5, 1e-4, 1e-3
#: Steps begin off the numbers that structures are full of (0, 1/3, 0.125): what rounding does to these changes nothing
_OFFSET = 0.41
_LARGEST_MANIFEST = 64 * 2**20
_MOST_ENTRIES = 200_000



def _on_one_line(text: str) -> str:
    if text != printable(text, 300):
        raise ValueError("text on one line, without control characters, is needed")
    return text


_Text = Annotated[str, Field(max_length=300), AfterValidator(_on_one_line)]


class ManifestEntry(Strict):
    """What a manifest says of one crystal."""

    id: Annotated[_Text, Field(min_length=1)]
    name: _Text
    source: Annotated[_Text, Field(min_length=1)]
    licence: _Text
    hash: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    prototype: _Text
    formula: _Text
    space_group: Annotated[int, Field(ge=1, le=230)]
    n_atoms: Annotated[int, Field(ge=1, le=MAX_ATOMS)]
    reference: _Text = ""
    file: Annotated[str, Field(max_length=255, pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*\.cif$")] | None = None


class Structures(list):
    """Phases that know where they come from: a list, with a manifest.

    Parameters
    ----------
    phases : iterable of orix.crystal_map.Phase
        From :func:`load_phases`.
    entries : iterable of dict
        Their manifest entries, in the same order.
    left_out : dict, optional
        What was left out, by id, and why.

    Attributes
    ----------
    manifest : list of dict
        An entry for each phase, in their order, for JSON: ``id``, ``name``, ``source``, ``licence``, ``hash`` (SHA-256
        of the structure, see :func:`structure_hash`), ``prototype``, ``formula`` (reduced, elements in alphabetical
        order, as OPTIMADE has it), ``space_group``, ``n_atoms``, ``reference``.  Phases that were added to the list
        have the source ``"user"``.
    left_out : dict
        Crystals that were found and not taken, by id, with the reason.
    """

    def __init__(self, phases: Iterable = (), entries: Iterable[dict] = (), left_out: dict | None = None) -> None:
        super().__init__(phases)
        self._entries = {entry["hash"]: dict(entry) for entry in entries}
        self.left_out = dict(left_out or {})

    @property
    def manifest(self) -> list[dict]:
        """Entry of each phase, in their order."""
        hashes = [structure_hash(phase) for phase in self]
        return [dict(self._entries.get(h) or user_entry(phase, h)) for phase, h in zip(self, hashes, strict=True)]

    def __getitem__(self, index):
        found = super().__getitem__(index)
        return Structures(found, self._entries.values(), self.left_out) if isinstance(index, slice) else found

    def copy(self) -> Structures:
        """Return a list of the same phases, with their manifest."""
        return self[:]

    def __add__(self, other):
        entries = [*self._entries.values(), *(other._entries.values() if isinstance(other, Structures) else ())]
        return Structures([*self, *other], entries, self.left_out | getattr(other, "left_out", {}))

    def __repr__(self) -> str:
        entries = self.manifest
        sources = ", ".join(f"{n} from {source}" for source, n in Counter(e["source"] for e in entries).items())
        n, out = len({entry["prototype"] for entry in entries}), len(self.left_out)
        return f"<Structures: {len(self)} phases of {n} prototypes ({sources or 'none'}; {out} left out)>"

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write a CIF file for each phase, and the manifest; ``structures(folder)`` reads them again.

        Parameters
        ----------
        folder : str or pathlib.Path
            Of the files; made if it is not there.
        overwrite : bool
            Replace a folder that is there, with all that is in it, if it was written by this method.

        Returns
        -------
        pathlib.Path
            The folder.

        Raises
        ------
        FileExistsError
            If there is such a folder, and `overwrite` is False or the folder holds something else.
        """
        folder = Path(folder)
        check_target(folder, overwrite=overwrite, folder=True)
        if folder.exists() and any(p.suffix != ".cif" and p.name != MANIFEST for p in folder.iterdir()):
            raise FileExistsError(f"{folder} holds other files than CIF files and a manifest. Give another name.")
        entries = self.manifest
        names = file_names([entry["name"] for entry in entries])
        with replacing(folder) as new:
            new.mkdir()
            for phase, entry, name in zip(self, entries, names, strict=True):
                (new / name).write_text(cif_text(phase, entry), encoding="utf-8")
            filed = [entry | {"file": name} for entry, name in zip(entries, names, strict=True)]
            (new / MANIFEST).write_text(manifest_text(filed), encoding="utf-8")
        return folder


# ------------------------------------------------------------------------------------------------------- the structure


def structure_text(phase) -> str:
    """Structure of a phase as text that is the same on any machine, whatever the order of its atoms.

    Cell, symmetry operations, and all atoms of the cell, in steps of 1e-4 Å, 1e-3 degrees and 1e-5 of the cell.  Names
    and colours are no part of it.  Another setting, origin or cell of one crystal is another text.

    Parameters
    ----------
    phase : orix.crystal_map.Phase
        From :func:`load_phases`.
    """
    atoms = atoms_of(phase)
    cell = [*_steps(atoms.cell[:3], _LENGTH), *_steps(atoms.cell[3:], _ANGLE)]
    group = group_of_diffpy(phase.space_group)
    per_cell = round(1 / _FRACTION)
    xyz = _steps(atoms.xyz, _FRACTION) % per_cell
    rows = sorted(
        f"{element} {' '.join(map(str, place))} {round(float(occupancy) * 1000)}"
        for element, place, occupancy in zip(atoms.elements, xyz.tolist(), atoms.occupancy, strict=True)
    )
    return "\n".join([" ".join(map(str, cell)), *sorted(group.triplets()), *rows])


def _steps(values, step: float) -> np.ndarray:
    return np.floor(np.asarray(values, dtype=float) / step + _OFFSET).astype(int)


def structure_hash(phase) -> str:
    """SHA-256 of :func:`structure_text`, 64 hexadecimal digits."""
    return hashlib.sha256(structure_text(phase).encode()).hexdigest()


def formula_of(atoms: Atoms) -> str:
    """Reduced formula, elements in alphabetical order; of mixed and partly filled sites with up to three decimals."""
    _, contents = shared_places(atoms)
    units = math.gcd(*Counter(contents).values())
    counts: dict[str, float] = {}
    for element, occupancy in zip(atoms.elements, atoms.occupancy, strict=True):
        counts[element] = counts.get(element, 0.0) + float(occupancy) / units
    amounts = {element: f"{n:.3f}".rstrip("0").rstrip(".") for element, n in sorted(counts.items())}
    return "".join(f"{element}{'' if n == '1' else n}" for element, n in amounts.items() if n != "0")


# -------------------------------------------------------------------------------------------------------- the manifest


def entry_of(phase, *, source: str, id: str, licence: str, crystal: Standard | None = None, **known) -> dict:
    """Manifest entry of a phase.

    Parameters
    ----------
    phase : orix.crystal_map.Phase
        From :func:`load_phases`.
    source, id, licence : str
        Where it comes from, what it is called there, and how it may be used.
    crystal : Standard, optional
        Of this phase, if it is there already.
    **known : str
        Entries that need not be found: ``prototype``, ``reference``.
    """
    atoms = atoms_of(phase)
    if "prototype" not in known:
        known["prototype"] = prototype_of(crystal or standard(phase))
    entry = {
        "id": id, "name": phase.name, "source": source, "licence": licence, "hash": structure_hash(phase),
        "prototype": known["prototype"], "formula": formula_of(atoms),
        "space_group": group_of_diffpy(phase.space_group).number, "n_atoms": len(atoms),
        "reference": known.get("reference") or "",
    }  # fmt: skip
    return {key: printable(value, 300) if isinstance(value, str) else value for key, value in entry.items()}


def user_entry(phase, hashed: str | None = None) -> dict:
    """Entry of a phase of which nothing is known but itself."""
    hashed = hashed or structure_hash(phase)
    return entry_of(phase, source="user", id=f"user:{hashed[:16]}", licence="not stated")


def manifest_of(phases) -> list[dict]:
    """Manifest of any phases: that of :class:`Structures`, or entries with the source ``"user"``.

    Parameters
    ----------
    phases : Structures, or what :func:`load_phases` takes
        Crystals.

    Returns
    -------
    list of dict
        One for each phase, in their order.
    """
    if isinstance(phases, Structures):
        return phases.manifest
    return [user_entry(phase) for phase in load_phases(phases)]


def manifest_text(entries: list[dict]) -> str:
    """JSON text of a manifest, for a file."""
    return json.dumps({"format": "pyxem_dl structures", "version": VERSION, "structures": entries}, indent=1) + "\n"


def read_manifest(path: str | Path) -> list[dict]:
    """Read the file of a manifest.

    Parameters
    ----------
    path : str or pathlib.Path
        From :meth:`Structures.save`, or text of :func:`manifest_text`.

    Returns
    -------
    list of dict
        Checked entries.

    Raises
    ------
    ValueError
        If it is none, or of another version; the message says which entry is wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no manifest {str(path)!r}.")
    content = read_json(read_text(path, _LARGEST_MANIFEST), path)
    if not isinstance(content, dict) or content.get("format") != "pyxem_dl structures":
        raise ValueError(f"{path} is no manifest of structures: it lacks 'format': 'pyxem_dl structures'.")
    if content.get("version") != VERSION:
        version = str(content.get("version"))[:20]
        raise ValueError(f"{path} is a manifest of version {version}; this version of pyxem_dl reads {VERSION}.")
    return check_entries(content.get("structures"), str(path))


def check_entries(entries, where: str = "the manifest") -> list[dict]:
    """Make sure of a manifest's entries, which may come from a stranger.

    Raises
    ------
    ValueError
        Which names the entry that is wrong.
    """
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{where}: a manifest is a list of dicts, one for each structure.")
    if len(entries) > _MOST_ENTRIES:
        raise ValueError(f"{where} has {len(entries)} entries; at most {_MOST_ENTRIES} are allowed.")
    return [
        checked(ManifestEntry, entry, f"structures.{i}", where).model_dump(exclude_none=True)
        for i, entry in enumerate(entries)
    ]


def check_manifest(manifest: list[dict], phases) -> None:
    """Make sure that a manifest is that of some phases, in their order.

    Parameters
    ----------
    manifest : list of dict
        Of a set or a model.
    phases : Structures, or what :func:`load_phases` takes
        Its crystals.

    Raises
    ------
    ValueError
        If there are more of one than of the other, or if a structure is not the one of its entry.
    """
    entries = check_entries(manifest)
    loaded = list(phases) if isinstance(phases, Structures) else load_phases(phases)
    if len(entries) != len(loaded):
        raise ValueError(
            f"The manifest does not fit: it has {len(entries)} entries, and there are {len(loaded)} structures."
        )
    for i, (entry, phase) in enumerate(zip(entries, loaded, strict=True)):
        hashed = structure_hash(phase)
        if hashed != entry["hash"]:
            raise ValueError(
                f"The manifest does not fit: structure {i}, {phase.name!r}, has the hash {hashed[:12]}..., but the "
                f"entry {entry['id']!r} has {entry['hash'][:12]}.... Use the structures that the manifest was made "
                "with, in their order."
            )
