"""Crystal maps as files: right values in every format, all of it or nothing, and what is lost is said."""

import os
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
from diffpy.structure import Atom, Lattice, Structure
from orix import io
from orix.crystal_map import CrystalMap, Phase, PhaseList
from orix.quaternion import Rotation

from pyxem_dl.files import claimed, replacing
from pyxem_dl.results.labels import read_labels
from pyxem_dl.results.map_files import (
    _in_ascii,
    _to_micrometres,
    bounding_box,
    check_map_path,
    copied_map,
    save_map,
)

CUBIC = ("Al", 225, (4.05, 4.05, 4.05, 90, 90, 90))
TRIGONAL = ("LiNiO2", 166, (2.88, 2.88, 14.19, 90, 90, 120))
HEXAGONAL = ("α-Ti", 194, (2.95, 2.95, 4.68, 90, 90, 120))
MONOCLINIC = ("ZrO2", 14, (5.15, 5.21, 5.32, 90, 99.2, 90))


def make_phase(name, space_group, lattice):
    return Phase(name, space_group=space_group, structure=Structure([Atom("Al", [0, 0, 0])], Lattice(*lattice)))


def make_map(kinds=(CUBIC,), shape=(3, 4), n_best=1, step=1.0, unit="nm", missing=True):
    """Random orientations; the phases in turn, and (`missing`) not indexed; a shape (n, 0) is a column."""
    rows, columns = (1, *shape) if len(shape) == 1 else (shape[0], max(1, shape[1]))
    rng, n = np.random.default_rng(1), rows * columns
    quaternions = rng.normal(size=(n, n_best, 4) if n_best > 1 else (n, 4))
    row, column = np.indices((rows, columns)).reshape(2, -1)
    phase_id = np.arange(n) % (len(kinds) + missing) - missing
    scores = rng.random((n, n_best) if n_best > 1 else n)
    return CrystalMap(
        rotations=Rotation(quaternions / np.linalg.norm(quaternions, axis=-1, keepdims=True)), phase_id=phase_id,
        x=column * step, y=None if len(shape) == 1 else row * step, scan_unit=unit,
        phase_list=PhaseList(phases=[make_phase(*kind) for kind in kinds], ids=list(range(len(kinds)))),
        prop={"scores": scores, "reliability": rng.random(n)},
    )  # fmt: skip


def saved(path, xmap, **options):
    """Save a map; the one warning's text, or ""."""
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        save_map(path, xmap, **options)
    texts = [str(w.message) for w in record if issubclass(w.category, UserWarning)]
    assert len(texts) <= 1
    return texts[0] if texts else ""


def apart(a, b):
    """Largest angle between two lists of rotations, in degrees, without any symmetry."""
    return np.rad2deg((~a * b).angle).max()


@pytest.mark.parametrize(
    ("step", "unit", "micrometres"),
    [
        (3.0, "nm", 0.003), (0.2345, "nm", 2.345e-4), (2.5, "Å", 2.5e-4), (1.5, "$\\AA$", 1.5e-4), (0.5, "µm", 0.5),
        (0.5, "μm", 0.5), (0.5, "um", 0.5), (1e-8, "m", 0.01), (2.0, "micrometers", 2.0), (7.0, "pm", 7e-6),
        (0.001, "mm", 1.0), (3.0, "Angstroms", 3e-4), (4.0, "$\\mu m$", 4.0), (2.0, "nanometers", 0.002),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".ang", ".ctf"])
def test_steps_are_written_in_micrometres(tmp_path, suffix, step, unit, micrometres):
    text = saved(tmp_path / f"map{suffix}", make_map(step=step, unit=unit))
    again = io.load(str(tmp_path / f"map{suffix}"))
    assert (again.scan_unit, again.shape) == ("um", (3, 4))
    np.testing.assert_allclose([again.dx, again.dy], micrometres, rtol=1e-6)
    assert "unit of length" not in text
    header = (tmp_path / f"map{suffix}").read_text().upper().replace("\t", ": ")
    assert f"XSTEP: {micrometres:.9g}".upper() in header and f"YSTEP: {micrometres:.9g}".upper() in header


@pytest.mark.parametrize("unit", ["px", "s", "1/nm"])
@pytest.mark.parametrize("suffix", [".ang", ".ctf"])
def test_steps_that_are_no_lengths_are_written_as_they_are_and_said(tmp_path, suffix, unit):
    text = saved(tmp_path / f"map{suffix}", make_map(step=2.0, unit=unit))
    assert f"a step of 1 {unit} is written as 1 µm" in text
    assert io.load(str(tmp_path / f"map{suffix}")).dx == 2


