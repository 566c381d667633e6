"""Verification of proposed orientations, for crystals that it has never seen.

For each proposal the reflections near the Ewald sphere are looked up in the polar pattern.  What stands there, next to
what the reflection could give and to what noise could, goes through one small network for each reflection; what all of
them say together gives the proposal's score, and a small rotation that improves it.  No weight belongs to a crystal.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn

from pyxem_dl import rotations as rot
from pyxem_dl.crystals import ReflectionTable, find_spots
from pyxem_dl.preprocessing.elementary import log_1p, square_root

# Sample points around each predicted spot, in Å⁻¹ along the radius and across it
_PITCH = 0.03
_RADIAL, _AZIMUTHAL = (-2, -1, 0, 1, 2), (-2, -1, 0, 1, 2)
# Unit of the corrections (radians), and of excitation errors (Å⁻¹)
_ANGLE = math.radians(1.0)
_ERROR, _FURTHEST = 0.01, 0.06
# Numbers of each reflection besides its samples, and of each proposal
_KNOWN, _GLOBAL = 12, 8
# Of a ring's level: so many times it stands out, and after so many rounds it is left out
_OUT, _ROUNDS = 3.0, 3
# What stands out by more standard deviations is not more certain
_CLEAR = 30.0


class PatternView(NamedTuple):
    """What all looks at the same patterns share.

    ``intensity (n, n_k, n_phi + 2)``: square roots, of a root mean square of 1, with one column beyond each end, which
    closes the circle; ``counts``, of the same shape, electrons per bin; ``valid (n or 1, n_k, n_phi)``;
    ``ring (n, n_k)``: electrons per bin without what stands out; ``log_electrons (n,)`` of what stands out of the rings
    in all.
    """

    intensity: torch.Tensor
    counts: torch.Tensor
    valid: torch.Tensor
    ring: torch.Tensor
    log_electrons: torch.Tensor

    @classmethod
    def of(cls, polar, valid, normalised, pixels) -> PatternView:
        """Look at polar patterns.

        Parameters
        ----------
        polar : tensor, shape (n, n_k, n_phi)
            Mean electrons per pixel.
        valid : tensor, shape (n or 1, n_k, n_phi)
            1 where the bin was measured.
        normalised : tensor, shape (n, n_k, n_phi)
            The same, compressed and normalised.
        pixels : tensor, shape (n_k,)
            Of the detector in a bin.
        """
        counts = polar * pixels[:, None]
        ring = counts.mean(2)
        for _ in range(_ROUNDS):  # what stands out of a ring does not count for its level
            ring = torch.minimum(counts, _OUT * ring[..., None] + 1 / _OUT).mean(2)
        excess = (counts - ring[..., None]).clamp_min(0).sum((1, 2))
        return cls(_closed(normalised), _closed(counts), valid, ring, log_1p(excess))

    def at(self, rows: torch.Tensor) -> PatternView:
        """Look at some of the patterns."""
        valid = self.valid if len(self.valid) == 1 else self.valid[rows]
        return PatternView(*(x[rows] for x in self[:2]), valid, self.ring[rows], self.log_electrons[rows])


def _closed(polar: torch.Tensor) -> torch.Tensor:
    return torch.cat([polar[..., -1:], polar, polar[..., :1]], dim=-1)


class SpotVerifier(nn.Module):
    """Score and improve proposed orientations of any crystal.

    Parameters
    ----------
    width : int
        Of the small networks.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        n_samples = len(_RADIAL) * len(_AZIMUTHAL)
        self.spot = nn.Sequential(
            nn.Linear(n_samples + _KNOWN, width), nn.GELU(), nn.Linear(width, width), nn.GELU()
        )
        # what a reflection says of the score and its weight among the others; and its pull
        self.weight, self.correction = nn.Linear(width, 2), nn.Linear(width, 4)
        self.score = nn.Sequential(
            nn.Linear(3 * width + _GLOBAL, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 1)
        )
        for layer in (self.weight, self.correction):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, view: PatternView, table: ReflectionTable, rotations, phase_id, belief, beam_energy: float,
        reciprocal_radius: float, n_spots: int = 40, refined: float = 0.0,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """Compare proposals with patterns.

        Parameters
        ----------
        view : PatternView
            Of n patterns.
        table : ReflectionTable
            Of the phases.
        rotations, phase_id : tensor, shapes (n, m, 4) and (n, m)
            Proposals.
        belief : tensor, shape (n, m)
            Their correlation with templates.
        beam_energy : float
            In kV.
        reciprocal_radius : float
            Of the polar patterns, in Å⁻¹.
        n_spots : int
            Reflections that are looked up for each, the most promising ones.
        refined : float
            0 for proposals as they come, 1 for those that were improved.

        Returns
        -------
        score : tensor, shape (n, m)
            Logits over the proposals; that of "none of these" is 0.
        correction : tensor, shape (n, m, 3)
            Rotation vectors v in radians; ``R * exp(v)`` is the better orientation.
        """
        n, m = phase_id.shape
        spots = find_spots(
            table, phase_id.reshape(-1), rotations.reshape(-1, 4), beam_energy, n_spots=n_spots,
            max_excitation_error=_FURTHEST,
        )
        kx, ky, error, factor, distance, _ = (column.reshape(n, m, -1) for column in spots)
        k = torch.hypot(kx, ky)
        there = (factor > 0) & (k < reciprocal_radius)
        seen = _Samples(view, kx.flatten(1), ky.flatten(1), reciprocal_radius)
        samples, found, level, valid = (x.reshape(*k.shape, *x.shape[2:]) for x in seen.read())
        there = there & (valid > 0)
        strength = factor**2 / (1 + (error / _ERROR) ** 2) * there
        share = strength / strength.sum(2, keepdim=True).clamp_min(1e-12)
        # electrons that would be there, if the pattern's were shared out kinematically
        expected = share * view.log_electrons.exp()[:, None, None]
        out = _stands_out(found, level)
        known = (
            k, error / _ERROR, error.abs() / _ERROR, 1 / (1 + (error / _ERROR) ** 2), 100 / distance.clamp_min(1.0),
            share.clamp_min(1e-4).log() / 4, out.clamp(-_CLEAR, _CLEAR) / 5,
            _stands_out(level + expected, level).clamp_max(_CLEAR) / 5, log_1p(level) / 2, log_1p(found) / 4,
            (out > 3).to(k), valid,
        )  # fmt: skip
        h = self.spot(torch.cat([samples, *(x[..., None] for x in known)], dim=-1))
        weight, pull = self._weights(h, there)
        pooled = torch.cat([(weight[..., i, None] * h).sum(2) for i in range(2)] + [(h * there[..., None]).amax(2)], -1)
        explained = ((found - level).clamp_min(0) * there).sum(2)
        expected_out = (expected > 3 * square_root(level + 1)) & there
        numbers = (
            belief, belief - belief.amax(1, keepdim=True), log_1p(explained) / 4,
            log_1p(explained) - view.log_electrons[:, None], view.log_electrons[:, None].expand(n, m) / 4,
            log_1p(there.to(k).sum(2)) / 2,
            (expected_out & (out > 2)).sum(2) / expected_out.sum(2).clamp_min(1), torch.full_like(belief, refined),
        )  # fmt: skip
        score = self.score(torch.cat([pooled, *(x[..., None].to(pooled) for x in numbers)], dim=-1))[..., 0]
        ux, uy = kx / k.clamp_min(1e-3), ky / k.clamp_min(1e-3)
        a, b, c = ((pull * x).sum(2) for x in self._pulls(h, ux, uy, k))
        return score.float(), _ANGLE * torch.stack([a, b, c], dim=-1).float()

    def _weights(self, h, there) -> tuple[torch.Tensor, torch.Tensor]:
        """How much each reflection counts: two columns that sum to 1 for the score, one for the correction."""
        hidden = -1e4 * ~there[..., None]
        weight = (self.weight(h) + hidden).softmax(dim=2) * there[..., None]
        pull = (self.correction(h)[..., 3] + hidden[..., 0]).softmax(dim=2) * there
        return weight, pull

    def _pulls(self, h, ux, uy, k):
        """Rotations that each reflection asks for: about the axis across it, along it, and about the beam."""
        a, b, c, _ = self.correction(h).unbind(-1)
        # at a small angle a spot is hardly moved: the unit is the angle at 1 Å⁻¹
        return 5 * (a * ux - b * uy), 5 * (a * uy + b * ux), 5 * c

    def improve(self, view, table, rotations, phase_id, belief, *further, **settings):
        """Compare and correct, see :meth:`forward`: logits (n, m), and improved rotations (n, m, 4)."""
        score, correction = self(view, table, rotations, phase_id, belief, *further, **settings)
        return score, rot.multiply(rotations, rot.exponential(correction))


