"""Sets of quartets: the same whatever happens while they are made, read with care, split by crystal."""

import contextlib
import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from sample_phases import phase, raw_phase

import pyxem_dl
from pyxem_dl.quartets import Quartet, making, open_quartets
from pyxem_dl.quartets.engines import Simulated
from pyxem_dl.quartets.truth import Disks

SETTINGS = {
    "pixels": 32, "reciprocal_radius": 1.0, "semi_angle": 2.0, "thickness": (40, 200), "show_progressbar": False
}  # fmt: skip
PHASES = ("Al", "LiNiO2", "MgO")
N, SHARD = 42, 8


def make(path, n=N, phases=PHASES, **settings):
    settings = SETTINGS | {"shard": SHARD} | settings
    return pyxem_dl.make_quartets([phase(name) for name in phases], path, n=n, **settings)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A set that nothing happened to."""
    return make(tmp_path_factory.mktemp("sets") / "set.zarr")


@pytest.fixture
def copied(made, tmp_path):
    """One that may be changed."""
    shutil.copytree(made.path, tmp_path / "set.zarr")
    return tmp_path / "set.zarr"


def assert_same(ours: Quartet, theirs: Quartet):
    """Every bit."""
    for name, a, b in zip(Quartet._fields, ours, theirs, strict=True):
        pairs = zip(a, b, strict=True) if isinstance(a, Disks) else [(a, b)]
        for x, y in pairs:
            np.testing.assert_array_equal(np.asarray(x), np.asarray(y), err_msg=name)


def assert_same_sets(ours, theirs, n=None):
    for i in range(len(theirs) if n is None else n):
        assert_same(ours[i], theirs[i])


# ---------------------------------------------------------------- what is in it
def test_a_set_has_items_shards_and_a_manifest(made):
    assert len(made) == N and len(list(made.shards())) == 6
    found = made[-1]
    assert [image.shape for image in found[:4]] == [(32, 32)] * 4
    assert {image.dtype for image in found[:4]} == {np.dtype("float32")}
    assert 0 < found.pattern.sum() <= 1.01 and found.probe.sum() == pytest.approx(1, rel=1e-3)
    assert found.disks.v_g.dtype == np.complex64 and found.disks.hkl.shape == (128, 3)
    assert 40 <= found.thickness <= 200 and found.beam_energy == 200.0 and found.semi_angle == 2.0
    assert found.disk_radius == pytest.approx(2e-3 / 0.02508, rel=1e-3)
    at = 0
    for batch in made.shards():
        for i in range(len(batch.phase_id)):
            columns = (Disks(*(c[i] for c in x)) if isinstance(x, Disks) else x[i] for x in batch)
            assert_same(Quartet(*columns), made[at])
            assert made[at].phase_id == made.phase_ids[at]
            at += 1
    manifest = made.manifest
    assert json.loads(json.dumps(manifest)) == manifest
    assert manifest["package_version"] == pyxem_dl.__version__ and manifest["settings"]["thickness"] == [40, 200]
    assert [(p["formula"], p["space_group"]) for p in manifest["phases"]] == [
        ("Al4", 225), ("Li3Ni3O6", 166), ("Mg4O4", 225)
    ]  # fmt: skip
    assert [p.name for p in made.phases] == list(PHASES) and made.calibration.shape == (32, 32)
    assert "42 of 3 crystals" in repr(made)
    with pytest.raises(IndexError, match="There are 42 quartets"):
        made[N]
    with pytest.raises(TypeError, match="must be a whole number"):
        made[1:3]


def test_images_are_drawn_of_the_stored_table(made):
    from pyxem_dl.quartets.truth import disk_images

    for found in list(made)[:10]:
        potential, q_z = disk_images(found.disks, found.thickness, found.disk_radius, made.calibration)
        np.testing.assert_array_equal(potential, found.potential)
        np.testing.assert_array_equal(q_z, found.q_z)
        assert (found.disks.intensity[found.disks.present][1:] >= 1e-6).all()
        assert (np.diff(found.disks.intensity[1:]) <= 0).all()  # the brightest first
        assert (potential > 0).any()


def test_any_zarr_reader_finds_the_images(made):
    group = zarr.open_group(str(made.path), mode="r")
    np.testing.assert_array_equal(group["pattern"][7], made[7].pattern)
    np.testing.assert_array_equal(group["q_z"][7], made[7].q_z)
    assert group["pattern"].chunks == (SHARD, 32, 32)


def test_a_loader_of_torch_takes_it(made):
    loader = torch.utils.data.DataLoader(made, batch_size=4, shuffle=True, num_workers=0)
    batch = next(iter(loader))
    assert isinstance(batch, Quartet) and batch.pattern.shape == (4, 32, 32) and batch.disks.v_g.shape == (4, 128)
    again = pickle.loads(pickle.dumps(made))
    assert_same(again[3], made[3])
    assert len(pickle.dumps(made)) < 50_000


def test_where_crystals_come_from_is_in_the_manifest(tmp_path):
    from pyxem_dl.crystals.provenance import check_manifest

    phases = pyxem_dl.structures("prototypes", n=2, seed=1)
    found = pyxem_dl.make_quartets(phases, tmp_path / "x.zarr", n=2, **SETTINGS)
    entries = [each["source"] for each in found.manifest["phases"]]
    assert entries == phases.manifest and entries[0]["licence"]
    check_manifest(entries, found.phases)
    mine = pyxem_dl.make_quartets(phase("Al"), tmp_path / "y.zarr", n=2, **SETTINGS).manifest["phases"][0]["source"]
    assert (mine["source"], mine["formula"], mine["licence"]) == ("user", "Al", "not stated")


# ---------------------------------------------------------------- always the same
@pytest.mark.parametrize("settings", [{"threads": 1, "shard": 5}, {"threads": 3, "shard": 64}, {"n": 17, "threads": 2}])
def test_a_quartet_is_the_same_whatever_is_made_with_it(made, settings, tmp_path):
    found = make(tmp_path / "other.zarr", **settings)
    assert_same_sets(found, made, len(found))


def test_it_is_the_same_on_one_core_and_on_several(made, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert_same_sets(make(tmp_path / "one.zarr", n=6), made, 6)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)


def test_another_seed_is_another_set(made, tmp_path):
    other = make(tmp_path / "other.zarr", n=12, seed=1)
    thickness = [{round(q[i].thickness) for i in range(12)} for q in (made, other)]
    assert thickness[0] != thickness[1]


def test_a_larger_n_goes_on(made, copied, capsys):
    times = {p: p.stat().st_mtime_ns for p in copied.glob("made/[0-4]")}
    assert len(make(copied, n=N)) == N
    assert capsys.readouterr().out == ""  # there is nothing to do
    found = make(copied, n=60, shard=None)
    assert "Continuing after 40 of 60 quartets" in capsys.readouterr().out
    assert len(found) == 60 and found.manifest["n"] == 60
    assert_same_sets(found, made, N)
    assert times == {p: p.stat().st_mtime_ns for p in copied.glob("made/[0-4]")}, "what was there was made again"
    with pytest.raises(ValueError, match="is a set of 60 quartets. Give n=60"):
        make(copied, n=50)


@pytest.mark.parametrize("given, match", [
    ({"thickness": (40, 300)}, r"thickness was \[40.0, 200.0\] and is \[40.0, 300.0\]"),
    ({"seed": 1, "tilt": 0}, "tilt was .*; seed was 0 and is 1"),
    ({"phases": ("Al", "MgO")}, r"the phases were 3 \(Al4, Li3Ni3O6, Mg4O4...\) and are 2 \(Al4, Mg4O4...\)"),
    ({"shard": 9}, "shard was 8 and is 9"),
    ({"engine": "multislice"}, "engine was many-beam and is multislice"),
])  # fmt: skip
def test_other_settings_are_refused_and_named(copied, given, match):
    if "engine" in given:
        pytest.importorskip("abtem", reason="needs the extra multislice")
    with pytest.raises(ValueError, match=f"begun with other settings: {match}.*Give the same, another name, or"):
        make(copied, **given)
    assert len(open_quartets(copied)) == N


def test_overwrite_begins_again_and_touches_nothing_else(copied, tmp_path):
    found = make(copied, n=3, seed=5, overwrite=True)
    assert len(found) == 3 and found.settings.seed == 5
    (tmp_path / "other.zarr").mkdir()
    (tmp_path / "other.zarr" / "precious").touch()
    with pytest.raises(ValueError, match="is no set of quartets"):
        make(tmp_path / "other.zarr", overwrite=True)
    assert (tmp_path / "other.zarr" / "precious").exists()


def test_patterns_of_another_release_are_not_mixed_in(copied, monkeypatch):
    (copied / "made" / "5").unlink()
    original = making._Simulate.__call__

    def brighter(self, index):
        drawn, found = original(self, index)
        return drawn, found._replace(pattern=found.pattern * 1.0101)

    monkeypatch.setattr(making._Simulate, "__call__", brighter)
    with pytest.raises(ValueError, match="patterns differ from those of this version .by 0.01 of"):
        make(copied)


# ---------------------------------------------------------------- memory
def _fake(self, index):
    from pyxem_dl.quartets.settings import draw

    drawn = draw(index, self.settings, self.phases)
    image = np.full((16, 16), 1 / 256, np.float32)
    one = np.zeros(1)
    disks = Disks(np.zeros((1, 3), np.int16), one, one, one, one, one + 20j, one + 1, one == 0)
    return drawn, Simulated(image, image, disks, drawn.thickness, drawn.origin)


def test_many_quartets_need_no_more_memory_than_few(tmp_path, monkeypatch):
    monkeypatch.setattr(making._Simulate, "__call__", _fake)
    peaks = []
    for n in (16, 64, 384):  # the first loads what is imported late
        tracemalloc.start()
        try:
            found = make(tmp_path / f"{n}.zarr", n, ("Al",), pixels=16, semi_angle=4.0, shard=16, threads=1)
            assert sum(len(batch.phase_id) for batch in found.shards()) == n
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    # six times as many: but for their numbers nothing grows; an image alone has 1024 bytes
    assert peaks[2] - peaks[1] < 256 * 320, peaks


# ---------------------------------------------------------------- killed, interrupted, full
SERVER = """
import json, os, sys
import test_quartet_sets
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        test_quartet_sets.work(*json.loads(line))
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def work(path, log):
    """What a process does, slowly."""
    code = 1
    original = making._Simulate.__call__

    def slow(self, index):
        time.sleep(0.01)
        return original(self, index)

    making._Simulate.__call__ = slow
    with open(log, "w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            make(Path(path), threads=1)
            code = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}")
        finally:
            file.flush()
            os._exit(code)


