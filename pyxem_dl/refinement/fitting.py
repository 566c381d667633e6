"""Tilts and thickness that fit the intensities of spots: a search over both, then damped Gauss-Newton steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from pyxem_dl.frames import Calibration
from pyxem_dl.refinement.likelihood import Seen
from pyxem_dl.refinement.look_alikes import LookAlikes
from pyxem_dl.refinement.places import Places, fit_places, fit_turn
from pyxem_dl.refinement.search import THICKNESS_STEP, Net, Optics, search, solved, variances
from pyxem_dl.refinement.spots import Measured, measure
from pyxem_dl.refinement.waves import Pool, promise
from pyxem_dl.rotations import (
    conjugate,
    exponential,
    logarithm,
    misorientation_angle,
    multiply,
    random_rotations,
    rotate_in_plane,
)
from pyxem_dl.simulation.beams import Beams, Chosen

# Tilts that the first orientation is expected to be off by, in degrees
_EXPECTED = 0.4
# Of the fit: the longest step in degrees and Å
_LONGEST, _LONGEST_THICKNESS = 0.2, 25.0
# Starts that are followed, for so many steps, with so many directions in the disk and so many strong beams
_STAGES = ((24, 0, 3, 14), (10, 2, 3, 14), (3, 3, 3, 20), (2, 3, 7, 24))
# These are for crystals that have so many beams that promise to be so strong, as light elements have at 200 kV; what
# scatters more needs more, up to so many times as many
_COMPARABLE, _AS_STRONG, _MOST_TIMES = 10, 0.02, 3.0
# Orientations of which that is counted
_ORIENTATIONS = 128
# Where the misfit is larger, the first orientation was further off: step, reach and expected tilt in degrees, places
# that are tried, degrees between them, and beams that take part
_WRONG, _WIDE_STEP, _WIDE_REACH, _WIDE_EXPECTED, _WIDE_STARTS, _WIDE_APART = 2.5, 0.2, 2.4, 1.5, 2, 0.4
_WIDE_BEAMS = 100
# About a place that such a search found, tilts go so far, in degrees
_SMALL_REACH = 0.5
# No further place is tried where the misfit is less; by so much it has to be less for a place that is further away
_FITS, _CLEARLY = 1.2, 0.3
# Turns of the pattern in its plane, until spots are where the light is
_TURNS = 2
# Directions of a precessing beam
_AZIMUTHS = 16
# What is kept: fits that are off by less than so many errors, have so many intensities at least, and moved by less
_WORST_MISFIT, _FEWEST, _FURTHEST = 12.0, 6, 4.0
# Errors of intensities hang together, so that likelihoods are too sure of themselves
_TEMPERATURE = 2.0
# By so much they are too sure of the best fit; and degrees for each unit of a misfit above that of a wrong place
_MODEST, _WRONG_ERROR = 1.2, 0.05


@dataclass(frozen=True)
class Physics:
    """What is known of crystals and microscope.

    Parameters
    ----------
    radius : float
        Of a disk, in pixels.
    thickness : tuple of float
        Smallest and largest in Å.
    n_beams : int
        Beams that take part.
    debye_waller : float
        B in square Angstrom, of all atoms.
    absorption : float
        Imaginary part of the potential, as a share of the real one.
    precession_angle : float
        In degrees.
    """

    radius: float
    thickness: tuple[float, float] = (20.0, 600.0)
    n_beams: int = 60
    debye_waller: float = 0.5
    absorption: float = 0.0
    precession_angle: float = 0.0


class Refined(NamedTuple):
    """What a fit found.

    ``rotations (n, 4)`` lab to crystal; ``thickness (n,)`` in Å; ``orientation_error``, ``thickness_error (n,)``:
    standard deviations in degrees and Å; ``misfit (n,)``: mean square of the residuals in units of their errors, 1 for
    a model that is right; ``refined (n,)``: False where the fit ran away or explains nothing, and the orientation is
    the one that it began from.
    """

    rotations: torch.Tensor
    thickness: torch.Tensor
    orientation_error: torch.Tensor
    thickness_error: torch.Tensor
    misfit: torch.Tensor
    refined: torch.Tensor

    def rows(self, rows: torch.Tensor) -> Refined:
        """Take some patterns."""
        return Refined(*(x[rows] for x in self))

    def with_rows(self, rows: torch.Tensor, other: Refined) -> Refined:
        """Put others in the place of some patterns."""
        return Refined(*(x.index_copy(0, rows, y) for x, y in zip(self, other)))

    def where(self, first: torch.Tensor, other: Refined) -> Refined:
        """Take each pattern from here, or from another one."""
        return Refined(*(torch.where(first.reshape(-1, *(1,) * (x.ndim - 1)), x, y) for x, y in zip(self, other)))


class Prior(NamedTuple):
    """What is known of patterns before they are looked at, as from their neighbours.

    ``rotations (n, 4)`` lab to crystal; ``tilt_error (n,)`` in degrees, about each axis normal to the beam;
    ``turn_error (n,)`` in degrees, about the beam; ``thickness``, ``thickness_error (n,)`` in Å.
    """

    rotations: torch.Tensor
    tilt_error: torch.Tensor
    turn_error: torch.Tensor
    thickness: torch.Tensor
    thickness_error: torch.Tensor

    def __getitem__(self, rows) -> Prior:
        return Prior(*(x[rows] for x in self))

    def turned(self, rotations: torch.Tensor, error: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn rotations (n, 4) whose turns have errors (n,) in radians towards this one's; with the errors then."""
        turn = logarithm(multiply(conjugate(rotations), self.rotations))[:, 2]
        own, seen = torch.deg2rad(self.turn_error) ** -2, error.clamp_min(1e-9) ** -2
        way = torch.nn.functional.pad((turn * own / (own + seen))[:, None], (2, 0))
        return multiply(rotations, exponential(way)), (own + seen) ** -0.5


