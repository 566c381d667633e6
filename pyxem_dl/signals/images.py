"""Methods of HyperSpy's images."""

from __future__ import annotations

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without the import
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hyperspy.signals import Signal1D, Signal2D
    from orix.crystal_map import CrystalMap

    from pyxem_dl.annotations import Maps
    from pyxem_dl.images import LatticeMap, PhaseFieldFit
    from pyxem_dl.models import StructureModel
    from pyxem_dl.results.structures import StructureMaps


def segment_by_symmetry(
    self: Signal2D,
    n_regions: int | str = "auto",
    *,
    window: float = 12.0,
    operations: str = "shifts",
    memberships: bool = False,
    seed: int = 0,
    device: str = "auto",
    show_progressbar: bool | None = None,
    on_part: Callable | None = None,
    on_message: Callable | None = None,
) -> Signal2D | tuple[Signal2D, Signal2D]:
    """Divide an atomic-resolution image into regions by its local symmetry alone.

    Parameters
    ----------
    n_regions : int or str, optional
        Number of periodic regions, without label 0. Default is ``"auto"``: it is found.
    window : float, optional
        Side in Å of the windows that are compared; it should hold three cells of the lattice. Default is 12.
    operations : str, optional
        ``"shifts"`` (default), or ``"all"``: rotations and reflections, too.
    memberships : bool, optional
        Return the soft memberships, too. Default is False.
    seed : int, optional
        Of the first clusters. Default is 0.
    device : str, optional
        ``"auto"`` (default: CUDA, else MPS, else CPU) or a torch device such as ``"cuda:1"``.
    show_progressbar : bool, optional
        Default is HyperSpy's preference.
    on_part : callable, optional
        Called with each part of the results as it comes; to return False stops the work, as Ctrl-C does.
    on_message : callable, optional
        Called with each line that would be printed.

    Returns
    -------
    hyperspy.signals.Signal2D
        Integer labels on the axes of the signal: 0 where nothing is periodic, then 1, 2, ..., the largest region first.
        Lazy for a lazy series. With `memberships` a second signal with the shares of each region, from 0 to 1.

    See Also
    --------
    pyxem_dl.segment_by_symmetry : The same as a function, with all errors.
    get_symmetry_descriptors : What it is found by.

    Notes
    -----
    This method was attached by pyxem_dl. Set the environment variable ``PYXEM_DL_NO_AUTOLOAD=1`` to switch it off.

    Examples
    --------
    >>> regions = s.segment_by_symmetry()  # doctest: +SKIP
    >>> regions.plot()  # doctest: +SKIP
    """
    from pyxem_dl.images import segmentation

    return segmentation.segment_by_symmetry(
        self,
        n_regions,
        window=window,
        operations=operations,
        memberships=memberships,
        seed=seed,
        device=device,
        show_progressbar=show_progressbar,
        on_part=on_part,
        on_message=on_message,
    )


def get_symmetry_descriptors(
    self: Signal2D,
    operations: str = "shifts",
    *,
    window: float = 12.0,
    device: str = "auto",
    show_progressbar: bool | None = None,
    on_part: Callable | None = None,
    on_message: Callable | None = None,
) -> Signal1D:
    """Measure how well each part of the image fits onto itself under symmetry operations.

    Parameters
    ----------
    operations : str, optional
        ``"shifts"`` (default), ``"rotations"``, ``"reflections"`` or ``"all"``.
    window : float, optional
        Side in Å of the windows. Default is 12.
    device : str, optional
        ``"auto"`` (default: CUDA, else MPS, else CPU) or a torch device such as ``"cuda:1"``.
    show_progressbar : bool, optional
        Default is HyperSpy's preference.
    on_part : callable, optional
        Called with each part of the results as it comes; to return False stops the work, as Ctrl-C does.
    on_message : callable, optional
        Called with each line that would be printed.

    Returns
    -------
    hyperspy.signals.Signal1D
        Correlations from -1 to 1, (x, y | operation), about every 1 Å; ``metadata.Pyxem_dl.operations`` names them.

    See Also
    --------
    pyxem_dl.get_symmetry_descriptors : The same as a function, with all errors.
    segment_by_symmetry : Regions of the image by these descriptors.

    Notes
    -----
    This method was attached by pyxem_dl. Set the environment variable ``PYXEM_DL_NO_AUTOLOAD=1`` to switch it off.

    Examples
    --------
    >>> d = s.get_symmetry_descriptors()  # doctest: +SKIP
    >>> d.decomposition()  # doctest: +SKIP
    """
    from pyxem_dl.images import segmentation

    return segmentation.get_symmetry_descriptors(
        self,
        operations,
        window=window,
        device=device,
        show_progressbar=show_progressbar,
        on_part=on_part,
        on_message=on_message,
    )


