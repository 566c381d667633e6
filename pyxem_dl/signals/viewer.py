"""The method that opens a viewer."""

from __future__ import annotations

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without the import
if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from hyperspy._signals.signal2d import Signal2D
    from orix.crystal_map import CrystalMap, Phase, PhaseList
    from pyxem.signals import BeamShift, DiffractionVectors

    from pyxem_dl.gui import Explorer
    from pyxem_dl.models import BraggModel, OrientationModel


def explore(
    self: Signal2D,
    what: str | Path | OrientationModel | BraggModel | CrystalMap | DiffractionVectors | None = None,
    *,
    model: str | Path | OrientationModel | None = None,
    phases: str | Path | Phase | PhaseList | Sequence[str | Path | Phase] | None = None,
    center: str | tuple[float, float] | np.ndarray | BeamShift | None = None,
    signal_mask: np.ndarray | None = None,
    beam_energy: float | None = None,
    device: str = "auto",
    link: bool = False,
) -> Explorer:
    """Look at the scan by mouse: each pattern with the spots of the orientation that is found there.

    Parameters
    ----------
    what : str, pathlib.Path, model, orix.crystal_map.CrystalMap or pyxem.signals.DiffractionVectors, optional
        Whose answers are shown: an orientation model or a detector of disks (a name, folder or address, as in
        `pyxem_dl.load_model`, or a loaded model), which is asked at every position; or a finished map, or vectors, of
        this scan. Default is ``"any-crystal"``.
    model : str, pathlib.Path or OrientationModel, optional
        With a map: the model that can be asked beside it, named in the same ways.
    phases : orix.crystal_map.Phase, path of a CIF file, or a list of these, optional
        What may be there, for a model that takes any crystal; or the map's phases, where it has no atoms.
    center : str, tuple of float, numpy.ndarray or pyxem.signals.BeamShift, optional
        Position of the direct beam, as in :meth:`predict_orientation`. Default is that of the signal's calibration.
    signal_mask : numpy.ndarray of bool, optional
        Detector pixels to leave out (a beam stop, dead pixels), of shape (rows, columns). True = excluded.
    beam_energy : float, optional
        Beam energy in kV. Default is that in the signal's metadata.
    device : str, optional
        ``"auto"`` (default: CUDA, else MPS, else CPU) or a torch device such as ``"cuda:1"``.
    link : bool, optional
        Move together with HyperSpy's navigator, as ``s.plot()`` shows it. Default is False.

    Returns
    -------
    pyxem_dl.gui.Explorer
        Jupyter shows it where it is the last line of a cell.

    See Also
    --------
    pyxem_dl.explore : The same as a function, with all details and errors.

    Notes
    -----
    This method was attached by pyxem_dl. Set the environment variable ``PYXEM_DL_NO_AUTOLOAD=1`` to switch it off.

    Examples
    --------
    >>> s.explore("any-crystal", phases="MgO.cif")  # doctest: +SKIP
    """
    from pyxem_dl.gui import opening

    return opening.explore(
        self,
        what,
        model=model,
        phases=phases,
        center=center,
        signal_mask=signal_mask,
        beam_energy=beam_energy,
        device=device,
        link=link,
    )
