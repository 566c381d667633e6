"""Atomic columns: a crystal projected along a zone axis, and its image as a sum of Gaussians.

An image here is the incoherent one of a high-angle annular detector: each column a Gaussian, its height the sum of
Z^1.7 over its atoms.  A Gaussian is the product of one along the rows and one along the columns, so that all columns
of an image are drawn by one product of two matrices.  What is projected is in the lab frame: x to the right, y up.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import gemmi
import numpy as np
import torch

from pyxem_dl.crystals import fractional_coordinates
from pyxem_dl.frames import zone_axis_quaternion

# Exponent of the atomic number in the intensity of a column
_EXPONENT = 1.7
# Columns nearer than this are one, in Å; lengths (relative) and angles that differ by less are the same
_SAME_COLUMN, _SAME = 0.05, 1e-6
# Columns of an image: above, something is wrong with a unit
_MOST_COLUMNS = 2_000_000
# Standard deviations to which a Gaussian is drawn in one piece of the image, and rows of such a piece
_REACH, _PIECE = 5.0, 128


@dataclass(frozen=True, eq=False)
class ProjectedCrystal:
    """Columns of a crystal along a zone axis.

    Parameters
    ----------
    name : str
        Of phase and zone axis, "Fe [1 0 0]".
    zone_axis : tuple of int
        Direction [uvw] along the beam, towards the source.
    quaternion : array, shape (4,)
        Orientation, lab to crystal, of the crystal as it lies here.
    basis : array, shape (2, 2)
        Two vectors (x, y) in Å, of which the first lies along x; the smallest that the unit cell's translations give.
    places : array, shape (m, 2)
        Columns of a cell in fractions of the basis.
    weights : array, shape (m,)
        Their intensities, per Å of thickness.
    """

    name: str
    zone_axis: tuple[int, int, int]
    quaternion: np.ndarray
    basis: np.ndarray
    places: np.ndarray
    weights: np.ndarray

    def fold(self, furthest: float = 1.45) -> int:
        """Tell by which fraction of a turn the spectrum looks the same again: 6, 4, or 2 as every spectrum does.

        Parameters
        ----------
        furthest : float
            Up to which spatial frequency, in Å⁻¹.
        """
        reciprocal = np.linalg.inv(self.basis).T
        n = int(furthest * np.linalg.norm(self.basis, axis=1).max()) + 1
        hk = np.stack(np.meshgrid(*[np.arange(-n, n + 1)] * 2, indexing="ij"), -1).reshape(-1, 2)
        g = hk @ reciprocal
        hk, g = (x[(np.linalg.norm(g, axis=1) <= furthest + 0.02) & hk.any(1)] for x in (hk, g))
        power = np.abs(np.exp(2j * np.pi * hk @ self.places.T) @ self.weights) ** 2
        seen = (power > 0.01 * power.max()) & (np.linalg.norm(g, axis=1) <= furthest)
        for fold in (6, 4):
            turn = 2 * np.pi / fold
            turned = g[seen] @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
            distance = np.linalg.norm(turned[:, None] - g, axis=2)
            near = distance.argmin(1)
            if (distance.min(1) < 0.02).all() and np.allclose(power[near], power[seen], rtol=0.1):
                return fold
        return 2

    def within(self, center, radius: float, angle: float = 0.0, shift=(0.0, 0.0)) -> tuple[np.ndarray, np.ndarray]:
        """Columns inside a circle.

        Parameters
        ----------
        center : sequence of 2 float
            (x, y) in Å.
        radius : float
            In Å.
        angle : float
            By which the crystal is turned about the beam, in degrees, counter-clockwise with y up.
        shift : sequence of 2 float
            By which it is moved, in Å.

        Returns
        -------
        array (n, 2), array (n,)
            Places (x, y) in Å, and weights.
        """
        turn = np.deg2rad(angle)
        along = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        basis = self.basis @ along
        from_origin = np.asarray(center, dtype=float) - np.asarray(shift, dtype=float)
        middle = from_origin @ np.linalg.inv(basis)
        reach = np.ceil(radius * np.linalg.norm(np.linalg.inv(basis), axis=0) + 1).astype(int)
        if np.prod(2.0 * reach + 1) * len(self.places) > _MOST_COLUMNS:
            raise ValueError(
                f"A circle of {radius:g} Å holds more than {_MOST_COLUMNS} columns of {self.name}: give a smaller "
                "image, and check the unit of the pixels (Å)."
            )
        cells = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), -1).reshape(-1, 1, 2)
        places = (cells + np.floor(middle) + self.places).reshape(-1, 2) @ basis
        weights = np.tile(self.weights, len(cells))
        inside = np.hypot(*(places - from_origin).T) <= radius
        return places[inside] + np.asarray(shift, dtype=float), weights[inside]


def project_columns(phase, zone_axis) -> ProjectedCrystal:
    """Project a crystal along a zone axis.

    Parameters
    ----------
    phase : orix.crystal_map.Phase
        From :func:`pyxem_dl.crystals.load_phases`.
    zone_axis : sequence of 3 int
        Direction [uvw] of the unit cell along the beam.

    Raises
    ------
    ValueError
        For no direction, or a phase without atoms.
    """
    axis = _whole_direction(zone_axis)
    lattice = phase.structure.lattice
    base = np.asarray(lattice.base, dtype=float)
    if not len(phase.structure):
        raise ValueError(f"The phase {phase.name!r} has no atoms: give a CIF file.")
    direction = axis @ base / np.linalg.norm(axis @ base)
    vectors = _plane_translations(axis) @ base
    _, to_plane = zone_axis_quaternion(direction, vectors[0])
    basis = _reduced(vectors @ to_plane[:2].T)
    atoms = fractional_coordinates(phase.structure) @ base @ to_plane[:2].T @ np.linalg.inv(basis)
    z = np.array([gemmi.Element(atom.element).atomic_number for atom in phase.structure], dtype=float)
    occupancy = np.array([atom.occupancy for atom in phase.structure], dtype=float)
    weights = occupancy * z**_EXPONENT / np.linalg.norm(axis @ base)
    basis, places, weights = _primitive(basis, *_merged(atoms % 1.0, weights, basis))
    quaternion, to_lab = zone_axis_quaternion(direction, basis[0] @ to_plane[:2])
    basis = basis @ to_plane[:2] @ to_lab[:2].T
    name = f"{phase.name} [{' '.join(map(str, axis))}]"
    return ProjectedCrystal(name, tuple(int(n) for n in axis), quaternion, basis, places, weights)


def _whole_direction(zone_axis) -> np.ndarray:
    """Shortest whole numbers of a direction."""
    axis = np.asarray(zone_axis)
    if axis.shape != (3,) or not np.issubdtype(axis.dtype, np.integer) or not axis.any():
        raise ValueError(f"zone_axis must be three whole numbers [u, v, w], not all 0, not {zone_axis!r}.")
    return axis // np.gcd.reduce(axis)


def _plane_translations(axis: np.ndarray) -> np.ndarray:
    """Two translations (2, 3) that make, with the axis, a basis of all translations."""
    # Euclid's algorithm on the indices: the axis stays the sum of count times translation
    counts, translations = axis.astype(int).copy(), np.eye(3, dtype=int)
    while np.count_nonzero(counts) > 1:
        small, large = np.argsort(np.where(counts == 0, np.iinfo(int).max, np.abs(counts)), kind="stable")[:2]
        times = counts[large] // counts[small]
        counts[large] -= times * counts[small]
        translations[small] += times * translations[large]
    return translations[counts == 0]


def _reduced(vectors: np.ndarray) -> np.ndarray:
    """Two shortest vectors (2, 2) of a plane lattice, in rising length (Gauss), the second counter-clockwise.

    Of vectors that are as long, the one next to x counter-clockwise is the first, and the second is the one next to
    it: rounding must not decide, as angles of crystals are counted from the first.
    """
    first, second = sorted(vectors, key=np.linalg.norm)
    while True:
        second = second - np.round(second @ first / (first @ first)) * first
        if np.linalg.norm(second) >= np.linalg.norm(first) * (1 - _SAME):
            break
        first, second = second, first
    near = np.array([i * first + j * second for i, j in product((-1, 0, 1), repeat=2) if i or j])
    length = np.linalg.norm(near, axis=1)

    def next_to(begin: float, allowed: np.ndarray) -> np.ndarray:
        """Of the shortest of those allowed the one that comes first, counter-clockwise, in half a turn."""
        shortest = near[allowed & (length < length[allowed].min() * (1 + _SAME))]
        angle = (np.arctan2(shortest[:, 1], shortest[:, 0]) - begin + _SAME) % (2 * np.pi)
        return shortest[angle.argmin()]

    first = next_to(0.0, length > 0)
    across = first[0] * near[:, 1] - first[1] * near[:, 0]
    return np.array([first, next_to(np.arctan2(first[1], first[0]), across > _SAME * length.min() ** 2)])


def _merged(places: np.ndarray, weights: np.ndarray, basis: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns of which none stands where another one is; weights add up."""
    found, sums = [], []
    for place, weight in zip(places, weights):
        if found:
            apart = np.array(found) - place
            distance = np.linalg.norm((apart - np.round(apart)) @ basis, axis=1)
            near = int(np.argmin(distance))
            if distance[near] < _SAME_COLUMN:
                sums[near] += weight
                continue
        found.append(place)
        sums.append(weight)
    return np.array(found), np.array(sums)


