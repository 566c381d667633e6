"""How good are orientations of a scan: against a map that is known to be right, or by the peaks that they explain."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyxem_dl.crystals import load_phases, reflections
from pyxem_dl.files import check_target, replacing
from pyxem_dl.messages import warn
from pyxem_dl.metrics import Accuracy, disorientation, explained_peaks, find_peaks
from pyxem_dl.models import OrientationEnsemble, OrientationModel, load_model
from pyxem_dl.orientation import predict_orientation
from pyxem_dl.results.labels import Labels, read_labels
from pyxem_dl.results.map_files import copied_map
from pyxem_dl.results.stored import open_result
from pyxem_dl.scans import Collected, Computing, Field, Rows, Scan, Step, stream
from pyxem_dl.template_matching import match_templates

if TYPE_CHECKING:
    from orix.crystal_map import CrystalMap

    from pyxem_dl.annotations import Center, Map, Maps, Patterns, Phases

# Peaks are looked for in so many patterns, spread over the scan: more hardly change the shares
_MOST_PATTERNS = 2000
# Reflections so far from the Ewald sphere (Å⁻¹) are seen in thin crystals; as template matching has it
_EXCITATION_ERROR = 0.08
# Peaks up to so far from the beam are explained by a spot so near: scales of real scans are off by a few percent (Å⁻¹)
_FARTHEST, _TOLERANCE = 1.5, 0.05
# Standard deviation (px) of the spots that are looked for: with it the truth explains most peaks of multislice patterns
# with disks of 2.5 px, and our network most of those of the MgO scan
_SPOT_RADIUS = 2.0
_SUFFIXES = (".json", ".md")


@dataclass(frozen=True)
class Evaluation:
    """Numbers of each method; ``print`` shows them as a table.

    Parameters
    ----------
    rows : dict of str to dict
        By method.  Compared with a truth: ``n`` positions; under ``strict`` and ``modulo_180`` (orientations that
        differ by 180 degrees about the beam count as the same) the shares ``within_5`` and ``within_2`` (degrees) and
        the ``median`` (degrees, of what is indexed); the shares ``not_indexed`` and ``wrong_phase``.  Without a truth:
        ``n`` positions, the share that is ``indexed``, ``peaks`` that were detected (in 2,000 patterns at
        most, spread over the scan), and the shares of them that are
        ``explained`` and that are explained ``by_chance``, in all patterns and ``where_indexed``.  Each measured share
        has a ``..._deviation``, its standard deviation.  ``patterns_per_second`` counts the whole call; maps that were
        there have none.
    with_truth : bool
        Whether they are compared with a truth.
    """

    rows: dict[str, dict]
    with_truth: bool

    def __str__(self) -> str:
        columns = dict(_TRUTH_COLUMNS if self.with_truth else _PEAK_COLUMNS)
        if not any(row.get("wrong_phase") for row in self.rows.values()):
            columns.pop("wrong phase", None)
        cells = [["method", *columns], *([name, *(cell(row) for cell in columns.values())] for name, row in
                                         self.rows.items())]  # fmt: skip
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [f"| {' | '.join(c.ljust(w) for c, w in zip(row, widths, strict=True))} |" for row in cells]
        lines.insert(1, f"|{'|'.join('-' * (w + 2) for w in widths)}|")
        return "\n".join(lines) + f"\n\n{_TRUTH_NOTES if self.with_truth else _PEAK_NOTES}"

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the numbers (``.json``) or the table (``.md``).

        Parameters
        ----------
        path : str or pathlib.Path
            Of the file.
        overwrite : bool
            Replace one that is there.
        """
        from pyxem_dl import __version__

        path = check_evaluation_path(path, overwrite=overwrite)
        content = {"package_version": __version__, "with_truth": self.with_truth, "rows": self.rows}
        text = json.dumps(content, indent=1, ensure_ascii=False) if path.suffix.lower() == ".json" else str(self)
        with replacing(path) as written:
            written.write_text(text + "\n", encoding="utf-8")
        return path


def check_evaluation_path(path, *, overwrite: bool = False) -> Path:
    """Path that :meth:`Evaluation.save` can write to, or an error: better before than after the work."""
    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise ValueError(f"An evaluation can be saved as {' or '.join(_SUFFIXES)}, not as {path.name!r}.")
    return check_target(path, overwrite=overwrite)


