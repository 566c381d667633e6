"""Crystal maps as files: orix' .h5, and the .ang and .ctf of other programs; what these cannot hold is said."""

from __future__ import annotations

import io
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyxem_dl.files import check_target, claimed, replacing
from pyxem_dl.frames import other_crystal_quaternion
from pyxem_dl.messages import warn
from pyxem_dl.records import comment_lines, provenance, with_record, write_attribute
from pyxem_dl.scans import Target

if TYPE_CHECKING:
    from orix.crystal_map import CrystalMap

MAP_SUFFIXES = (".h5", ".hdf5", ".ang", ".ctf")
_TEXT = (".ang", ".ctf")
# What an orix file takes for a position: coordinates, ids, phase; three angles and a score for each candidate
_BYTES, _CANDIDATE_BYTES = 100, 40
_TEXT_BYTES = 110
_MICROMETRES = {
    "m": 1e6, "cm": 1e4, "mm": 1e3, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0,
    "nm": 1e-3, "nanometer": 1e-3, "nanometre": 1e-3, "A": 1e-4, "pm": 1e-6, "fm": 1e-9,
}  # fmt: skip
_LAUE = {
    "-1": 1, "2/m": 2, "mmm": 3, "4/m": 4, "4/mmm": 5, "-3": 6, "-3m": 7, "6/m": 8, "6/mmm": 9, "m-3": 10, "m-3m": 11,
}  # fmt: skip
#: What a .ctf file says of the axes of a crystal
CRYSTAL_X = "pyxem_dl: x along {} of the crystal"
_WRITTEN = {".ang": {"scores", "grain_id"}, ".ctf": {"scores", "reliability", "uncertainty", "spread", "grain_id"}}


def copied_map(xmap, is_in_data=None):
    """Copy a crystal map with all that is in it.

    Parameters
    ----------
    xmap : orix.crystal_map.CrystalMap
        The map.
    is_in_data : array of bool, shape (n,), optional
        Which of all positions of its scan are in the copy's data; by default those that are in the map's.

    Notes
    -----
    orix' own ``deepcopy`` fails where a part of the map was looked at before: parts share one dictionary of properties,
    which remembers the mask of the last.
    """
    import copy

    xmap._prop.is_in_data = np.ones(len(xmap._id), dtype=bool)
    copied = copy.deepcopy(xmap)
    if is_in_data is not None:
        copied.is_in_data = np.array(is_in_data, dtype=bool)
        copied._shape = None  # orix computes it again
    return copied


def bounding_box(xmap) -> np.ndarray:
    """Which of all positions of a map's scan (n,) lie in the smallest rectangle that holds those in its data."""
    box = np.ones(xmap.is_in_data.size, dtype=bool)
    for c in (xmap._x, xmap._y):
        if c is not None and len(c):
            inside = c[xmap.is_in_data]
            box &= (c >= inside.min()) & (c <= inside.max())
    return box


def map_of_scan(xmap, shape: tuple[int, ...]):
    """Return the map of a scan of that shape (in data order): where both were cropped alike, of the crop alone.

    Parameters
    ----------
    xmap : orix.crystal_map.CrystalMap
        The map; orix keeps the whole scan behind a part like ``xmap[:4, :5]``.
    shape : tuple of int
        Of the scan. If it is neither that of the whole map nor that of its part, the map is returned as it is.
    """
    long = [tuple(n for n in each if n > 1) for each in (shape, xmap._original_shape, xmap.shape)]
    if not xmap.size or long[0] == long[1] or long[0] != long[2]:
        return xmap
    from orix.crystal_map import CrystalMap

    box = bounding_box(xmap)
    x, y = (None if c is None or not len(c) else c[box] for c in (xmap._x, xmap._y))
    found = CrystalMap(
        xmap._rotations[box], phase_id=xmap._phase_id[box], x=x, y=y, phase_list=xmap.phases.deepcopy(),
        prop={name: np.asarray(values)[box] for name, values in dict.items(xmap.prop)},
        scan_unit=xmap.scan_unit, is_in_data=xmap.is_in_data[box],
    )  # fmt: skip
    return with_record(found, provenance(xmap))


