"""Results: crystal maps and their files, labels, separated orientations, predicted spots, and files for py4DSTEM."""

from pyxem_dl.results.calibrations import calibration_of
from pyxem_dl.results.labels import Labels, find_label_frame, in_lab_frame, read_labels, selection_curve
from pyxem_dl.results.map_files import check_map_path, copied_map, save_map, write_map
from pyxem_dl.results.maps import to_crystal_map
from pyxem_dl.results.py4dstem import to_py4dstem
from pyxem_dl.results.spots import PredictedSpots, predict_spots
from pyxem_dl.results.stored import convert_result, open_result
from pyxem_dl.results.vectors import calibrated_vectors
from pyxem_dl.templates.modes import Match, separate_modes

__all__ = [
    "Labels", "Match", "PredictedSpots", "calibrated_vectors", "calibration_of", "check_map_path", "convert_result",
    "copied_map", "find_label_frame", "in_lab_frame", "open_result", "predict_spots", "read_labels", "save_map",
    "selection_curve", "separate_modes", "to_crystal_map", "to_py4dstem", "write_map",
]  # fmt: skip
