"""What a scan's calibration was found to be: numbers with their errors, and how they get into a signal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyxem_dl.calibration.fitting import Bend
from pyxem_dl.frames import STORED_DISTORTION, Calibration, beam_drift_to_axes, drift_over_scan, k_to_pixel
from pyxem_dl.scans import STORED_DRIFT

if TYPE_CHECKING:
    from pyxem_dl.annotations import Patterns

# Decimals that are kept of scale and ellipse (relative) and of the centre (px): the same patterns give the same numbers
_DECIMALS, _PIXEL_DECIMALS = 5, 3
# Spots are brighter on one side, where they are nearer to the Ewald sphere: simulated scans of Al and LiNiO2 had errors
# of the scale up to 0.4 % by it, where resampling said 0.05 %
_UNEVEN = 0.002


@dataclass(frozen=True, eq=False)
class FoundCalibration:
    """Scale, ellipse and centre of a scan, as its patterns show them.

    Parameters
    ----------
    nominal, calibration : Calibration
        What the signal said, and what was found; :attr:`calibration` has the distortion without the scale's part in it,
        and the centre in the middle of the scan.
    shape : tuple of int
        Of the navigation, in data order.
    drift : array, shape (2, 2)
        Of the centre: (row, column) in px from the first to the last position along y, and along x, of the scan.
    scale_error : float
        Of the scale, relative (one standard deviation, like all errors here).
    ellipticity, ellipticity_error : float
        Long axis over short axis of what should be a circle, less 1.
    direction, direction_error : float
        Of the long axis in degrees, counter-clockwise from +kx, from 0 to 180.
    center_error : tuple of float
        (row, column) in px.
    drift_error : array, shape (2, 2)
        As `drift`.
    undetermined : tuple of str
        Of "ellipse", "centre" and "drift" what the patterns do not tell: it stayed as it was.
    n_patterns, n_used, n_grains, n_spots : int
        Patterns that were looked at, those with a confident orientation, how many orientations these are, and the spots
        that were compared with peaks.
    explained : tuple of float
        Share of the peaks that the orientations explain, before and after; None where no peaks were looked for.
    by_chance : tuple of float
        The same with the peaks turned about the beam.
    offsets : array, shape (n, 2), or None
        Centers of all positions that were given, to which centre and drift come on top.
    misfit : tuple of float, optional
        Of refined patterns in the median, before and after, where it was found by :func:`pyxem_dl.refine_orientation`.
    """

    nominal: Calibration
    calibration: Calibration
    shape: tuple[int, ...]
    drift: np.ndarray
    scale_error: float
    ellipticity: float
    ellipticity_error: float
    direction: float
    direction_error: float
    center_error: tuple[float, float]
    drift_error: np.ndarray
    undetermined: tuple[str, ...]
    n_patterns: int
    n_used: int
    n_grains: int
    n_spots: int
    explained: tuple[float, float] | None
    by_chance: tuple[float, float] | None
    offsets: np.ndarray | None = None
    misfit: tuple[float, float] | None = None

    @property
    def scale(self) -> tuple[float, float]:
        """Size of a pixel in Å⁻¹ along rows and columns; equal areas of a circle and of what is seen of it."""
        return self.calibration.scale

    @property
    def scale_change(self) -> float:
        """New scale over old scale, less 1."""
        return self.calibration.scale[0] / self.nominal.scale[0] - 1

    @property
    def distortion(self) -> np.ndarray:
        """Symmetric matrix (2, 2) of determinant 1: a spot at k is seen at ``k @ distortion``."""
        matrix = self.calibration.distortion
        return np.eye(2) if matrix is None else np.array(matrix)

    @property
    def center(self) -> tuple[float, float]:
        """Direct beam (row, column) in px, in the middle of the scan."""
        return self.calibration.center

    @property
    def centers(self) -> np.ndarray | None:
        """Direct beam (n, 2) in px at all positions of the scan; None where it is the same at all."""
        if self.offsets is None and not self.drift.any():
            return None
        moved = drift_over_scan(self.drift, self.shape)
        middle = np.array(self.calibration.center)
        return middle + moved if self.offsets is None else self.offsets + moved + (middle - self.nominal.center)

    def apply(self, signal: Patterns) -> None:
        """Write it into a signal.

        Scale, unit and centre go into the signal axes.  These cannot hold an ellipse, nor a centre that drifts: they go
        into the metadata under ``Pyxem_dl.Calibration``, where all methods of pyxem_dl read them (others do not).

        Parameters
        ----------
        signal : pyxem.signals.Diffraction2D
            The scan, or another one with the same detector; a drift goes only into a scan of the same shape.

        Raises
        ------
        ValueError
            If the patterns have another shape.
        """
        manager = signal.axes_manager
        x, y = manager.signal_axes
        if (y.size, x.size) != self.calibration.shape:
            raise ValueError(
                f"This calibration is of patterns of {self.calibration.shape} px, the signal has {(y.size, x.size)}."
            )
        for axis, scale, center in ((y, self.scale[0], self.center[0]), (x, self.scale[1], self.center[1])):
            axis.units, axis.scale, axis.offset = "$A^{-1}$", float(scale), float(-center * scale)
        (xx, xy), (_, yy) = self.distortion.tolist()
        signal.metadata.set_item(STORED_DISTORTION, [xx, xy, yy])
        navigation = manager.navigation_axes
        if tuple(manager._navigation_shape_in_array) == self.shape and self.drift.any():
            steps = [(axis.size - 1) * axis.scale for axis in navigation[::-1]]
            middle = [axis.offset + axis.scale * (axis.size - 1) / 2 for axis in navigation[::-1]]
            signal.metadata.set_item(STORED_DRIFT, beam_drift_to_axes(self.drift, self.scale, steps, middle))
        elif signal.metadata.has_item(STORED_DRIFT):
            signal.metadata.Pyxem_dl.Calibration.__delattr__("drift")

    def to_dict(self) -> dict:
        """Plain numbers, for a file."""
        return {
            "scale": list(self.scale), "scale_before": list(self.nominal.scale), "scale_error": self.scale_error,
            "distortion": self.distortion.tolist(), "ellipticity": self.ellipticity,
            "ellipticity_error": self.ellipticity_error, "direction": self.direction,
            "center": list(self.center), "center_before": list(self.nominal.center),
            "center_error": list(self.center_error), "drift": self.drift.tolist(),
            "drift_error": self.drift_error.tolist(), "undetermined": list(self.undetermined),
            "patterns": self.n_patterns, "used": self.n_used, "orientations": self.n_grains, "spots": self.n_spots,
            "explained": self.explained and list(self.explained),
            "by_chance": self.by_chance and list(self.by_chance), "misfit": self.misfit and list(self.misfit),
            "detector_shape": list(self.calibration.shape), "beam_energy": self.calibration.beam_energy,
            "centers_given": self.offsets is not None,
        }  # fmt: skip

    def __str__(self) -> str:
        def two(values, errors):
            return "(" + ", ".join(f"{v:.2f} ± {e:.2f}" for v, e in zip(values, errors, strict=True)) + ")"

        kept = "not determined by these patterns, stays as it was"
        scale = self.scale[0] if self.scale[0] == self.scale[1] else self.scale
        numbers = f"{scale:.5g}" if isinstance(scale, float) else f"{scale[0]:.5g} × {scale[1]:.5g}"
        ellipse = f"{100 * self.ellipticity:.2f} ± {100 * self.ellipticity_error:.2f} %"
        if self.direction_error < 45:
            ellipse += f", long axis at {self.direction:.0f} ± {self.direction_error:.0f}° from +kx"
        lines = [
            f"  Scale: {numbers} Å⁻¹ per px ({100 * self.scale_change:+.2f} ± {100 * self.scale_error:.2f} %)",
            f"  Ellipse: {kept if 'ellipse' in self.undetermined else ellipse}",
            "  Centre (row, column): " + (kept if "centre" in self.undetermined
                                          else f"{two(self.center, self.center_error)} px"),
        ]  # fmt: skip
        if len(self.shape):
            along = zip(("y", "x")[2 - len(self.shape):], self.drift, self.drift_error, strict=False)
            if len(self.shape) == 1:
                along = [("x", self.drift[1], self.drift_error[1])]
            text = "; ".join(f"{two(d, e)} px along {name}" for name, d, e in along)
            lines.append(f"  Its drift over the scan: {kept if 'drift' in self.undetermined else text}")
        if self.misfit is not None:
            lines.append(
                f"  From {self.n_used} of {self.n_patterns} refined patterns, {self.n_grains} orientations; misfit "
                f"{self.misfit[0]:.3g} → {self.misfit[1]:.3g}"
            )
            return "\n".join(["Calibration of the scan, by refined patterns:", *lines])
        lines.append(
            f"  From {self.n_used} of {self.n_patterns} patterns, {self.n_grains} orientations, {self.n_spots} spots; "
            f"peaks explained {100 * self.explained[0]:.1f} → {100 * self.explained[1]:.1f} % "
            f"(by chance {100 * self.by_chance[0]:.1f} → {100 * self.by_chance[1]:.1f} %)"
        )
        return "\n".join(["Calibration of the scan:", *lines])


def applied(nominal: Calibration, bend: Bend) -> tuple[Calibration, np.ndarray]:
    """Calibration of a bend, rounded, and the drift of its centre as :class:`FoundCalibration` has it.

    Parameters
    ----------
    nominal : Calibration
        By which the bend was measured.
    bend : Bend
        From the nominal calibration without its distortion.
    """
    plain = nominal.replace(distortion=None)
    mean = round(math.sqrt(np.linalg.det(bend.matrix)), _DECIMALS)
    matrix = bend.matrix / math.sqrt(np.linalg.det(bend.matrix))
    calibration = nominal.replace(
        scale=tuple(s / mean for s in nominal.scale),
        center=tuple(round(float(c), _PIXEL_DECIMALS) for c in k_to_pixel(*bend.shift, plain)),
        distortion=tuple(tuple(round(float(x), _DECIMALS) for x in line) for line in matrix),
    )
    drift = np.stack([k_to_pixel(*along, plain, (0.0, 0.0)) for along in bend.drift[::-1]])
    return calibration, np.round(2 * drift, _PIXEL_DECIMALS)


def numbers_of(bend: Bend, covariance, nominal: Calibration) -> dict:
    """Ellipse and errors of a bend, by the names of :class:`FoundCalibration`."""
    matrix, mean = bend.matrix, np.trace(bend.matrix) / 2
    half, across = (matrix[0, 0] - matrix[1, 1]) / 2, matrix[0, 1]
    # of the mean, the half difference and the part across
    to = np.array([[0.5, 0, 0.5], [0.5, 0, -0.5], [0, 1, 0]])
    of = to @ covariance[:3, :3] @ to.T
    size = math.hypot(half, across)
    along = np.array([half, across]) / size if size else np.array([1.0, 0.0])
    error, turned = (math.sqrt(max(v @ of[1:, 1:] @ v, 0)) for v in (along, along[::-1] * (-1, 1)))
    deviation = np.sqrt(np.diag(covariance).clip(0))
    per_px = np.array(nominal.scale[::-1])
    drift = 2 * deviation[5:].reshape(2, 2)[::-1] / per_px
    return {
        "scale_error": math.hypot(math.sqrt(max(of[0, 0], 0)) / mean, _UNEVEN),
        "ellipticity": (mean + size) / (mean - size) - 1,
        "ellipticity_error": 2 * error / mean,
        "direction": math.degrees(0.5 * math.atan2(across, half)) % 180,
        "direction_error": min(90.0, math.degrees(0.5 * turned / size)) if size else 90.0,
        "center_error": tuple(float(x) for x in (deviation[3:5] / per_px)[::-1]), "drift_error": drift[:, ::-1],
    }  # fmt: skip
