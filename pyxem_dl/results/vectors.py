"""Bragg disks of a scan as pyxem's diffraction vectors."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyxem_dl.electrons import beam_energy_of
from pyxem_dl.frames import UNDONE_DISTORTION, Calibration, stored_distortion, vector_to_k, vector_undistorted
from pyxem_dl.records import made_by, with_record
from pyxem_dl.scans import Collected, Field

if TYPE_CHECKING:
    from pyxem.signals import DiffractionVectors

# Scales (natural logarithm) by which vectors of a scan are measured anew, at most
_MOST_RESCALED = 0.3
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
        The offsets bring vectors back to pixels, as pyxem has it, with the calibration's direct beam.  A distortion of
        the calibration is undone in vectors from the direct beam, and their metadata say so: their pixels are then
        those of the pattern without it.
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
    distortion : list of 3 float, optional
        (xx, xy, yy) of the distortion that is undone.
    beam_energy : float, optional
        In kV, for units that are angles.
    """

    axes: list
    shape: tuple[int, ...]
    scales: list
    offsets: list
    detector_shape: tuple[int, ...]
    columns: list
    units: list
    metadata: dict
    distortion: list | None = None
    beam_energy: float | None = None

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
            _three(calibration) if subtract_center else None, calibration.beam_energy,
        )  # fmt: skip

    def __call__(self, found: Collected):
        """Vectors of what was found; what is not done has none."""
        return self.vectors(found.tables("disks", (len(self.columns),)))

    def vectors(self, rows):
        """Vectors of tables in pixels, in an object array or a dask array of it."""
        from pyxem.signals import DiffractionVectors
        from pyxem.signals.diffraction_vectors import LazyDiffractionVectors

        scales, lazy = np.array(self.scales), hasattr(rows, "dask")
        how = scales, self._distorted, self.units[:2]
        rows = rows.map_blocks(_scaled, *how, dtype=object) if lazy else _scaled(rows, *how).reshape(self.shape)
        vectors = (LazyDiffractionVectors if lazy else DiffractionVectors)(
            rows, scales=scales, offsets=np.array(self.offsets), detector_shape=tuple(self.detector_shape),
            column_names=list(self.columns), units=list(self.units),
        )  # fmt: skip
        for new, old in zip(vectors.axes_manager.navigation_axes, self.axes):
            for name, value in old.items():
                setattr(new, name, value)
        for node, entries in self.metadata.items():
            vectors.metadata.add_dictionary({node: entries})
        if self.distortion is not None:
            vectors.metadata.set_item(UNDONE_DISTORTION, list(self.distortion))
        vectors.has_intensity = "intensity" in self.columns
        return vectors

    @property
    def _distorted(self) -> Calibration | None:
        """What says how to undo the distortion."""
        if self.distortion is None:
            return None
        xx, xy, yy = self.distortion
        return Calibration((1.0, 1.0), (0.0, 0.0), (1, 1), self.beam_energy, ((xx, xy), (xy, yy)))

    def to_dict(self) -> dict:
        """Plain numbers and texts for a file; what is neither is written as text."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["metadata"] = _without_objects(self.metadata)
        return json.loads(json.dumps(fields, default=str))

    @classmethod
    def from_dict(cls, entry: dict) -> VectorsAssembly:
        """Read what :meth:`to_dict` gave; a ValueError for what it cannot have given."""
        names, later = [field.name for field in dataclasses.fields(cls)], ("distortion", "beam_energy")
        self = cls(**{name: entry.get(name) if name in later else entry[name] for name in names})
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


def _three(calibration: Calibration) -> list[float] | None:
    """(xx, xy, yy) of a distortion, if there is one."""
    if calibration.distortion is None:
        return None
    (xx, xy), (_, yy) = calibration.distortion
    return [xx, xy, yy]


def _scaled(rows: np.ndarray, scales: np.ndarray, distorted: Calibration | None = None, units=()) -> np.ndarray:
    """Multiply the columns of every table in an object array, and undo a distortion of the first two."""
    result = np.empty(rows.shape, dtype=object)
    for index in np.ndindex(rows.shape):
        table = rows[index].astype(float, copy=False) * scales
        if distorted is not None and len(table):
            table[:, :2] = np.stack(vector_undistorted(table[:, 0], table[:, 1], distorted, units), axis=1)
        result[index] = table
    return result


def calibrated_vectors(vectors: DiffractionVectors, calibration: Calibration) -> DiffractionVectors:
    """Give vectors of a scan the scale that was found later, and undo its ellipse.

    Parameters
    ----------
    vectors : pyxem.signals.DiffractionVectors
        Measured from the direct beam; a lazy one is computed.
    calibration : Calibration or FoundCalibration
        Of the scan, from ``s.find_calibration(...)``.  Its centre is not used: vectors know theirs.

    Returns
    -------
    pyxem.signals.DiffractionVectors
        New ones, in the same units, where the spots are in the pattern without distortion; expected errors of positions
        have the new scale, too.

    Raises
    ------
    ValueError
        For vectors of which a distortion is undone already, without a scale, or with one that is another by more than
        a third.
    """
    calibration = getattr(calibration, "calibration", calibration)
    undone = vectors.metadata.get_item(UNDONE_DISTORTION, None)
    if undone is not None:
        raise ValueError(
            f"The distortion {tuple(undone)} is undone in these vectors already: the scan was calibrated before they "
            "were found. Leave calibration out."
        )
    units = [str(unit) for unit in vectors.units[:2]]
    before = np.array(np.nan if vectors.scales is None else vectors.scales, dtype=float).reshape(-1)
    if len(before) < 2 or not np.isfinite(before[:2]).all():
        raise ValueError("These vectors do not say the scale that they were found with: set `vectors.scales`.")
    was = np.abs(vector_to_k(before[0], before[1], units, calibration.beam_energy))[::-1]  # row axis first
    factor = np.array(calibration.scale) / was
    if not (np.isfinite(factor).all() and (np.abs(np.log(factor)) < _MOST_RESCALED).all()):
        raise ValueError(
            f"The vectors were found with {was[1]:.4g} Å⁻¹ per px, the calibration has {calibration.scale[1]:.4g}: "
            "they are not of one scan. Give the calibration of theirs."
        )
    names, factors = [str(name) for name in vectors.column_names], np.ones(len(before))
    factors[:2] = factor
    for name, power in (("position_error", 1), ("position_variance", 2)):
        if name in names:
            factors[names.index(name)] = np.sqrt(factor.prod()) ** power
    result = _undone(vectors, factors, calibration)
    result.scales = before * np.append(factor, np.ones(len(before) - 2))
    if vectors.offsets is not None:
        result.offsets = np.array(vectors.offsets, dtype=float) * np.append(factor, np.ones(len(before) - 2))
    return with_record(result, made_by("calibrated_vectors", calibration=calibration, made_from=vectors))


def without_distortion(vectors: DiffractionVectors) -> DiffractionVectors:
    """Undo the distortion that pyxem's own vectors of a calibrated scan have in their metadata; others are returned.

    Parameters
    ----------
    vectors : pyxem.signals.DiffractionVectors
        Measured from the direct beam; lazy ones that are distorted are computed.
    """
    if vectors.metadata.has_item(UNDONE_DISTORTION) or (distortion := stored_distortion(vectors)) is None:
        return vectors
    distorted = Calibration((1.0, 1.0), (0.0, 0.0), (1, 1), beam_energy_of(vectors), distortion)
    return _undone(vectors, np.ones(len(vectors.column_names)), distorted)


def _undone(vectors, factors: np.ndarray, distorted: Calibration):
    """Copy of vectors, multiplied, without a distortion."""
    rows = vectors.data.compute() if hasattr(vectors.data, "dask") else vectors.data
    result = vectors.deepcopy()
    if result._lazy:
        result.compute(show_progressbar=False)
    result.data = _scaled(rows, factors, distorted, [str(unit) for unit in vectors.units[:2]])
    result.metadata.set_item(UNDONE_DISTORTION, _three(distorted) or [1.0, 0.0, 1.0])
    return result
