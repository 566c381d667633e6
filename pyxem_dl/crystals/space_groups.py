"""Space groups in any setting, from operations, symbols and numbers; and the atoms that they make.

gemmi parses operations and knows the tabulated settings. diffpy's `SpaceGroup` is only the vessel that orix takes: its
operations are those of the file's own setting, its number is that of International Tables.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cache

import numpy as np

# Operations that are looked at: a cubic F group has 192, magnetic supercells a few times as many.
_MAX_OPERATIONS = 1000
#: Largest departure of a lattice from the symmetry of its group, relative, for rounded cells.
LATTICE_TOLERANCE = 0.01
#: Choices of origin, and of hexagonal or rhombohedral axes, in gemmi's table
_CHOICES = ("1", "2", "H", "R")


@dataclass(frozen=True)
class Group:
    """A space group in one setting.

    Parameters
    ----------
    rotations : array of int, shape (n, 3, 3)
        On fractional coordinates.
    translations : array of int, shape (n, 3)
        In units of 1/24.
    number : int
        In International Tables.
    name : str
        Hermann-Mauguin symbol with its setting.
    """

    rotations: np.ndarray
    translations: np.ndarray
    number: int
    name: str

    def __len__(self) -> int:
        return len(self.rotations)

    @property
    def key(self) -> frozenset:
        """The same for groups of the same operations."""
        rows = np.concatenate([self.rotations.reshape(-1, 9), self.translations % 24], axis=1)
        return frozenset(map(tuple, rows.astype(int).tolist()))

    def metric_error(self, metric: np.ndarray) -> float:
        """Largest change that an operation makes to a metric tensor, relative to the lengths."""
        moved = np.swapaxes(self.rotations, 1, 2) @ metric @ self.rotations
        length = np.sqrt(np.diag(metric))
        return float((np.abs(moved - metric) / np.outer(length, length)).max())

    def symmetric_metric(self, metric: np.ndarray) -> np.ndarray:
        """Metric tensor that the group leaves alone: the mean over its operations."""
        return (np.swapaxes(self.rotations, 1, 2) @ metric @ self.rotations).mean(axis=0)

    def triplets(self) -> list[str]:
        """Operations as ``"x,y,z"``."""
        import gemmi

        texts = []
        for rotation, translation in zip(self.rotations, self.translations, strict=True):
            op = gemmi.Op("x,y,z")
            op.rot, op.tran = (24 * rotation).astype(int).tolist(), (translation % 24).astype(int).tolist()
            texts.append(op.triplet())
        return texts


def metric_tensor(cell) -> np.ndarray:
    """Metric tensor (3, 3) in square Angstrom of a cell (lengths in Angstrom, angles in degrees)."""
    a, b, c = cell[:3]
    cosine = [0.0 if angle == 90 else np.cos(np.deg2rad(angle)) for angle in cell[3:]]
    ab, ac, bc = a * b * cosine[2], a * c * cosine[1], b * c * cosine[0]
    return np.array([[a * a, ab, ac], [ab, b * b, bc], [ac, bc, c * c]])


def cell_of_metric(metric: np.ndarray) -> tuple:
    """Lengths (Angstrom) and angles (degrees) of a metric tensor."""
    lengths = np.sqrt(np.diag(metric))
    cosines = [metric[i, j] / lengths[i] / lengths[j] for i, j in ((1, 2), (0, 2), (0, 1))]
    angles = np.rad2deg(np.arccos(np.clip(cosines, -1, 1)))
    return tuple(round(float(x), 10) for x in (*lengths, *angles))


def parse_operation(text: str, where: str):
    """Parse a symmetry operation with gemmi; a ValueError for all that is none."""
    import gemmi

    clean = unicodedata.normalize("NFKC", text).replace("−", "-").strip().lower()
    try:
        if len(clean) > 100 or not re.fullmatch(r"[xyz0-9+\-*/., ]+", clean):
            raise ValueError("only x, y, z, numbers and signs are allowed")
        op = gemmi.Op(re.sub(r"\d*\.\d+", _fraction, clean.replace(" ", "")))
        rotation = np.array(op.rot) / 24
        if not (rotation == np.round(rotation)).all() or not _has_finite_order(np.round(rotation).astype(int)):
            raise ValueError("its matrix is not a rotation or reflection of a lattice")
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"{where}: {text[:60]!r} is not a symmetry operation such as '-x,y+1/2,-z' ({error}). Correct the file."
        ) from error
    return op.wrap()


def _fraction(match) -> str:
    """0.3333 -> 8/24."""
    value = 24 * float(match[0])
    if abs(value - round(value)) > 0.1:
        raise ValueError(f"{match[0]} is not a crystallographic fraction")
    return f"{round(value)}/24"


def _has_finite_order(rotation: np.ndarray) -> bool:
    power = rotation
    for _ in range(6):
        if (power == np.eye(3)).all():
            return True
        power = power @ rotation
        if np.abs(power).max() > 100:
            return False
    return False


def group_of_texts(texts: list[str], where: str, notes: list[str] | None = None) -> Group:
    """Space group of operations as written in a file, in whatever setting.

    Raises
    ------
    ValueError
        If one is not a symmetry operation, or if they do not form a group.
    """
    if len(texts) > _MAX_OPERATIONS:
        raise ValueError(f"{where} lists {len(texts)} symmetry operations; a space group has at most 192.")
    operations = [parse_operation(text, where) for text in texts]
    listed = {op.triplet(): op for op in operations}
    group = _closed(list(listed.values()), where)
    if notes is not None and len(group) > len(listed | {"x,y,z": None}):
        notes.append(f"{len(listed)} symmetry operations are listed; together they generate {len(group)}")
    return group


def _closed(operations: list, where: str) -> Group:
    import gemmi

    try:
        group = gemmi.GroupOps([gemmi.Op("x,y,z"), *(op for op in operations if op.triplet() != "x,y,z")])
        group.add_missing_elements()
        if len(list(group)) > _MAX_OPERATIONS:
            raise ValueError("too many")
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{where}: its operations do not form a space group ({error}). Correct the file.") from error
    return _group(group, where)


def _group(operations, where: str, entry=None) -> Group:
    """Group of gemmi's operations, with its name and number."""
    import gemmi

    ops = list(operations)
    rotations = np.array([op.rot for op in ops]) // 24
    translations = np.array([op.tran for op in ops]) % 24
    entry = entry or gemmi.find_spacegroup_by_ops(operations)
    if entry is not None:
        return Group(rotations, translations, entry.number, setting_name(entry))
    return _untabulated(rotations, translations, where)


