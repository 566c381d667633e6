"""What the ways to find disks share: the probe of a scan, checks of arguments, and the job that they become."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import torch

from pyxem_dl.bragg_vectors.step import DiskStep
from pyxem_dl.checks import flag, number, whole_number
from pyxem_dl.frames import Calibration
from pyxem_dl.messages import warn
from pyxem_dl.patterns.probes import Probe
from pyxem_dl.preprocessing import in_electrons
from pyxem_dl.records import made_by, with_record
from pyxem_dl.results.vector_files import check_vectors_path, write_vectors
from pyxem_dl.results.vectors import VectorsAssembly
from pyxem_dl.scans import Computing, Job, Reading, Scan, Target
from pyxem_dl.scans.lazy import lazy_tables

# Shares by which scale and radius of a probe may differ from the scan's
_SAME_SCALE, _SAME_RADIUS = 0.03, 0.25
# More disks than anybody has use for
_MOST_PEAKS = 100_000


class Search:
    """A scan in which disks are looked for, and the probe that they look like.

    Parameters
    ----------
    signal : pyxem.signals.Diffraction2D
        Of which the vectors are.
    probe : Probe, signal, array of shape (rows, columns), or None
        None estimates it from the scan.
    reading : Reading
        Masks, center and beam energy.

    Attributes
    ----------
    gain : float
        What the detector writes for an electron.
    """

    def __init__(self, signal, probe, reading: Reading) -> None:
        self.signal, self.scan = signal, Scan.from_signal(signal, reading)
        self.gain = self.scan.counts_per_electron()
        self._given = probe is not None
        self.probe = read_probe(probe, self.scan, self.gain)

    @property
    def beam(self) -> tuple[float, float]:
        """Where the direct beam is in the sample, as it seems."""
        return _beam_of(self.scan)

    def vectors(
        self, title: str, lines: dict, find, columns, settings, *, reciprocal_radius, subtract_center,
        computing: Computing, lazy_output: bool, target: Target | None, record: dict,
    ):  # fmt: skip
        """Search with a finder: now, later (lazily), or into a file.

        Parameters
        ----------
        title, lines
            For the announcement.
        find : CorrelationFinder or DetectionFinder
            What finds the disks of a batch.
        columns : sequence of str
            Of the vectors.
        settings : list
            On which the results depend, beside the scan and the probe.
        reciprocal_radius : float, optional
            Disks beyond are left out, in Å⁻¹.
        subtract_center : bool
            Measure from the direct beam; else from the first pixel.
        computing, lazy_output, target
            How, when and where to.
        record : dict
            Where the vectors come from.
        """
        scan, probe = self.scan, self.probe
        if flag("lazy_output", lazy_output) and target is not None:
            raise ValueError("lazy_output computes later, and output= now: give one of them.")
        step = DiskStep(scan.without_data(), find, reciprocal_radius, subtract_center, len(columns))
        assembly = VectorsAssembly.of(self.signal, scan.calibration, subtract_center=subtract_center, columns=columns)
        if lazy_output:
            scan.forget_sample()
            return with_record(assembly.vectors(lazy_tables(scan, step, "disks", computing)), record)
        if self._given:
            _compare_with_direct_beam(probe, scan)
        digest = hashlib.sha256(probe.image.numpy().tobytes()).hexdigest()
        settings = [*settings, digest, probe.radius, list(columns), reciprocal_radius, subtract_center]
        lines = lines | {"Patterns": scan.describe()}
        job = Job(title, lines, scan, step, computing, assembly, settings, self.signal, record=record)
        return job.run(target)

    def record(self, verb: str, reading: Reading, **settings) -> dict:
        """Say where vectors come from; arguments are those of :func:`pyxem_dl.records.made_by`."""
        probe = {"radius_px": float(self.probe.radius), "given": self._given}
        return made_by(
            verb, signal=self.signal, calibration=self.scan.calibration, probe=probe, counts_per_electron=self.gain,
            **settings, **reading.asked(),
        )  # fmt: skip


def target_of(output: str | Path | None, overwrite: bool) -> Target | None:
    """Read where vectors go; an error for a name that cannot be one, before the scan is looked at."""
    return Target.of(output, write_vectors, check_vectors_path, overwrite)


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


def check_arguments(threshold, reciprocal_radius, max_peaks, subtract_center) -> int:
    """Make sure of the arguments that both searches have, and return `max_peaks`."""
    if threshold is not None and not 0 <= number("threshold", threshold) < 1:
        raise ValueError(f"threshold is a correlation and must be at least 0 and below 1, not {threshold!r}.")
    if reciprocal_radius is not None and number("reciprocal_radius", reciprocal_radius) <= 0:
        raise ValueError(f"reciprocal_radius must be positive and finite (Å⁻¹), not {reciprocal_radius!r}.")
    flag("subtract_center", subtract_center)
    return whole_number("max_peaks", max_peaks, 1, _MOST_PEAKS)
