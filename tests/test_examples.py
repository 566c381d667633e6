"""The examples run and draw something, and every Python block of the documentation runs, top to bottom."""

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
import types
from pathlib import Path

import hyperspy.api as hs
import numpy as np
import pytest

import pyxem_dl
from pyxem_dl import data, models, template_matching, training
from pyxem_dl.networks import build_network
from pyxem_dl.preprocessing import PolarPreprocessing
from pyxem_dl.simulation import SimulationSettings

PICTURES = {
    "01_reference_frames": ["reference_frames"],
    "02_orientation_map": ["orientations", "reliability", "patterns"],
    "03_template_matching": ["orientations_torch", "orientations_pyxem", "patterns", "disorientation"],
    "04_train_your_own": ["training_patterns", "training_log"],
    "05_strain_map": ["strain_maps", "strain", "patterns"],
    "06_labelled_scan": ["labels", "network", "difference", "uncertainty", "selection", "reliability"],
    "07_fine_tuning": ["before", "labels", "after", "difference"],
    "08_live": ["map_0", "map_1", "map_2"],
    "09_structures": ["patterns", "collection"],
    "10_quartets": ["quartet"],
    "11_atomic_images": ["regions", "structures", "lattices"],
    "12_phase_field": ["phase_field"],
}
#: Examples that train, or wait for a camera
TRAINED = {"04_train_your_own", "06_labelled_scan", "07_fine_tuning", "08_live"}
PAGES = ["README.md", "docs/index.md", "docs/models.md", "docs/reference_frames.md", "docs/training.md",
         "docs/how_it_works.md", "docs/benchmarks.md", "docs/open_benchmark.md", "docs/bragg_vectors.md",
         "docs/calibration.md", "docs/crystals.md", "docs/strain.md", "docs/labelled_training.md",
         "docs/large_scans.md", "docs/live.md", "docs/structures.md", "docs/simulation.md", "docs/refinement.md",
         "docs/quartets.md",
         "docs/any_crystal.md",
         "docs/identification.md", "docs/images.md", "docs/phase_fields.md", "docs/install.md",
         "docs/file_formats.md", "docs/results.md", "docs/grains.md", "docs/template_matching.md",
         "docs/mtex_and_astar.md",
         "docs/command_line.md", "docs/notebooks/first_map.md", "docs/notebooks/own_crystal.md",
         "docs/notebooks/strain.md", "docs/notebooks/atomic_resolution.md", "docs/notebooks/index.md",
         "docs/which_model.md", "docs/viewer.md", "docs/sharing.md", "docs/provenance.md", "docs/troubleshooting.md",
         "docs/glossary.md", "docs/guide.md"]  # fmt: skip
#: Pages of words alone
WITHOUT_CODE = {"docs/how_it_works.md", "docs/benchmarks.md", "docs/glossary.md", "docs/guide.md",
                "docs/notebooks/index.md"}
#: A line in front of a block that cannot run
NOT_RUN = "<!-- not run -->"


def test_all_examples_and_pages_are_tested(root):
    assert sorted(path.stem for path in (root / "examples").glob("*.py")) == sorted(PICTURES)
    pages = {"README.md"} | {
        f"docs/{path.relative_to(root / 'docs').as_posix()}"
        for pattern in ("*.md", "notebooks/*.md")
        for path in (root / "docs").glob(pattern)
    }
    assert pages == set(PAGES)


@pytest.mark.parametrize("example", PICTURES)
def test_an_example_is_a_page_of_cells_with_pictures(example, root):
    """Sphinx-Gallery, Jupyter and VS Code read the cells; the site has a picture of each that the script draws."""
    text = (root / "examples" / f"{example}.py").read_text(encoding="utf-8")
    title, line, empty, sentence = ast.get_docstring(ast.parse(text)).splitlines()[:4]
    assert line == "=" * len(title) and not empty and sentence
    cells = text.split("\n# %%\n")
    assert len(cells) > 3 and "__main__" not in text
    saved = re.findall(r'savefig\(OUTPUT / "(\w+)\.png"\)', text)
    assert sorted(saved) == sorted(PICTURES[example]) == sorted(set(saved))
    kept = {path.stem: path for path in (root / "docs" / "gallery" / example).iterdir()}
    assert sorted(kept) == sorted(saved)
    for path in kept.values():
        assert path.suffix == ".webp" and path.stat().st_size < 150_000
        assert_something_is_drawn(path)
    (thumbnail,) = re.findall(r'^# sphinx_gallery_thumbnail_path = "(.*)"$', text, re.M)
    assert (root / "docs" / thumbnail).is_file()


