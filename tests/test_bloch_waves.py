"""Bloch waves: known limits, the slices of the many-beam code, and derivatives that hold where waves are degenerate."""

import math

import numpy as np
import pytest
import torch

from pyxem_dl import data
from pyxem_dl.frames import excitation_error_after_tilt, excitation_error_in_disk
from pyxem_dl.rotations import multiply, random_rotations
from pyxem_dl.simulation.bloch_waves import BlochWaves, _Propagated
from pyxem_dl.simulation.many_beam import ManyBeam
from pyxem_dl.symmetry import proper_operations

PHASES = {"MgO": data.mgo_phase, "LiNiO2": data.lithium_nickel_oxide}
THICKNESS = torch.tensor([40.0, 200.0, 480.0])


def rotations(n=5, seed=0):
    return random_rotations(n, torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=PHASES)
def phase(request):
    return PHASES[request.param]()


def test_no_electron_is_lost_without_absorption(phase):
    found = BlochWaves(phase, 200, 1.2, n_beams=60)(rotations(), THICKNESS)
    assert found.intensity.shape == (5, 3, found.chosen.kx.shape[1])
    assert found.intensity.sum(-1).numpy() == pytest.approx(np.ones((5, 3)), abs=1e-9)
    assert not found.intensity[~found.chosen.present[:, None].expand_as(found.intensity)].any()


def test_slices_give_the_same(phase):
    """Another way to solve the same equations, to the error of its slices of 4 Å."""
    waves = BlochWaves(phase, 200, 1.2, n_beams=60)(rotations(), THICKNESS)
    for i, thickness in enumerate(THICKNESS):
        slices = ManyBeam(phase, 200, 1.2, n_beams=60)(rotations(), thickness.expand(5), 0.0, 1)
        assert torch.allclose(slices.kx, waves.chosen.kx)
        difference = (slices.intensity[..., 0, 0] - waves.intensity[:, i]).abs().max()
        assert difference < 0.015 * waves.intensity[:, i].max()


def test_all_thicknesses_at_once_are_each_by_itself(phase):
    waves = BlochWaves(phase, 300, 1.0, n_beams=30)
    together = waves(rotations(), THICKNESS).intensity
    each = [waves(rotations(), THICKNESS[i : i + 1]).intensity[:, 0] for i in range(3)]
    assert torch.allclose(together, torch.stack(each, 1))
    own = waves(rotations()[:3], THICKNESS[:, None]).intensity[:, 0]
    assert torch.allclose(own, torch.stack([together[i, i] for i in range(3)]))


def test_two_beams_are_howie_and_whelans():
    waves = BlochWaves(data.mgo_phase(), 200, 1.0, n_beams=2)
    chosen = waves.choose(rotations(20))
    coupling = waves.with_direct_beam(chosen.hkl)[:, 1].abs().double()
    error = chosen.excitation_error[:, 1].double()
    found = waves(rotations(20), THICKNESS).intensity[:, :, 1]
    effective = (error**2 + coupling**2).sqrt()[:, None]
    expected = (coupling[:, None] / effective * torch.sin(math.pi * THICKNESS.double() * effective)) ** 2
    assert torch.allclose(found, expected * chosen.present[:, 1:2], atol=1e-6)


def test_a_thin_crystal_scatters_once(phase):
    waves = BlochWaves(phase, 200, 1.0, n_beams=40)
    found = waves(rotations(), torch.tensor([1.0]))
    chosen = found.chosen
    coupling = waves.with_direct_beam(chosen.hkl).abs().double() * chosen.present
    expected = (math.pi * coupling) ** 2 * torch.sinc(chosen.excitation_error.double()) ** 2
    bright = expected[:, 1:] > 0.1 * expected[:, 1:].max()
    assert (found.intensity[:, 0, 1:] / expected[:, 1:])[bright].numpy() == pytest.approx(1, abs=0.03)


def test_symmetric_orientations_diffract_alike(phase):
    operations = proper_operations(phase).float()
    turned = multiply(operations, rotations(1))
    found = BlochWaves(phase, 200, 1.0, n_beams=40)(turned, THICKNESS)
    order = [np.lexsort((np.round(found.chosen.ky[i], 3), np.round(found.chosen.kx[i], 3))) for i in range(len(turned))]
    sorted_ = torch.stack([found.intensity[i][:, order[i]] for i in range(len(turned))])
    assert torch.allclose(sorted_, sorted_[:1].expand_as(sorted_), atol=2e-3)


def test_weak_beams_are_nearly_what_they_are_exactly():
    exact = BlochWaves(data.mgo_phase(), 200, 1.2, n_beams=60)(rotations(8), THICKNESS).intensity
    for strong, error in ((12, 0.02), (30, 0.003)):
        found = BlochWaves(data.mgo_phase(), 200, 1.2, n_beams=60, n_strong=strong)(rotations(8), THICKNESS).intensity
        assert (found - exact).abs().max() < error * exact[..., 1:].max()
        cut = BlochWaves(data.mgo_phase(), 200, 1.2, n_beams=strong)(rotations(8), THICKNESS).intensity
        n = min(cut.shape[2], strong)
        assert (found[..., :n] - exact[..., :n]).abs().mean() < (cut[..., :n] - exact[..., :n]).abs().mean()


def test_absorption_takes_electrons_away(phase):
    found = BlochWaves(phase, 200, 1.2, n_beams=60, absorption=0.1)(rotations(), THICKNESS).intensity.sum(-1)
    assert (found[:, 0] < 1).all() and (found.diff(dim=1) < 0).all() and (found > 0).all()
    none = BlochWaves(phase, 200, 1.2, n_beams=60, absorption=0.0)(rotations(), THICKNESS).intensity
    little = BlochWaves(phase, 200, 1.2, n_beams=60, absorption=1e-6)(rotations(), THICKNESS).intensity
    assert torch.allclose(little, none, atol=1e-4)


