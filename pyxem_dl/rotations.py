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

#: Orientations nearer than this (radians) are the same, where answers are compared.
SAME = math.radians(10.0)


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


def laue_group(phase):
    """Laue group of a phase, as orix' symmetry in orix' own setting.

    Parameters
    ----------
    phase : orix.crystal_map.Phase or orix.quaternion.Symmetry or str
        A phase with its space or point group, a symmetry, or the name of a group.
    """
    from orix.crystal_map import Phase

    if isinstance(phase, str):
        return Phase(point_group=phase).point_group.laue
    number = getattr(getattr(phase, "space_group", None), "number", None)
    if number is None:
        return getattr(phase, "point_group", phase).laue
    # orix has no name for the Laue group of space groups 6 to 9; diffpy numbers further
    # settings of a group in the thousands
    number = (number - 1) % 1000 + 1
    name = next(name for last, name in _LAUE_GROUPS if number <= last)
    return Phase(point_group=name).point_group


#: Last space group number of each Laue group.
_LAUE_GROUPS = (
    (2, "-1"), (15, "2/m"), (74, "mmm"), (88, "4/m"), (142, "4/mmm"), (148, "-3"), (167, "-3m"),
    (176, "6/m"), (194, "6/mmm"), (206, "m-3"), (230, "m-3m"),
)  # fmt: skip


def setting(phase) -> torch.Tensor:
    """Rotation (4,) that takes orix' setting of a Laue group to the phase's own.

    orix has the twofold axis of 2/m along z, where a phase with the unique axis b has it along
    y, and twofold axes of -3m where P312 has none.  The space group's operations on the lattice
    are what counts; see :func:`proper_operations`.

    Parameters
    ----------
    phase : orix.crystal_map.Phase
        With space group and lattice; without, orix' setting is taken.
    """
    standard = _quaternions(laue_group(phase).proper_subgroup.data)
    true = _operations_of_space_group(phase)
    identity = torch.tensor([1.0, 0.0, 0.0, 0.0])
    if true is None or _same_operations(standard, true):
        return identity
    for candidate in _axis_alignments(standard, true):
        moved = multiply(multiply(candidate, standard), conjugate(candidate))
        if _same_operations(moved, true):
            return candidate
    raise ValueError(
        f"The symmetry of {phase.name!r} does not fit its cell: space group "
        f"{phase.space_group.short_name}, Laue group {laue_group(phase).name}. Check the CIF file."
    )


def proper_operations(phase) -> torch.Tensor:
    """Proper rotations (n, 4) of a phase's Laue group, in the crystal's Cartesian frame.

    A pattern cannot tell a crystal from its inversion, so the Laue group and not the point
    group decides which orientations are alike.

    Parameters
    ----------
    phase : orix.crystal_map.Phase or orix.quaternion.Symmetry
        With a phase the operations are those of its space group on its lattice.
    """
    standard = _quaternions(laue_group(phase).proper_subgroup.data)
    turn = setting(phase)
    return multiply(multiply(turn, standard), conjugate(turn))


def padded_operations(laue_groups: list[str], settings=None) -> torch.Tensor:
    """Proper rotations of several Laue groups in one tensor, so that batches may mix phases.

    Parameters
    ----------
    laue_groups : list of str
        orix' names.
    settings : list of quaternion, optional
        From :func:`setting`, of each phase.

    Returns
    -------
    tensor, shape (phases, o, 4)
        Padded to one length by repeating the identity.
    """
    turns = torch.tensor(settings or [[1.0, 0.0, 0.0, 0.0]] * len(laue_groups))
    operations = [
        multiply(multiply(turn, proper_operations(laue_group(name))), conjugate(turn))
        for turn, name in zip(turns, laue_groups, strict=True)
    ]
    length = max(map(len, operations))
    return torch.stack([torch.cat([o, o[:1].expand(length - len(o), 4)]) for o in operations])


def _quaternions(data) -> torch.Tensor:
    return torch.as_tensor(np.ascontiguousarray(data), dtype=torch.float32)


def _operations_of_space_group(phase) -> torch.Tensor | None:
    """Proper rotations of a space group on its lattice; None without either."""
    group = getattr(phase, "space_group", None)
    if group is None:
        return None
    base = np.asarray(phase.structure.lattice.base)
    parts = {tuple(np.round(o.R).astype(int).ravel()) for o in group.symop_list}
    matrices = [base.T @ np.reshape(p, (3, 3)) @ np.linalg.inv(base.T) for p in parts]
    if not all(np.allclose(m @ m.T, np.eye(3), atol=0.02) for m in matrices):
        return None  # no lattice was given that has this symmetry
    proper = np.array([m * np.sign(np.linalg.det(m)) for m in matrices])
    q = from_matrix(torch.as_tensor(proper))
    keep = [i for i in range(len(q)) if i == 0 or bool(((q[:i] @ q[i]).abs() < 0.999).all())]
    return q[keep]


