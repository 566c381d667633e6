"""Files of labels, sound and broken: the right answer where there is one, else an error with file and line."""

import warnings

import h5py
import numpy as np
import pytest
from orix.crystal_map import CrystalMap, Phase, PhaseList
from orix.quaternion import Rotation

from pyxem_dl.results.labels import Labels, in_lab_frame, read_labels
from pyxem_dl.results.maps import save_map

ANG_HEADER = """# MaterialName      aluminium
# Formula           Al
# Symmetry          43
# LatticeConstants  4.050  4.050  4.050  90.000  90.000  90.000
# GRID: SqrGrid
# XSTEP: 2.0
# YSTEP: 2.0
# NCOLS_ODD: 3
# NROWS: 2
"""
CTF_HEADER = """Channel Text File
Prj\tunnamed
Author\t[Unknown]
JobMode\tGrid
XCells\t3
YCells\t2
XStep\t2.0
YStep\t2.0
Euler angles refer to Sample Coordinate system (CS0)!
Phases\t1
4.050;4.050;4.050\t90;90;90\taluminium\t11\t225
Phase\tX\tY\tBands\tError\tEuler1\tEuler2\tEuler3\tMAD\tBC\tBS
"""
ANGLES = np.random.default_rng(0).uniform([0, 0.1, 0], [6.2, 3, 6.2], (6, 3)).round(4)
N_HEADER = {"ang": 9, "ctf": 12}


def ang(**cells):
    """Make an .ang file of 3 x 2 positions; `cells` are other words, by "row_column"."""
    rows = [
        [*(f"{a:.4f}" for a in angles), f"{2.0 * (i % 3):.3f}", f"{2.0 * (i // 3):.3f}", "100.0", "0.5", "0", "0", "1"]
        for i, angles in enumerate(ANGLES)
    ]
    return ANG_HEADER + lines_of(rows, cells)


def ctf(**cells):
    """Make a .ctf file of 3 x 2 positions."""
    rows = [
        ["1", f"{2.0 * (i % 3):.3f}", f"{2.0 * (i // 3):.3f}", "6", "0",
         *(f"{a:.4f}" for a in np.rad2deg(angles)), "0.5", "100", "50"]
        for i, angles in enumerate(ANGLES)
    ]  # fmt: skip
    return CTF_HEADER + lines_of(rows, cells, "\t")


def lines_of(rows, cells, separator="  "):
    for place, word in cells.items():
        row, column = map(int, place.strip("c").split("_"))
        rows[row][column] = word
    return "\n".join(separator.join(row) for row in rows) + "\n"


def write(tmp_path, kind, content):
    path = tmp_path / f"labels.{kind}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def check(path, not_indexed=()):
    """The file has the six orientations, but for some that are not indexed."""
    found = Labels.from_map(read_labels(path))
    assert found.shape == (2, 3)
    expected = np.zeros(6, int)
    expected[list(not_indexed)] = -1
    np.testing.assert_array_equal(found.phase_id, expected)
    there = expected == 0
    difference = ~Rotation(found.rotations[there]) * Rotation.from_euler(ANGLES[there])
    assert np.rad2deg(difference.angle).max() < 0.01
    assert found.phases[0].point_group.name == {"ang": "432", "ctf": "m-3m"}[path.suffix[1:]]
    return found


def cut(text, n):
    """Leave out the last `n` lines."""
    return "".join(text.splitlines(keepends=True)[:-n])


SOUND = {
    "as they are": (ang(), ctf()),
    "Windows' line ends": (ang().replace("\n", "\r\n"), ctf().replace("\n", "\r\n")),
    "mixed line ends": (ang().replace("\n", "\r\n", 11), ctf().replace("\n", "\r\n", 14)),
    "old Mac's line ends": (ang().replace("\n", "\r"), ctf().replace("\n", "\r")),
    "a byte order mark": (b"\xef\xbb\xbf" + ang().encode(), b"\xef\xbb\xbf" + ctf().encode()),
    "UTF-16": (ang().encode("utf-16"), ctf().encode("utf-16")),
    "Latin-1": (ang().replace("# Formula ", "# Größe in µm\n# Formula ").encode("latin-1"),
                ctf().replace("unnamed", "Größe in µm").encode("latin-1")),
    "decimal commas": (ANG_HEADER + ang().removeprefix(ANG_HEADER).replace(".", ","), ctf().replace(".", ",")),
    "empty lines": (ang().replace("\n", "\n\n"), ctf() + "\n\n\n"),
    "no line end at the end": (ang().rstrip("\n"), ctf().rstrip("\n")),
    "upper case of the ending": (ang(), ctf()),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["ang", "ctf"])
