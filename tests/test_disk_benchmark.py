"""The benchmark of Bragg disks: what it says of answers that are known to be right, and wrong by a known amount."""

from dataclasses import replace

import numpy as np
import pytest

from pyxem_dl import data
from pyxem_dl.bragg_vectors import to_diffraction_vectors
from pyxem_dl.electrons import electron_wavelength
from pyxem_dl.frames import Calibration, out_of_plane, pixel_to_k
from pyxem_dl.scans import make_signal

pytest.importorskip("suite", reason="needs the benchmark, which lies beside the package, in benchmarks/suite")
from suite import disk_measure, disk_report, disks  # noqa: E402

A = 5.658


def table_of(k, calibration):
    """Vectors' table in pixels from the beam, of places (kx, ky)."""
    k = np.asarray(k, dtype=float)
    columns = [k[:, 1] / calibration.scale[0], k[:, 0] / calibration.scale[1]]
    return np.column_stack([*columns, np.full(len(k), 100.0), np.ones(len(k))])


@pytest.fixture(scope="module")
def multilayer():
    return data.strained_multilayer((2, 16))


def test_the_multilayer_is_strained_as_it_says(multilayer):
    assert multilayer.signal.data.shape == (2, 16, 128, 128)
    assert set(np.unique(multilayer.strain)) == {-0.02, -0.01, 0.0, 0.01, 0.02}
    assert multilayer.thickness[0, 0] == 80 and multilayer.thickness[1, 0] == 900
    assert multilayer.signal.data.mean(axis=(0, 1)).sum() == pytest.approx(1e5, rel=0.1)
    # 400 and -400 of the layer that is stretched by 2 % lie nearer to each other
    probe = multilayer.vacuum
    vectors = multilayer.signal.match_disks(probe=probe, show_progressbar=False)

    def spacing(x):
        # bands shift a disk by a pixel: both sides of the beam are looked at
        k = vectors.data[0, x]
        right, left = (k[np.argmin(np.hypot(k[:, 0], k[:, 1] - side * 4 / A)), 1] for side in (1, -1))
        return right - left

    stretched, flat = (
        np.mean([spacing(x) for x in np.flatnonzero(multilayer.strain[0] == value)]) for value in (0.02, 0.0)
    )
    assert stretched / flat == pytest.approx(1 / 1.02, abs=0.004)


def test_perfect_vectors_have_no_error_of_strain(multilayer):
    calibration = Calibration.from_signal(multilayer.signal)
    index = np.array([(h, k) for h in range(-2, 3) for k in range(-2, 3) if (h + k) % 2 == 0])

    def find(signal, probe, wrong=0.0):
        rows = np.empty(multilayer.strain.size, dtype=object)
        for i, strain in enumerate(multilayer.strain.ravel()):
            rows[i] = table_of(2 * index / A / np.array([1 + strain + wrong * (strain != 0), 1]), calibration)
        return to_diffraction_vectors(signal, rows, calibration)

    found = disk_measure.strain(find, multilayer)
    assert max(found["all"], found["thin"], found["thick"]) < 0.05 and found["missing"] == 0
    off = disk_measure.strain(lambda s, p: find(s, p, wrong=0.005), multilayer)
    strained = (multilayer.strain != 0).mean()
    assert off["all"] == pytest.approx(0.5 * np.sqrt(strained), rel=0.1)


def test_a_lattice_has_no_residual_and_its_noise_one(rng):
    calibration = Calibration((0.03, 0.03), (72.0, 72.0), (144, 144), 300.0)
    distortion = np.array([[1.06, 0.01], [0.01, 1.0]])
    turn = np.array([[np.cos(0.4), np.sin(0.4)], [-np.sin(0.4), np.cos(0.4)]])
    index = np.array([(h, k) for h in range(-2, 3) for k in range(-2, 3)])
    k = 2 / 4.217 * index @ turn @ distortion
    k = k[np.hypot(*k.T) < 1.25]
    tables = [k[:, ::-1] for _ in range(20)]
    exact = disk_measure._lattice(tables, calibration, distortion, 4.217)
    assert exact["lattice_residual"] < 1e-3 and exact["off_lattice"] == 0
    noisy = [t + 0.5 * calibration.scale[0] * rng.normal(size=t.shape) for t in tables]
    found = disk_measure._lattice(noisy, calibration, distortion, 4.217)
    # of so many places six numbers are fitted
    left = np.sqrt(2 * 0.25 * (1 - 3 / len(k)))
    assert found["lattice_residual"] == pytest.approx(left, rel=0.1)
    stray = [np.concatenate([t, [[0.23, 0.0]]]) for t in tables]
    assert disk_measure._lattice(stray, calibration, distortion, 4.217)["off_lattice"] == pytest.approx(
        1 / (len(k) + 1), abs=1e-3
    )


