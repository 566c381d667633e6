"""Many phases at once: the same templates, sooner and in less memory; what they cost is said, and what is wrong."""

import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffpy.structure import Atom, Lattice, Structure
from distorted_scans import NOMINAL
from orix.crystal_map import Phase
from sample_phases import phase, raw_phase

from pyxem_dl import list_models, predict_orientation
from pyxem_dl.crystals import ReflectionTable, find_spots, reflections
from pyxem_dl.models import OrientationModel
from pyxem_dl.networks.any_crystal import AnyCrystalNetwork
from pyxem_dl.preprocessing import PolarPreprocessing
from pyxem_dl.scans import make_signal
from pyxem_dl.simulation import PatternSimulator, SimulationSettings
from pyxem_dl.simulation.detector import draw_spots
from pyxem_dl.symmetry import disorientation_angle, proper_operations
from pyxem_dl.templates import TemplateBank, proposals
from pyxem_dl.templates.cost import Cost, cost_one_by_one, cost_together, time_of
from pyxem_dl.templates.drawing import draw_spectra
from pyxem_dl.templates.proposals import Proposer

GRID = PolarPreprocessing(0.9, n_k=40)


# ---------------------------------------------------------------- the same answers, sooner
@pytest.mark.parametrize("name", ["Al", "LiNiO2", "ZrO2"])  # cubic, trigonal, monoclinic
def test_templates_of_low_frequencies_are_those_of_a_bank_of_all(name):
    proposer = Proposer.from_phases([phase(name)], 200.0, GRID, 8.0)
    grid = PolarPreprocessing(0.9, n_k=20, gamma=0.25)
    bank = TemplateBank.from_phases([phase(name)], 200.0, grid, float(proposer.resolution[0]))
    n = len(proposer.templates) // 2
    low = bank.spectra[1 : n + 1]
    low = low / low.abs().square().sum((0, 1)).sqrt()
    # of the conjugate: the real part of a product is re * re - im * im, the imaginary one re * im + im * re
    real, imaginary = proposer.templates[:n], proposer.templates[n:]
    torch.testing.assert_close(proposer.quaternions, bank.quaternions)
    torch.testing.assert_close(torch.cat([low.real, -low.imag], 1), real, atol=2e-6, rtol=0)
    torch.testing.assert_close(torch.cat([low.imag, low.real], 1), imaginary, atol=2e-6, rtol=0)


def test_spots_are_drawn_as_the_formula_says():
    generator = torch.Generator().manual_seed(0)
    k, phi, amplitude = (torch.rand(30, generator=generator) for _ in range(3))
    k, phi, owner = 0.9 * k, 6.28 * phi, torch.arange(30) % 3
    radius, step = 0.02, 0.9 / GRID.n_k
    order = torch.arange(73)
    expected = torch.zeros(3, GRID.n_k, 73, dtype=torch.complex64)
    for i in range(30):
        angular = radius / max(float(k[i]), radius)
        shape = amplitude[i] * angular * torch.exp(-0.5 * (order * angular) ** 2) * torch.sinc(order / 144) ** 2
        for ring in range(GRID.n_k):
            if abs(ring - int(k[i] / step)) <= 3:
                weight = torch.exp(-0.5 * (((ring + 0.5) * step - k[i]) / radius) ** 2)
                expected[owner[i], ring] += weight * shape * torch.exp(-1j * order * phi[i])
    found = draw_spectra(3, owner, k, phi, amplitude, GRID, radius)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    few = draw_spectra(3, owner, k, phi, amplitude, GRID, radius, 10)
    assert torch.equal(few, found[..., :10])


def test_templates_in_parts_propose_the_same(monkeypatch):
    phases = [phase("Al"), phase("LiNiO2")]
    made = PatternSimulator(phases, 200, 0.9, SimulationSettings(), seed=1)(12)
    polar, valid = GRID.resample(made.patterns, made.calibration)
    proposer = Proposer.from_phases(phases, 200.0, GRID, 5.0)
    whole = proposer(polar, valid, 12)
    monkeypatch.setattr(proposals, "_TEMPLATES_AT_ONCE", {"cpu": 100})
    assert len(proposer) > 300
    parts = proposer(polar, valid, 12)
    torch.testing.assert_close(parts.score, whole.score, atol=1e-5, rtol=0)
    assert set(parts.phase_id.unique().tolist()) == {0, 1}
    # rounding chooses among what is as good: a template that is symmetric about the beam has several best angles
    same = parts.template == whole.template
    assert float(same.float().mean()) > 0.85
    for i, each in enumerate(phases):
        here = same & (whole.phase_id == i)
        operations = proper_operations(each).expand(int(here.sum()), -1, -1)
        away = disorientation_angle(parts.rotations[here], whole.rotations[here], operations, modulo_180=True)
        assert float((away.rad2deg() < 0.1).float().mean()) > 0.95


