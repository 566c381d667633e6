"""The command that refines a map."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyxem_dl.commands.app import command
from pyxem_dl.commands.options import (
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
    frame: Annotated[
        str | None,
        typer.Option(help="Convention of the map, as '{turn: 90, flipped: true, inverse: true, crystal_x: a*}'."),
    ] = None,
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
    if not map.exists():  # before anything heavy is imported
        raise FileNotFoundError(f"There is no file {str(map)!r}.")
    signal = load_scan(scan, options.scale)
    from pyxem_dl.refinement import refine_orientation

    refined = refine_orientation(
        signal, _read(map, convention), phases=phase or None, thickness=limits, absorption=absorption,
        debye_waller=debye_waller, n_beams=n_beams, convergence_semi_angle=convergence_semi_angle,
        precession_angle=precession_angle, output=output, overwrite=overwrite, **options.settings(),
    )  # fmt: skip
    share = refined.prop["refined"].mean()
    typer.echo(f"{refined.size} positions ({share:.1%} refined) are in {output}.")


def _read(path: Path, convention: dict):
    """Map of a file or a store, in the frame of the patterns."""
    from pyxem_dl.results import in_lab_frame, open_result, read_labels

    if path.suffix.lower() not in (".ang", ".ctf"):
        return in_lab_frame(open_result(path), **convention) if convention else open_result(path)
    return read_labels(path, **convention)
