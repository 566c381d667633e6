"""CIF text in, plain numbers and strings out. gemmi reads; nothing of a file is ever evaluated."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

# A CIF with its measured reflections has some 20 MB; what is larger is no description of a crystal.
_MAX_BYTES = 64 * 2**20
#: Atom sites that are read from one block.
MAX_SITES = 20_000
_NUMBER = re.compile(r"[+-]?(\d{1,30}\.?\d{0,30}|\.\d{1,30})([eE][+-]?\d{1,3})?(\(\d{1,9}\))?")
_UNKNOWN = {"", "?", "."}
_WANTED = ("cell_", "symmetry_", "space_group_", "atom_site_", "chemical_", "parent_space_group", "pdbx_")
_CELL = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
# The same item in core CIF, in CIF 2 and in mmCIF, after `_Names`' normalisation of case and dots.
_OPERATIONS = ("space_group_symop_operation_xyz", "symmetry_equiv_pos_as_xyz")
_HALL = ("space_group_name_hall", "symmetry_space_group_name_hall")
_SYMBOL = ("space_group_name_h-m_alt", "symmetry_space_group_name_h-m", "space_group_name_h-m_full",
           "space_group_name_h-m_ref")  # fmt: skip
_INT_TABLES = ("space_group_it_number", "symmetry_int_tables_number")
_TITLES = ("chemical_name_mineral", "chemical_name_common", "chemical_name_structure_type")


# Items of crystals whose atoms follow waves that the lattice has not
_MODULATED = ("cell_modulation_dimension", "cell_wave_vector", "atom_site_fourier_wave_vector", "space_group_ssg",
              "space_group_symop_ssg", "space_group_magn_ssg", "space_group_symop_magn_ssg")  # fmt: skip


@dataclass(frozen=True)
class Site:
    """An atom site: what the file calls it, and where it is (fractions of the cell)."""

    label: str
    type_symbol: str | None
    xyz: tuple[float, float, float]
    occupancy: float
    multiplicity: int | None = None

    @property
    def text(self) -> str:
        """What names the element: the type where there is one, else the label."""
        return self.type_symbol or self.label


@dataclass
class CifStructure:
    """What one block of a CIF file says, unchecked but for being numbers.

    Parameters
    ----------
    where : str
        File and block, for messages.
    block : str
        Name of the block.
    cell : tuple of 6 float
        Angstrom and degrees.
    sites : list of Site
        The asymmetric unit.
    operations : list of str
        Symmetry operations as written, such as ``"-x,y+1/2,-z"``; may be empty.
    hall, symbol : str or None
        Symbols of the space group.
    number : int or None
        Of the space group in International Tables.
    formula : str or None
        As in ``_chemical_formula_sum``.
    formula_units : float or None
        Z.
    titles : list of str
        Names that the file has for its crystal.
    notes : list of str
        Doubts met while reading.
    magnetic : bool
        Whether its operations are those of a magnetic group.
    all_atoms : bool
        Whether it comes from where cells are always given atom by atom: that it has no symmetry is no news then.
    """

    where: str
    block: str
    cell: tuple
    sites: list[Site]
    operations: list[str] = field(default_factory=list)
    hall: str | None = None
    symbol: str | None = None
    number: int | None = None
    formula: str | None = None
    formula_units: float | None = None
    titles: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    magnetic: bool = False
    all_atoms: bool = False


def read_cif(path: Path) -> list[CifStructure]:
    """Read all structures of a CIF file.

    Parameters
    ----------
    path : Path
        A file in core CIF, CIF 2 or mmCIF, in UTF-8, UTF-16 or Latin-1.

    Raises
    ------
    FileNotFoundError, ValueError
        With what is wrong and what to do.
    """
    text = _decode(path)
    try:
        document = _parse(text)
    except (ValueError, RuntimeError) as error:
        reason = str(error).removeprefix("string:")[:300]
        raise ValueError(
            f"{path.name} could not be read as a CIF file: {reason} (line:column). Correct that line in a text "
            "editor, or export the structure as CIF again."
        ) from error
    blocks = re.findall(r"(?im)^\s*data_(\S+)", text)
    blocks = blocks if len(blocks) == len(document) else [block.name for block in document]
    structures, reasons = [], []
    for block, name in zip(document, blocks, strict=True):
        names = _Names(block, name, f"{path.name}, block {name!r}")
        if not names.has_sites:
            if names.get("cell_length_a"):
                reasons.append(f"block {name!r} has a cell but no atoms")
            continue
        structures.append(_structure(names))
    if not structures:
        raise ValueError(
            f"{path.name} has no atoms with coordinates"
            + (f" ({'; '.join(reasons)})" if reasons else "")
            + ". Give a CIF file with a cell and _atom_site_fract_x, _y, _z."
        )
    return structures


def _parse(text: str):
    """Parse with gemmi: leniently where an item is there twice, and without letters that are not ASCII in names."""
    from gemmi import cif

    try:
        return cif.read_string(text, check_level=0)
    except (ValueError, RuntimeError):
        if text.isascii():
            raise
    plain = unicodedata.normalize("NFKD", text.replace("□", "Vac").replace("−", "-").replace("\u00a0", " "))
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    return cif.read_string(plain.encode("ascii", "replace").decode(), check_level=0)


def _decode(path: Path) -> str:
    """Text of a file, whatever its encoding."""
    if path.is_dir():
        raise ValueError(f"{str(path)!r} is a folder. Give the path of a CIF file.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no structure file {str(path)!r}.")
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise ValueError(
            f"{path.name} has {size / 2**20:.0f} MB; a CIF file may have at most {_MAX_BYTES >> 20} MB. Give the file "
            "of one crystal."
        )
    data = path.read_bytes()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text = data.decode("utf-16", errors="replace")
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = data.decode("latin-1")
    if "\0" in text:
        raise ValueError(f"{path.name} is a compressed or binary file, not CIF text. Unpack it, or export it as CIF.")
    if not text.strip():
        raise ValueError(f"{path.name} is empty. Give a CIF file with a cell and atoms.")
    if text.lstrip()[0] == "<":
        raise ValueError(f"{path.name} is HTML or XML, not CIF: perhaps a web page was saved. Download the file again.")
    return text


class _Names:
    """Values of a block by name, whatever its dialect: dots become underscores, letters small."""

    def __init__(self, block, name: str, where: str):
        self.where, self.block = where, name
        self.single: dict[str, str] = {}
        self.columns: dict[str, list[str]] = {}
        self.dotted = False
        self.twice: list[str] = []
        for item in block:
            if item.pair is not None:
                name = self._name(item.pair[0])
                if name.startswith(_WANTED) and self.single.setdefault(name, item.pair[1]) != item.pair[1]:
                    self.twice.append(item.pair[0])
            elif item.loop is not None and any(self._name(tag).startswith(_WANTED) for tag in item.loop.tags):
                width, values = item.loop.width(), item.loop.values
                for i, tag in enumerate(item.loop.tags):
                    if self.columns.setdefault(self._name(tag), values[i::width]) != values[i::width]:
                        self.twice.append(tag)
        self.has_sites = any(
            self.column(f"atom_site_{kind}_x") and self.column(f"atom_site_{kind}_y") for kind in ("fract", "cartn")
        )

    def _name(self, tag: str) -> str:
        if tag.lower().startswith(("_atom_site.", "_cell.")):
            self.dotted = True
        return tag.lower().lstrip("_").replace(".", "_")

    def get(self, *names: str) -> str | None:
        """First value that is known among several names."""
        from gemmi import cif

        for name in names:
            for raw in (self.single.get(name), *self.columns.get(name, [])[:1]):
                if raw is not None and raw not in _UNKNOWN:
                    return cif.as_string(raw).strip()
        return None

    def column(self, *names: str) -> list[str | None]:
        """First column that is there among several names; unknown values are None."""
        from gemmi import cif

        for name in names:
            raw = self.columns.get(name) or ([self.single[name]] if name in self.single else [])
            if raw:
                return [None if value in _UNKNOWN else cif.as_string(value).strip() for value in raw]
        return []

    def number(self, *names: str) -> float | None:
        """Read a number with or without its uncertainty."""
        text = self.get(*names)
        return None if text is None else to_number(text, f"{self.where}: _{names[0]}")


def to_number(text: str, what: str) -> float:
    """``"5.431(2)"`` -> 5.431; a ValueError for what is no finite number."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        fraction = re.fullmatch(r"([+-]?\d{1,3})/(\d{1,3})", text.strip())
        if fraction and int(fraction[2]):
            return int(fraction[1]) / int(fraction[2])
        raise ValueError(f"{what} is {text[:40]!r}, which is not a finite number. Correct the file.")
    value = float(text.strip().partition("(")[0])
    if not np.isfinite(value):
        raise ValueError(f"{what} is {text[:40]!r}, which is not a finite number. Correct the file.")
    return value


