"""Studies: from a YAML file to a report, and on after an interruption."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from pyxem_dl import __main__ as command_line, data, load_model, study
from pyxem_dl.results.labels import read_labels
from pyxem_dl.results.maps import save_map

optuna = pytest.importorskip("optuna", reason="optuna is not installed")

PLAN = {
    "labelled": ["scan.hspy", "labels.h5"],
    "settings": {
        "network": "cnn", "max_steps": 2, "batch_size": 8, "size": 32,
        "network_arguments": {"backbone_arguments": {"width": 4, "depth": 3}},
    },
    "search": {
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "network_arguments.head": ["r9", "r6", "euler"],
        "network_arguments.backbone_arguments.kernel": [3, 5],
        "batch_size": {"low": 4, "high": 16, "step": 4},
    },
    "trials": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A scan, its labels and its truth as files."""
    folder = tmp_path_factory.mktemp("study")
    scan = data.polycrystal((14, 16), 2e4, n_grains=6, pixels=64)
    scan.signal.save(folder / "scan.hspy")
    save_map(folder / "labels.h5", scan.truth)
    return folder


@pytest.fixture
def write(folder):
    """Write a plan, with changes, and return its path."""

    def write(name, **changes):
        plan = {key: value for key, value in (PLAN | changes).items() if value is not None}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(plan))
        return folder / f"{name}.yaml"

    return write


def trials_of(folder):
    """Rows of a study's table."""
    with open(folder / "trials.csv", newline="") as file:
        return list(csv.DictReader(file))


def going_on(path):
    """Run a study, and return what it says."""
    said = []
    study.run_study(path, device="cpu", echo=said.append)
    return said


