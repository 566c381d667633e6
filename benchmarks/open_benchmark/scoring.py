"""How good are the orientations that some code found: shares within angles of the truth, with their spreads.

Answers are a table of quaternions, from a CSV or an NPZ file:

* CSV, with a header: ``id,a,b,c,d``, and ``rank`` where there are several candidates of a pattern (0, the best, comes
  first); a pattern that is not in the file is one without an answer, and counts as wrong;
* NPZ, with ``ids`` (n,) and ``quaternions`` (n, 4) or (n, k, 4); NaN where there is no answer.

A quaternion ``a + b i + c j + d k`` takes the lab to the crystal, as orix has it.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np

from open_benchmark.crystals import NAMES as CRYSTAL_NAMES, phase_of
from open_benchmark.patterns import Patterns

#: Degrees
ANGLES = (0.3, 1.0, 2.0, 5.0)
# Answers that are right so much more often in another convention (share within 5 degrees) are in that one
_TELLING, _LEAST_TOLD = 0.25, 8


def read_answers(path: Path | str, ids) -> np.ndarray:
    """Read candidates of each pattern from a file.

    Parameters
    ----------
    path : path
        CSV or NPZ.
    ids : array of str, shape (n,)
        Of the patterns.

    Returns
    -------
    array, shape (n, k, 4)
        Unit quaternions, the best first; NaN without an answer.

    Raises
    ------
    ValueError
        For a file that is not as this module says, or with patterns that are not in the benchmark.
    """
    path = Path(path)
    if path.suffix == ".npz":
        rows = _rows_of_npz(path)
    elif path.suffix == ".csv":
        rows = _rows_of_csv(path)
    else:
        raise ValueError(f"{path.name} must end in .csv or .npz.")
    place = {each: i for i, each in enumerate(ids)}
    unknown = sorted({name for name, _, _ in rows} - set(place))
    if unknown:
        raise ValueError(f"{path.name} has patterns that were not asked for, such as {unknown[0]!r}: see `export`.")
    found = np.full((len(place), 1 + max((rank for _, rank, _ in rows), default=0), 4), np.nan)
    for name, rank, quaternion in rows:
        if np.isfinite(found[place[name], rank]).all():
            raise ValueError(f"{path.name} has two answers for {name} of rank {rank}: number them 0, 1, 2, ...")
        found[place[name], rank] = quaternion
    length = np.linalg.norm(found, axis=-1)
    wrong = np.isfinite(length) & (np.abs(length - 1) > 0.01)
    if wrong.any():
        name = ids[np.flatnonzero(wrong.any(axis=1))[0]]
        raise ValueError(f"{path.name} has an answer for {name} that is no unit quaternion a, b, c, d.")
    return found / length[..., None]


def _rows_of_csv(path: Path) -> list:
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = {"id", "a", "b", "c", "d"} - set(reader.fieldnames or ())
        if missing:
            names = ", ".join(sorted(missing))
            raise ValueError(f"{path.name} must begin with the line id,a,b,c,d: it has no {names}.")
        rows = []
        for line in reader:
            try:
                rank = int(line.get("rank") or 0)
                rows.append((line["id"], rank, np.array([float(line[key]) for key in "abcd"])))
            except (TypeError, ValueError):
                raise ValueError(f"{path.name}, line {reader.line_num}, is not an id and numbers a, b, c, d.") from None
            if not 0 <= rank < 100:
                raise ValueError(f"{path.name}, line {reader.line_num}: a rank is a number from 0 to 99.")
    return rows


def _rows_of_npz(path: Path) -> list:
    with np.load(path, allow_pickle=False) as file:
        if not {"ids", "quaternions"} <= set(file.files):
            raise ValueError(f"{path.name} must hold the arrays ids and quaternions.")
        try:
            names, quaternions = file["ids"], file["quaternions"]
        except ValueError:  # of objects, which only unpickling would read
            names = quaternions = np.array("")
    if names.dtype.kind != "U" or quaternions.dtype.kind not in "fiu":
        raise ValueError(f"{path.name}: ids must be text, and quaternions real numbers.")
    quaternions = quaternions.astype(float)
    if quaternions.ndim == 2:
        quaternions = quaternions[:, None]
    if names.ndim != 1 or quaternions.ndim != 3 or quaternions.shape[::2] != (len(names), 4):
        raise ValueError(f"{path.name}: ids must be (n,), and quaternions (n, 4) or (n, k, 4).")
    return [(str(name), rank, q) for name, row in zip(names, quaternions) for rank, q in enumerate(row)]


def write_answers(path: Path | str, ids, quaternions) -> None:
    """Write candidates (n, 4) or (n, k, 4) of patterns to a CSV file; NaN where there is none."""
    quaternions = np.asarray(quaternions, dtype=float)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("id", "rank", "a", "b", "c", "d"))
        for name, candidates in zip(ids, quaternions.reshape(len(ids), -1, 4)):
            for rank, quaternion in enumerate(candidates):
                if np.isfinite(quaternion).all():
                    writer.writerow((name, rank, *(f"{x:.9f}" for x in quaternion)))


def score(answers: np.ndarray, truth: Patterns) -> dict[str, dict]:
    """Compare answers with the truth.

    Parameters
    ----------
    answers : array, shape (n, 4) or (n, k, 4)
        From :func:`read_answers`.
    truth : Patterns
        With the same patterns.

    Returns
    -------
    dict
        For each crystal, and for "all", the numbers of :func:`summary`.
    """
    angles = angles_of(answers, truth)
    rows = {name: {key: each[truth.crystals == name] for key, each in angles.items()} for name in CRYSTAL_NAMES}
    rows = {name: columns for name, columns in rows.items() if len(columns["strict"])}
    return {name: summary(columns) for name, columns in (rows | {"all": angles}).items()}


def angles_of(answers: np.ndarray, truth: Patterns) -> dict[str, np.ndarray]:
    """Angles between answers and truth.

    Returns
    -------
    dict of array, shape (n,)
        In degrees, infinite without an answer: ``strict``, of the first candidate; ``modulo_180``, of it or it turned
        by 180 degrees about the beam; ``best``, of the best of all candidates, modulo 180; with a second crystal
        ``both``, the larger of the two crystals' angles, of the candidates that fit best, modulo 180.
    """
    answers = np.asarray(answers, dtype=float)
    answers = answers[:, None] if answers.ndim == 2 else answers
    found = {
        "strict": _angles(answers[:, :1], truth, truth.quaternions, False)[:, 0],
        "modulo_180": _angles(answers[:, :1], truth, truth.quaternions, True)[:, 0],
    }
    every = _angles(answers, truth, truth.quaternions, True)
    found["best"] = every.min(axis=1)
    if np.isfinite(truth.second).any():
        found["both"] = np.maximum(found["best"], _angles(answers, truth, truth.second, True).min(axis=1))
    return found


def _angles(answers, truth: Patterns, orientations, modulo_180: bool) -> np.ndarray:
    """Disorientations (n, k) in degrees."""
    from pyxem_dl.metrics import disorientation

    result = np.full(answers.shape[:2], np.inf)
    for name in np.unique(truth.crystals):
        here = truth.crystals == name
        angle = disorientation(answers[here], orientations[here, None], phase_of(name), modulo_180=modulo_180)
        result[here] = np.where(np.isfinite(angle), angle, np.inf)
    return result


def summary(angles: dict[str, np.ndarray]) -> dict:
    """Shares within :data:`ANGLES`, their spreads √(p (1 − p) / n), and medians (degrees; of all, infinite as None)."""
    found = {"n": len(angles["strict"]), "answered": int(np.isfinite(angles["strict"]).sum())}
    for key, values in angles.items():
        shares = [float(np.mean(values <= limit)) for limit in ANGLES]
        median = float(np.median(values))
        found[key] = {
            "within": {f"{limit:g}": round(share, 4) for limit, share in zip(ANGLES, shares)},
            "spread": {f"{limit:g}": round(_spread(share, len(values)), 4) for limit, share in zip(ANGLES, shares)},
            "median": round(median, 3) if math.isfinite(median) else None,
        }
    return found


def _spread(share: float, n: int) -> float:
    return math.sqrt(share * (1 - share) / n)


def told_convention(answers: np.ndarray, truth: Patterns) -> str | None:
    """Find the convention that answers are in, where it is not the benchmark's.

    Returns
    -------
    str or None
        What to do with each quaternion; None if they are best as they are, or if that cannot be told.
    """
    answers = np.asarray(answers, dtype=float)
    first = answers[:, 0] if answers.ndim == 3 else answers
    if np.isfinite(first).all(axis=1).sum() < _LEAST_TOLD:
        return None
    shares = {text: _share(turned, truth) for text, turned in _conventions(first, truth)}
    as_given = shares.pop("")
    text, share = max(shares.items(), key=lambda each: each[1])
    if share < as_given + _TELLING:
        return None
    return (
        f"These answers look as if they were in another convention: {100 * as_given:.0f} % are within 5° (modulo 180°) "
        f"as given, and {100 * share:.0f} % {text}."
    )


def _share(quaternions, truth: Patterns) -> float:
    return float(np.mean(_angles(quaternions[:, None], truth, truth.quaternions, True) <= 5))


def _conventions(quaternions, truth: Patterns):
    """Yield what else quaternions (n, 4) may mean, in words, and as they would have to be."""
    from orix.quaternion import Rotation

    from pyxem_dl.frames import other_crystal_quaternion

    half = math.sqrt(0.5)
    # pattern's axes that are turned or mirrored; a mirrored pattern is one whose lab is turned about an axis in it
    labs = {
        "": (1, 0, 0, 0),
        "turned by 90° about the beam (x and y exchanged, one of them reversed)": (half, 0, 0, half),
        "turned by 180° about the lab's x (y down and z away from the source)": (0, 1, 0, 0),
        "turned by 180° about the lab's x + y (x and y exchanged)": (0, half, half, 0),
    }
    other = np.array([np.ravel(other_crystal_quaternion(phase_of(name).structure.lattice)) for name in truth.crystals])
    crystals = {"": None, "with the crystal's x along a* and its z along c": Rotation(other)}
    for inverse in (False, True):
        given = Rotation(np.where(np.isfinite(quaternions), quaternions, np.nan))
        given = ~given if inverse else given
        for lab_text, lab in labs.items():
            for crystal_text, crystal in crystals.items():
                turned = given * Rotation(np.array([lab], dtype=float))
                turned = turned if crystal is None else crystal * turned
                words = [word for word in ("inverted" if inverse else "", lab_text, crystal_text) if word]
                yield ", ".join(words), turned.data


def mistakes(quaternions: np.ndarray):
    """Yield, in words and as quaternions (n, 4), the truth and what is often taken for it."""
    from orix.quaternion import Rotation

    truth = Rotation(quaternions)
    yield "the truth", truth.data
    yield "turned by 180° about the beam", (truth * Rotation(np.array([[0.0, 0, 0, 1]]))).data
    yield "inverted (crystal to lab)", (~truth).data
    yield "with y down and z away from the source", (truth * Rotation(np.array([[0.0, 1, 0, 0]]))).data
