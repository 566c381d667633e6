"""Training on measured scans that are labelled, and fine-tuning of models to them."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pyxem_dl import symmetry
from pyxem_dl.crystals import ReflectionTable, load_phases, reflections
from pyxem_dl.messages import say
from pyxem_dl.models import OrientationModel, load_model
from pyxem_dl.networks import SampledOrientations, build_network, default_size
from pyxem_dl.preprocessing import CartesianPreprocessing, PolarPreprocessing
from pyxem_dl.simulation import PatternSimulator
from pyxem_dl.training.any_crystal import AnyCrystalConfiguration
from pyxem_dl.training.configuration import LabelledConfiguration, TrainingConfiguration
from pyxem_dl.training.labelled_crystals import (
    LabelledCrystalTraining,
    NamedLabels,
    at_hand,
    crystal_validation,
    fitted_thresholds,
    for_any_scan,
    looking_for,
    simulated_crystals,
)
from pyxem_dl.training.learning import (
    OrientationTraining,
    SimulatedBatches,
    add_verifier,
    fit_score_threshold,
    validate,
)
from pyxem_dl.training.microscope import Microscope
from pyxem_dl.training.report import join_logs, labelled_card, provenance
from pyxem_dl.training.running import begin, device_and_precision, fit, is_first, wait_for_all
from pyxem_dl.training.scans import (
    LabelledBatches,
    LabelledScan,
    MixedBatches,
    read_scans,
    results_by_region,
    validation_batches,
)

if TYPE_CHECKING:
    from pyxem_dl.annotations import LabelledScans, Phases

# Predictions that are drawn to see how far they spread
_SAMPLES = 12
# Networks that take patterns on a polar grid, to which all directions are alike
_POLAR = ("polar", "any_crystal")


class LabelledTraining(OrientationTraining):
    """The training of an orientation network with two validations: of regions, and of single positions.

    Parameters
    ----------
    *arguments
        Those of :class:`OrientationTraining`; ``validation`` is a dict of batches, "region" the first.
    """

    def validation_results(self) -> dict[str, float]:
        """Agreement with labels that are not trained on."""
        batches = {name: tuple(x.to(self.device) for x in batch) for name, batch in self._validation.items()}
        results = results_by_region(batches, lambda batch: validate(self.network, *batch))
        if self.stage != "verify":  # the loss of what is proposed stays as it is while verification is learnt
            results["validation_loss"] = self._validation_loss(*batches["region"])
        self.log("right_5deg", results["within_5_modulo_180"], prog_bar=True)
        return results

    def validation_objective(self, results):
        """Loss on the held-out region, which sees more than the labels that are met; while verifying, their share."""
        return results.get("validation_loss", super().validation_objective(results))

    def _validation_loss(self, inputs, rotations, phase_id) -> float:
        training = self.network.training
        self.network.eval()
        with torch.inference_mode():
            losses = [
                float(self.network.loss(*part)[0]) * len(part[0])
                for part in zip(inputs.split(64), rotations.split(64), phase_id.split(64), strict=True)
            ]
        self.network.train(training)
        return sum(losses) / len(inputs)


def train_labelled(
    labelled,
    phases=None,
    *,
    output=None,
    network: str = "polar",
    pretrained=False,
    resume: bool = True,
    overwrite: bool = False,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    show_progressbar: bool | None = None,
    name: str | None = None,
    description: str = "",
    begin_with: OrientationModel | None = None,
    network_arguments: dict | None = None,
    **settings,
) -> OrientationModel:
    """Train an orientation model on labelled scans; see :func:`pyxem_dl.train`, which calls this.

    Parameters
    ----------
    labelled : list of tuple
        Scans (signals or files) with their labels (crystal maps or files).
    begin_with : OrientationModel, optional
        Whose network is trained on.
    network_arguments : dict, optional
        Of the network.
    **further
        Those of :func:`pyxem_dl.train`, and fields of
        :class:`~pyxem_dl.training.configuration.LabelledConfiguration`.
    """
    known = set(LabelledConfiguration.__dataclass_fields__) - {"network", "network_name"}
    unknown = set(settings) - known
    if unknown:
        raise ValueError(f"Unknown settings {', '.join(sorted(unknown))}. Known settings: {', '.join(sorted(known))}.")
    pretrained = str(pretrained) if isinstance(pretrained, Path) else pretrained
    configuration = LabelledConfiguration(
        network_name=network, pretrained=pretrained, network=dict(network_arguments or {}), **settings
    )
    root, precision = device_and_precision(device, devices * nodes)
    takes_phases = begin_with is not None and begin_with.takes_phases
    if takes_phases and devices * nodes > 1:
        raise ValueError(f"{begin_with.name!r} learns on one device: leave devices and nodes out.")
    if begin_with is None and network != "polar":
        default_size(network)  # its error for a name that nobody knows, before scans are read
    phases = None if phases is None else load_phases(phases)
    scans = read_scans(labelled, configuration, phases or ())
    phases = _common_phases(scans, phases)
    first = begin_with
    if takes_phases:
        begin_with = looking_for(first, phases, scans)
        phases = begin_with.phases
    configuration = _completed(configuration, scans, phases, begin_with)
    output = Path(output) if output is not None else free_folder(network, phases)
    name = name or output.name
    data = [scan.fingerprint for scan in scans] + ([first.fingerprint] if first else [])
    work = begin(
        output, phases, configuration, resume=resume, overwrite=overwrite, data=data, titles=(name, description)
    )
    if begin_with is None:
        model, recipe = _new_model(configuration, phases, scans, name), None
    else:
        model, recipe = _adapted(begin_with, scans, phases)
    model.check()  # that it can be kept, before it learns for hours
    model.network.to(root)
    batches, validation = _ingredients(model, scans, configuration, recipe, root)
    _announce(name, network, scans, phases, configuration, batches, root, precision)
    modules = []
    for stage in configuration.stages():
        if stage == "verify" and model.network.comparison is None:
            _add_verifier(model.network, phases, configuration, scans, recipe)
        kind = LabelledCrystalTraining if takes_phases else LabelledTraining
        module = kind(model.network, configuration, stage, batches, validation)
        fit(module, work / stage, root, precision, show_progressbar, devices, nodes)
        modules.append(module)
    if is_first():
        origin = f"{begin_with.name} adapted to labelled scans" if begin_with else "from labelled scans"
        description = description or f"{', '.join(p.name for p in phases)}, {origin}"
        model = _fitted(model, modules[-1], validation, root)
        model = for_any_scan(model, first) if takes_phases else model
        _save(model, modules, scans, validation, output, name, description, root, precision)
    wait_for_all()
    return load_model(output)


def finetune(
    model: str | Path | OrientationModel,
    labelled: LabelledScans,
    *,
    phases: Phases | None = None,
    output: str | Path | None = None,
    simulated_share: float | None = None,
    learning_rate: float = 3e-4,
    max_minutes: float = 10.0,
    verification_share: float | None = None,
    name: str | None = None,
    **settings,
) -> OrientationModel:
    """Adapt a trained model to one's own microscope, with labelled scans.

    Parameters
    ----------
    model : str, path or OrientationModel
        A model for the phases of the labels: a bundled one, a folder, or an address, as in
        :func:`pyxem_dl.load_model`; or "any-crystal", which is told them.
    labelled : list of tuple
        Scans (signals or files) with their labels (crystal maps or files), as for :func:`pyxem_dl.train`.
    phases : orix.crystal_map.Phase, path of a CIF file, or a list of these, optional
        For "any-crystal", where the labels do not have the atoms (.ang and .ctf files), with the same names.
    output : path, optional
        Folder of the new model; by default one in the working folder, named after the model.
    simulated_share : float, optional
        Of the batches that are simulated as in the model's own training, so that it does not forget what the scan does
        not show; with the detector, scale, disks, dose and background of the scans, and faults at least as by default.
        By default 0.85 for a model that was trained on simulated patterns (or adapted with such), and 0 for others.
        With 0 the model's threshold of scores, which is fitted to simulated patterns, is dropped.
    learning_rate : float
        Its peak.
    max_minutes : float
        Time limit.
    verification_share : float, optional
        Of the time, for the verification; by default a quarter for a model that verifies.
    name : str, optional
        Of the new model.
    **settings
        Further ones of :func:`pyxem_dl.train` for labelled scans.

    Returns
    -------
    OrientationModel
        The adapted model; the given one stays as it is.  Its ``preprocessing.scale_factor`` is what the labels show of
        the scan's scale, beside that with which the model was trained.  Of "any-crystal" it has the phases of the
        labels, and is used at the beam energy and radius of each scan.

    Raises
    ------
    ValueError, TypeError
        For a model, phases or labels that do not go together; the message says what to do.
    """
    first = load_model(model)
    if not isinstance(first, OrientationModel):
        raise TypeError(f"{first!r} cannot be fine-tuned: give an orientation model.")
    if phases is not None and first.phases:
        raise ValueError(f"{first.name!r} has its phases: leave `phases` out, or take the model 'any-crystal'.")
    if simulated_share is None:
        simulated_share = 0.85 if _simulation_recipe(first) else 0.0
    fixed = {"network", "network_name", "network_arguments", "pretrained", "size", "reciprocal_radius"} & set(settings)
    if fixed:
        names = ", ".join(sorted(fixed))
        raise ValueError(
            f"{names} cannot be changed: finetune keeps the network of {first.name!r}. Use train for another network."
        )
    verifies = getattr(first.network, "comparison", None) is not None
    if verification_share is None:
        verification_share = 0.25 if verifies else 0.0
    new = copy.copy(first)
    new.network = copy.deepcopy(first.network)
    network = first.network_name if first.network_name in _POLAR else first.network.arguments["backbone"]
    return train_labelled(
        labelled, first.phases or phases, network=network, begin_with=new, name=name,
        output=output or free_folder(f"{first.name}-tuned", ()), simulated_share=simulated_share,
        learning_rate=learning_rate, max_minutes=max_minutes, verification_share=verification_share, **settings,
    )  # fmt: skip


def _common_phases(scans: list[LabelledScan], phases) -> list:
    """Phases of the model: those that are given, or those of the labels."""
    if phases is None:
        phases = []
        for scan in scans:
            phases += [p for p in scan.labels.phases if p.name not in [known.name for known in phases]]
    for scan in scans:
        scan.number_phases(phases)
    return phases


def _completed(c: LabelledConfiguration, scans, phases, begin_with) -> LabelledConfiguration:
    """Fill in the settings that the scans decide."""
    ours = c.network_name in _POLAR
    without_inversion = [phase.name for phase in phases if not _has_inversion(phase)]
    if c.mirror and without_inversion:
        raise ValueError(
            f"mirror=True, but {', '.join(without_inversion)} has no inversion: a mirrored pattern is not one of this "
            "crystal. Use mirror=False; or, to neglect that, give phases whose point group is a Laue group."
        )
    entries = {
        "turn": (180.0 if ours else 10.0) if c.turn is None else float(c.turn),
        "mirror": ours and not without_inversion if c.mirror is None else c.mirror,
        "learning_rate": _learning_rate(c.network_name) if c.learning_rate is None else c.learning_rate,
    }
    if begin_with is not None:
        entries["reciprocal_radius"] = begin_with.preprocessing.reciprocal_radius
    elif c.reciprocal_radius is None:
        entries["reciprocal_radius"] = round(min(scan.calibration.reciprocal_radius for scan in scans), 4)
    if not ours and c.size is None:
        size = begin_with.preprocessing.size if begin_with is not None else default_size(c.network_name)
        entries["size"] = size
    return LabelledConfiguration(**(asdict(c) | entries))


def _learning_rate(network: str) -> float:
    """Peak with which a network learns from a few thousand labels; above it all may be predicted alike."""
    return 1e-3 if network in _POLAR else 1e-4 if "swin" in network else 2e-4


def free_folder(name: str, phases) -> Path:
    """Name a folder without a finished model in the working folder; an interrupted training goes on in its own."""
    name = "-".join([name, *(phase.name for phase in phases)]).replace("/", "_")
    candidates = (Path(name if i == 1 else f"{name}-{i}") for i in range(1, 1000))
    return next(folder for folder in candidates if not (folder / "config.json").exists())


def _new_model(c: LabelledConfiguration, phases, scans, name: str) -> OrientationModel:
    groups = {
        "laue_groups": [symmetry.laue_group(p).name for p in phases],
        "settings": [symmetry.setting(p).tolist() for p in phases],
    }  # fmt: skip
    if c.network_name == "polar":
        preprocessing = PolarPreprocessing(c.reciprocal_radius)
        if c.pretrained:
            raise ValueError("timm has no weights for the polar network: use finetune, or pretrained=False.")
        network = build_network(
            "polar", **groups, n_k=preprocessing.n_k, n_phi=preprocessing.n_phi, channels=preprocessing.channels,
            **c.network,
        )  # fmt: skip
    else:
        preprocessing = CartesianPreprocessing(c.reciprocal_radius, size=c.size)
        network = build_network("regression", **groups, backbone=c.network_name, size=c.size, **c.network)
        if c.pretrained:
            network.load_pretrained(c.pretrained)
    scales = [s for scan in scans for s in scan.calibration.scale]
    return OrientationModel(
        network_name="polar" if c.network_name == "polar" else "regression",
        network=network, preprocessing=preprocessing, phases=phases,
        domain={
            "beam_energy": scans[0].calibration.beam_energy, "reciprocal_radius": c.reciprocal_radius,
            "scale": [0.5 * min(scales), 2.0 * max(scales)],
        },
        thresholds={"crystal": 0.5}, name=name,
    )  # fmt: skip


def _adapted(model: OrientationModel, scans, phases):
    """Let a model's domain hold the scans that it is adapted to, and let it see spots where it learnt them.

    Beside it, where it was trained on simulated patterns: how it was, with patterns as those of the scans.
    """
    for scan in scans:
        model.check_domain(scan.calibration)
    recipe = _simulation_recipe(model)
    if model.takes_phases:  # of any scale
        recipe = recipe and at_hand(recipe, model)
    else:
        scales = [s for scan in scans for s in scan.calibration.scale]
        low, high = model.domain.get("scale") or (scales[0], scales[0])
        model.domain = model.domain | {"scale": [min(low, 0.5 * min(scales)), max(high, 2.0 * max(scales))]}
    radius = model.preprocessing.reciprocal_radius
    microscope = recipe and Microscope.of(scans, phases, radius)
    if microscope:
        factor = microscope.scale_factor(recipe.simulation)
        model.preprocessing = replace(model.preprocessing, scale_factor=factor)
        simulation = microscope.simulation(recipe.simulation, radius)
        model.domain = model.domain | {"disk_radius": list(simulation.disk_radius)}
        recipe = replace(recipe, simulation=simulation)
    return model, recipe


def _ingredients(model: OrientationModel, scans, c: LabelledConfiguration, recipe, device) -> tuple:
    """Batches to train on, and what is held out."""
    if c.simulated_share and recipe is None:
        raise ValueError(f"{model.name!r} was not trained on simulated patterns: use simulated_share=0.")
    if model.takes_phases:
        batches = NamedLabels(model.network, scans, model.preprocessing, c, device)
        validation, simulate = crystal_validation(model, scans, c, device), simulated_crystals
    else:
        batches = LabelledBatches(scans, model.preprocessing, c, device)
        validation, simulate = validation_batches(scans, model.preprocessing, c, device), _simulated
    if c.simulated_share:
        batches = MixedBatches(batches, simulate(model, c, recipe, device), c.simulated_share)
    return batches, validation


def _has_inversion(phase) -> bool:
    """Whether a mirrored pattern is one of the same crystal, also beyond kinematical diffraction."""
    group = phase.point_group
    return group is not None and group.laue.size == group.size


def _simulation_recipe(model: OrientationModel) -> TrainingConfiguration | AnyCrystalConfiguration | None:
    """How a model was trained on simulated patterns, if it was; of an adapted one the first that it was made of."""
    recorded = _simulation_record(model)
    return _kind(model).from_dict(recorded) if recorded else None


def _simulation_record(model: OrientationModel) -> dict | None:
    """Read what a model says of its first training, as it was written then."""
    training = model.training if model.training.get("simulation") else model.training.get("first_training")
    return {k: v for k, v in training.items() if k in _kind(model).__dataclass_fields__} if training else None


def _kind(model: OrientationModel):
    return AnyCrystalConfiguration if model.takes_phases else TrainingConfiguration


def _simulated(model: OrientationModel, c: LabelledConfiguration, recipe: TrainingConfiguration, device):
    """Batches of patterns that are simulated by a recipe."""
    settings = recipe.simulation
    simulator = PatternSimulator(
        model.phases, recipe.beam_energy, recipe.reciprocal_radius, settings, seed=c.seed, device=device
    )
    return SimulatedBatches(simulator, model.preprocessing, max(c.batch_size, settings.setup_size))


def _add_verifier(network, phases, c: LabelledConfiguration, scans, recipe: TrainingConfiguration | None) -> None:
    """Give the polar network what it needs to verify its proposals: the phases' reflections.

    Measured scans are distorted as the simulated ones of the recipe are, or as those of a training by default.
    """
    energy = scans[0].calibration.beam_energy
    if not energy or any(not len(phase.structure) or phase.space_group is None for phase in phases):
        raise ValueError(
            "The verifier of the polar network needs the beam energy, and phases with atoms and space group: give "
            "`phases` (CIF files), or verification_share=0."
        )
    device = network.nodes.device
    table = ReflectionTable.stack([reflections(p, c.reciprocal_radius) for p in phases], energy, device)
    like = recipe or TrainingConfiguration(beam_energy=energy, reciprocal_radius=c.reciprocal_radius)
    add_verifier(network, table, c.reciprocal_radius, energy, like.displacement)


def _announce(name, network, scans, phases, c, batches, root, precision) -> None:
    chosen, all_labels = sum(s.n_chosen for s in scans), sum(s.n_labels for s in scans)
    held_out = sum(len(s.region) for s in scans)
    say(
        f"Training {name}: {network} for {', '.join(p.name for p in phases)} on {len(scans)} labelled scan"
        f"{'s' if len(scans) > 1 else ''}; {chosen} of {all_labels} labels are kept: {batches.n_patterns} to train on, "
        f"{held_out} held out by {c.split}; {c.max_minutes:g} minutes on {root}, precision {precision}"
    )


def _fitted(model: OrientationModel, last, validation: dict, root) -> OrientationModel:
    """Fit what tells how sure the predictions are."""
    c, network = last.configuration, last.network.float().to(root).eval()
    model.network = network
    if model.takes_phases:
        model.thresholds = fitted_thresholds(model, last.batches, validation, c.seed)
        return model
    if hasattr(network, "calibrate"):
        network.calibrate(*validation["region"])
    model.uncertainty_fit = _fit_uncertainty(model, *validation["region"])
    if isinstance(last.batches, MixedBatches):
        score = fit_score_threshold(network, last.batches.simulated, c.seed)
        model.thresholds = model.thresholds | {"score": score}
    else:  # another network's threshold says nothing of this one's scores
        model.thresholds = {name: value for name, value in model.thresholds.items() if name != "score"}
    return model


def _save(model, modules, scans, validation, output, name, description, root, precision) -> None:
    """Write the folder."""
    c = modules[-1].configuration
    model.name, model.description = name, description
    first = _simulation_record(model)  # so that it can be simulated for when the model is adapted again
    training = asdict(c) | ({"first_training": first} if first else {})
    model.training = json.loads(json.dumps(training))
    model.network = model.network.cpu()
    model.provenance = provenance(modules, root, precision)
    reference = None if model.takes_phases else validation["region"][0][:4]
    model.save(
        output, dtype=torch.float16, card=labelled_card(model, modules, scans), reference=reference,
        training_log=join_logs(output / "checkpoint", c.stages()),
    )  # fmt: skip
    shutil.rmtree(output / "checkpoint", ignore_errors=True)


def _fit_uncertainty(model: OrientationModel, inputs, rotations, phase_id) -> tuple[float, float]:
    """Factor and floor with which the uncertainty of predictions drawn with dropout is as large as the errors."""
    there = phase_id >= 0
    if not model.has_dropout or not there.any():
        return 1.0, 0.0
    with torch.inference_mode():
        parts = [
            SampledOrientations.of(model.network.samples(x, _SAMPLES), model.network.operations)
            for x in inputs[there].split(64)
        ]
    found, phase, uncertainty = (torch.cat([getattr(p, field) for p in parts]) for field in (
        "rotations", "phase_id", "uncertainty"
    ))  # fmt: skip
    error = torch.rad2deg(symmetry.disorientation_angle(
        found[:, 0], rotations[there], model.network.operations[phase_id[there]], modulo_180=True
    ))  # fmt: skip
    # between two phases there is no disorientation
    same = phase[:, 0] == phase_id[there]
    return fit_uncertainty(torch.rad2deg(uncertainty[same]), error[same]) if same.any() else (1.0, 0.0)


def fit_uncertainty(uncertainty: torch.Tensor, error: torch.Tensor) -> tuple[float, float]:
    """Fit ``expected error² = (factor · uncertainty)² + floor²`` to pairs of how far predictions lie apart, and errors.

    Parameters
    ----------
    uncertainty, error : tensor, shape (n,)
        In degrees.

    Returns
    -------
    factor, floor : float
        With the largest likelihood of the errors as lengths of vectors with three normally distributed components,
        each of a third of the expected square.
    """
    error = error.clamp_min(0.05)

    def loss(factor, floor):
        square = (factor * uncertainty).square() + floor**2
        return float((1.5 * (error.square() / square + square.log())).mean())

    factors = torch.logspace(-1, 2, 61).tolist()
    floors = torch.logspace(-1, 1.5, 51).tolist()
    best = min((loss(a, b), a, b) for a in factors for b in floors)
    return round(best[1], 3), round(best[2], 3)
