"""Grains of a map: their orientations and sizes, how much they are bent, and the boundaries between them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch

from pyxem_dl.checks import number
from pyxem_dl.metrics.orientations import along_axis, grain_labels, quaternions_of
from pyxem_dl.microstructure.boundaries import GENERAL, Boundaries, find_boundaries
from pyxem_dl.microstructure.neighbourhood import Neighbourhood
from pyxem_dl.plot.checks import check_map
from pyxem_dl.plot.grains import grain_map
from pyxem_dl.records import made_by, with_record
from pyxem_dl.results.map_files import copied_map
from pyxem_dl.results.maps import as_predicted, indexed_where_finite, with_property
from pyxem_dl.rotations import multiply
from pyxem_dl.symmetry import disorientation_angle, proper_operations

if TYPE_CHECKING:
    from orix.crystal_map import CrystalMap
    from orix.quaternion import Rotation

# Rounds of a mean over orientations, of which symmetric copies near the last mean are taken
_ROUNDS = 4


@dataclass(frozen=True, eq=False)
class Grains:
    """Grains of a map. Arrays of the grains have one entry for each of k, the largest first.

    Parameters
    ----------
    xmap : orix.crystal_map.CrystalMap
        Copy of the map, with three more properties of each position: ``grain_id``, number of its grain from 0, -1 where
        not indexed; ``kam``, kernel average misorientation, mean disorientation in degrees from those of the up to four
        neighbours that are in the same grain; ``grod``, disorientation in degrees from the grain's mean orientation.
        Both are NaN where there is nothing to compare with.
    threshold : float
        Degrees from which neighbours are different grains.
    phase_id : array of int, shape (k,)
        Phase of each grain.
    size : array of int, shape (k,)
        Number of positions.
    area : array, shape (k,)
        In the square of the map's unit; of a scan along a line, its length in that unit.
    mean : orix.quaternion.Rotation, shape (k,)
        Mean orientation, lab to crystal, over the symmetric copies that are nearest.
    spread : array, shape (k,)
        Grain orientation spread, mean of ``grod`` in degrees.
    center : array, shape (k, 2)
        Mean of the positions (x, y), in the map's unit.
    at_edge : array of bool, shape (k,)
        Whether it reaches the edge of the map, so that it may be larger.
    boundaries : Boundaries
        Pairs of positions beside each other in different grains.
    provenance : dict
        Where it comes from; see :func:`pyxem_dl.provenance`.
    """

    xmap: CrystalMap
    threshold: float
    phase_id: np.ndarray
    size: np.ndarray
    area: np.ndarray
    mean: Rotation
    spread: np.ndarray
    center: np.ndarray
    at_edge: np.ndarray
    boundaries: Boundaries
    provenance: dict = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.size)

    def __repr__(self) -> str:
        b = self.boundaries
        indexed = int(self.size.sum())
        text = f"<Grains: {len(self)} in {indexed} indexed of {self.xmap.size} positions, threshold {self.threshold:g}°"
        if len(self):
            text += f"; largest {self.size[0]}, {int((self.size == 1).sum())} of a single position"
        kinds = Counter(b.kind)
        shares = [f"{b.share(b.kind == kind):.0%} {kind}" for kind in sorted(kinds) if kind != GENERAL]
        boundaries = f"; boundaries {b.length.sum():.4g} {self.unit}" + (f" ({', '.join(shares)})" if shares else "")
        return text + (boundaries if len(b.length) else "") + ">"

    @property
    def unit(self) -> str:
        """Unit of lengths."""
        return str(self.xmap.scan_unit)

    @property
    def grain_id(self) -> np.ndarray:
        """Grain of each position in the map's data, from 0; -1 where not indexed."""
        return self.xmap.prop["grain_id"]

    @property
    def diameter(self) -> np.ndarray:
        """Diameter of a circle of the same area, in the map's unit."""
        return 2 * np.sqrt(self.area / math.pi)

    @cached_property
    def pairs(self) -> np.ndarray:
        """Pairs of neighbouring grains, a structured array with one row for each.

        Columns: ``first``, ``second`` (numbers of the grains), ``length`` (of their boundary, in the map's unit),
        ``angle`` (median over it, in degrees, NaN between phases), ``sigma_3`` and ``half_turn`` (whether most of it
        is).
        """
        b = self.boundaries
        columns = [("first", int), ("second", int), ("length", float), ("angle", float), ("sigma_3", bool),
                   ("half_turn", bool)]  # fmt: skip
        pairs, index = np.unique(np.sort(b.grains, axis=1), axis=0, return_inverse=True)
        table = np.zeros(len(pairs), dtype=columns)
        if not len(pairs):
            return table
        index = index.ravel()
        pieces = np.split(np.argsort(index, kind="stable"), np.cumsum(np.bincount(index))[:-1])
        table["first"], table["second"] = pairs.T
        for row, piece in zip(table, pieces, strict=True):
            row["length"], row["angle"] = b.length[piece].sum(), np.median(b.angle[piece])
            row["sigma_3"], row["half_turn"] = b.sigma_3[piece].mean() > 0.5, b.half_turn[piece].mean() > 0.5
        return table

    def neighbours(self, grain: int) -> np.ndarray:
        """Numbers of the grains beside a grain, in rising order.

        Parameters
        ----------
        grain : int
            Its number.
        """
        if not 0 <= grain < len(self):
            raise ValueError(f"There is no grain {grain!r}: they are numbered from 0 to {len(self) - 1}.")
        first, second = self.pairs["first"], self.pairs["second"]
        return np.sort(np.concatenate([second[first == grain], first[second == grain]]))

    @property
    def table(self) -> np.ndarray:
        """One row for each grain, as a structured array; ``pandas.DataFrame(grains.table)`` makes a table of it.

        Columns: ``grain_id``, ``phase`` (its name), ``size``, ``area``, ``diameter``, ``x``, ``y``, Euler angles
        ``phi1``, ``Phi``, ``phi2`` of the mean orientation (Bunge, degrees), ``spread``, ``at_edge``, ``neighbours``
        (how many).
        """
        names = {key: phase.name for key, phase in self.xmap.phases if key >= 0}
        counts = np.bincount(np.concatenate([self.pairs["first"], self.pairs["second"]]), minlength=len(self))
        euler = self.mean.to_euler(degrees=True).reshape(-1, 3)
        columns = {
            "grain_id": np.arange(len(self)), "phase": np.array([names[key] for key in self.phase_id], dtype=str),
            "size": self.size, "area": self.area, "diameter": self.diameter, "x": self.center[:, 0],
            "y": self.center[:, 1], "phi1": euler[:, 0], "Phi": euler[:, 1], "phi2": euler[:, 2],
            "spread": self.spread, "at_edge": self.at_edge, "neighbours": counts,
        }  # fmt: skip
        table = np.zeros(len(self), dtype=[(name, values.dtype) for name, values in columns.items()])
        for name, values in columns.items():
            table[name] = values
        return table

    def plot(self, **settings):
        """Draw the grains and their boundaries; see :func:`pyxem_dl.plot.grain_map`, which this calls.

        Parameters
        ----------
        **settings
            Of :func:`pyxem_dl.plot.grain_map`.

        Returns
        -------
        matplotlib.figure.Figure
        """
        return grain_map(self, **settings)


