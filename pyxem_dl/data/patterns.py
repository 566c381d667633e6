"""Patterns of the disks of a many-beam calculation."""

from __future__ import annotations

import torch
from torch.nn.functional import grid_sample

from pyxem_dl.simulation.detector import draw_spots


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
        return grid_sample(images, grid, align_corners=True, padding_mode="border").reshape(u.shape)

    return draw_spots(
        beams.kx, beams.ky, electrons * beams.present, calibration,
        disk_radius=disk_radius, blur=blur, rocking_curve=inside,
    )  # fmt: skip
