"""A smooth field of place and time, with its derivatives."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

# Layers and channels
_DEPTH, _WIDTH, _WAVES = 3, 64, 64


class Jet(NamedTuple):
    """A field and its derivatives: by time, along x and y, and the Laplacian; (n, channels) each."""

    value: torch.Tensor
    time: torch.Tensor
    x: torch.Tensor
    y: torch.Tensor
    laplacian: torch.Tensor

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Jet:
        """Through a layer."""
        found = Jet(*(each @ weight.T for each in self))
        return found if bias is None else found._replace(value=found.value + bias)

    def tanh(self) -> Jet:
        """Through a hyperbolic tangent."""
        value = torch.tanh(self.value)
        slope = 1 - value * value
        bent = slope * self.laplacian - 2 * value * slope * (self.x * self.x + self.y * self.y)
        return Jet(value, slope * self.time, slope * self.x, slope * self.y, bent)

    def channel(self, i: int) -> Jet:
        """One of the channels."""
        return Jet(*(each[:, i] for each in self))


class FieldNetwork(nn.Module):
    """Random waves of (x, y, t), then layers; derivatives go through it forwards, exactly.

    Parameters
    ----------
    channels : int
        Of the output.
    length, time : float
        Shortest length (px) and time (frames) of what it tells easily.
    """

    def __init__(self, channels: int, length: float, time: float) -> None:
        super().__init__()
        self.register_buffer("waves", torch.randn(_WAVES, 3) / torch.tensor([length, length, time]))
        sizes = [2 * _WAVES, *[_WIDTH] * _DEPTH, channels]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))

    def forward(self, places: torch.Tensor) -> Jet:
        """Field at places (n, 3): x and y in px, t in frames."""
        angle = places @ self.waves.T
        kx, ky, kt = self.waves.T
        sine, cosine, square = angle.sin(), angle.cos(), kx * kx + ky * ky
        jet = Jet(
            torch.cat((sine, cosine), 1), torch.cat((kt * cosine, -kt * sine), 1),
            torch.cat((kx * cosine, -kx * sine), 1), torch.cat((ky * cosine, -ky * sine), 1),
            -torch.cat((square * sine, square * cosine), 1),
        )  # fmt: skip
        for layer in self.layers[:-1]:
            jet = jet.linear(layer.weight, layer.bias).tanh()
        return jet.linear(self.layers[-1].weight, self.layers[-1].bias)
