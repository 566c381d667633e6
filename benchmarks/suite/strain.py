"""Strain of simulated scans by thickness: pyxem's maps of vectors, and the lattice of each pattern."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch

from pyxem_dl.data.multilayer import StrainedMultilayer, strained_multilayer
from pyxem_dl.data.phases import phase_of_atoms
from pyxem_dl.electrons import electron_wavelength
from pyxem_dl.frames import Calibration, in_plane_quaternion
from pyxem_dl.rotations import from_matrix, multiply
from pyxem_dl.scans import make_signal
from pyxem_dl.simulation.detector import draw_beams, draw_spots
from pyxem_dl.simulation.many_beam import ManyBeam
from pyxem_dl.strain import strain_map
from suite.tables import header, line, percent

#: Seeds of the counts, thickness of the crystals (Å), and the bins in which errors are told
SEEDS, THICKNESS, BINS = (0, 1, 2), (80.0, 1000.0), (0, 250, 500, 750, 1000.1)
#: Asked of the network's vectors with the lattice of each pattern, in percent
ASKED = 0.20
# pyxem's maps are of the disks between these distances from the beam, found so near to where they should be (Å⁻¹)
_RADII, _DISTANCE = (0.1, 0.75), 0.06


def measure(finders: dict[str, Callable]) -> Iterator[tuple[str, str, dict]]:
    """Measure every way to find disks with every way to map strain.

    Parameters
    ----------
    finders : dict of str to callable
        ``find(signal, probe)`` returns diffraction vectors, centred.

    Yields
    ------
    tuple
        Sample, method, and numbers: root mean square errors of e_xx in percent, ``all`` and by thickness; the root mean
        square of errors over their expected ones (``pull``); the share of positions that is ``missing``.
    """
    for name, make in SAMPLES.items():
        scans = [make(seed) for seed in SEEDS]
        for label, find in finders.items():
            vectors = [find(scan.signal, scan.vacuum) for scan in scans]
            for method, fit in METHODS.items():
                yield name, f"{label}, {method}", _errors(scans, [fit(v, s) for v, s in zip(vectors, scans)])


def pyxems_map(vectors, scan) -> tuple[np.ndarray, None]:
    """e_xx (y, x) by pyxem's map of the inner disks, relative to the median of the unstrained positions."""
    first = vectors.data[0, 0]
    length = np.hypot(*first[:, :2].T)
    basis = first[(length > _RADII[0]) & (length < _RADII[1]), :2]
    found = vectors.filter_basis(basis, distance=_DISTANCE, show_progressbar=False)
    basis = np.nanmedian(found.data[scan.strain == 0][..., :2], axis=0)
    return np.asarray(vectors.get_strain_maps(basis, distance=_DISTANCE).data[1]), None


def own_lattice(vectors, scan) -> tuple[np.ndarray, np.ndarray]:
    """e_xx and its error (y, x) from the lattice of each pattern."""
    found = strain_map(vectors, reference=scan.strain == 0, show_progressbar=False)
    return found.e_xx, found.e_xx_error


METHODS = {"pyxem's map": pyxems_map, "own lattice": own_lattice}


def _errors(scans, found) -> dict:
    """Errors of all scans together."""
    truth, thickness = (np.stack([getattr(scan, name) for scan in scans]) for name in ("strain", "thickness"))
    error = 100 * (np.stack([maps for maps, _ in found]) - truth)
    there = np.isfinite(error)
    numbers = {"n": int(error.size), "all": _rms(error[there]), "missing": round(1 - float(there.mean()), 4)}
    for low, high in zip(BINS, BINS[1:]):
        numbers[f"{low:g}-{high:.0f}"] = _rms(error[there & (thickness >= low) & (thickness < high)])
    if found[0][1] is not None:
        numbers["pull"] = _rms((error / (100 * np.stack([each for _, each in found])))[there])
    return numbers


def _rms(values) -> float:
    return round(float(np.sqrt(np.mean(values**2))), 4)