def _primitive(basis, places, weights) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Do it with the smallest cell whose translations bring every column onto one of the same weight."""
    shifts = [shift for shift in places[1:] - places[0] if _is_translation(shift, basis, places, weights)]
    if not shifts:
        return basis, places, weights
    vectors = [*basis, *((shift - np.round(shift)) @ basis for shift in shifts)]
    vectors = sorted(vectors, key=np.linalg.norm)
    first = vectors[0]
    area = abs(np.linalg.det(basis)) / (len(shifts) + 1)
    second = next(v for v in _combinations(vectors) if abs(abs(np.linalg.det([first, v])) - area) < 1e-4 * area)
    small = _reduced(np.array([first, second]))
    inside = (places @ basis @ np.linalg.inv(small) + 1e-6) % 1.0 - 1e-6
    places, sums = _merged(inside, weights, small)
    return small, places, sums / (len(shifts) + 1)


def _combinations(vectors):
    """Add up a few of the vectors, in all ways; shorter sums first."""
    pool = np.array(vectors)
    counts = np.stack(np.meshgrid(*[(-1, 0, 1)] * min(len(pool), 5)), -1).reshape(-1, min(len(pool), 5))
    sums = counts @ pool[: counts.shape[1]]
    return sums[np.argsort(np.linalg.norm(sums, axis=1), kind="stable")]


def _is_translation(shift, basis, places, weights) -> bool:
    """Whether a shift brings every column onto one of the same weight."""
    apart = (places + shift)[:, None] - places[None]
    distance = np.linalg.norm((apart - np.round(apart)) @ basis, axis=-1)
    partner = distance.argmin(1)
    return bool(
        (distance.min(1) < _SAME_COLUMN).all() and np.allclose(weights[partner], weights, rtol=1e-3)
    )


def draw_columns(
    rows: torch.Tensor, columns: torch.Tensor, weights: torch.Tensor, sigma, shape: tuple[int, int]
) -> torch.Tensor:
    """Draw columns as Gaussians.

    Parameters
    ----------
    rows, columns : tensor, shape (..., m)
        Places in pixels.
    weights : tensor, shape (..., m)
        Heights of the Gaussians.
    sigma : float or tensor, shape (..., m)
        Standard deviation in pixels.
    shape : tuple of int
        Of the images.

    Returns
    -------
    tensor, shape (..., rows, columns)
    """
    def along(places, n):
        pixels = torch.arange(n, dtype=places.dtype, device=places.device)
        wide = sigma[..., None] if isinstance(sigma, torch.Tensor) else sigma
        return torch.exp(-0.5 * ((pixels - places[..., None]) / wide) ** 2)

    if rows.ndim == 1 and shape[0] > _PIECE:
        # of a large image, pieces: far columns add nothing to them
        reach = _REACH * (float(sigma.max()) if isinstance(sigma, torch.Tensor) else sigma)
        pieces = []
        for top in range(0, shape[0], _PIECE):
            n = min(_PIECE, shape[0] - top)
            near = (rows > top - reach) & (rows < top + n + reach)
            wide = sigma[near] if isinstance(sigma, torch.Tensor) else sigma
            pieces.append(draw_columns(rows[near] - top, columns[near], weights[near], wide, (n, shape[1])))
        return torch.cat(pieces)
    return (along(rows, shape[0]) * weights[..., None]).mT @ along(columns, shape[1])