def test_tables_say_what_was_asked_and_reached():
    truth = {
        "kind": "truth", "data": "multislice Al, 3mrad, 1e+05 electrons", "predictor": "network x", "disks": 10,
        "f1": 0.5, "precision": 0.4, "recall": 0.6, "position_error": 0.9, "rank_correlation": 0.99,
        "position_isolated": 0.8, "position_overlapped": 1.2, "position_cut": float("nan"), "n_near": 7,
        "q_z_error": 0.0025, "q_z_sign": 0.9, "v_g": 0.93, "v_g_within": 0.87, "n_within": 6, "ignored_share": 0.5,
        "n": 40, "false_per_pattern": 0.15, "false_visible": 0.5,
    }  # fmt: skip
    speed = {"kind": "speed", "data": "speed", "predictor": "network x", "n": 3, "patterns_per_second": 321.0}
    other = truth | {"data": "multislice LiNiO2, 3mrad, 1e+06 electrons", "ignored_share": 0.41}
    text = disk_report.disk_tables([truth, other | {"ignored_share": 0.43}, other, speed], lambda row: "a")
    wanted = (
        "| network x | 10 | 0.500 | ≥ 0.97 | 0.400 / 0.600 | 6 (50.0 %) | 0.90 | ≤ 0.60 | 0.36 | 0.80 / 1.20 / – |"
        " 0.990 | a |"
    )
    assert wanted in text
    assert "| network x | 7 | 0.0025 | 90.0 % | 0.930 | 0.870 (6) | a |" in text
    assert "take 50.0 % (Al) and 42.0 % (LiNiO2) of the area" in text
    # its F1 is of another count
    assert "| *py4DSTEM 0.14, best threshold for this line* |  |  |  |  |  | *1.15* |" in text and "*0.94*" not in text
    assert "| network x | 3 | 321 | a |" in text and "not measured" in text


def made_up(truth, details=None, kinds=None, ignored=None, size=64, radius=5.0):
    """Patterns whose disks are known, as there are no patterns."""
    calibration = Calibration((0.02, 0.02), (size / 2, size / 2), (size, size), 200.0)
    signal = make_signal(np.zeros((len(truth), size, size), dtype=np.float32), calibration, "made up")
    return disks.BraggDisks(
        "made up", signal, np.zeros((size, size)), radius, [np.array(t, dtype=float) for t in truth],
        kinds or [np.zeros(len(t), dtype=int) for t in truth], details or [np.zeros((len(t), 3)) for t in truth],
        ignored or [np.empty((0, 2)) for _ in truth],
    )  # fmt: skip


def vectors_of(known, read, off=0.0):
    """The true disks as vectors, `off` px further down, with the excitation errors and potentials read of each."""
    calibration = Calibration.from_signal(known.signal)
    rows = np.empty(len(known.truth), dtype=object)
    for i, (table, (s, volts)) in enumerate(zip(known.truth, read)):
        where = table[:, :2] + [off, 0]
        kx, ky = pixel_to_k(*where.T, calibration)
        q_z = out_of_plane(kx, ky, np.asarray(s, dtype=float), calibration.wavelength)
        rows[i] = np.column_stack([where - calibration.center, table[:, 2], np.ones(len(table)), volts, q_z])
    columns = ("ky", "kx", "intensity", "confidence", "v_g", "q_z")
    return to_diffraction_vectors(known.signal, rows, calibration, columns=columns)


def test_a_wrong_detection_may_be_a_disk_that_is_there():
    known = made_up([[(16.0, 16, 500)]])
    row, column = np.indices((64, 64))
    image = np.full((1, 64, 64), 0.1)
    for place, electrons in (((16, 16), 500), ((44, 44), 300)):
        image[0, np.hypot(row - place[0], column - place[1]) < 5] += electrons / 78.5
    known = replace(known, expected=image)
    found = [np.array([[16.0, 16, 1], [44, 44, 1], [44, 14, 1]])]  # true; not listed, but there; nowhere
    assert disks.visible_false(found, known) == 0.5
    assert np.isnan(disks.visible_false([found[0][:1]], known))


PLACES = [(10.0, 10, 5), (10, 32, 6), (10, 50, 7), (50, 10, 8), (50, 32, 9)]


