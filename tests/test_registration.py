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

NAMES = [function.__name__ for _, _, function in signals.METHODS]


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
        "assert submodules == {'pyxem_dl._autoload', 'pyxem_dl.signals'}, submodules\n"
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
        assert method.__self__ is signal and method.__func__.__module__ == "pyxem_dl.signals", method

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


@pytest.mark.parametrize("method", [function for _, _, function in signals.METHODS], ids=NAMES)
def test_a_method_has_the_signature_of_its_function_and_passes_everything_on(method, monkeypatch):
    function = getattr(pyxem_dl, method.__name__)

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

    monkeypatch.setattr(sys.modules[function.__module__], method.__name__, record)
    given = {name: object() for name, _, _ in parameters}
    assert method("a signal", **given) == "result"
    assert received == given | {"signal": "a signal"}
