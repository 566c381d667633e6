"""The viewer without a browser: what a view asks for and is told, what settings change, what is said of bad input."""

import sys
import threading
import time

import dask.array as da
import hyperspy.api as hs
import numpy as np
import pytest
from fake_network import FakeNetwork, make_model, make_phase
from orix.crystal_map import CrystalMap, PhaseList
from orix.quaternion import Rotation
from orix.vector import Vector3d

import pyxem_dl
from pyxem_dl import data, networks
from pyxem_dl.frames import Calibration
from pyxem_dl.gui import explore
from pyxem_dl.gui.background import Background
from pyxem_dl.gui.keys import ColorKey
from pyxem_dl.gui.link import NavigatorLink
from pyxem_dl.gui.wire import MOST_PIXELS, binned, binning, pattern_bytes
from pyxem_dl.metrics.orientations import grain_labels
from pyxem_dl.scans import make_signal

pytest.importorskip("anywidget", reason="needs the extra gui")

SHAPE, DETECTOR = (4, 5), (21, 23)
CALIBRATION = Calibration((0.1, 0.1), (10.0, 11.0), DETECTOR, 200.0)
ALWAYS = {"crystal": 0.0, "score": 0.0}


@pytest.fixture(autouse=True)
def _fake(monkeypatch):
    monkeypatch.setitem(networks.NETWORKS, "fake", FakeNetwork)


def make_patterns(rng, navigation=SHAPE):
    row, column = np.indices(DETECTOR)
    beam = 2e3 * np.exp(-((row - 10) ** 2 + (column - 11) ** 2))
    return (rng.gamma(0.5, 100.0, (*navigation, *DETECTOR)) + beam).astype(np.float32)


@pytest.fixture
def signal(rng):
    return make_signal(make_patterns(rng), CALIBRATION, "test")


def make_map(shape=SHAPE, n_best=1):
    n = int(np.prod(shape))
    row, column = np.indices(shape).reshape(2, -1)
    rotations = Rotation(np.random.default_rng(1).normal(size=(n, n_best, 4))) if n_best > 1 else Rotation.random(n)
    scores = np.linspace(0.1, 0.9, n)[:, None] / np.arange(1, n_best + 1)
    return CrystalMap(
        rotations, np.zeros(n, dtype=int), x=column, y=row, phase_list=PhaseList([make_phase()]),
        prop={"scores": scores if n_best > 1 else scores[:, 0]},
    )  # fmt: skip


class View:
    """What a browser does: it asks, and keeps what it is told."""

    def __init__(self, explorer):
        self.explorer, self.heard, self.number = explorer, [], 0
        explorer.attach(lambda header, buffers: self.heard.append((header, buffers)))

    def ask(self, **settings):
        self.number += 1
        self.explorer.receive({"kind": "ask", "number": self.number, "set": settings})
        assert self.explorer.wait(30)
        return self.last("frame")

    def tell(self, kind, **rest):
        self.explorer.receive({"kind": kind, **rest})
        assert self.explorer.wait(30)

    def last(self, kind):
        return next(each for each in reversed(self.heard) if each[0]["kind"] == kind)


@pytest.fixture
def opened():
    """Open viewers that are closed after the test."""
    made = []

    def make(*args, **given):
        made.append(explore(*args, **given))
        assert made[-1].wait(60)
        view = View(made[-1])
        view.tell("hello")
        return made[-1], view

    yield make
    for explorer in made:
        explorer.close()


# ---------------------------------------------------------------- a position
def test_a_frame_is_pattern_spots_and_words(opened, signal):
    explorer, view = opened(signal, make_model(thresholds=ALWAYS))
    header, buffers = view.ask(x=3, y=2)
    assert (header["x"], header["y"], header["number"]) == (3, 2, 1) and header["pattern"]["shape"] == list(DETECTOR)
    frame = explorer.frame
    assert "(x, y) = (3, 2)" in header["text"] and len(header["candidates"]) == len(frame.candidates) > 0
    shown = np.frombuffer(buffers[0], np.uint8).reshape(DETECTOR).astype(float) / 255
    low, high = header["pattern"]["low"], header["pattern"]["high"]
    assert np.abs(low + shown**2 * (high - low) - signal.data[2, 3]).max() < 0.01 * high
    row, column, _ = (np.frombuffer(each, "<f4") for each in buffers[1:4])
    assert np.allclose(row, frame.candidates[0].row, atol=1e-4)
    assert np.allclose(column, frame.candidates[0].column, atol=1e-4)
    assert np.array_equal(np.frombuffer(buffers[4], "<i2").reshape(-1, 3), frame.candidates[0].hkl)


