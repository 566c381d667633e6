"""Run the parts of the benchmark, and keep their rows."""

from __future__ import annotations

import json
from functools import partial
from itertools import chain
from pathlib import Path

from pyxem_dl import data as sample_data
from pyxem_dl.bragg_vectors import match_disks, predict_bragg_vectors
from pyxem_dl.models import PRETRAINED, load_model
from pyxem_dl.orientation import predict_orientation
from pyxem_dl.template_matching import match_templates
from suite import (  # fmt: skip
    accelerator,
    bloch,
    cost,
    datasets,
    disk_measure,
    disks,
    dynamical,
    engine,
    images,
    labelled,
    measure,
    overlap,
    phase_fields,
    phases,
    refined,
    report,
    settled,
    strain,
    tilt,
    unseen,
    verifier,
)
from suite.machine import context, training_of, use_threads

SECTIONS = (
    "kinematical", "multislice", "mgo", "speed", "cost", "engine", "disks", "strain", "vectors", "tilt", "overlap",
    "dynamical", "bloch", "phases", "unseen", "images", "phase_fields", "refined", "settled",
    "gpu",
)  # fmt: skip
#: Of the network's vectors from which orientations and tilts come: doubtful ones count by their confidence
FAINT = 0.05
#: Parts that train, and take hours: done where they are asked for
TRAINED_SECTIONS = ("labelled", "labelled_mgo", "choices", "ensemble", "tuning", "verifier")
PREDICTORS = ("network", "torch", "pyxem", "py4dstem")
#: The bundled model of each material, and of disks
MODELS = {
    "al": "al-200kv", "linio2": "linio2-200kv", "mgo": "mgo-300kv", "disks": "bragg-disks", "any": "any-crystal",
}  # fmt: skip


def run(
    data,
    output,
    *,
    sections=SECTIONS,
    models: dict[str, list[str]] | None = None,
    predictors=PREDICTORS,
    device: str = "auto",
    threads: int = 2,
    training_minutes: float = 10.0,
) -> Path:
    """Measure, and write ``results.md`` and ``results.json``.

    Parameters
    ----------
    data : str or pathlib.Path
        Folder of the benchmark data.
    output : str or pathlib.Path
        Where the results go.  Rows of an earlier run that are not measured again are kept, with the time and the
        machine that they were measured at.
    sections : sequence of str
        Of :data:`SECTIONS` and :data:`TRAINED_SECTIONS`.
    models : dict of str to list of str, optional
        Further models of the materials "al", "linio2" and "mgo", of "disks", or of "any" crystal: names or folders.
    predictors : sequence of str
        Of :data:`PREDICTORS`.
    device : str
        Of the network and the template matching in torch.
    threads : int
        Of the CPU.
    training_minutes : float
        For each network of the parts that train.

    Returns
    -------
    pathlib.Path
        ``results.md``.
    """
    every = (*SECTIONS, *TRAINED_SECTIONS)
    for name, values, known in (("section", sections, every), ("predictor", predictors, PREDICTORS)):
        unknown = set(values) - set(known)
        if unknown:
            raise ValueError(f"Unknown {name} {', '.join(sorted(unknown))}; known: {', '.join(known)}.")
    data, output = Path(data), Path(output)
    if not data.is_dir():
        raise FileNotFoundError(f"There is no folder {data}: give the benchmark data, as --data FOLDER.")
    use_threads(threads)
    output.mkdir(parents=True, exist_ok=True)
    results = Results(output / "results.json", context(device, threads))
    choose = partial(_predictors, models=_models(models or {}), kinds=predictors, device=device, results=results)
    for section in SECTIONS:
        if section in sections:
            _RUNS[section](data, choose, results)
    trainer = labelled.Trainer(training_minutes, device, (models or {}).get("any", ()))
    for section in TRAINED_SECTIONS:
        if section in sections:
            for predictor, numbers in _TRAINED_RUNS[section](trainer, data, output):
                results.add(section, section, predictor, numbers)
    return results.save()


