"""The stream gives what a loop over the patterns gives, whatever the chunks, the batches and the dtype."""

import threading
import time
import warnings

import dask.array as da
import numpy as np
import pytest
import torch

from pyxem_dl.scans import Collected, Computing, Field, Padded, Rows, Step, blocks as blocks_module, stream
from pyxem_dl.scans.blocks import BlockReader, Blocks, plan_blocks
from pyxem_dl.scans.lazy import lazy_tables
from pyxem_dl.scans.scan import Scan

SHAPE = (5, 7)  # of the detector
WEIGHTS = np.arange(35.0).reshape(SHAPE)


class Sums(Step):
    """Sums that are exact in float32, for the small whole numbers of these tests."""

    micro_batch = 4

    def __init__(self, before=lambda patterns, indices: None):
        self.before = before

    @property
    def fields(self):
        return {"total": Field((), "float32"), "weighted": Field((), "float32"), "index": Field((), "int64")}

    def __call__(self, patterns, indices):
        assert patterns.dtype == torch.float32 and patterns.shape[1:] == SHAPE
        assert torch.is_inference(patterns.sum())
        self.before(patterns, indices)
        weighted = (patterns * torch.as_tensor(WEIGHTS, dtype=torch.float32)).sum((1, 2))
        return {"total": patterns.sum((1, 2)), "weighted": weighted, "index": torch.as_tensor(indices)}


class InTurn(Sums):
    """The same, one batch after the other."""

    in_threads = False
    micro_batch = 64


class Counts(Step):
    """For each pattern so many rows as its first pixel says."""

    micro_batch = 4

    @property
    def fields(self):
        return {"rows": Field((2,), "float32", ragged=True)}

    def __call__(self, patterns, indices):
        n = patterns[:, 0, 0].long()
        keep = torch.arange(3)[None] < n[:, None]
        return {"rows": Padded(patterns[:, 1, :2][:, None].expand(-1, 3, -1), keep)}


def naive(data):
    """(total, weighted, index), pattern by pattern."""
    flat = data.reshape(-1, *SHAPE).astype(float)
    return np.array([[p.sum(), (p * WEIGHTS).sum(), i] for i, p in enumerate(flat)])


def cpu(batch_size=None, **options):
    return Computing("cpu", batch_size, **options)


def collect(data, step=None, batch_size=None, **options):
    step = Sums() if step is None else step
    found = Collected(int(np.prod(data.shape[:-2], dtype=int)), step.fields)
    for part in stream(data, step, cpu(batch_size), **options):
        assert not found.done[part.indices].any(), "a pattern was given twice"
        found.add(part)
    return np.stack([found.arrays[name] for name in step.fields], axis=1), found.done


def patterns(rng, navigation, dtype="uint8"):
    return rng.integers(0, 200, (*navigation, *SHAPE)).astype(dtype)


# ------------------------------------------------------------------ the same as a loop
@pytest.mark.parametrize("batch_size", [1, 4, 5, 1000, None])
@pytest.mark.parametrize("chunks", [None, (1, 1, 5, 7), (3, 4, 5, 7), (5, 2, 2, 3), (-1, -1, -1, -1), (2, -1, 5, 2)])
def test_any_chunks_and_batch_size_give_what_a_loop_gives(rng, chunks, batch_size):
    array = patterns(rng, (7, 9))
    data = array if chunks is None else da.from_array(array, chunks=chunks)
    for step in (Sums(), InTurn()):
        result, done = collect(data, step, batch_size)
        assert done.all()
        np.testing.assert_array_equal(result, naive(array))


def test_irregular_chunks_as_of_a_cropped_scan(rng):
    array = patterns(rng, (7, 9))
    result, done = collect(da.from_array(array, chunks=((1, 4, 2), (3, 1, 5), (2, 3), 7)))
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


