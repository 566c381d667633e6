"""Options of several commands, and how they are read."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, get_type_hints

import typer

Device = Annotated[str, typer.Option(help="auto (the best available), cpu, cuda, cuda:1, mps (not to train), ...")]
BeamEnergy = Annotated[
    float | None, typer.Option(help="In kV; by default that in the file of the scan, or in the recipe.", min=0)
]
Labelled = Annotated[
    list[str] | None, typer.Option(help="Scan and labels, scan.zspy:labels.h5 (or .ang, .ctf); can be repeated.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Other settings of the training, key=value; can be repeated.")
]
Devices = Annotated[int, typer.Option(help="GPUs, or processes on a CPU, of each computer.", min=1)]
Nodes = Annotated[int, typer.Option(help="Computers that train together.", min=1)]
Resume = Annotated[bool, typer.Option(help="Continue an interrupted training in the same folder.")]
OverwriteModel = Annotated[bool, typer.Option("--overwrite", help="Replace an existing model.")]
Progress = Annotated[bool, typer.Option(help="Show a progress bar.")]
ScanFile = Annotated[Path, typer.Argument(help="Any file that HyperSpy reads: .zspy, .hspy, .blo, .mib, ...")]
Scale = Annotated[float | None, typer.Option(help="Å⁻¹ per pixel, for a file without calibration.", min=0)]
Center = Annotated[
    str | None, typer.Option(help="Direct beam: 'auto' (found in each pattern) or 'row,column' in pixels.")
]
NavigationMask = Annotated[
    Path | None,
    typer.Option(help="File (.npy, .hspy, .tif, ...) with positions to leave out, shape (y, x), 1 = excluded."),
]
SignalMask = Annotated[
    Path | None, typer.Option(help="File with detector pixels to leave out (beam stop, dead pixels), 1 = excluded.")
]
OutputMap = Annotated[
    Path, typer.Option(help="Where the map goes: .h5 (everything), .ang, .ctf, or .zarr (as it comes).")
]
MapFrame = Annotated[
    str | None,
    typer.Option(help="Convention of the map, as '{turn: 90, flipped: true, inverse: true, crystal_x: a*}'."),
]
OverwriteMap = Annotated[bool, typer.Option("--overwrite", help="Replace an existing map.")]
BatchSize = Annotated[int | None, typer.Option(help="Number of patterns on the device at once.", min=1)]


@dataclass(frozen=True)
class ScanOptions:
    """How a scan is read, and what computes: the options that all commands with a scan have."""

    beam_energy: BeamEnergy = None
    scale: Scale = None
    center: Center = None
    navigation_mask: NavigationMask = None
    signal_mask: SignalMask = None
    batch_size: BatchSize = None
    device: Device = "auto"
    progress: Progress = True

    def settings(self) -> dict:
        """Give the keywords of the methods."""
        return {
            "beam_energy": self.beam_energy, "center": read_center(self.center),
            "navigation_mask": read_mask(self.navigation_mask), "signal_mask": read_mask(self.signal_mask),
            "batch_size": self.batch_size, "device": self.device, "show_progressbar": self.progress,
        }  # fmt: skip


def with_scan_options(command: Callable) -> Callable:
    """Let a command whose last argument is ``options: ScanOptions`` have each of them as an option of its own."""
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "options"]
    shared = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hint)
        for field, hint in zip(fields(ScanOptions), get_type_hints(ScanOptions, include_extras=True).values())
    ]

    @functools.wraps(command)
    def run(**given):
        options = ScanOptions(**{p.name: given.pop(p.name) for p in shared})
        return command(**given, options=options)

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + shared
    run.__signature__ = inspect.Signature(parameters)
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def load_scan(path: Path, scale: float | None):
    """Scan of a file, lazily; `scale` in Å⁻¹ per pixel replaces its calibration."""
    if not path.exists():  # before anything heavy is imported
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    from pyxem_dl.scans.loading import load_scan as load

    signal = load(path)
    if scale is not None:
        for axis in signal.axes_manager.signal_axes:
            axis.scale, axis.offset, axis.units = scale, 0.0, "1/Å"
    return signal


def load_vectors(path: Path):
    """Bragg vectors of a HyperSpy file; None for what holds no vectors."""
    if path.suffix.lower() not in (".hspy", ".zspy") or not path.exists():
        return None
    import hyperspy.api as hs

    from pyxem_dl.results.vector_scan import is_vectors

    try:
        signal = hs.load(str(path), lazy=True)
    except Exception:  # what cannot be read is an error of `load_scan`, which names the file
        return None
    if isinstance(signal, list) or not is_vectors(signal):
        return None
    return hs.load(str(path))


def read_center(text: str | None):
    """Read `center` as `predict_orientation` takes it."""
    if text is None or text == "auto":
        return text
    try:
        row, column = (float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} must be 'auto' or 'row,column'.", param_hint="--center") from None
    return row, column


def read_range(text: str, option: str) -> float | tuple[float, float]:
    """Read a number, or two of them: the smallest and the largest."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= 2:
        raise typer.BadParameter(f"{text!r} must be a number, or 'smallest,largest'.", param_hint=option)
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


