"""Crystals that lie above each other: what is left of a pattern without the spots of one crystal is searched again.

First candidates are not decided on: for each of a few, its spots are taken away and the rest of the pattern is searched
for a second crystal. All that is found is a pool, of which each pair is held against the peaks of the whole pattern,
for whatever shares of the light explain them best. Each crystal of the best pairs is then looked at once more, without
the spots of the other one. What the likeliest pairs leave is searched for a third one, and all three are looked at
again. A further crystal counts where it explains peaks that the others leave, and enough of those that it should have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from pyxem_dl.networks.any_crystal import AnyCrystalNetwork, turned_by_180
from pyxem_dl.networks.candidates import OverlappingCrystals
from pyxem_dl.networks.spot_evidence import Evidence, Explained
from pyxem_dl.networks.spot_masks import MARGIN, covered, disk_radius, rows_of, without
from pyxem_dl.templates.modes import are_near

# Proposals of a search; first candidates, and second ones for each; pairs that are looked at again; of these, so many
# are searched for third crystals, and as many of each
_PROPOSED, _FIRST, _SECOND, _PAIRS, _SEARCHED, _THIRD = 24, 3, 3, 4, 2, 2
# What the network says of a candidate counts so much beside what the peaks say: in the pool, between sets, and where
# it is decided whether there is a further crystal
_IN_POOL, _BETWEEN, _FURTHER = 2.0, 4.0, 2.0
# And both together have to gain so much for a second crystal, and for a third one: one of many orientations, pairs and
# shares would fit by chance (a logarithm)
_SECOND_NEEDS, _THIRD_NEEDS = 3.0, 4.5
# Reflections whose light is taken away, and those that may explain peaks; how far from the Ewald sphere (Å⁻¹): what
# crystals of a few nanometres scatter there is faint, and no second crystal
_TAKEN, _EXPLAINING, _FURTHEST, _FAR = 48, 80, 0.15, 0.3
# A crystal that is found has this share, at least
_LEAST = 0.005
_NEVER = -1e9


class _Found(NamedTuple):
    """Candidates (n, c): rotations, logits, phases, and the correlation with the template that proposed them."""

    rotations: torch.Tensor
    score: torch.Tensor
    phase_id: torch.Tensor
    belief: torch.Tensor

    def at(self, index: torch.Tensor) -> _Found:
        """Take some of them (n, m)."""
        return _Found(*(_taken(column, index) for column in self))

    def joined(self, other: _Found) -> _Found:
        """Put others beside them."""
        return _Found(*(torch.cat(pair, dim=1) for pair in zip(self, other, strict=True)))

    def columns(self, first: int, last: int) -> _Found:
        """Take neighbouring columns."""
        return _Found(*(column[:, first:last] for column in self))

    def one_each(self) -> _Found:
        """Make a pattern (n c, 1) of each."""
        return _Found(*(column.flatten(0, 1)[:, None] for column in self))

    def together(self, n: int) -> _Found:
        """Put what was found in several copies of n patterns side by side."""
        return _Found(*(column.unflatten(0, (n, -1)).flatten(1, 2) for column in self))

    def in_sets(self, size: int) -> _Found:
        """Make a pattern (n sets, size) of each set of neighbouring columns."""
        return _Found(*(column.unflatten(1, (-1, size)).flatten(0, 1) for column in self))


class _Sets(NamedTuple):
    """Crystals (n, sets size) that may be there together.

    ``score (n, sets, size)`` of each without the spots of the others; ``evidence (n, sets)``: how well all of a set
    explain the peaks; ``fewer (n, sets)``: how well the best of them do without one.
    """

    found: _Found
    score: torch.Tensor
    evidence: torch.Tensor
    fewer: torch.Tensor

    def value(self) -> torch.Tensor:
        """Say which sets are better than others of their size."""
        return self.evidence + _BETWEEN * self.score.sum(2)

    def gain(self) -> torch.Tensor:
        """Say what the crystal that is missed least adds."""
        return self.evidence - self.fewer + _FURTHER * self.score.amin(2)

    def at(self, index: torch.Tensor) -> _Found:
        """Take the crystals (n, m size) of sets (n, m)."""
        size = self.score.shape[2]
        each = size * index[..., None] + torch.arange(size, device=index.device)
        return self.found.at(each.flatten(1))


class OverlapSearch:
    """Looks for up to three crystals in each pattern.

    Parameters
    ----------
    network : AnyCrystalNetwork
        That knows what to look for.
    inputs : sequence of tensor
        As of :meth:`AnyCrystalNetwork.predict`.
    """

    def __init__(self, network: AnyCrystalNetwork, inputs: Sequence[torch.Tensor]) -> None:
        self.network, self.inputs, self.n = network, inputs, len(inputs[0])
        self.crystals = network.crystals
        self.preprocessing = self.crystals.proposer.preprocessing
        self.view = network.view(inputs)
        self.radius = disk_radius(*inputs[:2], self.preprocessing)
        self.evidence = Evidence.of(self.view, self.radius, self.preprocessing)

    def __call__(self) -> OverlappingCrystals:
        """Find them."""
        alone = self.network.verify(self.inputs)
        one = self.network.separated(alone, 1)
        found, there = self._decide_how_many()
        two = there[:, 1]
        found, probability = self._decide_on_twins(found, there)
        # where there is one crystal only, it is what is found without looking for others
        several = two[:, None]
        rotations = torch.where(several[..., None], found.rotations, one.rotations)
        phase_id = torch.where(several, found.phase_id, one.phase_id)
        scores = torch.where(several, probability, one.scores)
        crystal = torch.where(two, torch.maximum(one.crystal, probability[:, 0]), one.crystal)
        share = self._shares(rotations, phase_id, there)
        return _ordered(OverlappingCrystals(rotations, phase_id, scores, crystal, share), there)

    # ---------------------------------------------------------------- search
    def _search(self, inputs, view, number: int) -> _Found:
        """Find separated candidates in patterns; those that are none have the score -1e9."""
        network = self.network
        proposals = self.crystals.proposer(*inputs[:2], _PROPOSED)
        score, rotations = network.look_at_all(view, proposals)
        found = _Found(rotations, score, proposals.phase_id, proposals.score)
        left, picked, none = found.score, [], []
        for _ in range(number):
            best = left.argmax(1, keepdim=True)
            picked.append(best)
            none.append(left.gather(1, best) <= _NEVER)
            left = left.masked_fill(self._alike(found.at(best), found), _NEVER)
        found = found.at(torch.cat(picked, dim=1))
        score, rotations = network.look_closer(view, found.rotations, found.score, found.belief, found.phase_id)
        return found._replace(rotations=rotations, score=score.masked_fill(torch.cat(none, dim=1), _NEVER))

    def _alike(self, first: _Found, others: _Found) -> torch.Tensor:
        """Tell which candidates (n, m) are first ones (n, 1), or these turned by 180° about the beam."""
        rotation, phase_id = first.rotations[:, 0], first.phase_id[:, 0]
        operations = self.network.operations[phase_id]
        near = are_near(rotation, others.rotations, operations)
        near = near | are_near(turned_by_180(rotation), others.rotations, operations)
        return near & (others.phase_id == phase_id[:, None])

    def _without(self, found: _Found, there: torch.Tensor | None = None):
        """Patterns without the spots of candidates (n c, crystals), c of each pattern; and views of them."""
        each = len(found.score) // self.n
        rows = torch.arange(self.n, device=self.radius.device).repeat_interleave(each)
        taken = self._covered(found.rotations, found.phase_id, self.radius[rows] + MARGIN)
        taken = taken if there is None else taken & there[..., None, None]
        left = without(rows_of(self.inputs, rows), taken.any(1), self.preprocessing)
        return left, self.network.view(left)

    def _covered(self, rotations, phase_id, radius) -> torch.Tensor:
        """Bins (n, c, n_k, n_phi) that the spots of crystals (n, c) reach."""
        spots = self.crystals.near(rotations.flatten(0, 1), phase_id.flatten(), _TAKEN, _FURTHEST)
        radius = radius.repeat_interleave(phase_id.shape[1])
        return covered(spots, radius, self.preprocessing).unflatten(0, phase_id.shape)

    def _explained(self, found: _Found) -> Explained:
        spots = self.crystals.near(found.rotations.flatten(0, 1), found.phase_id.flatten(), _EXPLAINING, _FAR)
        return self.evidence.explained(type(spots)(*(x.unflatten(0, found.phase_id.shape) for x in spots)))

    # ---------------------------------------------------------------- sets of crystals
    def _decide_how_many(self) -> tuple[_Found, torch.Tensor]:
        """Find the best crystals (n, 3), and how many of them (n, 3) are there."""
        pairs = self._pairs()
        triples = self._triples(pairs)
        best = pairs.value().argmax(1, keepdim=True)
        two = pairs.gain().gather(1, best)[:, 0] > _SECOND_NEEDS
        enough = triples.gain() > _THIRD_NEEDS
        best_three = triples.value().masked_fill(~enough, _NEVER).argmax(1, keepdim=True)
        three = two & enough.gather(1, best_three)[:, 0]
        pair, triple = pairs.at(best), triples.at(best_three)
        pair = pair.joined(pair.columns(0, 1))
        found = (torch.where(three.reshape(-1, *(1,) * (x.ndim - 1)), x, y) for x, y in zip(triple, pair, strict=True))
        return _Found(*found), torch.stack([torch.ones_like(two), two, three], dim=1)

    def _pool(self) -> _Found:
        """First candidates, and what is found when the spots of each are taken away."""
        first = self._search(self.inputs, self.view, _FIRST)
        each = first.one_each()
        second = self._search(*self._without(each), _SECOND)
        never = self._alike(each, second) | (each.score <= _NEVER)
        second = second._replace(score=second.score.masked_fill(never, _NEVER))
        return first.joined(second.together(self.n))

    def _pairs(self) -> _Sets:
        """Find the pairs that explain most, none of them twice, and look at them."""
        pool, device = self._pool(), self.radius.device
        explained = self._explained(pool)
        number = pool.score.shape[1]
        first, second = torch.triu_indices(number, number, 1, device=device)
        evidence = explained.of(first[None], second[None]) + _IN_POOL * (pool.score[:, first] + pool.score[:, second])
        alike = torch.stack([self._alike(pool.columns(i, i + 1), pool) for i in range(number)], dim=1)
        left, picked, refused = evidence.masked_fill(alike[:, first, second], 2 * _NEVER), [], []
        for _ in range(_PAIRS):
            best = left.argmax(1, keepdim=True)
            picked += first[best], second[best]
            refused.append(left.gather(1, best) < _NEVER / 2)
            one, other = (alike.gather(1, each[..., None].expand(-1, -1, number))[:, 0] for each in picked[-2:])
            again = (one[:, first] & other[:, second]) | (other[:, first] & one[:, second])
            left = left.masked_fill(again, 2 * _NEVER)
        return self._looked_at(pool.at(torch.cat(picked, dim=1)), 2, torch.cat(refused, dim=1))

    def _triples(self, pairs: _Sets) -> _Sets:
        """Search what the likeliest pairs leave, and look at all three together."""
        best = pairs.value().topk(_SEARCHED, dim=1).indices
        pair = pairs.at(best).in_sets(2)
        third = self._search(*self._without(pair), _THIRD)
        alike = self._alike(pair.columns(0, 1), third) | self._alike(pair.columns(1, 2), third)
        refused = (alike | (third.score <= _NEVER)).unflatten(0, (self.n, -1)).flatten(1)
        pair = _Found(*(column.repeat_interleave(_THIRD, dim=0) for column in pair))
        return self._looked_at(pair.joined(third.one_each()).together(self.n), 3, refused)

    def _looked_at(self, found: _Found, size: int, refused: torch.Tensor) -> _Sets:
        """Look at each crystal of sets without the spots of the others; what is refused explains nothing."""
        sets, index = found.in_sets(size), torch.arange(size, device=self.radius.device)
        others = (index[:, None] + 1 + index[: size - 1]) % size
        partners = _Found(*(column[:, others].flatten(0, 1) for column in sets))
        _, view = self._without(partners)
        each = found.one_each()
        # the score of an earlier look at other light does not count
        score, rotations = self.network.look_closer(
            view, each.rotations, torch.zeros_like(each.score), each.belief, each.phase_id
        )
        found = each._replace(rotations=rotations, score=score).together(self.n)
        sets, explained = found.in_sets(size), self._explained(found)
        # what is improved may meet
        meet = [self._alike(sets.columns(i, i + 1), sets.columns(i + 1, size)).any(1) for i in range(size - 1)]
        refused = refused | torch.stack(meet).any(0).unflatten(0, (self.n, -1))
        members = torch.arange(found.score.shape[1], device=refused.device).unflatten(0, (1, -1, size)).unbind(2)
        fewer = [explained.of(*members[:i], *members[i + 1 :]) for i in range(size)]
        evidence = explained.of(*members).masked_fill(refused, _NEVER)
        return _Sets(found, found.score.unflatten(1, (-1, size)), evidence, torch.stack(fewer).amax(0))

    # ---------------------------------------------------------------- twins and shares
    def _decide_on_twins(self, found: _Found, there: torch.Tensor) -> tuple[_Found, torch.Tensor]:
        """Look at each crystal beside the one that is turned by 180°, without the others' spots; and how sure it is."""
        n_crystals = there.shape[1]
        index = torch.arange(n_crystals, device=there.device)
        others = (index[:, None] + 1 + index[: n_crystals - 1]) % n_crystals
        partners = _Found(*(column[:, others].flatten(0, 1) for column in found))
        _, view = self._without(partners, there[:, others].flatten(0, 1))
        each = found.one_each()
        both = _Found(*(torch.cat([x, x], dim=1) for x in each))
        rotations = torch.cat([each.rotations, turned_by_180(each.rotations)], dim=1)
        score, rotations = self.network.look_closer(
            view, rotations, both.score, both.belief, both.phase_id, twins=True
        )
        likelier = score.argmax(1, keepdim=True)
        temperature = self.network.arguments["temperature"]
        none = torch.zeros_like(score[:, :1])
        probability = torch.cat([score, none], dim=1).div(temperature).softmax(1)[:, :2].gather(1, likelier)
        decided = each._replace(rotations=_taken(rotations, likelier), score=score.gather(1, likelier))
        return decided.together(self.n), probability.unflatten(0, (self.n, -1)).flatten(1)

    def _shares(self, rotations, phase_id, there) -> torch.Tensor:
        """Share out the light (n, crystals) that stands out of the rings where spots should be."""
        polar, pixels = self.inputs[0], self.inputs[-1]
        light = (polar * pixels[..., None] - self.view.ring[..., None]) * self.view.valid
        reached = self._covered(rotations, phase_id, self.radius + MARGIN / 2) & there[..., None, None]
        reached, light = reached.flatten(2).to(light), light.flatten(1)[:, None]
        several = reached.sum(1, keepdim=True)
        share = (light * reached * (several == 1)).sum(2).clamp_min(0)
        share = share / share.sum(1, keepdim=True).clamp_min(1e-9) + _LEAST * there
        # where spots lie above each other, each has as much of them as of the rest
        weight = reached * share[..., None]
        weight = weight / weight.sum(1, keepdim=True).clamp_min(1e-9)
        share = (light * weight).sum(2).clamp_min(0)
        share = (share / share.sum(1, keepdim=True).clamp_min(1e-9)).clamp_min(_LEAST) * there
        return share / share.sum(1, keepdim=True)


def _taken(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Take columns (n, m) of numbers (n, c) or of rotations (n, c, 4)."""
    return x.gather(1, index[..., None].expand(-1, -1, 4) if x.ndim == 3 else index)


def _ordered(found: OverlappingCrystals, there: torch.Tensor) -> OverlappingCrystals:
    """Put the crystal with the largest share first, and mark those that are none."""
    share, order = found.share.sort(dim=1, descending=True, stable=True)
    rotations, phase_id, scores, there = (
        _taken(x, order) for x in (found.rotations, found.phase_id, found.scores, there)
    )
    return OverlappingCrystals(
        torch.where(there[..., None], rotations, rotations[:, :1]), torch.where(there, phase_id, -1),
        torch.where(there, scores, 0.0), found.crystal, share,
    )  # fmt: skip
