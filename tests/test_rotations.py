"""SO(3) in torch against orix."""

import numpy as np
import pytest
import torch
from orix.crystal_map import Phase
from orix.quaternion import Orientation, Rotation
from orix.vector import Vector3d
from sample_phases import phase

from pyxem_dl import rotations, symmetry


@pytest.fixture
def q():
    q = rotations.random_rotations(50, torch.Generator().manual_seed(0)).double()
    return torch.nn.functional.normalize(q, dim=-1)


@pytest.fixture
def p():
    q = rotations.random_rotations(50, torch.Generator().manual_seed(1)).double()
    return torch.nn.functional.normalize(q, dim=-1)


def test_product_and_inverse_are_those_of_orix(q, p):
    expected = (Rotation(q.numpy()) * Rotation(p.numpy())).data
    ours = rotations.multiply(q, p).numpy()
    np.testing.assert_allclose(np.abs((expected * ours).sum(-1)), 1, atol=1e-12)
    identity = rotations.multiply(q, rotations.conjugate(q))
    torch.testing.assert_close(identity, torch.tensor([[1.0, 0, 0, 0]], dtype=q.dtype).expand_as(q))


def test_matrices_are_those_of_orix(q):
    np.testing.assert_allclose(rotations.to_matrix(q), Rotation(q.numpy()).to_matrix(), atol=1e-12)


def test_matrix_acts_as_the_rotation(q):
    v = np.array([0.3, -0.2, 0.9])
    expected = (Rotation(q.numpy()) * Vector3d(v)).data
    np.testing.assert_allclose(rotations.to_matrix(q) @ torch.from_numpy(v), expected, atol=1e-12)


def test_zone_axis_is_the_direction_to_the_source(q):
    expected = (Rotation(q.numpy()) * Vector3d.zvector()).data
    np.testing.assert_allclose(rotations.zone_axes(q), expected, atol=1e-12)


def test_exponential_and_logarithm(q):
    v = rotations.logarithm(q)
    assert v.norm(dim=-1).max() <= np.pi
    same = (rotations.exponential(v) * q).sum(-1).abs()
    torch.testing.assert_close(same, torch.ones_like(same))
    np.testing.assert_allclose(rotations.exponential(v), Rotation.from_axes_angles(
        Vector3d(v.numpy()), v.norm(dim=-1).numpy()).data, atol=1e-9)


def test_exponential_has_a_gradient_at_zero():
    v = torch.zeros(3, requires_grad=True)
    rotations.exponential(v)[1:].sum().backward()
    torch.testing.assert_close(v.grad, torch.full((3,), 0.5))


def test_split_in_plane_is_undone_by_rotate_in_plane(q):
    tilt, angle = rotations.split_in_plane(q)
    torch.testing.assert_close(rotations.rotate_in_plane(tilt, angle).abs(), q.abs())
    assert tilt[:, 3].abs().max() < 1e-9
    torch.testing.assert_close(rotations.zone_axes(tilt).norm(dim=-1), torch.ones(50, dtype=q.dtype))


