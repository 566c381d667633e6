"""Files that a stranger may send, each made to harm: made here, and read by a process of its own.

``python hostile_files.py FOLDER`` reads all of them with the network blocked and the memory bounded, and prints as JSON
what came of each. The names tell what is tried; `MADE` makes them, `READERS` reads them.
"""

import hashlib
import json
import os
import struct
import sys
from pathlib import Path

SENTINEL = "executed"
MADE = {}  # name: (reader, function that makes the file in a folder and returns its path, text of the error)


def made(reader, message, name=None):
    """Add a hostile file, by the name of the function that makes it."""

    def add(function):
        MADE[name or function.__name__] = (reader, function, message)
        return function

    return add


class Harmful:
    """Its pickle runs a command."""

    def __init__(self, sentinel):
        self.sentinel = str(sentinel)

    def __reduce__(self):
        return os.system, (f"touch {self.sentinel}",)


# ---------------------------------------------------------------- models: what the folder of a real one is changed into
POLAR = "polar"


def bundled(name=POLAR):
    """Folder of a bundled model, or of the polar one that the caller gives."""
    import pyxem_dl

    return Path(sys.argv[2]) if name == POLAR else Path(pyxem_dl.__file__).parent / "pretrained" / name


def copied(folder, name=POLAR):
    import shutil

    folder.mkdir(parents=True, exist_ok=True)
    for file in ("config.json", "model.safetensors", "reference.safetensors"):
        shutil.copy(bundled(name) / file, folder / file)
    return folder


def edited(folder, path, value, name=POLAR):
    """Copy a model with one entry of its configuration changed."""
    copied(folder, name)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    *parents, last = path.split(".")
    entry = config
    for parent in parents:
        entry = entry[int(parent) if isinstance(entry, list) else parent]
    entry[int(last) if isinstance(entry, list) else last] = value
    (folder / "config.json").write_text(json.dumps(config))
    return folder


NAN, INF = float("nan"), float("inf")
#: Name, path of the entry, its value, and what the error says of it
ENTRIES = [
    ("depth of a billion", "network.arguments.depth", 10**9, r"network.arguments.depth: .*64, not 1000000000"),
    ("width of a billion", "network.arguments.width", 10**9, r"network.arguments.width"),
    ("negative width", "network.arguments.width", -5, r"network.arguments.width"),
    ("width of 10^300", "network.arguments.width", 10**300, r"network.arguments.width"),
    ("resolution of a millionth", "network.arguments.resolution", 1e-6, r"network.arguments.resolution"),
    ("resolution of nothing", "network.arguments.resolution", 0, r"network.arguments.resolution"),
    ("fine grid of -1", "network.arguments.laue_groups", ["-1"] * 60, r"resolution 3 and phi_steps 72 make|settings"),
    ("a million phases", "network.arguments.laue_groups", ["m-3m"] * 10**5, r"laue_groups"),
    ("group that is code", "network.arguments.laue_groups", ["__import__('os').abort()"], r"laue_groups.0"),
    ("n_phi of a billion", "network.arguments.n_phi", 72 * 10**9, r"network.arguments.n_phi"),
    ("kernel of a billion", "network.arguments.kernel", 10**9 + 1, r"network.arguments.kernel"),
    ("expansion of a billion", "network.arguments.expansion", 10**9, r"network.arguments.expansion"),
    ("reflections of a billion", "network.arguments.comparison.n_reflections", 10**9, r"comparison.n_reflections"),
    ("spots of a billion", "network.arguments.comparison.n_spots", 10**9, r"comparison.n_spots"),
    ("another network's argument", "network.arguments.checkpoint_path", "/etc/passwd", r"checkpoint_path: unknown"),
    ("wider than its weights", "network.arguments.width", 2048, r"does not fit the network 'polar'"),
    ("deeper than its weights", "network.arguments.depth", 64, r"does not fit the network 'polar'"),
    ("text for a number", "network.arguments.depth", "4", r"network.arguments.depth"),
    ("True for a number", "network.arguments.depth", True, r"network.arguments.depth"),
    ("list for a name", "network.name", ["polar"], r"network.name"),
    ("network of nobody", "network.name", "os.system", r"There is no network|no network 'os.system'"),
    ("setting of nothing", "network.arguments.settings", [[0, 0, 0, 0]], r"settings must be quaternions"),
    ("bins of a billion", "preprocessing.arguments.n_k", 10**9, r"preprocessing.arguments.n_k"),
    ("other bins than the network", "preprocessing.arguments.n_k", 32, r"preprocessing.arguments.n_k is 32"),
    ("radius of 10^9", "preprocessing.arguments.reciprocal_radius", 1e9, r"preprocessing.arguments.reciprocal_radius"),
    ("gamma of 10^300", "preprocessing.arguments.gamma", 1e300, r"preprocessing.arguments.gamma"),
    ("preprocessing of nobody", "preprocessing.name", "pickle", r"unknown preprocessing 'pickle'"),
    ("another preprocessing", "preprocessing", {"name": "cartesian", "arguments": {"reciprocal_radius": 1.5}}, "needs"),
    ("threshold of two", "thresholds.score", 2.0, r"thresholds.score"),
    ("threshold of text", "thresholds.score", "high", r"thresholds.score"),
    ("threshold of nothing", "thresholds.crystal", None, r"thresholds.crystal"),
    ("threshold of nobody", "thresholds.other", 0.5, r"thresholds.other"),
    ("domain that falls", "domain.scale", [0.5, 0.1], r"domain.scale"),
    ("energy of nothing", "domain.beam_energy", -200, r"domain.beam_energy"),
    ("cell that is flat", "phases.0.lattice", [4, 4, 4, 120, 120, 120], r"phases.0.lattice"),
    ("cell of a kilometre", "phases.0.lattice", [1e13, 4, 4, 90, 90, 90], r"phases.0.lattice"),
    ("group of space 999", "phases.0.space_group", 999, r"phases.0.space_group"),
    ("group of space as code", "phases.0.space_group", "__import__('os').abort()", r"phases.0.space_group"),
    ("point group as code", "phases.0.point_group", "x,y,__z__", r"phases.0.point_group"),
    ("element as code", "phases.0.atoms.0", ["__import__('os')", 0, 0, 0, 1], r"phases.0.atoms.0.element"),
    ("atom of nowhere", "phases.0.atoms.0", ["Al", 1e300, 0, 0, 1], r"phases.0.atoms.0.x"),
    ("a million atoms", "phases.0.atoms", [["Al", 0, 0, 0, 1]] * 100_000, r"phases.0.atoms"),
    ("no phases", "phases", [], r"phases"),
    ("color of a shell", "phases.0.color", "$(touch x)", r"phases.0.color"),
    ("weights elsewhere", "weights.file", "../../../etc/passwd", r"weights.file"),
    ("weights at an absolute path", "weights.file", "/etc/passwd", r"weights.file"),
    ("hash of a list", "weights.sha256", ["x"], r"weights.sha256"),
    ("newer format", "format_version", 10**9, "newer pyxem_dl"),
    ("format of a list", "format", ["pyxem_dl orientation model"], "is not a model"),
    ("description of a list", "description", [1] * 10, "description"),
    ("spread of 10^300", "spread_fit", [1e300, 0.0], "spread_fit"),
]
for _name, _path, _value, _message in ENTRIES:
    MADE[_name] = (
        "model",
        lambda folder, p=_path, v=_value: edited(folder, p, v),
        rf"config\.json.*({_message})|{_message}",
    )

