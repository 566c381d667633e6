"""Labels: read, checked, chosen, balanced, and divided."""

import numpy as np
import pytest
import torch
from diffpy.structure import Lattice, Structure
from orix.crystal_map import CrystalMap, Phase, PhaseList
from orix.quaternion import Rotation

from pyxem_dl import metrics, rotations as rot
from pyxem_dl.results import labels as lab
from pyxem_dl.results.maps import save_map


def make_map(shape=(12, 15), seed=0, phase_id=None, phase=None, **prop):
    n = shape[0] * shape[1]
    row, column = np.indices(shape).reshape(2, -1)
    phase = phase or Phase("LiNiO2", point_group="-3m")
    return CrystalMap(
        rotations=Rotation.random(n) if seed is None else Rotation(np.random.default_rng(seed).normal(size=(n, 4))),
        phase_id=np.zeros(n, int) if phase_id is None else phase_id,
        x=column * 1.0, y=row * 1.0, phase_list=PhaseList(phases=[phase], ids=[0]), prop=prop, scan_unit="nm",
    )  # fmt: skip


def test_labels_are_the_best_orientations_in_data_order():
    phase_id = np.zeros(180, int)
    phase_id[5] = -1
    xmap = make_map(phase_id=phase_id, scores=np.arange(180.0), reliability=np.full(180, 0.5))
    xmap.is_in_data[7] = False
    found = lab.Labels.from_map(xmap)
    assert found.shape == (12, 15)
    assert found.phase_id[5] == -1 and (np.delete(found.phase_id, 5) == 0).all()
    assert not found.known[7] and found.known.sum() == 179
    np.testing.assert_array_equal(found.scores, np.arange(180))
    np.testing.assert_allclose(found.rotations, xmap._rotations.data.reshape(-1, 4))


def test_maps_without_scores_have_none():
    found = lab.Labels.from_map(make_map())
    assert np.isnan(found.scores).all()
    with pytest.raises(ValueError, match="have no scores"):
        lab.choose_labels(found, min_score=0.3)
    assert lab.choose_labels(found).all()


def test_confident_labels_are_chosen_and_positions_without_a_crystal_stay():
    phase_id = np.zeros(180, int)
    phase_id[:10] = -1
    scores = np.linspace(0, 1, 180)
    found = lab.Labels.from_map(make_map(phase_id=phase_id, scores=scores, reliability=1 - scores))
    kept = lab.choose_labels(found, min_score=0.5, min_reliability=0.25)
    assert kept[:10].all()
    np.testing.assert_array_equal(kept[10:], ((scores >= 0.5) & (1 - scores >= 0.25))[10:])


@pytest.mark.parametrize("suffix", [".h5", ".ang"])
def test_files_come_back_as_they_were(tmp_path, suffix, capsys):
    xmap = make_map(scores=np.linspace(0, 1, 180))
    save_map(tmp_path / f"labels{suffix}", xmap)
    found = lab.read_labels(tmp_path / f"labels{suffix}")
    angle = metrics.disorientation(found, xmap.rotations, Phase(point_group="-3m"))
    assert angle.max() < 0.01
    np.testing.assert_allclose(lab.Labels.from_map(found).scores, np.linspace(0, 1, 180), atol=1e-3)
    said = capsys.readouterr().out
    assert ("Bunge's, lab to crystal" in said) == (suffix == ".ang")


ASTAR = """# File created from ACOM RES results
# ni-dislocations.res
#
# MaterialName      aluminium
# Formula
# Symmetry          43
# LatticeConstants  4.050  4.050  4.050  90.000  90.000  90.000
# NumberFamilies     4
# GRID: SqrGrid
# XSTEP: 2.0
# YSTEP: 2.0
# NCOLS_ODD: 3
# NROWS: 2
"""
CTF = """Channel Text File
Prj\tunnamed
Author\t[Unknown]
JobMode\tGrid
XCells\t3
YCells\t2
XStep\t2.0
YStep\t2.0
AcqE1\t0
AcqE2\t0
AcqE3\t0
Euler angles refer to Sample Coordinate system (CS0)!
Phases\t1
4.050;4.050;4.050\t90;90;90\taluminium\t11\t225
Phase\tX\tY\tBands\tError\tEuler1\tEuler2\tEuler3\tMAD\tBC\tBS
"""


