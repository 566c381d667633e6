"""Devices that are there, how much they take, and how torch's threads are shared."""

import threading
import time

import pytest
import torch

from pyxem_dl.devices import (
    check_batch_size,
    default_batch_size,
    in_micro_batches,
    is_out_of_memory,
    on_one_core,
    one_core_each,
    resolve_device,
)


def test_devices(monkeypatch):
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device(torch.device("cpu", 0)) == torch.device("cpu")
    with pytest.raises(ValueError, match="'gpu' is not a device. Give 'auto', 'cpu'"):
        resolve_device("gpu")
    with pytest.raises(ValueError, match="'meta' cannot be used for computing here"):
        resolve_device("meta")
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


@pytest.mark.parametrize("device", [None, True, 0, ["cpu"]])
def test_what_is_no_name_of_a_device(device):
    with pytest.raises(TypeError, match="must be a name or a torch.device"):
        resolve_device(device)


def test_batch_sizes():
    assert check_batch_size(None) is None and check_batch_size(7) == 7
    assert default_batch_size("cuda") > default_batch_size("cpu")
    for wrong in (0, -3, 2.5, True, "8", 2**30):
        with pytest.raises((ValueError, TypeError), match="batch_size"):
            check_batch_size(wrong)


def test_what_says_that_memory_is_full():
    full = [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried"), MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ]  # fmt: skip
    assert all(map(is_out_of_memory, full))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_micro_batches_give_what_the_whole_gives(size):
    x, y = torch.arange(20.0).reshape(10, 2), torch.arange(10.0)

    def function(x, y, nothing):
        assert nothing is None and len(x) <= size and torch.get_num_threads() == 1
        return x.sum(1) + y, x * 2

    total, twice = in_micro_batches(function, size, torch.device("cpu"), x, y, None)
    assert torch.equal(total, x.sum(1) + y) and torch.equal(twice, x * 2)


def test_threads_that_are_inside_at_once():
    """Whoever leaves last gives torch its threads back, and nobody computes on more than one meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        seen = []

        def work(seconds):
            for _ in range(5):
                with on_one_core():
                    time.sleep(seconds)
                    seen.append(torch.get_num_threads())

        threads = [threading.Thread(target=work, args=(0.001 * i,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == [1] * 30
        with one_core_each(2) as pool:
            assert pool.submit(torch.get_num_threads).result() == torch.get_num_threads() == 1
        new = []
        thread = threading.Thread(target=lambda: new.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert torch.get_num_threads() == 3 and new == [3]
    finally:
        torch.set_num_threads(before)
