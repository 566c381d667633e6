"""Networks trained on labelled scans: the literature's beside ours, what choices change, and fine-tuning."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from pyxem_dl import data as sample_data
from pyxem_dl.metrics import accuracy, disorientation
from pyxem_dl.models import load_model
from pyxem_dl.orientation import predict_orientation
from pyxem_dl.results.labels import Labels, hold_out_region, selection_curve
from pyxem_dl.results.map_files import copied_map
from pyxem_dl.simulation import SimulationSettings
from pyxem_dl.template_matching import match_templates
from pyxem_dl.training import finetune, train
from suite import datasets, measure

#: The literature's networks and ours, each trained for the same time
NETWORKS = ("cnn", "densenet121", "swin_tiny", "swin_tiny_adapted", "polar")
_POLYCRYSTAL = "LiNiO2 polycrystal, 100 × 100, simulated"
# Of the labels of the polycrystal, this share is kept: the more reliable half
_KEPT = 0.5
_SAMPLES = 16
_MEMBERS = 3
#: Networks that learn a wrong scale, and are then adapted
TUNED = ("polar", "any-crystal")
# The model of a wrong scale is trained for this share of the time of its adaptation: backgrounds are still to be learnt
_WRONG_SHARE = 2 / 3
_TUNING_RATE = 6e-4
# Of the templates, in degrees
_RESOLUTION = 1.0


@dataclass(frozen=True, eq=False)
class LabelledData:
    """A scan with labels, a region that nobody is trained on, and the truth where there is one.

    Parameters
    ----------
    title : str
        In the table.
    signal : pyxem.signals.ElectronDiffraction2D
        The scan.
    labels : orix.crystal_map.CrystalMap
        By template matching.
    training_labels : orix.crystal_map.CrystalMap
        The same without the region and its border.
    region : array of bool, shape (n,)
        Positions that are held out.
    truth : orix.crystal_map.CrystalMap or None
        Where it is known.
    min_reliability : float
        With which the more reliable half of the labels is kept.
    labels_per_second : float
        Speed of the template matching.
    """

    title: str
    signal: object
    labels: object
    training_labels: object
    region: np.ndarray
    truth: object
    min_reliability: float
    labels_per_second: float

    @classmethod
    def of(cls, title: str, signal, phase, truth=None, **templates) -> LabelledData:
        """Label a scan by template matching, and hold a region out."""
        templates |= {"resolution": _RESOLUTION, "engine": "torch", "show_progressbar": False}
        start = time.perf_counter()
        labels = match_templates(signal, phase, **templates)
        seconds = time.perf_counter() - start
        known = Labels.from_map(labels)
        region, border = hold_out_region(known.shape, known.known, 0.25, seed=1)
        training = copied_map(labels)
        training.is_in_data = labels.is_in_data & ~region & ~border
        least = float(np.quantile(labels.prop["reliability"], 1 - _KEPT))
        return cls(title, signal, labels, training, region, truth, round(least, 3), labels.size / seconds)


@lru_cache(maxsize=1)
def polycrystal() -> LabelledData:
    """Simulate a polycrystal of LiNiO2, and label it."""
    scan = sample_data.polycrystal(far_beams=False)
    return LabelledData.of(_POLYCRYSTAL, scan.signal, sample_data.lithium_nickel_oxide(), scan.truth)


def against_truth(xmap, labelled: LabelledData) -> dict:
    """Accuracy where there is a crystal: on the held-out region, and on the rest of the scan ("seen")."""
    numbers = {}
    for name, here in (("", labelled.region), ("seen_", ~labelled.region)):
        there = here & (labelled.truth.phase_id >= 0)
        found, truth = copied_map(xmap), copied_map(labelled.truth)
        found.is_in_data, truth.is_in_data = there, there
        for kind, each in accuracy(found, truth).items():
            numbers[f"{name}{kind}"] = {
                "within_5": round(each.within_5, 4), "within_2": round(each.within_2, 4),
                "median": round(each.median, 3), "percentile_90": round(each.percentile_90, 2),
            }  # fmt: skip
        numbers[f"{name}n"] = int(there.sum())
    return numbers


class Trainer:
    """Train networks for the same time each, on the same labels.

    Parameters
    ----------
    minutes : float
        For each network.
    device : str
        To train and predict on.
    models : sequence of str
        Folders of models of any crystal, for the part that trains such: those that it need not train.
    """

    def __init__(self, minutes: float, device: str, models=()) -> None:
        self.minutes, self.device, self.models = minutes, device, list(models)
        self.folder = tempfile.TemporaryDirectory(prefix="pyxem-dl-benchmark-")

    def train(self, labelled: LabelledData, network: str, **settings):
        """Train a network, and return it with what it cost."""
        output = Path(self.folder.name) / f"{network}-{len(list(Path(self.folder.name).iterdir()))}"
        settings = {"min_reliability": labelled.min_reliability, "max_minutes": self.minutes} | settings
        start = time.perf_counter()
        model = train(
            labelled=[(labelled.signal, labelled.training_labels)], network=network, output=output,
            device=self.device, show_progressbar=False, **settings,
        )  # fmt: skip
        return model, self.cost(output, start)

    def cost(self, output: Path, start: float) -> dict:
        """Minutes, validation and fits included, and megabytes of a model."""
        minutes = (time.perf_counter() - start) / 60
        size = (output / "model.safetensors").stat().st_size
        return {"minutes": round(minutes, 2), "size_mb": round(size / 1e6, 1)}

    def predict(self, model, labelled: LabelledData, **settings):
        """Predict a whole scan; returns the map and patterns/s."""
        start = time.perf_counter()
        xmap = predict_orientation(labelled.signal, model, device=self.device, show_progressbar=False, **settings)
        return xmap, round(xmap.size / (time.perf_counter() - start), 1)

    def row(self, model, labelled: LabelledData, cost: dict | None = None):
        """Predict a whole scan; returns the map and the row of its accuracy, of what the model cost and its speed."""
        xmap, speed = self.predict(model, labelled)
        return xmap, against_truth(xmap, labelled) | (cost or {}) | {"patterns_per_second": speed}


def networks(trainer: Trainer, pictures: Path) -> Iterator[tuple[str, dict]]:
    """Compare labels, a simulated model and all networks on the polycrystal; yields rows, and draws maps and curves."""
    from pyxem_dl import plot

    labelled = polycrystal()
    maps, pairs = {"truth": labelled.truth, "labels, templates 1°": labelled.labels}, {}
    yield "labels, templates 1°", against_truth(labelled.labels, labelled) | {
        "patterns_per_second": round(labelled.labels_per_second, 1)
    }
    simulated = load_model("linio2-200kv")
    maps["linio2-200kv, simulated"], numbers = trainer.row(simulated, labelled)
    yield "network linio2-200kv, simulated", numbers
    simulated.thresholds = {"crystal": 0.0}
    yield "the same, doubtful answers too", trainer.row(simulated, labelled)[1]
    for network in NETWORKS:
        model, cost = trainer.train(labelled, network)
        maps[network], numbers = trainer.row(model, labelled, cost)
        yield f"{network}, on labels", numbers
        if model.has_dropout:
            sampled, _ = trainer.predict(model, labelled, n_samples=_SAMPLES)
            pairs[network] = _errors(sampled, labelled)
    by = [selection_curve(labelled.labels, labelled.truth, name) for name in ("scores", "reliability")]
    plot.selection_curves(by, title="Labels of the polycrystal").savefig(pictures / "labelled_selection.png", dpi=110)
    plot.reliability_diagram(pairs, title="Held-out region").savefig(pictures / "labelled_reliability.png", dpi=110)
    _draw_maps(maps, pictures / "labelled_maps.png")


def ensemble(trainer: Trainer, pictures: Path) -> Iterator[tuple[str, dict]]:
    """Train our own network from several seeds, each and together; draw how far their uncertainty tells the errors."""
    from pyxem_dl import plot

    labelled = polycrystal()
    models = []
    for seed in range(_MEMBERS):
        model, cost = trainer.train(labelled, "polar", seed=seed)
        models.append(model)
        yield f"polar, seed {seed}", trainer.row(model, labelled, cost)[1]
    xmap, numbers = trainer.row(models, labelled)
    yield "all together", numbers
    pairs = {
        f"polar, {_MEMBERS} networks, {name}": _errors(xmap, labelled, modulo)
        for name, modulo in (("strict", False), ("modulo 180°", True))
    }
    plot.reliability_diagram(pairs, title="Held-out region").savefig(pictures / "ensemble_reliability.png", dpi=110)


def _errors(xmap, labelled: LabelledData, modulo_180: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of expected and true errors on the held-out region."""
    angle = disorientation(xmap, labelled.truth, modulo_180=modulo_180)
    here = labelled.region & (labelled.truth.phase_id >= 0)
    return xmap.prop["uncertainty"][here], angle[here]


