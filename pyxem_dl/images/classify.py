"""Structures in atomic-resolution images: which crystal, seen along which zone axis, turned by how much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from pyxem_dl.checks import number, whole_number
from pyxem_dl.images.segmentation import FrameStep
from pyxem_dl.images.series import Images, check_window
from pyxem_dl.messages import warn
from pyxem_dl.models import StructureModel, load_model
from pyxem_dl.results.maps import to_crystal_map
from pyxem_dl.scans import Collected, Computing, Field, Job

if TYPE_CHECKING:
    from orix.crystal_map import CrystalMap

    from pyxem_dl.annotations import Image

# Pixels in Å to which images are binned, windows of a micro-batch, predictions that nobody waits for
_BEST_PIXEL, _MICRO_BATCH, _MOST_SAMPLES = 0.24, 256, 1000
# Columns of what is found beside the probabilities and the angles
_MORE = ("mutual_information", "entropy")


def classify_structure(
    signal: Image,
    model: str | Path | StructureModel = "fe-cu-ti",
    *,
    step: float = 1.6,
    n_best: int = 1,
    n_samples: int = 20,
    device: str | torch.device = "auto",
    show_progressbar: bool | None = None,
    on_part: Callable | None = None,
    on_message: Callable | None = None,
) -> CrystalMap | list[CrystalMap]:
    """Name the structure in every window of an atomic-resolution image, with its orientation.

    Parameters
    ----------
    signal : hyperspy.signals.Signal2D
        One image or a series with one navigation axis, calibrated in nm, pm or Å, in memory or lazy.
    model : str, pathlib.Path or StructureModel
        Name of a bundled model, a model folder, or a loaded model.
    step : float
        Between windows, in Å.
    n_best : int
        Number of classes to keep per window, the likeliest first.
    n_samples : int
        Predictions with dropout, from which the mutual information comes; 0 predicts once.
    device, show_progressbar, on_part, on_message
        As for :func:`segment_by_symmetry`.

    Returns
    -------
    orix.crystal_map.CrystalMap
        A list of them, one for each frame, of a series.  Rotations lab to crystal: the zone axis along the beam and
        the angle in the image make an orientation, modulo 180 degrees about the beam.  ``phase_id`` is -1 where what is
        there is none of the model's structures.  Coordinates are those of the middles of the windows, from the middle
        of the first pixel, in the unit of the signal, y down.  Properties:

        * ``score``, ``scores``: probability of the class, and of the `n_best`.
        * ``class_id`` (n,), or (n, n_best): index into ``model.class_names``.
        * ``other``: probability that it is none of the classes.
        * ``mutual_information``, ``entropy``: of the predictions, in bits.
        * ``alternatives`` (n, m): classes that cannot be told apart from the likeliest within the tolerance of the
          calibration, filled up with -1; only for models that have some.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        For a signal without a scale, in colours, complex, of diffraction or constant; pixels that are too large for the
        model; an image that is smaller than a window; a model that is none of structures.

    Warns
    -----
    UserWarning
        If hardly any window is one of the model's structures; if the image seems saturated.
    """
    model = load_model(model)
    if not isinstance(model, StructureModel):
        raise TypeError(f"{model!r} does not tell structures in images: give a model of `train_structures`.")
    model.check_thresholds()
    step = number("step", step, 0, above=True)
    n_best = whole_number("n_best", n_best, 1, len(model.classes))
    n_samples = whole_number("n_samples", n_samples, 0, _MOST_SAMPLES)
    computing = Computing(device, 1, show_progressbar, on_part, on_message)
    images = Images.from_signal(signal)
    places = _places(images, model, step)
    images.sample(1)
    work = StructureStep(model, places, n_samples)
    lines = {"Images": images.describe(), "Model": model.name, "Windows": f"{places.rows} x {places.columns} per image"}
    assembly = _Maps(images.shape, model, places, _Axes.of(signal), n_best)
    maps = Job("Classification of structures", lines, images, work, computing, assembly, [], signal).run()
    if all((xmap.phase_id == -1).mean() > 0.95 for xmap in maps):
        warn(
            f"Hardly any window is one of {', '.join(model.class_names)}. Is the scale right "
            f"({images.calibration.pixel:.4g} Å per px), and are these the structures that may be there?"
        )
    return maps if images.shape else maps[0]


class Places(NamedTuple):
    """Windows of an image: pixels that are binned, a binned pixel in Å, size and distance of windows in these."""

    binning: int
    pixel: float
    size: int
    step: int
    rows: int
    columns: int


def _places(images: Images, model: StructureModel, step: float) -> Places:
    """Choose windows; errors have both numbers."""
    calibration, window = images.calibration, model.network.arguments["window"]
    check_window("The model's window", window, calibration)
    smallest, largest = model.domain["pixel"]
    if calibration.pixel > largest:
        raise ValueError(
            f"The pixels are {calibration.pixel:.4g} Å wide, but the model {model.name!r} needs at most "
            f"{largest:g} Å: record the image at a higher magnification, and check its scale."
        )
    binning = max(1, round(_BEST_PIXEL / calibration.pixel))
    while binning > 1 and binning * calibration.pixel > largest:
        binning -= 1
    pixel = binning * calibration.pixel
    size, every = int(np.ceil(window / pixel)) + 1, max(1, round(step / pixel))
    rows, columns = ((n // binning - size) // every + 1 for n in calibration.shape)
    if min(rows, columns) < 1:
        sides = " x ".join(f"{side:.4g}" for side in calibration.size)
        raise ValueError(f"The image of {sides} Å is smaller than a window of {window:g} Å.")
    return Places(binning, pixel, size, every, rows, columns)


class StructureStep(FrameStep):
    """Names the structures in frames.

    Parameters
    ----------
    model : StructureModel
        Which knows them.
    places : Places
        Of the windows.
    n_samples : int
        Predictions with dropout.
    """

    in_threads, keep_every = False, 16

    def __init__(self, model: StructureModel, places: Places, n_samples: int) -> None:
        self.model, self.places, self.n_samples = model, places, n_samples

    @property
    def fields(self) -> dict[str, Field]:
        """Probabilities, angles and what tells how sure they are, of each window."""
        shape, n = (self.places.rows * self.places.columns,), len(self.model.classes)
        more = {name: Field(shape, "float32") for name in _MORE}
        return {"probabilities": Field((*shape, n + 1), "float32"), "angle": Field((*shape, n), "float32"), **more}

    def prepare(self, device: torch.device) -> None:
        """Get the network onto the device."""
        self.model.to(device)

    def __call__(self, frames: torch.Tensor, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Say what is in the windows of frames; "none" is certain where a frame cannot be used."""
        found = [self._frame(frame) if frame is not None else self._nothing(frames) for frame in self._each(frames)]
        return {name: torch.stack([each[name] for each in found]) for name in self.fields}

    def _frame(self, frame: torch.Tensor) -> dict[str, torch.Tensor]:
        p = self.places
        if p.binning > 1:
            frame = functional.avg_pool2d(frame[None, None], p.binning)[0, 0]
        windows = frame.unfold(0, p.size, p.step).unfold(1, p.size, p.step)[: p.rows, : p.columns]
        flat = torch.arange(p.rows * p.columns)

        def predict(some: torch.Tensor):
            row, column = some // p.columns, some % p.columns
            made = self.model.predict_batch(windows[row, column], p.pixel, self.n_samples)
            return tuple(made[name] for name in self.fields)

        # one after the other: dropout draws from the one generator that torch has
        columns = zip(*(predict(some) for some in flat.split(_MICRO_BATCH)))
        return dict(zip(self.fields, map(torch.cat, columns)))

    def _nothing(self, like: torch.Tensor) -> dict[str, torch.Tensor]:
        made = {name: like.new_zeros(field.shape) for name, field in self.fields.items()}
        made["probabilities"][:, -1] = 1
        return made