def test_a_study_ends_with_a_report(write, folder):
    path = write("first", truth="labels.h5", objective="median")
    result = CliRunner().invoke(command_line.app, ["study", str(path), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    report = (folder / "first" / "report.md").read_text()
    assert "4 trials of cnn" in report and "against the truth" in report and "What matters" in report
    for name in ("history.png", "settings.png"):
        assert (folder / "first" / name).stat().st_size > 2000 and name in report
    rows = trials_of(folder / "first")
    assert len(rows) == 4
    assert {row["network_arguments.head"] for row in rows} <= {"r9", "r6", "euler"}
    best = min(rows, key=lambda row: float(row["value"]))
    model = load_model(folder / "first" / "trials" / f"{int(best['number']):04d}")
    assert model.network.arguments["head"] == best["network_arguments.head"]
    assert model.training["learning_rate"] == pytest.approx(float(best["learning_rate"]))


def test_a_study_goes_on_and_tries_what_was_interrupted_again(write, folder, monkeypatch):
    path = write("second", trials=2)
    train = study.train

    def interrupt(**settings):
        if settings["output"].name == "0001":
            raise KeyboardInterrupt
        return train(**settings)

    monkeypatch.setattr(study, "train", interrupt)
    with pytest.raises(KeyboardInterrupt):
        study.run_study(path, device="cpu")
    monkeypatch.undo()
    said = going_on(path)
    assert any("Trial 1 was interrupted" in line for line in said)
    assert any("1 of 2 trials are done" in line for line in said)
    rows = trials_of(folder / "second")
    assert [row["state"] for row in rows] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert rows[1]["learning_rate"] == rows[2]["learning_rate"]


def test_a_study_that_goes_on_draws_other_settings(write, folder):
    for trials in (2, 4):
        study.run_study(write("longer", trials=trials, settings=PLAN["settings"] | {"max_steps": 1}), device="cpu")
    rows = trials_of(folder / "longer")
    assert len({row["learning_rate"] for row in rows}) == len(rows) == 4


def test_trials_that_cannot_be_compared_are_not_put_together(write, folder):
    quick = PLAN["settings"] | {"max_steps": 1}
    study.run_study(write("changed", trials=1, settings=quick), device="cpu")
    table = (folder / "changed" / "trials.csv").read_text()
    with pytest.raises(ValueError, match="a study with another search, objective, whose trials"):
        study.run_study(write("changed", trials=2, settings=quick, objective="median", search={"batch_size": [4]}))
    assert (folder / "changed" / "trials.csv").read_text() == table


def test_a_trial_that_is_interrupted_while_it_predicts_is_tried_again(write, folder, monkeypatch):
    path = write("predicting", trials=1, settings=PLAN["settings"] | {"max_steps": 1})
    predict = study.predict_orientation

    def interrupted(*arguments, **settings):
        xmap = predict(*arguments, **settings)
        return xmap[np.arange(xmap.size) < xmap.size // 2]  # what an interrupted prediction returns

    monkeypatch.setattr(study, "predict_orientation", interrupted)
    with pytest.raises(KeyboardInterrupt):
        study.run_study(path, device="cpu")
    monkeypatch.undo()
    said = going_on(path)
    assert any("Trial 0 was interrupted" in line for line in said)


def test_a_truth_that_does_not_fit_is_refused_before_anything_is_trained(write, folder, monkeypatch):
    monkeypatch.setattr(study, "train", lambda **_: pytest.fail("it was trained"))
    save_map(folder / "small.h5", data.polycrystal((5, 16), n_grains=2, pixels=32).truth)
    with pytest.raises(ValueError, match="The truth has 80 positions, the labels 224"):
        study.run_study(write("misfit", truth="small.h5"), device="cpu")


@pytest.mark.parametrize("device, allowed, names", [
    ("auto", None, ["0", "1", "2", "0"]),
    ("cuda", "5, GPU-ab ,7", ["5", "GPU-ab", "7", "5"]),
    ("cuda:1", None, [None] * 4),
    ("cpu", "5,6", [None] * 4),
])  # fmt: skip
def test_gpus_are_dealt_out_to_the_processes(monkeypatch, device, allowed, names):
    monkeypatch.setattr(study.torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if allowed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    assert study._dealt_gpus(4, device) == names


def test_a_process_sees_the_gpu_that_it_was_dealt(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    with study._process("3") as one, study._process(None) as other:
        seen = [pool.apply(os.getenv, ("CUDA_VISIBLE_DEVICES",)) for pool in (one, other)]
    assert seen == ["3", "2,3"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3"


@pytest.mark.slow
def test_a_study_in_two_processes(write, folder):
    path = write("parallel", trials=3, processes=2, objective="median")
    study.run_study(path, device="cpu")
    values = [float(row["value"]) for row in trials_of(folder / "parallel") if row["state"] == "COMPLETE"]
    assert len(values) >= 3
    report = (folder / "parallel" / "report.md").read_text()
    assert "against the labels" in report


def test_settings_that_fail_are_left_out_of_the_report(write, folder):
    path = write("failing", trials=2, search={"size": [32, 4]})
    study.run_study(path, device="cpu")
    assert "| 4 |" not in (folder / "failing" / "report.md").read_text()
    path = write("hopeless", trials=1, search={"size": [4, 5]})
    with pytest.raises(RuntimeError, match="No trial of the study finished"):
        study.run_study(path, device="cpu")


def test_the_example_searches_what_it_names(folder):
    """Its whole space, with few and short trials."""
    example = Path(__file__).parent.parent / "examples" / "study.yaml"
    plan = yaml.safe_load(example.read_text(encoding="utf-8"))
    assert plan["labelled"] == ["scan.zspy", "labels.h5"]
    labels = read_labels(folder / "labels.h5")
    labels.prop["reliability"] = np.linspace(0.2, 1, labels.size)
    save_map(folder / "sure.h5", labels)
    plan |= {"labelled": ["scan.hspy", "sure.h5"], "output": "example", "trials": 2, "processes": 1}
    plan["settings"] |= {"max_steps": 2, "size": 32}
    (folder / "example.yaml").write_text(yaml.safe_dump(plan))
    report = study.run_study(folder / "example.yaml", device="cpu")
    text = Path(report).read_text(encoding="utf-8")
    assert all(name in text for name in plan["search"])
    assert len(trials_of(folder / "example")) == 2


@pytest.mark.parametrize(("changes", "message"), [
    ({"serch": {}}, "unknown: serch"),
    ({"search": None}, "missing: search"),
    ({"objective": "loss"}, "objective must be one of"),
    ({"search": {"learning_rate": {"low": 1, "high": 0.1}}}, "search.learning_rate must be a list of choices"),
    ({"search": {"head": []}}, "search.head must be a list"),
    ({"search": {"decay": {"low": 0, "high": 1, "log": True}}}, "log needs a range above 0"),
    ({"search": {"batch_size": {"low": 4, "high": 16, "log": True, "step": 4}}}, "and no step"),
    ({"labelled": "scan.hspy"}, "list of two files"),
])  # fmt: skip
def test_bad_plans_are_refused(write, changes, message):
    with pytest.raises(ValueError, match=message):
        study.run_study(write("bad", **changes))


def test_files_that_are_missing_are_named(write, tmp_path):
    with pytest.raises(FileNotFoundError, match="no file.*none.yaml"):
        study.run_study(tmp_path / "none.yaml")
    with pytest.raises(FileNotFoundError, match="names 'none.h5'"):
        study.run_study(write("bad", labelled=["scan.hspy", "none.h5"]))
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="has no entries"):
        study.run_study(tmp_path / "list.yaml")


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_journal_that_was_half_written_blocks_nothing(tmp_path, cut):
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path = tmp_path / "study.journal"

    def opened():
        storage = JournalStorage(JournalFileBackend(str(path)))
        return optuna.create_study(storage=storage, study_name="s", load_if_exists=True)

    opened().optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    raw = path.read_bytes()
    path.write_bytes(raw[:-cut])
    said = []
    study._mend_journal(path, said.append)
    assert "are an unfinished entry" in said[0]
    assert path.read_bytes() == raw[: raw[:-1].rindex(b"\n") + 1]
    assert (tmp_path / "study.journal.damaged").read_bytes() == raw[:-cut]
    opened().optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    # the last trial's end was lost: it counts as one that was killed
    assert [trial.state.name for trial in opened().trials] == ["COMPLETE"] * 2 + ["RUNNING"] + ["COMPLETE"] * 2
    study._mend_journal(path, said.append)
    assert len(said) == 1
