"""What finds the disks of a batch: small objects that go to other processes with what they need, and no signal."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pyxem_dl.electrons import potential_per_radian
from pyxem_dl.frames import Calibration, out_of_plane, pixel_to_k
from pyxem_dl.models import BraggModel, SentModel
from pyxem_dl.networks.fcunet import Disks
from pyxem_dl.patterns.correlation import soft_disk
from pyxem_dl.patterns.matcher import DiskMatcher
from pyxem_dl.patterns.probes import Probe
from pyxem_dl.preprocessing import in_electrons

# A direct beam is hidden if so much of it is masked; beside thin crystals it holds so many times what they scatter
_HIDDEN, _BEAM_SHARE = 0.5, 10.0


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

    #: Patterns that a core computes at once, and after which results are kept
    micro_batch, keep_every = DiskMatcher.micro_batch, 1024

    def to(self, device: torch.device) -> None:
        """Get ready on a device."""
        self.matcher.to(device)

    def __call__(self, patterns: torch.Tensor, centers: torch.Tensor | None = None):
        """Row and column (n, m) in pixels, further columns, and which of them are there."""
        maxima, intensity = self.matcher(in_electrons(patterns, self.gain))
        return maxima.row, maxima.column, (intensity * self.gain, maxima.value), maxima.valid


@dataclass(frozen=True)
class ReciprocalSpace:
    """What excitation errors and potentials are told in.

    Parameters
    ----------
    calibration : Calibration
        Of the scan.  Without a beam energy neither is known.
    """

    calibration: Calibration

    #: Of the columns that :meth:`columns` gives
    NAMES = ("v_g", "v_g_error", "q_z", "q_z_error")

    def half_range(self, radius: float) -> float:
        """Half range of the excitation error in a disk (radius in px), in Å⁻¹ for each px from the direct beam."""
        if self.calibration.beam_energy is None:
            return math.nan
        rows, columns = self.calibration.scale
        return self.calibration.wavelength * radius * rows * columns

    def columns(self, disks: Disks, centers: torch.Tensor) -> list[torch.Tensor]:
        """V_g x thickness in V Å, out-of-plane components in Å⁻¹, and their errors: tensors (n, m)."""
        if self.calibration.beam_energy is None:
            return [torch.full_like(disks.row, math.nan)] * 4
        volts = potential_per_radian(self.calibration.beam_energy)
        row, column = centers.to(disks.row).expand(len(disks.row), 2).unbind(1)
        kx, ky = pixel_to_k(disks.row, disks.column, self.calibration, center=(row[:, None], column[:, None]))
        q_z = out_of_plane(kx, ky, disks.excitation_error, self.calibration.wavelength)
        return [disks.phase * volts, disks.phase_error * volts, q_z, disks.excitation_error_error]


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
        Of a pixel in the unit of the signal axes, as positions are told.
    max_peaks, n_samples : int
        As in ``predict_bragg_vectors``.
    least : float
        Smallest confidence.
    center : tuple of float
        Of the direct beam, (row, column) in pixels.  Where it is masked an ideal one is put in its place for the
        network, which sees all disks beside it and has learnt no pattern without: it would find twice as many that
        are none.
    optics : ReciprocalSpace
        What makes volts and Å⁻¹ of what the network reads.
    """

    model: BraggModel
    probe: Probe
    signal_mask: torch.Tensor | None
    gain: float
    scale: float
    max_peaks: int
    n_samples: int
    least: float
    center: tuple[float, float]
    optics: ReciprocalSpace

    #: Patterns that a core computes at once
    micro_batch = BraggModel.micro_batch

    @property
    def keep_every(self) -> int:
        """Patterns after which results are kept."""
        return max(self.micro_batch, 1024 // max(1, self.n_samples))

    def __getstate__(self) -> dict:
        # bundled models go by name and hash, so that no weights travel
        return self.__dict__ | {"model": SentModel.of(self.model)}

    def to(self, device: torch.device) -> None:
        """Get ready on a device."""
        if isinstance(self.model, SentModel):
            self.model = self.model.load()
        self.model.to(device)
        self._image, self._center = self._image.to(device), self._center.to(device)
        if self.signal_mask is not None:
            self.signal_mask = self.signal_mask.to(device)
        if self._hidden is not None:
            self._hidden = self._hidden.to(device)

    def __post_init__(self) -> None:
        self._image = self.probe.resampled(self.model.network.radius / self.probe.radius).image
        self._center = torch.tensor(self.optics.calibration.center, dtype=torch.float32)
        self._hidden = self._hidden_beam()

    def _hidden_beam(self) -> torch.Tensor | None:
        """Direct beam (rows, columns) with the sum 1, where it is masked; None where the most of it is seen."""
        if self.signal_mask is None:
            return None
        row, column = (torch.arange(n, dtype=torch.float32) for n in self.signal_mask.shape)
        away = torch.hypot(row[:, None] - self.center[0], column[None] - self.center[1])
        disk = soft_disk(away, self.probe.radius)
        hidden = disk * self.signal_mask
        if float(hidden.sum()) < _HIDDEN * max(float(disk.sum()), 1e-6):
            return None
        return hidden / hidden.sum()

    def _with_beam(self, patterns: torch.Tensor) -> torch.Tensor:
        """Patterns with a direct beam where one is masked."""
        if self._hidden is None:
            return patterns
        hidden, mask = self._hidden, self.signal_mask
        seen = torch.where(mask, 0, patterns)
        return torch.where(mask, _BEAM_SHARE * seen.clamp_min(0).sum((1, 2), keepdim=True) * hidden, patterns)

    def __call__(self, patterns: torch.Tensor, centers: torch.Tensor | None = None):
        """Row and column (n, m) in pixels, further columns, and which of them are there.

        Parameters
        ----------
        patterns : tensor, shape (n, rows, columns)
            Intensities.
        centers : tensor, shape (n, 2), optional
            Direct beams in px, where they are not all at the calibration's.
        """
        centers = self._center if centers is None else centers
        disks = self.model.predict_batch(
            self._with_beam(in_electrons(patterns, self.gain)), self._image, self.probe.radius,
            signal_mask=self.signal_mask, filled=self._hidden is not None,
            max_disks=self.max_peaks, n_samples=self.n_samples, least=0.999 * self.least,
            center=centers, half_range=self.optics.half_range(self.probe.radius),
        )  # fmt: skip
        extras = [disks.intensity * self.gain, disks.confidence, disks.position_error * self.scale]
        extras += self.optics.columns(disks, centers)
        if self.n_samples:
            extras += [disks.position_variance * self.scale**2, disks.confidence_variance]
        return disks.row, disks.column, tuple(extras), disks.confidence > max(self.least, 0)
