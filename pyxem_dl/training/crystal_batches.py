"""Patterns of many crystals, in each of which one of them is looked for."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch.utils.data import IterableDataset

from pyxem_dl.crystals.twins import SIMILARITY, intensity_curve, similarity
from pyxem_dl.networks.any_crystal import AnyCrystalNetwork
from pyxem_dl.preprocessing import PolarPreprocessing
from pyxem_dl.simulation import PatternSimulator, SimulatedPatterns

if TYPE_CHECKING:
    from pyxem_dl.training.any_crystal import AnyCrystalConfiguration

#: The polar grid, at the radius of 1.5 Å⁻¹; at others the rings are as wide
GRID = PolarPreprocessing(1.5)
# Reflections of the largest cells that are looked for: their templates are made in seconds
_MOST_REFLECTIONS = 30_000
_VALIDATION_CRYSTALS, _VALIDATION_PATTERNS = 16, 96
# Lots of patterns, each of one crystal, that wait to be used again
_KEPT = 256


class NamedPatterns(NamedTuple):
    """Patterns in which a crystal is looked for.

    The ``network``, which is told what it looks for; its ``inputs``; ``rotations (n, 4)``; ``phase_id (n,)``, -1 where
    none of the crystals is.
    """

    network: AnyCrystalNetwork
    inputs: tuple
    rotations: torch.Tensor
    phase_id: torch.Tensor


class Setup:
    """Crystals at a beam energy, with all that is looked for and simulated of them.

    Parameters
    ----------
    network : AnyCrystalNetwork
        That looks.
    phases : list of orix.crystal_map.Phase
        What it looks for.
    beam_energy, reciprocal_radius : float
        In kV and Å⁻¹.
    simulation : SimulationSettings
        What the patterns look like.
    seed : int
        Of these.
    device : torch.device
        Where they are made.
    """

    def __init__(
        self, network, phases: list, beam_energy: float, reciprocal_radius: float, simulation, seed: int, device
    ) -> None:
        self.phases, self.preprocessing = phases, GRID.reaching(reciprocal_radius)
        self.network = network.with_phases(phases, beam_energy, self.preprocessing)
        self.simulator = PatternSimulator(
            phases, beam_energy, reciprocal_radius, simulation, seed=seed, device=device
        )

    def look_at(self, simulator: PatternSimulator, n_setups: int = 1, n: int | None = None) -> NamedPatterns:
        """Simulate setups of this crystal, or of another one, and look for this one in their patterns."""
        with torch.no_grad():
            made = simulator.several(n_setups, n)
            inputs, rotations, phase_id = zip(*((self._inputs(s), s.rotations, s.phase_id) for s in made), strict=True)
        inputs = tuple(torch.cat(column) for column in zip(*inputs, strict=True))
        phase_id = torch.cat(phase_id)
        phase_id = phase_id if simulator is self.simulator else torch.full_like(phase_id, -1)
        return NamedPatterns(self.network, inputs, torch.cat(rotations), phase_id)

    def _inputs(self, s: SimulatedPatterns) -> tuple[torch.Tensor, ...]:
        """Make what the network takes, each of its parts for every pattern."""
        polar, valid, intensity, pixels = self.preprocessing.counted(
            s.patterns, s.calibration, signal_mask=s.signal_mask
        )
        return polar, valid.expand_as(polar), intensity, pixels.expand(len(polar), -1)


def alike(phases: list, others: list) -> bool:
    """Whether patterns of the others might be of the phases."""
    return any(similarity(_curve(a), _curve(b)) >= SIMILARITY for a in phases for b in others)


@lru_cache(maxsize=1024)
def _curve(phase):
    return intensity_curve(phase)


class CrystalBatches(IterableDataset):
    """Endless batches of patterns of many crystals, each pattern used a few times.

    Parameters
    ----------
    network : AnyCrystalNetwork
        That learns.
    phases : list of orix.crystal_map.Phase
        To train on.
    configuration : AnyCrystalConfiguration
        Of the training.
    seed : int
        Of all that is drawn.
    device : torch.device
        Where patterns are made.
    """

    def __init__(self, network, phases: list, configuration: AnyCrystalConfiguration, seed: int, device) -> None:
        self.network, self.phases, self.configuration, self.device = network, phases, configuration, device
        self._waiting: list[Setup] = []
        self._kept: list[NamedPatterns] = []
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Go on with other crystals and patterns."""
        self._draw, self._made = random.Random(seed), 0
        self._waiting, self._kept = [], []

    def fresh(self, phases: list | None = None) -> Setup:
        """Draw a crystal, or take these, at a new beam energy and radius, with patterns that no other setup has."""
        phases = [self._draw.choice(self.phases)] if phases is None else phases
        c, volume = self.configuration, max(phase.structure.lattice.volume for phase in phases)
        energy = math.exp(self._draw.uniform(*map(math.log, c.beam_energy)))
        most = (_MOST_REFLECTIONS / (4 / 3 * math.pi * volume)) ** (1 / 3)
        radius = min(self._draw.uniform(*c.reciprocal_radius), most)
        seed = self._draw.randrange(2**31)
        return Setup(self.network, phases, energy, radius, c.simulation, seed, self.device)

    def make(self) -> list[NamedPatterns]:
        """Draw a batch: some patterns of each of a few crystals, some of which were used before."""
        n = max(1, self.configuration.batch_size // self.configuration.patterns_each)
        n_again = min(n - max(1, round(n / self.configuration.uses)), len(self._kept))
        again = self._draw.sample(self._kept, n_again)
        new = self._new(n - n_again)
        self._kept = [*self._kept, *new][-_KEPT:]
        return new + again

    def _new(self, n: int) -> list[NamedPatterns]:
        c = self.configuration
        while len(self._waiting) < c.crystals_at_once:
            self._waiting.append(self.fresh())
        if self._made % c.steps_each == 0:
            self._waiting[self._draw.randrange(len(self._waiting))] = self.fresh()
        self._made += 1
        chosen = self._draw.sample(self._waiting, min(len(self._waiting), n))
        return [setup.look_at(self._source(setup), c.setups_each) for setup in chosen]

    def _source(self, setup: Setup) -> PatternSimulator:
        if self._draw.random() >= self.configuration.foreign_share:
            return setup.simulator
        others = [other for other in self._waiting if not alike(setup.phases, other.phases)]
        return self._draw.choice(others or [setup]).simulator

    def __iter__(self) -> Iterator[list[NamedPatterns]]:
        while True:
            yield self.make()


def validation_patterns(network, phases: list, configuration: AnyCrystalConfiguration, device) -> list[NamedPatterns]:
    """Patterns of crystals that are not trained on, and, as many as of one of them, of the wrong crystals."""
    batches = CrystalBatches(network, phases, configuration, configuration.seed + 1_000_000, device)
    setups = [batches.fresh([phase]) for phase in phases[:_VALIDATION_CRYSTALS]]
    others = [*setups[1:], setups[0]]
    n = _VALIDATION_PATTERNS
    return [s.look_at(s.simulator, n=n) for s in setups] + [
        s.look_at(other.simulator, n=n // 4)
        for s, other in zip(setups, others, strict=True) if not alike(s.phases, other.phases)
    ]
