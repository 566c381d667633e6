"""The benchmark: its data are what they say, its numbers are counted right, and results are kept between runs."""

import csv
import json

import numpy as np
import pytest
from fake_network import make_phase
from orix.crystal_map import CrystalMap, PhaseList
from orix.quaternion import Rotation

from pyxem_dl.crystals import reflections
from pyxem_dl.frames import Calibration, k_to_pixel
from pyxem_dl.metrics import explained_peaks
from pyxem_dl.models import PRETRAINED

pytest.importorskip("suite", reason="needs the benchmark, which lies beside the package, in benchmarks/suite")
from suite import accelerator, datasets, machine, measure, report, running  # noqa: E402

CALIBRATION = Calibration((1.5 / 64, 1.5 / 64), (64.0, 64.0), (128, 128), 200.0)


def truth_map(rotations, phase, not_indexed=()):
    phase_id = np.zeros(len(rotations), dtype=int)
    phase_id[list(not_indexed)] = -1
    n = len(rotations)
    return CrystalMap(rotations=Rotation(rotations), phase_id=phase_id, x=np.arange(n), phase_list=PhaseList([phase]))


def turned(rotations, angle):
    """Turn crystals about the beam, in degrees."""
    return (Rotation(rotations) * Rotation.from_axes_angles([0, 0, 1], angle, degrees=True)).data


def explained_by_truth(labelled, n):
    """Share of the first patterns' peaks that the true orientations explain, and the one by chance."""
    xmap = truth_map(labelled.rotations[:n], labelled.phase)
    found = explained_peaks(
        xmap, labelled.signal.inav[:n], [reflections(labelled.phase, 1.6)], max_excitation_error=0.08, spot_radius=2.0
    ).summary()
    return found["share"], found["chance"]


def test_drawn_spots_lie_where_they_are_asked_for(rng):
    kx, ky = np.array([0.6, -0.3]), np.array([0.4, 0.7])
    total = sum(
        datasets.draw_pattern(kx, ky, np.array([5.0, 5.0]), CALIBRATION, rng)[0] for _ in range(20)
    )
    row, column = np.indices(total.shape)
    for x, y in zip(kx, ky):
        r, c = k_to_pixel(x, y, CALIBRATION)
        near = np.hypot(row - r, column - c) < 4
        found = [np.average(axis[near], weights=total[near]) for axis in (row, column)]
        assert found == pytest.approx((r, c), abs=0.3)
    assert total[64, 64] == total.max()


def test_visible_spots_are_counted(rng):
    kx, ky = np.linspace(0.4, 1.2, 6), np.zeros(6)
    pattern, visible = datasets.draw_pattern(kx, ky, np.array([1, 1, 1, 1e-6, 1e-6, 1.0]), CALIBRATION, rng)
    assert visible == 4
    assert (pattern >= 0).all() and np.array_equal(pattern, np.round(pattern))


def test_kinematical_patterns_fit_their_orientations(shared_data):
    labelled = datasets.kinematical(shared_data, 6)
    assert labelled.signal.data.shape == (6, 128, 128)
    assert Calibration.from_signal(labelled.signal) == CALIBRATION
    share, chance = explained_by_truth(labelled, 6)
    assert share > 0.9 and chance < 0.1
    again = datasets.kinematical(shared_data, 6)
    assert np.array_equal(again.signal.data, labelled.signal.data)
    assert np.array_equal(again.rotations, labelled.rotations)


@pytest.mark.parametrize("name", ["Al", "LiNiO2"])
def test_multislice_patterns_have_the_dose_and_fit_their_orientations(shared_data, name):
    labelled = datasets.multislice(shared_data, name, 1e4)
    row, column = np.indices((128, 128))
    with np.load(shared_data / "multislice" / f"{name}_1.5mrad.npz") as file:
        outside = np.hypot(row - 64, column - 64) > file["disk_radius_px"] + 1.5
    counts = labelled.signal.data[:, outside].sum(axis=1)
    assert counts.mean() == pytest.approx(1e4, rel=0.01)
    assert np.std(counts) == pytest.approx(100, rel=0.3)  # Poisson
    share, chance = explained_by_truth(labelled, 20)
    assert share > 0.6 and chance < 0.1  # dynamical disks have structure, which makes peaks of its own
    assert labelled.name.endswith("10⁴ scattered electrons")


