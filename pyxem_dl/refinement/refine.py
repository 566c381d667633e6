"""Refine the orientations of a map: from a signal and a map to a map."""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyxem_dl.calibration import FoundCalibration, with_calibration
from pyxem_dl.checks import flag, number, whole_number
from pyxem_dl.crystals import load_phases
from pyxem_dl.crystals.checks import check_same_crystal
from pyxem_dl.electrons import HOW_TO_SET_BEAM_ENERGY, electron_wavelength
from pyxem_dl.messages import warn
from pyxem_dl.patterns import Probe
from pyxem_dl.records import made_by, provenance
from pyxem_dl.refinement.fitting import Physics
from pyxem_dl.refinement.neighbours import tempered
from pyxem_dl.refinement.scan_calibration import calibrated_scan
from pyxem_dl.refinement.step import RefinementStep, Start
from pyxem_dl.results.assembly import RefinedMap
from pyxem_dl.results.calibrations import calibration_of
from pyxem_dl.results.map_files import check_map_target, copied_map, map_of_scan, map_target
from pyxem_dl.scans import Computing, Job, Reading, Scan

if TYPE_CHECKING:
    from orix.crystal_map import CrystalMap

    from pyxem_dl.annotations import Center, Patterns, Phases

# Thicknesses (Å), energies (kV), and beams that the calculation is meant for
_THICKNESS, _ENERGY, _BEAMS = (5.0, 3000.0), (20.0, 1500.0), (8, 400)
# Absorption where it is wanted and no number is given
_ABSORPTION = 0.08
# A second candidate with so much of the first one's score may be the right one
_RIVAL = 0.1
# What refining finds, which an earlier map may have, too
_FOUND = (*RefinedMap.NAMES, *RefinedMap.STRAIN, "neighbours")
# Above this misfit, in the median, the model is not right
_DOUBTFUL = 3.5
# Calibrations that differ by less are one: relative, and px
_OTHER, _OTHER_CENTER = 0.002, 0.2
# A disk is at least so large, in pixels
_SMALLEST_RADIUS = 1.0


