"""What orientation networks predict."""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple

import torch

from pyxem_dl import symmetry

#: Crystals that are looked for at a position, where they may lie above each other
MOST_CRYSTALS = 3


class OrientationCandidates(NamedTuple):
    """Separated modes of the distribution, most probable first.

    ``rotations (n, n_best, 4)``, ``phase_id (n, n_best)``, ``scores (n, n_best)``
    probabilities, ``crystal (n,)`` the probability that there is a crystal at all.
    """

    rotations: torch.Tensor
    phase_id: torch.Tensor
    scores: torch.Tensor
    crystal: torch.Tensor


class OverlappingCrystals(NamedTuple):
    """Crystals that lie above each other, the one with the largest share first.

    The fields of :class:`OrientationCandidates` for :data:`MOST_CRYSTALS` crystals, and ``share (n, crystals)`` of the
    light that they explain together: 0 where there is no further crystal; its rotation is then that of the first one,
    its phase -1 and its score 0.
    """

    rotations: torch.Tensor
    phase_id: torch.Tensor
    scores: torch.Tensor
    crystal: torch.Tensor
    share: torch.Tensor


class SampledOrientations(NamedTuple):
    """What several predictions for the same patterns agree on.

    The fields of :class:`OrientationCandidates` for one candidate, and ``uncertainty (n,)``: root mean square of the
    disorientations of the best candidate of each prediction from it, in radians.
    """

    rotations: torch.Tensor
    phase_id: torch.Tensor
    scores: torch.Tensor
    crystal: torch.Tensor
    uncertainty: torch.Tensor

    @classmethod
    def of(cls, predictions: list[OrientationCandidates], operations: torch.Tensor) -> SampledOrientations:
        """Find what most candidates of several predictions say; see :func:`pyxem_dl.symmetry.consensus`.

        Parameters
        ----------
        predictions : list of OrientationCandidates
            To the same patterns.
        operations : tensor, shape (phases, o, 4)
            Proper rotations of the phases' Laue groups.
        """
        rotations, phases, scores = (
            torch.cat([getattr(a, name) for a in predictions], dim=1) for name in ("rotations", "phase_id", "scores")
        )
        crystal = torch.stack([a.crystal for a in predictions], dim=1).mean(1)
        votes = torch.zeros(len(phases), len(operations), device=scores.device)
        phase = votes.scatter_add(1, phases, scores.float() + 1e-6).argmax(1)
        agree = phases == phase[:, None]
        mean, angle = symmetry.consensus(
            rotations.float(), operations[phase], (scores.float() + 1e-6) * agree
        )
        # a prediction with another orientation or phase says that this one is wrong
        score = (scores * (agree & (angle < symmetry.SAME))).sum(1) / len(predictions)
        first = list(accumulate([0, *(a.scores.shape[1] for a in predictions[:-1])]))  # the best of each prediction
        squares, count = (
            torch.stack([x[:, i] for i in first], dim=1).sum(1) for x in (angle.square() * agree, agree)
        )
        uncertainty = torch.where(count > 0, (squares / count.clamp_min(1)).sqrt(), torch.pi)
        return cls(mean[:, None], phase[:, None], score[:, None], crystal, uncertainty)
