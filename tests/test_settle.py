"""Maps that their neighbours settle: half turns and outliers are mended, and what is there stays."""

import math

import numpy as np
import pytest
import torch
from orix.crystal_map import CrystalMap, Phase, PhaseList
from orix.quaternion import Rotation

import pyxem_dl
from pyxem_dl.metrics import disorientation
from pyxem_dl.microstructure import Change
from pyxem_dl.microstructure.averaging import with_neighbours
from pyxem_dl.microstructure.beliefs import Candidates
from pyxem_dl.microstructure.evidence import MapView
from pyxem_dl.microstructure.fields import select_fields
from pyxem_dl.microstructure.neighbourhood import Neighbourhood
from pyxem_dl.microstructure.settling import _are_lit
from pyxem_dl.results import to_crystal_map
from pyxem_dl.scans import Scan
from pyxem_dl.simulation.many_beam import ManyBeam
from pyxem_dl.symmetry import proper_operations, stack_operations

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


def test_parts_of_a_map_have_their_own_scores():
    """orix' `prop.get` has the values of the whole scan."""
    truth, _ = two_grains()
    data = truth.copy()
    data[10, 14] = turned(truth, np.ones(truth.shape[:2], bool))[10, 14]
    scores = np.full(truth.shape[:2], 0.9)
    scores[10, 14] = 0.1
    xmap = map_of(data, scores=scores)
    part = xmap[6:, 9:]
    settled = pyxem_dl.settle(part)
    assert settled.size == part.size and np.flatnonzero(settled.prop["settled"]).tolist() == [4 * part.shape[1] + 5]
    masked = xmap[xmap.x > 2]
    assert pyxem_dl.settle(masked).prop["settled"].sum() == 1


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


def test_faint_patterns_inside_of_a_grain_are_filled(scan):
    """A sixth of the electrons, not indexed: its own light tells a crystal from bare film."""
    signal, _, truth = scan
    number, single = (truth.prop[name].reshape(12, 16) for name in ("grain", "overlap"))
    inside = (single < 0.01) & (truth.phase_id >= 0).reshape(12, 16)
    faint = np.zeros((12, 16), bool)
    for y in range(1, 11, 2):
        for x in range(1, 15, 2):
            box = slice(y - 1, y + 2), slice(x - 1, x + 2)
            faint[y, x] = inside[box].all() and np.ptp(number[box]) == 0
    patterns = signal.data.copy()
    patterns[faint] = np.random.default_rng(1).binomial(patterns[faint].astype(int), 1 / 6)
    phase = next(phase for key, phase in truth.phases if key >= 0)
    indexed = (truth.phase_id >= 0) & ~faint.ravel()
    xmap = to_crystal_map(
        Scan.from_signal(signal, inspect=False), truth.rotations.data.reshape(-1, 1, 4), np.zeros((192, 1), int),
        np.ones((192, 1)), [phase], indexed=indexed,
    )  # fmt: skip
    dimmed = signal._deepcopy_with_new_data(patterns)
    settled = pyxem_dl.settle(xmap, dimmed, device="cpu", show_progressbar=False)
    filled = (settled.phase_id >= 0).reshape(12, 16)
    assert faint.sum() >= 6 and filled[faint].mean() > 0.7
    assert (disorientation(settled, truth).reshape(12, 16)[faint & filled] < 5).all()
    assert (settled.phase_id[truth.phase_id < 0] == -1).mean() > 0.95


def test_what_is_too_faint_alone_is_lit_together():
    """Half as much as the dark neighbours have is enough, less in their midst, and vacuum beside them stays dark."""
    data, _ = two_grains((8, 12))
    left = np.indices((8, 12))[1] < 6
    view = MapView(map_of(data, phase_id=np.zeros((8, 12))), math.radians(5))
    light = np.where(left, 2.4, 0.0)
    light[3, 2], light[3, 3], light[4, 0] = 0.4, -0.5, 1.0
    light[5, 8], light[1, 10] = 2.0, 3.0
    likely, phase = view.rotations[:, 0], torch.zeros(96, dtype=torch.long)
    one = likely[:1].expand(96, -1)
    lit = _are_lit(view, torch.tensor(light.ravel()), one, phase).numpy().reshape(8, 12)
    expected = left.copy()
    expected[3, 3], expected[4, 0], expected[1, 10] = False, False, True
    expected[[0, 7], 5] = False  # three neighbours of their kind are too few
    np.testing.assert_array_equal(lit, expected)
    # other crystals, and positions that were not looked at, say nothing
    light[left] = np.nan
    light[2, 3] = 2.4
    assert not _are_lit(view, torch.tensor(light.ravel()), one, phase).numpy().reshape(8, 12)[:, :6].any()


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


