"""Scale, ellipse and centre of a scan, from where the disks of refined crystals are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from pyxem_dl.calibration import FoundCalibration, with_calibration
from pyxem_dl.calibration.finding import grains_of
from pyxem_dl.calibration.fitting import Bend, Fitted, Pattern, errors, free_numbers
from pyxem_dl.calibration.result import applied, numbers_of
from pyxem_dl.frames import scan_places
from pyxem_dl.messages import warn
from pyxem_dl.preprocessing import in_electrons, usable_patterns
from pyxem_dl.refinement.fitting import Given, Refiner
from pyxem_dl.scans import Scan
from pyxem_dl.scans.fingerprint import readable_patterns
from pyxem_dl.symmetry import proper_operations

# Positions that are refined, how many of them have to tell, and how many at once
_SAMPLE, _FEWEST, _AT_ONCE = 96, 6, 8
# Rounds of refining and fitting, and a relative change with which they end
_ROUNDS, _SMALL = 5, 5e-4
# By so much the misfit may be larger afterwards
_WORSE = 1.05
# From a bend, less the identity, to the numbers of places, and how a turn changes these
_COMMON = np.zeros((6, 9))
_COMMON[[0, 1, 2, 3, 4, 5], [0, 1, 1, 2, 3, 4]] = 1
_TURN = np.array([0, -1.0, 1.0, 0, 0, 0])
# With fewer orientations an ellipse is not determined: strain may explain it as well
_FEWEST_GRAINS = 3
# Changes that are worth a warning: relative, and px
_LARGE, _LARGE_SHIFT = 0.02, 1.0
# The largest change of a scale, relative; and how far off a pattern is, over the median, that does not count
_LARGEST, _OUTLIER = 0.15, 4.0
@dataclass(frozen=True, eq=False)
class Sample:
    """Patterns that stand for a scan.

    ``patterns (n, rows, columns)`` in electrons; ``centers (n, 2)`` in px; ``at (n, 2)``: places along x and y of the
    scan, from -1 to 1; ``rotations (n, 4)``; ``phase (n,)``, -1 for what cannot be used; ``misfit (n,)``.
    """

    patterns: torch.Tensor
    centers: torch.Tensor
    at: np.ndarray
    rotations: torch.Tensor
    phase: np.ndarray
    misfit: np.ndarray | None = None

    @classmethod
    def of(cls, scan: Scan, start, gain: float, device) -> Sample:
        """Take the position with the best score of each part of a scan."""
        there = np.flatnonzero(~scan.navigation_mask & (start.phase >= 0))
        score = np.asarray(start.properties.get("score", start.properties.get("scores", np.zeros(len(start.phase)))))
        score = score.reshape(len(score), -1)[:, 0]
        parts = np.array_split(there, min(_SAMPLE, len(there))) if len(there) else []
        indices = np.array([part[np.argmax(score[part])] for part in parts], dtype=int)
        if len(indices):
            indices, patterns = readable_patterns(scan.data if scan.shape else scan.data[None], indices)
        if not len(indices):
            raise NotCalibrated("no position is indexed")
        mask = None if scan.signal_mask is None else scan.signal_mask.to(device)
        batch = torch.from_numpy(np.stack([np.asarray(x, dtype=np.float32) for x in patterns])).to(device)
        centers = scan.batch_centers(batch, indices)
        batch, usable = usable_patterns(in_electrons(batch, gain), mask)
        usable = usable.cpu().numpy()
        if centers is None:
            centers = torch.tensor(scan.calibration.center, dtype=torch.float64, device=device).repeat(len(batch), 1)
        rotations = torch.from_numpy(start.rotations[indices][:, 0]).double().to(device)
        phase = np.where(usable, start.phase[indices], -1)
        return cls(batch, centers, scan_places(scan.shape, indices), rotations, phase)


class NotCalibrated(ValueError):
    """Why a scan cannot calibrate itself."""


def calibrated_scan(
    scan: Scan, start, phases: list, physics, gain: float, device: torch.device, say: Callable
) -> tuple[Scan, FoundCalibration | None]:
    """Calibrate a scan by its refined patterns; where that fails a warning, and its own calibration.

    Parameters
    ----------
    scan : Scan
        With its patterns.
    start : Start
        What the map says of it.
    phases, physics, gain
        As of :class:`~pyxem_dl.refinement.step.RefinementStep`.
    device : torch.device
        Where to compute.
    say : callable
        Called with what was found.
    """
    try:
        found = find_calibration(scan, start, phases, physics, gain, device)
    except NotCalibrated as error:
        warn(
            f"The scan cannot calibrate itself by refined patterns: {error}. The calibration of the signal is kept. "
            "Check the phase; give precession_angle=, convergence_semi_angle= and thickness=; or calibrate it by its "
            "peaks, with pyxem_dl.calibrate."
        )
        return scan, None
    say(str(found))
    moved = math.dist(found.center, found.nominal.center)
    if abs(found.scale_change) > _LARGE or found.ellipticity > _LARGE or moved > _LARGE_SHIFT:
        warn(
            f"The calibration of the scan was changed much: its scale by {100 * found.scale_change:+.1f} %, its "
            f"ellipse to {100 * found.ellipticity:.1f} %, its centre by {moved:.1f} px. Look at the misfit, and "
            "compare with pyxem_dl.calibrate."
        )
    return with_calibration(scan, found), found


def find_calibration(scan: Scan, start, phases: list, physics, gain: float, device) -> FoundCalibration:
    """Refine a sample, fit the calibration with which its disks are where they should be, and again with it."""
    nominal, plain = scan.calibration, scan.calibration.replace(distortion=None)
    sample = Sample.of(scan, start, gain, device)
    bend = Bend.of(None if nominal.distortion is None else np.array(nominal.distortion))
    calibration, drift, misfits = nominal, np.zeros((2, 2)), []
    whole = (1,) * (2 - len(scan.shape)) + tuple(scan.shape)
    moves = not isinstance(scan.centers, str)
    drifts = (moves and whole[1] > 3, moves and whole[0] > 3)
    for _ in range(_ROUNDS):
        sample, places, used = _refined(sample, nominal, calibration, drift, phases, physics, scan, device)
        if used.sum() < _FEWEST:
            raise NotCalibrated(f"{used.sum()} of {len(used)} patterns tell it, and {_FEWEST} are needed")
        misfits.append(float(np.median(sample.misfit[used])))
        grains = grains_of(sample.rotations.cpu().numpy(), sample.phase, [proper_operations(each) for each in phases])
        fitted = _fit(places, used, sample.at, grains[used], moves, drifts)
        bend = _joined(bend, fitted.bend)
        if np.abs(np.linalg.eigvalsh(bend.matrix) - 1).max() > _LARGEST:
            raise NotCalibrated(f"the scale runs away, by {100 * (math.sqrt(np.linalg.det(bend.matrix)) - 1):+.0f} %")
        calibration, drift = applied(plain, bend)
        if np.abs(fitted.bend.numbers[:3] - (1, 0, 1)).max() < _SMALL:
            break
    if misfits[-1] > _WORSE * misfits[0]:
        raise NotCalibrated(f"patterns fit worse afterwards, with a misfit of {misfits[-1]:.3g} after {misfits[0]:.3g}")
    return FoundCalibration(
        nominal=nominal, calibration=calibration, shape=tuple(scan.shape), drift=drift,
        undetermined=tuple(name for name, known in fitted.determined.items() if not known),
        n_patterns=len(used), n_used=int(used.sum()), n_grains=len(set(grains[used])), n_spots=0,
        explained=None, by_chance=None, misfit=(misfits[0], misfits[-1]),
        offsets=scan.centers if isinstance(scan.centers, np.ndarray) else None,
        **numbers_of(bend, fitted.covariance, plain),
    )  # fmt: skip


def _refined(sample: Sample, nominal, calibration, drift, phases, physics, scan: Scan, device):
    """Sample with refined rotations; where its disks are; and which patterns tell it."""
    moved = np.array(calibration.center) - nominal.center + sample.at[:, ::-1] @ (drift / 2)
    centers = sample.centers + torch.from_numpy(moved).to(sample.centers)
    mask = None if scan.signal_mask is None else scan.signal_mask.to(device)
    rotations, used = sample.rotations.clone(), np.zeros(len(sample.phase), dtype=bool)
    misfit, found = np.full(len(used), np.nan), {}
    for number in np.unique(sample.phase[sample.phase >= 0]):
        refiner = Refiner(phases[number], calibration, physics, device)
        here = np.flatnonzero(sample.phase == number)
        for some in np.array_split(here, math.ceil(len(here) / _AT_ONCE)):
            given = Given(sample.patterns[some], mask, centers[some])
            refined = refiner.refine(given, rotations[some], look_far=False)
            places, _ = refiner.places(given, refined.rotations, refined.thickness)
            rotations[some] = refined.rotations
            used[some] = (refined.refined & places.known).cpu().numpy()
            misfit[some] = refined.misfit.cpu().numpy()
            found |= {int(i): tuple(x[j].cpu().numpy() for x in places[:3]) for j, i in enumerate(some)}
    nothing = np.zeros(6), np.zeros((6, 6)), np.ones(())
    numbers, normal, spread = (np.stack(x) for x in zip(*(found.get(i, nothing) for i in range(len(used)))))
    used &= np.isfinite(numbers).all(1) & np.isfinite(normal).all((1, 2))
    normal = normal / np.maximum(spread, 1)[:, None, None]
    return replace(sample, rotations=rotations, misfit=misfit), (numbers, normal), used


def _fit(places, used, at, grains, moves: bool, drifts: tuple[bool, bool]) -> Fitted:
    """Fit one bend to where the disks of many patterns are; what they do not determine stays."""
    numbers, normal = (x[used] for x in places)
    # each pattern is turned by the error of its orientation
    turned = normal @ _TURN
    normal = normal - turned[:, :, None] * turned[:, None] / np.maximum(turned @ _TURN, 1e-12)[:, None, None]
    to = np.tile(_COMMON, (len(numbers), 1, 1))
    for i in range(2):
        to[:, 4:, 5 + 2 * i : 7 + 2 * i] = at[used][:, i, None, None] * np.eye(2)
    patterns = [Pattern(None, None, None, grain) for grain in grains]
    allowed = {"ellipse": len(set(grains)) >= _FEWEST_GRAINS, "centre": moves, "drift": any(drifts)}
    while True:
        free = free_numbers(
            Bend.of(), allowed["ellipse"], allowed["centre"], drifts if allowed["drift"] else (False, False)
        )
        design = to @ free
        weight = np.ones(len(numbers))
        for _ in range(_ROUNDS):
            weighted = weight[:, None, None] * normal
            equations = (
                design.swapaxes(1, 2) @ weighted @ design,
                (design.swapaxes(1, 2) @ (weighted @ numbers[..., None]))[..., 0],
            )
            found = np.linalg.lstsq(equations[0].sum(0), equations[1].sum(0), rcond=1e-9)[0]
            left = numbers - design @ found
            distance = np.einsum("ni,nij,nj->n", left, normal, left)
            weight = np.clip(1 - distance / (_OUTLIER**2 * max(np.median(distance), 1e-12)), 0, None) ** 2
        covariance = errors(patterns, free, equations, 1.0)
        change = free @ found
        error = np.sqrt(np.diag(covariance)[5:].clip(0))
        if not allowed["drift"] or (np.abs(change[5:]) > 3 * error).any():
            return Fitted(Bend(Bend.of().numbers + change), covariance, 0, allowed, np.zeros((2, 3)))
        allowed = allowed | {"drift": False}


def _joined(before: Bend, change: Bend) -> Bend:
    """Bend of what was bent already: both are nearly 1."""
    matrix = change.matrix @ before.matrix
    return Bend.of(
        (matrix + matrix.T) / 2, change.shift @ before.matrix + before.shift,
        change.drift @ before.matrix + before.drift,
    )  # fmt: skip
