"""How good are orientations and Bragg disks, with truth and without."""

from pyxem_dl.metrics.disks import DiskScore, match_points, score_disks
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
    "Accuracy", "DiskScore", "ExplainedPeaks", "ReliabilityCurve", "accuracy", "disorientation", "explained_peaks",
    "find_peaks", "fit_distortion", "match_points", "misindexing_rate", "neighbour_disorientation",
    "reliability_curve", "score_disks",
]  # fmt: skip
