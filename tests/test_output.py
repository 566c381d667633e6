"""What is computed is kept: whatever happens to the disk, to the process, and to the store of what is done."""

import dataclasses
import errno
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import dask.array as da
import hyperspy.api as hs
import numpy as np
import pytest
from fake_network import FakeNetwork, make_model, make_phase
from orix import io
from orix.crystal_map import CrystalMap
from pyxem.signals import DiffractionVectors
from typer.testing import CliRunner

from pyxem_dl import convert_result, networks, open_result, predict_orientation
from pyxem_dl.bragg_vectors import match_disks
from pyxem_dl.bragg_vectors.finders import CorrelationFinder
from pyxem_dl.bragg_vectors.step import DiskStep
from pyxem_dl.files import NotWritten, check_target
from pyxem_dl.frames import Calibration
from pyxem_dl.models import OrientationModel
from pyxem_dl.orientation import OrientationStep
from pyxem_dl.patterns.probes import Probe
from pyxem_dl.scans import Collected, Field, Part, ResultStore, Rows, make_signal
from pyxem_dl.scans.blocks import Blocks
from pyxem_dl.scans.fingerprint import fingerprint, pattern_checksums, source_of
from pyxem_dl.scans.output import FORMAT, Contents
from pyxem_dl.template_matching import match_templates
from pyxem_dl.template_matching.step import TemplateStep

QUIET = {"device": "cpu", "show_progressbar": False}
CALIBRATION = Calibration((0.1, 0.1), (12.0, 12.0), (25, 25), 200.0)
DISK = (np.hypot(*(np.indices((25, 25)) - 12)) < 3.3).astype(np.float32)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """A fake network, and blocks of few patterns: those of 4 x 5 positions are (1, 3), or dask's chunks (2, 2)."""
    small(monkeypatch.setattr)
    monkeypatch.setitem(networks.NETWORKS, "fake", FakeNetwork)


def small(set_attribute):
    set_attribute(OrientationModel, "micro_batch", 3)
    set_attribute(CorrelationFinder, "micro_batch", 3)


def make_scan(rng):
    """4 x 5 patterns with a direct beam and a disk somewhere."""
    patterns = np.stack([
        200 * DISK + 100 * np.roll(DISK, rng.integers(-8, 8, 2), (0, 1)) for _ in range(20)
    ])  # fmt: skip
    return rng.poisson(patterns + 0.5).reshape(4, 5, 25, 25).astype(np.float32)


@pytest.fixture
def scan(rng):
    return make_scan(rng)


def signal_of(data):
    return make_signal(data, CALIBRATION, "scan")


def lazy(data):
    return da.from_array(data, chunks=(2, 2, -1, -1))


class Maps:
    """Orientations into a map."""

    name, step = "map.h5", OrientationStep

    @staticmethod
    def run(data, path=None, **options):
        return predict_orientation(signal_of(data), make_model(), output=path, **(QUIET | {"batch_size": 3} | options))

    @staticmethod
    def same(found, path, data):
        expected = expected_of(Maps, data)
        for each in (found, read(path)):
            for name in ("scores", "phase_id", "x", "y"):
                np.testing.assert_array_equal(getattr(each, name), getattr(expected, name))
        np.testing.assert_array_equal(found.rotations.data, expected.rotations.data)
        np.testing.assert_allclose(np.abs(read(path).rotations.dot(expected.rotations)), 1, atol=1e-6)


class Vectors:
    """Disks by correlation into a file."""

    name, step = "vectors.hspy", DiskStep

    @staticmethod
    def run(data, path=None, **options):
        probe = Probe.from_image(DISK)
        return match_disks(signal_of(data), probe, output=path, **(QUIET | {"batch_size": 3} | options))

    @staticmethod
    def same(found, path, data):
        expected = expected_of(Vectors, data).data.ravel()
        for each in (found, read(path)):
            for table, right in zip(each.data.ravel(), expected, strict=True):
                np.testing.assert_array_equal(table, right)


def expected_of(kind, data, known={}):  # noqa: B006 (remembered: each takes a second)
    """What an undisturbed call gives."""
    key = kind.name, data.shape, data.tobytes()
    if key not in known:
        known[key] = kind.run(data)
    return known[key]


def read(path):
    if path.suffix == ".zarr":
        return open_result(path)
    return io.load(str(path)) if path.suffix == ".h5" else hs.load(path)


BOTH = pytest.mark.parametrize("kind", [Maps, Vectors], ids=["maps", "vectors"])
PLACES = pytest.mark.parametrize("as_store", [False, True], ids=["file", "store"])


def place(kind, folder, as_store=False):
    """Where a result goes, and where it is kept while it comes."""
    path = folder / ("found.zarr" if as_store else kind.name)
    return path, path if as_store else path.with_name(path.name + ".partial")


class Stop(Exception):
    """What ends a run early."""


def interrupted(kind, data, path, monkeypatch, after=3, error=Stop, **options):
    """Run until some batches are done; one thread does them in order."""
    original, calls = kind.step.__call__, []

    def stops(self, patterns, indices):
        if len(calls) == after:
            raise error
        calls.append(indices)
        return original(self, patterns, indices)

    with monkeypatch.context() as patch:
        patch.setattr(kind.step, "__call__", stops)
        with pytest.raises(error):
            kind.run(data, path, **options)
    store = path if path.suffix == ".zarr" else path.with_name(path.name + ".partial")
    assert store.is_dir()
    return store


def counted(kind, monkeypatch):
    """Positions that are done from now on."""
    original, seen = kind.step.__call__, []

    def counts(self, patterns, indices):
        seen.extend(indices.tolist())
        return original(self, patterns, indices)

    monkeypatch.setattr(kind.step, "__call__", counts)
    return seen


# ------------------------------------------------------------------ the store itself
FIELDS = {
    "score": Field((), "float32"), "rotations": Field((2, 4), "float64"), "rows": Field((3,), "float32", ragged=True),
}  # fmt: skip


def contents(shape=(4, 5), size=(2, 2), **changes):
    made = Contents("test", "f" * 64, Blocks(shape, size), FIELDS, {"a": [1, "b"]}, int(np.prod(shape)), [])
    return dataclasses.replace(made, **changes)


