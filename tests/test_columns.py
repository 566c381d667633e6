"""Projected columns: known nets of a cubic and a trigonal crystal, their orientation, and how they are drawn."""

import numpy as np
import pytest
import sample_phases
import torch
from orix.quaternion import Rotation
from orix.vector import Vector3d

from pyxem_dl.crystals import fractional_coordinates
from pyxem_dl.simulation.columns import draw_columns, project_columns

A_AL, A_LNO = 4.05, 2.88


@pytest.mark.parametrize(
    "name, axis, lengths, angle, columns",
    [
        ("Al", (0, 0, 1), (A_AL / 2, A_AL / 2), 90, 1),
        ("Al", (1, 1, 1), (A_AL / 6**0.5, A_AL / 6**0.5), 60, 1),
        ("Al", (2, 1, 1), (A_AL / 8**0.5, A_AL / 3**0.5), 90, 1),
        ("LiNiO2", (0, 0, 1), (A_LNO / 3**0.5, A_LNO / 3**0.5), 60, 1),
        ("Mg", (0, 0, 1), (3.209, 3.209), 60, 2),
        ("Mg", (2, 1, 0), (3.209 / 2, 5.211 / 2), 90, 1),
    ],
)
def test_known_nets(name, axis, lengths, angle, columns):
    made = project_columns(sample_phases.phase(name), axis)
    a, b = made.basis
    assert np.linalg.norm(made.basis, axis=1) == pytest.approx(lengths, abs=1e-3)
    assert abs(np.rad2deg(np.arctan2(np.linalg.det(made.basis), a @ b))) == pytest.approx(angle, abs=0.01)
    assert np.linalg.det(made.basis) > 0 and abs(a[1]) < 1e-9 and a[0] > 0
    assert len(made.places) == columns and made.weights == pytest.approx(made.weights[0], rel=1e-6)


@pytest.mark.parametrize("axis", [(1, 1, 0), (1, 1, 1), (0, 0, 1), (2, 1, 1)])
def test_rounding_does_not_decide_from_which_vector_angles_are_counted(axis):
    """Along [110] of fcc two vectors are as long, and not alike: one of them is the first, whatever the last digits."""
    phase = sample_phases.phase("Al")
    expected = project_columns(phase, axis)
    for i in range(12):
        stretched = sample_phases.phase("Al")
        rng = np.random.default_rng(i)
        lattice = stretched.structure.lattice
        lattice.setLatPar(*np.array(lattice.abcABG()) * (1 + rng.normal(0, 1e-11, 6)))
        found = project_columns(stretched, axis)
        assert found.basis == pytest.approx(expected.basis, abs=1e-6)
        assert found.quaternion == pytest.approx(expected.quaternion, abs=1e-6)


@pytest.mark.parametrize(
    "name, axis", [("Al", (1, 1, 0)), ("LiNiO2", (1, 0, 0)), ("ZrO2", (1, 2, 3)), ("Al", (5, 3, 1))]
)
def test_the_orientation_brings_the_atoms_where_the_columns_are(name, axis):
    phase = sample_phases.phase(name)
    made = project_columns(phase, axis)
    to_lab = ~Rotation(made.quaternion[None])
    direction = np.array(axis) @ phase.structure.lattice.base
    along = (to_lab * Vector3d(direction[None] / np.linalg.norm(direction))).data[0]
    assert along == pytest.approx([0, 0, 1], abs=1e-6)
    for xyz in fractional_coordinates(phase.structure):
        cartesian = (xyz + (1, -1, 2)) @ phase.structure.lattice.base
        place = (to_lab * Vector3d(cartesian[None])).data[0, :2]
        apart = place @ np.linalg.inv(made.basis) - made.places
        assert np.linalg.norm((apart - np.round(apart)) @ made.basis, axis=1).min() < 0.06


def test_a_column_weighs_as_its_atoms_do():
    made = project_columns(sample_phases.phase("MgO"), (1, 0, 0))
    assert made.weights == pytest.approx([(12**1.7 + 8**1.7) / 4.217] * len(made.weights))
    other = project_columns(sample_phases.phase("MgO"), (1, 1, 0))
    assert sorted(other.weights)[-1] / sorted(other.weights)[0] == pytest.approx((12 / 8) ** 1.7)


def test_turning_is_counter_clockwise_with_y_up():
    made = project_columns(sample_phases.phase("Al"), (1, 1, 0))
    turned, _ = made.within((0, 0), 3.0, angle=90)
    straight, _ = made.within((0, 0), 3.0)
    expected = straight @ [[0, 1], [-1, 0]]
    for place in expected:
        assert np.linalg.norm(turned - place, axis=1).min() < 1e-9
    assert len(turned) == len(straight) > 3


def test_columns_are_gaussians_and_pieces_do_not_show():
    rows, columns = torch.tensor([100.0, 140.0]), torch.tensor([20.0, 31.5])
    image = draw_columns(rows, columns, torch.tensor([2.0, 1.0]), 3.0, (260, 64))
    y, x = np.indices((260, 64))
    expected = sum(
        w * np.exp(-((y - r) ** 2 + (x - c) ** 2) / 18) for r, c, w in zip((100, 140), (20, 31.5), (2, 1))
    )
    assert np.abs(image.numpy() - expected).max() < 2e-5


@pytest.mark.parametrize("axis", [(0, 0, 0), (1, 0), (0.5, 0, 0)])
def test_what_is_no_zone_axis(axis):
    with pytest.raises(ValueError, match="three whole numbers"):
        project_columns(sample_phases.phase("Al"), axis)