#: Arguments of an image network that must not reach timm
BACKBONES = {
    "pretrained": {"pretrained": True},
    "overlay with an address": {"pretrained_cfg_overlay": {"url": "http://127.0.0.1:9/x.pth"}, "pretrained": True},
    "configuration of the hub": {"pretrained_cfg": {"hf_hub_id": "nobody/nothing"}, "pretrained": True},
    "file of a checkpoint": {"checkpoint_path": "harmful.pth"},
    "folder of a cache": {"cache_dir": "/etc"},
    "features alone": {"features_only": True},
    "layers by name": {"norm_layer": "os.system"},
    "drop path of text": {"drop_path_rate": "0.1"},
    "image of a billion": {"img_size": 10**9},
    "patches of a pixel": {"patch_size": 1},
    "a billion blocks": {"layers": [10**9] * 4},
}
NAMES = ["hf_hub:timm/resnet18.a1_in1k", "hf-hub:timm/resnet18", "local-dir:/etc", "http://127.0.0.1:9/x", "../x",
         "resnet18.hf-hub:x/y", "timm/resnet18", "resnet18\0"]  # fmt: skip


def image_network(folder, **arguments):
    """Make a folder of a model with an image network; its weights do not matter."""
    copied(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    given = {"laue_groups": ["m-3m"], "backbone": "resnet18", "size": 64} | arguments
    config["network"] = {"name": "regression", "arguments": given}
    config["preprocessing"] = {"name": "cartesian", "arguments": {"reciprocal_radius": 1.5, "size": given["size"]}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


for _name, _arguments in BACKBONES.items():
    _key = next(iter(_arguments))
    MADE[f"backbone: {_name}"] = (
        "model", lambda folder, a=_arguments: image_network(folder, backbone_arguments=a), rf"backbone_arguments.{_key}"
    )  # fmt: skip
for _name in NAMES:
    MADE[f"backbone {_name!r}"] = (
        "model", lambda folder, n=_name: image_network(folder, backbone=n), r"network.arguments.backbone"
    )  # fmt: skip
MADE["image of a billion pixels"] = ("model", lambda folder: image_network(folder, size=10**9), r"size")
MADE["an image network without its weights"] = ("model", image_network, "does not fit the network 'regression'")
MADE["a backbone that needs its weights to be built"] = (
    "model", lambda folder: image_network(folder, backbone="vitamin_xlarge_256", size=256), "more weights than"
)  # fmt: skip
MADE["a backbone of 512 blocks"] = (
    "model",
    lambda f: image_network(f, backbone="swin_tiny_patch4_window7_224", backbone_arguments={"depths": [128] * 4}),
    r"backbone_arguments: depths make 512 blocks",
)
MADE["a backbone of a billion numbers"] = (
    "model", lambda folder: image_network(folder, backbone="eva_giant_patch14_224", size=224), "does not fit"
)  # fmt: skip
MADE["disks: radius of a billion"] = (
    "model", lambda folder: edited(folder, "network.arguments.radius", 1e9, "bragg-disks"), "network.arguments.radius"
)  # fmt: skip
MADE["disks: widths of a billion"] = (
    "model", lambda f: edited(f, "network.arguments.widths", [10**9] * 3, "bragg-disks"), "network.arguments.widths"
)  # fmt: skip


def text_of_config(content):
    def make(folder):
        copied(folder)
        path = folder / "config.json"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder

    return make


_HEAD = '{"format": "pyxem_dl orientation model", "format_version": 1, '
for _name, _content, _message in [
    ("brackets in brackets", "[" * 100_000, "nested"),
    ("objects in objects", '{"a":' * 50_000, "nested"),
    ("number of a million digits", _HEAD + '"x": ' + "9" * 1_000_000 + "}", "digits"),
    ("NaN in the configuration", _HEAD + '"x": NaN}', "NaN is not a usable number"),
    ("Infinity in the configuration", _HEAD + '"x": -Infinity}', "Infinity is not a usable number"),
    ("1e999", _HEAD + '"x": 1e999}', "1e999 is not a usable number"),
    ("keys twice", _HEAD + '"x": 1, "x": 2}', "'x' occurs twice"),
    ("no UTF-8", b"\xff\xfe{}", "not UTF-8 text"),
    ("empty configuration", b"", "not JSON"),
    ("ten megabytes", _HEAD + '"x": "' + "a" * 10_000_000 + '"}', "at most 4 MB"),
    ("configuration of null", "null", "is not a model"),
]:
    MADE[_name] = ("model", text_of_config(_content), rf"(config\.json.*)?{_message}")


def with_weights(content):
    """Copy a model with another file of weights, whose hash is right."""

    def make(folder):
        copied(folder)
        data = content(folder) if callable(content) else content
        (folder / "model.safetensors").write_bytes(data)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["weights"]["sha256"] = hashlib.sha256(data).hexdigest()
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return make


def safetensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def changed_tensors(change):
    def content(folder):
        from safetensors.torch import load_file, save

        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        return save(tensors)

    return content


def pickled(folder):
    import pickle

    return pickle.dumps(Harmful(folder.parent / SENTINEL))


def all_nan(tensors):
    tensors["score.weight"][0, 0] = NAN


for _name, _content, _message in [
    ("header of an exabyte", struct.pack("<Q", 2**60), "header should have"),
    ("header cut off", struct.pack("<Q", 500) + b"{", "header should have"),
    (
        "tensor of a terabyte",
        safetensors({"x": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4]}}, b"0000"),
        "has the shape",
    ),
    (
        "shape below zero",
        safetensors({"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"0000"),
        "no shape",
    ),
    (
        "shape of fractions",
        safetensors({"x": {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 4]}}, b"0000"),
        "no shape",
    ),
    (
        "offsets that overlap",
        safetensors({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "xy"}, b"0000"),
        "does not fit|damaged",
    ),
    (
        "type of nobody",
        safetensors({"x": {"dtype": "OBJ", "shape": [1], "data_offsets": [0, 4]}}, b"0000"),
        "is of 'OBJ'",
    ),
    ("header of brackets", safetensors(b"[" * 100_000), "nested"),
    ("header of ten megabytes", safetensors({"__metadata__": {"a": "x" * 10_000_000}}), "does not fit"),
    (
        "offsets below zero",
        safetensors({"x": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}, b"0" * 8),
        "does not fit|damaged",
    ),
    ("header of a list", safetensors([1, 2]), "names no tensors"),
    ("no tensors at all", safetensors({}), "does not fit"),
    ("weights that are pickled", pickled, "damaged"),
    ("weights that are empty", b"", "damaged"),
    ("weights of NaN", changed_tensors(all_nan), "'score.weight' holds NaN"),
    ("a tensor too many", changed_tensors(lambda t: t.update(extra=t["score.bias"].clone())), "extra"),
    ("a tensor too few", changed_tensors(lambda t: t.pop("score.bias")), "score.bias is missing"),
]:
    MADE[_name] = ("model", with_weights(_content), rf"model\.safetensors.*{_message}")


@made("model", "model.safetensors is missing")
def weights_that_are_a_device(folder):
    copied(folder)
    (folder / "model.safetensors").unlink()
    os.symlink("/dev/zero", folder / "model.safetensors")
    return folder


@made("model", r"GB; at most")
def weights_of_a_terabyte(folder):
    copied(folder)
    with open(folder / "model.safetensors", "r+b") as file:
        file.truncate(2**40)  # takes no room on the disk
    return folder


# ---------------------------------------------------------------- answers that are stored beside a model
def with_reference(content):
    def make(folder):
        copied(folder)
        (folder / "reference.safetensors").write_bytes(content(folder) if callable(content) else content)
        return folder

    return make


def changed_reference(change):
    def content(folder):
        from safetensors.torch import load_file, save

        tensors = load_file(folder / "reference.safetensors")
        change(tensors)
        return save(tensors)

    return content


for _name, _content, _message in [
    (
        "reference of a terabyte",
        safetensors({"polar": {"dtype": "F32", "shape": [10**6, 2, 64, 144], "data_offsets": [0, 4]}}, b"0000"),
        "has the shape",
    ),
    ("reference without inputs", changed_reference(lambda t: t.pop("polar")), "which this model cannot take"),
    (
        "reference of another shape",
        changed_reference(lambda t: t.update(polar=t["polar"][:, :, :3].clone())),
        "which this model cannot take",
    ),
    ("reference without answers", changed_reference(lambda t: t.pop("scores")), "scores missing"),
    ("reference of NaN", changed_reference(lambda t: t["polar"].fill_(NAN)), "'polar' holds NaN"),
    ("reference that is pickled", pickled, "damaged"),
]:
    MADE[_name] = ("verify", with_reference(_content), rf"reference\.safetensors.*{_message}")


# ---------------------------------------------------------------- studies and settings
_LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(12)
)
_PLAN = "labelled: [scan.hspy, labels.h5]\n"
for _name, _content, _message in [
    ("a billion laughs", _LAUGHS, "aliases"),
    ("an alias of itself", "search: &x [*x]\n", "aliases"),
    ("code in YAML", "search: !!python/object/apply:os.system ['touch executed']\n", "not YAML"),
    ("module in YAML", "search: !!python/module:os\n", "not YAML"),
    ("deep YAML", "search: " + "[" * 10_000, "nested"),
    ("deep YAML of lines", "".join("  " * i + "a:\n" for i in range(200)), "nested"),
    ("YAML of a list as a key", "? [a, b]\n: 1\n", "is not a valid name"),
    ("YAML key twice", _PLAN + "search: {}\nsearch: {}\n", "occurs twice"),
    ("YAML of ten megabytes", "# " + "x" * 10_000_000, "at most 4 MB"),
    ("YAML of endless digits", _PLAN + "search: {seed: [1, 2]}\ntrials: " + "9" * 100_000, "digits"),
    ("YAML of NULs", b"\0" * 100, "not YAML"),
    ("a billion processes", _PLAN + "search: {seed: [1, 2]}\nprocesses: 1000000000\n", "processes must be"),
    ("trials of text", _PLAN + "search: {seed: [1, 2]}\ntrials: many\n", "trials must be"),
    (
        "range of infinity",
        _PLAN + "search: {learning_rate: {low: 1.0, high: .inf}}\n",
        "search.learning_rate must be a list",
    ),
    ("step of nothing", _PLAN + "search: {batch_size: {low: 1, high: 8, step: 0}}\n", "step must be above 0"),
    ("search of a list", _PLAN + "search: [1, 2]\n", "search must hold entries"),
    ("share of two", _PLAN + "search: {seed: [1, 2]}\nshare: 2\n", "share must be"),
    ("label that is a list", "labelled: [[a], {b: c}]\nsearch: {seed: [1, 2]}\n", "labelled must be a list of two"),
]:

    def _plan(folder, content=_content):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "plan.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder / "plan.yaml"

    MADE[_name] = ("plan", _plan, rf"plan\.yaml.*{_message}")


