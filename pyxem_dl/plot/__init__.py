"""Pictures of results: orientation maps with their keys, comparisons, patterns with simulated spots, strain, curves.

Every function but `markers` returns a matplotlib figure that belongs to no window, so that it can be shown in a
notebook and saved in a script alike; `markers` makes HyperSpy markers for ``s.plot()``.
"""

from pyxem_dl.plot.curves import reliability_diagram, selection_curves
from pyxem_dl.plot.grains import grain_map
from pyxem_dl.plot.maps import (
    NOT_INDEXED,
    disorientation_map,
    orientation_map,
    patterns_with_spots,
    property_map,
    spread_positions,
    virtual_image,
)
from pyxem_dl.plot.markers import markers
from pyxem_dl.plot.strain import strain_map

__all__ = [
    "NOT_INDEXED", "disorientation_map", "grain_map", "markers", "orientation_map", "patterns_with_spots",
    "property_map", "reliability_diagram", "selection_curves", "spread_positions", "strain_map", "virtual_image",
]  # fmt: skip
