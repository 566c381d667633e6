"""Template matching, the baseline: orientations by comparison with simulated patterns.

Two engines return the same type as the network does: ours in torch, batched on the device,
which compares with every template at every angle, and pyxem's own, with its faults repaired.
"""

from __future__ import annotations

import logging
import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from pyxem_dl.crystals import load_phases, reflections
from pyxem_dl.frames import (
    Calibration,
    electron_wavelength,
    excitation_error,
    repair_pyxem_orientation,
)
from pyxem_dl.maps import Scan, print_summary, timed, to_crystal_map
from pyxem_dl.models import usable_patterns
from pyxem_dl.preprocessing import PolarPreprocessing, shift_to_center
from pyxem_dl.rotations import (
    multiply,
    proper_operations,
    reduced_grid,
    rotate_in_plane,
    to_matrix,
)
from pyxem_dl.streaming import Collected, resolve_device, stream

# Orientations nearer than this (degrees) are one mode.
_MODE_DISTANCE = 5.0
# Bytes of the correlations that are in memory at once.
_WORK_BYTES = {"cpu": 2**26, "cuda": 2**30}
# Patterns that pyxem gets at once: it prepares grid and templates anew for each batch.
_PYXEM_BATCH = 4096
_PYXEM_AZIMUTHS = 360
# Templates that are simulated at once.
_SIMULATED_AT_ONCE = 256


class Match(NamedTuple):
    """What matching a batch of n patterns returns.

    Parameters
    ----------
    rotations : tensor, shape (n, n_best, 4)
        Orientations lab to crystal, the best first.
    scores : tensor, shape (n, n_best)
        Greater is better; 0 where there is no further mode.
    simulation_indices : tensor of int, shape (n, n_best)
        Of the templates in the bank, -1 where there is no further mode.
    phase_index : tensor of int, shape (n, n_best)
        Which phase they belong to; -1 in the first column where nothing was indexed.
    reliability : tensor, shape (n,)
        Between 0 and 1.
    """

    rotations: torch.Tensor
    scores: torch.Tensor
    simulation_indices: torch.Tensor
    phase_index: torch.Tensor
    reliability: torch.Tensor


