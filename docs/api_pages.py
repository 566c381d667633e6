"""The pages of the documentation that are made from the code and from files beside `docs/`; `conf.py` has them written.

- `api/`: a page for every name of the stub `pyxem_dl/__init__.pyi`, and one for the methods of signals.
- `project/`: the Markdown files at the top of the repository and in `benchmarks/`.

Sphinx-Gallery makes `examples/` from the scripts; `with_pictures` puts the kept pictures between their cells.
"""

import ast
import importlib
import inspect
import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Pages that are files of the repository outside `docs/`, by the pages' names
FILES = {
    "project/readme": "README.md",
    "project/changelog": "CHANGELOG.md",
    "project/contributing": "CONTRIBUTING.md",
    "project/release": "RELEASE.md",
    "project/results": "benchmarks/results.md",
    "project/open_benchmark_results": "benchmarks/open_benchmark/results.md",
    "project/benchmark_suite": "benchmarks/README.md",
}
#: Short titles, where a file's own says too little beside the others
_SHORT = {
    "project/readme": "Read me",
    "project/results": "All numbers of the benchmark",
    "project/open_benchmark_results": "All numbers of the open benchmark",
    "project/benchmark_suite": "How the benchmark is run",
}
#: Where Sphinx-Gallery begins a cell, and how a cell saves a picture
_CELL = ".. GENERATED FROM PYTHON SOURCE LINES"
_SAVED = re.compile(r'savefig\(OUTPUT / "(\w+)\.png"\)')
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")


# ---------------------------------------------------------------- names
def public_names():
    """Names of the stub: rooms as a list, and the other names by the room that they come from."""
    rooms, names = [], {}
    for line in ast.parse((ROOT / "pyxem_dl" / "__init__.pyi").read_text(encoding="utf-8")).body:
        if isinstance(line, ast.ImportFrom):
            found = [alias.asname or alias.name for alias in line.names]
            if line.module is None:
                rooms += found
            else:
                names.setdefault(line.module, []).extend(found)
    return rooms, names


def signal_methods():
    """Methods that HyperSpy's and pyxem's signals gain, as (full name of the class, name of the method)."""
    from pyxem_dl.signals import METHODS

    where = {"hyperspy._signals.signal2d": "hyperspy.api.signals"}
    return [(f"{where.get(module, module)}.{cls}", method.__name__) for module, cls, method in METHODS]


def page_of(name, names):
    """Page of a public name; two that differ by capitals only have pages that every file system tells apart."""
    alike = [each for each in names if each.lower() == name.lower()]
    return f"pyxem_dl.{name}" + ("_class" if len(alike) > 1 and name[0].isupper() else "")


def room_members(room):
    """Public names of a room: its `__all__`, or the functions and classes that a module without it defines."""
    module = importlib.import_module(f"pyxem_dl.{room}")
    names = getattr(module, "__all__", None)
    if names is None:
        names = [
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__ and callable(value)
        ]
    return {name: getattr(module, name) for name in sorted(names)}


# ---------------------------------------------------------------- pages
def pages():
    """Text of every made page, by its file's path in `docs/`."""
    return api_pages() | project_pages()


def api_pages():
    """A page for each public name, one for each room, one for the methods of signals, and their index."""
    import pyxem_dl

    rooms, names = public_names()
    made = {"api/index.rst": _api_index(rooms, names), "api/signals.rst": _signals_page()}
    owners = {}
    flat = [name for some in names.values() for name in some]
    for each in flat:
        value = getattr(pyxem_dl, each)
        owners[id(value)] = f"pyxem_dl.{each}"
        made[f"api/{page_of(each, flat)}.rst"] = _title(each) + _documented("pyxem_dl", each, value)
    members = {room: room_members(room) for room in rooms}
    for home in (True, False):  # first who defines a thing, then who gives it on
        for room, some in members.items():
            for name, value in some.items():
                if _is_own(value) and (_module(value).startswith(f"pyxem_dl.{room}") or not home):
                    owners.setdefault(id(value), f"pyxem_dl.{room}.{name}")
    for room, some in members.items():
        made[f"api/room.{room}.rst"] = _room_page(room, some, owners)
    return made


def project_pages():
    """Files of the repository, with their links turned to where the site has what they name."""
    made = {}
    for page, path in FILES.items():
        text = (ROOT / path).read_text(encoding="utf-8")
        made[f"{page}.md"] = with_site_links(text, posixpath.dirname(path), "project")
    about = "What changed, how to take part, how the numbers are measured."
    names = [(posixpath.basename(page), _SHORT.get(page)) for page in FILES]
    entries = [f"{title} <{name}>" if title else name for name, title in names]
    made["project/index.rst"] = _tree("Project", about, entries)
    return made


def _tree(title, about, entries):
    """Page that lists others of its folder."""
    lines = "\n".join(f"   {entry}" for entry in entries)
    return _title(title) + f"{about}\n\n.. toctree::\n   :maxdepth: 1\n\n{lines}\n"


