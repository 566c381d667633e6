"""The viewer's core: the same answers as the verbs, settings that count, words where there is nothing to show."""

import threading
import warnings

import dask.array as da
import numpy as np
import pytest
from fake_network import FakeNetwork, make_model, make_phase
from orix.crystal_map import CrystalMap, Phase, PhaseList
from orix.quaternion import Rotation

from pyxem_dl import networks, plot, predict_orientation
from pyxem_dl.data import lithium_nickel_oxide, polycrystal
from pyxem_dl.frames import Calibration
from pyxem_dl.gui import Latest, Session
from pyxem_dl.gui.chunks import MOST_BYTES, ChunkCache
from pyxem_dl.scans import make_signal
from pyxem_dl.symmetry import proper_operations, stack_operations

SHAPE, DETECTOR = (4, 5), (21, 23)
CALIBRATION = Calibration((0.1, 0.1), (10.0, 11.0), DETECTOR, 200.0)
QUIET = {"device": "cpu", "show_progressbar": False, "on_message": lambda line: None}
ALWAYS = {"crystal": 0.0, "score": 0.0}


@pytest.fixture(autouse=True)
def _fake(monkeypatch):
    monkeypatch.setitem(networks.NETWORKS, "fake", FakeNetwork)


def make_patterns(rng, navigation=SHAPE, center=(10, 11)):
    """Patterns with a direct beam."""
    row, column = np.indices(DETECTOR)
    beam = 2e3 * np.exp(-((row - center[0]) ** 2 + (column - center[1]) ** 2))
    return (rng.gamma(0.5, 100.0, (*navigation, *DETECTOR)) + beam).astype(np.float32)


@pytest.fixture
def patterns(rng):
    return make_patterns(rng)


@pytest.fixture
def signal(patterns):
    return make_signal(patterns, CALIBRATION, "test")


def make_map(n_best=1, shape=SHAPE, phases=None, not_indexed=(), **prop):
    n = int(np.prod(shape))
    row, column = np.indices(shape).reshape(2, -1)
    phase_id = np.zeros(n, dtype=int)
    phase_id[list(not_indexed)] = -1
    scores = np.linspace(0.1, 0.9, n)[:, None] / np.arange(1, n_best + 1)
    return CrystalMap(
        Rotation(np.random.default_rng(1).normal(size=(n, n_best, 4)) if n_best > 1 else Rotation.random(n).data),
        phase_id, x=column, y=row, phase_list=PhaseList(phases or [make_phase()]),
        prop={"scores": scores if n_best > 1 else scores[:, 0]} | prop,
    )  # fmt: skip


def degrees(a, b):
    """Angle between rotations."""
    a, b = (np.asarray(q, dtype=float) / np.linalg.norm(q) for q in (a, b))
    return np.rad2deg(4 * np.arcsin(min(np.linalg.norm(a - b), np.linalg.norm(a + b)) / 2))


def frames(session):
    rows, columns = ((1, 1) + session.navigation_shape)[-2:]
    return [session.frame(x, y) for y in range(rows) for x in range(columns)]


def assert_as_map(session, xmap, angle=1e-3, score=1e-5):
    """What a session shows is what a map has."""
    n_best = xmap.rotations_per_point
    rotations = xmap.rotations.data.reshape(-1, n_best, 4)
    scores = np.asarray(xmap.prop["scores"]).reshape(-1, n_best)
    every = frames(session)
    assert len(every) == xmap.size
    assert [frame.indexed for frame in every] == (xmap.phase_id >= 0).tolist()
    for i, frame in enumerate(every):
        for m, candidate in enumerate(frame.candidates):
            assert abs(candidate.score - scores[i, m]) < score
            assert degrees(candidate.rotation, rotations[i, m]) < angle
    return every


# ------------------------------------------------------------------ the same answers
@pytest.fixture(scope="module")
def simulated():
    return polycrystal((4, 5), 2e4, n_grains=4, pixels=64).signal