# ---------------------------------------------------------------- recipes: how a model says that it was trained
for _name, _path, _value, _message in [
    ("recipe: batch of 10^12", "training.batch_size", 10**12, "batch_size must be"),
    ("recipe: setup of 10^12", "training.simulation.setup_size", 10**12, "setup_size must be"),
    ("recipe: detector of 10^9 px", "training.simulation.pixels", [10**9], "pixels must be"),
    ("recipe: network of depth 10^9", "training.network", {"depth": 10**9}, "network.depth"),
    ("recipe: unknown setting", "training.exec", "import os", "Unknown settings exec"),
    ("recipe: simulation of text", "training.simulation", "x", "simulation must be"),
    ("recipe: minutes of text", "training.max_minutes", "long", "max_minutes must be"),
]:
    MADE[_name] = ("recipe", lambda folder, p=_path, v=_value: edited(folder, p, v), _message)


for _start in ("https://127.0.0.1:9/x.zip", "hf://owner/name@" + "0" * 40, "/etc"):
    MADE[f"recipe: start from {_start}"] = (
        "recipe", lambda folder, s=_start: edited(folder, "training.start", s, "mgo-300kv"), "names a model to start"
    )  # fmt: skip


# ---------------------------------------------------------------- weights that were learnt on ImageNet
@made("pretrained", "is not loaded, because a pickle may run any code")
def weights_of_imagenet_that_are_pickled(folder):
    import pickle

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "imagenet.pth").write_bytes(pickle.dumps(Harmful(folder.parent / SENTINEL)))
    return folder / "imagenet.pth"