@pytest.mark.parametrize("contents", SOUND.values(), ids=SOUND.keys())
def test_what_has_one_meaning_is_read(tmp_path, kind, contents):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        check(write(tmp_path, kind, contents[kind == "ctf"]))


@pytest.mark.parametrize("word", ["nan", "NaN", "inf", "-inf"])
@pytest.mark.parametrize("kind, column", [("ang", 1), ("ctf", 6)])
def test_angles_that_are_not_finite_are_not_indexed(tmp_path, kind, column, word):
    content = {"ang": ang, "ctf": ctf}[kind](**{f"c2_{column}": word, f"c4_{column}": word})
    with pytest.warns(UserWarning, match="labels.*2 of 6 positions have NaN or infinite angles and"):
        check(write(tmp_path, kind, content), not_indexed=(2, 4))


def test_positions_that_the_programs_do_not_index(tmp_path):
    """EDAX writes 4 pi and a confidence of -1, HKL the phase 0."""
    known = "12.56637"
    path = write(tmp_path, "ang", ang(c1_0=known, c1_1=known, c1_2=known, c1_6="-1"))
    check(path, not_indexed=(1,))
    check(write(tmp_path, "ctf", ctf(c1_0="0")), not_indexed=(1,))


def test_several_phases_and_what_is_none_of_them(tmp_path):
    header = "# Phase 1\n" + ANG_HEADER.split("# GRID")[0] + "# Phase 2\n" + ANG_HEADER.replace("aluminium", "copper")
    content = header + ang(c0_7="1", c1_7="2", c2_7="0", c3_7="2", c4_7="1", c5_7="1").removeprefix(ANG_HEADER)
    found = Labels.from_map(read_labels(write(tmp_path, "ang", content)))
    np.testing.assert_array_equal(found.phase_id, [0, 1, -1, 1, 0, 0])
    assert len(found.phases) == 2


def ang_header(old, new):
    assert old in ANG_HEADER
    return ang().replace(old, new)


def ctf_header(old, new):
    assert old in CTF_HEADER
    return ctf().replace(old, new)


