"""The workers of dask.distributed do what this process does: the same bits, whatever becomes of them."""

import importlib.metadata
import os
import signal
import threading
import time

import dask.array as da
import numpy as np
import pytest
import torch

from pyxem_dl import open_result, predict_orientation
from pyxem_dl.bragg_vectors import match_disks
from pyxem_dl.scans import Collected, Computing, Field, ResultStore, Step, distributed as ours, stream
from pyxem_dl.scans.blocks import Blocks

distributed = pytest.importorskip("distributed")
pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs signals")

SHAPE, BLOCKS = (5, 7), Blocks((8, 10), (2, 5))
WEIGHTS = torch.arange(35.0).reshape(SHAPE) ** 0.5


class Sums(Step):
    """Sums whose last bits depend on their order; it may take its time, fail, or end its worker at some position."""

    micro_batch = 4

    def __init__(self, seconds=0.0, fails_at=None, ends_at=None):
        self.seconds, self.fails_at, self.ends_at = seconds, fails_at, ends_at

    @property
    def fields(self):
        return {"weighted": Field((2,), "float32")}

    def __call__(self, patterns, indices):
        time.sleep(self.seconds)
        if self.fails_at in indices:
            raise RuntimeError(f"no result for {self.fails_at}")
        if self.ends_at in indices:
            os._exit(9)  # as the system does where the memory is full
        weighted = (patterns * WEIGHTS).sum((1, 2))
        return {"weighted": torch.stack([weighted, weighted.sqrt()], 1)}


@pytest.fixture(scope="module")
def client():
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
    with cluster, distributed.Client(cluster) as client:
        yield client


@pytest.fixture
def scan(rng):
    return rng.integers(0, 2000, (8, 10, *SHAPE)).astype(np.uint16)


def collect(parts):
    found = Collected(80)
    for part in parts:
        assert not found.done[part.indices].any(), "a pattern was given twice"
        found.add(part)
    return found


def on_workers(client, data, step, wanted=None, **options):
    wanted = np.ones(80, bool) if wanted is None else wanted
    return ours.stream_on(client, data, step, Computing("cpu"), wanted=wanted, blocks=BLOCKS, **options)


def here(scan, **options):
    return collect(stream(scan, Sums(), Computing("cpu"), blocks=BLOCKS, **options))


# ------------------------------------------------------------------ the same
@pytest.mark.parametrize("chunks", [None, (2, 5, 5, 7), (3, 4, 2, 3), (8, 10, 5, 7)])
def test_workers_give_the_same_bits(client, scan, rng, chunks):
    data = scan if chunks is None else da.from_array(scan, chunks=chunks)
    wanted = rng.random(80) < 0.7
    wanted[BLOCKS.indices(3)] = False
    found, expected = collect(on_workers(client, data, Sums(), wanted)), here(scan, wanted=wanted)
    np.testing.assert_array_equal(found.done, wanted)
    np.testing.assert_array_equal(found.arrays["weighted"], expected.arrays["weighted"])


def test_a_verb_uses_the_workers(client, polycrystal, tmp_path, capsys):
    """With a model that goes to them by its name; patterns in memory and lazy, into a store, and to who listens."""
    signal, parts = polycrystal[0].inav[:8, :6], []
    settings = {"device": "cpu", "show_progressbar": False}
    with dask_alone():
        expected = predict_orientation(signal, "linio2-200kv", **settings)
        vectors = match_disks(signal, threshold=0.3, **settings)
    capsys.readouterr()
    lazy, store = signal.as_lazy(), tmp_path / "found.zarr"
    lazy.data = lazy.data.rechunk((3, 4, 40, 40))
    for each in (signal, lazy):
        found = predict_orientation(each, "linio2-200kv", on_part=parts.append, **settings)
        assert "Device: dask cluster of 2 workers with 2 threads" in capsys.readouterr().out
        np.testing.assert_array_equal(found.rotations.data, expected.rotations.data)
        np.testing.assert_array_equal(found.scores, expected.scores)
    assert sorted(np.concatenate([part.indices for part in parts])) == sorted([*range(48)] * 2)
    predict_orientation(lazy, "linio2-200kv", output=store, **settings)
    np.testing.assert_array_equal(open_result(store).rotations.data, expected.rotations.data)
    checksums = ResultStore.open(store).collected.arrays["checksum"]
    predict_orientation(lazy, "linio2-200kv", output=store, **settings)
    assert len(set(checksums.tolist())) == 48 and "All 48 patterns are done" in capsys.readouterr().out
    for table, right in zip(match_disks(lazy, threshold=0.3, **settings).data.ravel(), vectors.data.ravel()):
        np.testing.assert_array_equal(table, right)


def dask_alone():
    """Without the client: a scheduler that the user has set comes first."""
    import dask

    return dask.config.set(scheduler="threads")


def test_who_listens_hears_it_here_and_may_stop(client, polycrystal, tmp_path):
    seen, thread, lines = [], threading.get_ident(), []

    def on_part(part):
        assert threading.get_ident() == thread
        seen.extend(part.indices)
        return len(seen) < 10

    options = {"on_part": on_part, "on_message": lines.append, "device": "cpu", "show_progressbar": False}
    with pytest.warns(UserWarning, match=r"Interrupted after \d+ of 224 patterns"):
        xmap = match_or_predict(polycrystal[0], tmp_path, **options)
    assert xmap.is_in_data.sum() == len(seen) < 224
    assert any("patterns are saved in" in line for line in lines)


