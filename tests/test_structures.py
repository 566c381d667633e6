"""Structures in atomic-resolution images: spectra, windows, the network, its model folder, and crystal maps."""

import json
import math

import hyperspy.api as hs
import numpy as np
import pytest
import sample_phases
import torch
from orix.quaternion import Rotation
from orix.vector import Vector3d

import pyxem_dl
from pyxem_dl import data
from pyxem_dl.images.classify import hear_neighbours
from pyxem_dl.models import StructureModel
from pyxem_dl.networks.images import SpectrumGrid, StructureNetwork
from pyxem_dl.simulation.columns import project_columns
from pyxem_dl.simulation.windows import WindowSettings, WindowSimulator
from pyxem_dl.training.structures import find_alternatives, low_index_axes, validate_structures

FOLDS = [4, 2, 6, 4, 2, 6, 2, 6, 2, 2]


# ---------------------------------------------------------------- spectra
@pytest.mark.parametrize("pixel", [0.15, 0.25, 0.33])
@pytest.mark.parametrize("angle, spacing", [(0, 2.0), (30, 1.2), (90, 2.0), (135, 4.0)])
def test_a_wave_is_where_its_frequency_and_angle_are(angle, spacing, pixel):
    grid = SpectrumGrid()
    size = int(12 / pixel) + 2
    row, column = np.indices((size, size)) * pixel
    turn = math.radians(angle)
    wave = np.cos(2 * math.pi * (column * math.cos(turn) - row * math.sin(turn)) / spacing)
    image = torch.tensor(100 + 50 * wave, dtype=torch.float32)[None]
    noisy = torch.poisson(image, torch.Generator().manual_seed(0))
    found = grid(noisy, torch.tensor([pixel]))[0, 0]
    k, phi = divmod(int(found.argmax()), grid.n_phi)
    ks = np.linspace(*grid.k_range, grid.n_k)
    assert ks[k] == pytest.approx(1 / spacing, abs=0.05)
    assert abs((phi * 180 / grid.n_phi - angle + 90) % 180 - 90) <= 4


def test_noise_alone_has_an_even_spectrum_whatever_its_level():
    grid = SpectrumGrid()
    for level in (0.5, 200.0):
        noise = torch.poisson(torch.full((64, 60, 60), level), torch.Generator().manual_seed(1))
        power = grid(noise, torch.full((64,), 0.21)).expm1().mean((0, 1, 3))[4:]
        assert power == pytest.approx(np.ones(len(power)), abs=0.3)


# ---------------------------------------------------------------- classes
def test_folds():
    assert [crystal.fold() for crystal in data.metal_crystals()] == FOLDS
    layered = sample_phases.phase("LiNiO2")
    assert [project_columns(layered, axis).fold() for axis in ((0, 0, 1), (1, 0, 0))] == [6, 2]


def test_low_index_axes_are_different():
    axes = low_index_axes(sample_phases.phase("Al"))
    assert {tuple(sorted(map(abs, axis))) for axis in axes} == {(0, 0, 1), (0, 1, 1), (1, 1, 2), (1, 1, 1)}
    assert (0, 0, 1) in {tuple(map(abs, axis)) for axis in low_index_axes(sample_phases.phase("Mg"))}


def test_alternatives_are_the_nets_that_coincide():
    fe, cu, _ = data.metals()
    al = sample_phases.phase("Al")
    looked_at = (fe, (1, 0, 0)), (al, (1, 0, 0)), (al, (1, 1, 1)), (cu, (1, 1, 0))
    crystals = [project_columns(p, axis) for p, axis in looked_at]
    assert find_alternatives(crystals, SpectrumGrid(), 0.05) == [[1], [0], [], []]
    # 12 % apart
    far = [crystals[0], project_columns(cu, (1, 0, 0))]
    assert find_alternatives(far, SpectrumGrid(), 0.03) == [[], []]
    assert find_alternatives(far, SpectrumGrid(), 0.13) == [[1], [0]]


