"""What labelled scans tell of their microscope, so that patterns like theirs can be simulated."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from pyxem_dl.crystals import reflections
from pyxem_dl.metrics import fit_distortion
from pyxem_dl.simulation import SimulationSettings
from pyxem_dl.training.scans import LabelledScan

# The scale is measured on so many labels, the most reliable ones of those that are trained on
_N_LABELS = 300
# Beside what was measured the simulation still draws scale and ellipse from ranges as wide as this, relative
_MARGIN = 0.01
# Patterns are simulated with no less of these than by default
_NO_LESS = ("background", "overlap_share", "ghost_share", "fault_share")


class Microscope(NamedTuple):
    """What the labels of scans show of their microscopes.

    ``scale (n,)``: by how much the spots of each scan are further from the beam than they should be by its calibration,
    relative; ``ellipticity (n,)``: of the ellipse that a circle becomes, relative.
    """

    scale: np.ndarray
    ellipticity: np.ndarray

    @classmethod
    def of(cls, scans: list[LabelledScan], phases: list, reciprocal_radius: float) -> Microscope | None:
        """Measure: labels say where spots should be, patterns where they are.

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
            print(f"The scale is taken as it is. {error}")
            return None
        found = cls(stretches.mean(1) - 1, stretches.max(1) / stretches.mean(1) - 1)
        text = ", ".join(f"{s:+.1%} (ellipticity {e:.1%})" for s, e in zip(*found, strict=True))
        print(f"By the labels, the distances of spots from the beam are off by {text}")
        return found

    def scale_factor(self, settings: SimulationSettings) -> float:
        """Factor of the scale with which a model that was trained with `settings` sees spots where it learnt them."""
        return round((1 + sum(settings.scale_error) / 2) / (1 + float(self.scale.mean())), 4)

    def simulation(self, settings: SimulationSettings) -> SimulationSettings:
        """Change how patterns are simulated to what is measured; with backgrounds and faults at least as by default."""
        default = SimulationSettings()
        at_least = {name: _union(getattr(settings, name), getattr(default, name)) for name in _NO_LESS}
        return replace(
            settings, **at_least,
            scale_error=(float(self.scale.min()) - _MARGIN, float(self.scale.max()) + _MARGIN),
            ellipticity=(max(0.0, float(self.ellipticity.min()) - _MARGIN), float(self.ellipticity.max()) + _MARGIN),
        )  # fmt: skip


def _stretches(scan: LabelledScan, phases: list, reciprocal_radius: float) -> np.ndarray:
    """By how much (2,) a scan is stretched along its two main directions."""
    from orix.crystal_map import CrystalMap, PhaseList
    from orix.quaternion import Rotation

    crystals = scan.train[scan.phase_id[scan.train] >= 0]
    order = np.lexsort((-scan.labels.scores[crystals], -scan.labels.reliability[crystals]))
    best = np.sort(crystals[order[:_N_LABELS]])
    patterns, rotations, phase_id = scan.patterns(best)
    xmap = CrystalMap(
        Rotation(rotations.numpy()), phase_id=phase_id.numpy(), x=np.arange(len(best)),
        phase_list=PhaseList(ids=list(range(len(phases))), phases=phases),
    )  # fmt: skip
    radius = min(reciprocal_radius, scan.calibration.reciprocal_radius)
    distortion = fit_distortion(xmap, patterns, [reflections(phase, radius) for phase in phases], scan.calibration)
    return np.linalg.eigvalsh(distortion)


def _union(own, default):
    """Take the wider range, or the larger share."""
    if isinstance(default, tuple):
        return min(own[0], default[0]), max(own[1], default[1])
    return max(own, default)
