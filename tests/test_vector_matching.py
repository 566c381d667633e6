"""Orientations from Bragg vectors: known crystals give known orientations, handedness included."""

import math

import numpy as np
import pytest
import torch
from pyxem.signals import DiffractionVectors
from sample_phases import phase

from pyxem_dl import match_templates
from pyxem_dl.bragg_vectors import COLUMNS
from pyxem_dl.crystals import ReflectionTable, find_spots, load_phases, near_ewald_sphere, reflections
from pyxem_dl.electrons import electron_wavelength
from pyxem_dl.frames import out_of_plane
from pyxem_dl.metrics import disorientation
from pyxem_dl.rotations import random_rotations, rotate_in_plane

WAVELENGTH = electron_wavelength(200.0)


def two_beam_vectors(crystal, rotations, with_q_z=False, noise=0.0, seed=0, **changes):
    """Vectors with the intensities of two beams, which scatter, as far as they are seen.

    `noise` is that of q_z in Å⁻¹: of 15 % of the disks the excitation error has the other sign then, and further than
    0.01 Å⁻¹ from Bragg nothing is known.
    """
    rng, of_q_z = (np.random.default_rng(seed + i) for i in range(2))
    found = reflections(crystal, 1.45)
    rows = np.empty(len(rotations), dtype=object)
    for i, rotation in enumerate(rotations):
        lab, error, near = (x[0].numpy() for x in near_ewald_sphere(found.g, rotation[None], WAVELENGTH, 0.1))
        strength = found.extinction_distance(200.0).numpy() ** -2.0
        intensity = 1e5 * strength / (strength + error**2 + 5e-7) * rng.lognormal(0, 0.5, len(error))
        here = near & (intensity > 3)
        (kx, ky, _), error = lab[here].T, error[here]
        places = np.stack([-ky, kx]) + rng.normal(0, 0.003, (2, here.sum()))
        columns = [*places, intensity[here], np.full(here.sum(), 0.9), np.full(here.sum(), 0.004)]
        if with_q_z:
            wrong = of_q_z.random(here.sum()) < 0.15 * (noise > 0)
            seen = np.where(wrong, -error, error) + of_q_z.normal(0, noise, here.sum())
            known = (np.abs(error) < 0.01) | (noise == 0)
            q_z = np.where(known, out_of_plane(kx, ky, seen, WAVELENGTH), np.nan)
            columns += [q_z, np.where(known, max(noise, 0.0005), np.nan)]
        rows[i] = np.column_stack(columns)
    names = ["ky", "kx", "intensity", "confidence", "position_error", *(["q_z", "q_z_error"] if with_q_z else [])]
    settings = {
        "scales": np.array([0.02, 0.02, *[1] * (len(names) - 2)]), "detector_shape": (150, 150),
        "offsets": np.array([-1.5, -1.5, *[0] * (len(names) - 2)]), "column_names": names,
        "units": ["1/Å", "1/Å", *["a.u."] * (len(names) - 2)],
    }  # fmt: skip
    signal = DiffractionVectors(rows, **(settings | changes))
    signal.metadata.set_item("Acquisition_instrument.TEM.beam_energy", 200.0)
    return signal


def shares(xmap, rotations, crystal):
    """Shares within 2 degrees, strict and modulo 180 degrees, and the median modulo 180."""
    strict = disorientation(xmap.rotations.data, rotations.numpy(), crystal)
    modulo = disorientation(xmap.rotations.data, rotations.numpy(), crystal, modulo_180=True)
    return (strict < 2).mean(), (modulo < 2).mean(), np.median(modulo)


@pytest.mark.parametrize("name", ["Al", "LiNiO2", "ZrO2"])
def test_orientations_of_vectors_are_refined(name):
    (crystal,) = load_phases(phase(name))
    rotations = random_rotations(16, torch.Generator().manual_seed(5))
    xmap = match_templates(two_beam_vectors(crystal, rotations), crystal, show_progressbar=False)
    _, modulo, median = shares(xmap, rotations, crystal)
    # templates are 3 degrees apart
    assert modulo >= 0.8 and median < 0.5
    assert (xmap.prop["score"] > 0).all() and (xmap.prop["score"] <= 1).all()


