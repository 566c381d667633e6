"""Models: a network with all that belongs to it, kept as a folder without pickles."""

from __future__ import annotations

import difflib
import hashlib
import json
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from pyxem_dl.crystals import phase_from_dict, phase_to_dict
from pyxem_dl.frames import Calibration
from pyxem_dl.networks import OrientationCandidates, build_network
from pyxem_dl.preprocessing import PolarPreprocessing
from pyxem_dl.rotations import laue_group, misorientation_angle

FORMAT_VERSION = 1
#: Folder of the bundled models
PRETRAINED = Path(__file__).parent / "pretrained"

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
REFERENCE = "reference.safetensors"
CARD = "README.md"
TRAINING_LOG = "training_log.csv"

# Patterns that go through the network at once
_PORTION = {"cpu": 64, "other": 256}
# check_domain: other beam energies by this share, and detectors that cover less than this share
_ENERGY_TOLERANCE = 0.05
_RADIUS_COVERED = 0.8


@dataclass
class OrientationModel:
    """An orientation network with its preprocessing, phases and limits.

    Parameters
    ----------
    network_name : str
        By which `pyxem_dl.networks.build_network` knows it.
    network : torch.nn.Module
        With ``arguments`` and ``predict(polar, n_best)``.
    preprocessing : PolarPreprocessing
        From detector pixels to the network's input.
    phases : list of orix.crystal_map.Phase
        In the order of the network's phases.
    domain : dict
        What the model was trained for: ``beam_energy`` (kV), ``reciprocal_radius`` (1/Angstrom),
        ``scale`` (smallest and largest pixel, 1/Angstrom), ``disk_radius`` (smallest and
        largest, 1/Angstrom).  A key that is missing or None is not checked.
    thresholds : dict
        A pattern is not indexed where the probability that there is a crystal is below
        ``crystal``, or that of the best orientation below ``score``.
    name, description : str
        A name, and a line on what the model is for.
    training : dict
        The training's configuration, from which :func:`pyxem_dl.train` makes such a model anew.
    precision : {"auto", "float32", "bfloat16"}
        Of the network's matrix products; "auto" takes bfloat16 where the device has it.  Scores
        differ by some 10⁻² between the two, orientations by some 0.01 degrees.  Not kept in
        the folder.
    """

    network_name: str
    network: torch.nn.Module
    preprocessing: PolarPreprocessing
    phases: list
    domain: dict = field(default_factory=dict)
    thresholds: dict = field(default_factory=lambda: {"crystal": 0.5})
    name: str = "unnamed"
    description: str = ""
    training: dict = field(default_factory=dict)
    precision: str = "auto"

    def __post_init__(self) -> None:
        self.network.eval()
        self._follows_device = self.precision == "auto"
        if self._follows_device:
            self.precision = native_precision(self.device)

    def __repr__(self) -> str:
        phases = ", ".join(phase.name for phase in self.phases)
        return f"OrientationModel {self.name!r} ({self.network_name}; {phases})"

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        tensors = [*self.network.parameters(), *self.network.buffers()]
        return tensors[0].device if tensors else torch.device("cpu")

    def to(self, device) -> OrientationModel:
        """Move the network to a device; returns the model itself."""
        self.network.to(device)
        if self._follows_device:
            self.precision = native_precision(self.device)
        return self

    def predict_batch(
        self,
        patterns: torch.Tensor,
        calibration: Calibration,
        *,
        centers: torch.Tensor | None = None,
        signal_mask: torch.Tensor | None = None,
        n_best: int = 1,
    ) -> OrientationCandidates:
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

        Returns
        -------
        OrientationCandidates
            On the model's device.  ``crystal`` is 0 for patterns that nobody can index: with
            NaN or infinite pixels, or constant (all-zero, saturated) where not masked.
        """
        device = self.device
        patterns, usable = usable_patterns(patterns.to(device), signal_mask)
        mask = None if signal_mask is None else signal_mask.to(device)
        with computing(device):
            polar = self.preprocessing(patterns, calibration, centers, mask)
        return _without_unusable(self._predict_polar(polar, n_best), usable)

    def _predict_polar(self, polar: torch.Tensor, n_best: int) -> OrientationCandidates:
        """Run the network in portions of one size, whatever the batch size.

        In bfloat16 a library that takes another algorithm for another size shows in the
        answers (10⁻³); portions of one size, padded, make them independent of the batch.
        """
        size = _PORTION["cpu" if polar.device.type == "cpu" else "other"]

        def predict(portion):
            missing = size - len(portion)
            if missing and self.precision != "float32":
                padding = portion.new_zeros(missing, *portion.shape[1:])
                portion = torch.cat([portion, padding])
            with computing(portion.device, self.precision):
                found = self.network.predict(portion, n_best)
            return [column[: size - missing] for column in found]

        portions = polar.split(size)
        threads = torch.get_num_threads()
        if polar.device.type == "cpu" and min(threads, len(portions)) > 1:
            parts = _in_threads(predict, portions, threads)
        else:
            parts = [predict(portion) for portion in portions]
        return OrientationCandidates(*(torch.cat(column) for column in zip(*parts, strict=True)))

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
            warnings.warn(message, stacklevel=3)

    @property
    def fingerprint(self) -> str:
        """Hash of weights and settings: the same for the same answers."""
        weights = _hash_tensors(self.network.state_dict())
        text = json.dumps([weights, _config(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def save(
        self,
        folder,
        *,
        dtype: torch.dtype = torch.float32,
        card: str | None = None,
        training_log=None,
        reference: torch.Tensor | None = None,
    ) -> Path:
        """Write the model as a folder that :func:`load_model` reads.

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
            Inputs of the network, that are stored with its answers for :meth:`verify`; by
            default a few synthetic ones.

        Returns
        -------
        pathlib.Path
            The folder.
        """
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        stored = _stored_weights(self.network, dtype)
        save_file(stored, folder / WEIGHTS)
        config = _config(self) | {"weights": {"file": WEIGHTS, "sha256": _hash_file(folder / WEIGHTS)}}
        (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        # The answers of what will be loaded, that is of the rounded weights
        rounded = _read(folder)
        reference = _synthetic_reference(self.preprocessing) if reference is None else reference
        save_file(_reference_answers(rounded, reference.cpu().float()), folder / REFERENCE)
        if card is not None or not (folder / CARD).exists():
            (folder / CARD).write_text(card or _minimal_card(self), encoding="utf-8")
        if training_log is not None and Path(training_log).resolve() != (folder / TRAINING_LOG).resolve():
            shutil.copyfile(training_log, folder / TRAINING_LOG)
        return folder

    def verify(self, folder) -> None:
        """Compare today's answers to the ones stored in a model folder.

        Parameters
        ----------
        folder : str or pathlib.Path
            Where the model was loaded from.

        Raises
        ------
        ValueError
            If scores differ by more than 10⁻³ or the best orientations by more than 0.1°.
        """
        from safetensors.torch import load_file

        stored = load_file(_existing(Path(folder), REFERENCE))
        now = _reference_answers(self, stored["polar"])
        score = max(float((now[k] - stored[k]).abs().max()) for k in ("scores", "crystal"))
        # where the first two modes are as good as each other, either may be the first
        clear = stored["scores"][:, 0] - stored["scores"][:, -1] > 0.01
        angle = misorientation_angle(now["rotations"][:, 0], stored["rotations"][:, 0]) * clear
        degrees = float(torch.rad2deg(angle).max())
        other_phase = (now["phase_id"] != stored["phase_id"])[:, 0] & clear
        if score > 1e-3 or degrees > 0.1 or other_phase.any():
            raise ValueError(
                f"The model in {folder} does not give its stored answers any more: scores differ "
                f"by up to {score:.2g} (allowed 0.001), orientations by {degrees:.2g}° (0.1°)."
            )


def load_model(model) -> OrientationModel:
    """Load a model.

    Parameters
    ----------
    model : str, pathlib.Path or OrientationModel
        Name of a bundled model (see :func:`list_models`), or a model folder.  A name goes before
        a folder of that name: write ``./name`` for the folder.  A model is returned as it is.

    Raises
    ------
    FileNotFoundError
        For a folder that is not there or lacks a file.
    ValueError
        For an unknown name, and for a folder that is no model, damaged, or too new.
    """
    if isinstance(model, OrientationModel):
        return model
    if not isinstance(model, (str, Path)):
        raise TypeError(
            "A model is the name of a bundled model, a model folder or an OrientationModel, "
            f"not {type(model).__name__}."
        )
    known = _bundled()
    if isinstance(model, str) and model in known:
        return _read(known[model])
    folder = Path(model).expanduser()
    if folder.exists():
        return _read(folder)
    if isinstance(model, Path) or any(c in model for c in "/\\~"):
        raise FileNotFoundError(f"There is no model folder {str(folder)!r}.")
    near = difflib.get_close_matches(model, known, n=max(1, len(known)), cutoff=0.5)
    names = [*near, *(name for name in known if name not in near)]
    raise ValueError(f"There is no model and no folder {model!r}. Known models: {', '.join(names) or 'none'}.")


def list_models() -> dict[str, str]:
    """List the bundled models.

    Returns
    -------
    dict of str to str
        A line on each, by name.
    """
    lines = {}
    for name, folder in _bundled().items():
        config = _read_config(folder)
        lines[name] = config["description"] or ", ".join(p["name"] for p in config["phases"])
    return lines


def _bundled() -> dict[str, Path]:
    return {folder.parent.name: folder.parent for folder in sorted(PRETRAINED.glob(f"*/{CONFIG}"))}


def usable_patterns(
    patterns: torch.Tensor, signal_mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Make patterns fit for computing, and tell which of them say anything.

    Parameters
    ----------
    patterns : tensor, shape (n, rows, columns)
        Intensities.
    signal_mask : tensor of bool, shape (rows, columns), optional
        True where the detector is excluded.

    Returns
    -------
    patterns : tensor, shape (n, rows, columns)
        Not negative, 0 where masked, and all 0 where not usable.
    usable : tensor of bool, shape (n,)
        False for NaN or infinite pixels and for constant patterns, where not masked.
    """
    patterns = patterns.float().clamp_min(0)  # NaN stays
    seen = patterns.flatten(1)
    if signal_mask is not None:
        mask = signal_mask.to(patterns.device)
        patterns = torch.where(mask, 0.0, patterns)
        seen = seen[:, ~mask.flatten()]
    if not seen.shape[1]:
        return torch.zeros_like(patterns), seen.new_zeros(len(seen), dtype=torch.bool)
    usable = torch.isfinite(seen).all(1) & (seen.amax(1) > seen.amin(1))
    return torch.where(usable[:, None, None], patterns, 0.0), usable


