"""Dynamical disks: two beams have a known answer, and many beams lose nothing."""

import math

import numpy as np
import pytest
import torch
from diffpy.structure import Atom, Lattice, Structure
from orix.crystal_map import Phase

from pyxem_dl import crystals
from pyxem_dl.rotations import random_rotations
from pyxem_dl.simulation.many_beam import ManyBeam


def phase(name):
    if name == "Al":
        atoms = [Atom("Al", [0, 0, 0])]
        return Phase("Al", space_group=225, structure=Structure(atoms, Lattice(4.05, 4.05, 4.05, 90, 90, 90)))
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
    beams = ManyBeam(al, 200.0, 1.0, n_beams=2, debye_waller=0.0)
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
    beams = ManyBeam(al, 200.0, 1.0, debye_waller=0.0)
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
    nearest = (beams.table.g[0].norm(dim=1)[None, None] - torch.hypot(k, far.excitation_error)[..., None]).abs()
    xi = crystals.reflections(al, 1.0).extinction_distance(200.0)[nearest.argmin(-1)]
    s = far.excitation_error
    expected = (torch.sin(math.pi * 24 * s) / (xi * s)) ** 2
    torch.testing.assert_close(far.intensity[..., 2, 2][far.present], expected[far.present], atol=1e-6, rtol=0.1)
