"""What is measured: accuracy, the MgO scan, speed."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from pyxem_dl.crystals import reflections
from pyxem_dl.frames import Calibration, k_to_pixel, pixel_to_k
from pyxem_dl.metrics import accuracy, disorientation, explained_peaks, find_peaks, neighbour_disorientation
from pyxem_dl.rotations import zone_axes
from pyxem_dl.template_matching import PyxemMatcher
from suite.datasets import AFTERGLOW, CUBES, EMPTY, Labelled, lazy_scan, region

#: How far out the MgO templates go, and peaks are counted, in Å⁻¹.
MGO_RADIUS = 1.6
_PEAK_RADIUS = 1.3
#: How near a peak must be to a spot, in Å⁻¹: the scan is distorted by a few percent.
_PEAK_TOLERANCE = 0.05


def labelled(predictor: Callable, data: Labelled) -> dict:
    """Accuracy and patterns/s of a predictor on labelled patterns.

    Returns
    -------
    dict
        ``n``; under ``strict`` and ``modulo_180`` the shares ``within_5`` and ``within_2`` (degrees) and the ``median``
        (degrees, of what is indexed); ``not_indexed`` (share); ``patterns_per_second``, the making of templates
        included; for a network ``calibration``, see :func:`calibration_of_scores`.
    """
    start = time.perf_counter()
    xmap = predictor(data.signal)
    seconds = time.perf_counter() - start
    found = accuracy(xmap, data.rotations, data.phase)
    numbers = {"n": found["strict"].n}
    for name, each in found.items():
        numbers[name] = {
            "within_5": round(each.within_5, 4),
            "within_2": round(each.within_2, 4),
            "median": round(each.median, 3),
        }
    not_indexed = round(found["strict"].not_indexed, 4)
    if "score" in xmap.prop and "simulation_indices" not in xmap.prop:
        # the scores of a network, which are probabilities; of all predictions, also those that the thresholds leave out
        predictions = xmap.rotations.data.reshape(xmap.size, -1, 4)[:, 0]
        angle = disorientation(predictions, data.rotations, data.phase)
        numbers["calibration"] = calibration_of_scores(xmap.prop["score"], angle < 5)
    return numbers | {"not_indexed": not_indexed, "patterns_per_second": round(len(data.rotations) / seconds, 1)}


def calibration_of_scores(scores, right, edges=(0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.97, 1)) -> list[dict]:
    """Compare what a network says of its predictions with how often they are right.

    Parameters
    ----------
    scores : array, shape (n,)
        Probabilities of the best orientations.
    right : array of bool, shape (n,)
        Whether they are.
    edges : sequence of float
        Of the bins.

    Returns
    -------
    list of dict
        For each bin that is not empty ``n``, mean ``score`` and share ``right``.
    """
    scores, right = np.asarray(scores, dtype=float), np.asarray(right)
    bins = np.clip(np.digitize(scores, edges[1:-1]), 0, len(edges) - 2)
    return [
        {"n": int(here.sum()), "score": _round(scores[here].mean()), "right": _round(right[here].mean())}
        for here in (bins == i for i in range(len(edges) - 1))
        if here.any()
    ]


def peaks_of(signal) -> list[np.ndarray]:
    """Peaks of every pattern of a lazy scan, in data order, read by rows of chunks."""
    calibration = Calibration.from_signal(signal)
    peaks = []
    for rows in signal.data.blocks:
        peaks.extend(find_peaks(np.asarray(rows).reshape(-1, *calibration.shape), calibration.center))
    return peaks


def mgo(predictor: Callable, signal, phase, peaks, judged=None, distortion=None) -> tuple[dict, np.ndarray]:
    """Measure what a predictor makes of the MgO scan.

    Parameters
    ----------
    predictor : callable
        From a signal to a crystal map.
    signal : pyxem.signals.Diffraction2D
        The scan.
    phase : orix.crystal_map.Phase
        MgO.
    peaks : list of array
        From :func:`peaks_of`.
    judged : array of bool, shape (n,), optional
        Positions at which methods are compared, whatever they leave out; by default all that this one indexes.
    distortion : array, shape (2, 2), optional
        From :func:`suite.datasets.mgo_distortion`: peaks are also counted where they would be without it.

    Returns
    -------
    numbers : dict
        Shares and degrees; :func:`suite.report.markdown` says what each is.
    judged : array of bool, shape (n,)
        As given, or what this one indexes.
    """
    start = time.perf_counter()
    xmap = predictor(signal)
    seconds = time.perf_counter() - start
    indexed = xmap.phase_id >= 0
    shape = signal.axes_manager._navigation_shape_in_array
    masks = {name: region(polygon, shape).ravel() for name, polygon in (CUBES | EMPTY | AFTERGLOW).items()}
    tilt = _angle_to_001(xmap)
    neighbours = {modulo: neighbour_disorientation(xmap, modulo_180=modulo) for modulo in (False, True)}
    cubes = {}
    for name in CUBES:
        here = masks[name]
        cubes[name] = {
            "positions": int(here.sum()),
            "indexed": _round(indexed[here].mean()),
            "neighbour_disorientation": _median(neighbours[False][here]),
            "neighbour_disorientation_modulo_180": _median(neighbours[True][here]),
        }
    table = dict.fromkeys((key for key, _ in xmap.phases if key >= 0), reflections(phase, _PEAK_RADIUS))
    judged = indexed if judged is None else judged
    settings = {"tolerance": _PEAK_TOLERANCE, "reciprocal_radius": _PEAK_RADIUS}
    explained = explained_peaks(xmap, signal, table, peaks=peaks, **settings).summary()
    there = [found if here else found[:0] for found, here in zip(peaks, judged)]
    same = explained_peaks(xmap, signal, table, peaks=there, **settings).summary()
    explained |= {"share_judged": same["share"], "chance_judged": same["chance"]}
    if distortion is not None:
        moved = _undistorted(there, Calibration.from_signal(signal), distortion)
        same = explained_peaks(xmap, signal, table, peaks=moved, **settings).summary()
        explained |= {"share_undistorted": same["share"], "chance_undistorted": same["chance"]}
        own = [found if here else found[:0] for found, here in zip(peaks, indexed)]
        moved = _undistorted(own, Calibration.from_signal(signal), distortion)
        same = explained_peaks(xmap, signal, table, peaks=moved, **settings).summary()
        explained |= {"share_own": same["share"], "chance_own": same["chance"]}
        explained |= {"stretch_x": distortion[0, 0] - 1, "stretch_y": distortion[1, 1] - 1}
    numbers = {
        "n": int(xmap.size),
        "indexed": _round(indexed.mean()),
        "flat_001": _round(((tilt < 10) & indexed)[masks["flat"]].mean()),
        "cubes": cubes,
        "empty_indexed": {name: _round(indexed[masks[name]].mean()) for name in EMPTY | AFTERGLOW},
        "explained": {key: _round(value) for key, value in explained.items()},
        "patterns_per_second": round(xmap.size / seconds, 1),
    }
    return numbers, judged


def _undistorted(peaks, calibration: Calibration, distortion) -> list[np.ndarray]:
    """Peaks (row, column, height) where they would be on a detector that does not distort."""
    moved = []
    for found in peaks:
        k = np.stack(pixel_to_k(found[:, 0], found[:, 1], calibration), axis=1) @ np.linalg.inv(distortion)
        moved.append(np.column_stack([*k_to_pixel(*k.T, calibration), found[:, 2]]))
    return moved


def _angle_to_001(xmap) -> np.ndarray:
    """Angle in degrees (n,) between the beam and the nearest of a cubic crystal's <001>."""
    quaternions = xmap.rotations.data.reshape(xmap.size, -1, 4)[:, 0]
    axes = zone_axes(torch.as_tensor(np.ascontiguousarray(quaternions), dtype=torch.float64))
    return np.rad2deg(np.arccos(axes.abs().amax(-1).clamp(max=1).numpy()))


