"""Orientations that neighbours propose, compared with the patterns and those of neighbours that look alike."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from pyxem_dl.crystals import load_phases
from pyxem_dl.crystals.checks import check_same_crystal
from pyxem_dl.microstructure.averaging import with_neighbours
from pyxem_dl.models import ANY_CRYSTAL, OrientationModel, load_model, with_phases
from pyxem_dl.orientation import ModelStep, OrientationStep
from pyxem_dl.patterns import Probe
from pyxem_dl.preprocessing import in_electrons, usable_patterns
from pyxem_dl.refinement.spots import measure
from pyxem_dl.refinement.step import CrystalStep
from pyxem_dl.scans import Collected, Computing, Field, Job, Reading, Scan
from pyxem_dl.simulation.beams import Beams

if TYPE_CHECKING:
    from pyxem_dl.microstructure.beliefs import Candidates

# Spots in which light is looked for, and the least radius of one in pixels
_SPOTS, _RADIUS = 40, 1.5


class ComparisonStep(ModelStep):
    """Compares the orientations that are proposed for each pattern of a batch.

    Parameters
    ----------
    model : OrientationModel
        That takes phases.
    scan : Scan
        Without its patterns.
    rotations, phase_id : array, shape (n, m, 4) and (n, m)
        For all positions of the scan.
    gain : float
        What the detector writes for an electron.
    """

    noun = "patterns"

    def __init__(self, model, scan: Scan, rotations: np.ndarray, phase_id: np.ndarray, gain: float) -> None:
        self.model, self.scan, self.gain = model, scan, gain
        self.rotations, self.phase_id, self.micro_batch = rotations, phase_id, model.micro_batch

    @property
    def fields(self) -> dict[str, Field]:
        """Orientations, improved, and their logits."""
        m = self.phase_id.shape[1]
        return {"rotations": Field((m, 4), "float32"), "logits": Field((m,), "float32")}

    def __call__(self, patterns: torch.Tensor, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Compare a batch."""
        rotations, logits = self.model.compare_batch(
            in_electrons(patterns, self.gain), self.scan.calibration, torch.from_numpy(self.rotations[indices]),
            torch.from_numpy(self.phase_id[indices]).clamp_min(0), centers=self.scan.batch_centers(patterns, indices),
            signal_mask=self.scan.signal_mask,
        )  # fmt: skip
        return {"rotations": rotations, "logits": logits}


