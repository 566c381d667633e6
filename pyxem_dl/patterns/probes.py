"""The probe of a 4D-STEM scan: what an undiffracted disk looks like, measured in vacuum or estimated from patterns.

Radius and centre are measured at the edge of the disk: along many azimuths, where the intensity falls to half of what
it is just inside, and by the circle through those points that are no outliers.  So neither the uneven inside of a
dynamically scattered beam nor a neighbouring disk that touches it counts for much.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn.functional import grid_sample

from pyxem_dl.messages import warn

# Patterns that the estimate from patterns looks at, and the groups by whose scatter its error is known
_MOST_PATTERNS = 64
_GROUPS = 8
_AZIMUTHS = 90
# Edges that are seen along less than this share of the azimuths are no disk's
_SHARE_OF_AZIMUTHS = 0.5
# An edge that is uneven by more than this share of the radius is no circle
_UNEVEN = 0.15
# Disks with a smaller radius (px) have no plateau to measure against
_SMALLEST = 1.2


@dataclass(frozen=True, eq=False)
class Probe:
    """An undiffracted disk.

    Parameters
    ----------
    image : tensor, shape (n, n), float32
        The disk on no background, with its sum 1 and its centre on the centre of the middle pixel; n is odd.
    radius : float
        Radius of the disk at half of its height, in pixels.
    center : tuple of float
        (row, column) in pixels where it was found.
    radius_error, center_error : float
        Standard errors of the measurement in pixels.
    """

    image: torch.Tensor
    radius: float
    center: tuple[float, float]
    radius_error: float = 0.0
    center_error: float = 0.0

    @classmethod
    def ideal(cls, radius: float, blur: float = 0.0) -> Probe:
        """Draw an evenly filled disk.

        Parameters
        ----------
        radius : float
            In pixels.
        blur : float
            Standard deviation in pixels of the Gaussian that its edge is blurred with, on top of the pixels' own area.
        """
        if not (math.isfinite(radius) and radius > 0):
            raise ValueError(f"The radius of a probe must be a positive number of pixels, not {radius!r}.")
        half = math.ceil(radius + 3 * blur + 1)
        image = torch.from_numpy(_disk((2 * half + 1,) * 2, (half, half), radius, blur)).float()
        return cls(image / image.sum(), float(radius), (float(half), float(half)))

    @classmethod
    def from_image(cls, image: np.ndarray | torch.Tensor) -> Probe:
        """Measure a probe in a vacuum pattern.

        Parameters
        ----------
        image : array, tensor or signal, shape (rows, columns)
            The probe on an even background. A stack or a signal of several is averaged.

        Raises
        ------
        ValueError
            For an image that is empty, has NaN or infinite pixels, or does not show the whole disk; the message says
            what to do.

        Warns
        -----
        UserWarning
            If the disk is smaller than 1.2 px, or its edge is not a circle.
        """
        image = _as_images(image).mean(0)
        edge = _measure(image)
        _check(edge, image.shape, edge.radius_error)
        half = math.ceil(edge.radius + 3 * max(edge.blur, 0.3) + 1)
        cut = _moved(image - edge.background, (edge.row, edge.column), half).clip(0)
        cut = torch.from_numpy(cut / cut.sum()).float()
        return cls(cut, edge.radius, (float(edge.row), float(edge.column)), edge.radius_error, edge.center_error)

    @classmethod
    def from_patterns(cls, patterns: np.ndarray | torch.Tensor, center: tuple[float, float] | None = None) -> Probe:
        """Estimate the probe from the direct beam of patterns.

        Parameters
        ----------
        patterns : array or tensor, shape (n, rows, columns)
            From all over the scan; of more than 64, an evenly spaced selection is used.
        center : tuple of float, optional
            Approximate position of the direct beam, (row, column) in pixels; by default the brightest region.

        Returns
        -------
        Probe
            An evenly filled disk with the measured radius and edge blur.

        Raises
        ------
        ValueError
            If there is no disk to measure; the message says what to do.

        Warns
        -----
        UserWarning
            If the radius is uncertain by more than 5 % and 0.2 px, or the disk is smaller than 1.2 px or not a circle.
        """
        patterns = _as_images(patterns)
        good = np.isfinite(patterns).all((1, 2))
        patterns = patterns[good].clip(0)
        totals = patterns.sum((1, 2))
        patterns, totals = patterns[totals > 0], totals[totals > 0]
        if not len(patterns):
            raise ValueError(
                "All patterns are empty or have NaN or infinite pixels, so the probe cannot be estimated from them. "
                "Give `probe=`, a measured vacuum pattern."
            )
        step = math.ceil(len(patterns) / _MOST_PATTERNS)
        patterns = patterns[::step] / totals[::step, None, None]
        edge = _measure(patterns.mean(0), center)
        # parts of the scan differ in what the crystal does to the inside of the beam: more than counts alone say
        parts = []
        for i in range(min(_GROUPS, len(patterns))):
            if not math.isfinite(edge.radius):
                break
            part = follow_edge(patterns[i::_GROUPS].mean(0), edge.row, edge.column, edge.radius)
            if math.isfinite(part.radius):
                parts.append((part.radius, part.row, part.column))
        error, center_error = edge.radius_error, edge.center_error
        if len(parts) > 2:
            spread = 1.4826 * np.median(np.abs(parts - np.median(parts, 0)), 0) / math.sqrt(len(parts))
            error, center_error = max(error, float(spread[0])), max(center_error, float(np.hypot(*spread[1:])))
        _check(edge, patterns.shape[1:], error)
        probe = cls.ideal(edge.radius, edge.blur)
        center = (float(edge.row), float(edge.column))
        return replace(probe, center=center, radius_error=error, center_error=center_error)

    def resampled(self, factor: float) -> Probe:
        """Magnify the probe, as by a camera length that is `factor` times as long.

        Parameters
        ----------
        factor : float
            Above 1 the disk becomes larger.

        Returns
        -------
        Probe
            With ``radius * factor``.  Its centre is that in a pattern magnified with fixed outer borders.
        """
        if not (math.isfinite(factor) and factor > 0):
            raise ValueError(f"The factor must be positive and finite, not {factor!r}.")
        old, n = self.image.shape[-1] // 2, self.image.shape[-1]
        half = math.ceil((old + 0.5) * factor - 0.5)
        # the mean of points so close that no pixel of the old image is skipped
        parts = max(2, 2 * math.ceil(1 / factor))
        points = (torch.arange((2 * half + 1) * parts, dtype=torch.float64) + 0.5) / parts - 0.5 - half
        points = (points / factor * 2 / (n - 1)).to(self.image)
        grid = torch.stack(torch.meshgrid(points, points, indexing="xy"), -1)[None]
        image = grid_sample(self.image[None, None], grid, padding_mode="zeros", align_corners=True)
        image = torch.nn.functional.avg_pool2d(image, parts)[0, 0]
        return Probe(
            image / image.sum(),
            self.radius * factor,
            tuple((c + 0.5) * factor - 0.5 for c in self.center),
            self.radius_error * factor,
            self.center_error * factor,
        )


@dataclass(frozen=True)
class _Edge:
    """A circle and how well it is known, in pixels; NaN where there is none."""

    row: float
    column: float
    radius: float
    blur: float
    background: float
    seen: float  # share of azimuths
    uneven: float  # scatter of the edge about the circle
    radius_error: float
    center_error: float


def _as_images(image) -> np.ndarray:
    """Images (n, rows, columns) of what was given."""
    data = getattr(image, "data", image) if hasattr(image, "axes_manager") else image
    data = data.compute() if hasattr(data, "compute") else data
    data = data.detach().cpu().numpy() if isinstance(data, torch.Tensor) else np.asarray(data)
    if data.ndim < 2 or 0 in data.shape:
        raise ValueError(f"The image of a probe must have the shape (rows, columns), not {data.shape}.")
    return data.reshape(-1, *data.shape[-2:]).astype(float)


def _disk(shape, center, radius: float, blur: float) -> np.ndarray:
    """Disk of height 1 whose edge pixels hold the share of their area that is inside."""
    from scipy.ndimage import gaussian_filter

    parts = 8 if radius < 10 else 4
    row, column = ((np.arange(n * parts) + 0.5) / parts - 0.5 for n in shape)
    disk = (np.hypot(row[:, None] - center[0], column - center[1]) <= radius).astype(float)
    if blur > 0:
        disk = gaussian_filter(disk, blur * parts)
    return disk.reshape(shape[0], parts, shape[1], parts).mean((1, 3))


def _moved(image, center, half: int) -> np.ndarray:
    """Cut out a square with its middle pixel at `center`; 0 outside of the image."""
    from scipy.ndimage import map_coordinates

    offsets = np.arange(-half, half + 1)
    row, column = np.meshgrid(center[0] + offsets, center[1] + offsets, indexing="ij")
    return map_coordinates(image, [row, column], order=3, mode="constant")


def _measure(image: np.ndarray, center=None) -> _Edge:
    """Measure the disk in an image, corrected by what the same measurement says of an ideal disk."""
    if not np.isfinite(image).all():
        raise ValueError("The image of the probe has NaN or infinite pixels: replace them by their neighbours.")
    if image.max() <= image.min():
        raise ValueError("The image of the probe is empty or constant: give a vacuum pattern that shows the disk.")
    edge = follow_edge(image, *_blob(image, center))
    if not math.isfinite(edge.radius):
        return edge
    # what is drawn is as large as what is looked at
    half = math.ceil(1.25 * edge.radius + 6)
    first = np.array([round(edge.row) - half, round(edge.column) - half])
    # the edge of small disks is not straight, and pixels and interpolation blur every edge
    row, column, radius, blur = edge.row, edge.column, edge.radius, 0.0
    for _ in range(3):
        at = np.array([row, column]) - first
        twin = follow_edge(_disk((2 * half + 1,) * 2, at, radius, blur), *at, radius, n_steps=2)
        if not math.isfinite(twin.radius):
            break
        row, column = row + edge.row - twin.row - first[0], column + edge.column - twin.column - first[1]
        radius = max(0.5, radius + edge.radius - twin.radius)
        blur = min(math.sqrt(max(0.0, blur**2 + edge.blur**2 - twin.blur**2)), radius / 2)
    return replace(edge, row=row, column=column, radius=radius, blur=blur)


def _blob(image: np.ndarray, center) -> tuple[float, float, float]:
    """Centre and radius (px), roughly, of the brightest region, or of the one nearest to `center`."""
    from scipy.ndimage import center_of_mass, label, median_filter

    smooth = median_filter(image, 3)  # hot pixels are no beam
    if smooth.max() <= smooth.min():
        smooth = image
    low = np.percentile(smooth, 5)
    peak = np.unravel_index(smooth.argmax(), smooth.shape)
    if center is not None:
        row, column = np.indices(image.shape)
        near = np.hypot(row - center[0], column - center[1]) < max(4, min(image.shape) / 10)
        if near.any() and (smooth * near).max() > low:
            peak = np.unravel_index(np.where(near, smooth, -np.inf).argmax(), smooth.shape)
    regions, _ = label(smooth > low + 0.3 * (smooth[peak] - low))
    region = regions == regions[peak] if regions[peak] else smooth >= smooth[peak]
    return *center_of_mass(region), math.sqrt(region.sum() / math.pi)


def follow_edge(image: np.ndarray, row: float, column: float, radius: float, n_steps: int = 4) -> _Edge:
    """Fit a circle to the points where the image falls to half, again and again from the circle before.

    Parameters
    ----------
    image : array, shape (rows, columns)
        NaN where it is not known.
    row, column, radius : float
        Of a disk, roughly, in pixels.
    n_steps : int
        Circles that are fitted.
    """
    from scipy.ndimage import map_coordinates, uniform_filter1d

    phi = np.arange(_AZIMUTHS) * (2 * np.pi / _AZIMUTHS)
    design = np.stack([np.ones_like(phi), np.sin(phi), np.cos(phi)], 1)
    background, seen, found, fit = 0.0, 0.0, None, None
    nothing = _Edge(row, column, math.nan, 0.0, background, seen, math.inf, math.inf, math.inf)
    for _ in range(n_steps):
        if not (math.isfinite(radius) and radius > 0 and math.isfinite(row) and math.isfinite(column)):
            return nothing
        outermost = 1.25 * radius + 3
        r = np.arange(0, outermost, min(0.15, radius / 20))
        where = [row + r * np.sin(phi)[:, None], column + r * np.cos(phi)[:, None]]
        # beyond the border there is nothing to follow; over neighbouring azimuths noise is averaged
        rays = map_coordinates(image, where, order=1, mode="constant", cval=np.nan)
        rays = uniform_filter1d(rays, 5, axis=0, mode="wrap")
        # whether a point lies on a bound must not hang on the last bit
        share = np.round(r / radius, 6)
        inside = rays[:, (share > 0.5) & (share < 0.8)].mean(1)
        outside = _mean_of_known(rays[:, r > 1.15 * radius + 1])
        contrast = inside - outside
        typical = np.nanmedian(contrast) if np.isfinite(contrast).any() else 0.0
        levels = outside[:, None] + contrast[:, None] * np.array([0.75, 0.5, 0.25])
        found = np.stack([_crossing(rays, share >= 0.6, r, level) for level in levels.T], 1)
        usable = np.isfinite(found).all(1) & (contrast > 0.3 * typical) & (typical > 0)
        seen, background = usable.mean(), float(np.nanmedian(outside)) if np.isfinite(outside).any() else 0.0
        if usable.sum() < _SHARE_OF_AZIMUTHS * _AZIMUTHS / 2:
            return _Edge(row, column, math.nan, 0.0, background, seen, math.inf, math.inf, math.inf)
        fit, residual = _robust_fit(design[usable], found[usable, 1])
        step = np.clip(fit[1:], -radius / 2, radius / 2)
        row, column, radius = row + step[0], column + step[1], float(np.clip(fit[0], radius / 2, 1.5 * radius))
    uneven = 1.4826 * float(np.median(np.abs(residual)))
    # neighbouring azimuths were averaged, five at a time
    error = uneven / math.sqrt(max(1.0, usable.sum() / 5))
    width = float(np.median(found[usable, 2] - found[usable, 0]))
    return _Edge(row, column, radius, width / 1.349, background, seen, uneven, error, 2 * error)


def _mean_of_known(rays) -> np.ndarray:
    """Mean of each ray without its NaN; NaN where there is nothing else."""
    known = ~np.isnan(rays)
    count = known.sum(1)
    return np.where(count > 0, np.where(known, rays, 0).sum(1) / np.maximum(count, 1), np.nan)


def _crossing(rays, after, r, level) -> np.ndarray:
    """First radius where `after`, at which each ray falls below its level, between samples; NaN where none does."""
    below = (rays <= level[:, None]) & after
    index = below.argmax(1)
    good = below.any(1) & (index > 0)
    index = np.maximum(index, 1)
    i = np.arange(len(rays))
    upper, lower = rays[i, index - 1], rays[i, index]
    good &= upper > lower
    share = (upper - level) / np.where(good, upper - lower, 1)
    return np.where(good & (upper >= level), r[index - 1] + share * (r[index] - r[index - 1]), np.nan)


def _robust_fit(design, values) -> tuple[np.ndarray, np.ndarray]:
    """Least squares without the points that are more than three times as far away as usual."""
    residual = values - np.median(values)
    for _ in range(3):
        keep = np.abs(residual) <= 3 * 1.4826 * np.median(np.abs(residual)) + 1e-6
        fit = np.linalg.lstsq(design[keep], values[keep], rcond=None)[0]
        residual = values - design @ fit
    return fit, residual


def _check(edge: _Edge, shape, error: float) -> None:
    """Raise where there is no disk, warn where it is poorly known."""
    how = "Give `probe=`, a vacuum pattern of the same camera length, convergence angle and binning."
    if not math.isfinite(edge.radius) or edge.seen < _SHARE_OF_AZIMUTHS:
        size = f"it is larger than the pattern of {shape[0]} x {shape[1]} px, or has no sharp edge"
        raise ValueError(f"No disk was found to measure the probe from: {size}. {how}")
    if edge.radius > min(shape) / 2:
        raise ValueError(f"The probe (radius {edge.radius:.1f} px) is larger than the pattern {tuple(shape)}. {how}")
    if edge.uneven > max(0.5, _UNEVEN * edge.radius):
        warn(
            f"The edge of the probe is not a circle: it deviates by {edge.uneven:.2g} px from the radius of "
            f"{edge.radius:.3g} px. Check that it is a disk. {how}"
        )
    elif error > max(0.2, 0.05 * edge.radius):
        warn(f"The radius of the probe is uncertain: {edge.radius:.3g} +- {error:.2g} px. {how}")
    if edge.radius < _SMALLEST:
        warn(
            f"The probe is hardly a disk (radius {edge.radius:.2g} px): these seem to be spot patterns, in which disk "
            "detection is less accurate."
        )
