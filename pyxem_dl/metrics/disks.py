"""How good are Bragg disks where the truth is known: hits, positions, intensities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["HIT_RADII", "DiskScore", "match_points", "rank_correlation", "score_disks"]

#: A detection within so many radii of a disk is that disk
HIT_RADII = 0.6


@dataclass(frozen=True)
class DiskScore:
    """What :func:`score_disks` counted.

    Parameters
    ----------
    n_patterns, n_true, n_hits, n_false : int
        Patterns; disks that are there; those of them that were found; detections that nothing explains.
    position_error : float
        Root mean square distance of the hits from the truth in pixels; NaN without hits.
    rank_correlation : float
        Spearman's, of the hits' intensities with the true ones; NaN for fewer than three.
    """

    n_patterns: int
    n_true: int
    n_hits: int
    n_false: int
    position_error: float
    rank_correlation: float

    @property
    def precision(self) -> float:
        """Share of the counted detections that are hits."""
        return self.n_hits / (self.n_hits + self.n_false) if self.n_hits + self.n_false else math.nan

    @property
    def recall(self) -> float:
        """Share of the disks that were found."""
        return self.n_hits / self.n_true if self.n_true else math.nan

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        total = self.n_hits + self.n_false + self.n_true
        return 2 * self.n_hits / total if total else math.nan

    @property
    def false_per_pattern(self) -> float:
        """Detections per pattern that nothing explains."""
        return self.n_false / self.n_patterns if self.n_patterns else math.nan


def match_points(found, truth, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Pair points one to one: as many pairs as can be, and of those the nearest.

    Parameters
    ----------
    found, truth : array, shape (m, 2) and (t, 2)
        Positions in pixels.
    tolerance : float
        Largest distance of a pair, in pixels.

    Returns
    -------
    array of int, shape (p,), twice
        Indices into `found` and into `truth`.
    """
    from scipy.optimize import linear_sum_assignment

    found, truth = np.reshape(found, (-1, 2)), np.reshape(truth, (-1, 2))
    distance = _distances(found, truth)
    # a pair that is none costs more than all pairs together
    none = tolerance * (min(distance.shape) + 1) + 1
    i, j = linear_sum_assignment(np.where(distance <= tolerance, distance, none))
    near = distance[i, j] <= tolerance
    return i[near], j[near]


def score_disks(found: Sequence, truth: Sequence, ignored: Sequence, tolerance: float) -> DiskScore:
    """Compare the disks that were found in patterns with those that are there.

    Parameters
    ----------
    found : sequence of array, shape (m, 2) or (m, 3)
        For each pattern (row, column) in pixels, and the intensity.
    truth : sequence of array, shape (t, 2) or (t, 3)
        For each pattern the disks that should be found.
    ignored : sequence of array, shape (w, 2)
        Positions at which a detection counts neither as right nor as wrong: weak reflections, the direct beam. Where
        it is a disk's second one, it is wrong all the same.
    tolerance : float
        Largest distance of a hit, or of a detection from the ignored position that explains it, in pixels.

    Returns
    -------
    DiskScore
    """
    hits, false, distances, intensities = 0, 0, [], []
    for here, there, neither in zip(found, truth, ignored, strict=True):
        here, there, neither = (np.asarray(x, dtype=float) for x in (here, there, neither))
        i, j = match_points(here[:, :2], there[:, :2], tolerance)
        hits += len(i)
        distances.append(np.hypot(*(here[i, :2] - there[j, :2]).T))
        if here.shape[1] > 2 and there.shape[1] > 2:
            intensities.append(np.stack([here[i, 2], there[j, 2]], 1))
        rest = np.delete(here[:, :2], i, axis=0)
        false += int(_wrong(rest, there[:, :2], neither.reshape(-1, 2), tolerance).sum())
    distances = np.concatenate(distances) if distances else np.empty(0)
    return DiskScore(
        n_patterns=len(found),
        n_true=sum(len(there) for there in truth),
        n_hits=hits,
        n_false=false,
        position_error=float(np.sqrt(np.mean(distances**2))) if len(distances) else math.nan,
        rank_correlation=rank_correlation(np.concatenate(intensities) if intensities else np.empty((0, 2))),
    )


def _wrong(rest, truth, ignored, tolerance: float) -> np.ndarray:
    """Tell which detections without a partner, rows and columns (px) of shape (m, 2), are wrong: bool, shape (m,)."""
    # as many pairs are made as can be, so a true disk within reach has its partner already, and this is its second
    again = (_distances(rest, truth) <= tolerance).any(1)
    return again | (_distances(rest, ignored) > tolerance).all(1)


def _distances(a, b) -> np.ndarray:
    return np.linalg.norm(a[:, None] - b[None], axis=-1)


def rank_correlation(pairs) -> float:
    """Spearman's correlation of the two columns of an array (n, 2); NaN for fewer than three or equal ones."""
    from scipy.stats import spearmanr

    if len(pairs) < 3 or (np.ptp(pairs, axis=0) == 0).any():
        return math.nan
    return float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic)
