"""The comparison of trainings with and without Bloch waves: its numbers, its table, and that it need not train."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("suite", reason="needs the benchmark, which lies beside the package, in benchmarks/suite")
from suite import running, verifier  # noqa: E402


def found(strict, modulo=None, indexed=True):
    strict = np.asarray(strict, dtype=float)
    modulo = np.minimum(strict, 180 - strict) if modulo is None else np.asarray(modulo, dtype=float)
    return {"strict": strict, "modulo_180": modulo, "score": np.full(len(strict), 0.75),
            "indexed": np.broadcast_to(indexed, strict.shape)}  # fmt: skip


ONE = found([0.1, 0.2, 3.0, 179.0], indexed=[True, False, True, True])
OTHER = found([0.1, 0.2, 9.0, 1.0])


def test_what_is_not_indexed_is_wrong():
    numbers = verifier.numbers(ONE)
    assert (numbers["n"], numbers["near"], numbers["strict"], numbers["modulo_180"]) == (4, 0.25, 0.5, 0.75)
    assert numbers["median"] == 2.0 and numbers["score"] == 0.75 and numbers["called"] == 0.75
    assert "gained" not in numbers


def test_the_same_patterns_are_compared():
    numbers = verifier.numbers(OTHER, ONE)
    assert numbers["gained"] == {"near": 1, "strict": 2, "modulo_180": 1}
    assert numbers["lost"] == {"near": 0, "strict": 1, "modulo_180": 1}
    row = {"sets": {"a": numbers, "b": numbers}}
    together = verifier.pooled(row)
    assert together["n"] == 8 and together["near"] == 0.5
    change, spread = together["change_strict"]
    assert change == 0.25 and spread == pytest.approx(math.sqrt(6 - 8 * 0.25**2) / 8)
    assert verifier.spread(0.5, 100) == 0.05


def test_its_table():
    rows = [
        {"predictor": "present mixture", "minutes": 12, "patterns": 5, "sets": {"a": verifier.numbers(ONE)}},
        {"predictor": "half Bloch waves", "minutes": 12, "patterns": 4, "sets": {"a": verifier.numbers(OTHER, ONE)}},
    ]
    text = verifier.table(rows, lambda _: "x")
    assert "| a | 4 | present mixture | 2.00° | 25.0 ± 21.7 % | 75.0 ± 21.7 % | 50.0 ± 25.0 % | 0.750 / 0.750 |" in text
    assert "| half Bloch waves | 12 | 4 | 50.0 ± 25.0 % |" in text and "+25.0 ± 41.5 %" in text


def test_models_that_are_there_are_not_trained_again(tmp_path, monkeypatch):
    (signal, rotations, phase), *_ = next(parts for title, parts in _open_sets() if "10⁴" in title)
    monkeypatch.setattr(verifier, "held_out", lambda data: [("four", [(signal.inav[:4], rotations[:4], phase)])])
    monkeypatch.setattr(verifier, "train", lambda *_: pytest.fail("it must not train"))
    running.run(tmp_path, tmp_path, sections=["verifier"], models={"any": ["any-crystal"] * 2}, device="cpu", threads=1)
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "| half Bloch waves |" in text and "+0.0 ± 0.0 %" in text and "| bundled |" in text


def _open_sets():
    from suite import datasets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "DOSES", ())
        patch.setattr(verifier, "CONDITIONS", ("1e4",))
        yield from verifier.held_out(None)


def test_trainings_differ_in_their_share_and_take_cpu_time(tmp_path, monkeypatch):
    from pyxem_dl.training import learning

    asked = []

    def train(**settings):
        start = learning.time.monotonic()
        torch.rand(300, 300) @ torch.rand(300, 300)
        asked.append(settings | {"took": learning.time.monotonic() - start})

    monkeypatch.setattr(verifier, "train_any_crystal", train)
    places = [verifier.train(share, 3.0, tmp_path, "cpu") for share in verifier.MIXTURES.values()]
    one, other = (each["simulation"] for each in asked)
    assert replace(one, bloch_share=0.5) == other and places[0] != places[1]
    for key in ("start", "max_minutes", "seed", "device"):
        assert asked[0][key] == asked[1][key]
    assert learning.time.__name__ == "time" and asked[0]["took"] >= 0
