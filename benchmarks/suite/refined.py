"""Orientations and thicknesses, refined by Bloch waves, against multislice patterns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from pyxem_dl.devices import resolve_device
from pyxem_dl.metrics import disorientation
from pyxem_dl.orientation import predict_orientation
from pyxem_dl.refinement import refine_orientation
from suite.datasets import multislice, multislice_file, multislice_phase
from suite.tables import header, line, percent

#: Materials, and scattered electrons of a pattern
MATERIALS, DOSES = ("Al", "LiNiO2"), (1e4, 1e3)
_THICKNESS = (30.0, 540.0)
# Errors that are called so large, in degrees, show whether errors mean what they say
_CALLED = (0.02, 0.2)


def measure(folder: Path, device: str = "auto", doses=DOSES) -> Iterator[tuple[str, str, dict]]:
    """Predict by any-crystal, and refine; yields data, method and numbers, of a GPU with its name."""
    named = _device_name(device)
    on_gpu = named != "cpu"
    for name in MATERIALS:
        phase = multislice_phase(folder, name)
        with np.load(multislice_file(folder, name)) as file:
            thickness = file["thickness"]
        for dose in doses:
            labelled = multislice(folder, name, dose)
            title = f"{name}, multislice, {dose:.0e} electrons".replace("e+0", "e")
            given = {"device": device, "show_progressbar": False}
            # as many candidates as prediction gives to its own refinement
            predict = partial(predict_orientation, labelled.signal, phases=phase, n_best=2, **given)
            refine = partial(refine_orientation, labelled.signal, thickness=_THICKNESS, **given)
            predicted, cost = _timed(predict, named)
            if on_gpu:  # what is loaded at the first call does not count
                refine(predicted)
            refined, cost_of_refining = _timed(partial(refine, predicted), named)
            found = _orientations(refined, labelled, phase) | _thicknesses(refined, thickness)
            rows = {
                "network any-crystal": _orientations(predicted, labelled, phase) | cost,
                "refined": found | _coverage(refined, labelled, phase) | cost_of_refining,
            }
            for method, numbers in rows.items():
                yield title, f"{method}, {named}" if on_gpu else method, numbers


def _device_name(device: str) -> str:
    found = resolve_device(device)
    return torch.cuda.get_device_name(found) if found.type == "cuda" else found.type


def _timed(function, named: str) -> tuple:
    """Give the map, CPU time (ms) of one core for a pattern, and patterns/s of a device."""
    busy, start = time.process_time(), time.perf_counter()
    xmap = function()
    busy, seconds = time.process_time() - busy, time.perf_counter() - start
    rate = {"patterns_per_second": round(float(xmap.size / seconds), 2), "device": named}
    return xmap, {"ms": round(float(1e3 * busy / xmap.size), 1)} | rate


def _orientations(xmap, labelled, phase) -> dict:
    strict = disorientation(xmap, labelled.rotations, phase)
    modulo = disorientation(xmap, labelled.rotations, phase, modulo_180=True)
    strict, modulo = (np.nan_to_num(angle, nan=180.0) for angle in (strict, modulo))  # not indexed is wrong
    return {
        "median": round(float(np.median(modulo)), 4), "within_01": round(float(np.mean(modulo < 0.1)), 4),
        "within_03": round(float(np.mean(modulo < 0.3)), 4), "strict_5": round(float(np.mean(strict < 5)), 4),
        "n": len(modulo),
    }  # fmt: skip


def _thicknesses(xmap, thickness) -> dict:
    off = np.abs(xmap.prop["thickness"] - thickness)
    return {"thickness": round(float(np.nanmedian(off)), 2), "refined": round(float(xmap.prop["refined"].mean()), 4)}


def _coverage(xmap, labelled, phase) -> dict:
    """How many errors are smaller than they are called, of all and of those that are called about 0.1 degrees."""
    modulo = disorientation(xmap, labelled.rotations, phase, modulo_180=True)
    called = xmap.prop["orientation_error"]
    near = (called > _CALLED[0]) & (called < _CALLED[1])
    return {"covered": round(float(np.mean(modulo[near] < called[near])), 4), "n_covered": int(near.sum())}


def table(rows: list[dict], letter: Callable) -> str:
    """Write the table."""
    lines = [
        "## Refined by Bloch waves",
        "",
        "Multislice patterns (1.5 mrad, 50 to 500 Å), indexed by any-crystal, and refined with thicknesses from 30 to "
        "540 Å. Angles modulo 180°. Covered: of errors that are called 0.02 to 0.2°, those that are smaller than they "
        "are called; 68 % is right. CPU time of one core, on a machine that may be busy, and patterns/s of the whole "
        "call. `python -m suite --only refined --device cuda` adds rows of a GPU, with its name; where there is none, "
        "none was measured.",
        "",
        *header("data", "method", "median", "within 0.1° / 0.3°", "within 5°, strict", "thickness, median error",
                "covered", "CPU ms per pattern", "patterns/s, device", "run"),
    ]  # fmt: skip
    for row in rows:
        spread = np.sqrt(row["within_03"] * (1 - row["within_03"]) / row["n"])
        known = "thickness" in row
        lines.append(line(
            row["data"], row["predictor"], f"{row['median']:.3f}°",
            f"{percent(row['within_01'])} / {percent(row['within_03'])} ± {100 * spread:.1f}", percent(row["strict_5"]),
            f"{row['thickness']:.1f} Å" if known else "–",
            f"{percent(row['covered'])} of {row['n_covered']}" if known else "–", f"{row['ms']:.3g}",
            f"{row['patterns_per_second']:.3g}, {row['device']}" if "device" in row else "–", letter(row),
        ))  # fmt: skip
    return "\n".join(lines)
