"""Grains of maps: labels, mean orientations, bending, boundaries and twins, and files that keep them."""

import math

import numpy as np
import pytest
from orix.crystal_map import CrystalMap, Phase, PhaseList
from orix.io import load
from orix.quaternion import Rotation

import pyxem_dl
from pyxem_dl.metrics import disorientation
from pyxem_dl.microstructure import mean_orientations
from pyxem_dl.results import save_map
from pyxem_dl.symmetry import proper_operations

CUBIC = Phase("cubic", space_group=225)
TRIGONAL = Phase("trigonal", space_group=166)


def map_of(quaternions, phase_id=None, phases=(CUBIC,), step=(2.0, 1.0), **prop):
    """Map of orientations on a grid (rows, columns, 4), steps along x and y in nm."""
    rows, columns = quaternions.shape[:2]
    y, x = (c.ravel() * s for c, s in zip(np.indices((rows, columns)), step[::-1]))
    phase_id = np.zeros(rows * columns, int) if phase_id is None else np.ravel(phase_id)
    return CrystalMap(
        Rotation(quaternions.reshape(-1, 4)), phase_id, x, y, PhaseList(list(phases)), prop, scan_unit="nm"
    )


def halves(first, second, shape=(4, 6)):
    """Columns of one orientation, and of another."""
    right = np.indices(shape)[1] >= shape[1] // 2
    return np.where(right[..., None], second.data, first.data)


@pytest.fixture
def tilted():
    """An orientation of no symmetry."""
    return Rotation(np.random.default_rng(1).normal(size=4))


@pytest.mark.parametrize("phase", [CUBIC, TRIGONAL], ids=["cubic", "trigonal"])
def test_sizes_boundaries_and_neighbours(tilted, phase):
    other = Rotation.from_axes_angles([1, 2, 3], np.deg2rad(20)) * tilted
    data = halves(tilted, other, (4, 8))
    # what is alike by symmetry is no boundary
    data[1:3, :4] = (Rotation(proper_operations(phase)[1].numpy()) * tilted).data
    grains = pyxem_dl.grains(map_of(data, phases=(phase,)))
    assert len(grains) == 2 and grains.size.tolist() == [16, 16]
    np.testing.assert_allclose(grains.area, 32)
    np.testing.assert_allclose(grains.boundaries.angle, 20, atol=1e-3)
    np.testing.assert_allclose(grains.boundaries.length.sum(), 4)  # four steps along y
    assert grains.neighbours(0).tolist() == [1] and grains.neighbours(1).tolist() == [0]
    assert grains.at_edge.all() and set(grains.boundaries.kind) == {"general"}
    angle = disorientation(grains.mean.data, np.stack([tilted.data[0], other.data[0]]), phase)
    np.testing.assert_allclose(angle, 0, atol=1e-3)
    assert "2 in 32 indexed of 32 positions" in repr(grains) and "4 nm" in repr(grains)


def test_the_axis_is_that_of_the_turn(tilted):
    axis = np.array([3.0, 2.0, 1.0]) / math.sqrt(14)
    other = Rotation.from_axes_angles(axis, np.deg2rad(12)) * tilted
    boundaries = pyxem_dl.grains(map_of(halves(tilted, other))).boundaries
    np.testing.assert_allclose(np.sort(np.abs(boundaries.axis[0])), np.sort(axis), atol=1e-4)


def test_what_bends_is_one_grain_with_kam_and_grod():
    tilt = np.tile(np.arange(11.0), (5, 1))  # a degree for each position along x
    data = Rotation.from_axes_angles([1, 0, 0], np.deg2rad(tilt.ravel())).data.reshape(5, 11, 4)
    grains = pyxem_dl.grains(map_of(data), threshold=2)
    assert len(grains) == 1
    kam, grod = (grains.xmap.prop[name].reshape(5, 11) for name in ("kam", "grod"))
    np.testing.assert_allclose(kam[1:-1, 1:-1], 0.5, atol=1e-3)  # 1, 1, 0 and 0 degrees
    np.testing.assert_allclose(kam[0, 0], 0.5, atol=1e-3)
    np.testing.assert_allclose(grod[2], np.abs(np.arange(11.0) - 5), atol=0.01)
    np.testing.assert_allclose(grains.spread, np.abs(np.arange(11) - 5).mean(), atol=0.01)
    assert len(pyxem_dl.grains(map_of(data), threshold=0.9)) == 11
    assert pyxem_dl.grains(map_of(data[:1])).area == 22  # a line has a length


