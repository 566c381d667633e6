"""SIGKILL, at any moment of a run with `output=`: every pattern exactly once, and the answers of an undisturbed run."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dask.array as da
import numpy as np
import pytest

from pyxem_dl import open_result
from pyxem_dl.scans import ResultStore

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs signals")

# Imports all that takes time, and forks a process for each line that it is given
SERVER = """
import json, os, sys
import test_killed
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        test_killed.work(*json.loads(line))
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
N, SIZE = 96, 25


def predict(scan, output, pause=0.0):
    """Predict the orientations of a scan with a fake network that notes, in a file, what it does."""
    import test_output

    from pyxem_dl import networks, predict_orientation
    from pyxem_dl.models import OrientationModel
    from pyxem_dl.orientation import OrientationStep

    networks.NETWORKS["fake"] = test_output.FakeNetwork
    original = OrientationStep.__call__

    def slow(self, patterns, indices):
        time.sleep(pause)
        return original(self, patterns, indices)

    data = da.from_array(np.load(scan, mmap_mode="r"), chunks=(2, 3, -1, -1))
    before = OrientationModel.micro_batch, OrientationStep.__call__
    OrientationModel.micro_batch, OrientationStep.__call__ = 3, slow
    try:
        return predict_orientation(
            test_output.signal_of(data), test_output.make_model(), n_best=2, output=output, device="cpu",
            show_progressbar=False,
        )  # fmt: skip
    finally:
        OrientationModel.micro_batch, OrientationStep.__call__ = before


@pytest.fixture
def scan(rng, tmp_path):
    patterns = rng.poisson(20.0, (8, 12, SIZE, SIZE)) + 300 * (np.hypot(*(np.indices((SIZE, SIZE)) - 12)) < 3)
    np.save(tmp_path / "scan.npy", patterns.astype(np.uint16))
    return str(tmp_path / "scan.npy")


def work(scan, output, log):
    """What a process does; each micro-batch takes a moment."""
    code = 1
    with open(log, "w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            predict(scan, output, 0.05)
            code = 0
        finally:
            file.flush()
            os._exit(code)


class Processes:
    """Starts processes that work, one after the other."""

    def __init__(self, scan, folder):
        self.scan, self.log = scan, folder / "log.txt"
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
        self.server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVER], env=environment, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def start(self, output):
        self.server.stdin.write(json.dumps([self.scan, str(output), str(self.log)]) + "\n")
        self.server.stdin.flush()
        self.pid = int(self.server.stdout.readline())

    def end(self, number=signal.SIGKILL):
        """Send a signal, and give the exit code: negative for a signal."""
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(self.pid, number)
        return int(self.server.stdout.readline())

    def wait_for_a_block(self, store):
        for _ in range(6000):
            if list(store.glob("done/[0-9]*")):
                return
            time.sleep(0.01)
        raise AssertionError(self.log.read_text())


@pytest.fixture
def processes(scan, tmp_path):
    found = Processes(scan, tmp_path)
    yield found
    found.server.stdin.close()
    found.server.wait(60)


def test_killed_at_any_moment(scan, processes, tmp_path, capsys):
    rng, output, done, n = np.random.default_rng(0), tmp_path / "found.zarr", np.zeros(N, bool), 0
    times = {}
    for _ in range(20):
        processes.start(output)
        if not done.any():
            processes.wait_for_a_block(output)
        time.sleep(rng.uniform(0, 0.3))
        n += processes.end() == -signal.SIGKILL
        store = ResultStore.open(output)  # without a warning: no block is damaged
        assert (store.collected.done >= done).all(), "what was done is gone"
        done = store.collected.done
        now = {p: p.stat().st_mtime_ns for p in output.glob("done/[0-9]*")}
        assert times.items() <= now.items(), "what was done was done again"
        times = now
    assert n, "it was never killed at work"
    capsys.readouterr()
    found, expected = predict(scan, output), predict(scan, None)
    if done.any() and not done.all():
        assert f"Continuing after {done.sum()} patterns" in capsys.readouterr().out
    assert not list(output.rglob("*.partial"))
    now = {p: p.stat().st_mtime_ns for p in output.glob("done/[0-9]*")}
    assert times.items() <= now.items() and len(now) == 16
    for each in (found, open_result(output)):
        assert each.is_in_data.all()
        np.testing.assert_array_equal(each.rotations.data, expected.rotations.data)
        np.testing.assert_array_equal(each.scores, expected.scores)
        np.testing.assert_array_equal(each.phase_id, expected.phase_id)


def test_killed_while_it_writes_a_file(scan, processes, tmp_path):
    """The file is whole or not there, and what is done is beside it."""
    output = tmp_path / "map.h5"
    processes.start(output)
    processes.wait_for_a_block(tmp_path / "map.h5.partial")
    assert processes.end() == -signal.SIGKILL
    assert not output.exists() and ResultStore.open(tmp_path / "map.h5.partial").n_kept
    predict(scan, output)
    assert output.exists() and not (tmp_path / "map.h5.partial").exists()


def test_ctrl_c_keeps_what_is_done(scan, processes, tmp_path):
    """A real one, that comes to the main thread while others compute."""
    output = tmp_path / "found.zarr"
    processes.start(output)
    processes.wait_for_a_block(output)
    assert processes.end(signal.SIGINT) == 1
    store = ResultStore.open(output)
    assert f"{store.n_kept} of {N} patterns are saved in {output}" in processes.log.read_text()
    assert 0 < store.n_kept < N
    found, expected = predict(scan, output), predict(scan, None)
    np.testing.assert_array_equal(found.rotations.data, expected.rotations.data)
