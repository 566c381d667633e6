"""A calibration that was found: files of maps keep it; vectors, strain and tilt are without its ellipse."""

import dataclasses
import json

import hyperspy.api as hs
import numpy as np
import orix.io
import pytest
import torch
from distorted_scans import NOMINAL, stretched, truly
from sample_phases import phase, raw_phase

import pyxem_dl
from pyxem_dl.calibration import FoundCalibration
from pyxem_dl.crystals import reflections
from pyxem_dl.frames import STORED_DISTORTION, UNDONE_DISTORTION, k_to_vector, vector_undistorted
from pyxem_dl.models import OrientationModel
from pyxem_dl.networks.any_crystal import AnyCrystalNetwork
from pyxem_dl.preprocessing import PolarPreprocessing
from pyxem_dl.results.calibrations import read_calibration
from pyxem_dl.scans import make_signal
from pyxem_dl.simulation.detector import draw_spots

QUIET = {"show_progressbar": False, "device": "cpu"}
ELLIPSE, SCALE = stretched(0.04, 30), 1.01
#: What calibrates a scan that is stretched by this
TRUE = NOMINAL.replace(scale=tuple(s / SCALE for s in NOMINAL.scale), distortion=tuple(map(tuple, ELLIPSE.tolist())))


def found_calibration(shape=(3, 4), drift=((1.0, 0.0), (0.0, -2.0)), offsets=None):
    zero = np.zeros((2, 2))
    return FoundCalibration(
        NOMINAL, TRUE, shape, np.array(drift), 0.002, 0.04, 0.002, 30.0, 1.0, (0.1, 0.1), zero, (), 12, 12, 12, 60,
        (0.6, 0.9), (0.05, 0.05), offsets,
    )  # fmt: skip


# ---------------------------------------------------------------- maps
@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    network = AnyCrystalNetwork(8).eval()
    return OrientationModel("any_crystal", network, PolarPreprocessing(1.2), [], {}, {"crystal": 0.0, "score": 0.0})


@pytest.fixture(scope="module")
def scan():
    counts = np.random.default_rng(0).poisson(2.0, (3, 4, 96, 96)).astype(np.uint16)
    return make_signal(counts, NOMINAL, "scan")


@pytest.mark.parametrize("name", ["Al", "LiNiO2"])
def test_a_calibration_takes_the_place_of_what_labels_told_of_the_scale(name, model, scan):
    told = dataclasses.replace(model, preprocessing=PolarPreprocessing(1.2, scale_factor=0.9))

    def scores(which, **settings):
        return pyxem_dl.predict_orientation(scan, which, phases=raw_phase(name), **settings, **QUIET).prop["scores"]

    found = found_calibration()
    np.testing.assert_array_equal(scores(told, calibrate=found), scores(model, calibrate=found))
    assert not np.allclose(scores(told), scores(model), atol=1e-4)


@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
@pytest.mark.parametrize("name", ["Al", "LiNiO2"])
def test_files_of_maps_keep_the_calibration(name, suffix, model, scan, tmp_path):
    path, found = tmp_path / f"map{suffix}", found_calibration()
    xmap = pyxem_dl.predict_orientation(scan, model, phases=raw_phase(name), calibrate=found, output=path, **QUIET)
    back = orix.io.load(path) if suffix == ".h5" else pyxem_dl.open_result(path)
    record = pyxem_dl.provenance(path)
    assert record["settings"]["calibrate"] == "given" and record.calibration == TRUE
    assert record["model"][0]["fingerprint"] == model.fingerprint  # it is in no file
    for each in (xmap, back):
        known = pyxem_dl.calibration_of(each)
        assert known.scale == pytest.approx(TRUE.scale) and known.beam_energy == 200 and known.shape == (96, 96)
        assert np.array(known.distortion) == pytest.approx(ELLIPSE) and known.center == pytest.approx(TRUE.center)
        # its drift, at each position
        assert each.prop["calibration"][:, 2:4] == pytest.approx(found.centers)
    # a part of the map, saved by orix, keeps what belongs to it
    orix.io.save(tmp_path / "part.h5", back[0, 2:])
    part = pyxem_dl.calibration_of(orix.io.load(tmp_path / "part.h5"))
    assert part.center == pytest.approx(found.centers.reshape(3, 4, 2)[0, 2:].mean(0))


