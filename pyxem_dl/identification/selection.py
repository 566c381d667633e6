"""Which phases are in a scan: a mixture of them and of none, with as few phases as explain the patterns."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

# Rounds of the weights, and of phases that are taken in or out; phases of a scan, at most
_ROUNDS, _CHANGES, _MOST = 60, 40, 12
# A pattern says at most so much for a phase (a factor in nats), and none says nothing for sure: one in so many is not
# what it seems, as where two crystals lie on top of each other
_SURE, _STRANGE = 12.0, 0.02


class Selection(NamedTuple):
    """What a sample of patterns says of K phases.

    ``probability (K,)`` that each is in the scan; ``weight (K,)``, shares of the patterns, of the phases that are
    likely there; ``none``, the share of what is none of them; ``members (n, K)``: the probability that each pattern is
    of each of these phases.
    """

    probability: np.ndarray
    weight: np.ndarray
    none: float
    members: np.ndarray


def select(evidence: np.ndarray) -> Selection:
    """Find the few phases that explain patterns.

    A pattern is of phase j with the probability w_j, or of none.  The weights are those that make the patterns
    likeliest (expectation maximisation); each phase that takes part costs half the logarithm of the number of patterns
    (BIC), and the logarithm of how many there are to choose from.  The probability of a phase is the share of the
    models with it, of the best one and of those that have one phase more, less, or another one.

    Parameters
    ----------
    evidence : array, shape (n, K)
        Logarithm of how much likelier a pattern is with a phase than with none of them.

    Returns
    -------
    Selection
    """
    evidence = np.asarray(evidence, dtype=float)
    n, k = evidence.shape
    if not n:
        return Selection(np.zeros(k), np.zeros(k), 1.0, np.zeros((0, k)))
    likelihood = _softened(evidence)
    score = _Scores(likelihood, 0.5 * math.log(n) + math.log(k))
    best: frozenset = frozenset()
    for _ in range(_CHANGES):
        near = max(_neighbours(best, score.promising(best)), key=score)
        if score(near) <= score(best):
            break
        best = near
    models = [best, *_neighbours(best, range(k))]
    belief = np.array([score(model) for model in models])
    belief = np.exp(belief - logsumexp(belief))
    probability = np.array([sum(b for b, model in zip(belief, models, strict=True) if j in model) for j in range(k)])
    there = sorted(best)
    weights, members = _fit(likelihood[:, there])
    share, member = np.zeros(k), np.zeros((n, k))
    share[there], member[:, there] = weights[1:], members[:, 1:]
    return Selection(probability.clip(0, 1), share, float(weights[0]), member)


def _softened(evidence: np.ndarray) -> np.ndarray:
    """Likelihoods (n, K) against none, of patterns of which some are not what they seem."""
    return np.log(_STRANGE + (1 - _STRANGE) * np.exp(np.minimum(evidence, _SURE)))


class _Scores:
    """Scores of models, sets of phases: what they explain less what they cost; each computed once."""

    def __init__(self, likelihood: np.ndarray, cost: float) -> None:
        self.likelihood, self.cost, self.known = likelihood, cost, {}

    def __call__(self, model: frozenset) -> float:
        if model not in self.known:
            chosen = self.likelihood[:, sorted(model)]
            weights, _ = _fit(chosen)
            self.known[model] = float(_mixed(chosen, weights).sum()) - self.cost * len(model)
        return self.known[model]

    def promising(self, model: frozenset, most: int = 24) -> list[int]:
        """Phases that would explain most of what a model does not."""
        chosen = self.likelihood[:, sorted(model)]
        left = self.likelihood - _mixed(chosen, _fit(chosen)[0])[:, None]
        # each at the weight that it could have
        gain = np.max([np.log1p(w * np.expm1(left)).sum(0) for w in (0.03, 0.2, 0.8)], axis=0)
        return np.argsort(-gain)[:most].tolist()


def _neighbours(model: frozenset, others) -> list[frozenset]:
    """Models with one phase more, less, or another one."""
    added = [j for j in others if j not in model]
    more = [model | {j} for j in added] if len(model) < _MOST else []
    return [*more, *(model - {i} for i in model), *(model - {i} | {j} for i in model for j in added)]


def _fit(likelihood: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights (1 + m,) of none and of m phases, and what each pattern is (n, 1 + m)."""
    ratio = np.exp(np.concatenate([np.zeros((len(likelihood), 1)), likelihood], axis=1))
    weights = np.full(ratio.shape[1], 1 / ratio.shape[1])
    for _ in range(_ROUNDS if ratio.shape[1] > 1 else 1):
        member = ratio * weights
        member /= member.sum(1, keepdims=True)
        weights = member.mean(0)
    return weights, member


def _mixed(likelihood: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Logarithms (n,) of the likelihood of patterns."""
    return np.log(weights[0] + np.exp(likelihood) @ weights[1:])
