"""
Regions, structures and lattices of an atomic-resolution image
==============================================================

Divide an image into regions by its local symmetry, name the structures in it, and map their lattices. Structures are
named by the bundled model, which knows bcc iron, fcc copper and hcp titanium. Without an image of yours, four grains,
vacuum and an amorphous piece are simulated.
"""

# sphinx_gallery_thumbnail_path = "gallery/11_atomic_images/regions.webp"

from pathlib import Path

import hyperspy.api as hs
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap

import pyxem_dl

# %%
# What you may change:

IMAGE = None  # path of an image
PIXEL = None  # Å per pixel, where the file has no scale
WINDOW = 12.0  # Å; three cells of the lattice or more
MODEL = "fe-cu-ti"  # what names structures: a bundled model, or a model folder
OUTPUT = Path("11_atomic_images")  # folder of the pictures
OUTPUT.mkdir(parents=True, exist_ok=True)

NAMES = ("red", "green", "blue", "orange", "purple", "cyan", "olive")
COLORS = ListedColormap(["black", *(f"tab:{name}" for name in NAMES)])

# %%
# An image of 10 electrons a pixel, or yours:

if IMAGE is None:
    crystals = pyxem_dl.data.metal_crystals()
    chosen = [crystals[i] for i in (0, 0, 4, 7)]
    scene = pyxem_dl.data.atomic_grains(
        (448, 448), 10, crystals=chosen, angles=[10, 40, 70, 0], vacuum=True, amorphous=True, seed=3
    )
    for i, (crystal, angle) in enumerate(zip(scene.crystals, scene.angles), 1):
        print(f"grain {i}: {crystal.name}, {angle:g}°")
    signal = scene.signal
else:
    signal = hs.load(IMAGE)
    if PIXEL is not None:
        for axis in signal.axes_manager.signal_axes:
            axis.scale, axis.units = PIXEL, "Å"

# %%
# Regions
# -------
# No crystal is named here: windows that look the same after the same shifts are one region. Label 0 is nothing
# periodic.

labels, shares = signal.segment_by_symmetry(window=WINDOW, memberships=True)
for i, share in enumerate(np.bincount(labels.data.ravel()) / labels.data.size):
    print(f"region {i}: {100 * share:.1f} % of the image")

x, y = signal.axes_manager.signal_axes
settings = {"extent": (x.low_value, x.high_value, y.high_value, y.low_value), "interpolation": "nearest"}
figure, panels = plt.subplots(1, 3, figsize=(13, 4.3), sharex=True, sharey=True, layout="constrained", dpi=120)
low, high = np.percentile(signal.data, [0.5, 99.5])
for axes in panels[:2]:
    axes.imshow(signal.data, cmap="gray", vmin=low, vmax=high, **settings)
    axes.set_xlabel(f"x / {x.units}")
panels[0].set_ylabel(f"y / {y.units}")
panels[1].imshow(labels.data % COLORS.N, cmap=COLORS, vmin=-0.5, vmax=COLORS.N - 0.5, alpha=0.5, **settings)
panels[1].set_title(f"{labels.data.max()} regions; black: nothing periodic")
image = panels[2].imshow(shares.data.max(0), cmap="viridis", vmin=0, vmax=1, **settings)
panels[2].set_title("largest membership")
figure.colorbar(image, ax=panels[2])
figure.savefig(OUTPUT / "regions.png")

# %%
# Structures
# ----------
# A model knows crystals along zone axes, and names the one in every window. The map is an orix ``CrystalMap``.

model = pyxem_dl.load_model(MODEL)
xmap = signal.classify_structure(model)
print(xmap)

# %%
# Left the classes of the windows, black where it is none of them; right how much the network does not know.

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.3), sharex=True, sharey=True, layout="constrained", dpi=120)
half = xmap.dx / 2
settings = {
    "extent": (xmap.x.min() - half, xmap.x.max() + half, xmap.y.max() + half, xmap.y.min() - half),
    "interpolation": "nearest",
}  # fmt: skip
classes = np.where(xmap.phase_id < 0, -1, xmap.prop["class_id"]).reshape(xmap.shape)
there = np.unique(classes[classes >= 0])
shown = np.where(classes < 0, 0, np.searchsorted(there, classes) + 1)
left.imshow(shown, cmap=COLORS, vmin=-0.5, vmax=COLORS.N - 0.5, **settings)
for i, each in enumerate(there, 1):
    left.plot([], [], "s", color=COLORS(i), label=model.class_names[each])
if len(there):
    left.legend(loc="upper right", fontsize="small")
left.set_title("structures; black: none of them")
information = xmap.prop["mutual_information"].reshape(xmap.shape)
figure.colorbar(right.imshow(information, cmap="viridis", **settings), ax=right, label="mutual information (bits)")
for axes in (left, right):
    axes.set_xlabel(f"x / {xmap.scan_unit}")
left.set_ylabel(f"y / {xmap.scan_unit}")
figure.savefig(OUTPUT / "structures.png")

# %%
# Lattices
# --------
# Rotation and strain of each window, with their errors:

if (xmap.phase_id >= 0).any():
    lattice = signal.map_lattice(xmap)
    print(lattice)
    lattice.save(OUTPUT / "lattices.hspy", overwrite=True)
    figure = pyxem_dl.plot.strain_map(lattice, title="Lattices")
    figure.savefig(OUTPUT / "lattices.png")
figure

# %%
print(f"In {OUTPUT}: regions.png, structures.png, lattices.png, lattices.hspy")
