"""Bloch waves against abTEM's Bloch waves and multislice; and how many patterns a device simulates in a second."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch

from pyxem_dl.crystals import fractional_coordinates
from pyxem_dl.devices import resolve_device
from pyxem_dl.frames import Calibration, k_to_pixel, lab_to_box
from pyxem_dl.rotations import random_rotations, to_matrix
from pyxem_dl.simulated import simulate_patterns
from pyxem_dl.simulation.beams import MAX_EXCITATION_ERROR
from pyxem_dl.simulation.bloch_waves import BlochWaves
from pyxem_dl.simulation.cells import cut_cell, periodic_box, zone_axis_rotation
from pyxem_dl.simulation.multislice import Multislice
from suite import dynamical
from suite.tables import header, line

#: Thicknesses in Angstrom
THICKNESSES = (100.0, 200.0, 400.0, 800.0)
MATERIALS = {name: dynamical.MATERIALS[name] for name in ("Al", "Si", "LiNiO2")} | {
    "GaAs": (216, (5.65, 5.65, 5.65, 90, 90, 90), [("Ga", (0, 0, 0)), ("As", (0.25, 0.25, 0.25))])
}
_AXES = ([0, 0, 1], [1, 1, 0])
_ENERGY, _B, _N_RANDOM, _SEED = 200.0, 0.5, 2, 11
# Beams to this radius (Å⁻¹) take part in both, those to the second one are compared
_COUPLING, _RADIUS = 2.4, 1.5
_N_BEAMS = 600
# Of the plane waves of multislice: sampling and slices in Angstrom
_SAMPLING, _SLICE = 0.03, 0.5
# Of the disks: mrad, detector, and px around a disk in which its intensity is
_SEMIANGLE, _AROUND = 3.0, 2.0
_DETECTOR = Calibration((0.01171875,) * 2, (128.0, 128.0), (256, 256), _ENERGY)
_SPEED_PATTERNS = 64
_SPEEDS = {
    "kinematical, spots": {"engine": "kinematical"},
    "many-beam, spots": {"engine": "many-beam"},
    "Bloch, spots": {},
    "Bloch, disks of 1.5 mrad": {"convergence_semi_angle": 1.5},
    "Bloch, precession of 0.5°": {"precession_angle": 0.5},
}


def measure(materials=tuple(MATERIALS), thicknesses=THICKNESSES) -> Iterator:
    """Yield rows (data, referee, numbers by thickness) for each material, along zone axes and at random."""
    for name in materials:
        phase = dynamical.phase_of(name, MATERIALS)
        random = random_rotations(_N_RANDOM, torch.Generator().manual_seed(_SEED)).double().numpy()
        for axis in _AXES:
            label = f"{name}, [{''.join(map(str, axis))}]"
            yield label, "abTEM, Bloch", _against_bloch(phase, [zone_axis_rotation(phase, axis, 10.0)], thicknesses)
            yield label, "abTEM, multislice", _against_plane_waves(phase, axis, thicknesses)
        yield f"{name}, random", "abTEM, Bloch", _against_bloch(phase, random, thicknesses)
        yield f"{name}, random", "abTEM, multislice", _against_disks(phase, random, thicknesses)


def difference(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Sum of differences over sum of intensities in percent, and that sum: (thicknesses, beams) to (thicknesses, 2)."""
    total = theirs.sum(-1)
    return np.stack([100 * np.abs(ours - theirs).sum(-1) / total, total], -1)


def _named(rows: list, thicknesses) -> dict:
    """Means over orientations, by thickness."""
    return {
        f"{depth:g}": [round(float(percent), 2), round(float(total), 3)]
        for depth, (percent, total) in zip(thicknesses, np.mean(rows, axis=0))
    }


# ---------------------------------------------------------------- abTEM's Bloch waves
def _against_bloch(phase, rotations, thicknesses) -> dict:
    waves = BlochWaves(phase, _ENERGY, 2.1, n_beams=_N_BEAMS, coupling_radius=_COUPLING, debye_waller=_B)
    rows = []
    for rotation in rotations:
        found = waves(torch.as_tensor(rotation, dtype=torch.float32)[None], torch.tensor(thicknesses))
        chosen = found.chosen
        ours = {tuple(h): found.intensity[0, :, i].numpy() for i, h in enumerate(chosen.hkl[0].tolist())}
        ours = {h: intensity for i, (h, intensity) in enumerate(ours.items()) if chosen.present[0, i]}
        theirs, length = abtem_bloch(phase, rotation, thicknesses)
        compared = [h for h in theirs if any(h) and length[h] < _RADIUS]
        dark = np.zeros(len(thicknesses))
        rows.append(difference(*(np.stack([each.get(h, dark) for h in compared], -1) for each in (ours, theirs))))
    return _named(rows, thicknesses)


