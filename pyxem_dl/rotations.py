"""Rotations in torch: quaternions, symmetry, sampling grids, disorientation.

Quaternions are tensors of shape (..., 4), scalar first, as orix writes them.  Orientations
take lab to crystal coordinates, so that symmetry acts from the left and a turn about the
beam from the right (see :mod:`pyxem_dl.frames`).
"""

from __future__ import annotations

import math

import numpy as np
import torch

from pyxem_dl.frames import in_plane_angle, in_plane_quaternion


def multiply(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Hamilton product of quaternions, shapes (..., 4) that broadcast."""
    aw, ax, ay, az = a.unbind(-1)
    bw, bx, by, bz = b.unbind(-1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        dim=-1,
    )


def matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Product in float32 also under autocast: bfloat16 rounds away angles below 5 degrees."""
    with torch.autocast(a.device.type, enabled=False):
        return a.float() @ b.float()


def conjugate(q: torch.Tensor) -> torch.Tensor:
    """Inverse of unit quaternions (..., 4)."""
    return q * q.new_tensor([1, -1, -1, -1])


def to_matrix(q: torch.Tensor) -> torch.Tensor:
    """Rotation matrices (..., 3, 3) with ``matrix @ v`` = orix' ``rotation * v``."""
    w, x, y, z = torch.nn.functional.normalize(q, dim=-1).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, dim=-2)


def exponential(v: torch.Tensor) -> torch.Tensor:
    """Rotation vectors (..., 3) in radians to quaternions (..., 4)."""
    angle = v.norm(dim=-1, keepdim=True)
    # sinc keeps the gradient finite at 0
    return torch.cat([(angle / 2).cos(), 0.5 * torch.sinc(angle / (2 * math.pi)) * v], dim=-1)


def logarithm(q: torch.Tensor) -> torch.Tensor:
    """Quaternions (..., 4) to rotation vectors (..., 3) of at most pi radians."""
    q = torch.where(q[..., :1] < 0, -q, q)
    sin = q[..., 1:].norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(sin, q[..., :1])
    return q[..., 1:] * torch.where(sin > 1e-7, angle / sin.clamp_min(1e-7), 2.0)


def random_rotations(n: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Uniformly distributed rotations (n, 4), on the generator's device."""
    device = generator.device if generator is not None else "cpu"
    q = torch.randn(n, 4, generator=generator, device=device)
    return torch.nn.functional.normalize(q, dim=-1)


def rotate_in_plane(q: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Turn crystals about the beam: spots by ``+angle`` (radians) in (kx, ky)."""
    return multiply(q, torch.stack(in_plane_quaternion(angle), dim=-1))


def split_in_plane(q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Split rotations into a tilt and a turn about the beam that acts first.

    Returns
    -------
    tilt : tensor, shape (..., 4)
        ``q = rotate_in_plane(tilt, angle)``, the axis of the tilt being normal to z.
    angle : tensor, shape (...)
        In radians.
    """
    angle = in_plane_angle(q[..., 0], q[..., 3])
    return rotate_in_plane(q, -angle), angle


def zone_axes(q: torch.Tensor) -> torch.Tensor:
    """Crystal direction (..., 3) that points to the electron source, ``R * z``."""
    return to_matrix(q)[..., :, 2]


def proper_operations(phase) -> torch.Tensor:
    """Proper rotations (n, 4) of a phase's Laue group.

    A pattern cannot tell a crystal from its inversion, so the Laue group and not the point
    group decides which orientations are alike.

    Parameters
    ----------
    phase : orix.crystal_map.Phase or orix.quaternion.Symmetry
        With its point group set.
    """
    group = getattr(phase, "point_group", phase)
    operations = group.laue.proper_subgroup.data
    return torch.as_tensor(np.ascontiguousarray(operations), dtype=torch.float32)


def reduced_grid(phase, resolution: float) -> torch.Tensor:
    """Orientations (n, 4) whose zone axes cover the asymmetric part of the sphere.

    Parameters
    ----------
    phase : orix.crystal_map.Phase or orix.quaternion.Symmetry
        Its proper Laue subgroup's sector is covered: 1/24 of the sphere for m-3m, so that
        no mirrored patterns are needed.
    resolution : float
        Degrees between neighbours.

    Returns
    -------
    tensor, shape (n, 4)
        Euler angles (0, Phi, phi2): turn them about the beam to get all orientations.
    """
    from orix.sampling import get_sample_reduced_fundamental

    group = getattr(phase, "point_group", phase).laue.proper_subgroup
    # of orix' meshes this one covers the sphere with the fewest points
    rotations = get_sample_reduced_fundamental(
        resolution, method="spherified_cube_edge", point_group=group
    )
    return torch.as_tensor(np.ascontiguousarray(rotations.data), dtype=torch.float32)


def misorientation_angle(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Angle in radians between rotations (..., 4), without symmetry."""
    # atan2 of the relative rotation: acos of a float32 dot product is blind below 0.03 degrees
    relative = multiply(a, conjugate(b))
    return 2 * torch.atan2(relative[..., 1:].norm(dim=-1), relative[..., 0].abs())


def disorientation_angle(
    a: torch.Tensor, b: torch.Tensor, operations: torch.Tensor, *, modulo_180: bool = False
) -> torch.Tensor:
    """Smallest angle in radians between orientations over a Laue group.

    Parameters
    ----------
    a, b : tensor, shape (..., 4)
        Orientations; the shapes broadcast.
    operations : tensor, shape (n, 4)
        From :func:`proper_operations`.
    modulo_180 : bool
        Take orientations that differ by 180 degrees about the beam for the same.
    """
    operations = operations.to(a)
    angle = misorientation_angle(multiply(operations, a[..., None, :]), b[..., None, :])
    angle = angle.amin(dim=-1)
    if modulo_180:
        half_turn = rotate_in_plane(b, torch.full_like(b[..., 0], math.pi))
        return torch.minimum(angle, disorientation_angle(a, half_turn, operations))
    return angle