def grains(xmap: CrystalMap, threshold: float = 5.0) -> Grains:
    """Find the grains of a map: neighbours of one phase whose orientations differ by less than a threshold.

    Parameters
    ----------
    xmap : orix.crystal_map.CrystalMap
        Of a scan in one or two dimensions, of whatever program; of several candidates the best one counts.
    threshold : float
        In degrees.

    Returns
    -------
    Grains
        Their mean orientations, sizes, bending and boundaries. ``grains.xmap`` has the number of each position's grain,
        and :func:`pyxem_dl.results.save_map` writes it to ``.h5``, ``.ang`` and ``.ctf``.

    Raises
    ------
    TypeError, ValueError
        For what is no crystal map, and a threshold that is no angle between 0 and 180 degrees.

    Notes
    -----
    Disorientations are those of the Laue groups.  A crystal that is bent is one grain if its orientation changes little
    from one position to the next.  Where a map has positions turned by 180° about the beam, :func:`pyxem_dl.settle`
    them first: each would be a grain.

    Examples
    --------
    >>> found = pyxem_dl.grains(pyxem_dl.data.polycrystal((12, 16), n_grains=4).truth)
    >>> found.size
    array([66, 58, 48,  8])
    """
    check_map(xmap)
    xmap = indexed_where_finite(xmap)
    threshold = number("threshold", threshold, 0, 180, above=True)
    near, (step_x, step_y) = Neighbourhood.of(xmap), _steps(xmap)
    label = grain_labels(xmap, threshold)
    quaternions = np.asarray(quaternions_of(xmap), dtype=float).reshape(-1, 4)
    phases = {key: phase for key, phase in xmap.phases if key >= 0}
    n = int(label.max(initial=-1)) + 1
    phase_id, mean = np.full(n, -1), np.zeros((n, 4))
    phase_id[label[label >= 0]] = xmap.phase_id[label >= 0]
    kam, grod = np.full(len(label), np.nan), np.full(len(label), np.nan)
    for key, phase in phases.items():
        here, operations = np.flatnonzero(xmap.phase_id == key), proper_operations(phase).double()
        if not len(here):
            continue
        q, numbers = torch.from_numpy(quaternions[here]), torch.from_numpy(label[here])
        means = mean_orientations(q, numbers, operations, n)
        grod[here] = np.rad2deg(disorientation_angle(q, means[numbers], operations).numpy())
        mean[phase_id == key] = means[phase_id == key]
    kam = _kernel_average(label, xmap.phase_id, phases, quaternions, near)
    size = np.bincount(label[label >= 0], minlength=n)
    rows, columns = near.shape
    edge = (near.row == 0) | (near.row == rows - 1) if rows > 1 else np.zeros(len(near), dtype=bool)
    edge |= (near.column == 0) | (near.column == columns - 1) if columns > 1 else False
    area = size * (step_x if rows == 1 else step_y if columns == 1 else step_x * step_y)
    found = Grains(
        _with_properties(xmap, label, kam, grod), threshold, phase_id, size, area, _rotation(mean),
        _means(grod, label, n), np.stack([_means(c, label, n) for c in _coordinates(xmap)], axis=1),
        np.bincount(label[edge & (label >= 0)], minlength=n) > 0,
        find_boundaries(label, xmap.phase_id, phases, quaternions, near, (step_x, step_y), threshold),
    )  # fmt: skip
    return with_record(found, made_by("grains", made_from=xmap, threshold=threshold))


