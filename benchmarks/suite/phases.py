"""Which crystal is it: the right one among 20 and among 100 candidates, by single patterns and by small scans."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from pyxem_dl import data as sample_data
from pyxem_dl.crystals import load_phases, structures
from pyxem_dl.crystals.alike import alike_phases
from pyxem_dl.crystals.twins import references
from pyxem_dl.identification.evidence import FEWEST_PEAKS, evidence
from pyxem_dl.identification.fitting import SETTINGS
from pyxem_dl.identification.identify import Sampled, said_of
from pyxem_dl.identification.result import THERE
from pyxem_dl.identification.selection import select
from pyxem_dl.models import load_model
from pyxem_dl.simulation import PatternSimulator
from pyxem_dl.training.any_crystal import AnyCrystalConfiguration
from pyxem_dl.training.bragg import divided, training_phases
from suite.tables import header, line, percent

# Beam energy (kV), radius (Å⁻¹), patterns of a scan, crystals that are looked at, candidates, and draws of these
_ENERGY, _RADIUS, _PATTERNS, _CRYSTALS, _CANDIDATES, _DRAWS = 200.0, 1.25, 16, 24, (20, 100), 5
# Crystals besides those held out of the training; and the largest cells (atoms) that are looked at
_KNOWN, _LARGEST = ("Al", "Si", "MgO", "LiNiO2"), 40
# As those by which the weights of the evidence are fitted, at one dose
_SETTINGS = replace(SETTINGS, electrons=(1e4, 1e4))
# What decides on a single pattern
_WAYS = {"network and peaks": "both", "network alone": "network", "peaks alone": "peaks"}


class Measured(NamedTuple):
    """What n patterns say of all candidates.

    ``truth (n,)``, the candidate that is right; ``evidence`` of the package, and of its parts, (n, candidates) each, by
    name; ``alike``, a set of the candidates for each crystal from which it cannot be told apart.
    """

    truth: np.ndarray
    evidence: dict[str, np.ndarray]
    alike: list[set[int]]


def measure(models: list[str], device: str) -> Iterator[tuple[str, str, dict]]:
    """Measure the models that take any crystal.

    Parameters
    ----------
    models : list of str
        Names or folders.
    device : str
        Of the network.

    Yields
    ------
    data, label : str
        What was measured.
    numbers : dict
        ``right``, the share for which the right phase is the likeliest, and its ``deviation`` by crystals; of scans
        ``exactly``, the share in which it alone is said to be there, and ``foreign``, that in which one of the
        candidates is said to be there although the right one is not among them.
    """
    crystals, candidates = _crystals()
    for name in models:
        model = load_model(name)
        model.to(torch.device("cpu" if device == "auto" else device))
        found = _measured(model, crystals, candidates)
        for n in _CANDIDATES:
            for label, way in _WAYS.items():
                yield f"single patterns, {n} CIFs", f"{model.name}: {label}", _singles(found, found.evidence[way], n)
            yield f"scans of {_PATTERNS} patterns, {n} CIFs", f"{model.name}: identify_phases", _scans(found, n)


def table(rows: list[dict], letter: Callable) -> str:
    """Write the table."""
    lines = [
        "## Phases",
        "",
        f"Which crystal it is, of many-beam patterns of {_CRYSTALS} crystals that were held out of the training, at 10⁴"
        " scattered electrons, with up to as much background, scales that are off by up to 1 % and an ellipse of up to"
        " 1 %. The other candidates are drawn from the table of prototypes, without those that cannot be told apart"
        " from the right one. *Right*: it is the likeliest; ± the standard deviation of the mean over crystals."
        " *Alone*: it is said to be there, and nothing else. *Foreign*: something is said to be there although the"
        " right one is not among the candidates. Asked: right in ≥ 95 % (20) and ≥ 90 % (100).",
        "",
        *header("data", "method", "n", "right", "alone", "foreign", "run"),
    ]
    for row in rows:
        exactly, foreign = (percent(row[key]) if key in row else "–" for key in ("exactly", "foreign"))
        right = f"{percent(row['right'])} ± {100 * row['deviation']:.1f}"
        lines.append(line(row["data"], row["predictor"], row["n"], right, exactly, foreign, letter(row)))
    return "\n".join(lines)


def _crystals() -> tuple[list, list]:
    """Crystals that are looked at, and candidates, of which these are the first."""
    _, held_out = divided(training_phases(False), AnyCrystalConfiguration())
    known = [_phase(name) for name in _KNOWN]
    crystals = known + [p for p in held_out if len(p.structure) <= _LARGEST][: _CRYSTALS - len(known)]
    names = {p.name for p in crystals}
    others = [p for p in structures("prototypes", seed=1, max_atoms=_LARGEST, show_progressbar=False)
              if p.name not in names]  # fmt: skip
    n = max(_CANDIDATES) + 10 - len(crystals)
    return crystals, load_phases([*crystals, *others[:n]])


def _phase(name: str):
    if name == "LiNiO2":
        return sample_data.lithium_nickel_oxide()
    return next(r.look.phase for r in references(name) if r.look is not None)


def _measured(model, crystals: list, candidates: list) -> Measured:
    looking = model.with_phases(crystals[:1], _ENERGY, _RADIUS)
    samples = []
    for i, crystal in enumerate(crystals):
        made = PatternSimulator([crystal], _ENERGY, _RADIUS, _SETTINGS, seed=i)(_PATTERNS)
        samples.append(Sampled.of_patterns(looking, made.patterns, made.calibration))
    sample = Sampled.joined(samples)
    kept = sample.peaks.count >= FEWEST_PEAKS
    sample, truth = sample.at(kept), torch.arange(len(crystals)).repeat_interleave(_PATTERNS)[kept].numpy()
    columns = {way: [] for way in _WAYS.values()}
    for phase in candidates:
        said = said_of(looking, phase, sample)
        columns["both"].append(evidence(said.logits, said.of_peaks, sample.peaks.count))
        columns["network"].append(said.logits.logsumexp(1))
        columns["peaks"].append(said.of_peaks.amax(1))
    alike = [{i} for i in range(len(candidates))]
    for pair in alike_phases(candidates):
        alike[pair.first].add(pair.second)
        alike[pair.second].add(pair.first)
    return Measured(truth, {way: torch.stack(x, dim=1).double().numpy() for way, x in columns.items()}, alike)


def _draws(found: Measured, n: int) -> Iterator[tuple[int, np.ndarray, list[int]]]:
    """Yield each crystal, its patterns, and candidates of which it is the first; several times."""
    generator, total = np.random.default_rng(0), len(found.alike)
    for crystal in range(int(found.truth.max()) + 1):
        others = [j for j in range(total) if j not in found.alike[crystal]]
        for _ in range(_DRAWS):
            drawn = generator.choice(others, min(n - 1, len(others)), replace=False)
            yield crystal, np.flatnonzero(found.truth == crystal), [crystal, *drawn.tolist()]


def _singles(found: Measured, evidence: np.ndarray, n: int) -> dict:
    shares = {}
    for crystal, rows, chosen in _draws(found, n):
        shares.setdefault(crystal, []).extend(evidence[rows][:, chosen].argmax(1) == 0)
    return _summary(shares) | {"n": len(found.truth)}


def _scans(found: Measured, n: int) -> dict:
    shares, exactly, foreign = {}, [], []
    for crystal, rows, chosen in _draws(found, n):
        evidence = found.evidence["both"][rows][:, chosen]
        probability = select(evidence).probability
        shares.setdefault(crystal, []).append(probability.argmax() == 0 and probability[0] >= THERE)
        exactly.append(shares[crystal][-1] and not (probability[1:] >= THERE).any())
        foreign.append((select(evidence[:, 1:]).probability >= THERE).any())
    return _summary(shares) | {
        "exactly": float(np.mean(exactly)), "foreign": float(np.mean(foreign)), "n": len(exactly),
    }  # fmt: skip


def _summary(shares: dict[int, list]) -> dict:
    means = np.array([np.mean(x) for x in shares.values()])
    return {"right": float(means.mean()), "deviation": float(means.std() / np.sqrt(len(means))), "crystals": len(means)}
