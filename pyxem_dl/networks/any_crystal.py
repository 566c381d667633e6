"""Orientations of crystals that are named when they are looked for: coarse templates propose, a network verifies."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from pyxem_dl import rotations as rot, symmetry
from pyxem_dl.crystals import ReflectionTable, Spots, find_spots, reflections
from pyxem_dl.frames import after_turn
from pyxem_dl.networks.candidates import OrientationCandidates
from pyxem_dl.networks.spot_verifier import PatternView, SpotVerifier
from pyxem_dl.preprocessing import PolarPreprocessing
from pyxem_dl.templates.modes import are_near
from pyxem_dl.templates.proposals import MOST_REFLECTIONS, Proposals, Proposer

# Proposals, and how many of them are looked at a second and a third time
_PROPOSED, _SECOND, _THIRD = 12, 3, 2
# How much what is left to correct counts beside scores
_CORRECTED = 0.2
# Reflections that are looked up for each at the first look, and later
_FEW_SPOTS, _SPOTS = 20, 48
# Proposals are this share of the distance between zone axes from the truth, at most; at the last look what is further
# from the truth (radians) is wrong
_NEAR, _RIGHT = 1.2, math.radians(3.0)
# Excitation errors (Å⁻¹) of what is looked up at the first look, and later: that of reflections of other Laue zones,
# faint as they are, tells a zone axis from the same one turned by 180°
_NEAREST, _FURTHEST = 0.06, 0.15
# Templates whose reflections are found at once
_AT_ONCE = 256
# Width (radians) of what is called the truth
_TRUTH = math.radians(1.0)
# Reflections a little outside: distortions bring them in
_BEYOND = 1.02


class Crystals(NamedTuple):
    """What is looked for: phases at a beam energy (kV), on a device.

    ``operations (phases, o, 4)`` of their Laue groups; the proposer has their templates, whose
    ``spots (t, s)`` are kept.
    """

    beam_energy: float
    proposer: Proposer
    table: ReflectionTable
    operations: torch.Tensor
    spots: Spots

    @classmethod
    def of(
        cls, phases: list, beam_energy: float, preprocessing: PolarPreprocessing, resolution: float = 3.0, device="cpu"
    ) -> Crystals:
        """Make templates and reflections of phases."""
        radius = preprocessing.reciprocal_radius
        lists = [reflections(phase, _BEYOND * radius).strongest(MOST_REFLECTIONS) for phase in phases]
        proposer = Proposer.from_phases(phases, beam_energy, preprocessing, resolution, device)
        table = ReflectionTable.stack(lists, beam_energy, device)
        operations = symmetry.stack_operations([symmetry.proper_operations(phase) for phase in phases]).to(device)
        spots = [
            _find(table, q, phase_id, beam_energy, _FEW_SPOTS, _NEAREST)
            for q, phase_id in zip(proposer.quaternions.split(_AT_ONCE), proposer.phase_id.split(_AT_ONCE), strict=True)
        ]
        spots = Spots(*map(torch.cat, zip(*spots, strict=True)))
        return cls(float(beam_energy), proposer, table, operations, spots)

    def find(self, rotations: torch.Tensor, phase_id: torch.Tensor, twins: bool = False) -> Spots:
        """Find the reflections (n, m, s) of orientations (n, m, 4); with `twins` also of those turned by 180°."""
        found = _find(self.table, rotations.flatten(0, 1), phase_id.flatten(), self.beam_energy, _SPOTS, _FURTHEST)
        kx, ky, *others = (column.unflatten(0, phase_id.shape) for column in found)
        if not twins:
            return Spots(kx, ky, *others)
        turned = after_turn(kx, ky, torch.full_like(kx, math.pi))
        both = (torch.cat(pair, dim=1) for pair in zip((kx, ky), turned, strict=True))
        return Spots(*both, *(torch.cat([column, column], dim=1) for column in others))

    def near(self, rotations: torch.Tensor, phase_id: torch.Tensor, n_spots: int, furthest: float) -> Spots:
        """Find the reflections (n, s) of orientations (n, 4) within `furthest` Å⁻¹ of the Ewald sphere."""
        return _find(self.table, rotations, phase_id, self.beam_energy, n_spots, furthest)

    def turned(self, proposals: Proposals) -> Spots:
        """Turn the reflections of templates as proposals are turned, (n, m, s)."""
        kx, ky, *others = (column[proposals.template] for column in self.spots)
        return Spots(*after_turn(kx, ky, proposals.angle[..., None]), *others)


def _find(table, rotations, phase_id, beam_energy: float, n_spots: int, furthest: float) -> Spots:
    return find_spots(table, phase_id, rotations, beam_energy, n_spots=n_spots, max_excitation_error=furthest)


class Verified(NamedTuple):
    """The last proposals: ``rotations (n, m, 4)``, ``phase_id (n, m)``, logits ``score (n, m)``; of none of them: 0."""

    rotations: torch.Tensor
    phase_id: torch.Tensor
    score: torch.Tensor

    def probabilities(self, temperature: float) -> torch.Tensor:
        """Of each proposal, and of none of them: (n, m + 1)."""
        score = torch.cat([self.score, torch.zeros_like(self.score[:, :1])], dim=1)
        return score.div(temperature).softmax(dim=1)


class AnyCrystalNetwork(nn.Module):
    """Propose with templates, verify with a network that knows no crystal.

    Parameters
    ----------
    width : int
        Of the verifier.
    temperature : float
        By which its logits are divided, so that probabilities are right.
    """

    #: What :meth:`predict` takes is that of ``PolarPreprocessing.counted``, of patterns in electrons
    counts_electrons = True

    def __init__(self, width: int = 64, temperature: float = 1.0) -> None:
        super().__init__()
        self.arguments = {"width": width, "temperature": temperature}
        self.verifier = SpotVerifier(width)
        self._named: _Named | None = None

    def with_phases(self, phases: list, beam_energy: float, preprocessing: PolarPreprocessing) -> AnyCrystalNetwork:
        """Return a network of the same weights that looks for phases.

        Templates that this network has of the same ones (the same objects) are kept.

        Parameters
        ----------
        phases : list of orix.crystal_map.Phase
            From :func:`pyxem_dl.crystals.load_phases`.
        beam_energy : float
            In kV.
        preprocessing : PolarPreprocessing
            The polar grid of the patterns.
        """
        network, named = copy.copy(self), _Named(tuple(phases), float(beam_energy), preprocessing)
        if self._named is None or not self._named.is_the_same(named):
            network._named = named
        return network

    def set_temperature(self, temperature: float) -> None:
        """Divide logits by another temperature, here and in what :meth:`with_phases` gave."""
        self.arguments["temperature"] = temperature

    @property
    def crystals(self) -> Crystals:
        """What is looked for; made where the weights are, when it is needed."""
        if self._named is None:
            raise ValueError("This network looks for no phases yet: name them, with with_phases.")
        return self._named.on(str(next(self.parameters()).device))

    @property
    def operations(self) -> torch.Tensor:
        """Rotations of the phases' Laue groups."""
        return self.crystals.operations

    def _propose(self, polar, valid) -> Proposals:
        return self.crystals.proposer(polar, valid, _PROPOSED)

    def _look(self, view: PatternView, rotations, belief, spots: Spots, earlier=None):
        """Compare proposals with patterns, and improve them: logits (n, m), and rotations (n, m, 4)."""
        radius = self.crystals.proposer.preprocessing.reciprocal_radius
        score, correction = self.verifier(view, spots, belief, radius, earlier)
        return score, rot.multiply(rotations, rot.exponential(correction))

    def look_at_all(self, view: PatternView, proposals: Proposals):
        """Look for the first time, with few reflections."""
        spots = self.crystals.turned(proposals)
        return self._look(view, proposals.rotations, proposals.score, spots)

    def look_closer(self, view: PatternView, rotations, earlier, belief, phase_id, *, twins: bool = False):
        """Look again, with more reflections; where the last half are `twins` of the first, at these together."""
        n = rotations.shape[1] // (2 if twins else 1)
        spots = self.crystals.find(rotations[:, :n], phase_id[:, :n], twins)
        return self._look(view, rotations, belief, spots, earlier)

    def predict(self, inputs: Sequence[torch.Tensor], n_best: int = 2) -> OrientationCandidates:
        """Propose orientations, and verify them.

        Parameters
        ----------
        inputs : sequence of tensor
            Mean electrons per pixel (n, n_k, n_phi), validity (n or 1, n_k, n_phi), normalised intensities
            (n, n_k, n_phi), pixels in a bin (n_k,) or (n, n_k).
        n_best : int
            Number of separated orientations to return.
        """
        return self.separated(self.verify(inputs), n_best)

    def separated(self, found: Verified, n_best: int) -> OrientationCandidates:
        """Pick separated orientations from the last proposals."""
        p = found.probabilities(self.arguments["temperature"])
        rows, left, columns = torch.arange(len(p), device=p.device), p[:, :-1], []
        for _ in range(n_best):
            # what agrees with the likeliest one has its probability
            best = left.argmax(1)
            rotation, phase_id = found.rotations[rows, best], found.phase_id[rows, best]
            agree = are_near(rotation, found.rotations, self.operations[phase_id])
            agree &= found.phase_id == phase_id[:, None]
            columns.append((rotation, phase_id, (left * agree).sum(1)))
            left = left * ~agree
        columns = (torch.stack(column, dim=1) for column in zip(*columns, strict=True))
        return OrientationCandidates(*columns, 1 - p[:, -1])

    def verify(self, inputs: Sequence[torch.Tensor]) -> Verified:
        """Propose orientations and compare them with the patterns, see :meth:`predict`."""
        polar, valid, *_ = inputs
        view, proposals = self.view(inputs), self._propose(polar, valid)
        score, rotations = self.look_at_all(view, proposals)
        best = _best(_SECOND, score, rotations, proposals.score, proposals.phase_id)
        score, rotations = self.look_closer(view, *best)
        best = _with_twins(*_best(_THIRD, score, rotations, *best[2:]))
        score, rotations = self.look_closer(view, *best, twins=True)
        return Verified(rotations, best[-1], score)

    def compare(self, inputs: Sequence[torch.Tensor], rotations: torch.Tensor, phase_id: torch.Tensor) -> Verified:
        """Compare orientations that are given with patterns, and improve them.

        Parameters
        ----------
        inputs : sequence of tensor
            As of :meth:`predict`.
        rotations, phase_id : tensor, shapes (n, m, 4) and (n, m)
            Orientations and their phases.
        """
        view, score = self.view(inputs), None
        # what templates say of these is not asked: they count as much as the best that templates find
        belief = self._propose(*inputs[:2]).score[:, :1].expand(phase_id.shape)
        for _ in range(2):
            score, rotations = self.look_closer(view, rotations, score, belief, phase_id)
        return Verified(rotations, phase_id, score)

    def view(self, inputs) -> PatternView:
        """Prepare what all looks at the same patterns share."""
        return PatternView.of(*inputs, self.crystals.proposer.preprocessing)

    # ---------------------------------------------------------------- loss
    def loss(self, inputs, rotations: torch.Tensor, phase_id: torch.Tensor) -> tuple[torch.Tensor, dict]:
        """Cross-entropy against the proposals near the truth, or none of them, and what is left to correct.

        Parameters
        ----------
        inputs : sequence of tensor
            As of :meth:`predict`.
        rotations, phase_id : tensor, shapes (n, 4) and (n,)
            The truth; phase -1 where none of the crystals is.
        """
        polar, valid, *_ = inputs
        view, truth = self.view(inputs), (rotations, phase_id)
        with torch.no_grad():
            proposals = self._propose(polar, valid)
        near = _NEAR * torch.deg2rad(self.crystals.proposer.resolution)[proposals.phase_id]
        score, better = self.look_at_all(view, proposals)
        parts = [self._part(score, proposals.rotations, better, proposals.phase_id, truth, near, strict=False)]
        best = _detached(_best(_SECOND, score, better, proposals.score, proposals.phase_id))
        for strict in (False, True):
            score, better = self.look_closer(view, *best, twins=strict)
            near = torch.full_like(score, _RIGHT)
            parts.append(self._part(score, best[0], better, best[-1], truth, near, strict=strict))
            if not strict:
                best = _detached(_with_twins(*_best(_THIRD, score, better, *best[2:])))
        names = ("score", "correction")
        parts = {name: torch.stack(column) for name, column in zip(names, zip(*parts, strict=True), strict=True)}
        loss = parts["score"].mean() + _CORRECTED * parts["correction"].mean()
        found = {f"{name}_{i}": x.detach() for name, column in parts.items() for i, x in enumerate(column)}
        return loss, found

    def _part(self, score, proposed, better, phases, truth, near, *, strict: bool):
        """Loss of one look."""
        rotations, phase_id = truth
        equivalent = rot.multiply(self.operations[phase_id.clamp_min(0)], rotations[:, None])
        if not strict:
            equivalent = torch.cat([equivalent, turned_by_180(equivalent)], dim=1)
        nearest = rot.matmul(proposed, equivalent.transpose(1, 2)).abs().argmax(dim=2)
        right = equivalent.gather(1, nearest[..., None].expand(-1, -1, 4))
        distance = rot.logarithm(rot.multiply(rot.conjugate(proposed), right)).norm(dim=-1)
        is_near = (phases == phase_id[:, None]) & (distance < near)
        weight = is_near * torch.exp(-0.5 * (distance / _TRUTH) ** 2).clamp_min(1e-3)
        none = ~is_near.any(dim=1)
        weight = torch.cat([weight / weight.sum(1, keepdim=True).clamp_min(1e-9), none[:, None].to(weight)], dim=1)
        logits = torch.cat([score, torch.zeros_like(score[:, :1])], dim=1)
        entropy = -(weight * logits.log_softmax(1)).sum(1).mean()
        left = rot.logarithm(rot.multiply(rot.conjugate(better), right)).norm(dim=-1) / _TRUTH
        # a far candidate must not dominate
        robust = torch.sqrt(1 + 16 * left.square()) - 1
        return entropy, (robust * is_near).sum() / is_near.sum().clamp_min(1)