def test_accuracy_counts_what_is_not_indexed_as_wrong(rng):
    rotations = Rotation.random(8).data
    phase = make_phase("Ti", 2.95, 194, (("Ti", (1 / 3, 2 / 3, 0.25)),))
    found = turned(rotations, 3.0)
    found[4:] = turned(rotations[4:], 181)
    signal = datasets.make_signal(np.zeros((8, 128, 128)), CALIBRATION, "test")
    labelled = datasets.Labelled("test", "al", signal, rotations, phase)
    numbers = measure.labelled(lambda s: truth_map(found, phase, not_indexed=[0]), labelled)
    assert numbers["n"] == 8 and numbers["not_indexed"] == 0.125
    assert numbers["modulo_180"]["within_5"] == 7 / 8 and numbers["modulo_180"]["within_2"] == 0.5
    assert numbers["strict"]["within_5"] <= 4 / 8
    assert numbers["modulo_180"]["median"] == pytest.approx(1.0, abs=0.01)


def test_regions_lie_inside_the_scan_and_apart():
    shape = (105, 105)
    masks = [datasets.region(p, shape) for p in (datasets.CUBES | datasets.EMPTY).values()]
    assert all(mask.sum() >= 20 for mask in masks)
    assert np.sum(masks, axis=0).max() == 1
    assert datasets.region([(0, 0), (3, 0), (3, 2), (0, 2)], (5, 6)).nonzero()[1].max() <= 3


def make_scan_map(phase, seed=0):
    """Map of a 105 x 105 scan: [001] everywhere, noise in the vacuum and the carbon, of which half is not indexed."""
    rng = np.random.default_rng(seed)
    row, column = np.indices((105, 105)).reshape(2, -1)
    rotations = np.tile([1.0, 0, 0, 0], (105 * 105, 1))
    empty = np.any([datasets.region(p, (105, 105)) for p in datasets.EMPTY.values()], axis=0).ravel()
    rotations[empty] = rng.normal(size=(empty.sum(), 4))
    phase_id = np.where(empty & (row % 2 == 0), -1, 0)
    return CrystalMap(
        rotations=Rotation(rotations), phase_id=phase_id, x=column, y=row, phase_list=PhaseList([phase])
    )


def test_mgo_numbers_of_a_map_that_is_known():
    import dask.array as da

    phase = make_phase()
    calibration = Calibration((0.1, 0.1), (16.0, 16.0), (32, 32), 300.0)
    signal = datasets.make_signal(da.zeros((105, 105, 32, 32), chunks=(105, 105, 32, 32)), calibration, "test")
    peaks = [np.zeros((0, 3))] * 105**2
    spot = np.array([[*k_to_pixel(2 / 4.2, 0.0, calibration), 10.0], [*k_to_pixel(0.3, 0.2, calibration), 10.0]])
    peaks[90 * 105 + 20] = spot  # in the flat cube: one peak is (200), the other is none
    numbers, judged = measure.mgo(lambda s: make_scan_map(phase), signal, phase, peaks)
    assert numbers["explained"]["share_judged"] == numbers["explained"]["share_indexed"]
    elsewhere, _ = measure.mgo(lambda s: make_scan_map(phase), signal, phase, peaks, np.zeros_like(judged))
    assert elsewhere["explained"]["share_judged"] != numbers["explained"]["share_judged"]
    assert numbers["flat_001"] == 1
    assert all(cube["neighbour_disorientation"] == pytest.approx(0, abs=0.01) for cube in numbers["cubes"].values())
    assert numbers["empty_indexed"]["vacuum"] == pytest.approx(0.5, abs=0.05)
    assert numbers["explained"]["share"] == 0.5 and numbers["explained"]["peaks"] == 2


def test_speed_takes_fixed_costs_away(monkeypatch):
    import time

    clock = {"now": 0.0}
    monkeypatch.setattr(time, "perf_counter", lambda: clock["now"])
    signal = datasets.make_signal(np.zeros((3, 16, 16), dtype="f4"), CALIBRATION.replace(shape=(16, 16)), "test")
    labelled = datasets.Labelled("test", "al", signal, np.eye(4)[:3], make_phase())

    def predictor(scan):
        assert scan._lazy
        clock["now"] += 7 + scan.axes_manager.navigation_size / 50

    found = dict(measure.speed({"network x": predictor}, labelled))["network x"]
    assert found["patterns_per_second"] == pytest.approx(50)
    assert found["whole_call"] == pytest.approx(4096 / (7 + 4096 / 50), abs=0.1)


