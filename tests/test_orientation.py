import threading

import dask.array as da
import numpy as np
import pytest
import torch
from fake_network import FakeNetwork, make_model, make_phase
from orix import io
from orix.crystal_map import CrystalMap
from orix.quaternion import Rotation

from pyxem_dl import iter_predict_orientation, models, networks, open_result, predict_orientation, to_orientation_map
from pyxem_dl.frames import Calibration, beam_shift_to_center
from pyxem_dl.results import maps
from pyxem_dl.scans import Scan

DETECTOR = (21, 23)
QUIET = {"device": "cpu", "show_progressbar": False}


@pytest.fixture(autouse=True)
def _fake(monkeypatch):
    monkeypatch.setitem(networks.NETWORKS, "fake", FakeNetwork)


def make_signal(data, scale=0.1, units="1/Å", center=(10, 11), energy=200.0, step=(3.03, 2.5)):
    """Diffraction signal of an array in data order; `step` is (x, y) in nm."""
    import hyperspy.api as hs

    lazy = isinstance(data, da.Array)
    signal = hs.signals.Signal2D(data).as_lazy() if lazy else hs.signals.Signal2D(data)
    signal.set_signal_type("electron_diffraction")
    x, y = signal.axes_manager.signal_axes
    for axis, middle in ((x, center[1]), (y, center[0])):
        axis.scale, axis.offset = scale, -middle * scale
        if units:
            axis.units = units
    for axis, value in zip(signal.axes_manager.navigation_axes, step):
        axis.scale, axis.units = value, "nm"
    if energy:
        signal.set_experimental_parameters(beam_energy=energy)
    return signal


@pytest.fixture
def scan(rng):
    """Patterns (4, 5, 21, 23)."""
    return rng.gamma(0.5, 100.0, (4, 5, *DETECTOR)).astype(np.uint16)


def one_by_one(model, data, n_best, **options):
    """What the model says to each pattern alone."""
    calibration = Calibration(scale=(0.1, 0.1), center=(10.0, 11.0), shape=DETECTOR, beam_energy=200.0)
    flat = torch.as_tensor(data.reshape(-1, *DETECTOR).astype(np.float32))
    found = [model.predict_batch(p[None], calibration, n_best=max(2, n_best), **options) for p in flat]
    return [torch.cat(column).numpy() for column in zip(*found)]


def check_against_one_by_one(xmap, model, data, n_best):
    rotations, phase_id, scores, crystal = one_by_one(model, data, n_best)
    shape = (-1,) if n_best == 1 else (len(crystal), n_best)
    np.testing.assert_allclose(
        np.abs(np.sum(xmap.rotations.data.reshape(-1, n_best, 4) * rotations[:, :n_best], -1)), 1, atol=1e-5
    )
    np.testing.assert_allclose(xmap.scores, scores[:, :n_best].reshape(shape), atol=1e-5)
    np.testing.assert_allclose(xmap.reliability, 1 - scores[:, 1] / scores[:, 0], atol=1e-5)
    np.testing.assert_array_equal(xmap.score, xmap.scores.reshape(len(crystal), n_best)[:, 0])
    assert "crystal" not in xmap.prop  # it is close to 1 in vacuum, too
    threshold = model.thresholds["crystal"]
    np.testing.assert_array_equal(xmap.phase_id, np.where(crystal >= threshold, phase_id[:, 0], -1))


def turned_by(a, b):
    """Angle in radians between rotations; files keep them as Euler angles, and so lose the sign."""
    dot = np.abs(np.sum(a.data * b.data, axis=-1))
    return 2 * np.sqrt(np.clip(2 - 2 * dot, 0, None))


# ------------------------------------------------------------------ the map
@pytest.mark.parametrize("n_best", [1, 3])
@pytest.mark.parametrize("chunks, batch_size", [(None, 7), ((3, 2, -1, -1), 1), ((1, 4, 10, 10), 6), (-1, None)])
def test_map_is_that_of_a_loop_whatever_the_chunks(scan, n_best, chunks, batch_size):
    model = make_model(2)
    data = scan if chunks is None else da.from_array(scan, chunks=chunks)
    xmap = predict_orientation(make_signal(data), model, n_best=n_best, batch_size=batch_size, **QUIET)
    assert isinstance(xmap, CrystalMap)
    assert xmap.shape == (4, 5) and xmap.rotations_per_point == n_best
    assert (round(xmap.dx, 6), round(xmap.dy, 6), xmap.scan_unit) == (3.03, 2.5, "nm")
    check_against_one_by_one(xmap, model, scan, n_best)


