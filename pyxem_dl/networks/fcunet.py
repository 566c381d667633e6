"""The disk detector: correlation of pattern and probe in Fourier space, then a U-Net.

After Munshi et al., npj Comput. Mater. 8, 254 (2022), whose network correlates pattern and
probe by FFT inside the graph.  Here the correlation is normalised, so that the same numbers
mean the same at any dose, and the U-Net looks at it beside the counts; its answer are the
disks themselves: where, how strong, how sure.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

# Rescaled pixels for one cell of the answer.
_STRIDE = 2
# The network halves so often: sizes are padded to a multiple of 2 to this power.
_HALVINGS = 3
_CHANNELS = 4
# A ring around the disk (in radii) tells the background, a window the contrast.
_RING, _WINDOW, _APERTURE = (1.35, 2.0), 1.5, 1.15


class Disks(NamedTuple):
    """Disks of patterns, most confident first; all tensors (n, m), padded with confidence 0.

    ``row`` and ``column`` in rescaled px; ``intensity`` in counts above the background;
    ``confidence`` between 0 and 1; ``position_error`` in rescaled px, expected.
    """

    row: torch.Tensor
    column: torch.Tensor
    intensity: torch.Tensor
    confidence: torch.Tensor
    position_error: torch.Tensor


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

    Parameters
    ----------
    radius : float
        Of the disks, in px.
    """

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
        kernels = torch.fft.rfft2(kernels[..., middle, middle], s=shape).conj()

        def correlate(images, kernel):
            product = torch.fft.rfft2(images, s=shape) * kernel
            full = torch.fft.irfft2(product, s=shape)
            # the kernel's middle lies `crop` in from its corner
            return full.roll((crop, crop), (-2, -1))[..., :rows, :columns]

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
            torch.log1p(patterns),
            normalised,
            torch.asinh(significance),
            torch.log1p(disk) - torch.log1p(ring * area),
        ]
        return Correlation(patterns, disk, excess, torch.stack(channels, dim=1))


class _Convolutions(nn.Sequential):
    """Convolutions of 3 x 3 px, the first with a stride."""

    def __init__(self, *widths: int, stride: int = 1) -> None:
        layers = []
        for i, (before, after) in enumerate(zip(widths, widths[1:], strict=False)):
            layers += [
                nn.Conv2d(before, after, 3, stride if i == 0 else 1, padding=1, bias=False),
                nn.BatchNorm2d(after), nn.ReLU(inplace=True),
            ]  # fmt: skip
        super().__init__(*layers)


