"""Labelled patterns as a microscope could have recorded them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import torch

from pyxem_dl import crystals
from pyxem_dl.checks import drawn_settings
from pyxem_dl.electrons import electron_wavelength
from pyxem_dl.frames import Calibration, excitation_error_in_disk
from pyxem_dl.rotations import random_rotations
from pyxem_dl.simulation.bloch_waves import BlochWaves
from pyxem_dl.simulation.detector import (
    Background,
    Detectors,
    beam_stop,
    draw_beams,
    draw_spots,
    expected_background,
    reach,
)
from pyxem_dl.simulation.engines import Waves
from pyxem_dl.simulation.many_beam import ManyBeam
from pyxem_dl.simulation.random_numbers import RandomNumbers
from pyxem_dl.simulation.scattering import SHAPE_FACTORS, spot_intensity
from pyxem_dl.simulation.setups import BLOCH, MANY_BEAM, SetupOptics, Setups

_DETECTORS = 12
# Patches of an uneven background along a side of the detector
_GRAINS = (3.0, 30.0)
_PROFILE_POINTS = 256
# Beams that take part, radius (Å⁻¹) to which they do, positions along the diameter of a disk
_N_BEAMS, _FAR_BEAMS, _COUPLED, _POSITIONS = 64, 32, 1.8, 5
# Of Bloch waves there may be more, and the waves of an orientation give its patterns at so many thicknesses
_WAVE_BEAMS, _THICKNESSES = 96, 4
# Reflections of a pattern; widths of the edges of disks in px; and values of all their pixels that are drawn at once
_SPOTS, _BLUR, _DRAWN_AT_ONCE = 96, (0.35, 1.1), 2**27


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
        Keys of :data:`~pyxem_dl.simulation.SHAPE_FACTORS`, one drawn for each setup; or "many_beam": dynamical
        intensities, see :class:`~pyxem_dl.simulation.many_beam.ManyBeam`.
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
    texture : tuple of float
        Unevenness of the background: the logarithm's standard deviation, over patches of any size.
    ghost_specks : int
        So many smaller and weaker specks lie around each ghost.
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
    bloch_share : float
        Of the setups, with intensities by Bloch waves instead of `shape_factors`, see
        :class:`~pyxem_dl.simulation.bloch_waves.BlochWaves`. Four patterns in a row have the same orientation, at
        different thicknesses: the waves are found once for them.
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
    texture: tuple[float, float] = (0.0, 0.0)
    ghost_specks: int = 0
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
    bloch_share: float = 0.0
    pixels: tuple[int, ...] = (96, 112, 128)
    coverage: tuple[float, float] = (0.9, 1.25)
    setup_size: int = 32

    def __post_init__(self) -> None:
        drawn_settings(
            self, pixels=(8, 2048), setup_size=(1, 4096), coverage=(0.1, 10), disk_radius=(1e-6, 1), texture=(0, 5),
            ghost_specks=(0, 64),
        )  # fmt: skip
        known = [*SHAPE_FACTORS, MANY_BEAM]
        if not self.shape_factors or any(name not in known for name in self.shape_factors):
            raise ValueError(f"shape_factors must be from {', '.join(known)}, not {self.shape_factors!r}.")

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
        self._many_beam = [
            ManyBeam(
                p, beam_energy, reciprocal_radius, n_beams=_N_BEAMS, coupling_radius=max(_COUPLED, reciprocal_radius),
                debye_waller=self._number(*self.settings.debye_waller), device=self.device,
            )
            for p in (phases if MANY_BEAM in self.settings.shape_factors else ())
        ]  # fmt: skip
        self._waves = [
            Waves(BlochWaves(
                p, beam_energy, reciprocal_radius, n_beams=_WAVE_BEAMS,
                debye_waller=self._number(*self.settings.debye_waller), device=self.device,
            ), _FAR_BEAMS)
            for p in (phases if self.settings.bloch_share else ())
        ]  # fmt: skip

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

    # ---------------------------------------------------------------- setups
    def __call__(self, n: int | None = None) -> SimulatedPatterns:
        """Simulate the patterns of one setup."""
        return self.several(1, n)[0]

    def several(self, n_setups: int, n: int | None = None) -> list[SimulatedPatterns]:
        """Simulate the patterns of several setups together: the operations that one takes, which is for devices.

        Parameters
        ----------
        n_setups : int
            Their detectors have the same number of pixels.
        n : int, optional
            Patterns of each, by default the settings'.
        """
        s = self.settings
        each = n or s.setup_size
        n = n_setups * each
        calibrations = [self._choice(self._detectors)]
        alike = [detector for detector in self._detectors if detector.shape == calibrations[0].shape]
        calibrations += [self._choice(alike) for _ in range(n_setups - 1)]
        phase_id = self._uniform(0, len(self.phases), n).long().clamp_max(len(self.phases) - 1)
        rotations = random_rotations(n, self.generator)
        # those that scatter alike lie side by side
        optics = sorted((self._draw_optics(calibration) for calibration in calibrations), key=lambda o: o.scattering)
        calibrations = [o.calibration for o in optics]
        detector = self._together(calibrations, each)
        setup = Setups(
            detector, optics, [each] * n_setups,
            disk_radius=self._column([o.disk_radius for o in optics], each),
            blur=self._column([o.blur for o in optics], each),
            distortion=self._draw_distortion(n),
            coma=self._draw_coma(n),
            center_error=s.center_error * self._normal(n, 2) * detector.scale[0],
        )  # fmt: skip
        for its, here in setup.each():
            if its.shape_factor == BLOCH:  # an orientation for several thicknesses
                for x in (rotations, phase_id):
                    x[here] = x[here][::_THICKNESSES].repeat_interleave(_THICKNESSES, 0)[:each]
        electrons = self._log_uniform(*s.electrons, n)
        crystal = self._draw_crystal(phase_id, rotations, setup)
        empty = self._happens(s.empty_share, n) | (crystal.sum((1, 2)) == 0)
        crystal = crystal / crystal.sum((1, 2), keepdim=True).clamp_min(1e-30)
        crystal = self._overlap(crystal, setup)
        expected = crystal * (~empty * electrons)[:, None, None]
        expected = expected + self._draw_background(electrons, setup)
        expected = expected + self._draw_ghosts(electrons, setup)
        patterns, masks = self._detect(expected, setup)
        columns = (x.split(each) for x in (patterns, rotations, torch.where(empty, -1, phase_id)))
        return [SimulatedPatterns(*made) for made in zip(*columns, calibrations, masks, strict=True)]

    def most_setups(self, n: int | None = None) -> int:
        """How many setups of `n` patterns may be simulated together without filling a device's memory."""
        s = self.settings
        half = reach(s.disk_radius[1] / self.scale_range[0], _BLUR[1])
        return max(1, _DRAWN_AT_ONCE // ((n or s.setup_size) * _SPOTS * (2 * half + 1) ** 2))

    def _draw_optics(self, calibration: Calibration) -> SetupOptics:
        s = self.settings
        optics = SetupOptics(
            calibration,
            shape_factor=self._choice(s.shape_factors),
            disk_radius=self._log_number(*s.disk_radius),
            blur=self._number(*_BLUR),
            precession_angle=self._number(*s.precession_angle) if self._is_so(s.precession_share) else 0.0,
        )
        if s.bloch_share and self._is_so(s.bloch_share):
            optics = replace(optics, shape_factor=BLOCH)
        return replace(optics, precession_angle=0.0) if optics.is_dynamical else optics

    def _column(self, values: list[float], each: int):
        """Numbers of setups, for each of their patterns: (n, 1); of a single one the number itself."""
        if len(values) == 1:
            return values[0]
        return self._sent(torch.tensor(values)).repeat_interleave(each)[:, None]

    def _together(self, calibrations: list[Calibration], each: int) -> Calibration | Detectors:
        if len(calibrations) == 1:
            return calibrations[0]
        scale, center = (
            tuple(self._column([getattr(c, name)[i] for c in calibrations], each) for i in (0, 1))
            for name in ("scale", "center")
        )
        return Detectors(scale, center, calibrations[0].shape)

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

    def _draw_crystal(self, phase_id, rotations, setup: Setups) -> torch.Tensor:
        """Draw crystals without the direct beam: expected patterns, in arbitrary units."""
        if not any(optics.is_dynamical for optics in setup.optics):
            return self._draw_kinematical(phase_id, rotations, setup)
        drawn = []
        for optics, here in setup.each():
            numbers = list(range(here.start, here.stop))
            part = setup.select(numbers, torch.arange(here.start, here.stop, device=self.device))
            part = replace(part, optics=[optics], counts=[len(numbers)])
            draw = self._draw_dynamical if optics.is_dynamical else self._draw_kinematical
            if numbers:
                drawn.append(draw(phase_id[here], rotations[here], part))
        return torch.cat(drawn)

    def _draw_dynamical(self, phase_id, rotations, setup: Setups) -> torch.Tensor:
        """Draw the patterns of one setup with dynamical intensities."""
        s, optics = self.settings, setup.optics[0]
        # on the host: how many slices there are is looked at
        thickness = self._log_numbers(*s.thickness, len(phase_id))
        radius, points = (optics.disk_radius, _POSITIONS) if optics.is_resolved else (1e-4, 1)
        patterns = torch.zeros(len(phase_id), *optics.calibration.shape, device=self.device)
        for phase in range(len(self.phases)):
            (rows,) = torch.where(phase_id == phase)
            if not len(rows):
                continue
            # with faint beams of other Laue zones: they alone tell a zone axis from the same one turned by 180°
            its = rotations[rows], thickness[rows.cpu()], radius, points
            if optics.shape_factor == BLOCH:
                beams = self._waves[phase].in_turn(its[0], self._sent(its[1]), *its[2:], _THICKNESSES)
            else:
                crystal = self._many_beam[phase]
                beams = crystal(*its).joined(crystal.far(*its, n_beams=_FAR_BEAMS))
            part = setup.select(rows.tolist(), rows)
            kx, ky = part.distort(beams.kx, beams.ky)
            jitter = s.position_jitter * optics.calibration.scale[0]
            kx, ky = (k + jitter * self._normal(*k.shape) for k in (kx, ky))
            present = beams.present.clone()
            present[:, 0] = False  # the direct beam is drawn with the background
            if points == 1:
                electrons = beams.intensity[..., 0, 0] * present
                patterns[rows] = draw_spots(
                    kx, ky, electrons, optics.calibration, disk_radius=optics.disk_radius, blur=optics.blur
                )
            else:
                beams = beams._replace(kx=kx, ky=ky, present=present)
                patterns[rows] = draw_beams(
                    beams, 1.0, optics.calibration, disk_radius=radius, blur=optics.blur
                )
        return patterns

    def _draw_kinematical(self, phase_id, rotations, setup: Setups) -> torch.Tensor:
        s, detector = self.settings, setup.detector
        n = len(phase_id)
        spots = crystals.find_spots(self.table, phase_id, rotations, self.beam_energy, n_spots=_SPOTS)
        thickness = self._log_uniform(*s.thickness, n)[:, None]
        k2 = spots.kx**2 + spots.ky**2
        width = self._uniform(*s.intensity_jitter, n)[:, None]
        factor = torch.exp(width * self._normal(*k2.shape))
        factor = factor * torch.exp(-self._uniform(*s.debye_waller, n)[:, None] * k2 / 2)
        xi = spots.extinction_distance

        def rocking_curve(qx, qy):
            expand = (..., None, None)
            error = excitation_error_in_disk(
                spots.excitation_error[expand],
                spots.kx[expand], spots.ky[expand], qx, qy, self.wavelength,
            )
            return torch.cat([
                spot_intensity(optics.shape_factor, error[here], thickness[here][expand], xi[here][expand])
                if optics.is_resolved else torch.ones_like(error[here])
                for optics, here in setup.alike()
            ])  # fmt: skip

        factor = torch.cat([
            factor[here] if optics.is_resolved else factor[here] * spot_intensity(
                optics.shape_factor, spots.excitation_error[here], thickness[here], xi[here],
                k=k2[here].sqrt(), precession_angle=optics.precession_angle,
            )
            for optics, here in setup.alike()
        ])  # fmt: skip
        resolved = any(optics.is_resolved for optics in setup.optics)
        kx, ky = setup.distort(spots.kx, spots.ky)
        jitter = s.position_jitter * detector.scale[0]
        return draw_spots(
            kx + jitter * self._normal(*kx.shape),
            ky + jitter * self._normal(*kx.shape),
            torch.where(spots.structure_factor > 0, factor, 0.0),
            detector,
            disk_radius=setup.disk_radius,
            blur=setup.blur,
            rocking_curve=rocking_curve if resolved else None,
            half=setup.half,
        )

    def _overlap(self, crystal: torch.Tensor, setup: Setups) -> torch.Tensor:
        """Lay a second, weaker crystal over some of the patterns."""
        on_host = self._chosen_numbers(self.settings.overlap_share, len(crystal))
        if not len(on_host):
            return crystal
        n, chosen = len(on_host), self._sent(on_host)
        phase_id = self._uniform(0, len(self.phases), n).long().clamp_max(len(self.phases) - 1)
        part = setup.select(on_host.tolist(), chosen)
        # of the weaker one, two beams at a time are near enough to many
        optics = [replace(o, shape_factor="two_beam") if o.is_dynamical else o for o in part.optics]
        part = replace(part, optics=optics)
        second = self._draw_crystal(phase_id, random_rotations(n, self.generator), part)
        second = second / second.sum((1, 2), keepdim=True).clamp_min(1e-30)
        share = self._uniform(0.03, 0.45, n)[:, None, None]
        return crystal.index_copy(0, chosen, (1 - share) * crystal[chosen] + share * second)

    def _draw_background(self, electrons, setup: Setups) -> torch.Tensor:
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
            Background(profile, radius, shift), setup.detector
        )
        if s.texture[1]:
            grain = self._grain(n, self._log_number(*_GRAINS), background.shape[1:])
            background = background * torch.exp(self._uniform(*s.texture, n)[:, None, None] * grain)
        amount = electrons * self._log_uniform(*s.background, n)
        direct = draw_spots(
            setup.center_error[:, :1], setup.center_error[:, 1:],
            column(electrons * self._log_uniform(0.3, 100.0, n)),
            setup.detector, disk_radius=setup.disk_radius, blur=setup.blur, half=setup.half,
        )
        return background * amount[:, None, None] + direct

    def _draw_ghosts(self, electrons, setup: Setups) -> torch.Tensor:
        """Draw a disk where no reflection is, with specks: images of the beam, as detectors and lenses make."""
        n, specks = len(electrons), self.settings.ghost_specks
        amount = electrons * self._log_uniform(0.02, 0.3, n)
        amount = amount * self._happens(self.settings.ghost_share, n)
        k = self._uniform(0.1, 1.0, n) * self.reciprocal_radius
        angle = self._uniform(0, 2 * math.pi, n)
        kx, ky = (k * angle.cos())[:, None], (k * angle.sin())[:, None]
        ghosts = self._draw_soft(kx, ky, amount[:, None], 0.01, setup)
        if specks:
            around = self._log_uniform(0.03, 0.3, n, 1)
            kx, ky = (x + around * self._normal(n, specks) for x in (kx, ky))
            amount = amount[:, None] * self._log_uniform(0.01, 0.5, n, specks) * self._happens(0.5, n, specks)
            ghosts = ghosts + self._draw_soft(kx, ky, amount, 0.005, setup)
        return ghosts

    def _draw_soft(self, kx, ky, amount, least: float, setup: Setups) -> torch.Tensor:
        """Draw disks of a radius between the least and 0.1 Å⁻¹, one for all of a setup."""
        radii = [self._log_number(least, 0.1) for _ in setup.optics]
        return draw_spots(
            kx, ky, amount, setup.detector,
            disk_radius=self._column(radii, len(kx) // len(radii)), blur=setup.blur,
            half=max(reach(r / o.calibration.scale[1], o.blur) for r, o in zip(radii, setup.optics, strict=True)),
        )  # fmt: skip

    def _detect(self, expected: torch.Tensor, setup: Setups):
        """Count electrons, and add the detector's faults."""
        s, n = self.settings, len(expected)
        masks = []
        for optics, here in setup.each():
            masks.append(None)
            if self._is_so(s.beam_stop_share):
                stop = beam_stop(
                    optics.calibration, self._number(0.05, 0.2), self._number(0.02, 0.12),
                    self._number(0, 2 * math.pi), self.device,
                )  # fmt: skip
                expected[here] *= ~stop
                masks[-1] = stop if self._is_so(0.5) else None
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
        return patterns, masks
