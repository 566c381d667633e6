"""Patterns in the polar frame: radii and angles, whatever the detector."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import torch
from torch.nn import functional

from pyxem_dl.frames import Calibration, angle_before_turn, k_to_pixel, mirror_angle
from pyxem_dl.preprocessing.images import bin_pixels, normalised, rescaled, shift_to_center

# Sample points in a polar bin are at most this far apart, in pixels.
_SAMPLE_DISTANCE = 0.7
# Detectors with more pixels than this across a polar bin are binned before.
_FINE = 2.0
# A bin less covered by valid pixels than this counts as not measured.
_MINIMUM_COVERAGE = 0.3


@dataclass(frozen=True)
class PolarPreprocessing:
    """Resample patterns to (k, phi), compress and normalise their intensity.

    Parameters
    ----------
    reciprocal_radius : float
        Outer radius of the polar image in Å⁻¹; the inner one is 0.
    n_k, n_phi : int
        Number of bins along radius and angle; angle j is ``j * 360 / n_phi`` degrees,
        counter-clockwise from +kx.
    gamma : float
        Exponent of the intensity; 0.5 makes Poisson noise even.
    inner_radius : float
        In Å⁻¹; what lies inside is not used for normalisation (direct beam).
    clip : float
        Largest value after normalisation to a root mean square of 1 outside
        `inner_radius`.
    scale_factor : float
        The calibration's scale is multiplied by it: for a microscope whose scale and a model's are known to differ.
    """

    reciprocal_radius: float
    n_k: int = 64
    n_phi: int = 144
    gamma: float = 0.5
    inner_radius: float = 0.15
    clip: float = 8.0
    scale_factor: float = 1.0

    def to_dict(self) -> dict:
        """Plain numbers for ``config.json``."""
        return asdict(self)

    def reaching(self, reciprocal_radius: float) -> PolarPreprocessing:
        """Go to another radius, in Å⁻¹, with rings that are as wide."""
        n_k = 2 * round(self.n_k * reciprocal_radius / self.reciprocal_radius / 2)
        return replace(self, reciprocal_radius=float(reciprocal_radius), n_k=n_k)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one pattern in the network's input."""
        return self.channels, self.n_k, self.n_phi

    @property
    def channels(self) -> int:
        """Channels of the result: intensity and validity."""
        return 2

    def resample(
        self,
        patterns: torch.Tensor,
        calibration: Calibration,
        centers: torch.Tensor | None = None,
        signal_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Average the pixels in each polar bin.

        Parameters
        ----------
        patterns : tensor, shape (n, rows, columns)
            Intensities, floating point.
        calibration : Calibration
            Of the detector.
        centers : tensor, shape (n, 2), optional
            Direct beam (row, column) in pixels of each pattern, by default the calibration's.
        signal_mask : tensor of bool, shape (rows, columns), optional
            True where the detector is excluded.

        Returns
        -------
        polar : tensor, shape (n, n_k, n_phi)
            Mean intensity per pixel, 0 where not measured.
        valid : tensor of bool, shape (n, n_k, n_phi) or (1, n_k, n_phi)
            Where the bin was measured.
        """
        n = len(patterns)
        calibration = rescaled(calibration, self.scale_factor)
        patterns = patterns.float()
        weights = None
        if signal_mask is not None:
            weights = (~signal_mask).to(patterns)[None]
            patterns = patterns * weights
        factor = int(self.reciprocal_radius / self.n_k / max(calibration.scale) / _FINE)
        if factor > 1:
            patterns, weights, centers, calibration = bin_pixels(
                factor, patterns, weights, centers, calibration
            )
        if centers is not None:
            if weights is not None:
                weights = shift_to_center(weights.expand(n, -1, -1), centers, calibration)
            else:
                weights = shift_to_center(torch.ones_like(patterns), centers, calibration)
            patterns = shift_to_center(patterns, centers, calibration)
        # MPS has no weighted bags: there the averages are taken on the CPU
        device = "cpu" if patterns.device.type == "mps" else str(patterns.device)
        bins, coverage = _bins(self.reciprocal_radius, self.n_k, self.n_phi, calibration, device)
        shape = (-1, self.n_k, self.n_phi)
        polar = _average(bins, patterns).reshape(shape)
        coverage = coverage.to(patterns.device) if weights is None else _average(bins, weights)
        coverage = coverage.reshape(shape)
        valid = coverage > _MINIMUM_COVERAGE
        return polar.mul_(torch.where(valid, 1 / coverage, 0.0)), valid

    def __call__(
        self,
        patterns: torch.Tensor,
        calibration: Calibration,
        centers: torch.Tensor | None = None,
        signal_mask: torch.Tensor | None = None,
        *,
        turn: torch.Tensor | None = None,
        mirrored: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Make the network's input in one piece.

        Parameters
        ----------
        patterns, calibration, centers, signal_mask
            Those of :meth:`resample`.
        turn : tensor, shape (n,), optional
            Angles in radians by which each pattern is turned about the beam, counter-clockwise, rounded to
            :attr:`turn_step`.
        mirrored : tensor of bool, shape (n,), optional
            Which patterns are mirrored, as :func:`pyxem_dl.frames.mirror` does, before they are turned.

        Returns
        -------
        tensor, shape (n, 2, n_k, n_phi)
            The :meth:`channels_of` the patterns.
        """
        intensity, valid = self.channels_of(patterns, calibration, centers, signal_mask, turn=turn, mirrored=mirrored)
        return torch.stack([intensity, valid.expand_as(intensity)], dim=1)

    def channels_of(
        self,
        patterns: torch.Tensor,
        calibration: Calibration,
        centers: torch.Tensor | None = None,
        signal_mask: torch.Tensor | None = None,
        *,
        turn: torch.Tensor | None = None,
        mirrored: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Make the network's input, its channels apart: what all patterns share is there once.

        Parameters
        ----------
        patterns, calibration, centers, signal_mask, turn, mirrored
            As for a call.

        Returns
        -------
        intensity : tensor, shape (n, n_k, n_phi)
            Normalised.
        valid : tensor, shape (n, n_k, n_phi) or (1, n_k, n_phi)
            1 where the bin was measured, else 0.
        """
        polar, valid = self.resample(patterns, calibration, centers, signal_mask)
        if turn is not None or mirrored is not None:
            polar, valid = (self._turned(x.expand(len(polar), -1, -1), turn, mirrored) for x in (polar, valid))
        valid = valid.to(polar)
        outer = self.is_outside(polar.device)
        return normalised(polar, valid * outer[:, None], self.gamma, self.clip), valid

    def counted(
        self,
        patterns: torch.Tensor,
        calibration: Calibration,
        centers: torch.Tensor | None = None,
        signal_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Make the input of a network that knows how many electrons it sees.

        Parameters
        ----------
        patterns : tensor, shape (n, rows, columns)
            In electrons.
        calibration, centers, signal_mask
            As for :meth:`resample`.

        Returns
        -------
        polar : tensor, shape (n, n_k, n_phi)
            Mean electrons per pixel.
        valid : tensor, shape (n, n_k, n_phi) or (1, n_k, n_phi)
            1 where the bin was measured, else 0.
        intensity : tensor, shape (n, n_k, n_phi)
            Normalised.
        pixels : tensor, shape (n_k,)
            Of the detector in a bin of each ring.
        """
        polar, valid = self.resample(patterns, calibration, centers, signal_mask)
        valid = valid.to(polar)
        step = self.reciprocal_radius / self.n_k
        area = self._radii(polar.device) * (step * 2 * math.pi / self.n_phi)
        pixels = area / rescaled(calibration, self.scale_factor).pixel_area
        outer = self.is_outside(polar.device)
        return polar, valid, normalised(polar, valid * outer[:, None], self.gamma, self.clip), pixels

    def _radii(self, device) -> torch.Tensor:
        """Radii (n_k,) in Å⁻¹ of the middles of rings."""
        return (torch.arange(self.n_k, device=device) + 0.5) * (self.reciprocal_radius / self.n_k)

    def is_outside(self, device) -> torch.Tensor:
        """1 for rings outside of `inner_radius`, else 0: (n_k,)."""
        return (self._radii(device) > self.inner_radius).float()

    @property
    def turn_step(self) -> float:
        """Patterns are turned by multiples of this angle, in radians."""
        return 2 * math.pi / self.n_phi

    def _turned(self, polar, turn, mirrored) -> torch.Tensor:
        """Take from a pattern (n, n_k, n_phi) what is at the places of the turned and mirrored one."""
        angle = torch.arange(self.n_phi, device=polar.device).expand(len(polar), -1)
        if turn is not None:
            angle = angle_before_turn(angle, (turn / self.turn_step).round().long()[:, None])
        if mirrored is not None:
            angle = torch.where(mirrored[:, None], mirror_angle(angle), angle)
        return polar.gather(2, (angle % self.n_phi)[:, None].expand_as(polar))


class _Bins(NamedTuple):
    """A sparse matrix that averages pixels over bins, by rows: bin i is made of the numbers from ``start[i]`` on."""

    pixel: torch.Tensor
    weight: torch.Tensor
    start: torch.Tensor

    def to(self, device: str) -> _Bins:
        """Move it to a device."""
        return _Bins(*(x.to(device) for x in self))


def _average(bins: _Bins, images: torch.Tensor) -> torch.Tensor:
    """Average images (n, rows, columns) over bins: (n, bins)."""
    pixels = images.float().flatten(1).to(bins.pixel.device).T.contiguous()
    # the same as a product with a sparse matrix, in a quarter of the time
    averages = functional.embedding_bag(bins.pixel, pixels, bins.start, mode="sum", per_sample_weights=bins.weight)
    return averages.T.contiguous().to(images.device)


@lru_cache(maxsize=256)
def _bins(radius, n_k, n_phi, calibration: Calibration, device: str) -> tuple[_Bins, torch.Tensor]:
    """Bins of a polar pattern on a detector, and how much of each (bins) the detector covers."""
    bins = _make_bins(radius, n_k, n_phi, calibration)
    coverage = _average(bins, torch.ones(1, *calibration.shape))[0]
    return bins.to(device), coverage.to(device)


def _make_bins(radius, n_k, n_phi, calibration: Calibration) -> _Bins:
    """Weigh the pixels of a detector for each bin (k, phi), the angles of a radius one after the other.

    Each bin holds a grid of sample points, each read by bilinear interpolation.  Along the
    angle the points are weighted by a tent that reaches to the neighbouring bins' centres,
    so that a spot between two bins is seen by both and its angle is not lost.
    """
    step_k, step_phi = radius / n_k, 2 * math.pi / n_phi
    pixel = min(calibration.scale)
    m_k = max(1, math.ceil(step_k / pixel / _SAMPLE_DISTANCE))
    m_phi = max(2, math.ceil(2 * radius * step_phi / pixel / _SAMPLE_DISTANCE))
    sub_k = (torch.arange(m_k, dtype=torch.float64) + 0.5) / m_k
    sub_phi = (torch.arange(m_phi, dtype=torch.float64) + 0.5) / m_phi * 2 - 1
    k = (torch.arange(n_k, dtype=torch.float64)[:, None] + sub_k) * step_k
    phi = (torch.arange(n_phi, dtype=torch.float64)[:, None] + sub_phi) * step_phi
    tent = (1 - sub_phi.abs()) / (1 - sub_phi.abs()).sum() / m_k
    k = k[:, None, :, None]
    phi = phi[None, :, None, :]
    row, column = k_to_pixel(k * phi.cos(), k * phi.sin(), calibration)
    weight = tent.expand(n_k, n_phi, m_k, m_phi)
    bins = torch.arange(n_k * n_phi).reshape(n_k, n_phi, 1, 1).expand_as(weight)
    rows, columns = calibration.shape
    r0, c0 = row.floor(), column.floor()
    entries = []
    for dr in (0, 1):
        for dc in (0, 1):
            share = (1 - (row - r0 - dr).abs()) * (1 - (column - c0 - dc).abs())
            r, c = (r0 + dr).long(), (c0 + dc).long()
            inside = (r >= 0) & (r < rows) & (c >= 0) & (c < columns) & (share > 0)
            entries.append(
                (bins[inside], (r * columns + c)[inside], (share * weight)[inside])
            )
    index = torch.stack([torch.cat([e[0] for e in entries]), torch.cat([e[1] for e in entries])])
    value = torch.cat([e[2] for e in entries]).float()
    shape = (n_k * n_phi, rows * columns)
    matrix = torch.sparse_coo_tensor(index, value, shape, check_invariants=False).coalesce()
    row, pixel = matrix.indices()
    n_entries = torch.bincount(row, minlength=shape[0])
    return _Bins(pixel.int(), matrix.values(), (n_entries.cumsum(0) - n_entries).int())
