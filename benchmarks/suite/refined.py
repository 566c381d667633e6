"""Orientations and thicknesses, refined by Bloch waves, against multislice patterns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

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
    """Predict by any-crystal, and refine; yields data, method and numbers."""
    for name in MATERIALS:
        phase = multislice_phase(folder, name)
        with np.load(multislice_file(folder, name)) as file:
            thickness = file["thickness"]
        for dose in doses:
            labelled = multislice(folder, name, dose)
            title = f"{name}, multislice, {dose:.0e} electrons".replace("e+0", "e")
            given = {"device": device, "show_progressbar": False}
            predicted, seconds = _timed(
                lambda signal=labelled.signal, phase=phase, given=given: predict_orientation(
                    signal, phases=phase, **given
                )
            )
            cost = {"ms": round(1e3 * seconds / len(thickness), 1)}
            yield title, "network any-crystal", _orientations(predicted, labelled, phase) | cost
            refined, seconds = _timed(
                lambda signal=labelled.signal, xmap=predicted, given=given: refine_orientation(
                    signal, xmap, thickness=_THICKNESS, **given
                )
            )
            cost = {"ms": round(1e3 * seconds / len(thickness), 1)}
            found = _orientations(refined, labelled, phase) | _thicknesses(refined, thickness)
            yield title, "refined", found | _coverage(refined, labelled, phase) | cost


def _timed(function):
    start = time.process_time()
    return function(), time.process_time() - start


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
        "are called; 68 % is right. CPU time of one core, on a machine that may be busy.",
        "",
        *header("data", "method", "median", "within 0.1° / 0.3°", "within 5°, strict", "thickness, median error",
                "covered", "CPU ms per pattern", "run"),
    ]  # fmt: skip
    for row in rows:
        spread = np.sqrt(row["within_03"] * (1 - row["within_03"]) / row["n"])
        known = "thickness" in row
        lines.append(line(
            row["data"], row["predictor"], f"{row['median']:.3f}°",
            f"{percent(row['within_01'])} / {percent(row['within_03'])} ± {100 * spread:.1f}", percent(row["strict_5"]),
            f"{row['thickness']:.1f} Å" if known else "–",
            f"{percent(row['covered'])} of {row['n_covered']}" if known else "–", f"{row['ms']:.3g}", letter(row),
        ))  # fmt: skip
    return "\n".join(lines)
