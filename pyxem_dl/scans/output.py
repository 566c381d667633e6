"""Results as they come, in a zarr store: one chunk for each block and field, and nothing is ever written twice.

A block is done when the chunk of ``done`` is there, which is written after those of all its fields; each chunk is
written to a temporary file that then gets its name.  So whatever ends a run, the store holds whole blocks, and, where
there was time (Ctrl-C, an error), what was done of others.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from pyxem_dl.messages import warn
from pyxem_dl.scans import chunks
from pyxem_dl.scans.blocks import Blocks
from pyxem_dl.scans.steps import Collected, Field, Part, Rows

#: Version of the layout; a store with a larger one is not read
FORMAT = 1
_ATTRIBUTE = "pyxem_dl"
_DONE, _DONE_FIELD = "done", Field((), "bool")
# Positions and bytes of a store that somebody else made: beyond, it is no scan
_MOST_POSITIONS, _MOST_BYTES_OF_A_PATTERN = 2**33, 2**20
_MOST_AXES, _MOST_FIELDS = 2, 64
# Bytes of a pattern's rows, on average over a block
_MOST_RAGGED = 2**20
# Names of chunks
_CHUNK = re.compile(r"[0-9]{1,10}(\.[0-9]{1,10})*")


class NewerFormat(ValueError):
    """A store that a later version of pyxem_dl wrote."""


@dataclass(frozen=True)
class Contents:
    """What a store says of itself.

    Parameters
    ----------
    kind : str
        Which verb's results these are.
    fingerprint : str
        Of all that they depend on.
    blocks : Blocks
        How the scan is cut.
    fields : dict of str to Field
        What there is for each position.
    about : dict
        What the result needs beside the arrays; plain numbers and texts.
    n_wanted : int
        How many positions are not excluded.
    source : list
        Size and date of the file that the patterns came from; empty where that is not known.
    """

    kind: str
    fingerprint: str
    blocks: Blocks
    fields: dict[str, Field]
    about: dict
    n_wanted: int
    source: list

    def to_dict(self) -> dict:
        """For the attributes of the store."""
        from pyxem_dl import __version__

        return {
            "format": FORMAT, "package_version": __version__, "kind": self.kind, "fingerprint": self.fingerprint,
            "shape": list(self.blocks.shape), "block": list(self.blocks.size),
            "fields": {name: [list(f.shape), f.dtype, f.ragged] for name, f in self.fields.items()},
            "about": self.about, "n_wanted": self.n_wanted, "source": self.source,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, entry: dict, where: Path) -> Contents:
        """Read what :meth:`to_dict` gave; a ValueError for what it cannot have given."""
        version = entry.get("format")
        if isinstance(version, int) and version > FORMAT:
            raise NewerFormat(
                f"{where} was written by pyxem_dl {entry.get('package_version')}, in format {version}; this version "
                f"reads up to {FORMAT}. Update pyxem_dl."
            )
        try:
            fields = {_name(name): _field(*values) for name, values in entry["fields"].items()}
            shape, block = (tuple(_whole(n) for n in entry[key]) for key in ("shape", "block"))
            about, kind = dict(entry["about"]), str(entry["kind"])
            fingerprint, n_wanted = str(entry["fingerprint"]), _whole(entry["n_wanted"])
            source = list(entry["source"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{where} is damaged: its attributes cannot be read ({error!r}).") from error
        if not (
            version == FORMAT and 1 <= len(shape) <= _MOST_AXES and len(block) == len(shape)
            and np.prod(shape, dtype=float) <= _MOST_POSITIONS and len(fields) <= _MOST_FIELDS
            and all(b <= n for b, n in zip(block, shape))
        ):  # fmt: skip
            raise ValueError(f"{where} is damaged: its attributes describe no scan.")
        return cls(kind, fingerprint, Blocks(shape, block), fields, about, n_wanted, source)


def _name(name) -> str:
    if not str(name).isidentifier() or name == _DONE:
        raise ValueError(f"no name of a field: {name!r}")
    return name


def _field(shape, dtype, ragged) -> Field:
    shape = tuple(_whole(n) for n in shape)
    if np.dtype(dtype).kind not in "biuf" or np.prod(shape, dtype=float) > _MOST_BYTES_OF_A_PATTERN:
        raise ValueError(f"no field: {shape}, {dtype}")
    return Field(shape, str(dtype), bool(ragged))


def _whole(n) -> int:
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"{n!r} is no whole number of at least 1")
    return n


class ResultStore:
    """Results of a scan on the disk.

    Parameters
    ----------
    path : pathlib.Path
        Of the store, a folder.
    contents : Contents
        What it holds, or will hold.
    collected : Collected
        The same in memory; what is written is taken from it.
    """

    def __init__(self, path: Path, contents: Contents, collected: Collected) -> None:
        self.path, self.contents, self.collected = path, contents, collected
        self.fields = dict(contents.fields)
        self._kept = np.zeros(len(contents.blocks), np.int64)  # positions of each block that are on the disk
        self._has_warned = False
        self._missing: np.ndarray | None = None  # how many positions of each block are still to be done

    # ---------------------------------------------------------------- the folder
    @classmethod
    def create(cls, path: Path, contents: Contents, collected: Collected) -> ResultStore:
        """Make an empty store: its description, which is written last, makes it one."""
        import zarr

        store = cls(path, contents, collected)
        path.mkdir(parents=True, exist_ok=True)
        group = zarr.open_group(zarr.DirectoryStore(str(path)), mode="w")
        for name, field in (contents.fields | {_DONE: _DONE_FIELD}).items():
            chunks.make_array(group, name, field, contents.blocks)
        group.attrs[_ATTRIBUTE] = contents.to_dict()
        return store

    @classmethod
    def open(cls, path: Path) -> ResultStore:
        """Open a store and read what is done.

        Raises
        ------
        ValueError
            For a folder that is none, is damaged, or was written by a later version.

        Warns
        -----
        UserWarning
            For blocks that are damaged: they count as not done.
        """
        contents = read_contents(path)
        n = int(np.prod(contents.blocks.shape))
        try:
            store = cls(path, contents, Collected(n, contents.fields))
        except (MemoryError, ValueError) as error:
            raise ValueError(f"{path} has {n} positions, it says: the memory does not suffice ({error}).") from error
        store._read_all()
        return store

    @property
    def n_kept(self) -> int:
        """How many positions are on the disk."""
        return int(self._kept.sum())

    def expect(self, wanted: np.ndarray) -> None:
        """Say which positions (n,) will be done in all."""
        blocks = self.contents.blocks
        self._missing = np.zeros(len(blocks), np.int64)
        np.add.at(self._missing, blocks.of(np.flatnonzero(wanted & ~self.collected.done)), 1)

    def add(self, part: Part) -> None:
        """Take results that are in :attr:`collected` already; write each block that they complete."""
        which, counts = np.unique(self.contents.blocks.of(part.indices), return_counts=True)
        self._missing[which] -= counts
        for i in which[self._missing[which] == 0].tolist():
            try:
                self._write(i)
            except Exception as error:  # of whatever library: the work goes on, and saving is tried again
                self._note(error)

    def _note(self, error: Exception) -> None:
        if not self._has_warned:
            warn(
                f"{self.path} could not be written ({error}): {self.collected.n_done} patterns are done and in memory, "
                f"{self.n_kept} of them are in the file. Free some space; saving is tried again."
            )
        self._has_warned = True

    def finish(self) -> Exception | None:
        """Write what is not written: blocks that an interrupted run began, and those for which there was no room.

        Returns
        -------
        Exception or None
            Why something still cannot be written.
        """
        blocks = self.contents.blocks
        done = np.bincount(blocks.of(np.flatnonzero(self.collected.done)), minlength=len(blocks))
        for i in np.flatnonzero(done > self._kept).tolist():
            try:
                self._write(i)
            except Exception as error:
                return error
        return None

    # ---------------------------------------------------------------- chunks
    @cached_property
    def _arrays(self) -> dict:
        """Arrays of the store by name, after a look at what they are."""
        import zarr

        chunks.check_arrays(self.path, self.fields | {_DONE: _DONE_FIELD}, self.contents.blocks)
        group = zarr.open_group(zarr.DirectoryStore(str(self.path)), mode="r+")
        return {name: group[name] for name in (*self.fields, _DONE)}

    def clear(self) -> None:
        """Remove what a killed process left of chunks that it was writing; for the process that writes now."""
        for name in (*self.fields, _DONE):
            for left in (self.path / name).glob("*.partial"):
                left.unlink(missing_ok=True)

    def _write(self, i: int) -> None:
        blocks = self.contents.blocks
        indices, box = blocks.indices(i), blocks.box(i)
        shape = tuple(s.stop - s.start for s in box)
        done = self.collected.done[indices]
        for name, field in self.fields.items():
            if field.ragged:
                values = np.empty(len(indices), dtype=object)
                values[:] = [_bytes(table, field) for table in self.collected.tables(name, field.shape)[indices]]
                values = values.reshape(shape)
            else:
                values = self.collected.arrays[name][indices].reshape(*shape, *field.shape)
            self._arrays[name][box] = values
        self._arrays[_DONE][box] = done.reshape(shape)
        self._kept[i] = done.sum()

    def _read_all(self) -> None:
        """Put what is done into :attr:`collected`; what cannot be read is not done."""
        damaged = []
        blocks, _ = self.contents.blocks, self._arrays
        for i in self._there():
            try:
                self.collected.add(self._read(i))
            except Exception as error:  # whatever the decoder says of bytes that are no chunk
                damaged.append((i, error))
        self._kept = np.bincount(blocks.of(np.flatnonzero(self.collected.done)), minlength=len(blocks))
        if damaged:
            n = sum(len(blocks.indices(i)) for i, _ in damaged)
            warn(
                f"{len(damaged)} of {len(blocks)} blocks in {self.path} are damaged "
                f"({type(damaged[0][1]).__name__}: {damaged[0][1]}): their {n} positions count as not done."
            )

    def _chunk(self, name: str, field: Field, i: int) -> Path:
        """File of a block's chunk."""
        key = ".".join(str(int(p)) for p in np.unravel_index(i, self.contents.blocks.grid))
        return self.path / name / (key + ("" if field.ragged else ".0" * len(field.shape)))

    def _there(self) -> list[int]:
        """Blocks that have all their chunks."""
        grid, found = self.contents.blocks.grid, []
        for path in (self.path / _DONE).iterdir():
            place = [int(p) for p in path.name.split(".")] if _CHUNK.fullmatch(path.name) else ()
            if len(place) == len(grid) and all(p < n for p, n in zip(place, grid)):
                found.append(int(np.ravel_multi_index(place, grid)))
        fields = (self.fields | {_DONE: _DONE_FIELD}).items()
        return [i for i in sorted(found) if all(self._chunk(name, field, i).is_file() for name, field in fields)]

    def _check_size(self, name: str, field: Field, i: int) -> None:
        """Refuse a chunk that would become larger than it can be, before it is unpacked."""
        n = math.prod(self.contents.blocks.size)
        most = n * _MOST_RAGGED if field.ragged else n * chunks.nbytes(field)
        chunks.check_chunk(self._chunk(name, field, i), most)

    def _read(self, i: int) -> Part:
        blocks = self.contents.blocks
        indices, box = blocks.indices(i), blocks.box(i)
        self._check_size(_DONE, _DONE_FIELD, i)
        done = self._arrays[_DONE][box].reshape(-1)
        arrays = {}
        for name, field in self.fields.items():
            self._check_size(name, field, i)
            values = self._arrays[name][box]
            if field.ragged:
                tables = [_table(each, field) for each in values.reshape(-1)[done]]
                arrays[name] = Rows.of(tables) if tables else Rows(np.zeros(0, int), np.zeros((0, *field.shape)))
            else:
                arrays[name] = values.reshape(len(indices), *field.shape)[done]
        return Part(indices[done], arrays)


def _table(raw, field: Field) -> np.ndarray:
    if not isinstance(raw, bytes):
        raise ValueError("no rows")
    return np.frombuffer(raw, dtype=field.dtype).reshape(-1, *field.shape)


def _bytes(table: np.ndarray, field: Field) -> bytes:
    return np.ascontiguousarray(table, dtype=field.dtype).tobytes()


def read_contents(path: Path) -> Contents:
    """Read what a store says of itself.

    Raises
    ------
    FileNotFoundError
        If there is nothing.
    ValueError
        For what is no store of ours, is damaged, or was written by a later version.
    """
    path = Path(path)
    attributes = path / ".zattrs"
    if not path.exists():
        raise FileNotFoundError(f"There is no store {str(path)!r}.")
    if not attributes.is_file():
        raise ValueError(f"{path} is no store of pyxem_dl's results.")
    entry = chunks.read_attributes(attributes)
    entry = entry.get(_ATTRIBUTE) if isinstance(entry, dict) else None
    if not isinstance(entry, dict):
        raise ValueError(f"{path} is no store of pyxem_dl's results.")
    return Contents.from_dict(entry, path)
