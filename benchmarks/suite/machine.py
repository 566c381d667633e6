"""Where and when something was measured, and how a model was trained."""

from __future__ import annotations

import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path

import torch

from pyxem_dl.models import load_model
from pyxem_dl.training.running import versions

_PACKAGES = ("pyxem-dl", "torch", "hyperspy", "pyxem", "orix", "diffsims", "numpy", "dask")


def use_threads(threads: int) -> None:
    """Let torch, dask and numba use so many threads."""
    import dask
    import numba

    torch.set_num_threads(threads)
    dask.config.set(num_workers=threads)
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))


def context(device: str, threads: int) -> dict:
    """Date, machine and versions.

    Parameters
    ----------
    device : str
        That torch is asked for.
    threads : int
        Of the CPU.

    Returns
    -------
    dict
        Plain strings and numbers.
    """
    gpu = torch.cuda.get_device_name() if device not in ("cpu", "mps") and torch.cuda.is_available() else None
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load_average": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "gpu": gpu,
        "python": platform.python_version(),
        "system": platform.system(),
        "versions": versions(_PACKAGES),
    }


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        names = re.findall(r"^model name\s*:\s*(.+)$", path.read_text(encoding="utf-8"), flags=re.M)
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def training_of(model: str) -> dict:
    """Tell how long a model was trained, and where, as its ``config.json`` has it.

    Parameters
    ----------
    model : str
        Name of a bundled model, or a folder.

    Returns
    -------
    dict
        ``parameters`` (count), and where they are known ``patterns``, ``minutes`` and ``hardware``.
    """
    model = load_model(model)
    found = {"parameters": sum(p.numel() for p in model.network.parameters())}
    if model.provenance:
        stages = model.provenance["stages"]
        found |= {key: round(sum(stage[key] for stage in stages)) for key in ("minutes", "patterns")}
        found |= {key: model.provenance[key] for key in ("hardware", "precision")}
    return found
