"""Dynamical disks: two beams have a known answer, and many beams lose nothing."""

import math

import numpy as np
import pytest
import torch
from diffpy.structure import Atom, Lattice, Structure
from diffsims.utils.sim_utils import get_kinematical_intensities
from orix.crystal_map import Phase
from orix.quaternion import Rotation
from orix.vector import Vector3d
from sample_phases import raw_phase

from pyxem_dl import crystals, electrons
from pyxem_dl.rotations import random_rotations
from pyxem_dl.simulation import cells
from pyxem_dl.simulation.many_beam import ManyBeam


def phase(name):
    if name == "Al":
        atoms = [Atom("Al", [0, 0, 0])]
        return Phase("Al", space_group=225, structure=Structure(atoms, Lattice(4.05, 4.05, 4.05, 90, 90, 90)))
    if name == "LiNiO2":
        return raw_phase(name)
    # zinc blende has no inversion centre: its structure factors are complex
    atoms = [Atom("Ga", [0, 0, 0]), Atom("As", [0.25, 0.25, 0.25])]
    return Phase("GaAs", space_group=216, structure=Structure(atoms, Lattice(5.65, 5.65, 5.65, 90, 90, 90)))


@pytest.mark.parametrize("name", ["Al", "GaAs"])
def test_structure_factors_have_the_moduli_of_the_reflections(name):
    (loaded,) = crystals.load_phases(phase(name))
    found = crystals.reflections(loaded, 1.0)
    limits = np.abs(found.hkl).max(axis=0)
    factors = crystals.structure_factors(loaded, limits)
    at = tuple((found.hkl + limits).T)
    np.testing.assert_allclose(np.abs(factors[at]), found.structure_factor.numpy(), rtol=1e-5)
    # Friedel: the potential is real
    opposite = tuple((limits - found.hkl).T)
    np.testing.assert_allclose(factors[opposite], factors[at].conj(), atol=1e-9)


def test_two_beams_are_howie_and_whelan():
    (al,) = crystals.load_phases(phase("Al"))
    beams = ManyBeam(al, 200.0, 1.0, n_beams=2, coupling_radius=1.0, debye_waller=0.0)
    rotations = random_rotations(40, torch.Generator().manual_seed(0))
    thickness = torch.linspace(40, 800, 40)
    found = beams(rotations, thickness, 0.01, n_grid=1)
    t = (thickness / 4).round() * 4
    g = torch.hypot(found.kx[:, 1], found.ky[:, 1])
    table = crystals.reflections(al, 1.0)
    # what reflection it is shows in its length
    nearest = (table.g.norm(dim=1)[None] - g[:, None]).abs().argmin(1)
    xi = table.extinction_distance(200.0)[nearest]
    # one grid point lies at the edge of the disk, (qx, qy) = (-radius, -radius)
    s = found.excitation_error[:, 1] + _tilted(found, beams, -0.01)
    effective = torch.sqrt(s**2 + xi**-2)
    expected = (torch.sin(math.pi * t * effective) / (effective * xi)) ** 2
    torch.testing.assert_close(found.intensity[:, 1, 0, 0], expected, atol=3e-3, rtol=0.02)


@pytest.mark.parametrize("name", ["Al", "GaAs", "LiNiO2"])
def test_many_beams_solve_the_wave_equation(name):
    """Against exact eigenvalues of the paraxial wave equation in the lab frame, which knows no excitation error.

    For the depth z below the surface, waves exp(2 pi i k r) follow
    d psi / dz = (i wavelength / 4 pi) (Laplacian in x, y) psi + i sigma V psi.
    """
    (loaded,) = crystals.load_phases(phase(name))
    beams = ManyBeam(loaded, 200.0, 1.2, n_beams=64, coupling_radius=1.5, debye_waller=0.5)
    # near low zone axes, where many beams are strong
    axes = [cells.zone_axis_rotation(loaded, axis) for axis in ([0, 0, 1], [1, 1, 0], [1, 0, 0])]
    rotations = np.stack([cells.tilted(q, 0.8, azimuth) for q, azimuth in zip(axes, (20, 130, 250))])
    thickness = torch.tensor([80.0, 200.0, 400.0])
    found = beams(torch.as_tensor(rotations, dtype=torch.float32), thickness, 0.05, n_grid=3)
    for i, rotation in enumerate(rotations):
        present = found.present[i]
        k = torch.stack([found.kx[i], found.ky[i]], 1)[present].double().numpy()
        expected = _wave_equation(loaded, rotation, k, float(thickness[i]))
        np.testing.assert_allclose(found.intensity[i, present, 1, 1], expected, atol=4e-3)
        # the wave that potentials repel is another one
        assert np.abs(expected - _wave_equation(loaded, rotation, k, float(thickness[i]), -1)).max() > 0.02


