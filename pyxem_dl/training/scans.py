"""Labelled scans: what of them is trained on, what is held out, and batches of both."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import IterableDataset

from pyxem_dl import rotations as rot, symmetry
from pyxem_dl.frames import MIRROR_QUATERNION
from pyxem_dl.preprocessing import in_electrons
from pyxem_dl.results.labels import (
    Labels,
    balance_weights,
    check_labels,
    choose_labels,
    hold_out_region,
    in_lab_frame,
    read_labels,
    read_patterns,
)
from pyxem_dl.scans import Scan
from pyxem_dl.scans.fingerprint import fingerprint
from pyxem_dl.training.configuration import LabelledConfiguration
from pyxem_dl.training.running import place_among_processes

VALIDATION_PATTERNS = 768
# Of the positions that are trained on, this share is held out one by one: what a random split would report.
_RANDOM_SHARE = 0.05
_ENERGY_TOLERANCE = 0.05


class LabelledScan:
    """Patterns of a scan with the labels that were chosen, divided into what is trained on and what is not.

    Parameters
    ----------
    signal : hyperspy.signals.Signal2D
        The scan.
    labels : orix.crystal_map.CrystalMap, str or pathlib.Path
        Its labels, or their file.
    configuration : LabelledConfiguration
        Which says what is kept and held out.
    number : int
        Of this scan, and
    n_scans : int
        how many there are: the last one is held out where they are divided by scans.
    phases : list of orix.crystal_map.Phase, optional
        With the symmetries that labels lack.
    """

    def __init__(
        self, signal, labels, configuration: LabelledConfiguration, number: int, n_scans: int, phases: list = ()
    ) -> None:
        c = configuration
        if isinstance(labels, (str, Path)):
            labels = read_labels(labels, **c.label_frame)
        elif c.label_frame:
            labels = in_lab_frame(labels, **c.label_frame)
        self.scan = Scan.from_signal(_loaded(signal))
        self.scan.forget_sample()
        self.labels = Labels.from_map(labels).completed(phases)
        self.calibration = self.scan.calibration
        chosen = choose_labels(self.labels, c.min_score, c.min_reliability)
        check_labels(self.labels, self.scan.data.shape[:-2], chosen)
        self.n_labels, self.n_chosen = int(self.labels.known.sum()), int(chosen.sum())
        held_out, border = self._held_out(chosen, number, n_scans, configuration)
        beside = chosen & ~held_out & ~border
        generator = np.random.default_rng(c.seed + number)
        random = beside & (generator.random(len(beside)) < _RANDOM_SHARE) & (c.split != "random")
        self.train, self.region, self.random = (
            np.flatnonzero(each) for each in (beside & ~random, held_out, random)
        )
        self.phase_id = self.labels.phase_id.copy()

    def _held_out(self, chosen, number: int, n_scans: int, c: LabelledConfiguration):
        nothing = np.zeros_like(chosen)
        if c.split == "random":
            held_out = chosen & (np.random.default_rng(c.seed).random(len(chosen)) < c.validation_share)
            if not (held_out & (self.labels.phase_id >= 0)).any():
                raise ValueError(f"validation_share={c.validation_share:g} holds out no label: give a larger share.")
            return held_out, nothing
        if c.split == "scan":
            if n_scans < 2:
                raise ValueError("split='scan' holds out the last of several scans: give two, or split='region'.")
            return (chosen if number == n_scans - 1 else nothing), nothing
        crystals = chosen & (self.labels.phase_id >= 0)
        held_out, border = hold_out_region(self.scan.data.shape[:-2], crystals, c.validation_share, c.seed)
        return held_out & chosen, border

    def number_phases(self, phases: list) -> None:
        """Turn the map's phase numbers into those of the model's phases, by their names."""
        names = [phase.name for phase in phases]
        missing = [phase.name for phase in self.labels.phases if phase.name not in names]
        if missing and len(phases) == len(self.labels.phases) == 1:
            index = np.array([0, -1])  # another name for the only phase
        elif missing:
            raise ValueError(
                f"The labels have the phase {', '.join(missing)}, which is not one of {', '.join(names)}. Give phases "
                "with the same names."
            )
        else:
            index = np.array([*(names.index(phase.name) for phase in self.labels.phases), -1])
        self.phase_id = index[self.labels.phase_id]
        for i, phase in enumerate(self.labels.phases):
            ours = phases[index[i]]
            if symmetry.laue_group(phase).name != symmetry.laue_group(ours).name:
                raise ValueError(
                    f"The phase {phase.name!r} has the Laue group {symmetry.laue_group(phase).name} in the labels, but "
                    f"{symmetry.laue_group(ours).name} in {ours.name!r}. Make the labels with the phase of the model."
                )

    @property
    def fingerprint(self) -> str:
        """Hash of the scan and of what is learnt from it."""
        return fingerprint(
            self.scan.data, [repr(self.calibration)], (self.labels.rotations, self.phase_id, self.train, self.region)
        )

    @cached_property
    def counts_per_electron(self) -> float:
        """What the detector writes for an electron, as a prediction estimates it."""
        gain = self.scan.counts_per_electron()
        self.scan.forget_sample()
        return gain

    def patterns(self, positions: np.ndarray) -> tuple[np.ndarray, torch.Tensor, torch.Tensor]:
        """Patterns, rotations (m, 4) and phases (m,) at rising positions."""
        patterns = read_patterns(self.scan.data, positions)
        if self.scan.signal_mask is not None:  # pixels that are wrong in every pattern
            patterns = np.where(self.scan.signal_mask.numpy(), 0, patterns)
        return (
            patterns,
            torch.as_tensor(self.labels.rotations[positions], dtype=torch.float32),
            torch.as_tensor(self.phase_id[positions]),
        )

    def weights(self, balance: float) -> np.ndarray:
        """How often each label that is trained on is drawn, 1 on average."""
        return balance_weights(self.labels, self.train, balance) * len(self.train)


def _loaded(signal):
    if not isinstance(signal, (str, Path)):
        return signal
    import hyperspy.api as hs

    if not Path(signal).exists():
        raise FileNotFoundError(f"There is no file {str(signal)!r}.")
    return hs.load(signal, lazy=True)


class LabelledBatches(IterableDataset):
    """Endless batches of labelled patterns, turned and mirrored at random.

    Where several devices train together each takes its share of the same batches.

    Parameters
    ----------
    scans : list of LabelledScan
        Whose training patterns are kept in memory.
    preprocessing : PolarPreprocessing, CartesianPreprocessing or CountedPatterns
        The model's.
    configuration : LabelledConfiguration
        Batch size, seed, and what is turned and mirrored.
    device : torch.device
        Where batches are made.
    """

    def __init__(self, scans, preprocessing, configuration: LabelledConfiguration, device) -> None:
        self.scans, self.preprocessing, self.configuration = scans, preprocessing, configuration
        self.device = torch.device(device)
        self.generator = torch.Generator().manual_seed(configuration.seed)
        self._parts = [scan.patterns(scan.train) for scan in scans]
        self._ends = np.cumsum([0, *(len(scan.train) for scan in scans)])
        weights = [scan.weights(configuration.balance) for scan in scans if len(scan.train)]
        self.weights = torch.as_tensor(np.concatenate(weights), dtype=torch.float32)

    @property
    def n_patterns(self) -> int:
        """Patterns that are trained on."""
        return int(self._ends[-1])

    def reseed(self, seed: int) -> None:
        """Go on with other patterns."""
        self.generator.manual_seed(seed)

    def __iter__(self) -> Iterator:
        while True:
            yield self.make()

    def make(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Make one batch: inputs (n, channels, ...), rotations (n, 4), phase_id (n,)."""
        c = self.configuration
        drawn = torch.multinomial(self.weights, c.batch_size, replacement=True, generator=self.generator)
        turn = math.radians(c.turn) * (2 * torch.rand(c.batch_size, generator=self.generator) - 1)
        mirrored = (torch.rand(c.batch_size, generator=self.generator) < 0.5) & bool(c.mirror)
        rank, world = place_among_processes()
        mine = slice(rank, None, world)
        return self.turned(drawn[mine].numpy(), turn[mine], mirrored[mine])

    def turned(self, drawn: np.ndarray, turn: torch.Tensor, mirrored: torch.Tensor):
        """Patterns of given numbers, turned by angles and mirrored, with the labels that then hold."""
        step = self.preprocessing.turn_step
        if step:
            turn = (turn / step).round() * step
        which = np.searchsorted(self._ends, drawn, side="right") - 1
        parts, order = [], []
        for i in np.unique(which):
            here = np.flatnonzero(which == i)
            index = drawn[here] - self._ends[i]
            patterns, rotations, phase_id = self._parts[i]
            at = torch.from_numpy(here)
            inputs = preprocess(
                self.scans[i], patterns[index], self.preprocessing, self.device,
                turn=turn[at].to(self.device), mirrored=mirrored[at].to(self.device),
            )  # fmt: skip
            parts.append((inputs, rotations[index], phase_id[index]))
            order.append(here)
        back = torch.from_numpy(np.argsort(np.concatenate(order)))
        columns = (torch.cat(column) for column in zip(*parts, strict=True))
        inputs, rotations, phase_id = (column[back.to(column.device)] for column in columns)
        mirror = rot.multiply(rotations, rotations.new_tensor(MIRROR_QUATERNION))
        rotations = torch.where(mirrored[:, None], mirror, rotations)
        rotations = rot.rotate_in_plane(rotations, turn)
        return inputs, rotations.to(self.device), phase_id.to(self.device)


