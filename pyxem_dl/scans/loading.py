"""Scans from files: whole patterns in a chunk where the reader can do that, and files that are not all there noticed.

HyperSpy's readers look at a file's header and believe it.  Read lazily, a file that ends in the middle shows that only
in the middle of the work, or not at all: rows that are missing in a ``.mib`` file are left out, chunks that are missing
in a ``.zspy`` folder read as zeros.
"""

from __future__ import annotations

import importlib
import inspect
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyxem_dl.messages import warn
from pyxem_dl.scans import arina

if TYPE_CHECKING:
    from hyperspy.signals import Signal2D

#: Where a format says in which order the bytes of its numbers are, and how those are marked that are read wrongly
_BIG_ENDIAN = {".mrc": (212, b"\x11\x11"), ".dm3": (8, b"\0\0\0\0"), ".dm4": (12, b"\0\0\0\0")}


#: Formats of suffixes that several readers take
_FORMATS = {".xml": "EMPAD"}


def load_scan(path: str | Path, **settings) -> Signal2D:
    """Load a scan lazily, and make sure that it is all there.

    Parameters
    ----------
    path : str or pathlib.Path
        Any file that HyperSpy reads, or the master file of an ARINA detector.
    **settings
        Of HyperSpy's reader: ``navigation_shape`` of .mib and .mrc files (x, y), ``scan_shape`` of .tvips files; or
        ``navigation_shape`` of :func:`load_arina`.

    Returns
    -------
    hyperspy.signals.Signal2D
        Lazy.

    Raises
    ------
    FileNotFoundError, ValueError
        For a file that is not there, cannot be read, ends in the middle, or holds several signals.

    Warns
    -----
    UserWarning
        If the file holds fewer patterns than the scan has.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    _refuse_big_endian(path)
    signal = _load(path, **settings)
    if isinstance(signal, list):
        kinds = "; ".join(str(each) for each in signal)
        raise ValueError(
            f"{path} holds {len(signal)} signals ({kinds}). Load it in Python with hyperspy.api.load, "
            "and save the scan alone: signals[0].save('scan.zspy')."
        )
    signal = _with_whole_patterns(path, signal, settings)
    _check_end(path, signal)
    for missing in (_missing_frames(signal), _missing_chunks(path)):
        if missing:
            warn(f"{path} is not complete: {missing}. Copy it again, if there is more of it.")
    return signal


def _load(path: Path, **settings):
    """Let HyperSpy read a file; whatever its readers run into is an error that names the file."""
    import hyperspy.api as hs

    if arina.is_arina(path):
        return arina.load_arina(path, **settings)
    try:
        signal = hs.load(str(path), lazy=True, file_format=_FORMATS.get(path.suffix.lower()), **settings)
    except (ImportError, MemoryError):
        raise
    except NotImplementedError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # readers raise what their parsing runs into
        raise ValueError(
            f"{path} ({_size(path)}) cannot be read ({type(error).__name__}: {error}). Is it complete? Copy it again."
        ) from error
    if not isinstance(signal, list) and not signal.axes_manager.navigation_dimension and signal.data.ndim in (3, 4):
        signal = signal.transpose(signal_axes=2)  # .emd files do not tell the axes of the scan
    return signal


def _with_whole_patterns(path: Path, signal, settings: dict):
    """Load a file once more with chunks that do not split the detector, where its reader takes chunks."""
    if all(n == 1 for n in signal.data.numblocks[-2:]) or not _takes_chunks(path):
        return signal
    try:
        return _load(path, **settings | {"chunks": ("auto",) * (signal.data.ndim - 2) + (-1, -1)})
    except ValueError:  # of a scan of one row the reader knows more dimensions than are left
        return signal


def _takes_chunks(path: Path) -> bool:
    """Whether the reader of a file can be told the chunks."""
    from rsciio import IO_PLUGINS

    suffix = path.suffix[1:].lower()
    named = [plugin for plugin in IO_PLUGINS if plugin["name"].lower() == suffix]  # as HyperSpy chooses
    readers = named or [plugin for plugin in IO_PLUGINS if suffix in plugin["file_extensions"]]
    if len(readers) != 1:
        return False
    return "chunks" in inspect.signature(importlib.import_module(readers[0]["api"]).file_reader).parameters


def _refuse_big_endian(path: Path) -> None:
    """Refuse files whose numbers RosettaSciIO would take for others: it reads these formats in one order of bytes."""
    place, mark = _BIG_ENDIAN.get(path.suffix.lower(), (0, None))
    if mark is None or not path.is_file():
        return
    with open(path, "rb") as file:
        file.seek(place)
        if file.read(len(mark)) == mark:
            raise ValueError(
                f"{path} is big-endian, and would be read wrongly. Convert it with the program that wrote it, or read "
                "its numbers with NumPy, and make a signal of them."
            )


def _check_end(path: Path, signal) -> None:
    """Read the last pattern: a file that is mapped into memory fails as a whole if it ends before that."""
    data = signal.data
    try:
        np.asarray(data[(-1,) * (data.ndim - 2)])
    except Exception as error:  # of whatever library decodes it
        what = f"{math.prod(data.shape[:-2])} patterns of {data.shape[-2]} x {data.shape[-1]} px"
        raise ValueError(
            f"{path} ends in the middle: {what} ({data.nbytes / 2**20:.4g} MiB when unpacked) cannot be read from "
            f"{_size(path)} ({error}). Copy it again."
        ) from error


def _missing_frames(signal) -> str:
    """Say how many frames a Merlin scan (.mib) lacks of those that it was to have, and what is left of it."""
    found = signal.original_metadata.get_item("mib_properties")
    if found is None:
        return ""
    found = found.as_dictionary()
    frame = found["head_size"] + np.dtype(found["dtype"]).itemsize * math.prod(signal.data.shape[-2:])
    frames, rest = divmod(found["file_size"], frame)
    kept = math.prod(signal.data.shape[:-2])
    promised = signal.original_metadata.get_item("hdr_file")
    promised = {} if promised is None else promised.as_dictionary()
    wanted = max(int(promised.get("Frames in Acquisition (Number)") or 0), frames)
    if kept == wanted and not rest:
        return ""
    wanted += bool(rest and wanted == frames)  # of the last one a part
    return f"it has {frames} of {wanted} frames, of which {kept} are used, in whole rows"


def _missing_chunks(path: Path) -> str:
    """Say how many chunks a .zspy folder lacks."""
    if path.suffix.lower() != ".zspy" or not path.is_dir():
        return ""
    import zarr

    scans = zarr.open(str(path), mode="r")["Experiments"].groups()
    data = [array for _, group in scans for name, array in group.arrays() if name == "data"]
    n = sum(array.nchunks for array in data)
    files = (file for array in data for file in (path / array.path).rglob("*"))
    missing = n - sum(file.name[0].isdigit() and file.is_file() for file in files)
    return f"{missing} of {n} chunks are missing, whose patterns are read as zeros" if missing else ""


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 2**20:.4g} MiB" if path.is_file() else "a folder"
