"""How good orientations are: counted by hand, of maps whose errors are known."""

import json

import numpy as np
import pytest
from fake_network import make_model, make_phase
from orix.crystal_map import CrystalMap, Phase, PhaseList
from orix.quaternion import Rotation

import pyxem_dl
from pyxem_dl import evaluation
from pyxem_dl.crystals import load_phases
from pyxem_dl.frames import Calibration, k_to_pixel
from pyxem_dl.results.map_files import save_map
from pyxem_dl.results.spots import predict_spots
from pyxem_dl.scans import make_signal

CALIBRATION = Calibration((0.03, 0.03), (36.0, 36.0), (72, 72), 200.0)
SHAPE = (4, 5)
N = 20


def make_map(rotations, phases=None, phase_id=None, in_data=None, shape=SHAPE):
    row, column = np.indices(shape).reshape(2, -1)
    phases = [make_phase()] if phases is None else phases
    phase_id = np.zeros(len(rotations), int) if phase_id is None else phase_id
    return CrystalMap(
        rotations=Rotation(rotations), phase_id=phase_id, x=column, y=row, is_in_data=in_data,
        phase_list=PhaseList(phases=[p.deepcopy() for p in phases], ids=list(range(len(phases)))),
    )  # fmt: skip


def turned(rotations, degrees):
    """Turn crystals about an axis across the beam."""
    return (Rotation.from_axes_angles([1, 0, 0], degrees, degrees=True) * Rotation(rotations)).data


@pytest.fixture
def known():
    """Random orientations of 20 positions."""
    return Rotation(np.random.default_rng(5).normal(size=(N, 4))).unit.data


@pytest.fixture
def answers(known):
    """Eight right, four 3 degrees off, four 30 degrees off, two turned by 180 about the beam, two not indexed."""
    found = known.copy()
    found[8:12] = turned(known[8:12], 3)
    found[12:16] = turned(known[12:16], 30)
    found[16:18] = (Rotation(known[16:18]) * Rotation.from_axes_angles([0, 0, 1], np.pi)).data
    phase_id = np.zeros(N, int)
    phase_id[18:] = -1
    return make_map(found, phase_id=phase_id)


def test_shares_are_counted_and_have_their_spread(known, answers):
    result = pyxem_dl.evaluate(answers, truth=make_map(known))
    row = result.rows["map"]
    assert row["n"] == N
    assert row["modulo_180"]["within_5"] == pytest.approx(14 / 20)
    assert row["modulo_180"]["within_2"] == pytest.approx(10 / 20)
    assert row["strict"]["within_5"] == pytest.approx(12 / 20)
    assert row["strict"]["within_2"] == pytest.approx(8 / 20)
    assert row["modulo_180"]["within_5_deviation"] == pytest.approx(np.sqrt(0.7 * 0.3 / 20))
    assert row["not_indexed"] == pytest.approx(0.1) and row["wrong_phase"] == 0
    # ten of 0 degrees, four of 3, four of 30: the middle of 18 is 0
    assert row["modulo_180"]["median"] == pytest.approx(0, abs=1e-3)
    assert row["strict"]["median"] == pytest.approx(3, abs=0.01)
    assert "| 70.0 ± 10.2 %" in str(result) and "| 3.00°" in str(result) and "10.0 ± 6.7 %" in str(result)
    assert "patterns_per_second" not in row and "wrong phase" not in str(result).splitlines()[0]


def test_only_common_positions_count(known, answers):
    truth = make_map(known, phase_id=np.where(np.arange(N) < 2, -1, 0), in_data=np.arange(N) != 2)
    cropped = make_map(known, in_data=np.arange(N) != 19)
    rows = pyxem_dl.evaluate(answers, maps={"other": cropped}, truth=truth).rows
    assert rows["map"]["n"] == rows["other"]["n"] == 16
    assert rows["other"]["strict"]["within_2"] == 1
    # of 20: two not in the truth, one not in its data, one not in the other map's
    assert rows["map"]["modulo_180"]["within_5"] == pytest.approx(11 / 16)


