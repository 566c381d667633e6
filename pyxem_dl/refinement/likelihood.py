"""How likely what was seen of spots is, given what a model says of them."""

from __future__ import annotations

from typing import NamedTuple

import torch

from pyxem_dl.frames import direction_of_tilt
from pyxem_dl.refinement.spots import Measured
from pyxem_dl.simulation.beams import Chosen

# Beams that are compared
_MOST = 32
# Share of an intensity by which the model is wrong, whatever the counts: of beams, of the direct beam (which holds what
# was scattered by little, too), and of moments within disks
_MODEL_ERROR, _DIRECT_ERROR, _MOMENT_ERROR = 0.05, 0.15, 0.06
# Diffracted beams together are above what noise makes by so many deviations at least
_CLEARLY_LIT = 6.0


class Fit(NamedTuple):
    """How models fit.

    ``cost (n, ...)``: minus twice the logarithm of the likelihood; ``scale (n, ...)``: electrons of the incident beam;
    ``residual``, ``variance (n, ..., 2 beams)`` in electrons.
    """

    cost: torch.Tensor
    scale: torch.Tensor
    residual: torch.Tensor
    variance: torch.Tensor


class Seen(NamedTuple):
    """What is compared: intensities of beams, then their moments away from the direct beam in radii of a disk.

    ``beams (n, beams)``: places among those chosen; ``unit_x``, ``unit_y (n, beams)``: unit vectors away from the
    direct beam; ``values``, ``used (n, 2 beams)``; ``error (n, 2 beams)``: of the model, as a share of the intensity;
    ``noise (n, 2 beams)``: variance that comes of the background and does not depend on the model; ``clear (n,
    beams)``: the share of it that other disks have no part in.
    """

    beams: torch.Tensor
    unit_x: torch.Tensor
    unit_y: torch.Tensor
    clear: torch.Tensor
    values: torch.Tensor
    used: torch.Tensor
    error: torch.Tensor
    noise: torch.Tensor

    @classmethod
    def of(cls, chosen: Chosen, measured: Measured, dtype: torch.dtype) -> Seen:
        """Take the beams that promise most, of those that the patterns hold."""
        most = min(_MOST, measured.used.shape[1])
        # beams are in the order of their promise
        beams = measured.used.long().sort(dim=1, descending=True, stable=True).indices[:, :most]
        kx, ky = (x.double().gather(1, beams) for x in chosen[:2])
        k = torch.hypot(kx, ky)
        used, intensity, noise, moment, of_moment, clear = (
            x.gather(1, beams)
            for x in (measured.used, measured.intensity, measured.noise, measured.moment, measured.moment_noise,
                      measured.clear)
        )  # fmt: skip
        error = torch.cat([torch.full_like(k, _MODEL_ERROR), torch.full_like(k, _MOMENT_ERROR)], dim=1)
        error = torch.where((beams == 0).repeat(1, 2), _DIRECT_ERROR, error)
        used = torch.cat([used, used & (k > 0)], dim=1)
        noise = torch.cat([noise, of_moment], dim=1)
        values = torch.cat([intensity, moment], dim=1)
        k = k.clamp_min(1e-9)
        numbers = (x.to(dtype) for x in (kx / k, ky / k, clear, values))
        return cls(beams, *numbers, used, error.to(dtype), noise.to(dtype))

    def __getitem__(self, rows) -> Seen:
        return Seen(*(x[rows] for x in self))

    def first(self, n_beams: int) -> Seen:
        """Take so many beams that promise most."""
        n, half = n_beams, self.beams.shape[1]
        both = (torch.cat([x[:, :n], x[:, half : half + n]], dim=1) for x in tuple(self)[4:])
        return Seen(*(x[:, :n] for x in tuple(self)[:4]), *both)

    def outward(self, tilt: torch.Tensor) -> torch.Tensor:
        """How far (n, m, beams) the directions that tilts (m, 2) of the crystal stand for lie out in the disks."""
        x, y = direction_of_tilt(tilt[:, :1], tilt[:, 1:])
        return self.unit_x[:, None] * x + self.unit_y[:, None] * y

    def has_light(self) -> torch.Tensor:
        """Whether (n,) the diffracted beams together are clearly brighter than what noise and background make."""
        half = self.values.shape[1] // 2
        # of a disk in the light of others little is known
        weight = self.clear * (self.used[:, :half] & (self.beams > 0))
        light = (self.values[:, :half] * weight).sum(1)
        own = (self.values[:, :half] * weight**2).sum(1).clamp_min(0)
        noise = (self.noise[:, :half] * weight**2).sum(1) + own
        return light > _CLEARLY_LIT * noise.sqrt()

    def fit(self, model: torch.Tensor, unresolved: torch.Tensor | None = None) -> Fit:
        """Compare with models.

        Parameters
        ----------
        model : tensor, shape (n, ..., 2 beams)
            Intensities for one incident electron, and their moments.
        unresolved : tensor, optional
            Variance of what the models leave open, in their unit, that broadcasts with `model`.
        """
        middle = (1,) * (model.ndim - 2)
        values, used, error, noise = (x.reshape(len(x), *middle, -1) for x in tuple(self)[4:])
        half = values.shape[-1] // 2
        weight = used / (values.abs() + (0.1 * values) ** 2 + 4 * noise)
        weight[..., half:] = 0
        flat = model.reshape(len(model), -1, model.shape[-1])
        both = (flat @ (weight * values).flatten(1)[..., None]).reshape(model.shape[:-1])
        own = (flat.square() @ weight.flatten(1)[..., None]).reshape(model.shape[:-1])
        scale = both / own.clamp_min(1e-20)
        residual = model * -scale[..., None]
        electrons = torch.maximum(values[..., :half], -residual[..., :half]).clamp_min_(0)
        electrons = torch.cat([electrons, electrons], dim=-1)
        counted = torch.ones_like(error)
        counted[..., half:] = 1 / 4
        variance = torch.addcmul(counted, error.square(), electrons).mul_(electrons).add_(noise)
        if unresolved is not None:
            variance += scale[..., None].square() * unresolved
        residual += values
        each = residual.square().div_(variance).add_(variance.log())
        cost = (each.reshape(flat.shape) @ used.flatten(1)[..., None].to(each)).reshape(scale.shape)
        return Fit(cost, scale, residual, variance)
