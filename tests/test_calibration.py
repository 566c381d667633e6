"""Scans that calibrate themselves: known scales, ellipses and centres come back, and nonsense is refused."""

import json

import numpy as np
import pytest
import torch
from distorted_scans import NOMINAL, PIXELS, Made, stretched, truly
from sample_phases import phase, raw_phase

import pyxem_dl
from pyxem_dl.calibration import find_calibration, with_calibration
from pyxem_dl.calibration.rings import scales_by_rings
from pyxem_dl.crystals import reflections
from pyxem_dl.frames import Calibration, k_to_pixel, pixel_to_k
from pyxem_dl.preprocessing import PolarPreprocessing
from pyxem_dl.scans import Reading, Scan, make_signal

pytestmark = pytest.mark.usefixtures("one_thread")


# ---------------------------------------------------------------- a distortion in a calibration
@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor])
def test_a_distorted_spot_is_seen_at_k_times_the_matrix(make):
    matrix = stretched(0.1, 30, 1.02)
    k = np.array([[0.5, 0.0], [0.0, 0.5], [-0.3, 0.7]])
    there = truly(matrix)
    row, column = k_to_pixel(*make(k.T), there)
    seen = np.stack(pixel_to_k(np.asarray(row), np.asarray(column), NOMINAL), axis=1)
    np.testing.assert_allclose(seen, k @ matrix, atol=1e-12)
    back = pixel_to_k(row, column, there)
    np.testing.assert_allclose(np.stack([np.asarray(x) for x in back], axis=1), k, atol=1e-12)


def test_a_long_axis_is_where_it_is_said_to_be():
    # 30 degrees counter-clockwise from +kx: to the right of the pattern, and up
    k = 0.5 * np.array([np.cos(np.pi / 6), np.sin(np.pi / 6)])
    row, column = k_to_pixel(*k, truly(stretched(0.1, 30)))
    row0, column0 = k_to_pixel(*k, NOMINAL)
    assert row < row0 and column > column0
    far = np.hypot(row - PIXELS / 2, column - PIXELS / 2) / np.hypot(row0 - PIXELS / 2, column0 - PIXELS / 2)
    assert far == pytest.approx(1.1**0.5, abs=1e-9)


def test_the_edge_of_a_distorted_detector():
    matrix = stretched(0.2, 25, 1.05)
    found = truly(matrix, (3.0, -2.0))
    angle = np.deg2rad(np.arange(0, 360, 0.25))
    row, column = k_to_pixel(*(found.reciprocal_radius * np.array([np.cos(angle), np.sin(angle)])), found)
    margin = min(row.min() + 0.5, column.min() + 0.5, PIXELS - 0.5 - row.max(), PIXELS - 0.5 - column.max())
    assert margin == pytest.approx(0, abs=1e-3)
    assert found.pixel_area == pytest.approx(NOMINAL.pixel_area / 1.05**2)


def test_polar_patterns_follow_the_distortion():
    """A ring that is an ellipse on the detector is a line of one radius."""
    matrix = stretched(0.12, 70)
    row, column = np.indices((PIXELS, PIXELS))
    k = np.hypot(*pixel_to_k(row, column, truly(matrix)))
    ring = torch.as_tensor(np.exp(-(((k - 0.8) / 0.02) ** 2)))[None].float()
    widths = []
    for calibration in (truly(matrix), NOMINAL):
        polar, _ = PolarPreprocessing(1.1, n_k=55, n_phi=72).resample(ring, calibration)
        widths.append(polar[0].argmax(0).double().std())
    assert widths[0] < 0.6 < 1.2 < widths[1]


@pytest.mark.parametrize("wrong", [((1, 0.1), (0, 1)), ((1, np.nan), (np.nan, 1)), ((0, 0), (0, 1)), (1, 2), "ellipse"])
def test_what_is_no_distortion(wrong):
    with pytest.raises(ValueError):
        NOMINAL.replace(distortion=wrong)


def test_a_calibration_without_distortion_is_what_it_was():
    assert NOMINAL.replace(distortion=((1, 0), (0, 1))) == NOMINAL and hash(NOMINAL) == hash(truly())


# ---------------------------------------------------------------- rings
@pytest.mark.parametrize("name", ["Al", "LiNiO2"])
@pytest.mark.parametrize("scale", [0.88, 1.0, 1.12])
def test_a_scale_by_rings(name, scale):
    table = reflections(phase(name), 1.2)
    g = table.g.norm(dim=1).numpy()
    rng = np.random.default_rng(0)
    peaks = rng.choice(g, 400, p=table.structure_factor.numpy() / table.structure_factor.numpy().sum())
    peaks = np.concatenate([peaks * scale * rng.normal(1, 0.01, 400), rng.uniform(0.2, 1.2, 100)])
    found = [s for s, _ in scales_by_rings(peaks, [table], 1.0)]
    assert min(abs(s - scale) for s in found) < 0.01
    assert scales_by_rings(peaks[:10], [table], 1.0) == []


