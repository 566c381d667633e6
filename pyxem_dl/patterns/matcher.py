"""Disks of a batch of patterns: correlation with the probe, and position and intensity of each on the device."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn.functional import pad

from pyxem_dl.devices import computing, in_micro_batches, padded
from pyxem_dl.patterns.correlation import soft_disk
from pyxem_dl.patterns.patches import in_blocks, places_to_look_at, squares
from pyxem_dl.patterns.peaks import Maxima, find_maxima
from pyxem_dl.patterns.probes import Probe
from pyxem_dl.preprocessing import usable_patterns
from pyxem_dl.preprocessing.elementary import fourth_root

# Patterns that are searched at once; on a CPU so few that they stay in its cache
_MICRO_BATCH = {"cpu": 4, "other": 64}
# Disks that are multiplied with weights at once
_BLOCK = 64
# The kernel reaches to so many radii, and a pixel more
_KERNEL_RADII = 2.0
# Added to the variance of a window of the compressed pattern: a single electron is no disk
_VARIANCE_FLOOR = 2.0
# A disk of which less than this share is on the detector is not looked for
_SHARE_ON_DETECTOR = 0.5
# ... nor one of which more than this share is masked
_SHARE_MASKED = 0.25
# Positions: steps of the fit, the blur (px) of the edge that it is given, the reach of its window in radii, and the
# smallest disk (px) whose inside has room for a gradient
_FIT_STEPS = 3
_FIT_BLUR = 1.0
_FIT_RADII = 1.15
_GRADIENT_RADIUS = 5.0
_GRADIENT_RIDGE = 0.3
# Sectors of the ring in which the background is measured
_SECTORS = 8


def default_threshold(radius: float) -> float:
    """Correlation that a disk has and noise has not.

    Parameters
    ----------
    radius : float
        Of the disk in pixels.

    Returns
    -------
    float
        0.17 for 10 px, 0.48 for 2.5 px: the fewer pixels, the more correlation there is by chance.  It was chosen on
        multislice patterns with these two radii, from 10⁴ to 10⁶ electrons; between 0.1 and 0.6.
    """
    return min(0.6, max(0.1, 0.95 / radius**0.75))


class DiskMatcher:
    """Finds disks in batches of patterns, on a device.

    Parameters
    ----------
    probe : Probe
        What a disk looks like.
    shape : tuple of int
        Of the patterns, (rows, columns).
    signal_mask : tensor of bool, shape (rows, columns), optional
        True where the detector is excluded.
    threshold, min_distance, max_peaks, subpixel
        As in :func:`match_disks`.
    device : torch.device
        Where the patterns are.
    """

    #: Patterns that a core computes at once
    micro_batch = _MICRO_BATCH["cpu"]

    def __init__(
        self,
        probe: Probe,
        shape: tuple[int, int],
        *,
        signal_mask: torch.Tensor | None = None,
        threshold: float | None = None,
        min_distance: float | None = None,
        max_peaks: int = 200,
        subpixel: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        from scipy.fft import next_fast_len

        self.probe, self.shape, self.subpixel = probe, tuple(shape), subpixel
        self.threshold = default_threshold(probe.radius) if threshold is None else threshold
        self.max_peaks = max_peaks
        self.min_distance = max(2.0, probe.radius) if min_distance is None else min_distance
        self.device = torch.device(device)
        self.valid = torch.ones(shape) if signal_mask is None else (~signal_mask).float().cpu()
        masked = not bool(self.valid.all())
        self._half = math.ceil(_KERNEL_RADII * probe.radius + 1)
        self._transform_shape = [next_fast_len(n + self._half, real=True) for n in shape]
        template, window = _template(probe, self._half), _soft_disk(_KERNEL_RADII * probe.radius + 1, self._half)
        self._prepare(template * window, window)
        self._mask = self.valid == 0 if masked else None
        self._fit = _fit_matrix(probe).to(self.device)
        self._apertures = _aperture_grid(probe.radius).to(self.device)

    def _prepare(self, template, window) -> None:
        """Transform the kernels, and compute what the valid pixels alone say of the correlation."""
        kernels = [self._transform(self._around_corner(x)).conj() for x in (template, window, template**2)]
        covered = self._transform(self.valid)
        t, w, t2 = (self._inverse(covered * kernel) for kernel in kernels)
        w = w.clamp_min(1e-3)
        # under a mask, other than beyond the border, the edge of the mask makes half a disk of any halo
        hidden = self._inverse(self._transform(1 - self.valid) * kernels[0])
        usable = (t > _SHARE_ON_DETECTOR * template.sum()) & (hidden < _SHARE_MASKED * template.sum())
        self._usable = usable.to(self.device)
        self._mean = (t / w).to(self.device)
        self._weight = w.to(self.device)
        self._norm = (t2 - t**2 / w).clamp_min(1e-6 * float((template**2).sum())).to(self.device)
        self._template, self._window = (kernel.to(self.device) for kernel in kernels[:2])
        self.valid = self.valid.to(self.device)

    def to(self, device: torch.device | str) -> DiskMatcher:
        """Move everything to a device; returns the matcher itself."""
        self.device = torch.device(device)
        for name, value in vars(self).items():
            if isinstance(value, torch.Tensor):
                setattr(self, name, value.to(self.device))
        return self

    def _around_corner(self, kernel: torch.Tensor) -> torch.Tensor:
        """Put the middle of a kernel into the corner; what is left and above of it comes in at the other side."""
        missing = [n - m for n, m in zip(self._transform_shape, kernel.shape, strict=True)]
        return pad(kernel, (0, missing[1], 0, missing[0])).roll((-self._half, -self._half), (0, 1))

    def _transform(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.rfft2(x, s=self._transform_shape)

    def _inverse(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.irfft2(x, s=self._transform_shape)[..., : self.shape[0], : self.shape[1]]

    def correlate(self, compressed: torch.Tensor) -> torch.Tensor:
        """Normalised correlation with the probe.

        Parameters
        ----------
        compressed : tensor, shape (n, rows, columns)
            Compressed intensities, 0 where the detector is excluded.

        Returns
        -------
        tensor, shape (n, rows, columns)
            Between -1 and 1; -inf where too little of the disk would be on the detector.
        """
        # in place: the maps are larger than a core's cache
        f = self._transform(compressed)
        total = self._inverse(f * self._window)
        product = self._inverse(f.mul_(self._template)).sub_(total * self._mean)
        squares = self._inverse(self._transform(compressed.square()).mul_(self._window))
        variance = squares.sub_(total.square_().div_(self._weight)).clamp_min_(0).add_(_VARIANCE_FLOOR)
        correlation = product.mul_(variance.mul_(self._norm).rsqrt_()).clamp_(-1, 1)
        return torch.where(self._usable, correlation, -math.inf)

    def __call__(self, patterns: torch.Tensor) -> tuple[Maxima, torch.Tensor]:
        """Find the disks of a batch.

        Parameters
        ----------
        patterns : tensor, shape (n, rows, columns)
            Intensities.

        Returns
        -------
        maxima : Maxima
            (n, m) positions in pixels; the value is the correlation.
        intensity : tensor, shape (n, m)
            Of each disk above its background.
        """
        size = _MICRO_BATCH["cpu" if self.device.type == "cpu" else "other"]

        def match(micro_batch):
            # the size of a micro-batch must not show in the disks
            return tuple(x[: len(micro_batch)] for x in self._match(padded(micro_batch, size)))

        row, column, value, valid, intensity = in_micro_batches(match, size, self.device, patterns)
        found = Maxima(row, column, value, valid)
        if self.device.type == "cpu":  # a device is not waited for
            width = max(1, int(valid.sum(1).max())) if len(valid) else 1
            found, intensity = Maxima(*(x[:, :width] for x in found)), intensity[:, :width]
        return found, intensity

    def _match(self, patterns: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Find the disks of a micro-batch: fields of ``Maxima`` and intensity, all (n, max_peaks)."""
        with computing(self.device):
            patterns, usable = usable_patterns(patterns, self._mask)
            # the fourth root: the inside of a disk counts less, and its outline more
            compressed = fourth_root(patterns)
            threshold = torch.where(usable, self.threshold, math.inf)
            subpixel = "parabola" if self.subpixel else None
            found = find_maxima(self.correlate(compressed), threshold, self.min_distance, self.max_peaks, subpixel)
            # a maximum on the border may be the flank of a disk that lies beyond
            inside = (found.row > 0.5) & (found.row < self.shape[0] - 1.5)
            found = found.select(inside & (found.column > 0.5) & (found.column < self.shape[1] - 1.5))
            pattern, rank = places_to_look_at(found.valid)
            position = torch.stack([found.row, found.column], -1)[pattern, rank]
            if self.subpixel:
                position = self._fitted(compressed, pattern, position)
                found.row[pattern, rank], found.column[pattern, rank] = position.unbind(1)
            intensity = torch.zeros_like(found.value)
            intensity[pattern, rank] = self._intensities(patterns, pattern, position)
            missing = self.max_peaks - found.row.shape[1]
            # what was looked at and was no disk stays 0
            row, column, intensity = (torch.where(found.valid, x, 0) for x in (found.row, found.column, intensity))
            return tuple(pad(x, (0, missing)) for x in (row, column, found.value, found.valid, intensity))

    def _fitted(self, compressed, pattern, position) -> torch.Tensor:
        """Move positions (p, 2) by a linear fit of the disk, of gradients inside, and of the motion of its edge."""
        half = (math.isqrt(self._fit.shape[1]) - 1) // 2
        start = position
        for _ in range(_FIT_STEPS):
            patches = squares(compressed, pattern, position, half).flatten(1)
            height, *shift = _products(patches, self._fit).unbind(1)
            step = torch.stack(shift, 1) / height[:, None]
            good = (height > 0) & step.isfinite().all(1)
            position = position + torch.where(good[:, None], step, 0).clamp(-1, 1)
        # a fit that ran away was none; beside the border it knows too little
        reach = max(1.0, 0.3 * self.probe.radius)
        near = ((position - start).abs() < reach).all(1)
        for at, size in zip(start.unbind(1), self.shape, strict=True):
            near &= (at >= half) & (at <= size - 1 - half)
        return torch.where(near[:, None], position, start)

    def _intensities(self, patterns, pattern, position) -> torch.Tensor:
        """Sum over each disk (p,) without the background, the median of the means of a ring's sectors."""
        half = self._apertures.shape[-1] // 2
        apertures = self._apertures.flatten(1)
        values = _products(squares(patterns, pattern, position, half).flatten(1), apertures)
        covered = _products(squares(self.valid[None], torch.zeros_like(pattern), position, half).flatten(1), apertures)
        means = values[:, 1:] / covered[:, 1:].clamp_min(1e-3)
        means = torch.where(covered[:, 1:] > 0.5 * apertures[1:].sum(1), means, math.nan)
        background = means.nanmedian(1).values.nan_to_num()
        return values[:, 0] - background * covered[:, 0]