@made("pretrained", "is not loaded, because a pickle may run any code")
def weights_of_imagenet_that_torch_saved(folder):
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": Harmful(folder.parent / SENTINEL)}, folder / "imagenet.pth")
    return folder / "imagenet.pth"


# ---------------------------------------------------------------- results in stores
def stored(change):
    """Make a store of four orientations, or of the disks of four patterns, and change it."""

    def make(folder):
        import numpy as np

        from pyxem_dl.scans import Collected, Field, Part, ResultStore, Rows
        from pyxem_dl.scans.blocks import Blocks
        from pyxem_dl.scans.output import Contents

        fields = {"scores": Field((1,), "float32"), "disks": Field((4,), "float32", ragged=True)}
        found = Collected(4, fields)
        about = {"positions": {}, "phases": [], "n_best": 1, "thresholds": {}}
        contents = Contents("predicted orientations", "f", Blocks((2, 2), (2, 2)), fields, about, 4, [])
        store = ResultStore.create(folder / "x.zarr", contents, found)
        store.expect(np.ones(4, bool))
        part = Part(np.arange(4), {"scores": np.ones((4, 1)), "disks": Rows.of([np.ones((2, 4))] * 4)})
        found.add(part)
        store.add(part)
        change(store.path)
        return store.path

    return make


def said(**entries):
    """Change what a store says of itself."""

    def change(path):
        about = json.loads((path / ".zattrs").read_text())
        about["pyxem_dl"].update(entries)
        (path / ".zattrs").write_text(json.dumps(about))

    return change


def of_array(name, content=None, **entries):
    """Change what a store says of an array, and its chunk."""

    def change(path):
        file = path / name / ".zarray"
        file.write_text(json.dumps(json.loads(file.read_text()) | entries))
        if content is not None:
            chunk = next(p for p in (path / name).iterdir() if p.name[0] != ".")
            chunk.write_bytes(content(path) if callable(content) else content)

    return change


def linked(name, target="/dev/zero"):
    def change(path):
        (path / name).unlink()
        os.symlink(target, path / name)

    return change


def pickled_chunk(path):
    import pickle

    return pickle.dumps(Harmful(path.parent.parent / SENTINEL))


def bomb(path):
    """A gigabyte in some kilobytes."""
    import numcodecs
    import numpy as np

    return bytes(numcodecs.Blosc("zstd", 9).encode(np.zeros(2**30, "u1")))


