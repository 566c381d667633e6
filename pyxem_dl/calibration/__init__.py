"""A scan calibrates itself: scale, ellipse and centre from the patterns of a crystal that is known."""

from pyxem_dl.calibration.finding import calibrate, calibrated_or_not, find_calibration, with_calibration
from pyxem_dl.calibration.result import FoundCalibration

__all__ = ["FoundCalibration", "calibrate", "calibrated_or_not", "find_calibration", "with_calibration"]
