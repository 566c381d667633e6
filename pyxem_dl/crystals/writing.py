"""Phases as CIF files: cell, symmetry operations, asymmetric unit."""

from __future__ import annotations

import re
import unicodedata

import numpy as np

from pyxem_dl.crystals.atoms import Atoms
from pyxem_dl.crystals.phases import atoms_of
from pyxem_dl.crystals.space_groups import Group, group_of_diffpy

# Names that Windows keeps for devices
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(10))}


def cif_text(phase, entry: dict) -> str:
    """CIF file of a phase, with where it comes from.

    Parameters
    ----------
    phase : orix.crystal_map.Phase
        From :func:`load_phases`.
    entry : dict
        Its entry in a manifest.
    """
    from gemmi import cif

    atoms, group = atoms_of(phase), group_of_diffpy(phase.space_group)
    block = cif.Document().add_new_block(safe_name(entry["name"]) or "structure")
    for key in ("id", "source", "licence", "reference", "hash"):
        if entry.get(key):
            block.set_pair(f"_pyxem_dl_{key}", cif.quote(printable(entry[key], 300)))
    for key, value in zip(("a", "b", "c"), atoms.cell[:3]):
        block.set_pair(f"_cell_length_{key}", f"{value:.8g}")
    for key, value in zip(("alpha", "beta", "gamma"), atoms.cell[3:]):
        block.set_pair(f"_cell_angle_{key}", f"{value:.8g}")
    block.set_pair("_space_group_IT_number", str(group.number))
    loop = block.init_loop("_space_group_symop_", ["operation_xyz"])
    for triplet in group.triplets():
        loop.add_row([cif.quote(triplet)])
    fields = ["label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy"]
    sites, numbers = block.init_loop("_atom_site_", fields), {}
    for i in asymmetric_unit(atoms, group):
        element = atoms.elements[i]
        numbers[element] = numbers.get(element, 0) + 1
        place = [f"{x:.10f}" for x in atoms.xyz[i] % 1.0]
        sites.add_row([f"{element}{numbers[element]}", element, *place, f"{atoms.occupancy[i]:.6g}"])
    return block_text(block)


def block_text(block) -> str:
    """Text of a block with its name."""
    from gemmi import cif

    document = cif.Document()
    document.add_copied_block(block)
    return document.as_string()


def asymmetric_unit(atoms: Atoms, group: Group) -> list[int]:
    """Numbers of atoms, one of each orbit: the first of them."""
    kept, pending = [], dict.fromkeys(range(len(atoms)))
    while pending:
        i = next(iter(pending))
        kept.append(i)
        images = atoms.xyz[i] @ np.swapaxes(group.rotations, 1, 2) + group.translations / 24
        others = np.array(list(pending))
        delta = images[:, None] - atoms.xyz[others]
        delta -= np.round(delta)
        near = (np.einsum("abi,ij,abj->ab", delta, atoms.metric, delta) < 0.01**2).any(axis=0)
        for j in others[near]:
            same = atoms.elements[j] == atoms.elements[i] and abs(atoms.occupancy[j] - atoms.occupancy[i]) < 1e-3
            if same:
                pending.pop(int(j), None)
        pending.pop(i, None)
    return kept


def printable(text: str, longest: int = 80) -> str:
    """Text of a stranger on one line, for messages and files: no control characters, and not too long."""
    text = "".join(c if unicodedata.category(c)[0] not in "CZ" or c == " " else " " for c in str(text)[: 4 * longest])
    text = " ".join(text.split())
    return text if len(text) <= longest else text[: longest - 3] + "..."


def safe_name(text: str) -> str:
    """Name for a file from any text: ASCII letters, digits and ``._+-``, no path, nothing that a system keeps."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9._+-]+", "_", plain).strip("._-+")[:80].rstrip("._-+")
    return f"{name}_" if name.partition(".")[0].lower() in _RESERVED else name


def file_names(names: list[str]) -> list[str]:
    """Different names of CIF files for structures, on systems with small letters only, too."""
    taken, found = set(), []
    for name in names:
        stem = safe_name(name) or "structure"
        tries = (stem if i == 1 else f"{stem}_{i}" for i in range(1, len(names) + 2))
        stem = next(s for s in tries if s.lower() not in taken)
        taken.add(stem.lower())
        found.append(f"{stem}.cif")
    return found
