"""Maps that their neighbours settle: half turns and outliers are mended, and what is there stays."""

import math

import numpy as np
import pytest
from orix.crystal_map import CrystalMap, Phase, PhaseList
from orix.quaternion import Rotation

import pyxem_dl
from pyxem_dl.metrics import disorientation
from pyxem_dl.microstructure import Change
from pyxem_dl.results import to_crystal_map
from pyxem_dl.scans import Scan

CUBIC = Phase("cubic", space_group=225)
TRIGONAL = Phase("trigonal", space_group=166)
HALF = Rotation.from_axes_angles([0, 0, 1], math.pi)


def map_of(rotations, phase_id=None, phases=(TRIGONAL,), **prop):
    """Map of orientations on a grid, (rows, columns, 4) or with several candidates (rows, columns, n, 4)."""
    data = np.asarray(rotations.data if hasattr(rotations, "data") else rotations)
    rows, columns = data.shape[:2]
    y, x = (c.ravel().astype(float) for c in np.indices((rows, columns)))
    phase_id = np.zeros(rows * columns, int) if phase_id is None else np.ravel(phase_id)
    return CrystalMap(
        Rotation(data.reshape(rows * columns, *data.shape[2:])), phase_id, x, y, PhaseList(list(phases)),
        {name: np.reshape(values, (rows * columns, *np.shape(values)[2:])) for name, values in prop.items()},
        scan_unit="nm",
    )  # fmt: skip


def two_grains(shape=(14, 18), seed=0):
    """Two bent grains with a slanted boundary: orientations (rows, columns, 4), and which is where."""
    rng = np.random.default_rng(seed)
    first, second = Rotation(rng.normal(size=(2, 4)))
    row, column = np.indices(shape)
    left = column + 0.4 * row < shape[1] / 2 + 2
    bend = Rotation.from_axes_angles([[1, 0, 0]], np.deg2rad(0.15 * column.ravel() + 0.1 * row.ravel()))
    data = np.where(left.reshape(-1, 1), (first * bend).data, (second * bend).data)
    return data.reshape(*shape, 4), left


def turned(data, where):
    """The orientations, with some turned by 180° about the beam."""
    q = (Rotation(data.reshape(-1, 4)) * HALF).data.reshape(data.shape)
    return np.where(np.asarray(where)[..., None], q, data)


def wrong(xmap, truth, phase=TRIGONAL):
    """Which positions are off by more than a degree, or not indexed."""
    angle = disorientation(xmap.rotations.data.reshape(xmap.size, -1, 4)[:, 0], truth.reshape(-1, 4), phase)
    return (angle > 1) | (xmap.phase_id < 0)


@pytest.mark.parametrize("phase", [TRIGONAL, CUBIC], ids=["trigonal", "cubic"])
def test_a_map_that_is_right_stays_as_it_is(phase):
    truth, _ = two_grains()
    xmap = map_of(truth, phases=(phase,))
    settled = pyxem_dl.settle(xmap)
    assert settled is not xmap and (settled.prop["settled"] == Change.none).all()
    np.testing.assert_array_equal(settled.rotations.data, xmap.rotations.data)
    assert "settled" not in xmap.prop


@pytest.mark.parametrize("phase", [TRIGONAL, CUBIC], ids=["trigonal", "cubic"])
def test_half_turns_are_turned_back_without_scores(phase, capsys):
    truth, _ = two_grains()
    flipped = np.random.default_rng(1).random(truth.shape[:2]) < 0.08
    xmap = map_of(turned(truth, flipped), phases=(phase,))
    settled = pyxem_dl.settle(xmap)
    assert wrong(xmap, truth, phase).sum() > 8
    assert wrong(settled, truth, phase).mean() < 0.005
    change = settled.prop["settled"]
    assert set(change) == {Change.none, Change.twin}
    assert f"{(change > 0).sum()} of {xmap.size} positions changed" in capsys.readouterr().out
    assert pyxem_dl.provenance(settled)["verb"] == "settle"


def test_probabilities_decide_where_most_positions_are_turned():
    truth, _ = two_grains()
    rng = np.random.default_rng(2)
    flipped = rng.random(truth.shape[:2]) < 0.6
    first = np.where(flipped, 0.52, 0.95)
    candidates = np.stack([turned(truth, flipped), turned(truth, ~flipped)], axis=2)
    xmap = map_of(candidates, scores=np.stack([first, 0.98 - first], axis=2))
    settled = pyxem_dl.settle(xmap)
    assert wrong(xmap, truth).mean() > 0.5
    assert wrong(settled, truth).mean() < 0.01
    # the candidates have changed places, and their scores with them
    change = np.flatnonzero(settled.prop["settled"])
    np.testing.assert_allclose(settled.rotations.data[change, 0], xmap.rotations.data[change, 1])
    np.testing.assert_allclose(settled.prop["scores"][change, 0], xmap.prop["scores"][change, 1])