@pytest.fixture
def results(rng):
    """Of 20 positions, one of which has no rows."""
    tables = [rng.random((n % 4, 3)).astype(np.float32) for n in range(20)]
    return {"score": rng.random(20).astype(np.float32), "rotations": rng.random((20, 2, 4)), "rows": tables}


def part(results, indices):
    rows = [results["rows"][i] for i in indices]
    arrays = {name: results[name][indices] for name in ("score", "rotations")} | {"rows": Rows.of(rows)}
    return Part(np.asarray(indices), arrays)


def written(folder, results, indices, n=5):
    """Store with the results at some positions, as a run in batches of n leaves it."""
    store = ResultStore.create(folder / "x.zarr", contents(), Collected(20, FIELDS))
    store.expect(np.ones(20, bool))
    for start in range(0, len(indices), n):
        each = part(results, indices[start : start + n])
        store.collected.add(each)
        store.add(each)
    return store


@pytest.mark.parametrize("n", [1, 3, 20])
def test_what_is_written_is_read(tmp_path, results, rng, n):
    store = written(tmp_path, results, rng.permutation(20), n)
    found = ResultStore.open(store.path)
    assert found.n_kept == 20 and found.collected.done.all() and found.contents == store.contents
    for name in ("score", "rotations"):
        np.testing.assert_array_equal(found.collected.arrays[name], results[name])
        assert found.collected.arrays[name].dtype == FIELDS[name].dtype
    for table, right in zip(found.collected.tables("rows", (3,)), results["rows"], strict=True):
        np.testing.assert_array_equal(table, right)


