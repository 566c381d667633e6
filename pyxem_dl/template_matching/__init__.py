"""Template matching, the baseline: orientations by comparison with simulated patterns.

Two engines return the same type as the network does: ours in torch, batched on the device,
which compares with every template at every angle, and pyxem's own, with its faults repaired.
"""

from pyxem_dl.template_matching.matching import match_templates
from pyxem_dl.template_matching.pyxem_engine import PyxemMatcher
from pyxem_dl.templates.bank import TemplateBank, polar_grid
from pyxem_dl.templates.modes import Match

__all__ = ["Match", "PyxemMatcher", "TemplateBank", "match_templates", "polar_grid"]
