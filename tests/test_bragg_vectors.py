"""Disks found by correlation: where the test drew them, whatever the chunks, and as pyxem and py4DSTEM take them."""

import dask.array as da
import numpy as np
import pytest
import torch
from pyxem.signals import DiffractionVectors, ElectronDiffraction2D, LazyElectronDiffraction2D
from pyxem.signals.diffraction_vectors import LazyDiffractionVectors

from pyxem_dl.bragg_vectors import (
    COLUMNS,
    DiskMatcher,
    bragg_vectors_to_file,
    match_disks,
    to_diffraction_vectors,
    to_py4dstem,
)
from pyxem_dl.bragg_vectors.finders import CorrelationFinder
from pyxem_dl.bragg_vectors.step import DiskStep
from pyxem_dl.frames import Calibration
from pyxem_dl.metrics.disks import match_points, score_disks
from pyxem_dl.patterns.probes import Probe

SHAPE = (72, 80)
CENTER = (36.0, 40.0)
SCALE = 0.02
RADIUS = 5.0
PROBE = Probe.ideal(RADIUS)
QUIET = {"device": "cpu", "show_progressbar": False}


def disk(center, radius=RADIUS, shape=SHAPE, parts=8):
    """Mean over points in each pixel, of height 1."""
    row, column = ((np.arange(n * parts) + 0.5) / parts - 0.5 for n in shape)
    inside = np.hypot(row[:, None] - center[0], column - center[1]) < radius
    return inside.reshape(shape[0], parts, shape[1], parts).mean((1, 3))


def lattice(a=(1.3, 17.6), b=(-16.8, 2.1)):
    """Positions (row, column) of a lattice about the direct beam, whole disks on the detector only."""
    points = [np.add(CENTER, np.multiply(i, a) + np.multiply(j, b)) for i in range(-2, 3) for j in range(-2, 3)]
    return np.array([p for p in points if (p > 9).all() and (p < np.subtract(SHAPE, 10)).all()])


def pattern(points, heights=20.0):
    return sum(h * disk(p) for p, h in zip(points, np.broadcast_to(heights, len(points)), strict=True))


def make_signal(data):
    signal = (LazyElectronDiffraction2D if hasattr(data, "dask") else ElectronDiffraction2D)(data)
    for axis, name, center in zip(signal.axes_manager.signal_axes, ("kx", "ky"), CENTER[::-1]):
        axis.name, axis.units, axis.scale, axis.offset = name, "$A^{-1}$", SCALE, -center * SCALE
    signal.set_experimental_parameters(beam_energy=200.0)
    return signal


def in_pixels(table):
    """Row and column of vectors, sorted."""
    positions = table[:, :2] / SCALE + CENTER
    return positions[np.lexsort(positions.T)]


@pytest.fixture
def scan(rng):
    """Six noisy patterns (2, 3), the strongest disks in the middle."""
    points = lattice()
    clean = pattern(points, np.linspace(4, 20, len(points)))
    return rng.poisson(np.stack([clean + 0.05] * 6)).astype("uint16").reshape(2, 3, *SHAPE)


def same(a, b, **tolerance):
    assert a.shape == b.shape
    for x, y in zip(a.ravel(), b.ravel(), strict=True):
        np.testing.assert_allclose(x, y, **({"rtol": 1e-5, "atol": 1e-5} | tolerance))


@pytest.mark.parametrize("radius, tolerance", [(2.5, 0.05), (5.0, 0.05), (10.2, 0.05)])
def test_disks_at_any_position_are_found_to_a_twentieth_of_a_pixel(rng, radius, tolerance):
    points = np.array([[20.0, 20.0], [20.0, 60.0], [52.0, 20.0], [52.0, 60.0]]) + rng.uniform(-0.5, 0.5, (4, 2))
    image = sum(100 * disk(p, radius) for p in points) + 0.1
    found, intensity = DiskMatcher(Probe.ideal(radius), SHAPE)(torch.tensor(image[None], dtype=torch.float32))
    assert int(found.count) == 4
    positions = torch.stack([found.row, found.column], -1)[0].numpy()
    i, j = match_points(positions, points, 1.0)
    assert len(i) == 4
    np.testing.assert_allclose(positions[i], points[j], atol=tolerance)
    np.testing.assert_allclose(intensity[0], 100 * np.pi * radius**2, rtol=0.02)