def _draw_maps(maps: dict, path: Path) -> None:
    """Draw inverse pole figure maps side by side."""
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure
    from orix.plot import IPFColorKeyTSL
    from orix.quaternion import Rotation
    from orix.vector import Vector3d

    from pyxem_dl.plot import NOT_INDEXED

    columns = 4
    rows = -(-len(maps) // columns)
    figure = Figure(figsize=(3.1 * columns, 3.3 * rows), layout="constrained")
    axes = np.ravel(figure.subplots(rows, columns))
    for ax in axes:
        ax.axis("off")
    for ax, (name, xmap) in zip(axes, maps.items()):
        group = next(phase for i, phase in xmap.phases if i >= 0).point_group
        key = IPFColorKeyTSL(group.laue, direction=Vector3d.zvector())
        rotations = xmap.rotations.data.reshape(xmap.size, -1, 4)[:, 0]
        colors = key.orientation2color(Rotation(rotations))
        colors[xmap.phase_id < 0] = to_rgb(NOT_INDEXED)
        ax.imshow(colors.reshape(*xmap.shape, 3), interpolation="nearest")
        ax.set_title(name, fontsize=9)
    figure.savefig(path, dpi=110)


#: What a choice changes: network, name of the choice, settings
CHOICES = (
    ("cnn", "as it is (half of the labels, cosine, batch 32, kernel 5, R9, turned by up to 10°)", {}),
    ("cnn", "as it is, from another seed", {"seed": 1}),
    ("cnn", "all labels", {"min_reliability": 0.0}),
    ("cnn", "the best quarter of the labels", {"min_reliability": "quarter"}),
    ("cnn", "exponential decay", {"schedule": "exponential"}),
    ("cnn", "one cycle", {"schedule": "one_cycle"}),
    ("cnn", "batch 8", {"batch_size": 8}),
    ("cnn", "batch 128", {"batch_size": 128}),
    ("cnn", "kernel 3", {"network_arguments": {"backbone_arguments": {"kernel": 3}}}),
    ("cnn", "kernel 9", {"network_arguments": {"backbone_arguments": {"kernel": 9}}}),
    ("cnn", "R6", {"network_arguments": {"head": "r6"}}),
    ("cnn", "Euler angles, clamped", {"network_arguments": {"head": "euler"}}),
    ("cnn", "Euler angles, not clamped", {"network_arguments": {"head": "euler", "clamp": False}}),
    ("cnn", "blind to 180° in training", {"network_arguments": {"modulo_180": True}}),
    ("cnn", "squared, not robust", {"network_arguments": {"robust": False}}),
    ("cnn", "not turned", {"turn": 0.0}),
    ("cnn", "turned to all sides, and mirrored", {"turn": 180.0, "mirror": True}),
    ("cnn", "not balanced", {"balance": 0.0}),
    ("densenet121", "as it is", {}),
    ("densenet121", "pretrained by timm", {"pretrained": True}),
)  # fmt: skip


def choices(trainer: Trainer) -> Iterator[tuple[str, dict]]:
    """Train with one choice changed at a time; what cannot be had is left out, with a line that says so."""
    labelled = polycrystal()
    quarter = float(np.quantile(labelled.labels.prop["reliability"], 0.75))
    for network, name, settings in CHOICES:
        if settings.get("min_reliability") == "quarter":
            settings = {"min_reliability": quarter}
        try:
            model, cost = trainer.train(labelled, network, **settings)
        except ValueError as error:
            if "pretrained" not in settings:
                raise
            print(f"No row of {network}, {name}: {error}")
            continue
        yield f"{network}: {name}", trainer.row(model, labelled, cost)[1]


def mgo(trainer: Trainer, folder: Path) -> Iterator[tuple[str, dict]]:
    """Train all networks on labels of the real scan of MgO; there is no truth, but see :func:`measure.mgo`."""
    signal, phase = datasets.mgo_scan(folder)
    peaks, distortion = measure.peaks_of(signal), datasets.mgo_distortion(signal, phase)
    labelled = LabelledData.of("MgO scan", signal, phase, reciprocal_radius=measure.MGO_RADIUS)
    ours, _ = trainer.predict("mgo-300kv", labelled)
    judged = (ours.phase_id >= 0) & labelled.region

    def row(predict):
        return measure.mgo(predict, signal, phase, peaks, judged, distortion)[0]

    yield "labels, templates 1°", row(lambda _: labelled.labels)
    yield "network mgo-300kv, simulated", row(lambda _: trainer.predict("mgo-300kv", labelled)[0])
    for network in NETWORKS:
        model, cost = trainer.train(labelled, network, reciprocal_radius=1.6)
        yield f"{network}, on labels", row(lambda _, model=model: trainer.predict(model, labelled)[0]) | cost


def tuning(trainer: Trainer) -> Iterator[tuple[str, dict]]:
    """Adapt models of a wrong scale and a clean background on a quarter of the polycrystal."""
    labelled = polycrystal()
    quarter = copied_map(labelled.labels)
    rows, columns = quarter.shape
    part = (np.arange(rows)[:, None] < rows // 2) & (np.arange(columns)[None] < columns // 2)
    quarter.is_in_data = part.ravel()
    rest = replace(labelled, region=~part.ravel())
    yield "labels, templates 1°", against_truth(labelled.labels, rest)
    for network in TUNED:
        yield from _tuned(trainer, network, rest, quarter)


def _tuned(trainer: Trainer, network: str, rest: LabelledData, labels) -> Iterator[tuple[str, dict]]:
    """Train a network with a wrong scale and a clean background, adapt it to `labels`; a row for each of the two."""
    wrong, tuned = (Path(trainer.folder.name) / f"{network}-{name}" for name in ("wrong", "tuned"))
    settings = replace(
        SimulationSettings(), scale_error=(0.045, 0.055), background=(1e-3, 3e-3), overlap_share=0.0, ghost_share=0.0
    )
    start = time.perf_counter()
    train(
        sample_data.lithium_nickel_oxide(), output=wrong, network=network, beam_energy=200.0, reciprocal_radius=1.5,
        max_minutes=_WRONG_SHARE * trainer.minutes, simulation=settings, device=trainer.device, show_progressbar=False,
    )  # fmt: skip
    costs = {wrong: trainer.cost(wrong, start)}
    start = time.perf_counter()
    finetune(
        wrong, [(rest.signal, labels)], output=tuned, max_minutes=trainer.minutes, device=trainer.device,
        min_reliability=rest.min_reliability, learning_rate=_TUNING_RATE, show_progressbar=False,
    )  # fmt: skip
    costs[tuned] = trainer.cost(tuned, start)
    for name, folder in (("of a wrong scale and a clean background", wrong), ("the same, fine-tuned", tuned)):
        model = load_model(folder)
        model.thresholds = {"crystal": 0.0}  # all methods answer everywhere
        yield f"{network}, {name}", trainer.row(model, rest, costs[folder])[1]