def refine_orientation(
    signal: Patterns,
    xmap: CrystalMap,
    *,
    phases: Phases | None = None,
    thickness: tuple[float, float] = (20.0, 600.0),
    absorption: bool | float = False,
    debye_waller: float = 0.5,
    n_beams: int = 60,
    convergence_semi_angle: float | None = None,
    precession_angle: float = 0.0,
    strain: bool = False,
    calibrate: bool | FoundCalibration = False,
    neighbours: bool = False,
    navigation_mask: np.ndarray | None = None,
    signal_mask: np.ndarray | None = None,
    center: Center | None = None,
    beam_energy: float | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    show_progressbar: bool | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    on_part: Callable | None = None,
    on_message: Callable | None = None,
) -> CrystalMap:
    """Refine orientations by what electrons do in a crystal, and find its thickness.

    The intensities of disks, and how uneven these are, are compared with those of Bloch waves, for tilts of up to half
    a degree about each orientation and all thicknesses; from the best of them damped Gauss-Newton steps lead to the
    likeliest. Where nothing fits, places up to two degrees away are tried.

    Parameters
    ----------
    signal : pyxem.signals.Diffraction2D
        Patterns with 0, 1 or 2 navigation dimensions, in memory or lazy, calibrated in units of reciprocal length or
        of angle.
    xmap : orix.crystal_map.CrystalMap
        Orientations of all positions of the signal, by any method, in the convention of pyxem_dl (see
        :func:`pyxem_dl.results.read_labels` for files of other programs). The first of each position is refined; where
        it does not fit, or the scores leave a doubt, the second, too.
    phases : orix.crystal_map.Phase, path of a CIF file, or a list of these, optional
        Crystals with atoms, by the names of the map's phases, where those of the map have none.
    thickness : tuple of float
        Smallest and largest in Å. A large range takes longer.
    absorption : bool or float
        Imaginary part of the potential as a share of the real part; True is 0.08.
    debye_waller : float
        B in Å², of all atoms.
    n_beams : int
        Beams of a pattern that take part.
    convergence_semi_angle : float, optional
        Semi-angle of the incident cone in mrad. By default the radius of the direct beam in the patterns says.
    precession_angle : float
        Of a precessing beam, in degrees.
    strain : bool
        Refine the strain in the plane of the pattern, too: from where disks are, with what the crystal makes of the
        light within them. It is as good as the calibration (see `calibrate`), and takes longer.
    calibrate : bool or FoundCalibration
        Refine scale, ellipse, centre and drift of the scan first, by up to 96 positions spread over it, and use them;
        or use what was found before, by :func:`pyxem_dl.calibrate`. A scale or an ellipse that is off by more than a
        percent or two needs the latter. The signal stays as it is.
    neighbours : bool
        Refine each position twice, the second time with what its neighbours of the same grain say: those of the eight
        around it that are refined, of the same phase, and within three degrees. Their mean orientation and thickness
        are added to what the pattern says, which helps where electrons are few. An answer that fits the pattern
        clearly worse than its own is not taken. Fewer than three neighbours say nothing, as on a line. It takes twice
        as long.
    navigation_mask, signal_mask, center, beam_energy, batch_size, device
        As of :func:`pyxem_dl.predict_orientation`.
    show_progressbar, output, overwrite, on_part, on_message
        As of :func:`pyxem_dl.predict_orientation`.

    Returns
    -------
    orix.crystal_map.CrystalMap
        The map with refined rotations, and further properties (n,):

        * ``thickness``, ``thickness_error``: in Å.
        * ``orientation_error``: in degrees; two of three orientations are nearer to the truth.
        * ``misfit``: mean square of what the model does not explain, in units of the expected errors: 1 is a model
          that is right, above 2 it is not, and the errors are larger.
        * ``candidate``: 0, or 1 where the map's second candidate is the right one, and is the first one then: the first
          does not fit (its misfit is above 1.5) and the second has half its misfit or less; or both fit, and the second
          is likelier by faint disks and by scores that are probabilities.
        * ``refined``: False where nothing was found that explains the pattern, or it was more than four degrees away:
          the orientation is the map's, and the numbers are NaN.
        * ``e_xx``, ``e_yy``, ``e_xy``, and ``e_xx_error`` and so on, with `strain`: without a unit, x to the right in
          the pattern and y up, longer is positive, as of :func:`pyxem_dl.strain_map`. They are NaN where fewer than
          five disks are seen, where these lie on a line, and where an error would be above 2 %.
        * ``neighbours``, with `neighbours`: how many had a say; 0: the position is refined by itself.
        * ``calibration`` (n, 10), with `calibrate`: what was used; :func:`pyxem_dl.calibration_of` reads it.

    Raises
    ------
    ValueError, TypeError
        For a signal or a map that cannot be used, a map of other positions, phases without atoms, thicknesses or
        energies beyond the domain; the message says what to do.

    Warns
    -----
    UserWarning
        If no position could be refined, or the misfits are large; if the map was made with another calibration than the
        signal has; if the scan cannot be calibrated by its refined patterns (the signal's calibration is then used), or
        its calibration is changed much; and as :func:`pyxem_dl.predict_orientation`.

    Notes
    -----
    Intensities are aperture sums without the mean of their surroundings. Disks that are saturated, masked, or cut by
    the detector's edge take no part. Candidates that differ by a turn of 180°, about the beam or a zone axis near it,
    are told apart by reflections far from their Bragg condition; what these leave open, :func:`pyxem_dl.settle`
    decides. Positions that are not indexed stay so.

    References
    ----------
    Hirsch, Howie, Nicholson, Pashley & Whelan, *Electron Microscopy of Thin Crystals* (Bloch waves); Bethe, *Annalen
    der Physik* 392, 55 (1928) (weak beams).
    """
    target = map_target(output, overwrite)
    computing = Computing(device, batch_size, show_progressbar, on_part, on_message)
    if not hasattr(xmap, "phase_id") or not hasattr(xmap, "rotations"):
        raise TypeError(f"xmap is an orix CrystalMap, not {type(xmap).__name__}.")
    scan = Scan.from_signal(signal, Reading(navigation_mask, signal_mask, center, beam_energy))
    xmap = map_of_scan(xmap, scan.shape)
    if calibrate is False:
        _warn_of_other_calibration(xmap, scan.calibration)
    return refine_map(
        signal, scan, xmap, computing, target, phases=phases, thickness=thickness, absorption=absorption,
        debye_waller=debye_waller, n_beams=n_beams, convergence_semi_angle=convergence_semi_angle,
        precession_angle=precession_angle, strain=strain, calibrate=calibrate, neighbours=neighbours,
    )  # fmt: skip


