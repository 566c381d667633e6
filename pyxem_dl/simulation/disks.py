"""Convergent-beam patterns with the truth of every disk, for the training of the detector."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from pyxem_dl.checks import drawn_settings
from pyxem_dl.frames import Calibration, k_to_pixel
from pyxem_dl.preprocessing import rescale
from pyxem_dl.rotations import random_rotations
from pyxem_dl.simulation.detector import Background, beam_stop, draw_spots, expected_background
from pyxem_dl.simulation.many_beam import BeamIntensities, ManyBeam
from pyxem_dl.simulation.random_numbers import RandomNumbers

_GRID = 9
# Disks are wanted to here (Å⁻¹); in random orientations so many beams are as good as 128, which take four times as long
_RADIUS, _N_BEAMS = 1.6, 64
# Electrons that are always expected under a disk, so that one is not certain because nothing else is there
_DARK = 1.0
# Dynamical patterns are kept in pools, each of one phase and convergence angle, and used
# several times: turned, in another noise, on another detector.
_POOLS, _IN_POOL, _USES = 8, 32, 6


@dataclass(frozen=True)
class DiskSettings:
    """What is drawn at random, and between which limits.

    Ranges are (low, high); those marked log are drawn evenly in the logarithm.

    Parameters
    ----------
    radius : float
        Disk radius after rescaling, in px.
    size : int
        Of the rescaled patterns, in px.
    native_radius : tuple of float
        Disk radius on the detector in px, log.  Larger ones differ only in the rescaling.
    disk_radius : tuple of float
        Semi-convergence angle over wavelength in Å⁻¹, log.
    thickness : tuple of float
        In Angstrom, log.
    beam_energy : tuple of float
        In kV; one for each phase.
    electrons : tuple of float
        Per pattern, the direct beam included, log.
    background : tuple of float
        Electrons in halo and inelastic background, relative to those in disks, log.
    texture : tuple of float
        Relative standard deviation of the background's grain.
    blur : tuple of float
        Of the disks' edges, in detector px.
    gain_share, gain : float, tuple of float
        Share of patterns whose counts are no electrons, and counts per electron there, log.
    clipped_share, bullseye_share, aberrated_share : float
        Shares of setups whose probe is no round, even disk.
    ghost_share, fault_share, beam_stop_share, blank_share : float
        Shares of patterns with a ghost disk, with dead or hot pixels, with a beam stop, and
        without a crystal.
    """

    radius: float = 5.0
    size: int = 96
    native_radius: tuple[float, float] = (1.5, 10.0)
    disk_radius: tuple[float, float] = (0.025, 0.16)
    thickness: tuple[float, float] = (20.0, 1100.0)
    beam_energy: tuple[float, float] = (60.0, 300.0)
    electrons: tuple[float, float] = (1e2, 1e7)
    background: tuple[float, float] = (1e-4, 3.0)
    texture: tuple[float, float] = (0.0, 0.25)
    blur: tuple[float, float] = (0.3, 0.8)
    gain_share: float = 0.3
    gain: tuple[float, float] = (0.2, 200.0)
    clipped_share: float = 0.15
    bullseye_share: float = 0.1
    aberrated_share: float = 0.2
    ghost_share: float = 0.25
    fault_share: float = 0.2
    beam_stop_share: float = 0.12
    blank_share: float = 0.1

    def __post_init__(self) -> None:
        drawn_settings(
            self, radius=(1, 64), size=(16, 1024), native_radius=(0.1, 1000), disk_radius=(1e-6, 1),
            beam_energy=(1, 3000),
        )  # fmt: skip

    def to_dict(self) -> dict:
        """Plain numbers for ``config.json``."""
        return asdict(self)


class DiskPatterns(NamedTuple):
    """Rescaled patterns of one setup with the truth of their disks.

    ``patterns (n, size, size)`` in counts; ``probe (size, size)`` the direct beam alone, at
    pixel (size // 2, size // 2), sum 1; ``positions (n, m, 2)`` (row, column) of the disks in
    rescaled px; ``electrons (n, m)`` counts expected in each; ``significance (n, m)`` by how many
    standard deviations each stands out of the counts of all that lies under it;
    ``excitation_error (n, m)`` in Å⁻¹; 0 electrons is padding.  ``half_range (n, m)``: from a disk's centre to its edge
    along g the excitation error changes by so much (Å⁻¹); ``phase (n, m)``: by how many radians the projected
    potential V_g x thickness turns the phase of the electrons, 0 for the direct beam, which comes first.  As the
    detector has them: ``counts (n, rows, columns)``, ``lost`` of the same shape (True behind a beam stop),
    ``places (n, m, 2)`` of the disks, their ``radius`` and the ``center (2,)`` of the direct beam in px;
    ``half_range_per_px``: of a disk for each px of its distance from the direct beam (Å⁻¹); ``thickness (n,)`` in Å.
    """

    patterns: torch.Tensor
    probe: torch.Tensor
    positions: torch.Tensor
    electrons: torch.Tensor
    significance: torch.Tensor
    excitation_error: torch.Tensor
    half_range: torch.Tensor
    phase: torch.Tensor
    counts: torch.Tensor
    lost: torch.Tensor
    places: torch.Tensor
    radius: float
    center: torch.Tensor
    half_range_per_px: float
    thickness: torch.Tensor


class DiskSimulator(RandomNumbers):
    """Simulate convergent-beam patterns of phases, on a device, seeded.

    Parameters
    ----------
    phases : list of orix.crystal_map.Phase
        From :func:`pyxem_dl.crystals.load_phases`.
    settings : DiskSettings, optional
        What is drawn.
    seed : int
        Of the random numbers.
    device : str or torch.device
        Where patterns are made.
    """

    def __init__(
        self, phases: list, settings: DiskSettings | None = None, *, seed: int = 0, device="cpu"
    ) -> None:  # fmt: skip
        super().__init__(seed, device)
        self.settings = settings or DiskSettings()
        # the same for each phase in whatever order patterns are drawn
        low, high = self.settings.beam_energy
        energies = np.random.default_rng(seed).uniform(low, high, len(phases))
        self.phases = [
            ManyBeam(phase, float(energy), _RADIUS, n_beams=_N_BEAMS, device=device)
            for phase, energy in zip(phases, energies)
        ]
        self._pools = [None] * _POOLS

    # ---------------------------------------------------------------- one setup
    def __call__(self, n: int = 8) -> DiskPatterns:
        """Simulate the patterns of one setup: one phase, detector and probe."""
        s = self.settings
        pool = self._take_pool(n)
        setup = self._draw_setup(pool.disk_radius, pool.beam_energy)
        chosen = (self._uniform(0, _IN_POOL, n)).long().clamp_max(_IN_POOL - 1)
        beams = BeamIntensities(*(column[chosen] for column in pool.beams))
        kx, ky, inside = _turned(beams, self._uniform(0, 2 * math.pi, n), setup)
        electrons = self._log_uniform(*s.electrons, n)
        dose = electrons[:, None] * (beams.present & ~self._happens(s.blank_share, n)[:, None])
        dose[:, 0] = electrons
        disks = draw_spots(
            kx, ky, dose, setup.calibration,
            disk_radius=setup.disk_radius, blur=setup.blur, rocking_curve=inside,
        )  # fmt: skip
        expected = disks + self._draw_background(electrons, setup)
        expected = expected + self._draw_ghosts(electrons, setup)
        held = dose * _mean_in_disk(inside, setup, self.device)
        counts, lost, gain = self._detect(expected, setup)
        row, column = k_to_pixel(kx, ky, setup.calibration)
        significance = _significance(expected, lost, row, column, held, setup)
        half_range = setup.calibration.wavelength * setup.disk_radius * torch.hypot(kx, ky)
        thickness = self._sent(pool.thickness)[chosen]
        phase = math.pi * beams.coupling * thickness[:, None]
        truth = held * gain * (significance > 0), significance, beams.excitation_error, half_range, phase
        return self._rescaled(counts, lost, torch.stack([row, column], dim=-1), truth, thickness, setup)

    def _take_pool(self, n: int) -> _Pool:
        """Take a pool for `n` patterns at random, filled anew where it has been used up."""
        i = self._choice(range(_POOLS))
        if self._pools[i] is None or self._pools[i].left <= 0:
            s = self.settings
            phase = self._choice(self.phases)
            disk_radius = self._log_number(*s.disk_radius)
            rotations = random_rotations(_IN_POOL, self.generator)
            # what is simulated is what is told
            thickness = torch.tensor([*map(ManyBeam.whole_slices, self._log_numbers(*s.thickness, _IN_POOL).tolist())])
            beams = phase(rotations, thickness, disk_radius, _GRID)
            beams = beams.joined(phase.far(rotations, thickness, disk_radius, _GRID))
            self._pools[i] = _Pool(disk_radius, phase.beam_energy, thickness, beams, _USES * _IN_POOL)
        self._pools[i].left -= n
        return self._pools[i]

    def _draw_setup(self, disk_radius: float, beam_energy: float) -> _DiskSetup:
        s = self.settings
        radius = self._log_number(*s.native_radius)
        factor = s.radius / radius
        size = math.ceil((s.size + 1) / factor)
        center = (size * self._numbers(0.05, 0.95, 2)).tolist()
        return _DiskSetup(
            calibration=Calibration((disk_radius / radius,) * 2, tuple(center), (size, size), beam_energy),
            disk_radius=disk_radius,
            radius=radius,
            factor=factor,
            blur=self._number(*s.blur),
            shape=self._draw_shape(),
        )

    def _draw_shape(self) -> Callable:
        """Intensity of the probe at (u, v) in units of its radius; 1 on average."""
        s, turn = self.settings, self._number(0, 2 * math.pi)
        edge, rings, bow = (self._number(*r) for r in ((0.3, 0.9), (1.5, 3.5), (-0.5, 0.5)))
        clipped, bullseye, aberrated = map(self._is_so, (s.clipped_share, s.bullseye_share, s.aberrated_share))

        def shape(u, v):
            along, rho2 = u * math.cos(turn) + v * math.sin(turn), u**2 + v**2
            value = torch.ones_like(along)
            if clipped:
                value = value * torch.sigmoid((edge - along) * 12)
            if bullseye:
                value = value * (0.15 + torch.sigmoid(8 * torch.cos(2 * math.pi * rings * rho2.sqrt())))
            if aberrated:
                value = value * (1 + bow * (rho2 - 0.5) + 0.3 * bow * along)
            return value

        return _normalised(shape, self.device)

    def _draw_background(self, electrons, setup: _DiskSetup) -> torch.Tensor:
        """Halo and inelastic background, with grain."""
        s, n = self.settings, len(electrons)
        radius = 1.5 * max(setup.calibration.shape) * setup.calibration.scale[0]
        k = torch.linspace(0, radius, 256, device=self.device)[None] / setup.disk_radius

        def column(values):
            return values[:, None]

        profile = torch.exp(-k / column(self._log_uniform(1.0, 12.0, n))) * column(self._uniform(0, 1, n))
        tail = (1 + (k / column(self._log_uniform(1.5, 10.0, n))) ** 2) ** -1.5
        profile = profile + tail * column(self._uniform(0, 1, n)) + column(0.05 * self._uniform(0, 1, n) ** 2)
        middle, width = column(self._uniform(2, 12, n)), column(self._log_uniform(0.5, 3, n))
        ring = torch.exp(-(((k - middle) / width) ** 2))
        profile = profile + ring * column(self._uniform(0, 0.4, n) * self._happens(0.4, n))
        shift = torch.zeros(n, 2, device=self.device)
        halo = expected_background(Background(profile, radius, shift), setup.calibration)
        halo = halo * (electrons * self._log_uniform(*s.background, n))[:, None, None]
        shape = setup.calibration.shape
        grain = self._grain(n, max(4, shape[0] / self._log_number(1.0, 3 * setup.radius)), shape)
        return halo * torch.exp(self._uniform(*s.texture, n)[:, None, None] * grain)

    def _draw_ghosts(self, electrons, setup: _DiskSetup) -> torch.Tensor:
        """Draw spots that are no disks: images of the beam, as detectors and lenses make."""
        n = len(electrons)
        amount = electrons * self._log_uniform(1e-4, 0.1, n) * self._happens(self.settings.ghost_share, n)
        k, angle = self._uniform(1, 12, n) * setup.disk_radius, self._uniform(0, 2 * math.pi, n)
        # clearly smaller or larger than a disk, and soft
        size = self._log_number(0.15, 0.4) if self._is_so(0.3) else self._log_number(1.7, 6.0)
        ghosts = self._draw_ghost(k, angle, amount, size, setup)
        if size > 2:
            # a brighter speck on the rim of a large one
            side = self._uniform(0, 2 * math.pi, n)
            kx = k * angle.cos() + size * setup.disk_radius * side.cos()
            ky = k * angle.sin() + size * setup.disk_radius * side.sin()
            share = self._log_uniform(0.01, 0.3, n) * self._happens(0.5, n)
            speck = self._log_number(0.3, 0.6)
            ghosts = ghosts + self._draw_ghost(torch.hypot(kx, ky), torch.atan2(ky, kx), amount * share, speck, setup)
        return ghosts

    def _draw_ghost(self, k, angle, amount, size: float, setup: _DiskSetup) -> torch.Tensor:
        """One soft spot in each pattern, of a size in radii."""
        return draw_spots(
            (k * angle.cos())[:, None], (k * angle.sin())[:, None], amount[:, None], setup.calibration,
            disk_radius=size * setup.disk_radius, blur=0.3 * size * setup.radius + 0.3,
        )  # fmt: skip

    def _detect(self, expected: torch.Tensor, setup: _DiskSetup):
        """Count electrons with a detector's faults: counts, what is lost, counts per electron."""
        s, n = self.settings, len(expected)
        lost = torch.zeros_like(expected, dtype=torch.bool)
        stopped = self._numbers(0, 1, n) < s.beam_stop_share
        if stopped.any():
            stop = beam_stop(
                setup.calibration, setup.disk_radius * self._number(1.0, 2.5),
                setup.disk_radius * self._number(0.5, 1.5), self._number(0, 2 * math.pi), self.device,
            )  # fmt: skip
            lost = self._sent(stopped)[:, None, None] & stop
        counts = torch.poisson(expected.clamp(0, 1e8), generator=self.generator) * ~lost
        other = self._happens(s.gain_share, n)
        gain = torch.where(other, self._log_uniform(*s.gain, n), 1.0)[:, None]
        counts = counts * gain[..., None]
        # either noise in every pixel, or none without an electron and pulses of unequal height with one
        pulses = self._happens(0.5, n)[:, None, None]
        strength = torch.where(other, self._uniform(0, 0.6, n), 0.0)[:, None, None] * gain[..., None]
        spread = torch.where(pulses, (counts / gain[..., None]).sqrt(), 1.0)
        counts = (counts + strength * spread * self._normal(*counts.shape)).clamp_min(0)
        faulty = self._chosen(s.fault_share, n)
        if len(faulty):
            flat = counts.reshape(n, -1)
            pixel = self._uniform(0, flat.shape[1] - 1, len(faulty), 6).long()
            level = flat[faulty].amax(1, keepdim=True) * self._uniform(0, 1, len(faulty), 6) ** 3
            flat[faulty[:, None], pixel] = level * self._happens(0.5, len(faulty), 6)
        return counts, lost, gain

    def _rescaled(self, counts, lost, places, truth, thickness, setup: _DiskSetup) -> DiskPatterns:
        size, factor = self.settings.size, setup.factor
        patterns = rescale(counts, factor)[:, :size, :size]
        positions = (places + 0.5) * factor - 0.5
        middle = Calibration((1.0, 1.0), (size // 2, size // 2), (size, size))
        zero, one = torch.zeros(1, 1, device=self.device), torch.ones(1, 1, device=self.device)
        probe = draw_spots(
            zero, zero, one, middle, disk_radius=self.settings.radius,
            blur=max(0.3, setup.blur * factor),
            rocking_curve=lambda x, y: setup.shape(x / self.settings.radius, y / self.settings.radius),
        )[0]  # fmt: skip
        center = self._sent(torch.tensor(setup.calibration.center))
        return DiskPatterns(
            patterns, probe / probe.sum(), positions, *truth, counts, lost, places, setup.radius, center,
            setup.calibration.wavelength * setup.disk_radius * setup.calibration.scale[0], thickness,
        )  # fmt: skip


@dataclass
class _Pool:
    """Dynamical patterns of one phase and convergence angle, and for how many more patterns they serve."""

    disk_radius: float
    beam_energy: float
    thickness: torch.Tensor
    beams: BeamIntensities
    left: int


@dataclass(frozen=True)
class _DiskSetup:
    """What the patterns of one call share."""

    calibration: Calibration
    disk_radius: float
    radius: float
    factor: float
    blur: float
    shape: Callable


@lru_cache
def _unit_disk(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Points (u, v) spread evenly over the unit disk."""
    u = torch.linspace(-1, 1, 11)
    v, u = torch.meshgrid(u, u, indexing="ij")
    inside = u**2 + v**2 <= 1
    return u[inside].to(device), v[inside].to(device)


def _normalised(shape: Callable, device) -> Callable:
    mean = shape(*_unit_disk(device)).mean()
    return lambda u, v: shape(u, v) / mean


def _turned(beams: BeamIntensities, angle: torch.Tensor, setup: _DiskSetup):
    """Turn patterns in their plane: positions (n, m) twice, and intensity as function of place."""
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    kx, ky = cos * beams.kx - sin * beams.ky, sin * beams.kx + cos * beams.ky
    images = beams.intensity.flatten(0, 1)[:, None]

    def inside(qx, qy):
        u, v = qx / setup.disk_radius, qy / setup.disk_radius
        u, v = torch.broadcast_tensors(u.expand(*kx.shape, *u.shape[-2:]), v)
        c, s = cos[..., None, None], sin[..., None, None]
        grid = torch.stack([c * u + s * v, -s * u + c * v], dim=-1).flatten(0, 1)
        values = functional.grid_sample(images, grid, align_corners=True, padding_mode="border")
        return values.reshape(u.shape) * setup.shape(u, v)

    return kx, ky, inside


def _mean_in_disk(inside: Callable, setup: _DiskSetup, device) -> torch.Tensor:
    """Mean intensity (n, m) over the disks."""
    u, v = (x[None, None, None] * setup.disk_radius for x in _unit_disk(device))
    return inside(u, v).mean((-1, -2))


def _significance(expected, lost, row, column, electrons, setup: _DiskSetup) -> torch.Tensor:
    """By how many standard deviations (n, m) disks stand out of the counts; 0 off the detector or behind the stop.

    The best filter weighs each pixel with the inverse of what is expected there, so that a faint disk is seen where
    no bright one covers it.
    """
    rows, columns = expected.shape[1:]
    half = math.ceil(setup.radius)
    step = torch.arange(-half, half + 1, device=expected.device)
    disk = (torch.hypot(step[:, None].float(), step[None].float()) <= setup.radius).to(expected)
    weight = ~lost / (expected + _DARK / setup.radius**2)
    sums = functional.conv2d(weight[:, None], disk[None, None], padding=half)[:, 0]
    r, c = row.round().long(), column.round().long()
    on_show = (r >= 0) & (r < rows) & (c >= 0) & (c < columns)
    at = r.clamp(0, rows - 1) * columns + c.clamp(0, columns - 1)
    on_show &= ~lost.flatten(1).gather(1, at)
    there = sums.flatten(1).gather(1, at)
    # an even disk alone has the square root of its electrons, and no disk more
    alone = electrons.clamp_min(0).sqrt()
    return torch.minimum(alone, electrons / disk.sum() * there.sqrt()) * on_show