def test_reflections_of_many_crystals_are_found_in_parts(monkeypatch):
    lists = [reflections(phase(name), 1.0) for name in ("Al", "LiNiO2")]
    table = ReflectionTable.stack(lists, 200.0)
    rotations = torch.nn.functional.normalize(torch.randn(40, 4, generator=torch.Generator().manual_seed(1)), dim=1)
    phase_id = torch.arange(40) % 2
    whole = find_spots(table, phase_id, rotations, 200.0, n_spots=20)
    room = sys.modules[find_spots.__module__]
    monkeypatch.setattr(room, "_ROWS_AT_ONCE", {"cpu": 7 * table.g.shape[1]})
    parts = find_spots(table, phase_id, rotations, 200.0, n_spots=20)
    for one, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)
    assert parts.kx.shape == (40, 20)


# ---------------------------------------------------------------- what it costs
@pytest.mark.parametrize("name", ["Al", "LiNiO2", "ZrO2"])
def test_the_cost_is_that_of_what_is_made(name):
    grid = PolarPreprocessing(1.2, n_k=52)
    cost, made = Cost.of(phase(name), grid), Proposer.from_phases([phase(name)], 200.0, grid)
    assert cost.templates == pytest.approx(len(made), rel=0.3)
    factors = made.templates.numel() * made.templates.element_size()
    assert 0.9 * factors < cost.n_bytes < 1.5 * factors
    # extinct reflections count, too
    assert cost.reflections == pytest.approx(len(reflections(phase(name), 1.2, extinct=True)), rel=0.05)
    assert 0.1 < cost.seconds < 5


def test_the_cost_grows_with_phases_and_patterns():
    grid, several = PolarPreprocessing(1.2, n_k=52), [phase("Al"), phase("ZrO2")]
    one, both = Cost.of(several[1], grid), Cost.of_all(several, grid)
    assert both.templates > one.templates and both.seconds > one.seconds and both.of_pattern() > one.of_pattern()
    said = cost_together(several, grid, 10_000)
    assert said.startswith(f"2 phases: about {both.templates} templates of {both.reflections} reflections, about 1 s")
    assert f"{1e3 * both.of_pattern():.2g} ms for a pattern" in said and "for 10000 (one core)" in said
    assert said.endswith("MiB of memory")
    # one after another memory is that of the largest, and time that of all
    apart = cost_one_by_one(several * 5, grid, 200, 0.0)
    assert apart == cost_one_by_one(several * 5, grid, 200, 0.0)
    assert apart.split(";")[1] == cost_one_by_one(several[1:], grid, 200, 0.0).split(";")[1]
    assert [time_of(s) for s in (0.1, 40, 100, 1000, 9000)] == [
        "about 1 s", "about 40 s", "about 1.7 min", "about 17 min", "about 2.5 h",
    ]  # fmt: skip


def test_more_phases_than_memory_holds_are_refused():
    with pytest.raises(ValueError, match=r"1000 phases at once .* 20 GiB; at most 8 GiB .*identify_phases"):
        cost_together([phase("ZrO2")] * 1000, PolarPreprocessing(1.2, n_k=52), 10)


@pytest.fixture
def small():
    model = OrientationModel("any_crystal", AnyCrystalNetwork(8).eval(), PolarPreprocessing(1.2), [], name="small")
    made = PatternSimulator([phase("Al")], 200, 1.2, SimulationSettings(pixels=(64,)), seed=2)(6)
    return model, make_signal(made.patterns.numpy(), made.calibration.replace(beam_energy=200.0), "scan")


def test_predictions_say_what_it_costs_before_they_begin(small, monkeypatch):
    model, signal = small
    said, phases = [], [raw_phase("Al"), raw_phase("Mg")]
    monkeypatch.setattr(Proposer, "from_phases", lambda *a, **k: pytest.fail("made before anything was said") if not
                        said else (_ for _ in ()).throw(InterruptedError))  # fmt: skip
    with pytest.raises(InterruptedError):
        predict_orientation(signal, model, phases=phases, calibrate=True, device="cpu", on_message=said.append)
    assert said[0].startswith("Looking for 2 phases: about ") and "for 6 (one core)" in said[0]


