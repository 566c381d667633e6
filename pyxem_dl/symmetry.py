"""Symmetry of crystals as diffraction sees it: Laue groups, their settings, sampling grids, disorientation, consensus.

Orientations are quaternions (..., 4) as in :mod:`pyxem_dl.rotations`, lab to crystal, so that symmetry acts from the
left.  Space groups, from which crystals are made, are in :mod:`pyxem_dl.crystals.space_groups`.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from pyxem_dl.rotations import (
    conjugate,
    from_matrix,
    logarithm,
    misorientation_angle,
    multiply,
    rotate_in_plane,
    zone_axes,
)

#: Orientations nearer than this (radians) are the same, where predictions are compared.
SAME = math.radians(10.0)


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
        group = getattr(phase, "point_group", phase)
        if group is None:
            raise ValueError(
                f"The phase {phase.name!r} has neither a space group nor a point group, by which orientations are "
                "compared: give it one, such as `xmap.phases[0].point_group = 'm-3m'`."
            )
        return group.laue
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
    return stack_operations(operations)


def stack_operations(operations: list[torch.Tensor]) -> torch.Tensor:
    """Stack the rotations (n, 4) of several groups: (groups, o, 4), padded by repeating the first, the identity."""
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
    """Find what most predictions for the same crystal say.

    Predictions that are far apart have no meaningful mean, as those of two networks of which one is wrong. So the
    prediction with the most others around it leads, and the mean is taken over what is near it.

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
        Of the predictions within :data:`SAME` of one another, of their symmetric copies that are nearest.
    angle : tensor, shape (n, m)
        Disorientation of each prediction from it, in radians.
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
