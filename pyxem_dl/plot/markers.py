"""HyperSpy markers: the spots that a map's orientations predict, on every pattern of ``s.plot()``."""

from __future__ import annotations

import math

import numpy as np

from pyxem_dl.crystals import load_phases
from pyxem_dl.frames import Calibration, k_to_pixel
from pyxem_dl.models import load_model
from pyxem_dl.plot.checks import check_map, check_numbers
from pyxem_dl.plot.maps import relative_intensity
from pyxem_dl.progress import progressbar
from pyxem_dl.results.spots import predict_spots
from pyxem_dl.scans import Computing, Field, Scan, Step, stored_centers, stream


def markers(
    signal,
    xmap,
    model=None,
    *,
    phases=None,
    candidate: int = 0,
    beam_energy: float | None = None,
    reciprocal_radius: float | None = None,
    max_excitation_error: float = 0.03,
    center=None,
    color: str = "red",
    sizes: float | None = None,
    show_progressbar: bool | None = None,
    **kwargs,
):
    """Make HyperSpy markers of the spots that the orientations of a map predict.

    They follow the navigator: ``s.plot()``, then ``s.add_marker(markers)``.

    Parameters
    ----------
    signal : pyxem.signals.Diffraction2D
        The calibrated scan, in memory or lazy.
    xmap : orix.crystal_map.CrystalMap
        Of the whole scan, or cropped as `signal` is.
    model : OrientationModel, str or pathlib.Path, optional
        To take the phases from, where the map has none with atoms, as those of ``.ang`` files.
    phases : orix.crystal_map.Phase, path of a CIF file, or an iterable of these, optional
        The same, in the order in which they were given when the map was made.
    candidate : int
        Which of the map's ``n_best`` orientations; 0 is the best.
    beam_energy : float, optional
        In kV; by default the signal's, or else the model's.
    reciprocal_radius : float, optional
        How far out spots are marked, in Å⁻¹; by default to the detector's nearest edge.
    max_excitation_error : float
        Largest distance of marked reflections from the Ewald sphere, in Å⁻¹.
    center : optional
        Direct beam, as given to `predict_orientation`: (row, column), an array (y, x, 2) of these, ``"auto"``, or
        pyxem's ``BeamShift``; by default the calibration's.
    color : str
        Of the circles.
    sizes : float, optional
        Of all circles, in points; by default they grow with the kinematical intensity.
    show_progressbar : bool, optional
        By default HyperSpy's preference.
    **kwargs
        Passed to HyperSpy's ``Points``, as ``linewidth``.

    Returns
    -------
    hyperspy.api.plot.markers.Points
        In the units of the signal axes.  No circle where nothing is indexed; the direct beam has none.

    Raises
    ------
    TypeError, ValueError
        For a map of another scan, phases without atoms, and a signal without calibration or beam energy; the message
        says what to do.

    Examples
    --------
    >>> xmap = s.predict_orientation(phases="MgO.cif")  # doctest: +SKIP
    >>> s.plot()  # doctest: +SKIP
    >>> s.add_marker(pyxem_dl.plot.markers(s, xmap))  # doctest: +SKIP
    """
    from hyperspy.api import plot

    shape = tuple(signal.axes_manager._navigation_shape_in_array)
    place = places_of(xmap, shape)
    model = None if model is None else load_model(model)
    calibration, centers = _read_signal(signal, model, beam_energy, center)
    radius = reciprocal_radius or calibration.reciprocal_radius
    check_numbers(max_excitation_error=max_excitation_error, reciprocal_radius=radius)
    quaternions, phase_id = candidate_of(xmap, candidate)
    known = phases_of(xmap, model, phases)
    check_phases(phase_id, known)
    with progressbar(int((phase_id >= 0).sum()), show_progressbar, unit=" orientations") as bar:
        spots = predict_spots(
            quaternions, phase_id, known, calibration.beam_energy, radius,
            max_excitation_error=max_excitation_error, progress=bar.update,
        )  # fmt: skip
    direct_beam = None if centers is None else tuple(centers[place[spots.owner]].T)
    row, column = k_to_pixel(spots.xyz[:, 0], spots.xyz[:, 1], calibration, direct_beam)
    x_axis, y_axis = signal.axes_manager.signal_axes
    offsets = np.stack([x_axis.offset + x_axis.scale * column, y_axis.offset + y_axis.scale * row], axis=1)
    size = 6 + 12 * relative_intensity(spots, max_excitation_error) ** 0.5
    columns = {"offsets": _ragged(spots.split(offsets), place, shape, np.zeros((0, 2)))}
    columns["sizes"] = _ragged(spots.split(size), place, shape, np.zeros(0)) if sizes is None else sizes
    return plot.markers.Points(**columns, **({"facecolor": "none", "edgecolor": color} | kwargs))


