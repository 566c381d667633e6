"""From fitted lattices to strain and rotation, with errors, and without the drift of a slow scan."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pyxem_dl.frames import drift_gradient, drift_of_strain
from pyxem_dl.images.nets import gradients, matched, reciprocal_of
from pyxem_dl.strain.deformation import errors_of, rotation_matrix, strain_of

# Times that the drift is fitted again to what is left, and windows that it needs
_TIMES, _FEWEST = 4, 8
# Windows of the frames that are dealt with at once; where the upper triangle of a matrix is
_AT_ONCE = 4096
_UPPER = np.triu_indices(2)
# Degrees of the angles in which windows are counted, to find where fewest are
_BIN = 1.0


class Strains(NamedTuple):
    """What strain is measured from: ``bases``, list of array (2, 2) in Å, and ``folds`` of the crystals' images."""

    bases: list
    folds: list


class Measured(NamedTuple):
    """Strain of all windows; see :class:`~pyxem_dl.images.lattice_map.LatticeMap`.

    ``values``, ``errors (4, frames, windows)``; ``vectors``, ``vector_errors (frames, windows, 2, 2)``;
    ``crystal (frames, windows)``; ``drift (frames, 2)``.
    """

    values: np.ndarray
    errors: np.ndarray
    vectors: np.ndarray
    vector_errors: np.ndarray
    crystal: np.ndarray
    drift: np.ndarray