class Results:
    """Rows of the table, kept in a JSON file.

    Parameters
    ----------
    path : pathlib.Path
        Of the JSON file; read if it is there.
    run : dict
        Of this run: date, machine, versions.
    """

    def __init__(self, path: Path, run: dict) -> None:
        self.path = path
        self.content = {"format": 1, "runs": {}, "models": {}, "rows": []}
        if path.exists():
            self.content = json.loads(path.read_text(encoding="utf-8"))
            if self.content.get("format") != 1:
                raise ValueError(f"{path} was written by another version of pyxem_dl: move it away.")
        self.run = run["date"]
        self.content["runs"][self.run] = run

    def add(self, section: str, data: str, predictor: str, numbers: dict) -> None:
        """Add a row, or replace the one of the same section, data and predictor; and save."""
        key = {"section": section, "data": data, "predictor": predictor}
        rows = [row for row in self.content["rows"] if any(row[k] != v for k, v in key.items())]
        self.content["rows"] = [*rows, key | {"run": self.run} | numbers]
        self.save()
        print(f"  {data} | {predictor}: {json.dumps(numbers)}", flush=True)

    def add_model(self, label: str, training: dict) -> None:
        """Add what is known of a model's training."""
        self.content["models"][label] = training

    def save(self) -> Path:
        """Write JSON and Markdown; returns the path of the latter."""
        used = {row["run"] for row in self.content["rows"]}
        content = self.content | {"runs": {k: v for k, v in self.content["runs"].items() if k in used}}
        text = json.dumps(content, indent=1, ensure_ascii=False)
        self.path.write_text(text + "\n", encoding="utf-8")
        markdown = self.path.with_suffix(".md")
        markdown.write_text(report.markdown(content), encoding="utf-8")
        return markdown


def _models(further: dict[str, list[str]]) -> dict[str, list[str]]:
    """Names or folders of the models of each material."""
    models = {}
    for material, name in MODELS.items():
        bundled = [name] if (PRETRAINED / name / "config.json").exists() else []
        if not bundled:
            print(f"The model {name} is not bundled here: it gets no row.")
        models[material] = [*bundled, *further.get(material, [])]
    return models


def _predictors(material: str, phase, *, models, kinds, device, results, **settings) -> dict:
    """Predictors for a material: functions from a signal to a crystal map, by their label in the table.

    `settings` are further arguments of the template matching.
    """
    found = {}
    if "network" in kinds:
        for model in models[material]:
            label = f"network {Path(model).name}"
            results.add_model(label, training_of(model))
            found[label] = partial(predict_orientation, model=model, device=device, show_progressbar=False)
        for model in models["any"]:
            label = f"network {Path(model).name}"
            results.add_model(label, training_of(model))
            found[label] = partial(
                predict_orientation, model=model, phases=phase, device=device, show_progressbar=False
            )
    templates = partial(match_templates, phases=phase, resolution=1.0, show_progressbar=False, **settings)
    if "torch" in kinds:
        found["templates, torch, 1°"] = partial(templates, engine="torch", device=device)
    if "pyxem" in kinds:
        found["templates, pyxem, 1°"] = partial(templates, engine="pyxem")
    return found


def _run_kinematical(data: Path, choose, results: Results) -> None:
    _measure_labelled("kinematical", datasets.kinematical(data), choose, results)


def _run_multislice(data: Path, choose, results: Results) -> None:
    for dose in datasets.DOSES:
        for name in ("Al", "LiNiO2"):
            _measure_labelled("multislice", datasets.multislice(data, name, dose), choose, results)


def _measure_labelled(section, labelled, choose, results) -> None:
    for label, predictor in choose(labelled.material, labelled.phase).items():
        results.add(section, labelled.name, label, measure.labelled(predictor, labelled))


def _run_mgo(data: Path, choose, results: Results) -> None:
    signal, phase = datasets.mgo_scan(data)
    peaks, distortion = measure.peaks_of(signal), datasets.mgo_distortion(signal, phase)
    judged = None  # all methods are compared where the network, which comes first, gives an orientation
    predictors = choose("mgo", phase, reciprocal_radius=measure.MGO_RADIUS)
    for label in [label for label in predictors if "phases" in getattr(predictors[label], "keywords", {})]:
        if label.startswith("network"):
            predictors[f"{label}, calibrated"] = partial(predictors[label], calibrate=True)
    for label, predictor in predictors.items():
        numbers, indexed = measure.mgo(predictor, signal, phase, peaks, judged, distortion)
        if judged is None and label.startswith("network"):
            judged = indexed
        if judged is None:
            whole = ("share", "chance", "share_indexed", "chance_indexed", "excess", "peaks")
            numbers["explained"] = {key: numbers["explained"][key] for key in whole}
        results.add("mgo", "MgO scan, 105 × 105", label, numbers)


