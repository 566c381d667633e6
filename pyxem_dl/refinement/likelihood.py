"""How likely what was seen of spots is, given what a model says of them."""

from __future__ import annotations

from typing import NamedTuple

import torch

from pyxem_dl.refinement.spots import Measured
from pyxem_dl.simulation.beams import Chosen

# Beams that are compared
_MOST = 32
# Share of an intensity by which the model is wrong, whatever the counts: of beams, of the direct beam (which holds what
# was scattered by little, too), and of moments within disks (of an intensity)
_MODEL_ERROR, _DIRECT_ERROR, _MOMENT_ERROR = 0.05, 0.15, 0.06
# Electrons that may be anywhere
_FLOOR = 1.0


class Fit(NamedTuple):
    """How models fit: ``cost (n, ...)``, minus twice the logarithm of the likelihood; ``scale (n, ...)``: electrons per
    unit of intensity; ``residual``, ``variance (n, ..., 2 beams)``.
    """

    cost: torch.Tensor
    scale: torch.Tensor
    residual: torch.Tensor
    variance: torch.Tensor


class Seen(NamedTuple):
    """What is compared: intensities of beams, then their moments away from the direct beam in radii of a disk.

    ``beams (n, beams)``: places among those chosen; ``outward_x``, ``outward_y (n, beams)``: unit vectors away from the
    direct beam; ``values``, ``used (n, 2 beams)``; ``error (n, 2 beams)``: of the model, as a share of the intensity.
    """

    beams: torch.Tensor
    outward_x: torch.Tensor
    outward_y: torch.Tensor
    values: torch.Tensor
    used: torch.Tensor
    error: torch.Tensor

    @classmethod
    def of(cls, chosen: Chosen, measured: Measured, dtype: torch.dtype, *, moments: bool = True) -> Seen:
        """Take the beams that promise most, of those that the pattern holds."""
        most = min(_MOST, measured.used.shape[1])
        # beams are in the order of their promise
        beams = measured.used.long().sort(dim=1, descending=True, stable=True).indices[:, :most]
        kx, ky = (x.double().gather(1, beams) for x in chosen[:2])
        k = torch.hypot(kx, ky)
        used = measured.used.gather(1, beams)
        values = torch.cat([measured.intensity.gather(1, beams), measured.moment.gather(1, beams)], dim=1)
        error = torch.full_like(values, _MODEL_ERROR)
        error[:, most:] = _MOMENT_ERROR
        error = torch.where((beams == 0).repeat(1, 2), _DIRECT_ERROR, error)
        used = torch.cat([used, used & (k > 0) & moments], dim=1)
        k = k.clamp_min(1e-9)
        return cls(beams, (kx / k).to(dtype), (ky / k).to(dtype), values.to(dtype), used, error.to(dtype))

    def __getitem__(self, rows) -> Seen:
        return Seen(*(x[rows] for x in self))

    def fit(self, model: torch.Tensor, unresolved: torch.Tensor | float = 0.0) -> Fit:
        """Compare with models (n, ..., 2 beams); `unresolved`: a variance in the model's unit."""
        middle = (1,) * (model.ndim - 2)
        values, used, error = (x.reshape(len(x), *middle, -1) for x in tuple(self)[3:])
        half = values.shape[-1] // 2
        weight = used / (values.abs() + (0.1 * values) ** 2 + 4 * _FLOOR)
        weight[..., half:] = 0
        flat = model.flatten(1, -2)
        both = (flat @ (weight * values).flatten(1)[..., None]).reshape(model.shape[:-1])
        own = (flat**2 @ weight.flatten(1)[..., None]).reshape(model.shape[:-1])
        scale = both / own.clamp_min(1e-20)
        scaled = scale[..., None] * model
        electrons = torch.maximum(values[..., :half], scaled[..., :half]).clamp_min(0)
        electrons = torch.cat([electrons, electrons], dim=-1)
        share = torch.ones_like(error)
        share[..., half:] = 0.25  # mean square distance from the middle of a disk
        variance = share * (electrons + _FLOOR) + (error * electrons) ** 2
        if not isinstance(unresolved, float):
            variance = variance + scale[..., None] ** 2 * unresolved
        residual = values - scaled
        each = residual**2 / variance + variance.log()
        return Fit((each * used).sum(-1), scale, residual, variance)
