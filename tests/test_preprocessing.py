"""One polar image, or one square, whatever the detector."""

import math

import numpy as np
import pytest
import torch
from sample_phases import phase

from pyxem_dl import rotations as rot
from pyxem_dl.crystals import ReflectionTable, find_spots, reflections
from pyxem_dl.frames import MIRROR_QUATERNION, Calibration, k_to_pixel, pixel_to_k
from pyxem_dl.preprocessing import (
    CartesianPreprocessing,
    PolarPreprocessing,
    counts_per_electron,
    find_direct_beam,
)
from pyxem_dl.simulation.detector import draw_spots

RADIUS = 1.0
CALIBRATION = Calibration((0.02, 0.02), (60.0, 62.0), (120, 124), 200)
PREPROCESSING = PolarPreprocessing(RADIUS, n_k=25, n_phi=72)


def spots(positions, calibration, sigma=0.03, center=None, background=0.0):
    """A pattern (1, rows, columns) with Gaussian spots at (k, angle in degrees), sigma in Å⁻¹."""
    row = torch.arange(calibration.shape[0]).float()[:, None]
    column = torch.arange(calibration.shape[1]).float()[None]
    pattern = torch.full(calibration.shape, float(background))
    for k, angle in positions:
        kx, ky = k * math.cos(math.radians(angle)), k * math.sin(math.radians(angle))
        row0, column0 = k_to_pixel(kx, ky, calibration, center)
        y = (row - row0) * (calibration.scale[0] / sigma)
        x = (column - column0) * (calibration.scale[1] / sigma)
        pattern = pattern + torch.exp(-(y**2 + x**2) / 2)
    return pattern[None]


SMOOTH = [(0.3, 10), (0.5, 75), (0.62, 140), (0.7, 221), (0.45, 300)]


@pytest.mark.parametrize("k, angle", [(0.3, 0), (0.5, 90), (0.7, 180), (0.9, 270), (0.6, 35), (0.42, 200)])
def test_a_spot_lands_in_its_bin(k, angle):
    polar, valid = PREPROCESSING.resample(spots([(k, angle)], CALIBRATION, sigma=0.02), CALIBRATION)
    assert valid.all()
    k_bin, phi_bin = divmod(polar[0].argmax().item(), PREPROCESSING.n_phi)
    assert abs((k_bin + 0.5) * RADIUS / 25 - k) <= 0.5 * RADIUS / 25 + 1e-6
    assert phi_bin == round(angle / 5) % 72


def test_a_constant_stays_constant():
    polar, _ = PREPROCESSING.resample(torch.full((1, *CALIBRATION.shape), 7.0), CALIBRATION)
    torch.testing.assert_close(polar, torch.full_like(polar, 7.0))


def test_turning_by_a_bin_rolls_the_image():
    before = PREPROCESSING(spots(SMOOTH, CALIBRATION), CALIBRATION)
    turned = [(k, angle + 15) for k, angle in SMOOTH]
    after = PREPROCESSING(spots(turned, CALIBRATION), CALIBRATION)
    difference = (after - before.roll(3, dims=-1)).abs()
    assert difference.max() < 0.05 * before.max()
    assert difference.mean() < 0.002 * before.max()


@pytest.mark.parametrize(
    "calibration",
    [
        Calibration((0.01, 0.01), (120.0, 130.0), (250, 256), 200),
        Calibration((0.02, 0.0125), (61.5, 95.0), (120, 180), 200),
        Calibration((0.0175, 0.02), (58.2, 52.7), (130, 110), 200),
    ],
    ids=["finer", "rectangular pixels", "off-centre"],
)
def test_other_detectors_give_the_same_image(calibration):
    expected = PREPROCESSING(spots(SMOOTH, CALIBRATION, background=0.01), CALIBRATION)
    image = PREPROCESSING(spots(SMOOTH, calibration, background=0.01), calibration)
    difference = (image - expected).abs()
    assert difference.max() < 0.08 * expected.max()
    assert difference.mean() < 0.003 * expected.max()


