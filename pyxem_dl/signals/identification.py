"""The method of pyxem's diffraction signals that tells which phases are there."""

from __future__ import annotations

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without the import
if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from orix.crystal_map import Phase, PhaseList
    from pyxem.signals import BeamShift, Diffraction2D

    from pyxem_dl.identification import Identified
    from pyxem_dl.models import OrientationModel


def identify_phases(
    self: Diffraction2D,
    phases: str | Path | Phase | PhaseList | Sequence[str | Path | Phase],
    *,
    model: str | Path | OrientationModel | None = None,
    n_patterns: int = 200,
    seed: int = 0,
    navigation_mask: np.ndarray | None = None,
    signal_mask: np.ndarray | None = None,
    center: str | tuple[float, float] | np.ndarray | BeamShift | None = None,
    beam_energy: float | None = None,
    device: str = "auto",
    show_progressbar: bool | None = None,
) -> Identified:
    """Find out which of many phases are in the scan, and how sure that is.

    Parameters
    ----------
    phases : str, pathlib.Path, orix.crystal_map.Phase, orix.crystal_map.PhaseList, or a sequence of these
        What may be there: CIF files, folders of them, or phases.
    model : str, pathlib.Path or OrientationModel, optional
        That takes phases: a name, folder or address, as in `pyxem_dl.load_model`, or a loaded model. Default is
        ``"any-crystal"``.
    n_patterns : int, optional
        How many patterns are looked at, spread over the scan. Default is 200.
    seed : int, optional
        Of the places of these. Default is 0.
    navigation_mask : numpy.ndarray of bool, optional
        True = excluded; of the navigation's shape in data order, (y, x).
    signal_mask : numpy.ndarray of bool, optional
        True = excluded, of the pattern's shape.
    center : optional
        Position of the direct beam, as of `predict_orientation`.
    beam_energy : float, optional
        In kV; by default that in the signal's metadata.
    device : str, optional
        ``"auto"`` (CUDA, else MPS, else CPU) or a name of torch. Default is ``"auto"``.
    show_progressbar : bool, optional
        By default HyperSpy's preference.

    Returns
    -------
    pyxem_dl.Identified
        ``print`` shows a table; ``phases`` are those that are there, for `predict_orientation`.

    See Also
    --------
    pyxem_dl.identification.identify_phases : The same as a function, with all details and errors.

    Notes
    -----
    This method was attached by pyxem_dl. Set the environment variable ``PYXEM_DL_NO_AUTOLOAD=1`` to switch it off.

    Examples
    --------
    >>> found = s.identify_phases(["MgO.cif", "C.cif"])  # doctest: +SKIP
    >>> xmap = s.predict_orientation(phases=found.phases)  # doctest: +SKIP
    """
    from pyxem_dl.identification import identify

    return identify.identify_phases(
        self,
        phases,
        model=model,
        n_patterns=n_patterns,
        seed=seed,
        navigation_mask=navigation_mask,
        signal_mask=signal_mask,
        center=center,
        beam_energy=beam_energy,
        device=device,
        show_progressbar=show_progressbar,
    )