def test_small_grains_stay_with_patterns_of_a_lazy_signal(scan):
    """Two positions of another crystal, inside of a grain, keep their orientation."""
    signal, _, truth = scan
    number, single = (truth.prop[name].reshape(12, 16) for name in ("grain", "overlap"))
    inside = (single < 0.01) & (truth.phase_id >= 0).reshape(12, 16)
    around = {(y, x): (slice(y - 1, y + 2), slice(x - 1, x + 3)) for y in range(1, 11) for x in range(1, 14)}
    places = [place for place, box in around.items() if inside[box].all() and np.ptp(number[box]) == 0]
    here = places[0]
    other = next(place for place in places if number[place] != number[here])
    here, other = ((y, slice(x, x + 2)) for y, x in (here, other))
    patterns, data = signal.data.copy(), truth.rotations.data.reshape(12, 16, 4).copy()
    patterns[here], data[here] = patterns[other], data[other]
    phase = next(phase for key, phase in truth.phases if key >= 0)
    xmap = to_crystal_map(Scan.from_signal(signal, inspect=False), data.reshape(-1, 1, 4), np.zeros((192, 1), int),
                          np.ones((192, 1)), [phase], indexed=truth.phase_id >= 0)  # fmt: skip
    changed = signal._deepcopy_with_new_data(patterns).as_lazy()
    settled = pyxem_dl.settle(xmap, changed, device="cpu", show_progressbar=False)
    assert (settled.prop["settled"].reshape(12, 16)[here] == Change.none).all()


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


# ---------------------------------------------------------------- neighbours that look alike
def two_kinds_of_patterns(shape=(9, 12), electrons=4000, seed=0):
    """Counts of two kinds of spots, on the left and on the right, and which are on the left."""
    rng = np.random.default_rng(seed)
    row, column = np.indices((64, 64))
    halo = np.exp(-np.hypot(row - 32, column - 32) / 4)
    kinds = []
    for places in rng.integers(8, 56, (2, 6, 2)):
        spots = sum(np.hypot(row - y, column - x) < 2 for y, x in places)
        kinds.append(0.8 * halo / halo.sum() + 0.2 * spots / spots.sum())
    left = np.indices(shape)[1] < 5
    return rng.poisson(electrons * np.where(left[..., None, None], *kinds)).astype(np.uint16), left


def test_patterns_are_added_to_those_that_look_alike():
    counts, left = two_kinds_of_patterns()
    added = with_neighbours(counts, (32.0, 32.0), 1.0).compute()
    inside = counts[2:7, 7:10].astype(float)
    ratio = added[2:7, 7:10].sum((2, 3)) / inside.sum((2, 3))
    # of 25 positions, those that look different by chance count less
    assert (ratio > 8).all() and (ratio < 25).all()
    # beside the boundary nothing of the other side is added: its spots stay dark
    other = counts[left].mean(0) > 5 * counts[~left].mean(0) + 5
    assert other.sum() > 20
    assert added[:, 5][:, other].sum() < 1.5 * counts[:, 5][:, other].sum() + 0.05 * added[:, 4][:, other].sum()
    # a detector that writes several counts for an electron
    np.testing.assert_allclose(with_neighbours(7.0 * counts, (32.0, 32.0), 7.0).compute(), 7 * added, rtol=1e-4)


