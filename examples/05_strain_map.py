"""
Strain of a multilayer
======================

From patterns to strain, with errors: our map of the lattice of each pattern beside pyxem's. Germanium layers are
strained along x by known amounts. The crystal is bent, and grows thicker along y, so that the insides of the disks
become uneven. A network and classical correlation find the Bragg disks. Of the disks of both, pyxem and
``strain_map`` map the strain: pyxem from the inner disks, all alike, ``strain_map`` from all, each with its expected
error.
"""

# sphinx_gallery_thumbnail_path = "gallery/05_strain_map/strain_maps.webp"

import logging
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import pyxem_dl

# %%
# What you may change:

ELECTRONS = 1e5  # in each pattern
INNER, OUTER = 0.1, 0.75  # distance from the beam of the disks that pyxem uses, in Å⁻¹
NEAR = 0.06  # how near they must be to where they should be, in Å⁻¹
OUTPUT = Path("05_strain_map")  # folder of the pictures
OUTPUT.mkdir(parents=True, exist_ok=True)
logging.getLogger("hyperspy").setLevel(logging.ERROR)

# %%
# Find the disks
# --------------
# ``scan.signal`` is an ordinary signal, ``scan.vacuum`` a pattern of the beam without a crystal, and ``scan.strain``
# the truth.

scan = pyxem_dl.data.strained_multilayer((8, 32), electrons=ELECTRONS)
s = scan.signal
vectors = {"network": s.predict_bragg_vectors(probe=scan.vacuum), "correlation": s.match_disks(probe=scan.vacuum)}
vectors["network"].save(OUTPUT / "vectors.hspy", overwrite=True)

# %%
# Patterns of the thinnest and the thickest crystal with the disks that were found:

figure, grid = plt.subplots(len(vectors), 4, figsize=(11, 3.2 * len(vectors)), layout="constrained", dpi=120)
last_row, last_column = (n - 1 for n in scan.strain.shape)
positions = [(0, 0), (0, last_column // 4), (last_row, 0), (last_row, last_column // 4)]
for (name, found), row in zip(vectors.items(), grid):
    for (y, x), axes in zip(positions, row):
        axes.imshow(np.log10(s.data[y, x] + 0.3), cmap="gray")
        # the vectors' columns are ky and kx, the signal's axes kx and ky
        columns, lines = (
            (found.data[y, x][:, i] - axis.offset) / axis.scale for i, axis in zip((1, 0), s.axes_manager.signal_axes)
        )
        axes.scatter(columns, lines, s=90, facecolors="none", edgecolors="tab:orange")
        axes.set(title=f"{name}, {scan.thickness[y, x]:.0f} Å", xticks=[], yticks=[])
figure.savefig(OUTPUT / "patterns.png")

# %%
# Strain
# ------
# It is measured from positions that are not strained.

unstrained = scan.strain == 0
strain = {name: found.strain_map(reference=unstrained) for name, found in vectors.items()}
strain["network"].save(OUTPUT / "strain.hspy", overwrite=True)
print(strain["network"])

# %%
# Each component beside what its error is said to be:

figure = pyxem_dl.plot.strain_map(strain["network"], max_strain=0.025)
figure.savefig(OUTPUT / "strain.png")
figure

# %%
# Beside pyxem's map, and the truth
# ---------------------------------


def pyxems_map(vectors):
    """Strain along x (y, x) by pyxem, relative to the median lattice of the unstrained positions."""
    thin = vectors.data[0, 0]
    length = np.hypot(thin[:, 0], thin[:, 1])
    basis = thin[(length > INNER) & (length < OUTER), :2]
    found = vectors.filter_basis(basis, distance=NEAR).data[unstrained][..., :2]
    basis = np.nanmedian(found, axis=0)
    # the maps are e_yy, e_xx, e_xy and the rotation: the vectors' first column runs along y
    return vectors.get_strain_maps(basis, distance=NEAR).data[1]


maps = {}
for name, found in vectors.items():
    maps[f"{name}, pyxem's map"] = pyxems_map(found)
    maps[f"{name}, strain_map"] = strain[name].e_xx

thick = scan.thickness > 500  # Å
print("root mean square error of the strain, in percent")
for name, found in maps.items():
    error = 100 * (found - scan.strain)
    thin_error, thick_error = (np.sqrt(np.nanmean(error[where] ** 2)) for where in (~thick, thick))
    print(f"{name:>24}: thin {thin_error:.3f}, thick {thick_error:.3f}, missing {np.isnan(found).mean():.1%}")

# %%
figure, rows = plt.subplots(1 + len(maps), 2, figsize=(11, 1.6 + 1.7 * len(maps)), layout="constrained", dpi=120)
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
figure.savefig(OUTPUT / "strain_maps.png")

# %%
print(f"In {OUTPUT}: patterns.png, strain.png, strain_maps.png, vectors.hspy, strain.hspy")
