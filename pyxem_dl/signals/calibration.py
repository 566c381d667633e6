"""The method of pyxem's diffraction signals that calibrates them."""

from __future__ import annotations

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without the import
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from orix.crystal_map import Phase, PhaseList
    from pyxem.signals import BeamShift, Diffraction2D

    from pyxem_dl.calibration import FoundCalibration
    from pyxem_dl.models import OrientationModel


def find_calibration(
    self: Diffraction2D,
    phases: str | Path | Phase | PhaseList | Sequence[str | Path | Phase] | None = None,
    *,
    model: str | Path | OrientationModel | None = None,
    n_patterns: int = 400,
    spot_radius: float = 2.0,
    navigation_mask: np.ndarray | None = None,
    signal_mask: np.ndarray | None = None,
    center: str | tuple[float, float] | np.ndarray | BeamShift | None = None,
    beam_energy: float | None = None,
    device: str = "auto",
    on_message: Callable | None = None,
) -> FoundCalibration:
    """Find scale, ellipse, centre and drift of the scan from the patterns of crystals that are known.

    Parameters
    ----------
    phases : orix.crystal_map.Phase, path of a CIF file, or a list of these, optional
        What is in the scan. Not needed for a `model` that was trained for its phases.
    model : str, pathlib.Path or OrientationModel, optional
        What finds the orientations: a name, folder or address, as in `pyxem_dl.load_model`, or a loaded model. Default
        is ``"any-crystal"``.
    n_patterns : int, optional
        Number of patterns that are looked at, spread over the scan. Default is 400.
    spot_radius : float, optional
        Standard deviation of the spots that are looked for, in pixels; for disks some 0.7 of their radius. Default is
        2.
    navigation_mask : numpy.ndarray of bool, optional
        Positions to leave out, with the shape of the navigation dimensions in data order. True = excluded.
    signal_mask : numpy.ndarray of bool, optional
        Detector pixels to leave out (a beam stop, dead pixels), of shape (rows, columns). True = excluded.
    center : str, tuple of float, numpy.ndarray or pyxem.signals.BeamShift, optional
        Position of the direct beam, as for :meth:`predict_orientation`.
    beam_energy : float, optional
        Beam energy in kV. Default is that in the signal's metadata.
    device : str, optional
        ``"auto"`` (default: CUDA, else MPS, else CPU) or a torch device such as ``"cuda:1"``.
    on_message : callable, optional
        Called with each line that would be printed.

    Returns
    -------
    pyxem_dl.FoundCalibration
        Numbers with their errors; ``found.apply(s)`` writes them into the signal.

    See Also
    --------
    pyxem_dl.calibrate : The same as a function, with all errors.

    Notes
    -----
    This method was attached by pyxem_dl. Set the environment variable ``PYXEM_DL_NO_AUTOLOAD=1`` to switch it off.

    Examples
    --------
    >>> found = s.find_calibration("MgO.cif")  # doctest: +SKIP
    >>> found.apply(s)  # doctest: +SKIP
    """
    from pyxem_dl.calibration import finding

    return finding.calibrate(
        self,
        phases,
        model=model,
        n_patterns=n_patterns,
        spot_radius=spot_radius,
        navigation_mask=navigation_mask,
        signal_mask=signal_mask,
        center=center,
        beam_energy=beam_energy,
        device=device,
        on_message=on_message,
    )
