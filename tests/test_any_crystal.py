"""Orientations of crystals that are named when they are looked for."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from sample_phases import phase, raw_phase

from pyxem_dl import rotations, symmetry
from pyxem_dl.frames import Calibration, pixel_to_k
from pyxem_dl.models import OrientationModel, load_model
from pyxem_dl.networks.any_crystal import AnyCrystalNetwork
from pyxem_dl.networks.spot_verifier import PatternView, _Seen
from pyxem_dl.preprocessing import PolarPreprocessing
from pyxem_dl.simulation import PatternSimulator, SimulationSettings
from pyxem_dl.templates import TemplateBank
from pyxem_dl.templates.proposals import Proposer, coarse_resolution

CLEAR = SimulationSettings(
    electrons=(1e5, 2e5), background=(0.003, 0.01), overlap_share=0.0, empty_share=0.0, ghost_share=0.0,
    fault_share=0.0, threshold_share=0.0, beam_stop_share=0.0, disk_radius=(0.02, 0.03), precession_share=0.0,
)  # fmt: skip


def simulated(name, n=48, seed=1, **changes):
    settings = SimulationSettings(**({**CLEAR.to_dict(), **changes}))
    return PatternSimulator([phase(name)], 200, 1.2, settings, seed=seed)(n)


def angles(found, truth, operations, modulo_180=True):
    expanded = truth[:, None].expand_as(found)
    return torch.rad2deg(
        symmetry.disorientation_angle(
            found.flatten(0, 1), expanded.flatten(0, 1), operations.expand(found[..., 0].numel(), -1, -1),
            modulo_180=modulo_180,
        )
    ).unflatten(0, found.shape[:2])  # fmt: skip


# ---------------------------------------------------------------- proposals
@pytest.mark.parametrize("name", ["Al", "LiNiO2"])  # a trigonal crystal, too
def test_the_truth_is_among_the_proposals(name):
    preprocessing = PolarPreprocessing(1.2, n_k=52)
    made = simulated(name)
    polar, valid = preprocessing.resample(made.patterns, made.calibration)
    proposer = Proposer.from_phases([phase(name)], 200.0, preprocessing)
    found = proposer(polar, valid, 12)
    nearest = angles(found.rotations, made.rotations, symmetry.proper_operations(phase(name))).amin(1)
    assert float((nearest < 3.5).float().mean()) > 0.9
    assert bool((found.score[:, :-1] >= found.score[:, 1:]).all()) and float(found.score.max()) <= 1


def test_scores_are_those_of_a_bank_of_templates():
    preprocessing = PolarPreprocessing(1.2, n_k=48)
    made = simulated("LiNiO2", 16)
    polar, valid = preprocessing.resample(made.patterns, made.calibration)
    found = Proposer.from_phases([phase("LiNiO2")], 200.0, preprocessing)(polar, valid, 12)
    grid = PolarPreprocessing(1.2, n_k=24, gamma=0.25)
    bank = TemplateBank.from_phases([phase("LiNiO2")], 200.0, grid, 3.0)
    match = bank.match(made.patterns, made.calibration)
    # fewer frequencies leave out what is noise in them
    assert np.corrcoef(found.score[:, 0], match.scores[:, 0])[0, 1] > 0.95
    # where two answers are as good, the other one may be first
    same = angles(found.rotations, match.rotations[:, 0], symmetry.proper_operations(phase("LiNiO2"))).amin(1)
    assert float((same < 4).float().mean()) > 0.7


def test_several_phases_are_proposed_together():
    preprocessing = PolarPreprocessing(1.2, n_k=52)
    proposer = Proposer.from_phases([phase("Al"), phase("LiNiO2")], 200.0, preprocessing, 5.0)
    assert proposer.phase_id.unique().tolist() == [0, 1]
    for i, name in enumerate(["Al", "LiNiO2"]):
        made = simulated(name, 24)
        polar, valid = preprocessing.resample(made.patterns, made.calibration)
        assert float((proposer(polar, valid, 1).phase_id == i).float().mean()) > 0.85


def test_crystals_of_low_symmetry_have_templates_further_apart():
    assert coarse_resolution(phase("Al"), 3.0) == 3.0
    resolution = coarse_resolution(phase("ZrO2"), 3.0, most=500)
    assert 6 < resolution < 12
    n = len(Proposer.from_phases([phase("ZrO2")], 200.0, PolarPreprocessing(0.8, n_k=24), resolution))
    assert 300 < n < 700


# ---------------------------------------------------------------- the network
@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return AnyCrystalNetwork(width=16).eval()


def named(network, *names):
    preprocessing = PolarPreprocessing(1.2, n_k=52)
    return network.with_phases([phase(name) for name in names], 200.0, preprocessing), preprocessing


def test_an_untrained_network_prefers_what_correlates(network):
    found, preprocessing = named(network, "Al")
    made = simulated("Al", 16)
    with torch.inference_mode():
        predicted = found.predict(preprocessing.counted(made.patterns, made.calibration), 2)
    assert predicted.rotations.shape == (16, 2, 4) and predicted.scores.shape == (16, 2)
    assert bool(((predicted.scores.sum(1) <= predicted.crystal + 1e-5)).all())
    assert predicted.rotations.norm(dim=-1).numpy() == pytest.approx(1, abs=1e-5)


def test_what_is_looked_up_tells_a_zone_axis_from_the_one_turned_by_180_degrees(network):
    """Both share the reflections of their zone, at the same excitation errors: those of other zones tell them apart."""
    axis = torch.tensor([[1.0, 1.0, 2.0]]) / math.sqrt(6)
    to_axis = torch.cat([1 + axis[:, 2:], -axis[:, 1:2], axis[:, :1], torch.zeros(1, 1)], dim=1)
    tilted = rotations.exponential(torch.tensor([[math.radians(4.0), 0.0, 0.0]]))
    one = rotations.multiply(to_axis / to_axis.norm(), tilted)
    other = rotations.multiply(torch.cat([torch.zeros(1, 1), axis], dim=1), one)
    assert float(angles(other[:, None], one, symmetry.proper_operations(phase("Al")))) == pytest.approx(8.0, abs=0.1)
    crystals = named(network, "Al")[0].crystals
    a, b = (crystals.find(r[:, None], torch.zeros(1, 1, dtype=torch.long)) for r in (one, other))
    there = (a.structure_factor > 0)[0, 0]
    distances = ((x[0, 0, :, None] - y[0, 0]).abs() for x, y in zip(a[:3], b[:3], strict=True))
    apart = sum(distances) + 9.0 * (b.structure_factor[0, 0] == 0)
    shared, far = apart.amin(1) < 1e-3, a.excitation_error[0, 0].abs() > 0.07
    assert float(shared[there & ~far].float().mean()) > 0.8 and int((there & far & ~shared).sum()) >= 5


def test_many_beam_patterns_have_reflections_of_other_laue_zones():
    settings = replace(CLEAR, shape_factors=("many_beam",), thickness=(60.0, 100.0))
    simulator = PatternSimulator([phase("Al")], 200, 1.2, settings, seed=2)
    made, (crystal,) = simulator(32), simulator._many_beam
    far = crystal.far(made.rotations, torch.full((32,), 80.0), 0.02)
    radius = torch.hypot(far.kx, far.ky)
    # the strongest one of each pattern, seen against the ring around the beam
    strength = far.intensity.mean((2, 3)) * ((radius > 0.3) & (radius < 1.1))
    best = strength.argmax(1, keepdim=True)
    kx, ky = (x.gather(1, best) for x in (far.kx, far.ky))
    found, ring = (_electrons(made, *at) for at in ((kx, ky), (-ky, kx)))
    bright = strength.gather(1, best)[:, 0] > strength.gather(1, best).median()
    assert float(found[bright].median()) > 1.5 * float(ring[bright].median())


def _electrons(made, kx, ky):
    """Mean electrons within 0.03 Å⁻¹ of places (n, 1)."""
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in made.calibration.shape), indexing="ij")
    x, y = (torch.as_tensor(k) for k in pixel_to_k(rows.numpy(), columns.numpy(), made.calibration))
    near = torch.hypot(x - kx[:, :, None], y - ky[:, :, None]) < 0.03
    return (made.patterns * near).sum((1, 2)) / near.sum((1, 2)).clamp_min(1)


def test_the_rim_of_the_direct_beam_is_no_peak():
    calibration = Calibration((0.02, 0.02), (48.0, 48.0), (96, 96), 200.0)
    rows, columns = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    beam = 2000.0 * (torch.hypot(rows - 48.7, columns - 47.5) < 4.0)
    spot = 30.0 * (torch.hypot(rows - 48, columns - 72) < 2.0)
    preprocessing = PolarPreprocessing(0.9, n_k=38)
    inputs = preprocessing.counted((beam + spot)[None], calibration)
    peaks = PatternView.of(*inputs, preprocessing).peaks
    there = peaks.significance > 3
    assert bool(there.any()) and float(peaks.kx[there].sub(0.48).abs().max()) < 0.06


@pytest.mark.parametrize("name", ["Al", "LiNiO2"])
def test_the_truth_correlates_best(network, name):
    """The numbers that the network is given of each proposal, at the truth and 6 degrees from it."""
    looking, preprocessing = named(network, name)
    made = simulated(name, 24)
    off = rotations.exponential(torch.deg2rad(torch.tensor([[6.0, 0, 0], [0, -6.0, 0], [0, 0, 6.0]])))
    proposed = torch.cat(
        [made.rotations[:, None], rotations.multiply(made.rotations[:, None], off.expand(24, -1, -1))], dim=1
    )
    view = looking.view(preprocessing.counted(made.patterns, made.calibration))
    spots = looking.crystals.find(proposed, torch.zeros(24, 4, dtype=torch.long))
    columns = _Seen.of(view, *spots[:5], 1.2).correlations()
    for absolute, behind in zip(columns[::2], columns[1::2], strict=True):
        assert float((absolute.argmax(1) == 0).float().mean()) > 0.85
        assert float(behind.max()) == 0 and bool((behind.amax(1) == 0).all())


def test_what_an_earlier_look_said_counts(network):
    looking, preprocessing = named(network, "Al")
    made = simulated("Al", 4)
    view = looking.view(preprocessing.counted(made.patterns, made.calibration))
    phase_id = torch.zeros(4, 2, dtype=torch.long)
    spots = looking.crystals.find(made.rotations[:, None].expand(-1, 2, -1), phase_id)
    with torch.inference_mode():
        score, _ = looking.verifier(view, spots, torch.zeros(4, 2), 1.2, torch.tensor([[0.0, 3.0]] * 4))
    assert bool((score[:, 1] > score[:, 0] + 0.5).all())


def test_it_learns_to_correct(network):
    torch.manual_seed(0)
    learner = AnyCrystalNetwork(width=32)
    found, preprocessing = named(learner, "Al")
    made = simulated("Al", 24)
    inputs = preprocessing.counted(made.patterns, made.calibration)
    optimizer, losses = torch.optim.AdamW(learner.parameters(), 1e-2), []
    for _ in range(40):
        loss, parts = found.loss(inputs, made.rotations, made.phase_id)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert set(parts) == {f"{name}_{i}" for name in ("score", "correction") for i in range(3)}


def test_what_is_looked_for_is_made_again_in_other_processes(network):
    found, preprocessing = named(network, "Al")
    made = simulated("Al", 4)
    inputs = preprocessing.counted(made.patterns, made.calibration)
    with torch.inference_mode():
        expected = found.predict(inputs, 1)
        sent = pickle.dumps(found)
        again = pickle.loads(sent).predict(inputs, 1)
    assert len(sent) < 200_000  # no templates
    torch.testing.assert_close(again.rotations, expected.rotations)


def test_a_network_without_phases_says_so(network):
    with pytest.raises(ValueError, match="looks for no phases yet"):
        network.predict((torch.ones(1, 52, 144),) * 3 + (torch.ones(52),))


# ---------------------------------------------------------------- the model
@pytest.fixture(scope="module")
def model(network):
    return OrientationModel("any_crystal", network, PolarPreprocessing(1.5), [], name="small")


def test_a_folder_of_it_takes_phases(model, tmp_path):
    model.save(tmp_path / "small")
    back = load_model(tmp_path / "small")
    back.verify(tmp_path / "small")
    assert back.takes_phases and not back.phases and "any crystal" in repr(back)
    looking = back.with_phases(raw_phase("Al"), 200, 1.2)
    assert [p.name for p in looking.phases] == ["Al"] and looking.preprocessing.n_k == 52
    assert looking.fingerprint != back.fingerprint
    # with its phases it is a model like any other
    looking.save(tmp_path / "al")
    again = load_model(tmp_path / "al")
    made = simulated("Al", 4)
    one, other = (m.predict_batch(made.patterns, made.calibration) for m in (looking, again))
    torch.testing.assert_close(one.rotations, other.rotations, atol=1e-3, rtol=0)


def test_answers_do_not_depend_on_the_batch(model):
    looking, made = model.with_phases(raw_phase("Al"), 200, 1.2), simulated("Al", 7)
    whole = looking.predict_batch(made.patterns, made.calibration)
    parts = [looking.predict_batch(part, made.calibration) for part in made.patterns.split(3)]
    for one, many in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(one, torch.cat(many), atol=0, rtol=0)


def scan(made, gain=1.0, beam_energy=200.0):
    from pyxem.signals import ElectronDiffraction2D

    signal = ElectronDiffraction2D(gain * made.patterns.numpy())
    calibration = made.calibration
    for axis, scale, center in zip(
        signal.axes_manager.signal_axes, calibration.scale[::-1], calibration.center[::-1], strict=True
    ):
        axis.scale, axis.offset, axis.units = scale, -scale * center, "$A^{-1}$"
    if beam_energy:
        signal.set_experimental_parameters(beam_energy=beam_energy)
    return signal


def test_phases_are_named_in_the_call(model, capsys):
    from pyxem_dl import predict_orientation

    signal = scan(simulated("Al", 6))
    xmap = predict_orientation(signal, model, phases=[raw_phase("Al"), raw_phase("Mg")], show_progressbar=False)
    assert xmap.size == 6 and "Phases: Al, Mg" in capsys.readouterr().out
    assert set(xmap.phases.names) <= {"Al", "Mg", "not_indexed"}
    with pytest.raises(ValueError, match="phases='my.cif'"):
        predict_orientation(signal, model)
    with pytest.raises(ValueError, match="beam_energy="):
        predict_orientation(scan(simulated("Al", 2), beam_energy=None), model, phases=raw_phase("Al"))
    with pytest.raises(ValueError, match="knows no other phases.*any-crystal"):
        predict_orientation(signal, "al-200kv", phases=raw_phase("Mg"))


def test_the_unit_of_the_counts_does_not_matter(model, capsys):
    from pyxem_dl import predict_orientation

    made = simulated("Al", 12)
    maps = [
        predict_orientation(scan(made, gain), model, phases=raw_phase("Al"), show_progressbar=False)
        for gain in (1.0, 50.0)
    ]
    assert "Counts per electron: 50" in capsys.readouterr().out
    assert maps[0].prop["score"] == pytest.approx(maps[1].prop["score"], abs=0.02)


# ---------------------------------------------------------------- its training
def test_a_training_over_crystals(tmp_path, monkeypatch):
    from pyxem_dl.training import any_crystal, crystal_batches

    monkeypatch.setattr(crystal_batches, "_VALIDATION_PATTERNS", 16)
    trained = any_crystal.train_any_crystal(
        [raw_phase("Mg"), raw_phase("Al"), raw_phase("MgO")], output=tmp_path / "any", max_steps=3, max_minutes=60,
        crystals_at_once=2, reciprocal_radius=(0.9, 1.0), network={"width": 16}, batch_size=16,
        simulation=SimulationSettings(shape_factors=("many_beam", "two_beam"), bloch_share=0.3, setup_size=8),
        device="cpu", show_progressbar=False,
    )  # fmt: skip
    assert trained.takes_phases and trained.provenance["stages"][0]["patterns"] == 48
    card = (tmp_path / "any" / "README.md").read_text(encoding="utf-8")
    assert "1 crystals on which it was not trained" in card and "Modulo 180 degrees" in card
    assert "`bloch_share` | 0.3" in card and "by Bloch waves, many-beam and kinematical" in card
    assert load_model(tmp_path / "any").network.arguments["temperature"] > 0
    with pytest.raises(ValueError, match="foreign_share must be"):
        any_crystal.AnyCrystalConfiguration(foreign_share=1.0)


def test_patterns_of_another_crystal_are_none():
    from pyxem_dl.training.crystal_batches import Setup

    simulation, device = replace(CLEAR, setup_size=8), torch.device("cpu")
    one, other = (
        Setup(AnyCrystalNetwork(8), [phase(name)], 200.0, 1.0, simulation, 0, device) for name in ("Al", "Mg")
    )
    own, foreign = one.look_at(one.simulator, 1), one.look_at(other.simulator, 1)
    assert own.phase_id.tolist() == [0] * 8 and foreign.phase_id.tolist() == [-1] * 8
    assert own.inputs[0].shape == foreign.inputs[0].shape


def test_counts_are_those_of_the_detector():
    calibration = Calibration((0.02, 0.02), (48.0, 48.0), (96, 96), 200.0)
    preprocessing = PolarPreprocessing(0.9, n_k=36, n_phi=72)
    polar, valid, _, pixels = preprocessing.counted(torch.full((1, 96, 96), 3.0), calibration)
    assert bool(valid.all()) and polar.numpy() == pytest.approx(3.0, rel=1e-4)
    total = float((polar * pixels[:, None]).sum())
    assert total == pytest.approx(3.0 * math.pi * (0.9 / 0.02) ** 2, rel=1e-3)