class _Axes(NamedTuple):
    """Scale of the signal axes (x, y) and their unit."""

    scale: tuple[float, float]
    unit: str

    @classmethod
    def of(cls, signal) -> _Axes:
        x, y = signal.axes_manager.signal_axes
        return cls((abs(float(x.scale)), abs(float(y.scale))), str(x.units))


class _Coordinates(NamedTuple):
    """Coordinates of windows, as a crystal map takes them."""

    x: np.ndarray
    y: np.ndarray
    scan_unit: str


@dataclass(frozen=True, eq=False)
class _Maps:
    """Makes the crystal map of each frame."""

    shape: tuple[int, ...]
    model: StructureModel
    places: Places
    axes: _Axes
    n_best: int

    kind = "structures of images"

    def __call__(self, found: Collected) -> list:
        done = np.flatnonzero(found.done)
        return [self._map({name: array[i] for name, array in found.arrays.items()}) for i in done]

    def to_dict(self) -> dict:
        return {"shape": list(self.shape)}

    def _map(self, found: dict):
        model = self.model
        probabilities, n = found["probabilities"], len(found["probabilities"])
        best = np.argsort(-probabilities[:, :-1], axis=1, kind="stable")[:, : self.n_best]
        angle = np.take_along_axis(found["angle"], best, 1)
        phase = np.array([i for i, _ in model.classes])[best]
        other = probabilities[:, -1].astype(float)
        prop = {
            "class_id": best if self.n_best > 1 else best[:, 0], "other": other,
            **{name: found[name].astype(float) for name in _MORE},
        }  # fmt: skip
        most = max(map(len, model.alternatives), default=0)
        if most:
            padded = np.array([[*others, *[-1] * (most - len(others))] for others in model.alternatives])
            prop["alternatives"] = padded[best[:, 0]]
        return to_crystal_map(
            self._coordinates(), model.rotations(best, angle), phase, np.take_along_axis(probabilities, best, 1),
            model.phases, indexed=other <= model.thresholds["other"], is_in_data=np.ones(n, dtype=bool), prop=prop,
        )  # fmt: skip

    def _coordinates(self) -> _Coordinates:
        p = self.places
        row, column = np.divmod(np.arange(p.rows * p.columns), p.columns)
        first = (p.binning * p.size - 1) / 2
        y, x = ((first + each * p.step * p.binning) for each in (row, column))
        return _Coordinates(x * self.axes.scale[0], y * self.axes.scale[1], self.axes.unit)
