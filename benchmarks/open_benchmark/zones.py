"""The test along zone axes of the paper on ACOM, rebuilt: Cu, Ag and Au along 25 axes, up to 1000 Å thick, 300 kV.

C. Ophus et al., Microscopy and Microanalysis 28, 390 (2022), measured the zone axes of 3750 multislice patterns of
0.5 mrad: three metals, 25 axes from [001] to [344], every 20 Å up to 1000 Å.  Mean errors were 7.25, 3.09 and 1.39
degrees for what lies within 1, 1.5 and 2 Å⁻¹.

What the paper does not say, and is chosen here: the list of the axes (those with indices up to 4 that symmetry does not
make the same are 22; three of 5 make it 25), how far the crystal is turned about the beam (at random), noise
(electrons are counted), and thermal displacements (four frozen phonons there, a Debye-Waller factor here, so that there
is no diffuse scattering).
"""

from __future__ import annotations

import itertools
import math
import os
from pathlib import Path

import numpy as np

#: Spots of all crystals, axes and thicknesses, which lie in the repository
ZONES = Path(__file__).resolve().parent / "zones.npz"
#: Lattice parameter in Å and B in Å²: of room temperature
METALS = {"Cu": (3.61491, 0.55), "Ag": (4.0862, 0.72), "Au": (4.0786, 0.63)}
#: kV, mrad, Å⁻¹ per px, and the mean errors of the paper in degrees, for what lies within so many Å⁻¹
BEAM_ENERGY, SEMI_ANGLE, SCALE = 300.0, 0.5, 0.01
PAPER = {1.0: 7.25, 1.5: 3.09, 2.0: 1.39}
#: Å: largest, and from one to the next
THICKEST, STEP = 1000.0, 20.0
#: Electrons of a pattern outside the direct beam
ELECTRONS = 1e5
# Of the multislice calculation: slice, least side of the box (Å), what is scattered to where (Å⁻¹)
_SLICE, _BOX, _SCATTERED = 2.0, 7.0, 3.0
# Spots that are kept: within (Å⁻¹), and with a larger share of the incident electrons at some thickness
_RADIUS, _LEAST = 2.05, 1e-5
_SEED = 314159


def axes() -> list[tuple[int, int, int]]:
    """Zone axes u <= v <= w of the cubic crystals: all with w up to 4, and three with 5."""
    triples = [(u, v, w) for w in range(1, 5) for v in range(w + 1) for u in range(v + 1)]
    return [uvw for uvw in triples if math.gcd(*uvw) == 1] + [(0, 1, 5), (1, 1, 5), (0, 2, 5)]


def phase_of(metal: str):
    """One of the metals as an orix phase."""
    from diffpy.structure import Atom, Lattice, Structure
    from orix.crystal_map import Phase

    from pyxem_dl.crystals import load_phases

    lattice = Lattice(*[METALS[metal][0]] * 3, 90, 90, 90)
    return load_phases(Phase(metal, space_group=225, structure=Structure([Atom(metal, (0, 0, 0))], lattice)))[0]


def make_spots(metal: str, axis, tilts=((0.354, 0), (-0.354, 0), (0, 0.354), (0, -0.354))) -> dict[str, np.ndarray]:
    """Simulate one crystal along one axis by abTEM, for all thicknesses.

    Parameters
    ----------
    metal : str
        One of :data:`METALS`.
    axis : tuple of 3 int
        [uvw].
    tilts : sequence of (float, float)
        Of the plane waves that stand for the cone of the beam, in mrad.

    Returns
    -------
    dict
        ``quaternion`` (4,), lab to crystal; ``kx``, ``ky`` (m,) in Å⁻¹; ``intensity`` (thicknesses, m), shares of the
        incident electrons.
    """
    import abtem

    from pyxem_dl.simulation.cells import cut_cell

    rotation, box = _periodic_box(axis, METALS[metal][0])
    cell = cut_cell(phase_of(metal), rotation, box, THICKEST)
    grid = _Grid(box)
    layers = [_slices(cell, METALS[metal][1], grid, top) for top in np.arange(0, THICKEST, STEP)]
    intensity = np.zeros((len(layers), *grid.shape))
    for tilt in tilts:
        waves = abtem.PlaneWave(energy=1e3 * BEAM_ENERGY, tilt=tilt, extent=box, gpts=grid.shape).build(lazy=False)
        for depth, slices in enumerate(layers):
            waves = waves.multislice(abtem.PotentialArray(slices, slice_thickness=_SLICE, extent=box))
            spectrum = np.fft.fft2(waves.array) / np.prod(grid.shape)
            intensity[depth] += np.abs(spectrum) ** 2 / len(tilts)
    kx, ky = (np.fft.fftfreq(n, side / n) for n, side in zip(intensity.shape[1:], box))
    kx, ky = (grid.ravel() for grid in np.meshgrid(kx, ky, indexing="ij"))
    intensity = intensity.reshape(len(intensity), -1)
    kept = (np.hypot(kx, ky) < _RADIUS) & (intensity.max(axis=0) > _LEAST)
    return {"quaternion": rotation, "kx": kx[kept], "ky": ky[kept], "intensity": intensity[:, kept]}


