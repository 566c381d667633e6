"""Verification of proposed orientations against the pattern.

For each proposal the reflections near the Ewald sphere are looked up in the polar pattern.
What stands there, next to what the reflection could give, goes through one small network
for each reflection; the sum over the reflections gives the proposal's score and a small
rotation that improves it.  Nothing in it knows which crystal it is: it is template
matching with a learned comparison, for a few candidates instead of thousands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from pyxem_dl import rotations as rot
from pyxem_dl.crystals import ReflectionTable, find_spots

# Sample points around each predicted spot, in Å⁻¹ along the radius and across it.
_PITCH = 0.03
_AZIMUTHAL = (-2, -1, 0, 1, 2)
# Unit of the corrections (radians), and of excitation errors (Å⁻¹).
_ANGLE = math.radians(2.0)
_ERROR = 0.01


class PolarView(NamedTuple):
    """What all looks at the same polar patterns (n, n_k, n_phi) share.

    ``intensity (n, n_k, n_phi + 2)`` with one column beyond each end, which closes the circle;
    ``valid (n or 1, n_k, n_phi)``; ``ring (n, n_k)`` averages; ``log_excess (n,)`` of what stands out
    of the rings in all.
    """

    intensity: torch.Tensor
    valid: torch.Tensor
    ring: torch.Tensor
    log_excess: torch.Tensor

    @classmethod
    def of(cls, polar: torch.Tensor | Sequence[torch.Tensor]) -> PolarView:
        """Look at preprocessed patterns (n, 2, n_k, n_phi), or their two channels."""
        intensity, valid = channels_of(polar)
        ring = intensity.mean(2)
        radius = torch.arange(intensity.shape[1], device=intensity.device) + 0.5
        excess = (intensity - ring[..., None]).clamp_min(0).sum(2) * radius
        closed = torch.cat([intensity[..., -1:], intensity, intensity[..., :1]], dim=-1)
        return cls(closed, valid, ring, excess[:, 4:].sum(1).clamp_min(1e-3).log())

    def at(self, rows: torch.Tensor) -> PolarView:
        """Look at some of the patterns."""
        valid = self.valid if len(self.valid) == 1 else self.valid[rows]
        return PolarView(self.intensity[rows], valid, self.ring[rows], self.log_excess[rows])


def channels_of(polar: torch.Tensor | Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """Channels of polar patterns (n, channels, n_k, n_phi); those that come apart as they are."""
    return polar.unbind(1) if isinstance(polar, torch.Tensor) else polar


class _Bins:
    """Nearest polar bins of points (n, m, spots)."""

    def __init__(self, k, phi, shape, reciprocal_radius) -> None:
        n_k, n_phi = shape
        self.shape = k.shape
        self.row = (k * (n_k / reciprocal_radius)).long().clamp_max(n_k - 1).flatten(1)
        column = (phi * (n_phi / (2 * math.pi))).round().long() % n_phi
        self.flat = self.row * n_phi + column.flatten(1)

    def read(self, polar: torch.Tensor) -> torch.Tensor:
        """Values of polar patterns (n, n_k, n_phi) at the points."""
        return polar.flatten(1).expand(len(self.flat), -1).gather(1, self.flat).reshape(self.shape)

    def read_ring(self, ring: torch.Tensor) -> torch.Tensor:
        """Values of ring averages (n, n_k) at the points."""
        return ring.gather(1, self.row).reshape(self.shape)


class CandidateVerifier(nn.Module):
    """Score and improve proposed orientations.

    Parameters
    ----------
    n_phases, n_reflections : int
        Size of the reflection table.
    reciprocal_radius : float
        Outer radius of the polar pattern in Å⁻¹.
    beam_energy : float
        In kV.
    n_spots : int
        Reflections looked up for each candidate, the most promising ones.
    width : int
        Of the small networks.
    n_radial : int
        Sample points along the radius around each spot, 0.03 Å⁻¹ apart: more of them
        find it on a detector that is more distorted.  Odd.
    certain : float
        Proposals that are more probable are looked at alone, and once; 1: none.
    """

    def __init__(
        self,
        n_phases: int,
        n_reflections: int,
        reciprocal_radius: float,
        beam_energy: float,
        n_spots: int = 48,
        width: int = 64,
        n_radial: int = 3,
        certain: float = 1.0,
    ) -> None:
        super().__init__()
        self.reciprocal_radius, self.beam_energy = reciprocal_radius, beam_energy
        self.n_spots, self.n_radial, self.certain = n_spots, n_radial, certain
        self.register_buffer("g", torch.zeros(n_phases, n_reflections, 3))
        self.register_buffer("structure_factor", torch.zeros(n_phases, n_reflections))
        self.register_buffer("extinction_distance", torch.ones(n_phases, n_reflections))
        unit = torch.eye(4)
        self.register_buffer("hamilton", rot.multiply(unit[:, None], unit).flatten(0, 1), persistent=False)
        n_samples = n_radial * len(_AZIMUTHAL)
        self.spot = nn.Sequential(
            nn.Linear(n_samples + 8, width), nn.GELU(), nn.Linear(width, width), nn.GELU()
        )
        self.correction = nn.Linear(width, 3)
        self.score = nn.Sequential(
            nn.Linear(2 * width + 3, width), nn.GELU(), nn.Linear(width, width), nn.GELU(),
            nn.Linear(width, 1),
        )
        nn.init.zeros_(self.correction.weight)
        nn.init.zeros_(self.correction.bias)

    def set_reflections(self, table: ReflectionTable) -> None:
        """Take over the reflections of the phases."""
        for name in ReflectionTable._fields:
            getattr(self, name).copy_(getattr(table, name))

    @property
    def table(self) -> ReflectionTable:
        """The phases' reflections."""
        return ReflectionTable(self.g, self.structure_factor, self.extinction_distance)

    def _sample(self, closed: torch.Tensor, kx: torch.Tensor, ky: torch.Tensor) -> torch.Tensor:
        """Read closed polar patterns (n, n_k, n_phi + 2) around points (n, m): (n, m, samples)."""
        n, n_k, n_phi = closed.shape[0], closed.shape[1], closed.shape[2] - 2
        k, phi = torch.hypot(kx, ky), torch.atan2(ky, kx)
        half = self.n_radial // 2
        radial = torch.arange(-half, half + 1, device=closed.device)[:, None] * _PITCH
        azimuthal = torch.arange(_AZIMUTHAL[0], _AZIMUTHAL[-1] + 1, device=closed.device)[None] * _PITCH
        k_at = (k[..., None, None] + radial).clamp_min(0)
        phi_at = phi[..., None, None] + azimuthal / k[..., None, None].clamp_min(0.1)
        column = (phi_at * (n_phi / (2 * math.pi))) % n_phi + 1
        row = k_at * (n_k / self.reciprocal_radius) - 0.5
        x = column * (2 / (n_phi + 1)) - 1
        y = row * (2 / (n_k - 1)) - 1
        grid = torch.stack(torch.broadcast_tensors(x, y), dim=-1).reshape(n, kx.shape[1], -1, 2)
        values = nn.functional.grid_sample(
            closed[:, None], grid, align_corners=True, padding_mode="zeros"
        )
        return values[:, 0]

    def forward(
        self, view: PolarView, rotations, phase_id, log_probability
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compare candidates with the pattern.

        Parameters
        ----------
        view : PolarView
            Of the preprocessed patterns.
        rotations : tensor, shape (n, m, 4)
            Candidates.
        phase_id : tensor of int, shape (n, m)
            Their phases.
        log_probability : tensor, shape (n, m)
            What was believed of them before.

        Returns
        -------
        score : tensor, shape (n, m)
            Logits over the candidates.
        correction : tensor, shape (n, m, 3)
            Rotation vectors v in radians; ``R * exp(v)`` is the better orientation.
        """
        n, m = phase_id.shape
        spots = find_spots(
            self.table, phase_id.reshape(-1), rotations.reshape(-1, 4), self.beam_energy,
            n_spots=self.n_spots, max_excitation_error=0.06,
        )
        spots = [column.reshape(n, m, -1) for column in spots]
        kx, ky, error, factor, distance, _ = spots
        k = torch.hypot(kx, ky)
        there = (factor > 0) & (k < self.reciprocal_radius)
        samples = self._sample(view.intensity, kx.reshape(n, -1), ky.reshape(n, -1))
        samples = samples.reshape(*k.shape, -1)
        bins = _Bins(k, torch.atan2(ky, kx), view.valid.shape[1:], self.reciprocal_radius)
        strongest = factor.amax(2, keepdim=True).clamp_min(1e-6)
        relative = factor / strongest
        closeness = 1 / (1 + (error / _ERROR) ** 2)
        known = (
            k, error / _ERROR, error.abs() / _ERROR, closeness,
            relative.clamp_min(1e-3).log(), 200 / distance.clamp_min(1.0),
            relative**2 * closeness, bins.read(view.valid),
        )
        h = self.spot(torch.cat([samples, *(x[..., None] for x in known)], dim=-1)) * there[..., None]
        pooled = torch.cat([h.mean(2), h.amax(2)], dim=-1)
        # how much of what stands out of the rings the reflections explain
        above = (samples[..., samples.shape[-1] // 2] - bins.read_ring(view.ring)).clamp_min(0)
        explained = (above * there).sum(2).clamp_min(1e-3)
        global_ = torch.stack(
            [log_probability, explained.log(), view.log_excess[:, None].expand(n, m) - 8], dim=-1
        )
        score = self.score(torch.cat([pooled, global_], dim=-1))[..., 0]
        a, b, c = (self.correction(h) * there[..., None]).unbind(-1)
        ux, uy = kx / k.clamp_min(1e-3), ky / k.clamp_min(1e-3)
        correction = torch.stack(
            [(a * ux - b * uy).mean(2), (a * uy + b * ux).mean(2), c.mean(2)], dim=-1
        )
        return score.float(), (5 * _ANGLE) * correction.float()

    def improve(self, view: PolarView, rotations, phase_id, log_probability):
        """Compare and correct.

        Returns
        -------
        score : tensor, shape (n, m)
            Logits.
        rotations : tensor, shape (n, m, 4)
            Improved candidates.
        """
        score, correction = self(view, rotations, phase_id, log_probability)
        # the product of few quaternions takes as long as the number of its operations: one of matrices instead
        pairs = rotations[..., :, None] * rot.exponential(correction)[..., None, :]
        return score, rot.matmul(pairs.flatten(-2), self.hamilton)

    def loss(self, polar, candidates, rotations, phase_id, operations, rounds: int = 2):
        """Cross-entropy against the candidates near the truth, plus what is left to correct.

        Parameters
        ----------
        polar : tensor, shape (n, 2, n_k, n_phi)
            Preprocessed patterns.
        candidates : OrientationCandidates
            Proposals.
        rotations, phase_id : tensor, shapes (n, 4) and (n,)
            The truth; phase -1 where there is no crystal.
        operations : tensor, shape (n_phases, n_operations, 4)
            Of the Laue groups.
        rounds : int
            How often to improve.
        """
        proposed, log_p = candidates.rotations, candidates.scores.clamp_min(1e-6).log()
        equivalent = rot.multiply(operations[phase_id.clamp_min(0)], rotations[:, None])
        right = (candidates.phase_id == phase_id[:, None]).float()
        view, cross_entropy, refinement = PolarView.of(polar), 0, 0
        for _ in range(rounds):
            score, correction = self(view, proposed, candidates.phase_id, log_p)
            product = rot.matmul(proposed, equivalent.transpose(1, 2))
            nearest = product.abs().argmax(dim=2)
            truth = equivalent.gather(1, nearest[..., None].expand(-1, -1, 4))
            left = rot.logarithm(rot.multiply(rot.conjugate(proposed), truth))
            distance = left.norm(dim=-1)
            near = right * (distance < 5 * _ANGLE)
            weight = near * torch.exp(-0.5 * (distance / _ANGLE) ** 2).clamp_min(1e-3)
            weight = weight / weight.sum(1, keepdim=True).clamp_min(1e-9)
            entropy = -(weight * score.log_softmax(1)).sum(1)
            cross_entropy = cross_entropy + entropy.sum() / near.amax(1).sum().clamp_min(1)
            squared = (((correction - left) / _ANGLE) ** 2).sum(-1)
            # a far candidate must not dominate
            robust = torch.sqrt(1 + squared) - 1
            refinement = refinement + (robust * near).sum() / near.sum().clamp_min(1)
            proposed = rot.multiply(proposed, rot.exponential(correction)).detach()
        return cross_entropy / rounds + refinement / rounds
