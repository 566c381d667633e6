"""Tilt of a pattern from its disks: the zone axis next to the beam, of any crystal, by lattice and Laue circle."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from pyxem_dl.calibration import FoundCalibration
from pyxem_dl.checks import number
from pyxem_dl.frames import Calibration, excitation_error, laue_circle_center, zone_axis_after_tilt
from pyxem_dl.patterns.likelihood import SpotLists, VectorBatch, log_likelihood
from pyxem_dl.progress import progressbar
from pyxem_dl.records import made_by, with_record
from pyxem_dl.results.vector_scan import VectorScan
from pyxem_dl.results.vectors import calibrated_vectors
from pyxem_dl.scans import Reading

if TYPE_CHECKING:
    from pyxem_dl.annotations import Vectors

# Vectors of which lattices are made; lattices that are looked at; their nodes, at most
_SEEDS, _LATTICES, _NODES = 14, 4, 64
# Fewer disks on a lattice tell no plane
_FEWEST = 3
# The shortest distance between disks of a lattice in Å⁻¹, and of a disk from its node
_SHORTEST, _DISTANCE = 0.06, 0.006
# 1 / extinction distance (Å⁻¹) of a reflection at 0.5 Å⁻¹, and how fast its logarithm falls, Å: between light and heavy
_STRENGTH, _FALL = 0.002, 1.7
# Structure factors differ from that, and intensities from those of two beams: of the logarithm
_SCATTER = 1.0
# Share of disks that lie on no lattice: other Laue zones, other crystals
_STRAY = 0.1
# Degrees: steps of the search, each within twice the step before
_STEPS = (0.6, 0.15, 0.04)
_LARGEST_TILT = 30.0
# Degrees: a plane of which several disks are seen is rarely tilted by more than twice this
_USUAL_TILT = 3.0


class _Tilts(NamedTuple):
    tilt: np.ndarray
    error: np.ndarray
    laue_center: np.ndarray
    n_disks: np.ndarray
    lattice: np.ndarray


class TiltMap(_Tilts):
    """Tilts of the zone axis next to the beam, in every pattern; arrays of the navigation's shape, NaN if not known.

    ``tilt (..., 2)``: components x, y of the tilt in degrees: the zone axis leans from the beam (z, towards the source)
    to +x (right) and +y (up) of the pattern; ``error (...)``, its expected distance from the truth in degrees;
    ``laue_center (..., 2)``, centre (kx, ky) of the Laue circle in Å⁻¹; ``n_disks (...)``, expected number of disks on
    the plane's lattice; ``lattice (..., 2, 2)``, its shortest vectors (kx, ky) in Å⁻¹, as rows.  What
    :func:`tilt_map` returns has ``provenance``, too: where it comes from (see :func:`pyxem_dl.provenance`).
    """


def tilt_map(
    vectors: Vectors,
    *,
    max_tilt: float = 10.0,
    beam_energy: float | None = None,
    navigation_mask: np.ndarray | None = None,
    calibration: Calibration | FoundCalibration | None = None,
    show_progressbar: bool | None = None,
) -> TiltMap:
    """Find the tilt of the zone axis next to the beam from the disks of each pattern, of any crystal.

    Parameters
    ----------
    vectors : pyxem.signals.DiffractionVectors
        Measured from the direct beam, with intensities; the columns ``confidence``, ``position_error``, ``q_z`` and
        ``q_z_error`` are used where there are any.
    max_tilt : float
        Largest tilt in degrees that is looked for.
    beam_energy : float, optional
        In kV; by default that of the metadata.
    navigation_mask : array of bool, optional
        True where a pattern is excluded, of the navigation's shape in data order (y, x).
    calibration : Calibration or FoundCalibration, optional
        Of the scan, found after the vectors were: its scale and ellipse are used.  Vectors of a scan that was
        calibrated before (``found.apply(s)``) need none.
    show_progressbar : bool, optional
        By default HyperSpy's preference.

    Returns
    -------
    TiltMap
        NaN where fewer than three disks, or disks on one line only, fit the best lattice; and where excluded.

    Raises
    ------
    ValueError
        For vectors without beam energy or unit, without intensities, or measured from the first pixel.

    Notes
    -----
    The disks of a zone lie on a plane lattice through the direct beam, and are bright where the plane is near the Ewald
    sphere: on the Laue circle.  Of the lattices that explain the positions, and the tilts of each, those are taken that
    make positions, intensities and q_z likeliest: see :func:`pyxem_dl.patterns.likelihood.log_likelihood`, here with
    structure factors that only fall with k.  Disks of other Laue zones and crystals lie on no node, and count as
    strays.  The error is the spread of the likelihood.
    """
    max_tilt = number("max_tilt", max_tilt, 0, _LARGEST_TILT)
    if calibration is not None:
        vectors = calibrated_vectors(vectors, calibration)
    reading = Reading(navigation_mask, None, None, beam_energy)
    scan = VectorScan(vectors, reading)
    wavelength = scan.scan.calibration.wavelength  # its error, before anything is computed
    reader = scan.reader
    if not reader.has_intensities:
        raise ValueError(
            f"The vectors have the columns {', '.join(reader.columns)}: a tilt needs 'intensity'. Find them with "
            "`s.predict_bragg_vectors()` or `s.match_disks()`."
        )
    radius, result = scan.reciprocal_radius, _empty(scan.tables.shape)
    excluded = scan.scan.navigation_mask.reshape(scan.tables.shape)
    with progressbar(int((~excluded).sum()), show_progressbar) as bar:
        for index in np.argwhere(~excluded):
            index = tuple(index)
            batch = reader([scan.tables[index]])
            for array, value in zip(result, _tilt(batch, radius, max_tilt, wavelength) or ()):
                array[index] = value
            bar.update()
    return with_record(
        result, made_by("tilt_map", signal=vectors, made_from=vectors, max_tilt=max_tilt, **reading.asked())
    )


def _empty(shape) -> TiltMap:
    """Tilts of nothing."""
    return TiltMap(*(np.full((*shape, *more), np.nan) for more in ((2,), (), (2,), (), (2, 2))))


def _tilt(vectors: VectorBatch, radius: float, max_tilt: float, wavelength: float):
    """Values of a :class:`TiltMap` for one pattern; None where it has none."""
    there = vectors.confidence[0] > 0
    if int(there.sum()) < _FEWEST:
        return None
    vectors = VectorBatch(*(column[:, there] for column in vectors))
    lattices = find_lattices(*(column[0].double().numpy() for column in vectors[:2]), *_weights(vectors))
    if not len(lattices):
        return None
    spots = _nodes(lattices, radius, wavelength)
    centre, log_weight, points = np.zeros((1, len(lattices), 1, 2)), None, None
    reach = max_tilt
    for step in _STEPS:
        tilts = torch.as_tensor(centre + _mesh(reach, step), dtype=torch.float32)
        found = _log_posterior(vectors, spots, tilts, step)
        best = found.argmax(-1)
        centre = tilts.gather(2, best[..., None, None].expand(-1, -1, 1, 2)).numpy()
        if log_weight is None:
            log_weight, points = found[0].flatten(), tilts[0].flatten(0, 1)
        reach = 2 * step
    lattice = int(found.amax(-1)[0].argmax())
    tilt = centre[0, lattice, 0]
    near = torch.as_tensor(tilt + _mesh(8 * _STEPS[1], _STEPS[1]), dtype=torch.float32)
    one = SpotLists(*(column[:, lattice : lattice + 1] for column in spots))
    local = _log_posterior(vectors, one, near[None, None], _STEPS[1])[0, 0]
    error = math.sqrt(_spread(local, near, tilt) ** 2 + _spread(log_weight, points, tilt, 8 * _STEPS[1]) ** 2)
    x, y = zone_axis_after_tilt(*tilt)
    number_on, plane = _on_lattice(vectors, lattices[lattice])
    if not plane:
        return None
    return np.degrees([x, y]), math.degrees(error), laue_circle_center(x, y, wavelength), number_on, lattices[lattice]


def _log_posterior(vectors: VectorBatch, spots: SpotLists, tilts: torch.Tensor, step: float) -> torch.Tensor:
    """Logarithm of the probability (1, lattices, tilts) of tilts that stand for `step` degrees."""
    prior = -0.5 * tilts.square().sum(-1) / math.radians(_USUAL_TILT) ** 2
    return log_likelihood(vectors, spots, tilts, math.radians(step), _SCATTER) + prior


def _spread(log_weight: torch.Tensor, points: torch.Tensor, tilt, beyond: float = 0.0) -> float:
    """Root mean square distance (radians) of tilts from the best, of those beyond some degrees only."""
    squared = (points - torch.as_tensor(tilt, dtype=points.dtype)).square().sum(-1)
    weight = torch.softmax(log_weight, 0) * (squared >= math.radians(beyond) ** 2)
    return math.sqrt(float((weight * squared).sum()))


def _weights(vectors: VectorBatch) -> tuple[np.ndarray, np.ndarray]:
    """Confidence, and variance (Å⁻²) of the distance from a node."""
    return vectors.confidence[0].double().numpy(), vectors.variance[0].double().numpy() + _DISTANCE**2


def _mesh(reach: float, step: float) -> np.ndarray:
    """Tilts (m, 2) in radians, on a hexagonal mesh, up to some degrees."""
    n = math.ceil(1.2 * reach / step)
    i, j = np.meshgrid(np.arange(-2 * n, 2 * n + 1), np.arange(-n, n + 1), indexing="ij")
    points = step * np.stack([i + 0.5 * j, math.sqrt(0.75) * j], -1).reshape(-1, 2)
    return np.radians(points[np.hypot(*points.T) <= reach])


def find_lattices(kx, ky, confidence, variance, number: int = _LATTICES) -> np.ndarray:
    """Find plane lattices through the origin on which places lie.

    Parameters
    ----------
    kx, ky : array, shape (m,)
        Places in Å⁻¹, the most confident first.
    confidence : array, shape (m,)
        How probable it is that something is there.
    variance : array, shape (m,)
        Of a coordinate, in Å⁻².
    number : int
        How many to find, at most.

    Returns
    -------
    array, shape (lattices, 2, 2)
        The two shortest vectors (kx, ky) of each as rows, the best lattice first.
    """
    places = np.stack([kx, ky], 1)
    seeds = places[:_SEEDS]
    between = (seeds[:, None] - seeds[None])[np.triu_indices(len(seeds), 1)]
    sides = np.concatenate([seeds, between])
    sides = sides[np.hypot(*sides.T) > _SHORTEST]
    first, second = np.triu_indices(len(sides), 1)
    bases = np.stack([sides[first], sides[second]], 1)
    area = np.abs(np.linalg.det(bases))
    lengths = np.linalg.norm(bases, axis=2)
    bases = bases[(area > 0.3 * lengths.prod(1)) & (area > _SHORTEST**2)]
    if not len(bases):
        return np.zeros((0, 2, 2))
    evidence = _evidence(bases, places, confidence, variance)
    order = np.argsort(-evidence.sum(1), kind="stable")[: 50 * number]
    # the two disks that a lattice is made of lie on it whatever they are, and many lattices were tried
    beside = np.sort(evidence[order], axis=1)[:, :-2].sum(1)
    found = []
    for basis in bases[order[beside > math.log(len(bases))]]:
        basis = _fitted(_reduced(basis), places, confidence, variance)
        if basis is not None and not any(_same(basis, other) for other in found):
            found.append(basis)
        if len(found) == number:
            break
    return np.array(found).reshape(-1, 2, 2)


def _misfit(bases, places):
    """Return indices (n, m, 2) of the nearest nodes of lattices (n, 2, 2), and squared distances (n, m) from them."""
    index = np.round(places @ np.linalg.inv(bases))
    return index, ((places - index @ bases) ** 2).sum(-1)


def _evidence(bases, places, confidence, variance) -> np.ndarray:
    """Logarithm of how much likelier places (n, m) are on lattices than anywhere: small cells have nodes everywhere."""
    squared = _misfit(bases, places)[1]
    density = np.exp(-0.5 * squared / variance) / (2 * np.pi * variance)
    on = np.abs(np.linalg.det(bases))[:, None] * density
    return np.log1p(confidence * (_STRAY + (1 - _STRAY) * on - 1))


def _fitted(basis, places, confidence, variance):
    """Fit a lattice to the places that lie on it, by weighted least squares; None if they are on a line."""
    for _ in range(3):
        index, squared = (x[0] for x in _misfit(basis[None], places))
        weight = confidence / variance * np.exp(-0.5 * squared / variance)
        weight = weight * index.any(1)
        normal = (index * weight[:, None]).T @ index
        if not np.linalg.det(normal) > 1e-6 * np.trace(normal) ** 2:
            return None
        basis = np.linalg.solve(normal, (index * weight[:, None]).T @ places)
        if not np.abs(np.linalg.det(basis)) > _SHORTEST**2:
            return None
    return basis


def _reduced(basis) -> np.ndarray:
    """Gauss' reduction: the two shortest vectors of a plane lattice."""
    a, b = sorted(basis, key=np.linalg.norm)
    while True:
        b = b - round(float(a @ b / (a @ a))) * a
        if np.linalg.norm(b) >= np.linalg.norm(a) * (1 - 1e-9):
            return np.stack([a, b])
        a, b = b, a