@pytest.fixture(scope="module")
def server():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SERVER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    yield process
    process.stdin.close()
    process.wait(60)


def start(server, path, log):
    server.stdin.write(json.dumps([str(path), str(log)]) + "\n")
    server.stdin.flush()
    return int(server.stdout.readline())


def end(server, pid, number):
    with contextlib.suppress(ProcessLookupError):  # it has ended
        os.kill(pid, number)
    return int(server.stdout.readline())


def wait_for_a_shard(path, log):
    for _ in range(6000):
        if list(path.glob("made/[0-9]*")):
            return
        time.sleep(0.01)
    raise AssertionError(log.read_text())


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_killed_at_any_moment(made, server, tmp_path, capsys):
    rng, path, log, n_killed, there = np.random.default_rng(0), tmp_path / "set.zarr", tmp_path / "log", 0, {}
    for _ in range(5):
        pid = start(server, path, log)
        if not there:
            wait_for_a_shard(path, log)
        time.sleep(rng.uniform(0, 0.4))
        n_killed += end(server, pid, signal.SIGKILL) == -signal.SIGKILL
        now = {p.name: p.stat().st_mtime_ns for p in path.glob("made/[0-9]*") if "partial" not in p.name}
        assert there.items() <= now.items(), "what was made is gone, or was made again"
        there = now
    assert n_killed and there
    if len(there) < 6:
        with pytest.raises(ValueError, match=r"shards of .* are missing .* Repeat the call of make_quartets"):
            open_quartets(path)
        part = open_quartets(path, allow_missing=True)
        assert len(part) == sum(min(SHARD, N - SHARD * int(i)) for i in there)
        assert_same(part[0], made[0])
    assert_same_sets(make(path), made)
    assert not list(path.rglob("*.partial")) and not list(tmp_path.glob(".set*"))


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_ctrl_c_keeps_what_is_made(made, server, tmp_path):
    path, log = tmp_path / "set.zarr", tmp_path / "log"
    pid = start(server, path, log)
    wait_for_a_shard(path, log)
    assert end(server, pid, signal.SIGINT) == 1
    n = len(open_quartets(path, allow_missing=True))
    assert f"KeyboardInterrupt: {n} of 42 quartets are saved in {path}: repeat the call to go on" in log.read_text()
    assert 0 < n < N
    assert_same_sets(make(path), made)


