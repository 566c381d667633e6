import csv
import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_network import FakeNetwork, make_model, make_phase
from safetensors.torch import load_file

from pyxem_dl import load_model, models, networks
from pyxem_dl.frames import Calibration
from pyxem_dl.models import PRETRAINED, list_models
from pyxem_dl.preprocessing import usable_patterns

CALIBRATION = Calibration(scale=(0.1, 0.1), center=(10.0, 11.0), shape=(21, 23), beam_energy=200.0)


@pytest.fixture(autouse=True)
def _fake(monkeypatch, tmp_path):
    """The fake network can be built by name."""
    monkeypatch.setitem(networks.NETWORKS, "fake", FakeNetwork)


@pytest.fixture
def patterns(rng):
    return torch.as_tensor(rng.gamma(0.5, 100.0, (9, 21, 23)), dtype=torch.float32)


def as_numpy(found):
    return [tensor.numpy() for tensor in found]


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# ------------------------------------------------------------------ prediction
def test_batches_of_any_size_give_the_same_answer(patterns):
    model = make_model(2)
    centers = torch.tensor([[10.0, 11.0]]) + torch.linspace(-1, 1, 18).reshape(9, 2)
    mask = torch.zeros(21, 23, dtype=torch.bool)
    mask[8:13, 11:] = True
    whole = model.predict_batch(patterns, CALIBRATION, centers=centers, signal_mask=mask, n_best=3)
    assert [tuple(x.shape) for x in whole] == [(9, 3, 4), (9, 3), (9, 3), (9,)]
    for i in range(9):
        one = model.predict_batch(
            patterns[i : i + 1], CALIBRATION, centers=centers[i : i + 1], signal_mask=mask, n_best=3
        )
        for a, b in zip(as_numpy(one), as_numpy(whole)):
            np.testing.assert_array_equal(a[0], b[i])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("masked", [False, True])
def test_answers_are_the_same_bits_whatever_the_batch(precision, masked):
    """A real network on patterns with disks: sizes 1, 2, 7, 33 and 70 (more than a micro-batch)."""
    model = load_model("al-200kv")
    model.precision = precision
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(64.0) - 32, torch.arange(64.0) - 32, indexing="ij")
    scan = 3 * torch.ones(70, 64, 64)
    for _ in range(12):
        row, column = 50 * torch.rand(2, 70, 1, 1, generator=generator) - 25
        scan += 50 * torch.rand(70, 1, 1, generator=generator) * (torch.hypot(y - row, x - column) < 2)
    scan = torch.poisson(scan, generator)
    calibration = Calibration(scale=(0.05, 0.05), center=(32.0, 32.0), shape=(64, 64), beam_energy=200.0)
    mask = (torch.hypot(y, x) < 3) if masked else None
    centers = 32 + torch.rand(70, 2, generator=generator) if masked else None

    def found(size):
        parts = [
            model.predict_batch(
                scan[i : i + size], calibration, n_best=2, signal_mask=mask,
                centers=None if centers is None else centers[i : i + size],
            )
            for i in range(0, 14 if size == 1 else 70, size)
        ]  # fmt: skip
        return [torch.cat(column) for column in zip(*parts, strict=True)]

    whole = found(70)
    assert whole[2][:, 0].unique().numel() > 30
    for size in (1, 2, 7, 33):
        for ours, theirs in zip(found(size), whole, strict=True):
            np.testing.assert_array_equal(ours.numpy(), theirs[: len(ours)].numpy())


@pytest.mark.parametrize("option", ["centers", "signal_mask", "n_phi", "gamma"])
def test_every_setting_reaches_the_network(patterns, option):
    model, options = make_model(), {}
    before = model.predict_batch(patterns, CALIBRATION)
    if option == "centers":
        options["centers"] = torch.full((9, 2), 9.0)
    elif option == "signal_mask":
        options["signal_mask"] = torch.rand(21, 23) < 0.2
    else:
        model.preprocessing = replace(model.preprocessing, **{option: {"n_phi": 32, "gamma": 0.3}[option]})
    after = model.predict_batch(patterns, CALIBRATION, **options)
    assert (before.scores - after.scores).abs().max() > 1e-4


def test_patterns_that_nobody_can_index_have_no_crystal(patterns):
    good = make_model().predict_batch(patterns, CALIBRATION, n_best=2)
    bad = patterns.clone()
    bad[0, 3, 4], bad[1], bad[2], bad[3], bad[4, 0, 0] = torch.nan, 0, 65535, -patterns[3], torch.inf
    found = make_model().predict_batch(bad, CALIBRATION, n_best=2)
    assert (found.crystal[:5] == 0).all() and (found.scores[:5] == 0).all()
    assert all(torch.isfinite(x).all() for x in found)
    for a, b in zip(as_numpy(found), as_numpy(good)):
        np.testing.assert_allclose(a[5:], b[5:], atol=1e-6)


