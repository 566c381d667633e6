"""Work that takes long is kept while it is done, so that an interrupted run goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import time
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

# Seconds between two writings of what is done
_SAVE_EVERY = 10.0


class PartialResults:
    """What is done of unfinished work, in a file that is replaced as a whole.

    Parameters
    ----------
    path : pathlib.Path
        Of what will be made; what is done lies beside it, in ``<path>.partial``.
    fingerprint : str
        Of all that the answers depend on: work with another one begins anew.

    Attributes
    ----------
    n_new : int
        Patterns that :meth:`gather` has added to what an earlier run found.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path, self.fingerprint = path.with_name(path.name + ".partial"), fingerprint
        self.n_new = 0

    def gather(self, found, parts: Callable, n: int, *, save_every: float = _SAVE_EVERY) -> None:
        """Add parts to what an earlier run found, and keep what is done.

        Parameters
        ----------
        found : object
            With ``done``, an array of bool (n,), ``add(part)``, ``to_arrays()`` and ``restore(arrays)``.
        parts : callable
            ``parts(done)`` returns an iterable of the parts that are not done.
        n : int
            Number of patterns to do in all, for the message.
        save_every : float
            Seconds between two writings.
        """
        self._restore(found)
        saved = time.monotonic()
        try:
            self._add(found, parts(found.done.copy()), saved, save_every)
        except BaseException:
            if found.done.any():
                self.save(found)
                print(f"  {found.done.sum()} of {n} patterns are kept in {self.path}")
            raise

    def _add(self, found, parts: Iterable, saved: float, save_every: float) -> None:
        for part in parts:
            found.add(part)
            self.n_new += len(part.indices)
            if time.monotonic() - saved >= save_every:
                self.save(found)
                saved = time.monotonic()

    def _restore(self, found) -> None:
        """Read what an earlier run has done of the same work."""
        if not self.path.exists():
            return
        try:
            with np.load(self.path, allow_pickle=False) as file:
                arrays = dict(file)
                arrays["done"]  # noqa: B018 (a file without it is damaged)
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            print(f"  {self.path} cannot be read ({error}): beginning anew.")
            return
        if str(arrays.pop("fingerprint", "")) != self.fingerprint:
            print(f"  {self.path} is of another signal, model or setting: beginning anew.")
            return
        found.restore(arrays)
        print(f"  Going on after {found.done.sum()} patterns that {self.path} holds.")

    def save(self, found) -> None:
        """Write what is done, so that no moment is without a whole file."""
        new = self.path.with_name(self.path.name + ".new")
        new.parent.mkdir(parents=True, exist_ok=True)
        with open(new, "wb") as file:
            np.savez(file, fingerprint=self.fingerprint, **found.to_arrays())
        os.replace(new, self.path)

    def remove(self) -> None:
        """Forget what was kept: the work is done."""
        self.path.unlink(missing_ok=True)


def fingerprint(data, settings, arrays) -> str:
    """Hash what answers depend on.

    Parameters
    ----------
    data : numpy.ndarray or dask.array.Array, shape (..., rows, columns)
        Patterns, of which the first and the last are looked at: the whole may take hours to read.
    settings : list
        Plain numbers and texts.
    arrays : iterable of array, str or None
        Masks, centers and the like.
    """
    shape = tuple(int(n) for n in data.shape)
    digest = hashlib.sha256(json.dumps([shape, str(data.dtype), settings]).encode())
    for array in arrays:
        digest.update(b"none" if array is None else _bytes(array))
    for end in (0, -1):
        digest.update(_bytes(data[(end,) * (len(shape) - 2)]))
    return digest.hexdigest()


def _bytes(array) -> bytes:
    return array.encode() if isinstance(array, str) else np.ascontiguousarray(array).tobytes()
