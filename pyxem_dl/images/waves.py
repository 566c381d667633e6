"""The lattice of a window: the plane waves that an image is made of, at frequencies that need not lie on a grid.

All waves of a crystal have whole-numbered sums of two reciprocal vectors as frequencies.  The two vectors are sought at
which these waves, together, hold most of the window's power; where the noise is white this is the likeliest lattice.  A
search is begun by the logarithm of the power, to which each wave adds about as much as the others, and ended by the
power itself: measured, the logarithm's maximum is two to three times less precise, as faint waves then count like
strong ones.

Frequencies are in Å⁻¹ and places in Å, in the lab frame: x to the right, y up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from pyxem_dl.frames import after_turn, image_to_lab, lab_to_image
from pyxem_dl.networks.images.spectra import noise_power
from pyxem_dl.simulation.columns import ProjectedCrystal

# Waves that count: smallest and largest frequency in Å⁻¹, share of the strongest one's power
_SMALLEST, _LARGEST, _FAINTEST = 0.16, 1.25, 1e-3
#: Spacing in Å below which none counts
SHORTEST = 1 / _LARGEST
#: Side of the largest windows in Å
LARGEST_WINDOW = 40.0
# Side of the padded windows in pixels; degrees between the first tries, and their scales
_PADDED, _TURN, _SCALES = 128, 1.0, (0.96, 1.0, 1.04)
# Steps (of Newton's method, with the curvature that waves have at their maxima), and by how much of 1 / window a wave
# moves in each at most
_STEPS, _FURTHEST = 8, 0.45
# What is not on the lattice has frequencies up to about this, in Å⁻¹
_DISORDER = 0.55
# Scales that are tried for a known crystal: how many, and how far from 1
_TRIED, _WIDEST = 23, 0.088
# Rings of frequencies (Å⁻¹) in which the background of peaks is told, by a low quantile: peaks fill the rest
_RING, _QUANTILE = 0.13, 0.3
# Peaks that may be the shortest ones of an unknown lattice: power over noise, over the highest one; how many; least
# angle between two of them (sine); orders of their waves; and what a wave adds by chance to the logarithm of the power
_PEAK, _OF_HIGHEST, _MOST_PEAKS, _APART, _ORDERS, _CHANCE = 12.0, 0.01, 6, 0.25, 5, 1.0


class Fitted(NamedTuple):
    """Lattices of windows.

    ``reciprocal (n, 2, 2)``: two vectors as rows, in Å⁻¹; ``covariance (n, 2, 2)`` of the two, the same
    along x and y, which are independent;
    ``score (n,)``: share of the window's variance, less its noise, that the waves have; ``evidence (n,)``: standard
    deviations by which the waves' power exceeds what chance makes of as many.
    """

    reciprocal: torch.Tensor
    covariance: torch.Tensor
    score: torch.Tensor
    evidence: torch.Tensor


@dataclass(frozen=True, eq=False)
class Waves:
    """Which waves a lattice may have.

    Parameters
    ----------
    orders : array of int, shape (m, 2)
        Of each wave, in two reciprocal vectors; of a wave and its opposite only one.
    reciprocal : array, shape (2, 2), or None
        The two vectors of the crystal as it lies at an angle of 0, as rows; None of an unknown lattice.
    fold : int
        The spectrum looks the same after so many parts of a turn.
    """

    orders: np.ndarray
    reciprocal: np.ndarray | None = None
    fold: int = 2

    @classmethod
    def of_crystal(cls, crystal: ProjectedCrystal) -> Waves:
        """Waves that a crystal's columns make."""
        reciprocal = np.linalg.inv(crystal.basis).T
        n = int(_LARGEST * np.linalg.norm(crystal.basis, axis=1).max()) + 1
        orders = _half_plane(n)
        power = np.abs(np.exp(2j * np.pi * orders @ crystal.places.T) @ crystal.weights) ** 2
        length = np.linalg.norm(orders @ reciprocal, axis=1)
        keep = (length >= _SMALLEST) & (length <= _LARGEST) & (power > _FAINTEST * crystal.weights.sum() ** 2)
        return cls(orders[keep], reciprocal, crystal.fold() if keep.any() else 2)

    @classmethod
    def of_lattice(cls, basis: np.ndarray, fold: int) -> Waves:
        """Waves that any crystal with a lattice may make."""
        reciprocal = np.linalg.inv(basis).T
        orders = _half_plane(int(_LARGEST * np.linalg.norm(basis, axis=1).max()) + 1)
        length = np.linalg.norm(orders @ reciprocal, axis=1)
        return cls(orders[(length >= _SMALLEST) & (length <= _LARGEST)], reciprocal, fold)

    @property
    def second_spacing(self) -> float:
        """Spacing in Å of the second of the two longest waves that are not parallel; 0 where there are no two."""
        g = self.orders @ self.reciprocal
        g = g[np.linalg.norm(g, axis=1).argsort(kind="stable")]
        lengths = np.linalg.norm(g, axis=1)
        across = np.abs(g[:, 0] * g[:1, 1] - g[:, 1] * g[:1, 0]) > _APART * lengths * lengths[:1]
        return 1 / float(lengths[across][0]) if across.any() else 0.0

    @classmethod
    def of_unknown(cls) -> Waves:
        """Waves of any lattice."""
        return cls(_half_plane(_ORDERS))