def test_an_uneven_inside_does_not_move_a_disk():
    center = (33.3, 41.7)
    row, column = np.indices(SHAPE)
    image = (50 * disk(center, 10) * (1 + 0.08 * (column - center[1]))).clip(0)
    found, _ = DiskMatcher(Probe.ideal(10.0), SHAPE)(torch.tensor(image[None], dtype=torch.float32))
    mass = (image * column).sum() / image.sum()
    assert abs(mass - center[1]) > 1.5
    assert float(found.column[0, 0]) == pytest.approx(center[1], abs=0.2)


def test_one_threshold_for_any_dose(rng):
    points = lattice()
    for height in (1, 10, 1000):
        vectors = match_disks(make_signal(rng.poisson(pattern(points, height) + 0.002 * height)), PROBE, **QUIET)
        score = score_disks([in_pixels(vectors.data[0])], [points], [np.empty((0, 2))], 1.5)
        assert (score.recall, score.precision) == (1, 1)


def test_columns_units_and_calibration_are_pyxems(scan):
    signal = make_signal(scan)
    vectors = match_disks(signal, PROBE, **QUIET)
    theirs = signal.get_diffraction_vectors(method="local_max", min_distance=4, threshold_abs=5, show_progressbar=False)
    assert type(vectors) is type(theirs) is DiffractionVectors and vectors.ragged
    assert vectors.data.dtype == object and vectors.data.shape == theirs.data.shape == (2, 3)
    assert vectors.column_names == [*theirs.column_names, "confidence"] == list(COLUMNS)
    assert vectors.units == [*theirs.units, "a.u."]
    np.testing.assert_allclose(vectors.scales, [*theirs.scales, 1])
    np.testing.assert_allclose(vectors.offsets, [*theirs.offsets, 0])
    assert vectors.detector_shape == SHAPE
    table = vectors.data[1, 2]
    assert table.dtype == float and table.shape == (len(lattice()), 4)
    np.testing.assert_allclose(in_pixels(table), lattice()[np.lexsort(lattice().T)], atol=0.5)
    assert (np.diff(table[:, 3]) <= 0).all() and table[:, 3].max() <= 1


def test_intensities_are_electrons_above_the_background():
    points, heights = lattice(), np.arange(1, len(lattice()) + 1) * 10.0
    vectors = match_disks(make_signal(pattern(points, heights) + 3), PROBE, **QUIET)
    table = vectors.data[0]
    i, j = match_points(table[:, :2] / SCALE + CENTER, points, 1)
    assert len(i) == len(points)
    np.testing.assert_allclose(table[i, 2], heights[j] * np.pi * RADIUS**2, rtol=0.03)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("chunks", [None, (1, 2, 36, 80), (2, 3, 72, 80)])
def test_neither_chunks_nor_batches_show(scan, chunks, batch_size):
    expected = match_disks(make_signal(scan), PROBE, **QUIET).data
    data = scan if chunks is None else da.from_array(scan, chunks=chunks)
    same(match_disks(make_signal(data), PROBE, batch_size=batch_size, **QUIET).data, expected, rtol=0, atol=0)
    lazy = match_disks(make_signal(data), PROBE, batch_size=batch_size, lazy_output=True, **QUIET)
    assert type(lazy) is LazyDiffractionVectors and lazy.num_columns == 4
    same(lazy.data.compute(), expected)
    lazy.compute(progressbar=False)
    assert type(lazy) is DiffractionVectors


