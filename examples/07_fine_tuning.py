"""Adapt a model that was trained on simulated patterns to a scan of one's own.

A piece of a real scan of MgO is labelled by template matching, the more reliable labels of its upper half fine-tune the
bundled model for a few steps, and the lower half shows what has changed. For your own scan:

    python 07_fine_tuning.py --scan scan.zspy --cif structure.cif --model my_model --minutes 10
"""

import argparse
from pathlib import Path

import hyperspy.api as hs
import numpy as np

import pyxem_dl
from pyxem_dl import plot


def main():
    """Label, fine-tune, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", type=Path, help="a calibrated scan; by default a piece of one of MgO")
    parser.add_argument("--cif", type=Path, help="structure of the scan's crystal")
    parser.add_argument("--model", default="mgo-300kv", help="what is adapted")
    parser.add_argument("--minutes", type=float, help="time of a real fine-tuning; by default a few steps")
    parser.add_argument("--output", type=Path, default=Path("07_fine_tuning"), help="folder of model and pictures")
    arguments = parser.parse_args()
    if (arguments.scan is None) != (arguments.cif is None):
        parser.error("give --scan and --cif together")
    signal = hs.load(arguments.scan, lazy=True) if arguments.scan else pyxem_dl.data.mgo_nanocubes(lazy=False)
    phase = arguments.cif or pyxem_dl.data.mgo_phase()
    arguments.output.mkdir(parents=True, exist_ok=True)

    before = pyxem_dl.predict_orientation(signal, arguments.model, show_progressbar=False)
    labels = pyxem_dl.match_templates(signal, phase, resolution=2.0, show_progressbar=False)
    upper = labels.deepcopy()
    upper.is_in_data = labels.is_in_data & (np.arange(labels.size) < labels.size // 2)
    tuned = pyxem_dl.finetune(
        arguments.model,
        [(signal, upper)],
        min_reliability=float(np.quantile(labels.prop["reliability"], 0.5)),
        output=arguments.output / "model",
        overwrite=True,
        show_progressbar=arguments.minutes is not None,
        **({"max_steps": 30} if arguments.minutes is None else {"max_minutes": arguments.minutes}),
    )
    after = pyxem_dl.predict_orientation(signal, tuned, show_progressbar=False)

    pictures = {
        "before": plot.orientation_map(before, title=f"{arguments.model}, as it is"),
        "labels": plot.orientation_map(labels, title="Labels: template matching"),
        "after": plot.orientation_map(after, title=f"{arguments.model}, fine-tuned on the upper half"),
        "difference": plot.disorientation_map(after, before, title="After and before"),
    }
    for name, figure in pictures.items():
        figure.savefig(arguments.output / f"{name}.png")
    print(f"In {arguments.output}: model, {', '.join(f'{name}.png' for name in pictures)}")


if __name__ == "__main__":
    main()
