"""Bragg disks, by correlation or a trained detector: from a signal to pyxem's diffraction vectors."""

from pyxem_dl.bragg_vectors.correlation import match_disks
from pyxem_dl.bragg_vectors.detection import DEFAULT_MODEL, predict_bragg_vectors
from pyxem_dl.bragg_vectors.searching import read_probe
from pyxem_dl.bragg_vectors.to_file import bragg_vectors_to_file
from pyxem_dl.patterns.matcher import DiskMatcher
from pyxem_dl.results.py4dstem import to_py4dstem
from pyxem_dl.results.vector_files import check_vectors_path, save_vectors
from pyxem_dl.results.vectors import COLUMNS, to_diffraction_vectors

__all__ = [
    "COLUMNS", "DEFAULT_MODEL", "DiskMatcher", "bragg_vectors_to_file", "check_vectors_path", "match_disks",
    "predict_bragg_vectors", "read_probe", "save_vectors", "to_diffraction_vectors", "to_py4dstem",
]  # fmt: skip
