"""Crystal maps of structures in images: one for an image, a sequence of them for a series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pyxem_dl.crystals import phase_from_dict, phase_to_dict
from pyxem_dl.models.structure import rotations_of
from pyxem_dl.records import with_record
from pyxem_dl.results.maps import to_crystal_map
from pyxem_dl.scans import Collected, Field

#: Properties of a window beside its classes
MORE = ("mutual_information", "entropy", "scale")


@dataclass(frozen=True)
class WindowGrid:
    """Where windows lie in an image.

    Parameters
    ----------
    rows, columns : int
        How many there are.
    first, step : tuple of float
        Middle of the first window, from the middle of the first pixel, and distances, (x, y).
    scan_unit : str
        Of these.
    """

    rows: int
    columns: int
    first: tuple[float, float]
    step: tuple[float, float]
    scan_unit: str

    @property
    def x(self) -> np.ndarray:
        """Coordinates (n,) of the middles along x."""
        return self.first[0] + self.step[0] * (np.arange(self.rows * self.columns) % self.columns)

    @property
    def y(self) -> np.ndarray:
        """Coordinates (n,) of the middles along y, down."""
        return self.first[1] + self.step[1] * (np.arange(self.rows * self.columns) // self.columns)


@dataclass(frozen=True, eq=False)
class StructureAssembly:
    """Makes the crystal map of each frame of what a structure model found.

    Parameters
    ----------
    shape : tuple of int
        Of the series; () for an image.
    grid : WindowGrid
        Of the windows.
    phases : list of orix.crystal_map.Phase
        Of the model.
    classes : list of int
        Phase of each class.
    quaternions : list of list of float
        Orientation of each class at an angle of 0.
    alternatives : list of list of int
        Classes that cannot be told apart from each.
    threshold : float
        Probability of none of the classes from which on it is none of them.
    """

    shape: tuple[int, ...]
    grid: WindowGrid
    phases: list
    classes: list
    quaternions: list
    alternatives: list
    threshold: float

    kind = "structures of images"

    @staticmethod
    def fields(n_windows: int, n_best: int) -> dict[str, Field]:
        """List what a step gives for each frame: classes, their probabilities and angles, and what is not sure."""
        fields = {
            "class_id": Field((n_windows, n_best), "int16"), "scores": Field((n_windows, n_best), "float32"),
            "angle": Field((n_windows, n_best), "float32"), "other": Field((n_windows,), "float32"),
        }  # fmt: skip
        return fields | {name: Field((n_windows,), "float32") for name in MORE}

    def __call__(self, found: Collected):
        """Crystal map of an image, or the maps of a series; nothing is indexed in frames that are not done."""
        maps = StructureMaps(self, found)
        return maps if self.shape else maps[0]

    def indexed(self, arrays: dict[str, np.ndarray]) -> np.ndarray:
        """Which windows (..., n) are one of the classes; none of a frame that was not used or is not done."""
        return (arrays["other"] <= self.threshold) & (arrays["scores"][..., 0] > 0)

    def map_of(self, found: dict[str, np.ndarray]):
        """Crystal map of what was found in a frame."""
        best, angle = found["class_id"].astype(int), found["angle"].astype(float)
        other = found["other"].astype(float)
        prop = {"class_id": best if best.shape[1] > 1 else best[:, 0], "other": other}
        prop |= {name: found[name].astype(float) for name in MORE}
        most = max(map(len, self.alternatives), default=0)
        if most:
            padded = np.array([[*others, *[-1] * (most - len(others))] for others in self.alternatives])
            prop["alternatives"] = padded[best[:, 0]]
        return to_crystal_map(
            self.grid, rotations_of(np.array(self.quaternions), best, angle), np.array(self.classes)[best],
            found["scores"], self.phases, indexed=self.indexed(found), is_in_data=np.ones(len(best), dtype=bool),
            prop=prop,
        )  # fmt: skip

    def to_dict(self) -> dict:
        """Plain numbers and texts for a file."""
        grid = vars(self.grid) | {name: list(getattr(self.grid, name)) for name in ("first", "step")}
        return {
            "shape": list(self.shape), "grid": grid, "phases": [phase_to_dict(phase) for phase in self.phases],
            "classes": [int(i) for i in self.classes], "threshold": float(self.threshold),
            "quaternions": [[float(x) for x in each] for each in self.quaternions],
            "alternatives": [[int(i) for i in each] for each in self.alternatives],
        }  # fmt: skip

    @classmethod
    def from_dict(cls, entry: dict) -> StructureAssembly:
        """Read what :meth:`to_dict` gave."""
        grid = dict(entry["grid"])
        grid |= {name: tuple(float(x) for x in grid[name]) for name in ("first", "step")}
        phases = [phase_from_dict(each) for each in entry["phases"]]
        classes, n = [int(i) for i in entry["classes"]], len(entry["classes"])
        same = n == len(entry["quaternions"]) == len(entry["alternatives"])
        if not same or not set(classes) <= set(range(len(phases))):
            raise ValueError(f"no classes of a model: {classes!r}")
        return cls(
            tuple(entry["shape"]), WindowGrid(**grid), phases, classes, entry["quaternions"], entry["alternatives"],
            float(entry["threshold"]),
        )  # fmt: skip


class StructureMaps(Sequence):
    """Crystal maps of the frames of a series; each is made when it is asked for.

    What they are made of needs some 30 bytes for each window of a frame.

    Parameters
    ----------
    assembly : StructureAssembly
        Makes them.
    found : Collected
        What was found.
    """

    def __init__(self, assembly: StructureAssembly, found: Collected) -> None:
        self._assembly, self._found = assembly, found

    def __len__(self) -> int:
        return len(self._found.done)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        arrays = {name: values[i] for name, values in self._found.arrays.items()}
        if not self._found.done[i]:
            arrays["other"] = np.ones_like(arrays["other"])
        return with_record(self._assembly.map_of(arrays), getattr(self, "provenance", None))

    def __repr__(self) -> str:
        grid = self._assembly.grid
        return f"<StructureMaps: {len(self)} crystal maps of {grid.rows} x {grid.columns} windows>"

    @property
    def indexed_share(self) -> np.ndarray:
        """Share of the windows of each frame (n,) that is one of the model's structures."""
        return self._assembly.indexed(self._found.arrays).mean(1)
