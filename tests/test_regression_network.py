"""The literature's networks: heads against known rotations, backbones by name, and what they say of themselves."""

import math

import pytest
import torch

from pyxem_dl import rotations as rot, symmetry
from pyxem_dl.networks import OrientationCandidates, SampledOrientations, build_network
from pyxem_dl.networks.backbones import PlainNetwork, default_size, make_backbone
from pyxem_dl.networks.heads import HEADS

SMALL = {"backbone": "cnn", "size": 32, "backbone_arguments": {"width": 4, "depth": 3, "num_features": 16}}
GROUPS = ["-3m", "m-3m"]


def make_head(name, **settings):
    operations = symmetry.padded_operations(GROUPS)
    centers = torch.nn.functional.normalize(
        torch.stack([rot.zone_axes(symmetry.reduced_grid(symmetry.laue_group(g), 5.0)).mean(0) for g in GROUPS]), dim=1
    )
    return HEADS[name](operations, centers, **({"modulo_180": False, "robust": True} | settings))


def equivalent(q, phase_id, seed=0):
    """Symmetrically equivalent rotations, drawn at random."""
    operations = symmetry.padded_operations(GROUPS)[phase_id]
    which = torch.randint(operations.shape[1], (len(q),), generator=torch.Generator().manual_seed(seed))
    return rot.multiply(operations[torch.arange(len(q)), which], q)


@pytest.fixture
def truth():
    return rot.random_rotations(20, torch.Generator().manual_seed(0)), torch.arange(20) % 2


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.slow
def test_a_head_learns_rotations_whatever_copy_they_are_given_as(name, truth):
    q, phase_id = truth
    head = make_head(name, robust=False)
    numbers = torch.zeros(20, head.n_numbers, requires_grad=True)
    optimizer = torch.optim.Adam([numbers], 0.03)
    for step in range(400):
        optimizer.zero_grad()
        head.loss(numbers, equivalent(q, phase_id, step), phase_id).sum().backward()
        optimizer.step()
    operations = symmetry.padded_operations(GROUPS)[phase_id]
    angle = symmetry.disorientation_angle(head.rotations(numbers.detach()), q, operations)
    assert torch.rad2deg(angle).median() < 1
    assert torch.rad2deg(angle).max() < (20 if name == "euler" else 1)


@pytest.mark.parametrize("name", ["r9", "r6"])
def test_the_loss_is_blind_to_half_a_turn_where_it_is_told_to(name, truth):
    q, phase_id = truth
    half = rot.rotate_in_plane(q, torch.full((20,), math.pi))
    numbers = torch.randn(20, HEADS[name].n_numbers, generator=torch.Generator().manual_seed(1))
    for modulo in (False, True):
        head = make_head(name, modulo_180=modulo)
        same = torch.isclose(head.loss(numbers, q, phase_id), head.loss(numbers, half, phase_id), atol=1e-5)
        assert same.all() == modulo


def test_the_loss_is_the_chord_between_rotations():
    head = make_head("r9", robust=False)
    q = rot.exponential(torch.tensor([[0.0, 0.0, 0.2]]))
    loss = head.loss(torch.zeros(1, 9), q, torch.tensor([0]))
    assert float(loss) == pytest.approx(8 * math.sin(0.1) ** 2, rel=1e-4)


def test_a_robust_loss_lets_wrong_labels_weigh_less():
    q = rot.exponential(torch.tensor([[0.01, 0.0, 0.0], [0.5, 0.0, 0.0]]))
    zero, phase = torch.zeros(2, 9), torch.zeros(2, dtype=torch.long)
    near, far = make_head("r9", robust=False).loss(zero, q, phase).tolist()
    robust_near, robust_far = make_head("r9", robust=True).loss(zero, q, phase).tolist()
    assert robust_near == pytest.approx(near / 2, rel=0.05)
    assert robust_far < 0.3 * far


def test_euler_angles_stay_in_their_range_where_they_are_clamped():
    numbers = torch.tensor([[2.0, 0.0, 0.0]])
    clamped, free = (make_head("euler").rotations(numbers), make_head("euler", clamp=False).rotations(numbers))
    assert not torch.allclose(clamped, free)
    inside = torch.tensor([[0.3, -0.2, 0.1]])
    torch.testing.assert_close(make_head("euler", clamp=False).rotations(inside), make_head("euler").rotations(inside))