# ---------------------------------------------------------------- known answers
@pytest.mark.parametrize("name", ["Al", "LiNiO2"])
def test_scale_ellipse_centre_and_drift_come_back(name):
    drift = np.array([[1.5, 0.0], [0.0, -2.0]])
    made = Made(name, matrix=stretched(0.05, 30, 1.02), center=(0.5, -0.8), drift=drift)
    found = find_calibration(made.scan, made.answers(), [made.phase])
    assert found.undetermined == ()
    assert found.scale_change == pytest.approx(1 / 1.02 - 1, abs=3 * found.scale_error) and found.scale_error < 0.004
    assert found.ellipticity == pytest.approx(0.05, abs=3 * found.ellipticity_error)
    assert found.ellipticity_error < 0.005
    assert found.direction == pytest.approx(30, abs=3 * found.direction_error) and found.direction_error < 4
    np.testing.assert_array_less(np.abs(np.subtract(found.center, (48.5, 47.2))), 4 * np.array(found.center_error))
    np.testing.assert_array_less(np.abs(found.drift - drift), 4 * found.drift_error)
    assert max(found.center_error) < 0.1 and found.drift_error.max() < 0.3
    assert found.explained[1] > found.explained[0] + 0.1
    # the centre of each pattern
    row, column = (x.ravel() for x in np.indices((8, 12)))
    expected = np.stack([48.5 + 1.5 * (row / 7 - 0.5), 47.2 - 2.0 * (column / 11 - 0.5)], axis=1)
    assert np.abs(found.centers - expected).max() < 0.5
    text = str(found)
    assert "long axis at" in text and "Its drift" in text and "peaks explained" in text


def test_a_scale_that_is_far_off_is_found_by_rings():
    made = Made("Al", matrix=stretched(0.0, 0, 1.1))
    right = NOMINAL.scale[0] / 1.1, 0.03
    found = find_calibration(made.scan, made.answers(only_within=right), [made.phase])
    assert found.scale[0] == pytest.approx(right[0], rel=3 * found.scale_error)
    assert found.ellipticity < 0.01 and found.explained[1] > found.explained[0] + 0.5


def test_one_grain_tells_no_ellipse():
    made = Made("LiNiO2", (6, 6), matrix=stretched(0.05, 30, 1.02), grains=1)
    found = find_calibration(made.scan, made.answers(), [made.phase])
    assert "ellipse" in found.undetermined and "not determined" in str(found)
    np.testing.assert_allclose(found.distortion, np.eye(2), atol=1e-9)
    # what one orientation knows of the scale has the error of one orientation
    assert found.scale_change == pytest.approx(1 / 1.02 - 1, abs=0.03) and found.scale_error > 0.002


def test_a_known_ellipse_stays_where_it_is_not_determined():
    matrix = stretched(0.05, 30)
    made = Made("LiNiO2", (6, 6), matrix=matrix, grains=1)
    made.scan.calibration = truly(matrix)
    found = find_calibration(made.scan, made.answers(), [made.phase])
    assert "ellipse" in found.undetermined
    np.testing.assert_allclose(found.distortion, matrix, atol=2e-5)


# ---------------------------------------------------------------- refusals
@pytest.fixture(scope="module")
def small():
    return Made("LiNiO2", (6, 6), matrix=stretched(0.03, 0))


def test_wrong_orientations_are_refused(small):
    answer = small.answers(only_within=(1.0, 0.1))  # never right
    with pytest.raises(ValueError, match="cannot calibrate itself: only .* of 36 patterns have .* of LiNiO2"):
        find_calibration(small.scan, answer, [small.phase])


def test_halves_that_disagree_are_refused(small):
    from pyxem_dl.calibration import finding

    search = finding._Search(small.scan, finding._Sample.of(small.scan, 400, 2.0), small.answers(), [small.phase])
    fitted = finding.Fitted(None, np.diag([1e-6] * 9), 0, {}, np.array([[1.0, 0, 1.0], [1.04, 0, 1.04]]))
    with pytest.raises(ValueError, match=r"halves of the orientations disagree.*\(\+0.0, \+0.0, \+0.0\)"):
        search.check_halves(fitted, [0, 1])
    fitted.halves[1] = 1.002, 0, 1.002
    search.check_halves(fitted, [0, 1])


