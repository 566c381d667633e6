"""An orientation map of a real scan, with the bundled model ``mgo-300kv``.

A piece of a precession scan of MgO nanocubes comes with pyxem_dl. This script indexes it lazily, prints what it found,
and writes the crystal map (orix HDF5) with pictures: inverse pole figure colours, reliability, and a few patterns with
the re-simulated spots of their orientations.
"""

import argparse
from pathlib import Path

import numpy as np

import pyxem_dl
from pyxem_dl import metrics, plot
from pyxem_dl.maps import save_map


def main():
    """Predict, describe, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mgo-300kv", help="name of a bundled model, or a model folder")
    parser.add_argument("--output", type=Path, default=Path("02_orientation_map"), help="folder of map and pictures")
    arguments = parser.parse_args()
    if arguments.model == "mgo-300kv" and "mgo-300kv" not in pyxem_dl.list_models():
        raise SystemExit(
            "The model mgo-300kv is not bundled with this installation. Train one (20 minutes), and give its folder "
            "with --model:\n  pyxem-dl train MgO.cif --beam-energy 300 --reciprocal-radius 2 --output my_model"
        )

    s = pyxem_dl.data.mgo_nanocubes(lazy=True)
    xmap = s.predict_orientation(arguments.model, n_best=3)

    indexed = xmap.phase_id >= 0
    print(f"\n{xmap}\n")
    print(f"Indexed: {indexed.mean():.0%} of {xmap.size} positions; the rest is vacuum and carbon film")
    if indexed.any():
        spread = metrics.neighbour_disorientation(xmap, modulo_180=True)
        spread = spread[np.isfinite(spread)]
        print(f"Median reliability where indexed: {np.median(xmap.prop['reliability'][indexed]):.2f}")
        if spread.size:
            print(f"Median disorientation to the neighbours, modulo 180°: {np.median(spread):.2f}°")

    arguments.output.mkdir(parents=True, exist_ok=True)
    save_map(arguments.output / "map.h5", xmap, overwrite=True)
    pictures = {
        "orientations": plot.orientation_map(
            xmap, brightness="reliability", title="MgO nanocubes by mgo-300kv; brightness: reliability"
        ),
        "reliability": plot.property_map(xmap, "reliability", vmin=0, vmax=1),
    }
    if indexed.any():
        pictures["patterns"] = plot.patterns_with_spots(s, xmap, reciprocal_radius=1.6)
    for name, figure in pictures.items():
        figure.savefig(arguments.output / f"{name}.png")
    print(f"In {arguments.output}: map.h5, {', '.join(f'{name}.png' for name in pictures)}")


if __name__ == "__main__":
    main()
