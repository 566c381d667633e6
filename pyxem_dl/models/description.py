"""What ``config.json`` and the files of tensors of a model folder may hold: checked before anything is built."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from pyxem_dl.checks import Strict, checked, read_json, read_text
from pyxem_dl.crystals.atoms import MAX_ATOMS
from pyxem_dl.networks import ARGUMENTS, check_arguments, outline
from pyxem_dl.networks.arguments import MOST_PHASES, Energy, LaueGroup, Radius, list_of
from pyxem_dl.symmetry import laue_group

# Of a file of tensors, in bytes; and of its header, which names them
_LARGEST_WEIGHTS, _LARGEST_HEADER = 16 * 2**30, 16 * 2**20
# Numbers of a network that are no weights: tables that it makes while it is built
_BUFFERS = 2**26
_DTYPES = {"F16", "BF16", "F32", "F64", "I64", "I32", "I16", "I8", "U8", "BOOL"}
_SHOWN = 3

Length = Annotated[float, Field(ge=0.5, le=2000)]
Angle = Annotated[float, Field(gt=0, lt=180)]
_Coordinate = Annotated[float, Field(ge=-1000, le=1000)]
_Pair = list_of(Annotated[float, Field(ge=0, le=1e6)], 2, 2)
_Share = Annotated[float, Field(ge=0, le=1)]


class _Open(BaseModel):
    """Entries that reach no constructor: further ones are left as they are."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class PolarSettings(Strict):
    """Of :class:`~pyxem_dl.preprocessing.PolarPreprocessing`."""

    reciprocal_radius: Radius
    n_k: Annotated[int, Field(ge=2, le=512)] = 64
    n_phi: Annotated[int, Field(ge=4, le=1440)] = 144
    gamma: Annotated[float, Field(gt=0, le=4)] = 0.5
    inner_radius: Annotated[float, Field(ge=0, le=20)] = 0.15
    clip: Annotated[float, Field(gt=0, le=1e6)] = 8.0
    scale_factor: Annotated[float, Field(ge=0.2, le=5)] = 1.0


class CartesianSettings(Strict):
    """Of :class:`~pyxem_dl.preprocessing.CartesianPreprocessing`."""

    reciprocal_radius: Radius
    size: Annotated[int, Field(ge=8, le=1024)] = 128
    gamma: Annotated[float, Field(gt=0, le=4)] = 0.5
    inner_radius: Annotated[float, Field(ge=0, le=20)] = 0.15
    clip: Annotated[float, Field(gt=0, le=1e6)] = 8.0
    scale_factor: Annotated[float, Field(ge=0.2, le=5)] = 1.0


class DiskRadiusSettings(Strict):
    """Of a disk detector: all disks are brought to one radius (px)."""

    radius: Annotated[float, Field(ge=1, le=64)]


class SpectrumSettings(Strict):
    """Of a :class:`~pyxem_dl.networks.images.SpectrumGrid`."""

    window: Annotated[float, Field(ge=4, le=100)]
    n_k: Annotated[int, Field(ge=8, le=256)]
    n_phi: Annotated[int, Field(ge=16, le=360)]


#: By the name in ``config.json``
PREPROCESSING_SETTINGS = {"polar": PolarSettings, "cartesian": CartesianSettings, "disk radius": DiskRadiusSettings,
                          "spectrum": SpectrumSettings}  # fmt: skip