class _Grid:
    """Grid of the wave in a box, as the potentials of the package's multislice want it."""

    def __init__(self, box) -> None:
        self.box = box
        self.reach = tuple(math.floor(_SCATTERED * side) for side in box)
        # abTEM keeps what is within two thirds of the grid's limit
        self.shape = tuple(2 * math.ceil(_SCATTERED * side / 0.646) for side in box)


def _slices(cell, debye_waller: float, grid: _Grid, top: float) -> np.ndarray:
    """Projected potentials (slices, x, y) from a depth to the next that is kept, by sums over the atoms' places."""
    import abtem
    import abtem.parametrizations

    # exact at any sampling, where abTEM's own placing of atoms on the grid is not
    from pyxem_dl.simulation.multislice import _potential, _scattering

    scattering = _scattering(abtem, cell.elements, debye_waller, grid)
    edges = np.linspace(top, top + STEP, round(STEP / _SLICE) + 1)
    return np.stack([_potential(cell, scattering, grid, *ends) for ends in zip(edges[:-1], edges[1:])])


def _periodic_box(axis, lattice_parameter: float) -> tuple[np.ndarray, tuple[float, float]]:
    """Orientation (4,), and sides (Å) of a box along the axis that an fcc crystal fills without a seam."""
    from orix.quaternion import Rotation

    # lattice vectors in halves of the cell: whole numbers with an even sum
    steps = np.array(list(itertools.product(range(-10, 11), repeat=3)))
    normal = steps[(steps @ axis == 0) & (steps.sum(axis=1) % 2 == 0) & steps.any(axis=1)]
    first = normal[np.argmin((normal**2).sum(axis=1))]
    across = np.cross(axis, first)
    across //= np.gcd.reduce(across)
    second = across * (1 + across.sum() % 2)
    rows = [each / np.linalg.norm(each) for each in (first, second, np.array(axis))]
    sides = (lattice_parameter / 2 * np.linalg.norm(each) for each in (first, second))
    # the columns are the lab's axes in the crystal
    rotation = Rotation.from_matrix(np.stack(rows, axis=1)).data[0]
    return rotation, tuple(float(side * math.ceil(_BOX / side)) for side in sides)


def make(folder: Path, *, report=print) -> None:
    """Simulate what is not yet in the folder, a file for each metal and axis."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    for axis, metal in itertools.product(axes(), METALS):
        path = Path(folder) / f"{metal}-{''.join(map(str, axis))}.npz"
        if not path.exists():
            part = path.with_suffix(".part")
            with open(part, "wb") as file:
                np.savez(file, **make_spots(metal, axis))
            os.replace(part, path)
            report(path.stem)


def pack(folder: Path, path: Path = ZONES) -> None:
    """Write the spots of a folder to one file."""
    metals, uvw, quaternions, sizes, places, intensities = [], [], [], [], [], []
    for axis, metal in itertools.product(axes(), METALS):
        with np.load(Path(folder) / f"{metal}-{''.join(map(str, axis))}.npz") as spots:
            metals.append(metal)
            uvw.append(axis)
            quaternions.append(spots["quaternion"])
            sizes.append(len(spots["kx"]))
            places.append(np.stack([spots["kx"], spots["ky"]], axis=1).astype(np.float32))
            intensities.append(spots["intensity"].T.astype(np.float32))
    # as square roots, in whole numbers: see `recipe.pack`
    roots = np.rint(np.sqrt(np.concatenate(intensities)) * 65535).astype(np.uint16)
    np.savez_compressed(
        path, metals=np.array(metals), axes=np.array(uvw), quaternions=np.array(quaternions), sizes=np.array(sizes),
        places=np.concatenate(places), roots=roots,
    )  # fmt: skip


def load(metal: str, radius: float, *, every: int = 1, path: Path = ZONES) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw the patterns of a metal along all axes.

    Parameters
    ----------
    metal : str
        One of :data:`METALS`.
    radius : float
        Half the side of the pattern in Å⁻¹: nothing beyond it is seen, nor in the corners.
    every : int
        Take each so manieth thickness only.

    Returns
    -------
    patterns : array of float32, shape (n, rows, columns)
        Electrons; the direct beam is in the middle of pixel (rows / 2, columns / 2).
    axes : array, shape (n, 3)
    ids : array of str, shape (n,)
        "Au-014-0400": metal, axis, thickness in Å.
    """
    with np.load(path, allow_pickle=False) as file:
        kept = {key: file[key] for key in file.files}
    ends = np.cumsum(kept["sizes"])
    patterns, truth, ids = [], [], []
    for i in np.flatnonzero(kept["metals"] == metal):
        part = slice(ends[i] - kept["sizes"][i], ends[i])
        places, intensity = kept["places"][part], (kept["roots"][part].T / 65535.0) ** 2
        for step in range(every - 1, len(intensity), every):
            rng = np.random.default_rng([_SEED, i, step])
            patterns.append(_drawn(places, intensity[step], radius, rng))
            truth.append(kept["axes"][i])
            ids.append(f"{metal}-{''.join(map(str, kept['axes'][i]))}-{STEP * (step + 1):04.0f}")
    return np.stack(patterns), np.array(truth), np.array(ids)


