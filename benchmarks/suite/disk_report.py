"""The tables of Bragg disks, with what was asked and what others reach."""

from __future__ import annotations

from collections.abc import Callable

from suite.tables import header, line, percent

#: F1 and position error (px) asked of the network, the bound of positions (Cramér-Rao, the disks' content unknown, no
#: background), and what py4DSTEM 0.14's correlation reaches at the best of its thresholds for each material and number
#: of electrons: measured before, with other code, and far reflections counted as wrong
ASKED = {"Al": (0.98, 0.97, 0.95), "LiNiO2": (0.94, 0.92, 0.90)}
ASKED_POSITION = {"Al": (0.70, 0.60, 0.45), "LiNiO2": (0.85, 0.80, 0.75)}
BOUND = {"Al": (0.41, 0.36, 0.25), "LiNiO2": (0.55, 0.39, 0.25)}
QUOTED = {
    "Al": ((0.98, 1.6), (0.94, 1.15), (0.80, 0.9)),
    "LiNiO2": ((0.90, 1.4), (0.86, 1.4), (0.78, 1.2)),
}
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
        " forbidden, within 0.3 Å⁻¹ of the sphere, or at the direct beam, counts neither way. Overlapped: within two"
        " radii of a disk with a tenth of the electrons; cut: by the frame. *Bound*: Cramér–Rao, with unknown"
        " content of the disks and no background.",
        "",
        *header("data", "method", "disks", "F1", "asked", "precision / recall", "position (px rms)", "asked", "bound",
                "isolated / overlapped / cut", "intensity (rank correlation)", "run"),
    ]  # fmt: skip
    for data in dict.fromkeys(row["data"] for row in rows):
        material, dose = _material(data), next(i for i, dose in enumerate(_DOSES) if dose in data)
        for row in (row for row in rows if row["data"] == data):
            network = row["predictor"].startswith("network")
            kinds = (row.get(f"position_{kind}") for kind in ("isolated", "overlapped", "cut"))
            lines.append(line(
                data, row["predictor"], row["disks"], f"{row['f1']:.3f}",
                f"≥ {ASKED[material][dose]:.2f}" if network else "",
                f"{row['precision']:.3f} / {row['recall']:.3f}", f"{row['position_error']:.2f}",
                f"≤ {ASKED_POSITION[material][dose]:.2f}" if network else "", f"{BOUND[material][dose]:.2f}",
                " / ".join("–" if x is None or x != x else f"{x:.2f}" for x in kinds),
                f"{row['rank_correlation']:.3f}", letter(row),
            ))  # fmt: skip
        f1, position = QUOTED[material][dose]
        lines.append(line(
            f"*{data}*", "*py4DSTEM 0.14, best threshold for this line*", "", f"*{f1:.2f}*", "", "", f"*{position:g}*",
            "", "", "", "", "*quoted*",
        ))  # fmt: skip
    return lines + _readings([row for row in rows if "q_z_error" in row], letter)


def _readings(rows, letter) -> list[str]:
    """Write what single disks tell of excitation errors and potentials."""
    if not rows:
        return []
    lines = [
        "",
        "What single disks tell: *near* are excitation errors within three half ranges of a disk from Bragg's"
        " condition; further off one disk hardly tells the sign. Asked: ≤ 0.003 Å⁻¹, sign ≥ 85 %, rank correlation of"
        " V_g × thickness ≥ 0.9; the crystals are none that the network has seen.",
        "",
        *header("data", "method", "near disks", "error (Å⁻¹ rms)", "sign right", "V_g × thickness", "run"),
    ]
    for row in rows:
        lines.append(line(
            row["data"], row["predictor"], f"{row['n_near']:.0f}", f"{row['q_z_error']:.4f}", percent(row["q_z_sign"]),
            f"{row['v_g']:.3f}", letter(row),
        ))  # fmt: skip
    return lines


def _material(data: str) -> str:
    return next(name for name in ASKED if f" {name}," in data)


def _small(rows, letter) -> list[str]:
    lines = [
        "The same weights on disks of 2.55 px: recall of isolated disks with at least 10 expected electrons, detections"
        " that no listed reflection explains, and position of isolated disks above 50 electrons. Asked of the network:"
        " ≥ 95 %, ≤ 2, ≤ 0.35 px; quoted of correlation: 93 %, 7, 0.61 px.",
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
            f"{row['lattice_residual']:.2f}", percent(row["off_lattice"]), letter(row),
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
