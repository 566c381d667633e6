"""Files of crystal maps, from whatever program, checked before orix reads them: a fault is said with its line.

Text files (``.ang``, ``.ctf``) are read leniently where there is one meaning (line ends, encodings, decimal commas),
and refused with file, line and what to do where there is none. Of an HDF5 file nothing is followed that leads out of
it.
"""

from __future__ import annotations

import math
import re
import reprlib
import tempfile
from pathlib import Path

import numpy as np

from pyxem_dl.messages import warn
from pyxem_dl.symmetry import laue_group

SUFFIXES = (".ang", ".ctf", ".h5", ".hdf5")
# Bytes of a text file, and of what an HDF5 file unpacks to; entries of an HDF5 file
_LARGEST_TEXT, _LARGEST_HDF5, _MOST_ENTRIES = 4 * 2**30, 64 * 2**30, 10_000
_LONGEST_HEADER = 1000
# EDAX writes 4 pi for angles that it does not know; no program writes more
_LARGEST_ANGLE = {".ang": 4 * math.pi + 0.01, ".ctf": 720.0}
_COLUMNS = {".ang": "phi1, Phi, phi2, x, y, image quality, confidence index, phase",
            ".ctf": "Phase, X, Y, Bands, Error, Euler1, Euler2, Euler3, MAD, BC, BS"}  # fmt: skip
# Where angles, coordinates and the phase stand
_ANGLES = {".ang": (0, 1, 2), ".ctf": (5, 6, 7)}
_PLACES = {".ang": (3, 4), ".ctf": (1, 2)}
_PHASE = {".ang": 7, ".ctf": 0}


def read_map(path):
    """Read a crystal map.

    Parameters
    ----------
    path : str or pathlib.Path
        ``.ang``, ``.ctf`` or ``.h5``.

    Returns
    -------
    orix.crystal_map.CrystalMap
        As orix reads it.  Positions whose angles are not finite are not indexed (``phase_id`` -1).

    Raises
    ------
    FileNotFoundError, ValueError
        For a file that is not there, damaged, or hostile; with the line where there is one, and what to do.

    Warns
    -----
    UserWarning
        If angles are not finite; says of how many positions.
    """
    if not isinstance(path, (str, Path)):
        raise TypeError(f"The path of a label file must be a str or Path, not {type(path).__name__}.")
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r} with labels.")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"Labels are read from .ang, .ctf and .h5 files, not from {path.name!r}.")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty. Export the map again.")
    xmap = _read_text(path) if path.suffix.lower() in (".ang", ".ctf") else _read_hdf5(path)
    without_unknown_rotations(xmap, str(path))
    return xmap


def without_unknown_rotations(xmap, where: str) -> None:
    """Let positions without finite angles be not indexed, and warn of them.

    Parameters
    ----------
    xmap : orix.crystal_map.CrystalMap
        Is changed.
    where : str
        The file, or what else the map is, for the warning.
    """
    data = xmap._rotations.data
    unknown = ~np.isfinite(data).all(-1) | (np.abs(data).sum(-1) == 0)
    if not unknown.any():
        return
    data[unknown] = (1, 0, 0, 0)
    first = unknown if unknown.ndim == 1 else unknown[:, 0]
    set_not_indexed(xmap, first)
    warn(
        f"{where}: {int(first.sum())} of {len(first)} positions have NaN or infinite angles and count as not indexed."
    )


def set_not_indexed(xmap, positions: np.ndarray) -> None:
    """Let positions (n,) of a map be not indexed."""
    xmap._phase_id[positions] = -1
    if positions.any() and -1 not in xmap.phases.ids:
        xmap.phases.add_not_indexed()


