"""Divide an atomic-resolution image into regions by its local symmetry, name the structures in it, map their lattices.

Structures are named by the bundled model, which knows bcc iron, fcc copper and hcp titanium; with --model by another.

Without an image of yours, four grains, vacuum and an amorphous piece are simulated.

    python 11_atomic_images.py
    python 11_atomic_images.py --image haadf.emd
    python 11_atomic_images.py --image haadf.tif --pixel 0.12
"""

import argparse
from pathlib import Path

import hyperspy.api as hs
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

import pyxem_dl

NAMES = ("red", "green", "blue", "orange", "purple", "cyan", "olive")
COLORS = ListedColormap(["black", *(f"tab:{name}" for name in NAMES)])


def simulated():
    """An image of 10 electrons a pixel."""
    crystals = pyxem_dl.data.metal_crystals()
    chosen = [crystals[i] for i in (0, 0, 4, 7)]
    scene = pyxem_dl.data.atomic_grains(
        (448, 448), 10, crystals=chosen, angles=[10, 40, 70, 0], vacuum=True, amorphous=True, seed=3
    )
    for i, (crystal, angle) in enumerate(zip(scene.crystals, scene.angles), 1):
        print(f"grain {i}: {crystal.name}, {angle:g}°")
    return scene.signal


def read(path, pixel):
    """An image of a file, with a scale in Å per pixel if it has none."""
    signal = hs.load(path)
    if pixel is not None:
        for axis in signal.axes_manager.signal_axes:
            axis.scale, axis.units = pixel, "Å"
    return signal


def draw(signal, labels, shares):
    """The image, the regions on it, and how sure they are."""
    x, y = signal.axes_manager.signal_axes
    settings = {"extent": (x.low_value, x.high_value, y.high_value, y.low_value), "interpolation": "nearest"}
    figure = Figure(figsize=(13, 4.3), layout="constrained", dpi=120)
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
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
    return figure


def draw_structures(xmap, model):
    """Classes of the windows, black where it is none of them, and how much the network does not know."""
    figure = Figure(figsize=(10, 4.3), layout="constrained", dpi=120)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    half = xmap.dx / 2
    settings = {
        "extent": (xmap.x.min() - half, xmap.x.max() + half, xmap.y.max() + half, xmap.y.min() - half),
        "interpolation": "nearest",
    }  # fmt: skip
    classes = np.where(xmap.phase_id < 0, -1, xmap.prop["class_id"]).reshape(xmap.shape)
    there = np.unique(classes[classes >= 0])
    shown = np.searchsorted(there, classes) + 1
    left.imshow(np.where(classes < 0, 0, shown), cmap=COLORS, vmin=-0.5, vmax=COLORS.N - 0.5, **settings)
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
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("11_atomic_images"), help="folder of the picture")
    parser.add_argument("--image", type=Path, help="file of an image")
    parser.add_argument("--pixel", type=float, help="Å per pixel")
    parser.add_argument("--window", type=float, default=12.0, help="in Å; three cells of the lattice or more")
    parser.add_argument("--model", default="fe-cu-ti", help="model that names structures: name or folder")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    signal = simulated() if arguments.image is None else read(arguments.image, arguments.pixel)
    labels, shares = signal.segment_by_symmetry(window=arguments.window, memberships=True)
    for i, share in enumerate(np.bincount(labels.data.ravel()) / labels.data.size):
        print(f"region {i}: {100 * share:.1f} % of the image")
    draw(signal, labels, shares).savefig(arguments.output / "regions.png")
    model = pyxem_dl.load_model(arguments.model)
    xmap = signal.classify_structure(model)
    print(xmap)
    draw_structures(xmap, model).savefig(arguments.output / "structures.png")
    if (xmap.phase_id >= 0).any():
        lattice = signal.map_lattice(xmap)
        print(lattice)
        pyxem_dl.plot.strain_map(lattice, title="Lattices").savefig(arguments.output / "lattices.png")
        lattice.save(arguments.output / "lattices.hspy", overwrite=True)
    print(f"In {arguments.output}: regions.png, structures.png, lattices.png, lattices.hspy")


if __name__ == "__main__":
    main()