@pytest.mark.parametrize("navigation", [(), (1,), (7,), (1, 6), (6, 1)])
@pytest.mark.parametrize("lazy", [False, True])
def test_any_navigation_dimension(rng, navigation, lazy, tmp_path):
    data = rng.gamma(0.5, 100.0, (*navigation, *DETECTOR))
    model = make_model(thresholds={"crystal": 0.0})
    signal = make_signal(da.from_array(data) if lazy else data)
    xmap = predict_orientation(signal, model, n_best=2, **QUIET)
    assert xmap.size == max(1, int(np.prod(navigation)))
    check_against_one_by_one(xmap, model, data, 2)
    io.save(str(tmp_path / "map.h5"), xmap)
    again = io.load(str(tmp_path / "map.h5"))
    assert turned_by(again.rotations, xmap.rotations).max() < 1e-6


def test_properties_fit_for_maps_and_candidates_know_their_phase(scan):
    model = make_model(2, thresholds={"crystal": 0.0})
    single = predict_orientation(make_signal(scan), model, **QUIET)
    assert single.get_map_data("scores").shape == (4, 5)
    several = predict_orientation(make_signal(scan), model, n_best=3, **QUIET)
    np.testing.assert_array_equal(several.prop["candidate_phase_id"], one_by_one(model, scan, 3)[1])
    assert "candidate_phase_id" not in single.prop
    # one number for a point: orix can plot it, and a file keeps it
    np.testing.assert_array_equal(several.prop["score"], several.prop["scores"][:, 0])
    assert several.get_map_data("score").shape == (4, 5)
    figure = several.plot("score", return_figure=True)
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), several.score.reshape(4, 5))
    assert set(several.prop) == {"score", "scores", "reliability", "candidate_phase_id"}
    assert [p.name for _, p in single.phases] == ["MgO", "Ti"]
    assert len({p.color for _, p in single.phases}) == 2


def test_masked_positions_are_not_in_the_data(scan, rng):
    mask = rng.random((4, 5)) < 0.4
    model = make_model()
    xmap = predict_orientation(make_signal(scan), model, navigation_mask=mask, **QUIET)
    np.testing.assert_array_equal(xmap.is_in_data.reshape(4, 5), ~mask)
    whole = predict_orientation(make_signal(scan), model, **QUIET)
    np.testing.assert_allclose(xmap.scores, whole.scores[~mask.ravel()], atol=1e-6)


def test_a_transposed_signal_keeps_its_order(scan):
    model = make_model()
    expected = predict_orientation(make_signal(scan), model, **QUIET)
    swapped = make_signal(scan).transpose(navigation_axes=(1, 0))
    xmap = predict_orientation(swapped, model, **QUIET)
    assert xmap.shape == (5, 4)
    np.testing.assert_allclose(xmap.scores.reshape(5, 4).T.ravel(), expected.scores, atol=1e-6)


def spoil(data):
    """Patterns 0 to 4 cannot be indexed, whatever the network says."""
    data = data.reshape(-1, *DETECTOR).astype(np.float32)
    data[0], data[1], data[2], data[3, 3, 4], data[4] = 0, 65535, 7, np.nan, -1.0
    return data.reshape(4, 5, *DETECTOR)


@pytest.mark.parametrize("suffix", [".h5", ".ang"])
@pytest.mark.parametrize("n_best, n_phases", [(1, 1), (3, 1), (1, 2), (3, 2)])
def test_map_survives_orix_files(scan, tmp_path, suffix, n_best, n_phases):
    model = make_model(n_phases, thresholds={"crystal": 0.0})
    mask = np.zeros((4, 5), dtype=bool)
    mask[3, 3] = True
    xmap = predict_orientation(make_signal(spoil(scan)), model, n_best=n_best, navigation_mask=mask, **QUIET)
    assert (xmap.phase_id[:5] == -1).all() and (xmap.phase_id[5:] >= 0).all()
    assert xmap.phases[-1].color in ("darkgray", "darkgrey")  # as in our own pictures
    path = maps.save_map(tmp_path / f"map{suffix}", xmap)
    again = io.load(str(path))
    good = slice(5, 18)  # before the masked position
    best, best_again = xmap.rotations[good], again.rotations[good]
    if n_best > 1:
        best = best[:, 0]
        best_again = best_again[:, 0] if suffix == ".h5" else best_again
    assert turned_by(best, best_again).max() < 1e-4
    np.testing.assert_array_equal(again.is_indexed[:5], False)
    np.testing.assert_array_equal(again.is_indexed[good], True)
    assert [p.name for i, p in again.phases if i >= 0] == [p.name for i, p in xmap.phases if i >= 0]
    assert again.scan_unit == ("nm" if suffix == ".h5" else again.scan_unit)
    if suffix == ".h5":
        np.testing.assert_array_equal(again.phase_id, xmap.phase_id)
        np.testing.assert_array_equal(again.is_in_data, xmap.is_in_data)
        assert set(again.prop) == set(xmap.prop)
        for name in xmap.prop:
            np.testing.assert_allclose(again.prop[name], xmap.prop[name])
    else:
        # the format knows no data that are not there: scores are its confidence index
        ci = again.prop["ci"][good]
        np.testing.assert_allclose(ci, xmap.scores[good] if n_best == 1 else xmap.scores[good][:, 0], atol=1e-3)


