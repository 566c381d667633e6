"""The open benchmark: what is loaded is what the recipe says; scores are those of the truth and of known mistakes."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from orix.crystal_map import CrystalMap, PhaseList
from orix.quaternion import Rotation
from orix.vector import Vector3d

pytest.importorskip("open_benchmark", reason="needs the benchmark, which lies beside the package, in benchmarks/")
from typer.testing import CliRunner

from open_benchmark import crystals, methods, patterns, recipe, results, scoring, zones
from open_benchmark.__main__ import app
from pyxem_dl.crystals import load_phases, near_ewald_sphere, reflections
from pyxem_dl.electrons import electron_wavelength
from pyxem_dl.frames import Calibration, k_to_pixel, other_crystal_quaternion
from pyxem_dl.models import PRETRAINED

CLI = CliRunner()


@pytest.fixture(scope="module")
def clean():
    return patterns.load("1e5")


def few(names=("Cu", "ZnO", "CaMgSi2O6"), n=4):
    """Some patterns as a file's content, with spots that no simulation has to make."""
    ids = [f"{name}-{number:03d}" for name in names for number in range(n)]
    row, column = np.indices((128, 128)) - 64.0
    images = [
        np.exp(-(row**2 + column**2) / 8) + 0.1 * np.exp(-((row + 20) ** 2 + (column - 30 - i) ** 2) / 8)
        for i in range(len(ids))
    ]
    roots = np.stack([np.rint(4095 * np.sqrt(image / image.max())) for image in images]).astype(np.uint16)
    truth = [recipe.draw(crystals.NAMES.index(each.rsplit("-", 1)[0]), int(each[-3:])) for each in ids]
    return {
        "ids": np.array(ids), "roots": roots, "steps": 4095, "largest": np.full(len(ids), 0.01, np.float32),
        "quaternions": np.array([each[0] for each in truth]), "thickness": np.array([each[1] for each in truth]),
        "scale": recipe.SCALE, "center": 64.0, "beam_energy": 300.0, "disk_radius": 0.061,
    }  # fmt: skip


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "few.npz"
    np.savez(path, **few())
    return path


def test_crystals_are_of_the_groups_that_they_are_said_to_be_of():
    atoms = {"Cu": 4, "Si": 8, "RuS2": 12, "ZnO": 4, "Fe2O3": 30, "SnO2": 6, "LiFePO4": 28, "CaMgSi2O6": 40}
    for crystal in crystals.CRYSTALS:
        phase = crystals.phase_of(crystal.name)
        assert len(phase.structure) == atoms[crystal.name]
        assert phase.point_group.laue.name == crystal.laue_group
    assert len({crystal.laue_group for crystal in crystals.CRYSTALS}) >= 6


def test_no_crystal_is_one_that_the_bundled_model_was_trained_on():
    trained = json.loads((PRETRAINED / "any-crystal" / "crystals.json").read_text(encoding="utf-8"))["structures"]
    formulas = {"".join(sorted(entry["formula"])) for entry in trained}
    assert not {"".join(sorted(name)) for name in crystals.NAMES} & formulas


def test_the_part_is_the_beginning_of_the_whole(clean):
    assert len(clean.ids) == len(set(clean.ids)) == recipe.PART * len(crystals.NAMES)
    for name in crystals.NAMES:
        part = clean.of(name)
        assert len(part.ids) == recipe.PART
        for i, identity in enumerate(part.ids):
            quaternion, thickness, _ = recipe.draw(crystals.NAMES.index(name), int(identity.rsplit("-", 1)[1]))
            np.testing.assert_allclose(part.quaternions[i], quaternion)
            assert part.thickness[i] == thickness
    assert patterns.PART.stat().st_size + zones.ZONES.stat().st_size < 10e6


def test_spots_lie_where_the_orientations_say(clean):
    for name in crystals.NAMES:
        part = clean.of(name)
        right, inverted = (
            share_at_reflections(part, q) for q in (part.quaternions, (~Rotation(part.quaternions)).data)
        )
        assert right > 0.5 and right > 3 * inverted, name


