"""``python -m suite``, in the folder ``benchmarks``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from suite.running import PREDICTORS, SECTIONS, TRAINED_SECTIONS, run

app = typer.Typer(add_completion=False)
_HERE = Path(__file__).resolve().parent.parent
_MATERIALS = ("al", "linio2", "mgo", "disks", "any")

Section = StrEnum("Section", [(name, name) for name in (*SECTIONS, *TRAINED_SECTIONS)])
Predictor = StrEnum("Predictor", [(name, name) for name in PREDICTORS])


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="Folder with the benchmark data.")] = _HERE.parent.parent / "shared/data",
    output: Annotated[Path, typer.Option(help="Folder for results.md and results.json.")] = _HERE,
    only: Annotated[
        list[Section] | None,
        typer.Option(help="Run these parts; the others keep their results. By default all that train nothing."),
    ] = None,
    training_minutes: Annotated[float, typer.Option(help="For each network of the parts that train.", min=0)] = 10.0,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Further models: al=FOLDER, linio2=FOLDER, mgo=FOLDER, disks=FOLDER or any=FOLDER."),
    ] = None,
    predictor: Annotated[list[Predictor] | None, typer.Option(help="Only these; other rows stay.")] = None,
    device: Annotated[str, typer.Option(help="auto (the best available), cpu, cuda, ...")] = "auto",
    threads: Annotated[int, typer.Option(help="Of the CPU.", min=1)] = 2,
) -> None:
    """Measure models and template matching on data with known answers, and write the table."""
    models = read_models(model or [])
    try:
        path = run(
            data, output, sections=[each.value for each in only] if only else SECTIONS, models=models,
            predictors=[each.value for each in predictor] if predictor else PREDICTORS, device=device,
            threads=threads, training_minutes=training_minutes,
        )  # fmt: skip
    except FileNotFoundError as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"\n{path.read_text(encoding='utf-8')}\nWritten to {path} and {path.with_suffix('.json')}.")


def read_models(entries: list[str]) -> dict[str, list[str]]:
    """Read further models, "al=FOLDER", by material."""
    models: dict[str, list[str]] = {}
    for entry in entries:
        material, _, folder = entry.partition("=")
        if material not in _MATERIALS or not folder:
            known = ", ".join(f"{name}=FOLDER" for name in _MATERIALS)
            raise typer.BadParameter(f"{entry!r} must be one of {known}.", param_hint="--model")
        models.setdefault(material, []).append(folder)
    return models


if __name__ == "__main__":
    app(prog_name="python -m suite")
