"""Crystals that lie above each other: patterns of single ones, added up, of a cubic and of a trigonal crystal."""

from functools import cache

import numpy as np
import pytest
import torch
from sample_phases import phase
from test_any_crystal import simulated

from pyxem_dl import iter_predict_orientation, open_result, predict_orientation, symmetry
from pyxem_dl.crystals import Spots
from pyxem_dl.devices import computing
from pyxem_dl.frames import Calibration
from pyxem_dl.models import load_model
from pyxem_dl.networks.overlap import OverlapSearch
from pyxem_dl.networks.spot_evidence import Explained
from pyxem_dl.networks.spot_masks import covered, disk_radius, without
from pyxem_dl.preprocessing import PolarPreprocessing
from pyxem_dl.rotations import rotate_in_plane
from pyxem_dl.scans import make_signal
from pyxem_dl.simulation.bloch_waves import BlochWaves
from pyxem_dl.simulation.detector import draw_spots

QUIET = {"show_progressbar": False, "on_message": lambda line: None, "device": "cpu"}
CALIBRATION = Calibration((1.3 / 64,) * 2, (64.0, 64.0), (128, 128), 200.0)


@cache
def patterns_of(name, n, seed=0):
    """Noise-free patterns that scatter one electron each, and their orientations."""
    generator = torch.Generator().manual_seed(seed)
    rotations = torch.nn.functional.normalize(torch.randn(n, 4, generator=generator), dim=1)
    thickness = 100 + 200 * torch.rand(n, 1, generator=generator)
    found = BlochWaves(phase(name), 200.0, 1.3, n_beams=48)(rotations, thickness)
    beams = found.chosen
    intensity = found.intensity[:, 0].float() * beams.present
    images = draw_spots(beams.kx, beams.ky, intensity, CALIBRATION, disk_radius=0.03, blur=0.6)
    scattered = images.sum((1, 2)) - images[:, 58:71, 58:71].sum((1, 2))
    return images / scattered[:, None, None], rotations


def added(name, share, n=24, electrons=2e4):
    """Counts of two crystals, more than 10° apart, and their orientations (n, 2, 4)."""
    images, rotations = patterns_of(name, 2 * n)
    expected = electrons * ((1 - share) * images[:n] + share * images[n:])
    truth = torch.stack([rotations[:n], rotations[n:]], dim=1)
    apart = angles(truth[:, :1], truth[:, 1:], name)[:, 0, 0] > 10
    return torch.poisson(expected, generator=torch.Generator().manual_seed(1))[apart], truth[apart]


def angles(found, truth, name):
    """Degrees (n, found, truth) between orientations, modulo 180° about the beam."""
    operations = symmetry.proper_operations(phase(name))
    return torch.rad2deg(
        symmetry.disorientation_angle(found[:, :, None], truth[:, None], operations, modulo_180=True)
    )


def overlapping(xmap):
    return torch.as_tensor(xmap.rotations.data, dtype=torch.float32), torch.as_tensor(xmap.prop["share"])


# ---------------------------------------------------------------- what is found
@pytest.mark.parametrize("name", ["Al", "LiNiO2"])
def test_both_crystals_are_found_with_their_shares(name):
    patterns, truth = added(name, 0.3)
    signal = make_signal(patterns.numpy(), CALIBRATION, name)
    xmap = predict_orientation(signal, phases=phase(name), overlap=True, **QUIET)
    found, share = overlapping(xmap)
    right = (angles(found, truth, name) < 5) & (share > 0)[..., None]
    both = right.any(1).all(1)
    assert float(both.float().mean()) >= 0.8
    weaker = share.gather(1, right[..., 1].int().argmax(1, keepdim=True))[both]
    assert float(weaker.median()) == pytest.approx(0.3, abs=0.08)
    # the one with the largest share is the first, and what is not there has none
    indexed, none = torch.as_tensor(xmap.phase_id == 0), share == 0
    assert float(indexed.float().mean()) > 0.9
    assert bool((share[:, :-1] >= share[:, 1:]).all())
    assert share.sum(1).numpy() == pytest.approx(indexed.double().numpy(), abs=1e-5)
    single = none & indexed[:, None]
    assert single.any() and torch.equal(found[single], found[:, :1].expand_as(found)[single])
    assert xmap.prop["n_crystals"].tolist() == (~none).sum(1).tolist()
    assert (xmap.prop["candidate_phase_id"] == np.where(none, -1, 0)).all()
    assert (xmap.prop["scores"][single.numpy()] == 0).all() and "reliability" not in xmap.prop


