"""Commands that list the models and measure how good they are."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pyxem_dl.commands.app import command
from pyxem_dl.commands.options import Device


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
    ensemble = "ensemble"
    tuning = "tuning"


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
def benchmark(
    data: Annotated[Path, typer.Option(help="Folder with the benchmark data.")] = Path("../shared/data"),
    output: Annotated[Path, typer.Option(help="Folder for results.md and results.json.")] = Path("benchmarks"),
    only: Annotated[
        list[Section] | None,
        typer.Option(help="Run these parts; the others keep their results. By default all that train nothing."),
    ] = None,
    training_minutes: Annotated[float, typer.Option(help="For each network of the parts that train.", min=0)] = 10.0,
    model: Annotated[
        list[str] | None, typer.Option(help="Further models: al=FOLDER, linio2=FOLDER, mgo=FOLDER or disks=FOLDER.")
    ] = None,
    predictor: Annotated[
        list[str] | None, typer.Option(help="Only these of network, torch, pyxem, py4dstem; other rows stay.")
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
            raise typer.BadParameter(f"{entry!r} must be like al=FOLDER, linio2=FOLDER, mgo=FOLDER or disks=FOLDER.")
        models.setdefault(material, []).append(folder)
    return models
