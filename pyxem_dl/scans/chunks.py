"""Arrays of zarr stores: one way to write them, and checks of what others wrote before any of it is decoded."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np

from pyxem_dl.checks import read_json
from pyxem_dl.scans.blocks import Blocks
from pyxem_dl.scans.steps import Field

# Bytes of a store's description
_MOST_ATTRIBUTES = 64 * 2**20
# Bytes with which Blosc begins: four flags, then the sizes of what is packed, of its blocks, and of what it became
_BLOSC_HEAD = 16


def nbytes(field: Field) -> int:
    """Bytes of a field's values of one pattern, or of one row."""
    return math.prod(field.shape) * np.dtype(field.dtype).itemsize


def codecs(field: Field) -> dict:
    """How an array is written; other ways are not read, for some of zarr's (pickles) run what they read."""
    import numcodecs

    packed = {"filters": [numcodecs.CRC32()], "compressor": numcodecs.Blosc("zstd", 1)}
    if field.ragged:
        return {"dtype": object, "object_codec": numcodecs.VLenBytes(), **packed}
    return {"dtype": field.dtype, **packed}


def layout(field: Field, blocks: Blocks) -> dict:
    """Shape of an array, and of its chunks: one for each block."""
    further = () if field.ragged else field.shape
    return {"shape": (*blocks.shape, *further), "chunks": (*blocks.size, *further)}


def make_array(group, name: str, field: Field, blocks: Blocks) -> None:
    """Add an empty array to a group."""
    fill = {} if field.ragged else {"fill_value": 0}
    # an object array's chunk of empty tables would be left out otherwise, and look as if it were not done
    group.create_dataset(name, **layout(field, blocks), **codecs(field), **fill, write_empty_chunks=True)


def check_arrays(path: Path, fields: dict[str, Field], blocks: Blocks) -> None:
    """Make sure that arrays are as we make them before any of their bytes is decoded.

    Raises
    ------
    ValueError
        Which names the array.
    """
    read_attributes(path / ".zgroup")
    for name, field in fields.items():
        where = path / name / ".zarray"
        found = read_attributes(where)
        packing, sizes = codecs(field), layout(field, blocks)
        filters = ([packing["object_codec"]] if field.ragged else []) + packing["filters"]
        expected = {
            "shape": list(sizes["shape"]), "chunks": list(sizes["chunks"]),
            "filters": [each.get_config() for each in filters],
            "compressor": packing["compressor"].get_config(), "zarr_format": 2,
            "dtype": "|O" if field.ragged else np.dtype(field.dtype).str, "order": "C",
        }  # fmt: skip
        found = found if isinstance(found, dict) else {}
        wrong = [key for key, value in expected.items() if found.get(key) != value]
        if wrong or found.get("dimension_separator", ".") != ".":
            raise ValueError(f"{where.parent} is damaged, or no array of pyxem_dl's: {', '.join(wrong)}.")


def check_chunk(path: Path, most: int) -> None:
    """Refuse a chunk that would become larger than it can be, before it is unpacked.

    Parameters
    ----------
    path : pathlib.Path
        Of its file.
    most : int
        Bytes of its values.

    Raises
    ------
    ValueError
        Also for one that was cut off.
    """
    with open(path, "rb") as file:
        head = file.read(_BLOSC_HEAD)
    if len(head) < _BLOSC_HEAD:
        raise ValueError("a chunk that ends in its first bytes")
    unpacked, _, packed = struct.unpack("<4x3I", head)
    most += 4  # the checksum
    if unpacked > most or packed != path.stat().st_size:
        raise ValueError(f"a chunk of {unpacked} bytes, packed {packed}, where at most {most} are possible")


def read_attributes(path: Path):
    """Read JSON of bounded size that a store describes itself with."""
    if not path.is_file():
        raise ValueError(f"{path.parent} is damaged: {path.name} is missing.")
    if path.stat().st_size > _MOST_ATTRIBUTES:
        raise ValueError(f"{path} is damaged: it is larger than {_MOST_ATTRIBUTES} bytes.")
    return read_json(path.read_text(encoding="utf-8", errors="replace"), path)
