"""Patterns without the spots of a crystal: what is left of them is searched for others."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from pyxem_dl.crystals import Spots
from pyxem_dl.preprocessing import PolarPreprocessing
from pyxem_dl.preprocessing.images import normalised

# Radii of disks (Å⁻¹) that are believed, and that of those whose direct beam is not seen
_SMALLEST, _LARGEST, _UNKNOWN = 0.01, 0.09, 0.045
#: Around a disk so much more is taken away (Å⁻¹): bins blur it, distortions move it
MARGIN = 0.04
# Of a ring's level: so many times it stands out, and after so many rounds it is left out
_OUT, _ROUNDS = 3.0, 3
# Where reflections are that are not there (Å⁻¹)
_NOWHERE = 30.0


def disk_radius(polar: torch.Tensor, valid: torch.Tensor, preprocessing: PolarPreprocessing) -> torch.Tensor:
    """Estimate the radius of the disks by where the direct beam has fallen to half of its height.

    Parameters
    ----------
    polar : tensor, shape (n, n_k, n_phi)
        Mean electrons per pixel.
    valid : tensor, shape (n or 1, n_k, n_phi)
        1 where the bin was measured.
    preprocessing : PolarPreprocessing
        That made them.

    Returns
    -------
    tensor, shape (n,)
        In Å⁻¹; 0.045 where the direct beam is not seen.
    """
    step = preprocessing.reciprocal_radius / preprocessing.n_k
    n = max(3, int(preprocessing.inner_radius / step))
    weight = valid.expand_as(polar)[:, :n]
    ring = (polar[:, :n] * weight).sum(2) / weight.sum(2).clamp_min(1)
    highest = ring.amax(1, keepdim=True)
    outside = (ring > highest / 2).to(ring).cumprod(1).sum(1).long().clamp(1, n - 1)[:, None]
    above, below = ring.gather(1, outside - 1), ring.gather(1, outside)
    radius = step * (outside - 0.5 + ((above - highest / 2) / (above - below).clamp_min(1e-12)).clamp(0, 1))[:, 0]
    seen = (weight.mean(2) > 0.5).all(1) & (highest[:, 0] > 0)
    return torch.where(seen, radius, _UNKNOWN).clamp(_SMALLEST, _LARGEST)


def covered(spots: Spots, radius: torch.Tensor, preprocessing: PolarPreprocessing) -> torch.Tensor:
    """Tell which bins of polar patterns lie near reflections.

    Parameters
    ----------
    spots : Spots
        Reflections (n, s).
    radius : tensor, shape (n,)
        How near, in Å⁻¹; at most :data:`MARGIN` more than the largest disks.
    preprocessing : PolarPreprocessing
        The polar grid.

    Returns
    -------
    tensor of bool, shape (n, n_k, n_phi)
    """
    n_k, n_phi = preprocessing.n_k, preprocessing.n_phi
    step, turn = preprocessing.reciprocal_radius / n_k, 2 * math.pi / n_phi
    half = math.ceil((_LARGEST + MARGIN) / step)
    k, phi = torch.hypot(spots.kx, spots.ky)[..., None], torch.atan2(spots.ky, spots.kx)[..., None]
    row = (k / step).long() + torch.arange(-half, half + 1, device=k.device)
    ring = (row + 0.5) * step
    # a circle around a spot cuts each ring in an arc, from one angle to another one
    cosine = (ring**2 + k**2 - radius[:, None, None] ** 2) / (2 * k * ring).clamp_min(1e-6)
    inside = (cosine < 1) & (row >= 0) & (row < n_k) & (spots.structure_factor > 0)[..., None]
    width = torch.arccos(cosine.clamp(-1, 1))
    first, last = ((phi - width) / turn).ceil().long(), ((phi + width) / turn).floor().long()
    length = ((last - first + 1).clamp(0, n_phi) * inside).flatten(1)
    begin = row.clamp(0, n_k - 1).flatten(1) * (2 * n_phi + 1) + (first % n_phi).flatten(1)
    # an arc begins with + 1 and ends with - 1: the sums along the ring are its bins
    ends = k.new_zeros(len(k), n_k * (2 * n_phi + 1))
    ones = (length > 0).to(k)
    ends.scatter_add_(1, begin, ones).scatter_add_(1, begin + length, -ones)
    arcs = ends.unflatten(1, (n_k, -1)).cumsum(2)
    return arcs[..., :n_phi] + arcs[..., n_phi : 2 * n_phi] > 0.5


def without(inputs: Sequence[torch.Tensor], taken: torch.Tensor, preprocessing: PolarPreprocessing):
    """Take bins away from patterns, as a beam stop would.

    Parameters
    ----------
    inputs : sequence of tensor
        As :meth:`PolarPreprocessing.counted` makes them, of n patterns.
    taken : tensor of bool, shape (n, n_k, n_phi)
        What is not to be seen; the level of the ring is put there.
    preprocessing : PolarPreprocessing
        That made them.

    Returns
    -------
    tuple of tensor
        As `inputs`.
    """
    polar, valid, _, pixels = inputs
    valid = valid.expand_as(polar) * ~taken
    number = valid.sum(2).clamp_min(1)
    ring = (polar * valid).sum(2) / number
    for _ in range(_ROUNDS):
        ring = (torch.minimum(polar, (_OUT * ring + 1 / (_OUT * pixels))[..., None]) * valid).sum(2) / number
    polar = torch.where(valid > 0, polar, ring[..., None])
    outer = preprocessing.is_outside(polar.device)[:, None]
    return polar, valid, normalised(polar, valid * outer, preprocessing.gamma, preprocessing.clip), pixels


def rows_of(inputs: Sequence[torch.Tensor], rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Take some of the patterns."""
    polar, valid, normal, pixels = inputs
    valid = valid if len(valid) == 1 else valid[rows]
    return polar[rows], valid, normal[rows], pixels if pixels.ndim == 1 else pixels[rows]
