"""Images and image series: regions by local symmetry, structures by a network, phase fields that move."""

from pyxem_dl.images.classify import classify_structure
from pyxem_dl.images.phase_field import PhaseFieldFit, fit_phase_field
from pyxem_dl.images.segmentation import get_symmetry_descriptors, segment_by_symmetry
from pyxem_dl.images.series import Images, check_images

__all__ = [
    "Images", "PhaseFieldFit", "check_images", "classify_structure", "fit_phase_field", "get_symmetry_descriptors",
    "segment_by_symmetry",
]  # fmt: skip
