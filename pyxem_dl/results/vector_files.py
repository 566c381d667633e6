"""Files of diffraction vectors: HyperSpy's and py4DSTEM's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pyxem_dl.files import check_hdf5, check_target, claimed, replacing, reserve
from pyxem_dl.results.py4dstem import to_py4dstem

# Of an .hspy file without its data, at most
_HSPY_BYTES = 200_000
_PYXEM, _PY4DSTEM = (".hspy", ".zspy"), (".h5", ".hdf5", ".emd")


def check_vectors_path(path: str | Path, *, overwrite: bool = False, needed: float = 0) -> Path:
    """Make sure that vectors can be saved there, in so many bytes (`needed`), before they are searched for.

    Raises
    ------
    ValueError
        For a name that tells no format.
    FileExistsError
        If the file is there and not `overwrite`.
    OSError
        If it cannot be written, or the disk has no room.
    """
    path = Path(path)
    if path.suffix.lower() not in (*_PYXEM, *_PY4DSTEM):
        raise ValueError(
            f"Vectors are saved as {', '.join(_PYXEM)} (HyperSpy) or {', '.join(_PY4DSTEM)} (py4DSTEM), "
            f"not as {path.name!r}. (A call with output= also takes .zarr.)"
        )
    return check_target(path, overwrite=overwrite, needed=needed, folder=path.suffix.lower() == ".zspy")


def save_vectors(path: str | Path, vectors, *, overwrite: bool = False) -> Path:
    """Save diffraction vectors as HyperSpy does, or as py4DSTEM's ``BraggVectors``: all of them, or nothing.

    Parameters
    ----------
    path : str or pathlib.Path
        Ending in ``.hspy`` or ``.zspy`` (everything; ``hyperspy.api.load`` gives it back), or in ``.h5``, ``.hdf5``
        or ``.emd`` (see :func:`to_py4dstem`).
    vectors : pyxem.signals.DiffractionVectors
        To save.
    overwrite : bool
        Replace a file that is there.
    """
    path = check_vectors_path(path, overwrite=overwrite)
    with claimed(path):
        write_vectors(path, vectors)
    return path


def write_vectors(path: Path, vectors) -> None:
    """Write to a path that is checked and claimed."""
    if path.suffix.lower() in _PY4DSTEM:
        to_py4dstem(vectors, path, overwrite=True)
        return
    with replacing(path) as new:
        if path.suffix.lower() == ".hspy":
            tables = vectors.data.ravel() if isinstance(vectors.data, np.ndarray) else ()
            reserve(new, _HSPY_BYTES + sum(table.nbytes + 64 for table in tables))
        vectors.save(new, overwrite=True)
        if new.is_file():
            check_hdf5(new)