def abtem_bloch(phase, rotation, thicknesses) -> tuple[dict, dict]:
    """Intensities (thicknesses,) and lengths (Å⁻¹) of beams by Miller indices, by abTEM's Bloch waves.

    abTEM 1.0.9 takes V(h - g) where the theory has V(g - h): it computes the inverted crystal, and here it is given the
    inverted one. (GaAs along [110] differs; abTEM's own multislice has it as it should be.)
    """
    from abtem.bloch import BlochWaves as Theirs, StructureFactor, dynamical as module
    from ase import Atoms

    turn = lab_to_box(to_matrix(torch.as_tensor(rotation)).numpy()).T
    atoms = Atoms(
        [atom.element for atom in phase.structure], scaled_positions=-fractional_coordinates(phase.structure),
        cell=phase.structure.lattice.base, pbc=True,
    )  # fmt: skip
    # of cells without right angles it counts indices too short
    factors = StructureFactor(
        atoms, g_max=2.6 * _COUPLING, parametrization="lobato", thermal_sigma=(_B / 8) ** 0.5 / np.pi, cutoff="hard"
    )
    waves = Theirs(
        factors, energy=1e3 * _ENERGY, sg_max=MAX_EXCITATION_ERROR, g_max=_COUPLING, orientation_matrix=turn,
        centering="P",
    )  # fmt: skip
    original = module.retrieve_structure_factor_values
    # it writes into an array that numpy 2 gives out for reading
    module.retrieve_structure_factor_values = lambda *arguments: np.array(original(*arguments))
    try:
        found = waves.calculate_diffraction_patterns(list(thicknesses)).compute(progress_bar=False)
    finally:
        module.retrieve_structure_factor_values = original
    hkl = [tuple(h) for h in waves.hkl.tolist()]
    return dict(zip(hkl, np.asarray(found.array).T)), dict(zip(hkl, waves.g_vec_length))


# ---------------------------------------------------------------- abTEM's multislice
def _against_plane_waves(phase, axis, thicknesses) -> dict:
    """Along zone axes: a period of the crystal, abTEM's own potentials, which are damped as by `_B`."""
    import abtem
    from ase import Atoms

    rotation, box = periodic_box(phase, axis, 1.0)
    period = float(np.linalg.norm(np.asarray(axis) @ phase.structure.lattice.base))
    cell = cut_cell(phase, rotation, box, period)
    atoms = Atoms([str(e) for e in cell.elements], cell.positions, cell=cell.box, pbc=True)
    potential = abtem.Potential(
        atoms, sampling=_SAMPLING, slice_thickness=_SLICE, parametrization="lobato", projection="finite"
    ).build(lazy=False)
    kx, ky = (np.fft.fftfreq(n, side / n) for n, side in zip(potential.gpts, box))
    squared = kx[:, None] ** 2 + ky**2
    damped = np.fft.ifft2(np.fft.fft2(potential.array) * np.exp(-_B * squared / 4)).real.astype(np.float32)
    potential = abtem.PotentialArray(damped, slice_thickness=potential.slice_thickness, extent=box)
    wave = abtem.PlaneWave(energy=1e3 * _ENERGY, sampling=_SAMPLING, extent=box).build(lazy=False)
    depths = [max(1, round(depth / period)) for depth in thicknesses]
    theirs = []
    for i in range(depths[-1]):
        wave = wave.multislice(potential)
        if i + 1 in depths:
            theirs.append(np.abs(np.fft.fft2(wave.array) / wave.array.size) ** 2)
    waves = BlochWaves(phase, _ENERGY, 2.1, n_beams=_N_BEAMS, coupling_radius=_COUPLING, debye_waller=_B)
    found = waves(torch.as_tensor(rotation, dtype=torch.float32)[None], period * torch.tensor(depths))
    ours, seen = np.zeros_like(theirs), np.zeros(theirs[0].shape, dtype=bool)
    k = np.stack([found.chosen.kx[0].numpy(), found.chosen.ky[0].numpy()], -1)
    for i in np.flatnonzero(found.chosen.present[0].numpy()):
        at = tuple(np.rint(k[i] * box).astype(int))
        ours[(slice(None), *at)] += found.intensity[0, :, i].numpy()
        seen[at] = 0 < np.hypot(*k[i]) < _RADIUS
    return _named([difference(ours[:, seen], np.stack(theirs)[:, seen])], thicknesses)