def test_negative_intensities_count_as_zero(patterns):
    low = patterns - 20
    a, b = (make_model().predict_batch(x, CALIBRATION).scores for x in (low, low.clamp_min(0)))
    torch.testing.assert_close(a, b)


def test_dead_pixels_under_the_mask_do_no_harm(patterns):
    mask = torch.zeros(21, 23, dtype=torch.bool)
    mask[5, 6] = True
    expected = make_model().predict_batch(patterns, CALIBRATION, signal_mask=mask)
    patterns[:, 5, 6] = torch.nan
    found = make_model().predict_batch(patterns, CALIBRATION, signal_mask=mask)
    assert (found.crystal > 0).all()
    torch.testing.assert_close(found.scores, expected.scores)


def test_usable_patterns_looks_only_at_what_is_not_masked():
    x = torch.zeros(2, 3, 3)
    x[0, 0, 0] = 5
    mask = torch.zeros(3, 3, dtype=torch.bool)
    assert usable_patterns(x)[1].tolist() == [True, False]
    mask[0, 0] = True
    assert usable_patterns(x, mask)[1].tolist() == [False, False]
    assert usable_patterns(x, torch.ones(3, 3, dtype=torch.bool))[1].tolist() == [False, False]


# ------------------------------------------------------------------ domain
def test_a_signal_like_the_training_data_gives_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_model().check_domain(CALIBRATION)
        make_model().check_domain(CALIBRATION.replace(beam_energy=None))
        make_model().check_domain(CALIBRATION.replace(beam_energy=205.0))
        make_model(domain={}).check_domain(CALIBRATION.replace(scale=(0.4, 0.4), beam_energy=80.0))


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"beam_energy": 300.0}, "beam energy is 300 kV, but the model 'fake-200kv' was trained for 200 kV"),
        ({"scale": (0.06, 0.06), "center": (5.0, 11.0)}, "covers 0.33 Å⁻¹ .* uses 0.9 Å⁻¹"),
        ({"scale": (0.3, 0.25)}, "scale is 0.3 × 0.25 Å⁻¹ per px, .* trained for 0.05 to 0.2 Å⁻¹"),
    ],
)
def test_outside_of_the_domain_warns_with_both_numbers(changes, text):
    with pytest.warns(UserWarning, match=text) as record:
        make_model().check_domain(CALIBRATION.replace(**changes))
    assert len(record) == 1


@pytest.mark.parametrize("changes", [{"scale": (0.001, 0.001)}, {"center": (-3.0, 11.0)}])
def test_a_detector_that_shows_nothing_is_an_error(changes):
    with pytest.raises(ValueError, match="Check the scale, unit and center"):
        make_model().check_domain(CALIBRATION.replace(**changes))


# ------------------------------------------------------------------ folder
@pytest.mark.parametrize("n_phases", [1, 2])
def test_round_trip(tmp_path, patterns, n_phases):
    model = make_model(n_phases, thresholds={"crystal": 0.3})
    folder = model.save(tmp_path / "a" / "model")
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "reference.safetensors",
    ]  # fmt: skip
    loaded = load_model(str(folder))
    for name in ("network_name", "preprocessing", "domain", "thresholds", "name", "description"):
        assert getattr(loaded, name) == getattr(model, name)
    assert loaded.fingerprint == model.fingerprint
    for a, b in zip(loaded.phases, model.phases):
        assert (a.name, a.space_group.number, a.color) == (b.name, b.space_group.number, b.color)
        assert len(a.structure) == len(b.structure)
    expected = model.predict_batch(patterns, CALIBRATION, n_best=2)
    found = loaded.predict_batch(patterns, CALIBRATION, n_best=2)
    for a, b in zip(as_numpy(found), as_numpy(expected)):
        np.testing.assert_array_equal(a, b)
    loaded.verify(folder)
    assert load_model(loaded) is loaded and load_model(folder).name == model.name


