"""Known answers on maps and patterns of hand size."""

from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
import torch
from orix.crystal_map import CrystalMap, Phase, PhaseList
from orix.quaternion import Rotation
from sample_phases import phase

from pyxem_dl import metrics, rotations
from pyxem_dl.crystals import reflections
from pyxem_dl.frames import Calibration, excitation_error, k_to_pixel
from pyxem_dl.metrics import spots as spots_room


def euler(*angles):
    return Rotation.from_euler(np.array(angles, dtype=float), degrees=True)


def make_map(rotation, phase_id=None, shape=None, phases=None, **kwargs):
    shape = shape or (len(rotation.data),)
    y, x = np.indices((1, *shape)[-2:]).reshape(2, -1)
    coordinates = {"x": x * 2.5} | ({"y": y * 2.5} if len(shape) == 2 else {})
    phases = phases or PhaseList([phase("Al"), phase("LiNiO2")], ids=[0, 1])
    phase_id = np.zeros(len(x), int) if phase_id is None else np.asarray(phase_id)
    return CrystalMap(rotation, phase_id=phase_id, phase_list=phases, **coordinates, **kwargs)


@pytest.mark.parametrize("kind", ["orix", "numpy", "torch"])
def test_disorientation_in_degrees_of_all_kinds(kind):
    a = euler([10, 20, 30], [10, 20, 30], [10, 20, 30])
    b = euler([13, 20, 30], [10, 20, 120], [190, 20, 30])  # turned by 3, alike in a cubic crystal, half a turn
    if kind != "orix":
        a, b = a.data, b.data
    if kind == "torch":
        a, b = torch.from_numpy(a), torch.from_numpy(b)
    strict = metrics.disorientation(a, b, phase("Al"))
    np.testing.assert_allclose(strict[:2], [3, 0], atol=1e-4)
    assert strict[2] > 20
    np.testing.assert_allclose(metrics.disorientation(a, b, phase("Al"), modulo_180=True), [3, 0, 0], atol=1e-4)
    # the trigonal crystal is not alike after a turn by 90 degrees about c
    assert metrics.disorientation(a, b, phase("LiNiO2").point_group)[1] == pytest.approx(30, abs=1e-3)


def test_phases_of_two_maps_are_told_by_their_names():
    rotation = euler([10, 20, 30], [10, 20, 30], [10, 20, 30])
    a = make_map(rotation, [0, 1, -1])
    swapped = PhaseList([phase("LiNiO2"), phase("Al")], ids=[1, 2])
    b = make_map(rotation, [2, 1, 1], phases=swapped)
    np.testing.assert_allclose(metrics.disorientation(a, b), [0, 0, np.nan], atol=1e-4)
    np.testing.assert_allclose(metrics.disorientation(b, a), [0, 0, np.nan], atol=1e-4)
    # a phase that the other map does not have is a wrong one, whatever its number
    other = make_map(rotation, [0, 1, 1], phases=PhaseList([phase("Al"), Phase("NiO", 225)], ids=[0, 1]))
    np.testing.assert_allclose(metrics.disorientation(a, other), [0, np.nan, np.nan], atol=1e-4)
    # the only phase may have another name
    one, only = (make_map(rotation, [i, i, -1], phases=PhaseList([Phase(name, 225)], ids=[i])) for name, i in (
        ("Al", 0), ("aluminium", 1),
    ))  # fmt: skip
    np.testing.assert_allclose(metrics.disorientation(one, only), [0, 0, np.nan], atol=1e-4)
    unknown = make_map(rotation, [0, 1, 1], phases=PhaseList([Phase("A", 225), Phase("B", 166)], ids=[0, 1]))
    with pytest.raises(ValueError, match="'Al', 'LiNiO2' and 'A', 'B': give the same phase the same name"):
        metrics.disorientation(unknown, a)


def test_disorientation_broadcasts():
    a, b = euler([0, 0, 0], [5, 0, 0]), euler([2, 0, 0])
    np.testing.assert_allclose(metrics.disorientation(a, b, phase("Al")), [2, 3], atol=1e-4)


def test_disorientation_of_maps_takes_the_phase_of_each_point():
    best = euler([10, 20, 30], [10, 20, 30], [10, 20, 30], [10, 20, 30])
    two = Rotation(np.stack([best.data, euler([50, 60, 70]).data.repeat(4, 0)], axis=1))  # n_best = 2
    a = make_map(two, [0, 1, -1, 0])
    b = make_map(euler(*[[10, 20, 120]] * 4), [0, 1, 0, 1])
    np.testing.assert_allclose(metrics.disorientation(a, b), [0, 30, np.nan, np.nan], atol=1e-3)
    np.testing.assert_allclose(metrics.disorientation(a, b.rotations), [0, 30, np.nan, 0], atol=1e-3)


