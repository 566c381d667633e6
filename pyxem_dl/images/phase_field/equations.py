"""The Allen-Cahn and the Cahn-Hilliard equation, stepped in a way that can be differentiated."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch

from pyxem_dl.images.phase_field.flow import Flow, Scheme

# Steps between two frames at most, and by how much the fastest change may go on in a step: fronts are then a percent
# too slow, and three at twice as much
_MOST, _GROWTH = 60, 0.1
# Far outside of the wells, where only a search may be, the cube would run away
_WELLS = 1.5


class Equation(ABC):
    """A field that is stepped as waves: exactly in what is linear about the plateaus, in second order in the rest.

    (The exponential Runge-Kutta scheme of second order: what stands still, stands exactly.)  What leaves the margin on
    one side comes back on the other one.
    """

    name: str
    #: Of the parameters, those that are positive, and with which a search begins (px, frames)
    names: tuple[str, ...]
    positive = ("diffusivity", "interface_length")
    begin: dict[str, float]
    #: How far the order parameter of start fields goes, and spread and length (in interface lengths) of the Gaussian
    #: field of whose tanh they are made
    most, smooth = 1.0, (3.0, 3.2)

    def start(self, field: torch.Tensor, values: dict, reference: dict) -> torch.Tensor:
        """Order parameter of a field between the plateaus as a first guess of the levels has them."""
        return field

    def start_slope(self, values: dict, reference: dict) -> torch.Tensor | float:
        """Slope of the order parameter by that field."""
        return 1.0

    @abstractmethod
    def linear(self, values: dict, square: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | float]:
        """Return what is linear, for each squared wave number, and the factor of the waves of the rest."""

    @abstractmethod
    def rest(self, values: dict, field: torch.Tensor) -> torch.Tensor:
        """Return what is not linear, at each place."""

    @abstractmethod
    def slope(self, values: dict, field: torch.Tensor) -> torch.Tensor:
        """Return its slope by the field."""

    @abstractmethod
    def growth(self, d: float, length: float) -> float:
        """Rate of the fastest change of what is not stepped exactly."""

    @abstractmethod
    def decay(self, values: dict, square: torch.Tensor) -> torch.Tensor:
        """About the rate at which waves of the start field are forgotten."""

    def orders(self, start: torch.Tensor, values: dict, frames: int, inside, trace: list | None = None) -> torch.Tensor:
        """Order parameter at each frame.

        Parameters
        ----------
        start : tensor, shape (rows, columns)
            Order parameter at the first frame, with the margin.
        values : dict of str to tensor
            Parameters, in px and frames.
        frames : int
            How many.
        inside : tuple of slice
            Where in it the image is.
        trace : list, optional
            Takes the slopes at the start of each step and at its trial.

        Returns
        -------
        tensor, shape (frames, rows, columns)
            Plateaus lie at -1 and 1.
        """
        n, decay, first, second, factor = self._scheme(start, values)
        spectrum = torch.fft.rfft2(start)
        seen = [start[inside]]
        for shift in _shifts(start, values, frames)[1:]:
            for _ in range(n):
                here = torch.fft.irfft2(spectrum, s=start.shape)
                push = factor * torch.fft.rfft2(self.rest(values, here))
                trial = decay * spectrum + first * push
                there = torch.fft.irfft2(trial, s=start.shape)
                spectrum = trial + second * (factor * torch.fft.rfft2(self.rest(values, there)) - push)
                if trace is not None:
                    trace.append((self.slope(values, here), self.slope(values, there)))
            seen.append(torch.fft.irfft2(spectrum * shift, s=start.shape)[inside])
        return torch.stack(seen)

    def flow(self, start: torch.Tensor, values: dict, frames: int, inside) -> tuple[torch.Tensor, Flow]:
        """Order parameter at each frame, as :meth:`orders` has it, and its tangent by the start field."""
        slopes = []
        seen = self.orders(start, values, frames, inside, slopes)
        shifts = _shifts(start, values, frames)
        return seen, Flow(self._scheme(start, values), slopes, shifts, tuple(start.shape), inside)

    def _scheme(self, start: torch.Tensor, values: dict) -> Scheme:
        n = self._steps(values)
        linear, factor = self.linear(values, waves(start)[2])
        decay, first, second = _weights(linear / n)
        return Scheme(n, decay, first / n, second / n, factor)

    def _steps(self, values: dict) -> int:
        d, length = (float(values[name].detach()) for name in self.positive)
        growth = self.growth(d, length)
        return int(min(max(math.ceil(growth / _GROWTH), 1), _MOST)) if math.isfinite(growth) else 1


class AllenCahn(Equation):
    """The front moves by its curvature, and with a velocity of its own.

    dφ/dt = D (∇²φ + 2 φ (1 − φ²) / ℓ²) + v (1 − φ²) / ℓ: a flat front tanh(x / ℓ) keeps its profile and moves by v.
    """

    name = "allen-cahn"
    names = ("diffusivity", "interface_length", "front_velocity")
    begin = {"diffusivity": 0.8, "interface_length": 2.5, "front_velocity": 0.0}

    def linear(self, values: dict, square: torch.Tensor) -> tuple[torch.Tensor, float]:
        """As :meth:`Equation.linear`."""
        return -values["diffusivity"] * (square + 4 / values["interface_length"] ** 2), 1.0

    def rest(self, values: dict, field: torch.Tensor) -> torch.Tensor:
        """As :meth:`Equation.rest`."""
        d, length, v = (values[name] for name in self.names)
        field = field.clamp(-_WELLS, _WELLS)
        squared = field * field
        return (2 * d / length**2) * field * (3 - squared) + (v / length) * (1 - squared)

    def slope(self, values: dict, field: torch.Tensor) -> torch.Tensor:
        """As :meth:`Equation.slope`."""
        d, length, v = (values[name] for name in self.names)
        found = (6 * d / length**2) * (1 - field * field) - (2 * v / length) * field
        return found * (field.abs() < _WELLS)

    def decay(self, values: dict, square: torch.Tensor) -> torch.Tensor:
        """As :meth:`Equation.decay`: that of a front, on which half of the pixels have something to say."""
        return values["diffusivity"] * (square + 0.5 / values["interface_length"] ** 2)

    def growth(self, d: float, length: float) -> float:
        """As :meth:`Equation.growth`."""
        return 2 * d / length**2


class CahnHilliard(Equation):
    """The order parameter is conserved: dφ/dt = D ∇²(φ³ − φ − ℓ²/2 ∇²φ), with flat interfaces tanh(x / ℓ)."""

    name = "cahn-hilliard"
    names = ("diffusivity", "interface_length")
    begin = {"diffusivity": 2.0, "interface_length": 2.5}
    most, smooth = 1.15, (1.0, 1.8)

    def start(self, field: torch.Tensor, values: dict, reference: dict) -> torch.Tensor:
        """As :meth:`Equation.start`: in grey values, since it may be far from the plateaus."""
        grey = reference["background"] + reference["contrast"] * field
        return (grey - values["background"]) / values["contrast"]

    def start_slope(self, values: dict, reference: dict) -> torch.Tensor:
        """As :meth:`Equation.start_slope`."""
        return reference["contrast"] / values["contrast"]

    def linear(self, values: dict, square: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As :meth:`Equation.linear`."""
        d, length = (values[name] for name in self.names)
        pushed = -d * square
        return pushed * (2 + length**2 / 2 * square), pushed

    def rest(self, values: dict, field: torch.Tensor) -> torch.Tensor:
        """As :meth:`Equation.rest`."""
        field = field.clamp(-_WELLS, _WELLS)
        return field * (field * field - 3)

    def slope(self, values: dict, field: torch.Tensor) -> torch.Tensor:
        """As :meth:`Equation.slope`."""
        return (3 * field * field - 3) * (field.abs() < _WELLS)

    def decay(self, values: dict, square: torch.Tensor) -> torch.Tensor:
        """As :meth:`Equation.decay`."""
        return values["diffusivity"] * square * (0.5 + values["interface_length"] ** 2 / 2 * square)

    def growth(self, d: float, length: float) -> float:
        """As :meth:`Equation.growth`."""
        return 0.75 * d / length**2


