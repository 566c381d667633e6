"""Maps of strain and rotation with their errors: as arrays, as HyperSpy signals, as files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyxem_dl.patterns.lattice import nearest_points
from pyxem_dl.records import provenance, with_record
from pyxem_dl.results.signal_files import check_signal_path, read_signal, write_signal
from pyxem_dl.results.vectors import without_distortion
from pyxem_dl.strain.tables import VectorTables

if TYPE_CHECKING:
    from pyxem_dl.annotations import File, Vectors

#: Maps of :attr:`Strain.values` and :attr:`Strain.errors`
NAMES = ("e_xx", "e_yy", "e_xy", "theta")
# Entries of the metadata of a signal of it
_ENTRIES = ["n_disks", "chi2", "residual", "parameters", "covariance", "reference", "scale", "angle", "units", "axes"]
# Positions of which vectors are refined at once
_BLOCK = 8192


@dataclass(frozen=True, eq=False)
class Strain:
    """Strain and rotation of a scan. ``strain.e_xx``, ``strain.e_xx_error`` and so on are arrays of the scan's shape.

    Parameters
    ----------
    values, errors : array of shape (4, y, x)
        e_xx, e_yy, e_xy (no unit) and theta (degrees, counterclockwise is positive), and their standard deviations; x
        is to the right in the pattern and y up, turned by `angle`.  NaN where there is no lattice.
    n_disks : array of int, shape (y, x)
        Disks on the lattice; 0 where there is none.
    chi2 : array of shape (y, x)
        Reduced: mean square of the distances of the disks from the lattice, in units of their expected errors (of the
        scan's typical ones, where the vectors have none).  1 is as expected.
    residual : array of shape (y, x)
        Root mean square distance of the disks from the lattice, in the units of the vectors.
    parameters : array of shape (y, x, 3, 2)
        Two basis vectors and the origin of each lattice, in the columns (row axis first) and units of the vectors.
    covariance : array of shape (y, x, 3, 3)
        Of these three, the same for both columns.
    reference : array of shape (2, 2)
        Basis that is not strained, in these columns and units.
    scale : float
        Typical distance of disks from their lattices over the expected one.
    angle : float
        Of the axis x of the strain from that of the pattern, in degrees, counterclockwise.
    units : list of str
        Of the first two columns of the vectors.
    axes : list of dict
        Name, units, scale and offset of the navigation axes, x first.
    title : str
        Of the scan.
    provenance : dict
        Where it comes from; see :func:`pyxem_dl.provenance`.
    """

    values: np.ndarray
    errors: np.ndarray
    n_disks: np.ndarray
    chi2: np.ndarray
    residual: np.ndarray
    parameters: np.ndarray
    covariance: np.ndarray
    reference: np.ndarray
    scale: float
    angle: float
    units: list
    axes: list
    title: str = ""
    provenance: dict = field(default_factory=dict)

    def __getattr__(self, name: str):
        short = name.removesuffix("_error")
        if short not in NAMES:
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")
        return (self.errors if name.endswith("_error") else self.values)[NAMES.index(short)]

    def __dir__(self):
        return [*super().__dir__(), *NAMES, *(f"{name}_error" for name in NAMES)]

    def __repr__(self) -> str:
        there = self.n_disks > 0
        typical = ", ".join(
            f"{name} {np.median(error[there]):.2g}" for name, error in zip(NAMES, self.errors, strict=True)
        ) if there.any() else "none"  # fmt: skip
        return (
            f"<Strain, title: {self.title}, shape {self.shape}: {there.sum()} of {there.size} positions have a "
            f"lattice; typical errors: {typical}°>"
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the navigation, in data order (y, x)."""
        return self.n_disks.shape

    @property
    def basis(self) -> np.ndarray:
        """Two vectors of the lattice of each position (y, x, 2, 2), in the columns and units of the vectors."""
        return self.parameters[..., :2, :]

    @property
    def origin(self) -> np.ndarray:
        """Where the direct beam is in each pattern (y, x, 2), from where it was supposed to be."""
        return self.parameters[..., 2, :]

    def to_signal(self):
        """Make a HyperSpy signal of the maps, pyxem's ``StrainMap`` where the scan has two dimensions.

        Returns
        -------
        pyxem.signals.StrainMap, hyperspy.signals.Signal1D or BaseSignal
            Navigation: e_xx, e_yy, e_xy and theta (degrees; pyxem's own are radians); signal: the scan.  The squares of
            the errors are its noise variance, ``signal.get_noise_variance()``; all the rest is in its metadata.
        """
        signal = self._signal_of(self.values)
        signal.set_noise_variance(self._signal_of(self.errors**2))
        signal.metadata.General.title = self.title
        entries = {name: getattr(self, name) for name in _ENTRIES}
        # files of HyperSpy hold no arrays without a dimension
        bare = [name for name, each in entries.items() if isinstance(each, np.ndarray) and not each.ndim]
        entries |= {name: entries[name].item() for name in bare}
        signal.metadata.add_dictionary({"Strain": entries})
        return with_record(signal, self.provenance)

    def _signal_of(self, maps: np.ndarray):
        from hyperspy.signals import BaseSignal, Signal1D
        from pyxem.signals import StrainMap

        signal = {0: lambda m: BaseSignal(m).T, 1: Signal1D, 2: StrainMap}[len(self.shape)](maps)
        signal.axes_manager.navigation_axes[0].name = ", ".join(NAMES)
        for new, old in zip(signal.axes_manager.signal_axes if self.shape else (), self.axes, strict=False):
            for name, value in old.items():
                setattr(new, name, value)
        return signal

    def plot(self, **kwargs) -> None:
        """Show the maps as HyperSpy does; :func:`pyxem_dl.plot.strain_map` draws them with their errors.

        Parameters
        ----------
        **kwargs
            Passed to the ``plot`` of :meth:`to_signal`, for two dimensions that of pyxem's ``StrainMap``.
        """
        settings = {"cmap": "RdBu_r", "label": [*NAMES[:3], "theta (°)"]} if len(self.shape) == 2 else {}
        self.to_signal().plot(**settings | kwargs)

    def save(self, path: File, *, overwrite: bool = False) -> Path:
        """Write all into a file of HyperSpy.

        Parameters
        ----------
        path : str or pathlib.Path
            Ending in ``.hspy`` or ``.zspy``.  ``hyperspy.api.load`` gives the maps, :meth:`load` all of it.
        overwrite : bool
            Replace a file that is there.
        """
        return write_signal(self.to_signal(), check_strain_path(path, overwrite=overwrite))

    @classmethod
    def load(cls, path: File) -> Strain:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        path : str or pathlib.Path
            Of the file.
        """
        signal, entries = read_signal(path, "Strain", _ENTRIES, cls.__name__)
        entries = {name: entries[name] for name in _ENTRIES}
        for name in ("n_disks", "chi2", "residual"):
            entries[name] = np.asarray(entries[name])
        values, variance = (np.asarray(s.data).reshape(4, *np.shape(entries["n_disks"]))
                            for s in (signal, signal.get_noise_variance()))  # fmt: skip
        facts = {"title": str(signal.metadata.General.title), "provenance": provenance(signal)}
        return cls(values, np.sqrt(variance), **entries, **facts)

    def refine(self, vectors: Vectors) -> Vectors:
        """Put disks where the lattices of their patterns have them.

        Parameters
        ----------
        vectors : pyxem.signals.DiffractionVectors
            Those of which the strain was mapped.

        Returns
        -------
        pyxem.signals.DiffractionVectors
            With the same columns: disks on a lattice, at its points (from the origin that the vectors have); a column
            ``position_error`` holds their new errors.  What lies on no lattice is left out.
        """
        vectors = without_distortion(vectors)
        tables = VectorTables(vectors)
        if tables.shape != self.shape:
            raise ValueError(
                f"The strain is of a scan of shape {self.shape}, the vectors have {tables.shape} (rows first): give "
                "those of which it was mapped."
            )
        refined = np.empty(len(tables.tables), dtype=object)
        for begin in range(0, len(refined), _BLOCK):
            part = np.arange(begin, min(begin + _BLOCK, len(refined)))
            refined[part] = self._refined(tables, part)
        # a lazy signal's class would take the tables for those of dask
        result = vectors.deepcopy()
        if result._lazy:
            result.compute(show_progressbar=False)
        result.data = refined.reshape(vectors.data.shape)
        return result

    def _refined(self, tables: VectorTables, part: np.ndarray) -> np.ndarray:
        """Tables (m,) of some positions."""
        disks, rows = tables.read(part)
        parameters = self.parameters.reshape(-1, 3, 2)[part]
        index, on = nearest_points(disks, tables.to_k(parameters), self.scale)
        place = np.concatenate([index, np.ones((len(index), 1))], axis=1)[on]
        owner = disks.owner[on]
        table = tables.joined(part)[rows[on]]
        table[:, :2] = np.einsum("ni,nij->nj", place, parameters[owner])
        if tables.error_column is not None:
            covariance = self.covariance.reshape(-1, 3, 3)[part][owner]
            table[:, tables.error_column] = np.sqrt(2 * np.einsum("ni,nij,nj->n", place, covariance, place))
        found = np.empty(len(part), dtype=object)
        found[:] = np.split(table, np.searchsorted(owner, np.arange(1, len(part))))
        return found


def check_strain_path(path: File, *, overwrite: bool = False) -> Path:
    """Path that :meth:`Strain.save` can write to, or an error: better before than after the work."""
    return check_signal_path(path, "Strain is", overwrite=overwrite)
