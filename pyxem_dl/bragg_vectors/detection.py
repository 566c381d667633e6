"""Bragg disks by a trained detector."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from pyxem_dl.bragg_vectors.finders import DetectionFinder, ReciprocalSpace
from pyxem_dl.bragg_vectors.searching import Search, check_arguments, target_of
from pyxem_dl.checks import whole_number
from pyxem_dl.models import BraggModel, load_model
from pyxem_dl.patterns.probes import Probe
from pyxem_dl.results.vectors import COLUMNS
from pyxem_dl.scans import Computing, Reading

if TYPE_CHECKING:
    from pyxem_dl.annotations import Center, Patterns, ProbeImage, Vectors

#: The bundled detector
DEFAULT_MODEL = "bragg-disks"
# A detector's confidence where it says nothing else, and more predictions than anybody has use for
_CONFIDENCE, _MOST_SAMPLES = 0.3, 1000


def predict_bragg_vectors(
    signal: Patterns,
    model: str | Path | BraggModel = DEFAULT_MODEL,
    probe: Probe | ProbeImage | None = None,
    *,
    threshold: float | None = None,
    max_peaks: int = 200,
    n_samples: int = 0,
    reciprocal_radius: float | None = None,
    subtract_center: bool = True,
    navigation_mask: np.ndarray | None = None,
    signal_mask: np.ndarray | None = None,
    center: Center | None = None,
    beam_energy: float | None = None,
    batch_size: int | None = None,
    device: str | torch.device = "auto",
    show_progressbar: bool | None = None,
    lazy_output: bool = False,
    output: str | Path | None = None,
    overwrite: bool = False,
    on_part: Callable | None = None,
    on_message: Callable | None = None,
) -> Vectors:
    """Find Bragg disks with a trained detector.

    Parameters
    ----------
    signal : pyxem.signals.Diffraction2D
        Calibrated patterns with 0, 1 or 2 navigation dimensions, in memory or lazy.
    model : str, pathlib.Path or BraggModel
        Name of a bundled model, a model folder, the address of a shared model (see :func:`pyxem_dl.load_model`), or a
        loaded model.
    probe : Probe, signal or array of shape (rows, columns), optional
        The probe, or a measured vacuum pattern; by default it is estimated from the direct beam of 64 patterns.
    threshold : float, optional
        Smallest confidence, between 0 and 1; by default that of the model.
    n_samples : int
        Number of predictions with dropout (Monte-Carlo dropout), for example 20: the vectors have their mean, and
        their variance in two more columns.  Takes that many times as long; results differ a little from call to
        call.
    max_peaks, reciprocal_radius, subtract_center, navigation_mask, signal_mask, center, beam_energy
        As in :func:`match_disks`.
    batch_size, device, show_progressbar, lazy_output, output, overwrite, on_part, on_message
        As in :func:`match_disks`.

    Returns
    -------
    pyxem.signals.DiffractionVectors or LazyDiffractionVectors
        See :func:`to_diffraction_vectors`.  ``intensity`` is what the disk holds above the background, in the units of
        the patterns; ``confidence`` is that of the detector; ``position_error``, in the units of the signal axes, is
        its expected error (root mean square of the distance).  ``v_g`` is V_g x thickness in V Å, ``q_z`` the component
        of the reciprocal vector along the beam, towards the source, in Å⁻¹; ``v_g_error`` and ``q_z_error`` are their
        expected errors.  A single disk tells ``q_z`` near its Bragg condition only, and further off hardly its sign:
        look at the error.  NaN where they are not known: for the direct beam, without a beam energy, for models that
        read no disks, and beyond the 96 most confident disks of a pattern.  With `n_samples` also
        ``position_variance``, in those units squared, and ``confidence_variance``.

    Raises
    ------
    ValueError, TypeError
        For a signal, a probe, a model, masks, centers or arguments that cannot be used; the message says what to do.

    Warns
    -----
    UserWarning
        If the probe is uncertain, hardly a disk, unlike the direct beam of the scan, or smaller or larger than the
        disks that the model was trained for.
    """
    model = load_model(model)
    if not isinstance(model, BraggModel):
        raise TypeError(f"{model!r} predicts orientations, not disks: give a disk detector.")
    max_peaks = check_arguments(threshold, reciprocal_radius, max_peaks, subtract_center)
    n_samples = whole_number("n_samples", n_samples, 0, _MOST_SAMPLES)
    model.check_thresholds()
    target = target_of(output, overwrite)
    reading = Reading(navigation_mask, signal_mask, center, beam_energy)
    search = Search(signal, probe, reading)
    probe, gain = search.probe, search.gain
    model.check_domain(probe.radius)
    least = model.thresholds.get("confidence", _CONFIDENCE) if threshold is None else threshold
    columns = (
        *COLUMNS, "position_error", *ReciprocalSpace.NAMES,
        *(("position_variance", "confidence_variance") if n_samples else ()),
    )  # fmt: skip
    lines = {"Model": model.name, "Probe": f"radius {probe.radius:.3g} px", "Threshold": f"{least:.3g}"}
    if search.scan.calibration.beam_energy is None:
        lines["Beam energy"] = "not known: v_g and q_z will be NaN (give beam_energy=)"
    if gain != 1:
        lines["Counts per electron"] = f"{gain:.3g}"
    find = disk_finder(search, model, least, max_peaks, n_samples)
    return search.vectors(
        "Detection of disks", lines, find, columns, [model.fingerprint, least, max_peaks, n_samples],
        reciprocal_radius=reciprocal_radius, subtract_center=subtract_center, lazy_output=lazy_output, target=target,
        computing=Computing(device, batch_size, show_progressbar, on_part, on_message),
        record=search.record(
            "predict_bragg_vectors", reading, model=model, threshold=least, n_samples=n_samples, max_peaks=max_peaks,
            reciprocal_radius=reciprocal_radius, subtract_center=subtract_center,
        ),
    )  # fmt: skip


def disk_finder(search: Search, model: BraggModel, least: float, max_peaks: int, n_samples: int = 0) -> DetectionFinder:
    """Make what finds the disks of a batch; the arguments are those of :func:`predict_bragg_vectors`, checked."""
    # errors are told in the unit of the signal axes, as positions are: the calibration's scale is in Å⁻¹
    scale = math.sqrt(math.prod(abs(float(axis.scale)) for axis in search.signal.axes_manager.signal_axes))
    return DetectionFinder(
        model, search.probe, search.scan.signal_mask, search.gain, scale, max_peaks, n_samples, least, search.beam,
        ReciprocalSpace(search.scan.calibration),
    )  # fmt: skip