def chunks(path):
    """All files of chunks, with when they were written."""
    files = (p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
    return {str(p.relative_to(path)): (p.stat().st_mtime_ns, p.stat().st_ino) for p in files}


def test_nothing_is_written_twice(tmp_path, results):
    store = ResultStore.create(tmp_path / "x.zarr", contents(), Collected(20, FIELDS))
    store.expect(np.ones(20, bool))
    before = {}
    for i in range(20):
        each = part(results, [i])
        store.collected.add(each)
        store.add(each)
        now = chunks(store.path)
        assert before.items() <= now.items(), "a chunk was written again"
        assert len(now) - len(before) in (0, 4), "a chunk is written when its block is whole, with all its fields"
        before = now
    assert store.finish() is None and chunks(store.path) == before
    assert len(before) == 4 * len(store.contents.blocks)


def test_blocks_that_are_not_whole_are_kept_at_the_end(tmp_path, results):
    store = written(tmp_path, results, np.arange(7))
    assert store.n_kept == 4  # of the first block, (2, 2)
    assert store.finish() is None and store.n_kept == 7
    found = ResultStore.open(store.path)
    np.testing.assert_array_equal(np.flatnonzero(found.collected.done), np.arange(7))
    np.testing.assert_array_equal(found.collected.arrays["score"][:7], results["score"][:7])
    # and go on
    found.expect(np.ones(20, bool))
    for each in (part(results, np.arange(7, 13)), part(results, np.arange(13, 20))):
        found.collected.add(each)
        found.add(each)
    again = ResultStore.open(store.path)
    assert again.n_kept == 20
    np.testing.assert_array_equal(again.collected.arrays["rotations"], results["rotations"])


def test_a_reader_sees_whole_blocks_while_another_writes(tmp_path, results):
    store = ResultStore.create(tmp_path / "x.zarr", contents(), Collected(20, FIELDS))
    store.expect(np.ones(20, bool))
    for i in range(20):
        each = part(results, [i])
        store.collected.add(each)
        store.add(each)
        found = ResultStore.open(store.path).collected
        assert found.n_done == store.n_kept
        np.testing.assert_array_equal(found.arrays["score"][found.done], results["score"][found.done])


@pytest.mark.parametrize(
    "entry, value",
    [
        ("shape", [10**9, 10**9]), ("shape", [4, 5, 6]), ("shape", []), ("shape", [4, -5]), ("shape", [4, 5.0]),
        ("shape", "4x5"), ("shape", [4, True]), ("block", [2]), ("block", [0, 2]), ("block", [8, 8]),
        ("fields", []), ("fields", {"x": [[2], "O", False]}), ("fields", {"x": [[2], "S5", False]}),
        ("fields", {"x": [[10**9], "f4", False]}), ("fields", {"x": [[2], "f4"]}),
        ("fields", {"x": [[-1], "f4", True]}),
        ("fields", {str(i): [[], "f4", False] for i in range(1000)}), ("about", None), ("about", 3),
        ("n_wanted", "many"), ("n_wanted", -1), ("source", 3), ("format", 0), ("format", "1"), ("format", None),
    ],
)  # fmt: skip
def test_what_no_store_can_say(tmp_path, results, entry, value):
    store = written(tmp_path, results, np.arange(20))
    change(store.path, lambda about: about.update({entry: value}))
    with pytest.raises(ValueError, match="x.zarr is damaged: its attributes"):
        ResultStore.open(store.path)


@pytest.mark.parametrize("name", ["../../../outside", "/etc", "a/b", "", ".", ".zattrs"])
def test_names_of_fields_stay_inside(tmp_path, results, name):
    store = written(tmp_path, results, np.arange(20))
    change(store.path, lambda about: about["fields"].update({name: [[], "float32", False]}))
    with pytest.raises(ValueError, match="x.zarr"):
        ResultStore.open(store.path)


def change(path, function):
    """Change what a store says of itself."""
    attributes = json.loads((path / ".zattrs").read_text())
    function(attributes["pyxem_dl"])
    (path / ".zattrs").write_text(json.dumps(attributes))


# ------------------------------------------------------------------ damages
def flip(where):
    def damage(path):
        raw = bytearray(path.read_bytes())
        raw[int(where * (len(raw) - 1))] ^= 0xFF
        path.write_bytes(raw)

    return damage


def link_to_nothing(path):
    shutil.rmtree(path)
    path.symlink_to(path.with_name("nothing"))


def a_file(path):
    shutil.rmtree(path)
    path.write_bytes(b"no store")


def of_array(entry, value):
    def damage(path):
        file = first_array(path) / ".zarray"
        file.write_text(json.dumps(json.loads(file.read_text()) | {entry: value}))

    return damage


def first_array(path):
    return min(p for p in path.iterdir() if p.is_dir())


def attributes(content):
    return lambda path: (path / ".zattrs").write_bytes(content)


WHOLE = {
    "empty attributes": attributes(b""),
    "attributes of zeros": attributes(bytes(1000)),
    "attributes of text": attributes(b"no results at all"),
    "attributes of a list": attributes(b"[1, 2]"),
    "attributes of others": attributes(b'{"pyxem_dl": {"format": 1}}'),
    "attributes of NaN": attributes(b'{"pyxem_dl": {"format": NaN}}'),
    "attributes in attributes": attributes(b'{"a":' * 50_000),
    "half of the attributes": lambda p: (p / ".zattrs").write_bytes((p / ".zattrs").read_bytes()[:-40]),
    "no attributes": lambda p: (p / ".zattrs").unlink(),
    "no group": lambda p: (p / ".zgroup").unlink(),
    "no array": lambda p: shutil.rmtree(first_array(p)),
    "an array without a description": lambda p: (first_array(p) / ".zarray").unlink(),
    "an array of text": lambda p: (first_array(p) / ".zarray").write_text("x"),
    "an array of another shape": of_array("shape", [4, 6]),
    "an array of other chunks": of_array("chunks", [4, 5]),
    "an array of another dtype": of_array("dtype", "<i2"),
    "an array of another order": of_array("order", "F"),
    "an array of another codec": of_array("compressor", {"id": "zlib", "level": 1}),
    "an array without checksums": of_array("filters", None),
    "a link to nothing": link_to_nothing,
    "a file": a_file,
    "an empty folder": lambda p: [shutil.rmtree(p), p.mkdir()],
}


@pytest.mark.parametrize("damage", WHOLE)
def test_a_store_that_cannot_be_used_says_so(damage, tmp_path, results):
    store = written(tmp_path, results, np.arange(20))
    WHOLE[damage](store.path)
    with pytest.raises((ValueError, FileNotFoundError), match="x.zarr"):
        ResultStore.open(store.path)


SOME = ["no attributes", "no array", "an array of another codec", "a link to nothing", "a file"]


@pytest.mark.parametrize("kind, damage", [*((Maps, damage) for damage in SOME), (Vectors, "empty attributes")])
def test_a_store_that_cannot_be_used_is_put_aside(kind, damage, scan, tmp_path, monkeypatch, capsys):
    path, kept = place(kind, tmp_path)
    interrupted(kind, scan, path, monkeypatch)
    WHOLE[damage](kept)
    capsys.readouterr()
    found = kind.run(scan, path)
    said = capsys.readouterr().out
    assert "cannot be used (" in said and "starting again. It was renamed to" in said
    kind.same(found, path, scan)
    # nothing is lost: not even what is damaged
    assert sorted(p.name for p in tmp_path.iterdir()) == [kind.name, f"{kind.name}.partial.damaged"]


@pytest.mark.parametrize("damage", SOME)
def test_a_store_that_is_the_result_is_not_replaced_unasked(damage, scan, tmp_path, monkeypatch):
    path, _ = place(Maps, tmp_path, as_store=True)
    interrupted(Maps, scan, path, monkeypatch)
    WHOLE[damage](path)
    with pytest.raises(FileExistsError, match=r"found.zarr cannot be used \(.*Give another name, or overwrite=True"):
        Maps.run(scan, path)
    Maps.same(Maps.run(scan, path, overwrite=True), path, scan)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["found.zarr", "found.zarr.damaged"]


def test_data_that_are_a_store_of_zarr_are_not_replaced(scan, tmp_path):
    """The scan itself, given as output by mistake."""
    import zarr

    path = tmp_path / "scan.zarr"
    zarr.save(str(path), scan)
    before = chunks(path)
    with pytest.raises(FileExistsError, match="is no store of pyxem_dl's results"):
        Maps.run(scan, path)
    assert chunks(path) == before


CHUNK = {
    "empty": lambda p: p.write_bytes(b""),
    "one byte": lambda p: p.write_bytes(b"\2"),
    "text": lambda p: p.write_text("no chunk at all, but a text of some length " * 10),
    "zeros": lambda p: p.write_bytes(bytes(p.stat().st_size)),
    "longer": lambda p: p.write_bytes(p.read_bytes() + bytes(16)),
    "truncated": lambda p: p.write_bytes(p.read_bytes()[:-7]),
    "half": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "first bits": flip(0),
    "bits of the header": lambda p: p.write_bytes(p.read_bytes()[:5] + b"\xff" + p.read_bytes()[6:]),
    "bits in the middle": flip(0.5),
    "last bits": flip(1),
    "gone": lambda p: p.unlink(),
    "a folder": lambda p: [p.unlink(), p.mkdir()],
    "a link to nothing": lambda p: [p.unlink(), p.symlink_to("nothing")],
    "a link to a device": lambda p: [p.unlink(), p.symlink_to("/dev/zero")],
}


@pytest.mark.parametrize("damage", CHUNK)
@pytest.mark.parametrize("field", [*FIELDS, "done"])
def test_a_block_that_is_damaged_is_not_done(damage, field, tmp_path, results):
    store = written(tmp_path, results, np.arange(20))
    CHUNK[damage](min(p for p in (store.path / field).iterdir() if p.name[0] != "."))
    with warnings_of(damage not in NOT_THERE, "1 of 6 blocks in .* are damaged .*: their 4 positions count as not"):
        found = ResultStore.open(store.path)
    assert found.n_kept == 16
    done = found.collected.done
    np.testing.assert_array_equal(np.flatnonzero(~done), [0, 1, 5, 6])
    np.testing.assert_array_equal(found.collected.arrays["rotations"][done], results["rotations"][done])


@pytest.mark.parametrize("kind, damage", [(Maps, "half"), (Maps, "gone"), (Vectors, "bits in the middle")])
@PLACES
def test_a_block_that_is_damaged_is_done_again(kind, damage, as_store, scan, tmp_path, monkeypatch):
    path, kept = place(kind, tmp_path, as_store)
    interrupted(kind, scan, path, monkeypatch, after=4)
    assert ResultStore.open(kept).n_kept == 12
    CHUNK[damage](min(p for p in first_array(kept).iterdir() if p.name[0] == "0"))
    seen = counted(kind, monkeypatch)
    with warnings_of(damage not in NOT_THERE, "1 of 8 blocks in .* are damaged .*: their 3 positions count as not"):
        found = kind.run(scan, path)
    # and the eight of the 20 that were not done
    assert sorted(seen) == [0, 1, 2, *range(12, 20)]
    kind.same(found, path, scan)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


NOT_THERE = ("gone", "a folder", "a link to nothing", "a link to a device")


@contextmanager
def warnings_of(there, text):
    """The warning of damaged blocks, or none."""
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        yield
    said = [str(each.message) for each in record if "damaged" in str(each.message)]
    assert len(said) == there
    if there:
        assert re.search(text, said[0])


# ------------------------------------------------------------------ the same work?
@BOTH
@pytest.mark.parametrize("lazily", [False, True], ids=["memory", "lazy"])
@PLACES
def test_the_same_work_goes_on(kind, lazily, as_store, scan, tmp_path, monkeypatch, capsys):
    (path, kept), data = place(kind, tmp_path, as_store), lazy(scan) if lazily else scan
    interrupted(kind, data, path, monkeypatch)
    assert f"9 of 20 patterns are saved in {kept}" in capsys.readouterr().out
    seen = counted(kind, monkeypatch)
    found = kind.run(data, path)
    assert "Continuing after 9 patterns" in capsys.readouterr().out
    assert len(seen) == 11
    kind.same(found, path, scan)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@BOTH
def test_finished_work_is_not_done_again(kind, scan, tmp_path, monkeypatch, capsys):
    path = tmp_path / "found.zarr"
    kind.run(lazy(scan), path)
    before = chunks(path)
    capsys.readouterr()
    with monkeypatch.context() as patch:
        seen = counted(kind, patch)
        found = kind.run(lazy(scan), path)
    assert "All 20 patterns are done" in capsys.readouterr().out
    assert not seen and chunks(path) == before
    kind.same(found, path, scan)


@BOTH
@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt, MemoryError, RuntimeError("CUDA error: device lost")])
def test_whatever_ends_a_run_what_is_done_is_kept(kind, error, scan, tmp_path, monkeypatch, capsys):
    interrupted(kind, scan, tmp_path / kind.name, monkeypatch, error=error if isinstance(error, type) else type(error))
    assert "9 of 20 patterns are saved in" in capsys.readouterr().out
    assert ResultStore.open(tmp_path / f"{kind.name}.partial").n_kept == 9