def test_frames_are_small(opened):
    explorer, view = opened(data.mgo_nanocubes(lazy=False), "mgo-300kv")
    header, buffers = view.ask(x=9, y=9)
    assert header["candidates"] and sum(map(len, buffers)) < 40_000


def test_settings_are_asked_for_together_and_the_answer_has_the_number(opened, signal):
    explorer, view = opened(signal, make_model(thresholds=ALWAYS, precision="float32"))
    before = view.ask(x=1)[1]
    after = view.ask(scale_factor=1.04, center_shift=(1.0, 0.0))
    assert after[0]["number"] == 2 and explorer.scale_factor == 1.04
    assert after[0]["center"] == pytest.approx([11.0, 11.0]) and after[1][1:] != before[1:]
    view.ask(scale_factor=1.0, center_shift=(0.0, 0.0), threshold=1.0)
    assert not explorer.frame.indexed and "threshold 1.0000" in explorer.frame.text
    assert view.ask(threshold=0.0)[0]["indexed"]


def test_the_same_question_twice_is_answered_twice(opened, signal):
    """A browser waits for each answer before it asks again."""
    _, view = opened(signal, make_model(thresholds=ALWAYS))
    assert [view.ask(x=2)[0]["number"], view.ask(x=2)[0]["number"]] == [1, 2]
    assert [view.ask(candidate=1)[0]["number"], view.ask(link=False)[0]["number"], view.ask()[0]["number"]] == [3, 4, 5]


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"x": 5}, "x must be"), ({"y": -1}, "y must be"), ({"scale_factor": 1.2}, "1.05"), ({"layer": "?"}, "layer"),
        ({"threshold": 2.0}, "threshold"), ({"center_shift": 3}, "two numbers"), ({"model": "none"}, "model must be"),
        ({"nonsense": 1}, "There is no setting nonsense"), ({"center_shift": (50.0, 0.0)}, "outside of the detector"),
    ],
)  # fmt: skip
def test_what_cannot_be_set_is_said_and_the_viewer_goes_on(opened, signal, settings, words):
    explorer, view = opened(signal, make_model(thresholds=ALWAYS))
    view.ask(**settings)
    assert words in explorer.status and view.last("state")[0]["failed"]
    view.ask(x=1, center_shift=(0.0, 0.0))
    assert explorer.x == 1 and explorer.frame.indexed and explorer.status == ""


def test_an_unknown_message_is_said(opened, signal):
    explorer, view = opened(signal, make_model())
    view.tell("dance")
    assert "'dance'" in explorer.status


def test_a_view_that_opens_late_is_told_all(opened, signal):
    mask = np.zeros(DETECTOR, dtype=bool)
    mask[:3] = True
    explorer, _ = opened(signal, make_model(thresholds=ALWAYS), signal_mask=mask)
    late = View(explorer)
    late.tell("hello")
    assert {header["kind"] for header, _ in late.heard} == {"state", "key", "mask", "layer", "frame"}
    assert np.frombuffer(late.last("mask")[1][0], np.uint8).sum() == mask.sum()
    assert late.last("key")[1][0].startswith(b"\x89PNG")
    state = late.last("state")[0]
    assert state["grid"] == list(SHAPE) and state["layers"] == ["virtual image"] and state["most"] >= 1


# ---------------------------------------------------------------- keys
@pytest.mark.parametrize("phase", [data.mgo_phase(), data.lithium_nickel_oxide(), data.metals()[2]])
def test_the_dot_lies_where_orix_has_the_direction(phase):
    from orix.projections import StereographicProjection

    key = ColorKey(phase)
    laue = phase.point_group.laue
    if laue.name in ("m-3m", "6/mmm"):  # whose axes are orix' own
        for rotation in Rotation.random(20):
            directions = (rotation * Vector3d([[0, 0, 1], [1, 0, 0], [0, 1, 0]])).in_fundamental_sector(laue)
            expected = key._drawn[1](np.stack(StereographicProjection().vector2xy(directions), axis=1))
            assert key.places(rotation.data[0]) == pytest.approx(expected, abs=1e-3)
    places = np.array([key.places(each) for each in Rotation.random(100).data])
    assert ((places > 0.05) & (places < 0.95)).all()


@pytest.mark.parametrize("phase", [data.mgo_phase(), data.lithium_nickel_oxide()])
def test_symmetric_orientations_have_one_place(phase):
    from pyxem_dl.symmetry import proper_operations

    key = ColorKey(phase)
    rotation = Rotation([0.3, -0.5, 0.2, 0.7])
    places = [key.places((Rotation(each) * rotation).data[0]) for each in proper_operations(phase).numpy()]
    assert np.ptp(places, axis=0).max() < 1e-3