class Given(NamedTuple):
    """Patterns, and what is known of each.

    ``patterns (n, rows, columns)`` in electrons, finite and not negative; ``signal_mask (rows, columns)``: True where
    the detector is excluded; ``centers (n, 2)``: direct beam (row, column) in pixels, by default the calibration's;
    ``deformation (n, 3, 3)``: of the crystal, in the lab, see :meth:`~pyxem_dl.simulation.beams.Beams.deformed`;
    ``prior``: of n.
    """

    patterns: torch.Tensor
    signal_mask: torch.Tensor | None = None
    centers: torch.Tensor | None = None
    deformation: torch.Tensor | None = None
    prior: Prior | None = None

    def __getitem__(self, rows) -> Given:
        patterns, mask, *rest = tuple(self)
        return Given(patterns[rows], mask, *(None if x is None else x[rows] for x in rest))

    def choose(self, beams: Beams, rotations: torch.Tensor) -> Chosen:
        """Choose beams of the crystals, where these have them."""
        chosen = beams.choose(rotations.float())
        if self.deformation is None:
            return chosen
        kx, ky, error = beams.deformed(chosen, rotations, self.deformation)
        return chosen._replace(kx=kx.to(chosen.kx), ky=ky.to(chosen.kx), excitation_error=error.to(chosen.kx))

    def measure(self, chosen: Chosen, calibration: Calibration, radius: float) -> Measured:
        """Add up the pixels of each disk of beams, of so many pixels."""
        return measure(
            self.patterns, chosen, calibration, radius, centers=self.centers, signal_mask=self.signal_mask
        )


class _Expected(NamedTuple):
    """Tilts and thicknesses that are likely before anything is seen: ``mean``, ``weight (n, 1, 3)``, of a Gaussian."""

    mean: torch.Tensor
    weight: torch.Tensor

    @classmethod
    def of(cls, prior: Prior | None, rotations: torch.Tensor, dtype: torch.dtype) -> _Expected:
        """Say how far crystals are from these rotations (n, 4)."""
        weight = rotations.new_zeros(len(rotations), 3)
        weight[:, :2] = math.radians(_EXPECTED) ** -2
        mean = torch.zeros_like(weight)
        if prior is not None:
            tilt = logarithm(multiply(conjugate(rotations), prior.rotations))[:, :2]
            says = torch.cat([tilt, prior.thickness[:, None]], dim=1)
            error = torch.deg2rad(prior.tilt_error)
            own = torch.stack([error, error, prior.thickness_error], dim=1) ** -2
            mean, weight = own * says / (own + weight), own + weight
        return cls(mean[:, None].to(dtype), weight[:, None].to(dtype))


class _State(NamedTuple):
    """Fits of n patterns from m starts, and what the next step needs."""

    tilt: torch.Tensor  # (n, m, 2)
    thickness: torch.Tensor  # (n, m)
    cost: torch.Tensor  # (n, m)
    normal: torch.Tensor  # (n, m, 4, 4)
    slope: torch.Tensor  # (n, m, 4)
    misfit: torch.Tensor  # (n, m)

    def best(self, n: int) -> _State:
        """Take the n fits of least cost, the best first."""
        index = self.cost.topk(min(n, self.cost.shape[1]), dim=1, largest=False).indices
        take = (index.reshape(*index.shape, *(1,) * (x.ndim - 2)).expand(*index.shape, *x.shape[2:]) for x in self)
        return _State(*(x.gather(1, i) for x, i in zip(self, take)))

    def where(self, first: torch.Tensor, other: _State) -> _State:
        """Take each fit from here, or from another one."""
        choose = (first.reshape(*first.shape, *(1,) * (x.ndim - 2)) for x in self)
        return _State(*(torch.where(i, x, y) for i, x, y in zip(choose, self, other)))


