"""The benchmark of networks that are trained on labels, in small."""

import json

import pytest

from pyxem_dl import data
from pyxem_dl.training import specialist

pytest.importorskip("suite", reason="needs the benchmark, which lies beside the package, in benchmarks/suite")
from suite import labelled, running  # noqa: E402


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A small polycrystal, two choices, and trainings of a moment."""
    monkeypatch.setattr(labelled, "_RESOLUTION", 4.0)
    scan = data.polycrystal((22, 24), 2e4, n_grains=5, pixels=48)
    made = labelled.LabelledData.of("small", scan.signal, data.lithium_nickel_oxide(), scan.truth)
    monkeypatch.setattr(labelled, "polycrystal", lambda: made)
    monkeypatch.setattr(labelled, "_MEMBERS", 2)
    monkeypatch.setattr(labelled, "NETWORKS", ("cnn", "polar"))
    for name in ("_VALIDATION_SETUPS", "_VALIDATION_OTHERS"):
        monkeypatch.setattr(specialist, name, 2)
    picked = ("all labels", "Euler angles, not clamped", "pretrained by timm")
    monkeypatch.setattr(labelled, "CHOICES", tuple(c for c in labelled.CHOICES if c[1] in picked))

    def refuse(*arguments, **settings):
        if settings.get("pretrained"):
            raise ValueError("No pretrained weights could be had.")
        return train(*arguments, **settings)

    train = labelled.train
    monkeypatch.setattr(labelled, "train", refuse)
    (tmp_path / "data").mkdir()
    return tmp_path


@pytest.mark.slow
def test_networks_are_compared_with_their_labels(small, capsys):
    path = running.run(
        small / "data", small / "out", sections=("labelled", "choices", "ensemble", "tuning"), device="cpu",
        training_minutes=0.01,
    )  # fmt: skip
    rows = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["rows"]
    by = {(row["section"], row["predictor"]): row for row in rows}
    assert [p for s, p in by if s == "labelled"] == [
        "labels, templates 1°", "network linio2-200kv, simulated", "the same, doubtful answers too",
        "cnn, on labels", "polar, on labels",
    ]  # fmt: skip
    assert [p for s, p in by if s == "ensemble"] == ["polar, seed 0", "polar, seed 1", "all together"]
    assert [p for s, p in by if s == "choices"] == ["cnn: all labels", "cnn: Euler angles, not clamped"]
    assert "No row of densenet121, pretrained by timm" in capsys.readouterr().out
    templates = by["labelled", "labels, templates 1°"]
    # on patterns of these grains template matching is mostly right
    assert templates["modulo_180"]["within_5"] > 0.3
    assert templates["n"] + templates["seen_n"] == 22 * 24 - 22
    tuned = [p for s, p in by if s == "tuning"]
    assert tuned == ["labels, templates 1°"] + [
        f"{network}, {name}" for network in ("polar", "any-crystal")
        for name in ("of a wrong scale and a clean background", "the same, fine-tuned")
    ]  # fmt: skip
    cnn = by["labelled", "cnn, on labels"]
    assert cnn["size_mb"] > 1 and 0 < cnn["minutes"] < 5
    text = path.read_text(encoding="utf-8")
    for title in ("Trained on labels", "What each choice changes", "An ensemble", "Fine-tuning"):
        assert title in text
    for name in ("labelled_maps", "labelled_selection", "labelled_reliability", "ensemble_reliability"):
        assert (small / "out" / f"{name}.png").stat().st_size > 5000
