"""How the patterns are made: multislice by abTEM, random orientations and thicknesses, all from one seed.

A pattern depends on its crystal and its number only: the part that is kept in the repository is the beginning of the
whole set.  Each is a file of its own until all are packed, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path

import numpy as np

from open_benchmark.crystals import NAMES, phase_of

SEED = 20261127
#: kV, mrad
BEAM_ENERGY, SEMI_ANGLE = 300.0, 1.2
#: Of a square pattern: pixels along a side, Å⁻¹ per pixel; the direct beam is in the middle of pixel (64, 64)
PIXELS, SCALE, CENTER = 128, 1.5 / 64, 64.0
#: What is scattered to this radius (Å⁻¹) takes part; beyond it patterns are dark
RADIUS = 1.6
#: B in Å², of all atoms; the slices' thickness and the box's sides in Å, at most and at least
DEBYE_WALLER, SLICE, BOX = 0.5, 2.0, 120.0
#: Å
THICKNESS = (50.0, 500.0)
#: Patterns of each crystal in the whole set, and in the part that lies in the repository
WHOLE, PART = 200, 24
#: Square roots of intensities are kept in so many steps of the pattern's largest
STEPS = 4095
#: Of what the patterns were made with
PROGRAMS = ("abtem", "numpy", "scipy", "orix", "diffpy.structure", "pyxem-dl")


def draw(crystal: int, number: int) -> tuple[np.ndarray, float, np.ndarray]:
    """Orientation (lab to crystal), thickness (Å), and the point of the cell (fractions) under the probe."""
    rng = np.random.default_rng([SEED, crystal, number])
    quaternion = rng.normal(size=4)
    return quaternion / np.linalg.norm(quaternion), float(rng.uniform(*THICKNESS)), rng.uniform(size=3)


def disk_radius() -> float:
    """In Å⁻¹."""
    from pyxem_dl.electrons import electron_wavelength

    return 1e-3 * SEMI_ANGLE / electron_wavelength(BEAM_ENERGY)


def make_pattern(name: str, number: int, *, slice_thickness: float = SLICE, box: float = BOX) -> np.ndarray:
    """Simulate one pattern: share of the incident electrons in each pixel, float32 (128, 128)."""
    from pyxem_dl.frames import Calibration
    from pyxem_dl.simulation.multislice import Multislice

    engine = Multislice(
        phase_of(name), BEAM_ENERGY, RADIUS, debye_waller=DEBYE_WALLER, slice_thickness=slice_thickness, box=box
    )
    calibration = Calibration((SCALE, SCALE), (CENTER, CENTER), (PIXELS, PIXELS), BEAM_ENERGY)
    quaternion, thickness, origin = draw(NAMES.index(name), number)
    return engine(quaternion[None], np.array([thickness]), disk_radius(), calibration, origin=origin)[0]


def make(folder: Path, n: int = WHOLE, *, report=print) -> None:
    """Simulate the first `n` patterns of each crystal that are not yet in the folder, one of each at a time."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(n):
        for name in NAMES:
            path = folder / f"{name}-{number:03d}.npy"
            if path.exists():
                continue
            part = path.with_suffix(".part")
            with open(part, "wb") as file:
                np.save(file, make_pattern(name, number))
            os.replace(part, path)
            report(path.stem)


def pack(folder: Path, path: Path, n: int = WHOLE) -> None:
    """Write the patterns of a folder to one file, with the truth.

    The square root of an intensity is what Poisson noise changes alike everywhere: in 4095 steps, the error is a
    thirtieth of the noise at 10,000 electrons in the brightest pixel.
    """
    ids, images, largest, truth = [], [], [], []
    for c, name in enumerate(NAMES):
        for number in range(n):
            pattern = np.load(Path(folder) / f"{name}-{number:03d}.npy", allow_pickle=False)
            ids.append(f"{name}-{number:03d}")
            largest.append(pattern.max())
            images.append(np.rint(STEPS * np.sqrt(np.maximum(pattern, 0) / pattern.max())).astype(np.uint16))
            truth.append(draw(c, number))
    quaternions, thickness, origins = (np.array(column) for column in zip(*truth))
    np.savez_compressed(
        path, ids=np.array(ids), roots=np.stack(images), steps=STEPS, largest=np.array(largest, dtype=np.float32),
        quaternions=quaternions, thickness=thickness, origins=origins, scale=SCALE, center=CENTER,
        beam_energy=BEAM_ENERGY, semi_angle=SEMI_ANGLE, disk_radius=disk_radius(), seed=SEED,
        versions=np.array([f"{program} {version(program)}" for program in PROGRAMS]),
    )  # fmt: skip