def read_frame(text: str | None) -> dict:
    """Read the convention of a map, as `read_labels` takes it."""
    from pyxem_dl.checks import read_yaml

    frame, names = {} if text is None else read_yaml(text, "--frame"), ("inverse", "turn", "flipped", "crystal_x")
    if not isinstance(frame, dict) or set(frame) - set(names):
        message = f"{text!r} must be like '{{turn: 90}}', with {', '.join(names)}."
        raise typer.BadParameter(message, param_hint="--frame")
    return frame


def read_mask(path: Path | None):
    """Array of bool in a file; True (or any number but 0) = excluded."""
    if path is None:
        return None
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    import numpy as np

    if path.suffix.lower() == ".npy":
        mask = np.load(path, allow_pickle=False)
    else:
        import hyperspy.api as hs

        loaded = hs.load(path)
        if isinstance(loaded, list):
            raise ValueError(f"{path} holds {len(loaded)} signals; a mask is a single image.")
        mask = np.asarray(loaded.data)
    if mask.dtype.kind not in "biuf" or (mask.dtype.kind == "f" and not np.isfinite(mask).all()):
        raise ValueError(f"{path} is not a mask: it holds {mask.dtype}, but should hold 0 and 1 (1 = excluded).")
    return mask.astype(bool)


def read_region(text: str | None):
    """Region of a scan: slices "0:20,:" (rows, then columns), or a mask in a file."""
    if text is None or Path(text).exists():
        return read_mask(None if text is None else Path(text))
    try:
        return tuple(slice(*(int(n) if n.strip() else None for n in part.split(":", 1))) for part in text.split(","))
    except ValueError:
        message = f"{text!r} must be like '0:20,:' (rows, columns), or a file with a mask."
        raise typer.BadParameter(message, param_hint="--reference") from None


def read_numbers(text: str | None, name: str, shape: tuple[int, ...]):
    """Array of numbers "1,2,3,4" of some shape."""
    if text is None:
        return None
    import numpy as np

    try:
        return np.array([float(part) for part in text.split(",")]).reshape(shape)
    except ValueError:
        message = f"{text!r} must be {math.prod(shape)} numbers with commas between them."
        raise typer.BadParameter(message, param_hint=name) from None


def check_structures(structures: list[Path] | None) -> None:
    """Make sure that structure files are there, before anything heavy is imported."""
    missing = [str(path) for path in structures or () if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"There is no structure file {', '.join(missing)}.")


def read_labelled(entries: list[str]) -> list[tuple[str, str]]:
    """Pairs of files "scan:labels"; the colon after a drive's letter belongs to the path."""
    pairs = []
    for entry in entries:
        colons = [match.start() for match in re.finditer(":", entry)]
        splits = [(entry[:i], entry[i + 1 :]) for i in colons if not _is_drive(entry[:i])]
        splits = [(scan, labels) for scan, labels in splits if scan and labels]
        if not splits:
            raise typer.BadParameter(f"{entry!r} must be like scan.zspy:labels.h5.", param_hint="--labelled")
        pair = next((pair for pair in splits if all(Path(path).exists() for path in pair)), splits[0])
        for path in pair:
            if not Path(path).exists():
                raise FileNotFoundError(f"There is no file {path!r}.")
        pairs.append(pair)
    return pairs


def _is_drive(text: str) -> bool:
    """Whether a text ends with a drive's letter, "C" or "scan.zspy:C"."""
    return re.search(r"(^|:)[A-Za-z]$", text) is not None


def read_settings(entries: list[str] | None) -> dict:
    """Read settings "key=value", the values as YAML has them."""
    from pyxem_dl.training.configuration import read_yaml

    settings = {}
    for entry in entries or ():
        key, separator, value = entry.partition("=")
        if not separator or not key:
            raise typer.BadParameter(f"{entry!r} must be like key=value.", param_hint="--set")
        settings[key] = read_yaml(value)
    return settings
