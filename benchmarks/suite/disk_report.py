"""The tables of Bragg disks, with what was asked and what others reach."""

from __future__ import annotations

from collections.abc import Callable

from suite.tables import header, line, percent

#: F1 and position error (px) asked of the network, the bound of positions (Cramér-Rao, the disks' content unknown, no
#: background), and the position error (px) that py4DSTEM 0.14's correlation reaches at the best of its thresholds for
#: each material and number of electrons: measured before, with other code. In its F1 far reflections counted as wrong,
#: so that it can't stand beside ours.
ASKED = {"Al": (0.98, 0.97, 0.95), "LiNiO2": (0.94, 0.92, 0.90)}
ASKED_POSITION = {"Al": (0.70, 0.60, 0.45), "LiNiO2": (0.85, 0.80, 0.75)}
BOUND = {"Al": (0.41, 0.36, 0.25), "LiNiO2": (0.55, 0.39, 0.25)}
QUOTED_POSITION = {"Al": (1.6, 1.15, 0.9), "LiNiO2": (1.4, 1.4, 1.2)}
_DOSES = ("1e+04", "1e+05", "1e+06")


def disk_tables(rows: list[dict], letter: Callable) -> str:
    """Write all tables of disks.

    Parameters
    ----------
    rows : list of dict
        Of the section, each with its ``kind``.
    letter : callable
        Which gives the letter of a row's run.
    """
    parts = ["## Bragg disks"]
    for kind, write in _TABLES.items():
        mine = [row for row in rows if row["kind"] == kind]
        if mine:
            parts.append("\n".join(write(mine, letter)))
    return "\n\n".join(parts)


def _truth(rows, letter) -> list[str]:
    lines = [
        "Multislice, 3 mrad, disks of 10.2 px in 256 × 256 px, one threshold for all. A disk is a reflection within"
        " 0.03 Å⁻¹ of the Ewald sphere and 1.5 Å⁻¹ of the beam with more than 20 expected electrons, a hit lies within"
        " 0.6 radii, pairs are assigned one to one. What is found at another point of the lattice, allowed or"
        " forbidden, within 0.3 Å⁻¹ of the sphere, or at the direct beam, counts neither way; a second detection of a"
        " disk is wrong." + _ignored(rows) + " *Visible*: wrong detections at which the pattern without noise has a"
        " disk that stands out by 2.75 standard deviations: multislice has disks of reflections further from the"
        " sphere, too. Overlapped: within two radii of a disk with more than a tenth of the electrons, of those within"
        " 0.12 Å⁻¹ of the sphere; cut: by the frame. *Bound*: Cramér–Rao, with unknown content of the disks and no"
        " background.",
        "",
        "F1 and positions asked are not those of earlier tables, as the metric is a fairer one: reflections far from"
        " their Bragg condition no longer count as wrong. They did in py4DSTEM's F1, which is therefore left out; its"
        " positions are quoted.",
        "",
        *header("data", "method", "disks", "F1", "asked", "precision / recall", "wrong ones (visible)",
                "position (px rms)", "asked", "bound", "isolated / overlapped / cut",
                "intensity (rank correlation)", "run"),
    ]  # fmt: skip
    for data in dict.fromkeys(row["data"] for row in rows):
        material, dose = _material(data), next(i for i, dose in enumerate(_DOSES) if dose in data)
        for row in (row for row in rows if row["data"] == data):
            network = row["predictor"].startswith("network")
            kinds = (row.get(f"position_{kind}") for kind in ("isolated", "overlapped", "cut"))
            lines.append(line(
                data, row["predictor"], row["disks"], f"{row['f1']:.3f}",
                f"≥ {ASKED[material][dose]:.2f}" if network else "",
                f"{row['precision']:.3f} / {row['recall']:.3f}", _wrong(row), f"{row['position_error']:.2f}",
                f"≤ {ASKED_POSITION[material][dose]:.2f}" if network else "", f"{BOUND[material][dose]:.2f}",
                " / ".join("–" if x is None or x != x else f"{x:.2f}" for x in kinds),
                f"{row['rank_correlation']:.3f}", letter(row),
            ))  # fmt: skip
        lines.append(line(
            f"*{data}*", "*py4DSTEM 0.14, best threshold for this line*", "", "", "", "", "",
            f"*{QUOTED_POSITION[material][dose]:g}*", "", "", "", "", "*quoted*",
        ))  # fmt: skip
    return lines + _readings([row for row in rows if "q_z_error" in row], letter)


def _number(value) -> str:
    """Write a number, or a dash where there is none."""
    return "–" if value != value else f"{value:.2f}"


def _wrong(row) -> str:
    """Write how many detections are wrong, and how many of them a noise-free pattern shows."""
    number = f"{row['false_per_pattern'] * row['n']:.0f}"
    share = row.get("false_visible")
    return number if share is None or share != share else f"{number} ({percent(share)})"