def evaluate(
    signal: Patterns | CrystalMap,
    models: str | Path | OrientationModel | OrientationEnsemble | Sequence = (),
    *,
    phases: Phases | None = None,
    maps: Maps | None = None,
    truth: Map | None = None,
    navigation_mask: np.ndarray | None = None,
    signal_mask: np.ndarray | None = None,
    center: Center | None = None,
    beam_energy: float | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    show_progressbar: bool | None = None,
) -> Evaluation:
    """Measure how good orientations of a scan are.

    Parameters
    ----------
    signal : pyxem.signals.Diffraction2D, or orix.crystal_map.CrystalMap
        The scan, calibrated, with 1 or 2 navigation dimensions; or, to be compared with a truth, only a crystal map.
    models : str, pathlib.Path, OrientationModel or OrientationEnsemble, or a list of these
        Each of them is measured (an ensemble as one: ``load_model([...])``); names, folders and addresses are read by
        :func:`pyxem_dl.load_model`.
    phases : orix.crystal_map.Phase, path of a CIF file, or a list of these, optional
        Measure template matching with these crystals, too.
    maps : CrystalMap, path of a file with one, or dict of str to these, optional
        Results that are there already: of any program ``.h5``, ``.ang`` or ``.ctf`` files, and ``.zarr`` stores.
    truth : CrystalMap or path of a file with one, optional
        Orientations that are known, of the whole scan.  What is not indexed in it, and what is not in its data, is not
        compared.  Files are read as :func:`pyxem_dl.read_labels` reads them; use that for maps in another convention.
        Without it peaks of the patterns are detected, and those counted that the orientations explain.
    navigation_mask, signal_mask, center, beam_energy, batch_size, device, show_progressbar
        As in :func:`pyxem_dl.predict_orientation`.

    Returns
    -------
    Evaluation
        All methods are compared at the same positions: those in the data of every map.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        If there is nothing to measure; for maps of another shape, of other phases, or without a common position.

    Warns
    -----
    UserWarning
        If a method does not know a phase of the truth: its positions count as wrong.

    Notes
    -----
    The standard deviation of a counted share p is that of a binomial distribution, √(p(1 − p)/n).  Peaks of one pattern
    are explained together or not at all: for them it is that of a ratio of sums over patterns.  Whether peaks are
    explained says little of the 180 degree ambiguity.  A peak, up to 1.5 Å⁻¹ from the beam, is explained by a
    reflection within 0.05 Å⁻¹ of it that lies no farther than 0.08 Å⁻¹ from the Ewald sphere; large disks, whose
    structure makes peaks of its own, are explained less.
    """
    reading = {
        "navigation_mask": navigation_mask, "signal_mask": signal_mask, "center": center, "beam_energy": beam_energy,
    }  # fmt: skip
    maps = _named_maps(maps)
    if hasattr(signal, "phase_id"):
        signal, maps = None, {"map": signal} | maps
    models = models if isinstance(models, (list, tuple)) else [models]
    known = [_orientation_model(model) for model in models]
    phases = None if phases is None else load_phases(phases)
    if not (known or phases or maps):
        raise ValueError("There is nothing to evaluate: give models, phases (for template matching) or maps.")
    if signal is None and (known or phases or truth is None):
        raise ValueError("Without a scan only maps can be compared, with a truth: evaluate(xmap, truth=truth).")
    labels = None if truth is None else Labels.from_map(_read_map(truth))
    settings = {"batch_size": batch_size, "device": device, "show_progressbar": show_progressbar}
    scan = None if signal is None else Scan.from_signal(signal, **reading)
    methods = _Methods(labels, scan)
    for name, xmap in maps.items():
        methods.add(name, lambda xmap=xmap: _read_map(xmap))
    for model in known:
        methods.add(model.name, lambda model=model: predict_orientation(signal, model, **reading, **settings),
                    model.phases)  # fmt: skip
    if phases:
        methods.add("templates", lambda: match_templates(signal, phases, **reading, **settings), phases)
    rows = methods.against_truth() if labels else methods.explained(signal, device, show_progressbar)
    return Evaluation(rows, with_truth=labels is not None)


def _named_maps(maps) -> dict:
    """Give maps, or their files, the names in the table."""
    if maps is None:
        return {}
    if isinstance(maps, dict):
        return dict(maps)
    return {Path(maps).name if isinstance(maps, (str, Path)) else "map": maps}


