"""The lattice of every window of an image: rotation, vectors, strain, and their errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from pyxem_dl.checks import flag, number
from pyxem_dl.devices import on_one_core
from pyxem_dl.images.lattice_map import LatticeMap
from pyxem_dl.images.mapped import Mapped, read_maps
from pyxem_dl.images.nets import fold_of, kinds_of, reciprocal_of
from pyxem_dl.images.series import Images, check_window, warn_of_unusable
from pyxem_dl.images.steps import USABLE, FrameStep, in_threads
from pyxem_dl.images.strains import Strains, measured
from pyxem_dl.images.waves import LARGEST_WINDOW, SHORTEST, WaveFit, Waves
from pyxem_dl.messages import warn
from pyxem_dl.records import made_by
from pyxem_dl.scans import Collected, Computing, Field, Job

if TYPE_CHECKING:
    from pyxem_dl.annotations import Image, Maps

# Å: pixels to which images are binned, and the largest; the smallest window
_BEST_PIXEL, _LARGEST_PIXEL, _SMALLEST_WINDOW = 0.24, 0.5, 4.0
# Cells that a window should hold, windows of a micro-batch, and those that tell which lattices there are
_CELLS, _MICRO_BATCH, _SOME = 2.5, 256, 240
# Standard deviations above chance from which on waves are a lattice
_EVIDENCE = 8.0
_UPPER = np.triu_indices(2)


def map_lattice(
    signal: Image,
    xmap: Maps | None = None,
    *,
    window: float = 12.0,
    step: float = 1.6,
    drift: bool = False,
    device: str | torch.device = "auto",
    show_progressbar: bool | None = None,
    on_part: Callable | None = None,
    on_message: Callable | None = None,
) -> LatticeMap:
    """Measure the lattice in every window of an atomic-resolution image.

    Parameters
    ----------
    signal : hyperspy.signals.Signal2D
        One image or a series with one navigation axis, calibrated in nm, pm or Å, in memory or lazy.
    xmap : orix.crystal_map.CrystalMap, or a sequence of them, optional
        From :func:`classify_structure`, one for each frame of a series: the lattice of each window is compared with
        that of its phase along its zone axis.  Without it lattices are found by the two shortest peaks of the spectra,
        and compared with the typical one of the image.
    window : float
        Side of the windows in Å.  Errors fall with its square, and so does what can be seen of details.
    step : float
        Between windows in Å; with an `xmap` its points are the middles.
    drift : bool
        Fit the drift of a slow scan, as constant shear and stretch along the columns of each frame, and take it away.
        It needs an `xmap`, and what is strained alike everywhere is taken for drift.
    device, show_progressbar, on_part, on_message
        As for :func:`segment_by_symmetry`.

    Returns
    -------
    LatticeMap
        ``rotation`` (degrees), ``a``, ``b`` (Å), ``e_xx``, ``e_yy``, ``e_xy``, each with its ``_error``, as HyperSpy
        signals on the axes of the image; ``score``, ``crystal``, ``drift``; ``save`` and ``plot``.  NaN where nothing
        is periodic, or the lattice is strained by more than 12 %.  The rotation is that of the first vector from x,
        counter-clockwise: with an `xmap` relative to the zone axis' own setting, so that it is the angle which the map
        has; in a range as long as the crystal looks the same after, cut where fewest windows are.

    Raises
    ------
    ValueError, TypeError
        For a signal without a scale, in colours, complex, of diffraction or constant; a map that does not belong to it;
        pixels above half of a spacing that is needed, with both numbers; a window that is larger than the image.

    Warns
    -----
    UserWarning
        If a window holds less than two and a half cells, with both numbers; if no window has a lattice; if frames
        cannot be used, with their number.
    """
    flag("drift", drift)
    if drift and xmap is None:
        raise ValueError("Drift is told from the cell of a known crystal: give xmap, from `classify_structure`.")
    step = number("step", step, 0, above=True)
    computing = Computing(device, 1, show_progressbar, on_part, on_message)
    images, grid = _read(signal, window)
    if xmap is None:
        images_some = images.sample()
        mapped = _everywhere(images, grid, step)
        crystals = _found_crystals(images_some, grid, mapped, computing)
    else:
        images.sample(1)
        mapped = read_maps(xmap, images)
        crystals = [Crystal.of(each) for each in mapped.crystals]
    _check_crystals(crystals, grid)
    work = LatticeStep(grid, mapped, crystals)
    lines = {
        "Images": images.describe(), "Windows": f"{len(mapped.y)} x {len(mapped.x)} of {grid.window:g} Å per image",
        "Lattices": ", ".join(each.name for each in crystals) or "none",
    }  # fmt: skip
    assembly = _Assembly(images.shape, mapped, crystals, grid, bool(drift), _axes_of(signal, mapped), _title_of(signal))
    made_from = None if xmap is None else xmap if hasattr(xmap, "rotations") else xmap[0]
    record = made_by(
        "map_lattice", signal=signal, made_from=made_from, window=grid.window, step=step, drift=drift,
        pixel=images.calibration.pixel,
    )  # fmt: skip
    return Job("Lattices", lines, images, work, computing, assembly, [], signal, record=record).run()


class Grid(NamedTuple):
    """Size of windows in Å, pixels that are binned, a binned pixel in Å, and the side of windows in these."""

    window: float
    binning: int
    pixel: float
    size: int


@dataclass(frozen=True, eq=False)
class Crystal:
    """A crystal whose lattice is fitted.

    Parameters
    ----------
    name : str
        What it is called.
    basis : array, shape (2, 2)
        Its vectors in Å as rows, the first along x.
    waves : Waves
        Of its image.
    """

    name: str
    basis: np.ndarray
    waves: Waves

    @classmethod
    def of(cls, crystal) -> Crystal:
        """Make one of projected columns."""
        return cls(crystal.name, np.asarray(crystal.basis), Waves.of_crystal(crystal))


def _read(signal, window) -> tuple[Images, Grid]:
    images = Images.from_signal(signal)
    window = number("window", window, _SMALLEST_WINDOW, LARGEST_WINDOW)
    check_window("window", window, images.calibration)
    pixel = images.calibration.pixel
    if pixel > _LARGEST_PIXEL:
        raise ValueError(
            f"The pixels are {pixel:.4g} Å wide; columns can be told apart with at most {_LARGEST_PIXEL} Å. If the "
            "scale is right, record the image at a higher magnification."
        )
    binning = max(1, round(_BEST_PIXEL / pixel), math.ceil(window / pixel / WaveFit.most))
    return images, Grid(window, binning, pixel * binning, math.ceil(window / (pixel * binning)))


def _everywhere(images: Images, grid: Grid, step: float) -> Mapped:
    """Windows over all of the image, of no known crystal."""
    every = max(1, round(step / images.calibration.pixel))
    x, y = (np.arange((grid.size * grid.binning - 1) / 2, n - grid.size * grid.binning / 2, every)
            for n in images.calibration.shape[::-1])  # fmt: skip
    shape = 1, len(y), len(x)
    return Mapped([], np.zeros(shape, int), np.zeros(shape), [], x, y)


def _found_crystals(frames: np.ndarray, grid: Grid, mapped: Mapped, computing: Computing) -> list[Crystal]:
    """Lattices that some windows of some frames share."""
    device, rng = computing.torch_device, np.random.default_rng(0)
    n = len(mapped.x) * len(mapped.y)
    found, waves = [], Waves.of_unknown()
    with torch.inference_mode(), on_one_core():
        fit = WaveFit(grid.size, grid.pixel, grid.window, device)
        for frame in frames:
            some = np.sort(rng.choice(n, min(n, -(-_SOME // len(frames))), replace=False))
            cut = Cutter(grid, mapped, frame.shape)
            for part in np.array_split(some, -(-len(some) // _MICRO_BATCH)):
                fitted = fit(cut(torch.from_numpy(frame).to(device), part), waves)
                basis = reciprocal_of(fitted.reciprocal.cpu().double().numpy())
                found.append(np.where(fitted.evidence.cpu().numpy()[:, None, None] > _EVIDENCE, basis, np.nan))
    return [
        Crystal(f"lattice {i}", basis, Waves.of_lattice(basis, fold_of(basis)))
        for i, basis in enumerate(kinds_of(np.concatenate(found)), 1)
    ]


def _check_crystals(crystals: list[Crystal], grid: Grid) -> None:
    for each in crystals:
        spacing = each.waves.second_spacing
        if not spacing:
            raise ValueError(
                f"The image of {each.name} has no two spacings above {SHORTEST:g} Å: no probe shows its columns apart."
            )
        if grid.pixel / grid.binning > spacing / 2:
            raise ValueError(
                f"The pixels are {grid.pixel / grid.binning:.4g} Å wide, more than half of the spacing {spacing:.3g} Å "
                f"of {each.name} without which its lattice cannot be seen: record the image at a higher magnification."
            )
    longest = max((np.linalg.norm(each.basis, axis=1).max() for each in crystals), default=0.0)
    if grid.window < _CELLS * longest:
        warn(
            f"The window is {grid.window:g} Å, and a cell is up to {longest:.3g} Å long: windows should hold two and a "
            f"half cells. Give window={math.ceil(_CELLS * longest)}."
        )


class Cutter:
    """Cuts windows out of a frame, those at its border moved inside.

    Parameters
    ----------
    grid : Grid
        Their size.
    mapped : Mapped
        Their middles.
    shape : tuple of int
        Of the frame.
    """

    def __init__(self, grid: Grid, mapped: Mapped, shape: tuple[int, int]) -> None:
        self.grid = grid
        top, left = (
            np.round((middle + 0.5) / grid.binning - grid.size / 2).clip(0, n // grid.binning - grid.size).astype(int)
            for middle, n in zip((mapped.y, mapped.x), shape)
        )
        self.top, self.left = np.repeat(top, len(left)), np.tile(left, len(top))

    def __call__(self, frame: torch.Tensor, chosen: np.ndarray) -> torch.Tensor:
        """Windows (n, size, size) of a frame, by their flat indices."""
        n, size = self.grid.binning, self.grid.size
        if n > 1:
            frame = functional.avg_pool2d(frame[None, None], n)[0, 0]
        top, left = (torch.as_tensor(each[chosen], device=frame.device) for each in (self.top, self.left))
        return frame.unfold(0, size, 1).unfold(1, size, 1)[top, left]


class LatticeStep(FrameStep):
    """Fits the lattices of frames.

    Parameters
    ----------
    grid : Grid
        Of the windows.
    mapped : Mapped
        Where they lie, and which crystal each holds.
    crystals : list of Crystal
        What may be there: with crystals of a map that of each window; without a map the best of all.
    """

    in_threads, divides, keep_every = False, True, 16

    def __init__(self, grid: Grid, mapped: Mapped, crystals: list[Crystal]) -> None:
        self.grid, self.mapped, self.crystals = grid, mapped, crystals
        self.fit: WaveFit | None = None

    def prepare(self, device: torch.device) -> None:
        """Get what all windows share onto the device."""
        self.fit = WaveFit(self.grid.size, self.grid.pixel, self.grid.window, device)

    @property
    def found(self) -> dict[str, Field]:
        """Reciprocal vectors, their covariance, and what tells how good they are, of each window."""
        n = len(self.mapped.x) * len(self.mapped.y)
        return {
            "reciprocal": Field((n, 4), "float32"), "covariance": Field((n, len(_UPPER[0])), "float32"),
            "score": Field((n,), "float32"), "evidence": Field((n,), "float32"), "crystal": Field((n,), "int16"),
        }  # fmt: skip

    def of_frame(self, frame: torch.Tensor, index: int) -> dict[str, torch.Tensor]:
        """Fit the lattices of the windows of a frame."""
        made, cut = self.of_nothing(frame), Cutter(self.grid, self.mapped, tuple(frame.shape))
        crystal = self.mapped.crystal[index if len(self.mapped.crystal) > 1 else 0].reshape(-1)
        for i, each in enumerate(self.crystals):
            own = np.flatnonzero(crystal == i) if self.mapped.crystals else np.arange(len(crystal))
            parts = np.split(own, range(_MICRO_BATCH, len(own), _MICRO_BATCH)) if len(own) else []
            fitted = in_threads(lambda part, waves=each.waves: self.fit(cut(frame, part), waves), parts, frame.device)
            for part, found in zip(parts, fitted):
                self._put(made, torch.as_tensor(part, device=frame.device), i, found)
        return made

    @staticmethod
    def _put(made: dict, at: torch.Tensor, i: int, fitted) -> None:
        """Keep what is better than what was there."""
        upper = torch.as_tensor(np.stack(_UPPER), device=at.device)
        new = {
            "reciprocal": fitted.reciprocal.flatten(1), "covariance": fitted.covariance[:, upper[0], upper[1]],
            "score": fitted.score, "evidence": fitted.evidence, "crystal": torch.full_like(at, i).short(),
        }  # fmt: skip
        old = {name: values[at] for name, values in made.items()}
        better = fitted.evidence > old["evidence"].nan_to_num(-math.inf)
        for name, values in new.items():
            made[name][at] = torch.where(better.view(-1, *[1] * (values.ndim - 1)), values, old[name])

    def of_nothing(self, like: torch.Tensor) -> dict[str, torch.Tensor]:
        """NaN everywhere."""
        made = {name: like.new_full(field.shape, torch.nan) for name, field in self.found.items()}
        return made | {"crystal": torch.full_like(made["score"], -1).short()}


@dataclass(frozen=True, eq=False)
class _Assembly:
    """Makes the result of what was fitted."""

    shape: tuple[int, ...]
    mapped: Mapped
    crystals: list
    grid: Grid
    drift: bool
    axes: list
    title: str

    kind = "lattices of images"

    def __call__(self, found: Collected) -> LatticeMap:
        arrays, n = found.arrays, len(found.done)
        warn_of_unusable(arrays[USABLE][found.done])
        crystal = np.where(found.done[:, None] & (arrays["evidence"] > _EVIDENCE), arrays["crystal"], -1)
        expected = self.mapped.angle.reshape(len(self.mapped.angle), -1) if self.mapped.crystals else None
        strains = Strains([each.basis for each in self.crystals], [each.waves.fold for each in self.crystals])
        made = measured(strains, crystal, arrays["reciprocal"], arrays["covariance"], expected, self.drift)
        if not (made.crystal >= 0).any():
            warn(
                "No window has a lattice that was found. Is the scale of the image right, and are there columns in it?"
            )
        rows_columns = (len(self.mapped.y), len(self.mapped.x))

        def shaped(values, first: int = 0):
            """Values (..., frames, windows, ...) in the shape of the maps."""
            return values.reshape(*values.shape[:first], *self.shape, *rows_columns, *values.shape[first + 2 :])

        score = np.where(made.crystal >= 0, arrays["score"], np.nan)
        return LatticeMap(
            shaped(made.values, 1), shaped(made.errors, 1), shaped(made.vectors), shaped(made.vector_errors),
            shaped(score), shaped(made.crystal), [each.name for each in self.crystals],
            np.array([each.basis for each in self.crystals]).reshape(-1, 2, 2),
            np.array([360.0 / each.waves.fold for each in self.crystals]),
            made.drift.reshape(*self.shape, 2) if self.drift and n else None, self.axes, self.title,
        )  # fmt: skip

    def to_dict(self) -> dict:
        return {"shape": list(self.shape)}


def _axes_of(signal, mapped: Mapped) -> list[dict]:
    """Axes of the maps: x and y, then that of the series."""
    manager, made = signal.axes_manager, []
    for axis, middles in zip(manager.signal_axes, (mapped.x, mapped.y)):
        every = float(middles[-1] - middles[0]) / max(len(middles) - 1, 1) or 1.0
        made.append(_named(axis) | {
            "scale": float(axis.scale) * every, "offset": float(axis.offset + axis.scale * middles[0])
        })  # fmt: skip
    for axis in manager.navigation_axes:
        uniform = {"scale": float(axis.scale), "offset": float(axis.offset)} if axis.is_uniform else {}
        made.append(_named(axis) | uniform)
    return made


def _named(axis) -> dict:
    return {key: str(getattr(axis, key)) for key in ("name", "units") if isinstance(getattr(axis, key), str)}


def _title_of(signal) -> str:
    return str(signal.metadata.General.title)