def _in_threads(function, portions, threads: int) -> list:
    """Compute portions side by side, each on one core: faster than all cores on one portion."""
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, portions))
    finally:
        # parts of torch take the number that was set last, in whatever thread
        torch.set_num_threads(threads)


def native_precision(device: torch.device) -> str:
    """Return "bfloat16" where the device computes in it, else "float32"."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        return "bfloat16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "float32"
    return "float32"


@contextmanager
def computing(device: torch.device, precision: str = "float32"):
    """Compute without gradients in a stated precision.

    Parameters
    ----------
    device : torch.device
        Where.
    precision : {"float32", "bfloat16"}
        float32 is without TF32: like bfloat16, it rounds so coarsely that another batch size,
        for which the library takes another algorithm, shows in the answers (10⁻³ to 10⁻²).
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        if device.type == "cuda":
            stack.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
        if precision == "bfloat16":
            stack.enter_context(torch.autocast(device.type, dtype=torch.bfloat16))
        yield


def _without_unusable(found, usable: torch.Tensor) -> OrientationCandidates:
    """Give patterns that are not usable (or came out not finite) crystal = 0."""
    rotations, phase_id, scores, crystal = (x if i == 1 else x.float() for i, x in enumerate(found))
    finite = rotations.isfinite().flatten(1).all(1) & scores.isfinite().all(1) & crystal.isfinite()
    good = usable & finite
    identity = rotations.new_tensor([1.0, 0, 0, 0])
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
            f"The detector reaches only {covered:.3g} 1/Å from the direct beam at (row, column) = "
            f"({calibration.center[0]:.4g}, {calibration.center[1]:.4g}), of which the model "
            f"{model.name!r} looks at {radius:.3g} 1/Å. Check the calibration's scale, unit and "
            "center."
        )
    messages = []
    energy = model.domain.get("beam_energy")
    known = calibration.beam_energy
    if energy and known and abs(known - energy) > _ENERGY_TOLERANCE * energy:
        messages.append(f"The beam energy is {known:g} kV, the model {model.name!r} was trained for {energy:g} kV.")
    if covered < _RADIUS_COVERED * radius:
        messages.append(
            f"The detector covers {covered:.3g} 1/Å all around the direct beam, the model "
            f"{model.name!r} looks at {radius:.3g} 1/Å: what lies outside counts as not measured."
        )
    low, high = model.domain.get("scale") or (0, np.inf)
    if not all(low * 0.999 <= s <= high * 1.001 for s in calibration.scale):
        text = " × ".join(f"{s:.3g}" for s in dict.fromkeys(calibration.scale))
        messages.append(
            f"The scale is {text} 1/Å per pixel, the model {model.name!r} was trained for {low:.3g} to {high:.3g} 1/Å."
        )
    return messages


