"""Nets of columns: which bases of a lattice belong to one another, and the strain between them."""

from __future__ import annotations

import itertools

import numpy as np

from pyxem_dl.patterns.lattice import reduced_basis
from pyxem_dl.strain.deformation import rotation_matrix, strain_of

#: Largest strain by which a lattice may differ from the one that it is measured from
LARGEST_STRAIN = 0.12
# Whole-numbered changes of a basis (two new vectors as rows) that keep its area and handedness
_CHANGES = np.array([
    [[a, b], [c, d]] for a, b, c, d in itertools.product(range(-2, 3), repeat=4) if a * d - b * c == 1
])  # fmt: skip
# What a radian away from the expected angle counts as, in strain: it decides between what looks alike
_ANGLE = 1e-3
# Lattices are the same whose lengths differ by less, relative; kinds of lattices in an image, and the share of the
# windows that a kind has at least
_ALIKE, _MOST_KINDS, _LEAST_SHARE = 0.05, 3, 0.1
# Strain within which a net is taken for a square or a hexagonal one
_SQUARE = 0.012


def matched(basis: np.ndarray, reference: np.ndarray, angle: np.ndarray | None = None) -> np.ndarray:
    """Bases of the same lattices that are the least strained ones from a reference.

    Parameters
    ----------
    basis : array, shape (n, 2, 2)
        Vectors (x, y) as rows.
    reference : array, shape (2, 2)
        The basis that is not strained.
    angle : array, shape (n,), optional
        About by how much the lattices are turned, in radians: of bases that are equally strained the nearest is taken.

    Returns
    -------
    array, shape (n, 2, 2)
        NaN where none is strained by less than :data:`LARGEST_STRAIN`.
    """
    tried = _CHANGES[:, None] @ basis
    found = strain_of(gradients(tried, reference))
    strain = np.sqrt(found.xx**2 + found.yy**2 + 2 * found.xy**2)
    away = found.theta - (0.0 if angle is None else np.asarray(angle))
    cost = strain + _ANGLE * np.abs((away + np.pi) % (2 * np.pi) - np.pi)
    best = np.where(np.isnan(cost), np.inf, cost).argmin(0)
    at = best, np.arange(len(basis))
    return np.where((strain[at] < LARGEST_STRAIN)[:, None, None], tried[at], np.nan)


def gradients(basis: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Deformation gradients F (..., 2, 2), ``r = F r0``, of bases in real space, vectors as rows."""
    # of rows a = a0 F^T
    return np.swapaxes(np.linalg.inv(reference) @ basis, -1, -2)


def reciprocal_of(basis: np.ndarray) -> np.ndarray:
    """Reciprocal basis (..., 2, 2) of a basis, both with vectors as rows."""
    basis = np.asarray(basis, dtype=float)
    area = basis[..., 0, 0] * basis[..., 1, 1] - basis[..., 0, 1] * basis[..., 1, 0]
    none = ~(np.abs(area) > 1e-12)[..., None, None]
    return np.where(none, np.nan, np.swapaxes(np.linalg.inv(np.where(none, np.eye(2), basis)), -1, -2))


def fold_of(basis: np.ndarray) -> int:
    """By which fraction of a turn a lattice looks the same again: 6, 4 or 2."""
    for fold in (6, 4):
        turned = basis @ rotation_matrix(2 * np.pi / fold).T
        indices = turned @ np.linalg.inv(basis)
        if np.abs(indices - np.round(indices)).max() < _ALIKE:
            return fold
    return 2


def kinds_of(bases: np.ndarray) -> list[np.ndarray]:
    """Find the lattices that many windows share, however they are turned.

    Parameters
    ----------
    bases : array, shape (n, 2, 2)
        Vectors as rows, NaN where there is none.

    Returns
    -------
    list of array, shape (2, 2)
        Typical bases, the first vector along x; the most frequent lattice first.
    """
    bases = np.array([reduced_basis(basis) for basis in bases if np.isfinite(basis).all()]).reshape(-1, 2, 2)
    total, kinds = len(bases), []
    while len(bases) and len(kinds) < _MOST_KINDS:
        alike = _are_alike(bases)
        first = bases[alike.sum(1).argmax()]
        near = matched(bases, first)
        strain = strain_of(gradients(near, first), in_crystal=True)
        size = np.sqrt(strain.xx**2 + strain.yy**2 + 2 * strain.xy**2)
        own = size < 2 * _ALIKE
        if own.sum() < max(_LEAST_SHARE * total, 1):
            break
        stretch = [np.median(each[own]) for each in strain[:3]]
        kinds.append(_symmetric(_standing(first, *stretch)))
        bases = bases[~own]
    return kinds


def _are_alike(bases: np.ndarray) -> np.ndarray:
    """Which of reduced bases (n, 2, 2) have the same lengths and angle."""
    lengths = np.linalg.norm(bases, axis=2)
    product = np.abs((bases[:, 0] * bases[:, 1]).sum(1)) ** 0.5
    metric = np.column_stack([lengths, np.linalg.det(bases) ** 0.5])
    apart = np.abs(metric[:, None] - metric) / metric
    return (apart.max(2) < _ALIKE) & (np.abs(product[:, None] - product) < 4 * _ALIKE * lengths.mean())


def _symmetric(basis: np.ndarray) -> np.ndarray:
    """Square or hexagonal net in place of one that hardly differs from it.

    Of a square net that is measured with noise nobody knows which of its two vectors is which, and the median of those
    that look most alike is no longer square.
    """
    length = np.sqrt(np.abs(np.linalg.det(basis)))
    hexagonal = np.sqrt(2 / np.sqrt(3)) * np.array([[1, 0], [-0.5, np.sqrt(0.75)]])
    for ideal in (length * np.eye(2), length * hexagonal):
        near = matched(basis[None], ideal)
        strain = strain_of(gradients(near, ideal))
        if np.hypot(np.hypot(strain.xx, strain.yy), np.sqrt(2) * strain.xy)[0] < _SQUARE:
            return ideal
    return basis


def _standing(basis: np.ndarray, xx: float, yy: float, xy: float) -> np.ndarray:
    """Basis stretched along axes of the crystal, and turned until its first vector lies along x."""
    stretched = basis @ np.array([[1 + xx, xy], [xy, 1 + yy]])
    angle = np.arctan2(stretched[0, 1], stretched[0, 0])
    return stretched @ rotation_matrix(-angle).T
