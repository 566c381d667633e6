"""pyxem's engine, with its scores kept and its faults repaired."""

from __future__ import annotations

import logging
import math
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from pyxem_dl.crystals import load_phases, reflections
from pyxem_dl.frames import Calibration, repair_pyxem_orientation
from pyxem_dl.preprocessing import shift_to_center, usable_patterns
from pyxem_dl.symmetry import laue_group, proper_operations, reduced_grid, setting, stack_operations
from pyxem_dl.templates.bank import check_size, polar_grid
from pyxem_dl.templates.modes import MODE_DISTANCE, Match, separate_modes

# Patterns that pyxem gets at once: it prepares grid and templates anew for each batch.
PYXEM_BATCH = 4096
_PYXEM_AZIMUTHS = 360


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
        In Å⁻¹.
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
        from orix.quaternion import Rotation
        from orix.sampling import get_sample_reduced_fundamental

        phases = load_phases(phases)
        check_size(phases, polar_grid(reciprocal_radius), resolution, max_excitation_error)
        simulations = []
        for phase in phases:
            reflections(phase, reciprocal_radius)  # its error, if there is none
            if setting(phase)[1:].any():
                # the half that pyxem's mirrored templates leave out is another one than orix'
                grid = Rotation(reduced_grid(phase, resolution).numpy())
            else:
                grid = get_sample_reduced_fundamental(
                    resolution, method="spherified_cube_edge", point_group=laue_group(phase)
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
        operations = stack_operations([proper_operations(phase) for phase in self.phases])
        return separate_modes(*candidates, operations, n_best)

    def _candidates(self, polar, i: int, n_best: int) -> tuple[torch.Tensor, ...]:
        """Score, rotation, template and phase of a phase's best templates."""
        simulation = self.simulations[i]
        # enough to find an orientation that is no neighbour of the best one
        n = math.ceil(4 * math.pi * (MODE_DISTANCE / self.resolution) ** 2) + 10 * n_best
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
