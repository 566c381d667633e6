"""Long work is saved while it runs, so that an interrupted run can be continued."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from pyxem_dl.files import PARTIAL, NotWritten, move_aside, replacing
from pyxem_dl.messages import warn

# Seconds between two writings of what is done
_SAVE_EVERY = 10.0
# Patterns that are read again to see whether the scan is the same: all that are so many bytes together, else a spread
_READ_AGAIN_BYTES, _READ_AGAIN = 64 * 2**20, 32
# Changes where what is kept means something else
_FORMAT = "pyxem_dl partial results 2"


class PartialResults:
    """What is done of unfinished work, in a file that is replaced as a whole.

    Parameters
    ----------
    path : pathlib.Path
        Of what will be made; what is done lies beside it, in ``<path>.partial`` (safetensors, with a digest).
    fingerprint : str
        Of everything that the results depend on: work with another one starts again.

    Attributes
    ----------
    n_new : int
        Patterns that :meth:`gather` has added to what an earlier run found.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path, self.fingerprint = path.with_name(path.name + PARTIAL), fingerprint
        self.n_new = 0
        self._checksums: np.ndarray | None = None
        self._kept = 0

    def gather(self, found, parts: Callable, n: int, *, data=None, save_every: float = _SAVE_EVERY) -> None:
        """Add parts to what an earlier run found, and keep what is done.

        Parameters
        ----------
        found : object
            With ``done``, an array of bool (n,), ``add(part)``, ``to_arrays()`` and ``restore(arrays)``.
        parts : callable
            ``parts(done)`` returns an iterable of the parts that are not done.
        n : int
            Number of patterns to do in all, for the message.
        data : array, shape (..., rows, columns), optional
            The patterns.  Where parts have their checksums (see :func:`pattern_checksum`), some that are done are read
            again: what was done of other patterns is not taken.
        save_every : float
            Seconds between two writings.
        """
        self._checksums = np.zeros(len(found.done), np.int64)
        self._restore(found, data)
        try:
            self._add(found, parts(found.done.copy()), save_every)
        except BaseException:
            if found.done.any():
                kept = self._save_or_warn(found)
                print(f"  {kept} of {n} patterns are saved in {self.path}")
            raise

    def _add(self, found, parts: Iterable, save_every: float) -> None:
        saved = time.monotonic()
        for part in parts:
            found.add(part)
            if part.checksums is not None:
                self._checksums[part.indices] = part.checksums
            self.n_new += len(part.indices)
            if time.monotonic() - saved >= save_every:
                self._save_or_warn(found)
                saved = time.monotonic()

    def finish(self, found, write: Callable, result):
        """Write the result, after what it is made of: where that fails, nothing has to be computed again.

        Parameters
        ----------
        found : object
            As for :meth:`gather`.
        write : callable
            Called without arguments.
        result : object
            What it writes, which the error holds.

        Raises
        ------
        NotWritten
            If it could not be written.
        """
        if self._kept < found.done.sum():
            self._save_or_warn(found)
        try:
            write()
        except Exception as error:  # of whatever library: hours of computing must not be lost
            target = self.path.with_name(self.path.name.removesuffix(PARTIAL))
            raise NotWritten(
                f"{target} could not be written: {error}. {self._kept} of {int(found.done.sum())} patterns are "
                f"saved in {self.path}. Free some space and repeat the call: it continues from there. In Python the "
                "result is not lost: `error.result` holds it.",
                result,
            ) from error
        self.path.unlink(missing_ok=True)

    # ---------------------------------------------------------------- the file
    def save(self, found) -> None:
        """Write what is done, so that no moment is without a whole file."""
        from safetensors.numpy import save

        arrays = {name: np.ascontiguousarray(array) for name, array in found.to_arrays().items()}
        if self._checksums is not None:
            arrays["pattern checksums"] = self._checksums
        about = {"format": _FORMAT, "fingerprint": self.fingerprint, "digest": _digest(arrays)}
        with replacing(self.path) as new:
            new.write_bytes(save(arrays, metadata=about))
        self._kept = int(found.done.sum())

    def _save_or_warn(self, found) -> int:
        """Write what is done; if that fails, continue, because it is in memory. Returns how much is in the file."""
        try:
            self.save(found)
        except OSError as error:
            warn(
                f"{self.path} could not be written ({error}): {int(found.done.sum())} patterns are done and in memory, "
                f"{self._kept} of them are in the file. Free some space; saving is tried again."
            )
        return self._kept

    def _restore(self, found, data) -> None:
        """Read what an earlier run has done of the same work; what is of no use is moved aside."""
        if not os.path.lexists(self.path):
            return
        try:
            arrays, fingerprint = self._read()
        except Exception as error:  # whatever the bytes are, they must not stop the work
            self._begin_anew(f"is damaged ({type(error).__name__}: {error})", "damaged")
            return
        if fingerprint != self.fingerprint:
            self._begin_anew("belongs to another signal, model or setting", "old")
            return
        kept = arrays.pop("pattern checksums", None)
        try:
            done = arrays["done"]
            if done.dtype != bool or done.shape != found.done.shape or kept is None or kept.shape != done.shape:
                raise ValueError("other positions")
            if not _same_patterns(data, kept):
                self._begin_anew("belongs to other patterns", "old")
                return
            found.restore(arrays)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            self._begin_anew(f"is damaged ({type(error).__name__}: {error})", "damaged")
            return
        self._checksums, self._kept = kept, int(done.sum())
        print(f"  Continuing after {self._kept} patterns from {self.path}.")

    def _read(self) -> tuple[dict[str, np.ndarray], str]:
        """Arrays of the file, whose digest is right, and its fingerprint; safetensors are as long as they say."""
        from safetensors import safe_open

        if not self.path.is_file():
            raise ValueError("it is not a file")
        with safe_open(self.path, framework="numpy") as file:
            about = file.metadata() or {}
            if about.get("format") != _FORMAT:
                raise ValueError("another version of pyxem_dl, or another program, wrote it")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
        if about.get("digest") != _digest(arrays):
            raise ValueError("its digest does not match its contents")
        return arrays, about.get("fingerprint", "")

    def _begin_anew(self, why: str, ending: str) -> None:
        try:
            where = f"It was renamed to {move_aside(self.path, ending).name}"
        except OSError as error:
            where = f"It could not be moved aside ({error})"
        print(f"  {self.path} {why}: starting again. {where}.")


