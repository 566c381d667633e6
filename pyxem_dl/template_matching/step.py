"""What is done with a batch of patterns, or of vectors, to match them with templates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pyxem_dl.crystals import phase_from_dict, phase_to_dict
from pyxem_dl.devices import on_one_core
from pyxem_dl.results.assembly import MatchedMap
from pyxem_dl.results.vector_scan import VectorReader
from pyxem_dl.scans import Scan, Step
from pyxem_dl.template_matching.bank import TemplateBank
from pyxem_dl.template_matching.pyxem_engine import PYXEM_BATCH, PyxemMatcher
from pyxem_dl.template_matching.refinement import VectorMatcher, spots_of

_MAKERS = {"torch": TemplateBank, "pyxem": PyxemMatcher}


@dataclass(frozen=True, eq=False)
class Templates:
    """From what templates are made: in each process anew, for they are larger than what makes them.

    Parameters
    ----------
    engine : {"torch", "pyxem"}
        Whose.
    phases : list of orix.crystal_map.Phase
        The crystals.
    beam_energy, reciprocal_radius, resolution, max_excitation_error : float
        In kV, Å⁻¹, degrees and Å⁻¹.
    """

    engine: str
    phases: list
    beam_energy: float
    reciprocal_radius: float
    resolution: float
    max_excitation_error: float

    def __getstate__(self) -> dict:
        return self.__dict__ | {"phases": [phase_to_dict(phase) for phase in self.phases]}

    def __setstate__(self, state: dict) -> None:
        phases = [phase_from_dict(entry) for entry in state["phases"]]
        self.__dict__.update(state | {"phases": phases})

    def make(self, device: torch.device | str = "cpu") -> TemplateBank | PyxemMatcher:
        """Simulate them, ours on the device; a CPU does it on one core, so that every process has the same bits."""
        where = {"device": device} if self.engine == "torch" else {}
        with on_one_core():
            return _MAKERS[self.engine].from_phases(
                self.phases, self.beam_energy, self.reciprocal_radius, self.resolution,
                max_excitation_error=self.max_excitation_error, **where,
            )  # fmt: skip


class TemplateStep(Step):
    """Matches a batch of patterns.

    Parameters
    ----------
    templates : Templates
        What is compared with.
    scan : Scan
        Without its patterns.
    n_best : int
        Orientations to keep for each pattern.
    reader : VectorReader, optional
        Reads the tables of vectors that are matched in the place of patterns.
    device : torch.device or str
        Where the templates are made at first.
    """

    def __init__(
        self, templates: Templates, scan: Scan, n_best: int, reader: VectorReader | None = None,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self.templates, self.scan, self.n_best, self.reader = templates, scan, n_best, reader
        self._make(device)
        self._mask = scan.signal_mask
        by_pyxem = templates.engine == "pyxem"
        # pyxem prepares grid and templates anew for each batch, and draws on all cores itself
        self.micro_batch = PYXEM_BATCH if by_pyxem else self.bank.micro_batch
        self.in_threads, self.keep_every = not by_pyxem, PYXEM_BATCH if by_pyxem else 1024

    def __getstate__(self) -> dict:
        return self.__dict__ | {"bank": None, "matcher": None}

    def _make(self, device) -> None:
        """Make the templates, and what matches vectors with them."""
        self.bank, self.matcher = self.templates.make(device), None
        if self.reader is not None and self.reader.has_intensities:
            self.matcher = VectorMatcher.from_bank(
                self.bank, self.templates.beam_energy, max_excitation_error=self.templates.max_excitation_error
            )

    @property
    def fields(self):
        """See :meth:`MatchedMap.fields`."""
        return MatchedMap.fields(self.n_best)

    def prepare(self, device: torch.device) -> None:
        """Make the templates, if they are not made, and bring them to the device."""
        if self.bank is None:
            self._make(device)
        if self.matcher is not None:
            self.matcher.to(device)
        if self.templates.engine == "torch":
            self.bank.to(device)
            self._mask = None if self.scan.signal_mask is None else self.scan.signal_mask.to(device)
        self._device = device

    def __call__(self, patterns, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Best orientations of a batch, as a dict of :class:`~pyxem_dl.results.modes.Match`."""
        if self.matcher is not None:
            found = self.matcher(self.reader(patterns).to(self._device), n_best=self.n_best)
        elif self.reader is not None:
            spots = spots_of(self.reader(patterns).to(self._device))
            found = self.bank.match_spots(len(patterns), *spots, n_best=self.n_best)
        else:
            centers = self.scan.batch_centers(patterns, indices)
            found = self.bank.match(patterns, self.scan.calibration, centers, self._mask, n_best=self.n_best)
        return found._asdict()
