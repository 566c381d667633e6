"""The polar network: equivariance, labels, modes, and the verifier."""

import math

import pytest
import torch
from orix.crystal_map import Phase

from pyxem_dl import rotations as rot, symmetry
from pyxem_dl.networks import build_network
from pyxem_dl.networks.verifier import PolarView


def small(laue_groups=("m-3m",), **more):
    torch.manual_seed(0)
    return build_network(
        "polar", laue_groups=list(laue_groups), width=16, depth=2, kernel=9, resolution=6.0, **more
    ).eval()


def assert_turns_with_the_pattern(network, polar, steps):
    """Turning the pattern by grid steps moves the logits, and the orientations' phi1."""
    per_step = polar.shape[-1] // network.phi_steps
    n = len(polar)
    turned = polar.roll(steps * per_step, dims=-1)
    with torch.inference_mode():
        before, after = network(polar), network(turned)
        shape = (n, network.phi_steps, len(network.nodes))
        torch.testing.assert_close(
            after[:, :-1].reshape(shape),
            before[:, :-1].reshape(shape).roll(steps, dims=1),
            atol=2e-5, rtol=0,
        )
        torch.testing.assert_close(after[:, -1], before[:, -1], atol=2e-5, rtol=0)
        expected = rot.rotate_in_plane(
            network.predict(polar, 1).rotations[:, 0],
            torch.tensor(steps * 2 * math.pi / network.phi_steps),
        )
        angle = symmetry.disorientation_angle(
            network.predict(turned, 1).rotations[:, 0], expected, network.operations[0]
        )
    assert float(torch.rad2deg(angle).max()) < 0.05


@pytest.mark.parametrize("steps", [1, 7, 36])
@pytest.mark.parametrize("group", ["m-3m", "-3m"])
def test_equivariance_to_in_plane_rotation(group, steps):
    polar = torch.rand(3, 2, 64, 144, generator=torch.Generator().manual_seed(1))
    assert_turns_with_the_pattern(small([group]), polar, steps)


@pytest.mark.parametrize("groups", [("m-3m",), ("-3m",), ("m-3m", "-3m")])
def test_labels_lead_back_to_the_truth(groups):
    network = small(groups)
    q = rot.random_rotations(200, torch.Generator().manual_seed(2))
    phase = torch.arange(200) % len(groups)
    index, weight, residual = network.labels(q, phase)
    torch.testing.assert_close(weight.sum(1), torch.ones(200))
    assert bool((network.node_phase[index % len(network.nodes)] == phase[:, None]).all())
    back = network.node_rotations(index, residual)
    for i in range(len(groups)):
        angle = symmetry.disorientation_angle(back[phase == i], q[phase == i, None], network.operations[i])
        assert float(torch.rad2deg(angle).max()) < 0.01
    # the nearest node is no further than the grid's spacing allows
    assert float(torch.rad2deg(residual.norm(dim=-1).amin(1)).max()) < 6


def test_labels_are_exact_under_autocast():
    network = small()
    q = rot.random_rotations(100, torch.Generator().manual_seed(3))
    exact = network.labels(q, torch.zeros(100, dtype=torch.long))
    with torch.autocast("cpu", torch.bfloat16):
        cast = network.labels(q, torch.zeros(100, dtype=torch.long))
    assert torch.equal(exact[0], cast[0])


def test_modes_gather_symmetric_copies_and_add_their_probability():
    network = small()
    operations = symmetry.proper_operations(Phase(point_group="m-3m"))
    a = rot.random_rotations(1, torch.Generator().manual_seed(4))[0]
    b = rot.multiply(a, rot.exponential(torch.tensor([0.0, 0.5, 0.0])))
    near = rot.multiply(a, rot.exponential(torch.tensor([0.02, 0.0, 0.0])))
    nodes = torch.stack([rot.multiply(operations[5], a), b, rot.multiply(operations[9], near)])
    found = network.separate_modes(
        nodes[None], torch.zeros(1, 3, dtype=torch.long), torch.tensor([[0.3, 0.4, 0.2]]),
        torch.tensor([0.9]), 2,
    )
    torch.testing.assert_close(found.scores, torch.tensor([[0.5, 0.4]]))
    middle = rot.multiply(a, rot.exponential(torch.tensor([0.008, 0.0, 0.0])))
    angles = symmetry.disorientation_angle(found.rotations[0], torch.stack([middle, b]), operations)
    assert float(torch.rad2deg(angles).max()) < 0.1


