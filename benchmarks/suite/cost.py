"""CPU time for a pattern on one core, and how many times that is what its products of matrices would take.

Times are those of the thread, not of the clock: other programs on the machine count little.  The rate of products is
measured before and after each call, so that the ratio holds on any machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from pyxem_dl.frames import Calibration
from pyxem_dl.models import load_model
from pyxem_dl.patterns.matcher import DiskMatcher
from pyxem_dl.patterns.probes import Probe
from suite import datasets
from suite.disks import bragg_disks

#: MFLOP for a pattern in products of matrices and convolutions, of the networks as they were when the target was set:
#: with all proposals verified
FLOPS = {"al": 58.5, "linio2": 72.0}
# Rows, columns and inner length of the product by which the rate is measured: that of most of the network's work
_PRODUCT = (64 * 72, 256, 128)
_REPEATS, _PATTERNS = 7, 512
#: Of a disk the network's confidence, as in ``predict_bragg_vectors``
_LEAST = 0.3


def products_per_second(precision: str) -> float:
    """FLOP/s of products of matrices on this core, in "float32" or "bfloat16"."""
    rows, columns, inner = _PRODUCT
    dtype = getattr(torch, precision)
    a, weight = torch.randn(rows, inner, dtype=dtype), torch.randn(columns, inner, dtype=dtype)

    def multiply():
        for _ in range(20):
            torch.nn.functional.linear(a, weight)

    multiply()
    return 20 * 2 * rows * columns * inner / min(_seconds(multiply) for _ in range(3))


def _seconds(function: Callable) -> float:
    start = time.thread_time()
    with torch.inference_mode():
        function()
    return time.thread_time() - start


def orientations(folder: Path, models: dict[str, list[str]]):
    """Measure the orientation networks on 128 x 128 px.

    Yields
    ------
    data, label : str
        Of a row.
    numbers : dict
        ``us``, CPU microseconds for a pattern; ``times_products``, their ratio to what :data:`FLOPS` would take, as
        median, least and most of the repeats; ``gflops``, the rate.
    """
    for material, name in (("al", "Al"), ("linio2", "LiNiO2")):
        labelled = datasets.multislice(folder, name, datasets.DOSES[0])
        patterns = np.resize(labelled.signal.data, (_PATTERNS, *labelled.signal.data.shape[1:]))
        patterns, calibration = torch.from_numpy(patterns), Calibration.from_signal(labelled.signal)
        for each in (*models[material], *models["any"]):
            model = load_model(each)
            if model.takes_phases:
                model = model.with_phases(labelled.phase, calibration.beam_energy, 1.5)
            model.predict_batch(patterns, calibration)  # makes tables
            found = []
            for _ in range(_REPEATS):
                before = products_per_second(model.precision)
                seconds = _seconds(lambda: model.predict_batch(patterns, calibration)) / _PATTERNS  # noqa: B023
                rate = (before + products_per_second(model.precision)) / 2
                found.append((1e6 * seconds, seconds * rate / (1e6 * FLOPS[material]), rate / 1e9))
            us, ratio, rate = zip(*found, strict=True)
            yield f"{name}, 128 × 128 px", f"network {Path(each).name}", {
                "n": _PATTERNS, "us": _spread(us), "times_products": _spread(ratio), "gflops": round(median(rate), 1),
            }  # fmt: skip


def disks(folder: Path, models: dict[str, list[str]]):
    """Measure what finds disks, on 256 x 256 px; rows as those of :func:`orientations`."""
    known = bragg_disks(folder, "Al", 1e5)
    patterns, probe = torch.from_numpy(np.asarray(known.signal.data)), Probe.from_image(known.vacuum)
    finders = {"correlation, torch": DiskMatcher(probe, patterns.shape[1:])}
    for each in models["disks"]:
        model = load_model(each)
        image = probe.resampled(model.network.radius / probe.radius).image
        finders[f"network {Path(each).name}"] = lambda x, model=model, image=image: model.predict_batch(
            x, image, probe.radius, least=_LEAST
        )
    for label, find in finders.items():
        find(patterns)
        us = [1e6 * _seconds(lambda: find(patterns)) / len(patterns) for _ in range(_REPEATS)]  # noqa: B023
        yield "disks, 256 × 256 px", label, {"n": len(patterns), "us": _spread(us)}


def _spread(values) -> list[float]:
    """Median, least and most."""
    return [round(x, 3 - (x > 100) * 3) for x in (median(values), min(values), max(values))]


def measure(folder: Path, models: dict[str, list[str]]):
    """All rows, on one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from orientations(folder, models)
        yield from disks(folder, models)
    finally:
        torch.set_num_threads(threads)
