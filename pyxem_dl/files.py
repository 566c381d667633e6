"""Files that are whole or not there: claimed by one process, written beside their place, and put there at once."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyxem_dl.messages import warn

#: Appended to the name of a result that is not finished
PARTIAL = ".partial"
# What file systems say that know no locks, as some network shares and clusters
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
_UNFINISHED, _OLD = "unfinished", "old"


class NotWritten(OSError):
    """A result that is computed and could not be written.

    Attributes
    ----------
    result : object
        What was to be written.
    """

    def __init__(self, message: str, result) -> None:
        super().__init__(message)
        self.result = result


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a name beside a file (or folder) to write to; what is written there then takes its place at once.

    Parameters
    ----------
    path : str or pathlib.Path
        Of what is to be written; folders above it are made.  A link stays one: what it points to is replaced.

    Yields
    ------
    pathlib.Path
        With the same suffix.  After an error it is removed, and what was at `path` is as it was.
    """
    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.{_UNFINISHED}{path.suffix}")
    try:
        yield new
        _to_disk(new)
        if new.is_dir() and path.exists():
            _swap_folder(new, path)
        else:
            if path.is_file():
                shutil.copymode(path, new)
            os.replace(new, path)
        _sync(path.parent)
    except BaseException:
        _remove(new)
        raise


@contextmanager
def claimed(path: str | Path) -> Iterator[None]:
    """Let nobody else write a file, and clear away what a killed process left beside it.

    Parameters
    ----------
    path : str or pathlib.Path
        Of the file; folders above it are made.  The system frees what a process held that is no more.

    Raises
    ------
    BlockingIOError
        If another process (or thread) writes it.
    """
    from filelock import FileLock, Timeout

    path = Path(path).resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_name(f".{path.name}.lock")
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(
            errno.EWOULDBLOCK,
            f"{path} is being written by another process, which holds {file}. Wait until it has finished, or give "
            "another name. If there is no such process (another computer may have crashed), delete that file",
        ) from None
    except (NotImplementedError, OSError) as error:  # the first is filelock's own word for "no locks here"
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        warn(f"{path.parent} does not support file locks: make sure that no other process writes {path.name}.")
    try:
        _clear(path)
        yield
    finally:
        # while it is held: afterwards it may be another's
        with suppress(OSError):
            file.unlink()
        lock.release()