# ---------------------------------------------------------------- the map
def test_a_finished_map_is_shown_without_a_model(opened, signal):
    xmap = make_map(n_best=3)
    explorer, view = opened(signal, xmap, beam_energy=200)
    assert explorer.sources == ["map", "model"] and explorer.source == "map" and explorer.layer == "IPF z"
    assert view.ask(x=2, y=1)[0]["text"].startswith("(x, y) = (2, 1)\n1. MgO: score 0.3947")
    assert explorer.layers == ["virtual image", "IPF z", "IPF x", "IPF y", "scores", "phase", "grains"]
    assert explorer.xmap is xmap
    for name in explorer.layers[1:]:
        view.ask(layer=name)
        header, buffers = view.last("layer")
        assert header["name"] == name and header["shape"] == list(SHAPE) and len(buffers) == 3
    view.ask(threshold=0.5)
    assert (explorer.xmap.phase_id < 0).sum() == (xmap.prop["scores"][:, 0] < 0.5).sum() > 0
    assert (xmap.phase_id >= 0).all(), "the map that was given stays as it is"


def test_ipf_colours_are_those_of_the_picture(opened, signal):
    from orix.plot import IPFColorKeyTSL
    from orix.quaternion import Orientation

    xmap = make_map()
    _, view = opened(signal, xmap, beam_energy=200)
    for axis, direction in {"z": (0, 0, 1), "x": (1, 0, 0), "y": (0, 1, 0)}.items():
        view.ask(layer=f"IPF {axis}")
        shown = np.frombuffer(view.last("layer")[1][0], np.uint8).reshape(*SHAPE, 3) / 255
        laue = xmap.phases[0].point_group.laue
        expected = IPFColorKeyTSL(laue, Vector3d(direction)).orientation2color(Orientation(xmap.rotations, laue))
        assert np.abs(shown.reshape(-1, 3) - expected).max() < 0.01


def test_indexing_gives_the_map_of_the_copied_code(opened, signal, tmp_path, monkeypatch):
    model = make_model(2, thresholds={"crystal": 0.5, "score": 0.6}, precision="float32")
    model.save(tmp_path / "two")
    explorer, view = opened(signal, str(tmp_path / "two"))
    assert explorer.xmap is None
    limit = float(np.median(pyxem_dl.predict_orientation(signal, str(tmp_path / "two")).prop["score"]))
    view.ask(threshold=limit, scale_factor=1.03, center_shift=(0.5, -0.5))
    view.tell("index")
    assert explorer.wait_for_index(60) and explorer.wait(30)
    assert explorer.status.startswith("Indexed 20 of 20 positions") and explorer.layer == "IPF z"
    assert not view.last("state")[0]["running"], "the last that a view hears of it"
    view.tell("code")
    code = view.last("code")[0]["text"]
    names = {"s": signal}
    exec(compile(code, "copied", "exec"), names)
    again, made = names["xmap"], explorer.xmap
    assert np.array_equal(again.phase_id, made.phase_id) and 0 < (made.phase_id >= 0).sum() < 20
    assert np.allclose(again.rotations.data, made.rotations.data, atol=1e-6)
    assert np.allclose(again.prop["scores"], made.prop["scores"], atol=1e-6)
    # its thresholds may still change, down too
    lower = (made.phase_id >= 0).sum()
    view.ask(threshold=0.0)
    assert (explorer.xmap.phase_id >= 0).sum() > lower


def test_the_map_that_was_made_can_be_looked_up(opened, signal):
    explorer, view = opened(signal, make_model(thresholds=ALWAYS, precision="float32"))
    live = view.ask(x=3, y=1)[0]["text"].splitlines()[1]
    view.tell("index")
    assert explorer.wait_for_index(60) and explorer.wait(30)
    view.ask(source="map")
    assert explorer.frame.text.splitlines()[1].split(",")[0][:16] == live.split(",")[0][:16]
    assert "Map of 20 positions" in explorer.frame.text


def run_code(code, signal, **names):
    names["s"] = signal.deepcopy()
    exec(compile(code, "copied", "exec"), names)
    return names["xmap"]


@pytest.mark.parametrize("asked", [{}, {"threshold": 0.0}, {"threshold": 0.7, "crystal_threshold": 0.1}])
def test_the_code_of_a_map_that_was_made_has_its_own_settings(opened, signal, tmp_path, asked):
    """Also where it is looked at, and the model's own thresholds or other settings would be others."""
    make_model(2, thresholds={"crystal": 0.5, "score": 0.6}, precision="float32").save(tmp_path / "two")
    explorer, view = opened(signal, str(tmp_path / "two"))
    view.ask(threshold=0.5, scale_factor=1.03)
    view.tell("index")
    assert explorer.wait_for_index(60) and explorer.wait(30)
    view.ask(source="map")
    view.ask(scale_factor=1.0, **asked)
    again, made = run_code(explorer.code, signal), explorer.xmap
    assert np.array_equal(again.phase_id, made.phase_id)
    assert np.allclose(again.rotations.data, made.rotations.data, atol=1e-6)


