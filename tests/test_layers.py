"""The architecture: a room imports only from the rooms below it, and the rooms of one layer do not import each other.

`LAYERS` is the table of the design. Imports inside functions count like all others: importing late may break a cycle,
but it leaves the dependence where it is. One rule cannot be read from the imports: a sign (of an axis, of an angle, of
the sense of a rotation) is flipped in the room ``frames`` only. Here we hold at least that no other module turns arrays
upside down.
"""

import ast
import re
import sys
import tomllib

import pytest

LAYERS = (
    ("messages", "annotations", "electrons"),
    ("frames", "catalogue", "checks", "files", "moved", "progress"),
    ("records", "rotations"),
    ("devices", "symmetry"),
    ("crystals", "preprocessing"),
    ("patterns", "sharing"),
    ("templates",),
    ("metrics", "simulation", "networks"),
    ("models", "scans"),
    ("results",),
    ("calibration",),
    ("strain", "refinement"),
    ("orientation", "bragg_vectors", "template_matching", "tilt", "training", "data", "quartets",
     "images", "simulated"),
    ("plot", "study", "live", "evaluation", "identification"),
    ("microstructure",),
    ("gui", "demo"),
    ("signals",),
    ("commands",),
    ("__main__",),
)
LAYER_OF = {room: layer for layer, rooms in enumerate(LAYERS) for room in rooms}
#: Modules that belong to the room of another one
ROOM_OF = {"_autoload": "signals"}

#: Distributions whose modules have other names
DISTRIBUTION_OF = {
    "IPython": "ipython",
    "PIL": "pillow",
    "diffpy": "diffpy-structure",
    "rsciio": "rosettasciio",
    "skimage": "scikit-image",
    "yaml": "pyyaml",
}


def room_of(module):
    """Room of a module given by its name inside the package, "networks.polar" or "_autoload"."""
    top = module.partition(".")[0]
    return ROOM_OF.get(top, top)


def imports_of(tree, module, is_package):
    """Yield (line, absolute dotted name) of all that the code of a module imports, `from a import b` as "a.b"."""
    parents = f"pyxem_dl.{module}".split(".")
    if not is_package:
        parents.pop()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) - node.level + 1] if node.level else []
            if node.module:
                base = [*base, node.module]
            yield from ((node.lineno, ".".join([*base, alias.name])) for alias in node.names)


@pytest.fixture(scope="module")
def modules(root):
    """Syntax trees of all modules, by their names inside the package; the package itself is ""."""
    trees = {}
    package = root / "pyxem_dl"
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        trees[".".join(parts[:-1] if is_package else parts)] = ast.parse(path.read_text(encoding="utf-8")), is_package
    return trees


def violations(modules):
    """Sentences that each name one import that the table does not allow."""
    found = []
    for module, (tree, is_package) in modules.items():
        if not module:
            continue
        room = room_of(module)
        if room not in LAYER_OF:
            found.append(f"{module} is no room of the table")
            continue
        for line, name in imports_of(tree, module, is_package):
            package, _, imported = name.partition(".")
            if package != "pyxem_dl":
                continue
            target = room_of(imported)
            where = f"{module}, line {line}, imports {name}"
            if target == "__version__":
                continue
            if target not in LAYER_OF:
                found.append(f"{where}, which is no room: import from the module that defines it")
            elif target != room and LAYER_OF[target] >= LAYER_OF[room]:
                found.append(f"{where}: layer {LAYER_OF[target]} from layer {LAYER_OF[room]}")
    return found


def test_rooms_import_only_from_below(modules):
    assert violations(modules) == []


@pytest.mark.parametrize(
    "module, code",
    [
        ("frames", "from pyxem_dl.crystals import load_phases"),
        ("frames", "from .rotations import multiply"),
        ("rotations", "import pyxem_dl.models"),
        ("orientation", "def f():\n    from pyxem_dl import template_matching"),
        ("networks.polar", "from ..simulation import detector"),
        ("networks.polar", "from pyxem_dl import Calibration"),
        ("training", "import pyxem_dl"),
        ("attic", "import numpy"),
    ],
)
def test_the_check_itself_sees_a_violation(module, code):
    assert len(violations({module: (ast.parse(code), False)})) == 1


@pytest.mark.parametrize(
    "module, code",
    [
        ("networks.polar", "from .blocks import Block\nfrom ..frames import Calibration"),
        ("networks.polar", "from pyxem_dl import rotations\nimport pyxem_dl.patterns"),
        ("__main__", "from pyxem_dl import __version__, training"),
        ("_autoload", "from pyxem_dl.signals import METHODS"),
        ("crystals", "import numpy as np\nfrom orix import crystal_map"),
    ],
)
def test_the_check_itself_allows_what_is_right(module, code):
    assert violations({module: (ast.parse(code), False)}) == []


@pytest.mark.parametrize(
    "module",
    ["", "_autoload", "signals", "signals.calibration", "signals.diffraction", "signals.images", "signals.vectors",
     "signals.viewer"],  # fmt: skip
)
def test_what_hyperspy_imports_has_light_imports_at_the_top(modules, module):
    tree, is_package = modules[module]
    top_level = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
    names = {name.partition(".")[0] for _, name in imports_of(top_level, module, is_package)}
    assert names <= {"pyxem_dl", "lazy_loader", *sys.stdlib_module_names}


def test_only_frames_turns_arrays_upside_down(modules):
    turning = {
        module
        for module, (tree, _) in modules.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in {"flipud", "fliplr"}
    }
    assert turning <= {"frames.turns"}


#: What no module imports: for people who work on the package
TOOLS = {"docs", "gui-tests", "tests", "dev"}


def distributions(requirements):
    return {re.match(r"[\w.-]+", requirement)[0].lower().replace(".", "-") for requirement in requirements}


@pytest.fixture(scope="module")
def project(root):
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def imported(modules):
    """Distributions that the code imports from."""
    names = {
        name.partition(".")[0]
        for module, (tree, is_package) in modules.items()
        for _, name in imports_of(tree, module, is_package)
    }
    foreign = names - set(sys.stdlib_module_names) - {"pyxem_dl"}
    return {DISTRIBUTION_OF.get(name, name.replace("_", "-")).lower() for name in foreign}


def test_every_import_is_a_declared_requirement(project, imported):
    declared = distributions(project["dependencies"] + sum(project["optional-dependencies"].values(), []))
    assert imported - declared == set()


def test_extras_name_only_what_the_code_imports(project, imported):
    extras = [names for extra, names in project["optional-dependencies"].items() if extra not in TOOLS]
    # libertem-live makes the contexts and acquisitions that `live.follow` is given
    assert distributions(sum(extras, [])) - imported == {"libertem-live"}
