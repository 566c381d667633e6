"""Fields of orientation: candidates of neighbouring positions that may be one crystal, and which of them hold.

The same wrong answer, half a turn or a pseudo-symmetry, is proposed at one position after another, and is as coherent
as the true one.  What is proposed is therefore followed from neighbour to neighbour, and each field is judged as a
whole, by what all its positions say.
"""

from __future__ import annotations

import heapq
import math

import numpy as np
import torch

from pyxem_dl.microstructure.beliefs import Candidates, angles_between
from pyxem_dl.microstructure.neighbourhood import Neighbourhood

# Candidates of neighbours are of one field if they are nearer than this share of the threshold
_NEAR = 0.5
# What is less probable by more than this (logit) belongs to no field
_BEHIND = 5.0
# A candidate speaks for its field as far as it is less than this behind the best of its position (logit), and the
# position itself as far as its best one is above this
_RIVAL, _UNKNOWN = 2.0, -2.0
# Fields that explain less are too small to be told from chance
_LEAST = 8.0


def select_fields(
    candidates: Candidates, near: Neighbourhood, operations: torch.Tensor, threshold: float
) -> torch.Tensor:
    """Find which candidates belong to the fields that explain the map together.

    Fields are taken one by one, each time that which explains most of what none explains yet.

    Parameters
    ----------
    candidates : Candidates
        Of n positions, with evidence against none of them.
    near : Neighbourhood
        Where these lie.
    operations : tensor, shape (phases, o, 4)
        Of the Laue groups.
    threshold : float
        Radians from which orientations are not the same.

    Returns
    -------
    tensor of bool, shape (n, m)
    """
    evidence = candidates.evidence.masked_fill(candidates.phase < 0, -math.inf)
    alive = (evidence > evidence.amax(1, keepdim=True) - _BEHIND) & (candidates.phase >= 0)
    field = _followed(candidates, alive, near, operations, threshold)
    position, column = torch.nonzero(alive, as_tuple=True)
    best = evidence.amax(1)[position]
    value = (_RIVAL - best + evidence[alive]).clamp_min(0) * (best - _UNKNOWN).sigmoid()
    taken = _cover(field, position.numpy(), value.numpy())
    selected = torch.zeros_like(alive)
    selected[position, column] = torch.from_numpy(taken[field])
    return selected


def _followed(candidates: Candidates, alive: torch.Tensor, near, operations, threshold: float) -> np.ndarray:
    """Field of each of the candidates that count, in the order of ``nonzero``."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = int(alive.sum())
    node = torch.full(alive.shape, -1)
    node[alive] = torch.arange(n)
    q, phase = candidates.rotations, torch.where(alive, candidates.phase, -1)
    links = [np.zeros((2, 0), dtype=int)]
    for here, there, _ in near.pairs():
        here, there = torch.from_numpy(here), torch.from_numpy(there)
        angle = angles_between(q[here], phase[here], q[there], phase[there], operations)
        pair, a, b = torch.nonzero(angle < _NEAR * threshold, as_tuple=True)
        links.append(torch.stack([node[here[pair], a], node[there[pair], b]]).numpy())
    ends = np.concatenate(links, axis=1)
    graph = coo_array((np.ones(ends.shape[1], dtype=bool), tuple(ends)), shape=(n, n))
    return connected_components(graph, directed=False)[1]


def _cover(field: np.ndarray, position: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Which fields (number of fields,) explain most, each what the ones before it do not; greedily."""
    n = int(field.max(initial=-1)) + 1
    order = np.argsort(field, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(field, minlength=n))[:-1]) if n else []
    left = np.ones(int(position.max(initial=-1)) + 1, dtype=bool)
    taken = np.zeros(n, dtype=bool)
    # what a field explains shrinks only: who is still the best when counted again is the best
    heap = [(-total, each) for each, total in enumerate(np.bincount(field, weights=value, minlength=n))]
    heapq.heapify(heap)
    while heap:
        _, each = heapq.heappop(heap)
        inside = members[each]
        total = float(value[inside][left[position[inside]]].sum())
        if heap and -heap[0][0] > total:
            heapq.heappush(heap, (-total, each))
            continue
        if total < _LEAST:
            break
        taken[each] = True
        left[position[inside]] = False
    return taken
