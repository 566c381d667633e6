"""Files of strangers and arguments of users: read with bounds, checked before anything is built from them.

A model's ``config.json``, a study's plan, or a label file may come from anybody. What is read here is plain (numbers,
strings, lists, dicts), of bounded size and depth, and holds no number that is not finite; what it means is described by
pydantic models whose fields have bounds (`Strict`), and an error names the entry, "network.arguments.depth".
"""

from __future__ import annotations

import json
import math
import numbers
import re
import reprlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

# Entries inside entries: no configuration of ours has more than six
_DEEPEST = 32
#: Largest configuration that is read, in bytes: 10 000 atoms take 0.6 MB
LARGEST_CONFIGURATION = 4 * 2**20
# Digits of a whole number; int() of very many takes hours
_DIGITS = 400
# So many errors are said at once
_SHOWN = 3


class Strict(BaseModel):
    """Entries with types and bounds: no other keys, no conversion of text to numbers, nothing that is not finite."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


def checked(kind: type[BaseModel], entries, path: str = "", where: str = ""):
    """Make an object of entries, or say which of them is wrong.

    Parameters
    ----------
    kind : type of pydantic model
        What the entries are.
    entries : dict
        From a file, or of a user.
    path : str
        Of the entries inside of the file, "network.arguments".
    where : str
        The file.

    Raises
    ------
    ValueError
        With the path of each wrong entry, its value, and what it should be.
    """
    try:
        return kind.model_validate(entries)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
    texts = [_sentence(each, path) for each in found[:_SHOWN]]
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    raise ValueError(f"{where + ': ' if where else ''}{'; '.join(texts)}{more}.")


def _sentence(error: dict, path: str) -> str:
    """Say what is wrong with an entry."""
    place = ".".join(str(part) for part in (*([path] if path else []), *error["loc"])) or "the entries"
    text = error["msg"].removeprefix("Value error, ").removesuffix(".")
    if error["type"] == "missing":
        return f"{place}: is missing"
    if error["type"] == "extra_forbidden":
        return f"{place}: unknown entry"
    return f"{place}: {text[:1].lower()}{text[1:]}, not {reprlib.repr(error['input'])}"


# ---------------------------------------------------------------- text files
def read_text(path: Path, largest: int = LARGEST_CONFIGURATION) -> str:
    """Read a text file of bounded size.

    Raises
    ------
    ValueError
        For a file that is too large, or no text in UTF-8.
    """
    size = path.stat().st_size
    if size > largest:
        raise ValueError(f"{path} has {size / 2**20:.3g} MB; at most {largest / 2**20:.3g} MB are read.")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = f"{error.reason} at byte {error.start}"
        raise ValueError(f"{path} is damaged: it is not UTF-8 text ({place}).") from error


def read_json(text: str, name) -> object:
    """Read JSON: no key twice, no NaN, no number of endless digits, and no deep nesting.

    Parameters
    ----------
    text : str
        The file's text.
    name : str or pathlib.Path
        Of the file, for the errors.
    """
    _check_nesting(text, name)
    try:
        return json.loads(text, object_pairs_hook=_without_doubles, parse_constant=_no_constant, parse_int=_short_int,
                          parse_float=_finite)  # fmt: skip
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is damaged: it is not JSON: {error}") from error


def _check_nesting(text: str, name) -> None:
    """Refuse brackets in brackets in brackets before a parser follows them."""
    depth, in_string = 0, False
    # mark by mark: one expression for whole strings takes a hundred bytes for each of their letters
    for mark in re.finditer(r'\\.|["\[\]{}]', text, re.DOTALL):
        if mark[0] == '"':
            in_string = not in_string
        elif not in_string and len(mark[0]) == 1:
            depth += 1 if mark[0] in "[{" else -1
        if depth > _DEEPEST:
            raise ValueError(f"{name} is damaged: its entries are nested more than {_DEEPEST} deep.")


def _without_doubles(pairs: list) -> dict:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        keys = [key for key, _ in pairs]
        double = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {double[:80]!r} occurs twice")
    return entries


def _no_constant(text: str):
    raise ValueError(f"{text} is not a usable number")


def _short_int(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is not a usable number")
    return value


def read_yaml(text: str, name: str = "the text"):
    """Read YAML, and numbers as people write them: YAML 1.1 takes 1e-3 for a word.

    Parameters
    ----------
    text : str
        Plain YAML: no aliases (a few lines of them make billions of entries), no tags, no key twice.
    name : str
        Of where it comes from, for the errors.

    Raises
    ------
    ValueError
        For what is no YAML, or more than that.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        """Safe, and without what makes much of little."""

        depth = 0

        def compose_node(self, parent, index):
            if self.check_event(yaml.events.AliasEvent):
                raise ValueError(f"{name}: aliases (*name) are not allowed; write the entries out.")
            self.depth += 1
            if self.depth > _DEEPEST:
                raise ValueError(f"{name}: its entries are nested more than {_DEEPEST} deep.")
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

        def construct_mapping(self, node, deep=False):
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            for key in keys:
                if not isinstance(key, (str, int, float, bool)):
                    raise ValueError(f"{name}: {reprlib.repr(key)} is not a valid name for an entry.")
            if len(set(keys)) != len(keys):
                double = next(key for key in keys if keys.count(key) > 1)
                raise ValueError(f"{name}: the entry {double!r} occurs twice.")
            return super().construct_mapping(node, deep)

    if len(text) > LARGEST_CONFIGURATION:
        raise ValueError(f"{name}: at most {LARGEST_CONFIGURATION / 2**20:.3g} MB are read.")
    if re.search(rf"\d{{{_DIGITS},}}", text):
        raise ValueError(f"{name}: a number has more than {_DIGITS} digits.")
    if _flow_depth(text) > _DEEPEST:
        raise ValueError(f"{name}: its entries are nested more than {_DEEPEST} deep.")
    try:
        return _numbers(yaml.load(text, Loader))  # noqa: S506 (a subclass of the safe loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is not YAML: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{name}: its entries are nested too deep.") from error


