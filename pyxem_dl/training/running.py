"""What every training shares: its folder, its device, and Lightning's trainer."""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import signal
import threading
import warnings
from dataclasses import asdict
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from pyxem_dl.checks import checked, whole_number
from pyxem_dl.crystals import phase_to_dict
from pyxem_dl.models import CONFIG, native_precision
from pyxem_dl.models.description import PhaseEntry
from pyxem_dl.streaming import resolve_device
from pyxem_dl.training.progress import TrainingProgress

CHECKPOINT = "checkpoint"
_MIXED = {"bfloat16": "bf16-mixed", "float32": "32-true"}


def begin(output: Path, phases, configuration, *, resume: bool, overwrite: bool, data: list[str] = ()) -> Path:
    """Make sure of a model's folder, seed all random numbers, and return where checkpoints go.

    `data` are hashes of what else is learnt from: labelled scans, and the model that is trained on.
    """
    if (output / CONFIG).exists() and not overwrite:
        raise FileExistsError(f"{output} holds a model already. Give another folder, or overwrite.")
    work = output / CHECKPOINT
    if not resume:
        shutil.rmtree(work, ignore_errors=True)
    recipe = {"phases": [phase_to_dict(p) for p in phases], "training": asdict(configuration)}
    for phase in recipe["phases"]:  # that the model can be kept, before it learns for hours
        checked(PhaseEntry, phase, f"the phase {phase['name']!r}")
    _claim(work, recipe | ({"data": list(data)} if data else {}))
    lightning.seed_everything(configuration.seed, verbose=False)
    return work


def _claim(work: Path, recipe: dict) -> None:
    """Write down what a folder of checkpoints is of, or make sure that it is of the same."""
    text = json.dumps(recipe, indent=1, ensure_ascii=False)
    path = work / "recipe.json"
    # a call that failed before it learnt anything claims nothing
    learnt = any(work.glob("*/*.ckpt"))
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    if learnt and path.exists():
        raise ValueError(
            f"{work} holds the checkpoints of a training with other phases or settings, or of other "
            f"labels (see {path.name} there). Give the same ones to go on, resume=False to begin anew, or "
            "another folder."
        )
    work.mkdir(parents=True, exist_ok=True)
    # at once: of several processes none may read half of it
    written = work / f"{path.name}.{os.getpid()}"
    written.write_text(text, encoding="utf-8")
    os.replace(written, path)


def device_and_precision(device: str, n_processes: int = 1) -> tuple[torch.device, str]:
    """Device to train on, and bfloat16 where the hardware computes in it."""
    whole_number("devices times nodes", n_processes, 1, 100_000)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    refusal = f"The device {str(device)!r} is not available for training here."
    try:
        device = str(resolve_device(device))
    except ValueError as error:
        raise ValueError(f"{refusal} {error}") from error
    if device != "cpu" and not device.startswith("cuda"):
        raise ValueError(f"{refusal} Use 'auto', 'cpu' or, with an NVIDIA or AMD GPU and a torch built for it, 'cuda'.")
    if n_processes > 1 and device == "cuda":
        # each process makes its patterns where Lightning will put its network
        device = f"cuda:{os.environ.get('LOCAL_RANK', os.environ.get('SLURM_LOCALID', '0'))}"
    return torch.device(device), _MIXED[native_precision(torch.device(device))]


def fit(
    module, folder: Path, root, precision: str, show_progressbar: bool | None, devices: int = 1, nodes: int = 1
) -> None:
    """Run a stage, or the rest of it, with checkpoints in a folder; on several devices with Lightning's DDP."""
    from hyperspy.api import preferences

    if show_progressbar is None:
        show_progressbar = preferences.General.show_progressbar
    # what Lightning says of hardware and tips is no news to a microscopist
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    trainer = lightning.Trainer(
        accelerator={"cuda": "gpu"}.get(root.type, root.type), precision=precision,
        devices=[root.index] if devices * nodes == 1 and root.index is not None else devices, num_nodes=nodes,
        # parts of a network rest in each stage
        strategy="ddp_find_unused_parameters_true" if devices * nodes > 1 else "auto",
        use_distributed_sampler=False,
        max_epochs=-1, gradient_clip_val=1.0, log_every_n_steps=25,
        logger=CSVLogger(folder, name="", flush_logs_every_n_steps=50),
        callbacks=[
            ModelCheckpoint(
                folder, filename="interrupted", save_last=True, save_top_k=0,
                every_n_train_steps=250, save_on_exception=True,
            ),
            *([TrainingProgress()] if show_progressbar else []),
        ],
        enable_model_summary=False, enable_progress_bar=False,
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


def hardware(root: torch.device) -> str:
    """Name what a training ran on."""
    if root.type == "cuda":
        return torch.cuda.get_device_name(root)
    return f"{root.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def place_among_processes() -> tuple[int, int]:
    """Say which process this is, and how many there are."""
    d = torch.distributed
    return (d.get_rank(), d.get_world_size()) if d.is_available() and d.is_initialized() else (0, 1)


def is_first() -> bool:
    """Whether this process writes the model: of several that train together only one does."""
    return place_among_processes()[0] == 0


def wait_for_all() -> None:
    """Wait until all processes that train together are here."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