class Named(Strict):
    """A network or a preprocessing with its arguments."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    arguments: dict


def _as_atom(value):
    """[element, x, y, z, occupancy] with names."""
    if isinstance(value, (list, tuple)) and len(value) == 5:
        return dict(zip(("element", "x", "y", "z", "occupancy"), value, strict=True))
    raise ValueError("an atom must be [element, x, y, z, occupancy]")


class AtomEntry(Strict):
    """One atom of a phase."""

    element: Annotated[str, Field(max_length=8, pattern=r"^[A-Za-z0-9+\-]*$")]
    x: _Coordinate
    y: _Coordinate
    z: _Coordinate
    occupancy: Annotated[float, Field(ge=0, le=10)]


class Titles(Strict):
    """What a user calls a model, which is looked at before it is trained."""

    name: Annotated[str, Field(max_length=200)]
    description: Annotated[str, Field(max_length=10_000)]


class PhaseEntry(Strict):
    """A phase, as :func:`pyxem_dl.crystals.phase_to_dict` writes it."""

    name: Annotated[str, Field(max_length=200)]
    space_group: Annotated[int, Field(ge=1, le=230)] | None
    point_group: Annotated[str, Field(max_length=12)] | None = None
    #: Where the setting is not the one that orix takes for the number; 192 are the most that a group has
    operations: list_of(Annotated[str, Field(max_length=60)], 1, 192) | None = None
    color: Annotated[str, Field(max_length=40)]
    lattice: list_of(float, 6, 6)
    atoms: list_of(Annotated[AtomEntry, BeforeValidator(_as_atom)], 0, MAX_ATOMS)

    @field_validator("point_group")
    @classmethod
    def _is_known(cls, value):
        if value is not None:
            laue_group(value)  # its error, if there is none
        return value

    @field_validator("color")
    @classmethod
    def _is_color(cls, value):
        from matplotlib.colors import is_color_like

        if not is_color_like(value):
            raise ValueError("the color must be one that matplotlib knows")
        return value

    @field_validator("lattice")
    @classmethod
    def _is_cell(cls, value):
        edges, angles = value[:3], value[3:]
        if not (all(0.5 <= edge <= 2000 for edge in edges) and all(1 <= angle <= 179 for angle in angles)):
            raise ValueError("a cell must have edges of 0.5 to 2000 Å and angles of 1 to 179 degrees")
        a, b, c = (math.cos(math.radians(angle)) for angle in angles)
        if 1 - a * a - b * b - c * c + 2 * a * b * c < 1e-6:
            raise ValueError("a cell with these angles has no volume")
        return value

    @model_validator(mode="after")
    def _has_symmetry(self):
        if self.space_group is None and self.point_group is None:
            raise ValueError("a phase needs a space_group or a point_group")
        return self


class DomainEntry(_Open):
    """What a model was trained for; what is missing or None is not checked."""

    beam_energy: Energy | None = None
    reciprocal_radius: Radius | None = None
    scale: _Pair | None = None
    disk_radius: _Pair | None = None

    @field_validator("scale", "disk_radius")
    @classmethod
    def _rises(cls, value):
        if value is not None and value[0] > value[1]:
            raise ValueError("the smaller of the two numbers must come first")
        return value


class ThresholdsEntry(Strict):
    """Of probabilities."""

    crystal: _Share = 0.5
    score: _Share = 0.0
    confidence: _Share = 0.3
    other: _Share = 0.5


class WeightsEntry(Strict):
    """The file of the weights."""

    file: Literal["model.safetensors"]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class StageEntry(Strict):
    """A stage of a training."""

    name: Annotated[str, Field(max_length=100)]
    minutes: Annotated[float, Field(ge=0, le=1e9)]
    patterns: Annotated[int, Field(ge=0, le=10**18)]


class ProvenanceEntry(_Open):
    """How a training went: facts that nothing needs to predict; what was not recorded is missing."""

    stages: list_of(StageEntry, 1, 20)
    hardware: Annotated[str, Field(max_length=200)]
    precision: Annotated[str, Field(max_length=40)]
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}")] | None = None
    versions: Annotated[dict[str, str], Field(max_length=100)] = {}


class ModelDescription(_Open):
    """All of ``config.json``; ``ModelDescription.model_json_schema()`` describes it for forms and editors."""

    format: str
    format_version: Annotated[int, Field(ge=1)]
    package_version: Annotated[str, Field(max_length=100)]
    name: Annotated[str, Field(max_length=200)]
    description: Annotated[str, Field(max_length=10_000)]
    network: Named
    preprocessing: Named
    domain: DomainEntry
    thresholds: ThresholdsEntry
    weights: WeightsEntry
    training: dict = {}
    provenance: ProvenanceEntry | None = None
    phases: list_of(PhaseEntry, 0, MOST_PHASES) | None = None
    laue_groups: list_of(LaueGroup, 0, MOST_PHASES) | None = None
    spread_fit: list_of(Annotated[float, Field(ge=0, le=1e4)], 2, 2) = [1.0, 0.0]


def check_description(config: dict, path) -> None:
    """Make sure of all entries of a model's ``config.json``.

    Parameters
    ----------
    config : dict
        From the file.
    path : pathlib.Path
        Of the file, for the errors.

    Raises
    ------
    ValueError
        With the path of each wrong entry.
    """
    checked(ModelDescription, config, where=str(path))
    kind = config["preprocessing"]["name"]
    if kind not in PREPROCESSING_SETTINGS:
        raise ValueError(
            f"{path}: preprocessing.name: unknown preprocessing {kind!r}; the known ones are: "
            f"{', '.join(PREPROCESSING_SETTINGS)}."
        )
    settings = config["preprocessing"]["arguments"]
    checked(PREPROCESSING_SETTINGS[kind], settings, "preprocessing.arguments", str(path))
    name, arguments = config["network"]["name"], config["network"]["arguments"]
    check_arguments(name, arguments, "network.arguments", str(path))
    _check_agreement(name, arguments, kind, settings, config, path)


#: The preprocessing of each network, and the numbers that both have
_SHARED = {
    "polar": ("polar", ("n_k", "n_phi")), "any_crystal": ("polar", ()), "regression": ("cartesian", ("size",)),
    "fcunet": ("disk radius", ("radius",)), "structure": ("spectrum", ("window", "n_k", "n_phi")),
}  # fmt: skip


def _check_agreement(network: str, arguments: dict, kind: str, settings: dict, config: dict, path) -> None:
    """Make sure that network, preprocessing and phases are of one model."""
    if network not in _SHARED:
        return
    needed, names = _SHARED[network]
    if kind != needed:
        raise ValueError(f"{path}: preprocessing.name: the network {network!r} needs {needed!r}, not {kind!r}.")
    for name in names:
        ours, theirs = settings.get(name), arguments.get(name)
        if ours is not None and theirs is not None and ours != theirs:
            raise ValueError(
                f"{path}: preprocessing.arguments.{name} is {ours}, but network.arguments.{name} is {theirs}: they "
                "must be the same."
            )
    phases, groups = config.get("phases"), arguments.get("laue_groups")
    if groups is not None and (not phases or len(phases) != len(groups)):
        raise ValueError(
            f"{path}: phases: there are {len(phases or ())}, but network.arguments.laue_groups has {len(groups)}."
        )


# ---------------------------------------------------------------- files of tensors
def bounded_size(path: Path) -> int:
    """Size of a file of tensors in bytes; a ValueError for one that is too large to be read at all."""
    size = path.stat().st_size
    if size > _LARGEST_WEIGHTS:
        raise ValueError(f"{path} has {size / 2**30:.3g} GB; at most {_LARGEST_WEIGHTS / 2**30:.3g} GB are read.")
    return size


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in a safetensors file, from its header alone.

    Raises
    ------
    ValueError
        For a file that is none, or declares what it does not hold.
    """
    size = bounded_size(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LARGEST_HEADER):
            raise ValueError(f"{path} is damaged: its header should have {length} bytes, but the file has {size}.")
        head = file.read(length)
    try:
        header = read_json(head.decode("utf-8"), path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: its header is not text.") from error
    if not isinstance(header, dict):
        raise ValueError(f"{path} is damaged: its header names no tensors.")
    return {
        name: _shape(path, name, entry, size - 8 - length) for name, entry in header.items() if name != "__metadata__"
    }


def _shape(path: Path, name: str, entry, n_bytes: int) -> tuple[int, ...]:
    """Shape of a tensor, whose bytes are in the file."""
    shape = entry.get("shape") if isinstance(entry, dict) else None
    if not isinstance(shape, list) or len(shape) > 8 or not all(type(n) is int and 0 <= n < 2**40 for n in shape):
        raise ValueError(f"{path} is damaged: the tensor {name[:80]!r} has no shape.")
    if entry.get("dtype") not in _DTYPES:
        raise ValueError(f"{path}: the tensor {name[:80]!r} is of {str(entry.get('dtype'))[:20]!r}, which is not read.")
    if math.prod(shape) > n_bytes:  # a number takes a byte at least
        raise ValueError(f"{path} is damaged: the tensor {name[:80]!r} has the shape {shape}, but the file is shorter.")
    return tuple(shape)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a safetensors file; all of them finite.

    Raises
    ------
    ValueError
        For a damaged file, and for tensors that hold NaN or infinite numbers.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    read_shapes(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, RuntimeError, ValueError, KeyError, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"{path}: the tensor {name[:80]!r} holds NaN or infinite numbers; it cannot be used.")
    return tensors


def check_shapes(name: str, arguments: dict, path: Path, where) -> None:
    """Make sure that a file of weights is of a network, before memory is taken for it.

    Parameters
    ----------
    name : str
        Of the network.
    arguments : dict
        Of the network, checked.
    path : pathlib.Path
        Of the weights.
    where : pathlib.Path
        Of ``config.json``, for the error.

    Raises
    ------
    ValueError
        With the first tensors that are missing, too many, or of another size.
    """
    stored = read_shapes(path)
    if name not in ARGUMENTS:  # a program has added it, and answers for it
        return
    # a number takes a byte of the file at least; buffers are not in the file
    expected = outline(name, most=bounded_size(path) + _BUFFERS, **arguments)
    wrong = [
        f"{key} is {list(stored[key]) if key in stored else 'missing'}, not "
        f"{list(expected[key]) if key in expected else 'in the network'}"
        for key in (*expected, *(key for key in stored if key not in expected))
        if stored.get(key) != expected.get(key)
    ]
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise ValueError(
            f"{path} does not fit the network {name!r} of {where} (size mismatch): {'; '.join(wrong[:_SHOWN])}{more}."
        )


def read_entries(path: Path) -> dict:
    """Entries of ``config.json``: plain, and of bounded size and depth."""
    entries = read_json(read_text(path), path)
    return entries if isinstance(entries, dict) else {}


def schema() -> str:
    """JSON schema of ``config.json``, for forms and editors, as text."""
    return json.dumps(ModelDescription.model_json_schema(), indent=1)
