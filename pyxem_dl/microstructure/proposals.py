"""Orientations that a position's surroundings propose for it."""

from __future__ import annotations

import math

import numpy as np
import torch

from pyxem_dl.microstructure.beliefs import Candidates, angles_between, half_turn
from pyxem_dl.microstructure.evidence import MapView

# Steps to where is looked: here, the eight neighbours, and eight positions further away
_AWAY = 3
# Of a position's own candidates, and of those that are proposed, so many are compared with its pattern
_OWN, _PROPOSED = 2, 4
# What is compared with a pattern altogether, at most
_MOST = 12
# Positions at once
_AT_ONCE = 64


def propose(view: MapView, *others: MapView) -> Candidates:
    """List what each position may be: its own candidates, what has most support around it, and their half turns.

    Parameters
    ----------
    view : MapView
        Of the map.
    *others : MapView
        What was found at the same positions in another way.

    Returns
    -------
    Candidates
        Without evidence.  Positions without an orientation get proposals, too; a position's own one is the first.
    """
    each = [_proposed(one) for one in (view, *others)]
    rotations, phase = (torch.cat(column, dim=1) for column in zip(*each, strict=True))
    zero = torch.zeros(phase.shape)
    candidates = without_doubles(Candidates(rotations, phase, zero, zero[:, 0]), view.operations, view.threshold)
    # the first stays the first, and what is left moves together
    order = (candidates.phase < 0).long().index_fill(1, torch.tensor([0]), 0).argsort(dim=1, stable=True)[:, :_MOST]
    return Candidates(
        rotations.gather(1, order[..., None].expand(-1, -1, 4)), candidates.phase.gather(1, order),
        zero[:, : order.shape[1]], zero[:, 0],
    )  # fmt: skip


def _proposed(view: MapView) -> tuple[torch.Tensor, torch.Tensor]:
    """Orientations (n, m, 4) that a map proposes, and their phases (n, m)."""
    around = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    around += [(_AWAY * down, _AWAY * right) for down, right in around if down or right]
    index = torch.from_numpy(np.stack([view.near.at(*step) for step in around], axis=1))
    parts = [_supported(view, rows) for rows in index.split(_AT_ONCE)]
    proposed, phase = (torch.cat(column) for column in zip(*parts, strict=True))
    rotations = torch.cat([view.rotations[:, :_OWN], proposed], dim=1)
    phase = torch.cat([view.phase[:, :_OWN], phase], dim=1)
    return torch.cat([rotations, half_turn(rotations)], dim=1), torch.cat([phase, phase], dim=1)


def _supported(view: MapView, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Orientations (n, m, 4) with the most support among the candidates of some positions (n, s), and their phases."""
    at = index.clamp_min(0)
    q, phase, weight = view.rotations[at], view.phase[at], view.weights[at]
    phase = torch.where((index >= 0)[..., None], phase, -1).flatten(1)
    q, weight = q.flatten(1, 2), weight.flatten(1) * (phase >= 0)
    angle = angles_between(q, phase, q, phase, view.operations)
    alike = (1 - angle / view.threshold).clamp_min(0)
    rows, found = torch.arange(len(q)), []
    for _ in range(_PROPOSED):
        support = torch.where(weight > 0, (alike * weight[:, None]).sum(2), -1.0)
        best = support.argmax(1)
        found.append((q[rows, best], torch.where(support[rows, best] > 0, phase[rows, best], -1)))
        weight = weight * (angle[rows, best] > view.threshold)
    return tuple(torch.stack(column, dim=1) for column in zip(*found, strict=True))


def without_doubles(candidates: Candidates, operations: torch.Tensor, threshold: float) -> Candidates:
    """Leave out candidates that are the same as one with more evidence, or as good and before it."""
    q, phase, evidence = candidates.rotations, candidates.phase, candidates.evidence
    order = evidence.masked_fill(phase < 0, -math.inf).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(1)
    same = angles_between(q, phase, q, phase, operations) < threshold
    double = (same & (rank[:, None, :] < rank[:, :, None])).any(2)
    return candidates._replace(phase=torch.where(double, -1, phase))