def test_blocks_lines_and_broken_patterns_when_patterns_are_added(monkeypatch):
    import dask.array as da

    from pyxem_dl.microstructure import averaging

    counts, _ = two_kinds_of_patterns()
    whole = with_neighbours(counts, (32.0, 32.0), 1.0).compute()
    monkeypatch.setattr(averaging, "_BLOCK_BYTES", 1)
    monkeypatch.setattr(averaging, "_LEAST", 4)
    parts = with_neighbours(da.from_array(counts, chunks=(5, 3, 32, -1)), (32.0, 32.0), 1.0)
    assert parts.numblocks[:2] == (3, 3)
    np.testing.assert_allclose(parts.compute(), whole, rtol=1e-5)
    # positions on a line have neighbours in one direction
    line = with_neighbours(counts[4], (32.0, 32.0), 1.0).compute()
    assert line.shape == counts[4].shape
    np.testing.assert_allclose(line, with_neighbours(counts[4:5], (32.0, 32.0), 1.0).compute()[0], rtol=1e-5)
    # what is broken stays so, alone
    broken = counts.astype(np.float32)
    broken[4, 8, 10, 10] = np.nan
    added = with_neighbours(broken, (32.0, 32.0), 1.0).compute()
    assert np.argwhere(np.isnan(added)).tolist() == [[4, 8, 10, 10]]


def test_a_large_field_does_not_hold_where_others_are_likelier_everywhere():
    """Two grains, and a wrong orientation that is proposed in both of them."""
    shape = (6, 6)
    left = (np.indices(shape)[1] < 3).reshape(-1)
    q = torch.as_tensor(Rotation(np.random.default_rng(2).normal(size=(3, 4))).data, dtype=torch.float32)
    rotations = torch.stack([torch.where(torch.from_numpy(left)[:, None], q[0], q[1]), q[2].expand(36, 4)], dim=1)
    evidence = torch.tensor([3.0, 0.5]).expand(36, 2)
    candidates = Candidates(rotations, torch.zeros(36, 2, dtype=torch.long), evidence, torch.zeros(36))
    operations = stack_operations([proper_operations(TRIGONAL)])
    row, column = (x.ravel() for x in np.indices(shape))
    holds = select_fields(candidates, Neighbourhood(row, column), operations, math.radians(5))
    assert holds[:, 0].all() and not holds[:, 1].any()


def test_patterns_settle_what_no_candidate_says(scan):
    """A map that is wrong everywhere: what is right is found in patterns that are added up."""
    signal, _, truth = scan
    data = np.tile(Rotation(np.random.default_rng(4).normal(size=4)).data.reshape(1, 1, 4), (192, 1, 1))
    phase = next(phase for key, phase in truth.phases if key >= 0)
    xmap = to_crystal_map(Scan.from_signal(signal, inspect=False), data, np.zeros((192, 1), int), np.ones((192, 1)),
                          [phase], indexed=truth.phase_id >= 0)  # fmt: skip
    assert right(xmap, truth) < 0.1
    settled = pyxem_dl.settle(xmap, signal, device="cpu", show_progressbar=False)
    assert right(settled, truth) > 0.7
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


def test_a_simulated_polycrystal_has_the_faint_beams_that_tell_half_turns():
    """As many electrons more as beams that are far from their Bragg condition have; the labelled scan has none."""
    electrons, kinds = 2e7, (True, False)
    given = {"electrons": electrons, "n_grains": 1, "seed": 4}
    (signal, truth), (without, _) = (pyxem_dl.data.polycrystal((3, 3), far_beams=far, **given) for far in kinds)
    there = truth.phase_id >= 0
    crystal = ManyBeam(truth.phases[0], 200, 1.25, n_beams=64)
    rotations = torch.from_numpy(truth.rotations.data[there]).float()
    thickness = torch.from_numpy(truth.prop["thickness"][there]).float()
    far = crystal.far(rotations, thickness, 1e-3 / crystal.wavelength)
    expected = electrons * float((far.intensity.mean((-1, -2)) * far.present).sum())
    away = np.hypot(*(np.indices((128, 128)) - 64)) > 5  # counts end at 65535, in both alike
    both = (each.data.reshape(9, 128, 128)[there][:, away].sum(dtype=float) for each in (signal, without))
    more, less = both
    assert expected > 8 * math.sqrt(more)
    assert more - less == pytest.approx(expected, abs=5 * math.sqrt(more + less) + 0.05 * expected)
