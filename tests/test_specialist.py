"""Training that goes on from a network that takes any crystal."""

import re

import pytest
import torch
from sample_phases import phase, raw_phase
from test_any_crystal import scan, simulated

import pyxem_dl
from pyxem_dl.models import OrientationModel, load_model
from pyxem_dl.networks.any_crystal import AnyCrystalNetwork
from pyxem_dl.preprocessing import PolarPreprocessing
from pyxem_dl.simulation import SimulationSettings
from pyxem_dl.training import specialist
from pyxem_dl.training.any_crystal import AnyCrystalConfiguration, fit_scores, train_any_crystal
from pyxem_dl.training.crystal_batches import CrystalBatches, NamedPatterns, alike

QUICK = {
    "max_steps": 2, "max_minutes": 60.0, "batch_size": 16, "crystals_at_once": 2, "device": "cpu",
    "simulation": SimulationSettings(shape_factors=("many_beam",), setup_size=8), "show_progressbar": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def generalist():
    torch.manual_seed(0)
    return OrientationModel("any_crystal", AnyCrystalNetwork(16).eval(), PolarPreprocessing(1.5), [], name="small")


@pytest.fixture(autouse=True)
def few_patterns(monkeypatch):
    monkeypatch.setattr(specialist, "_VALIDATION_SETUPS", 1)
    monkeypatch.setattr(specialist, "_VALIDATION_PATTERNS", 16)
    monkeypatch.setattr(specialist, "training_phases", lambda show_progressbar: [phase("Mg"), phase("MgO")])


def test_train_goes_on_from_the_generalist(generalist, tmp_path, capsys):
    model = pyxem_dl.train(
        [raw_phase("Al"), raw_phase("LiNiO2")], start=generalist, beam_energy=200, reciprocal_radius=1.2,
        output=tmp_path / "mine", **QUICK,
    )  # fmt: skip
    assert [p.name for p in model.phases] == ["Al", "LiNiO2"] and model.network_name == "any_crystal"
    assert "from small" in capsys.readouterr().out
    card = (tmp_path / "mine" / "README.md").read_text(encoding="utf-8")
    assert "from the weights of small" in card and "Al (m-3m)" in card
    assert re.search(r"\| train \| \d+ \| 32 \|", card)
    before, after = (m.network.state_dict() for m in (generalist, model))
    moved = [float((before[k].float() - after[k].float()).abs().max()) for k in before]
    assert 0 < max(moved) < 0.1  # it went on, and did not begin again
    # its phases need not be named, and it is used at the energy of the scan
    again = load_model(tmp_path / "mine")
    again.verify(tmp_path / "mine")
    xmap = pyxem_dl.predict_orientation(scan(simulated("Al", 6)), again, show_progressbar=False)
    assert xmap.size == 6 and set(xmap.phases.names) <= {"Al", "LiNiO2", "not_indexed"}


def test_without_a_beam_energy_it_learns_them_all(generalist, tmp_path):
    model = pyxem_dl.train(raw_phase("Al"), start=generalist, output=tmp_path / "mine", **QUICK)
    assert tuple(model.training["beam_energy"]) == AnyCrystalConfiguration().beam_energy
    for energy in (80, 300):
        assert model.with_phases(model.phases, energy, 1.2).domain["beam_energy"] == energy


def test_what_does_not_go_together_is_said(generalist, tmp_path):
    with pytest.raises(ValueError, match="takes no crystals.*any-crystal"):
        pyxem_dl.train(raw_phase("Al"), start="al-200kv", output=tmp_path, **QUICK)
    with pytest.raises(ValueError, match="network='polar'"):
        pyxem_dl.train(raw_phase("Al"), start=generalist, output=tmp_path, devices=2, **QUICK)
    with pytest.raises(ValueError, match="Unknown settings verification_share"):
        pyxem_dl.train(raw_phase("Al"), output=tmp_path, verification_share=0.5)
    with pytest.raises(ValueError, match="'swin_tiny' needs `labelled`"):
        pyxem_dl.train(raw_phase("Al"), network="swin_tiny", output=tmp_path)
    with pytest.raises(ValueError, match="Give the phases"):
        pyxem_dl.train(output=tmp_path)
    with pytest.raises(ValueError, match="'small' takes any crystal.*start='small'"):
        pyxem_dl.train(raw_phase("Al"), recipe=generalist, output=tmp_path)
    with pytest.raises(ValueError, match="'small' takes any crystal.*train\\('my.cif'\\)"):
        pyxem_dl.finetune(generalist, labelled=[("scan.zspy", "labels.h5")], output=tmp_path)


def test_a_generalist_goes_on_from_another_one(generalist, tmp_path):
    phases = [raw_phase("Mg"), raw_phase("Al")]
    model = train_any_crystal(phases, start=generalist, output=tmp_path / "more", **QUICK)
    assert not model.phases and model.network.arguments["width"] == 16
    before, after = (m.network.state_dict() for m in (generalist, model))
    assert 0 < max(float((before[k].float() - after[k].float().cpu()).abs().max()) for k in before) < 0.1


def test_patterns_of_others_are_none_of_the_phases(generalist):
    c = AnyCrystalConfiguration(**{k: v for k, v in QUICK.items() if k not in ("device", "show_progressbar")},
                                foreign_share=0.5, uses=1)  # fmt: skip
    batches = specialist.SpecialistBatches(
        generalist.network, [phase("Al")], [phase("Mg"), phase("LiNiO2")], c, 0, torch.device("cpu")
    )
    made = [patterns for _ in range(12) for patterns in batches.make()]
    foreign = [bool((patterns.phase_id < 0).all()) for patterns in made]
    assert 6 <= sum(foreign) <= 18 and not any(patterns.network.crystals.operations.shape[0] > 1 for patterns in made)


def test_patterns_are_used_again(generalist):
    c = AnyCrystalConfiguration(batch_size=24, crystals_at_once=2, uses=3, simulation=QUICK["simulation"],
                                reciprocal_radius=(0.8, 0.9))  # fmt: skip
    batches = CrystalBatches(generalist.network, [phase("Al"), phase("Mg")], c, 0, torch.device("cpu"))
    used: dict[int, int] = {}
    kept = []  # so that no two have the same place in memory
    for _ in range(40):
        for patterns in batches.make():
            kept.append(patterns)
            used[id(patterns)] = used.get(id(patterns), 0) + 1
    assert len(used) <= 44 and max(used.values()) > 2 and sum(used.values()) >= 116


def test_crystals_that_look_alike_are_not_foreign():
    assert alike([phase("Al")], [phase("Al")]) and not alike([phase("Al")], [phase("Mg")])
    assert alike([phase("Mg"), phase("Al")], [phase("Al")])


def test_thresholds_leave_out_another_crystal(generalist):
    """Of patterns that are said to be of another crystal 3 % pass; the score's is that of empty ones."""
    preprocessing, made = PolarPreprocessing(1.2, n_k=52), simulated("Al", 64)
    network = generalist.network.with_phases([phase("Al")], 200.0, preprocessing)
    inputs = preprocessing.counted(made.patterns, made.calibration)
    own, foreign = (
        NamedPatterns(network, inputs, made.rotations, torch.full((64,), i, dtype=torch.long)) for i in (0, -1)
    )
    limits = fit_scores(network, [own, foreign])
    with torch.inference_mode():
        crystal = network.predict(inputs, 1).crystal
    assert (crystal > limits["crystal"]).float().mean() == pytest.approx(0.03, abs=0.02)
    assert limits["score"] == 0.5  # there are none to fit it with
