"""What a whole map knows more than its patterns: neighbours settle doubtful positions, and make grains."""

from pyxem_dl.microstructure.boundaries import Boundaries
from pyxem_dl.microstructure.grains import Grains, grains, mean_orientations
from pyxem_dl.microstructure.settling import Change, settle

__all__ = ["Boundaries", "Change", "Grains", "grains", "mean_orientations", "settle"]