# ---------------------------------------------------------------- text
def _read_text(path: Path):
    """Read an .ang or .ctf file: checked, and written anew as orix reads it."""
    kind = path.suffix.lower()
    text = _decoded(path)
    lines = re.split(r"\r\n|\r|\n", text)
    n_header = _check_header(path, kind, lines)
    numbers = [i for i in range(n_header, len(lines)) if lines[i].strip() and not lines[i].startswith("#")]
    table = _table(path, kind, lines, numbers)
    unknown = _check_table(path, kind, numbers, table)
    _check_grid(path, kind, lines[:n_header], numbers, table)
    phases = _check_phases(path, kind, lines[:n_header], numbers, table)
    order = _row_by_row(path, kind, lines[:n_header], table)
    sorted_before = order is None
    if not sorted_before:
        table, unknown, phases = table[order], unknown[order], phases[order]
    table[np.ix_(unknown, _ANGLES[kind])] = 0
    if phases.any() and not phases.all():
        # orix would take them for a phase of their own
        table[phases, _PHASE[kind]] = table[~phases, _PHASE[kind]][0]
    # a large map is not written again where orix reads it as it is
    plain = text.isascii() and "," not in text and not re.search(r"\r(?!\n)", text)
    plain &= all(line.strip() for line in lines[:n_header]) if kind == ".ang" else (
        lines[n_header - 1].startswith("Phase\tX\tY")
    )
    as_it_is = sorted_before and plain and len(text) == path.stat().st_size and not unknown.any() and not phases.any()
    xmap = _by_orix(path, kind, None if as_it_is else lines[:n_header], table)
    if unknown.any():
        # what orix would make of NaN; told by `without_unknown_rotations`
        xmap._rotations.data[unknown] = np.nan
    set_not_indexed(xmap, phases)
    return xmap


def _decoded(path: Path) -> str:
    """Text of a file, in whatever encoding programs write."""
    size = path.stat().st_size
    if size > _LARGEST_TEXT:
        raise ValueError(f"{path} has {size / 2**30:.3g} GB; at most {_LARGEST_TEXT / 2**30:.3g} GB are read.")
    content = path.read_bytes()
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            return content.decode("utf-16")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is damaged: it is not text ({error.reason}).") from error
    if b"\0" in content:
        line = content[: content.index(b"\0")].count(b"\n") + 1
        raise ValueError(f"{path}, line {line}: this is binary data, not text. Export the map again, as text.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")  # names with µ or ü


def _wrong(path: Path, index: int | None, text: str) -> ValueError:
    """Error of a line, which is counted from 0."""
    return ValueError(f"{path}{f', line {index + 1}' if index is not None else ''}: {text}")


def _check_header(path: Path, kind: str, lines: list[str]) -> int:
    """Return the number of lines of the header, whose entries make sense."""
    if kind == ".ang":
        end = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    else:
        end = next((i for i, line in enumerate(lines) if re.match(r"Phase\s+X\s+Y\b", line)), None)
        if end is None:
            raise _wrong(path, None, "no line 'Phase X Y ...' names the columns: this is not a .ctf file.")
        end += 1
    if end > _LONGEST_HEADER:
        raise _wrong(path, _LONGEST_HEADER, f"the header has more than {_LONGEST_HEADER} lines.")
    header = lines[:end]
    check = _check_ang_header if kind == ".ang" else _check_ctf_header
    check(path, header)
    return end


def _check_ang_header(path: Path, header: list[str]) -> None:
    if not any("MaterialName" in line for line in header):
        raise _wrong(path, None, "no phase is declared: the header lacks '# MaterialName' and '# Symmetry'. Export "
                     "the map again with its header.")  # fmt: skip
    for i, line in enumerate(header):
        words = line.lstrip("# ").split()
        if len(words) < 2:
            continue
        if words[0].startswith("GRID") and "hex" in words[1].lower():
            raise _wrong(path, i, "the positions form a hexagonal grid, but a scan has a square one: convert "
                         "the map to a square grid (in OIM or MTEX), and save it again.")  # fmt: skip
        if words[0] in ("XSTEP:", "YSTEP:", "NCOLS_ODD:", "NCOLS_EVEN:", "NROWS:"):
            _positive(path, i, words[0].rstrip(":"), words[1])
        if words[0] == "LatticeConstants":
            _check_cell(path, i, words[1:])
        if words[0] == "Phase" and not words[1].lstrip("-").isdigit():
            raise _wrong(path, i, f"the number of a phase is not a whole number: {words[1][:40]!r}.")
        if words[0] == "Symmetry" and not _is_point_group(words[-1]):
            raise _wrong(path, i, f"the symmetry {words[-1][:20]!r} is not a known point group.")