@pytest.mark.parametrize("name", ["linio2-200kv", "any-crystal"])
def test_answers_are_those_of_predict_orientation(simulated, name):
    phases = lithium_nickel_oxide() if name == "any-crystal" else None
    xmap = predict_orientation(simulated, name, phases=phases, n_best=2, **QUIET)
    session = Session(simulated, name, phases=phases, device="cpu")
    session.candidates = 2
    every = assert_as_map(session, xmap, angle=0.1, score=1e-2)
    assert sum(len(frame.candidates[0].row) > 3 for frame in every if frame.indexed) >= 10
    assert all(f"Model {name} " in frame.text and "200 kV" in frame.text for frame in every)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("n_best, thresholds", [(1, {"crystal": 0.5, "score": 0.6}), (3, ALWAYS)])
def test_all_positions_are_those_of_the_map(patterns, lazy, n_best, thresholds):
    model = make_model(2, thresholds=thresholds, precision="float32")
    data = da.from_array(patterns, chunks=((3, 1), 2, 10, -1)) if lazy else patterns
    signal = make_signal(data, CALIBRATION, "test")
    session = Session(signal, model, device="cpu")
    session.candidates = n_best
    every = assert_as_map(session, predict_orientation(signal, model, n_best=n_best, **QUIET))
    assert {len(frame.candidates) for frame in every} <= {0, n_best}
    assert np.array_equal([frame.pattern for frame in every], patterns.reshape(-1, *DETECTOR))
    assert {candidate.phase for frame in every for candidate in frame.candidates} <= {"MgO", "Ti"}
    if thresholds is not ALWAYS:
        assert 0 < sum(frame.indexed for frame in every) < len(every)


@pytest.mark.parametrize("navigation", [(), (1,), (5,), (1, 6), (6, 1)])
def test_any_navigation_dimension(rng, navigation):
    model = make_model(thresholds=ALWAYS, precision="float32")
    signal = make_signal(make_patterns(rng, navigation), CALIBRATION, "test")
    session = Session(signal, model, device="cpu")
    assert session.navigation_shape == navigation
    xmap = predict_orientation(signal, model, **QUIET)
    assert_as_map(session, xmap)
    shown = frames(Session(signal, xmap=xmap))
    assert [frame.candidates[0].score for frame in shown] == pytest.approx(xmap.prop["score"])
    assert session.frame().text.startswith("(x, y) = (0, 0)\n1. MgO: score 0.")


@pytest.mark.parametrize("center", ["auto", (9.0, 12.5), "array"])
@pytest.mark.filterwarnings("ignore:The direct beam seems to be")
def test_the_direct_beam_is_that_of_predict_orientation(center, rng):
    center = rng.uniform(9, 11, (*SHAPE, 2)) if isinstance(center, str) and center == "array" else center
    signal = make_signal(make_patterns(rng, center=(10.4, 11.3)), CALIBRATION, "test")
    model = make_model(thresholds=ALWAYS, precision="float32")
    session = Session(signal, model, center=center, device="cpu")
    every = assert_as_map(session, predict_orientation(signal, model, center=center, **QUIET))
    centers = np.array([frame.center for frame in every])
    if isinstance(center, str):
        assert np.abs(centers - (10.4, 11.3)).max() < 0.7 and centers.std(0).min() > 0
    else:
        assert centers == pytest.approx(np.broadcast_to(center, (*SHAPE, 2)).reshape(-1, 2))


def test_an_ensemble_gives_one_orientation(signal):
    pair = [FakeNetwork(["m-3m"], seed=seed) for seed in (0, 1)]
    for network in pair:
        network.register_buffer("operations", stack_operations([proper_operations(make_phase())]), persistent=False)
    pair = [make_model(thresholds=ALWAYS, precision="float32", network=network) for network in pair]
    session = Session(signal, pair, device="cpu")
    assert_as_map(session, predict_orientation(signal, pair, **QUIET))
    with pytest.raises(ValueError, match="candidates must be a whole number of at most 1, not 2"):
        session.candidates = 2


