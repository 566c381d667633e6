"""Training on labelled scans, through Python and through the command line."""

import csv
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from diffpy.structure import Structure
from orix.quaternion import Rotation
from typer.testing import CliRunner

from pyxem_dl import __main__ as command_line, data, finetune, load_model, metrics, predict_orientation, train, training
from pyxem_dl.frames import Calibration
from pyxem_dl.models import OrientationEnsemble
from pyxem_dl.results.maps import save_map
from pyxem_dl.scans import make_signal
from pyxem_dl.training import labelled

QUICK = {"show_progressbar": False, "device": "cpu", "max_steps": 3, "batch_size": 8}
TINY = {"network": "cnn", "size": 32, "network_arguments": {"backbone_arguments": {"width": 4, "depth": 3}}}
SWIN = {"depths": [1, 1, 1, 1], "embed_dim": 12, "num_heads": [1, 1, 1, 1]}


@pytest.fixture(scope="module")
def files(polycrystal, tmp_path_factory):
    """A scan and its labels as files."""
    folder = tmp_path_factory.mktemp("scan")
    polycrystal.signal.save(folder / "scan.hspy")
    save_map(folder / "labels.h5", polycrystal.truth)
    return folder / "scan.hspy", folder / "labels.h5"


def test_a_training_on_labels_makes_a_model_folder(polycrystal, tmp_path):
    model = train(
        labelled=[(polycrystal.signal, polycrystal.truth)], output=tmp_path / "model", **TINY, **QUICK,
    )  # fmt: skip
    again = load_model(tmp_path / "model")
    again.verify(tmp_path / "model")
    assert model.fingerprint == again.fingerprint
    assert again.network_name == "regression" and again.preprocessing.size == 32
    assert again.domain["beam_energy"] == 200
    assert not (tmp_path / "model" / "checkpoint").exists()
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "held out by region" in card and "single positions" in card
    assert re.search(r"\| train \| \d\.\d \| 24 \|", card)  # minutes, patterns
    assert [(stage["name"], stage["patterns"]) for stage in again.provenance["stages"]] == [("train", 24)]
    with open(tmp_path / "model" / "training_log.csv", newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert 0 <= float(last["within_5_strict"]) <= 1 and 0 <= float(last["random_within_5_strict"]) <= 1
    xmap = predict_orientation(polycrystal.signal, again, show_progressbar=False)
    assert xmap.shape == (14, 16) and "uncertainty" not in xmap.prop and "reliability" not in xmap.prop


def test_predictions_drawn_with_dropout_have_an_uncertainty_in_degrees(polycrystal, tmp_path):
    model = train(
        labelled=[(polycrystal.signal, polycrystal.truth)], output=tmp_path / "model", **TINY, **QUICK
    )
    some = polycrystal.signal.inav[:4, :3]
    xmap = predict_orientation(some, model, n_samples=5, show_progressbar=False)
    assert xmap.prop["uncertainty"].shape == (12,)
    assert (xmap.prop["uncertainty"] >= model.uncertainty_fit[1] - 1e-6).all()
    with pytest.raises(ValueError, match="each pattern gets one orientation"):
        predict_orientation(some, model, n_best=2)
    with pytest.raises(ValueError, match="n_samples must be"):
        predict_orientation(some, model, n_samples=-1)
    with pytest.raises(ValueError, match="no dropout"):
        predict_orientation(some, "mgo-300kv", n_samples=2, beam_energy=300)


def test_several_models_are_an_ensemble(polycrystal, tmp_path):
    models = [
        train(labelled=[tuple(polycrystal)], output=tmp_path / str(seed), seed=seed, **TINY, **QUICK) for seed in (0, 1)
    ]
    ensemble = load_model([tmp_path / "0", models[1]])
    assert isinstance(ensemble, OrientationEnsemble)
    some = polycrystal.signal.inav[:4, :3]
    xmap = predict_orientation(some, [tmp_path / "0", models[1]], show_progressbar=False)
    each = [predict_orientation(some, m, show_progressbar=False) for m in models]
    apart = metrics.disorientation(each[0].rotations, each[1].rotations, models[0].phases[0])
    # two that are near each other meet in the middle; of others the surer one is right
    far = apart > 10
    np.testing.assert_allclose(xmap.prop["uncertainty"], apart / np.where(far, 2**0.5, 2), atol=0.5)
    surer = np.argmax([m.prop["scores"] for m in each], axis=0)
    chosen = np.where((surer == 0)[:, None], *(m.rotations.data for m in each))
    assert metrics.disorientation(xmap.rotations, chosen, models[0].phases[0])[far].max(initial=0) < 0.1
    with pytest.raises(ValueError, match="at least two"):
        load_model([models[0]])
    with pytest.raises(ValueError, match="same phases"):
        load_model([models[0], "mgo-300kv"])


@pytest.mark.parametrize(("network", "settings"), [
    ("cnn", ["size=32", "network_arguments={backbone_arguments: {width: 4, depth: 3}}"]),
    ("densenet121", ["size=32", "network_arguments={backbone_arguments: {block_config: [1, 1, 1, 1]}}"]),
    ("swin_tiny", [f"network_arguments={{backbone_arguments: {json.dumps(SWIN)}}}"]),
    ("swin_tiny_adapted", [f"network_arguments={{backbone_arguments: {json.dumps(SWIN)}, head: r6}}"]),
    ("resnet18", ["size=32", "network_arguments={head: euler}"]),
    ("polar", ["network_arguments={width: 16, depth: 1, kernel: 9, resolution: 10}", "verification_share=0.5"]),
])  # fmt: skip
def test_every_network_learns_through_the_command_line(network, settings, files, tmp_path):
    scan, labels = files
    arguments = ["train", "--labelled", f"{scan}:{labels}", "--network", network, "--output", tmp_path / "model",
                 "--device", "cpu", "--no-progress", "--set", "max_steps=4", "--set", "batch_size=8"]  # fmt: skip
    for setting in settings:
        arguments += ["--set", setting]
    result = CliRunner().invoke(command_line.app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    assert "126 to train on" in result.output
    model = load_model(tmp_path / "model")
    model.verify(tmp_path / "model")
    assert model.training["network_name"] == network
    result = CliRunner().invoke(command_line.app, [str(a) for a in (
        "predict", scan, "--model", tmp_path / "model", "--output", tmp_path / "map.h5", "--no-progress",
    )])  # fmt: skip
    assert result.exit_code == 0, result.output


def test_a_model_is_adapted_through_the_command_line(files, tmp_path):
    scan, labels = files
    arguments = ["--labelled", f"{scan}:{labels}", "--output", tmp_path / "model", "--device", "cpu", "--no-progress"]
    few = ["--set", "max_steps=2", "--set", "batch_size=8"]
    result = CliRunner().invoke(command_line.app, [str(a) for a in ("finetune", "linio2-200kv", *arguments, *few)])
    assert result.exit_code == 0, result.output
    assert load_model(tmp_path / "model").training["simulated_share"] == 0.85
    result = CliRunner().invoke(command_line.app, [
        str(a) for a in ("finetune", "linio2-200kv", *arguments[:2], "--output", tmp_path / "other", "--set", "seed=3")
    ])  # fmt: skip
    assert result.exit_code == 1 and "--seed" in str(result.exception) + result.output
    for setting, option in (("max_minutes=3", "--max-minutes"), ("phases=a.cif", "CIF files behind")):
        result = CliRunner().invoke(command_line.app, [
            str(a) for a in ("train", *arguments[:2], "--output", tmp_path / "other", "--set", setting)
        ])  # fmt: skip
        assert result.exit_code == 1 and option in str(result.exception) + result.output
    result = CliRunner().invoke(command_line.app, ["finetune", "linio2-200kv", "--output", str(tmp_path / "other")])
    assert result.exit_code == 2 and "--labelled" in result.output
    result = CliRunner().invoke(command_line.app, [
        str(a) for a in ("train", *arguments[:2], "--output", tmp_path / "other", "--set", "network=cnn")
    ])  # fmt: skip
    assert result.exit_code == 1 and "--network" in str(result.exception) + result.output


def test_pretrained_weights_through_the_command_line(files, tmp_path):
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(3)
    backbone = timm.create_model("resnet18", num_classes=10)
    save_file(backbone.state_dict(), tmp_path / "weights.safetensors")
    scan, labels = files
    result = CliRunner().invoke(command_line.app, [str(a) for a in (
        "train", "--labelled", f"{scan}:{labels}", "--network", "resnet18", "--output", tmp_path / "model",
        "--pretrained", tmp_path / "weights.safetensors", "--set", "max_steps=1", "--set", "size=32",
        "--set", "batch_size=8", "--set", "learning_rate=1e-12", "--device", "cpu", "--no-progress",
    )])  # fmt: skip
    assert result.exit_code == 0, result.output
    found = load_model(tmp_path / "model").network.state_dict()
    expected = backbone.state_dict()["layer4.1.conv2.weight"]
    (mine,) = (value for name, value in found.items() if name.endswith("layer4.1.conv2.weight"))
    torch.testing.assert_close(mine, expected, atol=1e-3, rtol=1e-2)  # saved in half precision


@pytest.mark.slow
def test_the_polar_network_learns_from_labels(polycrystal, tmp_path):
    model = train(
        labelled=(polycrystal.signal, polycrystal.truth), output=tmp_path / "model", max_steps=200, batch_size=32,
        network={"width": 64, "depth": 2, "resolution": 5.0}, learning_rate=3e-3, split="random",
        show_progressbar=False, device="cpu",
    )  # fmt: skip
    xmap = predict_orientation(polycrystal.signal, model, show_progressbar=False)
    angle = metrics.disorientation(xmap, polycrystal.truth, modulo_180=True)
    there = polycrystal.truth.phase_id >= 0
    assert np.nanmean(angle[there] < 5) > 0.35  # by chance 0.02


@pytest.mark.slow
def test_two_processes_learn_as_one(files, tmp_path):
    scan, labels = files
    losses = []
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for devices in (1, 2):
        output = tmp_path / str(devices)
        subprocess.run(
            [sys.executable, "-m", "pyxem_dl", "--debug", "train", "--labelled", f"{scan}:{labels}", "--network", "cnn",
             "--output", output, "--device", "cpu", "--devices", str(devices), "--no-progress",
             "--set", "max_steps=12", "--set", "batch_size=16", "--set", "size=32",
             "--set", "network_arguments={dropout: 0.0, backbone_arguments: {width: 4, depth: 3, dropout: 0.0}}"],
            check=True, capture_output=True, timeout=400, env=environment,
        )  # fmt: skip
        with open(output / "training_log.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["validation_loss"]]
        losses.append(float(rows[-1]["validation_loss"]))
        assert float(rows[-1]["patterns"]) == 12 * 16
    assert losses[1] == pytest.approx(losses[0], rel=0.01)


def interrupt_the_third_step(monkeypatch):
    """As Ctrl-C would, until the patch is undone."""
    step = training.learning.OrientationTraining.training_step

    def interrupt(self, batch, index):
        if index == 2:
            raise KeyboardInterrupt
        return step(self, batch, index)

    monkeypatch.setattr(training.learning.OrientationTraining, "training_step", interrupt)


def test_an_interrupted_training_goes_on(polycrystal, tmp_path, monkeypatch):
    pair = [(polycrystal.signal, polycrystal.truth)]
    interrupt_the_third_step(monkeypatch)
    with pytest.raises(KeyboardInterrupt, match="repeat the call to continue"):
        train(labelled=pair, output=tmp_path / "model", **TINY, **QUICK | {"max_steps": 6})
    monkeypatch.undo()
    train(labelled=pair, output=tmp_path / "model", **TINY, **QUICK | {"max_steps": 6})
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "| 48 |" in card


def test_a_training_goes_on_only_with_its_own_labels(polycrystal, tmp_path, monkeypatch):
    interrupt_the_third_step(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(labelled=[tuple(polycrystal)], output=tmp_path / "model", **TINY, **QUICK)
    monkeypatch.undo()
    other = polycrystal.truth.deepcopy()
    other._rotations = other._rotations * Rotation([0, 0, 0, 1])
    with pytest.raises(ValueError, match="settings or labels"):
        train(labelled=[(polycrystal.signal, other)], output=tmp_path / "model", **TINY, **QUICK)


def test_a_network_that_is_adapted_stays_what_it_is(polycrystal):
    for fixed in ("size", "reciprocal_radius", "network_name"):
        with pytest.raises(ValueError, match=f"{fixed} cannot be changed: finetune keeps the network of 'linio2"):
            finetune("linio2-200kv", [tuple(polycrystal)], **{fixed: 64})
    with pytest.raises(ValueError, match="Unknown settings network_name"):
        train(labelled=[tuple(polycrystal)], network="cnn", network_name="cnn")


def test_a_model_of_labels_is_no_recipe_for_simulations(polycrystal, tmp_path):
    train(labelled=[tuple(polycrystal)], output=tmp_path / "model", **TINY, **QUICK)
    with pytest.raises(ValueError, match="cannot be the recipe for simulated"):
        train(recipe=tmp_path / "model", output=tmp_path / "again")


def test_an_early_stop_ends_a_training_that_learns_nothing(polycrystal, tmp_path, monkeypatch):
    steps = []
    step = labelled.LabelledTraining.training_step
    monkeypatch.setattr(
        labelled.LabelledTraining, "training_step", lambda self, *batch: steps.append(1) or step(self, *batch)
    )
    monkeypatch.setattr(training.learning, "VALIDATION_SHARE", 1e9)  # it validates after each step
    train(
        labelled=[(polycrystal.signal, polycrystal.truth)], output=tmp_path / "model", patience=2,
        validation_minutes=1e-9, learning_rate=1e-12, **TINY, **QUICK | {"max_steps": 200},
    )  # fmt: skip
    assert 3 <= len(steps) < 100


def test_batches_are_normalised_and_features_left_out_while_learning(polycrystal, tmp_path, monkeypatch):
    learning = []
    step = labelled.LabelledTraining.training_step

    def watched(self, *arguments):
        learning.append(self.network.dropout.training and self.network.backbone.training)
        return step(self, *arguments)

    monkeypatch.setattr(labelled.LabelledTraining, "training_step", watched)
    pairs, settings = [(polycrystal.signal, polycrystal.truth)], QUICK | {"validation_minutes": 1e-9}
    train(labelled=pairs, network="resnet10t", size=32, output=tmp_path / "model", **settings)
    first = load_model(tmp_path / "model")
    finetune(first, pairs, output=tmp_path / "tuned", **settings)
    tuned = load_model(tmp_path / "tuned")
    assert learning == [True] * 6
    before, after = (
        next(layer for layer in model.network.modules() if isinstance(layer, torch.nn.BatchNorm2d)).running_mean
        for model in (first, tuned)
    )
    assert before.abs().max() > 0 and not torch.equal(before, after)
    assert not first.network.training and not tuned.network.training


@pytest.mark.parametrize(("share", "n_validations"), [(1e9, 3), (1e-9, 2)])
def test_validations_leave_the_time_to_learning(polycrystal, tmp_path, monkeypatch, share, n_validations):
    validations = []
    results = labelled.LabelledTraining.validation_results
    monkeypatch.setattr(training.learning, "VALIDATION_SHARE", share)
    monkeypatch.setattr(
        labelled.LabelledTraining, "validation_results", lambda self: validations.append(1) or results(self)
    )
    train(
        labelled=[(polycrystal.signal, polycrystal.truth)], output=tmp_path / "model", validation_minutes=1e-9,
        **TINY, **QUICK,
    )  # fmt: skip
    assert len(validations) == n_validations


def test_finetuning_adapts_a_copy(polar_folder, tmp_path, monkeypatch):
    """Of a polar network; those that take any crystal are in test_labelled_crystals.py."""
    monkeypatch.chdir(tmp_path)
    polycrystal = data.polycrystal((14, 16), 2e4, n_grains=6, pixels=64, phase=data.aluminium())
    first = load_model(polar_folder)
    before = first.fingerprint
    model = finetune(first, [(polycrystal.signal, polycrystal.truth)], **QUICK | {"max_steps": 4}, simulated_share=0.5)
    assert first.fingerprint == before != model.fingerprint
    assert (tmp_path / "polar-tuned" / "config.json").exists()
    assert model.network.comparison is not None
    assert model.description == "Al, polar adapted to labelled scans"
    assert model.domain["disk_radius"] != first.domain["disk_radius"]
    assert model.thresholds["crystal"] == first.thresholds["crystal"]
    assert model.thresholds["score"] != first.thresholds["score"]  # fitted to what the adapted network says
    calibration = Calibration.from_signal(polycrystal.signal)
    low, high = model.domain["scale"]
    assert low <= min(calibration.scale) and high >= 2 * max(calibration.scale)
    assert first.domain == load_model(polar_folder).domain
    again = finetune(
        tmp_path / "polar-tuned", [(polycrystal.signal, polycrystal.truth)], **QUICK, output=tmp_path / "again"
    )
    # an adapted model is simulated for as the first was, and sees spots where both learnt them
    assert again.training["simulated_share"] == 0.85
    assert again.training["first_training"] == model.training["first_training"]
    assert labelled._simulation_recipe(again) == labelled._simulation_recipe(first)
    assert again.preprocessing.scale_factor == model.preprocessing.scale_factor
    plain = finetune(
        first, [(polycrystal.signal, polycrystal.truth)], **QUICK, output=tmp_path / "plain", simulated_share=0.0
    )
    assert "score" not in plain.thresholds and "score" in first.thresholds
    of_labels = train(labelled=[(polycrystal.signal, polycrystal.truth)], output=tmp_path / "labels", **TINY, **QUICK)
    with pytest.raises(ValueError, match="simulated_share=0"):
        finetune(of_labels, [(polycrystal.signal, polycrystal.truth)], simulated_share=0.5, output=tmp_path / "none")
    with pytest.raises(TypeError, match="cannot be fine-tuned"):
        finetune("bragg-disks", [(polycrystal.signal, polycrystal.truth)])


def test_the_folder_is_named_after_network_and_phases(polycrystal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for expected in ("cnn-LiNiO2", "cnn-LiNiO2-2"):
        train(labelled=[(polycrystal.signal, polycrystal.truth)], **TINY, **QUICK)
        assert (tmp_path / expected / "config.json").exists()


def test_labels_that_do_not_fit_are_refused(polycrystal, tmp_path):
    signal, truth = polycrystal
    with pytest.raises(ValueError, match="The labels have the shape"):
        train(labelled=[(signal.inav[:10], truth)], output=tmp_path, **TINY, **QUICK)
    with pytest.raises(ValueError, match="pairs"):
        train(labelled=[signal], output=tmp_path, **TINY, **QUICK)
    with pytest.raises(ValueError, match="Only .* labels are confident"):
        train(labelled=[(signal, truth)], min_score=2.0, output=tmp_path, **TINY, **QUICK)
    with pytest.raises(ValueError, match="have no reliability"):
        train(labelled=[(signal, truth)], min_reliability=0.1, output=tmp_path, **TINY, **QUICK)
    with pytest.raises(ValueError, match="Unknown settings min_scores"):
        train(labelled=[(signal, truth)], min_scores=0.1, output=tmp_path, **TINY, **QUICK)
    with pytest.raises(ValueError, match="There is no network 'swim_tiny'.*swin_tiny"):
        train(labelled=[(signal, truth)], network="swim_tiny", output=tmp_path, **QUICK)
    with pytest.raises(ValueError, match="last of several scans"):
        train(labelled=[(signal, truth)], split="scan", output=tmp_path, **TINY, **QUICK)
    with pytest.raises(ValueError, match="no beam energy; it is that of the scans"):
        train(labelled=[(signal, truth)], beam_energy=200, output=tmp_path, **TINY, **QUICK)


def test_a_phase_that_the_model_does_not_have_is_refused(polycrystal, tmp_path):
    signal, truth = polycrystal
    with pytest.raises(ValueError, match="Laue group -3m in the labels, but m-3m"):
        finetune("al-200kv", [(signal, truth)], output=tmp_path, **QUICK)
    with pytest.raises(ValueError, match="phase LiNiO2, which is not one of Al, MgO"):
        train([data.aluminium(), data.mgo_phase()], labelled=[(signal, truth)], output=tmp_path, **TINY, **QUICK)


def test_scans_of_other_beam_energies_do_not_go_together(polycrystal, tmp_path):
    other = make_signal(polycrystal.signal.data, Calibration((0.04, 0.04), (32, 32), (64, 64), 300.0), "other")
    with pytest.raises(ValueError, match="200 to 300 kV"):
        train(labelled=[tuple(polycrystal), (other, polycrystal.truth)], output=tmp_path, **TINY, **QUICK)


def test_phases_with_no_more_than_a_point_group_will_do(polycrystal, tmp_path):
    truth = polycrystal.truth.deepcopy()
    phase = truth.phases[0]
    phase.space_group, phase.point_group, phase.structure = None, "-3m", Structure(lattice=phase.structure.lattice)
    model = train(labelled=[(polycrystal.signal, truth)], output=tmp_path / "model", **TINY, **QUICK)
    assert load_model(tmp_path / "model").phases[0].point_group.name == "-3m"
    with pytest.raises(ValueError, match="phases with atoms"):
        train(labelled=[(polycrystal.signal, truth)], verification_share=0.2, output=tmp_path / "polar", **QUICK)
    assert model.phases[0].name == "LiNiO2"


@pytest.mark.slow
def test_a_model_is_adapted_to_several_scans_of_which_the_last_is_held_out(polycrystal, tmp_path):
    model = finetune(
        "linio2-200kv", [tuple(polycrystal), tuple(polycrystal)], split="scan", output=tmp_path / "m", **QUICK,
    )  # fmt: skip
    assert model.training["split"] == "scan"


def test_only_crystals_with_an_inversion_are_mirrored(polycrystal, tmp_path):
    labels = polycrystal.truth.deepcopy()
    labels.phases[0].point_group = "32"
    with pytest.raises(ValueError, match="LiNiO2 has no inversion"):
        train(labelled=[(polycrystal.signal, labels)], mirror=True, output=tmp_path / "m", **TINY, **QUICK)
    model = train(labelled=[(polycrystal.signal, labels)], output=tmp_path / "m", network="polar", **QUICK)
    assert model.training["mirror"] is False
    assert train(labelled=[tuple(polycrystal)], output=tmp_path / "n", network="polar", **QUICK).training["mirror"]


def test_the_uncertainty_is_brought_to_the_size_of_the_errors():
    generator = torch.Generator().manual_seed(0)
    spread = 0.2 + torch.rand(4000, generator=generator)
    expected = ((3 * spread) ** 2 + 1.0).sqrt()
    error = (torch.randn(4000, 3, generator=generator) * expected[:, None] / 3**0.5).norm(dim=1)
    factor, floor = labelled.fit_uncertainty(spread, error)
    assert factor == pytest.approx(3, rel=0.15) and floor == pytest.approx(1, rel=0.3)
