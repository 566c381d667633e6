"""Fit a phase-field equation to a noisy series of images, and draw what comes out: parameters, clean frames, residuals.

Without a series of yours, one is simulated, at 10 counts per pixel.

    python 12_phase_field.py
    python 12_phase_field.py --equation cahn-hilliard
    python 12_phase_field.py --series series.hspy --equation auto
"""

import argparse
from pathlib import Path

import hyperspy.api as hs
import numpy as np
from matplotlib.figure import Figure

import pyxem_dl


def simulated(equation):
    """A series of 10 counts per pixel whose parameters are known."""
    made = pyxem_dl.data.phase_field_series("allen-cahn" if equation == "auto" else equation, shape=(64, 64), frames=12)
    print("true:", {name: round(value, 3) for name, value in made.parameters.items()})
    return made.signal


def draw(signal, fit):
    """First, middle and last frame: as they were, without noise, and what is left."""
    frames = np.linspace(0, signal.data.shape[0] - 1, 3).astype(int)
    seen = np.stack([np.asarray(signal.data[i]) for i in frames])
    clean = np.stack([fit.signal.data[i].compute() for i in frames])
    low, high = clean.min(), clean.max()
    span = 3 * float((seen - clean).std())
    figure = Figure(figsize=(9, 9), layout="constrained")
    for line, frame, one, two in zip(figure.subplots(3, 3), frames, seen, clean, strict=True):
        line[0].imshow(one, cmap="gray", vmin=low, vmax=high)
        line[1].imshow(two, cmap="gray", vmin=low, vmax=high)
        line[2].imshow(one - two, cmap="RdBu", vmin=-span, vmax=span)
        line[0].set_ylabel(f"frame {frame}")
        for axes, title in zip(line, ("series", "without noise", "residuals"), strict=True):
            axes.set(xticks=[], yticks=[], title=title if frame == 0 else "")
    figure.suptitle("\n".join(f"{name}: {fit.parameters[name]}" for name in fit.parameters if name[-1] in "hy"))
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("12_phase_field"), help="folder of the picture")
    parser.add_argument("--series", type=Path, help="file of a series")
    parser.add_argument("--equation", default="allen-cahn", help="allen-cahn, cahn-hilliard or auto")
    parser.add_argument("--drift", action="store_true", help="fit a steady drift, too")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    signal = simulated(arguments.equation) if arguments.series is None else hs.load(arguments.series, lazy=True)
    fit = signal.fit_phase_field(arguments.equation, drift=arguments.drift)
    draw(signal, fit).savefig(arguments.output / "phase_field.png")
    print(f"In {arguments.output}: phase_field.png")


if __name__ == "__main__":
    main()
