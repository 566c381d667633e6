"""Convolutions that do the work of the batch normalisation behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn import functional


def folded(layers: Iterable[nn.Module]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Chain layers for prediction: a batch normalisation is part of the convolution in front of it.

    Parameters
    ----------
    layers : iterable of torch.nn.Module
        As of a ``Sequential`` that does not learn; each ``BatchNorm2d`` follows a ``Conv2d`` without a bias.

    Returns
    -------
    callable
        From a tensor to a tensor.
    """
    layers = list(layers)
    following = [*layers[1:], None]
    steps = []
    for layer, after in zip(layers, following, strict=True):
        if isinstance(layer, nn.Conv2d) and isinstance(after, nn.BatchNorm2d):
            steps.append(_normalised(layer, after))
        elif not isinstance(layer, nn.BatchNorm2d):
            steps.append(layer)

    def chain(x: torch.Tensor) -> torch.Tensor:
        for step in steps:
            x = step(x)
        return x

    return chain


def _normalised(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> Callable[[torch.Tensor], torch.Tensor]:
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    weight, bias = convolution.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
    return lambda x: functional.conv2d(x, weight, bias, convolution.stride, convolution.padding)