def test_maps_without_a_calibration_have_none_and_those_of_a_calibrated_signal_do(model, scan):
    quiet = {"phases": raw_phase("Al"), **QUIET}
    assert pyxem_dl.calibration_of(pyxem_dl.predict_orientation(scan, model, **quiet)) is None
    signal = scan.deepcopy()
    found_calibration(drift=np.zeros((2, 2))).apply(signal)
    known = pyxem_dl.calibration_of(pyxem_dl.predict_orientation(signal, model, **quiet))
    assert np.array(known.distortion) == pytest.approx(ELLIPSE) and known.scale == pytest.approx(TRUE.scale)
    assert known.center == pytest.approx(TRUE.center)
    # a centre that is found in each pattern, or was given for each, is not in the numbers
    found_calibration().apply(signal)
    known = pyxem_dl.calibration_of(pyxem_dl.predict_orientation(signal, model, **quiet))
    assert known.scale == pytest.approx(TRUE.scale) and np.isnan(known.center).all()
    given = found_calibration(offsets=np.tile(NOMINAL.center, (12, 1)))
    known = pyxem_dl.calibration_of(pyxem_dl.predict_orientation(scan, model, calibrate=given, **quiet))
    assert known.scale == pytest.approx(TRUE.scale) and np.isnan(known.center).all()


def test_stores_of_earlier_versions_are_read(model, scan, tmp_path):
    from pyxem_dl.results.assembly import PredictedMap
    from pyxem_dl.scans import Positions

    old = {k: v for k, v in found_calibration().to_dict().items() if k not in ("detector_shape", "centers_given")}
    about = PredictedMap(Positions((3, 4), (1.0, 1.0), "px"), [phase("Al")], 1, {"crystal": 0.5}, old).to_dict()
    assert PredictedMap.from_dict(about).calibration == old
    from pyxem_dl.results.calibrations import calibration_property

    assert calibration_property(old, Positions((3, 4), (1.0, 1.0), "px")) == {}


# ---------------------------------------------------------------- vectors
def zone(name):
    """Places (kx, ky) of the reflections of the zone [001], those that are strong."""
    table = reflections(phase(name), 1.0)
    g = table.g[(table.g[:, 2].abs() < 1e-4) & (table.structure_factor > 0.1 * table.structure_factor.max())]
    return g[:, :2].double().numpy()


def distorted_scan(name, matrix=SCALE * ELLIPSE, shape=(2, 3)):
    """Patterns of grains that are turned about the beam, seen by a distorted detector, in the nominal calibration."""
    patterns, places, detector = [], [], truly(matrix)
    for angle in np.deg2rad(np.linspace(0, 50, shape[0] * shape[1])):
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        k = np.concatenate([[[0, 0]], zone(name) @ turn])
        kx, ky = torch.as_tensor(k.T[:, None]).float()
        drawn = draw_spots(kx, ky, torch.full_like(kx, 4000.0), detector, disk_radius=0.06, blur=0.5)
        patterns.append(np.random.default_rng(0).poisson(drawn[0].clamp_min(0).numpy() + 0.02))
        places.append(k)
    signal = make_signal(np.array(patterns, dtype=np.uint16).reshape(*shape, 96, 96), NOMINAL, name)
    return signal, places


def calibrated(signal):
    """The same scan with its calibration, and nothing else changed."""
    signal = signal.deepcopy()
    found_calibration((2, 3), np.zeros((2, 2))).apply(signal)
    return signal


@pytest.fixture(scope="module", params=["Al", "LiNiO2"])  # a square net, and one of a trigonal crystal
def scans(request):
    signal, places = distorted_scan(request.param)
    vectors = [s.match_disks(show_progressbar=False, device="cpu") for s in (signal, calibrated(signal))]
    return request.param, signal, places, *vectors


def furthest(vectors, places):
    """Largest distance (Å⁻¹) of what was found from the spots."""
    away = []
    for table, k in zip(vectors.data.ravel(), places, strict=True):
        found = np.stack([table[:, 1], -table[:, 0]], axis=1)
        away.append(np.linalg.norm(found[:, None] - k[None], axis=2).min(1).max())
    return max(away)