class _Samples:
    """Values of patterns around and at points (n, p)."""

    def __init__(self, view: PatternView, kx, ky, reciprocal_radius: float) -> None:
        self.view = view
        n, n_k, n_phi = view.intensity.shape[0], view.intensity.shape[1], view.intensity.shape[2] - 2
        k, phi = torch.hypot(kx, ky), torch.atan2(ky, kx)
        radial = torch.tensor(_RADIAL, device=k.device)[:, None] * _PITCH
        azimuthal = torch.tensor(_AZIMUTHAL, device=k.device)[None] * _PITCH
        k_at = (k[..., None, None] + radial).clamp_min(0)
        phi_at = phi[..., None, None] + azimuthal / k[..., None, None].clamp_min(0.1)
        column = (phi_at * (n_phi / (2 * math.pi))) % n_phi + 1
        row = k_at * (n_k / reciprocal_radius) - 0.5
        x, y = column * (2 / (n_phi + 1)) - 1, row * (2 / (n_k - 1)) - 1
        self.grid = torch.stack(torch.broadcast_tensors(x, y), dim=-1).reshape(n, kx.shape[1], -1, 2)
        self.row = (k * (n_k / reciprocal_radius)).long().clamp_max(n_k - 1)
        self.bin = self.row * n_phi + (phi * (n_phi / (2 * math.pi))).round().long() % n_phi

    def read(self) -> tuple[torch.Tensor, ...]:
        """Return samples (n, p, s), electrons per bin of the spots and of their rings, and whether it was measured."""
        view = self.view
        both = torch.stack([view.intensity, view.counts], dim=1)
        values = nn.functional.grid_sample(both, self.grid, align_corners=True, padding_mode="zeros")
        middle = values[:, 1].unflatten(2, (len(_RADIAL), len(_AZIMUTHAL)))[:, :, 1:4, 1:4].flatten(2)
        found, level = middle.mean(2), view.ring.gather(1, self.row)
        valid = view.valid.flatten(1).expand(len(self.bin), -1).gather(1, self.bin)
        return values[:, 0], found, level, valid


def _stands_out(found: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """By how many standard deviations of counting: differences of roots (Anscombe)."""
    return 2 * (square_root(found.clamp_min(0) + 0.375) - square_root(level.clamp_min(0) + 0.375))
