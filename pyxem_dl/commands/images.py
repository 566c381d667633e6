"""Commands for atomic-resolution images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyxem_dl.commands.app import command
from pyxem_dl.commands.options import Device, Progress

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


def load_image(path: Path, pixel: float | None):
    """Image or series of a file, a series lazily; `pixel` in Å replaces its calibration."""
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
    if pixel is not None:
        for axis in signal.axes_manager.signal_axes:
            axis.scale, axis.units = pixel, "Å"
    return signal