def test_one_pattern_is_computed_alone_in_the_precision_of_the_model(signal, monkeypatch):
    seen = []
    predict = FakeNetwork.predict
    monkeypatch.setattr(FakeNetwork, "predict", lambda self, x, n: seen.append(x.shape[0]) or predict(self, x, n))
    model = make_model(thresholds=ALWAYS, precision="bfloat16")
    session = Session(signal, model, device="cpu")
    score = session.frame(1, 2).candidates[0].score
    assert seen == [1] and model.padding  # the user's own stays
    assert abs(predict_orientation(signal, model, **QUIET).prop["score"][11] - score) < 1e-5
    other = Session(signal, make_model(thresholds=ALWAYS, precision="float32"), device="cpu")
    assert abs(other.frame(1, 2).candidates[0].score - score) > 1e-5


# ------------------------------------------------------------------ settings
def test_scale_and_beam_change_what_is_predicted_and_where_spots_are(patterns, signal):
    model = make_model(thresholds=ALWAYS, precision="float32")
    session = Session(signal, model, device="cpu")
    before = session.frame(2, 1)
    session.scale_factor, session.center_shift = 1.04, (1.0, -0.5)
    after = session.frame(2, 1)
    assert after.center == (11.0, 10.5) and "Scale × 1.04, direct beam moved by (1, -0.5) px" in after.text
    other = CALIBRATION.replace(scale=(0.104, 0.104), center=(11.0, 10.5))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_as_map(session, predict_orientation(make_signal(patterns, other, "test"), model, **QUIET))
    assert after.candidates[0].score != before.candidates[0].score
    session.scale_factor, session.center_shift = 1.0, (0, 0)
    assert session.frame(2, 1).text == before.text


def test_spots_follow_scale_and_beam(signal):
    session = Session(signal, xmap=make_map(), max_excitation_error=0.1)
    (before,) = session.frame(2, 1).candidates
    session.scale_factor = 1.05
    session.center_shift = (0.5, -0.25)
    (after,) = session.frame(2, 1).candidates
    places = {tuple(hkl): (row, column) for hkl, row, column in zip(before.hkl.tolist(), before.row, before.column)}
    assert len(after.hkl) >= len(places) > 3 and len(before.row) == len(before.intensity)
    for hkl, row, column in zip(after.hkl.tolist(), after.row, after.column):
        if tuple(hkl) in places:  # a larger pixel brings what was outside onto the detector
            expected = (np.array(places[tuple(hkl)]) - (10, 11)) / 1.05 + (10.5, 10.75)
            assert (row, column) == pytest.approx(expected)


def test_thresholds_decide_and_are_named(signal):
    session = Session(signal, make_model(thresholds={"crystal": 0.6, "score": 0.05}), device="cpu")
    assert (session.threshold, session.crystal_threshold) == (0.05, 0.6)
    session.threshold = session.crystal_threshold = 0.0
    score = session.frame(3, 3).candidates[0].score
    session.threshold = score + 0.01
    frame = session.frame(3, 3)
    assert not frame.indexed and frame.candidates == []
    assert f"Not indexed: the score is too low. Score {score:.4f}, threshold {score + 0.01:.4f}; " in frame.text
    session.threshold, session.crystal_threshold = 0.0, 1.0
    text = session.frame(3, 3).text
    assert "Not indexed: the probability of a crystal is too low." in text and "crystal 0." in text
    assert "threshold 1.0000" in text
    session.threshold = 1.0
    assert "the score and the probability of a crystal are too low" in session.frame(3, 3).text


def test_changes_are_heard(signal):
    session, heard = Session(signal, make_model(), device="cpu"), []
    session.observe(lambda event: heard.append((event.name, event.new)), "candidates, scale_factor")
    session.candidates, session.scale_factor = 3, 0.98
    assert heard == [("candidates", 3), ("scale_factor", 0.98)]


