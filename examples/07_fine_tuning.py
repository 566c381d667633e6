"""
Fine-tune a model on a scan
===========================

Adapt a model that was trained on simulated patterns to a scan of one's own. A piece of a real scan of MgO is labelled
by template matching. The more reliable labels of its upper half fine-tune a bundled model for a few steps, and the
lower half shows what has changed.
"""

# sphinx_gallery_thumbnail_path = "gallery/07_fine_tuning/difference.webp"

from pathlib import Path

import hyperspy.api as hs
import numpy as np

import pyxem_dl
from pyxem_dl import plot

# %%
# What you should change: your scan, its structure, the model, and the time.

SCAN = None  # path of a calibrated scan; by default a piece of one of MgO
STRUCTURE = pyxem_dl.data.mgo_phase()  # or the path of a CIF file
MODEL = "mgo-300kv"  # what is adapted: a bundled model, or a model folder
MINUTES = None  # 10 for a real fine-tuning; by default a few steps
OUTPUT = Path("07_fine_tuning")  # folder of the model and the pictures
OUTPUT.mkdir(parents=True, exist_ok=True)

# %%
# Before
# ------

signal = pyxem_dl.data.mgo_nanocubes(lazy=False) if SCAN is None else hs.load(SCAN, lazy=True)
before = pyxem_dl.predict_orientation(signal, MODEL, show_progressbar=False)

figure = plot.orientation_map(before, title=f"{MODEL}, as it is")
figure.savefig(OUTPUT / "before.png")
figure

# %%
# Labels
# ------

labels = pyxem_dl.match_templates(signal, STRUCTURE, resolution=2.0, show_progressbar=False)

figure = plot.orientation_map(labels, title="Labels: template matching")
figure.savefig(OUTPUT / "labels.png")
figure

# %%
# Fine-tune
# ---------
# Half of the labels of the upper half are learnt: the more reliable ones.

upper = labels.deepcopy()
upper.is_in_data = labels.is_in_data & (np.arange(labels.size) < labels.size // 2)
tuned = pyxem_dl.finetune(
    MODEL,
    [(signal, upper)],
    min_reliability=float(np.quantile(labels.prop["reliability"], 0.5)),
    output=OUTPUT / "model",
    overwrite=True,
    show_progressbar=MINUTES is not None,
    **({"max_steps": 30} if MINUTES is None else {"max_minutes": MINUTES}),
)

# %%
# After
# -----

after = pyxem_dl.predict_orientation(signal, tuned, show_progressbar=False)

figure = plot.orientation_map(after, title=f"{MODEL}, fine-tuned on the upper half")
figure.savefig(OUTPUT / "after.png")
figure

# %%
# What has changed?

figure = plot.disorientation_map(after, before, title="After and before")
figure.savefig(OUTPUT / "difference.png")
figure

# %%
print(f"In {OUTPUT}: model, before.png, labels.png, after.png, difference.png")