def test_per_pattern_centers():
    centers = torch.tensor([[58.0, 65.0], [61.3, 60.6]])
    patterns = torch.cat([spots(SMOOTH, CALIBRATION, center=tuple(c.tolist())) for c in centers])
    expected = PREPROCESSING(spots(SMOOTH, CALIBRATION), CALIBRATION)
    images = PREPROCESSING(patterns, CALIBRATION, centers)
    both = (images[:, 1:] * expected[:, 1:]).bool()[:, 0]
    difference = (images[:, 0] - expected[:, 0]).abs()[both]
    assert difference.max() < 0.1 * expected.max()
    assert difference.mean() < 0.003 * expected.max()
    # and without them it is another image
    assert (PREPROCESSING(patterns, CALIBRATION) - expected).abs().max() > 0.3 * expected.max()


def test_masked_pixels_do_not_count():
    mask = torch.zeros(CALIBRATION.shape, dtype=torch.bool)
    mask[:70, 60:66] = True  # a beam stop from above
    clean = spots(SMOOTH, CALIBRATION, background=0.05)
    dirty = torch.where(mask, 1e3, clean)
    polar, valid = PREPROCESSING.resample(dirty, CALIBRATION, None, mask)
    expected, _ = PREPROCESSING.resample(clean, CALIBRATION)
    assert not valid.all() and valid.float().mean() > 0.85
    assert (polar[~valid.expand_as(polar)] == 0).all()
    difference = (polar - expected).abs()[valid.expand_as(polar)]
    assert difference.max() < 0.2 * expected.max() and difference.mean() < 1e-3 * expected.max()
    assert (PREPROCESSING(dirty, CALIBRATION, None, mask)[:, 1].bool() == valid).all()


def test_outside_of_the_detector_is_not_valid():
    wide = PolarPreprocessing(2.0, n_k=25, n_phi=72)
    image = wide(spots(SMOOTH, CALIBRATION), CALIBRATION)
    assert image[0, 1, -1].sum() < 20 and image[0, 1, 5].all()


def test_scale_of_the_intensity_does_not_matter():
    pattern = spots(SMOOTH, CALIBRATION, background=0.1)
    torch.testing.assert_close(PREPROCESSING(pattern, CALIBRATION), PREPROCESSING(1e4 * pattern, CALIBRATION))


def test_direct_beam_does_not_matter():
    beam = spots([(0, 0)], CALIBRATION, sigma=0.02)
    pattern = spots(SMOOTH, CALIBRATION, background=0.1)
    with_beam, without = (PREPROCESSING(p, CALIBRATION) for p in (pattern + 1e3 * beam, pattern))
    torch.testing.assert_close(with_beam[:, :, 6:], without[:, :, 6:])


@pytest.mark.parametrize(
    "changes",
    [
        {"reciprocal_radius": 0.9},
        {"n_k": 30},
        {"n_phi": 90},
        {"gamma": 0.3},
        {"inner_radius": 0.4},
        {"clip": 1.0},
        {"scale_factor": 1.05},
    ],
    ids=lambda c: next(iter(c)),
)
def test_every_parameter_changes_the_image(changes):
    pattern = spots(SMOOTH, CALIBRATION, background=0.1)
    expected = PREPROCESSING(pattern, CALIBRATION)
    image = PolarPreprocessing(**(PREPROCESSING.to_dict() | changes))(pattern, CALIBRATION)
    assert image.shape != expected.shape or (image - expected).abs().max() > 0.005


def test_dictionary_round_trip():
    assert PolarPreprocessing(**PREPROCESSING.to_dict()) == PREPROCESSING


@pytest.mark.parametrize("center", [(60.0, 62.0), (57.3, 66.8), (63.6, 60.1)])
def test_find_direct_beam(center):
    pattern = 50 * spots([(0, 0)], CALIBRATION, sigma=0.04, center=center)
    pattern = pattern + spots(SMOOTH, CALIBRATION, center=center, background=0.3)
    found = find_direct_beam(pattern, CALIBRATION)
    torch.testing.assert_close(found, torch.tensor([center]), atol=0.15, rtol=0)


