"""Commands that index a scan or find its disks."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pyxem_dl.commands.app import command
from pyxem_dl.commands.options import (
    BatchSize,
    BeamEnergy,
    Center,
    Device,
    NavigationMask,
    Progress,
    Scale,
    ScanFile,
    SignalMask,
    check_structures,
    load_scan,
    read_center,
    read_mask,
)


class Engine(StrEnum):
    """What matches templates."""

    torch = "torch"
    pyxem = "pyxem"


OverwriteMap = Annotated[bool, typer.Option("--overwrite", help="Replace an existing map.")]


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
        typer.Option(help="Bundled model (see `pyxem-dl models`) or model folder; repeat for an ensemble."),
    ],
    output: Annotated[Path, typer.Option(help="Where the crystal map goes: .h5 (everything), .ang or .ctf.")],
    n_best: Annotated[int, typer.Option(help="Orientations to keep per position.", min=1)] = 1,
    samples: Annotated[
        int, typer.Option(help="Number of predictions with dropout, for a map of their spread in degrees.", min=0)
    ] = 0,
    beam_energy: BeamEnergy = None,
    scale: Scale = None,
    center: Center = None,
    navigation_mask: NavigationMask = None,
    signal_mask: SignalMask = None,
    batch_size: BatchSize = None,
    device: Device = "auto",
    overwrite: OverwriteMap = False,
    progress: Progress = True,
) -> None:
    """Predict the orientations of a scan with a network; if interrupted, the same command continues."""
    signal = load_scan(scan, scale)
    from pyxem_dl.orientation import predict_orientation_to_file

    xmap = predict_orientation_to_file(
        signal, model[0] if len(model) == 1 else model, output, n_best=n_best, n_samples=samples,
        beam_energy=beam_energy, center=read_center(center), batch_size=batch_size, device=device,
        overwrite=overwrite, show_progressbar=progress, navigation_mask=read_mask(navigation_mask),
        signal_mask=read_mask(signal_mask),
    )  # fmt: skip
    _say_what_is_saved(xmap, output)


@command()
def match(
    scan: ScanFile,
    phases: Annotated[list[Path], typer.Option(help="CIF file of a phase; repeat the option for several phases.")],
    output: Annotated[Path, typer.Option(help="Where the crystal map goes: .h5 (everything), .ang or .ctf.")],
    n_best: Annotated[int, typer.Option(help="Orientations to keep per position.", min=1)] = 1,
    engine: Annotated[Engine, typer.Option(help="Ours, or pyxem's template matching (slower).")] = Engine.torch,
    resolution: Annotated[float, typer.Option(help="Step between the zone axes of the templates in degrees.")] = 1.0,
    reciprocal_radius: Annotated[
        float | None, typer.Option(help="How far out templates reach, in Å⁻¹; by default to the detector's edge.")
    ] = None,
    beam_energy: BeamEnergy = None,
    scale: Scale = None,
    center: Center = None,
    navigation_mask: NavigationMask = None,
    signal_mask: SignalMask = None,
    batch_size: BatchSize = None,
    device: Device = "auto",
    overwrite: OverwriteMap = False,
    progress: Progress = True,
) -> None:
    """Find the orientations of a scan by template matching: the baseline to check `predict` against."""
    check_structures(phases)
    signal = load_scan(scan, scale)
    from pyxem_dl.files import claimed
    from pyxem_dl.results.maps import check_map_path, write_map
    from pyxem_dl.template_matching import match_templates

    mask = read_mask(navigation_mask)
    # before the work
    n_positions = max(1, signal.axes_manager.navigation_size) if mask is None else int((~mask).sum())
    check_map_path(output, overwrite=overwrite, n_positions=n_positions, n_best=n_best)
    with claimed(output):
        xmap = match_templates(
            signal, phases, n_best=n_best, engine=engine.value, resolution=resolution,
            reciprocal_radius=reciprocal_radius, beam_energy=beam_energy, center=read_center(center),
            navigation_mask=mask, signal_mask=read_mask(signal_mask), batch_size=batch_size, device=device,
            show_progressbar=progress,
        )  # fmt: skip
        write_map(output, xmap)
    _say_what_is_saved(xmap, output)


def _say_what_is_saved(xmap, output: Path) -> None:
    indexed = (xmap.phase_id >= 0).mean()
    typer.echo(f"{xmap.size} positions ({indexed:.1%} indexed) are in {output}.")


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
        Path | None, typer.Option(help="File with the probe in vacuum; by default estimated from the scan.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Smallest confidence; by default the model's.", min=0)] = None,
    samples: Annotated[
        int, typer.Option(help="Number of predictions with dropout, for columns with their variance.", min=0)
    ] = 0,
    beam_energy: BeamEnergy = None,
    scale: Scale = None,
    center: Center = None,
    navigation_mask: NavigationMask = None,
    signal_mask: SignalMask = None,
    batch_size: BatchSize = None,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    progress: Progress = True,
) -> None:
    """Find the Bragg disks of a scan; if interrupted, the same command continues."""
    signal = load_scan(scan, scale)
    vacuum = None if probe is None else load_scan(probe, scale)
    from pyxem_dl.bragg_vectors import bragg_vectors_to_file

    settings = {} if correlation else {"n_samples": samples}
    found = bragg_vectors_to_file(
        signal, output, None if correlation else model, vacuum, threshold=threshold, beam_energy=beam_energy,
        center=read_center(center), navigation_mask=read_mask(navigation_mask), signal_mask=read_mask(signal_mask),
        batch_size=batch_size, device=device, overwrite=overwrite, show_progressbar=progress, **settings,
    )  # fmt: skip
    disks = sum(len(table) for table in found.data.ravel())
    typer.echo(f"{disks} disks of {found.data.size} positions are in {output}.")