def pattern_checksum(pattern: np.ndarray) -> int:
    """Checksum of a pattern (rows, columns), never 0: whatever dtype it comes in, it is that of its float32 values."""
    with np.errstate(over="ignore"):
        return zlib.crc32(np.ascontiguousarray(pattern, dtype=np.float32)) + 1


def _same_patterns(data, kept: np.ndarray) -> bool:
    """Read a spread of patterns with a checksum, and compare."""
    positions = np.flatnonzero(kept)
    if data is None or not len(positions):
        return True
    positions = _spread(positions, 4 * math.prod(data.shape[-2:]))
    return all(
        pattern_checksum(pattern) == kept[i] for i, pattern in zip(positions, _read(data, positions), strict=True)
    )


def _spread(positions: np.ndarray, nbytes: int) -> np.ndarray:
    """All positions where their patterns, of so many bytes, are few; else some from the first to the last."""
    if len(positions) * nbytes <= _READ_AGAIN_BYTES or len(positions) <= _READ_AGAIN:
        return positions
    return positions[np.linspace(0, len(positions) - 1, _READ_AGAIN).astype(int)]


def _read(data, positions) -> list[np.ndarray]:
    """Patterns at flat positions of a NumPy or dask array (..., rows, columns)."""
    patterns = [data[np.unravel_index(i, data.shape[:-2])] if data.ndim > 2 else data for i in positions]
    if not hasattr(data, "dask"):
        return patterns
    import dask

    return list(dask.compute(*patterns))


def _digest(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(digest_size=32)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(json.dumps([name, str(array.dtype), array.shape]).encode())
        digest.update(array.view(np.uint8).data if array.size else b"")
    return digest.hexdigest()


def fingerprint(data, settings, arrays, source=None) -> str:
    """Hash what answers depend on.

    Parameters
    ----------
    data : numpy.ndarray or dask.array.Array, shape (..., rows, columns)
        Patterns: of an array in memory all are looked at, of others, which may take hours to read, 32 from the first to
        the last (or all, up to 64 MiB).
    settings : list
        Plain numbers and texts.
    arrays : iterable of array, str or None
        Masks, centers and the like.
    source : list, optional
        Where the patterns come from; see :func:`source_of`.
    """
    from pyxem_dl import __version__

    shape = tuple(int(n) for n in data.shape)
    digest = hashlib.sha256(json.dumps([__version__, shape, str(data.dtype), settings, source]).encode())
    for array in arrays:
        digest.update(b"none" if array is None else _bytes(array))
    if is_in_memory(data):
        for part in data:
            digest.update(_bytes(part))
    else:
        positions = _spread(np.arange(math.prod(shape[:-2])), data.dtype.itemsize * math.prod(shape[-2:]))
        for pattern in _read(data, positions):
            digest.update(_bytes(pattern))
    return digest.hexdigest()


def is_in_memory(data) -> bool:
    """Whether all patterns can be looked at without reading a disk."""
    return not hasattr(data, "dask") and not isinstance(data, np.memmap)


def source_of(signal) -> list:
    """Say from which file a signal comes, as far as it knows: name, size in bytes and time of the last change."""
    known = [str(signal.metadata.get_item("General.original_filename", ""))]
    where = getattr(signal, "tmp_parameters", None)
    where = {} if where is None else where.as_dictionary()
    if where.get("filename"):
        path = Path(str(where.get("folder", ""))) / f"{where['filename']}{where.get('extension', '')}"
        known.append(path.name)
        if path.exists():
            known += [path.stat().st_size, path.stat().st_mtime_ns]
    return known


def _bytes(array) -> bytes:
    return array.encode() if isinstance(array, str) else np.ascontiguousarray(array).tobytes()