def test_a_calibration_that_runs_away_is_refused(small):
    from pyxem_dl.calibration import finding
    from pyxem_dl.calibration.fitting import Bend

    search = finding._Search(small.scan, finding._Sample.of(small.scan, 400, 2.0), small.answers(), [small.phase])
    for bend in (Bend.of(1.2 * np.eye(2)), Bend.of(stretched(0.5, 20)), Bend.of(shift=(0.7, 0))):
        with pytest.raises(ValueError, match="runs away, to a pattern that is stretched by .* up to 15 % and 0.59 Å⁻¹"):
            search.check_bounds(bend)
    look = finding._Look(None, None, 0.6, 0.05)
    with pytest.raises(ValueError, match="less than before, 60.0 % of the peaks before .* 50.0 % afterwards"):
        search.check_explained(look, look._replace(explained=0.5))
    with pytest.raises(ValueError, match="little more than chance"):
        search.check_explained(look._replace(explained=0.1), look._replace(explained=0.15))


# ---------------------------------------------------------------- in a signal
@pytest.fixture(scope="module")
def found(small):
    made = Made("LiNiO2", matrix=stretched(0.05, 30, 1.02), center=(0.5, -0.8), drift=((1.5, 0.0), (0.0, -2.0)))
    return made, find_calibration(made.scan, made.answers(), [made.phase])


def test_it_is_written_into_a_signal_and_read_back(found, tmp_path):
    import hyperspy.api as hs

    made, calibration = found
    signal = made.signal.deepcopy()
    assert Calibration.from_signal(signal) == NOMINAL  # nothing before it is asked for
    calibration.apply(signal)
    signal.save(tmp_path / "scan.zspy")
    for s in (signal, hs.load(tmp_path / "scan.zspy")):
        read = Calibration.from_signal(s)
        assert read.scale == pytest.approx(calibration.scale)
        np.testing.assert_allclose(read.distortion, calibration.distortion)
        scan = Scan.from_signal(s, inspect=False)
        np.testing.assert_allclose(scan.centers, calibration.centers, atol=1e-6)
    # a cut scan, and a cut detector
    part = Scan.from_signal(signal.inav[3:8, 2:].isig[4:, 6:], inspect=False)
    expected = calibration.centers.reshape(8, 12, 2)[2:, 3:8].reshape(-1, 2) - (6, 4)
    np.testing.assert_allclose(part.centers, expected, atol=1e-6)
    with pytest.warns(UserWarning, match="drift over the scan that these patterns are from"):
        Scan.from_signal(signal.inav[3], inspect=False)
    # a given center goes first
    assert Scan.from_signal(signal, Reading(center=(48.0, 48.0)), inspect=False).centers is None
    with pytest.raises(ValueError, match="patterns of \\(96, 96\\) px, the signal has \\(96, 90\\)"):
        calibration.apply(signal.isig[:90])
    signal.metadata.Pyxem_dl.Calibration.distortion = [1, 2]
    with pytest.raises(ValueError, match="hold the distortion"):
        Calibration.from_signal(signal)


def test_what_was_used_is_plain_numbers(found):
    entry = json.loads(json.dumps(found[1].to_dict()))
    assert entry["ellipticity"] == found[1].ellipticity and entry["undetermined"] == []


def test_a_calibration_of_another_scan_is_refused(found, small):
    with pytest.raises(ValueError, match=r"found in a scan of \(8, 12\) positions"):
        with_calibration(small.scan, found[1])


def test_pyxems_engine_says_that_it_takes_no_ellipse(found, monkeypatch):
    made, calibration = found
    signal = made.signal.inav[:2, :2].deepcopy()
    calibration.apply(signal)

    def no_work(*arguments):
        raise InterruptedError

    monkeypatch.setattr("pyxem_dl.template_matching.matching.Templates", no_work)
    with pytest.warns(UserWarning, match="takes no ellipse"), pytest.raises(InterruptedError):
        pyxem_dl.match_templates(signal, raw_phase("LiNiO2"), engine="pyxem")


# ---------------------------------------------------------------- predictions
@pytest.fixture(scope="module")
def model():
    from pyxem_dl.models import OrientationModel
    from pyxem_dl.networks.any_crystal import AnyCrystalNetwork

    torch.manual_seed(0)
    return OrientationModel("any_crystal", AnyCrystalNetwork(8).eval(), PolarPreprocessing(1.2), [])


