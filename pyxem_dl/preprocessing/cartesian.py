"""Patterns as square images of one size and scale, whatever the detector: what image networks take."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch.nn import functional

from pyxem_dl.frames import Calibration, before_turn, k_to_pixel, mirror, pixel_to_k
from pyxem_dl.preprocessing.images import bin_pixels, normalised, rescaled


@dataclass(frozen=True)
class CartesianPreprocessing:
    """Resample patterns to a square about the direct beam, compress and normalise their intensity.

    Parameters
    ----------
    reciprocal_radius : float
        From the direct beam to the sides of the square, in Å⁻¹.
    size : int
        Pixels along each side.
    gamma : float
        Exponent of the intensity; 0.5 makes Poisson noise even.
    inner_radius : float
        In Å⁻¹; what lies inside is not used for normalisation (direct beam).
    clip : float
        Largest value after normalisation to a root mean square of 1 outside `inner_radius`.
    scale_factor : float
        The calibration's scale is multiplied by it: for a microscope whose scale and a model's are known to differ.
    """

    reciprocal_radius: float
    size: int = 128
    gamma: float = 0.5
    inner_radius: float = 0.15
    clip: float = 8.0
    scale_factor: float = 1.0

    #: Patterns can be turned by any angle.
    turn_step = 0.0
    #: Intensity alone
    channels = 1

    def to_dict(self) -> dict:
        """Plain numbers for ``config.json``."""
        return asdict(self)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one pattern in the network's input."""
        return self.channels, self.size, self.size

    @property
    def scale(self) -> float:
        """Size of a pixel in Å⁻¹."""
        return 2 * self.reciprocal_radius / self.size

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
        """Make the network's input.

        Parameters
        ----------
        patterns : tensor, shape (n, rows, columns)
            Intensities, floating point.
        calibration : Calibration
            Of the detector.
        centers : tensor, shape (n, 2), optional
            Direct beam (row, column) in pixels of each pattern, by default the calibration's.
        signal_mask : tensor of bool, shape (rows, columns), optional
            True where the detector is excluded: 0 in the result.
        turn : tensor, shape (n,), optional
            Angles in radians by which each pattern is turned about the beam, counter-clockwise.
        mirrored : tensor of bool, shape (n,), optional
            Which patterns are mirrored, as :func:`pyxem_dl.frames.mirror` does, before they are turned.

        Returns
        -------
        tensor, shape (n, 1, size, size)
            Normalised intensity; what was not measured is 0.
        """
        calibration = rescaled(calibration, self.scale_factor)
        patterns = patterns.float()
        weights = torch.ones_like(patterns[:1]) if signal_mask is None else (~signal_mask).to(patterns)[None]
        patterns = patterns * weights
        factor = int(self.scale / max(calibration.scale))
        if factor > 1:
            patterns, weights, centers, calibration = bin_pixels(factor, patterns, weights, centers, calibration)
        grid = self._places(calibration, centers, turn, mirrored, patterns.device)
        fineness = grid.shape[1] // self.size

        def sampled(images):
            places = grid.expand(len(images), -1, -1, -1)
            found = functional.grid_sample(images[:, None], places, align_corners=True)
            return functional.avg_pool2d(found, fineness)[:, 0]

        if len(grid) > 1:
            weights = weights.expand_as(patterns)
        images, coverage = sampled(patterns), sampled(weights)
        x, y = pixel_to_k(*self._pixels(1, images.device), self._calibration(1))
        outside = torch.hypot(x, y) > self.inner_radius
        measured = coverage > 0.5
        images = torch.where(measured, images / coverage.clamp_min(0.5), 0.0)
        return normalised(images, (measured & outside).to(images), self.gamma, self.clip)[:, None]

    def _calibration(self, fineness: int) -> Calibration:
        """Of the square, each of its pixels divided into `fineness` along each side."""
        size = self.size * fineness
        return Calibration((self.scale / fineness,) * 2, ((size - 1) / 2,) * 2, (size, size))

    def _pixels(self, fineness: int, device):
        n = torch.arange(self.size * fineness, device=device, dtype=torch.float32)
        return n[:, None], n[None, :]

    def _places(self, calibration: Calibration, centers, turn, mirrored, device) -> torch.Tensor:
        """Where the square's pixels are on the detector, as ``grid_sample`` has it: (n or 1, rows, columns, 2)."""
        # no pixel of the detector may fall between two sample points
        fineness = max(1, math.ceil(self.scale / min(calibration.scale) - 0.01))
        kx, ky = pixel_to_k(*self._pixels(fineness, device), self._calibration(fineness))
        if turn is not None:
            kx, ky = before_turn(kx, ky, turn[:, None, None])
        if mirrored is not None:
            other_x, other_y = mirror(kx, ky)
            chosen = mirrored[:, None, None]
            kx, ky = torch.where(chosen, other_x, kx), torch.where(chosen, other_y, ky)
        row, column = k_to_pixel(kx, ky, calibration)
        if centers is not None:
            down, right = (centers.to(row)[:, i, None, None] - calibration.center[i] for i in (0, 1))
            row, column = row + down, column + right
        rows, columns = calibration.shape
        row, column = torch.broadcast_tensors(row, column)
        grid = torch.stack([2 * column / (columns - 1) - 1, 2 * row / (rows - 1) - 1], dim=-1)
        return grid if grid.ndim == 4 else grid[None]
