"""Training of the any-crystal network on the crystals of one experiment, from where it stands."""

from __future__ import annotations

import shutil
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pyxem_dl.crystals import load_phases
from pyxem_dl.electrons import read_beam_energy
from pyxem_dl.messages import say
from pyxem_dl.models import ANY_CRYSTAL, OrientationModel, load_model
from pyxem_dl.training.any_crystal import (
    AnyCrystalConfiguration,
    AnyCrystalTraining,
    learnt_model,
    load_generalist,
    network_of,
)
from pyxem_dl.training.bragg import training_phases
from pyxem_dl.training.configuration import check_names
from pyxem_dl.training.crystal_batches import CrystalBatches, NamedPatterns, alike
from pyxem_dl.training.report import join_logs, provenance, specialist_card
from pyxem_dl.training.running import begin, device_and_precision, fit

if TYPE_CHECKING:
    from pyxem_dl.annotations import Phases

# What a short training from a trained network needs, other than the generalist's
_DEFAULTS = {"max_minutes": 5.0, "learning_rate": 1e-3, "validation_minutes": 2.5, "crystals_at_once": 12}
# Setups of the validation, of so many patterns each; of other crystals a quarter of that
_VALIDATION_SETUPS, _VALIDATION_PATTERNS = 8, 96


class SpecialistBatches(CrystalBatches):
    """Endless batches of patterns in which a few phases are looked for, and which some are not of.

    Parameters
    ----------
    network : AnyCrystalNetwork
        That learns.
    phases : list of orix.crystal_map.Phase
        It looks for.
    others : list of orix.crystal_map.Phase
        Of which patterns may be, too.
    configuration : AnyCrystalConfiguration
        Of the training.
    seed : int
        Of all that is drawn.
    device : torch.device
        Where patterns are made.
    """

    def __init__(self, network, phases: list, others: list, configuration, seed: int, device) -> None:
        self.own = phases
        super().__init__(network, others, configuration, seed, device)

    def _new(self, n: int) -> list[NamedPatterns]:
        if self._made % self.configuration.steps_each == 0:
            # at another beam energy and radius, where they are not given
            self._setup = self.fresh(self.own)
        while len(self._waiting) < self.configuration.crystals_at_once:
            self._waiting.append(self.fresh())
        self._made += 1
        return [self._setup.look_at(self._source(self._setup), self.configuration.setups_each) for _ in range(n)]

    def validation(self) -> list[NamedPatterns]:
        """Patterns to measure with: of the phases, and of others."""
        n, patterns = _VALIDATION_PATTERNS, []
        shuffled = self._draw.sample(self.phases, len(self.phases))
        others = list(islice((phase for phase in shuffled if not alike(self.own, [phase])), _VALIDATION_SETUPS))
        for i in range(_VALIDATION_SETUPS):
            setup = self.fresh(self.own)
            patterns.append(setup.look_at(setup.simulator, n=n))
            if i < len(others):
                patterns.append(setup.look_at(self.fresh([others[i]]).simulator, n=n // 4))
        return patterns


def train_specialist(
    phases: Phases,
    *,
    output: str | Path,
    start: str | Path | OrientationModel = ANY_CRYSTAL,
    beam_energy: float | None = None,
    reciprocal_radius: float | None = None,
    resume: bool = True,
    overwrite: bool = False,
    device: str = "auto",
    show_progressbar: bool | None = None,
    name: str | None = None,
    description: str = "",
    **settings,
) -> OrientationModel:
    """Train a model that takes any crystal on a few phases.

    Parameters
    ----------
    phases : orix.crystal_map.Phase, path of a CIF file, or a list of these
        Those that the model is to tell apart.
    output : path
        The model's folder.
    start : str, path or OrientationModel
        The model whose weights it begins with.
    beam_energy : float, optional
        In kV; by default the model learns all those of :class:`~pyxem_dl.training.any_crystal.AnyCrystalConfiguration`.
    reciprocal_radius : float, optional
        How far out it looks, in Å⁻¹; by default all radii of that class.
    resume, overwrite, device, show_progressbar, name, description
        As of :func:`pyxem_dl.train`.
    **settings
        Further fields of that class; ``max_minutes`` is 5 by default.

    Returns
    -------
    OrientationModel
        With these phases; it is used at the beam energy and radius of the scan.
    """
    settings = _DEFAULTS | settings
    if beam_energy is not None:
        settings["beam_energy"] = (read_beam_energy(beam_energy),) * 2
    if reciprocal_radius is not None:
        settings["reciprocal_radius"] = (reciprocal_radius,) * 2
    check_names(settings, AnyCrystalConfiguration)
    configuration, output = AnyCrystalConfiguration(**settings), Path(output)
    phases, start, name = load_phases(phases), load_generalist(start), name or output.name
    work = begin(
        output, phases, configuration, resume=resume, overwrite=overwrite, data=[start.fingerprint],
        titles=(name, description),
    )  # fmt: skip
    root, precision = device_and_precision(device)
    network = network_of(start, configuration).to(root)
    names = ", ".join(phase.name for phase in phases)
    say(f"Training {name}: {names}; {configuration.max_minutes:g} minutes on {root}, from {start.name}")
    others = list(training_phases(show_progressbar=False))
    batches, validation = (
        SpecialistBatches(network, phases, others, configuration, configuration.seed + later, root)
        for later in (0, 1_000_000)
    )
    module = AnyCrystalTraining(network, configuration, "train", batches, validation.validation())
    fit(module, work / "train", root, precision, show_progressbar)
    model, results = learnt_model(module, name=name, phases=phases, description=description or names)
    model.provenance = provenance([module], root, precision)
    model.save(
        output, dtype=torch.float16, card=specialist_card(model, configuration, results, start),
        training_log=join_logs(work, configuration.stages()),
    )  # fmt: skip
    shutil.rmtree(work, ignore_errors=True)
    return load_model(output)
