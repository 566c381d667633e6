"""The calibration with which a map was made, at each of its positions: so that files and parts of maps keep it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyxem_dl.frames import Calibration, drift_over_scan
from pyxem_dl.scans import Positions

if TYPE_CHECKING:
    from orix.crystal_map import CrystalMap

#: Name of the property of a map, and what its columns are: Å⁻¹ per px, px, nothing, px, kV
CALIBRATION = "calibration"
COLUMNS = (
    "scale_row", "scale_column", "center_row", "center_column", "distortion_xx", "distortion_xy", "distortion_yy",
    "rows", "columns", "beam_energy",
)  # fmt: skip


def calibration_numbers(calibration: Calibration, *, center_known: bool) -> dict:
    """Plain numbers of a calibration that a scan has, as those of :meth:`FoundCalibration.to_dict` that matter here."""
    distortion = np.eye(2) if calibration.distortion is None else np.array(calibration.distortion)
    return {
        "scale": list(calibration.scale), "center": list(calibration.center), "distortion": distortion.tolist(),
        "drift": [[0.0, 0.0], [0.0, 0.0]], "detector_shape": list(calibration.shape),
        "beam_energy": calibration.beam_energy, "centers_given": not center_known,
    }  # fmt: skip


def calibration_property(numbers: dict | None, positions: Positions) -> dict[str, np.ndarray]:
    """Property of a map from the numbers of its calibration.

    Parameters
    ----------
    numbers : dict or None
        From :meth:`FoundCalibration.to_dict` or :func:`calibration_numbers`.
    positions : Positions
        Of the scan.

    Returns
    -------
    dict of str to array, shape (n, 10)
        Of :data:`CALIBRATION`, the columns are :data:`COLUMNS`; the centre is NaN where it is another for each pattern
        and was given, or found there.  Empty where nothing is known.
    """
    if numbers is None or "detector_shape" not in numbers:
        return {}
    n = int(np.prod(positions.shape, dtype=int))
    center = np.full((n, 2), np.nan)
    if not numbers["centers_given"]:
        center = np.array(numbers["center"]) + drift_over_scan(numbers["drift"], tuple(positions.shape))
    (xx, xy), (_, yy) = numbers["distortion"]
    energy = np.nan if numbers["beam_energy"] is None else numbers["beam_energy"]
    rest = [xx, xy, yy, *numbers["detector_shape"], energy]
    return {CALIBRATION: np.hstack([np.tile(numbers["scale"], (n, 1)), center, np.tile(rest, (n, 1))])}


def calibration_of(xmap: CrystalMap) -> Calibration | None:
    """Calibration with which a map was made, if it was found in the patterns or has a distortion.

    Parameters
    ----------
    xmap : orix.crystal_map.CrystalMap
        From :func:`pyxem_dl.predict_orientation`, :func:`pyxem_dl.open_result`, ``orix.io.load`` of an ``.h5`` file, or
        a part of one of these.

    Returns
    -------
    Calibration or None
        Scale in Å⁻¹ per px, ellipse, beam energy in kV, and the mean of the centres (row, column) in px of the map's
        positions, NaN where they were given for each, or found in each pattern.  Where the centre drifts,
        ``xmap.prop["calibration"][:, 2:4]`` are those of all positions.  None: nothing was kept.
    """
    if CALIBRATION not in xmap.prop or not xmap.size:
        return None
    table = np.asarray(xmap.prop[CALIBRATION], dtype=float).reshape(-1, len(COLUMNS))
    scale, distortion, (rows, columns, energy) = table[0, :2], table[0, 4:7], table[0, 7:]
    xx, xy, yy = distortion.tolist()
    return Calibration(
        tuple(scale.tolist()), tuple(table[:, 2:4].mean(0).tolist()), (int(rows), int(columns)),
        None if np.isnan(energy) else float(energy), ((xx, xy), (xy, yy)),
    )  # fmt: skip


def read_calibration(path: str | Path) -> Calibration:
    """Read the calibration that ``pyxem-dl calibrate --output`` wrote.

    Parameters
    ----------
    path : str or pathlib.Path
        A ``.json`` file.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is none, or it holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
        scale, center, distortion = (numbers[name] for name in ("scale", "center", "distortion"))
        shape, energy = (int(n) for n in numbers["detector_shape"]), numbers["beam_energy"]
        return Calibration(tuple(scale), tuple(center), tuple(shape), energy, tuple(map(tuple, distortion)))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path.name} holds no calibration ({error!r}). Write one with `pyxem-dl calibrate scan --output "
            f"{path.name}`."
        ) from None