def test_a_prediction_keeps_what_it_was_made_with(found, model, tmp_path, capsys):
    made, calibration = found
    signal = made.signal.inav[:, :].deepcopy()
    quiet = {"phases": raw_phase("LiNiO2"), "show_progressbar": False, "device": "cpu"}
    path = tmp_path / "map.zarr"
    pyxem_dl.predict_orientation(signal, model, calibrate=calibration, output=path, **quiet)
    from pyxem_dl.scans import ResultStore

    assert ResultStore.open(path).contents.about["calibration"] == calibration.to_dict()
    assert pyxem_dl.open_result(path).size == 96
    assert f"{calibration.scale[1]:.4g} Å⁻¹ per px" in capsys.readouterr().out
    # another calibration is other work
    with pytest.raises(FileExistsError, match="another signal, model or setting"):
        pyxem_dl.predict_orientation(signal, model, output=path, **quiet)
    assert Calibration.from_signal(signal) == NOMINAL


def test_where_a_scan_cannot_be_calibrated_its_own_calibration_is_kept(model):
    signal = make_signal(np.random.default_rng(0).poisson(2.0, (4, 4, 96, 96)).astype(np.uint16), NOMINAL, "noise")
    quiet = {"phases": raw_phase("LiNiO2"), "show_progressbar": False, "device": "cpu"}
    with pytest.warns(UserWarning, match=r"only 0 of 16 patterns .* is kept: scale 0.025 Å⁻¹ per px, centre \(48.0"):
        xmap = pyxem_dl.predict_orientation(signal, model, calibrate=True, **quiet)
    assert xmap.size == 16
    with pytest.raises(ValueError, match="cannot calibrate itself"):
        signal.find_calibration(raw_phase("LiNiO2"), model=model, device="cpu")
    with pytest.raises(ValueError, match="give phases"):
        pyxem_dl.calibrate(signal, model=model)
    with pytest.raises(TypeError, match="calibrate must be True or False"):
        pyxem_dl.predict_orientation(signal, model, calibrate="yes", **quiet)
    with pytest.raises(ValueError, match="n_patterns must be"):
        pyxem_dl.calibrate(signal, raw_phase("LiNiO2"), model=model, n_patterns=3)


def test_the_command_line(found, monkeypatch, tmp_path):
    from typer.testing import CliRunner

    from pyxem_dl.commands import app

    made, calibration = found
    asked = {}

    def find(signal, phases, **settings):
        asked.update(settings, phases=phases)
        return calibration

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pyxem_dl.calibration.calibrate", find)
    made.signal.inav[:3, :2].save("scan.hspy")
    (tmp_path / "a.cif").write_text("data_a")
    arguments = "calibrate scan.hspy --phase a.cif --center 48,48 --patterns 99 --output c.json".split()
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert asked["center"] == (48, 48) and asked["n_patterns"] == 99 and [p.name for p in asked["phases"]] == ["a.cif"]
    assert json.loads((tmp_path / "c.json").read_text()) == calibration.to_dict()
    assert CliRunner().invoke(app, arguments).exit_code == 1  # c.json is there
    done = CliRunner().invoke(app, ["calibrate", "scan.hspy", "--phase", "none.cif"])
    assert done.exit_code == 1 and "no structure file none.cif" in done.output


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Al", "LiNiO2"])
def test_the_bundled_model_calibrates_a_scan(name):
    if "any-crystal" not in pyxem_dl.list_models():
        pytest.skip("needs the bundled model any-crystal")
    made = Made(name, (12, 16), matrix=stretched(0.05, 30, 1.03), center=(0.5, -0.8), drift=((1.5, 0), (0, -2.0)))
    found = pyxem_dl.calibrate(made.signal, raw_phase(name))
    record = pyxem_dl.provenance(found)
    assert record["verb"] == "calibrate" and record.calibration == found.calibration
    assert found.scale_change == pytest.approx(1 / 1.03 - 1, abs=0.006)
    assert found.ellipticity == pytest.approx(0.05, abs=0.01) and found.direction == pytest.approx(30, abs=6)


@pytest.mark.slow
def test_the_real_scan_is_stretched_along_x(shared_data):
    import hyperspy.api as hs

    signal = hs.load(shared_data / "mgo_nanocubes.zspy", lazy=True)
    any_crystal = "any-crystal" in pyxem_dl.list_models()
    how = {"phases": shared_data / "MgO.cif"} if any_crystal else {"model": "mgo-300kv"}
    found = pyxem_dl.calibrate(signal, **how)
    assert found.ellipticity == pytest.approx(0.055, abs=0.015)
    assert min(found.direction, 180 - found.direction) < 15
    assert found.scale_change == pytest.approx(-0.027, abs=0.006)
    assert found.explained[1] > found.explained[0] + 0.1
