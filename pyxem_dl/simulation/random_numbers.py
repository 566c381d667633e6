"""Random numbers of the simulators: seeded, on their device."""

from __future__ import annotations

import math

import torch


class RandomNumbers:
    """What draws from a generator.

    Parameters
    ----------
    seed : int
        Of the random numbers.
    device : str or torch.device
        Where they are made.
    """

    def __init__(self, seed: int, device) -> None:
        self.device = torch.device(device)
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def _uniform(self, low, high, *shape):
        u = torch.rand(shape, generator=self.generator, device=self.device)
        return low + (high - low) * u

    def _log_uniform(self, low, high, *shape):
        return torch.exp(self._uniform(math.log(low), math.log(high), *shape))

    def _normal(self, *shape):
        return torch.randn(shape, generator=self.generator, device=self.device)

    def _happens(self, share, *shape):
        return self._uniform(0, 1, *shape) < share

    def _choice(self, options):
        return options[int(self._uniform(0, len(options)).clamp_max(len(options) - 1e-3))]
