"""Where and when something was measured, and how a model was trained."""

from __future__ import annotations

import os
import platform
import re
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from pyxem_dl.models import CARD, PRETRAINED, load_model

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
        "versions": {name: _version(name) for name in _PACKAGES},
    }


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        names = re.findall(r"^model name\s*:\s*(.+)$", path.read_text(encoding="utf-8"), flags=re.M)
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        from pyxem_dl import __version__

        return __version__ if package == "pyxem-dl" else "?"


def training_of(model: str) -> dict:
    """Tell how long a model was trained, and where, from its card.

    Parameters
    ----------
    model : str
        Name of a bundled model, or a folder.

    Returns
    -------
    dict
        ``parameters`` (count), and where they are known ``patterns``, ``minutes`` and ``hardware``.
    """
    folder = PRETRAINED / model if (PRETRAINED / model).is_dir() else Path(model)
    found = {"parameters": sum(p.numel() for p in load_model(model).network.parameters())}
    card = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).exists() else ""
    stages = re.findall(r"^\| (?:propose|verify|detect|place) \| (\d+) \| ([\d,]+) \|$", card, re.MULTILINE)
    if stages:
        found["minutes"] = sum(int(minutes) for minutes, _ in stages)
        found["patterns"] = sum(int(patterns.replace(",", "")) for _, patterns in stages)
    where = re.search(r"each seen once, on (.+?), (\S+):$", card, re.MULTILINE)
    if where:
        found |= {"hardware": where[1], "precision": where[2]}
    return found
