"""Diffraction vectors of lattices that are known, for tests of what is fitted to them."""

import numpy as np
from pyxem.signals import DiffractionVectors

#: Reciprocal bases as rows (kx, ky) in Å⁻¹
BASES = {
    "square": 0.35 * np.array([[np.cos(0.2), np.sin(0.2)], [-np.sin(0.2), np.cos(0.2)]]),
    "hexagonal": 0.4 * np.array([[1, 0], [0.5, np.sqrt(0.75)]]),
    "centred": np.array([[0.18, 0.25], [-0.18, 0.25]]),
    "oblique": np.array([[0.30, 0.02], [0.11, 0.37]]),
}


def gradient(xx=0.0, yy=0.0, xy=0.0, theta=0.0):
    """Deformation gradient: turned counterclockwise by degrees, then stretched along the axes of the pattern."""
    cos, sin = np.cos(np.radians(theta)), np.sin(np.radians(theta))
    return np.array([[1 + xx, xy], [xy, 1 + yy]]) @ np.array([[cos, -sin], [sin, cos]])


def deformed(basis, gradient):
    """Reciprocal basis of a crystal that is deformed, by way of its lattice in real space."""
    direct = np.linalg.inv(basis).T  # rows a_i with a_i · g_j = δ_ij
    return np.linalg.inv(direct @ gradient.T).T


def points(basis, radius=1.2, origin=(0.0, 0.0)):
    """Points (n, 2) of a lattice, within a radius of its origin."""
    steps = np.arange(-12, 13)
    index = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    k = index @ basis
    return k[np.hypot(*k.T) < radius] + np.asarray(origin)


def tables_of(places, shape, errors=None):
    """Tables with ky, kx as pyxem has them (along rows, downwards), intensity, and errors where they are given."""
    rows = np.empty(len(places), dtype=object)
    for i, k in enumerate(places):
        columns = [-k[:, 1], k[:, 0], np.full(len(k), 100.0)]
        if errors is not None:
            columns += [np.full(len(k), 0.9), errors[i]]
        rows[i] = np.stack(columns, axis=1)
    return rows.reshape(shape)


def vectors_of(places, shape, errors=None, unit="1/Å", **kwargs):
    """pyxem's diffraction vectors of places (kx, ky) at each position; `errors` are expected distances."""
    names = ["ky", "kx", "intensity"] + (["confidence", "position_error"] if errors is not None else [])
    settings = {
        "column_names": names, "units": [unit, unit, "a.u.", "a.u.", unit][: len(names)],
        "scales": [0.02, 0.02, 1, 1, 0.02][: len(names)], "offsets": [-1.28, -1.28, 0, 0, 0][: len(names)],
        "detector_shape": (128, 128),
    }  # fmt: skip
    return DiffractionVectors(tables_of(places, shape, errors), **settings | kwargs)


def random_scan(rng, basis, shape=(6, 8), *, strain=0.02, turn=1.0, noise=0.004, false=0.0, origin=0.003):
    """Vectors and truth (4, y, x) of lattices that are deformed at random, disks with errors of different size."""
    n = int(np.prod(shape))
    truth = np.concatenate([rng.uniform(-strain, strain, (3, n)), rng.uniform(-turn, turn, (1, n))])
    places, errors = [], []
    for each in truth.T:
        k = points(deformed(basis, gradient(*each)), origin=rng.normal(0, origin, 2))
        k = k[rng.random(len(k)) < 0.8]
        deviation = noise * np.exp(rng.uniform(-0.7, 0.7, len(k)))
        k = k + rng.normal(size=k.shape) * deviation[:, None]
        stray = rng.uniform(-1, 1, (rng.poisson(false * len(k)), 2))
        places.append(np.concatenate([k, stray]))
        errors.append(np.sqrt(2) * np.concatenate([deviation, np.full(len(stray), noise)]))
    return vectors_of(places, shape, errors if noise else None), truth.reshape(4, *shape)
