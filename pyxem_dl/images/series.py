"""Images and image series: a signal in which everything that the methods need is checked."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from pyxem_dl.checks import whole_number
from pyxem_dl.frames import ImageCalibration
from pyxem_dl.messages import warn
from pyxem_dl.preprocessing import as_float32, check_patterns
from pyxem_dl.scans import Positions

# Frames from which a series is learnt
_MOST_FRAMES = 6
# A share of the pixels at the highest value above which a warning says so
_SATURATED = 0.005
# Frames that a warning names
_SHOWN = 5
# Side of an image in pixels, at least
_SMALLEST = 32
_DIFFRACTION = ("electron_diffraction", "diffraction", "polar_diffraction", "beam_shift")


@dataclass
class Images:
    """An image, or a series of them, as the runner of a verb takes it.

    Parameters
    ----------
    data : numpy.ndarray or dask.array.Array, shape (rows, columns) or (frames, rows, columns)
        Grey values.
    calibration : ImageCalibration
        Of each.
    navigation_mask : array of bool, shape (n,)
        True where a frame is excluded.
    positions : Positions
        Of the frames.
    """

    data: object
    calibration: ImageCalibration
    navigation_mask: np.ndarray
    positions: Positions

    signal_mask = None
    centers = None

    @classmethod
    def from_signal(cls, signal) -> Images:
        """Check a signal.

        Parameters
        ----------
        signal : hyperspy.signals.Signal2D
            One image, or a series with one navigation axis; in memory or lazy.

        Raises
        ------
        TypeError, ValueError
            For what is no image, has no scale, is complex or in colours; the message says what to do.
        """
        calibration = check_images(signal)
        data = signal.data
        manager = signal.axes_manager
        order = [a.index_in_array for a in (*manager.navigation_axes[::-1], *manager.signal_axes[::-1])]
        data = data if order == sorted(order) else data.transpose(order)
        shape = data.shape[:-2]
        positions = Positions.of_axes(manager.navigation_axes, shape)
        return cls(data, calibration, np.zeros(int(np.prod(shape, dtype=int)), dtype=bool), positions)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the navigation."""
        return self.positions.shape

    @property
    def size(self) -> int:
        """Number of frames."""
        return self.navigation_mask.size

    @property
    def n_patterns(self) -> int:
        """Number of frames that are not excluded."""
        return int((~self.navigation_mask).sum())

    @property
    def is_lazy(self) -> bool:
        """Whether the frames are read when they are needed."""
        return hasattr(self.data, "dask")

    def forget_sample(self) -> None:
        """Nothing is kept."""

    def without_data(self) -> Images:
        """All but the frames."""
        return replace(self, data=None)

    def sample(self, most: int = _MOST_FRAMES) -> np.ndarray:
        """Read some frames (n, rows, columns), spread evenly; those that can be used.

        Raises
        ------
        ValueError
            If none of them can be used.
        """
        frames = self.data if self.data.ndim == 3 else self.data[None]
        chosen = np.unique(np.linspace(0, len(frames) - 1, min(most, len(frames))).astype(int))
        read = [frames[int(i)] for i in chosen]
        read = [as_float32(np.asarray(x.compute() if hasattr(x, "compute") else x)) for x in read]
        usable = [each.numpy() for each in map(usable_frame, map(torch.from_numpy, read)) if each is not None]
        if not usable:
            raise ValueError(
                "The image is constant, saturated or not finite, so that nothing can be seen in it."
                if len(frames) == 1 else f"None of {len(read)} frames that were looked at can be used: each is "
                "constant, saturated or not finite."
            )
        _warn_if_not_finite(read)
        warn_if_saturated(usable[0])
        return np.stack(usable)

    def describe(self) -> str:
        """Frames, pixels and scale in a line."""
        rows, columns = self.calibration.shape
        return f"{self.size} of {rows} x {columns} px, {self.calibration.pixel:.4g} Å per px"