def test_results_are_kept_and_replaced(tmp_path):
    accuracy = {"within_5": 0.9, "within_2": 0.8, "median": 1.0}
    row = {"n": 10, "strict": accuracy, "modulo_180": accuracy, "not_indexed": 0.0, "patterns_per_second": 100.0}
    first = running.Results(tmp_path / "results.json", machine.context("cpu", 2) | {"date": "2026-01-01"})
    first.add("kinematical", "kinematical Al", "network a", row)
    first.add("kinematical", "kinematical Al", "templates, torch, 1°", row)
    second = running.Results(tmp_path / "results.json", machine.context("cpu", 2) | {"date": "2026-01-02"})
    second.add("kinematical", "kinematical Al", "network a", row | {"n": 20})
    rows = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["rows"]
    assert {(r["predictor"], r["run"], r["n"]) for r in rows} == {
        ("templates, torch, 1°", "2026-01-01", 10),
        ("network a", "2026-01-02", 20),
    }
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "| kinematical Al | network a | 20 | 90.0 % / 80.0 % | 1.00° |" in text
    assert "≥ 90 % / ≥ 78 %; strict ≥ 80 % (5°)" in text
    assert "| *kinematical Al* | *prototype* |" in text and "*quoted*" in text
    assert "- **a**: 2026-01-01" in text and "- **b**: 2026-01-02" in text


def test_speed_is_compared_within_one_run():
    def row(predictor, rate, run):
        return {"section": "speed", "data": "Al", "predictor": predictor, "run": run, "n": 9,
                "patterns_per_second": rate, "whole_call": rate}  # fmt: skip

    rows = [row("network a", 500.0, "x"), row("templates, pyxem, 1°", 20.0, "x"),
            row("pyxem's own calls, n_best=1, 1°", 25.0, "x"), row("network b", 900.0, "y")]  # fmt: skip
    run = machine.context("cpu", 1)
    text = report.markdown({"runs": {"x": run, "y": run}, "models": {}, "rows": rows})
    assert "| Al | network a | 9 | 500 | 500 | 20.0 | ≥ 10 | a |" in text
    assert "| Al | network b | 9 | 900 | 900 |  | ≥ 10 | b |" in text


def test_training_is_read_from_the_model():
    found = machine.training_of("mgo-300kv")
    log = (PRETRAINED / "mgo-300kv" / "training_log.csv").read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(log))
    last = {row.get("stage") or "propose": row for row in rows if row.get("patterns")}
    assert found["patterns"] == sum(float(row["patterns"]) for row in last.values())
    assert found["minutes"] == pytest.approx(sum(float(row["minutes"]) for row in last.values()), abs=1)
    assert found["precision"] in ("bf16-mixed", "32-true")
    assert "cpu" in found["hardware"] or "NVIDIA" in found["hardware"]


def test_a_whole_run_with_little_data(tmp_path, monkeypatch, shared_data):
    multislice = datasets.multislice

    def few(folder, name, dose):
        whole = multislice(folder, name, dose)
        return datasets.Labelled(whole.name, whole.material, whole.signal.inav[:4], whole.rotations[:4], whole.phase)

    monkeypatch.setattr(datasets, "multislice", few)
    monkeypatch.setattr(running, "match_templates", lambda s, phases, **_: truth_map(np.eye(4), phases))
    path = running.run(
        shared_data, tmp_path, sections=["multislice"], predictors=["torch"], models={}, device="cpu"
    )
    assert path.read_text(encoding="utf-8").count("| templates, torch, 1° |") == 4


def test_speed_and_answers_of_a_device(monkeypatch):
    monkeypatch.setattr(accelerator, "_SHAPES", {"orientations": ((2, 2), (3, 4)), "disks": ((2, 2), (3, 4))})
    polycrystal, multilayer = accelerator.sample_data.polycrystal, accelerator.sample_data.strained_multilayer
    monkeypatch.setattr(accelerator.sample_data, "polycrystal", lambda *_, **__: polycrystal((2, 2), n_grains=1))
    monkeypatch.setattr(accelerator.sample_data, "strained_multilayer", lambda *_: multilayer((2, 2)))
    q = Rotation.random(12).data

    def match(signal, phases, device, **_):
        n = np.prod(signal.axes_manager.navigation_shape[::-1], dtype=int)
        # another answer at one position
        return truth_map(turned(q[:n], 0.05 + 0.5 * (np.arange(n) == 1) * (device != "cpu")), phases)

    monkeypatch.setattr(accelerator, "match_templates", match)
    rows = [
        {"data": data, "predictor": label} | numbers
        for data, label, numbers in accelerator.measure({"linio2": [], "disks": []}, "cpu:0")
    ]
    assert [row["predictor"] for row in rows] == ["templates, torch, 1°", "correlation, torch"]
    assert rows[0]["same"] == 0.75 and rows[0]["n"] == 12 and rows[0]["compared"] == 4
    assert rows[1]["same"] == 1.0 and rows[1]["compared"] > 20 and rows[1]["patterns_per_second"] > 0
    assert "| 75.0 % | 4 | a |" in accelerator.table(rows, lambda _: "a")


