"""What labelled scans tell of their microscope, so that patterns like theirs can be simulated."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from pyxem_dl.crystals import reflections
from pyxem_dl.frames import pixel_to_k
from pyxem_dl.metrics import fit_distortion
from pyxem_dl.probes import Probe
from pyxem_dl.simulation import SimulationSettings
from pyxem_dl.training.scans import LabelledScan

# All is measured on so many labels, the most reliable ones of those that are trained on
_N_LABELS = 300
# Beside what was measured the simulation still draws scale, ellipse and coverage from ranges as wide as this, relative
_MARGIN = 0.01
# So far the radius of the disks is drawn to both sides, as a factor
_DISK_MARGIN = 1.33
# Disks smaller than this (px) have no edge that could be measured
_SPOT = 1.2
# The least share of the electrons beside the direct beam that is taken to be in spots: the rest is background
_IN_SPOTS = 0.1
# Patterns are simulated with no less of these than by default
_NO_LESS = ("background", "overlap_share", "ghost_share", "fault_share")


class Microscope(NamedTuple):
    """What the labels and the patterns of n scans show of their microscopes.

    ``scale (n,)``: by how much spots are further from the beam than they should be by the calibration, relative;
    ``ellipticity (n,)``: of the ellipse that a circle becomes, relative; ``radius (n,)``: to the edge of the detector
    in 1/Angstrom; ``pixels (n,)``: along its shorter side; ``disk_radius (n,)`` in 1/Angstrom, 0 for spots, NaN where
    none could be measured; ``electrons (n, 2)``: 5 and 95 % of the patterns have less beside the direct beam; NaN where
    the noise is not that of counts.
    """

    scale: np.ndarray
    ellipticity: np.ndarray
    radius: np.ndarray
    pixels: np.ndarray
    disk_radius: np.ndarray
    electrons: np.ndarray

    @classmethod
    def of(cls, scans: list[LabelledScan], phases: list, reciprocal_radius: float) -> Microscope | None:
        """Measure: labels say where spots should be, patterns where they are, and how they look.

        Parameters
        ----------
        scans : list of LabelledScan
            With their phases numbered as in `phases`.
        phases : list of orix.crystal_map.Phase
            With atoms.
        reciprocal_radius : float
            To which spots are looked for, in 1/Angstrom.

        Returns
        -------
        Microscope or None
            None where too few spots are seen.
        """
        try:
            stretches = np.array([_stretches(scan, phases, reciprocal_radius) for scan in scans])
        except ValueError as error:
            print(f"The microscope is taken to be as in the model's training. {error}")
            return None
        detectors = [scan.calibration for scan in scans]
        disks = np.array([_disk_radius(scan) for scan in scans])
        found = cls(
            scale=stretches.mean(1) - 1,
            ellipticity=stretches.max(1) / stretches.mean(1) - 1,
            radius=np.array([0.5 * min(d.shape[0] * d.scale[0], d.shape[1] * d.scale[1]) for d in detectors]),
            pixels=np.array([min(d.shape) for d in detectors]),
            disk_radius=disks,
            electrons=np.array([_electrons(*pair) for pair in zip(scans, disks, strict=True)]),
        )
        print("\n".join(found._lines()))
        return found

    def _lines(self) -> list[str]:
        """Say what was found, a line for each scan."""
        lines = []
        for scale, ellipticity, disk, (low, high) in zip(
            self.scale, self.ellipticity, self.disk_radius, self.electrons, strict=True
        ):
            disk = "not known" if np.isnan(disk) else f"{disk:.3f} 1/Å" if disk else "those of spots"
            dose = "not known" if np.isnan(low) else f"{low:.0f} to {high:.0f}"
            lines.append(
                f"By the labels, the distances of spots from the beam are off by {scale:+.1%} (ellipticity "
                f"{ellipticity:.1%}); radius of the disks {disk}, electrons beside the direct beam {dose}"
            )
        return lines

    def scale_factor(self, settings: SimulationSettings) -> float:
        """Factor of the scale with which a model that was trained with `settings` sees spots where it learnt them."""
        return round((1 + sum(settings.scale_error) / 2) / (1 + float(self.scale.mean())), 4)

    def simulation(self, settings: SimulationSettings, reciprocal_radius: float) -> SimulationSettings:
        """Change how patterns are simulated to what is measured; with backgrounds and faults at least as by default.

        Parameters
        ----------
        settings : SimulationSettings
            Of the model's own training; what could not be measured stays as it is there.
        reciprocal_radius : float
            To which patterns are simulated, in 1/Angstrom.
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
        if not np.isnan(self.disk_radius).any():
            low, high = float(self.disk_radius.min()), float(self.disk_radius.max())
            spot = _SPOT * float((2 * self.radius / self.pixels).max())
            low = low / _DISK_MARGIN if low else settings.disk_radius[0]
            changes["disk_radius"] = low, max(_DISK_MARGIN * high if high else spot, low)
        if not np.isnan(self.electrons).any():
            changes["electrons"] = _IN_SPOTS * float(self.electrons.min()), float(self.electrons.max())
        return replace(settings, **changes)