def _structure(names: _Names) -> CifStructure:
    where = names.where
    cell = []
    for name in _CELL:
        value = names.number(f"cell_{name}")
        if value is None and name.startswith("length"):
            raise ValueError(f"{where} has atoms but no _cell_{name}. Give a CIF file with all six cell parameters.")
        cell.append(90.0 if value is None else value)
    number = names.number(*_INT_TABLES)
    if number is not None and not (number == int(number) and 1 <= number <= 230):
        raise ValueError(f"{where}: the space group number is {number:g}; it must be 1 to 230. Correct the file.")
    titles = [names.get(name) for name in (*_TITLES, "chemical_formula_sum", "chemical_formula_structural")]
    found = CifStructure(
        where=where,
        block=names.block,
        cell=tuple(cell),
        sites=[],
        operations=[text for text in names.column(*_OPERATIONS) if text],
        hall=names.get(*_HALL),
        symbol=names.get(*_SYMBOL),
        number=None if number is None else int(number),
        formula=names.get("chemical_formula_sum"),
        formula_units=names.number("cell_formula_units_z") if names.get("cell_formula_units_z") else None,
        titles=[title for title in (*titles, names.block) if title],
    )
    if any("fract" in tag.lower() or "cartn" in tag.lower() for tag in names.twice):
        raise ValueError(f"{where} lists atoms in two loops. Put them into one, or each structure into its own block.")
    if names.twice:
        found.notes.append(f"{shortened(names.twice)} occur twice; the first is used")
    _read_unusual_symmetry(names, found)
    found.sites = _sites(names, found)
    return found