def mean_orientations(q: torch.Tensor, label: torch.Tensor, operations: torch.Tensor, n: int) -> torch.Tensor:
    """Mean orientation of each group, over the symmetric copies that are nearest to it.

    The mean of quaternions is that of F. L. Markley et al., J. Guidance, Control and Dynamics 30 (2007) 1193.

    Parameters
    ----------
    q : tensor, shape (p, 4)
        Orientations.
    label : tensor of int, shape (p,)
        Group of each, from 0.
    operations : tensor, shape (o, 4)
        Proper rotations of the Laue group.
    n : int
        Number of groups.

    Returns
    -------
    tensor, shape (n, 4)
        The identity for groups without orientations.
    """
    mean = torch.zeros(n, 4).to(q)
    mean[label] = q  # any member to begin with
    copies = multiply(operations, q[:, None])
    for _ in range(_ROUNDS):
        nearest = torch.einsum("poi,pi->po", copies, mean[label]).abs().argmax(1)
        chosen = copies[torch.arange(len(q)), nearest]
        products = torch.zeros(n, 4, 4).to(q).index_add_(0, label, chosen[:, :, None] * chosen[:, None])
        mean = torch.linalg.eigh(products).eigenvectors[..., -1]
    mean[torch.bincount(label, minlength=n) == 0] = torch.tensor([1.0, 0, 0, 0]).to(q)
    return torch.where(mean[:, :1] < 0, -mean, mean)


def _kernel_average(label, phase_id, phases: dict, quaternions, near: Neighbourhood) -> np.ndarray:
    """Mean disorientation (n,) in degrees from the neighbours in the same grain, NaN without one."""
    total, count = np.zeros(len(label)), np.zeros(len(label))
    q = torch.from_numpy(quaternions)
    for here, there, _ in near.pairs(((0, 1), (1, 0))):
        for key, phase in phases.items():
            same = (label[here] == label[there]) & (phase_id[here] == key)
            a, b = here[same], there[same]
            angle = np.rad2deg(disorientation_angle(q[a], q[b], proper_operations(phase).double()).numpy())
            for ends in (a, b):  # in one direction a position has each neighbour once
                total[ends] += angle
                count[ends] += 1
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _means(values: np.ndarray, label: np.ndarray, n: int) -> np.ndarray:
    there = label >= 0
    total = np.bincount(label[there], weights=values[there], minlength=n)
    return total / np.maximum(np.bincount(label[there], minlength=n), 1)


def _coordinates(xmap) -> list[np.ndarray]:
    return [np.zeros(xmap.size) if c is None or not len(c) else np.asarray(c, dtype=float) for c in (xmap.x, xmap.y)]


def _steps(xmap) -> tuple[float, float]:
    """Find the steps of the scan along x and y; where there is one position only, that of the other direction, or 1."""
    x, y = (along_axis(c, xmap.size)[1] for c in _coordinates(xmap))
    return x or y or 1.0, y or x or 1.0


def _rotation(mean: np.ndarray):
    from orix.quaternion import Rotation

    return Rotation(mean) if len(mean) else Rotation.empty()


def _with_properties(xmap, label, kam, grod):
    copied = as_predicted(copied_map(xmap))
    for name, values, missing in (("grain_id", label, -1), ("kam", kam, np.nan), ("grod", grod, np.nan)):
        with_property(copied, name, values, missing)
    return copied