@pytest.mark.parametrize("shape", [(3, 4), (12,), (12, 0), (1, 12), (2, 1)])
@pytest.mark.parametrize("n_best", [1, 3])
@pytest.mark.parametrize("suffix", [".ang", ".ctf", ".h5"])
def test_maps_of_any_shape_come_back(tmp_path, suffix, n_best, shape):
    xmap = make_map((CUBIC, MONOCLINIC), shape, n_best, step=0.7)
    saved(tmp_path / f"map{suffix}", xmap, **({"crystal_x": "a"} if suffix == ".ctf" else {}))
    again = io.load(str(tmp_path / f"map{suffix}"))
    assert again.shape == xmap.shape
    np.testing.assert_array_equal(again.is_indexed, xmap.is_indexed)
    steps = (0.7, 0.7) if suffix == ".h5" else (7e-4, 7e-4)
    np.testing.assert_allclose([s for s in (again.dx, again.dy) if s], [s for s, n in zip(steps, xmap.shape) if n > 1])
    best, best_again = (m.rotations.data.reshape(m.size, -1, 4)[m.is_indexed, 0] for m in (xmap, again))
    assert apart(Rotation(best), Rotation(best_again)) < 1e-3
    names = {i: [m.phases[p].name for p in m.phase_id] for i, m in enumerate((xmap, again))}
    assert names[0] == names[1]


@pytest.mark.parametrize("kind", [CUBIC, TRIGONAL, HEXAGONAL, MONOCLINIC])
def test_a_ctf_file_has_the_axes_of_its_format(tmp_path, kind):
    xmap = make_map((kind,), missing=False)
    text = saved(tmp_path / "map.ctf", xmap)
    other = kind is not CUBIC
    assert ("x is along a* of the crystals" in text) == other
    labels = read_labels(tmp_path / "map.ctf")
    assert apart(labels.rotations, xmap.rotations) < 1e-3
    assert apart(read_labels(tmp_path / "map.ctf", crystal_x="a*").rotations, xmap.rotations) < 1e-3
    assert (apart(read_labels(tmp_path / "map.ctf", crystal_x="a").rotations, xmap.rotations) > 1) == other
    # an independent look: the direction of c and of a* in the lab, from the Euler angles of the file and its lattice
    table = np.loadtxt(tmp_path / "map.ctf", skiprows=15)
    file = Rotation.from_euler(table[:, 5:8], degrees=True)
    lattice = xmap.phases[0].structure.lattice
    for theirs, ours in (((1, 0, 0), lattice.recbase[:, 0]), ((0, 0, 1), lattice.base[2])):
        in_lab = (~xmap.rotations).to_matrix() @ (ours / np.linalg.norm(ours))
        np.testing.assert_allclose(file.to_matrix().transpose(0, 2, 1) @ theirs, in_lab, atol=1e-5)
    saved(tmp_path / "orix.ctf", xmap, crystal_x="a")
    assert apart(io.load(str(tmp_path / "orix.ctf")).rotations, xmap.rotations) < 1e-3


def test_a_ctf_file_line_by_line(tmp_path):
    xmap = make_map((TRIGONAL, HEXAGONAL), (2, 3), step=5.0)
    saved(tmp_path / "map.ctf", xmap)
    lines = (tmp_path / "map.ctf").read_text(encoding="ascii").splitlines()
    assert lines[0] == "Channel Text File" and lines[3] == "JobMode\tGrid"
    assert lines[4:8] == ["XCells\t3", "YCells\t2", "XStep\t0.005", "YStep\t0.005"]
    assert lines[12] == "Phases\t2"
    assert lines[13].startswith("2.88;2.88;14.19\t90;90;120\tLiNiO2\t7\t166\t")
    assert lines[14].startswith("2.95;2.95;4.68\t90;90;120\talpha-Ti\t9\t194\t")
    assert lines[15].split("\t") == "Phase X Y Bands Error Euler1 Euler2 Euler3 MAD BC BS".split()
    rows = [line.split("\t") for line in lines[16:]]
    assert [row[0] for row in rows] == list("012012") and [row[4] for row in rows] == list("300300")
    assert [row[1:3] for row in rows][-1] == ["0.01", "0.005"]
    assert rows[0][5:] == ["0.0000"] * 4 + ["0", "0"]
    assert [int(row[9]) for row in rows[1:3]] == [round(255 * s) for s in xmap.scores[1:3]]
    assert [int(row[10]) for row in rows[1:3]] == [round(255 * s) for s in xmap.reliability[1:3]]
    again = io.load(str(tmp_path / "map.ctf"))
    assert [p.space_group.number for i, p in again.phases if i >= 0] == [166, 194]


