"""Spectra of windows of an image, as networks see them: logarithm of power over noise, by frequency and angle."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional

# Side of the padded windows in pixels, of the spectra
_PADDED = 128
# Spatial frequencies (Å⁻¹) from which the noise is told, where pixels are small enough, and the share of the highest
# one that they begin at elsewhere; what one exponentially distributed power exceeds in half of the cases
_NOISE_FROM, _NOISE_SHARE, _MEDIAN = 1.55, 0.86, math.log(2)
#: Pixels in Å of windows
SMALLEST_PIXEL, LARGEST_PIXEL = 0.14, 0.34


@dataclass(frozen=True)
class SpectrumGrid:
    """Spatial frequencies and angles of a spectrum.

    Parameters
    ----------
    window : float
        Side of the windows in Å.
    k_range : tuple of float
        Smallest and largest spatial frequency in Å⁻¹.
    n_k, n_phi : int
        How many of them; angles cover half a circle, counter-clockwise from x with y up.
    """

    window: float = 12.0
    k_range: tuple[float, float] = (0.16, 1.45)
    n_k: int = 28
    n_phi: int = 48

    def __call__(self, windows: torch.Tensor, pixel: torch.Tensor) -> torch.Tensor:
        """Spectra of windows.

        Parameters
        ----------
        windows : tensor, shape (n, size, size)
            Grey values; what is farther than half the window from the middle does not count.
        pixel : tensor, shape (n,)
            Sizes of the pixels in Å.

        Returns
        -------
        tensor, shape (n, 1, n_k, n_phi)
            log(1 + power / noise).
        """
        size = windows.shape[-1]
        x = torch.arange(size, device=windows.device) - (size - 1) / 2
        weight = torch.cos((x * pixel[:, None] * (math.pi / self.window)).clamp(-math.pi / 2, math.pi / 2)) ** 2
        weight = weight[:, :, None] * weight[:, None, :]
        mean = (windows * weight).sum((1, 2), keepdim=True) / weight.sum((1, 2), keepdim=True)
        power = torch.fft.rfft2((windows - mean) * weight, s=(_PADDED, _PADDED)).abs().square()
        # rows from the lowest frequency up
        power = torch.fft.fftshift(power, dim=1)
        return torch.log1p(self._polar(power, pixel) / noise_power(power, pixel)[:, None, None, None])

    def _polar(self, power: torch.Tensor, pixel: torch.Tensor) -> torch.Tensor:
        k = torch.linspace(*self.k_range, self.n_k, device=power.device)
        phi = torch.arange(self.n_phi, device=power.device) * (math.pi / self.n_phi) - math.pi / 2
        # of the half plane with kx >= 0; rows run down, y up
        along_x, along_y = k[:, None] * phi.cos(), -k[:, None] * phi.sin()
        n = _PADDED
        column = along_x * pixel[:, None, None] * n
        row = along_y * pixel[:, None, None] * n + n // 2
        at = torch.stack([(2 * column + 1) / power.shape[2] - 1, (2 * row + 1) / n - 1], -1)
        found = functional.grid_sample(power[:, None], at, mode="bilinear", align_corners=False)
        # the first angle is 0
        return found.roll(-(self.n_phi // 2), 3)


def noise_power(power: torch.Tensor, pixel: torch.Tensor) -> torch.Tensor:
    """Power of the noise of windows, by the median of the highest frequencies.

    Parameters
    ----------
    power : tensor, shape (n, 128, 65)
        Of windows that were padded to 128 pixels; rows from the lowest frequency up.
    pixel : tensor, shape (n,)
        In Å.

    Returns
    -------
    tensor, shape (n,)
    """
    f = torch.fft.rfftfreq(_PADDED, device=power.device)
    rows = torch.fft.fftshift(torch.fft.fftfreq(_PADDED, device=power.device))
    k = torch.hypot(rows[:, None], f[None, :])
    edge = (pixel * _NOISE_FROM).clamp_max(0.5 * _NOISE_SHARE)[:, None, None]
    high = (k >= edge) & (k < 0.5)
    values = torch.where(high, power, torch.nan).flatten(1)
    return (values.nanmedian(1).values / _MEDIAN).clamp_min(1e-20)
