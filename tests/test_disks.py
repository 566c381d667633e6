"""Simulated convergent-beam patterns: truth and counts agree, and the detector's network can be taught."""

from types import SimpleNamespace

import pytest
import torch
from diffpy.structure import Atom, Lattice, Structure
from orix.crystal_map import Phase

from pyxem_dl import crystals
from pyxem_dl.frames import Calibration
from pyxem_dl.networks.fcunet import Disks, FCUNet
from pyxem_dl.networks.localisation import SubpixelLocalisation
from pyxem_dl.patterns.patches import PATCH_SIZE, cut_patches, probe_patch
from pyxem_dl.preprocessing import rescale
from pyxem_dl.simulation.detector import draw_spots
from pyxem_dl.simulation.disks import DiskSettings, DiskSimulator, _significance

PLAIN = {
    "gain_share": 0.0, "fault_share": 0.0, "beam_stop_share": 0.0, "ghost_share": 0.0, "clipped_share": 0.0,
    "bullseye_share": 0.0, "aberrated_share": 0.0, "blank_share": 0.0, "background": (1e-9, 2e-9),
}  # fmt: skip


def simulator(seed=0, **settings):
    atoms = [Atom("Cu", [0, 0, 0])]
    copper = Phase("Cu", space_group=225, structure=Structure(atoms, Lattice(3.615, 3.615, 3.615, 90, 90, 90)))
    return DiskSimulator(crystals.load_phases(copper), settings=DiskSettings(**settings), seed=seed)


@pytest.mark.parametrize("factor", [0.37, 0.5, 1.0, 2.3])
def test_rescaling_keeps_counts_and_maps_places_as_it_says(factor):
    place = torch.tensor([[30.3, 25.8]])
    calibration = Calibration((1.0, 1.0), (30.3, 25.8), (64, 64))
    zero = torch.zeros(1, 1)
    image = draw_spots(zero, zero, torch.full((1, 1), 100.0), calibration, disk_radius=6.0, blur=1.0)
    scaled = rescale(image, factor)
    assert scaled.shape[1] == int(64 * factor)
    torch.testing.assert_close(scaled.sum(), torch.tensor(100.0), rtol=0.01, atol=0)
    rows = torch.arange(scaled.shape[1], dtype=torch.float32)
    middle = torch.stack([(scaled[0].sum(1) * rows).sum(), (scaled[0].sum(0) * rows).sum()]) / scaled.sum()
    torch.testing.assert_close(middle, ((place + 0.5) * factor - 0.5)[0], atol=0.02, rtol=0)


def test_disks_hold_the_electrons_and_lie_where_the_truth_says():
    found = simulator(native_radius=(5.0, 5.1), electrons=(1e6, 2e6), **PLAIN)(8)
    size = found.patterns.shape[-1]
    at = torch.arange(size, dtype=torch.float32)
    checked = 0
    for pattern, positions, electrons in zip(found.patterns, found.positions, found.electrons, strict=True):
        strong = (electrons > 2000).nonzero()[:, 0]
        for i in strong:
            others = (electrons > 20) & (torch.arange(len(electrons)) != i)
            alone = bool(((positions[others] - positions[i]).norm(dim=1) > 17).all())
            if not alone or (positions[i] - size / 2).abs().max() > size / 2 - 9:
                continue
            near = torch.hypot(at[:, None] - positions[i, 0], at[None] - positions[i, 1]) < 7.5
            assert float(pattern[near].sum() / electrons[i]) == pytest.approx(1, abs=0.1)
            checked += 1
    assert checked > 5


def test_patterns_are_seeded():
    one, same, other = simulator(3)(4), simulator(3)(4), simulator(4)(4)
    assert torch.equal(one.patterns, same.patterns) and torch.equal(one.electrons, same.electrons)
    assert not torch.equal(one.patterns, other.patterns)


def test_what_nobody_can_see_is_said_to_be_noise():
    found = simulator(electrons=(1e2, 2e2), background=(2.0, 3.0))(8)
    significance = found.significance[:, 1:]
    assert float(significance.max()) < 10
    assert bool((found.significance > 0).any())


def disk_image(places, electrons, size=96, radius=5.0, blur=0.6):
    calibration = Calibration((1.0, 1.0), (0.0, 0.0), (size, size))
    from pyxem_dl.frames import pixel_to_k

    kx, ky = pixel_to_k(places[..., 0], places[..., 1], calibration)
    return draw_spots(kx, ky, electrons, calibration, disk_radius=radius, blur=blur)


def test_a_faint_disk_is_seen_beside_a_bright_one_and_not_under_it():
    places = torch.tensor([[[40.0, 40.0], [40.0, 49.0], [40.0, 42.0], [80.0, 80.0]]])
    electrons = torch.tensor([[1e5, 40.0, 40.0, 40.0]])
    expected = disk_image(places, electrons)
    setup = SimpleNamespace(radius=5.0)
    lost = torch.zeros_like(expected, dtype=torch.bool)
    bright, beside, under, alone = _significance(expected, lost, places[..., 0], places[..., 1], electrons, setup)[0]
    assert float(bright) == pytest.approx(1e5**0.5, rel=0.05)
    assert float(alone) == pytest.approx(40**0.5, rel=0.1)
    assert 4 < float(beside) <= float(alone) and float(under) < 3
    lost[:, 35:] = True
    hidden = _significance(expected, lost, places[..., 0], places[..., 1], electrons, setup)[0]
    assert float(hidden.abs().max()) == 0


