"""While it is measured: LiberTEM from memory and, over TCP, from a simulated Merlin camera."""

import socket
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from fake_network import make_model

import pyxem_dl
from pyxem_dl.frames import Calibration, upside_down
from pyxem_dl.scans import Field, Padded, Step, make_signal

pytest.importorskip("libertem", reason="LiberTEM is not installed (extra live)")
live = pytest.importorskip("pyxem_dl.live")

# libertem-live's reader of the Merlin's stream hands on pieces of 2 MB: 260 of these frames
SHAPE = (16, 20)
CALIBRATION = Calibration((0.05, 0.05), (31.0, 29.0), (64, 60), 200.0)


@pytest.fixture(scope="module")
def frames():
    """Patterns (y, x, rows, columns) without symmetry, as HyperSpy shows them; one is empty."""
    rng = np.random.default_rng(0)
    k = np.hypot(*(np.indices(CALIBRATION.shape) - np.array(CALIBRATION.center)[:, None, None]))
    halo = rng.uniform(5, 60, (*SHAPE, 1, 1)) * np.exp(-k / rng.uniform(3, 9, (*SHAPE, 1, 1)))
    counts = rng.poisson(halo + np.linspace(0, 6, len(k))[:, None]).astype(np.uint16)
    counts[2, 3] = 0
    return counts


@pytest.fixture(scope="module")
def signal(frames):
    return make_signal(frames, CALIBRATION, "scan")


@pytest.fixture(scope="module")
def expected(signal):
    return pyxem_dl.predict_orientation(signal, make_model(), n_best=2, device="cpu", show_progressbar=False)


@pytest.fixture(scope="module")
def ctx():
    from libertem.api import Context
    from libertem.executor.inline import InlineJobExecutor

    return Context(executor=InlineJobExecutor(inline_threads=1))


def from_memory(ctx, frames, n_partitions=5):
    return ctx.load("memory", data=frames, sig_dims=2, num_partitions=n_partitions)


def assert_same_map(one, other):
    """Bit by bit, but for the coordinates."""
    assert np.array_equal(one.is_in_data, other.is_in_data)
    assert np.array_equal(one.rotations.data, other.rotations.data)
    assert np.array_equal(one.phase_id, other.phase_id) and set(one.prop) == set(other.prop)
    for name in one.prop:
        assert np.array_equal(one.prop[name], other.prop[name]), name


def test_a_file_gives_what_predict_orientation_gives(ctx, frames, expected):
    udf = live.OrientationUDF(make_model(), CALIBRATION, n_best=2, device="cpu")
    result = ctx.run_udf(dataset=from_memory(ctx, frames), udf=udf)
    xmap = udf.to_crystal_map(result, scan_step=(2.0, 0.5), scan_unit="nm")
    assert_same_map(xmap, expected)
    assert xmap.shape == SHAPE and xmap.scan_unit == "nm" and (xmap.dy, xmap.dx) == (2.0, 0.5)
    assert xmap.phase_id.reshape(SHAPE)[2, 3] == -1


# ---------------------------------------------------------------- a simulated Merlin camera
def write_mib(path, frames):
    """Write what a Merlin camera writes: frames (y, x, rows, columns) with a header each."""
    n, (rows, columns) = frames.shape[0] * frames.shape[1], frames.shape[2:]
    with open(path.with_suffix(".mib"), "wb") as file:
        for i, frame in enumerate(frames.reshape(-1, rows, columns)):
            header = (
                f"MQ1,{i + 1:06d},00384,01,{columns:04d},{rows:04d},U16,   1x1,01,2020-05-18 16:51:49.971626,0.000555,"
                "0,0,0,1.200000E+2,5.110000E+2,0,0,0,0,0,0,3RX,175,511,000,000,000,000,000,000,125,255,125,125,100,100,"
                "082,100,087,030,128,004,255,129,128,176,168,511,511,MQ1A,2020-05-18T14:51:49.971626178Z,555000ns,12,"
            )
            file.write(header.encode().ljust(384, b"\0") + frame.astype(">u2").tobytes())
    path.with_suffix(".hdr").write_text(
        "HDR,\t\nTime and Date Stamp (day, mnth, yr, hr, min, s):\t18/05/2020 16:51:48\n"
        f"Frames in Acquisition (Number):\t{n}\nFrames per Trigger (Number):\t{frames.shape[1]}\n"
        f"Counter Depth (number):\t12\nScanX:\t{frames.shape[1]}\nScanY:\t{frames.shape[0]}\nEnd\t"
    )
    return path.with_suffix(".hdr")


@pytest.fixture(scope="module")
def recorded(frames, tmp_path_factory):
    """Header of a file in which the frames are as the camera writes them."""
    return write_mib(tmp_path_factory.mktemp("merlin") / "scan", upside_down(frames))


