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
from pyxem_dl.rotations import full_float32

N_NUMBERS = 8
_N_CHANNELS = 6
# Of the parts of the loss. With a smaller part for excitation errors it takes long until their sign is learnt at all
_WEIGHTS = {"position": 1.0, "excitation_error": 1.0, "potential": 0.5, "thickness": 0.5}


class DiskReadings(NamedTuple):
    """What is read of disks (p, ...).

    ``offset (p, 2)`` along g and across it, in radii, and its ``log_error (p, 2)``: logarithms of the standard
    deviations.  ``distance (p,)``: inverse hyperbolic sine of the modulus of the excitation error in half ranges,
    ``log_distance_error`` of it, and ``side``: logit of its being positive.  ``log_phase (p,)``: logarithm of the
    phase (radians) by which the projected potential turns the electrons' wave, and ``log_phase_error``, the logarithm
    of its standard deviation.  ``log_thickness`` and ``log_thickness_error`` likewise of the thickness in units of
    1 / half range: how many fringes are in half of the disk.  It is the same crystal for all disks of a pattern: who
    knows the thickness knows what is bright for being strong, and what for being near its Bragg condition.
    """

    offset: torch.Tensor
    log_error: torch.Tensor
    distance: torch.Tensor
    log_distance_error: torch.Tensor
    side: torch.Tensor
    log_phase: torch.Tensor
    log_phase_error: torch.Tensor
    log_thickness: torch.Tensor
    log_thickness_error: torch.Tensor


class PatternContext(nn.Module):
    """What all disks of a pattern tell each of them: a weighted mean of what each says, in the frame of its own g.

    Disks of one pattern share the thickness and the tilt of the crystal.  Numbers that turn with the pattern are means
    of ``value x exp(i m angle)`` with m = 1 and 2, and each disk is told them relative to its own direction: turning a
    pattern changes nothing.

    Parameters
    ----------
    n_features : int
        That a disk has.
    n_channels : int
        Means of each kind, each with weights of its own.
    """

    def __init__(self, n_features: int, n_channels: int = 12) -> None:
        super().__init__()
        self.n_channels = n_channels
        self.say = nn.Sequential(
            nn.Linear(n_features, 96), nn.ReLU(inplace=True), nn.Linear(96, 4 * n_channels)
        )
        self.n_numbers = 5 * n_channels + 1

    def forward(self, features: torch.Tensor, views: DiskViews, n: int) -> torch.Tensor:
        """From features (p, n_features) of the disks of n patterns to what is known of theirs, (p, n_numbers)."""
        said = self.say(features).float()
        logit, *values = said.split(self.n_channels, dim=1)
        # of one pattern after the other, in the order of its disks: a sum does not depend on what is beside it
        weight = torch.exp(logit.clamp(-12, 12)) * views.there
        values = [torch.where(views.there > 0, x, 0) for x in values]
        cos, sin = views.direction[:, 1:], views.direction[:, :1]
        turns = not_beam(views)
        cos, sin = cos * turns, sin * turns
        twice = cos**2 - sin**2, 2 * sin * cos
        columns = [values[0], values[1] * cos, values[1] * sin, values[2] * twice[0], values[2] * twice[1]]
        sums = _over_pattern(torch.cat([weight, *(weight * x for x in columns), views.there], 1), views.pattern, n)
        total, same, x1, y1, x2, y2, count = sums.split([self.n_channels] * 6 + [1], dim=1)
        told = [
            same, x1 * cos + y1 * sin, y1 * cos - x1 * sin, x2 * twice[0] + y2 * twice[1], y2 * twice[0] - x2 * twice[1]
        ]  # fmt: skip
        told = [x / total.clamp_min(1e-6) for x in told]
        return torch.cat([*told, count.clamp_min(1).log() / 2 - 1], dim=1)


def not_beam(views: DiskViews) -> torch.Tensor:
    """1 for each disk (p, 1) but the direct beam, which has no direction."""
    return 1 - views.numbers[:, -1:]


def _over_pattern(x: torch.Tensor, pattern: torch.Tensor, n: int) -> torch.Tensor:
    """Sum of rows (p, k) over the disks of the same one of n patterns, for each disk."""
    if x.device.type == "cpu":
        return x.new_zeros(n, x.shape[1]).index_add(0, pattern, x)[pattern]
    # where many threads add up, only a product of matrices does it in one order
    same = (pattern == torch.arange(n, device=x.device)[:, None]).to(x)
    with full_float32():
        return (same @ x)[pattern]


