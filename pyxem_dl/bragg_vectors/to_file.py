"""Bragg vectors into a file, by either way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pyxem_dl.bragg_vectors.correlation import match_disks
from pyxem_dl.bragg_vectors.detection import DEFAULT_MODEL, predict_bragg_vectors
from pyxem_dl.models import BraggModel
from pyxem_dl.patterns.probes import Probe

if TYPE_CHECKING:
    from pyxem_dl.annotations import Patterns, ProbeImage, Vectors


def bragg_vectors_to_file(
    signal: Patterns,
    path: str | Path,
    model: str | Path | BraggModel | None = DEFAULT_MODEL,
    probe: Probe | ProbeImage | None = None,
    *,
    overwrite: bool = False,
    show_progressbar: bool | None = None,
    **settings,
) -> Vectors:
    """Find Bragg disks and write them into a file; an interrupted run can be continued.

    The same as `output` of :func:`predict_bragg_vectors` and :func:`match_disks`.

    Parameters
    ----------
    signal, probe, show_progressbar
        As in :func:`predict_bragg_vectors`.
    path : str or pathlib.Path
        Where the vectors go: ``.hspy`` or ``.zspy`` (HyperSpy), or ``.h5``, ``.hdf5``, ``.emd`` (py4DSTEM).
    model : str, pathlib.Path, BraggModel or None
        None finds them by correlation, as :func:`match_disks` does.
    overwrite : bool
        Replace a file that is there.
    **settings
        Further arguments of :func:`predict_bragg_vectors` or :func:`match_disks`.

    Returns
    -------
    pyxem.signals.DiffractionVectors
        What was saved.
    """
    settings |= {"output": path, "overwrite": overwrite, "show_progressbar": show_progressbar}
    if model is None:
        return match_disks(signal, probe, **settings)
    return predict_bragg_vectors(signal, model, probe, **settings)