def places_of(xmap, shape: tuple[int, ...]) -> np.ndarray:
    """Flat index into the signal (n,) of each point in a map's data."""
    if hasattr(xmap, "is_in_data") and xmap.is_in_data.size != math.prod(shape) and _long(xmap.shape) == _long(shape):
        return np.arange(xmap.size)  # both were cropped
    check_map(xmap, shape)
    return xmap.id


def _long(shape) -> tuple[int, ...]:
    """Shape without the dimensions of one position, which a cropped map keeps and a signal does not."""
    return tuple(n for n in shape if n != 1)


def _read_signal(signal, model, beam_energy, center) -> tuple[Calibration, np.ndarray | None]:
    """Calibration with a beam energy, and direct beams (n, 2) where they are not the calibration's."""
    if beam_energy is None and not signal.metadata.get_item("Acquisition_instrument.TEM.beam_energy"):
        beam_energy = None if model is None else model.domain.get("beam_energy")
    if center is None:
        calibration = Calibration.from_signal(signal, beam_energy)
        centers = stored_centers(signal, calibration)
        centers = None if centers is None else centers.reshape(-1, 2)
    else:
        scan = Scan.from_signal(signal, center=center, beam_energy=beam_energy)
        calibration, centers = scan.calibration, scan.centers
        if isinstance(centers, str):
            centers = np.zeros((scan.size, 2))
            for part in stream(scan.data, _Centers(scan), Computing(show_progressbar=False)):
                centers[part.indices] = part.arrays["center"]
    _ = calibration.wavelength  # its error, before anything is computed
    return calibration, centers


class _Centers(Step):
    """Finds the direct beam in each pattern."""

    fields = {"center": Field((2,), "float32")}

    def __init__(self, scan: Scan) -> None:
        self.scan = scan.without_data()

    def __call__(self, patterns, indices):
        found = self.scan.batch_centers(patterns, indices)
        if found is None:
            found = patterns.new_tensor(self.scan.calibration.center).expand(len(indices), 2)
        return {"center": found}


def candidate_of(xmap, candidate: int) -> tuple[np.ndarray, np.ndarray]:
    """Quaternions (n, 4) and phases (n,) of a candidate at the points in a map's data."""
    n_best = xmap.rotations_per_point
    if isinstance(candidate, bool) or candidate not in range(n_best):
        raise ValueError(f"candidate must be a whole number from 0 (the best) to {n_best - 1}, not {candidate!r}.")
    phase_id = xmap.phase_id
    if candidate and "candidate_phase_id" in xmap.prop:
        other = np.asarray(xmap.prop["candidate_phase_id"]).reshape(xmap.size, n_best)[:, candidate]
        phase_id = np.where(phase_id >= 0, other, -1)
    return xmap.rotations.data.reshape(xmap.size, n_best, 4)[:, candidate], phase_id


def phases_of(xmap, model, phases) -> dict:
    """Phases by the map's numbers, with atoms where they are given."""
    known = {key: phase for key, phase in xmap.phases if key >= 0}
    given = list(model.phases) if model is not None else []
    given += [] if phases is None else load_phases(phases)
    if len(known) == len(given) == 1:
        return dict.fromkeys(known, given[0])
    # orix drops phases that are nowhere the best, and further candidates may be of these
    named = {phase.name: phase for phase in given}
    return dict(enumerate(given)) | {key: named.get(phase.name, phase) for key, phase in known.items()}


def check_phases(phase_id, known: dict) -> None:
    """Raise an error that says what to give, if phases (n,) of candidates are not among the known ones."""
    missing = sorted({int(key) for key in np.unique(phase_id)} - {*known, -1})
    if missing:
        raise ValueError(
            f"These candidates belong to phases that the map does not hold (ids {missing}). Give the model, or all "
            "phases in the order in which they were given when the map was made."
        )


def _ragged(parts: list, place, shape: tuple[int, ...], empty):
    """Arrays for each position, in HyperSpy's order (x, y); one array for a single pattern."""
    if not shape:
        return parts[0] if parts else empty
    every = np.empty(math.prod(shape), dtype=object)
    every[:] = [empty] * len(every)
    for i, part in zip(place, parts, strict=True):
        every[i] = part
    return every.reshape(shape).T