def test_pictures_are_kept_small_and_on_white(root, tmp_path):
    from PIL import Image

    keep = runpy.run_path(str(root / "docs" / "make_gallery.py"))["keep"]
    Image.new("RGBA", (1800, 600), (255, 0, 0, 0)).save(tmp_path / "wide.png")
    Image.new("RGB", (300, 200), (0, 0, 255)).save(tmp_path / "small.png")
    for name, size, color in (("wide", (900, 300), (255, 255, 255)), ("small", (300, 200), (0, 0, 255))):
        keep(tmp_path / f"{name}.png", tmp_path / "kept" / f"{name}.webp")
        picture = Image.open(tmp_path / "kept" / f"{name}.webp").convert("RGB")
        assert picture.size == size
        assert picture.getpixel((10, 10)) == pytest.approx(color, abs=6)


def test_every_picture_of_the_gallery_is_of_an_example(root):
    assert sorted(path.name for path in (root / "docs" / "gallery").iterdir()) == sorted(PICTURES)


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_jobs_for_clusters_are_scripts(root):
    (script,) = (root / "examples" / "cluster").glob("*.slurm")
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    text = script.read_text(encoding="utf-8")
    assert {"--devices", "--nodes", "--labelled", "--network", "--output", "--max-minutes"} <= set(text.split())


class OneProcess:
    """What the scripts ask of clusters that are not here; the workers are threads of this process."""

    def __new__(cls, **given):
        from distributed import LocalCluster

        cls.given = given
        cluster = LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None)
        cluster.adapt = lambda **given: None
        return cluster


@pytest.mark.parametrize(
    "script, module, name, expected",
    [
        ("predict_slurm", "dask_jobqueue", "SLURMCluster", {"cores": 8, "processes": 8}),
        ("predict_gpus", "dask_cuda", "LocalCUDACluster", {"CUDA_VISIBLE_DEVICES": None, "threads_per_worker": 2}),
    ],
)
def test_scripts_for_clusters_predict(script, module, name, expected, root, users_folder, monkeypatch, capsys):
    """Without the packages of clusters: what they are asked for is what their documentation names."""
    pytest.importorskip("distributed")
    monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(**{name: OneProcess}))
    monkeypatch.setattr(sys, "argv", [script, "scan.zspy", "my_model", "map.zarr"])
    runpy.run_path(str(root / "examples" / "cluster" / f"{script}.py"), run_name="__main__")
    assert expected.items() <= OneProcess.given.items()
    assert "dask cluster of 1 workers" in capsys.readouterr().out
    assert pyxem_dl.open_result("map.zarr").is_in_data.all()


@pytest.mark.parametrize(
    "example", [pytest.param(name, marks=[pytest.mark.slow] * (name in TRAINED)) for name in PICTURES]
)
def test_an_example_runs_and_draws(example, root, tmp_path):
    if example == "02_orientation_map" and "any-crystal" not in models.list_models():
        pytest.skip("needs the bundled model any-crystal, which is not here")
    if example == "08_live":
        pytest.importorskip("libertem_live", reason="needs the extra live")
        if "linio2-200kv" not in models.list_models():
            pytest.skip("needs the bundled model linio2-200kv, which is not here")
    run_example(root, tmp_path, example)
    for name in PICTURES[example]:
        assert_something_is_drawn(tmp_path / example / f"{name}.png")


def run_example(root, folder, example, check=True):
    """Run a script as a user does, in a folder of his own and without a display."""
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "MPLBACKEND": "Agg"}
    finished = subprocess.run(
        [sys.executable, str(root / "examples" / f"{example}.py")],
        cwd=folder, env=environment, capture_output=True, text=True, encoding="utf-8", timeout=900,
    )  # fmt: skip
    assert not check or finished.returncode == 0, finished.stdout + finished.stderr
    return finished


def assert_something_is_drawn(path):
    """A picture of some size in which more than a frame and a title are inked."""
    from PIL import Image

    picture = np.asarray(Image.open(path).convert("RGB")) / 255
    assert min(picture.shape[:2]) > 200
    inked = (np.abs(picture - picture[0, 0]) > 0.1).any(axis=-1)
    assert inked.mean() > 0.02


@pytest.mark.parametrize("page", PAGES)
def test_the_python_blocks_of_a_page_run(page, root, users_folder):
    code = python_blocks((root / page).read_text(encoding="utf-8"))
    if page not in WITHOUT_CODE:
        assert code.strip()
    exec(compile(code, page, "exec"), {"__name__": "page"})


