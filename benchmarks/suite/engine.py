"""The engine without its networks: what the host does for a pattern, how much memory a long scan takes, and clusters.

Times are CPU times.  The patterns are made as they are read, so that no disk and no file format is measured with them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from pyxem_dl.orientation import predict_orientation
from pyxem_dl.scans import Collected, Computing, Field, Scan, Step, make_signal, stream
from suite import datasets

_DETECTOR = (128, 128)
_REPEATS = 3
#: Positions of a scan that is small, and of one that is twenty times larger
SMALL, LARGE = (64, 256), (1280, 256)
#: Chunks of whole patterns, and chunks as readers of memory-mapped files make them
CHUNKS = {"whole patterns": (8, 32, 128, 128), "chunks that split the detector": (32, 64, 64, 64)}


class Nothing(Step):
    """Gives the fields of an orientation without computing any.

    Parameters
    ----------
    work : bool
        Multiply some matrices, to take about a tenth of the time of a network.
    """

    fields = {
        "rotations": Field((2, 4), "float32"), "phase_id": Field((2,), "int64"), "scores": Field((2,), "float32"),
        "crystal": Field((), "float32"),
    }  # fmt: skip

    def __init__(self, work: bool = False) -> None:
        self._weights = torch.ones(_DETECTOR[0] * _DETECTOR[1] // 4, 128) if work else None
        self._made = {
            name: torch.zeros(4096, *field.shape, dtype=getattr(torch, field.dtype))
            for name, field in self.fields.items()
        }

    def __call__(self, patterns, indices):
        """Values that were made before."""
        if self._weights is not None:
            for part in patterns.flatten(1).split(len(self._weights), 1):
                part @ self._weights
        return {name: values[: len(indices)] for name, values in self._made.items()}


class MadePatterns:
    """An array that is made where it is read, of 16-bit counts."""

    ndim, dtype = 4, np.dtype(np.uint16)

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = (*shape, *_DETECTOR)

    def __getitem__(self, index) -> np.ndarray:
        shape = [len(range(*part.indices(n))) for part, n in zip(index, self.shape, strict=True)]
        return np.full(shape, 3, self.dtype)


def lazy_patterns(shape: tuple[int, int], chunks):
    """Dask array of :class:`MadePatterns`; where chunks split the detector they cannot be cut before they are read."""
    import dask.array as da

    made = da.from_array(MadePatterns(shape), chunks=chunks, name=False)
    return made if chunks[-1] == _DETECTOR[-1] else made.map_blocks(np.copy, dtype=made.dtype)


def host_work() -> dict:
    """CPU time (µs) of stream and collecting for a pattern, in memory and lazy, on one core.

    The patterns are there, and are float32 already: neither reading nor what the device does is measured.
    """
    import dask.array as da

    shape = (32, 128)
    chunk = np.full((16, 16, *_DETECTOR), 3, np.float32)
    ready = da.map_blocks(
        lambda block_info=None: chunk, chunks=((16,) * 2, (16,) * 8, *((n,) for n in _DETECTOR)), dtype=np.float32,
        meta=np.empty((0,) * 4, np.float32),
    )  # fmt: skip
    data = {"in memory": np.full((*shape, *_DETECTOR), 3, np.float32), "lazy": ready}
    computing, n = Computing("cpu", show_progressbar=False), shape[0] * shape[1]

    def run(patterns) -> float:
        start = time.process_time()
        found = Collected(n, Nothing.fields)
        for part in stream(patterns, Nothing(), computing):
            found.add(part)
        return 1e6 * (time.process_time() - start) / n

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {name: [round(run(patterns), 2) for _ in range(_REPEATS)] for name, patterns in data.items()}
    finally:
        torch.set_num_threads(threads)


def peak_memory(shape: tuple[int, int], chunks) -> float:
    """Most memory (MiB) of a process of its own that streams a scan, with its libraries."""
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "from suite.engine import _stream_and_watch\n"
        f"print(_stream_and_watch({shape!r}, {chunks!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def _stream_and_watch(shape, chunks) -> float:
    data = lazy_patterns(shape, chunks)
    most = 0.0
    found = Collected(shape[0] * shape[1], Nothing.fields)
    for i, part in enumerate(stream(data, Nothing(), Computing("cpu", show_progressbar=False))):
        found.add(part)
        most = max(most, _own_memory()) if i % 8 == 0 else most
    return most


def _own_memory() -> float:
    """Memory (MiB) of this process without mapped files (Linux)."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon")) / 1024