def save_map(path: str | Path, xmap: CrystalMap, *, overwrite: bool = False, crystal_x: str | None = None) -> Path:
    """Save a crystal map, without asking; a call that is killed leaves the file that was there, or none.

    Parameters
    ----------
    path : str or pathlib.Path
        Ending in ``.h5`` or ``.hdf5`` (everything, as orix has it), in ``.ang`` (as orix writes it for EDAX and MTEX:
        the best orientations, ``scores`` as confidence index), or in ``.ctf`` (Channel text file of Oxford and MTEX:
        the best orientations; ``BC`` is 255 times the score, ``BS`` 255 times the reliability, ``MAD`` the uncertainty
        in degrees).  In ``.ang`` and ``.ctf`` steps are in micrometres.  The ``grain_id`` of :func:`pyxem_dl.grains` is
        a further column of ``.ang``, and ``Bands`` of ``.ctf``, whose readers know no further columns.
    xmap : orix.crystal_map.CrystalMap
        The map.
    overwrite : bool
        Replace a file that is there.
    crystal_x : {"a", "a*"}, optional
        What the x axis of the crystals lies along in a ``.ctf`` file: a*, with z along c, as Oxford and MTEX have it
        (default), or a, with z along c*, as in orix, which reads such files without a turn.  In trigonal and hexagonal
        crystals the two are 30 degrees apart.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    FileExistsError, OSError
        If the file is there already, or cannot be written.
    ValueError
        For a map that the format cannot hold.

    Warns
    -----
    UserWarning
        Of what the format does not keep, in one line.
    """
    path = check_map_path(
        path, overwrite=overwrite, n_positions=int(xmap.is_in_data.sum()), n_best=xmap.rotations_per_point,
        crystal_x=crystal_x,
    )  # fmt: skip
    with claimed(path):
        write_map(path, xmap, crystal_x=crystal_x)
    return path


def check_map_path(
    path, *, overwrite: bool = False, n_positions: int | None = None, n_best: int = 1, crystal_x: str | None = None
) -> Path:
    """Path that :func:`save_map` can write to, or an error: better before than after the work.

    Parameters
    ----------
    path, overwrite, crystal_x
        As for :func:`save_map`.
    n_positions, n_best : int, optional
        Of the map, of what is in its data: the format must be able to hold it, and the disk must have room.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in MAP_SUFFIXES:
        raise ValueError(
            f"A crystal map can be saved as {', '.join(MAP_SUFFIXES)}, not as {path.name!r}. (A call with output= also "
            "takes .zarr.)"
        )
    if crystal_x not in (None, "a", "a*") or (crystal_x and suffix != ".ctf"):
        raise ValueError(f"crystal_x must be 'a' or 'a*', for .ctf files only; not {crystal_x!r} for {path.name!r}.")
    if n_positions in (0, 1) and suffix in _TEXT:
        raise ValueError(
            f"A single pattern cannot be saved as {suffix}: readers need at least two positions. Save it as .h5."
        )
    needed = (n_positions or 0) * (_TEXT_BYTES if suffix in _TEXT else _BYTES + _CANDIDATE_BYTES * n_best)
    return check_target(path, overwrite=overwrite, needed=needed)


def map_target(output: str | Path | None, overwrite: bool) -> Target | None:
    """Read where a verb's map goes; an error for a name that cannot be one, before the scan is looked at."""
    return Target.of(output, write_map, check_map_path, overwrite)


def check_map_target(target: Target | None, n_positions: int, n_best: int) -> None:
    """Make sure that so many positions and orientations fit into a target."""
    if target is not None and not target.is_store:
        check_map_path(target.path, overwrite=True, n_positions=n_positions, n_best=n_best)


