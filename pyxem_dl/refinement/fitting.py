"""Tilts and thickness that fit the intensities of spots: a search over both, then damped Gauss-Newton steps."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from pyxem_dl.frames import Calibration
from pyxem_dl.refinement.likelihood import Seen
from pyxem_dl.refinement.search import _THICKNESS_STEP, Net, search, solved
from pyxem_dl.refinement.spots import measure
from pyxem_dl.refinement.waves import Pool, jacobian
from pyxem_dl.rotations import exponential, multiply, rotate_in_plane
from pyxem_dl.simulation.bloch_waves import BlochWaves

# Tilts that the first orientation is expected to be off by, in degrees
_EXPECTED = 0.4
# Of the fit: the longest step in degrees and Å, and the furthest from where it began, in degrees
_LONGEST, _LONGEST_THICKNESS, _FURTHEST = 0.2, 25.0, 2.0
# Starts that are followed, for so many steps, with so many directions in the disk and so many strong beams
_STAGES = ((40, 1, 3, 14), (12, 2, 3, 14), (4, 3, 3, 20), (2, 4, 7, 24))
_WRONG, _WIDE_STEP, _WIDE_REACH, _WIDE_EXPECTED, _WIDE_STARTS, _WIDE_APART = 2.0, 0.15, 2.4, 1.5, 3, 0.4
_TURNS = 2  # of the pattern in its plane, until spots are where the light is


class Refined(NamedTuple):
    rotations: torch.Tensor
    thickness: torch.Tensor
    tilt_error: torch.Tensor
    thickness_error: torch.Tensor
    misfit: torch.Tensor
    kept: torch.Tensor


class _State(NamedTuple):
    """Fits of n patterns from m starts, and what the next step needs."""

    tilt: torch.Tensor  # (n, m, 2)
    thickness: torch.Tensor  # (n, m)
    cost: torch.Tensor  # (n, m)
    normal: torch.Tensor  # (n, m, 4, 4)
    slope: torch.Tensor  # (n, m, 4)
    misfit: torch.Tensor  # (n, m)


class Refiner:
    """Refines orientations of one phase."""

    def __init__(
        self, phase, calibration: Calibration, radius: float, *, n_beams: int = 60, debye_waller: float = 0.5,
        thickness: tuple[float, float] = (30.0, 600.0), dtype=torch.float32, moments=True,
    ) -> None:  # fmt: skip
        self.calibration, self.radius, self.dtype, self.moments = calibration, radius, dtype, moments
        self._waves = BlochWaves(
            phase, calibration.beam_energy, calibration.reciprocal_radius, n_beams=n_beams, debye_waller=debye_waller
        )
        low, high = thickness
        self._thickness = torch.arange(low - _THICKNESS_STEP, high + 1 + _THICKNESS_STEP, _THICKNESS_STEP, dtype=dtype)
        self._thickness = self._thickness[self._thickness > 0]
        #: radius of a disk, as an angle
        self._disk = radius * math.sqrt(math.prod(calibration.scale)) * self._waves.wavelength
        self._net = Net.of(self._disk, dtype)
        self._wide_net = Net.of(self._disk, dtype, _WIDE_STEP, _WIDE_REACH)
        self._wide = BlochWaves(
            phase, calibration.beam_energy, calibration.reciprocal_radius, n_beams=100, debye_waller=debye_waller
        )

    def prepare(self, patterns, rotations, waves=None):
        waves = waves or self._waves
        rotations = rotations.double()
        for _ in range(_TURNS):
            chosen = waves.choose(rotations.float())
            rotations = rotate_in_plane(rotations, measure(patterns, chosen, self.calibration, self.radius).turn)
        chosen = waves.choose(rotations.float())
        seen = Seen.of(chosen, measure(patterns, chosen, self.calibration, self.radius), self.dtype, moments=self.moments)
        return rotations, Pool.of(waves, chosen, self.dtype), seen

    def __call__(self, patterns: torch.Tensor, rotations: torch.Tensor) -> Refined:
        first = self.once(patterns, rotations)
        bad = (first.misfit > _WRONG).nonzero()[:, 0]
        self.n_bad = len(bad)
        if not len(bad):
            return first
        rotations, pool, seen = self.prepare(patterns[bad], rotations[bad], self._wide)
        given = self._thickness[::2], self._disk, math.radians(_WIDE_EXPECTED), _WIDE_STARTS, math.radians(_WIDE_APART)
        tilts = torch.cat([search(self._wide_net, pool[i : i + 1], seen[i : i + 1], *given)[0] for i in range(len(bad))])
        best = Refined(*(x[bad] for x in first))
        for i in range(_WIDE_STARTS):
            start = multiply(rotations, exponential(torch.nn.functional.pad(tilts[:, i].double(), (0, 1))))
            other = self.once(patterns[bad], start)
            better = other.misfit < best.misfit - 0.3
            best = Refined(*(torch.where(better.reshape(-1, *(1,) * (x.ndim - 1)), x, y) for x, y in zip(other, best)))
        for x, y in zip(first, best):
            x[bad] = y
        return first

    def once(self, patterns: torch.Tensor, rotations: torch.Tensor) -> Refined:
        rotations, pool, seen = self.prepare(patterns, rotations)
        tilt, thickness = self._search(pool, seen, _STAGES[0][0])
        state = None
        for n_starts, n_steps, n_directions, n_strong in _STAGES:
            if state is not None:
                tilt, thickness = self._best(state, n_starts)
            state = self._fit(pool, seen, tilt, thickness, n_steps, n_directions, n_strong)
        self.last = state
        return self._told(rotations, seen, state)

    def _search(self, pool, seen, n_starts):
        given = self._thickness, self._disk, math.radians(_EXPECTED), n_starts
        # one by one: what is computed for a pattern fits into a processor's memory
        found = [search(self._net, pool[i : i + 1], seen[i : i + 1], *given) for i in range(len(pool.kx))]
        return tuple(torch.cat(each) for each in zip(*found))

    # ---------------------------------------------------------------- the model
    def _cone(self, n_directions: int) -> torch.Tensor:
        """Tilts (m, 2) that stand for the directions of the incident cone; their second moment is that of the disk."""
        if n_directions == 1:
            return torch.zeros(1, 2, dtype=self.dtype)
        with_middle = n_directions > 4
        n_ring = n_directions - with_middle
        out = self._disk * math.sqrt(n_directions / (2 * n_ring))
        angle = torch.arange(n_ring, dtype=self.dtype) * (2 * math.pi / n_ring)
        ring = out * torch.stack([angle.cos(), angle.sin()], dim=1)
        return torch.cat([torch.zeros(1, 2, dtype=self.dtype), ring]) if with_middle else ring

    def _disks(self, pool: Pool, seen: Seen, tilt, thickness, n_directions: int, n_strong: int):
        """Mean intensities and moments of disks (n, m, 2 beams), and derivatives (n, m, 2 beams, 3)."""
        n, m = thickness.shape
        cone = self._cone(n_directions)
        every = (tilt[:, :, None] + cone).reshape(n, m * len(cone), 2)
        error = pool.turned(every)
        both = jacobian(pool, error, thickness.repeat_interleave(len(cone), 1), n_strong, seen.beams)
        both = both.unflatten(1, (m, len(cone)))  # (n, m, cone, beams, 4)
        outward = (seen.outward_y[:, None] * cone[:, :1] - seen.outward_x[:, None] * cone[:, 1:]) / self._disk
        moment = torch.einsum("nmcbk,ncb->nmbk", both, outward) / len(cone)
        both = torch.cat([both.mean(2), moment], dim=2)
        return both[..., 0], both[..., 1:]

    # ---------------------------------------------------------------- the fit
    def _best(self, state: _State, n: int):
        index = state.cost.topk(min(n, state.cost.shape[1]), dim=1, largest=False).indices
        return state.tilt.gather(1, index[..., None].expand(-1, -1, 2)), state.thickness.gather(1, index)

    def _fit(self, pool: Pool, seen: Seen, tilt, thickness, n_steps, n_directions, n_strong) -> _State:
        """Go down from starts by damped Gauss-Newton steps, of which those that lead up are not taken."""
        now = self._at(pool, seen, tilt, thickness, n_directions, n_strong)
        damping = torch.full_like(thickness, 1e-2)
        for _ in range(n_steps):
            size = torch.diagonal(now.normal, dim1=-2, dim2=-1)
            step = solved(now.normal + torch.diag_embed(damping[..., None] * size), now.slope)
            angle = step[..., :2].norm(dim=-1, keepdim=True).clamp_min(1e-12)
            turned = now.tilt + step[..., :2] * (math.radians(_LONGEST) / angle).clamp_max(1)
            thicker = now.thickness + step[..., 2].clamp(-_LONGEST_THICKNESS, _LONGEST_THICKNESS)
            thicker = thicker.clamp(self._thickness[0] / 2, 1.2 * self._thickness[-1])
            then = self._at(pool, seen, turned, thicker, n_directions, n_strong)
            down = then.cost < now.cost
            now = _where(down, then, now)
            damping = torch.where(down, 0.3 * damping, 6 * damping)
        return now

    def _at(self, pool: Pool, seen: Seen, tilt, thickness, n_directions, n_strong) -> _State:
        model, by = self._disks(pool, seen, tilt, thickness, n_directions, n_strong)
        fit = seen.fit(model)
        by = torch.cat([fit.scale[..., None, None] * by, model[..., None]], dim=-1)  # tilts, thickness, scale
        used = seen.used[:, None]
        weighted = by * (used / fit.variance)[..., None]
        expected = math.radians(_EXPECTED)
        normal = weighted.mT @ by + torch.diag(by.new_tensor([expected**-2, expected**-2, 0, 0]))
        slope = (weighted * fit.residual[..., None]).sum(-2) - torch.nn.functional.pad(tilt, (0, 2)) / expected**2
        cost = fit.cost + (tilt.norm(dim=-1) / expected) ** 2
        misfit = (used * fit.residual**2 / fit.variance).sum(-1) / (used.sum(-1) - 4).clamp_min(1)
        return _State(tilt, thickness, cost, normal, slope, misfit)

    def _told(self, rotations: torch.Tensor, seen: Seen, state: _State) -> Refined:
        best = state.cost.argmin(1)
        state = _State(*(x[torch.arange(len(best)), best] for x in state))
        n_used = seen.used.sum(1)
        size = torch.diagonal(state.normal, dim1=-2, dim2=-1).clamp_min(1e-30).sqrt()
        scaled = (state.normal / (size[..., None] * size[..., None, :])).double()
        spread = torch.linalg.inv(scaled + 1e-9 * torch.eye(4, dtype=scaled.dtype)) / (size[..., None] * size[..., None, :])
        variance = torch.diagonal(spread, dim1=1, dim2=2).clamp_min(0) * state.misfit.clamp_min(1)[:, None]
        kept = (state.tilt.norm(dim=1) < math.radians(_FURTHEST)) & (n_used > 4) & variance.isfinite().all(1)
        tilt = torch.where(kept[:, None], state.tilt, 0).double()
        turned = multiply(rotations, exponential(torch.nn.functional.pad(tilt, (0, 1))))
        return Refined(
            turned, torch.where(kept, state.thickness, math.nan), torch.rad2deg(variance[:, :2].sum(1).sqrt()),
            variance[:, 2].sqrt(), state.misfit, kept,
        )  # fmt: skip


def _where(first: torch.Tensor, a: _State, b: _State) -> _State:
    return _State(*(torch.where(first.reshape(*first.shape, *(1,) * (x.ndim - 2)), x, y) for x, y in zip(a, b)))
