"""What a crystal map says of the windows of an image: which crystal, along which zone axis, turned by how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from pyxem_dl.frames import in_plane_angle, length_in_angstrom
from pyxem_dl.images.series import Images
from pyxem_dl.rotations import conjugate, multiply
from pyxem_dl.simulation.columns import ProjectedCrystal, project_columns

if TYPE_CHECKING:
    from orix.crystal_map import CrystalMap

# Largest index of a zone axis, and degrees by which an orientation may be off it
_LARGEST_INDEX, _OFF = 8, 1.0
_NOTHING = "The crystal map has no indexed point: there is nothing whose lattice could be mapped."


@dataclass(frozen=True, eq=False)
class Mapped:
    """Crystals in the windows of all frames.

    Parameters
    ----------
    crystals : list of ProjectedCrystal
        Those that are there.
    crystal : array of int, shape (frames, rows, columns)
        Which one; -1 for none.
    angle : array, shape (frames, rows, columns)
        By which it is turned, in radians, counter-clockwise with y up.
    phase : list of int
        ``phase_id`` of each crystal.
    x, y : array, shape (columns,), (rows,)
        Middles of the windows in pixels of the image.
    """

    crystals: list[ProjectedCrystal]
    crystal: np.ndarray
    angle: np.ndarray
    phase: list[int]
    x: np.ndarray
    y: np.ndarray


def read_maps(given, images: Images) -> Mapped:
    """Read the crystal map of an image, or of each frame of a series.

    Parameters
    ----------
    given : orix.crystal_map.CrystalMap, or a sequence of them
        From :func:`pyxem_dl.classify_structure`; parts of it will do.  One map of a series holds for all its frames.
    images : Images
        To which it belongs.

    Raises
    ------
    TypeError, ValueError
        For what is no map of these images; the message has both numbers.
    """
    maps = [given] if hasattr(given, "rotations") else list(given) if isinstance(given, Sequence) else None
    if not maps or not all(hasattr(each, "rotations") and hasattr(each, "phase_id") for each in maps):
        raise TypeError(f"Expected a crystal map of `classify_structure`, or one for each frame, not {given!r}.")
    if len(maps) not in (1, images.size):
        raise ValueError(f"There are {len(maps)} crystal maps and {images.size} images: give one for each image.")
    if not any(each.size for each in maps):
        raise ValueError(_NOTHING)
    places = [_places(each, images) for each in maps]
    x, y = (_grid(np.concatenate([each[i] for each in places])) for i in (0, 1))
    crystals: dict = {}
    shape = len(maps), len(y), len(x)
    crystal, angle = np.full(shape, -1), np.zeros(shape)
    for i, (xmap, (column, row)) in enumerate(zip(maps, places)):
        at = i, np.abs(y - row[:, None]).argmin(1), np.abs(x - column[:, None]).argmin(1)
        crystal[at], angle[at] = _crystals_of(xmap, crystals)
    if not crystals:
        raise ValueError(_NOTHING)
    return Mapped([each for each, _ in crystals.values()], crystal, angle, [key[0] for key in crystals], x, y)


def _places(xmap: CrystalMap, images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows (n,) in pixels of the points of a map."""
    if xmap.x is None or xmap.y is None:
        raise ValueError("The crystal map is no map of an image: it has one dimension.")
    factor = length_in_angstrom(xmap.scan_unit) / images.calibration.pixel
    column, row = factor * xmap.x, factor * xmap.y
    rows, columns = images.calibration.shape
    if xmap.size and column.max() > columns - 1 or xmap.size and row.max() > rows - 1:
        raise ValueError(
            f"The crystal map reaches to column {column.max():.0f} and row {row.max():.0f}, but the image has "
            f"{columns} x {rows} px (columns, rows): give the map of this image, with the calibration that it has now."
        )
    return column, row


def _grid(values: np.ndarray) -> np.ndarray:
    """Different values in rising order; what is nearer than a quarter of a pixel is the same."""
    values = np.unique(values)
    return np.array([group.mean() for group in np.split(values, np.flatnonzero(np.diff(values) > 0.25) + 1)])


def _crystals_of(xmap: CrystalMap, crystals: dict) -> tuple[np.ndarray, np.ndarray]:
    """Crystal (n,), -1 for none, and angle (n,) of each point; new crystals are added to those that are known."""
    quaternions = np.asarray(xmap.rotations.data, dtype=float).reshape(xmap.size, -1, 4)[:, 0]
    found, angle = np.full(xmap.size, -1), np.zeros(xmap.size)
    for phase_id in np.unique(xmap.phase_id[xmap.phase_id >= 0]).tolist():
        own = np.flatnonzero(xmap.phase_id == phase_id)
        phase = xmap.phases[phase_id]
        beam = _along_beam(quaternions[own])
        kinds, inverse = np.unique(np.round(beam, 3), axis=0, return_inverse=True)
        for i in range(len(kinds)):
            points = own[inverse.reshape(-1) == i]
            axis = _zone_axis(kinds[i], phase)
            if (phase_id, axis) not in crystals:
                crystals[phase_id, axis] = project_columns(phase, np.array(axis)), len(crystals)
            crystal, number = crystals[phase_id, axis]
            turn = multiply(conjugate(torch.as_tensor(crystal.quaternion)), torch.as_tensor(quaternions[points]))
            found[points], angle[points] = number, in_plane_angle(turn[:, 0], turn[:, 3]).numpy()
    return found, angle


def _along_beam(quaternions: np.ndarray) -> np.ndarray:
    """Directions (n, 3) in the crystals that point at the source."""
    from orix.quaternion import Rotation
    from orix.vector import Vector3d

    return np.asarray((Rotation(quaternions) * Vector3d.zvector()).data)


def _zone_axis(direction: np.ndarray, phase) -> tuple[int, int, int]:
    """Whole numbers [uvw] of a direction in the crystal's Cartesian frame."""
    base = np.asarray(phase.structure.lattice.base, dtype=float)
    indices = direction @ np.linalg.inv(base)
    indices = indices / np.abs(indices).max()
    for n in range(1, _LARGEST_INDEX + 1):
        axis = np.round(n * indices)
        along = axis @ base
        if along @ direction >= np.cos(np.deg2rad(_OFF)) * np.linalg.norm(along) * np.linalg.norm(direction):
            return tuple(int(i) for i in axis)
    raise ValueError(
        f"An orientation of {phase.name!r} has the direction {np.round(indices, 3).tolist()} along the beam, which is "
        f"no zone axis of indices up to {_LARGEST_INDEX}: give a map of `classify_structure`."
    )
