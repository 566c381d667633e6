"""
Fit a phase-field equation to a series
======================================

An equation of fronts that move is fitted to a noisy series of images. Out come its parameters, with errors, the frames
without noise, and what is left. Without a series of yours, one is simulated, at 10 counts per pixel.
"""

# sphinx_gallery_thumbnail_path = "gallery/12_phase_field/phase_field.webp"

from pathlib import Path

import hyperspy.api as hs
import matplotlib.pyplot as plt
import numpy as np

import pyxem_dl

# %%
# What you may change:

SERIES = None  # path of a series
EQUATION = "allen-cahn"  # or "cahn-hilliard"; of a series of yours also "auto"
DRIFT = False  # True: fit a steady drift, too
OUTPUT = Path("12_phase_field")  # folder of the picture
OUTPUT.mkdir(parents=True, exist_ok=True)

# %%
# Fit
# ---

if SERIES is None:
    made = pyxem_dl.data.phase_field_series(EQUATION, shape=(64, 64), frames=12)
    signal = made.signal
    print("true:", {name: round(value, 3) for name, value in made.parameters.items()})
else:
    signal = hs.load(SERIES, lazy=True)
fit = signal.fit_phase_field(EQUATION, drift=DRIFT)

# %%
# Look
# ----
# First, middle and last frame: as they were, without noise, and what is left. What is left should have no shape.

frames = np.linspace(0, signal.data.shape[0] - 1, 3).astype(int)
seen = np.stack([np.asarray(signal.data[i]) for i in frames])
clean = np.stack([fit.signal.data[i].compute() for i in frames])
low, high = clean.min(), clean.max()
span = 3 * float((seen - clean).std())

figure, grid = plt.subplots(3, 3, figsize=(9, 9), layout="constrained")
for line, frame, one, two in zip(grid, frames, seen, clean):
    line[0].imshow(one, cmap="gray", vmin=low, vmax=high)
    line[1].imshow(two, cmap="gray", vmin=low, vmax=high)
    line[2].imshow(one - two, cmap="RdBu", vmin=-span, vmax=span)
    line[0].set_ylabel(f"frame {frame}")
    for axes, title in zip(line, ("series", "without noise", "residuals")):
        axes.set(xticks=[], yticks=[], title=title if frame == 0 else "")
figure.suptitle("\n".join(f"{name}: {fit.parameters[name]}" for name in fit.parameters if name[-1] in "hy"))
figure.savefig(OUTPUT / "phase_field.png")

# %%
print(f"In {OUTPUT}: phase_field.png")