def _products(patches: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sum patches (p, pixels) with weights (m, pixels): (p, m), the same for a disk whatever others there are."""
    if not len(patches):
        return patches.new_zeros(0, len(weights))
    if patches.device.type != "cpu":  # there are always as many
        return patches @ weights.T
    return in_blocks(lambda block: (block @ weights.T,), _BLOCK, patches)[0]


def _template(probe: Probe, half: int) -> torch.Tensor:
    """Probe with the height 1 in a square of 2 half + 1 pixels."""
    image, k = probe.image.float(), probe.image.shape[-1] // 2
    m = min(half, k)
    image = pad(image[k - m : k + m + 1, k - m : k + m + 1], (half - m,) * 4)
    return image / image.max()


def _soft_disk(radius: float, half: int) -> torch.Tensor:
    grid = torch.arange(-half, half + 1, dtype=torch.float32)
    return soft_disk(torch.hypot(grid[:, None], grid[None]), radius)


def _fit_matrix(probe: Probe) -> torch.Tensor:
    """Matrix (3, pixels) that gives height and height x (row, column) shift of a disk from the pixels around it.

    Least squares of background, disk, a gradient inside the disk along rows and columns, and the change that a shift of
    the disk makes.  What is uneven inside then moves the position less: it is the edge that counts.
    """
    from scipy.ndimage import gaussian_filter

    half = math.ceil(_FIT_RADII * probe.radius + 2)
    disk = gaussian_filter(_template(probe, half + 4).numpy().astype(float), _FIT_BLUR)
    edge_row, edge_column = (x[4:-4, 4:-4] for x in np.gradient(disk))
    disk = disk[4:-4, 4:-4]
    window = _soft_disk(_FIT_RADII * probe.radius + 1.5, half).numpy().astype(float).ravel()
    row, column = np.mgrid[-half : half + 1, -half : half + 1] / probe.radius
    basis = [np.ones_like(disk), disk, edge_row, edge_column]
    if probe.radius >= _GRADIENT_RADIUS:
        basis += [row * disk, column * disk]
    basis = np.stack([x.ravel() for x in basis], 1)
    normal = (basis * window[:, None]).T @ basis
    normal[range(4, len(normal)), range(4, len(normal))] *= 1 + _GRADIENT_RIDGE
    _, height, *shift = np.linalg.solve(normal, (basis * window[:, None]).T)[:4]
    # a disk that moves on by s changes by s times its slope downwards
    return torch.from_numpy(np.stack([height, *(-x for x in shift)])).float()


def _aperture_grid(radius: float) -> torch.Tensor:
    """Weights (1 + sectors, n, n) of the disk and of the sectors of the ring around it."""
    inner, outer = radius + 2, radius + 2 + max(2.0, 0.3 * radius)
    half = math.ceil(outer + 1)
    ring = _soft_disk(outer, half) - _soft_disk(inner, half)
    grid = torch.arange(-half, half + 1, dtype=torch.float32)
    angle = torch.atan2(grid[:, None].expand_as(ring), grid[None].expand_as(ring))
    sector = ((angle / (2 * math.pi) + 0.5) * _SECTORS).long().clamp_max(_SECTORS - 1)
    return torch.stack([_soft_disk(radius + 1, half), *(ring * (sector == i) for i in range(_SECTORS))])
