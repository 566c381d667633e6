"""The table: results as Markdown, with what was asked and what others reach."""

from __future__ import annotations

from suite import (
    accelerator,
    bloch,
    dynamical,
    images,
    overlap,
    phase_fields,
    phases,
    refined,
    settled,
    tilt,
    unseen,
    verifier,
)
from suite.datasets import EMPTY
from suite.disk_report import disk_tables
from suite.labelled_report import LABELLED_TABLES
from suite.strain import strain_table
from suite.tables import degrees as _degrees, header as _header, line as _line, percent as _percent

_KINEMATICAL = "kinematical Al"
_AL_4, _AL_3 = ("multislice Al, 10⁴ scattered electrons", "multislice Al, 10³ scattered electrons")
_LI_4, _LI_3 = ("multislice LiNiO2, 10⁴ scattered electrons", "multislice LiNiO2, 10³ scattered electrons")

#: Numbers that were measured before, by others, with other code on the same (kinematical: similar) patterns: shares
#: within 5 and 2 degrees and median, modulo 180 degrees.  They are printed, not run.
QUOTED = {
    _KINEMATICAL: {"pyxem 0.21, best of 16 settings": (0.70, 0.56, 1.4), "prototype": (0.85, 0.71, 1.4)},
    _AL_4: {
        "pyxem 0.21, best of 16 settings": (0.77, 0.51, 1.9),
        "py4DSTEM 0.14, disks + ACOM": (0.91, 0.75, 1.3),
        "prototype": (0.81, 0.66, 1.5),
    },
    _LI_4: {
        "pyxem 0.21, best of 16 settings": (0.69, 0.49, 2.1),
        "py4DSTEM 0.14, disks + ACOM": (0.94, 0.86, 1.0),
        "prototype": (0.83, 0.59, 1.8),
    },
    _AL_3: {
        "pyxem 0.21, best of 16 settings": (0.65, 0.33, 3.1),
        "py4DSTEM 0.14, disks + ACOM": (0.87, 0.68, 1.4),
        "prototype": (0.78, 0.59, 1.6),
    },
    _LI_3: {
        "pyxem 0.21, best of 16 settings": (0.63, 0.42, 2.7),
        "py4DSTEM 0.14, disks + ACOM": (0.92, 0.81, 1.1),
        "prototype": (0.80, 0.55, 1.8),
    },
}

#: What a network is asked to reach: share within 5 and 2 degrees and median modulo 180 degrees, share within 5 degrees
#: strict.
ASKED = {
    _KINEMATICAL: "≥ 90 % / ≥ 78 %; strict ≥ 80 % (5°)",
    _AL_4: "> 81 % / > 66 %, < 1.5°",
    _LI_4: "> 83 % / > 59 %, < 1.8°",
    _AL_3: "> 78 % / > 59 %, < 1.6°",
    _LI_3: "> 80 % / > 55 %, < 1.8°",
}


def markdown(content: dict) -> str:
    """Write results as Markdown.

    Parameters
    ----------
    content : dict
        Of ``results.json``.

    Returns
    -------
    str
        Tables of the parts that there are, then the models and the machines.
    """
    rows = {section: [r for r in content["rows"] if r["section"] == section] for section in _SECTIONS}
    parts = ["# Benchmark", _INTRODUCTION]
    for section, write in _SECTIONS.items():
        if rows[section]:
            parts.append(write(rows[section], content))
    parts += [_models(content), _runs(content)]
    return "\n\n".join(parts) + "\n"


_INTRODUCTION = """Written by `python -m suite`; the numbers are also in `results.json`. Letters name the run
(below). Accuracies are given strict and modulo 180° about the beam, which zero-order spots alone cannot tell apart;
patterns that are not indexed count as wrong, and medians are over those that are indexed. Rows in *italics* are quoted,
not run."""


