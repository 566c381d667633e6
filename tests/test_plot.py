"""Pictures: what is drawn where, not how it looks."""

import io

import matplotlib
import matplotlib.image
import numpy as np
import pytest
from fake_network import make_model, make_phase
from orix.crystal_map import CrystalMap, Phase, PhaseList
from orix.quaternion import Rotation
from sample_phases import phase as sample_phase

from pyxem_dl import plot
from pyxem_dl.crystals import load_phases
from pyxem_dl.frames import Calibration, k_to_pixel
from pyxem_dl.scans import make_signal
from pyxem_dl.simulation import PatternSimulator, SimulationSettings

SHAPE = (4, 6)
GREY = 169 / 255  # darkgray
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


def legend_of(figure):
    """Texts of a figure's legends."""
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


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
    assert z[0, 5] == pytest.approx([GREY] * 3) and x[0, 5] == pytest.approx([GREY] * 3)  # not indexed
    assert legend_of(figure) == ["not indexed, or left out"]
    assert legend_of(plot.orientation_map(make_map())) == []
    dimmed = plot.orientation_map(make_map(not_indexed=[0]), directions="z", brightness="reliability")
    assert images(dimmed)[0][0, 0] == pytest.approx([GREY] * 3)  # whatever its reliability
    assert save(figure, tmp_path / "map.png")[..., :3].std() > 0.05
    assert any(ax.name == "ipf" for ax in figure.axes)


def test_a_notebook_shows_a_figure_though_pyplot_was_not_used():
    figure = plot.property_map(make_map())
    picture = matplotlib.image.imread(io.BytesIO(figure._repr_png_()))
    assert picture.shape[:2] == tuple(int(n) for n in figure.get_size_inches()[::-1] * figure.dpi)
    assert 0.01 < np.mean(picture[..., :3].min(axis=-1) < 0.5)


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
    figure = plot.property_map(make_map(not_indexed=[7]))
    (image,) = images(figure)
    assert figure.axes[0].images[0].cmap.get_bad() == pytest.approx([GREY] * 3 + [1])
    assert legend_of(figure) == ["not indexed, or left out"] and legend_of(plot.property_map(make_map())) == []
    assert np.isnan(image[1, 1]) and np.isfinite(np.delete(image.ravel(), 7)).all()
    with pytest.raises(ValueError, match="no property 'nonsense'; it has: reliability, scores"):
        plot.property_map(make_map(), "nonsense")