def test_find_direct_beam_is_not_fooled():
    pattern = 50 * spots([(0, 0)], CALIBRATION, sigma=0.04)
    pattern[0, 55, 70] = 60  # a hot pixel
    torch.testing.assert_close(find_direct_beam(pattern, CALIBRATION), torch.tensor([[60.0, 62.0]]), atol=0.3, rtol=0)
    nothing = torch.zeros_like(pattern)
    torch.testing.assert_close(find_direct_beam(nothing, CALIBRATION), torch.tensor([[60.0, 62.0]]))


def test_fine_detectors_are_binned_and_give_the_same_answer():
    """One spot on detectors of 512 and 1,024 pixels, with a mask and with centres of their own."""
    polar = []
    for n in (512, 1024):
        scale = 3.0 / n
        calibration = Calibration((scale, scale), (n / 2 - 0.5, n / 2 - 0.5), (n, n))
        row, column = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
        kx, ky = pixel_to_k(row, column, calibration)
        pattern = torch.exp(-((kx - 0.6) ** 2 + (ky - 0.5) ** 2) / (2 * 0.04**2))[None]
        mask = (kx < -0.2) & (ky.abs() < 0.1)
        center = torch.tensor([calibration.center])
        found, valid = PolarPreprocessing(1.4).resample(pattern, calibration, center, mask)
        polar.append(found)
        assert not valid[0, 30, 72] and valid[0, 30, 0]
    torch.testing.assert_close(*polar, atol=0.02, rtol=0)


# ------------------------------------------------------------------ counts per electron
@pytest.mark.parametrize("gain", [0.01, 7.0, 75.0])
@pytest.mark.parametrize("level", [0.02, 0.5, 20.0])
def test_what_an_electron_counts_is_seen_in_the_noise(gain, level):
    generator = torch.Generator().manual_seed(0)
    row = torch.linspace(0.5, 1.5, 64)[:, None].expand(12, 64, 64)
    counts = torch.poisson(level * row, generator)
    assert counts_per_electron(gain * counts) == pytest.approx(gain, rel=0.1)


def test_electrons_that_are_counted_stay_as_they_are():
    generator = torch.Generator().manual_seed(0)
    counts = torch.poisson(torch.full((4, 64, 64), 3.0), generator)
    assert counts_per_electron(counts) == 1
    assert counts_per_electron(torch.zeros(4, 64, 64)) == 1


def test_the_gain_is_that_of_the_values_whatever_their_scale():
    """What is multiplied by a number has a gain multiplied by it, and an offset changes nothing."""
    generator = torch.Generator().manual_seed(0)
    row = torch.linspace(0.5, 5, 64)[:, None].expand(12, 64, 64)
    counts = torch.poisson(row, generator)
    for factor in (1e-30, 1e-6, 1e-3, 1.0, 1e3, 1e6, 1e20):
        assert counts_per_electron(factor * counts) == pytest.approx(factor, rel=1e-5)
        noisy = 50 * (counts + 0.3 * torch.randn(12, 64, 64, generator=torch.Generator().manual_seed(1)))
        assert counts_per_electron(factor * (noisy - 100)) == pytest.approx(50 * factor, rel=0.15)


def test_what_is_masked_does_not_count():
    generator = torch.Generator().manual_seed(0)
    counts = 7 * torch.poisson(torch.full((4, 64, 64), 3.0), generator)
    counts[:, 20:30] = 1e4 * torch.rand(4, 10, 64, generator=generator)
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[20:30] = True
    assert counts_per_electron(counts, mask) == pytest.approx(7, rel=0.1)


# ---------------------------------------------------------------- turned, mirrored, square
DETECTOR = Calibration((0.02, 0.02), (63.0, 61.5), (128, 120), 200.0)


def draw(name, quaternions, calibration=DETECTOR):
    """Spots (n, rows, columns) of a crystal in given orientations."""
    table = ReflectionTable.stack([reflections(phase(name), 1.2)], 200.0)
    spots = find_spots(table, torch.zeros(len(quaternions), dtype=torch.long), quaternions, 200.0)
    strength = spots.structure_factor**2 * torch.exp(-((spots.excitation_error / 0.02) ** 2))
    return draw_spots(spots.kx, spots.ky, strength, calibration, disk_radius=0.03, blur=0.8)