def refinement_settings(refine) -> dict | None:
    """Read `refine` of a verb that predicts: None where it is not wanted, or the settings that were given."""
    known = set(inspect.signature(refinement_job).parameters) - {"signal", "scan", "xmap", "start", "computing"}
    known.add("neighbours")
    if isinstance(refine, dict):
        unknown = sorted(set(map(str, refine)) - known)
        if unknown:
            raise ValueError(f"refine has settings of refine_orientation ({', '.join(sorted(known))}), not {unknown}.")
        return refine
    return {} if flag("refine", refine, "a dict of settings, such as {'thickness': (20, 600)}") else None


def refine_map(
    signal, scan: Scan, xmap, computing: Computing, target, n_best: int | None = None, neighbours: bool = False,
    **settings,
) -> CrystalMap:  # fmt: skip
    """Refine a map of a scan that is read and checked, and keep so many candidates; warn where nothing was refined."""
    neighbours = flag("neighbours", neighbours)
    start = read_start(xmap, n_best)
    job = refinement_job(signal, scan, xmap, start, computing, **settings)
    check_map_target(target, job.scan.n_patterns, start.n_best)
    refined = (tempered(job) if neighbours else job).run(target)
    _warn_of_misfits(refined)
    return refined


def _warn_of_misfits(refined) -> None:
    """Warn where nothing was refined, or the model is not right of what was."""
    misfit, tried = np.asarray(refined.prop["misfit"]), refined.phase_id >= 0
    kept = tried & np.asarray(refined.prop["refined"])
    seen = (kept if kept.any() else tried) & np.isfinite(misfit)
    middle = np.median(misfit[seen]) if seen.any() else 0.0
    if tried.any() and not kept.any():
        warn(
            f"None of {tried.sum()} positions could be refined: their misfits are {middle:.3g} in the median, where 1 "
            "is a model that is right. Check the phase, the scale, the center, the beam energy, the convergence angle "
            "and the range of thicknesses."
        )
    elif middle > _DOUBTFUL:
        warn(
            f"The misfits of {kept.sum()} refined positions are {middle:.3g} in the median, where 1 is a model that is "
            "right: orientations may be worse than before. Try calibrate=True with center='auto', and check the range "
            "of thicknesses, precession_angle= and absorption=."
        )


def read_start(xmap, n_best: int | None = None) -> Start:
    """Read what a map says, of all its positions; by default all its candidates are kept."""
    whole = copied_map(xmap, np.ones_like(xmap.is_in_data))
    n = whole.is_in_data.size
    keys = [key for key, _ in xmap.phases if key >= 0]
    number_of = np.full(max([*keys, 0, int(whole.phase_id.max(initial=0))]) + 2, -1)
    number_of[keys] = np.arange(len(keys))
    phase = np.where(xmap.is_in_data, number_of[whole.phase_id], -1)
    rotations = whole.rotations.data.reshape(n, -1, 4).astype(float)
    known = np.isfinite(rotations).all((1, 2))
    properties = {}
    for name, values in whole.prop.items():
        values = np.asarray(values)
        if values.dtype.kind in "biuf" and len(values) == n and name not in _FOUND:
            properties[name] = values
    rotations = np.where(known[:, None, None], rotations, [1.0, 0, 0, 0])
    phase = np.where(known, phase, -1)
    rival = _rivals(properties, rotations, phase, number_of)
    return Start(rotations, phase, rival, properties, tuple(whole.shape), n_best or rotations.shape[1])