def share_at_reflections(part, quaternions):
    """Share of the scattered electrons of one crystal's patterns in the disks of reflections near the Ewald sphere."""
    table, wavelength = reflections(crystals.phase_of(part.crystals[0]), 1.5), electron_wavelength(part.beam_energy)
    calibration = Calibration((part.scale,) * 2, (part.center,) * 2, part.patterns.shape[1:], part.beam_energy)
    lab, _, near = near_ewald_sphere(table.g.double(), torch.as_tensor(quaternions), wavelength, 0.015)
    row, column = np.indices(calibration.shape)
    radius = part.disk_radius / part.scale
    scattered = np.hypot(row - part.center, column - part.center) > radius + 1.5
    inside = total = 0.0
    for pattern, g, here in zip(part.patterns, lab.numpy(), near.numpy()):
        covered = np.zeros(calibration.shape, dtype=bool)
        for r, c in zip(*k_to_pixel(g[here, 0], g[here, 1], calibration)):
            covered |= np.hypot(row - r, column - c) < radius + 1
        inside += pattern[covered & scattered].sum()
        total += pattern[scattered].sum()
    return inside / total


def test_doses_are_as_they_say(file):
    kept, clean = patterns.read(file)
    row, column = np.indices((128, 128)) - 64.0
    scattered = np.hypot(row, column) > 0.061 / recipe.SCALE + 1.5
    for name in ("1e5", "1e4", "1e3"):
        found = patterns.load(name, file)
        expected = patterns.condition_of(name).electrons
        counts = found.patterns[:, scattered].sum(axis=1)
        assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)
    assert clean.max() == pytest.approx(0.01) and len(kept["ids"]) == 12


def test_a_pattern_is_the_same_whatever_else_is_loaded(file, tmp_path):
    content = few()
    alone = {key: value[4:8] if np.shape(value)[:1] == (12,) else value for key, value in content.items()}
    np.savez(tmp_path / "alone.npz", **alone)
    for name in patterns.NAMES:
        together, some = patterns.load(name, file), patterns.load(name, tmp_path / "alone.npz")
        np.testing.assert_array_equal(together.of("ZnO").patterns, some.patterns)
        np.testing.assert_array_equal(together.of("ZnO").second, some.second)
    first, again, other = (patterns.load(name, file).patterns for name in ("1e4", "1e4", "1e3"))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_distortion_stretches_along_its_axis_and_moves_the_beam(file, monkeypatch):
    how = patterns.Condition("distorted", "", 1e7, ellipticity=0.1, axis=90.0)
    monkeypatch.setattr(patterns, "CONDITIONS", tuple(how if c.name == "distorted" else c for c in patterns.CONDITIONS))
    pattern = patterns.load("distorted", file).patterns[0]
    row, column = np.indices((128, 128))
    near = (row < 54) & (column > 80)
    found = [np.average(axis[near], weights=pattern[near]) for axis in (row, column)]
    # the axis is y: rows are 10 % farther from the middle, and columns 10 % nearer
    assert found == pytest.approx((64 - 22, 64 + 27), abs=0.1)
    direct = np.hypot(row - 64, column - 64) < 8
    assert np.average(row[direct], weights=pattern[direct]) == pytest.approx(64, abs=0.02)
    wandering = patterns.Condition("distorted", "", 1e7, wander=2.0)
    monkeypatch.setattr(
        patterns, "CONDITIONS", tuple(wandering if c.name == "distorted" else c for c in patterns.CONDITIONS)
    )
    places = [
        np.average(row[direct], weights=pattern[direct]) for pattern in patterns.load("distorted", file).patterns
    ]
    assert 0.5 < np.std(places) < 3


def test_background_and_overlap_add_what_they_say(file):
    background = patterns.load("background", file).patterns.sum(axis=(1, 2))
    added = background - patterns.load("1e4", file).patterns.sum(axis=(1, 2))
    assert (added > 0.9e4).all() and (added < 4.1e4).all() and np.ptp(added) > 5e3
    overlap = patterns.load("overlap", file)
    assert ((overlap.share >= 0.3) & (overlap.share <= 0.5)).all()
    for i, second in enumerate(overlap.second):
        same = np.flatnonzero((overlap.quaternions == second).all(axis=1))
        assert len(same) == 1 and same[0] != i and overlap.crystals[same[0]] == overlap.crystals[i]


