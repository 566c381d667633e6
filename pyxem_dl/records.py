"""Where a result comes from: what made it, with which model, settings and calibration; its files keep it, too.

A record is a plain dict. Crystal maps have it beside their properties, which their parts and copies share, signals have
it in their metadata, and other results as an attribute. It holds no date, so that the same work gives the same record.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np

from pyxem_dl.checks import read_json, read_text
from pyxem_dl.frames import Calibration

#: Item of a signal's metadata that holds the record, as JSON
NODE = "Pyxem_dl.provenance"
#: Attribute of HDF5 files, entry of stores and .json files, and what begins the lines of text files
KEY = "pyxem_dl_provenance"
# Letters of a record: an attribute of an HDF5 file holds 64 kB
_LONGEST = 60_000
# Of a store, whose description holds all atoms of its phases; and of the top of a text file
_LARGEST_STORE, _LARGEST_TOP = 64 * 2**20, 2**17
_LONGEST_TEXT, _MOST_ENTRIES, _DEEPEST = 400, 64, 8
# Numbers of an array that are kept as they are
_MOST_NUMBERS = 16
_LINE = 100
#: Names of programs by which readers of .ang and .ctf files know who wrote them
_VENDORS = ("EMsoft", "ACOM", "Astar", "astar", "MTEX", "orix", "Phase", "kikuchipy")


class Provenance(dict):
    """Where a result comes from; ``print`` shows it, and it is empty where nothing is known.

    Entries, as far as they are known: ``verb`` (the function), ``pyxem_dl`` (its version), ``data`` (title, shape and
    file of what it looked at), ``model`` (a list: name, network, source, sha256 of the weights), ``settings``,
    ``calibration`` and ``made_from`` (the record of the result that this one was made from).
    """

    @property
    def thresholds(self) -> dict[str, float]:
        """Thresholds of the model, as they were when the result was made."""
        found = self.get("settings")
        found = found.get("thresholds") if isinstance(found, dict) else None
        return dict(found) if isinstance(found, dict) else {}

    @property
    def calibration(self) -> Calibration | None:
        """Calibration that was used: scale in Å⁻¹ per px, center in px, ellipse, beam energy in kV.

        Where each pattern has a centre of its own, this one is the calibration's.
        """
        found = self.get("calibration")
        try:
            scale, center, shape = (tuple(found[name]) for name in ("scale", "center", "shape"))
            distortion = found.get("distortion")
            distortion = None if distortion is None else tuple(tuple(row) for row in distortion)
            return Calibration(scale, center, shape, found.get("beam_energy"), distortion)
        except (TypeError, KeyError, ValueError, AttributeError):
            return None

    def __str__(self) -> str:
        return "\n".join(_lines(self)) or "Nothing is known of where this comes from."

    __repr__ = __str__


def made_by(verb: str, *, signal=None, model=None, calibration=None, made_from=None, **settings) -> dict:
    """Make a record.

    Parameters
    ----------
    verb : str
        Name of the function.
    signal : signal, optional
        What it looked at.
    model : Model or OrientationEnsemble, optional
        As it was loaded; its thresholds are settings.
    calibration : Calibration, optional
        That was used.
    made_from : object, optional
        Result that this one is made from, whose record is kept within this one.
    **settings
        Arguments, as the user gave them: arrays are named by shape and hash, files by name, phases by name.
    """
    from pyxem_dl import __version__

    record = {"verb": verb, "pyxem_dl": __version__}
    if signal is not None:
        record["data"] = _about_signal(signal)
    if model is not None:
        record["model"] = _plain(model.about())
        settings = {"thresholds": dict(model.thresholds)} | settings
    if settings:
        record["settings"] = _plain(settings)
    if calibration is not None:
        record["calibration"] = {each.name: _plain(getattr(calibration, each.name)) for each in fields(calibration)}
    earlier = None if made_from is None else provenance(made_from)
    if earlier:
        record["made_from"] = dict(earlier)
    return record if len(json.dumps(record)) < _LONGEST else {"verb": verb, "pyxem_dl": __version__}


def with_record(result, record: Mapping | None):
    """Give a result its record, and return it.

    Parameters
    ----------
    result : orix.crystal_map.CrystalMap, signal, or an object of ours
        Which keeps it: a map with all its parts and copies.
    record : dict or None
        From :func:`made_by`; nothing is kept of an empty one.
    """
    if not record:
        return result
    if _is_map(result):
        result._prop.provenance = dict(record)
    elif hasattr(result, "metadata") and hasattr(result, "axes_manager"):
        result.metadata.set_item(NODE, to_text(record))
    else:
        object.__setattr__(result, "provenance", Provenance(record))
    return result


def provenance(result: object) -> Provenance:
    """Tell where a result comes from: which function, version, model, settings and calibration made it.

    Parameters
    ----------
    result : orix.crystal_map.CrystalMap, signal, other result, str or pathlib.Path
        Anything that a function of pyxem_dl returned, parts and copies of it, or the file of it: ``.h5``, ``.ang``,
        ``.ctf``, ``.hspy``, ``.zspy``, ``.zarr`` or ``.json``.

    Returns
    -------
    Provenance
        A dict that can be printed; empty where nothing is known, as of files of earlier versions and other programs.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        For a file whose record is damaged.

    Notes
    -----
    A map that ``orix.io.load`` read from a file has no record, since orix does not know of it: ask the file, or open it
    with :func:`pyxem_dl.open_result`.

    Examples
    --------
    >>> import pyxem_dl
    >>> xmap = s.predict_orientation("mgo-300kv")  # doctest: +SKIP
    >>> print(pyxem_dl.provenance(xmap))  # doctest: +SKIP
    """
    if isinstance(result, (str, Path)):
        return _of_file(Path(result))
    if _is_map(result):
        return Provenance(getattr(result._prop, "provenance", {}))
    if hasattr(result, "metadata") and hasattr(result, "axes_manager"):
        text = result.metadata.get_item(NODE, "")
        return _read(text, "The metadata of the signal") if text else Provenance()
    return Provenance(getattr(result, "provenance", None) or {})


def to_text(record: Mapping) -> str:
    """Write a record as JSON, in ASCII."""
    return json.dumps(record, ensure_ascii=True)


def from_entries(entries) -> dict | None:
    """Record from what a file holds, or None: entries of other kinds than those of a record are left out."""
    if not isinstance(entries, dict) or not isinstance(entries.get("verb"), str):
        return None
    kinds = {"verb": str, "pyxem_dl": str, "data": dict, "model": list, "settings": dict, "calibration": dict}
    record = {name: entries[name] for name, kind in kinds.items() if isinstance(entries.get(name), kind)}
    earlier = from_entries(entries.get("made_from"))
    return record if earlier is None else record | {"made_from": earlier}


def write_attribute(file, record: Mapping) -> None:
    """Write a record into an HDF5 file (path, or a file in memory), beside all that is in it."""
    import h5py

    with h5py.File(file, "r+") as opened:
        opened.attrs[KEY] = np.bytes_(to_text(record))


def comment_lines(record: Mapping, length: int = _LINE) -> list[str]:
    """Cut a record into lines for the top of a text file, without words by which programs tell who wrote it.

    Parameters
    ----------
    record : dict
        From :func:`made_by`.
    length : int
        Of a line; 0 for one line.
    """
    text = to_text(record)
    for word in _VENDORS:
        text = text.replace(word, f"\\u{ord(word[0]):04x}{word[1:]}")
    length = length or len(text)
    return [f"{KEY} {text[i : i + length]}" for i in range(0, len(text), length)]


# ---------------------------------------------------------------- files
def _of_file(path: Path) -> Provenance:
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    suffix = path.suffix.lower()
    if path.is_dir():
        return _of_folder(path)
    if suffix in (".ang", ".ctf"):
        return _of_text(path)
    if suffix == ".json":
        entries = read_json(read_text(path), path)
        return Provenance(from_entries(entries.get(KEY) if isinstance(entries, dict) else None) or {})
    return _of_hdf5(path)


def _of_text(path: Path) -> Provenance:
    """Read lines of comments at the top, or of the project's name in a .ctf file."""
    with open(path, "rb") as file:
        top = file.read(_LARGEST_TOP).decode("latin-1")
    parts = [line.partition(f"{KEY} ")[2] for line in top.splitlines() if f"{KEY} " in line]
    # blanks at the ends of lines are a part of it
    return _read("".join(parts), path) if parts else Provenance()


