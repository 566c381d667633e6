"""Training of orientation models on simulated patterns, with Lightning.

The clock rules: a training has a time limit, its learning rate follows the share of the
time that has passed, and an interrupted training goes on where it was.
"""

from __future__ import annotations

import math
import platform
import shutil
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, IterableDataset

from pyxem_dl import rotations as rot
from pyxem_dl.crystals import load_phases, phase_to_dict
from pyxem_dl.models import OrientationModel
from pyxem_dl.networks import build_network
from pyxem_dl.preprocessing import PolarPreprocessing
from pyxem_dl.simulation import PatternSimulator, SimulationSettings

_VALIDATION_PATTERNS = 768
_CHECKPOINT = "checkpoint"


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
    max_steps : int, optional
        Limit on the number of batches; the earlier limit ends the training.
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
    network : torch.nn.Module
        With ``loss`` and ``predict``.
    configuration : TrainingConfiguration
        Of the training.
    validation : tuple of tensor
        A batch of :class:`SimulatedBatches` that is not trained on.
    """

    def __init__(self, network, configuration: TrainingConfiguration, validation) -> None:
        super().__init__()
        self.network, self.configuration = network, configuration
        self._validation = validation
        self.elapsed = 0.0
        self.patterns_seen = 0
        self.results: dict[str, float] = {}
        self._tick = self._validated = None

    @property
    def progress(self) -> float:
        """Share of the training that is done, by the clock or by steps."""
        share = self.elapsed / (60 * self.configuration.max_minutes)
        if self.configuration.max_steps:
            share = max(share, self.global_step / self.configuration.max_steps)
        return share

    def configure_optimizers(self):
        c = self.configuration
        optimizer = torch.optim.AdamW(
            self.network.parameters(), c.learning_rate, weight_decay=c.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: c.rate(self.progress, step)
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def on_train_start(self) -> None:
        self._tick = time.monotonic()
        self._validated = self.elapsed

    def training_step(self, batch, _):
        loss, parts = self.network.loss(*batch)
        self.patterns_seen += len(batch[0])
        self.log("loss", loss, prog_bar=True)
        self.log_dict({f"loss_{name}": value for name, value in parts.items()})
        return loss

    def on_train_batch_end(self, *_) -> None:
        now = time.monotonic()
        self.elapsed += now - self._tick
        self._tick = now
        minutes = self.configuration.validation_minutes
        if self.elapsed - self._validated > 60 * minutes or self.progress >= 1:
            self._validated = self.elapsed
            self.results = validate(self.network, *self._validation)
            numbers = self.results | {
                "minutes": self.elapsed / 60, "patterns": float(self.patterns_seen),
            }
            self.log_dict(numbers)
            self.log("right_5deg", self.results["within_5_modulo_180"], prog_bar=True)
        if self.progress >= 1:
            self.trainer.should_stop = True

    def on_save_checkpoint(self, checkpoint) -> None:
        checkpoint["clock"] = {"elapsed": self.elapsed, "patterns": self.patterns_seen}

    def on_load_checkpoint(self, checkpoint) -> None:
        self.elapsed = checkpoint["clock"]["elapsed"]
        self.patterns_seen = checkpoint["clock"]["patterns"]


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
    network.eval()
    parts = []
    with torch.inference_mode():
        for i in range(0, len(polar), 128):
            parts.append(network.predict(polar[i : i + 128], 1))
    network.train()
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
    phases,
    *,
    beam_energy: float,
    reciprocal_radius: float,
    output,
    max_minutes: float = 20.0,
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
        What the model is to tell apart.
    beam_energy : float
        In kV.
    reciprocal_radius : float
        How far out the model looks, in 1/Angstrom: about as far as reflections are seen.
    output : path
        The model's folder; made if it is not there.
    max_minutes : float
        Time limit.
    resume : bool
        Go on from the checkpoint of an interrupted training in the same folder.
    device : str
        "auto", "cpu", "cuda", "mps".
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
    """
    configuration = TrainingConfiguration(
        beam_energy=beam_energy, reciprocal_radius=reciprocal_radius,
        max_minutes=max_minutes, **settings,
    )
    phases = load_phases(phases)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    trainer, module = _prepare(phases, configuration, output, device, show_progressbar)
    checkpoint = output / _CHECKPOINT / "last.ckpt"
    go_on = checkpoint if resume and checkpoint.is_file() else None
    print(
        f"Training {name or output.name}: {', '.join(p.name for p in phases)}; "
        f"{beam_energy:g} kV, to {reciprocal_radius:g} 1/Å; {max_minutes:g} minutes on "
        f"{trainer.strategy.root_device}, precision {trainer.precision}"
        + (f"; going on from {checkpoint}" if go_on else "")
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        # our own checkpoint, which holds no more than Lightning's and the clock
        trainer.fit(module, SimulatedLoader(module), ckpt_path=go_on, weights_only=False)
    if module.progress < 1:
        raise KeyboardInterrupt(f"Interrupted; call again with resume=True to go on in {output}.")
    return _finish(module, phases, configuration, output, trainer, name, description)


def SimulatedLoader(module: OrientationTraining) -> DataLoader:  # noqa: N802 (reads as a class)
    """Loader of the module's endless batches, which come whole and on their device."""
    return DataLoader(module.batches, batch_size=None, num_workers=0)


def _prepare(phases, configuration, output, device, show_progressbar):
    """Trainer and module for a training."""
    from hyperspy.api import preferences

    if show_progressbar is None:
        show_progressbar = preferences.General.show_progressbar
    lightning.seed_everything(configuration.seed, verbose=False)
    accelerator = {"cuda": "gpu"}.get(device, device)
    trainer = lightning.Trainer(
        accelerator=accelerator, devices=1, precision=_precision(device),
        max_steps=configuration.max_steps or -1, max_epochs=-1, gradient_clip_val=1.0,
        logger=CSVLogger(output / _CHECKPOINT, name="log", version="", flush_logs_every_n_steps=50),
        callbacks=[
            ModelCheckpoint(
                output / _CHECKPOINT, save_last=True, save_top_k=0, every_n_train_steps=200
            ),
            *([TQDMProgressBar(refresh_rate=10)] if show_progressbar else []),
        ],
        log_every_n_steps=25, enable_model_summary=False,
        enable_progress_bar=bool(show_progressbar),
    )
    root = trainer.strategy.root_device
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
    module = OrientationTraining(network.to(root), configuration, validation)
    # a resumed training must not see the patterns of its beginning again
    done = len(list((output / _CHECKPOINT).glob("*.ckpt"))) and int(time.time()) % 1_000_003
    module.batches = batches(configuration.seed + 7 * done, configuration.batch_size)
    return trainer, module


def _precision(device: str) -> str:
    """bfloat16 where the hardware computes in it."""
    if device in ("auto", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    if device == "mps" or (device == "auto" and torch.backends.mps.is_available()):
        return "32-true"
    return "bf16-mixed" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "32-true"


def _finish(module, phases, configuration, output, trainer, name, description):
    """Write the model folder and its card; the checkpoint has done its work."""
    simulator = module.batches.simulator
    scales = [d.scale[0] for d in simulator._detectors]
    model = OrientationModel(
        network_name="polar",
        network=module.network.float().cpu(),
        preprocessing=module.batches.preprocessing,
        phases=phases,
        domain={
            "beam_energy": configuration.beam_energy,
            "reciprocal_radius": configuration.reciprocal_radius,
            "scale": [0.5 * min(scales), 2.0 * max(scales)],
            "disk_radius": list(configuration.simulation.disk_radius),
        },
        name=name or output.name,
        description=description or f"{', '.join(p.name for p in phases)} at "
        f"{configuration.beam_energy:g} kV",
    )
    log = output / _CHECKPOINT / "log" / "metrics.csv"
    card = _card(model, module, configuration, trainer)
    model.save(
        output, dtype=torch.float16, card=card, training_log=log if log.is_file() else None,
        reference=module._validation[0][:4],
    )
    shutil.rmtree(output / _CHECKPOINT, ignore_errors=True)
    return model


def _card(model, module, configuration, trainer) -> str:
    """Model card in Markdown: data, metrics, limits, licence, and how it was made."""
    r = module.results
    root = trainer.strategy.root_device
    hardware = (
        torch.cuda.get_device_name(root) if root.type == "cuda"
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    )
    phases = "\n".join(
        f"- {p.name}: space group {p.space_group.number}, lattice "
        f"{', '.join(f'{x:.4g}' for x in phase_to_dict(p)['lattice'])} (Å, degrees)"
        for p in model.phases
    )
    changed = {k: v for k, v in asdict(configuration).items() if k != "simulation"}
    simulation = "\n".join(f"| `{k}` | {v} |" for k, v in asdict(configuration.simulation).items())
    return f"""# {model.name}

{model.description}. Orientation model of pyxem_dl.

{phases}

## Domain
Beam energy {configuration.beam_energy:g} kV, looks out to {configuration.reciprocal_radius:g} 1/Å; disk
radius {' to '.join(f'{x:g}' for x in configuration.simulation.disk_radius)} 1/Å.

## Recipe
`pyxem_dl.train` on patterns that were simulated during training, each seen once: {module.patterns_seen:,}
patterns in {module.elapsed / 60:.0f} minutes on {hardware}, precision {trainer.precision}. Settings:
`{changed}`

| simulation | |
| --- | --- |
{simulation}

## Metrics on {_VALIDATION_PATTERNS} fresh simulated patterns of the same kind
| | strict | modulo 180° |
| --- | --- | --- |
| within 5° | {r['within_5_strict']:.1%} | {r['within_5_modulo_180']:.1%} |
| within 2° | {r['within_2_strict']:.1%} | {r['within_2_modulo_180']:.1%} |
| median | {r['median_strict']:.2f}° | {r['median_modulo_180']:.2f}° |

Misindexing rate (5°, strict) {r['misindexing_rate']:.1%}; right phase {r['phase']:.1%}; crystal or none
{r['empty']:.1%}. These patterns include nearly empty ones with two or three spots: the project's benchmark
has the numbers to compare with.

## Limits
Kinematical and two-beam intensities with random factors, no full dynamical scattering. Patterns outside
the domain are answered, with a warning.

## Licence
GPL-3.0-or-later.
"""
