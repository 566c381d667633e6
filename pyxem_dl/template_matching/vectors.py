"""Orientations from Bragg vectors: peaks in, orientations out, for any crystal without training."""

from __future__ import annotations

import numpy as np
import torch

from pyxem_dl.frames import Calibration, beam_energy_of, read_beam_energy, vector_to_k
from pyxem_dl.results.modes import Match
from pyxem_dl.scans import Scan
from pyxem_dl.template_matching.bank import TemplateBank

# Nearer to the beam than this (Å⁻¹) a vector is the direct beam's.
_DIRECT_BEAM = 0.05


def is_vectors(signal) -> bool:
    """Tell whether a signal holds diffraction vectors."""
    return hasattr(signal, "column_names") and hasattr(signal, "detector_shape")


class VectorScan:
    """Diffraction vectors of a scan as the matching needs them.

    Parameters
    ----------
    vectors : pyxem.signals.DiffractionVectors
        Measured from the direct beam; a lazy one is computed, for its vectors are small.
    navigation_mask : array of bool, optional
        True where a position is excluded.
    beam_energy : float, optional
        In kV; by default that of the metadata.

    Raises
    ------
    ValueError
        For vectors without a beam energy or a unit, or measured from the first pixel.
    """

    def __init__(self, vectors, navigation_mask=None, beam_energy: float | None = None) -> None:
        beam_energy = beam_energy_of(vectors) if beam_energy is None else read_beam_energy(beam_energy)
        rows = vectors.data.compute() if hasattr(vectors.data, "dask") else vectors.data
        self.scan = Scan.of_positions(
            vectors.axes_manager.navigation_axes, rows.shape, navigation_mask,
            Calibration((1.0, 1.0), (0.0, 0.0), (1, 1), beam_energy),
        )  # fmt: skip
        self._rows = rows.reshape(-1)
        self._units = [str(unit) for unit in vectors.units[:2]]
        names = list(vectors.column_names)
        self._intensity = names.index("intensity") if "intensity" in names else None
        self._check_origin(vectors)
        self._detector_radius = _detector_radius(vectors, self._units, beam_energy)

    def _check_origin(self, vectors) -> None:
        offsets = np.asarray(vectors.offsets if vectors.offsets is not None else 0, dtype=float)
        filled = [row[:, :2] for row in self._rows if len(row)]
        if filled and not offsets.any() and np.concatenate(filled).min() >= 0:
            raise ValueError(
                "The vectors seem to be measured from the first pixel, not from the direct beam. Find them with "
                "`subtract_center=True`, or subtract the position of the direct beam."
            )

    def spots(self, positions) -> tuple[torch.Tensor, ...]:
        """Owner (index into `positions`), k (Å⁻¹), phi (radians) and intensity of the spots at positions."""
        rows = [np.asarray(self._rows[i], dtype=float) for i in positions]
        owner = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        table = np.concatenate(rows) if rows else np.zeros((0, 2))
        kx, ky = vector_to_k(table[:, 0], table[:, 1], self._units, self.scan.calibration.beam_energy)
        intensity = table[:, self._intensity] if self._intensity is not None else np.ones(len(table))
        k = np.hypot(kx, ky)
        keep = (k > _DIRECT_BEAM) & np.isfinite(k) & np.isfinite(intensity)
        phi = np.arctan2(ky, kx)
        return (
            torch.as_tensor(owner[keep]),
            *(torch.as_tensor(column[keep], dtype=torch.float32) for column in (k, phi, intensity)),
        )

    def describe(self) -> str:
        """Return in a line what there is to match."""
        return f"Bragg vectors at {self.scan.n_patterns} positions"

    @property
    def reciprocal_radius(self) -> float:
        """How far out the detector reaches all around, as for patterns, or else there are vectors, in Å⁻¹."""
        k = self.spots(np.arange(len(self._rows)))[1]
        if not len(k):
            raise ValueError("No position has vectors other than the direct beam: there is nothing to match.")
        return self._detector_radius or float(k.max()) * 1.02

    def match(self, bank: TemplateBank, positions, n_best: int, device) -> Match:
        """Match the spots at some positions."""
        owner, k, phi, intensity = (column.to(device) for column in self.spots(positions))
        return bank.match_spots(len(positions), owner, k, phi, intensity, n_best=n_best)


def _detector_radius(vectors, units, beam_energy: float | None) -> float | None:
    """Distance in Å⁻¹ from the direct beam to the nearest edge of the vectors' detector; None if not known."""
    known = [vectors.detector_shape, vectors.scales, vectors.offsets]
    if any(value is None or np.size(value) < 2 for value in known):
        return None
    shape, scales, offsets = (np.asarray(value, dtype=float)[:2] for value in known)
    if not (np.isfinite([*scales, *offsets]).all() and (scales > 0).all()):
        return None
    center = -offsets / scales
    if not ((center > 0) & (center < shape - 1)).all():
        return None  # never centred, or not on the detector
    unit = np.abs(vector_to_k(1.0, 1.0, units, beam_energy))[::-1]
    calibration = Calibration(tuple(scales * unit), tuple(center), tuple(int(n) for n in shape), beam_energy)
    return float(calibration.reciprocal_radius)
