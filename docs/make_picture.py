"""Draw the picture of README.md, `docs/mgo_nanocubes.png`: the bundled scan, calibrated, by the network any-crystal."""

import io
from pathlib import Path

from PIL import Image

import pyxem_dl
from pyxem_dl import data, plot


def as_image(figure):
    """Pixels of a figure."""
    file = io.BytesIO()
    figure.savefig(file, dpi=90)
    return Image.open(file).convert("RGB")


signal = data.mgo_nanocubes()
pyxem_dl.calibrate(signal, data.mgo_phase()).apply(signal)
xmap = pyxem_dl.predict_orientation(signal, phases=data.mgo_phase(), n_best=3)
parts = [
    as_image(plot.orientation_map(xmap, directions="z", brightness="reliability", title="MgO nanocubes, 300 kV")),
    as_image(plot.patterns_with_spots(signal, xmap, [(22, 10)], reciprocal_radius=1.8, title="Predicted spots")),
]
height = max(part.height for part in parts)
picture = Image.new("RGB", (sum(part.width for part in parts), height), "white")
left = 0
for part in parts:
    picture.paste(part, (left, (height - part.height) // 2))
    left += part.width
picture.save(Path(__file__).with_name("mgo_nanocubes.png"), optimize=True)
