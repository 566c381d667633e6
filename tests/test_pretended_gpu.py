"""Ready for a GPU: nothing in a micro-batch waits for the device or sends it something, and the answers are a CPU's."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from fake_network import make_phase
from pretend_device import pretend_device

from pyxem_dl import data, rotations as rot
from pyxem_dl.bragg_vectors.finders import CorrelationFinder, DetectionFinder, ReciprocalSpace
from pyxem_dl.bragg_vectors.step import DiskStep
from pyxem_dl.crystals import load_phases
from pyxem_dl.frames import Calibration
from pyxem_dl.images.waves import WaveFit, Waves
from pyxem_dl.microstructure.scoring import ComparisonStep
from pyxem_dl.models import OrientationModel, load_model
from pyxem_dl.networks import build_network
from pyxem_dl.networks.overlap import OverlapSearch
from pyxem_dl.orientation import OrientationStep
from pyxem_dl.patterns import Probe, find_maxima
from pyxem_dl.patterns.matcher import DiskMatcher
from pyxem_dl.preprocessing import CartesianPreprocessing, PolarPreprocessing, find_direct_beam
from pyxem_dl.refinement.fitting import Given, Physics, Refiner
from pyxem_dl.refinement.step import RefinementStep, Start
from pyxem_dl.scans import Padded, Positions, Rows, Scan
from pyxem_dl.scans.steps import to_host
from pyxem_dl.simulation import PatternSimulator, SimulationSettings, disks, draw_spots
from pyxem_dl.simulation.bloch_waves import BlochWaves
from pyxem_dl.simulation.disks import DiskSettings, DiskSimulator
from pyxem_dl.template_matching.step import Templates, TemplateStep
from pyxem_dl.templates.bank import TemplateBank
from pyxem_dl.training.learning import SimulatedBatches

CALIBRATION = Calibration((0.025, 0.025), (48.0, 47.0), (96, 96), 200.0)
MASK = torch.zeros(96, 96, dtype=torch.bool)
MASK[:5] = True


@pytest.fixture
def device():
    with pretend_device() as device:
        yield device


@pytest.fixture(scope="module")
def patterns():
    """Disks at random places, an empty pattern, and one that nobody can read."""
    torch.manual_seed(0)
    kx, ky = torch.rand(2, 8, 30) * 2 - 1
    expected = draw_spots(kx, ky, torch.rand(8, 30) * 5000 + 500, CALIBRATION, disk_radius=0.125, blur=0.6)
    counts = torch.poisson(expected + 2)
    counts[2], counts[3, 40, 40] = 0, torch.nan
    return counts


def plates(crystal, rotations):
    """Patterns of plates that are 100 Å thick."""
    found = BlochWaves(crystal, 200.0, 1.1, n_beams=24)(rotations, torch.full((len(rotations), 1), 100.0))
    beams = found.chosen
    intensity = 1e5 * found.intensity[:, 0].float() * beams.present
    return draw_spots(beams.kx, beams.ky, intensity, CALIBRATION, disk_radius=0.06, blur=0.6)


def settled(device, function):
    """Call a function once for what is made only once, and then see that it waits for nothing and sends nothing."""
    function()
    device.waits.clear()
    device.uploads.clear()
    answer = function()
    assert not device.waits and not device.uploads
    return answer


def back(answer):
    """Tensors of the device, as they are held."""
    return [getattr(x, "held", x) for x in answer]


# ---------------------------------------------------------------- the pretended device
def test_the_pretended_device_counts_what_the_host_waits_for(device):
    x = torch.arange(6.0).to("cuda").reshape(2, 3)
    assert x.device.type == "cuda" and x.is_cuda
    device.uploads.clear()
    for wait in (
        lambda: float(x.sum()), lambda: bool((x > 0).all()), lambda: x[x > 1], lambda: x.nonzero(), lambda: x.tolist(),
        lambda: x.cpu(), lambda: torch.masked_select(x, x > 1), lambda: torch.bincount(x.long().flatten()),
    ):  # fmt: skip
        device.waits.clear()
        wait()
        assert sum(device.waits.values()) >= 1
    for send in (
        lambda: torch.ones(3).to(x), lambda: torch.tensor([1.0], device="cuda"), lambda: x.new_tensor([1.0]),
        lambda: x[:, torch.tensor([0, 2])], lambda: x[0].copy_(torch.ones(3)),
    ):  # fmt: skip
        device.uploads.clear()
        send()
        assert sum(device.uploads.values()) >= 1
    device.waits.clear()
    device.uploads.clear()
    y = torch.where(x > 2, x, 0.0).add_(1).sort(dim=1).values @ torch.zeros(3, 2, device="cuda")
    z = torch.ones(3).pin_memory().to("cuda", non_blocking=True)
    assert not device.waits and not device.uploads
    assert y.held.shape == (2, 2) and z.held.tolist() == [1, 1, 1]


def test_the_pretended_device_computes_with_complex_numbers(device):
    x, y = (torch.randn(2, 3, dtype=torch.complex64) for _ in range(2))
    there, other = x.to("cuda"), y.to("cuda")
    torch.testing.assert_close((there.conj()[..., None] * other[..., None]).real.held[..., 0], (x.conj() * y).real)
    torch.testing.assert_close((there @ other.mH).imag.held, (x @ y.mH).imag)


def test_the_pretended_device_refuses_what_a_device_refuses(device):
    x = torch.zeros(2, device="cuda")
    with pytest.raises(RuntimeError, match="on the device and on the CPU"):
        x + torch.zeros(2)
    with pytest.raises(RuntimeError, match="a generator on cpu for numbers on cuda"):
        torch.rand(2, device="cuda", generator=torch.Generator())


# ---------------------------------------------------------------- orientations
@pytest.mark.parametrize("with_centers", [False, True])
@pytest.mark.parametrize("mask", [None, MASK], ids=["no mask", "mask"])
def test_a_micro_batch_of_orientations(device, patterns, mask, with_centers):
    model = load_model("al-200kv")
    model.precision, model.follows_device = "float32", False
    centers = torch.rand(8, 2) + 47 if with_centers else None
    expected = model.predict_batch(patterns, CALIBRATION, centers=centers, signal_mask=mask, n_best=2)
    model.to("cuda")
    x, mask, centers = (None if each is None else each.to("cuda") for each in (patterns, mask, centers))
    found = settled(device, lambda: model._predict_micro_batch(x, CALIBRATION, centers, mask, 2, 8, 0))
    for one, other in zip(back(found), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    assert (found.crystal.held[2:4] == 0).all() and (found.crystal.held[:2] > 0).all()


@pytest.mark.parametrize("head", ["r9", "r6", "euler"])
def test_a_micro_batch_of_an_image_network(device, patterns, head):
    torch.manual_seed(0)
    network = build_network(
        "regression", laue_groups=["m-3m"], backbone="cnn", size=32, head=head, dropout=0.2,
        backbone_arguments={"width": 4, "depth": 3, "num_features": 16},
    ).eval()  # fmt: skip
    phases = [make_phase()]
    model = OrientationModel("regression", network, CartesianPreprocessing(1.0, size=32), phases, precision="float32")
    centers = torch.rand(8, 2) + 47
    expected = model.predict_batch(patterns, CALIBRATION, centers=centers)
    model.to("cuda")
    x, centers = patterns.to("cuda"), centers.to("cuda")

    def predict(n_samples):
        return model._predict_micro_batch(x, CALIBRATION, centers, None, 1, 8, n_samples)

    predict(0)
    device.waits.clear()
    device.uploads.clear()
    found = predict(0)
    # the singular value decomposition of torch looks whether it has converged
    assert not device.uploads and sum(device.waits.values()) == (1 if head == "r9" else 0)
    for one, other in zip(back(found), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)
    predict(3)
    device.uploads.clear()
    assert predict(3).uncertainty.held.isfinite().all()
    assert not device.uploads


def test_finding_the_direct_beam(device, patterns):
    x = patterns.to("cuda")
    found = settled(device, lambda: find_direct_beam(x, CALIBRATION))
    torch.testing.assert_close(found.held, find_direct_beam(patterns, CALIBRATION))


def test_losses_of_the_polar_network_wait_for_nothing(device):
    torch.manual_seed(0)
    network = build_network(
        "polar", laue_groups=["m-3m", "-3m"], width=8, depth=1, kernel=9, resolution=8.0,
        comparison={"n_reflections": 20, "reciprocal_radius": 1.0, "beam_energy": 200.0, "n_spots": 8, "width": 8},
    )  # fmt: skip
    polar, q, phase = torch.rand(6, 2, 64, 144), rot.random_rotations(6), torch.tensor([0, 1, -1, 0, 1, 1])
    expected = float(network.loss(polar, q, phase)[0].detach())
    network.to("cuda")
    polar, q, phase = polar.to("cuda"), q.to("cuda"), phase.to("cuda")
    loss, _ = settled(device, lambda: network.loss(polar, q, phase))
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)

    def verify():
        with torch.no_grad():
            proposed = network.propose(polar, 4)
        return network.comparison.loss(polar, proposed, q, phase, network.operations)

    assert settled(device, verify).held.isfinite()


@pytest.fixture
def crystals():
    return load_phases(make_phase()), 200.0, PolarPreprocessing(1.0, n_k=42)


def test_a_micro_batch_of_any_crystal(device, patterns, crystals):
    torch.manual_seed(0)
    preprocessing = crystals[2]
    network = build_network("any_crystal", width=8).eval()
    inputs = preprocessing.counted(patterns.nan_to_num(), CALIBRATION)
    with torch.inference_mode():
        expected = network.with_phases(*crystals).predict(inputs)
    found = network.to("cuda").with_phases(*crystals)
    x = patterns.nan_to_num().to("cuda")

    def predict():
        with torch.inference_mode():
            return found.predict(preprocessing.counted(x, CALIBRATION))

    answer = settled(device, predict)
    np.testing.assert_allclose(answer.scores.held.numpy(), expected.scores, atol=0.01)


def test_losses_of_any_crystal_wait_for_nothing(device, patterns, crystals):
    torch.manual_seed(0)
    network = build_network("any_crystal", width=8).to("cuda").with_phases(*crystals)
    inputs = crystals[2].counted(patterns.nan_to_num().to("cuda"), CALIBRATION)
    q, phase = rot.random_rotations(8).to("cuda"), torch.tensor([0, 0, -1, 0, 0, 0, -1, 0]).to("cuda")
    loss, _ = settled(device, lambda: network.loss(inputs, q, phase))
    assert loss.detach().held.isfinite()


def test_a_micro_batch_of_crystals_above_each_other(device, patterns, crystals):
    torch.manual_seed(0)
    preprocessing = crystals[2]
    network = build_network("any_crystal", width=8).eval()
    # of a network that knows nothing two answers may be as good: what is asked is that it runs and waits for nothing
    x = patterns[:4].nan_to_num()
    with torch.inference_mode():
        expected = OverlapSearch(network.with_phases(*crystals), preprocessing.counted(x, CALIBRATION))()
    found, x = network.to("cuda").with_phases(*crystals), x.to("cuda")

    def predict():
        with torch.inference_mode():
            return OverlapSearch(found, preprocessing.counted(x, CALIBRATION))()

    answer = settled(device, predict)
    assert answer.share.held.sum(1).numpy() == pytest.approx(np.ones(4), abs=1e-4)
    torch.testing.assert_close(answer.crystal.held, expected.crystal, atol=0.02, rtol=0)


def test_a_micro_batch_of_orientations_that_are_given(device, patterns):
    model = load_model("any-crystal").with_phases(load_phases(make_phase()), 200.0, 1.0)
    model.precision, model.follows_device = "float32", False
    scan = Scan(None, CALIBRATION, np.zeros(8, dtype=bool), MASK, None, Positions((8,), (1.0,), "px"))
    proposed = rot.random_rotations(24, torch.Generator().manual_seed(0)).reshape(8, 3, 4).numpy()
    step, indices = ComparisonStep(model, scan, proposed, np.zeros((8, 3), dtype=int), 1.0), np.arange(8)
    expected = step(patterns, indices)
    step.prepare(torch.device("cuda"))
    x = patterns.to("cuda")
    step(x, indices)
    device.waits.clear()
    device.uploads.clear()
    found = step(x, indices)
    # what is compared is another for each batch: orientations and phases
    assert not device.waits and sum(device.uploads.values()) <= 2
    good = torch.arange(8) != 3
    torch.testing.assert_close(found["logits"].held[good], expected["logits"][good], atol=0.02, rtol=1e-3)


def test_a_micro_batch_that_is_refined(device):
    (crystal,) = load_phases(make_phase())
    truth = rot.random_rotations(2, torch.Generator().manual_seed(1))
    patterns, begin = plates(crystal, truth), rot.multiply(truth, rot.exponential(torch.full((2, 3), 0.002)))
    scan = Scan(None, CALIBRATION, np.zeros(2, dtype=bool), None, None, Positions((2,), (1.0,), "px"))
    begin, one = begin[:, None].double().numpy(), np.zeros(2, dtype=int)
    start = Start(begin, one, one - 1, {"score": np.ones(2)}, (2,), 1)
    step = RefinementStep([crystal], scan, Physics(2.5, (90.0, 120.0), n_beams=24), start, 1.0)
    step.prepare(torch.device("cpu"))
    expected, indices = to_host(step(patterns, np.arange(2))), np.arange(2)
    assert expected["refined"].all()
    step.prepare(torch.device("cuda"))
    x = patterns.to("cuda")
    device.waits.clear()
    device.uploads.clear()
    found = step(x, indices)
    # sent: what the map says of these positions, and which of them have this phase; waited for: eigenvalues, which
    # have to converge, and which fits are so bad that another place or candidate is tried
    assert sum(device.uploads.values()) <= 3, device.uploads
    others = {place: n for place, n in device.waits.items() if "linalg_eig" not in place}
    assert sum(others.values()) <= 3 and all("wrong = " in place or "doubtful" in place for place in others), others
    for name in ("rotations", "thickness", "misfit"):
        np.testing.assert_allclose(back([found[name]])[0].numpy(), expected[name], atol=1e-3, rtol=1e-3)


def test_two_candidates_that_are_told_apart(device):
    (crystal,) = load_phases(make_phase())
    truth = rot.random_rotations(2, torch.Generator().manual_seed(1)).double()
    both = torch.stack([truth, rot.rotate_in_plane(truth, torch.full((2,), np.pi).double())], dim=1)
    given, thickness = Given(plates(crystal, truth.float())), torch.full((2, 2), 105.0)
    of = [Refiner(crystal, CALIBRATION, Physics(2.5, (90.0, 120.0), n_beams=24), where) for where in ("cpu", "cuda")]
    expected = of[0].look_alikes(given, both, thickness)
    on_device = given._replace(patterns=given.patterns.to("cuda")), both.to("cuda"), thickness.to("cuda")
    device.waits.clear()
    device.uploads.clear()
    found = of[1].look_alikes(*on_device)
    assert not {place for place in device.waits if "linalg" not in place}
    assert sum(device.uploads.values()) == 0, device.uploads
    torch.testing.assert_close(found.held, expected, atol=0.05, rtol=1e-3)



# ---------------------------------------------------------------- disks and peaks
def test_a_micro_batch_of_the_disk_detector(device, patterns):
    model = load_model("bragg-disks")
    model.precision, model.follows_device = "float32", False
    probe = Probe.ideal(5.0).image
    probe = probe / probe.sum()
    expected = model.predict_batch(patterns, probe, 5.0, signal_mask=MASK)
    model.to("cuda")
    x, probe, mask = (each.to("cuda") for each in (patterns, probe, MASK))
    found = settled(device, lambda: model.predict_batch(x, probe, 5.0, signal_mask=mask))
    assert int((expected.confidence > 0.3).sum()) > 50
    for one, other in zip(back(found), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-2, rtol=1e-3, equal_nan=True)


@pytest.mark.parametrize("mask", [None, MASK], ids=["no mask", "mask"])
def test_a_micro_batch_of_the_disk_matcher(device, patterns, mask):
    expected, intensity = DiskMatcher(Probe.ideal(5.0), (96, 96), signal_mask=mask, threshold=0.25)(patterns)
    matcher = DiskMatcher(Probe.ideal(5.0), (96, 96), signal_mask=mask, threshold=0.25, device="cuda")
    x = patterns.to("cuda")
    found, their_intensity = settled(device, lambda: matcher(x))
    n = expected.row.shape[1]
    assert n > 5 and not found.valid.held[:, n:].any() and not found.row.held[:, n:].any()
    for one, other in zip(back([*found, their_intensity]), [*expected, intensity], strict=True):
        torch.testing.assert_close(one[:, :n], other, atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("known", [True, False])
def test_a_micro_batch_of_lattices(device, known):
    crystal = data.metal_crystals()[7]
    scene = data.atomic_grains((80, 80), 50, crystals=[crystal], labels=np.ones((80, 80), int), pixel=0.24, seed=1)
    windows = torch.from_numpy(scene.signal.data).unfold(0, 50, 10).unfold(1, 50, 10).reshape(-1, 50, 50)
    waves = Waves.of_crystal(crystal) if known else Waves.of_unknown()
    expected = WaveFit(50, 0.24, 12.0, torch.device("cpu"))(windows, waves)
    fit, x = WaveFit(50, 0.24, 12.0, torch.device("cuda")), windows.to("cuda")
    found = back(settled(device, lambda: fit(x, waves)))
    torch.testing.assert_close(found[0], expected.reciprocal, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found[2], expected.score, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("distance", [1.0, 3.5, 5.0, 9.0])
def test_peaks_are_separated_in_rounds_as_one_after_the_other(device, distance):
    maps = torch.randn(6, 50, 60, generator=torch.Generator().manual_seed(1))
    maps[0] = maps[0].round()  # many are equal, side by side
    maps[1] = torch.arange(60.0) % 3 + torch.linspace(0, 1, 50)[:, None]
    expected = find_maxima(maps, 0.3, distance, 40)
    x, threshold = maps.to("cuda"), torch.full((6,), 0.3).to("cuda")
    found = settled(device, lambda: find_maxima(x, threshold, distance, 40))
    n = expected.row.shape[1]
    for one, other in zip(back(found), expected, strict=True):
        assert torch.equal(one[:, :n], other) and not one[:, n:].any()


@pytest.mark.parametrize("n, all_of_them", [(20, True), (31, True), (90, False)])
def test_a_chain_of_peaks_each_too_near_to_the_one_before(device, n, all_of_them):
    maps = torch.zeros(1, 3, 8 * n)
    maps[0, 1, 4::8] = torch.linspace(2, 1, n)
    expected = find_maxima(maps, 0.5, 10, 200, None)
    assert int(expected.count) == (n + 1) // 2  # each second one
    found = find_maxima(maps.to("cuda"), 0.5, 10, 200, None)
    columns = found.column.held[found.valid.held]
    if all_of_them:
        assert columns.tolist() == expected.column[expected.valid].tolist()
    else:  # what the rounds do not settle is dropped: nothing that is kept is too near
        assert 15 <= len(columns) < int(expected.count)
        assert columns.diff().abs().min() >= 10


# ---------------------------------------------------------------- templates
def test_a_template_bank_made_on_the_device(device, patterns):
    phases = [make_phase(), make_phase("Ti", 2.95, 194, (("Ti", (1 / 3, 2 / 3, 0.25)),))]
    expected = TemplateBank.from_phases(phases, 200, 1.1, 6.0)
    bank = TemplateBank.from_phases(phases, 200, 1.1, 6.0, device="cuda")
    for name in ("quaternions", "phase_id", "spectra", "operations"):
        torch.testing.assert_close(getattr(bank, name).held, getattr(expected, name), atol=1e-6, rtol=1e-5)
    match = expected.match(patterns, CALIBRATION, signal_mask=MASK, n_best=2)
    x, mask = patterns.to("cuda"), MASK.to("cuda")
    found = settled(device, lambda: bank.match(x, CALIBRATION, None, mask, n_best=2))
    torch.testing.assert_close(found.scores.held, match.scores, atol=1e-5, rtol=0)
    assert torch.equal(found.phase_id.held, match.phase_id)


def test_templates_are_simulated_in_chunks_of_bounded_memory(monkeypatch):
    from pyxem_dl.templates import drawing

    phases, drawn = [make_phase()], []
    whole = TemplateBank.from_phases(phases, 200, 1.1, 4.0)
    draw = drawing.draw_spectra
    monkeypatch.setattr(drawing, "_DRAWN_AT_ONCE", {"cpu": 500})

    def noted(n, owner, *rest):
        drawn.append(len(owner))
        return draw(n, owner, *rest)

    monkeypatch.setattr(drawing, "draw_spectra", noted)
    parts = TemplateBank.from_phases(phases, 200, 1.1, 4.0)
    assert len(drawn) > 3 and max(drawn) < 1000  # as many as there are on average
    torch.testing.assert_close(parts.spectra, whole.spectra, atol=1e-6, rtol=1e-5)


def test_spots_are_matched_without_waiting(device):
    bank = TemplateBank.from_phases([make_phase()], 200, 1.1, 6.0, device="cuda")
    owner = torch.tensor([0, 0, 0, 1, 1]).to("cuda")
    k, phi, intensity = (torch.rand(5).to("cuda") for _ in range(3))
    assert len(settled(device, lambda: bank.match_spots(2, owner, k, phi, intensity)).scores) == 2


# ---------------------------------------------------------------- steps of the verbs
def make_step(verb):
    """A step as the verb makes it, for a scan with a masked direct beam and a mask."""
    mask = MASK.clone()
    mask[44:53, 43:52] = True
    scan = Scan(None, CALIBRATION, np.zeros(8, dtype=bool), mask, None, Positions((8,), (1.0,), "px"))
    if verb == "orientation":
        model = load_model("al-200kv")
        model.precision, model.follows_device = "float32", False
        return OrientationStep(model, scan)
    if verb == "template matching":
        return TemplateStep(Templates("torch", [make_phase()], 200, 1.0, 8.0, 0.08), scan, 2)
    if verb == "correlation":
        find = CorrelationFinder(DiskMatcher(Probe.ideal(5.0), (96, 96), signal_mask=mask, threshold=0.25), 2.5)
        return DiskStep(scan, find, 1.0, True, 4)
    model = load_model("bragg-disks")
    model.precision, model.follows_device = "float32", False
    space = ReciprocalSpace(CALIBRATION)
    find = DetectionFinder(model, Probe.ideal(5.0), mask, 2.5, 0.025, 32, 0, 0.3, CALIBRATION.center, space)
    return DiskStep(scan, find, 1.0, True, 9)


@pytest.mark.parametrize("verb", ["orientation", "template matching", "correlation", "detection"])
def test_a_step_sends_its_constants_once(device, patterns, verb):
    indices, step = np.arange(8), make_step(verb)
    expected = to_host(step(patterns, indices))
    step.prepare(torch.device("cuda"))
    x = patterns.to("cuda")
    found = settled(device, lambda: step(x, indices))
    for name, values in expected.items():
        if isinstance(values, Rows):
            held = to_host({name: Padded(*back(found[name]))})[name]
            # one disk may be at the threshold, and two that are as sure may change places
            assert np.abs(held.lengths - values.lengths).max() <= 1 and values.lengths.sum() > 20
            for one, other in zip(held.tables(), values.tables(), strict=True):
                away = np.hypot(*(one[:, None, :2] - other[None, :, :2]).transpose(2, 0, 1))
                nearest = away.argmin(0) if len(other) else []
                close = away.min(0, initial=np.inf) < 0.05
                assert close.sum() >= len(other) - 1
                np.testing.assert_allclose(one[nearest][close], other[close], atol=0.05, rtol=0.1)
        elif name in ("scores", "reliability", "crystal"):
            np.testing.assert_allclose(found[name].held.numpy(), values, atol=0.02)


# ---------------------------------------------------------------- simulators
def test_patterns_are_simulated_without_waiting(device):
    settings = SimulationSettings(coma=(0.0, 0.02), beam_stop_share=0.5, precession_share=0.5, disk_radius=(0.01, 0.04))
    simulator = PatternSimulator([make_phase()], 200, 1.1, settings, seed=1, device="cuda")
    device.uploads.clear()
    for _ in range(6):
        made = simulator(8)
        assert made.patterns.held.isfinite().all() and made.patterns.held.amax((1, 2)).gt(0).all()
    assert not device.waits and not device.uploads


def test_setups_share_the_calls_of_one(device):
    settings = SimulationSettings(coma=(0.0, 0.02), setup_size=4, pixels=(48,), precession_share=0.3)
    simulator = PatternSimulator([make_phase()], 200, 1.1, settings, seed=1, device="cuda")
    assert simulator.most_setups() >= 8
    batches = SimulatedBatches(simulator, PolarPreprocessing(1.0, n_k=12, n_phi=24), 32)
    calls = {}
    for n in (1, 8):
        device.uploads.clear()
        device.n_calls = 0
        for _ in range(3):
            made = simulator.several(n)
        calls[n] = device.n_calls
        assert not device.waits and not device.uploads
    assert calls[8] < 2.5 * calls[1]
    assert len(made) == 8 and all(each.patterns.held.isfinite().all() for each in made)
    polar, rotations, phase_id = batches.make()
    assert polar.shape == (32, 2, 12, 24) and len(rotations) == len(phase_id) == 32


def test_disks_are_simulated_without_waiting_but_for_a_matrix_exponential(device, monkeypatch):
    monkeypatch.setattr(disks, "_IN_POOL", 4)
    monkeypatch.setattr(disks, "_POOLS", 3)
    # a detector that is large enough for a disk beside the beam stop
    settings = DiskSettings(
        beam_stop_share=0.5, blank_share=0.0, thickness=(10, 30), native_radius=(2, 4), size=96
    )  # fmt: skip
    simulator = DiskSimulator([make_phase()], settings=settings, seed=1, device="cuda")
    simulator(4)
    device.waits.clear()
    device.uploads.clear()
    n_filled = -sum(pool is not None for pool in simulator._pools)
    for _ in range(5):
        made = simulator(4)
        assert made.patterns.held.isfinite().all() and made.electrons.held.amax(1).gt(0).all()
    n_filled += sum(pool is not None for pool in simulator._pools)
    assert not device.uploads
    assert all("linalg_matrix_exp" in place for place in device.waits)
    assert sum(device.waits.values()) <= n_filled


def test_what_is_drawn_on_the_host_starts_anew_with_the_seed(device):
    made = []
    for _ in range(2):
        simulator = PatternSimulator([make_phase()], 200, 1.1, SimulationSettings(setup_size=4), seed=5, device="cuda")
        first = simulator()
        simulator.reseed(5)
        again, after = simulator._number(0, 1), simulator._uniform(0, 1).held
        made.append((first.patterns.held, first.calibration, again, float(after)))
    assert torch.equal(made[0][0], made[1][0]) and made[0][1:] == made[1][1:]


# ---------------------------------------------------------------- precision
NEWER = hasattr(torch.backends, "fp32_precision")
SWITCHES = [
    "torch.get_float32_matmul_precision()", "torch.backends.cudnn.allow_tf32", "torch.backends.cuda.matmul.allow_tf32",
    *(f"torch.backends.{place}.fp32_precision" for place in ("cuda.matmul", "cudnn.conv", "mkldnn.matmul") if NEWER),
]
COARSE = ("high", "medium", "tf32", "bf16", True)
PROGRAM = f"""
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from pyxem_dl.devices import computing
from pyxem_dl.rotations import full_float32, matmul

