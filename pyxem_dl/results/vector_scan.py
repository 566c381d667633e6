"""Bragg vectors of a scan, read: in Å⁻¹, with their errors, whatever the columns and units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pyxem_dl.electrons import beam_energy_of, electron_wavelength, read_beam_energy
from pyxem_dl.frames import UNDONE_DISTORTION, Calibration, excitation_error, vector_to_k
from pyxem_dl.patterns.likelihood import VectorBatch
from pyxem_dl.results.vectors import without_distortion
from pyxem_dl.scans import Reading, Scan

#: Vectors of a pattern that are looked at: the most confident ones
MOST_VECTORS = 48
# Nearer to the beam than this (Å⁻¹) a vector is the direct beam's.
_DIRECT_BEAM = 0.05
# Of vectors that say nothing, and at most: any detector is wrong now and then
_CONFIDENCE, _MOST_CONFIDENT = 0.9, 0.98
# No q_z is known better (Å⁻¹)
_LEAST_Q_Z_ERROR = 5e-4


def is_vectors(signal) -> bool:
    """Tell whether a signal holds diffraction vectors."""
    return hasattr(signal, "column_names") and hasattr(signal, "detector_shape")


@dataclass(frozen=True)
class VectorReader:
    """Reads tables of vectors.

    Parameters
    ----------
    units : list of str
        Of the first two columns, row axis first.
    beam_energy : float, optional
        In kV.
    columns : list of str
        Names of all.
    """

    units: list
    beam_energy: float | None
    columns: list

    @property
    def has_intensities(self) -> bool:
        """Whether the vectors say how strong they are."""
        return "intensity" in self.columns

    def __call__(self, tables, most: int = MOST_VECTORS) -> VectorBatch:
        """Read all vectors but the direct beam's, the most confident first, or else the strongest.

        Parameters
        ----------
        tables : sequence of array, shape (m, columns)
            Of n patterns.
        most : int
            Of a pattern; the others are left out.
        """
        batch = np.zeros((len(VectorBatch._fields), len(tables), most), dtype=np.float32)
        batch[-1] = np.inf
        for i, table in enumerate(tables):
            rows = self._rows(np.asarray(table, dtype=float).reshape(len(table), len(self.columns)))
            rows = rows[:, np.lexsort((-rows[2], -rows[3]))[:most]]
            batch[:, i, : rows.shape[1]] = rows
        return VectorBatch(*torch.as_tensor(batch))

    def _rows(self, table: np.ndarray) -> np.ndarray:
        """Read what a batch has (7, m) of those vectors of one pattern that can be used."""

        def column(name, otherwise):
            there = name in self.columns
            return table[:, self.columns.index(name)] if there else np.full(len(table), otherwise)

        kx, ky = vector_to_k(table[:, 0], table[:, 1], self.units, self.beam_energy)
        # errors are told in the units of the axes
        unit = np.sqrt(np.abs(np.prod(vector_to_k(1.0, 1.0, self.units, self.beam_energy))))
        position_error, q_z_error = column("position_error", 0.0) * unit, column("q_z_error", np.inf)
        with np.errstate(divide="ignore", invalid="ignore"):
            log_intensity = np.log(column("intensity", 1.0))
        q_z = column("q_z", np.nan)
        known = np.isfinite(q_z) & np.isfinite(q_z_error)
        error = np.zeros(len(table))
        if known.any():
            error[known] = excitation_error(kx[known], ky[known], q_z[known], electron_wavelength(self.beam_energy))
        # the least that is believed: nobody places a disk, or tells its q_z, better
        variance = np.where(np.isfinite(position_error), position_error, 0.0) ** 2 / 2
        rows = np.stack([
            kx, ky, log_intensity, np.clip(column("confidence", _CONFIDENCE), 0, _MOST_CONFIDENT), variance, error,
            np.maximum(np.where(known, q_z_error, np.inf), _LEAST_Q_Z_ERROR) ** 2,
        ])  # fmt: skip
        return rows[:, (np.hypot(kx, ky) > _DIRECT_BEAM) & np.isfinite(rows[:4]).all(0) & (rows[3] > 0)]


def check_origin(vectors, tables) -> None:
    """Make sure that vectors are measured from the direct beam.

    Parameters
    ----------
    vectors : pyxem.signals.DiffractionVectors
        Whose offsets say so where they are not 0.
    tables : sequence of array, shape (m, columns)
        Of all positions.

    Raises
    ------
    ValueError
        If no vector points up or to the left, and there are no offsets.
    """
    offsets = np.asarray(vectors.offsets if vectors.offsets is not None else 0, dtype=float)
    filled = [np.asarray(row[:, :2], dtype=float) for row in tables if len(row)]
    if offsets.any() or not filled:
        return
    places = np.concatenate(filled)
    if np.isfinite(places).any() and np.nanmin(places) >= 0:
        raise ValueError(
            "The vectors seem to be measured from the first pixel, not from the direct beam. Find them with "
            "`subtract_center=True`, or subtract the position of the direct beam."
        )


class VectorScan:
    """Diffraction vectors of a scan as what computes with them needs them.

    Parameters
    ----------
    vectors : pyxem.signals.DiffractionVectors
        Measured from the direct beam; a lazy one is computed, for its vectors are small.
    reading : Reading
        Navigation mask and beam energy; by default that of the metadata.

    Attributes
    ----------
    scan : Scan
        Positions, mask and beam energy.
    tables : array of object
        The vectors of each position, of the navigation's shape.
    reader : VectorReader
        Reads them.

    Raises
    ------
    ValueError
        For vectors without a unit, or in angles and without a beam energy, or measured from the first pixel.
    """

    def __init__(self, vectors, reading: Reading) -> None:
        vectors, given = without_distortion(vectors), reading.beam_energy
        beam_energy = beam_energy_of(vectors) if given is None else read_beam_energy(given)
        self.tables = vectors.data.compute() if hasattr(vectors.data, "dask") else vectors.data
        self.scan = Scan.of_positions(
            vectors.axes_manager.navigation_axes, self.tables.shape, reading.navigation_mask,
            Calibration((1.0, 1.0), (0.0, 0.0), (1, 1), beam_energy),
        )  # fmt: skip
        units = [str(unit) for unit in vectors.units[:2]]
        self.reader = VectorReader(units, beam_energy, [str(name) for name in vectors.column_names])
        check_origin(vectors, self.tables.reshape(-1))
        self._detector_radius = _detector_radius(vectors, units, beam_energy)

    def describe(self) -> str:
        """Return in a line what there is."""
        return f"Bragg vectors at {self.scan.n_patterns} positions"

    @property
    def reciprocal_radius(self) -> float:
        """How far out the detector reaches all around, as for patterns, or else there are vectors, in Å⁻¹."""
        longest = 0.0
        for table in self.tables.reshape(-1):
            vectors = self.reader([table])
            k = torch.hypot(vectors.kx, vectors.ky)[vectors.confidence > 0]
            longest = max(longest, float(k.max()) if len(k) else 0.0)
        if not longest:
            raise ValueError("No position has vectors other than the direct beam: there is nothing to match.")
        return self._detector_radius or longest * 1.02


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
    distortion = vectors.metadata.get_item(UNDONE_DISTORTION, None)
    if distortion is not None:
        xx, xy, yy = (float(x) for x in distortion)
        distortion = ((xx, xy), (xy, yy))
    calibration = Calibration(
        tuple(scales * unit), tuple(center), tuple(int(n) for n in shape), beam_energy, distortion
    )  # fmt: skip
    return float(calibration.reciprocal_radius)
