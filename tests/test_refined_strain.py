"""Strain that is refined with orientation and thickness, of deformed crystals that another code simulates."""

import numpy as np
import pytest
import torch
from orix.crystal_map import CrystalMap, PhaseList
from orix.quaternion import Rotation
from test_refinement import CALIBRATION, PHASES, RADIUS, SEMIANGLE, off, turned

import pyxem_dl
from pyxem_dl.electrons import electron_wavelength
from pyxem_dl.refinement import Physics, Refiner
from pyxem_dl.refinement.fitting import Given
from pyxem_dl.refinement.places import Places
from pyxem_dl.refinement.strain import _deformed, refine_strained
from pyxem_dl.rotations import random_rotations, rotate_in_plane
from pyxem_dl.scans import make_signal
from pyxem_dl.simulation.detector import draw_beams
from pyxem_dl.simulation.many_beam import ManyBeam
from pyxem_dl.strain.deformation import strain_of

NAMES = ("e_xx", "e_yy", "e_xy")


pytestmark = pytest.mark.usefixtures("one_thread")


class Deformed(ManyBeam):
    """Crystals that are deformed."""

    gradient = None

    def choose(self, rotations):
        chosen = super().choose(rotations)
        kx, ky, error = (x.float() for x in self.deformed(chosen, rotations, self.gradient))
        return chosen._replace(kx=kx, ky=ky, excitation_error=error)


def deformed(phase, rotations, thickness, gradient, electrons=3e4, calibration=CALIBRATION, n_beams=60, n_grid=7):
    """Patterns of so many scattered electrons, with disks that are uneven within."""
    disk = SEMIANGLE / electron_wavelength(200.0)
    crystal = Deformed(phase, 200.0, 1.5, n_beams=n_beams)
    crystal.gradient = gradient
    beams = crystal(rotations.float(), thickness, disk, n_grid)
    share = beams.intensity[:, 1:].mean((2, 3)).sum(1)
    images = draw_beams(beams, (electrons / share)[:, None], calibration, disk_radius=disk, blur=0.4)
    return torch.from_numpy(np.random.default_rng(0).poisson(images.numpy()).astype(np.float32))