def _read_unusual_symmetry(names: _Names, found: CifStructure) -> None:
    """Magnetic and modulated structures: what of them is the ordinary crystal."""
    magnetic = [name for name in (*names.single, *names.columns) if name.startswith("space_group_magn")]
    magnetic += [name for name in names.columns if name.startswith("space_group_symop_magn")]
    modulated = any(name.startswith(_MODULATED) for name in (*names.single, *names.columns))
    if modulated and not found.operations:
        raise ValueError(
            f"{found.where} describes a modulated crystal in superspace. Give a CIF file of its average structure, or "
            "of a supercell, with ordinary symmetry operations (_space_group_symop_operation_xyz)."
        )
    if modulated:
        found.notes.append("a modulated crystal: only its average structure is used")
    if not magnetic or found.operations:
        return
    operations = names.column("space_group_symop_magn_operation_xyz", "space_group_symop_magn_xyz")
    centring = names.column("space_group_symop_magn_centering_xyz") or ["x,y,z,+1"]
    if not any(operations):
        if found.symbol or found.hall:
            found.notes.append("a magnetic structure: only the nuclear structure is used, not the moments")
            return
        raise ValueError(
            f"{found.where} is a magnetic structure without symmetry operations. Give a CIF file of the nuclear "
            "structure, or one that lists _space_group_symop_magn_operation.xyz."
        )
    found.magnetic = True
    found.notes.append(
        "a magnetic structure: only the nuclear structure is used (its operations without time reversal), not "
        "the moments"
    )
    # ops with and without time reversal alike: nuclei do not feel it
    found.operations = [_without_time(text) for text in operations if text]
    found.operations += [_without_time(text) for text in centring if text]


