"""What labelled scans teach a network that takes any crystal."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from pyxem_dl.crystals.reflections import check_seen
from pyxem_dl.models import OrientationModel, with_phases
from pyxem_dl.preprocessing import PolarPreprocessing
from pyxem_dl.training.any_crystal import (
    AnyCrystalConfiguration,
    AnyCrystalTraining,
    fit_scores,
    fit_temperature,
    validate,
)
from pyxem_dl.training.bragg import training_phases
from pyxem_dl.training.configuration import LabelledConfiguration
from pyxem_dl.training.crystal_batches import NamedPatterns
from pyxem_dl.training.scans import (
    LabelledBatches,
    LabelledScan,
    MixedBatches,
    results_by_region,
    validation_batches,
)
from pyxem_dl.training.specialist import SpecialistBatches

# Patterns that are validated with at once
_AT_ONCE = 96


@dataclass(frozen=True)
class CountedPatterns:
    """What a network that counts electrons takes, in one tensor: made, turned and mirrored as what the others take.

    Parameters
    ----------
    grid : PolarPreprocessing
        The polar grid.
    """

    grid: PolarPreprocessing
    counts_electrons = True

    @property
    def turn_step(self) -> float:
        """Patterns are turned by multiples of this angle, in radians."""
        return self.grid.turn_step

    def __call__(self, patterns: torch.Tensor, calibration, signal_mask=None, **augmentation) -> torch.Tensor:
        """Stack what :meth:`PolarPreprocessing.counted` makes of patterns in electrons: (n, 4, n_k, n_phi)."""
        polar, valid, intensity, pixels = self.grid.counted(
            patterns, calibration, signal_mask=signal_mask, **augmentation
        )
        return torch.stack([polar, valid.expand_as(polar), intensity, pixels[:, None].expand_as(polar)], dim=1)

    @staticmethod
    def apart(inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Take the parts out of the tensor, as the network wants them."""
        polar, valid, intensity, pixels = inputs.unbind(1)
        return polar, valid, intensity, pixels[..., 0]


def _named(network, inputs, rotations, phase_id) -> NamedPatterns:
    return NamedPatterns(network, CountedPatterns.apart(inputs), rotations, phase_id)


class NamedLabels(LabelledBatches):
    """Endless batches of labelled patterns in which the crystals of the labels are looked for.

    Parameters
    ----------
    network : AnyCrystalNetwork
        That learns, and is told the crystals.
    scans : list of LabelledScan
        Whose training patterns are kept in memory.
    grid : PolarPreprocessing
        The model's.
    configuration : LabelledConfiguration
        Batch size, seed, and what is turned and mirrored.
    device : torch.device
        Where batches are made.
    """

    def __init__(self, network, scans, grid: PolarPreprocessing, configuration: LabelledConfiguration, device) -> None:
        super().__init__(scans, CountedPatterns(grid), configuration, device)
        self.network = network

    def make(self) -> list[NamedPatterns]:
        """Make one batch, of one lot of patterns."""
        return [_named(self.network, *super().make())]


class LabelledCrystalTraining(AnyCrystalTraining):
    """The training of such a network with validations of regions, and of single positions.

    Parameters
    ----------
    *arguments
        Those of :class:`AnyCrystalTraining`; ``validation`` is a dict of lists of patterns, "region" the first.
    """

    def validation_results(self) -> dict[str, float]:
        """Agreement with labels that are not trained on."""
        results = results_by_region(self.validation, lambda patterns: validate(self.network, patterns))
        results["validation_loss"] = self._validation_loss(self.validation["region"])
        self.log("right_5deg", results["within_5_modulo_180"], prog_bar=True)
        return results

    def validation_objective(self, results):
        """Loss on the held-out region, which sees more than the labels that are met."""
        return results["validation_loss"]

    def _validation_loss(self, patterns: list[NamedPatterns]) -> float:
        training = self.network.training
        self.network.eval()
        with torch.inference_mode():
            losses = [float(each.network.loss(*each[1:])[0]) * len(each.phase_id) for each in patterns]
        self.network.train(training)
        return sum(losses) / sum(len(each.phase_id) for each in patterns)


def looking_for(model: OrientationModel, phases: list, scans: list[LabelledScan]) -> OrientationModel:
    """Let a model look for the phases of labels in their scans, as far out as all of them reach.

    Parameters
    ----------
    model : OrientationModel
        That takes phases.
    phases : list of orix.crystal_map.Phase
        With atoms and space group.
    scans : list of LabelledScan
        Of one beam energy.

    Raises
    ------
    ValueError
        For phases without atoms, or without reflections on the detector, and scans without a beam energy.
    """
    bare = [phase.name for phase in phases if not len(phase.structure) or phase.space_group is None]
    if bare:
        raise ValueError(
            f"{model.name!r} looks for crystals by their atoms, and {', '.join(bare)} of the labels has none, or no "
            "space group. Give the structure beside the labels: finetune(..., phases='my.cif')."
        )
    narrowest = min((scan.calibration for scan in scans), key=lambda calibration: calibration.reciprocal_radius)
    model = with_phases(model, phases, narrowest)
    check_seen(model.phases, model.preprocessing.reciprocal_radius)
    return model


def at_hand(recipe: AnyCrystalConfiguration, model: OrientationModel) -> AnyCrystalConfiguration:
    """Narrow a recipe to the beam energy and the radius at which a model looks."""
    energy, radius = model.domain["beam_energy"], model.preprocessing.reciprocal_radius
    return replace(recipe, beam_energy=(energy, energy), reciprocal_radius=(radius, radius))


def simulated_crystals(
    model: OrientationModel, c: LabelledConfiguration, recipe: AnyCrystalConfiguration, device
) -> SpecialistBatches:
    """Batches of simulated patterns of a model's phases, and of others, seen as the model sees the scans."""
    others = list(training_phases(show_progressbar=False))
    return SpecialistBatches(model.network, model.phases, others, recipe, c.seed, device, grid=model.preprocessing)


def crystal_validation(model: OrientationModel, scans, c: LabelledConfiguration, device) -> dict[str, list]:
    """Patterns of what is held out, in lots: "region" and, where it says something else, "random"."""
    made = validation_batches(scans, CountedPatterns(model.preprocessing), c, device)
    return {
        name: [_named(model.network, *part) for part in zip(*(x.split(_AT_ONCE) for x in batch), strict=True)]
        for name, batch in made.items()
    }


def fitted_thresholds(model: OrientationModel, batches, validation: dict, seed: int) -> dict[str, float]:
    """Make scores probabilities, on simulated patterns where the model learns such; return the thresholds.

    Without them the temperature is that of the held-out labels, and no threshold of the score is known.  That of a
    crystal never rises: the labels say which crystals are there, and in patterns as those of the scan, of few spots or
    few electrons, others may be so much like them that hardly anything would be left.
    """
    if isinstance(batches, MixedBatches):
        batches.simulated.reseed(seed + 1_000_000)
        found = fit_scores(model.network, batches.simulated.validation())
        return found | {"crystal": min(found["crystal"], model.thresholds.get("crystal", 1.0))}
    fit_temperature(model.network, validation["region"])
    return {name: value for name, value in model.thresholds.items() if name != "score"}


def for_any_scan(model: OrientationModel, first: OrientationModel) -> OrientationModel:
    """Let an adapted model look as far as each scan reaches, as the `first` one does; its scale factor stays."""
    preprocessing = replace(first.preprocessing, scale_factor=model.preprocessing.scale_factor)
    domain = first.domain | {"disk_radius": model.domain.get("disk_radius")}
    return replace(model, preprocessing=preprocessing, domain=domain)
