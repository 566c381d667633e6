"""The tables of networks that are trained on labelled scans."""

from __future__ import annotations

from collections.abc import Callable

from suite.tables import degrees, header, line, percent


def labelled_table(title: str, explanation: str):
    """Make the writer of a table of accuracies against a known truth.

    Parameters
    ----------
    title, explanation : str
        Above the table.
    """

    def write(rows: list[dict], letter: Callable) -> str:
        lines = [
            f"## {title}", "", explanation, "",
            *header("method", "within 5° / 2° strict", "median", "90 %", "within 5° / 2° modulo 180°", "median", "90 %",
                    "on what was trained on, within 5° modulo 180°", "patterns/s", "minutes", "MB", "run"),
        ]  # fmt: skip
        for row in rows:
            strict, modulo = row["strict"], row["modulo_180"]
            lines.append(line(
                row["predictor"], *_cells(strict), *_cells(modulo), percent(row["seen_modulo_180"]["within_5"]),
                f"{row['patterns_per_second']:.0f}" if "patterns_per_second" in row else "",
                f"{row['minutes']:.1f}" if "minutes" in row else "", row.get("size_mb", ""), letter(row),
            ))  # fmt: skip
        return "\n".join(lines)

    return write


def _cells(numbers: dict) -> tuple[str, str, str]:
    pair = f"{percent(numbers['within_5'])} / {percent(numbers['within_2'])}"
    return pair, degrees(numbers["median"]), degrees(numbers["percentile_90"])


def _mgo(rows: list[dict], letter: Callable) -> str:
    lines = [
        "## Trained on labels of a real scan: MgO",
        "",
        "Labels by template matching, the more reliable half of them; there is no truth. Detected peaks that the "
        "orientations explain where `mgo-300kv` finds a crystal and nobody was trained on labels, as they are and with "
        "the scan's distortion taken off them (by chance); on the whole scan, the median disorientation from the "
        "neighbours in the eight cubes, their mean and the worst; the flat cube with [001] along the beam. A network "
        "that says nearly the same everywhere is hardly disoriented from its neighbours: its peaks tell. Labels, and "
        "all that learn from them, answer on bare film and in vacuum, too; `mgo-300kv` does not.",
        "",
        *header("method", "peaks explained (by chance)", "without distortion (by chance)", "cubes, median: mean, worst",
                "flat cube", "patterns/s", "minutes", "MB", "run"),
    ]  # fmt: skip
    for row in rows:
        explained = row["explained"]
        medians = [cube["neighbour_disorientation"] for cube in row["cubes"].values()]
        medians = [180.0 if median is None else median for median in medians]
        lines.append(line(
            row["predictor"], f"{percent(explained['share_judged'])} ({percent(explained['chance_judged'])})",
            f"{percent(explained['share_undistorted'])} ({percent(explained['chance_undistorted'])})",
            f"{degrees(sum(medians) / len(medians))}, {degrees(max(medians))}", percent(row["flat_001"]),
            f"{row['patterns_per_second']:.0f}" if row["patterns_per_second"] < 1e5 else "",
            f"{row['minutes']:.1f}" if "minutes" in row else "", row.get("size_mb", ""), letter(row),
        ))  # fmt: skip
    return "\n".join(lines)


LABELLED_TABLES = {
    "labelled": labelled_table(
        "Trained on labels: the literature's networks and ours",
        "A simulated polycrystal of LiNiO2, 100 × 100, with bent grains, overlaps, a thickness wedge and 10⁴ electrons "
        "in each pattern; labels by our template matching, of which the more reliable half trains; every network has "
        "the same time. `linio2-200kv` leaves out what it doubts, all others answer everywhere. Accuracy against the "
        "truth on regions that nobody was trained on, where there is a crystal; beside it that on the rest of the "
        "scan, which a random split would report. Pictures: `labelled_maps.png`, `labelled_selection.png`, "
        "`labelled_reliability.png`.",
    ),
    "labelled_mgo": _mgo,
    "choices": labelled_table(
        "What each choice changes",
        "The same scan, labels and time; one thing changed at a time. Pretrained rows are missing where timm's weights "
        "could not be had.",
    ),
    "ensemble": labelled_table(
        "An ensemble",
        "The polar network, trained as above from three seeds, and what the three say together, with its "
        "uncertainty. Picture: `ensemble_reliability.png`, errors against that uncertainty.",
    ),
    "tuning": labelled_table(
        "Fine-tuning",
        "Networks that were trained on simulated patterns of a scale that is 5 % wrong, without background (polar from "
        "the beginning, any-crystal from its bundled weights), and the same fine-tuned with the labels of a quarter of "
        "the polycrystal, which show the scale, at a peak learning rate of 6e-4, twice the default. Accuracy on the "
        "other three quarters; all answer everywhere.",
    ),
}
