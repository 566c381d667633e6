"""Networks, remade by name from a model's ``config.json``."""

from __future__ import annotations

import reprlib

import torch

from pyxem_dl.networks.any_crystal import AnyCrystalNetwork
from pyxem_dl.networks.arguments import check_arguments
from pyxem_dl.networks.fcunet import FCUNet
from pyxem_dl.networks.images.structures import StructureNetwork
from pyxem_dl.networks.outline import WithoutWeights
from pyxem_dl.networks.polar import PolarNetwork
from pyxem_dl.networks.regression import RegressionNetwork

NETWORKS = {
    "polar": PolarNetwork, "any_crystal": AnyCrystalNetwork, "regression": RegressionNetwork, "fcunet": FCUNet,
    "structure": StructureNetwork,
}  # fmt: skip


def build_network(name: str, **arguments) -> torch.nn.Module:
    """Make a network with fresh weights.

    Parameters
    ----------
    name : str
        A key of :data:`NETWORKS`.
    **arguments
        The network's own: what its attribute ``arguments`` holds.

    Raises
    ------
    ValueError
        For an unknown network, and for arguments that are out of their bounds (see
        :mod:`pyxem_dl.networks.arguments`): before anything is built.
    """
    if name not in NETWORKS:
        raise ValueError(f"There is no network {reprlib.repr(name)}; the known ones are: {', '.join(NETWORKS)}.")
    check_arguments(name, arguments)
    return NETWORKS[name](**arguments)


def outline(name: str, *, most: int | None = None, **arguments) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a network's state, without taking memory for its weights.

    Parameters
    ----------
    name, **arguments
        As of :func:`build_network`.
    most : int, optional
        The few networks of timm that compute with their weights while they are built may make so many numbers; a
        MemoryError for more.
    """
    with WithoutWeights(most):
        network = build_network(name, **arguments)
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