def _flow_depth(text: str) -> int:
    """Largest number of brackets that are open at once: PyYAML's scanner slows down with its square."""
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


def _numbers(entry):
    if isinstance(entry, dict):
        return {key: _numbers(value) for key, value in entry.items()}
    if isinstance(entry, list):
        return [_numbers(value) for value in entry]
    if isinstance(entry, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", entry):
        return float(entry)
    return entry


# ---------------------------------------------------------------- arguments
def whole_number(name: str, value, low: int = 0, high: int | None = None) -> int:
    """Return an argument as an int; numpy's are whole numbers, too, and so is 3.0, but neither True nor "3".

    Raises
    ------
    TypeError, ValueError
        If it is not a whole number between `low` and `high`.
    """
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a whole number of at least {low}, not {reprlib.repr(value)}.")
    if isinstance(value, bool) or not math.isfinite(value) or int(value) != value or value < low:
        raise ValueError(f"{name} must be a whole number of at least {low}, not {reprlib.repr(value)}.")
    if high is not None and value > high:
        raise ValueError(f"{name} must be a whole number of at most {high}, not {reprlib.repr(value)}.")
    return int(value)


def number(name: str, value, low: float = -math.inf, high: float = math.inf, *, above: bool = False) -> float:
    """Return an argument as a float; an error says between what it must be.

    Parameters
    ----------
    name : str
        Of the argument.
    value : float
        A number of Python or numpy.
    low, high : float
        Smallest and largest value.
    above : bool
        `low` itself is not allowed.
    """
    if math.isinf(low) and math.isinf(high):
        span = "a finite number"
    elif math.isinf(high):
        span = f"a number above {low:g}" if above else f"a number of at least {low:g}"
    else:
        span = f"a number {'above' if above else 'from'} {low:g} {'and up ' if above else ''}to {high:g}"
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be {span}, not {reprlib.repr(value)}.")
    if not (math.isfinite(value) and (low < value if above else low <= value) and value <= high):
        raise ValueError(f"{name} must be {span}, not {reprlib.repr(value)}.")
    return float(value)


def flag(name: str, value, other: str = "") -> bool:
    """Return an argument that is True or False; "no" would count as true. What else it may be is told if it is none."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    allowed = f"True, False, or {other}" if other else "True or False"
    raise TypeError(f"{name} must be {allowed}, not {reprlib.repr(value)}.")


def drawn_settings(settings, **bounds: tuple[float, float]) -> None:
    """Make sure of a dataclass of what a simulation draws at random.

    Parameters
    ----------
    settings : dataclass
        Pairs (low, high), tuples, numbers, and shares, whose names end in "_share".
    **bounds : tuple of float
        Smallest and largest value of single fields; of the others they are ±1e12, and of shares 0 and 1.

    Raises
    ------
    TypeError, ValueError
        Which names the field.
    """
    for name, field in settings.__dataclass_fields__.items():
        value, default = getattr(settings, name), field.default
        low, high = bounds.get(name, (0, 1) if name.endswith("_share") else (-1e12, 1e12))
        if not isinstance(default, tuple):
            (whole_number if isinstance(default, int) else number)(name, value, low, high)
            continue
        if not isinstance(value, (tuple, list)) or not 1 <= len(value) <= 64:
            raise TypeError(f"{name} must be a tuple like {default}, not {reprlib.repr(value)}.")
        if isinstance(default[0], str):
            continue
        if len(default) == 2 and len(value) != 2:
            raise ValueError(f"{name} must be (low, high), not {reprlib.repr(value)}.")
        for each in value:
            (whole_number if isinstance(default[0], int) else number)(name, each, low, high)


def thresholds(values: dict, where: str, known: Iterable[str]) -> None:
    """Make sure of a model's thresholds: numbers from 0 to 1 by known names.

    Raises
    ------
    TypeError, ValueError
        Which names the threshold.
    """
    unknown = sorted(set(map(str, values)) - set(known))
    if unknown:
        raise ValueError(f"{where}: unknown threshold {', '.join(unknown)}; the known ones are: {', '.join(known)}.")
    for name, value in values.items():
        number(f"{where}: the threshold {name!r}", value, 0, 1)