def test_the_truth_scores_all_and_mistakes_are_told(clean):
    found = {text: (scoring.score(q, clean)["all"], scoring.told_convention(q, clean))
             for text, q in scoring.mistakes(clean.quaternions)}  # fmt: skip
    numbers, told = found["the truth"]
    assert set(numbers["strict"]["within"].values()) == {1.0} and numbers["strict"]["median"] < 1e-3 and told is None
    numbers, told = found["turned by 180° about the beam"]
    assert numbers["strict"]["within"]["0.3"] == 0 and numbers["modulo_180"]["within"]["0.3"] == 1 and told is None
    numbers, told = found["inverted (crystal to lab)"]
    assert numbers["modulo_180"]["within"]["5"] < 0.2 and "100 % inverted" in told
    _, told = found["with y down and z away from the source"]
    assert "100 % turned by 180° about the lab's x" in told


def test_the_crystals_other_axes_are_told(clean):
    part = clean.of("Fe2O3")
    other = Rotation(other_crystal_quaternion(crystals.phase_of("Fe2O3").structure.lattice))
    told = scoring.told_convention((~other * Rotation(part.quaternions)).data, part)
    assert "with the crystal's x along a* and its z along c" in told


def test_shares_are_counted_by_hand(file):
    truth = patterns.load("1e4", file).of("ZnO")
    turns = Rotation.from_axes_angles([1, 0.3, 0], [0.2, 0.9, 4.0, 20.0], degrees=True)
    answers = (turns * Rotation(truth.quaternions)).data
    found = scoring.score(answers, truth)["ZnO"]
    assert found["n"] == found["answered"] == 4
    assert found["strict"]["within"] == {"0.3": 0.25, "1": 0.5, "2": 0.5, "5": 0.75}
    assert found["strict"]["spread"]["1"] == 0.25 and found["strict"]["median"] == pytest.approx(2.45, abs=0.01)
    answers[1] = np.nan
    found = scoring.score(answers, truth)["all"]
    assert found["answered"] == 3 and found["modulo_180"]["within"]["1"] == 0.25
    assert found["modulo_180"]["median"] == pytest.approx(12.0, abs=0.01)
    candidates = np.stack([answers, truth.quaternions], axis=1)
    assert scoring.score(candidates, truth)["all"]["best"]["within"]["0.3"] == 1


def test_both_crystals_of_an_overlap_are_looked_for_among_the_candidates(file):
    truth = patterns.load("overlap", file)
    both = np.stack([truth.quaternions, truth.second], axis=1)
    assert scoring.score(both, truth)["all"]["both"]["within"]["0.3"] == 1
    one = np.stack([truth.quaternions, truth.quaternions], axis=1)
    assert scoring.score(one, truth)["all"]["both"]["within"]["0.3"] == 0


def test_answers_come_back_from_files(file, tmp_path):
    truth = patterns.load("1e4", file)
    candidates = np.stack([truth.quaternions, truth.quaternions[::-1]], axis=1)
    candidates[2, 1] = candidates[5] = np.nan
    scoring.write_answers(tmp_path / "a.csv", truth.ids, candidates)
    np.savez(tmp_path / "a.npz", ids=truth.ids[::-1], quaternions=candidates[::-1])
    for name in ("a.csv", "a.npz"):
        np.testing.assert_allclose(scoring.read_answers(tmp_path / name, truth.ids), candidates, atol=1e-8)
    # as a spreadsheet writes it, without ranks
    (tmp_path / "b.csv").write_bytes("\ufeffid,a,b,c,d\r\nZnO-001,0,1,0,0\r\n".encode())
    found = scoring.read_answers(tmp_path / "b.csv", truth.ids)
    assert found.shape == (12, 1, 4) and np.isfinite(found).all(axis=(1, 2)).sum() == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id;a;b;c;d\n", "must begin with the line id,a,b,c,d"),
        ("id,a,b,c,d\nAu-000,1,0,0,0\n", "not asked for, such as 'Au-000'"),
        ("id,a,b,c,d\nCu-000,1,0,0\n", "line 2, is not an id and numbers"),
        ("id,a,b,c,d\nCu-000,1,x,0,0\n", "line 2, is not an id and numbers"),
        ("id,a,b,c,d\nCu-000,90,45,0,0\n", "Cu-000 that is no unit quaternion"),
        ("id,a,b,c,d\nCu-000,0,0,0,0\n", "Cu-000 that is no unit quaternion"),
        ("id,a,b,c,d\nCu-000,1,0,0,0\nCu-000,0,1,0,0\n", "two answers for Cu-000"),
        ("id,rank,a,b,c,d\nCu-000,1000,1,0,0,0\n", "a rank is a number from 0 to 99"),
    ],
)
def test_bad_answers_are_refused_with_what_is_wrong(file, tmp_path, text, message):
    path = tmp_path / "a.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        scoring.read_answers(path, patterns.load("1e4", file).ids)
    answer = CLI.invoke(app, ["score", str(path), "--condition", "1e4", "--data", str(file)])
    assert answer.exit_code == 1 and "Error: a.csv" in answer.output


