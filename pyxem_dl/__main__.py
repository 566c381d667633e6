"""The command line ``pyxem-dl``.

What is heavy (torch, pyxem) is imported inside the commands, so that ``pyxem-dl --help`` answers at once.
"""

from __future__ import annotations

import functools
import sys
import time
import warnings
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="pyxem-dl",
    help="Orientation maps from 4D-STEM scans with deep learning, and template matching beside it to check against.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

_settings = {"debug": False}

Device = Annotated[str, typer.Option(help="auto (the best there is), cpu, cuda, cuda:1, mps (not to train), ...")]
BeamEnergy = Annotated[
    float | None, typer.Option(help="In kV; by default what the file (of a scan) or the recipe says.", min=0)
]


class Section(StrEnum):
    """Parts of the benchmark."""

    kinematical = "kinematical"
    multislice = "multislice"
    mgo = "mgo"
    speed = "speed"


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
    start = time.perf_counter()
    from pyxem_dl import data
    from pyxem_dl.models import load_model

    network = load_model(model)
    signal = data.mgo_nanocubes(lazy=True)
    typer.echo(f"{signal.metadata.General.title}: {signal}\n{signal.metadata.General.notes}\n")
    output.mkdir(parents=True, exist_ok=True)
    maps, seconds = _index(signal, network, data.mgo_phase(), device, pyxem)
    peaks = _peaks(signal)
    files = _write_maps(maps, output) + _draw(signal, maps, peaks, output)
    table = _comparison(signal, maps, seconds, peaks)
    (output / "comparison.md").write_text(table + "\n", encoding="utf-8")
    typer.echo(f"\n{table}\n\n{_EXPLANATION}\n")
    typer.echo(f"In {output}: {', '.join(files)}, comparison.md")
    typer.echo(f"All done in {time.perf_counter() - start:.0f} s.")


_EXPLANATION = """peaks explained: share of the detected peaks that lie on a spot of the orientation found there, at
the positions that the network indexes (template matching indexes everything, vacuum too); by chance: the same with the
peaks turned about the beam.
patterns/s: from the lazy signal to the crystal map, making of templates included."""

#: How far out peaks are compared with simulated spots, and how near they must be (1/Angstrom): the scan is distorted by
#: a few percent.
_PEAK_RADIUS, _PEAK_TOLERANCE = 1.3, 0.05


def _index(signal, network, phase, device: str, with_pyxem: bool) -> tuple[dict, dict]:
    """Crystal maps of all methods and the seconds that they took."""
    from pyxem_dl.orientation import predict_orientation
    from pyxem_dl.template_matching import match_templates

    radius = network.preprocessing.reciprocal_radius
    templates = functools.partial(match_templates, signal, phase, n_best=3, reciprocal_radius=radius)
    methods = {
        "network": functools.partial(predict_orientation, signal, network, n_best=3, device=device),
        "templates (torch)": functools.partial(templates, device=device),
    }
    if with_pyxem:
        methods["templates (pyxem)"] = functools.partial(templates, engine="pyxem")
    maps, seconds = {}, {}
    for name, method in methods.items():
        start = time.perf_counter()
        maps[name] = method()
        seconds[name] = time.perf_counter() - start
    return maps, seconds


def _file_name(method: str) -> str:
    return method.replace(" (", "_").replace(")", "")


def _write_maps(maps: dict, output: Path) -> list[str]:
    """Write every map as orix' HDF5, and the network's as .ang."""
    from pyxem_dl.maps import save_map

    files = [save_map(output / f"{_file_name(name)}.h5", xmap, overwrite=True) for name, xmap in maps.items()]
    files.append(save_map(output / "network.ang", maps["network"], overwrite=True))
    return [file.name for file in files]


def _peaks(signal) -> list:
    """Peaks of every pattern."""
    import numpy as np

    from pyxem_dl.frames import Calibration
    from pyxem_dl.metrics import find_peaks

    calibration = Calibration.from_signal(signal)
    return find_peaks(np.asarray(signal.data).reshape(-1, *calibration.shape), calibration.center)


def _draw(signal, maps: dict, peaks: list, output: Path) -> list[str]:
    """Write the pictures."""
    from pyxem_dl import plot

    network, torch = maps["network"], maps["templates (torch)"]
    pictures = {"virtual_image": plot.virtual_image(signal, title="Virtual dark-field image, 0.3 to 1.2 1/Å")}
    for name, xmap in maps.items():
        pictures[f"orientations_{_file_name(name)}"] = plot.orientation_map(
            xmap, brightness="reliability", title=f"Orientations by {name}; brightness: reliability"
        )
    pictures["reliability"] = plot.property_map(
        network, title="Reliability of the network's orientations", vmin=0, vmax=1
    )
    pictures["disorientation"] = plot.disorientation_map(
        network, torch, title="Network and template matching (torch):\ndisorientation modulo 180° about the beam"
    )
    crowded = [len(found) >= 5 for found in peaks]
    pictures["patterns"] = plot.patterns_with_spots(
        signal, {"network": network, "templates (torch)": torch},
        plot.spread_positions(network, among=crowded if any(crowded) else None), reciprocal_radius=1.6,
    )  # fmt: skip
    for name, figure in pictures.items():
        figure.savefig(output / f"{name}.png")
    return [f"{name}.png" for name in pictures]