def test_laue_groups_of_ctf_files(tmp_path):
    groups = {2: 1, 14: 2, 62: 3, 88: 4, 141: 5, 148: 6, 166: 7, 176: 8, 194: 9, 205: 10, 225: 11, 33: 3, 186: 9}
    for space_group, laue in groups.items():
        text = saved(tmp_path / "map.ctf", make_map((("x", space_group, (4, 4, 4, 90, 90, 90)),)), overwrite=True)
        assert f"\tx\t{laue}\t{space_group}\t" in (tmp_path / "map.ctf").read_text()
        assert ("does not read .ctf files with a phase of the Laue group m-3" in text) == (laue == 10)


def test_what_a_format_loses_is_said_in_one_warning(tmp_path):
    xmap = make_map((TRIGONAL,), n_best=2)
    text = saved(tmp_path / "map.ang", xmap)
    for lost in ("best of 2 candidates", "without reliability", "space group", "atoms of the phases"):
        assert lost in text
    assert "space group" not in saved(tmp_path / "map.ctf", xmap)
    assert saved(tmp_path / "map.h5", xmap) == ""
    assert "of the single" not in text
    phase = Phase(name="only a name")
    plain = CrystalMap(rotations=Rotation.random(4), phase_list=PhaseList(phases=[phase], ids=[0]), scan_unit="um")
    assert "without a point group is written as triclinic" in saved(tmp_path / "plain.ctf", plain)


def test_a_part_of_a_map_is_written_as_a_rectangle(tmp_path):
    whole = make_map((CUBIC,), (4, 5), step=2.0, missing=False)
    part = whole[1:3, 2:5]
    text = saved(tmp_path / "part.ctf", part)
    again = io.load(str(tmp_path / "part.ctf"))
    assert again.shape == (2, 3) and "coordinates start at 0" in text and again.x.min() == 0
    assert apart(again.rotations, part.rotations) < 1e-3
    holes = whole[whole.x != 4.0]
    text = saved(tmp_path / "holes.ang", holes)
    again = io.load(str(tmp_path / "holes.ang"))
    assert "4 positions that are not in its data count as not indexed" in text
    np.testing.assert_array_equal(again.is_indexed.reshape(4, 5), np.arange(5)[None].repeat(4, 0) != 2)
    assert apart(again.rotations[again.is_indexed], holes.rotations) < 1e-3


def test_scores_that_are_no_numbers_and_names_in_any_script(tmp_path):
    xmap = make_map((("γ'-Ni₃Al\nalloy", 221, (3.57, 3.57, 3.57, 90, 90, 90)),))
    xmap.prop["scores"][3] = np.nan
    for suffix in (".ang", ".ctf", ".h5"):
        saved(tmp_path / f"map{suffix}", xmap)
        again = io.load(str(tmp_path / f"map{suffix}"))
        np.testing.assert_array_equal(again.is_indexed, xmap.is_indexed)
    assert _in_ascii("γ'-Ni₃Al\nalloy") == "gamma'-Ni3Al alloy" and _in_ascii("铝") == "_"
    assert _to_micrometres("Å") == pytest.approx(1e-4) and _to_micrometres("") is None


# ------------------------------------------------------------------ before the work
@pytest.mark.parametrize("suffix", [".ang", ".ctf"])
def test_a_single_pattern_is_refused_before_the_work(tmp_path, suffix):
    with pytest.raises(ValueError, match="single pattern cannot be saved as .*Save it as .h5"):
        check_map_path(tmp_path / f"map{suffix}", n_positions=1)
    with pytest.raises(ValueError, match="single pattern"):
        save_map(tmp_path / f"map{suffix}", make_map(shape=(1,), missing=False))
    assert not list(tmp_path.iterdir())
    saved(tmp_path / "map.h5", make_map(shape=(1,), missing=False))
    assert io.load(str(tmp_path / "map.h5")).size == 1


