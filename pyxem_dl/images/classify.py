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
from pyxem_dl.images.series import Images, check_window, warn_of_unusable
from pyxem_dl.images.steps import USABLE, FrameStep, in_threads
from pyxem_dl.images.symmetry import gaussian
from pyxem_dl.images.waves import Scales, Waves
from pyxem_dl.messages import warn
from pyxem_dl.models import StructureModel, load_model
from pyxem_dl.models.structure import bits
from pyxem_dl.records import made_by
from pyxem_dl.results.map_files import map_target
from pyxem_dl.results.structures import StructureAssembly, StructureMaps, WindowGrid
from pyxem_dl.scans import Collected, Computing, Field, Job, Target

if TYPE_CHECKING:
    from orix.crystal_map import CrystalMap

    from pyxem_dl.annotations import Image

# Pixels in Å to which images are binned, windows of a micro-batch, predictions that nobody waits for
_BEST_PIXEL, _MICRO_BATCH, _MOST_SAMPLES = 0.24, 256, 1000
# Distances of windows in standard deviations from which neighbours do not count, and the least probability
_NO_NEIGHBOURS, _LEAST = 0.27, 1e-6
# What the best-fitting scale may differ from 1 by without a warning
_FAR_SCALE = 0.02


def classify_structure(
    signal: Image,
    model: str | Path | StructureModel = "fe-cu-ti",
    *,
    step: float = 1.6,
    smoothing: float = 1.6,
    n_best: int = 1,
    n_samples: int = 20,
    device: str | torch.device = "auto",
    output: str | Path | None = None,
    overwrite: bool = False,
    show_progressbar: bool | None = None,
    on_part: Callable | None = None,
    on_message: Callable | None = None,
) -> CrystalMap | StructureMaps:
    """Name the structure in every window of an atomic-resolution image, with its orientation.

    Parameters
    ----------
    signal : hyperspy.signals.Signal2D
        One image or a series with one navigation axis, calibrated in nm, pm or Å, in memory or lazy.
    model : str, pathlib.Path or StructureModel
        Name of a bundled model, a model folder, the address of a shared model (see :func:`pyxem_dl.load_model`), or a
        loaded model.
    step : float
        Between windows, in Å.
    smoothing : float
        Neighbouring windows are heard, too, with the weights of a Gaussian of this standard deviation in Å: their
        logarithms of probabilities are averaged.  Noise makes windows wrong one by one, a structure fills many.  0:
        each window by itself.
    n_best : int
        Number of classes to keep per window, the likeliest first.
    n_samples : int
        Predictions with dropout, from which the mutual information comes; 0 predicts once.
    output : str or pathlib.Path, optional
        Write the results as they come: into a zarr store ``.zarr``, from which :func:`pyxem_dl.open_result` reads them,
        or for one image into a map, ``.h5``, ``.ang`` or ``.ctf``.  A second call with the same signal, model and
        settings continues after an interruption.
    overwrite : bool
        Replace an `output` that is there and belongs to other work.
    device, show_progressbar, on_part, on_message
        As for :func:`segment_by_symmetry`.

    Returns
    -------
    orix.crystal_map.CrystalMap
        Of a series a sequence of them, one for each frame, which are made when they are asked for.  Rotations lab to
        crystal: the zone axis along the beam and the angle in the image make an orientation, modulo 180 degrees about
        the beam.  ``phase_id`` is -1 where what is there is none of the model's structures.  Coordinates are those of
        the middles of the windows, from the middle of the first pixel, in the unit of the signal, y down.  Properties:

        * ``score``, ``scores``: probability of the class, and of the `n_best`.
        * ``class_id`` (n,), or (n, n_best): index into ``model.class_names``.
        * ``other``: probability that it is none of the classes.
        * ``entropy``: of the probabilities, in bits; ``mutual_information``: how much the predictions of the window
          alone disagree, in bits, at most the entropy.
        * ``scale``: of the lattice, relative to that of the phase, to half a percent: 1.02 everywhere means that the
          calibration makes the image 2 % too large.
        * ``alternatives`` (n, m): classes that cannot be told apart from the likeliest within the tolerance of the
          calibration, filled up with -1; only for models that have some.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        For a signal without a scale, in colours, complex, of diffraction or constant; pixels that are too large for the
        model; an image that is smaller than a window; a model that is none of structures; an `output` that cannot be.

    Warns
    -----
    UserWarning
        If hardly any window is one of the model's structures; if the best-fitting scale is off by more than 2 %, with
        both numbers; if the image seems saturated; if frames cannot be used, with their number.
    """
    model = load_model(model)
    if not isinstance(model, StructureModel):
        raise TypeError(f"{model!r} does not tell structures in images: give a model of `train_structures`.")
    model.check_thresholds()
    step = number("step", step, 0, above=True)
    smoothing = number("smoothing", smoothing, 0)
    n_best = whole_number("n_best", n_best, 1, len(model.classes))
    n_samples = whole_number("n_samples", n_samples, 0, _MOST_SAMPLES)
    computing = Computing(device, 1, show_progressbar, on_part, on_message)
    images = Images.from_signal(signal)
    target = _target(output, overwrite, images)
    places = _places(images, model, step)
    images.sample(1)
    lines = {"Images": images.describe(), "Model": model.name, "Windows": f"{places.rows} x {places.columns} per image"}
    work = StructureStep(model, places, n_samples, n_best, smoothing)
    assembly = _Reporting(_assembly(model, places, images, signal), images, computing)
    settings = [model.fingerprint, list(places), n_samples, n_best, smoothing]
    record = made_by(
        "classify_structure", signal=signal, model=model, phases=[phase.name for phase in model.phases], step=step,
        smoothing=smoothing, n_best=n_best, n_samples=n_samples, pixel=images.calibration.pixel,
    )  # fmt: skip
    title = "Classification of structures"
    return Job(title, lines, images, work, computing, assembly, settings, signal, record=record).run(target)


