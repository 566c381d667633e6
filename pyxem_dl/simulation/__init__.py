"""Patterns made on the device from phases: scattering, disks, detector, background."""

from pyxem_dl.simulation.detector import Background, draw_spots, expected_background
from pyxem_dl.simulation.scattering import SHAPE_FACTORS, spot_intensity
from pyxem_dl.simulation.simulator import PatternSimulator, SimulatedPatterns, SimulationSettings

__all__ = [
    "SHAPE_FACTORS",
    "Background",
    "PatternSimulator",
    "SimulatedPatterns",
    "SimulationSettings",
    "draw_spots",
    "expected_background",
    "spot_intensity",
]
