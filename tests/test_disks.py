"""Simulated convergent-beam patterns: truth and counts agree, and the detector's network can be taught."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffpy.structure import Atom, Lattice, Structure
from orix.crystal_map import Phase

from pyxem_dl import crystals
from pyxem_dl.frames import Calibration
from pyxem_dl.networks.fcunet import Disks, FCUNet
from pyxem_dl.networks.reader import DiskReader, DiskReadings, DiskTruth
from pyxem_dl.patterns.patches import PATCH_SIZE, Neighbours, cut_patches, other_disks
from pyxem_dl.patterns.views import DiskViews, Optics, look_at
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
    right = torch.tensor([[0.0, 1.0]])
    patch = cut_patches(image, torch.tensor([0]), place[0], radius, right)[0]
    assert patch.shape == (PATCH_SIZE, PATCH_SIZE)
    assert float(patch.sum()) == pytest.approx(1e4, rel=0.03)
    at = torch.arange(PATCH_SIZE) - PATCH_SIZE // 2
    middle = [float((patch.sum(1 - axis) * at).sum() / patch.sum()) for axis in (0, 1)]
    assert middle == pytest.approx([0, 0], abs=0.1)
    # ten samples make a radius
    inside = torch.hypot(at[:, None].float(), at[None].float()) < 12
    assert float(patch[inside].sum()) > 0.9e4
    # a place beyond the border has nothing around it
    far = cut_patches(image, torch.tensor([0]), torch.tensor([[-4 * radius, 0.0]]), radius, right)
    assert float(far.abs().max()) < 1


def test_surroundings_are_turned_to_a_direction():
    image = disk_image(torch.tensor([[[40.0, 40.0], [43.0, 44.0]]]), torch.tensor([[100.0, 900.0]]))
    one, middle = torch.tensor([0]), torch.tensor([[40.0, 40.0]])
    right = cut_patches(image, one, middle, 5.0, torch.tensor([[0.0, 1.0]]))
    # a sample is half a pixel: every second one from the middle is a pixel of its own
    assert float((4 * right[0, 1::2, 1::2] - image[0, 32:49, 32:49]).abs().max()) < 1e-4 * float(image.max())
    down = cut_patches(image, one, middle, 5.0, torch.tensor([[1.0, 0.0]]))
    assert float((down - right.rot90(1, (1, 2))).abs().max()) < 1e-5 * float(right.max())
    # the second disk, 5 px away, lies on the right where the surroundings are turned to it
    along = cut_patches(image, one, middle, 5.0, torch.tensor([[0.6, 0.8]]))[0]
    at = torch.arange(PATCH_SIZE) - PATCH_SIZE // 2
    row, column = (float((along.sum(1 - axis) * at).sum() / along.sum()) for axis in (0, 1))
    assert row == pytest.approx(0, abs=0.3) and column > 6


def test_neighbours_are_drawn_where_they_are(rng):
    places = torch.tensor([[[40.0, 40.0], [46.0, 47.0], [37.0, 33.0], [90.0, 90.0]]])
    amount = torch.tensor([[50.0, 1000.0, 400.0, 9000.0]])
    direction = torch.tensor([[0.6, -0.8]])
    first = torch.tensor([0])
    drawn = other_disks(Neighbours(places, amount), first, first, places[0, :1], 5.0, direction)[0]
    image = disk_image(places[:, 1:3], amount[:, 1:3])
    seen = cut_patches(image, torch.tensor([0]), places[0, :1], 5.0, direction)[0]
    assert float(drawn.sum()) == pytest.approx(float(seen.sum()), rel=0.05)
    assert np.corrcoef(drawn.flatten(), seen.flatten())[0, 1] > 0.95


def views_of(images, place, off, radius=5.0, center=(48.0, 48.0), half_range=1e-4, seen=None):
    n = len(images)
    known = Neighbours(place + off[:, None] * radius, torch.full((n, 1), 2000.0))
    probe = disk_image(torch.tensor([[[48.0, 48.0]]]), torch.ones(1, 1))[:, :-1, :-1]
    optics = Optics(probe, 5.0, radius, torch.tensor(center).expand(n, 2), half_range)
    index, zero = torch.arange(n), torch.zeros(n, dtype=torch.long)
    return look_at(images, seen, known, index, zero, known.places[:, 0], torch.full((n,), 1e5), optics)


def test_a_view_tells_what_is_masked_and_what_is_known():
    place = torch.tensor([[[48.0, 78.0]], [[48.0, 48.3]]])
    images = disk_image(place, torch.full((2, 1), 2000.0))
    seen = torch.ones(1, *images.shape[1:])
    seen[:, :, 80:] = 0
    views = views_of(images, place, torch.zeros(2, 2), seen=seen)
    assert float(views.seen[0, :, :17].min()) > 0.95 and float(views.seen[0, :, 24:].max()) == 0
    assert views.numbers[:, 7].tolist() == [0, 1]  # the second one is the direct beam
    assert views.numbers[:, 5].tolist() == [1, 0] and views.direction[0].tolist() == [0, 1]
    assert float(views.numbers[0, 0]) == pytest.approx(np.log(30 * 1e-4 / 0.003), abs=1e-5)
    unknown = views_of(images, place, torch.zeros(2, 2), half_range=float("nan"))
    assert bool(unknown.numbers.isfinite().all()) and unknown.numbers[:, 5].tolist() == [0, 0]


def test_a_reader_learns_where_disks_lie():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    reader = DiskReader((16, 16, 16, 16, 64))
    optimizer = torch.optim.AdamW(reader.parameters(), 1e-3)
    # no last step may be a large one: which it is differs between processors
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=200)

    def draw(n=32):
        place = 30 + 40 * torch.rand(n, 1, 2, generator=generator)
        images = torch.poisson(disk_image(place, torch.full((n, 1), 2000.0)), generator)
        off = 0.2 * torch.randn(n, 2, generator=generator)
        views, none = views_of(images, place, off), torch.zeros(n, dtype=torch.bool)
        row, column = views.direction.unbind(1)
        offset = torch.stack([-off[:, 0] * row - off[:, 1] * column, off[:, 1] * row - off[:, 0] * column], dim=1)
        return views, DiskTruth(offset, *[torch.zeros(n)] * 3, none, none)

    for _ in range(200):
        loss, _ = reader.loss(*draw())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    reader.eval()
    views, truth = draw()
    with torch.no_grad():
        read = reader(views)
    error = (read.offset - truth.offset).square().sum(1).mean().sqrt()
    assert float(error) < 0.5 * float(truth.offset.square().sum(1).mean().sqrt())
    assert all(bool(x.isfinite().all()) for x in read)


class Told(torch.nn.Module):
    """A reader that says what it is told."""

    def __init__(self, **readings) -> None:
        super().__init__()
        self.readings, self.dropout = readings, torch.nn.Dropout()

    def look(self, views):
        return torch.zeros(len(views.patches), 1)

    def conclude(self, features, views, n):
        zero = torch.zeros(len(features))
        two = torch.zeros(len(zero), 2)
        base = DiskReadings(two, two - 8, zero, zero - 5, zero + 9, zero, zero - 5, zero, zero - 5)
        return base._replace(**{name: value.expand_as(getattr(base, name)) for name, value in self.readings.items()})


def found_disks(row, column, confidence):
    row, column, confidence = (torch.tensor([x]) for x in (row, column, confidence))
    zero = torch.zeros_like(row)
    nothing = torch.full_like(row, float("nan"))
    return Disks(row, column, zero + 100, confidence, zero + 1, zero, zero, *[nothing] * 4)


def read(found, **readings):
    network = FCUNet()
    network.reader = Told(**readings)
    optics = Optics(torch.ones(1, 11, 11), 5.0, 5.0, torch.tensor([[32.0, 32.0]]), 1e-4)
    return network.read(torch.zeros(1, 64, 64), found, optics)


class Seen(Told):
    """A reader that keeps what it is shown."""

    def look(self, views):
        self.shown, self.looks = views, getattr(self, "looks", 0) + 1
        return super().look(views)


def shown(found, patterns, seen=None, center=(32.0, 32.0)):
    network = FCUNet()
    network.reader = Seen()
    optics = Optics(torch.ones(1, 11, 11), 5.0, 5.0, torch.tensor([center]), 1e-4)
    network.read(patterns, found, optics, seen)
    return DiskViews(*(x[: int((found.confidence > 0.03).sum())] for x in network.reader.shown))


@pytest.mark.parametrize("offset, looks", [(0.05, 1), (0.4, 2), (1.5, 1)])
def test_disks_that_lie_far_from_where_they_were_found_are_read_twice(offset, looks):
    network = FCUNet()
    network.reader = Seen(offset=torch.tensor([offset, 0.0]))
    optics = Optics(torch.ones(1, 11, 11), 5.0, 5.0, torch.tensor([[32.0, 32.0]]), 1e-4)
    disks = network.read(torch.ones(1, 64, 64), found_disks([32.0], [42.0], [0.9]), optics)
    assert network.reader.looks == looks
    # what is a radius away was not understood
    expected = 42 + (looks * offset * 5 if offset < 1 else 0)
    assert float(disks.column[0, 0]) == pytest.approx(expected, abs=1e-4)
    if looks == 2:  # from where the first look saw it
        assert float(network.reader.shown.numbers[0, 3]) == pytest.approx(np.log(1 + 12 / 5) - 2, abs=1e-4)


def test_a_masked_beam_is_unknown_to_the_reader():
    found, patterns = found_disks([32.0, 22.0], [32.0, 37.0], [0.9, 0.8]), torch.ones(1, 64, 64)
    seen = torch.ones(1, 64, 64)
    seen[:, 26:39, 26:39] = 0
    known, unknown = shown(found, patterns), shown(found, patterns * seen, seen)
    assert known.numbers[:, 6].tolist() == [1, 1] and unknown.numbers[:, 6].tolist() == [0, 0]
    assert float(unknown.seen[0, 12:23, 12:23].max()) == 0 and float(known.seen.min()) == 1
    assert float(unknown.others[1].sum()) == 0 < float(known.others[1].sum())


def test_views_are_as_sharp_in_half_precision(rng):
    found = found_disks([32.0, 20.3], [32.0, 40.7], [0.9, 0.8])
    patterns = torch.as_tensor(rng.poisson(50, (1, 64, 64)), dtype=torch.float32)
    full = shown(found, patterns)
    with torch.autocast("cpu", torch.bfloat16):
        half = shown(found, patterns)
    for one, other in zip(full, half, strict=True):
        assert torch.equal(one, other)


def test_large_disks_look_as_small_ones(rng):
    small = torch.as_tensor(rng.poisson(90, (1, 96, 96)), dtype=torch.float32)
    small = torch.nn.functional.avg_pool2d(small[None], 5, 1, 2)[0]
    views = []
    for factor in (1, 3):
        images = small.repeat_interleave(factor, 1).repeat_interleave(factor, 2) / factor**2
        place = (torch.tensor([[[40.0, 60.0]]]) + 0.5) * factor - 0.5
        center = tuple((c + 0.5) * factor - 0.5 for c in (48.0, 48.0))
        views.append(
            views_of(images, place, torch.zeros(1, 2), 10.0 * factor, center, half_range=1e-4 / factor)
        )
    one, other = views
    assert other.numbers[0, :3].tolist() == pytest.approx(one.numbers[0, :3].tolist(), abs=1e-4)
    assert np.corrcoef(one.patches.flatten(), other.patches.flatten())[0, 1] > 0.98
    assert float(other.patches.sum()) == pytest.approx(float(one.patches.sum()), rel=0.02)


def test_readings_are_turned_back_and_put_into_units():
    found = found_disks([32.0, 50.0, 32.2], [12.0, 32.0, 32.0], [0.9, 0.8, 0.7])
    two = torch.asinh(torch.tensor(2.0))
    disks = read(found, offset=torch.tensor([0.08, 0.04]), distance=two, side=torch.tensor(-9.0))
    # the first lies to the left: along g is to the left, and across it up
    assert disks.column[0, 0] == pytest.approx(11.6) and disks.row[0, 0] == pytest.approx(31.8)
    # the second lies below: along g is down
    assert disks.row[0, 1] == pytest.approx(50.4) and disks.column[0, 1] == pytest.approx(31.8)
    assert disks.excitation_error[0, 0] == pytest.approx(-2 * 1e-4 * np.hypot(20.4, 0.2), rel=1e-3)
    assert disks.phase[0, :2].tolist() == [1, 1]
    # of the direct beam there is nothing to tell
    assert bool(disks.phase[0, 2].isnan()) and bool(disks.excitation_error[0, 2].isnan())


def test_what_may_have_the_other_sign_is_uncertain():
    found = found_disks([32.0], [12.0], [0.9])
    sure, unsure = (
        read(found, distance=torch.tensor(1.0), side=torch.tensor(side)) for side in (9.0, 0.0)
    )
    s = float(sure.excitation_error[0, 0])
    assert s > 0 and float(sure.excitation_error_error[0, 0]) < 0.1 * s
    # either of two values: their mean, and half of their distance
    assert float(unsure.excitation_error[0, 0]) == 0
    assert float(unsure.excitation_error_error[0, 0]) == pytest.approx(s, rel=0.01)


def test_a_disk_that_is_found_twice_is_reported_once():
    found = found_disks([20.0, 21.5, 40.0], [30.0, 30.0, 30.0], [0.9, 0.5, 0.8])
    assert read(found).confidence.tolist() == [[pytest.approx(0.9), 0.0, pytest.approx(0.8)]]