def test_bad_files_are_refused(file, tmp_path):
    ids = patterns.load("1e4", file).ids
    np.savez(tmp_path / "a.npz", ids=ids, quaternions=np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"quaternions \(n, 4\) or \(n, k, 4\)"):
        scoring.read_answers(tmp_path / "a.npz", ids)
    np.savez(tmp_path / "b.npz", quaternions=np.zeros((12, 4)))
    with pytest.raises(ValueError, match="must hold the arrays ids and quaternions"):
        scoring.read_answers(tmp_path / "b.npz", ids)
    for name, wrong in (("c", np.zeros((12, 4), complex)), ("d", np.full((12, 4), "a")), ("e", np.full((12, 4), {}))):
        np.savez(tmp_path / f"{name}.npz", ids=ids, quaternions=wrong)
        with pytest.raises(ValueError, match=f"{name}.npz: ids must be text, and quaternions real numbers"):
            scoring.read_answers(tmp_path / f"{name}.npz", ids)
    with pytest.raises(ValueError, match=r"must end in \.csv or \.npz"):
        scoring.read_answers(tmp_path / "a.ang", ids)
    with pytest.raises(ValueError, match="no file of the open benchmark"):
        patterns.load("1e4", tmp_path / "b.npz")
    with pytest.raises(ValueError, match="There is no condition '1e6': take one of 1e5"):
        patterns.load("1e6", file)
    lonely = {key: value[:1] if np.shape(value)[:1] == (12,) else value for key, value in few().items()}
    np.savez(tmp_path / "lonely.npz", **lonely)
    with pytest.raises(ValueError, match="no other pattern of its crystal"):
        patterns.load("overlap", tmp_path / "lonely.npz")


def test_a_stranger_exports_answers_and_is_scored(file, tmp_path):
    exported, answers, table = tmp_path / "e.npz", tmp_path / "a.csv", tmp_path / "results.json"
    assert CLI.invoke(app, ["export", "1e4", str(exported), "--data", str(file)]).exit_code == 0
    with np.load(exported, allow_pickle=False) as content:
        assert content["patterns"].shape == (12, 128, 128) and "quaternions" not in content
        ids = content["ids"]
    truth = patterns.load("1e4", file)
    scoring.write_answers(answers, ids, truth.quaternions)
    for name in ("mine", "mine", "another"):
        line = ["score", str(answers), "--condition", "1e4", "--data", str(file), "--name", name]
        line += ["--output", str(table)]
        answer = CLI.invoke(app, line)
        assert answer.exit_code == 0 and "12 of 12; modulo 180°: 100.0 ± 0.0 % within 0.3°" in answer.output
    rows = results.read(table)["scores"]
    assert [row["name"] for row in rows] == ["mine", "another"] and rows[0]["scores"]["ZnO"]["n"] == 4
    assert "| 10⁴ electrons | 12 | mine | 100.0 ± 0.0 %" in table.with_suffix(".md").read_text(encoding="utf-8")


def test_written_cifs_hold_the_crystals(tmp_path):
    assert CLI.invoke(app, ["cif", str(tmp_path)]).exit_code == 0
    for name in crystals.NAMES:
        read, own = load_phases(tmp_path / f"{name}.cif")[0], crystals.phase_of(name)
        assert len(read.structure) == len(own.structure) and read.space_group.number == own.space_group.number
        np.testing.assert_allclose(read.structure.lattice.base, own.structure.lattice.base, atol=1e-4)


