"""A simulated scan of a polycrystal with known orientations."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from pyxem_dl import rotations as rot
from pyxem_dl.crystals import load_phases
from pyxem_dl.data.phases import lithium_nickel_oxide
from pyxem_dl.frames import Calibration
from pyxem_dl.results.maps import to_crystal_map
from pyxem_dl.scans import Scan, make_signal
from pyxem_dl.simulation.detector import Background, draw_beams, expected_background
from pyxem_dl.simulation.many_beam import BeamIntensities, ManyBeam

_ENERGY, _SEMIANGLE, _RADIUS = 200.0, 1e-3, 1.25
_BATCH = 64
# Electrons in halo, ring of the carbon film and floor, relative to the incident ones
_HALO, _CARBON, _FLOOR = 0.10, 0.05, 0.02


class Polycrystal(NamedTuple):
    """A simulated scan with known orientations.

    ``signal``: pyxem's, navigation (y, x); ``truth``: crystal map of what is mostly there at each position, phase_id -1
    on the bare film, with ``prop["thickness"]`` (Angstrom), ``prop["grain"]`` (its number), and ``prop["overlap"]``
    (share of the thickness that is another grain's, up to 0.5).
    """

    signal: object
    truth: object


def polycrystal(
    shape: tuple[int, int] = (100, 100), electrons: float = 1e4, *, phase=None, n_grains: int = 36, pixels: int = 128,
    seed: int = 0, far_beams: bool = True,
) -> Polycrystal:  # fmt: skip
    """Simulate a scan over a polycrystal on a carbon film, with dynamical intensities.

    Grains of random orientations are bent by up to 1.5 degrees, their thickness grows along x from 80 to 600 Angstrom,
    some boundaries are inclined, so that two grains lie on top of each other, and a strip on the right is bare film.

    Parameters
    ----------
    shape : tuple of int
        Positions (y, x).
    electrons : float
        Incident in each pattern; halo and film, 12 to 25 % of them, come on top.
    phase : orix.crystal_map.Phase, optional
        By default LiNiO2.
    n_grains : int
        How many there are.
    pixels : int
        Of the detector along each side; it covers 1.25 Å⁻¹ to all sides.
    seed : int
        Of grains and counts.
    far_beams : bool
        Whether reflections that are far from their Bragg condition are there, kinematically: those of other Laue zones
        among them, faint as they are, tell a crystal from the same one turned by 180°.

    Returns
    -------
    Polycrystal
        200 kV, 1 mrad.

    Notes
    -----
    Many-beam intensities of each grain alone; those of grains on top of each other are added up, and their direct beams
    multiplied.  It takes some 5 ms for a pattern.

    Examples
    --------
    >>> import pyxem_dl
    >>> scan = pyxem_dl.data.polycrystal((6, 8), n_grains=3)
    >>> scan.signal
    <ElectronDiffraction2D, title: Polycrystal, dimensions: (8, 6|128, 128)>
    """
    (phase,) = load_phases(lithium_nickel_oxide() if phase is None else phase)
    generator = np.random.default_rng(seed)
    grains = _draw_grains(shape, n_grains, generator)
    calibration = Calibration((2 * _RADIUS / pixels,) * 2, (pixels / 2,) * 2, (pixels, pixels), _ENERGY)
    # grains stand in any orientation: few beams are enough
    simulate = ManyBeam(phase, _ENERGY, _RADIUS, n_beams=64)
    n = shape[0] * shape[1]
    counts = np.zeros((n, pixels, pixels), dtype=np.uint16)
    for part in np.array_split(np.arange(n), math.ceil(n / _BATCH)):
        expected = _expected(simulate, grains, part, electrons, calibration, far_beams)
        counts[part] = generator.poisson(expected.numpy()).clip(0, 65535)
    signal = make_signal(counts.reshape(*shape, pixels, pixels), calibration, "Polycrystal")
    for axis, name in zip(signal.axes_manager.navigation_axes, "xy"):
        axis.name, axis.units, axis.scale = name, "nm", 4.0
    scan = Scan.from_signal(signal, inspect=False)
    truth = to_crystal_map(
        scan, grains.rotations[:, :1].numpy(), np.zeros((n, 1), int), np.ones((n, 1)), [phase],
        indexed=~grains.bare,
        prop={"thickness": grains.thickness, "overlap": 1 - grains.share, "grain": grains.number.astype(float)},
    )  # fmt: skip
    return Polycrystal(signal, truth)


class _Grains(NamedTuple):
    """At each of n positions: the first and the second grain, and how much of the thickness is the first's."""

    rotations: torch.Tensor
    number: np.ndarray
    share: np.ndarray
    thickness: np.ndarray
    bare: np.ndarray


def _draw_grains(shape, n_grains: int, generator) -> _Grains:
    """Draw a Voronoi tessellation with bent grains and inclined boundaries."""
    row, column = (x.ravel().astype(float) for x in np.indices(shape))
    size = np.array(shape, dtype=float)
    seeds = generator.random((n_grains, 2)) * size
    # boundaries that are not quite straight
    wave = 0.02 * size.min() * np.stack([np.sin(column / 7 + 1), np.cos(row / 9)], axis=1)
    distance = np.linalg.norm(np.stack([row, column], axis=1)[:, None] + wave[:, None] - seeds, axis=2)
    nearest = np.argsort(distance, axis=1)[:, :2] if n_grains > 1 else np.zeros((len(row), 2), int)
    first, second = nearest.T
    gap = np.take_along_axis(distance, nearest, 1) @ [-1, 1] if n_grains > 1 else np.full(len(row), np.inf)
    width = generator.choice([0.5, 0.5, 3.0, 8.0], (n_grains, n_grains))
    width = np.minimum(width, width.T)[first, second]
    share = np.clip(0.5 + 0.5 * gap / width, 0.5, 1.0)
    middle = rot.random_rotations(n_grains, torch.Generator().manual_seed(int(generator.integers(2**31)))).numpy()
    bend = np.deg2rad(1.5) * generator.uniform(-1, 1, (n_grains, 2, 3))
    rotations = []
    for grain in (first, second):
        place = (np.stack([row, column], axis=1) - seeds[grain]) / (0.25 * size.min())
        vector = np.einsum("ni,nij->nj", np.clip(place, -1, 1), bend[grain])
        turn = rot.exponential(torch.as_tensor(vector, dtype=torch.float32))
        rotations.append(rot.multiply(torch.as_tensor(middle[grain]), turn))
    thickness = 80 + 520 * column / max(shape[1] - 1, 1)
    return _Grains(torch.stack(rotations, dim=1), first, share, thickness, column >= 0.93 * shape[1])


def _expected(
    simulate: ManyBeam, grains: _Grains, part, electrons: float, calibration: Calibration, far_beams: bool
) -> torch.Tensor:  # fmt: skip
    """Simulate the electrons (n, rows, columns) that are expected at some positions."""
    disk_radius = _SEMIANGLE / simulate.wavelength
    thickness = torch.as_tensor(grains.thickness[part], dtype=torch.float32)
    share = torch.as_tensor(grains.share[part], dtype=torch.float32)
    images, direct = 0, 1
    for rotations, of_thickness in zip(grains.rotations[part].unbind(1), (share, 1 - share), strict=True):
        given = rotations, thickness * of_thickness, disk_radius, 5
        beams = simulate(*given)
        if far_beams:
            beams = beams.joined(simulate.far(*given))
        # a slice is the least that is computed
        there = torch.as_tensor(~grains.bare[part]) & (thickness * of_thickness >= 2)
        through = torch.where(there, beams.intensity[:, 0].mean((1, 2)), 1.0)
        direct = direct * through
        diffracted = BeamIntensities(*(column[:, 1:] for column in beams))
        diffracted = diffracted._replace(present=diffracted.present & there[:, None])
        images = images + draw_beams(diffracted, electrons, calibration, disk_radius=disk_radius, blur=0.5)
    zero = torch.zeros(len(part), 1)
    beam = BeamIntensities(zero, zero, zero, torch.ones(len(part), 1, 5, 5), zero == 0, zero)
    images = images + draw_beams(beam, electrons * direct[:, None], calibration, disk_radius=disk_radius, blur=0.5)
    k = torch.linspace(0, 1.5 * _RADIUS, 256)
    parts = (torch.exp(-k / 0.12), torch.exp(-(((k - 0.48) / 0.09) ** 2)), torch.ones_like(k))
    for profile, amount in zip(parts, (_HALO, _CARBON, _FLOOR), strict=True):
        background = Background(profile[None], 1.5 * _RADIUS, torch.zeros(1, 2))
        # the thicker, the more is scattered without a direction
        inelastic = amount * (0.3 + thickness / 400) if amount == _HALO else amount * torch.ones_like(thickness)
        images = images + electrons * inelastic[:, None, None] * expected_background(background, calibration)
    return images