@pytest.mark.parametrize("name, all_three, two", [("Al", 0.3, 0.65), ("LiNiO2", 0.5, 0.85)])
def test_three_crystals_are_found(name, all_three, two):
    images, rotations = patterns_of(name, 72, seed=5)
    truth = torch.stack(rotations.split(24), dim=1)
    first, second, third = images.split(24)
    expected = 2e4 * (0.45 * first + 0.3 * second + 0.25 * third)
    patterns = torch.poisson(expected, generator=torch.Generator().manual_seed(6))
    between = angles(truth, truth, name) + 90 * torch.eye(3)
    apart = (between > 10).flatten(1).all(1)
    signal = make_signal(patterns[apart].numpy(), CALIBRATION, name)
    found, share = overlapping(predict_orientation(signal, phases=phase(name), overlap=True, **QUIET))
    right = (angles(found, truth[apart], name) < 5) & (share > 0)[..., None]
    number = right.any(1).sum(1)
    assert float((number == 3).float().mean()) >= all_three and float((number >= 2).float().mean()) >= two
    assert float(share[number == 3].mean(0)[2]) == pytest.approx(0.22, abs=0.06)


@pytest.mark.parametrize("name", ["Al", "LiNiO2"])
def test_one_crystal_stays_one(name):
    images, truth = patterns_of(name, 48)
    patterns = torch.poisson(2e4 * images, generator=torch.Generator().manual_seed(2))
    signal = make_signal(patterns.numpy(), CALIBRATION, name)
    xmap = predict_orientation(signal, phases=phase(name), overlap=True, **QUIET)
    alone = xmap.prop["n_crystals"] == 1
    assert alone.mean() >= 0.95
    # and is what is found without looking for others
    plain = predict_orientation(signal, phases=phase(name), **QUIET)
    angle = plain.rotations[alone].angle_with(xmap.rotations[alone, 0], degrees=True)
    assert np.median(angle) < 0.05 and (angle < 1).mean() > 0.95
    assert xmap.prop["score"][alone] == pytest.approx(plain.prop["score"][alone], abs=0.05)


def test_what_is_turned_by_180_degrees_is_no_second_crystal():
    images, truth = patterns_of("LiNiO2", 48)
    # a pattern and the one that is turned: a crystal and its twin about the beam, if both are there
    turned = rotate_in_plane(truth, torch.full((48,), torch.pi))
    found = BlochWaves(phase("LiNiO2"), 200.0, 1.3, n_beams=48)(turned, torch.full((48, 1), 200.0))
    beams = found.chosen
    intensity = found.intensity[:, 0].float() * beams.present
    second = draw_spots(beams.kx, beams.ky, intensity, CALIBRATION, disk_radius=0.03, blur=0.6)
    second = second / (second.sum((1, 2)) - second[:, 58:71, 58:71].sum((1, 2)))[:, None, None]
    patterns = torch.poisson(1e4 * (images + second), generator=torch.Generator().manual_seed(3))
    signal = make_signal(patterns.numpy(), CALIBRATION, "twins")
    found, share = overlapping(predict_orientation(signal, phases=phase("LiNiO2"), overlap=True, **QUIET))
    again = angles(found[:, 1:], found[:, :1], "LiNiO2")[..., 0] < 5
    assert not bool((again & (share[:, 1:] > 0)).any())


def test_crystals_of_two_phases_are_found_together():
    one, of_one = patterns_of("Al", 16)
    two, of_two = patterns_of("LiNiO2", 16)
    patterns = torch.poisson(2e4 * (0.6 * one + 0.4 * two), generator=torch.Generator().manual_seed(4))
    signal = make_signal(patterns.numpy(), CALIBRATION, "both")
    xmap = predict_orientation(signal, phases=[phase("Al"), phase("LiNiO2")], overlap=True, **QUIET)
    phases = xmap.prop["candidate_phase_id"]
    assert np.mean([{0, 1} <= set(each) for each in phases]) >= 0.75
    assert (phases[:, 0] == xmap.phase_id).all()


def test_vacuum_is_not_indexed():
    patterns = np.random.default_rng(0).poisson(0.05, (12, 128, 128)).astype(np.float32)
    signal = make_signal(patterns, CALIBRATION, "vacuum")
    with pytest.warns(UserWarning, match="None of 12 patterns is indexed"):
        xmap = predict_orientation(signal, phases=phase("Al"), overlap=True, **QUIET)
    assert (xmap.phase_id == -1).all() and not xmap.prop["share"].any() and not xmap.prop["n_crystals"].any()
    assert (xmap.prop["candidate_phase_id"] == -1).all()


