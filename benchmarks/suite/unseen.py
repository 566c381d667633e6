"""Crystals that a network has never seen: whether they are found, what scores mean, and if another crystal passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from pyxem_dl.models import load_model
from pyxem_dl.training.any_crystal import AnyCrystalConfiguration, compared
from pyxem_dl.training.bragg import divided, training_phases
from pyxem_dl.training.crystal_batches import NamedPatterns, validation_patterns
from suite.measure import calibration_of_scores
from suite.tables import degrees, header, line, percent

# Other patterns than those by which thresholds and temperature were fitted
_SEED = 7


def measure(models: list[str], output: Path) -> Iterator[tuple[str, str, dict]]:
    """Measure the models that take any crystal on simulated patterns of those that were held out of the training.

    Parameters
    ----------
    models : list of str
        Names or folders.
    output : pathlib.Path
        Folder of the picture ``unseen_scores.png``.

    Yields
    ------
    data, label : str
        What was measured.
    numbers : dict
        Shares within 5 and 2 degrees and the median, modulo 180 degrees; what is indexed of all, of patterns without a
        crystal and of another one; scores by how often they are right.
    """
    pairs = {}
    for name in models:
        model = load_model(name)
        numbers, score, right = _measured(model)
        pairs[model.name] = (score, right)
        yield "crystals held out of the training", f"network {model.name}", numbers
    if pairs:
        draw(pairs).savefig(output / "unseen_scores.png", dpi=120)


def _measured(model) -> tuple[dict, np.ndarray, np.ndarray]:
    configuration = AnyCrystalConfiguration(seed=_SEED)
    _, held_out = divided(training_phases(False), AnyCrystalConfiguration())
    network = model.network.eval()
    columns = [_answers(model, p) for p in validation_patterns(network, held_out, configuration, torch.device("cpu"))]
    angle, strict, score, indexed, there, foreign = (np.concatenate(column) for column in zip(*columns, strict=True))
    empty = ~there & ~foreign
    numbers = {
        "n": int(there.sum()), "crystals": len(held_out[:16]), "median": round(float(np.median(angle[there])), 3),
        **{f"within_{limit}": round(float((angle[there] < limit).mean()), 4) for limit in (5, 2)},
        "indexed": round(float(indexed[there].mean()), 4),
        "right_of_indexed": round(float((angle[there & indexed] < 5).mean()), 4),
        "empty": round(float(indexed[empty].mean()), 4), "foreign": round(float(indexed[foreign].mean()), 4),
        "n_foreign": int(foreign.sum()), "calibration": calibration_of_scores(score[there], strict[there] < 5),
    }  # fmt: skip
    return numbers, score[there], strict[there] < 5


def _answers(model, patterns: NamedPatterns) -> tuple[np.ndarray, ...]:
    """Disorientations (n,) modulo 180° and strict in degrees, scores, and what is indexed, there, and foreign."""
    with torch.inference_mode():
        found = patterns.network.predict(patterns.inputs, 1)
    strict, modulo_180, score, there = compared(patterns, found)
    limits = model.thresholds
    indexed = (found.crystal >= limits["crystal"]) & (score >= limits["score"])
    foreign = (~there).all().expand(len(there))
    return tuple(x.numpy() for x in (modulo_180, strict, score, indexed, there, foreign))


def draw(pairs: dict[str, tuple]) -> Figure:
    """Draw how often predictions are right against what their scores say; beside it how many have which score."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes, counts = figure.subplots(1, 2)
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    for name, (score, right) in pairs.items():
        bins = calibration_of_scores(score, right, edges=np.linspace(0, 1, 11))
        x, y, n = (np.array([b[key] for b in bins]) for key in ("score", "right", "n"))
        axes.errorbar(x, y, np.sqrt(y * (1 - y) / n), marker="o", capsize=3, label=name)
        counts.hist(score, bins=np.linspace(0, 1, 21), histtype="step", label=name)
    axes.set(xlabel="score", ylabel="right within 5°", xlim=(0, 1), ylim=(0, 1.02), title="What scores mean")
    counts.set(xlabel="score", ylabel="patterns", xlim=(0, 1), title="Patterns of crystals that were not trained on")
    axes.legend(frameon=False)
    return figure


def table(rows: list[dict], letter: Callable) -> str:
    """Write the table."""
    lines = [
        "## Crystals that were not trained on",
        "",
        "Simulated patterns of crystals that were held out of the training, like those in it: at any beam energy, dose,"
        " thickness and background, with beam stops, overlaps and noise, so that some tell nothing. Shares within 5 and"
        " 2 degrees of the truth, modulo 180°, of all; of those that are indexed, and what else is indexed: patterns"
        " without a crystal, and of another crystal than the one that is looked for. Picture: `unseen_scores.png`.",
        "",
        *header("method", "n", "5° / 2°", "median", "indexed", "right of these", "empty", "foreign", "run"),
    ]
    for row in rows:
        shares = f"{percent(row['within_5'])} / {percent(row['within_2'])}"
        rest = (percent(row[key]) for key in ("indexed", "right_of_indexed", "empty", "foreign"))
        lines.append(line(row["predictor"], row["n"], shares, degrees(row["median"]), *rest, letter(row)))
    for row in rows:
        bins = ", ".join(f"{b['score']:.2f}: {b['right']:.0%} of {b['n']}" for b in row["calibration"])
        lines += ["", f"Scores, and how many of these are right within 5°, strict: {row['predictor']}: {bins}"]
    return "\n".join(lines)
