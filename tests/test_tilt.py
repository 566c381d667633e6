"""Tilt of patterns from their disks: exact patterns of zones that are tilted by known angles."""

import numpy as np
import pytest
import torch
from pyxem.signals import DiffractionVectors
from sample_phases import phase

from pyxem_dl import tilt_map
from pyxem_dl.crystals import load_phases, near_ewald_sphere, reflections
from pyxem_dl.electrons import electron_wavelength
from pyxem_dl.frames import out_of_plane
from pyxem_dl.rotations import from_matrix, rotate_in_plane, to_matrix, zone_axes
from pyxem_dl.tilt import find_lattices

WAVELENGTH = electron_wavelength(200.0)
COLUMNS = ["ky", "kx", "intensity", "confidence", "position_error"]


def tilted(crystal, zone, lean, in_plane=0.3):
    """Orientation (4,) of a crystal whose zone axis leans to (x, y) degrees, turned by an angle about the beam."""
    axis = np.asarray(zone) @ crystal.structure.lattice.base
    third = axis / np.linalg.norm(axis)
    first = np.cross(third, [0.31, 0.52, 0.79])
    first /= np.linalg.norm(first)
    on_axis = np.stack([first, np.cross(third, first), third], axis=1)  # columns: where the lab's axes are
    angle, turn = np.radians(np.hypot(*lean)), np.array([-lean[1], lean[0], 0.0]) / max(np.hypot(*lean), 1e-9)
    cross = np.array([[0, -turn[2], turn[1]], [turn[2], 0, -turn[0]], [-turn[1], turn[0], 0]])
    leaning = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross  # takes z to the leaning axis
    untilted = rotate_in_plane(from_matrix(torch.as_tensor(on_axis)), torch.tensor(in_plane))
    return from_matrix(to_matrix(untilted).double() @ torch.as_tensor(leaning.T))


def table_of(crystal, rotation, with_q_z=False, farthest=0.05, seed=0):
    """Vectors of two-beam intensities, y as it runs in the pattern."""
    found = reflections(crystal, 1.4)
    lab, error, near = (x[0].numpy() for x in near_ewald_sphere(found.g, rotation[None].float(), WAVELENGTH, farthest))
    strength = 1 / found.extinction_distance(200.0).numpy() ** 2
    intensity = 1e4 * strength / (strength + error**2 + 1e-6)
    here = near & (intensity > 3)
    kx, ky = lab[here, 0], lab[here, 1]
    columns = [-ky, kx, intensity[here], np.full(here.sum(), 0.9), np.full(here.sum(), 0.003)]
    if with_q_z:
        columns += [out_of_plane(kx, ky, error[here], WAVELENGTH), np.full(here.sum(), 0.003)]
    return np.column_stack(columns)


def vectors_of(tables, columns=COLUMNS, units="1/Å", **changes):
    rows = np.empty(len(tables), dtype=object)
    rows[:] = tables
    others = len(columns) - 2
    settings = {
        "scales": np.array([0.02, 0.02, *[1] * others]), "detector_shape": (150, 150),
        "offsets": np.array([-1.5, -1.5, *[0] * others]), "column_names": list(columns),
        "units": [units, units, *["a.u."] * others],
    }  # fmt: skip
    signal = DiffractionVectors(rows, **(settings | changes))
    signal.metadata.set_item("Acquisition_instrument.TEM.beam_energy", 200.0)
    return signal


LEANS = [(0.0, 0.0), (1.3, 0.0), (0.0, 1.3), (-0.8, 2.0), (2.1, -1.7)]


@pytest.mark.parametrize("with_q_z", [False, True], ids=["positions and intensities", "with q_z"])
@pytest.mark.parametrize("name, zone", [("Al", (0, 0, 1)), ("LiNiO2", (0, 0, 1))], ids=["cubic", "trigonal"])
def test_tilts_are_found_with_their_signs(name, zone, with_q_z):
    (crystal,) = load_phases(phase(name))
    rotations = [tilted(crystal, zone, lean) for lean in LEANS]
    # the truth by another way: where the axis of the crystal lies in the lab
    axis = np.asarray(zone) @ crystal.structure.lattice.base
    assert all(np.degrees(np.arccos(abs(zone_axes(r).numpy() @ axis) / np.linalg.norm(axis))) < 3 for r in rotations)
    columns = COLUMNS + ["q_z", "q_z_error"] * with_q_z
    signal = vectors_of([table_of(crystal, r, with_q_z) for r in rotations], columns)
    found = signal.tilt_map(show_progressbar=False)
    np.testing.assert_allclose(found.tilt, LEANS, atol=0.1 if with_q_z else 0.3)
    # the Laue circle's centre lies opposite to where the axis leans
    np.testing.assert_allclose(found.laue_center, -np.radians(found.tilt) / WAVELENGTH, rtol=1e-3, atol=1e-9)
    assert (found.error > 0).all() and (found.n_disks > 4).all()


