"""Images of a virtual detector, that grow while the scan is read."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch

from pyxem_dl.scans import Computing, Field, Step, stream

# Seconds between two pictures of work that goes on
_PATIENCE = 0.4


class VirtualDetector(Step):
    """Mean intensity on the pixels of a detector.

    Parameters
    ----------
    mask : array of bool, shape (rows, columns)
        True on the detector.
    """

    noun = "patterns"
    fields = {"mean": Field((), "float32")}
    micro_batch = 256

    def __init__(self, mask: np.ndarray) -> None:
        self._weights = torch.from_numpy(mask / max(1, mask.sum())).float()

    def __call__(self, patterns: torch.Tensor, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Means (n,) of a batch."""
        values = torch.nan_to_num(patterns.float(), nan=0.0, posinf=0.0, neginf=0.0)
        return {"mean": torch.einsum("nij,ij->n", values, self._weights.to(values.device))}


def ring(shape: tuple[int, int], center: tuple[float, float], inner: float, outer: float, excluded=None) -> np.ndarray:
    """Pixels of a detector.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns of the pattern.
    center : tuple of float
        (row, column) in pixels.
    inner, outer : float
        Radii in pixels; an `inner` of 0 makes a disk.
    excluded : array of bool, optional
        Pixels that are never on it.

    Raises
    ------
    ValueError
        If no pixel is on it.
    """
    row, column = np.indices(shape)
    distance = np.hypot(row - center[0], column - center[1])
    mask = (distance >= inner) & (distance < outer)
    if excluded is not None:
        mask &= ~excluded
    if not mask.any():
        raise ValueError(
            f"The virtual detector has no pixel: it reaches from {inner:.3g} to {outer:.3g} px about "
            f"({center[0]:.4g}, {center[1]:.4g})."
        )
    return mask


def virtual_image(data, shape: tuple[int, ...], mask: np.ndarray, show: Callable, stopped: Callable) -> np.ndarray:
    """Read the scan once, and show the image now and then.

    Parameters
    ----------
    data : numpy.ndarray or dask.array.Array, shape (..., rows, columns)
        Patterns in data order.
    shape : tuple of int
        Of the scan.
    mask : array of bool, shape (rows, columns)
        The detector.
    show : callable
        ``show(image, n_done)``, with an image (rows, columns) that is NaN where nothing is read yet.
    stopped : callable
        ``stopped()`` says whether to stop.

    Returns
    -------
    array, shape (rows, columns)
        As far as it came.
    """
    grid = ((1, 1) + tuple(shape))[-2:]
    image, shown, n = np.full(int(np.prod(grid)), np.nan, dtype=np.float32), time.monotonic(), 0
    for part in stream(data, VirtualDetector(mask), Computing("cpu", show_progressbar=False)):
        image[part.indices] = part.arrays["mean"]
        n += len(part.indices)
        if stopped():
            break
        if time.monotonic() - shown > _PATIENCE:
            show(image.reshape(grid).copy(), n)
            shown = time.monotonic()
    return image.reshape(grid)
