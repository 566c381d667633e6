"""Put pyxem_dl's methods on pyxem's classes as soon as pyxem has defined them.

HyperSpy has no registration of methods. It does look for each entry point of the group ``hyperspy.extensions`` by
name, and looking for a dotted name imports the parent package: so ``import hyperspy.api`` runs
``pyxem_dl/__init__.py``, which calls `install`. That puts a finder on `sys.meta_path` which waits for the modules named
in `pyxem_dl.signals.METHODS` and sets plain functions as attributes of their classes right after such a module was
executed. Subclasses and lazy classes inherit them, and they survive HyperSpy's casts, which set ``__class__``.

Nothing in here raises: a failure is logged, and leaves HyperSpy and pyxem as they are without pyxem_dl.
Setting the environment variable ``PYXEM_DL_NO_AUTOLOAD`` to anything but ``0`` before the import switches it all off;
the functions themselves (`pyxem_dl.predict_orientation`, ...) stay.
"""

import os
import sys
from _thread import get_ident

ENVIRONMENT_VARIABLE = "PYXEM_DL_NO_AUTOLOAD"


def public_names(package, filename, loader):
    """Make the public names of the package importable when they are first used.

    Parameters
    ----------
    package : str
        Name of the package.
    filename : str
        Of its ``__init__.py``, beside which its stub lies, the list of the names.
    loader : object
        Which has loaded the package: from a folder, from a zip file, or out of a frozen program.

    Returns
    -------
    __getattr__, __dir__, __all__
        For the package.  It never raises: without `lazy_loader` the stub is read here, and without a stub each name is
        an ImportError that says so.
    """
    get, *others = _names(package, filename, loader)
    get = _with_optional(package, get)
    try:
        from pyxem_dl import moved

        moved.install()
        return moved.with_old_modules(package, get), *others
    except (Exception, SystemExit):
        _log_failure("old names of its modules cannot be used")
        return get, *others


#: Modules that need an extra: no part of the stub, all of which can be imported without one
_OPTIONAL = ("live",)


def _with_optional(package, get):
    """Give the modules that need an extra, too; without it they say which."""

    def __getattr__(name):
        if name not in _OPTIONAL:
            return get(name)
        import importlib

        return importlib.import_module(f"{package}.{name}")

    return __getattr__


def _names(package, filename, loader):
    """Make what `public_names` returns, of the names of today."""
    try:
        import lazy_loader

        return lazy_loader.attach_stub(package, filename)
    except (Exception, SystemExit) as error:
        reason = error
    try:
        return _attach(package, _names_of_stub(_stub(filename, loader)))
    except Exception:
        consequence = f"its names cannot be used ({type(reason).__name__}: {reason})"
        _logger().warning("%s: %s", package, consequence)
        return _attach(package, {}, consequence)


def _stub(filename, loader):
    """Text of the stub beside a file, also inside of an archive."""
    path = os.path.splitext(filename)[0] + ".pyi"
    if os.path.isfile(path):
        with open(path, encoding="utf-8") as file:
            return file.read()
    return loader.get_data(path).decode("utf-8")


def _names_of_stub(text):
    """Read the module of each name, "" for a module itself, of lines ``from .module import (a as a, b as b)``."""
    import ast

    nodes = [node for node in ast.parse(text).body if isinstance(node, ast.ImportFrom) and node.level == 1]
    return {alias.name: node.module or "" for node in nodes for alias in node.names}


def _attach(package, modules, consequence=None):
    """Make what `lazy_loader.attach` makes."""

    def __getattr__(name):
        from importlib import import_module

        if name in modules:
            module = import_module(f"{package}.{modules[name] or name}")
            return getattr(module, name) if modules[name] else module
        if consequence is None or name.startswith("_"):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        raise ImportError(
            f"{package}: {consequence}. Install it again: python -m pip install --force-reinstall pyxem-dl lazy-loader"
        )

    return __getattr__, lambda: sorted(modules), sorted(modules)


def install():
    """Attach the methods to the pyxem modules that are loaded, and wait for the others.

    Calling it again changes nothing. It never raises.
    """
    try:
        if os.environ.get(ENVIRONMENT_VARIABLE, "0") not in ("", "0"):
            return
        from pyxem_dl.signals import METHODS

        if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
            sys.meta_path.insert(0, _Finder(module for module, _, _ in METHODS))
    except (Exception, SystemExit):
        _log_failure("its methods will be missing on pyxem's signals")


def attach(module):
    """Set on the classes of one pyxem module the methods that are listed for it.

    A class that already has an attribute of that name keeps it. It never raises.

    Parameters
    ----------
    module : types.ModuleType
        A module of pyxem that has been executed.
    """
    try:
        from pyxem_dl.signals import METHODS

        for module_name, class_name, function in METHODS:
            if module_name != module.__name__:
                continue
            cls = getattr(module, class_name)
            name = function.__name__
            if not hasattr(cls, name):
                setattr(cls, name, function)
            elif getattr(cls, name) is not function:
                _logger().info("%s.%s exists: pyxem_dl.%s is not attached", class_name, name, name)
    except (Exception, SystemExit):
        _log_failure(f"its methods could not be attached to the classes of {module!r}")


class _Finder:
    """A meta path finder that finds nothing itself and has `attach` called after chosen modules were executed.

    Parameters
    ----------
    module_names : iterable of str
        Full names of the modules to wait for.
    """

    def __init__(self, module_names):
        self._module_names = frozenset(module_names)
        self._busy = set()
        # Loaded before us, and perhaps still being executed: pyxem may be what imports HyperSpy
        self._pending = {name for name in self._module_names if name in sys.modules}
        self._attach_to_pending()

    def find_spec(self, fullname, path=None, target=None):
        """Return the spec that the other finders give for a module that is waited for, else None.

        Parameters
        ----------
        fullname, path, target
            As `importlib.abc.MetaPathFinder.find_spec` says.

        Returns
        -------
        importlib.machinery.ModuleSpec or None
            With a loader that, once, calls `attach` after ``exec_module``.
        """
        if self._pending:
            self._attach_to_pending()
        key = fullname, get_ident()
        if fullname not in self._module_names or key in self._busy:
            return None
        self._busy.add(key)  # other finders that delegate, too, would ask us again
        try:
            for finder in tuple(sys.meta_path):
                spec = None if finder is self else finder.find_spec(fullname, path, target)
                if spec is not None:
                    _attach_after_execution(spec.loader)
                    return spec
        except Exception:
            _log_failure(f"its methods come late to the signals of {fullname}")
            self._pending.add(fullname)
        finally:
            self._busy.discard(key)
        return None

    def _attach_to_pending(self):
        for name in tuple(self._pending):
            module = sys.modules.get(name)
            if module is None:  # its execution failed: the next attempt comes by here
                self._pending.discard(name)
            elif not getattr(getattr(module, "__spec__", None), "_initializing", False):
                self._pending.discard(name)
                attach(module)


def _attach_after_execution(loader):
    """Wrap ``exec_module`` of one loader, for one execution."""
    earlier = vars(loader).get("exec_module")
    execute = loader.exec_module

    def exec_module(module):
        if earlier is None:
            del loader.exec_module
        else:
            loader.exec_module = earlier
        execute(module)
        attach(module)

    loader.exec_module = exec_module


def _logger():
    import logging  # not at the top: `import pyxem_dl` alone need not load it

    return logging.getLogger(__name__)


def _log_failure(consequence):
    _logger().warning("pyxem_dl: %s", consequence, exc_info=True)
