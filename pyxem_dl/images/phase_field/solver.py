"""The engine "solver": an equation is solved from a start field, both are fitted to the grey values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from pyxem_dl.images.phase_field.blocks import Block, Fitted, blocks_of
from pyxem_dl.images.phase_field.equations import Equation
from pyxem_dl.images.phase_field.newton import Point, average_out, search, settle
from pyxem_dl.images.phase_field.problem import DRIFT, Coordinates, Known, Prior, Problem
from pyxem_dl.images.phase_field.start import Guess, Series, start_field

# Pixels around the image at least; frames from which a start field is guessed
_MARGIN, _FIRST = 12, 4
# Of start fields about the guess: standard deviation, and length (px) below which they are smooth
_SPREAD, _SMOOTH = 0.5, 3.0
# Steps to the best pair of parameters and start field, from there to the parameters alone, and for start fields alone
_STEPS, _ROUNDS, _SETTLE = 4, 8, 3
# Standard deviation of a coordinate about where the search begins
_BEFORE = 2.0
# That of the diffusivity while the best start field is looked for
_HELD = 0.15


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
        self._pads = tuple(_pads(n) for n in series.shape[1:])
        coordinates = Coordinates(self.equation, self.guess.noise, self.drift)
        begin = self._begin()
        mean = coordinates.pack(begin).to(self.device)
        known = Known(mean, torch.eye(len(mean), dtype=torch.float64, device=self.device) / _BEFORE**2)
        parameters, self._starts, self._done, interrupted = mean, [], 0, False
        try:
            for block in self._blocks:
                parameters, known = self._fit(series, block, coordinates, begin, parameters, known)
            if len(self._blocks) > 1:
                self._settle(series, coordinates, begin, parameters, known)
        except (KeyboardInterrupt, Interrupted):
            if not self._points:
                raise KeyboardInterrupt("Stopped before anything was found.") from None
            interrupted, parameters = True, self._points[-1].parameters
            for block in self._blocks[len(self._starts) :]:
                problem = self._problem(series, block, coordinates, begin)
                point = Point(parameters, torch.zeros_like(problem.prior.guess))
                self._starts.append(self._start(problem, coordinates, point))
        return self._found(coordinates, begin, parameters, known, interrupted)

    def _begin(self) -> dict[str, float]:
        more = dict.fromkeys(DRIFT, 0.0) if self.drift else {}
        return {
            **self.equation.begin, "background": self.guess.background, "contrast": self.guess.contrast, **more,
        }  # fmt: skip

    def _problem(self, series: Series, block: Block, coordinates, begin, start: np.ndarray | None = None) -> Problem:
        frames = series.read(slice(block.first, block.last))
        weights = np.array(block.weights)
        if self.held_out is not None:
            weights = weights * ~self.held_out[block.first : block.last]
        if start is None:
            start = start_field(frames[:_FIRST], self.guess, self._pads)
        prior = Prior(torch.from_numpy(start).to(self.device), _SPREAD, _SMOOTH)
        seen = torch.from_numpy(frames).to(self.device)
        weights = torch.from_numpy(weights.astype(np.float32)).to(self.device)
        return Problem(seen, weights, coordinates, prior, tuple(a for a, _ in self._pads), begin)

    def _fit(self, series, block: Block, coordinates, begin, parameters, known) -> tuple[torch.Tensor, Known]:
        """Parameters with what a block tells of them, and how well they are known then."""
        problem, n = self._problem(series, block, coordinates, begin), block.last - block.first
        point = Point(parameters, torch.zeros_like(problem.prior.guess))

        def on_step(point: Point) -> bool:
            self._points.append(point)
            self._done += 1
            passes = len(self._blocks) * (_STEPS + _ROUNDS)
            values = {name: float(v) for name, v in coordinates.unpack(point.parameters).items()}
            if self.on_step(min(1.0, self._done / passes), values) is False:
                raise Interrupted
            return True

        try:
            point, about = search(problem, point, self._held(known, coordinates), n, _STEPS, on_step)
            point, about = average_out(problem, point, known, about, n, _ROUNDS, on_step=on_step)
        finally:
            best = self._points[-1] if self._points else point
            self._starts.append(self._start(problem, coordinates, best))
            self._done = (self._blocks.index(block) + 1) * (_STEPS + _ROUNDS)
        return point.parameters, Known(point.parameters, about.schur)

    @staticmethod
    def _held(known: Known, coordinates: Coordinates) -> Known:
        """Hold the diffusivity, which the best start fields would make too small."""
        information = known.information.clone()
        i = coordinates.names.index("diffusivity")
        information[i, i] = max(float(information[i, i]), 1 / _HELD**2)
        return Known(known.mean, information)

    def _start(self, problem: Problem, coordinates, point: Point) -> np.ndarray:
        """Order parameter at the first frame of a block."""
        with torch.no_grad():
            values = coordinates.unpack(point.parameters)
            start = self.equation.start(problem.prior.field(point.white), values, problem.reference)
        return start.cpu().numpy()

    def _settle(self, series, coordinates, begin, parameters, known) -> None:
        """Fit the start fields to the parameters of all blocks."""
        values = {name: float(v) for name, v in coordinates.unpack(parameters).items()}
        for i, block in enumerate(self._blocks):
            grey = values["background"] + values["contrast"] * self._starts[i]
            problem = self._problem(series, block, coordinates, begin, start=np.float32(
                (grey - begin["background"]) / begin["contrast"]))  # fmt: skip
            point = Point(parameters, torch.zeros_like(problem.prior.guess))
            point = settle(problem, point, known, block.last - block.first, _SETTLE)
            self._starts[i] = self._start(problem, coordinates, point)
            if self.on_step(1.0, values) is False:
                raise Interrupted

    def _found(self, coordinates, begin, parameters, known: Known, interrupted: bool) -> Search:
        inputs = parameters.detach().double().cpu()
        covariance = torch.linalg.inv(known.information.cpu())
        jacobian = torch.autograd.functional.jacobian(
            lambda x: torch.stack(list(coordinates.unpack(x).values())), inputs
        )
        errors = (jacobian @ covariance @ jacobian.T).diagonal().clamp(min=0).sqrt()
        values = {name: float(v) for name, v in coordinates.unpack(inputs).items()}
        errors = {name: math.inf if interrupted else float(e) for name, e in zip(values, errors, strict=True)}
        inside = tuple(slice(a, s - b) for (a, b), s in zip(self._pads, self._starts[0].shape, strict=True))
        fitted = Fitted(self.equation, values, self._blocks, self._starts, inside)
        return Search(values, errors, fitted, fitted.chunks(), interrupted)


def _pads(size: int) -> tuple[int, int]:
    """Pixels before and after an image, so that its waves are computed fast."""
    from scipy.fft import next_fast_len

    whole = next_fast_len(size + 2 * _MARGIN, real=True)
    whole += whole % 2
    return (whole - size) // 2, whole - size - (whole - size) // 2