def endless_table(path):
    """Four thousand million rows in a few bytes, with the right checksum."""
    import numcodecs

    return bytes(numcodecs.Blosc("zstd", 1).encode(numcodecs.CRC32().encode(struct.pack("<I", 2**32 - 1))))


_PICKLE, _BLOSC = {"id": "pickle", "protocol": 4}, {"id": "blosc", "cname": "zstd", "clevel": 1, "shuffle": 1}
for _name, _change, _message in [
    ("filter that unpickles", of_array("scores", pickled_chunk, filters=[_PICKLE]), "scores is damaged.*filters"),
    ("compressor that unpickles", of_array("scores", pickled_chunk, compressor=_PICKLE), "damaged.*compressor"),
    ("tables that are pickled", of_array("disks", pickled_chunk, filters=[_PICKLE], compressor=None), "is damaged"),
    ("objects for numbers", of_array("done", pickled_chunk, dtype="|O", filters=[_PICKLE]), "damaged.*dtype"),
    ("chunk that is pickled", of_array("scores", pickled_chunk), "are damaged"),
    ("bomb of numbers", of_array("scores", bomb), "are damaged .*1073741824 bytes"),
    ("bomb of what is done", of_array("done", bomb), "are damaged .*1073741824 bytes"),
    ("bomb of tables", of_array("disks", bomb), "are damaged .*1073741824 bytes"),
    ("table of endless rows", of_array("disks", endless_table), "are damaged"),
    ("scan of 10^18 positions", said(shape=[10**9, 10**9]), "describe no scan"),
    ("scan of 10^9 positions", said(shape=[10**4, 10**5]), "does not suffice|damaged"),
    ("field of 10^18", said(fields={"scores": [[10**18], "f4", False]}), "attributes cannot be read"),
    ("field elsewhere", said(fields={"../../../etc": [[1], "f4", False]}), "attributes cannot be read"),
    ("a million fields", said(fields={f"a{i}": [[1], "f4", False] for i in range(100_000)}), "describe no scan"),
    ("kind that is code", said(kind="__import__('os').abort()"), "does not know"),
    ("phases that are code", said(about={"positions": {}, "phases": [{"name": "x"}], "n_best": 1, "thresholds": {}}),
     "its description cannot be used"),
    ("attributes of a device", linked(".zattrs"), "is no store of pyxem_dl's results"),
    ("group of a device", linked(".zgroup"), ".zgroup is missing"),
    ("array of a device", linked("scores/.zarray"), ".zarray is missing"),
    ("attributes of brackets", lambda path: (path / ".zattrs").write_text("[" * 100_000), "nested"),
    ("attributes of a terabyte", lambda path: os.truncate(path / ".zattrs", 2**40), "it is larger than"),
    ("group of a terabyte", lambda path: os.truncate(path / ".zgroup", 2**40), "it is larger than"),
    ("chunk of a terabyte", lambda path: os.truncate(path / "scores" / "0.0.0", 2**40), "are damaged"),
]:  # fmt: skip
    MADE[f"store: {_name}"] = ("store", stored(_change), rf"x\.zarr.*{_message}|{_message}.*x\.zarr")
for _name in ("scores/0.0.0", "done/0.0"):
    MADE[f"store: {_name} of a device"] = ("store", stored(linked(_name)), "not taken")


# ---------------------------------------------------------------- sets of quartets
def quartets(change):
    """Make a set of two quartets, and change it."""

    def make(folder):
        import shutil

        from pyxem_dl import data, make_quartets

        whole, path = folder.parent / "whole.zarr", folder / "x.zarr"
        if not whole.exists():
            make_quartets(data.aluminium(), whole, n=2, pixels=16, semi_angle=8, thickness=40, show_progressbar=False)
        shutil.copytree(whole, path)
        change(path)
        return path

    return make


def manifest(**entries):
    """Change what a set says of itself."""

    def change(path):
        about = json.loads((path / ".zattrs").read_text())
        about["pyxem_dl_quartets"].update(entries)
        (path / ".zattrs").write_text(json.dumps(about))

    return change


def manifest_of(name, **entries):
    """Change an entry of what a set says of its settings or of its crystal."""

    def change(path):
        about = json.loads((path / ".zattrs").read_text())["pyxem_dl_quartets"]
        if name == "settings":
            manifest(settings=about["settings"] | entries)(path)
        else:
            about["phases"][0][name] |= entries
            manifest(phases=about["phases"])(path)

    return change


def long_arrays(path):
    """As if there were a thousand million of quartets, one in a shard."""
    for file in path.glob("*/.zarray"):
        entry = json.loads(file.read_text())
        entry["shape"][0], entry["chunks"][0] = 2**30, 1
        file.write_text(json.dumps(entry))
    manifest(n=2**30, shard=1)(path)


