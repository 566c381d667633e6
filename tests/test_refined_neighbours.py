"""Refinement that neighbours temper, of patterns that the slices of another code made."""

import math

import numpy as np
import pytest
import torch
from orix.crystal_map import CrystalMap, PhaseList
from orix.quaternion import Rotation
from test_refinement import CALIBRATION, PHASES, off, simulated, turned

import pyxem_dl
from pyxem_dl.refinement.neighbours import told_by_neighbours
from pyxem_dl.rotations import exponential, multiply, random_rotations, rotate_in_plane
from pyxem_dl.scans import make_signal
from pyxem_dl.symmetry import proper_operations

GIVEN = {"thickness": (40, 360), "convergence_semi_angle": 1.5, "show_progressbar": False}
SHAPE = (4, 6)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=PHASES)
def grains(request):
    """Two grains beside each other, the right one bent and thicker; few electrons."""
    phase = PHASES[request.param]()
    both = random_rotations(2, torch.Generator().manual_seed(12)).double()
    y, x = (torch.from_numpy(each.ravel()) for each in np.indices(SHAPE))
    is_right = x > 2
    bent = torch.deg2rad(torch.stack([0.03 * (x - 3), 0.015 * y, 0.0 * x], dim=1)) * is_right[:, None]
    truth = multiply(both[is_right.long()], exponential(bent))
    thickness = 120 + 4.0 * y + 60 * is_right
    patterns = simulated(phase, truth, thickness.float(), electrons=1e3)
    signal = make_signal(patterns.reshape(*SHAPE, 128, 128).numpy(), CALIBRATION, "two grains")
    # in any of the symmetric settings
    copies = proper_operations(phase).double()
    start = multiply(copies[torch.arange(24) % len(copies)], turned(truth, 0.3))
    xmap = CrystalMap(
        Rotation(start.numpy()), phase_id=np.zeros(24, dtype=int), x=x.numpy(), y=y.numpy(),
        phase_list=PhaseList(phase), prop={"ci": np.linspace(0, 1, 24)},
    )  # fmt: skip
    return phase, signal, xmap, truth, thickness, is_right


def errors(refined, truth, phase):
    """Degrees from the truth."""
    return pyxem_dl.metrics.disorientation(refined, Rotation(truth.numpy()), phase)


def test_neighbours_make_it_better_and_no_boundary_moves(grains):
    phase, signal, xmap, truth, thickness, is_right = grains
    alone = pyxem_dl.refine_orientation(signal, xmap, **GIVEN)
    refined = pyxem_dl.refine_orientation(signal, xmap, neighbours=True, **GIVEN)
    own, found = (errors(each, truth, phase) for each in (alone, refined))
    assert np.median(found) < 0.85 * np.median(own) and found.mean() < 0.85 * own.mean()
    assert (found < 2 * refined.prop["orientation_error"]).mean() > 0.8
    assert np.all(found < 0.7) and refined.prop["refined"].all()
    told = refined.prop["neighbours"].reshape(SHAPE)
    # of the own grain, though the other one is beside it
    assert told[1].tolist() == [5, 8, 5, 5, 8, 5] and told[0].tolist() == [3, 5, 3, 3, 5, 3]
    off_by = np.abs(refined.prop["thickness"] - thickness.numpy())
    assert np.median(off_by) < 4 and np.sum(off_by**2) < np.sum((alone.prop["thickness"] - thickness.numpy()) ** 2)
    # an answer that fits worse is not taken
    assert np.all(refined.prop["misfit"] < 1.2 * alone.prop["misfit"] + 1e-9)
    assert set(refined.prop) == {*alone.prop, "neighbours"} and np.allclose(refined.prop["ci"], xmap.prop["ci"])
    assert pyxem_dl.provenance(refined)["settings"]["neighbours"] is True


@pytest.mark.parametrize("grains", ["LiNiO2"], indirect=True)
def test_lines_and_single_positions_are_refined_by_themselves(grains):
    phase, signal, xmap, *_ = grains
    for s, part in ((signal.inav[:, 1], xmap[1, :]), (signal.inav[2, :], xmap[:, 2]), (signal.inav[1, 1], xmap[1, 1])):
        alone = CrystalMap(
            part.rotations, phase_id=part.phase_id, x=np.arange(part.size, dtype=float), phase_list=PhaseList(phase)
        )
        refined = pyxem_dl.refine_orientation(s, alone, neighbours=True, **GIVEN)
        assert refined.prop["neighbours"].tolist() == [0] * part.size and refined.prop["refined"].all()
        expected = pyxem_dl.refine_orientation(s, alone, **GIVEN)
        assert np.allclose(refined.rotations.data, expected.rotations.data)


