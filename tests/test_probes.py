"""The probe: radius and centre of disks that the test draws, of multislice patterns, and of what is no disk."""

import warnings

import numpy as np
import pytest
import torch

from pyxem_dl.patterns.probes import Probe


def disk(shape, center, radius, parts=10):
    """Mean over points in each pixel, of height 1."""
    row, column = ((np.arange(n * parts) + 0.5) / parts - 0.5 for n in shape)
    inside = np.hypot(row[:, None] - center[0], column - center[1]) < radius
    return inside.reshape(shape[0], parts, shape[1], parts).mean((1, 3))


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@pytest.mark.parametrize("radius", [1.5, 2.55, 4.0, 10.2, 40.0])
def test_radius_and_centre_of_a_disk(radius):
    n = int(2 * radius + 24)
    center = (n / 2 + 0.37, n / 2 - 0.21)
    probe = Probe.from_image(7 * disk((n, n + 5), center, radius) + 0.5)
    assert probe.radius == pytest.approx(radius, abs=0.06 if radius < 2 else 0.02)
    np.testing.assert_allclose(probe.center, center, atol=0.06 if radius < 2 else 0.02)
    assert probe.radius_error < 0.05


@pytest.mark.parametrize("radius", [2.55, 10.2])
def test_the_image_is_centred_and_sums_to_one(radius):
    image = Probe.from_image(disk((48, 48), (24.4, 23.3), radius)).image
    assert image.dtype == torch.float32 and image.ndim == 2
    assert image.shape[0] == image.shape[1] and image.shape[0] % 2 == 1
    assert float(image.sum()) == pytest.approx(1)
    grid = torch.arange(len(image)) - len(image) // 2
    assert abs(float((image.sum(1) * grid).sum())) < 0.05
    assert abs(float((image.sum(0) * grid).sum())) < 0.05


def test_noise_hot_pixels_and_a_neighbour_that_touches(rng):
    image = rng.poisson(30 * disk((64, 64), (31.7, 30.2), 8) + 15 * disk((64, 64), (31.7, 48.0), 8) + 0.5).astype(float)
    image[5, 5] = 4000
    probe = Probe.from_image(image)
    assert probe.radius == pytest.approx(8, abs=0.15)
    np.testing.assert_allclose(probe.center, (31.7, 30.2), atol=0.2)


def test_from_patterns_with_uneven_insides(rng):
    row, column = np.indices((48, 48))
    clean = disk((48, 48), (23.6, 24.2), 6)
    bands = [1 + 0.8 * np.sin(0.4 * (np.cos(a) * row + np.sin(a) * column) + b) for a, b in rng.uniform(0, 6, (40, 2))]
    probe = Probe.from_patterns(np.stack([rng.poisson(20 * clean * band) for band in bands]))
    assert probe.radius == pytest.approx(6, abs=0.1)
    np.testing.assert_allclose(probe.center, (23.6, 24.2), atol=0.1)
    assert 0 < probe.radius_error < 0.2 and 0 < probe.center_error < 0.3


def test_from_patterns_near_the_given_centre():
    both = disk((48, 48), (14, 14), 4) + 3 * disk((48, 48), (34, 34), 4)
    assert Probe.from_patterns(both[None]).center == pytest.approx((34, 34), abs=0.05)
    assert Probe.from_patterns(both[None], (15, 13)).center == pytest.approx((14, 14), abs=0.05)


def test_empty_and_damaged_patterns_are_left_out():
    stack = np.zeros((5, 32, 32))
    stack[1] = disk((32, 32), (16, 16), 4)
    stack[2, 3, 3] = np.nan
    assert Probe.from_patterns(stack).radius == pytest.approx(4, abs=0.05)


@pytest.mark.parametrize("name, radius", [("Al_1.5mrad", 2.55), ("Al_3mrad", 10.2), ("LiNiO2_3mrad", 10.2)])
def test_multislice_patterns(shared_data, rng, name, radius):
    with np.load(shared_data / "multislice" / f"{name}.npz") as file:
        images, vacuum, center = file["images"][:16], file["vacuum"], file["centre"]
    # the area of the probe, whose edge is soft
    area = np.sqrt(vacuum.sum() / vacuum.max() / np.pi)
    assert area == pytest.approx(radius, rel=0.05)
    for probe in (Probe.from_image(vacuum), Probe.from_patterns(rng.poisson(1e4 * images), tuple(center))):
        assert probe.radius == pytest.approx(area, abs=0.06)
        np.testing.assert_allclose(probe.center, center, atol=0.06)


@pytest.mark.parametrize("factor", [0.4, 1.0, 2.3])
def test_resampled_is_what_is_measured_after_resampling(factor):
    probe = Probe.from_image(disk((64, 64), (32, 32), 9)).resampled(factor)
    assert probe.radius == pytest.approx(9 * factor, rel=0.01)
    assert float(probe.image.sum()) == pytest.approx(1)
    n = len(probe.image)
    again = Probe.from_image(np.pad(probe.image.numpy(), 8))
    assert again.radius == pytest.approx(9 * factor, abs=0.1)
    np.testing.assert_allclose(again.center, (n // 2 + 8,) * 2, atol=0.05)


def test_an_ideal_disk_has_its_radius():
    probe = Probe.ideal(6.3, 0.5)
    assert Probe.from_image(np.pad(probe.image.numpy(), 8)).radius == pytest.approx(6.3, abs=0.1)


@pytest.mark.parametrize(
    "image, message",
    [
        (np.zeros((16, 16)), "empty or constant"),
        (np.full((16, 16), np.nan), "NaN or infinite"),
        (np.zeros((0, 16)), "must have the shape"),
        (np.zeros(16), "must have the shape"),
        (disk((20, 20), (10, 10), 40) + np.eye(20), "No disk|larger than the pattern"),
        (disk((20, 20), (10, 10), 11) + 0.0, "No disk|larger than the pattern"),
    ],
)
def test_what_is_no_probe(image, message):
    with pytest.raises(ValueError, match=message):
        Probe.from_image(image)


def test_no_pattern_to_estimate_from():
    with pytest.raises(ValueError, match="All patterns are empty"):
        Probe.from_patterns(np.full((3, 8, 8), np.nan))


def test_a_square_is_no_circle():
    image = np.zeros((60, 60))
    image[28:32, 10:50] = 1
    with pytest.raises((ValueError, UserWarning), match="No disk|not a circle"):
        Probe.from_image(image)


def test_a_spot_is_hardly_a_disk():
    row, column = np.indices((32, 32))
    with pytest.warns(UserWarning, match="hardly a disk"):
        Probe.from_image(disk((32, 32), (16, 16), 0.8))


@pytest.mark.parametrize("value", [0, -1, np.nan])
def test_radii_and_factors_that_make_no_sense(value):
    with pytest.raises(ValueError, match="positive"):
        Probe.ideal(value)
    with pytest.raises(ValueError, match="positive"):
        Probe.ideal(3).resampled(value)
