"""Surroundings of disks, cut out of patterns at sub-pixel positions."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch.nn import functional

from pyxem_dl.devices import padded
from pyxem_dl.patterns.correlation import soft_disk
from pyxem_dl.preprocessing import rescale

# Samples along the radius of a disk, and how many radii are looked at to each side
_SAMPLES, _REACH = 10, 1.7
_HALF = math.ceil(_REACH * _SAMPLES)
# Samples along each side of the surroundings of a disk
PATCH_SIZE = 2 * _HALF + 1
# Disks with a larger radius (px) are made smaller before they are sampled, so that no count is lost between samples
_LARGEST = 13.0
# So many of the strongest neighbours of a disk are told of
_NEIGHBOURS = 4


def cut_patches(
    patterns: torch.Tensor,
    pattern: torch.Tensor,
    position: torch.Tensor,
    radius: float,
    direction: torch.Tensor,
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
    direction : tensor, shape (p, 2)
        Unit vectors along (row, column): the surroundings are turned so that their columns run along them.

    Returns
    -------
    tensor, shape (p, PATCH_SIZE, PATCH_SIZE)
        Counts per sample, ten of which make a radius; 0 beyond the border.
    """
    if radius > _LARGEST:
        factor = _SAMPLES / radius
        patterns, position, radius = rescale(patterns, factor), (position + 0.5) * factor - 0.5, float(_SAMPLES)
    step = radius / _SAMPLES
    position = position.nan_to_num()  # a device stops at an index that is none
    half = math.ceil(math.sqrt(2) * _HALF * step) + 1
    first = position.floor()
    square = _cut(patterns, pattern, first.long() - half, 2 * half + 2)
    # in units of half the square, from its middle, as the grid wants it
    unit = half + 0.5
    return _sample(square, (position - first - 0.5) / unit, direction, _HALF * step / unit) * step**2


def turned_probe(image: torch.Tensor, radius: float, direction: torch.Tensor) -> torch.Tensor:
    """Sample a probe (size, size) of a radius (px) as :func:`cut_patches` does disks, turned to directions (p, 2)."""
    half = image.shape[-1] // 2
    # its middle pixel is not the middle of an image with an even size
    unit = (image.shape[-1] - 1) / 2
    middle = torch.full_like(direction, (half - unit) / unit)
    images, reach = image.expand(len(direction), -1, -1), _HALF * radius / _SAMPLES
    return _sample(images, middle, direction, reach / unit) * (radius / _SAMPLES) ** 2


def _sample(images: torch.Tensor, middle, direction, reach: float) -> torch.Tensor:
    """Sample images (p, size, size) on turned squares; places and `reach` in half images, from their middles."""
    row, column = direction.unbind(1)
    # x before y: the columns of the square run along the direction, its rows across it
    matrix = torch.stack([column, -row, row, column], dim=1).unflatten(1, (2, 2)) * reach
    theta = torch.cat([matrix, middle.flip(1)[..., None]], dim=2)
    grid = functional.affine_grid(theta, [len(images), 1, PATCH_SIZE, PATCH_SIZE], align_corners=True)
    return functional.grid_sample(images[:, None], grid, align_corners=True)[:, 0]


def on_detector(
    shape: tuple[int, int], position: torch.Tensor, radius: float, direction: torch.Tensor
) -> torch.Tensor:
    """Tell which samples of the surroundings of disks lie on a detector.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns of the detector.
    position, radius, direction
        As in :func:`cut_patches`.

    Returns
    -------
    tensor of bool, shape (p, PATCH_SIZE, PATCH_SIZE)
    """
    at = (torch.arange(PATCH_SIZE, device=position.device) - _HALF) * (radius / _SAMPLES)
    row, column = direction[:, 0, None, None], direction[:, 1, None, None]
    along, across = at, at[:, None]
    y = position[:, 0, None, None] + row * along + column * across
    x = position[:, 1, None, None] + column * along - row * across
    return ((y - (shape[0] - 1) / 2).abs() <= shape[0] / 2) & ((x - (shape[1] - 1) / 2).abs() <= shape[1] / 2)


class Neighbours(NamedTuple):
    """What is known of all disks of patterns: ``places (n, m, 2)`` in px, and ``amount (n, m)``, their counts."""

    places: torch.Tensor
    amount: torch.Tensor


