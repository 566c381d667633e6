"""Local symmetry of an image: how well each part of it fits onto itself when it is shifted, turned or mirrored.

For one shift the product of the image with its shifted self is summed over windows: a correlation at every place for
one product, whatever the window.  Products are first summed over cells of about 1 Å; windows of any size are sums over
cells.  Before, the image is flattened: what is wider than the window is taken away, and the rest divided by its local
standard deviation.  Then a window that holds parts of two crystals has the mean of their correlations, in the shares of
their areas, however bright they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch
from torch.nn import functional

# Pixels that are computed with, in Å: the image is binned to about this
_WORKING_PIXEL = 0.24
# Between places that have a descriptor, and between shifts, in Å
_CELL, _SHIFT_STEP = 1.0, 0.36
# Shifts in Å: below the first, columns fit onto themselves; the longest is a share of the window
_SHORTEST, _LONGEST = 0.9, 5.0 / 12.0
# Standard deviations: of the blur in Å, of what is taken away and of the local contrast in windows
_BLUR, _HIGH_PASS, _LOCAL = 0.18, 0.12, 0.12


@dataclass(frozen=True)
class Grid:
    """Where descriptors are, and of which shifts.

    Parameters
    ----------
    pixel : float
        Of the image in Å.
    shape : tuple of int
        Of the image.
    window : float
        Side of the windows in Å.
    """

    pixel: float
    shape: tuple[int, int]
    window: float

    @cached_property
    def binning(self) -> int:
        """Pixels that become one, along each side."""
        return max(1, round(_WORKING_PIXEL / self.pixel))

    @property
    def working_pixel(self) -> float:
        """In Å, after the binning."""
        return self.pixel * self.binning

    @cached_property
    def cell(self) -> int:
        """Binned pixels of a cell, along each side."""
        return max(1, round(_CELL * max(1.0, self.window / 24) / self.working_pixel))

    @property
    def step(self) -> float:
        """Between descriptors, in Å."""
        return self.cell * self.working_pixel

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of descriptors."""
        return tuple(n // self.binning // self.cell for n in self.shape)

    @property
    def pixels(self) -> int:
        """Pixels of the image between descriptors."""
        return self.cell * self.binning

    @cached_property
    def shifts(self) -> list[tuple[int, int]]:
        """Shifts (rows, columns) in binned pixels, of a half plane."""
        longest = _LONGEST * self.window
        every = max(1, round(_SHIFT_STEP * longest / 5.0 / self.working_pixel))
        n = int(longest / self.working_pixel) // every * every
        steps = range(-n, n + 1, every)
        return [
            (i, j) for i in steps if i >= 0 for j in steps
            if (i > 0 or j > 0) and _SHORTEST <= self.working_pixel * math.hypot(i, j) <= longest
        ]  # fmt: skip

    @property
    def lengths(self) -> torch.Tensor:
        """Of the shifts, in Å."""
        return self.working_pixel * torch.tensor(self.shifts, dtype=torch.float32).norm(dim=1)

    def cells_of(self, length: float) -> float:
        """Length in Å, in cells."""
        return length / self.step


def binned(image: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Image in the pixels that are computed with."""
    return functional.avg_pool2d(image[None, None], grid.binning)[0, 0] if grid.binning > 1 else image


def flattened(image: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Take away what is wider than columns, and make the contrast the same everywhere.

    Parameters
    ----------
    image : tensor, shape (rows, columns)
        Finite.

    Returns
    -------
    tensor
        Binned; with a variance of about 1 in each window.
    """
    x = _columns_only(binned(image, grid), grid)
    power = gaussian(x * x, _LOCAL * grid.window / grid.working_pixel)
    return x / power.clamp_min(1e-12 * float(power.max()) + 1e-30).sqrt()


def _columns_only(x: torch.Tensor, grid: Grid) -> torch.Tensor:
    x = gaussian(x, _BLUR / grid.working_pixel)
    return x - gaussian(x, _HIGH_PASS * grid.window / grid.working_pixel)


def signal_share(image: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Which share of the variance of the flattened image is no noise.

    The noise is measured, not assumed: by the highest spatial frequencies of the binned image, in which an image of
    columns has nothing.

    Returns
    -------
    tensor, shape (rows, columns)
        Of the cells; from 0 to 1.
    """
    x = binned(image, grid)
    difference = torch.tensor([1.0, -2.0, 1.0], device=x.device)
    kernel = difference[:, None] * difference / 6
    padded = functional.pad(x[None, None], (1, 1, 1, 1), mode="reflect")
    noise = functional.conv2d(padded, kernel[None, None])[0, 0]
    noise, all_of_it = (_over_cells(gaussian(y * y, _LOCAL * grid.window / grid.working_pixel), grid)
                        for y in (noise, _columns_only(x, grid)))  # fmt: skip
    return (1 - flattened_noise(grid).gain * noise / all_of_it.clamp_min(1e-30)).clamp(0, 1)


class FlattenedNoise(NamedTuple):
    """What the flattening makes of white noise, but for the local contrast.

    ``gain`` of its variance; ``correlations (shifts,)`` with itself: neighbours become alike, and far ones opposite.
    """

    gain: float
    correlations: torch.Tensor


@lru_cache(maxsize=8)
def flattened_noise(grid: Grid) -> FlattenedNoise:
    """Tell what noise becomes, once for all frames of a size; on the CPU."""
    n = 2 * math.ceil(4 * _HIGH_PASS * grid.window / grid.working_pixel) + 1
    point = torch.zeros(n, n)
    point[n // 2, n // 2] = 1
    point = _columns_only(point, grid)
    every = torch.fft.irfft2(torch.fft.rfft2(point, s=(2 * n, 2 * n)).abs().square())
    rows, columns = (torch.tensor(each) for each in zip(*grid.shifts))
    inside = (rows.abs() < n) & (columns.abs() < n)
    found = torch.where(inside, every[rows % (2 * n), columns % (2 * n)], 0) / every[0, 0]
    return FlattenedNoise(float(point.square().sum()), found)


class Correlations:
    """Correlations of an image with its shifted self, in windows of any size.

    Parameters
    ----------
    image : tensor, shape (rows, columns)
        Finite, on the device.
    grid : Grid
        Of it.
    """

    def __init__(self, image: torch.Tensor, grid: Grid) -> None:
        self.grid = grid
        x = flattened(image, grid)
        (rows, columns), c = grid.cells, grid.cell
        most = max(max(abs(i), abs(j)) for i, j in grid.shifts)
        # what lies outside of the image is 0, and does not count
        padded = functional.pad(x, (most, most + c, most, most + c))
        self.sums = x.new_empty(len(grid.shifts), rows, columns)
        self.pairs = x.new_empty(len(grid.shifts), rows), x.new_empty(len(grid.shifts), columns)
        sides = (rows, x.shape[0]), (columns, x.shape[1])
        masks = [functional.pad(torch.ones(n, device=x.device), (most, most + c)) for _, n in sides]
        for k, shift in enumerate(grid.shifts):
            first, second = zip(*((most - s // 2, most - s // 2 + s) for s in shift))
            a, b = (padded[i : i + rows * c, j : j + columns * c] for i, j in (first, second))
            self.sums[k] = functional.avg_pool2d((a * b)[None, None], c)[0, 0]
            for pairs, mask, (n, _), i, j in zip(self.pairs, masks, sides, first, second):
                pairs[k] = (mask[i : i + n * c] * mask[j : j + n * c]).view(n, c).mean(1)
        noise = flattened_noise(grid).correlations.to(x.device)[:, None, None] * (1 - signal_share(image, grid))
        self.sums -= noise * self.pairs[0][:, :, None] * self.pairs[1][:, None, :]

    def within(self, window: float) -> torch.Tensor:
        """Mean correlations (shifts, rows, columns) in windows of a side in Å.

        They weigh what is near the middle more, as a triangle does.
        """
        n = max(3, int(window / self.grid.step / 2) | 1)
        sums = _box(_box(self.sums, n, (1, 2)), n, (1, 2))
        along = [_box(_box(pairs, n, (1,)), n, (1,)) for pairs in self.pairs]
        return sums / (along[0][:, :, None] * along[1][:, None, :]).clamp_min(1e-3)


def gaussian(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur images (..., rows, columns) by a Gaussian with a standard deviation in pixels."""
    shape = x.shape
    x = x.reshape(-1, 1, *shape[-2:])
    for axis in (2, 3):
        reach = min(max(1, math.ceil(3.5 * sigma)), x.shape[axis] - 1)
        t = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
        weights = torch.exp(-0.5 * (t / max(sigma, 1e-3)) ** 2)
        weights = (weights / weights.sum()).view(1, 1, *((-1, 1) if axis == 2 else (1, -1)))
        sides = (0, 0, reach, reach) if axis == 2 else (reach, reach, 0, 0)
        x = functional.conv2d(functional.pad(x, sides, mode="reflect"), weights)
    return x.reshape(shape)


def _over_cells(x: torch.Tensor, grid: Grid) -> torch.Tensor:
    return functional.avg_pool2d(x[None, None], grid.cell)[0, 0]


def _box(x: torch.Tensor, n: int, dims: tuple[int, ...]) -> torch.Tensor:
    """Mean over n neighbours along some axes; what lies outside counts as 0."""
    for dim in dims:
        size, reach = x.shape[dim], n // 2
        total = x / n
        for step in range(1, min(reach + 1, size)):
            total.narrow(dim, 0, size - step).add_(x.narrow(dim, step, size - step), alpha=1 / n)
            total.narrow(dim, step, size - step).add_(x.narrow(dim, 0, size - step), alpha=1 / n)
        x = total
    return x