def _run_speed(data: Path, choose, results: Results) -> None:
    for name in ("Al", "LiNiO2"):
        labelled = datasets.multislice(data, name, datasets.DOSES[0])
        predictors = choose(labelled.material, labelled.phase)
        if any("pyxem" in label for label in predictors):
            own = measure.PyxemsOwnCalls(labelled.phase, labelled.signal)
            predictors["pyxem's own calls, n_best=1, 1°"] = own
        for label, numbers in measure.speed(predictors, labelled):
            results.add("speed", f"{name}, 128 × 128 px, lazy", label, numbers)


def _run_cost(data: Path, choose, results: Results) -> None:
    for scan, label, numbers in cost.measure(data, choose.keywords["models"]):
        results.add("cost", scan, label, numbers)


def _run_engine(data: Path, choose, results: Results) -> None:
    for what, unit, numbers in engine.measure(data, choose.keywords["models"]):
        results.add("engine", what, unit, numbers)


def _finders(models, kinds, device, results, threshold: float | None = None) -> dict:
    """Ways to find disks: functions from a signal and a probe to vectors, by their label in the table.

    `threshold` is the network's smallest confidence, by default the model's.
    """
    found = {}
    if "network" in kinds:
        for model in models["disks"]:
            label = f"network {Path(model).name}"
            results.add_model(label, training_of(model))
            found[label] = partial(_detect, load_model(model), device, threshold)
    if "torch" in kinds:
        found["correlation, torch"] = lambda signal, probe: match_disks(
            signal, probe, device=device, show_progressbar=False
        )
    return found


def _detect(model, device: str, threshold: float | None, signal, probe):
    return predict_bragg_vectors(signal, model, probe, threshold=threshold, device=device, show_progressbar=False)


def _run_disks(data: Path, choose, results: Results) -> None:
    settings = choose.keywords
    finders = _finders(settings["models"], settings["kinds"], settings["device"], results)
    for name in ("Al", "LiNiO2"):
        for electrons in disks.ELECTRONS:
            labelled = disks.bragg_disks(data, name, electrons)
            for label, find in finders.items():
                results.add("disks", labelled.title, label, disk_measure.labelled_disks(find, labelled))
        for label, find in finders.items():
            title = f"multislice {name}, 1.5 mrad, 10⁴ scattered electrons"
            results.add("disks", title, label, disk_measure.small_disks(find, data, name))
    multilayer = sample_data.strained_multilayer()
    for label, find in finders.items():
        results.add("disks", "MgO scan", label, disk_measure.mgo_disks(find, data))
        results.add("disks", "strained multilayer, 10⁵ electrons", label, disk_measure.strain(find, multilayer))
    labelled = disks.bragg_disks(data, "Al", 1e5)
    if "py4dstem" in settings["kinds"]:
        finders["py4DSTEM's correlation"] = disk_measure.py4dstem_correlation
    for label, find in finders.items():
        try:
            numbers = disk_measure.disk_speed(find, labelled)
        except ImportError as error:
            print(f"No row of {label}: {error}")
            continue
        results.add("disks", "speed, 256 × 256 px, lazy", label, numbers)


def _run_strain(data: Path, choose, results: Results) -> None:
    settings = choose.keywords
    finders = _finders(settings["models"], settings["kinds"], settings["device"], results)
    for sample, label, numbers in strain.measure(finders):
        results.add("strain", sample, label, numbers)


def _run_vectors(data: Path, choose, results: Results) -> None:
    settings = choose.keywords
    finders = _finders(settings["models"], settings["kinds"], settings["device"], results, FAINT)
    for dose in datasets.DOSES:
        for name in ("Al", "LiNiO2"):
            labelled = datasets.multislice(data, name, dose)
            for label, find in finders.items():
                predict = partial(_match_vectors, find, labelled.phase, settings["device"])
                results.add("vectors", labelled.name, f"{label}, templates", measure.labelled(predict, labelled))


