"""Simulated scans whose detector is not what their calibration says, and answers to them that are known."""

import numpy as np
import torch
from sample_phases import phase

from pyxem_dl import rotations as rot
from pyxem_dl.calibration.finding import Answers
from pyxem_dl.crystals import near_ewald_sphere, reflections
from pyxem_dl.frames import Calibration
from pyxem_dl.scans import Scan, make_signal
from pyxem_dl.simulation.detector import draw_spots

ENERGY, PIXELS, RADIUS = 200.0, 96, 1.2
NOMINAL = Calibration((2 * RADIUS / PIXELS,) * 2, (PIXELS / 2,) * 2, (PIXELS, PIXELS), ENERGY)


def stretched(ellipticity, direction, scale=1.0):
    """Matrix of determinant scale**2 that is so much longer along a direction (degrees, counter-clockwise from +kx)."""
    c, s = np.cos(np.deg2rad(direction)), np.sin(np.deg2rad(direction))
    turn = np.array([[c, -s], [s, c]])
    return scale * turn @ np.diag([(1 + ellipticity) ** 0.5, (1 + ellipticity) ** -0.5]) @ turn.T


def truly(matrix=None, center=(0.0, 0.0)):
    """Calibration of a detector that is distorted, and off centre by so many px (row, column)."""
    matrix = np.eye(2) if matrix is None else matrix
    return NOMINAL.replace(
        distortion=tuple(map(tuple, matrix.tolist())), center=tuple(np.add(NOMINAL.center, center).tolist())
    )


class Made:
    """A scan of grains with known orientations, its signal with the nominal calibration."""

    def __init__(self, name, shape=(8, 12), *, matrix=None, center=(0.0, 0.0), drift=((0, 0), (0, 0)), grains=None,
                 electrons=2e4, seed=0):  # fmt: skip
        self.phase, n = phase(name), shape[0] * shape[1]
        generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
        self.grain = np.arange(n) if grains is None else np.arange(n) * grains // n
        self.rotations = rot.random_rotations(self.grain.max() + 1, generator)[self.grain]
        table = reflections(self.phase, 1.1 * RADIUS)
        wavelength = NOMINAL.wavelength
        lab, error, near = near_ewald_sphere(table.g.double(), self.rotations.double(), wavelength, 0.03)
        strength = table.structure_factor.double() ** 2 * torch.exp(-((error / 0.015) ** 2)) * near
        strength = 0.5 * electrons * strength / strength.sum(1, keepdim=True).clamp_min(1e-9)
        row, column = (x.ravel() for x in np.indices(shape))
        place = np.stack([row / (shape[0] - 1), column / (shape[1] - 1)], axis=1) - 0.5
        centers = np.array(center) + place @ np.array(drift)
        counts = np.zeros((n, PIXELS, PIXELS), dtype=np.uint16)
        for i in range(n):
            # strong direct beam, the spots, and some background
            kx, ky = (torch.cat([torch.zeros(1), lab[i, near[i], j].float()])[None] for j in (0, 1))
            expected = torch.cat([torch.tensor([electrons / 2]), strength[i, near[i]].float()])[None]
            seen = draw_spots(kx, ky, expected, truly(matrix, centers[i]), disk_radius=0.02, blur=0.8)
            counts[i] = rng.poisson(seen[0].clamp_min(0).numpy() + 0.02)
        self.signal = make_signal(counts.reshape(*shape, PIXELS, PIXELS), NOMINAL, name)
        self.scan = Scan.from_signal(self.signal, inspect=False)

    def answers(self, error=0.7, *, only_within=None, seed=1):
        """Make what knows the orientations, with an error in degrees, all or where the scale is right to a share.

        ``answer.calibrations`` are those that it was asked with.
        """
        rng = np.random.default_rng(seed)
        n = len(self.rotations)
        vectors = torch.as_tensor(rng.normal(0, np.deg2rad(error), (n, 3)), dtype=torch.float64)
        near = rot.multiply(self.rotations.double(), rot.exponential(vectors))
        others = rot.random_rotations(n, torch.Generator().manual_seed(seed)).double()
        calls = []

        def answer(patterns, calibration, centers):
            calls.append(calibration)
            # the sample is the whole scan here, in its order
            assert len(patterns) <= n
            chosen = np.unique(np.linspace(0, n - 1, len(patterns)).astype(int))
            right = only_within is None or abs(calibration.scale[0] / only_within[0] - 1) < only_within[1]
            found = (near if right else others)[chosen].numpy()
            return Answers(found, np.zeros(len(chosen), int), np.ones(len(chosen), bool))

        answer.calibrations = calls
        return answer