@pytest.mark.parametrize("head", HEADS)
def test_phase_rotation_and_score_come_from_one_network(head):
    torch.manual_seed(0)
    network = build_network("regression", laue_groups=GROUPS, head=head, **SMALL)
    images, q = torch.rand(6, 1, 32, 32), rot.random_rotations(6)
    loss, parts = network.loss(images, q, torch.tensor([0, 1, -1, 0, 1, -1]))
    loss.backward()
    assert all(p.grad is not None for p in network.parameters())
    assert {"rotation", "phase", "right"} == set(parts)
    nothing, _ = network.loss(images, q, torch.full((6,), -1))
    assert torch.isfinite(nothing)
    found = network.eval().predict(images)
    assert found.rotations.shape == (6, 1, 4) and found.phase_id.shape == found.scores.shape == (6, 1)
    torch.testing.assert_close(found.rotations.norm(dim=-1), torch.ones(6, 1))
    assert ((found.crystal >= 0) & (found.crystal <= 1)).all()


def test_it_learns_a_rotation_and_to_know_when_it_is_right():
    torch.manual_seed(0)
    network = build_network("regression", laue_groups=["m-3m"], dropout=0.0, **SMALL)
    images = torch.rand(8, 1, 32, 32)
    q, phase_id = rot.random_rotations(8, torch.Generator().manual_seed(0)), torch.zeros(8, dtype=torch.long)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    first = None
    for _ in range(150):
        optimizer.zero_grad()
        loss, parts = network.loss(images, q, phase_id)
        first = first or float(parts["rotation"])
        loss.backward()
        optimizer.step()
    assert float(parts["rotation"]) < 0.2 * first
    found = network.eval().predict(images)
    angle = symmetry.disorientation_angle(found.rotations[:, 0], q, network.operations[0])
    right = torch.rad2deg(angle) < 5
    assert right.float().mean() > 0.7
    assert found.scores[right].mean() > 0.5


def test_the_score_is_the_probability_of_being_right():
    torch.manual_seed(0)
    network = build_network("regression", laue_groups=["m-3m"], **SMALL)
    images = torch.rand(400, 1, 32, 32)
    predictions = network.eval().predict(images).rotations[:, 0].detach()
    # labels that agree with one prediction in four
    labels = torch.where(torch.rand(400)[:, None] < 0.25, predictions, rot.random_rotations(400))
    near = symmetry.disorientation_angle(predictions, labels, network.operations[0]) < math.radians(5)
    network.calibrate(images, labels, torch.zeros(400, dtype=torch.long))
    assert float(network.predict(images).scores.mean()) == pytest.approx(float(near.float().mean()), abs=0.02)


def test_a_right_rotation_of_the_wrong_phase_is_not_right():
    torch.manual_seed(0)
    network = build_network("regression", laue_groups=["m-3m", "m-3m"], **SMALL)
    images = torch.rand(400, 1, 32, 32)
    found = network.eval().predict(images)
    there, wrong = found.rotations[:, 0].detach(), 1 - found.phase_id[:, 0]
    scores = {}
    for name, phase in (("right", 1 - wrong), ("wrong", wrong)):
        network.calibrate(images, there, phase)
        scores[name] = float(network.predict(images).scores.mean())
    assert scores["right"] > 0.95 and scores["wrong"] < 0.05


def test_answers_drawn_with_dropout_differ_and_have_a_mean():
    torch.manual_seed(0)
    network = build_network("regression", laue_groups=GROUPS, dropout=0.3, **SMALL).eval()
    images = torch.rand(5, 1, 32, 32)
    predictions = network.samples(images, 6)
    assert len(predictions) == 6
    assert not torch.equal(predictions[0].rotations, predictions[1].rotations)
    found = SampledOrientations.of(predictions, network.operations)
    assert found.uncertainty.shape == (5,) and (found.uncertainty > 0).all()


def test_an_answer_with_another_phase_takes_from_the_score():
    q = rot.random_rotations(1)
    operations = symmetry.padded_operations(GROUPS)

    def prediction(phase, score):
        return OrientationCandidates(q[None], torch.tensor([[phase]]), torch.tensor([[score]]), torch.tensor([1.0]))

    found = SampledOrientations.of([prediction(0, 0.8), prediction(0, 0.8), prediction(1, 0.9)], operations)
    assert found.phase_id.item() == 0
    assert found.scores.item() == pytest.approx(1.6 / 3)
    assert found.uncertainty.item() < 1e-3


