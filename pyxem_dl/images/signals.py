"""From arrays of frames to HyperSpy's signals, in memory or lazy."""

from __future__ import annotations

import hashlib

import numpy as np

from pyxem_dl.images.series import Images
from pyxem_dl.scans import Computing, Step
from pyxem_dl.scans.sent import SentStep


def maps_of(signal, values, title: str, *, signal_class=None, step: int = 1, further: tuple | None = None):
    """Make a signal of what was found in each frame.

    Parameters
    ----------
    signal : hyperspy.signals.Signal2D
        The images, whose axes it gets.
    values : array, shape (frames, ..., rows, columns) or (frames, rows, columns, m)
        In memory or lazy; without the first axis for one image.
    title : str
        Of the signal.
    signal_class : class, optional
        By default Signal2D; of a Signal1D rows and columns are navigation axes.
    step : int
        Pixels of the images between the values.
    further : tuple, optional
        Name, offset and scale of one more axis, before rows and columns.
    """
    from hyperspy.signals import Signal2D

    signal_class = Signal2D if signal_class is None else signal_class
    made = signal_class(values)
    made = made.as_lazy() if hasattr(values, "dask") and not made._lazy else made
    manager, old = made.axes_manager, signal.axes_manager
    x, y = old.signal_axes
    if signal_class is Signal2D:
        new = manager.signal_axes
        others = list(manager.navigation_axes)
    else:
        new, others = manager.navigation_axes[:2], list(manager.navigation_axes[2:])
    for axis, source in zip(new, (x, y)):
        # the middle of the pixels that belong to a place
        _name_as(axis, source)
        axis.scale = source.scale * step
        axis.offset = source.offset + source.scale * (step - 1) / 2
    if further is not None:
        others[0].name, others[0].offset, others[0].scale = further
        others = others[1:]
    for axis, source in zip(others, old.navigation_axes):
        _name_as(axis, source)
        if source.is_uniform:
            axis.scale, axis.offset = source.scale, source.offset
    made.metadata.General.title = f"{title} of {signal.metadata.General.title}".removesuffix(" of ")
    return made


def _name_as(axis, source) -> None:
    """Give an axis name and unit of another one, where it has them."""
    for key in ("name", "units"):
        if isinstance(getattr(source, key), str):
            setattr(axis, key, getattr(source, key))


def lazy_frames(images: Images, step: Step, name: str, computing: Computing):
    """Dask array of one field of a step, a chunk of some frames at a time.

    Parameters
    ----------
    images : Images
        Lazy.
    step : Step
        What is done with each frame.
    name : str
        Of the field.
    computing : Computing
        Where; its callbacks are not called.
    """
    field = step.fields[name]
    data = images.data if images.data.ndim == 3 else images.data[None]
    data = data.rechunk({1: -1, 2: -1})
    block = LazyFrames(SentStep(step, computing), name)
    chunks = (data.chunks[0], *((n,) for n in field.shape))
    made = data.map_blocks(
        block, dtype=field.dtype, chunks=chunks, drop_axis=[1, 2], new_axis=list(range(1, 1 + len(field.shape))),
        meta=np.empty((0,) * (1 + len(field.shape)), field.dtype),
    )  # fmt: skip
    return made if images.data.ndim == 3 else made[0]


class LazyFrames:
    """Does a step with a chunk of frames; dask knows it by a token of its content.

    Parameters
    ----------
    step : SentStep
        What is done.
    name : str
        Of its field.
    """

    def __init__(self, step: SentStep, name: str) -> None:
        self._step, self._name = step, name

    def __dask_tokenize__(self) -> tuple:
        return type(self).__name__, *self._step.__dask_tokenize__(), hashlib.sha256(self._name.encode()).hexdigest()

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        """Field of frames (n, rows, columns)."""
        field = self._step.load().fields[self._name]
        found = np.zeros((len(frames), *field.shape), field.dtype)
        for part in self._step.compute(np.arange(len(frames)), frames):
            found[part.indices] = part.arrays[self._name]
        return found
