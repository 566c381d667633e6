"""The literature's way to orientations: an image network, and a few numbers that make a rotation."""

from __future__ import annotations

import math

import torch
from torch import nn

from pyxem_dl import rotations as rot, symmetry
from pyxem_dl.networks.backbones import default_size, make_backbone
from pyxem_dl.networks.candidates import OrientationCandidates
from pyxem_dl.networks.heads import HEADS

# What counts as right in the score: degrees from the label
RIGHT = 5.0


class RegressionNetwork(nn.Module):
    """One rotation for each pattern, with its phase and the probability that it is right.

    Parameters
    ----------
    laue_groups : list of str
        Laue group of each phase (orix' names).
    settings : list of quaternion, optional
        As in :class:`~pyxem_dl.networks.polar.PolarNetwork`.
    backbone : str
        One of :data:`~pyxem_dl.networks.backbones.BACKBONES`, or a name of timm.
    size : int, optional
        Pixels along each side of the images; by default the backbone's.
    head : {"r9", "r6", "euler"}
        How numbers make a rotation.
    clamp : bool
        With Euler angles: keep the predictions in their range.
    modulo_180 : bool
        Count orientations that differ by 180 degrees about the beam as the same when learning.
    robust : bool
        Let far-off labels weigh less; Euler angles have the mean squared error in any case.
    dropout : float
        In front of the last layer.
    backbone_arguments : dict, optional
        Further ones, of the backbone.
    calibration : list of float
        Slope and offset of the score's logit, fitted on patterns that were not trained on.
    """

    def __init__(
        self,
        laue_groups: list[str],
        settings: list[list[float]] | None = None,
        backbone: str = "cnn",
        size: int | None = None,
        head: str = "r9",
        clamp: bool = True,
        modulo_180: bool = False,
        robust: bool = True,
        dropout: float = 0.1,
        backbone_arguments: dict | None = None,
        calibration: tuple[float, float] = (1.0, 0.0),
    ) -> None:
        super().__init__()
        if head not in HEADS:
            raise ValueError(f"There is no head {head!r}; the known ones are: {', '.join(HEADS)}.")
        size = default_size(backbone) if size is None else size
        self.arguments = {
            "laue_groups": list(laue_groups), "settings": settings, "backbone": backbone, "size": size, "head": head,
            "clamp": clamp, "modulo_180": modulo_180, "robust": robust, "dropout": dropout,
            "backbone_arguments": dict(backbone_arguments or {}), "calibration": list(calibration),
        }  # fmt: skip
        self.backbone = make_backbone(backbone, size, dict(backbone_arguments or {}))
        self.register_buffer("operations", symmetry.padded_operations(laue_groups, settings), persistent=False)
        n_features, n_phases = self.backbone.n_out, len(laue_groups)
        centers = torch.stack([_zone_center(name, turn) for name, turn in zip(
            laue_groups, settings or [None] * n_phases, strict=True)])  # fmt: skip
        arguments = {"clamp": clamp} if head == "euler" else {}
        self.head = HEADS[head](self.operations, centers, modulo_180=modulo_180, robust=robust, **arguments)
        self.dropout = nn.Dropout(dropout)
        self.numbers = nn.Linear(n_features, self.head.n_numbers)
        self.phase = nn.Linear(n_features, n_phases + 1)
        self.right = nn.Linear(n_features, 1)

    def load_pretrained(self, pretrained) -> None:
        """Give the backbone weights that were learnt on ImageNet; see ``make_backbone``."""
        a = self.arguments
        self.backbone = make_backbone(a["backbone"], a["size"], a["backbone_arguments"], pretrained)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Numbers (n, n_numbers), phase logits (n, phases + 1; the last is "no crystal"), logit (n,) of being right."""
        return self._outputs(self.dropout(self.backbone(images)))

    def _outputs(self, features: torch.Tensor):
        # bfloat16 knows no tenths of a degree
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            # what the prediction is worth is learnt beside it, and does not change it
            right = self.right(features.detach())[:, 0]
            return self.numbers(features), self.phase(features), right

    def loss(
        self, images: torch.Tensor, rotations: torch.Tensor, phase_id: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss of rotations and phases, averaged over the patterns, and its parts.

        Parameters
        ----------
        images : tensor, shape (n, 1, size, size)
            Preprocessed patterns.
        rotations : tensor, shape (n, 4)
            Labels, lab to crystal.
        phase_id : tensor of int, shape (n,)
            -1 where there is no crystal.
        """
        numbers, phases, right = self(images)
        classes = torch.where(phase_id >= 0, phase_id, phases.shape[1] - 1)
        phase_loss = nn.functional.cross_entropy(phases, classes)
        there = (phase_id >= 0).nonzero()[:, 0]  # once: a device has to be waited for
        if not len(there):
            return phase_loss, {"phase": phase_loss.detach()}
        numbers, rotations, phase_id = numbers[there], rotations[there], phase_id[there]
        rotation_loss = self.head.loss(numbers, rotations, phase_id).mean()
        with torch.no_grad():
            angle = symmetry.disorientation_angle(
                self.head.rotations(numbers), rotations, self.operations[phase_id], modulo_180=self.head.modulo_180
            )
        hit = ((angle < math.radians(RIGHT)) & (phases[there, :-1].argmax(1) == phase_id)).float()
        right_loss = nn.functional.binary_cross_entropy_with_logits(right[there], hit)
        parts = {"rotation": rotation_loss.detach(), "phase": phase_loss.detach(), "right": right_loss.detach()}
        return rotation_loss + 0.1 * phase_loss + 0.1 * right_loss, parts

    def predict(self, images: torch.Tensor, n_best: int = 1) -> OrientationCandidates:
        """Predict orientations.

        Parameters
        ----------
        images : tensor, shape (n, 1, size, size)
            Preprocessed patterns.
        n_best : int
            There is one prediction, whatever is asked for.

        Returns
        -------
        OrientationCandidates
            With one candidate for each pattern.
        """
        return self._candidates(*self(images))

    def samples(self, images: torch.Tensor, n_samples: int) -> list[OrientationCandidates]:
        """Predictions for the same patterns, each with other features left out (Monte-Carlo dropout).

        Parameters
        ----------
        images : tensor, shape (n, 1, size, size)
            Preprocessed patterns.
        n_samples : int
            Number of predictions.

        Notes
        -----
        Gal & Ghahramani, *Dropout as a Bayesian Approximation*, ICML 2016; here in front of the last layer, so that
        the rest is computed once.
        """
        features = self.backbone(images)
        p = self.dropout.p
        return [self._candidates(*self._outputs(nn.functional.dropout(features, p))) for _ in range(n_samples)]

    def _candidates(self, numbers, phases, right) -> OrientationCandidates:
        probability = phases.softmax(dim=1)
        p, phase_id = probability[:, :-1].max(dim=1)
        slope, offset = self.arguments["calibration"]
        scores = torch.sigmoid(slope * right + offset)
        rotations = self.head.rotations(numbers)
        return OrientationCandidates(rotations[:, None], phase_id[:, None], scores[:, None], 1 - probability[:, -1])

    def calibrate(self, images: torch.Tensor, rotations: torch.Tensor, phase_id: torch.Tensor) -> None:
        """Fit slope and offset of the score to patterns that were not trained on (Platt's scaling).

        Parameters are those of :meth:`loss`.
        """
        self.eval()
        with torch.no_grad():
            outputs = [self(part) for part in images.split(64)]
        numbers, phases, right = (torch.cat(column) for column in zip(*outputs, strict=True))
        there = phase_id >= 0
        angle = symmetry.disorientation_angle(
            self.head.rotations(numbers[there]), rotations[there], self.operations[phase_id[there]],
            modulo_180=self.head.modulo_180,
        )  # fmt: skip
        hit = (angle < math.radians(RIGHT)) & (phases[there, :-1].argmax(1) == phase_id[there])
        self.arguments["calibration"] = _fit_logistic(right[there], hit)


def _fit_logistic(logit: torch.Tensor, right: torch.Tensor) -> list[float]:
    """Slope and offset with which logits are the probability of being right."""
    # as many right and wrong ones as Platt adds, so that neither is certain
    n_right, n_wrong = float(right.sum()), float((~right).sum())
    target = torch.where(right, (n_right + 1) / (n_right + 2), 1 / (n_wrong + 2)).to(logit)
    parameters = torch.tensor([1.0, 0.0], device=logit.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=100)

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(parameters[0] * logit + parameters[1], target)
        # a slope that the patterns say nothing of stays near 1
        loss = loss + 1e-3 * (parameters[0] - 1).square()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return [round(p, 4) for p in parameters.tolist()]


def _zone_center(laue_group: str, turn) -> torch.Tensor:
    """Middle (3,) of the zone axes that a reduced grid has."""
    axes = rot.zone_axes(symmetry.reduced_grid(symmetry.laue_group(laue_group), 5.0)).mean(0)
    if turn is not None:
        axes = rot.to_matrix(torch.tensor(turn)) @ axes
    # for a group whose zone is a whole half of the sphere, any direction in it
    return nn.functional.normalize(axes + 1e-6, dim=0)
