"""Find the calibration of a scan: first answers, a fit to the confident ones, better answers; what speaks against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from pyxem_dl.calibration.fitting import Bend, Fitted, Pattern, fit_what_is_determined, with_best_scale
from pyxem_dl.calibration.result import FoundCalibration, applied, numbers_of
from pyxem_dl.calibration.rings import LARGEST, scales_by_rings
from pyxem_dl.checks import number, whole_number
from pyxem_dl.crystals import load_phases, near_ewald_sphere, reflections
from pyxem_dl.frames import Calibration, pixel_to_k, scan_places
from pyxem_dl.messages import warn
from pyxem_dl.metrics import explained_peaks, find_peaks
from pyxem_dl.models import ANY_CRYSTAL, OrientationEnsemble, OrientationModel, load_model, phases_to_find, with_phases
from pyxem_dl.preprocessing import in_electrons
from pyxem_dl.records import made_by, with_record
from pyxem_dl.results.maps import to_crystal_map
from pyxem_dl.scans import Computing, Positions, Reading, Scan
from pyxem_dl.scans.fingerprint import readable_patterns
from pyxem_dl.symmetry import disorientation_angle, proper_operations

if TYPE_CHECKING:
    from pyxem_dl.annotations import Center, Patterns, Phases

# Patterns that are looked at, and of them for a first look at several scales
_PATTERNS, _FIRST_LOOK = 400, 100
_MOST_PATTERNS = 5000
# Rounds of answers and fits, and a change of the distortion with which they end
_ROUNDS, _SMALL_CHANGE = 4, 5e-4
# Spots (standard deviation in px), as evaluate has it
_SPOT_RADIUS = 2.0
# What explains a peak, as evaluate has it: reflections so far from the Ewald sphere, out to here, so near (Å⁻¹)
_SEEN_TO, _FARTHEST, _NEAR = 0.08, 1.5, 0.05
# What is fitted: reflections nearer to the sphere, and so near (Å⁻¹, and px at least)
_EXCITATION_ERROR, _TOLERANCE, _TOLERANCE_PIXELS = 0.03, 0.03, 1.0
# Orientations count that are likelier right than wrong, whatever is indexed in a map
_LIKELY = 0.5
# A pattern counts where its orientation explains so many peaks, and so much more of them than chance does
_FEWEST_EXPLAINED, _MORE_THAN_CHANCE = 3, 0.25
# Patterns that have to count, and what they all have to explain beyond chance
_FEWEST_USED, _LEAST_EXPLAINED = 10, 0.15
# Orientations that are nearer (degrees) are one grain
_GRAIN = 5.0
# Halves of the orientations may differ by so much, relative, and by so many standard deviations
_HALVES, _HALVES_ERRORS = 0.01, 4.0
# A scale or an ellipse that is more off is none; so much less explained is a rounding
_LARGEST, _SLACK = LARGEST, 0.003
# The scale is looked for so far from where it is taken to be, relative
_NEAR_SCALES = 0.06
# A scale by rings is tried if it is so far from the nominal one, and taken if it explains so much more
_ANOTHER, _BETTER = 0.015, 0.03


class Answers(NamedTuple):
    """Orientations of patterns: ``rotations (n, 4)`` lab to crystal, ``phase_id (n,)``, ``confident (n,)`` bool."""

    rotations: np.ndarray
    phase_id: np.ndarray
    confident: np.ndarray


def calibrate(
    signal: Patterns,
    phases: Phases | None = None,
    *,
    model: str | Path | OrientationModel | None = None,
    n_patterns: int = _PATTERNS,
    spot_radius: float = _SPOT_RADIUS,
    navigation_mask: np.ndarray | None = None,
    signal_mask: np.ndarray | None = None,
    center: Center | None = None,
    beam_energy: float | None = None,
    device: str = "auto",
    on_message: Callable | None = None,
) -> FoundCalibration:
    """Find scale, ellipse, centre and drift of a scan from the patterns of crystals that are known.

    Parameters
    ----------
    signal : pyxem.signals.Diffraction2D
        Patterns with 0, 1 or 2 navigation dimensions, in memory or lazy, with a scale that is right to 15 %.
    phases : orix.crystal_map.Phase, path of a CIF file, or a list of these, optional
        What is in the scan, of which the cell is known better than the scale.  Not needed for a `model` that was
        trained for its phases.
    model : str, pathlib.Path or OrientationModel, optional
        What finds the orientations: a name, folder or address, as in :func:`pyxem_dl.load_model`, or a loaded model; by
        default "any-crystal".
    n_patterns : int
        How many are looked at, spread over the scan.
    spot_radius : float
        Standard deviation of the spots that are looked for, in px; for disks some 0.7 of their radius.
    navigation_mask : array of bool, optional
        True = excluded; of the navigation's shape in data order, (y, x).
    signal_mask : array of bool, shape (rows, columns), optional
        True = excluded (a beam stop, dead pixels).
    center : optional
        As for :func:`pyxem_dl.predict_orientation`.  With "auto" the centre is found in each pattern, and not here.
    beam_energy : float, optional
        In kV; by default that in the signal's metadata.
    device : str
        "auto" (CUDA, else MPS, else CPU) or a name of torch.
    on_message : callable, optional
        Called with each line that would be printed.

    Returns
    -------
    FoundCalibration
        ``print`` shows it; nothing is changed before ``found.apply(signal)``.

    Raises
    ------
    ValueError
        If the patterns do not tell it: too few confident orientations, halves of them that disagree, fewer peaks
        explained than before, or a scale or an ellipse that is off by more than 15 %; for a signal, a model or phases
        that cannot be used.  The message says what to do.
    """
    number("spot_radius", spot_radius, 0.5, 50.0)
    n_patterns = whole_number("n_patterns", n_patterns, _FEWEST_USED, _MOST_PATTERNS)
    model = load_model(ANY_CRYSTAL if model is None else model)
    if not isinstance(model, (OrientationModel, OrientationEnsemble)):
        raise TypeError(f"{model!r} does not predict orientations: give an orientation model.")
    phases = phases_to_find(model, phases)
    phases = phases if phases is None else load_phases(phases)
    reading = Reading(navigation_mask, signal_mask, center, beam_energy)
    scan = Scan.from_signal(signal, reading)
    found = calibrated(scan, model, phases, Computing(device, on_message=on_message), n_patterns, spot_radius)[1]
    return with_record(found, made_by(
        "calibrate", signal=signal, model=model, calibration=found.calibration,
        phases=[phase.name for phase in (model.phases if phases is None else phases)],
        n_patterns=n_patterns, spot_radius=spot_radius, **reading.asked(),
    ))  # fmt: skip


def calibrated(
    scan: Scan, model, phases, computing: Computing, n_patterns: int = _PATTERNS, spot_radius: float = _SPOT_RADIUS
) -> tuple[Scan, FoundCalibration]:
    """Find the calibration of a checked scan; return the scan with it, and it; see :func:`calibrate`."""
    model = model if phases is None else with_phases(model, phases, scan.calibration)
    gain = 1.0
    if getattr(model, "counts_electrons", False):
        gain = scan.counts_per_electron()
    model.to(computing.torch_device)

    def answer(patterns, calibration, centers) -> Answers:
        found = model.predict_batch(
            in_electrons(patterns, gain), calibration, centers=centers, signal_mask=scan.signal_mask, n_best=2
        )
        crystal, score = (x.float().cpu().numpy() for x in (found.crystal, found.scores[:, 0]))
        limits = model.thresholds
        confident = (crystal > 0) & (crystal >= limits.get("crystal", 0.5))
        confident &= score >= max(_LIKELY, limits.get("score", 0.0))
        return Answers(found.rotations[:, 0].double().cpu().numpy(), found.phase_id[:, 0].cpu().numpy(), confident)

    found = find_calibration(scan, answer, model.phases, n_patterns, spot_radius)
    computing.say(str(found))
    return with_calibration(scan, found), found


def with_calibration(scan: Scan, found: FoundCalibration) -> Scan:
    """Give a scan a calibration that was found, with the centers of all positions where they differ."""
    if tuple(scan.shape) != tuple(found.shape) or scan.calibration.shape != found.calibration.shape:
        raise ValueError(
            f"The calibration was found in a scan of {found.shape} positions and {found.calibration.shape} px, this "
            f"one has {scan.shape} and {scan.calibration.shape}. Write it into the signal with found.apply(s), or give "
            "calibrate=True."
        )
    centers = scan.centers if isinstance(scan.centers, str) else found.centers
    return replace(scan, calibration=found.calibration, centers=centers)


def find_calibration(
    scan: Scan, answer: Callable, phases: list, n_patterns: int = _PATTERNS, spot_radius: float = _SPOT_RADIUS
) -> FoundCalibration:
    """Find the calibration of a scan with whatever tells orientations.

    Parameters
    ----------
    scan : Scan
        With its patterns.
    answer : callable
        ``answer(patterns, calibration, centers)`` returns :class:`Answers`; ``patterns`` a tensor (n, rows, columns),
        ``centers`` a tensor (n, 2).
    phases : list of orix.crystal_map.Phase
        By the answers' ``phase_id``.
    n_patterns : int
        How many are looked at.
    spot_radius : float
        Standard deviation of a spot in px.
    """
    sample = _Sample.of(scan, n_patterns, spot_radius)
    return _Search(scan, sample, answer, phases).run()


@dataclass(frozen=True, eq=False)
class _Sample:
    """Patterns of a scan: flat `indices`, `patterns`, `places` (n, 2), nominal `centers` (n, 2) and `peaks` in px."""

    indices: np.ndarray
    patterns: torch.Tensor
    places: np.ndarray
    centers: np.ndarray
    peaks: list[np.ndarray]

    @classmethod
    def of(cls, scan: Scan, n: int, spot_radius: float) -> _Sample:
        there = np.flatnonzero(~scan.navigation_mask)
        if len(there) > n:  # one from each part of the scan, not always of the same column
            edges = np.linspace(0, len(there), n + 1).astype(int)
            there = there[np.random.default_rng(0).integers(edges[:-1], edges[1:])]
        data = scan.data if scan.shape else scan.data[None]
        indices, patterns = readable_patterns(data, there)
        patterns = np.stack([np.asarray(x, dtype=np.float32) for x in patterns])
        batch = torch.from_numpy(patterns)
        centers = scan.batch_centers(batch, indices)
        nominal = np.array(scan.calibration.center, dtype=float)
        centers = np.tile(nominal, (len(indices), 1)) if centers is None else centers.cpu().numpy().astype(float)
        mask = None if scan.signal_mask is None else scan.signal_mask.cpu().numpy()
        peaks = find_peaks(
            patterns, centers, spot_radius=spot_radius, exclude_radius=max(6.0, 3 * spot_radius), signal_mask=mask
        )
        return cls(indices, batch, scan_places(scan.shape, indices), centers, peaks)

    def part(self, n: int) -> _Sample:
        """So many of them, spread."""
        some = np.unique(np.linspace(0, len(self.indices) - 1, min(n, len(self.indices))).astype(int))
        peaks = [self.peaks[i] for i in some]
        return _Sample(self.indices[some], self.patterns[some], self.places[some], self.centers[some], peaks)


class _Look(NamedTuple):
    """Answers with a calibration, and which of them count.

    ``explained`` and ``by_chance`` are shares of the peaks of confident answers, ``gain`` what is explained beyond
    chance of all peaks: a scale at which hardly anything is confident must not win by the rest.
    """

    answers: Answers
    used: np.ndarray
    explained: float
    by_chance: float
    gain: float = 0.0


class _Search:
    """Turns answers into a calibration and a calibration into answers, until they agree."""

    def __init__(self, scan: Scan, sample: _Sample, answer: Callable, phases: list) -> None:
        self.scan, self.sample, self.answer, self.phases = scan, sample, answer, phases
        nominal = scan.calibration
        self.plain = nominal.replace(distortion=None)
        self.radius = min(_FARTHEST, nominal.reciprocal_radius * (1 + _LARGEST))
        self.tables = {i: reflections(phase, 1.1 * self.radius) for i, phase in enumerate(phases)}
        self.operations = [proper_operations(phase) for phase in phases]
        self.tolerance = max(_TOLERANCE, _TOLERANCE_PIXELS * max(nominal.scale))
        self.moves = not isinstance(scan.centers, str)
        whole = (1,) * (2 - len(scan.shape)) + tuple(scan.shape)
        self.drifts = (whole[1] > 3, whole[0] > 3)

    def run(self) -> FoundCalibration:
        """Find it, or raise a ValueError that says why not."""
        matrix = None if self.scan.calibration.distortion is None else np.array(self.scan.calibration.distortion)
        nominal = Bend.of(matrix)
        before = self.look(nominal, self.sample)
        bend = self.with_scale_of_rings(self.with_seen_beam(nominal))
        look = before if bend is nominal else self.look(bend, self.sample)
        how = {"centre": self.moves, "drift": self.drifts, "tolerance": self.tolerance}
        for i in range(_ROUNDS):
            patterns = self.patterns(look)
            self.check_number(len(patterns))
            if i == 0:
                bend = with_best_scale(patterns, bend, self.tolerance, _NEAR_SCALES)
            last, bend = bend, fit_what_is_determined(patterns, bend, nominal, final=False, **how).bend
            self.check_bounds(bend)
            look = self.look(bend, self.sample)
            if np.abs(bend.matrix - last.matrix).max() < _SMALL_CHANGE:
                break
        patterns = self.patterns(look)
        self.check_number(len(patterns))
        fitted = fit_what_is_determined(patterns, bend, nominal, **how)
        self.check_bounds(fitted.bend)
        look = self.look(fitted.bend, self.sample)
        self.check_halves(fitted, patterns)
        self.check_explained(before, look)
        return self.result(nominal, fitted, patterns, before, look)

    # ---------------------------------------------------------------- where it begins
    def with_seen_beam(self, bend: Bend) -> Bend:
        """Begin with the centre where the direct beam is clearly seen, as a plane over the scan."""
        beam, centers = self.scan.beam, self.scan.centers
        if beam is None or centers is not None or not beam.certain or beam.seen < 0.5 or len(beam.indices) < 10:
            return bend
        at = scan_places(self.scan.shape, beam.indices)
        design = np.concatenate([np.ones((len(at), 1)), at * self.drifts], axis=1)
        off = np.stack(pixel_to_k(*np.asarray(beam.positions, dtype=float).T, self.plain), axis=1)
        keep = np.ones(len(off), dtype=bool)
        for _ in range(4):  # what lies far from the plane is no beam
            plane = np.linalg.lstsq(design[keep], off[keep], rcond=None)[0]
            away = np.hypot(*(off - design @ plane).T)
            keep = away <= max(4 * np.median(away), 0.2 * max(self.plain.scale))
        return Bend.of(bend.matrix, plane[0], plane[1:])

    def with_scale_of_rings(self, bend: Bend) -> Bend:
        """Begin with a scale by the rings, where it explains clearly more than the nominal one."""
        k = np.concatenate([np.zeros(0), *(np.hypot(*self.k(bend, self.sample, i).T) for i in self.each(self.sample))])
        some = self.sample.part(_FIRST_LOOK)
        best, gain = bend, None
        for scale, _ in scales_by_rings(k, list(self.tables.values()), min(1.0, self.radius)):
            if abs(scale - 1) < _ANOTHER:
                continue
            if gain is None:
                gain = self.look(bend, some).gain + _BETTER
            other = Bend.of(bend.matrix * scale, bend.shift, bend.drift)
            found = self.look(other, some).gain
            if found > gain:
                best, gain = other, found
        return best

    # ---------------------------------------------------------------- answers
    @staticmethod
    def each(sample: _Sample) -> range:
        """Numbers of the patterns."""
        return range(len(sample.indices))

    def seen(self, sample: _Sample, i: int) -> np.ndarray:
        """Peaks (m, 2) of a pattern in Å⁻¹ by the nominal scale, from the nominal centre."""
        return np.stack(pixel_to_k(*sample.peaks[i][:, :2].T, self.plain, sample.centers[i]), axis=1)

    def k(self, bend: Bend, sample: _Sample, i: int) -> np.ndarray:
        """Peaks (m, 2) of a pattern in Å⁻¹ by a bend."""
        return bend.undone(self.seen(sample, i), sample.places[i])

    def centers(self, bend: Bend, calibration: Calibration, drift, sample: _Sample) -> np.ndarray:
        """Centers (n, 2) in px by a bend."""
        moved = np.array(calibration.center) - self.plain.center
        return sample.centers + moved + sample.places[:, ::-1] @ (drift / 2)

    def look(self, bend: Bend, sample: _Sample) -> _Look:
        """Ask for orientations with a calibration, and count what they explain."""
        calibration, drift = applied(self.plain, bend)
        centers = self.centers(bend, calibration, drift, sample)
        answers = self.answer(sample.patterns, calibration, torch.from_numpy(centers).float())
        n = len(sample.indices)
        xmap = to_crystal_map(
            Positions((n,), (1.0,), "px"), answers.rotations[:, None], answers.phase_id[:, None], np.ones((n, 1)),
            self.phases, indexed=answers.confident, is_in_data=np.ones(n, dtype=bool),
        )  # fmt: skip
        radius = min(_FARTHEST, calibration.reciprocal_radius)
        found = explained_peaks(
            xmap, sample.patterns.numpy(), self.tables, calibration, centers=centers, peaks=sample.peaks,
            tolerance=_NEAR, max_excitation_error=_SEEN_TO, reciprocal_radius=radius,
        )  # fmt: skip
        peaks = np.maximum(found.n_peaks, 1)
        used = answers.confident & (found.n_explained >= _FEWEST_EXPLAINED)
        used &= (found.n_explained - found.n_chance) / peaks >= _MORE_THAN_CHANCE
        total = max(found.n_peaks[answers.confident].sum(), 1)
        explained, by_chance = (float(x.sum() / total) for x in (found.n_explained, found.n_chance))
        gain = (explained - by_chance) * float(total / peaks.sum())
        return _Look(answers, used, explained, by_chance, gain)

    def patterns(self, look: _Look) -> list[Pattern]:
        """Gather what the fit needs of the patterns that count."""
        here = np.flatnonzero(look.used)
        rotations, phase_id, _ = look.answers
        grains = grains_of(rotations[here], phase_id[here], self.operations)
        made = []
        for i, grain in zip(here, grains, strict=True):
            g, turn = self.tables[int(phase_id[i])].g.double(), torch.as_tensor(rotations[i], dtype=torch.float64)
            (lab,), _, (near,) = near_ewald_sphere(g, turn[None], self.plain.wavelength, _EXCITATION_ERROR)
            made.append(Pattern(self.seen(self.sample, i), self.sample.places[i], lab[near, :2].numpy(), int(grain)))
        return made

    # ---------------------------------------------------------------- what speaks against
    def check_number(self, n: int) -> None:
        """Raise an error if too few answers count."""
        if n >= _FEWEST_USED:
            return
        raise ValueError(
            f"The scan cannot calibrate itself: only {n} of {len(self.sample.indices)} patterns have an orientation of "
            f"{', '.join(phase.name for phase in self.phases)} that explains their peaks, and {_FEWEST_USED} are "
            "needed. Give more patterns (n_patterns=), exclude what is no crystal (navigation_mask=), and check the "
            "phases, the beam energy, and that scale and centre are roughly right."
        )

    def check_bounds(self, bend: Bend) -> None:
        """Raise an error if a calibration runs away."""
        stretches = np.linalg.eigvalsh(bend.matrix)
        nearest = self.plain.reciprocal_radius * 0.5
        shift = np.hypot(*bend.shift) + np.hypot(*bend.drift.T).sum()
        if np.abs(stretches - 1).max() <= _LARGEST + 0.02 and shift < nearest:
            return
        raise ValueError(
            "The scan cannot calibrate itself: the calibration runs away, to a pattern that is stretched by "
            f"{100 * (stretches[1] - 1):+.1f} and {100 * (stretches[0] - 1):+.1f} % and {shift:.2g} Å⁻¹ off centre; up "
            f"to {100 * _LARGEST:.0f} % and {nearest:.2g} Å⁻¹ are believed. Check the phase, and set a scale that is "
            "roughly right (`s.calibration.scale = ...`)."
        )

    def check_halves(self, fitted: Fitted, patterns: list) -> None:
        """Raise an error if the halves of the answers disagree."""
        one, other = fitted.halves
        error = np.sqrt(np.diag(fitted.covariance)[:3].clip(0)) * np.sqrt(2)
        limit = np.maximum(_HALVES, _HALVES_ERRORS * np.maximum(error, 1e-12))
        if (np.abs(one - other) <= limit).all() or len(patterns) < 2:
            return
        text = [", ".join(f"{100 * x:+.1f}" for x in half - (1, 0, 1)) for half in (one, other)]
        raise ValueError(
            "The scan cannot calibrate itself: halves of the orientations disagree. By one the patterns are stretched "
            f"by ({text[0]}) %, by the other by ({text[1]}) % (along x, across, along y). Check the phases; give more "
            "patterns (n_patterns=), or exclude what is another crystal (navigation_mask=)."
        )

    def check_explained(self, before: _Look, after: _Look) -> None:
        """Raise an error if the orientations explain little, or less than before."""
        gained, had = (look.explained - look.by_chance for look in (after, before))
        numbers = (
            f"{100 * before.explained:.1f} % of the peaks before ({100 * before.by_chance:.1f} % by chance), "
            f"{100 * after.explained:.1f} % afterwards ({100 * after.by_chance:.1f} %)"
        )
        if gained < _LEAST_EXPLAINED:
            raise ValueError(
                f"The scan cannot calibrate itself: the orientations explain little more than chance, {numbers}. Check "
                "the phases, and that scale and centre are roughly right."
            )
        if gained < had - _SLACK:
            raise ValueError(
                f"The scan cannot calibrate itself: the orientations explain less than before, {numbers}. The "
                "calibration that the scan has is better than what was found."
            )

    def result(self, nominal: Bend, fitted: Fitted, patterns: list, before: _Look, after: _Look) -> FoundCalibration:
        """Put it together."""
        calibration, drift = applied(self.plain, fitted.bend)
        undetermined = tuple(name for name, known in fitted.determined.items() if not known)
        offsets = self.scan.centers if isinstance(self.scan.centers, np.ndarray) else None
        return FoundCalibration(
            nominal=self.scan.calibration, calibration=calibration, shape=tuple(self.scan.shape), drift=drift,
            undetermined=undetermined, n_patterns=len(self.sample.indices), n_used=len(patterns),
            n_grains=len({p.grain for p in patterns}), n_spots=fitted.n_spots,
            explained=(before.explained, after.explained), by_chance=(before.by_chance, after.by_chance),
            offsets=offsets, **numbers_of(fitted.bend, fitted.covariance, self.plain),
        )  # fmt: skip


def calibrated_or_not(scan: Scan, model, phases, computing: Computing) -> tuple[Scan, FoundCalibration | None]:
    """As :func:`calibrated`; where the scan cannot calibrate itself a warning, and its own calibration."""
    try:
        return calibrated(scan, model, phases, computing)
    except ValueError as error:
        if "cannot calibrate itself" not in str(error):
            raise
        c = scan.calibration
        kept = f"scale {c.scale[1]:.4g} Å⁻¹ per px, centre ({c.center[0]:.1f}, {c.center[1]:.1f}) px"
        warn(f"{error} The calibration of the signal is kept: {kept}.")
        return scan, None


def grains_of(rotations, phase_id, operations: list) -> np.ndarray:
    """Numbers (n,) of grains: orientations that are nearer than 5 degrees to the first of them."""
    rotations, number = torch.as_tensor(rotations, dtype=torch.float64), np.full(len(rotations), -1)
    for grain in range(len(rotations)):
        left = np.flatnonzero(number < 0)
        if not len(left):
            break
        left = left[phase_id[left] == phase_id[left[0]]]
        turns = operations[int(phase_id[left[0]])]
        angle = disorientation_angle(rotations[left], rotations[left[:1]].expand(len(left), 4), turns, modulo_180=True)
        number[left[np.rad2deg(angle.numpy()) < _GRAIN]] = grain
        number[left[0]] = grain
    return number