def measured(strains: Strains, crystal, reciprocal, covariance, expected, drift: bool) -> Measured:
    """Measure strain and rotation of lattices, some frames at a time; what is kept of them is in single precision.

    Parameters
    ----------
    strains : Strains
        From what.
    crystal : array of int, shape (frames, windows)
        Which crystal each holds; -1 for none.
    reciprocal : array, shape (frames, windows, 4)
        Fitted vectors in Å⁻¹, one after the other.
    covariance : array, shape (frames, windows, 3)
        Of the two, the same along x and y: upper triangle.
    expected : array, shape (1 or frames, windows), or None
        About by how much crystals are turned, in radians.
    drift : bool
        Take the drift away.
    """
    n, windows = crystal.shape
    every = max(1, _AT_ONCE // max(windows, 1))
    blocks = [slice(i, i + every) for i in range(0, n, every)]
    vectors, crystal = np.full((n, windows, 2, 2), np.nan, np.float32), crystal.copy()
    rotation, shifts = np.full((n, windows), np.nan), np.zeros((n, 2))
    for at in blocks:
        angles = expected if expected is None or len(expected) == 1 else expected[at]
        vectors[at], rotation[at], shifts[at] = _compared(strains, crystal[at], reciprocal[at], angles, drift)
    crystal[np.isnan(rotation)] = -1
    cut = rotation.copy()
    for i, fold in enumerate(strains.folds):
        cut[crystal == i] = _cut(rotation[crystal == i], 360.0 / fold)
    values, errors = (np.full((4, n, windows), np.nan, np.float32) for _ in range(2))
    vector_errors = np.full_like(vectors, np.nan)
    for at in blocks:
        found = _strained(strains, crystal[at], vectors[at], rotation[at], cut[at], reciprocal[at], covariance[at])
        values[:, at], errors[:, at], vectors[at], vector_errors[at] = found
    return Measured(values, errors, vectors, vector_errors, crystal, shifts)


def _compared(strains: Strains, crystal, reciprocal, expected, drift: bool):
    """Vectors of some frames that are those of the references, without the drift; rotation in degrees; the drift."""
    reciprocal = _as_rows(reciprocal)
    vectors, gradient = (np.full(reciprocal.shape, np.nan) for _ in range(2))
    for i, basis in enumerate(strains.bases):
        own = crystal == i
        angle = None if expected is None else np.broadcast_to(expected, own.shape)[own]
        vectors[own] = matched(reciprocal_of(reciprocal[own]), basis, angle)
        gradient[own] = gradients(vectors[own], basis)
    shifts = np.zeros((len(crystal), 2))
    if drift:
        shifts = np.array([_drift(each) for each in gradient])
        back = np.linalg.inv(drift_gradient(*shifts.T))[:, None]
        gradient, vectors = back @ gradient, vectors @ np.swapaxes(back, -1, -2)
    none = np.isnan(gradient).any((-1, -2))
    return vectors, np.where(none, np.nan, np.degrees(strain_of(gradient).theta)), shifts


def _strained(strains: Strains, crystal, vectors, rotation, cut, reciprocal, covariance):
    """Values and errors (4, ...) of some frames with the rotations of one range, the vectors, and their errors."""
    reciprocal, vectors = _as_rows(reciprocal), vectors.astype(float)
    gradient = np.full(vectors.shape, np.nan)
    for i, (basis, fold) in enumerate(zip(strains.bases, strains.folds)):
        own, period = crystal == i, 360.0 / fold
        vectors[own] = _turned(vectors[own], basis, np.round((cut[own] - rotation[own]) / period), period)
        gradient[own] = gradients(vectors[own], basis)
    found = strain_of(gradient)
    # the whole turns are those of the cut
    exact = np.degrees(found.theta)
    exact = exact + 360 * np.round((cut - exact) / 360)
    spread = np.empty((*crystal.shape, 2, 2))
    spread[..., _UPPER[0], _UPPER[1]] = spread[..., _UPPER[1], _UPPER[0]] = covariance
    errors, vector_errors = _errors(reciprocal, spread, vectors)
    values = np.stack([found.xx, found.yy, found.xy, exact])
    none = crystal < 0
    values, errors = (np.where(none, np.nan, each) for each in (values, errors))
    vectors, vector_errors = (np.where(none[..., None, None], np.nan, each) for each in (vectors, vector_errors))
    return values, errors, vectors, vector_errors


def _as_rows(reciprocal: np.ndarray) -> np.ndarray:
    return reciprocal.astype(float).reshape(*reciprocal.shape[:-1], 2, 2)


def _drift(gradient: np.ndarray) -> np.ndarray:
    """Drift along x and y of the windows (n, 2, 2) of a frame: the one without which the typical strain has no shear.

    A stretch along both axes alike is one of the scale, and stays.
    """
    gradient = gradient[np.isfinite(gradient).all((-1, -2))]
    total = np.zeros(2)
    if len(gradient) < _FEWEST:
        return total
    for _ in range(_TIMES):
        strain = strain_of(np.linalg.inv(drift_gradient(*total)) @ gradient)
        total = total + drift_of_strain(*(np.median(each) for each in strain[:3]))
    return total


def _cut(rotation: np.ndarray, period: float) -> np.ndarray:
    """Rotations in one period, which begins where the fewest are: those of a grain are not torn apart."""
    if not len(rotation):
        return rotation
    n = int(round(period / _BIN))
    counts = np.bincount((rotation % period / _BIN).astype(int) % n, minlength=n).astype(float)
    # of what is empty the middle: where the neighbourhood is emptiest
    reach = n // 2
    weight = np.exp(-np.minimum(np.arange(n), n - np.arange(n)) / max(reach / 8, 1))
    near = np.fft.irfft(np.fft.rfft(counts) * np.fft.rfft(weight), n)
    begin = (near.argmin() + 0.5) * _BIN
    turned = (rotation - begin) % period + begin
    # of all such ranges the one around 0
    return turned - period * np.round(np.median(turned) / period)


def _turned(vectors: np.ndarray, basis: np.ndarray, times: np.ndarray, period: float) -> np.ndarray:
    """Other vectors (n, 2, 2) of the same lattices: those that are turned by so many periods more."""
    turn = rotation_matrix(-np.deg2rad(period) * times)
    return np.round(basis @ turn @ np.linalg.inv(basis)) @ vectors


def _errors(reciprocal, covariance, vectors) -> tuple[np.ndarray, np.ndarray]:
    """Propagate errors to first order: to strain and rotation (4, ...), and to the vectors (..., 2, 2)."""
    none = ~np.isfinite(reciprocal).all((-1, -2)) | ~(np.abs(np.linalg.det(np.nan_to_num(reciprocal))) > 1e-12)
    found = errors_of(np.where(none[..., None, None], np.eye(2), reciprocal), covariance)
    errors = np.stack([found.xx, found.yy, found.xy, np.degrees(found.theta)])
    # dA = -A dG^T A for rows A = G^-T: a change of the reciprocal vectors, seen from both sides
    inverse = np.swapaxes(reciprocal_of(reciprocal), -1, -2)
    spread = inverse @ covariance @ np.swapaxes(inverse, -1, -2)
    lengths = (vectors**2).sum(-1)
    variance = np.einsum("...jj,...a->...aj", spread, lengths)
    return errors, variance.clip(0) ** 0.5
