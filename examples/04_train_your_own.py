"""Train a model for your own crystal: the bundled ``any-crystal`` goes on learning with it alone.

By default this trains for a few steps, only to show the way. For a real model give your structure and the time:

    python 04_train_your_own.py --cif structure.cif --beam-energy 200 --minutes 5

It writes the model folder, a sheet of the patterns that the network learns from, and the curves of the training log.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import pyxem_dl
from pyxem_dl.frames import pixel_to_k
from pyxem_dl.simulation import PatternSimulator, SimulationSettings

#: Settings of the tiny training
TINY = {"max_steps": 60, "batch_size": 16, "simulation": SimulationSettings(setup_size=16, pixels=(48,))}


def draw_training_patterns(phases, beam_energy, reciprocal_radius, n=12):
    """Patterns as the training draws them, each of another setup, with what is known of them."""
    simulator = PatternSimulator(phases, beam_energy, reciprocal_radius, seed=1)
    figure = Figure(figsize=(11, 8.6), layout="constrained", dpi=120)
    for axes in figure.subplots(3, n // 3).ravel():
        made = simulator(2)
        pattern = made.patterns[0].numpy().astype(float)
        if made.signal_mask is not None:
            pattern[made.signal_mask.numpy()] = np.nan
        rows, columns = made.calibration.shape
        left, top = pixel_to_k(-0.5, -0.5, made.calibration)
        right, bottom = pixel_to_k(rows - 0.5, columns - 0.5, made.calibration)
        shown = pattern**0.4
        axes.imshow(shown, extent=(left, right, bottom, top), cmap="gray_r", vmax=np.nanquantile(shown, 0.997))
        axes.set_xlim(-reciprocal_radius, reciprocal_radius)
        axes.set_ylim(-reciprocal_radius, reciprocal_radius)
        phase = int(made.phase_id[0])
        axes.set_title("no crystal" if phase < 0 else phases[phase].name, fontsize=9)
        axes.tick_params(labelsize=7)
    figure.supxlabel("$k_x$ (Å⁻¹)", fontsize=9)
    figure.supylabel("$k_y$ (Å⁻¹)", fontsize=9)
    figure.suptitle(f"What the network learns from ({beam_energy:g} kV)")
    return figure


def draw_training_log(path):
    """Curves of loss and accuracy over the steps, stage by stage."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=120)
    loss, accuracy = figure.subplots(1, 2)
    start = 0
    for stage in dict.fromkeys(row["stage"] for row in rows):
        mine = [row for row in rows if row["stage"] == stage]
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
    return figure


def main():
    """Train, and look at what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cif", type=Path, nargs="+", help="structures to tell apart; by default aluminium")
    parser.add_argument("--beam-energy", type=float, default=200.0, help="kV")
    parser.add_argument("--reciprocal-radius", type=float, default=1.2, help="how far out spots are seen, in Å⁻¹")
    parser.add_argument("--minutes", type=float, help="time of a real training; by default a tiny one")
    parser.add_argument("--output", type=Path, default=Path("04_train_your_own"), help="folder of model and pictures")
    arguments = parser.parse_args()
    phases = pyxem_dl.load_phases(arguments.cif or pyxem_dl.data.aluminium())
    settings = TINY if arguments.minutes is None else {"max_minutes": arguments.minutes}

    model = pyxem_dl.train(
        phases,
        beam_energy=arguments.beam_energy,
        reciprocal_radius=arguments.reciprocal_radius,
        output=arguments.output / "model",
        show_progressbar=arguments.minutes is not None,
        **settings,
    )

    print(f"\n{model}\n{model.domain}")
    with open(arguments.output / "model" / "training_log.csv", newline="") as file:
        last = [row for row in csv.DictReader(file) if row.get("within_5_modulo_180")][-1]
    print(f"On fresh simulations, modulo 180°: {float(last['within_5_modulo_180']):.1%} within 5°, "
          f"median {float(last['median_modulo_180']):.1f}°")  # fmt: skip
    if arguments.minutes is None:
        print("This was a tiny training, to show the way. Give --minutes 5 for one that is worth it.")
    pictures = {
        "training_patterns": draw_training_patterns(phases, arguments.beam_energy, arguments.reciprocal_radius),
        "training_log": draw_training_log(arguments.output / "model" / "training_log.csv"),
    }
    for name, figure in pictures.items():
        figure.savefig(arguments.output / f"{name}.png")
    print(f"In {arguments.output}: model, {', '.join(f'{name}.png' for name in pictures)}")


if __name__ == "__main__":
    main()
