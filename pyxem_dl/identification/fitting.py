"""Fitting of what the evidence is made of, on simulated patterns of crystals that no benchmark uses."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

import torch

from pyxem_dl.identification.evidence import FEWEST_PEAKS, Weights, evidence
from pyxem_dl.identification.identify import Said, Sampled, said_of
from pyxem_dl.models import ANY_CRYSTAL, load_model
from pyxem_dl.simulation import PatternSimulator, SimulationSettings
from pyxem_dl.training.bragg import training_phases

if TYPE_CHECKING:
    from pathlib import Path

    from pyxem_dl.models import OrientationModel

# Atoms of the largest cells
_MOST_ATOMS = 40
# In so many of the draws the right phase is among the candidates, and so is each other one
_THERE, _OTHERS = 0.6, 0.5
_DRAWS, _RATE = 800, 0.03
#: Patterns of one crystal without faults of the detector, from low doses to high ones
SETTINGS = SimulationSettings(
    shape_factors=("many_beam",), electrons=(1e3, 1e5), background=(0.1, 1.0), thickness=(80.0, 600.0),
    disk_radius=(0.02, 0.045), overlap_share=0.0, empty_share=0.0, ghost_share=0.0, fault_share=0.0,
    threshold_share=0.0, beam_stop_share=0.0, precession_share=0.0, scale_error=(-0.01, 0.01),
    ellipticity=(0.0, 0.01), pixels=(128,), coverage=(1.0, 1.0),
)  # fmt: skip


def fit_evidence(
    model: str | Path | OrientationModel = ANY_CRYSTAL,
    *,
    n_crystals: int = 32,
    n_others: int = 16,
    n_patterns: int = 24,
    beam_energy: float = 200.0,
    reciprocal_radius: float = 1.25,
    seed: int = 0,
) -> Weights:
    """Fit the weights of the evidence for a phase: the right one among some, or none where it is left out.

    Parameters
    ----------
    model : str, path or OrientationModel
        That takes phases.
    n_crystals, n_others : int
        Crystals of which patterns are simulated, and further ones that are looked for in them.
    n_patterns : int
        Of each crystal.
    beam_energy, reciprocal_radius : float
        In kV and Å⁻¹.
    seed : int
        Of crystals and patterns.

    Returns
    -------
    Weights
        By logistic regression.  The prior of one of the candidates against none, which a mixture has of its own, is
        taken off the last one by half: the patterns of a scan go wrong together.
    """
    model = load_model(model)
    small = [phase for phase in training_phases(show_progressbar=False) if len(phase.structure) <= _MOST_ATOMS]
    chosen = random.Random(seed).sample(small, n_crystals + n_others)
    model = model.with_phases(chosen[:1], beam_energy, reciprocal_radius)
    said, truth, n_peaks = _what_is_said(model, chosen, n_crystals, n_patterns, seed)
    fitted = _regression(said, truth, n_peaks, seed)
    prior = math.log(_OTHERS * len(chosen) * (1 - _THERE) / _THERE)
    return Weights(*fitted[:3], fitted[3] - 0.5 * prior)


def _what_is_said(model, phases: list, n_crystals: int, n_patterns: int, seed: int):
    """Look for each of the phases in patterns of the first of them: what is said, the truth (n,), peaks (n,)."""
    energy, radius = model.domain["beam_energy"], model.preprocessing.reciprocal_radius
    samples = []
    for i, phase in enumerate(phases[:n_crystals]):
        made = PatternSimulator([phase], energy, radius, SETTINGS, seed=seed + i)(n_patterns)
        sample = Sampled.of_patterns(model, made.patterns, made.calibration)
        samples.append(sample.at(sample.peaks.count >= FEWEST_PEAKS))
    sample = Sampled.joined(samples)
    sizes = torch.tensor([len(each.peaks.kx) for each in samples])
    truth = torch.arange(n_crystals).repeat_interleave(sizes)
    return [said_of(model, phase, sample) for phase in phases], truth, sample.peaks.count.float()


def _regression(said: list[Said], truth: torch.Tensor, n_peaks: torch.Tensor, seed: int) -> list[float]:
    """Find the weights that make the right phase the likeliest, among those of each draw and none."""
    weights = torch.tensor([0.5, 0.3, 0.7, 0.0], requires_grad=True)
    optimizer, generator = torch.optim.Adam([weights], _RATE), torch.Generator().manual_seed(seed)
    for _ in range(_DRAWS):
        speaks = [evidence(s.logits, s.of_peaks, n_peaks, Weights(*weights)) for s in said]
        speaks = torch.stack([*speaks, torch.zeros_like(n_peaks)], dim=1)
        there = torch.rand(len(truth), generator=generator) < _THERE
        kept = torch.rand(speaks.shape, generator=generator) < _OTHERS
        kept.scatter_(1, truth[:, None], there[:, None])
        kept[:, -1] = True
        target = torch.where(there, truth, len(said))
        loss = torch.nn.functional.cross_entropy(speaks.masked_fill(~kept, -1e9), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return weights.tolist()
