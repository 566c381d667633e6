"""Orientations that the neighbours settle: half-turn twins, doubtful and wrong positions of a map."""

from __future__ import annotations

import math
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from pyxem_dl.checks import number
from pyxem_dl.messages import say, warn
from pyxem_dl.microstructure.beliefs import angles_between, beliefs, half_turn
from pyxem_dl.microstructure.evidence import MOST, MapView, best_of, disorientation_from
from pyxem_dl.microstructure.fields import select_fields
from pyxem_dl.microstructure.proposals import propose, without_doubles
from pyxem_dl.microstructure.scoring import Comparison
from pyxem_dl.models import OrientationModel
from pyxem_dl.plot.checks import check_map
from pyxem_dl.records import made_by, with_record
from pyxem_dl.results.map_files import copied_map, map_of_scan
from pyxem_dl.results.maps import as_predicted, indexed_where_finite, with_property
from pyxem_dl.scans import Computing, Reading

if TYPE_CHECKING:
    from pathlib import Path

    from orix.crystal_map import CrystalMap

    from pyxem_dl.annotations import Center, Patterns, Phases

# So many neighbours have to agree with another candidate, at least; of two, both
_SUPPORT = 3
# Orientations with a lower probability are doubtful
_DOUBTFUL = 0.5
# Share of the neighbours that are one grain, around a position that stands alone
_ONE_GRAIN = 0.75
# With patterns: how much their logits count, and belonging to a field that holds; candidates that are nearer than this
# share of the threshold are one
_TRUST, _HOLDS, _NEARLY = 0.5, 3.0, 0.8
# Logit by which a pattern has to prefer its own orientation so that it stays whatever the neighbours say: of one that
# stands alone, and of one with a neighbour of its kind; what is below the last is not put in
_CLEAR, _CLEAR_PAIR, _UNLIKELY = 3.0, 1.5, -2.0
# What was not indexed needs a higher logit, and so many neighbours that agree
_DIM, _GOES_ON = -2.0, 4
# By how many deviations of its noise the light of a position is above the background, and that of its neighbours; how
# much likelier (logarithm) a faint position is than a hole where so many of the eight neighbours are one crystal
_LIT, _LIT_TOGETHER, _NO_HOLE, _MIDST = 2.5, 4.0, 3.0, 7


class Change(IntEnum):
    """What was changed at a position: the values of ``xmap.prop["settled"]``."""

    none = 0
    twin = 1
    candidate = 2
    neighbour = 3
    voided = 4


class Settled(NamedTuple):
    """What a map is changed to.

    ``rotations (n, 4)``, ``phase (n,)`` (-1: none), ``change (n,)``, ``belief (n,)``, and ``own (n,)``, which of the
    position's own candidates it is, -1 for none of them.
    """

    rotations: torch.Tensor
    phase: torch.Tensor
    change: torch.Tensor
    belief: torch.Tensor
    own: torch.Tensor


