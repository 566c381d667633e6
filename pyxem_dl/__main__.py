"""The command line ``pyxem-dl``.

What is heavy (torch, pyxem) is imported inside the commands, so that ``pyxem-dl --help`` answers at once.
"""

from __future__ import annotations

import functools
import sys
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="pyxem-dl",
    help="Orientations and Bragg disks of 4D-STEM scans by deep learning, and the classical ways to check against.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

_settings = {"debug": False}

Device = Annotated[str, typer.Option(help="auto (the best there is), cpu, cuda, cuda:1, mps (not to train), ...")]
BeamEnergy = Annotated[
    float | None, typer.Option(help="In kV; by default what the file (of a scan) or the recipe says.", min=0)
]
Labelled = Annotated[
    list[str] | None, typer.Option(help="Scan and labels, scan.zspy:labels.h5 (or .ang, .ctf); may be repeated.")
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="Further settings of the training, key=value; may be repeated.")
]


class Section(StrEnum):
    """Parts of the benchmark."""

    kinematical = "kinematical"
    multislice = "multislice"
    mgo = "mgo"
    speed = "speed"
    disks = "disks"
    vectors = "vectors"
    labelled = "labelled"
    labelled_mgo = "labelled_mgo"
    choices = "choices"
    tuning = "tuning"


def _clear_errors(command):
    """Make a command end with a message and an exit code where it would end with a traceback."""

    @functools.wraps(command)
    def run(*args, **kwargs):
        if _settings["debug"]:
            return command(*args, **kwargs)
        try:
            with warnings.catch_warnings():
                _short_warnings()
                return command(*args, **kwargs)
        except KeyboardInterrupt as interrupt:
            typer.echo(f"\n{interrupt}" if str(interrupt) else "\nInterrupted.", err=True)
            raise typer.Exit(130) from None
        except (ImportError, typer.Exit):
            raise  # for a broken installation, where it breaks is what helps
        except (ValueError, TypeError, OSError, RuntimeError) as error:
            name = "" if isinstance(error, (ValueError, OSError)) else f" ({type(error).__name__})"
            typer.echo(f"Error{name}: {error}", err=True)
            if name:
                typer.echo("`pyxem-dl --debug ...` shows where it happened.", err=True)
            raise typer.Exit(1) from None

    return run


def _short_warnings() -> None:
    """Show warnings as one line each, and those of other packages among themselves not at all."""
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message=".*hyperspy.misc.dask_utils.*")

    def show(message, category, filename, lineno, file=None, line=None):
        typer.echo(f"Warning: {message}", err=True)

    warnings.showwarning = show


def _show_version(value: bool) -> None:
    if value:
        from pyxem_dl import __version__

        typer.echo(f"pyxem-dl {__version__}")
        raise typer.Exit()


@app.callback()
def _global_options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    _settings["debug"] = debug


@app.command()
@_clear_errors
def demo(
    output: Annotated[Path, typer.Option(help="Folder for maps and pictures.")] = Path("pyxem-dl-demo"),
    model: Annotated[str, typer.Option(help="Model name or folder.")] = "mgo-300kv",
    pyxem: Annotated[bool, typer.Option(help="Run pyxem's template matching, too (the slowest part).")] = True,
    device: Device = "auto",
) -> None:
    """Index a bundled piece of a real scan of MgO nanocubes, by a network and by template matching."""
    from pyxem_dl.demo import run

    run(output, model, with_pyxem=pyxem, device=device, echo=typer.echo)