#: Contents, and what the error says beside the file's name; a number is the line
BROKEN = {
    "empty": ("ang", b"", "is empty"),
    "binary": ("ang", b"\x89HDF\r\n\x1a\n\0\0\0\0", "line 3: .*binary"),
    "binary at the end": ("ctf", ctf().encode() + b"\0\1\2", "binary"),
    "header alone": ("ang", ANG_HEADER, "no positions"),
    "ctf header alone": ("ctf", CTF_HEADER, "no positions"),
    "cut off in a line": ("ang", ang()[:-20], "line 15: there are 5 columns, but 10 .*incomplete"),
    "cut off between lines": ("ang", cut(ang(), 1), "line 14: 3 x 2 positions are declared, but there are 5"),
    "ctf cut off": ("ctf", cut(ctf(), 2), "3 x 2 positions are declared, but there are 4"),
    "cut off, nothing declared": ("ang", cut(ang(), 1).replace("# NCOLS_ODD: 3\n", ""), "do not form a rectangle"),
    "too few columns": ("ang", ANG_HEADER + "0.1 0.2 0.3 0 0\n" * 6, "line 10: there are 5 columns"),
    "too few columns of a ctf": ("ctf", CTF_HEADER + "1 0 0 6 0 1 2 3\n" * 6, "line 13: there are 8 columns"),
    "text in a column": ("ang", ang(c3_1="n/a"), "line 13: 'n/a' in column 2 is not a number"),
    "text in a ctf": ("ctf", ctf(c2_5="abc"), "line 15: 'abc' in column 6"),
    "a number with _": ("ang", ang(c3_1="1_0"), "line 13: '1_0'"),
    "not a position": ("ang", ang(c3_3="nan"), "line 13: the coordinates"),
    "no phase": ("ang", ang(c3_7="nan"), "line 13: the phase is nan"),
    "half a phase": ("ctf", ctf(c3_0="1.5"), "line 16: the phase is 1.5"),
    "degrees for radians": ("ang", ang(c0_0="359.0"), "line 10: the angles .*degrees"),
    "enormous angles": ("ctf", ctf(c0_5="1e30"), "line 13: the angles"),
    "phases not declared": ("ang", ang().removeprefix(ANG_HEADER), "no phase is declared"),
    "no phases in a ctf": ("ctf", ctf_header("Phases\t1", "Phasen\t1"), "no phases are declared"),
    "phases are no number": ("ctf", ctf_header("Phases\t1", "Phases\tone"), "line 10: no phases are declared"),
    "more phases than there are": ("ctf", ctf_header("Phases\t1", "Phases\t3"), "line 12: a phase is missing"),
    "a billion phases": ("ctf", ctf_header("Phases\t1", "Phases\t1000000000"), "line 10: no phases"),
    "phase out of range": ("ctf", ctf(c4_0="7"), r"line 17: the phase 7 is not declared; the header has \[1\]"),
    "phase out of range in an ang": ("ang", ang(c4_7="7"), "line 14: the phase 7 is not declared"),
    "two phases of one number": (
        "ang", "# Phase 1\n" + ANG_HEADER.split("# GRID")[0] + "# Phase 1\n" + ang(), "same number"
    ),
    "no column names": ("ctf", ctf_header("Phase\tX\tY", "X\tY"), "no line 'Phase X Y"),
    "negative step": ("ang", ang_header("XSTEP: 2.0", "XSTEP: -2.0"), "line 6: XSTEP is '-2.0'"),
    "step of nothing": ("ctf", ctf_header("XStep\t2.0", "XStep\tnan"), "line 7: XStep is 'nan'"),
    "huge step": ("ang", ang_header("XSTEP: 2.0", "XSTEP: 1e300"), "line 6: XSTEP is '1e300'"),
    "another step": ("ang", ang_header("XSTEP: 2.0", "XSTEP: 500.0"), "step along x is 500 .* 2 between"),
    "hexagonal grid": ("ang", ang_header("SqrGrid", "HexGrid"), "line 5: .*hexagonal grid.*square"),
    "a billion rows": ("ang", ang_header("NROWS: 2", "NROWS: 1000000000"), "NROWS|3e.09|declared"),
    "rows declared, fewer there": ("ctf", ctf_header("YCells\t2", "YCells\t5000"), "3 x 5000 positions are declared"),
    "a position twice": ("ang", ang(c4_3="0.0").replace("# NROWS: 2\n", ""), "line 13: .*twice, first in line 12"),
    "symmetry of nothing": ("ang", ang_header("Symmetry          43", "Symmetry          xyz"), "line 3: the symmetry"),
    "cell of nothing": ("ang", ang_header("4.050  4.050", "nan  4.050"), "line 4: the cell"),
    "cell of a ctf": ("ctf", ctf_header("90;90;90", "90;190;90"), "line 11: the cell"),
    "Laue group 99": ("ctf", ctf_header("\t11\t225", "\t99\t225"), "line 11: the Laue group"),
    "space group 999": ("ctf", ctf_header("\t11\t225", "\t11\t999"), "line 11: the space group"),
    "an endless header": ("ang", "# x\n" * 5000 + ang(), "more than 1000 lines"),
    "not UTF-16": ("ang", b"\xff\xfe\x00", "not text"),
    "HDF5 that is text": ("h5", b"not HDF5", "not an HDF5 file"),
}  # fmt: skip


@pytest.mark.parametrize("kind, content, message", BROKEN.values(), ids=BROKEN.keys())
def test_broken_files_say_where(tmp_path, kind, content, message):
    path = write(tmp_path, kind, content)
    with pytest.raises(ValueError, match=f"(?s){path.name}.*({message})"):
        read_labels(path)


def h5(tmp_path, change):
    """Save a map as orix does, and change the file."""
    row, column = np.indices((2, 3)).reshape(2, -1)
    xmap = CrystalMap(
        rotations=Rotation.from_euler(ANGLES), phase_id=np.zeros(6, int), x=2.0 * column, y=2.0 * row,
        phase_list=PhaseList(phases=[Phase("Al", point_group="m-3m")], ids=[0]),
    )  # fmt: skip
    path = save_map(tmp_path / "labels.h5", xmap)
    with h5py.File(path, "a") as file:
        change(file["crystal_map"])
    return path


def replaced(name, value):
    def change(group):
        del group[name]
        group[name] = value

    return change


def external_link(group):
    del group["data/phi1"]
    group["data/phi1"] = h5py.ExternalLink("/etc/passwd", "/")


def soft_link(group):
    del group["data/phi1"]
    group["data/phi1"] = h5py.SoftLink("/crystal_map/data/Phi")


def external_data(group):
    del group["data/phi1"]
    group["data"].create_dataset("phi1", (6,), "f8", external=[("/etc/passwd", 0, 48)])


def virtual_data(group):
    layout = h5py.VirtualLayout((6,), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "phi1", (6,))
    del group["data/phi1"]
    group["data"].create_virtual_dataset("phi1", layout)


def enormous(group):
    del group["data/phi1"]
    group["data"].create_dataset("phi1", (10**13,), "f8", chunks=(10**6,), compression="gzip")


