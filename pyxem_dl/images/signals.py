"""From arrays of frames to HyperSpy's signals, in memory or lazy."""

from __future__ import annotations

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


def lazy_frames(images: Images, step: Step, computing: Computing) -> dict:
    """Dask arrays of the fields of a step, a chunk of some frames at a time.

    Parameters
    ----------
    images : Images
        Lazy.
    step : Step
        What is done with each frame.
    computing : Computing
        Where; its callbacks are not called.

    Returns
    -------
    dict of dask.array.Array
        Fields that are computed together share the work: a frame is then read once.
    """
    data = images.data if images.data.ndim == 3 else images.data[None]
    data = data.rechunk({1: -1, 2: -1})
    work = SentStep(step, computing)
    # all fields of a chunk in one object, from which each array takes its own
    whole = data.map_blocks(
        LazyFrames(work), dtype=object, chunks=((1,) * len(data.chunks[0]),), drop_axis=[1, 2],
        meta=np.empty(0, object),
    )  # fmt: skip
    made = {}
    for name, field in step.fields.items():
        chunks = (data.chunks[0], *((n,) for n in field.shape))
        new = list(range(1, 1 + len(field.shape)))
        array = whole.map_blocks(
            _field_of, name=f"{name}-{whole.name}", field=name, dtype=field.dtype, chunks=chunks, new_axis=new or None,
            meta=np.empty((0,) * (1 + len(field.shape)), field.dtype),
        )  # fmt: skip
        made[name] = array if images.data.ndim == 3 else array[0]
    return made


def _field_of(whole: np.ndarray, field: str) -> np.ndarray:
    return whole[0][field]


class LazyFrames:
    """Does a step with a chunk of frames; dask knows it by a token of its content.

    Parameters
    ----------
    step : SentStep
        What is done.
    """

    def __init__(self, step: SentStep) -> None:
        self._step = step

    def __dask_tokenize__(self) -> tuple:
        return type(self).__name__, *self._step.__dask_tokenize__()

    def __call__(self, frames: np.ndarray, block_info: dict | None = None) -> np.ndarray:
        """All fields of frames (n, rows, columns), as the one element of an array."""
        step = self._step.load()
        first = block_info[0]["array-location"][0][0] if block_info else 0
        found = {name: np.zeros((len(frames), *field.shape), field.dtype) for name, field in step.fields.items()}
        for part in self._step.compute(first + np.arange(len(frames)), frames):
            for name, values in found.items():
                values[part.indices - first] = part.arrays[name]
        whole = np.empty(1, dtype=object)
        whole[0] = found
        return whole
