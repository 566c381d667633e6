"""Commands that index a scan or find its disks."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pyxem_dl.commands.app import command
from pyxem_dl.commands.options import (
    BeamEnergy,
    Device,
    NavigationMask,
    OutputMap,
    OverwriteMap,
    Progress,
    ScanFile,
    ScanOptions,
    check_structures,
    load_scan,
    load_vectors,
    read_mask,
    read_numbers,
    read_region,
    with_scan_options,
)


class Engine(StrEnum):
    """What matches templates."""

    torch = "torch"
    pyxem = "pyxem"


@command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder for maps and pictures.")] = Path("pyxem-dl-demo"),
    model: Annotated[str, typer.Option(help="Bundled model, model folder or address.")] = "any-crystal",
    pyxem: Annotated[bool, typer.Option(help="Run pyxem's template matching, too (the slowest part).")] = True,
    device: Device = "auto",
) -> None:
    """Index a bundled piece of a real scan of MgO nanocubes, by a network and by template matching."""
    from pyxem_dl.demo import run

    run(output, model, with_pyxem=pyxem, device=device, echo=typer.echo)


@command()
@with_scan_options
def predict(
    scan: ScanFile,
    output: OutputMap,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Bundled model (see `pyxem-dl models`), model folder or address (hf://, doi:, https://); repeat for "
            "an ensemble; by default 'any-crystal'."
        ),
    ] = None,
    phase: Annotated[
        list[Path] | None,
        typer.Option(help="CIF file of a phase, for a model that takes any crystal; repeat for several phases."),
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Find scale, ellipse and centre of the scan in its patterns first, and use "
                     "them."),
    ] = False,
    n_best: Annotated[int, typer.Option(help="Orientations to keep per position.", min=1)] = 1,
    samples: Annotated[
        int, typer.Option(help="Number of predictions with dropout, for a map of their uncertainty in degrees.", min=0)
    ] = 0,
    overlap: Annotated[
        bool, typer.Option("--overlap", help="Look for up to three crystals that lie above each other.")
    ] = False,
    refine: Annotated[
        bool,
        typer.Option("--refine", help="Refine them by Bloch waves, and find thicknesses; `pyxem-dl refine` has "
                     "settings."),
    ] = False,
    overwrite: OverwriteMap = False,
    *,
    options: ScanOptions,
) -> None:
    """Predict the orientations of a scan with a network; if interrupted, the same command continues."""
    check_structures(phase or [])
    signal = load_scan(scan, options.scale)
    from pyxem_dl.orientation import predict_orientation

    model = model[0] if model and len(model) == 1 else model or None
    xmap = predict_orientation(
        signal, model, phases=phase or None, calibrate=calibrate, n_best=n_best, n_samples=samples, overlap=overlap,
        refine=refine, output=output, overwrite=overwrite, **options.settings(),
    )  # fmt: skip
    _say_what_is_saved(xmap, output)


@command()
@with_scan_options
def calibrate(
    scan: ScanFile,
    phase: Annotated[
        list[Path] | None, typer.Option(help="CIF file of a phase that is in the scan; repeat for several phases.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Bundled model, model folder or address; by default 'any-crystal'.")
    ] = None,
    patterns: Annotated[int, typer.Option(help="Patterns that are looked at, spread over the scan.", min=10)] = 400,
    spot_radius: Annotated[
        float, typer.Option(help="Standard deviation of the spots in pixels; of disks some 0.7 of their radius.")
    ] = 2.0,
    output: Annotated[Path | None, typer.Option(help="Write the numbers to a file, .json.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    *,
    options: ScanOptions,
) -> None:
    """Find scale, ellipse and centre of a scan, and the drift of the centre, from the patterns of known crystals."""
    check_structures(phase or [])
    signal = load_scan(scan, options.scale)
    import json

    from pyxem_dl.calibration import calibrate as find
    from pyxem_dl.files import check_target, replacing
    from pyxem_dl.records import KEY, provenance

    if output is not None:
        check_target(output, overwrite=overwrite)
    known = ("beam_energy", "center", "navigation_mask", "signal_mask", "device")
    settings = {name: value for name, value in options.settings().items() if name in known}
    found = find(signal, phase or None, model=model, n_patterns=patterns, spot_radius=spot_radius, **settings)
    if output is not None:
        with replacing(output) as written:
            record = provenance(found)
            numbers = found.to_dict() | ({KEY: record} if record else {})
            written.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
        typer.echo(f"The numbers are in {output}.")


@command()
@with_scan_options
def identify(
    scan: ScanFile,
    phase: Annotated[
        list[Path], typer.Option(help="CIF file of a phase, or a folder of them; repeat for several phases.")
    ],
    model: Annotated[
        str | None, typer.Option(help="Model that takes any crystal, or its folder; by default 'any-crystal'.")
    ] = None,
    patterns: Annotated[int, typer.Option(help="How many are looked at, spread over the scan.", min=1)] = 200,
    seed: Annotated[int, typer.Option(help="Of the places of these.", min=0)] = 0,
    output: Annotated[Path | None, typer.Option(help="Write all numbers to a .json file, too.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace such a file.")] = False,
    *,
    options: ScanOptions,
) -> None:
    """Find out which of many phases are in a scan, and how sure that is."""
    check_structures([path for path in phase if not path.is_dir()])
    signal = load_scan(scan, options.scale)
    from pyxem_dl.identification import identify_phases
    from pyxem_dl.identification.result import check_identified_path

    if output is not None:
        check_identified_path(output, overwrite=overwrite)
    settings = options.settings()
    settings.pop("batch_size")
    found = identify_phases(signal, phase, model=model, n_patterns=patterns, seed=seed, **settings)
    typer.echo(str(found))
    if output is not None:
        typer.echo(f"Written to {found.save(output, overwrite=overwrite)}.")


@command()
@with_scan_options
def match(
    scan: ScanFile,
    phases: Annotated[list[Path], typer.Option(help="CIF file of a phase; repeat the option for several phases.")],
    output: OutputMap,
    n_best: Annotated[int, typer.Option(help="Orientations to keep per position.", min=1)] = 1,
    engine: Annotated[Engine, typer.Option(help="Ours, or pyxem's template matching (slower).")] = Engine.torch,
    resolution: Annotated[float, typer.Option(help="Step between the zone axes of the templates in degrees.")] = 1.0,
    reciprocal_radius: Annotated[
        float | None, typer.Option(help="How far out templates reach, in Å⁻¹; by default to the detector's edge.")
    ] = None,
    overwrite: OverwriteMap = False,
    *,
    options: ScanOptions,
) -> None:
    """Match templates with a scan or its Bragg vectors, to check `predict`; if interrupted, the same command continues.

    Vectors are those of `pyxem-dl vectors scan.zspy --threshold 0.05 --output vectors.hspy`.
    """
    check_structures(phases)
    signal = load_vectors(scan)
    if signal is None:
        signal = load_scan(scan, options.scale)
    from pyxem_dl.template_matching import match_templates

    xmap = match_templates(
        signal, phases, n_best=n_best, engine=engine.value, resolution=resolution,
        reciprocal_radius=reciprocal_radius, output=output, overwrite=overwrite, **options.settings(),
    )  # fmt: skip
    _say_what_is_saved(xmap, output)


def _say_what_is_saved(xmap, output: Path) -> None:
    indexed = (xmap.phase_id >= 0).mean()
    typer.echo(f"{xmap.size} positions ({indexed:.1%} indexed) are in {output}.")


@command()
@with_scan_options
def vectors(
    scan: ScanFile,
    output: Annotated[
        Path,
        typer.Option(help="Where the vectors go: .hspy, .zspy (HyperSpy), .h5, .emd (py4DSTEM), .zarr (as they come)."),
    ],
    model: Annotated[str, typer.Option(help="Bundled detector, model folder or address.")] = "bragg-disks",
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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    *,
    options: ScanOptions,
) -> None:
    """Find the Bragg disks of a scan; if interrupted, the same command continues."""
    signal = load_scan(scan, options.scale)
    vacuum = None if probe is None else load_scan(probe, options.scale)
    from pyxem_dl.bragg_vectors import bragg_vectors_to_file

    settings = options.settings() | {"threshold": threshold} | ({} if correlation else {"n_samples": samples})
    found = bragg_vectors_to_file(
        signal, output, None if correlation else model, vacuum, overwrite=overwrite, **settings
    )
    disks = sum(len(table) for table in found.data.ravel())
    typer.echo(f"{disks} disks of {found.data.size} positions are in {output}.")


@command()
def strain(
    vectors: Annotated[Path, typer.Argument(help="Bragg vectors: .hspy, .zspy, or the .zarr of `pyxem-dl vectors`.")],
    output: Annotated[Path, typer.Option(help="Where the maps and their errors go: .hspy or .zspy.")],
    picture: Annotated[Path | None, typer.Option(help="Draw the maps, too: .png, .pdf, ...")] = None,
    reference: Annotated[
        str | None,
        typer.Option(help="What is not strained: rows and columns, as '0:20,:', or a mask in a file (1 = reference); "
                     "by default the median of all positions."),
    ] = None,
    basis: Annotated[
        str | None, typer.Option(help="Two vectors of the lattice, 'ky,kx,ky,kx' in the units of the vectors.")
    ] = None,
    angle: Annotated[float, typer.Option(help="Of the strain's x axis from the pattern's, in degrees.")] = 0.0,
    min_disks: Annotated[int, typer.Option(help="Disks on the lattice; with fewer there is no strain.", min=4)] = 5,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Scale and ellipse that `pyxem-dl calibrate --output` wrote, of vectors found without them."),
    ] = None,
    navigation_mask: NavigationMask = None,
    beam_energy: BeamEnergy = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    progress: Progress = True,
) -> None:
    """Map strain and rotation, with their errors, from Bragg vectors."""
    region, start = read_region(reference), read_numbers(basis, "--basis", (2, 2))
    if not vectors.exists():  # before anything heavy is imported
        raise FileNotFoundError(f"There is no file {str(vectors)!r}.")
    from pyxem_dl.files import check_target
    from pyxem_dl.results import open_result
    from pyxem_dl.results.calibrations import read_calibration
    from pyxem_dl.strain import strain_map
    from pyxem_dl.strain.result import check_strain_path

    check_strain_path(output, overwrite=overwrite)
    known = None if calibration is None else read_calibration(calibration)
    if picture is not None:
        check_target(picture, overwrite=overwrite)
    if vectors.suffix.lower() == ".zarr":
        found = open_result(vectors)
    else:
        import hyperspy.api as hs

        found = hs.load(vectors)
    maps = strain_map(
        found, reference=region, basis=start, angle=angle, min_disks=min_disks, show_progressbar=progress,
        navigation_mask=read_mask(navigation_mask), beam_energy=beam_energy, calibration=known,
    )  # fmt: skip
    maps.save(output, overwrite=overwrite)
    if picture is not None:
        from pyxem_dl.plot import strain_map as draw

        draw(maps).savefig(picture)
    typer.echo(f"{maps!r} is in {output}.")


@command()
def convert(
    result: Annotated[Path, typer.Argument(help="A store of results, .zarr, or the .partial of an unfinished file.")],
    output: Annotated[
        Path, typer.Argument(help="Orientations: .h5, .ang, .ctf; vectors: .hspy, .zspy, .h5, .emd.")
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
) -> None:
    """Write a stored result into a file of another kind."""
    from pyxem_dl.results import convert_result

    typer.echo(f"{convert_result(result, output, overwrite=overwrite)} is written.")