class Refiner:
    """Refines orientations of one phase.

    Parameters
    ----------
    phase : orix.crystal_map.Phase
        From :func:`pyxem_dl.crystals.load_phases`.
    calibration : Calibration
        Of the patterns, with a beam energy.
    physics : Physics
        What else is known of crystals and microscope.
    device : str or torch.device
        Where to compute.
    """

    def __init__(self, phase, calibration: Calibration, physics: Physics, device: torch.device | str = "cpu") -> None:
        self.calibration, self.physics = calibration, physics
        self._beams = Beams(
            phase, calibration.beam_energy, calibration.reciprocal_radius, n_beams=physics.n_beams,
            debye_waller=physics.debye_waller, device=device,
        )  # fmt: skip
        times = _times_as_strong(self._beams)
        self._stages = [(*stage, round(times * n_strong)) for *stage, n_strong in _STAGES]
        self._many = self._beams.with_n_beams(max(physics.n_beams, _WIDE_BEAMS))
        radius, (low, high) = physics.radius, physics.thickness
        # one more on either side, from which changes are known
        steps = torch.arange(low - THICKNESS_STEP, high + 2 * THICKNESS_STEP, THICKNESS_STEP, dtype=torch.float32)
        self._thickness = steps[steps > 0].to(device)
        self._bounds = max(low - THICKNESS_STEP, low / 2), high + THICKNESS_STEP
        disk = radius * math.sqrt(math.prod(calibration.scale)) * calibration.wavelength
        self._optics = Optics.of(disk, math.radians(physics.precession_angle), _AZIMUTHS, device)
        self.look_alikes = LookAlikes(
            phase, self._beams, self._optics, calibration, radius, physics.absorption, self._bounds
        )
        self._net = Net.of(disk).to(device)
        self._small_net = Net.of(disk, reach=_SMALL_REACH).to(device)
        self._wide_net = Net.of(disk, _WIDE_STEP, _WIDE_REACH).to(device)

    def __call__(
        self, patterns: torch.Tensor, rotations: torch.Tensor, *, centers=None, signal_mask=None, deformation=None
    ) -> Refined:
        """Refine the orientations of patterns.

        Parameters
        ----------
        patterns, signal_mask, centers, deformation
            As of :class:`Given`.
        rotations : tensor, shape (n, 4)
            Lab to crystal, to be refined.
        """
        return self.refine(Given(patterns, signal_mask, centers, deformation), rotations)

    @property
    def strong_beams(self) -> int:
        """How many beams scatter into each other at last."""
        return self._stages[-1][-1]

    def refine(self, given: Given, rotations: torch.Tensor, *, look_far: bool = True) -> Refined:
        """Refine the orientations of patterns, see :meth:`__call__`; without a look further away where nothing fits.

        A prior has looked there already.
        """
        begin = rotations.double()
        found = self._near(given, begin, self._net)
        wrong = (found.misfit > _WRONG).nonzero()[:, 0]
        if look_far and given.prior is None and len(wrong):
            found = found.with_rows(wrong, self._far(given[wrong], begin[wrong], found.rows(wrong)))
        moved = torch.rad2deg(misorientation_angle(found.rotations, begin))
        kept = found.refined & (found.misfit < _WORST_MISFIT) & (moved < _FURTHEST)
        nothing = torch.full_like(found.thickness, math.nan)
        return found.where(kept, Refined(begin, nothing, nothing, nothing, found.misfit, kept))

    def _near(self, given: Given, rotations, net: Net) -> Refined:
        """Refine orientations that are as far off as a net reaches."""
        rotations, pool, seen, measured = self._prepared(self._beams, given, rotations)
        how = self._thickness, self._optics, math.radians(_EXPECTED), _STAGES[0][0], self._stages[0][-1]
        tilt, thickness = _one_by_one(net, pool, seen, *how)
        expected = _Expected.of(given.prior, rotations, tilt.dtype)
        if given.prior is not None:
            tilt = torch.cat([tilt, expected.mean[..., :2]], dim=1)
            thickness = torch.cat([thickness, expected.mean[..., 2]], dim=1)
        state = self._fit(pool, seen, expected, tilt, thickness, *self._stages[0][1:])
        several = None
        for n_starts, *stage in self._stages[1:]:
            best = state.best(n_starts)
            state = self._fit(pool, seen, expected, best.tilt, best.thickness, *stage)
            several = several or state
        best = state.best(_STAGES[-1][0])
        # with what the model says of how the light lies within disks
        turn, turn_error = self._turn(pool, seen, measured, best.tilt[:, 0], best.thickness[:, 0])
        rotations = rotate_in_plane(rotations, turn.double())
        # of a crystal that is strained the turn is fitted to its places
        if given.prior is not None and given.deformation is None:
            rotations, turn_error = given.prior.turned(rotations, turn_error)
        return self._told(rotations, seen, best, several, turn_error)

    def _far(self, given: Given, rotations, best: Refined) -> Refined:
        """Look for places up to some degrees away, and refine there."""
        rotations, pool, seen, _ = self._prepared(self._many, given, rotations)
        how = self._thickness[::2], self._optics, math.radians(_WIDE_EXPECTED), _WIDE_STARTS, self._stages[0][-1]
        tilts, _ = _one_by_one(self._wide_net, pool, seen, *how, math.radians(_WIDE_APART))
        for i in range(_WIDE_STARTS):
            wrong = (best.misfit > _FITS).nonzero()[:, 0]
            if not len(wrong):
                break
            start = _tilted(rotations[wrong], tilts[wrong, i])
            other, before = self._near(given[wrong], start, self._small_net), best.rows(wrong)
            better = other.refined & (other.misfit < before.misfit - _CLEARLY)
            best = best.with_rows(wrong, other.where(better, before))
        return best

    def _prepared(self, beams: Beams, given: Given, rotations):
        """Turn rotations so that spots are where the light is: these, beams, what is seen, and what was measured."""
        for i in range(_TURNS + 1):
            chosen = given.choose(beams, rotations)
            measured = given.measure(chosen, self.calibration, self.physics.radius)
            if i < _TURNS:
                rotations = rotate_in_plane(rotations, measured.turn.clamp(-0.05, 0.05))
        pool = Pool.of(beams, chosen, torch.float32, self.physics.absorption)
        return rotations, pool, Seen.of(chosen, measured, torch.float32), measured

    def places(self, given: Given, rotations: torch.Tensor, thickness: torch.Tensor) -> tuple[Places, torch.Tensor]:
        """Fit where disks are, of crystals that are refined; and say how well their turn was known without it (rad)."""
        chosen = given.choose(self._beams, rotations)
        measured = given.measure(chosen, self.calibration, self.physics.radius)
        pool = Pool.of(self._beams, chosen, torch.float32, self.physics.absorption)
        seen = Seen.of(chosen, measured, torch.float32)
        upright, depth = pool.kx.new_zeros(len(pool.kx), 2), thickness.to(pool.kx)
        found = fit_places(pool, seen, measured, self._optics, upright, depth, *self._lengths, self.strong_beams)
        return found, self._turn(pool, seen, measured, upright, depth)[1]

    def _turn(self, pool: Pool, seen: Seen, measured: Measured, tilt, thickness) -> tuple[torch.Tensor, torch.Tensor]:
        """By how much patterns are turned in their plane (n,), and its error, in radians."""
        return fit_turn(pool, seen, measured, self._optics, tilt, thickness, *self._lengths, self.strong_beams)

    @property
    def _lengths(self) -> tuple[float, float]:
        """Radius of a disk, and size of a pixel, in Å⁻¹."""
        pixel = math.sqrt(math.prod(self.calibration.scale))
        return self.physics.radius * pixel, pixel

    # ---------------------------------------------------------------- the fit
    def _disks(self, pool: Pool, seen: Seen, tilt, thickness, n_directions: int, n_strong: int):
        """Mean intensities and moments of disks (n, m, 2 beams), and derivatives (n, m, 2 beams, 3)."""
        cone = self._optics.cone(n_directions).to(tilt)
        both = self._optics.seen(pool, tilt, thickness, cone, n_strong, seen.beams)
        moment = torch.einsum("nmcbk,ncb->nmbk", both, seen.outward(cone / self._optics.disk)) / len(cone)
        both = torch.cat([both.mean(2), moment], dim=2)
        return both[..., 0], both[..., 1:]

    def _fit(
        self, pool: Pool, seen: Seen, expected: _Expected, tilt, thickness, n_steps: int, n_directions: int,
        n_strong: int,
    ) -> _State:  # fmt: skip
        """Go down from starts by damped Gauss-Newton steps, of which those that lead up are not taken."""
        now = self._at(pool, seen, expected, tilt, thickness, n_directions, n_strong)
        damping = torch.full_like(thickness, 1e-2)
        for _ in range(n_steps):
            size = torch.diagonal(now.normal, dim1=-2, dim2=-1)
            step = solved(now.normal + torch.diag_embed(damping[..., None] * size), now.slope)
            angle = step[..., :2].norm(dim=-1, keepdim=True).clamp_min(1e-12)
            turned = now.tilt + step[..., :2] * (math.radians(_LONGEST) / angle).clamp_max(1)
            thicker = now.thickness + step[..., 2].clamp(-_LONGEST_THICKNESS, _LONGEST_THICKNESS)
            thicker = thicker.clamp(*self._bounds)
            then = self._at(pool, seen, expected, turned, thicker, n_directions, n_strong)
            down = then.cost < now.cost
            now = then.where(down, now)
            damping = torch.where(down, 0.3 * damping, 6 * damping)
        return now

    def _at(self, pool: Pool, seen: Seen, expected: _Expected, tilt, thickness, n_directions: int, n_strong: int):
        model, by = self._disks(pool, seen, tilt, thickness, n_directions, n_strong)
        fit, used = seen.fit(model), seen.used[:, None]
        by = torch.cat([fit.scale[..., None, None] * by, model[..., None]], dim=-1)  # tilts, thickness, scale
        weighted = by * (used / fit.variance)[..., None]
        away = torch.cat([tilt, thickness[..., None]], dim=-1) - expected.mean
        pull = torch.nn.functional.pad(expected.weight, (0, 1))
        normal = weighted.mT @ by + torch.diag_embed(pull)
        slope = (weighted * fit.residual[..., None]).sum(-2) - pull * torch.nn.functional.pad(away, (0, 1))
        cost = fit.cost + (expected.weight * away**2).sum(-1)
        misfit = (used * fit.residual**2 / fit.variance).sum(-1) / (used.sum(-1) - 4).clamp_min(1)
        return _State(tilt, thickness, cost, normal, slope, misfit)

    def _told(self, rotations: torch.Tensor, seen: Seen, state: _State, several: _State, turn_error) -> Refined:
        """Say where the best fit is, and how far it may be off: its own error, and how far as good ones are away."""
        likely = torch.softmax(-several.cost / (2 * _TEMPERATURE), dim=1)
        tilt, thickness, misfit = state.tilt[:, 0], state.thickness[:, 0], state.misfit[:, 0]
        own = variances(state.normal[:, 0]) * _MODEST**2 * misfit.clamp_min(1)[:, None]
        wrong = math.radians(_WRONG_ERROR) * (misfit - _WRONG).clamp_min(0)
        far = (likely * (several.tilt - tilt[:, None]).square().sum(-1)).sum(1)
        of_tilt = own[:, :2].sum(1) + far + turn_error**2 + wrong**2
        of_thickness = own[:, 2] + (likely * (several.thickness - thickness[:, None]) ** 2).sum(1)
        return Refined(
            _tilted(rotations, tilt), thickness.double(), torch.rad2deg(of_tilt.sqrt()), of_thickness.sqrt(),
            misfit.double(), seen.has_light() & (seen.used.sum(1) >= _FEWEST) & of_tilt.isfinite(),
        )  # fmt: skip


