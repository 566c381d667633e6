"""Orientations from Bragg vectors: known crystals give known orientations, handedness included."""

import numpy as np
import pytest
import torch
from pyxem.signals import DiffractionVectors
from sample_phases import phase

from pyxem_dl import match_templates
from pyxem_dl.bragg_vectors import COLUMNS
from pyxem_dl.crystals import ReflectionTable, find_spots, load_phases, reflections
from pyxem_dl.metrics import disorientation
from pyxem_dl.rotations import random_rotations


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
