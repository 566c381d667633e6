"""Predict orientations: from a signal to a crystal map, and on to pyxem's orientation map."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pyxem_dl.checks import number, whole_number
from pyxem_dl.files import check_target, claimed
from pyxem_dl.messages import warn
from pyxem_dl.models import OrientationEnsemble, OrientationModel, load_model
from pyxem_dl.partial_results import PartialResults, fingerprint, is_in_memory, pattern_checksum, source_of
from pyxem_dl.results.map_files import copied_map
from pyxem_dl.results.maps import (
    Scan,
    check_map_path,
    phase_list,
    print_summary,
    reliability,
    timed,
    to_crystal_map,
    write_map,
)
from pyxem_dl.results.spots import predict_spots
from pyxem_dl.streaming import (
    Collected,
    check_batch_size,
    default_batch_size,
    progressbar,
    resolve_device,
    stream,
)

# More modes than this no distribution has; and so many answers take a thousand times as long as one
_MOST_CANDIDATES, _MOST_SAMPLES = 100, 1000
# What is kept of a pattern while a scan is predicted, with its double while the file is replaced, and of a candidate
_KEPT_BYTES, _KEPT_CANDIDATE_BYTES = 40, 56


def predict_orientation(
    signal,
    model: str | Path | OrientationModel | Sequence[str | Path | OrientationModel],
    *,
    n_best: int = 1,
    n_samples: int = 0,
    navigation_mask: np.ndarray | None = None,
    signal_mask: np.ndarray | None = None,
    center=None,
    beam_energy: float | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    show_progressbar: bool | None = None,
):
    """Predict the crystal orientation at every position of a scan with a trained network.

    Parameters
    ----------
    signal : pyxem.signals.Diffraction2D
        Patterns with 0, 1 or 2 navigation dimensions, in memory or lazy, calibrated in units of
        reciprocal length or of angle.
    model : str, pathlib.Path or OrientationModel, or a list of these
        Name of a bundled model (see `pyxem_dl.list_models`), a model folder, or a loaded model.  A list of models of
        the same phases is used as an ensemble.
    n_best : int
        Number of separated orientations to keep per position, the best first.
    n_samples : int
        Number of predictions with dropout (Monte-Carlo dropout).  The map then has the mean of the largest group of
        predictions that lie within 10 degrees of each other, and their spread.  For models with dropout; an ensemble
        has a spread without it.
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
        Patterns on the device at once; by default chosen for the device.  The answers do not
        depend on it.
    device : str
        "auto" (CUDA, else MPS, else CPU) or a name of torch.
    show_progressbar : bool, optional
        By default HyperSpy's preference.

    Returns
    -------
    orix.crystal_map.CrystalMap
        Rotations lab to crystal, shape (n, n_best), or (n,) for n_best = 1.  ``phase_id`` is -1
        (not indexed) where the score of the best orientation, or the network's own probability
        that there is a crystal, is below the model's thresholds.  Properties:

        * ``score`` (n,): probability of the best orientation.  It is low in vacuum and on bare film, too.
        * ``scores``, shape as the rotations: probability of each separated mode, the first is ``score``.
        * ``reliability`` (n,): 1 - second score / first score; where the network gives a second.
        * ``candidate_phase_id`` (n, n_best): with several phases and n_best > 1.
        * ``spread`` (n,): with `n_samples` or several models, the distance of their predictions from the map's (root
          mean square, degrees), scaled to the size of the errors if the model knows how.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        For a signal, a model, a mask or a device that cannot be used; the message says what to do.

    Warns
    -----
    UserWarning
        If the detector or the beam energy is not what the model was trained for; if memory runs
        out and smaller batches are used; if the run is interrupted (Ctrl-C): the map then has
        what was done, and the rest is not in its data.

    Notes
    -----
    Patterns with NaN or infinite pixels, constant, all-zero and saturated ones are not indexed.
    Negative intensities count as 0.
    """
    job = _Job.prepare(
        signal, model, n_best, n_samples, batch_size, device, show_progressbar,
        navigation_mask=navigation_mask, signal_mask=signal_mask, center=center,
        beam_energy=beam_energy,
    )  # fmt: skip
    job.announce()
    found = Collected(job.scan.size)
    try:
        with timed(lambda: int(found.done.sum())):
            for part in job.parts():
                found.add(part)
    except KeyboardInterrupt:
        if not found.done.any():
            raise
        warn(
            f"Interrupted after {found.done.sum()} of {job.scan.n_patterns} patterns: the rest is "
            "not in the data of this map."
        )
    return job.to_map(found)


def predict_orientation_to_file(
    signal,
    model: str | Path | OrientationModel | Sequence[str | Path | OrientationModel],
    path: str | Path,
    *,
    n_best: int = 1,
    n_samples: int = 0,
    batch_size: int | None = None,
    device: str = "auto",
    show_progressbar: bool | None = None,
    overwrite: bool = False,
    save_every: float = 10.0,
    **reading,
):
    """Predict orientations and save them in a file; an interrupted run continues where it stopped.

    What is done is kept in ``<path>.partial``.  A second call with the same signal, model and
    settings continues from there; one with others says so and starts again.

    Parameters
    ----------
    signal, model, n_best, n_samples, batch_size, device, show_progressbar
        As in :func:`predict_orientation`.
    path : str or pathlib.Path
        Where the crystal map goes: ``.h5`` (everything), ``.ang`` or ``.ctf``; see
        :func:`pyxem_dl.results.save_map`.
    overwrite : bool
        Replace a map that is there.
    save_every : float
        Seconds between two writings of what is done.
    **reading
        ``navigation_mask``, ``signal_mask``, ``center`` and ``beam_energy`` of
        :func:`predict_orientation`.

    Returns
    -------
    orix.crystal_map.CrystalMap
        What was saved.

    Raises
    ------
    ValueError, TypeError, OSError
        Before anything is computed, for what cannot be predicted or saved there.
    BlockingIOError
        If another process writes the same file.
    NotWritten
        If the map could not be written in the end: what is computed is kept in ``<path>.partial`` as far as there is
        room, and the error has the map as its ``result``.
    """
    path = check_map_path(path, overwrite=overwrite)
    job = _Job.prepare(signal, model, n_best, n_samples, batch_size, device, show_progressbar, **reading)
    data, n = job.scan.data, job.scan.size
    check_map_path(path, overwrite=overwrite, n_positions=job.scan.n_patterns, n_best=job.n_best)
    check_target(path, overwrite=overwrite, needed=n * (_KEPT_BYTES + _KEPT_CANDIDATE_BYTES * max(2, job.n_best)))
    job.announce()
    with claimed(path):
        partial = PartialResults(path, job.fingerprint(signal))
        found = Collected(n)
        checksum = None if is_in_memory(data) else pattern_checksum
        with timed(lambda: partial.n_new):
            partial.gather(
                found, lambda done: job.parts(done, checksum), job.scan.n_patterns, data=data, save_every=save_every
            )
        xmap = job.to_map(found)
        partial.finish(found, lambda: write_map(path, xmap), xmap)
    return xmap


@dataclass
class _Job:
    """One prediction, checked and ready to run."""

    scan: Scan
    model: OrientationModel | OrientationEnsemble
    n_best: int
    n_samples: int
    batch_size: int
    device: torch.device
    show_progressbar: bool | None

    @classmethod
    def prepare(cls, signal, model, n_best, n_samples, batch_size, device, show_progressbar, **reading):
        """Check everything before anything is computed."""
        n_best = whole_number("n_best", n_best, 1, _MOST_CANDIDATES)
        n_samples = whole_number("n_samples", n_samples, 0, _MOST_SAMPLES)
        device = resolve_device(device)
        batch_size = check_batch_size(batch_size) or default_batch_size(device)
        model = load_model(model)
        if not isinstance(model, (OrientationModel, OrientationEnsemble)):
            raise TypeError(f"{model!r} does not predict orientations: give an orientation model.")
        model.check_thresholds()
        model = model.to(device)
        scan = Scan.from_signal(signal, **reading)
        model.check_domain(scan.calibration)
        if n_best > 1 and (n_samples or isinstance(model, OrientationEnsemble) or model.network_name == "regression"):
            raise ValueError(
                "n_best > 1 needs a single network that proposes several orientations ('polar'), and n_samples=0: here "
                "each pattern gets one orientation. Use n_best=1."
            )
        return cls(scan, model, int(n_best), int(n_samples), batch_size, device, show_progressbar)

    def announce(self) -> None:
        """Print what will be done."""
        energy = self.model.domain.get("beam_energy")
        lines = {
            "Model": f"{self.model.name} ({self.model.network_name}" + (f", {energy:g} kV)" if energy else ")"),
            "Phases": ", ".join(phase.name for phase in self.model.phases),
            "Patterns": self.scan.describe(),
            "Device": f"{self.device}, batches of {self.batch_size}",
        }
        print_summary("Orientation prediction", lines)

    def parts(self, skip: np.ndarray | None = None, checksum=None):
        """Yield the results in parts."""
        return stream(
            self.scan.data,
            self._predict,
            device=self.device,
            batch_size=self.batch_size,
            navigation_mask=self.scan.navigation_mask,
            skip=skip,
            checksum=checksum,
            show_progressbar=self.show_progressbar,
        )

    def _predict(self, patterns, indices):
        return self.model.predict_batch(
            patterns,
            self.scan.calibration,
            centers=self.scan.batch_centers(patterns, indices),
            signal_mask=self.scan.signal_mask,
            n_best=max(2, self.n_best),  # the reliability needs two
            n_samples=self.n_samples,
        )

    def to_map(self, found: Collected):
        """Crystal map of what was found; what is not done is not in its data."""
        rotations, phase_id, scores, crystal = (
            found.arrays[name] for name in ("rotations", "phase_id", "scores", "crystal")
        )
        thresholds = self.model.thresholds
        prop = {}
        if scores.shape[1] > 1:
            prop["reliability"] = reliability(scores)
        if "spread" in found.arrays:
            prop["spread"] = self.model.calibrated(torch.from_numpy(found.arrays["spread"])).numpy().astype(float)
        indexed = (crystal > 0) & (crystal >= thresholds.get("crystal", 0.5))
        indexed &= scores[:, 0] >= thresholds.get("score", 0.0)
        return to_crystal_map(
            self.scan,
            rotations[:, : self.n_best],
            phase_id[:, : self.n_best],
            scores[:, : self.n_best],
            self.model.phases,
            indexed=indexed,
            is_in_data=found.done,
            prop=prop,
        )

    def fingerprint(self, signal) -> str:
        """Hash of everything that the answers depend on: data, model and settings."""
        scan = self.scan
        settings = [self.model.fingerprint, repr(scan.calibration), self.n_best, self.n_samples]
        arrays = scan.navigation_mask, scan.signal_mask, scan.centers
        return fingerprint(scan.data, settings, arrays, None if is_in_memory(scan.data) else source_of(signal))


def to_orientation_map(
    xmap,
    model: OrientationModel | str | Path | None = None,
    *,
    beam_energy: float | None = None,
    reciprocal_radius: float | None = None,
    max_excitation_error: float = 0.02,
    show_progressbar: bool | None = None,
):
    """Turn a crystal map into pyxem's ``OrientationMap``, for its markers and IPF plots.

    For the predicted spots over the patterns alone, :func:`pyxem_dl.plot.markers` is simpler and faster.

    Parameters
    ----------
    xmap : orix.crystal_map.CrystalMap
        From :func:`predict_orientation` or `match_templates`, of 1 or 2 dimensions.
    model : OrientationModel, str or pathlib.Path, optional
        From which phases, beam energy and radius are taken; by default the phases are the
        map's.
    beam_energy : float, optional
        In kV; needed without a model.
    reciprocal_radius : float, optional
        Of the simulated spots, in Å⁻¹; needed without a model.
    max_excitation_error : float
        In Å⁻¹.
    show_progressbar : bool, optional
        By default HyperSpy's preference.

    Returns
    -------
    pyxem.signals.OrientationMap
        Of the map's shape: a cropped map stays cropped, and the offsets of the navigation axes say where it was.
        Where a position is not indexed, or not in the map's data (a mask), the correlation is 0 and the only spot is
        the direct beam.

    Notes
    -----
    Every candidate has a row of its own in the library, with the Euler angles
    (180°, Phi, phi2), and is turned in the plane by phi1.  pyxem's ``to_crystal_map`` overwrites
    the row's first angle, and so returns the orientation as it was; its markers turn the row's
    spots by phi1 + 180°, and so lie where the spots are.  (pyxem 0.21's ``to_crystal_map`` fails
    for several phases with n_best = 1, and its markers for a single position.)
    """
    if not hasattr(xmap, "phase_id") or not hasattr(xmap, "rotations"):
        raise TypeError(f"to_orientation_map needs an orix CrystalMap, not {type(xmap).__name__}.")
    if model is not None:
        model = load_model(model)
        beam_energy = beam_energy or model.domain.get("beam_energy")
        reciprocal_radius = reciprocal_radius or model.preprocessing.reciprocal_radius
    if not beam_energy or not reciprocal_radius:
        raise ValueError("Give a model, or beam_energy (kV) and reciprocal_radius (Å⁻¹).")
    for name, value in (("reciprocal_radius", reciprocal_radius), ("max_excitation_error", max_excitation_error)):
        number(name, value, 0, 20, above=True)
    number("beam_energy", beam_energy, 1, 5000)
    phases = {i: phase for i, phase in xmap.phases if i >= 0}
    if model is not None:
        phases.update(dict(phase_list(model.phases)))
    if not phases:
        raise ValueError("Nothing is indexed in this map, and it has no phase: give a model.")
    whole = _rectangle(xmap)
    phase_id, present = _candidates(whole, xmap.is_in_data[whole.is_in_data], phases)
    rotations = whole.rotations.reshape(*phase_id.shape)
    data = np.zeros((*phase_id.shape, 4))
    data[..., 1] = np.where(present, whole.prop["scores"].reshape(phase_id.shape), 0)
    data[..., 2] = rotations.to_euler(degrees=True)[..., 0]
    data[..., 3] = 1
    with progressbar(int(present.sum()), show_progressbar, unit=" orientations") as bar:
        simulation, data[..., 0] = _library(
            rotations, phase_id, present, phases, beam_energy, reciprocal_radius, max_excitation_error, bar.update
        )
    return _orientation_map(data, whole, simulation)


def _rectangle(xmap):
    """Map of the smallest rectangle that holds a map's data, all points of it in the data."""
    inside = np.ones(xmap.is_in_data.size, dtype=bool)
    for name in "xy":
        every = getattr(xmap, f"_{name}")
        if every is not None and len(every):
            here = np.asarray(every)[xmap.is_in_data]
            inside &= (every >= here.min()) & (every <= here.max())
    whole = copied_map(xmap)
    whole.is_in_data = inside
    whole._shape = None  # orix computes it again
    return whole


