"""Commands that refine a map, settle it by its neighbours, and find its grains."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

import typer

from pyxem_dl.commands.app import command
from pyxem_dl.commands.options import (
    MapFrame,
    OutputMap,
    OverwriteMap,
    ScanFile,
    ScanOptions,
    check_structures,
    load_scan,
    read_frame,
    read_range,
    with_scan_options,
)

SettledMap = Annotated[Path, typer.Option(help="Where the map goes: .h5 (everything), .ang or .ctf.")]


@command()
@with_scan_options
def refine(
    scan: ScanFile,
    map: Annotated[Path, typer.Argument(help="Orientations of all its positions: .h5, .zarr, .ang or .ctf.")],
    output: OutputMap,
    phase: Annotated[
        list[Path] | None,
        typer.Option(help="CIF file of a phase by the name that it has in the map, for a map without atoms (.ang, "
                     ".ctf); repeat for several phases."),
    ] = None,
    thickness: Annotated[str, typer.Option(help="Smallest and largest thickness in Å.")] = "20,600",
    absorption: Annotated[
        float, typer.Option(help="Imaginary part of the potential as a share of the real part, such as 0.08.", min=0)
    ] = 0.0,
    debye_waller: Annotated[float, typer.Option(help="B of all atoms in Å².", min=0)] = 0.5,
    n_beams: Annotated[int, typer.Option(help="Beams of a pattern that take part.", min=1)] = 60,
    convergence_semi_angle: Annotated[
        float | None, typer.Option(help="Of the cone of the beam in mrad; by default the direct beam says.", min=0)
    ] = None,
    precession_angle: Annotated[float, typer.Option(help="Of a precessing beam in degrees.", min=0)] = 0.0,
    frame: MapFrame = None,
    overwrite: OverwriteMap = False,
    *,
    options: ScanOptions,
) -> None:
    """Refine the orientations of a map by Bloch waves, and find thicknesses.

    The map says in `refined` where that worked, and in `orientation_error` and `thickness_error` how sure it is. If
    interrupted, the same command continues.
    """
    check_structures(phase)
    convention, limits = read_frame(frame), read_range(thickness, "--thickness")
    if isinstance(limits, float):
        raise typer.BadParameter(f"{thickness!r} must be 'smallest,largest'.", param_hint="--thickness")
    _check_there(map)
    signal = load_scan(scan, options.scale)
    from pyxem_dl.refinement import refine_orientation

    refined = refine_orientation(
        signal, _read(map, convention), phases=phase or None, thickness=limits, absorption=absorption,
        debye_waller=debye_waller, n_beams=n_beams, convergence_semi_angle=convergence_semi_angle,
        precession_angle=precession_angle, output=output, overwrite=overwrite, **options.settings(),
    )  # fmt: skip
    share = refined.prop["refined"].mean()
    typer.echo(f"{refined.size} positions ({share:.1%} refined) are in {output}.")


@command()
@with_scan_options
def settle(
    map: Annotated[Path, typer.Argument(help="Orientations of a scan: .h5, .zarr, .ang or .ctf.")],
    output: SettledMap,
    scan: Annotated[
        Path | None, typer.Option(help="The scan itself: what neighbours say is compared with its patterns.")
    ] = None,
    phase: Annotated[
        list[Path] | None,
        typer.Option(help="CIF file of a phase, in the order of the map's, for a map without atoms (.ang, .ctf); "
                     "repeat for several phases."),
    ] = None,
    threshold: Annotated[float, typer.Option(help="Angle in degrees below which orientations are one.")] = 5.0,
    frame: MapFrame = None,
    overwrite: OverwriteMap = False,
    *,
    options: ScanOptions,
) -> None:
    """Settle doubtful orientations of a map by their neighbours: turns by 180°, further candidates, single wrong ones.

    With `--scan` much more is put right. What was done is in the map's `settled`.
    """
    check_structures(phase)
    convention, given = read_frame(frame), options.settings()
    if given.pop("navigation_mask") is not None:
        raise typer.BadParameter("What the map leaves out is left out.", param_hint="--navigation-mask")
    _check_there(map)
    if scan is None and phase:
        raise typer.BadParameter("Structures are for the patterns: give --scan, too.", param_hint="--phase")
    signal = None if scan is None else load_scan(scan, options.scale)
    from pyxem_dl.microstructure import settle
    from pyxem_dl.results import check_map_path, save_map

    check_map_path(output, overwrite=overwrite)
    settled = settle(_read(map, convention), signal, threshold=threshold, phases=phase or None, **given)
    save_map(output, settled, overwrite=overwrite)
    typer.echo(f"{int((settled.prop['settled'] > 0).sum())} of {settled.size} positions were changed: {output}.")


@command()
def grains(
    map: Annotated[Path, typer.Argument(help="Orientations of a scan: .h5, .zarr, .ang or .ctf.")],
    output: SettledMap,
    threshold: Annotated[float, typer.Option(help="Angle in degrees between neighbours of two grains.")] = 5.0,
    table: Annotated[Path | None, typer.Option(help="A row for each grain, as .csv.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Grains and boundaries, as .png or .pdf.")] = None,
    overwrite: OverwriteMap = False,
) -> None:
    """Find the grains of a map: it is saved with the number of each position's grain, KAM and GROD."""
    _check_there(map)
    for path in (table, picture):
        if path is not None and path.exists() and not overwrite:
            raise FileExistsError(f"{str(path)!r} is there: give --overwrite to replace it.")
    from pyxem_dl.microstructure import grains
    from pyxem_dl.results import check_map_path, save_map

    check_map_path(output, overwrite=overwrite)
    found = grains(_read(map, {}), threshold)
    save_map(output, found.xmap, overwrite=overwrite)
    if table is not None:
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, found.table.dtype.names)
            writer.writeheader()
            writer.writerows(dict(zip(found.table.dtype.names, row.tolist(), strict=True)) for row in found.table)
    if picture is not None:
        found.plot().savefig(picture)
    typer.echo(repr(found))


def _check_there(path: Path) -> None:
    """Raise an error for a file that is not there, before anything heavy is imported."""
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")


def _read(path: Path, convention: dict):
    """Map of a file or a store, in the frame of the patterns."""
    from pyxem_dl.results import in_lab_frame, open_result, read_labels

    if path.suffix.lower() not in (".ang", ".ctf"):
        return in_lab_frame(open_result(path), **convention) if convention else open_result(path)
    return read_labels(path, **convention)
