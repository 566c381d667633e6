"""Bragg disks, by correlation or a trained detector: from a signal to pyxem's diffraction vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pyxem_dl.bragg_vectors.matcher import DiskMatcher
from pyxem_dl.bragg_vectors.py4dstem import to_py4dstem
from pyxem_dl.frames import Calibration
from pyxem_dl.maps import Scan, print_summary, timed
from pyxem_dl.models import BraggModel, load_model
from pyxem_dl.probes import Probe
from pyxem_dl.streaming import resolve_device, stream

__all__ = [
    "COLUMNS", "DiskMatcher", "match_disks", "predict_bragg_vectors", "ragged", "read_probe",
    "to_diffraction_vectors", "to_py4dstem",
]  # fmt: skip

#: Columns of the vectors; those of a detector that knows more follow
COLUMNS = ("ky", "kx", "intensity", "confidence")

# Patterns from which the probe is estimated
_PROBE_PATTERNS = 64


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
        Or a measured vacuum pattern; by default it is estimated from the direct beam of 64 patterns.
    threshold : float, optional
        Of the confidence, between 0 and 1: the correlation of pattern and probe, the same for any dose; by default
        :func:`~pyxem_dl.bragg_vectors.matcher.default_threshold`, which depends on the probe's radius.
    min_distance : float, optional
        Between two disks in pixels; by default the probe's radius, and at least 2.
    max_peaks : int
        At most so many disks of a pattern are kept, the most confident ones.
    subpixel : bool
        Fit the position of each disk.
    reciprocal_radius : float, optional
        Disks beyond are left out, in 1/Angstrom; by default none are.
    subtract_center : bool
        Measure from the direct beam; else from the first pixel.
    navigation_mask : array of bool, optional
        True where a pattern is excluded, of the navigation's shape in data order (y, x): it has no vectors.
    signal_mask : array of bool, shape (rows, columns), optional
        True where the detector is excluded.
    center : optional
        Direct beam: None for the calibration's, "auto" to find it in each pattern, (row, column) in pixels, an array
        (..., 2) of those for each position, or a ``BeamShift``.
    batch_size : int, optional
        Patterns per batch.
    device : str or torch.device
        "auto", "cpu", "cuda", ...
    show_progressbar : bool, optional
        By default HyperSpy's preference.
    lazy_output : bool
        Compute nothing yet, and return the lazy twin, with the chunks of the signal.

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
        If the probe is poorly known, or hardly a disk.

    Notes
    -----
    The correlation is that of the fourth root of the intensities with the probe, both without their means in a window
    of twice the probe's radius, divided by their norms (with what lies outside of the detector or under the mask left
    out of the window).  The direct beam is one of the disks.  Patterns with NaN or infinite pixels and constant ones
    have no vectors; negative intensities count as 0.
    """
    scan = Scan.from_signal(signal, navigation_mask=navigation_mask, signal_mask=signal_mask, center=center)
    _check_arguments(threshold, reciprocal_radius)
    device = resolve_device(device)
    probe = read_probe(probe, scan)
    matcher = DiskMatcher(
        probe, scan.calibration.shape, signal_mask=scan.signal_mask, threshold=threshold,
        min_distance=min_distance, max_peaks=max_peaks, subpixel=subpixel, device=device,
    )  # fmt: skip

    def find(patterns):
        maxima, intensity = matcher(patterns)
        return maxima.row, maxima.column, (intensity, maxima.value), maxima.valid

    job = _Job(signal, scan, find, COLUMNS, reciprocal_radius, subtract_center, device, batch_size)
    lines = {"Probe": f"radius {probe.radius:.3g} px", "Threshold": f"{matcher.threshold:.3g}"}
    return job.run("Correlation of disks", lines, show_progressbar, lazy_output)


