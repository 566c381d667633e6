"""Old names of what has moved: they work for one release more, and warn.

A renamed module goes into :data:`MODULES`, names that went from one module to another into :data:`NAMES`; nothing is
left behind where they were, but for the line ``__getattr__ = moved_names(__name__)`` in a module that has lost names,
and ``old = renamed_attribute("old", "new")`` in a class of which an attribute has another name.
HyperSpy imports this module: it must stay light.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec

#: The release that forgets the old names
FORGOTTEN_IN = "0.3"

#: New names of modules, by their old ones
MODULES = {
    "pyxem_dl.disk_metrics": "pyxem_dl.metrics.disks",
    "pyxem_dl.label_files": "pyxem_dl.results.label_files",
    "pyxem_dl.labels": "pyxem_dl.results.labels",
    "pyxem_dl.map_files": "pyxem_dl.results.map_files",
    "pyxem_dl.maps": "pyxem_dl.results.maps",
    "pyxem_dl.peaks": "pyxem_dl.patterns.peaks",
    "pyxem_dl.probes": "pyxem_dl.patterns.probes",
    "pyxem_dl.spots": "pyxem_dl.results.spots",
    "pyxem_dl.template_matching.vectors": "pyxem_dl.results.vector_scan",
}

#: New modules and names, by the module and the name that they had
NAMES = {
    "pyxem_dl.models": {
        "computing": ("pyxem_dl.devices", "computing"),
        "filled_up": ("pyxem_dl.devices", "padded"),
        "in_portions": ("pyxem_dl.devices", "in_micro_batches"),
        "native_precision": ("pyxem_dl.devices", "native_precision"),
        "usable_patterns": ("pyxem_dl.preprocessing", "usable_patterns"),
    },
    "pyxem_dl.rotations": {
        name: ("pyxem_dl.symmetry", name)
        for name in (
            "SAME", "consensus", "disorientation_angle", "laue_group", "padded_operations", "proper_operations",
            "reduced_grid", "setting",
        )
    },
}  # fmt: skip


def moved_names(module: str):
    """Make the ``__getattr__`` of a module from which names have moved.

    Parameters
    ----------
    module : str
        A key of :data:`NAMES`.

    Returns
    -------
    callable
        From a name to what it names, with a DeprecationWarning; an AttributeError for all other names.
    """

    def __getattr__(name):
        if name not in NAMES[module]:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        where, new = NAMES[module][name]
        warn_of_old_name(f"{module}.{name}", f"{where}.{new}")
        return getattr(importlib.import_module(where), new)

    return __getattr__


def renamed_attribute(old: str, new: str) -> property:
    """Make the property of a class that gives an attribute by its old name, with a DeprecationWarning."""

    def get(instance):
        owner = type(instance).__name__
        warn_of_old_name(f"{owner}.{old}", f"{owner}.{new}")
        return getattr(instance, new)

    return property(get, doc=f"Old name of `{new}`.")


def with_old_modules(package: str, get):
    """Make the ``__getattr__`` of the package give its modules by their old names, too.

    Parameters
    ----------
    package : str
        Name of the package.
    get : callable
        Its ``__getattr__`` for all other names.
    """

    def __getattr__(name):
        old = f"{package}.{name}"
        return importlib.import_module(old) if old in MODULES else get(name)

    return __getattr__


def warn_of_old_name(old: str, new: str) -> None:
    """Warn with a DeprecationWarning at the user's own line.

    Parameters
    ----------
    old, new : str
        The two names.
    """
    from pyxem_dl.messages import warn  # not at the top: HyperSpy imports this module

    warn(f"{old} is now {new}; the old name goes with version {FORGOTTEN_IN}.", DeprecationWarning)


class _Finder:
    """Finds old names of modules, where Python has found nothing, and gives the modules themselves."""

    def find_spec(self, fullname, path=None, target=None):
        """Return a spec for the old name of a module, else None."""
        return ModuleSpec(fullname, self) if fullname in MODULES else None

    def create_module(self, spec):
        """Leave it to Python: what it makes is replaced at once."""

    def exec_module(self, module):
        """Put the module of the new name where Python looks for that of the old one."""
        old = module.__name__
        warn_of_old_name(old, MODULES[old])
        sys.modules[old] = importlib.import_module(MODULES[old])


def install() -> None:
    """Make the old names of modules importable; calling it again changes nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())  # the last: it is asked only for what is nowhere else