def _run_tilt(data: Path, choose, results: Results) -> None:
    settings = choose.keywords
    for label, find in _finders(settings["models"], settings["kinds"], settings["device"], results, FAINT).items():
        for title, method, numbers in tilt.measure(find, label, data, settings["device"]):
            results.add("tilt", title, method, numbers)


def _run_overlap(data: Path, choose, results: Results) -> None:
    settings = choose.keywords
    for title, label, numbers in overlap.measure(settings["models"]["any"], data, settings["device"]):
        results.add("overlap", title, label, numbers)


def _run_phases(data: Path, choose, results: Results) -> None:
    settings = choose.keywords
    for title, label, numbers in phases.measure(settings["models"]["any"], settings["device"]):
        results.add("phases", title, label, numbers)


def _run_unseen(data: Path, choose, results: Results) -> None:
    for title, label, numbers in unseen.measure(choose.keywords["models"]["any"], results.path.parent):
        results.add("unseen", title, label, numbers)


def _run_images(data: Path, choose, results: Results) -> None:
    device = choose.keywords["device"]
    measured = images.measure_lattices(device), images.measure(device), images.measure_structures("fe-cu-ti", device)
    for title, label, numbers in chain.from_iterable(measured):
        results.add("images", title, label, numbers)


def _run_phase_fields(data: Path, choose, results: Results) -> None:
    for name in ("solver", "network"):
        for title, label, numbers in phase_fields.measure(name, choose.keywords["device"]):
            results.add("phase_fields", title, label, numbers)


def _run_refined(data: Path, choose, results: Results) -> None:
    for title, label, numbers in refined.measure(data, choose.keywords["device"]):
        results.add("refined", title, label, numbers)


def _run_settled(data: Path, choose, results: Results) -> None:
    for title, label, numbers in settled.measure(choose.keywords["device"]):
        results.add("settled", title, label, numbers)


def _run_gpu(data: Path, choose, results: Results) -> None:
    settings = choose.keywords
    if not accelerator.has_one(settings["device"]):
        print("There is no GPU here: its rows stay as they are.")
        return
    for scan, label, numbers in accelerator.measure(settings["models"], settings["device"]):
        results.add("gpu", scan, label, numbers)


def _match_vectors(find, phase, device: str, signal):
    """Crystal map of the disks that are found in a signal."""
    return match_templates(find(signal, None), phase, device=device, show_progressbar=False)


def _run_dynamical(data: Path, choose, results: Results) -> None:
    try:
        for label, predictor, numbers in dynamical.measure():
            results.add("dynamical", label, predictor, numbers)
    except ImportError as error:
        print(f"Many-beam against multislice is left out. {error}")


def _run_bloch(data: Path, choose, results: Results) -> None:
    for label, predictor, numbers in bloch.measure_speed(choose.keywords["device"]):
        results.add("bloch", label, predictor, numbers)
    try:
        for label, predictor, numbers in bloch.measure():
            results.add("bloch", label, predictor, numbers)
    except ImportError as error:
        print(f"Bloch waves against abTEM's are left out. {error}")


_RUNS = {
    "kinematical": _run_kinematical,
    "multislice": _run_multislice,
    "mgo": _run_mgo,
    "speed": _run_speed,
    "cost": _run_cost,
    "engine": _run_engine,
    "disks": _run_disks,
    "strain": _run_strain,
    "vectors": _run_vectors,
    "tilt": _run_tilt,
    "overlap": _run_overlap,
    "dynamical": _run_dynamical,
    "bloch": _run_bloch,
    "phases": _run_phases,
    "unseen": _run_unseen,
    "images": _run_images,
    "phase_fields": _run_phase_fields,
    "refined": _run_refined,
    "settled": _run_settled,
    "gpu": _run_gpu,
}
_TRAINED_RUNS = {
    "labelled": lambda trainer, data, output: labelled.networks(trainer, output),
    "labelled_mgo": lambda trainer, data, output: labelled.mgo(trainer, data),
    "choices": lambda trainer, data, output: labelled.choices(trainer),
    "ensemble": lambda trainer, data, output: labelled.ensemble(trainer, output),
    "tuning": lambda trainer, data, output: labelled.tuning(trainer),
    "verifier": lambda trainer, data, output: verifier.measure(
        trainer.minutes, data, Path(trainer.folder.name), trainer.device, trainer.models
    ),
}