def test_the_lazy_twin_reads_no_more_than_the_sample_before_it_is_asked(scan):
    """The sample is needed to know the detector (pixels that are always wrong, counts per electron)."""
    computed = []

    def count(block):
        computed.append(len(block))
        return block

    scan = np.tile(scan, (10, 10, 1, 1))
    data = da.from_array(scan, chunks=(1, 1, 72, 80)).map_blocks(count, dtype=scan.dtype, meta=np.empty((0,) * 4))
    assert match_disks(make_signal(data), PROBE, lazy_output=True, **QUIET).data.shape == (20, 30)
    assert len(computed) == 64


@pytest.mark.parametrize("navigation", [(), (3,)])
@pytest.mark.parametrize("lazy_output", [False, True])
def test_other_navigation_dimensions(scan, navigation, lazy_output):
    data = scan[(0,) * (2 - len(navigation))]
    vectors = match_disks(make_signal(data), PROBE, lazy_output=lazy_output, **QUIET)
    rows = vectors.data.compute() if lazy_output else vectors.data
    assert rows.shape == (navigation or (1,))
    assert all(len(table) == len(lattice()) for table in rows)


def test_patterns_that_say_nothing_give_nothing(scan):
    data = scan.reshape(6, *SHAPE).astype("float32")
    data[0], data[1], data[2], data[3, 4, 4] = 0, 65535, -5, np.nan
    with_negative = data[4].copy()
    data[4] -= 0.5
    vectors = match_disks(make_signal(data), PROBE, **QUIET)
    for i in range(4):
        assert vectors.data[i].shape == (0, 4) and vectors.data[i].dtype == float
    assert len(vectors.data[4]) and len(vectors.data[5])
    assert (with_negative >= 0).all()


def test_masks_leave_out(scan):
    signal = make_signal(scan)
    navigation_mask = np.zeros((2, 3), dtype=bool)
    navigation_mask[1, 1] = True
    signal_mask = np.zeros(SHAPE, dtype=bool)
    signal_mask[:, :30] = True
    vectors = match_disks(signal, PROBE, navigation_mask=navigation_mask, signal_mask=signal_mask, **QUIET)
    assert vectors.data[1, 1].shape == (0, 4)
    rest = lattice()[lattice()[:, 1] > 30 + RADIUS]
    for index in np.argwhere(~navigation_mask):
        found = in_pixels(vectors.data[tuple(index)])
        assert len(match_points(found, rest, 1.0)[0]) == len(rest)
        assert (found[:, 1] > 28).all()


def test_centres_are_subtracted_or_not(scan):
    signal = make_signal(scan)
    centered = match_disks(signal, PROBE, **QUIET).data[0, 0]
    plain = match_disks(signal, PROBE, subtract_center=False, **QUIET)
    np.testing.assert_allclose(plain.data[0, 0][:, :2] - centered[:, :2], np.full((len(centered), 2), CENTER) * SCALE)
    assert not np.any(plain.offsets)
    centers = np.full((2, 3, 2), CENTER)
    centers[0, 0] += (1.5, -2)
    shifted = match_disks(signal, PROBE, center=centers, **QUIET)
    np.testing.assert_allclose(shifted.data[0, 0][:, :2] - centered[:, :2], [[-1.5 * SCALE, 2 * SCALE]] * len(centered))


def test_reciprocal_radius_distance_and_number_bound_the_peaks(scan):
    signal = make_signal(scan)
    near = match_disks(signal, PROBE, reciprocal_radius=0.4, **QUIET).data[0, 0]
    assert 0 < len(near) < len(lattice()) and np.hypot(near[:, 0], near[:, 1]).max() < 0.4
    assert len(match_disks(signal, PROBE, max_peaks=2, **QUIET).data[0, 0]) == 2
    assert len(match_disks(signal, PROBE, min_distance=20, **QUIET).data[0, 0]) < len(lattice())


def test_a_pixel_where_no_subpixel_position_is_wanted(scan):
    positions = in_pixels(match_disks(make_signal(scan), PROBE, subpixel=False, **QUIET).data[0, 0])
    np.testing.assert_allclose(positions, positions.round(), atol=1e-4)


