"""The command line, driven as a user does."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from fake_network import make_model
from orix import io
from orix.quaternion import Rotation
from typer.testing import CliRunner

from pyxem_dl import __main__ as command_line, catalogue, files, models
from pyxem_dl.commands import options
from pyxem_dl.data import mgo_phase
from pyxem_dl.frames import Calibration
from pyxem_dl.results import to_crystal_map
from pyxem_dl.results.map_files import save_map
from pyxem_dl.scans import Positions, make_signal
from pyxem_dl.simulated import simulate_patterns

PICTURES = ("virtual_image", "orientations_network", "orientations_templates_torch", "reliability", "disorientation",
            "patterns")  # fmt: skip
CALIBRATION = Calibration((0.05, 0.05), (20.0, 20.0), (40, 40), 200.0)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Call the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    return lambda *arguments: runner.invoke(command_line.app, [str(a) for a in arguments])


@pytest.fixture
def fake_model(monkeypatch):
    """A model under a name that the command line takes."""
    model = make_model()
    monkeypatch.setattr("pyxem_dl.orientation.load_model", lambda name: model)
    return "fake"


@pytest.fixture
def scan(tmp_path, rng):
    """A file with a scan of 3 x 4 positions."""
    signal = make_signal(rng.poisson(2, (3, 4, 40, 40)).astype("u2"), CALIBRATION, "noise")
    path = tmp_path / "scan.zspy"
    signal.save(path)
    return path


def test_help_is_quick_and_names_the_commands():
    code = (
        "import sys; from typer.testing import CliRunner; from pyxem_dl.__main__ import app; "
        "text = CliRunner().invoke(app, ['--help']).output; "
        "assert all(c in text for c in ('demo', 'train-bragg', 'predict', 'match', 'vectors')), text; "
        "print(*({'torch', 'pyxem', 'hyperspy', 'orix', 'lightning'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("command", [
    "demo", "train", "finetune", "study", "train-bragg", "predict", "match", "vectors", "models", "evaluate",
    "quartets", "identify", "refine", "settle", "grains",
])  # fmt: skip
def test_every_command_has_help(run, command):
    result = run(command, "--help")
    assert result.exit_code == 0 and "Usage" in result.output


def test_version(run):
    from pyxem_dl import __version__

    assert run("--version").output.strip() == f"pyxem-dl {__version__}"


def test_models_are_listed(run, monkeypatch, tmp_path):
    config = {
        "description": "Two phases", "network": {"name": "polar"}, "phases": [{"name": "MgO"}, {"name": "Ti"}],
        "domain": {"beam_energy": 200.0, "reciprocal_radius": 0.9},
    }  # fmt: skip
    for name, text in (("two", json.dumps(config)), ("broken", "{")):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "config.json").write_text(text, encoding="utf-8")
    entries = catalogue.bundled(tmp_path / "models")
    monkeypatch.setattr(catalogue, "bundled", lambda: entries)
    heading, broken, two = run("models").output.splitlines()
    assert heading.split() == ["name", "phases", "kV", "Å⁻¹"]
    assert two.split() == ["two", "MgO,", "Ti", "200", "0.9", "Two", "phases"]
    assert broken.startswith("broken") and "damaged" in broken and "config.json" in broken
    monkeypatch.setattr(catalogue, "bundled", list)
    assert "no bundled models" in run("models").output


def test_the_catalogue_agrees_with_the_models():
    loaded = {entry.name: entry.description for entry in catalogue.bundled()}
    assert loaded == models.list_models() and "mgo-300kv" in loaded
    mgo = next(entry for entry in catalogue.bundled() if entry.name == "mgo-300kv")
    assert (mgo.phases, mgo.beam_energy) == (("MgO",), 300.0)
    assert mgo.reciprocal_radius == models.load_model("mgo-300kv").preprocessing.reciprocal_radius


def test_listing_models_loads_nothing_heavy():
    code = (
        "import sys; from typer.testing import CliRunner; from pyxem_dl.__main__ import app; "
        "text = CliRunner().invoke(app, ['models']).output; assert 'mgo-300kv' in text, text; "
        "print(*({'torch', 'numpy', 'pyxem', 'hyperspy', 'orix', 'lightning'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_predict_writes_a_map(run, fake_model, scan, tmp_path):
    output = tmp_path / "maps" / "map.h5"
    result = run("predict", scan, "--model", fake_model, "--output", output, "--n-best", 2, "--no-progress")
    assert result.exit_code == 0, result.output
    xmap = io.load(output)
    assert xmap.shape == (3, 4) and xmap.rotations.shape == (12, 2)
    assert "12 positions" in result.output
    again = run("predict", scan, "--model", fake_model, "--output", output)
    assert again.exit_code == 1 and "already exists" in again.stderr and "Traceback" not in again.output
    assert run("predict", scan, "--model", fake_model, "--output", output, "--overwrite").exit_code == 0


def test_predict_takes_scale_energy_and_center(run, fake_model, tmp_path, rng):
    from pyxem.signals import ElectronDiffraction2D

    ElectronDiffraction2D(rng.poisson(2, (2, 2, 40, 40)).astype("u2")).save(tmp_path / "bare.hspy")
    arguments = ("predict", "bare.hspy", "--model", fake_model, "--no-progress", "--output")
    bare = run(*arguments, "a.h5")
    assert bare.exit_code == 1 and "not calibrated" in bare.stderr
    settings = ("--scale", 0.05, "--beam-energy", 200, "--center", "19.5,20")
    given = run(*arguments, "a.h5", *settings)
    assert given.exit_code == 0, given.output
    assert "0.05 Å⁻¹ per px" in given.output
    wrong = run(*arguments, "b.h5", "--center", "middle")
    assert wrong.exit_code == 2 and "must be 'auto' or 'row,column'" in wrong.stderr


@pytest.fixture(scope="module")
def crystals(tmp_path_factory):
    """Files with a simulated scan of MgO of 2 x 3 positions and with its structure; and the true orientations."""
    from test_plot import CLEAN

    from pyxem_dl.crystals import load_phases
    from pyxem_dl.simulation import PatternSimulator

    folder = tmp_path_factory.mktemp("crystals")
    structure = shutil.copy(models.PRETRAINED.parent / "_data" / "MgO.cif", folder / "MgO.cif")
    made = PatternSimulator(load_phases(structure), 200.0, 1.5, CLEAN, seed=3)()
    signal = make_signal(made.patterns.numpy().reshape(2, 3, 128, 128), made.calibration, "MgO")
    signal.save(folder / "scan.zspy")
    return folder / "scan.zspy", structure, made.rotations.numpy()


def test_match_writes_a_map_of_the_right_orientations(run, crystals, tmp_path):
    from pyxem_dl.metrics import disorientation

    scan, structure, truth = crystals
    mask = np.zeros((2, 3), dtype=np.uint8)
    mask[1, 0] = 1
    np.save("mask.npy", mask)
    arguments = ("match", scan, "--phases", structure, "--resolution", 2, "--no-progress", "--output")
    result = run(*arguments, "maps/map.h5", "--n-best", 2, "--navigation-mask", "mask.npy")
    assert result.exit_code == 0, result.output
    assert "5 positions (100.0% indexed) are in maps/map.h5" in result.output
    xmap = io.load("maps/map.h5")
    np.testing.assert_array_equal(xmap.is_in_data, mask.ravel() == 0)
    angle = disorientation(xmap.rotations.data[:, 0], truth[mask.ravel() == 0], mgo_phase(), modulo_180=True)
    assert (angle < 3).sum() >= 4 and xmap.prop["score"].shape == (5,) and xmap.prop["scores"].shape == (5, 2)
    # the spots that are left inside are others
    short = run(*arguments, "short.h5", "--reciprocal-radius", 0.9, "--max-nothing")
    assert short.exit_code == 2  # no such option
    short = run(*arguments, "short.h5", "--reciprocal-radius", 0.9)
    assert short.exit_code == 0 and "up to 0.9 " in short.output
    pyxem = run(*arguments, "pyxem.h5", "--engine", "pyxem")
    assert pyxem.exit_code == 0 and "Template matching (pyxem)" in pyxem.output


def map_of(rotations):
    """A map of MgO at 2 x 3 positions."""
    positions, one = Positions((2, 3), (1.0, 1.0), "nm"), np.ones((6, 1), dtype=int)
    return to_crystal_map(positions, rotations[:, None], 0 * one, one, [mgo_phase()], is_in_data=one[:, 0] > 0)


def test_refine_writes_a_map_with_thicknesses(run, crystals):
    _, structure, truth = crystals
    scan = "plates.zspy"
    simulate_patterns(
        mgo_phase(), truth.reshape(2, 3, 4), 100, engine="many-beam", beam_energy=200, reciprocal_radius=1.3,
        convergence_semi_angle=1, electrons=1e5, seed=0,
    ).save(scan)  # fmt: skip
    save_map("matched.h5", map_of(truth))
    save_map("matched.ang", map_of(truth))
    mask = np.zeros((2, 3), dtype=np.uint8)
    mask[1, 0] = 1
    np.save("mask.npy", mask)
    few = ("--thickness", "50,150", "--n-beams", 20, "--convergence-semi-angle", 1, "--no-progress", "--device", "cpu")
    done = run("refine", scan, "matched.h5", "--output", "a.h5", "--navigation-mask", "mask.npy", *few)
    assert done.exit_code == 0, done.output
    xmap = io.load("a.h5")
    assert "50 to 150 Å" in done.output and "5 positions (" in done.output
    np.testing.assert_array_equal(xmap.is_in_data, mask.ravel() == 0)
    refined = xmap.prop["refined"].astype(bool)
    assert refined.any() and np.isfinite(xmap.prop["thickness"][refined]).all()
    # a map of another program has no atoms
    bare = run("refine", scan, "matched.ang", "--output", "b.h5", *few)
    assert bare.exit_code == 1 and "has no atoms" in bare.stderr
    named = run("refine", scan, "matched.ang", "--phase", structure, "--output", "b.zarr", *few)
    assert named.exit_code == 0, named.output
    turned = run("refine", scan, "b.zarr", "--phase", structure, "--frame", "{turn: 20}", "--output", "c.h5", *few)
    assert turned.exit_code == 0, turned.output
    assert io.load("c.h5").prop["refined"].sum() < io.load("a.h5").prop["refined"].sum()


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (("none.h5", "--output", "a.h5"), 1, "There is no file 'none.h5'"),
        (("map.h5", "--output", "map.csv"), 1, "A crystal map can be saved as"),
        (("map.h5", "--output", "a.h5", "--thickness", "100"), 2, "must be 'smallest,largest'"),
        (("map.h5", "--output", "a.h5", "--thickness", "100,50"), 1, "two increasing numbers"),
        (("map.h5", "--output", "a.h5", "--n-beams", "4000"), 1, "n_beams"),
        (("map.h5", "--output", "a.h5", "--frame", "[1]"), 2, "must be like '{turn: 90}'"),
        (("map.h5", "--output", "a.h5", "--phase", "none.cif"), 1, "There is no structure file none.cif"),
    ],
)
def test_refine_says_what_is_wrong(run, crystals, arguments, code, message):
    scan, _, rotations = crystals
    save_map("map.h5", map_of(rotations))
    result = run("refine", scan, *arguments)
    assert result.exit_code == code and message in result.stderr.replace("\n", " ").replace("│", ""), result.output


def test_settle_and_grains_write_maps(run, crystals):
    scan, structure, truth = crystals
    one = np.tile(truth[:1], (6, 1))
    save_map("same.h5", map_of(one))
    turned = one.copy()
    # R * Rz(180°)
    turned[1] = (Rotation(one[1]) * Rotation.from_axes_angles([0, 0, 1], np.pi)).data.ravel()
    save_map("turned.h5", map_of(turned))
    done = run("settle", "turned.h5", "--output", "settled.h5")
    assert done.exit_code == 0 and "1 of 6 positions were changed" in done.output, done.output
    np.testing.assert_allclose(np.abs((io.load("settled.h5").rotations.data * one).sum(1)), 1, atol=1e-6)
    looked = run("settle", "turned.h5", "--scan", scan, "--phase", structure, "--output", "b.ang", "--no-progress",
                 "--device", "cpu")  # fmt: skip
    assert looked.exit_code == 0 and Path("b.ang").exists(), looked.output
    useless = run("settle", "turned.h5", "--phase", structure, "--output", "c.h5")
    assert useless.exit_code == 2 and "--scan" in useless.stderr
    found = run("grains", "same.h5", "--output", "grains.ang", "--table", "grains.csv", "--picture", "grains.png")
    assert found.exit_code == 0 and "1 in 6 indexed" in found.output, found.output
    assert (io.load("grains.ang").prop["grain_id"] == 0).all() and Path("grains.png").stat().st_size > 1000
    header, row = Path("grains.csv").read_text().splitlines()
    assert "size" in header.split(",") and row.split(",")[header.split(",").index("size")] == "6"
    again = run("grains", "same.h5", "--output", "a.h5", "--table", "grains.csv")
    assert again.exit_code == 1 and "--overwrite" in again.stderr
    missing = run("grains", "none.h5", "--output", "a.h5")
    assert missing.exit_code == 1 and "There is no file 'none.h5'" in missing.stderr


def test_predict_looks_for_overlaps_and_refines(run, crystals):
    scan, structure, _ = crystals
    arguments = ("predict", scan, "--phase", structure, "--overlap", "--no-progress", "--device", "cpu", "--output")
    found = run(*arguments, "a.h5")
    assert found.exit_code == 0, found.output
    both = run(*arguments, "b.h5", "--refine")
    assert both.exit_code == 0, both.output
    plain, refined = io.load("a.h5"), io.load("b.h5")
    assert refined.rotations.shape == plain.rotations.shape == (6, 3)
    np.testing.assert_allclose(refined.prop["share"], plain.prop["share"])
    assert "thickness" in refined.prop and "thickness" not in plain.prop


def test_match_looks_at_everything_before_the_work(run, crystals, monkeypatch):
    scan, structure, _ = crystals
    monkeypatch.setattr("pyxem_dl.template_matching.TemplateBank.from_phases", None)  # nobody may come so far
    (there := np.zeros(1)).tofile("map.h5")
    np.save("wrong.npy", np.zeros((3, 2)))
    np.save("letters.npy", np.array(["a"]))
    np.save("but_one.npy", np.arange(6).reshape(2, 3) != 4)
    busy = files.claimed("busy.h5")
    busy.__enter__()
    for arguments, message in (
        ((structure, "--output", "map.csv"), "A crystal map can be saved as"),
        ((structure, "--output", "map.h5"), "map.h5 already exists"),
        ((structure, "--output", "a.ang", "--navigation-mask", "but_one.npy"), "A single pattern cannot be saved as"),
        ((structure, "--output", "busy.h5"), "busy.h5 is being written by another process"),
        (("none.cif", "--output", "a.h5"), "There is no structure file none.cif"),
        ((structure, "--output", "a.h5", "--signal-mask", "none.npy"), "There is no file 'none.npy'"),
        ((structure, "--output", "a.h5", "--signal-mask", "letters.npy"), "letters.npy is not a mask: it holds"),
        ((structure, "--output", "a.h5", "--navigation-mask", "wrong.npy"), "It is transposed"),
        ((structure, "--output", "a.h5", "--resolution", -1), "resolution must be positive"),
    ):
        result = run("match", scan, "--phases", *arguments)
        assert result.exit_code == 1 and message in result.stderr, (arguments, result.output)
    busy.__exit__(None, None, None)
    assert run("match", scan, "--phases", structure, "--output", "a.h5", "--engine", "magic").exit_code == 2
    assert there.size == 1


def test_masks_of_files_leave_out_what_they_say(run, fake_model, scan):
    from hyperspy.signals import Signal2D

    excluded = np.zeros((40, 40))
    excluded[18:23] = 1
    Signal2D(excluded).save("stop.hspy")
    arguments = ("predict", scan, "--model", fake_model, "--no-progress", "--output")
    assert run(*arguments, "all.h5").exit_code == 0
    result = run(*arguments, "masked.h5", "--signal-mask", "stop.hspy")
    assert result.exit_code == 0, result.output
    whole, masked = (io.load(name).prop["score"] for name in ("all.h5", "masked.h5"))
    assert not np.allclose(whole, masked)


def test_evaluate(run, crystals, tmp_path):
    from pyxem_dl.template_matching import match_templates

    scan, structure, rotations = crystals
    xmap = match_templates(options.load_scan(scan, None), structure, resolution=6, show_progressbar=False)
    save_map(tmp_path / "found.h5", xmap)
    xmap._rotations.data = rotations.reshape(xmap._rotations.shape + (4,))
    save_map(tmp_path / "truth.h5", xmap)
    done = run("evaluate", scan, "--map", "found.h5", "--phases", structure, "--truth", "truth.h5", "--output",
               "a.json", "--no-progress", "--device", "cpu")  # fmt: skip
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["rows"]
    assert list(rows) == ["found.h5", "templates"] and rows["templates"]["n"] == 6
    assert "modulo 180°" in done.output and "Saved to a.json" in done.output
    right = run("evaluate", scan, "--map", "truth.h5", "--truth", "truth.h5")
    assert "| 100.0 ± 0.0 %" in right.output
    turned = run("evaluate", scan, "--map", "truth.h5", "--truth", "truth.h5", "--frame", "{turn: 20}")
    assert turned.exit_code == 0 and "| 100.0 ± 0.0 %" not in turned.output
    peaks = run("evaluate", scan, "--map", "truth.h5", "--output", "a.md")
    assert peaks.exit_code == 0 and "by chance" in (tmp_path / "a.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        ((), 1, "There is nothing to evaluate"),
        (("--map", "nowhere.h5"), 1, "There is no file 'nowhere.h5'"),
        (("--truth", "nowhere.h5", "--model", "al-200kv"), 1, "There is no file 'nowhere.h5'"),
        (("--phases", "nowhere.cif"), 1, "There is no structure file nowhere.cif"),
        (("--model", "no-such-model"), 1, "no model or folder"),
        (("--model", "al-200kv", "--output", "a.txt"), 1, "An evaluation can be saved as .json or .md"),
        (("--model", "al-200kv", "--frame", "[1]"), 2, "must be like '{turn: 90}'"),
        (("--model", "al-200kv", "--frame", "{turned: 90}"), 2, "must be like '{turn: 90}'"),
    ],
)
def test_evaluate_says_what_is_wrong(run, scan, arguments, code, message):
    result = run("evaluate", scan, *arguments)
    assert result.exit_code == code and message in result.stderr.replace("\n", " ").replace("│", "")


@pytest.fixture
def disk_scan(tmp_path, rng):
    """Files with a scan of 2 x 3 positions with disks, and with their probe in vacuum."""
    from pyxem_dl.simulation.detector import draw_spots

    k = torch.tensor([[0.0, 0.7, -0.6]] * 7)
    electrons = torch.tensor([[4000.0, 900.0, 700.0]] * 6 + [[4000.0, 0, 0]])
    images = draw_spots(k, 0.5 * k, electrons, CALIBRATION, disk_radius=0.2, blur=0.4).numpy()
    counts = rng.poisson(images[:6].reshape(2, 3, 40, 40)).astype("u2")
    make_signal(counts, CALIBRATION, "disks").save(tmp_path / "disks.zspy")
    make_signal(images[6], CALIBRATION, "vacuum").save(tmp_path / "vacuum.hspy")
    return tmp_path


def test_vectors_go_into_a_file(run, disk_scan):
    import hyperspy.api as hs

    result = run(
        "vectors", "disks.zspy", "--correlation", "--probe", "vacuum.hspy", "--output", "v.hspy", "--no-progress"
    )
    assert result.exit_code == 0, result.output
    assert "18 disks of 6 positions are in v.hspy" in result.output
    found = hs.load(disk_scan / "v.hspy")
    assert found.data.shape == (2, 3) and found.data[1, 2].shape == (3, 4)
    np.testing.assert_allclose(sorted(found.data[0, 0][:, 1]), [-0.6, 0.0, 0.7], atol=0.02)
    again = run("vectors", "disks.zspy", "--correlation", "--output", "v.hspy")
    assert again.exit_code == 1 and "already exists" in again.stderr


def test_vectors_where_masks_exclude_something(run, disk_scan):
    import hyperspy.api as hs

    detector = np.zeros((40, 40), np.uint8)
    detector[:, 30:] = 1  # where one of three disks is
    np.save("detector.npy", detector)
    np.save("positions.npy", np.arange(6).reshape(2, 3) == 2)
    result = run(
        "vectors", "disks.zspy", "--correlation", "--probe", "vacuum.hspy", "--output", "v.hspy", "--no-progress",
        "--navigation-mask", "positions.npy", "--signal-mask", "detector.npy",
    )
    assert result.exit_code == 0, result.output
    found = hs.load(disk_scan / "v.hspy")
    assert [len(table) for table in found.data.ravel()] == [2, 2, 0, 2, 2, 2]
    np.testing.assert_allclose(sorted(found.data[0, 0][:, 1]), [-0.6, 0.0], atol=0.02)


def test_vectors_of_a_detector_go_into_a_file_of_py4dstem(run, disk_scan):
    import h5py

    from pyxem_dl.networks import build_network

    torch.manual_seed(0)
    network = build_network("fcunet", widths=(8, 8, 8))
    models.BraggModel("fcunet", network, {"disk_radius": [1.5, 40.0]}, {"confidence": 0.01}).save("detector")
    settings = ("--model", "./detector", "--samples", 2, "--no-progress")
    result = run("vectors", "disks.zspy", *settings, "--output", "v.h5")
    assert result.exit_code == 0, result.output
    with h5py.File(disk_scan / "v.h5") as file:
        assert file["braggvectors_root/braggvectors/_v_uncal/data"].shape == (2, 3)


def test_train_bragg_makes_a_detector(run, tmp_path, monkeypatch):
    from pyxem_dl import training
    from pyxem_dl.training import bragg

    real = training.train_bragg
    monkeypatch.setattr(bragg, "VALIDATION_BATCHES", 1)

    def short(*arguments, **settings):
        settings["network"] |= {"widths": [4, 4, 4]}
        return real(*arguments, **(settings | {"max_steps": 1, "batch_size": 8}))

    monkeypatch.setattr(training, "train_bragg", short)
    shutil.copy(models.PRETRAINED.parent / "_data" / "MgO.cif", "MgO.cif")
    result = run("train-bragg", "MgO.cif", "--output", "detector", "--unet", "complex", "--no-progress")
    assert result.exit_code == 0, result.output
    assert models.load_model(tmp_path / "detector").network.arguments["unet"] == "complex"
    wrong = run("train-bragg", "MgO.cif", "--output", "other", "--unet", "imaginary")
    assert wrong.exit_code == 1 and "network.unet: input should be 'real' or 'complex', not 'imag" in wrong.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["predict", "nowhere.zspy", "--model", "x", "--output", "a.h5"], "There is no file 'nowhere.zspy'"),
        (["predict", "SCAN", "--model", "no-such-model", "--output", "a.h5"], "no model or folder"),
        (["predict", "SCAN", "--model", "x", "--output", "a.txt"], "A crystal map can be saved as"),
        (["train", "nowhere.cif", "--beam-energy", "200", "--reciprocal-radius", "1.5", "--output", "m"],
         "There is no structure file nowhere.cif"),
        (["vectors", "nowhere.zspy", "--output", "v.hspy"], "There is no file 'nowhere.zspy'"),
        (["vectors", "SCAN", "--output", "v.txt"], "Vectors are saved as .hspy, .zspy (HyperSpy)"),
        (["vectors", "SCAN", "--model", "no-such-model", "--output", "v.hspy"], "no model or folder"),
        (["train-bragg", "nowhere.cif", "--output", "m"], "There is no structure file nowhere.cif"),
        (["identify", "SCAN", "--phase", "nowhere.cif"], "There is no structure file nowhere.cif"),
        (["identify", "SCAN", "--phase", ".", "--output", "found.txt"], "can be saved as .json"),
        (["demo", "--model", "no-such-model"], "no model or folder"),
        (["benchmark", "--data", "nowhere"], "`pyxem-dl benchmark` is gone"),
    ],
)  # fmt: skip
def test_user_errors_are_messages(run, scan, arguments, message):
    result = run(*[scan if a == "SCAN" else a for a in arguments])
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output and isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    "arguments",
    [["train", "a.cif"], ["predict"], ["evaluate"]],
)
def test_wrong_usage_ends_with_2(run, arguments):
    assert run(*arguments).exit_code == 2


def test_debug_shows_where(run):
    result = run("--debug", "predict", "nowhere.zspy", "--model", "x", "--output", "a.h5")
    assert isinstance(result.exception, FileNotFoundError)


def test_interrupted_training_says_how_to_go_on(run, tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        assert kwargs["beam_energy"] == 200 and kwargs["max_minutes"] == 3 and kwargs["seed"] == 5
        raise KeyboardInterrupt("Interrupted; call again with resume=True.")

    monkeypatch.setattr("pyxem_dl.training.train", interrupted)
    (tmp_path / "a.cif").write_text("data_a")
    settings = ("--beam-energy", 200, "--reciprocal-radius", 1.5, "--max-minutes", 3, "--seed", 5)
    result = run("train", "a.cif", *settings, "--output", "m")
    assert result.exit_code == 130 and "call again" in result.stderr


def test_training_does_not_overwrite_a_model(run, tmp_path):
    (tmp_path / "a.cif").write_text("data_a")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    result = run("train", "a.cif", "--beam-energy", 200, "--reciprocal-radius", 1.5, "--output", "m")
    assert result.exit_code == 1 and "already holds a model" in result.stderr


def check_demo(result, folder, shape, methods):
    assert result.exit_code == 0, result.output
    rows = (folder / "comparison.md").read_text(encoding="utf-8").splitlines()
    assert [row.split("|")[1].strip() for row in rows[2:]] == methods
    assert all(row in result.output for row in rows)
    network, templates = (io.load(folder / f"{name}.h5") for name in ("network", "templates_torch"))
    assert network.shape == templates.shape == shape
    assert network.scan_unit == "nm" and network.dx == pytest.approx(9.09)
    assert {"scores", "reliability"} <= set(network.prop)
    assert io.load(folder / "network.ang").shape == shape
    import matplotlib

    for name in PICTURES:
        picture = matplotlib.image.imread(folder / f"{name}.png")[..., :3]
        assert min(picture.shape[:2]) > 300 and picture.std() > 0.05, name
    return network, templates


def test_demo_with_any_model(run, monkeypatch, tmp_path):
    """The path from end to end, with the fake network and a corner of the scan."""
    from pyxem_dl import data

    corner = data.mgo_nanocubes().inav[4:10, 16:24]
    monkeypatch.setattr(data, "mgo_nanocubes", lambda lazy: corner)
    monkeypatch.setattr(models, "load_model", lambda name: make_model())
    result = run("demo", "--no-pyxem", "--output", "out")
    check_demo(result, tmp_path / "out", (8, 6), ["network", "templates (torch)"])


@pytest.mark.slow
@pytest.mark.skipif(
    not (models.PRETRAINED / "any-crystal" / "config.json").exists(), reason="the model any-crystal is not bundled"
)
def test_demo_as_it_ships(run, tmp_path):
    result = run("demo")
    methods = ["network", "templates (torch)", "templates (pyxem)"]
    network, templates = check_demo(result, tmp_path / "pyxem-dl-demo", (28, 21), methods)
    # the flat cube: [001] along the beam, by both
    for xmap in (network, templates):
        axis = xmap.rotations.data.reshape(28, 21, -1, 4)[22:27, 4:9, 0]
        w, x, y, z = np.moveaxis(axis, -1, 0)
        direction = np.abs([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)]).max(0)
        assert (direction > np.cos(np.deg2rad(10))).mean() > 0.95
    assert 0.2 < (network.phase_id >= 0).mean() < 0.95


def test_pairs_of_files_may_have_drives(monkeypatch):
    there = {r"C:\d\scan.zspy", r"D:\labels.h5", "scan.zspy", "labels.h5"}
    monkeypatch.setattr(options.Path, "exists", lambda path: str(path) in there)
    for scan in (r"C:\d\scan.zspy", "scan.zspy"):
        for labels in (r"D:\labels.h5", "labels.h5"):
            assert options.read_labelled([f"{scan}:{labels}"]) == [(scan, labels)]
    with pytest.raises(FileNotFoundError, match="no file 'none.h5'"):
        options.read_labelled([r"C:\d\scan.zspy:none.h5"])
    for wrong in ("scan.zspy", r"C:\scan.zspy", "scan.zspy:", ":labels.h5"):
        with pytest.raises(typer.BadParameter, match="must be like"):
            options.read_labelled([wrong])


def test_match_takes_vectors_too(run, crystals, tmp_path):
    import hyperspy.api as hs

    scan, structure, rotations = crystals
    vectors, output = tmp_path / "vectors.hspy", tmp_path / "map.h5"
    hs.load(scan).match_disks(show_progressbar=False).save(vectors)
    result = run("match", vectors, "--phases", structure, "--no-progress", "--output", output)
    assert result.exit_code == 0, result.output
    assert "Bragg vectors at" in result.output and output.exists()