@pytest.mark.parametrize(
    "dtype",
    ["u1", "u2", ">u2", "u4", ">u4", "u8", ">u8", "<i4", ">i8", "f2", ">f2", ">f4", "f8", ">f8", "g", "?"],
)
@pytest.mark.parametrize("lazy", [False, True])
def test_any_dtype_and_byte_order(rng, dtype, lazy):
    array = (patterns(rng, (3, 4)) % 50).astype(dtype)
    data = da.from_array(array, chunks=(2, 3, 5, 7)) if lazy else array
    np.testing.assert_array_equal(collect(data, batch_size=5)[0], naive(array))


@pytest.mark.parametrize("dtype", ["u1", ">u2", "f4"])
def test_read_only_and_strided_arrays(rng, dtype):
    array = patterns(rng, (4, 6), dtype)[::2, ::-1, :, ::-1]
    array.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(collect(array, batch_size=5)[0], naive(array))


def test_a_memory_map_is_read_and_not_changed(rng, tmp_path):
    array = patterns(rng, (4, 6))
    np.save(tmp_path / "scan.npy", array)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mapped = np.load(tmp_path / "scan.npy", mmap_mode="r")
        np.testing.assert_array_equal(collect(mapped, batch_size=5)[0], naive(array))


@pytest.mark.parametrize("lazy", [False, True])
def test_only_what_is_wanted_is_done(rng, lazy):
    array = patterns(rng, (7, 9))
    wanted = rng.random((7, 9)) < 0.5
    data = da.from_array(array, chunks=(3, 2, 5, 7)) if lazy else array
    result, done = collect(data, batch_size=4, wanted=wanted)
    np.testing.assert_array_equal(done, wanted.ravel())
    np.testing.assert_array_equal(result[done], naive(array)[done])


@pytest.mark.parametrize("size", [(1, 1), (2, 4), (7, 9)])
def test_rows_of_any_number_come_back_at_their_positions(rng, size):
    array = patterns(rng, (7, 9)) % 4
    found = Collected(63)
    for part in stream(array, Counts(), cpu(), blocks=Blocks((7, 9), size)):
        assert isinstance(part.arrays["rows"], Rows)
        found.add(part)
    for table, pattern in zip(found.tables("rows", (2,)), array.reshape(63, *SHAPE), strict=True):
        np.testing.assert_array_equal(table, np.tile(pattern[1, :2], (pattern[0, 0], 1)))


def test_tables_in_the_place_of_patterns(rng):
    """Vectors that are matched: an object array, whose tables reach the step as they are."""
    tables = np.empty((3, 4), dtype=object)
    for i in np.ndindex(tables.shape):
        tables[i] = rng.random((rng.integers(0, 5), 2))

    class Lengths(Step):
        micro_batch = 5
        fields = {"n": Field((), "int64")}

        def __call__(self, patterns, indices):
            return {"n": torch.tensor([len(table) for table in patterns])}

    found = Collected(12)
    for part in stream(tables, Lengths(), cpu()):
        found.add(part)
    assert found.done.all() and found.arrays["n"].tolist() == [len(table) for table in tables.ravel()]


def test_order_is_that_of_the_blocks(rng):
    data = patterns(rng, (4, 4))
    parts = stream(data, Sums(), cpu(3), blocks=Blocks((4, 4), (2, 2)))
    order = np.concatenate([part.indices for part in parts])
    np.testing.assert_array_equal(order, [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15])


def test_order_is_kept_where_a_batch_is_late(rng):
    def late(batch, indices):
        if indices[0] % 8 == 0:
            time.sleep(0.02)

    parts = stream(patterns(rng, (8, 8)), Sums(late), cpu())
    np.testing.assert_array_equal(np.concatenate([part.indices for part in parts]), np.arange(64))


# ------------------------------------------------------------------ reading
def counting(array, chunks, read):
    """Dask array that notes which blocks are computed."""

    def block(x, block_info=None):
        read.append(block_info[0]["chunk-location"])
        return x

    return da.from_array(array, chunks=chunks).map_blocks(block, dtype=array.dtype, meta=array[:0])