class _Named:
    """Phases that are looked for; templates and tables of them are not pickled, but made where they are needed."""

    def __init__(self, phases: tuple, beam_energy: float, preprocessing: PolarPreprocessing) -> None:
        self.phases, self.beam_energy, self.preprocessing = phases, beam_energy, preprocessing
        self._made: tuple[str, Crystals] | None = None

    def is_the_same(self, other: _Named) -> bool:
        """Whether what is looked for is the same."""
        same = self.beam_energy == other.beam_energy and self.preprocessing == other.preprocessing
        return same and list(map(id, self.phases)) == list(map(id, other.phases))

    def on(self, device: str) -> Crystals:
        """Templates and tables on a device; made once."""
        made = self._made  # another thread may ask for another device
        if made is None or made[0] != device:
            made = self._made = device, self._make(device)
        return made[1]

    def _make(self, device: str) -> Crystals:
        # symmetry needs all digits, and what is made in the middle of a prediction may be learnt with, too
        kind = torch.device(device).type
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(kind, enabled=False):
            return Crystals.of(list(self.phases), self.beam_energy, self.preprocessing, device=device)

    def __getstate__(self) -> tuple:
        return self.phases, self.beam_energy, self.preprocessing

    def __setstate__(self, state: tuple) -> None:
        self.__init__(*state)

    def __deepcopy__(self, memo) -> _Named:
        return self


def _best(n: int, score, rotations, *columns):
    """Proposals with the best scores: their rotations, scores, and what else is known of them."""
    score, index = score.topk(min(n, score.shape[1]), dim=1)
    rotations = rotations.gather(1, index[..., None].expand(-1, -1, 4))
    return rotations, score, *(column.gather(1, index) for column in columns)


def _with_twins(rotations, *columns):
    """Add to what is there what a turn by 180° about the beam makes of it."""
    return torch.cat([rotations, turned_by_180(rotations)], dim=1), *(torch.cat([x, x], dim=1) for x in columns)


def _detached(columns) -> tuple[torch.Tensor, ...]:
    return tuple(column.detach() for column in columns)


def turned_by_180(rotations: torch.Tensor) -> torch.Tensor:
    """Turn orientations by 180° about the beam."""
    return rot.rotate_in_plane(rotations, torch.full_like(rotations[..., 0], math.pi))