def test_electrons_reach_what_glide_planes_extinguish():
    """Silicon's 200 is extinct, and bright in [011] patterns: scattered by 11-1 and 1-11, one after the other."""
    structure = Structure([Atom("Si", [0, 0, 0])], Lattice(5.431, 5.431, 5.431, 90, 90, 90))
    (si,) = crystals.load_phases(Phase("Si", space_group=227, structure=structure))
    beams = ManyBeam(si, 200.0, 1.2)
    axis = torch.as_tensor(cells.zone_axis_rotation(si, [0, 1, 1]), dtype=torch.float32)[None]
    found = beams(axis, torch.tensor([400.0]), 0.02, n_grid=1)
    g = torch.hypot(found.kx[0], found.ky[0])
    dark = (g - 2 / 5.431).abs() < 1e-3
    assert int(dark.sum()) == 2 and bool((found.intensity[0, dark] > 0.005).all())
    # no detour leads to what the centring forbids, and no single scattering to the others
    assert not bool(((g[1:] - 1 / 5.431).abs() < 1e-3)[found.present[0, 1:]].any())
    far = beams.far(axis, torch.tensor([400.0]), 0.02, n_grid=1, n_beams=200)
    assert bool((far.intensity[far.present] > 0).all()) and not bool((far.intensity[~far.present] > 0).any())


def test_beams_that_no_detector_sees_take_part():
    (al,) = crystals.load_phases(phase("Al"))
    rotation = torch.as_tensor(cells.zone_axis_rotation(al, [1, 1, 0]), dtype=torch.float32)[None]
    thickness = torch.tensor([300.0])

    def direct(**radius):
        return float(ManyBeam(al, 200.0, 1.0, **radius)(rotation, thickness, 0.02, 1).intensity[0, 0])

    assert abs(direct() - direct(coupling_radius=2.8)) < 0.01
    assert abs(direct() - direct(coupling_radius=1.0)) > 0.2
    # of a large unit cell the default takes fewer
    structure = Structure([Atom("Au", [0, 0, 0])], Lattice(20, 20, 20, 90, 90, 90))
    (large,) = crystals.load_phases(Phase("large", space_group=225, structure=structure))
    large = ManyBeam(large, 200.0, 0.5)
    assert 0.5 <= float(large.table.g.norm(dim=-1).max()) < 1.0