def other_disks(
    known: Neighbours, pattern: torch.Tensor, rank: torch.Tensor, position: torch.Tensor, radius: float,
    direction: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """Draw what the neighbours of disks leave in their surroundings, as even disks.

    Parameters
    ----------
    known : Neighbours
        All disks.
    pattern, rank : tensor of int, shape (p,)
        Which of them are looked at.
    position, radius, direction
        As in :func:`cut_patches`: the middles of the surroundings, which need not be where the disks are known to be.

    Returns
    -------
    tensor, shape (p, PATCH_SIZE, PATCH_SIZE)
        Counts per sample.
    """
    away = (known.places[pattern] - position[:, None]) * (_SAMPLES / radius)
    amount = known.amount[pattern].scatter(1, rank[:, None], 0)
    # so far from the middle of the surroundings a disk no longer reaches into them
    amount = amount * (away.norm(dim=-1) < math.sqrt(2) * _HALF + _SAMPLES)
    amount, index = amount.topk(min(_NEIGHBOURS, amount.shape[1]), dim=1)
    away = away.gather(1, index[..., None].expand(-1, -1, 2))
    along = (away * direction[:, None]).sum(-1)
    across = away[..., 0] * direction[:, None, 1] - away[..., 1] * direction[:, None, 0]
    at = torch.arange(PATCH_SIZE, device=away.device) - _HALF
    y, x = at[:, None] - across[..., None, None], at - along[..., None, None]
    distance = (y.square() + x.square()).sqrt_()
    return (soft_disk(distance, _SAMPLES) * (amount / (math.pi * _SAMPLES**2))[..., None, None]).sum(1)


def _cut(patterns: torch.Tensor, pattern: torch.Tensor, first: torch.Tensor, size: int) -> torch.Tensor:
    """Squares (p, size, size) of patterns (n, rows, columns) from the pixels `first` (p, 2) on; 0 beyond the border."""
    padded = functional.pad(patterns, (size,) * 4)
    rows, columns = padded.shape[1:]
    top, left = ((first[:, i] + size).clamp(0, n - size) for i, n in enumerate((rows, columns)))
    start = ((pattern * rows + top) * columns + left)[:, None] + columns * torch.arange(size, device=pattern.device)
    # whole lines at once: an index for each pixel takes ten times as long
    lines = padded.flatten().unfold(0, size, 1).index_select(0, start.flatten())
    return lines.unflatten(0, (len(pattern), size))


def places_to_look_at(which: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of a table that are computed.

    Parameters
    ----------
    which : tensor of bool, shape (n, m)
        What is wanted.

    Returns
    -------
    rows, columns : tensor of int, shape (p,)
        Of what is wanted, on a CPU.  On a device of the whole table: how much is wanted the host would have to wait
        for.
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
        parts.append(function(*(padded(column[start : start + size], size) for column in columns)))
    return [torch.cat(column)[:n] for column in zip(*parts, strict=True)]


def nearest_pixels(images: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """Values (n, m) of images (1 or n, rows, columns) in the pixels nearest to places (n, m, 2), rows and columns."""
    rows, columns = images.shape[1:]
    row, column = place.nan_to_num().round().long().unbind(-1)
    index = row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1)
    return images.flatten(1).expand(len(index), -1).gather(1, index)


def squares(
    patterns: torch.Tensor, pattern: torch.Tensor, position: torch.Tensor, half: int
) -> torch.Tensor:
    """Cut squares about positions out of patterns, pixel by pixel.

    Parameters
    ----------
    patterns : tensor, shape (n, rows, columns)
        Intensities.
    pattern : tensor of int, shape (p,)
        In which each position is.
    position : tensor, shape (p, 2)
        Row and column in px.
    half : int
        The squares reach to so many pixels at each side.

    Returns
    -------
    tensor, shape (p, 2 half + 1, 2 half + 1)
        Bilinear between pixels; 0 beyond the border.
    """
    first = position.floor()
    share = (position - first)[:, :, None, None]
    square = _cut(patterns, pattern, first.long() - half, 2 * half + 2)
    square = torch.lerp(square[:, :-1], square[:, 1:], share[:, 0])
    return torch.lerp(square[:, :, :-1], square[:, :, 1:], share[:, 1])
