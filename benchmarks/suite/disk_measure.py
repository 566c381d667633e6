"""What is measured of Bragg disks: hits and positions, a real scan, strain, speed."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pyxem_dl.frames import Calibration
from pyxem_dl.patterns.probes import Probe
from pyxem_dl.scans import make_signal
from suite import datasets
from suite.datasets import CUBES, EMPTY, region
from suite.disks import (
    BraggDisks,
    bragg_disks,
    found_disks,
    ignored_share,
    position_errors,
    readings,
    score,
    visible_false,
)
from suite.measure import patterns_per_second

# Positions of the MgO scan that are looked at in each region
_MGO_POSITIONS = 150
# Out to here disks are compared with a lattice; so near to the middle they are the direct beam (Å⁻¹)
_MGO_RADIUS, _DIRECT_BEAM = 1.3, 0.15
# So near to a point of the lattice (Å⁻¹; it has 0.47 from one to the next) a disk lies on it
_ON_LATTICE = 0.12
# Strain is measured with the disks between these distances from the beam, found so near to where they should be (1/A)
_STRAIN_RADII, _STRAIN_DISTANCE = (0.1, 0.75), 0.06


def labelled_disks(find: Callable, disks: BraggDisks) -> dict:
    """Hits, positions and intensities on patterns with known disks.

    Parameters
    ----------
    find : callable
        ``find(signal, probe)`` returns diffraction vectors, centred.
    disks : BraggDisks
        The patterns and their truth.

    Returns
    -------
    dict
        ``f1``, ``precision``, ``recall``; ``position_error`` (px, root mean square), and that of isolated, overlapped
        and cut disks; ``rank_correlation`` of intensities; ``false_per_pattern``; ``false_visible``, see
        :func:`~suite.disks.visible_false`; ``ignored_share`` of the area, see :func:`~suite.disks.ignored_share`;
        for vectors with ``q_z`` what :func:`~suite.disks.readings` returns.
    """
    vectors = find(disks.signal, disks.vacuum)
    found = score(vectors, disks)
    tables = found_disks(vectors, disks)
    by_kind = position_errors(tables, disks)
    read = readings(vectors, disks) if "q_z" in vectors.column_names else {}
    return {
        "kind": "truth",
        "n": found.n_patterns,
        "disks": found.n_true,
        "f1": _round(found.f1),
        "precision": _round(found.precision),
        "recall": _round(found.recall),
        "position_error": _round(found.position_error),
        **{f"position_{kind}": _round(error) for kind, error in by_kind.items()},
        "rank_correlation": _round(found.rank_correlation),
        "false_per_pattern": _round(found.false_per_pattern),
        "false_visible": _round(visible_false(tables, disks)),
        "ignored_share": _round(ignored_share(disks)),
        **{name: _round(value) for name, value in read.items()},
    }


def small_disks(find: Callable, folder: Path, name: str) -> dict:
    """Measure disks of 2.55 px, 10⁴ scattered electrons: what is isolated, and how well the strong ones are placed."""
    settings = {"semi_angle": "1.5mrad", "scattered": True, "isolated": True}
    disks = bragg_disks(folder, name, 1e4, least=10, **settings)
    vectors = find(disks.signal, disks.vacuum)
    found = score(vectors, disks)
    strong = score(vectors, bragg_disks(folder, name, 1e4, least=50, **settings))
    return {
        "kind": "small",
        "n": found.n_patterns,
        "recall": _round(found.recall),
        "false_per_pattern": _round(found.false_per_pattern),
        "ignored_share": _round(ignored_share(disks)),
        "position_error": _round(strong.position_error),
    }


def mgo_disks(find: Callable, folder: Path) -> dict:
    """Measure the real scan: detections where there is nothing, and how square the flat cube's lattice is."""
    signal, phase = datasets.mgo_scan(folder)
    shape = signal.data.shape[:2]
    distortion = datasets.mgo_distortion(signal, phase)
    calibration = Calibration.from_signal(signal)
    # the scan has its probe in it, where it went through a hole
    vacuum = _positions(signal, region(EMPTY["vacuum"], shape))
    probe = Probe.from_patterns(vacuum.data, calibration.center)
    numbers = {"kind": "mgo"}
    for name, polygons in EMPTY.items():
        vectors = find(_positions(signal, region(polygons, shape)), probe)
        others = [np.hypot(*table[:, :2].T) > _DIRECT_BEAM for table in vectors.data]
        numbers[f"per_pattern_{name}"] = _round(np.mean([here.sum() for here in others]))
    flat = find(_positions(signal, region(CUBES["flat"], shape)), probe)
    return numbers | _lattice(flat.data, calibration, distortion, phase.structure.lattice.a)


