"""How good are orientations, with truth and without."""

from pyxem_dl.metrics.orientations import (
    Accuracy,
    ReliabilityCurve,
    accuracy,
    disorientation,
    misindexing_rate,
    neighbour_disorientation,
    reliability_curve,
)
from pyxem_dl.metrics.spots import ExplainedPeaks, explained_peaks, find_peaks, fit_distortion

__all__ = [
    "Accuracy",
    "ExplainedPeaks",
    "ReliabilityCurve",
    "accuracy",
    "disorientation",
    "explained_peaks",
    "find_peaks",
    "fit_distortion",
    "misindexing_rate",
    "neighbour_disorientation",
    "reliability_curve",
]
