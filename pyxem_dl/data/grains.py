"""A simulated atomic-resolution image of grains, with the truth: which pixel belongs to which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from pyxem_dl.checks import number, whole_number
from pyxem_dl.data.phases import phase_of_atoms
from pyxem_dl.frames import lab_to_image
from pyxem_dl.simulation.columns import ProjectedCrystal, draw_columns, project_columns

#: Zone axes of the classes that are known best in the literature, by kind of crystal; in four indices the last are
#: 0001, 10-10 and 2-1-10
ZONE_AXES = {
    "bcc": ((1, 0, 0), (1, 1, 0), (1, 1, 1)),
    "fcc": ((1, 0, 0), (1, 1, 0), (1, 1, 1), (2, 1, 1)),
    "hcp": ((0, 0, 1), (2, 1, 0), (1, 0, 0)),
}
# Standard deviation of the probe, and of the places of columns, in Å
_PROBE, _DISPLACED = 0.45, 0.04
# Places of an amorphous layer per Å²
_AMORPHOUS = 0.22


class AtomicGrains(NamedTuple):
    """A simulated image of grains.

    ``signal``: HyperSpy's ``Signal2D``, in Å; ``labels``: array (rows, columns), 0 where there is no crystal, then
    1, 2, ... for each grain; ``crystals`` and ``angles`` (degrees, counter-clockwise with y up): of grain 1, 2, ...
    """

    signal: object
    labels: np.ndarray
    crystals: list[ProjectedCrystal]
    angles: list[float]


def metals():
    """Phases of three metals: bcc iron, fcc copper and hcp titanium, as a list."""
    return [
        phase_of_atoms("Fe", 229, (2.8665, 2.8665, 2.8665, 90, 90, 90), [("Fe", (0, 0, 0))]),
        phase_of_atoms("Cu", 225, (3.6149, 3.6149, 3.6149, 90, 90, 90), [("Cu", (0, 0, 0))]),
        phase_of_atoms("Ti", 194, (2.9506, 2.9506, 4.6788, 90, 90, 120), [("Ti", (1 / 3, 2 / 3, 0.25))]),
    ]


def metal_crystals() -> list[ProjectedCrystal]:
    """Make the ten classes of the literature: bcc 100, 110, 111, fcc 100, 110, 111, 211, hcp 0001, 10-10, 2-1-10."""
    return [
        project_columns(phase, axis) for phase, axes in zip(metals(), ZONE_AXES.values()) for axis in axes
    ]


def atomic_grains(
    shape: tuple[int, int] = (384, 384), counts: float = 10.0, *, crystals: Sequence[ProjectedCrystal] | None = None,
    angles: Sequence[float] | None = None, pixel: float = 0.12, vacuum: bool = False, amorphous: bool = False,
    labels: np.ndarray | None = None, seed: int = 0,
) -> AtomicGrains:  # fmt: skip
    """Simulate the image of some grains.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns.
    counts : float
        Electrons per pixel, on average over the grains.
    crystals : sequence of ProjectedCrystal, optional
        One for each grain, from ``simulation.columns.project_columns``; by default bcc iron along [100], twice.
    angles : sequence of float, optional
        Of each grain, in degrees; by default drawn.
    pixel : float
        In Å.
    vacuum, amorphous : bool
        Add a region without anything, and one without order.  Their label is 0.
    labels : array of int, shape (rows, columns), optional
        Which grain each pixel belongs to, from 1; by default straight boundaries between random points.
    seed : int
        Of all that is drawn.

    Returns
    -------
    AtomicGrains

    Examples
    --------
    >>> import pyxem_dl
    >>> scene = pyxem_dl.data.atomic_grains((128, 128))
    >>> scene.signal
    <Signal2D, title: Grains, dimensions: (|128, 128)>
    """
    counts, pixel = number("counts", counts, 0, above=True), number("pixel", pixel, 0, above=True)
    shape = tuple(whole_number("shape", n, 16, 16384) for n in shape)
    rng = np.random.default_rng(seed)
    if crystals is None:
        crystals = [metal_crystals()[0]] * 2
    crystals = list(crystals)
    angles = [float(angle) for angle in (rng.uniform(0, 90, len(crystals)) if angles is None else angles)]
    kinds = [*crystals, *[None] * vacuum, *["amorphous"] * amorphous]
    regions = _voronoi(shape, len(kinds), rng) if labels is None else np.asarray(labels) - 1
    expected = np.zeros(shape)
    for i, kind in enumerate(kinds):
        image = _region(kind, angles[i] if i < len(angles) else 0.0, regions == i, pixel, rng)
        expected += image
    inside = (regions >= 0) & (regions < len(crystals))
    expected = np.maximum(expected + 0.02 * expected.max(), 0)
    image = rng.poisson(expected * counts / expected[inside].mean()).astype(np.float32)
    truth = np.where(inside, regions + 1, 0).astype(np.int16)
    return AtomicGrains(_signal(image, pixel), truth, crystals, angles)


def _voronoi(shape, n: int, rng) -> np.ndarray:
    """Regions of the nearest of n points; each has a tenth of its share of the image at least, and they lie apart."""
    places = np.stack(np.indices(shape), -1).reshape(-1, 2)
    for _ in range(200):
        points = rng.random((n, 2)) * shape
        distance = np.linalg.norm(places[:, None] - points, axis=2)
        found = distance.argmin(1).reshape(shape)
        if (np.bincount(found.ravel(), minlength=n) > 0.4 * found.size / n).all():
            break
    return found


def _region(kind, angle: float, inside: np.ndarray, pixel: float, rng) -> np.ndarray:
    """Image of one region, 0 outside of it but for the tails of columns."""
    image = np.zeros(inside.shape)
    if kind is None or not inside.any():
        return image
    size = np.array(inside.shape)
    if kind == "amorphous":
        n = rng.poisson(_AMORPHOUS * inside.size * pixel**2)
        rows, columns = (rng.random((n, 2)) * size).T
        weights = rng.uniform(0.3, 1.0, n)
    else:
        radius = np.linalg.norm(size) * pixel / 2 + 5
        shift = rng.uniform(-5, 5, 2)
        places, weights = kind.within((0.0, 0.0), radius, angle, shift)
        places = places + rng.normal(0, _DISPLACED, places.shape)
        rows, columns = (each / pixel + n / 2 for each, n in zip(lab_to_image(*places.T), size))
        weights = weights / weights.max() * rng.normal(1, 0.05, len(weights)).clip(0.5)
    keep = (rows > -0.5) & (rows < size[0] - 0.5) & (columns > -0.5) & (columns < size[1] - 0.5)
    keep[keep] = inside[np.round(rows[keep]).astype(int), np.round(columns[keep]).astype(int)]
    drawn = draw_columns(
        *(torch.as_tensor(x[keep], dtype=torch.float32) for x in (rows, columns, weights)), _PROBE / pixel, inside.shape
    ).numpy()
    slope = rng.normal(0, 0.1, 2)
    places = np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij")
    thickness = 1 + sum(s * x for s, x in zip(slope, places))
    return rng.uniform(0.7, 1.3) * thickness * (drawn + rng.uniform(0.1, 0.5) * drawn.max() * inside)


def _signal(image: np.ndarray, pixel: float):
    import hyperspy.api as hs

    signal = hs.signals.Signal2D(image)
    signal.metadata.General.title = "Grains"
    for axis, name in zip(signal.axes_manager.signal_axes, "xy"):
        axis.name, axis.units, axis.scale = name, "Å", pixel
    return signal