def test_readings_are_of_what_is_near_and_finite():
    s = np.array([0.002, -0.002, 0.0, 0.02, 0.001])
    details = [np.column_stack([s, np.full(5, 0.002), np.arange(5.0)])]
    known = made_up([PLACES], details)
    exact = disks.readings(vectors_of(known, [(s, np.arange(5.0))]), known)
    # the fourth is too far from Bragg's condition
    assert exact["n_near"] == 4 and exact["q_z_error"] < 1e-9
    assert exact["v_g"] == exact["v_g_within"] == pytest.approx(1) and exact["n_within"] == 1
    # 0 has no sign; of the other three one is wrong
    wrong = disks.readings(vectors_of(known, [(s + [0, 0, 0.001, 0, -0.003], np.arange(5.0))]), known)
    assert wrong["q_z_sign"] == pytest.approx(2 / 3)
    assert wrong["q_z_error"] == pytest.approx(np.sqrt((0.001**2 + 0.003**2) / 4))
    gaps = disks.readings(vectors_of(known, [(s + [np.nan, 0, 0, 0, 0], [0, 1, 2, 3, np.nan])]), known)
    assert gaps["n_near"] == 3 and gaps["q_z_sign"] == 1 and gaps["v_g"] == pytest.approx(1)
    # of the four potentials that are left none is told within a pattern
    assert np.isnan(gaps["v_g_within"]) and gaps["n_within"] == 0
    nothing = disks.readings(vectors_of(known, [(s, np.arange(5.0))], off=4.0), known)
    assert nothing["n_near"] == 0 and np.isnan([nothing["q_z_error"], nothing["q_z_sign"], nothing["v_g"]]).all()


def test_order_within_patterns_is_not_that_of_thickness():
    zero = np.zeros(5)
    details = [np.column_stack([zero, zero + 1, thickness + np.arange(5.0)]) for thickness in (0, 100)]
    known = made_up([PLACES, PLACES], details)
    # what is read knows the thickness, and within a pattern has everything upside down
    found = disks.readings(vectors_of(known, [(zero, t - np.arange(5.0)) for t in (0, 100)]), known)
    assert found["v_g"] > 0.4 and found["v_g_within"] == pytest.approx(-1) and found["n_within"] == 2
    # a pattern with four disks is none of them
    few = made_up([PLACES, PLACES[:4]], [details[0], details[1][:4]])
    found = disks.readings(vectors_of(few, [(zero, np.arange(5.0)), (zero[:4], -np.arange(4.0))]), few)
    assert found["v_g_within"] == pytest.approx(1) and found["n_within"] == 1


def test_position_errors_are_told_apart_by_kind():
    known = made_up([PLACES, PLACES[:2]], kinds=[np.array([0, 0, 1, 1, 0]), np.array([1, 0])])
    found = [known.truth[0][:, :2] + [[0, 0], [0, 2], [1, 0], [0, 1], [9, 0]], known.truth[1][:, :2] + [[0, 2], [0, 1]]]
    errors = disks.position_errors(found, known)
    # the last of the first pattern is no hit
    assert errors["isolated"] == pytest.approx(np.sqrt((0 + 4 + 1) / 3))
    assert errors["overlapped"] == pytest.approx(np.sqrt((1 + 1 + 4) / 3)) and np.isnan(errors["cut"])


def test_kinds_are_those_of_neighbours_and_frame():
    true = np.array([[50.0, 20, 100], [50, 60, 100], [3, 60, 100]])

    def kinds(*others):
        return disks._kinds(true, np.concatenate([true, np.reshape(others, (-1, 3))]), (100, 100), 10.0).tolist()

    assert kinds() == [0, 0, 2]
    # more than a tenth of the electrons, and within two radii
    assert kinds((50, 39, 12)) == [1, 0, 2] and kinds((50, 39.5, 9)) == [0, 0, 2]
    assert kinds((50, 39.5, 11)) == [1, 0, 2] and kinds((50, 41, 1000)) == [0, 1, 2]
    # one that is dark itself has the electrons of the disk that it lies in: 39 % one radius away
    assert disks._shared_area(10.0, 10.0) == pytest.approx(0.391, abs=1e-3)
    assert kinds((60, 20, 39.2)) == [0, 0, 2] and kinds((60, 20, 60)) == [1, 0, 2]
    assert disks._kinds(np.empty((0, 3)), true, (100, 100), 10.0).tolist() == []


def test_the_ignored_share_is_of_the_area_without_true_disks():
    # out to 15 px a detection is within reach; that of one ignored point overlaps with a true disk's
    whole, shared = np.pi * 15.0**2, float(disks._shared_area(10.0, 15.0))
    known = made_up([[(50.0, 50, 9)]], ignored=[np.array([[50.0, 60], [90, 90]])], size=128, radius=25.0)
    assert disks.ignored_share(known) == pytest.approx((2 - shared) * whole / (128**2 - whole), rel=0.03)
    assert disks.ignored_share(made_up([PLACES])) == 0


