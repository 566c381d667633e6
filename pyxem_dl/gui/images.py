"""Atomic-resolution images under the cursor: regions, structures and lattices, as ``pyxem_dl.images`` finds them."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from pyxem_dl.frames import ImageCalibration
from pyxem_dl.gui.answers import Candidate, Frame
from pyxem_dl.gui.current_map import save_picture
from pyxem_dl.gui.layers import Layer, MapLayers, distinct_colors
from pyxem_dl.gui.sessions import Given, Opened
from pyxem_dl.gui.wire import binned, binning
from pyxem_dl.images import LatticeMap

IMAGE = "image"
# Width of what is shown of an image about the cursor, in Å
_PATCH = 24.0


class ImageResult:
    """What was found in an image, on the grid of what a viewer shows of it.

    Parameters
    ----------
    image : array, shape (rows, columns)
        The image.
    calibration : ImageCalibration
        Of it.
    found : CrystalMap, LatticeMap, signal of labels, or None
        What :func:`pyxem_dl.classify_structure`, :func:`pyxem_dl.map_lattice` or
        :func:`pyxem_dl.segment_by_symmetry` gave for this image.
    """

    def __init__(self, image: np.ndarray, calibration: ImageCalibration, found) -> None:
        self._image, self._pixel, self._found = image, calibration.pixel, found
        self.factor = binning(image.shape)
        self.grid = binned(image, self.factor).shape
        if found is not None:
            self._window = self._windows()
        self.there, self.version = found is not None, 0

    def _windows(self) -> np.ndarray:
        """Flat index (rows, columns) of the window, or of the pixel, that is nearest to each place of the grid."""
        row, column = (np.arange(n) * self.factor + (self.factor - 1) / 2 for n in self.grid)
        if isinstance(self._found, LatticeMap):
            y, x = (self._of_axis(self._found.axes[1 - i], self._found.score.shape[i]) for i in (0, 1))
        elif hasattr(self._found, "phase_id"):
            self._shape = self._found.shape
            y, x = (np.unique(np.round(each, 6)) for each in (self._found.y, self._found.x))
            y, x = (each * self._to_pixels(self._found.scan_unit) for each in (y, x))
        else:
            data = np.asarray(self._found.data)
            if data.shape != self._image.shape:
                raise ValueError(
                    f"The labels are of {data.shape} pixels, the image has {self._image.shape}: give what was found "
                    "in this image."
                )
            y, x = (np.arange(n, dtype=float) for n in data.shape)
        if y.max(initial=0) > self._image.shape[0] or x.max(initial=0) > self._image.shape[1]:
            raise ValueError("What was found reaches beyond the image: give what was found in this one.")
        nearest = [np.abs(each[:, None] - known).argmin(1) for each, known in ((row, y), (column, x))]
        return nearest[0][:, None] * len(x) + nearest[1]

    def _to_pixels(self, unit: str) -> float:
        """Pixels in a unit of length."""
        return {"nm": 10.0, "pm": 0.01, "um": 1e4, "µm": 1e4}.get(unit, 1.0) / self._pixel

    def _of_axis(self, axis: dict, n: int) -> np.ndarray:
        """Places of n windows along an axis, in pixels of the image."""
        places = axis["offset"] + axis["scale"] * np.arange(n)
        return places * self._to_pixels(str(axis["units"]))

    # ---------------------------------------------------------------- pictures
    @property
    def names(self) -> list[str]:
        """Pictures beside the image itself."""
        return [] if self._found is None else list(self._layers)

    def shown(self):
        """Give what was found."""
        return self._found

    def made_with(self) -> dict:
        """Return nothing: no threshold was chosen here."""
        return {}

    def final(self, thresholds: dict):
        """Give what was found, as it is."""
        return self._found

    def image(self) -> Layer:
        """Give the image, as far as the screen has pixels for it."""
        return Layer(IMAGE, binned(self._image, self.factor).astype(np.float32), unit="")

    def layer(self, name: str, candidate: int, crystal: float | None):
        """Give a picture, where something was found, and nothing: there is no threshold."""
        layer, there = self._layers[name]
        return layer, there, None

    @cached_property
    def _layers(self) -> dict[str, tuple[Layer, np.ndarray | None]]:
        found = self._found
        if isinstance(found, LatticeMap):
            units = {"rotation": "°"}
            maps = {name: getattr(found, name).data for name in ("rotation", "e_xx", "e_yy", "e_xy")}
            maps["score"] = found.score
            return {name: (Layer(name, self._spread(each).astype(np.float32), unit=units.get(name, "")), None)
                    for name, each in maps.items()}  # fmt: skip
        if hasattr(found, "phase_id"):
            pictures = MapLayers(found, self._shape, {key: phase for key, phase in found.phases if key >= 0})
            there = self._spread(pictures.indexed())
            made = {}
            for name in pictures.names:
                layer = pictures.layer(name)
                made[name] = Layer(name, self._spread(layer.values), layer.legend, layer.unit), there
            return made
        labels = self._spread(np.asarray(found.data))
        colors = np.vstack([np.zeros(3), distinct_colors(int(labels.max()))])
        legend = [(f"{i}", "#" + "".join(f"{round(255 * c):02x}" for c in colors[i])) for i in range(1, len(colors))]
        regions = Layer("regions", np.round(255 * colors[labels]).astype(np.uint8), legend)
        return {"regions": (regions, (labels > 0).astype(np.uint8))}

    def _spread(self, values: np.ndarray) -> np.ndarray:
        """Take values of windows (rows, columns, ...) to the grid."""
        values = np.asarray(values)
        return values.reshape(-1, *values.shape[2:])[self._window]

    # ---------------------------------------------------------------- a place
    def frame(self, x: int, y: int) -> Frame:
        """Show what is about a place of the grid."""
        row, column = (self.factor * each + self.factor // 2 for each in (y, x))
        half = max(4, round(_PATCH / 2 / self._pixel))
        top, left = max(0, row - half), max(0, column - half)
        patch = np.array(self._image[top : row + half + 1, left : column + half + 1])
        candidates, lines = [], [f"(x, y) = ({x}, {y}), pixel ({row}, {column})"]
        if self._found is not None:
            window = int(self._window[y, x])
            lines += self._words(window)
            if isinstance(self._found, LatticeMap):
                candidates = self._nodes(window, patch)
        return Frame(x, y, patch, (float(row - top), float(column - left)), candidates, "\n".join(lines))

    def _words(self, window: int) -> list[str]:
        found = self._found
        if isinstance(found, LatticeMap):
            number = int(found.crystal.reshape(-1)[window])
            if number < 0:
                return ["No lattice here."]
            values, errors = (each.reshape(4, -1)[:, window] for each in (found.values, found.errors))
            names = ("e_xx", "e_yy", "e_xy", "rotation")
            return [found.names[number], *(
                f"{name} = {100 * v:.2f} ± {100 * e:.2f} %" if name != "rotation" else f"{name} = {v:.2f} ± {e:.2f}°"
                for name, v, e in zip(names, values, errors)
            ), f"score {found.score.reshape(-1)[window]:.2f}"]  # fmt: skip
        if hasattr(found, "phase_id"):
            prop = {name: np.asarray(found.prop[name]).reshape(found.size, -1)[window, 0] for name in found.prop}
            numbers = ", ".join(f"{name} {prop[name]:.3g}" for name in ("score", "other", "scale") if name in prop)
            key = int(found.phase_id[window])
            return [f"{found.phases[key].name if key >= 0 else 'None of the structures of the model'}: {numbers}"]
        label = int(np.asarray(found.data).reshape(-1)[window])
        return [f"Region {label}" if label else "Nothing periodic here"]

    def _nodes(self, window: int, patch: np.ndarray) -> list[Candidate]:
        """Nodes of the lattice on the patch: its origin is where its waves have their crests."""
        vectors = self._found.vectors.reshape(-1, 2, 2)[window] / self._pixel
        if not np.isfinite(vectors).all():
            return []
        basis = vectors * [1, -1]  # rows run down
        row, column = np.indices(patch.shape)
        place = np.stack([column, row], -1)
        waves = np.linalg.inv(basis)  # its columns are the reciprocal vectors
        phases = np.exp(-2j * np.pi * (place @ waves)) * (patch - patch.mean())[..., None]
        origin = -np.angle(phases.sum((0, 1))) / (2 * np.pi)
        most = int(np.ceil(np.hypot(*patch.shape) / np.linalg.svd(basis)[1].min()))
        index = np.stack(np.meshgrid(*2 * [np.arange(-most, most + 1)]), -1).reshape(-1, 2)
        x, y = ((index + origin) @ basis).T
        inside = (x > -0.5) & (y > -0.5) & (x < patch.shape[1] - 0.5) & (y < patch.shape[0] - 0.5)
        name = self._found.names[int(self._found.crystal.reshape(-1)[window])]
        n = int(inside.sum())
        return [Candidate(name, None, np.nan, y[inside], x[inside], np.full(n, 0.2), np.zeros((n, 0), dtype=int))]

    def save(self, path, thresholds: dict, picture: tuple, overwrite: bool = False):
        """Save the picture that is shown, as ``.png``: results have a ``save`` of their own."""
        path = Path(str(path)).expanduser()
        if path.suffix.lower() != ".png":
            raise ValueError(f"{path.name!r} must end in .png: save the result itself by its own save().")
        return save_picture(path, *picture, overwrite)


class ImageSessions:
    """Stands behind a viewer of an image, as :class:`~pyxem_dl.gui.sessions.Sessions` does behind one of a scan.

    Parameters
    ----------
    given : Given
        With the image as its signal.
    found
        As in :class:`ImageResult`.

    Raises
    ------
    ValueError
        For a series, and for an image without a unit of length.
    """

    models, first_model, first_source = [""], "", IMAGE

    def __init__(self, given: Given, found) -> None:
        signal = given.signal
        if signal.axes_manager.navigation_dimension:
            raise ValueError("The viewer shows single images: give one of the series, s.inav[0].explore(...).")
        image = np.asarray(signal.data)
        calibration = ImageCalibration.from_signal(signal)
        self.result = ImageResult(image, calibration, found)
        self.shape, self.detector, self.nbytes = self.result.grid, self.result.grid, 0
        self.center, self.scale, self.unit = (0.0, 0.0), calibration.pixel, "Å"
        self.step = [calibration.pixel * self.result.factor] * 2

    def sources(self, there_is_a_map: bool) -> list[str]:
        """Return the image: there is nobody else to ask."""
        return [IMAGE]

    def phase_choices(self, model: str) -> list[str]:
        """Return nothing to choose from."""
        return ["all"]

    def open(self, settings: dict, current=None) -> Opened:
        """Give what shows a place."""
        return Opened(self.result)

    plain = open

    def first_picture(self) -> Layer:
        """Give the image."""
        return self.result.image()

    def mask_on_screen(self) -> None:
        """Return nothing: no pixel is left out."""