def _against_disks(phase, rotations, thicknesses) -> dict:
    """In any orientation: disks of a convergent beam, on the potentials of ``pyxem_dl.simulation.multislice``."""
    disk_radius = 1e-3 * _SEMIANGLE / _DETECTOR.wavelength
    multislice = Multislice(phase, _ENERGY, 2.0, debye_waller=_B)
    theirs = multislice(rotations, np.array([thicknesses] * len(rotations)), disk_radius, _DETECTOR)
    ours = simulate_patterns(
        phase, rotations, list(thicknesses), calibration=_DETECTOR, convergence_semi_angle=_SEMIANGLE,
        debye_waller=_B, blur=0.5, device="cpu", show_progressbar=False,
    ).data  # fmt: skip
    waves = BlochWaves(phase, _ENERGY, _RADIUS, n_beams=_N_BEAMS, debye_waller=_B)
    chosen, rows = waves.choose(torch.as_tensor(rotations, dtype=torch.float32)), []
    for i in range(len(rotations)):
        k = torch.hypot(chosen.kx[i], chosen.ky[i])
        used = chosen.present[i] & (k > 2.2 * disk_radius) & (k < _RADIUS - 1.2 * disk_radius)
        places = k_to_pixel(chosen.kx[i][used].numpy(), chosen.ky[i][used].numpy(), _DETECTOR)
        rows.append(difference(*(_in_disks(each[i], places, disk_radius) for each in (ours, theirs))))
    return _named(rows, thicknesses)


def _in_disks(patterns: np.ndarray, places, disk_radius: float) -> np.ndarray:
    """Intensities (thicknesses, disks) around places (rows, columns)."""
    y, x = np.indices(patterns.shape[-2:])
    radius = disk_radius / _DETECTOR.scale[0] + _AROUND
    disks = [np.hypot(y - row, x - column) < radius for row, column in zip(*places)]
    return np.stack([patterns[:, disk].sum(1) for disk in disks], -1)


# ---------------------------------------------------------------- speed
def measure_speed(device: str) -> Iterator:
    """Yield rows (data, label, numbers): patterns/s, and the CPU time of one in ms."""
    device = str(resolve_device(device))
    for name in ("Al", "LiNiO2"):
        phase = dynamical.phase_of(name, MATERIALS)
        rotations = random_rotations(_SPEED_PATTERNS, torch.Generator().manual_seed(_SEED)).numpy()
        for label, settings in _SPEEDS.items():
            settings = settings | {"device": device, "show_progressbar": False}
            simulate_patterns(phase, rotations[:2], 300.0, **settings)  # compiles, and fills caches
            busy, start = time.process_time(), time.perf_counter()
            simulate_patterns(phase, rotations, 300.0, **settings)
            seconds, busy = time.perf_counter() - start, time.process_time() - busy
            yield f"{name}, {label}", f"simulate_patterns, {device}", {
                "n": _SPEED_PATTERNS, "device": device, "patterns_per_second": round(_SPEED_PATTERNS / seconds, 1),
                "cpu_ms": round(1e3 * busy / _SPEED_PATTERNS, 2),
            }  # fmt: skip


def _cell(found) -> str:
    percent, total = found
    return f"{percent:.2f} % ({total:.2f})"


def table(rows: list[dict], letter) -> str:
    """Write the rows as Markdown."""
    compared, timed = [row for row in rows if "cpu_ms" not in row], [row for row in rows if "cpu_ms" in row]
    depths = [key for key in compared[0] if key.isdigit()] if compared else []
    lines = [
        "## Bloch waves", "",
        "Differences of the intensities of diffracted beams to 1.5 Å⁻¹, sum over sum, and in brackets how much of the"
        " incident beam these hold; 200 kV. *abTEM, Bloch*: the same beams by its Bloch waves, B = 0.5 Å². *abTEM,"
        " multislice*: along an axis a plane wave through its own potentials, damped as by B, in slices of 0.5 Å, at"
        " the whole number of periods that is next to the thickness; in random orientations (two) disks of 3 mrad,"
        " slices of 2 Å, B = 0.5 Å².",
        "",
        *header("crystal", "against", *(f"{depth} Å" for depth in depths), "run"),
    ]  # fmt: skip
    lines += [
        line(row["data"], row["predictor"], *(_cell(row[depth]) for depth in depths), letter(row)) for row in compared
    ]
    lines += [
        "", "`simulate_patterns` in random orientations, 128 × 128 px, one thickness, 200 kV:", "",
        *header("patterns", "device", "patterns/s", "CPU time, ms per pattern", "run"),
    ]  # fmt: skip
    lines += [
        line(row["data"], row["device"], f"{row['patterns_per_second']:.4g}", f"{row['cpu_ms']:.3g}", letter(row))
        for row in timed
    ]
    return "\n".join(lines)