def _is_point_group(name: str) -> bool:
    try:
        laue_group(name)
    except ValueError:
        return False
    return True


def _check_ctf_header(path: Path, header: list[str]) -> None:
    at = next((i for i, line in enumerate(header) if line.startswith("Phases")), None)
    words = header[at].split() if at is not None else []
    if len(words) < 2 or not words[1].isdigit() or not 1 <= int(words[1]) <= 1000:
        raise _wrong(path, at, "no phases are declared: the header needs a line 'Phases 1' (their number) and one for "
                     "each. Export the map again with its header.")  # fmt: skip
    for i in range(at + 1, at + 1 + int(words[1])):
        parts = header[i].split("\t") if i < len(header) - 1 else []
        if len(parts) < 5:
            raise _wrong(path, i, f"a phase is missing: {words[1]} are declared, each with cell, angles, name, Laue "
                         "group and space group, separated by tabs.")  # fmt: skip
        _check_cell(path, i, [word.replace(",", ".") for word in ";".join(parts[:2]).split(";")])
        for name, word, high in (("Laue group", parts[3], 11), ("space group", parts[4], 230)):
            low = 1 if name == "Laue group" else 0
            if not word.strip().isdigit() or not low <= int(word) <= high:
                raise _wrong(path, i, f"the {name} must be a number from {low} to {high}, not {word[:20]!r}.")
    for i, line in enumerate(header):
        words = line.split()
        if len(words) > 1 and words[0] in ("XCells", "YCells", "XStep", "YStep"):
            _positive(path, i, words[0], words[1])
        if len(words) > 1 and words[0] == "JobMode" and "hex" in words[1].lower():
            raise _wrong(path, i, "the positions form a hexagonal grid: convert the map to a square one.")


def _positive(path: Path, i: int, name: str, word: str) -> float:
    try:
        value = float(word.replace(",", "."))
    except ValueError:
        value = math.nan
    # one row or column has no step
    low = value >= 0 if "step" in name.lower() or "EVEN" in name else value > 0
    if not (math.isfinite(value) and low and value < 1e9):
        raise _wrong(path, i, f"{name} is {word[:20]!r}: it must be positive, and below 1e9.")
    return value


def _check_cell(path: Path, i: int, words: list[str]) -> None:
    """Make sure of a, b, c, alpha, beta, gamma."""
    try:
        cell = [float(word) for word in words]
    except ValueError:
        cell = []
    edges, angles = cell[:3], cell[3:]
    if len(cell) != 6 or not all(0 <= x < 1e4 for x in edges) or not all(0 <= x < 180 for x in angles):
        raise _wrong(path, i, f"the cell must be six numbers (Å, degrees), not {' '.join(words)[:60]!r}.")


def _table(path: Path, kind: str, lines: list[str], numbers: list[int]) -> np.ndarray:
    """Numbers of all lines; an error names the first line that has none."""
    if not numbers:
        raise _wrong(path, None, "no positions follow the header: the file is incomplete. Export the map again.")
    rows = [lines[i] for i in numbers]
    if any("," in row for row in rows):
        rows = [re.sub(r"(?<=\d),(?=\d)", ".", row) for row in rows]
    n = len(rows[0].split())
    if n < 8 or kind == ".ctf" and n < 11:
        raise _wrong(path, numbers[0], f"there are {n} columns, but these are needed: {_COLUMNS[kind]}.")
    try:
        # 20 times as fast as float() of each word
        return np.loadtxt(rows, ndmin=2, comments=None)
    except ValueError:
        for i, row in zip(numbers, rows, strict=True):
            words = row.split()
            if len(words) != n:
                last = " The file is incomplete." if i == numbers[-1] else ""
                raise _wrong(path, i, f"there are {len(words)} columns, but {n} in the first line.{last}") from None
            for column, word in enumerate(words):
                if not _is_number(word):
                    raise _wrong(
                        path, i, f"{word[:40]!r} in column {column + 1} is not a number. Columns are {_COLUMNS[kind]}."
                    ) from None
        raise


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return "_" not in word