class FCUNet(nn.Module):
    """Find disks in rescaled patterns.

    Parameters
    ----------
    radius : float
        Of the disks after rescaling, in px.
    widths : tuple of int
        Channels at full, half, quarter and eighth size.
    dropout : float
        In front of the heads and in the lowest level; with :meth:`predict`'s `n_samples` it
        stays on (Monte-Carlo dropout).
    """

    def __init__(
        self, radius: float = 5.0, widths: tuple[int, ...] = (16, 32, 48, 64), dropout: float = 0.05
    ) -> None:
        super().__init__()
        self.arguments = {"radius": radius, "widths": list(widths), "dropout": dropout}
        self.radius = radius
        w0, w1, w2, w3 = widths
        self.correlation = CorrelationLayer(radius)
        self.down_1 = _Convolutions(_CHANNELS, w0)
        self.down_2 = _Convolutions(w0, w1, w1, stride=2)
        self.down_4 = _Convolutions(w1, w2, w2, stride=2)
        self.down_8 = _Convolutions(w2, w3, w3, stride=2)
        self.up_4 = _Convolutions(w3 + w2, w2)
        self.up_2 = _Convolutions(w2 + w1, w1, w1)
        self.dropout = nn.Dropout2d(dropout)
        self.heads = nn.Conv2d(w1, 5, 1)
        # few cells hold a disk
        nn.init.constant_(self.heads.bias, 0.0)
        with torch.no_grad():
            self.heads.bias[0] = -4.0

    def forward(self, patterns: torch.Tensor, probe: torch.Tensor):
        """Raw answers of every cell.

        Parameters
        ----------
        patterns : tensor, shape (n, rows, columns)
            Rescaled, in counts.
        probe : tensor, shape (size, size) or (n, size, size)
            Rescaled, centred at (size // 2, size // 2).

        Returns
        -------
        answers : tensor, shape (n, 5, rows / 2, columns / 2)
            Logit of a centre, (row, column) offset from the cell's middle in px, logarithm of
            the offset's error in px, and correction of the intensity.
        correlation : Correlation
            Padded like the answers.
        """
        with torch.autocast(patterns.device.type, enabled=False):
            correlation = self.correlation(_padded(patterns.float()), probe.float())
        x = self.down_1(correlation.channels)
        half = self.down_2(x)
        quarter = self.down_4(half)
        eighth = self.dropout(self.down_8(quarter))
        quarter = self.up_4(torch.cat([_doubled(eighth), quarter], dim=1))
        half = self.up_2(torch.cat([_doubled(quarter), half], dim=1))
        return self.heads(self.dropout(half)).float(), correlation

    # ---------------------------------------------------------------- loss
    def loss(self, patterns, probe, positions, electrons, noise, visible, counted):
        """Focal loss of the centres, and likelihood of positions and intensities.

        Parameters
        ----------
        patterns, probe : tensor
            As in :meth:`forward`.
        positions : tensor, shape (n, m, 2)
            True centres (row, column) in px.
        electrons, noise : tensor, shape (n, m)
            Counts of the disks, and what counting them is uncertain by.
        visible, counted : tensor of bool, shape (n, m)
            Disks that can be seen; disks near which answers count at all: between the two are
            those of which nobody could say.
        """
        answers, correlation = self(patterns, probe)
        logit = answers[:, 0]
        cells = self._cells(answers)
        distance = (cells[None, None] - positions[:, :, None, None]).norm(dim=-1)
        spread = 0.25 * self.radius
        heat = torch.exp(-0.5 * (distance / spread) ** 2) * visible[..., None, None]
        heat, nearest = heat.max(dim=1)
        doubtful = ((distance < 0.8 * self.radius) & (counted & ~visible)[..., None, None]).any(1)
        # a cell holds a centre if the nearest disk's is in it
        offset = positions.gather(1, nearest.flatten(1)[..., None].expand(-1, -1, 2))
        offset = offset.reshape(*nearest.shape, 2) - cells
        centre = (offset.abs().amax(-1) <= _STRIDE / 2) & (heat > 0.1)
        probability = torch.sigmoid(logit)
        positive = -((1 - probability) ** 2) * functional.logsigmoid(logit)
        negative = -((1 - heat) ** 4) * probability**2 * functional.logsigmoid(-logit)
        focal = torch.where(centre, positive, negative * ~doubtful)
        n_disks = centre.sum().clamp_min(1)
        near = (heat > 0.4).float()
        error = (answers[:, 1:3].permute(0, 2, 3, 1) - offset).norm(dim=-1)
        log_error = answers[:, 3].clamp(-4, 2)
        position = error * torch.exp(-log_error) + log_error
        scale, base = self._intensity_scale(correlation)
        target = electrons.gather(1, nearest.flatten(1)).reshape(nearest.shape)
        wrong = base + answers[:, 4] - torch.asinh(target / scale)
        intensity = functional.smooth_l1_loss(wrong, torch.zeros_like(wrong), reduction="none")
        weight = near / near.sum().clamp_min(1)
        parts = {
            "centre": focal.sum() / n_disks,
            "position": (position * weight).sum(),
            "intensity": (intensity * weight).sum(),
        }
        return parts["centre"] + 0.5 * parts["position"] + 0.5 * parts["intensity"], {
            k: v.detach() for k, v in parts.items()
        }

    def _cells(self, answers) -> torch.Tensor:
        """Middles (rows, columns, 2) of the cells in px."""
        rows, columns = (
            torch.arange(n, device=answers.device) * _STRIDE + (_STRIDE - 1) / 2
            for n in answers.shape[-2:]
        )
        return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)

    def _intensity_scale(self, correlation: Correlation):
        """Noise of an aperture's counts, and the aperture's excess in units of it (asinh)."""
        pool = functional.avg_pool2d
        scale = (pool(correlation.disk, _STRIDE) + 1).sqrt()
        return scale, torch.asinh(pool(correlation.excess, _STRIDE) / scale)

    # ---------------------------------------------------------------- prediction
    def predict(self, patterns, probe, max_disks: int = 128) -> Disks:
        """Find the disks of rescaled patterns.

        Parameters
        ----------
        patterns, probe : tensor
            As in :meth:`forward`.
        max_disks : int
            At most so many in a pattern.
        """
        answers, correlation = self(patterns, probe)
        scale, base = self._intensity_scale(correlation)
        probability = torch.sigmoid(answers[:, 0])
        # one answer in the neighbourhood of a disk's radius
        reach = 2 * round(0.4 * self.radius / _STRIDE) + 1
        highest = functional.max_pool2d(probability, reach, 1, reach // 2)
        candidates = (probability * (probability == highest)).flatten(1)
        confidence, index = candidates.topk(min(max_disks, candidates.shape[1]), dim=1)
        cell = self._cells(answers).flatten(0, 1)[index]

        def at(maps):
            return maps.flatten(1).gather(1, index)

        row, column = cell[..., 0] + at(answers[:, 1]), cell[..., 1] + at(answers[:, 2])
        inside = (row > -0.5) & (row < patterns.shape[1] - 0.5)
        inside &= (column > -0.5) & (column < patterns.shape[2] - 0.5)
        intensity = at(scale) * torch.sinh((at(base) + at(answers[:, 4])).clamp(-20, 20))
        return Disks(
            row, column, intensity.clamp_min(0), confidence * inside,
            torch.exp(at(answers[:, 3]).clamp(-4, 2)),
        )  # fmt: skip


def _even(n: int) -> int:
    """Return the next size that FFTs are fast for."""
    return 16 * math.ceil(n / 16)


def _padded(patterns: torch.Tensor) -> torch.Tensor:
    step = 2**_HALVINGS
    rows, columns = (-n % step for n in patterns.shape[1:])
    return functional.pad(patterns, (0, columns, 0, rows))


def _doubled(x: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(x, scale_factor=2, mode="nearest")
