"""Simulated series of a phase field with the truth: fronts that move, circles that shrink, a labyrinth, a spinodal."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.fft import dctn, idctn
from scipy.ndimage import distance_transform_edt, gaussian_filter

from pyxem_dl.checks import number, whole_number

#: Kinds of start fields of each equation
GEOMETRIES = {"allen-cahn": ("labyrinth", "circles", "front"), "cahn-hilliard": ("spinodal", "labyrinth")}
# Nodes of the grid per pixel, pixels around the image that are simulated, too, and the step of time in units of the
# shortest time of each equation
_FINE, _AROUND, _STEP = 2, 24, 0.1
# Of a spinodal: time until the first frame, in e-folding times of the fastest wave, and the amplitude at its start
_GROWN, _SEEDS = 4.5, 0.1


class PhaseFieldSeries(NamedTuple):
    """A simulated series.

    ``signal``: HyperSpy's ``Signal2D``, counts, with one navigation axis; ``order``: array (frames, rows, columns), the
    order parameter from -1 to 1; ``parameters``: dict of what is true, in px and frames.
    """

    signal: object
    order: np.ndarray
    parameters: dict[str, float]


def phase_field_series(
    equation: str = "allen-cahn", geometry: str | None = None, shape: tuple[int, int] = (96, 96), frames: int = 24, *,
    diffusivity: float | None = None, interface_length: float = 2.5, velocity: float = 0.1, counts: float = 10.0,
    contrast: float = 0.5, drift: tuple[float, float] = (0.0, 0.0), seed: int = 0,
) -> PhaseFieldSeries:  # fmt: skip
    """Simulate a series of a field that follows the Allen-Cahn or the Cahn-Hilliard equation.

    The scheme is none of those that :func:`pyxem_dl.fit_phase_field` knows: finite differences and explicit steps for
    the first equation, cosine series and half implicit steps for the second one, two nodes per pixel, far more steps,
    and a frame of material around what is seen.

    Parameters
    ----------
    equation : {"allen-cahn", "cahn-hilliard"}
        As :func:`pyxem_dl.fit_phase_field` has them.
    geometry : str, optional
        "labyrinth", "circles" or "front" for the first, "spinodal" or "labyrinth" for the second equation; by default
        the first of these.
    shape : tuple of int
        Of a frame, (rows, columns) in px.
    frames : int
        How many.
    diffusivity : float, optional
        D in px² per frame; by default 0.5, for the second equation 1.
    interface_length, velocity : float
        Length of the interface in px, and velocity of a flat front in px per frame (first equation only; where it is
        positive, the bright phase grows).
    counts, contrast : float
        Mean of both phases' counts per pixel, and their difference over their sum.
    drift : tuple of float
        (x, y) by which the picture moves from a frame to the next one, in px.
    seed : int
        Of geometry and noise.
    """
    if equation not in GEOMETRIES:
        raise ValueError(f"equation must be one of {', '.join(map(repr, GEOMETRIES))}, not {equation!r}.")
    geometry = GEOMETRIES[equation][0] if geometry is None else geometry
    if geometry not in GEOMETRIES[equation]:
        known = ", ".join(map(repr, GEOMETRIES[equation]))
        raise ValueError(f"geometry must be one of {known} for {equation!r}, not {geometry!r}.")
    conserved = equation == "cahn-hilliard"
    d = (1.0 if conserved else 0.5) if diffusivity is None else number("diffusivity", diffusivity, 0, above=True)
    length = number("interface_length", interface_length, 0.5)
    v = 0.0 if conserved else number("velocity", velocity)
    frames = whole_number("frames", frames, 1, 10_000)
    number("contrast", contrast, 0, 1, above=True)
    rng = np.random.default_rng(seed)
    field = _start(geometry, shape, length, rng)
    if geometry == "spinodal":
        field = _conserved(field, d, length, _GROWN * 2 * length**2 / d)
    elif conserved or geometry == "labyrinth":
        # corners and wrong profiles of the start relax before the first frame
        field = (_conserved if conserved else _moved)(field, d, length, length**2 / d, 0.0)
    order = []
    for i in range(frames):
        if i:
            field = (_conserved if conserved else _moved)(field, d, length, 1.0, v)
        order.append(_seen(field, shape, i * np.array(drift[::-1])))
    order = np.stack(order)
    expected = counts * (1 + contrast * order)
    values = rng.poisson(expected.clip(0)).astype(np.float32)
    true = {
        "diffusivity": d, "interface_length": length, "background": counts, "contrast": counts * contrast,
        "drift_x": drift[0], "drift_y": drift[1],
    }  # fmt: skip
    return PhaseFieldSeries(_signal(values), order, true if conserved else true | {"front_velocity": v})


def _start(geometry: str, shape, length: float, rng) -> np.ndarray:
    """Field at the start, on the fine grid with what lies around."""
    size = [(n + 2 * _AROUND) * _FINE for n in shape]
    if geometry == "spinodal":
        return gaussian_filter(rng.normal(size=size), length * _FINE / 2) * _SEEDS * length * _FINE * np.sqrt(np.pi)
    y, x = np.meshgrid(*[(np.arange(n) + 0.5) / _FINE - _AROUND for n in size], indexing="ij")
    if geometry == "front":
        turned = rng.uniform(0, 2 * np.pi)
        distance = (x - shape[1] / 2) * np.cos(turned) + (y - shape[0] / 2) * np.sin(turned)
    elif geometry == "circles":
        distance = np.full(size, -np.inf)
        radius = min(shape) / 6.5
        for row, column in ((0.27, 0.27), (0.73, 0.3), (0.3, 0.74), (0.74, 0.74)):
            r = radius * rng.uniform(0.75, 1.1)
            distance = np.maximum(distance, r - np.hypot(y - row * shape[0], x - column * shape[1]))
    else:
        waves = gaussian_filter(rng.normal(size=size), 2.6 * length * _FINE)
        inside = waves > np.median(waves)
        distance = (distance_transform_edt(inside) - distance_transform_edt(~inside)) / _FINE
    return np.tanh(distance / length)


def _moved(field: np.ndarray, d: float, length: float, time: float, v: float) -> np.ndarray:
    """Allen-Cahn: explicit steps on nine points, mirrored at the edges."""
    n = int(np.ceil(time * d * _FINE**2 / _STEP))
    dt = time / n
    for _ in range(n):
        p = np.pad(field, 1, mode="edge")
        near = p[1:-1, 2:] + p[1:-1, :-2] + p[2:, 1:-1] + p[:-2, 1:-1]
        far = p[2:, 2:] + p[:-2, :-2] + p[2:, :-2] + p[:-2, 2:]
        laplacian = (4 * near + far - 20 * field) * (_FINE**2 / 6)
        mixed = 1 - field**2
        field = field + dt * (d * (laplacian + 2 / length**2 * field * mixed) + v / length * mixed)
    return field


def _conserved(field: np.ndarray, d: float, length: float, time: float, v: float = 0.0) -> np.ndarray:
    """Cahn-Hilliard: half implicit steps of second order (SBDF2) in cosine series."""
    n = max(2, int(np.ceil(time * d / (2 * _STEP * length**2 / 8))))
    dt = time / n
    k = [np.pi * np.arange(m) / m * _FINE for m in field.shape]
    square = (k[0][:, None] ** 2 + k[1][None] ** 2).astype(np.float32)
    bent = d * square * (2 + length**2 / 2 * square)
    spectrum = dctn(field.astype(np.float32), norm="ortho")
    before, pushed = None, None
    for _ in range(n):
        field = idctn(spectrum, norm="ortho")
        push = -d * square * dctn(field**3 - 3 * field, norm="ortho")
        if before is None:
            new = _first(spectrum, push, bent, d, square, dt)
        else:
            new = (4 * spectrum - before + 2 * dt * (2 * push - pushed)) / (3 + 2 * dt * bent)
        before, pushed, spectrum = spectrum, push, new
    return idctn(spectrum, norm="ortho")


def _first(spectrum, push, bent, d: float, square, dt: float):
    """First step, for which there is none before it: extrapolated from one whole and two half steps."""
    whole = (spectrum + dt * push) / (1 + dt * bent)
    half = (spectrum + dt / 2 * push) / (1 + dt / 2 * bent)
    field = idctn(half, norm="ortho")
    push = -d * square * dctn(field**3 - 3 * field, norm="ortho")
    return 2 * (half + dt / 2 * push) / (1 + dt / 2 * bent) - whole


def _seen(field: np.ndarray, shape, moved) -> np.ndarray:
    """Mean over each pixel of the image, which the drift has moved (rows, columns)."""
    if np.any(moved):
        from scipy.ndimage import shift

        field = shift(field, np.asarray(moved) * _FINE, order=3, mode="nearest")
    inside = field[tuple(slice(_AROUND * _FINE, (_AROUND + n) * _FINE) for n in shape)]
    return inside.reshape(shape[0], _FINE, shape[1], _FINE).mean(axis=(1, 3))


def _signal(values: np.ndarray):
    from hyperspy.signals import Signal2D

    signal = Signal2D(values)
    time, x, y = signal.axes_manager._axes[0], *signal.axes_manager.signal_axes
    time.name, time.scale, time.units = "time", 1.0, "s"
    for axis, name in ((x, "x"), (y, "y")):
        axis.name, axis.scale, axis.units = name, 1.0, "nm"
    signal.metadata.General.title = "Simulated phase field"
    return signal
