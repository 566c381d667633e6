"""Whole maps: what the neighbours settle on simulated polycrystals, strict and modulo 180°."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np

from pyxem_dl import data as sample_data
from pyxem_dl.metrics import accuracy, disorientation
from pyxem_dl.microstructure import settle
from pyxem_dl.orientation import predict_orientation
from pyxem_dl.results.map_files import copied_map
from suite.tables import degrees, header, line, percent

#: Title, crystal, seed, and whether there are beams that are far from their Bragg condition
SCANS = (
    ("LiNiO2", sample_data.lithium_nickel_oxide, 0, True), ("Al", sample_data.aluminium, 1, True),
    ("LiNiO2", sample_data.lithium_nickel_oxide, 0, False), ("Al", sample_data.aluminium, 1, False),
)  # fmt: skip
SHAPE, _CANDIDATES = (100, 100), 4


def measure(device: str = "auto") -> Iterator[tuple[str, str, dict]]:
    """Predict, and settle by the map alone and with the patterns; yields scan, method and numbers."""
    for name, phase, seed, far_beams in SCANS:
        signal, truth = sample_data.polycrystal(SHAPE, phase=phase(), seed=seed, far_beams=far_beams)
        title = f"{name} polycrystal, {SHAPE[0]} × {SHAPE[1]}, simulated" + ("" if far_beams else ", no far beams")
        n = truth.size
        xmap, seconds = _timed(lambda signal=signal, phase=phase: predict_orientation(
            signal, phases=phase(), n_best=_CANDIDATES, device=device, show_progressbar=False
        ))  # fmt: skip
        yield title, "network any-crystal", numbers(xmap, xmap, truth) | {"ms": 1e3 * seconds / n}
        ways = {"settled, by the map alone": {}, "settled, with the patterns": {"signal": signal, "device": device}}
        for label, how in ways.items():
            settled, seconds = _timed(lambda how=how, xmap=xmap: settle(xmap, show_progressbar=False, **how))
            yield title, label, numbers(settled, xmap, truth) | {"ms": 1e3 * seconds / n}


def _timed(function):
    start = time.process_time()
    return function(), time.process_time() - start


def numbers(xmap, before, truth) -> dict:
    """Accuracy where there is a crystal, and how many right answers were lost."""
    there = truth.phase_id >= 0
    found, true = copied_map(xmap), copied_map(truth)
    found.is_in_data, true.is_in_data = there, there
    row = {
        kind: {"within_5": round(each.within_5, 4), "within_2": round(each.within_2, 4),
               "median": round(each.median, 3)}  # fmt: skip
        for kind, each in accuracy(found, true).items()
    }
    was, is_now = (disorientation(each, truth)[there] < 5 for each in (before, xmap))
    single = there & (truth.prop["overlap"] < 0.01)
    return row | {
        "without_overlap": round(float(np.mean(disorientation(xmap, truth)[single] < 5)), 4),
        "mended": int((~was & is_now).sum()), "lost": int((was & ~is_now).sum()), "n": int(there.sum()),
    }  # fmt: skip


def settled_table(rows: list[dict], letter: Callable) -> str:
    """Write the table."""
    lines = [
        "## Settled by the neighbours",
        "",
        "Simulated polycrystals with bent grains, overlaps, a thickness wedge from 80 to 600 Å and 10⁴ electrons in "
        "each pattern, indexed by any-crystal with four candidates for each position, and settled. Where two grains "
        "lie on each other, that of which there is more is the truth. What is not indexed counts as wrong. No far "
        "beams: without the faint reflections that are far from their Bragg condition, of other Laue zones among them, "
        "which alone tell many a half turn. Mended and lost: positions that are right within 5°, strict, after and not "
        "before, and the other way round.",
        "",
        *header("scan", "method", "within 5° / 2° strict", "median", "within 5° / 2° modulo 180°",
                "within 5° strict, where grains do not overlap", "mended", "lost", "CPU ms per pattern", "run"),
    ]  # fmt: skip
    for row in rows:
        strict, modulo = (
            f"{percent(row[kind]['within_5'])} / {percent(row[kind]['within_2'])}" for kind in ("strict", "modulo_180")
        )
        changes = [row[name] if row["mended"] or row["lost"] else "" for name in ("mended", "lost")]
        lines.append(line(
            row["data"], row["predictor"], strict, degrees(row["strict"]["median"]), modulo,
            percent(row["without_overlap"]), *changes, f"{row['ms']:.2g}", letter(row),
        ))  # fmt: skip
    return "\n".join(lines)
