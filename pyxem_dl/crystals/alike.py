"""Which crystals cannot be told apart by their diffraction patterns, and why.

Much nearer to one another than the twins that are left out of a training (:mod:`pyxem_dl.crystals.twins`): the scale of
a scan is seldom known better than one per cent, and dynamical intensities say little of the atoms.  So crystals are
alike whose amplitudes |F|/V lie at the same |g|, but for a common stretch of one per cent, in lines that are as wide as
a lattice may be distorted without anybody seeing it (a cube that is stretched by 1 % along one axis is alike, by 2 % it
is not).  What all crystals have in common, more reflections further out, is taken off.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pyxem_dl.crystals.provenance import structure_hash
from pyxem_dl.crystals.reflections import reflections
from pyxem_dl.crystals.twins import Look
from pyxem_dl.messages import warn

#: As well (relative) as the scale of a scan is known
SCALE_TOLERANCE = 0.01
#: Cosine of two curves from which crystals are alike
ALIKE = 0.975
# Curves of amplitudes: smallest and largest |g| in Å⁻¹, step and standard deviation of their lines in ln |g|; and that
# of what is smooth
_RANGE, _STEP, _WIDTH, _SMOOTH = (0.08, 1.0), 0.001, 0.006, 0.05
# With so many crystals said in one warning the rest are counted
_NAMED = 5


class Alike(NamedTuple):
    """Two crystals that cannot be told apart; ``print`` says why.

    ``first`` and ``second``, their places in the list; their ``names``; ``difference`` of their cells in per cent, or
    None for one structure that is given twice; whether the ``lattices`` are of one kind.
    """

    first: int
    second: int
    names: tuple[str, str]
    difference: float | None
    lattices: bool

    def __str__(self) -> str:
        one, other = self.names
        if self.difference is None:
            return f"{one} and {other} are one structure."
        what = "their cells differ" if self.lattices else "the lengths at which they diffract differ"
        return (
            f"{one} and {other} cannot be told apart by such patterns: {what} by {self.difference:.2g} %, and a scan's "
            f"scale is seldom known better than {100 * SCALE_TOLERANCE:g} %."
        )


def alike_phases(phases: list) -> list[Alike]:
    """Find the pairs of crystals that cannot be told apart.

    Parameters
    ----------
    phases : list of orix.crystal_map.Phase
        From :func:`load_phases`.

    Returns
    -------
    list of Alike
    """
    if len(phases) < 2:
        return []
    hashes = [structure_hash(phase) for phase in phases]
    curves = np.array([_curve(phase) for phase in phases])
    found = []
    for i, phase in enumerate(phases):
        for j in range(i + 1, len(phases)):
            names = (phase.name, phases[j].name)
            if hashes[i] == hashes[j]:
                found.append(Alike(i, j, names, None, True))
                continue
            cosine, stretch = _nearest(curves[i], curves[j])
            if cosine >= ALIKE:
                cells = _cells_differ_by(phase, phases[j])
                lattices = cells is not None
                found.append(Alike(i, j, names, 100 * (cells if lattices else stretch), lattices))
    return found


def entries_of(phases: list) -> tuple[list[list[int]], list[Alike]]:
    """Put crystals that cannot be told apart into one entry each.

    Returns
    -------
    entries : list of list of int
        Places in the list; the first of each stands for the others.
    pairs : list of Alike
        Why; those of the first of an entry with each of the others.
    """
    known = {(pair.first, pair.second): pair for pair in alike_phases(phases)}
    entries, pairs = [], []
    for i in range(len(phases)):
        entry = next((e for e in entries if (e[0], i) in known), None)
        if entry is None:
            entries.append([i])
            continue
        pairs.append(known[entry[0], i])
        entry.append(i)
    return entries, pairs


def one_of_each(phases: list) -> list:
    """Keep one of the crystals that cannot be told apart, under the names of all, and warn of it.

    Parameters
    ----------
    phases : list of orix.crystal_map.Phase
        From :func:`load_phases`.

    Returns
    -------
    list of orix.crystal_map.Phase
        The first of each entry; where it stands for others, a copy that is named "one or other".

    Warns
    -----
    UserWarning
        Once, with the names and by how much the cells differ.
    """
    entries, pairs = entries_of(phases)
    if not pairs:
        return phases
    more = f" And {len(pairs) - _NAMED} more pairs." if len(pairs) > _NAMED else ""
    warn(" ".join(map(str, pairs[:_NAMED])) + more + " They are one entry of the map, with the structure of the first.")
    kept = []
    for first, *others in entries:
        phase = phases[first].deepcopy() if others else phases[first]
        phase.name = " or ".join(phases[i].name for i in (first, *others))
        kept.append(phase)
    return kept


def _curve(phase) -> np.ndarray:
    """Amplitudes over ln |g|, normalised; what is smooth is taken off."""
    low, high = np.log(_RANGE)
    n = int(np.ceil((high - low) / _STEP))
    try:
        found = reflections(phase, _RANGE[1])
    except ValueError:  # too many or none: said where they are needed
        return np.zeros(n)
    place = (np.log(np.linalg.norm(found.g.numpy().astype(float), axis=1)) - low) / _STEP
    power = (found.structure_factor.numpy().astype(float) / found.volume) ** 2
    inside = (place >= 0) & (place < n)
    lines = np.sqrt(np.bincount(place[inside].astype(int), weights=power[inside], minlength=n)[:n])
    curve = _smoothed(lines, _WIDTH) - _smoothed(lines, _SMOOTH)
    return curve / max(np.linalg.norm(curve), 1e-30)


def _smoothed(lines: np.ndarray, width: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter1d

    return gaussian_filter1d(lines, width / _STEP, mode="constant")


def _nearest(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Largest cosine of two curves over stretches up to the tolerance, and the stretch."""
    furthest = round(np.log1p(SCALE_TOLERANCE) / _STEP)
    shifted = np.lib.stride_tricks.sliding_window_view(np.pad(one, furthest), len(one))
    cosines = shifted @ other
    best = int(cosines.argmax())
    return float(cosines[best]), abs(best - furthest) * _STEP


def _cells_differ_by(one, other) -> float | None:
    """Largest relative difference of lengths of two cells of one kind; None for two kinds."""
    first, second = Look(one).crystal, Look(other).crystal
    if first.pearson[:2] != second.pearson[:2] or first.number != second.number:
        return None
    return float(np.abs(np.log(np.array(first.cell[:3]) / np.array(second.cell[:3]))).max())