def test_disorientation_needs_a_symmetry():
    with pytest.raises(ValueError, match="Give the phase"):
        metrics.disorientation(euler([0, 0, 0]), euler([0, 0, 0]))
    with pytest.raises(ValueError, match=r"quaternions of shape \(..., 4\), not \(2, 3\)"):
        metrics.disorientation(np.zeros((2, 3)), euler([0, 0, 0]), phase("Al"))


def test_misindexing_rate_counts_what_is_not_indexed():
    assert metrics.misindexing_rate([1, 4.9, 5.1, np.nan]) == 0.5
    assert metrics.misindexing_rate([1, 4.9, 5.1, np.nan], tolerance=2) == 0.75
    assert np.isnan(metrics.misindexing_rate([]))


def test_accuracy():
    n = 20
    truth = euler(*[[0, 20, 30]] * n)
    angles = np.repeat([[1.0], [3.0], [181.0], [10.0]], 5, axis=0)
    found = euler(*np.hstack([angles, [[20, 30]] * n]))
    result = metrics.accuracy(found, truth, phase("LiNiO2"))
    strict, modulo = result["strict"], result["modulo_180"]
    assert strict.n == 20 and strict.not_indexed == 0
    assert (strict.within_2, strict.within_5) == (0.25, 0.5)
    assert (modulo.within_2, modulo.within_5) == (0.5, 0.75)
    assert modulo.median == pytest.approx(2, abs=1e-3)
    assert modulo.percentile_90 == pytest.approx(10, abs=1e-3)


def test_accuracy_of_a_map_with_points_that_are_not_indexed():
    xmap = make_map(euler([0, 20, 30], [0, 20, 30]), [0, -1])
    strict = metrics.accuracy(xmap, euler([0, 20, 30], [0, 20, 30]))["strict"]
    assert (strict.n, strict.within_5, strict.not_indexed) == (2, 0.5, 0.5)
    assert strict.median == pytest.approx(0, abs=1e-4)


def test_neighbour_disorientation():
    # two grains, one point of another phase, one not indexed
    phi1 = np.array([[10, 11, 40, 40], [10, 10, 40, 40], [10, 10, 10, 40]])
    phase_id = np.array([[0, 0, 0, 0], [0, 0, 0, 1], [-1, 0, 0, 0]])
    xmap = make_map(euler(*[[a, 20, 30] for a in phi1.ravel()]), phase_id.ravel(), (3, 4))
    found = metrics.neighbour_disorientation(xmap).reshape(3, 4)
    assert np.isnan(found[1, 3]) and np.isnan(found[2, 0])
    assert found[0, 0] == pytest.approx(0.5, abs=1e-3)  # 1 and 0
    assert found[0, 1] == pytest.approx(1, abs=1e-3)  # 1, 1 and 30
    assert found[0, 3] == pytest.approx(0, abs=1e-3)
    assert found[2, 3] == pytest.approx(30, abs=1e-3)


def test_neighbour_disorientation_of_a_masked_map_and_of_a_line():
    rotation = euler(*[[a, 20, 30] for a in (0, 1, 3, 9)])
    np.testing.assert_allclose(metrics.neighbour_disorientation(make_map(rotation)), [1, 1.5, 4, 6], atol=1e-3)
    masked = make_map(rotation, is_in_data=np.array([True, True, False, True]))
    np.testing.assert_allclose(metrics.neighbour_disorientation(masked), [1, 1, np.nan], atol=1e-3)


CALIBRATION = Calibration((0.03, 0.03), (48.0, 50.0), (96, 100), 200)


def pattern_of(quaternions, max_error=0.02, counts=None, seed=0):
    """Spots of aluminium, all alike in height, on a sloping background, and where they are."""
    g = reflections(phase("Al"), 1.35).g @ rotations.to_matrix(torch.as_tensor(quaternions, dtype=torch.float32))
    y, x = np.indices(CALIBRATION.shape)
    patterns, positions = [], []
    for each in g.numpy():
        error = excitation_error(*each.T, CALIBRATION.wavelength)
        row, column = k_to_pixel(*each[np.abs(error) < max_error, :2].T, CALIBRATION)
        distance = np.hypot(y - 48, x - 50)
        pattern = 100 * np.exp(-distance / 15) + 5000 * np.exp(-(distance**2) / 8)
        for r, c in zip(row, column):
            pattern += 60 * np.exp(-((y - r) ** 2 + (x - c) ** 2) / 2 / 1.5**2)
        patterns.append(pattern)
        positions.append(np.stack([row, column], 1))
    patterns = np.array(patterns)
    if counts:
        patterns = np.random.default_rng(seed).poisson(patterns * counts).astype(np.uint16)
    return patterns, positions


