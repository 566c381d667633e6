"""Where exactly a disk lies: a small network that looks at the surroundings of each disk alone, at full resolution."""

from __future__ import annotations

import math

import torch
from torch import nn

from pyxem_dl.networks.folding import folded
from pyxem_dl.patterns.patches import PATCH_SIZE
from pyxem_dl.preprocessing.elementary import log_1p, square_root


class SubpixelLocalisation(nn.Module):
    """Localise disks to a fraction of a pixel, and say how well.

    The U-Net predicts cell by cell with the same weights everywhere, and sees patterns that are made coarser.  Here
    each place around the disk has its own weights, and the edge of a disk can be told from the bands inside of it.

    Parameters
    ----------
    widths : tuple of int
        Channels of the four convolutions and of the layer behind them.
    dropout : float
        In front of the last layer.
    """

    def __init__(self, widths: tuple[int, ...] = (24, 32, 48, 64, 128), dropout: float = 0.02) -> None:
        super().__init__()
        layers, channels = [], 3
        for width, size, stride in zip(widths, (5, 3, 3, 3), (2, 1, 2, 2), strict=False):
            layers += [
                nn.Conv2d(channels, width, size, stride, size // 2, bias=False),
                nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            ]  # fmt: skip
            channels = width
        left = math.ceil(PATCH_SIZE / 8)
        layers += [nn.Flatten(), nn.Linear(channels * left**2, widths[-1]), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.answer = nn.Linear(widths[-1], 3)  # called so in the files of weights
        nn.init.zeros_(self.answer.bias)

    def forward(self, patches: torch.Tensor, probe: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Say how far the disks' centres are from the middles of their surroundings.

        Parameters
        ----------
        patches : tensor, shape (p, PATCH_SIZE, PATCH_SIZE)
            From :func:`~pyxem_dl.patterns.patches.cut_patches`.
        probe : tensor, shape (p or 1, PATCH_SIZE, PATCH_SIZE)
            From :func:`~pyxem_dl.patterns.patches.probe_patch`.

        Returns
        -------
        offset : tensor, shape (p, 2)
            Of row and column, in radii.
        log_error : tensor, shape (p,)
            Logarithm of the standard deviation of row and column, in radii.
        """
        highest = patches.amax((-1, -2), keepdim=True).clamp_min(1e-3)
        shape = probe / probe.amax((-1, -2), keepdim=True).clamp_min(1e-12)
        channels = log_1p(patches), square_root(patches / highest), shape.expand_as(patches)
        features = torch.stack(channels, dim=1).contiguous(memory_format=torch.channels_last)
        features = (self.layers if self.training else folded(self.layers))(features)
        # bfloat16 knows no hundredths of a pixel
        with torch.autocast(patches.device.type, enabled=False):
            prediction = self.answer(self.dropout(features.float()))
        return prediction[:, :2], prediction[:, 2].clamp(-8, 0)

    def loss(self, patches: torch.Tensor, probe: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        """Negative logarithm of the likelihood of the true offsets (p, 2), in radii."""
        found, log_error = self(patches, probe)
        square = (found - offset).square().sum(1)
        return (0.5 * square * torch.exp(-2 * log_error) + 2 * log_error).mean()
