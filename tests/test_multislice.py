"""Multislice by abTEM: potentials, places, handedness, and the many-beam calculation that it judges."""

import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from diffpy.structure import Atom, Lattice, Structure
from orix.crystal_map import Phase
from sample_phases import phase

from pyxem_dl import electrons, frames
from pyxem_dl.crystals import load_phases
from pyxem_dl.rotations import multiply
from pyxem_dl.simulation import multislice
from pyxem_dl.simulation.cells import cut_cell, tilted, zone_axis_rotation
from pyxem_dl.simulation.many_beam import ManyBeam
from pyxem_dl.simulation.multislice import Multislice

needs_abtem = pytest.mark.skipif(find_spec("abtem") is None, reason="abTEM is not installed (extra multislice)")
#: Semi-convergence angle over wavelength, Å⁻¹; a detector with disks of 4 pixels
DISK = 0.08
DETECTOR = frames.Calibration((0.02, 0.02), (50.0, 50.0), (101, 101), 200.0)


def gallium_arsenide():
    atoms = [Atom("Ga", [0, 0, 0]), Atom("As", [0.25, 0.25, 0.25])]
    structure = Structure(atoms, Lattice(5.65, 5.65, 5.65, 90, 90, 90))
    return load_phases(Phase("GaAs", space_group=216, structure=structure))[0]


def crystal(name):
    return gallium_arsenide() if name == "GaAs" else phase(name)


def near_axis(name):
    """Few degrees off a zone axis, where many beams are strong and no two of them alike."""
    # [110] of zinc blende is polar
    axis = {"LiNiO2": [2, 2, 1], "GaAs": [1, 1, 0]}.get(name, [0, 1, 1])
    return tilted(zone_axis_rotation(crystal(name), axis, 17.0), 0.7, 65.0)


def in_disks(pattern, beams, calibration, least=1e-2):
    """Mean of the pattern's and of the many-beam intensity in the disks that are bright, (n,) each."""
    row, column = frames.k_to_pixel(beams.kx[0].numpy(), beams.ky[0].numpy(), calibration)
    radius = DISK / calibration.scale[0]
    y, x = np.indices(pattern.shape)
    found = []
    for i in np.flatnonzero(beams.present[0].numpy()):
        inside = np.hypot(y - row[i], x - column[i]) < radius - 1
        expected = float(beams.intensity[0, i, 2:-2, 2:-2].mean())
        if expected > least and inside.sum() > 0.9 * np.pi * (radius - 1) ** 2 - 3:
            found.append((pattern[inside].mean() * np.pi * radius**2, expected))
    return np.array(found).T


@needs_abtem
@pytest.mark.parametrize("name", ["Al", "LiNiO2", "GaAs"])
def test_both_engines_have_the_same_disks_and_no_other_crystal_has_them(name):
    rotation, depth = near_axis(name), 120.0
    simulate = Multislice(crystal(name), 200.0, 2.0, box=50.0)
    pattern = simulate(rotation[None], [depth], DISK, DETECTOR)[0]
    assert pattern.shape == (101, 101) and pattern.dtype == np.float32 and 0.9 < pattern.sum() <= 1.0
    many_beam = ManyBeam(crystal(name), 200.0, 1.0)

    def compared(quaternion):
        one = torch.as_tensor(quaternion, dtype=torch.float32)[None]
        return in_disks(pattern, many_beam(one, torch.tensor([depth]), DISK, 9), DETECTOR)

    measured, expected = compared(rotation)
    assert len(measured) >= 3
    np.testing.assert_allclose(measured, expected, rtol=0.15, atol=0.006)
    # the mirrored crystal, and the one turned by 180 degrees about the beam, are others
    for wrong in (frames.MIRROR_QUATERNION, (0.0, 0.0, 0.0, 1.0)):
        other = multiply(torch.as_tensor(rotation), torch.tensor(wrong, dtype=torch.float64)).numpy()
        measured, expected = compared(other)
        assert not np.allclose(measured, expected, rtol=0.15, atol=0.006)


@needs_abtem
def test_potentials_are_those_of_abtem_on_a_fine_grid_and_not_damped_on_a_coarse_one():
    import abtem
    from ase import Atoms

    lno = phase("LiNiO2")
    cell = cut_cell(lno, near_axis("LiNiO2"), (10.0, 10.0), 2.0)
    atoms = Atoms([str(e) for e in cell.elements], cell.positions, cell=cell.box)
    potential = abtem.Potential(atoms, sampling=0.02, slice_thickness=2.0, projection="infinite")
    fine = potential.build(lazy=False).array
    calibration = frames.Calibration((0.1, 0.1), (15.0, 15.0), (31, 31), 200.0)
    grid = multislice._Grid(10.0, 1.5, DISK, calibration, (0.0, 0.0))
    coarse = multislice._potential(cell, multislice._scattering(abtem, cell.elements, 0.0, grid), grid, 0.0, 2.0)
    sides = [np.fft.fft2(v.reshape(v.shape[-2:])) / v.size for v in (fine, coarse)]
    k = np.arange(-14, 15)
    a, b = (side[np.ix_(k, k)] for side in sides)
    inside = np.hypot(*np.meshgrid(k, k)) <= 14
    assert np.abs(a - b)[inside].max() < 0.01 * np.abs(b)[inside & (np.hypot(*np.meshgrid(k, k)) > 0)].max()
    # the mean is the sum of the atoms', from diffsims' factors in volts
    factors = {"Ni": 6.569, "Li": 3.286, "O": 1.983}
    total = sum(factors[str(e)] for e in cell.elements) * electrons.POTENTIAL / 100.0
    assert abs(coarse.mean() / total - 1) < 0.05