def _accuracy(title: str, explanation: str, asked_of: str = "network"):
    """Make the writer of a table of accuracies; `asked_of` begins the names of what the project's numbers are for."""

    def write(rows: list[dict], content: dict) -> str:
        lines = [
            f"## {title}", "", explanation, "",
            *_header("data", "method", "n", "within 5° / 2° strict", "median", "within 5° / 2° modulo 180°", "median",
                     "not indexed", "patterns/s", "asked (modulo 180°)", "run"),
        ]  # fmt: skip
        data_sets = list(dict.fromkeys(row["data"] for row in rows))
        for data in sorted(data_sets, key=_order):
            for row in (row for row in rows if row["data"] == data):
                strict, modulo = row["strict"], row["modulo_180"]
                asked = ASKED.get(data, "") if row["predictor"].startswith(asked_of) else ""
                lines.append(_line(
                    data, row["predictor"], row["n"], _pair(strict), _degrees(strict["median"]), _pair(modulo),
                    _degrees(modulo["median"]), _percent(row["not_indexed"]), f"{row['patterns_per_second']:.0f}",
                    asked, _letter(row, content),
                ))  # fmt: skip
            for method, (five, two, median) in QUOTED.get(data, {}).items():
                pair = _pair({"within_5": five, "within_2": two})
                cells = (data, method, "", "", "", pair, f"{median:.1f}°", "", "", "", "quoted")
                lines.append(_line(*(f"*{cell}*" if cell else "" for cell in cells)))
        return "\n".join(lines + _calibration(rows))

    return write


def _calibration(rows: list[dict]) -> list[str]:
    """Lines on how often answers of a score are right."""
    lines = []
    for row in (row for row in rows if row.get("calibration")):
        bins = ", ".join(f"{b['score']:.2f}: {b['right']:.0%} of {b['n']}" for b in row["calibration"])
        lines.append(f"- {row['data']}, {row['predictor']}: {bins}")
    return lines and ["", "What a score means: mean score of a bin: share within 5°, strict, of so many.", "", *lines]


def _mgo(rows: list[dict], content: dict) -> str:
    """Table of the MgO scan: a column for each method, networks first."""
    rows = sorted(rows, key=lambda row: not row["predictor"].startswith("network"))
    x, y = (_percent(rows[0]["explained"].get(f"stretch_{axis}", 0)) for axis in "xy")
    lines = [
        "## A real scan: MgO nanocubes, 105 × 105, 300 kV",
        "",
        "There is no truth table, but what lies where is seen in the virtual images: cubes (polygons inside of them,"
        " and only where a cube lies alone), holes and bare film. Detected peaks: up to 1.3 Å⁻¹, explained if a"
        " reflection within 0.04 Å⁻¹ of the Ewald sphere lies within 0.05 Å⁻¹; chance: the same with the peaks turned"
        f" about the beam. The scan is distorted: the flat cube's lattice is too large by {x} along x and {y} along y,"
        " so that outer peaks lie further off than the tolerance. The peaks are counted as they are, and again after"
        " taking that distortion off them. Cubes: median disorientation from the neighbours, strict (modulo 180°), and"
        " the share that is indexed.",
        "",
        *_header("", *(row["predictor"] for row in rows), "asked of the network"),
        _line("positions", *(row["n"] for row in rows), ""),
        _line("indexed", *(_percent(row["indexed"]) for row in rows), ""),
        _line("flat cube: [001] within 10° of the beam", *(_percent(row["flat_001"]) for row in rows), "all over"),
    ]
    for cube in rows[0]["cubes"]:
        found = [row["cubes"][cube] for row in rows]
        cells = (
            f"{_degrees(f['neighbour_disorientation'])} ({_degrees(f['neighbour_disorientation_modulo_180'])}), "
            f"{_percent(f['indexed'])}"
            for f in found
        )
        lines.append(_line(f"cube “{cube}”, {found[0]['positions']} positions", *cells, "≤ 1.5°"))
    for name in rows[0]["empty_indexed"]:
        asked = "0 %" if name in EMPTY else ""
        lines.append(_line(f"{name} indexed", *(_percent(row["empty_indexed"][name]) for row in rows), asked))
    for key, label, asked in (
        ("share_judged", "detected peaks explained, where the network indexes", "above templates"),
        ("chance_judged", "of these by chance", ""),
        ("share_undistorted", "the same, the detector's distortion taken off the peaks", ""),
        ("chance_undistorted", "of these by chance", ""),
        ("share_own", "the same, where the method itself indexes", ""),
        ("chance_own", "of these by chance", ""),
        ("share", "explained, whole scan (what is not indexed explains nothing)", ""),
        ("chance", "of these by chance", ""),
    ):
        found = (row["explained"].get(key) for row in rows)
        lines.append(_line(label, *("" if share is None else _percent(share) for share in found), asked))
    lines.append(_line("patterns/s", *(f"{row['patterns_per_second']:.0f}" for row in rows), ""))
    lines.append(_line("run", *(_letter(row, content) for row in rows), ""))
    return "\n".join(lines)


