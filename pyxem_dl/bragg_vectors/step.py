"""What is done with a batch of patterns to find the disks of each."""

from __future__ import annotations

import numpy as np
import torch

from pyxem_dl.frames import pixel_to_k
from pyxem_dl.results.vectors import VectorsAssembly
from pyxem_dl.scans import Padded, Scan, Step


class DiskStep(Step):
    """Finds the disks of a batch.

    Parameters
    ----------
    scan : Scan
        Without its patterns.
    find : CorrelationFinder or DetectionFinder
        ``find(patterns, centers)`` returns row and column (n, m) in pixels, a tuple of further columns (n, m), and
        which of them are there.
    reciprocal_radius : float, optional
        Disks beyond are left out, in Å⁻¹.
    subtract_center : bool
        Measure from the direct beam; else from the first pixel.
    columns : int
        Of the tables.
    """

    def __init__(self, scan: Scan, find, reciprocal_radius: float | None, subtract_center: bool, columns: int) -> None:
        self.scan, self.find, self.columns = scan, find, columns
        self.reciprocal_radius, self.subtract_center = reciprocal_radius, subtract_center
        self.micro_batch, self.keep_every = find.micro_batch, find.keep_every

    @property
    def fields(self):
        """A table of disks for each pattern."""
        return VectorsAssembly.fields(self.columns)

    def prepare(self, device: torch.device) -> None:
        """Get the finder onto the device."""
        self.find.to(device)

    def __call__(self, patterns: torch.Tensor, indices: np.ndarray) -> dict[str, Padded]:
        """Tables (n, m, columns) in pixels from the direct beam or from the first pixel, and which rows are there."""
        centers = self.scan.batch_centers(patterns, indices)
        row, column, extras, keep = self.find(patterns, centers)
        middle = self.scan.calibration.center if centers is None else centers.to(row)[:, :, None].unbind(1)
        from_beam = row - middle[0], column - middle[1]
        if self.reciprocal_radius is not None:
            k = torch.hypot(*pixel_to_k(row, column, self.scan.calibration, middle))
            keep = keep & (k <= self.reciprocal_radius)
        place = from_beam if self.subtract_center else (row, column)
        return {"disks": Padded(torch.stack([*place, *extras], -1), keep)}