@app.command()
@_clear_errors
def train(
    output: Annotated[Path, typer.Option(help="Folder of the model.")],
    structures: Annotated[
        list[Path] | None, typer.Argument(help="CIF files of the phases to tell apart; by default the recipe's.")
    ] = None,
    beam_energy: BeamEnergy = None,
    reciprocal_radius: Annotated[
        float | None, typer.Option(help="How far out spots are seen, in 1/Å.", min=0)
    ] = None,
    labelled: Labelled = None,
    network: Annotated[
        str | None,
        typer.Option(
            help="On labelled scans: polar (default), cnn, densenet121, swin_tiny, swin_tiny_adapted, or one of timm."
        ),
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="Begin with weights learnt on photographs: 'timm', or a local file.")
    ] = None,
    setting: Settings = None,
    max_minutes: Annotated[float | None, typer.Option(help="Time limit; 20 without a recipe.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="A model to take all settings from that are not given: a name or a folder.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights and patterns; 0 without a recipe.")] = None,
    device: Device = "auto",
    devices: Annotated[int, typer.Option(help="GPUs, or processes on a CPU, of each computer.", min=1)] = 1,
    nodes: Annotated[int, typer.Option(help="Computers that train together.", min=1)] = 1,
    resume: Annotated[bool, typer.Option(help="Go on from an interrupted training in the same folder.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that is there.")] = False,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Train a model for a crystal from nothing but its structure, or on labelled scans."""
    _check_structures(structures)
    if (output / "config.json").exists() and not overwrite:
        raise FileExistsError(f"{output} holds a model already. Give another folder, or --overwrite.")
    from pyxem_dl.training import train as train_model

    settings = _read_settings(setting) | ({} if seed is None else {"seed": seed})
    if labelled:
        settings |= {"labelled": _read_labelled(labelled), "pretrained": _read_pretrained(pretrained)}
    elif pretrained:
        raise ValueError("--pretrained is for networks that learn from --labelled scans.")
    settings |= {"network": network, "devices": devices, "nodes": nodes}
    model = train_model(
        structures or None, beam_energy=beam_energy, reciprocal_radius=reciprocal_radius, output=output,
        max_minutes=max_minutes, recipe=recipe, device=device, resume=resume, overwrite=overwrite,
        show_progressbar=progress, **settings,
    )  # fmt: skip
    typer.echo(f"{model} is in {output}; {output / 'README.md'} says how good it is.")


@app.command()
@_clear_errors
def finetune(
    model: Annotated[str, typer.Argument(help="Name of a bundled model, or a model folder.")],
    labelled: Labelled,
    output: Annotated[Path, typer.Option(help="Folder of the adapted model.")],
    setting: Settings = None,
    max_minutes: Annotated[float, typer.Option(help="Time limit.", min=0)] = 10.0,
    seed: Annotated[int, typer.Option(help="Of the patterns.")] = 0,
    device: Device = "auto",
    devices: Annotated[int, typer.Option(help="GPUs, or processes on a CPU, of each computer.", min=1)] = 1,
    nodes: Annotated[int, typer.Option(help="Computers that train together.", min=1)] = 1,
    resume: Annotated[bool, typer.Option(help="Go on from an interrupted training in the same folder.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that is there.")] = False,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Adapt a trained model to one's own microscope, with labelled scans."""
    if not labelled:
        raise typer.BadParameter("give at least one scan.zspy:labels.h5.", param_hint="--labelled")
    from pyxem_dl.training import finetune as adapt

    adapted = adapt(
        model, _read_labelled(labelled), output=output, max_minutes=max_minutes, seed=seed, device=device,
        devices=devices, nodes=nodes, resume=resume, overwrite=overwrite, show_progressbar=progress,
        **_read_settings(setting),
    )  # fmt: skip
    typer.echo(f"{adapted} is in {output}; {output / 'README.md'} says how good it is.")


@app.command()
@_clear_errors
def study(
    plan: Annotated[Path, typer.Argument(help="YAML file: labelled scan, settings, and what is searched.")],
    device: Device = "auto",
) -> None:
    """Search for the best training settings with Optuna; an interrupted study goes on when it is called again."""
    from pyxem_dl.study import run_study

    report = run_study(plan, device=device, echo=typer.echo)
    typer.echo(f"{report.read_text(encoding='utf-8')}\nWritten to {report}.")


def _read_labelled(entries: list[str]) -> list[tuple[str, str]]:
    """Pairs of files "scan:labels"; a colon after a drive's letter belongs to the path."""
    pairs = []
    for entry in entries:
        scan, _, labels = entry.rpartition(":")
        if not scan or not labels or len(scan) == 1:
            raise typer.BadParameter(f"{entry!r} is not like scan.zspy:labels.h5.", param_hint="--labelled")
        for path in (scan, labels):
            if not Path(path).exists():
                raise FileNotFoundError(f"There is no file {path!r}.")
        pairs.append((scan, labels))
    return pairs


def _read_settings(entries: list[str] | None) -> dict:
    """Read settings "key=value", the values as YAML has them."""
    from pyxem_dl.training.configuration import read_yaml

    settings = {}
    for entry in entries or ():
        key, separator, value = entry.partition("=")
        if not separator or not key:
            raise typer.BadParameter(f"{entry!r} is not like key=value.", param_hint="--set")
        settings[key] = read_yaml(value)
    return settings


def _read_pretrained(text: str | None) -> bool | str:
    return False if text is None else True if text == "timm" else text


@app.command()
@_clear_errors
def predict(
    scan: Annotated[Path, typer.Argument(help="Anything that HyperSpy reads: .zspy, .hspy, .blo, .mib, ...")],
    model: Annotated[
        list[str],
        typer.Option(help="Name of a bundled model (see `pyxem-dl models`), or a model folder; several: an ensemble."),
    ],
    output: Annotated[Path, typer.Option(help="Where the crystal map goes: .h5 (everything) or .ang.")],
    n_best: Annotated[int, typer.Option(help="Orientations to keep per position.", min=1)] = 1,
    samples: Annotated[
        int, typer.Option(help="Answers drawn with dropout, for a map of their spread in degrees.", min=0)
    ] = 0,
    beam_energy: BeamEnergy = None,
    scale: Annotated[float | None, typer.Option(help="1/Å per pixel, for a file without calibration.", min=0)] = None,
    center: Annotated[
        str | None, typer.Option(help="Direct beam: 'auto' (found in each pattern) or 'row,column' in pixels.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Patterns on the device at once.", min=1)] = None,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a map that is there.")] = False,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Predict the orientations of a scan into a file; an interrupted run goes on when it is called again."""
    signal = _load_scan(scan, scale)
    from pyxem_dl.orientation import predict_orientation_to_file

    xmap = predict_orientation_to_file(
        signal, model[0] if len(model) == 1 else model, output, n_best=n_best, n_samples=samples,
        beam_energy=beam_energy, center=_read_center(center), batch_size=batch_size, device=device,
        overwrite=overwrite, show_progressbar=progress,
    )  # fmt: skip
    indexed = (xmap.phase_id >= 0).mean()
    typer.echo(f"{xmap.size} positions, {indexed:.1%} indexed, are in {output}.")


@app.command()
@_clear_errors
def vectors(
    scan: Annotated[Path, typer.Argument(help="Anything that HyperSpy reads: .zspy, .hspy, .blo, .mib, ...")],
    output: Annotated[
        Path, typer.Option(help="Where the vectors go: .hspy or .zspy (HyperSpy), .h5 or .emd (py4DSTEM).")
    ],
    model: Annotated[str, typer.Option(help="Name of a bundled detector, or a model folder.")] = "bragg-disks",
    correlation: Annotated[
        bool, typer.Option("--correlation", help="Classical correlation instead of a network.")
    ] = False,
    probe: Annotated[
        Path | None, typer.Option(help="File with the probe in vacuum; by default it is estimated from the scan.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Of the confidence; by default the model's.", min=0)] = None,
    samples: Annotated[
        int, typer.Option(help="Answers drawn with dropout, for columns with their variance.", min=0)
    ] = 0,
    scale: Annotated[float | None, typer.Option(help="1/Å per pixel, for a file without calibration.", min=0)] = None,
    center: Annotated[
        str | None, typer.Option(help="Direct beam: 'auto' (found in each pattern) or 'row,column' in pixels.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Patterns on the device at once.", min=1)] = None,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Find the Bragg disks of a scan into a file; an interrupted run goes on when it is called again."""
    signal = _load_scan(scan, scale)
    vacuum = None if probe is None else _load_scan(probe, scale)
    from pyxem_dl.bragg_vectors import bragg_vectors_to_file

    settings = {} if correlation else {"n_samples": samples}
    found = bragg_vectors_to_file(
        signal, output, None if correlation else model, vacuum, threshold=threshold, center=_read_center(center),
        batch_size=batch_size, device=device, overwrite=overwrite, show_progressbar=progress, **settings,
    )  # fmt: skip
    disks = sum(len(table) for table in found.data.ravel())
    typer.echo(f"{disks} disks of {found.data.size} positions are in {output}.")


@app.command("train-bragg")
@_clear_errors
def train_bragg(
    output: Annotated[Path, typer.Option(help="Folder of the model.")],
    structures: Annotated[
        list[Path] | None, typer.Argument(help="CIF files to simulate disks of; by default eleven common crystals.")
    ] = None,
    max_minutes: Annotated[float | None, typer.Option(help="Time limit; 125 by default.")] = None,
    unet: Annotated[str, typer.Option(help="'real', or 'complex' (on spectra, as it was published).")] = "real",
    seed: Annotated[int, typer.Option(help="Of weights and patterns.")] = 0,
    device: Device = "auto",
    resume: Annotated[bool, typer.Option(help="Go on from an interrupted training in the same folder.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that is there.")] = False,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Train a detector of Bragg disks on simulated convergent-beam patterns."""
    _check_structures(structures)
    from pyxem_dl.training import train_bragg as train_detector

    model = train_detector(
        structures or None, output=output, max_minutes=max_minutes, network={"unet": unet}, seed=seed, device=device,
        resume=resume, overwrite=overwrite, show_progressbar=progress,
    )  # fmt: skip
    typer.echo(f"{model} is in {output}; {output / 'README.md'} says how good it is.")


def _check_structures(structures: list[Path] | None) -> None:
    missing = [str(path) for path in structures or () if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"There is no structure file {', '.join(missing)}.")


def _load_scan(path: Path, scale: float | None):
    """Scan of a file, lazily; `scale` in 1/Angstrom per pixel replaces its calibration."""
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    import hyperspy.api as hs

    signal = hs.load(path, lazy=True)
    if isinstance(signal, list):
        kinds = "; ".join(str(each) for each in signal)
        raise ValueError(
            f"{path} holds {len(signal)} signals ({kinds}). Load it in Python with hyperspy.api.load, "
            "and save the scan alone: signals[0].save('scan.zspy')."
        )
    if scale is not None:
        for axis in signal.axes_manager.signal_axes:
            axis.scale, axis.offset, axis.units = scale, 0.0, "1/Å"
    return signal


def _read_center(text: str | None):
    """Read `center` as `predict_orientation` takes it."""
    if text is None or text == "auto":
        return text
    try:
        row, column = (float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither 'auto' nor 'row,column'.", param_hint="--center") from None
    return row, column


@app.command("models")
@_clear_errors
def show_models() -> None:
    """List the bundled models."""
    from pyxem_dl.models import list_models

    models = list_models()
    width = max(map(len, models), default=0)
    for name, description in models.items():
        typer.echo(f"{name:<{width}}  {description}")
    if not models:
        typer.echo("This installation has no bundled models. Train one: pyxem-dl train --help")


@app.command()
@_clear_errors
def benchmark(
    data: Annotated[Path, typer.Option(help="Folder with the benchmark data.")] = Path("../shared/data"),
    output: Annotated[Path, typer.Option(help="Folder for results.md and results.json.")] = Path("benchmarks"),
    only: Annotated[
        list[Section] | None,
        typer.Option(help="Do these parts; others keep their results. By default those that train nothing."),
    ] = None,
    training_minutes: Annotated[float, typer.Option(help="For each network of the parts that train.", min=0)] = 10.0,
    model: Annotated[
        list[str] | None, typer.Option(help="Further models: al=FOLDER, linio2=FOLDER, mgo=FOLDER or disks=FOLDER.")
    ] = None,
    predictor: Annotated[
        list[str] | None, typer.Option(help="Only these of network, torch, pyxem, py4dstem; the rest stays.")
    ] = None,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(help="Of the CPU.", min=1)] = 2,
) -> None:
    """Measure models and template matching on data with known answers, and write the table."""
    from pyxem_dl import benchmark as bench

    path = bench.run(
        data, output, sections=[section.value for section in only] if only else bench.SECTIONS,
        models=_read_models(model or []), predictors=tuple(predictor or bench.PREDICTORS), device=device,
        threads=threads, training_minutes=training_minutes,
    )  # fmt: skip
    typer.echo(f"\n{path.read_text(encoding='utf-8')}\nWritten to {path} and {path.with_suffix('.json')}.")


def _read_models(entries: list[str]) -> dict[str, list[str]]:
    """Further models by material."""
    models: dict[str, list[str]] = {}
    for entry in entries:
        material, separator, folder = entry.partition("=")
        if material not in ("al", "linio2", "mgo", "disks") or not separator or not folder:
            raise typer.BadParameter(f"{entry!r} is not like al=FOLDER, linio2=FOLDER, mgo=FOLDER or disks=FOLDER.")
        models.setdefault(material, []).append(folder)
    return models


if __name__ == "__main__":
    sys.exit(app())
