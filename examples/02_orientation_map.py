"""An orientation map of a real scan, from its crystal structure.

A piece of a precession scan of MgO nanocubes comes with pyxem_dl. This script names the crystal, indexes the scan
lazily, prints what it found, and writes the crystal map (orix HDF5) with pictures: inverse pole figure colours,
reliability, and a few patterns with the spots that their orientations predict.
"""

import argparse
from pathlib import Path

import numpy as np

import pyxem_dl
from pyxem_dl import crystals, metrics, plot
from pyxem_dl.frames import Calibration
from pyxem_dl.results import save_map


def main():
    """Predict, describe, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phase", default=pyxem_dl.data.mgo_phase(), help="CIF file of the crystal")
    parser.add_argument("--model", help="a model folder, of a model that was trained for its own phases")
    parser.add_argument("--output", type=Path, default=Path("02_orientation_map"), help="folder of map and pictures")
    arguments = parser.parse_args()
    s = pyxem_dl.data.mgo_nanocubes(lazy=True)
    phases = None if arguments.model else arguments.phase
    xmap = s.predict_orientation(arguments.model, phases=phases, n_best=3)

    indexed = xmap.phase_id >= 0
    print(f"\n{xmap}\n")
    print(f"Indexed: {indexed.mean():.0%} of {xmap.size} positions")
    if indexed.any():
        spread = metrics.neighbour_disorientation(xmap, modulo_180=True)
        spread = spread[np.isfinite(spread)]
        print(f"Median reliability where indexed: {np.median(xmap.prop['reliability'][indexed]):.2f}")
        if spread.size:
            print(f"Median disorientation to the neighbours, modulo 180°: {np.median(spread):.2f}°")
    # without truth, the detected peaks are the judge; turned about the beam they say what chance explains
    peaks = metrics.find_peaks(s.data.compute().reshape(-1, 144, 144), Calibration.from_signal(s).center)
    crowded = np.array([len(each) >= 5 for each in peaks])
    reflections = [crystals.reflections(pyxem_dl.data.mgo_phase(), 1.3)]
    found = metrics.explained_peaks(xmap, s, reflections, tolerance=0.05, reciprocal_radius=1.3, peaks=peaks).summary()
    share, chance = found["share_indexed"], found["chance_indexed"]
    print(f"Detected peaks explained: {share:.0%} where indexed (chance: {chance:.0%})")

    arguments.output.mkdir(parents=True, exist_ok=True)
    save_map(arguments.output / "map.h5", xmap, overwrite=True)
    pictures = {
        "orientations": plot.orientation_map(
            xmap, brightness="reliability", title="MgO nanocubes; brightness: reliability"
        ),
        "reliability": plot.property_map(xmap, "reliability", vmin=0, vmax=1),
    }
    if (indexed & crowded).any():
        positions = plot.spread_positions(xmap, among=crowded)
        pictures["patterns"] = plot.patterns_with_spots(s, xmap, positions, reciprocal_radius=1.6)
    for name, figure in pictures.items():
        figure.savefig(arguments.output / f"{name}.png")
    print(f"In {arguments.output}: map.h5, {', '.join(f'{name}.png' for name in pictures)}")


if __name__ == "__main__":
    main()