def test_derivatives_hold_where_waves_are_degenerate():
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(2, 5, 5, dtype=torch.complex128, generator=generator) / 20
    matrix[1] = torch.diag(torch.tensor([0.1, 0.1, 0.1, 0.2, 0.2])).to(matrix.dtype)
    thickness = torch.tensor([[3.0, 7.0], [5.0, 2.0]], dtype=torch.float64)

    def amplitude(matrix, thickness):
        return _Propagated.apply((matrix + matrix.mH) / 2, thickness, True)[0]

    assert torch.autograd.gradcheck(amplitude, (matrix.requires_grad_(), thickness.requires_grad_()))
    lossy = matrix.detach()[:1].requires_grad_()
    assert torch.autograd.gradcheck(lambda m, t: _Propagated.apply(m, t, False)[0], (lossy, thickness[:1]))


@pytest.mark.parametrize("absorption", [0.0, 0.05])
def test_the_jacobian_is_that_of_small_differences(phase, absorption):
    waves = BlochWaves(phase, 200, 1.2, n_beams=50, absorption=absorption)
    chosen = waves.choose(rotations())
    thickness = torch.linspace(60, 400, 5, dtype=torch.float64)
    intensity, jacobian = waves.jacobian(chosen, thickness)
    amplitude = waves.amplitudes(chosen, chosen.excitation_error, thickness[:, None])
    assert torch.allclose(intensity, amplitude[:, 0].abs() ** 2)

    def moved(tilt_x, tilt_y, thicker):
        error = excitation_error_after_tilt(
            chosen.excitation_error.double(), chosen.kx.double(), chosen.ky.double(), tilt_x, tilt_y
        )
        return waves.amplitudes(chosen, error, (thickness + thicker)[:, None])[:, 0].abs() ** 2

    for i, step in enumerate((1e-6, 1e-6, 1e-3)):
        change = [step * (i == j) for j in range(3)]
        expected = (moved(*change) - moved(*(-each for each in change))) / (2 * step)
        assert (jacobian[..., i] - expected).abs().max() < 2e-5 * expected.abs().max()


def test_gradients_flow_through_weak_beams():
    waves = BlochWaves(data.mgo_phase(), 200, 1.0, n_beams=30, n_strong=10)
    chosen = waves.choose(rotations(2))
    error = chosen.excitation_error.double().requires_grad_()

    def total(error):
        return waves.amplitudes(chosen, error, torch.tensor([150.0]))[:, 0, 1:6].abs().pow(2).sum()

    (gradient,) = torch.autograd.grad(total(error), error)
    step = torch.zeros_like(error)
    step[0, 2] = 1e-6
    expected = (total(error + step) - total(error - step)) / 2e-6
    assert gradient[0, 2].item() == pytest.approx(expected.item(), rel=1e-3)


@pytest.mark.parametrize("wrong, words", [({"n_strong": 1}, "n_strong"), ({"absorption": 1.5}, "absorption")])
def test_bad_settings_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        BlochWaves(data.mgo_phase(), 200, 1.0, **wrong)


@pytest.mark.parametrize("name, wrong", [("Al", 0.03), ("LiNiO2", 0.05)])
def test_multislice_patterns_have_these_intensities(name, wrong, shared_data):
    """Another code, at the true orientations and thicknesses: disks of 1.5 mrad, noise-free."""
    from suite.datasets import multislice_phase

    with np.load(shared_data / "multislice" / f"{name}_1.5mrad.npz") as file:
        known = {key: file[key] for key in ("images", "quat", "thickness", "px", "disk_radius_px")}
    few = slice(0, 12)
    scale, radius = float(known["px"]), float(known["disk_radius_px"])
    waves = BlochWaves(multislice_phase(shared_data, name), 200.0, 1.45, n_beams=100, debye_waller=0.49)
    chosen = waves.choose(torch.from_numpy(known["quat"][few]).float())
    thickness = torch.from_numpy(known["thickness"][few])[:, None]
    ring = [(0.72 * math.cos(a), 0.72 * math.sin(a)) for a in np.arange(6) * math.pi / 3]
    intensity = 0.0
    for qx, qy in ((0.0, 0.0), *ring):
        kx, ky = chosen.kx.double(), chosen.ky.double()
        point = (qx * radius * scale, qy * radius * scale)
        error = excitation_error_in_disk(chosen.excitation_error.double(), kx, ky, *point, waves.wavelength)
        intensity = intensity + waves.amplitudes(chosen, error, thickness)[:, 0].abs() ** 2 / 7
    row, column = np.indices((128, 128))
    differences = []
    for i, image in enumerate(known["images"][few].astype(float)):
        k = np.hypot(chosen.kx[i], chosen.ky[i]).numpy()
        used = (chosen.present[i].numpy() & (k > 0.15) & (k < 1.42)).nonzero()[0]
        places = zip((64 - chosen.ky[i] / scale)[used].tolist(), (64 + chosen.kx[i] / scale)[used].tolist())
        seen = np.array([image[np.hypot(row - r, column - c) < radius + 1.2].sum() for r, c in places])
        found = intensity[i, used].numpy()
        found = found * (seen @ found) / (found @ found)
        differences.append(np.abs(seen - found).sum() / seen.sum())
    print(f"{name}: sum of differences over sum of intensities, median of 12: {np.median(differences):.3f}")
    assert np.median(differences) < wrong
