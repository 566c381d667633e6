"""Old names work for one release more, give the very same things, and warn at the user's own line."""

import importlib
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from orix.crystal_map import Phase

import pyxem_dl
from pyxem_dl import moved, results


@pytest.fixture
def forgotten():
    """Forget that old names were imported, before and after."""

    def forget():
        for old in moved.MODULES:
            sys.modules.pop(old, None)
            vars(pyxem_dl).pop(old.partition(".")[2], None)

    forget()
    yield
    forget()


@pytest.mark.parametrize("old", moved.MODULES)
def test_an_old_module_is_the_new_one(old, forgotten):
    with pytest.warns(DeprecationWarning, match=f"{old} is now {moved.MODULES[old]}") as caught:
        module = importlib.import_module(old)
    assert module is importlib.import_module(moved.MODULES[old])
    assert module.__name__ == module.__spec__.name == moved.MODULES[old]
    assert len(caught) == 1


def test_an_old_module_is_an_attribute_of_the_package(forgotten):
    with pytest.warns(DeprecationWarning, match="pyxem_dl.maps is now"):
        assert pyxem_dl.maps.save_map is pyxem_dl.results.save_map
    with pytest.raises(AttributeError, match="nowhere"):
        pyxem_dl.nowhere  # noqa: B018


@pytest.mark.parametrize(("module", "name"), [(m, n) for m, names in moved.NAMES.items() for n in names])
def test_an_old_name_is_the_new_one(module, name):
    where, new = moved.NAMES[module][name]
    with pytest.warns(DeprecationWarning, match=f"{module}.{name} is now {where}.{new}") as caught:
        value = getattr(importlib.import_module(module), name)
    assert value is getattr(importlib.import_module(where), new)
    assert caught[0].filename == __file__


def test_an_old_attribute_is_the_new_one():
    match = pyxem_dl.template_matching.Match(*range(5))
    with pytest.warns(DeprecationWarning, match="Match.phase_index is now Match.phase_id"):
        assert match.phase_index == match.phase_id == 3
    assert match._fields[3] == "phase_id"


def test_an_old_property_of_a_map_is_the_new_one():
    positions = SimpleNamespace(x=np.arange(4.0), y=None, scan_unit="nm", navigation_mask=np.zeros(4, bool))
    phases = [Phase("a", point_group="m-3m")]
    xmap = results.to_crystal_map(
        positions, np.tile([1.0, 0, 0, 0], (4, 1, 1)), np.zeros((4, 1), int), np.ones((4, 1)), phases,
        prop={"uncertainty": np.arange(4.0)},
    )  # fmt: skip
    for some in (xmap[1:], results.copied_map(xmap)[1:]):
        with pytest.warns(DeprecationWarning, match="prop..spread.. is now xmap.prop..uncertainty..") as caught:
            assert some.prop["spread"].tolist() == [1, 2, 3]
        assert caught[0].filename == __file__
        with pytest.raises(KeyError, match="nothing"):
            some.prop["nothing"]
    assert "spread" not in xmap.prop and set(xmap.prop) == {"score", "scores", "uncertainty"}


def test_a_name_that_never_was():
    with pytest.raises(AttributeError, match="'pyxem_dl.rotations' has no attribute 'turn'"):
        pyxem_dl.rotations.turn  # noqa: B018


def test_the_warning_is_at_the_line_that_imports(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import numpy\n\nfrom pyxem_dl.labels import read_labels\n")
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert f"{script}:3: DeprecationWarning: pyxem_dl.labels is now pyxem_dl.results.labels" in run.stderr


def test_installing_twice_adds_one_finder():
    moved.install()
    assert sum(isinstance(finder, moved._Finder) for finder in sys.meta_path) == 1


def test_no_module_of_the_package_uses_an_old_name():
    code = """
import importlib, pkgutil, pyxem_dl
for module in pkgutil.walk_packages(pyxem_dl.__path__, "pyxem_dl."):
    try:
        module.name.endswith("__main__") or importlib.import_module(module.name)
    except ImportError as error:
        assert "pyxem-dl[" in str(error), error  # of an extra that is not installed here
"""
    run = subprocess.run(
        [sys.executable, "-W", "error:pyxem_dl:DeprecationWarning", "-c", code], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