ORIENTATIONS = euler([10, 1, 30], [20, 54, 44], [75, 30, 20]).data


@pytest.mark.parametrize("counts", [None, 1])
def test_find_peaks_finds_the_spots_and_nothing_else(counts):
    patterns, positions = pattern_of(ORIENTATIONS, counts=counts)
    for found, true in zip(metrics.find_peaks(patterns, (48, 50)), positions):
        distance = np.linalg.norm(found[:, None, :2] - true[None], axis=2)
        assert distance.min(1).max() < (0.8 if counts else 0.3)  # none is false
        assert (distance.min(0) < 1).mean() > 0.9  # few are missing
        assert (np.diff(found[:, 2]) <= 0).all()


def test_find_peaks_in_noise_finds_nothing(rng):
    patterns = rng.poisson(np.broadcast_to([[[0.02]], [[1.0]], [[50.0]]], (3, 96, 100)))
    assert sum(len(found) for found in metrics.find_peaks(patterns)) <= 1
    nothing = np.stack([np.zeros((32, 32)), np.full((32, 32), 7.0), np.full((32, 32), np.nan)])
    assert [len(found) for found in metrics.find_peaks(nothing)] == [0, 0, 0]


def test_find_peaks_leaves_out_what_is_masked():
    patterns, _ = pattern_of(ORIENTATIONS[:1])
    row, column, _ = metrics.find_peaks(patterns, (48, 50))[0][0]
    mask = np.zeros(CALIBRATION.shape, bool)
    mask[round(row) - 5 : round(row) + 6, round(column) - 5 : round(column) + 6] = True
    found = metrics.find_peaks(patterns, (48, 50), signal_mask=mask)[0]
    assert len(found) and not mask[found[:, 0].round().astype(int), found[:, 1].round().astype(int)].any()


@pytest.fixture(scope="module")
def crystal():
    return reflections(phase("Al"), 1.4)


def test_the_right_orientation_explains_the_peaks_and_a_wrong_one_does_not(crystal):
    patterns, _ = pattern_of(ORIENTATIONS)
    right = metrics.explained_peaks(make_map(Rotation(ORIENTATIONS)), patterns, [crystal], CALIBRATION)
    assert (right.share > 0.95).all()
    assert right.summary()["share"] > 0.95 and right.summary()["chance"] < 0.25
    wrong = Rotation(ORIENTATIONS) * euler([20, 0, 0])
    wrong = metrics.explained_peaks(make_map(wrong), patterns, [crystal], CALIBRATION)
    assert wrong.summary()["share"] < 0.3 and wrong.summary()["excess"] < 0.2
    np.testing.assert_array_equal(wrong.n_peaks, right.n_peaks)


def test_orientations_tell_by_how_much_the_calibration_is_off(crystal):
    patterns, _ = pattern_of(ORIENTATIONS)
    row, column = 1.06 * CALIBRATION.scale[0], 1.02 * CALIBRATION.scale[1]
    stretched = replace(CALIBRATION, scale=(row, column))
    found = metrics.fit_distortion(make_map(Rotation(ORIENTATIONS)), patterns, [crystal], stretched)
    np.testing.assert_allclose(found, [[1.02, 0], [0, 1.06]], atol=2e-3)  # x runs along the columns
    with pytest.raises(ValueError, match="explain only .* peaks, too few"):
        metrics.fit_distortion(make_map(Rotation(ORIENTATIONS[:1])), patterns[:1], [crystal], stretched)


def test_too_many_reflections_explain_by_chance(crystal):
    patterns, _ = pattern_of(ORIENTATIONS)
    generous = metrics.explained_peaks(
        make_map(Rotation(ORIENTATIONS)), patterns, [crystal], CALIBRATION, tolerance=0.2, max_excitation_error=1
    ).summary()
    assert generous["share"] == 1 and generous["chance"] > 0.8


