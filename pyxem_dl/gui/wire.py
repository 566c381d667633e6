"""What travels to a browser: small headers, and numbers as bytes."""

from __future__ import annotations

import math

import numpy as np

from pyxem_dl.gui.answers import Frame
from pyxem_dl.gui.layers import Layer

#: Larger patterns are binned for display; nothing else is
MOST_PIXELS = 512


def binning(shape: tuple[int, int]) -> int:
    """How many pixels become one on the screen, along each axis."""
    return max(1, math.ceil(max(shape) / MOST_PIXELS))


def binned(pattern: np.ndarray, factor: int) -> np.ndarray:
    """Means of squares of pixels; those at the end of rows and columns that do not fill one are left out."""
    if factor == 1:
        return pattern
    rows, columns = (n // factor for n in pattern.shape)
    cut = pattern[: rows * factor, : columns * factor].astype(np.float32)
    return cut.reshape(rows, factor, columns, factor).mean(axis=(1, 3))


def pattern_bytes(pattern: np.ndarray) -> tuple[dict, bytes]:
    """Write a pattern in 8 bits: the root of its intensity, so that weak spots keep their steps.

    Returns
    -------
    dict
        ``shape``, and ``low`` and ``high``: the intensities of 0 and 255.
    bytes
    """
    values = np.asarray(pattern, dtype=np.float32)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    span = high - low
    share = np.clip(np.nan_to_num((values - low) / span if span > 0 else values * 0), 0, 1)
    header = {"shape": list(values.shape), "low": low, "high": high}
    return header, np.round(255 * np.sqrt(share)).astype(np.uint8).tobytes()


def frame_message(frame: Frame, keys: dict) -> tuple[dict, list[bytes]]:
    """Pattern and spots of a position.

    Parameters
    ----------
    frame : Frame
        What is to be shown.
    keys : dict of str to ColorKey
        By the names of phases; empty where there are no orientations.

    Returns
    -------
    dict
        ``x``, ``y``, ``center`` (row, column) and places of spots in pixels of the pattern that is sent, ``text``,
        ``candidates``: for each its words, ``n`` spots, and where it lies in the colour key.
    list of bytes
        The pattern; for each candidate rows, columns and intensities (float32), and Miller indices (int16).
    """
    factor = binning(frame.pattern.shape)
    header, pattern = pattern_bytes(binned(frame.pattern, factor))
    shown = [_to_screen(each, factor) for each in frame.center]
    message = {
        "kind": "frame", "x": frame.x, "y": frame.y, "pattern": header, "binning": factor, "center": shown,
        "text": frame.text, "indexed": frame.indexed, "candidates": [],
    }  # fmt: skip
    buffers = [pattern]
    for candidate in frame.candidates:
        key = keys.get(candidate.phase)
        places = None if key is None or candidate.rotation is None else key.places(candidate.rotation)
        message["candidates"].append({
            "phase": candidate.phase, "n": len(candidate.row), "text": str(candidate),
            "key": None if places is None or not np.isfinite(places).all() else np.round(places, 4).tolist(),
        })  # fmt: skip
        numbers = [_to_screen(candidate.row, factor), _to_screen(candidate.column, factor), candidate.intensity]
        buffers += [np.asarray(each, dtype="<f4").tobytes() for each in numbers]
        buffers.append(np.asarray(candidate.hkl, dtype="<i2").tobytes())
    return message, buffers


def _to_screen(pixel, factor: int):
    """Place in the binned pattern, of which the middle of the first pixel is 0, too."""
    return (np.asarray(pixel, dtype=float) + 0.5) / factor - 0.5 if factor > 1 else pixel


def layer_message(layer: Layer, indexed: np.ndarray | None, scores: np.ndarray | None) -> tuple[dict, list[bytes]]:
    """Write a picture of the scan; where it is indexed and how sure that is, if the browser is to hide some."""
    values = layer.values
    kind = "colors" if values.ndim == 3 else "numbers"
    message = {
        "kind": "layer", "name": layer.name, "shape": list(values.shape[:2]), "values": kind, "unit": layer.unit,
        "legend": layer.legend, "has_indexed": indexed is not None, "has_scores": scores is not None,
    }  # fmt: skip
    buffers = [np.ascontiguousarray(values, dtype=np.uint8 if kind == "colors" else "<f4").tobytes()]
    buffers += [] if indexed is None else [np.ascontiguousarray(indexed, dtype=np.uint8).tobytes()]
    buffers += [] if scores is None else [np.ascontiguousarray(scores, dtype="<f4").tobytes()]
    return message, buffers