def read(switch):
    try:
        return eval(switch)
    except RuntimeError:  # torch does not read the older switches where the newer ones were used
        return None

def state():
    return [read(switch) for switch in {SWITCHES!r}]

class Products(TorchDispatchMode):
    seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten.mm.default, torch.ops.aten.matmul.default):
            self.seen.append(state())
        return function(*args, **(kwargs or {{}}))

ALLOW
before = state()
with Products():
    matmul(torch.ones(2, 2), torch.ones(2, 2))
    with computing(torch.device("cpu")), full_float32():
        torch.ones(2, 2) @ torch.ones(2, 2)
assert len(Products.seen) == 2
assert not any(value in {COARSE!r} for seen in Products.seen for value in seen if value is not None), Products.seen
assert state() == before, (before, state())
"""


@pytest.mark.parametrize("allow", [
    "",
    "torch.set_float32_matmul_precision('high')",
    "torch.set_float32_matmul_precision('medium')",
    "torch.backends.cuda.matmul.allow_tf32 = True",
    *("torch.backends.fp32_precision = 'tf32'", "torch.backends.cuda.matmul.fp32_precision = 'tf32'")[: 2 * NEWER],
])  # fmt: skip
def test_tf32_is_forbidden_in_products_that_decide_and_allowed_again(root, allow):
    # in a process of its own: what was switched on by the newer switches cannot be switched off for the older ones
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("ALLOW", allow)], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_several_threads_may_compute_in_full_precision():
    torch.set_float32_matmul_precision("high")
    try:
        with ThreadPoolExecutor(4) as pool:
            inside = list(pool.map(_precision_inside, range(200)))
        assert set(inside) == {"highest"} and torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def _precision_inside(_):
    with rot.full_float32():
        return torch.get_float32_matmul_precision()
