"""A network that says which crystal, seen along which zone axis and turned by how much, is in a window of an image."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from pyxem_dl.networks.images.spectra import SpectrumGrid


class _Block(nn.Module):
    """Convolution over frequency and angle, which closes upon itself."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(before, after, 3, stride=(stride, 1), padding=(1, 0), bias=False)
        self.norm = nn.BatchNorm2d(after)

    def forward(self, x):
        x = functional.pad(x, (1, 1, 0, 0), mode="circular")
        return functional.gelu(self.norm(self.convolution(x)))


class StructureNetwork(nn.Module):
    """Classes and angles of spectra in one pass that turns with them.

    Parameters
    ----------
    folds : sequence of int
        By which fraction of a turn the spectrum of each class looks the same again: 2, 4 or 6.
    window : float
        Side of the windows in Å.
    n_k, n_phi : int
        Of the spectra.
    width : int
        Channels.
    dropout : float
        In the head.
    """

    def __init__(self, folds, window: float = 12.0, n_k: int = 28, n_phi: int = 48, width: int = 24,
                 dropout: float = 0.2) -> None:  # fmt: skip
        super().__init__()
        self.arguments = {
            "folds": list(folds), "window": window, "n_k": n_k, "n_phi": n_phi, "width": width, "dropout": dropout,
        }  # fmt: skip
        self.grid = SpectrumGrid(window=window, n_k=n_k, n_phi=n_phi)
        self.folds = tuple(folds)
        self.trunk = nn.Sequential(_Block(1, width, 1), _Block(width, width, 2), _Block(width, 2 * width, 2))
        rows = (n_k + 3) // 4
        self.along = nn.Conv1d(2 * width * rows, 4 * width, 1)
        self.around = nn.Conv1d(4 * width, 4 * width, 13, groups=4 * width)
        self.mix = nn.Conv1d(8 * width, 4 * width, 1)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Conv1d(4 * width, len(self.folds), 1)
        self.other = nn.Sequential(nn.Linear(8 * width, 2 * width), nn.GELU(), nn.Dropout(dropout),
                                   nn.Linear(2 * width, 1))  # fmt: skip

    def features(self, spectra: torch.Tensor) -> torch.Tensor:
        """Features (n, channels, n_phi): the part without dropout."""
        x = self.trunk(spectra / 4).flatten(1, 2)
        x = functional.gelu(self.along(x))
        return functional.gelu(x + self.around(functional.pad(x, (6, 6), mode="circular")))

    def logits(self, features: torch.Tensor, masks=None) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (n, classes, n_phi) of each class at each angle, and (n, 1) of what is no class.

        Dropout is the one of :meth:`drawn_masks` where it is given.
        """
        before, hidden, drop, last = self.other
        x = self.drop(features) if masks is None else features * masks[0]
        pooled = x.mean(2, keepdim=True)
        x = functional.gelu(self.mix(torch.cat([x, pooled.expand_as(x)], 1)))
        both = torch.cat([x.mean(2), x.amax(2)], 1)
        # as if it had all the angles, so that none of the classes is ahead by their number
        other = hidden(before(both))
        other = last(drop(other) if masks is None else other * masks[1])
        return self.head(x), other + math.log(self.grid.n_phi)

    def drawn_masks(self, n: int, like: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Draw n networks: what dropout leaves of features and of what is hidden, the same for all windows.

        It is the same for the same network, whatever was drawn before, and in whatever thread.
        """
        generator = torch.Generator().manual_seed(0)
        keep = 1 - self.arguments["dropout"]
        sizes = (1, self.around.out_channels, self.grid.n_phi), (1, self.other[0].out_features)

        def mask(size):
            return (torch.bernoulli(torch.full(size, keep), generator=generator) / keep).to(like)

        return [tuple(map(mask, sizes)) for _ in range(n)]

    def forward(self, spectra: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of spectra (n, 1, n_k, n_phi)."""
        return self.logits(self.features(spectra))

    def loss(self, spectra: torch.Tensor, label: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
        """Cross entropy.

        Parameters
        ----------
        spectra : tensor, shape (n, 1, n_k, n_phi)
        label : tensor of int, shape (n,)
            Classes, and their number for what is none.
        angle : tensor, shape (n,)
            In radians, counter-clockwise with y up.
        """
        nodes, other = self(spectra)
        logits = torch.cat([nodes.flatten(1), other], 1).log_softmax(1)
        n, classes, n_phi = nodes.shape
        fold = torch.tensor([*self.folds, 2], device=label.device)[label]
        at = torch.arange(n_phi, device=label.device) * (math.pi / n_phi)
        away = (fold[:, None] * (at - angle[:, None])).cos()
        # a peak of a width of half a step of the grid, at all angles that look alike
        sharp = 1 / (0.7 * fold[:, None] * math.pi / n_phi) ** 2
        target = torch.softmax(sharp * away, 1)
        is_class = label < classes
        own = nodes.new_zeros(n, classes, n_phi)
        own[torch.arange(n, device=label.device)[is_class], label[is_class]] = target[is_class]
        target = torch.cat([own.flatten(1), (~is_class)[:, None].to(own)], 1)
        return -(target * logits).sum(1).mean()

    def probabilities(self, features: torch.Tensor, masks=None) -> tuple[torch.Tensor, torch.Tensor]:
        """Probabilities (n, classes + 1), the last of none of them, and angles (n, classes) in radians."""
        nodes, other = self.logits(features, masks)
        p = torch.cat([nodes.flatten(1), other], 1).softmax(1)
        joint = p[:, :-1].view(nodes.shape)
        at = torch.arange(nodes.shape[2], device=p.device) * (math.pi / nodes.shape[2])
        fold = torch.tensor(self.folds, device=p.device, dtype=at.dtype)[:, None]
        wave = torch.polar(torch.ones_like(fold * at), fold * at)
        angle = (joint * wave).sum(2).angle() / fold[:, 0]
        return torch.cat([joint.sum(2), p[:, -1:]], 1), angle
