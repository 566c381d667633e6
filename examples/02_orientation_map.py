"""
Orientation map of a real scan
==============================

A piece of a precession scan of MgO nanocubes comes with pyxem_dl. The script names the crystal, indexes the scan,
prints what it found, and draws it: inverse pole figure colours, reliability, and patterns with the spots that their
orientations predict.
"""

# sphinx_gallery_thumbnail_path = "gallery/02_orientation_map/orientations.webp"

from pathlib import Path

import numpy as np

import pyxem_dl
from pyxem_dl import crystals, metrics, plot
from pyxem_dl.frames import Calibration
from pyxem_dl.results import save_map

# %%
# What you may change: the crystal, or a model that was trained for its own crystals.

PHASE = pyxem_dl.data.mgo_phase()  # or the path of a CIF file
MODEL = None  # or a model folder
OUTPUT = Path("02_orientation_map")  # folder of the map and the pictures
OUTPUT.mkdir(parents=True, exist_ok=True)

# %%
# Index
# -----
# The scan is lazy: patterns are read while they are indexed. Three orientations are kept for each position.

s = pyxem_dl.data.mgo_nanocubes(lazy=True)
xmap = s.predict_orientation(MODEL, phases=None if MODEL else PHASE, n_best=3)
save_map(OUTPUT / "map.h5", xmap, overwrite=True)
print(f"\n{xmap}\n")

# %%
# Grey is not indexed: there is no cube, but the film that carries them. The colours say which direction of the crystal
# lies along the beam (left) and along the horizontal of the pattern (right).

figure = plot.orientation_map(xmap, brightness="reliability", title="MgO nanocubes; brightness: reliability")
figure.savefig(OUTPUT / "orientations.png")
figure

# %%
# The reliability is low where a second orientation explains the pattern nearly as well.

figure = plot.property_map(xmap, "reliability", vmin=0, vmax=1)
figure.savefig(OUTPUT / "reliability.png")
figure

# %%
# Is it true?
# -----------
# Inside a crystal neighbours agree, though the network does not know them.

indexed = xmap.phase_id >= 0
print(f"Indexed: {indexed.mean():.0%} of {xmap.size} positions")
if indexed.any():
    spread = metrics.neighbour_disorientation(xmap, modulo_180=True)
    print(f"Median reliability where indexed: {np.median(xmap.prop['reliability'][indexed]):.2f}")
    if np.isfinite(spread).any():
        print(f"Median disorientation to the neighbours, modulo 180°: {np.nanmedian(spread):.2f}°")

# %%
# Without truth the detected peaks are the judge. The orientations, turned about the beam, say what chance explains.

peaks = metrics.find_peaks(s.data.compute().reshape(-1, 144, 144), Calibration.from_signal(s).center)
reflections = [crystals.reflections(pyxem_dl.data.mgo_phase(), 1.3)]
found = metrics.explained_peaks(xmap, s, reflections, tolerance=0.05, reciprocal_radius=1.3, peaks=peaks).summary()
share, chance = found["share_indexed"], found["chance_indexed"]
print(f"Detected peaks explained: {share:.0%} where indexed (chance: {chance:.0%})")

# %%
# Nothing says more than the predicted spots on the patterns. Here are some with many peaks, far from each other.

crowded = np.array([len(each) >= 5 for each in peaks])
if (indexed & crowded).any():
    positions = plot.spread_positions(xmap, among=crowded)
    figure = plot.patterns_with_spots(s, xmap, positions, reciprocal_radius=1.6)
    figure.savefig(OUTPUT / "patterns.png")
figure

# %%
print(f"In {OUTPUT}: map.h5, orientations.png, reliability.png, patterns.png")