def python_blocks(text):
    """All Python blocks of a page that can run, as one program with the page's line numbers."""
    lines, running, skipped = [], False, False
    previous = ""
    for line in text.splitlines():
        if re.match(r"```(python|\{code-cell\} ipython3)\s*$", line):
            running, skipped = True, previous.strip() == NOT_RUN
            lines.append("")
        elif line.startswith("```"):
            running = False
            lines.append("")
        else:
            option = re.match(r":[\w-]+:", line)  # of a notebook's cell
            lines.append(line if running and not skipped and not option else "")
        previous = line
    return "\n".join(lines)


def test_blocks_keep_their_lines_and_may_be_left_out():
    text = f"Words\n```python\na = 1\n```\n{NOT_RUN}\n```python\nb = 2\n```\n```bash\nc\n```\n```python\nd = 4\n```"
    assert python_blocks(text).splitlines() == ["", "", "a = 1", *[""] * 9, "d = 4"]
    cell = "```{code-cell} ipython3\n:tags: [remove-cell]\n\ne = 5\n```"
    assert python_blocks(cell).splitlines() == ["", "", "", "e = 5"]


@pytest.fixture
def users_folder(tmp_path, monkeypatch):
    """A folder with the files that the pages speak of; trainings and templates are cut short."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    shown = hs.preferences.General.show_progressbar
    monkeypatch.setattr(hs.preferences.General, "show_progressbar", shown)  # pages of notebooks set it
    data.mgo_nanocubes(lazy=False).inav[9:12, 10:14].save("scan.zspy")
    source = models.PRETRAINED.parent / "_data" / "MgO.cif"
    for name in ("MgO.cif", "structure.cif"):
        shutil.copyfile(source, name)
    make_model("my_model")
    spoken_of = {"mgo-300kv", "al-200kv"}
    if not spoken_of <= set(models.list_models()):
        for name in spoken_of:
            make_model(tmp_path / "pretrained" / name)
        monkeypatch.setattr(models.loading, "PRETRAINED", tmp_path / "pretrained")
    monkeypatch.setattr(training.learning, "VALIDATION_PATTERNS", 16)
    monkeypatch.setattr(training.specialist, "_VALIDATION_SETUPS", 1)
    monkeypatch.setattr(training.specialist, "_VALIDATION_OTHERS", 1)
    monkeypatch.setattr(pyxem_dl, "train", short_training, raising=False)
    real = template_matching.match_templates

    def coarse_matching(*arguments, **options):
        return real(*arguments, **(options | {"resolution": 5.0}))

    for module in (pyxem_dl, template_matching):
        monkeypatch.setattr(module, "match_templates", coarse_matching, raising=False)


def short_training(phases=None, **arguments):
    """Train as the page says, but a tiny network for one step."""
    simulation = arguments.get("simulation", SimulationSettings()).to_dict()
    tiny = {
        "max_steps": 1, "batch_size": 16, "device": "cpu", "show_progressbar": False, "overwrite": True,
        "simulation": SimulationSettings(**(simulation | {"setup_size": 16, "pixels": (48,)})),
    }  # fmt: skip
    if arguments.pop("network", None) == "polar":
        tiny["network"] = {"width": 16, "depth": 1, "kernel": 9, "resolution": 10.0}
        tiny["verification_share"] = 0.0
    else:
        tiny["crystals_at_once"] = 1
    return training.train(phases, **(arguments | tiny))


def make_model(folder):
    """Save a small network that was not trained, as a model of MgO that finds a crystal everywhere."""
    phase = data.mgo_phase()
    preprocessing = PolarPreprocessing(1.6, n_k=16, n_phi=72)
    arguments = {"n_k": 16, "n_phi": 72, "width": 16, "depth": 1, "kernel": 9, "resolution": 10.0}
    models.OrientationModel(
        network_name="polar",
        network=build_network("polar", laue_groups=[phase.point_group.laue.name], **arguments),
        preprocessing=preprocessing,
        phases=[phase],
        domain={"beam_energy": 300.0, "reciprocal_radius": 1.6, "scale": [0.01, 0.1], "disk_radius": [0.01, 0.05]},
        thresholds={"crystal": 0.0, "score": 0.0},
        training={"beam_energy": 300.0, "reciprocal_radius": 1.6},
        name=Path(folder).name,
    ).save(folder)
