"""What patterns hold where an orientation predicts spots."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch

from pyxem_dl.frames import Calibration, k_to_pixel, pixel_to_k
from pyxem_dl.simulation.beams import Chosen

# Around a disk, in pixels: what the probe's edge and a small error of the orientation need; and what is kept clear of
# it where the background is read
MARGIN, _BACKGROUND_MARGIN = 1.2, 2.5
# Nearer to the direct beam than so many radii of a disk a spot is not told from it
_CLEAR = 2.5
# Width of the rings in which the background is read, in pixels; pixels above the mean by more than so many of their
# deviations are light of spots that nobody predicted
_RING, _OUTLIER = 4.0, 3.0
# Share of the background that is not as even as it is taken to be, and electrons that may be anywhere
_UNEVEN, _FLOOR = 0.1, 1.0
# Disks have edges that are blurred so much, in pixels; of other disks' light so much is not as it is taken to be
_BLUR, _UNSURE = 0.7, 0.5
# Distances of disks at which their light is tabulated, in pixels
_APART = 0.25
# A value that so many pixels share, if they are brighter than so many electrons, is where the detector ends
_ALIKE, _BRIGHT = 5, 100.0


class Measured(NamedTuple):
    """Intensities of beams in patterns.

    ``intensity (n, beams)`` in electrons, without the background; ``background (n, beams)``: what was taken off;
    ``moment (n, beams)``: of the intensity within a disk, away from the direct beam, in radii of the disk;
    ``moments (n, beams, 2)``: the same along kx and ky, of the direct beam, too, in electrons times Å⁻¹;
    ``used (n, beams)``: on the detector, whole, not saturated, and clear of the direct beam, which is used itself;
    ``foreign (n, beams)``: what was taken off for the light of other disks;
    ``turn (n,)``: by which the pattern is turned against the prediction, in radians, counter-clockwise;
    ``rim``: how far out pixels are added up, in radii of a disk.
    """

    intensity: torch.Tensor
    background: torch.Tensor
    foreign: torch.Tensor
    moment: torch.Tensor
    moments: torch.Tensor
    used: torch.Tensor
    turn: torch.Tensor
    rim: float

    @property
    def noise(self) -> torch.Tensor:
        """Variance of the intensities (n, beams) that does not come of a disk's own electrons."""
        return self._own_noise + self.foreign + (_UNSURE * self.foreign) ** 2

    @property
    def clear(self) -> torch.Tensor:
        """Share of the noise (n, beams) that other disks have no part in."""
        return self._own_noise / self.noise

    @property
    def _own_noise(self) -> torch.Tensor:
        return self.background + (_UNEVEN * self.background) ** 2 + _FLOOR

    @property
    def moment_noise(self) -> torch.Tensor:
        """Variance of the moments (n, beams) that comes of other light."""
        # what is anywhere in a disk has a quarter as mean square distance from its middle along a line; the light of
        # other disks lies at the rim
        return self.noise / 4 + (self.foreign * self.rim) ** 2


def measure(
    patterns: torch.Tensor, chosen: Chosen, calibration: Calibration, radius: float, *,
    centers: torch.Tensor | None = None, signal_mask: torch.Tensor | None = None,
) -> Measured:  # fmt: skip
    """Add up the pixels of each disk.

    Parameters
    ----------
    patterns : tensor, shape (n, rows, columns)
        Electrons, finite and not negative.
    chosen : Chosen
        Beams, from :meth:`~pyxem_dl.simulation.beams.Beams.choose`.
    calibration : Calibration
        Of the patterns.
    radius : float
        Of a disk, in pixels.
    centers : tensor, shape (n, 2), optional
        Direct beam (row, column) of each pattern in pixels; by default the calibration's.
    signal_mask : tensor of bool, shape (rows, columns), optional
        True where the detector is excluded.
    """
    rows, columns = patterns.shape[1:]
    kx, ky = chosen.kx.double(), chosen.ky.double()
    center = calibration.center if centers is None else centers.double()[..., None].unbind(1)
    row, column = k_to_pixel(kx, ky, calibration, center)
    reach = int(radius + _BACKGROUND_MARGIN) + 1
    step = torch.arange(-reach, reach + 1, device=patterns.device)
    around_row = row.round().long()[..., None, None] + step[:, None]
    around_column = column.round().long()[..., None, None] + step
    inside = (around_row >= 0) & (around_row < rows) & (around_column >= 0) & (around_column < columns)
    place = (around_row.clamp(0, rows - 1) * columns + around_column.clamp(0, columns - 1)).flatten(1)
    apart = torch.hypot(around_row - row[..., None, None], around_column - column[..., None, None])
    disk = apart < radius + MARGIN
    near = ((apart < radius + _BACKGROUND_MARGIN) & inside & chosen.present[..., None, None]).flatten(1)
    background = mean_of_rings(patterns, _scattered(patterns, place, near), center, signal_mask)
    excluded = is_saturated(patterns) if signal_mask is None else is_saturated(patterns) | signal_mask
    values, beneath, spoiled = (
        x.flatten(1).gather(1, place).view(disk.shape) for x in (patterns.double(), background, excluded)
    )
    on_disk = disk & inside
    beneath = beneath * on_disk
    values = values * on_disk - beneath
    whole = ((inside & ~spoiled) | ~disk).all(-1).all(-1)
    used = chosen.present & whole & is_readable(kx, ky, calibration, radius)
    seen_x, seen_y = pixel_to_k(around_row.double(), around_column.double(), calibration, _spread(center))
    off_x, off_y = seen_x - kx[..., None, None], seen_y - ky[..., None, None]
    total, to_x, to_y = values.sum((-1, -2)), (values * off_x).sum((-1, -2)), (values * off_y).sum((-1, -2))
    size, k = radius * max(calibration.scale), torch.hypot(kx, ky)
    turn = _turn(kx * to_y - ky * to_x, total * used, k)
    moment = (kx * to_x + ky * to_y) / (k.clamp_min(1e-9) * size)
    moments = torch.stack([to_x, to_y], dim=-1)
    foreign = _foreign(total.clamp_min(0) * chosen.present, row, column, radius)
    return Measured(
        total - foreign, beneath.sum((-1, -2)), foreign, moment, moments, used, turn,
        1 + MARGIN / radius,
    )  # fmt: skip