@BOTH
@pytest.mark.parametrize("where", [2, 18], ids=["done", "not done"])
def test_of_a_scan_in_memory_every_pattern_counts(kind, where, scan, tmp_path, monkeypatch, capsys):
    path, other = tmp_path / kind.name, scan.copy()
    other.reshape(20, 25, 25)[where] = other.reshape(20, 25, 25)[where, ::-1]  # with the same sum
    partial = interrupted(kind, scan, path, monkeypatch)
    kind.same(kind.run(other, path), path, other)
    assert "belongs to another signal, model or setting, or to another version" in capsys.readouterr().out
    assert partial.with_name(partial.name + ".old").exists()


@BOTH
def test_of_a_scan_on_the_disk_what_is_done_counts(kind, scan, tmp_path, monkeypatch, capsys):
    path, other = tmp_path / kind.name, scan.copy()
    interrupted(kind, lazy(scan), path, monkeypatch)
    other[0, 1] = other[0, 1, ::-1]
    kind.same(kind.run(lazy(other), path), path, other)
    assert "belongs to other patterns: starting again" in capsys.readouterr().out


@BOTH
def test_a_spread_of_what_is_done_is_read_again(kind, scan, tmp_path, monkeypatch, capsys):
    """Where the scan is too large for all of it."""
    monkeypatch.setattr("pyxem_dl.scans.fingerprint._LOOKED_AT_BYTES", 0)
    path, other = tmp_path / kind.name, scan.copy()
    partial = interrupted(kind, lazy(scan), path, monkeypatch)
    store = ResultStore.open(partial)
    done = np.flatnonzero(store.collected.done)
    assert len(done) == 9
    np.testing.assert_array_equal(
        store.collected.arrays["checksum"][done], pattern_checksums(scan.reshape(20, 25, 25)[done])
    )  # fmt: skip
    other.reshape(20, 25, 25)[done[-1]] += 1
    kind.same(kind.run(lazy(other), path), path, other)
    assert "belongs to other patterns: starting again" in capsys.readouterr().out


def test_a_file_with_another_date_is_compared_and_goes_on(scan, tmp_path, monkeypatch, capsys):
    """As of a scan that is copied anew to the disk of every node."""
    file, path = tmp_path / "scan.hspy", tmp_path / "found.zarr"
    signal_of(scan).save(file, chunks=(2, 2, 25, 25))

    def run():
        with monkeypatch.context() as patch:
            patch.setattr(sys.modules[__name__], "signal_of", lambda data: data)
            return Maps.run(hs.load(file, lazy=True), path)

    interrupted_at, original = [], OrientationStep.__call__

    def stops(self, patterns, indices):
        if len(interrupted_at) == 3:
            raise Stop
        interrupted_at.append(indices)
        return original(self, patterns, indices)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(OrientationStep, "__call__", stops)
        run()
    os.utime(file, (1, 1))
    Maps.same(run(), path, scan)
    assert "Continuing after 9 patterns" in capsys.readouterr().out
    changed = scan.copy()
    changed[0, 0] += 1
    signal_of(changed).save(file, chunks=(2, 2, 25, 25), overwrite=True)
    with pytest.raises(FileExistsError, match="belongs to other patterns. Give another name, or overwrite=True"):
        run()


