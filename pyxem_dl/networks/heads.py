"""From a network's numbers to rotations: the representations that the literature uses, and their losses."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import nn

from pyxem_dl import rotations as rot
from pyxem_dl.frames import euler_to_quaternion, quaternion_to_euler

# Up to here (degrees) the robust loss is quadratic, and linear beyond.
_ROBUST_FROM = 5.0


class RotationHead(nn.Module, ABC):
    """Representation of rotations by numbers.

    Parameters
    ----------
    operations : tensor, shape (phases, o, 4)
        Proper rotations of each phase's Laue group, padded by repetition.
    centers : tensor, shape (phases, 3)
        Middle of each phase's reduced zone of zone axes.
    modulo_180 : bool
        Count orientations that differ by 180 degrees about the beam as the same.
    robust : bool
        Let far-off labels weigh linearly, not quadratically: a share of them is wrong.
    """

    n_numbers: int

    def __init__(self, operations, centers, *, modulo_180: bool, robust: bool) -> None:
        super().__init__()
        # with the network they go to its device; its folder need not hold them
        self.register_buffer("operations", operations, persistent=False)
        self.register_buffer("centers", centers, persistent=False)
        self.modulo_180, self.robust = modulo_180, robust

    @abstractmethod
    def rotations(self, numbers: torch.Tensor) -> torch.Tensor:
        """Quaternions (n, 4) of numbers (n, n_numbers)."""

    @abstractmethod
    def loss(self, numbers: torch.Tensor, rotations: torch.Tensor, phase_id: torch.Tensor) -> torch.Tensor:
        """Loss (n,) against true rotations (n, 4) of phases (n,)."""

    def equivalent(self, rotations: torch.Tensor, phase_id: torch.Tensor) -> torch.Tensor:
        """All rotations (n, o, 4) that count as the same."""
        if self.modulo_180:
            half_turn = rot.rotate_in_plane(rotations, torch.full_like(rotations[..., 0], math.pi))
            rotations = torch.stack([rotations, half_turn], dim=1)
        else:
            rotations = rotations[:, None]
        operations = self.operations[phase_id]
        return rot.multiply(operations[:, :, None], rotations[:, None]).flatten(1, 2)


class _MatrixHead(RotationHead):
    """Numbers that make a rotation matrix without a jump; the loss is its distance to the nearest equivalent."""

    @abstractmethod
    def matrices(self, numbers: torch.Tensor) -> torch.Tensor:
        """Rotation matrices (n, 3, 3)."""

    def rotations(self, numbers: torch.Tensor) -> torch.Tensor:
        """Quaternions (n, 4)."""
        return rot.from_matrix(self.matrices(numbers))

    def loss(self, numbers: torch.Tensor, rotations: torch.Tensor, phase_id: torch.Tensor) -> torch.Tensor:
        """Squared distance (n,) of matrices, or its robust relative."""
        true = rot.to_matrix(self.equivalent(rotations, phase_id))
        found = self.matrices(numbers)
        # squared distance of matrices: 8 sin^2 of half the angle between them
        trace = rot.matmul(true.flatten(2), found.flatten(1)[..., None])[..., 0].amax(1)
        square = (6 - 2 * trace).clamp_min(0)
        if not self.robust:
            return square
        scale = 8 * math.sin(math.radians(_ROBUST_FROM) / 2) ** 2
        return scale**0.5 * ((scale + square).sqrt() - scale**0.5)


class NineNumbers(_MatrixHead):
    """A matrix of nine numbers, and the rotation nearest to it (singular value decomposition)."""

    n_numbers = 9

    def matrices(self, numbers: torch.Tensor) -> torch.Tensor:
        """Rotation matrices (n, 3, 3)."""
        # near the identity to begin with: where the nearest rotation is well defined
        matrix = numbers.unflatten(1, (3, 3)) + torch.eye(3, device=numbers.device)
        return rot.nearest_rotation(matrix)


class SixNumbers(_MatrixHead):
    """The first two columns of a matrix."""

    n_numbers = 6

    def matrices(self, numbers: torch.Tensor) -> torch.Tensor:
        """Rotation matrices (n, 3, 3)."""
        return rot.from_six(numbers + torch.eye(2, 3, device=numbers.device).flatten())


class EulerAngles(RotationHead):
    """Euler angles with mean squared error: what the first papers did, kept as their baseline.

    Angles are divided by 360, 180 and 360 degrees.  A label's is the symmetric copy whose zone axis lies in the reduced
    zone.  Angles jump where 0 and 360 degrees meet, and at the borders of the zone.

    Parameters
    ----------
    *arguments
        Those of :class:`RotationHead`.
    clamp : bool
        Keep the predictions between 0 and 1.
    **further
        Those of :class:`RotationHead`.
    """

    n_numbers = 3
    _RANGE = (2 * math.pi, math.pi, 2 * math.pi)

    def __init__(self, *arguments, clamp: bool = True, **further) -> None:
        super().__init__(*arguments, **further)
        self.clamp = clamp

    def _angles(self, numbers) -> torch.Tensor:
        scaled = numbers + 0.5
        return scaled.clamp(0, 1) if self.clamp else scaled

    def rotations(self, numbers: torch.Tensor) -> torch.Tensor:
        """Quaternions (n, 4)."""
        angles = [x * full for x, full in zip(self._angles(numbers).unbind(-1), self._RANGE, strict=True)]
        return torch.stack(euler_to_quaternion(*angles), dim=-1)

    def loss(self, numbers: torch.Tensor, rotations: torch.Tensor, phase_id: torch.Tensor) -> torch.Tensor:
        """Squared error (n,) of the scaled angles."""
        equivalent = self.equivalent(rotations, phase_id)
        closeness = (rot.zone_axes(equivalent) * self.centers.to(numbers)[phase_id][:, None]).sum(-1)
        if self.modulo_180:  # both halves have the same zone axis: the one with the smaller first angle
            turned = quaternion_to_euler(*equivalent.unbind(-1))[0] >= math.pi
            closeness = closeness - 10.0 * turned
        best = closeness.argmax(1)[:, None, None].expand(-1, 1, 4)
        angles = quaternion_to_euler(*equivalent.gather(1, best)[:, 0].unbind(-1))
        target = torch.stack([x / full for x, full in zip(angles, self._RANGE, strict=True)], dim=-1)
        # not clamped: a prediction beyond the range must find back
        return (numbers + 0.5 - target).square().sum(1)


HEADS = {"r9": NineNumbers, "r6": SixNumbers, "euler": EulerAngles}
