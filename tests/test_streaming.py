import threading
import warnings
from collections import namedtuple

import dask.array as da
import numpy as np
import pytest
import torch
from pyxem_dl.streaming import Collected, resolve_device, stream

from pyxem_dl import streaming

Answer = namedtuple("Answer", "total weighted index")
SHAPE = (5, 7)  # of the detector
WEIGHTS = np.arange(35.0).reshape(SHAPE)


def answer(patterns, indices):
    """Sums that are exact in float32, for the small whole numbers of these tests."""
    assert patterns.dtype == torch.float32 and patterns.shape[1:] == SHAPE
    assert torch.is_inference(patterns.sum())
    weights = torch.as_tensor(WEIGHTS, dtype=torch.float32)
    return Answer(patterns.sum((1, 2)), (patterns * weights).sum((1, 2)), torch.as_tensor(indices))


def naive(data):
    """(total, weighted, index), pattern by pattern."""
    flat = data.reshape(-1, *SHAPE).astype(float)
    return np.array([[p.sum(), (p * WEIGHTS).sum(), i] for i, p in enumerate(flat)])


def collect(data, function=answer, **options):
    n = int(np.prod(data.shape[:-2], dtype=int))
    found = Collected(n)
    for part in stream(data, function, **{"device": "cpu", "show_progressbar": False} | options):
        assert not found.done[part.indices].any(), "a pattern was given twice"
        found.add(part)
    return np.stack([found.arrays[name] for name in Answer._fields], axis=1), found.done


def patterns(rng, navigation, dtype="uint8"):
    return rng.integers(0, 200, (*navigation, *SHAPE)).astype(dtype)


@pytest.mark.parametrize("batch_size", [1, 4, 5, 1000, None])
@pytest.mark.parametrize("chunks", [None, (1, 1, 5, 7), (3, 4, 5, 7), (5, 2, 2, 3), (-1, -1, -1, -1), (2, -1, 5, 2)])
def test_any_chunks_and_batch_size_give_what_a_loop_gives(rng, chunks, batch_size):
    array = patterns(rng, (7, 9))
    data = array if chunks is None else da.from_array(array, chunks=chunks)
    result, done = collect(data, batch_size=batch_size)
    assert done.all()
    np.testing.assert_array_equal(result, naive(array))


@pytest.mark.parametrize(
    "navigation, chunks", [((), ()), ((1,), (1,)), ((11,), (4,)), ((1, 5), (1, 2)), ((6, 1), (4, 1))]
)
@pytest.mark.parametrize("lazy", [False, True])
def test_any_navigation_dimension(rng, navigation, chunks, lazy):
    array = patterns(rng, navigation)
    data = da.from_array(array, chunks=(*chunks, 3, 3)) if lazy else array
    result, done = collect(data, batch_size=3)
    assert done.all()
    np.testing.assert_array_equal(result, naive(array))


@pytest.mark.parametrize("dtype", ["u1", ">u2", "<i4", ">i8", ">f4", "f8", "?", "f2", ">f8"])
@pytest.mark.parametrize("lazy", [False, True])
def test_any_dtype_and_byte_order(rng, dtype, lazy):
    array = (patterns(rng, (3, 4)) % 50).astype(dtype)
    data = da.from_array(array, chunks=(2, 3, 5, 7)) if lazy else array
    np.testing.assert_array_equal(collect(data, batch_size=5)[0], naive(array))


def test_read_only_and_strided_arrays(rng):
    array = patterns(rng, (4, 6))[::2, ::-1]
    array.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(collect(array, batch_size=5)[0], naive(array))


@pytest.mark.parametrize("lazy", [False, True])
def test_masked_and_done_patterns_are_not_sent(rng, lazy):
    array = patterns(rng, (7, 9))
    mask, skip = rng.random((7, 9)) < 0.4, rng.random(63) < 0.3
    data = da.from_array(array, chunks=(3, 2, 5, 7)) if lazy else array
    result, done = collect(data, batch_size=4, navigation_mask=mask, skip=skip)
    np.testing.assert_array_equal(done, ~(mask.ravel() | skip))
    np.testing.assert_array_equal(result[done], naive(array)[done])