def test_another_candidate_is_taken_where_a_position_stands_alone():
    truth, _ = two_grains()
    candidates = np.stack([truth, turned(truth, np.ones(truth.shape[:2], bool))], axis=2)
    other = Rotation(np.random.default_rng(5).normal(size=4)).data
    places = [(3, 3), (8, 12), (0, 0)]
    for place in places:
        candidates[place] = np.stack([other[0], truth[place]])
    scores = np.zeros((*truth.shape[:2], 2)) + [0.8, 0.1]
    settled = pyxem_dl.settle(map_of(candidates, scores=scores))
    change = settled.prop["settled"].reshape(truth.shape[:2])
    assert not wrong(settled, truth).any()
    assert {tuple(p) for p in np.argwhere(change == Change.candidate)} == set(places)


def test_single_wrong_positions_are_voided_and_small_grains_stay():
    truth, _ = two_grains()
    data = truth.copy()
    q = Rotation(np.random.default_rng(7).normal(size=(3, 4))).data
    data[4, 3], data[9, 2:4], data[5:7, 14:16] = q
    settled = pyxem_dl.settle(map_of(data))
    change = settled.prop["settled"].reshape(truth.shape[:2])
    assert change[4, 3] == Change.voided and (change > 0).sum() == 1
    assert settled.phase_id.reshape(change.shape)[4, 3] == -1


def test_a_single_position_that_is_certain_stays():
    truth, _ = two_grains()
    data = truth.copy()
    data[4, 3], data[10, 14] = Rotation(np.random.default_rng(8).normal(size=(2, 4))).data
    scores = np.full(truth.shape[:2], 0.9)
    scores[10, 14] = 0.1
    settled = pyxem_dl.settle(map_of(data, scores=scores))
    change = settled.prop["settled"].reshape(scores.shape)
    assert change[4, 3] == Change.none and change[10, 14] == Change.voided


def test_low_angle_boundaries_and_gradients_stay():
    shape = (10, 24)
    _, column = np.indices(shape)
    tilt = 0.8 * column + 6.5 * (column >= 12)  # a gradient over 19 degrees, and a step
    data = Rotation.from_axes_angles([[1, 0, 0]], np.deg2rad(tilt.ravel())).data.reshape(*shape, 4)
    settled = pyxem_dl.settle(map_of(data, phases=(CUBIC,)))
    assert not settled.prop["settled"].any()


def test_twins_of_cubic_crystals_stay_where_they_are_wide():
    """Σ3 seen along [111]: the twin is the crystal turned by 180° about the beam, and no pattern of spots tells."""
    along = Rotation.from_axes_angles([1, -1, 0], -math.acos(1 / math.sqrt(3)))
    shape = (12, 30)
    _, column = np.indices(shape)
    data = np.tile(along.data.reshape(1, 1, 4), (*shape, 1))
    lamella = (column >= 10) & (column < 16)
    xmap = map_of(turned(data, lamella), phases=(CUBIC,))
    assert pyxem_dl.grains(xmap).boundaries.half_turn.all() and pyxem_dl.grains(xmap).boundaries.sigma_3.all()
    assert not pyxem_dl.settle(xmap).prop["settled"].any()
    # a general twin is no half turn about the beam: even one row of it stays
    tilted = Rotation(np.random.default_rng(3).normal(size=4))
    twin = Rotation.from_axes_angles([1, 1, 1], math.pi / 3) * tilted
    data = np.where((column == 14)[..., None], twin.data, tilted.data)
    assert not pyxem_dl.settle(map_of(data, phases=(CUBIC,))).prop["settled"].any()


def test_lines_masks_and_several_phases():
    truth, left = two_grains()
    flipped = np.zeros(left.shape, bool)
    flipped[5, 3] = flipped[2, 15] = True
    data = turned(truth, flipped)
    line = pyxem_dl.settle(map_of(turned(truth, flipped)[5:6]))
    assert line.prop["settled"][3] == Change.twin and line.prop["settled"].sum() == 1

    both = map_of(data, np.where(left, 0, 1), (TRIGONAL, CUBIC))
    both.is_in_data = ~((np.indices(left.shape)[1] == 9).ravel())
    settled = pyxem_dl.settle(both)
    assert settled.size == both.size and settled.is_in_data.sum() == both.is_in_data.sum()
    there = flipped.ravel()[both.is_in_data]
    np.testing.assert_array_equal(settled.prop["settled"] == Change.twin, there)
    assert settled._prop["settled"].shape == (both.size,)
    np.testing.assert_array_equal(settled.phase_id, both.phase_id)


def test_tiles_give_what_the_whole_map_gives(monkeypatch):
    from pyxem_dl.microstructure import beliefs

    truth, _ = two_grains((24, 30))
    xmap = map_of(turned(truth, np.random.default_rng(4).random((24, 30)) < 0.05))
    whole = pyxem_dl.settle(xmap)
    monkeypatch.setattr(beliefs, "_TILE", 10)
    monkeypatch.setattr(beliefs, "_HALO", 8)
    np.testing.assert_array_equal(pyxem_dl.settle(xmap).prop["settled"], whole.prop["settled"])


