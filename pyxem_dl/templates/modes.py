"""What a matcher finds: separated orientations, the best first."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from pyxem_dl.moved import renamed_attribute
from pyxem_dl.rotations import matmul, multiply, rotate_in_plane

# Orientations nearer than this (degrees) are one mode.
MODE_DISTANCE = 5.0


class Match(NamedTuple):
    """What matching a batch of n patterns returns.

    Parameters
    ----------
    rotations : tensor, shape (n, n_best, 4)
        Orientations lab to crystal, the best first.
    scores : tensor, shape (n, n_best)
        Greater is better; 0 where there is no further mode.
    simulation_indices : tensor of int, shape (n, n_best)
        Of the templates in the bank, -1 where there is no further mode.
    phase_id : tensor of int, shape (n, n_best)
        Which phase they belong to; -1 in the first column where nothing was indexed.
    reliability : tensor, shape (n,)
        Between 0 and 1.
    """

    rotations: torch.Tensor
    scores: torch.Tensor
    simulation_indices: torch.Tensor
    phase_id: torch.Tensor
    reliability: torch.Tensor
    phase_index = renamed_attribute("phase_index", "phase_id")


def separate_modes(score, rotation, index, phase, operations, n_best: int) -> Match:
    """Pick separated modes from candidates (n, m), and say how sure the first one is."""
    rows = torch.arange(len(score), device=score.device)
    left, picked, scores = score.clone(), [], []
    for _ in range(n_best):
        best = left.argmax(1)
        picked.append(best)
        scores.append(left[rows, best].clamp_min(0))
        same = phase == phase[rows, best][:, None]
        allowed = operations[phase[rows, best]]
        center = rotation[rows, best]
        near = same & are_near(center, rotation, allowed)
        if len(picked) == 1:
            twin = rotate_in_plane(center, torch.full_like(center[:, 0], math.pi))
            alike = near | (same & are_near(twin, rotation, allowed))
            second = left.masked_fill(alike, -math.inf).amax(1).clamp_min(0)
        left = left.masked_fill(near, -math.inf)
    picked, scores = torch.stack(picked, 1), torch.stack(scores, 1)
    found = scores > 0
    phases = phase.gather(1, picked)
    phases[:, 0] = torch.where(found[:, 0], phases[:, 0], -1)
    reliability = 1 - second / scores[:, 0].clamp_min(1e-12)
    return Match(
        rotations=rotation.gather(1, picked[..., None].expand(-1, -1, 4)),
        scores=scores,
        simulation_indices=torch.where(found, index.gather(1, picked), -1),
        phase_id=phases,
        reliability=torch.where(found[:, 0], reliability, 0.0),
    )


def are_near(a, b, operations) -> torch.Tensor:
    """Tell which of the orientations b (n, t, 4) are one mode with a (n, 4), by the operations (n or 1, o, 4)."""
    equivalent = multiply(operations, a[:, None, :])  # (n, m, 4)
    cosine = matmul(equivalent, b.transpose(1, 2)).abs().amax(1)
    return cosine > math.cos(math.radians(MODE_DISTANCE) / 2)
