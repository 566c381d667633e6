"""What a pattern holds, faint disks included, where several orientations together predict any."""

from __future__ import annotations

from typing import NamedTuple

import torch

from pyxem_dl.frames import Calibration, k_to_pixel
from pyxem_dl.refinement.spots import MARGIN, is_readable, is_saturated, mean_of_rings

# Regions of a pattern; disks of fewer electrons get none; centres that are nearer, in radii of a disk, share one
_MOST, _FAINTEST, _SHARED = 192, 0.3, 0.7
# Steps per pixel in which distances are told apart
_FINE = 64


class Regions(NamedTuple):
    """Parts of n patterns, each around a disk, that do not overlap.

    ``label (n, rows * columns)``: region of each pixel, the number of regions where it is in none; ``electrons``,
    ``background (n, regions)``: sums; ``used (n, regions)``: there is a disk, clear of the direct beam.
    """

    label: torch.Tensor
    electrons: torch.Tensor
    background: torch.Tensor
    used: torch.Tensor

    @classmethod
    def of(
        cls, patterns: torch.Tensor, kx, ky, expected, calibration: Calibration, radius: float, *,
        centers: torch.Tensor | None = None, signal_mask: torch.Tensor | None = None,
    ) -> Regions:  # fmt: skip
        """Share a pattern out among the disks that are expected.

        Parameters
        ----------
        patterns : tensor, shape (n, rows, columns)
            Electrons, finite and not negative.
        kx, ky, expected : tensor, shape (n, m)
            Places of disks in Å⁻¹ and the electrons in each; 0 for padding.
        calibration, radius, centers, signal_mask
            As of :func:`~pyxem_dl.refinement.spots.measure`.
        """
        n = len(patterns)
        expected, order = expected.topk(min(_MOST, expected.shape[1]), dim=1)
        kx, ky = kx.gather(1, order), ky.gather(1, order)
        scale = max(calibration.scale)
        apart = torch.hypot(kx[:, :, None] - kx[:, None], ky[:, :, None] - ky[:, None])
        shared = (apart < _SHARED * radius * scale).tril(-1).any(2)  # with a brighter one
        there = (expected > _FAINTEST) & ~shared
        pixel, distance, inside = _around(kx, ky, patterns.shape[1:], calibration, radius, centers)
        near = (distance < radius + MARGIN) & inside & there[..., None]
        excluded = is_saturated(patterns) if signal_mask is None else is_saturated(patterns) | signal_mask
        label = _nearest(pixel, distance, near, patterns[0].numel())
        covered = (label < expected.shape[1]).view(patterns.shape)
        row, column = calibration.center if centers is None else centers.double()[..., None].unbind(1)
        beneath = mean_of_rings(patterns, covered, (row, column), signal_mask)
        label = label.where(~excluded.flatten(1), expected.shape[1])
        zero = torch.zeros(n, expected.shape[1] + 1, dtype=torch.float64, device=patterns.device)
        electrons, background = (
            zero.scatter_add(1, label, x.flatten(1).double())[:, :-1].float() for x in (patterns, beneath)
        )
        used = there & is_readable(kx, ky, calibration, radius) & (torch.hypot(kx, ky) > 0)
        return cls(label, electrons, background, used)

    def shares(
        self, kx, ky, shape, calibration: Calibration, radius: float, centers: torch.Tensor | None = None
    ) -> torch.Tensor:
        """How much of each disk (n, m) is in each region: tensor, shape (n, m, regions)."""
        pixel, distance, inside = _around(kx, ky, shape, calibration, radius, centers)
        weight = (radius + 0.5 - distance).clamp(0, 1)
        weight = weight / weight.sum(-1, keepdim=True) * inside
        n_regions = self.used.shape[1]
        label = self.label.gather(1, pixel.flatten(1)).view(pixel.shape)
        share = weight.new_zeros(*weight.shape[:2], n_regions + 1).scatter_add_(2, label, weight)
        return share[..., :-1] * self.used[:, None]


def _around(
    kx, ky, shape, calibration: Calibration, radius: float, centers: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels around places (n, m): their numbers, how far they are (px), and if they are there, (n, m, pixels)."""
    center = calibration.center if centers is None else centers.double()[..., None].unbind(1)
    row, column = (x[..., None, None] for x in k_to_pixel(kx.double(), ky.double(), calibration, center))
    reach = int(radius + MARGIN) + 1
    step = torch.arange(-reach, reach + 1, device=kx.device)
    near_row, near_column = row.round().long() + step[:, None], column.round().long() + step
    distance = torch.hypot(near_row - row, near_column - column).float()
    rows, columns = shape
    inside = (near_row >= 0) & (near_row < rows) & (near_column >= 0) & (near_column < columns)
    pixel = near_row.clamp(0, rows - 1) * columns + near_column.clamp(0, columns - 1)
    return pixel.flatten(2), distance.flatten(2), inside.flatten(2)


def _nearest(pixel, distance, near, n_pixels: int) -> torch.Tensor:
    """Which of m places is the nearest one of each pixel (n, pixels), m where none is near."""
    n, m = distance.shape[:2]
    # whole numbers whose order is that of the distance, and of the place where two are as far
    key = (distance * _FINE).long() * m + torch.arange(m, device=distance.device)[:, None]
    none = torch.iinfo(torch.int64).max
    key = key.masked_fill(~near, none)
    least = key.new_full((n, n_pixels), none).scatter_reduce_(1, pixel.flatten(1), key.flatten(1), "amin")
    return (least % m).where(least != none, m)