def _target(output, overwrite: bool, images: Images) -> Target | None:
    target = map_target(output, overwrite)
    if target is not None and images.shape and not target.is_store:
        raise ValueError(
            f"{str(output)!r} holds one map, and this is a series of {images.size} images: give an output that ends in "
            ".zarr, and open it with `pyxem_dl.open_result`."
        )
    return target


@dataclass(frozen=True, eq=False)
class _Reporting:
    """Makes the maps, and says what there is to say of them."""

    assembly: StructureAssembly
    images: Images
    computing: Computing

    kind = StructureAssembly.kind

    def __call__(self, found: Collected):
        assembly, arrays = self.assembly, found.arrays
        warn_of_unusable(arrays[USABLE][found.done])
        is_one = assembly.indexed(arrays)
        if (is_one[found.done].mean(1) < 0.05).all():
            names = ", ".join(phase.name for phase in assembly.phases)
            warn(
                f"Hardly any window is one of the model's structures, of {names}. Is the scale right "
                f"({self.images.calibration.pixel:.4g} Å per px), and are these the structures that may be there?"
            )
        if is_one.any():
            self._say_scale(float(np.median(arrays["scale"][is_one])))
        return assembly(found)

    def _say_scale(self, scale: float) -> None:
        pixel = self.images.calibration.pixel
        self.computing.say(f"  Scale that fits best: {scale:.3f} of the phases' lattices (median)")
        if abs(scale - 1) > _FAR_SCALE:
            warn(
                f"The lattices are {scale:.3f} times those of the phases: with {pixel / scale:.4g} Å per px instead of "
                f"{pixel:.4g} they would agree. Check the calibration of the image, and the phases."
            )

    def to_dict(self) -> dict:
        return self.assembly.to_dict()


