"""What labelled scans tell of their microscope, so that patterns like theirs can be simulated."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from pyxem_dl.crystals import reflections
from pyxem_dl.frames import pixel_to_k
from pyxem_dl.messages import say
from pyxem_dl.metrics import fit_distortion
from pyxem_dl.patterns.probes import Probe
from pyxem_dl.preprocessing import counts_per_electron
from pyxem_dl.simulation import SimulationSettings
from pyxem_dl.training.scans import LabelledScan

# The scale is measured on so many labels, the most reliable ones of those that are trained on
_N_LABELS = 300
# Disks and dose are measured in so many patterns
_N_PATTERNS = 64
# Beside what was measured the simulation still draws scale, ellipse and coverage from ranges as wide as this, relative
_MARGIN = 0.01
# So far the radius of the disks is drawn to both sides, as a factor
_DISK_MARGIN = 1.33
# Disks smaller than this (px) have no edge that could be measured
_SPOT = 1.2
# The least share of the electrons beside the direct beam that is taken to be in spots: the rest is background
_IN_SPOTS = 0.1
# A dose that is so many times what a model was trained for is taken for a wrong measurement
_DOSE_MARGIN = 3.0
# So far the background relative to the spots is drawn to both sides of the mean one, as a factor; less than the
# second number is hardly told from none
_BACKGROUND_MARGIN, _FAINT = 6.0, 0.1
# It is looked at in boxes, so many along the detector: larger than spots, and most of them without
_BOXES = 18
# Patterns are simulated with no less of these than by default
_NO_LESS = ("background", "overlap_share", "ghost_share", "fault_share")


class Microscope(NamedTuple):
    """What the labels and the patterns of n scans show of their microscopes.

    ``scale (n,)``: by how much spots are further from the beam than they should be by the calibration, relative;
    ``ellipticity (n,)``: of the ellipse that a circle becomes, relative; ``radius (n,)``: from the detector's middle to
    its nearest edge in Å⁻¹; ``pixels (n,)``: from edge to edge there; ``disk_radius (n,)`` in Å⁻¹, 0 for
    spots, NaN where it could not be measured; ``electrons (n, 2)``: 5 and 95 % of the patterns have fewer beside the
    direct beam; NaN of patterns with negative values, whose noise is that of the readout; ``background (n,)``: mean
    share of these electrons that is in no spot, NaN where there are too few to tell.
    """

    scale: np.ndarray
    ellipticity: np.ndarray
    radius: np.ndarray
    pixels: np.ndarray
    disk_radius: np.ndarray
    electrons: np.ndarray
    background: np.ndarray

    @classmethod
    def of(cls, scans: list[LabelledScan], phases: list, reciprocal_radius: float) -> Microscope | None:
        """Measure: labels say where spots should be, patterns where they are, and how they look.

        Parameters
        ----------
        scans : list of LabelledScan
            With their phases numbered as in `phases`; those that nothing is learnt from are left out.
        phases : list of orix.crystal_map.Phase
            With atoms.
        reciprocal_radius : float
            To which spots are looked for, in Å⁻¹.

        Returns
        -------
        Microscope or None
            Of the scans in which enough spots are seen; None where there is no such scan.
        """
        rows = []
        for scan in scans:
            if not len(_crystals(scan)):
                continue
            try:
                rows.append(_measure(scan, phases, reciprocal_radius))
            except ValueError as error:
                say(f"The microscope cannot be measured in one of the scans. {error}")
        if not rows:
            say("The microscope is assumed to be that of the model's training.")
            return None
        found = cls(*map(np.array, zip(*rows, strict=True)))
        say("\n".join(found._lines()))
        return found

    def _lines(self) -> list[str]:
        """Say what was found, a line for each scan."""
        lines = []
        for scale, ellipticity, disk, (low, high), background in zip(
            self.scale, self.ellipticity, self.disk_radius, self.electrons, self.background, strict=True
        ):
            disk = "unknown" if np.isnan(disk) else f"{disk:.3f} Å⁻¹" if disk else "none (spots)"
            dose = "not known" if np.isnan(low) else f"{low:.0f} to {high:.0f}"
            dose += "" if np.isnan(background) else f", {background:.0%} of them in the background"
            lines.append(
                f"According to the labels, distances from the beam are off by {scale:+.1%} (ellipticity "
                f"{ellipticity:.1%}); radius of the disks {disk}, electrons outside of the direct beam {dose}"
            )
        return lines

    def scale_factor(self, settings: SimulationSettings) -> float:
        """Factor of the scale with which a model that was trained with `settings` sees spots where it learnt them."""
        return round((1 + sum(settings.scale_error) / 2) / (1 + float(self.scale.mean())), 4)

    def simulation(self, settings: SimulationSettings, reciprocal_radius: float) -> SimulationSettings:
        """Change how patterns are simulated to what is measured; with overlaps and faults at least as by default.

        Parameters
        ----------
        settings : SimulationSettings
            Of the model's own training; what could not be measured stays as it is there.
        reciprocal_radius : float
            To which patterns are simulated, in Å⁻¹.
        """
        default = SimulationSettings()
        changes = {name: _union(getattr(settings, name), getattr(default, name)) for name in _NO_LESS}
        changes["scale_error"] = float(self.scale.min()) - _MARGIN, float(self.scale.max()) + _MARGIN
        changes["ellipticity"] = (
            max(0.0, float(self.ellipticity.min()) - _MARGIN), float(self.ellipticity.max()) + _MARGIN
        )  # fmt: skip
        # no more of the detector, and no finer, than the first training had
        coverage = np.minimum(self.radius / reciprocal_radius, settings.coverage[1])
        pixels = self.pixels * coverage * reciprocal_radius / self.radius
        changes["pixels"] = tuple(int(round(n)) for n in np.minimum(pixels, max(settings.pixels)))
        changes["coverage"] = float(coverage.min()) * (1 - _MARGIN), float(coverage.max()) * (1 + _MARGIN)
        relative = self.background / (1 - self.background)
        spot = _SPOT * (2 * self.radius / self.pixels).max()
        low, high = settings.electrons
        measured = {
            "background": _within(
                relative.min() / _BACKGROUND_MARGIN, np.maximum(relative.max(), _FAINT) * _BACKGROUND_MARGIN,
                *changes["background"],
            ),
            # the direct beam of a camera that it saturates seems larger than disks are
            "disk_radius": _within(
                self.disk_radius.min() / _DISK_MARGIN, self.disk_radius.max() * _DISK_MARGIN or spot,
                *settings.disk_radius,
            ),
            "electrons": _within(
                _IN_SPOTS * self.electrons.min(), self.electrons.max(), low / _DOSE_MARGIN, high * _DOSE_MARGIN
            ),
        }  # fmt: skip
        return replace(settings, **changes | {name: limits for name, limits in measured.items() if limits})


def _measure(scan: LabelledScan, phases: list, reciprocal_radius: float) -> tuple:
    """Measure the entries of a microscope in one scan; a ValueError where too few spots are seen."""
    shown = scan.calibration
    radius = min(reciprocal_radius, shown.reciprocal_radius)
    stretches = _stretches(scan, phases, radius)
    some = np.random.default_rng(0).permutation(_crystals(scan))[:_N_PATTERNS]
    patterns = np.nan_to_num(scan.patterns(np.sort(some))[0].astype(np.float32), posinf=0.0)
    disk_radius = _disk_radius(patterns, shown)
    k = np.hypot(*pixel_to_k(*np.ogrid[tuple(slice(0.0, n) for n in shown.shape)], shown))
    beside = (k > 1.5 * max(np.nan_to_num(disk_radius), 2 * max(shown.scale))) & (k < radius)
    if not beside.any():
        raise ValueError("The direct beam covers the detector. Check the calibration.")
    side = int(np.argmin(np.multiply(shown.shape, shown.scale)))
    return (
        stretches.mean() - 1, stretches.max() / stretches.mean() - 1,
        0.5 * shown.shape[side] * shown.scale[side], shown.shape[side],
        disk_radius, _electrons(patterns, beside),
        _background(patterns, beside, (k / max(shown.scale)).astype(int)),
    )  # fmt: skip


def _crystals(scan: LabelledScan) -> np.ndarray:
    """Positions of crystals that are trained on."""
    return scan.train[scan.phase_id[scan.train] >= 0]


def _stretches(scan: LabelledScan, phases: list, radius: float) -> np.ndarray:
    """By how much (2,) a scan is stretched along its two main directions."""
    from orix.crystal_map import CrystalMap, PhaseList
    from orix.quaternion import Rotation

    # in random order, so that labels without scores are not those of the first rows
    crystals = np.random.default_rng(0).permutation(_crystals(scan))
    order = np.lexsort((-scan.labels.scores[crystals], -scan.labels.reliability[crystals]))
    best = np.sort(crystals[order[:_N_LABELS]])
    patterns, rotations, phase_id = scan.patterns(best)
    xmap = CrystalMap(
        Rotation(rotations.numpy()), phase_id=phase_id.numpy(), x=np.arange(len(best)),
        phase_list=PhaseList(ids=list(range(len(phases))), phases=phases),
    )  # fmt: skip
    distortion = fit_distortion(xmap, patterns, [reflections(phase, radius) for phase in phases], scan.calibration)
    return np.linalg.eigvalsh(distortion)


def _disk_radius(patterns: np.ndarray, calibration) -> float:
    """Radius of the direct beam in Å⁻¹, 0 for a spot without an edge; NaN where there is no disk to measure."""
    with warnings.catch_warnings(record=True) as doubts:
        warnings.simplefilter("always")
        try:
            probe = Probe.from_patterns(patterns, calibration.center)
        except ValueError:
            return np.nan
    if probe.radius < _SPOT:
        return 0.0
    return np.nan if doubts else probe.radius * float(np.mean(calibration.scale))


def _electrons(patterns: np.ndarray, beside: np.ndarray) -> tuple[float, float]:
    """How many electrons there are in pixels beside the direct beam: exceeded by 95 %, and by 5 % of the patterns."""
    if (patterns < 0).any():
        return np.nan, np.nan
    electrons = patterns[:, beside].sum(1) / counts_per_electron(torch.from_numpy(patterns))
    low, high = np.quantile(electrons, (0.05, 0.95))
    return float(low), float(high)


def _background(patterns: np.ndarray, beside: np.ndarray, rings: np.ndarray) -> float:
    """Share of patterns, in pixels beside the direct beam, that is even all around it; `rings` are the pixels' numbers.

    NaN where there are so few counts that what is even cannot be told from nothing.
    """
    from scipy.ndimage import uniform_filter

    # where there is hardly a count in a pixel its neighbours tell
    size = max(5, min(beside.shape) // _BOXES)
    counts = patterns.clip(0).astype(np.float32) * beside
    smooth = uniform_filter(counts, (0, size, size)) / np.maximum(uniform_filter(beside.astype(float), size), 1e-6)
    rings = np.where(beside, rings, -1)
    numbers, pixels = np.unique(rings[beside], return_counts=True)
    even = np.stack([np.median(smooth[:, rings == i], axis=1) for i in numbers], axis=1)
    if np.mean(even <= 0) > 0.5:
        return np.nan
    return float(np.clip((even @ pixels).sum() / max(counts.sum(), 1e-30), 0.0, 0.99))


def _within(low: float, high: float, lowest: float, highest: float) -> tuple[float, float] | None:
    """Cut a range to what lies in another; None where nothing does, and where it is not known (NaN)."""
    low, high = np.clip((low, high), lowest, highest).tolist()
    return (low, high) if low < high else None


def _union(own, default):
    """Take the wider range, or the larger share."""
    if isinstance(default, tuple):
        return min(own[0], default[0]), max(own[1], default[1])
    return max(own, default)