def _median(values) -> float | None:
    known = values[np.isfinite(values)]
    return _round(np.median(known)) if known.size else None


def _round(value) -> float:
    return round(float(value), 4)


@dataclass
class PyxemsOwnCalls:
    """pyxem's template matching as its documentation writes it, without anything of ours: the fastest way to call it.

    The templates are made beforehand, and are not counted.  The rotations are not repaired, and nothing but the best
    template is kept.
    """

    phase: object
    signal: object
    matcher: PyxemMatcher = field(init=False)

    def __post_init__(self) -> None:
        calibration = Calibration.from_signal(self.signal)
        radius = calibration.reciprocal_radius
        self.matcher = PyxemMatcher.from_phases(self.phase, calibration.beam_energy, radius, 1.0)
        self.n_k = math.ceil(radius / calibration.scale[0])

    def __call__(self, signal):
        """Return pyxem's crystal map of a lazy signal."""
        # "... does not take into account the difference of scales in-between axes", at each call
        logging.getLogger("hyperspy.signal").setLevel(logging.ERROR)
        radius = self.matcher.reciprocal_radius
        polar = signal.get_azimuthal_integral2d(
            npt=self.n_k, npt_azim=360, radial_range=(0, radius), show_progressbar=False
        )
        (simulation,) = self.matcher.simulations
        found = (polar**0.5).get_orientation(simulation, n_best=1, frac_keep=1, show_progressbar=False)
        if found._lazy:
            found.compute(show_progressbar=False)
        return found.to_crystal_map()


#: Scans (y, x) on which speed is measured: the difference of the two takes away what does not grow with the scan, as
#: the making of templates.  Slow predictors get small ones.
_SCANS = {"network": ((16, 32), (64, 64)), "torch": ((16, 16), (32, 48)), "pyxem": ((8, 8), (16, 24))}


def speed(predictors: dict[str, Callable], data: Labelled) -> Iterator[tuple[str, dict]]:
    """Patterns/s from a lazy signal to the crystal map.

    Parameters
    ----------
    predictors : dict of str to callable
        By label, in which "network", "torch" or "pyxem" occurs.
    data : Labelled
        Whose patterns are repeated.

    Yields
    ------
    label : str
        Of a predictor.
    numbers : dict
        ``patterns_per_second`` with fixed costs taken away (from two scans of different size, the best of two runs
        each), ``whole_call`` for the larger scan with everything counted, and ``n`` of it.
    """
    for label, predictor in predictors.items():
        shapes = next(shapes for kind, shapes in _SCANS.items() if kind in label)
        scans = [lazy_scan(data, shape, chunk=8) for shape in shapes]
        predictor(scans[0])  # compiles, reads, fills caches
        yield label, patterns_per_second(predictor, scans, shapes)


def patterns_per_second(function: Callable, scans, shapes) -> dict:
    """Time a function on a small and a large scan, the best of two runs each.

    Returns
    -------
    dict
        As :func:`speed` says.
    """
    seconds = [min(_seconds(function, scan) for _ in range(2)) for scan in scans]
    small, large = (math.prod(shape) for shape in shapes)
    return {
        "n": large,
        "patterns_per_second": round((large - small) / max(seconds[1] - seconds[0], 1e-9), 1),
        "whole_call": round(large / seconds[1], 1),
    }


def _seconds(predictor: Callable, signal) -> float:
    start = time.perf_counter()
    predictor(signal)
    return time.perf_counter() - start