def preprocess(scan: LabelledScan, patterns: np.ndarray, preprocessing, device, **augmentation) -> torch.Tensor:
    """Make a network's inputs of patterns of a scan."""
    x = torch.as_tensor(np.asarray(patterns, dtype=np.float32), device=device)
    with torch.no_grad():
        mask = None if scan.scan.signal_mask is None else scan.scan.signal_mask.to(device)
        x = torch.nan_to_num(x, posinf=0.0, neginf=0.0).clamp_min(0)
        if getattr(preprocessing, "counts_electrons", False):
            x = in_electrons(x, scan.counts_per_electron)
        return preprocessing(x, scan.calibration, signal_mask=mask, **augmentation)


class MixedBatches(IterableDataset):
    """Labelled batches, some of them replaced by simulated ones.

    Parameters
    ----------
    labelled : LabelledBatches
        Measured patterns.
    simulated : SimulatedBatches or SpecialistBatches
        Of the same phases.
    share : float
        Of simulated batches.
    """

    def __init__(self, labelled: LabelledBatches, simulated, share: float) -> None:
        self.labelled, self.simulated, self.share = labelled, simulated, share
        self.preprocessing, self.n_patterns = labelled.preprocessing, labelled.n_patterns

    def reseed(self, seed: int) -> None:
        """Go on with other patterns."""
        self.labelled.reseed(seed)
        self.simulated.reseed(seed)

    def __iter__(self) -> Iterator:
        self.simulated.divide()
        while True:
            chosen = torch.rand((), generator=self.labelled.generator) < self.share
            yield (self.simulated if chosen else self.labelled).make()