def test_each_chunk_is_read_once_and_masked_chunks_never(rng):
    array, read = patterns(rng, (6, 6)), []
    wanted = np.ones((6, 6), dtype=bool)
    wanted[:2], wanted[4, 4] = False, False
    _, done = collect(counting(array, (2, 3, 5, 7), read), batch_size=100, wanted=wanted)
    assert done.sum() == 23
    assert sorted(read) == [(i, j, 0, 0) for i in (1, 2) for j in (0, 1)]


@pytest.mark.parametrize("merged", [1, 4 * 35, 12 * 35, 10**9])
def test_chunks_that_split_the_detector_are_read_once(rng, merged, monkeypatch):
    monkeypatch.setattr(blocks_module, "MERGED_BYTES", merged)
    array, read = patterns(rng, (6, 6)), []
    result, _ = collect(counting(array, (2, 3, 2, 4), read), batch_size=4)
    np.testing.assert_array_equal(result, naive(array))
    assert len(read) == len(set(read)) == 3 * 2 * 3 * 2


@pytest.mark.parametrize("batch_size", [1, 4, 6])
@pytest.mark.parametrize("step", [Sums, InTurn])
def test_memory_does_not_grow_with_the_scan(rng, batch_size, step, monkeypatch):
    monkeypatch.setattr(blocks_module, "MERGED_BYTES", 4 * 35)
    array, read, done, ahead, lock = patterns(rng, (40, 10)), [], [0], [], threading.Lock()

    def before(batch, indices):
        with lock:
            ahead.append(len(read) * 4 - done[0])
            done[0] += len(batch)

    collect(counting(array, (2, 2, 5, 7), read), step(before), batch_size)
    # the block in hand, the one that is read, what was left of the one before, and the batches that wait for a core
    in_flight = 2 * torch.get_num_threads() * batch_size
    assert max(ahead) <= 2 * 4 + batch_size + in_flight < 400 / 4


def test_the_next_block_is_read_while_the_device_works(rng, monkeypatch):
    monkeypatch.setattr(blocks_module, "MERGED_BYTES", 4 * 35)
    array, reading = patterns(rng, (4, 4)), threading.Event()

    def block(x, block_info=None):
        if block_info[0]["chunk-location"][0] == 1:
            assert threading.current_thread() is not threading.main_thread()
            reading.set()
        return x

    data = da.from_array(array, chunks=(1, 4, 5, 7)).map_blocks(block, dtype=array.dtype, meta=array[:0])

    def before(batch, indices):
        assert indices[0] > 0 or reading.wait(10), "nothing was read ahead"

    collect(data, InTurn(before), batch_size=4)


def test_every_block_is_looked_at_as_it_was_read(rng):
    array, seen = patterns(rng, (4, 6), "u2"), []

    def look(indices, found):
        assert found.dtype == np.uint16
        seen.extend(zip(indices.tolist(), found))

    wanted = np.arange(24) % 5 != 0
    collect(da.from_array(array, chunks=(2, 2, 5, 4)), wanted=wanted, look=look)
    assert sorted(i for i, _ in seen) == np.flatnonzero(wanted).tolist()
    for i, pattern in seen:
        np.testing.assert_array_equal(pattern, array.reshape(24, *SHAPE)[i])


# ------------------------------------------------------------------ blocks
@pytest.mark.parametrize(
    "chunks",
    [(8, 8, 256, 256), (1, 1, 256, 256), (32, 32, 32, 32), (256, 256, 2, 2), (1, 256, 64, 64), (16, 16, 16, 256)],
)
def test_blocks_keep_to_their_budget(chunks):
    """4 GiB, and chunks as files have them: .mrc and .emd split the detector."""
    data = da.zeros((256, 256, 256, 256), dtype="u1", chunks=chunks)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        planned = plan_blocks(data)
    size = int(np.prod(planned.size)) * 256 * 256
    assert size <= blocks_module.LARGEST_BYTES
    assert size >= blocks_module.MERGED_BYTES / 4, "so small blocks cost more than they hold"
    indices = np.concatenate([planned.indices(i) for i in range(len(planned))])
    assert len(indices) == 65536 and (np.bincount(indices) == 1).all()


