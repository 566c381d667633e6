"""Pictures: what is drawn where, not how it looks."""

import matplotlib
import numpy as np
import pytest
from fake_network import make_phase
from orix.crystal_map import CrystalMap, PhaseList
from orix.quaternion import Rotation

from pyxem_dl import plot
from pyxem_dl.frames import Calibration, k_to_pixel
from pyxem_dl.maps import make_signal

SHAPE = (4, 6)
CALIBRATION = Calibration((0.05, 0.05), (24.0, 25.0), (48, 50), 200.0)


def make_map(euler=(0, 0, 0), not_indexed=(), shape=SHAPE, n_best=1, phases=None, phase_id=None):
    n = int(np.prod(shape))
    row, column = np.indices(shape).reshape(2, -1)
    phase_id = np.zeros(n, dtype=int) if phase_id is None else phase_id
    phase_id[list(not_indexed)] = -1
    rotations = Rotation.from_euler(np.deg2rad(np.broadcast_to(euler, (n, 3))))
    scores = np.linspace(0.1, 0.9, n)
    if n_best > 1:
        rotations = Rotation(np.repeat(rotations.data[:, None], n_best, axis=1))
        scores = np.repeat(scores[:, None], n_best, axis=1)
    return CrystalMap(
        rotations=rotations, phase_id=phase_id, x=column * 3.0, y=row * 3.0, scan_unit="nm",
        phase_list=PhaseList(phases or [make_phase()]),
        prop={"reliability": np.linspace(0, 1, n), "scores": scores},
    )  # fmt: skip


def images(figure):
    """Arrays of the maps in a figure, keys and colour bars left out."""
    axes = [ax for ax in figure.axes if ax.get_xlabel().startswith("x (")]
    return [np.ma.getdata(ax.images[0].get_array()) for ax in axes]


def save(figure, path):
    """Save a figure; return its pixels."""
    figure.savefig(path, dpi=50)
    return matplotlib.image.imread(path)


def test_orientation_map_has_the_colours_of_orix(tmp_path):
    # the cube axis along the beam is red in the TSL key; turned by 45 degrees [110] lies along x, which is green
    figure = plot.orientation_map(make_map((45, 0, 0), not_indexed=[5]))
    z, x = images(figure)
    assert z.shape == x.shape == (*SHAPE, 3)
    assert z[0, 0] == pytest.approx([1, 0, 0], abs=0.02)
    assert x[0, 0] == pytest.approx([0, 1, 0], abs=0.02)
    assert z[0, 5] == pytest.approx([0, 0, 0])  # not indexed
    assert save(figure, tmp_path / "map.png")[..., :3].std() > 0.05
    assert any(ax.name == "ipf" for ax in figure.axes)


def test_brightness_dims_what_is_not_reliable():
    (image,) = images(plot.orientation_map(make_map(), directions="z", brightness="reliability"))
    assert image[0, 0, 0] == pytest.approx(1 / 3, abs=0.01) and image[-1, -1, 0] == pytest.approx(1, abs=0.01)


def test_maps_with_several_candidates_show_the_first():
    one, three = (images(plot.orientation_map(make_map((10, 20, 30), n_best=n)))[0] for n in (1, 3))
    assert np.allclose(one, three)
    (image,) = images(plot.property_map(make_map(n_best=3), "scores"))
    assert image[-1, -1] == pytest.approx(0.9)


def test_one_key_per_laue_group():
    cubic, other = make_phase(), make_phase("Ti", 2.95, 194, (("Ti", (1 / 3, 2 / 3, 0.25)),))
    xmap = make_map(phases=[cubic, other], phase_id=np.arange(24) % 2)
    titles = [ax.get_title() for ax in plot.orientation_map(xmap).axes if ax.name == "ipf"]
    assert titles == ["MgO (m-3m)", "Ti (6/mmm)"]


def test_property_map_is_empty_where_nothing_is_indexed():
    (image,) = images(plot.property_map(make_map(not_indexed=[7])))
    assert np.isnan(image[1, 1]) and np.isfinite(np.delete(image.ravel(), 7)).all()
    with pytest.raises(ValueError, match="no property 'nonsense'; it has: reliability, scores"):
        plot.property_map(make_map(), "nonsense")


