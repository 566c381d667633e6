"""Bragg disks by correlation with the probe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from pyxem_dl.bragg_vectors.finders import CorrelationFinder
from pyxem_dl.bragg_vectors.searching import Search, check_arguments, target_of
from pyxem_dl.checks import flag, number
from pyxem_dl.patterns.matcher import DiskMatcher
from pyxem_dl.patterns.probes import Probe
from pyxem_dl.results.vectors import COLUMNS
from pyxem_dl.scans import Computing, Reading

if TYPE_CHECKING:
    from pyxem_dl.annotations import Center, Patterns, ProbeImage, Vectors


def match_disks(
    signal: Patterns,
    probe: Probe | ProbeImage | None = None,
    *,
    threshold: float | None = None,
    min_distance: float | None = None,
    max_peaks: int = 200,
    subpixel: bool = True,
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
    """Find Bragg disks by correlation with the probe.

    Parameters
    ----------
    signal : pyxem.signals.Diffraction2D
        Calibrated patterns with 0, 1 or 2 navigation dimensions, in memory or lazy; in electrons, where that is known.
    probe : Probe, signal or array of shape (rows, columns), optional
        The probe, or a measured vacuum pattern; by default it is estimated from the direct beam of 64 patterns.
    threshold : float, optional
        Smallest confidence, between 0 and 1: the correlation of pattern and probe, the same for any dose. Default is
        :func:`~pyxem_dl.patterns.matcher.default_threshold`, which depends on the probe's radius.
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
    output : str or pathlib.Path, optional
        Where the vectors go. ``.zarr``: a store to which they are written as they come, and that ``open_result``
        reads; ``.hspy`` or ``.zspy`` (HyperSpy), ``.h5``, ``.hdf5`` or ``.emd`` (py4DSTEM): a file, and until it is
        whole a store beside it, ``<output>.partial``. A second call with the same signal and settings continues after
        a run that was interrupted or killed.
    overwrite : bool
        Replace a file that is there, or a store of other work.
    on_part, on_message : callable, optional
        Called with each :class:`~pyxem_dl.scans.Part` as it comes (returning False stops the work as Ctrl-C does), and
        with each line that would be printed.

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
    max_peaks = check_arguments(threshold, reciprocal_radius, max_peaks, subtract_center)
    if min_distance is not None:
        number("min_distance", min_distance, 0)
    flag("subpixel", subpixel)
    target = target_of(output, overwrite)
    reading = Reading(navigation_mask, signal_mask, center, beam_energy)
    search = Search(signal, probe, reading)
    matcher = DiskMatcher(
        search.probe, search.scan.calibration.shape, signal_mask=search.scan.signal_mask, threshold=threshold,
        min_distance=min_distance, max_peaks=max_peaks, subpixel=subpixel,
    )  # fmt: skip
    lines = {"Probe": f"radius {search.probe.radius:.3g} px", "Threshold": f"{matcher.threshold:.3g}"}
    return search.vectors(
        "Correlation of disks", lines, CorrelationFinder(matcher, search.gain), COLUMNS,
        ["correlation", matcher.threshold, min_distance, max_peaks, subpixel, search.gain],
        reciprocal_radius=reciprocal_radius, subtract_center=subtract_center, lazy_output=lazy_output, target=target,
        computing=Computing(device, batch_size, show_progressbar, on_part, on_message),
        record=search.record(
            "match_disks", reading, threshold=matcher.threshold, min_distance=min_distance, max_peaks=max_peaks,
            subpixel=subpixel, reciprocal_radius=reciprocal_radius, subtract_center=subtract_center,
        ),
    )  # fmt: skip
