"""From lattices in reciprocal space to strain and rotation, with their errors.

A crystal that is deformed by ``r = F r0`` has the reciprocal lattice ``g = F^-T g0``.  ``F = V Q`` (left polar
decomposition): turned by Q, then stretched by V along the axes of the pattern.  The strain is ``V - 1``, exact for any
size, and the angle of Q the rotation.  x is to the right and y up in the pattern; a positive rotation is
counterclockwise.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Tensors(NamedTuple):
    """Strain and rotation: ``xx``, ``yy``, ``xy`` without a unit, ``theta`` in radians; arrays of one shape."""

    xx: np.ndarray
    yy: np.ndarray
    xy: np.ndarray
    theta: np.ndarray


def rotation_matrix(angle) -> np.ndarray:
    """Matrices (..., 2, 2) that turn columns (x, y) counterclockwise by angles in radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)


def deformation(basis: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Deformation gradients F (..., 2, 2) of bases (..., 2, 2), rows (kx, ky), from a reference (2, 2)."""
    # as rows: B = B0 F^-1
    return np.linalg.inv(basis) @ reference


def strain_of(gradient: np.ndarray, angle: float = 0.0, *, in_crystal: bool = False) -> Tensors:
    """Strain and rotation of deformation gradients.

    Parameters
    ----------
    gradient : array of shape (..., 2, 2)
        Of :func:`deformation`.
    angle : float
        Of the axis x' from x, counterclockwise, in radians: strain is given along x' and y'.
    in_crystal : bool
        Along axes that turn with the crystal (``F = Q U``, right polar decomposition), not along those of the pattern.
    """
    f = gradient
    theta = np.arctan2(f[..., 1, 0] - f[..., 0, 1], f[..., 0, 0] + f[..., 1, 1])
    back = rotation_matrix(-theta)
    stretch = back @ f if in_crystal else f @ back
    e = in_axes(stretch, angle)
    return Tensors(e[..., 0, 0] - 1, e[..., 1, 1] - 1, (e[..., 0, 1] + e[..., 1, 0]) / 2, theta)


def in_axes(tensor: np.ndarray, angle: float) -> np.ndarray:
    """Tensors (..., 2, 2) in axes that are turned counterclockwise by an angle in radians."""
    turn = rotation_matrix(angle)
    return turn.T @ tensor @ turn


def gradient_of(tensors: Tensors) -> np.ndarray:
    """Deformation gradient (2, 2) of strain in axes of the crystal, ``F = Q U``."""
    stretch = np.array([[1 + tensors.xx, tensors.xy], [tensors.xy, 1 + tensors.yy]])
    return rotation_matrix(tensors.theta) @ stretch


def errors_of(basis: np.ndarray, covariance: np.ndarray, angle: float = 0.0) -> Tensors:
    """Propagate errors to strain and rotation, to first order: standard deviations.

    Parameters
    ----------
    basis : array of shape (..., 2, 2)
        Rows (kx, ky).
    covariance : array of shape (..., 2, 2)
        Of the two rows, the same for kx and ky, which are independent.
    angle : float
        As in :func:`strain_of`.
    """
    # dF F^-1 = -B^-1 dB: its symmetric part is the strain's change, its antisymmetric one the rotation's
    inverse = np.linalg.inv(basis)
    spread = in_axes(inverse @ covariance @ np.swapaxes(inverse, -1, -2), angle)
    xx, yy = (np.sqrt(spread[..., i, i]) for i in (0, 1))
    mixed = np.sqrt(spread[..., 0, 0] + spread[..., 1, 1]) / 2
    return Tensors(xx, yy, mixed, mixed.copy())
