"""Bragg disks of a scan as pyxem's diffraction vectors."""

from __future__ import annotations

import numpy as np

from pyxem_dl.frames import Calibration

#: Columns of the vectors; those of a detector that knows more follow
COLUMNS = ("ky", "kx", "intensity", "confidence")


class FoundDisks:
    """Tables of disks, gathered from the batches of a stream.

    Parameters
    ----------
    n : int
        Number of positions of the scan.
    columns : int
        Of the tables.

    Attributes
    ----------
    tables : array of object, shape (n,)
        Float arrays (m, columns); (0, columns) where nothing was found or done.
    done : array of bool, shape (n,)
        Where there are results.
    """

    def __init__(self, n: int, columns: int = len(COLUMNS)) -> None:
        self.done = np.zeros(n, dtype=bool)
        self.tables = np.empty(n, dtype=object)
        self.tables[:] = [np.zeros((0, columns)) for _ in range(n)]
        self.columns = columns

    def add(self, part) -> None:
        """Take a part with the results "table" (n, m, columns) and "keep" (n, m), which rows are there."""
        table, keep = part.results["table"], part.results["keep"]
        tables = np.split(table[keep].astype(float), np.cumsum(keep.sum(1))[:-1])
        for i, found in zip(part.indices, tables, strict=True):
            self.tables[i] = found
        self.done[part.indices] = True

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything, to be kept in a file."""
        lengths = np.array([len(table) for table in self.tables])
        return {"done": self.done, "lengths": lengths, "rows": np.concatenate(self.tables)}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take back what :meth:`to_arrays` gave; a ValueError for what it cannot have given."""
        done, lengths, rows = arrays["done"], arrays["lengths"], arrays["rows"]
        if not (
            lengths.shape == done.shape == self.done.shape and lengths.dtype.kind == "i" and lengths.min(initial=0) >= 0
            and rows.dtype == float and rows.shape == (lengths.sum(), self.columns) and not lengths[~done].any()
        ):  # fmt: skip
            raise ValueError("tables of another scan")
        self.done = done
        for i, table in enumerate(np.split(rows, np.cumsum(lengths)[:-1])):
            self.tables[i] = table


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
        Of all columns; by default those of the signal axes for positions and their errors, and "a.u." for the rest, as
        pyxem has it.

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
        units=list(units) if units is not None else _units(axes, columns),
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


def _units(axes, columns) -> list[str]:
    """Units of all columns, of which the first two are those of the axes (row axis first)."""
    unit = str(axes[0].units)
    known = {"position_error": unit, "position_variance": f"({unit})^2"}
    return [*(str(axis.units) for axis in axes), *(known.get(name, "a.u.") for name in columns[2:])]


def _scaled(rows: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Multiply the columns of every table in an object array."""
    result = np.empty(rows.shape, dtype=object)
    for index in np.ndindex(rows.shape):
        result[index] = rows[index] * scales
    return result