def classify_structure(
    self: Signal2D,
    model: str | Path | StructureModel = "fe-cu-ti",
    *,
    step: float = 1.6,
    smoothing: float = 1.6,
    n_best: int = 1,
    n_samples: int = 20,
    device: str = "auto",
    output: str | Path | None = None,
    overwrite: bool = False,
    show_progressbar: bool | None = None,
    on_part: Callable | None = None,
    on_message: Callable | None = None,
) -> CrystalMap | StructureMaps:
    """Name the structure in every window of the image, with its orientation.

    Parameters
    ----------
    model : str, pathlib.Path or StructureModel, optional
        Name of a bundled model, a model folder, the address of a shared model (see `pyxem_dl.load_model`), or a loaded
        model. Default is ``"fe-cu-ti"``.
    step : float, optional
        Between windows, in Å. Default is 1.6.
    smoothing : float, optional
        Standard deviation in Å of the weights with which neighbouring windows are heard, too; 0: each window by
        itself. Default is 1.6.
    n_best : int, optional
        Number of classes to keep per window, the likeliest first. Default is 1.
    n_samples : int, optional
        Predictions with dropout, from which the mutual information comes. Default is 20.
    device : str, optional
        ``"auto"`` (default: CUDA, else MPS, else CPU) or a torch device such as ``"cuda:1"``.
    output : str or pathlib.Path, optional
        Write the results as they come: ``.zarr``, which :func:`pyxem_dl.open_result` reads; of one image also ``.h5``,
        ``.ang`` or ``.ctf``. Default is None: they are kept in memory.
    overwrite : bool, optional
        Replace an `output` that belongs to other work. Default is False.
    show_progressbar : bool, optional
        Default is HyperSpy's preference.
    on_part : callable, optional
        Called with each part of the results as it comes; to return False stops the work, as Ctrl-C does.
    on_message : callable, optional
        Called with each line that would be printed.

    Returns
    -------
    orix.crystal_map.CrystalMap
        Phase and orientation of each window, with ``score``, ``scores``, ``class_id``, ``other``,
        ``mutual_information`` and ``entropy`` (bits), and the ``scale`` that fits best; ``phase_id`` is −1 where it is
        none of the model's structures. A sequence of maps for a series.

    See Also
    --------
    pyxem_dl.classify_structure : The same as a function, with all details and errors.
    pyxem_dl.train_structures : A model for other crystals.

    Notes
    -----
    This method was attached by pyxem_dl. Set the environment variable ``PYXEM_DL_NO_AUTOLOAD=1`` to switch it off.

    Examples
    --------
    >>> xmap = s.classify_structure()  # doctest: +SKIP
    >>> xmap.plot()  # doctest: +SKIP
    """
    from pyxem_dl.images import classify

    return classify.classify_structure(
        self,
        model,
        step=step,
        smoothing=smoothing,
        n_best=n_best,
        n_samples=n_samples,
        device=device,
        output=output,
        overwrite=overwrite,
        show_progressbar=show_progressbar,
        on_part=on_part,
        on_message=on_message,
    )


