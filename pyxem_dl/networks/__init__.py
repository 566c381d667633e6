"""Networks: of orientations and of disks, remade by name from a model's ``config.json``."""

from pyxem_dl.networks.arguments import ARGUMENTS, check_arguments
from pyxem_dl.networks.backbones import BACKBONES, default_size
from pyxem_dl.networks.building import NETWORKS, build_network, outline
from pyxem_dl.networks.candidates import (
    MOST_CRYSTALS,
    OrientationCandidates,
    OverlappingCrystals,
    SampledOrientations,
)
from pyxem_dl.networks.fcunet import Disks, FCUNet
from pyxem_dl.networks.polar import N_PROPOSED, PolarNetwork
from pyxem_dl.networks.regression import RegressionNetwork

__all__ = [
    "ARGUMENTS", "BACKBONES", "MOST_CRYSTALS", "NETWORKS", "N_PROPOSED", "Disks", "FCUNet", "OrientationCandidates",
    "OverlappingCrystals", "PolarNetwork", "RegressionNetwork", "SampledOrientations", "build_network",
    "check_arguments", "default_size", "outline",
]  # fmt: skip