# ---------------------------------------------------------------- backbones
@pytest.mark.parametrize(("name", "size"), [
    ("cnn", 128), ("densenet121", 128), ("swin_tiny", 224), ("swin_tiny_adapted", 128), ("resnet18", 128),
])  # fmt: skip
def test_sizes_that_networks_are_given(name, size):
    assert default_size(name) == size


@pytest.mark.parametrize(("name", "size", "arguments"), [
    ("swin_tiny_adapted", 64, {"depths": (1, 1, 1, 1), "embed_dim": 24, "num_heads": (1, 1, 1, 1)}),
    ("resnet18", 64, {}), ("mobilenetv3_small_050", 64, {}),
])  # fmt: skip
def test_networks_of_timm_take_patterns_of_one_channel(name, size, arguments):
    network = make_backbone(name, size, arguments).eval()
    with torch.no_grad():
        assert network(torch.zeros(2, 1, size, size)).shape == (2, network.n_out)


def test_the_adapted_swin_sees_where_spots_are():
    # two patches of 4 px that change places: their average is the same, the pattern is not
    arguments = {"depths": (1, 1, 1, 1), "embed_dim": 24, "num_heads": (1, 1, 1, 1)}
    torch.manual_seed(0)
    network = make_backbone("swin_tiny_adapted", 64, arguments).eval()
    assert isinstance(network[1], torch.nn.Flatten) and network[3].in_features == 2 * 2 * network[0].num_features
    images = torch.zeros(2, 1, 64, 64)
    images[0, :, 8:12, 8:12], images[1, :, 40:44, 40:44] = 5.0, 5.0
    with torch.no_grad():
        averaged, placed = network[0](images).mean((1, 2)), network(images)
    # features of all sizes about 1; windows see the border from where they are
    same = float((averaged[0] - averaged[1]).abs().mean())
    assert same < 1e-3
    assert float((placed[0] - placed[1]).abs().mean()) > 100 * same


def test_an_unknown_name_lists_the_near_ones():
    with pytest.raises(ValueError, match="Did you mean .*densenet121"):
        default_size("densenet112")
    with pytest.raises(ValueError, match="There is no network 'zzzz'"):
        default_size("zzzz")


def test_sizes_that_a_network_cannot_take_are_refused():
    with pytest.raises(ValueError, match="cannot take images of 8 x 8"):
        make_backbone("densenet121", 8, {})
    with pytest.raises(ValueError, match="at least 2 to the power"):
        PlainNetwork(16, depth=5)
    with pytest.raises(ValueError, match="backbone_arguments.no_such_argument: unknown entry"):
        make_backbone("resnet18", 64, {"no_such_argument": 1})


def test_pretrained_weights_come_from_a_file_or_not_at_all(tmp_path, monkeypatch):
    import timm
    from safetensors.torch import save_file

    with pytest.raises(ValueError, match="no pretrained weights"):
        make_backbone("cnn", 128, {}, pretrained=True)
    with pytest.raises(ValueError, match="no file"):
        make_backbone("resnet18", 64, {}, pretrained=str(tmp_path / "none.safetensors"))
    imagenet = timm.create_model("resnet18")
    path = tmp_path / "resnet18.safetensors"
    save_file(imagenet.state_dict(), path)
    network = make_backbone("resnet18", 64, {}, pretrained=str(path))
    torch.testing.assert_close(network.layer1[0].conv1.weight, imagenet.layer1[0].conv1.weight)
    # the three colours of the first layer are added up
    torch.testing.assert_close(network.conv1.weight, imagenet.conv1.weight.sum(1, keepdim=True))
    # behind weights of timm's, a layer of ours
    network = make_backbone("resnet18", 64, {"global_pool": ""}, pretrained=str(path))
    torch.testing.assert_close(network[0].layer1[0].conv1.weight, imagenet.layer1[0].conv1.weight)
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="Pretrained weights of resnet18 could not be loaded from"):
        make_backbone("resnet18", 64, {}, pretrained=str(tmp_path / "bad.safetensors"))

    def offline(name, *arguments, pretrained=False, **settings):
        if pretrained:
            raise OSError("no connection")
        return create(name, *arguments, **settings)

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ValueError, match="from timm's hub .*no connection"):
        make_backbone("resnet18", 64, {}, pretrained=True)