def map_lattice(
    self: Signal2D,
    xmap: Maps | None = None,
    *,
    window: float = 12.0,
    step: float = 1.6,
    drift: bool = False,
    device: str = "auto",
    show_progressbar: bool | None = None,
    on_part: Callable | None = None,
    on_message: Callable | None = None,
) -> LatticeMap:
    """Measure the lattice in every window of the image: rotation, both vectors, strain, and their errors.

    Parameters
    ----------
    xmap : orix.crystal_map.CrystalMap, or a sequence of them, optional
        From `classify_structure`: lattices are compared with those of its phases. Default is None: they are found by
        the two shortest peaks of the spectra, and compared with the typical one.
    window : float, optional
        Side of the windows in Å. Default is 12.
    step : float, optional
        Between windows in Å; with an `xmap` its points are the middles. Default is 1.6.
    drift : bool, optional
        Fit the drift of a slow scan, and take it away. It needs an `xmap`. Default is False.
    device : str, optional
        ``"auto"`` (default: CUDA, else MPS, else CPU) or a torch device such as ``"cuda:1"``.
    show_progressbar : bool, optional
        Default is HyperSpy's preference.
    on_part : callable, optional
        Called with each part of the results as it comes; to return False stops the work, as Ctrl-C does.
    on_message : callable, optional
        Called with each line that would be printed.

    Returns
    -------
    pyxem_dl.LatticeMap
        ``rotation`` (degrees, counter-clockwise), ``a``, ``b`` (Å), ``e_xx``, ``e_yy``, ``e_xy``, each with its
        ``_error``, as HyperSpy signals; ``score``, ``crystal``, ``drift``; ``plot()`` and ``save(path)``.

    See Also
    --------
    pyxem_dl.map_lattice : The same as a function, with all details and errors.
    classify_structure : Makes the `xmap`.

    Notes
    -----
    This method was attached by pyxem_dl. Set the environment variable ``PYXEM_DL_NO_AUTOLOAD=1`` to switch it off.

    Examples
    --------
    >>> lattice = s.map_lattice(s.classify_structure())  # doctest: +SKIP
    >>> lattice.rotation.plot()  # doctest: +SKIP
    """
    from pyxem_dl.images import lattice

    return lattice.map_lattice(
        self,
        xmap,
        window=window,
        step=step,
        drift=drift,
        device=device,
        show_progressbar=show_progressbar,
        on_part=on_part,
        on_message=on_message,
    )


def fit_phase_field(
    self: Signal2D,
    equation: str = "allen-cahn",
    *,
    engine: str = "solver",
    noise: str = "auto",
    drift: bool = False,
    device: str = "auto",
    show_progressbar: bool | None = None,
    on_part: Callable | None = None,
    on_message: Callable | None = None,
) -> PhaseFieldFit:
    """Fit the Allen-Cahn or the Cahn-Hilliard equation to a noisy series of images.

    Parameters
    ----------
    equation : str, optional
        ``"allen-cahn"`` (default), ``"cahn-hilliard"``, or ``"auto"``: the one that tells held-out frames better.
    engine : str, optional
        ``"solver"`` (default), a differentiable solver, or ``"network"``, a smooth network of place and time.
    noise : str, optional
        ``"poisson"``, ``"gaussian"``, or ``"auto"`` (default): as the series shows it.
    drift : bool, optional
        Fit a steady drift of the picture, too. Default is False.
    device : str, optional
        ``"auto"`` (default: CUDA, else MPS, else CPU) or a torch device such as ``"cuda:1"``.
    show_progressbar : bool, optional
        Default is HyperSpy's preference.
    on_part : callable, optional
        Called with the share that is done and the parameters so far; to return False stops the work, as Ctrl-C does.
    on_message : callable, optional
        Called with each line that would be printed.

    Returns
    -------
    PhaseFieldFit
        ``parameters`` (value ± error), ``signal`` (the series without noise, lazy), ``residuals`` and ``flags``.

    See Also
    --------
    pyxem_dl.fit_phase_field : The same as a function, with the equations and all errors.

    Notes
    -----
    This method was attached by pyxem_dl. Set the environment variable ``PYXEM_DL_NO_AUTOLOAD=1`` to switch it off.

    Examples
    --------
    >>> fit = series.fit_phase_field("allen-cahn")  # doctest: +SKIP
    >>> print(fit.parameters["D"])  # doctest: +SKIP
    """
    from pyxem_dl.images.phase_field import fitting

    return fitting.fit_phase_field(
        self,
        equation,
        engine=engine,
        noise=noise,
        drift=drift,
        device=device,
        show_progressbar=show_progressbar,
        on_part=on_part,
        on_message=on_message,
    )
