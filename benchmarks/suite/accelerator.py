"""What a GPU does: patterns/s, and whether its answers are those of the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from pyxem_dl import data as sample_data, metrics
from pyxem_dl.bragg_vectors import match_disks, predict_bragg_vectors
from pyxem_dl.frames import Calibration
from pyxem_dl.orientation import predict_orientation
from pyxem_dl.scans import make_signal
from pyxem_dl.template_matching import match_templates
from suite.measure import patterns_per_second
from suite.tables import header, line, percent

# Scans (y, x) of which the speed is the difference, patterns of a chunk along an axis
_SHAPES = {"orientations": ((64, 64), (192, 256)), "disks": ((32, 32), (96, 128))}
_CHUNK = 16
# Answers are the same within so many degrees, or px of a disk
_SAME_ANGLE, _SAME_PLACE = 0.1, 0.05


def measure(models: dict[str, list[str]], device: str) -> Iterator[tuple[str, str, dict]]:
    """Measure orientations and disks of simulated scans, of which nothing is read from files.

    Parameters
    ----------
    models : dict of list of str
        Models of each material.
    device : str
        To be measured, and compared with the CPU.

    Yields
    ------
    data, label : str
        What was measured.
    numbers : dict
        ``patterns_per_second`` and ``whole_call``, as of :func:`~suite.measure.speed`; ``same``, the share of
        orientations (or disks) that are those of the CPU, and ``n`` and ``compared``, how many there were.
    """
    crystal = sample_data.lithium_nickel_oxide()
    scan = sample_data.polycrystal((16, 16), n_grains=9).signal
    methods = {f"network {name}": partial(predict_orientation, model=name) for name in models["linio2"]}
    methods["templates, torch, 1°"] = partial(match_templates, phases=crystal, resolution=1.0)
    for label, method in methods.items():
        yield _row("LiNiO2, 128 × 128 px, lazy", label, method, scan, "orientations", _same_orientations, device)
    layers = sample_data.strained_multilayer((16, 16))
    finders = {f"network {name}": partial(predict_bragg_vectors, model=name) for name in models["disks"]}
    finders["correlation, torch"] = match_disks
    for label, finder in finders.items():
        method = partial(_find, finder, layers.vacuum)
        rows, columns = layers.signal.data.shape[-2:]
        yield _row(f"disks, {rows} × {columns} px, lazy", label, method, layers.signal, "disks", _same_disks, device)


def table(rows: list[dict], letter: Callable) -> str:
    """Write the table."""
    lines = [
        "## GPU",
        "",
        "Patterns/s from a lazy signal to the answer, what does not grow with the scan taken away; *whole call*:"
        " everything counted, for a scan of n patterns. *As the CPU*: share of the orientations within 0.1°, and of the"
        " disks within 0.05 px, of what the CPU finds in the same patterns.",
        "",
        *header("data", "method", "n", "patterns/s", "whole call", "as the CPU", "compared", "run"),
    ]
    lines += [
        line(row["data"], row["predictor"], row["n"], f"{row['patterns_per_second']:.4g}", f"{row['whole_call']:.4g}",
             percent(row["same"]), row["compared"], letter(row))
        for row in rows
    ]  # fmt: skip
    return "\n".join(lines)


def _row(data: str, label: str, method, signal, kind: str, compare: Callable, device: str) -> tuple[str, str, dict]:
    scans = [_repeated(signal, shape) for shape in _SHAPES[kind]]
    on_device = partial(method, device=device, show_progressbar=False)
    on_device(scans[0])  # compiles, and fills caches
    numbers = patterns_per_second(on_device, scans, _SHAPES[kind])
    same, compared = compare(method(signal, device="cpu", show_progressbar=False), on_device(signal))
    return data, label, numbers | {"same": same, "compared": compared}


def _find(finder, vacuum, signal, **settings):
    return finder(signal, probe=vacuum, **settings)


def _repeated(signal, shape: tuple[int, int]):
    """Make a lazy scan of the patterns of another one, over and over."""
    import dask.array as da

    counts = np.asarray(signal.data).clip(0, 65535).astype(np.uint16)
    block = da.from_array(counts[:_CHUNK, :_CHUNK], chunks=-1)
    times = [-(-n // m) for n, m in zip(shape, block.shape)]
    return make_signal(da.tile(block, (*times, 1, 1))[: shape[0], : shape[1]], Calibration.from_signal(signal), "")


def _same_orientations(one, other) -> tuple[float, int]:
    both = one.is_indexed & other.is_indexed
    angle = metrics.disorientation(one, other)
    same = np.where(both, np.nan_to_num(angle, nan=180) < _SAME_ANGLE, one.is_indexed == other.is_indexed)
    return float(same.mean()), int(same.size)


def _same_disks(one, other) -> tuple[float, int]:
    found = same = 0
    for place in np.ndindex(one.data.shape):
        a, b = (np.asarray(vectors.data[place])[:, :2] for vectors in (one, other))
        found += max(len(a), len(b))
        if len(a) and len(b):
            distance = np.linalg.norm(a[:, None] - b[None], axis=2)
            scale = abs(one.scales[0]) if one.scales is not None else 1.0
            same += int((distance.min(1) < _SAME_PLACE * scale).sum())
    return same / max(found, 1), found


def has_one(device: str) -> bool:
    """Whether there is a device other than the CPU."""
    return device != "cpu" and torch.cuda.is_available()