_DAMAGED = "Shard 0 .* is damaged"
for _name, _change, _message in [
    ("filter that unpickles", of_array("pattern", pickled_chunk, filters=[_PICKLE]), "pattern is damaged.*filters"),
    ("compressor that unpickles", of_array("made", pickled_chunk, compressor=_PICKLE), "made is damaged.*compressor"),
    ("objects for numbers", of_array("q_z", pickled_chunk, dtype="|O", filters=[_PICKLE]), "q_z is damaged.*dtype"),
    ("chunk that is pickled", of_array("potential", pickled_chunk), _DAMAGED),
    ("bomb of images", of_array("pattern", bomb), f"{_DAMAGED}.*1073741824 bytes"),
    ("bomb of what is made", of_array("made", bomb), "are missing or not whole"),
    ("chunk of a terabyte", lambda path: os.truncate(path / "pattern" / "0.0.0", 2**40), _DAMAGED),
    ("chunk of a device", linked("pattern/0.0.0"), _DAMAGED),
    ("array of a device", linked("pattern/.zarray"), ".zarray is missing"),
    ("attributes of a device", linked(".zattrs"), "is no set of quartets"),
    ("attributes of a terabyte", lambda path: os.truncate(path / ".zattrs", 2**40), "it is larger than"),
    ("attributes of brackets", lambda path: (path / ".zattrs").write_text("[" * 100_000), "nested"),
    ("attributes of a list", lambda path: (path / ".zattrs").write_text("[1, 2]"), "is no set of quartets"),
    ("manifest of text", manifest(settings="x"), "its manifest cannot be read"),
    ("manifest without phases", manifest(phases=[]), "its manifest cannot be read"),
    ("manifest of a million phases", manifest(phases=[0] * 10**6), "its manifest cannot be read"),
    ("phases that are code", manifest(phases=[{"structure": {"name": "x"}, "source": {}}]), "cannot be read"),
    ("10^18 quartets", manifest(n=10**18), "its manifest cannot be read"),
    ("10^9 quartets", manifest(n=10**9), "is damaged.*shape"),
    ("10^9 quartets everywhere", long_arrays, "are missing or not whole"),
    ("shards of 10^9", manifest(shard=10**9), "its manifest cannot be read"),
    ("version of the future", manifest(format="9" * 1000), "a set of another version"),
    ("images of 10^9", manifest_of("settings", pixels=10**9), "its manifest cannot be read"),
    ("images that are larger", manifest_of("settings", pixels=32), "its manifest was changed"),
    ("settings of code", manifest_of("settings", engine="__import__('os').abort()"), "its manifest cannot be read"),
    ("another crystal", manifest_of("structure", lattice=[4.2] * 3 + [90] * 3), "its manifest was changed"),
    ("cell of 10^9", manifest_of("structure", lattice=[10**9] * 3 + [90] * 3), "its manifest cannot be read"),
    ("a hundred thousand atoms", manifest_of("structure", atoms=[["Al", 0, 0, 0, 1]] * 100_000), "cannot be read"),
    ("source that is long", manifest_of("source", id="x" * 10**6), "its manifest cannot be read"),
]:
    MADE[f"quartets: {_name}"] = ("quartets", quartets(_change), rf"x\.zarr.*({_message})|{_message}.*x\.zarr")


# ---------------------------------------------------------------- descriptions of crystals
def written(name, content):
    """Write a file."""

    def make(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return folder / name

    return make


FM3M = "_space_group_name_H-M_alt 'F m -3 m'\n"


def crystal(symmetry=FM3M, cell=(4, 4, 4, 90, 90, 90), atoms="Cu1 Cu 0 0 0 1", extra=""):
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    lines = "".join(f"_cell_{name} {value}\n" for name, value in zip(names, cell, strict=True))
    columns = ("label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy")
    loop = "loop_\n" + "".join(f"_atom_site_{column}\n" for column in columns)
    return f"data_x\n{extra}{lines}{symmetry}{loop}{atoms}\n"


def operations(*texts):
    return "loop_\n_space_group_symop_operation_xyz\n" + "".join(f";{text}\n;\n" for text in texts)


_CODE = f'__import__("os").system("touch {SENTINEL}")'
for _name, _content, _message in [
    ("operation that is code", crystal(operations("x,y,z", f"{_CODE},y,z")), "is not a symmetry operation"),
    ("operation of 9**9**9", crystal(operations("x,y,z", "9**9**9,y,z")), "is not a symmetry operation"),
    ("operation of a megabyte", crystal(operations("x,y,z" + "+x" * 500_000)), "is not a symmetry operation"),
    ("a million operations", crystal(operations(*["x,y,z"] * 1_000_000)), "1000000 symmetry operations"),
    ("operations of an endless group", crystal(operations("x,y,z", "x+y,y,z")), "is not a symmetry operation"),
    ("symbol that is code", crystal(f"_space_group_name_H-M_alt '{_CODE}'\n"), "is unknown"),
    ("symbol of a megabyte", crystal(f"_space_group_name_H-M_alt '{'2(1)/' * 200_000}'\n"), "is unknown"),
    ("Hall symbol of a megabyte", crystal(f"_space_group_name_Hall '{'-P 2' * 200_000}'\n"), "not a Hall symbol"),
    ("number that is code", crystal(f"_space_group_IT_number '{_CODE}'\n"), "not a finite number"),
    ("group 10^9", crystal("_space_group_IT_number 1000000000\n"), "must be 1 to 230"),
    ("cell of NaN", crystal(cell=("nan",) * 3 + (90,) * 3), "not a finite number"),
    ("cell of 10^400", crystal(cell=("1e400",) * 3 + (90,) * 3), "not a finite number"),
    ("cell of a metre", crystal(cell=(1e10,) * 3 + (90,) * 3), "outside 1 to 500"),
    ("cell without a volume", crystal(cell=(4, 4, 4, 120, 120, 120)), "has no volume"),
    ("cell below zero", crystal(cell=(-4, -4, -4, 90, 90, 90)), "outside 1 to 500"),
    ("element that is code", crystal(atoms=f"Cu1 '{_CODE}' 0 0 0 1"), "is not an element"),
    ("coordinate that is code", crystal(atoms=f"Cu1 Cu '{_CODE}' 0 0 1"), "not a finite number"),
    ("coordinate of 10^300", crystal(atoms="Cu1 Cu 1e300 0 0 1"), "not fractional coordinates"),
    ("coordinate of a million digits", crystal(atoms=f"Cu1 Cu 0.{'1' * 1_000_000} 0 0 1"), "not a finite number"),
    ("occupancy of NaN", crystal(atoms="Cu1 Cu 0 0 0 nan"), "not a finite number"),
    ("a million sites", crystal(atoms="Cu1 Cu 0 0 0 1\n" * 1_000_000), "1000000 atom sites"),
    (
        "sites times operations",
        crystal(
            cell=(400,) * 3 + (90,) * 3,
            atoms="\n".join(f"C{i} C 0.{i:05} 0.{7 * i:05} 0.3 1" for i in range(9000)),
        ),
        "more than 20000 atoms",
    ),
    ("formula of a megabyte", crystal(extra=f"_chemical_formula_sum '{'Zn9' * 300_000}'\n"), "x Z"),
    ("Z that is code", crystal(extra=f"_cell_formula_units_Z '{_CODE}'\n"), "not a finite number"),
    ("a hundred megabytes", b"#" * 100_000_000, "has 95 MB"),
    ("CIF that is pickled", b"\x80\x04\x95\x00", "could not be read as a CIF|not CIF text"),
    ("CIF of NULs", b"\0" * 1000, "not CIF text"),
    ("CIF of quotes", b"data_x\n_a '" + b"'" * 1_000_000, "could not be read as a CIF|no atoms"),
    ("CIF of save frames", b"data_x\n" + b"save_a\n" * 100_000, "could not be read as a CIF"),
    ("CIF of many blocks", b"data_x\n" * 200_000, "could not be read as a CIF|no atoms"),
]:
    MADE[f"crystal: {_name}"] = ("crystal", written("crystal.cif", _content), rf"crystal\.cif.*({_message})")


# ---------------------------------------------------------------- models in archives
def archive(fill, compression="stored"):
    """Make an archive of a model, and let something be added to it, or the model be left out."""

    def make(folder):
        import zipfile

        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "x.zip"
        kind = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED, "lzma": zipfile.ZIP_LZMA}[compression]
        with zipfile.ZipFile(path, "w", kind) as packed:
            fill(packed)
        return path

    return make