def test_what_is_not_indexed_explains_nothing(crystal):
    patterns, _ = pattern_of(ORIENTATIONS)
    found = metrics.explained_peaks(make_map(Rotation(ORIENTATIONS), [0, -1, 0]), patterns, {0: crystal}, CALIBRATION)
    assert found.n_explained[1] == 0 and found.n_peaks[1] > 0
    summary = found.summary()
    assert summary["share_indexed"] > 0.95
    assert summary["share"] == pytest.approx(found.n_explained.sum() / found.n_peaks.sum())


def test_counting_by_hand():
    k = np.array([[1.0, 0], [0, 1.0], [0.5, 0.5]])
    spots = np.array([[1.01, 0], [0, 0.95], [2, 2]])
    assert spots_room._count_explained(k, spots, 0.03)[0] == 1
    assert spots_room._count_explained(k, spots, 0.06)[0] == 2
    # a ring of spots explains a peak on it, however it is turned
    angle = np.linspace(0, 2 * np.pi, 200)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1)
    assert spots_room._count_explained(k[:1], ring, 0.03) == (1, 1.0)


@pytest.mark.parametrize("lazy", [False, True])
def test_scan_in_blocks_with_a_mask(crystal, lazy):
    patterns, _ = pattern_of(np.concatenate([ORIENTATIONS, ORIENTATIONS[::-1]]))
    rotation = Rotation(np.concatenate([ORIENTATIONS, ORIENTATIONS[::-1]]))
    keep = np.array([True, False, True, True, True, False])
    xmap = make_map(rotation, shape=(2, 3), is_in_data=keep)
    scan = patterns.reshape(2, 3, *CALIBRATION.shape)
    scan = da.from_array(scan, chunks=(1, 2, 50, 50)) if lazy else scan
    found = metrics.explained_peaks(xmap, scan, [crystal], CALIBRATION)
    assert found.n_peaks.shape == (4,)
    assert (found.share > 0.95).all()
    peaks = metrics.find_peaks(patterns[keep], CALIBRATION.center)
    again = metrics.explained_peaks(xmap, None, [crystal], CALIBRATION, peaks=peaks)
    np.testing.assert_array_equal(found.n_explained, again.n_explained)


def test_calibration_and_centers_of_a_signal(crystal):
    import hyperspy.api as hs

    patterns, _ = pattern_of(ORIENTATIONS)
    patterns[1] = np.roll(patterns[1], (3, -2), axis=(0, 1))
    s = hs.signals.Signal2D(patterns)
    s.set_signal_type("electron_diffraction")
    s.set_experimental_parameters(beam_energy=200)
    for axis, center in zip(s.axes_manager.signal_axes, (50, 48)):
        axis.scale, axis.offset, axis.units = 0.03, -0.03 * center, "1/Å"
    xmap = make_map(Rotation(ORIENTATIONS))
    centers = np.array([[48, 50], [51, 48], [48, 50]])
    assert (metrics.explained_peaks(xmap, s, [crystal], centers=centers).share > 0.95).all()
    assert metrics.explained_peaks(xmap, s, [crystal]).share[1] < 0.5


def test_errors_that_are_as_large_as_expected_lie_on_the_diagonal(rng):
    expected = np.exp(rng.uniform(np.log(0.5), np.log(8), 20000))
    error = np.linalg.norm(rng.normal(size=(20000, 3)), axis=1) * expected / 3**0.5
    curve = metrics.reliability_curve(expected, np.where(np.arange(20000) % 50 == 0, np.nan, error))
    np.testing.assert_allclose(curve.rms, curve.expected, rtol=0.06)
    assert (curve.median < curve.rms).all() and (np.diff(curve.expected) > 0).all()
    with pytest.raises(ValueError, match="too few for 10 groups"):
        metrics.reliability_curve([1.0, 2.0], [1.0, 2.0])


def test_truth_of_the_shape_of_a_scan():
    truth = Rotation(np.random.default_rng(0).normal(size=(2, 3, 4)))
    xmap = CrystalMap(
        Rotation(truth.data.reshape(6, 4)), x=np.tile(np.arange(3), 2), y=np.repeat(np.arange(2), 3),
        phase_list=PhaseList(Phase("cubic", space_group=225)),
    )  # fmt: skip
    np.testing.assert_allclose(metrics.disorientation(xmap, truth), 0, atol=1e-5)
    with pytest.raises(ValueError, match=r"\(6,\) and \(3, 2\) do not fit"):
        metrics.disorientation(xmap, truth.data.reshape(3, 2, 4))