def read_scans(labelled, configuration: LabelledConfiguration, phases: list = ()) -> list[LabelledScan]:
    """Read pairs of scans and labels; `phases` have the symmetries that labels lack."""
    if not isinstance(labelled, (tuple, list)):
        raise TypeError(f"labelled must be a list of pairs (signal, labels), not {type(labelled).__name__}.")
    pairs = [labelled] if isinstance(labelled, tuple) and len(labelled) == 2 else list(labelled)
    if not pairs or not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
        raise ValueError("labelled must be a list of pairs (signal, labels): scans and their crystal maps.")
    scans = [LabelledScan(*pair, configuration, i, len(pairs), phases) for i, pair in enumerate(pairs)]
    energies = [scan.calibration.beam_energy for scan in scans]
    known = [energy for energy in energies if energy]
    if known and max(known) > (1 + _ENERGY_TOLERANCE) * min(known):
        raise ValueError(f"The scans have {min(known):g} to {max(known):g} kV: train a model for each beam energy.")
    return scans


def results_by_region(validation: dict, measure: Callable) -> dict[str, float]:
    """Measure on each part of what is held out; results of all but "region" have its name before their own."""
    results = {}
    for name, batch in validation.items():
        found = measure(batch)
        results |= found if name == "region" else {f"{name}_{key}": value for key, value in found.items()}
    return results


def validation_batches(scans, preprocessing, c: LabelledConfiguration, device) -> dict[str, tuple]:
    """Batches of what is held out: "region" and, where it says something else, "random"."""
    batches = {}
    for name in ("region", "random"):
        n = sum(len(getattr(scan, name)) for scan in scans)
        if not n:
            continue
        generator, parts = np.random.default_rng(c.seed + 1), []
        for scan in scans:
            positions = getattr(scan, name)
            share = min(1.0, VALIDATION_PATTERNS / n)
            positions = np.sort(generator.permutation(positions)[: math.ceil(share * len(positions))])
            if len(positions):
                patterns, rotations, phase_id = scan.patterns(positions)
                inputs = torch.cat([
                    preprocess(scan, patterns[i : i + 64], preprocessing, device) for i in range(0, len(patterns), 64)
                ])  # fmt: skip
                parts.append((inputs, rotations.to(device), phase_id.to(device)))
        batches[name] = tuple(torch.cat(column) for column in zip(*parts, strict=True))
    return batches
