"""Arguments that cannot be: an error that says what to do, before anything is computed."""

import json
import shutil

import numpy as np
import pytest
import torch
from fake_network import FakeNetwork, make_model, make_phase
from orix.crystal_map import Phase

import pyxem_dl
from pyxem_dl import checks, load_model, networks
from pyxem_dl.devices import resolve_device
from pyxem_dl.models import PRETRAINED, OrientationEnsemble, list_models
from pyxem_dl.models.description import ModelDescription, schema
from pyxem_dl.template_matching import TemplateBank
from pyxem_dl.training.configuration import LabelledConfiguration, TrainingConfiguration
from pyxem_dl.training.running import device_and_precision


@pytest.fixture(autouse=True)
def _nothing_is_computed(monkeypatch):
    """The fake network can be built by name, and no pattern goes through it."""
    monkeypatch.setitem(networks.NETWORKS, "fake", FakeNetwork)


@pytest.fixture
def scan(polycrystal):
    return polycrystal.signal.inav[:3, :2]


# ------------------------------------------------------------------ numbers, whatever their type
@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), 3.0, np.float32(3)])
def test_whole_numbers_of_any_type(value):
    assert checks.whole_number("n", value, 1, 5) == 3 and type(checks.whole_number("n", value)) is int


@pytest.mark.parametrize(
    "value, error", [("3", TypeError), (None, TypeError), ([3], TypeError), (True, ValueError), (2.5, ValueError),
                     (np.nan, ValueError), (np.inf, ValueError), (0, ValueError), (6, ValueError)],
)  # fmt: skip
def test_what_is_no_whole_number(value, error):
    with pytest.raises(error, match=r"n must be a whole number of at (least 1|most 5), not "):
        checks.whole_number("n", value, 1, 5)


def test_numbers_and_flags():
    assert checks.number("x", np.float32(0.5), 0, 1) == 0.5 and checks.number("x", 1, 0, 1) == 1.0
    assert checks.flag("x", np.True_) is True
    wrong = (("0.5", TypeError), (True, TypeError), (None, TypeError), (np.nan, ValueError), (2, ValueError))
    for value, error in wrong:
        with pytest.raises(error, match="x must be a number from 0 to 1, not"):
            checks.number("x", value, 0, 1)
    with pytest.raises(ValueError, match="x must be a number above 0, not 0"):
        checks.number("x", 0, 0, above=True)
    with pytest.raises(TypeError, match="x must be True or False, not 'no'"):
        checks.flag("x", "no")


_WRONG = {
    "predict_orientation": [
        ({"n_best": "3"}, TypeError, "n_best must be a whole number"),
        ({"n_best": True}, ValueError, "n_best must be a whole number"),
        ({"n_samples": -1}, ValueError, "n_samples must be a whole number"),
        ({"n_samples": 10**9}, ValueError, "n_samples .* at most 1000"),
        ({"batch_size": "8"}, TypeError, "batch_size must be"),
        ({"batch_size": 10**12}, ValueError, "batch_size .* at most"),
        ({"device": "meta"}, ValueError, "device 'meta'"),
        ({"device": 3}, TypeError, "The device must be a name"),
        ({"show_progressbar": "no"}, TypeError, "show_progressbar must be True or False"),
    ],
    "match_templates": [
        ({"n_best": 2.5}, ValueError, "n_best must be"),
        ({"n_best": 10**9}, ValueError, "n_best .* at most 1000"),
        ({"resolution": "1"}, TypeError, "resolution must be a finite number"),
        ({"resolution": True}, TypeError, "resolution must be a finite number"),
        ({"resolution": 90.0}, ValueError, "resolution must be .* to 60"),
        ({"resolution": 1e-6}, ValueError, r"1e-06° would need 8.2\de\+15 templates, .* GB; .*least 0.082°"),
        ({"resolution": 1e-6, "engine": "pyxem"}, ValueError, "templates, which take"),
        ({"reciprocal_radius": 1e6}, ValueError, "about 4.27e.20 reflections within 1e.06 Å⁻¹"),
        ({"max_excitation_error": 1e6}, ValueError, "max_excitation_error must be"),
        ({"batch_size": -1}, ValueError, "batch_size must be"),
    ],
    "match_disks": [
        ({"threshold": "0.3"}, TypeError, "threshold must be a finite number"),
        ({"threshold": np.nan}, ValueError, "threshold must be a finite number"),
        ({"threshold": 1.5}, ValueError, "threshold is a correlation and must be at least 0"),
        ({"max_peaks": "3"}, TypeError, "max_peaks must be"),
        ({"max_peaks": 10**9}, ValueError, "max_peaks .* at most"),
        ({"min_distance": -1.0}, ValueError, "min_distance must be"),
        ({"subpixel": "no"}, TypeError, "subpixel must be True or False"),
        ({"lazy_output": "no"}, TypeError, "lazy_output must be True or False"),
        ({"batch_size": 2.5}, ValueError, "batch_size must be"),
    ],
    "predict_bragg_vectors": [
        ({"n_samples": "3"}, TypeError, "n_samples must be"),
        ({"max_peaks": 0}, ValueError, "max_peaks must be"),
        ({"threshold": -0.1}, ValueError, "threshold is"),
        ({"device": "xla"}, ValueError, "device 'xla'"),
    ],
}


