"""What a training shows of how far it is."""

import math
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from test_training import SMALL, aluminium

from pyxem_dl import training
from pyxem_dl.training import progress
from pyxem_dl.training.configuration import TrainingConfiguration


def module(stage="propose", elapsed=0.0, step=0, **limits):
    """Stand in for a stage of a training."""
    configuration = TrainingConfiguration(beam_energy=200, reciprocal_radius=1.2, **limits)
    minutes, steps = configuration.stages()[stage]
    made = SimpleNamespace(
        configuration=configuration, stage=stage, minutes=minutes, steps=steps, elapsed=elapsed, global_step=step
    )
    made.progress = max(elapsed / (60 * minutes), step / steps)
    return made


TRAINER = SimpleNamespace(is_global_zero=True, progress_bar_metrics={"loss": torch.tensor(1.2345), "right_5deg": 0.5})


def test_time_left_is_that_of_the_clock_or_of_the_steps():
    clock = module(max_minutes=20, elapsed=60)
    share = clock.minutes / 20  # of the stage
    assert progress.seconds_left(clock) == pytest.approx(20 * 60 * share - 60)
    # 10 of 100 steps took 30 s: 90 more take 270 s
    steps = module("propose", max_minutes=1000, max_steps=math.ceil(100 / share), elapsed=30, step=10)
    assert progress.seconds_left(steps) == pytest.approx(270, rel=0.03)
    over = module(max_minutes=20, elapsed=1e5)
    assert progress.seconds_left(over) == 0
    assert [progress.time_text(s) for s in (0, 59.2, 61, 3723, math.inf)] == [
        "0:00", "1:00", "1:01", "1:02:03", "an unknown time",
    ]  # fmt: skip


def test_lines_come_at_intervals_where_there_is_no_terminal(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = progress.TrainingProgress(bar=False)
    work = module(max_minutes=20)
    length = 60 * work.minutes
    shown.on_train_start(TRAINER, work)
    for _ in range(300):  # batches of a second
        now[0] += 1
        work.elapsed += 1
        work.progress = work.elapsed / length
        shown.on_train_batch_end(TRAINER, work)
    shown.on_train_end(TRAINER, work)
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert err == "" and len(lines) == 1 + 300 // 30 + 1
    assert lines[0].startswith("Training, propose (1 of 2): 0% done, ")
    left = progress.time_text(length - 300)
    assert lines[-1] == f"Training, propose (1 of 2): {300 / length:.0%} done, {left} left, loss 1.23, right_5deg 0.5"
    assert "\r" not in out


def test_the_bar_has_stage_per_cent_and_time_left(capsys):
    shown = progress.TrainingProgress(bar=True)
    work = module("verify", max_minutes=20)
    shown.on_train_start(TRAINER, work)
    work.elapsed, work.progress = 60 * work.minutes / 4, 0.25
    shown._next = 0
    shown.on_train_batch_end(TRAINER, work)
    shown.on_train_end(TRAINER, work)
    err = capsys.readouterr().err
    left = progress.time_text(45 * work.minutes)
    assert re.search(rf"Training, verify \(2 of 2\):  25 %\|.*\| .*{left} left, loss 1\.23, right_5deg 0\.5", err)
    assert "?" not in err


def test_a_bar_needs_a_terminal_or_a_notebook(monkeypatch):
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: True))
    assert progress.can_draw()
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: False))
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert not progress.can_draw()
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert progress.can_draw()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace()))
    assert not progress.can_draw()


def test_other_processes_say_nothing(capsys):
    other = SimpleNamespace(is_global_zero=False, progress_bar_metrics={})
    shown = progress.TrainingProgress(bar=False)
    shown.on_train_start(other, module(max_minutes=20))
    shown.on_train_end(other, module(max_minutes=20))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("show", [True, False])
def test_a_training_writes_lines_into_a_log(tmp_path, capsys, monkeypatch, show):
    monkeypatch.setattr(training.learning, "VALIDATION_PATTERNS", 32)
    training.train(aluminium(), output=tmp_path / "model", max_steps=8, **SMALL | {"show_progressbar": show})
    out, err = capsys.readouterr()
    lines = [line for line in out.splitlines() if line.startswith("Training, ")]
    assert "it/s" not in out + err and "\r" not in out + err
    if not show:
        assert not lines
        return
    assert lines[0].startswith("Training, propose (1 of 2): 0% done, ")
    assert any(line.startswith("Training, propose (1 of 2): 100% done, 0:00 left, loss ") for line in lines)
    assert lines[-1].startswith("Training, verify (2 of 2): 100% done, 0:00 left, loss ") and "right_5deg" in lines[-1]