def _assembly(model: StructureModel, places: Places, images: Images, signal) -> StructureAssembly:
    x, y = signal.axes_manager.signal_axes
    # the middle of the first window, and from one to the next
    first, step = (places.binning * places.size - 1) / 2, places.step * places.binning
    scales = abs(float(x.scale)), abs(float(y.scale))
    grid = WindowGrid(
        places.rows, places.columns, tuple(first * s for s in scales), tuple(step * s for s in scales), str(x.units)
    )
    return StructureAssembly(
        images.shape, grid, model.phases, [i for i, _ in model.classes],
        [crystal.quaternion.tolist() for crystal in model.crystals], model.alternatives, model.thresholds["other"],
    )  # fmt: skip


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
    n_best : int
        Classes to keep.
    smoothing : float
        Standard deviation in Å of the weights of neighbouring windows; 0 for each by itself.
    """

    in_threads, divides, keep_every = False, True, 16

    def __init__(self, model: StructureModel, places: Places, n_samples: int, n_best: int, smoothing: float) -> None:
        self.model, self.places, self.n_samples, self.n_best = model, places, n_samples, n_best
        # in windows; neighbours that weigh less than a thousandth do not count
        sigma = smoothing / (places.step * places.pixel)
        self.sigma = sigma if sigma > _NO_NEIGHBOURS else 0.0
        self.scales: Scales | None = None

    @property
    def found(self) -> dict[str, Field]:
        """Likeliest classes, angles and what tells how sure they are, of each window."""
        return StructureAssembly.fields(self.places.rows * self.places.columns, self.n_best)

    def prepare(self, device: torch.device) -> None:
        """Get the network onto the device."""
        self.model.to(device)
        waves, window = [Waves.of_crystal(crystal) for crystal in self.model.crystals], self.model.network.grid.window
        self.scales = Scales(waves, self.places.size, self.places.pixel, window, device)

    def of_frame(self, frame: torch.Tensor, index: int) -> dict[str, torch.Tensor]:
        """Say what is in the windows of a frame."""
        p = self.places
        if p.binning > 1:
            frame = functional.avg_pool2d(frame[None, None], p.binning)[0, 0]
        windows = frame.unfold(0, p.size, p.step).unfold(1, p.size, p.step)[: p.rows, : p.columns]
        flat = torch.arange(p.rows * p.columns).split(_MICRO_BATCH)

        def some(at):
            return windows[at // p.columns, at % p.columns]

        parts = in_threads(lambda at: self.model.predict_batch(some(at), p.pixel, self.n_samples), flat, frame.device)
        made = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        if self.sigma:
            made |= hear_neighbours(made, self.model.network.folds, (p.rows, p.columns), self.sigma)
        scores, best = made["probabilities"][:, :-1].topk(self.n_best, 1)
        angle = made["angle"].gather(1, best)
        scales = in_threads(lambda at: self.scales(some(at), best[at, 0], angle[at, 0]), flat, frame.device)
        return {
            "class_id": best.short(), "scores": scores, "angle": angle, "other": made["probabilities"][:, -1],
            "mutual_information": made["mutual_information"], "entropy": made["entropy"], "scale": torch.cat(scales),
        }  # fmt: skip

    def of_nothing(self, like: torch.Tensor) -> dict[str, torch.Tensor]:
        """Say that it is none of the classes, for certain, where a frame cannot be used."""
        made = {name: like.new_zeros(field.shape) for name, field in self.found.items()}
        nothing = {"other": made["other"] + 1, "scale": made["scale"] * torch.nan, "class_id": made["class_id"].short()}
        return made | nothing


def hear_neighbours(
    made: dict[str, torch.Tensor], folds: tuple[int, ...], shape: tuple[int, int], sigma: float
) -> dict[str, torch.Tensor]:
    """Let each window of an image hear its neighbours.

    Parameters
    ----------
    made : dict of tensor
        What :meth:`StructureModel.predict_batch` says of the windows, row by row.
    folds : tuple of int
        Of the classes' spectra.
    shape : tuple of int
        Rows and columns of windows.
    sigma : float
        Standard deviation of the neighbours' weights, in windows.

    Returns
    -------
    dict of tensor
        The same, of all of them together: the normalised geometric mean of probabilities, angles weighted by them.
    """
    def over(columns):  # (windows, classes) to an image of each class
        return columns.T.reshape(-1, *shape)

    p = made["probabilities"].clamp_min(_LEAST)
    together = gaussian(over(p.log()), sigma).softmax(0).flatten(1).T
    fold = torch.tensor(folds, device=p.device, dtype=p.dtype)
    wave = torch.polar(p[:, :-1], fold * made["angle"])
    real, imaginary = gaussian(over(wave.real), sigma), gaussian(over(wave.imag), sigma)
    angle = torch.atan2(imaginary, real).flatten(1).T / fold
    entropy = bits(together)
    return {
        "probabilities": together, "angle": angle, "entropy": entropy,
        "mutual_information": torch.minimum(made["mutual_information"], entropy),
    }  # fmt: skip
