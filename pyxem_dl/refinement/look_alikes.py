"""Which of two orientations of a crystal that fit alike is the right one: its faint disks tell.

A crystal that is turned by 180° about a zone axis near the beam has its zero-order Laue zone where it was, with the
same intensities. What differs are reflections of other zones, most of them far from their Bragg condition: a few
electrons each.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from pyxem_dl.frames import Calibration
from pyxem_dl.refinement.regions import Regions
from pyxem_dl.refinement.search import Optics, solved
from pyxem_dl.refinement.spots import MARGIN
from pyxem_dl.refinement.waves import Pool
from pyxem_dl.rotations import misorientation_angle, multiply, zone_axes
from pyxem_dl.simulation.beams import Beams
from pyxem_dl.symmetry import proper_operations

# Beams that take part, up to this excitation error (Å⁻¹); strong ones; directions in the disk; and steps of a fit
_BEAMS, _EXCITATION_ERROR, _STRONG, _DIRECTIONS, _STEPS = 96, 0.2, 28, 7, 3
# Zone axes with indices to here, so many of the shortest within so many degrees of the beam; and how near (degrees) an
# orientation has to be to one that looks like another to be begun from there, too
_HIGHEST, _AXES, _AROUND, _NEAR = 6, 8, 8.0, 3.0
# By how much the model is wrong: a share of an intensity, a share of its shot noise's variance, electrons of a region
# that nobody predicted, and a share of the background
_SHARE, _OF_NOISE, _STRAY, _UNEVEN = 0.1, 0.36, 0.3, 0.1
# Fits are expected within so many degrees and Å; longest steps
_EXPECTED, _EXPECTED_THICKNESS, _LONGEST, _LONGEST_THICKNESS = 0.3, 20.0, 0.15, 10.0
# Residuals above so many standard deviations do not pull any harder
_OUTLIER = 3.0
# What a model has wrong hangs together, so that likelihoods are too sure
_TEMPERATURE = 2.0


class LookAlikes:
    """Compares orientations of one phase.

    Parameters
    ----------
    phase : orix.crystal_map.Phase
        From :func:`pyxem_dl.crystals.load_phases`.
    beams : Beams
        Of the phase.
    optics : Optics
        Directions of the incident beam.
    calibration : Calibration
        Of the patterns.
    radius : float
        Of a disk, in pixels.
    absorption : float
        Imaginary part of the potential, as a share of the real one.
    bounds : tuple of float
        Smallest and largest thickness in Å.
    """

    def __init__(
        self, phase, beams: Beams, optics: Optics, calibration: Calibration, radius: float, absorption: float,
        bounds: tuple[float, float],
    ) -> None:  # fmt: skip
        self._beams = beams.with_n_beams(_BEAMS, _EXCITATION_ERROR)
        self._optics, self._calibration, self._radius = optics, calibration, radius
        self._absorption, self._bounds = absorption, bounds
        self._operations = proper_operations(phase).double().to(beams.device)
        self._axes, self._lengths = (x.to(beams.device) for x in _zone_axes(phase))
        expected = torch.tensor([math.radians(_EXPECTED)] * 2 + [_EXPECTED_THICKNESS])
        self._pull = torch.diag(expected**-2).to(beams.device)

    def __call__(self, given, rotations: torch.Tensor, thickness: torch.Tensor) -> torch.Tensor:
        """Say by how much the second of two orientations is likelier than the first, from what patterns hold.

        Parameters
        ----------
        given : pyxem_dl.refinement.fitting.Given
            n patterns.
        rotations : tensor, shape (n, 2, 4)
            Lab to crystal, refined.
        thickness : tensor, shape (n, 2)
            In Å; NaN where a fit failed, which is then worth nothing.

        Returns
        -------
        tensor, shape (n,)
            Logarithm of the ratio of the likelihoods, of the best fits from several starts.
        """
        first, second = rotations.double().unbind(1)
        # where one fits better than the other, what looks like it is a better start for that one
        swapped = torch.stack([self._like(second, first), self._like(first, second)], dim=1)
        starts = torch.cat([rotations.double(), swapped], dim=1)
        new = (swapped != rotations).any(-1)
        thickness = torch.cat([thickness, thickness.flip(1).where(new, thickness)], dim=1).float()
        thickness = thickness.nan_to_num(self._bounds[0])
        if starts.device.type != "cpu":
            likely = self._fitted(given, starts, thickness)
        else:  # what is computed for one fits into a processor's memory; starts that are there already need no time
            likely = torch.full_like(thickness, -math.inf)
            for i, some in enumerate(torch.cat([torch.ones_like(new), new], dim=1)):
                one = slice(i, i + 1)
                likely[one, some] = self._fitted(given[one], starts[one, some], thickness[one, some])
        of_each = likely.view(-1, 2, 2).amax(1)
        return (of_each[:, 1] - of_each[:, 0]) / _TEMPERATURE

    def _like(self, one: torch.Tensor, near: torch.Tensor) -> torch.Tensor:
        """Turn one (n, 4) by 180° about the zone axis that brings it nearest to another, or give that one."""
        beam = zone_axes(one)
        angle = torch.rad2deg(torch.acos((beam @ self._axes.mT).abs().clamp(max=1)))
        lengths = self._lengths.where(angle < _AROUND, math.inf)
        shortest = lengths.topk(min(_AXES, lengths.shape[1]), dim=1, largest=False)
        axes = torch.cat([beam[:, None], self._axes[shortest.indices]], dim=1)
        turned = multiply(torch.nn.functional.pad(axes, (1, 0)), one[:, None])
        alike = multiply(self._operations[:, None], turned[:, None])  # (n, operations, axes, 4)
        away = misorientation_angle(alike, near[:, None, None])
        away[:, :, 1:] = away[:, :, 1:].where(shortest.values.isfinite()[:, None], math.inf)
        least, index = away.flatten(1).min(1)
        best = alike.flatten(1, 2).gather(1, index[:, None, None].expand(-1, 1, 4))[:, 0]
        return best.where((torch.rad2deg(least) < _NEAR)[:, None], near)

    def _fitted(self, given, starts: torch.Tensor, thickness: torch.Tensor) -> torch.Tensor:
        """Logarithms of the likelihoods (n, m) of the best fits from starts (n, m, 4) and thicknesses (n, m)."""
        n, m = thickness.shape
        rows = torch.arange(n, device=starts.device).repeat_interleave(m)
        flat, thickness = starts.flatten(0, 1), thickness.flatten().clamp(*self._bounds)
        chosen = given[rows].choose(self._beams, flat)
        pool = Pool.of(self._beams, chosen, torch.float32, self._absorption)
        tilt = torch.zeros(n * m, 2, device=starts.device)
        fit = _Fit(self, pool, n, m)
        fit.look(given, self._disks(pool, tilt, thickness)[..., 0])
        now, damping = fit.at(tilt, thickness), torch.full_like(thickness, 1e-2)
        for _ in range(_STEPS):
            step = fit.step(now, damping)
            turned, thicker = tilt + step[:, :2], (thickness + step[:, 2]).clamp(*self._bounds)
            then = fit.at(turned, thicker)
            up = then.likely > now.likely
            tilt, thickness = turned.where(up[:, None], tilt), thicker.where(up, thickness)
            now = now.where(~up, then)
            damping = torch.where(up, 0.3 * damping, 8 * damping)
        return now.likely.view(n, m)

    def _disks(self, pool: Pool, tilt, thickness) -> torch.Tensor:
        """Mean intensities of disks, and derivatives by two tilts and the thickness, (n, beams, 4)."""
        cone = self._optics.cone(_DIRECTIONS).to(tilt)
        every = torch.arange(pool.kx.shape[1], device=tilt.device).expand(len(tilt), -1)
        seen = self._optics.seen(pool, tilt[:, None], thickness[:, None], cone, _STRONG, every)
        return seen.mean(2)[:, 0]


class _At(NamedTuple):
    """What a place of a fit says: ``likely (n,)``; ``expected``, ``variance (n, regions)``; ``by (n, regions, 3)``."""

    likely: torch.Tensor
    expected: torch.Tensor
    variance: torch.Tensor
    by: torch.Tensor

    def where(self, first: torch.Tensor, other: _At) -> _At:
        """Take each from here, or from another one."""
        return _At(*(x.where(first.reshape(-1, *(1,) * (x.ndim - 1)), y) for x, y in zip(self, other)))


class _Fit:
    """Fits m crystals to each of n patterns, all to the same regions of it."""

    def __init__(self, owner: LookAlikes, pool: Pool, n: int, m: int) -> None:
        self._owner, self._pool, self._shape = owner, pool, (n, m)

    def look(self, given, intensity: torch.Tensor) -> None:
        """Share each pattern out among the disks (n m, beams) of all of its crystals."""
        owner, pool, (n, m) = self._owner, self._pool, self._shape
        calibration, radius = owner._calibration, owner._radius
        pixel = max(calibration.scale)
        k = torch.hypot(pool.kx, pool.ky)
        outside = pool.present & (k > 2 * radius * pixel) & (k < calibration.reciprocal_radius)
        one = (intensity * outside).sum(1, keepdim=True).clamp_min(1e-12)
        expected = intensity / one * _scattered(given, calibration, radius).repeat_interleave(m)[:, None]
        expected, kx, ky = (x.unflatten(0, (n, m)).flatten(1) for x in (expected * pool.present, pool.kx, pool.ky))
        how = calibration, radius
        regions = Regions.of(
            given.patterns, kx, ky, expected, *how, centers=given.centers, signal_mask=given.signal_mask
        )
        shares = regions.shares(kx, ky, given.patterns.shape[1:], *how, given.centers)
        self._shares = shares.unflatten(1, (m, -1)).flatten(0, 1) * pool.present[..., None]
        self._seen, self._beneath, self._used = (x.repeat_interleave(m, 0) for x in regions[1:])
        self._light = ((self._seen - self._beneath) * self._used).sum(1).clamp_min(1)

    def at(self, tilt: torch.Tensor, thickness: torch.Tensor) -> _At:
        """Compare crystals with what is seen: a negative binomial distribution of each region's electrons."""
        model = self._shares.mT @ self._owner._disks(self._pool, tilt, thickness)  # (n m, regions, 4)
        one = model[..., 0].sum(1).clamp_min(1e-12)
        scale = (self._light / one)[:, None]
        own = model[..., 0] * scale
        # all of them together are as bright as the pattern, whatever changes
        by = model[..., 1:] * scale[..., None]
        by = by - own[..., None] * (by.sum(1) / self._light[:, None])[:, None]
        mean = own + self._beneath + _STRAY
        more = (_SHARE * own) ** 2 + _OF_NOISE * own + (_UNEVEN * self._beneath) ** 2 + _STRAY
        shape = mean**2 / more
        each = torch.lgamma(self._seen + shape) - torch.lgamma(shape) + shape * torch.log(shape / (shape + mean))
        each = each + self._seen * torch.log(mean / (shape + mean))
        return _At((each * self._used).sum(1), mean, mean + more, by)

    def step(self, now: _At, damping: torch.Tensor) -> torch.Tensor:
        """Give the next step of each fit (n m, 3), in radians and Å."""
        residual = self._seen - now.expected
        weight = self._used / torch.maximum(now.variance, (residual / _OUTLIER) ** 2)
        weighted = now.by * weight[..., None]
        normal = weighted.mT @ now.by + self._owner._pull
        slope = (weighted * residual[..., None]).sum(1)
        size = torch.diagonal(normal, dim1=-2, dim2=-1)
        step = solved(normal + torch.diag_embed(damping[:, None] * size), slope)
        angle = step[:, :2].norm(dim=1, keepdim=True).clamp_min(1e-12)
        turn = step[:, :2] * (math.radians(_LONGEST) / angle).clamp_max(1)
        return torch.cat([turn, step[:, 2:].clamp(-_LONGEST_THICKNESS, _LONGEST_THICKNESS)], dim=1)