def write_map(path: Path, xmap, *, crystal_x: str | None = None) -> None:
    """Write a map to a path that is checked and claimed; see :func:`save_map`."""
    from orix.io.plugins import orix_hdf5

    suffix = path.suffix.lower()
    if suffix in _TEXT:
        lost = _lost(xmap, suffix, crystal_x)
        if lost:
            warn(f"{path.name} does not keep all of the map: {'; '.join(lost)}. Use .h5 to keep everything.")
    elif xmap.rotations_per_point > 1 and xmap.is_in_data.size == 1:
        warn(
            f"orix will read the candidates of this single pattern in {path.name} as positions: save n_best=1."
        )
    record = provenance(xmap)
    with replacing(path) as new:
        if suffix == ".ang":
            _write_ang(new, _plain_map(xmap), record)
        elif suffix == ".ctf":
            _write_ctf(new, _plain_map(xmap), crystal_x or "a*", record)
        else:
            # in memory first: where a disk is full, the HDF5 library may end the process
            image = io.BytesIO()
            orix_hdf5.file_writer(image, xmap)
            if record:
                write_attribute(image, record)
            new.write_bytes(image.getbuffer())


# ---------------------------------------------------------------- what is lost
def _lost(xmap, suffix: str, crystal_x: str | None) -> list[str]:
    """Sentences on what a text file does not keep of a map."""
    phases = [phase for key, phase in xmap.phases if key >= 0]
    lost = []
    if xmap.rotations_per_point > 1:
        lost.append(f"only the best of {xmap.rotations_per_point} candidates is kept")
    others = sorted(set(xmap.prop) - _WRITTEN[suffix])
    if others:
        lost.append(f"without {', '.join(others)}")
    box = bounding_box(xmap)
    left_out = int((box & ~xmap.is_in_data).sum())
    if not box[0]:
        lost.append("coordinates start at 0")
    if left_out:
        lost.append(f"{left_out} positions that are not in its data count as not indexed")
    if suffix == ".ang" and any(phase.space_group is not None for phase in phases):
        lost.append("only the rotations of the point group are kept, not the space group")
    if any(phase.point_group is None for phase in phases):
        lost.append("a phase without a point group is written as triclinic")
    if any(len(phase.structure) for phase in phases):
        lost.append("atoms of the phases are not kept")
    if suffix == ".ctf" and crystal_x is None and any(_differs(phase) for phase in phases):
        lost.append(
            "x is along a* of the crystals, as in Oxford's files and in MTEX: orix.io.load does not allow for that, "
            "but read_labels does (crystal_x='a' writes the axes of orix)"
        )
    if suffix == ".ctf" and any(p.point_group is not None and p.point_group.laue.name == "m-3" for p in phases):
        lost.append("orix 0.15 does not read .ctf files with a phase of the Laue group m-3; other programs do")
    unit = str(xmap.scan_unit)
    if _to_micrometres(unit) is None:
        lost.append(f"a step of 1 {unit} is written as 1 µm, because the scan has no unit of length")
    return lost


def _differs(phase) -> bool:
    """Whether the axes of Oxford are others than those of orix in a crystal."""
    return abs(other_crystal_quaternion(phase.structure.lattice)[0]) < 1 - 1e-9


def _to_micrometres(unit) -> float | None:
    """Length of a unit in µm; None where it is none."""
    text = str(unit).strip().strip("$").replace("\\", "").replace("{", "").replace("}", "").replace("mathrm", "")
    text = unicodedata.normalize("NFKC", text).replace("μ", "u").replace("mu ", "u").replace(" ", "")
    text = "A" if text in ("Å", "AA") or text.lower().startswith("angstrom") else text
    return _MICROMETRES.get(text, _MICROMETRES.get(text.lower().removesuffix("s")))


