"""The Allen-Cahn and the Cahn-Hilliard equation, stepped in a way that can be differentiated."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch

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

    @staticmethod
    def start(field: torch.Tensor, values: dict, reference: dict) -> torch.Tensor:
        """Order parameter of a field that is given in grey values, in units of the first guess of the levels."""
        grey = reference["background"] + reference["contrast"] * field
        return (grey - values["background"]) / values["contrast"]

    @abstractmethod
    def parts(self, values: dict, square: torch.Tensor) -> tuple[torch.Tensor, Callable]:
        """Return what is linear, for each squared wave number, and what makes waves of the rest."""

    @abstractmethod
    def growth(self, d: float, length: float) -> float:
        """Rate of the fastest change of what is not stepped exactly."""

    @abstractmethod
    def decay(self, values: dict, square: torch.Tensor) -> torch.Tensor:
        """About the rate at which waves of the start field are forgotten."""

    def orders(self, start: torch.Tensor, values: dict, frames: int, inside) -> torch.Tensor:
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

        Returns
        -------
        tensor, shape (frames, rows, columns)
            Plateaus lie at -1 and 1.
        """
        n = self._steps(values)
        ky, kx, square = waves(start)
        linear, rest = self.parts(values, square)
        decay, first, second = _weights(linear / n)
        first, second = first / n, second / n
        spectrum = torch.fft.rfft2(start)
        seen = [start[inside]]
        for t in range(1, frames):
            for _ in range(n):
                push = rest(torch.fft.irfft2(spectrum, s=start.shape))
                trial = decay * spectrum + first * push
                spectrum = trial + second * (rest(torch.fft.irfft2(trial, s=start.shape)) - push)
            moved = spectrum
            if "drift_x" in values:
                phase = -t * (kx * values["drift_x"] + ky * values["drift_y"])
                moved = spectrum * torch.complex(torch.cos(phase), torch.sin(phase))
            seen.append(torch.fft.irfft2(moved, s=start.shape)[inside])
        return torch.stack(seen)

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
    begin = {"diffusivity": 0.3, "interface_length": 2.5, "front_velocity": 0.0}

    def parts(self, values: dict, square: torch.Tensor) -> tuple[torch.Tensor, Callable]:
        """As :meth:`Equation.parts`."""
        d, length, v = (values[name] for name in self.names)

        def rest(field):
            field = field.clamp(-_WELLS, _WELLS)
            squared = field * field
            return torch.fft.rfft2((2 * d / length**2) * field * (3 - squared) + (v / length) * (1 - squared))

        return -d * (square + 4 / length**2), rest

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
    begin = {"diffusivity": 0.5, "interface_length": 2.5}

    def parts(self, values: dict, square: torch.Tensor) -> tuple[torch.Tensor, Callable]:
        """As :meth:`Equation.parts`."""
        d, length = (values[name] for name in self.names)
        pushed = -d * square

        def rest(field):
            field = field.clamp(-_WELLS, _WELLS)
            return pushed * torch.fft.rfft2(field * (field * field - 3))

        return pushed * (2 + length**2 / 2 * square), rest

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


def _weights(times: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """exp(z), (exp(z) − 1) / z and (exp(z) − 1 − z) / z² of z <= 0."""
    small = times > -0.05
    safe = torch.where(small, torch.full_like(times, -1.0), times)
    grown = torch.expm1(safe)
    first = torch.where(small, 1 + times / 2 + times**2 / 6, grown / safe)
    second = torch.where(small, 0.5 + times / 6 + times**2 / 24, (grown - safe) / safe**2)
    return torch.exp(times), first, second


EQUATIONS = {each.name: each for each in (AllenCahn(), CahnHilliard())}
