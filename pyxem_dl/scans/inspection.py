"""What a sample of the patterns says of the detector and of the direct beam, and what of it the user must know."""

from __future__ import annotations

import numpy as np

from pyxem_dl.frames import Calibration
from pyxem_dl.messages import warn
from pyxem_dl.scans.bad_pixels import inspect_pixels, warn_of_bad_pixels
from pyxem_dl.scans.beam import Beam, find_beam
from pyxem_dl.scans.sample import Sample

__all__ = ["check_on_detector", "inspect_pixels", "inspect_beam", "warn_of_bad_pixels"]

# The beam is contradicted by the patterns from these distances on, in Å⁻¹, pixels and radii of the disk
_FAR, _FAR_PIXELS, _FAR_RADII = 0.035, 1.0, 0.15
# ... of a beam that is so bright in the patterns
_BRIGHT = 0.5


def check_on_detector(calibration: Calibration, centers, wanted, given: bool) -> None:
    """Raise an error if a direct beam would be outside of the detector.

    Parameters
    ----------
    calibration : Calibration
        Of the detector.
    centers : None, "auto" or array, shape (n, 2)
        Of all positions; "auto" needs none.
    wanted : array of bool, shape (n,)
        Which positions matter.
    given : bool
        Whether a user gave the center; else the signal axes did.
    """
    if isinstance(centers, str):
        return
    where = np.array([calibration.center]) if centers is None else centers[wanted]
    outside = ((where < -0.5) | (where > np.array(calibration.shape) - 0.5)).any(1)
    if not outside.any():
        return
    row, column = where[outside][0]
    rows, columns = calibration.shape
    many = f" (and at {outside.sum() - 1} more positions)" if outside.sum() > 1 else ""
    said = (
        "This position was given in `center=`, as (row, column) in pixels."
        if given
        else "This position comes from the offsets of the signal axes (-offset / scale)."
    )
    raise ValueError(
        f"The direct beam at (row, column) = ({row:.4g}, {column:.4g}){many} is outside of the detector of "
        f"{rows} x {columns} pixels. {said} Give `center=\"auto\"` to find the beam in the patterns, or "
        "`center=(row, column)`; center the scan with `s.center_direct_beam(...)`; or use the middle of the detector: "
        "`for ax in s.axes_manager.signal_axes: ax.offset = -ax.scale * ax.size / 2`."
    )


def inspect_beam(
    sample: Sample, calibration: Calibration, centers, shape, signal_mask
) -> tuple[Calibration, Beam | None]:
    """Find the direct beam in the sample, and warn if it is not where it should be.

    Parameters
    ----------
    sample : Sample
        Of the scan.
    calibration : Calibration
        With the nominal centre.
    centers : None, "auto" or array, shape (n, 2)
        What else was said of it.
    shape : tuple of int
        Of the scan.
    signal_mask : array of bool, shape (rows, columns), or None
        True where the detector is excluded.

    Returns
    -------
    calibration : Calibration
        With "auto" that of the beam's centre.
    beam : Beam or None
        None where no pattern shows anything.

    Warns
    -----
    UserWarning
        With both positions.
    """
    auto = isinstance(centers, str)
    nominal = np.array(calibration.center)
    outside = ((nominal < -0.5) | (nominal > np.array(calibration.shape) - 0.5)).any()
    if outside:
        nominal = (np.array(calibration.shape) - 1) / 2
    beam = find_beam(sample.patterns, sample.indices, shape, nominal, signal_mask)
    if beam is None:
        if auto and outside:
            check_on_detector(calibration, None, np.ones(1, bool), given=False)
        return calibration, None
    message = _unsure(beam, nominal, outside) if auto else _contradiction(beam, sample, calibration, centers)
    if message:
        warn(message)
    if auto:
        calibration = calibration.replace(center=tuple(float(c) for c in beam.center))
    return calibration, beam


def _unsure(beam: Beam, nominal, outside: bool) -> str:
    """Say of a beam that was to be found what is doubtful; empty where nothing is."""
    if beam.certain:
        return ""
    taken, other = _text(beam.center), None if beam.other is None else _text(beam.other)
    said = "" if outside else f" (the calibration says {_text(nominal)})"
    why = "the patterns are not bright there" if beam.seen < 0.2 else "something else may be the beam"
    return (
        f"center=\"auto\" is not sure where the direct beam is: (row, column) = {taken} is used{said}, but {why}"
        + (f", and the patterns could also be centered at {other}" if other else "")
        + ". Look at a pattern and give `center=(row, column)`. Mask a beam stop with `signal_mask=`."
    )


def _contradiction(beam: Beam, sample: Sample, calibration: Calibration, centers) -> str:
    """Say that a beam is not where it was said to be; empty where it is."""
    if not beam.certain or beam.seen < _BRIGHT:
        return ""
    nominal = np.array(calibration.center) if centers is None else centers[beam.indices]
    away = (beam.positions - nominal) * np.array(calibration.scale)
    limit = max(_FAR, _FAR_PIXELS * max(calibration.scale), _FAR_RADII * beam.radius * max(calibration.scale))
    middle = np.median(away, 0)
    if np.hypot(*middle) > limit:
        said = _text(calibration.center) if centers is None else "the given centers (one for each pattern)"
        found = _text(beam.center)
        far = np.hypot(*(middle / np.array(calibration.scale)))
        return (
            f"The direct beam seems to be at (row, column) = {found}, {far:.2g} px ({np.hypot(*middle):.2g} Å⁻¹) from "
            f"{said}, where it should be. Give `center=\"auto\"` to find it in each pattern, or `center={found}`; "
            "or center the scan permanently with `s.center_direct_beam(...)`."
        )
    spread = np.hypot(*away.T)
    if np.median(spread) > limit:
        low, high = beam.positions.min(0), beam.positions.max(0)
        return (
            f"The direct beam seems to move during the scan, from {_text(low)} to {_text(high)} (row, column), but one "
            f"position is used for all patterns, {_text(calibration.center)}: half of them are more than "
            f"{np.median(spread):.2g} Å⁻¹ off. Give `center=\"auto\"` to find it in each pattern."
        )
    return ""


def _text(place) -> str:
    return f"({place[0]:.1f}, {place[1]:.1f})"