def settle(
    xmap: CrystalMap,
    signal: Patterns | None = None,
    *,
    threshold: float = 5.0,
    phases: Phases | None = None,
    model: str | Path | OrientationModel | None = None,
    signal_mask: np.ndarray | None = None,
    center: Center | None = None,
    beam_energy: float | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    show_progressbar: bool | None = None,
) -> CrystalMap:
    """Settle doubtful positions of a map by their neighbours: half-turn twins, further candidates, and outliers.

    Without patterns nothing is put in that is not a position's own candidate or its half turn about the beam, and only
    half turns and positions that stand alone are changed: no boundary moves, and a grain of two or more positions stays
    unless it is its surroundings turned by 180° about the beam.  With the `signal`, patterns are added to those of
    neighbours that look alike, and what is found in these sums, and what neighbours propose, is compared with them:
    whole fields of wrong orientations can be put right.

    Parameters
    ----------
    xmap : orix.crystal_map.CrystalMap
        Of a scan in one or two dimensions. Several candidates (``n_best=4``) and scores that are probabilities help.
    signal : pyxem.signals.Diffraction2D, optional
        Patterns of the map, in memory or lazy, calibrated.
    threshold : float
        Degrees from which two orientations are not the same.
    phases : orix.crystal_map.Phase, path of a CIF file, or a list of these, optional
        With a signal: the crystals with their atoms, in the order of the map's phases, where the map has none.
    model : str, pathlib.Path or OrientationModel, optional
        With a signal: what compares, a model that takes any crystal; by default "any-crystal".
    signal_mask, center, beam_energy, batch_size, device, show_progressbar
        With a signal: as in :func:`pyxem_dl.predict_orientation`.

    Returns
    -------
    orix.crystal_map.CrystalMap
        A new map of the same positions and candidates; what was chosen is the first.  Properties that are new:

        * ``settled`` (n,): 0 as it was, 1 turned by 180° about the beam, 2 a further candidate of its own, 3 a
          neighbour's candidate, 4 voided (phase -1).
        * ``belief`` (n,): probability of the orientation, with what the neighbours say.

        Of a changed position ``reliability`` is 0, and so is the score of an orientation that was no candidate.

    Raises
    ------
    TypeError, ValueError
        For what is no crystal map; a signal of another scan; phases without atoms; a model that cannot compare.

    Warns
    -----
    UserWarning
        If there is nothing to settle.

    Notes
    -----
    How probable the candidates of a position are by themselves is taken from scores that are probabilities; where there
    are none, the share of half turns is found in the map. Neighbours that agree count by belief propagation. See
    :mod:`pyxem_dl.microstructure.beliefs`, and with a signal :mod:`pyxem_dl.microstructure.averaging` and
    :mod:`pyxem_dl.microstructure.fields`.

    Examples
    --------
    >>> xmap = s.predict_orientation(phases="my.cif", n_best=4)  # doctest: +SKIP
    >>> xmap = pyxem_dl.settle(xmap, s)  # doctest: +SKIP
    """
    threshold = number("threshold", threshold, 0, 90, above=True)
    check_map(xmap)
    if hasattr(signal, "axes_manager"):
        xmap = map_of_scan(xmap, signal.axes_manager.navigation_shape[::-1])
    xmap = indexed_where_finite(xmap)
    enough = int((xmap.phase_id >= 0).sum()) >= 2
    view, compare = MapView(xmap, math.radians(threshold)) if enough else None, None
    reading = Reading(None, signal_mask, center, beam_energy)
    if signal is not None and enough:
        compare = Comparison(signal, xmap, phases, model, reading, Computing(device, batch_size, show_progressbar))
    if not enough:
        warn("There is nothing to settle: the map has fewer than two indexed positions.")
    settled = None if not enough else settle_by_map(view) if compare is None else settle_by_patterns(view, compare)
    result = _with_changes(xmap, view, settled)
    _say(result)
    about = {} if compare is None else {"signal": signal, "model": compare.model, **reading.asked()}
    return with_record(result, made_by("settle", made_from=xmap, threshold=threshold, **about))


def settle_by_map(view: MapView) -> Settled:
    """Settle with what the map says; nothing is put in that is not a position's own candidate, or its half turn."""
    candidates = view.candidates()
    believed = beliefs(candidates, view.near, view.operations, view.threshold)
    chosen = believed[:, :-1].argmax(1)
    now, phase = best_of(candidates.rotations, chosen), candidates.phase.gather(1, chosen[:, None])[:, 0]
    first, of_first = view.rotations[:, 0], view.phase[:, 0]
    is_turn = (disorientation_from(half_turn(first), now, of_first, view.operations) < view.threshold) & (
        phase == of_first
    )
    # a position with a neighbour of its kind is changed by no more than half a turn
    both = torch.stack([first, half_turn(first)], dim=1)
    alone = ~view.around(both, of_first[:, None].expand(-1, 2)).flatten(1).any(1)
    supported = view.around(now[:, None], phase[:, None])[:, 0].sum(1)
    known = _known(view)
    other = alone & ~is_turn & (chosen > 0) & (supported >= known.clamp_max(_SUPPORT)) & (known >= 2)
    change = torch.zeros(len(chosen), dtype=torch.long)
    change[is_turn & (chosen > 0)] = Change.twin
    change[other] = Change.candidate
    change[alone & (change == 0) & _is_wild(view, believed, known)] = Change.voided
    change[~view.indexed] = Change.none
    return _settled(view, candidates, believed, torch.where(change.bool(), chosen, 0), change)