def _wave_equation(loaded, rotation, k, depth, charge=1):
    """Intensities of beams of which k (n, 2) in Å⁻¹ are given, the direct one first."""
    lattice = loaded.structure.lattice
    span = np.ceil(1.6 * np.array([lattice.a, lattice.b, lattice.c])).astype(int)
    hkl = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in span), indexing="ij"), -1).reshape(-1, 3)
    lab = (~Rotation(rotation) * Vector3d(hkl @ lattice.recbase.T)).data.reshape(-1, 3)
    # of the reflections at a place in the pattern, the one near the Ewald sphere
    distance = np.linalg.norm(lab[None, :, :2] - k[:, None], axis=2) + np.abs(lab[:, 2]) * 1e-3
    index = distance.argmin(1)
    hkl, lab = hkl[index], lab[index]
    assert np.abs(lab[:, :2] - k).max() < 1e-4 and len(np.unique(index)) == len(index)
    # V_g of waves exp(2 pi i g r), from the atoms themselves: GaAs is not its own inversion
    difference = hkl[:, None] - hkl[None]
    squared = ((difference @ lattice.recbase.T) ** 2).sum(-1)
    volts = 0
    for atom, xyz in zip(loaded.structure, crystals.fractional_coordinates(loaded.structure)):
        alone = Structure([Atom(atom.element, [0, 0, 0])], lattice)
        factor = get_kinematical_intensities(alone, difference.reshape(-1, 3), np.sqrt(squared).ravel()) ** 0.5
        volts = volts + factor.reshape(squared.shape) * np.exp(-2j * np.pi * difference @ xyz - 0.5 * squared / 4)
    volts = volts * electrons.POTENTIAL / lattice.volume
    wavelength = electrons.electron_wavelength(200.0)
    generator = charge * volts / electrons.potential_per_radian(200.0)
    # the beam goes down, against z
    along = -lab[:, 2]
    generator = generator - np.diag(math.pi * wavelength * (lab[:, :2] ** 2).sum(1) + 2 * math.pi * along)
    values, vectors = np.linalg.eigh(generator)
    return np.abs(vectors @ (np.exp(1j * values * depth) * vectors[0].conj())) ** 2


def _tilted(found, beams, q):
    from pyxem_dl.frames import excitation_error_in_disk

    def at(i):
        kx, ky, error = found.kx[:, i], found.ky[:, i], found.excitation_error[:, i]
        return excitation_error_in_disk(error, kx, ky, q, q, beams.wavelength) - error

    return at(1) - at(0)


@pytest.mark.parametrize("name", ["Al", "GaAs"])
def test_no_electron_is_lost_and_padding_stays_dark(name):
    (loaded,) = crystals.load_phases(phase(name))
    beams = ManyBeam(loaded, 200.0, 1.2, n_beams=40)
    found = beams(random_rotations(6, torch.Generator().manual_seed(1)), torch.full((6,), 300.0), 0.05, n_grid=3)
    torch.testing.assert_close(found.intensity.sum(1), torch.ones(6, 3, 3), atol=1e-3, rtol=0)
    assert bool((found.intensity[~found.present] == 0).all())
    assert bool((found.intensity[:, 0] < 1).any())


def test_far_beams_go_on_where_many_beams_end():
    (al,) = crystals.load_phases(phase("Al"))
    beams = ManyBeam(al, 200.0, 1.0, coupling_radius=1.0, debye_waller=0.0)
    rotations = random_rotations(12, torch.Generator().manual_seed(1))
    # so thin that what scatters twice is little
    thickness = torch.full((12,), 24.0)
    near, far = beams(rotations, thickness, 0.02, 5), beams.far(rotations, thickness, 0.02, 5, n_beams=200)
    assert float(near.excitation_error.abs().max()) <= 0.06
    assert float(far.excitation_error[far.present].abs().min()) >= 0.06
    # the same reflections as the table has within these limits, none of them twice
    both = near.joined(far)
    count = both.present.sum(1) - 1
    table = crystals.find_spots(
        beams.table, torch.zeros(12, dtype=torch.long), rotations, 200.0, n_spots=400, max_excitation_error=0.3
    )
    assert torch.equal(count, (table.structure_factor > 0).sum(1))
    # kinematical two-beam intensities in the middle of the disk
    assert float((far.intensity[~far.present]).abs().max() if (~far.present).any() else 0) == 0
    k = torch.hypot(far.kx, far.ky)
    table = crystals.reflections(al, 1.0)
    nearest = (table.g.norm(dim=1)[None, None] - torch.hypot(k, far.excitation_error)[..., None]).abs()
    xi = table.extinction_distance(200.0)[nearest.argmin(-1)]
    s = far.excitation_error
    expected = (torch.sin(math.pi * 24 * s) / (xi * s)) ** 2
    torch.testing.assert_close(far.intensity[..., 2, 2][far.present], expected[far.present], atol=1e-6, rtol=0.1)