def test_the_probe_is_read_or_estimated(scan):
    signal = make_signal(scan)
    vacuum = make_signal(50 * disk(CENTER))
    given = match_disks(signal, PROBE, **QUIET)
    for probe in (vacuum, vacuum.data, None):
        found = match_disks(signal, probe, **QUIET)
        np.testing.assert_allclose(in_pixels(found.data[0, 0]), in_pixels(given.data[0, 0]), atol=0.3)


def test_pyxem_goes_on_from_here(rng):
    reference = lattice()
    strain = np.array([[1.02, 0.0], [0.0, 0.99]])
    strained = (reference - CENTER) @ strain + CENTER
    data = np.stack([pattern(reference), pattern(strained), pattern(reference), pattern(strained)])
    vectors = match_disks(make_signal(data.reshape(2, 2, *SHAPE)), PROBE, **QUIET)
    length = np.hypot(*(reference - CENTER).T)
    basis = (reference - CENTER)[(length > 10) & (length < 20)][:4] * SCALE
    maps = vectors.get_strain_maps(unstrained_vectors=basis, distance=0.05)
    values = np.abs(maps.data).reshape(4, 4)
    np.testing.assert_allclose(values[:, [0, 2]].max(), 0, atol=2e-3)
    np.testing.assert_allclose(sorted(values[:3, 1])[1:], [0.01, 0.02], atol=2e-3)
    flat = vectors.flatten_diffraction_vectors()
    assert flat.data.shape == (sum(len(table) for table in vectors.data.ravel()), 6)
    polar = vectors.to_polar()
    np.testing.assert_allclose(np.sort(polar.data[0, 0][:, 0]), np.sort(np.hypot(*vectors.data[0, 0][:, :2].T)))
    pixels = vectors.get_pixel_vectors().data[0, 0][:, :2]
    # whole pixels, in the order of the vectors
    np.testing.assert_allclose(pixels, vectors.data[0, 0][:, :2] / SCALE + CENTER, atol=0.51)
    assert vectors.filter_magnitude(0.1, 0.4).data.shape == (2, 2)


def test_vectors_are_saved_and_loaded(scan, tmp_path):
    import hyperspy.api as hs

    vectors = match_disks(make_signal(scan), PROBE, **QUIET)
    vectors.save(tmp_path / "vectors.hspy")
    loaded = hs.load(tmp_path / "vectors.hspy")
    assert type(loaded) is DiffractionVectors and list(loaded.column_names) == list(COLUMNS)
    same(loaded.data, vectors.data)


@pytest.mark.parametrize("lazy", [False, True])
def test_further_columns_follow(scan, lazy):
    signal = make_signal(scan)
    rows = np.empty((2, 3), dtype=object)
    for i in np.ndindex(2, 3):
        rows[i] = np.arange(i[1] * 5.0).reshape(i[1], 5)
    data = da.from_array(rows, chunks=(1, 3)) if lazy else rows
    names = (*COLUMNS, "variance")
    vectors = to_diffraction_vectors(signal, data, Calibration.from_signal(signal), columns=names)
    result = vectors.data.compute() if lazy else vectors.data
    np.testing.assert_allclose(result[1, 2], rows[1, 2] * [SCALE, SCALE, 1, 1, 1])
    assert vectors.column_names == list(names) and len(vectors.units) == 5