def _same(one, other) -> bool:
    """Tell whether two bases make the same lattice, to a few per cent."""
    index = one @ np.linalg.inv(other)
    whole = np.round(index)
    return bool(np.abs(index - whole).max() < 0.1 and abs(abs(np.linalg.det(whole)) - 1) < 0.1)


def _on_lattice(vectors: VectorBatch, basis) -> tuple[float, bool]:
    """Count the disks that are expected to lie on a lattice, and tell whether three or more of them make a plane."""
    confidence, variance = _weights(vectors)
    places = np.stack([vectors.kx[0].numpy(), vectors.ky[0].numpy()], 1)
    index, squared = (x[0] for x in _misfit(basis[None], places))
    on = (squared < 9 * variance) & index.any(1)
    sure = on & (confidence > 0.3)
    plane = sure.sum() >= _FEWEST and np.linalg.matrix_rank(index[sure]) == 2
    return float(confidence[on].sum()), bool(plane)


def _nodes(lattices, radius: float, wavelength: float) -> SpotLists:
    """Nodes (1, lattices, nodes) of lattices in the plane normal to the beam, those nearest to the beam."""
    steps = np.arange(-40, 41)
    index = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)
    index = index[index.any(1)]
    columns = []
    for basis in lattices:
        k = index @ basis
        length = np.hypot(*k.T)
        nearest = np.argsort(length, kind="stable")[:_NODES]
        k, length = k[nearest], length[nearest]
        strength = np.where(length <= radius, math.log(_STRENGTH) - _FALL * (length - 0.5), -np.inf)
        columns.append([*k.T, excitation_error(k[:, 0], k[:, 1], 0.0, wavelength), strength])
    return SpotLists(*torch.as_tensor(np.stack(columns, 1)[:, None], dtype=torch.float32))
