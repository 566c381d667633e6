"""Commands that train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyxem_dl.commands.app import command
from pyxem_dl.commands.options import (
    BeamEnergy,
    Device,
    Devices,
    Labelled,
    Nodes,
    OverwriteModel,
    Progress,
    Resume,
    Settings,
    check_structures,
    read_labelled,
    read_settings,
)


@command()
def train(
    output: Annotated[Path, typer.Option(help="Folder of the model.")],
    structures: Annotated[
        list[Path] | None, typer.Argument(help="CIF files of the phases to tell apart; by default the recipe's.")
    ] = None,
    beam_energy: BeamEnergy = None,
    reciprocal_radius: Annotated[
        float | None, typer.Option(help="How far out spots are seen, in Å⁻¹.", min=0)
    ] = None,
    labelled: Labelled = None,
    network: Annotated[
        str | None,
        typer.Option(
            help="any-crystal (default), which goes on learning, or polar; on labelled scans polar (default), cnn, "
            "densenet121, swin_tiny, swin_tiny_adapted, or one of timm."
        ),
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="Start from ImageNet weights: 'timm', or a local file.")
    ] = None,
    setting: Settings = None,
    max_minutes: Annotated[
        float | None, typer.Option(help="Time limit; without a recipe 5, and 20 for --network polar.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Take all settings that are not given from this model: a name or a folder.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights and patterns; 0 without a recipe.")] = None,
    device: Device = "auto",
    devices: Devices = 1,
    nodes: Nodes = 1,
    resume: Resume = True,
    overwrite: OverwriteModel = False,
    progress: Progress = True,
) -> None:
    """Train a model for a crystal from its structure alone, or on labelled scans."""
    check_structures(structures)
    if (output / "config.json").exists() and not overwrite:
        raise FileExistsError(f"{output} already holds a model. Give another folder, or --overwrite.")
    from pyxem_dl.training import train as train_model

    settings = _read_further(setting, "network", "pretrained", "beam_energy", "reciprocal_radius", "recipe")
    settings |= {} if seed is None else {"seed": seed}
    if labelled:
        settings |= {"labelled": read_labelled(labelled), "pretrained": _read_pretrained(pretrained)}
    elif pretrained:
        raise ValueError("--pretrained is for networks that learn from --labelled scans.")
    settings |= {"network": network, "devices": devices, "nodes": nodes}
    model = train_model(
        structures or None, beam_energy=beam_energy, reciprocal_radius=reciprocal_radius, output=output,
        max_minutes=max_minutes, recipe=recipe, device=device, resume=resume, overwrite=overwrite,
        show_progressbar=progress, **settings,
    )  # fmt: skip
    typer.echo(f"{model} is in {output}; {output / 'README.md'} says how good it is.")


def _read_further(setting: list[str] | None, *options: str) -> dict:
    """Read --set; what is an option of its own, of every training or of this, would come to nothing there."""
    settings = read_settings(setting)
    common = ("labelled", "output", "max_minutes", "seed", "device", "devices", "nodes", "resume", "overwrite")
    for key in (*common, *options):
        if key in settings:
            raise ValueError(f"--set {key}=... has its own option: --{key.replace('_', '-')}.")
    for key, instead in (("phases", "CIF files behind `pyxem-dl train`"), ("show_progressbar", "--no-progress")):
        if key in settings:
            raise ValueError(f"--set {key}=... is not possible: give {instead}.")
    return settings


def _read_pretrained(text: str | None) -> bool | str:
    return False if text is None else True if text == "timm" else text


@command()
def finetune(
    model: Annotated[str, typer.Argument(help="Bundled model, model folder or address.")],
    labelled: Labelled,
    output: Annotated[Path, typer.Option(help="Folder of the adapted model.")],
    phase: Annotated[
        list[Path] | None,
        typer.Option(
            help="CIF file of a phase, for a model that takes any crystal and labels without atoms; repeat for several "
            "phases."
        ),
    ] = None,
    setting: Settings = None,
    max_minutes: Annotated[float, typer.Option(help="Time limit.", min=0)] = 10.0,
    seed: Annotated[int, typer.Option(help="Of the patterns.")] = 0,
    device: Device = "auto",
    devices: Devices = 1,
    nodes: Nodes = 1,
    resume: Resume = True,
    overwrite: OverwriteModel = False,
    progress: Progress = True,
) -> None:
    """Adapt a trained model to your microscope, with labelled scans."""
    if not labelled:
        raise typer.BadParameter("give at least one scan.zspy:labels.h5.", param_hint="--labelled")
    check_structures(phase or [])
    from pyxem_dl.training import finetune as adapt

    further = _read_further(setting)
    adapted = adapt(
        model, read_labelled(labelled), phases=phase or None, output=output, max_minutes=max_minutes, seed=seed,
        device=device, devices=devices, nodes=nodes, resume=resume, overwrite=overwrite, show_progressbar=progress,
        **further,
    )  # fmt: skip
    typer.echo(f"{adapted} is in {output}; {output / 'README.md'} says how good it is.")


@command()
def study(
    plan: Annotated[Path, typer.Argument(help="YAML file: labelled scan, settings, and what is searched.")],
    device: Device = "auto",
) -> None:
    """Search for the best training settings with Optuna; if interrupted, the same command continues."""
    from pyxem_dl.study import run_study

    report = run_study(plan, device=device, echo=typer.echo)
    typer.echo(f"{report.read_text(encoding='utf-8')}\nWritten to {report}.")


@command("train-bragg")
def train_bragg(
    output: Annotated[Path, typer.Option(help="Folder of the model.")],
    structures: Annotated[
        list[Path] | None, typer.Argument(help="CIF files to simulate disks of; by default the embedded crystals.")
    ] = None,
    max_minutes: Annotated[float | None, typer.Option(help="Time limit; 115 by default.")] = None,
    unet: Annotated[str, typer.Option(help="'real', or 'complex' (on spectra, as it was published).")] = "real",
    seed: Annotated[int, typer.Option(help="Of weights and patterns.")] = 0,
    device: Device = "auto",
    resume: Resume = True,
    overwrite: OverwriteModel = False,
    progress: Progress = True,
) -> None:
    """Train a detector of Bragg disks on simulated convergent-beam patterns."""
    check_structures(structures)
    from pyxem_dl.training import train_bragg as train_detector

    model = train_detector(
        structures or None, output=output, max_minutes=max_minutes, network={"unet": unet}, seed=seed, device=device,
        resume=resume, overwrite=overwrite, show_progressbar=progress,
    )  # fmt: skip
    typer.echo(f"{model} is in {output}; {output / 'README.md'} says how good it is.")