def _best(scan: LabelledScan) -> np.ndarray:
    """Positions of the most reliable labels of crystals, rising."""
    crystals = scan.train[scan.phase_id[scan.train] >= 0]
    order = np.lexsort((-scan.labels.scores[crystals], -scan.labels.reliability[crystals]))
    return np.sort(crystals[order[:_N_LABELS]])


def _stretches(scan: LabelledScan, phases: list, reciprocal_radius: float) -> np.ndarray:
    """By how much (2,) a scan is stretched along its two main directions."""
    from orix.crystal_map import CrystalMap, PhaseList
    from orix.quaternion import Rotation

    best = _best(scan)
    patterns, rotations, phase_id = scan.patterns(best)
    xmap = CrystalMap(
        Rotation(rotations.numpy()), phase_id=phase_id.numpy(), x=np.arange(len(best)),
        phase_list=PhaseList(ids=list(range(len(phases))), phases=phases),
    )  # fmt: skip
    radius = min(reciprocal_radius, scan.calibration.reciprocal_radius)
    distortion = fit_distortion(xmap, patterns, [reflections(phase, radius) for phase in phases], scan.calibration)
    return np.linalg.eigvalsh(distortion)


def _disk_radius(scan: LabelledScan) -> float:
    """Radius of the direct beam in 1/Angstrom, 0 for a spot without an edge; NaN where there is none to measure."""
    patterns, _, _ = scan.patterns(_best(scan))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whatever is wrong with the probe, a wide range is simulated around it
        try:
            probe = Probe.from_patterns(patterns, scan.calibration.center)
        except ValueError:
            return np.nan
    return probe.radius * float(np.mean(scan.calibration.scale)) if probe.radius >= _SPOT else 0.0


def _electrons(scan: LabelledScan, disk_radius: float) -> tuple[float, float]:
    """How many electrons there are beside the direct beam: exceeded by 95 %, and by 5 % of the patterns.

    The counts of one electron are found by the noise: of two neighbours the expected patterns are nearly the same, and
    the squared difference of two counts of electrons is expected to be their sum.
    """
    first = _best(scan)
    columns = scan.scan.data.shape[-3]
    first = first[(first + 1) % columns > 0]
    both = np.union1d(first, first + 1)
    if not len(both):
        return np.nan, np.nan
    patterns, _, _ = scan.patterns(both)
    calibration = scan.calibration
    kx, ky = pixel_to_k(*(np.arange(n, dtype=float) for n in calibration.shape), calibration)
    far = np.hypot(kx[None], ky[:, None]) > 1.5 * max(np.nan_to_num(disk_radius), 2 * max(calibration.scale))
    counts = np.nan_to_num(patterns.astype(np.float64), posinf=0.0)[:, far].clip(0)
    a, b = counts[np.searchsorted(both, first)], counts[np.searchsorted(both, first + 1)]
    total = a + b
    # spots differ between neighbours: the background tells
    dim = total <= np.maximum(np.quantile(total, 0.9, axis=1, keepdims=True), total[total > 0].min(initial=np.inf))
    with np.errstate(invalid="ignore"):
        noise = (np.square(a - b) * dim).sum(1) / (total * dim).sum(1)
    if not (noise > 0).any():
        return np.nan, np.nan
    low, high = np.quantile(counts.sum(1), (0.05, 0.95)) / np.nanquantile(noise[noise > 0], 0.25)
    return (float(low), float(high)) if low >= 1 else (np.nan, np.nan)


def _union(own, default):
    """Take the wider range, or the larger share."""
    if isinstance(default, tuple):
        return min(own[0], default[0]), max(own[1], default[1])
    return max(own, default)
