"""Diffraction vectors as py4DSTEM keeps them: the ``BraggVectors`` of an EMD 1.0 file (emdfile 0.0.16)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyxem_dl.files import replacing
from pyxem_dl.records import provenance, write_attribute

if TYPE_CHECKING:
    from pyxem.signals import DiffractionVectors


def to_py4dstem(vectors: DiffractionVectors, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write diffraction vectors as py4DSTEM's ``BraggVectors``, in a file that ``py4DSTEM.read`` reads.

    Parameters
    ----------
    vectors : pyxem.signals.DiffractionVectors
        With 1 or 2 navigation dimensions, from :func:`match_disks` or pyxem.
    path : str or pathlib.Path
        Ending in ``.h5``, ``.hdf5`` or ``.emd``.
    overwrite : bool
        Replace a file that is there.

    Returns
    -------
    pathlib.Path
        The file, an EMD 1.0 tree "root/braggvectors".

    Notes
    -----
    py4DSTEM's ``qx`` is along the rows and ``qy`` along the columns, in pixels from the detector's first one; its scan
    positions are [y, x].  Calibration (pixel size and the direct beam) goes with them where the two scales agree; a
    one-dimensional scan becomes one column.  Vectors of which a distortion is undone are written as they are: in pixels
    of a detector without it.
    """
    import h5py

    path = Path(path)
    if path.suffix.lower() not in (".h5", ".hdf5", ".emd"):
        raise ValueError(f"A file for py4DSTEM must end in .h5, .hdf5 or .emd, not {path.name!r}.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} already exists. Give another name, or overwrite=True.")
    if vectors.detector_shape is None or vectors.scales is None or vectors.offsets is None:
        raise ValueError("These vectors lack the detector: set `vectors.detector_shape`, `scales` and `offsets`.")
    rows = vectors.data.compute() if hasattr(vectors.data, "dask") else vectors.data
    rows = rows.reshape(rows.shape if rows.ndim == 2 else (-1, 1))
    scales, offsets = np.asarray(vectors.scales, float), np.asarray(vectors.offsets, float)
    with replacing(path) as new:
        # in memory first: where a disk is full, the HDF5 library may end the process
        image = io.BytesIO()
        with h5py.File(image, "w") as file:
            file.attrs.update(emd_group_type="file", version_major=1, version_minor=0, authoring_program="pyxem_dl")
            root = _group(file, "braggvectors_root", "root", "Root")
            group = _group(root, "braggvectors", "custom", "BraggVectors")
            _write_point_lists(group, rows, scales[:2], offsets[:2])
            shapes = {"Rshape": rows.shape, "Qshape": tuple(vectors.detector_shape)}
            _write_metadata(group, "_braggvectors_shape", "Metadata", shapes)
            calibration = _calibration(scales[:2], offsets[:2], str(vectors.units[0]))
            _write_metadata(root, "calibration", "Calibration", calibration)
        if record := provenance(vectors):
            write_attribute(image, record)
        new.write_bytes(image.getbuffer())
    return path


def _calibration(scales, offsets, units: str) -> dict:
    """Return what py4DSTEM's ``Calibration`` holds: the centre in pixels, and one pixel size for both axes."""
    center = {}
    if offsets.any():
        center = dict(zip(("qx0", "qy0"), (float(x) for x in -offsets / scales), strict=True))
        center |= {f"{name}_mean": value for name, value in center.items()}
    known = {"Q_pixel_size": 1, "Q_pixel_units": "pixels", "R_pixel_size": 1, "R_pixel_units": "pixels"}
    if np.isclose(*scales):
        known |= {"Q_pixel_size": float(scales[0]), "Q_pixel_units": _unit(units)}
    return known | center | {"QR_flip": False, "_root_treepath": "", "_target_paths": ["/braggvectors"]}


def _unit(units: str) -> str:
    """Name that py4DSTEM knows for Å⁻¹; other units as they are."""
    return "A^-1" if "".join(c for c in units if c not in "$ {}\\") in ("A^-1", "1/A", "1/Å", "Å^-1", "Å⁻¹") else units


def _group(parent, name: str, kind: str, python_class: str | None = None):
    group = parent.create_group(name)
    group.attrs["emd_group_type"] = kind
    if python_class:
        group.attrs["python_class"] = python_class
    return group


def _write_point_lists(parent, rows, scales, offsets) -> None:
    """Write the raw vectors, in pixels, as emdfile's ``PointListArray``: a cell of variable length each."""
    import h5py

    fields = np.dtype([("qx", "f8"), ("qy", "f8"), ("intensity", "f8")])
    group = _group(parent, "_v_uncal", "custom_pointlistarray", "PointListArray")
    data = group.create_dataset("data", rows.shape, dtype=h5py.vlen_dtype(fields))
    for index in np.ndindex(rows.shape):
        table = rows[index]
        points = np.zeros(len(table), dtype=fields)
        points["qx"], points["qy"] = ((table[:, :2] - offsets) / scales).T
        points["intensity"] = table[:, 2] if table.shape[1] > 2 else 1.0
        data[index] = points


def _write_metadata(parent, name: str, python_class: str, values: dict) -> None:
    """Write a dictionary as emdfile's ``Metadata``, which states the type of each value."""
    bundle = parent.require_group("metadatabundle")
    bundle.attrs["emd_group_type"] = "metadatabundle"
    group = _group(bundle, name, "metadata", python_class)
    kinds = {bool: "bool", int: "number", float: "number", str: "string", tuple: "tuple"}
    for key, value in values.items():
        if isinstance(value, list):
            entry = group.create_group(key)
            entry.attrs.update(type="list_of_strings", length=len(value))
            for i, text in enumerate(value):
                entry.create_dataset(str(i), data=text)
        else:
            group.create_dataset(key, data=value).attrs["type"] = kinds[type(value)]
