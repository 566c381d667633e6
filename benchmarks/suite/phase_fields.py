"""Phase fields: parameters of simulated series, by both engines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np

from pyxem_dl import data
from pyxem_dl.images import fit_phase_field
from suite.tables import header, line

#: Equation, geometry and counts per pixel
SCENES = (
    ("allen-cahn", "labyrinth", 10.0), ("allen-cahn", "circles", 10.0), ("allen-cahn", "labyrinth", 2.0),
    ("cahn-hilliard", "spinodal", 10.0), ("cahn-hilliard", "labyrinth", 10.0), ("cahn-hilliard", "spinodal", 2.0),
)  # fmt: skip
# Series of each
_SERIES = 2


def measure(engine: str, device: str, n: int = _SERIES, scenes=SCENES, **shape) -> Iterator[tuple[str, str, dict]]:
    """Fit series of each kind.

    Yields
    ------
    data, label : str
        What was measured.
    numbers : dict
        Median relative errors ``diffusivity`` and ``length``, absolute error ``velocity`` (px per frame), ``noise``
        that is left of it (root mean square, relative), and ``seconds`` of a series.
    """
    for equation, geometry, counts in scenes:
        found = []
        for seed in range(n):
            made = data.phase_field_series(equation, geometry, counts=counts, seed=seed, **shape)
            start = time.perf_counter()
            fit = fit_phase_field(
                made.signal, equation, engine=engine, device=device, show_progressbar=False, on_message=_nobody
            )
            seconds = time.perf_counter() - start
            values, true = fit.pixel_parameters, made.parameters
            expected = true["background"] + true["contrast"] * made.order
            left = float(np.sqrt(((fit.signal.data.compute() - expected) ** 2).mean() / expected.mean()))
            found.append([
                abs(values["D"].value / true["diffusivity"] - 1), abs(values["l"].value / true["interface_length"] - 1),
                abs(values["v"].value - true["front_velocity"]) if "front_velocity" in true else np.nan, left, seconds,
            ])  # fmt: skip
        names = ("diffusivity", "length", "velocity", "noise", "seconds")
        numbers = dict(zip(names, np.median(found, axis=0).tolist(), strict=True))
        numbers = {name: value for name, value in numbers.items() if not np.isnan(value)}
        yield f"{equation}, {geometry}, {counts:g} counts per pixel", f"engine {engine}", numbers


def _nobody(line: str) -> None:
    """Hear nothing."""


def table(rows: list[dict], letter: Callable) -> str:
    """Write the table."""
    lines = [
        "## Phase fields",
        "",
        f"Simulated series of 96 × 96 pixels and 24 frames, {_SERIES} of each kind, by another scheme than those that"
        " fit them. Median errors of diffusivity and interface length (relative), and of the front's velocity (px per"
        " frame); *noise*: what is left of it in the fitted series.",
        "",
        *header("series", "engine", "diffusivity", "interface", "velocity", "noise", "seconds", "run"),
    ]
    for row in rows:
        velocity = f"{row['velocity']:.3f}" if "velocity" in row else ""
        lines.append(line(
            row["data"], row["predictor"].removeprefix("engine "), f"{100 * row['diffusivity']:.1f} %",
            f"{100 * row['length']:.1f} %", velocity, f"{100 * row['noise']:.1f} %", f"{row['seconds']:.0f}",
            letter(row),
        ))  # fmt: skip
    return "\n".join(lines)
