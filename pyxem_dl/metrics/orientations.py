"""How good are orientations: against the truth, and against their neighbours.

With truth: disorientation under the Laue group, strict and modulo the 180 degree ambiguity of zero-order patterns,
misindexing rate, accuracy.  Without: agreement with the neighbours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from pyxem_dl.symmetry import disorientation_angle, proper_operations


def disorientation(a, b, phase=None, *, modulo_180: bool = False) -> np.ndarray:
    """Smallest angle between orientations over the Laue group.

    Parameters
    ----------
    a, b : CrystalMap, orix Rotation, array or tensor of shape (..., 4)
        Orientations lab to crystal; the shapes broadcast.  Of a map (n,) the best orientation at
        each point that is in its data; beside it may be an array of the scan's shape.  Phases
        of two maps are the same if their names are, or if
        both have but one: programs number phases as they like.
    phase : orix.crystal_map.Phase or orix.quaternion.Symmetry, optional
        Whose Laue group is taken; by default a map's own phase at each point.
    modulo_180 : bool
        Take orientations that differ by 180 degrees about the beam for the same.

    Returns
    -------
    array, shape (...)
        In degrees; NaN at a map's points that are not indexed, or that two maps give to
        different phases.

    Raises
    ------
    ValueError
        If neither a phase nor a map is given; for shapes that do not fit; if two maps with several phases have no name
        in common.
    """
    maps = [m for m in (a, b) if hasattr(m, "phase_id")]
    if phase is None and not maps:
        raise ValueError("Give the phase or its point group: disorientations depend on its symmetry.")
    q, p = (torch.as_tensor(quaternions_of(x), dtype=torch.float64) for x in (a, b))
    for m in maps:  # what has the shape of a scan has one orientation for each point of its map
        q, p = (x.reshape(-1, 4) if len(m.shape) > 1 and tuple(x.shape[:-1]) == m.shape else x for x in (q, p))
    try:
        shape = torch.broadcast_shapes(q.shape[:-1], p.shape[:-1])
    except RuntimeError:
        shapes = " and ".join(str(tuple(x.shape[:-1])) for x in (q, p))
        raise ValueError(f"Orientations of the shapes {shapes} do not fit: give one for each of the other.") from None
    q, p = q.expand(*shape, 4), p.expand(*shape, 4)
    groups = {None: phase} if phase is not None else _phases_of(maps[0])
    ids = np.zeros(shape, dtype=int)
    for m in maps:
        numbers = _numbered_as(m, maps[0])
        ids = np.where((numbers < 0) | (numbers != maps[0].phase_id), -1, numbers)
        ids = np.broadcast_to(ids, shape)
    result = np.full(shape, np.nan)
    for key, group in groups.items():
        here = ids >= 0 if key is None else ids == key
        if not here.any():
            continue
        select = torch.from_numpy(np.ascontiguousarray(here))
        operations = proper_operations(group)
        angle = disorientation_angle(q[select], p[select], operations, modulo_180=modulo_180)
        result[here] = np.rad2deg(angle.numpy())
    return result


def misindexing_rate(disorientations, tolerance: float = 5.0) -> float:
    """Share of disorientations above a tolerance.

    Parameters
    ----------
    disorientations : array
        In degrees; NaN (not indexed) counts as misindexed.
    tolerance : float
        In degrees.
    """
    angles = np.asarray(disorientations, dtype=float)
    return float(np.mean(~(angles <= tolerance))) if angles.size else math.nan


@dataclass(frozen=True)
class Accuracy:
    """Disorientations from the truth in a few numbers.

    Parameters
    ----------
    n : int
        How many there are, with those that are not indexed.
    within_2, within_5 : float
        Share within 2 and 5 degrees; what is not indexed is not within.
    median, percentile_90 : float
        Of those that are indexed, in degrees.
    not_indexed : float
        Share without an orientation.
    """

    n: int
    within_2: float
    within_5: float
    median: float
    percentile_90: float
    not_indexed: float

    @classmethod
    def from_disorientations(cls, disorientations) -> Accuracy:
        """Sum up an array of disorientations in degrees, NaN where not indexed."""
        angles = np.asarray(disorientations, dtype=float).ravel()
        indexed = angles[np.isfinite(angles)]
        return cls(
            n=angles.size,
            within_2=1 - misindexing_rate(angles, 2),
            within_5=1 - misindexing_rate(angles, 5),
            median=float(np.median(indexed)) if indexed.size else math.nan,
            percentile_90=float(np.percentile(indexed, 90)) if indexed.size else math.nan,
            not_indexed=1 - indexed.size / angles.size if angles.size else math.nan,
        )


def accuracy(orientations, truth, phase=None) -> dict[str, Accuracy]:
    """Compare orientations with the truth, strictly and modulo 180 degrees about the beam.

    Parameters are those of :func:`disorientation`.

    Returns
    -------
    dict
        With the keys "strict" and "modulo_180".
    """
    return {
        name: Accuracy.from_disorientations(
            disorientation(orientations, truth, phase, modulo_180=name == "modulo_180")
        )
        for name in ("strict", "modulo_180")
    }


@dataclass(frozen=True, eq=False)
class ReliabilityCurve:
    """Errors of groups of predictions, from the surest to the least sure.

    Parameters
    ----------
    expected, rms, median : array, shape (n,)
        Root mean square of the expected errors, and of the true ones; median of the true ones, in degrees.
    """

    expected: np.ndarray
    rms: np.ndarray
    median: np.ndarray


def reliability_curve(expected, error, n_bins: int = 10) -> ReliabilityCurve:
    """Compare expected errors with true ones.

    Parameters
    ----------
    expected, error : array, shape (n,)
        In degrees; what is not finite is left out.
    n_bins : int
        Groups of equal size.

    Returns
    -------
    ReliabilityCurve
    """
    expected, error = (np.asarray(x, dtype=float).ravel() for x in (expected, error))
    known = np.isfinite(expected) & np.isfinite(error)
    if known.sum() < n_bins:
        raise ValueError(f"There are {known.sum()} pairs of expected and true errors: too few for {n_bins} groups.")
    order = np.flatnonzero(known)[np.argsort(expected[known], kind="stable")]
    groups = np.array_split(order, n_bins)
    return ReliabilityCurve(
        np.array([np.sqrt(np.mean(expected[g] ** 2)) for g in groups]),
        np.array([np.sqrt(np.mean(error[g] ** 2)) for g in groups]),
        np.array([np.median(error[g]) for g in groups]),
    )


def neighbour_disorientation(xmap, *, modulo_180: bool = False) -> np.ndarray:
    """Median disorientation of each point from its up to 4 neighbours of the same phase.

    Parameters
    ----------
    xmap : orix.crystal_map.CrystalMap
        A scan in 1 or 2 dimensions.
    modulo_180 : bool
        Take orientations that differ by 180 degrees about the beam for the same.

    Returns
    -------
    array, shape (n,)
        In degrees, for the points in the map's data; NaN where not indexed or without such a
        neighbour.
    """
    angles = np.full((4, xmap.size), np.nan)
    for i, here, there, angle in _neighbours(xmap, modulo_180):
        # the one is the other's neighbour, too
        angles[i, here] = angles[2 + i, there] = angle
    result = np.full(xmap.size, np.nan)
    known = np.isfinite(angles).any(0)
    result[known] = np.nanmedian(angles[:, known], axis=0)
    return result


def grain_labels(xmap, threshold: float = 5.0) -> np.ndarray:
    """Find the grains: neighbours of one phase whose orientations differ by less than a threshold.

    Parameters
    ----------
    xmap : orix.crystal_map.CrystalMap
        A scan in 1 or 2 dimensions.
    threshold : float
        In degrees.

    Returns
    -------
    array of int, shape (n,)
        For the points in the map's data: from 0, the largest grain first; -1 where not indexed.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = [(here[angle < threshold], there[angle < threshold]) for _, here, there, angle in _neighbours(xmap)]
    here, there = (np.concatenate(ends) if pairs else np.zeros(0, dtype=int) for ends in zip(*pairs or [((), ())]))
    links = coo_array((np.ones(len(here), dtype=bool), (here, there)), shape=(xmap.size, xmap.size))
    _, label = connected_components(links, directed=False)
    label = np.where(xmap.phase_id >= 0, label, -1)
    known, inverse, count = np.unique(label[label >= 0], return_inverse=True, return_counts=True)
    rank = np.empty(len(known), dtype=int)
    rank[np.argsort(-count, kind="stable")] = np.arange(len(known))
    label[label >= 0] = rank[inverse]
    return label


