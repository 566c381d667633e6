"""What a map itself says of the orientations that its positions may have."""

from __future__ import annotations

import copy

import numpy as np
import torch

from pyxem_dl.microstructure.beliefs import Candidates, angles_between, half_turn
from pyxem_dl.microstructure.neighbourhood import Neighbourhood
from pyxem_dl.results.maps import are_probabilities, property_of
from pyxem_dl.symmetry import proper_operations, stack_operations

#: Candidates of a position that count, at most
MOST = 4
# No orientation is less probable than this, whatever the scores say
_LEAST = 0.02
# Where scores say nothing: shares of positions that are turned by 180° about the beam, between which the map decides
_TURNED = (0.005, 0.25)
# Neighbours of a position that have to agree so that it stands alone among them, and how many there have to be
_SHARE, _FEWEST = 0.75, 2


class MapView:
    """A map as settling looks at it: plain tensors of the n points in its data.

    Parameters
    ----------
    xmap : orix.crystal_map.CrystalMap
        The map.
    threshold : float
        Radians from which two orientations are not the same.
    """

    def __init__(self, xmap, threshold: float) -> None:
        self.threshold, self.near = threshold, Neighbourhood.of(xmap)
        phases = {key: phase for key, phase in xmap.phases if key >= 0}
        self.phases, self.keys = list(phases.values()), np.array(list(phases), dtype=int)
        self.operations = stack_operations([proper_operations(phase) for phase in self.phases])
        rotations = np.asarray(xmap.rotations.data, dtype=np.float32).reshape(xmap.size, -1, 4)[:, :MOST]
        self.rotations = torch.from_numpy(np.ascontiguousarray(rotations))
        ids = np.asarray(property_of(xmap, "candidate_phase_id", xmap.phase_id)).reshape(xmap.size, -1)[:, :MOST]
        ids = np.broadcast_to(ids, rotations.shape[:2]).copy()
        ids[:, 0] = xmap.phase_id
        ids[xmap.phase_id < 0] = -1
        self.phase = torch.from_numpy(self._numbers(ids))
        self.scores, self.reliability = _numbers_of(xmap, rotations.shape[1])

    def with_candidates(self, rotations: torch.Tensor, phase: torch.Tensor, scores: torch.Tensor) -> MapView:
        """Return a view of the same positions with other candidates (n, k, 4), phases and probabilities (n, k)."""
        other = copy.copy(self)
        other.rotations, other.phase = rotations.float(), phase
        other.scores, other.reliability = scores.double().numpy(), None
        return other

    def _numbers(self, ids: np.ndarray) -> np.ndarray:
        """Numbers of phases from 0, as the operations have them, of a map's ids."""
        order = np.argsort(self.keys)
        at = np.searchsorted(self.keys[order], ids).clip(0, len(self.keys) - 1)
        found = order[at]
        return np.where(self.keys[found] == ids, found, -1)

    @property
    def indexed(self) -> torch.Tensor:
        """Where there is an orientation (n,)."""
        return self.phase[:, 0] >= 0

    @property
    def are_probabilities(self) -> bool:
        """Whether the scores are probabilities of the candidates."""
        return self.scores is not None and are_probabilities(self.scores[self.indexed.numpy()])

    @property
    def weights(self) -> torch.Tensor:
        """How much each of the own candidates counts (n, k)."""
        if self.are_probabilities:
            return torch.from_numpy(self.scores.clip(_LEAST, 1)).float()
        return (1.0 / (1 + torch.arange(self.phase.shape[1]))).expand(self.phase.shape)

    def around(self, rotations: torch.Tensor, phase: torch.Tensor, others=None) -> torch.Tensor:
        """Whether the best orientations of the up to eight neighbours (n, m, 8) are the same as these (n, m).

        Parameters
        ----------
        rotations, phase : tensor, shape (n, m, 4) and (n, m)
            Orientations of each position, and their phases.
        others : tuple of tensor, optional
            Orientations (n, 4) and phases (n,) of all positions; by default the map's best ones.
        """
        q, of_q = (self.rotations[:, 0], self.phase[:, 0]) if others is None else others
        index = torch.from_numpy(self.near.eight)
        there = torch.where(index >= 0, of_q[index.clamp_min(0)], -1)
        angle = angles_between(rotations, phase, q[index.clamp_min(0)], there, self.operations)
        return angle < self.threshold

    def candidates(self) -> Candidates:
        """List the positions' own candidates, and their half turns where these are other orientations."""
        k = self.phase.shape[1]
        turned = half_turn(self.rotations)
        angle = angles_between(turned, self.phase, self.rotations, self.phase, self.operations)
        another = (angle > self.threshold).all(2)
        rotations = torch.cat([self.rotations, turned], dim=1)
        phase = torch.cat([self.phase, torch.where(another, self.phase, -1)], dim=1)
        own, of_turned, none = self._probabilities(k)
        evidence = torch.from_numpy(np.log(np.concatenate([own, of_turned], axis=1))).float()
        return Candidates(rotations, phase, evidence, torch.from_numpy(np.log(none)).float())

    def _probabilities(self, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the own candidates (n, k), of these turned by 180° (n, k), and of none of them (n,)."""
        n = len(self.rotations)
        if not self.are_probabilities:
            turned = self._share_turned()
            own = np.full((n, k), turned / max(1, k - 1))
            own[:, 0] = 1 - turned
            return own, np.full((n, k), turned) * own, np.full(n, _LEAST)
        own = self.scores.clip(_LEAST, 1)
        rest = (1 - self.scores.sum(1, keepdims=True)).clip(_LEAST, 1)
        turned = rest
        if k == 1 and self.reliability is not None:  # the second may be the one that is turned
            turned = np.minimum(rest, own * (1 - self.reliability[:, None]).clip(0, 1)).clip(_LEAST, 1)
        return own, np.broadcast_to(turned, own.shape) * own, rest[:, 0]

    def _share_turned(self) -> float:
        """Share of positions that stand alone, turned by 180° about the beam among neighbours that agree."""
        first = self.rotations[:, :1]
        both = torch.cat([first, half_turn(first)], dim=1)
        same = self.around(both, self.phase[:, :1].expand(-1, 2))
        known = (torch.from_numpy(self.near.eight) >= 0).sum(1)
        alone = (same[:, 0].sum(1) == 0) & (same[:, 1].sum(1) >= _SHARE * known) & (known >= _FEWEST)
        return float(np.clip(int(alone.sum()) / max(1, int(self.indexed.sum())), *_TURNED))


def _numbers_of(xmap, k: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Scores (n, k) and reliability (n,) of a map, None where it has none that can be used."""
    found = []
    for name, width in (("scores", k), ("reliability", 1)):
        values = property_of(xmap, name, property_of(xmap, "score") if name == "scores" and k == 1 else None)
        values = None if values is None else np.asarray(values, dtype=float).reshape(xmap.size, -1)[:, :width]
        usable = values is not None and values.shape[1] == width and np.isfinite(values[xmap.phase_id >= 0]).all()
        found.append(np.nan_to_num(values) if usable else None)
    scores, reliability = found
    return scores, None if reliability is None else reliability[:, 0]


def best_of(q: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Take one orientation (n, 4) of several (n, m, 4)."""
    return q.gather(1, index[:, None, None].expand(-1, 1, 4))[:, 0]


def disorientation_from(a, b, phase, operations) -> torch.Tensor:
    """Radians (n,) between orientations (n, 4) of one phase (n,); pi where there is none."""
    return angles_between(a[:, None], phase[:, None], b[:, None], phase[:, None], operations)[:, 0, 0]