def test_phases_are_the_same_by_name_and_a_wrong_one_is_wrong(known):
    mgo, ti = make_phase(), make_phase("Ti", 2.95, 194, (("Ti", (1 / 3, 2 / 3, 0.25)),))
    truth = make_map(known, [mgo, ti], np.arange(N) % 2)
    swapped = make_map(known, [ti, mgo], 1 - np.arange(N) % 2)
    assert pyxem_dl.evaluate(swapped, truth=truth).rows["map"]["strict"]["within_2"] == 1
    wrong = make_map(known, [mgo, ti], np.zeros(N, int))
    wrong.phases.add(ti)
    result = pyxem_dl.evaluate(wrong, truth=truth)
    assert "| 50.0 ± 11.2 %" in str(result) and "wrong phase" in str(result)
    row = result.rows["map"]
    assert row["strict"]["within_2"] == row["wrong_phase"] == 0.5 and row["not_indexed"] == 0
    with pytest.warns(UserWarning, match="'map' does not know the phase 'Ti' of the truth: its 10 positions"):
        pyxem_dl.evaluate(make_map(known), truth=truth)
    # two only phases are the same crystal under any name
    renamed = mgo.deepcopy()
    renamed.name = "periclase"
    assert pyxem_dl.evaluate(make_map(known, [renamed]), truth=make_map(known)).rows["map"]["n"] == N


def test_what_cannot_be_compared_is_an_error(known, answers):
    ti = make_phase("Ti", 2.95, 194, (("Ti", (1 / 3, 2 / 3, 0.25)),))
    other = make_phase("Cu", 3.6, 225, (("Cu", (0, 0, 0)),))
    truth = make_map(known)
    signal = make_signal(np.ones((4, 5, 72, 72)), CALIBRATION, "flat")
    with pytest.raises(ValueError, match=r"The truth has the shape \(2, 10\), but the scan has \(4, 5\)"):
        pyxem_dl.evaluate(signal, maps=answers, truth=make_map(known, shape=(2, 10)))
    with pytest.raises(ValueError, match=r"'map' has the shape \(2, 10\), but the truth has \(4, 5\)"):
        pyxem_dl.evaluate(make_map(known, shape=(2, 10)), truth=truth)
    with pytest.raises(ValueError, match="phases 'MgO', but 'map' has 'Cu', 'Ti': they have none in common"):
        pyxem_dl.evaluate(make_map(known, [other, ti], np.arange(N) % 2), truth=truth)
    with pytest.raises(ValueError, match="Laue group m-3m, but 'Ti' of 'map' has 6/mmm: these are two crystals"):
        pyxem_dl.evaluate(make_map(known, [ti]), truth=truth)
    with pytest.raises(ValueError, match="Neither the truth nor 'map' tells the point group of 'a'"):
        pyxem_dl.evaluate(make_map(known, [Phase("a")]), truth=make_map(known, [Phase("a")]))
    with pytest.raises(ValueError, match="No position is in the data of all maps, with an orientation in the truth"):
        pyxem_dl.evaluate(make_map(known, in_data=np.arange(N) < 3), truth=make_map(known, in_data=np.arange(N) > 3))
    for arguments in ({}, {"maps": {}}):
        with pytest.raises(ValueError, match="There is nothing to evaluate"):
            pyxem_dl.evaluate(signal, truth=truth, **arguments)
    with pytest.raises(ValueError, match="Without a scan only maps can be compared"):
        pyxem_dl.evaluate(answers, "al-200kv", truth=truth)
    with pytest.raises(ValueError, match="Without a scan only maps can be compared"):
        pyxem_dl.evaluate(answers)
    with pytest.raises(TypeError, match="does not predict orientations"):
        pyxem_dl.evaluate(signal, "bragg-disks", truth=truth)
    with pytest.raises(TypeError, match="must be an orix CrystalMap or the path"):
        pyxem_dl.evaluate(signal, maps=5, truth=truth)


def test_a_phase_that_a_model_cannot_know_is_an_error_before_the_work(known, monkeypatch):
    monkeypatch.setattr(evaluation, "predict_orientation", lambda *_, **__: pytest.fail("it has begun"))
    signal = make_signal(np.random.default_rng(0).poisson(2, (4, 5, 72, 72)), CALIBRATION, "noise")
    truth = make_map(known, [make_phase("Cu", 3.6), make_phase("Au", 4.1)], np.arange(N) % 2)
    with pytest.raises(ValueError, match="none in common"):
        pyxem_dl.evaluate(signal, make_model(), truth=truth)


