"""
From labels to a network
========================

The literature's route, end to end: label a scan by template matching, let networks learn the more reliable labels,
and take them back to the scan. As it stands a small polycrystal of LiNiO2 is simulated, and two small networks learn
for some seconds, only to show the way. Together they say how sure they are.
"""

# sphinx_gallery_thumbnail_path = "gallery/06_labelled_scan/network.webp"

from pathlib import Path

import hyperspy.api as hs
import numpy as np

import pyxem_dl
from pyxem_dl import plot
from pyxem_dl.metrics import disorientation
from pyxem_dl.results import selection_curve

# %%
# What you should change, for a real model: the scan, its structure, and the time. With a real time ``NETWORK`` may
# also be ``"cnn"``, ``"densenet121"``, ``"swin_tiny"``, ``"swin_tiny_adapted"`` and others.

SCAN = None  # path of a calibrated scan
STRUCTURE = None  # path of the CIF file of its crystal
MINUTES = None  # 20 for a real training
NETWORK = "polar"
MEMBERS = 2  # networks that are trained with other seeds
KEEP = 0.5  # share of the labels that is kept
OUTPUT = Path("06_labelled_scan")  # folder of the models and the pictures
OUTPUT.mkdir(parents=True, exist_ok=True)

# %%
# Label
# -----

truth = None
if SCAN is None:
    signal, truth = pyxem_dl.data.polycrystal((24, 28), 3e4, n_grains=6, pixels=96)
    phase = pyxem_dl.data.lithium_nickel_oxide()
else:
    signal, phase = hs.load(SCAN, lazy=True), STRUCTURE
labels = pyxem_dl.match_templates(signal, phase, resolution=2.0, show_progressbar=False)

figure = plot.orientation_map(labels, brightness="reliability", title="Labels: template matching")
figure.savefig(OUTPUT / "labels.png")
figure

# %%
# Which labels are worth learning? Where the truth is known one can see what choosing them by their score or by their
# reliability gains.

least = float(np.quantile(labels.prop["reliability"], 1 - KEEP))
if truth is not None:
    curves = [selection_curve(labels, truth, name) for name in ("scores", "reliability")]
    figure = plot.selection_curves(curves, title="What choosing labels gains")
    figure.savefig(OUTPUT / "selection.png")
figure

# %%
# Learn
# -----

tiny = {
    "network": "polar", "network_arguments": {"width": 64, "depth": 2, "resolution": 5.0},
    "max_steps": 350, "batch_size": 32, "learning_rate": 3e-3,
}  # fmt: skip
members = [
    pyxem_dl.train(
        labelled=[(signal, labels)],
        min_reliability=least,
        output=OUTPUT / f"model_{seed}",
        seed=seed,
        overwrite=True,
        show_progressbar=MINUTES is not None,
        **(tiny if MINUTES is None else {"network": NETWORK, "max_minutes": MINUTES}),
    )
    for seed in range(MEMBERS)
]
if MINUTES is None:
    print("This was a tiny training, to show the way. Set MINUTES = 20 for a model that works.")

# %%
# Predict
# -------
# One network says how sure it is by dropout, where it has any; several by how far they disagree.

model, n_samples = (members, 0) if len(members) > 1 else (members[0], 16 if members[0].has_dropout else 0)
xmap = pyxem_dl.predict_orientation(signal, model, n_samples=n_samples, show_progressbar=False)

figure = plot.orientation_map(xmap, brightness="scores", title="Network")
figure.savefig(OUTPUT / "network.png")
figure

# %%
# Where do network and labels differ?

figure = plot.disorientation_map(xmap, labels, title="Network and labels")
figure.savefig(OUTPUT / "difference.png")
figure

# %%
# How sure are the networks?

if "uncertainty" in xmap.prop:
    figure = plot.property_map(xmap, "uncertainty", title="Expected error", label="degrees")
    figure.savefig(OUTPUT / "uncertainty.png")
figure

# %%
# Are they right to be? Points on the diagonal are errors as large as expected.

if truth is not None:
    there = truth.phase_id >= 0
    for name, found in (("labels", labels), ("network", xmap)):
        angle = disorientation(found, truth, modulo_180=True)[there]
        print(f"{name}: {np.mean(angle < 5):.1%} within 5° of the truth, modulo 180°, where there is a crystal")
if truth is not None and "uncertainty" in xmap.prop:
    error = disorientation(xmap, truth, modulo_180=True)
    figure = plot.reliability_diagram({"network": (xmap.prop["uncertainty"], error)})
    figure.savefig(OUTPUT / "reliability.png")
figure

# %%
print(f"In {OUTPUT}: models, labels.png, selection.png, network.png, difference.png, uncertainty.png, reliability.png")