def _foreign(total, row, column, radius: float) -> torch.Tensor:
    """Light (n, beams) of other disks within those of beams, whose pixels add up to `total` (n, beams)."""
    table = _share_of_light(radius, total.device)
    apart = torch.hypot(row[..., None] - row[:, None], column[..., None] - column[:, None])
    share = table[(apart / _APART).round().long().clamp_max(len(table) - 1)]
    share.diagonal(dim1=1, dim2=2).zero_()
    return (share @ total[..., None])[..., 0]


@functools.lru_cache(maxsize=32)
def _share_of_light(radius: float, device: torch.device) -> torch.Tensor:
    """Share of a disk's light that is added up around a place, for distances from its middle; the last is 0."""
    fine, reach, number = 0.2, radius + 4 * _BLUR, {"dtype": torch.float64, "device": device}
    steps = torch.arange(-int(reach / fine) - 1, int(reach / fine) + 2, **number) * fine
    x, y = torch.meshgrid(steps, steps, indexing="xy")
    light = torch.special.erfc((torch.hypot(x, y) - radius) / (_BLUR * 2**0.5))
    apart = torch.arange(int((reach + radius + MARGIN) / _APART) + 2, **number) * _APART
    within = torch.hypot(x[None] - apart[:, None, None], y) < radius + MARGIN
    share = (within * light).sum((1, 2)) / light.sum()
    share[-1] = 0
    return share


def _spread(center):
    """Centres that fit to pixels around beams of patterns."""
    return tuple(x if isinstance(x, (int, float)) else x[..., None, None] for x in center)


def is_readable(kx, ky, calibration: Calibration, radius: float) -> torch.Tensor:
    """Beams whose disks are clear of the direct beam's, or are it, and that a round camera would see."""
    size, k = radius * max(calibration.scale), torch.hypot(kx, ky)
    clear = (k > _CLEAR * size) | (k == 0)
    # the corners of a detector are seen by no round camera and by no bandwidth-limited simulation
    return clear & (k < calibration.reciprocal_radius - (radius + MARGIN) * max(calibration.scale))


def _turn(across, total, k) -> torch.Tensor:
    """Turn in the plane: where the light is, across the direction from the direct beam."""
    total = total.clamp_min(0)
    lever = (total * k**2).sum(1).clamp_min(1e-9)
    return (across * (total > 0)).sum(1) / lever


def _scattered(patterns: torch.Tensor, place: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
    """Pixels (n, rows, columns) of disks, True."""
    covered = torch.zeros(patterns.shape, device=patterns.device).flatten(1)
    return covered.scatter_add_(1, place, near.to(covered.dtype)).view(patterns.shape) > 0


def is_saturated(patterns: torch.Tensor) -> torch.Tensor:
    """Pixels that have the largest value, where many have it."""
    largest = patterns.amax((1, 2), keepdim=True)
    alike = (patterns == largest).sum((1, 2), keepdim=True)
    return (patterns >= largest) & (alike >= _ALIKE) & (largest > _BRIGHT)


def mean_of_rings(patterns, covered, center, signal_mask) -> torch.Tensor:
    """Mean of rings about the direct beam (n, rows, columns), beside the disks."""
    n, rows, columns = patterns.shape
    # a number is filled in on the device: nothing is sent there
    row0, column0 = (
        x.float().reshape(-1, 1, 1) if torch.is_tensor(x) else torch.full((1, 1, 1), x, device=patterns.device)
        for x in center
    )
    row, column = (torch.arange(m, device=patterns.device, dtype=torch.float32) for m in (rows, columns))
    ring = (torch.hypot(row[:, None] - row0, column - column0) / _RING).long()
    n_rings = int((rows**2 + columns**2) ** 0.5 / _RING) + 2
    ring = ring.clamp_max(n_rings - 1).expand(n, -1, -1).flatten(1)
    free = ~covered if signal_mask is None else ~covered & ~signal_mask
    free, values = free.flatten(1).double(), patterns.flatten(1).double()
    for _ in range(2):
        count = torch.zeros(n, n_rings, device=values.device, dtype=values.dtype).scatter_add_(1, ring, free)
        total = torch.zeros_like(count).scatter_add_(1, ring, free * values)
        mean = (total / count.clamp_min(1)).gather(1, ring)
        free = free * (values <= mean + _OUTLIER * (mean + 1).sqrt())
    return mean.view(patterns.shape)