def test_a_method_is_asked_for_each_crystal(file):
    truth = patterns.load("1e4", file)

    def method(signal, phase):
        n = len(signal.data)
        phase_id = np.where(np.arange(n) == 1, -1, 0)
        rotations = Rotation(truth.of(phase.name).quaternions)
        return CrystalMap(rotations=rotations, phase_id=phase_id, x=np.arange(n), phase_list=PhaseList([phase]))

    answers = methods.answers_of(method, truth)
    found = scoring.score(answers, truth)["all"]
    assert answers.shape == (12, methods.CANDIDATES, 4)
    assert found["answered"] == 9 and found["strict"]["within"]["0.3"] == 0.75


def test_an_interrupted_making_goes_on(tmp_path, monkeypatch):
    made = []

    def pattern(name, number):
        made.append(f"{name}-{number:03d}")
        if len(made) == 5:
            raise KeyboardInterrupt
        return np.full((128, 128), 1e-4, dtype=np.float32) * (1 + np.eye(128, dtype=np.float32))

    monkeypatch.setattr(recipe, "make_pattern", pattern)
    with pytest.raises(KeyboardInterrupt):
        recipe.make(tmp_path / "work", 2, report=str)
    recipe.make(tmp_path / "work", 2, report=str)
    assert made.count(made[4]) == 2 and len(made) == 17 and len(set(made)) == 16
    monkeypatch.setattr(recipe, "version", lambda program: "1")
    recipe.pack(tmp_path / "work", tmp_path / "packed.npz", 2)
    kept, images = patterns.read(tmp_path / "packed.npz")
    assert len(kept["ids"]) == 16 and images[0, 0, 0] == pytest.approx(2e-4) and kept["seed"] == recipe.SEED
    assert images[0, 0, 1] == pytest.approx(1e-4, rel=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("abtem") is None, reason="abTEM is not installed (extra multislice)")
def test_a_pattern_is_made_again_as_it_is_kept():
    kept, images = patterns.read()
    thinnest = int(np.argmin(kept["thickness"]))
    crystal, number = kept["ids"][thinnest].rsplit("-", 1)
    again = recipe.make_pattern(crystal, int(number))
    step = again.max() ** 0.5 / recipe.STEPS
    assert np.abs(np.sqrt(np.maximum(again, 0)) - np.sqrt(images[thinnest])).max() < 2 * step


def test_zone_axes_are_25_that_symmetry_does_not_make_the_same():
    axes = zones.axes()
    directions = {tuple(np.round(np.array(axis) / np.linalg.norm(axis), 6)) for axis in axes}
    assert len(directions) == len(axes) == 25 and (0, 0, 1) in axes and (3, 4, 4) in axes
    assert all(0 <= u <= v <= w for u, v, w in axes)


def test_kept_spots_are_reflections_of_their_crystals():
    with np.load(zones.ZONES, allow_pickle=False) as kept:
        ends = np.cumsum(kept["sizes"])
        assert len(kept["metals"]) == 75 and ends[-1] == len(kept["places"]) == len(kept["roots"])
        for i in (0, 4, 8):  # along [001], [011] and [111] other Laue zones are far away
            part = slice(ends[i] - kept["sizes"][i], ends[i])
            axis, rotation = kept["axes"][i], Rotation(kept["quaternions"][i])
            zone = (rotation * Vector3d.zvector()).data[0]
            np.testing.assert_allclose(zone, axis / np.linalg.norm(axis), atol=1e-6)
            intensity = (kept["roots"][part] / 65535.0) ** 2
            bright = intensity.mean(axis=1) > 5e-3
            k = np.concatenate([kept["places"][part], np.zeros((kept["sizes"][i], 1))], axis=1)
            hkl = (rotation * Vector3d(k)).data[bright] * zones.METALS[str(kept["metals"][i])][0]
            assert bright.sum() > 2
            np.testing.assert_allclose(hkl, np.round(hkl), atol=0.02)
            # of fcc crystals all indices are even or all are odd
            assert set((np.round(hkl).astype(int) % 2).sum(axis=1)) <= {0, 3}
            assert intensity.sum(axis=0).max() < 1.01


