"""Command that simulates a training set."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pyxem_dl.commands.app import command
from pyxem_dl.commands.options import Progress, check_structures, read_range


class QuartetEngine(StrEnum):
    """What simulates patterns."""

    many_beam = "many-beam"
    multislice = "multislice"


class Orientations(StrEnum):
    """Which orientations are drawn."""

    zone_axes = "zone-axes"
    random = "random"


@command()
def quartets(
    source: Annotated[
        list[str],
        typer.Argument(help="CIF files; or prototypes, a folder of CIF files, mp:QUERY, or optimade:NAME?FILTER."),
    ],
    output: Annotated[Path, typer.Option(help="Where the set goes: a folder that ends with .zarr.")],
    n: Annotated[int, typer.Option("-n", "--n", help="How many quartets.", min=1)],
    thickness: Annotated[str, typer.Option(help="In Å: a number, or smallest,largest.")] = "20,1000",
    tilt: Annotated[str, typer.Option(help="From the zone axis in degrees: a number, or smallest,largest.")] = "0,2",
    orientations: Annotated[
        Orientations, typer.Option(help="Zone axes that are tilted, or all orientations.")
    ] = Orientations.zone_axes,
    beam_energy: Annotated[str, typer.Option(help="In kV: a number, or smallest,largest.")] = "200",
    semi_angle: Annotated[str, typer.Option(help="Of convergence in mrad: a number, or smallest,largest.")] = "1,4",
    pixels: Annotated[int, typer.Option(help="Of the detector along each side.")] = 256,
    reciprocal_radius: Annotated[float, typer.Option(help="How far the detector reaches, in Å⁻¹.")] = 1.5,
    engine: Annotated[
        QuartetEngine, typer.Option(help="multislice needs abTEM, and is some thirty times slower.")
    ] = QuartetEngine.many_beam,
    crystals: Annotated[
        int | None, typer.Option(help="How many crystals to draw of the source; by default all.", min=1)
    ] = None,
    law: Annotated[
        str | None, typer.Option(help="How many of each prototype: sqrt or uniform; by default every crystal is alike.")
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Formula (MgO), chemical system (Li-Ni-O) or CIF file that is left out with all that is like "
                     "it; can be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    threads: Annotated[int | None, typer.Option(help="That simulate at once; by default one for each core.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a set that is there.")] = False,
    progress: Progress = True,
) -> None:
    """Simulate patterns with their probe, potential and out-of-plane component; interrupted, repeat the line."""
    ranges = {
        name: read_range(text, f"--{name.replace('_', '-')}")
        for name, text in (("thickness", thickness), ("tilt", tilt), ("beam_energy", beam_energy),
                           ("semi_angle", semi_angle))
    }  # fmt: skip
    phases = _phases(source, crystals, law, exclude, seed, progress)
    from pyxem_dl.quartets import make_quartets

    made = make_quartets(
        phases, output, n=n, **ranges, orientations=orientations.value, pixels=pixels,
        reciprocal_radius=reciprocal_radius, engine=engine.value, seed=seed, threads=threads, overwrite=overwrite,
        show_progressbar=progress,
    )  # fmt: skip
    typer.echo(f"{len(made)} quartets of {len(made.phases)} crystals are in {output}.")


def _phases(source: list[str], n: int | None, law: str | None, exclude: list[str] | None, seed: int, progress: bool):
    """Crystals of files, or drawn from one source."""
    is_files = len(source) > 1 or Path(source[0]).suffix.lower() == ".cif"
    if is_files:
        check_structures([Path(text) for text in source])
    from pyxem_dl.crystals import structures

    return structures(
        source if is_files else source[0], n, law=law, exclude=exclude or (), seed=seed, show_progressbar=progress
    )
