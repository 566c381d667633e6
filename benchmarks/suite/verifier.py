"""The verifier of any crystal, trained on with and without Bloch waves: equal budgets, one start, the same patterns.

Two models go on from the bundled one for the same CPU time, on the present mixture of engines and with Bloch waves in
half of the setups.  They are measured on patterns that neither engine made: multislice patterns of Al and LiNiO2, and
the bundled part of the open benchmark.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np

from open_benchmark import patterns as open_patterns
from open_benchmark.crystals import phase_of
from open_benchmark.methods import signal_of
from pyxem_dl.metrics import disorientation
from pyxem_dl.models import load_model
from pyxem_dl.orientation import predict_orientation
from pyxem_dl.training.any_crystal import AnyCrystalConfiguration, train_any_crystal
from suite import datasets
from suite.machine import training_of
from suite.measure import calibration_of_scores
from suite.tables import header, line

#: Rows, and the share of Bloch waves in their training
MIXTURES = {"present mixture": 0.0, "half Bloch waves": 0.5}
#: The model with which both begin
START = "any-crystal"
#: Of the open benchmark
CONDITIONS = ("1e4", "1e3", "hard")
# Other patterns and, to validate with, other crystals than the training of the bundled model had
_SEED = 1
# Degrees
_NEAR, _RIGHT = 0.3, 5.0


def measure(minutes: float, data: Path, folder: Path, device: str = "cpu", trained: list[str] = ()) -> Iterator:
    """Train the models, and yield label and numbers of each, those of the bundled one first.

    Parameters
    ----------
    minutes : float
        Of each training; on a CPU minutes of its time.
    data, folder : pathlib.Path
        The benchmark data; where the trained models go.
    device : str
        To train and predict on.
    trained : list of str
        Folders of models that were trained before, in the order of :data:`MIXTURES`: they are not trained again.
    """
    folders = [START, *(trained or [train(share, minutes, folder, device) for share in MIXTURES.values()])]
    sets, earlier = list(held_out(data)), {}
    for label, place in zip(("bundled", *MIXTURES), folders, strict=True):
        model, rows = load_model(place), {}
        for title, parts in sets:
            found = answers(model, parts, device)
            rows[title] = numbers(found, earlier.get(title))
            if label != "bundled":
                earlier.setdefault(title, found)
        yield label, training_of(place) | {"sets": rows}


def train(share: float, minutes: float, folder: Path, device: str) -> Path:
    """Go on training the bundled model with a share of Bloch waves; return the folder of the new one."""
    output = Path(folder) / f"verifier-{share:g}"
    simulation = replace(AnyCrystalConfiguration().simulation, bloch_share=share)
    with _by_cpu_time() if device == "cpu" else nullcontext():
        train_any_crystal(
            output=output, start=START, max_minutes=minutes, seed=_SEED, validation_minutes=max(100.0, minutes),
            simulation=simulation, device=device, show_progressbar=False,
        )  # fmt: skip
    return output


@contextmanager
def _by_cpu_time():
    """Let trainings take so much CPU time, however much of it other programs get."""
    with mock.patch("pyxem_dl.training.learning.time", SimpleNamespace(monotonic=time.process_time)):
        yield


def held_out(data: Path) -> Iterator:
    """Yield titles, and signal, rotations and phase of each part, one for each crystal."""
    for dose in datasets.DOSES:
        for name in ("Al", "LiNiO2"):
            labelled = datasets.multislice(data, name, dose)
            yield labelled.name, [(labelled.signal, labelled.rotations, labelled.phase)]
    for name in CONDITIONS:
        made = open_patterns.load(name)
        parts = [made.of(crystal) for crystal in dict.fromkeys(made.crystals)]
        yield f"open benchmark, {made.condition.text}", [
            (signal_of(p.patterns, p.scale, p.center, p.beam_energy), p.quaternions, phase_of(p.crystals[0]))
            for p in parts
        ]


def answers(model, parts: list, device: str) -> dict[str, np.ndarray]:
    """Angles to the truth ``strict`` and ``modulo_180`` (n,) in degrees, ``score`` (n,), and what is ``indexed``."""
    columns = {"strict": [], "modulo_180": [], "score": [], "indexed": []}
    for signal, rotations, phase in parts:
        xmap = predict_orientation(
            signal, model, phases=phase, n_best=1, device=device, show_progressbar=False, on_message=lambda line: None
        )
        first = xmap.rotations.data.reshape(xmap.size, -1, 4)[:, 0]
        for key in ("strict", "modulo_180"):
            columns[key].append(disorientation(first, rotations, phase, modulo_180=key != "strict"))
        columns["score"].append(np.asarray(xmap.prop["score"], dtype=float))
        columns["indexed"].append(xmap.phase_id >= 0)
    return {key: np.concatenate(values) for key, values in columns.items()}


def numbers(found: dict, other: dict | None = None) -> dict:
    """Median (degrees, modulo 180°), shares and what scores mean; what is not indexed is wrong.

    Parameters
    ----------
    found : dict
        From :func:`answers`.
    other : dict, optional
        Of the same patterns: how many are right here and not there (``gained``), and the other way round (``lost``).
    """
    right = _right(found)
    modulo = np.where(found["indexed"], found["modulo_180"], 180.0)
    result = {
        "n": len(right["strict"]), "median": round(float(np.median(modulo)), 3),
        **{key: round(float(each.mean()), 4) for key, each in right.items()},
        # of all answers, also those that thresholds leave out
        "score": round(float(found["score"].mean()), 4), "called": round(float((found["strict"] < _RIGHT).mean()), 4),
        "calibration": calibration_of_scores(found["score"], found["strict"] < _RIGHT),
    }  # fmt: skip
    if other is not None:
        there = _right(other)
        result["gained"] = {key: int((right[key] & ~there[key]).sum()) for key in right}
        result["lost"] = {key: int((~right[key] & there[key]).sum()) for key in right}
    return result


def _right(found: dict) -> dict[str, np.ndarray]:
    """Which answers are near the truth modulo 180°, and which right: strictly, and modulo 180°."""
    indexed = found["indexed"]
    return {
        "near": indexed & (found["modulo_180"] <= _NEAR), "strict": indexed & (found["strict"] <= _RIGHT),
        "modulo_180": indexed & (found["modulo_180"] <= _RIGHT),
    }  # fmt: skip


def spread(share: float, n: int) -> float:
    """Return the standard deviation of a share of n, √(p (1 − p) / n)."""
    return math.sqrt(share * (1 - share) / n)


def pooled(row: dict) -> dict:
    """All sets of a row together: shares, and the difference to the other training with its standard deviation."""
    sets = list(row["sets"].values())
    n = sum(each["n"] for each in sets)
    keys = ("near", "strict", "modulo_180")
    result = {"n": n, **{key: sum(each["n"] * each[key] for each in sets) / n for key in keys}}
    if all("gained" in each for each in sets):
        for key in keys:
            gained, lost = (sum(each[name][key] for each in sets) for name in ("gained", "lost"))
            change = (gained - lost) / n
            result[f"change_{key}"] = change, math.sqrt(max(gained + lost - n * change**2, 0.0)) / n
    return result


def table(rows: list[dict], letter: Callable) -> str:
    """Write the tables."""
    lines = [
        "## The verifier of any crystal, with Bloch waves in its training",
        "",
        "The bundled model, and two that went on from it for the same CPU time, of one seed: on the present mixture of"
        " engines, and with Bloch waves in half of the setups (`bloch_share=0.5`). Multislice patterns and the bundled"
        " part of the open benchmark, which neither made: median and shares within 0.3° and 5° modulo 180° about the"
        " beam, and within 5° strict, ± √(p (1 − p) / n); what is not indexed counts as wrong. Mean score, and how many"
        " are right (5°, strict) of all answers, which should be the same; `results.json` has them by bins.",
        "",
        *header("patterns", "n", "training", "median", "0.3°", "5°", "5° strict", "mean score / right", "run"),
    ]
    for title in dict.fromkeys(title for row in rows for title in row["sets"]):
        for row in (row for row in rows if title in row["sets"]):
            each = row["sets"][title]
            shares = (_share(each[key], each["n"]) for key in ("near", "modulo_180", "strict"))
            scores = f"{each['score']:.3f} / {each['called']:.3f}"
            lines.append(line(
                title, each["n"], row["predictor"], f"{each['median']:.2f}°", *shares, scores, letter(row),
            ))  # fmt: skip
    lines += [
        "",
        "All together; change: to the present mixture, on the same patterns, ± √(gained + lost) / n. The same crystals"
        " at several doses count as independent here, so spreads are too small rather than too large.",
        "",
        *header("training", "minutes", "patterns learnt from", "0.3°", "5°", "5° strict", "change 0.3°", "change 5°",
                "change 5° strict", "run"),
    ]  # fmt: skip
    for row in rows:
        found = pooled(row)
        keys = ("near", "modulo_180", "strict")
        changes = (_change(found.get(f"change_{key}")) for key in keys)
        lines.append(line(
            row["predictor"], row.get("minutes", ""), row.get("patterns", ""),
            *(_share(found[key], found["n"]) for key in keys), *changes, letter(row),
        ))  # fmt: skip
    return "\n".join(lines)


def _share(share: float, n: int) -> str:
    return f"{100 * share:.1f} ± {100 * spread(share, n):.1f} %"


def _change(change: tuple | None) -> str:
    return "" if change is None else f"{100 * change[0]:+.1f} ± {100 * change[1]:.1f} %"