def test_phases_share_the_distribution():
    network = small(["m-3m", "-3m"])
    with torch.inference_mode():
        found = network.predict(torch.rand(4, 2, 64, 144), 3)
    assert found.rotations.shape == (4, 3, 4)
    assert bool((found.scores.sum(1) <= found.crystal + 1e-5).all())
    assert set(found.phase_id.flatten().tolist()) <= {0, 1}


def test_verifier_corrects_in_the_frame_of_the_pattern():
    """Turned pattern, turned candidate: the same score, and the same correction, turned."""
    network = small(comparison={"n_reflections": 12, "reciprocal_radius": 1.5, "beam_energy": 200.0})
    verifier = network.comparison
    generator = torch.Generator().manual_seed(5)
    verifier.g.copy_(torch.rand(1, 12, 3, generator=generator) - 0.5)
    verifier.structure_factor.fill_(1.0)
    verifier.extinction_distance.fill_(500.0)
    torch.nn.init.normal_(verifier.correction.weight, std=0.1)
    polar = torch.rand(1, 2, 64, 144, generator=generator)
    q = rot.exponential(torch.tensor([[[0.02, 0.01, 0.3]]]))
    step = torch.tensor(10 * 2 * math.pi / 144)
    arguments = torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1)
    with torch.inference_mode():
        score, better = verifier.improve(PolarView.of(polar), q, *arguments)
        turned = verifier.improve(
            PolarView.of(polar.roll(10, dims=-1)), rot.rotate_in_plane(q, step), *arguments
        )
    torch.testing.assert_close(turned[0], score, atol=1e-4, rtol=0)
    assert float(rot.misorientation_angle(better, q)) > 1e-4
    angle = rot.misorientation_angle(turned[1], rot.rotate_in_plane(better, step))
    assert float(angle) < 1e-4


def test_unknown_networks_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="no network 'resnet'; the known ones are: polar"):
        build_network("resnet")


def test_answers_do_not_depend_on_the_batch():
    from sample_phases import phase

    from pyxem_dl.crystals import load_phases
    from pyxem_dl.frames import Calibration
    from pyxem_dl.models import OrientationModel
    from pyxem_dl.preprocessing import PolarPreprocessing

    model = OrientationModel(
        "polar", small(), PolarPreprocessing(1.2), load_phases(phase("Al")), name="small"
    )
    patterns = torch.rand(70, 48, 48, generator=torch.Generator().manual_seed(6))
    calibration = Calibration((0.05, 0.05), (24.0, 24.0), (48, 48), 200.0)
    threads = torch.get_num_threads()
    whole = model.predict_batch(patterns, calibration, n_best=2)
    assert torch.get_num_threads() == threads
    for size in (1, 9, 64):
        parts = [model.predict_batch(p, calibration, n_best=2) for p in patterns.split(size)]
        for one, many in zip(whole, zip(*parts, strict=True), strict=True):
            torch.testing.assert_close(torch.cat(many), one, atol=1e-5, rtol=0)


def test_scores_do_not_depend_on_n_best():
    network = small(comparison={"n_reflections": 12, "reciprocal_radius": 1.5, "beam_energy": 200.0})
    generator = torch.Generator().manual_seed(7)
    network.comparison.g.copy_(torch.rand(1, 12, 3, generator=generator) - 0.5)
    network.comparison.structure_factor.fill_(1.0)
    network.comparison.extinction_distance.fill_(500.0)
    polar = torch.rand(4, 2, 64, 144, generator=generator)
    with torch.inference_mode():
        found = {n: network.predict(polar, n) for n in (1, 3, 8, 15)}
    for n, candidates in found.items():
        torch.testing.assert_close(candidates.scores[:, 0], found[15].scores[:, 0])
        there = candidates.scores > 0
        torch.testing.assert_close(candidates.rotations[there], found[15].rotations[:, :n][there])
        assert bool((candidates.scores.sum(1) <= candidates.crystal + 1e-5).all())
