"""From a signal, or its Bragg vectors, to a crystal map by template matching."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from pyxem_dl.checks import number, whole_number
from pyxem_dl.crystals import load_phases
from pyxem_dl.messages import warn
from pyxem_dl.records import made_by
from pyxem_dl.results.assembly import MatchedMap
from pyxem_dl.results.map_files import check_map_target, map_target
from pyxem_dl.results.vector_scan import VectorScan, is_vectors
from pyxem_dl.scans import Computing, Job, Reading, Scan
from pyxem_dl.template_matching.refinement import COARSE
from pyxem_dl.template_matching.step import Templates, TemplateStep

if TYPE_CHECKING:
    from orix.crystal_map import CrystalMap

    from pyxem_dl.annotations import Center, Patterns, Phases, Vectors

# Orientations that are 5 degrees apart; all of a sphere would be 70 000
_MOST_CANDIDATES = 1000
# Degrees between zone axes, and distance from the Ewald sphere (Å⁻¹), beyond which nothing is matched
_COARSEST, _FARTHEST = 60.0, 5.0


def match_templates(
    signal: Patterns | Vectors,
    phases: Phases,
    *,
    n_best: int = 1,
    engine: str = "torch",
    resolution: float = 1.0,
    reciprocal_radius: float | None = None,
    max_excitation_error: float = 0.08,
    beam_energy: float | None = None,
    navigation_mask: np.ndarray | None = None,
    signal_mask: np.ndarray | None = None,
    center: Center | None = None,
    batch_size: int | None = None,
    device: str | torch.device = "auto",
    show_progressbar: bool | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    on_part: Callable | None = None,
    on_message: Callable | None = None,
) -> CrystalMap:
    """Find orientations by comparison with simulated patterns.

    Parameters
    ----------
    signal : pyxem.signals.Diffraction2D or DiffractionVectors
        Calibrated patterns with 0, 1 or 2 navigation dimensions, in memory or lazy; or the Bragg
        vectors of such patterns, measured from the direct beam.  Of vectors the columns ``confidence``,
        ``position_error``, ``q_z`` and ``q_z_error`` are used where there are any: see the notes.
    phases : orix.crystal_map.Phase, path of a CIF file, or an iterable of these
        The crystals.
    n_best : int
        How many orientations to keep, at least 5 degrees apart.
    engine : {"torch", "pyxem"}
        :class:`TemplateBank`, or pyxem's ``get_azimuthal_integral2d`` and ``get_orientation``:
        see :class:`PyxemMatcher`.
    resolution : float
        Step between zone axes in degrees; of vectors with intensities at least 3, since their orientations are refined.
    reciprocal_radius : float, optional
        Outer radius in Å⁻¹; by default up to the detector's nearest edge, of patterns and of
        vectors alike (up to the farthest vector, where these do not know their detector).
    max_excitation_error : float
        Largest distance of a template's reflections from the Ewald sphere in Å⁻¹.
    beam_energy : float, optional
        In kV; by default that of the metadata.
    navigation_mask : array of bool, optional
        True where a pattern is excluded, of the navigation's shape in data order (y, x).
    signal_mask : array of bool, shape (rows, columns), optional
        True where the detector is excluded.
    center : optional
        Direct beam: None for the calibration's, "auto" to find it in each pattern, (row,
        column) in pixels, an array (..., 2) of those for each position, or a ``BeamShift``.
    batch_size : int, optional
        Patterns per batch.
    device : str or torch.device
        "auto", "cpu", "cuda", ...; pyxem's engine runs on the CPU.
    show_progressbar : bool, optional
        By default HyperSpy's preference.
    output : str or pathlib.Path, optional
        Where the map goes; see :func:`pyxem_dl.predict_orientation`.
    overwrite : bool
        Replace a file that is there, or a store of other work.
    on_part, on_message : callable, optional
        Called with each :class:`~pyxem_dl.scans.Part` as it comes (returning False stops the work as Ctrl-C does), and
        with each line that would be printed.

    Returns
    -------
    orix.crystal_map.CrystalMap
        Rotations lab to crystal (n, n_best), with the properties ``scores`` (greater is better;
        formula in :class:`TemplateBank`), ``score`` (the best one, shape (n,)), ``reliability``
        (:meth:`TemplateBank.match_polar`)
        and ``simulation_indices`` (-1: no further mode).  ``phase_id`` is -1 where a pattern
        is constant, not finite, or matches nothing.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        For a signal without calibration or beam energy, and for phases, masks, centers or
        arguments that cannot be used; the message says what to do.

    Notes
    -----
    Of vectors with intensities the best templates are candidates only: each, and its twin turned by 180 degrees about
    the beam, is turned and tilted to where the vectors are likeliest, with the intensities of two beams averaged over
    the thickness, and reflections that ought to be there and are not counting against it
    (:func:`pyxem_dl.patterns.likelihood.log_likelihood`).  ``scores`` are shares of that likelihood.  So give
    vectors found with a low threshold, such as ``s.predict_bragg_vectors(threshold=0.05)``: doubtful ones count by
    their confidence, and faint disks tell the tilt.  Vectors with q_z (Å⁻¹, towards the source) are compared in three
    dimensions, which also tells an orientation from its twin; where q_z is NaN they are compared in two.
    """
    n_best = _check_arguments(engine, resolution, max_excitation_error, n_best)
    computing = Computing("cpu" if engine == "pyxem" else device, batch_size, show_progressbar, on_part, on_message)
    target = map_target(output, overwrite)
    reading = Reading(navigation_mask, signal_mask, center, beam_energy)
    vectors = _read_vectors(signal, reading, engine) if is_vectors(signal) else None
    scan = Scan.from_signal(signal, reading) if vectors is None else vectors.scan
    check_map_target(target, scan.n_patterns, n_best)
    _ = scan.calibration.wavelength  # its error, before anything is computed
    if engine == "pyxem" and scan.calibration.distortion is not None:
        warn(
            f"pyxem's engine takes no ellipse: the distortion {scan.calibration.distortion} of the calibration is left "
            "out. engine='torch' has it."
        )
    if reciprocal_radius is None:
        reciprocal_radius = (vectors or scan.calibration).reciprocal_radius
    _check_positive(reciprocal_radius=reciprocal_radius)
    phases = load_phases(phases)
    reader = None if vectors is None else vectors.reader
    if reader is not None and reader.has_intensities:
        resolution = max(resolution, COARSE)
    settings = [engine, scan.calibration.beam_energy, reciprocal_radius, resolution, max_excitation_error]
    templates = Templates(engine, phases, *settings[1:])
    step = TemplateStep(templates, scan.without_data(), n_best, reader, computing.torch_device)
    lines = {
        "Phases": ", ".join(phase.name for phase in phases),
        "Templates": f"{len(step.bank)}, {resolution:g} degrees apart, up to {reciprocal_radius:.4g} Å⁻¹",
        "Patterns": vectors.describe() if vectors else scan.describe(),
    }
    assembly = MatchedMap(scan.positions, phases)
    job = Job(
        f"Template matching ({engine})", lines, scan, step, computing, assembly,
        [*settings, n_best, assembly.to_dict()["phases"]], signal, None if vectors is None else vectors.tables,
        made_by(
            "match_templates", signal=signal, calibration=scan.calibration, made_from=signal if vectors else None,
            phases=[phase.name for phase in phases], n_best=n_best, engine=engine, resolution=resolution,
            reciprocal_radius=reciprocal_radius, max_excitation_error=max_excitation_error, **reading.asked(),
        ),
    )  # fmt: skip
    return job.run(target)


def _read_vectors(signal, reading: Reading, engine: str) -> VectorScan:
    """Read vectors; a ValueError for arguments that only patterns can have."""
    given = {
        "engine='pyxem'": engine == "pyxem", "signal_mask": reading.signal_mask is not None,
        "center": reading.center is not None,
    }  # fmt: skip
    wrong = [name for name, is_given in given.items() if is_given]
    if wrong:
        raise ValueError(
            f"Vectors are matched by the torch engine and have no detector: {' and '.join(wrong)} "
            "cannot be used with them."
        )
    return VectorScan(signal, reading)


def _check_arguments(engine: str, resolution: float, max_excitation_error: float, n_best: int) -> int:
    """Make sure of what does not depend on the signal, and return `n_best`."""
    if engine not in ("torch", "pyxem"):
        raise ValueError(f"engine must be 'torch' or 'pyxem', not {engine!r}.")
    _check_positive(resolution=resolution, max_excitation_error=max_excitation_error)
    number("resolution", resolution, 0, _COARSEST)
    number("max_excitation_error", max_excitation_error, 0, _FARTHEST)
    return whole_number("n_best", n_best, 1, _MOST_CANDIDATES)


def _check_positive(**values) -> None:
    for name, value in values.items():
        if number(name, value) <= 0:
            raise ValueError(f"{name} must be positive and finite, not {value!r}.")
