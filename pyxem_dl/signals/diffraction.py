"""Methods of pyxem's diffraction signals."""

from __future__ import annotations

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without the import
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    from orix.crystal_map import CrystalMap, Phase, PhaseList
    from pyxem.signals import BeamShift, Diffraction2D, DiffractionVectors

    from pyxem_dl.calibration import FoundCalibration
    from pyxem_dl.models import BraggModel, OrientationModel
    from pyxem_dl.patterns.probes import Probe
    from pyxem_dl.scans import Partial


def predict_orientation(
    self: Diffraction2D,
    model: str | Path | OrientationModel | Sequence[str | Path | OrientationModel] | None = None,
    *,
    phases: str | Path | Phase | PhaseList | Sequence[str | Path | Phase] | None = None,
    calibrate: bool | FoundCalibration = False,
    n_best: int = 1,
    n_samples: int = 0,
    overlap: bool = False,
    refine: bool | dict = False,
    navigation_mask: np.ndarray | None = None,
    signal_mask: np.ndarray | None = None,
    center: str | tuple[float, float] | np.ndarray | BeamShift | None = None,
    beam_energy: float | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    show_progressbar: bool | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    on_part: Callable | None = None,
    on_message: Callable | None = None,
) -> CrystalMap:
    """Predict the crystal orientation at every position of the scan with a trained network.

    Parameters
    ----------
    model : str, pathlib.Path or OrientationModel, or a list of these, optional
        Name of a bundled model (see `pyxem_dl.list_models`), a model folder, the address of a shared model (see
        `pyxem_dl.load_model`), or a loaded model. A list of models of the same phases is used as an ensemble. Default
        is ``"any-crystal"``, which has to be told the `phases`.
    phases : orix.crystal_map.Phase, path of a CIF file, or a list of these, optional
        What may be in the scan, for a model that takes any crystal. Several phases are told apart.
    calibrate : bool or FoundCalibration, optional
        True: find scale, ellipse and centre of the scan first, as :meth:`find_calibration` does, and use them; or use
        what that found. The signal stays as it is. Default is False.
    n_best : int, optional
        Number of separated orientations to keep per position, the best first. Default is 1.
    n_samples : int, optional
        Number of predictions with dropout (Monte-Carlo dropout). The map then has the mean of the largest group of
        predictions that lie within 10 degrees of each other, and their uncertainty. Default is 0: one prediction
        without dropout.
    overlap : bool, optional
        Look for up to three crystals at each position that lie above each other, and for their shares. For the model
        ``"any-crystal"`` and its like; it takes some ten times as long. Default is False.
    refine : bool or dict, optional
        Refine the best orientations by Bloch waves, and find thicknesses, as :func:`pyxem_dl.refine_orientation` does
        it; or a dict of its settings, such as ``{"thickness": (20, 1500), "absorption": True}``. Default is False.
    navigation_mask : numpy.ndarray of bool, optional
        Positions to leave out, with the shape of the navigation dimensions in data order. True = excluded.
    signal_mask : numpy.ndarray of bool, optional
        Detector pixels to leave out (a beam stop, dead pixels), of shape (rows, columns). True = excluded.
    center : str, tuple of float, numpy.ndarray or pyxem.signals.BeamShift, optional
        Position of the direct beam: ``"auto"`` to find it in each pattern, (row, column) in pixels, an array
        (y, x, 2) of these, or pyxem's ``BeamShift``. Default is that of the signal's calibration.
    beam_energy : float, optional
        Beam energy in kV. Default is that in the signal's metadata.
    batch_size : int, optional
        Number of patterns on the device at once. Default depends on the device.
    device : str, optional
        ``"auto"`` (default: CUDA, else MPS, else CPU) or a torch device such as ``"cuda:1"``.
    show_progressbar : bool, optional
        Default is HyperSpy's preference.
    output : str or pathlib.Path, optional
        File to write to while the work goes on: a ``.zarr`` store, for :func:`pyxem_dl.open_result`, or
        ``.h5``, ``.ang`` or ``.ctf``. A second call with the same arguments continues after an
        interruption. Default is to keep all in memory.
    overwrite : bool, optional
        Replace a file that is there. Default is False.
    on_part : callable, optional
        Called with each part of the results as it comes; to return False stops the work, as Ctrl-C does.
    on_message : callable, optional
        Called with each line that would be printed.

    Returns
    -------
    orix.crystal_map.CrystalMap
        Rotations lab → crystal, shape (n, n_best), with the properties ``scores`` (greater is better), ``score``
        (the best of them, shape (n,)), ``reliability``, and ``uncertainty`` (degrees) with `n_samples` or several
        models; ``phase_id`` is −1 where nothing was indexed. With `overlap` the rotations have the shape (n, 3), and
        ``share`` (n, 3) and ``n_crystals`` (n,) say which of them are crystals.

    See Also
    --------
    pyxem_dl.orientation.predict_orientation : The same as a function, with all details and errors.
    match_templates : The baseline to check against.
    pyxem_dl.plot.markers : Show the predicted spots on the patterns.

    Notes
    -----
    This method was attached by pyxem_dl. Set the environment variable ``PYXEM_DL_NO_AUTOLOAD=1`` to switch it off.

    Examples
    --------
    >>> import hyperspy.api as hs
    >>> s = hs.load("scan.zspy", lazy=True)  # doctest: +SKIP
    >>> xmap = s.predict_orientation(phases="MgO.cif", n_best=3)  # doctest: +SKIP
    """
    from pyxem_dl import orientation

    return orientation.predict_orientation(
        self,
        model,
        phases=phases,
        calibrate=calibrate,
        n_best=n_best,
        n_samples=n_samples,
        overlap=overlap,
        refine=refine,
        navigation_mask=navigation_mask,
        signal_mask=signal_mask,
        center=center,
        beam_energy=beam_energy,
        batch_size=batch_size,
        device=device,
        show_progressbar=show_progressbar,
        output=output,
        overwrite=overwrite,
        on_part=on_part,
        on_message=on_message,
    )