def _check_table(path: Path, kind: str, numbers, table) -> np.ndarray:
    """Positions whose angles are not finite; an error for angles and coordinates that cannot be."""
    angles, places = table[:, _ANGLES[kind]], table[:, _PLACES[kind]]
    bad = ~np.isfinite(places).all(1)
    if bad.any():
        at = int(bad.argmax())
        raise _wrong(path, numbers[at], f"the coordinates {places[at].tolist()} are not a position of the scan.")
    unknown = ~np.isfinite(angles).all(1)
    far = (np.abs(np.where(np.isfinite(angles), angles, 0)) > _LARGEST_ANGLE[kind]).any(1)
    if far.any():
        at = int(far.argmax())
        unit = "radians (these seem to be degrees)" if kind == ".ang" else "degrees"
        raise _wrong(path, numbers[at], f"the angles {angles[at].tolist()} are too large: {kind} files are in {unit}.")
    phase = table[:, _PHASE[kind]]
    odd = ~np.isfinite(phase) | (phase != np.round(phase)) | (np.abs(phase) > 1e6)
    if odd.any():
        at = int(odd.argmax())
        raise _wrong(path, numbers[at], f"the phase is {phase[at]:g}; it must be a whole number.")
    return unknown


def _declared(header: list[str], kind: str) -> tuple[float | None, float | None, list[float | None]]:
    """Columns, rows, and steps along x and y of a header, None where it does not say."""
    names = {".ang": ("NCOLS_ODD:", "NROWS:", "XSTEP:", "YSTEP:"), ".ctf": ("XCells", "YCells", "XStep", "YStep")}[kind]
    found = dict.fromkeys(names)
    for line in header:
        words = line.lstrip("# ").split()
        if len(words) > 1 and words[0] in found:
            found[words[0]] = float(words[1].replace(",", "."))
    columns, rows, *steps = found.values()
    return columns, rows, steps


def _check_grid(path: Path, kind: str, header, numbers, table) -> None:
    """Make sure that the positions fill a rectangle, each once."""
    x, y = table[:, _PLACES[kind][0]], table[:, _PLACES[kind][1]]
    columns, rows, steps = _declared(header, kind)
    if columns and rows and columns * rows != len(x):
        raise _wrong(path, numbers[-1], f"{columns:g} x {rows:g} positions are declared, but there are {len(x)}. The "
                     "file is incomplete, or its header belongs to another map: export it again.")  # fmt: skip
    for name, values, step in zip("xy", (x, y), steps, strict=True):
        distinct = np.unique(np.round(values, 6))
        pitch = float(np.median(np.diff(distinct))) if len(distinct) > 1 else 0.0
        if step and pitch and not 0.5 < step / pitch < 2:
            raise _wrong(path, None, f"the step along {name} is {step:g} in the header, but {pitch:g} between the "
                         "positions: one of them is wrong.")  # fmt: skip
    places = np.round(np.column_stack([x, y]), 6)
    _, first, counts = np.unique(places, axis=0, return_index=True, return_counts=True)
    if len(first) < len(x) and not (columns and rows):
        twice = places[first[counts.argmax()]]
        again = np.flatnonzero((places == twice).all(1))[:2]
        raise _wrong(path, numbers[again[1]], f"the position x = {twice[0]:g}, y = {twice[1]:g} occurs twice, first in "
                     f"line {numbers[again[0]] + 1}.")  # fmt: skip
    n_x, n_y = (len(np.unique(np.round(values, 6))) for values in (x, y))
    if n_x * n_y != len(x) and not (columns and rows):
        raise _wrong(path, None, f"{len(x)} positions with {n_x} different x and {n_y} different y do not form a "
                     "rectangle: the map is incomplete, hexagonal or cropped. Export the whole map.")  # fmt: skip