@pytest.mark.parametrize("change", ["model", "n_best", "signal mask", "navigation mask", "center", "shape"])
@PLACES
def test_what_another_call_left_is_not_taken(change, as_store, scan, tmp_path, monkeypatch, capsys):
    path, kept = place(Maps, tmp_path, as_store)
    interrupted(Maps, lazy(scan), path, monkeypatch)
    data, model, options = lazy(scan), make_model(), {}
    if change == "model":
        model.thresholds["crystal"] = 0.1
    elif change == "shape":
        data = lazy(scan[:, :4])
    elif change == "navigation mask":
        options["navigation_mask"] = np.eye(4, 5, dtype=bool)
    elif change == "signal mask":
        options["signal_mask"] = np.eye(25, dtype=bool)
    else:
        options[change] = {"n_best": 3, "center": (12.5, 12)}[change]

    def run(**more):
        return predict_orientation(signal_of(data), model, output=path, **QUIET, **options, **more)

    if as_store:
        with pytest.raises(FileExistsError, match="belongs to another signal, model or setting"):
            run()
    found = run(overwrite=as_store)
    assert "starting again" in capsys.readouterr().out
    expected = predict_orientation(signal_of(data), model, **QUIET, **options)
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert kept.with_name(kept.name + ".old").is_dir()


@PLACES
def test_results_of_a_newer_version(as_store, scan, tmp_path, monkeypatch, capsys):
    path, kept = place(Maps, tmp_path, as_store)
    interrupted(Maps, scan, path, monkeypatch)
    change(kept, lambda about: about.update(format=FORMAT + 1, package_version="9.0"))
    with pytest.raises(ValueError, match=r"written by pyxem_dl 9.0, in format 2; .* reads up to 1. Update"):
        open_result(kept)
    if as_store:
        with pytest.raises(FileExistsError, match="9.0, in format 2.*Give another name"):
            Maps.run(scan, path)
        return
    Maps.same(Maps.run(scan, path), path, scan)
    assert "9.0, in format 2" in capsys.readouterr().out
    assert (tmp_path / "map.h5.partial.newer").is_dir()


def test_a_second_damaged_store_does_not_replace_the_first(scan, tmp_path):
    path = tmp_path / "map.h5"
    for text in ("a", "b"):
        path.with_name("map.h5.partial").write_text(text)
        Maps.run(scan, path, overwrite=True)
    assert (tmp_path / "map.h5.partial.damaged").read_text() == "a"
    assert (tmp_path / "map.h5.partial.damaged2").read_text() == "b"


def test_what_a_fingerprint_looks_at(scan):
    base = fingerprint(scan, [1], (None, "auto"))
    assert base == fingerprint(scan.copy(), [1], (None, "auto"))
    assert base == fingerprint(np.asfortranarray(scan), [1], (None, "auto"))
    others = [
        fingerprint(scan, [2], (None, "auto")), fingerprint(scan, [1], (np.zeros(2), "auto")),
        fingerprint(scan.reshape(5, 4, 25, 25), [1], (None, "auto")), fingerprint(scan, [1], (None, "auto"), ["file"]),
        fingerprint(scan.astype(float), [1], (None, "auto")), fingerprint(scan[0], [1], (None, "auto")),
    ]  # fmt: skip
    assert len({base, *others}) == 7
    assert fingerprint(lazy(scan), [], ()) != fingerprint(lazy(scan + 1), [], ())
    assert fingerprint(lazy(scan), [], (), on_disk=False) == fingerprint(lazy(scan + 1), [], (), on_disk=False)


def test_tables_are_known_by_their_numbers(rng):
    """Not by where they lie in the memory."""

    def tables(numbers):
        made = np.empty(len(numbers), dtype=object)
        made[:] = [np.array(n, dtype=float).reshape(-1, 1) for n in numbers]
        return made

    base = fingerprint(tables([[1, 2], [3]]), [], ())
    assert base == fingerprint(tables([[1, 2], [3]]), [], ())
    assert len({base, fingerprint(tables([[1], [2, 3]]), [], ()), fingerprint(tables([[1, 2], [4]]), [], ())}) == 3


def test_checksums_of_patterns(rng):
    for dtype in ("u1", "u2", ">i4", "f8"):
        patterns = rng.integers(0, 100, (6, 5, 7)).astype(dtype)
        sums = pattern_checksums(patterns)
        assert sums.dtype == np.uint64
        np.testing.assert_array_equal(sums, [pattern_checksums(p[None])[0] for p in patterns])
        patterns[1], patterns[2] = patterns[0, ::-1], patterns[0] + np.eye(5, 7).astype(dtype)
        assert len(set(pattern_checksums(patterns).tolist())) == 6


def test_the_file_of_a_scan_is_looked_at(scan, tmp_path):
    path = tmp_path / "scan.hspy"
    signal_of(scan).save(path)
    assert source_of(hs.load(path, lazy=True)) == ["scan.hspy", path.stat().st_size, path.stat().st_mtime_ns]
    assert source_of(signal_of(scan)) == [""]


# ------------------------------------------------------------------ full disks
@BOTH
@PLACES
def test_a_disk_that_is_full_for_a_while_loses_nothing(kind, as_store, scan, tmp_path, monkeypatch):
    original, calls = ResultStore._write, []

    def write_sometimes(self, i):
        calls.append(i)
        if len(calls) in (2, 3):
            raise OSError(errno.ENOSPC, "No space left on device")
        original(self, i)

    monkeypatch.setattr(ResultStore, "_write", write_sometimes)
    path, _ = place(kind, tmp_path, as_store)
    with pytest.warns(UserWarning, match="No space left.*patterns are done and in memory, 3 of them are in the file"):
        found = kind.run(scan, path)
    assert calls == [*range(8), 1, 2], "what there was no room for is written at the end"
    kind.same(found, path, scan)


def full_arrays(monkeypatch, name):
    """A disk that has no room for one array's chunks: the others of the block may be there."""
    import zarr

    original = zarr.DirectoryStore.__setitem__

    def set_item(self, key, value):
        if key.startswith(name + "/") and not key.endswith(".zarray"):
            raise OSError(errno.ENOSPC, "No space left on device")
        original(self, key, value)

    monkeypatch.setattr(zarr.DirectoryStore, "__setitem__", set_item)


