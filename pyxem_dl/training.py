"""Training of orientation models on simulated patterns, with Lightning.

The clock rules: a training has a time limit, its learning rate follows the share of the
time that has passed, and an interrupted training goes on where it was.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import platform
import shutil
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, IterableDataset

from pyxem_dl import rotations as rot
from pyxem_dl.crystals import load_phases, phase_to_dict
from pyxem_dl.models import OrientationModel, load_model, native_precision
from pyxem_dl.networks import N_PROPOSED, build_network
from pyxem_dl.preprocessing import PolarPreprocessing
from pyxem_dl.simulation import PatternSimulator, SimulationSettings

_VALIDATION_PATTERNS = 768
# The threshold of the score lets this share of patterns without a crystal pass.
_FALSE_CRYSTALS = 0.01
_CHECKPOINT = "checkpoint"
_MIXED = {"bfloat16": "bf16-mixed", "float32": "32-true"}


@dataclass(frozen=True)
class TrainingConfiguration:
    """All that a training is made of; saved with the weights.

    Parameters
    ----------
    beam_energy : float
        In kV.
    reciprocal_radius : float
        How far out the model looks, in 1/Angstrom.
    max_minutes : float
        Time limit, validation included.
    verification_share : float
        Share of the time in which the network learns to verify its own proposals; before, it
        learns to propose.  0 leaves verification out.
    max_steps : int, optional
        Limit on the number of batches, shared out like the time; the earlier limit counts.
    batch_size : int
        Patterns in a batch; a multiple of ``simulation.setup_size``.
    learning_rate : float
        Its peak, after a short warm-up.
    schedule : {"cosine", "exponential"}
        How the learning rate falls: to 0, or to 2 % of the peak.
    weight_decay : float
        Of AdamW.
    validation_minutes : float
        Time between validations.
    seed : int
        Of weights and patterns.
    network : dict
        Arguments of :class:`pyxem_dl.networks.PolarNetwork` other than the phases'.
    simulation : SimulationSettings
        What the patterns look like.
    """

    beam_energy: float
    reciprocal_radius: float
    max_minutes: float = 20.0
    verification_share: float = 0.25
    max_steps: int | None = None
    batch_size: int = 64
    learning_rate: float = 1.2e-3
    schedule: str = "cosine"
    weight_decay: float = 0.02
    validation_minutes: float = 4.0
    seed: int = 0
    network: dict = field(default_factory=dict)
    simulation: SimulationSettings = field(default_factory=SimulationSettings)

    def __post_init__(self) -> None:
        if self.schedule not in ("cosine", "exponential"):
            raise ValueError(f"schedule is 'cosine' or 'exponential', not {self.schedule!r}.")
        for name in ("beam_energy", "reciprocal_radius", "max_minutes", "learning_rate"):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"{name} must be positive, not {value!r}.")
        if self.batch_size % self.simulation.setup_size:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of the simulation's setup_size "
                f"({self.simulation.setup_size})."
            )

    @classmethod
    def from_dict(cls, entries: dict) -> TrainingConfiguration:
        """Configuration from what ``asdict`` made of one, also after a way through JSON."""
        simulation = entries.get("simulation", SimulationSettings())
        if isinstance(simulation, dict):
            simulation = SimulationSettings(
                **{k: tuple(v) if isinstance(v, list) else v for k, v in simulation.items()}
            )
        return cls(**(entries | {"simulation": simulation}))

    def stages(self) -> dict[str, tuple[float, float]]:
        """Minutes and steps (infinite without a limit) of each stage of the training."""
        shares = {"propose": 1 - self.verification_share, "verify": self.verification_share}
        steps = self.max_steps or math.inf
        return {
            stage: (share * self.max_minutes, math.ceil(share * steps) if self.max_steps else steps)
            for stage, share in shares.items() if share > 0
        }

    def rate(self, progress: float, step: int) -> float:
        """Learning rate relative to its peak, after a share `progress` of the training."""
        warm_up = min(1.0, (step + 1) / 200)
        if self.schedule == "exponential":
            return warm_up * math.exp(math.log(0.02) * progress)
        return warm_up * (0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


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
        self.n_setups = max(1, batch_size // simulator.settings.setup_size)

    def make(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Make one batch: polar (n, 2, n_k, n_phi), rotations (n, 4), phase_id (n,)."""
        parts = []
        with torch.no_grad():
            for _ in range(self.n_setups):
                s = self.simulator()
                polar = self.preprocessing(s.patterns, s.calibration, signal_mask=s.signal_mask)
                parts.append((polar, s.rotations, s.phase_id))
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))

    def __iter__(self) -> Iterator:
        while True:
            yield self.make()


