"""The benchmark of many-beam against multislice: disks drawn by hand have known numbers."""

import numpy as np
import torch

from pyxem_dl.frames import Calibration, k_to_pixel
from pyxem_dl.simulation.many_beam import BeamIntensities
from suite import dynamical

CALIBRATION = Calibration((0.01, 0.01), (60.0, 60.0), (121, 121), 200.0)
RADIUS = 0.1


def beams_at(places):
    """Beams whose intensity grows to the right, and twice as much upwards."""
    q = torch.linspace(-1, 1, dynamical._GRID)
    inside = (0.01 * (1 + 0.3 * q[None, :] + 0.6 * q[:, None])).expand(1, len(places), -1, -1)
    kx, ky = (torch.tensor([column], dtype=torch.float32) for column in zip(*places))
    present = torch.ones_like(kx, dtype=torch.bool)
    return BeamIntensities(kx, ky, torch.zeros_like(kx), inside, present, torch.zeros_like(kx))


def drawn(places, share=1.0):
    """The same pattern, drawn pixel by pixel."""
    pattern = np.zeros(CALIBRATION.shape)
    y, x = np.indices(CALIBRATION.shape)
    for kx, ky in places:
        row, column = k_to_pixel(kx, ky, CALIBRATION)
        right, up = (x - column) / 10, (row - y) / 10
        pattern += (np.hypot(right, up) <= 1) * 0.01 * share * (1 + 0.3 * right + 0.6 * up) / (np.pi * 100)
    return pattern


def test_disks_that_are_alike_say_so_and_overlaps_and_cut_ones_are_left_out():
    alone, overlapping, cut = (0.3, -0.2), [(-0.3, 0.1), (-0.3, 0.16)], (0.55, 0.3)
    places = [(0.0, 0.0), alone, *overlapping, cut]
    ((correlation, ratio),) = dynamical.compare(drawn(places), beams_at(places), RADIUS, CALIBRATION)
    assert correlation > 0.999 and abs(ratio - 1) < 0.01
    ((correlation, ratio),) = dynamical.compare(drawn(places, 0.5), beams_at(places), RADIUS, CALIBRATION)
    assert correlation > 0.999 and abs(ratio - 2) < 0.02
    ((correlation, _),) = dynamical.compare(drawn(places)[::-1], beams_at([(0, 0), (0.3, 0.2)]), RADIUS, CALIBRATION)
    # upside down only what runs sideways is alike: 0.3² - 0.6² of 0.3² + 0.6²
    assert abs(correlation + 0.6) < 0.05


def test_the_table_has_a_line_for_each_crystal():
    numbers = {"100": dynamical._summary([(0.99, 1.1), (0.97, 0.9)]), "300": dynamical._summary([])}
    text = dynamical.table([{"data": "Al, [001]", **numbers}], lambda row: "a")
    assert "| Al, [001] | 0.980 (≥ 0.97); 1.00 ± 0.10; 2 | – | a |" in text


def test_the_materials_have_their_atoms():
    atoms = {"Al": 4, "Si": 8, "LiNiO2": 12, "GaN": 4, "SrTiO3": 5, "W": 2}
    assert {name: len(dynamical.phase_of(name).structure) for name in dynamical.MATERIALS} == atoms
