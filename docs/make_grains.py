"""Draw the picture of `docs/grains.md`: grains of a simulated polycrystal, as predicted and settled."""

import io
from pathlib import Path

from PIL import Image

import pyxem_dl
from pyxem_dl import data


def as_image(figure):
    """Pixels of a figure."""
    file = io.BytesIO()
    figure.savefig(file, dpi=80)
    return Image.open(file).convert("RGB")


signal, _ = data.polycrystal()
xmap = pyxem_dl.predict_orientation(signal, phases=data.lithium_nickel_oxide(), n_best=4)
settled = pyxem_dl.settle(xmap, signal)
parts = []
for name, each in (("as predicted", xmap), ("settled", settled)):
    grains = pyxem_dl.grains(each)
    print(grains)
    parts.append(as_image(grains.plot(color="mean", title=f"{name}: {len(grains)} grains")))
picture = Image.new("RGB", (sum(part.width for part in parts), max(part.height for part in parts)), "white")
picture.paste(parts[0], (0, 0))
picture.paste(parts[1], (parts[0].width, 0))
picture.save(Path(__file__).with_name("grains.png"), optimize=True)