BROKEN_HDF5 = {
    "an external link": (external_link, "holds a link, 'phi1'"),
    "a soft link": (soft_link, "holds a link"),
    "data in another file": (external_data, "is stored in another file"),
    "virtual data": (virtual_data, "is stored in another file"),
    "a terabyte in a few bytes": (enormous, r"would take 7.*GB.*damaged"),
    "a length that is missing": (replaced("data/phi1", np.zeros(4)), "'phi1' has 4 entries, and the map 6 positions"),
    "a mask that is short": (replaced("data/is_in_data", np.ones(4, bool)), "'is_in_data' has 4 entries"),
    "coordinates of NaN": (replaced("data/x", np.full(6, np.nan)), "coordinates that are not finite"),
    "angles that are missing": (lambda group: group["data"].pop("phi1"), "no crystal map"),
    "no header": (lambda group: group.pop("header"), "no crystal map"),
    "phases that are not declared": (replaced("data/phase_id", np.array([0, 1, 0, 5, 0, 0])), "phases .1, 5. are not"),
    "a cell of NaN": (replaced("header/phases/0/structure/lattice/abcABG", np.full(6, np.nan)), "the cell"),
    "a space group that is none": (replaced("header/phases/0/space_group", "__import__('os')"), "no crystal map"),
}


@pytest.mark.parametrize("change, message", BROKEN_HDF5.values(), ids=BROKEN_HDF5.keys())
def test_hdf5_files_that_lead_elsewhere_or_nowhere(tmp_path, change, message):
    path = h5(tmp_path, change)
    with pytest.raises(ValueError, match=f"(?s)labels.h5.*({message})"):
        read_labels(path)


def test_angles_of_hdf5_files_that_are_not_finite(tmp_path):
    phi = ANGLES[:, 1].copy()
    phi[3] = np.nan
    with pytest.warns(UserWarning, match="1 of 6 positions have NaN or infinite angles"):
        found = Labels.from_map(read_labels(h5(tmp_path, replaced("data/Phi", phi))))
    np.testing.assert_array_equal(found.phase_id, [0, 0, 0, -1, 0, 0])


def test_a_map_in_memory_with_rotations_that_are_not_finite():
    xmap = CrystalMap(rotations=Rotation.from_euler(ANGLES), phase_list=PhaseList(Phase("Al", point_group="m-3m")))
    xmap._rotations.data[2] = np.nan
    with pytest.warns(UserWarning, match="labels: 1 of 6"):
        found = Labels.from_map(xmap)
    assert found.phase_id[2] == -1 and np.isfinite(found.rotations).all()


@pytest.mark.parametrize("order", [[5, 4, 3, 2, 1, 0], [0, 3, 1, 4, 2, 5], [2, 0, 1, 3, 5, 4]])
@pytest.mark.parametrize("kind, n_header", N_HEADER.items())
def test_positions_in_another_order_keep_their_places(tmp_path, kind, n_header, order):
    """Backwards, column by column, or in any order: x and y say where a label belongs."""
    lines = {"ang": ang, "ctf": ctf}[kind]().splitlines()
    moved = lines[:n_header] + [lines[n_header + i] for i in order]
    check(write(tmp_path, kind, "\n".join(moved) + "\n"))


@pytest.mark.parametrize("place", ["1e9", "1e300", "4.000"])
def test_a_position_that_is_off_the_grid(tmp_path, place):
    with pytest.raises(ValueError, match="labels.ang: the positions make no grid of . columns and 2 rows"):
        read_labels(write(tmp_path, "ang", ang(**{"1_3": place})))


def test_parts_of_a_map_are_labels(tmp_path):
    """Parts share their properties, and orix remembers the mask of the last that was looked at."""
    q = Rotation.random(30)
    y, x = np.indices((6, 5))
    xmap = CrystalMap(
        rotations=q, x=x.ravel() * 1.0, y=y.ravel() * 1.0, prop={"scores": np.arange(30.0)},
        phase_list=PhaseList(Phase("Al", space_group=225)),
    )  # fmt: skip
    masked, cropped = xmap[np.arange(30) % 3 > 0], xmap[2:5, 1:4]
    assert len(masked.prop["scores"]) == 20
    for part in (cropped, masked, xmap):
        found = Labels.from_map(in_lab_frame(part, turn=0.0))
        assert found.shape == (6, 5) and found.known.tolist() == part.is_in_data.tolist()
        np.testing.assert_array_equal(found.scores, np.arange(30))
        np.testing.assert_allclose(found.rotations, q.data)
        assert part.prop["scores"].tolist() == np.arange(30.0)[part.is_in_data].tolist()
