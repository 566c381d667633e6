"""What is fitted: grey values of a block of frames by an equation's parameters, two grey levels and a start field."""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass

import torch

#: Grey levels, and the picture's drift, after the equation's own parameters
LEVELS, DRIFT = ("background", "contrast"), ("drift_x", "drift_y")
# Least expected value as a share of the contrast, so that a search may leave the wells a little
_LEAST = 0.02
# Of the Gaussian field below the tanh of start fields: spread, length in those of the interface, how fast amplitudes of
# its waves fall; the most that a guess of it is believed, and below which power it is noise
_SMOOTH, _SURE, _ROUGH = 6.0, 0.97, 0.1


@dataclass
class Noise:
    """How grey values scatter about what is expected.

    Parameters
    ----------
    kind : {"poisson", "gaussian"}
        Variance in proportion to what is expected, or the same everywhere.
    scale : float
        Variance over expected value, or variance.
    """

    kind: str
    scale: float

    def weight(self, expected: torch.Tensor) -> torch.Tensor:
        """One over the variance."""
        if self.kind == "gaussian":
            return torch.full_like(expected, 1 / self.scale)
        return 1 / (expected * self.scale)

    def misfit(self, expected: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """Half of the deviance per value, in units of the noise; 0 where both are the same."""
        if self.kind == "gaussian":
            return (expected - seen) ** 2 / (2 * self.scale)
        # series that are made may go below 0, and have the same slope there
        least = torch.xlogy(seen.clamp(min=0), seen.clamp(min=0))
        return (expected - seen + least - seen * torch.log(expected)) / self.scale


class Coordinates:
    """Parameters as the search has them: logarithms of what is positive, grey levels as shares of a first guess.

    Parameters
    ----------
    equation : AllenCahn or CahnHilliard
        Whose parameters come first.
    noise : Noise
        With Poisson's the darker level is positive, too.
    drift : bool
        Whether there is one.
    """

    def __init__(self, equation, noise: Noise, drift: bool) -> None:
        self.equation, self.noise = equation, noise
        self.names = (*equation.names, *LEVELS, *(DRIFT if drift else ()))

    def pack(self, values: dict[str, float]) -> torch.Tensor:
        """Coordinates (n) of values by name."""
        dark = values["background"] - values["contrast"]
        found = []
        for name in self.names:
            value = dark if name == "background" else values[name]
            found.append(math.log(value) if self._logarithmic(name) else value)
        return torch.tensor(found, dtype=torch.float32)

    def unpack(self, coordinates: torch.Tensor) -> dict[str, torch.Tensor]:
        """Values by name."""
        found = {}
        for name, value in zip(self.names, coordinates, strict=True):
            found[name] = torch.exp(value) if self._logarithmic(name) else value
        found["background"] = found["background"] + found["contrast"]
        return found

    def _logarithmic(self, name: str) -> bool:
        if name == "background":
            return self.noise.kind == "poisson"
        return name in (*self.equation.positive, "contrast")


class Prior:
    """Start fields before anything is seen: tanh of a smooth Gaussian field, as long-waved as interfaces are wide.

    Parameters
    ----------
    shape : tuple of int
        (rows, columns), with the margin.
    most : float
        How far order parameters go.
    """

    def __init__(
        self, shape: tuple[int, int], most: float, spread: float, length: float, device: torch.device | str = "cpu"
    ) -> None:
        self.shape, self.most, self.spread, self.length = tuple(shape), most, spread, length
        ky, kx = (2 * math.pi * torch.fft.fftfreq(n, device=device) for n in shape)
        self.square = ky[:, None] ** 2 + kx[None, : shape[1] // 2 + 1] ** 2
        self._every = ky[:, None] ** 2 + kx[None] ** 2

    def amplitude(self) -> torch.Tensor:
        """By which waves of white noise become those of the Gaussian field."""
        square = self.length**2 / (2 * _SMOOTH)
        variance = float((1 + self._every * square).pow(-2 * _SMOOTH).mean())
        return (1 + self.square * square).pow(-_SMOOTH) * (self.spread / variance**0.5)

    def field(self, white: torch.Tensor) -> torch.Tensor:
        """Order parameter of white coordinates."""
        smooth = torch.fft.irfft2(torch.fft.rfft2(white) * self.amplitude(), s=self.shape)
        return self.most * torch.tanh(smooth)

    def white(self, field: torch.Tensor) -> torch.Tensor:
        """About the white coordinates of an order parameter."""
        amplitude = self.amplitude()
        spectrum = torch.fft.rfft2(torch.atanh((field / self.most).clamp(-_SURE, _SURE)))
        return torch.fft.irfft2(spectrum * amplitude / (amplitude**2 + _ROUGH), s=self.shape)


class Problem:
    """A block of frames and what they are compared with.

    Parameters
    ----------
    seen : tensor, shape (frames, rows, columns)
        Grey values.
    weights : tensor, shape (frames,)
        Of the frames, from 0 (not looked at) to 1.
    coordinates : Coordinates
        Of the parameters.
    prior : Prior
        Of the start field.
    margin : tuple of int
        Pixels above and on the left of the image.
    reference : dict
        First guess of the levels.
    """

    def __init__(
        self, seen, weights, coordinates: Coordinates, prior: Prior, margin: tuple[int, int], reference: dict
    ) -> None:
        self.reference = reference
        self.seen, self.weights, self.coordinates, self.prior = seen, weights, coordinates, prior
        self.noise = coordinates.noise
        self.inside = tuple(slice(m, m + n) for m, n in zip(margin, seen.shape[1:], strict=True))

    def expected(self, parameters: torch.Tensor, white: torch.Tensor, frames: int | None = None) -> torch.Tensor:
        """Grey values (frames, rows, columns), by default of all frames."""
        values = self.coordinates.unpack(parameters)
        frames = len(self.seen) if frames is None else frames
        start = self.coordinates.equation.start(self.prior.field(white), values, self.reference)
        order = self.coordinates.equation.orders(start, values, frames, self.inside)
        return self._grey(order, values)[0]

    def _grey(self, order: torch.Tensor, values: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """Grey values of an order parameter, and their slope by it."""
        found, slope = values["background"] + values["contrast"] * order, values["contrast"]
        if self.noise.kind == "poisson":
            least = _LEAST * values["contrast"].detach()
            found, slope = torch.maximum(found, least), slope * (found > least)
        return found, slope

    def tangent(self, parameters: torch.Tensor, white: torch.Tensor, frames: int):
        """Grey values, and their tangent by the white coordinates: two maps, there and back."""
        with torch.no_grad():
            values = self.coordinates.unpack(parameters)
            equation, field = self.coordinates.equation, self.prior.field(white)
            start = equation.start(field, values, self.reference)
            order, flow = equation.flow(start, values, frames, self.inside)
            expected, scale = self._grey(order, values)
            amplitude = self.prior.amplitude() * equation.start_slope(values, self.reference)
            share = self.prior.most - field.square() / self.prior.most

        def smooth(field):
            return torch.fft.irfft2(torch.fft.rfft2(field) * amplitude, s=field.shape)

        def forward(white):
            return scale * flow.forward(share * smooth(white))

        def transposed(changes):
            return smooth(share * flow.transposed(scale * changes))

        return expected, forward, transposed

    def slopes(self, parameters: torch.Tensor, white: torch.Tensor, frames: int) -> torch.Tensor:
        """Slopes of the grey values by each parameter (n, frames, rows, columns)."""
        at = parameters.clone().requires_grad_()
        expected = self.expected(at, white, frames)
        changes = torch.zeros_like(expected, requires_grad=True)
        # linear in the changes, so that its derivative by them is the tangent itself
        back = torch.autograd.grad(expected, at, changes, create_graph=True)[0]
        axes = torch.eye(len(at), device=at.device)
        return torch.stack([torch.autograd.grad(back, changes, each, retain_graph=True)[0] for each in axes])

    def about(self, parameters: torch.Tensor, white: torch.Tensor, frames: int) -> torch.Tensor:
        """About the curvature of the misfit and the prior for each wave of the white coordinates."""
        values = self.coordinates.unpack(parameters)
        with torch.no_grad():
            rate = self.coordinates.equation.decay(values, self.prior.square)
            times = torch.arange(frames, device=rate.device)[:, None, None]
            seen = (torch.exp(-2 * rate * times) * self.weights[:frames, None, None]).sum(0)
            weight = self.noise.weight(values["background"])
            most = self.prior.most
            share = (most - self.prior.field(white).square() / most).square().mean()
            scale = values["contrast"] * self.coordinates.equation.start_slope(values, self.reference)
            return 1 + self.prior.amplitude() ** 2 * share * seen * weight * scale**2

    def with_seen(self, seen: torch.Tensor) -> Problem:
        """Return the same with other grey values."""
        found = copy(self)
        found.seen = seen
        return found

    def loss(self, expected: torch.Tensor) -> torch.Tensor:
        """Misfit of the frames, without what is known before."""
        n = len(expected)
        each = self.noise.misfit(expected, self.seen[:n]).flatten(1).sum(1)
        return (each.double() * self.weights[:n]).sum()

    def whole(self, parameters: torch.Tensor, white: torch.Tensor, known, frames: int) -> float:
        """Misfit with what is known of the parameters, and of the start field, before."""
        with torch.no_grad():
            data = self.loss(self.expected(parameters, white, frames))
            return float(data + white.double().square().sum() / 2 + known.loss(parameters))

    def slope(self, expected: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Slope and (Fisher's) curvature of the misfit at each value."""
        n = len(expected)
        weight = self.noise.weight(expected) * self.weights[:n, None, None]
        return weight * (expected - self.seen[:n]), weight


@dataclass
class Known:
    """What is known of the parameters before: a mean (n), one over the covariance (n, n), and a slope (n)."""

    mean: torch.Tensor
    information: torch.Tensor
    tilt: torch.Tensor | float = 0.0

    def loss(self, parameters: torch.Tensor) -> torch.Tensor:
        """Half of the squared distance, in its units, less the tilt."""
        away = (parameters - self.mean).double()
        return (self.information @ away / 2 - self.tilt) @ away

    def slope(self, parameters: torch.Tensor) -> torch.Tensor:
        """Of the loss."""
        return (self.information @ (parameters - self.mean).double() - self.tilt).float()
