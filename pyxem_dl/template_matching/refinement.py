"""From the best templates of Bragg vectors to orientations: tilts are searched, and the likeliest candidates kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pyxem_dl.crystals import ReflectionTable, near_ewald_sphere, reflections
from pyxem_dl.electrons import electron_wavelength
from pyxem_dl.patterns.likelihood import SpotLists, VectorBatch, in_plane_misfit, log_likelihood, turned
from pyxem_dl.rotations import exponential, multiply, rotate_in_plane
from pyxem_dl.templates.bank import TemplateBank
from pyxem_dl.templates.modes import Match, separate_modes

#: Step between the zone axes of the templates that give the candidates, in degrees, at least: finer costs time only
COARSE = 3.0
# Templates that are taken, each with its twin; spots of a template; and templates that are listed at once
_TEMPLATES, _SPOTS, _AT_ONCE = 16, 64, 512
# Excitation errors (Å⁻¹) up to which a reflection can matter
_FARTHEST = 0.12
# B (Å²) of all atoms: what diffracts far out is weaker than atoms at rest would be
_DEBYE_WALLER = 0.5
# A search: how far tilts go, and their step, in units of the templates' step, and how many candidates are searched
_SEARCH = ((0.8, 0.4, None), (0.3, 0.15, 8), (0.12, 0.06, 4), (0.045, 0.0225, 2))
# With a larger error a disk hardly tells the sign of its excitation error, and what all disks of a pattern have wrong
# together would outweigh their positions (Å⁻¹)
_USEFUL_ERROR = 0.002
# Likelihoods are too sure of themselves, since the errors of intensities hang together
_TEMPERATURE = 3.0


@dataclass(eq=False)
class VectorMatcher:
    """Finds the orientations of Bragg vectors.

    Parameters
    ----------
    bank : TemplateBank
        Whose best templates are the candidates.
    spots : SpotLists
        Of the templates, (templates, spots).

    Notes
    -----
    Templates are some degrees apart.  The best of them, and their twins turned by 180° about the beam, are turned onto
    the vectors by least squares, and tilted by what makes the vectors likeliest: see
    :func:`pyxem_dl.patterns.likelihood.log_likelihood`.  On MgO, Fe, Mg and Al₂O₃, simulated by many beams
    (128 x 128 px, 10**3 and 10**4 scattered electrons), one of the first 16 templates 3° apart, or its twin, was near
    the orientation of 98 to 100 % of the patterns.
    """

    bank: TemplateBank
    spots: SpotLists

    @classmethod
    def from_bank(cls, bank: TemplateBank, beam_energy: float, *, max_excitation_error: float = 0.0) -> VectorMatcher:
        """List the reflections of a bank's templates, up to 0.12 Å⁻¹ from the Ewald sphere at least; energy in kV."""
        device = bank.quaternions.device
        table = ReflectionTable.stack(
            [reflections(phase, bank.preprocessing.reciprocal_radius) for phase in bank.phases], beam_energy, device
        )
        farthest = max(max_excitation_error, _FARTHEST)
        parts = [
            _list_spots(table, phase_id, quaternions, beam_energy, farthest, bank.resolution)
            for phase_id, quaternions in zip(bank.phase_id.split(_AT_ONCE), bank.quaternions.split(_AT_ONCE))
        ]
        return cls(bank, SpotLists(*(torch.cat(column) for column in zip(*parts, strict=True))))

    def to(self, device: torch.device | str) -> VectorMatcher:
        """Move it to a device; returns itself."""
        self.bank.to(device)
        self.spots = SpotLists(*(x.to(device) for x in self.spots))
        return self

    def __call__(self, vectors: VectorBatch, n_best: int = 1) -> Match:
        """Find the orientations of a batch.

        Parameters
        ----------
        vectors : VectorBatch
            On the bank's device.
        n_best : int
            How many modes to return.

        Returns
        -------
        Match
            Scores are shares of the likelihood of all candidates, tempered, between 0 and 1.
        """
        useful = vectors.excitation_variance < _USEFUL_ERROR**2
        vectors = vectors._replace(excitation_variance=torch.where(useful, vectors.excitation_variance, math.inf))
        index, angle = self._candidates(vectors, n_best)
        tilt = torch.zeros(*angle.shape, 2, device=angle.device)
        likelihood = torch.zeros_like(angle)
        for reach, step, kept in _SEARCH:
            chosen = likelihood.topk(kept, 1).indices if kept and kept < angle.shape[1] else None
            found = self._searched(vectors, *(_taken(x, chosen) for x in (index, angle, tilt)), reach, step)
            if chosen is None:
                angle, tilt, likelihood = found
            else:
                # what was left behind was searched more coarsely, and is no rival
                behind = torch.minimum(likelihood, found[2].amin(1, keepdim=True))
                angle, likelihood = angle.scatter(1, chosen, found[0]), behind.scatter(1, chosen, found[2])
                tilt = tilt.scatter(1, chosen[..., None].expand(-1, -1, 2), found[1])
        rotation = rotate_in_plane(self.bank.quaternions[index], angle)
        rotation = multiply(rotation, exponential(torch.cat([tilt, torch.zeros_like(tilt[..., :1])], -1)))
        there = (vectors.confidence > 0).any(1, keepdim=True)
        score = torch.softmax(likelihood / _TEMPERATURE, 1) * there
        return separate_modes(score, rotation, index, self.bank.phase_id[index], self.bank.operations, n_best)

    def _candidates(self, vectors: VectorBatch, n_best: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Templates (n, c) that fit best, and the angles in radians by which they are turned, each with its twin."""
        number = min(len(self.bank), max(_TEMPLATES, 4 * n_best))
        index, angle = self.bank.best_templates(len(vectors.kx), *spots_of(vectors), number)
        return index.repeat(1, 2), torch.cat([angle, angle + math.pi], 1)

    def _searched(self, vectors: VectorBatch, index, angle, tilt, reach: float, step: float):
        """Angles (n, c), tilts (n, c, 2) and likelihoods (n, c) after a search around the ones given."""
        template = SpotLists(*(column[index] for column in self.spots))
        angle = angle + in_plane_misfit(vectors, turned(template, angle))
        resolution = math.radians(self.bank.resolution)
        tilts = tilt[:, :, None] + _hexagon(reach * resolution, step * resolution).to(tilt)
        likelihood, best = log_likelihood(vectors, turned(template, angle), tilts, step * resolution).max(-1)
        return angle, tilts.gather(2, best[..., None, None].expand(*best.shape, 1, 2))[:, :, 0], likelihood


def spots_of(vectors: VectorBatch) -> tuple[torch.Tensor, ...]:
    """Owner, k (Å⁻¹), phi (radians) and intensity of all vectors, as a bank matches them; padding has intensity 0."""
    n, m = vectors.kx.shape
    owner = torch.arange(n, device=vectors.kx.device)[:, None].expand(n, m)
    k, phi = torch.hypot(vectors.kx, vectors.ky), torch.atan2(vectors.ky, vectors.kx)
    return tuple(x.flatten() for x in (owner, k, phi, vectors.log_intensity.exp() * (vectors.confidence > 0)))


def _list_spots(
    table: ReflectionTable, phase_id, quaternions, beam_energy: float, farthest: float, resolution: float
) -> SpotLists:
    """Reflections (templates, spots) that may be the strongest within the reach of a search."""
    g = table.g[0] if len(table.g) == 1 else table.g[phase_id]
    lab, error, near = near_ewald_sphere(g, quaternions, electron_wavelength(beam_energy), farthest)
    strength = torch.log(1 / table.extinction_distance[phase_id]) - _DEBYE_WALLER / 4 * g.square().sum(-1)
    present = near & (table.structure_factor[phase_id] > 0)
    reach = _SEARCH[0][0] * math.radians(resolution) * lab[..., :2].norm(dim=-1)
    nearest = (error.abs() - reach).clamp_min(0)
    promise = torch.where(present, 2 * strength - torch.log((2 * strength).exp() + nearest**2 + 1e-4), -math.inf)
    promise, index = promise.topk(min(_SPOTS, promise.shape[1]), 1)
    kx, ky, error, strength = (x.expand_as(near).gather(1, index) for x in (lab[..., 0], lab[..., 1], error, strength))
    strength = torch.where(promise > -math.inf, strength, -math.inf)
    missing = max(0, _SPOTS - index.shape[1])
    pad = torch.nn.functional.pad
    return SpotLists(*(pad(x, (0, missing)) for x in (kx, ky, error)), pad(strength, (0, missing), value=-math.inf))


def _hexagon(reach: float, step: float) -> torch.Tensor:
    """Points (m, 2) of a hexagonal mesh within a distance from 0, the first of which is 0."""
    n = math.ceil(1.2 * reach / step)
    i, j = torch.meshgrid(torch.arange(-2 * n, 2 * n + 1.0), torch.arange(-n, n + 1.0), indexing="ij")
    points = step * torch.stack([i + 0.5 * j, math.sqrt(0.75) * j], -1).reshape(-1, 2)
    distance = points.norm(dim=1)
    return points[distance.argsort(stable=True)][: int((distance < reach + 1e-6 * step).sum())]


def _taken(x: torch.Tensor, chosen: torch.Tensor | None) -> torch.Tensor:
    """Take some candidates of (n, c, ...)."""
    if chosen is None:
        return x
    chosen = chosen.reshape(*chosen.shape, *[1] * (x.ndim - 2)).expand(*chosen.shape, *x.shape[2:])
    return x.gather(1, chosen)
