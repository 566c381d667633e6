"""Boxes cut out of crystals: every atom where orix says, none twice and none missing."""

import numpy as np
import pytest
from orix.quaternion import Rotation
from orix.vector import Vector3d
from sample_phases import cell_atoms, phase

from pyxem_dl.frames import lab_to_box
from pyxem_dl.simulation.cells import cut_cell, periodic_box, tilted, zone_axis_rotation


def by_hand(name, rotation, box, origin):
    """All atoms of a large block of unit cells, turned by orix one by one; those inside of the box."""
    elements, xyz, _, _ = cell_atoms(name)
    lattice = phase(name).structure.lattice
    n = np.arange(-14, 15)
    cells = np.stack(np.meshgrid(n, n, n, indexing="ij"), -1).reshape(-1, 1, 3)
    places = (cells + xyz - origin).reshape(-1, 3) @ lattice.base
    lab = (~Rotation(rotation) * Vector3d(places)).data.reshape(-1, 3)
    inside = lab_to_box(lab) + np.array([box[0] / 2, box[1] / 2, 0])
    keep = ((inside >= 0) & (inside < box)).all(axis=1)
    return np.tile(elements, len(cells))[keep], inside[keep]


@pytest.mark.parametrize("name", ["Al", "LiNiO2", "ZrO2"])
@pytest.mark.parametrize("seed", [0, 1])
def test_atoms_are_where_orix_turns_them(name, seed):
    generator = np.random.default_rng(seed)
    rotation, origin = Rotation.random().data[0], generator.random(3)
    box = (13.0, 9.5, 17.0)
    cell = cut_cell(phase(name), rotation, box[:2], box[2], origin=origin)
    elements, places = by_hand(name, rotation, box, origin)
    assert cell.box == box and len(cell) == len(places)
    distance = np.linalg.norm(cell.positions[:, None] - places, axis=2)
    nearest = distance.argmin(axis=1)
    assert distance.min(axis=1).max() < 1e-6 and len(set(nearest)) == len(cell)
    assert (cell.elements == elements[nearest]).all()
    assert (np.diff(cell.positions[:, 2]) >= 0).all()


def test_the_beam_meets_first_what_is_nearest_to_the_source():
    # the zone axis points at the source: along it the depth falls
    lno = phase("LiNiO2")
    rotation = zone_axis_rotation(lno, [0, 0, 1])
    cell = cut_cell(lno, rotation, (2.0, 2.0), 14.0)
    on_axis = cell.positions[np.linalg.norm(cell.positions[:, :2] - 1, axis=1) < 0.1]
    # (0, 0, z) going down from the origin: Ni at 0, O at -0.242, ...
    z = (-on_axis[:, 2] / 14.19) % 1
    assert cell.elements[0] == "Ni" and np.isclose(z, 1 - 0.242, atol=1e-6).any()


@pytest.mark.parametrize("name, axis", [("Al", [0, 0, 1]), ("Al", [1, 1, 0]), ("LiNiO2", [0, 0, 1]), ("Mg", [1, 0, 0])])
def test_periodic_boxes_tile_without_a_seam(name, axis):
    crystal = phase(name)
    rotation, box = periodic_box(crystal, axis, 12.0)
    assert min(box) >= 12.0
    thickness = 40.0
    cell = cut_cell(crystal, rotation, box, thickness)
    wide = cut_cell(crystal, rotation, (3 * box[0], 3 * box[1]), thickness)
    # the middle one of three by three is where the single one is
    shifted = np.concatenate([
        cell.positions + (i * box[0], j * box[1], 0) for i in range(3) for j in range(3)
    ])  # fmt: skip
    assert len(wide) == 9 * len(cell)
    assert np.abs(np.sort(shifted.sum(axis=1)) - np.sort(wide.positions.sum(axis=1))).max() < 1e-3
    towards = (~Rotation(rotation) * Vector3d(np.array(axis) @ crystal.structure.lattice.base)).data.ravel()
    np.testing.assert_allclose(towards / np.linalg.norm(towards), [0, 0, 1], atol=1e-9)


def test_an_axis_without_a_right_angled_period_says_so():
    with pytest.raises(ValueError, match="no right-angled period.*cut_cell with zone_axis_rotation"):
        periodic_box(phase("ZrO2"), [1, 1, 1], 20.0)


def test_zone_axes_stand_along_z_and_turn_in_the_plane():
    for name, axis in (("Al", [1, 1, 2]), ("LiNiO2", [2, 1, 1]), ("ZrO2", [1, 0, 1])):
        crystal = phase(name)
        lattice = crystal.structure.lattice
        direct = zone_axis_rotation(crystal, axis)
        turned = zone_axis_rotation(crystal, axis, 30.0)
        for rotation in (direct, turned):
            lab = (~Rotation(rotation) * Vector3d(np.array(axis) @ lattice.base)).data.ravel()
            np.testing.assert_allclose(lab[:2] / np.linalg.norm(lab), 0, atol=1e-9)
            assert lab[2] > 0
        g = np.array([1, 2, -0.5])
        before, after = ((~Rotation(q) * Vector3d(g)).data.ravel() for q in (direct, turned))
        angle = np.angle(complex(*after[:2]) / complex(*before[:2]), deg=True)
        np.testing.assert_allclose(angle, 30.0, atol=1e-6)


def test_what_pointed_at_the_source_leans_to_the_azimuth():
    crystal = phase("LiNiO2")
    axis = np.array([1, 1, 1]) @ crystal.structure.lattice.base
    rotation = tilted(zone_axis_rotation(crystal, [1, 1, 1]), 3.0, 40.0)
    x, y, z = (~Rotation(rotation) * Vector3d(axis / np.linalg.norm(axis))).data.ravel()
    np.testing.assert_allclose(np.degrees([np.arccos(z), np.arctan2(y, x)]), [3.0, 40.0], atol=1e-6)


def test_partly_filled_sites_keep_their_occupancy():
    cell = cut_cell(phase("MgFeO"), [1, 0, 0, 0], (20.0, 20.0), 20.0)
    for element, occupancy in (("Mg", 0.5), ("Fe", 0.4), ("O", 1.0)):
        assert set(cell.occupancy[cell.elements == element]) == {occupancy}


@pytest.mark.parametrize(
    "arguments, match",
    [
        (([1, 0, 0, 0], (0.0, 10.0), 10.0), "box must be a number above 0"),
        (([1, 0, 0, 0], (10.0, 10.0), np.nan), "thickness must be a number above 0"),
        (([1, 0, 0], (10.0, 10.0), 10.0), "rotation must be one quaternion"),
        (([1, 0, 0, 0], (1e4, 1e4), 1e4), "check the unit of the cell"),
        (([1, 0, 0, 0], (0.2, 0.2), 0.2, (0.3, 0.1, 0.2)), "There is no atom"),
    ],
)
def test_impossible_boxes_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        cut_cell(phase("Al"), *arguments[:3], **({"origin": arguments[3]} if len(arguments) > 3 else {}))


def test_zone_axes_are_three_numbers():
    with pytest.raises(ValueError, match="three numbers"):
        zone_axis_rotation(phase("Al"), [0, 0, 0])