@pytest.fixture(scope="module")
def drawn():
    """A scan of MgO with one pixel for each reflection, and its orientations."""
    rotations = Rotation(np.random.default_rng(7).normal(size=(N, 4))).unit.data
    (phase,) = load_phases(make_phase("large", 9.0))
    spots = predict_spots(rotations, np.zeros(N, int), {0: phase}, 200.0, 1.0, max_excitation_error=0.02)
    patterns = np.random.default_rng(1).poisson(1.0, (N, 72, 72)).astype(float)
    row, column = (np.rint(x).astype(int) for x in k_to_pixel(*spots.xyz[:, :2].T, CALIBRATION))
    yy, xx = np.indices((72, 72))
    strength = spots.squared_structure_factor * np.exp(-((spots.excitation_error / 0.015) ** 2))
    for i, r, c, height in zip(spots.owner, row, column, 30 + 400 * strength / strength.max(), strict=True):
        patterns[i] += height * np.exp(-((yy - r) ** 2 + (xx - c) ** 2) / 2)
    patterns += 500 * np.exp(-((yy - 36) ** 2 + (xx - 36) ** 2) / 4)
    return make_signal(np.rint(patterns).reshape(*SHAPE, 72, 72), CALIBRATION, "drawn"), rotations, [phase]


def test_without_truth_peaks_are_explained(drawn):
    signal, rotations, phases = drawn
    random = Rotation(np.random.default_rng(8).normal(size=(N, 4))).unit.data
    half = make_map(rotations, phases, np.where(np.arange(N) < 10, 0, -1))
    maps = {"right": make_map(rotations, phases), "random": make_map(random, phases), "half": half}
    result = pyxem_dl.evaluate(signal, maps=maps)
    right, chance, half = result.rows.values()
    assert right["explained"] > 0.95 and right["indexed"] == 1 and right["peaks"] > 100
    assert right["by_chance"] < 0.3 and chance["explained"] < 0.4
    assert half["indexed"] == 0.5 and half["explained_where_indexed"] > 0.95
    assert 0.3 < half["explained"] < 0.7 and half["explained_deviation"] > right["explained_deviation"]
    assert "explained where indexed" in str(result)
    # lazy, in chunks, with the beam found in each pattern: the same peaks
    again = pyxem_dl.evaluate(signal.as_lazy(), maps=maps["right"], center="auto").rows["map"]
    assert again["explained"] == pytest.approx(right["explained"], abs=0.05)
    masked = pyxem_dl.evaluate(signal, maps=maps["half"], navigation_mask=np.arange(N).reshape(SHAPE) >= 10)
    assert masked.rows["map"]["n"] == 10 and masked.rows["map"]["explained"] == half["explained_where_indexed"]


def test_a_sample_of_the_patterns_is_enough(drawn, monkeypatch):
    signal, rotations, phases = drawn
    whole = pyxem_dl.evaluate(signal, maps=make_map(rotations, phases)).rows["map"]
    monkeypatch.setattr(evaluation, "_MOST_PATTERNS", 5)
    some = pyxem_dl.evaluate(signal, maps=make_map(rotations, phases)).rows["map"]
    assert some["n"] == whole["n"] == N and 0 < some["peaks"] < whole["peaks"] / 2
    assert some["explained"] == pytest.approx(whole["explained"], abs=0.1)


def test_models_and_templates_are_measured(drawn, tmp_path):
    signal, rotations, phases = drawn
    truth = save_map(tmp_path / "truth.h5", make_map(rotations, phases))
    result = pyxem_dl.evaluate(
        signal, [make_model(name="fake"), make_model(name="fake")], phases=phases, truth=truth,
        device="cpu", show_progressbar=False,
    )  # fmt: skip
    assert list(result.rows) == ["fake", "fake (2)", "templates"]
    assert result.rows["fake"]["strict"] == result.rows["fake (2)"]["strict"]
    assert result.rows["templates"]["modulo_180"]["within_5"] > 0.7
    assert all(row["patterns_per_second"] > 0 for row in result.rows.values())
    model = make_model(name="fake")
    pyxem_dl.predict_orientation(signal, model, output=tmp_path / "map.zarr", device="cpu", show_progressbar=False)
    again = pyxem_dl.evaluate(signal, maps=tmp_path / "map.zarr", truth=truth).rows["map.zarr"]
    assert again["modulo_180"] == result.rows["fake"]["modulo_180"]
    saved = json.loads(result.save(tmp_path / "a.json").read_text(encoding="utf-8"))
    assert saved["rows"] == result.rows and saved["with_truth"]
    assert result.save(tmp_path / "a.md").read_text(encoding="utf-8").startswith("| method ")
    with pytest.raises(FileExistsError):
        result.save(tmp_path / "a.md")
    with pytest.raises(ValueError, match=r"saved as \.json or \.md, not as 'a.txt'"):
        result.save(tmp_path / "a.txt")
