"""Random numbers of the simulators: seeded, on their device, and single ones on the host."""

from __future__ import annotations

import math

import torch
from torch.nn import functional


class RandomNumbers:
    """What draws from generators.

    What shapes a calculation (a detector, which patterns have a fault) is drawn on the host, where it is looked at: the
    host would have to wait for a device.  On a CPU one generator draws all.

    Parameters
    ----------
    seed : int
        Of the random numbers.
    device : str or torch.device
        Where tensors of them are made.
    """

    def __init__(self, seed: int, device) -> None:
        self.device = torch.device(device)
        self.generator = torch.Generator(self.device)
        self.host_generator = self.generator if self.device.type == "cpu" else torch.Generator()
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Go on with other random numbers."""
        self.generator.manual_seed(seed)
        self.host_generator.manual_seed(seed)

    # ---------------------------------------------------------------- tensors, on the device
    def _uniform(self, low, high, *shape):
        u = torch.rand(shape, generator=self.generator, device=self.device)
        return low + (high - low) * u

    def _log_uniform(self, low, high, *shape):
        return torch.exp(self._uniform(math.log(low), math.log(high), *shape))

    def _normal(self, *shape):
        return torch.randn(shape, generator=self.generator, device=self.device)

    def _happens(self, share, *shape):
        return self._uniform(0, 1, *shape) < share

    def _grain(self, n: int, patches: float, shape) -> torch.Tensor:
        """Noise (n, rows, columns) of some patches along a side: that of few pixels, enlarged."""
        patches = max(3, round(patches))
        noise = self._normal(n, 1, patches, patches)
        return functional.interpolate(noise, tuple(shape), mode="bicubic", align_corners=False)[:, 0]

    # ---------------------------------------------------------------- numbers, on the host
    def _numbers(self, low, high, *shape) -> torch.Tensor:
        """Draw evenly; on the CPU."""
        u = torch.rand(shape, generator=self.host_generator)
        return low + (high - low) * u

    def _number(self, low, high) -> float:
        return float(self._numbers(low, high))

    def _log_numbers(self, low, high, *shape) -> torch.Tensor:
        """Draw evenly in the logarithm; on the CPU."""
        return torch.exp(self._numbers(math.log(low), math.log(high), *shape))

    def _log_number(self, low, high) -> float:
        return float(self._log_numbers(low, high))

    def _choice(self, options):
        return options[int(self._numbers(0, len(options)).clamp_max(len(options) - 1e-3))]

    def _is_so(self, share) -> bool:
        return bool(self._numbers(0, 1) < share)

    def _chosen(self, share, n: int) -> torch.Tensor:
        """Places among `n` to which something happens, on the device."""
        return self._sent(self._chosen_numbers(share, n))

    def _chosen_numbers(self, share, n: int) -> torch.Tensor:
        """Places among `n` to which something happens, rising; on the CPU."""
        return (self._numbers(0, 1, n) < share).nonzero()[:, 0]

    def _sent(self, x: torch.Tensor) -> torch.Tensor:
        return sent(x, self.device)


def sent(x: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Send to a device what is on the CPU, without waiting for what the device is doing."""
    # only from pinned memory a copy need not wait
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)