class Camera:
    """libertem-live's simulated Merlin, which waits or stops where it is told to."""

    def __init__(self, header, stop_after=None):
        from libertem_live.detectors.merlin.sim import CameraSim

        self.ports = free_ports(3)
        data, control, trigger = self.ports
        self.camera = CameraSim(
            path=str(header), nav_shape=SHAPE, host="127.0.0.1", data_port=data, control_port=control,
            trigger_port=trigger, wait_trigger=True,
        )  # fmt: skip
        self.n_sent, self.seen, self.stop_after = 0, threading.Event(), stop_after
        self._scan = self.camera.sim._get_single_scan
        self.camera.sim._get_single_scan = self._frames

    def _frames(self, roi, *rest):
        from libertem_live.detectors.common import StopException

        for chunk in self._scan(roi, *rest):
            if self.n_sent == self.stop_after:
                raise StopException("the camera is switched off")
            if self.n_sent == np.prod(SHAPE) - 1:
                # the last frame is not sent before somebody saw a map
                assert self.seen.wait(60)
            yield chunk
            self.n_sent += len(chunk) > 15  # the other chunks say how long the next is

    def __enter__(self):
        self.camera.start()
        self.camera.wait_for_listen()
        return self

    def __exit__(self, *_):
        self.seen.set()
        self.camera.stop()


def free_ports(n):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def acquisition(camera, executor=None):
    """A context and an acquisition of 32 frames at a time."""
    from libertem.executor.inline import InlineJobExecutor
    from libertem_live.api import Hooks, LiveContext

    class Start(Hooks):
        def on_ready_for_data(self, env):
            with env.aq._conn.control() as control:
                control.cmd("STARTACQUISITION")
                control.cmd("SOFTTRIGGER")

    ctx = LiveContext(executor=executor or InlineJobExecutor(inline_threads=1))
    data, control, _ = camera.ports
    options = {"api_host": "127.0.0.1", "api_port": control, "data_host": "127.0.0.1", "data_port": data}
    try:
        with ctx.make_connection("merlin").open(**options, drain=False) as connection:
            yield ctx, ctx.make_acquisition(
                conn=connection, nav_shape=SHAPE, frames_per_partition=32, hooks=Start(),
                controller=connection.get_active_controller(),
            )  # fmt: skip
    finally:
        ctx.close()


def test_the_map_grows_while_the_camera_sends(recorded, frames, expected):
    pytest.importorskip("libertem_live", reason="libertem-live is not installed (extra live)")
    udf = live.OrientationUDF(make_model(), CALIBRATION, n_best=2, flip_y=True, device="cpu")
    done = []
    with Camera(recorded) as camera, acquisition(camera) as (ctx, dataset):
        for partial in live.follow(ctx, dataset, udf):
            if partial.n_done and not done:
                assert camera.n_sent < partial.n == frames.shape[0] * frames.shape[1]
                first = partial.to_crystal_map()
                camera.seen.set()
            done.append(partial.n_done)
    assert done == sorted(done) and done[-1] == partial.n == camera.n_sent
    assert 0 < first.is_in_data.sum() < partial.n and first.is_in_data[: first.is_in_data.sum()].all()
    now = first.is_in_data
    assert np.array_equal(first.rotations.data, expected[now].rotations.data)
    assert_same_map(partial.to_crystal_map(), expected)


def test_hyperspy_turns_the_file_of_a_merlin_upside_down(recorded, ctx, frames, expected):
    hs = pytest.importorskip("hyperspy.api")
    loaded = hs.load(recorded.with_suffix(".mib"), lazy=False)
    shown = loaded.data.reshape(frames.shape)
    raw = ctx.load("mib", path=str(recorded), nav_shape=SHAPE)
    assert np.array_equal(shown, frames) and not np.array_equal(shown, upside_down(frames))
    results = {}
    for flip_y in (True, False):
        udf = live.OrientationUDF(make_model(), CALIBRATION, n_best=2, flip_y=flip_y, device="cpu")
        results[flip_y] = udf.to_crystal_map(ctx.run_udf(dataset=raw, udf=udf))
    assert_same_map(results[True], expected)
    assert not np.array_equal(results[False].rotations.data, expected.rotations.data)


def test_a_stream_that_stops_keeps_what_is_done(recorded, expected):
    pytest.importorskip("libertem_live", reason="libertem-live is not installed (extra live)")
    udf = live.OrientationUDF(make_model(), CALIBRATION, n_best=2, flip_y=True, device="cpu")
    with Camera(recorded, stop_after=303) as camera, acquisition(camera) as (ctx, dataset):
        with pytest.warns(UserWarning, match="The stream stopped after [0-9]+ of 320 patterns"):
            for partial in live.follow(ctx, dataset, udf):
                pass
    xmap, n = partial.to_crystal_map(), partial.n_done
    assert 32 <= n < 303 and n % 32 == 0
    assert xmap.is_in_data[:n].all() and not xmap.is_in_data[n:].any()
    assert np.array_equal(xmap.rotations.data, expected[xmap.is_in_data].rotations.data)