def _scattered(given, calibration: Calibration, radius: float) -> torch.Tensor:
    """Electrons (n,) of patterns outside the direct beam."""
    patterns = given.patterns
    center = calibration.center if given.centers is None else given.centers[..., None, None].float().unbind(1)
    row, column = (torch.arange(size, device=patterns.device) for size in patterns.shape[1:])
    off_row, off_column = row[:, None] - center[0], column - center[1]
    beside = torch.hypot(off_row, off_column) > radius + MARGIN
    if given.signal_mask is not None:
        beside = beside & ~given.signal_mask
    return (patterns * beside).sum((1, 2))


def _zone_axes(phase) -> tuple[torch.Tensor, torch.Tensor]:
    """List zone axes of low indices, one of two opposites: unit vectors (m, 3), and lengths (m,) in Å."""
    span = np.arange(-_HIGHEST, _HIGHEST + 1)
    uvw = np.stack(np.meshgrid(span, span, span, indexing="ij"), axis=-1).reshape(-1, 3)
    uvw = uvw[len(uvw) // 2 + 1 :]  # the first half are their opposites
    uvw = uvw[np.gcd.reduce(uvw, axis=1) == 1]
    axes = torch.from_numpy(uvw @ phase.structure.lattice.base)
    lengths = axes.norm(dim=1)
    return axes / lengths[:, None], lengths
