"""The runner of a CUDA device, with streams and events that only note what is asked of them."""

import contextlib

import numpy as np
import pytest
import torch

from pyxem_dl.scans import Collected, Field, Padded, Step, on_cuda
from pyxem_dl.scans.on_cuda import CudaRunner

LOG = []


class Stream:
    def __init__(self, device=None):
        self.name = "computing" if device is None else "copying"

    def wait_event(self, event):
        LOG.append(("wait", self.name, event.number))


class Event:
    count = 0

    def __init__(self):
        Event.count += 1
        self.number = Event.count

    def record(self, stream):
        LOG.append(("record", stream.name, self.number))

    def synchronize(self):
        LOG.append(("host waits", None, self.number))


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch):
    LOG.clear()
    Event.count = 0
    computing = Stream()
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(on_cuda, "_pinned", lambda shape, dtype: torch.empty(shape, dtype=dtype))
    monkeypatch.setattr(on_cuda, "_needed_by", lambda stream, tensor: None)


class Sums(Step):
    fields = {"sum": Field((), "float32"), "rows": Field((1,), "float32", ragged=True)}

    def __init__(self, most=1000):
        self.most = most

    def __call__(self, patterns, indices):
        assert patterns.dtype == torch.float32 and torch.is_inference_mode_enabled()
        if len(patterns) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        LOG.append(("step", None, len(patterns)))
        rows = patterns.amax(2)[..., None]
        return {"sum": patterns.sum((1, 2)), "rows": Padded(rows, rows[..., 0] > 100)}


def pieces(data, size):
    return ((np.arange(i, min(i + size, len(data))), data[i : i + size]) for i in range(0, len(data), size))


@pytest.mark.parametrize("dtype", ["u1", ">u2", "f4", "f8"])
@pytest.mark.parametrize("batch, piece", [(7, 3), (4, 10), (5, 5), (100, 8)])
def test_answers_are_those_of_a_loop_in_order(rng, dtype, batch, piece):
    data = rng.integers(0, 200, (29, 5, 7)).astype(dtype)
    found = Collected(29, Sums.fields)
    order = []
    for part in CudaRunner(Sums(), torch.device("cpu"), batch).run(pieces(data, piece)):
        order.extend(part.indices)
        found.add(part)
    assert order == list(range(29))
    np.testing.assert_array_equal(found.arrays["sum"], data.sum((1, 2)))
    for table, pattern in zip(found.tables("rows", (1,)), data, strict=True):
        highest = pattern.max(1)
        np.testing.assert_array_equal(table[:, 0], highest[highest > 100])


def test_the_host_waits_for_a_batch_only_after_two_more_were_started(rng):
    data = rng.integers(0, 200, (24, 5, 7), dtype="u2")
    parts = CudaRunner(Sums(), torch.device("cpu"), 4).run(pieces(data, 4))
    next(parts)
    waits = [entry for entry in LOG if entry[0] == "host waits"]
    assert [entry[0] for entry in LOG].count("step") == 3 and len(waits) == 1
    # and it is the event that was recorded behind the first batch's results
    assert ("record", "computing", waits[0][2]) in LOG
    assert len(list(parts)) == 5


def test_a_pinned_buffer_is_used_again_after_its_copy(rng, monkeypatch):
    made = []
    monkeypatch.setattr(
        on_cuda, "_pinned", lambda shape, dtype: made.append((shape, dtype)) or torch.empty(shape, dtype=dtype)
    )
    data = rng.integers(0, 200, (40, 5, 7), dtype="u2")
    list(CudaRunner(Sums(), torch.device("cpu"), 4).run(pieces(data, 4)))
    # patterns stay integers on their way: three buffers for ten batches
    assert sum(dtype == torch.uint16 for _, dtype in made) == 3


def test_computing_waits_for_the_copy_of_its_own_batch(rng):
    data = rng.integers(0, 200, (8, 5, 7), dtype="u1")
    list(CudaRunner(Sums(), torch.device("cpu"), 4).run(pieces(data, 4)))
    copies = [entry[2] for entry in LOG if entry[:2] == ("record", "copying")]
    assert [entry[2] for entry in LOG if entry[:2] == ("wait", "computing")] == copies and len(copies) == 2


def test_out_of_memory_takes_smaller_batches(rng):
    data = rng.integers(0, 200, (30, 5, 7), dtype="u1")
    found = Collected(30, Sums.fields)
    with pytest.warns(UserWarning, match="A batch of 8 patterns does not fit into the memory of .*continuing with 4"):
        for part in CudaRunner(Sums(most=5), torch.device("cpu"), 8).run(pieces(data, 3)):
            assert not found.done[part.indices].any()
            found.add(part)
    assert found.done.all()
    np.testing.assert_array_equal(found.arrays["sum"], data.sum((1, 2)))


def test_other_errors_are_raised(rng):
    class Wrong(Sums):
        def __call__(self, patterns, indices):
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(CudaRunner(Wrong(), torch.device("cpu"), 8).run(pieces(rng.random((30, 5, 7)), 3)))