def counting(array, chunks, read):
    """Dask array that notes which blocks are computed."""

    def block(x, block_info=None):
        read.append(block_info[0]["chunk-location"])
        return x

    return da.from_array(array, chunks=chunks).map_blocks(block, dtype=array.dtype, meta=array[:0])


def test_each_chunk_is_read_once_and_masked_chunks_never(rng):
    array, read = patterns(rng, (6, 6)), []
    mask = np.zeros((6, 6), dtype=bool)
    mask[:2], mask[4, 4] = True, True
    _, done = collect(counting(array, (2, 3, 5, 7), read), batch_size=100, navigation_mask=mask)
    assert done.sum() == 23
    assert sorted(read) == [(i, j, 0, 0) for i in (1, 2) for j in (0, 1)]


def test_order_is_that_of_the_chunks(rng):
    data = da.from_array(patterns(rng, (4, 4)), chunks=(2, 2, 5, 7))
    parts = stream(data, answer, device="cpu", batch_size=3, show_progressbar=False)
    order = np.concatenate([part.indices for part in parts])
    np.testing.assert_array_equal(order, [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15])


@pytest.mark.parametrize("batch_size", [1, 4, 6])
def test_memory_does_not_grow_with_the_scan(rng, batch_size):
    array, read, done, ahead = patterns(rng, (40, 10)), [], [0], []

    def function(batch, indices):
        done[0] += len(batch)
        ahead.append(len(read) * 4 - done[0])
        return answer(batch, indices)

    collect(counting(array, (2, 2, 5, 7), read), function, batch_size=batch_size)
    # the group in hand, the group that is being read, and what was left of the one before
    group = 4 * -(-batch_size // 4)
    assert max(ahead) <= 2 * group + batch_size


def test_groups_keep_to_a_number_of_bytes(rng, monkeypatch):
    monkeypatch.setattr(streaming, "_GROUP_BYTES", 3 * 4 * 4 * 35)  # three chunks as float32
    array, read, ahead, done = patterns(rng, (40, 10)), [], [], [0]

    def function(batch, indices):
        done[0] += len(batch)
        ahead.append(len(read) * 4 - done[0])
        return answer(batch, indices)

    result, _ = collect(counting(array, (2, 2, 5, 7), read), function, batch_size=13)
    assert max(ahead) <= 2 * 12 + 13
    np.testing.assert_array_equal(result, naive(array))


def test_the_next_chunks_are_read_while_the_device_works(rng):
    array, reading = patterns(rng, (4, 4)), threading.Event()

    def block(x, block_info=None):
        if block_info[0]["chunk-location"][0] == 1:
            assert threading.current_thread() is not threading.main_thread()
            reading.set()
        return x

    data = da.from_array(array, chunks=(1, 4, 5, 7)).map_blocks(block, dtype=array.dtype, meta=array[:0])

    def function(batch, indices):
        assert indices[0] > 0 or reading.wait(10), "nothing was read ahead"
        return answer(batch, indices)

    collect(data, function, batch_size=4)


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("lazy", [False, True])
def test_out_of_memory_halves_the_batch_and_goes_on(rng, error, lazy):
    array, sizes = patterns(rng, (7, 9)), []

    def function(batch, indices):
        if len(batch) > 5:
            raise error
        sizes.append(len(batch))
        return answer(batch, indices)

    data = da.from_array(array, chunks=(3, 2, 5, 7)) if lazy else array
    with pytest.warns(UserWarning, match="does not fit into the memory of 'cpu': continuing with") as record:
        result, done = collect(data, function, batch_size=16)
    assert len(record) == 2 and max(sizes) == 4
    assert done.all()
    np.testing.assert_array_equal(result, naive(array))


def test_out_of_memory_for_a_single_pattern_and_other_errors_are_raised(rng):
    def full(batch, indices):
        raise RuntimeError("out of memory")

    def wrong(batch, indices):
        raise RuntimeError("shapes do not match")

    with pytest.warns(UserWarning), pytest.raises(RuntimeError, match="out of memory"):
        collect(patterns(rng, (2, 2)), full, batch_size=4)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        collect(patterns(rng, (2, 2)), wrong, batch_size=4)


def test_an_error_while_reading_arrives(rng):
    def block(x):
        raise OSError("the disk is gone")

    data = da.from_array(patterns(rng, (4, 4)), chunks=(2, 2, 5, 7))
    data = data.map_blocks(block, dtype="u1", meta=np.empty(0, "u1"))
    with pytest.raises(OSError, match="the disk is gone"):
        collect(data)


def test_a_caller_may_stop_and_go_on(rng):
    array = patterns(rng, (7, 9))
    data = da.from_array(array, chunks=(2, 2, 5, 7))
    found = Collected(63)
    for i, part in enumerate(stream(data, answer, device="cpu", batch_size=8, show_progressbar=False)):
        found.add(part)
        if i == 2:
            break
    assert found.done.sum() == 24
    for part in stream(data, answer, device="cpu", batch_size=5, skip=found.done, show_progressbar=False):
        found.add(part)
    assert found.done.all()
    np.testing.assert_array_equal(found.arrays["weighted"], naive(array)[:, 1])


def test_inference_mode_does_not_leak_to_the_caller(rng):
    for _ in stream(patterns(rng, (4,)), answer, device="cpu", batch_size=1, show_progressbar=False):
        assert not torch.is_inference_mode_enabled()


def test_progress_bar_as_asked(rng, capsys):
    import hyperspy.api as hs

    collect(patterns(rng, (4,)), show_progressbar=True)
    assert "4/4" in capsys.readouterr().err
    collect(patterns(rng, (4,)), show_progressbar=False)
    before = hs.preferences.General.show_progressbar
    try:
        hs.preferences.General.show_progressbar = False
        collect(patterns(rng, (4,)), show_progressbar=None)
    finally:
        hs.preferences.General.show_progressbar = before
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


@pytest.mark.parametrize(
    "shape, dtype, error, text",
    [
        ((5,), "u1", ValueError, "have 1 dimensions; they must have 2, 3 or 4"),
        ((2, 2, 2, 5, 7), "u1", ValueError, "Give one scan at a time"),
        ((2, 5, 7), "c8", TypeError, "Patterns must be real numbers, not complex64"),
        ((2, 5, 7), [("R", "u1")], TypeError, "Patterns must be real numbers"),
        ((0, 5, 7), "u1", ValueError, "they hold no pattern"),
    ],
)
def test_what_is_no_pattern(shape, dtype, error, text):
    with pytest.raises(error, match=text):
        collect(np.zeros(shape, dtype=dtype))


@pytest.mark.parametrize("mask", [np.zeros((2, 3), dtype=bool), np.zeros(4)])
def test_wrong_masks(rng, mask):
    with pytest.raises(ValueError, match=r"must be bool of shape \(4,\)"):
        collect(patterns(rng, (4,)), navigation_mask=mask)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, True])
def test_wrong_batch_size(rng, batch_size):
    with pytest.raises(ValueError, match="whole number of at least 1"):
        collect(patterns(rng, (4,)), batch_size=batch_size)


def test_devices(monkeypatch):
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device(torch.device("cpu")).type == "cpu"
    with pytest.raises(ValueError, match="'gpu' is not a device. Give 'auto', 'cpu'"):
        resolve_device("gpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert resolve_device("cuda:0").index == 0
    with pytest.raises(ValueError, match="'cuda:1' is not available: .* sees 1 CUDA devices"):
        resolve_device("cuda:1")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match="'mps' is not available here"):
        resolve_device("mps")
    for cuda, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda c=cuda: c)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda m=mps: m)
        assert resolve_device("auto").type == expected


def test_with_a_client_of_dask_distributed(rng):
    distributed = pytest.importorskip("distributed")
    array = patterns(rng, (7, 9))
    with distributed.Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None):
        result, done = collect(da.from_array(array, chunks=(3, 4, 5, 2)), batch_size=8)
    assert done.all()
    np.testing.assert_array_equal(result, naive(array))
