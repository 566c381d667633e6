"""Checkpoints of trainings: kept by the clock, whole or not there, and nothing in them runs."""

import os
import pickle
import signal
import subprocess
import sys

import pytest
import torch
from test_training import SMALL, aluminium

from pyxem_dl import training
from pyxem_dl.training import running
from pyxem_dl.training.running import Checkpoints


@pytest.fixture(autouse=True)
def few_validation_patterns(monkeypatch):
    monkeypatch.setattr(training.learning, "VALIDATION_PATTERNS", 32)


def train(output, **changes):
    settings = SMALL | {"max_steps": 4, "verification_share": 0.0} | changes
    return training.train(aluminium(), output=output, **settings)


def begun(output, monkeypatch):
    """Folder of the checkpoints of a training that was interrupted."""
    steps, original = [], training.OrientationTraining.training_step

    def step(self, batch, index):
        steps.append(index)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return original(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(training.OrientationTraining, "training_step", step)
        with pytest.raises(KeyboardInterrupt):
            train(output)
    return output / "checkpoint" / "propose"


class Runs:
    """What a stranger puts into a checkpoint."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("how", ["torch", "torch, old format", "pickle", "hidden among the tensors"])
def test_nothing_in_a_checkpoint_runs(tmp_path, monkeypatch, how):
    folder = begun(tmp_path / "model", monkeypatch)
    path, proof = folder / "interrupted.ckpt", tmp_path / "it ran"
    for other in set(folder.glob("*.ckpt")) - {path}:
        other.unlink()
    bad = Runs(f"'{proof}'")
    if how == "pickle":
        path.write_bytes(pickle.dumps(bad))
    elif how == "hidden among the tensors":
        torch.save(torch.load(path, weights_only=True) | {"clock": bad}, path)
    else:
        torch.save({"state_dict": bad}, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(ValueError, match="not loaded, and nothing was run.*resume=False starts the training again"):
        train(tmp_path / "model")
    assert not proof.exists() and path.exists()
    train(tmp_path / "model", resume=False)
    assert not proof.exists() and (tmp_path / "model" / "config.json").exists()


def test_a_checkpoint_holds_no_more_than_numbers_and_texts(tmp_path, monkeypatch):
    path = begun(tmp_path / "model", monkeypatch) / "interrupted.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    assert checkpoint["global_step"] == 2 and checkpoint["clock"]["patterns"] == 32


@pytest.mark.parametrize("damage", ["empty", "half", "zeros", "text"])
def test_a_damaged_checkpoint_blocks_nothing(tmp_path, monkeypatch, capsys, damage):
    folder = begun(tmp_path / "model", monkeypatch)
    path = folder / "interrupted.ckpt"
    raw = path.read_bytes()
    for other in set(folder.glob("*.ckpt")) - {path}:
        other.unlink()
    older = folder / "older.ckpt"
    older.write_bytes(raw)
    os.utime(older, (1, 1))
    damaged = {"empty": b"", "half": raw[: len(raw) // 2], "zeros": bytes(len(raw)), "text": b"no checkpoint" * 99}
    path.write_bytes(damaged[damage])
    train(tmp_path / "model")
    said = capsys.readouterr().out
    assert f"{path} is damaged" in said and f"propose: continuing from {older}" in said


def test_a_full_disk_does_not_end_a_training(tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(28, "No space left on device")

    kept = tmp_path / "kept.ckpt"
    Checkpoints().save_checkpoint({"a": torch.ones(2)}, kept)
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.write_bytes", full)
        with pytest.warns(UserWarning, match="could not be written .*No space left.*training continues"):
            Checkpoints().save_checkpoint({"a": torch.zeros(2)}, kept)
    assert Checkpoints().load_checkpoint(kept)["a"].sum() == 2
    assert [p.name for p in tmp_path.iterdir()] == ["kept.ckpt"]


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from test_training import SMALL, aluminium
from pyxem_dl import training
from pyxem_dl.training import running
training.learning.VALIDATION_PATTERNS = 32
running._FIRST_KEPT = 0.0  # as if the first steps had taken long
steps, original = [], training.OrientationTraining.training_step
def step(self, batch, index):
    steps.append(index)
    if len(steps) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, batch, index)
training.OrientationTraining.training_step = step
training.train(aluminium(), output={output!r}, max_steps=6, verification_share=0.0, **SMALL)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
@pytest.mark.slow
def test_a_killed_training_goes_on_long_before_its_250th_step(tmp_path, capsys):
    code = KILLED.format(tests=os.path.dirname(__file__), output=str(tmp_path / "model"))
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    kept = tmp_path / "model" / "checkpoint" / "propose" / "kept.ckpt"
    assert torch.load(kept, weights_only=True)["global_step"] == 1
    model = train(tmp_path / "model", max_steps=6)
    assert f"propose: continuing from {kept}" in capsys.readouterr().out
    assert "| propose | 0 | 96 |" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert model.name == "model" and not (tmp_path / "model" / "checkpoint").exists()


def test_trainings_are_kept_by_the_clock(tmp_path, monkeypatch):
    now, saved = [100.0], []
    monkeypatch.setattr(running.time, "monotonic", lambda: now[0])

    class Trainer:
        world_size = 1

        def save_checkpoint(self, path):
            saved.append(now[0])
            now[0] += 0.1 if len(saved) < 3 else 10.0

    kept = running.KeptByTheClock(tmp_path / "kept.ckpt")
    kept.on_train_start(Trainer(), None)
    for _ in range(300):
        now[0] += 3.0  # a step
        kept.on_train_batch_end(Trainer(), None)
    assert saved[0] == 106.0 and 60 <= saved[1] - saved[0] <= 64 and 60 <= saved[2] - saved[1] <= 64
    assert 500 <= saved[3] - saved[2] <= 514  # a slow disk takes a fiftieth of the time


def test_two_trainings_in_one_folder(tmp_path, monkeypatch):
    original, refused = training.OrientationTraining.on_train_start, []

    def meanwhile(self):
        with pytest.raises(BlockingIOError, match="is being written by another process, which holds"):
            train(tmp_path / "model", resume=False)
        refused.append(True)
        original(self)

    monkeypatch.setattr(training.OrientationTraining, "on_train_start", meanwhile)
    train(tmp_path / "model")
    assert refused and sorted(p.name for p in (tmp_path / "model").iterdir())[0] == "README.md"