@pytest.mark.parametrize("phase", [CUBIC, TRIGONAL], ids=["cubic", "trigonal"])
def test_means_are_over_symmetric_copies(phase):
    import torch

    rng = np.random.default_rng(3)
    true = Rotation(rng.normal(size=(2, 4)))
    label = np.repeat([0, 1], 40)
    around = Rotation.from_axes_angles(rng.normal(size=(80, 3)), np.deg2rad(2))
    operations = proper_operations(phase).double()
    copies = Rotation(operations[rng.integers(len(operations), size=80)].numpy())
    q = (copies * Rotation(true.data[label]) * around).data * rng.choice([-1, 1], (80, 1))
    mean = mean_orientations(torch.from_numpy(q), torch.from_numpy(label), operations, 3).numpy()
    assert disorientation(mean[:2], true.data, phase).max() < 0.8
    np.testing.assert_array_equal(mean[2], [1, 0, 0, 0])


def test_twins_are_told(tilted):
    twin = Rotation.from_axes_angles([1, 1, 1], np.deg2rad(60)) * tilted
    near = Rotation.from_axes_angles([1, 1, 1], np.deg2rad(55)) * tilted
    far = Rotation.from_axes_angles([1, 1, 1], np.deg2rad(45)) * tilted
    for other, is_twin in ((twin, True), (near, True), (far, False)):
        boundaries = pyxem_dl.grains(map_of(halves(tilted, other))).boundaries
        assert (boundaries.sigma_3 == is_twin).all() and not boundaries.half_turn.any()
        # of trigonal crystals 60° about that axis is nothing special
        assert not pyxem_dl.grains(map_of(halves(tilted, other), phases=(TRIGONAL,))).boundaries.sigma_3.any()
    half = tilted * Rotation.from_axes_angles([0, 0, 1], math.pi)
    grains = pyxem_dl.grains(map_of(halves(tilted, half), phases=(TRIGONAL,)))
    assert grains.boundaries.half_turn.all() and grains.pairs["half_turn"].all()
    assert "100% half-turn" in repr(grains)


def test_cubic_crystals_of_low_symmetry_have_the_twins_of_the_lattice(tilted):
    pyrite = Phase("pyrite", space_group=205)
    twin = Rotation.from_axes_angles([1, 1, 1], np.deg2rad(60)) * tilted
    turned = Rotation.from_axes_angles([0, 0, 1], np.deg2rad(90)) * twin
    for other in (twin, turned):
        assert pyxem_dl.grains(map_of(halves(tilted, other), phases=(pyrite,))).boundaries.sigma_3.all()


def test_phases_and_what_is_not_indexed_part_grains(tilted):
    data = np.tile(tilted.data, (4, 6, 1)).reshape(4, 6, 4)
    phase_id = np.zeros((4, 6), int)
    phase_id[:, 4:], phase_id[:, 2] = 1, -1
    xmap = map_of(data, phase_id, (CUBIC, TRIGONAL))
    xmap.is_in_data = np.indices((4, 6))[0].ravel() > 0
    grains = pyxem_dl.grains(xmap)
    assert len(grains) == 3 and sorted(grains.phase_id) == [0, 0, 1]
    assert grains.grain_id.shape == (18,) and (grains.grain_id[phase_id[1:].ravel() < 0] == -1).all()
    assert set(grains.boundaries.kind) == {"phases"} and np.isnan(grains.boundaries.angle).all()
    assert set(grains.table["phase"]) == {"cubic", "trigonal"}
    assert "grain_id" not in xmap.prop


def test_maps_without_grains(tilted):
    data = np.tile(tilted.data, (2, 2, 1)).reshape(2, 2, 4)
    nothing = pyxem_dl.grains(map_of(data, np.full((2, 2), -1)))
    assert len(nothing) == 0 and len(nothing.table) == 0 and len(nothing.pairs) == 0
    assert "0 in 0 indexed of 4 positions" in repr(nothing)
    nothing.plot()
    single = pyxem_dl.grains(map_of(data[:1, :1]))
    assert single.size.tolist() == [1] and np.isnan(single.xmap.prop["kam"]).all()
    with pytest.raises(TypeError, match="orix CrystalMap"):
        pyxem_dl.grains(data)
    with pytest.raises(ValueError, match="threshold must be"):
        pyxem_dl.grains(map_of(data), threshold=-1)
    with pytest.raises(ValueError, match="no grain 4"):
        single.neighbours(4)


def test_the_table_has_a_row_for_each_grain():
    truth = pyxem_dl.data.polycrystal((20, 24), n_grains=5, seed=1).truth
    grains = pyxem_dl.grains(truth)
    table = grains.table
    assert table["size"].sum() == (truth.phase_id >= 0).sum() and (np.diff(table["size"]) <= 0).all()
    np.testing.assert_allclose(table["area"], table["size"] * 16.0)
    euler = np.deg2rad(np.stack([table[name] for name in ("phi1", "Phi", "phi2")], axis=1))
    phase = next(phase for key, phase in truth.phases if key >= 0)
    assert disorientation(Rotation.from_euler(euler).data, grains.mean.data, phase).max() < 1e-3
    for grain in range(len(grains)):
        assert table["neighbours"][grain] == len(grains.neighbours(grain))
    assert pyxem_dl.provenance(grains)["verb"] == "grains"