def test_disks_elsewhere_are_other_disks():
    from pyxem.signals import DiffractionVectors

    def vectors(*places):
        data = np.empty(1, dtype=object)
        data[0] = np.array(places)
        return DiffractionVectors(data, ragged=True, scales=[0.02, 0.02])

    one = vectors([0.1, 0.2], [0.3, 0.0])
    assert accelerator._same_disks(one, one) == (1.0, 2)
    assert accelerator._same_disks(one, vectors([0.1, 0.2005], [0.3, 0.02])) == (0.5, 2)
    assert accelerator._same_disks(one, vectors([0.1, 0.2], [0.3, 0.0], [0.5, 0.5])) == (2 / 3, 3)


def test_without_a_gpu_its_rows_stay(tmp_path, capsys):
    running.run(tmp_path, tmp_path, sections=["gpu"], device="cpu")
    assert "There is no GPU here" in capsys.readouterr().out


def test_wrong_arguments(tmp_path, shared_data):
    with pytest.raises(FileNotFoundError, match="There is no folder .*nowhere"):
        running.run(tmp_path / "nowhere", tmp_path)
    with pytest.raises(FileNotFoundError, match="Al_1.5mrad.npz is missing"):
        running.run(tmp_path, tmp_path, sections=["multislice"])
    with pytest.raises(ValueError, match="Unknown section speeed; known: kinematical"):
        running.run(tmp_path, tmp_path, sections=["speeed"])


def test_its_command_line(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from suite.__main__ import app

    asked = {}

    def run(data, output, **settings):
        asked.update(settings)
        (tmp_path / "results.md").write_text("# Benchmark")
        return tmp_path / "results.md"

    monkeypatch.setattr("suite.__main__.run", run)
    done = CliRunner().invoke(app, ["--only", "mgo", "--only", "speed", "--model", "al=a", "--model", "al=b"])
    assert done.exit_code == 0 and "# Benchmark" in done.output
    assert asked["sections"] == ["mgo", "speed"] and asked["models"] == {"al": ["a", "b"]}
    for wrong in (["--only", "nonsense"], ["--model", "gold=x"], ["--model", "al="]):
        assert CliRunner().invoke(app, wrong).exit_code == 2
    monkeypatch.undo()
    done = CliRunner().invoke(app, ["--data", str(tmp_path / "nowhere"), "--output", str(tmp_path)])
    assert done.exit_code == 1 and "There is no folder" in done.stderr


def test_calibration_of_scores():
    found = measure.calibration_of_scores([0.1, 0.15, 0.95, 1.0], [False, True, True, True])
    assert found == [
        {"n": 2, "score": 0.125, "right": 0.5},
        {"n": 1, "score": 0.95, "right": 1.0},
        {"n": 1, "score": 1.0, "right": 1.0},
    ]


def test_the_distortion_of_the_scan_is_found_where_the_crystal_is_known(monkeypatch):
    from types import SimpleNamespace

    from pyxem_dl.frames import Calibration, k_to_pixel

    true = np.array([[1.05, 0.01], [0.01, 0.98]])
    spacing = 2 / 4.217
    turn = np.deg2rad(17.0)
    basis = spacing * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    indices = np.array([(h, k) for h in range(-4, 5) for k in range(-4, 5) if h or k])
    places = indices @ basis @ true
    calibration = Calibration((0.03246, 0.03246), (72.0, 72.0), (144, 144), 300.0)
    rows, columns = k_to_pixel(*places.T, calibration)
    peaks = np.column_stack([rows, columns, np.ones(len(rows))])
    monkeypatch.setattr(datasets.Calibration, "from_signal", lambda signal: calibration)
    monkeypatch.setattr(datasets, "find_peaks", lambda patterns, center: [peaks])
    signal = SimpleNamespace(data=np.zeros((105, 105, 2, 2)))
    phase = SimpleNamespace(structure=SimpleNamespace(lattice=SimpleNamespace(a=4.217)))
    np.testing.assert_allclose(datasets.mgo_distortion(signal, phase), true, atol=1e-6)
    back = measure._undistorted([peaks], calibration, true)[0]
    expected = np.column_stack(k_to_pixel(*(indices @ basis).T, calibration))
    np.testing.assert_allclose(back[:, :2], expected, atol=1e-6)