def test_ctrl_c_in_several_threads(made, tmp_path, monkeypatch):
    original = making._Simulate.__call__

    def interrupted(self, index):
        if index == 20:
            raise KeyboardInterrupt
        return original(self, index)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="16 of 42 quartets are saved"):
        patch.setattr(making._Simulate, "__call__", interrupted)
        make(tmp_path / "set.zarr", threads=3)
    assert_same_sets(make(tmp_path / "set.zarr"), made)


@pytest.mark.parametrize("at", [30, 61])  # in the middle of a shard, and with its last array
def test_a_full_disk_ends_with_a_message_and_goes_on(at, made, tmp_path, monkeypatch):
    original, count = zarr.DirectoryStore.__setitem__, iter(range(10**6))

    def full(self, key, value):
        if "/" in key and key.rpartition("/")[2][0].isdigit() and next(count) > at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(self, key, value)

    with monkeypatch.context() as patch, pytest.raises(OSError, match=(
        r"could not be written \(No space left on device\). \d+ of 42 quartets are saved. Free some space and repeat"
    )) as caught:  # fmt: skip
        patch.setattr(zarr.DirectoryStore, "__setitem__", full)
        make(tmp_path / "set.zarr")
    assert caught.value.errno == errno.ENOSPC
    assert_same_sets(make(tmp_path / "set.zarr"), made)


