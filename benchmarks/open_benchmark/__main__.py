"""``python -m open_benchmark``, in the folder ``benchmarks``."""

from __future__ import annotations

from datetime import date
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from open_benchmark import methods, patterns, recipe, results, scoring, zones
from open_benchmark.crystals import CRYSTALS, phase_of

app = typer.Typer(add_completion=False, help=__doc__)
Condition = StrEnum("Condition", [(f"c_{name}", name) for name in patterns.NAMES])
Data = Annotated[Path, typer.Option(help="File of patterns; by default the part that lies in the repository.")]
Where = Annotated[Path, typer.Option(help="Where rows are kept; a .md file is written beside it.")]


@app.command()
def conditions() -> None:
    """List the conditions under which patterns are recorded."""
    for condition in patterns.CONDITIONS:
        typer.echo(f"{condition.name:12}{condition.text}")


@app.command()
def export(condition: Condition, output: Path, data: Data = patterns.PART) -> None:
    """Write the patterns of a condition, without the truth, to an .npz file for any program."""
    found = patterns.load(condition.value, data)
    np.savez_compressed(
        output, ids=found.ids, crystals=found.crystals, patterns=found.patterns, scale=found.scale,
        center=found.center, beam_energy=found.beam_energy, disk_radius=found.disk_radius,
    )  # fmt: skip
    typer.echo(f"{len(found.ids)} patterns of {len(set(found.crystals))} crystals are in {output}.")


@app.command()
def cif(folder: Path) -> None:
    """Write the crystals, and those of the test along zone axes, as CIF files."""
    from pyxem_dl.crystals.writing import cif_text

    folder.mkdir(parents=True, exist_ok=True)
    phases = {metal: (zones.phase_of(metal), "") for metal in zones.METALS}
    phases |= {crystal.name: (phase_of(crystal.name), crystal.reference) for crystal in CRYSTALS}
    for name, (phase, reference) in phases.items():
        text = cif_text(phase, {"name": name, "reference": reference})
        (folder / f"{name}.cif").write_text(text, encoding="utf-8")
    typer.echo(f"{len(phases)} files are in {folder}.")