def iter_predict_orientation(
    self: Diffraction2D,
    model: str | Path | OrientationModel | Sequence[str | Path | OrientationModel] | None = None,
    *,
    phases: str | Path | Phase | PhaseList | Sequence[str | Path | Phase] | None = None,
    calibrate: bool | FoundCalibration = False,
    n_best: int = 1,
    n_samples: int = 0,
    overlap: bool = False,
    navigation_mask: np.ndarray | None = None,
    signal_mask: np.ndarray | None = None,
    center: str | tuple[float, float] | np.ndarray | BeamShift | None = None,
    beam_energy: float | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    show_progressbar: bool | None = None,
    on_message: Callable | None = None,
) -> Iterator[Partial]:
    """Predict the crystal orientations of the scan, and see the map grow.

    Parameters
    ----------
    model : str, pathlib.Path or OrientationModel, or a list of these, optional
        Name of a bundled model (see `pyxem_dl.list_models`), a model folder, the address of a shared model (see
        `pyxem_dl.load_model`), or a loaded model. A list of models of the same phases is used as an ensemble. Default
        is ``"any-crystal"``, which has to be told the `phases`.
    phases : orix.crystal_map.Phase, path of a CIF file, or a list of these, optional
        What may be in the scan, for a model that takes any crystal. Several phases are told apart.
    calibrate : bool or FoundCalibration, optional
        True: find scale, ellipse and centre of the scan first, as :meth:`find_calibration` does, and use them; or use
        what that found. The signal stays as it is. Default is False.
    n_best : int, optional
        Number of separated orientations to keep per position, the best first. Default is 1.
    n_samples : int, optional
        Number of predictions with dropout (Monte-Carlo dropout). The map then has the mean of the largest group of
        predictions that lie within 10 degrees of each other, and their uncertainty. Default is 0: one prediction
        without dropout.
    overlap : bool, optional
        Look for up to three crystals at each position that lie above each other, and for their shares. Default is
        False.
    navigation_mask : numpy.ndarray of bool, optional
        Positions to leave out, with the shape of the navigation dimensions in data order. True = excluded.
    signal_mask : numpy.ndarray of bool, optional
        Detector pixels to leave out (a beam stop, dead pixels), of shape (rows, columns). True = excluded.
    center : str, tuple of float, numpy.ndarray or pyxem.signals.BeamShift, optional
        Position of the direct beam: ``"auto"`` to find it in each pattern, (row, column) in pixels, an array
        (y, x, 2) of these, or pyxem's ``BeamShift``. Default is that of the signal's calibration.
    beam_energy : float, optional
        Beam energy in kV. Default is that in the signal's metadata.
    batch_size : int, optional
        Number of patterns on the device at once. Default depends on the device.
    device : str, optional
        ``"auto"`` (default: CUDA, else MPS, else CPU) or a torch device such as ``"cuda:1"``.
    show_progressbar : bool, optional
        Default is HyperSpy's preference.
    on_message : callable, optional
        Called with each line that would be printed.

    Yields
    ------
    pyxem_dl.scans.Partial
        After each batch, always the same object: ``partial.done`` (bool, of the navigation's shape in data order),
        ``partial.n_done`` of ``partial.n`` positions, and ``partial.to_crystal_map()``. Leave the loop to stop.

    See Also
    --------
    pyxem_dl.orientation.iter_predict_orientation : The same as a function.
    predict_orientation : The whole map at once.

    Notes
    -----
    This method was attached by pyxem_dl. Set the environment variable ``PYXEM_DL_NO_AUTOLOAD=1`` to switch it off.

    Examples
    --------
    >>> for partial in s.iter_predict_orientation(phases="Al.cif"):  # doctest: +SKIP
    ...     print(partial)
    """
    from pyxem_dl import orientation

    return orientation.iter_predict_orientation(
        self,
        model,
        phases=phases,
        calibrate=calibrate,
        n_best=n_best,
        n_samples=n_samples,
        overlap=overlap,
        navigation_mask=navigation_mask,
        signal_mask=signal_mask,
        center=center,
        beam_energy=beam_energy,
        batch_size=batch_size,
        device=device,
        show_progressbar=show_progressbar,
        on_message=on_message,
    )