class DiskReader(nn.Module):
    """Read disks: a convolutional network on the surroundings of each, and what the disks of a pattern have in common.

    The U-Net predicts cell by cell with the same weights everywhere, and sees patterns that are made coarser.  Here
    each place around the disk has its own weights, and since all disks are turned to g, the edge of a disk can be told
    from the bands inside of it, which run across g.

    Parameters
    ----------
    widths : tuple of int
        Channels of the four convolutions and of the layer behind them.
    strides : tuple of int
        Of the convolutions; together 8.
    dropout : float
        In front of the last layer.
    """

    def __init__(
        self, widths: tuple[int, ...] = (32, 48, 64, 96, 160), strides: tuple[int, ...] = (2, 2, 1, 2),
        dropout: float = 0.02,
    ) -> None:  # fmt: skip
        super().__init__()
        layers, channels = [], _N_CHANNELS
        for width, size, stride in zip(widths, (5, 3, 3, 3), strides, strict=False):
            layers += [
                nn.Conv2d(channels, width, size, stride, size // 2, bias=False),
                nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            ]  # fmt: skip
            channels = width
        left = math.ceil(PATCH_SIZE / 8)
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.joined = nn.Linear(channels * left**2 + N_NUMBERS, widths[-1])
        self.context = PatternContext(widths[-1] + N_NUMBERS)
        self.hidden = nn.Linear(widths[-1] + N_NUMBERS + self.context.n_numbers, widths[-1])
        self.again = PatternContext(widths[-1])
        self.hidden_2 = nn.Linear(widths[-1] + self.again.n_numbers, widths[-1])
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Linear(widths[-1], 11)
        nn.init.zeros_(self.last.bias)

    def forward(self, views: DiskViews) -> DiskReadings:
        """Read disks as :func:`~pyxem_dl.patterns.views.look_at` shows them."""
        return self.conclude(self.look(views), views, int(views.pattern.max()) + 1)

    def look(self, views: DiskViews) -> torch.Tensor:
        """Features (p, n) of disks, each seen alone."""
        highest = views.patches.amax((-1, -2), keepdim=True).clamp_min(1e-3)
        shape = views.probe / views.probe.amax((-1, -2), keepdim=True).clamp_min(1e-12)
        # what is not symmetric about the middle tells the sign of an excitation error
        turned = views.patches.flip(2)
        odd = (views.patches - turned) / square_root(views.patches + turned + 1)
        channels = (
            log_1p(views.patches), square_root(views.patches / highest), shape.expand_as(views.patches),
            log_1p(views.others), views.seen.expand_as(views.patches), log_1p(odd.abs()).copysign_(odd),
        )  # fmt: skip
        features = torch.stack(channels, dim=1).contiguous(memory_format=torch.channels_last)
        features = (self.layers if self.training else folded(self.layers))(features)
        return functional.relu(self.joined(torch.cat([features, views.numbers.to(features)], dim=1)))

    def conclude(self, features: torch.Tensor, views: DiskViews, n: int) -> DiskReadings:
        """Read disks from the features of all disks of n patterns."""
        # bfloat16 knows no hundredths of a pixel
        with torch.autocast(features.device.type, enabled=False):
            features = torch.cat([features.float(), views.numbers], dim=1)
            # what disks tell each other twice: first what each has seen, then what it makes of what the others have
            features = functional.relu(self.hidden(torch.cat([features, self.context(features, views, n)], dim=1)))
            features = functional.relu(self.hidden_2(torch.cat([features, self.again(features, views, n)], dim=1)))
            raw = self.last(self.dropout(features))
        return DiskReadings(
            raw[:, :2], raw[:, 2:4].clamp(-8, 0), raw[:, 4], raw[:, 5].clamp(-5, 2), raw[:, 6], raw[:, 7],
            raw[:, 8].clamp(-5, 2), raw[:, 9], raw[:, 10].clamp(-5, 2),
        )  # fmt: skip

    def loss(self, views: DiskViews, truth: DiskTruth) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Negative logarithms of the likelihoods of what is true."""
        read = self(views)
        wrong = (read.offset - truth.offset).square()
        position = (0.5 * wrong * torch.exp(-2 * read.log_error) + read.log_error).sum(1).mean()
        # the modulus and the sign apart: bands tell how far it is to Bragg's condition, hardly to which side
        modulus, sigma = truth.distance.abs().asinh(), read.log_distance_error
        distance = _unlikely(read.distance, sigma, modulus)
        side = functional.binary_cross_entropy_with_logits(read.side, (truth.distance > 0).float(), reduction="none")
        phase = _unlikely(read.log_phase, read.log_phase_error, truth.log_phase)
        thickness = _unlikely(read.log_thickness, read.log_thickness_error, truth.log_thickness)
        with_range, with_phase = truth.has_distance.float(), truth.has_phase.float()
        parts = {
            "position": position,
            "excitation_error": ((distance + side) * with_range).sum() / with_range.sum().clamp_min(1),
            "potential": (phase * with_phase).sum() / with_phase.sum().clamp_min(1),
            "thickness": (thickness * with_range).sum() / with_range.sum().clamp_min(1),
        }
        loss = sum(weight * parts[name] for name, weight in _WEIGHTS.items())
        return loss, {name: value.detach() for name, value in parts.items()}


class DiskTruth(NamedTuple):
    """What is true of disks.

    ``offset (p, 2)`` along g and across it, in radii; ``distance (p,)`` from Bragg's condition in half ranges;
    ``log_phase (p,)``; ``log_thickness (p,)`` in 1 / half range; and whether there are such (not for the direct beam).
    """

    offset: torch.Tensor
    distance: torch.Tensor
    log_phase: torch.Tensor
    log_thickness: torch.Tensor
    has_distance: torch.Tensor
    has_phase: torch.Tensor


def _unlikely(mean: torch.Tensor, log_error: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Negative logarithm of a normal distribution's density, less a constant."""
    return 0.5 * (mean - truth).square() * torch.exp(-2 * log_error) + log_error
