"""What the plots make sure of before they draw: an error lists what there is."""

from __future__ import annotations

import difflib
import math
from numbers import Integral

import numpy as np


def check_map(xmap, shape: tuple[int, ...] | None = None) -> None:
    """Make sure of a crystal map, and that it is of a scan of that shape (in data order)."""
    if not (hasattr(xmap, "phase_id") and hasattr(xmap, "is_in_data")):
        raise TypeError(f"Expected an orix CrystalMap, not {type(xmap).__name__}.")
    n = xmap.is_in_data.size
    if shape is not None and n != math.prod(shape):
        of = " × ".join(str(each) for each in shape) or "1"
        raise ValueError(
            f"The map has {n} positions (in its data: {xmap.size}), but the scan has {of}. Give the map of this scan; "
            "crop both in the same way, or neither."
        )


def check_property(xmap, name: str) -> np.ndarray:
    """Values (n,) of a property of a map; of several values for a point the first."""
    if not isinstance(name, str) or name not in xmap.prop:
        near = difflib.get_close_matches(str(name), xmap.prop, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        there = ", ".join(xmap.prop) or "none"
        raise ValueError(f"The map has no property {name!r}; it has: {there}.{hint}")
    return best_of(xmap.prop[name], xmap, name)


def best_of(values, xmap, name: str) -> np.ndarray:
    """Numbers (n,) for the points of a map, of values (n,) or (n, m)."""
    try:
        values = np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is not made of numbers: {error}") from None
    if values.ndim == 0 or values.size == 0 or (len(values) != xmap.size and values.shape != xmap.shape):
        raise ValueError(f"{name} has the shape {values.shape}; the map has {xmap.size} points in its data.")
    if values.shape == xmap.shape and values.ndim == 2 and values.size == xmap.size:
        return values.ravel()
    return values.reshape(len(values), -1)[:, 0]


def check_positions(positions, shape: tuple[int, ...]) -> np.ndarray:
    """Flat indices (m,) of positions that are given as such, or as (row, column)."""
    n = math.prod(shape)
    several = [positions] if isinstance(positions, Integral) else list(positions)
    if not several:
        raise ValueError("There is no position to draw: the map has no indexed points, or `positions` is empty.")
    flat = []
    for position in several:
        index = np.asarray(position)
        whole = index.dtype.kind in "iu"
        if whole and index.size == 1:
            flat.append(int(index.item()))
        elif whole and index.shape == (len(shape),):
            if not ((index >= 0) & (index < shape)).all():
                raise ValueError(f"The position {position!r} is outside of the scan of shape {shape} (rows first).")
            flat.append(int(np.ravel_multi_index(tuple(index), shape)))
        else:
            raise ValueError(
                f"A position must be a flat index from 0 to {n - 1}, or (row, column) in a scan of shape {shape}, "
                f"not {position!r}."
            )
    wrong = [index for index in flat if not 0 <= index < n]
    if wrong:
        raise ValueError(f"The positions {wrong} are outside of the scan: flat indices go from 0 to {n - 1}.")
    return np.array(flat)


def check_numbers(**values) -> None:
    """Make sure of numbers that must be positive."""
    for name, value in values.items():
        try:
            good = math.isfinite(value) and value > 0
        except TypeError:
            good = False
        if not good:
            raise ValueError(f"{name} must be a positive number, not {value!r}.")