def _rivals(properties: dict, rotations: np.ndarray, phase: np.ndarray, number_of: np.ndarray) -> np.ndarray:
    """Phase (n,) of the second candidate of each position, -1 where it is none."""
    none = np.full_like(phase, -1)
    if rotations.shape[1] < 2 or "n_crystals" in properties:  # of an overlap both are there
        return none
    of_each = {name: properties.get(name) for name in ("scores", "candidate_phase_id")}
    scores, ids = (x if x is not None and x.shape == rotations.shape[:2] else None for x in of_each.values())
    near = np.ones(len(phase), bool) if scores is None else scores[:, 1] > _RIVAL * scores[:, 0]
    apart = np.abs((rotations[:, 0] * rotations[:, 1]).sum(1)) < 1 - 1e-9
    second = phase if ids is None else number_of[ids[:, 1].astype(int)]
    return np.where((phase >= 0) & near & (apart | (second != phase)), second, none)


def refinement_job(
    signal, scan: Scan, xmap, start: Start, computing: Computing, phases=None, *, thickness=(20.0, 600.0),
    absorption=False, debye_waller=0.5, n_beams=60, convergence_semi_angle=None, precession_angle=0.0,
    strain=False, calibrate=False,
) -> Job:  # fmt: skip
    """Check everything before anything is computed; the arguments are those of :func:`refine_orientation`."""
    # a line of a scan is a line, whether it has a second dimension or not
    if len({tuple(n for n in each if n > 1) for each in (start.shape, scan.shape)}) > 1:
        raise ValueError(
            f"The map has {start.shape} positions, the signal {scan.shape}: give the map of this signal, or crop both "
            "alike."
        )
    # what is not in the map's data is not in that of the refined one either
    scan = replace(scan, navigation_mask=scan.navigation_mask | ~xmap.is_in_data)
    if not scan.n_patterns:
        raise ValueError("The map has no position in its data: there is nothing to refine.")
    keys = [key for key, _ in xmap.phases if key >= 0]
    tried = np.unique([start.phase, start.rival])
    crystals = _with_atoms([xmap.phases[key] for key in keys], phases, tried[tried >= 0])
    if scan.calibration.beam_energy is None:
        raise ValueError(f"The signal has no beam energy. {HOW_TO_SET_BEAM_ENERGY}")
    energy = number("beam_energy", scan.calibration.beam_energy, *_ENERGY)
    found, wanted = None, isinstance(calibrate, FoundCalibration) or flag("calibrate", calibrate, "what one found")
    if wanted and calibrate is not True:
        scan, found = with_calibration(scan, calibrate), calibrate
    low, high = _pair_of(thickness)
    absorption = _ABSORPTION if absorption is True else 0.0 if absorption is False else absorption
    gain = scan.counts_per_electron()
    physics = Physics(
        _radius(scan, gain, convergence_semi_angle, needed=(tried >= 0).any()), (low, high),
        whole_number("n_beams", n_beams, *_BEAMS), number("debye_waller", debye_waller, 0, 10),
        number("absorption", absorption, 0, 0.5), number("precession_angle", precession_angle, 0, 5),
    )  # fmt: skip
    strain = flag("strain", strain)
    if wanted and found is None:
        scan, found = calibrated_scan(scan, start, crystals, physics, gain, computing.torch_device, computing.say)
    calibration = scan.calibration
    step = RefinementStep(crystals, scan.without_data(), physics, start, gain, strain)
    lines = {
        "Phases": ", ".join(phase.name for phase in crystals), "Patterns": scan.describe(),
        "Disks": f"radius {physics.radius:.3g} px, "
        f"{1e3 * physics.radius * calibration.scale[1] * electron_wavelength(energy):.3g} mrad",
        "Thickness": f"{low:g} to {high:g} Å", "Beams": str(physics.n_beams),
    }  # fmt: skip
    assemble = RefinedMap.of(xmap, scan.positions, start.properties, strain, found and found.to_dict())
    return Job(
        "Orientation refinement", lines, scan, step, computing, assemble,
        [vars(physics), gain, _digest(start), start.n_best] + ["strain"] * strain, signal,
        record=made_by(
            "refine_orientation", signal=signal, calibration=calibration, made_from=provenance(xmap),
            **(vars(physics) | {"counts_per_electron": gain, "strain": strain,
                              "calibrate": calibrate if isinstance(calibrate, bool) else "given"}),
        ),
    )  # fmt: skip


