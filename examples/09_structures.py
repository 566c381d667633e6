"""
Crystals to train on
====================

Draw crystals, leave out what a network will be measured on, and look at them. They are drawn from the table that comes
with pyxem_dl, or from any other source of ``pyxem_dl.structures``: a folder of CIF files, the Materials Project, or a
database that speaks OPTIMADE.
"""

# sphinx_gallery_thumbnail_path = "gallery/09_structures/patterns.webp"

from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import pyxem_dl
from pyxem_dl.crystals import reflections

# %%
# What you may change:

SOURCE = "prototypes"  # or 'optimade:cod?elements HAS ALL "Mg","O" AND nelements=2', or a folder
N = 60  # crystals
SEED = 0  # of the draw
EXCLUDE = ["Al", "MgO"]  # what is left out, and its twins
RADIUS = 1.2  # Å⁻¹
OUTPUT = Path("09_structures")  # folder of the crystals and the pictures

# %%
# Draw
# ----
# Each crystal comes with what is known of it, and with its source. CIF files are written with a manifest.

phases = pyxem_dl.structures(SOURCE, N, law="sqrt", seed=SEED, exclude=EXCLUDE)
phases.save(OUTPUT / "crystals", overwrite=True)
print(phases)
for entry in phases.manifest[:12]:
    print(f"{entry['name']:16} {entry['prototype']:24} {entry['reference'][:60]}")
for id, reason in phases.left_out.items():
    print(f"left out: {id}: {reason}")

# %%
# Look
# ----
# Reflections hk0 of the first twelve, with areas as their structure factors:

figure, grid = plt.subplots(3, 4, figsize=(9, 7), layout="constrained", dpi=120)
for axes, phase, entry in zip(grid.flat, phases, phases.manifest):
    found = reflections(phase, RADIUS)
    zone = found.hkl[:, 2] == 0
    g, strength = found.g.numpy()[zone], found.structure_factor.numpy()[zone]
    x, y = np.linalg.qr(phase.structure.lattice.recbase[:, :2])[0].T  # the plane of a* and b*
    axes.scatter(g @ x, g @ y, s=40 * strength / strength.max(initial=1e-9), color="#0072b2")
    axes.plot(0, 0, "+", color="#d55e00")
    axes.set(xlim=(-RADIUS, RADIUS), ylim=(-RADIUS, RADIUS), aspect="equal", xticks=[], yticks=[])
    axes.set_title(f"{entry['name']}\nspace group {entry['space_group']}", fontsize=8)
figure.suptitle(f"Reflections hk0 within {RADIUS} Å⁻¹")
figure.savefig(OUTPUT / "patterns.png")

# %%
# Crystal systems of what was taken, and reasons for what was not:

SYSTEMS = {"triclinic": 2, "monoclinic": 15, "orthorhombic": 74, "tetragonal": 142, "trigonal": 167, "hexagonal": 194,
           "cubic": 230}  # fmt: skip

figure, (systems, reasons) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained", dpi=120)
counts = Counter(
    next(name for name, last in SYSTEMS.items() if entry["space_group"] <= last) for entry in phases.manifest
)
systems.barh(list(SYSTEMS), [counts[name] for name in SYSTEMS], color="#0072b2")
systems.set(xlabel="crystals", title=f"{len(phases.manifest)} crystals")
why = Counter(reason.split(" (")[0].removeprefix("it ") for reason in phases.left_out.values()).most_common(8)
reasons.barh([text for text, _ in why], [n for _, n in why], color="#d55e00")
reasons.set(xlabel="crystals", title=f"{len(phases.left_out)} left out")
figure.savefig(OUTPUT / "collection.png")

# %%
print(f"In {OUTPUT}: crystals, patterns.png, collection.png")