@pytest.mark.parametrize(
    "verb, wrong, error, message", [(verb, *case) for verb, cases in _WRONG.items() for case in cases]
)
def test_wrong_arguments_of_the_verbs(scan, monkeypatch, verb, wrong, error, message):
    def no_work(*arguments, **keywords):
        raise AssertionError("something was computed")

    for kind in (pyxem_dl.OrientationModel, pyxem_dl.BraggModel):
        monkeypatch.setattr(kind, "predict_batch", no_work)
    monkeypatch.setattr("pyxem_dl.templates.bank.reduced_grid", no_work)
    subject = {"predict_orientation": ("linio2-200kv",)}.get(verb, ())
    if verb == "match_templates":
        from pyxem_dl import data

        subject = (data.lithium_nickel_oxide(),)
    with pytest.raises(error, match=message):
        getattr(pyxem_dl, verb)(scan, *subject, **({"show_progressbar": False} | wrong))


@pytest.mark.parametrize(
    "wrong, error, message",
    [
        ({"max_minutes": np.inf}, ValueError, "max_minutes must be a finite number"),
        ({"max_minutes": "20"}, TypeError, "max_minutes must be a finite number"),
        ({"batch_size": 10**12}, ValueError, "batch_size .* at most"),
        ({"seed": -1}, ValueError, "seed must be"),
        ({"depht": 3}, ValueError, "Unknown settings depht. The known ones are: max_minutes"),
        ({"network": {"depth": 10**9}}, ValueError, "network.depth: .*less than or equal to 64"),
        ({"network": {"checkpoint_path": "x"}}, ValueError, "network.checkpoint_path: unknown entry"),
        ({"simulation": {"pixels": [10**9]}}, ValueError, "pixels .* at most 2048"),
        ({"simulation": {"shape_factors": ["os.system"]}}, ValueError, "shape_factors must be from"),
        ({"device": "meta"}, ValueError, "device 'meta' cannot be used for training"),
        ({"device": "cpu:1"}, ValueError, "device 'cpu:1' cannot be used for training"),
        ({"devices": 0}, ValueError, "devices times nodes must be"),
        ({"schedule": 3}, ValueError, "schedule must be one of"),
    ],
)
def test_wrong_settings_of_a_training(tmp_path, wrong, error, message):
    settings = {"beam_energy": 200, "reciprocal_radius": 1.0, "output": tmp_path / "m", "show_progressbar": False}
    with pytest.raises(error, match=message):
        pyxem_dl.train(make_phase(), **(settings | {"network": "polar"} | wrong))
    assert not (tmp_path / "m" / "config.json").exists()


def test_a_backbone_of_the_hub_is_refused_before_scans_are_read(tmp_path):
    for name in ("hf-hub:timm/resnet18", "local-dir:/etc", "https://example.org/x"):
        with pytest.raises(ValueError, match="There is no network"):
            pyxem_dl.train(labelled=[("no.hspy", "no.h5")], network=name, output=tmp_path)
    with pytest.raises(ValueError, match="label_frame has inverse, turn, flipped, crystal_x"):
        LabelledConfiguration(label_frame={"exec": 1})