def _half_plane(n: int) -> np.ndarray:
    orders = np.stack(np.meshgrid(*[np.arange(-n, n + 1)] * 2, indexing="ij"), -1).reshape(-1, 2)
    return orders[(orders[:, 0] > 0) | ((orders[:, 0] == 0) & (orders[:, 1] > 0))]


class WaveFit:
    """Fits lattices to windows of one size.

    Parameters
    ----------
    size : int
        Side of the windows in pixels.
    pixel : float
        In Å.
    window : float
        Their side in Å, beyond which nothing counts.
    device : torch.device
        Where.
    """

    #: Pixels along the side of a window, at most
    most = 120

    def __init__(self, size: int, pixel: float, window: float, device: torch.device) -> None:
        self.pixel, self.window = pixel, window
        # what the pixels can show
        self.largest = min(_LARGEST, 0.45 / pixel)
        steps = torch.arange(size, device=device) - (size - 1) / 2
        self.x, self.y = image_to_lab(pixel * steps, pixel * steps)
        taper = torch.cos((self.x * (math.pi / window)).clamp(-math.pi / 2, math.pi / 2)).clamp_min(0)
        self.taper = taper[:, None] * taper
        # a plane, in windows: what is taken away beside the mean
        self.slopes = torch.stack([self.y[:, None].expand(size, size), self.x.expand(size, size)])
        self._known: dict = {}  # of each kind of waves, what is on the device
        self.norm = float(self.taper.sum() ** 2 / self.taper.square().sum())
        # curvature of a wave's power by its frequency, over that power; and variance of its slope by noise, over the
        # powers of both
        self.bend = 8 * math.pi**2 * float((taper * self.x**2).sum() / taper.sum())
        self.noise_bend = 8 * math.pi**2 * float((taper**2 * self.x**2).sum() / (taper**2).sum())

    def __call__(self, windows: torch.Tensor, waves: Waves) -> Fitted:
        """Fit the lattice of each of some windows (n, size, size), which hold one kind of crystal."""
        tapered = self._levelled(windows)
        power, noise = self._spectrum(tapered)
        if waves not in self._known:
            self._known[waves] = self._on_device(waves, tapered)
        orders, tries = self._known[waves]
        first = self._shortest(power, noise, orders) if tries is None else self._first(power, noise, orders, tries)
        return self._refined(tapered, noise, first, orders)

    @staticmethod
    def _on_device(waves: Waves, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Orders (m, 2), and reciprocal vectors (tries, 2, 2) of a known crystal at all angles and some scales."""
        like = {"dtype": like.dtype, "device": like.device}
        orders = torch.as_tensor(waves.orders, **like)
        if waves.reciprocal is None:
            return orders, None
        angle = torch.arange(0, 360 / waves.fold, _TURN, **like) * (math.pi / 180)
        vectors = torch.as_tensor(waves.reciprocal, **like)
        turned = torch.stack(after_turn(vectors[:, 0], vectors[:, 1], angle[:, None]), -1)
        return orders, (turned[:, None] / torch.tensor(_SCALES, **like)[:, None, None]).flatten(0, 1)

    def spectrum(self, windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Power (n, 128, 65) of windows, rows from the lowest frequency up, and that of the noise (n,)."""
        return self._spectrum(self._levelled(windows))

    def _spectrum(self, tapered: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        power = torch.fft.fftshift(torch.fft.rfft2(tapered, s=(_PADDED, _PADDED)).abs().square(), dim=1)
        return power, noise_power(power, power.new_full((len(power),), self.pixel))

    def _levelled(self, windows: torch.Tensor) -> torch.Tensor:
        """Windows without their mean and slope, fading out towards their sides."""
        t = self.taper
        windows = windows - (windows * t).sum((1, 2), keepdim=True) / t.sum()
        along = torch.einsum("nij,kij,ij->nk", windows, self.slopes, t) / (t * self.slopes.square()).sum((1, 2))
        return (windows - torch.einsum("nk,kij->nij", along, self.slopes)) * t

    def places(self, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Row and column in spectra of frequencies (..., 2) in Å⁻¹, not rounded."""
        row, column = lab_to_image(g[..., 0], g[..., 1])
        # of g and -g, whose power is the same, the one that the grid has
        side = torch.where(column < 0, -1, 1) * (self.pixel * _PADDED)
        return side * row + _PADDED // 2, side * column

    # ---------------------------------------------------------------- where to begin
    def _sampled(self, power: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """Power (n, ...) at the nearest frequencies of the grid to some (..., 2), or (n, ..., 2)."""
        row, column = (each.round().long() for each in self.places(g))
        index = row.clamp(0, _PADDED - 1) * power.shape[2] + column.clamp_max(power.shape[2] - 1)
        flat = power.flatten(1)
        if g.shape[0] == len(power) and g.ndim > 3:
            return flat.gather(1, index.flatten(1)).view(index.shape)
        return flat[:, index.flatten()].view(len(power), *index.shape)

    def _first(self, power: torch.Tensor, noise: torch.Tensor, orders: torch.Tensor, tries: torch.Tensor):
        """Best of all tries (n, 2, 2), by the logarithm of the power."""
        found = torch.log1p(self._sampled(power, orders @ tries) / noise[:, None, None]).sum(2)
        return tries[found.argmax(1)]

    def _shortest(self, power: torch.Tensor, noise: torch.Tensor, orders: torch.Tensor) -> torch.Tensor:
        """Two short vectors (n, 2, 2) of an unknown lattice, by the highest peaks of its spectrum."""
        n = len(power)
        frequency = (torch.arange(_PADDED, device=power.device) - _PADDED // 2) / (_PADDED * self.pixel)
        y, x = (each.flatten() for each in torch.meshgrid(frequency, frequency[_PADDED // 2 :], indexing="ij"))
        x, y = image_to_lab(y, x)
        length = torch.hypot(x, y)
        power = power[..., : _PADDED // 2]
        background = self._background(power.flatten(1), length).clamp_min(noise[:, None])
        near = torch.nn.functional.max_pool2d(power[:, None], 5, stride=1, padding=2)[:, 0]
        there = (length >= _SMALLEST) & (length <= self.largest) & (x > -1e-6)
        peaks = torch.where((power == near).flatten(1) & there, power.flatten(1), 0)
        highest = peaks.amax(1, keepdim=True)
        is_peak = (peaks > _PEAK * background) & (peaks > _OF_HIGHEST * highest)
        order = torch.where(is_peak, length, torch.inf).argsort(1)[:, :_MOST_PEAKS]
        g = torch.stack([x[order], y[order]], -1)
        is_peak = is_peak.gather(1, order)
        first, second = torch.triu_indices(_MOST_PEAKS, _MOST_PEAKS, 1, device=power.device)
        pairs = torch.stack([g[:, first], g[:, second]], -2)
        area = pairs[..., 0, 0] * pairs[..., 1, 1] - pairs[..., 0, 1] * pairs[..., 1, 0]
        lengths = pairs.norm(dim=-1).prod(-1)
        allowed = is_peak[:, first] & is_peak[:, second] & (area.abs() > _APART * lengths)
        at = orders @ pairs
        inside = (at.norm(dim=-1) <= self.largest) & (at.norm(dim=-1) >= _SMALLEST / 2)
        padded = torch.nn.functional.pad(power, (0, 1))
        gain = (torch.log1p(self._sampled(padded, at) / noise[:, None, None]) - _CHANCE) * inside
        best = torch.where(allowed, gain.sum(2), -torch.inf).max(1)
        found = pairs[torch.arange(n, device=power.device), best.indices]
        return torch.where(best.values.isfinite()[:, None, None], found, torch.nan)

    @staticmethod
    def _background(power: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """Power (n, frequencies) between the peaks: noise, and what disorder adds."""
        found = torch.zeros_like(power)
        for inner in np.arange(_SMALLEST, _LARGEST + _RING, _RING).tolist():
            ring = (length >= inner) & (length < inner + _RING)
            values = torch.where(ring, power, torch.nan).nanquantile(_QUANTILE, dim=1, keepdim=True)
            found = torch.where(ring, values / -math.log(1 - _QUANTILE), found)
        return found

    # ---------------------------------------------------------------- the maximum
    def _refined(self, tapered: torch.Tensor, noise: torch.Tensor, first: torch.Tensor, orders: torch.Tensor) -> Fitted:
        none = first.isnan().any(-1).any(-1)
        unit = torch.eye(2, dtype=first.dtype, device=first.device)
        reciprocal = torch.where(none[:, None, None], unit, first)
        for _ in range(_STEPS):
            power, slope = self._power(tapered, reciprocal, orders)
            step = self._inverse(power, orders) @ slope / self.bend
            moved = (orders @ step).norm(dim=-1).amax(1).clamp_min(1e-12)
            reciprocal = reciprocal + step * (_FURTHEST / self.window / moved).clamp_max(1)[:, None, None]
        return self._judged(tapered, noise, reciprocal, orders, none)

    @staticmethod
    def _inverse(power: torch.Tensor, orders: torch.Tensor) -> torch.Tensor:
        """Inverse (n, 2, 2) of the sum over waves of power times order times order."""
        aa, ab, bb = ((power * (orders[:, i] * orders[:, j])).sum(1) for i, j in ((0, 0), (0, 1), (1, 1)))
        area = (aa * bb - ab * ab).clamp_min(1e-12 * (aa + bb).square() + 1e-30)
        return torch.stack([torch.stack([bb, -ab], -1), torch.stack([-ab, aa], -1)], -2) / area[:, None, None]

    def _judged(self, tapered, noise, reciprocal, orders, none) -> Fitted:
        """Errors and scores of lattices; NaN where there is none."""
        power, _ = self._power(tapered, reciprocal, orders)
        energy = tapered.square().sum((1, 2))
        held = 2 * (power - noise[:, None]).sum(1) / self.norm
        left = (energy - noise - held).clamp_min(0)
        # what is off the lattice is noise, too, and lies where columns have their frequencies
        everything = noise + left / (self.pixel**2 * math.pi * _DISORDER**2)
        # noise of the slope, by the curvature on both sides; of the power a part is noise
        covariance = self._inverse((power - noise[:, None]).clamp_min(0), orders)
        covariance = covariance * (everything * (self.noise_bend / self.bend**2))[:, None, None]
        signal = (energy - noise).clamp_min(1e-20)
        counted = (power > 0).sum(1)
        evidence = (power.sum(1) / everything - counted) / counted.clamp_min(1).sqrt()
        fitted = reciprocal, covariance, (held / signal).clamp(0, 1), evidence
        return Fitted(*(torch.where(none.view(-1, *[1] * (x.ndim - 1)), torch.nan, x) for x in fitted))

    def _power(self, tapered: torch.Tensor, reciprocal: torch.Tensor, orders: torch.Tensor):
        """Power (n, m) of each wave; slope (n, 2, 2) of their sum by the two vectors."""
        g = orders @ reciprocal
        inside = ((g.norm(dim=-1) <= 1.1 * self.largest) & (orders.abs().sum(1) > 0)).to(g)
        m = g.shape[1]
        right, up = (torch.polar(torch.ones_like(a), a) for a in (
            -2 * math.pi * g[..., i : i + 1] * place for i, place in enumerate((self.x, self.y))
        ))  # fmt: skip
        right = torch.cat([right, right * self.x], 1)
        # a real matrix times real and imaginary parts
        rows = tapered @ torch.cat([right.real, right.imag], 1).mT
        row, row_x = torch.complex(*rows.mT.split(2 * m, 1)).split(m, 1)
        f = (up * row).sum(-1)
        along = ((up * each).sum(-1) for each in (row_x, self.y * row))
        # the derivative of a wave is -2 pi i times the place
        slope = torch.stack([4 * math.pi * (f.real * each.imag - f.imag * each.real) for each in along], -1)
        slope = slope * inside[..., None]
        return f.abs().square() * inside, torch.einsum("mi,nmj->nij", orders, slope)


class Scales:
    """Tells which scale of a known crystal fits a window best.

    Parameters
    ----------
    waves : list of Waves
        Of each crystal.
    size : int
        Side of the windows in pixels.
    pixel, window : float
        In Å.
    device : torch.device
        Where.
    """

    def __init__(self, waves: list[Waves], size: int, pixel: float, window: float, device: torch.device) -> None:
        self.fit = WaveFit(size, pixel, window, device)
        most = max(len(each.orders) for each in waves)
        table = np.zeros((len(waves), most, 2))
        for i, each in enumerate(waves):
            table[i, : len(each.orders)] = each.orders @ each.reciprocal
        self.frequencies = torch.as_tensor(table, dtype=torch.float32, device=device)
        self.scales = torch.linspace(1 - _WIDEST, 1 + _WIDEST, _TRIED, device=device)

    def __call__(self, windows: torch.Tensor, crystal: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
        """Scales (n,) of windows (n, size, size), in which crystals lie at angles in radians, counter-clockwise."""
        power, noise = self.fit.spectrum(windows)
        x, y = after_turn(*self.frequencies[crystal].unbind(-1), angle[:, None])
        g = torch.stack([x, y], -1)[:, None] / self.scales[:, None, None]
        inside = (g.norm(dim=-1) > _SMALLEST / 2) & (g.norm(dim=-1) < _LARGEST * 1.1)
        found = (torch.log1p(self._between(power, g) / noise[:, None, None]) * inside).sum(2)
        best = found.argmax(1).clamp(1, _TRIED - 2)
        low, middle, high = (found.gather(1, (best + i)[:, None])[:, 0] for i in (-1, 0, 1))
        # the top of the parabola through three points
        off = ((low - high) / (2 * (low - 2 * middle + high)).clamp_max(-1e-6)).clamp(-1, 1)
        return self.scales[best] + off * (self.scales[1] - self.scales[0])

    def _between(self, power: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """Power (n, ...) at frequencies (n, ..., 2), between those of the grid."""
        row, column = self.fit.places(g)
        at = torch.stack([(2 * column + 1) / power.shape[2] - 1, (2 * row + 1) / power.shape[1] - 1], -1)
        return torch.nn.functional.grid_sample(power[:, None], at, mode="bilinear", align_corners=False)[:, 0]
