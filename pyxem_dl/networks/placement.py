"""Where exactly a disk lies: a small network that looks at the surroundings of each disk alone."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

# What is looked at, in radii of the disk around the pixel where it was found
_REACH = 2.2
# How far off (radii) disks are found at in the training: most a little, some far
_OFF, _FAR_OFF, _FAR_SHARE = 0.2, 0.5, 0.15


class Placement(nn.Module):
    """Place disks to a fraction of a pixel, and say how well.

    The U-Net answers cell by cell with the same weights everywhere; here each pixel around the disk
    has its own weights, so that edges count more than the uneven inside.

    Parameters
    ----------
    n_channels : int
        Of the correlation layer.
    radius : float
        Of the disks, in px.
    widths : tuple of int
        Channels of the three convolutions and of the layer behind them.
    dropout : float
        In front of the answer.
    """

    def __init__(
        self, n_channels: int, radius: float, widths: tuple[int, ...] = (24, 32, 32, 96), dropout: float = 0.02
    ) -> None:
        super().__init__()
        self.radius, self.reach = radius, math.ceil(_REACH * radius)
        first, second, third, last = widths
        size = (((2 * self.reach + 1 - 5) // 2 + 1 - 2) - 3) // 2 + 1
        self.layers = nn.Sequential(
            nn.Conv2d(n_channels, first, 5, 2, bias=False), nn.BatchNorm2d(first), nn.ReLU(inplace=True),
            nn.Conv2d(first, second, 3, bias=False), nn.BatchNorm2d(second), nn.ReLU(inplace=True),
            nn.Conv2d(second, third, 3, 2, bias=False), nn.BatchNorm2d(third), nn.ReLU(inplace=True),
            nn.Flatten(), nn.Linear(third * size**2, last), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.dropout = nn.Dropout(dropout)
        self.answer = nn.Linear(last, 3)
        nn.init.zeros_(self.answer.bias)

    def forward(self, channels: torch.Tensor, pattern: torch.Tensor, position: torch.Tensor):
        """Place disks.

        Parameters
        ----------
        channels : tensor, shape (n, channels, rows, columns)
            Of the correlation layer.
        pattern : tensor of int, shape (p,)
            In which each disk is.
        position : tensor, shape (p, 2)
            Row and column where it was found, in px.

        Returns
        -------
        position : tensor, shape (p, 2)
            Where it is, in px.
        log_error : tensor, shape (p,)
            Logarithm of the standard deviation of row and column, in px.
        """
        with torch.autocast(channels.device.type, enabled=False):
            nearest = position.round()
            answer = self.answer(self.dropout(self.layers(self._patches(channels.float(), pattern, nearest.long()))))
        return nearest + answer[:, :2], answer[:, 2].clamp(-4, 2)

    def _patches(self, channels, pattern, nearest) -> torch.Tensor:
        """Surroundings (p, channels, size, size) of pixels (p, 2)."""
        padded = functional.pad(channels, (self.reach,) * 4)
        steps = torch.arange(2 * self.reach + 1, device=channels.device)
        rows = (nearest[:, :1] + steps).clamp(0, padded.shape[2] - 1)
        columns = (nearest[:, 1:] + steps).clamp(0, padded.shape[3] - 1)
        cut = padded.permute(0, 2, 3, 1)[pattern[:, None, None], rows[:, :, None], columns[:, None]]
        return cut.permute(0, 3, 1, 2)

    def loss(self, channels, positions, visible) -> torch.Tensor:
        """Negative logarithm of the likelihood of the true positions, from places a little off.

        Parameters
        ----------
        channels : tensor, shape (n, channels, rows, columns)
            Of the correlation layer.
        positions : tensor, shape (n, m, 2)
            True centres (row, column) in px.
        visible : tensor of bool, shape (n, m)
            Disks that can be seen.
        """
        pattern, which = visible.nonzero(as_tuple=True)
        truth = positions[pattern, which]
        share = torch.rand(len(truth), 1, device=truth.device)
        off = torch.where(share < _FAR_SHARE, _FAR_OFF, _OFF) * self.radius * torch.randn_like(truth)
        off = off.clamp(-self.radius, self.radius)
        placed, log_error = self(channels, pattern, truth + off)
        square = (placed - truth).square().sum(1)
        # a batch may show no disk at all
        return (0.5 * square * torch.exp(-2 * log_error) + 2 * log_error).sum() / max(1, len(truth))
