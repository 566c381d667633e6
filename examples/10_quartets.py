"""
A set of quartets
=================

A quartet is probe, pattern, potential and out-of-plane component: what a network needs to learn to read a pattern. A
small set is simulated from a CIF file, or from LiNiO2, and one quartet is drawn.
"""

# sphinx_gallery_thumbnail_path = "gallery/10_quartets/quartet.webp"

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import pyxem_dl

# %%
# What you may change. ``quartets.zarr`` goes on where it stopped if you run the script again.

STRUCTURE = pyxem_dl.data.lithium_nickel_oxide()  # or the path of a CIF file
N = 24  # quartets to simulate
DOSE = 1e5  # electrons of the noisy pattern
OUTPUT = Path("10_quartets")  # folder of the set and the picture
OUTPUT.mkdir(parents=True, exist_ok=True)

# %%
# Simulate
# --------
# The crystal is tilted off a zone axis, by angles in degrees; thickness is in Å and the semi-angle in mrad.

quartets = pyxem_dl.make_quartets(
    STRUCTURE, OUTPUT / "quartets.zarr", n=N, thickness=(50, 200), tilt=(0.5, 1.5), semi_angle=(1.5, 2.5)
)
print(quartets)

# %%
# Of the set, the quartet with the most visible disks that do not overlap:


def visible(quartet):
    """How many disks can be seen, and lie apart."""
    bright = quartet.disks.intensity > 30 / DOSE
    k = np.stack([quartet.disks.kx, quartet.disks.ky])[:, bright]
    apart = np.linalg.norm(k[:, :, None] - k[:, None], axis=0) + 10 * np.eye(bright.sum())
    return (apart.min(axis=1) > 2 * quartet.disk_radius).sum() if bright.any() else 0


quartet = max(quartets, key=visible)
disks = quartet.disks
print(f"{'hkl':>12} {'kx':>7} {'ky':>7} {'s':>8} {'q_z':>8}   (Å⁻¹) {'|V_g| (V)':>10} {'intensity':>10}")
for i in np.flatnonzero(disks.present)[:12]:
    numbers = disks.kx[i], disks.ky[i], disks.excitation_error[i], disks.q_z[i], abs(disks.v_g[i])
    print(f"{str(disks.hkl[i].tolist()):>12} {'{:7.3f} {:7.3f} {:8.4f} {:8.4f} {:17.2f}'.format(*numbers)} "
          f"{disks.intensity[i]:10.2e}")  # fmt: skip

# %%
# Look
# ----
# In the pattern the disks are bright along a circle (Laue's) through the direct beam. In the last picture reflections
# are above the zone's plane on one side of the tilt axis, and below it on the other.

half = quartets.calibration.reciprocal_radius
settings = {"extent": (-half, half, -half, half), "interpolation": "nearest"}
counts = np.random.default_rng(0).poisson(DOSE * quartet.pattern)
seen = (quartet.potential > 0) | (quartet.q_z != 0)
limit = np.abs(disks.q_z[disks.intensity > 1 / DOSE]).max()

figure, panels = plt.subplots(1, 4, figsize=(13, 3.2), sharex=True, sharey=True, layout="constrained", dpi=120)
probe, pattern, potential, q_z = panels
probe.imshow(quartet.probe, cmap="gray", **settings)
probe.set_title(f"probe, {quartet.semi_angle:.1f} mrad")
image = pattern.imshow(np.log10(counts + 1), cmap="gray", **settings)
pattern.set_title(f"pattern, {quartet.thickness:.0f} Å")
figure.colorbar(image, ax=pattern, label="log$_{10}$(electrons + 1)", shrink=0.75)
image = potential.imshow(np.where(seen, quartet.potential, np.nan), cmap="viridis", **settings)
potential.set_title("|V$_g$| × thickness")
figure.colorbar(image, ax=potential, label="V Å", shrink=0.75)
image = q_z.imshow(np.where(seen, quartet.q_z, np.nan), cmap="RdBu_r", vmin=-limit, vmax=limit, **settings)
q_z.set_title("out-of-plane component q$_z$")
figure.colorbar(image, ax=q_z, label="Å⁻¹", shrink=0.75)
probe.set_ylabel("$k_y$ / Å⁻¹")
for axes in panels:
    axes.set_xlabel("$k_x$ / Å⁻¹")
    axes.plot(0, 0, "+", color="tab:orange", markersize=5)
figure.savefig(OUTPUT / "quartet.png")

# %%
print(f"In {OUTPUT}: quartets.zarr, quartet.png")