def match_templates(
    signal,
    phases,
    *,
    n_best: int = 1,
    engine: str = "torch",
    resolution: float = 1.0,
    reciprocal_radius: float | None = None,
    max_excitation_error: float = 0.08,
    beam_energy: float | None = None,
    navigation_mask=None,
    signal_mask=None,
    center=None,
    batch_size: int | None = None,
    device: str | torch.device = "auto",
    show_progressbar: bool | None = None,
):
    """Find orientations by comparison with simulated patterns.

    Parameters
    ----------
    signal : pyxem.signals.Diffraction2D
        Calibrated patterns with 0, 1 or 2 navigation dimensions, in memory or lazy.
    phases : orix.crystal_map.Phase, path of a CIF file, or an iterable of these
        The crystals.
    n_best : int
        How many orientations to keep, at least 5 degrees apart.
    engine : {"torch", "pyxem"}
        :class:`TemplateBank`, or pyxem's ``get_azimuthal_integral2d`` and ``get_orientation``:
        see :class:`PyxemMatcher`.
    resolution : float
        Step between zone axes in degrees.
    reciprocal_radius : float, optional
        Outer radius in 1/Angstrom; by default up to the detector's nearest edge.
    max_excitation_error : float
        Largest distance of a template's reflections from the Ewald sphere in 1/Angstrom.
    beam_energy : float, optional
        In kV; by default what the signal's metadata say.
    navigation_mask : array of bool, optional
        True where a pattern is excluded, of the navigation's shape in data order (y, x).
    signal_mask : array of bool, shape (rows, columns), optional
        True where the detector is excluded.
    center : optional
        Direct beam: None for the calibration's, "auto" to find it in each pattern, (row,
        column) in pixels, an array (..., 2) of those for each position, or a ``BeamShift``.
    batch_size : int, optional
        Patterns per batch.
    device : str or torch.device
        "auto", "cpu", "cuda", ...; pyxem's engine runs on the CPU.
    show_progressbar : bool, optional
        By default HyperSpy's preference.

    Returns
    -------
    orix.crystal_map.CrystalMap
        Rotations lab to crystal (n, n_best), with the properties ``scores`` (greater is better;
        formula in :class:`TemplateBank`), ``reliability`` (:meth:`TemplateBank.match_polar`)
        and ``simulation_indices`` (-1: no further mode).  ``phase_id`` is -1 where a pattern
        is constant, not finite, or matches nothing.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        For a signal without calibration or beam energy, and for phases, masks, centers or
        arguments that cannot be used; the message says what to do.
    """
    if engine not in ("torch", "pyxem"):
        raise ValueError(f"engine must be 'torch' or 'pyxem', not {engine!r}.")
    _check_positive(resolution=resolution, max_excitation_error=max_excitation_error)
    if isinstance(n_best, bool) or int(n_best) != n_best or n_best < 1:
        raise ValueError(f"n_best must be a whole number of at least 1, not {n_best!r}.")
    scan = Scan.from_signal(
        signal,
        navigation_mask=navigation_mask,
        signal_mask=signal_mask,
        center=center,
        beam_energy=beam_energy,
    )
    _ = scan.calibration.wavelength  # its error, before anything is computed
    if reciprocal_radius is None:
        reciprocal_radius = scan.calibration.reciprocal_radius
    _check_positive(reciprocal_radius=reciprocal_radius)
    device = resolve_device("cpu" if engine == "pyxem" else device)
    make = PyxemMatcher if engine == "pyxem" else TemplateBank
    bank = make.from_phases(
        phases,
        scan.calibration.beam_energy,
        reciprocal_radius,
        resolution,
        max_excitation_error=max_excitation_error,
        **({"device": device} if engine == "torch" else {}),
    )
    print_summary(
        f"Template matching ({engine})",
        {
            "Phases": ", ".join(phase.name for phase in bank.phases),
            "Templates": f"{len(bank)}, {resolution:g} degrees apart, "
            f"up to {reciprocal_radius:.4g} 1/Å",
            "Patterns": scan.describe(),
            "Device": device,
        },
    )
    detector = None if scan.signal_mask is None else scan.signal_mask.to(device)

    def match(patterns, indices):
        centers = scan.batch_centers(patterns, indices)
        return bank.match(patterns, scan.calibration, centers, detector, n_best=n_best)

    collected = Collected(scan.size)
    if batch_size is None and engine == "pyxem":
        batch_size = _PYXEM_BATCH
    with timed(collected.done.sum):
        for part in stream(
            scan.data,
            match,
            device=device,
            batch_size=batch_size,
            navigation_mask=scan.navigation_mask,
            show_progressbar=show_progressbar,
        ):
            collected.add(part)
    return _crystal_map(scan, collected.arrays, bank.phases)


def _crystal_map(scan: Scan, found: dict, phases):
    """Make the map of what was collected."""
    indices = found["simulation_indices"]
    return to_crystal_map(
        scan,
        found["rotations"],
        found["phase_index"],
        found["scores"],
        phases,
        indexed=found["phase_index"][:, 0] >= 0,
        prop={
            "reliability": found["reliability"].astype(float),
            "simulation_indices": indices[:, 0] if indices.shape[1] == 1 else indices,
        },
    )


def _check_positive(**values) -> None:
    for name, value in values.items():
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive and finite, not {value!r}.")