def _neighbours(xmap, modulo_180: bool = False):
    """Yield 0 (to the right) or 1 (below), points and their neighbours of the same phase, and degrees between them."""
    row, column = grid_positions(xmap)
    grid = np.full((row.max(initial=0) + 3, column.max(initial=0) + 3), -1)
    grid[row + 1, column + 1] = np.arange(len(row))
    q = torch.as_tensor(quaternions_of(xmap), dtype=torch.float64)
    for i, (down, right) in enumerate([(0, 1), (1, 0)]):
        other = grid[row + 1 + down, column + 1 + right]
        for key, phase in _phases_of(xmap).items():
            here = np.flatnonzero((other >= 0) & (xmap.phase_id == key) & (xmap.phase_id[other] == key))
            there = other[here]
            angle = disorientation_angle(q[here], q[there], proper_operations(phase), modulo_180=modulo_180)
            yield i, here, there, np.rad2deg(angle.numpy())


def quaternions_of(x) -> np.ndarray:
    """Quaternions (..., 4) of whatever holds rotations."""
    if hasattr(x, "phase_id"):
        data = x.rotations.data
        return data[:, 0] if data.ndim == 3 else data
    if isinstance(x, torch.Tensor):
        return x.detach().cpu().numpy()
    data = np.asarray(getattr(x, "data", x) if not isinstance(x, np.ndarray) else x)
    if data.shape[-1:] != (4,):
        raise ValueError(f"Rotations are quaternions of shape (..., 4), not {data.shape}.")
    return data


