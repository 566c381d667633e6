"""Commands for atomic-resolution images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyxem_dl.commands.app import command
from pyxem_dl.commands.options import (
    Device,
    OverwriteModel,
    Progress,
    Resume,
    Settings,
    check_structures,
    read_settings,
)

ImageFile = Annotated[Path, typer.Argument(help="Image or series that HyperSpy reads: .emd, .dm4, .tif, ...")]
Pixel = Annotated[float | None, typer.Option(help="Å per pixel, for a file without calibration.", min=0)]


@command()
def segment(
    image: ImageFile,
    output: Annotated[Path, typer.Option(help="Where the labels go: .hspy, .zspy or .tif.")],
    regions: Annotated[
        int | None, typer.Option(help="Number of periodic regions; by default it is found.", min=1)
    ] = None,
    window: Annotated[float, typer.Option(help="Side in Å of the windows that are compared.", min=0)] = 12.0,
    pixel: Pixel = None,
    seed: Annotated[int, typer.Option(help="Of the first clusters.", min=0)] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    device: Device = "auto",
    progress: Progress = True,
) -> None:
    """Divide an atomic-resolution image, or a series, into regions by local symmetry; 0 is what is not periodic."""
    check_output(output, overwrite)
    signal = load_image(image, pixel)
    from pyxem_dl.images import segment_by_symmetry

    labels = segment_by_symmetry(
        signal, regions or "auto", window=window, seed=seed, device=device, show_progressbar=progress
    )
    labels.save(output, overwrite=overwrite)
    typer.echo(f"The labels are in {output}.")


def check_output(output: Path, overwrite: bool) -> None:
    """Make sure that a file can be written, before the work."""
    if output.suffix.lower() not in (".hspy", ".zspy", ".tif", ".tiff"):
        raise ValueError(f"{output} must end with .hspy, .zspy or .tif.")
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} exists. Give another name, or --overwrite.")
    if not output.resolve().parent.is_dir():
        raise FileNotFoundError(f"There is no folder {output.resolve().parent}.")


def load_image(path: Path, pixel: float | None, scaled: bool = True):
    """Image or series of a file, a series lazily; `pixel` in Å replaces its calibration, which there must be."""
    if not path.exists():  # before anything heavy is imported
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    import hyperspy.api as hs

    signal = hs.load(path, lazy=True)
    if isinstance(signal, list):
        raise ValueError(
            f"{path} holds {len(signal)} signals; an image or a series is needed. Save the one you mean by itself, "
            "`hs.load(...)[0].save('image.hspy')`."
        )
    if signal.axes_manager.navigation_dimension == 0:
        signal.compute(show_progressbar=False)
    axes = signal.axes_manager.signal_axes
    if pixel is not None:
        for axis in axes:
            axis.scale, axis.units = pixel, "Å"
    elif scaled and not all(isinstance(axis.units, str) and axis.units for axis in axes):
        raise ValueError(f"{path} has no scale: say how wide its pixels are in Å, for example --pixel 0.12.")
    return signal


@command()
def classify(
    image: ImageFile,
    output: Annotated[Path, typer.Option(help="Where the map goes: .h5 (everything), .ang, .ctf; or .zarr.")],
    model: Annotated[str, typer.Option(help="Bundled model, model folder or address.")] = "fe-cu-ti",
    step: Annotated[float, typer.Option(help="Between windows, in Å.", min=0)] = 1.6,
    smoothing: Annotated[float, typer.Option(help="How far neighbouring windows are heard, in Å.", min=0)] = 1.6,
    n_best: Annotated[int, typer.Option(help="Classes to keep per window.", min=1)] = 1,
    samples: Annotated[int, typer.Option(help="Predictions with dropout.", min=0)] = 20,
    pixel: Pixel = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a map that is there.")] = False,
    device: Device = "auto",
    progress: Progress = True,
) -> None:
    """Name the structure, with its orientation, in every window of an atomic-resolution image."""
    signal = load_image(image, pixel)
    from pyxem_dl.images import classify_structure

    found = classify_structure(
        signal, model, step=step, smoothing=smoothing, n_best=n_best, n_samples=samples, device=device, output=output,
        overwrite=overwrite, show_progressbar=progress,
    )  # fmt: skip
    if hasattr(found, "indexed_share"):
        typer.echo(f"{100 * found.indexed_share.mean():.1f} % of the windows of {len(found)} images are indexed; the "
                   f"maps are in {output}: pyxem_dl.open_result reads them.")  # fmt: skip
        return
    typer.echo(f"{int((found.phase_id >= 0).sum())} of {found.size} windows are indexed; the map is in {output}.")


@command()
def lattice(
    image: ImageFile,
    output: Annotated[Path, typer.Option(help="Where the lattices go: .hspy or .zspy.")],
    map_file: Annotated[
        Path | None,
        typer.Option("--map", help="Map of `pyxem-dl classify`; without it the image's own lattices are found."),
    ] = None,
    window: Annotated[float, typer.Option(help="Side of the windows in Å.", min=0)] = 12.0,
    step: Annotated[float, typer.Option(help="Between windows in Å; a map has its own.", min=0)] = 1.6,
    drift: Annotated[bool, typer.Option("--drift", help="Take the drift of a slow scan away; needs --map.")] = False,
    pixel: Pixel = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    device: Device = "auto",
    progress: Progress = True,
) -> None:
    """Measure rotation, lattice vectors and strain in every window of an atomic-resolution image."""
    signal = load_image(image, pixel)
    from pyxem_dl.images import map_lattice
    from pyxem_dl.images.lattice_map import check_lattice_path

    check_lattice_path(output, overwrite=overwrite)
    xmap = None if map_file is None else _read_map(map_file)
    found = map_lattice(
        signal, xmap, window=window, step=step, drift=drift, device=device, show_progressbar=progress
    )
    found.save(output, overwrite=overwrite)
    typer.echo(f"{int((found.crystal >= 0).sum())} of {found.crystal.size} windows have a lattice; it is in {output}.")


def _read_map(path: Path):
    """Crystal maps of a file or of a store."""
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    if path.suffix.lower() == ".zarr":
        from pyxem_dl.results import open_result

        return open_result(path)
    from pyxem_dl.results.label_files import read_map

    return read_map(path)


@command("fit-phase-field")
def fit_phase_field(
    series: ImageFile,
    output: Annotated[Path, typer.Option(help="Where the series without noise goes: .hspy, .zspy or .tif.")],
    equation: Annotated[str, typer.Option(help="allen-cahn, cahn-hilliard, or auto.")] = "allen-cahn",
    engine: Annotated[str, typer.Option(help="solver or network.")] = "solver",
    noise: Annotated[str, typer.Option(help="auto, poisson or gaussian.")] = "auto",
    drift: Annotated[bool, typer.Option("--drift", help="Fit a steady drift of the picture, too.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    device: Device = "auto",
    progress: Progress = True,
) -> None:
    """Fit a phase-field equation to a series; its parameters go into a .json file beside the output."""
    import json

    check_output(output, overwrite)
    numbers = output.with_suffix(".json")
    if numbers.exists() and not overwrite:
        raise FileExistsError(f"{numbers} exists. Give another name, or --overwrite.")
    signal = load_image(series, None, scaled=False)
    from pyxem_dl.images import fit_phase_field as fit

    found = fit(
        signal, equation, engine=engine, noise=noise, drift=drift, device=device, show_progressbar=progress
    )
    found.signal.compute(show_progressbar=False)
    found.signal.save(output, overwrite=overwrite)
    numbers.write_text(json.dumps(found.to_dict(), indent=1, ensure_ascii=False), encoding="utf-8")
    typer.echo(f"The series without noise is in {output}, the parameters are in {numbers}.")


@command("train-structures")
def train_structures(
    structures: Annotated[list[Path], typer.Argument(help="CIF files of what may be in the images.")],
    output: Annotated[Path, typer.Option(help="Folder of the model.")],
    zone_axis: Annotated[
        list[str] | None,
        typer.Option(help="Zone axis of all crystals, 1,1,0; can be repeated. By default those of low indices."),
    ] = None,
    max_minutes: Annotated[float, typer.Option(help="Time limit.", min=0)] = 5.0,
    setting: Settings = None,
    seed: Annotated[int, typer.Option(help="Of weights and windows.", min=0)] = 0,
    device: Device = "auto",
    resume: Resume = True,
    overwrite: OverwriteModel = False,
    progress: Progress = True,
) -> None:
    """Train a model that tells structures in atomic-resolution images, from CIF files alone."""
    check_structures(structures)
    axes = "low-index" if not zone_axis else [_axis(text) for text in zone_axis]
    from pyxem_dl.training import train_structures as train

    model = train(
        structures, axes, output=output, max_minutes=max_minutes, seed=seed, device=device, resume=resume,
        overwrite=overwrite, show_progressbar=progress, **read_settings(setting),
    )  # fmt: skip
    typer.echo(f"{model} is in {output}; {output / 'README.md'} says how good it is.")


def _axis(text: str) -> tuple[int, ...]:
    """Read a zone axis "1,1,0"."""
    try:
        axis = tuple(int(part) for part in text.split(","))
    except ValueError:
        axis = ()
    if len(axis) != 3:
        raise typer.BadParameter(f"{text!r} must be three whole numbers, like 1,1,0.", param_hint="--zone-axis")
    return axis
