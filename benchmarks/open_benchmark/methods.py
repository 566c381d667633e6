"""What pyxem_dl and pyxem find, as answers that are scored like anybody else's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from open_benchmark.crystals import NAMES as CRYSTAL_NAMES, phase_of
from open_benchmark.patterns import Patterns

#: Of each pattern
CANDIDATES = 3


def methods(refine=None) -> dict[str, Callable]:
    """Functions from a signal and a phase to a crystal map, by the names of their rows.

    Parameters
    ----------
    refine : optional
        Passed to ``predict_orientation`` as `refine`, for two more rows; by default there is none.
    """
    from pyxem_dl import match_templates, predict_orientation

    quiet = {"n_best": CANDIDATES, "show_progressbar": False, "device": "cpu"}
    found = {
        "any-crystal": lambda signal, phase: predict_orientation(signal, phases=phase, **quiet),
        "any-crystal, centre found": lambda signal, phase: predict_orientation(
            signal, phases=phase, center="auto", **quiet
        ),
        "templates, pyxem_dl": lambda signal, phase: match_templates(signal, phase, **quiet),
        "templates, pyxem_dl, centre found": lambda signal, phase: match_templates(
            signal, phase, center="auto", **quiet
        ),
        "templates, pyxem": lambda signal, phase: match_templates(signal, phase, engine="pyxem", **quiet),
    }
    if refine is not None:
        refined = partial(predict_orientation, refine=refine, **quiet)
        found["any-crystal, refined"] = lambda signal, phase: refined(signal, phases=phase)
        settings = {"calibrate": True} | (refine if isinstance(refine, dict) else {})
        calibrated = partial(predict_orientation, refine=settings, center="auto", **quiet)
        found["any-crystal, centre found, refined and calibrated"] = lambda signal, phase: calibrated(
            signal, phases=phase
        )
    return found


def signal_of(patterns: np.ndarray, scale: float, center: float, beam_energy: float):
    """Make a pyxem signal of patterns (n, rows, columns), with the calibration that a user is told."""
    from pyxem_dl.frames import Calibration
    from pyxem_dl.scans import make_signal

    calibration = Calibration((scale, scale), (center, center), patterns.shape[1:], beam_energy)
    return make_signal(patterns, calibration, "open benchmark")


def answers_of(method: Callable, data: Patterns) -> np.ndarray:
    """Run a method on the patterns of each crystal.

    Returns
    -------
    array, shape (n, k, 4)
        Quaternions, lab to crystal; NaN where nothing was indexed.
    """
    answers = np.full((len(data.ids), CANDIDATES, 4), np.nan)
    for name in CRYSTAL_NAMES:
        here = np.flatnonzero(data.crystals == name)
        if not len(here):
            continue
        signal = signal_of(data.patterns[here], data.scale, data.center, data.beam_energy)
        xmap = method(signal, phase_of(name))
        found = xmap.rotations.data.reshape(xmap.size, -1, 4)
        found = np.where((xmap.phase_id >= 0)[:, None, None], found, np.nan)
        answers[here, : found.shape[1]] = found
    return answers