def test_where_nothing_can_be_written_is_seen_before_the_work(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(NotADirectoryError, match="file is a file, not a folder"):
        check_map_path(tmp_path / "file" / "deeper" / "map.h5")
    with pytest.raises(IsADirectoryError, match="folder.h5 is a folder"):
        check_map_path(tmp_path / "folder.h5", overwrite=True)
    with pytest.raises(OSError, match="cannot be written in .*too long"):
        check_map_path(tmp_path / f"{'x' * 250}.h5")
    with pytest.raises(OSError, match="needs about .* GB, but .* left: free some space"):
        check_map_path(tmp_path / "map.h5", n_positions=10**15)
    with pytest.raises(ValueError, match="crystal_x must be 'a' or 'a\\*', for .ctf"):
        check_map_path(tmp_path / "map.ang", crystal_x="a")
    check_map_path(tmp_path / "new" / "folder" / "map.h5", n_positions=100)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.h5"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="for root nothing is protected")
def test_a_protected_folder_is_seen_before_the_work(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="cannot be written"):
        check_map_path(tmp_path / "map.h5")


# ------------------------------------------------------------------ all or nothing
@pytest.mark.parametrize("suffix", [".h5", ".ang", ".ctf"])
def test_what_fails_or_is_interrupted_leaves_the_old_file(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"map{suffix}"
    saved(path, make_map())
    before = path.read_bytes()
    for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda *_, error=error: (_ for _ in ()).throw(error))
            with pytest.raises(type(error)):
                saved(path, make_map(shape=(5, 5)), overwrite=True)
        assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]
    saved(path, make_map(shape=(5, 5)), overwrite=True)
    assert io.load(str(path)).shape == (5, 5)


KILLED = """
import os, signal, sys
from pathlib import Path
from pyxem_dl.files import claimed, replacing
path, kind = Path(sys.argv[1]), sys.argv[2]
with claimed(path), replacing(path) as new:
    if kind == "folder":
        new.mkdir()
        (new / "half").write_text("half")
    else:
        new.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_killed_call_blocks_nothing(tmp_path, kind):
    path = tmp_path / "map.zspy"
    for old in (None, "old"):
        if old:
            path.write_text(old)
        subprocess.run([sys.executable, "-c", KILLED, str(path), kind], check=False, timeout=120)
        assert (path.read_text() if path.exists() else None) == old
        assert len(list(tmp_path.glob(".map.*.unfinished.zspy"))) == 1
        with claimed(path):  # the system has freed what was held, and the half is cleared away
            assert not list(tmp_path.glob(".map.*.unfinished.zspy"))
    assert [p.name for p in tmp_path.iterdir()] == ["map.zspy"]


def test_folders_are_replaced_and_come_back(tmp_path):
    path = tmp_path / "v.zspy"
    for text in ("first", "second"):
        with replacing(path) as new:
            new.mkdir()
            (new / "data").write_text(text)
        assert (path / "data").read_text() == text and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ZeroDivisionError), replacing(path) as new:
        new.mkdir()
        raise ZeroDivisionError
    # killed between the two renames: what was there is put back
    os.replace(path, tmp_path / ".v.01234567.old.zspy")
    with claimed(path):
        assert (path / "data").read_text() == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["v.zspy"]


def test_leftovers_of_others_are_left_alone(tmp_path):
    (tmp_path / ".map.v2.01234567.unfinished.h5").touch()
    (tmp_path / ".map.unfinished.h5").touch()
    with claimed(tmp_path / "map.h5"):
        pass
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "map.h5").write_text("old")
    (tmp_path / "map.h5").symlink_to(tmp_path / "real" / "map.h5")
    saved(tmp_path / "map.h5", make_map(), overwrite=True)
    assert (tmp_path / "map.h5").is_symlink() and io.load(str(tmp_path / "real" / "map.h5")).shape == (3, 4)


def test_a_file_is_written_by_one_process(tmp_path):
    code = textwrap.dedent(f"""
        import sys
        from pyxem_dl.files import claimed
        with claimed({str(tmp_path / "map.h5")!r}):
            print("held", flush=True)
            sys.stdin.readline()
    """)
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError, match="map.h5 is being written by another process, which holds"):
            save_map(tmp_path / "map.h5", make_map())
        assert other.poll() is None
    finally:
        other.communicate("\n", timeout=60)
    save_map(tmp_path / "map.h5", make_map())
    assert [p.name for p in tmp_path.iterdir()] == ["map.h5"]


def test_a_copy_with_other_data_leaves_the_map_as_it_is():
    xmap = make_map(shape=(3, 4), missing=False)
    part = xmap[1:, 2:]
    box = bounding_box(part).reshape(3, 4)
    assert box[1:, 2:].all() and box.sum() == 4
    corners = np.zeros((3, 4), bool)
    corners[0, 1] = corners[2, 2] = True
    copy = copied_map(xmap, corners.ravel())
    assert copy.id.tolist() == [1, 10] and bounding_box(copy).sum() == 6
    whole = copied_map(copy, np.ones(12, bool))
    assert whole.shape == xmap.shape == (3, 4) and part.shape == (2, 2)
    np.testing.assert_array_equal(whole.prop["scores"], xmap.prop["scores"])