@pytest.mark.parametrize("suffix", [".h5", ".ang"])
@pytest.mark.parametrize("n_best", [1, 2])
def test_a_scan_without_any_crystal(tmp_path, suffix, n_best):
    signal = make_signal(np.zeros((3, 4, *DETECTOR), dtype=np.uint8))
    xmap = predict_orientation(signal, make_model(2), n_best=n_best, **QUIET)
    assert (xmap.phase_id == -1).all() and (xmap.reliability == 0).all() and xmap.shape == (3, 4)
    again = io.load(str(maps.save_map(tmp_path / f"map{suffix}", xmap)))
    assert not again.is_indexed.any()


def test_reliability_is_one_minus_the_ratio_of_the_scores():
    scores = np.array([[0.8, 0.2], [0.4, 0.4], [0.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(maps.reliability(scores), [0.75, 0, 0, 1])


def test_it_says_what_it_does(scan, capsys):
    mask = np.zeros((4, 5), dtype=bool)
    mask[0] = True
    predict_orientation(make_signal(scan), make_model(2), navigation_mask=mask, **QUIET)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "Orientation prediction:",
        "  Model: fake-200kv (fake, 200 kV)",
        "  Phases: MgO, Ti",
        "  Patterns: 15 of 21 x 23 px, 0.1 Å⁻¹ per px (5 more are excluded)",
        "  Device: cpu, 2 threads",
    ]
    assert len(lines) == 6 and lines[5].startswith("  Speed: ") and lines[5].endswith(" s)")


# ------------------------------------------------------------------ centers
def shifted_scan(rng):
    """The same kind of patterns around other centers: bright beam of 3 x 3 pixels, and the centers."""
    data = rng.random((2, 3, *DETECTOR)).astype(np.float32)
    centers = np.stack([rng.integers(8, 13, (2, 3)), rng.integers(9, 14, (2, 3))], axis=-1)
    for position in np.ndindex(2, 3):
        row, column = centers[position]
        data[position][row - 1 : row + 2, column - 1 : column + 2] += 1000
    return data, centers


@pytest.mark.parametrize("method, options", [("center_of_mass", {"threshold": 5}), ("blur", {"sigma": 1})])
@pytest.mark.parametrize("lazy", [False, True])
def test_pyxems_beam_shift_is_read_as_pyxem_means_it(rng, method, options, lazy):
    data, centers = shifted_scan(rng)
    signal = make_signal(da.from_array(data, chunks=(1, 2, -1, -1)) if lazy else data)
    shifts = signal.get_direct_beam_position(method, **options)
    calibration = Calibration(scale=(0.1, 0.1), center=(10.0, 11.0), shape=DETECTOR)
    np.testing.assert_allclose(beam_shift_to_center(np.asarray(shifts.data), calibration), centers, atol=0.02)
    read = Scan.from_signal(signal, center=shifts)
    np.testing.assert_allclose(read.centers, centers.reshape(-1, 2), atol=0.02)


def test_every_way_to_give_centers_gives_the_same_map(rng):
    data, centers = shifted_scan(rng)
    signal, model = make_signal(data), make_model()
    calibration = Calibration(scale=(0.1, 0.1), center=(10.0, 11.0), shape=DETECTOR, beam_energy=200.0)
    shifts = signal.get_direct_beam_position("blur", sigma=1)
    flat = torch.as_tensor(data.reshape(-1, 1, *DETECTOR)), torch.as_tensor(centers.reshape(-1, 1, 2))
    found = [model.predict_batch(p, calibration, centers=c, n_best=2) for p, c in zip(*flat)]
    expected = np.array([one.scores[0, 0] for one in found])
    for center in (centers, centers.astype(float), shifts):
        for batch_size in (1, 4):
            xmap = predict_orientation(signal, model, center=center, batch_size=batch_size, **QUIET)
            np.testing.assert_allclose(xmap.scores, expected, atol=1e-5)
    nominal = predict_orientation(signal, model, **QUIET)
    assert np.abs(nominal.scores - expected).max() > 0.02


def test_centers_found_on_the_device(rng):
    data, centers = shifted_scan(rng)
    signal, model = make_signal(data, scale=0.05), make_model(domain={})
    mask = np.zeros(DETECTOR, dtype=bool)
    mask[5, 5] = True
    data[:, :, 5, 5] = np.nan
    scan = Scan.from_signal(signal, center="auto", signal_mask=mask)
    found = scan.batch_centers(torch.as_tensor(data.reshape(-1, *DETECTOR)), np.arange(6)).numpy()
    np.testing.assert_allclose(found, centers.reshape(-1, 2), atol=0.05)
    options = QUIET | {"signal_mask": mask, "batch_size": 4}
    with pytest.warns(UserWarning, match="The detector covers"):
        auto = predict_orientation(signal, model, center="auto", **options)
        # "auto" moves patterns to the beam of the sample, not to where the axes say
        for axis, middle in zip(signal.axes_manager.signal_axes, scan.calibration.center[::-1], strict=True):
            axis.offset = -middle * axis.scale
        given = predict_orientation(signal, model, center=found.reshape(2, 3, 2), **options)
    assert (auto.score > 0).all()
    np.testing.assert_allclose(auto.scores, given.scores, atol=1e-5)


def test_one_center_for_all_replaces_the_calibrations(scan):
    model = make_model()
    a = predict_orientation(make_signal(scan, center=(12, 9)), model, **QUIET)
    b = predict_orientation(make_signal(scan), model, center=(12, 9), **QUIET)
    np.testing.assert_allclose(a.scores, b.scores, atol=1e-6)


def test_signal_mask_and_beam_energy_arrive(scan):
    model = make_model()
    mask = np.zeros(DETECTOR, dtype=bool)
    mask[9:12, 11:] = True
    spoilt = np.where(mask, 60000, scan)
    a, b = (predict_orientation(make_signal(x), model, signal_mask=mask, **QUIET) for x in (scan, spoilt))
    np.testing.assert_allclose(a.scores, b.scores, atol=1e-6)
    with pytest.warns(UserWarning, match="beam energy is 300 kV, .* trained for 200 kV"):
        predict_orientation(make_signal(scan), model, beam_energy=300, **QUIET)


# ------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    "changes, options, error, text",
    [
        ({"units": None}, {}, ValueError, "not calibrated"),
        ({"units": "furlong"}, {}, ValueError, "The unit 'furlong' of the signal axes is not understood"),
        ({"units": "nm"}, {}, ValueError, "looks like an image"),
        ({"units": "mrad", "energy": None}, {}, ValueError, "needs the beam energy"),
        ({}, {"navigation_mask": np.ones((4, 5), dtype=bool)}, ValueError, "navigation_mask excludes all patterns"),
        ({}, {"navigation_mask": np.zeros((5, 4), dtype=bool)}, ValueError, r"have \(4, 5\). It is transposed."),
        ({}, {"navigation_mask": np.zeros((4, 5))}, TypeError, "array of bool .True = excluded., not of float64"),
        ({}, {"signal_mask": np.ones(DETECTOR, dtype=bool)}, ValueError, "signal_mask excludes all pixels"),
        ({}, {"signal_mask": np.zeros((3, 3), dtype=bool)}, ValueError, r"signal_mask has the shape \(3, 3\)"),
        ({}, {"signal_mask": np.zeros(DETECTOR, dtype=int)}, TypeError, "signal_mask.astype"),
        ({}, {"center": "middle"}, ValueError, "center must be 'auto'"),
        ({}, {"center": np.zeros((5, 4, 2))}, ValueError, r"or an array of shape \(4, 5, 2\)"),
        ({}, {"center": (np.nan, 3)}, ValueError, "NaN or infinite"),
        ({}, {"n_best": 0}, ValueError, "n_best must be a whole number of at least 1, not 0"),
        ({}, {"batch_size": 0}, ValueError, "batch_size must be"),
        ({}, {"device": "cuda:99"}, ValueError, "is not available"),
        ({}, {"model": "no-such-model"}, ValueError, "no model or folder 'no-such-model'. Known models:"),
        ({"scale": 1e-4}, {}, ValueError, "The detector reaches only"),
    ],
)
def test_bad_input_says_what_to_do(scan, changes, options, error, text):
    model = options.pop("model", None) or make_model()
    with pytest.raises(error, match=text):
        predict_orientation(make_signal(scan, **changes), model, **(QUIET | options))


def test_other_things_than_signals(scan):
    import hyperspy.api as hs

    with pytest.raises(TypeError, match="Expected a HyperSpy signal, not ndarray"):
        predict_orientation(scan, make_model(), **QUIET)
    with pytest.raises(ValueError, match="Use `s.transpose"):
        predict_orientation(hs.signals.Signal1D(scan[0, 0]), make_model(), **QUIET)
    with pytest.raises(TypeError, match="the only signal that can be given is pyxem's BeamShift"):
        predict_orientation(make_signal(scan), make_model(), center=hs.signals.Signal1D(np.zeros((4, 5, 2))), **QUIET)
    with pytest.raises(ValueError, match="must have 2, 3 or 4 .0, 1 or 2 navigation dimensions"):
        predict_orientation(make_signal(scan[None]), make_model(), **QUIET)


# ------------------------------------------------------------------ interruption
class Interrupting:
    """Makes `predict_batch` raise after some batches."""

    def __init__(self, monkeypatch, after, error=KeyboardInterrupt):
        self.calls, original = 0, models.OrientationModel.predict_batch

        def predict_batch(model, *args, **kwargs):
            self.calls += 1
            if self.calls > after:
                raise error
            return original(model, *args, **kwargs)

        monkeypatch.setattr(models.OrientationModel, "predict_batch", predict_batch)


def test_an_interrupted_prediction_keeps_what_is_done(scan, monkeypatch):
    whole = predict_orientation(make_signal(scan), make_model(), **QUIET)
    with monkeypatch.context() as patch:
        Interrupting(patch, 2)
        with pytest.warns(UserWarning, match="Interrupted after 6 of 20 patterns"):
            xmap = predict_orientation(make_signal(scan), make_model(), batch_size=3, **QUIET)
    np.testing.assert_array_equal(xmap.is_in_data, np.arange(20) < 6)
    np.testing.assert_allclose(xmap.scores, whole.scores[:6], atol=1e-6)
    with monkeypatch.context() as patch:
        Interrupting(patch, 0)
        with pytest.raises(KeyboardInterrupt):
            predict_orientation(make_signal(scan), make_model(), **QUIET)


@pytest.mark.parametrize("ending", [".h5", ".ang", ".ctf", ".zarr"])
def test_a_map_goes_into_a_file(scan, tmp_path, ending):
    path = tmp_path / f"map{ending}"
    xmap = predict_orientation(make_signal(scan), make_model(), output=path, **QUIET)
    expected = predict_orientation(make_signal(scan), make_model(), **QUIET)
    np.testing.assert_array_equal(xmap.rotations.data, expected.rotations.data)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    if ending == ".zarr":
        saved = open_result(path)
    else:
        saved = io.load(str(path))
    assert saved.shape == (4, 5)
    assert turned_by(saved.rotations, expected.rotations).max() < 0.1


def test_an_interrupted_file_goes_on_where_it_was(scan, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(models.OrientationModel, "micro_batch", 3)
    path, mask = tmp_path / "map.h5", np.arange(20).reshape(4, 5) == 7
    lazy = make_signal(da.from_array(scan, chunks=(2, 2, -1, -1)))
    options = QUIET | {"batch_size": 3, "n_best": 2, "navigation_mask": mask}
    with monkeypatch.context() as patch:
        Interrupting(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            predict_orientation(lazy, make_model(), output=path, **options)
    assert "9 of 19 patterns are saved in" in capsys.readouterr().out
    assert not path.exists() and (tmp_path / "map.h5.partial").exists()
    with monkeypatch.context() as patch:
        counter = Interrupting(patch, 99)
        xmap = predict_orientation(lazy, make_model(), output=path, **options)
        assert counter.calls == 4
    assert "Continuing after 9 patterns" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["map.h5"]
    expected = predict_orientation(lazy, make_model(), **options)
    np.testing.assert_array_equal(xmap.rotations.data, expected.rotations.data)


def test_files_are_looked_at_before_the_work(scan, tmp_path):
    with pytest.raises(ValueError, match=r"saved as .h5, .hdf5, .ang, .ctf, not as 'map.csv'"):
        predict_orientation(make_signal(scan), make_model(), output=tmp_path / "map.csv", **QUIET)
    (tmp_path / "map.h5").touch()
    with pytest.raises(FileExistsError, match="already exists. Give another name, or overwrite=True"):
        predict_orientation(make_signal(scan), make_model(), output=tmp_path / "map.h5", **QUIET)
    predict_orientation(make_signal(scan), make_model(), output=tmp_path / "map.h5", overwrite=True, **QUIET)
    assert io.load(str(tmp_path / "map.h5")).shape == (4, 5)


# ------------------------------------------------------------------ as it comes
@pytest.mark.parametrize("lazy", [False, True])
def test_a_map_that_grows(scan, monkeypatch, lazy):
    monkeypatch.setattr(models.OrientationModel, "micro_batch", 3)
    signal = make_signal(da.from_array(scan, chunks=(2, 2, -1, -1)) if lazy else scan)
    mask = np.arange(20).reshape(4, 5) == 7
    whole = predict_orientation(signal, make_model(), n_best=2, navigation_mask=mask, **QUIET)
    numbers = []
    for partial in iter_predict_orientation(signal, make_model(), n_best=2, navigation_mask=mask, **QUIET):
        assert partial.n == 19 and partial.done.shape == (4, 5) and partial.done.sum() == partial.n_done
        assert repr(partial) == f"Partial result: {partial.n_done} of 19 positions"
        numbers.append(partial.n_done)
        xmap = partial.to_crystal_map()
        np.testing.assert_array_equal(xmap.is_in_data, partial.done.ravel())
        there = np.isin(whole.id, xmap.id)
        np.testing.assert_array_equal(xmap.rotations.data, whole.rotations.data[there])
        np.testing.assert_array_equal(xmap.scores, whole.scores[there])
    assert numbers == sorted(set(numbers)) and len(numbers) == 7 and numbers[-1] == 19


def test_what_is_done_does_not_change_with_the_work(scan, monkeypatch):
    monkeypatch.setattr(models.OrientationModel, "micro_batch", 3)
    work = iter_predict_orientation(make_signal(scan), make_model(), **QUIET)
    done, xmap = (partial := next(work)).done, partial.to_crystal_map()
    next(work)
    assert done.sum() == xmap.is_in_data.sum() == 3 and partial.n_done == 6


def test_who_leaves_the_loop_stops_the_work(scan, monkeypatch):
    monkeypatch.setattr(models.OrientationModel, "micro_batch", 3)
    counter, threads = Interrupting(monkeypatch, 99), torch.get_num_threads()
    for partial in iter_predict_orientation(make_signal(np.tile(scan, (5, 1, 1, 1))), make_model(), **QUIET):
        if partial.n_done >= 9:
            break
    del partial
    assert counter.calls < 20 and torch.get_num_threads() == threads


def test_arguments_are_looked_at_before_the_loop(scan):
    with pytest.raises(ValueError, match="n_best"):
        iter_predict_orientation(make_signal(scan), make_model(), n_best=0, **QUIET)


def test_parts_and_messages_go_to_who_listens(scan, monkeypatch, capsys):
    monkeypatch.setattr(models.OrientationModel, "micro_batch", 3)
    parts, lines, thread = [], [], threading.get_ident()

    def on_part(part):
        assert threading.get_ident() == thread
        parts.append(part)

    xmap = predict_orientation(make_signal(scan), make_model(), on_part=on_part, on_message=lines.append, **QUIET)
    assert capsys.readouterr() == ("", "")
    assert lines[0] == "Orientation prediction:" and "fake-200kv" in lines[1] and lines[-1].startswith("  Speed: ")
    indices = np.concatenate([part.indices for part in parts])
    np.testing.assert_array_equal(indices, np.arange(20))
    np.testing.assert_array_equal(np.concatenate([part.arrays["scores"][:, 0] for part in parts]), xmap.scores)


def test_who_listens_may_stop_the_work(scan, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(models.OrientationModel, "micro_batch", 3)
    seen = []

    def on_part(part):
        seen.extend(part.indices)
        return len(seen) < 9

    with pytest.warns(UserWarning, match="Interrupted after 9 of 20 patterns: the rest is not in the data"):
        xmap = predict_orientation(make_signal(scan), make_model(), on_part=on_part, **QUIET)
    assert xmap.is_in_data.sum() == 9
    for name in ("map.h5", "map.zarr"):
        seen.clear()
        path = tmp_path / name
        with pytest.warns(UserWarning, match="Interrupted after 9 of 20 patterns"):
            predict_orientation(make_signal(scan), make_model(), output=path, on_part=on_part, **QUIET)
        store = path if name == "map.zarr" else tmp_path / "map.h5.partial"
        assert f"9 of 20 patterns are saved in {store}: repeat the call to do the rest" in capsys.readouterr().out
        assert store.is_dir() and path.exists() == (name == "map.zarr")
        xmap = predict_orientation(make_signal(scan), make_model(), output=path, **QUIET)
        assert xmap.is_in_data.all() and "Continuing after 9 patterns" in capsys.readouterr().out


def test_an_error_of_who_listens_arrives_and_what_is_done_is_kept(scan, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(models.OrientationModel, "micro_batch", 3)
    path = tmp_path / "map.zarr"
    with pytest.raises(ZeroDivisionError):
        predict_orientation(make_signal(scan), make_model(), output=path, on_part=lambda part: 1 / 0, **QUIET)
    assert f"3 of 20 patterns are saved in {path}" in capsys.readouterr().out


def test_progress_bar_as_asked(scan, capsys):
    import hyperspy.api as hs

    def said(**options):
        predict_orientation(make_signal(scan), make_model(), device="cpu", **options)
        return capsys.readouterr().err

    assert "20/20" in said(show_progressbar=True)
    assert said(show_progressbar=False) == ""
    before = hs.preferences.General.show_progressbar
    try:
        hs.preferences.General.show_progressbar = False
        assert said(show_progressbar=None) == ""
    finally:
        hs.preferences.General.show_progressbar = before


# ------------------------------------------------------------------ pyxem's orientation map
def spots_of(phase, rotation, radius=1.2, limit=0.02, energy=200.0):
    """Where the spots of an orientation stand in a pattern plotted by HyperSpy: (x, y) with y downwards."""
    from diffsims.generators.simulation_generator import SimulationGenerator

    found = SimulationGenerator(energy).calculate_diffraction2d(
        phase, rotation, reciprocal_radius=2 * radius, max_excitation_error=limit
    )
    xyz = found.coordinates.data
    length = np.linalg.norm(xyz, axis=1)
    return xyz[(length <= radius) & (length > 0)][:, :2] * [1, -1]


def crystal_map(rotations, phases, shape, phase_id=None, candidates=None):
    """Map of given rotations (n, n_best)."""
    rows, columns = np.indices(shape).reshape(2, -1)
    n = len(rows)
    prop = {"scores": np.linspace(1, 0.1, rotations.size).reshape(rotations.shape)}
    if candidates is not None:
        prop["candidate_phase_id"] = candidates
    phase_id = np.zeros(n, dtype=int) if phase_id is None else phase_id
    return CrystalMap(
        rotations, phase_id, columns * 3.0, rows * 2.0, phase_list=maps.phase_list(phases), prop=prop, scan_unit="nm"
    )


def marker_offsets(markers, row, column):
    return np.asarray(markers.kwargs["offsets"][column, row])


def test_pyxems_own_map_and_markers_give_back_the_orientations():
    rotations, phase = Rotation.random((6, 2)), make_phase()
    xmap = crystal_map(rotations, [phase], (2, 3))
    signal = to_orientation_map(xmap, beam_energy=200, reciprocal_radius=1.2)
    assert type(signal).__name__ == "OrientationMap" and signal.axes_manager.navigation_shape == (3, 2)
    assert [a.scale for a in signal.axes_manager.navigation_axes] == [3.0, 2.0]
    again = signal.to_crystal_map()
    np.testing.assert_allclose(np.cos((again.rotations * ~rotations).angle / 2) ** 2, 1, atol=1e-10)
    np.testing.assert_allclose(signal.data[..., 1].reshape(6, 2), xmap.scores)
    for n, markers in enumerate(signal.to_markers(n_best=2)):
        for i in range(6):
            spots, expected = marker_offsets(markers, *divmod(i, 3)), spots_of(phase, rotations[i, n])
            assert len(spots) == len(expected)
            distance = np.linalg.norm(spots[:, None] - expected[None], axis=-1)
            assert distance.min(0).max() < 1e-9 and distance.min(1).max() < 1e-9
    assert signal.to_ipf_markers()


def test_bridge_with_two_phases_a_hexagonal_cell_and_nothing_indexed():
    phases = [make_phase(), make_phase("Ti", 2.95, 194, (("Ti", (1 / 3, 2 / 3, 0.25)),))]
    rotations = Rotation.random((4, 2))
    candidates = np.array([[0, 1], [1, 1], [1, 0], [0, 0]])
    phase_id = np.array([0, 1, 1, -1])
    xmap = crystal_map(rotations, phases, (2, 2), phase_id, candidates)
    signal = to_orientation_map(xmap, beam_energy=200, reciprocal_radius=1.2)
    np.testing.assert_array_equal(signal.to_phase_index().reshape(4, 2)[:3], candidates[:3])
    again = signal.to_crystal_map()
    np.testing.assert_allclose(np.cos((again.rotations * ~rotations).angle / 2) ** 2, 1, atol=1e-10)
    markers = signal.to_markers()[0]
    for i in range(3):
        spots, expected = marker_offsets(markers, *divmod(i, 2)), spots_of(phases[phase_id[i]], rotations[i, 0])
        assert len(spots) == len(expected)
        assert np.linalg.norm(spots[:, None] - expected[None], axis=-1).min(1).max() < 1e-9
    np.testing.assert_allclose(marker_offsets(markers, 1, 1), [[0, 0]], atol=1e-12)
    assert (signal.data[1, 1, :, 1] == 0).all()


def test_bridge_makes_the_spots_of_diffsims():
    from diffsims.generators.simulation_generator import SimulationGenerator

    generator = SimulationGenerator(200.0)
    for phase in (make_phase(), make_phase("Ti", 2.95, 194, (("Ti", (1 / 3, 2 / 3, 0.25)),))):
        xmap = crystal_map(Rotation.random((8, 1)), [phase], (2, 4))
        library = to_orientation_map(xmap, beam_energy=200, reciprocal_radius=1.2, show_progressbar=False).simulation
        for rotation, spots in zip(library.rotations[1:], library.coordinates[1:], strict=True):
            theirs = generator.calculate_diffraction2d(
                phase, rotation, reciprocal_radius=2.4, max_excitation_error=0.02
            ).coordinates
            length = np.linalg.norm(theirs.data, axis=1)
            inside = (length > 0) & (length <= 1.2)
            # what is left of extinct reflections by rounding is none
            inside &= theirs.intensity > 1e-7 * theirs.intensity[length > 0].max(initial=1)
            if not inside.any():
                assert np.all(spots.data == 0)  # the direct beam alone
                continue
            distance = np.linalg.norm(spots.data[:, None] - theirs.data[inside][None], axis=-1)
            nearest = distance.argmin(1)
            assert len(spots.data) == inside.sum() and distance.min(1).max() < 1e-9
            np.testing.assert_allclose(spots.hkl, theirs.hkl[inside][nearest], atol=1e-8)
            np.testing.assert_allclose(spots.intensity, theirs.intensity[inside][nearest], rtol=1e-6)


def test_bridge_of_a_cropped_map_stays_cropped(capsys):
    rotations, phase = Rotation.random((20, 1)), make_phase()
    xmap = crystal_map(rotations, [phase], (4, 5))
    signal = to_orientation_map(xmap[1:3, 2:5], beam_energy=200, reciprocal_radius=1.2)
    assert signal.data.shape == (2, 3, 1, 4)
    assert [(a.scale, a.offset) for a in signal.axes_manager.navigation_axes] == [(3.0, 6.0), (2.0, 2.0)]
    again = signal.to_crystal_map().rotations.data.reshape(2, 3, 4)
    kept = rotations.data.reshape(4, 5, 4)[1:3, 2:5]
    np.testing.assert_allclose(np.abs((again * kept).sum(-1)), 1, atol=1e-10)
    assert "orientations" in capsys.readouterr().err  # the bar
    # what a mask leaves out inside of the rectangle has its place
    masked = crystal_map(rotations, [phase], (4, 5))
    there = np.ones((4, 5), dtype=bool)
    there[0], there[2, 2] = False, False
    masked = masked[there.ravel()]
    signal = to_orientation_map(masked, beam_energy=200, reciprocal_radius=1.2, show_progressbar=False)
    assert signal.data.shape == (3, 5, 1, 4)
    correlation = signal.data[..., 0, 1]
    assert correlation[1, 2] == 0 and (np.delete(correlation.ravel(), 7) > 0).all()


def test_bridge_of_a_prediction_takes_all_from_the_model(scan):
    model = make_model(2, thresholds={"crystal": 0.0})
    mask = np.zeros((4, 5), dtype=bool)
    mask[2, 2] = True
    xmap = predict_orientation(make_signal(spoil(scan)), model, navigation_mask=mask, **QUIET)
    signal = to_orientation_map(xmap, model)
    assert signal.data.shape == (4, 5, 1, 4)
    assert (signal.data[0, :, 0, 1] == 0).all() and signal.data[2, 2, 0, 1] == 0
    markers = signal.to_markers()[0]
    assert len(marker_offsets(markers, 0, 0)) == 1 and len(marker_offsets(markers, 3, 3)) > 1
    several = to_orientation_map(predict_orientation(make_signal(scan), model, n_best=2, **QUIET), model)
    np.testing.assert_array_equal(several.to_phase_index().reshape(20, 2), one_by_one(model, scan, 2)[1])


@pytest.mark.parametrize("shape", [(1,), (3,)])
def test_bridge_of_a_single_pattern_and_a_line(shape, rng):
    model = make_model(thresholds={"crystal": 0.0})
    data = rng.gamma(0.5, 100.0, (*shape, *DETECTOR))
    signal = to_orientation_map(predict_orientation(make_signal(data), model, **QUIET), model)
    assert signal.to_rotation().size == shape[0]
    if shape[0] > 1:  # with a single position pyxem 0.21 itself fails
        assert len(signal.to_markers()) == 1


def test_bridge_says_what_it_needs(scan):
    xmap = crystal_map(Rotation.random((4, 1)), [make_phase()], (2, 2))
    with pytest.raises(ValueError, match="Give a model, or beam_energy .kV. and reciprocal_radius"):
        to_orientation_map(xmap)
    empty = crystal_map(Rotation.random((4, 1)), [make_phase()], (2, 2), np.full(4, -1))
    with pytest.raises(ValueError, match="Nothing is indexed in this map, and it has no phase: give a model"):
        to_orientation_map(empty, beam_energy=200, reciprocal_radius=1.0)
