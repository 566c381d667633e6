"""Models by name: those that come with the package, folders, archives, and those that others share."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Sequence
from pathlib import Path

from pyxem_dl.crystals import load_phases
from pyxem_dl.frames import Calibration
from pyxem_dl.models.ensemble import OrientationEnsemble
from pyxem_dl.models.folder import CONFIG, PRETRAINED, Model, read_config, read_model
from pyxem_dl.models.orientation import OrientationModel
from pyxem_dl.models.packing import read_packed
from pyxem_dl.sharing import ArchiveReference, fetch_archive, fetch_hub_model, is_reference, read_reference

#: The model that takes any crystal
ANY_CRYSTAL = "any-crystal"
# Radii (Å⁻¹) to which it may look
_NEAREST, _FURTHEST = 0.5, 2.0
# Beam energies (kV) at which phases are looked for
_LOWEST_ENERGY, _HIGHEST_ENERGY = 30.0, 1000.0


def load_model(
    model: str | Path | Model | OrientationEnsemble | Sequence[str | Path | OrientationModel],
) -> Model | OrientationEnsemble:
    """Load a model.

    Parameters
    ----------
    model : str, pathlib.Path, OrientationModel or BraggModel, or a list of these
        Name of a bundled model (see :func:`list_models`), a model folder, or an archive of one that
        :func:`pack_model` made.  A name goes before a folder of that name: write ``./name`` for the folder.  A model is
        returned as it is, and a list of orientation models becomes an ensemble.

        Or the address of a model that somebody shares: ``"hf://owner/name@commit"`` on the Hugging Face hub,
        ``"doi:10.5281/zenodo.RECORD/model.zip#sha256=…"`` on Zenodo, ``"https://…/model.zip#sha256=…"`` anywhere.
        It is downloaded once, and is then used without a network.

    Raises
    ------
    FileNotFoundError
        For a folder that is not there or lacks a file, and an address where nothing is.
    ValueError
        For an unknown name, for a folder that is not a model, is damaged, or too new, for an address without a hash
        (the error tells it) or of a file with another one.
    ConnectionError
        If an address cannot be reached, and the file was not downloaded before; the error says where to put it by hand.
    """
    if isinstance(model, (Model, OrientationEnsemble)):
        return model
    if isinstance(model, (list, tuple)):
        return OrientationEnsemble([load_model(each) for each in model])
    if not isinstance(model, (str, Path)):
        raise TypeError(
            "A model must be the name of a bundled model, a model folder or an OrientationModel, "
            f"not {type(model).__name__}."
        )
    known = _bundled()
    if isinstance(model, str) and model in known:
        loaded = read_model(known[model])
        loaded.bundled_name = model
        return loaded
    if isinstance(model, str) and is_reference(model):
        return _read_shared(model)
    if not str(model).strip():
        raise ValueError(f"The name of the model is empty. Known models: {', '.join(known) or 'none'}.")
    folder = Path(model).expanduser()
    if _exists(folder):
        return read_packed(folder) if folder.is_file() and folder.suffix.lower() == ".zip" else read_model(folder)
    if isinstance(model, Path) or any(c in model for c in "/\\~"):
        raise FileNotFoundError(f"There is no model folder {str(folder)!r}.")
    model = reprlib.repr(model).strip("'\"")  # no more than a line of it
    near = difflib.get_close_matches(model, known, n=max(1, len(known)), cutoff=0.5)
    names = [*near, *(name for name in known if name not in near)]
    raise ValueError(f"There is no model or folder {model!r}. Known models: {', '.join(names) or 'none'}.")


def _read_shared(text: str) -> Model:
    """Model at an address, which says where it comes from."""
    reference = read_reference(text)
    if isinstance(reference, ArchiveReference):
        loaded = read_packed(fetch_archive(reference), reference.file)
    else:
        loaded = read_model(fetch_hub_model(reference))
    # without a query, which may be a key to what is not public: records of results tell the source
    address, sign, sha256 = text.strip().partition("#")
    loaded.source = address.partition("?")[0] + sign + sha256
    return loaded


def phases_to_find(model, phases):
    """Phases that are named, or those that a model that takes phases has; None for the others.

    Raises
    ------
    ValueError
        If it has none, and none are named; or if others are named than those that it was trained for.
    """
    if not getattr(model, "takes_phases", False):
        return phases
    if phases is not None:
        return _known_to(model, load_phases(phases)) if model.phases else phases
    if not model.phases:
        raise ValueError(
            f"The model {model.name!r} has to be told which crystals may be in the scan: give phases='my.cif', or a "
            "list of files or phases."
        )
    return model.phases


def _known_to(model, phases: list) -> list:
    names = [phase.name for phase in model.phases]
    if not {phase.name for phase in phases} <= set(names):
        raise ValueError(
            f"The model {model.name!r} was trained for {', '.join(names)}, and knows no other phases. Leave phases "
            "out, or take the model 'any-crystal'."
        )
    return phases


def with_phases(model, phases, calibration: Calibration):
    """Let a model look for phases in a scan.

    Parameters
    ----------
    model : OrientationModel or OrientationEnsemble
        That takes phases.
    phases : orix.crystal_map.Phase, path of a CIF file, or a list of these
        What may be there.
    calibration : Calibration
        Of the scan, with a beam energy.

    Returns
    -------
    OrientationModel or OrientationEnsemble
        That looks as far out as the detector reaches all around, up to 2 Å⁻¹.

    Raises
    ------
    ValueError
        If the beam energy is not known or not from 30 to 1000 kV, the detector reaches less than 0.5 Å⁻¹, or the model
        has phases of its own.
    """
    if calibration.beam_energy is None:
        raise ValueError(
            "The beam energy of the scan is not known. Give beam_energy= in kV, or set it with "
            "s.set_experimental_parameters(beam_energy=200)."
        )
    if not _LOWEST_ENERGY <= calibration.beam_energy <= _HIGHEST_ENERGY:
        raise ValueError(
            f"The beam energy is {calibration.beam_energy:g} kV; phases are looked for at {_LOWEST_ENERGY:g} to "
            f"{_HIGHEST_ENERGY:g} kV. Check it, and give beam_energy= in kV; for others train a model: pyxem_dl.train."
        )
    radius = min(calibration.reciprocal_radius, _FURTHEST)
    if radius < _NEAREST:
        raise ValueError(
            f"The detector reaches only {radius:.3g} Å⁻¹ from the direct beam, too little to tell orientations. Check "
            "the scale, unit and center of the calibration."
        )
    return model.with_phases(phases, calibration.beam_energy, radius)


def _exists(folder: Path) -> bool:
    try:
        return folder.exists()
    except (OSError, ValueError):  # longer than any name of a file, or with characters that none has
        return False


def list_models() -> dict[str, str]:
    """List the bundled models.

    Returns
    -------
    dict of str to str
        A line on each, by name.
    """
    lines = {}
    for name, folder in _bundled().items():
        config = read_config(folder)
        lines[name] = config["description"] or ", ".join(p["name"] for p in config.get("phases", []))
    return lines


def bundled_of(kind: type[Model]) -> list[str]:
    """Names of the bundled models of a kind, as :class:`OrientationModel`."""
    return [name for name, folder in _bundled().items() if read_config(folder)["format"] == kind.format]


def _bundled() -> dict[str, Path]:
    return {folder.parent.name: folder.parent for folder in sorted(PRETRAINED.glob(f"*/{CONFIG}"))}
