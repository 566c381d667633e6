"""Networks, remade by name from a model's ``config.json``."""

from __future__ import annotations

import torch

from pyxem_dl.networks.backbones import BACKBONES, default_size
from pyxem_dl.networks.candidates import OrientationCandidates, SampledOrientations
from pyxem_dl.networks.fcunet import Disks, FCUNet
from pyxem_dl.networks.polar import N_PROPOSED, PolarNetwork
from pyxem_dl.networks.regression import RegressionNetwork

NETWORKS = {"polar": PolarNetwork, "regression": RegressionNetwork, "fcunet": FCUNet}


def build_network(name: str, **arguments) -> torch.nn.Module:
    """Make a network with fresh weights.

    Parameters
    ----------
    name : str
        A key of :data:`NETWORKS`.
    **arguments
        The network's own: what its attribute ``arguments`` holds.
    """
    if name not in NETWORKS:
        raise ValueError(f"There is no network {name!r}; there are: {', '.join(NETWORKS)}.")
    return NETWORKS[name](**arguments)


__all__ = [
    "BACKBONES", "NETWORKS", "N_PROPOSED", "Disks", "FCUNet", "OrientationCandidates", "PolarNetwork",
    "RegressionNetwork", "SampledOrientations", "build_network", "default_size",
]  # fmt: skip
