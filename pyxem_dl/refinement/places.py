"""How a pattern is stretched and moved: where its disks are, against where a refined crystal has them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from pyxem_dl.frames import direction_of_tilt
from pyxem_dl.refinement.likelihood import Seen
from pyxem_dl.refinement.search import Optics
from pyxem_dl.refinement.spots import Measured
from pyxem_dl.refinement.waves import Pool

# Directions in a disk: on two rings (Gauss' of the squared radius, which count alike) of so many
_AZIMUTHS = 7
_RINGS = math.sqrt(0.5 - math.sqrt(1 / 12)), math.sqrt(0.5 + math.sqrt(1 / 12))
# Shares of a disk's radius by which the model has its centre of intensity wrong, whatever the counts: away from the
# direct beam, along which light changes most, and across. And px, of the detector
_UNEVEN_ERRORS, _PLACE_ERROR = (0.05, 0.008), 0.02
# Of a turn alone, across: a share of the radius, and px
_TURN_ERRORS = 0.004, 0.01
# What is expected before: tilts that are left (degrees) and thickness (Å), stretches, and the centre (px); turns
# (degrees), and the centre where only a turn is looked for
_TILT, _THICKNESS, _STRETCH, _SHIFT, _TURN, _SMALL_SHIFT = 0.05, 10.0, 0.1, 1.0, 0.5, 0.3
# Electrons of the incident beam may be any number, but the equations of a pattern without disks have a solution, too
_ANY_SCALE = 1e15
# Disks that are needed; beside a line are those that are further from it, in root mean square distances of all disks
_FEWEST, _BESIDE = 5, 0.1
# Residuals in units of their errors from which disks count less, and rounds in which that is found
_OUTLIER, _ROUNDS = 2.0, 4


class Places(NamedTuple):
    """An affine change of places, from ``k`` to ``k + A k + t`` in Å⁻¹, and how well it is known.

    ``numbers (n, 6)``: A_xx, A_xy, A_yx, A_yy, t_x, t_y; ``normal (n, 6, 6)``: the inverse of their covariance;
    ``misfit (n,)``: mean square of the residuals in units of their errors; ``known (n,)``: enough disks in more than
    one direction.
    """

    numbers: torch.Tensor
    normal: torch.Tensor
    misfit: torch.Tensor
    known: torch.Tensor

    @property
    def covariance(self) -> torch.Tensor:
        """Of the numbers (n, 6, 6)."""
        return torch.linalg.inv(self.normal) * self.misfit.clamp_min(1)[:, None, None]


def fit_places(
    pool: Pool, seen: Seen, measured: Measured, optics: Optics, tilt, thickness, radius: float, pixel: float,
    n_strong: int,
) -> Places:  # fmt: skip
    """Fit where disks are.

    What a model says of the light within each disk is taken off: disks that are brighter on one side are not moved.
    Tilt, thickness and scale of the model are free within their errors, so that what they leave open is in the errors.

    Parameters
    ----------
    pool, seen, measured
        Beams, and what patterns hold of them.
    optics : Optics
        Directions of the incident beam.
    tilt : tensor, shape (n, 2)
        In radians.
    thickness : tensor, shape (n,)
        In Å.
    radius : float
        Of a disk, in Å⁻¹.
    pixel : float
        In Å⁻¹.
    n_strong : int
        Beams that scatter into each other.

    Returns
    -------
    Places
    """
    model, first = _model(pool, seen, optics, tilt, thickness, radius, n_strong)
    half = model.shape[1]
    fit = seen.fit(torch.cat([model[..., 0], _outward(seen, first)[..., 0] / radius], dim=1)[:, None])
    scale, residual, fit_variance = fit.scale, fit.residual[:, 0, :half], fit.variance[:, 0, :half]
    used = seen.used[:, :half]
    kx, ky, seen_at = _seen_at(pool, seen, measured)
    electrons = (scale * model[..., 0]).clamp_min(0)
    variance = _variance(seen, electrons, radius)
    lever = _lever(kx, ky)
    blocks = [_block(scale, model, torch.zeros_like(lever[..., 0]), residual, fit_variance)]
    for unit, uneven in zip(_axes(seen), _UNEVEN_ERRORS):
        own = electrons**2 * ((uneven * radius) ** 2 + (_PLACE_ERROR * pixel) ** 2)
        along = torch.einsum("nbkj,nbj->nbk", first, unit)
        residual = (seen_at * unit).sum(-1) - scale * along[..., 0]
        moved = electrons[..., None] * torch.einsum("nbqj,nbj->nbq", lever, unit)
        blocks.append(_block(scale, along, moved, residual, variance + own))
    rows = _Rows(*(torch.cat(each, dim=1) for each in zip(*blocks)), used.repeat(1, 3).to(kx))
    found, normal, left = _solved(rows, pixel)
    inner, cross = normal[:, :4, :4], normal[:, :4, 4:]
    own = normal[:, 4:, 4:] - cross.mT @ torch.linalg.solve(inner, cross)
    of_places = rows.counts[:, half:]
    misfit = (of_places * left[:, half:] ** 2).sum(1) / (of_places.sum(1) - 6).clamp_min(1)
    return Places(found[:, 4:], own, misfit, _in_two_directions(kx, ky, used & (seen.beams > 0)))


def fit_turn(
    pool: Pool, seen: Seen, measured: Measured, optics: Optics, tilt, thickness, radius: float, pixel: float,
    n_strong: int,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Fit by how much a pattern is turned in its plane; the arguments are those of :func:`fit_places`.

    Returns
    -------
    turn, error : tensor, shape (n,)
        In radians, counter-clockwise, and its standard deviation.
    """
    model, first = _model(pool, seen, optics, tilt, thickness, radius, n_strong)
    half = model.shape[1]
    fit = seen.fit(torch.cat([model[..., 0], _outward(seen, first)[..., 0] / radius], dim=1)[:, None])
    kx, ky, seen_at = _seen_at(pool, seen, measured)
    electrons = (fit.scale * model[..., 0]).clamp_min(0)
    # across the direction to the direct beam; of that itself along both axes, which says where the centre is
    along, across = _axes(seen)
    unit = torch.cat([across, along[:, :1] * (seen.beams[:, :1] == 0)[..., None]], dim=1)
    of = torch.arange(half + 1, device=unit.device) % half
    residual = ((seen_at - fit.scale[..., None] * first[:, :, 0])[:, of] * unit).sum(-1)
    variance = _variance(seen, electrons, radius)
    variance = variance + electrons**2 * ((_TURN_ERRORS[0] * radius) ** 2 + (_TURN_ERRORS[1] * pixel) ** 2)
    moved = torch.stack([torch.hypot(kx, ky)[:, of], unit[..., 0], unit[..., 1]], dim=-1) * electrons[:, of, None]
    moved[:, -1, 0] = 0
    used = seen.used[:, :half][:, of].to(kx)
    expected = [math.radians(_TURN), _SMALL_SHIFT * pixel, _SMALL_SHIFT * pixel]
    found, normal, left = _least_squares(_Rows(moved, residual, variance.sqrt()[:, of], used), expected)
    misfit = (used * left**2).sum(1) / (used.sum(1) - 3).clamp_min(1)
    error = torch.linalg.inv(normal)[:, 0, 0].clamp_min(0).sqrt() * misfit.clamp_min(1).sqrt()
    return found[:, 0], error