@BOTH
@pytest.mark.parametrize("name", ["first", "done"])
def test_a_disk_that_stays_full(kind, name, scan, tmp_path, monkeypatch):
    path = tmp_path / "found.zarr"
    with monkeypatch.context() as patch:
        full_arrays(patch, {"first": {"map.h5": "rotations"}.get(kind.name, "disks"), "done": "done"}[name])
        with (
            pytest.warns(UserWarning, match="No space left"),
            pytest.raises(NotWritten, match="found.zarr could not be written: .*No space left.* 0 of 20 pat") as error,
        ):
            kind.run(scan, path)
    assert ResultStore.open(path).n_kept == 0
    kind.same(kind.run(scan, path), path, scan)
    kind.same(error.value.result, path, scan)


@BOTH
def test_a_file_that_cannot_be_written_is_not_lost(kind, scan, tmp_path, monkeypatch):
    path = tmp_path / kind.name

    def full(*_, **__):
        raise RuntimeError("Can't decrement id ref count (unable to extend file properly)")

    with monkeypatch.context() as patch:
        for module in ("results.map_files.write_map", "bragg_vectors.searching.write_vectors"):
            patch.setattr(f"pyxem_dl.{module}", full)
        with pytest.raises(NotWritten, match="could not be written: .*20 of 20 patterns are saved in ") as error:
            kind.run(scan, path)
    assert [p.name for p in tmp_path.iterdir()] == [f"{kind.name}.partial"]
    seen = counted(kind, monkeypatch)
    found = kind.run(scan, path)
    assert not seen
    kind.same(found, path, scan)
    kind.same(error.value.result, path, scan)


LIMITED = """
import resource, sys
import numpy as np
import test_output as t
from pathlib import Path
t.networks.NETWORKS["fake"] = t.FakeNetwork
t.small(setattr)
folder, scan = Path(sys.argv[1]), np.load(sys.argv[1] + "/scan.npy")
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
for kind in (t.Maps, t.Vectors):
    kind.run(scan, folder / ("warm" + kind.name))  # all that is imported and compiled is there
    for limit in (6000, 0):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            kind.run(scan, folder / f"{limit} {kind.name}")
        except OSError as error:
            print(f"{limit} {kind.name}: {type(error).__name__} {error}")
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limits of files")
def test_no_room_for_large_files(scan, tmp_path):
    """The system itself refuses to write more: what is kept is whole, or not there."""
    np.save(tmp_path / "scan.npy", scan)
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, timeout=300,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )  # fmt: skip
    for kind in (Maps, Vectors):
        enough, none = tmp_path / f"6000 {kind.name}", tmp_path / f"0 {kind.name}"
        assert re.search(f"6000 {kind.name}: NotWritten .*20 of 20 patterns are saved", run.stdout), run.stdout
        assert re.search(f"0 {kind.name}: OSError .*", run.stdout), run.stdout
        assert not enough.exists() and not none.exists() and not list(tmp_path.glob(".*unfinished*"))
        assert ResultStore.open(tmp_path / f"{enough.name}.partial").n_kept == 20
        for path in (enough, none):
            kind.same(kind.run(scan, path), path, scan)


@BOTH
def test_a_disk_without_room_is_seen_before_the_work(kind, scan, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    monkeypatch.setattr(kind.step, "__call__", lambda *_: 1 / 0)
    for name in (kind.name, "found.zarr"):
        with pytest.raises(OSError, match="needs about .* MB, but .* has 0.0001 MB left"):
            kind.run(scan, tmp_path / name)


# ------------------------------------------------------------------ two at once
@BOTH
@PLACES
def test_two_processes_on_one_output(kind, as_store, scan, tmp_path, monkeypatch):
    """The second says so; the first goes on."""
    (path, _), original, refused = place(kind, tmp_path, as_store), ResultStore.add, []
    code = f"from pyxem_dl.files import claimed\nwith claimed({str(path)!r}): pass"

    def meanwhile(self, part):
        if not refused:
            command = [sys.executable, "-c", code]
            refused.append(subprocess.run(command, capture_output=True, text=True, timeout=120).stderr)
            with pytest.raises(BlockingIOError, match="is being written by another process"):
                kind.run(scan, path)  # another thread, or a call inside of this one
        original(self, part)

    monkeypatch.setattr(ResultStore, "add", meanwhile)
    kind.same(kind.run(scan, path), path, scan)
    assert f"{path} is being written by another process, which holds" in refused[0]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@BOTH
@pytest.mark.parametrize("answer", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def test_a_file_system_without_locks(kind, answer, scan, tmp_path, monkeypatch):
    """As some network shares: the work is done, with a warning."""
    fcntl = pytest.importorskip("fcntl")
    original = fcntl.flock

    def flock(descriptor, operation):
        if operation & fcntl.LOCK_UN:
            return original(descriptor, operation)
        raise OSError(getattr(errno, answer), os.strerror(getattr(errno, answer)))

    monkeypatch.setattr(fcntl, "flock", flock)
    path = tmp_path / "found.zarr"
    with pytest.warns(UserWarning, match="not support file locks|not supported"):
        kind.same(kind.run(scan, path), path, scan)
    assert [p.name for p in tmp_path.iterdir()] == ["found.zarr"]


WATCHED = """
import sys
from pathlib import Path
from pyxem_dl.scans import ResultStore
seen = []
while not seen or seen[-1] < 20:
    try:
        seen.append(ResultStore.open(Path(sys.argv[1])).n_kept)
    except (FileNotFoundError, ValueError):
        seen.append(0)  # not there yet
    print(seen[-1], flush=True)
