"""What a disk tells, read at full resolution: where it lies, how far from Bragg's condition, how strong it is."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from pyxem_dl.networks.folding import folded
from pyxem_dl.patterns.patches import PATCH_SIZE
from pyxem_dl.patterns.views import DiskViews
from pyxem_dl.preprocessing.elementary import log_1p, square_root

N_NUMBERS = 8
_N_CHANNELS = 5
# Of the parts of the loss
_WEIGHTS = {"position": 1.0, "excitation_error": 0.3, "potential": 0.3}


class DiskReadings(NamedTuple):
    """What is read of disks (p, ...).

    ``offset (p, 2)`` along g and across it, in radii, and its ``log_error (p, 2)``: logarithms of the standard
    deviations.  ``distance (p,)``: inverse hyperbolic sine of the modulus of the excitation error in half ranges,
    ``log_distance_error`` of it, and ``side``: logit of its being positive.  ``log_phase (p,)``: logarithm of the
    phase (radians) by which the projected potential turns the electrons' wave, and ``log_phase_error``, the logarithm
    of its standard deviation.
    """

    offset: torch.Tensor
    log_error: torch.Tensor
    distance: torch.Tensor
    log_distance_error: torch.Tensor
    side: torch.Tensor
    log_phase: torch.Tensor
    log_phase_error: torch.Tensor


class DiskReader(nn.Module):
    """Read disks: a convolutional network on the surroundings of each.

    The U-Net predicts cell by cell with the same weights everywhere, and sees patterns that are made coarser.  Here
    each place around the disk has its own weights, and since all disks are turned to g, the edge of a disk can be told
    from the bands inside of it, which run across g.

    Parameters
    ----------
    widths : tuple of int
        Channels of the four convolutions and of the layer behind them.
    dropout : float
        In front of the last layer.
    """

    def __init__(self, widths: tuple[int, ...] = (32, 48, 64, 96, 192), dropout: float = 0.02) -> None:
        super().__init__()
        layers, channels = [], _N_CHANNELS
        for width, size, stride in zip(widths, (5, 3, 3, 3), (2, 1, 2, 2), strict=False):
            layers += [
                nn.Conv2d(channels, width, size, stride, size // 2, bias=False),
                nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            ]  # fmt: skip
            channels = width
        left = math.ceil(PATCH_SIZE / 8)
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.joined = nn.Linear(channels * left**2 + N_NUMBERS, widths[-1])
        self.hidden = nn.Linear(widths[-1] + N_NUMBERS, widths[-1])
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(widths[-1], 9)
        nn.init.zeros_(self.last.bias)

    def forward(self, views: DiskViews) -> DiskReadings:
        """Read disks as :func:`~pyxem_dl.patterns.views.look_at` shows them."""
        highest = views.patches.amax((-1, -2), keepdim=True).clamp_min(1e-3)
        shape = views.probe / views.probe.amax((-1, -2), keepdim=True).clamp_min(1e-12)
        channels = (
            log_1p(views.patches), square_root(views.patches / highest), shape.expand_as(views.patches),
            log_1p(views.others), views.seen.expand_as(views.patches),
        )  # fmt: skip
        features = torch.stack(channels, dim=1).contiguous(memory_format=torch.channels_last)
        features = (self.layers if self.training else folded(self.layers))(features)
        features = functional.relu(self.joined(torch.cat([features, views.numbers.to(features)], dim=1)))
        features = functional.relu(self.hidden(torch.cat([features, views.numbers.to(features)], dim=1)))
        # bfloat16 knows no hundredths of a pixel
        with torch.autocast(features.device.type, enabled=False):
            raw = self.last(self.dropout(features.float()))
        return DiskReadings(
            raw[:, :2], raw[:, 2:4].clamp(-8, 0), raw[:, 4], raw[:, 5].clamp(-5, 2), raw[:, 6], raw[:, 7],
            raw[:, 8].clamp(-5, 2),
        )  # fmt: skip

    def loss(self, views: DiskViews, truth: DiskTruth) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Negative logarithms of the likelihoods of what is true."""
        read = self(views)
        wrong = (read.offset - truth.offset).square()
        position = (0.5 * wrong * torch.exp(-2 * read.log_error) + read.log_error).sum(1).mean()
        # the modulus and the sign apart: bands tell how far it is to Bragg's condition, hardly to which side
        modulus, sigma = truth.distance.abs().asinh(), read.log_distance_error
        distance = 0.5 * (read.distance - modulus).square() * torch.exp(-2 * sigma) + sigma
        side = functional.binary_cross_entropy_with_logits(read.side, (truth.distance > 0).float(), reduction="none")
        phase = 0.5 * (read.log_phase - truth.log_phase).square() * torch.exp(-2 * read.log_phase_error)
        phase = phase + read.log_phase_error
        with_range, with_phase = truth.has_distance.float(), truth.has_phase.float()
        parts = {
            "position": position,
            "excitation_error": ((distance + side) * with_range).sum() / with_range.sum().clamp_min(1),
            "potential": (phase * with_phase).sum() / with_phase.sum().clamp_min(1),
        }
        loss = sum(weight * parts[name] for name, weight in _WEIGHTS.items())
        return loss, {name: value.detach() for name, value in parts.items()}


class DiskTruth(NamedTuple):
    """What is true of disks.

    ``offset (p, 2)`` along g and across it, in radii; ``distance (p,)`` from Bragg's condition in half ranges;
    ``log_phase (p,)``; and whether the two are known.
    """

    offset: torch.Tensor
    distance: torch.Tensor
    log_phase: torch.Tensor
    has_distance: torch.Tensor
    has_phase: torch.Tensor