def test_the_correlation_layer_peaks_at_the_disks_whatever_the_dose():
    places = torch.tensor([[[30.0, 40.0], [60.0, 70.0]]])
    probe = disk_image(torch.tensor([[[48.0, 48.0]]]), torch.ones(1, 1))[0]
    network = FCUNet()
    for dose in (300.0, 3e5):
        image = disk_image(places, torch.tensor([[dose, dose / 3]]))
        found = network.correlation(image, probe)
        normalised = found.channels[0, 1]
        for row, column in ((30, 40), (60, 70)):
            assert float(normalised[row, column]) > 0.9
            assert float(normalised[row, column]) == float(
                normalised[row - 4 : row + 5, column - 4 : column + 5].max()
            )
        assert float(found.excess[0, 30, 40]) == pytest.approx(dose, rel=0.05)


def test_the_network_answers_where_its_cells_are():
    network = FCUNet().eval()
    with torch.no_grad():
        network.heads.weight.zero_()
        network.heads.bias.copy_(torch.tensor([-4.0, 0.5, -0.25, 0.0, 0.0]))
        found = network.predict(torch.zeros(2, 40, 52), torch.ones(33, 33), max_disks=7)
    assert found.row.shape == (2, 7)
    # cells of 2 px have their middles at 0.5, 2.5, ...
    assert bool((((found.row - 1.0) % 2) == 0).all()) and bool((((found.column - 0.25) % 2) == 0).all())
    torch.testing.assert_close(found.position_error, torch.ones(2, 7))
    assert float(found.confidence.max()) < 0.02


def test_a_few_steps_teach_it_something():
    torch.manual_seed(0)
    sim = simulator(native_radius=(5.0, 5.1), electrons=(1e4, 1e6), size=64, **PLAIN)
    network = FCUNet(widths=(8, 12, 16))
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        batch = sim(8)
        loss, parts = network.loss(
            batch.patterns, batch.probe, batch.positions, batch.electrons,
            visible=batch.significance > 3.5, counted=batch.significance > 1.5,
        )  # fmt: skip
        assert torch.isfinite(loss) and set(parts) == {"centre", "position", "intensity"}
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) < sum(losses[:3])


@pytest.mark.parametrize("radius", [3.0, 5.0, 24.0])
def test_patches_are_cut_where_they_are_asked_for(radius):
    size = round(9 * radius)
    place = torch.tensor([[[3.5 * radius + 0.3, 4.1 * radius - 0.2]]])
    image = disk_image(place, torch.full((1, 1), 1e4), size=size, radius=radius)
    patch = cut_patches(image, torch.tensor([0]), place[0], radius)[0]
    assert patch.shape == (PATCH_SIZE, PATCH_SIZE)
    assert float(patch.sum()) == pytest.approx(1e4, rel=0.03)
    at = torch.arange(PATCH_SIZE) - PATCH_SIZE // 2
    middle = [float((patch.sum(1 - axis) * at).sum() / patch.sum()) for axis in (0, 1)]
    assert middle == pytest.approx([0, 0], abs=0.1)
    # ten samples make a radius
    inside = torch.hypot(at[:, None].float(), at[None].float()) < 12
    assert float(patch[inside].sum()) > 0.9e4
    # a place beyond the border has nothing around it
    far = cut_patches(image, torch.tensor([0]), torch.tensor([[-4 * radius, 0.0]]), radius)
    assert float(far.abs().max()) < 1


def test_localisation_learns_where_disks_lie():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    localisation = SubpixelLocalisation()
    optimizer = torch.optim.AdamW(localisation.parameters(), 1e-3)
    # no last step may be a large one: which it is differs between processors
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=200)
    probe = probe_patch(disk_image(torch.tensor([[[48.0, 48.0]]]), torch.ones(1, 1))[0, :-1, :-1], 5.0)

    def draw(n=32):
        place = 30 + 40 * torch.rand(n, 1, 2, generator=generator)
        images = torch.poisson(disk_image(place, torch.full((n, 1), 2000.0)), generator)
        off = 0.2 * torch.randn(n, 2, generator=generator)
        return cut_patches(images, torch.arange(n), place[:, 0] + 5 * off, 5.0), -off

    for _ in range(200):
        patches, offset = draw()
        loss = localisation.loss(patches, probe, offset)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    localisation.eval()
    patches, offset = draw()
    with torch.no_grad():
        found, log_error = localisation(patches, probe)
    error = (found - offset).square().sum(1).mean().sqrt()
    assert float(error) < 0.5 * float(offset.square().sum(1).mean().sqrt())
    assert bool(log_error.isfinite().all())


def test_a_disk_that_is_found_twice_is_reported_once():
    network = FCUNet()
    row, confidence = torch.tensor([[20.0, 21.5, 40.0]]), torch.tensor([[0.9, 0.5, 0.8]])
    zero = torch.zeros(1, 3)
    found = Disks(row, 0 * row + 30, zero, confidence, zero + 1, zero, zero)
    placed = network.localise(torch.zeros(1, 64, 64), found, 5.0, torch.ones(1, PATCH_SIZE, PATCH_SIZE))
    assert placed.confidence.tolist() == [[pytest.approx(0.9), 0.0, pytest.approx(0.8)]]
