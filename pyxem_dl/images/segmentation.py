"""Segmentation by local symmetry: regions of an image or a series in which a crystal lies in the same way."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from pyxem_dl.checks import flag, number, whole_number
from pyxem_dl.devices import on_one_core
from pyxem_dl.images.operations import OPERATIONS, Operations
from pyxem_dl.images.regions import Descriptors, Regions, find_regions, labels_of
from pyxem_dl.images.series import Images, check_window, checked_seed
from pyxem_dl.images.signals import maps_of
from pyxem_dl.images.steps import FrameStep, made_of
from pyxem_dl.images.symmetry import Grid, signal_share
from pyxem_dl.messages import warn
from pyxem_dl.records import made_by, with_record
from pyxem_dl.scans import Computing, Field

if TYPE_CHECKING:
    from hyperspy.signals import Signal1D, Signal2D

    from pyxem_dl.annotations import Image

# Å: what a window is at least, cells of a lattice that it should hold, regions that nobody counts, the largest pixel
_SMALLEST_WINDOW, _CELLS, _MOST_REGIONS, _LARGEST_PIXEL = 3.0, 3, 64, 0.5


def segment_by_symmetry(
    signal: Image,
    n_regions: int | str = "auto",
    *,
    window: float = 12.0,
    operations: str = "shifts",
    memberships: bool = False,
    seed: int = 0,
    device: str | torch.device = "auto",
    show_progressbar: bool | None = None,
    on_part: Callable | None = None,
    on_message: Callable | None = None,
) -> Signal2D | tuple[Signal2D, Signal2D]:
    """Divide an atomic-resolution image into regions by its local symmetry alone.

    Nothing is assumed about crystals: a region is where the image fits onto itself under the same shifts.  Grains of
    one crystal that are turned against each other are regions, too.

    Parameters
    ----------
    signal : hyperspy.signals.Signal2D
        One image or a series with one navigation axis, calibrated in nm, pm or Å, in memory or lazy.
    n_regions : int or "auto"
        Number of periodic regions, without label 0; by default it is found.  Of a series it is that of all frames.
    window : float
        Side in Å of the windows that are compared.  It should hold three cells of the lattice.
    operations : {"shifts", "all"}
        By which descriptors: all are rotations and reflections, too, which take about seven times as long.
    memberships : bool
        Return the soft memberships, too.
    seed : int
        Of the first clusters.
    device : str or torch.device
        "auto" (CUDA, else MPS, else CPU) or a name of torch.
    show_progressbar : bool, optional
        By default HyperSpy's preference.
    on_part, on_message : callable, optional
        Called with each :class:`~pyxem_dl.scans.Part` as it comes (returning False stops the work as Ctrl-C does), and
        with each line that would be printed.

    Returns
    -------
    hyperspy.signals.Signal2D
        Integer labels on the axes of the signal: 0 where nothing is periodic, then 1, 2, ..., the largest region first.
        Lazy for a lazy series, whose frames are then read as they are computed; a label means the same in every frame.
        Frames that are constant or not finite have label 0 everywhere.
    memberships : hyperspy.signals.Signal2D
        With `memberships`: shares (region, rows, columns) from 0 to 1, the first that of label 0; of a series
        (frame, region, rows, columns).

    Raises
    ------
    ValueError, TypeError
        For a signal without a scale, in colours, complex, of diffraction, constant; a window that is larger than the
        image; pixels of more than 0.5 Å.  The message says what to do.

    Warns
    -----
    UserWarning
        If a window holds less than three cells of the lattice that was found, with both numbers; if fewer regions were
        found than asked for; if the image seems saturated; if nothing is periodic.
    """
    n_regions = None if n_regions == "auto" else whole_number("n_regions", n_regions, 1, _MOST_REGIONS)
    flag("memberships", memberships)
    if operations not in ("shifts", "all"):
        raise ValueError(f"operations must be 'shifts' or 'all', not {operations!r}.")
    seed = checked_seed(seed)
    computing = Computing(device, 1, show_progressbar, on_part, on_message)
    images, grid = _read(signal, window)
    described = Operations(grid, operations)
    with torch.inference_mode(), on_one_core():
        found = find_regions(_descriptors(images, described, computing), n_regions, seed)
    _warn_of_regions(found, n_regions, grid)
    step = SegmentationStep(described, found, memberships)
    lines = {"Images": images.describe(), "Window": f"{grid.window:g} Å", "Regions": str(len(found))}
    made = made_of("Segmentation by symmetry", lines, signal, images, step, computing)
    record = made_by(
        "segment_by_symmetry", signal=signal, n_regions="auto" if n_regions is None else n_regions, found=len(found),
        operations=operations, window=grid.window, seed=seed, pixel=images.calibration.pixel,
    )  # fmt: skip
    labels = with_record(maps_of(signal, made["labels"], "Regions"), record)
    if not memberships:
        return labels
    shares = maps_of(signal, made["shares"], "Memberships", further=("region", 0.0, 1.0))
    return labels, with_record(shares, record)


def get_symmetry_descriptors(
    signal: Image,
    operations: str = "shifts",
    *,
    window: float = 12.0,
    device: str | torch.device = "auto",
    show_progressbar: bool | None = None,
    on_part: Callable | None = None,
    on_message: Callable | None = None,
) -> Signal1D:
    """Measure how well each part of an image fits onto itself under symmetry operations.

    Parameters
    ----------
    signal : hyperspy.signals.Signal2D
        As for :func:`segment_by_symmetry`.
    operations : {"shifts", "rotations", "reflections", "all"}
        Which operations.  Of rotations and reflections the place is taken, within half a window, that fits best.
    window : float
        Side of the windows in Å.
    device, show_progressbar, on_part, on_message
        As for :func:`segment_by_symmetry`.

    Returns
    -------
    hyperspy.signals.Signal1D
        Correlations from -1 to 1, (x, y | operation), of a series (frame, x, y | operation), about every 1 Å: a place
        lies where the image has it, on the axes of the signal.  ``metadata.Pyxem_dl.operations`` names them: ("shift",
        along x, along y) in Å, y down; ("rotation", angle) and ("reflection", angle of the mirror line,
        counter-clockwise from x with y up), in degrees.  HyperSpy's ``decomposition()`` and ``cluster_analysis()``
        work on it.

    Raises
    ------
    ValueError, TypeError
        As for :func:`segment_by_symmetry`.
    """
    from hyperspy.signals import Signal1D

    if operations not in OPERATIONS:
        raise ValueError(f"operations must be one of {', '.join(map(repr, OPERATIONS))}, not {operations!r}.")
    computing = Computing(device, 1, show_progressbar, on_part, on_message)
    images, grid = _read(signal, window)
    if not images.is_lazy:
        images.sample(1)
    step = DescriptorStep(grid, operations)
    lines = {"Images": images.describe(), "Window": f"{grid.window:g} Å", "Operations": str(len(step.operations))}
    values = made_of("Descriptors of symmetry", lines, signal, images, step, computing)["descriptors"]
    found = maps_of(signal, values, "Symmetry", signal_class=Signal1D, step=grid.pixels)
    found.metadata.set_item("Pyxem_dl.operations", step.operations.names)
    return with_record(found, made_by(
        "get_symmetry_descriptors", signal=signal, operations=operations, window=grid.window,
        pixel=images.calibration.pixel,
    ))  # fmt: skip


def _read(signal, window) -> tuple[Images, Grid]:
    images = Images.from_signal(signal)
    window = number("window", window, _SMALLEST_WINDOW)
    check_window("window", window, images.calibration)
    pixel = images.calibration.pixel
    if pixel > _LARGEST_PIXEL:
        raise ValueError(
            f"The pixels are {pixel:.4g} Å wide; columns can be told apart with at most {_LARGEST_PIXEL} Å. If the "
            "scale is right, record the image at a higher magnification."
        )
    return images, Grid(pixel, images.calibration.shape, window)


def _descriptors(images: Images, operations: Operations, computing: Computing) -> Descriptors:
    """Descriptors of some frames, in memory."""
    grid = operations.grid
    device = computing.torch_device
    wide, narrow, share = [], [], []
    for frame in images.sample():
        frame = torch.from_numpy(frame).to(device)
        in_window, in_half = operations.in_windows(frame)
        wide.append(in_window.cpu().numpy())
        narrow.append(in_half.cpu().numpy())
        share.append(signal_share(frame, grid).cpu().numpy())
    return Descriptors(np.stack(wide), np.stack(narrow), np.stack(share), grid)


def _warn_of_regions(found: Regions, n_regions: int | None, grid: Grid) -> None:
    if not len(found):
        warn("Nothing in the image is periodic, as far as its noise allows to say: all labels are 0.")
        return
    if n_regions is not None and len(found) < n_regions:
        warn(f"Only {len(found)} periodic regions were found, not {n_regions}: the others cannot be told apart.")
    spacing = max(found.spacings)
    if grid.window < _CELLS * spacing:
        warn(
            f"The window is {grid.window:g} Å, and the image repeats itself after {spacing:.3g} Å: windows should hold "
            f"three cells. Give window={math.ceil(_CELLS * spacing)}."
        )


class SegmentationStep(FrameStep):
    """Divides frames into known kinds of regions.

    Parameters
    ----------
    operations : Operations
        What describes each place.
    regions : Regions
        The kinds.
    memberships : bool
        Keep the shares, too.
    """

    def __init__(self, operations: Operations, regions: Regions, memberships: bool) -> None:
        self.operations, self.grid = operations, operations.grid
        self.regions, self.memberships = regions, memberships

    @property
    def found(self) -> dict[str, Field]:
        """Labels, and perhaps shares."""
        fields = {"labels": Field(self.grid.shape, "int16")}
        if self.memberships:
            fields["shares"] = Field((len(self.regions) + 1, *self.grid.shape), "float32")
        return fields

    def prepare(self, device: torch.device) -> None:
        """Get the kinds onto the device."""
        self.regions = self.regions.to(device)

    def of_frame(self, frame: torch.Tensor, index: int) -> dict[str, torch.Tensor]:
        """Labels (rows, columns) of a frame."""
        return self._labelled(self._shares(frame))

    def of_nothing(self, like: torch.Tensor) -> dict[str, torch.Tensor]:
        """Label 0 everywhere."""
        shares = like.new_zeros(len(self.regions) + 1, *self.grid.shape)
        shares[0] = 1
        return self._labelled(shares)

    def _labelled(self, shares: torch.Tensor) -> dict[str, torch.Tensor]:
        labels = {"labels": labels_of(shares).short()}
        return labels | {"shares": shares} if self.memberships else labels

    def _shares(self, frame: torch.Tensor) -> torch.Tensor:
        """Shares (n + 1, rows, columns): those of the cells, interpolated to pixels."""
        grid = self.grid
        shares = self.regions.shares(*self.operations.in_windows(frame), grid)
        return over_pixels(shares, grid)


def over_pixels(values: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Values (n, rows, columns) of cells, interpolated to the pixels of the image."""
    size = tuple(n * grid.pixels for n in grid.cells)
    values = functional.interpolate(values[None], size=size, mode="bilinear", align_corners=False)
    rest = [n - made for n, made in zip(grid.shape, size)]
    return functional.pad(values, (0, rest[1], 0, rest[0]), mode="replicate")[0]


class DescriptorStep(FrameStep):
    """Measures symmetry.

    Parameters
    ----------
    grid : Grid
        Of the frames.
    operations : str
        One of :data:`OPERATIONS`.
    """

    def __init__(self, grid: Grid, operations: str) -> None:
        self.grid, self.operations = grid, Operations(grid, operations)

    @property
    def found(self) -> dict[str, Field]:
        """Correlations at each place."""
        return {"descriptors": Field((*self.grid.cells, len(self.operations)), "float32")}

    def of_frame(self, frame: torch.Tensor, index: int) -> dict[str, torch.Tensor]:
        """Descriptors (rows, columns, operations)."""
        return {"descriptors": self.operations(frame)}

    def of_nothing(self, like: torch.Tensor) -> dict[str, torch.Tensor]:
        """NaN everywhere."""
        return {"descriptors": like.new_full((*self.grid.cells, len(self.operations)), float("nan"))}
