"""Diffraction vectors as disks in Å⁻¹, whoever found them."""

from __future__ import annotations

import numpy as np

from pyxem_dl.electrons import beam_energy_of, read_beam_energy
from pyxem_dl.frames import k_to_vector, vector_to_k
from pyxem_dl.patterns.lattice import Disks
from pyxem_dl.results.vector_scan import check_origin

# Squared correlations are taken to be smaller than this: no disk is like the probe in every pixel
_PERFECT = 0.98


class VectorTables:
    """Tables of diffraction vectors, and what their columns mean.

    Parameters
    ----------
    vectors : pyxem.signals.DiffractionVectors
        Ragged, in memory or lazy: a lazy one is computed, for its vectors are small.
    beam_energy : float, optional
        In kV, where units are angles; by default that of the metadata.

    Attributes
    ----------
    tables : array of object, shape (n,)
        Of all positions, in data order.
    shape : tuple of int
        Of the navigation, in data order; () for a single pattern.

    Raises
    ------
    TypeError, ValueError
        For what are no vectors, have more than two navigation dimensions or no unit, or are measured from the first
        pixel.
    """

    def __init__(self, vectors, beam_energy: float | None = None) -> None:
        _check_kind(vectors)
        self.shape = tuple(vectors.axes_manager._navigation_shape_in_array)
        data = vectors.data.compute() if hasattr(vectors.data, "dask") else vectors.data
        self.tables = data.reshape(-1)
        self.units = [str(unit) for unit in vectors.units]
        self.beam_energy = beam_energy_of(vectors) if beam_energy is None else read_beam_energy(beam_energy)
        self._columns = [str(name) for name in vectors.column_names]
        self._check_tables()
        self.to_k(np.zeros((1, 2)))  # its error for units, before anything is computed
        check_origin(vectors, self.tables)

    def to_k(self, places: np.ndarray) -> np.ndarray:
        """(kx, ky) in Å⁻¹ of vectors (..., 2) as pyxem has them, row axis first."""
        return np.stack(vector_to_k(places[..., 0], places[..., 1], self.units[:2], self.beam_energy), axis=-1)

    def from_k(self, k: np.ndarray) -> np.ndarray:
        """Vectors (..., 2) as pyxem has them, in their units, of (kx, ky) in Å⁻¹."""
        return np.stack(k_to_vector(k[..., 0], k[..., 1], self.units[:2], self.beam_energy), axis=-1)

    def read(self, positions: np.ndarray) -> tuple[Disks, np.ndarray]:
        """Disks of some positions, and of each its row in the joined tables of these positions.

        Disks without a finite place are left out.
        """
        table = self.joined(positions)
        owner = np.repeat(np.arange(len(positions)), [len(self.tables[i]) for i in positions])
        k = self.to_k(table[:, :2])
        there = np.flatnonzero(np.isfinite(k).all(axis=1))
        return Disks(k[there], self._variance(table[there]), owner[there], len(positions)), there

    def joined(self, positions: np.ndarray) -> np.ndarray:
        """Tables (n, columns) of some positions below each other."""
        rows = [self.tables[i] for i in positions if len(self.tables[i])]
        return np.concatenate(rows).astype(float, copy=False) if rows else np.zeros((0, len(self._columns)))

    @property
    def knows_errors(self) -> bool:
        """Whether the expected errors of positions are known."""
        return "position_error" in self._columns

    @property
    def error_column(self) -> int | None:
        """The column with the expected errors of positions, if there is one."""
        return self._columns.index("position_error") if self.knows_errors else None

    def error_unit(self) -> float:
        """Give what expected errors of positions are multiplied with to be Å⁻¹."""
        unit = self.units[self.error_column]
        try:
            return abs(float(vector_to_k(0.0, 1.0, [unit, unit], self.beam_energy)[0]))
        except ValueError:  # not said: that of the positions
            return abs(float(vector_to_k(0.0, 1.0, self.units[:2], self.beam_energy)[0]))

    def _variance(self, table: np.ndarray) -> np.ndarray:
        """Variance (n,) of each coordinate, in Å⁻² where errors are known, and else relative."""
        if self.knows_errors:
            # the expected distance has two coordinates
            variance = (table[:, self.error_column] * self.error_unit()) ** 2 / 2
        elif "confidence" in self._columns:
            # of a maximum of the correlation c, position errors go as sqrt(1 - c²) / c
            square = np.clip(table[:, self._columns.index("confidence")] ** 2, 1e-4, _PERFECT)
            variance = (1 - square) / square
        else:
            variance = np.ones(len(table))
        known = np.isfinite(variance) & (variance > 0)
        return np.where(known, variance, np.median(variance[known]) if known.any() else 1.0)

    def _check_tables(self) -> None:
        n = len(self._columns)
        for i, table in enumerate(self.tables):
            shape = np.shape(table)
            if not shape or (shape[0] and (len(shape) != 2 or shape[1] != n)):
                where = tuple(int(each) for each in np.unravel_index(i, self.shape)) if self.shape else ()
                raise ValueError(
                    f"The vectors have {n} columns ({', '.join(self._columns)}), but the table at {where} (rows first) "
                    f"has the shape {shape}: each must be an array (disks, {n}), (0, {n}) where there are none."
                )


def _check_kind(vectors) -> None:
    """Make sure of ragged vectors of a scan."""
    names = getattr(vectors, "column_names", None)
    if names is None or not hasattr(vectors, "detector_shape"):
        raise TypeError(
            f"Strain is measured of diffraction vectors, not of {type(vectors).__name__}: find the disks first, with "
            "`s.predict_bragg_vectors()`, `s.match_disks()`, or pyxem's `s.get_diffraction_vectors()`."
        )
    if vectors.data.dtype != object:
        raise ValueError(
            "The vectors are not ragged (one table for each position): give those that were found, not those of "
            "`filter_basis` or `flatten_diffraction_vectors`."
        )
    if vectors.units is None or len(vectors.units) != len(names) or len(names) < 2:
        raise ValueError(
            f"The vectors have the columns {names} with the units {vectors.units}: set both, as "
            "`vectors.column_names = ['ky', 'kx']; vectors.units = ['1/Å', '1/Å']`."
        )
    n = vectors.axes_manager.navigation_dimension
    if n > 2:
        raise ValueError(
            f"The vectors have {n} navigation dimensions; strain is mapped over two at most. Give one map at a time, "
            "as `vectors.inav[:, :, 0]`."
        )
