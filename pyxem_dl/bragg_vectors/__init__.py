"""Bragg disks, by correlation or a trained detector: from a signal to pyxem's diffraction vectors."""

from __future__ import annotations

import hashlib
import math
import warnings
from functools import partial
from pathlib import Path

import torch

from pyxem_dl.bragg_vectors.finders import CorrelationFinder, DetectionFinder
from pyxem_dl.bragg_vectors.matcher import DiskMatcher
from pyxem_dl.bragg_vectors.search import Search, check_vectors_path, save_vectors
from pyxem_dl.bragg_vectors.vectors import COLUMNS, FoundDisks, to_diffraction_vectors
from pyxem_dl.checks import flag, number, whole_number
from pyxem_dl.frames import Calibration
from pyxem_dl.messages import warn
from pyxem_dl.models import BraggModel, load_model
from pyxem_dl.patterns.probes import Probe
from pyxem_dl.preprocessing import counts_per_electron, in_electrons
from pyxem_dl.results.py4dstem import to_py4dstem
from pyxem_dl.scans import Scan
from pyxem_dl.streaming import check_batch_size, resolve_device

__all__ = [
    "COLUMNS", "DiskMatcher", "FoundDisks", "bragg_vectors_to_file", "match_disks", "predict_bragg_vectors",
    "read_probe", "save_vectors", "to_diffraction_vectors", "to_py4dstem",
]  # fmt: skip

# Shares by which scale and radius of a probe may differ from the scan's
_SAME_SCALE, _SAME_RADIUS = 0.03, 0.25
#: The bundled detector
DEFAULT_MODEL = "bragg-disks"

# A detector's confidence where it says nothing else, and more disks or answers than anybody has use for
_CONFIDENCE, _MOST_PEAKS, _MOST_SAMPLES = 0.3, 100_000, 1000


def match_disks(
    signal,
    probe=None,
    *,
    threshold: float | None = None,
    min_distance: float | None = None,
    max_peaks: int = 200,
    subpixel: bool = True,
    reciprocal_radius: float | None = None,
    subtract_center: bool = True,
    navigation_mask=None,
    signal_mask=None,
    center=None,
    beam_energy: float | None = None,
    batch_size: int | None = None,
    device: str | torch.device = "auto",
    show_progressbar: bool | None = None,
    lazy_output: bool = False,
):
    """Find Bragg disks by correlation with the probe.

    Parameters
    ----------
    signal : pyxem.signals.Diffraction2D
        Calibrated patterns with 0, 1 or 2 navigation dimensions, in memory or lazy; in electrons, where that is known.
    probe : Probe, signal or array of shape (rows, columns), optional
        The probe, or a measured vacuum pattern; by default it is estimated from the direct beam of 64 patterns.
    threshold : float, optional
        Smallest confidence, between 0 and 1: the correlation of pattern and probe, the same for any dose. Default is
        :func:`~pyxem_dl.bragg_vectors.matcher.default_threshold`, which depends on the probe's radius.
    min_distance : float, optional
        Smallest distance between two disks in pixels; by default the radius of the probe, and at least 2.
    max_peaks : int
        Largest number of disks to keep per pattern, the most confident first.
    subpixel : bool
        Fit the position of each disk.
    reciprocal_radius : float, optional
        In Å⁻¹; disks farther from the beam are ignored. By default all are kept.
    subtract_center : bool
        Measure from the direct beam; otherwise from the first pixel.
    navigation_mask : array of bool, optional
        True where a pattern is excluded, of the navigation's shape in data order (y, x): it has no vectors.
    signal_mask : array of bool, shape (rows, columns), optional
        True where the detector is excluded.
    center : optional
        Direct beam: None for the calibration's, "auto" to find it in each pattern, (row, column) in pixels, an array
        (..., 2) of those for each position, or a ``BeamShift``.
    beam_energy : float, optional
        In kV, for signal axes that are angles; by default that of the metadata.
    batch_size : int, optional
        Patterns per batch.
    device : str or torch.device
        "auto", "cpu", "cuda", ...
    show_progressbar : bool, optional
        By default HyperSpy's preference.
    lazy_output : bool
        Return lazy vectors, with the chunks of the signal, which are computed later.

    Returns
    -------
    pyxem.signals.DiffractionVectors or LazyDiffractionVectors
        See :func:`to_diffraction_vectors`.  ``intensity`` is what the disk holds above the background around it, in the
        units of the patterns; ``confidence`` is the normalised correlation.

    Raises
    ------
    ValueError, TypeError
        For a signal, a probe, masks, centers or arguments that cannot be used; the message says what to do.

    Warns
    -----
    UserWarning
        If the probe is uncertain, hardly a disk, or unlike the direct beam of the scan.

    Notes
    -----
    The correlation is that of the fourth root of the intensities with the probe, both without their means in a window
    of twice the probe's radius, divided by their norms (with what lies outside of the detector or under the mask left
    out of the window).  The direct beam is one of the disks.  Patterns with NaN or infinite pixels and constant ones
    have no vectors; negative intensities count as 0.
    """
    search = _correlation(
        signal, probe, threshold=threshold, min_distance=min_distance, max_peaks=max_peaks, subpixel=subpixel,
        reciprocal_radius=reciprocal_radius, subtract_center=subtract_center, navigation_mask=navigation_mask,
        signal_mask=signal_mask, center=center, beam_energy=beam_energy, batch_size=batch_size, device=device,
    )  # fmt: skip
    return search.run(show_progressbar, lazy_output)