@pytest.mark.parametrize("program", ["ASTAR", "CTF"])
def test_files_of_other_programs_are_read(tmp_path, program, capsys):
    """Bunge's angles in radians with the correlation index, and in degrees, of an f.c.c. metal."""
    rows, angles = [], np.random.default_rng(0).uniform([0, 0.1, 0], [6.2, 3, 6.2], (6, 3))
    for i, (phi1, Phi, phi2) in enumerate(angles):
        x, y = 2.0 * (i % 3), 2.0 * (i // 3)
        if program == "ASTAR":
            rows.append(f"  {phi1:.5f}  {Phi:.5f}  {phi2:.5f}  {x:.3f}  {y:.3f}  {100 + i:.1f}  0.{i}50  1  5")
        else:
            euler = "\t".join(f"{angle:.4f}" for angle in np.rad2deg((phi1, Phi, phi2)))
            rows.append(f"1\t{x:.4f}\t{y:.4f}\t6\t0\t{euler}\t0.5\t100\t50")
    path = tmp_path / {"ASTAR": "labels.ang", "CTF": "labels.ctf"}[program]
    path.write_text({"ASTAR": ASTAR, "CTF": CTF}[program] + "\n".join(rows) + "\n")
    found = lab.Labels.from_map(lab.read_labels(path))
    assert found.shape == (2, 3) and (found.phase_id == 0).all()
    assert found.phases[0].point_group.laue.name == "m-3m"
    angle = metrics.disorientation(Rotation(found.rotations), Rotation.from_euler(angles), found.phases[0])
    assert angle.max() < 0.01
    if program == "ASTAR":
        np.testing.assert_allclose(found.scores, 100 + np.arange(6))
        np.testing.assert_allclose(found.reliability, 0.05 + 0.1 * np.arange(6))
    assert "Bunge" in capsys.readouterr().out


def test_another_convention_is_undone():
    ours = make_map()
    # the same crystals, described in a frame whose x axis points up in the pattern, and the other way round
    in_theirs = ~(ours.rotations * Rotation.from_axes_angles([0, 0, 1], np.deg2rad(-90)))
    theirs = ours.deepcopy()
    theirs._rotations = in_theirs
    options = {
        (inverse, turn): metrics.disorientation(
            lab.in_lab_frame(theirs, inverse=inverse, turn=turn), ours
        ).max()
        for inverse in (False, True) for turn in (0, 90, 180, 270)
    }  # fmt: skip
    right = min(options, key=options.get)
    assert options[right] < 0.01 and right[0]
    assert right[1] in (90, 270)
    assert sorted(options.values())[1] > 20


def test_crystal_axes_along_reciprocal_ones_are_turned_to_those_of_orix():
    """Of a trigonal, a monoclinic and a cubic crystal: directions and reciprocal vectors stay where they are."""
    lattices = {
        "-3m": Lattice(2.88, 2.88, 14.2, 90, 90, 120), "2/m": Lattice(5.0, 3.0, 6.0, 90, 108, 90),
        "m-3m": Lattice(4, 4, 4, 90, 90, 90),
    }  # fmt: skip
    for group, lattice in lattices.items():
        phase = Phase("crystal", point_group=group, structure=Structure(lattice=lattice))
        ours = make_map(phase=phase)
        base = phase.structure.lattice.base
        x = phase.structure.lattice.recbase[:, 0]
        z = base[2] / np.linalg.norm(base[2])
        x = x / np.linalg.norm(x)
        in_theirs = np.stack([x, np.cross(z, x), z])  # vectors of our frame in theirs
        turn = Rotation(rot.from_matrix(torch.as_tensor(in_theirs)[None])[0].numpy())
        theirs = ours.deepcopy()
        theirs._rotations = turn * ours._rotations
        back = lab.in_lab_frame(theirs, crystal_x="a*")
        np.testing.assert_allclose(back.rotations.to_matrix(), ours.rotations.to_matrix(), atol=1e-6)
        angle = np.rad2deg(turn.angle[0])
        assert angle == pytest.approx({"-3m": 30, "2/m": 18, "m-3m": 0}[group], abs=0.01)
        # b lies along y in the frame with x along a*, where c is perpendicular to a*
        if group == "-3m":
            np.testing.assert_allclose(in_theirs @ base[1] / 2.88, (0, 1, 0), atol=1e-6)
    with pytest.raises(ValueError, match="'a' or 'a\\*'"):
        lab.in_lab_frame(make_map(), crystal_x="b")


def test_the_crystal_axes_of_labels_are_found_on_the_patterns():
    from pyxem_dl import data

    phase = data.lithium_nickel_oxide()
    scan = data.polycrystal((8, 10), 1e5, n_grains=8, phase=phase)
    theirs = scan.truth.deepcopy()
    theirs._rotations = Rotation.from_axes_angles([0, 0, 1], np.deg2rad(-30)) * theirs._rotations
    (best, switch), *others = lab.find_label_frame(scan.signal, theirs, phase, n_patterns=40)
    assert switch["crystal_x"] == "a*" and not switch["inverse"] and not switch["flipped"]
    assert best > 1.15 * max(share for share, other in others if other["crystal_x"] == "a")


def test_the_frame_of_labels_is_found_on_the_patterns():
    from pyxem_dl import data

    scan = data.polycrystal((8, 10), 1e5, n_grains=8, phase=data.aluminium())
    theirs = scan.truth.deepcopy()
    theirs._rotations = ~(theirs._rotations * ~Rotation(lab.other_frame_quaternion(90.0, True)))
    (best, switch), *others = lab.find_label_frame(scan.signal, theirs, data.aluminium(), n_patterns=40)
    assert switch["inverse"] and switch["flipped"] and switch["turn"] in (90, 270)
    # half a turn about the beam is not to be seen
    assert best > 1.3 * max(share for share, other in others if other["turn"] % 180 != 90 or not other["flipped"])


def test_bad_files_say_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="with labels"):
        lab.read_labels(tmp_path / "none.ang")
    (tmp_path / "labels.txt").write_text("")
    with pytest.raises(ValueError, match=r"\.ang, \.ctf and \.h5"):
        lab.read_labels(tmp_path / "labels.txt")
    with pytest.raises(TypeError, match="CrystalMap"):
        lab.Labels.from_map(np.zeros(3))


