"""Training of the disk detector: what counts as found, and a few steps through Lightning."""

import pytest
import torch

from pyxem_dl.models import load_model
from pyxem_dl.networks.fcunet import Disks, FCUNet
from pyxem_dl.simulation.disks import DiskSettings, DiskSimulator
from pyxem_dl.training import bragg
from pyxem_dl.training.bragg import (
    BraggConfiguration,
    BraggTraining,
    scores_at,
    train_bragg,
    training_phases,
    validate,
)
from pyxem_dl.training.disk_batches import DiskBatch, DiskBatches, ReadingBatches
from pyxem_dl.training.running import fit


def batch(visible, counted):
    positions = torch.tensor([[[10.0, 10.0], [30.0, 30.0], [50.0, 50.0]]])
    electrons = torch.tensor([[100.0, 50.0, 5.0]])
    empty = torch.zeros(1, 64, 64)
    return DiskBatch(
        empty, empty, positions, electrons, torch.tensor([visible]), torch.tensor([counted])
    )


def detections(*rows):
    row, column, confidence = (torch.tensor([values]) for values in zip(*rows, strict=True))
    one = torch.ones_like(row)
    return Disks(row, column, 7 * one, confidence, one, *[0 * one] * 6)


def test_matching_is_one_to_one_and_doubtful_disks_count_neither_way():
    truth = batch([True, True, False], [True, True, True])
    found = detections(
        (10.5, 10.0, 0.9),  # the first disk
        (11.0, 10.0, 0.8),  # the first disk again: wrong
        (50.0, 50.0, 0.7),  # the doubtful one: does not count
        (20.0, 40.0, 0.6),  # nothing there: wrong
    )
    scores = scores_at([0.65, 0.5, 0.95], [found], [truth], radius=5.0)
    sure = scores[0.65]
    assert (sure.n_true, sure.n_hits, sure.n_false) == (2, 1, 1)
    assert sure.position_error == pytest.approx(0.5)
    assert scores[0.5].n_false == 2
    none = scores[0.95]
    assert (none.n_hits, none.n_false, none.recall) == (0, 0, 0)


@pytest.mark.parametrize("stage", ["detect", "read"])
def test_a_detector_is_trained_through_lightning(stage, tmp_path):
    settings = DiskSettings(size=48, native_radius=(5.0, 6.0))
    simulator = DiskSimulator(training_phases()[:1], settings=settings, seed=0)
    batches = (DiskBatches if stage == "detect" else ReadingBatches)(simulator, 8)
    configuration = BraggConfiguration(
        max_minutes=60.0, max_steps=6, reading_share=0.5, batch_size=8, simulation=settings
    )
    network = FCUNet(widths=(8, 8, 8), reader=True)
    before = {name: weights.clone() for name, weights in network.state_dict().items()}
    module = BraggTraining(network, configuration, stage, batches, [batches.make()])
    fit(module, tmp_path / "detect", torch.device("cpu"), "32-true", False)
    changed = {name for name, weights in network.state_dict().items() if not torch.equal(weights, before[name])}
    parts = {name.partition(".")[0] for name in changed}
    assert parts == ({"unet", "heads"} if stage == "detect" else {"reader"})
    detected = {"f1", "precision", "recall", "threshold", "position_error", "intensity"}
    read = {"position_error", "expected_error", "near_error", "near_sign", "potential", "reading_loss"}
    assert set(module.results) == (detected if stage == "detect" else read)
    assert (tmp_path / "detect" / "last.ckpt").is_file()
    assert module.patterns_seen == 24


def test_a_perfect_detector_scores_one():
    class Perfect(torch.nn.Module):
        radius = 5.0

        def predict(self, patterns, probe, most):
            t = truth
            confidence = torch.where(t.visible, 0.95, 0.0)
            return Disks(t.positions[..., 0], t.positions[..., 1], t.electrons, *[confidence] * 8)

    truth = batch([True, True, True], [True, True, True])
    results = validate(Perfect(), [truth])
    assert results["f1"] == 1 and results["precision"] == 1 and results["position_error"] == 0
    assert results["intensity"] > 0.999


def test_train_bragg_leaves_a_model_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(bragg, "VALIDATION_BATCHES", 2)
    settings = {"size": 48, "native_radius": (5.0, 6.0)}
    arguments = {
        "max_steps": 2, "batch_size": 8, "network": {"widths": (8, 8, 8)},
        "simulation": DiskSettings(**settings), "show_progressbar": False,
    }  # fmt: skip
    made = train_bragg(training_phases()[:1], output=tmp_path / "small", **arguments)
    back = load_model(tmp_path / "small")
    back.verify(tmp_path / "small")
    assert back.thresholds == made.thresholds and back.training["simulation"]["size"] == 48
    card = (tmp_path / "small" / "README.md").read_text()
    assert "Cu" in card and "F1" in card
    assert [stage["name"] for stage in back.provenance["stages"]] == ["detect", "read"]
    assert not (tmp_path / "small" / "checkpoint").exists()
    with pytest.raises(FileExistsError, match="already holds a model"):
        train_bragg(output=tmp_path / "small", **arguments)