# ------------------------------------------------------------------ devices
@pytest.mark.parametrize("name", ["meta", "xla", "mkldnn", "fpga", "cpu:1", "cuda:99", "cuda", "mps", "xpu", "gpu", ""])
def test_devices_that_are_not_there(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    for resolve in (resolve_device, device_and_precision):
        with pytest.raises(ValueError, match=f"{name}.*(not a device|cannot be|not available).* Give 'auto', 'cpu'"):
            resolve(name)


def test_an_error_lists_the_devices_that_there_are(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="Give 'auto', 'cpu', 'cuda', 'cuda:0', 'cuda:1'"):
        resolve_device("cuda:2")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    assert resolve_device("cpu:0") == torch.device("cpu") == resolve_device(torch.device("cpu"))


# ------------------------------------------------------------------ thresholds
@pytest.mark.parametrize(
    "thresholds, error",
    [({"score": np.nan}, ValueError), ({"score": 1.5}, ValueError), ({"crystal": "0.5"}, TypeError),
     ({"crystal": -0.1}, ValueError), ({"crystal": None}, TypeError), ({"scores": 0.1}, ValueError)],
)  # fmt: skip
def test_bad_thresholds_are_said_before_the_work(scan, tmp_path, monkeypatch, thresholds, error):
    model = make_model(thresholds=thresholds)
    monkeypatch.setattr(type(model), "predict_batch", None)
    with pytest.raises(error, match="model 'fake-200kv'.* threshold '?(score|crystal|scores)"):
        pyxem_dl.predict_orientation(scan, model, show_progressbar=False)
    with pytest.raises(error, match="threshold"):
        model.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_model_without_a_threshold_lowers_nobodys():
    models = [make_model(thresholds=t) for t in ({"crystal": 0.6, "score": 0.3}, {"crystal": 0.4}, {"score": 0.5})]
    ensemble = OrientationEnsemble(models)
    assert ensemble.thresholds == {"crystal": pytest.approx(0.5), "score": pytest.approx(0.4)}
    assert OrientationEnsemble([make_model(thresholds={})] * 2).thresholds == {}
    models[1].thresholds["crystal"] = 7
    with pytest.raises(ValueError, match="threshold 'crystal' must be a number from 0 to 1, not 7"):
        ensemble.check_thresholds()


# ------------------------------------------------------------------ phases
@pytest.mark.parametrize("group", ["m-3m", "-3m", "2/m", "1"])
def test_phases_with_a_point_group_alone_are_kept(tmp_path, group):
    phase = Phase("found in a map", point_group=group)
    network = FakeNetwork([phase.point_group.laue.name])
    folder = make_model(phases=[phase], network=network).save(tmp_path / "model")
    found = load_model(folder).phases[0]
    assert (found.name, found.point_group.name, found.space_group) == ("found in a map", group, None)
    assert len(found.structure) == 0
    assert f"found in a map: point group {group}, without atoms" in (folder / "README.md").read_text()
    load_model(folder).save(tmp_path / "again")
    assert load_model(tmp_path / "again").fingerprint == load_model(folder).fingerprint


def test_a_phase_without_symmetry_is_not_kept(tmp_path):
    with pytest.raises(ValueError, match="'unknown' has neither a space group nor a point group"):
        make_model(phases=[Phase("unknown")]).save(tmp_path / "model")


# ------------------------------------------------------------------ recipes and bombs
@pytest.mark.parametrize("name", ["al-200kv", "linio2-200kv", "mgo-300kv"])
def test_bundled_recipes_make_the_networks_that_are_bundled(name):
    """The verifier that a recipe gives is that of the weights."""
    from pyxem_dl.simulation import PatternSimulator
    from pyxem_dl.training.learning import add_verifier

    model = load_model(name)
    c = TrainingConfiguration.from_dict(model.training)
    simulator = PatternSimulator(model.phases, c.beam_energy, c.reciprocal_radius, c.simulation)
    arguments = {key: value for key, value in model.network.arguments.items() if key != "comparison"}
    network = networks.build_network("polar", **arguments)
    add_verifier(network, simulator.table, c.reciprocal_radius, c.beam_energy, c.displacement)
    made, bundled = network.state_dict(), model.network.state_dict()
    assert {k: v.shape for k, v in made.items()} == {k: v.shape for k, v in bundled.items()}
    assert network.comparison.n_radial == model.network.comparison.n_radial
    assert network.comparison.n_spots == model.network.comparison.n_spots


@pytest.mark.parametrize("radius, n_radial", [(1.5, 3), (2.5, 5)])
def test_trainings_on_simulated_and_labelled_patterns_verify_alike(radius, n_radial):
    """A spot at the rim is displaced by up to 5 % of the radius: by more than 0.1 Å⁻¹ it leaves three sample points."""
    from types import SimpleNamespace

    from pyxem_dl.training.labelled import _add_verifier

    arguments = {"n_k": 12, "n_phi": 24, "phi_steps": 12, "width": 8, "depth": 1, "kernel": 5, "resolution": 12.0}
    network = networks.build_network("polar", laue_groups=["m-3m"], **arguments)
    scans = [SimpleNamespace(calibration=SimpleNamespace(beam_energy=200.0))]
    _add_verifier(network, [make_phase()], SimpleNamespace(reciprocal_radius=radius), scans, None)
    assert network.comparison.n_radial == n_radial
    # a model that is adapted has the distortions of its own training
    recipe = TrainingConfiguration.from_dict({
        "beam_energy": 200, "reciprocal_radius": radius, "simulation": {"scale_error": [-0.2, 0.2]},
    })  # fmt: skip
    _add_verifier(network, [make_phase()], SimpleNamespace(reciprocal_radius=radius), scans, recipe)
    assert network.comparison.n_radial == 5


def test_the_number_of_templates_in_the_error_is_that_of_a_bank():
    """What is refused for its size is told right: here for a bank that can be made."""
    import math

    bank = TemplateBank.from_phases(make_phase(), 200, 1.0, 2.0)
    expected = 1.2 * 4 * math.pi / 24 / math.radians(2.0) ** 2
    assert len(bank) == pytest.approx(expected, rel=0.15)


def test_weights_are_outlined_without_memory():
    """A network of 100 GB has its shapes, and takes nothing."""
    shapes = networks.outline("fcunet", widths=[1024, 1024, 1024])
    assert shapes["heads.weight"] == (5, 1024, 1, 1)
    for name in list_models():
        config = json.loads((PRETRAINED / name / "config.json").read_text(encoding="utf-8"))
        found = networks.outline(config["network"]["name"], **config["network"]["arguments"])
        state = load_model(name).network.state_dict()
        assert found == {key: tuple(tensor.shape) for key, tensor in state.items()}


def test_backbones_are_outlined_as_they_are_built():
    for name, arguments in (("cnn", {}), ("resnet10t", {}), ("swin_tiny_adapted", {"depths": [1, 1, 1, 1]})):
        given = {"laue_groups": ["m-3m"], "backbone": name, "backbone_arguments": arguments}
        built = networks.build_network("regression", **given).state_dict()
        assert networks.outline("regression", **given) == {key: tuple(x.shape) for key, x in built.items()}


# ------------------------------------------------------------------ descriptions
def test_the_schema_describes_the_bundled_models():
    described = json.loads(schema())
    assert described["properties"]["network"] and "PhaseEntry" in described["$defs"]
    for name in list_models():
        config = json.loads((PRETRAINED / name / "config.json").read_text(encoding="utf-8"))
        assert ModelDescription.model_validate(config).name == name


def test_entries_of_later_versions_are_left_alone(tmp_path):
    folder = shutil.copytree(PRETRAINED / "al-200kv", tmp_path / "al")
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= {"licence": "GPL", "domain": config["domain"] | {"thickness": [10, 500]}}
    path.write_text(json.dumps(config))
    assert load_model(folder).domain["thickness"] == [10, 500]


def test_model_names_that_are_none(tmp_path):
    for name in ("", "   "):
        with pytest.raises(ValueError, match="name of the model is empty. Known models: al-200kv"):
            load_model(name)
    with pytest.raises(ValueError, match="There is no model or folder 'x+.{3}x+'. Known models"):
        load_model("x" * 10_000)
    with pytest.raises(FileNotFoundError, match="There is no model folder"):
        load_model(tmp_path / "../../nowhere")


# ------------------------------------------------------------------ YAML
def test_yaml_is_read_as_people_write_it():
    assert checks.read_yaml("a: 1e-3\nb: [1, 2.5, yes, text]\nc: {d: 1E4}") == {
        "a": 1e-3, "b": [1, 2.5, True, "text"], "c": {"d": 1e4}
    }  # fmt: skip


@pytest.mark.parametrize(
    "text, message",
    [("[&x 1, *x]", "aliases"), ("!!python/name:os.system", "not YAML"), ("{a: 1, a: 2}", "occurs twice"),
     ("[" * 50 + "]" * 50, "nested"), ("9" * 1000, "digits"), ("a: b: c", "not YAML")],
)  # fmt: skip
def test_settings_of_the_command_line_are_plain(text, message):
    from pyxem_dl.commands.options import read_settings

    with pytest.raises(ValueError, match=message):
        read_settings([f"network_arguments={text}"])
