"""The orientation model: from patterns to orientations with probabilities."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch

from pyxem_dl.crystals import load_phases, phase_from_dict, phase_to_dict
from pyxem_dl.devices import computing, in_micro_batches, padded
from pyxem_dl.frames import Calibration
from pyxem_dl.messages import warn
from pyxem_dl.models.folder import Model
from pyxem_dl.moved import renamed_attribute
from pyxem_dl.networks import OrientationCandidates, OverlappingCrystals, SampledOrientations
from pyxem_dl.networks.overlap import OverlapSearch
from pyxem_dl.preprocessing import PREPROCESSINGS, CartesianPreprocessing, PolarPreprocessing
from pyxem_dl.preprocessing.usable import usable_patterns
from pyxem_dl.rotations import misorientation_angle
from pyxem_dl.symmetry import laue_group

# Patterns that go through the network at once
_MICRO_BATCH = {"cpu": 128, "other": 256}
# Of these each is looked at up to a dozen times where crystals may lie above each other
_MICRO_BATCH_OF_OVERLAPS = {"cpu": 32, "other": 128}
# check_domain: other beam energies by this share, and detectors that cover less than this share
_ENERGY_TOLERANCE = 0.05
_RADIUS_COVERED = 0.8


@dataclass
class OrientationModel(Model):
    """An orientation network with its preprocessing, phases and limits.

    Parameters
    ----------
    network_name : str
        Its name in `pyxem_dl.networks.build_network`.
    network : torch.nn.Module
        With ``arguments`` and ``predict(polar, n_best)``.
    preprocessing : PolarPreprocessing or CartesianPreprocessing
        From detector pixels to the network's input.
    phases : list of orix.crystal_map.Phase
        In the order of the network's phases; none where they are named when they are looked for, see
        :meth:`with_phases`.
    domain : dict
        What the model was trained for: ``beam_energy`` (kV), ``reciprocal_radius`` (Å⁻¹),
        ``scale`` (smallest and largest pixel, Å⁻¹), ``disk_radius`` (smallest and
        largest, Å⁻¹).  A key that is missing or None is not checked.
    thresholds : dict
        A pattern is not indexed if the probability of a crystal is below ``crystal``, or that of the best orientation
        below ``score``.
    name, description : str
        A name, and a line on what the model is for.
    training : dict
        The configuration of the training, with which :func:`pyxem_dl.train` can train the model again.
    provenance : dict
        How the training went: ``stages`` with their ``minutes`` and ``patterns``, ``hardware``, ``precision``,
        ``date``, ``versions``; empty where it is not recorded.
    uncertainty_fit : tuple of float
        Converts the spread of several predictions (degrees) into the expected error: a factor, and a floor (degrees)
        that is added in squares; fitted on held-out patterns.
    precision : {"auto", "float32", "bfloat16"}
        Precision of the network's matrix products; "auto" uses bfloat16 if the device has it.  Scores differ by about
        10⁻² between the two, orientations by about 0.01 degrees.  Not saved in the folder.
    padding : bool
        Whether batches are padded to one size, so that predictions do not depend on it in the last digit.  Not saved in
        the folder.
    """

    network_name: str
    network: torch.nn.Module
    preprocessing: PolarPreprocessing | CartesianPreprocessing
    phases: list
    domain: dict = field(default_factory=dict)
    thresholds: dict = field(default_factory=lambda: {"crystal": 0.5})
    name: str = "unnamed"
    description: str = ""
    training: dict = field(default_factory=dict)
    provenance: dict = field(default_factory=dict)
    uncertainty_fit: tuple[float, float] = (1.0, 0.0)
    precision: str = "auto"
    padding: bool = True

    spread_fit = renamed_attribute("spread_fit", "uncertainty_fit")
    format = "pyxem_dl orientation model"
    inputs = "polar"
    threshold_names = ("crystal", "score")
    #: Patterns that a core computes at once
    micro_batch = _MICRO_BATCH["cpu"]

    def __repr__(self) -> str:
        energy = self.domain.get("beam_energy")
        facts = [
            ", ".join(phase.name for phase in self.phases) or "any crystal: name the phases",
            f"{energy:g} kV" if energy else "beam energy not recorded",
            f"out to {self.preprocessing.reciprocal_radius:g} Å⁻¹",
            self.network_name,
        ]
        return f"OrientationModel {self.name!r} ({'; '.join(facts)})"

    def predict_batch(
        self,
        patterns: torch.Tensor,
        calibration: Calibration,
        *,
        centers: torch.Tensor | None = None,
        signal_mask: torch.Tensor | None = None,
        n_best: int = 1,
        n_samples: int = 0,
        overlap: bool = False,
    ) -> OrientationCandidates | SampledOrientations | OverlappingCrystals:
        """Predict the orientations of a batch of patterns.

        Parameters
        ----------
        patterns : tensor, shape (n, rows, columns)
            Intensities.
        calibration : Calibration
            Of the detector.
        centers : tensor, shape (n, 2), optional
            Direct beam (row, column) in pixels, by default the calibration's.
        signal_mask : tensor of bool, shape (rows, columns), optional
            True where the detector is excluded.
        n_best : int
            Number of separated orientations.
        n_samples : int
            Number of predictions with dropout (Monte-Carlo dropout), of which mean and uncertainty are returned; 0: one
            prediction without dropout.
        overlap : bool
            Look for several crystals that lie above each other, for models that :attr:`finds_overlaps`.

        Returns
        -------
        OrientationCandidates, SampledOrientations with `n_samples`, or OverlappingCrystals with `overlap`
            On the model's device.  ``crystal`` is 0 for patterns that cannot be indexed: with NaN or infinite pixels,
            or constant (empty, saturated) where not masked.
        """
        device = self.device
        mask = None if signal_mask is None else signal_mask.to(device)
        sizes = _MICRO_BATCH_OF_OVERLAPS if overlap else _MICRO_BATCH
        size = sizes["cpu" if device.type == "cpu" else "other"]
        size = size if self.padding else max(1, min(size, len(patterns)))

        def predict(micro_batch, its_centers):
            if overlap:
                return self._crystals_of_micro_batch(micro_batch, calibration, its_centers, mask, size)
            return self._predict_micro_batch(micro_batch, calibration, its_centers, mask, n_best, size, n_samples)

        self._check_samples(n_samples)
        columns = in_micro_batches(predict, size, device, patterns, centers)
        kind = SampledOrientations if n_samples else OrientationCandidates
        return (OverlappingCrystals if overlap else kind)(*columns)

    def compare_batch(
        self, patterns: torch.Tensor, calibration: Calibration, rotations: torch.Tensor, phase_id: torch.Tensor, *,
        centers: torch.Tensor | None = None, signal_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """Compare orientations that are given with a batch of patterns; for models that take any crystal.

        Parameters
        ----------
        patterns, calibration, centers, signal_mask
            As of :meth:`predict_batch`.
        rotations, phase_id : tensor, shapes (n, m, 4) and (n, m)
            Orientations and their phases.

        Returns
        -------
        rotations : tensor, shape (n, m, 4)
            Improved a little.
        logits : tensor, shape (n, m)
            Of each against none of these; 0 where a pattern cannot be used.
        """
        mask = None if signal_mask is None else signal_mask.to(self.device)
        size = _MICRO_BATCH["cpu" if self.device.type == "cpu" else "other"]

        def compare(patterns, rotations, phase_id, centers):
            n = len(patterns)
            patterns, rotations, phase_id, centers = (padded(x, size) for x in (patterns, rotations, phase_id, centers))
            patterns, usable = usable_patterns(patterns, mask)
            with computing(self.device):
                inputs = self._inputs(patterns, calibration, centers, mask)
            with computing(self.device, self.precision):
                found = self.network.compare(inputs, rotations, phase_id)
            finite = usable[:, None] & found.score.isfinite() & found.rotations.isfinite().all(2)
            better = torch.where(finite[..., None], found.rotations.float(), rotations)
            return better[:n], torch.where(finite, found.score.float(), 0.0)[:n]

        return tuple(in_micro_batches(compare, size, self.device, patterns, rotations, phase_id, centers))

    def with_phases(self, phases, beam_energy: float, reciprocal_radius: float) -> OrientationModel:
        """Return a model with the same weights that looks for these phases.

        Parameters
        ----------
        phases : orix.crystal_map.Phase, path of a CIF file, or a list of these
            What may be in the scan.
        beam_energy : float
            In kV.
        reciprocal_radius : float
            How far out it looks, in Å⁻¹.

        Raises
        ------
        ValueError
            If the network was trained for phases of its own, or a phase cannot be used.
        """
        if not self.takes_phases:
            raise ValueError(
                f"The model {self.name!r} was trained for {', '.join(phase.name for phase in self.phases)}, and knows "
                "no other phases. Leave phases out, or take the model 'any-crystal'."
            )
        phases = load_phases(phases)
        preprocessing = self.preprocessing.reaching(reciprocal_radius)
        domain = self.domain | {"beam_energy": float(beam_energy), "reciprocal_radius": float(reciprocal_radius)}
        return replace(
            self, network=self.network.with_phases(phases, beam_energy, preprocessing), preprocessing=preprocessing,
            phases=phases, domain=domain,
        )  # fmt: skip

    def at_nominal_scale(self) -> OrientationModel:
        """Return a model that forgets what labels told it of the scale."""
        return replace(self, preprocessing=replace(self.preprocessing, scale_factor=1.0))

    def for_single_patterns(self) -> OrientationModel:
        """Return a model that answers for a single pattern at once, without padding: a tenth of the time on a core.

        Its precision stays: another one decides differently where two orientations are nearly as good.
        """
        return replace(self, precision="auto" if self.follows_device else self.precision, padding=False)

    @property
    def takes_phases(self) -> bool:
        """Whether phases are named when they are looked for."""
        return hasattr(self.network, "with_phases")

    @property
    def finds_overlaps(self) -> bool:
        """Whether several crystals are found that lie above each other."""
        return self.network_name == "any_crystal"

    @property
    def counts_electrons(self) -> bool:
        """Whether patterns have to be in electrons."""
        return getattr(self.network, "counts_electrons", False)

    @property
    def gives_several(self) -> bool:
        """Whether the network proposes several orientations for a pattern."""
        return self.network_name != "regression"

    @property
    def has_dropout(self) -> bool:
        """Whether predictions can be drawn with dropout."""
        return hasattr(self.network, "samples") and self.network.dropout.p > 0

    def _check_samples(self, n_samples: int) -> None:
        if n_samples and not self.has_dropout:
            raise ValueError(
                f"The network of {self.name!r} has no dropout to sample predictions with. Use n_samples=0, or give "
                "several models trained with different seeds: predict_orientation([model_1, model_2, ...])."
            )

    def calibrated(self, uncertainty: torch.Tensor) -> torch.Tensor:
        """Say what error in degrees to expect of predictions that lie so far apart (radians)."""
        factor, floor = self.uncertainty_fit
        return ((factor * torch.rad2deg(uncertainty)).square() + floor**2).sqrt()

    def _predict_micro_batch(self, patterns, calibration, centers, mask, n_best: int, size: int, n_samples: int):
        """Predict at most `size` patterns."""
        n, centers = len(patterns), padded(centers, size)
        patterns, usable = usable_patterns(padded(patterns, size), mask)
        with computing(self.device):
            polar = self._inputs(patterns, calibration, centers, mask)
        with computing(self.device, self.precision):
            network = self.network
            found = network.samples(polar, n_samples) if n_samples else [network.predict(polar, n_best)]
        found = [_without_unusable([column[:n] for column in prediction], usable[:n]) for prediction in found]
        return SampledOrientations.of(found, self.network.operations) if n_samples else found[0]

    def _crystals_of_micro_batch(self, patterns, calibration, centers, mask, size: int):
        """Find the crystals of at most `size` patterns."""
        n, centers = len(patterns), padded(centers, size)
        patterns, usable = usable_patterns(padded(patterns, size), mask)
        with computing(self.device):
            inputs = self._inputs(patterns, calibration, centers, mask)
        with computing(self.device, self.precision):
            *found, share = (column[:n] for column in OverlapSearch(self.network, inputs)())
        return OverlappingCrystals(*_without_unusable(found, usable[:n]), share * usable[:n, None])

    @property
    def _inputs(self):
        """Make the network's input: the channels apart, where it takes them so."""
        if self.counts_electrons:
            return self.preprocessing.counted
        return self.preprocessing.channels_of if getattr(self.network, "channels_apart", False) else self.preprocessing

    def check_domain(self, calibration: Calibration) -> None:
        """Compare a detector with what the model was trained for.

        Parameters
        ----------
        calibration : Calibration
            Of the signal.

        Warns
        -----
        UserWarning
            With both numbers, for another beam energy, a detector that does not reach as far
            as the model looks, or another pixel size.

        Raises
        ------
        ValueError
            If the detector shows nothing of what the model looks at.
        """
        for message in _domain_warnings(self, calibration):
            warn(message)

    # ---------------------------------------------------------------- the folder
    def _own_config(self) -> dict:
        return {
            "preprocessing": {
                "name": next(name for name, kind in PREPROCESSINGS.items() if isinstance(self.preprocessing, kind)),
                "arguments": self.preprocessing.to_dict(),
            },
            "spread_fit": list(self.uncertainty_fit),
            "phases": [phase_to_dict(phase) for phase in self.phases],
            "laue_groups": [laue_group(phase).name for phase in self.phases],
        }

    @classmethod
    def _from_config(cls, network, config: dict, **common) -> OrientationModel:
        preprocessing = PREPROCESSINGS[config["preprocessing"]["name"]](**config["preprocessing"]["arguments"])
        phases = [phase_from_dict(entry) for entry in config["phases"]]
        if phases and hasattr(network, "with_phases") and config["domain"].get("beam_energy"):
            network = network.with_phases(phases, config["domain"]["beam_energy"], preprocessing)
        return cls(
            network=network, preprocessing=preprocessing, phases=phases,
            uncertainty_fit=tuple(config.get("spread_fit", (1.0, 0.0))), **common,
        )  # fmt: skip

    def _default_reference(self) -> torch.Tensor:
        return _synthetic_reference(self.preprocessing)

    def _predictions(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        if not self.counts_electrons:
            return self.network.predict(inputs, 2)._asdict()
        # what is kept of it are answers for a crystal that has a spot at each of the inputs' places, more or less
        network = self.network.with_phases([_simple_cubic()], 200.0, self.preprocessing)
        polar, valid = inputs.unbind(1)
        pixels = torch.linspace(0.1, 4, polar.shape[1], device=polar.device)
        return network.predict((40 * polar, valid, polar, pixels), 2)._asdict()

    def _differences(self, now: dict, stored: dict) -> str:
        score = max(float((now[k] - stored[k]).abs().max()) for k in ("scores", "crystal"))
        # where the first two modes are as good as each other, either may be the first
        clear = stored["scores"][:, 0] - stored["scores"][:, 1:].sum(1) > 0.01
        angle = misorientation_angle(now["rotations"][:, 0], stored["rotations"][:, 0]) * clear
        degrees = float(torch.rad2deg(angle).max())
        other_phase = (now["phase_id"] != stored["phase_id"])[:, 0] & clear
        if score > 1e-3 or degrees > 0.1 or other_phase.any():
            return f"scores differ by up to {score:.2g} (allowed 0.001), orientations by {degrees:.2g}° (0.1°)"
        return ""

    def _minimal_card(self) -> str:
        phases = "\n".join(
            f"- {phase.name}: {_symmetry(phase)}, "
            f"{', '.join(f'{x:.4g}' for x in phase.structure.lattice.abcABG())}"
            for phase in self.phases
        )
        domain = "\n".join(f"- {key}: {value}" for key, value in self.domain.items())
        return (
            f"# {self.name}\n\n{self.description or 'An orientation model of pyxem_dl.'}\n\n"
            f"## Phases\n{phases}\n\n## Trained for\n{domain or '- not recorded'}\n"
        )


def _simple_cubic():
    """Polonium, the only element with an atom at each corner of a cube."""
    from diffpy.structure import Atom, Lattice, Structure
    from orix.crystal_map import Phase

    structure = Structure([Atom("Po", (0, 0, 0))], Lattice(3.359, 3.359, 3.359, 90, 90, 90))
    return load_phases(Phase("Po", space_group=221, structure=structure))[0]


def _symmetry(phase) -> str:
    """Name what is known of a phase's symmetry; maps of orientations know the point group alone."""
    if phase.space_group is not None:
        return f"space group {phase.space_group.short_name}"
    atoms = "" if len(phase.structure) else ", without atoms"
    return f"point group {phase.point_group.name}{atoms}"


def _without_unusable(found, usable: torch.Tensor) -> OrientationCandidates:
    """Give patterns that are not usable (or came out not finite) crystal = 0."""
    rotations, phase_id, scores, crystal = (x if i == 1 else x.float() for i, x in enumerate(found))
    finite = rotations.isfinite().flatten(1).all(1) & scores.isfinite().all(1) & crystal.isfinite()
    good = usable & finite
    identity = (torch.arange(4, device=rotations.device) == 0).to(rotations)
    return OrientationCandidates(
        rotations=torch.where(good[:, None, None], rotations, identity),
        phase_id=torch.where(good[:, None], phase_id, 0),
        scores=torch.where(good[:, None], scores, 0.0),
        crystal=torch.where(good, crystal, 0.0),
    )


def _domain_warnings(model, calibration: Calibration) -> list[str]:
    """Sentences on what lies outside of the model's domain."""
    radius, covered = model.preprocessing.reciprocal_radius, calibration.reciprocal_radius
    if covered <= model.preprocessing.inner_radius:
        raise ValueError(
            f"The detector reaches only {covered:.3g} Å⁻¹ from the direct beam at (row, column) = "
            f"({calibration.center[0]:.4g}, {calibration.center[1]:.4g}), but the model "
            f"{model.name!r} uses {radius:.3g} Å⁻¹. Check the scale, unit and center of the "
            "calibration."
        )
    messages = []
    energy = model.domain.get("beam_energy")
    known = calibration.beam_energy
    if energy and known and abs(known - energy) > _ENERGY_TOLERANCE * energy:
        messages.append(f"The beam energy is {known:g} kV, but the model {model.name!r} was trained for {energy:g} kV.")
    trained = (model.training if "beam_energy" in model.training else model.training.get("first_training", {})).get(
        "beam_energy"
    )
    pair = known and isinstance(trained, (list, tuple)) and len(trained) == 2
    slack = _ENERGY_TOLERANCE if pair and trained[0] == trained[1] else 0.0
    if pair and not (1 - slack) * trained[0] <= known <= (1 + slack) * trained[1]:
        messages.append(
            f"The beam energy is {known:g} kV, but the model {model.name!r} was trained at {trained[0]:g} to "
            f"{trained[1]:g} kV: its scores may be wrong. Compare with match_templates."
        )
    if covered < _RADIUS_COVERED * radius:
        messages.append(
            f"The detector covers {covered:.3g} Å⁻¹ all around the direct beam, but the model "
            f"{model.name!r} uses {radius:.3g} Å⁻¹: the part outside of the detector counts as not measured."
        )
    low, high = model.domain.get("scale") or (0, np.inf)
    if not all(low * 0.999 <= s <= high * 1.001 for s in calibration.scale):
        text = " × ".join(f"{s:.3g}" for s in dict.fromkeys(calibration.scale))
        messages.append(
            f"The scale is {text} Å⁻¹ per px, but the model {model.name!r} was trained for {low:.3g} to {high:.3g} Å⁻¹."
        )
    return messages


def _synthetic_reference(preprocessing, n: int = 4) -> torch.Tensor:
    """Make inputs (n, channels, ...) with a few spots each, where nothing else is given."""
    generator = torch.Generator().manual_seed(0)
    channels, *shape = preprocessing.input_shape
    noise = 0.3 * torch.rand((n, *shape), generator=generator)
    spots = (torch.rand((n, *shape), generator=generator) > 0.99) * 5.0
    return torch.stack([noise + spots, *[torch.ones(n, *shape)] * (channels - 1)], dim=1)
