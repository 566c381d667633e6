"""Orientations from Bragg vectors: peaks in, orientations out, for any crystal without training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pyxem_dl.electrons import beam_energy_of, read_beam_energy
from pyxem_dl.frames import Calibration, vector_to_k
from pyxem_dl.scans import Reading, Scan

# Nearer to the beam than this (Å⁻¹) a vector is the direct beam's.
_DIRECT_BEAM = 0.05


def is_vectors(signal) -> bool:
    """Tell whether a signal holds diffraction vectors."""
    return hasattr(signal, "column_names") and hasattr(signal, "detector_shape")


def _check_arguments(engine: str, reading: Reading) -> None:
    given = {
        "engine='pyxem'": engine == "pyxem", "signal_mask": reading.signal_mask is not None,
        "center": reading.center is not None,
    }  # fmt: skip
    wrong = [name for name, is_given in given.items() if is_given]
    if wrong:
        raise ValueError(
            f"Vectors are matched by the torch engine and have no detector: {' and '.join(wrong)} "
            "cannot be used with them."
        )


@dataclass(frozen=True)
class SpotReader:
    """Reads tables of vectors.

    Parameters
    ----------
    units : list of str
        Of the first two columns, row axis first.
    beam_energy : float, optional
        In kV.
    intensity : int, optional
        The column with the intensities; without one all are 1.
    """

    units: list
    beam_energy: float | None
    intensity: int | None

    def __call__(self, tables) -> tuple[torch.Tensor, ...]:
        """Owner (index into `tables`), k (Å⁻¹), phi (radians) and intensity of all spots but the direct beam's."""
        rows = [np.asarray(table, dtype=float) for table in tables]
        owner = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        table = np.concatenate(rows) if rows else np.zeros((0, 2))
        kx, ky = vector_to_k(table[:, 0], table[:, 1], self.units, self.beam_energy)
        intensity = table[:, self.intensity] if self.intensity is not None else np.ones(len(table))
        k = np.hypot(kx, ky)
        keep = (k > _DIRECT_BEAM) & np.isfinite(k) & np.isfinite(intensity)
        phi = np.arctan2(ky, kx)
        return (
            torch.as_tensor(owner[keep]),
            *(torch.as_tensor(column[keep], dtype=torch.float32) for column in (k, phi, intensity)),
        )


class VectorScan:
    """Diffraction vectors of a scan as the matching needs them.

    Parameters
    ----------
    vectors : pyxem.signals.DiffractionVectors
        Measured from the direct beam; a lazy one is computed, for its vectors are small.
    reading : Reading
        Navigation mask and beam energy; by default that of the metadata.
    engine : str
        Only "torch" can match vectors.

    Attributes
    ----------
    scan : Scan
        Positions, mask and beam energy.
    tables : array of object
        The vectors of each position, of the navigation's shape.
    spots : SpotReader
        Reads them.

    Raises
    ------
    ValueError
        For vectors without a beam energy or a unit, or measured from the first pixel; and for arguments that only
        patterns have.
    """

    def __init__(self, vectors, reading: Reading, engine: str = "torch") -> None:
        _check_arguments(engine, reading)
        given = reading.beam_energy
        beam_energy = beam_energy_of(vectors) if given is None else read_beam_energy(given)
        self.tables = vectors.data.compute() if hasattr(vectors.data, "dask") else vectors.data
        self.scan = Scan.of_positions(
            vectors.axes_manager.navigation_axes, self.tables.shape, reading.navigation_mask,
            Calibration((1.0, 1.0), (0.0, 0.0), (1, 1), beam_energy),
        )  # fmt: skip
        units, names = [str(unit) for unit in vectors.units[:2]], list(vectors.column_names)
        self.spots = SpotReader(units, beam_energy, names.index("intensity") if "intensity" in names else None)
        self._check_origin(vectors)
        self._detector_radius = _detector_radius(vectors, units, beam_energy)

    def _check_origin(self, vectors) -> None:
        offsets = np.asarray(vectors.offsets if vectors.offsets is not None else 0, dtype=float)
        filled = [row[:, :2] for row in self.tables.reshape(-1) if len(row)]
        if filled and not offsets.any() and np.concatenate(filled).min() >= 0:
            raise ValueError(
                "The vectors seem to be measured from the first pixel, not from the direct beam. Find them with "
                "`subtract_center=True`, or subtract the position of the direct beam."
            )

    def describe(self) -> str:
        """Return in a line what there is to match."""
        return f"Bragg vectors at {self.scan.n_patterns} positions"

    @property
    def reciprocal_radius(self) -> float:
        """How far out the detector reaches all around, as for patterns, or else there are vectors, in Å⁻¹."""
        k = self.spots(self.tables.reshape(-1))[1]
        if not len(k):
            raise ValueError("No position has vectors other than the direct beam: there is nothing to match.")
        return self._detector_radius or float(k.max()) * 1.02


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
