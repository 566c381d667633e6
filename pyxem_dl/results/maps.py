"""Crystal maps, whatever finds the orientations."""

from __future__ import annotations

import numpy as np

from pyxem_dl.results.map_files import check_map_path, save_map, write_map
from pyxem_dl.scans import Positions, Scan, make_signal

__all__ = [
    "NOT_INDEXED", "Scan", "check_map_path", "make_signal", "phase_list", "reliability", "save_map",
    "to_crystal_map", "write_map",
]  # fmt: skip

#: Colour of points without an orientation, in every picture
NOT_INDEXED = "darkgray"
# What probabilities of candidates add up to at most, rounded
_CERTAIN = 1.01
_COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink")


def to_crystal_map(
    scan: Scan | Positions,
    rotations: np.ndarray,
    phase_id: np.ndarray,
    scores: np.ndarray,
    phases: list,
    *,
    indexed: np.ndarray | None = None,
    is_in_data: np.ndarray | None = None,
    prop: dict | None = None,
):
    """Make orix' crystal map of orientations.

    Parameters
    ----------
    scan : Scan or Positions
        Which gives the coordinates; without `is_in_data` a scan, which gives the mask, too.
    rotations : array, shape (n, n_best, 4)
        Quaternions lab to crystal, the best first.
    phase_id : array of int, shape (n, n_best)
        Index into `phases`.
    scores : array, shape (n, n_best)
        Greater is better.
    phases : list of orix.crystal_map.Phase
        Those that are not found at all are missing in the map, as orix has it.
    indexed : array of bool, shape (n,), optional
        False where nothing was indexed: phase_id is -1 there.
    is_in_data : array of bool, shape (n,), optional
        By default what the navigation mask does not exclude.
    prop : dict of str to array, shape (n,) or (n, ...), optional
        Further properties.

    Returns
    -------
    orix.crystal_map.CrystalMap
        Rotations (n, n_best), or (n,) for one; ``prop["scores"]`` likewise, and ``prop["score"]``
        (n,) is the best one, which can be plotted.  With several phases
        and n_best > 1 ``prop["candidate_phase_id"]`` (n, n_best) says which phase each rotation
        belongs to.
    """
    from orix.crystal_map import CrystalMap
    from orix.quaternion import Rotation

    in_data = ~scan.navigation_mask if is_in_data is None else is_in_data
    indexed = in_data if indexed is None else indexed & in_data
    quaternions = np.asarray(rotations, dtype=float)
    norm = np.linalg.norm(quaternions, axis=-1, keepdims=True)
    quaternions = np.where(norm > 0, quaternions / np.where(norm > 0, norm, 1), [1.0, 0, 0, 0])
    scores = np.asarray(scores, dtype=float)
    # orix plots and writes one number for a point: the best score is kept as one, too
    prop = {"score": scores[:, 0].copy(), "scores": scores} | (prop or {})
    n_best = quaternions.shape[1]
    if n_best == 1:
        quaternions, prop["scores"] = quaternions[:, 0], prop["scores"][:, 0]
    elif len(phases) > 1 and "candidate_phase_id" not in prop:
        prop["candidate_phase_id"] = np.where(in_data[:, None], phase_id, -1)
    positions = getattr(scan, "positions", scan)
    xmap = CrystalMap(
        rotations=Rotation(quaternions),
        phase_id=np.where(indexed, phase_id[:, 0], -1),
        x=positions.x,
        y=positions.y,
        phase_list=phase_list(phases),
        prop=prop,
        scan_unit=positions.scan_unit,
        is_in_data=in_data.copy(),
    )
    as_predicted(xmap)
    if -1 in xmap.phases.ids:
        xmap.phases[-1].color = NOT_INDEXED  # for orix' own plots
    if not indexed.any():
        xmap.phases.add(phase_list(phases))  # a map without any phase makes no .ang file
    return xmap


def indexed_where_finite(xmap):
    """Return a map in which positions without a finite orientation are not indexed: the map itself, or a copy."""
    q = xmap._rotations.data.reshape(len(xmap._id), -1, 4)[:, 0]
    norm = np.linalg.norm(q, axis=1)
    known = np.isfinite(norm) & (norm > 0.5)
    if known[xmap._phase_id >= 0].all():
        return xmap
    from pyxem_dl.results.map_files import copied_map

    copied = copied_map(xmap)
    copied._phase_id[~known] = -1
    copied._rotations.data[~known] = [1.0, 0, 0, 0]
    if -1 not in copied.phases.ids:
        copied.phases.add_not_indexed()
    return copied


def renumbered(xmap, ids: list[int], without=()):
    """Give the phases of a map, numbered from 0, other ids, and take properties away; returns the map."""
    from orix.crystal_map import PhaseList

    if ids != list(range(len(ids))):
        new = np.array([*ids, -1])
        known = [(key, phase) for key, phase in xmap.phases if key >= 0]
        unknown = [(key, phase) for key, phase in xmap.phases if key < 0]
        xmap._phase_id = new[xmap._phase_id]
        xmap.phases = PhaseList(dict([*unknown, *((ids[key], phase) for key, phase in known)]))
    for name in without:
        xmap.prop.pop(name, None)
    return xmap


def as_predicted(xmap):
    """Let the properties of a map answer to the names that they had; returns the map."""
    from pyxem_dl.results.properties import MapProperties

    xmap._prop.__class__ = MapProperties
    return xmap


def property_of(xmap, name: str, default=None):
    """Property of the points in a map's data, or the default; orix' ``xmap.prop.get`` has those of all points."""
    return xmap.prop[name] if name in xmap.prop else default


def are_probabilities(scores: np.ndarray) -> bool:
    """Whether scores of candidates (n, k) may be their probabilities: of no position do they add up to more than 1."""
    sums = scores.sum(1)
    return bool((scores >= 0).all() and (sums <= _CERTAIN).all() and sums.size and sums.max() > 0)


def with_property(xmap, name: str, values: np.ndarray, missing):
    """Give a map a property, and return it.

    Parameters
    ----------
    xmap : orix.crystal_map.CrystalMap
        A copy of one's own: the property is there for all its parts.
    name : str
        Of the property.
    values : array, shape (n,) or (n, ...)
        For the points in the map's data.
    missing : number
        For all others, where orix itself would put 0.
    """
    whole = np.full((xmap.is_in_data.size, *values.shape[1:]), missing, dtype=values.dtype)
    whole[xmap.is_in_data] = values
    dict.__setitem__(xmap._prop, name, whole)  # the way around what is in the data
    return xmap


def phase_list(phases: list):
    """Make orix' list of phases, with ids from 0 and colours that differ."""
    from orix.crystal_map import PhaseList

    phases = [phase.deepcopy() for phase in phases]
    used = set()
    for phase in phases:
        if phase.color in used:
            phase.color = next((c for c in _COLORS if c not in used), phase.color)
        used.add(phase.color)
    return PhaseList(phases=phases, ids=list(range(len(phases))))


def reliability(scores: np.ndarray) -> np.ndarray:
    """How much better the best candidate is: 1 - second score / first score.

    Parameters
    ----------
    scores : array, shape (n, n_best)
        Of separated candidates, descending, n_best at least 2.

    Returns
    -------
    array, shape (n,)
        1: no rival; 0: a rival that is as good, or no score at all.
    """
    first, second = scores[:, 0].astype(float), scores[:, 1].astype(float)
    return np.where(first > 0, 1 - second / np.where(first > 0, first, 1), 0.0)
