"""U-Nets between what the correlation layer sees and the heads of the disk detector."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from pyxem_dl.networks.folding import folded

# Pixels for one cell of the prediction
STRIDE = 2
# The networks halve so often: sizes are padded to a multiple of 2 to this power.
HALVINGS = 3


class UNet(nn.Module):
    """Real-valued, from half to eighth size and back; levels are added, not stacked.

    Parameters
    ----------
    n_channels : int
        Of the input.
    widths : tuple of int
        Channels at half, quarter and eighth size.
    dropout : float
        In the lowest level.
    """

    widths = (32, 48, 64)

    def __init__(self, n_channels: int, widths: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        w2, w4, w8 = widths
        # the pixels of a cell are channels: nothing is lost, and everything is done at half size
        self.down_2 = _Convolutions(n_channels * STRIDE**2, w2, w2)
        self.down_4 = _Convolutions(w2, w4, w4, stride=2)
        self.down_8 = _Convolutions(w4, w8, w8, stride=2)
        self.up_4 = _Joined(w8, w4)
        self.up_2 = _Joined(w4, w2)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, channels: torch.Tensor) -> torch.Tensor:
        """From (n, channels, rows, columns) to (n, widths[0], rows / 2, columns / 2)."""
        half = self.down_2(_cells_as_channels(channels))
        quarter = self.down_4(half)
        eighth = self.dropout(self.down_8(quarter))
        return self.up_2(half, self.up_4(quarter, eighth))


class FourierUNet(nn.Module):
    """Complex-valued, on the spectrum, as the FCU-Net was published (Munshi et al. 2022).

    Parameters
    ----------
    n_channels : int
        Of the input.
    widths : tuple of int
        Complex channels at half, quarter and eighth of the frequencies; the first is that of
        the prediction, too.
    dropout : float
        In the lowest level.
    """

    widths = (16, 24, 32)

    def __init__(self, n_channels: int, widths: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        w2, w4, w8 = widths
        self.down_2 = _Convolutions(n_channels, w2, w2, kind=_ComplexConvolution)
        self.down_4 = _Convolutions(w2, w4, w4, stride=2, kind=_ComplexConvolution)
        self.down_8 = _Convolutions(w4, w8, w8, stride=2, kind=_ComplexConvolution)
        self.up_4 = _Joined(w8, w4, kind=_ComplexConvolution)
        self.up_2 = _Joined(w4, w2, kind=_ComplexConvolution)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, channels: torch.Tensor) -> torch.Tensor:
        """From (n, channels, rows, columns) to (n, widths[0], rows / 2, columns / 2)."""
        rows, columns = (n // STRIDE for n in channels.shape[-2:])
        with torch.autocast(channels.device.type, enabled=False):
            spectrum = torch.fft.fftshift(torch.fft.fft2(channels.float(), norm="ortho"), dim=(-2, -1))
        # low frequencies are what half as many pixels can show
        spectrum = spectrum[..., rows // 2 : rows // 2 + rows, columns // 2 : columns // 2 + columns]
        half = self.down_2(torch.cat([spectrum.real, spectrum.imag], dim=1))
        quarter = self.down_4(half)
        eighth = self.dropout(self.down_8(quarter))
        real, imaginary = self.up_2(half, self.up_4(quarter, eighth)).float().chunk(2, dim=1)
        with torch.autocast(channels.device.type, enabled=False):
            spectrum = torch.fft.ifftshift(torch.complex(real, imaginary), dim=(-2, -1))
            return torch.fft.ifft2(spectrum, norm="ortho").real


def _cells_as_channels(x: torch.Tensor) -> torch.Tensor:
    """Do what ``pixel_unshuffle`` does, in the type and memory format of the convolutions, in a quarter of the time."""
    device = x.device.type
    x = x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x
    pixels = [(i, j) for i in range(STRIDE) for j in range(STRIDE)]
    channels = [channel[:, i::STRIDE, j::STRIDE] for channel in x.unbind(1) for i, j in pixels]
    return torch.stack(channels, dim=-1).permute(0, 3, 1, 2)


UNETS = {"real": UNet, "complex": FourierUNet}


class _ComplexConvolution(nn.Module):
    """Convolution of complex channels, real parts first and imaginary parts after them."""

    parts = 2

    def __init__(self, before: int, after: int, size: int, stride: int = 1, **settings) -> None:
        super().__init__()
        settings["bias"] = False
        self.real = nn.Conv2d(before, after, size, stride, **settings)
        self.imaginary = nn.Conv2d(before, after, size, stride, **settings)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.real.weight, self.imaginary.weight
        weight = torch.cat([torch.cat([a, -b], dim=1), torch.cat([b, a], dim=1)])
        return functional.conv2d(x, weight, None, self.real.stride, self.real.padding)


class _RealConvolution(nn.Conv2d):
    """The same for real channels."""

    parts = 1


class _Convolutions(nn.Sequential):
    """Convolutions of 3 x 3 px, the first with a stride."""

    def __init__(self, *widths: int, stride: int = 1, kind=_RealConvolution) -> None:
        layers = []
        for i, (before, after) in enumerate(zip(widths, widths[1:], strict=False)):
            layers += [
                kind(before, after, 3, stride if i == 0 else 1, padding=1, bias=False),
                nn.BatchNorm2d(kind.parts * after), nn.ReLU(inplace=True),
            ]  # fmt: skip
        super().__init__(*layers)
        self.can_fold = issubclass(kind, nn.Conv2d)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve, normalise and rectify, one layer after the other."""
        return folded(self)(x) if self.can_fold and not self.training else super().forward(x)


class _Joined(nn.Module):
    """Add what is known at the coarser level to what is seen at this one."""

    def __init__(self, coarse: int, width: int, kind=_RealConvolution) -> None:
        super().__init__()
        self.fitted = kind(coarse, width, 1)
        self.convolutions = _Convolutions(width, width, kind=kind)

    def forward(self, fine: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        doubled = functional.interpolate(self.fitted(coarse), scale_factor=2, mode="nearest")
        return self.convolutions(fine + doubled)