def _without_time(text: str) -> str:
    return re.sub(r",\s*[+-]?1\s*$", "", text)


def _sites(names: _Names, found: CifStructure) -> list[Site]:
    """Atom sites with numbers for coordinates, dummies and sites without coordinates left out."""
    where = found.where
    fractional = bool(names.column("atom_site_fract_x"))
    kind = "fract" if fractional else "cartn"
    columns = [names.column(f"atom_site_{kind}_{axis}") for axis in "xyz"]
    n = len(columns[0])
    if n > MAX_SITES:
        raise ValueError(f"{where} lists {n} atom sites; at most {MAX_SITES} are read. Give one unit cell.")
    if any(len(column) != n for column in columns):
        raise ValueError(f"{where}: _atom_site_{kind}_x, _y and _z differ in length. Correct the file.")
    if names.dotted and len(set(names.column("atom_site_pdbx_pdb_model_num"))) > 1:
        raise ValueError(f"{where} is an mmCIF file with several models. Give a CIF file of one crystal structure.")

    def optional(*tags):
        column = names.column(*tags)
        return column if len(column) == n else [None] * n

    labels = optional("atom_site_label", "atom_site_label_atom_id", "atom_site_auth_atom_id", "atom_site_id")
    types = optional("atom_site_type_symbol")
    occupancies = optional("atom_site_occupancy")
    flags = optional("atom_site_calc_flag")
    multiplicities = optional("atom_site_symmetry_multiplicity", "atom_site_site_symmetry_multiplicity")
    sites, without = [], []
    for i in range(n):
        label = labels[i] or types[i] or ""
        what = f"{where}: atom {label or i + 1!r}"
        if not label:
            raise ValueError(f"{what} has neither a label nor a type. Give its element as _atom_site_type_symbol.")
        if flags[i] == "dum" or any(column[i] is None for column in columns):
            without.append(label)
            continue
        xyz = tuple(to_number(column[i], f"{what}: its coordinate") for column in columns)
        occupancy = 1.0 if occupancies[i] is None else to_number(occupancies[i], f"{what}: its occupancy")
        multiplicity = multiplicities[i] if (multiplicities[i] or "").isdigit() else None
        multiplicity = int(multiplicity[:6]) if multiplicity else None
        sites.append(Site(label, types[i], xyz, _occupancy(occupancy, what), multiplicity))
    if without:
        found.notes.append(f"sites without coordinates are ignored: {shortened(without)}")
    if not fractional:
        sites = _from_cartesian(sites, names, found)
    for site in sites:
        if max(map(abs, site.xyz)) > 100:
            raise ValueError(
                f"{where}: atom {site.label!r} is at {site.xyz}: these are not fractional coordinates. Correct it."
            )
    return sites


def _occupancy(value: float, what: str) -> float:
    if not -1e-9 <= value <= 1.05:
        raise ValueError(f"{what} has an occupancy of {value:g}; it must be between 0 and 1. Correct the file.")
    return min(max(value, 0.0), 1.0)


def _from_cartesian(sites: list[Site], names: _Names, found: CifStructure) -> list[Site]:
    """Fractions of the cell from Cartesian coordinates in Angstrom, as mmCIF files have them."""
    import gemmi

    from pyxem_dl.crystals.checks import check_cell

    if not names.dotted:
        raise ValueError(
            f"{found.where} has only Cartesian coordinates, in an unknown frame. Give fractional coordinates "
            "(_atom_site_fract_x, _y, _z)."
        )
    check_cell(found.cell, found.where)
    cell = gemmi.UnitCell(*found.cell)
    found.notes.append("an mmCIF file with Cartesian coordinates: x is assumed along a, z along c*")
    return [
        Site(s.label, s.type_symbol, tuple(cell.fractionalize(gemmi.Position(*s.xyz)).tolist()), s.occupancy)
        for s in sites
    ]


def shortened(names, n: int = 6) -> str:
    """Join the first few of many names, for a message."""
    names = list(dict.fromkeys(map(str, names)))
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")