def test_masked_scans_keep_their_places():
    xmap = make_map()
    part = xmap[1:, 2:]
    (image,) = images(plot.property_map(part))
    assert image.shape == SHAPE and np.isnan(image[0]).all() and np.isnan(image[:, :2]).all()
    colors = images(plot.orientation_map(part))[0]
    assert colors[0] == pytest.approx(GREY) and colors[:, :2] == pytest.approx(GREY) and colors[2, 3, 0] > 0.9
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
    with pytest.raises(ValueError, match="directions must be 'x', 'y' or 'z', not \\['w'\\]"):
        plot.orientation_map(make_map(), directions=["z", "w"])
    signal = make_signal(np.ones((*SHAPE, 48, 50)), CALIBRATION, "test")
    with pytest.raises(ValueError, match="no indexed points"):
        plot.patterns_with_spots(signal, make_map(not_indexed=range(24)))


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda s, m: plot.orientation_map(m, brightness="reliabilty"),
         "no property 'reliabilty'; it has: reliability, scores. Did you mean 'reliability'?"),
        (lambda s, m: plot.orientation_map(m, brightness=np.ones(7)), r"brightness has the shape \(7,\); the map has"),
        (lambda s, m: plot.orientation_map(s), "Expected an orix CrystalMap, not ElectronDiffraction2D"),
        (lambda s, m: plot.property_map(m, "scoers"), "no property 'scoers'; it has: reliability, scores"),
        (lambda s, m: plot.property_map(m, 3), "no property 3; it has"),
        (lambda s, m: plot.disorientation_map(m, s), "Expected an orix CrystalMap"),
        (lambda s, m: plot.disorientation_map(m, m, max_angle=-3), "max_angle must be a positive number, not -3"),
        (lambda s, m: plot.virtual_image(s, inner=1, outer=0.5), "radii in Å⁻¹ with 0 <= inner < outer, not 1 and 0.5"),
        (lambda s, m: plot.patterns_with_spots(s, m, [(4, 5)]), r"position \(4, 5\) is outside of the scan.*\(4, 6\)"),
        (lambda s, m: plot.patterns_with_spots(s, m, [24]), r"positions \[24\] are outside .* from 0 to 23"),
        (lambda s, m: plot.patterns_with_spots(s, m, [-1]), r"positions \[-1\] are outside"),
        (lambda s, m: plot.patterns_with_spots(s, m, ["a"]), r"flat index from 0 to 23, or \(row, column\).*not 'a'"),
        (lambda s, m: plot.patterns_with_spots(s, m, [(1, 2, 3)]), r"\(row, column\) in a scan of shape \(4, 6\)"),
        (lambda s, m: plot.patterns_with_spots(s, {}), "no position to draw"),
        (lambda s, m: plot.patterns_with_spots(s, s), "Expected an orix CrystalMap"),
        (lambda s, m: plot.patterns_with_spots(s, m, [0], gamma=0), "gamma must be a positive number, not 0"),
        (lambda s, m: plot.patterns_with_spots(s.inav[:3], m, [0]), "map has 24 positions .* the scan has 4 × 3"),
        (lambda s, m: plot.spread_positions(m, among=[True]), r"among has the shape \(1,\); the map has 24 points"),
        (lambda s, m: plot.selection_curves([]), "one or a list of them, not an empty list"),
        (lambda s, m: plot.selection_curves([m]), "results.selection_curve.*not CrystalMap"),
        (lambda s, m: plot.reliability_diagram([1, 2]), r"\{name: \(expected error, true error\)\}"),
        (lambda s, m: plot.reliability_diagram({"a": ([1.0], [1.0, 2.0])}), r"'a' needs .* not \(1,\) and \(2,\)"),
        (lambda s, m: plot.reliability_diagram({"a": ([1.0], [1.0])}, n_bins=0), "n_bins must be a positive number"),
        (lambda s, m: plot.markers(s, m, candidate=1), r"from 0 \(the best\) to 0, not 1"),
        (lambda s, m: plot.markers(s.inav[:3], m), "map has 24 positions .* the scan has 4 × 3"),
        (lambda s, m: plot.markers(s, m, reciprocal_radius=-1), "reciprocal_radius must be a positive number, not -1"),
        (lambda s, m: plot.markers(s, make_map(phases=[without_atoms()])),
         "'MgO' of the map has no atoms .* Give the structures"),
    ],
)  # fmt: skip
def test_errors_say_what_there_is(call, text):
    signal = make_signal(np.ones((*SHAPE, 48, 50)), CALIBRATION, "test")
    with pytest.raises((ValueError, TypeError), match=text):
        call(signal, make_map())


def without_atoms():
    return Phase("MgO", space_group=225)  # as files of orientation maps have it


def test_positions_may_be_row_and_column():
    signal = make_signal(np.random.default_rng(0).random((*SHAPE, 48, 50)), CALIBRATION, "test")
    pair, flat, one = (plot.patterns_with_spots(signal, make_map(), where) for where in ([(2, 3)], [15], 15))
    for figure in (pair, flat, one):
        assert np.array_equal(figure.axes[0].images[0].get_array(), pair.axes[0].images[0].get_array())
        assert figure.axes[0].get_title() == "(x, y) = (3, 2)"


# ------------------------------------------------------------------ markers
def markers_at(markers, column, row):
    """Places of the markers at a position of the scan."""
    return np.asarray(markers.kwargs["offsets"][column, row])


CLEAN = SimulationSettings(
    disk_radius=(0.012, 0.0121), debye_waller=(0.0, 0.1), intensity_jitter=(0.0, 0.0), electrons=(2e6, 2.1e6),
    background=(0.003, 0.0031), scale_error=(0.0, 0.0), ellipticity=(0.0, 0.0), center_error=0.0, position_jitter=0.0,
    overlap_share=0.0, empty_share=0.0, ghost_share=0.0, beam_stop_share=0.0, fault_share=0.0, threshold_share=0.0,
    precession_share=0.0, shape_factors=("kinematical",), thickness=(150.0, 160.0), pixels=(128,), coverage=(1.0, 1.01),
    setup_size=6,
)  # fmt: skip


