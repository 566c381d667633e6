"""The site of the documentation: every public name, every page and every warning is on it, and it is built."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib

import pytest

import pyxem_dl
from pyxem_dl.signals import METHODS


@pytest.fixture(scope="module")
def site(root):
    spec = importlib.util.spec_from_file_location("api_pages", root / "docs" / "api_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(site):
    return site.pages()


def test_every_public_name_has_a_page(site, pages):
    rooms, names = site.public_names()
    flat = [name for some in names.values() for name in some]
    assert sorted(rooms + flat) == sorted(set(pyxem_dl.__all__) - {"__version__"})
    for name in flat:
        assert re.search(rf"auto(function|class):: pyxem_dl\.{name}\n", pages[f"api/{site.page_of(name, flat)}.rst"])
        assert f"   {site.page_of(name, flat)}\n" in pages["api/index.rst"]
    for room in rooms:
        assert f"automodule:: pyxem_dl.{room}\n" in pages[f"api/room.{room}.rst"]
        assert f"   room.{room}\n" in pages["api/index.rst"]


def test_pages_are_told_apart_without_capitals(pages):
    assert len({name.lower() for name in pages}) == len(pages)
    assert {"api/pyxem_dl.provenance.rst", "api/pyxem_dl.Provenance_class.rst"} <= set(pages)


def test_every_extra_is_on_the_page_of_installing(root):
    extras = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    listed = re.findall(r"^\| `([\w-]+)` \|", (root / "docs" / "install.md").read_text("utf-8"), re.M)
    assert sorted(listed) == sorted(extras)


def test_what_a_room_gives_is_documented_once(site, pages):
    found = [name for text in pages.values() for name in re.findall(r"auto(?:function|class|data):: (\S+)", text)]
    assert len(found) == len(set(found))
    assert {"pyxem_dl.load_model", "pyxem_dl.results.save_map", "pyxem_dl.metrics.accuracy"} <= set(found)
    assert "pyxem_dl.models.load_model" not in found  # it has a page as `pyxem_dl.load_model`
    assert "   pyxem_dl.load_model\n" in pages["api/room.models.rst"]


def test_inherited_members_are_documented_but_for_those_of_others(pages):
    (line,) = re.findall(r":members: (.*)", pages["api/pyxem_dl.OrientationModel.rst"])
    members = set(line.split(", "))
    assert {"predict_batch", "save", "verify"} <= members
    assert not any(member.startswith("_") for member in members)


def test_every_method_of_a_signal_is_on_its_page(pages):
    for _, cls, function in METHODS:
        assert re.search(rf"automethod:: \S+\.{cls}\.{function.__name__}\n", pages["api/signals.rst"])


def test_every_page_can_be_reached(root, pages):
    """From the trees of pages; what is not in one of them Sphinx refuses, too."""
    trees = "\n".join(
        tree
        for page in ("index", "guide", "notebooks/index")
        for tree in re.findall(r"```\{toctree\}\n(.*?)```", (root / "docs" / f"{page}.md").read_text("utf-8"), re.S)
    ).split()
    written = {path.stem for path in (root / "docs").glob("*.md")} - {"index"}
    written |= {path.stem for path in (root / "docs" / "notebooks").glob("*.md")} - {"index"}
    assert written | {"api/index", "examples/index", "notebooks/index", "project/index"} <= set(trees)
    for name in pages:
        folder, _, file = name.rpartition("/")
        listed = rf"^   (.* <)?{re.escape(file.rpartition('.')[0])}>?$"
        assert file.startswith("index") or re.search(listed, pages[f"{folder}/index.rst"], re.M)


@pytest.mark.parametrize(
    "text, folder, site_folder, expected",
    [
        ("[a](../benchmarks/results.md#x)", "docs", "", "[a](project/results.md#x)"),
        ("[a](../examples/08_live.py)", "docs", "", "[a](examples/08_live.rst)"),
        ("[`e`](../examples)", "docs", "", "[`e`](examples/index.rst)"),
        ("[a](models.md#thresholds)", "docs", "", "[a](models.md#thresholds)"),
        ("![p](docs/quartet.png)", "", "project", "![p](../quartet.png)"),
        ("![p](a.png)", "benchmarks", "project", "![p](../../benchmarks/a.png)"),
        ("[l](LICENSE) [c](CHANGELOG.md)", "", "project", "[l](../../LICENSE) [c](changelog.md)"),
        ("[h](https://hyperspy.org) [s](#size)", "", "project", "[h](https://hyperspy.org) [s](#size)"),
    ],
)
def test_links_lead_to_where_the_site_has_a_file(site, text, folder, site_folder, expected):
    assert site.with_site_links(text, folder, site_folder) == expected


def test_pictures_follow_the_cells_that_save_them(site):
    cell = ".. GENERATED FROM PYTHON SOURCE LINES 1-2\n\n.. code-block:: Python\n\n    figure.savefig({})\n\n\n"
    text = "Title\n=====\n\n" + cell.format('OUTPUT / "a.png"') + cell.format("elsewhere")
    text += cell.format('OUTPUT / "b.png"') + ".. _sphx_glr_download_examples_x.py:\n\nrest"
    made = site.with_pictures(text, "x")
    shown = (".. GEN", ".. image", ".. _", "   :alt:", "    figure")
    words = [line for line in made.splitlines() if line.startswith(shown)]
    assert words == [
        ".. GENERATED FROM PYTHON SOURCE LINES 1-2", '    figure.savefig(OUTPUT / "a.png")',
        ".. image:: /gallery/x/a.webp", "   :alt: a",
        ".. GENERATED FROM PYTHON SOURCE LINES 1-2", "    figure.savefig(elsewhere)",
        ".. GENERATED FROM PYTHON SOURCE LINES 1-2", '    figure.savefig(OUTPUT / "b.png")',
        ".. image:: /gallery/x/b.webp", "   :alt: b",
        ".. _sphx_glr_download_examples_x.py:",
    ]  # fmt: skip


def test_pages_are_written_when_they_change(site, pages, tmp_path, monkeypatch):
    monkeypatch.setattr(site, "pages", lambda: {"api/a.rst": "1", "project/b.md": "2"})
    site.write(tmp_path)
    before = (tmp_path / "api" / "a.rst").stat().st_mtime_ns
    site.write(tmp_path)
    assert (tmp_path / "api" / "a.rst").stat().st_mtime_ns == before
    monkeypatch.setattr(site, "pages", lambda: {"api/a.rst": "3"})
    site.write(tmp_path)
    assert [path.name for path in tmp_path.rglob("*.*")] == ["a.rst"]
    assert (tmp_path / "api" / "a.rst").read_text("utf-8") == "3"


#: Functions whose texts others warn with
TEXTS = {
    ("models/orientation.py", "_domain_warnings"), ("scans/inspection.py", "_unsure"),
    ("scans/inspection.py", "_contradiction"), ("crystals/sources.py", "_too_few"), ("scans/streaming.py", "_halve"),
}  # fmt: skip


def warned_texts(root):
    """Fixed pieces of the package's warnings that have some words, each with where it is."""
    package = root / "pyxem_dl"
    for path in sorted(package.rglob("*.py")):
        file = path.relative_to(package).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "warn":
                texts = [node.args[0]]
            elif isinstance(node, ast.FunctionDef) and (file, node.name) in TEXTS:
                errors = [part for error in ast.walk(node) if isinstance(error, ast.Raise) for part in ast.walk(error)]
                texts = [part for part in ast.walk(node) if isinstance(part, ast.JoinedStr) and part not in errors]
            else:
                continue
            for part in (part for text in texts for part in ast.walk(text) if isinstance(part, ast.Constant)):
                if isinstance(part.value, str) and len(part.value.split()) > 3:
                    yield f"{file}:{part.lineno}", " ".join(part.value.split())


