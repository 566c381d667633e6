"""Bragg disks of a scan as pyxem's diffraction vectors."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

import numpy as np

from pyxem_dl.frames import Calibration
from pyxem_dl.scans import Collected, Field

#: Columns of the vectors; those of a detector that knows more follow
COLUMNS = ("ky", "kx", "intensity", "confidence")


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
    return VectorsAssembly.of(
        signal, calibration, subtract_center=subtract_center, columns=columns, units=units
    ).vectors(rows)


@dataclass(frozen=True, eq=False)
class VectorsAssembly:
    """Makes pyxem's vectors of tables in pixels.

    Parameters
    ----------
    axes : list of dict
        Name, units, scale and offset of the navigation axes, x first.
    shape : tuple of int
        Of the navigation, in data order.
    scales, offsets : list of float
        Of all columns.
    detector_shape : tuple of int
        In pixels.
    columns, units : list of str
        Of all columns.
    metadata : dict
        Nodes "General" and "Acquisition_instrument" of the signal.
    """

    axes: list
    shape: tuple[int, ...]
    scales: list
    offsets: list
    detector_shape: tuple[int, ...]
    columns: list
    units: list
    metadata: dict

    kind = "diffraction vectors"

    @staticmethod
    def fields(columns: int) -> dict[str, Field]:
        """List what finds disks gives for each pattern: a table of them."""
        return {"disks": Field((columns,), "float32", ragged=True)}

    @classmethod
    def of(
        cls, signal, calibration: Calibration, *, subtract_center: bool = True, columns=COLUMNS, units=None
    ) -> VectorsAssembly:
        """Read what is needed of a signal; parameters are those of :func:`to_diffraction_vectors`."""
        manager = signal.axes_manager
        axes = manager.signal_axes[::-1]
        others = len(columns) - 2
        scales = [*(float(axis.scale) for axis in axes), *[1.0] * others]
        center = [*calibration.center, *[0.0] * others]
        offsets = [-float(c) * s * bool(subtract_center) for c, s in zip(center, scales)]
        nodes = ("General", "Acquisition_instrument")
        metadata = {n: signal.metadata.get_item(n).as_dictionary() for n in nodes if signal.metadata.has_item(n)}
        return cls(
            [_axis(axis) for axis in manager.navigation_axes], tuple(manager._navigation_shape_in_array) or (1,),
            scales, offsets, tuple(calibration.shape), list(columns),
            list(units) if units is not None else _units(axes, columns), metadata,
        )  # fmt: skip

    def __call__(self, found: Collected):
        """Vectors of what was found; what is not done has none."""
        return self.vectors(found.tables("disks", (len(self.columns),)))

    def vectors(self, rows):
        """Vectors of tables in pixels, in an object array or a dask array of it."""
        from pyxem.signals import DiffractionVectors
        from pyxem.signals.diffraction_vectors import LazyDiffractionVectors

        scales, lazy = np.array(self.scales), hasattr(rows, "dask")
        rows = rows.map_blocks(_scaled, scales, dtype=object) if lazy else _scaled(rows, scales).reshape(self.shape)
        vectors = (LazyDiffractionVectors if lazy else DiffractionVectors)(
            rows, scales=scales, offsets=np.array(self.offsets), detector_shape=tuple(self.detector_shape),
            column_names=list(self.columns), units=list(self.units),
        )  # fmt: skip
        for new, old in zip(vectors.axes_manager.navigation_axes, self.axes):
            for name, value in old.items():
                setattr(new, name, value)
        for node, entries in self.metadata.items():
            vectors.metadata.add_dictionary({node: entries})
        vectors.has_intensity = "intensity" in self.columns
        return vectors

    def to_dict(self) -> dict:
        """Plain numbers and texts for a file; what is neither is written as text."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["metadata"] = _without_objects(self.metadata)
        return json.loads(json.dumps(fields, default=str))

    @classmethod
    def from_dict(cls, entry: dict) -> VectorsAssembly:
        """Read what :meth:`to_dict` gave; a ValueError for what it cannot have given."""
        names = [field.name for field in dataclasses.fields(cls)]
        self = cls(**{name: entry[name] for name in names})
        n = len(self.columns)
        of_axes = [axis[key] for axis in self.axes for key in ("scale", "offset") if key in axis]
        numbers = [*self.scales, *self.offsets, *of_axes]
        if not (
            all(len(x) == n for x in (self.scales, self.offsets, self.units)) and len(self.axes) <= len(self.shape)
            and all(isinstance(x, (int, float)) and np.isfinite(x) for x in numbers)
        ):  # fmt: skip
            raise ValueError("no vectors of a scan")
        axes = [{key: axis[key] for key in ("name", "units", "scale", "offset") if key in axis} for axis in self.axes]
        metadata = _without_objects(dict(self.metadata))
        return dataclasses.replace(self, axes=axes, shape=tuple(self.shape), metadata=metadata)


def _without_objects(node: dict) -> dict:
    """Metadata without what HyperSpy makes signals and other objects of: their names begin with a line."""
    return {
        name: _without_objects(value) if isinstance(value, dict) else value
        for name, value in node.items() if not str(name).startswith("_")
    }  # fmt: skip


def _axis(axis) -> dict:
    """Name, units, and, where it is uniform, scale and offset of an axis."""
    known = {name: getattr(axis, name) for name in ("name", "units")}
    known = {name: value if isinstance(value, str) else None for name, value in known.items()}
    known = {name: value for name, value in known.items() if value is not None}
    return known | ({"scale": float(axis.scale), "offset": float(axis.offset)} if axis.is_uniform else {})


def _units(axes, columns) -> list[str]:
    """Units of all columns, of which the first two are those of the axes (row axis first)."""
    unit = str(axes[0].units)
    known = {"position_error": unit, "position_variance": f"({unit})^2"}
    known |= dict.fromkeys(("v_g", "v_g_error"), "V Å") | dict.fromkeys(("q_z", "q_z_error"), "1/Å")
    return [*(str(axis.units) for axis in axes), *(known.get(name, "a.u.") for name in columns[2:])]


def _scaled(rows: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Multiply the columns of every table in an object array."""
    result = np.empty(rows.shape, dtype=object)
    for index in np.ndindex(rows.shape):
        result[index] = rows[index].astype(float, copy=False) * scales
    return result