def truth(*, every: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Ids (n,) and zone axes (n, 3) of all patterns, in the order of :func:`load` for one metal after the other."""
    rows = [
        (f"{metal}-{''.join(map(str, axis))}-{STEP * (step + 1):04.0f}", axis)
        for metal, axis in itertools.product(METALS, axes())
        for step in range(every - 1, round(THICKEST / STEP), every)
    ]
    return np.array([name for name, _ in rows]), np.array([axis for _, axis in rows])


def _drawn(places, intensity, radius: float, rng) -> np.ndarray:
    """Draw one pattern, turned at random about the beam, with counted electrons."""
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.cos(angle), np.sin(angle)
    k = places @ np.array([[cos, sin], [-sin, cos]])
    direct = np.hypot(*k.T) < 1e-6
    seen = np.hypot(*k.T) < radius
    electrons = intensity * ELECTRONS / intensity[seen & ~direct].sum()
    half = round(radius / SCALE)
    canvas = np.zeros((2 * half, 2 * half))
    disk = disk_radius() / SCALE
    reach = math.ceil(disk) + 1
    for (x, y), n in zip(k[seen], electrons[seen]):
        row, column = half - y / SCALE, half + x / SCALE
        rows, columns = (np.arange(round(at) - reach, round(at) + reach + 1) for at in (row, column))
        shape = np.clip(disk + 0.5 - np.hypot((rows - row)[:, None], columns - column), 0, 1)
        here = np.ix_((rows >= 0) & (rows < 2 * half), (columns >= 0) & (columns < 2 * half))
        inside = np.ix_(rows[here[0].ravel()], columns[here[1].ravel()])
        canvas[inside] += (n / shape.sum() * shape)[here]
    return rng.poisson(canvas).astype(np.float32)


def disk_radius() -> float:
    """In Å⁻¹."""
    from pyxem_dl.electrons import electron_wavelength

    return 1e-3 * SEMI_ANGLE / electron_wavelength(BEAM_ENERGY)


def axis_errors(quaternions, truth) -> np.ndarray:
    """Angles (n,) in degrees between the zone axes of orientations (n, 4), lab to crystal, and true ones of cubes.

    NaN where an orientation is.
    """
    from orix.quaternion import Rotation
    from orix.vector import Vector3d

    quaternions = np.asarray(quaternions, dtype=float)
    found = (Rotation(quaternions) * Vector3d.zvector()).data
    # of all directions that m-3m makes the same, sorted ones are nearest to each other
    found, truth = (np.sort(np.abs(np.asarray(each, dtype=float)), axis=1) for each in (found, truth))
    cosine = (found * truth).sum(axis=1) / np.linalg.norm(truth, axis=1)
    angles = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    return np.where(np.isfinite(quaternions).all(axis=1), angles, np.nan)


def measure(method, *, every: int = 1, path: Path = ZONES) -> dict:
    """Errors of a method's zone axes, for each radius of the paper.

    Parameters
    ----------
    method : callable
        From a signal and a phase to a crystal map, as ``methods.methods`` gives them.
    every : int
        Take each so manieth thickness only.

    Returns
    -------
    dict
        ``n``, and ``errors``: for each radius the ``mean`` (degrees) with its standard ``error``, the ``median``, and
        the share ``not_indexed``: orientations that were left out as doubtful, whose errors count all the same.
    """
    from open_benchmark.methods import signal_of

    found = {}
    for radius in PAPER:
        angles, doubtful = [], []
        for metal in METALS:
            patterns, truth, _ = load(metal, radius, every=every, path=path)
            signal = signal_of(patterns, SCALE, patterns.shape[1] / 2, BEAM_ENERGY)
            xmap = method(signal, phase_of(metal))
            angles.append(axis_errors(xmap.rotations.data.reshape(xmap.size, -1, 4)[:, 0], truth))
            doubtful.append(xmap.phase_id < 0)
        found[f"{radius:g}"] = summary(np.concatenate(angles), np.concatenate(doubtful))
    return {"n": len(METALS) * len(patterns), "errors": found}


def summary(angles: np.ndarray, doubtful: np.ndarray) -> dict:
    """Mean with its standard error, median (degrees) and share that is not indexed; NaN counts as 90 degrees."""
    angles = np.where(np.isfinite(angles), angles, 90.0)
    return {
        "mean": round(float(angles.mean()), 3),
        "error": round(float(angles.std(ddof=1) / math.sqrt(len(angles))), 3),
        "median": round(float(np.median(angles)), 3),
        "not_indexed": round(float(doubtful.mean()), 4),
    }
