"""Crystals in boxes for multislice calculations: turned, tiled and cut.

A box stands in the lab frame, its sides along x, y and the beam.  It is cut out of a crystal without end, so that it is
full whatever the orientation; at its sides the crystal breaks off, unless the box is one of its periods
(:func:`periodic_box`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pyxem_dl.checks import number
from pyxem_dl.crystals import fractional_coordinates
from pyxem_dl.frames import in_plane_quaternion, lab_to_box, tilt_quaternion

#: Atoms of a box: above 20 million something is wrong with a unit, or the memory runs out
MAX_ATOMS = 20_000_000
# An atom that rounding puts this far (Angstrom) before a border lies on it
_ON_THE_BORDER = 1e-5
# Lattice vectors of up to so many steps along each axis are looked at for a period
_LONGEST_PERIOD = 6


@dataclass(frozen=True)
class Cell:
    """Atoms in a box.

    Parameters
    ----------
    elements : array of str, shape (n,)
        Without charges.
    positions : array, shape (n, 3)
        In Angstrom: x and y as in the lab frame, from the box's corner, and the depth below the entrance surface.
        Sorted by depth.
    occupancy : array, shape (n,)
        Between 0 and 1.
    box : tuple of 3 float
        Sides in Angstrom: along x, along y, and the thickness.
    """

    elements: np.ndarray
    positions: np.ndarray
    occupancy: np.ndarray
    box: tuple[float, float, float]

    def __len__(self) -> int:
        return len(self.elements)


def cut_cell(phase, rotation, box: tuple[float, float], thickness: float, *, origin=(0.0, 0.0, 0.0)) -> Cell:
    """Turn a crystal, and cut a box out of it.

    Parameters
    ----------
    phase : orix.crystal_map.Phase
        From :func:`pyxem_dl.crystals.load_phases`.
    rotation : array, shape (4,), or orix.quaternion.Rotation
        Orientation, lab to crystal.
    box : tuple of 2 float
        Sides along x and y in Angstrom.
    thickness : float
        In Angstrom, along the beam; the surfaces are normal to it.
    origin : sequence of 3 float
        What point of the crystal, in fractions of the unit cell, lies in the middle of the entrance surface.

    Returns
    -------
    Cell

    Raises
    ------
    ValueError
        For a box without an atom, or with more than :data:`MAX_ATOMS`.
    """
    sides = np.array([
        *(number("box", side, 0, above=True) for side in box), number("thickness", thickness, 0, above=True)
    ])  # fmt: skip
    size = f"a box of {' × '.join(f'{side:g}' for side in sides)} Å"
    structure = phase.structure
    xyz = fractional_coordinates(structure)
    expected = len(xyz) * sides.prod() / structure.lattice.volume
    if expected > MAX_ATOMS:
        raise ValueError(
            f"Of {phase.name!r}, {size} holds some {expected:.2g} atoms; at most {MAX_ATOMS:.0e} are allowed. Take a "
            "smaller box or thickness, and check the unit of the cell (Å)."
        )
    base = lab_to_box(_in_lab(rotation, structure.lattice.base))
    middle = sides * [0.5, 0.5, 0.0] - np.asarray(origin, dtype=float) @ base
    places, owners = [], []
    for i, atom in enumerate(xyz):
        place = _lattice_points_inside(base, middle + atom @ base, sides)
        places.append(place)
        owners.append(np.full(len(place), i))
    places, owners = np.concatenate(places), np.concatenate(owners)
    if not len(places):
        raise ValueError(
            f"There is no atom of {phase.name!r} in {size}: give a phase with atoms, and a larger box."
        )
    order = np.argsort(places[:, 2], kind="stable")
    elements = np.array([atom.element for atom in structure])
    occupancy = np.array([atom.occupancy for atom in structure], dtype=float)
    owners = owners[order]
    return Cell(elements[owners], places[order], occupancy[owners], tuple(float(side) for side in sides))


def _in_lab(rotation, vectors: np.ndarray) -> np.ndarray:
    """Vectors (n, 3) of the crystal's Cartesian frame in the lab frame."""
    from orix.quaternion import Rotation
    from orix.vector import Vector3d

    data = np.asarray(getattr(rotation, "data", rotation), dtype=float)
    if data.size != 4 or not np.isfinite(data).all() or not data.any():
        raise ValueError(f"rotation must be one quaternion of 4 finite numbers, not {rotation!r}.")
    data = data.reshape(1, 4)
    return (~Rotation(data) * Vector3d(vectors)).data.reshape(-1, 3)


