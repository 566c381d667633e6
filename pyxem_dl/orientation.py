"""Predict orientations: from a signal to a crystal map."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from pyxem_dl.calibration import FoundCalibration, calibrated_or_not, with_calibration
from pyxem_dl.checks import flag, whole_number
from pyxem_dl.crystals.alike import one_of_each
from pyxem_dl.crystals.reflections import check_seen
from pyxem_dl.messages import warn
from pyxem_dl.models import (
    ANY_CRYSTAL,
    OrientationEnsemble,
    OrientationModel,
    SentModel,
    load_model,
    phases_to_find,
    with_phases,
)
from pyxem_dl.networks import MOST_CRYSTALS
from pyxem_dl.preprocessing import in_electrons
from pyxem_dl.records import made_by
from pyxem_dl.refinement.refine import refine_map, refinement_settings
from pyxem_dl.results.assembly import PredictedMap
from pyxem_dl.results.calibrations import calibration_numbers
from pyxem_dl.results.map_files import check_map_target, map_target
from pyxem_dl.results.orientation_map import to_orientation_map
from pyxem_dl.scans import Computing, Job, Partial, Reading, Scan, Step
from pyxem_dl.templates.cost import cost_together

if TYPE_CHECKING:
    from orix.crystal_map import CrystalMap

    from pyxem_dl.annotations import Center, Patterns, Phases

__all__ = ["OrientationStep", "iter_predict_orientation", "predict_orientation", "to_orientation_map"]

# More modes than this no distribution has; and so many predictions take a thousand times as long as one
_MOST_CANDIDATES, _MOST_SAMPLES = 100, 1000
# Several crystals at a position take so many times as long as one
_OVERLAP_TAKES = 10


def predict_orientation(
    signal: Patterns,
    model: str | Path | OrientationModel | Sequence[str | Path | OrientationModel] | None = None,
    *,
    phases: Phases | None = None,
    calibrate: bool | FoundCalibration = False,
    n_best: int = 1,
    n_samples: int = 0,
    overlap: bool = False,
    refine: bool | dict = False,
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
    """Predict the crystal orientation at every position of a scan with a trained network.

    Parameters
    ----------
    signal : pyxem.signals.Diffraction2D
        Patterns with 0, 1 or 2 navigation dimensions, in memory or lazy, calibrated in units of
        reciprocal length or of angle.
    model : str, pathlib.Path or OrientationModel, or a list of these, optional
        Name of a bundled model (see `pyxem_dl.list_models`), a model folder, the address of a shared model (see
        :func:`pyxem_dl.load_model`), or a loaded model.  A list of models of the same phases is used as an ensemble.
        By default "any-crystal", which has to be told the `phases`.
    phases : orix.crystal_map.Phase, path of a CIF file, or a list of these, optional
        What may be in the scan, for a model that takes any crystal.  Several phases are told apart.
    calibrate : bool or FoundCalibration
        Find scale, ellipse, centre and drift of the scan first (:func:`pyxem_dl.calibrate`), and use them; or use what
        was found there.  The signal stays as it is.
    n_best : int
        Number of separated orientations to keep per position, the best first.
    n_samples : int
        Number of predictions with dropout (Monte-Carlo dropout).  The map then has the mean of the largest group of
        predictions that lie within 10 degrees of each other, and their uncertainty.  For models with dropout; an
        ensemble has an uncertainty without it.
    overlap : bool
        Look for up to three crystals at each position that lie above each other, and say which share of the light each
        has; for the model "any-crystal" and its like.  It takes some ten times as long.
    refine : bool or dict
        Refine the best orientations by Bloch waves, and find thicknesses, as :func:`pyxem_dl.refine_orientation` does
        it; or a dict of its settings, such as ``{"thickness": (20, 1500), "absorption": True}``.
    navigation_mask : array of bool, optional
        True = excluded; of the navigation's shape in data order, (y, x).
    signal_mask : array of bool, shape (rows, columns), optional
        True = excluded (a beam stop, dead pixels).
    center : optional
        Position of the direct beam.  None: the calibration's.  "auto": found in each pattern.
        (row, column) in pixels, or an array (y, x, 2) of them.  Or pyxem's ``BeamShift``, from
        ``s.get_direct_beam_position(...)``.
    beam_energy : float, optional
        In kV; by default that in the signal's metadata.
    batch_size : int, optional
        Patterns on the device at once; by default chosen for the device.  The predictions do not
        depend on it.
    device : str
        "auto" (CUDA, else MPS, else CPU) or a name of torch.
    show_progressbar : bool, optional
        By default HyperSpy's preference.
    output : str or pathlib.Path, optional
        Where the map goes. ``.zarr``: a store to which results are written as they come, and that
        :func:`pyxem_dl.open_result` reads; ``.h5`` (everything), ``.ang`` or ``.ctf``: a file, and until it is whole a
        store beside it, ``<output>.partial``. A second call with the same signal, model and settings continues after a
        run that was interrupted or killed.
    overwrite : bool
        Replace a file that is there, or a store of other work.
    on_part, on_message : callable, optional
        Called with each :class:`~pyxem_dl.scans.Part` as it comes (returning False stops the work as Ctrl-C does), and
        with each line that would be printed.

    Returns
    -------
    orix.crystal_map.CrystalMap
        Rotations lab to crystal, shape (n, n_best), or (n,) for n_best = 1, or (n, 3) with `overlap`.
        ``phase_id`` is -1 (not indexed) where the score of the best orientation, or the network's own
        probability that there is a crystal, is below the model's thresholds.  Properties:

        * ``score`` (n,): probability of the best orientation.  It is low in vacuum and on bare film, too.
        * ``scores``, shape as the rotations: probability of each separated mode, the first is ``score``.
        * ``reliability`` (n,): 1 - second score / first score; where the network gives a second.
        * ``candidate_phase_id`` (n, n_best): with several phases and n_best > 1.
        * ``uncertainty`` (n,): with `n_samples` or several models, the distance of their predictions from the map's
          (root mean square, degrees), scaled to the size of the errors if the model knows how.
        * ``share`` (n, 3), with `overlap`: of each crystal in the light that they explain together, the largest first.
          It is 0 where there is no further crystal: the rotation is then that of the first one.
        * ``n_crystals`` (n,), with `overlap`: how many there are; 0 where nothing is indexed.  ``scores`` are those of
          each crystal by itself, and ``candidate_phase_id`` (n, 3) is there for one phase, too, -1 where there is no
          crystal: ``phase_id`` is the phase of the first one.
        * ``thickness``, ``thickness_error``, ``orientation_error``, ``misfit``, ``refined`` (n,): with `refine`; see
          :func:`pyxem_dl.refine_orientation`.
        * ``calibration`` (n, 10): with `calibrate`, or if the signal's metadata have a distortion, what was used; see
          :func:`pyxem_dl.calibration_of`, which reads it.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        For a signal, a model, a mask or a device that cannot be used; the message says what to do.
    FileExistsError, OSError
        For an `output` that is there and is not of this work, or cannot be written, before anything is computed.
    BlockingIOError
        If another process writes the same output.
    NotWritten
        If the map could not be written in the end: what is computed is kept, and the error has the map as its
        ``result``.

    Warns
    -----
    UserWarning
        If the detector or the beam energy is not what the model was trained for; if two of the `phases` cannot be told
        apart (they are one entry of the map, under both names); if no pattern is indexed; if the scan cannot be
        calibrated by its patterns (the signal's calibration is then used); if memory runs out and smaller batches are
        used; if the run is interrupted (Ctrl-C): the map then has what was done, and the rest is not in its data (with
        `output`, it is raised); if a part of the file cannot be read: its positions are not in the data.

    Notes
    -----
    With a client of dask.distributed alive the patterns are read and computed on its workers.

    Patterns with NaN or infinite pixels, constant, all-zero and saturated ones are not indexed.
    Negative intensities count as 0.
    """
    target = map_target(output, overwrite)
    refining = refinement_settings(refine)
    computing = Computing(device, batch_size, show_progressbar, on_part, on_message)
    reading = Reading(navigation_mask, signal_mask, center, beam_energy)
    n_best = whole_number("n_best", n_best, 1, _MOST_CANDIDATES)
    # where the first does not fit, the second may
    n_found = n_best if refining is None or overlap else max(n_best, 2)
    job = orientation_job(signal, model, phases, calibrate, n_found, n_samples, reading, computing, overlap)
    kept = n_best if n_best < n_found else None
    check_map_target(target, job.scan.n_patterns, kept or job.assemble.n_best)
    xmap = job.run(target if refining is None else None)
    _warn_of_nothing(xmap, job.assemble.thresholds, job.scan.calibration)
    if refining is None:
        return xmap
    return refine_map(signal, job.scan, xmap, computing, target, kept, **refining)


def iter_predict_orientation(
    signal: Patterns,
    model: str | Path | OrientationModel | Sequence[str | Path | OrientationModel] | None = None,
    *,
    phases: Phases | None = None,
    calibrate: bool | FoundCalibration = False,
    n_best: int = 1,
    n_samples: int = 0,
    overlap: bool = False,
    navigation_mask: np.ndarray | None = None,
    signal_mask: np.ndarray | None = None,
    center: Center | None = None,
    beam_energy: float | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    show_progressbar: bool | None = None,
    on_message: Callable | None = None,
) -> Iterator[Partial]:
    """Predict orientations, and see the map grow.

    Parameters
    ----------
    signal, model, phases, calibrate, n_best, n_samples, overlap, navigation_mask, signal_mask, center, beam_energy
        As in :func:`predict_orientation`.
    batch_size, device, show_progressbar, on_message
        As in :func:`predict_orientation`.

    Yields
    ------
    pyxem_dl.scans.Partial
        After each batch, always the same object, that grows: ``partial.done`` (bool, of the navigation's shape),
        ``partial.n_done`` of ``partial.n``, and ``partial.to_crystal_map()``, in which what is not done is not in the
        data. Leave the loop, and the work stops.
    """
    job = orientation_job(
        signal, model, phases, calibrate, n_best, n_samples, Reading(navigation_mask, signal_mask, center, beam_energy),
        Computing(device, batch_size, show_progressbar, on_message=on_message), overlap,
    )  # fmt: skip
    return job.iterate()


def orientation_job(
    signal, model, phases, calibrate, n_best: int, n_samples: int, reading: Reading, computing: Computing,
    overlap: bool = False,
) -> Job:  # fmt: skip
    """Check everything before anything is computed; the arguments are those of :func:`predict_orientation`."""
    n_best = whole_number("n_best", n_best, 1, _MOST_CANDIDATES)
    n_samples = whole_number("n_samples", n_samples, 0, _MOST_SAMPLES)
    loaded = model = load_model(ANY_CRYSTAL if model is None else model)
    if not isinstance(model, (OrientationModel, OrientationEnsemble)):
        raise TypeError(f"{model!r} does not predict orientations: give an orientation model.")
    model.check_thresholds()
    if flag("overlap", overlap):
        check_overlap(model, n_best, n_samples)
    phases = phases_to_find(model, phases)
    if not isinstance(calibrate, FoundCalibration):
        flag("calibrate", calibrate)
    scan = Scan.from_signal(signal, reading)
    if phases is not None:
        phases = _looked_for(model, phases, scan, computing, _OVERLAP_TAKES if overlap else 1)
    nominal, plain = scan, model
    if phases is not None:  # what labels told a model of the scale counts no more where the patterns tell it
        plain = model.at_nominal_scale()
    scan, found = _calibrated(nominal, calibrate, plain, phases, computing)
    model = model if scan is nominal else plain
    if phases is not None:
        model = with_phases(model, phases, scan.calibration)
    model.check_domain(scan.calibration)
    if n_best > 1 and (n_samples or not model.gives_several):
        raise ValueError(
            "n_best > 1 needs a single network that proposes several orientations ('polar'), and n_samples=0: here "
            "each pattern gets one orientation. Use n_best=1."
        )
    gain = 1.0
    if model.counts_electrons:
        gain = scan.counts_per_electron()
    energy = model.domain.get("beam_energy")
    lines = {
        "Model": f"{model.name} ({model.network_name}" + (f", {energy:g} kV)" if energy else ")"),
        "Phases": ", ".join(phase.name for phase in model.phases),
        "Patterns": scan.describe(),
    } | ({"Counts per electron": f"{gain:.3g}"} if gain != 1 else {})
    n_best = MOST_CRYSTALS if overlap else n_best
    return Job(
        "Orientation prediction", lines, scan,
        OrientationStep(model, scan.without_data(), n_best, n_samples, gain, overlap),
        computing, PredictedMap(scan.positions, model.phases, n_best, dict(model.thresholds), found, overlap),
        [model.fingerprint, n_best, n_samples, gain] + ["overlap"] * overlap, signal,
        record=made_by(
            "predict_orientation", signal=signal, model=loaded, calibration=scan.calibration,
            phases=[phase.name for phase in model.phases],
            calibrate=calibrate if isinstance(calibrate, bool) else "given", n_best=n_best, n_samples=n_samples,
            overlap=overlap, counts_per_electron=gain, **reading.asked(),
        ),
    )  # fmt: skip


def check_overlap(model, n_best: int, n_samples: int) -> None:
    """Refuse what does not go with crystals above each other."""
    if not getattr(model, "finds_overlaps", False):
        raise ValueError(
            f"overlap=True needs a model of the kind of 'any-crystal': {model.name!r} finds one crystal at each "
            "position. Leave the model out and name the phases, or use overlap=False."
        )
    if n_best > 1 or n_samples:
        raise ValueError(
            f"overlap=True gives up to {MOST_CRYSTALS} crystals at each position, and one orientation of each: use "
            "n_best=1 and n_samples=0."
        )


def _looked_for(model, phases, scan: Scan, computing: Computing, times: int) -> list:
    """Check phases before the work, and say what it costs to look for them."""
    looking = with_phases(model, phases, scan.calibration)
    check_seen(looking.phases, looking.preprocessing.reciprocal_radius)
    phases = one_of_each(looking.phases)
    computing.say("Looking for " + cost_together(phases, looking.preprocessing, scan.n_patterns, times))
    return phases


def _warn_of_nothing(xmap, thresholds: dict, calibration) -> None:
    """Warn where not one pattern of many is indexed, with what was reached and what is needed."""
    if not xmap.size or (xmap.phase_id >= 0).any():
        return
    needed = ", ".join(f"{name} {limit:.2g}" for name, limit in thresholds.items())
    warn(
        f"None of {xmap.size} patterns is indexed: their best score is {xmap.prop['score'].max():.2g}, the model's "
        f"thresholds are {needed}. If there are spots, check the phases, the scale ({calibration.scale[1]:.4g} Å⁻¹ per "
        "px), the center and the beam energy; calibrate=True finds a scale that is off by some per cent."
    )


def _calibrated(scan: Scan, calibrate, model, phases, computing: Computing) -> tuple[Scan, dict | None]:
    """Scan with the calibration that is wanted, and the numbers of it for the result."""
    found = None
    if calibrate is True:
        scan, found = calibrated_or_not(scan, model, phases, computing)
    elif calibrate is not False:
        scan, found = with_calibration(scan, calibrate), calibrate
    if found is None:  # what the signal's metadata say
        known = scan.calibration.distortion is not None
        return scan, calibration_numbers(scan.calibration, center_known=scan.centers is None) if known else None
    return scan, found.to_dict() | ({"centers_given": True} if isinstance(scan.centers, str) else {})


class ModelStep(Step):
    """What is done to patterns with a model, ``model``, and a scan without its patterns, ``scan``."""

    def __getstate__(self) -> dict:
        # bundled models go by name and hash, so that no weights travel
        return self.__dict__ | {"model": SentModel.of(self.model)}

    def prepare(self, device: torch.device) -> None:
        """Get the model onto the device."""
        if isinstance(self.model, SentModel):
            self.model = self.model.load()
        self.model.to(device)
        if self.scan.signal_mask is not None:
            self.scan = replace(self.scan, signal_mask=self.scan.signal_mask.to(device))


class OrientationStep(ModelStep):
    """Predicts the orientations of a batch.

    Parameters
    ----------
    model : OrientationModel or OrientationEnsemble
        What predicts.
    scan : Scan
        Without its patterns.
    n_best : int
        Orientations to keep for each pattern.
    n_samples : int
        Predictions with dropout.
    gain : float
        What the detector writes for an electron, for models that count them.
    overlap : bool
        Look for several crystals that lie above each other.
    """

    def __init__(
        self, model, scan: Scan, n_best: int = 1, n_samples: int = 0, gain: float = 1.0, overlap: bool = False
    ) -> None:
        self.model, self.scan, self.n_best, self.n_samples, self.gain = model, scan, n_best, n_samples, gain
        self._overlap = overlap
        self._several, self.micro_batch = model.gives_several and not n_samples, model.micro_batch
        # what several predictions agree on is known with its uncertainty
        self._with_uncertainty = n_samples > 0 or isinstance(model, OrientationEnsemble)
        self.keep_every = max(self.micro_batch, 4096 // max(1, n_samples) // model.n_networks)

    @property
    def fields(self):
        """See :meth:`PredictedMap.fields`; the reliability needs two orientations."""
        if self._overlap:
            return PredictedMap.fields_of_overlaps()
        return PredictedMap.fields(max(2, self.n_best) if self._several else 1, self._with_uncertainty)

    def __call__(self, patterns: torch.Tensor, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Predictions for a batch, the uncertainty in degrees."""
        found = self.model.predict_batch(
            in_electrons(patterns, self.gain), self.scan.calibration,
            centers=self.scan.batch_centers(patterns, indices), signal_mask=self.scan.signal_mask,
            n_best=max(2, self.n_best), n_samples=self.n_samples, **{"overlap": True} if self._overlap else {},
        )._asdict()  # fmt: skip
        if "uncertainty" in found:
            found["uncertainty"] = self.model.calibrated(found["uncertainty"])
        return found