# ---------------------------------------------------------------- windows
def test_windows_are_of_the_class_and_the_angle_that_they_say():
    crystals = data.metal_crystals()
    clean = WindowSettings(
        pixel=(0.2, 0.2), counts=(500, 500), scale_error=(0, 0), shear=(0, 0), displaced=(0, 0.01), second_share=0,
        other_share=0, vacancy_share=0, tails=(0, 0), jitter=(0, 0), slope=(0, 0),
    )  # fmt: skip
    made = WindowSimulator(crystals, clean, seed=2)(12, label=1)
    assert made.label.tolist() == [1] * 12
    grid = SpectrumGrid()
    spectra = grid(made.images, made.pixel)[:, 0]
    for spectrum, angle in zip(spectra, made.angle):
        # [110] of iron: planes 1.43 Å apart along x, 2.03 along y: the row of the longer ones lies along y
        row = spectrum[round((1 / 2.027 - 0.16) / (1.29 / 27))]
        found = float(row.argmax()) * 180 / 48
        assert abs((found - math.degrees(angle) - 90 + 90) % 180 - 90) < 6


def test_windows_have_the_counts_that_are_asked_for():
    simulate = WindowSimulator(data.metal_crystals(), seed=0)
    made = simulate(64, counts=10.0)
    per_area = made.images.mean((1, 2)) / made.pixel**2 * 0.12**2
    assert per_area.mean() == pytest.approx(10, rel=0.05)
    again = WindowSimulator(data.metal_crystals(), seed=0)(64, counts=10.0)
    assert torch.equal(made.images, again.images)
    other = float((made.label == 10).float().mean())
    assert 0.1 < other < 0.5


