"""Draw the picture of `docs/any_crystal.md`: MgO cubes that lie above each other, in the bundled scan."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

import pyxem_dl
from pyxem_dl import data, plot


def as_image(figure):
    """Pixels of a figure."""
    file = io.BytesIO()
    figure.savefig(file, dpi=80)
    return Image.open(file).convert("RGB")


def with_ticks(figure, ticks):
    """Let the colour bar of a figure have other ticks."""
    figure.axes[-1].set_yticks(ticks)
    return figure


def crystal(xmap, number):
    """Map of the first, the second or the third crystal; what has none is not indexed."""
    one = xmap.deepcopy()
    one._rotations = xmap.rotations[:, [number]]
    one._phase_id = np.where(xmap.prop["n_crystals"] > number, 0, -1)
    return one


signal = data.mgo_nanocubes()
pyxem_dl.calibrate(signal, data.mgo_phase()).apply(signal)
xmap = pyxem_dl.predict_orientation(signal, phases=data.mgo_phase(), overlap=True)
xmap.prop["second share"] = np.where(xmap.prop["n_crystals"] > 1, xmap.prop["share"][:, 1], 0.0)
n_crystals = xmap.prop["n_crystals"]
print({int(n): int((n_crystals == n).sum()) for n in np.unique(n_crystals)}, "positions by the number of crystals")
alone = np.flatnonzero(n_crystals == 1)
overlapped = np.flatnonzero((n_crystals == 2) & (xmap.prop["share"][:, 1] > 0.3))
shown = [alone[len(alone) // 2], *overlapped[[len(overlapped) // 3, 2 * len(overlapped) // 3]]]
maps = {"first crystal": crystal(xmap, 0), "second crystal": crystal(xmap, 1)}
rows = [
    [
        plot.virtual_image(signal, inner=0.3, outer=1.2),
        with_ticks(
            plot.property_map(xmap, "n_crystals", title="Number of crystals", label="", vmin=1, vmax=3), [1, 2, 3]
        ),
        plot.property_map(xmap, "second share", title="Share of the second crystal", label="share", vmin=0, vmax=0.5),
    ],
    [plot.patterns_with_spots(signal, maps, shown, reciprocal_radius=1.8, title="Patterns and spots of the crystals")],
]
rows = [[as_image(figure) for figure in row] for row in rows]
size = max(sum(part.width for part in row) for row in rows), sum(max(part.height for part in row) for row in rows)
picture, top = Image.new("RGB", size, "white"), 0
for row in rows:
    left = (size[0] - sum(part.width for part in row)) // 2
    for part in row:
        picture.paste(part, (left, top))
        left += part.width
    top += max(part.height for part in row)
picture.save(Path(__file__).with_name("mgo_overlaps.png"), optimize=True)
