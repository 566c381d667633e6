"""What a fitted phase field is: parameters with errors, the series without noise, and what is left."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

SYMBOLS = {
    "diffusivity": "D", "interface_length": "l", "front_velocity": "v", "background": "b", "contrast": "c",
    "drift_x": "drift_x", "drift_y": "drift_y",
}  # fmt: skip
# Interfaces that are shorter than this (px) are bounds only; a relative error above which nothing is known
SHORTEST, _UNKNOWN = 1.5, 0.25


@dataclass(frozen=True)
class Parameter:
    """A number with its error.

    Parameters
    ----------
    value, error : float
        Best value and standard deviation.
    unit : str
        Of both.
    flag : str
        "" (measured), "upper bound" (of an interface that is shorter than the pixels can show), or "not determined" (by
        this series: the error is more than a quarter of the value).
    """

    value: float
    error: float
    unit: str = ""
    flag: str = ""

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        digits = max(0, min(8, 1 - math.floor(math.log10(self.error)))) if 0 < self.error < math.inf else 4
        text = f"{self.value:.{digits}f} ± {self.error:.{digits}f} {self.unit}".rstrip()
        return f"{text} ({self.flag})" if self.flag else text


class Parameters(dict):
    """Parameters by name, or by symbol: D, l, v, b, c."""

    def __missing__(self, key):
        for name, symbol in SYMBOLS.items():
            if name in self and key in (symbol, "ℓ" if symbol == "l" else symbol):
                return self[name]
        raise KeyError(f"{key!r} is none of {', '.join(map(repr, self))}")

    def __str__(self) -> str:
        width = max(map(len, self))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in self.items())


@dataclass(frozen=True, eq=False)
class PhaseFieldFit:
    """A phase-field equation, fitted to a series.

    Parameters
    ----------
    equation, engine : str
        Which.
    parameters : Parameters
        In the units of the signal: ``diffusivity`` (length² / time), ``interface_length``, ``front_velocity``
        (Allen-Cahn), ``background`` and ``contrast`` (grey values), ``drift_x`` and ``drift_y``.
    pixel_parameters : Parameters
        The same in px and frames.
    signal : hyperspy.signals.LazySignal2D
        The series without noise, on the axes of the one that was fitted.
    residuals : hyperspy.signals.LazySignal2D
        The series less that.
    noise : str
        Likelihood, "poisson" or "gaussian".
    noise_scale : float
        Variance over level, or variance.
    deviance : float
        Of the residuals per grey value, in units of the noise: about 1 where the equation fits.
    structure : float
        The same of means over 4 x 4 pixels: well above 1 where something is in the series that the equation does not
        say.
    held_out : dict
        With ``equation="auto"``: mean deviance of frames that were not fitted, for each equation.
    interrupted : bool
        Whether the search was stopped before its end.
    seconds : float
        That it took.
    """

    equation: str
    engine: str
    parameters: Parameters
    pixel_parameters: Parameters
    signal: object
    residuals: object
    noise: str
    noise_scale: float
    deviance: float
    structure: float
    held_out: dict = field(default_factory=dict)
    interrupted: bool = False
    seconds: float = 0.0

    @property
    def flags(self) -> dict[str, str]:
        """Parameters that are bounds, or that the series does not determine, and why."""
        return {name: each.flag for name, each in self.parameters.items() if each.flag}

    def to_dict(self) -> dict:
        """Plain numbers, for a file."""
        return {
            "equation": self.equation, "engine": self.engine, "noise": self.noise, "noise_scale": self.noise_scale,
            "deviance": self.deviance, "structure": self.structure, "held_out": dict(self.held_out),
            "interrupted": self.interrupted, "seconds": self.seconds,
            "parameters": {
                name: {"value": p.value, "error": p.error, "unit": p.unit, "flag": p.flag}
                for name, p in self.parameters.items()
            },
        }  # fmt: skip

    def __str__(self) -> str:
        head = f"{self.equation.title()} equation, by the {self.engine}, {self.noise} noise:"
        tail = f"deviance {self.deviance:.3f} per value, {self.structure:.2f} of means over 4 x 4 px"
        lines = [head, *(f"  {line}" for line in str(self.parameters).splitlines()), f"  {tail}"]
        if self.held_out:
            compared = ", ".join(f"{name} {value:.4f}" for name, value in self.held_out.items())
            lines.append(f"  deviance of held-out frames: {compared}")
        return "\n".join(lines)


def parameters_of(
    values: dict[str, float], errors: dict[str, float], pixel: tuple[float, str] = (1.0, "px"),
    interval: tuple[float, str] = (1.0, "frame"),
) -> Parameters:  # fmt: skip
    """Parameters in units, from values and errors in px and frames."""
    (size, length), (time, clock) = pixel, interval
    scales = {
        "diffusivity": (size**2 / time, f"{length}²/{clock}"), "interface_length": (size, length),
        "front_velocity": (size / time, f"{length}/{clock}"), "drift_x": (size / time, f"{length}/{clock}"),
        "drift_y": (size / time, f"{length}/{clock}"), "background": (1.0, ""), "contrast": (1.0, ""),
    }  # fmt: skip
    found = Parameters()
    for name, value in values.items():
        scale, unit = scales[name]
        found[name] = Parameter(value * scale, errors[name] * scale, unit, _flag(name, value, errors[name]))
    return found


def _flag(name: str, value: float, error: float) -> str:
    if name == "interface_length" and value < SHORTEST:
        return "upper bound"
    if name in ("diffusivity", "interface_length") and not error < _UNKNOWN * value:
        return "not determined"
    return ""
