"""What patterns hold where an orientation predicts spots."""

from __future__ import annotations

from typing import NamedTuple

import torch

from pyxem_dl.frames import Calibration, k_to_pixel, pixel_to_k
from pyxem_dl.simulation.beams import Chosen

# Around a disk, in pixels: what the probe's edge and a small error of the orientation need
_MARGIN = 1.2
# Nearer to the direct beam than so many radii of a disk a spot is not told from it
_CLEAR = 2.5


class Measured(NamedTuple):
    """Intensities of beams in patterns.

    ``intensity (n, beams)`` in the patterns' unit; ``moment (n, beams)``: of the intensity within a disk, away from the
    direct beam, in radii of the disk; ``used (n, beams)``: on the detector, and clear of the direct beam; ``turn (n,)``:
    by which the pattern is turned against the prediction, in radians, counter-clockwise.
    """

    intensity: torch.Tensor
    moment: torch.Tensor
    used: torch.Tensor
    turn: torch.Tensor


def measure(patterns: torch.Tensor, chosen: Chosen, calibration: Calibration, radius: float) -> Measured:
    """Add up the pixels of each disk.

    Parameters
    ----------
    patterns : tensor, shape (n, rows, columns)
        Electrons, without background.
    chosen : Chosen
        Beams, from :meth:`~pyxem_dl.simulation.beams.Beams.choose`.
    calibration : Calibration
        Of the patterns.
    radius : float
        Of a disk, in pixels.
    """
    rows, columns = patterns.shape[1:]
    kx, ky = chosen.kx.double(), chosen.ky.double()
    row, column = k_to_pixel(kx, ky, calibration)
    reach = int(radius + _MARGIN) + 1
    step = torch.arange(-reach, reach + 1, device=patterns.device)
    around_row = row.round().long()[..., None, None] + step[:, None]
    around_column = column.round().long()[..., None, None] + step
    inside = (around_row >= 0) & (around_row < rows) & (around_column >= 0) & (around_column < columns)
    pattern = torch.arange(len(patterns), device=patterns.device)[:, None, None, None]
    values = patterns[pattern, around_row.clamp(0, rows - 1), around_column.clamp(0, columns - 1)].double()
    apart = torch.hypot(around_row - row[..., None, None], around_column - column[..., None, None])
    disk = apart < radius + _MARGIN
    values = values * (disk & inside)
    whole = (inside | ~disk).all(-1).all(-1)
    beam_row, beam_column = calibration.center
    clear = torch.hypot(row - beam_row, column - beam_column) > _CLEAR * radius
    clear[:, 0] = True
    size = radius * max(calibration.scale)
    k = torch.hypot(kx, ky)
    # the corners of a detector are seen by no round camera and by no bandwidth-limited simulation
    round_ = k < calibration.reciprocal_radius - (1 + _MARGIN / radius) * size
    used = chosen.present & whole & clear & round_
    seen_x, seen_y = pixel_to_k(around_row.double(), around_column.double(), calibration)
    off_x, off_y = seen_x - kx[..., None, None], seen_y - ky[..., None, None]
    total, to_x, to_y = values.sum((-1, -2)), (values * off_x).sum((-1, -2)), (values * off_y).sum((-1, -2))
    # where the light is, against where it should be: the part across the direction from the beam is a turn
    lever = (total * k**2 * used).sum(1)
    turn = ((kx * to_y - ky * to_x) * used).sum(1) / lever.clamp_min(1e-9)
    moment = (kx * to_x + ky * to_y) / (k.clamp_min(1e-9) * size)
    return Measured(total, moment, used, turn)