@pytest.mark.parametrize(
    "name, value, text",
    [
        ("candidates", 0, "candidates must be a whole number of at least 1, not 0"),
        ("candidates", 11, r"at most 10, not 11: .* \(Model fake-200kv \(fake, 200 kV\)\)"),
        ("candidates", "two", "candidates must be a whole number of at least 1, not 'two'"),
        ("threshold", 1.5, "threshold must be a number from 0 to 1, not 1.5"),
        ("crystal_threshold", None, "crystal_threshold must be a number from 0 to 1, not None"),
        ("scale_factor", 1.2, "scale_factor must be a number from 0.95 to 1.05, not 1.2"),
        ("scale_factor", float("nan"), "scale_factor must be a number from 0.95 to 1.05, not nan"),
        ("center_shift", 3, r"center_shift must be two numbers, \(rows, columns\) in pixels, not 3"),
        ("center_shift", (0, np.inf), "center_shift must be a finite number, not inf"),
    ],
)
def test_settings_out_of_range_are_refused_and_nothing_changes(signal, name, value, text):
    session = Session(signal, make_model(), device="cpu")
    before = getattr(session, name)
    with pytest.raises((ValueError, TypeError), match=text):
        setattr(session, name, value)
    assert getattr(session, name) == before


def test_a_beam_off_the_detector_and_positions_outside_are_refused(signal):
    session = Session(signal, make_model(), device="cpu")
    for place, text in (((5, 0), "x must be .* at most 4, not 5"), ((0, 4), "y must be .* at most 3, not 4"),
                        ((-1, 0), "x must be .* at least 0, not -1"), ((0.5, 0), "x must be .* not 0.5")):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            session.frame(*place)
    session.center_shift = (11.0, 0.0)
    with pytest.raises(ValueError, match=r"center_shift \(11.0, 0.0\) .* = \(21, 11\), outside .* of 21 × 23 px"):
        session.frame(0, 0)


# ------------------------------------------------------------------ maps
def test_spots_of_a_map_are_the_markers(signal):
    xmap = make_map(n_best=2, not_indexed=[7])
    session = Session(signal, xmap=xmap, max_excitation_error=0.06)
    session.candidates = 2
    every = frames(session)
    assert not every[7].indexed and sum(frame.indexed for frame in every) == 19
    for m in range(2):
        markers = plot.markers(signal, xmap, candidate=m, max_excitation_error=0.06, show_progressbar=False)
        for frame in every:
            if frame.indexed:
                spots = frame.candidates[m]
                places = np.stack([0.1 * (spots.column - 11), 0.1 * (spots.row - 10)], axis=1)
                assert places == pytest.approx(markers.kwargs["offsets"][frame.x, frame.y], abs=1e-9)
                assert 6 + 12 * spots.intensity**0.5 == pytest.approx(markers.kwargs["sizes"][frame.x, frame.y])
    assert "Map of 20 positions (MgO)" in every[0].text


def test_a_map_says_why_with_both_numbers(signal):
    xmap = make_map(not_indexed=[0, 1])
    session = Session(signal, xmap=xmap)
    assert "Not indexed: the map left this position out. Score 0.1000, the lowest that it indexed is 0.1842." in (
        session.frame(0, 0).text
    )
    session.threshold = 0.5
    frame = session.frame(3, 0)
    assert not frame.indexed and "the score is too low. Score 0.2263, threshold 0.5000" in frame.text
    assert session.frame(4, 3).indexed
    nowhere = Session(signal, xmap=make_map(not_indexed=range(20)))
    assert "left all positions out. Score 0.1000, the highest is 0.9000" in nowhere.frame(0, 0).text
    without = make_map(not_indexed=[0])
    del without.prop["scores"]
    text = Session(signal, xmap=without).frame(0, 0).text
    assert "the map left this position out, and has no scores" in text
    assert "nan" not in Session(signal, xmap=without).frame(1, 0).text