def _same_operations(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two sets of rotations are the same, the sign of quaternions aside."""
    return len(a) == len(b) and bool(((a @ b.T).abs().amax(1) > 1 - 1e-4).all())


def _axis_alignments(standard: torch.Tensor, true: torch.Tensor):
    """Yield rotations that lay the axes of one group onto those of another."""

    def axes(q):
        """Directions of the rotation axes, with their angles, largest first."""
        v = logarithm(q)
        angle = v.norm(dim=-1)
        there = angle > 1e-3
        return [(v[i] / angle[i], float(angle[i])) for i in torch.nonzero(there)[:, 0].tolist()]

    def frame(first, second):
        third = torch.linalg.cross(first, second)
        third = third / third.norm()
        return torch.stack([first, third, torch.linalg.cross(first, third)], dim=1)

    ours, theirs = axes(standard), axes(true)
    # a helper direction for groups with a single axis
    helper = [(torch.nn.functional.normalize(torch.tensor([0.3, 0.5, 0.8]), dim=0), 0.0)]
    for b1, angle in theirs:
        for a1, a_angle in ours:
            if abs(angle - a_angle) > 1e-2:
                continue
            for b2, second in [*theirs, *helper]:
                for a2, a_second in [*ours, *helper]:
                    skew = abs(abs(float(a1 @ a2)) - 1) < 1e-3 or abs(abs(float(b1 @ b2)) - 1) < 1e-3
                    if skew or abs(second - a_second) > 1e-2:
                        continue
                    matrix = frame(b1, b2) @ frame(a1, a2).T
                    yield from_matrix(matrix)


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
    from orix.quaternion import Rotation
    from orix.sampling import get_sample_reduced_fundamental

    # of orix' meshes this one covers the sphere with the fewest points
    rotations = get_sample_reduced_fundamental(
        resolution,
        method="spherified_cube_edge",
        point_group=laue_group(phase).proper_subgroup,
    )
    turn = setting(phase)
    grid = _quaternions(rotations.data)
    if bool((turn[1:] == 0).all()):
        return grid
    x, y, z = zone_axes(multiply(turn, grid)).double().unbind(-1)
    euler = torch.stack([0 * x, torch.acos(z.clamp(-1, 1)), math.pi / 2 - torch.atan2(y, x)], -1)
    return _quaternions(Rotation.from_euler(euler.numpy()).data)


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


def consensus(
    samples: torch.Tensor, operations: torch.Tensor, weights: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find what most answers to the same question say.

    Answers that are far apart have no meaningful mean, as those of two networks of which one is wrong. So the answer
    with the most others around it leads, and the mean is taken over what is near it.

    Parameters
    ----------
    samples : tensor, shape (n, m, 4)
        m orientations of each of n crystals.
    operations : tensor, shape (n, o, 4) or (o, 4)
        Proper rotations of each crystal's Laue group.
    weights : tensor, shape (n, m), optional
        0 for what does not count.

    Returns
    -------
    mean : tensor, shape (n, 4)
        Of the answers within :data:`SAME` of one another, of their symmetric copies that are nearest.
    angle : tensor, shape (n, m)
        Disorientation of each answer from it, in radians.
    """
    operations = operations.to(samples)
    operations = operations if operations.ndim == 3 else operations[None]
    weights = torch.ones_like(samples[..., 0]) if weights is None else weights.to(samples)
    copies = multiply(operations[:, None], samples[:, :, None])
    between = (copies[:, :, None] * samples[:, None, :, None]).sum(-1).abs().amax(-1)
    between = 2 * torch.acos(between.clamp_max(1))
    support = (weights[:, None] * (1 - between / SAME).clamp_min(0)).sum(2).masked_fill(weights == 0, -1.0)
    mean = samples[torch.arange(len(samples), device=samples.device), support.argmax(1)]
    for _ in range(2):
        cosine = (copies * mean[:, None, None]).sum(-1)
        nearest = cosine.abs().argmax(2, keepdim=True)
        chosen = copies.gather(2, nearest[..., None].expand(-1, -1, 1, 4))[:, :, 0]
        cosine = cosine.gather(2, nearest)
        near = weights * (2 * torch.acos(cosine[..., 0].abs().clamp_max(1)) < SAME)
        sign = torch.where(cosine < 0, -1.0, 1.0).to(samples)
        mean = torch.nn.functional.normalize((chosen * sign * near[..., None]).sum(1), dim=-1)
    return mean, disorientation_angle(samples, mean[:, None], operations[:, None])
