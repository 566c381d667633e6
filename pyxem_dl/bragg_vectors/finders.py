"""What finds the disks of a batch: small objects that go to other processes with what they need, and no signal."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pyxem_dl.bragg_vectors.matcher import DiskMatcher
from pyxem_dl.models import BraggModel
from pyxem_dl.probes import Probe


@dataclass(eq=False)
class CorrelationFinder:
    """Finds disks by correlation.

    Parameters
    ----------
    matcher : DiskMatcher
        For patterns in electrons.
    gain : float
        What the detector writes for an electron.
    """

    matcher: DiskMatcher
    gain: float

    def __call__(self, patterns: torch.Tensor):
        """Row and column (n, m) in pixels, further columns, and which of them are there."""
        maxima, intensity = self.matcher(patterns / self.gain)
        return maxima.row, maxima.column, (intensity * self.gain, maxima.value), maxima.valid


@dataclass(eq=False)
class DetectionFinder:
    """Finds disks with a network.

    Parameters
    ----------
    model : BraggModel
        The detector.
    probe : Probe
        What a disk looks like.
    signal_mask : tensor of bool, shape (rows, columns), or None
        True where the detector is excluded.
    gain : float
        What the detector writes for an electron.
    scale : float
        Of a pixel in 1/Angstrom.
    max_peaks, n_samples : int
        As in ``predict_bragg_vectors``.
    least : float
        Smallest confidence.
    """

    model: BraggModel
    probe: Probe
    signal_mask: torch.Tensor | None
    gain: float
    scale: float
    max_peaks: int
    n_samples: int
    least: float

    def __post_init__(self) -> None:
        self._image = self.probe.resampled(self.model.network.radius / self.probe.radius).image

    def __call__(self, patterns: torch.Tensor):
        """Row and column (n, m) in pixels, further columns, and which of them are there."""
        disks = self.model.predict_batch(
            patterns / self.gain, self._image, self.probe.radius, signal_mask=self.signal_mask,
            max_disks=self.max_peaks, n_samples=self.n_samples, least=0.999 * self.least,
        )  # fmt: skip
        extras = [disks.intensity * self.gain, disks.confidence, disks.position_error * self.scale]
        if self.n_samples:
            extras += [disks.position_variance * self.scale**2, disks.confidence_variance]
        return disks.row, disks.column, tuple(extras), disks.confidence > max(self.least, 0)
