"""Commands that list the models, pack them, and measure how good they are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyxem_dl.commands.app import command
from pyxem_dl.commands.options import (
    ScanFile,
    ScanOptions,
    check_structures,
    load_scan,
    read_frame,
    with_scan_options,
)


@command("models")
def show_models() -> None:
    """List the bundled models: phases, beam energy in kV, and how far out they look in Å⁻¹."""
    from pyxem_dl import catalogue  # and not pyxem_dl.models, which loads torch

    models = catalogue.bundled()
    if models:
        typer.echo(catalogue.table(models))
    else:
        typer.echo("This installation has no bundled models. Train one: pyxem-dl train --help")


@command()
def pack(
    model: Annotated[str, typer.Argument(help="Model folder, or the name of a bundled model.")],
    output: Annotated[
        Path | None, typer.Option(help="The archive, .zip; by default beside the folder, with its name.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Pack a model folder into one file to be shared, and print its sha256 and how others load it."""
    from pyxem_dl.models import pack_model

    typer.echo(str(pack_model(model, output, overwrite=overwrite)))


@command()
@with_scan_options
def evaluate(
    scan: ScanFile,
    truth: Annotated[
        Path | None,
        typer.Option(help="Crystal map of the scan that is known to be right: .h5, .ang or .ctf. Without it, detected "
                     "peaks are counted that the orientations explain."),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Bundled model, model folder or address; repeat to compare several.")
    ] = None,
    phases: Annotated[
        list[Path] | None, typer.Option(help="CIF file of a phase, for template matching; repeat for several phases.")
    ] = None,
    map: Annotated[
        list[Path] | None,
        typer.Option(help="Result that is there already (.h5, .ang, .ctf, .zarr); repeat to compare several."),
    ] = None,
    frame: Annotated[
        str | None,
        typer.Option(help="Convention of the truth, as '{turn: 90, flipped: true, inverse: true, crystal_x: a*}'."),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Save the numbers (.json) or the table (.md).")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    *,
    options: ScanOptions,
) -> None:
    """Measure how good orientations of a scan are: by models, by template matching, or of a map."""
    check_structures(phases)
    convention = read_frame(frame)
    signal = load_scan(scan, options.scale)
    from pyxem_dl.evaluation import check_evaluation_path, evaluate as measure
    from pyxem_dl.results.labels import read_labels

    if output is not None:
        check_evaluation_path(output, overwrite=overwrite)
    found = measure(
        signal, model or [], phases=phases or None, maps={str(path): path for path in map or ()},
        truth=None if truth is None else read_labels(truth, **convention), **options.settings(),
    )  # fmt: skip
    typer.echo(f"\n{found}")
    if output is not None:
        typer.echo(f"\nSaved to {found.save(output, overwrite=overwrite)}.")


@command(hidden=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def benchmark(context: typer.Context) -> None:
    """Say what to run instead: the benchmark is no part of the package any more."""
    raise ValueError(
        "`pyxem-dl benchmark` is gone. To measure how good orientations of your own scan are: `pyxem-dl evaluate "
        "--help`. The project's own benchmark lies beside the package: `python -m suite` in the folder benchmarks/ of "
        "the repository."
    )
