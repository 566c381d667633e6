"""Setups of a simulated microscope: detector, beam and scattering, which many patterns share."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, groupby

import torch

from pyxem_dl.frames import Calibration
from pyxem_dl.rotations import matmul
from pyxem_dl.simulation.detector import Detectors, reach

#: Keys of the shape factors besides those of :data:`~pyxem_dl.simulation.SHAPE_FACTORS`: intensities by dynamical
#: theory, slice by slice and by Bloch waves
MANY_BEAM, BLOCH = "many_beam", "bloch"


@dataclass(frozen=True)
class SetupOptics:
    """What the patterns of one setup share."""

    calibration: Calibration
    shape_factor: str
    disk_radius: float
    blur: float
    precession_angle: float

    @property
    def is_resolved(self) -> bool:
        """Whether the insides of disks are seen."""
        return self.disk_radius > 1.2 * self.calibration.scale[0] and self.precession_angle == 0

    @property
    def is_dynamical(self) -> bool:
        """Whether intensities are those of dynamical theory."""
        return self.shape_factor in (MANY_BEAM, BLOCH)

    @property
    def scattering(self) -> tuple:
        """What says how reflections are excited."""
        return self.is_resolved, self.precession_angle, self.shape_factor


@dataclass(frozen=True)
class Setups:
    """What the patterns of each setup of one call share, one after the other, and the distortions of each pattern.

    The numbers of several setups are tensors (n, 1), those of a single one numbers.
    """

    detector: Calibration | Detectors
    optics: list[SetupOptics]
    counts: list[int]
    disk_radius: float | torch.Tensor
    blur: float | torch.Tensor
    distortion: torch.Tensor
    coma: torch.Tensor
    center_error: torch.Tensor

    def distort(self, kx, ky):
        """Where reflections land on the imperfect detector, in Å⁻¹."""
        k = matmul(torch.stack([kx, ky], -1), self.distortion.transpose(1, 2))
        k = k + self.coma[:, None] * (kx**2 + ky**2)[..., None]
        k = k + self.center_error[:, None]
        return k[..., 0], k[..., 1]

    @property
    def half(self) -> int:
        """How many pixels the largest disks reach to each side."""
        return max(reach(o.disk_radius / o.calibration.scale[1], o.blur) for o in self.optics)

    def each(self) -> list[tuple[SetupOptics, slice]]:
        """Each setup, and its patterns."""
        ends = list(accumulate(self.counts))
        return [(o, slice(end - n, end)) for o, n, end in zip(self.optics, self.counts, ends, strict=True)]

    def alike(self) -> list[tuple[SetupOptics, slice]]:
        """Setups that scatter alike, by the first of them, and their patterns."""
        groups = (list(group) for _, group in groupby(self.each(), key=lambda one: one[0].scattering))
        return [(group[0][0], slice(group[0][1].start, group[-1][1].stop)) for group in groups]

    def select(self, numbers: list[int], index: torch.Tensor) -> Setups:
        """Return the setups of some of the patterns, by their rising `numbers` and the same on the device."""

        def of(x):
            return x[index] if isinstance(x, torch.Tensor) else x

        detector = self.detector
        if isinstance(detector, Detectors):
            scale, center = (tuple(map(of, both)) for both in (detector.scale, detector.center))
            detector = detector._replace(scale=scale, center=center)
        counts = [sum(here.start <= i < here.stop for i in numbers) for _, here in self.each()]
        return Setups(
            detector, self.optics, counts, of(self.disk_radius), of(self.blur), of(self.distortion), of(self.coma),
            of(self.center_error),
        )  # fmt: skip
