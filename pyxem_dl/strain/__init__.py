"""Strain of a scan from the lattice of each of its patterns."""

from pyxem_dl.strain.mapping import strain_map
from pyxem_dl.strain.result import Strain

__all__ = ["Strain", "strain_map"]
