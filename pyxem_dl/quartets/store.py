"""Sets of quartets on the disk: a zarr group with one chunk of each array for each shard, and nothing half made.

A shard is made when its chunk of ``made`` is there, which is written after all others; each chunk is written to a
temporary file that then gets its name.  ``made`` holds, for each quartet, a number that stands for the manifest: so a
manifest of another set is noticed.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np

from pyxem_dl.files import replacing
from pyxem_dl.quartets.engines import MOST_DISKS, Simulated
from pyxem_dl.quartets.manifest import Manifest
from pyxem_dl.quartets.settings import Drawn, Settings, phase_ids
from pyxem_dl.quartets.truth import Disks, Quartet, disk_images
from pyxem_dl.scans import Field, chunks
from pyxem_dl.scans.blocks import Blocks

_ATTRIBUTE = "pyxem_dl_quartets"
_MADE = "made"
# Binary digits of patterns that are kept: one part in 8192, less than counting makes of 10^7 electrons in a pixel
_DIGITS = 12
# Names of chunks
_CHUNK = re.compile(r"[0-9]{1,10}(\.0)*")
_DISKS = {"kx": (), "ky": (), "excitation_error": (), "q_z": (), "intensity": (), "v_g": (2,)}


def fields(settings: Settings) -> dict[str, Field]:
    """Arrays of a set: what there is for each quartet."""
    image = Field((settings.pixels, settings.pixels), "float32")
    return {
        **{name: image for name in ("probe", "pattern", "potential", "q_z")},
        "disk_hkl": Field((MOST_DISKS, 3), "int16"),
        **{f"disk_{name}": Field((MOST_DISKS, *shape), "float32") for name, shape in _DISKS.items()},
        "n_disks": Field((), "int16"), "phase_id": Field((), "int32"), "orientation": Field((4,), "float64"),
        **{name: Field((), "float64") for name in ("thickness", "beam_energy", "semi_angle")},
        "origin": Field((3,), "float64"), _MADE: Field((), "uint64"),
    }  # fmt: skip


class Store:
    """A set on the disk.

    Parameters
    ----------
    path : pathlib.Path
        Of the folder.
    manifest : Manifest
        What it says of itself.
    writes : bool
        Whether it is written to.
    """

    def __init__(self, path: Path, manifest: Manifest, *, writes: bool = False) -> None:
        self.path, self.manifest, self.writes = path, manifest, writes
        self.fields = fields(manifest.settings)

    @property
    def blocks(self) -> Blocks:
        """Shards of the set."""
        return Blocks((self.manifest.n,), (self.manifest.shard,))

    # ---------------------------------------------------------------- the folder
    @classmethod
    def create(cls, path: Path, manifest: Manifest) -> Store:
        """Make an empty set, which is there at once or not at all."""
        import zarr

        store = cls(path, manifest, writes=True)
        with replacing(path) as new:
            new.mkdir()
            group = zarr.open_group(zarr.DirectoryStore(str(new)), mode="w")
            for name, field in store.fields.items():
                chunks.make_array(group, name, field, store.blocks)
            store._write_manifest(group)
        return store

    def _write_manifest(self, group) -> None:
        group.attrs.put({_ATTRIBUTE: self.manifest.to_dict()})

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open a set for reading.

        Raises
        ------
        FileNotFoundError, ValueError
            For what is none, is damaged, or of another version.
        """
        store = cls(path, read_manifest(path))
        try:
            chunks.check_arrays(path, store.fields, store.blocks)
        except ValueError as error:
            raise ValueError(f"{error} If a call of make_quartets with a larger n was killed, repeat it.") from error
        return store

    @classmethod
    def grown(cls, path: Path, manifest: Manifest) -> Store:
        """Open a set for writing, for as many quartets as the manifest says, at least as many as there were."""
        import zarr

        store = cls(path, manifest, writes=True)
        for name, field in store.fields.items():
            # a call that was killed may have made some of the arrays longer
            entry = chunks.read_attributes(path / name / ".zarray")
            shape = entry.get("shape") if isinstance(entry, dict) else None
            n = shape[0] if isinstance(shape, list) and shape and isinstance(shape[0], int) else manifest.n
            chunks.check_arrays(path, {name: field}, Blocks((n,), (manifest.shard,)))
            for left in (path / name).glob("*.partial"):
                left.unlink(missing_ok=True)
        group = zarr.open_group(zarr.DirectoryStore(str(path)), mode="r+")
        for name in store.fields:
            if group[name].shape[0] != manifest.n:
                group[name].resize(manifest.n, *group[name].shape[1:])
        store._write_manifest(group)
        return store

    @cached_property
    def _arrays(self) -> dict:
        import zarr

        group = zarr.open_group(zarr.DirectoryStore(str(self.path)), mode="r+" if self.writes else "r")
        return {name: group[name] for name in self.fields}

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_arrays"}

    # ---------------------------------------------------------------- shards
    def indices(self, shard: int) -> np.ndarray:
        """Numbers of the quartets of a shard."""
        (box,) = self.blocks.box(shard)
        return np.arange(box.start, box.stop)

    def n_made(self, *, thorough: bool = False) -> dict[int, int]:
        """How many quartets are made, by shard, of shards of which there is any.

        Parameters
        ----------
        thorough : bool
            Shards of which a file was cut off count as not made.

        Raises
        ------
        ValueError
            If a shard was made with another manifest.
        """
        # what is there is counted, and not what the manifest says that there may be
        there = set(self._shards_of(_MADE))
        for name in self.fields:
            there.intersection_update(self._shards_of(name))
        made = {i: self._n_made_of(i, thorough) for i in sorted(there)}
        return {i: n for i, n in made.items() if n}

    def _shards_of(self, name: str) -> Iterator[int]:
        """Shards of which there is a chunk of an array."""
        for entry in os.scandir(self.path / name):
            if _CHUNK.fullmatch(entry.name) and (i := int(entry.name.partition(".")[0])) < self.manifest.n_shards:
                yield i

    def _n_made_of(self, i: int, thorough: bool) -> int:
        try:
            tags = self._read(_MADE, i)
            for name in self.fields if thorough else ():
                self._check(name, i)
        except Exception:  # whatever the decoder says of bytes that are no chunk
            return 0
        foreign = tags[(tags != 0) & (tags != np.uint64(self.manifest.tag))]
        if len(foreign):
            raise ValueError(
                f"{self.path}: its manifest does not fit the set: shard {i} was made with other settings or phases. "
                "Take the manifest that was made with the set (.zattrs), or make the set again under another name."
            )
        return int((tags != 0).sum())

    def _file(self, name: str, i: int) -> Path:
        return self.path / name / (str(i) + ".0" * len(self.fields[name].shape))

    def _check(self, name: str, i: int) -> None:
        file = self._file(name, i)
        if not file.is_file():
            raise ValueError(f"{file.name} is missing")
        chunks.check_chunk(file, self.manifest.shard * chunks.nbytes(self.fields[name]))

    def _read(self, name: str, i: int) -> np.ndarray:
        self._check(name, i)
        return self._arrays[name][self.blocks.box(i)]

    def write(self, i: int, made: list[tuple[Drawn, Simulated]]) -> None:
        """Write a shard."""
        if not self._n_made_of(i, thorough=True):
            # zarr reads the rest of a chunk that is not whole, and what is damaged cannot be read
            for name in (_MADE, *self.fields):
                self._file(name, i).unlink(missing_ok=True)
        for name, values in self._columns(made).items():
            self._arrays[name][self.blocks.box(i)] = values
        self._arrays[_MADE][self.blocks.box(i)] = np.full(len(made), self.manifest.tag, np.uint64)

    def _columns(self, made) -> dict[str, np.ndarray]:
        rows = [_row(drawn, simulated, self.manifest.settings) for drawn, simulated in made]
        return {
            name: np.stack([row[name] for row in rows]).astype(field.dtype)
            for name, field in self.fields.items() if name != _MADE
        }  # fmt: skip

    def read(self, i: int, chosen=slice(None)) -> Quartet:
        """Read quartets of a shard.

        Parameters
        ----------
        i : int
            Which shard.
        chosen : slice or array of int
            Which of its quartets.

        Raises
        ------
        ValueError
            If it is damaged; the message says how it is made again.
        """
        try:
            found = {name: self._read(name, i)[chosen] for name in self.fields}
            if (found[_MADE] != np.uint64(self.manifest.tag)).any():
                raise ValueError("not all of it is made")
            expected = phase_ids(self.indices(i)[chosen], self.manifest.settings.seed, len(self.manifest.crystals))
            if (found["phase_id"] != expected).any():
                raise ValueError("its quartets are of other phases")
            return _quartets(found)
        except Exception as error:  # whatever the decoder says of bytes that are no chunk
            raise ValueError(
                f"Shard {i} of {self.path} is damaged ({error}). Delete the file {self._file(_MADE, i)} and repeat the "
                "call of make_quartets with which the set was made: it makes the shard again."
            ) from error