@dataclass(eq=False)
class TemplateBank:
    """Simulated patterns of all zone axes on a polar grid.

    Parameters
    ----------
    phases : list of orix.crystal_map.Phase
        The crystals.
    preprocessing : PolarPreprocessing
        The polar grid that patterns are resampled to, the exponent of their intensity, and
        the radius inside which nothing is compared.
    resolution : float
        Step between zone axes in degrees.
    quaternions : tensor, shape (t, 4)
        Orientations of the templates, with the first Euler angle 0.
    phase_index : tensor of int, shape (t,)
        Which phase a template belongs to.
    spectra : tensor of complex, shape (n_phi // 2 + 1, n_k, t)
        Conjugate Fourier transforms over the angle, normalised.
    operations : tensor, shape (phases, m, 4)
        Symmetry of each phase, from :func:`pyxem_dl.rotations.proper_operations`; filled up
        with the identity.

    Notes
    -----
    A template holds the zero- and higher-order reflections g within `max_excitation_error` of
    the Ewald sphere as Gaussian spots of intensity

        (abs(F)**2 / (1 + (pi * s / max_excitation_error)**2))**gamma

    with the excitation error s, which is diffsims' Lorentzian shape factor.  With P, the polar
    pattern to the power gamma, and T, the template, both less their mean over each ring and 0
    inside `inner_radius`, the score of a template turned by the angle a is

        sum_k,phi k**2 P(k, phi) T(k, phi - a) / (norm(k P) norm(k T)),

    between -1 and 1.  pyxem's score is the sum over the template's spots of P * I without ring
    means and weights (the spots' I normalised, P not).  Taking away the ring means makes halo
    and amorphous rings harmless; the weight undoes that spots near the centre fill more bins.

    On the multislice patterns of the benchmark (Al and LiNiO2, 10**3 and 10**4 electrons) the
    exponent 0.25 with these weights was much better than 0.5: dynamical intensities are spread
    more evenly than kinematical ones.  The bank takes ``8 * t * n_k * n_phi / 2`` bytes.
    """

    phases: list
    preprocessing: PolarPreprocessing
    resolution: float
    quaternions: torch.Tensor
    phase_index: torch.Tensor
    spectra: torch.Tensor
    operations: torch.Tensor

    @classmethod
    def from_phases(
        cls,
        phases,
        beam_energy: float,
        preprocessing: PolarPreprocessing | float,
        resolution: float = 1.0,
        *,
        max_excitation_error: float = 0.08,
        spot_radius: float | None = None,
        device: str | torch.device = "cpu",
    ) -> TemplateBank:
        """Simulate the templates of some phases.

        Parameters
        ----------
        phases : orix.crystal_map.Phase, path of a CIF file, or an iterable of these
            The crystals.
        beam_energy : float
            In kV.
        preprocessing : PolarPreprocessing or float
            The polar grid; or its radius in 1/Angstrom, for the grid that matches best:
            see :func:`polar_grid`.
        resolution : float
            Step between zone axes in degrees.
        max_excitation_error : float
            Largest distance of a reflection from the Ewald sphere, and width of the shape
            factor, in 1/Angstrom.
        spot_radius : float, optional
            Standard deviation of the spots in 1/Angstrom; by default 0.8 bins of the radius.
        device : str or torch.device
            Where the bank is kept.

        Raises
        ------
        ValueError
            If a phase cannot be used, see :func:`pyxem_dl.crystals.load_phases`.
        """
        if not isinstance(preprocessing, PolarPreprocessing):
            preprocessing = polar_grid(preprocessing)
        phases = load_phases(phases)
        simulate = _Simulation(
            preprocessing, electron_wavelength(beam_energy), max_excitation_error, spot_radius
        )
        grids = [reduced_grid(phase, resolution) for phase in phases]
        spectra = [simulate(p, q) for p, q in zip(phases, grids, strict=True)]
        index = [torch.full((len(q),), i) for i, q in enumerate(grids)]
        return cls(
            phases,
            preprocessing,
            resolution,
            torch.cat(grids).to(device),
            torch.cat(index).to(device),
            torch.cat(spectra, dim=2).to(device),
            _padded_operations(phases).to(device),
        )

    def __len__(self) -> int:
        return len(self.quaternions)

    def match(
        self,
        patterns: torch.Tensor,
        calibration: Calibration,
        centers: torch.Tensor | None = None,
        signal_mask: torch.Tensor | None = None,
        *,
        n_best: int = 1,
    ) -> Match:
        """Find the orientations of a batch of patterns.

        Parameters
        ----------
        patterns : tensor, shape (n, rows, columns)
            Intensities, on the bank's device.
        calibration : Calibration
            Of the detector.
        centers : tensor, shape (n, 2), optional
            Direct beam (row, column) in pixels of each pattern.
        signal_mask : tensor of bool, shape (rows, columns), optional
            True where the detector is excluded.
        n_best : int
            How many modes to return.
        """
        patterns, _ = usable_patterns(patterns, signal_mask)
        polar, valid = self.preprocessing.resample(patterns, calibration, centers, signal_mask)
        return self.match_polar(polar, valid, n_best=n_best)

    def match_polar(
        self, polar: torch.Tensor, valid: torch.Tensor | None = None, *, n_best: int = 1
    ) -> Match:
        """Find the orientations of polar patterns from :meth:`PolarPreprocessing.resample`.

        Parameters
        ----------
        polar : tensor, shape (n, n_k, n_phi)
            Mean intensities.
        valid : tensor of bool, shape (n, n_k, n_phi) or (1, n_k, n_phi), optional
            Where a bin was measured; by default everywhere.
        n_best : int
            How many modes to return.

        Returns
        -------
        Match
            Each template enters with its best angle (refined by a parabola) and with that
            angle + 180 degrees.  Modes are of different phases or at least 5 degrees of
            disorientation apart.  ``reliability = 1 - s2 / s1``, with the best score s1
            and s2, the best score of another phase or of an orientation that is more than 5
            degrees from the best one and from its twin turned by 180 degrees about the beam.
            Patterns without any contrast are not indexed.
        """
        spectrum = self._spectrum(polar, valid)
        parts = [
            self._select(*self._correlate(part), n_best)
            for part in spectrum.split(self._chunks()[0])
        ]
        return Match(*(torch.cat(field) for field in zip(*parts, strict=True)))

    def _chunks(self) -> tuple[int, int]:
        """Patterns and templates to correlate at once."""
        each = 8 * self.preprocessing.n_phi
        pairs = _WORK_BYTES.get(self.spectra.device.type, 2**28) // each
        templates = min(len(self), max(256, pairs // 32))
        return max(1, pairs // templates), templates

    def _spectrum(self, polar, valid) -> torch.Tensor:
        """Normalised Fourier transforms (n, n_k, n_phi // 2 + 1) of polar patterns."""
        x = polar.clamp_min(0).pow(self.preprocessing.gamma)
        if valid is None:
            valid = torch.ones_like(x[:1], dtype=torch.bool)
        valid = valid.to(x)
        ring = (x * valid).sum(-1, keepdim=True) / valid.sum(-1, keepdim=True).clamp_min(1)
        # A sparse product sums in its own order: what is no more than rounding is constant
        x = (x - ring) * valid
        x = torch.where(x.abs() > 1e-5 * ring, x, 0.0)
        return _normalised(torch.fft.rfft(x), self.preprocessing)

    def _correlate(self, spectrum) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Score, angle (radians) and score of the twin of every template, each (n, t)."""
        n_phi = self.preprocessing.n_phi
        spectrum = spectrum.permute(2, 0, 1).contiguous()
        found = []
        for templates in self.spectra.split(self._chunks()[1], dim=2):
            product = torch.bmm(spectrum, templates).permute(1, 2, 0).contiguous()
            found.append(_best_angle(torch.fft.irfft(product, n=n_phi, norm="forward")))
        return tuple(torch.cat(f, dim=1) for f in zip(*found, strict=True))

    def _select(self, score, angle, twin_score, n_best: int) -> Match:
        """Pick the best modes from all templates and their twins."""
        rotation = rotate_in_plane(self.quaternions, angle)
        twin = rotate_in_plane(rotation, torch.full_like(angle, math.pi))
        index = torch.arange(len(self), device=score.device).expand_as(score).repeat(1, 2)
        return _modes(
            torch.cat([score, twin_score], dim=1),
            torch.cat([rotation, twin], dim=1),
            index,
            self.phase_index[index],
            self.operations,
            n_best,
        )


def polar_grid(reciprocal_radius: float, **changes) -> PolarPreprocessing:
    """Polar grid that suits template matching: 48 by 144 bins, intensities ** 0.25.

    Parameters
    ----------
    reciprocal_radius : float
        In 1/Angstrom.
    **changes
        Other fields of :class:`pyxem_dl.preprocessing.PolarPreprocessing`.
    """
    settings = {"n_k": 48, "n_phi": 144, "gamma": 0.25, **changes}
    return PolarPreprocessing(reciprocal_radius=reciprocal_radius, **settings)


@dataclass(eq=False)
class PyxemMatcher:
    """pyxem's own template matching, with its faults repaired.

    The polar patterns of ``get_azimuthal_integral2d`` to the power 0.5 are compared with
    templates of diffsims to the power 0.5 by ``get_orientation(frac_keep=1)``: of 16 settings
    these were the best.  As pyxem does, zone axes cover the sector of the Laue group, and
    mirrored templates the other half.  :func:`pyxem_dl.frames.repair_pyxem_orientation` corrects
    the rotations; scores are pyxem's, not normalised for the pattern.

    Parameters
    ----------
    phases : list of orix.crystal_map.Phase
        The crystals.
    simulations : list of diffsims.simulations.Simulation2D
        The templates of each phase.
    reciprocal_radius : float
        In 1/Angstrom.
    resolution : float
        Step between zone axes in degrees.
    """

    phases: list
    simulations: list
    reciprocal_radius: float
    resolution: float
    gamma: float = 0.5

    @classmethod
    def from_phases(
        cls,
        phases,
        beam_energy: float,
        reciprocal_radius: float,
        resolution: float = 1.0,
        *,
        max_excitation_error: float = 0.08,
        gamma: float = 0.5,
    ) -> PyxemMatcher:
        """Simulate the templates; the parameters are those of :class:`TemplateBank`."""
        from diffsims.generators.simulation_generator import SimulationGenerator
        from orix.sampling import get_sample_reduced_fundamental

        phases = load_phases(phases)
        simulations = []
        for phase in phases:
            reflections(phase, reciprocal_radius)  # its error, if there is none
            grid = get_sample_reduced_fundamental(
                resolution, method="spherified_cube_edge", point_group=phase.point_group.laue
            )
            simulation = SimulationGenerator(beam_energy).calculate_diffraction2d(
                phase,
                grid,
                # diffsims loses reflections of oblique cells near the radius
                reciprocal_radius=reciprocal_radius * _obliqueness(phase),
                max_excitation_error=max_excitation_error,
                with_direct_beam=False,
            )
            for i, vectors in enumerate(simulation.coordinates):
                simulation.coordinates[i] = _cut(vectors, reciprocal_radius, gamma)
            simulations.append(simulation)
        return cls(phases, simulations, reciprocal_radius, resolution, gamma)

    def __len__(self) -> int:
        return sum(simulation.rotations.size for simulation in self.simulations)

    def match(
        self,
        patterns: torch.Tensor,
        calibration: Calibration,
        centers: torch.Tensor | None = None,
        signal_mask: torch.Tensor | None = None,
        *,
        n_best: int = 1,
    ) -> Match:
        """Find the orientations of a batch; parameters are those of TemplateBank."""
        patterns, _ = usable_patterns(patterns, signal_mask)
        if centers is not None:
            patterns = shift_to_center(patterns, centers, calibration)
        mask = None if signal_mask is None else signal_mask.numpy()
        with _quiet():
            polar = self._polar(patterns.numpy(), calibration, mask)
            parts = [self._candidates(polar, i, n_best) for i in range(len(self.phases))]
        candidates = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
        return _modes(*candidates, _padded_operations(self.phases), n_best)

    def _candidates(self, polar, i: int, n_best: int) -> tuple[torch.Tensor, ...]:
        """Score, rotation, template and phase of a phase's best templates."""
        simulation = self.simulations[i]
        # enough to find an orientation that is no neighbour of the best one
        n = math.ceil(4 * math.pi * (_MODE_DISTANCE / self.resolution) ** 2) + 10 * n_best
        n = min(simulation.rotations.size, n)
        found = polar.get_orientation(simulation, n_best=n, frac_keep=1)
        rotations = repair_pyxem_orientation(
            found.to_rotation().data, found.data[..., 3], 2 * math.pi / _PYXEM_AZIMUTHS
        )
        index = torch.from_numpy(found.data[..., 0]).long()
        before = sum(s.rotations.size for s in self.simulations[:i])
        return (
            torch.from_numpy(found.data[..., 1]).float(),
            torch.from_numpy(rotations).float(),
            index + before,
            torch.full_like(index, i),
        )

    def _polar(self, patterns, calibration: Calibration, mask):
        """Polar patterns as a signal of pyxem."""
        from pyxem.signals import ElectronDiffraction2D

        signal = ElectronDiffraction2D(patterns)
        for axis, scale, center in zip(
            signal.axes_manager.signal_axes, calibration.scale[::-1], calibration.center[::-1]
        ):
            axis.scale, axis.offset, axis.units = scale, -center * scale, "$A^{-1}$"
        polar = signal.get_azimuthal_integral2d(
            npt=math.ceil(self.reciprocal_radius / min(calibration.scale)),
            npt_azim=_PYXEM_AZIMUTHS,
            radial_range=(0, self.reciprocal_radius),
            mask=mask,
        )
        return polar**self.gamma


def _obliqueness(phase) -> float:
    """Largest product of a cell's edge and its reciprocal edge, a little more than it."""
    cell = phase.structure.lattice
    reciprocal = cell.reciprocal()
    return 1.001 * max(cell.a * reciprocal.a, cell.b * reciprocal.b, cell.c * reciprocal.c)


def _cut(vectors, reciprocal_radius: float, gamma: float):
    """Reflections inside a radius that are not extinct, with intensities ** gamma."""
    intensity = vectors.intensity
    keep = np.hypot(vectors.data[:, 0], vectors.data[:, 1]) < reciprocal_radius
    keep &= intensity > 1e-6 * intensity.max(initial=0)
    kept = vectors[keep]
    kept.intensity = intensity[keep] ** gamma
    return kept


@contextmanager
def _quiet():
    """Keep pyxem's steps from showing progress bars, and HyperSpy from what we know."""
    import hyperspy.api as hs

    shown = hs.preferences.General.show_progressbar
    # "... does not take into account the difference of scales in-between axes"
    logger = logging.getLogger("hyperspy.signal")
    level = logger.level
    hs.preferences.General.show_progressbar = False
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        hs.preferences.General.show_progressbar = shown
        logger.setLevel(level)


class _Simulation:
    """Make the spectra of a phase's templates."""

    def __init__(self, preprocessing, wavelength, max_excitation_error, spot_radius) -> None:
        self.preprocessing = preprocessing
        self.wavelength = wavelength
        self.max_excitation_error = max_excitation_error
        self.step = preprocessing.reciprocal_radius / preprocessing.n_k
        self.spot_radius = 0.8 * self.step if spot_radius is None else spot_radius
        self.reach = max(1, math.ceil(2.5 * self.spot_radius / self.step))

    def __call__(self, phase, quaternions) -> torch.Tensor:
        """Normalised conjugate spectra (n_phi // 2 + 1, n_k, t)."""
        # Reflections a little outside still reach into the outermost ring
        radius = self.preprocessing.reciprocal_radius + 2 * self.spot_radius
        crystal = reflections(phase, radius)
        reflections(phase, self.preprocessing.reciprocal_radius)  # its error, if there is none
        parts = [
            _normalised(self._render(crystal, q), self.preprocessing)
            for q in quaternions.split(_SIMULATED_AT_ONCE)
        ]
        return torch.cat(parts).conj().resolve_conj().permute(2, 1, 0).contiguous()

    def _spots(self, crystal, quaternions) -> tuple[torch.Tensor, ...]:
        """Template, k, phi and intensity of all spots."""
        g = crystal.g @ to_matrix(quaternions)  # ~R * g
        error = excitation_error(*g.unbind(-1), self.wavelength)
        template, h = (error.abs() < self.max_excitation_error).nonzero(as_tuple=True)
        width = error[template, h] * (math.pi / self.max_excitation_error)
        intensity = crystal.structure_factor[h] ** 2 / (1 + width**2)
        kx, ky, _ = g[template, h].unbind(-1)
        intensity = intensity**self.preprocessing.gamma
        return template, torch.hypot(kx, ky), torch.atan2(ky, kx), intensity

    def _render(self, crystal, quaternions) -> torch.Tensor:
        """Draw the spots as Gaussians, exactly in angle: (t, n_k, n_phi // 2 + 1)."""
        p = self.preprocessing
        template, k, phi, intensity = self._spots(crystal, quaternions)
        order = torch.arange(p.n_phi // 2 + 1)
        # the spot's radius as an angle; and the two bins wide tent of the polar resampling
        angular = self.spot_radius / k.clamp_min(self.spot_radius)
        shape = torch.exp(-0.5 * (order * angular[:, None]) ** 2)
        shape = shape * (intensity * angular)[:, None] * torch.sinc(order / p.n_phi) ** 2
        spectrum = torch.polar(shape, -order * phi[:, None])
        result = torch.zeros(len(quaternions) * p.n_k, len(order), dtype=spectrum.dtype)
        nearest = (k / self.step).floor().long()
        for offset in range(-self.reach, self.reach + 1):
            ring = nearest + offset
            distance = (ring + 0.5) * self.step - k
            weight = torch.exp(-0.5 * (distance / self.spot_radius) ** 2)
            inside = (ring >= 0) & (ring < p.n_k)
            index = (template * p.n_k + ring)[inside]
            result.index_add_(0, index, spectrum[inside] * weight[inside, None])
        return result.reshape(len(quaternions), p.n_k, -1)


def _normalised(spectrum, preprocessing: PolarPreprocessing) -> torch.Tensor:
    """Weight the rings, take away their mean, and normalise (..., n_k, n_phi // 2 + 1)."""
    p = preprocessing
    k = torch.arange(p.n_k, device=spectrum.device) + 0.5
    k = k * (p.reciprocal_radius / p.n_k)
    spectrum = spectrum * (k * (k > p.inner_radius))[:, None]
    spectrum[..., 0] = 0
    # Parseval: what stands for two frequencies counts twice
    twice = torch.full((spectrum.shape[-1],), 2.0, device=spectrum.device)
    twice[0] = 1
    if p.n_phi % 2 == 0:
        spectrum[..., -1] = spectrum[..., -1].real.to(spectrum.dtype)
        twice[-1] = 1
    square = (torch.view_as_real(spectrum).square().sum(-1) * twice).sum((-1, -2))
    return spectrum / square.sqrt().clamp_min(1e-20)[..., None, None]


def _best_angle(correlation) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Peak over the last axis by a parabola: value, angle (radians), value 180 degrees on."""
    n_phi = correlation.shape[-1]

    def at(index):
        return correlation.gather(-1, (index % n_phi)[..., None])[..., 0]

    middle, index = correlation.max(-1)
    before, after = at(index - 1), at(index + 1)
    shift = 0.5 * (before - after) / (before - 2 * middle + after).clamp_max(-1e-12)
    shift = shift.clamp(-0.5, 0.5)
    value = middle - 0.25 * (before - after) * shift
    twin = at(index + n_phi // 2) if n_phi % 2 == 0 else torch.full_like(value, -1)
    return value, (index + shift) * (2 * math.pi / n_phi), twin


def _modes(score, rotation, index, phase, operations, n_best: int) -> Match:
    """Pick separated modes from candidates (n, m), and say how sure the first one is."""
    rows = torch.arange(len(score), device=score.device)
    left, picked, scores = score.clone(), [], []
    for _ in range(n_best):
        best = left.argmax(1)
        picked.append(best)
        scores.append(left[rows, best].clamp_min(0))
        same = phase == phase[rows, best][:, None]
        allowed = operations[phase[rows, best]]
        center = rotation[rows, best]
        near = same & _near(center, rotation, allowed)
        if len(picked) == 1:
            twin = rotate_in_plane(center, torch.full_like(center[:, 0], math.pi))
            alike = near | (same & _near(twin, rotation, allowed))
            second = left.masked_fill(alike, -math.inf).amax(1).clamp_min(0)
        left = left.masked_fill(near, -math.inf)
    picked, scores = torch.stack(picked, 1), torch.stack(scores, 1)
    found = scores > 0
    phases = phase.gather(1, picked)
    phases[:, 0] = torch.where(found[:, 0], phases[:, 0], -1)
    reliability = 1 - second / scores[:, 0].clamp_min(1e-12)
    return Match(
        rotations=rotation.gather(1, picked[..., None].expand(-1, -1, 4)),
        scores=scores,
        simulation_indices=torch.where(found, index.gather(1, picked), -1),
        phase_index=phases,
        reliability=torch.where(found[:, 0], reliability, 0.0),
    )


def _near(a, b, operations) -> torch.Tensor:
    """Tell which of the orientations b (n, t, 4) are one mode with a (n, 4)."""
    equivalent = multiply(operations, a[:, None, :])  # (n, m, 4)
    cosine = torch.bmm(equivalent, b.transpose(1, 2)).abs().amax(1)
    return cosine > math.cos(math.radians(_MODE_DISTANCE) / 2)


def _padded_operations(phases) -> torch.Tensor:
    """Symmetry operations of all phases (phases, m, 4), filled up with the identity."""
    operations = [proper_operations(phase) for phase in phases]
    padded = torch.zeros(len(phases), max(map(len, operations)), 4)
    padded[..., 0] = 1
    for row, each in zip(padded, operations, strict=True):
        row[: len(each)] = each
    return padded