def _of_folder(path: Path) -> Provenance:
    """Read that of a store of results, or a signal of HyperSpy."""
    attributes = path / ".zattrs"
    if attributes.is_file():
        entries = read_json(read_text(attributes, _LARGEST_STORE), attributes)
        for name in ("pyxem_dl", "about", KEY):
            entries = entries.get(name) if isinstance(entries, dict) else None
        if entries is not None:
            return Provenance(from_entries(entries) or {})
    for found in sorted((path / "Experiments").glob("*/metadata/Pyxem_dl/.zattrs"))[:1]:
        entries = read_json(read_text(found), found)
        text = entries.get("provenance") if isinstance(entries, dict) else None
        return _read(text, found) if text else Provenance()
    return Provenance()


def _of_hdf5(path: Path) -> Provenance:
    """Read that of a crystal map of orix, vectors of py4DSTEM, or a signal of HyperSpy."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            text = file.attrs.get(KEY)
            if text is None:
                group = _first_signal(file)
                text = None if group is None else group.attrs.get("provenance")
    except (OSError, RuntimeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no file that holds a result ({error}).") from error
    if isinstance(text, bytes):
        text = text.decode("ascii", "replace")
    return Provenance() if text is None else _read(text, path)


def _first_signal(file):
    """Group of the metadata of the first signal; links to elsewhere are not followed."""
    import h5py

    group = file
    for name in ("Experiments", None, "metadata", "Pyxem_dl"):
        name = next(iter(group), None) if name is None else name
        if name is None or name not in group or not isinstance(group.get(name, getlink=True), h5py.HardLink):
            return None
        group = group[name]
        if not isinstance(group, h5py.Group):
            return None
    return group


def _read(text, where) -> Provenance:
    if not isinstance(text, str) or len(text) > _LARGEST_TOP:
        raise ValueError(f"{where} is damaged: its record of provenance is no text of at most {_LARGEST_TOP} letters.")
    return Provenance(from_entries(read_json(text, f"{where} (provenance)")) or {})


# ---------------------------------------------------------------- plain entries
def _is_map(result) -> bool:
    return hasattr(result, "_prop") and hasattr(result, "is_in_data")


def _about_signal(signal) -> dict:
    """Title, shape, and name of the file."""
    title = str(signal.metadata.get_item("General.title", ""))
    file = str(signal.metadata.get_item("General.original_filename", ""))
    where = getattr(signal, "tmp_parameters", None)
    if where is not None and where.get_item("filename", ""):
        file = f"{where.get_item('filename')}{where.get_item('extension', '')}"
    about = {"title": title, "shape": list(map(int, signal.data.shape)), "file": Path(file).name}
    return {name: value for name, value in _plain(about).items() if value not in ("", None)}


def _plain(value, depth: int = 0):
    """Numbers, texts, lists and dicts of a value, few of them; what is large is named by its hash."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and not value.ndim):
        value = value.item()
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return value[:_LONGEST_TEXT]
    if isinstance(value, Path):
        return value.name
    if isinstance(value, np.ndarray):
        return _plain_array(value)
    if depth >= _DEEPEST:
        return "..."
    if isinstance(value, Mapping):
        return {str(k)[:_LONGEST_TEXT]: _plain(v, depth + 1) for k, v in list(value.items())[:_MOST_ENTRIES]}
    if isinstance(value, (list, tuple)):
        more = [f"and {len(value) - _MOST_ENTRIES} more"] if len(value) > _MOST_ENTRIES else []
        return [_plain(each, depth + 1) for each in value[:_MOST_ENTRIES]] + more
    if isinstance(value, slice):
        return str(value)
    if hasattr(value, "axes_manager"):
        return {"signal": type(value).__name__} | _about_signal(value)
    name = getattr(value, "name", None)
    return name[:_LONGEST_TEXT] if isinstance(name, str) else type(value).__name__


