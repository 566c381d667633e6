"""What is computed is kept: whatever happens to the disk, to the process, and to the file of what is done."""

import errno
import os
import subprocess
import sys
import textwrap
import zlib
from types import SimpleNamespace

import dask.array as da
import hyperspy.api as hs
import numpy as np
import pytest
from fake_network import FakeNetwork, make_model
from orix import io
from pyxem_dl.partial_results import PartialResults, fingerprint, source_of
from safetensors.numpy import load_file, save, save_file

from pyxem_dl import networks, predict_orientation
from pyxem_dl.bragg_vectors import bragg_vectors_to_file, match_disks
from pyxem_dl.files import NotWritten
from pyxem_dl.frames import Calibration
from pyxem_dl.orientation import predict_orientation_to_file
from pyxem_dl.patterns.probes import Probe
from pyxem_dl.scans import make_signal

QUIET = {"device": "cpu", "show_progressbar": False}
CALIBRATION = Calibration((0.1, 0.1), (12.0, 12.0), (25, 25), 200.0)
DISK = (np.hypot(*(np.indices((25, 25)) - 12)) < 3.3).astype(np.float32)


@pytest.fixture(autouse=True)
def _fake(monkeypatch):
    monkeypatch.setitem(networks.NETWORKS, "fake", FakeNetwork)


@pytest.fixture
def scan(rng):
    """4 x 5 patterns with a direct beam and a disk somewhere."""
    patterns = np.stack([
        200 * DISK + 100 * np.roll(DISK, rng.integers(-8, 8, 2), (0, 1)) for _ in range(20)
    ])  # fmt: skip
    return rng.poisson(patterns + 0.5).reshape(4, 5, 25, 25).astype(np.float32)


def signal_of(data):
    return make_signal(data, CALIBRATION, "scan")


def lazy(data):
    return da.from_array(data, chunks=(2, 2, -1, -1))


class Maps:
    """Orientations into a map."""

    name = "map.h5"

    @staticmethod
    def run(data, path, **options):
        return predict_orientation_to_file(signal_of(data), make_model(), path, batch_size=3, **(QUIET | options))

    @staticmethod
    def same(found, path, data):
        expected = predict_orientation(signal_of(data), make_model(), **QUIET)
        for each in (found, io.load(str(path))):
            np.testing.assert_allclose(each.scores, expected.scores, atol=1e-5)


class Vectors:
    """Disks by correlation into a file."""

    name = "vectors.hspy"

    @staticmethod
    def run(data, path, **options):
        probe = Probe.from_image(DISK)
        return bragg_vectors_to_file(signal_of(data), path, None, probe, batch_size=3, **(QUIET | options))

    @staticmethod
    def same(found, path, data):
        expected = match_disks(signal_of(data), Probe.from_image(DISK), **QUIET).data.ravel()
        for each in (found, hs.load(path)):
            for table, right in zip(each.data.ravel(), expected, strict=True):
                np.testing.assert_allclose(table, right, rtol=1e-5, atol=1e-5)


BOTH = pytest.mark.parametrize("kind", [Maps, Vectors], ids=["maps", "vectors"])


class Stop(Exception):
    """What ends a run early."""


def interrupted(kind, data, path, monkeypatch, after=2):
    """Run until some parts are done."""
    original, parts = PartialResults._add, []

    def stops(self, found, given, save_every):
        def some():
            for part in given:
                if len(parts) == after:
                    raise Stop
                parts.append(part)
                yield part

        original(self, found, some(), save_every)

    with monkeypatch.context() as patch:
        patch.setattr(PartialResults, "_add", stops)
        with pytest.raises(Stop):
            kind.run(data, path)
    partial = path.with_name(path.name + ".partial")
    assert partial.exists() and not path.exists()
    return partial


# ------------------------------------------------------------------ damages
def edited(change):
    """Damage that changes arrays, and nothing else (the file is one that can be read)."""

    def damage(path):
        from safetensors import safe_open

        arrays = load_file(path)
        with safe_open(path, "numpy") as file:
            about = file.metadata()
        change(arrays)
        save_file(arrays, path, about)

    return damage


def first(arrays, floating=True):
    return next(n for n in sorted(arrays) if (arrays[n].dtype.kind == "f") == floating and n != "done")


def resaved(name, value):
    return edited(lambda a: a.update({name: value(a[name]) if callable(value) else value}))


def flip(position):
    def damage(path):
        raw = bytearray(path.read_bytes())
        raw[position(len(raw)) if callable(position) else position] ^= 0xFF
        path.write_bytes(raw)

    return damage


def huge_header(path):
    raw = path.read_bytes()
    header = b'{"done":{"dtype":"F64","shape":[1000000000000],"data_offsets":[0,8000000000000]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + raw[:100])


