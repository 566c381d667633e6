"""Several orientation models that are asked together: where they disagree, none should be trusted."""

from __future__ import annotations

import hashlib
from statistics import fmean

import torch

from pyxem_dl.checks import thresholds
from pyxem_dl.frames import Calibration
from pyxem_dl.models.orientation import OrientationModel
from pyxem_dl.networks import OrientationCandidates, SampledOrientations

# Of each model so many predictions count, with their probabilities
_CANDIDATES = 3


class OrientationEnsemble:
    """Models of the same phases: what most of them say is the prediction, how far they lie apart its uncertainty.

    Parameters
    ----------
    models : list of OrientationModel
        Trained with other seeds, or of other kinds.

    Raises
    ------
    ValueError
        If there is only one, or if their phases differ.

    Notes
    -----
    Lakshminarayanan et al., *Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles*, NeurIPS 2017.
    """

    has_dropout = False
    #: What most of them say is one orientation
    gives_several = False

    def __init__(self, models: list[OrientationModel]) -> None:
        if len(models) < 2 or not all(isinstance(model, OrientationModel) for model in models):
            raise ValueError("An ensemble must be a list of at least two orientation models.")
        phases = [[(p.name, p.space_group.number if p.space_group else None) for p in m.phases] for m in models]
        if any(each != phases[0] for each in phases):
            names = "; ".join(", ".join(name for name, _ in each) for each in phases)
            raise ValueError(f"The models of an ensemble must have the same phases in the same order, not {names}.")
        self.models = models
        first = models[0]
        self.phases, self.domain, self.preprocessing = first.phases, first.domain, first.preprocessing
        # a model without a threshold says nothing of it: the mean is that of the others
        self.thresholds = {
            key: fmean(m.thresholds[key] for m in models if key in m.thresholds)
            for key in sorted({key for m in models for key in m.thresholds})
        }
        self.name = " + ".join(model.name for model in models)
        self.network_name = f"ensemble of {len(models)}"

    def __repr__(self) -> str:
        return f"OrientationEnsemble of {len(self.models)}: {', '.join(map(repr, self.models))}"

    @property
    def takes_phases(self) -> bool:
        """Whether phases are named when they are looked for."""
        return all(model.takes_phases for model in self.models)

    @property
    def counts_electrons(self) -> bool:
        """Whether patterns have to be in electrons."""
        return any(model.counts_electrons for model in self.models)

    def with_phases(self, phases, beam_energy: float, reciprocal_radius: float) -> OrientationEnsemble:
        """Return an ensemble that looks for these phases; see :meth:`OrientationModel.with_phases`."""
        return OrientationEnsemble([m.with_phases(phases, beam_energy, reciprocal_radius) for m in self.models])

    def at_nominal_scale(self) -> OrientationEnsemble:
        """Return an ensemble that forgets what labels told it of the scale."""
        return OrientationEnsemble([model.at_nominal_scale() for model in self.models])

    def for_single_patterns(self) -> OrientationEnsemble:
        """Return an ensemble that answers for a single pattern at once, without padding."""
        return OrientationEnsemble([model.for_single_patterns() for model in self.models])

    @property
    def n_networks(self) -> int:
        """Of how many networks it consists."""
        return len(self.models)

    @property
    def micro_batch(self) -> int:
        """Patterns that a core computes at once."""
        return self.models[0].micro_batch

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.models[0].device

    @property
    def fingerprint(self) -> str:
        """Hash of all weights and settings."""
        return hashlib.sha256(" ".join(m.fingerprint for m in self.models).encode()).hexdigest()

    def about(self) -> list[dict]:
        """Say which models these are."""
        return [about for model in self.models for about in model.about()]

    def check_thresholds(self) -> None:
        """Make sure of all models' thresholds, and of those of the ensemble."""
        for model in self.models:
            model.check_thresholds()
        thresholds(self.thresholds, f"The ensemble {self.name!r}", OrientationModel.threshold_names)

    def to(self, device: str | torch.device) -> OrientationEnsemble:
        """Move the networks to a device; returns the ensemble itself."""
        for model in self.models:
            model.to(device)
        return self

    def check_domain(self, calibration: Calibration) -> None:
        """Compare a detector with what each model was trained for."""
        for model in self.models:
            model.check_domain(calibration)

    def calibrated(self, uncertainty: torch.Tensor) -> torch.Tensor:
        """Spread in degrees, as it is: no patterns were kept back to fit it to."""
        return torch.rad2deg(uncertainty)

    def predict_batch(
        self, patterns: torch.Tensor, calibration: Calibration, *, n_samples: int = 0, n_best: int = 1, **settings
    ) -> SampledOrientations:
        """Ask all models; see :meth:`OrientationModel.predict_batch`.

        Returns
        -------
        SampledOrientations
            What most of them say, with its uncertainty.
        """
        predictions = []
        for model in self.models:
            found = model.predict_batch(patterns, calibration, n_samples=n_samples, n_best=_CANDIDATES, **settings)
            predictions.append(OrientationCandidates(*found[:4]))
        return SampledOrientations.of(predictions, self.models[0].network.operations)