def _untabulated(rotations: np.ndarray, translations: np.ndarray, where: str) -> Group:
    """Group in a setting that no table has: spglib finds its type."""
    import spglib

    try:
        found = spglib.get_spacegroup_type_from_symmetry(rotations.astype("intc"), translations / 24)
    except Exception:  # spglib's errors are its own
        found = None
    if found is None:
        raise ValueError(f"{where}: its symmetry operations do not form a known space group. Correct the file.")
    return Group(rotations, translations, int(found.number), f"{found.international_short} (other axes)")


def setting_name(entry) -> str:
    """Short symbol of an entry of gemmi's table with what tells it from its other settings: ``R-3m:R``, ``P112/m``."""
    name = entry.short_name()
    if entry.ext == "H":
        return name.replace("H", "R", 1)  # "H-3m" to gemmi
    return f"{name}:{entry.ext}" if entry.ext in _CHOICES else name


@cache
def _table() -> tuple:
    import gemmi

    return tuple(gemmi.spacegroup_table())


@cache
def group_of_entry(index: int) -> Group:
    """Group of an entry of gemmi's table."""
    return _group(_table()[index].operations(), "gemmi's table", _table()[index])


def settings_of_number(number: int, all_axes: bool = False) -> list[Group]:
    """Tabulated settings of a space group, the one that a bare number stands for first.

    That is the setting of International Tables; of two origins it is the first, as in most programs, and of the
    rhombohedral groups the one on hexagonal axes.  The other origin or axes come next, and settings with other axes
    only where ``all_axes`` asks for them.
    """
    indices = [i for i, entry in enumerate(_table()) if entry.number == number]
    (reference,) = (i for i in indices if _table()[i].is_reference_setting())
    standard = [i for i in indices if _table()[i].hm == _table()[reference].hm]
    others = [i for i in indices if i not in standard] if all_axes else []
    return [group_of_entry(i) for i in (*standard, *others)]


def settings_of_symbol(text: str) -> list[Group]:
    """Tabulated settings that a Hermann-Mauguin symbol may mean, the likeliest first; none for an unknown symbol."""
    plain = text.replace(" ", "").lower()
    symbol, suffix = (plain, "") if plain in _by_symbol() else _clean_symbol(text)
    if symbol not in _by_symbol():
        symbol = _short_symbol(symbol)
    indices = list(_by_symbol().get(symbol, ()))
    if not indices:
        import gemmi

        try:
            entry = gemmi.find_spacegroup_by_name(symbol)
        except (RuntimeError, ValueError):
            entry = None
        indices = [] if entry is None else [
            i for i, other in enumerate(_table()) if (other.number, other.hm) == (entry.number, entry.hm)
        ]  # fmt: skip
    if suffix:
        indices = [i for i in indices if _table()[i].ext.lower() == suffix] or indices
    return [group_of_entry(i) for i in indices]