def _row(drawn: Drawn, simulated: Simulated, settings: Settings) -> dict[str, np.ndarray]:
    """All that is stored of a quartet."""
    disks = _brightest(simulated.disks, settings.minimum_intensity)
    radius = settings.disk_radius(drawn.semi_angle, drawn.beam_energy)
    table = {name: getattr(disks, name) for name in ("hkl", *_DISKS)}
    table["v_g"] = np.stack([disks.v_g.real, disks.v_g.imag], axis=1)
    # of the rounded numbers, so that whoever reads them draws the same
    stored = disks._replace(**{name: getattr(disks, name).astype(np.float32) for name in ("kx", "ky", "q_z")})
    potential, q_z = disk_images(stored, simulated.thickness, radius, settings.calibration)
    return {
        "probe": _rounded(simulated.probe), "pattern": _rounded(simulated.pattern), "potential": potential, "q_z": q_z,
        **{f"disk_{name}": _padded(np.asarray(column)) for name, column in table.items()},
        "n_disks": np.array(len(disks.hkl)), "phase_id": np.array(drawn.phase_id), "orientation": drawn.rotation,
        "thickness": np.array(simulated.thickness), "beam_energy": np.array(drawn.beam_energy),
        "semi_angle": np.array(drawn.semi_angle), "origin": simulated.origin,
    }  # fmt: skip