def _config(model: OrientationModel) -> dict:
    """All that is not a tensor, as plain numbers and strings."""
    from pyxem_dl import __version__

    config = {
        "format": "pyxem_dl orientation model",
        "format_version": FORMAT_VERSION,
        "package_version": __version__,
        "name": model.name,
        "description": model.description,
        "network": {"name": model.network_name, "arguments": model.network.arguments},
        "preprocessing": {"name": "polar", "arguments": model.preprocessing.to_dict()},
        "phases": [phase_to_dict(phase) for phase in model.phases],
        "laue_groups": [laue_group(phase).name for phase in model.phases],
        "domain": model.domain,
        "thresholds": model.thresholds,
        "training": model.training,
    }
    return json.loads(json.dumps(config))


def _read(folder: Path) -> OrientationModel:
    """Read a model folder; every way to fail says which file and why."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = _read_config(folder)
    path = _existing(folder, WEIGHTS)
    if _hash_file(path) != config["weights"]["sha256"]:
        raise ValueError(
            f"{path} is damaged or does not belong to {CONFIG}: its sha256 is not the one that is "
            "written there. Copy the folder again, whole."
        )
    try:
        weights = load_file(path)
        network = build_network(config["network"]["name"], **config["network"]["arguments"])
        current = network.state_dict()
        network.load_state_dict({k: v.to(current[k].dtype) if k in current else v for k, v in weights.items()})
        return OrientationModel(
            network_name=config["network"]["name"],
            network=network,
            preprocessing=PolarPreprocessing(**config["preprocessing"]["arguments"]),
            phases=[phase_from_dict(entry) for entry in config["phases"]],
            **{key: config[key] for key in ("domain", "thresholds", "name", "description")},
            training=config.get("training", {}),
        )
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"The model in {folder} cannot be made from its {CONFIG} and {WEIGHTS}, written by "
            f"pyxem_dl {config['package_version']}: {error}"
        ) from error


def _read_config(folder: Path) -> dict:
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; a model is a folder with a {CONFIG} inside.")
    path = _existing(folder, CONFIG)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged, it is no JSON: {error}") from error
    if not isinstance(config, dict) or config.get("format") != "pyxem_dl orientation model":
        raise ValueError(f"{folder} is no model of pyxem_dl: its {CONFIG} was written by something else.")
    version = config.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ValueError(
            f"The model in {folder} was written by a newer pyxem_dl ({config.get('package_version')}, "
            f"format {version}; this one reads up to {FORMAT_VERSION}). Update pyxem_dl."
        )
    required = ("package_version", "name", "description", "network", "preprocessing", "phases",
                "domain", "thresholds", "weights")  # fmt: skip
    missing = [key for key in required if key not in config]
    if missing:
        raise ValueError(f"{path} is damaged: {', '.join(missing)} missing.")
    return config


def _existing(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise FileNotFoundError(
            f"{folder} is no complete model folder: {name} is missing. A model folder holds "
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
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _hash_tensors(tensors: dict) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()


def _synthetic_reference(preprocessing: PolarPreprocessing, n: int = 4) -> torch.Tensor:
    """Make inputs (n, 2, n_k, n_phi) with a few spots each, where nothing else is given."""
    generator = torch.Generator().manual_seed(0)
    shape = (n, preprocessing.n_k, preprocessing.n_phi)
    noise = 0.3 * torch.rand(shape, generator=generator)
    spots = (torch.rand(shape, generator=generator) > 0.99) * 5.0
    return torch.stack([noise + spots, torch.ones(shape)], dim=1)


def _reference_answers(model: OrientationModel, polar: torch.Tensor) -> dict:
    with computing(model.device):
        found = model.network.predict(polar.to(model.device), 2)
    tensors = {"polar": polar} | dict(zip(OrientationCandidates._fields, found, strict=True))
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}


def _minimal_card(model: OrientationModel) -> str:
    phases = "\n".join(
        f"- {phase.name}: space group {phase.space_group.short_name}, "
        f"{', '.join(f'{x:.4g}' for x in phase.structure.lattice.abcABG())}"
        for phase in model.phases
    )
    domain = "\n".join(f"- {key}: {value}" for key, value in model.domain.items())
    return (
        f"# {model.name}\n\n{model.description or 'An orientation model of pyxem_dl.'}\n\n"
        f"## Phases\n{phases}\n\n## Trained for\n{domain or '- not recorded'}\n"
    )