def test_a_disk_that_will_not_do_is_said_before(tmp_path, monkeypatch):
    monkeypatch.setattr(making.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 10**3))
    with pytest.warns(UserWarning, match="will need about .* GB, and 1e-06 GB are free"):
        make(tmp_path / "set.zarr", n=1)


def test_a_set_is_begun_at_once_and_made_longer_at_any_moment(made, copied, tmp_path, monkeypatch):
    from pyxem_dl.quartets.store import Store

    def killed(*arguments):
        raise MemoryError

    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Store, "_write_manifest", killed)
        make(tmp_path / "new.zarr")
    assert not (tmp_path / "new.zarr").exists()
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Store, "_write_manifest", killed)
        make(copied, n=50)
    with pytest.raises(ValueError, match="was killed, repeat it"):
        open_quartets(copied)
    shutil.copytree(copied, tmp_path / "copy.zarr")
    assert len(make(copied, n=50)) == 50
    assert_same_sets(make(tmp_path / "copy.zarr"), made)  # as it was


def test_a_set_that_cannot_be_written_can_be_read(made, copied):
    for path in (copied, *copied.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert_same(open_quartets(copied)[4], made[4])
    for path in (copied, *copied.rglob("*")):
        path.chmod(0o755)


def test_two_processes_do_not_write_one_set(copied):
    from pyxem_dl.files import claimed

    with claimed(copied), pytest.raises(BlockingIOError, match="is being written by another process"):
        make(copied)


# ---------------------------------------------------------------- splits
def test_crystals_are_split_and_never_shared(tmp_path):
    def cell(name, lengths):
        made = raw_phase(name)
        made.structure.lattice.setLatPar(*lengths)
        return made

    # the second aluminium is the same crystal, a little larger
    phases = [phase("Al"), cell("Al", (4.08,) * 3), phase("MgO"), phase("LiNiO2"), phase("Mg")]
    found = pyxem_dl.make_quartets(phases, tmp_path / "x.zarr", n=60, **SETTINGS)
    seen = set()
    for seed in range(8):
        training, validation = found.split(0.3, seed=seed)
        assert len(training) + len(validation) == 60 and len(validation)
        crystals = [{(0, 0, 1, 2, 3)[i] for i in part.phase_ids} for part in (training, validation)]
        assert not crystals[0] & crystals[1]
        assert {q.phase_id for q in validation} == set(validation.phase_ids)
        assert sum(len(b.phase_id) for b in validation.shards()) == len(validation)
        again = found.split(0.3, seed=seed)[1]
        np.testing.assert_array_equal(again.indices, validation.indices)
        seen.add(tuple(np.unique(validation.phase_ids)))
    assert len(seen) > 2
    with pytest.raises(ValueError, match="validation must be a number above 0 and up to 1"):
        found.split(0)
    with pytest.raises(ValueError, match="are of one crystal: they cannot be split"):
        found.split(0.2)[1].split()


def test_shards_come_in_a_random_order(made):
    orders = [[q.thickness[0] for q in made.shards(seed=seed)] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == sorted(orders[2])


# ---------------------------------------------------------------- what is refused
def test_large_cells_and_no_set_are_refused(tmp_path):
    from diffpy.structure import Atom, Lattice, Structure
    from orix.crystal_map import Phase

    places = np.stack(np.meshgrid(*[np.arange(10) / 10] * 3), -1).reshape(-1, 3)
    atoms = [Atom("Cu" if i else "Ag", xyz) for i, xyz in enumerate(places)]
    large = Phase("large", space_group=221, structure=Structure(atoms, Lattice(26, 26, 26, 90, 90, 90)))
    with pytest.raises(ValueError, match=r"more than 500 atoms .* 'large' \(1000 atoms\).*Leave them out"):
        pyxem_dl.make_quartets(large, tmp_path / "x.zarr", n=2, **SETTINGS)
    empty = Phase("empty", space_group=225, structure=Structure(lattice=Lattice(4, 4, 4, 90, 90, 90)))
    with pytest.raises(ValueError, match="has no atoms"):
        pyxem_dl.make_quartets(empty, tmp_path / "x.zarr", n=2, **SETTINGS)
    with pytest.raises(ValueError, match="ends with .zarr"):
        make(tmp_path / "x.h5")
    (tmp_path / "file.zarr").touch()
    with pytest.raises(NotADirectoryError, match="is a file, and no set"):
        make(tmp_path / "file.zarr")
    with pytest.raises(FileNotFoundError, match="There is no set.*make_quartets"):
        open_quartets(tmp_path / "nothing.zarr")
    with pytest.raises(ValueError, match="is no set of quartets"):
        open_quartets(tmp_path)
    for n in (0, -1, 2.5, "3"):
        with pytest.raises((ValueError, TypeError), match="n must be a whole number"):
            make(tmp_path / "x.zarr", n=n)
    assert not (tmp_path / "x.zarr").exists()


def changed(path, **entries):
    about = json.loads((path / ".zattrs").read_text())
    about["pyxem_dl_quartets"].update(entries)
    (path / ".zattrs").write_text(json.dumps(about))


def test_a_manifest_of_another_set_is_noticed(copied, tmp_path):
    other = make(tmp_path / "other.zarr", seed=3)
    shutil.copy(other.path / ".zattrs", copied / ".zattrs")
    for use in (open_quartets, lambda path: make(path, seed=3)):
        with pytest.raises(ValueError, match="its manifest does not fit the set: shard 0 was made with other settings"):
            use(copied)


def test_a_manifest_that_was_changed_is_noticed(copied):
    settings = json.loads((copied / ".zattrs").read_text())["pyxem_dl_quartets"]["settings"]
    changed(copied, settings=settings | {"thickness": [1, 2]})
    with pytest.raises(ValueError, match="its manifest was changed"):
        open_quartets(copied)


def test_a_set_of_another_version_is_not_read(copied):
    changed(copied, format=2, package_version="9.9")
    with pytest.raises(ValueError, match="another version: format 2, made by pyxem_dl '9.9'; this .* reads format 1"):
        open_quartets(copied)


@pytest.mark.parametrize("name", ["pattern/2.0.0", "disk_kx/2.0", "made/2", "phase_id/2"])
@pytest.mark.parametrize("how", ["gone", "cut off", "wrong bytes"])
def test_a_shard_that_is_missing_or_damaged_is_made_again(made, copied, name, how):
    file = copied / name
    content = file.read_bytes()
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(content[: len(content) // 2] if how == "cut off" else content[:-4] + b"\0\1\2\3")
    if how == "gone" or name == "made/2":
        with pytest.raises(ValueError, match="1 of 6 shards of .* are missing or not whole: 34 of 42"):
            open_quartets(copied)
        assert len(open_quartets(copied, allow_missing=True)) == 34
    else:
        found = open_quartets(copied)
        assert_same(found[0], made[0])
        with pytest.raises(ValueError, match=r"Shard 2 of .* is damaged .*Delete the file .*made/2 and repeat"):
            found[17]
        if how == "wrong bytes":  # which are not looked at where all is there
            (copied / "made" / "2").unlink()
    assert_same_sets(make(copied), made)


# ---------------------------------------------------------------- the command line
@pytest.fixture
def run(monkeypatch, tmp_path):
    """Call the command line in an empty folder with a CIF file."""
    from typer.testing import CliRunner

    from pyxem_dl import data
    from pyxem_dl.__main__ import app

    monkeypatch.chdir(tmp_path)
    shutil.copyfile(Path(data.__file__).parent.parent / "_data" / "MgO.cif", "MgO.cif")
    options = ["--no-progress", "--pixels", "32", "--reciprocal-radius", "1", "--semi-angle", "2"]
    return lambda *arguments: CliRunner().invoke(app, ["quartets", *arguments, *options])


def test_the_command_makes_and_continues_a_set(run):
    line = ["MgO.cif", "--output", "set.zarr", "--thickness", "40,200", "--tilt", "1"]
    result = run(*line, "-n", "3")
    assert result.exit_code == 0, result.output
    assert "3 quartets of 1 crystals are in set.zarr." in result.output
    found = open_quartets("set.zarr")
    assert found.settings.thickness == (40, 200) and found.settings.tilt == (1, 1) and found.settings.seed == 0
    result = run(*line, "-n", "5", "--threads", "1")
    assert result.exit_code == 0 and len(open_quartets("set.zarr")) == 5, result.output
    result = run(*line, "-n", "5", "--seed", "2")
    assert result.exit_code == 1 and "seed was 0 and is 2" in result.output and "--overwrite" in result.output
    assert run(*line, "-n", "4", "--seed", "2", "--overwrite").exit_code == 0


def test_the_command_draws_crystals_of_a_source(run):
    result = run("prototypes", "--crystals", "2", "--output", "set.zarr", "-n", "2")
    assert result.exit_code == 0 and "2 quartets of 2 crystals" in result.output, result.output
    assert all(each["source"]["source"] == "prototypes" for each in open_quartets("set.zarr").manifest["phases"])


@pytest.mark.parametrize("arguments, message", [
    (["none.cif", "-n", "2", "--output", "x.zarr"], "There is no structure file none.cif"),
    (["MgO.cif", "-n", "2", "--output", "x.zarr", "--thickness", "1,2,3"], "must be a number, or 'smallest,largest'"),
    (["MgO.cif", "-n", "2", "--output", "x.zarr", "--thickness", "9000"], "thickness must be a number from 1 to 5000"),
    (["MgO.cif", "-n", "2", "--output", "x.zarr", "--beam-energy", "20"], "beam_energy must be a number from 30"),
    (["MgO.cif", "-n", "2", "--output", "x.h5"], "ends with .zarr"),
    (["prototypez", "-n", "2", "--output", "x.zarr"], "Did you mean 'prototypes'"),
])  # fmt: skip
def test_the_command_says_what_is_wrong(run, arguments, message):
    result = run(*arguments)
    assert result.exit_code in (1, 2)
    assert message in " ".join(result.output.replace("│", " ").split())
    assert not Path("x.zarr").exists()


def test_multislice_makes_the_same_kind_of_set(tmp_path):
    pytest.importorskip("abtem", reason="needs the extra multislice")
    settings = {"engine": "multislice", "phases": ("Al",), "thickness": 40, "shard": 1}
    first = make(tmp_path / "x.zarr", n=1, **settings)[0]
    again = make(tmp_path / "x.zarr", n=2, **settings)
    assert_same(again[0], first)
    beams = make(tmp_path / "y.zarr", n=2, **(settings | {"engine": "many-beam"}))
    assert again.settings.engine == "multislice"
    for ours, theirs in zip(again, beams, strict=True):
        assert ours.thickness == theirs.thickness == 40
        np.testing.assert_array_equal(ours.orientation, theirs.orientation)
        np.testing.assert_array_equal(ours.probe, theirs.probe)
        assert np.corrcoef(np.sqrt(ours.pattern.ravel()), np.sqrt(theirs.pattern.ravel()))[0, 1] > 0.95
        both = set(map(tuple, ours.disks.hkl[:8].tolist())) & set(map(tuple, theirs.disks.hkl[:8].tolist()))
        assert len(both) >= 6