def _lattice_points_inside(base: np.ndarray, start: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Points ``start + i a + j b + k c`` (n, 3) with 0 <= each coordinate < side; half open, so that boxes tile."""
    # rows of lattice points run along the vector that is nearest to the box's longest side
    longest = int(np.argmax(sides))
    along = int(np.argmax(np.abs(base[:, longest]) / np.linalg.norm(base, axis=1)))
    across = [axis for axis in range(3) if axis != along]
    corners = np.stack(np.meshgrid(*((0.0, side) for side in sides), indexing="ij"), axis=-1).reshape(-1, 3)
    steps = (corners - start) @ np.linalg.inv(base)
    low, high = np.floor(steps.min(axis=0)).astype(int), np.ceil(steps.max(axis=0)).astype(int)
    i, j = np.meshgrid(*(np.arange(low[axis], high[axis] + 1) for axis in across), indexing="ij")
    rows = start + i.reshape(-1, 1) * base[across[0]] + j.reshape(-1, 1) * base[across[1]]
    # of each row, from which step to which it is inside the box, with one to spare
    with np.errstate(divide="ignore", invalid="ignore"):
        crossings = np.stack([-rows / base[along], (sides - rows) / base[along]])
    outside = (rows < -_ON_THE_BORDER) | (rows >= sides)
    parallel = np.abs(base[along]) < 1e-9
    enter = np.where(parallel, np.where(outside, np.inf, -np.inf), crossings.min(axis=0)).max(axis=1)
    leave = np.where(parallel, np.where(outside, -np.inf, np.inf), crossings.max(axis=0)).min(axis=1)
    met = enter <= leave + 2
    rows, first, last = rows[met], np.floor(enter[met]).astype(int) - 1, np.ceil(leave[met]).astype(int) + 1
    count = np.maximum(last - first + 1, 0)
    step = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    points = np.repeat(rows, count, axis=0) + step[:, None] * base[along]
    inside = ((points >= -_ON_THE_BORDER) & (points < sides - _ON_THE_BORDER)).all(axis=1)
    return points[inside]


def zone_axis_rotation(phase, zone_axis, in_plane_rotation: float = 0.0) -> np.ndarray:
    """Orientation with a zone axis along z, towards the source.

    Parameters
    ----------
    phase : orix.crystal_map.Phase
        Of the crystal.
    zone_axis : sequence of 3 float
        [uvw]; of hexagonal and trigonal crystals in three indices, of the lattice.
    in_plane_rotation : float
        In degrees; the crystal is turned about the beam by as much, counter-clockwise in the pattern.

    Returns
    -------
    array, shape (4,)
        Quaternion, lab to crystal.  At 0 degrees the shortest reciprocal lattice vector of the zone (the first of
        these in the order of their indices) lies along +x.
    """
    from orix.quaternion import Rotation

    lattice = phase.structure.lattice
    uvw = _direction(zone_axis)
    z = uvw @ lattice.base
    hkl = _indices(3)
    zone = hkl[np.abs(hkl @ uvw) < 1e-6 * np.abs(uvw).max()]
    if len(zone):
        g = zone @ lattice.recbase.T
        length = np.round(np.linalg.norm(g, axis=1), 6)
        x = g[np.lexsort((*-zone.T[::-1], length))[0]]
    else:  # an axis that is no zone's: whatever is normal to it
        x = np.cross(z, np.eye(3)[np.argmin(np.abs(z))])
    x, z = x / np.linalg.norm(x), z / np.linalg.norm(z)
    rotation = Rotation.from_matrix(np.stack([x, np.cross(z, x), z], axis=1))
    return (rotation * Rotation(np.array(in_plane_quaternion(np.radians(in_plane_rotation))))).data[0]


def tilted(rotation, angle: float, azimuth: float) -> np.ndarray:
    """Orientation of a crystal after a tilt.

    Parameters
    ----------
    rotation : array, shape (4,), or orix.quaternion.Rotation
        Before, lab to crystal.
    angle, azimuth : float
        In degrees: how far, and to where what pointed at the source leans (counter-clockwise from +kx).

    Returns
    -------
    array, shape (4,)
    """
    from orix.quaternion import Rotation

    before = Rotation(np.asarray(getattr(rotation, "data", rotation), dtype=float).reshape(1, 4))
    return (before * Rotation(np.array(tilt_quaternion(np.radians(angle), np.radians(azimuth))))).data[0]


def periodic_box(phase, zone_axis, width: float) -> tuple[np.ndarray, tuple[float, float]]:
    """Orientation and sides of a box without a seam: whole periods of the crystal along x and y.

    Parameters
    ----------
    phase : orix.crystal_map.Phase
        Of the crystal.
    zone_axis : sequence of 3 int
        [uvw], towards the source.
    width : float
        Both sides are at least as long, in Angstrom.

    Returns
    -------
    rotation : array, shape (4,)
        Lab to crystal.
    box : tuple of 2 float
        Sides along x and y in Angstrom.

    Raises
    ------
    ValueError
        Where no two lattice vectors of few steps are at right angles to the zone axis and to each other.
    """
    from orix.quaternion import Rotation

    lattice = phase.structure.lattice
    z = _direction(zone_axis) @ lattice.base
    z = z / np.linalg.norm(z)
    vectors = _indices(_LONGEST_PERIOD) @ lattice.base
    length = np.linalg.norm(vectors, axis=1)
    normal = np.abs(vectors @ z) < 1e-4 * length
    vectors, length = vectors[normal], length[normal]
    cosine = np.abs(vectors @ vectors.T) / np.outer(length, length)
    area = np.where(cosine < 1e-4, np.outer(length, length), np.inf)
    if not area.size or not np.isfinite(area.min()):
        raise ValueError(
            f"The zone axis {tuple(zone_axis)} of {phase.name!r} has no right-angled period of up to {_LONGEST_PERIOD} "
            "unit cells: take a box with the crystal broken off at its sides (cut_cell with zone_axis_rotation)."
        )
    first, second = np.unravel_index(np.argmin(area), area.shape)
    x = vectors[first] / length[first]
    rotation = Rotation.from_matrix(np.stack([x, np.cross(z, x), z], axis=1)).data[0]
    return rotation, tuple(float(period * np.ceil(width / period)) for period in (length[first], length[second]))


def _direction(zone_axis) -> np.ndarray:
    """Read the indices of a direction."""
    uvw = np.asarray(zone_axis, dtype=float)
    if uvw.shape != (3,) or not np.isfinite(uvw).all() or not uvw.any():
        raise ValueError(f"A zone axis is three numbers [uvw], not all of them 0, and not {zone_axis!r}.")
    return uvw


def _indices(most: int) -> np.ndarray:
    """All triples (n, 3) of whole numbers from -most to most but (0, 0, 0)."""
    axis = np.arange(-most, most + 1)
    triples = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    return triples[triples.any(axis=1)]