def _read_map(source):
    """Crystal map of a file, or one that is there."""
    if isinstance(source, (str, Path)):
        source = open_result(source) if Path(source).is_dir() else read_labels(source)
    if not hasattr(source, "phase_id"):
        raise TypeError(f"A map must be an orix CrystalMap or the path of a file, not {type(source).__name__}.")
    return source


def _orientation_model(model) -> OrientationModel | OrientationEnsemble:
    model = load_model(model)
    if not isinstance(model, (OrientationModel, OrientationEnsemble)):
        raise TypeError(f"{model!r} does not predict orientations: give an orientation model.")
    return model


class _Methods:
    """Maps of several methods, with the time that they took.

    Parameters
    ----------
    truth : Labels or None
        Known orientations.
    scan : Scan or None
        Which all maps are of.
    """

    def __init__(self, truth: Labels | None, scan: Scan | None) -> None:
        self.truth, self.scan = truth, scan
        self.maps, self.same, self.seconds, self.phases = {}, {}, {}, []
        if truth and scan:
            _check_shape("The truth", truth.shape, scan.shape, "the scan")

    def add(self, name: str, method: Callable, phases: list | None = None) -> None:
        """Run a method, or read its map; `phases` are those that it can tell, where these are known beforehand."""
        label, i = name, 1
        while label in self.maps:
            label, i = f"{name} ({i + 1})", i + 1
        if self.truth and phases is not None:  # before the work
            self.same[label] = _same_phases(label, phases, self.truth)
        start = time.perf_counter()
        xmap = method()
        if phases is not None:
            self.seconds[label] = time.perf_counter() - start
        found = Labels.from_map(xmap)
        if self.truth and phases is None:
            self.same[label] = _same_phases(label, found.phases, self.truth)
        other, what = (self.scan, "the scan") if self.scan else (self.truth, "the truth")
        _check_shape(f"{label!r}", found.shape, other.shape, what)
        self.maps[label] = xmap
        self.phases += found.phases if phases is None else phases

    def common(self) -> np.ndarray:
        """Positions (n,) that are in the data of all maps and of the truth, and not masked."""
        here = np.logical_and.reduce([xmap.is_in_data for xmap in self.maps.values()])
        if self.scan:
            here &= ~self.scan.navigation_mask
        if self.truth:
            here &= self.truth.known & (self.truth.phase_id >= 0)
        if not here.any():
            what = ", with an orientation in the truth" if self.truth else ""
            raise ValueError(f"No position is in the data of all maps{what}, and not masked: nothing can be compared.")
        return here

    def against_truth(self) -> dict[str, dict]:
        """Accuracy of each method."""
        here = self.common()
        rows = {}
        for name, xmap in self.maps.items():
            found = Labels.from_map(xmap)
            self._warn_of_unknown_phases(name, here)
            row = {"n": int(here.sum())}
            for kind in ("strict", "modulo_180"):
                angles = _disorientations(found, self.same[name], self.truth, here, kind == "modulo_180")
                each = Accuracy.from_disorientations(angles)
                row[kind] = _share("within_5", each.within_5, each.n) | _share("within_2", each.within_2, each.n)
                row[kind]["median"] = None if math.isnan(each.median) else each.median
            empty = float(np.mean(found.phase_id[here] < 0))
            row |= _share("not_indexed", empty, row["n"])
            row |= _share("wrong_phase", max(0.0, float(np.mean(np.isnan(angles))) - empty), row["n"])
            rows[name] = row | self._speed(name)
        return rows

    def _warn_of_unknown_phases(self, name: str, here) -> None:
        for i, phase in enumerate(self.truth.phases):
            n = int((here & (self.truth.phase_id == i)).sum())
            if n and i not in self.same[name]:
                warn(f"{name!r} does not know the phase {phase.name!r} of the truth: its {n} positions count as wrong.")

    def explained(self, signal, device, show_progressbar) -> dict[str, dict]:
        """Peaks of a sample of the patterns that each method explains."""
        here = np.flatnonzero(self.common())
        n = len(here)
        chosen = here[np.unique(np.linspace(0, n - 1, min(n, _MOST_PATTERNS)).astype(int))]
        peaks, centers = _find_peaks(self.scan, chosen, device, show_progressbar)
        mask = np.isin(np.arange(self.scan.size), chosen)
        structures = {phase.name: phase for phase in self.phases if len(phase.structure)}
        radius = min(_FARTHEST, self.scan.calibration.reciprocal_radius)
        rows = {}
        for name, xmap in self.maps.items():
            some = copied_map(xmap)
            some.is_in_data = mask
            tables = {
                key: reflections(structures.get(phase.name, phase), radius) for key, phase in xmap.phases if key >= 0
            }
            found = explained_peaks(
                some, signal, tables, self.scan.calibration, peaks=peaks, centers=centers,
                max_excitation_error=_EXCITATION_ERROR, tolerance=_TOLERANCE, reciprocal_radius=radius,
            )  # fmt: skip
            rows[name] = _explained(found, xmap.phase_id[np.isin(xmap.id, here)] >= 0) | self._speed(name)
        return rows

    def _speed(self, name: str) -> dict:
        if name not in self.seconds:
            return {}
        return {"patterns_per_second": round(self.scan.n_patterns / max(self.seconds[name], 1e-9), 1)}