def _row_by_row(path: Path, kind: str, header, table) -> np.ndarray | None:
    """Order in which the positions go along x first, as orix takes them; None where they do.

    Raises
    ------
    ValueError
        If some position is not where the others make a grid.
    """
    columns, rows, _ = _declared(header, kind)
    places = []
    for column, n in zip(_PLACES[kind], (columns, rows), strict=True):
        values = table[:, column] - table[:, column].min()
        distinct = len(np.unique(np.round(values, 6)))
        n = int(n) if n and columns and rows else distinct
        with np.errstate(over="ignore", invalid="ignore"):
            places.append(np.round(values * (n - 1) / max(values.max(), 1e-12)) if n > 1 else np.zeros(len(values)))
    column, row = places
    order = np.lexsort((column, row))
    along = (np.diff(row) > 0) | ((np.diff(row) == 0) & (np.diff(column) > 0))
    if along.all():
        return None
    _, counts = np.unique(np.column_stack([column, row]), axis=0, return_counts=True)
    if counts.max() > 1:
        raise _wrong(path, None, f"the positions make no grid of {len(np.unique(column))} columns and "
                     f"{len(np.unique(row))} rows: some are where others are. Write the map again.")  # fmt: skip
    return order


def _check_phases(path: Path, kind: str, header, numbers, table) -> np.ndarray:
    """Which positions have no phase, by the file's own rule; an error for phases that the header does not declare."""
    phase = table[:, _PHASE[kind]].astype(int)
    if kind == ".ang":
        names = [line for line in header if re.match(r"#\s*MaterialName\b", line)]
        ids = [int(line.split()[-1]) for line in header if re.match(r"#\s*Phase\s+-?\d+\s*$", line)]
        ids = ids if len(ids) == len(names) else list(range(len(names)))
        if len(set(ids)) != len(ids):
            raise _wrong(path, None, f"two phases have the same number in the header: {ids}.")
        if len(names) == 1 and len(np.unique(phase[phase >= 0])) <= 1:
            return phase < 0  # the only one, whatever its number
        none = (phase < 0) | ((phase == 0) & (0 not in ids))
    else:
        n = int(next(line for line in header if line.startswith("Phases")).split()[1])
        ids, none = list(range(1, n + 1)), phase <= 0
    strange = ~none & ~np.isin(phase, ids)
    if strange.any():
        at = int(strange.argmax())
        raise _wrong(path, numbers[at], f"the phase {phase[at]} is not declared; the header has {ids}.")
    return none


def _by_orix(path: Path, kind: str, header: list[str] | None, table: np.ndarray):
    """Let orix read what was checked: the file, or what a header and a table make anew."""
    if header is None:
        return _loaded(path, path)
    with tempfile.TemporaryDirectory() as folder:
        clean = Path(folder) / f"map{kind}"
        with open(clean, "w", encoding="locale", errors="replace", newline="\n") as file:
            heading = [re.sub(r"^Phase\s+X\s+Y\b", "Phase\tX\tY", line) for line in header if line.strip()]
            file.write("\n".join(heading) + "\n")
            np.savetxt(file, table, fmt="%.9g", delimiter="\t" if kind == ".ctf" else "  ")
        return _loaded(clean, path)


def _loaded(file: Path, path: Path):
    """Let orix read a file; errors name the one that the user gave."""
    from orix import io

    try:
        return io.load(str(file))
    except Exception as error:  # orix raises what its parsing runs into
        raise _wrong(path, None, f"orix cannot read it ({type(error).__name__}: {error}).") from error


