"""A model is a folder: what every kind of model keeps in it, and how it is read and checked."""

from __future__ import annotations

import hashlib
import json
import math
import reprlib
import shutil
from abc import ABC, abstractmethod
from pathlib import Path

import torch

from pyxem_dl.checks import thresholds
from pyxem_dl.crystals.provenance import manifest_text
from pyxem_dl.devices import computing, native_precision
from pyxem_dl.files import replacing_files
from pyxem_dl.models.description import (
    bounded_size,
    check_description,
    check_shapes,
    read_entries,
    read_shapes,
    read_tensors,
)
from pyxem_dl.networks import build_network

FORMAT_VERSION = 1
#: Folder of the bundled models
PRETRAINED = Path(__file__).parent.parent / "pretrained"

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
REFERENCE = "reference.safetensors"
CARD = "README.md"
TRAINING_LOG = "training_log.csv"
CRYSTALS = "crystals.json"

# Numbers of the inputs in reference.safetensors
_LARGEST_REFERENCE = 10**8

_REQUIRED = (
    "package_version", "name", "description", "network", "preprocessing", "domain", "thresholds", "weights",
)  # fmt: skip


class Model(ABC):
    """A network with all that belongs to it, kept as a folder without pickles.

    Each kind of model is a dataclass with ``network_name``, ``network``, ``domain``, ``thresholds``, ``name``,
    ``description``, ``training``, ``provenance`` and ``precision``, and says below what is its own.
    """

    #: How config.json calls this kind, and reference.safetensors its inputs.
    format: str
    inputs: str
    threshold_names: tuple[str, ...]
    #: Name of the bundled model that was loaded, None for others
    bundled_name = None
    #: Address of the shared model that was loaded, None for others
    source = None
    #: Hash of the file of its weights, None where there is none
    weights_sha256 = None
    #: Of how many networks it consists
    n_networks = 1

    # ---------------------------------------------------------------- what each kind says
    @abstractmethod
    def _own_config(self) -> dict:
        """Entries of config.json beside those that all kinds have; with "preprocessing"."""

    @classmethod
    @abstractmethod
    def _from_config(cls, network, config: dict, **common):
        """Make a model of what :meth:`_own_config` said."""

    @abstractmethod
    def _default_reference(self) -> torch.Tensor:
        """Return inputs whose predictions are kept, where none are given."""

    @abstractmethod
    def _predictions(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Predictions for the reference's inputs."""

    @abstractmethod
    def _differences(self, now: dict, stored: dict) -> str:
        """Say in what today's predictions differ from the stored ones; empty if they do not."""

    @abstractmethod
    def _minimal_card(self) -> str:
        """Card of a model that came without one."""

    # ---------------------------------------------------------------- what all kinds have
    def __post_init__(self) -> None:
        self.network.eval()
        self.follows_device = self.precision == "auto"
        if self.follows_device:
            self.precision = native_precision(self.device)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        tensors = [*self.network.parameters(), *self.network.buffers()]
        return tensors[0].device if tensors else torch.device("cpu")

    def to(self, device):
        """Move the network to a device; returns the model itself."""
        self.network.to(device)
        if self.follows_device:
            self.precision = native_precision(self.device)
        return self

    def about(self) -> list[dict]:
        """Say which model it is, for the records of results: name, network, where from, hash of the weights."""
        known = {"sha256": self.weights_sha256} if self.weights_sha256 else {"fingerprint": self.fingerprint}
        source = {"source": f"bundled as {self.bundled_name}" if self.bundled_name else self.source}
        names = {"name": self.name, "network": self.network_name}
        return [names | (source if source["source"] else {}) | known]

    @property
    def fingerprint(self) -> str:
        """Hash of weights and settings: the same for the same predictions."""
        weights = _hash_tensors(self.network.state_dict())
        config = {key: value for key, value in _config(self).items() if key != "provenance"}
        text = json.dumps([weights, config], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def check_thresholds(self) -> None:
        """Make sure of :attr:`thresholds`, which anybody may change, before they are needed at the end of the work."""
        thresholds(self.thresholds, f"The model {self.name!r}", self.threshold_names)

    def check(self, where: Path | str = CONFIG) -> None:
        """Make sure that the model could be read again if it were saved: better before a training than after it.

        Parameters
        ----------
        where : pathlib.Path or str
            Its ``config.json``, for the error.

        Raises
        ------
        ValueError, TypeError
            With the entry that is out of its bounds.
        """
        self.check_thresholds()
        check_description(_config(self) | {"weights": {"file": WEIGHTS, "sha256": "0" * 64}}, where)

    def save(
        self,
        folder,
        *,
        dtype: torch.dtype = torch.float32,
        card: str | None = None,
        training_log=None,
        reference: torch.Tensor | None = None,
        crystals: list[dict] | None = None,
    ) -> Path:
        """Write the model as a folder that :func:`load_model` reads; one that is killed leaves no half of a model.

        Parameters
        ----------
        folder : str or pathlib.Path
            Made if it is not there; files of an earlier model in it are replaced.
        dtype : torch.dtype
            Of the stored parameters; ``torch.float16`` halves the file.
        card : str, optional
            Text of ``README.md``; by default a short one, unless there is one already.
        training_log : str or pathlib.Path, optional
            CSV file that is copied to ``training_log.csv``.
        reference : tensor, shape (n, channels, n_k, n_phi), optional
            Inputs of the network, that are stored with its predictions for :meth:`verify`; by
            default a few synthetic ones.
        crystals : list of dict, optional
            Where the crystals come from that it was trained on, for ``crystals.json``: a manifest of
            :func:`pyxem_dl.structures`.

        Returns
        -------
        pathlib.Path
            The folder.
        """
        from safetensors.torch import save_file

        folder = Path(folder)
        self.check(folder / CONFIG)
        with replacing_files(folder, last=CONFIG) as new:
            save_file(_stored_weights(self.network, dtype), new / WEIGHTS)
            config = _config(self) | {"weights": {"file": WEIGHTS, "sha256": _hash_file(new / WEIGHTS)}}
            (new / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            # The predictions of what will be loaded, that is of the rounded weights
            rounded = read_model(new)
            reference = self._default_reference() if reference is None else reference
            save_file(_reference_predictions(rounded, reference.cpu().float()), new / REFERENCE)
            if card is not None or not (folder / CARD).exists():
                (new / CARD).write_text(card or self._minimal_card(), encoding="utf-8")
            if crystals is not None:
                (new / CRYSTALS).write_text(manifest_text(crystals), encoding="utf-8")
            if training_log is not None and Path(training_log).resolve() != (folder / TRAINING_LOG).resolve():
                shutil.copyfile(training_log, new / TRAINING_LOG)
        return folder

    def save_settings(self, folder) -> None:
        """Write ``config.json`` anew into a folder of this model, and predictions that belong to it; the weights stay.

        Parameters
        ----------
        folder : str or pathlib.Path
            Where the model was loaded from.
        """
        from safetensors.torch import save_file

        folder = Path(folder)
        self.check(folder / CONFIG)
        weights, stored = read_config(folder)["weights"], read_tensors(_existing(folder, REFERENCE))
        with replacing_files(folder, last=CONFIG) as new:
            save_file(_reference_predictions(self, stored[self.inputs].float()), new / REFERENCE)
            text = json.dumps(_config(self) | {"weights": weights}, indent=2, ensure_ascii=False)
            (new / CONFIG).write_text(text + "\n", encoding="utf-8")

    def verify(self, folder) -> None:
        """Compare today's predictions to the ones stored in a model folder.

        Parameters
        ----------
        folder : str or pathlib.Path
            Where the model was loaded from.

        Raises
        ------
        ValueError
            If they differ by more than rounding.
        """
        path = _existing(Path(folder), REFERENCE)
        self._check_reference(path)
        stored = read_tensors(path)
        predictions = _reference_predictions(self, stored[self.inputs].float())
        wrong = [name for name, x in predictions.items() if name not in stored or stored[name].shape != x.shape]
        if wrong:
            raise ValueError(f"{path} is damaged or of another model: {', '.join(wrong)} missing or of another shape.")
        differences = self._differences(predictions, stored)
        if differences:
            raise ValueError(f"The model in {folder} no longer reproduces its stored predictions: {differences}.")

    def _check_reference(self, path: Path) -> None:
        """Make sure that a file has inputs of this model, before they are read."""
        found, needed = read_shapes(path).get(self.inputs, ()), tuple(self._default_reference().shape[1:])
        # patterns of disk detectors have any size
        fits = len(found) == 1 + len(needed) and (len(needed) < 3 or found[1:] == needed)
        if not fits or math.prod(found) > _LARGEST_REFERENCE:
            raise ValueError(f"{path} has {self.inputs!r} of the shape {found}, which this model cannot take.")


def read_model(folder: Path) -> Model:
    """Read a model folder; every way to fail says which file and why.

    Nothing is built before the entries of ``config.json`` have passed their bounds, and no memory is taken before the
    file of weights has been found to be of the network that they describe.
    """
    config = read_config(folder)
    path = _existing(folder, WEIGHTS)
    bounded_size(path)
    if _hash_file(path) != config["weights"]["sha256"]:
        raise ValueError(
            f"{path} is damaged or does not belong to {CONFIG}: its sha256 is not the one "
            "recorded there. Copy the whole folder again."
        )
    kind, (name, arguments) = _kinds()[config["format"]], (config["network"][key] for key in ("name", "arguments"))
    try:
        check_shapes(name, arguments, path, folder / CONFIG)
        weights = read_tensors(path)
        network = build_network(name, **arguments)
        current = network.state_dict()
        network.load_state_dict({k: v.to(current[k].dtype) if k in current else v for k, v in weights.items()})
        model = kind._from_config(
            network,
            config,
            network_name=name,
            training=config.get("training", {}),
            provenance=config.get("provenance") or {},
            **{key: config[key] for key in ("domain", "thresholds", "name", "description")},
        )
        model.weights_sha256 = config["weights"]["sha256"]
        return model
    except (RuntimeError, KeyError, TypeError, ValueError, MemoryError) as error:
        raise ValueError(
            f"The model in {folder} cannot be built from its {CONFIG} and {WEIGHTS}, written by "
            f"pyxem_dl {config['package_version']}: {error}"
        ) from error


def _kinds() -> dict[str, type[Model]]:
    return {kind.format: kind for kind in Model.__subclasses__()}


def read_config(folder: Path) -> dict:
    """Read and check a model's config.json."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; a model is a folder that contains {CONFIG}.")
    path = _existing(folder, CONFIG)
    config = read_entries(path)
    if not isinstance(config.get("format"), str) or config["format"] not in _kinds():
        raise ValueError(f"{folder} is not a model of pyxem_dl: its {CONFIG} was written by another program.")
    version = config.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ValueError(
            f"The model in {folder} was written by a newer pyxem_dl ({reprlib.repr(config.get('package_version'))}, "
            f"format {reprlib.repr(version)}; this one reads up to {FORMAT_VERSION}). Update pyxem_dl."
        )
    missing = [key for key in _REQUIRED if key not in config]
    if missing:
        raise ValueError(f"{path} is damaged: {', '.join(missing)} missing.")
    check_description(config, path)
    known = _kinds()[config["format"]].threshold_names
    if unknown := sorted(set(config["thresholds"]) - set(known)):
        raise ValueError(
            f"{path}: thresholds.{unknown[0]}: such a model has no threshold of this name, but {', '.join(known)}."
        )
    return config


def _config(model: Model) -> dict:
    """All that is not a tensor, as plain numbers and strings."""
    from pyxem_dl import __version__

    config = {
        "format": model.format,
        "format_version": FORMAT_VERSION,
        "package_version": __version__,
        "name": model.name,
        "description": model.description,
        "network": {"name": model.network_name, "arguments": model.network.arguments},
        "domain": model.domain,
        "thresholds": model.thresholds,
        "training": model.training,
    } | ({"provenance": model.provenance} if model.provenance else {})
    return json.loads(json.dumps(config | model._own_config()))


def _reference_predictions(model: Model, inputs: torch.Tensor) -> dict:
    with computing(model.device):
        tensors = {model.inputs: inputs} | model._predictions(inputs.to(model.device))
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def _existing(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise FileNotFoundError(
            f"{folder} is not a complete model folder: {name} is missing. A model folder holds "
            f"{CONFIG}, {WEIGHTS} and {REFERENCE}."
        )
    return folder / name


def _stored_weights(network, dtype: torch.dtype) -> dict:
    """State of a network with its parameters (not its buffers) as `dtype`."""
    parameters = {name for name, _ in network.named_parameters()}
    return {
        name: (t.to(dtype) if name in parameters else t).detach().cpu().clone().contiguous()
        for name, t in network.state_dict().items()
    }


def _hash_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_tensors(tensors: dict) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()