@pytest.mark.parametrize("suffix, column", [(".h5", "grain_id"), (".ang", "grain_id"), (".ctf", "bands")])
@pytest.mark.filterwarnings("ignore:.*does not keep all of the map")
def test_files_keep_the_numbers_of_grains(tmp_path, suffix, column, tilted):
    other = Rotation.from_axes_angles([1, 2, 3], np.deg2rad(20)) * tilted
    data, phase_id = halves(tilted, other, (4, 8)), np.zeros((4, 8), int)
    phase_id[2, 6] = -1
    grains = pyxem_dl.grains(map_of(data, phase_id))
    path = save_map(tmp_path / f"grains{suffix}", grains.xmap)
    again = load(path)
    expected = grains.grain_id
    np.testing.assert_array_equal(again.prop[column], expected)
    assert expected.min() == -1 and expected.max() == 1
    there = expected >= 0
    assert disorientation(again.rotations.data[there], data.reshape(-1, 4)[there], CUBIC).max() < 0.01


def test_files_of_parts_of_a_map(tmp_path, tilted):
    """Positions that are not in the data have no grain."""
    data = np.tile(tilted.data, (4, 5, 1)).reshape(4, 5, 4)
    xmap = map_of(data)
    xmap.is_in_data = np.arange(20) != 7
    right = pyxem_dl.grains(xmap[:, 2:]).xmap  # whose rectangle is smaller than the map
    save_map(tmp_path / "right.ang", right)
    assert load(tmp_path / "right.ang").prop["grain_id"].tolist() == (np.arange(12) == 12).astype(int).tolist()
    grains = pyxem_dl.grains(xmap)
    with pytest.warns(UserWarning, match="not in its data"):
        save_map(tmp_path / "part.ang", grains.xmap)
    again = load(tmp_path / "part.ang").prop["grain_id"]
    assert again[7] == -1 and (np.delete(again, 7) == 0).all()


def test_pictures(tmp_path, tilted):
    from PIL import Image

    twin = Rotation.from_axes_angles([1, 1, 1], np.deg2rad(60)) * tilted
    grains = pyxem_dl.grains(map_of(halves(tilted, twin)))
    seen = set()
    for color in ("grains", "mean", "kam", "grod"):
        figure = grains.plot(color=color)
        figure.savefig(tmp_path / f"{color}.png", dpi=60)
        image = np.asarray(Image.open(tmp_path / f"{color}.png").convert("RGB")).reshape(-1, 3)
        assert (image == [255, 0, 0]).all(1).any()  # the boundary, Σ3, is red
        seen.add(image.tobytes())
    assert len(seen) > 2
    with pytest.raises(ValueError, match="color must be"):
        grains.plot(color="red")
    with pytest.raises(TypeError, match="pyxem_dl.grains"):
        pyxem_dl.plot.grain_map(grains.xmap)


def test_what_has_no_orientation_is_not_indexed(tilted):
    """NaN from other programs, and crystals without a symmetry."""
    data = halves(tilted, tilted, (2, 4)).astype(float)
    data[0, 1] = np.nan
    xmap = map_of(data)
    grains, settled = pyxem_dl.grains(xmap), pyxem_dl.settle(xmap)
    assert grains.grain_id.tolist() == [0, -1, *[0] * 6] and np.isnan(grains.xmap.prop["kam"][1])
    assert settled.phase_id.tolist() == [0, -1, *[0] * 6] and (xmap.phase_id == 0).all()
    bare = map_of(halves(tilted, tilted), phases=(Phase("bare"),))
    with pytest.raises(ValueError, match="'bare' has neither a space group nor a point group"):
        pyxem_dl.grains(bare)


@pytest.mark.parametrize("unit", [1.0, 1e-9])
def test_steps_that_are_rounded_or_small(tilted, unit):
    data = np.tile(tilted.data, (120, 1))
    xmap = CrystalMap(Rotation(data), x=np.round(np.arange(120) / 3, 2) * unit, phase_list=PhaseList(CUBIC))
    grains = pyxem_dl.grains(xmap)
    assert len(grains) == 1 and not np.isnan(grains.xmap.prop["kam"]).any()
    np.testing.assert_allclose(grains.area, 40 * unit, rtol=1e-3)


def test_hexagonal_grids_are_refused(tilted):
    row, column = (c.ravel() for c in np.indices((4, 5)))
    xmap = CrystalMap(
        Rotation(np.tile(tilted.data, (20, 1))), x=column + (row % 2) / 2, y=row * math.sqrt(3) / 2,
        phase_list=PhaseList(CUBIC),
    )  # fmt: skip
    for verb in (pyxem_dl.grains, pyxem_dl.settle):
        with pytest.raises(ValueError, match="hexagonal grid"):
            verb(xmap)