def _check_shape(what: str, shape, other, of: str) -> None:
    """Make sure that a map is of the whole scan; a scan of one row may have lost that dimension in a file."""
    if tuple(n for n in shape if n > 1) != tuple(n for n in other if n > 1):
        raise ValueError(
            f"{what} has the shape {tuple(shape)}, but {of} has {tuple(other)} (y, x). Give a map of the whole scan; "
            "positions that are not known may be masked in it, or not indexed."
        )


def _disorientations(found: Labels, same: dict, truth: Labels, here, modulo_180: bool) -> np.ndarray:
    """Angles in degrees at the chosen positions; NaN where a method says nothing, or another phase."""
    angles = np.full(len(here), np.nan)
    names = [phase.name for phase in found.phases]
    for i, (name, phase) in same.items():
        both = here & (truth.phase_id == i) & (found.phase_id == (names.index(name) if name in names else -2))
        if both.any():
            angles[both] = disorientation(found.rotations[both], truth.rotations[both], phase, modulo_180=modulo_180)
    return angles[here]


def _same_phases(method: str, phases: list, truth: Labels) -> dict:
    """Names that a method has for phases of the truth, by their index there, and the phase with its symmetry.

    The same are those of the same name; or, if both have but one, these, whatever their names.
    """
    only = len(phases) == len(truth.phases) == 1
    same = {
        i: (other.name, _with_symmetry(method, phase, other))
        for i, phase in enumerate(truth.phases) for other in phases if only or phase.name == other.name
    }  # fmt: skip
    if not same:
        ours, theirs = (", ".join(repr(phase.name) for phase in each) for each in (truth.phases, phases))
        raise ValueError(
            f"The truth has the phases {ours or 'none'}, but {method!r} has {theirs or 'none'}: they have none in "
            "common. Give the same phase the same name (`xmap.phases[0].name = ...`)."
        )
    return same


def _with_symmetry(method: str, phase, other):
    """Whichever of two phases tells its symmetry; an error if both do and differ."""
    groups = [p.point_group.laue.name for p in (phase, other) if p.point_group is not None]
    if not groups:
        raise ValueError(f"Neither the truth nor {method!r} tells the point group of {phase.name!r}: set it in a map.")
    if len(set(groups)) > 1:
        raise ValueError(
            f"The phase {phase.name!r} of the truth has the Laue group {groups[0]}, but {other.name!r} of {method!r} "
            f"has {groups[1]}: these are two crystals, and their orientations cannot be compared."
        )
    return phase if phase.point_group is not None else other


class _PeakStep(Step):
    """Finds the peaks of each pattern, and its direct beam."""

    fields = {"peaks": Field((2,), "float64", ragged=True), "center": Field((2,), "float64")}

    def __init__(self, scan: Scan) -> None:
        self.scan = scan.without_data()
        self.mask = None if scan.signal_mask is None else scan.signal_mask.numpy()

    def __call__(self, patterns, indices):
        beams = self.scan.batch_centers(patterns, indices)
        centers = np.tile(np.asarray(self.scan.calibration.center, dtype=float), (len(indices), 1))
        centers = centers if beams is None else beams.cpu().numpy().astype(float)
        peaks = find_peaks(patterns.cpu().numpy(), centers, signal_mask=self.mask, spot_radius=_SPOT_RADIUS)
        return {"peaks": Rows.of([np.asarray(each, dtype=float) for each in peaks]), "center": centers}


