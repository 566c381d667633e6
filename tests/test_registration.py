"""How the methods come onto pyxem's classes, and that HyperSpy never suffers from it.

What depends on the order of imports runs in processes of its own. They find pyxem_dl as HyperSpy does, through its
entry points, so the package has to be installed (``python -m pip install -e .`` will do).
"""

import importlib
import inspect
import logging
import os
import subprocess
import sys
import types
from importlib.machinery import SourceFileLoader
from importlib.metadata import entry_points

import hyperspy.api as hs
import numpy as np
import pytest

import pyxem_dl
from pyxem_dl import _autoload, signals

NAMES = [function.__name__ for _, name, function in signals.METHODS if name == "Diffraction2D"]


def run(code, *arguments, **environment):
    """Run code in a fresh interpreter and return what it wrote to standard error."""
    variables = {key: value for key, value in os.environ.items() if key != _autoload.ENVIRONMENT_VARIABLE}
    process = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=variables | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process.stderr


@pytest.fixture(scope="module")
def scan_file(tmp_path_factory):
    """A small file of a scan as a reader leaves it: the signal type in the metadata, and no trace of pyxem_dl."""
    signal = hs.signals.Signal2D(np.ones((2, 3, 8, 8), dtype=np.uint16))
    signal.metadata.Signal.signal_type = "electron_diffraction"
    path = tmp_path_factory.mktemp("scan") / "scan.hspy"
    signal.save(path)
    return path


def test_entry_points_are_registered():
    names = {entry_point.name for entry_point in entry_points(group="hyperspy.extensions")}
    assert {"pyxem_dl", "pyxem_dl._autoload"} <= names, "install pyxem_dl first: python -m pip install -e ."


def test_no_signal_type_of_our_own():
    from hyperspy.extensions import ALL_EXTENSIONS

    assert not [entry for entry in ALL_EXTENSIONS["signals"].values() if entry["module"].startswith("pyxem_dl")]


def test_importing_pyxem_dl_takes_the_standard_library_and_the_lazy_loader_only():
    run(
        "import sys\n"
        "before = set(sys.modules)\n"
        "import pyxem_dl\n"
        "dir(pyxem_dl)\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "assert new <= {'pyxem_dl', 'lazy_loader', *sys.stdlib_module_names}, new\n"
        "submodules = {name for name in sys.modules if name.startswith('pyxem_dl.')}\n"
        "rooms = {name.split('.')[1] for name in submodules}\n"
        "assert rooms == {'_autoload', 'moved', 'signals'}, submodules\n"
    )


