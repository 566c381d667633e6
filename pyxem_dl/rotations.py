"""Rotations in torch: the arithmetic of quaternions, without symmetry (that is :mod:`pyxem_dl.symmetry`).

Quaternions are tensors of shape (..., 4), scalar first, as orix writes them.  Orientations
take lab to crystal coordinates, so that symmetry acts from the left and a turn about the
beam from the right (see :mod:`pyxem_dl.frames`).
"""

from __future__ import annotations

import math
import threading
from contextlib import AbstractContextManager
from functools import partial

import torch

from pyxem_dl.frames import in_plane_angle, in_plane_quaternion
from pyxem_dl.moved import moved_names

__getattr__ = moved_names(__name__)


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


class _FullFloat32:
    """See :func:`full_float32`; the first thread that comes in forbids, the last that goes allows again."""

    def __init__(self) -> None:
        self._lock, self._inside, self._allow_again = threading.Lock(), 0, []

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._allow_again = _forbid_coarse_products()
            self._inside += 1

    def __exit__(self, *_) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                for allow in self._allow_again:
                    allow()


def _forbid_coarse_products() -> list:
    """Forbid TF32 and bfloat16 in products of float32; return what allows again what was allowed, in this order."""
    backends, again = torch.backends, []

    def allowing(owner, name):
        return partial(setattr, owner, name, getattr(owner, name))

    # torch 2.9 has a switch for all and one for each operation; where they are used it refuses to read the older ones
    newer = getattr(backends, "fp32_precision", "none") != "none"
    try:
        precision, tf32 = torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32
    except RuntimeError:
        newer = True
    if newer:
        for place in (
            backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends.mkldnn.matmul, backends.mkldnn.conv
        ):
            again.append(allowing(place, "fp32_precision"))
            place.fp32_precision = "ieee"
        return again
    if precision != "highest":
        again.append(partial(torch.set_float32_matmul_precision, precision))
        if hasattr(backends.mkldnn, "matmul"):  # which that changes, too
            again.append(allowing(backends.mkldnn.matmul, "fp32_precision"))
        torch.set_float32_matmul_precision("highest")
    if tf32:
        again.append(allowing(backends.cudnn, "allow_tf32"))
        backends.cudnn.allow_tf32 = False
    return again


_full_float32 = _FullFloat32()


def full_float32() -> AbstractContextManager:
    """Compute products of float32 in float32 within a block, whatever `torch.backends` allows.

    TF32 and bfloat16 keep 10 and 7 binary digits: they round away angles below 2 and 5 degrees.
    """
    return _full_float32


def matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Product in float32 at least, also under autocast and where TF32 is allowed, see :func:`full_float32`."""
    wide = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    with torch.autocast(a.device.type, enabled=False), full_float32():
        return a.to(wide) @ b.to(wide)


def conjugate(q: torch.Tensor) -> torch.Tensor:
    """Inverse of unit quaternions (..., 4)."""
    return torch.cat([q[..., :1], -q[..., 1:]], dim=-1)


def to_matrix(q: torch.Tensor) -> torch.Tensor:
    """Rotation matrices (..., 3, 3) with ``matrix @ v`` = orix' ``rotation * v``."""
    w, x, y, z = torch.nn.functional.normalize(q, dim=-1).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, dim=-2)


def from_matrix(matrix: torch.Tensor) -> torch.Tensor:
    """Quaternions (..., 4), float32, of rotation matrices (..., 3, 3); the inverse of :func:`to_matrix`."""
    m = _wide(matrix)
    diagonal = m.diagonal(dim1=-2, dim2=-1)
    # the products 4 q_i q_j of the components; the row of the largest component is the safest
    squares = 1 + torch.stack([
        diagonal.sum(-1), *(2 * diagonal[..., i] - diagonal.sum(-1) for i in range(3)),
    ], dim=-1)  # fmt: skip
    wx, wy, wz = (m[..., k, j] - m[..., j, k] for j, k in ((1, 2), (2, 0), (0, 1)))
    xy, xz, yz = (m[..., j, k] + m[..., k, j] for j, k in ((0, 1), (0, 2), (1, 2)))
    w2, x2, y2, z2 = squares.unbind(-1)
    rows = ((w2, wx, wy, wz), (wx, x2, xy, xz), (wy, xy, y2, yz), (wz, xz, yz, z2))
    products = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    largest = squares.argmax(-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    return torch.nn.functional.normalize(products.gather(-2, largest)[..., 0, :], dim=-1).float()


def _wide(x: torch.Tensor) -> torch.Tensor:
    """Double precision, where the device has it (Apple's has not)."""
    return x.float() if x.device.type == "mps" else x.double()


class _NearestRotation(torch.autograd.Function):
    """Singular value decomposition with the gradient of the rotation, which exists where that of U and V does not."""

    @staticmethod
    def forward(ctx, matrix):
        u, values, vt = torch.linalg.svd(_wide(matrix))
        sign = torch.linalg.det(u @ vt).sign()
        turn = torch.ones_like(values)
        turn[..., 2] = sign
        u = u * turn[..., None, :]
        ctx.save_for_backward(u, values * turn, vt)
        return (u @ vt).to(matrix)

    @staticmethod
    def backward(ctx, gradient):
        u, values, vt = ctx.saved_tensors
        inner = u.mT @ gradient.to(u) @ vt.mT
        total = values[..., :, None] + values[..., None, :]
        total = torch.where(total.abs() < 1e-3, 1e-3, total)
        return (u @ ((inner - inner.mT) / total) @ vt).to(gradient)


def nearest_rotation(matrix: torch.Tensor) -> torch.Tensor:
    """Rotation matrices nearest to any matrices (..., 3, 3): nine numbers make a rotation without a jump.

    Notes
    -----
    The special orthogonal Procrustes problem, as in Levinson et al., *An Analysis of SVD for Deep Rotation
    Estimation*, NeurIPS 2020.
    """
    return _NearestRotation.apply(matrix)


def from_six(numbers: torch.Tensor) -> torch.Tensor:
    """Rotation matrices of six numbers (..., 6): the first two columns, made orthonormal one after the other.

    Notes
    -----
    Zhou et al., *On the Continuity of Rotation Representations in Neural Networks*, CVPR 2019.
    """
    normalize = torch.nn.functional.normalize
    first = normalize(numbers[..., :3], dim=-1)
    second = numbers[..., 3:] - (first * numbers[..., 3:]).sum(-1, keepdim=True) * first
    second = normalize(second, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=-1)


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


def misorientation_angle(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Angle in radians between rotations (..., 4), without symmetry."""
    # atan2 of the relative rotation: acos of a float32 dot product is blind below 0.03 degrees
    relative = multiply(a, conjugate(b))
    return 2 * torch.atan2(relative[..., 1:].norm(dim=-1), relative[..., 0].abs())
