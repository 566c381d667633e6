"""What a training leaves for people: its card and its log."""

from __future__ import annotations

import csv
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from pyxem_dl.crystals import phase_to_dict
from pyxem_dl.training.learning import FALSE_CRYSTALS, VALIDATION_PATTERNS
from pyxem_dl.training.running import hardware, versions

_PACKAGES = ("pyxem-dl", "torch", "lightning", "timm", "numpy", "diffsims", "orix")


def provenance(modules, root, precision: str) -> dict:
    """Tell how a training went, for ``config.json``.

    Parameters
    ----------
    modules : iterable of ClockedTraining
        Of all stages, done.
    root : torch.device
        On which they were trained.
    precision : str
        As Lightning has it.

    Returns
    -------
    dict
        As :class:`~pyxem_dl.models.description.ProvenanceEntry` describes it.
    """
    return {
        "stages": [
            {"name": m.stage, "minutes": round(m.elapsed / 60, 3), "patterns": int(m.patterns_seen)} for m in modules
        ],
        "hardware": hardware(root),
        "precision": precision,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(_PACKAGES),
    }


def _how_it_went(model, digits: int = 0) -> tuple[str, str]:
    """Where a model was trained, and rows of Markdown with its stages."""
    facts = model.provenance
    rows = (f"| {s['name']} | {s['minutes']:.{digits}f} | {s['patterns']:,} |" for s in facts["stages"])
    return f"{facts['hardware']}, {facts['precision']}", "\n".join(rows)


