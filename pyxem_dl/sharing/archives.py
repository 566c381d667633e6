"""Model folders in one file: packed so that the same folder gives the same bytes, and unpacked with bounds.

An archive is a zip file of the files of a model folder, without folders in it and without compression: what compresses
differs between versions, and weights hardly shrink. Those that others have zipped by hand are read, too.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from pyxem_dl.crystals.writing import printable
from pyxem_dl.files import replacing

_LARGEST = 16 * 2**30
# Of the list of an archive's files, and of what is in it
_LARGEST_LIST, _MOST_FILES = 2**20, 200
# Weights shrink to a half at most; a megabyte that may be all zeros is spared
_MOST_SHRUNK, _SPARED = 100, 2**20
_PIECE = 2**20
_ENCRYPTED = 0x1
# What zipfile raises for files that are damaged, or were made to harm
_DAMAGE = (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, EOFError, RuntimeError, UnicodeError)
#: The earliest time that a zip file can hold
_NO_DATE = (1980, 1, 1, 0, 0, 0)


def pack(folder: Path, names: Sequence[str], path: Path) -> Path:
    """Write files of a folder into an archive.

    Parameters
    ----------
    folder : pathlib.Path
        Where they are.
    names : sequence of str
        Those that are wanted, in their order.
    path : pathlib.Path
        Of the archive; one that is there is replaced.

    Returns
    -------
    pathlib.Path
        `path`.
    """
    with replacing(path) as new, zipfile.ZipFile(new, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            entry = zipfile.ZipInfo(name, _NO_DATE)
            entry.create_system, entry.external_attr = 3, (stat.S_IFREG | 0o644) << 16
            entry.file_size = (folder / name).stat().st_size
            with open(folder / name, "rb") as file, archive.open(entry, "w") as packed:
                while piece := file.read(_PIECE):
                    packed.write(piece)
    return path


def unpack(path: Path, names: Sequence[str], folder: Path) -> None:
    """Write the files of a model from an archive into a folder; nothing else of it is written anywhere.

    Parameters
    ----------
    path : pathlib.Path
        Of the archive.
    names : sequence of str
        Files that a model consists of; the first must be there.  Others in the archive, as a picture, stay
        where they are.
    folder : pathlib.Path
        An empty one.

    Raises
    ------
    ValueError
        If it is no zip file, is damaged, or holds links, files outside of their folder, the same file twice, or
        much more than its size can hold.
    """
    try:
        with open(path, "rb") as file:
            bounded = _BoundedList(file)
            with zipfile.ZipFile(bounded) as archive:
                bounded.is_open = True
                for name, entry in _wanted(archive.infolist(), names, path).items():
                    _write(archive, entry, folder / name, path)
    except _DAMAGE as error:
        raise ValueError(f"{path} is damaged, or no zip file: {printable(str(error), 200)}") from error


class _BoundedList:
    """A file of which no large piece is read before the archive is open: the list of its files is read at once."""

    def __init__(self, file) -> None:
        self._file, self.is_open = file, False
        self._size = os.fstat(file.fileno()).st_size
        self.seek, self.tell, self.seekable, self.close = file.seek, file.tell, file.seekable, file.close

    def read(self, size: int = -1) -> bytes:
        wanted = self._size - self._file.tell() if size < 0 else size
        if not self.is_open and wanted > _LARGEST_LIST:
            raise zipfile.BadZipFile(f"the list of its files should have {wanted} bytes")
        return self._file.read(size)


def _wanted(entries: list[zipfile.ZipInfo], names: Sequence[str], path: Path) -> dict[str, zipfile.ZipInfo]:
    """Find the files of the model: at the top of the archive, or all in one folder."""
    if len(entries) > _MOST_FILES:
        raise ValueError(f"{path} holds {len(entries)} files; a packed model has less than {_MOST_FILES}.")
    seen = set()
    for entry in entries:
        _check(entry, path)
        if entry.filename.lower() in seen:
            raise ValueError(f"{path} is refused: it holds {printable(entry.filename)!r} twice.")
        seen.add(entry.filename.lower())
    files = {entry.filename: entry for entry in entries if not entry.is_dir()}
    roots = [name.removesuffix(names[0]) for name in files if name.rpartition("/")[2] == names[0]]
    roots = [root for root in roots if root.count("/") <= 1 and not root.startswith("__MACOSX")]
    if len(roots) != 1:
        found = "no" if not roots else f"{len(roots)} times"
        raise ValueError(
            f"{path} holds no model: there is {found} {names[0]} in it. `pyxem-dl pack` makes such archives."
        )
    found = {name: files[roots[0] + name] for name in names if roots[0] + name in files}
    total = sum(entry.file_size for entry in found.values())
    if total > _LARGEST:
        raise ValueError(
            f"{path} is refused: unpacked it has {total / 2**30:.3g} GB; at most {_LARGEST >> 30} GB are read."
        )
    return found


def _check(entry: zipfile.ZipInfo, path: Path) -> None:
    """Refuse an archive with an entry that is no plain file or folder inside of it."""
    name, mode = printable(entry.filename), entry.external_attr >> 16
    # zipfile shortens names at a NUL and turns the backslashes of Windows: what stood there is in `orig_filename`
    parts = re.split(r"[/\\]", entry.orig_filename)
    if entry.orig_filename.startswith(("/", "\\")) or ".." in parts or ":" in name or "\0" in entry.orig_filename:
        raise ValueError(f"{path} is refused: it holds {name!r}, which would lie outside of its folder.")
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ValueError(f"{path} is refused: it holds {name!r}, which is a link or a device.")
    if entry.flag_bits & _ENCRYPTED:
        raise ValueError(f"{path} cannot be read: it is encrypted. Unpack it, and load the folder.")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{path} is packed in an unusual way ({name!r}). Unpack it, and load the folder.")
    if entry.file_size > _SPARED + _MOST_SHRUNK * entry.compress_size:
        raise ValueError(
            f"{path} is refused: {name!r} would grow from {entry.compress_size} to {entry.file_size} bytes, as no "
            "model does."
        )


def _write(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, path: Path) -> None:
    written = 0
    with archive.open(entry) as packed, open(target, "xb") as file:
        while piece := packed.read(_PIECE):
            written += len(piece)
            if written > entry.file_size:
                raise ValueError(f"{path} is damaged: {printable(entry.filename)!r} is larger than it says.")
            file.write(piece)
    if written != entry.file_size:
        raise ValueError(f"{path} is damaged: {printable(entry.filename)!r} is shorter than it says.")