def test_q_z_alone_tells_the_tilt_where_intensities_do_not():
    (crystal,) = load_phases(phase("Al"))
    table = table_of(crystal, tilted(crystal, (0, 0, 1), (1.5, -0.5)), with_q_z=True)
    table[:, 2] = 100.0
    columns = [*COLUMNS, "q_z", "q_z_error"]
    found = tilt_map(vectors_of([table], columns), show_progressbar=False)
    np.testing.assert_allclose(found.tilt[0], (1.5, -0.5), atol=0.2)
    # q_z that is not known does not count
    table[:, 5] = np.nan
    without = tilt_map(vectors_of([table], columns), show_progressbar=False)
    assert np.isfinite(without.tilt).all() and without.error[0] > 3 * found.error[0]


def test_other_crystals_and_laue_zones_are_strays():
    (crystal,) = load_phases(phase("Al"))
    table = table_of(crystal, tilted(crystal, (0, 0, 1), (1.0, 0.5)))
    other = table_of(crystal, tilted(crystal, (1, 1, 0), (0.4, 0.2), in_plane=1.1))[:5]
    found = tilt_map(vectors_of([np.vstack([table, other])]), show_progressbar=False)
    np.testing.assert_allclose(found.tilt[0], (1.0, 0.5), atol=0.4)


def test_too_few_vectors_are_masked_and_not_guessed():
    (crystal,) = load_phases(phase("Al"))
    table = table_of(crystal, tilted(crystal, (0, 0, 1), (1.0, 0.5)))
    row = np.array([[0.0, i * 0.5, 100.0, 0.9, 0.003] for i in (-2, -1, 1, 2)])
    tables = [table, np.zeros((0, 5)), table[:2], row, table]
    mask = np.array([False, False, False, False, True])
    found = tilt_map(vectors_of(tables), navigation_mask=mask, show_progressbar=False)
    known = [True, False, False, False, False]
    for values in found:
        assert np.isfinite(values).reshape(5, -1).all(1).tolist() == known


def test_the_map_has_the_shape_of_the_scan_and_any_units():
    (crystal,) = load_phases(phase("Al"))
    table = table_of(crystal, tilted(crystal, (0, 0, 1), (1.0, 0.5)))
    one = tilt_map(vectors_of([table]), show_progressbar=False)
    scaled = table * [10, 10, 1, 1, 10]
    rows = np.empty((2, 3), dtype=object)
    for index in np.ndindex(2, 3):
        rows[index] = scaled
    signal = vectors_of([scaled], units="1/nm")
    signal = DiffractionVectors(
        rows, scales=10 * signal.scales, offsets=10 * signal.offsets, detector_shape=(150, 150),
        column_names=COLUMNS, units=["1/nm", "1/nm", "a.u.", "a.u.", "1/nm"],
    )  # fmt: skip
    found = tilt_map(signal, beam_energy=200.0, show_progressbar=False)
    assert found.tilt.shape == (2, 3, 2) and found.error.shape == (2, 3)
    np.testing.assert_allclose(found.tilt[1, 2], one.tilt[0], atol=0.02)


def test_a_lattice_is_found_among_strays():
    basis = np.array([[0.31, 0.05], [-0.08, 0.47]])
    index = np.array([[i, j] for i in range(-2, 3) for j in range(-2, 3) if i or j])
    rng = np.random.default_rng(0)
    places = np.vstack([index @ basis + rng.normal(0, 0.003, index.shape), rng.uniform(-1, 1, (4, 2))])
    order = rng.permutation(len(places))
    found = find_lattices(*places[order].T, np.full(len(places), 0.8), np.full(len(places), 5e-5))
    same = found[0] @ np.linalg.inv(basis)
    np.testing.assert_allclose(same, np.round(same), atol=0.02)
    assert abs(np.linalg.det(same)) == pytest.approx(1, abs=0.05)
    assert len(find_lattices(*places[:1].T, np.ones(1), np.full(1, 5e-5))) == 0


def test_what_has_no_tilt_says_why():
    table = np.array([[0.1, 0.2, 5.0, 0.9, 0.003]] * 3)
    with pytest.raises(ValueError, match="a tilt needs 'intensity'"):
        tilt_map(vectors_of([table[:, :2]], ["ky", "kx"]))
    with pytest.raises(ValueError, match="real space"):
        tilt_map(vectors_of([table], units="nm"))
    without = vectors_of([table])
    del without.metadata.Acquisition_instrument
    with pytest.raises(ValueError, match="The beam energy is unknown"):
        tilt_map(without)
    with pytest.raises(ValueError, match="max_tilt"):
        tilt_map(vectors_of([table]), max_tilt=120)