def waves(field: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Wave numbers along y and x, and their square, in rad / px."""
    rows, columns = field.shape
    ky = 2 * math.pi * torch.fft.fftfreq(rows, device=field.device, dtype=field.dtype)[:, None]
    kx = 2 * math.pi * torch.fft.rfftfreq(columns, device=field.device, dtype=field.dtype)[None]
    return ky, kx, ky**2 + kx**2


def _shifts(start: torch.Tensor, values: dict, frames: int) -> list:
    """Phases of waves by which the drift moves each frame, or 1."""
    if "drift_x" not in values:
        return [1.0] * frames
    ky, kx, _ = waves(start)
    phases = [-t * (kx * values["drift_x"] + ky * values["drift_y"]) for t in range(frames)]
    return [torch.complex(torch.cos(phase), torch.sin(phase)) for phase in phases]


def _weights(times: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """exp(z), (exp(z) − 1) / z and (exp(z) − 1 − z) / z² of z <= 0."""
    small = times > -0.05
    safe = torch.where(small, torch.full_like(times, -1.0), times)
    grown = torch.expm1(safe)
    first = torch.where(small, 1 + times / 2 + times**2 / 6, grown / safe)
    second = torch.where(small, 0.5 + times / 6 + times**2 / 24, (grown - safe) / safe**2)
    return torch.exp(times), first, second


EQUATIONS = {each.name: each for each in (AllenCahn(), CahnHilliard())}
