"""Ways to look at a map: pictures on the grid of the scan, each made when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from pyxem_dl.gui.keys import DIRECTIONS
from pyxem_dl.metrics.orientations import grain_labels
from pyxem_dl.plot.grains import distinct_colors
from pyxem_dl.plot.maps import ipf_colors
from pyxem_dl.plot.markers import candidate_of, places_of

#: Neighbours whose orientations differ by less are one grain, in degrees
GRAIN_THRESHOLD = 5.0


@dataclass(frozen=True, eq=False)
class Layer:
    """A picture on the grid of a scan.

    Parameters
    ----------
    name : str
        For the user.
    values : array, shape (rows, columns) or (rows, columns, 3)
        Numbers, NaN where there is none; or colours, uint8.
    legend : list of (str, str), optional
        Name and colour of what is marked by a colour of its own.
    unit : str
        Of the numbers.
    """

    name: str
    values: np.ndarray
    legend: list = field(default_factory=list)
    unit: str = ""


class MapLayers:
    """Pictures of a map.

    Parameters
    ----------
    xmap : orix.crystal_map.CrystalMap
        Of the whole scan, or cropped as the signal is.
    shape : tuple of int
        Of the scan, in data order.
    phases : dict of int to orix.crystal_map.Phase
        By the map's numbers.
    """

    def __init__(self, xmap, shape: tuple[int, ...], phases: dict) -> None:
        self._xmap, self._shape, self._phases = xmap, shape, phases
        self._grid = ((1, 1) + tuple(shape))[-2:]
        self._place = places_of(xmap, shape)
        self._made: dict[tuple, Layer] = {}
        self._ways: dict[str, Callable] = {f"IPF {axis}": self._ipf for axis in DIRECTIONS}
        numbers = ("score", "scores", "reliability", "uncertainty")
        self._ways |= {name: self._number for name in numbers if name in xmap.prop}
        if "score" in self._ways:
            self._ways.pop("scores", None)  # the first of them
        self._ways |= {"phase": self._phase, "grains": self._grains}

    @property
    def names(self) -> list[str]:
        """What can be asked for."""
        return list(self._ways)

    def layer(self, name: str, candidate: int = 0) -> Layer:
        """Make a picture, once.

        Parameters
        ----------
        name : str
            One of :attr:`names`.
        candidate : int
            Of which orientation, where it matters; 0 is the best.
        """
        key = name, candidate
        if key not in self._made:
            self._made[key] = self._ways[name](name, candidate)
        return self._made[key]

    def indexed(self) -> np.ndarray:
        """Where there is an orientation: 1, where there is none: 0; (rows, columns) of uint8."""
        return self._spread(self._xmap.phase_id >= 0, 0, np.uint8)

    def scores(self) -> np.ndarray | None:
        """Best scores (rows, columns), NaN where there is none; None for a map without scores."""
        name = next((each for each in ("score", "scores") if each in self._ways), None)
        return None if name is None else self.layer(name).values

    def _spread(self, values, missing, dtype) -> np.ndarray:
        """Put values of the points in the map's data onto the grid."""
        values = np.asarray(values)
        grid = np.full((int(np.prod(self._grid)), *values.shape[1:]), missing, dtype=dtype)
        grid[self._place] = values
        return grid.reshape(*self._grid, *values.shape[1:])

    def _ipf(self, name: str, candidate: int) -> Layer:
        rotations, phase_id = candidate_of(self._xmap, min(candidate, self._xmap.rotations_per_point - 1))
        colors = ipf_colors(rotations, phase_id, self._phases, name[-1])
        return Layer(name, self._spread(np.round(255 * colors), 0, np.uint8))

    def _number(self, name: str, candidate: int) -> Layer:
        values = np.asarray(self._xmap.prop[name], dtype=float).reshape(self._xmap.size, -1)[:, 0]
        return Layer(name, self._spread(values, np.nan, np.float32), unit="°" if name == "uncertainty" else "")

    def _phase(self, name: str, candidate: int) -> Layer:
        from matplotlib.colors import to_hex, to_rgb

        _, phase_id = candidate_of(self._xmap, min(candidate, self._xmap.rotations_per_point - 1))
        colors, legend = np.zeros((self._xmap.size, 3)), []
        for key, phase in self._phases.items():
            color = self._xmap.phases[key].color if key in self._xmap.phases.ids else phase.color
            colors[phase_id == key] = to_rgb(color)
            legend.append((phase.name, to_hex(color)))
        return Layer(name, self._spread(np.round(255 * colors), 0, np.uint8), legend)

    def _grains(self, name: str, candidate: int) -> Layer:
        label = grain_labels(self._xmap, GRAIN_THRESHOLD)
        n = int(label.max(initial=-1)) + 1
        colors = np.vstack([distinct_colors(n), np.zeros(3)])  # the last one is of what is no grain, -1
        painted = colors[label]
        large = int((np.bincount(label[label >= 0], minlength=1) >= 5).sum())
        text = f"{n} grains ({large} of 5 or more positions), neighbours within {GRAIN_THRESHOLD:g}°"
        return Layer(name, self._spread(np.round(255 * painted), 0, np.uint8), [(text, "")])
