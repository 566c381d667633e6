"""What Lightning runs: batches, loss, validation, and the clock."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace

import lightning
import torch
from torch.utils.data import DataLoader, IterableDataset

from pyxem_dl import symmetry
from pyxem_dl.networks import N_PROPOSED
from pyxem_dl.preprocessing import PolarPreprocessing
from pyxem_dl.simulation import PatternSimulator
from pyxem_dl.training.running import place_among_processes

VALIDATION_PATTERNS = 768
# The threshold of the score lets this share of patterns without a crystal pass.
FALSE_CRYSTALS = 0.01
# Reflections that are looked up for a candidate; displacements (Å⁻¹) up to which three sample points along the
# radius find a spot
_MAX_SPOTS, _NARROW = 48, 0.1
#: Probabilities above which proposals may be taken for certain, and the share of right predictions that this may cost
CERTAIN = (0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
_LOSS = 0.003
# Crystals by which it is judged, at least
_FEWEST = 300
# Validations take this share of the time at most.
VALIDATION_SHARE = 0.1


class SimulatedBatches(IterableDataset):
    """Endless batches of polar patterns with their orientation and phase.

    Each batch gathers several setups (detector, disk radius, scattering), and each setup is
    simulated anew.

    Parameters
    ----------
    simulator : PatternSimulator
        Makes the patterns.
    preprocessing : PolarPreprocessing
        The model's.
    batch_size : int
        Patterns in a batch.
    """

    def __init__(self, simulator, preprocessing: PolarPreprocessing, batch_size: int) -> None:
        self.simulator, self.preprocessing = simulator, preprocessing
        self.n_setups = self._all_setups = max(1, batch_size // simulator.settings.setup_size)

    def make(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Make one batch: polar (n, 2, n_k, n_phi), rotations (n, 4), phase_id (n,)."""
        parts = []
        with torch.no_grad():
            for s in self._setups():
                polar = self.preprocessing(s.patterns, s.calibration, signal_mask=s.signal_mask)
                parts.append((polar, s.rotations, s.phase_id))
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))

    def _setups(self) -> Iterator:
        """Patterns of all setups of a batch; on a device those of many are made together."""
        simulator = self.simulator
        at_once = 1 if simulator.device.type == "cpu" else simulator.most_setups()
        for start in range(0, self.n_setups, at_once):
            yield from simulator.several(min(at_once, self.n_setups - start))

    def reseed(self, seed: int) -> None:
        """Go on with other patterns."""
        self.simulator.reseed(seed)

    def divide(self) -> None:
        """Make this process' share of the batches, and other patterns than its fellows."""
        rank, world = place_among_processes()
        if world > 1:
            self.n_setups = max(1, self._all_setups // world)
            seed = int(torch.randint(2**31, (), generator=self.simulator.host_generator))
            self.simulator.reseed(seed + 7919 * rank)

    def __iter__(self) -> Iterator:
        self.divide()
        while True:
            yield self.make()


def add_verifier(network, table, reciprocal_radius: float, beam_energy: float, displacement: float) -> None:
    """Give the polar network what it needs to verify its proposals; what it learnt before stays as it is.

    Parameters
    ----------
    network : PolarNetwork
        Without a verifier.
    table : ReflectionTable
        The phases' reflections.
    reciprocal_radius : float
        How far out the network looks, in Å⁻¹.
    beam_energy : float
        In kV.
    displacement : float
        How far the distortions of a detector displace a spot at the rim, at most, in Å⁻¹.
    """
    n_reflections = table.g.shape[1]
    network.add_verifier(
        n_reflections=n_reflections,
        # about as many as a low-index zone axis shows: a layer through the origin is an eighth
        n_spots=min(_MAX_SPOTS, max(16, n_reflections // 8)),
        # a spot at the rim must not be displaced out of its sample points
        n_radial=3 if displacement < _NARROW else 5,
        reciprocal_radius=reciprocal_radius,
        beam_energy=beam_energy,
    )
    network.comparison.set_reflections(table)


class ClockedTraining(lightning.LightningModule, ABC):
    """What Lightning runs for every network: learning rate, validation, and the clock.

    Subclasses say what is learnt (``trainable``), ``training_step`` and ``validation_results``.

    Parameters
    ----------
    configuration : TrainingConfiguration
        With ``stages``, ``rate``, ``learning_rate``, ``weight_decay``, ``validation_minutes``
        and ``seed``.
    stage : str
        Of the configuration's.
    batches : iterable
        Endless batches, with ``reseed(seed)``.
    """

    def __init__(self, configuration, stage: str, batches) -> None:
        super().__init__()
        self.configuration, self.stage, self.batches = configuration, stage, batches
        self.minutes, self.steps = configuration.stages()[stage]
        self.elapsed = 0.0
        self.patterns_seen = 0
        self.results: dict[str, float] = {}
        self._tick = self._validated = 0.0
        self._pause = configuration.validation_minutes
        self._best, self._not_better = float("inf"), 0

    @property
    @abstractmethod
    def trainable(self):
        """The network whose weights are learnt."""

    @abstractmethod
    def validation_results(self) -> dict[str, float]:
        """Return what the log says of the network as it is now."""

    @abstractmethod
    def validation_objective(self, results: dict[str, float]) -> float:
        """How far validation results are from the best there could be: what ``patience`` watches."""

    @property
    def progress(self) -> float:
        """Share of the stage that is done, by the clock or by steps."""
        return max(self.elapsed / (60 * self.minutes), self.global_step / self.steps)

    def configure_optimizers(self):
        """Return AdamW with a learning rate that follows the clock."""
        c = self.configuration
        optimizer = torch.optim.AdamW(
            self.trainable.parameters(), c.learning_rate, weight_decay=c.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: c.rate(self.progress, step)
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def train_dataloader(self) -> DataLoader:
        """Return a loader of endless batches."""
        # batches come whole and on their device
        return DataLoader(self.batches, batch_size=None, num_workers=0)

    def on_train_start(self) -> None:
        """Start the clock, with dropout and batch normalisation as they are for learning."""
        # Lightning leaves a network as it comes, and that of a model comes ready to predict
        self.trainable.train()
        self._tick = time.monotonic()
        self._validated = self.elapsed

    def on_train_batch_end(self, *_) -> None:
        """Stop the clock, validate when it is time, end the stage when it is over."""
        now = time.monotonic()
        self.elapsed += now - self._tick
        self._tick = now
        if self.trainer.world_size > 1:
            # one clock for all: what one does at this step, all do
            self.elapsed = self.trainer.strategy.broadcast(self.elapsed)
        since = (self.elapsed - self._validated) / 60
        if since > self._pause or self.progress >= 1:
            self._validated = self.elapsed
            self.results = self.validation_results()
            # a slow network is to learn most of the time
            took = (time.monotonic() - now) / 60
            self._pause = max(self.configuration.validation_minutes, took / VALIDATION_SHARE)
            self.log_dict(
                self.results
                | {"minutes": self.elapsed / 60, "patterns": float(self.patterns_seen)}
            )
            stuck = self._is_stuck(self.validation_objective(self.results))
            if self.trainer.world_size > 1:
                # nobody may validate alone, and wait for the others
                stuck, self._pause = self.trainer.strategy.broadcast((stuck, self._pause))
            if stuck:
                self.trainer.should_stop = True
        if self.progress >= 1:
            self.trainer.should_stop = True

    def _is_stuck(self, objective: float) -> bool:
        """Whether the validation has not become better for as long as the configuration's patience."""
        self._not_better = 0 if objective < self._best else self._not_better + 1
        self._best = min(objective, self._best)
        return self.configuration.patience is not None and self._not_better >= self.configuration.patience

    def on_save_checkpoint(self, checkpoint) -> None:
        """Keep the clock."""
        checkpoint["clock"] = {
            "elapsed": self.elapsed, "patterns": self.patterns_seen, "results": self.results,
            "best": self._best, "not_better": self._not_better,
        }

    def on_load_checkpoint(self, checkpoint) -> None:
        """Take the clock up again, with patterns that were not seen before."""
        clock = checkpoint["clock"]
        self.elapsed, self.patterns_seen = clock["elapsed"], clock["patterns"]
        self.results = clock["results"]
        self._best, self._not_better = clock.get("best", float("inf")), clock.get("not_better", 0)
        self.batches.reseed(self.configuration.seed + self.patterns_seen + 1)


class OrientationTraining(ClockedTraining):
    """Loss and validation of the orientation network.

    Parameters
    ----------
    network : PolarNetwork
        With a verifier where it learns to verify.
    configuration : TrainingConfiguration
        Of the training.
    stage : {"propose", "verify", "train"}
        What is learnt: to propose, to verify, or all that there is.
    batches : SimulatedBatches or LabelledBatches
        To train on.
    validation : tuple of tensor
        A batch that is not trained on.
    """

    def __init__(self, network, configuration, stage, batches, validation) -> None:
        super().__init__(configuration, stage, batches)
        self.network, self._validation = network, validation

    @property
    def trainable(self):
        """The whole network, or its verifier alone."""
        return self.network.comparison if self.stage == "verify" else self.network

    def training_step(self, batch, _):
        """Return the loss of a batch."""
        loss = self._verify_loss(batch) if self.stage == "verify" else self._proposal_loss(batch)
        self.patterns_seen += len(batch[0]) * self.trainer.world_size
        self.log("loss", loss, prog_bar=True, sync_dist=self.trainer.world_size > 1)
        return loss

    def _proposal_loss(self, batch):
        loss, parts = self.network.loss(*batch)
        self.log_dict({f"loss_{name}": value for name, value in parts.items()})
        return loss

    def _verify_loss(self, batch):
        polar, rotations, phase_id = batch
        with torch.no_grad():
            proposed = self.network.propose(polar, N_PROPOSED)
        return self.network.comparison.loss(
            polar, proposed, rotations, phase_id, self.network.operations
        )

    def validation_results(self) -> dict[str, float]:
        """Accuracy on patterns that are not trained on."""
        results = validate(self.network, *self._validation)
        self.log("right_5deg", results["within_5_modulo_180"], prog_bar=True)
        return results

    def validation_objective(self, results):
        """Share of the crystals whose orientation is not found."""
        return 1 - results["within_5_modulo_180"]


def validate(network, polar, rotations, phase_id) -> dict[str, float]:
    """Accuracy of a network on labelled polar patterns.

    Returns
    -------
    dict of float
        Shares within 2 and 5 degrees of the truth and the median disorientation in degrees,
        strict and modulo 180 degrees about the beam, over the patterns with a crystal;
        ``misindexing_rate`` (strict, 5 degrees, a wrong phase included) and ``phase`` (share
        of right phases); ``empty`` (share of right decisions between crystal and none).
    """
    training = network.training
    network.eval()
    parts = []
    with torch.inference_mode():
        for i in range(0, len(polar), 128):
            parts.append(network.predict(polar[i : i + 128], 1))
    network.train(training)
    found = torch.cat([part.rotations[:, 0] for part in parts])
    phase = torch.cat([part.phase_id[:, 0] for part in parts])
    crystal = torch.cat([part.crystal for part in parts])
    there = phase_id >= 0
    right_phase = (phase == phase_id)[there]
    operations = network.operations[phase_id[there]]
    result = {}
    for name, modulo in (("strict", False), ("modulo_180", True)):
        angle = symmetry.disorientation_angle(
            found[there], rotations[there], operations, modulo_180=modulo
        )
        angle = torch.where(right_phase, torch.rad2deg(angle), 180.0)
        result[f"within_2_{name}"] = float((angle < 2).float().mean())
        result[f"within_5_{name}"] = float((angle < 5).float().mean())
        result[f"median_{name}"] = float(angle.median())
    result["misindexing_rate"] = 1 - result["within_5_strict"]
    result["phase"] = float(right_phase.float().mean())
    result["empty"] = float(((crystal > 0.5) == there).float().mean())
    return result


def fit_certainty(network, polar, rotations, phase_id) -> None:
    """Let a network verify the doubtful alone: find above which probability its proposals may be taken for certain.

    Parameters
    ----------
    network : torch.nn.Module
        One that has no verifier stays as it is.
    polar, rotations, phase_id : tensor
        Patterns that were not trained on, see :func:`validate`.  By too few of them nothing is taken for certain.

    Notes
    -----
    The lowest of :data:`CERTAIN` with which hardly less is right, within 2 and within 5 degrees, than if all proposals
    are verified.
    """
    if getattr(network, "comparison", None) is None:
        return
    network.take_for_certain(1.0)
    if int((phase_id >= 0).sum()) < _FEWEST:
        return
    all_verified = validate(network, polar, rotations, phase_id)
    for threshold in CERTAIN:
        network.take_for_certain(threshold)
        found = validate(network, polar, rotations, phase_id)
        if all(found[name] >= all_verified[name] - _LOSS for name in ("within_2_strict", "within_5_strict")):
            return
    network.take_for_certain(1.0)


def fit_score_threshold(network, batches: SimulatedBatches, seed: int) -> float:
    """Score of a network that all but 1 % of simulated patterns without a crystal stay below."""
    simulator = batches.simulator
    empty = PatternSimulator(
        simulator.phases, simulator.beam_energy, simulator.reciprocal_radius,
        replace(simulator.settings, empty_share=1.0),
        seed=seed + 2_000_000, device=simulator.device,
    )
    polar, _, _ = SimulatedBatches(empty, batches.preprocessing, VALIDATION_PATTERNS).make()
    with torch.inference_mode():
        scores = torch.cat([network.predict(p, 1).scores[:, 0] for p in polar.split(128)])
    return round(float(scores.float().quantile(1 - FALSE_CRYSTALS)), 4)