# ---------------------------------------------------------------- HDF5
def _read_hdf5(path: Path):
    import h5py
    from orix import io

    try:
        with h5py.File(path, "r") as file:
            _check_hdf5(path, file)
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(f"{path} is damaged, or not an HDF5 file: {error}. Export the map again.") from error
    try:
        xmap = io.load(str(path))
    except Exception as error:  # orix raises what its reading runs into
        raise ValueError(
            f"{path} holds no crystal map that orix can read ({type(error).__name__}: {error}). Save it with orix, or "
            "as .ang or .ctf."
        ) from error
    if not hasattr(xmap, "phase_id") or not len(xmap._phase_id):
        raise ValueError(f"{path} holds no crystal map with positions.")
    return xmap


def _check_hdf5(path: Path, file) -> None:
    """Make sure that a file holds no more than it seems to, and nothing that leads out of it."""
    import h5py

    seen, total, groups = 0, 0, [file]
    limit = min(_LARGEST_HDF5, 2000 * path.stat().st_size + 2**20)  # its filters pack a thousandfold at most
    while groups:
        group = groups.pop()
        for name in group:
            seen += 1
            link = group.get(name, getlink=True)
            if seen > _MOST_ENTRIES or not isinstance(link, h5py.HardLink):
                what = f"more than {_MOST_ENTRIES} entries" if seen > _MOST_ENTRIES else f"a link, {name[:80]!r}"
                raise ValueError(f"{path} holds {what}, which are not followed: save the map with orix.")
            entry = group[name]
            if isinstance(entry, h5py.Group):
                groups.append(entry)
                continue
            if not isinstance(entry, h5py.Dataset):
                continue
            total += entry.size * entry.dtype.itemsize if entry.size else 0
            if entry.is_virtual or entry.external:
                raise ValueError(f"{path}: {entry.name[:80]!r} is stored in another file, which is not read.")
            if total > limit:
                raise ValueError(
                    f"{path}: {entry.name[:80]!r} of the shape {entry.shape} would take {total / 2**30:.3g} GB, but "
                    f"the file has {path.stat().st_size / 2**20:.3g} MB: it is damaged."
                )
            if entry.name.endswith("/lattice/abcABG"):
                _check_cell(path, None, [repr(float(x)) for x in np.ravel(entry[()])])
    _check_phase_numbers(path, file)
    _check_lengths(path, file)


def _check_lengths(path: Path, file) -> None:
    """Make sure that a map saved by orix has one entry for each position, and places for them."""
    data = file.get("crystal_map/data")
    phase_id = data.get("phase_id") if hasattr(data, "get") else None
    if phase_id is None:
        return  # another program's, or damaged: orix says so
    n = len(phase_id) if phase_id.ndim else 1
    for name, entry in data.items():
        if entry.ndim and len(entry) != n:
            raise ValueError(
                f"{path}: {name!r} has {len(entry)} entries, and the map {n} positions: it is damaged. Save it again."
            )
        if name in ("x", "y") and entry.dtype.kind == "f" and not np.isfinite(entry[()]).all():
            raise ValueError(f"{path}: {name!r} holds coordinates that are not finite: it is damaged. Save it again.")


def _check_phase_numbers(path: Path, file) -> None:
    """Make sure that the phases of a map saved by orix are declared: orix would add empty ones."""
    phase_id, phases = (file.get(f"crystal_map/{name}") for name in ("data/phase_id", "header/phases"))
    if phase_id is None or phases is None:
        return  # another program's, or damaged: orix says so
    known = {int(name) for name in phases if name.lstrip("-").isdigit()}
    strange = sorted(set(np.unique(phase_id[()]).tolist()) - known - {-1})
    if strange:
        raise ValueError(f"{path}: the phases {reprlib.repr(strange)} are not declared; there are {sorted(known)}.")