def match_or_predict(signal, folder, **options):
    return predict_orientation(signal, "linio2-200kv", output=folder / "map.zarr", **options)


def test_no_more_tasks_are_under_way_than_workers_can_take(client, scan, monkeypatch):
    submitted, most, original = [0], [0], ours._submit

    def submit(*arguments):
        submitted[0] += 1
        return original(*arguments)

    monkeypatch.setattr(ours, "_submit", submit)
    given = 0
    for part in on_workers(client, scan, Sums(0.01)):
        most[0] = max(most[0], submitted[0] - given)
        given += 1
        assert len(part.indices) == 10
        time.sleep(0.03)  # a caller that is slower than the workers
    assert given == len(BLOCKS) == submitted[0]
    assert most[0] <= 2 * 2 + 1


# ------------------------------------------------------------------ workers that die
def test_a_worker_that_is_killed_has_its_blocks_done_again(client, scan):
    pids, killed = client.run(os.getpid), []

    def kill(parts):
        for i, part in enumerate(parts):
            if i == 1:
                killed.append(next(iter(pids.values())))
                os.kill(killed[0], signal.SIGKILL)
            yield part

    found = collect(kill(on_workers(client, da.from_array(scan, chunks=(2, 5, 5, 7)), Sums(0.1))))
    assert killed and found.done.all()
    np.testing.assert_array_equal(found.arrays["weighted"], here(scan).arrays["weighted"])
    assert killed[0] not in client.run(os.getpid).values()


def test_a_block_that_ends_its_workers(client, scan):
    """As one that does not fit into their memory."""
    scheduler = client.cluster.scheduler
    before, scheduler.allowed_failures = scheduler.allowed_failures, 0
    try:
        parts, done = on_workers(client, scan, Sums(ends_at=79)), []
        with pytest.raises(RuntimeError, match=r"Block 7 \(patterns 65 and following\) ended every worker .*memory"):
            done.extend(parts)
        assert 0 < len(done) < len(BLOCKS)
    finally:
        scheduler.allowed_failures = before
        client.wait_for_workers(1, timeout=120)


# ------------------------------------------------------------------ workers that cannot
def test_an_error_of_the_step_arrives_as_it_is(client, scan):
    with pytest.raises(RuntimeError, match="^no result for 42$"):
        collect(on_workers(client, scan, Sums(fails_at=42)))
    assert collect(on_workers(client, scan, Sums())).done.all(), "the cluster is as it was"


def _without():
    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    importlib.metadata.known, importlib.metadata.version = importlib.metadata.version, version


def _another():
    importlib.metadata.known, importlib.metadata.version = importlib.metadata.version, lambda name: "0.0.9"


def _restore():
    importlib.metadata.version = importlib.metadata.known


@pytest.mark.parametrize(
    "change, text",
    [(_without, "has no pyxem_dl .*Install pyxem_dl .* there"), (_another, "has pyxem_dl 0.0.9, here it is .* same")],
)
def test_workers_without_this_pyxem_dl_are_an_error_at_once(client, scan, change, text, monkeypatch):
    worker = next(iter(client.scheduler_info()["workers"]))
    client.run(change, workers=[worker])
    monkeypatch.setattr(ours, "_submit", lambda *_: 1 / 0)
    try:
        with pytest.raises(RuntimeError, match=f"The worker {worker} {text}"):
            collect(on_workers(client, scan, Sums()))
    finally:
        client.run(_restore, workers=[worker])


class Reading:
    """Reads chunks of an array, as a file's reader does on a worker; of some it says why it cannot."""

    def __init__(self, bad, error):
        self.bad, self.error = bad, error

    def __call__(self, x, block_info=None):
        if tuple(block_info[0]["chunk-location"][:2]) in self.bad:
            raise self.error
        return x


def unreadable(scan, bad, error):
    data = da.from_array(scan, chunks=(2, 5, 5, 7))
    return data.map_blocks(Reading(bad, error), dtype=scan.dtype, meta=scan[:0])


EVERYWHERE = [(i, j) for i in range(4) for j in range(2)]


def test_a_block_that_cannot_be_read(client, scan):
    data = unreadable(scan, [(1, 1)], OSError("truncated"))
    with pytest.warns(UserWarning, match=r"10 patterns could not be read .*25-29, 35-39; OSError: trunc"):
        found = collect(on_workers(client, data, Sums()))
    np.testing.assert_array_equal(np.flatnonzero(~found.done), [*range(25, 30), *range(35, 40)])
    np.testing.assert_array_equal(
        found.arrays["weighted"][found.done], here(scan).arrays["weighted"][found.done]
    )  # fmt: skip
    with pytest.raises(OSError, match="truncated"):
        collect(on_workers(client, unreadable(scan, EVERYWHERE, OSError("truncated")), Sums()))


def test_a_file_that_the_workers_cannot_see(client, scan):
    data = unreadable(scan, EVERYWHERE, FileNotFoundError("No such file: /home/me/scan.mib"))
    with pytest.raises(FileNotFoundError, match="workers cannot read the scan: .*scan.mib.*that all of them share"):
        collect(on_workers(client, data, Sums()))


def test_without_a_client_nobody_asks_for_one(scan, monkeypatch):
    monkeypatch.setattr("dask.base.get_scheduler", lambda *_, **__: None)
    assert ours.current_client() is None
