"""Map the strain of a simulated multilayer, from patterns to picture: our map of each pattern's lattice beside pyxem's.

Germanium layers are strained along x by known amounts; the crystal is bent, and grows thicker along y, so that the
insides of the disks become uneven. A network and classical correlation find the Bragg disks. Of the disks of both,
pyxem and `strain_map` map the strain: pyxem from the inner disks, all alike, `strain_map` from all, each with its
expected error.

    python 05_strain_map.py

It writes strain_maps.png (what was put in, the maps, and their errors), strain.png (strain, rotation, and what their
errors are said to be), patterns.png, vectors.hspy and strain.hspy.
"""

import argparse
import logging
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import pyxem_dl

#: Disks that pyxem uses lie between these distances from the beam, in Å⁻¹, and so near to where they should be
INNER, OUTER, NEAR = 0.1, 0.75, 0.06


def pyxems_map(vectors, unstrained):
    """Strain along x (y, x) by pyxem, relative to the median lattice of the unstrained positions."""
    thin = vectors.data[0, 0]
    length = np.hypot(thin[:, 0], thin[:, 1])
    basis = thin[(length > INNER) & (length < OUTER), :2]
    found = vectors.filter_basis(basis, distance=NEAR).data[unstrained][..., :2]
    basis = np.nanmedian(found, axis=0)
    # the maps are e_yy, e_xx, e_xy and the rotation: the vectors' first column runs along y
    return vectors.get_strain_maps(basis, distance=NEAR).data[1]


def draw_maps(scan, maps):
    """What was put in, what each method found, and by how much it is wrong."""
    figure = Figure(figsize=(11, 1.6 + 1.7 * len(maps)), layout="constrained", dpi=120)
    rows = figure.subplots(1 + len(maps), 2)
    settings = {"cmap": "RdBu_r", "vmin": -0.025, "vmax": 0.025, "aspect": "auto"}
    image = rows[0, 0].imshow(scan.strain, **settings)
    rows[0, 0].set_title("strain along x, as simulated")
    figure.colorbar(image, ax=rows[:, 0], label="strain")
    rows[0, 1].set_title("thickness of the crystal")
    shown = rows[0, 1].imshow(scan.thickness, cmap="gray", aspect="auto")
    figure.colorbar(shown, ax=rows[0, 1], label="Å")
    for (name, found), (left, right) in zip(maps.items(), rows[1:]):
        error = found - scan.strain
        left.imshow(found, **settings)
        left.set_title(name)
        shown = right.imshow(error, cmap="PuOr", vmin=-0.01, vmax=0.01, aspect="auto")
        right.set_title(f"error of it: {np.sqrt(np.nanmean(error**2)):.2%} root mean square")
        figure.colorbar(shown, ax=right)
    for axes in rows.ravel():
        axes.set(xticks=[], yticks=[])
    return figure


def draw_patterns(scan, vectors):
    """Patterns of the thinnest and the thickest crystal with the disks that were found."""
    figure = Figure(figsize=(11, 3.2 * len(vectors)), layout="constrained", dpi=120)
    rows = figure.subplots(len(vectors), 4, squeeze=False)
    last_row, last_column = (n - 1 for n in scan.strain.shape)
    positions = [(0, 0), (0, last_column // 4), (last_row, 0), (last_row, last_column // 4)]
    axes_of = scan.signal.axes_manager.signal_axes
    for (name, found), row in zip(vectors.items(), rows):
        for (y, x), axes in zip(positions, row):
            axes.imshow(np.log10(scan.signal.data[y, x] + 0.3), cmap="gray")
            columns, lines = ((found.data[y, x][:, i] - axis.offset) / axis.scale for i, axis in zip((1, 0), axes_of))
            axes.scatter(columns, lines, s=90, facecolors="none", edgecolors="tab:orange")
            axes.set(title=f"{name}, {scan.thickness[y, x]:.0f} Å", xticks=[], yticks=[])
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("05_strain_map"), help="folder of the pictures")
    parser.add_argument("--electrons", type=float, default=1e5, help="in each pattern")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    logging.getLogger("hyperspy").setLevel(logging.ERROR)

    scan = pyxem_dl.data.strained_multilayer((8, 32), electrons=arguments.electrons)
    s = scan.signal
    vectors = {"network": s.predict_bragg_vectors(probe=scan.vacuum), "correlation": s.match_disks(probe=scan.vacuum)}

    unstrained = scan.strain == 0
    strain = {name: found.strain_map(reference=unstrained) for name, found in vectors.items()}
    maps = {}
    for name, found in vectors.items():
        maps[f"{name}, pyxem's map"] = pyxems_map(found, unstrained)
        maps[f"{name}, strain_map"] = strain[name].e_xx
    thick = scan.thickness > 500
    print("\nroot mean square error of the strain, in percent")
    for name, found in maps.items():
        error = 100 * (found - scan.strain)
        thin, rest = (np.sqrt(np.nanmean(error[where] ** 2)) for where in (~thick, thick))
        print(f"{name:>24}: thin {thin:.3f}, thick {rest:.3f}, missing {np.isnan(found).mean():.1%}")
    print(strain["network"])

    vectors["network"].save(arguments.output / "vectors.hspy", overwrite=True)
    strain["network"].save(arguments.output / "strain.hspy", overwrite=True)
    draw_maps(scan, maps).savefig(arguments.output / "strain_maps.png")
    pyxem_dl.plot.strain_map(strain["network"], max_strain=0.025).savefig(arguments.output / "strain.png")
    draw_patterns(scan, vectors).savefig(arguments.output / "patterns.png")
    print(f"In {arguments.output}: strain_maps.png, strain.png, patterns.png, vectors.hspy, strain.hspy")


if __name__ == "__main__":
    main()