@needs_abtem
def test_disks_lie_where_the_calibration_says_whatever_the_detector():
    al, rotation = phase("Al"), near_axis("Al")
    simulate = Multislice(al, 200.0, 1.0, box=50.0)
    plain = simulate(rotation[None], [60.0], DISK, DETECTOR)[0]
    # pixels of half the size, two by two, are the pixels; the direct beam then lies between four of them
    half = frames.Calibration((0.01, 0.01), (100.5, 100.5), (202, 202), 200.0)
    halved = Multislice(al, 200.0, 1.0, box=100.0)(rotation[None], [60.0], DISK, half)[0]
    np.testing.assert_allclose(halved.reshape(101, 2, 101, 2).sum((1, 3)).sum(), plain.sum(), rtol=2e-3)
    assert np.corrcoef(halved.reshape(101, 2, 101, 2).sum((1, 3)).ravel(), plain.ravel())[0, 1] > 0.995
    # off the middle, between pixels, with oblong pixels and a part of the pattern only
    odd = frames.Calibration((0.02, 0.025), (31.3, 22.6), (60, 70), 200.0)
    found = simulate(rotation[None], [60.0], DISK, odd)[0]
    sums = []
    for pattern, calibration in ((plain, DETECTOR), (found, odd)):
        y, x = np.indices(pattern.shape)
        kx, ky = frames.pixel_to_k(y, x, calibration)
        direct = np.hypot(kx, ky) < 1.3 * DISK
        middle = [np.average(k[direct], weights=pattern[direct]) for k in (kx, ky)]
        np.testing.assert_allclose(middle, 0, atol=0.003)
        sums.append(pattern[direct].sum())
    np.testing.assert_allclose(sums[1], sums[0], atol=0.01)


@needs_abtem
def test_several_thicknesses_are_those_one_by_one():
    al, rotation = phase("Al"), near_axis("Al")
    simulate = Multislice(al, 200.0, 1.0, box=40.0)
    together = simulate(rotation[None], [[90.0, 30.0, 90.0]], DISK, DETECTOR)
    assert together.shape == (1, 3, 101, 101)
    np.testing.assert_array_equal(together[0, 0], together[0, 2])
    single = simulate(np.stack([rotation] * 2), [30.0, 90.0], DISK, DETECTOR)
    np.testing.assert_allclose(together[0, 1], single[0], atol=1e-7)
    assert np.corrcoef(together[0, 0].ravel(), single[1].ravel())[0, 1] > 0.9999


@needs_abtem
def test_a_tilted_beam_is_a_tilted_crystal():
    al = phase("Al")
    rotation = zone_axis_rotation(al, [0, 1, 1], 17.0)
    simulate = Multislice(al, 200.0, 1.0, box=50.0)
    angle, azimuth = 0.4, 65.0
    # the crystal leans to where the beam would go
    k = np.tan(np.radians(angle)) / electrons.electron_wavelength(200.0)
    k = k * np.array([np.cos(np.radians(azimuth)), np.sin(np.radians(azimuth))])
    turned = simulate(tilted(rotation, angle, azimuth)[None], [200.0], DISK, DETECTOR)[0].ravel()
    plain, right, wrong = (
        simulate(rotation[None], [200.0], DISK, DETECTOR, beam_tilt=sign * k)[0].ravel() for sign in (0, 1, -1)
    )
    off = [1 - np.corrcoef(np.sqrt(turned), np.sqrt(other))[0, 1] for other in (plain, right, wrong)]
    assert off[1] < 0.2 * min(off[0], off[2])


def test_without_abtem_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "abtem", None)
    with pytest.raises(ImportError, match=r'pip install "pyxem-dl\[multislice\]"'):
        Multislice(phase("Al"), 200.0, 1.0)


@needs_abtem
@pytest.mark.parametrize(
    "changes, match",
    [
        ({"thickness": [10.0, 20.0]}, r"shape \(1,\) or \(1, m\)"),
        ({"thickness": [np.nan]}, "positive number of Angstrom"),
        ({"thickness": [-5.0]}, "positive number of Angstrom"),
        ({"disk_radius": 0.001}, "take the many-beam engine"),
        ({"disk_radius": 0.0}, "disk_radius must be a number above 0"),
        ({"calibration": frames.Calibration((1e-4, 1e-4), (5, 5), (10, 10))}, "larger pixels"),
    ],
)
def test_impossible_patterns_are_refused(changes, match):
    arguments = {"rotations": [[1, 0, 0, 0]], "thickness": [10.0], "disk_radius": DISK, "calibration": DETECTOR}
    with pytest.raises(ValueError, match=match):
        Multislice(phase("Al"), 200.0, 1.0)(**arguments | changes)
