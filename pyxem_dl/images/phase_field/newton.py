"""Gauss and Newton's steps through a differentiable solver, by conjugate gradients; errors by the same curvature."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from pyxem_dl.images.phase_field.problem import Known, Problem

# Damping of a step: at first, after a step that failed, after one that worked, and where the search gives up
_DAMPING, _HARDER, _EASIER, _HARDEST = 1e-2, 8.0, 0.2, 1e6
# Products with the curvature for a step, and for errors; the share of the right side that may be left
_INNER, _LAPLACE, _LEFT, _EXACT = 30, 25, 0.03, 0.05
# Steps for which a preconditioner is good
_RENEWED = 2
# Largest change of a logarithm in a step
_LONGEST = 0.8
# Products for one start field, steps to that of a series that is made, and the least share of a curvature that steers
_DRAWN, _AGAIN, _STEERS = 12, 2, 0.3
# A search ends where a step improves the misfit by less
_FLAT = 0.1


@dataclass
class Point:
    """Where a search is: parameters (n), white coordinates of the start field, and the misfit."""

    parameters: torch.Tensor
    white: torch.Tensor
    loss: float = math.inf


class Tangent:
    """The solver about a point: how grey values change with parameters and start field, and the other way.

    Parameters
    ----------
    problem : Problem
        With data.
    point : Point
        About which.
    known : Known
        Of the parameters before.
    frames : int
        From the first one on.
    """

    def __init__(self, problem: Problem, point: Point, known: Known, frames: int) -> None:
        expected, self._forward, self._transposed = problem.tangent(point.parameters, point.white, frames)
        self._slope, self.weight = problem.slope(expected)
        self._problem, self._point, self._known, self._frames = problem, point, known, frames
        self._about = problem.about(point.parameters, point.white, frames)

    @cached_property
    def _slopes(self) -> torch.Tensor:
        return self._problem.slopes(self._point.parameters, self._point.white, self._frames)

    @cached_property
    def gradient(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the whole misfit, by parameters and start field."""
        p = torch.einsum("itxy,txy->i", self._slopes, self._slope)
        return p + self._known.slope(self._point.parameters), self.own_gradient

    @cached_property
    def own_gradient(self) -> torch.Tensor:
        """That by the start field."""
        return self._transposed(self._slope) + self._point.white

    def forward(self, parameters: torch.Tensor, white: torch.Tensor) -> torch.Tensor:
        """Change of the grey values."""
        return torch.einsum("i,itxy->txy", parameters, self._slopes) + self._forward(white)

    def transposed(self, changes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Product of changes with the transposed tangent."""
        return torch.einsum("itxy,txy->i", self._slopes, changes), self._transposed(changes)

    def curvature(self, parameters: torch.Tensor, white: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Product with the curvature, that of what is known before included."""
        p, w = self.transposed(self.weight * self.forward(parameters, white))
        return p + (self._known.information @ parameters.double()).float(), w + white

    def own(self, white: torch.Tensor) -> torch.Tensor:
        """Product with the curvature of the start field alone."""
        return self._transposed(self.weight * self._forward(white)) + white

    def smoothed(self, parameters: torch.Tensor, white: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """About the solution of the start field's curvature for a right side; nothing for the parameters."""
        solved = torch.fft.irfft2(torch.fft.rfft2(white) / self._about, s=white.shape)
        return torch.zeros_like(parameters), solved

    def columns(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Curvature's columns of the parameters: (n, n), and (n, rows, columns) of the start field."""
        pushed = self.weight * self._slopes
        block = torch.einsum("itxy,jtxy->ij", self._slopes.double(), pushed.double()) + self._known.information
        return block, torch.stack([self._transposed(each) for each in pushed])


class Preconditioner:
    """What solves the curvature about: start fields follow the parameters as they would by themselves.

    Parameters
    ----------
    tangent : Tangent
        About a point.
    before : Preconditioner, optional
        About a point nearby, whose answer is refined.
    most : int
        Products with the curvature for each parameter.
    """

    def __init__(self, tangent: Tangent, before: Preconditioner | None = None, most: int = _LAPLACE) -> None:
        block, columns = tangent.columns()
        zero = torch.zeros(len(block), device=columns.device)
        self._smoothed = tangent.smoothed
        follow = []
        for i, column in enumerate(columns):
            begin = None if before is None else (zero, before.follow[i])
            found = conjugate_gradients(
                lambda p, w: (zero, tangent.own(w)), (zero, column), tangent.smoothed, most, _EXACT,
                begin,
            )  # fmt: skip
            follow.append(found[1])
        #: (n, rows, columns): of the start field, for each parameter
        self.follow = torch.stack(follow)
        # of second order in what is left of the solutions
        crossed = torch.einsum("ixy,jxy->ij", columns.double(), self.follow.double())
        bent = torch.stack([tangent.own(each) for each in self.follow]).double()
        #: (n, n): one over the covariance of the parameters, whatever the start field
        self.schur = block - crossed - crossed.T + torch.einsum("ixy,jxy->ij", self.follow.double(), bent)
        self.inverse = torch.linalg.inv(self.schur + 1e-9 * torch.diag(self.schur.diagonal()))

    def __call__(self, p: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """About the solution of the curvature for a right side."""
        own = p.double() - torch.einsum("ixy,xy->i", self.follow.double(), w.double())
        parameters = (self.inverse @ own).float()
        return parameters, self._smoothed(p, w)[1] - torch.einsum("i,ixy->xy", parameters, self.follow)


def search(
    problem: Problem, point: Point, known: Known, frames: int, steps: int, on_step: Callable | None = None,
    about: Preconditioner | None = None,
) -> tuple[Point, Preconditioner]:  # fmt: skip
    """Improve a point until it is flat.

    Parameters
    ----------
    problem : Problem
        With data.
    point : Point
        Where to begin.
    known : Known
        Of the parameters before.
    frames : int
        That are compared, from the first one on.
    steps : int
        At most.
    on_step : callable, optional
        Called with each point; where it returns False, the search ends.
    about : Preconditioner, optional
        About a point nearby.
    """
    damping = _DAMPING
    point = Point(point.parameters, point.white, problem.whole(point.parameters, point.white, known, frames))
    for i in range(steps):
        tangent = Tangent(problem, point, known, frames)
        if i % _RENEWED == 0:
            about = Preconditioner(tangent, about)
        found = None
        while found is None and damping < _HARDEST:
            change = _limited(_solve(tangent, about, damping))
            trial = Point(point.parameters + change[0], point.white + change[1])
            trial.loss = problem.whole(trial.parameters, trial.white, known, frames)
            if trial.loss < point.loss:
                found, damping = trial, damping * _EASIER
            else:
                damping *= _HARDER
        del tangent
        if found is None:
            break
        gain, point = point.loss - found.loss, found
        if (on_step is not None and on_step(point) is False) or gain < _FLAT:
            break
    return point, about


def _limited(change):
    """Step in which no logarithm of a parameter changes by more than is allowed."""
    share = min(1.0, _LONGEST / max(float(change[0].abs().max()), 1e-12))
    return tuple(share * each for each in change)


def _solve(tangent: Tangent, before: Preconditioner, damping: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Damped step by conjugate gradients."""
    scale = (damping * before.schur.diagonal()).clamp(min=0).float()

    def product(p, w):
        a, b = tangent.curvature(p, w)
        return a + scale * p, b + damping * w

    p, w = tangent.gradient
    return conjugate_gradients(product, (-p, -w), before, _INNER, _LEFT)


def conjugate_gradients(product: Callable, right, precondition: Callable, most: int, left: float, begin=None):
    """Solve a positive system of (parameters, start field); `left` is the share of the right side that may be left."""
    goal = left**2 * _dot(right, precondition(*right))
    x = tuple(torch.zeros_like(each) for each in right)
    r = right
    if begin is not None:
        x, r = begin, tuple(a - b for a, b in zip(right, product(*begin), strict=True))
    z = precondition(*r)
    d, rz = z, _dot(r, z)
    for _ in range(most):
        if not rz > goal:
            break
        q = product(*d)
        length = rz / _dot(d, q)
        x = tuple(a + length * b for a, b in zip(x, d, strict=True))
        r = tuple(a - length * b for a, b in zip(r, q, strict=True))
        z = precondition(*r)
        new = _dot(r, z)
        d = tuple(a + (new / rz) * b for a, b in zip(z, d, strict=True))
        rz = new
    return x


def _dot(a, b) -> float:
    return float(sum((x.double() * y.double()).sum() for x, y in zip(a, b, strict=True)))


class Echo:
    """Series that are made of a point, with noise: what a search finds in them, and not in the point, is its bias.

    Start fields take noise for their own, the more so the slower they are forgotten, and are held to be smooth: in a
    series that is made of known parameters, the misfit of the best start field has its least value elsewhere.

    Parameters
    ----------
    problem : Problem
        With data.
    known : Known
        Of the parameters before.
    frames : int
        From the first one on.
    pairs : int
        Of series, whose noise differs in sign alone: what is linear in it cancels.
    seed : int
        Of the noise, which is the same about all points.
    """

    def __init__(self, problem: Problem, known: Known, frames: int, pairs: int, seed: int = 0) -> None:
        self._problem, self._known, self._frames, self._pairs, self._seed = problem, known, frames, pairs, seed
        self._moved = {}

    def slope(self, point: Point, about: Preconditioner) -> torch.Tensor:
        """Mean slope (n) of the misfit by the parameters, where it should be none."""
        expected, scatter = self._seen(point)
        generator = torch.Generator().manual_seed(self._seed)
        total = torch.zeros(len(point.parameters), dtype=torch.float64, device=expected.device)
        for i in range(self._pairs):
            noise = scatter * torch.randn(scatter.shape, generator=generator).to(scatter.device)
            for side in (1, -1):
                made = self._problem.with_seen(expected + side * noise)
                total += _slope_at(made, self._fitted(made, point, (i, side)), about, self._frames)
        return total / (2 * self._pairs)

    def information(self, point: Point, about: Preconditioner) -> torch.Tensor:
        """One over the covariance (n, n) of parameters whose slope is that of the noise.

        Noise makes fields rough, and rough fields seem to tell more: what noise adds to the curvature in a series that
        is made of the point, it has added in the data, too.  The slope scatters by this curvature, but steers by less.
        """
        made = self._problem.with_seen(self._noisy(point))
        again = Preconditioner(Tangent(made, self._fitted(made, point, None), self._known, self._frames), about)
        root, failed = torch.linalg.cholesky_ex(about.schur)
        if int(failed):
            return about.schur
        added = torch.linalg.solve_triangular(root, again.schur - about.schur, upper=False)
        added = torch.linalg.solve_triangular(root, added.T, upper=False)
        values, vectors = torch.linalg.eigh((added + added.T) / 2)
        steers = (1 - values).clamp(_STEERS, 1)
        return root @ (vectors * steers**2) @ vectors.T @ root.T

    def _noisy(self, point: Point) -> torch.Tensor:
        """Grey values of a series that is made of the point."""
        expected, scatter = self._seen(point)
        generator = torch.Generator().manual_seed(self._seed + 1)
        return expected + scatter * torch.randn(scatter.shape, generator=generator).to(scatter.device)

    def _seen(self, point: Point) -> tuple[torch.Tensor, torch.Tensor]:
        """Grey values of the point without noise, and its standard deviation; 0 where nothing is looked at."""
        with torch.no_grad():
            expected = self._problem.expected(point.parameters, point.white, self._frames)
        weight = self._problem.slope(expected)[1]
        return expected, torch.where(weight > 0, weight, torch.inf).rsqrt()

    def _fitted(self, made: Problem, point: Point, which: tuple[int, int] | None) -> Point:
        """Point with the best start field of a series, which begins where it was about the last point."""
        again = Point(point.parameters, point.white + self._moved.get(which, 0.0))
        for _ in range(1 if which in self._moved else _AGAIN):
            tangent = Tangent(made, again, self._known, self._frames)
            again = Point(again.parameters, again.white + _follow(tangent, -tangent.own_gradient))
        self._moved[which] = again.white - point.white
        return again


def _slope_at(problem: Problem, point: Point, about: Preconditioner, frames: int) -> torch.Tensor:
    """Slope (n) of the misfit by the parameters while the start field follows."""
    inputs = [point.parameters.clone().requires_grad_(), point.white.clone().requires_grad_()]
    p, w = torch.autograd.grad(problem.loss(problem.expected(*inputs, frames)), inputs)
    return p.double() - torch.einsum("ixy,xy->i", about.follow.double(), (w + point.white).double())


def settle(problem: Problem, point: Point, known: Known, frames: int, steps: int) -> Point:
    """Improve the start field alone."""
    for _ in range(steps):
        point.loss = problem.whole(point.parameters, point.white, known, frames)
        tangent = Tangent(problem, point, known, frames)
        step = _follow(tangent, -tangent.own_gradient)
        del tangent
        for share in (1.0, 0.3):
            trial = Point(point.parameters, point.white + share * step)
            trial.loss = problem.whole(trial.parameters, trial.white, known, frames)
            if trial.loss < point.loss:
                break
        else:
            break
        gain, point = point.loss - trial.loss, trial
        if gain < _FLAT:
            break
    return point


def _follow(tangent: Tangent, right: torch.Tensor) -> torch.Tensor:
    """Start field that solves the curvature alone."""
    zero = right.new_zeros(1)
    return conjugate_gradients(
        lambda p, w: (zero, tangent.own(w)), (zero, right), tangent.smoothed, _DRAWN, _EXACT
    )[1]