@pytest.mark.parametrize("grains", ["MgO"], indirect=True)
def test_holes_empty_patterns_lazy_signals_strain_and_stores(grains, tmp_path):
    phase, signal, xmap, *_ = grains
    broken = signal.deepcopy()
    broken.data = np.array(broken.data)
    broken.data[1, 1] = 0
    there = CrystalMap(
        xmap.rotations, phase_id=np.where(np.arange(24) == 5, -1, 0), x=xmap.x, y=xmap.y, phase_list=PhaseList(phase),
        is_in_data=~np.isin(np.arange(24), [0, 10]),
    )  # fmt: skip
    refined = pyxem_dl.refine_orientation(broken, there, neighbours=True, strain=True, **GIVEN)
    number = dict(zip(refined.id, refined.prop["neighbours"]))
    assert refined.size == 22 and {0, 10}.isdisjoint(number)
    # a hole and an empty pattern say nothing; those that are not indexed are told nothing
    assert number[5] == 0 and number[13] == 7 and number[16] == 7 and number[7] == 7
    assert number[4] == 3 and number[6] == 3
    empty = refined.id == 7
    assert not refined.prop["refined"][empty] and np.isnan(refined.prop["thickness"][empty])
    lazy = broken.as_lazy()
    path = tmp_path / "refined.zarr"
    pyxem_dl.refine_orientation(lazy, there, neighbours=True, strain=True, output=path, **GIVEN)
    stored = pyxem_dl.results.open_result(path)
    assert np.allclose(stored.rotations.data, refined.rotations.data, atol=1e-5)
    assert set(stored.prop) == set(refined.prop) >= {"neighbours", "e_xx"}
    for name in ("thickness", "neighbours", "e_xx", "e_xx_error"):
        assert np.allclose(stored.prop[name], refined.prop[name], atol=0.05, equal_nan=True)
    # one that is refined by itself has none, not even those of an earlier map
    assert "neighbours" not in pyxem_dl.refine_orientation(broken, refined, **GIVEN).prop


@pytest.mark.parametrize("grains", ["LiNiO2"], indirect=True)
def test_prediction_takes_it_and_other_types_are_refused(grains):
    phase, signal, xmap, *_ = grains
    part = signal.inav[:3, :3]
    settings = {"neighbours": True, "thickness": (40, 360)}
    refined = part.predict_orientation(phases=phase, refine=settings, show_progressbar=False)
    assert refined.rotations.shape == (9,) and refined.prop["neighbours"].max() <= 8
    assert {"thickness", "score", "candidate"} <= set(refined.prop)
    with pytest.raises(TypeError, match="neighbours must be True or False"):
        pyxem_dl.refine_orientation(signal, xmap, neighbours="yes")
    with pytest.raises(TypeError, match="neighbours must be True or False"):
        pyxem_dl.refine_orientation(signal, xmap, neighbours=8)


@pytest.mark.parametrize("name", PHASES)
def test_what_neighbours_say(name):
    """Symmetric settings are one orientation, the mean is robust; twins, other phases and what is unknown are none."""
    phase = PHASES[name]()
    truth = random_rotations(1, torch.Generator().manual_seed(3)).double()
    rotations = truth.repeat(9, 1)
    copies = proper_operations(phase).double()
    rotations = multiply(copies[torch.arange(9) % len(copies)], rotations)
    rotations[0] = turned(rotations[:1], 2.0)[0]  # is off by itself
    error, depth = torch.full((9,), 0.1, dtype=torch.float64), torch.full((9,), 150.0, dtype=torch.float64)
    depth[0] = 300
    given = {"rotations": rotations, "phase": np.zeros(9, dtype=int), "phases": [phase, phase]}
    told = told_by_neighbours((3, 3), error, depth, 0 * depth + 5, **given)
    assert told.count.tolist() == [3, 5, 3, 5, 8, 5, 3, 5, 3]
    assert off(told.prior.rotations[4:5], rotations[4:5]) < 0.05 and off(told.prior.rotations[:1], rotations[:1]) > 1.9
    assert told.prior.thickness[4].item() == pytest.approx(150, abs=1)
    assert 0.05 <= told.prior.tilt_error[4] < 0.5 and (told.prior.thickness_error >= 10).all()
    # in the setting of the position itself
    assert torch.allclose(told.prior.rotations[0], turned(rotations[:1], 0.0)[0], atol=0.04)
    rotations[1] = rotate_in_plane(rotations[1:2], torch.tensor([math.pi], dtype=torch.float64))[0]
    given["phase"][2], given["phase"][3], error[5] = 1, -1, math.nan
    told = told_by_neighbours((3, 3), error, depth, 0 * depth + 5, **given)
    assert told.count[4] == 4 and told.count[8] == 0 and told.count[3] == 0
    assert told_by_neighbours((), error[:1], depth[:1], depth[:1], **given | {
        "rotations": rotations[:1], "phase": given["phase"][:1]
    }).count.tolist() == [0]  # fmt: skip
