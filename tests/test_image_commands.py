"""The commands for images."""

import hyperspy.api as hs
import pytest
from typer.testing import CliRunner

import pyxem_dl
from pyxem_dl import data
from pyxem_dl.commands import app


@pytest.fixture
def file(tmp_path):
    scene = data.atomic_grains((200, 200), 50, angles=[0, 30], seed=1)
    scene.signal.save(tmp_path / "image.hspy")
    for axis in scene.signal.axes_manager.signal_axes:
        axis.units = ""
    scene.signal.save(tmp_path / "plain.hspy")
    return tmp_path / "image.hspy"


def test_segment(file):
    output = file.with_name("regions.hspy")
    run = CliRunner().invoke(app, ["segment", str(file), "--output", str(output), "--no-progress"])
    assert run.exit_code == 0, run.output
    assert f"The labels are in {output}" in run.output
    labels = hs.load(output)
    assert labels.data.shape == (200, 200) and labels.data.max() == 2
    again = CliRunner().invoke(app, ["segment", str(file), "--output", str(output)])
    assert again.exit_code == 1 and "--overwrite" in again.output


def test_a_file_without_scale_needs_the_pixel(file):
    plain, output = file.with_name("plain.hspy"), file.with_name("regions.zspy")
    run = CliRunner().invoke(app, ["segment", str(plain), "--output", str(output), "--no-progress"])
    assert run.exit_code == 1 and "no scale" in run.output and "--pixel 0.12" in run.output
    options = ["--pixel", "0.12", "--regions", "1", "--no-progress"]
    run = CliRunner().invoke(app, ["segment", str(plain), "--output", str(output), *options])
    assert run.exit_code == 0, run.output
    assert hs.load(output).data.max() == 1


@pytest.mark.parametrize("name, message", [("a.png", "must end with"), ("no/a.hspy", "no folder")])
def test_outputs_that_cannot_be(file, name, message):
    run = CliRunner().invoke(app, ["segment", str(file), "--output", str(file.parent / name)])
    assert run.exit_code == 1 and message in run.output


def test_lattice(file):
    output = file.with_name("lattice.hspy")
    options = ["--step", "4", "--no-progress"]
    run = CliRunner().invoke(app, ["lattice", str(file), "--output", str(output), *options])
    assert run.exit_code == 0, run.output
    assert "windows have a lattice" in run.output
    found = pyxem_dl.LatticeMap.load(output)
    assert found.names == ["lattice 1"] and (found.crystal == 0).mean() > 0.5
    again = CliRunner().invoke(app, ["lattice", str(file), "--output", str(output)])
    assert again.exit_code == 1 and "overwrite" in again.output
    drift = CliRunner().invoke(app, ["lattice", str(file), "--output", str(output), "--overwrite", "--drift"])
    assert drift.exit_code == 1 and "give xmap" in drift.output
    none = ["--map", str(file.with_name("no.h5")), "--overwrite"]
    run = CliRunner().invoke(app, ["lattice", str(file), "--output", str(output), *none])
    assert run.exit_code == 1 and "no file" in run.output


def test_classify_and_the_lattices_of_its_map(file):
    maps, output = file.with_name("map.h5"), file.with_name("lattice.zspy")
    options = ["--step", "4", "--samples", "0", "--no-progress"]
    run = CliRunner().invoke(app, ["classify", str(file), "--output", str(maps), *options])
    assert run.exit_code == 0 and "windows are indexed" in run.output, run.output
    options = ["--map", str(maps), "--drift", "--no-progress"]
    run = CliRunner().invoke(app, ["lattice", str(file), "--output", str(output), *options])
    assert run.exit_code == 0, run.output
    found = pyxem_dl.LatticeMap.load(output)
    assert "Fe [1 0 0]" in found.names and found.drift.shape == (2,)