def _times_as_strong(beams: Beams) -> float:
    """How many times as many beams of a crystal are strong as of a comparable one, in nearly all orientations."""
    rotations = random_rotations(_ORIENTATIONS, torch.Generator().manual_seed(0)).to(beams.device).float()
    chosen = beams.choose(rotations)
    pool = Pool.of(beams, chosen, torch.float32)
    strong = (promise(pool, pool.error[:, None])[:, 0] > _AS_STRONG).sum(1).double()
    return min(max(float(strong.quantile(0.9)) / _COMPARABLE, 1.0), _MOST_TIMES)


def _tilted(rotations: torch.Tensor, tilt: torch.Tensor) -> torch.Tensor:
    return multiply(rotations, exponential(torch.nn.functional.pad(tilt.double(), (0, 1))))


def _one_by_one(net: Net, pool: Pool, seen: Seen, *given) -> tuple[torch.Tensor, torch.Tensor]:
    """Search for each pattern by itself on a CPU: what is computed for one fits into a processor's memory."""
    if pool.kx.device.type != "cpu":
        return search(net, pool, seen, *given)
    parts = [search(net, pool[i : i + 1], seen[i : i + 1], *given) for i in range(len(pool.kx))]
    return tuple(torch.cat(each) for each in zip(*parts))