def _warn_of_other_calibration(xmap, calibration) -> None:
    """Warn where a map was made with another calibration than its signal has."""
    made = calibration_of(xmap)
    if made is None:
        return
    scale = math.sqrt(math.prod(made.scale) / math.prod(calibration.scale)) - 1
    bends = [np.eye(2) if each.distortion is None else np.array(each.distortion) for each in (made, calibration)]
    bend = np.abs(np.subtract(*bends)).max()
    moved = math.dist(made.center, np.asarray(calibration.center, dtype=float))  # NaN where each pattern has its own
    if abs(scale) > _OTHER or bend > _OTHER or moved > _OTHER_CENTER:
        warn(
            f"The map was made with another calibration than the signal has: a scale that is {100 * scale:+.2f} % "
            f"larger, an ellipse that differs by {100 * bend:.2f} %, a centre {moved:.2g} px away. That of the signal "
            "is used. Give calibrate=, what pyxem_dl.calibrate found or True."
        )


def _digest(start: Start) -> str:
    """Text that differs for other orientations."""
    digest = hashlib.sha256(np.ascontiguousarray(start.rotations).tobytes())
    digest.update(np.ascontiguousarray([start.phase, start.rival]).tobytes())
    for name in sorted(start.properties):
        digest.update(name.encode() + np.ascontiguousarray(start.properties[name]).tobytes())
    return digest.hexdigest()


def _with_atoms(mapped: list, phases, used) -> list:
    """Phases of a map with their atoms, from those that were given where it has none."""
    given = {} if phases is None else {phase.name: phase for phase in load_phases(phases)}
    only = next(iter(given.values())) if len(given) == len(mapped) == 1 else None
    found = []
    for i, of_map in enumerate(mapped):
        phase = given.get(of_map.name, only) or of_map
        if i in used and phase is not of_map:
            check_same_crystal(of_map, phase)
        if i in used and not len(phase.structure):
            raise ValueError(
                f"The map's phase {phase.name!r} has no atoms, from which intensities could be computed: give "
                "`phases=`, a CIF file or phase of this name."
            )
        found.append(load_phases(phase)[0] if i in used else phase)
    return found


def _pair_of(thickness) -> tuple[float, float]:
    try:
        low, high = (float(x) for x in thickness)
    except (TypeError, ValueError):
        words = f"thickness is the smallest and the largest in Å, such as (20, 600), not {thickness!r}."
        raise ValueError(words) from None
    least, most = _THICKNESS
    if not least <= low < high <= most:
        raise ValueError(f"thickness must be two increasing numbers from {least:g} to {most:g} Å, not {thickness!r}.")
    return low, high


def _radius(scan: Scan, gain: float, convergence_semi_angle, needed: bool) -> float:
    """Radius of a disk in pixels, given or from the direct beam; where nothing is indexed it is not needed."""
    calibration = scan.calibration
    if convergence_semi_angle is not None:
        angle = number("convergence_semi_angle", convergence_semi_angle, 0, 100)
        pixel = math.sqrt(math.prod(calibration.scale)) * calibration.wavelength * 1e3
        return max(angle / pixel, _SMALLEST_RADIUS)
    try:
        return max(Probe.from_patterns(scan.sample_patterns() / gain, calibration.center).radius, _SMALLEST_RADIUS)
    except ValueError as error:
        if not needed:
            return _SMALLEST_RADIUS
        why = str(error).split(" Give ")[0]  # what a probe's verbs take is not to be had here
        raise ValueError(
            f"The radius of disks cannot be read from the patterns ({why}) Give `convergence_semi_angle=` in mrad."
        ) from error
