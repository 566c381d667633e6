"""From labels by template matching to a network, and back to the scan: the literature's route, end to end.

By default a small polycrystal of LiNiO2 is simulated, labelled by template matching, and two small networks learn its
more reliable labels for some seconds, only to show the way: together they say how sure they are. For real ones give
your scan, its structure and the time:

    python 06_labelled_scan.py --scan scan.zspy --cif structure.cif --network swin_tiny_adapted --minutes 20

It writes the models, maps of labels and networks, what choosing labels gains (where the truth is known), and a
reliability diagram.
"""

import argparse
from pathlib import Path

import hyperspy.api as hs
import numpy as np

import pyxem_dl
from pyxem_dl import plot
from pyxem_dl.metrics import disorientation
from pyxem_dl.results import selection_curve

#: Settings of the tiny training
TINY = {
    "network": "polar", "network_arguments": {"width": 64, "depth": 2, "resolution": 5.0},
    "max_steps": 350, "batch_size": 32, "learning_rate": 3e-3,
}  # fmt: skip


def main():
    """Label, choose, train, predict, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", type=Path, help="a calibrated scan; by default a simulated one")
    parser.add_argument("--cif", type=Path, help="structure of the scan's crystal")
    parser.add_argument("--network", help="polar (default), cnn, densenet121, swin_tiny, swin_tiny_adapted, ...")
    parser.add_argument("--members", type=int, default=2, help="networks that are trained with other seeds")
    parser.add_argument("--minutes", type=float, help="time of a real training; by default a tiny one")
    parser.add_argument("--keep", type=float, default=0.5, help="share of the labels that is kept")
    parser.add_argument("--output", type=Path, default=Path("06_labelled_scan"), help="folder of model and pictures")
    arguments = parser.parse_args()
    if (arguments.scan is None) != (arguments.cif is None):
        parser.error("give --scan and --cif together")
    if arguments.network and not arguments.minutes:
        parser.error("give --minutes with --network: without, a tiny polar network is trained")
    truth = None
    if arguments.scan is None:
        signal, truth = pyxem_dl.data.polycrystal((24, 28), 3e4, n_grains=6, pixels=96)
        phase = pyxem_dl.data.lithium_nickel_oxide()
    else:
        signal, phase = hs.load(arguments.scan, lazy=True), arguments.cif
    arguments.output.mkdir(parents=True, exist_ok=True)

    labels = pyxem_dl.match_templates(signal, phase, resolution=2.0, show_progressbar=False)
    least = float(np.quantile(labels.prop["reliability"], 1 - arguments.keep))
    tiny = arguments.minutes is None
    settings = TINY if tiny else {"network": arguments.network or "polar", "max_minutes": arguments.minutes}
    members = [
        pyxem_dl.train(
            labelled=[(signal, labels)],
            min_reliability=least,
            output=arguments.output / f"model_{seed}",
            seed=seed,
            overwrite=True,
            show_progressbar=not tiny,
            **settings,
        )
        for seed in range(arguments.members)
    ]
    # one network says how sure it is by dropout, where it has any; several by how far they disagree
    model, n_samples = (members, 0) if len(members) > 1 else (members[0], 16 if members[0].has_dropout else 0)
    xmap = pyxem_dl.predict_orientation(signal, model, n_samples=n_samples, show_progressbar=False)

    pictures = {
        "labels": plot.orientation_map(labels, brightness="reliability", title="Labels: template matching"),
        "network": plot.orientation_map(xmap, brightness="scores", title=f"Network: {settings['network']}"),
        "difference": plot.disorientation_map(xmap, labels, title="Network and labels"),
    }
    if "uncertainty" in xmap.prop:
        pictures["uncertainty"] = plot.property_map(xmap, "uncertainty", title="Expected error", label="degrees")
    if truth is not None:
        curves = [selection_curve(labels, truth, name) for name in ("scores", "reliability")]
        pictures["selection"] = plot.selection_curves(curves, title="What choosing labels gains")
        error = disorientation(xmap, truth, modulo_180=True)
        if "uncertainty" in xmap.prop:
            pictures["reliability"] = plot.reliability_diagram({settings["network"]: (xmap.prop["uncertainty"], error)})
        there = truth.phase_id >= 0
        for name, found in (("labels", labels), ("network", xmap)):
            angle = disorientation(found, truth, modulo_180=True)[there]
            print(f"{name}: {np.mean(angle < 5):.1%} within 5° of the truth, modulo 180°, where there is a crystal")
    if tiny:
        print("This was a tiny training, to show the way. Give --minutes 20 for a model that works.")
    for name, figure in pictures.items():
        figure.savefig(arguments.output / f"{name}.png")
    print(f"In {arguments.output}: models, {', '.join(f'{name}.png' for name in pictures)}")


if __name__ == "__main__":
    main()
