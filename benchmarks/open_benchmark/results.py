"""The table of results: rows of scores, kept as JSON and written as Markdown."""

from __future__ import annotations

import json
import os
from pathlib import Path

from open_benchmark.crystals import CRYSTALS
from open_benchmark.patterns import CONDITIONS
from open_benchmark.zones import PAPER

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"


def add(path: Path, section: str, row: dict, keys: tuple[str, ...]) -> None:
    """Put a row into the file in the place of the one with the same keys."""
    results = read(path)
    rows = [each for each in results[section] if any(each[key] != row[key] for key in keys)]
    results[section] = [*rows, row]
    # a row a line, so that a change shows which row it is of
    sections = [
        f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(each, ensure_ascii=False) for each in rows) + "\n]"
        for name, rows in results.items()
    ]
    _write(path, "{" + ",\n".join(sections) + "}\n")
    _write(path.with_suffix(".md"), markdown(results))


def read(path: Path) -> dict:
    """All rows, by sections."""
    if not path.exists():
        return {"scores": [], "zones": []}
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def markdown(results: dict) -> str:
    """Write the tables: what all crystals together give, each crystal, and the test along zone axes."""
    parts = ["# Results of the open benchmark\n", _all_crystals(results["scores"])]
    parts += [_each_crystal(results["scores"]), _zones(results["zones"])]
    return "\n".join(part for part in parts if part)


def _all_crystals(rows: list) -> str:
    if not rows:
        return ""
    lines = [
        "## All crystals\n",
        "Share of patterns within so many degrees of the truth ± √(p (1 − p) / n), and the median of all. Modulo 180°:"
        " the orientation that is turned by 180° about the beam counts as the same. Strict: it does not. A pattern"
        " without an answer counts as wrong.\n",
        *_header("patterns", "n", "code", "0.3°", "1°", "2°", "5°", "median", "strict, 5°"),
    ]
    for condition in CONDITIONS:
        for row in _of_condition(rows, condition.name):
            found = row["scores"]["all"]
            cells = [_share(found["modulo_180"], angle) for angle in ("0.3", "1", "2", "5")]
            median = _degrees(found["modulo_180"]["median"])
            lines.append(_line(condition.text, found["n"], row["name"], *cells, median, _share(found["strict"], "5")))
    both = [row for row in rows if "both" in row["scores"]["all"]]
    if both:
        lines += [
            "\nOf the overlaps, how often both crystals are among the candidates, modulo 180°:\n",
            *_header("code", "n", "both within 2°", "both within 5°"),
        ]
        for row in both:
            found = row["scores"]["all"]
            lines.append(_line(row["name"], found["n"], _share(found["both"], "2"), _share(found["both"], "5")))
    return "\n".join(lines) + "\n"


def _each_crystal(rows: list) -> str:
    rows = _of_condition(rows, "1e4")
    if not rows:
        return ""
    lines = [
        "## Each crystal\n",
        "10⁴ electrons. Within 5° strict / within 1° modulo 180° / median modulo 180°.\n",
        *_header("crystal", "Laue group", "n", *(row["name"] for row in rows)),
    ]
    for crystal in CRYSTALS:
        found = [row["scores"].get(crystal.name) for row in rows]
        if not any(found):
            continue
        cells = [
            "–" if each is None else f"{_percent(each['strict'], '5')} / {_percent(each['modulo_180'], '1')} / "
            f"{_degrees(each['modulo_180']['median'])}"
            for each in found
        ]  # fmt: skip
        lines.append(_line(crystal.name, crystal.laue_group, max(each["n"] for each in found if each), *cells))
    return "\n".join(lines) + "\n"


def _zones(rows: list) -> str:
    if not rows:
        return ""
    lines = [
        "## Along zone axes\n",
        "Mean angle between the zone axes that were found and the true ones, ± its standard error; median; 300 kV, Cu,"
        " Ag and Au, 25 axes, 20 to 1000 Å. The first row is quoted from the paper, on its own patterns.\n",
        *_header("code", "patterns", *(f"within {radius:g} Å⁻¹" for radius in PAPER)),
        _line("*ACOM, as published*", "3750", *(f"*{error:.2f}°*" for error in PAPER.values())),
    ]
    for row in rows:
        cells = [
            f"{row['errors'][key]['mean']:.2f} ± {row['errors'][key]['error']:.2f}°; "
            f"{_degrees(row['errors'][key]['median'])}" if key in row["errors"] else "–"
            for key in (f"{radius:g}" for radius in PAPER)
        ]  # fmt: skip
        lines.append(_line(row["name"], row["n"], *cells))
    return "\n".join(lines) + "\n"


def _of_condition(rows: list, name: str) -> list:
    return [row for row in rows if row["condition"] == name]


def _header(*cells: str) -> list[str]:
    return [_line(*cells), _line(*["---"] * len(cells))]


def _line(*cells) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _share(found: dict, angle: str) -> str:
    return f"{100 * found['within'][angle]:.1f} ± {100 * found['spread'][angle]:.1f} %"


def _percent(found: dict, angle: str) -> str:
    return f"{100 * found['within'][angle]:.0f} %"


def _degrees(angle: float | None) -> str:
    return "–" if angle is None else f"{angle:.2f}°"
