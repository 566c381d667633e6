"""Where exactly a disk lies: a small network that looks at the surroundings of each disk alone, at full resolution."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from pyxem_dl.preprocessing import rescale

# Samples along the radius of a disk, and how many radii are looked at to each side
_SAMPLES, _REACH = 10, 1.7
_HALF = math.ceil(_REACH * _SAMPLES)
# Samples along each side of the surroundings of a disk
PATCH_SIZE = 2 * _HALF + 1
# Disks with a larger radius (px) are made smaller before they are sampled, so that no count is lost between samples
_LARGEST = 13.0


class Placement(nn.Module):
    """Place disks to a fraction of a pixel, and say how well.

    The U-Net answers cell by cell with the same weights everywhere, and sees patterns that are made coarser.  Here
    each place around the disk has its own weights, and the edge of a disk can be told from the bands inside of it.

    Parameters
    ----------
    widths : tuple of int
        Channels of the four convolutions and of the layer behind them.
    dropout : float
        In front of the answer.
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
        self.answer = nn.Linear(widths[-1], 3)
        nn.init.zeros_(self.answer.bias)

    def forward(self, patches: torch.Tensor, probe: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Say how far the disks' centres are from the middles of their surroundings.

        Parameters
        ----------
        patches : tensor, shape (p, PATCH_SIZE, PATCH_SIZE)
            From :func:`cut_patches`.
        probe : tensor, shape (p or 1, PATCH_SIZE, PATCH_SIZE)
            From :func:`probe_patch`.

        Returns
        -------
        offset : tensor, shape (p, 2)
            Of row and column, in radii.
        log_error : tensor, shape (p,)
            Logarithm of the standard deviation of row and column, in radii.
        """
        highest = patches.amax((-1, -2), keepdim=True).clamp_min(1e-3)
        shape = probe / probe.amax((-1, -2), keepdim=True).clamp_min(1e-12)
        channels = torch.log1p(patches), (patches / highest).sqrt(), shape.expand_as(patches)
        features = self.layers(torch.stack(channels, dim=1))
        # bfloat16 knows no hundredths of a pixel
        with torch.autocast(patches.device.type, enabled=False):
            answer = self.answer(self.dropout(features.float()))
        return answer[:, :2], answer[:, 2].clamp(-8, 0)

    def loss(self, patches: torch.Tensor, probe: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        """Negative logarithm of the likelihood of the true offsets (p, 2), in radii."""
        found, log_error = self(patches, probe)
        square = (found - offset).square().sum(1)
        return (0.5 * square * torch.exp(-2 * log_error) + 2 * log_error).mean()


def cut_patches(
    patterns: torch.Tensor, pattern: torch.Tensor, position: torch.Tensor, radius: float
) -> torch.Tensor:
    """Sample the surroundings of disks.

    Parameters
    ----------
    patterns : tensor, shape (n, rows, columns)
        Counts, as the detector has them.
    pattern : tensor of int, shape (p,)
        In which each disk is.
    position : tensor, shape (p, 2)
        Row and column in px.
    radius : float
        Of the disks in px.

    Returns
    -------
    tensor, shape (p, PATCH_SIZE, PATCH_SIZE)
        Counts per sample, ten of which make a radius; 0 beyond the border.
    """
    if radius > _LARGEST:
        factor = _SAMPLES / radius
        patterns, position, radius = rescale(patterns, factor), (position + 0.5) * factor - 0.5, float(_SAMPLES)
    step = radius / _SAMPLES
    margin = math.ceil(_HALF * step) + 2
    position = position.nan_to_num()  # a device stops at an index that is none
    padded = functional.pad(patterns, (margin,) * 4)
    offsets = (torch.arange(PATCH_SIZE, device=patterns.device) - _HALF) * step + margin
    rows, columns = (
        (position[:, i, None] + offsets).clamp(0, padded.shape[1 + i] - 1.001) for i in (0, 1)
    )
    top, left = rows.floor().long(), columns.floor().long()
    down, right = (rows - top)[:, :, None], (columns - left)[:, None]

    def at(row, column):
        return padded[pattern[:, None, None], row[:, :, None], column[:, None]]

    upper = at(top, left) * (1 - right) + at(top, left + 1) * right
    lower = at(top + 1, left) * (1 - right) + at(top + 1, left + 1) * right
    return (upper * (1 - down) + lower * down) * step**2


def probe_patch(image: torch.Tensor, radius: float) -> torch.Tensor:
    """Sample a probe (size, size), whose centre is its middle pixel, as the surroundings of disks are."""
    middle = torch.full((1, 2), float(image.shape[-1] // 2), device=image.device)
    return cut_patches(image[None], torch.zeros(1, dtype=torch.long, device=image.device), middle, radius)


def places_to_look_at(which: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of a table that are computed.

    Parameters
    ----------
    which : tensor of bool, shape (n, m)
        What is wanted.

    Returns
    -------
    rows, columns : tensor of int, shape (p,)
        Of what is wanted, on a CPU.  On a device of the whole table: how much is wanted, the host would have to wait for.
    """
    if which.device.type == "cpu":
        return which.nonzero(as_tuple=True)
    place = torch.arange(which.numel(), device=which.device)
    return torch.div(place, which.shape[1], rounding_mode="floor"), place % which.shape[1]


def in_blocks(function, size: int, *columns: torch.Tensor) -> list[torch.Tensor]:
    """Call a function with blocks of one size, so that what it gives for a row does not depend on how many there are.

    Parameters
    ----------
    function : callable
        Takes a block of each of the columns, returns a tuple of tensors of its length.
    size : int
        Of the blocks; the last one is padded with its last row.
    *columns : tensor, shape (n, ...)
        With n at least 1.
    """
    n, parts = len(columns[0]), []
    for start in range(0, n, size):
        block = [column[start : start + size] for column in columns]
        missing = size - len(block[0])
        if missing:
            block = [torch.cat([x, x[-1:].expand(missing, *x.shape[1:])]) for x in block]
        parts.append(function(*block))
    return [torch.cat(column)[:n] for column in zip(*parts, strict=True)]