def join_logs(folder: Path, stages) -> Path:
    """One CSV file of the logs of all stages and resumed runs; a column says which stage."""
    rows = []
    for stage in stages:
        logs = (folder / stage).glob("version_*/metrics.csv")
        for log in sorted(logs, key=lambda path: path.stat().st_mtime):
            with open(log, newline="") as file:
                rows += [{"stage": stage} | row for row in csv.DictReader(file)]
    columns = list(dict.fromkeys(key for row in rows for key in row if key != "epoch"))
    with open(folder / "log.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return folder / "log.csv"


def _tables(configuration) -> tuple[str, str]:
    """Rows of Markdown: the settings of a training, and those of its simulation."""
    entries = asdict(configuration)
    simulation = entries.pop("simulation")
    return tuple(
        "\n".join(f"| `{key}` | {value} |" for key, value in part.items())
        for part in (entries, simulation)
    )


def model_card(model, modules) -> str:
    """Model card in Markdown: data, metrics, limits, licence, and how it was made."""
    configuration, r = modules[-1].configuration, modules[-1].results
    phases = "\n".join(
        f"- {p.name}: space group {p.space_group.number}, lattice "
        f"{', '.join(f'{x:.4g}' for x in phase_to_dict(p)['lattice'])} (Å, degrees)"
        for p in model.phases
    )
    where, stages = _how_it_went(model)
    settings, simulation = _tables(configuration)
    radii = " to ".join(f"{x:g}" for x in configuration.simulation.disk_radius)
    return f"""# {model.name}

{model.description}. Orientation model of pyxem_dl.

{phases}

## Domain
Beam energy {configuration.beam_energy:g} kV; looks out to {configuration.reciprocal_radius:g} Å⁻¹; disk
radius {radii} Å⁻¹.

## Recipe
`pyxem_dl.train(recipe="{model.name}", output=...)`: with the settings below, on patterns that were
simulated during training, each seen once, on {where}:

| stage | minutes | patterns |
| --- | --- | --- |
{stages}

| setting | |
| --- | --- |
{settings}

| simulation | |
| --- | --- |
{simulation}

## Metrics on {VALIDATION_PATTERNS} fresh simulated patterns of the same kind
| | strict | modulo 180° |
| --- | --- | --- |
| within 5° | {r["within_5_strict"]:.1%} | {r["within_5_modulo_180"]:.1%} |
| within 2° | {r["within_2_strict"]:.1%} | {r["within_2_modulo_180"]:.1%} |
| median | {r["median_strict"]:.2f}° | {r["median_modulo_180"]:.2f}° |

Misindexing rate (5°, strict) {r["misindexing_rate"]:.1%}; right phase {r["phase"]:.1%}; crystal or none
{r["empty"]:.1%}. Below a score of {model.thresholds["score"]:g} a pattern is not indexed:
{FALSE_CRYSTALS:.0%} of simulated patterns without a crystal lie above. These patterns include nearly
empty ones with two or three spots; see the project's benchmark for numbers to compare with.

## Limits
Kinematical and two-beam intensities with random factors, no full dynamical scattering. Patterns
outside the domain are predicted, with a warning.

## Licence
GPL-3.0-or-later.
"""


def labelled_card(model, modules, scans) -> str:
    """Card of an orientation model that was trained on labelled scans, in Markdown."""
    configuration, r = modules[-1].configuration, modules[-1].results
    phases = ", ".join(f"{p.name} ({p.point_group.name})" for p in model.phases)
    rows = "\n".join(
        f"| {i + 1} | {' × '.join(map(str, scan.scan.data.shape[:-2]))} | {scan.n_labels:,} | {scan.n_chosen:,} | "
        f"{len(scan.train):,} | {len(scan.region):,} |"
        for i, scan in enumerate(scans)
    )
    where, stages = _how_it_went(model, digits=1)
    settings = "\n".join(f"| `{key}` | {value} |" for key, value in asdict(configuration).items())
    kinds = {"": f"held out by {configuration.split}"}
    if "random_within_5_strict" in r:
        kinds["random_"] = "single positions between those trained on"
    metrics = "\n".join(
        f"| {title} | {r[f'{kind}within_5_strict']:.1%} | {r[f'{kind}within_2_strict']:.1%} | "
        f"{r[f'{kind}median_strict']:.2f}° | {r[f'{kind}within_5_modulo_180']:.1%} | "
        f"{r[f'{kind}within_2_modulo_180']:.1%} | {r[f'{kind}median_modulo_180']:.2f}° |"
        for kind, title in kinds.items()
    )
    factor, floor = model.uncertainty_fit
    spread = (
        f"The expected error is the spread of the predictions times {factor:g}, with a floor of {floor:g}°, fitted on "
        "held-out positions."
    )
    energy = model.domain.get("beam_energy") or scans[0].calibration.beam_energy
    return f"""# {model.name}

{model.description}. Orientation model of pyxem_dl for {phases}: network `{configuration.network_name}`.

## Domain
Beam energy {f"{energy:g} kV" if energy else "unknown"}; looks out to {configuration.reciprocal_radius:g} Å⁻¹.
Patterns like those of the scans that it was trained on.

## Data
Measured patterns with the labels of another method.

| scan | positions | labels | chosen | trained on | held out |
| --- | --- | --- | --- | --- | --- |
{rows}

## Recipe
On {where}:

| stage | minutes | patterns |
| --- | --- | --- |
{stages}

| setting | |
| --- | --- |
{settings}

## Agreement with labels that were not trained on
| | within 5° | within 2° | median | within 5° mod 180° | within 2° mod 180° | median mod 180° |
| --- | --- | --- | --- | --- | --- | --- |
{metrics}

Neighbours are nearly copies: single positions between training positions look better than new regions do. Labels are
not the truth: some of the disagreement is due to them.{" " + spread if model.has_dropout else ""}

## Limits
The model repeats what its labels have in common, including their mistakes.

## Licence
GPL-3.0-or-later.
"""


def any_crystal_card(model, configuration, results: dict, phases, held_out: list, start=None) -> str:
    """Card of a model that takes any crystal, in Markdown; `held_out` are the phases that are not trained on."""
    weights = ""
    if start is not None:
        before = sum(stage["minutes"] for stage in start.provenance.get("stages", []))
        weights = f" from the weights of {start.name} after {before:.0f} minutes,"
    return f"""# {model.name}

{model.description}. Orientation model of pyxem_dl: name the phases when you look for them.

## Recipe
`pyxem_dl.training.any_crystal.train_any_crystal(output=..., ...)` with the settings below, on simulated patterns of
{len(phases)} crystals (`crystals.json`) in random orientations, {_engines(configuration)},{weights}
on {_how_it_went(model)[0]}:
{_crystals_card(model, configuration, results, f"{len(held_out)} crystals on which it was not trained")}"""


def specialist_card(model, configuration, results: dict, start) -> str:
    """Card of a model that takes any crystal, and was trained on a few from the weights of `start`, in Markdown."""
    names = ", ".join(f"{p.name} ({p.point_group.name})" for p in model.phases)
    return f"""# {model.name}

{model.description}. Orientation model of pyxem_dl for {names}.

## Recipe
`pyxem_dl.train(...)` with the settings below, from the weights of {start.name}, on simulated patterns in random
orientations, {_engines(configuration)}, on {_how_it_went(model)[0]}:
{_crystals_card(model, configuration, results, "its phases")}"""


def _engines(configuration) -> str:
    """Say how intensities were computed."""
    waves = "by Bloch waves, " if configuration.simulation.bloch_share else ""
    return f"{waves}many-beam and kinematical"


def _crystals_card(model, configuration, r: dict, measured: str) -> str:
    """Write what the cards of such models share."""
    settings, simulation = _tables(configuration)
    return f"""
| stage | minutes | patterns |
| --- | --- | --- |
{_how_it_went(model)[1]}

| setting | |
| --- | --- |
{settings}

| simulation | |
| --- | --- |
{simulation}

## Metrics on simulated patterns of {measured}
Modulo 180 degrees about the beam: within 5 degrees {r["within_5_modulo_180"]:.1%}, within 2 degrees
{r["within_2_modulo_180"]:.1%}, median {r["median_modulo_180"]:.2f} degrees. Strict: {r["within_5_strict"]:.1%},
{r["within_2_strict"]:.1%}, {r["median_strict"]:.2f} degrees; the mean score, which should be the first of these, is
{r["score"]:.1%}. Patterns without the crystal, empty or of another one, with a score above one half:
{r["false"]:.1%}.

## Licence
GPL-3.0-or-later.
"""


def bragg_card(model, modules: dict, phases, held_out: list, visible: float) -> str:
    """Card of a disk detector in Markdown; `held_out` are the phases that are not trained on."""
    r, configuration = modules["detect"].results, modules["detect"].configuration
    where, stages = _how_it_went(model)
    read = ""
    if "read" in modules:
        e = modules["read"].results
        read = (
            f"\n\nRead at full resolution: position {e['position_error']:.3f} radii (largest for disks of few"
            f" electrons); excitation errors within three half ranges of a disk {e['near_error']:.2f} half ranges, the"
            f" sign right for {e['near_sign']:.0%}; rank correlation of V_g x thickness {e['potential']:.2f}."
        )
    validation = f"{len(held_out)} of these crystals, on which it was not trained" if held_out else "the same crystals"
    settings, simulation = _tables(configuration)
    crystals = f"{len(phases)} crystals (`crystals.json`)" if len(phases) > 12 else ", ".join(p.name for p in phases)
    low, high = model.domain["disk_radius"]
    least = configuration.simulation.electrons[0]
    return f"""# {model.name}

{model.description}. Disk detector of pyxem_dl.

## Domain
Disks of {low:g} to {high:g} px radius, any crystal, any dose from {least:g} electrons per pattern.

## Recipe
`pyxem_dl.training.bragg.train_bragg(output=..., ...)` with the settings below, on patterns of
{crystals} in random orientations and thicknesses (many-beam disks, all
patterns different), each seen twice, on {where}:

| stage | minutes | patterns |
| --- | --- | --- |
{stages}

| setting | |
| --- | --- |
{settings}

| simulation | |
| --- | --- |
{simulation}

## Metrics on simulated patterns of {validation}
At the threshold of {r["threshold"]:.2f}: F1 {r["f1"]:.3f}, precision {r["precision"]:.3f}, recall
{r["recall"]:.3f}; position error {r["position_error"]:.3f} disk radii (root mean square, of the U-Net
alone); rank correlation of the intensities {r["intensity"]:.3f}.{read}

Doses go down to {least:g} electrons per pattern, and disks of {visible:g} times the noise count.

## Limits
Disks without the probe's shape (strong aberrations that change from disk to disk) are not found.

## Licence
GPL-3.0-or-later.
"""


def structure_card(model, module) -> str:
    """Card of a structure model in Markdown."""
    where, stages = _how_it_went(model)
    settings, simulation = _tables(module.configuration)
    r, names = module.results, model.class_names
    alike = [f"- {names[i]}: {', '.join(names[j] for j in each)}" for i, each in enumerate(model.alternatives) if each]
    low, high = model.domain["pixel"]
    return f"""# {model.name}

{model.description}. Structure model of pyxem_dl.

## Classes
{", ".join(names)}

## Not told apart within {model.training["tolerance"]:.0%} of the calibration
{chr(10).join(alike) or "None of them look alike."}

## Domain
Pixels, after binning, of {low:g} to {high:g} Å; windows of {model.network.arguments["window"]:g} Å.

## Recipe
`pyxem_dl.train_structures(..., output=...)` with the settings below, on simulated windows, each used
a few times, on {where}:

| stage | minutes | windows |
| --- | --- | --- |
{stages}

| setting | |
| --- | --- |
{settings}

| simulation | |
| --- | --- |
{simulation}

## Metrics on simulated windows
Right class {r["right"]:.1%}; median error of the rotation {r["rotation"]:.2f} degrees; windows that are none of the
classes found with an area under the curve of {r["auroc"]:.3f}, {r["rejected"]:.1%} of them at the threshold of
{model.thresholds["other"]:.3f}, which loses 5 % of the others; calibration error of the probabilities
{r["calibration"]:.3f}.

## Licence
GPL-3.0-or-later.
"""