@pytest.mark.parametrize("chunks", [(8, 8, 5, 7), (3, 5, 2, 3)])
def test_blocks_are_whole_chunks_where_these_fit(chunks):
    planned = plan_blocks(da.zeros((64, 60, *SHAPE), chunks=chunks, dtype="u1"), most=200)
    assert all(size % chunk == 0 or size == n for size, chunk, n in zip(planned.size, chunks, planned.shape))
    assert np.prod(planned.size) <= 200


def test_chunks_larger_than_the_budget_are_read_in_pieces_with_a_warning(rng, monkeypatch):
    monkeypatch.setattr(blocks_module, "MERGED_BYTES", 4 * 35)
    monkeypatch.setattr(blocks_module, "LARGEST_BYTES", 6 * 35)
    array = patterns(rng, (8, 12))
    data = da.from_array(array, chunks=(8, 12, 2, 7))
    with pytest.warns(UserWarning, match=r"\(8, 12, 2, 7\) of the data are too large .* read in 16 pieces"):
        planned = plan_blocks(data)
    assert np.prod(planned.size) == 6
    with pytest.warns(UserWarning, match="pieces"):
        result, done = collect(data)
    assert done.all()
    np.testing.assert_array_equal(result, naive(array))


def test_a_block_with_one_pattern_larger_than_the_budget():
    assert plan_blocks(da.zeros((2, 2, 20000, 20000), dtype="u2", chunks=(1, 1, -1, -1))).size == (1, 1)


def test_a_block_and_its_positions(rng):
    array = patterns(rng, (5, 7))
    planned, wanted = Blocks((5, 7), (2, 3)), rng.random(35) < 0.5
    assert planned.grid == (3, 3) and len(planned) == 9
    reader = BlockReader(array, planned, wanted)
    for i in range(9):
        ((indices, found),) = reader.read(i)
        assert wanted[indices].all() and (planned.of(indices) == i).all()
        np.testing.assert_array_equal(found, array.reshape(35, *SHAPE)[indices])


# ------------------------------------------------------------------ cores
@pytest.fixture
def eight_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    yield 8
    torch.set_num_threads(before)


def test_all_cores_are_busy(rng, eight_threads):
    """Of a network that takes its time at least 0.9 n run at once, whatever the machine does besides."""
    inside, counts, lock = [0], [], threading.Lock()

    def before(batch, indices):
        with lock:
            inside[0] += 1
        time.sleep(0.03 + 0.04 * (indices[0] * 0.618 % 1))  # so that they do not end at once
        with lock:
            counts.append(inside[0])
            inside[0] -= 1

    result, _ = collect(array := patterns(rng, (20, 20)), Sums(before))
    np.testing.assert_array_equal(result, naive(array))
    assert len(counts) == 100
    assert np.mean(counts[: -eight_threads]) >= 0.9 * eight_threads, counts


def test_all_cores_meet(rng, eight_threads):
    """No batch goes on before seven others are with it."""
    barrier = threading.Barrier(eight_threads)
    result, _ = collect(array := patterns(rng, (16, 16)), Sums(lambda *_: barrier.wait(60)))
    np.testing.assert_array_equal(result, naive(array))


def test_no_core_waits_for_a_slow_one(rng, eight_threads):
    others, many = threading.Semaphore(0), 12

    def before(batch, indices):
        if indices[0]:
            others.release()
            return
        for _ in range(many):
            assert others.acquire(timeout=60), "batches wait for the first one"

    assert collect(patterns(rng, (10, 10)), Sums(before))[1].all()