def test_a_map_cropped_or_masked_with_its_scan(signal):
    xmap = make_map()
    whole, both = Session(signal, xmap=xmap), Session(signal.inav[1:4, 2:], xmap=xmap[2:, 1:4])
    assert both.frame(1, 1).text.split("\n")[1] == whole.frame(2, 3).text.split("\n")[1]
    masked = xmap[(xmap.x != 1) | (xmap.y != 1)]
    session = Session(signal, xmap=masked)
    assert "not in the data of the map" in session.frame(1, 1).text and session.frame(2, 1).indexed


def test_candidates_of_a_map_know_their_phase(signal):
    titanium = make_phase("Ti", 2.95, 194, (("Ti", (1 / 3, 2 / 3, 0.25)),))
    phases = [make_phase(), titanium]
    xmap = make_map(n_best=2, phases=phases, candidate_phase_id=np.tile([0, 1], (20, 1)))
    session = Session(signal, xmap=xmap, phases=phases)
    session.candidates = 2
    assert [candidate.phase for candidate in session.frame(1, 1).candidates] == ["MgO", "Ti"]
    with pytest.raises(ValueError, match=r"phases that the map does not hold \(ids \[1\]\). Give the model, or all"):
        Session(signal, xmap=xmap)


def test_places_that_only_fill_a_map_are_no_candidates(signal):
    scores = np.tile([0.8, 0.1, 0.0], (20, 1))
    session = Session(signal, xmap=make_map(n_best=3, scores=scores))
    session.candidates = 3
    assert [candidate.score for candidate in session.frame(0, 0).candidates] == [0.8, 0.1]


# ------------------------------------------------------------------ patterns that say nothing, and bad input
def test_patterns_that_say_nothing_say_why(patterns):
    patterns[0, 0], patterns[0, 1], patterns[0, 2, 3:5, 4] = 0, 65535, np.nan
    patterns[0, 3] = -4
    session = Session(make_signal(patterns, CALIBRATION, "test"), make_model(thresholds=ALWAYS), device="cpu")
    texts = ("no pixel is above 0", "all pixels are 65535: the pattern is saturated",
             "2 pixels of the pattern are NaN or infinite", "no pixel is above 0")  # fmt: skip
    for x, text in enumerate(texts):
        frame = session.frame(x, 0)
        assert not frame.indexed and f"Not indexed: {text}" in frame.text and "Score 0.0000, threshold 0" in frame.text
    assert session.frame(4, 0).indexed


def test_what_is_masked_does_not_count(patterns):
    mask = np.zeros(DETECTOR, dtype=bool)
    mask[:8] = True
    patterns[1, 1, 3, 3] = np.nan
    signal = make_signal(patterns, CALIBRATION, "test")
    model = make_model(thresholds=ALWAYS, precision="float32")
    session = Session(signal, model, signal_mask=mask, device="cpu")
    assert_as_map(session, predict_orientation(signal, model, signal_mask=mask, **QUIET))
    assert session.frame(1, 1).indexed and not Session(signal, model, device="cpu").frame(1, 1).indexed


def plain_signal(*shape):
    from hyperspy.api import signals

    return signals.Signal2D(np.ones(shape))