def match_templates(
    self: Diffraction2D | DiffractionVectors,
    phases: str | Path | Phase | PhaseList | Sequence[str | Path | Phase],
    *,
    n_best: int = 1,
    engine: str = "torch",
    resolution: float = 1.0,
    reciprocal_radius: float | None = None,
    max_excitation_error: float = 0.08,
    beam_energy: float | None = None,
    navigation_mask: np.ndarray | None = None,
    signal_mask: np.ndarray | None = None,
    center: str | tuple[float, float] | np.ndarray | BeamShift | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    show_progressbar: bool | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    on_part: Callable | None = None,
    on_message: Callable | None = None,
) -> CrystalMap:
    """Find the crystal orientation at every position of the scan by matching simulated templates.

    This is the baseline to check `predict_orientation` against; it returns the same type. Of diffraction vectors the
    orientations are refined: positions, intensities and, where there is one, q_z.

    Parameters
    ----------
    phases : str, pathlib.Path, orix.crystal_map.Phase, orix.crystal_map.PhaseList, or a sequence of these
        The crystals, or the CIF files that describe them.
    n_best : int, optional
        Number of separated orientations to keep per position, the best first. Default is 1.
    engine : {"torch", "pyxem"}, optional
        ``"torch"`` (default) is pyxem_dl's own, batched on the device; ``"pyxem"`` is pyxem's template matching.
    resolution : float, optional
        Step between the zone axes of the templates in degrees. Default is 1.0; of vectors it is at least 3.
    reciprocal_radius : float, optional
        Largest ``|k|`` of the templates in Å⁻¹. Default is the detector's nearest edge.
    max_excitation_error : float, optional
        Largest distance of a reflection from the Ewald sphere in Å⁻¹. Default is 0.08.
    beam_energy : float, optional
        Beam energy in kV. Default is that in the signal's metadata.
    navigation_mask : numpy.ndarray of bool, optional
        Positions to leave out, with the shape of the navigation dimensions in data order. True = excluded.
    signal_mask : numpy.ndarray of bool, optional
        Detector pixels to leave out (a beam stop, dead pixels), of shape (rows, columns). True = excluded.
    center : str, tuple of float, numpy.ndarray or pyxem.signals.BeamShift, optional
        Position of the direct beam: ``"auto"`` to find it in each pattern, (row, column) in pixels, an array
        (y, x, 2) of these, or pyxem's ``BeamShift``. Default is that of the signal's calibration.
    batch_size : int, optional
        Number of patterns on the device at once. Default depends on the device.
    device : str, optional
        ``"auto"`` (default: CUDA, else MPS, else CPU) or a torch device such as ``"cuda:1"``.
    show_progressbar : bool, optional
        Default is HyperSpy's preference.
    output : str or pathlib.Path, optional
        File to write to while the work goes on: a ``.zarr`` store, for :func:`pyxem_dl.open_result`, or
        ``.h5``, ``.ang`` or ``.ctf``. A second call with the same arguments continues after an
        interruption. Default is to keep all in memory.
    overwrite : bool, optional
        Replace a file that is there. Default is False.
    on_part : callable, optional
        Called with each part of the results as it comes; to return False stops the work, as Ctrl-C does.
    on_message : callable, optional
        Called with each line that would be printed.

    Returns
    -------
    orix.crystal_map.CrystalMap
        Rotations lab → crystal, shape (n, n_best), with the properties ``scores`` (greater is better), ``score``
        (the best of them, shape (n,)), ``reliability`` and ``simulation_indices``; ``phase_id`` is −1 where nothing
        was indexed.

    See Also
    --------
    pyxem_dl.template_matching.match_templates : The same as a function, with all details and errors.
    predict_orientation : The same by a trained network.

    Notes
    -----
    This method was attached by pyxem_dl. Set the environment variable ``PYXEM_DL_NO_AUTOLOAD=1`` to switch it off.
    """
    from pyxem_dl.template_matching import matching

    return matching.match_templates(
        self,
        phases,
        n_best=n_best,
        engine=engine,
        resolution=resolution,
        reciprocal_radius=reciprocal_radius,
        max_excitation_error=max_excitation_error,
        beam_energy=beam_energy,
        navigation_mask=navigation_mask,
        signal_mask=signal_mask,
        center=center,
        batch_size=batch_size,
        device=device,
        show_progressbar=show_progressbar,
        output=output,
        overwrite=overwrite,
        on_part=on_part,
        on_message=on_message,
    )


