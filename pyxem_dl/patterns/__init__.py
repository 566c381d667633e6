"""What is found in one pattern, by a network or without one: peaks, the probe, patches, correlation with the probe."""

from pyxem_dl.patterns.correlation import Correlation, CorrelationLayer
from pyxem_dl.patterns.matcher import DiskMatcher
from pyxem_dl.patterns.patches import PATCH_SIZE, cut_patches, in_blocks, places_to_look_at, squares
from pyxem_dl.patterns.peaks import Maxima, find_maxima
from pyxem_dl.patterns.probes import Probe, follow_edge

__all__ = [
    "PATCH_SIZE", "Correlation", "CorrelationLayer", "DiskMatcher", "Maxima", "Probe", "cut_patches", "find_maxima",
    "follow_edge", "in_blocks", "places_to_look_at", "squares",
]  # fmt: skip