def _phases_of(xmap) -> dict:
    """Phases of a map by their ids, without "not indexed"."""
    return {key: phase for key, phase in xmap.phases if key >= 0}


def _numbered_as(xmap, other) -> np.ndarray:
    """Phase of each point of a map (n,), by the numbers of another map; -1 where that has no such phase."""
    ours, theirs = ({key: phase.name for key, phase in _phases_of(m).items()} for m in (xmap, other))
    if ours == theirs or not ours or not theirs:
        return xmap.phase_id
    if len(ours) == len(theirs) == 1:
        new = {key: next(iter(theirs)) for key in ours}
    else:
        numbers = {name: key for key, name in theirs.items()}
        new = {key: numbers[name] for key, name in ours.items() if name in numbers}
    if not new:
        names = (", ".join(map(repr, phases.values())) for phases in (ours, theirs))
        raise ValueError(f"The phases of the maps are named {' and '.join(names)}: give the same phase the same name.")
    index = np.full(max(*ours, *xmap.phase_id.tolist()) + 2, -1)  # the last for what is not indexed
    index[list(new)] = list(new.values())
    return index[xmap.phase_id]


def grid_positions(xmap) -> tuple[np.ndarray, np.ndarray]:
    """Row and column (n,) of the points in a map's data, from 0."""
    (row, _), (column, _) = (along_axis(coordinate, xmap.size) for coordinate in (xmap.y, xmap.x))
    # each second row is half a step further: half of the places are never taken
    if row.max(initial=0) > 2 and column.max(initial=0) > 2 and len(np.unique((row + column) % 2)) == 1:
        raise ValueError(
            "The positions of this map lie on a hexagonal grid, and neighbours are looked for on a square one. Bring "
            "the map to a square grid first, with the program that it comes from."
        )
    return row, column


def along_axis(coordinate, n: int) -> tuple[np.ndarray, float]:
    """Count steps along an axis of a scan.

    Parameters
    ----------
    coordinate : array, shape (n,), or None
        Of points, in any unit.
    n : int
        Number of points.

    Returns
    -------
    array of int, shape (n,)
        Steps from the first.
    float
        Length of a step; 0 where all points are at one place.
    """
    if coordinate is None or not len(coordinate):
        return np.zeros(n, dtype=int), 0.0
    places, inverse = np.unique(np.asarray(coordinate, dtype=float), return_inverse=True)
    gaps = np.diff(places)
    # what differs by rounding only is no step
    steps = gaps[gaps > 1e-6 * np.ptp(places)] if len(gaps) else gaps
    if not len(steps):
        return np.zeros(n, dtype=int), 0.0
    # each gap is counted by itself: rounded coordinates do not add up
    index = np.concatenate([[0], np.cumsum(np.round(gaps / steps.min()).astype(int))])
    return index[inverse.reshape(-1)], float(np.ptp(places) / index[-1])