def multilayer(seed: int):
    """Germanium along <001>, layers strained along x, bent by up to 12 mrad."""
    return strained_multilayer(seed=seed, thickness=THICKNESS)


def turned_aluminium(seed: int, shape=(12, 24), electrons: float = 1e5, pixels: int = 128):
    """Aluminium along <111>: columns with another lattice parameter, turned about the beam and tilted."""
    rows, columns = shape
    calibration = Calibration((2.5 / pixels,) * 2, (pixels / 2,) * 2, (pixels, pixels), 200.0)
    radius = 3e-3 / electron_wavelength(200.0)
    optics = {"disk_radius": radius, "blur": 0.4}
    layers = np.resize([0.0, 0.01, 0.0, -0.01], columns // 3).repeat(3)
    thickness = np.linspace(*THICKNESS, rows)
    counts = np.zeros((rows, columns, pixels, pixels), dtype=np.uint32)
    rng = np.random.default_rng(seed)
    x, z = np.array([1.0, -1.0, 0.0]) / math.sqrt(2), np.array([1.0, 1.0, 1.0]) / math.sqrt(3)
    # columns of the matrix: where the axes of the lab are in the crystal
    flat = from_matrix(torch.as_tensor(np.stack([x, np.cross(z, x), z], axis=1)[None], dtype=torch.float32))
    for column, strain in enumerate(layers):
        a = 4.05 * (1 + strain)
        phase = phase_of_atoms("Al", 225, (a, a, a, 90, 90, 90), [("Al", (0, 0, 0))])
        turn = torch.as_tensor(in_plane_quaternion(math.radians(2.0 * math.sin(column))), dtype=torch.float32)
        half = torch.tensor(0.004 * math.cos(column))
        tilt = torch.stack([half.cos(), half.sin(), 0 * half, 0 * half])
        rotation = multiply(multiply(flat, tilt[None]), turn[None]).expand(rows, 4)
        beams = ManyBeam(phase, 200.0, 1.4)(rotation, torch.as_tensor(thickness, dtype=torch.float32), radius, 11)
        counts[:, column] = rng.poisson(draw_beams(beams, electrons, calibration, **optics).numpy())
    zero = torch.zeros(1, 1)
    vacuum = draw_spots(zero, zero, zero + electrons, calibration, **optics)[0].numpy()
    signal = make_signal(counts, calibration, "Turned aluminium")
    full = np.tile(layers, (rows, 1)), np.tile(thickness[:, None], (1, columns))
    return StrainedMultilayer(signal, *full, vacuum)


SAMPLES = {"germanium <001>, strained layers, bent": multilayer, "aluminium <111>, dilated, turned": turned_aluminium}


def strain_table(rows: list[dict], letter: Callable) -> str:
    """Write the table.

    Parameters
    ----------
    rows : list of dict
        Of the section.
    letter : callable
        Which gives the letter of a row's run.
    """
    names = [f"{low:g}-{high:.0f}" for low, high in zip(BINS, BINS[1:])]
    lines = [
        "## Strain", "",
        f"Root mean square error of e_xx in percent, {len(SEEDS)} seeds, 10⁵ electrons, many-beam disks of 6.1 px, by"
        " the thickness of the crystal in Å. *Pull*: errors over the expected ones, root mean square; above 1 is what"
        " all disks of a pattern have in common. Asked of the network's vectors with the lattice of each pattern, on"
        f" the strained layers: ≤ {ASKED:.2f}.",
        "", *header("sample", "method", "positions", "all", *names, "missing", "pull", "run"),
    ]  # fmt: skip
    for row in rows:
        cells = (f"{row[name]:.3f}" for name in ("all", *names))
        pull = f"{row['pull']:.2f}" if "pull" in row else "–"
        lines.append(line(row["data"], row["predictor"], row["n"], *cells, percent(row["missing"]), pull, letter(row)))
    return "\n".join(lines)