def _seen_at(pool: Pool, seen: Seen, measured: Measured) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Places of beams (n, beams) in Å⁻¹, along x and y, and the moments (n, beams, 2) that were measured there."""
    kx, ky = (x.gather(1, seen.beams) for x in (pool.kx, pool.ky))
    return kx, ky, measured.moments.gather(1, seen.beams[..., None].expand(-1, -1, 2)).to(kx)


def _variance(seen: Seen, electrons: torch.Tensor, radius: float) -> torch.Tensor:
    """Variance (n, beams) of moments along a line, for disks of so many electrons."""
    half = electrons.shape[1]
    # of an electron that is anywhere in a disk, the mean square along a line is a quarter of the radius' square
    return (torch.maximum(electrons, seen.values[:, :half]) / 4 + seen.noise[:, half:]) * radius**2


class _Rows(NamedTuple):
    """Of a least squares: ``design (n, rows, unknowns)``; ``residual``, ``error`` and ``counts (n, rows)``."""

    design: torch.Tensor
    residual: torch.Tensor
    error: torch.Tensor
    counts: torch.Tensor


def _solved(rows: _Rows, pixel: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Solve, robustly: unknowns (n, 10), normal matrices, and the residuals that are left in units of their errors."""
    expected = [math.radians(_TILT)] * 2 + [_THICKNESS, _ANY_SCALE] + [_STRETCH] * 4 + [_SHIFT * pixel] * 2
    return _least_squares(rows, expected)


