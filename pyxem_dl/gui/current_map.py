"""The map that a viewer shows: a finished one, or one that grows."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from pyxem_dl.gui.layers import MapLayers
from pyxem_dl.gui.recipe import Growing
from pyxem_dl.results import save_map
from pyxem_dl.results.map_files import copied_map
from pyxem_dl.results.maps import property_of

#: What a map can be saved as
SUFFIXES = (".h5", ".ang", ".ctf", ".png")


class CurrentMap:
    """A map, its pictures, and what its thresholds leave of it.

    Parameters
    ----------
    shape : tuple of int
        Of the scan, in data order.
    xmap : orix.crystal_map.CrystalMap, optional
        A finished map.
    phases : dict of int to orix.crystal_map.Phase, optional
        Its phases, where the map does not hold them all.

    Attributes
    ----------
    version : int
        Another number whenever there is another map.
    """

    def __init__(self, shape: tuple[int, ...], xmap=None, phases: dict | None = None) -> None:
        self._shape, self._given, self._phases = shape, xmap, phases
        self._growing: Growing | None = None
        self._layers: tuple | None = None
        self._whole: tuple | None = None
        self._lock = threading.Lock()
        self.version = 0

    @property
    def there(self) -> bool:
        """Whether there is a map."""
        return self._given is not None or self._growing is not None

    @property
    def names(self) -> list[str]:
        """Pictures that there are."""
        if not self.there:
            return []
        made = self._layers
        return (self._pictures(None) if made is None else made[1]).names

    def grow(self, growing: Growing) -> None:
        """Show a map that was computed, as far as it is."""
        with self._lock:
            self._growing, self._layers, self._phases = growing, None, None
            self.version += 1

    def shown(self):
        """Give the map without a choice of thresholds, as soon as there is one."""
        with self._lock:
            if self._whole is None or self._whole[0] != self.version:
                xmap = self._given if self._growing is None else self._growing.to_map()
                self._whole = self.version, xmap
            return self._whole[1]

    @property
    def made_here(self) -> bool:
        """Whether it was computed by this viewer."""
        return self._growing is not None

    def code(self, asked: dict) -> str:
        """Lines that make this map, with the thresholds that are `asked` for."""
        if self._growing is not None:
            return self._growing.code(asked)
        lines, limit = ["# xmap: the map that the viewer was given"], asked.get("score")
        name = next((each for each in ("score", "scores") if each in self._given.prop), None)
        if limit and name is not None:
            lines.append(f'score = xmap.prop["{name}"].reshape(xmap.size, -1)[:, 0]')
            lines.append(f"xmap[score < {limit:.6g}].phase_id = -1")
        return "\n".join(lines)

    def made_with(self) -> dict:
        """Thresholds that the map was asked with; empty for a finished one."""
        return {} if self._growing is None else dict(self._growing.thresholds)

    def final(self, thresholds: dict):
        """Make the map with these thresholds; of a finished one only ``score`` can be raised."""
        if self._growing is not None:
            return self._growing.to_map(thresholds)
        limit = thresholds.get("score", 0.0)
        if self._given is None or limit <= 0:
            return self._given
        xmap = copied_map(self._given)  # orix' own fails where parts of it were looked at
        score = property_of(xmap, "score", property_of(xmap, "scores", np.ones(xmap.size)))
        score = np.asarray(score).reshape(xmap.size, -1)
        low = score[:, 0] < limit
        if low.any():
            xmap[low].phase_id = -1
        return xmap

    def layer(self, name: str, candidate: int, crystal: float | None):
        """Give a picture, where there is an orientation, and the scores; all of them, so that they may be hidden later.

        Parameters
        ----------
        name : str
            One of :attr:`names`.
        candidate : int
            0 is the best.
        crystal : float, optional
            Lowest probability of a crystal, for a map that was computed here.
        """
        pictures = self._pictures(crystal)
        return pictures.layer(name, candidate), pictures.indexed(), pictures.scores()

    def _pictures(self, crystal: float | None) -> MapLayers:
        with self._lock:
            if self._layers is None or (self._layers[0] != crystal and self._growing is not None):
                xmap = self._given
                if self._growing is not None:
                    limits = {"score": 0.0} | ({} if crystal is None else {"crystal": crystal})
                    xmap = self._growing.to_map(limits)
                phases = self._phases or {key: phase for key, phase in xmap.phases if key >= 0}
                self._layers = crystal, MapLayers(xmap, self._shape, phases)
            return self._layers[1]

    def save(self, path, thresholds: dict, picture: tuple, overwrite: bool = False) -> Path:
        """Save the map, or the picture that is shown.

        Parameters
        ----------
        path : str or pathlib.Path
            With one of :data:`SUFFIXES`.
        thresholds : dict
            As for :meth:`final`.
        picture : tuple
            Layer, where there is an orientation, and the lowest score that is shown: for ``.png``.
        overwrite : bool
            Replace a file that is there.

        Raises
        ------
        ValueError, FileExistsError
            If there is no map, the suffix is another one, or the file is there.
        """
        path = Path(str(path)).expanduser()
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES:
            raise ValueError(f"{path.name!r} must end in one of {', '.join(SUFFIXES)}: what is to be saved?")
        if suffix == ".png":
            return save_picture(path, *picture, overwrite)
        if not self.there:
            raise ValueError("There is no map yet: index the scan first.")
        save_map(path, self.final(thresholds), overwrite=overwrite)
        return path


def save_picture(path: Path, layer, hidden: np.ndarray | None, overwrite: bool) -> Path:
    """Draw a layer as it is shown.

    Parameters
    ----------
    path : pathlib.Path
        Ends in ``.png``.
    layer : Layer
        What is drawn.
    hidden : array of bool, shape (rows, columns), optional
        Positions that are grey.
    overwrite : bool
        Replace a file that is there.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    from pyxem_dl.results.maps import NOT_INDEXED

    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} is there already. Choose to replace it, or another name.")
    figure = Figure((6, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_facecolor(NOT_INDEXED)
    values = np.ma.masked_invalid(layer.values) if layer.values.ndim == 2 else layer.values
    if layer.values.ndim == 3:
        alpha = np.ones(layer.values.shape[:2]) if hidden is None else ~hidden
        axes.imshow(np.dstack([values, np.round(255 * alpha)]).astype(np.uint8))
    else:
        values = values if hidden is None else np.ma.masked_where(hidden, values)
        drawn = axes.imshow(values, cmap="gray" if hidden is None else "viridis")
        figure.colorbar(drawn, label=layer.unit)
    axes.set_title(layer.name)
    handles = [Patch(facecolor=color, label=name) for name, color in layer.legend if color]
    handles += [Patch(facecolor=NOT_INDEXED, label="not indexed")] if hidden is not None and hidden.any() else []
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=150)
    return path
