"""The benchmark of Bragg disks: what it says of answers that are known to be right, and wrong by a known amount."""

import numpy as np
import pytest

from pyxem_dl import data
from pyxem_dl.bragg_vectors import to_diffraction_vectors
from pyxem_dl.frames import Calibration

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
        "q_z_error": 0.0025, "q_z_sign": 0.9, "v_g": 0.93,
    }  # fmt: skip
    speed = {"kind": "speed", "data": "speed", "predictor": "network x", "n": 3, "patterns_per_second": 321.0}
    text = disk_report.disk_tables([truth, speed], lambda row: "a")
    wanted = "| network x | 10 | 0.500 | ≥ 0.97 | 0.400 / 0.600 | 0.90 | ≤ 0.60 | 0.36 | 0.80 / 1.20 / – | 0.990 | a |"
    assert wanted in text
    assert "| network x | 7 | 0.0025 | 90.0 % | 0.930 | a |" in text
    assert "*py4DSTEM 0.14, best threshold for this line*" in text and "*0.94*" in text
    assert "| network x | 3 | 321 | a |" in text and "not measured" in text


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