def test_each_core_computes_on_one_core(rng):
    seen = []
    collect(patterns(rng, (6, 6)), Sums(lambda *_: seen.append(torch.get_num_threads())))
    assert set(seen) == {1}


def _wrong(batch, indices):
    raise RuntimeError("shapes do not match")


def _to_the_end(data):
    collect(data)


def _with_an_error(data):
    with pytest.raises(RuntimeError, match="shapes do not match"):
        collect(data, Sums(_wrong))


def _until_a_break(data):
    parts = stream(data, Sums(), cpu(4))
    for _ in parts:
        break
    parts.close()


def _until_nobody_wants_more(data):
    next(stream(data, Sums(), cpu(4)))


def _two_at_once(data):
    for _ in zip(stream(data, Sums(), cpu(4)), stream(data, InTurn(), cpu(4))):
        pass


def _lazily(data):
    from pyxem_dl.frames import Calibration
    from pyxem_dl.scans import make_signal

    signal = make_signal(da.from_array(data, chunks=(2, 2, 5, 7)), Calibration((0.1, 0.1), (2, 3), SHAPE, 200.0), "x")
    tables = lazy_tables(Scan.from_signal(signal, inspect=False), Counts(), "rows", cpu())
    found = tables.compute(scheduler="threads", num_workers=6)
    assert [len(table) for table in found.ravel()] == np.minimum(data[..., 0, 0], 3).ravel().tolist()


