"""Crystal maps as pyxem's ``OrientationMap``, for its markers and IPF plots."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyxem_dl.checks import number
from pyxem_dl.models import OrientationModel, load_model
from pyxem_dl.progress import progressbar
from pyxem_dl.records import provenance, with_record
from pyxem_dl.results.map_files import bounding_box, copied_map
from pyxem_dl.results.maps import phase_list
from pyxem_dl.results.spots import predict_spots

if TYPE_CHECKING:
    from orix.crystal_map import CrystalMap
    from pyxem.signals import OrientationMap


def to_orientation_map(
    xmap: CrystalMap,
    model: OrientationModel | str | Path | None = None,
    *,
    beam_energy: float | None = None,
    reciprocal_radius: float | None = None,
    max_excitation_error: float = 0.02,
    show_progressbar: bool | None = None,
) -> OrientationMap:
    """Turn a crystal map into pyxem's ``OrientationMap``, for its markers and IPF plots.

    For the predicted spots over the patterns alone, :func:`pyxem_dl.plot.markers` is simpler and faster.

    Parameters
    ----------
    xmap : orix.crystal_map.CrystalMap
        From `predict_orientation` or `match_templates`, of 1 or 2 dimensions.
    model : OrientationModel, str or pathlib.Path, optional
        From which phases, beam energy and radius are taken; by default the phases are the
        map's.
    beam_energy : float, optional
        In kV; needed without a model.
    reciprocal_radius : float, optional
        Of the simulated spots, in Å⁻¹; needed without a model.
    max_excitation_error : float
        In Å⁻¹.
    show_progressbar : bool, optional
        By default HyperSpy's preference.

    Returns
    -------
    pyxem.signals.OrientationMap
        Of the map's shape: a cropped map stays cropped, and the offsets of the navigation axes say where it was.
        Where a position is not indexed, or not in the map's data (a mask), the correlation is 0 and the only spot is
        the direct beam.  It keeps the map's :func:`pyxem_dl.provenance`.

    Notes
    -----
    Every candidate has a row of its own in the library, with the Euler angles
    (180°, Phi, phi2), and is turned in the plane by phi1.  pyxem's ``to_crystal_map`` overwrites
    the row's first angle, and so returns the orientation as it was; its markers turn the row's
    spots by phi1 + 180°, and so lie where the spots are.  (pyxem 0.21's ``to_crystal_map`` fails
    for several phases with n_best = 1, and its markers for a single position.)
    """
    if not hasattr(xmap, "phase_id") or not hasattr(xmap, "rotations"):
        raise TypeError(f"to_orientation_map needs an orix CrystalMap, not {type(xmap).__name__}.")
    if model is not None:
        model = load_model(model)
        beam_energy = beam_energy or model.domain.get("beam_energy")
        reciprocal_radius = reciprocal_radius or model.preprocessing.reciprocal_radius
    if not beam_energy or not reciprocal_radius:
        raise ValueError("Give a model, or beam_energy (kV) and reciprocal_radius (Å⁻¹).")
    for name, value in (("reciprocal_radius", reciprocal_radius), ("max_excitation_error", max_excitation_error)):
        number(name, value, 0, 20, above=True)
    number("beam_energy", beam_energy, 1, 5000)
    phases = {i: phase for i, phase in xmap.phases if i >= 0}
    if model is not None:
        phases.update(dict(phase_list(model.phases)))
    if not phases:
        raise ValueError("Nothing is indexed in this map, and it has no phase: give a model.")
    whole = copied_map(xmap, bounding_box(xmap))
    phase_id, present = _candidates(whole, xmap.is_in_data[whole.is_in_data], phases)
    rotations = whole.rotations.reshape(*phase_id.shape)
    data = np.zeros((*phase_id.shape, 4))
    data[..., 1] = np.where(present, whole.prop["scores"].reshape(phase_id.shape), 0)
    data[..., 2] = rotations.to_euler(degrees=True)[..., 0]
    data[..., 3] = 1
    with progressbar(int(present.sum()), show_progressbar, unit=" orientations") as bar:
        simulation, data[..., 0] = _library(
            rotations, phase_id, present, phases, beam_energy, reciprocal_radius, max_excitation_error, bar.update
        )
    return with_record(_orientation_map(data, whole, simulation), provenance(xmap))


def _candidates(whole, in_data, phases) -> tuple[np.ndarray, np.ndarray]:
    """Phase of every candidate (n, n_best), and whether it was really found."""
    best = whole.phase_id
    n_best = whole.rotations_per_point
    phase_id = np.repeat(best[:, None], n_best, axis=1)
    if "candidate_phase_id" in whole.prop:
        phase_id = np.asarray(whole.prop["candidate_phase_id"]).reshape(-1, n_best).copy()
    present = np.repeat(((best >= 0) & in_data)[:, None], n_best, axis=1)
    phase_id[~np.isin(phase_id, list(phases))] = next(iter(phases))
    return phase_id, present


def _library(rotations, phase_id, present, phases, beam_energy, radius, max_excitation_error, progress):
    """Simulate the spots of every candidate, and say which row of them is whose."""
    from diffsims.generators.simulation_generator import SimulationGenerator
    from diffsims.simulations import Simulation2D
    from orix.quaternion import Rotation

    generator = SimulationGenerator(beam_energy)
    euler = rotations.to_euler(degrees=True)
    euler[..., 0] = 180  # see the notes of to_orientation_map
    index = np.zeros(phase_id.shape)
    kept, library, spots, start = [], [], [], 0
    for i, phase in phases.items():
        mine = phase_id == i
        if not mine.any():
            continue
        # A first row that is nobody's: pyxem takes a phase's first row for the phase before
        # (`to_phase_index`), and treats libraries of a single row in another way
        rows = Rotation.from_euler(np.pad(euler[mine], [(1, 0), (0, 0)], mode="edge"), degrees=True)
        found = np.pad(present[mine], (1, 0))
        index[mine] = start + 1 + np.arange(mine.sum())
        kept.append(phase)
        library.append(rows)
        spots.append(_spots(generator, phase, rows, found, radius, max_excitation_error, progress))
        start += rows.size
    if len(kept) == 1:
        kept, spots, library = kept[0], spots[0], library[0]
    return Simulation2D(kept, spots, library, generator, radius), index


def _spots(generator, phase, rows, found, radius, max_excitation_error, progress) -> list:
    """Spots of each row, as diffsims makes them; the direct beam alone where nothing was found."""
    from diffpy.structure import Lattice, Structure
    from diffsims.crystallography._diffracting_vector import DiffractingVector

    direct = DiffractingVector(phase, xyz=np.zeros((1, 3)), intensity=np.ones(1))
    spots = [direct] * rows.size
    if not found.any():
        return spots
    # simulated here and not by diffsims, which takes 15 ms for each row
    predicted = predict_spots(
        rows.data[found], np.zeros(found.sum(), dtype=int), {0: phase}, generator.accelerating_voltage, radius,
        max_excitation_error=max_excitation_error,
    )  # fmt: skip
    shape_factor = generator.shape_factor_model(
        predicted.excitation_error, max_excitation_error, **generator.shape_factor_kwargs
    )
    columns = zip(
        np.flatnonzero(found), rows[found].to_matrix(), predicted.split(predicted.xyz),
        predicted.split(predicted.squared_structure_factor * shape_factor), strict=True,
    )  # fmt: skip
    lattice = phase.structure.lattice
    for i, matrix, xyz, intensity in columns:
        if len(xyz):
            # as diffsims has it, the lattice turns with the vectors, so that they keep their Miller indices
            turned = copy.copy(phase)
            turned._structure = Structure(lattice=Lattice(*lattice.abcABG(), baserot=lattice.baserot @ matrix))
            spots[i] = DiffractingVector(turned, xyz=xyz, intensity=intensity)
        progress(1)
    return spots


def _orientation_map(data, whole, simulation):
    """Put rows (n, n_best, 4) on the scan's axes."""
    from pyxem.signals import OrientationMap

    shape = whole.shape
    signal = OrientationMap(data.reshape(*shape, *data.shape[1:]))
    signal.simulation = simulation
    signal.column_names = ["index", "correlation", "rotation", "factor"]
    signal.units = ["a.u.", "a.u.", "deg", "a.u."]
    for axis, name in zip(signal.axes_manager.navigation_axes, "xy"):
        axis.name, axis.units, axis.scale = name, whole.scan_unit, getattr(whole, f"d{name}") or 1
        axis.offset = float(getattr(whole, name).min())
    return signal
