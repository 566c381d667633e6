"""The command that gets crystals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyxem_dl.commands.app import command
from pyxem_dl.commands.options import Progress

_COLUMNS = ("name", "prototype", "space_group", "n_atoms", "id")


@command("structures")
def show_structures(
    source: Annotated[
        str,
        typer.Argument(help="prototypes, a folder of CIF files, mp:QUERY (key in MP_API_KEY) or optimade:NAME?FILTER."),
    ] = "prototypes",
    n: Annotated[int | None, typer.Option("--n", "-n", help="How many to draw; by default all.", min=1)] = None,
    law: Annotated[
        str | None, typer.Option(help="How many of each prototype: sqrt or uniform; by default every crystal is alike.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the draw.", min=0)] = 0,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Formula (MgO), chemical system (Li-Ni-O) or CIF file that is left out with all that is like "
                     "it; can be repeated."),
    ] = None,
    max_atoms: Annotated[int, typer.Option(help="Largest number of atoms in a cell.", min=1)] = 500,
    limit: Annotated[int, typer.Option(help="How many structures are read from the network at most.", min=1)] = 1000,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for each answer from the network.", min=0.1)] = 60.0,
    output: Annotated[Path | None, typer.Option(help="Folder for CIF files and their manifest.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace such a folder.")] = False,
    progress: Progress = True,
) -> None:
    """List crystals of a source, and write them as CIF files with a manifest."""
    from pyxem_dl.crystals import structures
    from pyxem_dl.files import check_target

    if output is not None:
        check_target(output, overwrite=overwrite, folder=True)
    found = structures(
        source, n, law=law, seed=seed, exclude=exclude or (), max_atoms=max_atoms, limit=limit, timeout=timeout,
        show_progressbar=progress,
    )  # fmt: skip
    entries = found.manifest
    typer.echo(_table(entries))
    typer.echo(f"{len(entries)} crystals of {len({entry['prototype'] for entry in entries})} prototypes.")
    if found.left_out:
        typer.echo(f"{len(found.left_out)} were left out:")
        for id, reason in list(found.left_out.items())[:20]:
            typer.echo(f"  {id}: {reason}")
        if len(found.left_out) > 20:
            typer.echo(f"  and {len(found.left_out) - 20} more")
    if output is not None:
        typer.echo(f"Written to {found.save(output, overwrite=overwrite)}.")


def _table(entries: list[dict]) -> str:
    """Lines of columns, each as wide as it must be."""
    rows = [[column.replace("_", " ") for column in _COLUMNS]]
    rows += [[_shortened(str(entry[column])) for column in _COLUMNS] for entry in entries]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def _shortened(text: str) -> str:
    return text if len(text) <= 48 else f"{text[:45]}..."
