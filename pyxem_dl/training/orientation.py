"""Training of orientation models: from crystal structures alone, or on labelled scans."""

from __future__ import annotations

import json
import reprlib
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pyxem_dl.crystals import load_phases
from pyxem_dl.electrons import read_beam_energy
from pyxem_dl.messages import say
from pyxem_dl.models import ANY_CRYSTAL, OrientationModel, load_model
from pyxem_dl.models.folder import read_model
from pyxem_dl.networks import build_network
from pyxem_dl.preprocessing import PolarPreprocessing
from pyxem_dl.simulation import PatternSimulator
from pyxem_dl.symmetry import laue_group, setting
from pyxem_dl.training import learning
from pyxem_dl.training.configuration import TrainingConfiguration
from pyxem_dl.training.labelled import free_folder, train_labelled
from pyxem_dl.training.learning import (
    OrientationTraining,
    SimulatedBatches,
    add_verifier,
    fit_certainty,
    fit_score_threshold,
)
from pyxem_dl.training.report import join_logs, model_card, provenance
from pyxem_dl.training.running import (
    CHECKPOINT,
    begin,
    device_and_precision,
    fit,
    is_first,
    wait_for_all,
)
from pyxem_dl.training.specialist import train_specialist

if TYPE_CHECKING:
    from pyxem_dl.annotations import LabelledScans, Phases


def train(
    phases: Phases | None = None,
    *,
    labelled: LabelledScans | None = None,
    output: str | Path | None = None,
    network: str | dict | None = None,
    beam_energy: float | None = None,
    reciprocal_radius: float | None = None,
    max_minutes: float | None = None,
    recipe: str | Path | OrientationModel | None = None,
    resume: bool = True,
    overwrite: bool = False,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    show_progressbar: bool | None = None,
    name: str | None = None,
    description: str = "",
    **settings,
) -> OrientationModel:
    """Train an orientation model: from crystal structures alone, or on labelled scans.

    Parameters
    ----------
    phases : orix.crystal_map.Phase, path of a CIF file, or a list of these
        Phases that the model distinguishes; by default those of the recipe or of the labels.
    labelled : list of tuple, optional
        Pairs (scan, labels): signals or their files, and crystal maps, as of ``s.match_templates``, or their files
        (.h5, .ang, .ctf).  By default the model learns from simulated patterns.
    output : path, optional
        The model's folder; by default one in the working folder, named after network and phases.
    network : str or dict, optional
        From crystal structures alone the network of "any-crystal" goes on learning, with these crystals, or "polar"
        learns from the beginning: also to propose.  On labelled scans "polar" (default), "cnn", "densenet121",
        "swin_tiny", "swin_tiny_adapted" or any network of timm by name; with its arguments in `network_arguments`.  A
        dict is the arguments of the polar network.
    beam_energy : float, optional
        In kV; on labelled scans their own.  The polar network needs it; the other one by default learns 60 to 300 kV.
    reciprocal_radius : float, optional
        Radius that the model uses, in Å⁻¹: about as far as reflections are visible; on labelled scans by default as
        far as the detector reaches.  The polar network needs it; the other one by default learns 1 to 2 Å⁻¹.
    max_minutes : float, optional
        Time limit, by default 5, and 20 for the polar network.
    recipe : str, path or OrientationModel, optional
        A model whose training settings are used for whatever is not given here.
        ``train(recipe="al-200kv", output=...)`` trains the bundled model again.
    resume : bool
        Continue from the checkpoint of an interrupted training in the same folder.
    overwrite : bool
        Replace a model that is already in the folder.
    device : str
        "auto" (CUDA if available, otherwise CPU), "cpu" or "cuda".
    devices, nodes : int
        GPUs (or processes, on a CPU) of each computer, and computers that train together, by Lightning's DDP: from a
        script or the command line.  The batch is divided among them.
    show_progressbar : bool, optional
        By default HyperSpy's preference.
    name, description : str, optional
        Of the model; the name is by default the folder's.
    **settings
        ``start``, a model to go on from other than "any-crystal", and further fields of
        :class:`~pyxem_dl.training.any_crystal.AnyCrystalConfiguration`, of
        :class:`TrainingConfiguration` for the polar network, or of :class:`LabelledConfiguration`: ``pretrained``,
        ``min_score``, ``min_reliability``, ``split``, ``schedule``, ...

    Returns
    -------
    OrientationModel
        The trained model; the same as ``load_model(output)``.

    Raises
    ------
    ValueError, FileNotFoundError
        For phases, settings or a device that cannot be trained with, and for the checkpoint of
        another training in the folder.
    FileExistsError
        If the folder already holds a model.
    KeyboardInterrupt
        If the training is interrupted; the same call continues it.
    """
    running = {
        "resume": resume, "overwrite": overwrite, "device": device, "devices": devices, "nodes": nodes,
        "show_progressbar": show_progressbar, "name": name, "description": description,
    }  # fmt: skip
    if labelled is not None:
        return _train_on_labels(labelled, phases, output, network, recipe, beam_energy, settings | running, {
            "reciprocal_radius": reciprocal_radius, "max_minutes": max_minutes,
        })  # fmt: skip
    recipe = None if recipe is None else load_model(recipe)
    given = {
        "beam_energy": None if beam_energy is None else read_beam_energy(beam_energy),
        "reciprocal_radius": reciprocal_radius,
        "max_minutes": max_minutes,
    }
    settings |= {key: value for key, value in given.items() if value is not None}
    if isinstance(network, dict):
        settings["network"] = network
    elif network not in (None, ANY_CRYSTAL, "polar"):
        raise ValueError(
            f"From simulated patterns {ANY_CRYSTAL!r} and 'polar' learn; {network!r} needs `labelled` scans."
        )
    elif network != "polar" and (recipe is None or getattr(recipe, "takes_phases", False)):
        phases, settings = _of_specialist(recipe, phases, settings)
        output = free_folder(ANY_CRYSTAL, load_phases(phases)) if output is None else output
        return train_specialist(phases, output=output, **settings, **_of_one_process(running))
    phases, configuration = _from_recipe(recipe, phases, settings)
    phases = load_phases(phases)
    output = free_folder("polar", phases) if output is None else Path(output)
    name = name or output.name
    titles = (name, description)
    work = begin(output, phases, configuration, resume=resume, overwrite=overwrite, titles=titles)
    root, precision = device_and_precision(device, devices * nodes)
    network, batches, validation = _ingredients(phases, configuration, root)
    say(
        f"Training {name}: {', '.join(p.name for p in phases)}; {configuration.beam_energy:g} kV, "
        f"to {configuration.reciprocal_radius:g} Å⁻¹; {configuration.max_minutes:g} minutes on "
        f"{root}, precision {precision}"
    )
    modules = []
    for stage in configuration.stages():
        if stage == "verify":
            c = configuration
            add_verifier(network, batches.simulator.table, c.reciprocal_radius, c.beam_energy, c.displacement)
        module = OrientationTraining(network, configuration, stage, batches, validation)
        fit(module, work / stage, root, precision, show_progressbar, devices, nodes)
        modules.append(module)
    if is_first():
        _finish(modules, phases, output, provenance(modules, root, precision), name, description)
    wait_for_all()
    return load_model(output)


