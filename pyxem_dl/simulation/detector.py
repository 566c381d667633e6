"""Drawing on a detector: disks and spots, halo, rings, and the detector's faults."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional

from pyxem_dl.frames import Calibration, k_to_pixel, pixel_to_k


class Detectors(NamedTuple):
    """Calibrations of patterns that are drawn together, each on its own detector: like one, with tensors (n, 1).

    ``scale`` and ``center`` along rows and columns, as of :class:`~pyxem_dl.frames.Calibration`; ``shape`` of all.
    """

    scale: tuple[torch.Tensor, torch.Tensor]
    center: tuple[torch.Tensor, torch.Tensor]
    shape: tuple[int, int]
    #: They are drawn without one
    distortion: None = None


def draw_spots(
    kx: torch.Tensor,
    ky: torch.Tensor,
    electrons: torch.Tensor,
    calibration: Calibration | Detectors,
    *,
    disk_radius: float | torch.Tensor,
    blur: float | torch.Tensor,
    rocking_curve: Callable | None = None,
    half: int | None = None,
) -> torch.Tensor:
    """Draw disks (or, with a small radius, spots) with sub-pixel positions.

    Parameters
    ----------
    kx, ky : tensor, shape (n, m)
        Centres in Å⁻¹.
    electrons : tensor, shape (n, m)
        Expected electrons of each disk; without a rocking curve exactly their sum.
    calibration : Calibration or Detectors
        Of the detector, or of one for each pattern.
    disk_radius : float or tensor, shape (n, 1)
        In Å⁻¹.
    blur : float or tensor, shape (n, 1)
        Width (standard deviation) of the edge in pixels; a disk smaller than this is a
        Gaussian spot.
    rocking_curve : callable, optional
        Takes the position (qx, qy) in the disk, shape (n, m, p, p), in Å⁻¹, and
        returns the intensity there relative to the centre of the disk.
    half : int, optional
        How many pixels the disks reach to each side, at most (:func:`reach`); needed where `disk_radius` or `blur` is a
        tensor.

    Returns
    -------
    tensor, shape (n, rows, columns)
        Expected electrons per pixel.
    """
    if isinstance(calibration, Calibration) and abs(calibration.scale[0] / calibration.scale[1] - 1) > 1e-3:
        raise ValueError(f"Disks are drawn on square pixels only, not {calibration.scale} Å⁻¹.")
    n, _ = kx.shape
    rows, columns = calibration.shape
    radius = disk_radius / calibration.scale[1]
    half = reach(radius, blur) if half is None else half
    row, column = k_to_pixel(kx, ky, calibration)
    margin = 2 * half + 1
    inside = (row > -half) & (row < rows + half) & (column > -half) & (column < columns + half)
    row = row.clamp(-half, rows + half - 1)
    column = column.clamp(-half, columns + half - 1)
    r0, c0 = row.round().long(), column.round().long()
    step = torch.arange(-half, half + 1, device=kx.device)
    y = (r0 - row)[..., None] + step
    x = (c0 - column)[..., None] + step
    distance = torch.hypot(y[..., :, None], x[..., None, :])
    patch = torch.special.erfc((distance - _over_pixels(radius)) * _over_pixels(1 / (blur * math.sqrt(2))))
    patch = patch / patch.sum((-1, -2), keepdim=True)
    if rocking_curve is not None:
        fine = calibration._replace(scale=[*map(_over_pixels, calibration.scale)]) if _is_several(calibration) else None
        qx, qy = pixel_to_k(y[..., :, None], x[..., None, :], fine or calibration, center=(0, 0))
        patch = patch * rocking_curve(qx, qy)
    patch = patch * (electrons * inside)[..., None, None]
    width = columns + 2 * margin
    canvas = patch.new_zeros(n, (rows + 2 * margin) * width)
    index = (r0[..., None] + step + margin)[..., :, None] * width
    index = index + (c0[..., None] + step + margin)[..., None, :]
    canvas.scatter_add_(1, index.reshape(n, -1), patch.reshape(n, -1))
    canvas = canvas.reshape(n, rows + 2 * margin, width)
    return canvas[:, margin : margin + rows, margin : margin + columns]


def draw_beams(beams, electrons, calibration, *, disk_radius: float, blur: float) -> torch.Tensor:
    """Draw the disks of patterns, uneven inside as they are.

    Parameters
    ----------
    beams : pyxem_dl.simulation.many_beam.BeamIntensities
        Of n patterns.
    electrons : float or tensor, shape (n, beams)
        That are incident, of which each beam has its share.
    calibration : Calibration
        Of the detector.
    disk_radius : float
        In Å⁻¹.
    blur : float
        Of the disks' edges in px.

    Returns
    -------
    tensor, shape (n, rows, columns)
        Expected electrons.
    """
    images = beams.intensity.flatten(0, 1)[:, None]

    def inside(qx, qy):
        u, v = torch.broadcast_tensors(qx / disk_radius, qy / disk_radius)
        grid = torch.stack([u, v], dim=-1).flatten(0, 1)
        return functional.grid_sample(images, grid, align_corners=True, padding_mode="border").reshape(u.shape)

    return draw_spots(
        beams.kx, beams.ky, electrons * beams.present, calibration,
        disk_radius=disk_radius, blur=blur, rocking_curve=inside,
    )  # fmt: skip


def reach(radius: float, blur: float) -> int:
    """How many pixels a disk of a radius (px) and a blurred edge reaches to each side."""
    return math.ceil(radius + 2.5 * blur)


def _is_several(calibration) -> bool:
    return isinstance(calibration, Detectors)


def _over_pixels(x):
    """Shape numbers of patterns (n, 1) so that they go with the pixels of their disks (n, m, p, p)."""
    return x[..., None, None] if isinstance(x, torch.Tensor) else x


class Background(NamedTuple):
    """A radial background per pattern, around a centre of its own.

    ``profile (n, m)`` holds values at m equally spaced radii from 0 to ``radius`` (Å⁻¹);
    ``center (n, 2)`` is its centre's (kx, ky) in Å⁻¹.
    """

    profile: torch.Tensor
    radius: float
    center: torch.Tensor


def expected_background(background: Background, calibration: Calibration | Detectors) -> torch.Tensor:
    """Evaluate backgrounds on a detector: (n, rows, columns), summing to 1 in each pattern."""
    rows, columns = calibration.shape
    device = background.profile.device
    r = torch.arange(rows, device=device, dtype=torch.float32)
    c = torch.arange(columns, device=device, dtype=torch.float32)
    if _is_several(calibration):
        kx, ky = pixel_to_k(r, c, calibration)
        kx, ky = kx.reshape(-1, 1, columns), ky.reshape(-1, rows, 1)
    else:
        kx, ky = pixel_to_k(r[:, None], c, calibration)
    k = torch.hypot(kx - background.center[:, 0, None, None], ky - background.center[:, 1, None, None])
    m = background.profile.shape[1]
    index = (k * ((m - 1) / background.radius)).clamp_max(m - 1).long().reshape(len(k), -1)
    values = background.profile.gather(1, index).reshape(k.shape)
    return values / values.sum((1, 2), keepdim=True).clamp_min(1e-30)


def beam_stop(
    calibration: Calibration, radius: float, width: float, angle: float, device="cpu"
) -> torch.Tensor:
    """Shape of a beam stop (rows, columns), True where it covers the detector.

    Parameters
    ----------
    calibration : Calibration
        Of the detector.
    radius, width : float
        Of the disk and of the arm that holds it, in Å⁻¹.
    angle : float
        Direction of the arm in radians.
    device : str or torch.device
        Where to make it.
    """
    rows, columns = calibration.shape
    r = torch.arange(rows, device=device, dtype=torch.float32)
    c = torch.arange(columns, device=device, dtype=torch.float32)
    kx, ky = pixel_to_k(r[:, None], c, calibration)
    along = kx * math.cos(angle) + ky * math.sin(angle)
    across = kx * math.sin(angle) - ky * math.cos(angle)
    return (torch.hypot(kx, ky) < radius) | ((along > 0) & (across.abs() < width / 2))
