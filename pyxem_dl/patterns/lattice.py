"""The lattice of a pattern: two basis vectors and an origin, fitted to the disks of each of many patterns at once.

The model is a mixture.  A disk lies on the lattice, with a Gaussian error of known size, or it belongs to something
else (another crystal, a false detection) and lies anywhere in the cell.  Which of both holds is a probability for each
disk, computed anew with each improvement of the lattice (expectation maximisation), and so is the share of other disks
in each pattern.  The indices of a disk count once the lattice so far predicts its place to a fraction of the cell, so
that a lattice grows outward from what is sure.  A lattice is accepted where the disks are far more probable with it
than without it (the evidence of the mixture, Laplace's approximation), and where no direction hangs on a single disk.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

#: Standard deviation of a lattice's deformation before anything is known, and of its origin (shortest vectors)
_STRAIN, _ORIGIN = 0.04, 0.1
# No lattice is stretched by more (natural logarithm), from where its search began
_LARGEST = 0.1
# Further uncertainty (shortest vectors) while a lattice is searched for, step by step
_SEARCH = (0.12, 0.08, 0.05, 0.03, 0.015)
_STEPS = 4
# Weight of what was known before, at last
_FORGOTTEN = 1e-9
# Indices are certain where the place of a disk is predicted to this share of the shortest vector
_CERTAIN = 0.2
# Natural logarithm of how much more probable the disks must be with a lattice than without
_EVIDENCE = 10.0
# The same of all patterns together, for a lattice that was chosen among many
_SHARED = 30.0
# Disks of any lattice lie partly on others, coarser and deformed: so many of a pattern lie on its own
_LEAST = 0.25
# Turned starts are tried where less than this share of the disks lies on the lattice; step in degrees
_SHARE, _TURN = 0.7, 5.0
#: Degrees of freedom that what is known from all patterns counts, for the size of errors
PRIOR_FREEDOM = 8.0
# Disks whose leverage is larger decide a direction alone
_LEVERAGE = 1 - 1e-6
# Scatter of disks about a lattice that is possible (shortest vectors)
_FINEST, _WIDEST = 1e-4, 0.08


class Disks(NamedTuple):
    """Disks of many patterns in one table, those of a pattern beside each other.

    ``k (n, 2)``: (kx, ky) in Å⁻¹; ``variance (n,)``: of each coordinate, in Å⁻², or relative where it is not known;
    ``owner (n,)``: index of the pattern, in rising order; ``n_patterns``.
    """

    k: np.ndarray
    variance: np.ndarray
    owner: np.ndarray
    n_patterns: int

    def of(self, patterns: np.ndarray) -> Disks:
        """Disks of some patterns (indices in rising order), which are counted anew."""
        number = np.full(self.n_patterns, -1)
        number[patterns] = np.arange(len(patterns))
        keep = number[self.owner] >= 0
        return Disks(self.k[keep], self.variance[keep], number[self.owner[keep]], len(patterns))

    @property
    def counts(self) -> np.ndarray:
        """Disks of each pattern."""
        return np.bincount(self.owner, minlength=self.n_patterns)


class Lattices(NamedTuple):
    """Lattices of patterns.

    ``parameters (p, 3, 2)``: two basis vectors and the origin as rows (kx, ky) in Å⁻¹; ``covariance (p, 3, 3)`` of the
    rows, the same for kx and ky, with the variances of the disks as they were given; ``n_disks (p,)`` on the lattice;
    ``chi2 (p,)``: reduced, of the distances and the variances; ``residual (p,)``: root mean square distance in Å⁻¹;
    ``evidence (p,)``: logarithm; ``accepted (p,)``.  Numbers are NaN, and `n_disks` 0, where there is no lattice.
    """

    parameters: np.ndarray
    covariance: np.ndarray
    n_disks: np.ndarray
    chi2: np.ndarray
    residual: np.ndarray
    evidence: np.ndarray
    accepted: np.ndarray

    @classmethod
    def none(cls, n: int) -> Lattices:
        """No lattices."""
        nan = np.full(n, np.nan)
        return cls(
            np.full((n, 3, 2), np.nan), np.full((n, 3, 3), np.nan), np.zeros(n, dtype=int), nan, nan.copy(),
            np.full(n, -np.inf), np.zeros(n, dtype=bool),
        )  # fmt: skip

    def put(self, where: np.ndarray, others: Lattices) -> None:
        """Write other lattices over those at `where`."""
        for mine, new in zip(self, others, strict=True):
            mine[where] = new


def reduced_basis(basis: np.ndarray) -> np.ndarray:
    """Find the shortest basis (2, 2) of a lattice (Lagrange and Gauss), right-handed, at 60 to 120 degrees."""
    a, b = np.asarray(basis, dtype=float)
    while True:
        if a @ a > b @ b:
            a, b = b, a
        steps = round(float(a @ b / (a @ a)))
        if steps == 0:
            break
        b = b - steps * a
    return np.stack([a, b if a[0] * b[1] > a[1] * b[0] else -b])


def fit_lattices(
    disks: Disks, start: np.ndarray, *, scale: float = 1.0, min_disks: int = 5, max_rotation: float = 0.0
) -> Lattices:
    """Fit the lattice of each pattern, from one that they share.

    Parameters
    ----------
    disks : Disks
        Of all patterns.
    start : array of shape (3, 2)
        Basis and origin as rows (kx, ky) in Å⁻¹: where the search begins.
    scale : float
        What standard deviations of the disks are multiplied with.
    min_disks : int
        On the lattice; with fewer there is none.
    max_rotation : float
        Lattices turned by up to so many degrees are tried, too, where the one that is not turned explains little.

    Returns
    -------
    Lattices
        Of each pattern, nearest to the basis that was given.
    """
    found = Lattices.none(disks.n_patterns)
    enough = np.flatnonzero(disks.counts >= min_disks)
    if not len(enough):
        return found
    some = disks.of(enough)
    best = _fit(some, start, scale, min_disks)
    turns = [sign * i * _TURN for i in range(1, int(max_rotation / _TURN + 1e-9) + 1) for sign in (1, -1)]
    poor = np.flatnonzero(~best.accepted | (best.n_disks < _SHARE * some.counts)) if turns else []
    if len(poor):
        rest = some.of(poor)
        tries = [best._make(each[poor] for each in best)]
        tries += [_fit(rest, _turned(start, turn), scale, min_disks) for turn in turns]
        values = np.stack([np.where(t.accepted, t.evidence, -np.inf) - 2.0 * (i > 0) for i, t in enumerate(tries)])
        choice = values.argmax(axis=0)
        for i in range(1, len(tries)):
            mine = np.flatnonzero(choice == i)
            best.put(poor[mine], Lattices._make(each[mine] for each in tries[i]))
    found.put(enough, best)
    return found


def _turned(start: np.ndarray, degrees: float) -> np.ndarray:
    """Lattice (3, 2) turned counterclockwise about its origin."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.concatenate([start[:2] @ np.array([[cos, sin], [-sin, cos]]), start[2:]])


