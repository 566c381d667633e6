"""What networks may be made of: types and bounds of their arguments, checked before anything is built.

The arguments come from a model's ``config.json``, which anybody may have written, from recipes, or from users. Outside
of the bounds no network would be of use, and some would fill the memory or never be done.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from pyxem_dl.checks import Strict, checked


def _plain_list(value):
    return list(value) if isinstance(value, tuple) else value


def list_of(kind, shortest: int = 0, longest: int | None = None):
    """Type of a list, which may come as a tuple."""
    return Annotated[list[kind], BeforeValidator(_plain_list), Field(min_length=shortest, max_length=longest)]


LaueGroup = Literal["-1", "2/m", "mmm", "4/m", "4/mmm", "-3", "-3m", "6/m", "6/mmm", "m-3", "m-3m"]
#: More phases than this are no longer told apart by one network
MOST_PHASES = 64
Radius = Annotated[float, Field(gt=0, le=20)]
Energy = Annotated[float, Field(ge=1, le=5000)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
_Quaternion = list_of(Annotated[float, Field(ge=-1.01, le=1.01)], 4, 4)
# Nodes of an orientation network: zone axes of all phases times angles
_MOST_NODES = 4_000_000


class _OfPhases(Strict):
    laue_groups: list_of(LaueGroup, 1, MOST_PHASES)
    settings: list_of(_Quaternion, 0, MOST_PHASES) | None = None

    @model_validator(mode="after")
    def _one_setting_each(self):
        if self.settings and len(self.settings) != len(self.laue_groups):
            raise ValueError(f"settings are {len(self.settings)}, for {len(self.laue_groups)} laue_groups")
        for q in self.settings or ():
            if abs(math.hypot(*q) - 1) > 1e-3:
                raise ValueError(f"settings must be quaternions of length 1, not {q}")
        return self


class VerifierArguments(Strict):
    """Of :class:`~pyxem_dl.networks.verifier.CandidateVerifier`, without the number of phases."""

    n_reflections: Annotated[int, Field(ge=1, le=200_000)]
    reciprocal_radius: Radius
    beam_energy: Energy
    n_spots: Annotated[int, Field(ge=1, le=1024)] = 48
    width: Annotated[int, Field(ge=1, le=1024)] = 64
    n_radial: Annotated[int, Field(ge=1, le=31)] = 3
    certain: Annotated[float, Field(ge=0, le=1)] = 1.0

    @model_validator(mode="after")
    def _is_odd(self):
        if self.n_radial % 2 == 0:
            raise ValueError(f"n_radial must be odd, not {self.n_radial}")
        return self


class PolarArguments(_OfPhases):
    """Of :class:`~pyxem_dl.networks.polar.PolarNetwork`."""

    n_k: Annotated[int, Field(ge=2, le=512)] = 64
    n_phi: Annotated[int, Field(ge=4, le=1440)] = 144
    channels: Annotated[int, Field(ge=1, le=8)] = 2
    phi_steps: Annotated[int, Field(ge=4, le=720)] = 72
    resolution: Annotated[float, Field(ge=0.5, le=60)] = 3.0
    width: Annotated[int, Field(ge=2, le=2048)] = 128
    depth: Annotated[int, Field(ge=0, le=64)] = 4
    kernel: Annotated[int, Field(ge=1, le=1440)] = 37
    expansion: Annotated[int, Field(ge=1, le=16)] = 2
    comparison: VerifierArguments | None = None

    @model_validator(mode="after")
    def _bounded_grid(self):
        # the proper subgroup of a Laue group of order n leaves 2 / n of the sphere, -1 all of it
        axes = sum(4 * math.pi / _ORDER[group] for group in self.laue_groups) / math.radians(self.resolution) ** 2
        if axes * self.phi_steps > _MOST_NODES:
            raise ValueError(
                f"resolution {self.resolution:g} and phi_steps {self.phi_steps} give about {axes * self.phi_steps:.2g} "
                f"nodes for {', '.join(self.laue_groups)}; at most {_MOST_NODES:.2g} are allowed"
            )
        return self


#: Proper rotations of each Laue group
_ORDER = {
    "-1": 1, "2/m": 2, "mmm": 4, "4/m": 4, "4/mmm": 8, "-3": 3, "-3m": 6, "6/m": 6, "6/mmm": 12, "m-3": 12, "m-3m": 24,
}  # fmt: skip


class AnyCrystalArguments(Strict):
    """Of :class:`~pyxem_dl.networks.any_crystal.AnyCrystalNetwork`."""

    width: Annotated[int, Field(ge=4, le=1024)] = 64
    temperature: Annotated[float, Field(ge=0.01, le=100)] = 1.0


class PlainBackboneArguments(Strict):
    """Of :class:`~pyxem_dl.networks.backbones.PlainNetwork`, without the size."""

    width: Annotated[int, Field(ge=4, le=1024, multiple_of=4)] = 24
    depth: Annotated[int, Field(ge=1, le=10)] = 5
    kernel: Annotated[int, Field(ge=1, le=31)] = 5
    num_features: Annotated[int, Field(ge=1, le=16_384)] = 512
    dropout: Dropout = 0.1


_Share = Annotated[float, Field(ge=0, lt=1)]
_Count = Annotated[int, Field(ge=1, le=128)]
_Width = Annotated[int, Field(ge=1, le=8192)]
# The deepest networks of the literature have 130: building more takes minutes, without any weights, too
_MOST_BLOCKS = 160


class BackboneArguments(Strict):
    """What timm's networks may be given: sizes and dropout, and nothing that reaches the network or the file system.

    ``pretrained``, ``pretrained_cfg``, ``checkpoint_path``, ``cache_dir`` and the like are no entries of a model.
    """

    img_size: Annotated[int, Field(ge=8, le=1024)] | None = None
    patch_size: Annotated[int, Field(ge=4, le=64)] | None = None
    window_size: Annotated[int, Field(ge=2, le=64)] | None = None
    global_pool: Literal["", "avg", "max", "avgmax", "catavgmax", "token", "map"] | None = None
    drop_rate: _Share | None = None
    drop_path_rate: _Share | None = None
    proj_drop_rate: _Share | None = None
    attn_drop_rate: _Share | None = None
    embed_dim: _Width | list_of(_Width, 1, 8) | None = None
    depth: _Count | None = None
    depths: list_of(_Count, 1, 8) | None = None
    num_heads: _Count | list_of(_Count, 1, 8) | None = None
    mlp_ratio: Annotated[float, Field(gt=0, le=16)] | None = None
    # of DenseNet
    growth_rate: Annotated[int, Field(ge=1, le=512)] | None = None
    block_config: list_of(_Count, 1, 8) | None = None
    # of ResNet and its relatives
    layers: list_of(_Count, 1, 8) | None = None
    channels: list_of(_Width, 1, 8) | None = None
    base_width: Annotated[int, Field(ge=1, le=1024)] | None = None
    cardinality: Annotated[int, Field(ge=1, le=256)] | None = None
    stem_width: Annotated[int, Field(ge=1, le=1024)] | None = None
    dims: list_of(_Width, 1, 8) | None = None

    @model_validator(mode="after")
    def _bounded_depth(self):
        for name in ("depths", "layers", "block_config"):
            n = sum(getattr(self, name) or ())
            if n > _MOST_BLOCKS:
                raise ValueError(f"{name} make {n} blocks together; {_MOST_BLOCKS} are the most")
        return self


class RegressionArguments(_OfPhases):
    """Of :class:`~pyxem_dl.networks.regression.RegressionNetwork`."""

    # a name of timm, as "resnet18.a1_in1k": without a scheme ("hf_hub:", "local-dir:", "https:") that leads elsewhere
    backbone: Annotated[str, Field(pattern=r"^[a-z0-9_]+(\.[a-z0-9_]+)?$", max_length=100)] = "cnn"
    size: Annotated[int, Field(ge=8, le=1024)] | None = None
    head: Literal["r9", "r6", "euler"] = "r9"
    clamp: bool = True
    modulo_180: bool = False
    robust: bool = True
    dropout: Dropout = 0.1
    backbone_arguments: dict | None = None
    calibration: list_of(Annotated[float, Field(ge=-1e4, le=1e4)], 2, 2) = [1.0, 0.0]

    @model_validator(mode="after")
    def _checked_backbone(self):
        check_backbone_arguments(self.backbone, self.backbone_arguments or {})
        return self


def check_backbone_arguments(name: str, arguments: dict) -> None:
    """Make sure of the arguments of a backbone, as ``backbone_arguments`` of the regression network has them."""
    kind = PlainBackboneArguments if name == "cnn" else BackboneArguments
    checked(kind, arguments, path="backbone_arguments")


class DiskArguments(Strict):
    """Of :class:`~pyxem_dl.networks.fcunet.FCUNet`."""

    radius: Annotated[float, Field(ge=1, le=64)] = 5.0
    unet: Literal["real", "complex"] = "real"
    widths: list_of(Annotated[int, Field(ge=1, le=1024)], 3, 3) | None = None
    dropout: Dropout = 0.1
    reader: bool = False


class StructureArguments(Strict):
    """Of :class:`~pyxem_dl.networks.images.StructureNetwork`."""

    folds: list_of(Literal[2, 4, 6], 1, 256)
    window: Annotated[float, Field(ge=4, le=100)] = 12.0
    n_k: Annotated[int, Field(ge=8, le=256)] = 28
    n_phi: Annotated[int, Field(ge=16, le=360)] = 48
    width: Annotated[int, Field(ge=2, le=512)] = 24
    dropout: Dropout = 0.2


#: By the names of the networks
ARGUMENTS: dict[str, type[Strict]] = {
    "polar": PolarArguments, "any_crystal": AnyCrystalArguments, "regression": RegressionArguments,
    "fcunet": DiskArguments, "structure": StructureArguments,
}  # fmt: skip


def check_arguments(name: str, arguments: dict, path: str = "network", where: str = "") -> None:
    """Make sure of a network's arguments.

    Parameters
    ----------
    name : str
        Of the network.  One that a program has added to :data:`~pyxem_dl.networks.NETWORKS` checks its own arguments.
    arguments : dict
        As ``network.arguments`` has them.
    path, where : str
        Of the entries in the file, and the file, for the error.

    Raises
    ------
    ValueError
        With the path of what is wrong, and its bounds.
    """
    if name in ARGUMENTS:
        checked(ARGUMENTS[name], arguments, path, where)
