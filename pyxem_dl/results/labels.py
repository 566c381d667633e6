"""Labels for patterns of measured scans: crystal maps, read, checked, chosen, and divided.

Template matching labels a scan, the confident labels are kept, a network is trained on them, and regions that it has
not seen tell how good it is.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from pyxem_dl import rotations as rot, symmetry
from pyxem_dl.checks import flag, number
from pyxem_dl.frames import other_crystal_quaternion, other_frame_quaternion
from pyxem_dl.messages import say, warn
from pyxem_dl.metrics import disorientation, explained_peaks, find_peaks
from pyxem_dl.results.label_files import read_map, without_unknown_rotations
from pyxem_dl.results.map_files import CRYSTAL_X, copied_map

if TYPE_CHECKING:
    from orix.crystal_map import CrystalMap

#: Fewer labels than this teach nothing.
MINIMUM_LABELS = 50
# Labels closer together than this (degrees) are one orientation.
_ONE_ORIENTATION = 1.0
# Lines of a file that may be its header
_HEADER = 200
# Labels that are compared at once
_AT_ONCE = 4096
# Zone axes this far apart (degrees) are counted apart when orientations are balanced.
_BALANCE_RESOLUTION = 5.0


@dataclass(frozen=True, eq=False)
class Labels:
    """Orientations of all positions of a scan, in data order.

    Parameters
    ----------
    rotations : array, shape (n, 4)
        Lab to crystal.
    phase_id : array of int, shape (n,)
        Index into `phases`; -1 where there is no crystal.
    scores, reliability : array, shape (n,)
        Greater is better; NaN where the map has none.
    known : array of bool, shape (n,)
        False where the map has no data.
    phases : list of orix.crystal_map.Phase
        Of the map.
    shape : tuple of int
        Of the scan.
    """

    rotations: np.ndarray
    phase_id: np.ndarray
    scores: np.ndarray
    reliability: np.ndarray
    known: np.ndarray
    phases: list
    shape: tuple[int, ...]

    @classmethod
    def from_map(cls, xmap) -> Labels:
        """Read a crystal map: the best orientation at each position.

        Parameters
        ----------
        xmap : orix.crystal_map.CrystalMap
            Of a scan in 0, 1 or 2 dimensions; ``prop["scores"]`` and ``prop["reliability"]`` where it has them (``ci``
            of .ang files counts as score, too).
        """
        if not hasattr(xmap, "phase_id") or not hasattr(xmap, "rotations"):
            raise TypeError(f"Labels are an orix CrystalMap or the path of a file with one, not {type(xmap).__name__}.")
        whole = copied_map(xmap, np.ones_like(xmap.is_in_data))
        without_unknown_rotations(whole, "The labels")
        rotations = whole.rotations.data.reshape(xmap.is_in_data.size, -1, 4)[:, 0]
        phases = {key: phase for key, phase in xmap.phases if key >= 0}
        index = np.full(max([*phases, 0]) + 2, -1)
        index[list(phases)] = np.arange(len(phases))

        def prop(*names):
            for name in names:
                if name in whole.prop:
                    return np.asarray(whole.prop[name], dtype=float).reshape(len(rotations), -1)[:, 0]
            return np.full(len(rotations), np.nan)

        return cls(
            rotations=rotations, phase_id=index[whole.phase_id], scores=prop("scores", "ci", "cc", "ind", "DP", "dp"),
            reliability=prop("reliability", "rel", "reliability_index"), known=xmap.is_in_data.copy(),
            phases=list(phases.values()), shape=tuple(whole.shape),
        )  # fmt: skip

    def completed(self, phases: list) -> Labels:
        """Take symmetries that the map does not tell from known phases.

        Parameters
        ----------
        phases : list of orix.crystal_map.Phase
            Of the model: those of the same names serve, or the only one for the only one.
        """
        named = {phase.name: phase for phase in phases}
        only = phases[0] if len(phases) == len(self.phases) == 1 else None

        def complete(phase):
            return phase if phase.point_group is not None else named.get(phase.name, only) or phase

        return replace(self, phases=[complete(phase) for phase in self.phases])


def read_labels(
    path: str | Path, *, inverse: bool = False, turn: float = 0.0, flipped: bool = False,
    crystal_x: Literal["a", "a*"] | None = None,
) -> CrystalMap:  # fmt: skip
    """Read a crystal map from a file, and convert it to the convention of pyxem_dl.

    Parameters
    ----------
    path : str or pathlib.Path
        An ``.ang``, ``.ctf`` or ``.h5`` file that orix can read.
    inverse : bool
        The file's rotations take crystal to lab, not lab to crystal.
    turn : float
        Angle in degrees from the x axis of the patterns (to the right) to that of the file's reference frame,
        counter-clockwise.
    flipped : bool
        The y axis of the file's frame points down in the pattern, and its z axis away from the source.
    crystal_x : {"a", "a*"}, optional
        Direction of the x axis of the crystals in the file: a, with z along c*, as in orix; or a*, with z along c. By
        default what the file says, if :func:`save_map` wrote it, and a for all others. These differ in trigonal and
        hexagonal crystals (by 30 degrees about c), and in monoclinic and triclinic ones.

    Returns
    -------
    orix.crystal_map.CrystalMap
        With rotations lab to crystal, x to the right of the pattern, y up.

    Notes
    -----
    Positions whose angles are not finite are not indexed, with a warning that says of how many; a file that is damaged
    is an error that names the line (see :mod:`pyxem_dl.results.label_files`).

    It prints what it assumed.  :func:`find_label_frame` tries all the switches on the patterns themselves.
    """
    xmap = read_map(path)
    path = Path(path)
    crystal_x = _crystal_x_of(path) if crystal_x is None else crystal_x
    if path.suffix.lower() in (".ang", ".ctf"):
        sense = "crystal to lab" if inverse else "lab to crystal"
        frame = f"turned by {turn:g}° from the pattern's x axis" + (", y down and z away" if flipped else "")
        say(
            f"{path.name}: Euler angles are taken for Bunge's, {sense}, in a frame {frame}, with x along {crystal_x} "
            "of the crystals. If the map is in another convention, say so: inverse=True, turn=90, flipped=True, "
            "crystal_x='a*'; pyxem_dl.results.find_label_frame finds out which. On the command line: "
            '--set "label_frame={turn: 90}".'
        )
    return in_lab_frame(xmap, inverse=inverse, turn=turn, flipped=flipped, crystal_x=crystal_x)


def _crystal_x_of(path: Path) -> str:
    """Find out what the x axis of crystals is along in a file, if we wrote it."""
    if path.suffix.lower() != ".ctf":
        return "a"
    with path.open(encoding="utf-8", errors="replace") as file:
        header = itertools.takewhile(lambda line: not line.startswith("Phase\t"), itertools.islice(file, _HEADER))
        return "a*" if any(line.rstrip().endswith(CRYSTAL_X.format("a*")) for line in header) else "a"


def in_lab_frame(xmap, *, inverse: bool = False, turn: float = 0.0, flipped: bool = False, crystal_x: str = "a"):
    """Bring the rotations of a crystal map into the lab frame; the arguments are those of :func:`read_labels`.

    Returns
    -------
    orix.crystal_map.CrystalMap
        A new map.
    """
    from orix.quaternion import Rotation

    flag("inverse", inverse), flag("flipped", flipped), number("turn", turn, -360, 360)
    moved = copied_map(xmap)
    rotations = ~moved._rotations if inverse else moved._rotations
    rotations = rotations * Rotation(other_frame_quaternion(turn, flipped))
    if crystal_x == "a*":
        shape = (-1,) + (1,) * (rotations.ndim - 1)
        for key, phase in xmap.phases:
            if key >= 0:
                here = (xmap._phase_id == key).reshape(shape)
                turned = Rotation(other_crystal_quaternion(phase.structure.lattice)) * rotations
                rotations = Rotation(np.where(here[..., None], turned.data, rotations.data))
    elif crystal_x != "a":
        raise ValueError(f"crystal_x must be 'a' or 'a*', not {crystal_x!r}.")
    moved._rotations = rotations
    return moved


def find_label_frame(signal, labels, phases, *, n_patterns: int = 60, reciprocal_radius: float | None = None, seed=0):
    """Find the convention of a label map: that in which its orientations explain the most peaks of the patterns.

    Parameters
    ----------
    signal : hyperspy.signals.Signal2D
        The labelled scan.
    labels : CrystalMap, str or pathlib.Path
        Its labels, or their file, in any convention.
    phases : orix.crystal_map.Phase, path of a CIF file, or a list of these
        With atoms, in the order of the map's phases.
    n_patterns : int
        So many are looked at.
    reciprocal_radius : float, optional
        To which spots are looked for, in Å⁻¹; by default the detector's.
    seed : int
        Of the choice of patterns.

    Returns
    -------
    list of tuple (float, dict)
        Shares of the peaks that are explained and the arguments of :func:`in_lab_frame`, the best first.  Turns by
        180 degrees hardly differ: patterns do not tell them apart.
    """
    from pyxem_dl.crystals import load_phases, reflections
    from pyxem_dl.frames import Calibration

    xmap = read_map(labels) if isinstance(labels, (str, Path)) else labels
    calibration = Calibration.from_signal(signal)
    radius = reciprocal_radius or calibration.reciprocal_radius
    known = dict(zip([key for key, _ in xmap.phases if key >= 0], load_phases(phases), strict=True))
    tables = {key: reflections(phase, radius) for key, phase in known.items()}
    indexed = xmap.id[xmap.phase_id >= 0]
    chosen = np.random.default_rng(seed).choice(indexed, min(n_patterns, len(indexed)), replace=False)
    some = copied_map(xmap, np.isin(np.arange(xmap.is_in_data.size), chosen))
    for key, phase in known.items():
        some.phases[key].structure = phase.structure  # the lattice is not in every file
    turns = [other_crystal_quaternion(phase.structure.lattice) for phase in known.values()]
    same = np.allclose(turns, (1, 0, 0, 0), atol=1e-3)
    patterns = read_patterns(signal.data, np.sort(chosen))
    peaks = find_peaks(patterns, calibration.center)
    results = []
    for inverse, flipped, turn, crystal_x in itertools.product(
        (False, True), (False, True), (0.0, 90.0, 180.0, 270.0), ("a",) if same else ("a", "a*")
    ):
        switch = {"inverse": inverse, "turn": turn, "flipped": flipped, "crystal_x": crystal_x}
        moved = in_lab_frame(some, **switch)
        found = explained_peaks(
            moved, signal, tables, calibration, reciprocal_radius=radius, max_excitation_error=0.02, peaks=peaks
        )
        results.append((found.summary()["share_indexed"], switch))
    return sorted(results, key=lambda each: -each[0])


def read_patterns(data, positions: np.ndarray) -> np.ndarray:
    """Patterns (m, rows, columns) at some positions of a scan.

    Parameters
    ----------
    data : numpy.ndarray or dask.array.Array, shape (..., rows, columns)
        In data order.
    positions : array of int, shape (m,)
        Flat ones, rising; of a lazy scan only the chunks that hold them are computed.
    """
    chosen = data.reshape(-1, *data.shape[-2:])[positions]
    return np.asarray(chosen.compute() if hasattr(chosen, "compute") else chosen)


def check_labels(labels: Labels, shape: tuple[int, ...], chosen: np.ndarray) -> None:
    """Raise an error that says what to do, where labels do not fit a scan or teach nothing.

    Parameters
    ----------
    labels : Labels
        Of a scan.
    shape : tuple of int
        Of the scan.
    chosen : array of bool, shape (n,)
        Those that are confident.
    """
    size = math.prod(shape)
    if len(labels.known) != size or (len(labels.shape) == len(shape) == 2 and labels.shape != tuple(shape)):
        raise ValueError(
            f"The labels have the shape {labels.shape}, but the scan has {tuple(shape)} (y, x). Give a map of the "
            "whole scan; mask positions without a label (`xmap[mask]`), or set their phase_id to -1."
        )
    if not labels.phases:
        raise ValueError("Nothing is indexed in the labels, and they have no phase.")
    for phase in labels.phases:
        if phase.point_group is None:
            raise ValueError(
                f"The phase {phase.name!r} of the labels has no point group: set it in the map, or give `phases`."
            )
    crystals = chosen & (labels.phase_id >= 0)
    if crystals.sum() < MINIMUM_LABELS:
        raise ValueError(_too_few(labels, int(crystals.sum())))
    q = torch.as_tensor(labels.rotations[crystals], dtype=torch.float32)
    phase = labels.phases[labels.phase_id[crystals][0]]
    operations = symmetry.proper_operations(phase)
    # all of a large scan at once, times all operations, would fill the memory
    furthest = max(float(symmetry.disorientation_angle(part, q[:1], operations).max()) for part in q.split(_AT_ONCE))
    if math.degrees(furthest) < _ONE_ORIENTATION and len(np.unique(labels.phase_id[crystals])) == 1:
        raise ValueError(
            f"All {len(q)} labels are the same orientation (within {_ONE_ORIENTATION:g}°): a network would learn only "
            "that. Label a larger scan, or several."
        )


def _too_few(labels: Labels, n: int) -> str:
    text = f"Only {n} labels are confident; at least {MINIMUM_LABELS} are needed, and thousands are better."
    for name in ("scores", "reliability"):
        values = getattr(labels, name)[labels.known & (labels.phase_id >= 0)]
        values = values[np.isfinite(values)]
        if values.size:
            low, middle, high = np.quantile(values, (0.1, 0.5, 0.9))
            text += f" The map's {name} are {low:.3g}, {middle:.3g} and {high:.3g} at 10, 50 and 90 %."
    return text + " Lower min_score or min_reliability, or label a larger scan."


def choose_labels(labels: Labels, min_score: float = 0.0, min_reliability: float = 0.0) -> np.ndarray:
    """Choose the confident labels.

    Parameters
    ----------
    labels : Labels
        Of a scan.
    min_score, min_reliability : float
        Smallest ones that are kept; 0 keeps all.

    Returns
    -------
    array of bool, shape (n,)
        Positions without a crystal (phase_id -1) are kept.

    Raises
    ------
    ValueError
        If a smallest value is given of what the map does not have.
    """
    kept = labels.known.copy()
    for name, least in (("scores", min_score), ("reliability", min_reliability)):
        if not least:
            continue
        values = getattr(labels, name)
        if not np.isfinite(values).any():
            raise ValueError(f"The labels have no {name}, so they cannot be selected by it.")
        kept &= (labels.phase_id < 0) | (values >= least)
    return kept


@dataclass(frozen=True, eq=False)
class SelectionCurve:
    """What choosing labels gains and costs.

    Parameters
    ----------
    threshold, kept, agreement : array, shape (n,)
        Smallest value of what is kept; share of the labels that is kept; share of those that agree with the truth.
    name : str
        Of what they are chosen by.
    tolerance : float
        Degrees up to which a label agrees.
    """

    threshold: np.ndarray
    kept: np.ndarray
    agreement: np.ndarray
    name: str
    tolerance: float


def selection_curve(
    xmap, truth, by: str = "scores", *, tolerance: float = 5.0, modulo_180: bool = True, n: int = 21
) -> SelectionCurve:
    """Compare label maps with a truth that was held out, for rising demands.

    Parameters
    ----------
    xmap : orix.crystal_map.CrystalMap
        The labels.
    truth : orix.crystal_map.CrystalMap
        Of the same positions.
    by : {"scores", "reliability"}
        Property that labels are chosen by.
    tolerance : float
        In degrees.
    modulo_180 : bool
        Take orientations that differ by 180 degrees about the beam for the same.
    n : int
        Number of thresholds.
    """
    labels = Labels.from_map(xmap)
    values = getattr(labels, by)[xmap.is_in_data]
    agree = disorientation(xmap, truth, modulo_180=modulo_180) <= tolerance
    there = np.isfinite(values)
    values, agree = values[there], agree[there]
    thresholds = np.quantile(values, np.linspace(0, 0.98, n))
    kept = np.array([np.mean(values >= t) for t in thresholds])
    agreement = np.array([np.mean(agree[values >= t]) for t in thresholds])
    return SelectionCurve(thresholds, kept, agreement, by, tolerance)


def balance_weights(labels: Labels, chosen: np.ndarray, exponent: float) -> np.ndarray:
    """How often each label is drawn, so that large grains do not drown small ones.

    Parameters
    ----------
    labels : Labels
        Of a scan.
    chosen : array of int, shape (m,)
        Positions.
    exponent : float
        0 draws all alike; 1 draws all zone axes alike.

    Returns
    -------
    array, shape (m,)
        In proportion to the inverse number of labels with the same zone axis (5 degrees) to this power.
    """
    bins = np.full(len(chosen), -1)
    start = 0
    for i, phase in enumerate(labels.phases):
        here = np.flatnonzero(labels.phase_id[chosen] == i)
        nodes = rot.zone_axes(symmetry.reduced_grid(phase, _BALANCE_RESOLUTION))
        operations = symmetry.proper_operations(phase)
        for part in np.array_split(here, max(1, len(here) // _AT_ONCE)):
            q = torch.as_tensor(labels.rotations[chosen[part]], dtype=torch.float32)
            axes = rot.zone_axes(rot.multiply(operations, q[:, None]))
            bins[part] = start + (axes @ nodes.T).amax(1).argmax(1).numpy()
        start += len(nodes)
    if not len(chosen):
        return np.zeros(0)
    _, inverse, counts = np.unique(bins, return_inverse=True, return_counts=True)
    weights = counts[inverse].astype(float) ** -exponent
    return weights / weights.sum()


def hold_out_region(shape: tuple[int, ...], usable: np.ndarray, share: float, seed: int = 0):
    """Keep whole regions of a scan for validation: neighbours are near copies of each other.

    Parameters
    ----------
    shape : tuple of int
        Of the scan.
    usable : array of bool, shape (n,)
        Positions that count.
    share : float
        Of them, to be held out, about.
    seed : int
        Of the choice of regions.

    Returns
    -------
    held_out, border : array of bool, shape (n,)
        Regions for validation, with all their positions; and those beside them, which are not to be trained on either.
    """
    from scipy.ndimage import binary_dilation

    shape = tuple(shape) if shape else (1,)
    side = max(3, round(min(s for s in shape if s > 1) / 5)) if math.prod(shape) > 1 else 1
    blocks = [np.arange(s) // side for s in shape]
    block = blocks[0] if len(shape) == 1 else blocks[0][:, None] * (blocks[1][-1] + 1) + blocks[1][None]
    block, held_out = block.ravel(), np.zeros(math.prod(shape), bool)
    for each in np.random.default_rng(seed).permutation(np.unique(block)):
        if held_out[usable].mean() >= share:
            break
        held_out |= block == each
    grown = binary_dilation(held_out.reshape(shape), np.ones((3,) * len(shape))).ravel()
    if not (usable & ~grown).any() or not (usable & held_out).any():
        warn("The scan is too small to hold out a region: single positions are held out instead.")
        held_out = np.random.default_rng(seed).random(len(usable)) < share
        return held_out, np.zeros_like(held_out)
    return held_out, grown & ~held_out