def _of_one_process(running: dict) -> dict:
    """Arguments of a training that is not divided among processes."""
    if running["devices"] * running["nodes"] > 1:
        raise ValueError("On several devices the polar network learns: give network='polar', or leave devices out.")
    return {name: value for name, value in running.items() if name not in ("devices", "nodes")}


def _train_on_labels(labelled, phases, output, network, recipe, beam_energy, settings: dict, given: dict):
    """Say what does not go together with labels, and train on them."""
    if recipe is not None or beam_energy is not None:
        raise ValueError(
            "With `labelled` scans give no recipe (see pyxem_dl.finetune) and no beam energy; it is that of the scans: "
            "`s.metadata.set_item(\"Acquisition_instrument.TEM.beam_energy\", 200)` (kV)."
        )
    if isinstance(network, dict):
        network, settings = "polar", settings | {"network_arguments": network}
    given = {key: value for key, value in given.items() if value is not None}
    return train_labelled(labelled, phases, output=output, network=network or "polar", **given, **settings)


def _of_specialist(recipe, phases, settings: dict):
    """Phases and settings, where they are not given those of another model that takes any crystal."""
    if recipe is not None:
        if not recipe.phases:
            raise ValueError(
                f"{recipe.name!r} takes any crystal: give phases, and start={recipe.name!r}, to go on from its weights."
                " It is no recipe."
            )
        phases, known = _recorded(recipe, phases)
        if "start" in known and "start" not in settings:  # a file names no other file, and no address
            raise ValueError(
                f"The recipe {recipe.name!r} names a model to start from, {reprlib.repr(known['start'])}: give start=."
            )
        settings = known | settings
    if phases is None:
        raise ValueError("Give the phases to train on (orix Phases or CIF files), or a recipe.")
    return phases, settings


def _recorded(model, phases):
    """Phases, if none are given the model's, and how it was trained."""
    if not model.training:
        raise ValueError(f"The model {model.name!r} does not record how it was trained, so it cannot be a recipe.")
    if "simulation" not in model.training:
        raise ValueError(
            f"{model.name!r} was trained on labelled scans: it cannot be the recipe for simulated patterns."
        )
    return phases or model.phases, model.training


