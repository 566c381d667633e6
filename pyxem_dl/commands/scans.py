"""Commands that answer for a scan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyxem_dl.commands.app import command
from pyxem_dl.commands.options import (
    BatchSize,
    BeamEnergy,
    Center,
    Device,
    Progress,
    Scale,
    ScanFile,
    load_scan,
    read_center,
)


@command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for maps and pictures.")] = Path("pyxem-dl-demo"),
    model: Annotated[str, typer.Option(help="Model name or folder.")] = "mgo-300kv",
    pyxem: Annotated[bool, typer.Option(help="Run pyxem's template matching, too (the slowest part).")] = True,
    device: Device = "auto",
) -> None:
    """Index a bundled piece of a real scan of MgO nanocubes, by a network and by template matching."""
    from pyxem_dl.demo import run

    run(output, model, with_pyxem=pyxem, device=device, echo=typer.echo)


@command()
def predict(
    scan: ScanFile,
    model: Annotated[
        list[str],
        typer.Option(help="Name of a bundled model (see `pyxem-dl models`), or a model folder; several: an ensemble."),
    ],
    output: Annotated[Path, typer.Option(help="Where the crystal map goes: .h5 (everything), .ang or .ctf.")],
    n_best: Annotated[int, typer.Option(help="Orientations to keep per position.", min=1)] = 1,
    samples: Annotated[
        int, typer.Option(help="Answers drawn with dropout, for a map of their spread in degrees.", min=0)
    ] = 0,
    beam_energy: BeamEnergy = None,
    scale: Scale = None,
    center: Center = None,
    batch_size: BatchSize = None,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a map that is there.")] = False,
    progress: Progress = True,
) -> None:
    """Predict the orientations of a scan into a file; an interrupted run goes on when it is called again."""
    signal = load_scan(scan, scale)
    from pyxem_dl.orientation import predict_orientation_to_file

    xmap = predict_orientation_to_file(
        signal, model[0] if len(model) == 1 else model, output, n_best=n_best, n_samples=samples,
        beam_energy=beam_energy, center=read_center(center), batch_size=batch_size, device=device,
        overwrite=overwrite, show_progressbar=progress,
    )  # fmt: skip
    indexed = (xmap.phase_id >= 0).mean()
    typer.echo(f"{xmap.size} positions, {indexed:.1%} indexed, are in {output}.")


@command()
def vectors(
    scan: ScanFile,
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
    scale: Scale = None,
    center: Center = None,
    batch_size: BatchSize = None,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    progress: Progress = True,
) -> None:
    """Find the Bragg disks of a scan into a file; an interrupted run goes on when it is called again."""
    signal = load_scan(scan, scale)
    vacuum = None if probe is None else load_scan(probe, scale)
    from pyxem_dl.bragg_vectors import bragg_vectors_to_file

    settings = {} if correlation else {"n_samples": samples}
    found = bragg_vectors_to_file(
        signal, output, None if correlation else model, vacuum, threshold=threshold, center=read_center(center),
        batch_size=batch_size, device=device, overwrite=overwrite, show_progressbar=progress, **settings,
    )  # fmt: skip
    disks = sum(len(table) for table in found.data.ravel())
    typer.echo(f"{disks} disks of {found.data.size} positions are in {output}.")