def match_disks(
    self: Diffraction2D,
    probe: Probe | Diffraction2D | np.ndarray | None = None,
    *,
    threshold: float | None = None,
    min_distance: float | None = None,
    max_peaks: int = 200,
    subpixel: bool = True,
    reciprocal_radius: float | None = None,
    subtract_center: bool = True,
    navigation_mask: np.ndarray | None = None,
    signal_mask: np.ndarray | None = None,
    center: str | tuple[float, float] | np.ndarray | BeamShift | None = None,
    beam_energy: float | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    show_progressbar: bool | None = None,
    lazy_output: bool = False,
    output: str | Path | None = None,
    overwrite: bool = False,
    on_part: Callable | None = None,
    on_message: Callable | None = None,
) -> DiffractionVectors:
    """Find the Bragg disks at every position of the scan by correlation with the probe.

    Parameters
    ----------
    probe : Probe, signal or numpy.ndarray of shape (rows, columns), optional
        The undiffracted disk, or a pattern measured in vacuum. Default is to estimate it from the direct beam of 64
        patterns.
    threshold : float, optional
        Smallest confidence, between 0 and 1: the correlation with the probe. Default depends on the probe's radius.
    min_distance : float, optional
        Smallest distance of two disks in pixels. Default is the probe's radius, and at least 2.
    max_peaks : int, optional
        Largest number of disks per pattern; the most confident ones are kept. Default is 200.
    subpixel : bool, optional
        Fit the position of each disk to a fraction of a pixel. Default is True.
    reciprocal_radius : float, optional
        Leave out disks farther from the beam than this, in Å⁻¹. Default is to keep all.
    subtract_center : bool, optional
        Measure positions from the direct beam (default), else from the first pixel.
    navigation_mask : numpy.ndarray of bool, optional
        Positions to leave out, with the shape of the navigation dimensions in data order. True = excluded.
    signal_mask : numpy.ndarray of bool, optional
        Detector pixels to leave out (a beam stop, dead pixels), of shape (rows, columns). True = excluded.
    center : str, tuple of float, numpy.ndarray or pyxem.signals.BeamShift, optional
        Position of the direct beam: ``"auto"`` to find it in each pattern, (row, column) in pixels, an array
        (y, x, 2) of these, or pyxem's ``BeamShift``. Default is that of the signal's calibration.
    beam_energy : float, optional
        Beam energy in kV, for signal axes that are angles. Default is the one in the signal's metadata.
    batch_size : int, optional
        Number of patterns on the device at once. Default depends on the device.
    device : str, optional
        ``"auto"`` (default: CUDA, else MPS, else CPU) or a torch device such as ``"cuda:1"``.
    show_progressbar : bool, optional
        Default is HyperSpy's preference.
    lazy_output : bool, optional
        Return lazy vectors, and compute nothing yet. Default is False.
    output : str or pathlib.Path, optional
        File to write to while the work goes on: a ``.zarr`` store, for :func:`pyxem_dl.open_result`, or
        ``.hspy``, ``.zspy``, ``.h5`` or ``.emd``. A second call with the same arguments continues after an
        interruption. Default is to keep all in memory.
    overwrite : bool, optional
        Replace a file that is there. Default is False.
    on_part : callable, optional
        Called with each part of the results as it comes; to return False stops the work, as Ctrl-C does.
    on_message : callable, optional
        Called with each line that would be printed.

    Returns
    -------
    pyxem.signals.DiffractionVectors
        Columns ky, kx (in the units of the signal axes), intensity above the background, and confidence.

    See Also
    --------
    pyxem_dl.bragg_vectors.match_disks : The same as a function, with all details and errors.
    predict_bragg_vectors : The same by a trained network.

    Notes
    -----
    This method was attached by pyxem_dl. Set the environment variable ``PYXEM_DL_NO_AUTOLOAD=1`` to switch it off.
    """
    from pyxem_dl.bragg_vectors import correlation

    return correlation.match_disks(
        self,
        probe,
        threshold=threshold,
        min_distance=min_distance,
        max_peaks=max_peaks,
        subpixel=subpixel,
        reciprocal_radius=reciprocal_radius,
        subtract_center=subtract_center,
        navigation_mask=navigation_mask,
        signal_mask=signal_mask,
        center=center,
        beam_energy=beam_energy,
        batch_size=batch_size,
        device=device,
        show_progressbar=show_progressbar,
        lazy_output=lazy_output,
        output=output,
        overwrite=overwrite,
        on_part=on_part,
        on_message=on_message,
    )