def test_the_code_of_several_models_and_of_one_without_a_name(opened, signal):
    scan = data.mgo_nanocubes(lazy=True).inav[8:10, 8:10]
    explorer, view = opened(scan, ["mgo-300kv", "mgo-300kv"])
    view.ask(threshold=0.3)
    assert run_code(explorer.code, scan).size == 4 and "given" not in explorer.code
    model = make_model(thresholds=ALWAYS, precision="float32")
    explorer, view = opened(signal, model)
    view.ask(threshold=0.3)
    assert explorer.code.splitlines()[2] == "# given to the viewer: model"
    assert run_code(explorer.code, signal, model=model).size == 20


def test_the_code_for_one_of_several_phases_asks_for_that_one(opened, signal):
    phases = [data.mgo_phase(), data.metals()[0]]
    explorer, view = opened(signal, "any-crystal", phases=phases)
    name = explorer.phases[2]
    view.ask(phase=name)
    assert f"# given to the viewer: phases ({name})" in explorer.code
    view.ask(phase="all")
    assert f"phases ({phases[0].name}, {phases[1].name})" in explorer.code


@pytest.mark.parametrize("n_best", [1, 3])
def test_the_code_of_a_finished_map(opened, signal, n_best):
    xmap = make_map(n_best=n_best)
    explorer, view = opened(signal, xmap, beam_energy=200)
    view.ask(threshold=0.5)
    expected = explorer.xmap.phase_id
    assert np.array_equal(run_code(explorer.code, signal, xmap=xmap).phase_id, expected) and (expected < 0).any()


def test_a_map_of_which_a_part_was_looked_at_keeps_its_threshold(opened, signal):
    xmap = make_map(n_best=2)
    assert xmap[1:3, 1:4].prop["scores"].size == 12
    explorer, view = opened(signal, xmap, beam_energy=200)
    xmap[1:3, 1:4].prop["scores"]
    view.ask(threshold=0.5)
    assert explorer.xmap.size == 20


def test_a_map_is_opened_with_the_thresholds_of_the_question(opened, signal):
    explorer, view = opened(signal, make_model(thresholds=ALWAYS, precision="float32"))
    view.tell("index")
    assert explorer.wait_for_index(60)
    view.ask(source="map")
    limits = {"threshold": 1.0, "crystal_threshold": None, "source": "map", "model": explorer.model, "phase": "all"}
    late = explorer._sessions.open(limits, explorer.current)  # the viewer itself has none by now
    assert not late.session._source._indexed.any()


def test_a_shifted_centre_counts_nowhere_unsaid(opened, signal):
    centers = np.full((*SHAPE, 2), (10.0, 11.0)) + np.arange(5)[:, None] / 10
    explorer, view = opened(signal, make_model(thresholds=ALWAYS), center=centers)
    view.ask(center_shift=(1.0, 0.0))
    for kind in ("code", "index"):
        view.tell(kind)
        assert "each pattern has its own" in explorer.status and explorer.xmap is None


def test_the_last_state_that_is_sent_is_the_newest(opened, signal, monkeypatch):
    explorer, view = opened(signal, make_model())
    held, go, real = threading.Event(), threading.Event(), explorer.state

    def state():
        found = real()
        if threading.current_thread().name == "late":
            held.set()
            go.wait(1)
        return found

    monkeypatch.setattr(explorer, "state", state)
    explorer.status = "old"
    late = threading.Thread(target=explorer._tell, name="late")
    late.start()
    assert held.wait(10)
    new = threading.Thread(target=explorer.say, args=("new",))
    new.start()
    new.join(0.3)
    go.set()
    late.join(10)
    new.join(10)
    assert view.last("state")[0]["status"] == "new"


def test_a_view_that_is_gone_keeps_no_other_from_hearing(opened, signal, caplog):
    explorer, _ = opened(signal, make_model(thresholds=ALWAYS))
    explorer.detach(explorer._views[0])
    explorer.attach(lambda header, buffers: 1 / 0)
    other = View(explorer)
    assert other.ask(x=3)[0]["x"] == 3 and "could not be told" in caplog.text


def test_closed_while_indexing_keeps_what_is_done(opened, rng, monkeypatch):
    monkeypatch.setattr("pyxem_dl.gui.recipe._PATIENCE", 0.0)
    signal = make_signal(make_patterns(rng, (40, 50)), CALIBRATION, "test")
    explorer, view = opened(signal, make_model(thresholds=ALWAYS))
    real = explorer._grown
    monkeypatch.setattr(explorer, "_grown", lambda growing: (explorer.close(), real(growing)))
    view.tell("index")
    assert explorer.wait_for_index(60) and explorer.xmap.size > 0
    assert explorer.status.startswith(("Cancelled", "Indexed")) and not explorer.state()["failed"]