def test_the_benchmark_knows_its_disks(shared_data):
    known = disks.bragg_disks(shared_data, "Al", 1e5, n=2)
    assert known.signal.data.sum((1, 2)) == pytest.approx([1e5] * 2, rel=0.02)
    tables = np.empty(2, dtype=object)
    calibration = Calibration.from_signal(known.signal)
    for i, table in enumerate(known.truth):
        assert (table[:, 2] > 20).all()
        relative = table[:, :2] - calibration.center
        tables[i] = np.column_stack([relative, table[:, 2], np.ones(len(table))])
        # the electrons are there
        row, column = np.indices(calibration.shape)
        for r, c, electrons in table:
            there = known.signal.data[i][np.hypot(row - r, column - c) < known.radius].sum()
            assert there == pytest.approx(electrons, abs=8 * np.sqrt(electrons) + 0.1 * electrons)
    vectors = to_diffraction_vectors(known.signal, tables, calibration)
    score = disks.score(vectors, known)
    assert score.f1 == 1 and score.position_error < 1e-6 and score.rank_correlation == pytest.approx(1)


def spots_of(folder, i):
    """Row, column, |k|, excitation error and kinematical modulus of a pattern's reflections; its thickness."""
    with np.load(folder / "multislice" / "Al_3mrad.npz") as file:
        here = slice(*file["spot_ptr"][i : i + 2])
        row, column, kx, ky, s, squares = (file[f"spot_{x}"][here] for x in ("row", "col", "kx", "ky", "s", "F2"))
        return np.column_stack([row, column, np.hypot(kx, ky), s, np.sqrt(squares)]), float(file["thickness"][i])


def check_details(known, folder):
    """Kinds, excitation errors, half ranges and potentials are those of the data's own table."""
    ratios, calibration = [], Calibration.from_signal(known.signal)
    for i, (table, kinds, details) in enumerate(zip(known.truth, known.kinds, known.details, strict=True)):
        spots, thickness = spots_of(folder, i)
        apart = np.linalg.norm(table[:, None, :2] - spots[None, :, :2], axis=-1)
        assert apart.min(1).max() < 0.01
        k, s, modulus = spots[apart.argmin(1), 2:].T
        np.testing.assert_allclose(details[:, 0], s, atol=1e-6)
        half_range = electron_wavelength(200.0) * k * known.radius * calibration.scale[0]
        np.testing.assert_allclose(details[:, 1], half_range, rtol=1e-4)
        ratios.append(details[:, 2] / thickness / modulus / np.exp(-0.49 * (k**2 + s**2) / 4))
        # the disks of aluminium do not touch each other
        edge = np.minimum(table[:, :2], 255 - table[:, :2]).min(1)
        assert kinds.tolist() == np.where(edge < known.radius, 2, 0).tolist()
    # volts are the moduli of the data times one number
    ratios = np.concatenate(ratios)
    assert ratios.min() > 0 and np.ptp(ratios) < 0.01 * ratios.mean()


def check_ignored(known, folder):
    """All that is no true disk is ignored: reflections that are listed, far and forbidden ones, the beam."""
    reach = disks.HIT_RADII * known.radius
    for i, (table, ignored) in enumerate(zip(known.truth, known.ignored, strict=True)):
        spots, _ = spots_of(folder, i)
        places = np.concatenate([spots[:, :2], [Calibration.from_signal(known.signal).center]])
        to_ignored = np.linalg.norm(places[:, None] - ignored[None], axis=-1).min(1)
        to_true = np.linalg.norm(places[:, None] - table[None, :, :2], axis=-1).min(1)
        assert (np.minimum(to_ignored, to_true) < 0.1).all()
        assert np.linalg.norm(table[:, None, :2] - ignored[None], axis=-1).min() > 1
        # the lattice is face-centred: of its points three in four are forbidden, and most are far
        assert len(ignored) > 10 * len(spots)
    everywhere = [np.column_stack([ignored, np.ones(len(ignored))]) for ignored in known.ignored]
    score = disks.score_disks(everywhere, known.truth, known.ignored, reach)
    again = [np.concatenate([t, t + [1, 0, 0]]) for t in known.truth]
    twice = disks.score_disks(again, known.truth, known.ignored, reach)
    assert score.n_false == 0 and twice.n_false == twice.n_hits == twice.n_true
    assert 0.3 < disks.ignored_share(known) < 0.8