def _positions(signal, where):
    """Signal (n,) of up to 150 positions, spread over a region."""
    rows, columns = np.nonzero(where)
    chosen = np.unique(np.linspace(0, len(rows) - 1, _MGO_POSITIONS).astype(int))
    data = np.asarray(signal.data.vindex[rows[chosen], columns[chosen]])
    return make_signal(data, Calibration.from_signal(signal), "MgO, a region")


def _lattice(tables, calibration: Calibration, distortion, a: float) -> dict:
    """Residual (px) of disks on an affine square lattice, and the share of disks that lie on none of its points."""
    inner = [table[np.hypot(*table[:, :2].T) < _MGO_RADIUS][:, 1::-1] for table in tables]
    basis = _square_basis(np.concatenate(inner), distortion, a)
    squares, on = [], 0
    for k in inner:
        index = np.round(k @ np.linalg.inv(basis))
        near = np.linalg.norm(k - index @ basis, axis=1) < _ON_LATTICE
        on += near.sum()
        design = np.column_stack([index[near], np.ones(near.sum())])
        if np.linalg.matrix_rank(design) == 3 and near.sum() > 4:
            fit, *_ = np.linalg.lstsq(design, k[near], rcond=None)
            squares.append((((k[near] - design @ fit) / calibration.scale[0]) ** 2).sum(1))
    residual = math.sqrt(np.concatenate(squares).mean()) if squares else math.nan
    count = sum(map(len, inner))
    return {"n": len(tables), "lattice_residual": _round(residual), "off_lattice": _round(1 - on / max(count, 1))}


def _square_basis(k, distortion, a: float):
    """Basis (2, 2) of 200 and 020, distorted as the detector does, turned so that most vectors lie on the lattice."""
    best = None
    for angle in np.linspace(0, np.pi / 2, 361):
        cos, sin = np.cos(angle), np.sin(angle)
        basis = 2 / a * np.array([[cos, sin], [-sin, cos]]) @ np.asarray(distortion)
        off = k - np.round(k @ np.linalg.inv(basis)) @ basis
        on = (np.linalg.norm(off, axis=1) < _ON_LATTICE / 2).sum()
        if best is None or on > best[0]:
            best = on, basis
    return best[1]


def strain(find: Callable, scan) -> dict:
    """Error of the strain along x, in percent, over thin (up to 500 Angstrom) and thick crystal."""
    vectors = find(scan.signal, scan.vacuum)
    first = vectors.data[0, 0]
    length = np.hypot(*first[:, :2].T)
    low, high = _STRAIN_RADII
    basis = first[(length > low) & (length < high), :2]
    found = vectors.filter_basis(basis, distance=_STRAIN_DISTANCE, show_progressbar=False)
    basis = np.nanmedian(found.data[scan.strain == 0][..., :2], axis=0)
    measured = np.asarray(vectors.get_strain_maps(basis, distance=_STRAIN_DISTANCE).data[1])
    error, thick = 100 * (measured - scan.strain), scan.thickness > 500
    missing = ~np.isfinite(measured)

    def rms(where):
        return _round(np.sqrt(np.mean(error[where & ~missing] ** 2)))

    return {
        "kind": "strain", "n": int(error.size), "all": rms(np.ones_like(thick)), "thin": rms(~thick),
        "thick": rms(thick), "missing": _round(missing.mean()),
    }  # fmt: skip


def disk_speed(find: Callable, disks: BraggDisks, shapes=((4, 16), (16, 24))) -> dict:
    """Patterns/s from a lazy signal to vectors, from the difference of two scans of different size."""
    import dask.array as da

    calibration, scans = Calibration.from_signal(disks.signal), []
    for shape in shapes:
        patterns = np.resize(disks.signal.data, (*shape, *disks.signal.data.shape[1:])).astype(np.uint16)
        scans.append(make_signal(da.from_array(patterns, chunks=(8, 8, -1, -1)), calibration, disks.title))
    find(scans[0], disks.vacuum)  # fills caches
    return {"kind": "speed"} | patterns_per_second(lambda scan: find(scan, disks.vacuum), scans, shapes)


def py4dstem_correlation(signal, probe):
    """Find disks as py4DSTEM 0.14 does: flat kernel of the vacuum probe, ``poly`` sub-pixel positions.

    Raises
    ------
    ImportError
        Where py4DSTEM is not installed.
    """
    from py4DSTEM import DataCube, Probe

    data = np.asarray(signal.data)
    cube = DataCube(data.reshape(-1, 1, *data.shape[-2:]) if data.ndim == 3 else data)
    template = Probe(np.asarray(probe))
    template.get_kernel(mode="flat")
    return cube.find_Bragg_disks(
        template.kernel, corrPower=1, sigma_cc=0, subpixel="poly", minAbsoluteIntensity=0,
        minRelativeIntensity=0, minPeakSpacing=8, edgeBoundary=4, maxNumPeaks=70,
    )  # fmt: skip


def _round(value) -> float:
    return round(float(value), 4)