def test_py4dstem_file(scan, tmp_path):
    vectors = match_disks(make_signal(scan), PROBE, **QUIET)
    vectors.data[0, 1] = np.zeros((0, 4))
    path = to_py4dstem(vectors, tmp_path / "vectors.h5")
    with pytest.raises(FileExistsError, match="overwrite"):
        to_py4dstem(vectors, path)
    with pytest.raises(ValueError, match="must end in"):
        to_py4dstem(vectors, tmp_path / "vectors.csv")
    py4dstem = pytest.importorskip("py4DSTEM", exc_type=ImportError)
    bragg = py4dstem.read(str(path))
    assert type(bragg).__name__ == "BraggVectors"
    assert (tuple(bragg.Rshape), tuple(bragg.Qshape)) == ((2, 3), SHAPE)
    for i in np.ndindex(2, 3):
        table, raw = vectors.data[i], bragg.raw[i]
        np.testing.assert_allclose(np.column_stack([raw.qx, raw.qy]), table[:, :2] / SCALE + CENTER)
        np.testing.assert_allclose(raw.I, table[:, 2])
    bragg.setcal()
    assert bragg.calstate["center"] and bragg.calstate["pixel"]
    np.testing.assert_allclose(bragg.cal[0, 0].qx, vectors.data[0, 0][:, 0])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"threshold": 1.5}, "correlation"),
        ({"threshold": np.nan}, "threshold must be a finite number"),
        ({"reciprocal_radius": -1}, "positive"),
        ({"max_peaks": 0}, "at least 1"),
        ({"min_distance": np.nan}, "at least 0"),
        ({"probe": Probe.ideal(40)}, "larger than the patterns"),
        ({"probe": np.zeros((9, 9))}, "empty or constant"),
    ],
)
def test_errors_say_what_to_do(scan, options, message):
    with pytest.raises(ValueError, match=message):
        match_disks(make_signal(scan), **({"probe": PROBE} | QUIET | options))


def test_scores_are_counted_by_hand():
    truth = [np.array([[10.0, 10, 5], [20, 20, 7], [30, 30, 9]])]
    found = [np.array([[10.0, 11, 50], [10, 9.5, 40], [30, 30, 90], [40, 40, 1], [50, 50, 1]])]
    ignored = [np.array([[40.5, 40.5], [20.0, 20.0]])]
    score = score_disks(found, truth, ignored, 2.0)
    # of the two at (10, 10) one is a hit; the other, and the one at (50, 50), nothing explains
    assert (score.n_true, score.n_hits, score.n_false) == (3, 2, 2)
    assert score.precision == 0.5 and score.recall == pytest.approx(2 / 3) and score.f1 == pytest.approx(4 / 7)
    assert score.position_error == pytest.approx(np.sqrt(0.25 / 2))
    nothing = score_disks([np.empty((0, 3))], truth, ignored, 2.0)
    assert nothing.recall == 0 and np.isnan(nothing.position_error)


def test_a_second_detection_is_wrong_whatever_is_ignored_near_it():
    truth, ignored = [np.array([[10.0, 10]])], [np.array([[10.0, 13], [30, 30]])]
    once = score_disks([np.array([[10.0, 10], [30, 30]])], truth, ignored, 2.0)
    assert (once.n_hits, once.n_false) == (1, 0)
    twice = score_disks([np.array([[10.0, 10], [10, 11.5]])], truth, ignored, 2.0)
    assert (twice.n_hits, twice.n_false) == (1, 1)
    # out of the disk's reach it is the ignored one's again
    beside = score_disks([np.array([[10.0, 10], [10, 12.5]])], truth, ignored, 2.0)
    assert (beside.n_hits, beside.n_false) == (1, 0)


def test_pairs_are_as_many_as_can_be():
    # the nearest pair first would leave one without a partner
    i, j = match_points([[0.0, 0], [0, 3]], [[0.0, 2], [0, 5]], 2.5)
    assert sorted(zip(i, j)) == [(0, 0), (1, 1)]
    assert len(match_points(np.empty((0, 2)), [[0.0, 0]], 1)[0]) == 0


def test_a_probe_of_another_scale_is_an_error_that_says_the_factor(scan):
    vacuum = make_signal(np.stack([100 * disk(CENTER)] * 2))
    match_disks(make_signal(scan), vacuum, **QUIET)
    for axis in vacuum.axes_manager.signal_axes:
        axis.scale *= 2
    with pytest.raises(ValueError, match=r"0\.04 Å⁻¹ per px, the scan 0\.02.*resampled\(2\)"):
        match_disks(make_signal(scan), vacuum, **QUIET)