def _least_squares(rows: _Rows, expected: list[float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Solve for unknowns that are expected to be so large: as :func:`_solved`."""
    # filled in on the device: nothing is sent there
    likely = [rows.design.new_full((), each**-2, dtype=torch.float64) for each in expected]
    prior = torch.diag(torch.stack(likely))
    design = (rows.design / rows.error[..., None]).double()
    values, weight = (rows.residual / rows.error).double(), rows.counts.double()
    for _ in range(_ROUNDS):
        normal = design.mT @ (weight[..., None] * design) + prior
        found = torch.linalg.solve(normal, (design * (weight * values)[..., None]).sum(1))
        left = values - (design @ found[..., None])[..., 0]
        weight = rows.counts / (1 + (left / _OUTLIER) ** 2)
    return found, normal, left


def _model(pool: Pool, seen: Seen, optics: Optics, tilt, thickness, radius: float, n_strong: int):
    """Intensities (n, beams, 4) with derivatives by tilts and thickness, and first moments (n, beams, 4, 2) in Å⁻¹."""
    angle = torch.arange(_AZIMUTHS, device=tilt.device) * (2 * math.pi / _AZIMUTHS)
    cone = optics.disk * torch.cat([r * torch.stack([angle.cos(), angle.sin()], dim=1) for r in _RINGS]).to(tilt)
    both = optics.seen(pool, tilt[:, None], thickness[:, None], cone, n_strong, seen.beams)[:, 0]
    at = torch.stack(direction_of_tilt(*cone.unbind(1)), dim=1) * (radius / optics.disk)
    return both.mean(1), torch.einsum("ncbk,cj->nbkj", both, at) / len(cone)


def _axes(seen: Seen) -> tuple[torch.Tensor, torch.Tensor]:
    """Give unit vectors (n, beams, 2) away from the direct beam, and across; of that itself along kx and ky."""
    direct = seen.beams == 0
    outward = torch.stack([torch.where(direct, 1.0, seen.unit_x), torch.where(direct, 0.0, seen.unit_y)], dim=-1)
    return outward, torch.stack([-outward[..., 1], outward[..., 0]], dim=-1)


def _lever(kx, ky) -> torch.Tensor:
    """How places (n, beams, 6, 2) change with the numbers of :class:`Places`."""
    zero, one = torch.zeros_like(kx), torch.ones_like(kx)
    of_x, of_y = (kx, ky, zero, zero, one, zero), (zero, zero, kx, ky, zero, one)
    return torch.stack([torch.stack(of_x, dim=-1), torch.stack(of_y, dim=-1)], dim=-1)


def _outward(seen: Seen, first: torch.Tensor) -> torch.Tensor:
    return first[..., 0] * seen.unit_x[..., None] + first[..., 1] * seen.unit_y[..., None]


def _block(scale, model, lever, residual, variance):
    """Rows of the least squares: design (n, beams, 10), residuals and errors (n, beams)."""
    return torch.cat([scale[..., None] * model[..., 1:], model[..., :1], lever], dim=-1), residual, variance.sqrt()


def _in_two_directions(kx, ky, used) -> torch.Tensor:
    """Whether there are enough disks (n,), and more than one of them beside the line through the direct beam."""
    xx, yy, xy = ((used * a * b).sum(1, keepdim=True) for a, b in ((kx, kx), (ky, ky), (kx, ky)))
    angle = torch.atan2(2 * xy, xx - yy) / 2  # of the line that is nearest to all
    distance = (ky * angle.cos() - kx * angle.sin()).abs()
    beside = used & (distance > _BESIDE * ((xx + yy) / used.sum(1, keepdim=True).clamp_min(1)).sqrt())
    return (used.sum(1) >= _FEWEST) & (beside.sum(1) > 1)