@pytest.mark.parametrize("name", ["MgO", "LiNiO2"])  # cubic, and trigonal
@pytest.mark.parametrize("units, factor", [("$A^{-1}$", 1.0), ("1/nm", 10.0)])
def test_markers_lie_on_the_spots(name, units, factor):
    from scipy.ndimage import maximum_filter

    (crystal,) = load_phases(sample_phase(name))
    made = PatternSimulator([crystal], 200.0, 1.5, CLEAN, seed=3)()
    signal = make_signal(made.patterns.numpy().reshape(2, 3, 128, 128), made.calibration, "test")
    for axis in signal.axes_manager.signal_axes:
        axis.units, axis.scale, axis.offset = units, axis.scale * factor, axis.offset * factor
    row, column = np.indices((2, 3)).reshape(2, -1)
    xmap = CrystalMap(Rotation(made.rotations.numpy()), np.zeros(6, int), column, row, phase_list=PhaseList([crystal]))
    markers = plot.markers(signal, xmap, max_excitation_error=0.12, show_progressbar=False)
    assert markers.kwargs["offsets"].shape == (3, 2)  # (x, y), as HyperSpy has it
    x_axis, y_axis = signal.axes_manager.signal_axes
    upside_down = seen = 0
    for i, pattern in enumerate(made.patterns.numpy()):
        marked = (markers_at(markers, i % 3, i // 3) - [x_axis.offset, y_axis.offset]) / [x_axis.scale, y_axis.scale]
        rows, columns = np.indices(pattern.shape)
        from_beam = np.hypot(rows - made.calibration.center[0], columns - made.calibration.center[1])
        near_edge = from_beam > made.calibration.reciprocal_radius / made.calibration.scale[0] - 2
        bright = pattern > 0.03 * pattern[from_beam > 6].max()
        peaks = np.argwhere((pattern == maximum_filter(pattern, 5)) & bright & (from_beam > 6) & ~near_edge)
        seen += len(peaks)
        distance = np.linalg.norm(peaks[:, None, ::-1] - marked[None], axis=-1).min(1)
        assert distance.max() < 1.0  # px: each bright spot has its marker
        flipped = np.array([1, -1]) * (marked - made.calibration.center[0]) + made.calibration.center[0]
        upside_down += np.linalg.norm(peaks[:, None, ::-1] - flipped[None], axis=-1).min(1).max() > 2
    assert seen > 20 and upside_down >= 4  # the check itself sees what lies elsewhere


def test_markers_have_their_place_size_and_axes():
    signal = make_signal(np.zeros((*SHAPE, 48, 50)), CALIBRATION, "test")
    xmap = make_map((20, 0, 0), not_indexed=[9])
    settings = {"reciprocal_radius": 0.9, "show_progressbar": False}
    markers = plot.markers(signal, xmap, **settings)
    k, angle = 2 / 4.2, np.deg2rad(20)
    places = markers_at(markers, 2, 1)
    assert not len(markers_at(markers, 3, 1))  # not indexed
    # HyperSpy's y runs down with the rows: what is above the beam has y < 0
    expected = np.array([k * np.cos(angle), -k * np.sin(angle)])
    nearest = np.linalg.norm(places - expected, axis=1).argmin()
    assert places[nearest] == pytest.approx(expected, abs=1e-9)
    sizes = markers.kwargs["sizes"][2, 1]
    assert len(sizes) == len(places) and sizes[nearest] > 15 and (sizes <= 18).all()
    moved = plot.markers(signal, xmap, center=(20.0, 30.0), sizes=5, **settings)
    shift = markers_at(moved, 2, 1) - places
    assert shift == pytest.approx(np.broadcast_to([5 * 0.05, -4 * 0.05], shift.shape))
    assert tuple(moved.kwargs["sizes"]) == (5,)
    centers = np.zeros((*SHAPE, 2)) + [24.0, 25.0]
    centers[1, 2] = 26.0, 24.0
    each = plot.markers(signal, xmap, center=centers, **settings)
    shift = markers_at(each, 2, 1) - places
    assert shift == pytest.approx(np.broadcast_to([-0.05, 0.1], shift.shape))
    assert markers_at(each, 0, 0) == pytest.approx(markers_at(markers, 0, 0))


def test_markers_follow_the_navigator():
    signal = make_signal(np.random.default_rng(0).random((*SHAPE, 48, 50)), CALIBRATION, "test")
    xmap = make_map((20, 0, 0), not_indexed=[9])
    markers = plot.markers(signal, xmap, show_progressbar=False)
    signal.plot()
    signal.add_marker(markers)
    drawn = markers._collection
    for index in ((2, 1), (3, 1), (0, 0)):
        signal.axes_manager.indices = index
        assert np.asarray(drawn.get_offsets()).reshape(-1, 2) == pytest.approx(markers_at(markers, *index))


def test_markers_of_a_whole_scan_come_from_one_batch():
    """Of 105 × 105 positions in 2 s of a core at most; a call for each of them takes seven times as long."""
    from time import process_time

    shape = (105, 105)
    calibration = Calibration((0.4, 0.4), (4, 4), (8, 8), 200.0)
    signal = make_signal(np.zeros((*shape, 8, 8), dtype=np.uint8), calibration, "test")
    row, column = np.indices(shape).reshape(2, -1)
    xmap = CrystalMap(
        Rotation.random(row.size), np.zeros(row.size, int), x=column, y=row, phase_list=PhaseList([make_phase()])
    )
    start = process_time()
    markers = plot.markers(signal, xmap, show_progressbar=False)
    assert process_time() - start < 2
    assert markers.kwargs["offsets"].shape == shape[::-1]
    for y, x in ((0, 0), (3, 104), (104, 51)):
        alone = plot.markers(signal.inav[x, y], xmap[y, x], show_progressbar=False)
        assert len(alone.kwargs["offsets"]) and markers_at(markers, x, y) == pytest.approx(alone.kwargs["offsets"])
        assert markers.kwargs["sizes"][x, y] == pytest.approx(alone.kwargs["sizes"])


def test_markers_of_cropped_maps_lines_and_single_patterns():
    signal = make_signal(np.zeros((*SHAPE, 48, 50)), CALIBRATION, "test")
    xmap = make_map((20, 0, 0), phase_id=np.where(np.arange(24) % 5, 0, -1))
    whole = plot.markers(signal, xmap, show_progressbar=False)
    both = plot.markers(signal.inav[2:5, 1:], xmap[1:, 2:5], show_progressbar=False)
    assert both.kwargs["offsets"].shape == (3, 3)
    for column, row in np.ndindex(3, 3):
        assert markers_at(both, column, row) == pytest.approx(markers_at(whole, column + 2, row + 1))
    only_map = plot.markers(signal, xmap[1:, 2:5], show_progressbar=False)
    assert markers_at(only_map, 2, 1) == pytest.approx(markers_at(whole, 2, 1)) and not len(markers_at(only_map, 1, 1))
    line = plot.markers(signal.inav[:, 1], xmap[1], show_progressbar=False)
    assert line.kwargs["offsets"].shape == (6,)
    single = plot.markers(signal.inav[2, 1], xmap[1, 2], show_progressbar=False)
    assert single.kwargs["offsets"] == pytest.approx(markers_at(whole, 2, 1))


def test_markers_of_other_candidates_and_phases():
    signal = make_signal(np.zeros((*SHAPE, 48, 50)), CALIBRATION, "test")
    cubic, other = make_phase(), make_phase("Ti", 2.95, 194, (("Ti", (1 / 3, 2 / 3, 0.25)),))
    quaternions = Rotation.from_euler(np.deg2rad([(20, 0, 0), (50, 0, 0)])).data
    two = make_map(n_best=2, phases=[cubic, other])
    two = CrystalMap(
        Rotation(np.broadcast_to(quaternions, (24, 2, 4))), np.zeros(24, int), two.x, two.y,
        phase_list=PhaseList([cubic, other]), prop={"candidate_phase_id": np.tile([0, 1], (24, 1))},
    )  # fmt: skip
    first = plot.markers(signal, two, show_progressbar=False)
    with pytest.raises(ValueError, match=r"phases that the map does not hold \(ids \[1\]\). Give the model, or all"):
        plot.markers(signal, two, candidate=1)  # orix has dropped the phase that is nowhere the best
    second = plot.markers(signal, two, phases=[cubic, other], candidate=1, show_progressbar=False)
    assert markers_at(first, 2, 1) == pytest.approx(
        markers_at(plot.markers(signal, make_map((20, 0, 0)), show_progressbar=False), 2, 1)
    )
    k, angle = 2 / (3**0.5 * 2.95), np.deg2rad(50 + 30)  # a* is 30 degrees from a
    expected = [k * np.cos(angle), -k * np.sin(angle)]
    assert np.linalg.norm(markers_at(second, 2, 1) - expected, axis=1).min() < 1e-9
    # a map without atoms: the structure is given
    bare = make_map((20, 0, 0), phases=[without_atoms()])
    given = plot.markers(signal, bare, phases=cubic, show_progressbar=False)
    assert markers_at(given, 2, 1) == pytest.approx(markers_at(first, 2, 1))
    assert markers_at(plot.markers(signal, bare, make_model(), show_progressbar=False), 2, 1) == pytest.approx(
        markers_at(first, 2, 1)
    )


def test_maps_of_earlier_versions_can_be_read(tmp_path):
    """They have the property "crystal", and no "score"."""
    from orix import io

    from pyxem_dl.results.labels import read_labels
    from pyxem_dl.results.maps import save_map

    xmap = make_map((20, 0, 0), n_best=2, not_indexed=[3])
    xmap.prop["crystal"] = np.linspace(0, 1, 24)
    path = save_map(tmp_path / "old.h5", xmap)
    again = io.load(path)
    assert images(plot.property_map(again, "crystal"))[0][-1, -1] == pytest.approx(1)
    assert len(markers_at(plot.markers(
        make_signal(np.zeros((*SHAPE, 48, 50)), CALIBRATION, "test"), again, show_progressbar=False
    ), 2, 1))  # fmt: skip
    assert read_labels(path).size == 24
