"""Orientation and thickness from the intensities of spots, as Bloch waves give them."""

from pyxem_dl.refinement.fitting import Refined, Refiner

__all__ = ["Refined", "Refiner"]
