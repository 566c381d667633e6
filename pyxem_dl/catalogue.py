"""The bundled models, as their ``config.json`` files tell of them: nothing heavy is imported."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

_PRETRAINED = Path(__file__).parent / "pretrained"


@dataclass(frozen=True)
class Entry:
    """What there is to say of a bundled model.

    Parameters
    ----------
    name, description : str
        By which it is loaded, and what it is for.
    network : str
        Kind of the network.
    phases : tuple of str
        Names of the phases; none for a disk detector.
    beam_energy : float, optional
        In kV.
    reciprocal_radius : float, optional
        How far out the model looks, in Å⁻¹.
    """

    name: str
    description: str
    network: str = ""
    phases: tuple[str, ...] = ()
    beam_energy: float | None = None
    reciprocal_radius: float | None = None


def bundled(folder: Path = _PRETRAINED) -> list[Entry]:
    """List the models in a folder of models.

    Parameters
    ----------
    folder : pathlib.Path
        By default that of the package.

    Returns
    -------
    list of Entry
        By name; one whose ``config.json`` cannot be read says so in its description.
    """
    return [_read(path) for path in sorted(folder.glob("*/config.json"))]


def _read(path: Path) -> Entry:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        domain = config["domain"]
        return Entry(
            path.parent.name, config["description"], config["network"]["name"],
            tuple(phase["name"] for phase in config.get("phases", ())), domain.get("beam_energy"),
            domain.get("reciprocal_radius"),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return Entry(path.parent.name, f"damaged: {path} cannot be read ({error!r})")


def table(entries: list[Entry]) -> str:
    """Lines of a table, with a heading."""
    rows = [("name", "phases", "kV", "Å⁻¹", "")]
    for entry in entries:
        numbers = (f"{x:g}" if x else "any" for x in (entry.beam_energy, entry.reciprocal_radius))
        rows.append((entry.name, ", ".join(entry.phases) or "any", *numbers, entry.description))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(f"{text:<{w}}" for text, w in zip(row, widths, strict=True)).rstrip() for row in rows)