def test_half_precision_halves_the_weights_and_keeps_its_own_reference(tmp_path):
    model = make_model()
    full, half = model.save(tmp_path / "full"), model.save(tmp_path / "half", dtype=torch.float16)
    dtypes = [{t.dtype for t in load_file(f / "model.safetensors").values()} for f in (full, half)]
    assert dtypes == [{torch.float32}, {torch.float16}]
    loaded = load_model(half)
    assert next(loaded.network.parameters()).dtype == torch.float32
    loaded.verify(half)
    assert loaded.fingerprint != load_model(full).fingerprint
    assert next(model.network.parameters()).dtype == torch.float32, "saving must not change the model"


def test_the_fingerprint_tells_models_apart():
    model, other, third = make_model(), make_model(thresholds={"crystal": 0.4}), make_model()
    third.network.score.bias.data += 0.1
    assert model.fingerprint == make_model().fingerprint
    assert len({m.fingerprint for m in (model, other, third)}) == 3


FACTS = {
    "stages": [{"name": "propose", "minutes": 1.5, "patterns": 7}], "hardware": "a computer", "precision": "32-true",
    "date": "2026-01-02T03:04:05+00:00", "versions": {"torch": "2.9"},
}  # fmt: skip


def test_how_a_training_went_is_kept_and_tells_no_models_apart(tmp_path):
    model = make_model(provenance=FACTS)
    assert load_model(model.save(tmp_path / "model")).provenance == FACTS
    assert load_model(make_model().save(tmp_path / "without")).provenance == {}
    assert model.fingerprint == make_model().fingerprint


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"stages": []}, "provenance.stages: .* at least 1 item"),
        ({"stages": [{"name": "a", "minutes": -1.0, "patterns": 1}]}, "provenance.stages.0.minutes"),
        ({"hardware": 3}, "provenance.hardware"),
        ({"date": "yesterday"}, "provenance.date"),
        ({"versions": {"torch": 2}}, "provenance.versions.torch"),
    ],
)
def test_how_a_training_went_is_checked(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        make_model(provenance=FACTS | changes).save(tmp_path / "model")


@pytest.mark.parametrize("name", list_models())
def test_bundled_models_say_how_they_were_trained(name):
    facts = load_model(name).provenance
    with open(PRETRAINED / name / "training_log.csv", newline="", encoding="utf-8") as file:
        last = {row["stage"]: row for row in csv.DictReader(file) if row["patterns"]}
    card = (PRETRAINED / name / "README.md").read_text(encoding="utf-8")
    assert [stage["name"] for stage in facts["stages"]] == list(last)
    for stage in facts["stages"]:
        row = last[stage["name"]]
        assert stage["patterns"] == float(row["patterns"])
        assert stage["minutes"] == pytest.approx(float(row["minutes"]), abs=0.01)
        assert f"| {stage['patterns']:,} |" in card
    assert f"on {facts['hardware']}, {facts['precision']}:" in card


def test_card_log_and_reference_are_kept(tmp_path):
    (tmp_path / "log.csv").write_text("step,loss\n1,2\n")
    polar = torch.rand(3, 2, 12, 24)
    folder = make_model().save(
        tmp_path / "model", card="# A card\n", training_log=tmp_path / "log.csv", reference=polar
    )
    assert (folder / "training_log.csv").read_text().startswith("step")
    load_model(folder).save(folder)
    assert (folder / "README.md").read_text() == "# A card\n"
    assert "space group Fm-3m" in (make_model().save(tmp_path / "b") / "README.md").read_text()


def test_verify_sees_other_answers(tmp_path):
    folder = make_model().save(tmp_path / "model")
    model = load_model(folder)
    model.network.score.weight.data *= 1.05
    with pytest.raises(ValueError, match="no longer reproduces its stored predictions: scores differ"):
        model.verify(folder)


def test_nothing_is_pickled(tmp_path, monkeypatch):
    import pickle

    def refuse(*args, **kwargs):
        raise AssertionError("pickle")

    for name in ("dump", "dumps", "load", "loads", "Pickler", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    load_model(make_model().save(tmp_path / "model"))


def damage_config(folder):
    (folder / "config.json").write_text("{not json")


def damage_weights(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def truncate_weights(folder):
    import hashlib

    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    edit_config(folder, weights={"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()})


@pytest.mark.parametrize(
    "damage, error, text",
    [
        (lambda f: (f / "config.json").unlink(), FileNotFoundError, "not a complete .*: config.json is missing"),
        (lambda f: (f / "model.safetensors").unlink(), FileNotFoundError, "model.safetensors is missing"),
        (damage_config, ValueError, "is damaged: it is not JSON"),
        (damage_weights, ValueError, "its sha256 is not the one recorded there. Copy the whole folder again"),
        (truncate_weights, ValueError, "cannot be built from its config.json and model.safetensors"),
        (lambda f: (f / "config.json").write_text("{}"), ValueError, "is not a model of pyxem_dl"),
        (lambda f: (f / "config.json").write_text("[1]"), ValueError, "is not a model of pyxem_dl"),
        (lambda f: edit_config(f, format="timm"), ValueError, "was written by another program"),
        (lambda f: edit_config(f, format_version=99), ValueError, "format 99; this one reads up to 1.. Update"),
        (lambda f: edit_config(f, network={"name": "gone", "arguments": {}}), ValueError, "There is no network 'gone'"),
        (
            lambda f: edit_config(f, preprocessing={"name": "polar", "arguments": {"x": 1}}),
            ValueError,
            "config.json: .*preprocessing.arguments.x: unknown entry",
        ),
        (
            lambda f: edit_config(f, network={"name": "fake", "arguments": {"laue_groups": ["m-3m"], "n_k": 5}}),
            ValueError,
            "size mismatch",
        ),
        (
            lambda f: (f / "config.json").write_text('{"format": "pyxem_dl orientation model", "format_version": 1}'),
            ValueError,
            "is damaged: package_version, name, .* missing",
        ),
    ],
)
def test_a_folder_that_is_no_sound_model(tmp_path, damage, error, text):
    folder = make_model().save(tmp_path / "model")
    damage(folder)
    with pytest.raises(error, match=text):
        load_model(folder)


def test_a_model_that_is_not_there(tmp_path, monkeypatch):
    for name in ("al-200kv", "mgo-300kv"):
        make_model(name=name, description=f"Model {name}.").save(tmp_path / name)
    monkeypatch.setattr(models.loading, "PRETRAINED", tmp_path)
    assert list_models() == {"al-200kv": "Model al-200kv.", "mgo-300kv": "Model mgo-300kv."}
    assert load_model("mgo-300kv").name == "mgo-300kv"
    with pytest.raises(ValueError, match="no model or folder 'mgo'. Known models: mgo-300kv, al-200kv"):
        load_model("mgo")
    with pytest.raises(ValueError, match="or folder 'zzz'. Known models: al-200kv, mgo-300kv"):
        load_model("zzz")
    with pytest.raises(FileNotFoundError, match="There is no model folder '.*nothing'"):
        load_model(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="There is no model folder"):
        load_model("./mgo-300kv-mine")
    with pytest.raises(ValueError, match="is not a folder; a model is a folder"):
        (tmp_path / "file.pt").touch()
        load_model(tmp_path / "file.pt")
    with pytest.raises(TypeError, match="an OrientationModel, not int"):
        load_model(3)


def test_bundled_models_are_sound():
    """Every bundled model: small, whole, and today's code gives the answers that it was saved with."""
    for name in list_models():
        folder = models.PRETRAINED / name
        assert all(path.stat().st_size < 6e6 for path in folder.iterdir()), name
        assert (folder / "README.md").is_file() and (folder / "training_log.csv").is_file()
        model = load_model(name)
        assert model.name == name
        model.verify(folder)


def test_the_real_network_round_trips(tmp_path, patterns):
    phase = make_phase()
    arguments = {"n_k": 12, "n_phi": 24, "phi_steps": 12, "width": 8, "depth": 1, "kernel": 5, "resolution": 12.0}
    network = networks.build_network("polar", laue_groups=[phase.point_group.laue.name], **arguments)
    model = make_model(network_name="polar", network=network)
    folder = model.save(tmp_path / "model", dtype=torch.float16)
    loaded = load_model(folder)
    loaded.verify(folder)
    whole = loaded.predict_batch(patterns, CALIBRATION, n_best=2)
    for i in range(len(patterns)):
        one = loaded.predict_batch(patterns[i : i + 1], CALIBRATION, n_best=2)
        np.testing.assert_allclose(one.scores[0], whole.scores[i], atol=1e-5)
        np.testing.assert_allclose(one.rotations[0], whole.rotations[i], atol=1e-5)


def test_a_model_says_what_it_is_for():
    assert repr(make_model(2)) == "OrientationModel 'fake-200kv' (MgO, Ti; 200 kV; out to 0.9 Å⁻¹; fake)"
    assert "beam energy not recorded" in repr(make_model(domain={}))
    assert repr(load_model("bragg-disks")) == "BraggModel 'bragg-disks' (any crystal; disks of 1.5 to 40 px; fcunet)"
    ensemble = repr(load_model([make_model(), make_model(name="other")]))
    assert ensemble.startswith("OrientationEnsemble of 2: OrientationModel 'fake-200kv' (") and "'other'" in ensemble