def settle_by_patterns(view: MapView, compare: Comparison) -> Settled:
    """Settle with what the patterns say of the orientations that neighbours propose."""
    proposed = propose(view, view.with_candidates(*compare.predict(MOST)))
    rotations, logits = compare(proposed)
    dark = ~view.indexed
    if dark.any():  # what was not indexed has its neighbours' light: there has to be some of its own
        likeliest = logits.masked_fill(proposed.phase < 0, -math.inf).argmax(1)
        phase = proposed.phase.gather(1, likeliest[:, None])[:, 0]
        likely = best_of(rotations, likeliest)
        lit = _are_lit(view, compare.light(likely, torch.where(dark, phase, -1)), likely, phase)
        logits = torch.where((dark & ~lit)[:, None], logits.clamp_max(2 * _DIM), logits)
    candidates = without_doubles(
        proposed._replace(rotations=rotations, evidence=logits), view.operations, _NEARLY * view.threshold
    )
    holds = select_fields(candidates, view.near, view.operations, view.threshold)
    weighed = candidates._replace(evidence=_TRUST * candidates.evidence + _HOLDS * holds)
    believed = beliefs(weighed, view.near, view.operations, view.threshold)
    chosen = believed[:, :-1].argmax(1)
    now, phase = best_of(rotations, chosen), candidates.phase.gather(1, chosen[:, None])[:, 0]
    change = _changes(view, candidates, logits, chosen, now, phase, holds.gather(1, chosen[:, None])[:, 0])
    kept = _own_candidate(view, now, phase) == 0
    rotations = torch.where((change > 0)[:, None], now, view.rotations[:, 0])
    phase = torch.where(change == Change.voided, -1, torch.where(change > 0, phase, view.phase[:, 0]))
    belief = torch.where(kept | (change > 0), believed.gather(1, chosen[:, None])[:, 0], 0.0)
    return Settled(rotations, phase, change, belief, torch.where(change == 0, 0, -1))


