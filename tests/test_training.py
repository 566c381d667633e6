"""Training: it learns, it goes on after an interruption, it refuses what cannot be trained."""

import csv

import pytest
import torch
from diffpy.structure import Atom, Lattice, Structure
from orix.crystal_map import Phase

from pyxem_dl import training
from pyxem_dl.crystals import load_phases
from pyxem_dl.models import load_model
from pyxem_dl.simulation import SimulationSettings

SMALL = {
    "beam_energy": 200.0, "reciprocal_radius": 1.2, "batch_size": 16,
    "network": {"width": 16, "depth": 1, "kernel": 9, "resolution": 8.0},
    "simulation": SimulationSettings(setup_size=16, pixels=(48,)),
    "show_progressbar": False, "device": "cpu",
}


def aluminium():
    structure = Structure(lattice=Lattice(4.05, 4.05, 4.05, 90, 90, 90), atoms=[Atom("Al", [0, 0, 0])])
    return Phase("Al", space_group=225, structure=structure)


@pytest.fixture(autouse=True)
def few_validation_patterns(monkeypatch):
    monkeypatch.setattr(training.learning, "VALIDATION_PATTERNS", 32)


def test_a_training_makes_a_model_folder(tmp_path):
    model = training.train(aluminium(), output=tmp_path / "model", max_steps=8, **SMALL)
    again = load_model(tmp_path / "model")
    again.verify(tmp_path / "model")
    assert again.domain["beam_energy"] == 200
    assert again.network.comparison is not None
    polar = torch.rand(2, 2, 64, 144)
    with torch.inference_mode():
        torch.testing.assert_close(
            again.network.predict(polar).crystal, model.network.predict(polar).crystal,
            atol=2e-3, rtol=0,
        )
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "| propose | 0 | 96 |" in card
    facts = again.provenance
    assert [(stage["name"], stage["patterns"]) for stage in facts["stages"]] == [("propose", 96), ("verify", 32)]
    assert facts["hardware"] in card and "torch" in facts["versions"] and facts["date"] > "2026"
    assert "| `learning_rate` | 0.0012 |" in card
    with open(tmp_path / "model" / "training_log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["stage"] for row in rows] == ["propose", "verify"]
    assert 0 <= float(rows[-1]["misindexing_rate"]) <= 1
    assert not (tmp_path / "model" / "checkpoint").exists()


def test_a_model_is_the_recipe_for_another(tmp_path):
    first = training.train(aluminium(), output=tmp_path / "first", max_steps=4, **SMALL)
    again = training.train(
        recipe=tmp_path / "first", output=tmp_path / "again", device="cpu", show_progressbar=False
    )
    assert again.training == load_model(tmp_path / "first").training
    assert again.training["simulation"]["pixels"] == [48]
    assert [p.name for p in again.phases] == ["Al"]
    for ours, theirs in zip(first.network.parameters(), again.network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="Give beam_energy and reciprocal_radius, or a recipe"):
        training.train(aluminium(), network="polar", output=tmp_path / "none")
    with pytest.raises(ValueError, match="Give the phases to train on"):
        training.train(output=tmp_path / "none", beam_energy=200, reciprocal_radius=1.2)


def test_the_loss_falls():
    network, batches, _ = training.orientation._ingredients(
        [*load_phases(aluminium())],
        training.TrainingConfiguration(
            **{k: v for k, v in SMALL.items() if k not in ("show_progressbar", "device")}
        ),
        torch.device("cpu"),
    )
    polar, rotations, phase_id = batches.make()
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    for _ in range(30):
        loss, _ = network.loss(polar, rotations, phase_id)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1


def test_an_interrupted_training_goes_on(tmp_path, monkeypatch, capsys):
    steps = []
    original = training.OrientationTraining.training_step

    def interrupted(self, batch, index):
        steps.append(self.stage)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return original(self, batch, index)

    monkeypatch.setattr(training.OrientationTraining, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt, match="Nothing is lost: repeat the call to continue"):
        training.train(aluminium(), output=tmp_path / "model", max_steps=8, **SMALL)
    assert list((tmp_path / "model" / "checkpoint" / "propose").glob("*.ckpt"))
    training.train(aluminium(), output=tmp_path / "model", max_steps=8, **SMALL)
    assert "continuing from" in capsys.readouterr().out
    # 6 to propose and 2 to verify, of which 3 were done; the one that broke came again
    assert len(steps) == 4 + 5
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "| propose | 0 | 96 |" in card


def test_patience_ends_a_training_that_learns_nothing(tmp_path, monkeypatch):
    steps = []
    step = training.OrientationTraining.training_step
    monkeypatch.setattr(
        training.OrientationTraining, "training_step",
        lambda self, *batch: steps.append(self.stage) or step(self, *batch),
    )  # fmt: skip
    monkeypatch.setattr(training.learning, "VALIDATION_SHARE", 1e9)  # it validates after each step
    settings = SMALL | {"learning_rate": 1e-12, "validation_minutes": 1e-9, "patience": 2}
    training.train(aluminium(), output=tmp_path / "model", max_steps=60, **settings)
    assert 3 <= steps.count("propose") < 20 and 3 <= steps.count("verify") < 15


def test_checkpoints_of_another_training_are_not_taken(tmp_path):
    (tmp_path / "model" / "checkpoint" / "propose").mkdir(parents=True)
    (tmp_path / "model" / "checkpoint" / "recipe.json").write_text("{}", encoding="utf-8")
    (tmp_path / "model" / "checkpoint" / "propose" / "last.ckpt").touch()
    with pytest.raises(ValueError, match="checkpoints of a training with other phases, settings or"):
        training.train(aluminium(), output=tmp_path / "model", max_steps=2, **SMALL)


def test_a_call_that_failed_at_once_claims_no_folder(tmp_path):
    with pytest.raises(ValueError, match="no reflection within"):
        training.train(
            aluminium(), output=tmp_path / "model", max_steps=4, **(SMALL | {"reciprocal_radius": 0.1})
        )
    model = training.train(aluminium(), output=tmp_path / "model", max_steps=4, **SMALL)
    assert model.domain["reciprocal_radius"] == SMALL["reciprocal_radius"]


def test_a_model_is_not_overwritten_by_accident(tmp_path):
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(FileExistsError, match="already holds a model"):
        training.train(aluminium(), output=tmp_path, max_steps=2, **SMALL)


@pytest.mark.parametrize("schedule", ["cosine", "exponential"])
def test_the_learning_rate_falls_with_the_clock(schedule):
    c = training.TrainingConfiguration(200, 1.5, schedule=schedule)
    rates = [c.rate(p, 10_000) for p in (0, 0.3, 0.6, 1.0)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(1)
    assert rates[-1] < 0.03
    assert c.rate(0.0, 0) < 0.01


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beam_energy": -200.0}, "-200.0 is not the beam energy"),
        ({"max_minutes": 0.0}, "max_minutes must be positive"),
        ({"verification_share": 1.0}, "verification_share must be at least 0 and below 1"),
        ({"schedule": "linear"}, "one of cosine, exponential, one_cycle, not 'linear'"),
        ({"batch_size": 17}, "must be a multiple of the simulation's setup_size"),
        ({"device": "tpu"}, "device 'tpu' cannot be used for training here"),
    ],
)
def test_bad_settings_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        training.train(aluminium(), output=tmp_path / "model", max_steps=2, **(SMALL | changes))


def test_a_phase_without_reflections_is_refused(tmp_path):
    settings = SMALL | {"reciprocal_radius": 0.1}
    with pytest.raises(ValueError, match="no reflection within"):
        training.train(aluminium(), output=tmp_path / "model", max_steps=2, **settings)


@pytest.mark.parametrize(("folder", "settings", "message"), [
    ("n" * 220, {}, "the model.name: string should have at most 200 characters"),
    ("model", {"name": "n" * 201}, "the model.name: string should have at most 200 characters"),
    ("model", {"description": "d" * 10_001}, "the model.description"),
    ("file/model", {}, "cannot be written: .*file is a file, not a folder"),
])  # fmt: skip
def test_a_model_that_could_not_be_saved_is_not_trained(folder, settings, message, tmp_path, monkeypatch):
    monkeypatch.setattr(training.orientation, "fit", lambda *_, **__: 1 / 0)
    (tmp_path / "file").write_text("")
    with pytest.raises((ValueError, OSError), match=message):
        training.train(aluminium(), output=tmp_path / folder, max_steps=2, **settings, **SMALL)
