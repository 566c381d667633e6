"""Training of the disk detector: what counts as found, and a few steps through Lightning."""

import pytest
import torch
from sample_phases import raw_phase

from pyxem_dl.crystals import load_phases, read_manifest
from pyxem_dl.models import load_model
from pyxem_dl.networks.fcunet import Disks, FCUNet
from pyxem_dl.patterns.patches import PATCH_SIZE
from pyxem_dl.simulation.disks import DiskSettings, DiskSimulator
from pyxem_dl.training import bragg, disk_batches
from pyxem_dl.training.bragg import (
    BraggConfiguration,
    BraggTraining,
    divided,
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
    simulator = DiskSimulator(load_phases(raw_phase("Mg")), settings=settings, seed=0)
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
    detected = {"f1", "precision", "recall", "threshold", "best_f1", "position_error", "intensity"}
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


def test_the_threshold_is_the_lowest_that_is_precise():
    class Doubtful(torch.nn.Module):
        radius = 5.0

        def predict(self, patterns, probe, most):
            positions = torch.cat([truth.positions, truth.positions + 200], dim=1)
            confidence = torch.cat([0.6 * truth.visible, 0.31 * truth.visible], dim=1)
            return Disks(positions[..., 0], positions[..., 1], *[confidence] * 9)

    truth = batch([True, True, True], [True, True, True])
    results = validate(Doubtful(), [truth])
    assert 0.31 < results["threshold"] < 0.36
    assert results["precision"] == results["f1"] == results["best_f1"] == 1


def test_train_bragg_leaves_a_model_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(bragg, "VALIDATION_BATCHES", 2)
    monkeypatch.setattr(disk_batches, "STORE", 16)
    settings = {"size": 48, "native_radius": (5.0, 6.0)}
    arguments = {
        "max_steps": 2, "batch_size": 8, "network": {"widths": (8, 8, 8)},
        "simulation": DiskSettings(**settings), "show_progressbar": False,
    }  # fmt: skip
    made = train_bragg(raw_phase("Mg"), output=tmp_path / "small", **arguments)
    back = load_model(tmp_path / "small")
    back.verify(tmp_path / "small")
    assert back.thresholds == made.thresholds and back.training["simulation"]["size"] == 48
    card = (tmp_path / "small" / "README.md").read_text()
    assert "Mg" in card and "F1" in card
    assert [stage["name"] for stage in back.provenance["stages"]] == ["detect", "read"]
    assert not (tmp_path / "small" / "checkpoint").exists()
    (crystal,) = read_manifest(tmp_path / "small" / "crystals.json")
    assert crystal["formula"] == "Mg" and crystal["source"] == "user"
    with pytest.raises(FileExistsError, match="already holds a model"):
        train_bragg(output=tmp_path / "small", **arguments)


def test_crystals_are_divided_between_training_and_validation():
    configuration = BraggConfiguration(validation_share=0.2)
    learnt, held_out = divided(list(range(20)), configuration)
    assert len(held_out) == 4 and sorted(learnt + held_out) == list(range(20))
    assert divided(list(range(20)), configuration) == (learnt, held_out)
    # of two none can be spared
    assert divided([1, 2], configuration) == ([1, 2], [1, 2])


@pytest.mark.slow
def test_the_bundled_detector_has_not_seen_what_it_is_measured_on():
    crystals = training_phases(show_progressbar=False)
    formulas = {entry["formula"] for entry in crystals.manifest}
    assert len(crystals) > 200 and not formulas & set(bragg.HELD_OUT)
    cubic = [p for p in crystals if p.space_group.number == 225 and len(p.structure) == 4]
    assert all(abs(p.structure.lattice.a - a) > 0.1 for p in cubic for a in (3.61, 4.05, 4.09))


def test_every_visible_disk_is_a_target_however_far_from_its_bragg_condition():
    settings = DiskSettings(size=48, native_radius=(5.0, 6.0), electrons=(1e6, 1e7), background=(1e-4, 2e-4))
    simulator = DiskSimulator(load_phases(raw_phase("Mg")), settings=settings, seed=0)
    simulated, batches = [], DiskBatches(lambda n: simulated.append(simulator(n)) or simulated[-1], 8)
    examples = batches._examples() + batches._examples()
    error = torch.cat([p.excitation_error for p in simulated])
    visible = torch.cat([example.visible for example in examples])
    assert bool((visible & (error.abs() > 0.12)).any())


def test_batches_are_drawn_from_many_setups_and_each_pattern_as_often_as_is_said(monkeypatch):
    monkeypatch.setattr(disk_batches, "STORE", 40)
    settings = DiskSettings(size=48, native_radius=(5.0, 6.0))
    simulator = DiskSimulator(load_phases(raw_phase("Mg")), settings=settings, seed=0)
    batches = DiskBatches(simulator, 16, uses=2)
    made = [batches.make() for _ in range(12)]
    keys = [tuple(pattern.flatten().tolist()) for batch in made for pattern in batch.patterns]
    counts = [keys.count(key) for key in set(keys)]
    assert max(counts) <= 2 and sum(counts) == 12 * 16 and counts.count(2) > len(counts) / 2
    assert len({float(probe.max()) for probe in made[-1].probe}) > 3
    # and again the same from the same seed
    again = DiskBatches(DiskSimulator(load_phases(raw_phase("Mg")), settings=settings, seed=0), 16, uses=2)
    assert torch.equal(again.make().patterns, made[0].patterns)


def test_views_have_the_truth_of_their_disks():
    settings = DiskSettings(size=64, native_radius=(5.0, 6.0), electrons=(1e6, 1e7), ghost_share=0.0, blank_share=0.0)
    batches = ReadingBatches(DiskSimulator(load_phases(raw_phase("Mg")), settings=settings, seed=0), 32)
    made = batches.make()
    views, truth = made.views, made.truth
    assert len(views.patches) == len(truth.offset) > 50
    # where offsets are taken back, the bright part of an isolated disk is in the middle
    at = (torch.arange(views.patches.shape[-1]) - views.patches.shape[-1] // 2) / 10.0
    alone = (views.others.sum((1, 2)) < 0.01 * views.patches.sum((1, 2))) & (views.numbers[:, 7] == 1)
    found = torch.stack([(views.patches.sum(d) * at).sum(1) / views.patches.sum((1, 2)) for d in (1, 2)], dim=1)
    assert int(alone.sum()) > 3
    wrong = (found - truth.offset)[alone]
    assert float(wrong.abs().median()) < 0.1


def test_views_of_diffracted_disks_are_turned_as_their_truth(monkeypatch):
    monkeypatch.setattr(disk_batches, "STORE", 64)  # no more than are looked at
    settings = DiskSettings(
        size=64, native_radius=(5.0, 6.0), electrons=(1e6, 1e7), background=(1e-4, 2e-4), ghost_share=0.0,
        blank_share=0.0, clipped_share=0.0, aberrated_share=0.0,
    )  # fmt: skip
    batches = ReadingBatches(DiskSimulator(load_phases(raw_phase("Mg")), settings=settings, seed=0), 64)
    at, seen, true = (torch.arange(PATCH_SIZE) - PATCH_SIZE // 2) / 10.0, [], []
    for _ in range(3):
        views, truth = batches.make()
        whole = views.patches.sum((1, 2))
        # bands run across g: in this direction the middle of what stands out is that of the disk
        level = torch.cat([views.patches[:, :2], views.patches[:, -2:]], dim=1).flatten(1).amax(1)
        bright = (views.patches - level[:, None, None]).clamp_min(0) + 1e-6
        alone = (views.others.sum((1, 2)) < 0.05 * whole) & (views.numbers[:, 7] == 0)
        alone &= (views.seen.amin((1, 2)) == 1) & (bright.sum((1, 2)) > 0.3 * whole)
        seen.append(((bright.sum(2) * at).sum(1) / bright.sum((1, 2)))[alone])
        true.append(truth.offset[alone, 1])
    seen, true = torch.cat(seen), torch.cat(true)
    assert len(seen) > 20 and float(torch.corrcoef(torch.stack([seen, true]))[0, 1]) > 0.5  # of the other sign: -0.7


def test_bands_lie_where_the_excitation_error_is_zero(monkeypatch):
    monkeypatch.setattr(disk_batches, "STORE", 64)  # no more than are looked at
    settings = DiskSettings(
        size=64, native_radius=(5.0, 6.0), disk_radius=(0.08, 0.1), thickness=(300.0, 500.0), electrons=(1e6, 1e7),
        background=(1e-4, 2e-4), ghost_share=0.0, blank_share=0.0, clipped_share=0.0, aberrated_share=0.0,
    )  # fmt: skip
    batches = ReadingBatches(DiskSimulator(load_phases(raw_phase("Mg")), settings=settings, seed=0), 64)
    at = (torch.arange(35) - 17) / 10.0
    columns, distances = [], []
    for _ in range(12):
        views, truth = batches.make()
        near = truth.has_distance & (truth.distance.abs() > 0.3) & (truth.distance.abs() < 1.0)
        near &= views.seen.amin((1, 2)) == 1  # of a disk at the border only a part tells where the band lies
        near &= views.others.sum((1, 2)) < 0.2 * views.patches.sum((1, 2))
        columns.append(((views.patches.sum(1) * at).sum(1) / views.patches.sum((1, 2)) - truth.offset[:, 0])[near])
        distances.append(truth.distance[near])
    columns, distances = torch.cat(columns), torch.cat(distances)
    assert len(columns) > 10
    # s(q) = s + wavelength g q: zero towards -g where s is positive
    assert float((columns * distances > 0).float().mean()) < 0.25
