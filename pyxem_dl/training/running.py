"""What every training shares: its folder, its device, and Lightning's trainer."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import platform
import shutil
import signal
import threading
import time
import warnings
import zipfile
from contextlib import nullcontext, suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO

from pyxem_dl.checks import checked, whole_number
from pyxem_dl.crystals import phase_to_dict
from pyxem_dl.devices import native_precision, resolve_device
from pyxem_dl.files import check_target, claimed, move_aside, replacing
from pyxem_dl.messages import say, warn
from pyxem_dl.models import CONFIG
from pyxem_dl.models.description import PhaseEntry, Titles
from pyxem_dl.training.progress import TrainingProgress

CHECKPOINT = "checkpoint"
# Seconds until a training is kept for the first time (after the step that is under way), and between the next times
_FIRST_KEPT, _KEPT_EVERY = 5.0, 60.0
_MIXED = {"bfloat16": "bf16-mixed", "float32": "32-true"}


def begin(
    output: Path, phases, configuration, *, resume: bool, overwrite: bool, data: list[str] = (),
    titles: tuple[str, str] = ("", ""),
) -> Path:  # fmt: skip
    """Make sure of a model's folder, seed all random numbers, and return where checkpoints go.

    `data` are hashes of what else is learnt from: labelled scans, and the model that is trained on.  `titles` are the
    name of the model, by default the folder's, and its description.
    """
    if (output / CONFIG).exists() and not overwrite:
        raise FileExistsError(f"{output} already holds a model. Give another folder, or overwrite=True.")
    check_target(output / CONFIG, overwrite=True)
    checked(Titles, {"name": titles[0] or output.name, "description": titles[1]}, "the model")
    work = output / CHECKPOINT
    recipe = {"phases": [phase_to_dict(p) for p in phases], "training": asdict(configuration)}
    for phase in recipe["phases"]:  # that the model can be kept, before it learns for hours
        checked(PhaseEntry, phase, f"the phase {phase['name']!r}")
    with _alone(output):
        if not resume:
            shutil.rmtree(work, ignore_errors=True)
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
            f"{work} holds the checkpoints of a training with other phases, settings or "
            f"labels (see {path.name} there). Give the same ones to continue, resume=False to start again, or "
            "another folder."
        )
    # at once: of several processes none may read half of it
    with replacing(path) as written:
        written.write_text(text, encoding="utf-8")


def _alone(output: Path):
    """Let no other training write to a folder; of the processes of one training only the first one claims it."""
    rank = [int(os.environ.get(name, "0") or 0) for name in ("LOCAL_RANK", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK")]
    return nullcontext() if any(rank) else claimed(output / "training")


def device_and_precision(device: str, n_processes: int = 1) -> tuple[torch.device, str]:
    """Device to train on, and bfloat16 where the hardware computes in it."""
    whole_number("devices times nodes", n_processes, 1, 100_000)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    refusal = f"The device {str(device)!r} cannot be used for training here."
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
        plugins=[Checkpoints()],
        callbacks=[
            ModelCheckpoint(
                folder, filename="interrupted", save_last=True, save_top_k=0,
                every_n_train_steps=250, save_on_exception=True,
            ),
            KeptByTheClock(folder / "kept.ckpt"),
            *([TrainingProgress()] if show_progressbar else []),
        ],
        enable_model_summary=False, enable_progress_bar=False,
    )
    checkpoint = _newest_checkpoint(folder)
    if checkpoint:
        say(f"{module.stage}: continuing from {checkpoint}")
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            with _alone(folder.parent.parent):
                trainer.fit(module, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:
        # Lightning has turned Ctrl-C into an exit, and deaf: a notebook must survive it
        raise KeyboardInterrupt(
            f"The training was interrupted after {module.elapsed / 60:.1f} minutes of this stage. "
            f"Nothing is lost: repeat the call to continue from {folder}."
        ) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, interrupt)
    trainer.save_checkpoint(folder / "last.ckpt")


class Checkpoints(TorchCheckpointIO):
    """Checkpoints that hold numbers and plain texts, and nothing that runs when they are read; whole, or not there."""

    def save_checkpoint(self, checkpoint, path, storage_options=None) -> None:
        """Write beside the file, and put it in its place; a full disk leaves the one that was there."""
        try:
            with replacing(path) as new:
                image = io.BytesIO()  # torch's own writer ends without a clear error where a disk is full
                torch.save(checkpoint, image)
                new.write_bytes(image.getbuffer())
        except OSError as error:
            warn(
                f"The checkpoint {path} could not be written ({error}). The training continues; if it is interrupted, "
                "it restarts from an older checkpoint. Free some space."
            )

    def load_checkpoint(self, path, map_location=lambda storage, _: storage, weights_only=True):
        """Read tensors, numbers and texts; whatever else is inside is refused, and does not run."""
        try:
            return torch.load(path, map_location=map_location, weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{path} holds more than the numbers and texts of a checkpoint and could run code: it was not loaded, "
                "and nothing was run. If you do not know where it comes from, delete the folder "
                f"{Path(path).parent.parent}; resume=False starts the training again."
            ) from error


class KeptByTheClock(lightning.Callback):
    """Keeps a training every minute, and the first time after some seconds, however long its steps take.

    Parameters
    ----------
    path : pathlib.Path
        Of the checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._next = 0.0

    def on_train_start(self, trainer, module) -> None:
        """Start the clock."""
        self._next = time.monotonic() + _FIRST_KEPT

    def on_train_batch_end(self, trainer, module, *_) -> None:
        """Write a checkpoint when it is time; of several processes the first one's clock counts."""
        due = time.monotonic() >= self._next
        if trainer.world_size > 1:
            due = trainer.strategy.broadcast(due)
        if due:
            start = time.monotonic()
            trainer.save_checkpoint(self.path)
            now = time.monotonic()
            # it is to take a fiftieth of the time at most
            self._next = now + max(_KEPT_EVERY, 50 * (now - start))


def _newest_checkpoint(folder: Path) -> Path | None:
    """Newest checkpoint that is whole; what is damaged is moved aside."""
    for path in sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            Checkpoints().load_checkpoint(path, map_location="cpu")
            return path
        except ValueError:
            if _holds_pickles(path):
                raise
            error = "it is not a checkpoint"
        except Exception as damage:  # whatever the bytes are
            error = f"{type(damage).__name__}: {damage}".splitlines()[0]
        say(f"{path} is damaged ({error}). It was renamed to {move_aside(path, 'damaged').name}.")
    return None


def _holds_pickles(path: Path) -> bool:
    """Whether a file that cannot be read is one of torch, or a bare pickle, and not just damaged."""
    with open(path, "rb") as file:
        return zipfile.is_zipfile(path) or file.read(1) == b"\x80"


def hardware(root: torch.device) -> str:
    """Name what a training ran on."""
    if root.type == "cuda":
        return torch.cuda.get_device_name(root)
    return f"{root.type} ({platform.machine()}, {torch.get_num_threads()} threads)"


def versions(packages) -> dict[str, str]:
    """Versions of packages, by name; of those that are not installed none."""
    found = {}
    for name in packages:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


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