def _candidates(whole, in_data, phases) -> tuple[np.ndarray, np.ndarray]:
    """Phase of every candidate (n, n_best), and whether it was really found."""
    best = whole.phase_id
    n_best = whole.rotations_per_point
    phase_id = np.repeat(best[:, None], n_best, axis=1)
    if "candidate_phase_id" in whole.prop:
        phase_id = np.asarray(whole.prop["candidate_phase_id"]).reshape(-1, n_best).copy()
    present = np.repeat(((best >= 0) & in_data)[:, None], n_best, axis=1)
    phase_id[~np.isin(phase_id, list(phases))] = next(iter(phases))
    return phase_id, present


def _library(rotations, phase_id, present, phases, beam_energy, radius, max_excitation_error, progress):
    """Simulate the spots of every candidate, and say which row of them is whose."""
    from diffsims.generators.simulation_generator import SimulationGenerator
    from diffsims.simulations import Simulation2D
    from orix.quaternion import Rotation

    generator = SimulationGenerator(beam_energy)
    euler = rotations.to_euler(degrees=True)
    euler[..., 0] = 180  # see the notes of to_orientation_map
    index = np.zeros(phase_id.shape)
    kept, library, spots, start = [], [], [], 0
    for i, phase in phases.items():
        mine = phase_id == i
        if not mine.any():
            continue
        # A first row that is nobody's: pyxem takes a phase's first row for the phase before
        # (`to_phase_index`), and treats libraries of a single row in another way
        rows = Rotation.from_euler(np.pad(euler[mine], [(1, 0), (0, 0)], mode="edge"), degrees=True)
        found = np.pad(present[mine], (1, 0))
        index[mine] = start + 1 + np.arange(mine.sum())
        kept.append(phase)
        library.append(rows)
        spots.append(_spots(generator, phase, rows, found, radius, max_excitation_error, progress))
        start += rows.size
    if len(kept) == 1:
        kept, spots, library = kept[0], spots[0], library[0]
    return Simulation2D(kept, spots, library, generator, radius), index