@app.command()
def score(
    answers: Path,
    condition: Annotated[Condition, typer.Option(help="Of the patterns that were answered.")],
    name: Annotated[str | None, typer.Option(help="Keep the scores as a row of this name.")] = None,
    data: Data = patterns.PART,
    output: Where = results.RESULTS,
) -> None:
    """Score a file of quaternions."""
    truth = patterns.load(condition.value, data)
    try:
        found = scoring.read_answers(answers, truth.ids)
    except (OSError, ValueError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from None
    _report(found, truth)
    if name is not None:
        _keep(output, name, found, truth)


@app.command()
def check(data: Data = patterns.PART) -> None:
    """Show that the truth scores 100 %, and what the commonest mistakes look like."""
    truth = patterns.load("1e5", data)
    for text, quaternions in scoring.mistakes(truth.quaternions):
        numbers = scoring.score(quaternions, truth)["all"]
        strict, modulo = (100 * numbers[key]["within"]["0.3"] for key in ("strict", "modulo_180"))
        typer.echo(f"{text}: strict {strict:.0f} %, modulo 180° {modulo:.0f} % within 0.3°")
        told = scoring.told_convention(quaternions, truth)
        if told:
            typer.echo(f"  {told}")


@app.command()
def make(folder: Path, n: Annotated[int, typer.Option(help="Patterns of each crystal.")] = recipe.WHOLE) -> None:
    """Simulate the patterns that are not yet in the folder: some 10 s of one core each."""
    recipe.make(folder, n, report=typer.echo)


@app.command()
def pack(folder: Path, output: Path, n: Annotated[int, typer.Option(help="Of each crystal.")] = recipe.WHOLE) -> None:
    """Write the patterns of a folder to one file."""
    recipe.pack(folder, output, n)


@app.command("make-zones")
def make_zones(folder: Path, output: Annotated[Path, typer.Option(help="File.")] = zones.ZONES) -> None:
    """Simulate the spots of the test along zone axes: some 10 minutes of one core."""
    zones.make(folder, report=typer.echo)
    zones.pack(folder, output)


@app.command()
def run(
    folder: Annotated[Path, typer.Argument(help="For the answers.")],
    condition: Annotated[list[Condition] | None, typer.Option(help="By default all.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Name of a row. By default all.")] = None,
    refine: Annotated[bool, typer.Option(help="Two more rows: any-crystal refined, and calibrated, too.")] = False,
    data: Data = patterns.PART,
    output: Where = results.RESULTS,
) -> None:
    """Measure pyxem_dl and pyxem."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = _chosen(method, refine)
    for how in condition or list(Condition):
        truth = patterns.load(how.value, data)
        for name, function in chosen.items():
            path = folder / f"{name.replace(', ', '-').replace(' ', '-')}-{how.value}.csv"
            scoring.write_answers(path, truth.ids, methods.answers_of(function, truth))
            found = scoring.read_answers(path, truth.ids)
            typer.echo(f"{name}, {truth.condition.text}")
            _report(found, truth)
            _keep(output, name, found, truth)


@app.command("run-zones")
def run_zones(
    method: Annotated[list[str] | None, typer.Option(help="Name of a row. By default all.")] = None,
    refine: Annotated[bool, typer.Option(help="Two more rows: any-crystal refined, and calibrated, too.")] = False,
    every: Annotated[int, typer.Option(help="Take each so manieth thickness only.")] = 1,
    output: Where = results.RESULTS,
) -> None:
    """Measure pyxem_dl and pyxem along zone axes."""
    for name, function in _chosen(method, refine).items():
        row = zones.measure(function, every=every)
        typer.echo(f"{name}: {row}")
        results.add(output, "zones", {"name": name, **row, **_made()}, ("name",))


@app.command("export-zones")
def export_zones(
    radius: Annotated[float, typer.Argument(help="Half the side of the patterns in Å⁻¹: 1, 1.5 or 2.")],
    output: Path,
    every: Annotated[int, typer.Option(help="Take each so manieth thickness only.")] = 1,
) -> None:
    """Write the patterns along zone axes to an .npz file for any program, as `export` does."""
    columns = [zones.load(metal, radius, every=every) for metal in zones.METALS]
    drawn, _, ids = (np.concatenate(column) for column in zip(*columns))
    np.savez_compressed(
        output, ids=ids, crystals=np.array([each.split("-")[0] for each in ids]), patterns=drawn, scale=zones.SCALE,
        center=drawn.shape[1] / 2, beam_energy=zones.BEAM_ENERGY, disk_radius=zones.disk_radius(),
    )  # fmt: skip
    typer.echo(f"{len(ids)} patterns of {len(zones.METALS)} crystals are in {output}.")


@app.command("score-zones")
def score_zones(
    answers: Annotated[list[Path], typer.Argument(help="Files of answers, for 1, 1.5 and 2 Å⁻¹.")],
    name: Annotated[str, typer.Option(help="Of the row.")],
    every: Annotated[int, typer.Option(help="As they were exported.")] = 1,
    output: Where = results.RESULTS,
) -> None:
    """Score three files of quaternions of the patterns along zone axes."""
    if len(answers) != len(zones.PAPER):
        raise typer.BadParameter("give three files, for 1, 1.5 and 2 Å⁻¹.", param_hint="answers")
    errors = {}
    for radius, path in zip(zones.PAPER, answers):
        ids, truth = zones.truth(every=every)
        try:
            found = scoring.read_answers(path, ids)[:, 0]
        except (OSError, ValueError) as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(1) from None
        missing = ~np.isfinite(found).all(axis=1)
        errors[f"{radius:g}"] = zones.summary(zones.axis_errors(found, truth), missing)
    row = {"name": name, "n": len(ids), "errors": errors}
    typer.echo(str(row))
    results.add(output, "zones", {**row, **_made()}, ("name",))


def _chosen(names: list[str] | None, refine: bool) -> dict:
    every = methods.methods(refine=True if refine else None)
    unknown = sorted(set(names or ()) - set(every))
    if unknown:
        known = "; ".join(every)
        raise typer.BadParameter(f"there is no {unknown[0]!r}: take of {known}.", param_hint="--method")
    return {name: each for name, each in every.items() if not names or name in names}


def _report(found: np.ndarray, truth: patterns.Patterns) -> None:
    for crystal, numbers in scoring.score(found, truth).items():
        strict, modulo = numbers["strict"], numbers["modulo_180"]
        shares = ", ".join(f"{_share(modulo, angle)} within {angle}°" for angle in modulo["within"])
        typer.echo(
            f"  {crystal:10} {numbers['answered']} of {numbers['n']}; modulo 180°: {shares}, median "
            f"{modulo['median']}°; strict: {_share(strict, '5')} within 5°"
        )
    told = scoring.told_convention(found, truth)
    if told:
        typer.echo(f"  {told}")


def _share(found: dict, angle: str) -> str:
    return f"{100 * found['within'][angle]:.1f} ± {100 * found['spread'][angle]:.1f} %"


def _keep(output: Path, name: str, found: np.ndarray, truth: patterns.Patterns) -> None:
    row = {"name": name, "condition": truth.condition.name, "scores": scoring.score(found, truth), **_made()}
    results.add(output, "scores", row, ("name", "condition"))


def _made() -> dict:
    return {"date": date.today().isoformat(), "pyxem-dl": version("pyxem-dl")}


if __name__ == "__main__":
    app(prog_name="python -m open_benchmark")