def test_patterns_that_cannot_be_indexed_leave_the_others_as_they_are():
    patterns, _ = added("Al", 0.3, 6)
    spoilt = torch.cat([patterns, torch.full_like(patterns[:1], torch.nan), torch.ones_like(patterns[:1])])
    model = load_model("any-crystal").with_phases([phase("Al")], 200.0, 1.3)
    good, found = (model.predict_batch(each, CALIBRATION, overlap=True) for each in (patterns, spoilt))
    for a, b in zip(good, found, strict=True):
        torch.testing.assert_close(a, b[:-2])
    assert not found.share[-2:].any() and not found.crystal[-2:].any()


# ---------------------------------------------------------------- how it streams
def test_parts_make_the_same_map_and_files_keep_it(tmp_path):
    patterns, _ = added("Al", 0.3, 12)
    signal = make_signal(patterns.numpy(), CALIBRATION, "Al")
    settings = {"phases": phase("Al"), "overlap": True, **QUIET}
    whole = predict_orientation(signal, **settings)
    for name in ("map.zarr", "map.h5"):
        xmap = predict_orientation(signal.as_lazy(), output=tmp_path / name, batch_size=5, **settings)
        for key in ("share", "n_crystals", "scores", "candidate_phase_id"):
            assert np.allclose(xmap.prop[key], whole.prop[key], atol=1e-6), key
    opened = open_result(tmp_path / "map.zarr")
    assert opened.rotations_per_point == 3 and np.allclose(opened.prop["share"], whole.prop["share"])
    *_, last = iter_predict_orientation(signal, **settings)
    assert np.allclose(last.to_crystal_map().prop["share"], whole.prop["share"])


def test_a_map_of_one_orientation_is_other_work(tmp_path):
    patterns, _ = added("Al", 0.3, 4)
    signal = make_signal(patterns.numpy(), CALIBRATION, "Al")
    predict_orientation(signal, phases=phase("Al"), n_best=3, output=tmp_path / "map.zarr", **QUIET)
    with pytest.raises(FileExistsError):
        predict_orientation(signal, phases=phase("Al"), overlap=True, output=tmp_path / "map.zarr", **QUIET)


@pytest.mark.parametrize(
    "given, error, text",
    [
        ({"model": "al-200kv", "n_best": 2}, ValueError, "use n_best=1 and n_samples=0"),
        ({"n_best": 2}, ValueError, "gives up to 3 crystals at each position"),
        ({"n_samples": 5}, ValueError, "use n_best=1 and n_samples=0"),
        ({"overlap": "yes"}, TypeError, "overlap must be True or False"),
        ({"overlap": 1}, TypeError, "overlap must be True or False"),
    ],
)
def test_what_does_not_go_together_is_refused(given, error, text):
    signal = make_signal(np.ones((2, 128, 128), np.float32), CALIBRATION, "none")
    phases = {} if "model" in given else {"phases": phase("Al")}
    with pytest.raises(error, match=text):
        predict_orientation(signal, **{"overlap": True} | phases | given, **QUIET)


def test_a_model_of_another_kind_is_refused():
    model = load_model("any-crystal").with_phases([phase("Al")], 200.0, 1.3)
    signal = make_signal(np.ones((2, 128, 128), np.float32), CALIBRATION, "none")
    model.network_name = "polar"
    with pytest.raises(ValueError, match="overlap=True needs a model of the kind of 'any-crystal'"):
        predict_orientation(signal, model, overlap=True, **QUIET)


# ---------------------------------------------------------------- its parts
def spots_at(kx, ky):
    kx, ky = torch.as_tensor(kx), torch.as_tensor(ky)
    one = torch.ones_like(kx)
    return Spots(kx, ky, 0 * one, one, 100 * one, one.long())


