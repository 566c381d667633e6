"""What orientation networks answer."""

from __future__ import annotations

from typing import NamedTuple

import torch

from pyxem_dl import rotations as rotations_module


class OrientationCandidates(NamedTuple):
    """Separated modes of the distribution, most probable first.

    ``rotations (n, n_best, 4)``, ``phase_id (n, n_best)``, ``scores (n, n_best)``
    probabilities, ``crystal (n,)`` the probability that there is a crystal at all.
    """

    rotations: torch.Tensor
    phase_id: torch.Tensor
    scores: torch.Tensor
    crystal: torch.Tensor


class SampledOrientations(NamedTuple):
    """What several answers to the same patterns agree on.

    The fields of :class:`OrientationCandidates` for one candidate, and ``spread (n,)``: root mean square of the
    disorientations of the answers from their mean, in radians.
    """

    rotations: torch.Tensor
    phase_id: torch.Tensor
    scores: torch.Tensor
    crystal: torch.Tensor
    spread: torch.Tensor

    @classmethod
    def of(cls, answers: list[OrientationCandidates], operations: torch.Tensor) -> SampledOrientations:
        """Average the best candidates of several answers.

        Parameters
        ----------
        answers : list of OrientationCandidates
            To the same patterns.
        operations : tensor, shape (phases, o, 4)
            Proper rotations of the phases' Laue groups.
        """
        rotations, phases, scores = (
            torch.stack([getattr(a, name)[:, 0] for a in answers], dim=1)
            for name in ("rotations", "phase_id", "scores")
        )
        crystal = torch.stack([a.crystal for a in answers], dim=1).mean(1)
        votes = torch.zeros(len(phases), len(operations), device=scores.device)
        votes = votes.scatter_add(1, phases, scores.float() + 1e-6)
        phase = votes.argmax(1)
        agree = phases == phase[:, None]
        mean, spread = rotations_module.mean_rotation(rotations.float(), operations[phase], agree)
        # an answer with another phase says that this one is wrong
        score = (scores * agree).mean(1)
        return cls(mean[:, None], phase[:, None], score[:, None], crystal, spread)