def test_every_warning_is_in_troubleshooting(root):
    page = (root / "docs" / "troubleshooting.md").read_text("utf-8")
    said = " ".join(re.sub(r"^> ?", "", page, flags=re.M).split())
    texts = list(warned_texts(root))
    assert len(texts) > 80
    assert {file for file, _ in TEXTS} <= {where.partition(":")[0] for where, _ in texts}
    assert [(where, text) for where, text in texts if text not in said] == []


def test_headings_of_troubleshooting_are_anchors(root):
    headings = re.findall(r"^### (.*)$", (root / "docs" / "troubleshooting.md").read_text("utf-8"), re.M)
    assert len(headings) == len(set(headings))


#: Notebooks, and how many pictures each of them draws at least
NOTEBOOKS = {"first_map": 6, "own_crystal": 2, "strain": 3, "atomic_resolution": 5}


def test_all_notebooks_are_run(root):
    assert {path.stem for path in (root / "docs" / "notebooks").glob("*.md")} == {*NOTEBOOKS, "index"}


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(root, tmp_path):
    """With the notebooks, as the workflow builds it; each of them draws something, and no cell ends with an error."""
    for needed in ("ipykernel", "myst_nb", "numpydoc", "pydata_sphinx_theme", "sphinx", "sphinx_copybutton",
                   "sphinx_design", "sphinx_gallery"):  # fmt: skip
        pytest.importorskip(needed, reason="needs the extra docs")
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    environment = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"}
    finished = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", str(tmp_path / "trees"),
         str(root / "docs"), str(tmp_path / "html")],
        env=environment | {"PYXEM_DL_NOTEBOOKS": "force", "PYTHONPATH": path},
        capture_output=True, text=True, encoding="utf-8", timeout=900,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert "Your first map" in (tmp_path / "html" / "index.html").read_text("utf-8")
    assert "predict_orientation" in (tmp_path / "html" / "api" / "signals.html").read_text("utf-8")
    assert "orientations.webp" in (tmp_path / "html" / "examples" / "02_orientation_map.html").read_text("utf-8")
    thumbnails = list((tmp_path / "html" / "_images").glob("sphx_glr_*_thumb.webp"))
    assert len(thumbnails) == len(list((root / "examples").glob("*.py")))
    for name, pictures in NOTEBOOKS.items():
        run = json.loads((tmp_path / "jupyter_execute" / "notebooks" / f"{name}.ipynb").read_text("utf-8"))
        outputs = [output for cell in run["cells"] for output in cell.get("outputs", [])]
        assert not any(output["output_type"] == "error" for output in outputs)
        drawn = [output["data"]["image/png"] for output in outputs if "image/png" in output.get("data", {})]
        assert len(drawn) >= pictures and min(map(len, drawn)) > 5000
        page = (tmp_path / "html" / "notebooks" / f"{name}.html").read_text("utf-8")
        assert len(re.findall(r'<img [^>]*src="\.\./_images/[0-9a-f]{32,}\.png"', page)) >= pictures
