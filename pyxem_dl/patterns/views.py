"""What a network is shown of each disk: its surroundings, turned to g, and what is known of it from elsewhere."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from pyxem_dl.patterns.patches import Neighbours, cut_patches, on_detector, other_disks, turned_probe
from pyxem_dl.preprocessing.elementary import log_1p

#: Nearer to the direct beam than so many radii a disk is the direct beam
DIRECT_BEAM = 0.5
# Half ranges (Å⁻¹) and radii (px) that are usual: numbers that a network sees are about 1. Larger disks are made
# smaller before they are sampled, and look as those of the largest radius
_USUAL_RANGE, _USUAL_RADIUS, _LARGEST_RADIUS = 0.003, 5.0, 10.0


class DiskViews(NamedTuple):
    """Disks as a network sees them, each turned so that its columns run along g.

    ``patches (p, s, s)`` counts; ``probe`` the probe, turned as well; ``others`` what its neighbours leave there, as
    even disks; ``seen`` the share of each sample that lies on the detector and under no mask; ``numbers (p, 8)`` see
    :func:`look_at`; ``direction (p, 2)`` of g along (row, column); ``pattern (p,)`` in which each disk is;
    ``there (p, 1)`` 1 for disks, 0 for padding.
    """

    patches: torch.Tensor
    probe: torch.Tensor
    others: torch.Tensor
    seen: torch.Tensor
    numbers: torch.Tensor
    direction: torch.Tensor
    pattern: torch.Tensor
    there: torch.Tensor


class Optics(NamedTuple):
    """What is known of a scan besides its patterns.

    ``probe (1, size, size)`` an image whose middle pixel is the probe's centre, with its ``probe_radius`` in its own
    px; ``radius`` of the disks in px of the patterns; ``center (n, 2)`` of the direct beam in px; ``half_range``: from
    a disk's centre to its edge the excitation error changes by so much (Å⁻¹) per px of distance from the direct beam;
    NaN if the beam energy or the scale is not known.
    """

    probe: torch.Tensor
    probe_radius: float
    radius: float
    center: torch.Tensor
    half_range: float


def _seen(patterns, seen, pattern, position, radius: float, direction) -> torch.Tensor:
    """Shares of the samples that lie on the detector and under no mask."""
    if seen is None:
        return on_detector(patterns.shape[1:], position, radius, direction).to(patterns)
    where = pattern if len(seen) > 1 else torch.zeros_like(pattern)
    whole = cut_patches(torch.ones_like(seen[:1]), torch.zeros_like(pattern), position, radius, direction)
    # parts of a sample beyond the border are not masked, and not seen
    most = whole.amax((1, 2), keepdim=True).clamp_min(1e-6)  # 0 far beyond the border
    return (cut_patches(seen, where, position, radius, direction) / most).clamp(0, 1)


def look_at(
    patterns: torch.Tensor,
    seen: torch.Tensor | None,
    known: Neighbours,
    pattern: torch.Tensor,
    rank: torch.Tensor,
    position: torch.Tensor,
    incident: torch.Tensor,
    optics: Optics,
    there: torch.Tensor | None = None,
) -> DiskViews:
    """Prepare what a network sees of disks.

    Parameters
    ----------
    patterns : tensor, shape (n, rows, columns)
        Counts, as the detector has them.
    seen : tensor, shape (1 or n, rows, columns), optional
        1 where the detector works, 0 under a mask.  By default it works everywhere.
    known : Neighbours
        All disks of the patterns.
    pattern, rank : tensor of int, shape (p,)
        Which of them are looked at.
    position : tensor, shape (p, 2)
        Row and column (px) of the middles of the views.
    incident : tensor, shape (n,)
        Counts of the incident electrons, 0 if not known.
    optics : Optics
        Probe, radius, direct beam.
    there : tensor of bool, shape (p,), optional
        False for padding.

    Returns
    -------
    DiskViews
        The numbers are logarithms of: the half range; the disk's share of the incident electrons; the radius; the
        distance from the direct beam in radii; the disk's counts; and three flags: whether the first two are known,
        and whether it is the direct beam.
    """
    radius = optics.radius
    from_beam = position - optics.center[pattern]
    distance = from_beam.norm(dim=1)
    is_beam = distance < DIRECT_BEAM * radius
    right = torch.stack([torch.zeros_like(distance), torch.ones_like(distance)], dim=1)
    direction = torch.where(is_beam[:, None], right, from_beam / distance.clamp_min(1e-6)[:, None])
    patches = cut_patches(patterns, pattern, position, radius, direction)
    share = _seen(patterns, seen, pattern, position, radius, direction)
    probe = turned_probe(optics.probe[0], optics.probe_radius, direction)
    amount, electrons = known.amount[pattern, rank], incident[pattern]
    half_range = torch.full_like(distance, optics.half_range) * distance
    knows_range = half_range.isfinite() & ~is_beam
    columns = [
        torch.where(knows_range, (half_range.clamp_min(1e-6) / _USUAL_RANGE).log(), 0),
        torch.where(electrons > 0, (log_1p(amount) - log_1p(electrons)) / 4, 0),
        torch.full_like(distance, math.log(min(radius, _LARGEST_RADIUS) / _USUAL_RADIUS)),
        log_1p(distance / radius) - 2,
        log_1p(amount) / 4 - 1,
        knows_range.to(distance), (electrons > 0).to(distance), is_beam.to(distance),
    ]  # fmt: skip
    others = other_disks(known, pattern, rank, position, radius, direction)
    there = torch.ones_like(distance) if there is None else there.to(distance)
    return DiskViews(
        patches, probe, others, share, torch.stack(columns, dim=1), direction, pattern, there[:, None]
    )
