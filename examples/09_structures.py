"""Crystals to train on: draw them, leave out what a network will be measured on, and look at them.

Crystals are drawn from the table that comes with pyxem_dl, or from any other source of `pyxem_dl.structures`: a folder
of CIF files, the Materials Project, or a database that speaks OPTIMADE:

    python 09_structures.py --source 'optimade:cod?elements HAS ALL "Mg","O" AND nelements=2'

It writes CIF files with their manifest, and two pictures: zone-axis patterns of the first twelve crystals, and why
others were left out.
"""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import pyxem_dl
from pyxem_dl.crystals import reflections

RADIUS = 1.2  # Å⁻¹
SYSTEMS = {"triclinic": 2, "monoclinic": 15, "orthorhombic": 74, "tetragonal": 142, "trigonal": 167, "hexagonal": 194,
           "cubic": 230}  # fmt: skip


def draw_patterns(phases, entries):
    """Reflections of the zone [001], with areas as their structure factors."""
    figure = Figure(figsize=(9, 7), layout="constrained", dpi=120)
    for axes, phase, entry in zip(figure.subplots(3, 4).flat, phases, entries):
        found = reflections(phase, RADIUS)
        zone = found.hkl[:, 2] == 0
        g, strength = found.g.numpy()[zone], found.structure_factor.numpy()[zone]
        x, y = np.linalg.qr(phase.structure.lattice.recbase[:, :2])[0].T  # the plane of a* and b*
        axes.scatter(g @ x, g @ y, s=40 * strength / strength.max(initial=1e-9), color="#0072b2")
        axes.plot(0, 0, "+", color="#d55e00")
        axes.set(xlim=(-RADIUS, RADIUS), ylim=(-RADIUS, RADIUS), aspect="equal", xticks=[], yticks=[])
        axes.set_title(f"{entry['name']}\nspace group {entry['space_group']}", fontsize=8)
    figure.suptitle(f"Reflections hk0 within {RADIUS} Å⁻¹")
    return figure


def draw_collection(entries, left_out):
    """Crystal systems of what was taken, and reasons for what was not."""
    figure = Figure(figsize=(9, 3.2), layout="constrained", dpi=120)
    systems, reasons = figure.subplots(1, 2)
    counts = Counter(next(name for name, last in SYSTEMS.items() if entry["space_group"] <= last) for entry in entries)
    systems.barh(list(SYSTEMS), [counts[name] for name in SYSTEMS], color="#0072b2")
    systems.set(xlabel="crystals", title=f"{len(entries)} crystals")
    why = Counter(reason.split(" (")[0].removeprefix("it ") for reason in left_out.values()).most_common(8)
    reasons.barh([text for text, _ in why], [n for _, n in why], color="#d55e00")
    reasons.set(xlabel="crystals", title=f"{len(left_out)} left out")
    return figure


def main():
    """Draw, save, look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="prototypes", help="as pyxem_dl.structures takes it")
    parser.add_argument("-n", type=int, default=60, help="how many crystals")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--exclude", nargs="*", default=["Al", "MgO"], help="what is left out, and its twins")
    parser.add_argument("--output", type=Path, default=Path("09_structures"), help="folder of crystals and pictures")
    arguments = parser.parse_args()

    phases = pyxem_dl.structures(
        arguments.source, arguments.n, law="sqrt", seed=arguments.seed, exclude=arguments.exclude
    )
    entries = phases.manifest
    print(f"{phases}\n")
    for entry in entries[:12]:
        print(f"{entry['name']:16} {entry['prototype']:24} {entry['reference'][:60]}")
    for id, reason in phases.left_out.items():
        print(f"left out: {id}: {reason}")
    phases.save(arguments.output / "crystals", overwrite=True)
    pictures = {
        "patterns": draw_patterns(phases, entries),
        "collection": draw_collection(entries, phases.left_out),
    }
    for name, figure in pictures.items():
        figure.savefig(arguments.output / f"{name}.png")
    print(f"\nIn {arguments.output}: crystals, {', '.join(f'{name}.png' for name in pictures)}")


if __name__ == "__main__":
    main()