@pytest.mark.parametrize(
    "use", [_to_the_end, _with_an_error, _until_a_break, _until_nobody_wants_more, _two_at_once, _lazily]
)
@pytest.mark.parametrize("threads", [1, 3])
def test_torch_has_its_threads_back(rng, use, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        use(patterns(rng, (12, 12)))
        assert torch.get_num_threads() == threads
        other = []
        thread = threading.Thread(target=lambda: other.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert other == [threads]
    finally:
        torch.set_num_threads(before)


def test_no_thread_is_left(rng):
    before = threading.active_count()
    _to_the_end(patterns(rng, (12, 12)))
    _with_an_error(patterns(rng, (12, 12)))
    _until_a_break(patterns(rng, (12, 12)))
    assert threading.active_count() <= before


# ------------------------------------------------------------------ errors
OUT_OF_MEMORY = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
@pytest.mark.parametrize("step", [Sums, InTurn])
@pytest.mark.parametrize("lazy", [False, True])
def test_out_of_memory_halves_the_batch_and_goes_on(rng, error, step, lazy, monkeypatch):
    monkeypatch.setattr(step, "micro_batch", 16)
    array, sizes = patterns(rng, (7, 9)), []

    def before(batch, indices):
        if len(batch) > 5:
            raise error
        sizes.append(len(batch))

    data = da.from_array(array, chunks=(3, 2, 5, 7)) if lazy else array
    with pytest.warns(UserWarning, match="does not fit into the memory of 'cpu': continuing with") as record:
        result, done = collect(data, step(before), batch_size=16)
    assert len(record) == 2 and max(sizes) == 4
    assert done.all()
    np.testing.assert_array_equal(result, naive(array))


def _full(batch, indices):
    raise RuntimeError("out of memory")


@pytest.mark.parametrize("step", [Sums, InTurn])
def test_out_of_memory_for_a_single_pattern_and_other_errors_are_raised(rng, step):
    with pytest.warns(UserWarning), pytest.raises(RuntimeError, match="out of memory"):
        collect(patterns(rng, (2, 2)), step(_full), batch_size=4)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        collect(patterns(rng, (2, 2)), step(_wrong), batch_size=4)


GONE = OSError("the disk is gone")


def unreadable(array, chunks, bad, error=GONE):
    """Dask array of which some chunks cannot be read."""

    def block(x, block_info=None):
        if bad(block_info[0]["chunk-location"]):
            raise error
        return x

    return da.from_array(array, chunks=chunks).map_blocks(block, dtype=array.dtype, meta=array[:0])


def test_where_nothing_can_be_read_the_error_arrives(rng):
    with pytest.raises(OSError, match="the disk is gone"):
        collect(unreadable(patterns(rng, (4, 4)), (2, 2, 5, 7), lambda _: True))


def test_not_all_of_a_scan_is_tried_where_nothing_can_be_read(rng, monkeypatch):
    monkeypatch.setattr(blocks_module, "MERGED_BYTES", 35)
    tried = []
    data = unreadable(patterns(rng, (10, 10)), (1, 1, 5, 7), lambda place: tried.append(place) or True)
    with pytest.raises(OSError, match="the disk is gone"):
        collect(data)
    assert len(tried) < 12


@pytest.mark.parametrize("error", [OSError("the disk is gone"), ValueError("no blosc"), KeyError("0.0")])
@pytest.mark.parametrize("merged", [8 * 35, 2**20], ids=["a chunk", "all chunks"])
def test_what_cannot_be_read_is_named_and_the_rest_goes_on(rng, error, merged, monkeypatch):
    """A chunk, also where it is one of many in a block."""
    monkeypatch.setattr(blocks_module, "MERGED_BYTES", merged)
    array = patterns(rng, (6, 8))
    data = unreadable(array, (2, 4, 5, 7), lambda place: place[:2] == (1, 1), error)
    with pytest.warns(UserWarning, match=r"8 patterns could not be read .*20-23, 28-31; ") as record:
        result, done = collect(data)
    assert type(error).__name__ in str(record[0].message)
    expected = np.ones((6, 8), dtype=bool)
    expected[2:4, 4:] = False
    np.testing.assert_array_equal(done, expected.ravel())
    np.testing.assert_array_equal(result[done], naive(array)[done])


def test_memory_that_is_full_while_reading_is_no_damage_of_the_file(rng, monkeypatch):
    monkeypatch.setattr(blocks_module, "MERGED_BYTES", 8 * 35)
    data = unreadable(patterns(rng, (6, 8)), (2, 4, 5, 7), lambda place: place[:2] == (1, 1), MemoryError("no room"))
    with pytest.raises(MemoryError, match="no room"):
        collect(data)


def test_a_caller_may_stop_and_go_on(rng):
    array = patterns(rng, (7, 9))
    data = da.from_array(array, chunks=(2, 2, 5, 7))
    found = Collected(63)
    for i, part in enumerate(stream(data, Sums(), cpu(4))):
        found.add(part)
        if i == 5:
            break
    assert found.done.sum() == 24
    for part in stream(data, Sums(), cpu(5), wanted=~found.done):
        found.add(part)
    assert found.done.all()
    np.testing.assert_array_equal(found.arrays["weighted"], naive(array)[:, 1])


def test_inference_mode_does_not_leak_to_the_caller(rng):
    for step in (Sums(), InTurn()):
        for _ in stream(patterns(rng, (4,)), step, cpu(1)):
            assert not torch.is_inference_mode_enabled()


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


@pytest.mark.parametrize("wanted", [np.zeros((2, 3), dtype=bool), np.zeros(4)])
def test_what_is_no_choice_of_patterns(rng, wanted):
    with pytest.raises(ValueError, match="must be bool of 4 positions"):
        collect(patterns(rng, (4,)), wanted=wanted)


# ------------------------------------------------------------------ what computes
@pytest.mark.parametrize("batch_size", [0, -1, 2.5, True])
def test_wrong_batch_size(batch_size):
    with pytest.raises(ValueError, match="whole number of at least 1"):
        cpu(batch_size)


@pytest.mark.parametrize(
    "options, error, text",
    [
        ({"on_part": 3}, TypeError, "on_part must be a function, not 3"),
        ({"on_message": "print"}, TypeError, "on_message must be a function"),
        ({"show_progressbar": "yes"}, (TypeError, ValueError), "show_progressbar"),
    ],
)
def test_wrong_options_of_computing(options, error, text):
    with pytest.raises(error, match=text):
        cpu(**options)