"""


def test_another_process_reads_while_one_writes(scan, tmp_path, monkeypatch):
    """Every look gives whole blocks, more and more."""
    path, original = tmp_path / "found.zarr", ResultStore.add
    reader = subprocess.Popen(
        [sys.executable, "-W", "error::UserWarning", "-c", WATCHED, str(path)], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert reader.stdout.readline() == "0\n"

        def add(self, part):
            original(self, part)
            while self.n_kept > int(reader.stdout.readline()):
                pass  # until the reader has seen it

        monkeypatch.setattr(ResultStore, "add", add)
        Maps.run(scan, path)
        out, err = reader.communicate(timeout=60)
        assert reader.returncode == 0, err
    finally:
        reader.kill()


# ------------------------------------------------------------------ files
@BOTH
def test_nothing_is_left_of_a_process_that_was_killed_while_it_wrote(kind, scan, tmp_path, monkeypatch):
    path = tmp_path / kind.name
    store = interrupted(kind, scan, path, monkeypatch)
    left = [store / "done" / "0.3.0123abcd.partial", tmp_path / f".{path.stem}.0123abcd.unfinished{path.suffix}"]
    another = tmp_path / ".another.0123abcd.unfinished.h5"
    for each in (*left, another):
        each.write_bytes(b"half")
    original = ResultStore.expect

    def expect(self, wanted):
        assert not any(each.exists() for each in left) and another.exists()
        original(self, wanted)

    monkeypatch.setattr(ResultStore, "expect", expect)
    kind.same(kind.run(scan, path), path, scan)


def test_several_processes_may_try_the_same_folder_at_once(tmp_path, monkeypatch):
    path, touch = tmp_path / "trials" / "1" / "config.json", Path.touch

    def touch_while_another_tries(self, *args, **kwargs):
        touch(self, *args, **kwargs)
        monkeypatch.undo()
        check_target(path.parent.with_name("2") / path.name)

    monkeypatch.setattr(Path, "touch", touch_while_another_tries)
    assert check_target(path) == path
    assert not list(tmp_path.iterdir())


def test_a_text_format_that_cannot_hold_the_map_is_refused_before_the_work(scan, tmp_path, monkeypatch):
    monkeypatch.setattr(OrientationStep, "__call__", lambda *_: 1 / 0)
    with pytest.raises(ValueError, match="single pattern"):
        Maps.run(scan[0, 0], tmp_path / "map.ang")
    mask = np.arange(20).reshape(4, 5) != 3
    with pytest.raises(ValueError, match="single pattern"):
        Maps.run(scan, tmp_path / "map.ctf", navigation_mask=mask)


@pytest.mark.parametrize("kind, name", [(Maps, "map.csv"), (Vectors, "map.csv"), (Maps, "map"), (Maps, "map.zspy")])
def test_a_name_that_tells_no_format(kind, name, scan, tmp_path):
    with pytest.raises(ValueError, match=r"saved as \.h.*, not as .*also takes .zarr"):
        kind.run(scan, tmp_path / name)


@BOTH
def test_a_file_that_is_there_is_not_replaced_unasked(kind, scan, tmp_path, monkeypatch):
    path = tmp_path / kind.name
    path.write_text("precious")
    with monkeypatch.context() as patch, pytest.raises(FileExistsError, match="Give another name, or overwrite=True"):
        patch.setattr(kind.step, "__call__", lambda *_: 1 / 0)
        kind.run(scan, path)
    assert path.read_text() == "precious"
    kind.same(kind.run(scan, path, overwrite=True), path, scan)


# ------------------------------------------------------------------ stores that are opened
@pytest.mark.parametrize("shape", [(4, 5), (6,), ()])
@BOTH
def test_a_store_opens_as_the_result(kind, shape, scan, tmp_path):
    data, path = scan.reshape(20, 25, 25)[: int(np.prod(shape, dtype=int))].reshape(*shape, 25, 25), tmp_path / "x.zarr"
    found = kind.run(data, path)
    opened = open_result(path)
    if kind is Maps:
        assert isinstance(opened, CrystalMap) and opened.shape == found.shape and opened.scan_unit == found.scan_unit
        assert opened.phases.names == found.phases.names
        assert opened.phases[0].point_group == found.phases[0].point_group
        assert set(opened.prop) == set(found.prop)
        for name in opened.prop:
            np.testing.assert_array_equal(opened.prop[name], found.prop[name])
        np.testing.assert_array_equal(opened.rotations.data, found.rotations.data)
        return
    assert isinstance(opened, DiffractionVectors) and opened.data.shape == found.data.shape
    for name in ("scales", "offsets", "detector_shape", "column_names", "units"):
        np.testing.assert_array_equal(getattr(opened, name), getattr(found, name))
    assert str(opened.axes_manager) == str(found.axes_manager)
    assert opened.metadata.General.as_dictionary() == found.metadata.General.as_dictionary()
    energy = "Acquisition_instrument.TEM.beam_energy"
    assert opened.metadata.get_item(energy) == found.metadata.get_item(energy) == 200
    for table, right in zip(opened.data.ravel(), found.data.ravel(), strict=True):
        np.testing.assert_array_equal(table, right)


def test_several_orientations_and_masks_in_a_store(scan, tmp_path):
    mask, path = np.arange(20).reshape(4, 5) % 3 == 0, tmp_path / "x.zarr"
    found = Maps.run(scan, path, n_best=3, navigation_mask=mask)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        opened = open_result(path)
    assert opened.rotations_per_point == 3
    np.testing.assert_array_equal(opened.is_in_data, ~mask.ravel())
    np.testing.assert_array_equal(opened.scores, found.scores)
    assert ResultStore.open(path).n_kept == (~mask).sum()


def test_matched_templates_in_a_store(scan, tmp_path, monkeypatch):
    """Of patterns and of vectors, interrupted and not."""
    monkeypatch.setattr(TemplateStep, "keep_every", 3, raising=False)
    vectors = expected_of(Vectors, scan)
    settings = {"resolution": 8.0, **QUIET}
    for name, signal in {"patterns": signal_of(scan), "vectors": vectors}.items():
        path, calls, original = tmp_path / f"{name}.zarr", [], TemplateStep.__call__
        expected = match_templates(signal, make_phase(), **settings)

        def stops(self, patterns, indices, calls=calls, original=original):
            calls.append(indices)
            if len(calls) == 1:
                raise Stop
            return original(self, patterns, indices)

        with monkeypatch.context() as patch, pytest.raises(Stop):
            patch.setattr(TemplateStep, "__call__", stops)
            match_templates(signal, make_phase(), output=path, **settings)
        found = match_templates(signal.deepcopy(), make_phase(), output=path, **settings)
        for each in (found, open_result(path)):
            np.testing.assert_array_equal(each.rotations.data, expected.rotations.data)
            np.testing.assert_array_equal(each.prop["simulation_indices"], expected.prop["simulation_indices"])


@BOTH
@PLACES
def test_what_is_done_of_unfinished_work_opens_with_both_numbers(kind, as_store, scan, tmp_path, monkeypatch):
    path, kept = place(kind, tmp_path, as_store)
    interrupted(kind, scan, path, monkeypatch)
    with pytest.warns(UserWarning, match=r"9 of 20 patterns are done in .*Repeat the call to finish it"):
        opened = open_result(kept)
    if kind is Maps:
        assert opened.is_in_data.sum() == 9
    else:
        assert sum(len(table) > 0 for table in opened.data.ravel()) == 9


@pytest.mark.parametrize(
    "make, error, text",
    [
        (lambda p: None, FileNotFoundError, "There is no store .*x.zarr"),
        (lambda p: p.mkdir(), ValueError, "x.zarr is no store of pyxem_dl's results"),
        (lambda p: p.write_text("x"), ValueError, "x.zarr is no store of pyxem_dl's results"),
    ],
)
def test_what_cannot_be_opened(make, error, text, tmp_path):
    make(tmp_path / "x.zarr")
    with pytest.raises(error, match=text):
        open_result(tmp_path / "x.zarr")


def test_results_of_a_kind_that_is_not_known(tmp_path, results):
    store = written(tmp_path, results, np.arange(20))
    with pytest.raises(ValueError, match="holds 'test', which this version of pyxem_dl does not know"):
        open_result(store.path)


@pytest.mark.parametrize("kind, endings", [(Maps, [".h5", ".ang", ".ctf"]), (Vectors, [".hspy", ".zspy", ".emd"])])
def test_a_store_converts_into_files(kind, endings, scan, tmp_path):
    from pyxem_dl.commands import app

    path = tmp_path / "found.zarr"
    found = kind.run(scan, path)
    for ending in endings:
        output = tmp_path / f"found{ending}"
        done = CliRunner().invoke(app, ["convert", str(path), str(output)])
        assert done.exit_code == 0, done.output
        assert f"{output} is written" in done.output.replace("\n", "")
        again = CliRunner().invoke(app, ["convert", str(path), str(output)])
        assert again.exit_code == 1 and "already exists" in again.output
    kind.same(found, tmp_path / f"found{endings[0]}", scan)
    with pytest.raises(ValueError, match="saved as"):
        convert_result(path, tmp_path / "found.png")


def test_commands_into_a_store(scan, tmp_path):
    from pyxem_dl.commands import app

    signal_of(scan).save(tmp_path / "scan.hspy")
    command = ["vectors", str(tmp_path / "scan.hspy"), "--correlation", "--output", str(tmp_path / "found.zarr")]
    for said in ("disks of 20 positions are in", "All 20 patterns are done"):
        done = CliRunner().invoke(app, [*command, "--device", "cpu", "--no-progress"])
        assert done.exit_code == 0 and said in done.output, done.output
    assert open_result(tmp_path / "found.zarr").data.shape == (4, 5)


# ------------------------------------------------------------------ chunks that cannot be read
class Damaged:
    """A file of which a chunk cannot be read, until it is mended."""

    def __init__(self, scan):
        self.scan, self.mended = scan, False

    def __call__(self, x, block_info=None):
        if not self.mended and block_info[0]["chunk-location"][:2] == (1, 1):
            raise RuntimeError("error during blosc decompression: -1")
        return x

    @property
    def data(self):
        return lazy(self.scan).map_blocks(self, dtype=self.scan.dtype, meta=self.scan[:0])


@BOTH
@PLACES
def test_a_chunk_that_cannot_be_read_is_done_when_it_can(kind, as_store, scan, tmp_path, monkeypatch, capsys):
    file, (path, kept) = Damaged(scan), place(kind, tmp_path, as_store)
    again = "" if as_store else " with overwrite=True"
    for said in ("", "Continuing after 16 patterns"):  # also where all that is left cannot be read
        with pytest.warns(UserWarning, match=r"4 patterns could not be read .*12-13, 17-18; Runt"):
            found = kind.run(file.data, path, overwrite=not as_store)
        out = capsys.readouterr().out
        assert said in out and f"16 of 20 patterns are saved in {kept}: repeat the call{again} to do the rest" in out
        if kind is Maps:
            assert found.is_in_data.sum() == read(path).is_in_data.sum() == 16
        else:
            assert sum(len(table) > 0 for table in found.data.ravel()) == 16
    file.mended, seen = True, counted(kind, monkeypatch)
    found = kind.run(file.data, path, overwrite=not as_store)
    assert sorted(seen) == [12, 13, 17, 18] and not list(tmp_path.glob("*.partial"))
    kind.same(found, path, scan)


def test_a_sample_leaves_out_what_cannot_be_read(scan):
    from pyxem_dl.scans import read_sample

    sample = read_sample(Damaged(scan).data, np.zeros(20, bool))
    np.testing.assert_array_equal(sample.indices, np.delete(np.arange(20), [12, 13, 17, 18]))
    np.testing.assert_array_equal(sample.patterns, scan.reshape(20, 25, 25)[sample.indices])


def test_the_error_of_a_store_of_another_run_is_said_once(scan, tmp_path):
    Maps.run(scan, tmp_path / "x.zarr")
    with pytest.raises(FileExistsError) as error:
        Maps.run(scan, tmp_path / "x.zarr", n_best=2)
    assert str(error.value) == (
        f"{tmp_path / 'x.zarr'} belongs to another signal, model or setting, or to another version of pyxem_dl. Give "
        "another name, or overwrite=True to start again: what is there is then renamed."
    )