def reserve(path: Path, nbytes: int) -> None:
    """Make sure that a file of so many bytes has room, by making one: a full disk may end the HDF5 library's process.

    Raises
    ------
    OSError
        If there is no room: on the disk, or within what the user may fill.
    """
    if not hasattr(os, "posix_fallocate"):
        if shutil.disk_usage(path.parent).free < nbytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return
    with open(path, "wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, nbytes)
        finally:
            path.unlink()


def check_hdf5(path: Path) -> None:
    """Read an HDF5 file that was just written: where a disk is full, h5py may swallow the error when it closes it."""
    import h5py

    def read(_, item) -> None:
        if isinstance(item, h5py.Dataset):
            item[()]

    try:
        # what is on the disk: by its name the library would take what it has in memory
        with open(path, "rb") as raw, h5py.File(raw, "r") as file:
            file.visititems(read)
    except (OSError, RuntimeError) as error:
        raise OSError(errno.EIO, f"the file just written cannot be read; the disk may be full ({error})") from error


@contextmanager
def replacing_files(folder: str | Path, *, last: str) -> Iterator[Path]:
    """Give a folder to write files to, which then replace those of the same names in another one.

    Parameters
    ----------
    folder : str or pathlib.Path
        Where they go; made if it is not there.  Other files there stay.
    last : str
        File without which the others count for nothing: an old one goes first, the new one comes last.

    Yields
    ------
    pathlib.Path
        An empty folder inside.
    """
    folder = Path(folder)
    with claimed(folder / last):
        new = folder / f".{last}.{_UNFINISHED}"
        _remove(new)
        new.mkdir()
        try:
            yield new
            _to_disk(new)
            names = sorted((path.name for path in new.iterdir()), key=lambda name: name == last)
            (folder / last).unlink(missing_ok=True)
            for name in names:
                os.replace(new / name, folder / name)
            _sync(folder)
        finally:
            _remove(new)


def check_target(path: str | Path, *, overwrite: bool = False, needed: float = 0, folder: bool = False) -> Path:
    """Make sure that a file can be written, before the work that it is to hold.

    Parameters
    ----------
    path : str or pathlib.Path
        Of the file.
    overwrite : bool
        Whether one that is there may be replaced.
    needed : float
        Bytes that it takes, with all that is kept on the way.
    folder : bool
        Whether a folder will be written, not a file.

    Raises
    ------
    FileExistsError
        If it is there and not `overwrite`.
    OSError
        If the folder is none, cannot be written to, does not take the name, or has no room.
    """
    path = Path(path)
    if path.exists():
        if not overwrite:
            raise FileExistsError(f"{path} already exists. Give another name, or overwrite=True.")
        if path.is_dir() and not folder:
            raise IsADirectoryError(errno.EISDIR, f"{path} is a folder: give the name of a file")
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, f"{path} is write-protected: give another name")
    above = next(p for p in path.resolve().parents if p.exists())
    if not above.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{path} cannot be written: {above} is a file, not a folder")
    _try_name(path, above)
    free = shutil.disk_usage(above).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"{path} needs about {_size(needed)}, but {above} has {_size(free)} left: free some space, or use another "
            "folder",
        )
    return path


def move_aside(path: Path, ending: str) -> Path:
    """Rename a file (or folder) that is not wanted, and must not be lost; returns its new name."""
    names = (path.with_name(f"{path.name}.{ending}{'' if i == 1 else i}") for i in range(1, 1_000_000))
    aside = next(name for name in names if not os.path.lexists(name))
    os.replace(path, aside)
    return aside


def _try_name(path: Path, above: Path) -> None:
    # what is appended to a name at most; another one each time, as several processes may try at once
    trial = above / f".{path.name}{PARTIAL}.{secrets.token_hex(4)}.{_UNFINISHED}"
    try:
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise OSError(
            error.errno, f"{path} cannot be written in {above}: {error.strerror}. Give another name or folder"
        ) from error


def _size(n: float) -> str:
    return f"{n / 1e9:.3g} GB" if n >= 1e9 else f"{n / 1e6:.3g} MB"


def _swap_folder(new: Path, path: Path) -> None:
    """Put a folder in the place of what is there: folders cannot be replaced at once."""
    old = new.with_name(new.name.replace(f".{_UNFINISHED}", f".{_OLD}"))
    os.replace(path, old)
    try:
        os.replace(new, path)
    except BaseException:
        os.replace(old, path)
        raise
    _remove(old)


def _clear(path: Path) -> None:
    """Remove what killed processes left beside a claimed file; what they had moved away comes back."""
    _clear_one(path)
    _clear_one(path.with_name(path.name + PARTIAL))


def _clear_one(path: Path) -> None:
    pattern = re.compile(rf"\.{re.escape(path.stem)}\.[0-9a-f]{{8}}\.({_UNFINISHED}|{_OLD}){re.escape(path.suffix)}")
    for left in path.parent.iterdir():
        match = pattern.fullmatch(left.name)
        if match and match[1] == _OLD and not path.exists():
            os.replace(left, path)
        elif match:
            _remove(left)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _to_disk(path: Path) -> None:
    """Make sure that a file, or all files of a folder, are on the disk and not in its cache."""
    if not path.is_dir():
        _sync(path)
        return
    for folder, _, files in os.walk(path):
        for name in files:
            _sync(Path(folder) / name)
        _sync(Path(folder))


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # folders of some network shares cannot be synchronised
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)