def seconds_per_pattern(counts=(1000, 10_000, 100_000, 1_000_000)) -> dict[int, float]:
    """CPU time (µs) for a pattern of scans of so many, with a step that takes a tenth of a network's time."""
    times = {}
    for n in counts:
        data, repeats = lazy_patterns((n // 100, 100), (10, 100, *_DETECTOR)), max(1, 20_000 // n)
        start = time.process_time()
        for _ in range(repeats):
            found = Collected(n, Nothing.fields)
            for part in stream(data, Nothing(work=True), Computing("cpu", show_progressbar=False)):
                found.add(part)
        times[n] = round(1e6 * (time.process_time() - start) / n / repeats, 1)
    return times


def client_time(folder: Path, model: str) -> dict:
    """CPU time (µs) for a pattern of a client with two workers, and of a process alone, without fixed costs."""
    import hyperspy.api as hs

    labelled = datasets.multislice(folder, "Al", datasets.DOSES[0])
    patterns = np.resize(labelled.signal.data.astype(np.uint16), (40 * 64, *labelled.signal.data.shape[1:]))
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "scan.zspy"
        calibration = Scan.from_signal(labelled.signal, inspect=False).calibration
        scan = make_signal(patterns.reshape(40, 64, *patterns.shape[1:]), calibration, "")
        scan.save(file, chunks=(8, 8, *_DETECTOR))
        signal = hs.load(file, lazy=True)

        def run(rows: int) -> float:
            start = time.process_time()
            predict_orientation(signal.inav[:, :rows], model, show_progressbar=False, on_message=lambda line: None)
            return time.process_time() - start

        def per_pattern() -> float:
            run(8)
            return 1e6 * float(np.median([run(40) - run(8) for _ in range(_REPEATS)])) / (32 * 64)

        alone = per_pattern()
        with _cluster(2):
            return {"client": round(per_pattern(), 1), "alone": round(alone, 1)}


@contextmanager
def _cluster(n: int):
    """Start a scheduler and workers in processes of their own, so that their time is not the client's."""
    from distributed import Client

    port = 8796
    commands = [["scheduler", "--port", str(port), "--no-dashboard"]]
    commands += [["worker", f"tcp://127.0.0.1:{port}", "--nthreads", "1", "--no-dashboard"]] * n
    dask = [sys.executable, "-m", "dask"]
    running = [subprocess.Popen([*dask, *command], stderr=subprocess.DEVNULL) for command in commands]
    try:
        with Client(f"tcp://127.0.0.1:{port}", timeout=60) as client:
            client.wait_for_workers(n, timeout=60)
            yield client
    finally:
        for process in running:
            process.terminate()
            process.wait(30)


def measure(folder: Path, models: dict[str, list[str]]):
    """Yield data, label and numbers of each row: what was measured, what was asked, and how."""
    host = host_work()
    for where, times in host.items():
        yield f"host work for a pattern, {where}", "µs", {"found": min(times), "all": times, "asked": "≤ 4"}
    for name, chunks in CHUNKS.items():
        small, large = (peak_memory(shape, chunks) for shape in (SMALL, LARGE))
        yield f"memory of a scan 20 times larger, {name}", "times", {
            "found": round(large / small, 3), "all": [round(small), round(large)], "asked": "< 1.1",
        }  # fmt: skip
    times = seconds_per_pattern()
    spread = max(times.values()) / min(times.values())
    yield "time for a pattern, 10³ to 10⁶", "most / least", {
        "found": round(spread, 3), "all": list(times.values()), "asked": "≤ 1.15",
    }  # fmt: skip
    times = client_time(folder, models["al"][0])
    yield "CPU time of a client, to that of a process alone", "times", {
        "found": round(times["client"] / times["alone"], 3), "all": list(times.values()), "asked": "≤ 0.1",
    }  # fmt: skip


if __name__ == "__main__":
    for row in measure(Path(sys.argv[1]), {"al": ["al-200kv"]}):
        print(json.dumps(row, ensure_ascii=False), flush=True)
