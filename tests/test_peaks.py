"""Maxima of maps: where they were put, the strongest first, whatever else is in the batch."""

import numpy as np
import pytest
import torch

from pyxem_dl.patterns.peaks import are_highest, find_maxima, parabola_shift


def bumps(shape, points, width=2.0):
    row, column = np.indices(shape)
    total = sum(h * np.exp(-((row - r) ** 2 + (column - c) ** 2) / (2 * width**2)) for r, c, h in points)
    return torch.as_tensor(np.asarray(total) * np.ones(shape), dtype=torch.float32)


POINTS = [(10.3, 12.8, 1.0), (25.5, 30.1, 3.0), (12.0, 40.4, 2.0)]


def test_finds_what_was_put_there_the_strongest_first():
    found = find_maxima(bumps((40, 50), POINTS)[None], 0.5, 3, 10)
    assert found.count.tolist() == [3]
    expected = np.array(sorted(POINTS, key=lambda p: -p[2]))
    np.testing.assert_allclose(found.row[0], expected[:, 0], atol=0.03)
    np.testing.assert_allclose(found.column[0], expected[:, 1], atol=0.03)
    np.testing.assert_allclose(found.value[0], expected[:, 2], rtol=0.05)


def test_each_map_is_its_own(rng):
    maps = torch.as_tensor(rng.normal(size=(5, 23, 31)), dtype=torch.float32)
    maps[2] = 0
    together = find_maxima(maps, 0.5, 4, 12)
    for i in range(5):
        alone = find_maxima(maps[i : i + 1], 0.5, 4, 12)
        n = int(alone.count)
        assert int(together.count[i]) == n
        for a, b in zip(together, alone):
            torch.testing.assert_close(a[i, :n], b[0, :n], rtol=0, atol=0)
            assert not a[i, n:].any()


@pytest.mark.parametrize("distance", [1, 3.0, 5.5, 9])
def test_kept_as_a_loop_over_all_maxima_keeps_them(rng, distance):
    values = rng.permutation(30 * 30).reshape(30, 30).astype(float)
    found = find_maxima(torch.as_tensor(values)[None], 100, distance, 1000, None)
    half = max(1, int(distance / np.sqrt(2)))
    kept = []
    for flat in np.argsort(-values, axis=None):
        r, c = np.unravel_index(flat, values.shape)
        square = values[max(0, r - half) : r + half + 1, max(0, c - half) : c + half + 1]
        if values[r, c] == square.max() and values[r, c] > 100:
            if all(np.hypot(r - a, c - b) >= distance for a, b in kept):
                kept.append((r, c))
    assert list(zip(found.row[0].int().tolist(), found.column[0].int().tolist())) == kept


def test_the_most_peaks_are_the_strongest():
    found = find_maxima(bumps((40, 50), POINTS)[None], 0.5, 3, 2)
    assert found.value.shape == (1, 2)
    np.testing.assert_allclose(found.value[0], [3, 2], rtol=0.05)


def test_a_threshold_for_each_map():
    maps = torch.stack([bumps((40, 50), POINTS)] * 3)
    assert find_maxima(maps, torch.tensor([0.5, 1.5, 9.0]), 3, 10).count.tolist() == [3, 2, 0]


def test_plateaus_borders_and_what_is_not_finite():
    maps = torch.zeros(4, 9, 9)
    maps[0, 3:5, 3:5] = 1  # a plateau is one peak
    maps[1, 0, 8] = 2  # a corner is a peak, unrefined
    maps[2] = torch.nan
    maps[3, 4, 4] = torch.inf
    found = find_maxima(maps, 0.5, 3, 5)
    assert found.count.tolist() == [1, 1, 0, 0]
    assert (found.row[1, 0], found.column[1, 0]) == (0, 8)
    assert all(torch.isfinite(x).all() for x in found[:3])


def test_no_maps_and_no_peaks():
    assert find_maxima(torch.zeros(0, 5, 5), 0, 2, 3).row.shape == (0, 1)
    assert not find_maxima(torch.zeros(2, 5, 5), 0, 2, 3).valid.any()


def test_select_moves_peaks_up():
    found = find_maxima(bumps((40, 50), POINTS)[None], 0.5, 3, 10)
    some = found.select(found.value < 2.5)
    assert some.count.tolist() == [2]
    torch.testing.assert_close(some.value, found.value[:, 1:])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"maps": torch.zeros(5, 5)}, "have the shape"),
        ({"subpixel": "cubic"}, "must be 'parabola'"),
        ({"max_peaks": 0}, "at least 1"),
        ({"min_distance": -1}, "at least 0"),
    ],
)
def test_errors_say_what_is_wrong(options, message):
    arguments = {"maps": torch.zeros(1, 5, 5), "threshold": 0.0, "min_distance": 1, "max_peaks": 2} | options
    with pytest.raises(ValueError, match=message):
        find_maxima(**arguments)


@pytest.mark.parametrize("half", [1, 2, 5])
def test_highest_pixels_are_those_of_a_maximum_filter(half, rng):
    from scipy.ndimage import maximum_filter

    maps = rng.normal(size=(3, 17, 23))
    expected = maps == maximum_filter(maps, (1, 2 * half + 1, 2 * half + 1))
    np.testing.assert_array_equal(are_highest(torch.from_numpy(maps), half).numpy(), expected)


def test_the_top_of_a_parabola():
    top = torch.tensor([-0.5, -0.2, 0.0, 0.3, 0.5], dtype=torch.float64)
    before, middle, after = (5 - 2 * (x - top) ** 2 for x in (-1, 0, 1))
    torch.testing.assert_close(parabola_shift(before, middle, after), top)
    # what is flat has its top in the middle
    assert parabola_shift(*torch.ones(3, 1)).item() == 0
