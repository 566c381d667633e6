"""Scans of DECTRIS' ARINA detector: a master file, and files of frames beside it, read in blocks.

RosettaSciIO reads such a scan only as a whole, into memory.  This module is a reader for HyperSpy, too:
``hs.load("scan_master.h5", lazy=True, file_format=pyxem_dl.scans.arina)``.

The master file has a group ``entry/data`` with links ``data_000001``, ``data_000002``, ... to data sets (n, rows,
columns) in files beside it, compressed by filters of the package hdf5plugin; ``entry/instrument/detector`` tells what
the detector was asked for (the layout is also described in DECTRIS' plug-in neggia).  Frames are taken as they are
stored, the first row at the top, and positions in the order in which they were measured, row by row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyxem_dl.messages import warn

if TYPE_CHECKING:
    from pyxem.signals import Diffraction2D

# A block of frames that is read at once, in bytes
_BLOCK = 32 * 2**20
_DATA, _SPECIFIC = "entry/data", "entry/instrument/detector/detectorSpecific"
# Energies of electrons in eV: what was never set is that of X-rays
_LEAST_EV, _MOST_EV = 20e3, 3e6
_ENERGIES = ("entry/instrument/beam/incident_energy", f"{_SPECIFIC}/incident_energy")


def load_arina(
    path: str | Path, navigation_shape: tuple[int, int] | None = None, *, lazy: bool = True
) -> Diffraction2D:
    """Load a scan of an ARINA detector.

    Parameters
    ----------
    path : str or pathlib.Path
        The master file, ``..._master.h5``; the files of frames lie beside it.
    navigation_shape : tuple of int, optional
        (rows, columns) of the scan, in data order (y, x).  By default what the detector was asked for (a trigger for
        each row), or else a square.
    lazy : bool
        Read patterns when they are needed.

    Returns
    -------
    pyxem.signals.ElectronDiffraction2D or LazyElectronDiffraction2D
        Not calibrated; the beam energy is set if the file has it.  Where the file has a mask of bad pixels, it is
        ``s.original_metadata.arina.pixel_mask``: give ``signal_mask=mask > 0``.

    Raises
    ------
    FileNotFoundError
        If the file, or a file of frames, is not there.
    ValueError
        If it is none of an ARINA detector, is damaged, or has another number of frames than the shape.
    ImportError
        If the package that decompresses the frames is not installed.

    Warns
    -----
    UserWarning
        If frames are missing at the end: complete rows are kept.  If the shape of the scan is not known.
    """
    import hyperspy.api as hs

    from pyxem_dl.scans import arina

    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    return hs.load(str(path), lazy=lazy, file_format=arina, navigation_shape=navigation_shape)


def is_arina(path: Path) -> bool:
    """Tell whether a file is a master file of DECTRIS, from its name and groups."""
    import h5py

    if path.suffix.lower() not in (".h5", ".hdf5") or not h5py.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        return isinstance(file.get(_DATA), h5py.Group)


def file_reader(filename, lazy: bool = False, navigation_shape: tuple[int, int] | None = None) -> list[dict]:
    """Read a scan for HyperSpy; parameters and errors are those of :func:`load_arina`."""
    import dask.array as da
    import h5py

    path = Path(filename)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    try:
        with h5py.File(path, "r") as master:
            sources = _sources(path, master)
            asked = tuple(_number(master, f"{_SPECIFIC}/{name}") for name in ("ntrigger", "nimages"))
            energies = (_number(master, name) for name in _ENERGIES)
            energy = next((e for e in energies if e is not None and _LEAST_EV <= e <= _MOST_EV), None)
            mask = master.get(f"{_SPECIFIC}/pixel_mask")
            mask = None if mask is None else mask[()]
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path} is damaged, or not an HDF5 file ({error}). Copy it again.") from error
    frames = _Frames(sources, _scan_shape(path, sum(s.n for s in sources), navigation_shape, asked))
    data = da.from_array(frames, chunks=frames.chunks, meta=np.empty((0,) * frames.ndim, frames.dtype))
    names = ("y", "x", "ky", "kx")[4 - frames.ndim :]
    metadata = {
        "General": {"original_filename": path.name, "title": path.stem.removesuffix("_master")},
        "Signal": {"signal_type": "electron_diffraction"},
    }
    if energy:
        metadata["Acquisition_instrument"] = {"TEM": {"beam_energy": energy / 1000}}
    return [{
        "data": data if lazy else data.compute(),
        "axes": [
            {"name": name, "size": size, "index_in_array": i, "navigate": i < frames.ndim - 2}
            for i, (name, size) in enumerate(zip(names, frames.shape, strict=True))
        ],
        "metadata": metadata,
        "original_metadata": {"arina": {} if mask is None else {"pixel_mask": mask}},
    }]  # fmt: skip


@dataclass(frozen=True)
class _Source:
    """A data set of frames (n, rows, columns) in a file."""

    path: Path
    name: str
    n: int
    shape: tuple[int, int]
    dtype: np.dtype


class _Frames:
    """All frames of a scan as an array that dask cuts: a file is opened where a block is read, in any process.

    Parameters
    ----------
    sources : list of _Source
        In the order of the scan.
    shape : tuple of int
        Of the scan; frames at the end that it does not hold are left out.
    """

    def __init__(self, sources: list[_Source], shape: tuple[int, ...]) -> None:
        self.sources = sources
        self.dtype = sources[0].dtype
        self.shape = (*shape, *sources[0].shape)
        self.ndim = len(self.shape)

    @property
    def chunks(self) -> tuple[int, ...]:
        """Blocks of whole rows of the scan, or of parts of one row; whole frames."""
        *others, columns = self.shape[:-2]
        n = max(1, _BLOCK // (self.dtype.itemsize * math.prod(self.shape[-2:])))
        lines = (max(1, min(n // columns, *others)),) if others else ()
        return (*lines, min(n, columns), *self.shape[-2:])

    def __dask_tokenize__(self):
        changed = [(str(s.path), s.name, s.path.stat().st_mtime_ns) for s in self.sources]
        return [changed, self.shape]

    def __getitem__(self, index) -> np.ndarray:
        # dask asks for slices; of single patterns for numbers, too
        wanted = zip(index, self.shape[:-2])
        *lines, columns = (range(n)[i if isinstance(i, slice) else slice(i % n, i % n + 1)] for i, n in wanted)
        width = self.shape[-3]
        parts = [
            self._read(line * width + columns.start, line * width + columns.stop)[:, *index[-2:]]
            for line in (lines[0] if lines else (0,))
        ]
        found = np.stack(parts) if lines else parts[0]
        return found[tuple(slice(None) if isinstance(i, slice) else 0 for i in index[:-2])]

    def _read(self, start: int, stop: int) -> np.ndarray:
        """Frames from one to another, of as many files as hold them."""
        parts, first = [], 0
        for source in self.sources:
            begin, end = max(start, first) - first, min(stop, first + source.n) - first
            if begin < end:
                with _opened(source.path) as file:
                    parts.append(file[source.name][begin:end])
            first += source.n
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _opened(path: Path):
    """Open a file of frames; an error names it."""
    import h5py

    if not path.is_file():
        raise FileNotFoundError(f"The file of frames {path} is missing: keep all files of a scan in one folder.")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"The file of frames {path} is damaged ({error}). Copy it again.") from error


def _sources(path: Path, master) -> list[_Source]:
    """Look for the data sets of a master file, and make sure that they can be read."""
    import h5py

    group = master.get(_DATA)
    names = sorted(name for name in group if name.startswith("data")) if isinstance(group, h5py.Group) else []
    if not names:
        raise ValueError(f"{path} is no master file of an ARINA detector: it has no {_DATA}/data_000001 and so on.")
    sources = []
    for name in names:
        link = group.get(name, getlink=True)
        where, inside = path, f"{_DATA}/{name}"
        if isinstance(link, h5py.ExternalLink):
            if Path(link.filename).name != link.filename:
                raise ValueError(f"{path} has its frames in another folder, {link.filename!r}: put them beside it.")
            where, inside = path.with_name(link.filename), link.path
        with _opened(where) as file:
            sources.append(_checked(where, inside, file.get(inside)))
    shapes = {(source.shape, source.dtype) for source in sources}
    if len(shapes) > 1:
        raise ValueError(f"{path}: frames are not all alike: {', '.join(f'{shape} of {t}' for shape, t in shapes)}.")
    return sources


def _checked(path: Path, name: str, data) -> _Source:
    """Make sure of a data set of frames, and of the filters that decompress it."""
    import h5py

    if not isinstance(data, h5py.Dataset) or data.ndim != 3 or data.dtype.kind not in "ui":
        raise ValueError(f"{path} has no frames at {name!r}: a data set of whole numbers (n, rows, columns) is needed.")
    plist = data.id.get_create_plist()
    filters = [plist.get_filter(i) for i in range(plist.get_nfilters())]
    if not all(h5py.h5z.filter_avail(code) for code, *_ in filters):
        try:
            import hdf5plugin  # noqa: F401 (its import makes the filters known)
        except ImportError as error:
            names = ", ".join(str(text.decode(errors="replace") or code) for code, _, _, text in filters)
            raise ImportError(
                f"{path} is compressed ({names}): to read it, python -m pip install \"pyxem-dl[arina]\"."
            ) from error
    return _Source(path, name, data.shape[0], data.shape[1:], data.dtype)


def _number(file, name: str):
    """Return a single number of a file, None where there is none."""
    found = file.get(name)
    value = None if found is None or not hasattr(found, "dtype") else np.asarray(found[()])
    return None if value is None or value.size != 1 or value.dtype.kind not in "uif" else value.reshape(-1)[0].item()


def _scan_shape(path: Path, n: int, shape, asked) -> tuple[int, ...]:
    """Shape of a scan of n frames: as given, as the detector was asked for, or a square."""
    triggers, images = asked
    expected = (triggers or 1) * (images or 1)
    if shape is not None:
        if len(shape) != 2 or not all(isinstance(k, (int, np.integer)) and k > 0 for k in shape):
            raise ValueError(f"navigation_shape must be (rows, columns) of the scan, not {shape!r}.")
        expected = math.prod(shape)
        if expected < n:
            raise ValueError(f"{path} has {n} frames, but navigation_shape {tuple(shape)} has {expected}.")
    elif triggers and images and min(triggers, images) > 1 and expected >= n:
        shape = int(triggers), int(images)
    else:
        expected = int(max(expected, n))
        side = math.isqrt(expected)
        if side**2 != expected:
            warn(f"The shape of the scan in {path} is not known: its {n} frames are taken for a line. Give "
                 "navigation_shape=(rows, columns).")  # fmt: skip
            return (n,)
        shape = side, side
    rows = n // shape[1]
    if rows < shape[0]:
        warn(f"{path} has {n} of the {int(expected)} frames of the scan: its first {rows} of {shape[0]} rows are kept.")
        if not rows:
            raise ValueError(f"{path} has {n} frames, fewer than a row of the scan ({shape[1]}).")
    return rows, int(shape[1])
