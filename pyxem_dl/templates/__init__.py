"""Simulated patterns of all zone axes, and what is found by comparing patterns with them."""

from pyxem_dl.templates.bank import TemplateBank, polar_grid
from pyxem_dl.templates.modes import MODE_DISTANCE, Match, separate_modes

__all__ = ["MODE_DISTANCE", "Match", "TemplateBank", "polar_grid", "separate_modes"]