def test_rotate_in_plane_adds_to_the_first_euler_angle():
    euler = np.array([[30.0, 40.0, 50.0]])
    q = torch.from_numpy(Rotation.from_euler(euler, degrees=True).data)
    turned = rotations.rotate_in_plane(q, torch.tensor([np.deg2rad(10.0)]))
    np.testing.assert_allclose(np.rad2deg(Rotation(turned.numpy()).to_euler()), euler + [[10, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("group, n", [("m-3m", 24), ("-3m", 6), ("6/mmm", 12), ("2/m", 2), ("-1", 1)])
def test_operations_are_the_proper_ones_of_the_laue_group(group, n):
    group = Phase(point_group=group).point_group
    assert symmetry.proper_operations(group).shape == (n, 4)


def test_operations_of_a_group_without_inversion_are_those_of_its_laue_group():
    without, laue = (symmetry.proper_operations(Phase(point_group=name)) for name in ("-43m", "m-3m"))
    torch.testing.assert_close(without, laue)


@pytest.mark.parametrize("group", ["m-3m", "-3m"])
def test_disorientation_is_that_of_orix(group, q, p):
    group = Phase(point_group=group).point_group
    ours = np.rad2deg(symmetry.disorientation_angle(q, p, symmetry.proper_operations(group)))
    a, b = (Orientation(x.numpy(), symmetry=group.proper_subgroup) for x in (q, p))
    np.testing.assert_allclose(ours, a.angle_with(b, degrees=True), atol=1e-4)


def test_symmetry_acts_from_the_left(q):
    operations = symmetry.proper_operations(phase("LiNiO2")).to(q)
    for operation in operations:
        alike = rotations.multiply(operation, q)
        assert symmetry.disorientation_angle(alike, q, operations).max() < 1e-6
    other_side = rotations.multiply(q, operations[1])
    assert symmetry.disorientation_angle(other_side, q, operations).max() > 0.1


def test_modulo_180_forgives_half_a_turn_about_the_beam(q):
    operations = symmetry.proper_operations(phase("LiNiO2"))
    turned = rotations.rotate_in_plane(q, torch.full((50,), np.pi, dtype=q.dtype))
    strict = symmetry.disorientation_angle(turned, q, operations)
    assert np.rad2deg(strict.max()) > 60
    assert symmetry.disorientation_angle(turned, q, operations, modulo_180=True).max() < 1e-6


def test_small_angles_are_not_lost_in_single_precision():
    a = torch.tensor([1.0, 0, 0, 0])
    b = rotations.exponential(torch.tensor([np.deg2rad(0.003), 0, 0]))
    assert np.rad2deg(rotations.misorientation_angle(a, b)) == pytest.approx(0.003, rel=1e-3)


@pytest.mark.parametrize("name, order", [("Al", 24), ("LiNiO2", 6), ("ZrO2", 2)])
def test_grid_of_zone_axes_covers_the_sphere_once(name, order):
    resolution, p = 4.0, phase(name)
    grid = symmetry.reduced_grid(p, resolution)
    euler = Rotation(grid.numpy()).to_euler()
    euler = euler[np.sin(euler[:, 1]) > 1e-3]  # at the poles only the sum of two angles is known
    np.testing.assert_allclose(np.cos(euler[:, 0]), 1, atol=1e-6)
    axes = rotations.zone_axes(grid)
    anywhere = rotations.zone_axes(rotations.random_rotations(2000, torch.Generator().manual_seed(0)))
    operations = rotations.to_matrix(symmetry.proper_operations(p))
    alike = torch.einsum("sij,nj->nsi", operations, anywhere)
    distance = torch.rad2deg(torch.acos((alike @ axes.T).amax((1, 2)).clamp(-1, 1)))
    assert distance.max() < resolution / np.sqrt(2) * 1.05
    # and not much more than once: its borders count for several sectors
    assert len(grid) < 2.2 * (4 * np.pi / order) / np.deg2rad(resolution) ** 2


def test_random_rotations_are_uniform_and_seeded():
    q = rotations.random_rotations(4000, torch.Generator().manual_seed(3))
    torch.testing.assert_close(q, rotations.random_rotations(4000, torch.Generator().manual_seed(3)))
    # E(q q^T) = 1/4
    torch.testing.assert_close(q.T @ q / 4000, torch.eye(4) / 4, atol=0.02, rtol=0)


@pytest.mark.parametrize("name", ["Al", "Mg", "LiNiO2", "ZrO2", "P312", "Pm"])
def test_operations_map_reflections_onto_reflections_of_the_same_strength(name):
    """The space group's operations on the lattice: 2/m with b unique, and P312, are not in orix' setting."""
    from diffpy.structure import Atom, Lattice, Structure
    from orix.crystal_map import Phase
    from sample_phases import phase as sample

    from pyxem_dl.crystals import load_phases, reflections

    own = {
        "P312": (149, (4.0, 4.0, 6.0, 90, 90, 120)),
        "Pm": (6, (4.0, 5.0, 6.0, 90, 105, 90)),
    }
    if name in own:
        number, cell = own[name]
        atoms = [Atom("Ti", [0.13, 0.29, 0.17]), Atom("O", [0.41, 0.13, 0.31])]
        (phase,) = load_phases(Phase(name, space_group=number, structure=Structure(atoms, Lattice(*cell))))
    else:
        phase = sample(name)
    found = reflections(phase, 0.9)
    for operation in symmetry.proper_operations(phase):
        moved = found.g @ rotations.to_matrix(operation).T
        distance, partner = torch.cdist(moved, found.g).min(dim=1)
        assert float(distance.max()) < 2e-3
        difference = (found.structure_factor[partner] - found.structure_factor).abs()
        assert float(difference.max()) < 1e-2 * float(found.structure_factor.max())


def test_any_matrix_has_a_nearest_rotation():
    matrix = torch.randn(100, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    found = rotations.nearest_rotation(matrix)
    torch.testing.assert_close(torch.linalg.det(found), torch.ones(100, dtype=torch.double))
    others = rotations.to_matrix(rotations.random_rotations(500).double())
    distance = (matrix[:, None] - others).square().sum((-1, -2)).amin(1)
    assert (distance >= (matrix - found).square().sum((-1, -2)) - 1e-9).all()
    few = matrix[:4].clone().requires_grad_()
    assert torch.autograd.gradcheck(rotations.nearest_rotation, (few,))


def test_six_numbers_make_the_rotation_whose_columns_they_are(q):
    matrix = rotations.to_matrix(q)
    six = torch.cat([2.5 * matrix[..., 0], matrix[..., 1] + 0.3 * matrix[..., 0]], dim=-1)
    torch.testing.assert_close(rotations.from_six(six), matrix)


def test_half_turns_come_back_from_their_matrices():
    axis = torch.nn.functional.normalize(torch.randn(100, 3, generator=torch.Generator().manual_seed(5)), dim=1)
    q = torch.cat([torch.zeros(100, 1), axis], dim=1)
    found = rotations.from_matrix(rotations.to_matrix(q))
    torch.testing.assert_close((found * q).sum(-1).abs(), torch.ones(100))


@pytest.mark.parametrize("group", ["m-3m", "-3m"])
def test_the_mean_of_answers_sees_through_the_symmetry(group):
    generator = torch.Generator().manual_seed(3)
    operations = symmetry.proper_operations(symmetry.laue_group(group))
    truth = rotations.random_rotations(40, generator)
    error = rotations.exponential(0.03 * torch.randn(40, 15, 3, generator=generator))
    samples = rotations.multiply(truth[:, None], error)
    which = torch.randint(len(operations), (40, 15), generator=generator)
    mean, apart = symmetry.consensus(rotations.multiply(operations[which], samples), operations)
    angle = symmetry.disorientation_angle(mean, truth, operations)
    assert torch.rad2deg(angle).max() < 3 * 3 * 0.03 * 57 / 15**0.5
    assert torch.rad2deg(apart.square().mean(1).sqrt()).mean() == pytest.approx(57.3 * 0.03 * 3**0.5, rel=0.1)
    # what has no weight does not count
    samples[:, 3] = rotations.random_rotations(40, generator)
    weights = torch.ones(40, 15)
    weights[:, 3] = 0
    again, _ = symmetry.consensus(samples, operations, weights)
    assert torch.rad2deg(symmetry.disorientation_angle(again, truth, operations)).max() < 5
    # nor does what is far away from most, however sure it is
    again, apart = symmetry.consensus(samples, operations, 1 + 4 * (weights == 0))
    assert torch.rad2deg(symmetry.disorientation_angle(again, truth, operations)).max() < 5
    np.testing.assert_allclose(
        apart[:, 3], symmetry.disorientation_angle(again, samples[:, 3], operations), atol=1e-5
    )