def test_a_probe_that_is_not_the_direct_beam_is_warned_of(scan):
    with pytest.warns(UserWarning, match=r"radius of 9 px, but the direct beam of the scan seems to have 5\.?.* px"):
        match_disks(make_signal(scan), Probe.ideal(9.0), **QUIET)


# ------------------------------------------------------------------ into a file
class Stop(Exception):
    """What ends a run early."""


def test_an_interrupted_file_goes_on_where_it_was(scan, tmp_path, monkeypatch, capsys):
    import hyperspy.api as hs

    monkeypatch.setattr(CorrelationFinder, "micro_batch", 2)
    signal, path, seen = make_signal(scan), tmp_path / "v.hspy", []
    whole = match_disks(signal, PROBE, **QUIET)
    original = DiskStep.__call__

    def stops(self, patterns, indices):
        if seen:
            raise Stop
        seen.extend(indices)
        return original(self, patterns, indices)

    monkeypatch.setattr(DiskStep, "__call__", stops)
    with pytest.raises(Stop):
        match_disks(signal, PROBE, output=path, batch_size=2, **QUIET)
    assert not path.exists() and "2 of 6 patterns are saved" in capsys.readouterr().out

    def counts(self, patterns, indices):
        seen.extend(indices)
        return original(self, patterns, indices)

    monkeypatch.setattr(DiskStep, "__call__", counts)
    vectors = match_disks(signal, PROBE, output=path, batch_size=2, **QUIET)
    assert "Continuing after 2 patterns" in capsys.readouterr().out
    assert sorted(seen) == list(range(6)) and not (tmp_path / "v.hspy.partial").exists()
    for table, expected, saved in zip(
        vectors.data.ravel(), whole.data.ravel(), hs.load(path).data.ravel(), strict=True
    ):
        np.testing.assert_allclose(table, expected)
        np.testing.assert_allclose(saved, expected)


def test_other_settings_begin_anew(scan, tmp_path, capsys):
    path = tmp_path / "v.zarr"
    match_disks(make_signal(scan), PROBE, output=path, **QUIET)
    with pytest.raises(FileExistsError, match="belongs to another signal, model or setting"):
        match_disks(make_signal(scan), PROBE, output=path, max_peaks=3, **QUIET)
    found = match_disks(make_signal(scan), PROBE, output=path, max_peaks=3, overwrite=True, **QUIET)
    assert "starting again. It was renamed to v.zarr.old" in capsys.readouterr().out
    assert max(len(table) for table in found.data.ravel()) == 3


def test_the_function_for_files_finds_what_the_methods_find(scan, tmp_path):
    found = bragg_vectors_to_file(make_signal(scan), tmp_path / "v.hspy", None, PROBE, **QUIET)
    for table, expected in zip(found.data.ravel(), match_disks(make_signal(scan), PROBE, **QUIET).data.ravel()):
        np.testing.assert_array_equal(table, expected)
    assert (tmp_path / "v.hspy").is_file()


def test_later_and_into_a_file_exclude_each_other(scan, tmp_path):
    with pytest.raises(ValueError, match="lazy_output computes later, and output= now: give one of them"):
        match_disks(make_signal(scan), PROBE, output=tmp_path / "v.hspy", lazy_output=True, **QUIET)


def test_an_interrupted_search_gives_what_was_done(scan, monkeypatch):
    monkeypatch.setattr(CorrelationFinder, "micro_batch", 2)
    original, seen = DiskStep.__call__, []

    def stops(self, patterns, indices):
        if seen:
            raise KeyboardInterrupt
        seen.extend(indices)
        return original(self, patterns, indices)

    monkeypatch.setattr(DiskStep, "__call__", stops)
    with pytest.warns(UserWarning, match="Interrupted after 2 of 6 patterns"):
        found = match_disks(make_signal(scan), PROBE, batch_size=2, **QUIET)
    assert [len(table) > 0 for table in found.data.ravel()] == [True] * 2 + [False] * 4