def _spots(generator, phase, rows, found, radius, max_excitation_error, progress) -> list:
    """Spots of each row, as diffsims makes them; the direct beam alone where nothing was found."""
    from diffpy.structure import Lattice, Structure
    from diffsims.crystallography._diffracting_vector import DiffractingVector

    direct = DiffractingVector(phase, xyz=np.zeros((1, 3)), intensity=np.ones(1))
    spots = [direct] * rows.size
    if not found.any():
        return spots
    # simulated here and not by diffsims, which takes 15 ms for each row
    predicted = predict_spots(
        rows.data[found], np.zeros(found.sum(), dtype=int), {0: phase}, generator.accelerating_voltage, radius,
        max_excitation_error=max_excitation_error,
    )  # fmt: skip
    shape_factor = generator.shape_factor_model(
        predicted.excitation_error, max_excitation_error, **generator.shape_factor_kwargs
    )
    columns = zip(
        np.flatnonzero(found), rows[found].to_matrix(), predicted.split(predicted.xyz),
        predicted.split(predicted.squared_structure_factor * shape_factor), strict=True,
    )  # fmt: skip
    lattice = phase.structure.lattice
    for i, matrix, xyz, intensity in columns:
        if len(xyz):
            # as diffsims has it, the lattice turns with the vectors, so that they keep their Miller indices
            turned = copy.copy(phase)
            turned._structure = Structure(lattice=Lattice(*lattice.abcABG(), baserot=lattice.baserot @ matrix))
            spots[i] = DiffractingVector(turned, xyz=xyz, intensity=intensity)
        progress(1)
    return spots


def _orientation_map(data, whole, simulation):
    """Put rows (n, n_best, 4) on the scan's axes."""
    from pyxem.signals import OrientationMap

    shape = whole.shape
    signal = OrientationMap(data.reshape(*shape, *data.shape[1:]))
    signal.simulation = simulation
    signal.column_names = ["index", "correlation", "rotation", "factor"]
    signal.units = ["a.u.", "a.u.", "deg", "a.u."]
    for axis, name in zip(signal.axes_manager.navigation_axes, "xy"):
        axis.name, axis.units, axis.scale = name, whole.scan_unit, getattr(whole, f"d{name}") or 1
        axis.offset = float(getattr(whole, name).min())
    return signal
