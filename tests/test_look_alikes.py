"""Orientations that fit alike, and what their faint disks tell of them."""

import math

import numpy as np
import pytest
import torch
from orix.crystal_map import CrystalMap, PhaseList
from orix.quaternion import Rotation

import pyxem_dl
from pyxem_dl import data
from pyxem_dl.electrons import electron_wavelength
from pyxem_dl.frames import Calibration
from pyxem_dl.metrics import disorientation
from pyxem_dl.refinement import Physics, Refiner
from pyxem_dl.refinement.regions import Regions
from pyxem_dl.rotations import exponential, misorientation_angle, multiply, random_rotations, zone_axes
from pyxem_dl.symmetry import disorientation_angle, proper_operations

CALIBRATION = Calibration((0.02, 0.02), (32.0, 32.0), (64, 64), 200.0)
PHASES = {"Al": data.aluminium, "LiNiO2": data.lithium_nickel_oxide}


# ---------------------------------------------------------------- regions
def test_a_pattern_is_shared_out_among_its_disks():
    patterns = torch.zeros(1, 64, 64)
    patterns[0, 32, 32], patterns[0, 32, 48], patterns[0, 31, 48], patterns[0, 20, 32] = 900, 50, 7, 30
    patterns[0, 5, 5] = 4  # where no disk is expected
    kx, ky = torch.tensor([[0, 0.32, 0.32, 0, 0.0]]), torch.tensor([[0, 0, 0.01, 0.24, -0.24]])
    expected = torch.tensor([[800.0, 40, 20, 25, 0.1]])
    regions = Regions.of(patterns, kx, ky, expected, CALIBRATION, 2.0)
    # the third disk shares the region of the second one, the last is too faint; the direct beam takes no part
    assert regions.used.tolist() == [[False, True, True, False, False]]
    assert regions.electrons[0, :3].tolist() == [900, 57, 30]
    share = regions.shares(kx, ky, (64, 64), CALIBRATION, 2.0)[0]
    assert share[1, 1] == pytest.approx(1, abs=1e-5) and share[2, 1] == pytest.approx(1, abs=1e-5)
    assert share[3, 2] == pytest.approx(1, abs=1e-5) and share[4].sum() == share[0].sum() == 0


def test_pixels_are_nearer_to_their_own_disk_and_masked_ones_are_in_none():
    kx, ky = torch.tensor([[0.0, 0.3, 0.4]]), torch.zeros(1, 3)
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[30] = True
    patterns = torch.ones(1, 64, 64)
    regions = Regions.of(patterns, kx, ky, torch.tensor([[90.0, 20, 10]]), CALIBRATION, 3.0, signal_mask=mask)
    label = regions.label.view(64, 64)
    assert label[32, 49] == 1 and label[32, 50] == 2 and label[32, 5] == 3 and (label[30] == 3).all()
    assert regions.electrons[0].tolist() == [(label == i).sum() for i in range(3)]
    # the even background is known from where no disk is
    assert torch.allclose(regions.background[:, 1:], regions.electrons[:, 1:])


# ---------------------------------------------------------------- orientations
def refiner_of(phase, calibration=CALIBRATION):
    radius = 1.5e-3 / electron_wavelength(200.0) / calibration.scale[0]
    return Refiner(phase, calibration, Physics(radius, (40.0, 420.0)))


def near_axes(phase, refiner, n, degrees):
    """Orientations with a zone axis of low indices near the beam, and what looks like them."""
    operations, alike = proper_operations(phase).double(), refiner.look_alikes
    every = [], []
    for rotation in random_rotations(1500, torch.Generator().manual_seed(3)).double():
        angle = torch.rad2deg(torch.acos((alike._axes @ zone_axes(rotation)).abs().clamp(max=1)))
        near = alike._lengths.where(angle < 6, math.inf)
        best = near.argmin()
        if near[best] > 8 or not degrees[0] < angle[best] < degrees[1]:
            continue
        turned = multiply(torch.nn.functional.pad(alike._axes[best], (1, 0)), rotation)
        if torch.rad2deg(disorientation_angle(turned, rotation, operations)) > 15:
            every[0].append(rotation)
            every[1].append(turned)
    assert len(every[0]) >= n
    return tuple(torch.stack(each[:n]) for each in every)


@pytest.mark.parametrize("name", PHASES)
def test_what_looks_like_an_orientation_is_found(name):
    phase = PHASES[name]()
    refiner = refiner_of(phase)
    truth, turned = near_axes(phase, refiner, 4, (1, 5))
    operations = proper_operations(phase).double()
    near = multiply(truth, exponential(torch.full((4, 3), 0.004, dtype=torch.float64)))
    found = refiner.look_alikes._like(turned, near)
    assert (torch.rad2deg(disorientation_angle(found, truth, operations)) < 1e-4).all()
    # about the beam, too
    about = multiply(truth, torch.tensor([0, 0, 0, 1.0], dtype=torch.float64))
    assert (torch.rad2deg(disorientation_angle(refiner.look_alikes._like(about, near), truth, operations)) < 0.6).all()
    # where nothing is near, it stays
    far = random_rotations(4, torch.Generator().manual_seed(8)).double()
    stays = misorientation_angle(refiner.look_alikes._like(truth, far), far) < 1e-6
    assert stays.sum() >= 3


@pytest.fixture(scope="module", params=PHASES)
def case(request):
    phase = PHASES[request.param]()
    truth, turned = near_axes(phase, refiner_of(phase), 6, (1.5, 5))
    signal = pyxem_dl.simulate_patterns(
        phase, Rotation(truth.numpy()), 120, beam_energy=200, convergence_semi_angle=1.5, electrons=3e5,
        engine="bloch", seed=1,
    )  # fmt: skip
    return phase, signal, truth, turned


def refined(case, first, second, scores):
    phase, signal = case[:2]
    both = Rotation(torch.stack([first, second], 1).numpy())
    scores = {"scores": np.tile(scores, (len(first), 1))}
    xmap = CrystalMap(both, x=np.arange(len(first)), phase_list=PhaseList([phase]), prop=scores)
    return pyxem_dl.refine_orientation(signal, xmap, thickness=(40, 300), show_progressbar=False)


def test_faint_disks_tell_which_is_right(case):
    phase, _, truth, turned = case
    wrong_first, right_first = refined(case, turned, truth, (0.6, 0.4)), refined(case, truth, turned, (0.6, 0.4))
    for found in (wrong_first, right_first):
        assert (disorientation(found, truth.numpy(), phase) < 1).sum() >= 5
    won = wrong_first.prop["candidate"] == 1
    assert won.sum() >= 5 and right_first.prop["candidate"].sum() <= 1
    # the loser is behind, and scores go with their candidates
    assert np.allclose(wrong_first.prop["scores"][won], (0.4, 0.6))
    behind = Rotation(wrong_first.rotations[won, 1])
    assert np.allclose(behind.angle_with(Rotation(turned.numpy()[won])), 0, atol=1e-3)


def test_odds_that_are_high_enough_stand_against_them(case):
    phase, _, truth, turned = case
    # scores that are no probabilities say nothing of odds: only what does not fit loses
    alike = refined(case, turned, truth, (0.9, 0.8))
    compared = refined(case, turned, truth, (0.6, 0.4))
    assert alike.prop["candidate"].sum() < compared.prop["candidate"].sum()
    # less than a tenth is no rival
    assert not refined(case, turned, truth, (0.96, 0.04)).prop["candidate"].any()