def _ignored(rows) -> str:
    """Write which share of the area detections count neither way in, of each material the mean of its rows."""
    shares = {}
    for row in (row for row in rows if "ignored_share" in row):
        shares.setdefault(_material(row["data"]), []).append(row["ignored_share"])
    if not shares:
        return ""
    parts = " and ".join(f"{percent(sum(of) / len(of))} ({name})" for name, of in shares.items())
    return f" The points that count neither way take {parts} of the area in which a detection is no hit."


def _readings(rows, letter) -> list[str]:
    """Write what single disks tell of excitation errors and potentials."""
    if not rows:
        return []
    lines = [
        "",
        "What single disks tell: *near* are excitation errors within three half ranges of a disk from Bragg's"
        " condition; further off one disk hardly tells the sign. V_g × thickness: rank correlation over all hits, where"
        " thickness alone gives some order to the disks of different patterns, and the mean of the rank correlations"
        " within patterns with at least five hits. Asked: ≤ 0.003 Å⁻¹, sign ≥ 85 %, rank correlation over all hits"
        " ≥ 0.9; the crystals are none that the network has seen.",
        "",
        *header("data", "method", "near disks", "error (Å⁻¹ rms)", "sign right", "V_g × thickness, all hits",
                "within patterns (how many)", "run"),
    ]  # fmt: skip
    for row in rows:
        lines.append(line(
            row["data"], row["predictor"], f"{row['n_near']:.0f}", f"{row['q_z_error']:.4f}", percent(row["q_z_sign"]),
            f"{row['v_g']:.3f}", f"{row['v_g_within']:.3f} ({row['n_within']:.0f})", letter(row),
        ))  # fmt: skip
    return lines


def _material(data: str) -> str:
    return next(name for name in ASKED if f" {name}," in data)


def _small(rows, letter) -> list[str]:
    lines = [
        "The same weights on disks of 2.55 px, isolated ones, without a stronger one or the direct beam within two"
        " radii: recall of those with more than 10 expected electrons, false detections (second ones of a disk, and"
        " those at no point of the lattice, as above), and position of those with more than 50 electrons."
        + _ignored(rows)
        + " Asked of the network: ≥ 95 %, ≤ 2, ≤ 0.35 px; quoted of correlation: recall 93 %,"
        " position 0.61 px.",
        "",
        *header("data", "method", "patterns", "recall", "false per pattern", "position (px rms)", "run"),
    ]
    for row in rows:
        lines.append(line(
            row["data"], row["predictor"], row["n"], percent(row["recall"]), f"{row['false_per_pattern']:.2f}",
            f"{row['position_error']:.2f}", letter(row),
        ))  # fmt: skip
    return lines


def _mgo(rows, letter) -> list[str]:
    lines = [
        "The real MgO scan, probe estimated from it: detections per pattern beside the direct beam where there is no"
        " crystal (asked: ≤ 0.1), residual of the flat cube's disks from an affine square lattice in each pattern"
        " (asked: ≤ 0.5 px), and the share of them that lie near none of its points.",
        "",
        *header("method", "per pattern in vacuum", "per pattern on bare carbon", "residual (px rms)", "off the lattice",
                "run"),
    ]  # fmt: skip
    for row in rows:
        lines.append(line(
            row["predictor"], f"{row['per_pattern_vacuum']:.2f}", f"{row['per_pattern_bare carbon']:.2f}",
            _number(row["lattice_residual"]), percent(row["off_lattice"]), letter(row),
        ))  # fmt: skip
    return lines


def _strain(rows, letter) -> list[str]:
    lines = [
        "Strain along x of simulated germanium layers (−2 to 2 %; bent; 80 to 900 Å thick; `pyxem_dl.data."
        "strained_multilayer`), by pyxem's strain maps: root mean square error in percent. Thin: up to 500 Å. Asked of"
        " the network: at most half of correlation's.",
        "",
        *header("method", "positions", "all", "thin", "thick", "missing", "run"),
    ]
    for row in rows:
        cells = (f"{row[name]:.3f}" for name in ("all", "thin", "thick"))
        lines.append(line(row["predictor"], row["n"], *cells, percent(row["missing"]), letter(row)))
    return lines


def _speed(rows, letter) -> list[str]:
    lines = [
        "Speed from a lazy signal of 256 × 256 px to vectors; what does not grow with the scan is taken away. Asked:"
        " at least that of py4DSTEM's correlation on the same cores; on a GPU 5,000 patterns/s.",
        "",
        *header("method", "n", "patterns/s", "run"),
    ]
    lines += [line(row["predictor"], row["n"], f"{row['patterns_per_second']:.4g}", letter(row)) for row in rows]
    if not any("cuda" in row["predictor"] for row in rows):
        lines.append(line("on a GPU", "", "not measured", ""))
    return lines


_TABLES = {"truth": _truth, "small": _small, "mgo": _mgo, "strain": _strain, "speed": _speed}
