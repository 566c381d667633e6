"""Labelled patterns as a microscope could have recorded them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch

from pyxem_dl import crystals
from pyxem_dl.checks import drawn_settings
from pyxem_dl.frames import Calibration, electron_wavelength, excitation_error_in_disk
from pyxem_dl.rotations import matmul, random_rotations
from pyxem_dl.simulation.detector import (
    Background,
    beam_stop,
    draw_spots,
    expected_background,
)
from pyxem_dl.simulation.random_numbers import RandomNumbers
from pyxem_dl.simulation.scattering import SHAPE_FACTORS, spot_intensity

_DETECTORS = 12
_PROFILE_POINTS = 256


@dataclass(frozen=True)
class SimulationSettings:
    """What is drawn at random, and between which limits.

    Ranges are (low, high); those marked log are drawn evenly in the logarithm.  Lengths are
    in Angstrom, reciprocal lengths in Å⁻¹, angles in degrees, shares between 0 and 1.

    Parameters
    ----------
    thickness : tuple of float
        Of the crystal, log.
    shape_factors : tuple of str
        Keys of :data:`~pyxem_dl.simulation.SHAPE_FACTORS`, one drawn for each setup.
    precession_angle : tuple of float
        Drawn for `precession_share` of the setups, else 0.
    disk_radius : tuple of float
        Å⁻¹, log: from spots to convergent-beam disks.
    debye_waller : tuple of float
        B in square Angstrom.
    intensity_jitter : tuple of float
        Width of the log-normal factor on each reflection.
    electrons : tuple of float
        Expected in all spots together without the direct beam, log.
    background : tuple of float
        Expected electrons in halo, rings and inelastic background relative to the spots', log.
    scale_error, ellipticity : tuple of float
        Relative.
    coma : tuple of float
        Distortion that grows with the square of the distance from the beam and is not the same
        on both sides of it: a spot at k is displaced by this times k squared, in Angstrom.
    center_error, position_jitter : float
        Standard deviations of the direct beam's and of each spot's position, in pixels.
    overlap_share, empty_share, ghost_share, fault_share, threshold_share : float
        Shares of patterns in which these occur.
    beam_stop_share, precession_share : float
        Shares of setups in which these occur.
    pixels : tuple of int
        Detector sizes to draw from.
    coverage : tuple of float
        Radius of the detector relative to the model's.
    setup_size : int
        Patterns made in one setup (detector, disk radius, shape factor, beam stop).
    """

    thickness: tuple[float, float] = (40.0, 800.0)
    shape_factors: tuple[str, ...] = (
        "two_beam", "two_beam", "two_beam", "kinematical", "lorentzian", "linear", "gaussian",
    )
    precession_angle: tuple[float, float] = (0.2, 1.2)
    disk_radius: tuple[float, float] = (0.01, 0.075)
    debye_waller: tuple[float, float] = (0.0, 1.5)
    intensity_jitter: tuple[float, float] = (0.0, 0.9)
    electrons: tuple[float, float] = (150.0, 300_000.0)
    background: tuple[float, float] = (0.003, 10.0)
    scale_error: tuple[float, float] = (-0.02, 0.02)
    ellipticity: tuple[float, float] = (0.0, 0.03)
    coma: tuple[float, float] = (0.0, 0.0)
    center_error: float = 0.3
    position_jitter: float = 0.15
    overlap_share: float = 0.2
    empty_share: float = 0.06
    ghost_share: float = 0.15
    beam_stop_share: float = 0.06
    fault_share: float = 0.2
    threshold_share: float = 0.1
    precession_share: float = 0.2
    pixels: tuple[int, ...] = (96, 112, 128)
    coverage: tuple[float, float] = (0.9, 1.25)
    setup_size: int = 32

    def __post_init__(self) -> None:
        drawn_settings(self, pixels=(8, 2048), setup_size=(1, 4096), coverage=(0.1, 10), disk_radius=(1e-6, 1))
        unknown = [name for name in self.shape_factors if name not in SHAPE_FACTORS]
        if unknown or not self.shape_factors:
            raise ValueError(f"shape_factors must be from {', '.join(SHAPE_FACTORS)}, not {self.shape_factors!r}.")

    def to_dict(self) -> dict:
        """Plain numbers for ``config.json``."""
        return asdict(self)


class SimulatedPatterns(NamedTuple):
    """Patterns of one setup with their truth.

    ``patterns (n, rows, columns)`` in electrons, ``rotations (n, 4)`` lab to crystal,
    ``phase_id (n,)`` with -1 where there is no crystal, ``calibration`` as the microscopist
    believes it to be, ``signal_mask (rows, columns)`` or None.
    """

    patterns: torch.Tensor
    rotations: torch.Tensor
    phase_id: torch.Tensor
    calibration: Calibration
    signal_mask: torch.Tensor | None


class PatternSimulator(RandomNumbers):
    """Simulate labelled patterns of phases in random orientations, on a device, seeded.

    Parameters
    ----------
    phases : list of orix.crystal_map.Phase
        From :func:`pyxem_dl.crystals.load_phases`.
    beam_energy : float
        In kV.
    reciprocal_radius : float
        Radius to which reflections are simulated, in Å⁻¹.
    settings : SimulationSettings, optional
        What is drawn.
    seed : int
        Of the random numbers.
    device : str or torch.device
        Where patterns are made.
    """

    def __init__(
        self,
        phases: list,
        beam_energy: float,
        reciprocal_radius: float,
        settings: SimulationSettings | None = None,
        *,
        seed: int = 0,
        device="cpu",
    ) -> None:
        super().__init__(seed, device)
        self.settings = settings or SimulationSettings()
        self.phases = phases
        self.beam_energy = float(beam_energy)
        self.wavelength = electron_wavelength(beam_energy)
        self.reciprocal_radius = float(reciprocal_radius)
        # Reflections a little outside: distortions bring them in.
        lists = [crystals.reflections(p, 1.05 * reciprocal_radius) for p in phases]
        self.table = crystals.ReflectionTable.stack(lists, beam_energy, self.device)
        self._detectors = [self._draw_detector() for _ in range(_DETECTORS)]

    @property
    def scale_range(self) -> tuple[float, float]:
        """Finest and coarsest detector, in Å⁻¹ per pixel."""
        scales = [detector.scale[0] for detector in self._detectors]
        return min(scales), max(scales)

    def _draw_detector(self) -> Calibration:
        s = self.settings
        pixels = self._choice(s.pixels)
        scale = 2 * self.reciprocal_radius * self._number(*s.coverage) / pixels
        center = (pixels / 2 + self._numbers(-2, 2, 2)).tolist()
        return Calibration((scale, scale), tuple(center), (pixels, pixels), self.beam_energy)

    # ---------------------------------------------------------------- one setup
    def __call__(self, n: int | None = None) -> SimulatedPatterns:
        """Simulate the patterns of one setup."""
        s = self.settings
        n = n or s.setup_size
        calibration = self._choice(self._detectors)
        phase_id = self._uniform(0, len(self.phases), n).long().clamp_max(len(self.phases) - 1)
        rotations = random_rotations(n, self.generator)
        setup = _Setup(
            calibration=calibration,
            shape_factor=self._choice(s.shape_factors),
            disk_radius=self._log_number(*s.disk_radius),
            blur=self._number(0.35, 1.1),
            precession_angle=self._number(*s.precession_angle) if self._is_so(s.precession_share) else 0.0,
            distortion=self._draw_distortion(n),
            coma=self._draw_coma(n),
            center_error=s.center_error * self._normal(n, 2) * calibration.scale[0],
        )
        electrons = self._log_uniform(*s.electrons, n)
        crystal = self._draw_crystal(phase_id, rotations, setup)
        empty = self._happens(s.empty_share, n) | (crystal.sum((1, 2)) == 0)
        crystal = crystal / crystal.sum((1, 2), keepdim=True).clamp_min(1e-30)
        crystal = self._overlap(crystal, setup)
        expected = crystal * (~empty * electrons)[:, None, None]
        expected = expected + self._draw_background(electrons, setup)
        expected = expected + self._draw_ghosts(electrons, setup)
        patterns, mask = self._detect(expected, setup)
        return SimulatedPatterns(
            patterns, rotations, torch.where(empty, -1, phase_id), calibration, mask
        )

    def _draw_distortion(self, n: int) -> torch.Tensor:
        """Matrices (n, 2, 2): an error of the scale and an ellipse in any direction."""
        s = self.settings
        scale = 1 + self._uniform(*s.scale_error, n)
        ellipticity = self._uniform(*s.ellipticity, n)
        angle = self._uniform(0, 2 * math.pi, n)
        a, b = ellipticity * angle.cos(), ellipticity * angle.sin()
        rows = torch.stack([torch.stack([1 + a, b], -1), torch.stack([b, 1 - a], -1)], -2)
        return scale[:, None, None] * rows

    def _draw_coma(self, n: int) -> torch.Tensor:
        """Vectors (n, 2) in any direction."""
        if not self.settings.coma[1]:
            return torch.zeros(n, 2, device=self.device)
        size, angle = self._uniform(*self.settings.coma, n), self._uniform(0, 2 * math.pi, n)
        return torch.stack([size * angle.cos(), size * angle.sin()], dim=-1)

    def _draw_crystal(self, phase_id, rotations, setup: _Setup) -> torch.Tensor:
        """Draw crystals without the direct beam: expected patterns, in arbitrary units."""
        s, calibration = self.settings, setup.calibration
        n = len(phase_id)
        spots = crystals.find_spots(self.table, phase_id, rotations, self.beam_energy)
        thickness = self._log_uniform(*s.thickness, n)[:, None]
        k2 = spots.kx**2 + spots.ky**2
        width = self._uniform(*s.intensity_jitter, n)[:, None]
        factor = torch.exp(width * self._normal(*k2.shape))
        factor = factor * torch.exp(-self._uniform(*s.debye_waller, n)[:, None] * k2 / 2)
        shape, angle = setup.shape_factor, setup.precession_angle
        xi = spots.extinction_distance
        resolved = setup.disk_radius > 1.2 * calibration.scale[0] and angle == 0

        def rocking_curve(qx, qy):
            expand = (..., None, None)
            error = excitation_error_in_disk(
                spots.excitation_error[expand],
                spots.kx[expand], spots.ky[expand], qx, qy, self.wavelength,
            )
            return spot_intensity(shape, error, thickness[expand], xi[expand])

        if not resolved:
            factor = factor * spot_intensity(
                shape, spots.excitation_error, thickness, xi,
                k=k2.sqrt(), precession_angle=angle,
            )
        kx, ky = setup.distort(spots.kx, spots.ky)
        jitter = s.position_jitter * calibration.scale[0]
        return draw_spots(
            kx + jitter * self._normal(*kx.shape),
            ky + jitter * self._normal(*kx.shape),
            torch.where(spots.structure_factor > 0, factor, 0.0),
            calibration,
            disk_radius=setup.disk_radius,
            blur=setup.blur,
            rocking_curve=rocking_curve if resolved else None,
        )

    def _overlap(self, crystal: torch.Tensor, setup: _Setup) -> torch.Tensor:
        """Lay a second, weaker crystal over some of the patterns."""
        chosen = self._chosen(self.settings.overlap_share, len(crystal))
        if not len(chosen):
            return crystal
        n = len(chosen)
        phase_id = self._uniform(0, len(self.phases), n).long().clamp_max(len(self.phases) - 1)
        part = setup.select(chosen)
        second = self._draw_crystal(phase_id, random_rotations(n, self.generator), part)
        second = second / second.sum((1, 2), keepdim=True).clamp_min(1e-30)
        share = self._uniform(0.03, 0.45, n)[:, None, None]
        return crystal.index_copy(0, chosen, (1 - share) * crystal[chosen] + share * second)

    def _draw_background(self, electrons, setup: _Setup) -> torch.Tensor:
        """Halo, amorphous rings and an even inelastic background, and the direct beam."""
        s, n = self.settings, len(electrons)
        radius = 1.6 * self.reciprocal_radius
        k = torch.linspace(0, radius, _PROFILE_POINTS, device=self.device)[None]

        def column(values):
            return values[:, None]

        halo = torch.exp(-k / column(self._log_uniform(0.03, 0.6, n)))
        tail = (1 + (k / column(self._log_uniform(0.05, 0.5, n))) ** 2) ** -1.5
        profile = halo * column(self._uniform(0, 1, n)) + tail * column(self._uniform(0, 0.5, n))
        profile = profile + column(0.02 * self._uniform(0, 1, n) ** 2)
        for _ in range(2):
            center = column(self._uniform(0.2, 1.0, n)) * self.reciprocal_radius
            width = column(self._log_uniform(0.06, 0.25, n))
            height = column(self._uniform(0, 0.3, n) * self._happens(0.4, n))
            profile = profile + height * torch.exp(-(((k - center) / width) ** 2))
        shift = setup.center_error + 0.02 * self._normal(n, 2)
        background = expected_background(
            Background(profile, radius, shift), setup.calibration
        )
        amount = electrons * self._log_uniform(*s.background, n)
        direct = draw_spots(
            setup.center_error[:, :1], setup.center_error[:, 1:],
            column(electrons * self._log_uniform(0.3, 100.0, n)),
            setup.calibration, disk_radius=setup.disk_radius, blur=setup.blur,
        )
        return background * amount[:, None, None] + direct

    def _draw_ghosts(self, electrons, setup: _Setup) -> torch.Tensor:
        """Draw a disk where no reflection is: images of the beam, as detectors and lenses make."""
        n = len(electrons)
        amount = electrons * self._log_uniform(0.02, 0.3, n)
        amount = amount * self._happens(self.settings.ghost_share, n)
        k = self._uniform(0.1, 1.0, n) * self.reciprocal_radius
        angle = self._uniform(0, 2 * math.pi, n)
        return draw_spots(
            (k * angle.cos())[:, None], (k * angle.sin())[:, None], amount[:, None],
            setup.calibration,
            disk_radius=self._log_number(0.01, 0.1), blur=setup.blur,
        )

    def _detect(self, expected: torch.Tensor, setup: _Setup):
        """Count electrons, and add the detector's faults."""
        s, n = self.settings, len(expected)
        stop = mask = None
        if self._is_so(s.beam_stop_share):
            stop = beam_stop(
                setup.calibration, self._number(0.05, 0.2), self._number(0.02, 0.12), self._number(0, 2 * math.pi),
                self.device,
            )  # fmt: skip
            expected = expected * ~stop
            mask = stop if self._is_so(0.5) else None
        patterns = torch.poisson(expected.clamp(0, 1e8), generator=self.generator)
        faulty = self._chosen(s.fault_share, n)
        if len(faulty):
            flat = patterns.reshape(n, -1)
            pixel = self._uniform(0, flat.shape[1] - 1, len(faulty), 6).long()
            level = patterns[faulty].amax((1, 2))[:, None] * self._uniform(0, 1, len(faulty), 6)
            level = level * self._happens(0.5, len(faulty), 6)
            flat[faulty[:, None], pixel] = level.round()
            # saturation: everything above a share of the direct beam is one value
            top = patterns[faulty].amax((1, 2), keepdim=True) * self._log_uniform(
                0.01, 1.0, len(faulty), 1, 1
            )
            patterns[faulty] = torch.minimum(patterns[faulty], top)
        clean = self._chosen(s.threshold_share, n)
        if len(clean):
            # counts below a discriminator's threshold are lost
            level = patterns[clean].mean((1, 2), keepdim=True)
            level = level * self._uniform(0.1, 1.0, len(clean), 1, 1)
            patterns[clean] = (patterns[clean] - level).clamp_min(0)
        return patterns, mask


@dataclass(frozen=True)
class _Setup:
    """What the patterns of one call share, and the distortions of each."""

    calibration: Calibration
    shape_factor: str
    disk_radius: float
    blur: float
    precession_angle: float
    distortion: torch.Tensor
    coma: torch.Tensor
    center_error: torch.Tensor

    def distort(self, kx, ky):
        """Where reflections land on the imperfect detector, in Å⁻¹."""
        k = matmul(torch.stack([kx, ky], -1), self.distortion.transpose(1, 2))
        k = k + self.coma[:, None] * (kx**2 + ky**2)[..., None]
        k = k + self.center_error[:, None]
        return k[..., 0], k[..., 1]

    def select(self, index):
        """Return the setup of some of the patterns."""
        return _Setup(
            self.calibration, self.shape_factor, self.disk_radius, self.blur,
            self.precession_angle, self.distortion[index], self.coma[index], self.center_error[index],
        )