def test_labels_that_teach_nothing_are_refused():
    found = lab.Labels.from_map(make_map(scores=np.linspace(0, 1, 180)))
    everything = np.ones(180, bool)
    lab.check_labels(found, (12, 15), everything)
    with pytest.raises(ValueError, match=r"shape \(12, 15\), but the scan has \(15, 12\)"):
        lab.check_labels(found, (15, 12), everything)
    with pytest.raises(ValueError, match="the scan"):
        lab.check_labels(found, (12, 16), everything)
    few = np.arange(180) < 20
    with pytest.raises(ValueError, match=r"Only 20 labels .* scores are 0.1, 0.5 and 0.9 at"):
        lab.check_labels(found, (12, 15), few)
    one = make_map()
    one._rotations = Rotation(np.tile([1.0, 0, 0, 0], (180, 1)))
    with pytest.raises(ValueError, match="the same orientation"):
        lab.check_labels(lab.Labels.from_map(one), (12, 15), everything)
    with pytest.raises(ValueError, match="no point group"):
        lab.check_labels(lab.Labels.from_map(make_map(phase=Phase("nothing"))), (12, 15), everything)


def test_the_selection_curve_knows_which_labels_are_wrong():
    truth = make_map()
    wrong = np.random.default_rng(1).random(180) < 0.4
    guess = truth.deepcopy()
    data = truth.rotations.data.reshape(-1, 4).copy()
    data[wrong] = np.random.default_rng(2).normal(size=(wrong.sum(), 4))
    guess = make_map(scores=np.where(wrong, 0.2, 0.8) + 0.1 * np.random.default_rng(3).random(180))
    guess._rotations = Rotation(data)
    curve = lab.selection_curve(guess, truth)
    assert curve.kept[0] == 1 and (np.diff(curve.kept) <= 0).all()
    assert curve.agreement[0] == pytest.approx(1 - wrong.mean(), abs=0.03)
    assert curve.agreement[-1] == 1


def test_small_grains_are_drawn_more_often():
    q = np.tile([1.0, 0, 0, 0], (180, 1))
    q[:30] = Rotation.from_axes_angles([1, 0, 0], np.deg2rad(35)).data
    xmap = make_map()
    xmap._rotations = Rotation(q)
    found = lab.Labels.from_map(xmap)
    for exponent, expected in ((0, 30 / 180), (1, 0.5), (0.5, 30**0.5 / (30**0.5 + 150**0.5))):
        weights = lab.balance_weights(found, np.arange(180), exponent)
        assert weights.sum() == pytest.approx(1)
        assert weights[:30].sum() == pytest.approx(expected)


def test_regions_are_held_out_with_a_border_around_them():
    usable = np.ones(40 * 50, bool)
    everywhere, _ = lab.hold_out_region((40, 50), usable, 0.2, seed=3)
    usable[np.flatnonzero(everywhere)[:40]] = False
    held_out, border = lab.hold_out_region((40, 50), usable, 0.2, seed=3)
    assert (held_out & ~usable).any()  # what does not count in a region is not left to be trained on
    assert 0.15 < held_out.mean() < 0.3
    assert not (held_out & border).any()
    image = held_out.reshape(40, 50)
    # no pattern that is trained on touches one that is held out
    rest = ~(held_out | border).reshape(40, 50)
    for shift in ((1, 0), (0, 1), (1, 1), (1, -1)):
        moved = np.roll(image, shift, (0, 1))[1:-1, 1:-1]
        assert not (moved & rest[1:-1, 1:-1]).any()


def test_a_scan_too_small_for_regions_holds_out_positions():
    with pytest.warns(UserWarning, match="too small"):
        held_out, border = lab.hold_out_region((3, 3), np.ones(9, bool), 0.5, seed=0)
    assert 0 < held_out.sum() < 9 and not border.any()


def test_patterns_of_lazy_and_eager_scans_are_the_same(rng):
    import dask.array as da

    data = rng.integers(0, 9, (6, 7, 4, 5))
    at = np.array([0, 8, 9, 41])
    expected = data.reshape(-1, 4, 5)[at]
    np.testing.assert_array_equal(lab.read_patterns(data, at), expected)
    np.testing.assert_array_equal(lab.read_patterns(da.from_array(data, chunks=(2, 3, 4, 5)), at), expected)