def _short_symbol(symbol: str) -> str:
    """Make a full symbol short: ``p21/n21/m21/a`` is ``pnma``, and ``f4/m-32/m`` is ``fm-3m``."""
    short = re.sub(r"(?<!4)21?/(?=[a-z])", "", symbol)
    return re.sub(r"4[1-3]?/(?=[a-z]-3)", "", short)


def _clean_symbol(text: str) -> tuple[str, str]:
    """Symbol in small letters without blanks, and the choice of origin or axes: "1", "2", "h", "r" or ""."""
    text = unicodedata.normalize("NFKD", text[:80])
    # 1̄ is written as a digit with a bar
    text = re.sub(r"(\d)[\u0304\u0305\u00af]", r"-\1", text).replace("−", "-").replace("–", "-")
    # P2(1)/c and P 2~1~/c are P 21/c; a number in brackets at the end is that of the group
    text = re.sub(r"(?<=[2346])\(([1-5])\)", r"\1", re.sub(r"\((no\.?)?\s*\d+\s*\)\s*$", "", text.strip().lower()))
    text = re.sub(r"\(.*?\)|</?\w+>|[_'\"{}$~^\\]", "", text).strip()
    text = re.sub(r"\boriginchoice\s*|\borigin\s*(choice)?\s*", ":", text)
    symbol, _, suffix = text.partition(":")
    symbol, suffix = symbol.replace(" ", ""), suffix.strip(" :")[:1]
    # ICSD: S and Z for the two origins, HR for hexagonal axes
    for ending, meaning in (("hr", "h"), ("s", "1"), ("z", "2"), ("h", "h"), ("r", "r")):
        if not suffix and symbol not in _by_symbol() and symbol.endswith(ending):
            if symbol.removesuffix(ending) in _by_symbol():
                return symbol.removesuffix(ending), meaning
    return symbol, {"s": "1", "z": "2"}.get(suffix, suffix)


@cache
def _by_symbol() -> dict[str, tuple[int, ...]]:
    """Find indices into gemmi's table by symbol; of a short monoclinic symbol, unique axis b first."""
    found: dict[str, list[int]] = {}
    for index, entry in enumerate(_table()):
        parts = entry.hm.lower().split()
        spellings = {"".join(parts), entry.short_name().lower()}
        if entry.crystal_system_str() == "monoclinic":
            spellings.add(parts[0] + "".join(p for p in parts[1:] if p != "1"))
        for spelling in spellings:
            found.setdefault(spelling, []).append(index)

    def order(index):
        axis = _table()[index].monoclinic_unique_axis()
        return ("bca".find(axis) if axis.strip("\0") else 0, index)

    return {spelling: tuple(sorted(indices, key=order)) for spelling, indices in found.items()}


def group_of_hall(text: str) -> Group | None:
    """Group of a Hall symbol; None for what is none."""
    import gemmi

    if len(text) > 60:
        return None
    try:
        return _group(gemmi.symops_from_hall(text), "Hall symbol")
    except (RuntimeError, ValueError):
        return None


def group_of_diffpy(space_group) -> Group:
    """Group of diffpy's object, with its own operations and the number of International Tables."""
    rotations = np.array([np.round(op.R) for op in space_group.symop_list]).astype(int)
    translations = np.array([np.round(24 * np.asarray(op.t)) for op in space_group.symop_list]).astype(int) % 24
    number = (int(space_group.number) - 1) % 1000 + 1
    return Group(rotations, translations, number, str(space_group.short_name))


def space_group(group: Group):
    """Make diffpy's object for a group: its own where it has this setting under this number."""
    from diffpy.structure.spacegroupmod import SpaceGroup, SymOp
    from diffpy.structure.spacegroups import GetSpaceGroup

    standard = GetSpaceGroup(group.number)
    if group_of_diffpy(standard).key == group.key:
        return standard
    operations = [SymOp(r.astype(float), t / 24) for r, t in zip(group.rotations, group.translations, strict=True)]
    centring = int((group.rotations == np.eye(3)).all(axis=(1, 2)).sum())
    return SpaceGroup(
        number=group.number,
        num_sym_equiv=len(group),
        num_primitive_sym_equiv=len(group) // max(centring, 1),
        short_name=group.name,
        point_group_name=standard.point_group_name,
        crystal_system=standard.crystal_system,
        pdb_name=group.name,
        symop_list=operations,
    )


def group_of_spglib(hall_number: int) -> Group:
    """Group of spglib's setting."""
    import spglib

    found = spglib.get_symmetry_from_database(hall_number)
    number = int(spglib.get_spacegroup_type(hall_number).number)
    rotations, translations = np.array(found["rotations"]), np.round(24 * found["translations"]).astype(int) % 24
    group = Group(rotations, translations, number, "")
    name = next((other.name for other in settings_of_number(number) if other.key == group.key), None)
    return Group(rotations, translations, number, name or spglib.get_spacegroup_type(hall_number).international_short)