def _speed(rows: list[dict], content: dict) -> str:
    """Table of patterns/s, with the ratio to pyxem's fastest way in the same run."""
    lines = [
        "## Speed: from the lazy signal to the crystal map",
        "",
        "Patterns/s from the difference of two scans of different size, so that what does not grow with the scan"
        " (making of templates, loading of a model) is taken away; *whole call*: everything counted, for the larger"
        " scan of n patterns. pyxem's polar transform is counted. “templates, pyxem” is our function around it, which"
        " repairs its rotations and keeps many candidates for the reliability; “pyxem's own calls” keep one, and their"
        " templates are made beforehand. The ratio refers to the faster of the two.",
        "",
        *_header("data", "method", "n", "patterns/s", "whole call", "times pyxem's", "asked", "run"),
    ]
    for row in rows:
        same = [r for r in rows if r["data"] == row["data"] and r["run"] == row["run"] and "pyxem" in r["predictor"]]
        rival = max((r["patterns_per_second"] for r in same), default=None)
        ratio = "" if rival is None else f"{row['patterns_per_second'] / rival:.1f}"
        asked = "≥ 10" if row["predictor"].startswith("network") else ""
        lines.append(_line(
            row["data"], row["predictor"], row["n"], f"{row['patterns_per_second']:.4g}", f"{row['whole_call']:.4g}",
            ratio, asked, _letter(row, content),
        ))  # fmt: skip
    return "\n".join(lines)


def _cost(rows: list[dict], content: dict) -> str:
    """Table of CPU time for a pattern, and its ratio to that of the products of matrices."""
    lines = [
        "## Cost: CPU time for a pattern on one core",
        "",
        "Time of the thread in µs, median (least to most) of seven runs. *Times products*: the ratio to what the"
        " products of matrices alone would take that the network had when the target was set (59 and 72 MFLOP), at the"
        " rate measured beside it. Rivals that find disks run in environments of their own: `benchmarks/rivals.py`.",
        "",
        *_header("data", "method", "n", "µs", "times products", "asked", "GFLOP/s", "run"),
    ]
    for row in rows:
        ratio = row.get("times_products")
        lines.append(_line(
            row["data"], row["predictor"], row["n"], _range(row["us"], ".0f"), _range(ratio, ".2f") if ratio else "",
            "≤ 1.6" if ratio else "", row.get("gflops", ""), _letter(row, content),
        ))  # fmt: skip
    return "\n".join(lines)


def _engine(rows: list[dict], content: dict) -> str:
    """Table of what the engine itself takes."""
    lines = [
        "## Engine: what streaming takes beside the computing",
        "",
        "CPU times. Host work: stream and collecting on one core, of patterns that are there. Memory: of a process with"
        " its libraries, for 16,384 and 327,680 patterns of 128 × 128 px (MiB). Time for a pattern: with a step that"
        " takes a tenth of a network's time. Client: of orientations from a file, with two workers in processes of"
        " their own, fixed costs taken away.",
        "",
        *_header("what", "unit", "found", "asked", "measured", "run"),
    ]
    lines += [
        _line(row["data"], row["predictor"], row["found"], row["asked"], ", ".join(map(str, row["all"])),
              _letter(row, content))
        for row in rows
    ]  # fmt: skip
    return "\n".join(lines)


def _range(numbers: list[float], digits: str) -> str:
    middle, least, most = (format(x, digits) for x in numbers)
    return f"{middle} ({least} to {most})"