# ---------------------------------------------------------------- what is written
def _plain_map(xmap):
    """Map of the smallest rectangle that holds its data, with one orientation each, in µm, with names in ASCII.

    Returns
    -------
    orix.crystal_map.CrystalMap
        Its coordinates begin at 0; properties (n,) of floats without NaN.
    """
    from orix.crystal_map import PhaseList
    from orix.quaternion import Rotation

    box, n = bounding_box(xmap), xmap.is_in_data.size
    phases = {key: phase.deepcopy() for key, phase in xmap.phases if key >= 0}
    for phase in phases.values():
        phase.name = _in_ascii(phase.name)
    factor = _to_micrometres(xmap.scan_unit) or 1.0
    x, y = (
        np.zeros(box.sum()) if c is None else (c[box] - np.min(c[box])) * factor for c in (xmap._x, xmap._y)
    )  # fmt: skip
    # the dictionary as it is: its own way to it leaves out what is not in the data
    first = {name: np.asarray(values).reshape(n, -1)[box, 0] for name, values in dict.items(xmap.prop)}
    if "spread" in first:  # as maps of earlier versions have it
        first.setdefault("uncertainty", first["spread"])
    phase_id = np.where(xmap.is_in_data & np.isin(xmap._phase_id, list(phases)), xmap._phase_id, -1)[box]
    return _map_with_phases(
        PhaseList(phases=list(phases.values()), ids=list(phases)),
        rotations=Rotation(xmap._rotations.data.reshape(n, -1, 4)[box, 0]), phase_id=phase_id, x=x, y=y,
        prop={
            name: np.nan_to_num(first[name].astype(float), posinf=0, neginf=0)
            for name in ("scores", "reliability", "uncertainty") if name in first
        } | ({"grain_id": np.where(phase_id >= 0, first["grain_id"].astype(int), -1)} if "grain_id" in first else {}),
    )  # fmt: skip


def _map_with_phases(phases, **arguments):
    """Make a map that keeps phases that are found nowhere; orix leaves them out."""
    from orix.crystal_map import CrystalMap

    xmap = CrystalMap(**arguments, scan_unit="um")
    phases = phases.deepcopy()
    if -1 in arguments["phase_id"] and -1 not in phases.ids:
        phases.add_not_indexed()
    xmap.phases = phases
    return xmap


def _in_ascii(name: str) -> str:
    """Name without what text files do not hold: "α-Fe₂O₃" is "alpha-Fe2O3"."""
    plain = ""
    for c in unicodedata.normalize("NFKD", str(name)):
        if not c.isascii():
            greek = unicodedata.name(c, "").startswith("GREEK")
            c = unicodedata.name(c).split()[-1].lower() if greek else "" if unicodedata.combining(c) else "_"
        plain += " " if c.isspace() or not c.isprintable() else c
    return plain.strip()


def _grid(xmap) -> tuple[int, int, float, float]:
    """Numbers of rows and columns of a plain map, and their steps (1 where there is one)."""
    x, y = (np.unique(np.round(c, 9)) for c in (xmap._x, xmap._y))
    steps = (float(np.diff(c).min()) if len(c) > 1 else 0.0 for c in (y, x))
    dy, dx = steps
    return len(y), len(x), dy or dx or 1.0, dx or dy or 1.0


def _write_ang(path: Path, xmap, record) -> None:
    """Write an .ang file with orix, its coordinates with as many digits as they have, and where it comes from."""
    from orix.io import save

    rows, columns, dy, dx = _grid(xmap)
    grains = xmap.prop.get("grain_id")
    save(str(path), _in_one_row(xmap), overwrite=True, extra_prop=None if grains is None else "grain_id")
    entries = {
        "XSTEP": f"{dx:.9g}", "YSTEP": f"{dy:.9g}", "NCOLS_ODD": columns, "NCOLS_EVEN": columns, "NROWS": rows,
    }  # fmt: skip
    lines, position = [], 0
    for line in path.read_text(encoding="latin-1").splitlines():
        name = line.removeprefix("# ").partition(":")[0]
        if line.startswith("#"):
            if name == "Column names" and record:
                lines += [f"# {each}" for each in comment_lines(record)]
            line = f"# {name}: {entries[name]}" if name in entries else line
        elif position == xmap.size:
            break
        else:
            fields = line.split()
            fields[3:5] = f"{xmap._x[position]:.9g}", f"{xmap._y[position]:.9g}"
            if grains is not None:  # orix writes it with decimals, and 0 for what is not indexed
                fields[-1] = str(grains[position])
            line, position = "  ".join(fields), position + 1
        lines.append(line)
    path.write_text("\n".join(lines) + "\n", encoding="ascii", newline="\n")