def test_what_cannot_be_settled():
    with pytest.raises(TypeError, match="orix CrystalMap"):
        pyxem_dl.settle(np.zeros((3, 4)))
    truth, _ = two_grains((2, 3))
    with pytest.raises(ValueError, match="threshold must be"):
        pyxem_dl.settle(map_of(truth), threshold=0)
    for nothing in (map_of(truth[:1, :1]), map_of(truth, np.full((2, 3), -1))):
        with pytest.warns(UserWarning, match="nothing to settle"):
            settled = pyxem_dl.settle(nothing)
        assert not settled.prop["settled"].any()


# ---------------------------------------------------------------- with patterns
@pytest.fixture(scope="module")
def scan():
    """A small polycrystal, and what the network says of it."""
    scan = pyxem_dl.data.polycrystal((12, 16), 2e4, n_grains=3, pixels=96, seed=3)
    phase = next(phase for key, phase in scan.truth.phases if key >= 0)
    xmap = pyxem_dl.predict_orientation(
        scan.signal, phases=phase, n_best=4, device="cpu", show_progressbar=False
    )
    return scan.signal, xmap, scan.truth


def right(xmap, truth):
    """Share of positions that are right within 5°, without regard of half turns."""
    return np.mean(disorientation(xmap, truth)[truth.phase_id >= 0] < 5)


def test_patterns_settle_more(scan):
    signal, xmap, truth = scan
    settled = pyxem_dl.settle(xmap, signal, device="cpu", show_progressbar=False)
    print(f"right: {right(xmap, truth):.3f}, settled: {right(settled, truth):.3f}")
    assert right(settled, truth) >= right(xmap, truth)
    bare = truth.phase_id < 0
    assert (settled.phase_id[bare] == xmap.phase_id[bare]).all()
    assert pyxem_dl.provenance(settled)["model"][0]["name"] == "any-crystal"


def test_patterns_decide_on_wrong_orientations_that_are_coherent(scan):
    """A patch of one wrong orientation is mended; the same without patterns is a grain, and stays."""
    signal, _, truth = scan
    data = truth.rotations.data.reshape(12, 16, 4).copy()
    patch = np.zeros((12, 16), bool)
    patch[4:7, 5:8] = True
    data[patch] = Rotation(np.random.default_rng(0).normal(size=4)).data
    phase = next(phase for key, phase in truth.phases if key >= 0)
    positions = Scan.from_signal(signal, inspect=False)
    xmap = to_crystal_map(positions, data.reshape(-1, 1, 4), np.zeros((192, 1), int), np.ones((192, 1)), [phase],
                          indexed=truth.phase_id >= 0)  # fmt: skip
    assert not pyxem_dl.settle(xmap).prop["settled"].any()
    settled = pyxem_dl.settle(xmap, signal, device="cpu", show_progressbar=False)
    angle = disorientation(settled, truth).reshape(12, 16)
    assert (angle[patch] < 5).mean() > 0.8
    assert (settled.prop["settled"].reshape(12, 16)[patch] == Change.neighbour).mean() > 0.8


def test_signals_that_do_not_fit(scan):
    signal, xmap, _ = scan
    with pytest.raises(ValueError, match="192 positions, the signal 96"):
        pyxem_dl.settle(xmap, signal.inav[:8])
    with pytest.raises(ValueError, match="cannot compare"):
        pyxem_dl.settle(xmap, signal, model="bragg-disks")
    with pytest.raises(ValueError, match="1 phases, and 2 are given"):
        pyxem_dl.settle(xmap, signal, phases=[pyxem_dl.data.aluminium(), pyxem_dl.data.lithium_nickel_oxide()])


def test_the_benchmark_has_rows_of_what_was_settled(monkeypatch, tmp_path, root):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    from suite import running, settled

    monkeypatch.setattr(settled, "SHAPE", (8, 10))
    monkeypatch.setattr(settled, "SCANS", settled.SCANS[:1])
    text = running.run(tmp_path, tmp_path, sections=["settled"], device="cpu").read_text(encoding="utf-8")
    assert text.count("| LiNiO2 polycrystal, 8 × 10, simulated |") == 3
    assert "settled, by the map alone" in text and "settled, with the patterns" in text


def test_shares_of_crystals_above_each_other_go_with_them():
    truth, _ = two_grains()
    rng = np.random.default_rng(3)
    rotations = np.repeat(truth[:, :, None], 3, axis=2)
    share, scores = np.zeros(rotations.shape[:3]), np.zeros(rotations.shape[:3])
    share[..., 0], scores[..., 0] = 1, 0.9
    # at a single position another crystal lies on top
    rotations[7, 4, 0] = Rotation(rng.normal(size=4)).data[0]
    share[7, 4], scores[7, 4] = (0.55, 0.45, 0), (0.5, 0.48, 0)
    settled = pyxem_dl.settle(map_of(rotations, share=share, scores=scores))
    place = 7 * truth.shape[1] + 4
    assert settled.prop["settled"][place] == Change.candidate
    np.testing.assert_allclose(settled.rotations.data[place, 0], rotations[7, 4, 1])
    np.testing.assert_allclose(settled.prop["share"][place], (0.45, 0.55, 0))
    np.testing.assert_allclose(settled.prop["share"].sum(1), 1)
