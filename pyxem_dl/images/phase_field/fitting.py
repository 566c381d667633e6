"""The face: a phase-field equation is fitted to a series of images."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from pyxem_dl.checks import flag
from pyxem_dl.devices import on_one_core, resolve_device
from pyxem_dl.images.phase_field.blocks import LENGTH, lazy
from pyxem_dl.images.phase_field.equations import EQUATIONS
from pyxem_dl.images.phase_field.problem import Noise
from pyxem_dl.images.phase_field.result import PhaseFieldFit, parameters_of
from pyxem_dl.images.phase_field.solver import Search, SolverEngine
from pyxem_dl.images.phase_field.start import Series, guess, warn_without_scale
from pyxem_dl.images.signals import maps_of
from pyxem_dl.messages import say, warn
from pyxem_dl.progress import progressbar
from pyxem_dl.records import made_by, with_record

if TYPE_CHECKING:
    from pyxem_dl.annotations import Image

ENGINES, LIKELIHOODS = ("solver", "network"), ("auto", "poisson", "gaussian")
# Every how many frames one is held out to choose an equation
_HELD_OUT = 4
# Pixels along a side of the means by which structure is looked for, and their deviance that is too much
_MEANS, _STRUCTURE = 4, 1.3


def fit_phase_field(
    signal: Image,
    equation: str = "allen-cahn",
    *,
    engine: str = "solver",
    noise: str = "auto",
    drift: bool = False,
    device: str | torch.device = "auto",
    show_progressbar: bool | None = None,
    on_part: Callable | None = None,
    on_message: Callable | None = None,
) -> PhaseFieldFit:
    """Fit the Allen-Cahn or the Cahn-Hilliard equation to a noisy series of images.

    The grey value is ``background + contrast × φ``, with the order parameter φ at −1 and 1 in the two phases:

    - Allen-Cahn: dφ/dt = D (∇²φ + 2 φ (1 − φ²) / ℓ²) + v (1 − φ²) / ℓ, where v > 0 lets the bright phase grow;
    - Cahn-Hilliard: dφ/dt = D ∇²(φ³ − φ − ℓ²/2 ∇²φ).

    In both a flat interface is tanh(x / ℓ), 2.2 ℓ wide from 10 to 90 %.  Mobility, gradient coefficient and height of
    the wells are not identifiable from images, only D, ℓ and v are.

    Parameters
    ----------
    signal : hyperspy.signals.Signal2D
        A series with one navigation axis, time, in memory or lazy; at least 4 frames of 32 x 32 px.  Interfaces must be
        wider than the pixels, and the atomic lattice must not be visible.
    equation : {"allen-cahn", "cahn-hilliard", "auto"}
        Which; "auto" fits both without every fourth frame, and takes the one that tells these frames better.
    engine : {"solver", "network"}
        "solver" fits the start field of a differentiable solver; "network" a smooth network of (x, y, t) with the
        equation's residual as a loss, the published way.  The first is faster and more accurate.
    noise : {"auto", "poisson", "gaussian"}
        Whether the variance is in proportion to the grey value (counts, also with a gain) or the same everywhere; by
        default as the series shows it.
    drift : bool
        Fit a steady drift of the picture, too.
    device : str or torch.device
        "auto" (CUDA, else MPS, else CPU) or a name of torch.
    show_progressbar : bool, optional
        By default HyperSpy's preference.
    on_part : callable, optional
        Called with (share that is done, dict of parameters in px and frames) after each step; returning False stops the
        search as Ctrl-C does, with the best parameters so far
        (while "auto" compares equations, with nothing).
    on_message : callable, optional
        Called with each line that would be printed.

    Returns
    -------
    PhaseFieldFit
        ``parameters`` (value ± error, in units of the signal), ``signal`` (the series without noise, lazy),
        ``residuals`` (lazy), ``flags`` of what is only a bound or not determined.

    Raises
    ------
    ValueError, TypeError
        For a series of fewer than 4 frames, frames that are constant or not finite, a visible lattice, a series without
        an interface, negative counts, a signal in colours, complex, or of diffraction.  The message says what to do.

    Warns
    -----
    UserWarning
        Where the interface is shorter than 1.5 px (its length is an upper bound then), where the series does not tell a
        parameter, where the residuals have structure, where the images have no scale.
    """
    for name, value, known in (
        ("equation", equation, (*EQUATIONS, "auto")), ("engine", engine, ENGINES), ("noise", noise, LIKELIHOODS),
    ):  # fmt: skip
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, known))}, not {value!r}.")
    flag("drift", drift)
    series = Series.from_signal(signal)
    warn_without_scale(series)
    levels = guess(series.read(slice(0, min(LENGTH, series.shape[0]))), noise)
    tell = say if on_message is None else on_message
    frames, rows, columns = series.shape
    tell(f"Phase field: {frames} frames of {rows} x {columns} px, {levels.noise.kind} noise, engine: {engine}")
    started = time.monotonic()
    job = _Job(signal, series, levels, engine, drift, resolve_device(device), show_progressbar, on_part)
    held_out = {}
    if equation == "auto":
        held_out = {name: job.compared(name) for name in EQUATIONS}
        equation = min(held_out, key=held_out.get)
        tell("Deviance of held-out frames: " + ", ".join(f"{name} {x:.4f}" for name, x in held_out.items()))
    found = job.run(equation)
    asked = {"equation": equation, "engine": engine, "noise": levels.noise.kind, "drift": drift}
    record = made_by("fit_phase_field", signal=signal, pixel=series.pixel, interval=series.interval, **asked)
    fit = with_record(job.result(equation, found, held_out, time.monotonic() - started), record)
    for each in (fit.signal, fit.residuals):
        with_record(each, record)
    tell(str(fit))
    _warn(fit)
    return fit


class _Job:
    """A fit with all that it was asked with."""

    def __init__(self, signal, series, levels, engine, drift, device, show, on_part) -> None:
        self.signal, self.series, self.levels, self.engine = signal, series, levels, engine
        self.drift, self.device, self.show, self.on_part = drift, device, show, on_part

    def run(self, equation: str, held_out: np.ndarray | None = None) -> Search:
        """Let an engine search."""
        from pyxem_dl.images.phase_field.pinn import NetworkEngine

        engines = {"solver": SolverEngine, "network": NetworkEngine}
        with progressbar(100, self.show, " %") as bar, on_one_core():
            bar.set_description(equation)

            def on_step(share: float, values: dict) -> bool:
                bar.update(int(100 * share) - bar.n)
                bar.set_postfix({name: f"{values[name]:.3g}" for name in EQUATIONS[equation].names})
                return self.on_part is None or self.on_part(share, values) is not False

            run = engines[self.engine](
                EQUATIONS[equation], self.levels, self.drift, self.device, on_step, held_out
            )
            found = run.run(self.series)
            if not found.interrupted:
                bar.update(100 - bar.n)  # a search ends before its last step where nothing changes any more
            return found

    def compared(self, equation: str) -> float:
        """Mean deviance of frames that are held out."""
        frames = self.series.shape[0]
        held_out = np.arange(frames) % _HELD_OUT == _HELD_OUT - 1
        found = self.run(equation, held_out)
        if found.interrupted:
            raise KeyboardInterrupt("Stopped before the equations were compared: nothing is kept.")
        return _deviance(self.series, found, self.levels.noise, np.flatnonzero(held_out))[0]

    def result(self, equation: str, found: Search, held_out: dict, seconds: float) -> PhaseFieldFit:
        """Make what the user gets."""
        series, shape = self.series, self.series.shape[1:]
        made = lazy(found.fitted, found.chunks, shape)
        data = series.data if hasattr(series.data, "dask") else _as_dask(series.data, found.chunks)
        noise = self.levels.noise
        deviance, structure = _deviance(series, found, noise, np.arange(min(series.shape[0], LENGTH)))
        plain = found.values, found.errors
        return PhaseFieldFit(
            equation, self.engine, parameters_of(*plain, series.pixel, series.interval), parameters_of(*plain),
            maps_of(self.signal, made, "Phase field"),
            maps_of(self.signal, data.astype(np.float32) - made, "Residuals"),
            noise.kind, noise.scale, deviance, structure, held_out, found.interrupted, seconds,
        )  # fmt: skip


def _as_dask(data: np.ndarray, chunks: tuple[int, ...]):
    import dask.array as da

    return da.from_array(data, chunks=(chunks, -1, -1))


def _deviance(series: Series, found: Search, noise: Noise, frames: np.ndarray) -> tuple[float, float]:
    """Mean deviance of some frames, in units of the noise, and that of means over some pixels."""
    each, means = [], []
    expected = found.fitted(int(frames[0]), int(frames[-1]) + 1)[frames - frames[0]]
    for i, made in zip(frames, expected, strict=True):
        seen, made = series.read(slice(int(i), int(i) + 1))[0], torch.from_numpy(made)
        made = made.clamp(min=1e-6) if noise.kind == "poisson" else made
        away = (torch.from_numpy(seen) - made) * noise.weight(made).sqrt()
        each.append(float(away.square().mean()))
        rows, columns = (n // _MEANS for n in away.shape)
        blocks = away[: rows * _MEANS, : columns * _MEANS].reshape(rows, _MEANS, columns, _MEANS).mean(dim=(1, 3))
        means.append(float(blocks.square().mean()) * _MEANS**2)
    return float(np.mean(each)), float(np.mean(means))


def _warn(fit: PhaseFieldFit) -> None:
    length = fit.pixel_parameters["interface_length"]
    if fit.interrupted:
        warn("The search was stopped: these are the best parameters so far, and their errors are unknown.")
        return
    if length.flag == "upper bound":
        warn(
            f"The interface is {length.value:.2f} px long, less than 1.5 px: its length is an upper bound only, and D "
            "may be off with it. Record at a higher magnification."
        )
    for name, why in fit.flags.items():
        if why == "not determined":
            each = fit.parameters[name]
            warn(
                f"The series does not determine {name}: {each.value:.3g} ± {each.error:.3g} {each.unit}. A flat front, "
                "for example, tells nothing of the diffusivity, and what hardly moves nothing of any."
            )
    if fit.structure > _STRUCTURE * max(fit.deviance, 1.0):
        warn(
            f"The residuals have structure: means over 4 x 4 px scatter {fit.structure:.2f} times as much as noise, "
            f"single values {fit.deviance:.2f} times. Try another equation, or drift=True."
        )