def test_a_file_is_replaced_only_where_that_is_said(opened, signal, tmp_path):
    explorer, view = opened(signal, make_map(), beam_energy=200)
    path = tmp_path / "map.png"
    path.write_text("mine")
    for word in ("false", 1, None):
        view.tell("save", path=str(path), overwrite=word)
        assert explorer.state()["failed"] and path.read_text() == "mine"


class Slow(FakeNetwork):
    """Waits in each batch until it is let go."""

    gate = threading.Event()

    def predict(self, *args, **given):
        self.gate.wait(20)
        return super().predict(*args, **given)


def test_cancel_keeps_what_is_done_and_may_come_twice(opened, rng, monkeypatch):
    signal = make_signal(make_patterns(rng, (40, 50)), CALIBRATION, "test")
    explorer, view = opened(signal, make_model(thresholds=ALWAYS))
    done = []
    monkeypatch.setattr("pyxem_dl.gui.recipe._PATIENCE", 0.0)
    real = explorer._grown

    def grown(growing):
        real(growing)
        done.append(growing.partial.n_done)
        explorer.cancel()
        explorer.cancel()

    monkeypatch.setattr(explorer, "_grown", grown)
    view.tell("index")
    assert explorer.wait_for_index(60) and explorer.wait(30)
    assert 0 < explorer.xmap.size <= 2000 and explorer.status.startswith(("Cancelled", "Indexed"))
    assert explorer.xmap.size == done[-1]
    explorer.cancel()
    assert not view.last("state")[0]["running"] or not explorer.state()["running"]


def test_saving(opened, signal, tmp_path):
    from orix import io

    explorer, view = opened(signal, make_map(n_best=2), beam_energy=200)
    for name in ("map.h5", "map.ang", "map.png"):
        view.tell("save", path=str(tmp_path / name))
        assert explorer.status == f"Saved {tmp_path / name}", explorer.status
    assert io.load(str(tmp_path / "map.h5")).size == 20
    from matplotlib.image import imread

    assert min(imread(tmp_path / "map.png").shape[:2]) > 300
    view.tell("save", path=str(tmp_path / "map.h5"))
    assert explorer.status and explorer.state()["failed"], "it is there"
    view.tell("save", path=str(tmp_path / "map.h5"), overwrite=True)
    assert explorer.status.startswith("Saved")
    view.tell("save", path=str(tmp_path / "map.exe"))
    assert ".h5" in explorer.status and explorer.state()["failed"]


def test_there_is_nothing_to_save_before_a_map(opened, signal, tmp_path):
    explorer, view = opened(signal, make_model())
    view.tell("save", path=str(tmp_path / "map.h5"))
    assert "index the scan first" in explorer.status


def test_grains_are_neighbours_of_one_orientation():
    angles = np.deg2rad([0, 1, 2, 30, 31, 0])
    rotations = Rotation.from_axes_angles([0, 0, 1], angles)
    xmap = CrystalMap(rotations, x=np.arange(6), phase_list=PhaseList([data.mgo_phase()]))
    assert grain_labels(xmap, 5.0).tolist() == [0, 0, 0, 1, 1, 2]
    turned = CrystalMap(
        Rotation.from_axes_angles([0, 0, 1], np.deg2rad([0, 90, 180, 3, 45, 46])), x=np.arange(6),
        phase_id=np.array([0, 0, 0, -1, 0, 0]), phase_list=PhaseList([data.mgo_phase()]),
    )  # fmt: skip
    assert grain_labels(turned, 5.0).tolist() == [0, 0, 0, -1, 1, 1]


# ---------------------------------------------------------------- virtual detector
@pytest.mark.parametrize("lazy", [False, True])
def test_the_virtual_image_is_a_mean_over_the_ring(opened, rng, lazy):
    patterns = make_patterns(rng)
    held = da.from_array(patterns, chunks=(2, 2, 10, -1)) if lazy else patterns
    mask = np.zeros(DETECTOR, dtype=bool)
    mask[:, :5] = True
    explorer, view = opened(make_signal(held, CALIBRATION, "test"), make_model(), signal_mask=mask)
    view.tell("virtual", inner=2.0, outer=7.0, center=[10.0, 11.0])
    assert explorer._reading.wait(30) and explorer.wait(30)
    header, buffers = view.last("layer")
    assert header["name"] == "virtual image" and header["shape"] == list(SHAPE)
    row, column = np.indices(DETECTOR)
    distance = np.hypot(row - 10, column - 11)
    on = (distance >= 2) & (distance < 7) & ~mask
    expected = patterns[..., on].mean(-1)
    assert np.frombuffer(buffers[0], "<f4").reshape(SHAPE) == pytest.approx(expected, rel=1e-4)
    view.tell("virtual", inner=300.0, outer=400.0, center=[10.0, 11.0])
    assert "no pixel" in explorer.status