def without_energy(signal):
    del signal.metadata.Acquisition_instrument
    return signal


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda s: Session(np.ones((4, 5, 21, 23)), make_model()), "Expected a HyperSpy signal, not ndarray"),
        (lambda s: Session(plain_signal(4, 5, 21, 23), make_model()), "axes are not calibrated .* Set the calibration"),
        (lambda s: Session(plain_signal(4, 5, 21, 23), xmap=make_map()), "axes are not calibrated"),
        (lambda s: Session(without_energy(s), xmap=make_map()), "The beam energy is unknown"),
        (lambda s: Session(without_energy(s), "any-crystal", phases=make_phase()), "beam energy .* is not known"),
        (lambda s: Session(s, "any-crystal"), "has to be told which crystals"),
        (lambda s: Session(s, "al-200kv", phases=make_phase()), "'al-200kv' was trained for Al, and knows no other"),
        (lambda s: Session(s, "bragg-disks"), "does not predict orientations"),
        (lambda s: Session(make_signal(np.ones((2, 4, 5, *DETECTOR)), CALIBRATION, ""), make_model()),
         "The data have 5 dimensions; they must have 2, 3 or 4"),
        (lambda s: Session(make_signal(np.ones((2, 4, 5, *DETECTOR)), CALIBRATION, ""), xmap=make_map()),
         "The data have 5 dimensions; they must have 2, 3 or 4"),
        (lambda s: Session(s.inav[:3], xmap=make_map()), "map has 20 positions .* the scan has 4 × 3"),
        (lambda s: Session(s, xmap="map.h5"), "Expected an orix CrystalMap, not str"),
        (lambda s: Session(s, xmap=make_map(phases=[Phase("MgO", space_group=225)])), "'MgO' of the map has no atoms"),
        (lambda s: setattr(Session(s, xmap=make_map()), "candidates", 2),
         r"at most 1, not 2: .* \(Map of 20 positions \(MgO\)\)"),
        (lambda s: Session(s, make_model(), max_excitation_error=0), "max_excitation_error must be a positive number"),
    ],
)  # fmt: skip
def test_bad_input_is_answered_in_words(signal, call, text):
    with pytest.raises((ValueError, TypeError), match=text):
        call(signal)