def _find_peaks(scan: Scan, chosen, device, show_progressbar) -> tuple[list, np.ndarray]:
    """Peaks of some patterns, and the direct beams (n, 2) of all (where these were looked for)."""
    found = Collected(scan.size)
    wanted = np.isin(np.arange(scan.size), chosen)
    computing = Computing(device, show_progressbar=show_progressbar)
    for part in stream(scan.data, _PeakStep(scan), computing, wanted=wanted):
        found.add(part)
    centers = np.tile(np.asarray(scan.calibration.center, dtype=float), (scan.size, 1))
    centers[wanted] = found.arrays["center"][wanted]
    return list(found.tables("peaks", (2,))[chosen]), centers


def _explained(found, indexed) -> dict:
    """Shares of detected peaks that are explained; `indexed` (n,) says where there is an orientation at all."""
    row = {"n": len(indexed)} | _share("indexed", float(indexed.mean()), len(indexed))
    row["peaks"] = int(found.n_peaks.sum())
    for where, here in (("", np.ones_like(found.indexed)), ("_where_indexed", found.indexed)):
        n, explained, chance = (x[here].astype(float) for x in (found.n_peaks, found.n_explained, found.n_chance))
        total = n.sum()
        if not total:
            row |= {f"explained{where}": None, f"explained{where}_deviation": None, f"by_chance{where}": None}
            continue
        share = float(explained.sum() / total)
        deviation = math.sqrt(((explained - share * n) ** 2).sum()) / float(total)
        row |= {f"explained{where}": share, f"explained{where}_deviation": deviation,
                f"by_chance{where}": float(chance.sum() / total)}  # fmt: skip
    return row


def _share(name: str, share: float, n: int) -> dict[str, float]:
    """Name a counted share, and its standard deviation."""
    return {name: share, f"{name}_deviation": math.sqrt(max(0.0, share * (1 - share)) / n)}


# ---------------------------------------------------------------- the table
def _percent(row: dict, name: str) -> str:
    if row[name] is None:
        return "–"
    deviation = row.get(f"{name}_deviation")
    return f"{100 * row[name]:.1f}" + ("" if deviation is None else f" ± {100 * deviation:.1f}") + " %"


def _accuracy(kind: str) -> dict[str, Callable]:
    title = {"strict": "strict", "modulo_180": "modulo 180°"}[kind]
    return {
        f"within 5°, {title}": lambda row: _percent(row[kind], "within_5"),
        f"within 2°, {title}": lambda row: _percent(row[kind], "within_2"),
        f"median, {title}": lambda row: "–" if row[kind]["median"] is None else f"{row[kind]['median']:.2f}°",
    }


def _number(name: str) -> Callable:
    return lambda row: f"{row[name]:.5g}" if name in row else ""


_TRUTH_COLUMNS = {"positions": _number("n")} | _accuracy("strict") | _accuracy("modulo_180") | {
    "not indexed": lambda row: _percent(row, "not_indexed"),
    "wrong phase": lambda row: _percent(row, "wrong_phase"),
    "patterns/s": _number("patterns_per_second"),
}  # fmt: skip
_PEAK_COLUMNS = {
    "positions": _number("n"),
    "indexed": lambda row: _percent(row, "indexed"),
    "peaks": _number("peaks"),
    "explained": lambda row: _percent(row, "explained"),
    "by chance": lambda row: _percent(row, "by_chance"),
    "explained where indexed": lambda row: _percent(row, "explained_where_indexed"),
    "by chance there": lambda row: _percent(row, "by_chance_where_indexed"),
    "patterns/s": _number("patterns_per_second"),
}
_TRUTH_NOTES = """±: one standard deviation of a counted share. What is not indexed, or of another phase, counts as
wrong; medians are of the rest. Modulo 180°: an orientation and the one turned by 180° about the beam count as the same,
because zero-order spots hardly tell them apart. patterns/s: the whole call."""
_PEAK_NOTES = """Explained: detected peaks that lie on a spot of the orientation found there; by chance: the same with
the peaks turned about the beam. What is not indexed explains nothing. ±: one standard deviation. patterns/s: the whole
call."""
