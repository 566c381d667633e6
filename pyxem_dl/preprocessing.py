"""From detector pixels to the model's frame: one polar image, whatever the detector.

Simulated, labelled and measured patterns all pass through :class:`PolarPreprocessing`, in
training and in prediction, and its numbers travel in the model's ``config.json``.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional

from pyxem_dl.frames import Calibration, k_to_pixel
from pyxem_dl.rotations import matmul

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
        Outer radius of the polar image in 1/Angstrom; the inner one is 0.
    n_k, n_phi : int
        Number of bins along radius and angle; angle j is ``j * 360 / n_phi`` degrees,
        counter-clockwise from +kx.
    gamma : float
        Exponent of the intensity; 0.5 makes Poisson noise even.
    inner_radius : float
        In 1/Angstrom; what lies inside is not used for normalisation (direct beam).
    clip : float
        Largest value after normalisation to a root mean square of 1 outside
        `inner_radius`.
    """

    reciprocal_radius: float
    n_k: int = 64
    n_phi: int = 144
    gamma: float = 0.5
    inner_radius: float = 0.15
    clip: float = 8.0

    def to_dict(self) -> dict:
        """Plain numbers for ``config.json``."""
        return asdict(self)

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
        patterns = patterns.float()
        weights = None
        if signal_mask is not None:
            weights = (~signal_mask).to(patterns)[None]
            patterns = patterns * weights
        factor = int(self.reciprocal_radius / self.n_k / max(calibration.scale) / _FINE)
        if factor > 1:
            patterns, weights, centers, calibration = _bin_pixels(
                factor, patterns, weights, centers, calibration
            )
        if centers is not None:
            if weights is not None:
                weights = shift_to_center(weights.expand(n, -1, -1), centers, calibration)
            else:
                weights = shift_to_center(torch.ones_like(patterns), centers, calibration)
            patterns = shift_to_center(patterns, centers, calibration)
        # MPS has no sparse matrices: there the averages are taken on the CPU
        device = "cpu" if patterns.device.type == "mps" else str(patterns.device)
        matrix = _bin_matrix(self.reciprocal_radius, self.n_k, self.n_phi, calibration, device)
        shape = (-1, self.n_k, self.n_phi)
        polar = _average(matrix, patterns).reshape(shape)
        if weights is None:
            weights = patterns.new_ones(1, *patterns.shape[1:])
        coverage = _average(matrix, weights).reshape(shape)
        valid = coverage > _MINIMUM_COVERAGE
        return torch.where(valid, polar / coverage.clamp_min(_MINIMUM_COVERAGE), 0.0), valid

    def __call__(
        self,
        patterns: torch.Tensor,
        calibration: Calibration,
        centers: torch.Tensor | None = None,
        signal_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Make the network's input.

        Parameters are those of :meth:`resample`.

        Returns
        -------
        tensor, shape (n, 2, n_k, n_phi)
            Normalised intensity, and 1 where the bin was measured.
        """
        polar, valid = self.resample(patterns, calibration, centers, signal_mask)
        valid = valid.to(polar)
        x = polar.clamp_min(0).pow(self.gamma)
        outer = torch.arange(self.n_k, device=x.device) + 0.5
        outer = (outer * (self.reciprocal_radius / self.n_k) > self.inner_radius).to(x)
        weight = valid * outer[:, None]
        total = weight.sum((1, 2)).clamp_min(1)
        rms = ((x**2 * weight).sum((1, 2)) / total).sqrt().clamp_min(1e-20)
        result = x.new_empty(len(x), 2, *x.shape[1:])
        result[:, 0] = (x / rms[:, None, None]).clamp_max_(self.clip)
        result[:, 1] = valid
        return result

# Levels of intensity at which the noise of a detector is looked at
_GAIN_BINS = 12


def check_patterns(data) -> None:
    """Raise an error that says why, if an array does not hold patterns.

    Parameters
    ----------
    data : numpy.ndarray or dask.array.Array
        To be of shape (..., rows, columns), with 0, 1 or 2 navigation dimensions.
    """
    if data.ndim not in (2, 3, 4):
        raise ValueError(
            f"The data have {data.ndim} dimensions; patterns with 0, 1 or 2 navigation dimensions "
            "have 2, 3 or 4. Take one scan at a time, for example `s.inav[:, :, 0]`."
        )
    if np.dtype(data.dtype).kind not in "buif":
        raise TypeError(f"Patterns must be real numbers, not {data.dtype}.")
    if 0 in data.shape:
        raise ValueError(f"The data are empty (shape {tuple(data.shape)}): there is no pattern.")


def find_direct_beam(
    patterns: torch.Tensor, calibration: Calibration, search_radius: float = 0.25
) -> torch.Tensor:
    """Find the direct beam: centre of mass of the brightest blob near the nominal centre.

    Parameters
    ----------
    patterns : tensor, shape (n, rows, columns)
        Intensities.
    calibration : Calibration
        Its centre is where the search begins.
    search_radius : float
        How far to search, in 1/Angstrom.

    Returns
    -------
    tensor, shape (n, 2)
        (row, column) in pixels.
    """
    rows, columns = patterns.shape[1:]
    device = patterns.device
    r = torch.arange(rows, device=device, dtype=torch.float32)[:, None]
    c = torch.arange(columns, device=device, dtype=torch.float32)[None]

    def distance(center_row, center_column):
        return torch.hypot(
            (r - center_row) * calibration.scale[0], (c - center_column) * calibration.scale[1]
        )

    near = distance(*calibration.center) <= search_radius
    x = torch.nan_to_num(patterns.float()).clamp_min(0) * near
    # The blob is the beam at half its height: halo and neighbouring disks stay below.  The
    # blurred maximum is not fooled by a hot pixel.
    blurred = torch.nn.functional.avg_pool2d(x[:, None], 3, 1, 1)[:, 0]
    height = blurred.amax((1, 2), keepdim=True)
    peak = blurred.flatten(1).argmax(1)
    peak_row = (peak // columns).float()[:, None, None]
    peak_column = (peak % columns).float()[:, None, None]
    weight = (blurred - 0.5 * height).clamp_min(0)
    weight = weight * (distance(peak_row, peak_column) <= search_radius / 2)
    total = weight.sum((1, 2)).clamp_min(1e-20)
    found = torch.stack([(weight * r).sum((1, 2)), (weight * c).sum((1, 2))], -1) / total[:, None]
    nominal = found.new_tensor(calibration.center)
    return torch.where((height[:, 0] > 0), found, nominal)


def counts_per_electron(patterns: torch.Tensor, signal_mask: torch.Tensor | None = None) -> float:
    """Estimate what a detector writes for an electron.

    Parameters
    ----------
    patterns : tensor, shape (n, rows, columns)
        Of one detector.
    signal_mask : tensor of bool, shape (rows, columns), optional
        True where the detector is excluded.

    Returns
    -------
    float
        1 for a detector that counts, and where nothing can be said: of patterns with negative values, whose noise is
        that of the readout.

    Notes
    -----
    Neighbouring pixels of an even region differ by counting and by the noise of the readout, and the mean square of
    their difference grows with the mean intensity by twice the gain (a photon transfer curve, see Janesick, *Photon
    Transfer*, SPIE 2007).  The growth is looked at from the faintest to the middle of what is not empty: brighter
    regions are not even.
    """
    patterns = patterns.float()
    if signal_mask is not None:
        patterns = torch.where(signal_mask.to(patterns.device), 0.0, patterns)
    patterns = patterns[patterns.isfinite().all(2).all(1)]
    if bool((patterns < 0).any()):
        return 1.0
    left, right = patterns[..., :-1], patterns[..., 1:]
    around = functional.avg_pool2d(patterns[:, None], 5, 1, 2, count_include_pad=False)[:, 0, :, :-1]
    seen = around > 0
    if signal_mask is not None:
        seen &= ~(signal_mask[:, :-1] | signal_mask[:, 1:]).to(seen.device)
    order = around[seen].argsort()
    size = len(order) // (2 * _GAIN_BINS)
    if size < 20:
        return 1.0
    bins = order[: size * _GAIN_BINS].reshape(_GAIN_BINS, size)
    mean = (0.5 * (left + right)[seen])[bins].mean(1).double()
    variance = (0.5 * (left - right).square()[seen])[bins].mean(1).double()
    # the noise of the readout is the same everywhere; a variance weighs as the inverse of its own
    weight = 1 / variance.clamp_min(1e-12)
    middle_mean, middle = (weight * mean).sum() / weight.sum(), (weight * variance).sum() / weight.sum()
    spread = (weight * (mean - middle_mean).square()).sum()
    gain = float((weight * (mean - middle_mean) * (variance - middle)).sum() / spread.clamp_min(1e-30))
    if float(mean.max() - mean.min()) < 0.5 * float(mean.mean()):
        gain = float(variance.sum() / mean.sum())  # one level tells no growth
    # what is near 1 is 1: counts stay what they are
    return gain if gain > 0 and not 0.6 < gain < 1.6 else 1.0


def rescale(patterns: torch.Tensor, factor: float) -> torch.Tensor:
    """Change the size of patterns and keep their counts.

    Parameters
    ----------
    patterns : tensor, shape (n, rows, columns)
        Intensities.
    factor : float
        New size relative to the old one.

    Returns
    -------
    tensor, shape (n, floor(factor * rows), floor(factor * columns))
        A place at pixel (row, column) is now at ``(row + 0.5) * factor - 0.5``, and so is its
        column.
    """
    if factor == 1:
        return patterns
    scaled = torch.nn.functional.interpolate(
        patterns[:, None], scale_factor=factor, mode="bilinear", align_corners=False,
        antialias=factor < 1, recompute_scale_factor=False,
    )  # fmt: skip
    return scaled[:, 0] / factor**2


def shift_to_center(patterns, centers, calibration: Calibration) -> torch.Tensor:
    """Move each pattern so that its direct beam lies at the calibration's centre."""
    rows, columns = patterns.shape[1:]
    offset = centers.to(patterns) - patterns.new_tensor(calibration.center)
    r = torch.arange(rows, device=patterns.device, dtype=patterns.dtype)
    c = torch.arange(columns, device=patterns.device, dtype=patterns.dtype)
    y = (r[None, :, None] + offset[:, 0, None, None]) * (2 / (rows - 1)) - 1
    x = (c[None, None, :] + offset[:, 1, None, None]) * (2 / (columns - 1)) - 1
    grid = torch.stack(torch.broadcast_tensors(x, y), dim=-1)
    shifted = torch.nn.functional.grid_sample(
        patterns[:, None], grid, mode="bilinear", padding_mode="zeros", align_corners=True
    )
    return shifted[:, 0]


def _bin_pixels(factor: int, patterns, weights, centers, calibration: Calibration):
    """Average blocks of `factor` x `factor` pixels; all that goes with the patterns follows."""
    pool = torch.nn.functional.avg_pool2d
    patterns = pool(patterns[:, None], factor)[:, 0]
    if weights is not None:
        weights = pool(weights[:, None], factor)[:, 0]
    middle = (factor - 1) / 2
    if centers is not None:
        centers = (centers - middle) / factor
    binned = calibration.replace(
        scale=tuple(s * factor for s in calibration.scale),
        center=tuple((c - middle) / factor for c in calibration.center),
        shape=tuple(patterns.shape[1:]),
    )
    return patterns, weights, centers, binned


def _average(matrix: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Average images (n, rows, columns) over bins: (n, bins)."""
    return matmul(matrix, images.flatten(1).to(matrix.device).T).T.to(images.device)


@lru_cache(maxsize=32)
def _bin_matrix(radius, n_k, n_phi, calibration: Calibration, device: str) -> torch.Tensor:
    """Sparse matrix (bins, pixels) that averages a pattern over polar bins.

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
    with warnings.catch_warnings():
        # "Sparse CSR tensor support is in beta state", once for each session
        warnings.simplefilter("ignore", UserWarning)
        matrix = torch.sparse_coo_tensor(index, value, shape, check_invariants=False)
        return matrix.coalesce().to_sparse_csr().to(device)