def test_another_energy_is_noted_with_both_numbers(patterns):
    signal = make_signal(patterns, CALIBRATION.replace(beam_energy=300.0), "test")
    with pytest.warns(UserWarning, match="The beam energy is 300 kV, but .* 200 kV"):
        session = Session(signal, make_model(), device="cpu")
    assert "Note: The beam energy is 300 kV, but the model 'fake-200kv' was trained for 200 kV." in (
        session.frame(0, 0).text
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Session(make_signal(patterns, CALIBRATION, "test"), make_model(), device="cpu").notes == []


def test_a_model_knows_the_energy_that_a_signal_lacks(signal):
    known = Session(signal, make_model(thresholds=ALWAYS), device="cpu").frame(1, 1)
    lacking = Session(without_energy(signal), make_model(thresholds=ALWAYS), device="cpu").frame(1, 1)
    assert lacking.candidates[0].row == pytest.approx(known.candidates[0].row)


# ------------------------------------------------------------------ chunks
class Reader:
    """An array that counts how often parts of it are read."""

    def __init__(self, data):
        self.data, self.reads = data, []
        self.shape, self.dtype, self.ndim = data.shape, data.dtype, data.ndim

    def __getitem__(self, index):
        self.reads.append(index)
        return self.data[index]


def lazy(data, chunks):
    reader = Reader(data)
    array = da.from_array(reader, chunks=chunks, meta=np.empty((0,) * data.ndim, data.dtype))
    reader.reads.clear()
    return reader, array


def test_a_chunk_is_read_once(patterns):
    reader, data = lazy(patterns, ((3, 1), (2, 3), -1, -1))
    cache = ChunkCache(data)
    for index in (0, 1, 5, 6, 0, 11):
        assert np.array_equal(cache.pattern(index), patterns.reshape(-1, *DETECTOR)[index])
    assert len(reader.reads) == 1 and cache.nbytes == patterns[:3, :2].nbytes
    assert np.array_equal(cache.pattern(19), patterns[3, 4]) and len(reader.reads) == 2
    cache.pattern(0)[:] = 0
    assert cache.pattern(0).any()  # it was the caller's own


def test_chunks_longest_not_used_are_forgotten(patterns):
    reader, data = lazy(patterns, (1, 5, -1, -1))
    cache = ChunkCache(data, most_bytes=int(2.5 * patterns[0].nbytes))
    for index, n_read in ((0, 1), (5, 2), (0, 2), (10, 3), (1, 3), (6, 4)):
        cache.pattern(index)
        assert len(reader.reads) == n_read and cache.nbytes <= 2.5 * patterns[0].nbytes


def test_of_a_chunk_that_is_too_large_only_the_pattern_is_kept(patterns):
    _, data = lazy(patterns, (-1, -1, -1, -1))
    cache = ChunkCache(data, most_bytes=patterns[0].nbytes)
    for index in range(20):
        assert np.array_equal(cache.pattern(index), patterns.reshape(-1, *DETECTOR)[index])
        assert 0 < cache.nbytes <= patterns[0].nbytes


def test_no_more_than_256_megabytes_are_kept():
    assert MOST_BYTES == 256e6
    data = da.zeros((30, 20, 256, 256), dtype=np.uint16, chunks=(3, 20, 256, 256))  # 7.9 MB each
    cache = ChunkCache(data, most_bytes=MOST_BYTES // 8)
    for index in range(0, 600, 20):
        cache.pattern(index)
    assert 0.7 * MOST_BYTES / 8 < cache.nbytes <= MOST_BYTES / 8


# ------------------------------------------------------------------ the newest request
class Slow:
    """Answers only when it is let."""

    def __init__(self):
        self.go, self.started, self.answered = threading.Semaphore(0), threading.Semaphore(0), []

    def __call__(self, request):
        self.started.release()
        assert self.go.acquire(timeout=10)
        if request == "bad":
            raise ValueError("no such position")
        self.answered.append(request)
        return request


def test_the_newest_request_wins():
    slow, shown = Slow(), []
    with Latest(slow, shown.append) as latest:
        latest.submit(0)
        assert slow.started.acquire(timeout=10)
        for request in range(1, 50):
            latest.submit(request)
        assert not latest.wait(0)  # busy
        slow.go.release(2)
        assert latest.wait(10)
    assert slow.answered == shown == [0, 49]


def test_what_goes_wrong_is_kept_as_text_and_the_next_is_answered():
    slow, shown = Slow(), []
    with Latest(slow, shown.append) as latest:
        slow.go.release(2)
        latest.submit("bad")
        assert latest.wait(10) and latest.error == "ValueError: no such position"
        latest.submit("good")
        assert latest.wait(10) and latest.error == "" and shown == ["good"]
    with Latest(lambda x: x, lambda x: 1 / x) as latest:
        latest.submit(0)
        assert latest.wait(10) and latest.error == "ZeroDivisionError: division by zero"


def test_many_threads_may_ask_at_once():
    active, most, shown, lock = [0], [0], [], threading.Lock()

    def answer(request):
        with lock:
            active[0] += 1
            most[0] = max(most[0], active[0])
        with lock:
            active[0] -= 1
        return request

    with Latest(answer, shown.append) as latest:
        threads = [threading.Thread(target=lambda: [latest.submit(n) for n in range(200)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        latest.submit(-1)
        assert latest.wait(10)
    assert most == [1] and shown[-1] == -1 and len(shown) <= 1601


def test_closing_answers_nothing_more():
    slow, shown = Slow(), []
    latest = Latest(slow, shown.append)
    latest.submit(0)
    assert slow.started.acquire(timeout=10)
    latest.submit(1)
    slow.go.release(2)
    latest.close(10)
    assert not latest._thread.is_alive() and slow.answered == [0]
    with pytest.raises(RuntimeError, match="closed"):
        latest.submit(2)
    latest.close()  # once more does no harm


def test_a_session_answers_in_the_thread_of_latest(signal):
    session, shown = Session(signal, make_model(thresholds=ALWAYS), device="cpu"), []
    with Latest(lambda place: session.frame(*place), shown.append) as latest:
        latest.submit((1, 2))
        assert latest.wait(30) and latest.error == ""
        latest.submit((9, 9))
        assert latest.wait(30) and latest.error.startswith("ValueError: x must be a whole number of at most 4, not 9")
    assert shown[0].text == session.frame(1, 2).text