def _from_recipe(recipe, phases, settings: dict):
    """Phases and configuration, where they are not given those of another model."""
    entries = {}
    if recipe is not None:
        if getattr(recipe, "takes_phases", False):
            raise ValueError(
                f"{recipe.name!r} takes any crystal: it is no recipe for the polar network. Leave network='polar' out."
            )
        phases, entries = _recorded(recipe, phases)
    if phases is None:
        raise ValueError("Give the phases to train on (orix Phases or CIF files), or a recipe.")
    missing = {"beam_energy", "reciprocal_radius"} - set(entries) - set(settings)
    if missing:
        raise ValueError(f"Give {' and '.join(sorted(missing))}, or a recipe.")
    try:
        return phases, TrainingConfiguration.from_dict(entries | settings)
    except (TypeError, ValueError) as error:
        if recipe is None:
            raise
        raise ValueError(f"The recipe {recipe.name!r} with these settings is not valid: {error}") from error


def _ingredients(phases, configuration: TrainingConfiguration, root: torch.device):
    """Network, endless batches, and a batch for validation."""
    preprocessing = PolarPreprocessing(configuration.reciprocal_radius)
    network = build_network(
        "polar", laue_groups=[laue_group(p).name for p in phases],
        settings=[setting(p).tolist() for p in phases],
        n_k=preprocessing.n_k, n_phi=preprocessing.n_phi, channels=preprocessing.channels,
        **configuration.network,
    )

    def batches(seed, size):
        simulator = PatternSimulator(
            phases, configuration.beam_energy, configuration.reciprocal_radius,
            configuration.simulation, seed=seed, device=root,
        )
        return SimulatedBatches(simulator, preprocessing, size)

    validation = batches(configuration.seed + 1_000_000, learning.VALIDATION_PATTERNS).make()
    return network.to(root), batches(configuration.seed, configuration.batch_size), validation


def _finish(modules, phases, output, facts: dict, name: str, description: str):
    """Write the model folder and its card; the checkpoints have done their work."""
    last = modules[-1]
    configuration, batches = last.configuration, last.batches
    low, high = batches.simulator.scale_range
    # Lightning has moved it to the CPU
    last.network.to(batches.simulator.device)
    # before the threshold of the score, which is that of the predictions that are given
    thresholds = {"crystal": 0.5, "score": fit_score_threshold(last.network, batches, configuration.seed)}
    model = OrientationModel(
        network_name="polar",
        network=last.network.float().cpu(),
        preprocessing=batches.preprocessing,
        phases=phases,
        domain={
            "beam_energy": configuration.beam_energy,
            "reciprocal_radius": configuration.reciprocal_radius,
            # polar bins average what is finer, and interpolate what is coarser
            "scale": [0.25 * low, 2.0 * high],
            "disk_radius": list(configuration.simulation.disk_radius),
        },
        thresholds=thresholds,
        name=name,
        description=description
        or f"{', '.join(p.name for p in phases)} at {configuration.beam_energy:g} kV",
        # as it comes back from config.json
        training=json.loads(json.dumps(asdict(configuration))),
        provenance=facts,
    )
    model.save(
        output, dtype=torch.float16, card=model_card(model, modules),
        training_log=join_logs(output / CHECKPOINT, configuration.stages()),
        reference=last._validation[0][:4],
    )
    shutil.rmtree(output / CHECKPOINT, ignore_errors=True)
    return model


def refit_certainty(folder) -> OrientationModel:
    """Find anew which proposals of a model may be taken for certain, and write it into its folder; the weights stay.

    Parameters
    ----------
    folder : str or pathlib.Path
        Of a polar model that was trained on simulated patterns: its ``config.json`` is the recipe of those by which it
        is judged.  ``config.json`` and ``reference.safetensors`` are replaced.

    Returns
    -------
    OrientationModel
        The model as it is now.

    See Also
    --------
    pyxem_dl.training.learning.fit_certainty : what is fitted.
    """
    folder = Path(folder)
    model = read_model(folder)
    if not model.training.get("simulation") or getattr(model.network, "comparison", None) is None:
        raise ValueError(f"{folder} is no model that verifies its proposals and was trained on simulated patterns.")
    configuration = TrainingConfiguration.from_dict(model.training)
    simulator = PatternSimulator(
        model.phases, configuration.beam_energy, configuration.reciprocal_radius, configuration.simulation,
        seed=configuration.seed + 1_000_000,
    )
    batches = SimulatedBatches(simulator, model.preprocessing, learning.VALIDATION_PATTERNS)
    fit_certainty(model.network, *batches.make())
    model.save_settings(folder)
    return model