_SECTIONS = {
    "kinematical": _accuracy(
        "Kinematical Al, noisy",
        "Spots from diffsims in random orientations, 200 kV, 128 × 128 px covering ±1.5 Å⁻¹, 5 to 20 visible spots"
        " each, drawn by code that training does not use.",
    ),
    "multislice": _accuracy(
        "Multislice Al and LiNiO₂",
        "abTEM, 200 kV, 1.5 mrad, 50 to 500 Å thick, random orientations, Poisson noise; scattered electrons: expected"
        " counts outside the direct beam. The exponent and the weights of “templates, torch” were chosen while looking"
        " at these very patterns, as were the settings of the quoted rivals.",
    ),
    "mgo": _mgo,
    "speed": _speed,
    "cost": _cost,
    "engine": _engine,
    "disks": lambda rows, content: disk_tables(rows, lambda row: _letter(row, content)),
    "strain": lambda rows, content: strain_table(rows, lambda row: _letter(row, content)),
    "vectors": _accuracy(
        "Orientations from Bragg disks",
        "The same patterns: their disks are found first, with the probe estimated from the direct beam (by the network"
        " from a confidence of 0.05 on), and matched: templates 3° apart give candidates, which are refined by the"
        " likelihood of positions and intensities, see `match_templates`. No training for the crystal. Settings of the"
        " likelihood were tried on other crystals (MgO, Fe, Mg, Al₂O₃, Si, TiO₂, by our many-beam code), but the width"
        " of the search and the number of templates were chosen when aluminium's numbers here had been seen, too; the"
        " templates' exponent and weights were chosen while looking at these very patterns.",
        asked_of="nothing",
    ),
    "dynamical": lambda rows, content: dynamical.table(rows, lambda row: _letter(row, content)),
    "bloch": lambda rows, content: bloch.table(rows, lambda row: _letter(row, content)),
    "tilt": lambda rows, content: tilt.table(rows, lambda row: _letter(row, content)),
    "overlap": lambda rows, content: overlap.table(rows, lambda row: _letter(row, content)),
    "phases": lambda rows, content: phases.table(rows, lambda row: _letter(row, content)),
    "unseen": lambda rows, content: unseen.table(rows, lambda row: _letter(row, content)),
    "images": lambda rows, content: images.table(rows, lambda row: _letter(row, content)),
    "phase_fields": lambda rows, content: phase_fields.table(rows, lambda row: _letter(row, content)),
    "refined": lambda rows, content: refined.table(rows, lambda row: _letter(row, content)),
    "settled": lambda rows, content: settled.settled_table(rows, lambda row: _letter(row, content)),
    "verifier": lambda rows, content: verifier.table(rows, lambda row: _letter(row, content)),
    "gpu": lambda rows, content: accelerator.table(rows, lambda row: _letter(row, content)),
} | {
    name: lambda rows, content, write=write: write(rows, lambda row: _letter(row, content))
    for name, write in LABELLED_TABLES.items()
}  # fmt: skip


def _models(content: dict) -> str:
    lines = [
        "## Models", "",
        *_header("model", "parameters", "trained for", "simulated patterns", "on", "precision"),
    ]  # fmt: skip
    for label, model in content["models"].items():
        minutes = f"{model['minutes']:g} minutes" if "minutes" in model else "not recorded"
        patterns = f"{model['patterns']:,}" if "patterns" in model else "not recorded"
        hardware, precision = model.get("hardware", "see its card"), model.get("precision", "")
        lines.append(_line(label, f"{model['parameters']:,}", minutes, patterns, hardware, precision))
    return "\n".join(lines)


def _runs(content: dict) -> str:
    lines = ["## Runs", ""]
    for letter, run in zip(_letters(content), content["runs"].values()):
        versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
        gpu = f", {run['gpu']}" if run["gpu"] else ""
        load = "" if run["load_average"] is None else f", load average {run['load_average']:g} at the start"
        lines.append(
            f"- **{letter}**: {run['date']}; {run['cpu']}, {run['cores']} cores, {run['threads']} threads{load}{gpu}; "
            f"{run['system']}, Python {run['python']}; {versions}"
        )
    return "\n".join(lines)


def _letters(content: dict) -> list[str]:
    return [chr(ord("a") + i) if i < 26 else f"z{i - 25}" for i in range(len(content["runs"]))]


def _letter(row: dict, content: dict) -> str:
    return dict(zip(content["runs"], _letters(content))).get(row["run"], "?")


def _order(data: str) -> int:
    known = list(QUOTED)
    return known.index(data) if data in known else len(known)


def _pair(numbers: dict) -> str:
    return f"{_percent(numbers['within_5'])} / {_percent(numbers['within_2'])}"