def predict_bragg_vectors(
    signal,
    model,
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
        A model folder or a loaded model.
    probe : Probe, signal or array of shape (rows, columns), optional
        Or a measured vacuum pattern; by default it is estimated from the direct beam of 64 patterns.
    threshold : float, optional
        Of the confidence, between 0 and 1; by default the model's.
    n_samples : int
        Answers of the network drawn with dropout left on (Monte-Carlo dropout), as 20: their mean is given, and
        their variance in two more columns.  Takes so many times as long; the answers then differ a little from one
        call to the next.
    max_peaks, reciprocal_radius, subtract_center, navigation_mask, signal_mask, center
        As in :func:`match_disks`.
    batch_size, device, show_progressbar, lazy_output
        As in :func:`match_disks`.

    Returns
    -------
    pyxem.signals.DiffractionVectors or LazyDiffractionVectors
        See :func:`to_diffraction_vectors`.  ``intensity`` is what the disk holds above the background, in the units of
        the patterns; ``confidence`` is the detector's; ``position_error``, in the units of the signal axes, what it
        expects to be wrong by.  With `n_samples` also ``position_variance``, in those units squared, and
        ``confidence_variance``.

    Raises
    ------
    ValueError, TypeError
        For a signal, a probe, a model, masks, centers or arguments that cannot be used; the message says what to do.

    Warns
    -----
    UserWarning
        If the probe is poorly known, hardly a disk, or smaller or larger than the model was trained for.
    """
    model = load_model(model)
    if not isinstance(model, BraggModel):
        raise TypeError(f"{model!r} finds orientations, not disks: give a disk detector.")
    scan = Scan.from_signal(signal, navigation_mask=navigation_mask, signal_mask=signal_mask, center=center)
    _check_arguments(threshold, reciprocal_radius)
    if n_samples < 0:
        raise ValueError(f"n_samples is a number of answers, 0 for one without dropout, not {n_samples!r}.")
    device = resolve_device(device)
    model.to(device)
    probe = read_probe(probe, scan)
    model.check_domain(probe.radius)
    least = model.thresholds["confidence"] if threshold is None else threshold
    image = probe.resampled(model.network.radius / probe.radius).image

    def find(patterns):
        disks = model.predict_batch(
            patterns, image, probe.radius, signal_mask=scan.signal_mask, max_disks=max_peaks, n_samples=n_samples
        )
        extras = [disks.intensity, disks.confidence, disks.position_error * scale]
        if n_samples:
            extras += [disks.position_variance * scale**2, disks.confidence_variance]
        return disks.row, disks.column, tuple(extras), disks.confidence > max(least, 0)

    scale = math.sqrt(math.prod(scan.calibration.scale))
    columns = (*COLUMNS, "position_error", *(("position_variance", "confidence_variance") if n_samples else ()))
    job = _Job(signal, scan, find, columns, reciprocal_radius, subtract_center, device, batch_size)
    lines = {"Model": model.name, "Probe": f"radius {probe.radius:.3g} px", "Threshold": f"{least:.3g}"}
    return job.run("Detection of disks", lines, show_progressbar, lazy_output)


@dataclass
class _Job:
    """One search for disks, whatever finds them in a batch.

    ``find(patterns)`` returns row and column (n, m) in pixels, a tuple of further columns (n, m), and which are there.
    """

    signal: object
    scan: Scan
    find: Callable
    columns: Sequence[str]
    reciprocal_radius: float | None
    subtract_center: bool
    device: torch.device
    batch_size: int | None

    def run(self, title: str, lines: dict, show_progressbar: bool | None, lazy_output: bool):
        """Search, or prepare to."""
        scan = self.scan
        if lazy_output:
            rows = self._lazy_rows()
        else:
            print_summary(title, lines | {"Patterns": scan.describe(), "Device": self.device})
            found = []
            with timed(lambda: sum(len(part.indices) for part in found)):
                found.extend(
                    stream(
                        scan.data, self._detect, device=self.device, batch_size=self.batch_size,
                        navigation_mask=scan.navigation_mask, show_progressbar=show_progressbar,
                    )  # fmt: skip
                )
            rows = ragged(found, scan.size, len(self.columns))
        return to_diffraction_vectors(
            self.signal, rows, scan.calibration, subtract_center=self.subtract_center, columns=self.columns
        )

    def _detect(self, patterns, indices) -> dict:
        """Table (n, m, columns) in pixels from the direct beam or from the first pixel, and which rows are there."""
        row, column, extras, keep = self.find(patterns)
        centers = self.scan.batch_centers(patterns, indices)
        centers = row.new_tensor([self.scan.calibration.center]) if centers is None else centers.to(row)
        from_beam = row - centers[:, :1], column - centers[:, 1:]
        if self.reciprocal_radius is not None:
            scale = self.scan.calibration.scale
            k = torch.hypot(from_beam[0] * scale[0], from_beam[1] * scale[1])
            keep = keep & (k <= self.reciprocal_radius)
        place = from_beam if self.subtract_center else (row, column)
        return {"table": torch.stack([*place, *extras], -1), "keep": keep}

    def _lazy_rows(self):
        """Dask array of the navigation's shape, whose chunks are computed when they are asked for."""
        import dask.array as da

        scan = self.scan
        data = scan.data if hasattr(scan.data, "dask") else da.from_array(scan.data)
        if data.ndim == 2:
            data = data[None]
        data = data.rechunk({data.ndim - 2: -1, data.ndim - 1: -1})
        shape = data.shape[:-2]
        indices = da.from_array(np.arange(scan.size).reshape(shape), chunks=data.chunks[:-2])[..., None, None]

        def block(patterns, index):
            index = index.reshape(-1)
            parts = stream(
                patterns.reshape(-1, *patterns.shape[-2:]), lambda x, i: self._detect(x, index[i]),
                device=self.device, batch_size=self.batch_size, navigation_mask=scan.navigation_mask[index],
                show_progressbar=False,
            )  # fmt: skip
            return ragged(parts, len(index), len(self.columns)).reshape(patterns.shape[:-2])

        drop = [data.ndim - 2, data.ndim - 1]
        meta = np.empty((0,) * len(shape), object)
        return da.map_blocks(block, data, indices, dtype=object, drop_axis=drop, meta=meta)


def read_probe(probe, scan: Scan) -> Probe:
    """Probe that a user gave, or the one that is estimated from a scan.

    Parameters
    ----------
    probe : Probe, signal, array of shape (rows, columns), or None
        None estimates it from the direct beam of up to 64 patterns, spread over those that are not excluded.
    scan : Scan
        The patterns.

    Returns
    -------
    Probe

    Raises
    ------
    ValueError
        If there is no disk, or the probe is larger than the patterns.
    """
    if probe is None:
        probe = Probe.from_patterns(_some_patterns(scan), scan.calibration.center)
    elif not isinstance(probe, Probe):
        probe = Probe.from_image(probe)
    if 2 * probe.radius >= min(scan.calibration.shape):
        raise ValueError(
            f"The probe (radius {probe.radius:.3g} px) is larger than the patterns {scan.calibration.shape}: give one "
            "of the same camera length and binning, or `probe.resampled(factor)`."
        )
    return probe


def _some_patterns(scan: Scan) -> np.ndarray:
    """Patterns (n, rows, columns) spread over what is not excluded, 0 where masked."""
    indices = np.flatnonzero(~scan.navigation_mask)
    indices = indices[np.unique(np.linspace(0, len(indices) - 1, _PROBE_PATTERNS).astype(int))]
    chosen = np.zeros(scan.size, dtype=bool)
    chosen[indices] = True
    parts = stream(scan.data, lambda x, i: x, device="cpu", navigation_mask=~chosen, show_progressbar=False)
    patterns = np.concatenate([part.results for part in parts])
    if scan.signal_mask is not None:
        patterns[:, scan.signal_mask.numpy()] = 0
    return patterns


def _check_arguments(threshold, reciprocal_radius) -> None:
    if threshold is not None and not 0 <= threshold < 1:
        raise ValueError(f"threshold is a correlation, from 0 to below 1, not {threshold!r}.")
    if reciprocal_radius is not None and not (math.isfinite(reciprocal_radius) and reciprocal_radius > 0):
        raise ValueError(f"reciprocal_radius must be positive and finite (1/Å), not {reciprocal_radius!r}.")


def ragged(parts, n: int, columns: int = len(COLUMNS)) -> np.ndarray:
    """Gather tables of batches in an object array (n,) of float arrays (m, columns).

    Parameters
    ----------
    parts : iterable of pyxem_dl.streaming.Part
        With the results "table" (n, m, columns) and "keep" (n, m), which tells which rows are there.
    n : int
        Number of positions; those without a result have (0, columns).
    columns : int
        Of the tables.
    """
    rows = np.empty(n, dtype=object)
    for part in parts:
        table, keep = part.results["table"], part.results["keep"]
        tables = np.split(table[keep].astype(float), np.cumsum(keep.sum(1))[:-1])
        for i, found in zip(part.indices, tables, strict=True):
            rows[i] = found
    for i in range(n):
        if rows[i] is None:
            rows[i] = np.zeros((0, columns))
    return rows


def to_diffraction_vectors(
    signal, rows, calibration: Calibration, *, subtract_center: bool = True, columns=COLUMNS, units=None
):
    """Make pyxem's diffraction vectors, as its ``get_diffraction_vectors`` does.

    Parameters
    ----------
    signal : pyxem.signals.Diffraction2D
        Where they were found: its navigation axes, its scales and units.
    rows : array of object, or dask array of it
        For each position, in data order, an array (m, columns) whose first two columns are along rows and columns in
        pixels, from the direct beam or (`subtract_center` False) from the first pixel.
    calibration : Calibration
        Of the scan, for the direct beam.
    subtract_center : bool
        What the positions are measured from.
    columns : sequence of str
        Names of all columns.
    units : sequence of str, optional
        Of all columns; by default those of the signal axes, and "a.u." for what follows.

    Returns
    -------
    pyxem.signals.DiffractionVectors or LazyDiffractionVectors
        Ragged: (m, columns) floats at each position, (0, columns) where there is nothing.  Columns 0 and 1 are in the
        units of the signal axes, row axis first, and run as the rows and columns of the pattern do: y is not flipped.
        The offsets bring vectors back to pixels, as pyxem has it, with the calibration's direct beam.
    """
    from pyxem.signals import DiffractionVectors
    from pyxem.signals.diffraction_vectors import LazyDiffractionVectors

    manager = signal.axes_manager
    axes = manager.signal_axes[::-1]
    others = len(columns) - 2
    scales = np.array([*(float(axis.scale) for axis in axes), *[1.0] * others])
    center = np.array([*calibration.center, *[0.0] * others]) * subtract_center
    shape = manager._navigation_shape_in_array or (1,)
    lazy = hasattr(rows, "dask")
    rows = rows.map_blocks(_scaled, scales, dtype=object) if lazy else _scaled(rows, scales).reshape(shape)
    vectors = (LazyDiffractionVectors if lazy else DiffractionVectors)(
        rows,
        scales=scales,
        offsets=-center * scales,
        detector_shape=tuple(calibration.shape),
        column_names=list(columns),
        units=list(units) if units is not None else [*(str(axis.units) for axis in axes), *["a.u."] * others],
    )
    for new, old in zip(vectors.axes_manager.navigation_axes, manager.navigation_axes):
        new.name, new.units = old.name, old.units
        if old.is_uniform:
            new.scale, new.offset = old.scale, old.offset
    for node in ("General", "Acquisition_instrument"):
        if signal.metadata.has_item(node):
            vectors.metadata.add_dictionary({node: signal.metadata.get_item(node).as_dictionary()})
    vectors.has_intensity = "intensity" in columns
    return vectors


def _scaled(rows: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Multiply the columns of every table in an object array."""
    result = np.empty(rows.shape, dtype=object)
    for index in np.ndindex(rows.shape):
        result[index] = rows[index] * scales
    return result