def _comparison(signal, maps: dict, seconds: dict, peaks: list) -> str:
    """Table of what each method found, in Markdown."""
    from pyxem_dl.crystals import reflections
    from pyxem_dl.metrics import explained_peaks

    judged = maps["network"].phase_id >= 0
    there = [found if here else found[:0] for found, here in zip(peaks, judged)]
    rows = ["| method | indexed | patterns/s | peaks explained | by chance |", "| --- | --- | --- | --- | --- |"]
    for name, xmap in maps.items():
        tables = {key: reflections(phase, _PEAK_RADIUS) for key, phase in xmap.phases if key >= 0}
        found = explained_peaks(
            xmap, signal, tables, tolerance=_PEAK_TOLERANCE, reciprocal_radius=_PEAK_RADIUS, peaks=there
        ).summary()
        numbers = [f"{(xmap.phase_id >= 0).mean():.0%}", f"{xmap.size / seconds[name]:.0f}"]
        shares = [f"{found[key]:.1%}" for key in ("share", "chance")]
        rows.append(f"| {' | '.join([name, *numbers, *shares])} |")
    return "\n".join(rows)


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
    max_minutes: Annotated[float | None, typer.Option(help="Time limit; 20 without a recipe.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="A model to take all settings from that are not given: a name or a folder.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights and patterns; 0 without a recipe.")] = None,
    device: Device = "auto",
    resume: Annotated[bool, typer.Option(help="Go on from an interrupted training in the same folder.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that is there.")] = False,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Train a model for a crystal from nothing but its structure."""
    missing = [str(path) for path in structures or () if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"There is no structure file {', '.join(missing)}.")
    if (output / "config.json").exists() and not overwrite:
        raise FileExistsError(f"{output} holds a model already. Give another folder, or --overwrite.")
    from pyxem_dl.training import train as train_model

    settings = {} if seed is None else {"seed": seed}
    model = train_model(
        structures or None, beam_energy=beam_energy, reciprocal_radius=reciprocal_radius, output=output,
        max_minutes=max_minutes, recipe=recipe, device=device, resume=resume, overwrite=overwrite,
        show_progressbar=progress, **settings,
    )  # fmt: skip
    typer.echo(f"{model} is in {output}; {output / 'README.md'} says how good it is.")


@app.command()
@_clear_errors
def predict(
    scan: Annotated[Path, typer.Argument(help="Anything that HyperSpy reads: .zspy, .hspy, .blo, .mib, ...")],
    model: Annotated[str, typer.Option(help="Name of a bundled model (see `pyxem-dl models`), or a model folder.")],
    output: Annotated[Path, typer.Option(help="Where the crystal map goes: .h5 (everything) or .ang.")],
    n_best: Annotated[int, typer.Option(help="Orientations to keep per position.", min=1)] = 1,
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
        signal, model, output, n_best=n_best, beam_energy=beam_energy, center=_read_center(center),
        batch_size=batch_size, device=device, overwrite=overwrite, show_progressbar=progress,
    )  # fmt: skip
    indexed = (xmap.phase_id >= 0).mean()
    typer.echo(f"{xmap.size} positions, {indexed:.1%} indexed, are in {output}.")


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
    only: Annotated[list[Section] | None, typer.Option(help="Do these parts; others keep their results.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Further models: al=FOLDER, linio2=FOLDER or mgo=FOLDER.")
    ] = None,
    predictor: Annotated[
        list[str] | None, typer.Option(help="Only these of network, torch and pyxem; others keep their results.")
    ] = None,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(help="Of the CPU.", min=1)] = 2,
) -> None:
    """Measure models and template matching on data with known answers, and write the table."""
    from pyxem_dl import benchmark as bench

    path = bench.run(
        data, output, sections=[section.value for section in only or Section], models=_read_models(model or []),
        predictors=tuple(predictor or bench.PREDICTORS), device=device, threads=threads,
    )  # fmt: skip
    typer.echo(f"\n{path.read_text(encoding='utf-8')}\nWritten to {path} and {path.with_suffix('.json')}.")


def _read_models(entries: list[str]) -> dict[str, list[str]]:
    """Further models by material."""
    models: dict[str, list[str]] = {}
    for entry in entries:
        material, separator, folder = entry.partition("=")
        if material not in ("al", "linio2", "mgo") or not separator or not folder:
            raise typer.BadParameter(f"{entry!r} is not like al=FOLDER, linio2=FOLDER or mgo=FOLDER.")
        models.setdefault(material, []).append(folder)
    return models


if __name__ == "__main__":
    sys.exit(app())
