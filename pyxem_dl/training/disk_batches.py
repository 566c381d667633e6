"""What the disk detector is trained on: batches of simulated patterns, and views of their disks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.utils.data import IterableDataset

from pyxem_dl.networks.reader import DiskTruth
from pyxem_dl.patterns.patches import Neighbours
from pyxem_dl.patterns.views import DiskViews, Optics, look_at
from pyxem_dl.simulation.disks import DiskPatterns, DiskSimulator

#: A disk is a target if it stands out of the noise of counting it by this factor, however far its reflection is from
#: Bragg's condition; below the second nobody could see it. Between the two a prediction counts neither way. With 4
#: instead of 2.75 it learns to pass over disks of 20 electrons.
VISIBLE, INVISIBLE = 2.75, 0.8
SETUP_SIZE = 8
#: Patterns that wait to be drawn: a batch has no more
STORE = 512
# How far off (radii) disks are found before they are read: most a little, some far
_OFF, _FAR_OFF, _FAR_SHARE, _FURTHEST = 0.12, 0.4, 0.15, 0.8
# Most disks of thick crystals are many half ranges from Bragg's condition, and have less to tell: so many are read
_FAR_RANGES, _FAR_READ = 6.0, 0.35
# Below so many radians a reflection is lit by electrons that are scattered twice, and does not tell its potential
_NO_PHASE = 1e-3
# How well a disk's counts are known before it is read; shares of setups without a beam energy, and with a known mask
_AMOUNT_ERROR, _NO_ENERGY, _KNOWN_MASK = 0.2, 0.15, 0.5


class DiskBatch(NamedTuple):
    """Patterns (n, size, size) with probes of the same shape, and the truth of their disks."""

    patterns: torch.Tensor
    probe: torch.Tensor
    positions: torch.Tensor
    electrons: torch.Tensor
    visible: torch.Tensor
    counted: torch.Tensor


class DiskBatches(IterableDataset):
    """Endless batches of simulated patterns with disks, each batch from many setups.

    What one call of the simulator makes has one crystal, one probe and one detector.  Batches of a few of these would
    differ so much from each other that a network learns slowly, and its normalisations wrongly.  So patterns wait in a
    store, and batches are drawn from it.

    Parameters
    ----------
    simulator : DiskSimulator
        Makes the patterns.
    batch_size : int
        Patterns in a batch.
    uses : int
        How often each pattern is drawn.
    """

    def __init__(self, simulator: DiskSimulator, batch_size: int, uses: int = 2) -> None:
        self.simulator, self.batch_size, self.uses = simulator, batch_size, uses
        self._waiting: list[list] = []

    def make(self):
        """Draw a batch."""
        while len(self._waiting) < STORE:
            with torch.no_grad():
                self._waiting += [[example, self.uses] for example in self._examples()]
        order = torch.randperm(len(self._waiting), generator=self.simulator.host_generator)[: self.batch_size]
        drawn = [self._waiting[i] for i in order.tolist()]
        for entry in drawn:
            entry[1] -= 1
        self._waiting = [entry for entry in self._waiting if entry[1]]
        return self._batch([example for example, _ in drawn])

    def _examples(self) -> list[DiskBatch]:
        """Single patterns (1, ...) of a new setup."""
        p = self.simulator(SETUP_SIZE)
        inside = ((p.positions >= 0) & (p.positions <= p.patterns.shape[-1] - 1)).all(-1)
        there = inside & (p.electrons > 0)
        columns = (
            p.patterns, p.probe.expand_as(p.patterns), p.positions, p.electrons, there & (p.significance > VISIBLE),
            there & (p.significance > INVISIBLE),
        )  # fmt: skip
        return [DiskBatch(*(column[i : i + 1] for column in columns)) for i in range(len(p.patterns))]

    def _batch(self, examples: list[DiskBatch]) -> DiskBatch:
        most = max(example.electrons.shape[1] for example in examples)
        patterns, probe, *others = zip(*examples, strict=True)
        return DiskBatch(
            torch.cat(patterns), torch.cat(probe),
            *(torch.cat([_widened(x, most) for x in column]) for column in others),
        )  # fmt: skip

    def reseed(self, seed: int) -> None:
        """Go on with other patterns."""
        self._waiting = []
        self.simulator.reseed(seed)

    def __iter__(self) -> Iterator:
        while True:
            yield self.make()


class ReadingBatch(NamedTuple):
    """Views of disks, and what is true of each."""

    views: DiskViews
    truth: DiskTruth


class ReadingBatches(DiskBatches):
    """Endless batches of views of disks, found a little beside where they are; made as :class:`DiskBatches`."""

    def _examples(self) -> list[ReadingBatch]:
        views, truth = self._disks_of(self.simulator(SETUP_SIZE))
        counts = torch.bincount(views.pattern, minlength=SETUP_SIZE).tolist()
        views = zip(*(column.split(counts) for column in views), strict=True)
        truth = zip(*(column.split(counts) for column in truth), strict=True)
        both = zip(map(DiskViews._make, views), map(DiskTruth._make, truth), strict=True)
        return [ReadingBatch(*each) for each, n in zip(both, counts, strict=True) if n]

    def _batch(self, examples: list[ReadingBatch]) -> ReadingBatch:
        views = [v._replace(pattern=torch.full_like(v.pattern, i)) for i, (v, _) in enumerate(examples)]
        return ReadingBatch(
            DiskViews(*map(torch.cat, zip(*views, strict=True))),
            DiskTruth(*map(torch.cat, zip(*(t for _, t in examples), strict=True))),
        )

    def _disks_of(self, p: DiskPatterns) -> tuple[DiskViews, DiskTruth]:
        draw = self.simulator
        rows, columns = p.counts.shape[1:]
        there = (p.electrons > 0) & (p.significance > VISIBLE)
        there &= (p.places >= 0).all(-1) & (p.places[..., 0] <= rows - 1) & (p.places[..., 1] <= columns - 1)
        distant = p.excitation_error.abs() > _FAR_RANGES * p.half_range
        read = there & (~distant | draw._happens(_FAR_READ, *there.shape))
        pattern, rank = read.nonzero(as_tuple=True)
        far = draw._happens(_FAR_SHARE, len(pattern))[:, None]
        off = torch.where(far, _FAR_OFF, _OFF) * draw._normal(len(pattern), 2)
        off = off.clamp(-_FURTHEST, _FURTHEST)
        position = p.places[pattern, rank] + off * p.radius
        # what is known of all disks before one of them is read
        amount = p.electrons * there * torch.exp(_AMOUNT_ERROR * draw._normal(*p.electrons.shape))
        known = Neighbours(p.places + _OFF * p.radius * draw._normal(*p.places.shape), amount)
        incident = torch.where(there[:, 0], amount.sum(1), 0)
        whole = not bool(p.lost.any()) or not draw._is_so(_KNOWN_MASK)
        views = look_at(
            p.counts, None if whole else (~p.lost).float(), known, pattern, rank, position, incident,
            self._optics(p, draw),
        )  # fmt: skip
        views = views._replace(probe=views.probe.expand_as(views.patches), seen=views.seen.expand_as(views.patches))
        row, column = views.direction.unbind(1)
        offset = torch.stack([-off[:, 0] * row - off[:, 1] * column, off[:, 1] * row - off[:, 0] * column], dim=1)
        half_range, phase, beam = p.half_range[pattern, rank], p.phase[pattern, rank], rank == 0
        truth = DiskTruth(
            offset, p.excitation_error[pattern, rank] / half_range.clamp_min(1e-6),
            phase.clamp_min(_NO_PHASE).log(), (p.thickness[pattern] * half_range.clamp_min(1e-6)).log(),
            ~beam, ~beam & (phase > _NO_PHASE),
        )  # fmt: skip
        return views, truth

    def _optics(self, p: DiskPatterns, draw: DiskSimulator) -> Optics:
        per_px = math.nan if draw._is_so(_NO_ENERGY) else p.half_range_per_px
        return Optics(
            p.probe[None], draw.settings.radius, p.radius, p.center.expand(len(p.counts), 2), per_px
        )


def _widened(column: torch.Tensor, most: int) -> torch.Tensor:
    missing = most - column.shape[1]
    return torch.cat([column, column.new_zeros(len(column), missing, *column.shape[2:])], dim=1)