def _indices(disks: Disks, parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find indices (n, 2) of the nearest lattice points, and distances (n, 2) from them in Å⁻¹."""
    owner = disks.owner
    inverse = np.linalg.inv(parameters[:, :2])[owner]
    away = disks.k - parameters[owner, 2]
    index = np.rint(away[:, :1] * inverse[:, 0] + away[:, 1:] * inverse[:, 1])
    return index, away - index[:, :1] * parameters[owner, 0] - index[:, 1:] * parameters[owner, 1]


def _share_on_lattice(disks: Disks, parameters, distance, variance, others) -> tuple[np.ndarray, np.ndarray]:
    """Probability (n,) of each disk to be on the lattice, and its density relative to one anywhere in the cell."""
    area = np.abs(np.linalg.det(parameters[:, :2]))[disks.owner]
    density = area / (2 * math.pi * variance) * np.exp(-0.5 * (distance**2).sum(axis=1) / variance)
    elsewhere = others[disks.owner]
    likelihood = (1 - elsewhere) * density + elsewhere
    return (1 - elsewhere) * density / likelihood, likelihood


class _Fit:
    """Lattices of patterns with some disks each, while they are improved."""

    def __init__(self, disks: Disks, start: np.ndarray, scale: float) -> None:
        basis = start[:2]
        self.disks, self.p = disks, disks.n_patterns
        self.starts = np.flatnonzero(np.diff(disks.owner, prepend=-1))
        self.variance = disks.variance * scale**2
        self.spacing = float(np.linalg.norm(reduced_basis(basis)[0]))
        self.prior = np.zeros((3, 3))
        self.prior[:2, :2] = _STRAIN**2 * basis @ basis.T
        self.prior[2, 2] = (_ORIGIN * self.spacing) ** 2
        self.first = start
        self.parameters = np.repeat(self.first[None], self.p, axis=0)
        self.covariance = np.repeat(self.prior[None], self.p, axis=0)
        self.others = np.full(self.p, 0.2)

    def sums(self, columns: np.ndarray) -> np.ndarray:
        """Add up over the disks of each pattern, (p, ...)."""
        return np.add.reduceat(columns, self.starts, axis=0)

    def predicted(self, covariance: np.ndarray) -> np.ndarray:
        """Variance (n,) of the places of lattice points, of covariances (p, 3, 3)."""
        c, (h, k) = covariance[self.disks.owner], self.index.T
        mixed = h * k * c[:, 0, 1] + h * c[:, 0, 2] + k * c[:, 1, 2]
        return h * h * c[:, 0, 0] + k * k * c[:, 1, 1] + c[:, 2, 2] + 2 * mixed

    def look(self, further: float) -> np.ndarray:
        """Find indices of the disks, distances from the lattice, and the probability to be on it.

        Returns variances (n,), with a further uncertainty (Å⁻¹).
        """
        variance = self.variance + further**2
        self.index, self.distance = _indices(self.disks, self.parameters)
        self.on, self.likelihood = _share_on_lattice(
            self.disks, self.parameters, self.distance, variance, self.others
        )
        return variance

    def improve(self, further: float, prior: float) -> None:
        """Take a step; `further` in Å⁻¹, `prior` is the weight of what was known before."""
        variance = self.look(further)
        certain = self.predicted(self.covariance) < (_CERTAIN * self.spacing) ** 2
        weight = self.on * certain / variance
        h, k = self.index.T
        wh, wk, (wx, wy) = weight * h, weight * k, weight * self.distance.T
        columns = [wh * h, wh * k, wh, wk * k, wk, weight, wx * h, wy * h, wx * k, wy * k, wx, wy, self.on]
        s = self.sums(np.stack(columns, axis=1))
        known = prior * np.linalg.inv(self.prior)
        information = s[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3) + known
        # where disks lie on a line, rounding must not make it singular
        information *= 1 + 1e-10 * np.eye(3)
        right = s[:, 6:12].reshape(-1, 3, 2) + known @ (self.first - self.parameters)
        self.covariance, self.information = np.linalg.inv(information), information
        self.parameters = self.parameters + self.covariance @ right
        n = self.disks.counts
        self.others = np.clip((n - s[:, 12] + 0.5) / (n + 2), 0.01, 0.99)


def _fit(disks: Disks, start: np.ndarray, scale: float, min_disks: int) -> Lattices:
    """Fit lattices from one start; each pattern has disks."""
    fit = _Fit(disks, np.asarray(start, dtype=float), scale)
    for i, further in enumerate(_SEARCH):
        fit.improve(further * fit.spacing, 1.0 if i < len(_SEARCH) - 2 else _FORGOTTEN)
    for _ in range(_STEPS):
        fit.improve(0.0, _FORGOTTEN)
    fit.look(0.0)
    on = fit.on > 0.5
    square = (fit.distance**2).sum(axis=1) * on
    n = fit.sums(on.astype(int))
    with np.errstate(divide="ignore", invalid="ignore"):
        chi2 = np.where(n > 3, fit.sums(square / disks.variance) / (2 * n - 6), np.nan)
        residual = np.sqrt(fit.sums(square) / n)
        # two coordinates, each half the logarithm of how much narrower the parameters have become
        narrower = np.linalg.slogdet(np.eye(3) + fit.prior @ fit.information)[1]
        evidence = fit.sums(np.log(fit.likelihood)) - narrower
    stretch = np.linalg.svd(np.linalg.inv(start[:2]) @ fit.parameters[:, :2], compute_uv=False)
    near = (np.abs(np.log(np.maximum(stretch, 1e-9))) < _LARGEST).all(axis=1)
    enough = (n >= min_disks) & (n >= _LEAST * disks.counts)
    accepted = enough & (evidence > _EVIDENCE) & near & _determined(fit, on)
    return Lattices(fit.parameters, fit.covariance / scale**2, n, chi2, residual, evidence, accepted)


def _determined(fit: _Fit, on: np.ndarray) -> np.ndarray:
    """Whether the disks on each lattice determine it, even without any one of them."""
    h, k = (fit.index * on[:, None]).T
    s = fit.sums(np.stack([h * h, h * k, h, k * k, k, on], 1).astype(float))
    information = s[:, [0, 1, 2, 1, 3, 4, 2, 4, 5]].reshape(-1, 3, 3)
    regular = np.linalg.det(information) > 0.5  # of whole numbers
    information[~regular] = np.eye(3)
    leverage = fit.predicted(np.linalg.inv(information)) * on
    return regular & (np.maximum.reduceat(leverage, fit.starts) < _LEVERAGE)


def nearest_points(disks: Disks, parameters: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Find the lattice points that disks belong to.

    Parameters
    ----------
    disks : Disks
        Of all patterns.
    parameters : array of shape (p, 3, 2)
        Bases and origins of their lattices; NaN where there is none.
    scale : float
        As in :func:`fit_lattices`.

    Returns
    -------
    index : array of int, shape (n, 2)
        Of the nearest lattice point.
    on : array of bool, shape (n,)
        Whether the disk lies on it, rather than anywhere.
    """
    there = np.isfinite(parameters).all(axis=(1, 2))
    every = np.where(there[:, None, None], parameters, np.eye(3, 2))
    index, distance = _indices(disks, every)
    others = np.where(there, _ELSEWHERE, 1.0)
    on = _share_on_lattice(disks, every, distance, disks.variance * scale**2, others)[0] > 0.5
    return index.astype(int), on


# ---------------------------------------------------------------- the lattice that patterns share
# Patterns that are looked at, disks of each of which differences are made (those nearest to the beam), the differences
# that occur most, of which bases are made, and the lattices that are proposed most
_SAMPLE, _NEAREST, _MOST, _PROPOSED = 48, 24, 16, 6
# What counts as near a lattice point (of the distance of neighbours), and what share of disks may be elsewhere
_NEAR, _ELSEWHERE = 0.06, 0.2
# Relative error of such a basis
_INEXACT = 0.02
# Two vectors of a basis enclose at least this angle (its sine)
_SINE = 0.25


def shared_lattice(disks: Disks, basis: np.ndarray | None = None) -> tuple[np.ndarray, float] | None:
    """Find the lattice that explains most disks of most patterns, and how far the disks are scattered about it.

    Parameters
    ----------
    disks : Disks
        Of all patterns.
    basis : array of shape (2, 2), optional
        Rows (kx, ky) in Å⁻¹, where it is known.

    Returns
    -------
    start : array of shape (3, 2)
        Basis and origin as rows (kx, ky) in Å⁻¹: the median over the patterns that have it.
    scale : float
        What standard deviations of the disks are to be multiplied with.

    None if no lattice explains any pattern better than disks anywhere.

    Notes
    -----
    Each of a sample of patterns with many disks proposes a lattice: of the differences of its disks the two of which
    make its disks most probable.  A lattice with fewer places is more probable than a finer one that explains the same
    disks.  The one wins that makes the disks of the whole sample most probable.
    """
    counts = disks.counts
    enough = np.flatnonzero(counts >= 5)
    if not len(enough):
        return None
    rich = enough[counts[enough] >= np.median(counts[enough])]
    # half of all of them: what has the most disks may be another crystal, or noise
    chosen = [each[np.linspace(0, len(each) - 1, _SAMPLE // 2).astype(int)] for each in (enough, rich)]
    sample = disks.of(np.unique(np.concatenate(chosen)))
    bases = [np.asarray(basis, dtype=float)] if basis is not None else _proposals(sample)
    best, most = None, _SHARED
    for each in bases:
        start = np.concatenate([each, _origin(sample, each)[None]])
        scale, found = _scatter(sample, start)
        total = found.evidence[found.accepted].sum()
        if total > most:
            best, most = (start, scale, found), total
    if best is None:
        return None
    start, scale, found = best
    if basis is None:
        start = np.median(found.parameters[found.accepted], axis=0)
        start[:2] = _upright(reduced_basis(start[:2]))
    return start, scale


def _origin(disks: Disks, basis: np.ndarray) -> np.ndarray:
    """Origin (2,) near to the beam of a lattice of which many inner disks are, by their phases in the cell."""
    inner = np.hypot(*disks.k.T) < 2.5 * np.linalg.norm(basis, axis=1).max()
    k = disks.k[inner] if inner.any() else disks.k
    phase = np.angle(np.exp(2j * math.pi * (k @ np.linalg.inv(basis))).sum(axis=0)) / (2 * math.pi)
    return phase @ basis


def _proposals(disks: Disks) -> list[np.ndarray]:
    """Bases that most patterns propose, each lattice once."""
    ends = np.cumsum(disks.counts)[:-1]
    bases, times = [], []
    for basis in filter(lambda each: each is not None, map(_proposal, np.split(disks.k, ends))):
        for i, other in enumerate(bases):
            between = basis @ np.linalg.inv(other)
            whole = np.rint(between)
            if np.abs(between - whole).max() < 0.1 and abs(round(np.linalg.det(whole))) == 1:
                times[i] += 1
                break
        else:
            bases.append(basis)
            times.append(1)
    return [bases[i] for i in np.argsort(times, kind="stable")[::-1][:_PROPOSED]]


def _proposal(k: np.ndarray) -> np.ndarray | None:
    """Basis (2, 2) that makes the disks (n, 2) of a pattern most probable."""
    k = k[np.argsort(np.hypot(*k.T), kind="stable")]
    apart = np.hypot(*(k[:, None] - k[None]).T)
    apart[np.diag_indices(len(k))] = np.inf
    near = np.median(apart.min(axis=0))
    differences = _frequent_differences(k[:_NEAREST], near)
    first, second = np.triu_indices(len(differences), 1)
    bases = np.stack([differences[first], differences[second]], axis=1)
    area = np.abs(np.linalg.det(bases))
    lengths = np.linalg.norm(bases, axis=2).prod(axis=1)
    bases, area = (each[area > _SINE * lengths] for each in (bases, area))
    if not len(bases):
        return None
    f = (k - k[0]) @ np.linalg.inv(bases)
    distance = (((f - np.rint(f)) @ bases) ** 2).sum(axis=2)
    variance = (_NEAR * near) ** 2 + ((k - k[0]) ** 2).sum(axis=1) * (_INEXACT**2)
    density = area[:, None] / (2 * math.pi * variance) * np.exp(-0.5 * distance / variance)
    likely = np.log((1 - _ELSEWHERE) * density + _ELSEWHERE).sum(axis=1)
    return reduced_basis(bases[likely.argmax()])


def _frequent_differences(k: np.ndarray, near: float) -> np.ndarray:
    """Differences (m, 2) of disks, each kind once, those first that occur most."""
    differences = (k[:, None] - k[None])[np.triu_indices(len(k), 1)]
    upper = (differences[:, 1] > 0) | ((differences[:, 1] == 0) & (differences[:, 0] > 0))
    differences[~upper] *= -1
    length = np.hypot(*differences.T)
    differences, length = (each[length > 0.5 * near] for each in (differences, length))
    away = [np.hypot(*(differences[:, None] - sign * differences[None]).T).T for sign in (1, -1)]
    sign = np.where(away[0] <= away[1], 1, -1)
    same = np.minimum(*away) < 2 * _NEAR * near
    chosen = []
    for i in np.lexsort([length, -same.sum(axis=0)]):
        if len(chosen) < _MOST and not same[i, chosen].any():
            chosen.append(i)
    return (same * sign)[chosen] @ differences / same[chosen].sum(axis=1, keepdims=True)


def _scatter(disks: Disks, start: np.ndarray) -> tuple[float, Lattices]:
    """Scale of the disks' standard deviations, and the lattices with it."""
    spacing = np.linalg.norm(reduced_basis(start[:2])[0])
    unit = spacing / math.sqrt(np.median(disks.variance))
    scale = _WIDEST * unit
    for _ in range(3):
        found = fit_lattices(disks, start, scale=scale, max_rotation=_TURN)
        if not found.accepted.any():
            break
        scale = unit * min(max(math.sqrt(np.median(found.chi2[found.accepted])) / unit, _FINEST), _WIDEST)
    return scale, found


def _upright(basis: np.ndarray) -> np.ndarray:
    """Turn to the basis of the same lattice whose first vector is nearest to kx."""
    choices = [basis, np.stack([basis[1], -basis[0]]), -basis, np.stack([-basis[1], basis[0]])]
    return max(choices, key=lambda each: each[0, 0] / np.linalg.norm(each[0]))
