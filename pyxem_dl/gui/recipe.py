"""What makes a map: the lines that a user would type, and the same done here, part by part."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pyxem_dl.models import load_model
from pyxem_dl.orientation import orientation_job
from pyxem_dl.scans import Computing, Partial, Reading

# Seconds between two maps of work that goes on, and how much of the time may go into drawing them
_PATIENCE, _SHARE = 0.4, 0.2


@dataclass(frozen=True, eq=False)
class Recipe:
    """An orientation map to be.

    Parameters
    ----------
    model : str, pathlib.Path or OrientationModel
        As in :func:`pyxem_dl.predict_orientation`.
    phases : optional
        As there; None for a model that knows its phases.
    n_best : int
        Orientations to keep for each position.
    thresholds : dict
        ``score`` and ``crystal``, where they are not the model's.
    scales : tuple of float, optional
        Of the signal axes x and y, in their own unit, where they are not the signal's.
    center : optional
        As in :func:`pyxem_dl.predict_orientation`.
    signal_mask, beam_energy : optional
        As there.
    device : str
        As there; it is no part of the code, as no result depends on it.
    """

    model: object
    phases: object = None
    n_best: int = 1
    thresholds: dict | None = None
    scales: tuple[float, float] | None = None
    center: object = None
    signal_mask: np.ndarray | None = None
    beam_energy: float | None = None
    device: str = "auto"

    def code(self) -> str:
        """Lines of Python that make the same map of a signal `s`."""
        lines, model = [], _as_code(self.model)
        unnamed = model == "model"
        if self.thresholds:
            lines.append(f"model = pyxem_dl.load_model({model})")
            limits = ", ".join(f"{name}={float(value):.6g}" for name, value in self.thresholds.items())
            lines.append(f"model.thresholds.update({limits})")
            model = "model"
        if self.scales is not None:
            x, y = self.scales
            lines.append("x, y = s.axes_manager.signal_axes")
            lines.append(f"x.scale, y.scale = {x!r}, {y!r}")
        given = {"phases": _phases_as_code(self.phases), "n_best": str(self.n_best) if self.n_best > 1 else None}
        given |= {"center": _center_as_code(self.center), "signal_mask": None if self.signal_mask is None else "mask"}
        given["beam_energy"] = None if self.beam_energy is None else f"{self.beam_energy:g}"
        named = [f"{name}={value}" for name, value in given.items() if value is not None]
        lines.append(f"xmap = s.predict_orientation({', '.join([model, *named])})")
        comments = {"phases": _names_of(self.phases), "signal_mask": "mask", "center": "center"}
        used = ["model"] if unnamed else []
        used += [text for name, text in comments.items() if given[name] in ("phases", "mask", "center")]
        head = [f"# given to the viewer: {', '.join(used)}"] if used else []
        return "\n".join(["import pyxem_dl", "", *head, *lines])

    def iterate(self, signal, stopped: Callable, say: Callable):
        """Make the map, and yield it as it grows.

        Parameters
        ----------
        signal : pyxem.signals.Diffraction2D
            It stays as it is.
        stopped : callable
            ``stopped()`` says whether to stop; what is done is kept.
        say : callable
            Called with each line of the announcement.

        Yields
        ------
        Growing
            Now and then, always the same object; the last one is as far as it came.
        """
        model = load_model(self.model)
        limits = dict(model.thresholds) | (self.thresholds or {})
        if self.scales is not None:
            signal = signal.isig[:, :]  # with axes of its own, and the same data
            for axis, scale in zip(signal.axes_manager.signal_axes, self.scales, strict=True):
                axis.scale = scale
        reading = Reading(None, self.signal_mask, self.center, self.beam_energy)
        computing = Computing(self.device, show_progressbar=False, on_message=say)
        job = orientation_job(signal, model, self.phases, False, self.n_best, 0, reading, computing)
        growing, shown, pause = None, time.monotonic(), _PATIENCE
        for partial in job.iterate():
            growing = growing or Growing(job.assemble, partial, limits, self)
            if stopped():
                break
            if time.monotonic() - shown > pause:
                drawn = time.monotonic()
                yield growing
                shown = time.monotonic()
                pause = max(_PATIENCE, (shown - drawn) / _SHARE)
        if growing is not None:
            yield growing


@dataclass(eq=False)
class Growing:
    """A map as far as it is done; its thresholds may still change.

    Parameters
    ----------
    assemble : PredictedMap
        Makes the map.
    partial : Partial
        What is done.
    thresholds : dict
        Those that it was asked with.
    recipe : Recipe
        How it is made.
    """

    assemble: object
    partial: Partial
    thresholds: dict
    recipe: Recipe

    def code(self, thresholds: dict) -> str:
        """Lines of Python that make it, with other thresholds where they are given."""
        return replace(self.recipe, thresholds=(self.recipe.thresholds or {}) | thresholds).code()

    def to_map(self, thresholds: dict | None = None):
        """Make the map with these thresholds; by default with those that it was asked with."""
        limits = self.thresholds | (thresholds or {})
        return self.partial.to_result(replace(self.assemble, thresholds=limits))


def _as_code(model) -> str:
    """How a model is named in code: bundled ones and folders by their names, others by a variable."""
    if isinstance(model, (str, Path)):
        return repr(str(model))
    if isinstance(model, (list, tuple)):
        names = [_as_code(each) for each in model]
        return "model" if "model" in names else f"[{', '.join(names)}]"
    bundled = getattr(model, "bundled_name", None)
    return "model" if bundled is None else repr(bundled)


def _names_of(phases) -> str:
    """Say which phases are asked for: code cannot hold them."""
    several = list(phases) if isinstance(phases, (list, tuple)) else [phases]
    names = [str(getattr(each, "name", each)) for each in several]
    return f"phases ({', '.join(names)})"


def _phases_as_code(phases) -> str | None:
    if phases is None:
        return None
    several = list(phases) if isinstance(phases, (list, tuple)) else [phases]
    if not all(isinstance(each, (str, Path)) for each in several):
        return "phases"
    names = [repr(str(each)) for each in several]
    return names[0] if len(names) == 1 else f"[{', '.join(names)}]"


def _center_as_code(center) -> str | None:
    if center is None or isinstance(center, str):
        return None if center is None else repr(center)
    if np.shape(center) == (2,):
        row, column = (float(each) for each in center)
        return f"({row!r}, {column!r})"
    return "center"
