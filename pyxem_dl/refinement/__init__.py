"""Orientation and thickness from the intensities of spots, as Bloch waves give them."""

from pyxem_dl.refinement.fitting import Physics, Refined, Refiner
from pyxem_dl.refinement.refine import refine_orientation

__all__ = ["Physics", "Refined", "Refiner", "refine_orientation"]
