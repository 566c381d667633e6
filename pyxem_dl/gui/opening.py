"""Open a viewer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from pyxem_dl.frames import ImageCalibration
from pyxem_dl.gui.current_map import CurrentMap
from pyxem_dl.gui.explorer import Explorer
from pyxem_dl.gui.images import ImageSessions
from pyxem_dl.gui.sessions import Given, Sessions
from pyxem_dl.gui.widget import register, require_anywidget
from pyxem_dl.images import LatticeMap
from pyxem_dl.models import OrientationEnsemble
from pyxem_dl.models.folder import Model
from pyxem_dl.results.vector_scan import is_vectors

if TYPE_CHECKING:
    from orix.crystal_map import CrystalMap

    from pyxem_dl.annotations import Center, Image, Labels, Patterns, Phases, Vectors

#: Who can be asked: a model by name, folder or address, a loaded one, or several
Asked: TypeAlias = str | Path | Model | OrientationEnsemble | Sequence[str | Path | Model]


def explore(
    signal: Patterns | Image,
    what: Asked | CrystalMap | Vectors | Labels | LatticeMap | None = None,
    *,
    model: Asked | None = None,
    phases: Phases | None = None,
    center: Center | None = None,
    signal_mask: np.ndarray | None = None,
    beam_energy: float | None = None,
    device: str = "auto",
    link: bool = False,
) -> Explorer:
    """Look at a scan by mouse: each pattern with the spots of the orientation that is found there.

    Parameters
    ----------
    signal : pyxem.signals.Diffraction2D
        Calibrated patterns with 0, 1 or 2 navigation dimensions, in memory or lazy.
    what : str, pathlib.Path, model, orix.crystal_map.CrystalMap or pyxem.signals.DiffractionVectors, optional
        Whose answers are shown: an orientation model or a detector of disks (a bundled name, a folder, or a loaded
        model), which is asked at every position; or a finished map, or vectors, of this scan. By default "any-crystal".
        Of an atomic-resolution image: what :func:`pyxem_dl.classify_structure`, :func:`pyxem_dl.map_lattice` or
        :func:`pyxem_dl.segment_by_symmetry` gave; by default the image alone.
    model : str, pathlib.Path or OrientationModel, optional
        With a map: the model that can be asked beside it.
    phases : orix.crystal_map.Phase, path of a CIF file, or a list of these, optional
        What may be there, for a model that takes any crystal; or the map's phases, where it has no atoms.
    center, signal_mask, beam_energy
        As in :func:`pyxem_dl.predict_orientation`.
    device : str
        "auto" (CUDA, else MPS, else CPU) or a name of torch.
    link : bool
        Move together with HyperSpy's navigator, as ``s.plot()`` shows it.

    Returns
    -------
    Explorer
        Jupyter shows it where it is the last line of a cell. ``explorer.x``, ``.threshold`` and the other settings can
        be read and set, ``explorer.xmap`` is the map, ``explorer.code`` are the lines that make it.

    Raises
    ------
    ImportError
        Without the extra ``gui``.
    TypeError, ValueError
        If `what` is none of these, and for a signal with more than two navigation dimensions.

    Notes
    -----
    What is wrong with the signal, the model or the map is said in the viewer's status line, and patterns are shown
    nevertheless.

    Examples
    --------
    >>> s.explore("any-crystal", phases="MgO.cif")  # doctest: +SKIP
    """
    require_anywidget()
    register()
    dimensions = signal.axes_manager.navigation_dimension
    if dimensions > 2:
        raise ValueError(
            f"The viewer shows scans with 0, 1 or 2 navigation dimensions, not {dimensions}: choose a part, as "
            "s.inav[..., 0]."
        )
    named, image = {"model": model}, is_image(signal)
    if image:
        if not (what is None or hasattr(what, "phase_id") or isinstance(what, LatticeMap) or hasattr(what, "data")):
            raise TypeError(
                "Of an image the viewer shows what classify_structure, map_lattice or segment_by_symmetry gave, not "
                f"{type(what).__name__}. For patterns: s.set_signal_type('electron_diffraction')."
            )
    elif hasattr(what, "phase_id"):
        named["xmap"] = what
    elif is_vectors(what):
        named["vectors"] = what
    elif what is None or isinstance(what, (str, Path, Model, OrientationEnsemble, list, tuple)):
        if what is not None and model is not None:
            raise TypeError("Give one model: the first argument, or model= beside a map.")
        named["model"] = model if what is None else what
    else:
        raise TypeError(
            "The viewer shows a model (a name, a folder, or a loaded one), a CrystalMap or DiffractionVectors, not "
            f"{type(what).__name__}."
        )
    given = Given(
        signal, phases=phases, center=center, signal_mask=signal_mask, beam_energy=beam_energy, device=device, **named
    )
    if image:
        sessions = ImageSessions(given, what)
        explorer = Explorer(given, sessions, sessions.result)
    else:
        sessions = Sessions(given)
        explorer = Explorer(given, sessions, CurrentMap(sessions.shape, given.xmap, sessions.map_phases))
    explorer.link = link
    return explorer


def is_image(signal) -> bool:
    """Tell whether a signal is an image in real space: no diffraction signal, and its axes have a unit of length."""
    if hasattr(signal, "calibration"):  # pyxem's
        return False
    try:
        ImageCalibration.from_signal(signal)
    except ValueError:
        return False
    return True