class LightStep(CrystalStep):
    """Adds up the light that patterns have where orientations have spots.

    Parameters
    ----------
    phases : list of orix.crystal_map.Phase
        With atoms.
    scan : Scan
        Without its patterns.
    radius : float
        Of a spot, in pixels.
    rotations, phase_id : array, shape (n, 4) and (n,)
        For all positions of the scan.
    gain : float
        What the detector writes for an electron.
    """

    noun = "patterns"
    micro_batch = 32

    def __init__(self, phases: list, scan: Scan, radius: float, rotations, phase_id, gain: float) -> None:
        self.phases, self.scan, self.radius, self.gain = phases, scan, radius, gain
        self.rotations, self.phase_id = rotations, phase_id

    @property
    def fields(self) -> dict[str, Field]:
        """Electrons of each spot above the background, and their variance without a spot; 0 where it is not seen."""
        return {"light": Field((_SPOTS,), "float32"), "noise": Field((_SPOTS,), "float32")}

    def prepare(self, device: torch.device) -> None:
        """Compute the strengths of reflections, on the device."""
        calibration = self.scan.calibration
        self._mask = None if self.scan.signal_mask is None else self.scan.signal_mask.to(device)
        self._beams = [
            Beams(phase, calibration.beam_energy, calibration.reciprocal_radius, n_beams=_SPOTS, device=device)
            for phase in self.phases
        ]

    def __call__(self, patterns: torch.Tensor, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Look at a batch."""
        patterns, usable = usable_patterns(in_electrons(patterns, self.gain), self._mask)
        centers = self.scan.batch_centers(patterns, indices)
        rotations = torch.from_numpy(self.rotations[indices]).to(patterns.device)
        light, noise = (torch.zeros(len(patterns), _SPOTS, device=patterns.device) for _ in range(2))
        for number, beams in enumerate(self._beams):
            rows = torch.from_numpy(np.flatnonzero(self.phase_id[indices] == number)).to(patterns.device)
            if not len(rows):
                continue
            given = {"centers": None if centers is None else centers[rows], "signal_mask": self._mask}
            found = measure(patterns[rows], beams.choose(rotations[rows]), self.scan.calibration, self.radius, **given)
            seen = found.used & usable[rows, None]
            seen[:, 0] = False  # the direct beam
            n = seen.shape[1]
            light[rows, :n] = (found.intensity * seen).float()
            noise[rows, :n] = (found.noise * seen).float()
        return {"light": light, "noise": noise}


class Comparison:
    """The patterns of a map, with those of neighbours that look alike, and the model that indexes and compares them.

    Parameters
    ----------
    signal : pyxem.signals.Diffraction2D
        Scan of the map.
    xmap : orix.crystal_map.CrystalMap
        The map.
    phases : list, optional
        The crystals with their atoms, in the order of the map's phases; by default these.
    model : optional
        As of :func:`pyxem_dl.predict_orientation`.
    reading, computing : Reading, Computing
        How the patterns are read, and what computes.
    """

    def __init__(self, signal, xmap, phases, model, reading: Reading, computing: Computing) -> None:
        self.scan = Scan.from_signal(signal, reading)
        if self.scan.size != xmap.is_in_data.size:
            raise ValueError(
                f"The map has {xmap.is_in_data.size} positions, the signal {self.scan.size}: give the signal that the "
                "map was made from; crop both in the same way, or neither."
            )
        ids = [key for key, _ in xmap.phases if key >= 0]
        phases = load_phases([phase for key, phase in xmap.phases if key >= 0] if phases is None else phases)
        if len(phases) != len(ids):
            raise ValueError(f"The map has {len(ids)} phases, and {len(phases)} are given: give one for each.")
        for key, phase in zip(ids, phases, strict=True):
            check_same_crystal(xmap.phases[key], phase)
        model = load_model(ANY_CRYSTAL if model is None else model)
        if not isinstance(model, OrientationModel) or not hasattr(model.network, "compare"):
            raise ValueError(
                f"The model {getattr(model, 'name', model)!r} cannot compare orientations that are given. Leave model "
                f"out for {ANY_CRYSTAL!r}."
            )
        self._phases = phases
        self.model, self.computing = with_phases(model, phases, self.scan.calibration), computing
        self.model.check_domain(self.scan.calibration)
        self.place = np.flatnonzero(xmap.is_in_data)
        self._gain = self.scan.counts_per_electron()
        added = self.scan.data
        if self.scan.shape:
            added = with_neighbours(added, self.scan.calibration.center, self._gain, self.scan.signal_mask)
        self._added = replace(self.scan, data=added)

    def predict(self, n_best: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Orientations (n, n_best, 4) that the model finds in the patterns, their phases and scores (n, n_best)."""
        mask = np.ones(self.scan.size, dtype=bool)
        mask[self.place] = False
        found = self._run(self._added, "Orientations of patterns with their neighbours", f"{n_best} of each", mask,
                          lambda scan: OrientationStep(self.model, scan, n_best, gain=self._gain))  # fmt: skip
        done = found.done[self.place]
        rotations, phase, scores = (found.arrays[name][self.place] for name in ("rotations", "phase_id", "scores"))
        phase = np.where(done[:, None] & (scores > 0), phase, -1)
        return tuple(torch.from_numpy(each) for each in (rotations, phase, scores))

    def _run(self, scan: Scan, title: str, orientations: str, mask: np.ndarray, make_step) -> Collected:
        """Do a step with all patterns of a scan but those of a mask (n,)."""
        scan = replace(scan, navigation_mask=scan.navigation_mask | mask)
        step = make_step(scan.without_data())
        lines = {"Model": self.model.name, "Orientations": f"{orientations} of {scan.n_patterns} patterns"}
        return Job(title, lines, scan, step, self.computing, lambda collected: collected, []).run()

    def __call__(self, candidates: Candidates) -> tuple[torch.Tensor, torch.Tensor]:
        """Improved orientations (n, m, 4), and logits (n, m) of the candidates against none of them."""
        n, m = candidates.phase.shape
        rotations, phase = self._of_scan(candidates.rotations, candidates.phase)
        mask = np.ones(self.scan.size, dtype=bool)
        mask[self.place] = (candidates.phase < 0).all(1).numpy()
        if mask.all():
            return candidates.rotations, torch.zeros(n, m)
        found = self._run(self._added, "Comparison of proposed orientations", f"up to {m} of each", mask,
                          lambda scan: ComparisonStep(self.model, scan, rotations, phase, self._gain))  # fmt: skip
        done = found.done[self.place]
        rotations, logits = (found.arrays[name][self.place] for name in ("rotations", "logits"))
        rotations = np.where(done[:, None, None], rotations, candidates.rotations.numpy())
        return torch.from_numpy(rotations), torch.from_numpy(np.where(done[:, None], logits, 0.0).astype(np.float32))

    def light(self, rotations: torch.Tensor, phase: torch.Tensor) -> torch.Tensor:
        """Measure the light (n,) that patterns alone have where orientations (n, 4) of phases (n,) have spots.

        In standard deviations of what there is without spots, NaN where a phase is -1. Spots count as they shine in the
        patterns of the neighbours that look alike.
        """
        rotations, phase = self._of_scan(rotations, phase)
        mask = np.ones(self.scan.size, dtype=bool)
        mask[self.place] = phase[self.place] < 0
        if mask.all():
            return torch.full((len(self.place),), math.nan)
        try:
            radius = Probe.from_patterns(self.scan.sample_patterns() / self._gain, self.scan.calibration.center).radius
        except ValueError:  # no direct beam to be seen
            radius = _RADIUS
        given = max(radius, _RADIUS), rotations, phase, self._gain
        alone, added = (
            self._run(scan, "Light where proposed orientations have spots", "one", mask,
                      lambda scan: LightStep(self._phases, scan, *given)) for scan in (self.scan, self._added)
        )  # fmt: skip
        light, noise = (alone.arrays[name][self.place] for name in ("light", "noise"))
        weight = (added.arrays["light"][self.place] - light).clip(0)
        own = (weight * light).sum(1) / np.sqrt((weight**2 * noise).sum(1)).clip(1e-9)
        return torch.from_numpy(np.where(alone.done[self.place] & added.done[self.place], own, np.nan))

    def _of_scan(self, rotations: torch.Tensor, phase: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Orientations and phases for all positions of the scan, -1 where the map has none."""
        all_rotations = np.zeros((self.scan.size, *rotations.shape[1:]), dtype=np.float32)
        all_phases = np.full((self.scan.size, *phase.shape[1:]), -1)
        all_rotations[..., 0] = 1
        all_rotations[self.place], all_phases[self.place] = rotations.numpy(), phase.numpy()
        return all_rotations, all_phases