def test_patterns_along_zone_axes_are_counted_electrons():
    drawn, axes, ids = zones.load("Au", 1.0, every=25)
    assert drawn.shape == (50, 200, 200) and ids[0] == "Au-001-0500" and ids[-1] == "Au-025-1000"
    everything, truth = zones.truth(every=25)
    np.testing.assert_array_equal(everything[100:], ids)
    np.testing.assert_array_equal(truth[100:], axes)
    row, column = np.indices((200, 200)) - 100
    scattered = drawn[:, np.hypot(row, column) > 4].sum(axis=1)
    assert np.abs(scattered / zones.ELECTRONS - 1).max() < 0.05
    corners = np.hypot(row, column) > 104
    assert drawn[:, corners].sum() == 0


def test_errors_of_zone_axes_are_angles_over_the_symmetry_of_cubes():
    axis = np.array([0, 1, 3])
    z = axis / np.linalg.norm(axis)
    x = np.array([1.0, 0, 0])
    rotation = Rotation.from_matrix(np.stack([x, np.cross(z, x), z], axis=1)).data
    tilted = (Rotation(rotation) * Rotation.from_axes_angles([1, 0, 0], 2, degrees=True)).data
    turned = (Rotation(rotation) * Rotation.from_axes_angles([0, 0, 1], 77, degrees=True)).data
    other = (Rotation.from_axes_angles([1, 1, 1], 120, degrees=True) * Rotation(rotation)).data
    found = zones.axis_errors(np.concatenate([rotation, tilted, turned, other]), np.tile(axis, (4, 1)))
    np.testing.assert_allclose(found, [0, 2, 0, 0], atol=1e-4)


def test_a_stranger_is_scored_along_zone_axes(tmp_path):
    exported, answers, table = tmp_path / "e.npz", tmp_path / "a.csv", tmp_path / "results.json"
    assert CLI.invoke(app, ["export-zones", "1", str(exported), "--every", "50"]).exit_code == 0
    with np.load(exported, allow_pickle=False) as content:
        assert content["patterns"].shape == (75, 200, 200) and set(content["crystals"]) == {"Cu", "Ag", "Au"}
        ids = content["ids"]
    with np.load(zones.ZONES, allow_pickle=False) as kept:
        truth = np.concatenate([kept["quaternions"][kept["metals"] == metal] for metal in zones.METALS])
    truth[3] = np.nan
    scoring.write_answers(answers, ids, truth)
    line = ["score-zones", *[str(answers)] * 3, "--name", "mine", "--every", "50", "--output", str(table)]
    assert CLI.invoke(app, line).exit_code == 0
    (row,) = results.read(table)["zones"]
    # one of 75 is missing, and counts as 90 degrees
    assert row["n"] == 75 and row["errors"]["2"]["mean"] == 1.2 and row["errors"]["1"]["median"] < 1e-3
    assert "| mine | 75 | 1.20 ±" in table.with_suffix(".md").read_text(encoding="utf-8")
    assert CLI.invoke(app, line[:2] + line[4:]).exit_code == 2


def test_a_method_is_measured_along_zone_axes():
    def method(signal, phase):
        n = len(signal.data)
        rotations = Rotation(np.tile([1.0, 0, 0, 0], (n, 1)))
        phase_id = np.zeros(n, dtype=int)
        return CrystalMap(rotations=rotations, phase_id=phase_id, x=np.arange(n), phase_list=PhaseList([phase]))

    found = zones.measure(method, every=50)
    expected = zones.axis_errors(np.tile([1.0, 0, 0, 0], (25, 1)), zones.axes()).mean()
    assert found["n"] == 75 and found["errors"]["1"]["mean"] == pytest.approx(expected, abs=1e-3)
    row = {"name": "always [001]", **found}
    assert "| always [001] | 75 |" in results.markdown({"scores": [], "zones": [row]})



def test_rows_that_there_are_not_are_named(tmp_path):
    answer = CLI.invoke(app, ["run", str(tmp_path), "--method", "magic"])
    assert answer.exit_code == 2 and "no 'magic'" in answer.output and "any-crystal" in answer.output
    assert "any-crystal, refined" in methods.methods(refine=True) and "any-crystal, refined" not in methods.methods()