def test_a_phase_that_the_detector_does_not_reach_is_refused_at_once(small, monkeypatch):
    model, signal = small
    structure = Structure([Atom("H", (0, 0, 0))], Lattice(1.7, 1.7, 1.7, 90, 90, 90))
    tiny = Phase("tiny", space_group=221, structure=structure)
    monkeypatch.setattr(Proposer, "from_phases", None)  # nobody may come so far
    for axis in signal.axes_manager.signal_axes:
        axis.scale, axis.offset = axis.scale * 0.42, axis.offset * 0.42
    with pytest.raises(ValueError, match=r"'tiny' has no reflection within 0.5.*first one lies at 0.5882 Å⁻¹.*leave"):
        predict_orientation(signal, model, phases=[raw_phase("Al"), tiny], device="cpu")


# ---------------------------------------------------------------- what is wrong with a scan
@pytest.mark.parametrize("energy", [29.9, 1001, 5])
def test_energies_that_are_too_far_off_are_refused(small, energy):
    model, signal = small
    message = f"The beam energy is {energy:g} kV; phases are looked for at 30 to 1000 kV"
    for phases in (raw_phase("Al"), [raw_phase("Al"), raw_phase("LiNiO2")]):
        with pytest.raises(ValueError, match=message):
            predict_orientation(signal, model, phases=phases, beam_energy=energy, device="cpu")
        with pytest.raises(ValueError, match=message):
            signal.identify_phases(phases, model=model, beam_energy=energy)
    with pytest.raises(ValueError, match=message):
        signal.find_calibration(raw_phase("Al"), model=model, beam_energy=energy)


@pytest.mark.parametrize("energy, doubtful", [(30, True), (59, True), (60, False), (300, False), (1000, True)])
def test_energies_beyond_those_of_the_training_are_warned_of(small, energy, doubtful):
    model, signal = small
    model = replace(model, training={"beam_energy": [60.0, 300.0]})
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        said = []
        xmap = predict_orientation(
            signal, model, phases=raw_phase("Al"), beam_energy=energy, device="cpu", on_message=said.append,
            show_progressbar=False,
        )  # fmt: skip
    text = f"The beam energy is {energy} kV, but the model 'small' was trained at 60 to 300 kV"
    assert sum(text in str(each.message) for each in found) == doubtful
    assert xmap.size == 6 and np.isfinite(xmap.rotations.data).all()


def test_where_nothing_is_indexed_it_is_said_with_both_numbers(small):
    model, signal = small
    quiet = {"phases": raw_phase("LiNiO2"), "device": "cpu", "show_progressbar": False}
    strict = replace(model, thresholds={"crystal": 0.5, "score": 1.0})
    with pytest.warns(UserWarning, match=r"None of 6 patterns is indexed: their best score is 0\.\d+, .*score 1\."):
        predict_orientation(signal, strict, **quiet)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        predict_orientation(signal, replace(model, thresholds={"crystal": 0.0, "score": 0.0}), **quiet)
    assert not any("is indexed" in str(each.message) for each in found)


@pytest.mark.skipif("any-crystal" not in list_models(), reason="the model is not bundled yet")
@pytest.mark.parametrize("name, length", [("Al", 0.428), ("LiNiO2", 0.491)])
def test_patterns_with_fewer_than_three_peaks_are_not_indexed(name, length):
    rng, patterns = np.random.default_rng(0), []
    for n in (0, 1, 2) * 2:  # the direct beam, and up to two spots of a row
        angle = 2 * np.pi * rng.random() + np.pi * np.arange(n)
        kx, ky = (torch.as_tensor(np.append(0, length * f(angle)))[None].float() for f in (np.cos, np.sin))
        drawn = draw_spots(kx, ky, torch.tensor([[5000.0] + [1500.0] * n]), NOMINAL, disk_radius=0.02, blur=0.8)
        patterns.append(rng.poisson(drawn[0].clamp_min(0).numpy() + 0.02))
    signal = make_signal(np.array(patterns, dtype=np.uint16), NOMINAL, "few")
    with pytest.warns(UserWarning, match=r"None of 6 patterns is indexed: their best score is 0\."):
        xmap = predict_orientation(signal, phases=raw_phase(name), device="cpu", show_progressbar=False)
    assert (xmap.phase_id == -1).all() and xmap.prop["score"].max() < 0.2