def check_images(signal) -> ImageCalibration:
    """Make sure that a signal holds calibrated images; errors name the remedy.

    Parameters
    ----------
    signal : hyperspy.signals.Signal2D
        To be checked.

    Returns
    -------
    ImageCalibration
    """
    if not hasattr(signal, "axes_manager"):
        raise TypeError(f"Expected a HyperSpy signal, not {type(signal).__name__}.")
    if getattr(signal, "_signal_type", "") in _DIFFRACTION:
        raise ValueError(
            f"This is a diffraction signal ({type(signal).__name__}); images are needed. If it holds images: "
            '`s.set_signal_type("")`.'
        )
    if signal.data.dtype.names is not None:
        raise TypeError(
            'The image is in colours (RGB). Make it grey: `s.change_dtype("uint8")`, then the mean of the colours, '
            "`s.mean(axis='RGB index')`."
        )
    kind = np.dtype(signal.data.dtype).kind
    if kind == "c":
        raise TypeError(f"The image is complex ({signal.data.dtype}): give `s.real`, `s.amplitude` or `s.phase`.")
    dimensions = signal.axes_manager.navigation_dimension
    if dimensions > 1:
        raise ValueError(
            f"A series of images has one navigation axis, this signal has {dimensions}: give one series at a time, for "
            "example `s.inav[:, 0]`."
        )
    calibration = ImageCalibration.from_signal(signal)
    check_patterns(signal.data)
    if min(calibration.shape) < _SMALLEST:
        raise ValueError(f"The images have {calibration.shape} px; at least {_SMALLEST} along each side are needed.")
    return calibration


def check_window(name: str, window: float, calibration: ImageCalibration, largest: float = 1.0) -> None:
    """Make sure that a window in Å is smaller than the image; the error has both numbers."""
    if window > largest * min(calibration.size):
        raise ValueError(
            f"{name} is {window:g} Å, but the image has {calibration.size[0]:.4g} x {calibration.size[1]:.4g} Å: take "
            "a smaller window, or a larger part of the image, and check its scale."
        )


def checked_seed(seed) -> int:
    """Return a seed as an int."""
    return whole_number("seed", seed, 0, 2**31 - 1)


def usable_frame(frame: torch.Tensor) -> torch.Tensor | None:
    """Frame whose values that are not finite are the median of the others; None where nothing can be seen in it.

    A frame of which half is not finite, that is constant or empty, or of which half has the highest value (saturated)
    cannot be used.
    """
    finite = torch.isfinite(frame)
    values = frame[finite]
    if 2 * len(values) < frame.numel():
        return None
    highest = values.max()
    if bool((values.min() == highest) | (2 * (values == highest).sum() > frame.numel())):
        return None
    return torch.where(finite, frame, values.median())


def warn_of_unusable(usable: np.ndarray) -> None:
    """Say how many frames could not be used, if there are any."""
    n = int((~usable).sum())
    if n:
        first = ", ".join(map(str, np.flatnonzero(~usable)[:_SHOWN])) + (", ..." if n > _SHOWN else "")
        warn(
            f"{n} of {len(usable)} frames could not be used ({first}): constant, empty, saturated or not finite. "
            "Nothing is found in them."
        )


def _warn_if_not_finite(frames: list[np.ndarray]) -> None:
    """Say which share of the pixels of some frames is not finite."""
    shares = [1 - float(np.isfinite(each).mean()) for each in frames]
    some = [share for share in shares if 0 < share <= 0.5]  # the others cannot be used, which is said elsewhere
    if some:
        warn(f"Up to {100 * max(some):.2g} % of the pixels are not finite: they count as the median of the others.")


def warn_if_saturated(image: np.ndarray) -> None:
    """Say which share of the pixels has the highest value, where that is a large one."""
    share = float((image == image.max()).mean())
    if share > _SATURATED and len(np.unique(image[:64, :64])) > 2:
        warn(f"{100 * share:.2g} % of the pixels have the highest value, {image.max():g}: the image seems saturated.")
