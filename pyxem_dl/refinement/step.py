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
from pyxem_dl.scans import Scan, Step

# Patterns that one core refines at once
_AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class Start:
    """What a map says of each position of a scan.

    Parameters
    ----------
    rotations : array, shape (n, n_best, 4)
        Lab to crystal; the first of each position is refined.
    phase : array of int, shape (n,)
        Number in the list of phases, -1: not indexed.
    properties : dict of str to array, shape (n, ...)
        Numbers that the refined map keeps.
    shape : tuple of int
        Of the map, with what is not in its data.
    """

    rotations: np.ndarray
    phase: np.ndarray
    properties: dict[str, np.ndarray]
    shape: tuple[int, ...]


class RefinementStep(Step):
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
        self._refiners = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"phases": [phase_to_dict(phase) for phase in self.phases], "_refiners": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state | {"phases": [phase_from_dict(entry) for entry in state["phases"]]})

    @property
    def fields(self):
        """See :meth:`RefinedMap.fields`."""
        return RefinedMap.fields(self.start.rotations, self.start.properties, self.strain)

    def prepare(self, device: torch.device) -> None:
        """Compute the potentials of the phases, on the device."""
        self._mask = None if self.scan.signal_mask is None else self.scan.signal_mask.to(device)
        found = np.unique(self.start.phase)
        self._refiners = {
            int(i): Refiner(self.phases[i], self.scan.calibration, self.physics, device) for i in found[found >= 0]
        }

    def __call__(self, patterns: torch.Tensor, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Refined orientations of a batch, and what the map said beside them."""
        patterns, usable = usable_patterns(in_electrons(patterns, self.gain), self._mask)
        rotations = torch.from_numpy(self.start.rotations[indices]).to(patterns.device)
        first = rotations[:, 0].double()
        given = Given(patterns, self._mask, self.scan.batch_centers(patterns, indices))
        nothing = torch.full((len(first),), torch.nan, dtype=torch.float64, device=patterns.device)
        found = Refined(first, nothing, nothing, nothing, nothing, torch.zeros_like(usable))
        strain = Strained(*[nothing] * len(Strained._fields))
        phase = self.start.phase[indices]
        for number, refiner in self._refiners.items():
            some = torch.from_numpy(np.flatnonzero(phase == number)).to(patterns.device)
            if not len(some):
                continue
            if self.strain:
                part, of_part = refine_strained(refiner, given[some], first[some])
                of_part = (torch.where(usable[some], x, torch.nan) for x in of_part)
                strain = Strained(*(x.index_copy(0, some, y) for x, y in zip(strain, of_part)))
            else:
                part = refiner.refine(given[some], first[some])
            part = part.where(usable[some], Refined(*(x[some] for x in found)))
            found = Refined(*(x.index_copy(0, some, y) for x, y in zip(found, part)))
        rotations = torch.cat([found.rotations[:, None], rotations[:, 1:].double()], dim=1)
        numbers = {name: torch.from_numpy(array[indices]) for name, array in self.start.properties.items()}
        numbers |= strain._asdict() if self.strain else {}
        return found._asdict() | {"rotations": rotations, "phase_id": torch.from_numpy(phase)} | numbers