def _in_one_row(xmap):
    """Give a map to orix' writer as one row of at least four positions: it fails for fewer, and rounds coordinates."""
    from orix.quaternion import Rotation

    n, fill = xmap.size, max(0, 4 - xmap.size)
    prop = {name: np.append(xmap.prop[name], np.zeros(fill)) for name in ("scores", "grain_id") if name in xmap.prop}
    return _map_with_phases(
        xmap.phases, rotations=Rotation(np.concatenate([xmap.rotations.data, np.tile([[1.0, 0, 0, 0]], (fill, 1))])),
        phase_id=np.append(xmap.phase_id, np.full(fill, -1)), x=np.arange(n + fill, dtype=float), prop=prop,
    )  # fmt: skip


def _write_ctf(path: Path, xmap, crystal_x: str, record) -> None:
    """Write a Channel text file: tabs, Euler angles after Bunge in degrees, phases from 1, 0 is not indexed."""
    rows, columns, dy, dx = _grid(xmap)
    phases = {key: phase for key, phase in xmap.phases if key >= 0}
    angles, number = np.zeros((xmap.size, 3)), np.zeros(xmap.size)
    for i, (key, phase) in enumerate(phases.items(), start=1):
        here = xmap.phase_id == key
        number[here] = i
        if here.any():
            angles[here] = _euler(xmap.rotations[here], phase, crystal_x)
    indexed = number > 0
    scores, reliability, uncertainty = (
        np.where(indexed, xmap.prop.get(name, 0.0), 0.0) for name in ("scores", "reliability", "uncertainty")
    )
    grains = xmap.prop.get("grain_id", np.zeros(xmap.size))
    table = np.column_stack([
        number, xmap._x, xmap._y, grains, np.where(indexed, 0, 3), angles, uncertainty, _as_byte(scores),
        _as_byte(reliability),
    ])  # fmt: skip
    made_by = " ".join(["pyxem_dl", *(comment_lines(record, 0) if record else ())])
    header = [
        "Channel Text File", f"Prj\t{made_by}", "Author\tpyxem_dl", "JobMode\tGrid",
        f"XCells\t{columns}", f"YCells\t{rows}", f"XStep\t{dx:.9g}", f"YStep\t{dy:.9g}", "AcqE1\t0", "AcqE2\t0",
        "AcqE3\t0",
        "Euler angles refer to Sample Coordinate system (CS0)!\tMag\t0\tCoverage\t100\tDevice\t0\tKV\t0\tTiltAngle\t0"
        "\tTiltAxis\t0",
        f"Phases\t{len(phases)}", *(_ctf_phase(phase, crystal_x) for phase in phases.values()),
        "Phase\tX\tY\tBands\tError\tEuler1\tEuler2\tEuler3\tMAD\tBC\tBS",
    ]  # fmt: skip
    fmt = ["%d", "%.9g", "%.9g", "%d", "%d", "%.4f", "%.4f", "%.4f", "%.4f", "%d", "%d"]
    np.savetxt(path, table, fmt, delimiter="\t", header="\n".join(header), comments="", encoding="ascii")


def _euler(rotations, phase, crystal_x: str) -> np.ndarray:
    """Euler angles (n, 3) in degrees, with the crystal's x along a or a*."""
    from orix.quaternion import Rotation

    if crystal_x == "a*":
        rotations = ~Rotation(other_crystal_quaternion(phase.structure.lattice)) * rotations
    return rotations.to_euler(degrees=True).reshape(-1, 3)


def _ctf_phase(phase, crystal_x: str) -> str:
    a, b, c, *angles = phase.structure.lattice.abcABG()
    laue = 1 if phase.point_group is None else _LAUE[phase.point_group.laue.name]
    group = 0 if phase.space_group is None else phase.space_group.number
    lengths, degrees = (";".join(f"{v:.5g}" for v in values) for values in ((a, b, c), angles))
    return f"{lengths}\t{degrees}\t{phase.name or 'phase'}\t{laue}\t{group}\t\t\t{CRYSTAL_X.format(crystal_x)}"


def _as_byte(values: np.ndarray) -> np.ndarray:
    """From 0 to 255, of what is between 0 and 1; larger values are divided by the largest."""
    return np.rint(255 * np.clip(values / max(1.0, values.max(initial=0)), 0, 1))
