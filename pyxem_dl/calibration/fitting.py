"""Distortion and centre of patterns whose orientations are known: a linear fit, robust, with errors by resampling.

A spot at ``k`` (Å⁻¹, on the detector's plane) is seen at ``k @ D + t + u @ G``, with a symmetric matrix D, a centre t
that is off, and its drift G over the scan (u from -1 to 1 along its x and y).  What each pattern is turned by, which is
the error of its orientation, is taken out: it would otherwise look like a distortion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Columns of the parameters: D_xx, D_xy, D_yy; t; G along x; G along y
_DISTORTION, _N = slice(0, 3), 9
_STEPS, _RESAMPLED = 8, 300
# Residuals beyond so many standard deviations do not count
_OUTLIER = 4.0
# With fewer orientations an ellipse is not determined: one that is wrong may explain it as well
_FEWEST_GRAINS = 3
# Errors of an ellipse (relative) with which it counts as determined: in any case, and if it is three times as large
_SURE, _LARGEST_ERROR = 0.01, 0.025
# A pattern with fewer spots that are seen says nothing
_FEWEST_SPOTS = 3


@dataclass(frozen=True, eq=False)
class Pattern:
    """What is known of one pattern.

    Parameters
    ----------
    seen : array, shape (m, 2)
        Peaks (kx, ky) in Å⁻¹ by the nominal calibration, without its distortion.
    place : array, shape (2,)
        Along x and y of the scan, from -1 to 1.
    spots : array, shape (s, 2)
        Where the orientation has spots, in Å⁻¹.
    grain : int
        Patterns of one grain are no independent witnesses.
    """

    seen: np.ndarray
    place: np.ndarray
    spots: np.ndarray
    grain: int


@dataclass(frozen=True, eq=False)
class Bend:
    """How patterns are distorted and displaced.

    Parameters
    ----------
    numbers : array, shape (9,)
        D_xx, D_xy, D_yy, t_x, t_y, and change of t along the scan's x (two) and y (two).
    """

    numbers: np.ndarray

    @classmethod
    def of(cls, matrix=None, shift=(0.0, 0.0), drift=((0.0, 0.0), (0.0, 0.0))) -> Bend:
        """Put it together; by default there is none."""
        matrix = np.eye(2) if matrix is None else np.asarray(matrix, dtype=float)
        return cls(np.concatenate([matrix[[0, 0, 1], [0, 1, 1]], np.ravel(shift), np.ravel(drift)]).astype(float))

    @property
    def matrix(self) -> np.ndarray:
        """D (2, 2)."""
        xx, xy, yy = self.numbers[_DISTORTION]
        return np.array([[xx, xy], [xy, yy]])

    @property
    def shift(self) -> np.ndarray:
        """Of the centre (2,) in the middle of the scan."""
        return self.numbers[3:5]

    @property
    def drift(self) -> np.ndarray:
        """Of the centre, [along x, along y of the scan] (2, 2), over half of the scan."""
        return self.numbers[5:].reshape(2, 2)

    def __call__(self, spots, place) -> np.ndarray:
        """Where spots (s, 2) of a pattern are seen."""
        return spots @ self.matrix + self.shift + place @ self.drift

    def undone(self, seen, place) -> np.ndarray:
        """Where what is seen (m, 2) is."""
        return (seen - self.shift - place @ self.drift) @ np.linalg.inv(self.matrix)


@dataclass(frozen=True, eq=False)
class Fitted:
    """What a fit found.

    Parameters
    ----------
    bend : Bend
        The best one.
    covariance : array, shape (9, 9)
        Of its numbers.
    n_spots : int
        How many were seen.
    determined : dict of str to bool
        Of "ellipse", "centre" and "drift".
    halves : array, shape (2, 3)
        Distortions of the two halves of the grains.
    """

    bend: Bend
    covariance: np.ndarray
    n_spots: int
    determined: dict[str, bool]
    halves: np.ndarray


def free_numbers(start: Bend, ellipse: bool, centre: bool, drift: tuple[bool, bool]) -> np.ndarray:
    """Directions (9, q) in which the numbers may move; without an ellipse its shape stays."""
    columns = [np.eye(_N)[:, :3]] if ellipse else [np.where(np.arange(_N) < 3, start.numbers, 0.0)[:, None]]
    if centre:
        columns.append(np.eye(_N)[:, 3:5])
    for i, moves in enumerate(drift):
        if moves:
            columns.append(np.eye(_N)[:, 5 + 2 * i : 7 + 2 * i])
    return np.concatenate(columns, axis=1)


def fit(patterns: list[Pattern], start: Bend, free: np.ndarray, tolerance: float) -> tuple:
    """Fit a bend to the peaks next to the spots.

    Parameters
    ----------
    patterns : list of Pattern
        With known orientations.
    start : Bend
        To begin with.
    free : array, shape (9, q)
        From :func:`free_numbers`.
    tolerance : float
        So far from where it should be seen a peak is looked for at the end, in Å⁻¹; in the beginning twice as far.

    Returns
    -------
    bend : Bend
        The best.
    equations : tuple of array
        Normal matrices (n, q, q) and right sides (n, q) of the patterns, for other sums of them.
    n_spots : int
        How many were seen.
    spread : float
        Of the residuals, in Å⁻¹ (one component).
    """
    bend = start
    for step in range(_STEPS):
        pairs = [_pairs(pattern, bend, tolerance * max(1.0, 2 - step / 3)) for pattern in patterns]
        residuals = [pattern_residuals(there, seen, bend, p) for (there, seen), p in zip(pairs, patterns, strict=True)]
        everything = np.concatenate([np.zeros((0, 2)), *residuals])
        spread = max(1.4826 * np.median(np.abs(everything)) if len(everything) else 0.0, 1e-6)
        equations = [
            _equations(there, seen, residual, p.place, bend, start, free, spread)
            for (there, seen), residual, p in zip(pairs, residuals, patterns, strict=True)
        ]
        normal, right = (np.array(x) for x in zip(*equations, strict=True))
        bend = Bend(start.numbers + free @ _solved(normal.sum(0), right.sum(0)))
    return bend, (normal, right), len(everything), spread


def with_best_scale(patterns: list[Pattern], bend: Bend, tolerance: float, largest: float) -> Bend:
    """Change the scale of a bend so that most spots have their peak."""
    count = {}
    for scale in 1 + largest * np.linspace(-1, 1, 31):
        other = Bend.of(bend.matrix * scale, bend.shift, bend.drift)
        count[scale] = sum(len(_pairs(pattern, other, tolerance)[0]) for pattern in patterns)
    best = max(count, key=lambda scale: (count[scale], -abs(scale - 1)))
    return Bend.of(bend.matrix * best, bend.shift, bend.drift)


def _pairs(pattern: Pattern, bend: Bend, tolerance: float) -> tuple[np.ndarray, np.ndarray]:
    """Spots and the peaks that are theirs, each the nearest of the other."""
    from scipy.spatial import cKDTree

    nothing = np.zeros((0, 2)), np.zeros((0, 2))
    if len(pattern.seen) < _FEWEST_SPOTS or len(pattern.spots) < _FEWEST_SPOTS:
        return nothing
    expected = bend(pattern.spots, pattern.place)
    distance, peak = cKDTree(pattern.seen).query(expected, distance_upper_bound=tolerance)
    spot = np.flatnonzero(distance <= tolerance)
    # of several spots the nearest has the peak
    spot = spot[np.argsort(distance[spot], kind="stable")]
    _, first = np.unique(peak[spot], return_index=True)
    if len(first) < _FEWEST_SPOTS:
        return nothing
    return pattern.spots[spot[first]], pattern.seen[peak[spot[first]]]


def _turns(there) -> np.ndarray:
    """Differentiate spots (s, 2) by a turn about the beam."""
    return there[:, ::-1] * (-1, 1)


def pattern_residuals(there, seen, bend: Bend, pattern: Pattern) -> np.ndarray:
    """Leave of the peaks (s, 2) of a pattern what a bend does not explain, the pattern turned as it fits best."""
    off = seen - bend(there, pattern.place)
    turn = _turns(there)
    return off - turn * ((turn * off).sum() / max((turn**2).sum(), 1e-12))


def _equations(there, seen, residual, place, bend, start, free, spread) -> tuple[np.ndarray, np.ndarray]:
    """Make normal matrix (q, q) and right side (q,) of a pattern, its turn eliminated, outliers weighed down."""
    q = free.shape[1]
    if not len(there):
        return np.zeros((q, q)), np.zeros(q)
    away = np.hypot(*residual.T) / (_OUTLIER * spread)
    weight = np.repeat(np.clip(1 - away**2, 0, None), 2)  # Tukey's, of each component
    kx, ky = there.T
    zero, one = np.zeros_like(kx), np.ones_like(kx)
    x, y = place
    of_x = [kx, ky, zero, one, zero, x * one, zero, y * one, zero]
    of_y = [zero, kx, ky, zero, one, zero, x * one, zero, y * one]
    design = np.stack([np.stack(of_x, 1), np.stack(of_y, 1)], 1).reshape(-1, _N) * weight[:, None]
    target = (seen - start(there, place)).ravel() * weight
    turn = _turns(there).ravel() * weight
    design, size = design @ free, max(turn @ turn, 1e-12)
    design = design - np.outer(turn, turn @ design) / size
    target = target - turn * (turn @ target) / size
    return design.T @ design, design.T @ target


def _solved(normal, right) -> np.ndarray:
    return np.linalg.lstsq(normal, right, rcond=1e-9)[0]


def errors(patterns: list[Pattern], free, equations, spread: float) -> np.ndarray:
    """Covariance (9, 9) of a fit: by resampling patterns and grains, and no less than the residuals say.

    Directions that no pattern says anything about have an error of 1.
    """
    normal, right = equations
    rng = np.random.default_rng(0)
    grain = np.unique([p.grain for p in patterns], return_inverse=True)[1]
    values, vectors = np.linalg.eigh(normal.sum(0))
    known = values > 1e-6 * max(values.max(), 1e-12)
    small = vectors * np.where(known, spread**2 / np.maximum(values, 1e-12), 1.0)
    covariance = small @ vectors.T
    if grain.max() < 2:  # patterns of one grain have their errors in common
        return free @ covariance @ free.T * len(grain) / (1 + grain.max())
    for groups in (np.arange(len(patterns)), grain):
        n = groups.max() + 1
        if n < 3:
            continue
        counts = rng.multinomial(n, np.full(n, 1 / n), size=_RESAMPLED)[:, groups]
        drawn = [_solved(np.tensordot(c, normal, 1), c @ right) for c in counts.astype(float)]
        resampled = np.cov(np.array(drawn), rowvar=False, ddof=1).reshape(len(values), -1) * n / (n - 1)
        covariance = covariance if np.trace(covariance) > np.trace(resampled) else resampled
    return free @ covariance @ free.T


def halves_of(patterns: list[Pattern], start: Bend, free, equations) -> np.ndarray:
    """Distortions (2, 3) that every second grain, and the others, say; of one grain every second pattern."""
    grain = np.unique([p.grain for p in patterns], return_inverse=True)[1]
    size = np.bincount(grain)
    order = np.empty(len(size), dtype=int)
    order[np.argsort(-size, kind="stable")] = np.arange(len(size))
    first = order[grain] % 2 == 0 if len(size) > 1 else np.arange(len(grain)) % 2 == 0
    normal, right = equations
    return np.array([
        (start.numbers + free @ _solved(normal[part].sum(0), right[part].sum(0)))[_DISTORTION]
        for part in (first, ~first)
    ])  # fmt: skip


def fit_what_is_determined(
    patterns: list[Pattern], start: Bend, nominal: Bend, *, centre: bool, drift: tuple[bool, bool], tolerance: float,
    final: bool = True,
) -> Fitted:  # fmt: skip
    """Fit scale, ellipse, centre and drift; what the patterns do not determine stays as it was.

    Parameters
    ----------
    patterns : list of Pattern
        With known orientations.
    start, nominal : Bend
        Where it begins, and what stays.
    centre : bool
        Whether to fit the centre.
    drift : tuple of bool
        Whether the centre may drift along x and y of the scan.
    tolerance : float
        In Å⁻¹.
    final : bool
        Whether errors decide what is determined; else only large ones do, since better answers follow.
    """
    allowed = {
        "ellipse": len({p.grain for p in patterns}) >= _FEWEST_GRAINS, "centre": centre, "drift": centre and any(drift)
    }
    while True:
        begin = _kept(start, nominal, allowed)
        free = free_numbers(
            begin, allowed["ellipse"], allowed["centre"], drift if allowed["drift"] else (False, False)
        )
        bend, equations, n_spots, spread = fit(patterns, begin, free, tolerance)
        covariance = errors(patterns, free, equations, spread)
        error = np.sqrt(np.diag(covariance).clip(0))
        size, its_error = ellipse_of(bend, covariance)
        moved = np.abs(bend.numbers - nominal.numbers)[5:]
        doubtful = {
            "ellipse": its_error > (min(max(_SURE, size / 3), _LARGEST_ERROR) if final else 2 * _LARGEST_ERROR),
            # a drift that may as well be none only makes the centres worse
            "drift": error[5:].max() > (0.2 * tolerance if (moved < 3 * error[5:]).all() else tolerance),
            "centre": error[3:5].max() > 0.5 * tolerance,
        }
        wrong = [name for name, doubt in doubtful.items() if doubt and allowed[name]]
        if not wrong:
            return Fitted(bend, covariance, n_spots, allowed, halves_of(patterns, begin, free, equations))
        allowed = allowed | {wrong[0]: False} | ({"drift": False} if wrong[0] == "centre" else {})


def ellipse_of(bend: Bend, covariance) -> tuple[float, float]:
    """Long axis over short axis less 1, and the larger of the errors along it and across."""
    half, across = (bend.matrix[0, 0] - bend.matrix[1, 1]) / 2, bend.matrix[0, 1]
    of_half = (covariance[0, 0] + covariance[2, 2] - 2 * covariance[0, 2]) / 4
    mean, size = np.trace(bend.matrix) / 2, np.hypot(half, across)
    return 2 * size / (mean - size), 2 * np.sqrt(max(of_half, covariance[1, 1], 0.0)) / mean


def _kept(start: Bend, nominal: Bend, allowed: dict[str, bool]) -> Bend:
    """Take from the nominal bend what may not be fitted; of an ellipse all but the scale."""
    matrix = start.matrix
    if not allowed["ellipse"]:
        matrix = nominal.matrix * np.sqrt(np.linalg.det(start.matrix) / np.linalg.det(nominal.matrix))
    shift, drift = ((start if allowed[name] else nominal) for name in ("centre", "drift"))
    return Bend.of(matrix, shift.shift, drift.drift)