@pytest.mark.parametrize("noise", [0.0, 0.003])
@pytest.mark.parametrize("name", ["Al", "LiNiO2"])
def test_q_z_tells_an_orientation_from_its_twin(name, noise):
    (crystal,) = load_phases(phase(name))
    rotations = random_rotations(24, torch.Generator().manual_seed(6))
    flat = match_templates(two_beam_vectors(crystal, rotations), crystal, show_progressbar=False)
    signal = two_beam_vectors(crystal, rotations, with_q_z=True, noise=noise)
    deep = match_templates(signal, crystal, show_progressbar=False)
    without, within = shares(flat, rotations, crystal), shares(deep, rotations, crystal)
    # a noisy q_z, whose sign is wrong now and then, tells little, and does little harm
    assert within[0] >= without[0] - 0.1 * (noise > 0) and within[1] >= without[1] - 0.1 * (noise > 0)
    if not noise:
        assert within[0] == 1 and within[2] < 0.1
    # q_z of the twin: all signs of what is odd are wrong
    if not noise:
        for table in signal.data:
            table[:, :2] *= -1
        twins = rotate_in_plane(rotations, torch.full((24,), math.pi))
        assert shares(match_templates(signal, crystal, show_progressbar=False), twins, crystal)[0] == 1


def test_q_z_that_is_nowhere_known_changes_nothing():
    (crystal,) = load_phases(phase("Al"))
    rotations = random_rotations(4, torch.Generator().manual_seed(7))
    signal = two_beam_vectors(crystal, rotations, with_q_z=True)
    for table in signal.data:
        table[:, 5:] = np.nan
    found = match_templates(signal, crystal, show_progressbar=False)
    flat = match_templates(two_beam_vectors(crystal, rotations), crystal, show_progressbar=False)
    np.testing.assert_allclose(found.rotations.data, flat.rotations.data, atol=1e-6)


def test_doubtful_vectors_count_less_and_those_that_are_none_do_no_harm():
    (crystal,) = load_phases(phase("Al"))
    rotations = random_rotations(12, torch.Generator().manual_seed(8))
    signal, rng = two_beam_vectors(crystal, rotations), np.random.default_rng(0)
    for i, table in enumerate(signal.data):
        ghosts = np.column_stack([rng.uniform(-1, 1, (20, 2)), rng.uniform(3, 10, 20), [0.06] * 20, [0.01] * 20])
        signal.data[i] = np.vstack([table, ghosts, [[0.3, 0.3, -5.0, 0.9, 0.01], [np.nan, 0.3, 5.0, 0.9, 0.01]]])
    found = match_templates(signal, crystal, show_progressbar=False)
    assert shares(found, rotations, crystal)[1] >= 0.8


def test_vectors_without_intensities_are_matched_by_templates_alone(capsys):
    (crystal,) = load_phases(phase("Al"))
    rotations = random_rotations(6, torch.Generator().manual_seed(9))
    signal = two_beam_vectors(crystal, rotations)
    rows = np.empty(6, dtype=object)
    rows[:] = [table[:, :2] for table in signal.data]
    bare = DiffractionVectors(
        rows, scales=signal.scales[:2], offsets=signal.offsets[:2], detector_shape=(150, 150),
        column_names=["ky", "kx"], units=["1/Å", "1/Å"],
    )  # fmt: skip
    xmap = match_templates(bare, crystal, beam_energy=200.0, resolution=2.0, show_progressbar=False)
    assert "2 degrees apart" in capsys.readouterr().out and (xmap.phase_id == 0).all()
    assert shares(xmap, rotations, crystal)[1] >= 0.3


def vectors_of(crystal, rotations, shape, units="1/Å", factor=1.0, **changes):
    """Vectors of kinematical patterns, as our detectors and pyxem's make them: y is not flipped."""
    table = ReflectionTable.stack([reflections(crystal, 1.5)], 200.0)
    spots = find_spots(
        table, torch.zeros(len(rotations), dtype=torch.long), rotations, 200.0, n_spots=120, max_excitation_error=0.08
    )
    intensity = (spots.structure_factor**2 / (1 + (np.pi * spots.excitation_error / 0.08) ** 2)).numpy()
    rows = np.empty(len(rotations), dtype=object)
    for i in range(len(rotations)):
        there = intensity[i] > 0
        kx, ky = spots.kx[i].numpy()[there], spots.ky[i].numpy()[there]
        beam = [[0.0, 0.0, intensity[i].sum() * 20, 1.0]]  # the direct beam must not matter
        rows[i] = np.vstack([beam, np.column_stack([-ky, kx, intensity[i][there], np.ones(there.sum())])])
        rows[i][:, :2] *= factor
    settings = {
        "scales": np.array([0.02 * factor, 0.02 * factor, 1, 1]), "detector_shape": (150, 150),
        "offsets": np.array([-1.5, -1.5, 0, 0]), "column_names": list(COLUMNS), "units": [units, units, "a.u.", "a.u."],
    }  # fmt: skip
    signal = DiffractionVectors(rows.reshape(shape), **(settings | changes))
    signal.metadata.set_item("Acquisition_instrument.TEM.beam_energy", 200.0)
    return signal


