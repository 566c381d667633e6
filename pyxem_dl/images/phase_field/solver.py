"""The engine "solver": an equation is solved from a start field, both are fitted to the grey values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from pyxem_dl.images.phase_field.blocks import Block, Fitted, blocks_of
from pyxem_dl.images.phase_field.equations import Equation
from pyxem_dl.images.phase_field.newton import Echo, Point, Preconditioner, search, settle
from pyxem_dl.images.phase_field.problem import DRIFT, Coordinates, Known, Prior, Problem
from pyxem_dl.images.phase_field.start import Guess, Series, start_field

# Pixels around the image at least; frames from which a start field is guessed
_MARGIN, _FIRST = 12, 4
# Steps to the best pair of parameters and start field, more of them to choose an equation, and for start fields alone
_STEPS, _CHOICE, _SETTLE = 4, 8, 3
# Rounds in which the slope of noise is measured, steps of each, pairs of series that are made, the change to end them
# (standard deviations), and how many times a step is added at most
_ROUNDS, _MORE, _PAIRS, _CLOSE, _FURTHEST = 8, 3, 3, 0.15, 1.0
# Standard deviation of the logarithm of the diffusivity while the first start field is looked for
_HELD = 0.15
# Interfaces for which start fields are as smooth as theirs (px), and the change of one for which they are made again
_SHORTEST, _LONGEST, _OTHER = 1.5, 8.0, 0.15
# Standard deviation of a coordinate about where the search begins
_BEFORE = 2.0


class Interrupted(Exception):
    """Somebody stops the search."""


@dataclass
class Search:
    """What an engine has found.

    Parameters
    ----------
    values, errors : dict of str to float
        Parameters in px and frames.
    fitted : callable
        Gives grey values of (first, last) frames.
    chunks : tuple of int
        Frames that are computed together.
    interrupted : bool
        Whether it was stopped.
    """

    values: dict[str, float]
    errors: dict[str, float]
    fitted: Fitted
    chunks: tuple[int, ...]
    interrupted: bool = False


@dataclass
class SolverEngine:
    """Fits the start fields of all blocks, and the parameters that they share.

    Parameters
    ----------
    equation : Equation
        Which.
    guess : Guess
        Of levels and noise.
    drift : bool
        Whether the picture drifts.
    device : torch.device
        Where.
    on_step : callable
        Called with (share that is done, values); returns False to stop.
    held_out : array of bool, optional
        Frames that are not looked at.
    """

    equation: Equation
    guess: Guess
    drift: bool
    device: torch.device
    on_step: Callable
    held_out: np.ndarray | None = None
    _points: list = field(default_factory=list)

    def run(self, series: Series) -> Search:
        """Fit a series."""
        frames = series.shape[0]
        self._blocks = blocks_of(frames)
        self._shape = series.shape[1:]
        self._pads = tuple(_pads(n) for n in self._shape)
        coordinates = Coordinates(self.equation, self.guess.noise, self.drift)
        mean = coordinates.pack(self._begin()).to(self.device)
        known = Known(mean, torch.eye(len(mean), dtype=torch.float64, device=self.device) / _BEFORE**2)
        parameters, self._whites, self._done, interrupted = mean, [], 0, False
        self._length = self.equation.begin["interface_length"]
        try:
            for block in self._blocks:
                parameters, known = self._fit(series, block, coordinates, parameters, known)
            if len(self._blocks) > 1:
                self._settle(series, coordinates, parameters, known)
        except (KeyboardInterrupt, Interrupted):
            if not self._points:
                raise KeyboardInterrupt("Stopped before anything was found.") from None
            interrupted, parameters = True, self._points[-1].parameters
            for block in self._blocks[len(self._whites) :]:
                self._whites.append(self._first(self._problem(series, block, coordinates)))
        return self._found(coordinates, parameters, known, interrupted)

    def _begin(self) -> dict[str, float]:
        more = dict.fromkeys(DRIFT, 0.0) if self.drift else {}
        return {
            **self.equation.begin, "background": self.guess.background, "contrast": self.guess.contrast, **more,
        }  # fmt: skip

    def _problem(self, series: Series, block: Block, coordinates) -> Problem:
        seen = torch.from_numpy(series.read(slice(block.first, block.last))).to(self.device)
        weights = torch.from_numpy(self._weights(block)).to(self.device)
        prior, margin = self._prior(), tuple(a for a, _ in self._pads)
        return Problem(seen, weights, coordinates, prior, margin, self._begin())

    def _prior(self) -> Prior:
        whole = tuple(a + n + b for (a, b), n in zip(self._pads, self._shape, strict=True))
        spread, length = self.equation.smooth
        return Prior(whole, self.equation.most, spread, length * self._length, self.device)

    def _weights(self, block: Block) -> np.ndarray:
        weights = np.array(block.weights, np.float32)
        return weights if self.held_out is None else weights * ~self.held_out[block.first : block.last]

    def _first(self, problem: Problem) -> torch.Tensor:
        """White coordinates of a first guess of the start field."""
        used = problem.seen[problem.weights > 0][:_FIRST].cpu().numpy()
        field = torch.from_numpy(start_field(used, self.guess, self._pads)).to(self.device)
        with torch.no_grad():
            return problem.prior.white(field)

    def _fit(self, series, block: Block, coordinates, parameters, known) -> tuple[torch.Tensor, Known]:
        """Parameters with what a block tells of them, and how well they are known then."""
        problem, n = self._problem(series, block, coordinates), block.last - block.first
        point = Point(parameters, self._first(problem))

        def on_step(point: Point) -> bool:
            self._points.append(point)
            self._done += 1
            passes = len(self._blocks) * (_STEPS + _ROUNDS * _MORE)
            values = {name: float(v) for name, v in coordinates.unpack(point.parameters).items()}
            if self.on_step(min(1.0, self._done / passes), values) is False:
                raise Interrupted
            return True

        try:
            point, about = self._begun(problem, point, self._held(known, coordinates), n, on_step)
            if self.held_out is None:
                point, information = self._balanced(problem, point, about, known, n, on_step)
            else:
                # the best pair tells other frames well enough to choose an equation
                point, about = search(problem, point, known, n, _CHOICE, on_step, about)
                information = about.schur
        finally:
            self._whites.append((self._points[-1] if self._points else point).white)
            self._done = (self._blocks.index(block) + 1) * (_STEPS + _ROUNDS * _MORE)
        return point.parameters, Known(point.parameters, information)

    def _begun(
        self, problem: Problem, point: Point, held: Known, frames: int, on_step: Callable
    ) -> tuple[Point, Preconditioner]:
        """Search until the start field is near, as smooth as the interface that was found asks."""
        point, about = search(problem, point, held, frames, _STEPS, on_step)
        if self._other_length(float(problem.coordinates.unpack(point.parameters)["interface_length"])):
            field, problem.prior = problem.prior.field(point.white), self._prior()
            point = Point(point.parameters, problem.prior.white(field))
            self._points.append(point)
            point, about = search(problem, point, held, frames, _STEPS, on_step)
        return point, about

    def _other_length(self, found: float) -> bool:
        """Take the length of the interface, where it is another one than that for which start fields are smooth."""
        found = min(max(found, _SHORTEST), _LONGEST)
        if self._whites or abs(math.log(found / self._length)) < _OTHER:
            return False
        self._length = found
        return True

    @staticmethod
    def _held(known: Known, coordinates: Coordinates) -> Known:
        """Hold the diffusivity: start fields that are far off yet would make it too small."""
        information = known.information.clone()
        i = coordinates.names.index("diffusivity")
        information[i, i] = max(float(information[i, i]), 1 / _HELD**2)
        return Known(known.mean, information)

    @staticmethod
    def _balanced(
        problem: Problem, point: Point, about: Preconditioner, known: Known, frames: int, on_step: Callable
    ) -> tuple[Point, torch.Tensor]:
        """Move to where the slope of the misfit is what it is in series that are made of the point itself.

        Returns the point, and one over the covariance of its parameters.
        """
        last, echo = None, Echo(problem, known, frames, _PAIRS)
        for left in reversed(range(_ROUNDS)):
            begin, tilted = point.parameters, Known(known.mean, known.information, echo.slope(point, about))
            point, about = search(problem, point, tilted, frames, _MORE, on_step, about)
            step = (point.parameters - begin).double()
            if float(step @ about.schur @ step) < _CLOSE**2:
                break
            if last is not None and left:
                further = (_further(step, last, about.schur) * step).float()
                white = point.white - torch.einsum("i,ixy->xy", further, about.follow)
                point = Point(point.parameters + further, white)
            last = step
        return point, echo.information(point, about)

    def _settle(self, series, coordinates, parameters, known) -> None:
        """Fit the start fields to the parameters of all blocks."""
        values = {name: float(v) for name, v in coordinates.unpack(parameters).items()}
        for i, block in enumerate(self._blocks):
            problem, point = self._problem(series, block, coordinates), Point(parameters, self._whites[i])
            self._whites[i] = settle(problem, point, known, block.last - block.first, _SETTLE).white
            if self.on_step(1.0, values) is False:
                raise Interrupted

    def _found(self, coordinates, parameters, known: Known, interrupted: bool) -> Search:
        inputs = parameters.detach().double().cpu()
        covariance = torch.linalg.inv(known.information.cpu())
        jacobian = torch.autograd.functional.jacobian(
            lambda x: torch.stack(list(coordinates.unpack(x).values())), inputs
        )
        errors = (jacobian @ covariance @ jacobian.T).diagonal().clamp(min=0).sqrt()
        values = {name: float(v) for name, v in coordinates.unpack(inputs).items()}
        prior = self._prior()
        found, begin = coordinates.unpack(parameters.detach()), self._begin()
        starts = [self.equation.start(prior.field(white), found, begin).cpu().numpy() for white in self._whites]
        errors = {name: math.inf if interrupted else float(e) for name, e in zip(values, errors, strict=True)}
        inside = tuple(slice(a, s - b) for (a, b), s in zip(self._pads, starts[0].shape, strict=True))
        fitted = Fitted(self.equation, values, self._blocks, starts, inside)
        return Search(values, errors, fitted, fitted.chunks(), interrupted)


def _further(step: torch.Tensor, last: torch.Tensor, metric: torch.Tensor) -> float:
    """How many times a step is to be added, if steps go on getting shorter as the last one did."""
    ratio = float(step @ metric @ last) / float(last @ metric @ last)
    return min(ratio / (1 - ratio), _FURTHEST) if ratio < 1 else _FURTHEST


def _pads(size: int) -> tuple[int, int]:
    """Pixels before and after an image, so that its waves are computed fast."""
    from scipy.fft import next_fast_len

    whole = next_fast_len(size + 2 * _MARGIN, real=True)
    whole += whole % 2
    return (whole - size) // 2, whole - size - (whole - size) // 2