def test_fringes_are_one_family_of_planes():
    clean = WindowSettings(
        other_share=1, empty_share=0, fringe_share=1, second_share=0, counts=(300, 300), jitter=(0, 0), slope=(0, 0)
    )
    made = WindowSimulator(data.metal_crystals(), clean, seed=4)(8)
    assert (made.label == 10).all()
    grid = SpectrumGrid()
    for spectrum in grid(made.images, made.pixel)[:, 0].expm1():
        angle = int(spectrum.sum(0).argmax())
        away = (torch.arange(grid.n_phi) - angle + grid.n_phi // 2) % grid.n_phi - grid.n_phi // 2
        # all that is above the noise lies along one direction
        assert spectrum[2:, away.abs() > 12].max() < 0.1 * spectrum[2:].max()


def test_settings_have_bounds():
    with pytest.raises(ValueError, match="counts"):
        WindowSettings(counts=(0, 10))
    with pytest.raises(ValueError, match="second_share"):
        WindowSettings(second_share=2.0)


# ---------------------------------------------------------------- the network
def test_the_network_turns_with_the_spectrum():
    network = StructureNetwork([4, 2, 6], n_phi=48, width=4).eval().requires_grad_(False)
    spectra = torch.rand(3, 1, 28, 48)
    for steps in (1, 7):
        p, angle = network.probabilities(network.features(spectra))
        q, turned = network.probabilities(network.features(spectra.roll(steps, 3)))
        assert torch.allclose(p, q, atol=1e-5)
        fold = torch.tensor([4.0, 2.0, 6.0])
        off = fold * (turned - angle - steps * math.pi / 48)
        assert (off.cos() > 0.999).all()
    assert torch.allclose(p.sum(1), torch.ones(3), atol=1e-5)


def test_the_network_learns():
    crystals = [data.metal_crystals()[i] for i in (0, 4)]
    network = StructureNetwork([4, 2], width=6)
    made = WindowSimulator(crystals, seed=1)(96, counts=50.0)
    batch = network.grid(made.images, made.pixel), made.label, made.angle
    optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
    first = float(network.loss(*batch).detach())
    for _ in range(40):
        optimizer.zero_grad()
        loss = network.loss(*batch)
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.5 * first
    numbers = validate_structures(network, batch)
    assert numbers["right"] > 0.9 and numbers["rotation"] < 6 and 0 <= numbers["calibration"] < 0.3


# ---------------------------------------------------------------- models and maps
@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model that has hardly learnt anything, of a cubic and a trigonal crystal."""
    phases = [sample_phases.phase("Al"), sample_phases.phase("LiNiO2")]
    return pyxem_dl.train_structures(
        phases, [[(1, 0, 0), (1, 1, 0)], [(0, 0, 1), (1, 0, 0)]], output=tmp_path_factory.mktemp("model") / "quick",
        max_steps=3, batch_size=16, network={"width": 4}, show_progressbar=False,
    )  # fmt: skip


def test_a_model_is_a_folder(trained, tmp_path):
    folder = trained.save(tmp_path / "copy")
    again = pyxem_dl.load_model(folder)
    assert isinstance(again, StructureModel) and again.fingerprint == trained.fingerprint
    again.verify(folder)
    assert again.class_names == ["Al [1 0 0]", "Al [1 1 0]", "LiNiO2 [0 0 1]", "LiNiO2 [1 0 0]"]
    assert again.classes == trained.classes and 0 < again.thresholds["other"] < 1
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for entry, wrong in (("classes", [[0, [1, 0, 0]]]), ("classes", [[9, [1, 0, 0]]] * 4), ("alternatives", [[7]] * 4)):
        (folder / "config.json").write_text(json.dumps(config | {entry: wrong}), encoding="utf-8")
        with pytest.raises(ValueError, match="cannot be built"):
            pyxem_dl.load_model(folder)
    text = json.dumps(config, indent=2)
    text = text.replace('"folds": [\n        4', '"folds": [\n        5')
    (folder / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="folds"):
        pyxem_dl.load_model(folder)


@pytest.mark.parametrize(
    "axes, match",
    [([], "empty"), ("all", "low-index"), ([(1, 0, 0), (1, 0, 0)], "twice"), ([[(1, 0, 0)]] * 2, "2 lists, for 1"),
     ([(0, 0, 0)], "three whole numbers"), ([(0.5, 0, 0)], "whole number")],
)  # fmt: skip
def test_zone_axes_that_are_none(axes, match, tmp_path):
    with pytest.raises((ValueError, TypeError), match=match):
        pyxem_dl.train_structures(sample_phases.phase("Al"), axes, output=tmp_path / "m", max_steps=1)


@pytest.mark.parametrize("class_id, angle", [(1, 0.3), (2, 1.0), (3, 0.0)])
def test_rotations_put_zone_axes_along_the_beam_and_turn(trained, class_id, angle):
    i, axis = trained.classes[class_id]
    rotation = Rotation(trained.rotations(np.array([class_id]), np.array([angle])))
    base = trained.phases[i].structure.lattice.base
    along = (~rotation * Vector3d((np.array(axis) @ base)[None])).unit.data[0]
    assert along == pytest.approx([0, 0, 1], abs=1e-6)
    # the vector that lies along x where the crystal is not turned
    crystal = trained.crystals[class_id]
    flat = (Rotation(crystal.quaternion[None]) * Vector3d([[1.0, 0, 0]])).data
    turned = (~rotation * Vector3d(flat)).data[0]
    assert turned == pytest.approx([math.cos(angle), math.sin(angle), 0], abs=1e-6)


def scene_of(shape=(200, 160), counts=50):
    crystals, labels = [data.metal_crystals()[0]], np.ones(shape, int)
    return data.atomic_grains(shape, counts, crystals=crystals, labels=labels, seed=1).signal


def test_a_map_has_coordinates_and_properties(trained):
    signal = scene_of()
    xmap = signal.classify_structure(trained, step=2.0, n_best=2, n_samples=3, show_progressbar=False)
    size, every = 51, 8  # pixels of 0.24 Å
    assert xmap.shape == ((100 - size) // every + 1, (80 - size) // every + 1)
    assert xmap.scan_unit == "Å"
    assert xmap.x.min() == pytest.approx((2 * size - 1) / 2 * 0.12) and xmap.dx == pytest.approx(16 * 0.12)
    assert xmap.prop["scores"].shape == (xmap.size, 2) and (np.diff(xmap.prop["scores"], axis=1) <= 0).all()
    total = xmap.prop["scores"].sum(1) + xmap.prop["other"]
    assert (total < 1 + 1e-5).all() and (xmap.prop["mutual_information"] <= xmap.prop["entropy"] + 1e-6).all()
    assert ((xmap.phase_id == -1) == (xmap.prop["other"] > trained.thresholds["other"])).all()
    again = signal.classify_structure(trained, step=2.0, n_best=2, n_samples=3, show_progressbar=False)
    assert (again.prop["scores"] == xmap.prop["scores"]).all()


def test_a_series_gives_a_map_for_each_frame(trained):
    one = scene_of()
    series = hs.signals.Signal2D(np.stack([one.data, np.full_like(one.data, np.nan)]))
    for axis in series.axes_manager.signal_axes:
        axis.scale, axis.units = 0.12, "Å"
    maps = series.as_lazy().classify_structure(trained, step=3.0, n_samples=0, show_progressbar=False)
    assert len(maps) == 2 and (maps[1].phase_id == -1).all()
    alone = one.classify_structure(trained, step=3.0, n_samples=0, show_progressbar=False)
    assert np.allclose(alone.prop["scores"], maps[0].prop["scores"], atol=1e-6)


def test_alternatives_are_in_the_map(trained):
    model = pyxem_dl.load_model(trained)
    before, model.alternatives = model.alternatives, [[1, 3], [0], [], [0]]
    try:
        xmap = scene_of().classify_structure(model, step=3.0, n_samples=0, show_progressbar=False)
    finally:
        model.alternatives = before
    expected = np.array([[1, 3], [0, -1], [-1, -1], [0, -1]])[xmap.prop["class_id"]]
    assert (xmap.prop["alternatives"] == expected).all()


@pytest.mark.parametrize(
    "pixel, match", [(0.4, "0.4 Å wide, but the model 'quick' needs at most 0.34"), (0.02, "window is 12 Å")]
)
def test_images_that_are_not_for_the_model(trained, pixel, match):
    signal = scene_of()
    for axis in signal.axes_manager.signal_axes:
        axis.scale = pixel
    with pytest.raises(ValueError, match=match):
        signal.classify_structure(trained)
    with pytest.raises(TypeError, match="does not tell structures"):
        scene_of().classify_structure("al-200kv")


def test_a_window_is_as_unsure_whatever_lies_beside_it(trained):
    """Each draw of dropout is one network, the same for all windows."""
    windows = torch.poisson(torch.full((9, 51, 51), 4.0), torch.Generator().manual_seed(0))
    whole = trained.predict_batch(windows, 0.24, 12)
    torch.rand(7)
    part = trained.predict_batch(windows[3:5], 0.24, 12)
    assert torch.allclose(part["mutual_information"], whole["mutual_information"][3:5], atol=1e-6)
    assert torch.allclose(part["probabilities"], whole["probabilities"][3:5], atol=1e-6)
    assert (whole["mutual_information"] > 0).all()
    masks = trained.network.drawn_masks(200, windows)
    assert torch.stack([each[0] for each in masks]).mean() == pytest.approx(1, abs=0.02)
    assert not torch.equal(masks[0][0], masks[1][0])


# ---------------------------------------------------------------- neighbours
def test_neighbours_are_heard_and_nothing_else_changes():
    folds, shape = (4, 2), (5, 6)
    p = torch.tensor([[0.7, 0.2, 0.1]]).repeat(30, 1)
    angle = torch.tensor([[0.2, -1.0]]).repeat(30, 1)
    made = {"probabilities": p.clone(), "angle": angle.clone(), "mutual_information": torch.full((30,), 0.3)}
    same = hear_neighbours(made, folds, shape, 1.0)
    assert torch.allclose(same["probabilities"], p, atol=1e-6) and torch.allclose(same["angle"], angle, atol=1e-5)
    entropy = -(p[0] * p[0].log2()).sum()
    assert torch.allclose(same["entropy"], entropy.expand(30)) and (same["mutual_information"] == 0.3).all()
    # one window in the middle is wrong, and lies otherwise by almost a whole quarter of a turn
    made["probabilities"][14] = torch.tensor([0.3, 0.6, 0.1])
    made["angle"][14, 0] = 0.2 + math.pi / 2 - 0.04
    found = hear_neighbours(made, folds, shape, 1.0)
    assert (found["probabilities"][:, :2].argmax(1) == 0).all()
    assert 0.6 < found["probabilities"][14, 0] < 0.7 and found["probabilities"][29, 0] == pytest.approx(0.7, abs=0.01)
    assert -0.02 < found["angle"][14, 0] - 0.2 < 0
    # half of an image is another structure: the border stays where it is
    made["probabilities"] = torch.where((torch.arange(30) % 6 < 3)[:, None], p, p[:, [1, 0, 2]])
    best = hear_neighbours(made, folds, shape, 1.0)["probabilities"].argmax(1).view(shape)
    assert (best[:, :3] == 0).all() and (best[:, 3:] == 1).all()


def test_far_windows_do_not_hear_each_other(trained):
    signal = scene_of((400, 400))
    options = {"step": 12.0, "n_samples": 0, "show_progressbar": False}
    alone, together = (signal.classify_structure(trained, smoothing=s, **options) for s in (0, 1.6))
    assert (alone.prop["scores"] == together.prop["scores"]).all()
    near = [signal.classify_structure(trained, smoothing=s, **options | {"step": 2.0}) for s in (0, 1.6)]
    assert np.std(near[1].prop["scores"]) < np.std(near[0].prop["scores"])
    with pytest.raises(ValueError, match="smoothing"):
        signal.classify_structure(trained, smoothing=-1)


# ---------------------------------------------------------------- the bundled model
def test_the_bundled_model_names_two_grains_and_how_they_lie():
    model = pyxem_dl.load_model("fe-cu-ti")
    model.verify(pyxem_dl.models.PRETRAINED / "fe-cu-ti")
    crystals = data.metal_crystals()
    labels = np.where(np.arange(320) < 160, 1, 2) * np.ones((180, 1), int)
    scene = data.atomic_grains(
        labels.shape, 10, crystals=[crystals[0], crystals[4]], angles=[10, 50], labels=labels, seed=1
    )
    xmap = scene.signal.classify_structure(model, show_progressbar=False)
    column = xmap.x / 0.12
    for grain, class_id, angle in ((1, 0, 10), (2, 4, 50)):
        inside = column < 105 if grain == 1 else column > 215
        assert inside.sum() > 8
        right = inside & (xmap.prop["class_id"] == class_id) & (xmap.phase_id >= 0)
        assert right.sum() > 0.95 * inside.sum()
        truth = Rotation(model.rotations(np.array([class_id]), np.array([math.radians(angle)])))
        cosine = np.abs((xmap.rotations[right].data * truth.data).sum(1))
        # the square net looks the same after a quarter of a turn
        turns = np.rad2deg(2 * np.arccos(cosine.clip(max=1))) % (360 / model.network.folds[class_id])
        off = np.minimum(turns, 360 / model.network.folds[class_id] - turns)
        assert np.median(off) < 1


def test_a_real_image_of_iron(shared_data):
    signal = hs.signals.Signal2D(np.load(shared_data / "atomic" / "Fe_bcc_100.npy")[300:, :256])
    for axis in signal.axes_manager.signal_axes:
        axis.scale, axis.units = 0.1245, "Å"
    xmap = signal.classify_structure(show_progressbar=False)
    assert ((xmap.prop["class_id"] == 0) & (xmap.phase_id == 0)).mean() > 0.95


@pytest.mark.parametrize("spacing", [2.04, 2.09, 2.7])
def test_the_bundled_model_rejects_fringes(spacing, rng):
    """One family of planes, a crystal along no zone axis, is no structure: two spots are not a net."""
    row, column = np.indices((160, 160))
    across = 0.12 * (column * np.cos(0.6) + row * np.sin(0.6))
    expected = 50 * (1 + 0.5 * np.cos(2 * np.pi * across / spacing))
    signal = hs.signals.Signal2D(rng.poisson(expected).astype(float))
    for axis in signal.axes_manager.signal_axes:
        axis.scale, axis.units = 0.12, "Å"
    with pytest.warns(UserWarning, match="Hardly any window"):
        xmap = pyxem_dl.classify_structure(signal, "fe-cu-ti", device="cpu", show_progressbar=False)
    assert (xmap.phase_id >= 0).mean() < 0.2