def test_vectors_of_a_calibrated_scan_are_where_the_spots_are_without_distortion(scans):
    _, _, places, nominal, known = scans
    assert min(len(table) for table in known.data.ravel()) >= 7
    assert furthest(nominal, places) > 0.015 and furthest(known, places) < 0.008
    assert known.metadata.get_item(UNDONE_DISTORTION) == pytest.approx(ELLIPSE[[0, 0, 1], [0, 1, 1]])
    assert nominal.metadata.get_item(UNDONE_DISTORTION, None) is None


def test_vectors_are_calibrated_afterwards(scans):
    _, _, _, nominal, known = scans
    later = pyxem_dl.calibrated_vectors(nominal, found_calibration())
    for one, other in zip(later.data.ravel(), known.data.ravel(), strict=True):
        assert np.sort(one[:, :2], axis=0) == pytest.approx(np.sort(other[:, :2], axis=0), abs=1e-6)
    assert np.asarray(later.scales)[:2] == pytest.approx(TRUE.scale) and type(later) is type(nominal)
    with pytest.raises(ValueError, match=r"distortion \(1\.0.* is undone in these vectors already"):
        pyxem_dl.calibrated_vectors(later, TRUE)
    with pytest.raises(ValueError, match=r"found with 0.025 Å⁻¹ per px, the calibration has 0.05: they are not of one"):
        nominal.strain_map(calibration=NOMINAL.replace(scale=(0.05, 0.05)), show_progressbar=False)
    nameless = nominal.deepcopy()
    nameless.scales = None
    with pytest.raises(ValueError, match="do not say the scale"):
        pyxem_dl.calibrated_vectors(nameless, TRUE)


def test_strain_is_wrong_by_the_distortion_and_right_without_it(scans):
    name, _, _, nominal, known = scans
    absolute = {"reference": (phase(name), (0, 0, 1)), "show_progressbar": False, "max_rotation": 40.0}
    wrong = np.linalg.inv(SCALE * ELLIPSE) - np.eye(2)
    maps = nominal.strain_map(**absolute)
    for found, expected in ((maps.e_xx, wrong[0, 0]), (maps.e_yy, wrong[1, 1]), (maps.e_xy, wrong[0, 1])):
        assert np.median(found) == pytest.approx(expected, abs=0.003)
    assert min(abs(wrong[0, 0]), abs(wrong[0, 1])) > 0.01
    for maps in (known.strain_map(**absolute), nominal.strain_map(**absolute, calibration=TRUE)):
        assert np.abs(np.nanmedian(maps.values[:3], axis=(1, 2))).max() < 0.003
        assert np.nanmax(np.abs(maps.values[:3])) < 0.008
        # turned by the same steps as the grains, with their sign, up to the symmetry of the nets
        steps = (np.diff(maps.theta.ravel())[:3] - 10 + 15) % 30 - 15
        assert np.abs(steps).max() < 0.5


def test_the_lattice_of_a_tilt_is_that_without_distortion(scans):
    name, _, _, nominal, known = scans
    shortest = np.linalg.norm(zone(name), axis=1).min()
    given = {"calibration": found_calibration()}
    for vectors, settings, worst in ((nominal, {}, (0.01, 0.1)), (known, {}, (0, 0.006)), (nominal, given, (0, 0.006))):
        found = vectors.inav[:1, :1].tilt_map(show_progressbar=False, **settings)
        lengths = np.linalg.norm(found.lattice.reshape(2, 2), axis=1)
        assert worst[0] <= np.abs(lengths / shortest - 1).max() <= worst[1]


def test_vectors_in_files_and_in_parts_say_that_it_is_undone(scans, tmp_path):
    _, signal, _, _, known = scans
    known.save(tmp_path / "vectors.hspy")
    signal = calibrated(signal)
    signal.match_disks(show_progressbar=False, device="cpu", output=tmp_path / "vectors.zarr")
    lazy = signal.as_lazy().match_disks(show_progressbar=False, device="cpu", lazy_output=True)
    for back in (hs.load(tmp_path / "vectors.hspy"), pyxem_dl.open_result(tmp_path / "vectors.zarr"), lazy):
        if back._lazy:
            back.compute(show_progressbar=False)
        assert back.data[1, 2] == pytest.approx(known.data[1, 2], abs=1e-6)
        with pytest.raises(ValueError, match="undone in these vectors already"):
            pyxem_dl.calibrated_vectors(back.inav[:1], TRUE)