def with_site_links(text, folder, site_folder):
    """Text of a file in a folder of the repository, its links turned for a page in a folder of the site.

    Parameters
    ----------
    text : str
        Markdown.
    folder : str
        The file's folder in the repository, ``""`` for its top.
    site_folder : str
        The page's folder in `docs/`, ``""`` for its top.
    """

    def turned(match):
        opening, target, anchor, closing = match.groups()
        if re.match(r"[a-z]+:", target):
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        by_file = {file: f"docs/{page}.md" for page, file in FILES.items()}
        example = re.fullmatch(r"examples(?:/(\w+)\.py)?", path)
        if path in by_file:
            path = by_file[path]
        elif example:
            path = f"docs/examples/{example[1] or 'index'}.rst"
        return f"{opening}{posixpath.relpath(path, posixpath.join('docs', site_folder))}{anchor or ''}{closing}"

    return _LINK.sub(turned, text)


def with_pictures(text, script):
    """Page of an example with the pictures that its cells save, each after the cell; they lie in `docs/gallery/`."""
    cells = text.split(_CELL)
    for i, cell in enumerate(cells):
        code, end, links = cell.partition(".. _sphx_glr_download_")
        pictures = [f".. image:: /gallery/{script}/{name}.webp\n   :alt: {name}\n\n" for name in _SAVED.findall(code)]
        cells[i] = f"{code.rstrip()}\n\n{''.join(pictures)}{end}{links}"
    return _CELL.join(cells)


def write(folder):
    """Write all made pages below a folder; a page that has not changed is left alone, one that is no more goes."""
    made = pages()
    for old in [*folder.glob("api/*.rst"), *folder.glob("project/*")]:
        if old.relative_to(folder).as_posix() not in made:
            old.unlink()
    for name, text in made.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


# ---------------------------------------------------------------- parts of pages
def _api_index(rooms, names):
    text = _title("API") + (
        "Each name below is imported as ``pyxem_dl.NAME``, when it is first used. What signals gain is on\n"
        ":doc:`signals`; the modules behind the names, with all that is in them, are :ref:`at the end <rooms>`.\n\n"
        ".. toctree::\n   :hidden:\n\n   signals\n\n"
    )
    flat = [name for some in names.values() for name in some]
    for room, some in names.items():
        text += _title(room, "-") + _table(f"pyxem_dl.{name}" for name in some)
        text += ".. toctree::\n   :hidden:\n\n" + "".join(f"   {page_of(name, flat)}\n" for name in some) + "\n"
    text += ".. _rooms:\n\n" + _title("Modules", "-")
    return text + ".. toctree::\n   :maxdepth: 1\n\n" + "".join(f"   room.{room}\n" for room in rooms)


def _signals_page():
    text = _title("Methods of signals") + (
        "HyperSpy's and pyxem's classes have these methods wherever pyxem_dl is installed, and so have the classes\n"
        "that inherit from them, lazy ones included. :doc:`../install` says what that changes.\n\n"
    )
    last = None
    for cls, method in sorted(signal_methods()):
        if cls != last:
            text += _title(cls.rpartition(".")[2], "-")
        last = cls
        text += f".. automethod:: {cls}.{method}\n\n"
    return text


def _room_page(room, members, owners):
    full = f"pyxem_dl.{room}"
    text = _title(full) + f".. automodule:: {full}\n   :no-members:\n\n"
    owner = {name: owners.get(id(value), f"{full}.{name}") for name, value in members.items()}
    here = {name: value for name, value in members.items() if owner[name] == f"{full}.{name}"}
    elsewhere = sorted({owner[name] for name in members if name not in here})
    if elsewhere:
        text += "Documented on pages of their own:\n\n" + _table(elsewhere)
    return text + "".join(_documented(full, name, value) for name, value in here.items())


def _documented(module, name, value):
    """Autodoc's directive for one name; of a class, what this package defines and documents."""
    if inspect.isclass(value):
        members = [each for each in dir(value) if not each.startswith("_") and _is_documented(value, each)]
        listed = f"   :members: {', '.join(members)}\n" if members else ""
        return f".. autoclass:: {module}.{name}\n{listed}\n"
    if inspect.ismodule(value):
        return ""
    return f".. {'autofunction' if callable(value) else 'autodata'}:: {module}.{name}\n\n"


def _is_documented(cls, name):
    for base in cls.__mro__:
        if name in vars(base):
            member = vars(base)[name]
            is_member = callable(member) or isinstance(member, (property, classmethod, staticmethod))
            return base.__module__.startswith("pyxem_dl") and is_member and bool(inspect.getdoc(member))
    return False


def _is_own(value):
    return (inspect.isclass(value) or inspect.isfunction(value)) and _module(value).startswith("pyxem_dl")


def _module(value):
    return getattr(value, "__module__", None) or ""


def _title(text, line="="):
    return f"{text}\n{line * max(len(text), 3)}\n\n"


def _table(names):
    return ".. autosummary::\n\n" + "".join(f"   {name}\n" for name in names) + "\n"