def whole(packed, prefix=""):
    for file in ("config.json", "model.safetensors", "reference.safetensors"):
        packed.write(bundled() / file, prefix + file)


def beside(name, content=b"x", mode=None, prefix=""):
    """Put a further entry into an archive of a whole model."""

    def fill(packed):
        import warnings
        import zipfile

        whole(packed, prefix)
        entry = zipfile.ZipInfo(name)
        entry.external_attr, entry.compress_type = 0 if mode is None else mode << 16, packed.compression
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a name that is there already
            packed.writestr(entry, content)

    return fill


def in_place_of(file, content):
    """Put something else in the place of a file of a model."""

    def fill(packed):
        for name in ("config.json", "model.safetensors", "reference.safetensors"):
            if name == file:
                packed.writestr(name, content)
            else:
                packed.write(bundled() / name, name)

    return fill


def changed_bytes(change, fill=whole):
    """Change the bytes of an archive of a whole model."""

    def make(folder):
        path = archive(fill)(folder)
        path.write_bytes(change(path.read_bytes()))
        return path

    return make


def tar_of_links(folder):
    import tarfile

    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / "x.zip", "w") as packed:
        entry = tarfile.TarInfo("config.json")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(entry)
    return folder / "x.zip"


def file_of_a_terabyte(folder):
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "x.zip", "wb") as file:
        file.truncate(2**40)
    return folder / "x.zip"


def _many_entries(packed):
    for i in range(50_000):
        packed.writestr(f"{i}", b"")


def _lying_size(data):
    """Say that the weights have four gigabytes, in the list and before them."""
    for mark, at in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        place = data.index(mark, data.index(mark) + 4)
        data = data[: place + at] + struct.pack("<I", 2**32 - 2) + data[place + at + 4 :]
    return data


def archive_of(folder):
    """Pack a folder that was made to harm."""
    import zipfile

    with zipfile.ZipFile(folder.parent / "x.zip", "w") as packed:
        for file in folder.iterdir():
            packed.write(file, file.name)
    return folder.parent / "x.zip"


