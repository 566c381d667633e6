"""Models on their way to other processes: bundled ones by name and hash, others with their weights."""

from __future__ import annotations

from dataclasses import dataclass

from pyxem_dl.models.ensemble import OrientationEnsemble
from pyxem_dl.models.folder import Model
from pyxem_dl.models.loading import load_model


@dataclass(frozen=True)
class _Bundled:
    """A model that every installation of the same version has."""

    name: str
    fingerprint: str
    precision: str | None


@dataclass(frozen=True)
class SentModel:
    """What is pickled in the place of a model.

    Parameters
    ----------
    parts : tuple
        One for each network.
    is_ensemble : bool
        Several networks that are asked together.
    """

    parts: tuple
    is_ensemble: bool

    @classmethod
    def of(cls, model) -> SentModel:
        """Describe a model, or an ensemble."""
        if isinstance(model, SentModel):
            return model
        several = isinstance(model, OrientationEnsemble)
        return cls(tuple(_described(each) for each in (model.models if several else [model])), several)

    def load(self):
        """Get the model, in whatever process.

        Raises
        ------
        ValueError
            If the bundled model of that name is another one here.
        """
        models = [_loaded(part) for part in self.parts]
        return OrientationEnsemble(models) if self.is_ensemble else models[0]


def _described(model: Model):
    name = getattr(model, "bundled_name", None)
    if name is None or load_model(name).fingerprint != model.fingerprint:
        return model  # not bundled, or changed since it was loaded
    return _Bundled(name, model.fingerprint, None if model.follows_device else model.precision)


def _loaded(part) -> Model:
    if not isinstance(part, _Bundled):
        return part
    model = load_model(part.name)
    if model.fingerprint != part.fingerprint:
        raise ValueError(
            f"The bundled model {part.name!r} is another one in this process: install the same version of pyxem_dl "
            "everywhere."
        )
    if part.precision is not None:
        model.precision, model.follows_device = part.precision, False
    return model