@pytest.mark.parametrize("radius", [0.03, 0.06, 0.13])
def test_bins_near_spots_are_those_within_the_radius(radius):
    preprocessing = PolarPreprocessing(1.2, n_k=52)
    generator = torch.Generator().manual_seed(0)
    kx, ky = 2.4 * torch.rand(2, 3, 7, generator=generator) - 1.2
    found = covered(spots_at(kx, ky), torch.full((3,), radius), preprocessing)
    k = (torch.arange(52) + 0.5) * (1.2 / 52)
    phi = torch.arange(preprocessing.n_phi) * (2 * torch.pi / preprocessing.n_phi)
    x, y = (k[:, None] * phi.cos()).flatten(), (k[:, None] * phi.sin()).flatten()
    distance = torch.hypot(x - kx[..., None], y - ky[..., None]).amin(1).unflatten(1, (52, -1))
    clear = (distance - radius).abs() > 1e-4
    assert torch.equal(found[clear], (distance < radius)[clear]) and bool(found.any())


def test_spots_are_taken_away_and_the_rest_stays():
    preprocessing = PolarPreprocessing(1.2, n_k=52)
    made = simulated("Al", 4)
    inputs = preprocessing.counted(made.patterns, made.calibration)
    taken = torch.zeros(4, 52, preprocessing.n_phi, dtype=torch.bool)
    taken[:, 20:26, 30:40] = True
    polar, valid, *_ = without(inputs, taken, preprocessing)
    assert torch.equal(polar[~taken], inputs[0][~taken]) and not valid[taken].any()
    assert float(polar[taken].max()) <= float(inputs[0].max())


@pytest.mark.parametrize("radius", [0.03, 0.06])
def test_the_radius_of_disks_is_that_of_the_direct_beam(radius):
    preprocessing = PolarPreprocessing(1.2, n_k=52)
    image = draw_spots(
        torch.zeros(1, 1), torch.zeros(1, 1), torch.full((1, 1), 1e6), CALIBRATION, disk_radius=radius, blur=0.5
    )
    polar, valid, *_ = preprocessing.counted(image, CALIBRATION)
    assert float(disk_radius(polar, valid, preprocessing)) == pytest.approx(radius, abs=0.008)
    unseen = valid.clone()
    unseen[:, :8] = 0
    assert float(disk_radius(polar, unseen, preprocessing)) == pytest.approx(0.045)


def test_a_second_crystal_pays_by_peaks_of_its_own():
    ratio = torch.tensor([[[50.0, 50, 50, 0, 0], [0, 0, 0, 50, 50], [50, 50, 0, 0, 0]]])[..., None]
    explained = Explained(ratio, torch.full((1, 3, 1), 2.0))
    one, other, subset = torch.tensor([[0]]), torch.tensor([[1]]), torch.tensor([[2]])
    gain = float(explained.of(one, other) - explained.of(one))
    assert gain == pytest.approx(2 * np.log(51) - 2)
    assert float(explained.of(one, subset) - explained.of(one)) == pytest.approx(-2)


def test_each_crystal_has_the_share_that_explains_most():
    # shares of 0.1, 0.25 and 0.6: a strong one should have six peaks and has them, a weak one should have one
    ratio = torch.tensor([[[[9.0, 9, 9]] * 6 + [[0.0, 0, 0]], [[0.0, 0, 0]] * 6 + [[9.0, 9, 9]]]])
    explained = Explained(ratio, torch.tensor([[[8.0, 7, 6], [1.0, 3, 6]]]))
    one, other = torch.tensor([[0]]), torch.tensor([[1]])
    assert float(explained.of(one)) == pytest.approx(6 * np.log(10) - 6, rel=1e-5)
    assert float(explained.of(one, other)) == pytest.approx(7 * np.log(10) - 7, rel=1e-5)
    # three cannot have most of the light each
    ratio, most = torch.full((1, 3, 1, 3), 0.0), torch.tensor([[[8.0, 7, 6], [8, 7, 6], [8, 7, 6]]])
    of_three = Explained(ratio, most).of(one, other, torch.tensor([[2]]))
    assert float(of_three) == pytest.approx(-6 - 6 - 8)


def test_the_answer_does_not_depend_on_the_other_patterns():
    patterns, _ = added("Al", 0.3, 8)
    model = load_model("any-crystal").with_phases([phase("Al")], 200.0, 1.3)
    model.precision = "float32"
    with computing(torch.device("cpu")):
        inputs = model.preprocessing.counted(patterns, CALIBRATION)
        whole = OverlapSearch(model.network, inputs)()
        part = OverlapSearch(model.network, model.preprocessing.counted(patterns[2:5], CALIBRATION))()
    assert (whole.share[2:5] > 0).equal(part.share > 0)
    torch.testing.assert_close(whole.share[2:5], part.share, atol=1e-3, rtol=1e-3)
