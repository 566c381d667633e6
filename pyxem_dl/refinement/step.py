"""What is done with a batch of patterns to refine their orientations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pyxem_dl.crystals import phase_from_dict, phase_to_dict
from pyxem_dl.preprocessing import in_electrons, usable_patterns
from pyxem_dl.refinement.fitting import Given, Physics, Refined, Refiner
from pyxem_dl.refinement.strain import Strained, refine_strained
from pyxem_dl.results.assembly import RefinedMap
from pyxem_dl.results.maps import are_probabilities
from pyxem_dl.scans import Scan, Step

# Patterns that one core refines at once
_AT_ONCE = 8
# Where the first candidate's misfit is larger, the second one is refined, too; to win it needs so much of it or less
_DOUBTFUL, _CLEARLY = 1.5, 0.5
# Where both candidates' misfits are larger, faint disks tell nothing of which one is right
_WRONG = 3.0
# What is compared of two that fit
_STATE = ("rotations", "thickness")
# Properties of a map that have a number for each candidate
_OF_CANDIDATES = ("scores", "candidate_phase_id", "simulation_indices")


@dataclass(frozen=True, eq=False)
class Start:
    """What a map says of each position of a scan.

    Parameters
    ----------
    rotations : array, shape (n, n_best, 4)
        Lab to crystal; the first of each position is refined.
    phase : array of int, shape (n,)
        Number in the list of phases, -1: not indexed.
    rival : array of int, shape (n,)
        Phase of the second candidate where it may be the right one, which is refined where the first does not fit; -1
        elsewhere.
    properties : dict of str to array, shape (n, ...)
        Numbers that the refined map keeps.
    shape : tuple of int
        Of the map, with what is not in its data.
    n_best : int
        So many candidates of each position are kept.
    """

    rotations: np.ndarray
    phase: np.ndarray
    rival: np.ndarray
    properties: dict[str, np.ndarray]
    shape: tuple[int, ...]
    n_best: int

    def has_each(self, name: str) -> bool:
        """Tell whether a property has a number for each candidate."""
        return name in _OF_CANDIDATES and self.properties[name].shape[1:] == (self.rotations.shape[1],)

    def odds(self) -> np.ndarray:
        """Logarithm of how much likelier the second candidate is than the first (n,), by scores that are probabilities.

        NaN where they are none, or the second is no rival, or one of another phase.
        """
        if self.rotations.shape[1] < 2 or "scores" not in self.properties or not self.has_each("scores"):
            return np.full(len(self.phase), np.nan)
        scores = self.properties["scores"].astype(float)
        first, second = scores[:, :2].T
        known = (self.rival >= 0) & (self.rival == self.phase) & (second > 0)
        known &= are_probabilities(scores[self.phase >= 0])
        return np.log(np.where(known, second, 1.0) / np.where(known, first, np.nan))

    def kept(self) -> dict[str, np.ndarray]:
        """Properties of the candidates that are kept."""
        return {name: x[:, : self.n_best] if self.has_each(name) else x for name, x in self.properties.items()}

    def swapped(self, indices: np.ndarray, second: torch.Tensor) -> dict[str, torch.Tensor]:
        """Give properties of some positions, those of the two first candidates swapped where the `second` won."""
        order = torch.arange(self.rotations.shape[1]).repeat(len(indices), 1)
        if order.shape[1] > 1:
            order[second, :2] = torch.tensor([1, 0])
        values = {name: torch.from_numpy(array[indices]) for name, array in self.properties.items()}
        return {name: x.gather(1, order)[:, : self.n_best] if self.has_each(name) else x for name, x in values.items()}


def _fits_better(one: Refined, other: Refined) -> torch.Tensor:
    """Whether (n,) one fits and the other does not, by much."""
    fits = other.refined & ((other.misfit < _DOUBTFUL) | (_CLEARLY * other.misfit < one.misfit))
    return one.refined & ~fits


class CrystalStep(Step):
    """A step that needs crystals with their atoms, as `phases`; what `prepare` makes on a device begins with ``_``."""

    phases: list

    def __getstate__(self) -> dict:
        plain = {name: value for name, value in self.__dict__.items() if not name.startswith("_")}
        return plain | {"phases": [phase_to_dict(phase) for phase in self.phases]}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state | {"phases": [phase_from_dict(entry) for entry in state["phases"]]})


class RefinementStep(CrystalStep):
    """Refines the orientations of a batch.

    Parameters
    ----------
    phases : list of orix.crystal_map.Phase
        With atoms.
    scan : Scan
        Without its patterns.
    physics : Physics
        Of crystals and microscope.
    start : Start
        What is refined.
    gain : float
        What the detector writes for an electron.
    strain : bool
        Whether to refine the strain, too.
    """

    micro_batch = _AT_ONCE
    keep_every = 256

    def __init__(
        self, phases: list, scan: Scan, physics: Physics, start: Start, gain: float, strain: bool = False
    ) -> None:
        self.phases, self.scan, self.physics, self.start, self.gain = phases, scan, physics, start, gain
        self.strain = strain

    @property
    def fields(self):
        """See :meth:`RefinedMap.fields`."""
        return RefinedMap.fields(self.start.n_best, self.start.kept(), self.strain)

    def prepare(self, device: torch.device) -> None:
        """Compute the potentials of the phases, on the device."""
        self._mask = None if self.scan.signal_mask is None else self.scan.signal_mask.to(device)
        self._odds = self.start.odds()
        found = np.unique([self.start.phase, self.start.rival])
        self._refiners = {
            int(i): Refiner(self.phases[i], self.scan.calibration, self.physics, device) for i in found[found >= 0]
        }

    def __call__(self, patterns: torch.Tensor, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Refined orientations of a batch, and what the map said beside them."""
        patterns, usable = usable_patterns(in_electrons(patterns, self.gain), self._mask)
        rotations = torch.from_numpy(self.start.rotations[indices]).to(patterns.device).double()
        given = Given(patterns, self._mask, self.scan.batch_centers(patterns, indices))
        phase, rival = self.start.phase[indices], self.start.rival[indices]
        found, strain = self._refined(given, usable, rotations[:, 0], phase)
        second = torch.zeros(len(rotations), dtype=torch.bool)
        odds = self._odds[indices]
        doubtful = ~(found.refined & (found.misfit < _DOUBTFUL)).cpu().numpy() | np.isfinite(odds)
        rows = np.flatnonzero((rival >= 0) & doubtful & usable.cpu().numpy())
        if len(rows):
            at = torch.from_numpy(rows).to(patterns.device)
            first = found.rows(at)
            other, of_other = self._refined(given[at], usable[at], rotations[at, 1], rival[rows])
            better = self._better(given[at], first, other, phase[rows], odds[rows])
            found = found.with_rows(at, other.where(better, first))
            strain = strain.index_copy(0, at, of_other.where(better[:, None], strain[at]))
            second[rows] = better.cpu()
        if rotations.shape[1] > 1:
            # the second is where the first was
            behind = torch.where(second.to(rotations.device)[:, None], rotations[:, 0], rotations[:, 1])
            rotations = torch.cat([found.rotations[:, None], behind[:, None], rotations[:, 2:]], dim=1)
        else:
            rotations = found.rotations[:, None]
        phase = torch.from_numpy(np.where(second.numpy(), rival, phase))
        told = {"rotations": rotations[:, : self.start.n_best], "phase_id": phase, "candidate": second.long()}
        told |= Strained(*strain.unbind(1))._asdict() if self.strain else {}
        return found._asdict() | self.start.swapped(indices, second) | told

    def _better(self, given: Given, first: Refined, other: Refined, phase, odds: np.ndarray) -> torch.Tensor:
        """Whether (n,) the second candidate is the right one: it fits clearly better, or is likelier with the odds."""
        better = _fits_better(other, first)
        near = first.refined & other.refined & ~better & ~_fits_better(first, other) & (other.misfit < _WRONG)
        likelier = torch.from_numpy(odds).to(better.device)
        for number, refiner in self._refiners.items():
            some = np.flatnonzero((phase == number) & np.isfinite(odds))
            if len(some):
                some = torch.from_numpy(some).to(better.device)
                both = (torch.stack([getattr(x, name)[some] for x in (first, other)], dim=1) for name in _STATE)
                likelier = likelier.index_add(0, some, refiner.look_alikes(given[some], *both).double())
        return better | (near & (likelier > 0))

    def _refined(self, given: Given, usable, rotations, phase: np.ndarray) -> tuple[Refined, torch.Tensor]:
        """Refine one orientation of each pattern, of the phases (n,) that they have; and the strain (n, 6), or NaN."""
        nothing = torch.full((len(rotations),), torch.nan, dtype=torch.float64, device=rotations.device)
        found = Refined(rotations, nothing, nothing, nothing, nothing, torch.zeros_like(usable))
        strain = nothing[:, None].repeat(1, len(Strained._fields))
        for number, refiner in self._refiners.items():
            some = torch.from_numpy(np.flatnonzero(phase == number)).to(rotations.device)
            if not len(some):
                continue
            if self.strain:
                part, of_part = refine_strained(refiner, given[some], rotations[some])
                of_part = torch.stack(of_part, dim=1).where(usable[some, None], torch.nan)
                strain = strain.index_copy(0, some, of_part)
            else:
                part = refiner.refine(given[some], rotations[some])
            found = found.with_rows(some, part.where(usable[some], found.rows(some)))
        return found, strain
