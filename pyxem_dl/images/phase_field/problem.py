"""What is fitted: grey values of a block of frames by an equation's parameters, two grey levels and a start field."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pyxem_dl.images.phase_field.equations import waves

#: Grey levels, and the picture's drift, after the equation's own parameters
LEVELS, DRIFT = ("background", "contrast"), ("drift_x", "drift_y")
# Least expected value as a share of the contrast, so that a search may leave the wells a little
_LEAST = 0.02
# Spread of start fields on plateaus, where a smoothed guess is better than on interfaces, over that there
_PLATEAU = 0.2


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
        seen = seen.clamp(min=0)
        return (expected - seen + torch.xlogy(seen, seen) - seen * torch.log(expected)) / self.scale


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
        return name in self.equation.positive or name == "contrast"


class Prior:
    """Start fields about a first guess: how far, and how smooth.

    Parameters
    ----------
    guess : tensor, shape (rows, columns)
        With the margin.
    spread : float
        Standard deviation on interfaces; on plateaus they are nearer to the guess.
    length : float
        Below which they are smooth, in px.
    """

    def __init__(self, guess: torch.Tensor, spread: float, length: float) -> None:
        self.guess = guess
        self.share = _PLATEAU + (1 - _PLATEAU) * (1 - guess.square()).clamp(min=0)
        rows, columns = guess.shape
        ky = 2 * math.pi * torch.fft.fftfreq(rows, device=guess.device)[:, None]
        kx = 2 * math.pi * torch.fft.rfftfreq(columns, device=guess.device)[None]
        amplitude = (1 + (ky**2 + kx**2) * length**2) ** -1.5
        # of white noise of unit variance it makes a field of the wanted variance
        every = 2 * math.pi * torch.fft.fftfreq(columns, device=guess.device)[None]
        whole = 1 + (ky**2 + every**2) * length**2
        self.amplitude = amplitude * (spread / whole.pow(-3.0).mean().sqrt())

    def field(self, white: torch.Tensor) -> torch.Tensor:
        """Field of white coordinates."""
        return self.guess + self.share * torch.fft.irfft2(torch.fft.rfft2(white) * self.amplitude, s=white.shape)


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
        First guess of the levels, by which the start field is given.
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
        equation = self.coordinates.equation
        start = equation.start(self.prior.field(white), values, self.reference)
        order = equation.orders(start, values, frames, self.inside)
        found = values["background"] + values["contrast"] * order
        if self.noise.kind == "poisson":
            found = torch.maximum(found, _LEAST * values["contrast"].detach())
        return found

    def about(self, parameters: torch.Tensor, frames: int) -> torch.Tensor:
        """About the curvature of the misfit and the prior for each wave of the white coordinates."""
        values = self.coordinates.unpack(parameters)
        with torch.no_grad():
            rate = self.coordinates.equation.decay(values, waves(self.prior.guess)[2])
            times = torch.arange(frames, device=rate.device)[:, None, None]
            seen = (torch.exp(-2 * rate * times) * self.weights[:frames, None, None]).sum(0)
            weight = self.noise.weight(values["background"])
            # all levels of a start field are given in units of the first guess
            share = self.prior.share.square().mean()
            return 1 + self.prior.amplitude**2 * share * seen * weight * self.reference["contrast"] ** 2

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
    """What is known of the parameters before: a mean (n), and one over the covariance (n, n)."""

    mean: torch.Tensor
    information: torch.Tensor

    def loss(self, parameters: torch.Tensor) -> torch.Tensor:
        """Half of the squared distance, in its units."""
        away = (parameters - self.mean).double()
        return away @ self.information @ away / 2

    def slope(self, parameters: torch.Tensor) -> torch.Tensor:
        """Of the loss."""
        return (self.information @ (parameters - self.mean).double()).float()