def _plain_array(value: np.ndarray):
    if value.size <= _MOST_NUMBERS and value.dtype.kind in "biuf":
        return _plain(value.tolist())
    entry = {"shape": list(value.shape), "dtype": str(value.dtype)}
    if value.dtype.kind == "b":
        entry["true"] = int(value.sum())
    if value.dtype.kind in "biufc":
        entry["sha256"] = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
    return entry


# ---------------------------------------------------------------- for people
def _lines(record: Mapping, indent: str = "") -> list[str]:
    """Lines of a record; texts of strangers without what moves a cursor."""
    if not record:
        return []
    lines = [f"{record.get('verb', '?')}, pyxem_dl {record.get('pyxem_dl', '?')}"]
    data = record.get("data", {})
    if data:
        lines.append("Data: " + ", ".join(_short(value) for value in data.values()))
    for model in record.get("model", []):
        known = model if isinstance(model, dict) else {"name": model}
        lines.append("Model: " + ", ".join(
            _short(value) if name in ("name", "network") else f"{name} {_short(value)}"
            for name, value in known.items() if value is not None
        ))  # fmt: skip
    lines += [f"{name}: {_short(value)}" for name, value in record.get("settings", {}).items()]
    if record.get("calibration"):
        entries = ", ".join(f"{k} {_short(v)}" for k, v in record["calibration"].items() if v is not None)
        lines.append(f"Calibration (Å⁻¹, px, kV): {entries}")
    if record.get("made_from"):
        lines += ["Made from:", *_lines(record["made_from"], indent + "  ")]
    return [indent + "".join(c if c.isprintable() else " " for c in line) for line in lines]


def _short(value) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_short(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "(" + ", ".join(map(_short, value)) + ")"
    return str(value)
