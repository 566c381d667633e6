"""What a series must be for a phase field: read, checked, and a first guess of levels, noise and start fields."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, maximum_filter

from pyxem_dl.frames import length_unit
from pyxem_dl.images.phase_field.problem import Noise
from pyxem_dl.images.series import warn_if_saturated
from pyxem_dl.messages import warn
from pyxem_dl.preprocessing import as_float32, check_patterns

# Frames and pixels along a side, at least
_FRAMES, _SIDE = 4, 32
_DIFFRACTION = ("electron_diffraction", "diffraction", "polar_diffraction", "beam_shift")
# Widths by which noise is smoothed away (frames, px), and by how many deviations of what is left two levels differ
_SMOOTH, _APART, _RAREST = (1.5, 2.0, 2.0), 4.0, 0.002
# A lattice: waves of at least this many per px, or of so many per image in two directions, whose power is above all
# others some bins away by this factor
_FASTEST, _SLOW, _PEAK, _CORE, _RING = 0.09, 6.0, 8.0, 2, 5
# By how much a smoothed interface is made steeper, and the most that a smoothed field is believed
_SHARPER, _SURE = 1.2, 0.97
# How often the margin is smoothed between the image's edges
_RELAXED = 300


@dataclass
class Series:
    """A series of frames as the fit takes it.

    Parameters
    ----------
    data : numpy.ndarray or dask.array.Array, shape (frames, rows, columns)
        Grey values.
    pixel, interval : tuple of (float, str)
        Length of a pixel and time between two frames, with their units.
    """

    data: object
    pixel: tuple[float, str]
    interval: tuple[float, str]

    @classmethod
    def from_signal(cls, signal) -> Series:
        """Check a signal; errors say what to do."""
        if not hasattr(signal, "axes_manager"):
            raise TypeError(f"Expected a HyperSpy signal, not {type(signal).__name__}.")
        if getattr(signal, "_signal_type", "") in _DIFFRACTION:
            raise ValueError(
                f"This is a diffraction signal ({type(signal).__name__}); images are needed. If it holds images: "
                '`s.set_signal_type("")`.'
            )
        if signal.data.dtype.names is not None:
            raise TypeError(
                'The images are in colours (RGB). Make them grey: `s.change_dtype("uint8")`, then their mean.'
            )
        if np.dtype(signal.data.dtype).kind == "c":
            raise TypeError("The images are complex: give `s.real`, `s.amplitude` or `s.phase`.")
        manager = signal.axes_manager
        if manager.signal_dimension != 2 or manager.navigation_dimension > 1:
            raise ValueError(
                f"A series of images has one navigation axis and two signal axes, this signal has "
                f"{manager.navigation_dimension} and {manager.signal_dimension}: `s.transpose(...)` or `s.inav[...]`."
            )
        frames = manager.navigation_axes[0].size if manager.navigation_dimension else 1
        if frames < _FRAMES:
            raise ValueError(
                f"The series has {frames} frame{'s' * (frames > 1)}; how a field moves needs at least {_FRAMES}. A "
                "stack of files becomes a series with `hs.load('*.tif', stack=True)`."
            )
        x, y = manager.signal_axes
        if min(x.size, y.size) < _SIDE:
            raise ValueError(f"The frames have {y.size} x {x.size} px; at least {_SIDE} along each side are needed.")
        order = [a.index_in_array for a in (manager.navigation_axes[0], y, x)]
        check_patterns(signal.data)
        return cls(signal.data.transpose(order), length_unit(signal), _interval(manager.navigation_axes[0]))

    @property
    def shape(self) -> tuple[int, int, int]:
        """(frames, rows, columns)."""
        return tuple(self.data.shape)

    def read(self, part: slice) -> np.ndarray:
        """Read some frames as float32; a ValueError for those that cannot be used."""
        frames = self.data[part]
        frames = as_float32(np.asarray(frames.compute() if hasattr(frames, "compute") else frames))
        finite = np.isfinite(frames)
        bad = ~finite.reshape(len(frames), -1).all(1) | (np.ptp(np.where(finite, frames, 0), axis=(1, 2)) == 0)
        if bad.any():
            names = ", ".join(str(i + (part.start or 0)) for i in np.flatnonzero(bad)[:5])
            raise ValueError(
                f"{int(bad.sum())} frames are constant or not finite (frame {names}): leave them out, for example "
                "`s.inav[:10]`, or replace their bad pixels."
            )
        return frames


def _interval(axis) -> tuple[float, str]:
    unit = str(axis.units)
    if unit in ("", "<undefined>", "None") or not axis.is_uniform or not axis.scale > 0:
        return 1.0, "frame"
    return float(axis.scale), unit


@dataclass
class Guess:
    """First guess of what the grey values are.

    Parameters
    ----------
    background, contrast : float
        Levels: the mean of both phases, and half of their difference.
    noise : Noise
        Of the grey values.
    """

    background: float
    contrast: float
    noise: Noise


def guess(frames: np.ndarray, noise: str) -> Guess:
    """Make a first guess of levels and noise, and make sure that there are an interface and no lattice.

    Parameters
    ----------
    frames : array, shape (frames, rows, columns)
        First frames of a series.
    noise : {"auto", "poisson", "gaussian"}
        Kind.

    Raises
    ------
    ValueError
        Where the atomic lattice is visible, or nothing but noise; for negative counts.
    """
    _no_lattice(frames)
    warn_if_saturated(frames[0])
    variance, by_level = _variances(frames)
    smooth = gaussian_filter(frames, _SMOOTH, mode="nearest")
    background, contrast, share = _levels(smooth)
    left = math.sqrt(variance * np.prod([1 / (2 * math.sqrt(math.pi) * s) for s in _SMOOTH]))
    if contrast < _APART * left or share < _RAREST:
        raise ValueError(
            f"There is no interface in the series: its two levels differ by {2 * contrast:.3g}, and smoothed noise "
            f"alone scatters by {left:.3g}. A field with both phases is needed, or more counts: sum frames, "
            "`s.rebin(scale=(2, 1, 1))`."
        )
    if noise == "poisson" and frames.min() < 0:
        raise ValueError(
            f"Counts are not negative, but the lowest grey value is {frames.min():g}: give noise='gaussian', or add "
            "back the background that was subtracted."
        )
    if noise == "auto":
        noise = _kind(by_level, frames)
    if noise == "poisson":
        scale = variance / float(frames[:, 1:-1, 1:-1].mean())
        return Guess(background, min(contrast, 0.95 * background), Noise("poisson", scale))
    return Guess(background, contrast, Noise("gaussian", max(variance, (0.01 * contrast) ** 2)))


def _levels(smooth: np.ndarray) -> tuple[float, float, float]:
    """Mean of two levels, half of their difference, and the share of the rarer one."""
    low, high = np.percentile(smooth, [1, 99])
    inside = smooth > (low + high) / 2
    return (low + high) / 2, max((high - low) / 2, 1e-12), float(min(inside.mean(), 1 - inside.mean()))


def _variances(frames: np.ndarray) -> tuple[float, np.ndarray]:
    """Variance of the noise, and (mean, variance) where frames are dark and where they are bright."""
    # differences of frames, so that interfaces that stand still do not count
    change = (frames[1:] - frames[:-1]) / math.sqrt(2)
    bent = change[:, :-2] - 2 * change[:, 1:-1] + change[:, 2:]
    bent = bent[:, :, :-2] - 2 * bent[:, :, 1:-1] + bent[:, :, 2:]
    mean = gaussian_filter(frames, _SMOOTH, mode="nearest")[1:, 1:-1, 1:-1]
    low, high = np.percentile(mean, [25, 75])
    squares = bent**2 / 36
    found = [(mean[m].mean(), squares[m].mean()) for m in (mean <= low, mean >= high)]
    return max(float(squares.mean()), 1e-12), np.array(found)


def _kind(by_level: np.ndarray, frames: np.ndarray) -> str:
    """Whether the variance follows the level."""
    (dark, one), (bright, two) = by_level
    if frames.min() < 0 or dark <= 0:
        return "gaussian"
    return "poisson" if two / one > math.sqrt(bright / dark) else "gaussian"


def _no_lattice(frames: np.ndarray) -> None:
    """Make sure that no sharp peaks stand alone in the power of fast waves, or in two directions of slower ones."""
    window = np.outer(*(np.hanning(n) for n in frames.shape[1:]))
    power = np.mean([np.abs(np.fft.rfft2((f - f.mean()) * window)) ** 2 for f in frames], axis=0)
    rows, columns = frames.shape[1:]
    both = np.concatenate([power[:, :0:-1][-np.arange(rows) % rows], power], axis=1)
    middle = power.shape[1] - 1
    ky, kx = np.fft.fftfreq(rows)[:, None], (np.arange(both.shape[1]) - middle) / columns
    k = np.hypot(ky, kx)
    peaks = (k > min(_FASTEST, _SLOW / min(rows, columns))) & (both > _PEAK * _ring(both))
    if not ((peaks & (k > _FASTEST)).any() or _in_two_directions(*np.broadcast_arrays(kx, ky), peaks)):
        return
    near = maximum_filter(peaks, size=2 * _CORE + 1, mode="wrap")
    period = 1 / k[np.unravel_index(np.argmax(np.where(near, both, 0)), both.shape)]
    raise ValueError(
        f"A lattice with a period of {period:.3g} px is visible in the series: a phase field describes what is "
        "left without it. Smooth it away, for example with `scipy.ndimage.gaussian_filter(s.data, "
        f"(0, {period / 2:.2g}, {period / 2:.2g}))`, and bin, or map an order parameter first "
        "(`s.segment_by_symmetry(memberships=True)`)."
    )


def _in_two_directions(kx: np.ndarray, ky: np.ndarray, peaks: np.ndarray) -> bool:
    """Whether peaks are there along lines that are at least 20 degrees apart: a texture may have one by chance."""
    along = np.exp(2j * np.arctan2(ky[peaks], kx[peaks]))
    return len(along) > 1 and bool((along * along[0].conj()).real.min() < np.cos(np.deg2rad(2 * 20)))


def _ring(power: np.ndarray) -> np.ndarray:
    """Largest power some bins away."""
    size = 2 * _RING + 1
    y, x = np.mgrid[:size, :size] - _RING
    distance = np.hypot(y, x)
    return maximum_filter(power, footprint=(distance > _CORE + 0.5) & (distance <= _RING), mode="wrap")


def start_field(frames: np.ndarray, levels: Guess, margin: tuple[tuple[int, int], tuple[int, int]]) -> np.ndarray:
    """First guess of the field at the first frame, in units of the levels, with a margin in which it closes on itself.

    Parameters
    ----------
    frames : array, shape (n, rows, columns)
        First few frames.
    levels : Guess
        Of the grey values.
    margin : tuple of tuple of int
        Pixels above and below, and on the left and on the right.
    """
    field = (gaussian_filter(frames.mean(axis=0), 1.5, mode="nearest") - levels.background) / levels.contrast
    # smoothing has made interfaces wider
    field = np.tanh(_SHARPER * np.arctanh(field.clip(-_SURE, _SURE)))
    field = np.pad(field, margin, mode="edge")
    outside = np.ones(field.shape, dtype=bool)
    outside[tuple(slice(a, n - b) for (a, b), n in zip(margin, field.shape, strict=True))] = False
    for _ in range(_RELAXED):
        mean = sum(np.roll(field, step, axis) for axis in (0, 1) for step in (-1, 1)) / 4
        field[outside] = mean[outside]
    return field.astype(np.float32)


def warn_without_scale(series: Series) -> None:
    """Say that lengths are in px where the signal has no scale."""
    if series.pixel[1] == "px":
        warn(
            "The images have no scale: lengths are in px. Set it, for example `for ax in s.axes_manager.signal_axes: "
            "ax.scale, ax.units = 0.5, 'nm'`."
        )
