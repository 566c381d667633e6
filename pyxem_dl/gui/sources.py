"""Where a viewer's orientations come from: a model that is asked now, or a finished map."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from pyxem_dl.frames import Calibration
from pyxem_dl.gui.answers import Found, why_unusable
from pyxem_dl.orientation import OrientationStep
from pyxem_dl.plot.checks import check_map
from pyxem_dl.plot.markers import candidate_of, check_phases, phases_of, places_of
from pyxem_dl.records import provenance
from pyxem_dl.results.assembly import DEFAULT_THRESHOLDS, indexed
from pyxem_dl.results.calibrations import CALIBRATION, calibration_of
from pyxem_dl.scans import Job, Scan
from pyxem_dl.scans.streaming import OneByOne

# Candidates that a viewer can show of a model that proposes several
_MOST_CANDIDATES = 10


class Question(NamedTuple):
    """What is asked at a position.

    ``index``: flat navigation index; ``pattern (rows, columns)``; ``calibration`` as it is to be used; its direct
    beam ``centers (1, 2)`` where each pattern has one of its own, else None; ``candidates``: how many; ``thresholds``:
    the lowest ``score`` and ``crystal``.
    """

    index: int
    pattern: np.ndarray
    calibration: Calibration
    centers: np.ndarray | None
    candidates: int
    thresholds: dict


class FromModel:
    """Asks a model, as :func:`pyxem_dl.predict_orientation` does, about one pattern at a time.

    Parameters
    ----------
    job : Job
        From :func:`pyxem_dl.orientation.orientation_job`.
    """

    def __init__(self, job: Job) -> None:
        step, device = job.step, job.computing.torch_device
        self._model, self._gain = step.model.for_single_patterns(), step.gain
        ready = OrientationStep(self._model, step.scan, gain=self._gain)
        ready.prepare(device)
        self._scan, self._device = ready.scan, device
        mask = self._scan.signal_mask
        self._mask = None if mask is None else mask.cpu().numpy()
        self.phases = dict(enumerate(self._model.phases))
        self.thresholds = DEFAULT_THRESHOLDS | dict(self._model.thresholds)
        self.beam_energy = self._model.domain.get("beam_energy")
        self.most = _MOST_CANDIDATES if self._model.gives_several else 1
        energy = f", {self.beam_energy:g} kV" if self.beam_energy else ""
        self.name = f"Model {self._model.name} ({self._model.network_name}{energy})"

    def __call__(self, question: Question) -> Found:
        """Orientations of a pattern."""
        scan = replace(self._scan, calibration=question.calibration, centers=question.centers)
        step = OrientationStep(self._model, scan, question.candidates, gain=self._gain)
        (part,) = OneByOne(step, self._device, 1).compute(np.zeros(1, dtype=int), question.pattern[None])
        rotations, phase_id, scores, crystal = (
            part.arrays[name][0] for name in ("rotations", "phase_id", "scores", "crystal")
        )
        limits = question.thresholds
        if not indexed(scores[:1], crystal, limits)[0]:
            why = self._reason(question, scores[0], crystal)
            return Found.nothing(
                f"{why}. Score {scores[0]:.4f}, threshold {limits['score']:.4f}; probability of a crystal "
                f"{crystal:.4f}, threshold {limits['crystal']:.4f}"
            )
        return Found.of(rotations.astype(float), phase_id, scores.astype(float), question.candidates)

    def _reason(self, question: Question, score: float, crystal: float) -> str:
        """Say what keeps a pattern from being indexed."""
        unusable = why_unusable(question.pattern, self._mask)
        if unusable:
            return unusable
        low = ["the score"] * bool(score < question.thresholds["score"])
        low += ["the probability of a crystal"] * bool(crystal < question.thresholds["crystal"] or crystal == 0)
        return " and ".join(low) + (" are too low" if len(low) > 1 else " is too low")


class FromMap:
    """Looks positions up in a finished map.

    Parameters
    ----------
    xmap : orix.crystal_map.CrystalMap
        Of the whole scan, or cropped as the signal is.
    scan : Scan
        Of the signal.
    model, phases
        As in :func:`pyxem_dl.plot.markers`: where the map has no atoms.
    """

    def __init__(self, xmap, scan: Scan, model=None, phases=None) -> None:
        self._row = np.full(scan.size, -1)
        place = places_of(xmap, scan.shape)
        self._row[place] = np.arange(len(place))
        self.most = xmap.rotations_per_point
        columns = [candidate_of(xmap, i) for i in range(self.most)]
        self._rotations, self._phase_id = (np.stack(column, axis=1) for column in zip(*columns))
        self._indexed = np.asarray(xmap.phase_id) >= 0
        self._scores = _scores(xmap, self.most)
        self.phases = phases_of(xmap, model, phases)
        check_phases(self._phase_id, self.phases)
        self.phases = {key: self.phases[key] for key in np.unique(self._phase_id).tolist() if key >= 0}
        self.thresholds = {"crystal": 0.0, "score": 0.0}
        self.beam_energy = None if model is None else model.domain.get("beam_energy")
        names = ", ".join(phase.name for phase in self.phases.values()) or "nothing indexed"
        self._made_with = provenance(xmap).thresholds
        self.name = f"Map of {xmap.size} positions ({names})" + (f", model {model.name}" if model is not None else "")

    def __call__(self, question: Question) -> Found:
        """Orientations at a position."""
        row = self._row[question.index]
        if row < 0:
            return Found.nothing("this position is not in the data of the map")
        score, limit = self._scores[row, 0], question.thresholds["score"]
        if not self._indexed[row]:
            return Found.nothing(self._why(score))
        if limit > 0 and score < limit:
            return Found.nothing(f"the score is too low. Score {score:.4f}, threshold {limit:.4f}")
        return Found.of(self._rotations[row], self._phase_id[row], self._scores[row], question.candidates)

    def _why(self, score: float) -> str:
        """Say why the map left a position out, as far as its scores, and what it keeps of its thresholds, tell."""
        if np.isnan(score):
            return "the map left this position out, and has no scores"
        if self._made_with:
            limits = ", ".join(f"{name} {limit:.4f}" for name, limit in self._made_with.items())
            return f"the map left this position out. Score {score:.4f}, thresholds: {limits}"
        if not self._indexed.any():
            highest = np.nanmax(self._scores[:, 0])
            return f"the map left all positions out. Score {score:.4f}, the highest is {highest:.4f}"
        lowest = np.nanmin(self._scores[self._indexed, 0])
        return f"the map left this position out. Score {score:.4f}, the lowest that it indexed is {lowest:.4f}"


def _scores(xmap, n_best: int) -> np.ndarray:
    """Scores (n, n_best) of a map; NaN where it has none."""
    found = np.full((xmap.size, n_best), np.nan)
    for name in ("score", "scores"):
        if name in xmap.prop:
            values = np.asarray(xmap.prop[name], dtype=float).reshape(xmap.size, -1)[:, :n_best]
            found[:, : values.shape[1]] = values
    return found


def as_mapped(scan: Scan, xmap, center_given: bool) -> Scan:
    """Give a scan the calibration that a map was made with, where the map keeps it: scale, ellipse, and all centres.

    Parameters
    ----------
    scan : Scan
        Of the signal as it is now.
    xmap : orix.crystal_map.CrystalMap
        Its map.
    center_given : bool
        The user said where the direct beam is.
    """
    check_map(xmap)
    known = calibration_of(xmap) or provenance(xmap).calibration
    if known is None or known.shape != scan.calibration.shape:
        return scan
    if center_given or CALIBRATION not in xmap.prop:
        center = scan.calibration.center if center_given else known.center
        return replace(scan, calibration=known.replace(center=center))
    table = np.asarray(xmap.prop[CALIBRATION], dtype=float)[:, 2:4]
    if not np.isfinite(table).all():  # found or given for each pattern, and not kept
        return replace(scan, calibration=known.replace(center=scan.calibration.center))
    centers = np.tile(table.mean(0), (scan.size, 1))
    centers[places_of(xmap, scan.shape)] = table
    return replace(scan, calibration=known, centers=centers if np.ptp(centers, axis=0).any() else None)