# ---------------------------------------------------------------- HyperSpy
def test_the_navigator_and_the_viewer_move_together(opened, signal):
    explorer, view = opened(signal, make_model(thresholds=ALWAYS), link=True)
    signal.axes_manager.indices = (3, 1)
    assert explorer.wait(30) and (explorer.x, explorer.y) == (3, 1) and explorer.frame.x == 3
    n = sum(header["kind"] == "frame" for header, _ in view.heard)
    signal.axes_manager.indices = (3, 1)
    explorer.wait(30)
    assert sum(header["kind"] == "frame" for header, _ in view.heard) == n, "it did not move"
    view.ask(x=2, y=3)
    assert tuple(signal.axes_manager.indices) == (2, 3)
    connected = signal.axes_manager.events.indices_changed.connected
    n = len(connected)
    view.ask(link=False)
    assert len(signal.axes_manager.events.indices_changed.connected) == n - 1
    signal.axes_manager.indices = (0, 0)
    assert (explorer.x, explorer.y) == (2, 3)


def test_what_is_not_seen_any_more_is_not_linked(opened, signal):
    explorer, view = opened(signal, make_model(), link=True)
    View(explorer).tell("hello")
    view.tell("bye")
    assert explorer.link
    view.tell("bye")
    assert not explorer.link


def test_closed_twice_leaves_no_handler(signal):
    before = len(signal.axes_manager.events.indices_changed.connected)
    threads = threading.active_count()
    for _ in range(2):
        explorer = explore(signal, make_model(), link=True)
        explorer.wait(30)
        assert len(signal.axes_manager.events.indices_changed.connected) == before + 1
        explorer.close()
        explorer.close()
    assert len(signal.axes_manager.events.indices_changed.connected) == before
    until = time.monotonic() + 10
    while threading.active_count() > threads and time.monotonic() < until:
        time.sleep(0.01)
    assert threading.active_count() <= threads


def test_an_error_of_the_viewer_does_not_reach_the_navigator(signal, caplog):
    link = NavigatorLink(signal, lambda x, y: 1 / 0)
    signal.axes_manager.indices = (1, 1)
    assert tuple(signal.axes_manager.indices) == (1, 1) and "could not follow" in caplog.text
    link.close()
    link.close()


def test_hyperspy_shows_it_by_its_tool_key(opened, signal):
    from hyperspy.ui_registry import TOOLKIT_REGISTRY, UI_REGISTRY

    explorer, _ = opened(signal, make_model(thresholds=ALWAYS))
    assert "pyxem_dl.explore" in UI_REGISTRY
    if not TOOLKIT_REGISTRY & {"ipywidgets", "anywidget"}:
        with pytest.raises(ImportError, match="toolkit"):
            explorer.gui(display=False)
        return
    (shown,) = explorer.gui(display=False).values()
    controls = shown["wdict"]
    controls["x"].value = 4
    assert explorer.wait(30) and explorer.frame.x == 4 and controls["x"].value == 4
    with pytest.raises(ValueError, match="y must be"):
        controls["y"].value = 99
    controls["index"].click()
    assert explorer.wait_for_index(60) and explorer.xmap.size == 20
    shown["widget"].close()


def test_a_widget_passes_messages_on(opened, signal):
    from pyxem_dl.gui.widget import make_widget

    explorer, _ = opened(signal, make_model(thresholds=ALWAYS))
    widget = make_widget(explorer)
    sent = []
    widget.send = lambda header, buffers=None: sent.append(header["kind"])
    widget._handle_custom_msg({"kind": "ask", "number": 7, "set": {"x": 2}}, [])
    assert explorer.wait(30) and explorer.x == 2 and "frame" in sent
    assert "export default" in widget._esm and ".pyxem-dl-explorer" in widget._css
    n = len(explorer._views)
    widget.close()
    assert len(explorer._views) == n - 1


