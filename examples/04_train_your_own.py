"""
Train a model for your own crystal
==================================

The bundled model ``any-crystal`` goes on learning with one crystal alone. As it stands the script trains for a few
steps only, to show the way: give your structure and five minutes for a real model. ``pyxem-dl train structure.cif``
does the same on the command line.
"""

# sphinx_gallery_thumbnail_path = "gallery/04_train_your_own/training_patterns.webp"

import csv
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import pyxem_dl
from pyxem_dl.frames import pixel_to_k
from pyxem_dl.simulation import PatternSimulator, SimulationSettings

# %%
# What you should change: your structures, the beam energy, how far out spots are seen, and the time.

STRUCTURES = pyxem_dl.data.aluminium()  # or the path of a CIF file, or a list: structures to tell apart
BEAM_ENERGY = 200.0  # kV
RADIUS = 1.2  # Å⁻¹
MINUTES = None  # 5 for a real training
OUTPUT = Path("04_train_your_own")  # folder of the model and the pictures

# %%
# What the network learns from
# ----------------------------
# Patterns are simulated while it trains. Detector, calibration, thickness, background and noise are drawn anew for
# each. Compare them with your own patterns.


def draw_pattern(axes, made):
    """Draw one pattern of the simulator over (kx, ky); pixels of a beam stop are left out."""
    pattern = made.patterns[0].numpy().astype(float)
    if made.signal_mask is not None:
        pattern[made.signal_mask.numpy()] = np.nan
    rows, columns = made.calibration.shape
    left, top = pixel_to_k(-0.5, -0.5, made.calibration)
    right, bottom = pixel_to_k(rows - 0.5, columns - 0.5, made.calibration)
    shown = pattern**0.4
    axes.imshow(shown, extent=(left, right, bottom, top), cmap="gray_r", vmax=np.nanquantile(shown, 0.997))
    axes.set(xlim=(-RADIUS, RADIUS), ylim=(-RADIUS, RADIUS))
    phase = int(made.phase_id[0])
    axes.set_title("no crystal" if phase < 0 else phases[phase].name, fontsize=9)
    axes.tick_params(labelsize=7)


phases = pyxem_dl.load_phases(STRUCTURES)
simulator = PatternSimulator(phases, BEAM_ENERGY, RADIUS, seed=1)
figure, grid = plt.subplots(3, 4, figsize=(11, 8.6), layout="constrained", dpi=120)
for axes in grid.ravel():
    draw_pattern(axes, simulator(2))
figure.supxlabel("$k_x$ (Å⁻¹)", fontsize=9)
figure.supylabel("$k_y$ (Å⁻¹)", fontsize=9)
figure.suptitle(f"What the network learns from ({BEAM_ENERGY:g} kV)")
OUTPUT.mkdir(parents=True, exist_ok=True)
figure.savefig(OUTPUT / "training_patterns.png")

# %%
# Train
# -----

tiny = {"max_steps": 60, "batch_size": 16, "simulation": SimulationSettings(setup_size=16, pixels=(48,))}
model = pyxem_dl.train(
    phases,
    beam_energy=BEAM_ENERGY,
    reciprocal_radius=RADIUS,
    output=OUTPUT / "model",
    show_progressbar=MINUTES is not None,
    **(tiny if MINUTES is None else {"max_minutes": MINUTES}),
)
print(f"\n{model}\n{model.domain}")

# %%
# What came out
# -------------
# The folder of the model has a log. While a network trains it is tried on fresh simulations.

with open(OUTPUT / "model" / "training_log.csv", newline="") as file:
    log = list(csv.DictReader(file))
last = [row for row in log if row.get("within_5_modulo_180")][-1]
print(f"On fresh simulations, modulo 180°: {float(last['within_5_modulo_180']):.1%} within 5°, "
      f"median {float(last['median_modulo_180']):.1f}°")  # fmt: skip
if MINUTES is None:
    print("This was a tiny training, to show the way. Set MINUTES = 5 for one that is worth it.")

# %%
# Loss and accuracy, stage by stage:

figure, (loss, accuracy) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", dpi=120)
start = 0
for stage in dict.fromkeys(row["stage"] for row in log):
    mine = [row for row in log if row["stage"] == stage]
    for axes, column, factor in ((loss, "loss", 1), (accuracy, "within_5_modulo_180", 100)):
        points = [(start + int(row["step"]), factor * float(row[column])) for row in mine if row.get(column)]
        if points:
            axes.plot(*np.transpose(points), "o-", markersize=4, label=stage)
    start += max(int(row["step"]) for row in mine) + 1
loss.set(xlabel="step", ylabel="loss", title="Loss (each stage has its own)")
accuracy.set(xlabel="step", ylabel="%", ylim=(0, 100), title="Fresh patterns within 5°, modulo 180°")
for axes in (loss, accuracy):
    axes.set_xlim(left=0)
    if axes.lines:
        axes.legend(frameon=False)
figure.savefig(OUTPUT / "training_log.png")

# %%
print(f"In {OUTPUT}: model, training_patterns.png, training_log.png")