def test_masked_scans_keep_their_places():
    xmap = make_map()
    part = xmap[1:, 2:]
    (image,) = images(plot.property_map(part))
    assert image.shape == SHAPE and np.isnan(image[0]).all() and np.isnan(image[:, :2]).all()
    assert image[1, 2] == pytest.approx(xmap.prop["reliability"][8])


def test_lines_and_single_points_can_be_drawn():
    xmap = make_map()
    line = CrystalMap(
        rotations=xmap.rotations, x=np.arange(24.0), phase_list=PhaseList([make_phase()]), prop=dict(xmap.prop)
    )
    assert images(plot.property_map(line))[0].shape == (1, 24)
    assert images(plot.orientation_map(make_map(shape=(1, 1))))[0].shape == (1, 1, 3)


def test_disorientation_map_is_modulo_180_unless_strict():
    # no symmetry turns (10, 35, 20) by 180 degrees about the beam
    a, b = make_map((10, 35, 20)), make_map((193, 35, 20), not_indexed=[0])
    modulo, strict = (images(plot.disorientation_map(a, b, modulo_180=m))[0] for m in (True, False))
    assert modulo[1, 1] == pytest.approx(3, abs=1e-3)
    assert strict[1, 1] > 10
    assert np.isnan(modulo[0, 0])
    text = plot.disorientation_map(a, b).axes[0].get_title()
    assert "median 3.0°, 100% within 5° (n = 23)" in text


@pytest.mark.parametrize("lazy", [False, True])
def test_virtual_image_is_the_mean_over_the_ring(lazy, rng):
    signal = make_signal(rng.poisson(3, (*SHAPE, 48, 50)).astype("u2"), CALIBRATION, "test")
    row, column = np.indices((48, 50))
    k = np.hypot(row - 24, column - 25) * 0.05
    expected = signal.data[..., (k >= 0.31) & (k < 0.91)].mean(-1)
    figure = plot.virtual_image(signal.as_lazy() if lazy else signal, inner=0.31, outer=0.91)
    assert images(figure)[0] == pytest.approx(expected)
    with pytest.raises(ValueError, match="No pixel lies between 8 and 9"):
        plot.virtual_image(signal, inner=8, outer=9)


def test_spots_are_drawn_where_the_pattern_has_them(tmp_path):
    # a crystal of MgO turned by 20 degrees about the beam: (200) at 20 degrees, counter-clockwise and upwards
    k = 2 / 4.2
    angle = np.deg2rad(20)
    row, column = k_to_pixel(k * np.cos(angle), k * np.sin(angle), CALIBRATION)
    assert row < 24 and column > 25
    pattern = np.zeros((48, 50))
    pattern[round(row), round(column)] = 100
    signal = make_signal(np.broadcast_to(pattern, (*SHAPE, 48, 50)).copy(), CALIBRATION, "test")
    figure = plot.patterns_with_spots(signal, {"a": make_map((20, 0, 0)), "b": make_map(not_indexed=[9])}, [9])
    (axes,) = figure.axes
    offsets = axes.collections[0].get_offsets().data
    assert np.hypot(*(offsets - [k * np.cos(angle), k * np.sin(angle)]).T).min() < 1e-4
    left, right, bottom, top = axes.images[0].get_extent()
    assert (left, right) == pytest.approx((-25.5 * 0.05, 24.5 * 0.05))
    assert (bottom, top) == pytest.approx((-23.5 * 0.05, 24.5 * 0.05))
    assert [text.get_text() for text in axes.texts] == ["b: not indexed"]
    assert save(figure, tmp_path / "patterns.png")[..., :3].std() > 0.02


def test_positions_are_indexed_spread_and_few():
    xmap = make_map(not_indexed=range(12, 24))
    chosen = plot.spread_positions(xmap, 3)
    assert len(set(chosen)) == 3 and set(chosen) <= set(range(6, 12))
    assert set(plot.spread_positions(xmap, 3, among=np.arange(24) < 2)) <= {0, 1}
    assert len(plot.spread_positions(make_map(not_indexed=range(24)))) == 0


def test_wrong_arguments():
    with pytest.raises(ValueError, match="directions are 'x', 'y' and 'z', not \\['w'\\]"):
        plot.orientation_map(make_map(), directions=["z", "w"])
    signal = make_signal(np.ones((*SHAPE, 48, 50)), CALIBRATION, "test")
    with pytest.raises(ValueError, match="no indexed points"):
        plot.patterns_with_spots(signal, make_map(not_indexed=range(24)))
