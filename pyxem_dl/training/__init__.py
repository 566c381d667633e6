"""Training of orientation models on simulated patterns, with Lightning.

The clock rules: a training has a time limit, its learning rate follows the share of the
time that has passed, and an interrupted training goes on where it was.
"""

from __future__ import annotations

import json
import logging
import platform
import shutil
import signal
import threading
import warnings
from dataclasses import asdict
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger

from pyxem_dl.crystals import load_phases, phase_to_dict
from pyxem_dl.models import CONFIG, OrientationModel, load_model, native_precision
from pyxem_dl.networks import build_network
from pyxem_dl.preprocessing import PolarPreprocessing
from pyxem_dl.rotations import laue_group, setting
from pyxem_dl.simulation import PatternSimulator
from pyxem_dl.training import learning
from pyxem_dl.training.configuration import TrainingConfiguration
from pyxem_dl.training.learning import (
    OrientationTraining,
    SimulatedBatches,
    fit_score_threshold,
    validate,
)
from pyxem_dl.training.report import join_logs, model_card

_CHECKPOINT = "checkpoint"
_MIXED = {"bfloat16": "bf16-mixed", "float32": "32-true"}

__all__ = [
    "OrientationTraining", "SimulatedBatches", "TrainingConfiguration", "train", "validate",
]


def train(
    phases=None,
    *,
    output,
    beam_energy: float | None = None,
    reciprocal_radius: float | None = None,
    max_minutes: float | None = None,
    recipe=None,
    resume: bool = True,
    overwrite: bool = False,
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
    overwrite : bool
        Replace a model that is in the folder already.
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
        For phases, settings or a device that cannot be trained with, and for the checkpoint of
        another training in the folder.
    FileExistsError
        If the folder holds a model already.
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
    name = name or output.name
    if (output / CONFIG).exists() and not overwrite:
        raise FileExistsError(f"{output} holds a model already. Give another folder, or overwrite.")
    work = output / _CHECKPOINT
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    _claim(work, phases, configuration)
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


def _claim(work: Path, phases, configuration: TrainingConfiguration) -> None:
    """Write down what a folder of checkpoints is of, or make sure that it is of the same."""
    claim = {"phases": [phase_to_dict(p) for p in phases], "training": asdict(configuration)}
    text = json.dumps(claim, indent=1, ensure_ascii=False)
    path = work / "recipe.json"
    # a call that failed before it learnt anything claims nothing
    learnt = any(work.glob("*/*.ckpt"))
    if learnt and path.exists() and path.read_text(encoding="utf-8") != text:
        raise ValueError(
            f"{work} holds the checkpoints of a training with other phases or settings (see "
            f"{path.name} there). Give the same ones to go on, resume=False to begin anew, or "
            "another folder."
        )
    work.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


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
        "polar", laue_groups=[laue_group(p).name for p in phases],
        settings=[setting(p).tolist() for p in phases],
        n_k=preprocessing.n_k, n_phi=preprocessing.n_phi, channels=preprocessing.channels,
        **configuration.network,
    )

    def batches(seed, size):
        simulator = PatternSimulator(
            phases, configuration.beam_energy, configuration.reciprocal_radius,
            configuration.simulation, seed=seed, device=root,
        )
        return SimulatedBatches(simulator, preprocessing, size)

    validation = batches(configuration.seed + 1_000_000, learning.VALIDATION_PATTERNS).make()
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
    # Lightning has moved it to the CPU
    last.network.to(batches.simulator.device)
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
        output, dtype=torch.float16, card=model_card(model, modules, where),
        training_log=join_logs(output / _CHECKPOINT, configuration.stages()),
        reference=last._validation[0][:4],
    )
    shutil.rmtree(output / _CHECKPOINT, ignore_errors=True)
    return model
