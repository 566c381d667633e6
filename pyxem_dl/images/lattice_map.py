"""Lattices of the windows of images: rotation, vectors, strain and their errors, as arrays, signals and files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyxem_dl.records import provenance, with_record
from pyxem_dl.results.signal_files import check_signal_path, read_signal, write_signal

if TYPE_CHECKING:
    from pyxem_dl.annotations import File

#: Maps of :attr:`LatticeMap.values` and :attr:`LatticeMap.errors`
NAMES = ("e_xx", "e_yy", "e_xy", "rotation")
# Entries of the metadata of a signal of it
_ENTRIES = ["vectors", "vector_errors", "score", "crystal", "names", "references", "periods", "drift", "axes"]


@dataclass(frozen=True, eq=False)
class LatticeMap:
    """Lattice of every window of an image, or of a series.

    ``lattice.rotation``, ``lattice.e_xx``, ``lattice.e_yy``, ``lattice.e_xy``, each with ``_error`` for its standard
    deviation, ``lattice.a`` and ``lattice.b`` are HyperSpy signals on the axes of the image.

    Parameters
    ----------
    values, errors : array of shape (4, ..., rows, columns)
        e_xx, e_yy, e_xy (no unit) along the image's axes, x to the right and y up, and the rotation in degrees,
        counter-clockwise; and their standard deviations.  NaN where there is no lattice.
    vectors : array of shape (..., rows, columns, 2, 2)
        The two vectors a and b (x, y) in Å, y up: those that are the reference's, turned and strained.
    vector_errors : array of shape (..., rows, columns, 2, 2)
        Their standard deviations in Å.
    score : array of shape (..., rows, columns)
        Share of the window's variance, less its noise, that the lattice explains: 1 in a perfect crystal, about a half
        at a boundary.
    crystal : array of int, shape (..., rows, columns)
        Index into `names`; -1 where there is no lattice.
    names : list of str
        Crystals that the lattices were compared with.
    references : array of shape (crystals, 2, 2)
        Their vectors in Å, which are not strained, the first along x.
    periods : array of shape (crystals,)
        Degrees after which the image of each looks the same.
    drift : array of shape (..., 2) or None
        Movement of what is seen along x and y (up), per length scanned downwards, that was taken away.
    axes : list of dict
        Name, units, scale and offset of the axes: of the signal (x, then y), then of the series.
    title : str
        Of the images.
    provenance : dict
        Where it comes from; see :func:`pyxem_dl.provenance`.
    """

    values: np.ndarray
    errors: np.ndarray
    vectors: np.ndarray
    vector_errors: np.ndarray
    score: np.ndarray
    crystal: np.ndarray
    names: list
    references: np.ndarray
    periods: np.ndarray
    drift: np.ndarray | None
    axes: list
    title: str = ""
    provenance: dict = field(default_factory=dict)

    def __getattr__(self, name: str):
        short = name.removesuffix("_error")
        if short in NAMES:
            maps = self.errors if name.endswith("_error") else self.values
            return self._signal(maps[NAMES.index(short)], name)
        if short in ("a", "b"):
            maps = self.vector_errors if name.endswith("_error") else self.vectors
            # the component is a navigation axis, so that a map is what is shown
            vector = np.moveaxis(maps[..., "ab".index(short), :], -1, -3)
            return self._signal(vector, name, component=True)
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")

    def __dir__(self):
        names = (*NAMES, "a", "b")
        return [*super().__dir__(), *names, *(f"{name}_error" for name in names)]

    def __repr__(self) -> str:
        there = self.crystal >= 0
        with_error = ", ".join(
            f"{name} {np.median(error[there]):.2g}" for name, error in zip(NAMES, self.errors, strict=True)
        ) if there.any() else "none"  # fmt: skip
        return (
            f"<LatticeMap, title: {self.title}, shape {self.shape}: {there.sum()} of {there.size} windows have a "
            f"lattice ({', '.join(self.names)}); typical errors: {with_error}°>"
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the maps: (rows, columns), of a series (frames, rows, columns)."""
        return self.crystal.shape

    @property
    def cell_area(self):
        """Area of the cell of a and b in Å², as a signal."""
        return self._signal(np.abs(np.linalg.det(self.vectors)), "cell area")

    def _signal(self, maps: np.ndarray, name: str, component: bool = False):
        from hyperspy.signals import Signal2D

        signal = Signal2D(maps)
        manager = signal.axes_manager
        targets = [*manager.signal_axes, *list(manager.navigation_axes)[1 if component else 0 :]]
        for axis, old in zip(targets, self.axes, strict=True):
            for key, value in old.items():
                setattr(axis, key, value)
        if component:
            manager.navigation_axes[0].name = "component"
        signal.metadata.General.title = f"{name} of {self.title}".removesuffix(" of ")
        return with_record(signal, self.provenance)

    def to_signal(self):
        """Make one HyperSpy signal of the four maps.

        Returns
        -------
        hyperspy.signals.Signal2D
            Navigation: e_xx, e_yy, e_xy, rotation (degrees), and the frame of a series; signal: the image's axes.  The
            squares of the errors are its noise variance, all the rest is in its metadata.
        """
        # the kind of map is the first navigation axis, which is the last but two of the array
        signal, variance = (
            self._signal(np.moveaxis(maps, 0, -3), "Lattice", component=True) for maps in (self.values, self.errors**2)
        )
        signal.axes_manager.navigation_axes[0].name = ", ".join(NAMES)
        signal.set_noise_variance(variance)
        signal.metadata.General.title = self.title
        entries = {name: getattr(self, name) for name in _ENTRIES}
        signal.metadata.add_dictionary({"Lattice": {k: v for k, v in entries.items() if v is not None}})
        return signal

    def plot(self, **kwargs) -> None:
        """Show the maps as HyperSpy does; :func:`pyxem_dl.plot.strain_map` draws those of one image with their errors.

        Parameters
        ----------
        **kwargs
            Passed to ``hyperspy.api.plot.plot_images``, of a series to the signal's ``plot``.
        """
        import hyperspy.api as hs

        if len(self.shape) > 2:
            self.to_signal().plot(**kwargs)
            return
        settings = {
            "cmap": ["RdBu_r"] * 3 + ["viridis"], "label": [*NAMES[:3], "rotation (°)"], "colorbar": "multi",
            "axes_decor": "off", "centre_colormap": [True] * 3 + [False], "per_row": 2,
        }  # fmt: skip
        hs.plot.plot_images([getattr(self, name) for name in NAMES], **settings | kwargs)

    def save(self, path: File, *, overwrite: bool = False) -> Path:
        """Write all into a file of HyperSpy.

        Parameters
        ----------
        path : str or pathlib.Path
            Ending in ``.hspy`` or ``.zspy``.  ``hyperspy.api.load`` gives the maps, :meth:`load` all of it.
        overwrite : bool
            Replace a file that is there.
        """
        return write_signal(self.to_signal(), check_lattice_path(path, overwrite=overwrite))

    @classmethod
    def load(cls, path: File) -> LatticeMap:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        path : str or pathlib.Path
            Of the file.
        """
        needed = [name for name in _ENTRIES if name != "drift"]
        signal, entries = read_signal(path, "Lattice", needed, cls.__name__)
        entries = {"drift": None} | {name: entries[name] for name in _ENTRIES if name in entries}
        values, variance = (np.moveaxis(np.asarray(s.data), -3, 0) for s in (signal, signal.get_noise_variance()))
        facts = {"title": str(signal.metadata.General.title), "provenance": provenance(signal)}
        return cls(values, np.sqrt(variance), **entries, **facts)


def check_lattice_path(path: File, *, overwrite: bool = False) -> Path:
    """Path that :meth:`LatticeMap.save` can write to, or an error: better before than after the work."""
    return check_signal_path(path, "Lattices are", overwrite=overwrite)