def test_from_the_first_pixel_they_are_places_on_the_detector(scans):
    _, signal, _, _, _ = scans
    raw, corrected = (
        s.inav[:1, :1].match_disks(show_progressbar=False, device="cpu", subtract_center=False)
        for s in (signal, calibrated(signal))
    )
    assert corrected.data[0, 0][:, :2] == pytest.approx(raw.data[0, 0][:, :2] / SCALE, abs=1e-6)
    assert corrected.metadata.get_item(UNDONE_DISTORTION, None) is None


def test_pyxems_own_vectors_of_a_calibrated_scan(scans):
    name, signal, _, _, known = scans
    found = calibrated(signal).get_diffraction_vectors(min_distance=4, threshold_abs=20.0, show_progressbar=False)
    assert found.metadata.get_item(STORED_DISTORTION) is not None  # they carry it, and leave it in
    absolute = {"reference": (phase(name), (0, 0, 1)), "show_progressbar": False, "max_rotation": 40.0}
    maps = found.strain_map(**absolute)
    # whole pixels of 0.025 Å⁻¹
    assert np.abs(np.nanmedian(maps.values[:3], axis=(1, 2))).max() < 0.01
    refined = maps.refine(found)
    assert np.abs(np.nanmedian(refined.strain_map(**absolute).values[:3], axis=(1, 2))).max() < 0.01
    from pyxem_dl.results.vector_scan import VectorScan
    from pyxem_dl.scans import Reading

    radii = [VectorScan(each, Reading(None, None, None, None)).reciprocal_radius for each in (refined, known)]
    assert max(radii) < 1.2  # the long axis reaches less far out


@pytest.mark.parametrize("units", [("1/nm", "1/nm"), ("mrad", "mrad"), ("1/Å", "1/nm")])
def test_units_do_not_matter_to_the_distortion(units):
    k = np.random.default_rng(0).normal(size=(2, 20))
    seen = ELLIPSE @ k
    found = vector_undistorted(*k_to_vector(*seen, units, 200.0), TRUE, units)
    assert np.stack(found) == pytest.approx(np.stack(k_to_vector(*k, units, 200.0)), abs=1e-6)


def test_a_signal_with_a_distortion_alone(scans):
    _, signal, places, _, _ = scans
    signal = signal.inav[:1, :1]
    matrix = SCALE * ELLIPSE
    signal.metadata.set_item(STORED_DISTORTION, [matrix[0, 0], matrix[0, 1], matrix[1, 1]])
    assert furthest(signal.match_disks(show_progressbar=False, device="cpu"), places[:1]) < 0.008


def test_the_command_takes_a_calibration(scans, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from pyxem_dl.commands import app

    name, _, _, nominal, _ = scans
    monkeypatch.chdir(tmp_path)
    nominal.save("vectors.hspy")
    with open("calibration.json", "w", encoding="utf-8") as file:
        json.dump(found_calibration().to_dict(), file)
    arguments = ["strain", "vectors.hspy", "--calibration", "calibration.json", "--output", "s.hspy", "--no-progress"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert read_calibration("calibration.json").scale == pytest.approx(TRUE.scale)
    basis = np.linalg.norm(pyxem_dl.Strain.load("s.hspy").basis, axis=-1)
    assert np.nanmin(basis) == pytest.approx(np.linalg.norm(zone(name), axis=1).min(), rel=0.01)
    for text in ("{}", "no json"):
        (tmp_path / "calibration.json").write_text(text, encoding="utf-8")
        done = CliRunner().invoke(app, [*arguments, "--overwrite"])
        assert done.exit_code == 1 and "holds no calibration" in " ".join(done.output.split())
    with pytest.raises(FileNotFoundError, match="There is no file"):
        read_calibration("none.json")