def _brightest(disks: Disks, minimum: float) -> Disks:
    """Disks that are kept: the direct beam first, then the brightest."""
    direct = ~disks.hkl.any(axis=-1)
    keep = np.flatnonzero(disks.present & ((disks.intensity >= minimum) | direct))
    order = np.lexsort((-disks.intensity[keep], ~direct[keep]))
    return Disks(*(column[keep[order][:MOST_DISKS]] for column in disks))


def _padded(column: np.ndarray) -> np.ndarray:
    return np.concatenate([column, np.zeros((MOST_DISKS - len(column), *column.shape[1:]), column.dtype)])


def _rounded(image: np.ndarray) -> np.ndarray:
    """Float32 of fewer binary digits, which take less room."""
    bits = np.ascontiguousarray(image, dtype=np.float32).view(np.uint32)
    spare = 24 - _DIGITS
    return ((bits + np.uint32(1 << (spare - 1))) & np.uint32(0xFFFFFFFF << spare & 0xFFFFFFFF)).view(np.float32)


def _quartets(found: dict) -> Quartet:
    """Arrays of a shard as they are given out."""
    table = {name: found[f"disk_{name}"] for name in ("hkl", *_DISKS)}
    table["v_g"] = np.ascontiguousarray(table["v_g"]).view(np.complex64)[..., 0]
    present = np.arange(MOST_DISKS) < found["n_disks"][:, None]
    radius = [
        Settings.disk_radius(angle, energy) for angle, energy in zip(found["semi_angle"], found["beam_energy"])
    ]
    return Quartet(
        *(found[name] for name in ("probe", "pattern", "potential", "q_z")), Disks(**table, present=present),
        found["orientation"], found["phase_id"].astype(np.int64),
        *(found[name] for name in ("thickness", "beam_energy", "semi_angle")), np.array(radius),
    )  # fmt: skip


def read_manifest(path: Path) -> Manifest:
    """Read what a set says of itself.

    Raises
    ------
    FileNotFoundError
        If there is nothing.
    ValueError
        For what is no set, is damaged, or of another version.
    """
    path = Path(path)
    attributes = path / ".zattrs"
    if not path.exists():
        raise FileNotFoundError(f"There is no set {str(path)!r}: `pyxem_dl.make_quartets` makes one.")
    if not attributes.is_file():
        raise ValueError(f"{path} is no set of quartets: `pyxem_dl.make_quartets` makes one.")
    entry = chunks.read_attributes(attributes)
    return Manifest.from_dict(entry.get(_ATTRIBUTE) if isinstance(entry, dict) else None, path)


def remove(path: Path) -> None:
    """Remove a set; what else is there is not touched."""
    read_manifest(path)
    shutil.rmtree(path)