def test_without_the_extra_an_error_names_it(signal, monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(ImportError, match=r"pyxem-dl\[gui\]"):
        signal.explore("mgo-300kv")


# ---------------------------------------------------------------- bad input, in words
def says(opened, *args, **given):
    explorer, view = opened(*args, **given)
    view.tell("hello")
    return explorer


def test_a_signal_without_calibration_is_shown_and_said(opened, rng):
    signal = hs.signals.Signal2D(make_patterns(rng))
    explorer = says(opened, signal, "mgo-300kv")
    assert "not calibrated" in explorer.status and explorer.frame.pattern.shape == DETECTOR
    signal.set_signal_type("electron_diffraction")
    explorer = says(opened, signal, "mgo-300kv")
    assert "not calibrated" in explorer.status and explorer.frame.pattern.shape == DETECTOR
    explorer = says(opened, hs.signals.Signal2D(make_patterns(rng)), phases="nowhere.cif")
    assert explorer.state()["failed"] and explorer.frame.pattern.shape == DETECTOR


def test_no_phases_for_a_model_that_needs_them(opened, signal):
    explorer = says(opened, signal)
    assert "has to be told which crystals" in explorer.status and explorer.frame.pattern.shape == DETECTOR


def test_a_model_of_another_energy_says_both(opened, signal):
    explorer = says(opened, signal, make_model(thresholds=ALWAYS), beam_energy=80.0)
    assert "80" in explorer.frame.text and "Note" in explorer.frame.text


@pytest.mark.parametrize("navigation", [(), (1,), (6,), (1, 4)])
def test_any_navigation_dimension(opened, rng, navigation):
    signal = make_signal(make_patterns(rng, navigation), CALIBRATION, "test")
    explorer, view = opened(signal, make_model(thresholds=ALWAYS))
    rows, columns = explorer.grid
    view.ask(x=columns - 1, y=rows - 1)
    assert explorer.frame.indexed
    view.tell("index")
    assert explorer.wait_for_index(60) and explorer.wait(30) and explorer.xmap.size == rows * columns
    for name in explorer.layers:
        view.ask(layer=name)
        assert view.last("layer")[0]["shape"] == [rows, columns], explorer.status


def test_three_navigation_dimensions_are_refused(rng):
    signal = hs.signals.Signal2D(make_patterns(rng, (2, 2, 3)))
    signal.set_signal_type("electron_diffraction")
    with pytest.raises(ValueError, match="0, 1 or 2 navigation dimensions"):
        explore(signal, "mgo-300kv")


@pytest.mark.parametrize("value, words", [(np.nan, "NaN"), (0.0, "empty"), (65535.0, "saturated")])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_patterns_that_say_nothing(opened, rng, value, words):
    patterns = make_patterns(rng)
    patterns[1, 2] = value
    explorer, view = opened(make_signal(patterns, CALIBRATION, "test"), make_model(thresholds=ALWAYS))
    header, buffers = view.ask(x=2, y=1)
    assert words in header["text"] and not header["candidates"] and len(buffers) == 1
    assert np.frombuffer(buffers[0], np.uint8).max() == 0


def test_a_map_of_another_shape(opened, signal):
    with pytest.raises(ValueError, match="positions"):
        explore(signal, make_map((3, 3)), beam_energy=200)


def test_what_is_none_of_them(signal):
    with pytest.raises(TypeError, match="CrystalMap or DiffractionVectors, not int"):
        explore(signal, 3)
    with pytest.raises(TypeError, match="one model"):
        explore(signal, "mgo-300kv", model="al-200kv")


def test_a_model_folder_that_is_gone(opened, signal, tmp_path):
    make_model(thresholds=ALWAYS).save(tmp_path / "mine")
    explorer, view = opened(signal, str(tmp_path / "mine"))
    assert explorer.frame.indexed
    import shutil

    shutil.rmtree(tmp_path / "mine")
    view.ask(x=1)
    assert explorer.frame.indexed, "it is in memory"
    with pytest.raises((FileNotFoundError, ValueError), match="mine"):
        explore(signal, str(tmp_path / "mine"))


def test_a_file_that_is_gone_is_said(opened, rng):
    gone = []

    def read(block):
        if gone:
            raise OSError("the disk is gone")
        return block

    held = da.from_array(make_patterns(rng), chunks=(2, 2, -1, -1)).map_blocks(read, dtype=np.float32)
    explorer, view = opened(make_signal(held, CALIBRATION, "test"), make_model(thresholds=ALWAYS))
    view.ask(x=1)
    gone.append(True)
    view.ask(x=3, y=3)
    assert "the disk is gone" in explorer.status
    view.ask(x=0, y=1)
    assert explorer.frame.indexed and explorer.status == "", "this part had been read"


def test_all_who_answer_share_one_cache(opened, rng):
    held = da.from_array(make_patterns(rng), chunks=(2, 2, -1, -1))
    explorer, view = opened(make_signal(held, CALIBRATION, "test"), make_map(), model=make_model(thresholds=ALWAYS))
    view.ask(x=4, y=3)
    kept = explorer._sessions.patterns.nbytes
    view.ask(source="model")
    assert explorer.frame.indexed and explorer._sessions.patterns.nbytes == kept > 0


def test_large_detectors_are_binned_for_the_screen():
    rng = np.random.default_rng(0)
    pattern = rng.poisson(3.0, (1100, 1030)).astype(np.uint16)
    factor = binning(pattern.shape)
    assert factor == 3 and max(binned(pattern, factor).shape) <= MOST_PIXELS
    assert binned(pattern, factor)[1, 2] == pytest.approx(pattern[3:6, 6:9].mean())
    header, sent = pattern_bytes(binned(pattern, factor))
    assert len(sent) == np.prod(header["shape"]) == 366 * 343


# ---------------------------------------------------------------- disks and images
def test_disks_have_a_slider_of_confidence(opened):
    signal = data.mgo_nanocubes(lazy=True).inav[8:12, 8:12]
    explorer, view = opened(signal, "bragg-disks")
    assert explorer.sources == ["disks"]
    few = view.ask(x=1, y=1, threshold=0.45)[0]["candidates"][0]["n"]
    many = view.ask(threshold=0.1)[0]["candidates"][0]["n"]
    assert 1 <= few < many
    vectors = signal.predict_bragg_vectors(show_progressbar=False, threshold=0.3)
    known, other = opened(signal, vectors)
    found = other.ask(x=1, y=1)[0]["candidates"][0]["n"]
    assert found == view.ask(threshold=0.3)[0]["candidates"][0]["n"] == len(vectors.data[1, 1])
    live, stored = (each.frame.candidates[0] for each in (explorer, known))
    assert np.sort(live.row) == pytest.approx(np.sort(stored.row), abs=0.02)
    view.tell("index")
    assert "Only orientations" in explorer.status


def test_an_image_and_what_was_found_in_it(opened):
    crystals = data.metal_crystals()
    labels = np.where(np.arange(240) < 120, 1, 2) * np.ones((160, 1), int)
    scene = data.atomic_grains(
        labels.shape, 20, crystals=[crystals[0], crystals[4]], angles=[10, 50], labels=labels, seed=1
    )
    regions = scene.signal.segment_by_symmetry(2, show_progressbar=False)
    xmap = scene.signal.classify_structure("fe-cu-ti", show_progressbar=False)
    lattice = scene.signal.map_lattice(xmap, show_progressbar=False)
    for found, words in ((None, "pixel (80, 40)"), (regions, "Region "), (xmap, "Fe: score"), (lattice, "Fe [1 0 0]")):
        explorer, view = opened(scene.signal, found)
        header, buffers = view.ask(x=40, y=80)
        assert words in header["text"], header["text"]
        for name in explorer.layers:
            view.ask(layer=name)
            assert view.last("layer")[0]["shape"] == [160, 240]
    nodes = explorer.frame.candidates[0]
    at_nodes = explorer.frame.pattern[np.round(nodes.row).astype(int), np.round(nodes.column).astype(int)]
    assert at_nodes.mean() > 1.3 * explorer.frame.pattern.mean(), "nodes lie on columns"
    series = hs.stack([scene.signal, scene.signal])
    with pytest.raises(ValueError, match="single images"):
        series.explore()


def test_background_work_ends_before_the_next_begins():
    failed, order = [], []
    background = Background(failed.append)

    def work(name):
        def run(stopped):
            order.append(f"{name} begins")
            while not stopped() and name == "first":
                time.sleep(0.005)
            order.append(f"{name} ends")
            if name == "third":
                raise ValueError("broken")

        return run

    for name in ("first", "second", "third"):
        background.start(work(name))
        time.sleep(0.05)
    assert background.wait(10) and str(failed[0]) == "broken" and not background.running
    assert order == [f"{name} {what}" for name in ("first", "second", "third") for what in ("begins", "ends")]
    background.cancel()


def test_it_is_a_method_and_a_function():
    assert pyxem_dl.explore is explore
    assert hs.signals.Signal2D.explore.__module__ == "pyxem_dl.signals.viewer"


def test_what_a_frame_costs_the_kernel(opened):
    """Asked: 5 ms of CPU for a frame of a map, 20 ms for one that a model is asked for; fails at three times."""
    signal = data.mgo_nanocubes(lazy=True)
    explorer, view = opened(signal, "mgo-300kv")
    view.tell("index")
    assert explorer.wait_for_index(120)
    for source, most in (("model", 20), ("map", 5)):
        view.ask(source=source, x=0, y=0)
        start = time.process_time()
        for i in range(40):
            view.ask(x=i % 21, y=i % 28)
        spent = 1000 * (time.process_time() - start) / 40
        print(f"a frame, {source}: {spent:.1f} ms of CPU (asked {most})")
        assert spent < 3 * most