def bomb(path):
    """An .npz, as earlier versions wrote them, that claims a terabyte."""
    import zipfile

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        text = "{'descr': '<f8', 'fortran_order': False, 'shape': (137438953472,), }"
        file.writestr("done.npy", b"\x93NUMPY\x01\x00v\x00" + text.ljust(117).encode() + b"\n" + bytes(10**7))


def pickled(path):
    np.savez(path.with_suffix(".npz"), done=np.array([{"a": 1}], dtype=object))
    os.replace(path.with_suffix(".npz"), path)


def folder(path):
    path.unlink()
    path.mkdir()
    (path / "file").write_text("x")


def link_to_nothing(path):
    path.unlink()
    path.symlink_to(path.with_name("nothing"))


DAMAGES = {
    "empty": lambda p: p.write_bytes(b""),
    "one byte": lambda p: p.write_bytes(b"\0"),
    "text": lambda p: p.write_text("no results at all, but a text of some length " * 10),
    "zip": lambda p: p.write_bytes(b"PK\x03\x04" + bytes(200)),
    "truncated": lambda p: p.write_bytes(p.read_bytes()[:-7]),
    "half": lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
    "in the header": lambda p: p.write_bytes(p.read_bytes()[:20]),
    "longer": lambda p: p.write_bytes(p.read_bytes() + bytes(16)),
    "zeros": lambda p: p.write_bytes(bytes(p.stat().st_size)),
    "first bit": flip(0),
    "bit of the header": flip(40),
    "bit in the middle": flip(lambda n: n // 2),
    "last bit": flip(lambda n: n - 1),
    "huge shape": huge_header,
    "bomb": bomb,
    "pickle": pickled,
    "folder": folder,
    "dangling link": link_to_nothing,
    "no done": edited(lambda a: a.pop("done")),
    "done of floats": resaved("done", lambda d: d.astype(float)),
    "done too short": resaved("done", lambda d: d[:-1].copy()),
    "all done": resaved("done", np.ones_like),
    "done of 2 dimensions": resaved("done", lambda d: d.reshape(4, 5)),
    "no checksums": edited(lambda a: a.pop("pattern checksums")),
    "a field less": edited(lambda a: a.pop(first(a))),
    "a field more": edited(lambda a: a.update(other=np.zeros(3))),
    "a shape": edited(lambda a: a.update({first(a): a[first(a)].reshape(-1)[:-1].copy()})),
    "a dtype": edited(lambda a: a.update({first(a): a[first(a)].astype(np.int16)})),
    "NaN": edited(lambda a: a.update({first(a): a[first(a)] * np.nan})),
    "numbers": edited(lambda a: a.update({first(a, False): a[first(a, False)] + 1})),
    "negative numbers": edited(lambda a: a.update({first(a, False): -1 - a[first(a, False)]})),
    "nothing": edited(lambda a: a.clear()),
}


@BOTH
@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_the_bytes_are_the_work_begins_anew(kind, damage, scan, tmp_path, monkeypatch, capsys):
    path = tmp_path / kind.name
    partial = interrupted(kind, scan, path, monkeypatch)
    DAMAGES[damage](partial)
    capsys.readouterr()
    found = kind.run(scan, path)
    said = capsys.readouterr().out
    assert "is damaged" in said and "starting again. It was renamed to" in said
    kind.same(found, path, scan)
    # nothing is lost: not even what is damaged
    assert sorted(p.name for p in tmp_path.iterdir()) == [kind.name, f"{kind.name}.partial.damaged"]


@BOTH
def test_a_file_with_a_right_digest_and_wrong_arrays(kind, scan, tmp_path, monkeypatch, capsys):
    """Not even such a file may stop the work: as of a version with other fields."""
    path = tmp_path / kind.name
    partial = interrupted(kind, scan, path, monkeypatch)
    original = PartialResults._read

    def read(self):
        arrays, mark = original(self)
        name = "lengths" if "lengths" in arrays else "scores"
        return arrays | {name: arrays[name][:-1]}, mark

    monkeypatch.setattr(PartialResults, "_read", read)
    kind.same(kind.run(scan, path), path, scan)
    assert "is damaged (ValueError" in capsys.readouterr().out
    assert partial.with_name(partial.name + ".damaged").exists()


def test_a_second_damaged_file_does_not_replace_the_first(scan, tmp_path, monkeypatch):
    path = tmp_path / "map.h5"
    for text in ("a", "b"):
        path.with_name("map.h5.partial").write_text(text)
        Maps.run(scan, path, overwrite=True)
    assert (tmp_path / "map.h5.partial.damaged").read_text() == "a"
    assert (tmp_path / "map.h5.partial.damaged2").read_text() == "b"


# ------------------------------------------------------------------ the same scan?
@BOTH
@pytest.mark.parametrize("lazily", [False, True], ids=["memory", "lazy"])
@pytest.mark.parametrize("where", [5, 18])
def test_one_other_pattern_is_another_scan(kind, lazily, where, scan, tmp_path, monkeypatch, capsys):
    path, other = tmp_path / kind.name, scan.copy()
    other.reshape(20, 25, 25)[where] = other.reshape(20, 25, 25)[where, ::-1]  # with the same sum
    partial = interrupted(kind, lazy(scan) if lazily else scan, path, monkeypatch)
    kind.same(kind.run(lazy(other) if lazily else other, path), path, other)
    assert "belongs to another signal, model or setting: starting again" in capsys.readouterr().out
    assert partial.with_name(partial.name + ".old").exists()


@BOTH
def test_patterns_that_are_done_are_read_again(kind, scan, tmp_path, monkeypatch, capsys):
    """Where the scan is too large to be looked at as a whole, what is done must be of these patterns."""
    monkeypatch.setattr("pyxem_dl.partial_results._READ_AGAIN_BYTES", 0)
    monkeypatch.setattr("pyxem_dl.partial_results._READ_AGAIN", 5)  # 0, 4, 9, 14, 19
    path, other = tmp_path / kind.name, scan.copy()
    interrupted(kind, lazy(scan), path, monkeypatch)
    done = load_file(tmp_path / f"{kind.name}.partial")["pattern checksums"]
    assert [i for i in range(20) if done[i]] == [0, 1, 2, 3, 5, 6]
    assert done[6] == zlib.crc32(scan[1, 1].tobytes()) + 1
    other[1, 1] += 1
    kind.same(kind.run(lazy(other), path), path, other)
    assert "belongs to other patterns: starting again" in capsys.readouterr().out


@BOTH
@pytest.mark.parametrize("lazily", [False, True], ids=["memory", "lazy"])
def test_the_same_scan_goes_on(kind, lazily, scan, tmp_path, monkeypatch, capsys):
    path, data = tmp_path / kind.name, lazy(scan) if lazily else scan
    interrupted(kind, data, path, monkeypatch, after=3)
    kind.same(kind.run(data, path), path, scan)
    assert "Continuing after 9 patterns" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == [kind.name]


def test_what_a_fingerprint_looks_at(scan, tmp_path):
    base = fingerprint(scan, [1], (None, "auto"))
    assert base == fingerprint(scan.copy(), [1], (None, "auto"))
    assert base == fingerprint(np.asfortranarray(scan), [1], (None, "auto"))
    others = [
        fingerprint(scan, [2], (None, "auto")), fingerprint(scan, [1], (np.zeros(2), "auto")),
        fingerprint(scan.reshape(5, 4, 25, 25), [1], (None, "auto")), fingerprint(scan, [1], (None, "auto"), ["file"]),
        fingerprint(scan.astype(float), [1], (None, "auto")), fingerprint(scan[0], [1], (None, "auto")),
    ]  # fmt: skip
    assert len({base, *others}) == 7


def test_the_file_of_a_scan_is_looked_at(scan, tmp_path):
    path = tmp_path / "scan.hspy"
    signal_of(scan).save(path)
    known = source_of(hs.load(path, lazy=True))
    assert known[1:] == ["scan.hspy", path.stat().st_size, path.stat().st_mtime_ns]
    assert source_of(signal_of(scan)) == [""]


# ------------------------------------------------------------------ full disks
@BOTH
def test_a_disk_that_is_full_for_a_while_loses_nothing(kind, scan, tmp_path, monkeypatch):
    original, calls = PartialResults.save, []

    def save_sometimes(self, found):
        calls.append(int(found.done.sum()))
        if len(calls) in (2, 3):
            raise OSError(28, "No space left on device")
        original(self, found)

    monkeypatch.setattr(PartialResults, "save", save_sometimes)
    path = tmp_path / kind.name
    with pytest.warns(UserWarning, match="No space left.*patterns are done and in memory, . of them are in the file"):
        found = kind.run(scan, path, save_every=0)
    assert len(calls) == 7
    kind.same(found, path, scan)


@BOTH
def test_a_result_that_cannot_be_written_is_kept(kind, scan, tmp_path, monkeypatch):
    import pyxem_dl.bragg_vectors.search

    import pyxem_dl.orientation

    path = tmp_path / kind.name

    def full(*_):
        raise RuntimeError("Can't decrement id ref count (unable to extend file properly)")

    with monkeypatch.context() as patch:
        patch.setattr(pyxem_dl.orientation, "write_map", full)
        patch.setattr(pyxem_dl.bragg_vectors.search, "_write_vectors", full)
        with pytest.raises(NotWritten, match="could not be written: .*20 of 20 patterns are saved in ") as error:
            kind.run(scan, path)
    assert [p.name for p in tmp_path.iterdir()] == [f"{kind.name}.partial"]
    monkeypatch.setattr(PartialResults, "_add", lambda self, found, parts, every: [1 / 0 for _ in parts])  # nothing new
    kind.same(kind.run(scan, path), path, scan)
    kind.same(error.value.result, path, scan)


LIMITED = """
import resource, sys, warnings
sys.path.insert(0, {tests!r})
import numpy as np
import test_partial_results as t
from pyxem_dl import networks
networks.NETWORKS["fake"] = t.FakeNetwork
kind, scan = getattr(t, sys.argv[1]), np.load({scan!r})
from pathlib import Path
path = Path({folder!r}) / kind.name
kind.run(scan, path.with_name("warm" + path.suffix))  # all that is imported and compiled is there
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    kind.run(scan, path)
except t.NotWritten as error:
    assert error.result is not None
    print("NotWritten", error)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limits of files")
@BOTH
@pytest.mark.parametrize("limit", [6000, 0], ids=["room for what is kept", "no room"])
def test_no_room_for_large_files(kind, limit, scan, tmp_path):
    """The system itself refuses to write more: the partial results are whole, or not there."""
    np.save(tmp_path / "scan.npy", scan)
    code = LIMITED.format(tests=str(os.path.dirname(__file__)), scan=str(tmp_path / "scan.npy"), folder=str(tmp_path))
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code), kind.__name__, str(limit)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert "NotWritten" in run.stdout, run.stdout + run.stderr
    assert not (tmp_path / kind.name).exists()
    partial = tmp_path / f"{kind.name}.partial"
    assert partial.exists() == (limit > 0)
    assert not list(tmp_path.glob(".*unfinished*"))
    if limit:
        assert "20 of 20 patterns are saved" in run.stdout and load_file(partial)["done"].all()
    kind.same(kind.run(scan, tmp_path / kind.name), tmp_path / kind.name, scan)


@BOTH
def test_a_disk_without_room_is_seen_before_the_work(kind, scan, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    monkeypatch.setattr(PartialResults, "gather", lambda *_, **__: 1 / 0)
    with pytest.raises(OSError, match="needs about .* MB, but .* has 0.0001 MB left"):
        kind.run(scan, tmp_path / kind.name)


# ------------------------------------------------------------------ two at once
@BOTH
def test_two_processes_on_one_file(kind, scan, tmp_path, monkeypatch, capsys):
    """The second says so; the first goes on."""
    path, original, refused = tmp_path / kind.name, PartialResults._add, []
    code = f"from pyxem_dl.files import claimed\nwith claimed({str(path)!r}): pass"

    def meanwhile(self, found, parts, save_every):
        refused.append(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120).stderr)
        with pytest.raises(BlockingIOError, match="is being written by another process"):
            kind.run(scan, path)  # another thread, or a call inside of this one
        original(self, found, parts, save_every)

    monkeypatch.setattr(PartialResults, "_add", meanwhile)
    kind.same(kind.run(scan, path), path, scan)
    assert f"{path} is being written by another process, which holds" in refused[0]
    assert [p.name for p in tmp_path.iterdir()] == [kind.name]


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
    with pytest.warns(UserWarning, match="not support file locks|not supported"):
        kind.same(kind.run(scan, tmp_path / kind.name), tmp_path / kind.name, scan)
    assert [p.name for p in tmp_path.iterdir()] == [kind.name]


@BOTH
def test_nothing_is_left_of_a_process_that_was_killed_while_it_kept_what_is_done(kind, scan, tmp_path, monkeypatch):
    path = tmp_path / kind.name
    interrupted(kind, scan, path, monkeypatch)
    left = tmp_path / f".{kind.name}.0123abcd.unfinished.partial"
    left.write_bytes(b"half")
    another = tmp_path / ".another.h5.0123abcd.unfinished.partial"
    another.write_bytes(b"half")
    kind.same(kind.run(scan, path), path, scan)
    assert not left.exists() and another.exists()


def test_a_text_format_that_cannot_hold_the_map_is_refused_before_the_work(scan, tmp_path, monkeypatch):
    monkeypatch.setattr(PartialResults, "gather", lambda *_, **__: 1 / 0)
    with pytest.raises(ValueError, match="single pattern"):
        predict_orientation_to_file(signal_of(scan[0, 0]), make_model(), tmp_path / "map.ang", **QUIET)
    mask = np.arange(20).reshape(4, 5) != 3
    with pytest.raises(ValueError, match="single pattern"):
        predict_orientation_to_file(
            signal_of(scan), make_model(), tmp_path / "map.ctf", navigation_mask=mask, **QUIET
        )  # fmt: skip


def test_what_is_kept_holds_no_more_than_it_says():
    assert len(save({"done": np.zeros(20, bool)})) < 200  # safetensors: a header and the bytes