def predict_bragg_vectors(
    signal,
    model=DEFAULT_MODEL,
    probe=None,
    *,
    threshold: float | None = None,
    max_peaks: int = 200,
    n_samples: int = 0,
    reciprocal_radius: float | None = None,
    subtract_center: bool = True,
    navigation_mask=None,
    signal_mask=None,
    center=None,
    beam_energy: float | None = None,
    batch_size: int | None = None,
    device: str | torch.device = "auto",
    show_progressbar: bool | None = None,
    lazy_output: bool = False,
):
    """Find Bragg disks with a trained detector.

    Parameters
    ----------
    signal : pyxem.signals.Diffraction2D
        Calibrated patterns with 0, 1 or 2 navigation dimensions, in memory or lazy.
    model : str, pathlib.Path or BraggModel
        Name of a bundled model, a model folder, or a loaded model.
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
    batch_size, device, show_progressbar, lazy_output
        As in :func:`match_disks`.

    Returns
    -------
    pyxem.signals.DiffractionVectors or LazyDiffractionVectors
        See :func:`to_diffraction_vectors`.  ``intensity`` is what the disk holds above the background, in the units of
        the patterns; ``confidence`` is that of the detector; ``position_error``, in the units of the signal axes, is
        its expected error.  With `n_samples` also ``position_variance``, in those units squared, and
        ``confidence_variance``.

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
    search = _detection(
        signal, model, probe, threshold=threshold, max_peaks=max_peaks, n_samples=n_samples,
        reciprocal_radius=reciprocal_radius, subtract_center=subtract_center, navigation_mask=navigation_mask,
        signal_mask=signal_mask, center=center, beam_energy=beam_energy, batch_size=batch_size, device=device,
    )  # fmt: skip
    return search.run(show_progressbar, lazy_output)


def bragg_vectors_to_file(
    signal,
    path: str | Path,
    model=DEFAULT_MODEL,
    probe=None,
    *,
    overwrite: bool = False,
    show_progressbar: bool | None = None,
    save_every: float = 10.0,
    **settings,
):
    """Find Bragg disks and write them into a file; an interrupted run can be continued.

    Finished patterns are saved in ``<path>.partial``.  A second call with the same signal, model and settings
    continues from there; a call with others says so and starts again.

    Parameters
    ----------
    signal, probe, show_progressbar
        As in :func:`predict_bragg_vectors`.
    path : str or pathlib.Path
        Where the vectors go: ``.hspy`` or ``.zspy`` (HyperSpy), or ``.h5``, ``.hdf5``, ``.emd`` (py4DSTEM).
    model : str, pathlib.Path, BraggModel or None
        None finds them by correlation, as :func:`match_disks` does.
    overwrite : bool
        Replace a file that is there.
    save_every : float
        Seconds between two writings of what is done.
    **settings
        Further arguments of :func:`predict_bragg_vectors` or :func:`match_disks`.

    Returns
    -------
    pyxem.signals.DiffractionVectors
        What was saved.
    """
    check_vectors_path(path, overwrite=overwrite)
    search = _correlation(signal, probe, **settings) if model is None else _detection(signal, model, probe, **settings)
    return search.run_to_file(path, overwrite=overwrite, show_progressbar=show_progressbar, save_every=save_every)


def _correlation(
    signal, probe=None, *, threshold=None, min_distance=None, max_peaks=200, subpixel=True, reciprocal_radius=None,
    subtract_center=True, navigation_mask=None, signal_mask=None, center=None, beam_energy=None, batch_size=None,
    device="auto",
) -> Search:  # fmt: skip
    """Search by correlation, as :func:`match_disks` says."""
    scan = Scan.from_signal(
        signal, navigation_mask=navigation_mask, signal_mask=signal_mask, center=center, beam_energy=beam_energy
    )
    max_peaks = _check_arguments(threshold, reciprocal_radius, max_peaks, batch_size)
    if min_distance is not None:
        number("min_distance", min_distance, 0)
    flag("subpixel", subpixel), flag("subtract_center", subtract_center)
    device = resolve_device(device)
    gain = counts_per_electron(torch.from_numpy(scan.sample_patterns()), scan.signal_mask)
    given, probe = probe, read_probe(probe, scan, gain)
    matcher = DiskMatcher(
        probe, scan.calibration.shape, signal_mask=scan.signal_mask, threshold=threshold,
        min_distance=min_distance, max_peaks=max_peaks, subpixel=subpixel, device=device,
    )  # fmt: skip
    lines = {"Probe": f"radius {probe.radius:.3g} px", "Threshold": f"{matcher.threshold:.3g}"}
    settings = ["correlation", _digest(probe.image), probe.radius, matcher.threshold, min_distance, max_peaks, subpixel]
    find = CorrelationFinder(matcher, gain)
    return Search(
        "Correlation of disks", lines, signal, scan, find, COLUMNS, [*settings, gain], reciprocal_radius,
        subtract_center, device, batch_size, None if given is None else partial(_compare_with_direct_beam, probe, scan),
    )  # fmt: skip


def _detection(
    signal, model=DEFAULT_MODEL, probe=None, *, threshold=None, max_peaks=200, n_samples=0, reciprocal_radius=None,
    subtract_center=True, navigation_mask=None, signal_mask=None, center=None, beam_energy=None, batch_size=None,
    device="auto",
) -> Search:  # fmt: skip
    """Search with a network, as :func:`predict_bragg_vectors` says."""
    model = load_model(model)
    if not isinstance(model, BraggModel):
        raise TypeError(f"{model!r} predicts orientations, not disks: give a disk detector.")
    scan = Scan.from_signal(
        signal, navigation_mask=navigation_mask, signal_mask=signal_mask, center=center, beam_energy=beam_energy
    )
    max_peaks = _check_arguments(threshold, reciprocal_radius, max_peaks, batch_size)
    n_samples = whole_number("n_samples", n_samples, 0, _MOST_SAMPLES)
    flag("subtract_center", subtract_center)
    model.check_thresholds()
    device = resolve_device(device)
    model.to(device)
    gain = counts_per_electron(torch.from_numpy(scan.sample_patterns()), scan.signal_mask)
    given, probe = probe, read_probe(probe, scan, gain)
    model.check_domain(probe.radius)
    least = model.thresholds.get("confidence", _CONFIDENCE) if threshold is None else threshold
    # errors are told in the unit of the signal axes, as positions are: the calibration's scale is in Å⁻¹
    scale = math.sqrt(math.prod(abs(float(axis.scale)) for axis in signal.axes_manager.signal_axes))
    columns = (*COLUMNS, "position_error", *(("position_variance", "confidence_variance") if n_samples else ()))
    lines = {"Model": model.name, "Probe": f"radius {probe.radius:.3g} px", "Threshold": f"{least:.3g}"}
    if gain != 1:
        lines["Counts per electron"] = f"{gain:.3g}"
    settings = [model.fingerprint, _digest(probe.image), probe.radius, least, max_peaks, n_samples]
    find = DetectionFinder(model, probe, scan.signal_mask, gain, scale, max_peaks, n_samples, least, _beam_of(scan))
    return Search(
        "Detection of disks", lines, signal, scan, find, columns, settings, reciprocal_radius, subtract_center,
        device, batch_size, None if given is None else partial(_compare_with_direct_beam, probe, scan),
    )  # fmt: skip


def _digest(image: torch.Tensor) -> str:
    return hashlib.sha256(image.numpy().tobytes()).hexdigest()


def read_probe(probe, scan: Scan, gain: float = 1.0) -> Probe:
    """Probe that a user gave, or the one that is estimated from a scan.

    Parameters
    ----------
    probe : Probe, signal, array of shape (rows, columns), or None
        None estimates it from the direct beam of up to 64 patterns, spread over those that are not excluded.
    scan : Scan
        The patterns.
    gain : float
        What the detector writes for an electron.

    Returns
    -------
    Probe

    Raises
    ------
    ValueError
        If there is no disk, or the probe is larger than the patterns, or was measured at another scale.
    """
    if probe is None:
        patterns = in_electrons(torch.from_numpy(scan.sample_patterns()), gain)
        probe = Probe.from_patterns(patterns, _beam_of(scan))
    else:
        _check_scale(probe, scan)
        probe = probe if isinstance(probe, Probe) else Probe.from_image(probe)
    if 2 * probe.radius >= min(scan.calibration.shape):
        raise ValueError(
            f"The probe (radius {probe.radius:.3g} px) is larger than the patterns {scan.calibration.shape}: give one "
            "with the same camera length and binning, or `probe.resampled(factor)`."
        )
    return probe


def _check_scale(probe, scan: Scan) -> None:
    """Make sure that a signal with the probe has the scan's scale, where it says one."""
    if not hasattr(probe, "axes_manager"):
        return
    try:
        scale = Calibration.from_signal(probe, scan.calibration.beam_energy).scale
    except ValueError:
        return  # a vacuum pattern without calibration: its pixels are the scan's
    factor = scale[0] / scan.calibration.scale[0]
    if abs(factor - 1) > _SAME_SCALE:
        raise ValueError(
            f"The probe has {scale[0]:.4g} Å⁻¹ per px, the scan {scan.calibration.scale[0]:.4g}. If both are right, "
            f"give `pyxem_dl.Probe.from_image(probe).resampled({factor:.4g})`; otherwise correct the calibration."
        )


