"""Commands that list the models and measure how good they are."""

from __future__ import annotations

import typer

from pyxem_dl.commands.app import command


@command("models")
def show_models() -> None:
    """List the bundled models: phases, beam energy in kV, and how far out they look in Å⁻¹."""
    from pyxem_dl import catalogue  # and not pyxem_dl.models, which loads torch

    models = catalogue.bundled()
    if models:
        typer.echo(catalogue.table(models))
    else:
        typer.echo("This installation has no bundled models. Train one: pyxem-dl train --help")


@command(hidden=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def benchmark(context: typer.Context) -> None:
    """Say what to run instead: the benchmark is no part of the package any more."""
    raise ValueError(
        "`pyxem-dl benchmark` is gone. To measure how good orientations of your own scan are: `pyxem-dl evaluate "
        "--help`. The project's own benchmark lies beside the package: `python -m suite` in the folder benchmarks/ of "
        "the repository."
    )