_LINK, _DEVICE, _PIPE = 0o120777, 0o020666, 0o010666
for _name, _make, _message in [
    ("outside by dots", archive(beside("../../executed")), "would lie outside of its folder"),
    ("outside by the root", archive(beside("/executed")), "would lie outside of its folder"),
    ("outside by backslashes", archive(beside("..\\..\\executed")), "would lie outside of its folder"),
    ("outside by a drive", archive(beside("C:executed")), "would lie outside of its folder"),
    ("dots in the middle", archive(beside("a/../../executed")), "would lie outside of its folder"),
    ("name with NUL", changed_bytes(lambda data: data.replace(b"aQb", b"a\0b"), beside("aQb")), "outside of its"),
    ("link to a file", archive(beside("README.md", b"/etc/passwd", _LINK)), "which is a link or a device"),
    ("link in the place of weights", archive(lambda z: beside("model.safetensors", b"/dev/zero", _LINK)(z)), "a link"),
    ("device", archive(beside("README.md", b"", _DEVICE)), "which is a link or a device"),
    ("pipe", archive(beside("README.md", b"", _PIPE)), "which is a link or a device"),
    ("configuration twice", archive(beside("config.json", b"{}")), "holds 'config.json' twice"),
    ("configuration in capitals", archive(beside("CONFIG.JSON", b"{}")), "twice"),
    ("two models", archive(beside("b/config.json", b"{}", prefix="a/")), "2 times config.json"),
    ("no model", archive(lambda packed: packed.writestr("a.txt", b"x")), "holds no model"),
    ("nothing", archive(lambda packed: None), "holds no model"),
    ("a model deep down", archive(lambda packed: whole(packed, "a/b/c/")), "holds no model"),
    ("bomb of weights", archive(in_place_of("model.safetensors", b"\0" * 2 * 10**8), "deflated"), "would grow from"),
    ("bomb beside the model", archive(beside("a.bin", b"\0" * 2 * 10**8), "deflated"), "would grow from"),
    ("many files", archive(_many_entries), "list of its files should have"),
    ("sizes that lie", changed_bytes(_lying_size), "would grow from|damaged"),
    ("cut off", changed_bytes(lambda data: data[: len(data) // 2]), "damaged, or no zip file"),
    ("bytes turned", changed_bytes(lambda data: data.replace(b"format_version", b"format_versioN", 1)), "damaged"),
    ("packed by LZMA", archive(whole, "lzma"), "packed in an unusual way"),
    ("encrypted", changed_bytes(lambda d: d.replace(b"PK\x01\x02\x14\x03\x14\0\0", b"PK\x01\x02\x14\x03\x14\0\1")),
     "encrypted"),
    ("tar of links", tar_of_links, "damaged, or no zip file"),
    ("a terabyte", file_of_a_terabyte, "damaged, or no zip file"),
    ("text", lambda folder: written("x.zip", b"PK" + b"a" * 1000)(folder), "damaged, or no zip file"),
    ("weights that are pickled", archive(in_place_of("model.safetensors", b"\x80\x04\x95")), "is damaged"),
    ("depth of a billion", lambda folder: archive_of(edited(folder / "m", "network.arguments.depth", 10**9)), "depth"),
]:
    MADE[f"archive: {_name}"] = ("model", _make, rf"x\.zip.*({_message})")


# ---------------------------------------------------------------- trainings that were interrupted
def with_checkpoint(save):
    """Make a folder of checkpoints, as a training leaves it, with one file in it."""

    def make(folder):
        folder.mkdir(parents=True, exist_ok=True)
        save(Harmful(folder.parent / SENTINEL), folder / "interrupted.ckpt")
        return folder

    return make


def _pickled_checkpoint(harmful, path):
    import pickle

    path.write_bytes(pickle.dumps(harmful))


def _saved_by_torch(state, new=True):
    def save(harmful, path):
        import torch

        torch.save(state(harmful), path, _use_new_zipfile_serialization=new)

    return save


for _name, _save in {
    "of a pickle": _pickled_checkpoint,
    "of torch": _saved_by_torch(lambda harmful: {"state_dict": harmful}),
    "of torch, as it was before": _saved_by_torch(lambda harmful: {"state_dict": harmful}, new=False),
    "with code in a callback": _saved_by_torch(lambda harmful: {"state_dict": {}, "callbacks": {"x": [harmful]}}),
    "with code for a key": _saved_by_torch(lambda harmful: {"state_dict": {}, "loops": {(1, harmful): 0}}),
}.items():
    MADE[f"checkpoint {_name}"] = (
        "checkpoint", with_checkpoint(_save), r"interrupted\.ckpt.*not loaded, and nothing was run"
    )  # fmt: skip


# ---------------------------------------------------------------- readers
def read(reader, path):
    """Read a file as a user would."""
    if reader == "model":
        from pyxem_dl import load_model

        return load_model(path)
    if reader == "verify":
        from pyxem_dl import load_model

        return load_model(path).verify(path)
    if reader == "plan":
        from pyxem_dl.study import read_plan

        return read_plan(path)
    if reader == "recipe":
        from pyxem_dl import train

        return train(recipe=path, output=path / "out", max_steps=1, device="cpu", show_progressbar=False)
    if reader == "pretrained":
        from pyxem_dl.networks.backbones import make_backbone

        return make_backbone("resnet18", 64, {}, pretrained=path)
    if reader == "store":
        return read_store(path)
    if reader == "quartets":
        from pyxem_dl import open_quartets

        return open_quartets(path)[0]
    if reader == "crystal":
        from pyxem_dl.crystals import load_phases

        return load_phases(path)
    if reader == "checkpoint":
        from pyxem_dl.training.running import _newest_checkpoint

        return _newest_checkpoint(path)
    raise KeyError(reader)


def read_store(path):
    """Open a store; of damaged blocks nothing is taken."""
    import warnings

    from pyxem_dl import open_result
    from pyxem_dl.scans import ResultStore

    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        if not ResultStore.open(path).n_kept:
            raise ValueError(f"not taken: {[str(each.message) for each in record]}")
    return open_result(path)


def main(folder):
    """Make and read all hostile files in a folder."""
    import resource
    import socket
    import time
    import warnings

    import pyxem_dl
    from pyxem_dl import study, training  # noqa: F401 (their memory is not that of the files)

    pyxem_dl.load_model(bundled()).verify(bundled())
    paths = {name: make(folder / str(i)) for i, (name, (_, make, _)) in enumerate(MADE.items())}

    def blocked(*arguments, **keywords):
        raise AssertionError("the network was asked for")

    socket.socket.connect = socket.create_connection = socket.getaddrinfo = blocked
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + 3 * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    results = {}
    for name, (reader, _, _) in MADE.items():
        begun = time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read(reader, paths[name])
                kind, text = "nothing", "it was read"
            except BaseException as error:  # whatever it is, the test says so
                kind, text = type(error).__name__, str(error)
        results[name] = [kind, text[:2000], time.monotonic() - begun]
    print("RESULTS" + json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
