"""Proposals that are taken for certain: looked at alone and once; the threshold is fitted, and kept with the model."""

import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pyxem_dl import rotations as rot, symmetry
from pyxem_dl.frames import Calibration
from pyxem_dl.models import PRETRAINED, load_model
from pyxem_dl.networks import OrientationCandidates, build_network
from pyxem_dl.networks.verifier import PolarView
from pyxem_dl.training import learning, orientation


@pytest.fixture(scope="module")
def verifying():
    """A network with a verifier that has learnt nothing, but corrects and prefers."""
    torch.manual_seed(0)
    network = build_network(
        "polar", laue_groups=["m-3m"], width=16, depth=1, kernel=9, resolution=6.0,
        comparison={"n_reflections": 12, "reciprocal_radius": 1.5, "beam_energy": 200.0},
    ).eval()  # fmt: skip
    generator = torch.Generator().manual_seed(5)
    network.comparison.g.copy_(torch.rand(1, 12, 3, generator=generator) - 0.5)
    network.comparison.structure_factor.fill_(1.0)
    network.comparison.extinction_distance.fill_(500.0)
    torch.nn.init.normal_(network.comparison.correction.weight, std=0.1)
    torch.nn.init.normal_(network.score.weight, std=1.0)
    return network


@pytest.mark.parametrize("n_best", [1, 3, 6])
def test_only_the_doubtful_are_verified(verifying, n_best):
    polar = torch.rand(9, 2, 64, 144, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        verifying.take_for_certain(1.0)
        verified, proposed = verifying.predict(polar, n_best), verifying.propose(polar, max(n_best, 4))
        best = proposed.scores[:, 0]
        threshold = float(best.median())
        verifying.take_for_certain(threshold)
        found = verifying.predict(polar, n_best)
        _, improved = verifying.comparison.improve(
            PolarView.of(polar), proposed.rotations[:, :1], proposed.phase_id[:, :1], best[:, None].log()
        )
    certain = best > threshold
    assert certain.sum() == 4
    for new, old in zip(found, verified, strict=True):
        torch.testing.assert_close(new[~certain], old[~certain], atol=1e-6, rtol=0)
    torch.testing.assert_close(found.scores[certain], proposed.scores[certain, :n_best])
    assert float(rot.misorientation_angle(found.rotations[:, :1], improved)[certain].max()) < 1e-3
    torch.testing.assert_close(found.rotations[certain, 1:], proposed.rotations[certain, 1:n_best])


def test_what_all_patterns_share_may_be_there_once(verifying):
    intensity = torch.rand(3, 64, 144, generator=torch.Generator().manual_seed(2))
    valid = (torch.rand(1, 64, 144, generator=torch.Generator().manual_seed(3)) > 0.1).float()
    with torch.inference_mode():
        together = verifying.predict(torch.stack([intensity, valid.expand_as(intensity)], dim=1), 2)
        apart = verifying.predict((intensity, valid), 2)
    for a, b in zip(apart, together, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_answers_are_the_same_bits_whatever_the_batch(polar_folder):
    model = load_model(polar_folder)
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(64.0) - 32, torch.arange(64.0) - 32, indexing="ij")
    scan = 3 * torch.ones(40, 64, 64)
    for _ in range(12):
        row, column = 50 * torch.rand(2, 40, 1, 1, generator=generator) - 25
        scan += 50 * torch.rand(40, 1, 1, generator=generator) * (torch.hypot(y - row, x - column) < 2)
    scan = torch.poisson(scan, generator)
    calibration = Calibration(scale=(0.05, 0.05), center=(32.0, 32.0), shape=(64, 64), beam_energy=200.0)
    proposed = model.network.propose(model.preprocessing(scan, calibration))
    likely = float(proposed.scores[:, 0].detach().median())
    model.network.take_for_certain(likely)
    whole = model.predict_batch(scan, calibration, n_best=2)
    certain = proposed.scores[:, 0] > likely
    assert 0 < int(certain.sum()) < len(certain)
    for size in (1, 7, 33):
        parts = [model.predict_batch(part, calibration, n_best=2) for part in scan.split(size)[:6]]
        for ours, theirs in zip(zip(*parts, strict=True), whole, strict=True):
            ours = torch.cat(ours)
            assert torch.equal(ours, theirs[: len(ours)])


class Overconfident:
    """Its certain answers are wrong where the probability is below 0.78."""

    training = False
    comparison = object()

    def __init__(self, probability, truth):
        self.probability, self.truth, self.threshold = probability, truth, None
        self.operations = symmetry.padded_operations(["1"])

    def eval(self):
        return self

    def train(self, mode):
        assert mode is False

    def take_for_certain(self, threshold):
        self.threshold = threshold

    def predict(self, index, n_best):
        p, q = self.probability[index], self.truth[index].clone()
        wrong = (p > self.threshold) & (p < 0.78)
        q[wrong] = rot.multiply(q[wrong], torch.tensor([0.7071, 0.7071, 0.0, 0.0]))
        zeros = torch.zeros(len(index), 1, dtype=torch.long)
        return OrientationCandidates(q[:, None], zeros, p[:, None], torch.ones(len(index)))


@pytest.mark.parametrize(("lowest", "fitted"), [(0.0, 0.8), (0.79, learning.CERTAIN[0])])
def test_the_lowest_threshold_that_costs_nothing_is_taken(lowest, fitted):
    generator = torch.Generator().manual_seed(4)
    n = 2000
    probability = lowest + (1 - lowest) * torch.rand(n, generator=generator)
    network = Overconfident(probability, rot.random_rotations(n, generator))
    learning.fit_certainty(network, torch.arange(n), network.truth, torch.zeros(n, dtype=torch.long))
    assert network.threshold == fitted


def test_few_patterns_and_networks_that_cannot_verify():
    network = Overconfident(torch.full((50,), 0.9), rot.random_rotations(50))
    learning.fit_certainty(network, torch.arange(50), network.truth, torch.zeros(50, dtype=torch.long))
    assert network.threshold == 1.0
    learning.fit_certainty(SimpleNamespace(comparison=None), None, None, None)


def test_the_threshold_is_kept_with_the_model_and_the_weights_stay(polar_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(learning, "VALIDATION_PATTERNS", 32)
    folder = Path(shutil.copytree(polar_folder, tmp_path / "al"))
    weights = (folder / "model.safetensors").read_bytes()
    monkeypatch.setattr(orientation, "fit_certainty", lambda network, *_: network.take_for_certain(0.625))
    orientation.refit_certainty(folder)
    model = load_model(folder)
    assert model.network.comparison.certain == 0.625
    model.verify(folder)
    assert (folder / "model.safetensors").read_bytes() == weights
    config = json.loads((folder / "config.json").read_text())
    assert config["network"]["arguments"]["comparison"]["certain"] == 0.625
    assert config["weights"]["sha256"] == hashlib.sha256(weights).hexdigest()


def test_a_model_without_simulated_patterns_is_not_fitted(tmp_path):
    with pytest.raises(ValueError, match="verifies its proposals and was trained on simulated patterns"):
        orientation.refit_certainty(PRETRAINED / "bragg-disks")