@pytest.mark.parametrize("name", ["Al", "LiNiO2"])
@pytest.mark.parametrize("make", [lambda: CartesianPreprocessing(1.1, size=110), lambda: PolarPreprocessing(1.1)])
def test_patterns_are_turned_and_mirrored_as_their_orientations_are(name, make):
    preprocessing = make()
    generator = torch.Generator().manual_seed(1)
    quaternions = rot.random_rotations(6, generator)
    turn = 2 * np.pi * torch.rand(6, generator=generator)
    if preprocessing.turn_step:
        turn = (turn / preprocessing.turn_step).round() * preprocessing.turn_step
    mirrored = torch.arange(6) % 2 == 0
    moved = torch.where(mirrored[:, None], rot.multiply(quaternions, torch.tensor(MIRROR_QUATERNION)), quaternions)
    moved = rot.rotate_in_plane(moved, turn)
    expected = preprocessing(draw(name, moved), DETECTOR)[:, 0]
    found = preprocessing(draw(name, quaternions), DETECTOR, turn=turn, mirrored=mirrored)[:, 0]
    unmoved = preprocessing(draw(name, quaternions), DETECTOR)[:, 0]

    def similarity(a, b):
        return torch.nn.functional.cosine_similarity(a.flatten(1), b.flatten(1))

    assert similarity(found, expected).min() > 0.95
    assert similarity(unmoved, expected).min() < 0.8


@pytest.mark.parametrize("kind", [CartesianPreprocessing, PolarPreprocessing])
def test_a_scale_that_is_off_is_corrected(kind):
    patterns = draw("LiNiO2", rot.random_rotations(3, torch.Generator().manual_seed(2)))
    believed = Calibration((0.021, 0.021), DETECTOR.center, DETECTOR.shape, 200.0)
    expected = kind(1.0)(patterns, DETECTOR)
    torch.testing.assert_close(kind(1.0, scale_factor=0.02 / 0.021)(patterns, believed), expected, atol=1e-4, rtol=1e-4)


def test_the_square_is_the_same_whatever_the_detector():
    preprocessing = CartesianPreprocessing(1.0, size=64)
    quaternions = rot.random_rotations(3, torch.Generator().manual_seed(0))
    fine = Calibration((0.01, 0.01), (140.0, 131.0), (280, 262), 200.0)
    images = [preprocessing(draw("Al", quaternions, c), c)[:, 0] for c in (DETECTOR, fine)]
    assert images[0].shape == (3, 64, 64)
    assert torch.nn.functional.cosine_similarity(images[0].flatten(1), images[1].flatten(1)).min() > 0.97


def test_the_square_is_centred_on_each_direct_beam():
    preprocessing = CartesianPreprocessing(0.6, size=64)
    quaternions = rot.random_rotations(2, torch.Generator().manual_seed(0))
    patterns = draw("Al", quaternions)
    expected = preprocessing(patterns, DETECTOR)
    moved = torch.stack([patterns[0].roll((3, -2), (0, 1)), patterns[1]])
    centers = torch.tensor([[66.0, 59.5], [63.0, 61.5]])
    torch.testing.assert_close(preprocessing(moved, DETECTOR, centers), expected, atol=1e-4, rtol=0)


def test_masked_pixels_do_not_show_in_the_square():
    preprocessing = CartesianPreprocessing(1.0, size=100)
    patterns = draw("Al", rot.random_rotations(2, torch.Generator().manual_seed(0)))
    mask = torch.zeros(128, 120, dtype=torch.bool)
    mask[20:30] = True
    hot = patterns.clone()
    hot[:, 20:30] = 1e6
    found = preprocessing(hot, DETECTOR, signal_mask=mask)
    torch.testing.assert_close(found, preprocessing(patterns, DETECTOR, signal_mask=mask))
    assert not found[:, :, 10:14].any()
