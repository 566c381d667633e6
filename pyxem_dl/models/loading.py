"""Models by name: those that come with the package, and folders."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Sequence
from pathlib import Path

from pyxem_dl.models.ensemble import OrientationEnsemble
from pyxem_dl.models.folder import CONFIG, PRETRAINED, Model, read_config, read_model
from pyxem_dl.models.orientation import OrientationModel


def load_model(
    model: str | Path | Model | OrientationEnsemble | Sequence[str | Path | OrientationModel],
) -> Model | OrientationEnsemble:
    """Load a model.

    Parameters
    ----------
    model : str, pathlib.Path, OrientationModel or BraggModel, or a list of these
        Name of a bundled model (see :func:`list_models`), or a model folder.  A name goes before
        a folder of that name: write ``./name`` for the folder.  A model is returned as it is, and a
        list of orientation models becomes an ensemble.

    Raises
    ------
    FileNotFoundError
        For a folder that is not there or lacks a file.
    ValueError
        For an unknown name, and for a folder that is not a model, is damaged, or too new.
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
    if not str(model).strip():
        raise ValueError(f"The name of the model is empty. Known models: {', '.join(known) or 'none'}.")
    folder = Path(model).expanduser()
    if _exists(folder):
        return read_model(folder)
    if isinstance(model, Path) or any(c in model for c in "/\\~"):
        raise FileNotFoundError(f"There is no model folder {str(folder)!r}.")
    model = reprlib.repr(model).strip("'\"")  # no more than a line of it
    near = difflib.get_close_matches(model, known, n=max(1, len(known)), cutoff=0.5)
    names = [*near, *(name for name in known if name not in near)]
    raise ValueError(f"There is no model or folder {model!r}. Known models: {', '.join(names) or 'none'}.")


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


def _bundled() -> dict[str, Path]:
    return {folder.parent.name: folder.parent for folder in sorted(PRETRAINED.glob(f"*/{CONFIG}"))}