class OrientationTraining(lightning.LightningModule):
    """What Lightning runs: loss, validation, learning rate, and the clock.

    Parameters
    ----------
    network : PolarNetwork
        With a comparison where it learns to verify.
    configuration : TrainingConfiguration
        Of the training.
    stage : {"propose", "verify"}
        What is learnt.
    batches : SimulatedBatches
        To train on.
    validation : tuple of tensor
        A batch that is not trained on.
    """

    def __init__(self, network, configuration, stage, batches, validation) -> None:
        super().__init__()
        self.network, self.configuration, self.stage = network, configuration, stage
        self.batches, self._validation = batches, validation
        self.minutes, self.steps = configuration.stages()[stage]
        self.elapsed = 0.0
        self.patterns_seen = 0
        self.results: dict[str, float] = {}
        self._tick = self._validated = 0.0

    @property
    def progress(self) -> float:
        """Share of the stage that is done, by the clock or by steps."""
        return max(self.elapsed / (60 * self.minutes), self.global_step / self.steps)

    def configure_optimizers(self):
        c = self.configuration
        learner = self.network if self.stage == "propose" else self.network.comparison
        optimizer = torch.optim.AdamW(
            learner.parameters(), c.learning_rate, weight_decay=c.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: c.rate(self.progress, step)
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def train_dataloader(self) -> DataLoader:
        # batches come whole and on their device
        return DataLoader(self.batches, batch_size=None, num_workers=0)

    def on_train_start(self) -> None:
        self._tick = time.monotonic()
        self._validated = self.elapsed

    def training_step(self, batch, _):
        loss = self._proposal_loss(batch) if self.stage == "propose" else self._verify_loss(batch)
        self.patterns_seen += len(batch[0])
        self.log("loss", loss, prog_bar=True)
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

    def on_train_batch_end(self, *_) -> None:
        now = time.monotonic()
        self.elapsed += now - self._tick
        self._tick = now
        since = (self.elapsed - self._validated) / 60
        if since > self.configuration.validation_minutes or self.progress >= 1:
            self._validated = self.elapsed
            self.results = validate(self.network, *self._validation)
            self.log_dict(
                self.results
                | {"minutes": self.elapsed / 60, "patterns": float(self.patterns_seen)}
            )
            self.log("right_5deg", self.results["within_5_modulo_180"], prog_bar=True)
        if self.progress >= 1:
            self.trainer.should_stop = True

    def on_save_checkpoint(self, checkpoint) -> None:
        checkpoint["clock"] = {
            "elapsed": self.elapsed, "patterns": self.patterns_seen, "results": self.results,
        }

    def on_load_checkpoint(self, checkpoint) -> None:
        clock = checkpoint["clock"]
        self.elapsed, self.patterns_seen = clock["elapsed"], clock["patterns"]
        self.results = clock["results"]
        # patterns that were not seen before the interruption
        self.batches.simulator.generator.manual_seed(
            self.configuration.seed + self.patterns_seen + 1
        )


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
        angle = rot.disorientation_angle(
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


def train(
    phases=None,
    *,
    output,
    beam_energy: float | None = None,
    reciprocal_radius: float | None = None,
    max_minutes: float | None = None,
    recipe=None,
    resume: bool = True,
    device: str = "auto",
    show_progressbar: bool | None = None,
    name: str | None = None,
    description: str = "",
    **settings,
) -> OrientationModel:
    """Train an orientation model from nothing but crystal structures.

    Parameters
    ----------
    phases : orix.crystal_map.Phase, path of a CIF file, or a list of these
        What the model is to tell apart; by default the recipe's.
    output : path
        The model's folder; made if it is not there.
    beam_energy : float
        In kV.
    reciprocal_radius : float
        How far out the model looks, in 1/Angstrom: about as far as reflections are seen.
    max_minutes : float, optional
        Time limit, by default 20.
    recipe : str, path or OrientationModel, optional
        A model whose training is the pattern for this one: what is not given here is taken from
        it.  ``train(recipe="al-200kv", output=...)`` makes the bundled model anew.
    resume : bool
        Go on from the checkpoint of an interrupted training in the same folder.
    device : str
        "auto" (CUDA, else CPU), "cpu" or "cuda".
    show_progressbar : bool, optional
        By default HyperSpy's preference.
    name, description : str, optional
        Of the model; the name is by default the folder's.
    **settings
        Further fields of :class:`TrainingConfiguration`.

    Returns
    -------
    OrientationModel
        The trained model; the same as ``load_model(output)``.

    Raises
    ------
    ValueError, FileNotFoundError
        For phases, settings or a device that cannot be trained with.
    KeyboardInterrupt
        If the training is interrupted; the same call goes on where it was.
    """
    given = {
        "beam_energy": beam_energy, "reciprocal_radius": reciprocal_radius,
        "max_minutes": max_minutes,
    }
    settings |= {key: value for key, value in given.items() if value is not None}
    phases, configuration = _from_recipe(recipe, phases, settings)
    phases = load_phases(phases)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    name = name or output.name
    work = output / _CHECKPOINT
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    lightning.seed_everything(configuration.seed, verbose=False)
    root, precision = _device_and_precision(device)
    network, batches, validation = _ingredients(phases, configuration, root)
    print(
        f"Training {name}: {', '.join(p.name for p in phases)}; {configuration.beam_energy:g} kV, "
        f"to {configuration.reciprocal_radius:g} 1/Å; {configuration.max_minutes:g} minutes on "
        f"{root}, precision {precision}"
    )
    modules = []
    for stage in configuration.stages():
        if stage == "verify":
            _add_comparison(network, batches.simulator, configuration)
        module = OrientationTraining(network, configuration, stage, batches, validation)
        _fit(module, work / stage, root, precision, show_progressbar)
        modules.append(module)
    return _finish(modules, phases, output, f"{_hardware(root)}, {precision}", name, description)


def _from_recipe(recipe, phases, settings: dict):
    """Phases and configuration, where they are not given those of another model."""
    entries = {}
    if recipe is not None:
        model = load_model(recipe)
        if not model.training:
            raise ValueError(f"The model {model.name!r} does not say how it was trained.")
        entries, phases = model.training, model.phases if phases is None else phases
    if phases is None:
        raise ValueError("Give the phases to train on (orix Phases or CIF files), or a recipe.")
    missing = {"beam_energy", "reciprocal_radius"} - set(entries) - set(settings)
    if missing:
        raise ValueError(f"Give {' and '.join(sorted(missing))}, or a recipe.")
    return phases, TrainingConfiguration.from_dict(entries | settings)


def _device_and_precision(device: str) -> tuple[torch.device, str]:
    """Device to train on, and bfloat16 where the hardware computes in it."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cpu" and not (device.startswith("cuda") and torch.cuda.is_available()):
        raise ValueError(
            f"The device {device!r} is not available for training here. Use 'auto', 'cpu' or, with "
            "an NVIDIA or AMD GPU and a torch built for it, 'cuda'."
        )
    return torch.device(device), _MIXED[native_precision(torch.device(device))]


def _ingredients(phases, configuration: TrainingConfiguration, root: torch.device):
    """Network, endless batches, and a batch for validation."""
    preprocessing = PolarPreprocessing(configuration.reciprocal_radius)
    network = build_network(
        "polar", laue_groups=[p.point_group.laue.name for p in phases],
        n_k=preprocessing.n_k, n_phi=preprocessing.n_phi, channels=preprocessing.channels,
        **configuration.network,
    )

    def batches(seed, size):
        simulator = PatternSimulator(
            phases, configuration.beam_energy, configuration.reciprocal_radius,
            configuration.simulation, seed=seed, device=root,
        )
        return SimulatedBatches(simulator, preprocessing, size)

    validation = batches(configuration.seed + 1_000_000, _VALIDATION_PATTERNS).make()
    return network.to(root), batches(configuration.seed, configuration.batch_size), validation


def _add_comparison(network, simulator, configuration: TrainingConfiguration) -> None:
    """Give the network what it needs to verify; what it learnt before stays as it is."""
    network.add_comparison(
        n_reflections=simulator.table.g.shape[1],
        reciprocal_radius=configuration.reciprocal_radius,
        beam_energy=configuration.beam_energy,
    )
    network.comparison.set_reflections(simulator.table)


def _fit(module, folder: Path, root, precision: str, show_progressbar: bool | None) -> None:
    """Run a stage, or the rest of it, with checkpoints in a folder."""
    from hyperspy.api import preferences

    if show_progressbar is None:
        show_progressbar = preferences.General.show_progressbar
    # what Lightning says of hardware and tips is no news to a microscopist
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    trainer = lightning.Trainer(
        accelerator={"cuda": "gpu"}.get(root.type, root.type), devices=1, precision=precision,
        max_epochs=-1, gradient_clip_val=1.0, log_every_n_steps=25,
        logger=CSVLogger(folder, name="", flush_logs_every_n_steps=50),
        callbacks=[
            ModelCheckpoint(
                folder, filename="interrupted", save_last=True, save_top_k=0,
                every_n_train_steps=250, save_on_exception=True,
            ),
            *([TQDMProgressBar(refresh_rate=10)] if show_progressbar else []),
        ],
        enable_model_summary=False, enable_progress_bar=bool(show_progressbar),
    )
    checkpoints = sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    if checkpoints:
        print(f"{module.stage}: going on from {checkpoints[-1]}")
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            # our own checkpoint, which holds no more than Lightning's and the clock
            trainer.fit(
                module, ckpt_path=checkpoints[-1] if checkpoints else None, weights_only=False
            )
    except SystemExit:
        # Lightning has turned Ctrl-C into an exit, and deaf: a notebook must survive it
        raise KeyboardInterrupt(
            f"The training was interrupted after {module.elapsed / 60:.1f} minutes of this stage. "
            f"Nothing is lost: the same call goes on from {folder}."
        ) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, interrupt)
    trainer.save_checkpoint(folder / "last.ckpt")


def _hardware(root: torch.device) -> str:
    if root.type == "cuda":
        return torch.cuda.get_device_name(root)
    return f"{root.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def _finish(modules, phases, output, where: str, name: str, description: str):
    """Write the model folder and its card; the checkpoints have done their work."""
    last = modules[-1]
    configuration, batches = last.configuration, last.batches
    low, high = batches.simulator.scale_range
    thresholds = {"crystal": 0.5, "score": fit_score_threshold(last)}
    model = OrientationModel(
        network_name="polar",
        network=last.network.float().cpu(),
        preprocessing=batches.preprocessing,
        phases=phases,
        domain={
            "beam_energy": configuration.beam_energy,
            "reciprocal_radius": configuration.reciprocal_radius,
            # polar bins average what is finer, and interpolate what is coarser
            "scale": [0.25 * low, 2.0 * high],
            "disk_radius": list(configuration.simulation.disk_radius),
        },
        thresholds=thresholds,
        name=name,
        description=description
        or f"{', '.join(p.name for p in phases)} at {configuration.beam_energy:g} kV",
        # as it comes back from config.json
        training=json.loads(json.dumps(asdict(configuration))),
    )
    model.save(
        output, dtype=torch.float16, card=_card(model, modules, where),
        training_log=_join_logs(output / _CHECKPOINT, configuration.stages()),
        reference=last._validation[0][:4],
    )
    shutil.rmtree(output / _CHECKPOINT, ignore_errors=True)
    return model


def fit_score_threshold(module: OrientationTraining) -> float:
    """Score that all but 1 % of simulated patterns without a crystal stay below."""
    simulator = module.batches.simulator
    empty = PatternSimulator(
        simulator.phases, simulator.beam_energy, simulator.reciprocal_radius,
        replace(simulator.settings, empty_share=1.0),
        seed=module.configuration.seed + 2_000_000, device=simulator.device,
    )
    polar, _, _ = SimulatedBatches(empty, module.batches.preprocessing, _VALIDATION_PATTERNS).make()
    with torch.inference_mode():
        scores = torch.cat([module.network.predict(p, 1).scores[:, 0] for p in polar.split(128)])
    return round(float(scores.float().quantile(1 - _FALSE_CRYSTALS)), 4)


def _join_logs(folder: Path, stages) -> Path:
    """One CSV file of the logs of all stages and resumed runs; a column says which stage."""
    rows = []
    for stage in stages:
        logs = (folder / stage).glob("version_*/metrics.csv")
        for log in sorted(logs, key=lambda path: path.stat().st_mtime):
            with open(log, newline="") as file:
                rows += [{"stage": stage} | row for row in csv.DictReader(file)]
    columns = list(dict.fromkeys(key for row in rows for key in row if key != "epoch"))
    with open(folder / "log.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return folder / "log.csv"


def _card(model, modules, where: str) -> str:
    """Model card in Markdown: data, metrics, limits, licence, and how it was made."""
    configuration, r = modules[-1].configuration, modules[-1].results
    phases = "\n".join(
        f"- {p.name}: space group {p.space_group.number}, lattice "
        f"{', '.join(f'{x:.4g}' for x in phase_to_dict(p)['lattice'])} (Å, degrees)"
        for p in model.phases
    )
    stages = "\n".join(
        f"| {m.stage} | {m.elapsed / 60:.0f} | {m.patterns_seen:,} |" for m in modules
    )
    settings = {k: v for k, v in asdict(configuration).items() if k != "simulation"}
    simulation = asdict(configuration.simulation)

    def table(entries):
        return "\n".join(f"| `{key}` | {value} |" for key, value in entries.items())

    radii = " to ".join(f"{x:g}" for x in configuration.simulation.disk_radius)
    return f"""# {model.name}

{model.description}. Orientation model of pyxem_dl.

{phases}

## Domain
Beam energy {configuration.beam_energy:g} kV; looks out to {configuration.reciprocal_radius:g} 1/Å; disk
radius {radii} 1/Å.

## Recipe
`pyxem_dl.train(recipe="{model.name}", output=...)`: with the settings below, on patterns that were simulated during training, each seen
once, on {where}:

| stage | minutes | patterns |
| --- | --- | --- |
{stages}

| setting | |
| --- | --- |
{table(settings)}

| simulation | |
| --- | --- |
{table(simulation)}

## Metrics on {_VALIDATION_PATTERNS} fresh simulated patterns of the same kind
| | strict | modulo 180° |
| --- | --- | --- |
| within 5° | {r["within_5_strict"]:.1%} | {r["within_5_modulo_180"]:.1%} |
| within 2° | {r["within_2_strict"]:.1%} | {r["within_2_modulo_180"]:.1%} |
| median | {r["median_strict"]:.2f}° | {r["median_modulo_180"]:.2f}° |

Misindexing rate (5°, strict) {r["misindexing_rate"]:.1%}; right phase {r["phase"]:.1%}; crystal or none
{r["empty"]:.1%}. Below a score of {model.thresholds["score"]:g} a pattern is not indexed: {_FALSE_CRYSTALS:.0%} of
simulated patterns without a crystal lie above. These patterns include nearly empty ones with two or three spots; the project's
benchmark has numbers to compare with.

## Limits
Kinematical and two-beam intensities with random factors, no full dynamical scattering. Patterns
outside the domain are answered, with a warning.

## Licence
GPL-3.0-or-later.
"""
