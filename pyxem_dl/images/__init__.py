"""Images and image series: regions by local symmetry, structures by a network, lattices, phase fields that move."""

from pyxem_dl.images.classify import classify_structure
from pyxem_dl.images.lattice import map_lattice
from pyxem_dl.images.lattice_map import LatticeMap
from pyxem_dl.images.phase_field import PhaseFieldFit, fit_phase_field
from pyxem_dl.images.segmentation import get_symmetry_descriptors, segment_by_symmetry
from pyxem_dl.images.series import Images, check_images

__all__ = [
    "Images", "LatticeMap", "PhaseFieldFit", "check_images", "classify_structure", "fit_phase_field",
    "get_symmetry_descriptors", "map_lattice",
    "segment_by_symmetry",
]  # fmt: skip