def _beam_of(scan: Scan) -> tuple[float, float]:
    """Where the direct beam is in the sample, as it seems."""
    beam = scan.beam
    return scan.calibration.center if beam is None or not beam.certain else tuple(float(c) for c in beam.center)


def _compare_with_direct_beam(probe: Probe, scan: Scan) -> None:
    """Warn if the direct beam of the scan does not look like the probe."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            beam = Probe.from_patterns(scan.sample_patterns(), _beam_of(scan))
        except ValueError:
            return  # saturated, behind a stop, or split: that is what the probe is given for
    allowed = max(_SAME_RADIUS * probe.radius, 1.0, 4 * beam.radius_error)
    if abs(beam.radius - probe.radius) > allowed:
        warn(
            f"The probe has a radius of {probe.radius:.3g} px, but the direct beam of the scan seems to have "
            f"{beam.radius:.3g} px. Give a probe with the same camera length, aperture and binning, or none at all."
        )


def _check_arguments(threshold, reciprocal_radius, max_peaks, batch_size) -> int:
    """Make sure of the arguments that both searches have, and return `max_peaks`."""
    if threshold is not None and not 0 <= number("threshold", threshold) < 1:
        raise ValueError(f"threshold is a correlation and must be at least 0 and below 1, not {threshold!r}.")
    if reciprocal_radius is not None and number("reciprocal_radius", reciprocal_radius) <= 0:
        raise ValueError(f"reciprocal_radius must be positive and finite (Å⁻¹), not {reciprocal_radius!r}.")
    check_batch_size(batch_size)
    return whole_number("max_peaks", max_peaks, 1, _MOST_PEAKS)
