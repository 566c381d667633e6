"""Correlation of patterns with their probe, as a layer of a network."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from pyxem_dl.preprocessing.elementary import log_1p

# A ring around the disk (in radii) tells the background, a window the contrast.
_RING, _WINDOW, _APERTURE = (1.35, 2.0), 1.5, 1.15


def soft_disk(distance: torch.Tensor, radius: float) -> torch.Tensor:
    """Disk with an edge of a pixel, 1 inside: a pixel half of which is inside counts half; distances in px."""
    return (radius + 0.5 - distance).clamp(0, 1)


class Correlation(NamedTuple):
    """What the correlation layer sees; maps (n, rows, columns).

    ``counts`` of the pattern, ``disk`` counts in an aperture of a disk's size, ``excess`` of it
    over the surroundings, ``channels (n, 4, rows, columns)`` what the U-Net is given.
    """

    counts: torch.Tensor
    disk: torch.Tensor
    excess: torch.Tensor
    channels: torch.Tensor


class CorrelationLayer(nn.Module):
    """Correlate patterns with the probe in Fourier space.

    The correlation is normalised, so that the same numbers mean the same at any dose.

    Parameters
    ----------
    radius : float
        Of the disks, in px.
    """

    n_channels = 4

    def __init__(self, radius: float) -> None:
        super().__init__()
        self.radius = radius

    def _kernels(self, probe: torch.Tensor) -> torch.Tensor:
        """Probes less their mean in the window, window, ring and aperture (m, 4, rows, columns)."""
        size = probe.shape[-1]
        at = torch.arange(size, device=probe.device, dtype=torch.float32) - size // 2
        distance = torch.hypot(at[:, None], at[None]) / self.radius

        def between(inner, outer):
            # soft edges of a pixel: what lies half inside counts half
            soft = (0.5 + (outer - distance) * self.radius).clamp(0, 1)
            return soft - (0.5 + (inner - distance) * self.radius).clamp(0, 1)

        window, ring, aperture = between(-1, _WINDOW), between(*_RING), between(-1, _APERTURE)
        window = window / window.sum()
        inside = probe * (window > 0)
        contrast = inside / inside.sum((-2, -1), keepdim=True)
        contrast = contrast * (window > 0) - window
        # correlation with a pattern that is the probe itself is its standard deviation there
        norm = (contrast**2).sum((-2, -1), keepdim=True) * (window > 0).sum()
        contrast = contrast / norm.sqrt().clamp_min(1e-12)
        others = torch.stack([window, ring / ring.sum(), aperture])
        return torch.cat([contrast[:, None], others.expand(len(probe), -1, -1, -1)], dim=1)

    def forward(self, patterns: torch.Tensor, probe: torch.Tensor) -> Correlation:
        """Correlate patterns (n, rows, columns) with their probe, (size, size) or (n, size, size)."""
        kernels = self._kernels(probe if probe.ndim == 3 else probe[None])
        size, (rows, columns) = kernels.shape[-1], patterns.shape[1:]
        # room enough that nothing comes back in at the other side
        shape = tuple(_even(n + 2 * math.ceil(_RING[1] * self.radius) + 1) for n in (rows, columns))
        crop = min(size // 2, math.ceil(_RING[1] * self.radius) + 1)
        middle = slice(size // 2 - crop, size // 2 + crop + 1)
        kernels = kernels[..., middle, middle]
        # the kernel's middle belongs into the corner
        kernels = functional.pad(kernels, (0, shape[1] - kernels.shape[-1], 0, shape[0] - kernels.shape[-2]))
        kernels = torch.fft.rfft2(kernels.roll((-crop, -crop), (-2, -1))).conj()

        def correlate(images, kernel):
            product = torch.fft.rfft2(images, s=shape) * kernel
            return torch.fft.irfft2(product, s=shape)[..., :rows, :columns]

        contrast, mean, ring, disk = correlate(patterns[:, None], kernels).unbind(1)
        # rounding in the transforms: sums of counts may come out below 0
        square = correlate(patterns**2, kernels[:, 1]).clamp_min(0)
        variance = (square - mean**2).clamp_min(0) + 1e-6 * square + 1e-9
        normalised = (contrast / variance.sqrt()).clamp(-1, 1)
        area = math.pi * (_APERTURE * self.radius) ** 2
        disk, ring = disk.clamp_min(0), ring.clamp_min(0)
        excess = disk - ring * area
        significance = excess / (disk + ring * area + 1).sqrt()
        channels = [
            log_1p(patterns),
            normalised,
            log_1p(significance.abs()).copysign_(significance),
            ((disk + 1) / (ring * area + 1)).log(),
        ]
        return Correlation(patterns, disk, excess, torch.stack(channels, dim=1))


def _even(n: int) -> int:
    """Return the next size that FFTs are fast for."""
    return 16 * math.ceil(n / 16)