def _are_lit(view: MapView, light: torch.Tensor, rotations: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
    """Tell which positions (n,) that were not indexed have light of their own, by its signal to noise (n,).

    Clearly; or more than half as much as is usual where the same crystal (likely rotations (n, 4), phases (n,)) is so
    faint that only several positions together tell it from nothing, and less in the midst of it, where holes are rare.
    """
    index = torch.from_numpy(view.near.eight)
    there = light[index.clamp_min(0)]
    same = view.around(rotations[:, None], phase[:, None], (rotations, phase))[:, 0] & (index >= 0)
    dark = same & there.isfinite()
    total, n = there.where(dark, torch.zeros(())).sum(1), dark.sum(1).clamp_min(1)
    usual = (total / n).clamp_min(1e-3)
    enough = usual / 2 - torch.where(same.sum(1) >= _MIDST, _NO_HOLE / usual, 0.0)
    return (light > _LIT) | ((total > _LIT_TOGETHER * n.sqrt()) & (light > enough))


def _changes(view: MapView, candidates, logits, chosen, now, phase, holds) -> torch.Tensor:
    """Decide what is changed (n,), where orientations `now` (n, 4) of phases (n,) were chosen among the candidates."""
    own, logit = _own_candidate(view, now, phase), logits.gather(1, chosen[:, None])[:, 0]
    indexed, around = view.indexed, _known(view)
    supported = view.around(now[:, None], phase[:, None], (now, phase))[:, 0].sum(1)
    # the pattern of a position that has an orientation may contradict its neighbours
    first = view.around(view.rotations[:, :1], view.phase[:, :1])[:, 0].any(1)
    clear = indexed & (logits[:, 0] - logit > torch.where(first, _CLEAR_PAIR, _CLEAR))
    changed = (own != 0) & (phase >= 0) & ~clear & (supported >= around.clamp(1, _SUPPORT))
    # what was not indexed is only filled where a field goes on, and its pattern says little against it
    changed &= torch.where(indexed, logit > _UNLIKELY, (logit > _DIM) & holds & (supported >= _GOES_ON))
    is_turn = disorientation_from(half_turn(view.rotations[:, 0]), now, phase, view.operations) < view.threshold
    is_turn &= phase == view.phase[:, 0]
    kind = torch.where(is_turn, Change.twin, torch.where(own > 0, Change.candidate, Change.neighbour))
    change = torch.where(changed, kind, Change.none)
    hopeless = (logits.masked_fill(candidates.phase < 0, -math.inf) < 0).all(1)
    wild = ~first & (supported == 0) & indexed & hopeless & _surrounded(view, around)
    return torch.where(wild & (change == Change.none), Change.voided, change)


def _own_candidate(view: MapView, now: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
    """Which of a position's own candidates orientations (n, 4) are, 0 where they are the map's, -1 for none (n,)."""
    angle = angles_between(now[:, None], phase[:, None], view.rotations, view.phase, view.operations)[:, 0]
    smallest, own = angle.min(1)
    own = torch.where(smallest < view.threshold, own, -1)
    return torch.where(angle[:, 0] < view.threshold, 0, own)


def _known(view: MapView) -> torch.Tensor:
    """How many indexed neighbours (n,) each position has."""
    index = torch.from_numpy(view.near.eight)
    return ((index >= 0) & view.indexed[index.clamp_min(0)]).sum(1)


def _is_wild(view: MapView, believed: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Where an orientation is doubtful (n,), or nothing is known of it, and it stands alone in a single grain."""
    surrounded = _surrounded(view, known)
    if not view.are_probabilities:
        return surrounded
    return surrounded & (believed[:, -1] > believed[:, :-1].amax(1)) & (torch.from_numpy(view.scores[:, 0]) < _DOUBTFUL)


def _surrounded(view: MapView, known: torch.Tensor) -> torch.Tensor:
    """Where most neighbours (n,) are one grain, half turns aside."""
    index = torch.from_numpy(view.near.eight)
    there = (index >= 0) & view.indexed[index.clamp_min(0)]
    q = view.rotations[:, 0][index.clamp_min(0)]
    both = torch.cat([q, half_turn(q)], dim=1)
    phase = torch.where(there, view.phase[:, 0][index.clamp_min(0)], -1)
    agree = view.around(both, phase.repeat(1, 2)).unflatten(1, (2, 8)).any(1).sum(2).amax(1)
    return (known >= 2) & (agree >= _ONE_GRAIN * known)


def _settled(view: MapView, candidates, believed, chosen, change) -> Settled:
    voided = change == Change.voided
    k = view.phase.shape[1]
    phase = torch.where(voided, -1, candidates.phase.gather(1, chosen[:, None])[:, 0])
    own = torch.where(chosen < k, chosen, -1)
    return Settled(
        best_of(candidates.rotations, chosen), phase, change, believed.gather(1, chosen[:, None])[:, 0], own
    )


def _with_changes(xmap, view: MapView | None, settled: Settled | None):
    """Copy a map, with what was settled."""
    copied = as_predicted(copied_map(xmap))
    change = np.zeros(xmap.size, dtype=np.int8) if settled is None else settled.change.numpy().astype(np.int8)
    with_property(copied, "settled", change, 0)
    with_property(copied, "belief", np.zeros(xmap.size) if settled is None else settled.belief.double().numpy(), 0.0)
    changed = np.flatnonzero(change)
    if not len(changed):
        return copied
    here = np.flatnonzero(xmap.is_in_data)[changed]
    _put_first(copied, here, settled, changed)
    phase = settled.phase.numpy()[changed]
    copied._phase_id[here] = np.where(phase >= 0, view.keys[phase], -1)
    if (phase < 0).any() and -1 not in copied.phases.ids:
        copied.phases.add_not_indexed()
    return copied


def _put_first(copied, here: np.ndarray, settled: Settled, changed: np.ndarray) -> None:
    """Put what was chosen before the other candidates of a map, and their numbers with them."""
    from orix.quaternion import Rotation

    data = copied._rotations.data.copy()
    several = data.reshape(len(data), -1, 4)
    k, own, change = several.shape[1], settled.own.numpy()[changed], settled.change.numpy()[changed]
    order = np.tile(np.arange(k), (len(here), 1))
    # an own candidate changes places with those before it; what is new takes the place of the first
    for row in np.flatnonzero(own > 0):
        order[row, : own[row] + 1] = [own[row], *range(own[row])]
    moved = np.take_along_axis(several[here], order[..., None], 1)
    new = (own < 0) & (change != Change.voided)
    moved[new, 0] = settled.rotations.numpy()[changed[new]]
    several[here] = moved
    copied._rotations = Rotation(several.reshape(data.shape))
    for name, values in list(dict.items(copied.prop)):
        if name in ("scores", "candidate_phase_id", "simulation_indices", "share"):
            columns = values.reshape(len(values), -1)[:, :k].copy()
            columns[here] = np.take_along_axis(columns[here], order[:, : columns.shape[1]], 1)
            if name == "scores":
                columns[here[new], 0] = 0  # nothing is known of it
            dict.__setitem__(copied.prop, name, columns.reshape(values.shape))
        if name == "score":
            scores = np.asarray(dict.__getitem__(copied.prop, "scores")).reshape(len(values), -1)
            values[here] = scores[here, 0]
        if name == "reliability":
            values[here] = 0


def _say(xmap) -> None:
    """Say how many positions were changed, in one line."""
    change = xmap.prop["settled"]
    names = {Change.twin: "turned by 180°", Change.candidate: "another candidate",
             Change.neighbour: "a neighbour's candidate", Change.voided: "voided"}  # fmt: skip
    counts = [f"{(change == kind).sum()} {name}" for kind, name in names.items() if (change == kind).any()]
    counts = f" ({', '.join(counts)})" if counts else ""
    say(f"Settled: {(change > 0).sum()} of {xmap.size} positions changed{counts}")