def gradients(n, size=0.01):
    """Deformations in the plane, turns aside, and their strain (n, 3)."""
    strain = size * torch.randn(n, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    gradient = torch.eye(3, dtype=torch.float64).repeat(n, 1, 1)
    gradient[:, [0, 1, 0, 1], [0, 1, 1, 0]] += strain[:, [0, 1, 2, 2]]
    return gradient, strain


@pytest.fixture(scope="module", params=PHASES)
def case(request):
    phase = PHASES[request.param]()
    rotations = random_rotations(8, torch.Generator().manual_seed(5))
    thickness = torch.linspace(80, 360, 8)
    gradient, strain = gradients(8)
    return phase, rotations, thickness, strain, deformed(phase, rotations, thickness, gradient)


def test_strain_orientation_and_their_errors_are_found(case):
    phase, rotations, thickness, strain, patterns = case
    refiner = Refiner(phase, CALIBRATION, Physics(RADIUS, (40.0, 420.0)))
    start = turned(rotations, 0.3)
    plain = refiner(patterns, start)
    refined, found = refine_strained(refiner, Given(patterns), start)
    known = ~found.e_xx.isnan()
    assert known.float().mean() > 0.8
    values, errors = torch.stack(found[:3], dim=1)[known], torch.stack(found[3:], dim=1)[known]
    off_by = (values - strain[known]).abs()
    assert off_by.median() < 0.0016 and off_by.median() < 0.25 * strain.abs().median()
    large = strain[known].abs() > 0.008
    assert large.sum() >= 3 and ((values * strain[known])[large] > 0).float().mean() > 0.8
    assert 0.6 < (off_by < errors).float().mean() < 0.97
    # what strain did to the orientation is undone
    assert off(refined.rotations, rotations).median() < 0.08 < off(plain.rotations, rotations).median()
    assert (off(refined.rotations, rotations) < 2 * refined.orientation_error).float().mean() > 0.7
    assert refined.misfit.median() < 0.7 * plain.misfit.median()
    assert (refined.thickness - thickness).abs().median() < 4


def test_a_larger_crystal_has_spots_that_are_nearer():
    """Signs, against the strain of the room that has it from lattices."""
    numbers = torch.tensor([[-0.02, 0.0, 0.0, 0.01, 0, 0], [0.004, 0.003, 0.009, 0.0, 0, 0]], dtype=torch.float64)
    nothing = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    known = torch.ones(2, dtype=torch.bool)
    stretch, turn, _ = _deformed(nothing, Places(numbers, torch.eye(6).double(), torch.ones(2), known))
    gradient = np.linalg.inv(np.eye(2) + numbers[:, :4].numpy().reshape(2, 2, 2)).swapaxes(1, 2)
    expected = strain_of(gradient)
    assert expected.xx[0] > 0 > expected.yy[0] and expected.theta[1] > 0
    assert stretch[:, 0, 0].numpy() - 1 == pytest.approx(expected.xx)
    assert stretch[:, 1, 1].numpy() - 1 == pytest.approx(expected.yy)
    assert stretch[:, 0, 1].numpy() == pytest.approx(expected.xy) and turn.numpy() == pytest.approx(expected.theta)
    assert torch.allclose(stretch, stretch.mT)


def test_a_turn_is_no_strain(case):
    phase, rotations, thickness, _, _ = case
    patterns = deformed(phase, rotations[:4], thickness[:4], None, 1e5)
    refiner = Refiner(phase, CALIBRATION, Physics(RADIUS, (40.0, 420.0)))
    start = rotate_in_plane(rotations[:4].double(), torch.full((4,), 0.004, dtype=torch.float64))
    refined, found = refine_strained(refiner, Given(patterns), start)
    known = ~found.e_xx.isnan()
    assert known.sum() >= 3
    assert (torch.stack(found[:3], dim=1)[known].abs() < 3 * torch.stack(found[3:], dim=1)[known]).float().mean() > 0.9
    assert off(refined.rotations, rotations[:4])[known].median() < 0.08


def test_few_disks_and_disks_on_a_line_tell_no_strain(case):
    phase, rotations, thickness, _, patterns = case
    rows, columns = np.indices(CALIBRATION.shape)
    away = np.hypot(rows - 64, columns - 64)
    refiner = Refiner(phase, CALIBRATION, Physics(RADIUS, (40.0, 420.0)))
    along = np.abs(rows - 64) > 8  # a slit
    for mask in (along, away > 12):
        found = refine_strained(refiner, Given(patterns[:4], torch.from_numpy(mask)), rotations[:4])[1]
        assert torch.stack(found).isnan().float().mean() > 0.8


@pytest.mark.parametrize("case", ["LiNiO2"], indirect=True)
def test_the_verb_gives_it_and_stores_keep_it(case, tmp_path):
    phase, rotations, thickness, strain, patterns = case
    signal = make_signal(patterns[:8].reshape(2, 4, 128, 128).numpy(), CALIBRATION, "deformed")
    y, x = (each.ravel() for each in np.indices((2, 4)))
    start = Rotation(turned(rotations[:8], 0.2).numpy())
    xmap = CrystalMap(start, phase_id=np.array([0, 0, 0, -1, 0, 0, 0, 0]), x=x, y=y, phase_list=PhaseList(phase))
    given = {"thickness": (40, 420), "convergence_semi_angle": 1.5, "show_progressbar": False}
    refined = pyxem_dl.refine_orientation(signal, xmap, strain=True, **given)
    known = np.isfinite(refined.prop["e_xx"])
    assert known.sum() >= 5 and not known[3]
    off_by = np.stack([refined.prop[name] for name in NAMES], axis=1)[known] - strain[:8].numpy()[known]
    assert np.median(np.abs(off_by)) < 0.002
    pyxem_dl.refine_orientation(signal, xmap, strain=True, output=tmp_path / "refined.zarr", **given)
    stored = pyxem_dl.results.open_result(tmp_path / "refined.zarr")
    for name in NAMES:
        assert np.allclose(stored.prop[name], refined.prop[name], equal_nan=True)
        assert np.allclose(stored.prop[f"{name}_error"], refined.prop[f"{name}_error"], equal_nan=True)
    # without it there is none, not even that of an earlier map
    again = pyxem_dl.refine_orientation(signal, refined, **given)
    assert not set(NAMES) & set(again.prop)
    with pytest.raises(TypeError, match="strain"):
        pyxem_dl.refine_orientation(signal, xmap, strain="yes")
