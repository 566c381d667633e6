"""Template matching, the baseline: orientations by comparison with simulated patterns.

Two engines return the same type as the network does: ours in torch, batched on the device,
which compares with every template at every angle, and pyxem's own, with its faults repaired.
"""

from __future__ import annotations

import numpy as np
import torch

from pyxem_dl.checks import number, whole_number
from pyxem_dl.results.maps import print_summary, timed, to_crystal_map
from pyxem_dl.results.modes import Match
from pyxem_dl.scans import Scan
from pyxem_dl.streaming import Collected, check_batch_size, resolve_device, stream
from pyxem_dl.template_matching.bank import TemplateBank, polar_grid
from pyxem_dl.template_matching.pyxem_engine import PYXEM_BATCH, PyxemMatcher
from pyxem_dl.template_matching.vectors import VectorScan, is_vectors

__all__ = ["Match", "PyxemMatcher", "TemplateBank", "match_templates", "polar_grid"]


# Orientations that are 5 degrees apart; all of a sphere would be 70 000
_MOST_CANDIDATES = 1000
# Degrees between zone axes, and distance from the Ewald sphere (Å⁻¹), beyond which nothing is matched
_COARSEST, _FARTHEST = 60.0, 5.0


def match_templates(
    signal,
    phases,
    *,
    n_best: int = 1,
    engine: str = "torch",
    resolution: float = 1.0,
    reciprocal_radius: float | None = None,
    max_excitation_error: float = 0.08,
    beam_energy: float | None = None,
    navigation_mask=None,
    signal_mask=None,
    center=None,
    batch_size: int | None = None,
    device: str | torch.device = "auto",
    show_progressbar: bool | None = None,
):
    """Find orientations by comparison with simulated patterns.

    Parameters
    ----------
    signal : pyxem.signals.Diffraction2D or DiffractionVectors
        Calibrated patterns with 0, 1 or 2 navigation dimensions, in memory or lazy; or the Bragg
        vectors of such patterns, measured from the direct beam.
    phases : orix.crystal_map.Phase, path of a CIF file, or an iterable of these
        The crystals.
    n_best : int
        How many orientations to keep, at least 5 degrees apart.
    engine : {"torch", "pyxem"}
        :class:`TemplateBank`, or pyxem's ``get_azimuthal_integral2d`` and ``get_orientation``:
        see :class:`PyxemMatcher`.
    resolution : float
        Step between zone axes in degrees.
    reciprocal_radius : float, optional
        Outer radius in Å⁻¹; by default up to the detector's nearest edge, of patterns and of
        vectors alike (up to the farthest vector, where these do not know their detector).
    max_excitation_error : float
        Largest distance of a template's reflections from the Ewald sphere in Å⁻¹.
    beam_energy : float, optional
        In kV; by default that of the metadata.
    navigation_mask : array of bool, optional
        True where a pattern is excluded, of the navigation's shape in data order (y, x).
    signal_mask : array of bool, shape (rows, columns), optional
        True where the detector is excluded.
    center : optional
        Direct beam: None for the calibration's, "auto" to find it in each pattern, (row,
        column) in pixels, an array (..., 2) of those for each position, or a ``BeamShift``.
    batch_size : int, optional
        Patterns per batch.
    device : str or torch.device
        "auto", "cpu", "cuda", ...; pyxem's engine runs on the CPU.
    show_progressbar : bool, optional
        By default HyperSpy's preference.

    Returns
    -------
    orix.crystal_map.CrystalMap
        Rotations lab to crystal (n, n_best), with the properties ``scores`` (greater is better;
        formula in :class:`TemplateBank`), ``score`` (the best one, shape (n,)), ``reliability``
        (:meth:`TemplateBank.match_polar`)
        and ``simulation_indices`` (-1: no further mode).  ``phase_id`` is -1 where a pattern
        is constant, not finite, or matches nothing.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        For a signal without calibration or beam energy, and for phases, masks, centers or
        arguments that cannot be used; the message says what to do.
    """
    if engine not in ("torch", "pyxem"):
        raise ValueError(f"engine must be 'torch' or 'pyxem', not {engine!r}.")
    _check_positive(resolution=resolution, max_excitation_error=max_excitation_error)
    number("resolution", resolution, 0, _COARSEST)
    number("max_excitation_error", max_excitation_error, 0, _FARTHEST)
    n_best = whole_number("n_best", n_best, 1, _MOST_CANDIDATES)
    check_batch_size(batch_size)
    vectors = None
    if is_vectors(signal):
        _check_arguments_for_vectors(engine, signal_mask, center)
        vectors = VectorScan(signal, navigation_mask, beam_energy)
        scan = vectors.scan
    else:
        scan = Scan.from_signal(
            signal,
            navigation_mask=navigation_mask,
            signal_mask=signal_mask,
            center=center,
            beam_energy=beam_energy,
        )
    _ = scan.calibration.wavelength  # its error, before anything is computed
    if reciprocal_radius is None:
        reciprocal_radius = (vectors or scan.calibration).reciprocal_radius
    _check_positive(reciprocal_radius=reciprocal_radius)
    device = resolve_device("cpu" if engine == "pyxem" else device)
    make = PyxemMatcher if engine == "pyxem" else TemplateBank
    bank = make.from_phases(
        phases,
        scan.calibration.beam_energy,
        reciprocal_radius,
        resolution,
        max_excitation_error=max_excitation_error,
        **({"device": device} if engine == "torch" else {}),
    )
    print_summary(
        f"Template matching ({engine})",
        {
            "Phases": ", ".join(phase.name for phase in bank.phases),
            "Templates": f"{len(bank)}, {resolution:g} degrees apart, "
            f"up to {reciprocal_radius:.4g} Å⁻¹",
            "Patterns": vectors.describe() if vectors else scan.describe(),
            "Device": device,
        },
    )
    detector = None if scan.signal_mask is None else scan.signal_mask.to(device)

    def match(patterns, indices):
        if vectors:
            return vectors.match(bank, indices, n_best, device)
        centers = scan.batch_centers(patterns, indices)
        return bank.match(patterns, scan.calibration, centers, detector, n_best=n_best)

    collected = Collected(scan.size)
    if batch_size is None and engine == "pyxem":
        batch_size = PYXEM_BATCH
    with timed(collected.done.sum):
        for part in stream(
            # where there are vectors, nothing has to be read for a position but its place
            np.zeros((scan.size, 1, 1), np.float32) if vectors else scan.data,
            match,
            device=device,
            batch_size=batch_size,
            navigation_mask=scan.navigation_mask,
            show_progressbar=show_progressbar,
        ):
            collected.add(part)
    return _crystal_map(scan, collected.arrays, bank.phases)


def _check_arguments_for_vectors(engine: str, signal_mask, center) -> None:
    given = {"engine='pyxem'": engine == "pyxem", "signal_mask": signal_mask is not None, "center": center is not None}
    wrong = [name for name, is_given in given.items() if is_given]
    if wrong:
        raise ValueError(
            f"Vectors are matched by the torch engine and have no detector: {' and '.join(wrong)} "
            "cannot be used with them."
        )


def _crystal_map(scan: Scan, found: dict, phases):
    """Make the map of what was collected."""
    indices = found["simulation_indices"]
    return to_crystal_map(
        scan,
        found["rotations"],
        found["phase_index"],
        found["scores"],
        phases,
        indexed=found["phase_index"][:, 0] >= 0,
        prop={
            "reliability": found["reliability"].astype(float),
            "simulation_indices": indices[:, 0] if indices.shape[1] == 1 else indices,
        },
    )


def _check_positive(**values) -> None:
    for name, value in values.items():
        if number(name, value) <= 0:
            raise ValueError(f"{name} must be positive and finite, not {value!r}.")
