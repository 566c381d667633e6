"""Gauss and Newton's steps through a differentiable solver, by conjugate gradients; errors by the same curvature."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from pyxem_dl.images.phase_field.problem import Known, Problem

# Damping of a step: at first, after a step that failed, after one that worked, and where the search gives up
_DAMPING, _HARDER, _EASIER, _HARDEST = 1e-2, 8.0, 0.2, 1e6
# Products with the curvature for a step, and for errors; the share of the right side that may be left
_INNER, _LAPLACE, _LEFT, _EXACT = 20, 25, 0.05, 0.05
# Steps for which a preconditioner is good
_RENEWED = 4
# Largest change of a logarithm in a step
_LONGEST = 0.8
# Share of a step where its curvature has been refined, and standard deviations of a last step
_CAREFUL, _CLOSE = 0.8, 0.3
# Products for a refined preconditioner, and for one start field; length of a step along one that is drawn
_REFINED, _DRAWN, _SHORT = 8, 12, 0.1
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
        self._inputs = [point.parameters.clone().requires_grad_(), point.white.clone().requires_grad_()]
        self._expected = problem.expected(*self._inputs, frames)
        slope, self.weight = problem.slope(self._expected.detach())
        self._changes = torch.zeros_like(self._expected, requires_grad=True)
        # linear in the changes, so that its derivative by them is the tangent itself
        self._back = torch.autograd.grad(self._expected, self._inputs, self._changes, create_graph=True)
        self._known = known
        self._about = problem.about(point.parameters, frames)
        p, w = self.transposed(slope)
        self.gradient = p + known.slope(point.parameters), w + point.white

    def forward(self, parameters: torch.Tensor, white: torch.Tensor) -> torch.Tensor:
        """Change of the grey values."""
        return torch.autograd.grad(self._back, self._changes, (parameters, white), retain_graph=True)[0]

    def transposed(self, changes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Product of changes with the transposed tangent."""
        return torch.autograd.grad(self._expected, self._inputs, changes, retain_graph=True)

    def curvature(self, parameters: torch.Tensor, white: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Product with the curvature, that of what is known before included."""
        p, w = self.transposed(self.weight * self.forward(parameters, white))
        return p + (self._known.information @ parameters.double()).float(), w + white

    def smoothed(self, parameters: torch.Tensor, white: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """About the solution of the start field's curvature for a right side; nothing for the parameters."""
        solved = torch.fft.irfft2(torch.fft.rfft2(white) / self._about, s=white.shape)
        return torch.zeros_like(parameters), solved

    def noise(self, generator: torch.Generator) -> torch.Tensor:
        """Right side (rows, columns) whose solution is as far from the best start field as other likely ones are."""
        one, two = (torch.randn(x.shape, generator=generator).to(x.device) for x in (self.weight, self._inputs[1]))
        return self.transposed(self.weight.sqrt() * one)[1] + two

    def columns(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Curvature's columns of the parameters: (n, n), and (n, rows, columns) of the start field."""
        zero = torch.zeros_like(self._inputs[1])
        found = [self.curvature(each, zero) for each in torch.eye(len(self._inputs[0]), device=zero.device)]
        return torch.stack([p for p, _ in found]), torch.stack([w for _, w in found])


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
        zero = torch.zeros(len(block), device=block.device)
        self._smoothed = tangent.smoothed
        follow = []
        for i, column in enumerate(columns):
            begin = None if before is None else (zero, before.follow[i])
            found = conjugate_gradients(
                lambda p, w: (zero, tangent.curvature(zero, w)[1]), (zero, column), tangent.smoothed, most, _EXACT,
                begin,
            )  # fmt: skip
            follow.append(found[1])
        #: (n, rows, columns): of the start field, for each parameter
        self.follow = torch.stack(follow)
        # of second order in what is left of the solutions
        crossed = torch.einsum("ixy,jxy->ij", columns.double(), self.follow.double())
        bent = torch.stack([tangent.curvature(zero, each)[1] for each in self.follow]).double()
        #: (n, n): one over the covariance of the parameters, whatever the start field
        self.schur = block.double() - crossed - crossed.T + torch.einsum("ixy,jxy->ij", self.follow.double(), bent)
        self.inverse = torch.linalg.inv(self.schur + 1e-9 * torch.diag(self.schur.diagonal()))

    def __call__(self, p: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """About the solution of the curvature for a right side."""
        own = p.double() - torch.einsum("ixy,xy->i", self.follow.double(), w.double())
        parameters = (self.inverse @ own).float()
        return parameters, self._smoothed(p, w)[1] - torch.einsum("i,ixy->xy", parameters, self.follow)


def search(
    problem: Problem, point: Point, known: Known, frames: int, steps: int, on_step: Callable | None = None
) -> tuple[Point, Preconditioner]:
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
    """
    damping, about = _DAMPING, None
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


def average_out(
    problem: Problem, point: Point, known: Known, before: Preconditioner, frames: int, rounds: int, draws: int = 4,
    on_step: Callable | None = None, seed: int = 0,
) -> tuple[Point, Preconditioner]:  # fmt: skip
    """Move parameters from the best pair with a start field to what is likeliest for all start fields together.

    The pair that fits best takes noise for the start field, the more so the slower fields move: the diffusivity comes
    out too small.  By Laplace's approximation the likelihood of the parameters alone has half of the logarithm of the
    curvature's determinant more; its slope is the mean slope of the curvature along start fields that are drawn as
    likely as they are, each by one solution of the curvature with noise as its right side.
    """
    for turn in range(rounds):
        tangent = Tangent(problem, point, known, frames)
        before = Preconditioner(tangent, before, _REFINED)
        white = point.white + _follow(tangent, -tangent.gradient[1])
        slope = tangent.gradient[0].double()
        # of the best start field's own step, which the slope does not know yet
        slope += tangent.curvature(torch.zeros_like(point.parameters), white - point.white)[0].double()
        generator = torch.Generator().manual_seed(seed)
        drawn = [_follow(tangent, tangent.noise(generator)) for _ in range(draws)]
        weight = tangent.weight
        del tangent
        for each in drawn:
            own, through = _bending(problem, point.parameters, white, each, weight, frames)
            follows = torch.einsum("ixy,xy->i", before.follow.double(), through.double())
            slope += (own.double() - follows) / draws
        share = 1.0 if turn == 0 else _CAREFUL
        step = _limited((-share * (before.inverse @ slope).float(), white))[0]
        point = Point(point.parameters + step, white - torch.einsum("i,ixy->xy", step, before.follow))
        point.loss = problem.whole(point.parameters, point.white, known, frames)
        if on_step is not None and on_step(point) is False:
            break
        if float(step.double() @ before.schur @ step.double()) < _CLOSE**2:
            break
    return point, before


def _bending(problem: Problem, parameters, white, drawn, weight, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Slope, by parameters and by the start field, of half of the curvature along a direction."""
    inputs = [parameters.clone().requires_grad_(), white.clone().requires_grad_()]
    ends = [problem.expected(inputs[0], inputs[1] + side * _SHORT * drawn, frames) for side in (1, -1)]
    change = (ends[0] - ends[1]) / (2 * _SHORT)
    return torch.autograd.grad((weight * change * change).sum() / 2, inputs)


def settle(problem: Problem, point: Point, known: Known, frames: int, steps: int) -> Point:
    """Improve the start field alone."""
    for _ in range(steps):
        point.loss = problem.whole(point.parameters, point.white, known, frames)
        tangent = Tangent(problem, point, known, frames)
        step = _follow(tangent, -tangent.gradient[1])
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
    zero = torch.zeros_like(tangent.gradient[0])
    return conjugate_gradients(
        lambda p, w: (zero, tangent.curvature(zero, w)[1]), (zero, right), tangent.smoothed, _DRAWN, _EXACT
    )[1]
