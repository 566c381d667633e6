"""What the orientations that each position may have are worth, if neighbours like to agree.

Each position has a few candidates with evidence of their own, and may have none of them.  That two neighbours have the
same orientation is as good as evidence of size `AGREE`; that they have not costs nothing more, however far their
orientations are apart, so that boundaries stay where the evidence is.  Belief propagation (J. Pearl, *Probabilistic
Reasoning in Intelligent Systems*, 1988; on grids with loops: K. Murphy, Y. Weiss & M. Jordan, UAI 1999) finds how
probable each candidate is.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from pyxem_dl.microstructure.neighbourhood import Neighbourhood
from pyxem_dl.rotations import multiply, rotate_in_plane

#: Logarithm of how much more probable it is that two neighbours have one orientation
AGREE = 1.0
# Rounds of messages, at most; how much of the last message is kept; smallest change that matters
_ROUNDS, _KEPT, _CHANGE = 40, 0.5, 1e-3
# Positions along a side that are looked at together, and how many around them
_TILE, _HALO = 256, 24
# Pairs of which angles are computed at once
_AT_ONCE = 4096


class Candidates(NamedTuple):
    """Orientations that n positions may have.

    ``rotations (n, m, 4)``, lab to crystal; ``phase (n, m)``, number of the phase among the operations, -1: no
    candidate; ``evidence (n, m)``, logarithms of how probable each is, to a constant of the position;
    ``none (n,)``, the same of none of them.
    """

    rotations: torch.Tensor
    phase: torch.Tensor
    evidence: torch.Tensor
    none: torch.Tensor

    def at(self, rows) -> Candidates:
        """Those of some positions."""
        return Candidates(*(column[rows] for column in self))


def half_turn(rotations: torch.Tensor) -> torch.Tensor:
    """Turn crystals by 180° about the beam."""
    return rotate_in_plane(rotations, torch.full_like(rotations[..., 0], math.pi))


def angles_between(a, phase_a, b, phase_b, operations: torch.Tensor) -> torch.Tensor:
    """Disorientations in radians (n, k, l) of each of k orientations from each of l; pi between phases, or of none.

    Parameters
    ----------
    a, b : tensor, shape (n, k, 4) and (n, l, 4)
        Orientations.
    phase_a, phase_b : tensor of int, shape (n, k) and (n, l)
        Their phases, -1 for none.
    operations : tensor, shape (phases, o, 4)
        Proper rotations of the Laue groups.
    """
    parts = []
    for q, of_q, p, of_p in zip(*(x.split(_AT_ONCE) for x in (a, phase_a, b, phase_b)), strict=True):
        alike = multiply(operations[of_q.clamp_min(0)], q[:, :, None])
        cosine = torch.matmul(alike.flatten(1, 2), p.transpose(1, 2)).abs().unflatten(1, alike.shape[1:3]).amax(2)
        same = (of_q[:, :, None] == of_p[:, None]) & (of_q >= 0)[:, :, None]
        parts.append(torch.where(same, 2 * torch.acos(cosine.clamp_max(1)), math.pi))
    return torch.cat(parts) if parts else a.new_zeros(0, a.shape[1], b.shape[1])


def beliefs(candidates: Candidates, near: Neighbourhood, operations: torch.Tensor, threshold: float) -> torch.Tensor:
    """Find how probable the candidates of each position are, with what its neighbours say.

    Parameters
    ----------
    candidates : Candidates
        Of n positions.
    near : Neighbourhood
        Where these lie.
    operations : tensor, shape (phases, o, 4)
        Of the Laue groups.
    threshold : float
        Radians from which orientations are not the same.

    Returns
    -------
    tensor, shape (n, m + 1)
        The last is that of none of the candidates.
    """
    n, m = candidates.phase.shape
    found = torch.zeros(n, m + 1)
    for part, inner in near.tiles(_TILE, _HALO):
        there = torch.from_numpy(part)
        believed = _in_tile(candidates.at(there), near.part(part), operations, threshold)
        found[there[torch.from_numpy(inner)]] = believed[torch.from_numpy(inner)]
    return found


def _in_tile(candidates: Candidates, near: Neighbourhood, operations, threshold: float) -> torch.Tensor:
    own = torch.cat([candidates.evidence.masked_fill(candidates.phase < 0, -math.inf), candidates.none[:, None]], dim=1)
    own = own.log_softmax(1)
    edges = [_Edges.of(candidates, *pairs, operations, threshold) for pairs in near.pairs()]
    believed = own
    for _ in range(_ROUNDS):
        change = max((each.exchange(believed) for each in edges), default=0.0)
        believed = own.clone()
        for each in edges:
            each.tell(believed)
        if change < _CHANGE:
            break
    return believed.softmax(1)


class _Edges:
    """Pairs of neighbours in one direction, and the messages that they exchange."""

    def __init__(self, here: torch.Tensor, there: torch.Tensor, agreement: torch.Tensor) -> None:
        self.here, self.there, self.agreement = here, there, agreement
        uniform = torch.full(agreement.shape[:2], -math.log(agreement.shape[1]))
        self.to_here, self.to_there = uniform, uniform.clone()

    @classmethod
    def of(cls, candidates: Candidates, here: np.ndarray, there: np.ndarray, weight, operations, threshold) -> _Edges:
        here, there = torch.from_numpy(here), torch.from_numpy(there)
        a, b = candidates.at(here), candidates.at(there)
        angle = angles_between(a.rotations, a.phase, b.rotations, b.phase, operations)
        # a little bent is nearly the same
        alike = (1 - (angle / threshold).square()).clamp_min(0)
        agreement = torch.zeros(len(here), alike.shape[1] + 1, alike.shape[2] + 1)
        agreement[:, :-1, :-1] = alike
        # who has none of the candidates says little on what is beside it
        agreement[:, -1, :], agreement[:, :, -1] = 0.5, 0.5
        return cls(here, there, (AGREE * weight * agreement).exp())

    def exchange(self, believed: torch.Tensor) -> float:
        """Send messages in both directions; returns the largest change of one."""
        if not len(self.here):
            return 0.0
        without = (believed[self.here] - self.to_here).softmax(1), (believed[self.there] - self.to_there).softmax(1)
        new = (torch.bmm(self.agreement, without[1][..., None]), torch.bmm(without[0][:, None], self.agreement))
        new = [each.flatten(1).log().log_softmax(1) for each in new]
        change = float((new[0] - self.to_here).abs().max())
        self.to_here, self.to_there = (
            _KEPT * old + (1 - _KEPT) * each for old, each in zip((self.to_here, self.to_there), new, strict=True)
        )
        return change

    def tell(self, believed: torch.Tensor) -> None:
        """Add the messages to what is believed (n, m + 1)."""
        believed.index_add_(0, self.here, self.to_here)
        believed.index_add_(0, self.there, self.to_there)