@pytest.mark.parametrize("name", ["Al", "LiNiO2"])
def test_vectors_of_known_orientations_are_indexed_strictly(name):
    (crystal,) = load_phases(phase(name))
    rotations = random_rotations(12, torch.Generator().manual_seed(1))
    signal = vectors_of(crystal, rotations, (3, 4))
    xmap = match_templates(signal, crystal, resolution=2.0, show_progressbar=False)
    assert xmap.shape == (3, 4)
    angle = disorientation(xmap.rotations.data, rotations.numpy(), crystal, modulo_180=True)
    assert np.median(angle) < 1.5 and (angle < 4).mean() > 0.9
    # a wrong hand of the pattern would leave next to nothing right
    assert (disorientation(xmap.rotations.data, rotations.numpy(), crystal) < 5).mean() >= 0.5


def test_vectors_are_matched_as_far_out_as_the_patterns_that_they_are_of(capsys):
    from pyxem_dl.bragg_vectors import to_diffraction_vectors
    from pyxem_dl.frames import Calibration
    from pyxem_dl.scans import make_signal

    (crystal,) = load_phases(phase("Al"))
    calibration = Calibration((0.03, 0.025), (40.0, 52.1), (90, 100), 200.0)
    signal = make_signal(np.random.default_rng(0).random((2, 90, 100)), calibration, "noise")
    rows = np.empty(2, dtype=object)
    rows[:] = [np.array([[3.0, 20.0, 9.0, 1.0], [-20.0, 3.0, 9.0, 1.0]])] * 2  # px, 0.5 and 0.6 Å⁻¹ from the beam
    vectors = to_diffraction_vectors(signal, rows, calibration)
    settings = {"resolution": 10.0, "show_progressbar": False}
    for what in (signal, vectors):
        match_templates(what, crystal, **settings)
        assert f"up to {47.4 * 0.025:.4g} " in capsys.readouterr().out  # the right edge is the nearest
    with_angles = make_signal(signal.data, calibration, "noise")
    for axis in with_angles.axes_manager.signal_axes:
        axis.units, axis.scale, axis.offset = "mrad", axis.scale * 25.0793, axis.offset * 25.0793
    match_templates(to_diffraction_vectors(with_angles, rows, calibration), crystal, **settings)
    assert f"up to {47.4 * 0.025:.4g} " in capsys.readouterr().out
    # vectors that do not know their detector: as far as there are any
    vectors.detector_shape = None
    match_templates(vectors, crystal, **settings)
    farthest = 1.02 * np.hypot(20 * 0.03, 3 * 0.025)
    assert f"up to {farthest:.4g} " in capsys.readouterr().out


def test_units_and_batches_do_not_matter():
    (crystal,) = load_phases(phase("Al"))
    rotations = random_rotations(6, torch.Generator().manual_seed(2))
    settings = {"resolution": 3.0, "reciprocal_radius": 1.5, "show_progressbar": False}
    one = match_templates(vectors_of(crystal, rotations, (6,)), crystal, **settings)
    other = match_templates(
        vectors_of(crystal, rotations, (6,), units="1/nm", factor=10.0), crystal, batch_size=2, **settings
    )
    np.testing.assert_allclose(one.rotations.data, other.rotations.data, atol=1e-4)
    np.testing.assert_allclose(one.prop["scores"], other.prop["scores"], atol=1e-5)


def test_positions_without_vectors_are_not_indexed():
    (crystal,) = load_phases(phase("Al"))
    signal = vectors_of(crystal, random_rotations(4, torch.Generator().manual_seed(3)), (2, 2))
    signal.data[0, 1] = np.zeros((0, 4))
    mask = np.array([[False, False], [True, False]])
    xmap = match_templates(signal, crystal, resolution=4.0, navigation_mask=mask, show_progressbar=False)
    assert xmap.is_in_data.tolist() == [True, True, False, True]
    assert xmap.phase_id.tolist() == [0, -1, 0]


def test_what_cannot_be_matched_says_why():
    (crystal,) = load_phases(phase("Al"))
    rotations = random_rotations(2, torch.Generator().manual_seed(4))
    signal = vectors_of(crystal, rotations, (2,))
    with pytest.raises(ValueError, match="engine='pyxem' and center cannot be used"):
        match_templates(signal, crystal, engine="pyxem", center="auto")
    with pytest.raises(ValueError, match="real space"):
        match_templates(vectors_of(crystal, rotations, (2,), units="nm"), crystal)
    shifted = vectors_of(crystal, rotations, (2,), offsets=np.zeros(4))
    for i in range(2):
        shifted.data[i][:, :2] += 2
    with pytest.raises(ValueError, match="from the first pixel"):
        match_templates(shifted, crystal)
    for i in range(2):
        signal.data[i] = np.zeros((0, 4))
    with pytest.raises(ValueError, match="nothing to match"):
        match_templates(signal, crystal)