def test_hyperspy_loads_neither_torch_nor_pyxem():
    run(
        "import sys\n"
        "import hyperspy.api as hs\n"
        "signal = hs.signals.Signal2D([[[1.0, 2.0], [3.0, 4.0]]])\n"
        "signal.as_lazy().sum().compute()\n"
        "assert 'pyxem_dl' in sys.modules\n"
        "loaded = {'torch', 'pyxem', 'lightning', 'timm'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )


IMPORTS = {
    "hyperspy": "import hyperspy.api as hs",
    "hyperspy, pyxem": "import hyperspy.api as hs; import pyxem",
    "pyxem, hyperspy": "import pyxem; import hyperspy.api as hs",
    "pyxem_dl, hyperspy": "import pyxem_dl; import hyperspy.api as hs",
    "pyxem, pyxem_dl": "import pyxem; import pyxem_dl; import hyperspy.api as hs",
    "module of pyxem": "from pyxem.signals.diffraction2d import Diffraction2D; import hyperspy.api as hs",
}

LOAD_AND_CAST = """
def check(signal, lazy):
    assert type(signal).__module__.startswith("pyxem."), type(signal)
    assert signal._lazy == lazy
    for name in NAMES:
        method = getattr(signal, name)
        assert method.__self__ is signal and method.__func__.__module__.startswith("pyxem_dl.signals."), method

for lazy in LAZY:
    s = hs.load(sys.argv[1], lazy=lazy)
    check(s, lazy)
    check(s.inav[:2, :1].isig[1:7, 1:7], lazy)
    check(s.deepcopy(), lazy)
    check(s.as_lazy(), True)
    s.set_signal_type("diffraction")
    check(s, lazy)
    s.set_signal_type("")
    assert not hasattr(s, NAMES[0])
    s.set_signal_type("electron_diffraction")
    check(s, lazy)
    if lazy:
        s.compute(show_progressbar=False)
        check(s, False)
    s.save(sys.argv[2], overwrite=True)
    s = hs.load(sys.argv[2])
    check(s, False)
    assert s.metadata.Signal.signal_type == "electron_diffraction"
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize("lazy_first", [False, True], ids=["eager first", "lazy first"])
@pytest.mark.parametrize("imports", IMPORTS.values(), ids=IMPORTS.keys())
def test_methods_are_there_in_every_order_of_import_and_load(imports, lazy_first, scan_file, tmp_path):
    head = f"import sys\n{imports}\nNAMES = {NAMES}\nLAZY = {(lazy_first, not lazy_first)}\n"
    run(head + LOAD_AND_CAST, scan_file, tmp_path / "saved.hspy")


@pytest.mark.parametrize("imports", IMPORTS.values(), ids=IMPORTS.keys())
def test_vectors_have_their_method_after_every_order_of_import(imports):
    run(
        f"import sys\n{imports}\nimport numpy as np\n"
        "rows = np.empty((2, 3), dtype=object)\n"
        "for i in np.ndindex(2, 3):\n    rows[i] = np.ones((4, 2))\n"
        "from pyxem.signals import DiffractionVectors\n"
        "vectors = DiffractionVectors(rows, column_names=['ky', 'kx'], units=['1/Å', '1/Å'])\n"
        "for each in (vectors, vectors.inav[0, 0], vectors.as_lazy()):\n"
        "    assert each.strain_map.__func__.__module__.startswith('pyxem_dl.signals.'), each\n"
        "assert 'torch' not in sys.modules\n"
    )


@pytest.mark.parametrize("value, attached", [("1", False), ("0", True)])
def test_environment_variable(value, attached, scan_file):
    code = (
        "import sys\n"
        "import hyperspy.api as hs\n"
        "import pyxem_dl\n"
        "s = hs.load(sys.argv[1])\n"
        "assert type(s).__name__ == 'ElectronDiffraction2D'\n"
        f"assert hasattr(s, 'predict_orientation') is {attached}\n"
        "assert 'predict_orientation' in dir(pyxem_dl)\n"
    )
    run(code, scan_file, **{_autoload.ENVIRONMENT_VARIABLE: value})


BROKEN = {
    "our table of methods cannot be imported": "sys.modules['pyxem_dl.signals'] = None",
    "pyxem lacks the class": (
        "import pyxem_dl.signals\n"
        "pyxem_dl.signals.METHODS = [('pyxem.signals.diffraction2d', 'Gone', pyxem_dl.signals.match_templates)]"
    ),
    "the table is nonsense": "import pyxem_dl.signals\npyxem_dl.signals.METHODS = [None]",
}


@pytest.mark.parametrize("sabotage", BROKEN.values(), ids=BROKEN.keys())
def test_a_failure_is_logged_and_breaks_nothing(sabotage, scan_file):
    error = run(
        f"import sys\n{sabotage}\n"
        "import hyperspy.api as hs\n"
        "s = hs.load(sys.argv[1])\n"
        "assert type(s).__name__ == 'ElectronDiffraction2D'\n",
        scan_file,
    )
    assert "pyxem_dl: its methods" in error


# The finder, in this process and with modules made for the purpose


def greet(self):
    """Return a greeting."""
    return "hello"


@pytest.fixture
def finder_for(tmp_path, monkeypatch):
    """Write a module with the given source, and return its name after a finder was put in place that waits for it."""
    made = []

    def make(source, install=True):
        name = f"pyxem_dl_made_for_a_test_{len(made)}"
        made.append(name)
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.setattr(signals, "METHODS", [(name, "Signal", greet)])
        if install:
            monkeypatch.setattr(sys, "meta_path", [_autoload._Finder([name]), *sys.meta_path])
        return name

    monkeypatch.syspath_prepend(tmp_path)
    yield make
    for name in made:
        sys.modules.pop(name, None)


CLASSES = "class Signal: pass\nclass LazySignal(Signal): pass\n"


def test_subclasses_get_the_method_and_the_loader_is_restored(finder_for):
    module = importlib.import_module(finder_for(CLASSES))
    assert module.LazySignal().greet() == "hello"
    assert type(module.__spec__.loader) is SourceFileLoader
    assert "exec_module" not in vars(module.__spec__.loader)
    assert inspect.getsource(module) == CLASSES


def test_a_reloaded_module_gets_the_methods_again(finder_for):
    module = importlib.import_module(finder_for(CLASSES))
    first = module.Signal
    importlib.reload(module)
    assert module.Signal is not first
    assert module.Signal().greet() == "hello"


def test_a_method_of_pyxem_is_kept(finder_for, caplog):
    caplog.set_level(logging.INFO, logger="pyxem_dl")
    module = importlib.import_module(finder_for("class Signal:\n    def greet(self):\n        return 'theirs'\n"))
    assert module.Signal().greet() == "theirs"
    assert "Signal.greet exists: pyxem_dl.greet is not attached" in caplog.text


def test_an_error_of_the_module_is_its_own_and_the_next_attempt_works(finder_for, tmp_path):
    name = finder_for("raise RuntimeError('not today, and longer than what comes next')\n")
    with pytest.raises(RuntimeError, match="not today"):
        importlib.import_module(name)
    (tmp_path / f"{name}.py").write_text(CLASSES)
    importlib.invalidate_caches()
    assert importlib.import_module(name).Signal().greet() == "hello"


def test_a_module_that_was_loaded_before_is_attached_to_at_once(finder_for):
    name = finder_for(CLASSES, install=False)
    module = importlib.import_module(name)
    _autoload._Finder([name])
    assert module.Signal().greet() == "hello"


def test_a_module_that_is_being_executed_is_attached_to_when_it_is_done(finder_for, monkeypatch):
    def install_meanwhile():
        monkeypatch.setattr(sys, "meta_path", [_autoload._Finder([name]), *sys.meta_path])

    monkeypatch.setattr(signals, "install_meanwhile", install_meanwhile, raising=False)
    name = finder_for(f"from pyxem_dl import signals\nsignals.install_meanwhile()\n{CLASSES}", install=False)
    module = importlib.import_module(name)
    with pytest.raises(ModuleNotFoundError):  # whatever is imported next
        importlib.import_module("pyxem_dl_made_for_no_test")
    assert module.Signal().greet() == "hello"


def test_another_finder_that_delegates_makes_no_endless_loop(finder_for, monkeypatch):
    class Delegating:
        def find_spec(self, fullname, path=None, target=None):
            specs = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
            return next((spec for spec in specs if spec is not None), None)

    name = finder_for(CLASSES)
    monkeypatch.setattr(sys, "meta_path", [sys.meta_path[0], Delegating(), *sys.meta_path[1:]])
    assert importlib.import_module(name).Signal().greet() == "hello"


def test_another_finder_that_fails_is_logged_and_the_methods_come_late(finder_for, monkeypatch, caplog):
    class FailingOnce:
        failed = False

        def find_spec(self, fullname, path=None, target=None):
            if not FailingOnce.failed:
                FailingOnce.failed = True
                raise ValueError("finder out of order")

    name = finder_for(CLASSES)
    monkeypatch.setattr(sys, "meta_path", [sys.meta_path[0], FailingOnce(), *sys.meta_path[1:]])
    module = importlib.import_module(name)
    with pytest.raises(ModuleNotFoundError):  # whatever is imported next
        importlib.import_module("pyxem_dl_made_for_no_test")
    assert module.Signal().greet() == "hello"
    assert "its methods come late" in caplog.text


def test_installing_twice_adds_one_finder():
    _autoload.install()
    _autoload.install()
    assert sum(isinstance(finder, _autoload._Finder) for finder in sys.meta_path) == 1


# The methods and the functions behind them


def test_every_public_name_exists():
    for name in pyxem_dl.__all__:
        assert getattr(pyxem_dl, name).__name__.rpartition(".")[2] == name
    assert isinstance(pyxem_dl.predict_orientation, types.FunctionType)


@pytest.mark.parametrize("method", [f for _, _, f in signals.METHODS], ids=[f.__name__ for _, _, f in signals.METHODS])
def test_a_method_has_the_signature_of_its_function_and_passes_everything_on(method, monkeypatch):
    # HyperSpy's signals have a method `calibrate`, and pyxem's an attribute `calibration`
    name = {"find_calibration": "calibrate"}.get(method.__name__, method.__name__)
    function = getattr(pyxem_dl, name)

    def described(signature):
        return [(p.name, p.kind, p.default) for p in list(signature.parameters.values())[1:]]

    parameters = described(inspect.signature(method))
    assert parameters == described(inspect.signature(function))
    documented = inspect.getdoc(method)
    assert [name for name, _, _ in parameters if f"\n{name} : " not in documented] == []

    received = {}

    def record(signal, *args, **kwargs):
        names = ("signal", *(name for name, _, _ in parameters))
        received.update(zip(names, (signal, *args), strict=False), **kwargs)
        return "result"

    monkeypatch.setattr(sys.modules[function.__module__], name, record)
    given = {name: object() for name, _, _ in parameters}
    assert method("a signal", **given) == "result"
    assert received == given | {"signal": "a signal"}


# The package itself damaged, or in another form: HyperSpy never suffers from it


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """Make a copy of the package's code, without models and data, that is found before the installed one."""
    import shutil
    from pathlib import Path

    source = Path(pyxem_dl.__file__).parent

    def make():
        folder = tmp_path_factory.mktemp("copy")
        ignored = shutil.ignore_patterns("pretrained", "_data", "__pycache__")
        shutil.copytree(source, folder / "pyxem_dl", ignore=ignored)
        return folder

    return make


def break_lazy_loader(folder):
    (folder / "lazy_loader.py").write_text("raise ImportError('lazy_loader is not installed')\n")


def break_autoload(folder):
    (folder / "pyxem_dl" / "_autoload.py").write_text("this is no Python\n")


def remove_stub(folder):
    (folder / "pyxem_dl" / "__init__.pyi").unlink()


def empty_stub(folder):
    (folder / "pyxem_dl" / "__init__.pyi").write_text("from . import (\n")


def break_signals(folder):
    (folder / "pyxem_dl" / "signals" / "__init__.py").write_bytes(b"\xff\xfe\x00")


def break_logging_of_names(folder):
    break_lazy_loader(folder)
    remove_stub(folder)


def end_lazy_loader(folder):
    (folder / "lazy_loader.py").write_text("raise SystemExit('no')\n")


#: What is damaged, with what `pyxem_dl.load_model` is then: a function, or an error that says what to do
DAMAGES = {
    "lazy_loader is missing": (break_lazy_loader, None),
    "lazy_loader ends the program": (end_lazy_loader, None),
    "the stub is missing": (remove_stub, "Install it again"),
    "the stub is damaged": (empty_stub, "Install it again"),
    "lazy_loader and the stub are missing": (break_logging_of_names, "Install it again"),
    "our module of registration is damaged": (break_autoload, "pyxem_dl is damaged .SyntaxError"),
    "our module of methods is damaged": (break_signals, None),
}

AFTER_DAMAGE = """
import sys
import hyperspy.api as hs
import pyxem_dl
assert pyxem_dl.__file__.startswith(sys.argv[1]), pyxem_dl.__file__
s = hs.signals.Signal2D([[[1.0, 2.0], [3.0, 4.0]]])
if "lazy_loader" not in sys.argv[4:]:  # orix needs it, too
    s = hs.load(sys.argv[2])
    assert type(s).__name__ == "ElectronDiffraction2D"
assert not hasattr(pyxem_dl, "__wrapped__")  # inspect and IPython ask for such names
import re
try:
    found = pyxem_dl.load_model
except ImportError as error:
    assert sys.argv[3] != "function" and re.search(sys.argv[3], str(error)), error
else:
    assert sys.argv[3] == "function" and callable(found), found
try:
    pyxem_dl.no_such_name
except (ImportError, AttributeError):
    pass
"""


@pytest.mark.parametrize("damage, error", DAMAGES.values(), ids=DAMAGES.keys())
def test_hyperspy_works_with_a_damaged_installation(damage, error, copies, scan_file):
    folder = copies()
    damage(folder)
    without = ["lazy_loader"] if (folder / "lazy_loader.py").exists() else []
    run(AFTER_DAMAGE, folder, scan_file, error or "function", *without, PYTHONPATH=str(folder), PYTHONSAFEPATH="1")


@pytest.mark.parametrize("optimized", ["1", "2"])
def test_without_assertions_and_docstrings(optimized, scan_file):
    code = (
        "import sys\nimport hyperspy.api as hs\n"
        # HyperSpy's signals cannot be made without docstrings
        "if sys.flags.optimize == 1 and not hasattr(hs.load(sys.argv[1]), 'predict_orientation'):\n"
        "    raise SystemExit('no method')\n"
        "import pyxem_dl\n"
        "if not callable(pyxem_dl.Calibration): raise SystemExit('no name')\n"
    )
    run(code, scan_file, PYTHONOPTIMIZE=optimized)


def test_compiled_files_alone(copies, scan_file):
    """As some installers leave a package: .pyc files in place of the sources."""
    import compileall

    folder = copies()
    compileall.compile_dir(folder / "pyxem_dl", legacy=True, quiet=2)
    for path in (folder / "pyxem_dl").rglob("*.py"):
        path.unlink()
    run(AFTER_DAMAGE, folder, scan_file, "function", PYTHONPATH=str(folder), PYTHONSAFEPATH="1")


def test_names_of_a_package_in_an_archive(copies):
    """A zip file holds no file that `open` finds: the stub comes from the loader."""
    import shutil

    folder = copies()
    archive = shutil.make_archive(folder / "packed", "zip", folder, "pyxem_dl")
    run(
        "import sys\nimport pyxem_dl\n"
        "assert pyxem_dl.__file__.startswith(sys.argv[1]), pyxem_dl.__file__\n"
        "assert 'load_model' in dir(pyxem_dl) and callable(pyxem_dl.Calibration)\n"
        "assert not {'torch', 'pyxem', 'lightning'} & set(sys.modules)\n"
        "import hyperspy\n",
        archive,
        PYTHONPATH=str(archive),
        PYTHONSAFEPATH="1",
    )


def test_an_environment_that_asks_for_all_names_at_once():
    """`EAGER_IMPORT` makes lazy_loader import all that we have: what fails there must not stop HyperSpy."""
    run(
        "import sys\nsys.modules['torch'] = None\nimport hyperspy.api as hs\nimport pyxem_dl\n"
        "hs.signals.Signal2D([[[1.0, 2.0], [3.0, 4.0]]])\nassert 'load_model' in dir(pyxem_dl)\n",
        EAGER_IMPORT="1",
    )
