"""Simulate a small set of quartets from a CIF file (or LiNiO2), and draw one: probe, pattern, potential, q_z.

The crystal is tilted off a zone axis. In the pattern the disks are bright along a circle (Laue's) through the direct
beam; in the last picture reflections are above the zone's plane on one side of the tilt axis, and below on the other.

    python 10_quartets.py
    python 10_quartets.py --structure my.cif --n 200

It writes quartets.zarr, which goes on where it stopped if you call the script again, and quartet.png.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import pyxem_dl

#: Electrons of the noisy pattern
DOSE = 1e5


def draw(quartet, calibration):
    """Four panels of one quartet, in Å⁻¹; the pattern as a detector would count it."""
    half = calibration.reciprocal_radius
    settings = {"extent": (-half, half, -half, half), "interpolation": "nearest"}
    rng = np.random.default_rng(0)
    counts = rng.poisson(DOSE * quartet.pattern)
    seen = (quartet.potential > 0) | (quartet.q_z != 0)
    figure = Figure(figsize=(13, 3.2), layout="constrained", dpi=120)
    probe, pattern, potential, q_z = figure.subplots(1, 4, sharex=True, sharey=True)
    probe.imshow(quartet.probe, cmap="gray", **settings)
    probe.set_title(f"probe, {quartet.semi_angle:.1f} mrad")
    image = pattern.imshow(np.log10(counts + 1), cmap="gray", **settings)
    pattern.set_title(f"pattern, {quartet.thickness:.0f} Å")
    figure.colorbar(image, ax=pattern, label="log$_{10}$(electrons + 1)", shrink=0.75)
    image = potential.imshow(np.where(seen, quartet.potential, np.nan), cmap="viridis", **settings)
    potential.set_title("|V$_g$| × thickness")
    figure.colorbar(image, ax=potential, label="V Å", shrink=0.75)
    limit = np.abs(quartet.disks.q_z[quartet.disks.intensity > 1 / DOSE]).max()
    image = q_z.imshow(np.where(seen, quartet.q_z, np.nan), cmap="RdBu_r", vmin=-limit, vmax=limit, **settings)
    q_z.set_title("out-of-plane component q$_z$")
    figure.colorbar(image, ax=q_z, label="Å⁻¹", shrink=0.75)
    probe.set_ylabel("$k_y$ / Å⁻¹")
    for axes in (probe, pattern, potential, q_z):
        axes.set_xlabel("$k_x$ / Å⁻¹")
        axes.plot(0, 0, "+", color="tab:orange", markersize=5)
    return figure


def most_telling(quartets):
    """Of the set, the quartet with the most visible disks that do not overlap."""
    def visible(quartet):
        disks = quartet.disks
        bright = disks.intensity > 30 / DOSE
        k = np.stack([disks.kx, disks.ky])[:, bright]
        apart = np.linalg.norm(k[:, :, None] - k[:, None], axis=0) + 10 * np.eye(bright.sum())
        return (apart.min(axis=1) > 2 * quartet.disk_radius).sum() if bright.any() else 0

    return max(quartets, key=visible)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("10_quartets"), help="folder of the set and the picture")
    parser.add_argument("--structure", type=Path, help="CIF file")
    parser.add_argument("--n", type=int, default=24, help="quartets to simulate")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)

    phases = arguments.structure or pyxem_dl.data.lithium_nickel_oxide()
    quartets = pyxem_dl.make_quartets(
        phases, arguments.output / "quartets.zarr", n=arguments.n, thickness=(50, 200), tilt=(0.5, 1.5),
        semi_angle=(1.5, 2.5),
    )  # fmt: skip
    print(quartets)

    quartet = most_telling(quartets)
    disks = quartet.disks
    print(f"\n{'hkl':>12} {'kx':>7} {'ky':>7} {'s':>8} {'q_z':>8}   (Å⁻¹) {'|V_g| (V)':>10} {'intensity':>10}")
    for i in np.flatnonzero(disks.present)[:12]:
        numbers = disks.kx[i], disks.ky[i], disks.excitation_error[i], disks.q_z[i], abs(disks.v_g[i])
        print(f"{str(disks.hkl[i].tolist()):>12} {'{:7.3f} {:7.3f} {:8.4f} {:8.4f} {:17.2f}'.format(*numbers)} "
              f"{disks.intensity[i]:10.2e}")  # fmt: skip
    draw(quartet, quartets.calibration).savefig(arguments.output / "quartet.png")
    print(f"In {arguments.output}: quartets.zarr, quartet.png")


if __name__ == "__main__":
    main()
