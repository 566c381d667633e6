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
# How far off (radii) disks are found before they are read: most a little, some far
_OFF, _FAR_OFF, _FAR_SHARE, _FURTHEST = 0.12, 0.4, 0.15, 0.8
# Most disks of thick crystals are many half ranges from Bragg's condition, and have less to tell: so many are read
_FAR_RANGES, _FAR_READ = 6.0, 0.35
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
    """Endless batches of simulated patterns with disks.

    Parameters
    ----------
    simulator : DiskSimulator
        Makes the patterns.
    batch_size : int
        Patterns in a batch.
    """

    def __init__(self, simulator: DiskSimulator, batch_size: int) -> None:
        self.simulator, self.n_setups = simulator, max(1, batch_size // SETUP_SIZE)

    def make(self) -> DiskBatch:
        """Make one batch of several setups."""
        with torch.no_grad():
            parts = [self.simulator(SETUP_SIZE) for _ in range(self.n_setups)]
        probes = torch.cat([p.probe.expand(SETUP_SIZE, -1, -1) for p in parts])
        most = max(p.electrons.shape[1] for p in parts)
        patterns = torch.cat([p.patterns for p in parts])
        positions = torch.cat([_widened(p.positions, most) for p in parts])
        electrons, significance = (
            torch.cat([_widened(getattr(p, name), most) for p in parts]) for name in ("electrons", "significance")
        )
        inside = ((positions >= 0) & (positions <= patterns.shape[-1] - 1)).all(-1)
        there = inside & (electrons > 0)
        return DiskBatch(
            patterns, probes, positions, electrons,
            visible=there & (significance > VISIBLE), counted=there & (significance > INVISIBLE),
        )  # fmt: skip

    def reseed(self, seed: int) -> None:
        """Go on with other patterns."""
        self.simulator.reseed(seed)

    def __iter__(self) -> Iterator:
        while True:
            yield self.make()


class ReadingBatch(NamedTuple):
    """Views of disks, and what is true of each."""

    views: DiskViews
    truth: DiskTruth


class ReadingBatches(DiskBatches):
    """Endless batches of views of disks, found a little beside where they are.

    Parameters
    ----------
    simulator : DiskSimulator
        Makes the patterns.
    batch_size : int
        Patterns whose disks are in a batch.
    """

    def make(self) -> ReadingBatch:
        """Make one batch of several setups."""
        with torch.no_grad():
            parts = [self._disks_of(self.simulator(SETUP_SIZE)) for _ in range(self.n_setups)]
        views, truth = zip(*parts, strict=True)
        views = [v._replace(pattern=v.pattern + i * SETUP_SIZE) for i, v in enumerate(views)]
        return ReadingBatch(
            DiskViews(*map(torch.cat, zip(*views, strict=True))), DiskTruth(*map(torch.cat, zip(*truth, strict=True)))
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
            offset, p.excitation_error[pattern, rank] / half_range.clamp_min(1e-6), phase.clamp_min(1e-6).log(), ~beam,
            ~beam & (phase > 0),
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