def predict_bragg_vectors(
    self: Diffraction2D,
    model: str | Path | BraggModel = "bragg-disks",
    probe: Probe | Diffraction2D | np.ndarray | None = None,
    *,
    threshold: float | None = None,
    max_peaks: int = 200,
    n_samples: int = 0,
    reciprocal_radius: float | None = None,
    subtract_center: bool = True,
    navigation_mask: np.ndarray | None = None,
    signal_mask: np.ndarray | None = None,
    center: str | tuple[float, float] | np.ndarray | BeamShift | None = None,
    beam_energy: float | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    show_progressbar: bool | None = None,
    lazy_output: bool = False,
    output: str | Path | None = None,
    overwrite: bool = False,
    on_part: Callable | None = None,
    on_message: Callable | None = None,
) -> DiffractionVectors:
    """Find the Bragg disks at every position of the scan with a trained network, for any crystal.

    Parameters
    ----------
    model : str, pathlib.Path or BraggModel, optional
        Name of a bundled model, a model folder, the address of a shared model (see `pyxem_dl.load_model`), or a loaded
        model. Default is ``"bragg-disks"``.
    probe : Probe, signal or numpy.ndarray of shape (rows, columns), optional
        The undiffracted disk, or a pattern measured in vacuum. Default is to estimate it from the direct beam of 64
        patterns.
    threshold : float, optional
        Smallest confidence, between 0 and 1. Default is the model's.
    max_peaks : int, optional
        Largest number of disks per pattern; the most confident ones are kept. Default is 200.
    n_samples : int, optional
        Number of predictions with dropout; their variances are two more columns. Default is 0: one prediction without
        dropout.
    reciprocal_radius : float, optional
        Leave out disks farther from the beam than this, in Å⁻¹. Default is to keep all.
    subtract_center : bool, optional
        Measure positions from the direct beam (default), else from the first pixel.
    navigation_mask : numpy.ndarray of bool, optional
        Positions to leave out, with the shape of the navigation dimensions in data order. True = excluded.
    signal_mask : numpy.ndarray of bool, optional
        Detector pixels to leave out (a beam stop, dead pixels), of shape (rows, columns). True = excluded.
    center : str, tuple of float, numpy.ndarray or pyxem.signals.BeamShift, optional
        Position of the direct beam: ``"auto"`` to find it in each pattern, (row, column) in pixels, an array
        (y, x, 2) of these, or pyxem's ``BeamShift``. Default is that of the signal's calibration.
    beam_energy : float, optional
        Beam energy in kV, for signal axes that are angles. Default is the one in the signal's metadata.
    batch_size : int, optional
        Number of patterns on the device at once. Default depends on the device.
    device : str, optional
        ``"auto"`` (default: CUDA, else MPS, else CPU) or a torch device such as ``"cuda:1"``.
    show_progressbar : bool, optional
        Default is HyperSpy's preference.
    lazy_output : bool, optional
        Return lazy vectors, and compute nothing yet. Default is False.
    output : str or pathlib.Path, optional
        File to write to while the work goes on: a ``.zarr`` store, for :func:`pyxem_dl.open_result`, or
        ``.hspy``, ``.zspy``, ``.h5`` or ``.emd``. A second call with the same arguments continues after an
        interruption. Default is to keep all in memory.
    overwrite : bool, optional
        Replace a file that is there. Default is False.
    on_part : callable, optional
        Called with each part of the results as it comes; to return False stops the work, as Ctrl-C does.
    on_message : callable, optional
        Called with each line that would be printed.

    Returns
    -------
    pyxem.signals.DiffractionVectors
        Columns ky, kx (in the units of the signal axes), intensity above the background, confidence, position_error
        (in the units of the signal axes), v_g (V_g x thickness in V Å) and q_z (out of the plane, in Å⁻¹) with their
        errors v_g_error and q_z_error.

    See Also
    --------
    pyxem_dl.bragg_vectors.predict_bragg_vectors : The same as a function, with all details and errors.
    match_disks : The baseline to check against.

    Notes
    -----
    This method was attached by pyxem_dl. Set the environment variable ``PYXEM_DL_NO_AUTOLOAD=1`` to switch it off.
    """
    from pyxem_dl.bragg_vectors import detection

    return detection.predict_bragg_vectors(
        self,
        model,
        probe,
        threshold=threshold,
        max_peaks=max_peaks,
        n_samples=n_samples,
        reciprocal_radius=reciprocal_radius,
        subtract_center=subtract_center,
        navigation_mask=navigation_mask,
        signal_mask=signal_mask,
        center=center,
        beam_energy=beam_energy,
        batch_size=batch_size,
        device=device,
        show_progressbar=show_progressbar,
        lazy_output=lazy_output,
        output=output,
        overwrite=overwrite,
        on_part=on_part,
        on_message=on_message,
    )
