"""While it is measured: LiberTEM from memory and, over TCP, from a simulated Merlin camera."""

import os
import socket
import subprocess
import sys
import threading
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from fake_network import make_model

import pyxem_dl
from pyxem_dl.bragg_vectors.finders import CorrelationFinder
from pyxem_dl.bragg_vectors.step import DiskStep
from pyxem_dl.frames import Calibration, upside_down
from pyxem_dl.patterns import Probe
from pyxem_dl.patterns.matcher import DiskMatcher
from pyxem_dl.scans import Collected, Computing, Field, Padded, Positions, Scan, Step, make_signal, stream

# libertem-live's reader of the Merlin's stream hands on pieces of 2 MB: 260 of these frames
SHAPE = (16, 20)
CALIBRATION = Calibration((0.05, 0.05), (31.0, 29.0), (64, 60), 200.0)


@pytest.fixture(scope="module")
def live():
    """The module, where LiberTEM is installed."""
    pytest.importorskip("libertem", reason="LiberTEM is not installed (extra live)")
    from pyxem_dl import live

    return live


@pytest.fixture
def merlin(live):
    """What follows a detector, where libertem-live is installed."""
    pytest.importorskip("libertem_live", reason="libertem-live is not installed (extra live)")
    return live


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
def ctx(live):
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


def test_a_file_gives_what_predict_orientation_gives(live, ctx, frames, expected):
    udf = live.OrientationUDF(make_model(), CALIBRATION, n_best=2, device="cpu")
    result = ctx.run_udf(dataset=from_memory(ctx, frames), udf=udf)
    xmap = udf.to_crystal_map(result, scan_step=(2.0, 0.5), scan_unit="nm")
    assert pyxem_dl.provenance(xmap)["verb"] == "live.OrientationUDF"
    assert_same_map(xmap, expected)
    assert xmap.shape == SHAPE and xmap.scan_unit == "nm" and (xmap.dy, xmap.dx) == (2.0, 0.5)
    assert xmap.phase_id.reshape(SHAPE)[2, 3] == -1


def test_positions_outside_of_a_region_are_not_in_the_data(live, ctx, frames, expected):
    roi = np.zeros(SHAPE, dtype=bool)
    roi[3:9, 2:17] = True
    udf = live.OrientationUDF(make_model(), CALIBRATION, n_best=2, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing stopped
        partials = [p.n_done for p in live.follow(ctx, from_memory(ctx, frames), udf, roi=roi)]
    xmap = udf.to_crystal_map(ctx.run_udf(dataset=from_memory(ctx, frames), udf=udf, roi=roi))
    assert partials[-1] == roi.sum()
    assert np.array_equal(xmap.is_in_data, roi.reshape(-1))
    assert np.array_equal(xmap.rotations.data, expected[roi.reshape(-1)].rotations.data)


def test_masked_pixels_do_not_count(live, ctx, frames, signal):
    mask = np.zeros(CALIBRATION.shape, dtype=bool)
    mask[:20] = True
    expected = pyxem_dl.predict_orientation(
        signal, make_model(), signal_mask=mask, device="cpu", show_progressbar=False
    )
    udf = live.OrientationUDF(make_model(), CALIBRATION, signal_mask=mask, device="cpu")
    assert_same_map(udf.to_crystal_map(ctx.run_udf(dataset=from_memory(ctx, frames), udf=udf)), expected)


def test_crystals_above_each_other(live, ctx):
    import test_overlap as overlap

    patterns, truth = overlap.added("Al", 0.4, 4)
    settings = {"phases": overlap.phase("Al"), "overlap": True, "device": "cpu"}
    udf = live.OrientationUDF("any-crystal", overlap.CALIBRATION, **settings)
    xmap = udf.to_crystal_map(ctx.run_udf(dataset=from_memory(ctx, patterns.numpy(), 2), udf=udf))
    found, share = overlap.overlapping(xmap)
    assert xmap.rotations.shape == (len(truth), 3) and (xmap.prop["n_crystals"] > 1).any()
    assert share.sum(1).numpy() == pytest.approx(np.ones(len(truth)), abs=1e-5)
    right = (overlap.angles(found, truth, "Al") < 5) & (share > 0)[..., None]
    assert right.any(1).float().mean() > 0.7
    with pytest.raises(ValueError, match="overlap=True gives up to 3 crystals"):
        live.OrientationUDF("any-crystal", overlap.CALIBRATION, 2, **settings)


@pytest.mark.slow
def test_workers_of_a_pipeline_have_a_model_each(live, frames, expected):
    from libertem.api import Context
    from libertem.executor.pipelined import PipelinedExecutor

    spec = PipelinedExecutor.make_spec(cpus=range(2), cudas=[])
    ctx = Context(executor=PipelinedExecutor(spec=spec, startup_timeout=240))
    try:
        udf = live.OrientationUDF(make_model(), CALIBRATION, n_best=2, device="cpu")
        result = ctx.run_udf(dataset=from_memory(ctx, frames), udf=udf)
    finally:
        ctx.close()
    assert_same_map(udf.to_crystal_map(result), expected)


class BrightPixels(Step):
    """Rows of the pixels that are brighter than ten times the mean, and the sum, of each pattern."""

    fields = {"pixels": Field((2,), "float32", ragged=True), "total": Field((), "float32")}

    def __call__(self, patterns, indices):
        flat = patterns.flatten(1)
        place = torch.arange(flat.shape[1]).expand_as(flat)
        width = patterns.shape[2]
        rows = torch.stack([place // width, place % width], dim=-1).float()
        return {"pixels": Padded(rows, flat > 10 * flat.mean(1, keepdim=True)), "total": flat.sum(1)}


def test_a_step_that_gives_any_number_of_rows(live, ctx, frames):
    udf = live.StepUDF(BrightPixels(), device="cpu", batch_size=7)
    result = ctx.run_udf(dataset=from_memory(ctx, frames), udf=udf)
    found = udf.collected(result)
    assert found.done.all()
    patterns = frames.reshape(-1, *CALIBRATION.shape)
    assert np.array_equal(found.arrays["total"], patterns.sum((1, 2)).astype(np.float32))
    lengths = set()
    for table, pattern in zip(found.tables("pixels", (2,)), patterns):
        expected = np.argwhere(pattern > 10 * np.float32(pattern.mean(dtype=np.float64)))
        assert np.array_equal(table, expected)
        lengths.add(len(table))
    assert len(lengths) > 5
    assert result["pixels"].data.shape == SHAPE


def test_disks_are_those_of_the_stream(live, ctx, frames):
    scan = Scan(None, CALIBRATION, np.zeros(0, dtype=bool), None, None, Positions(SHAPE, (1.0, 1.0), "px"))
    finder = CorrelationFinder(DiskMatcher(Probe.ideal(3.0), CALIBRATION.shape, threshold=0.1), 1.0)
    step = DiskStep(scan, finder, None, True, 4)
    expected = Collected(frames.shape[0] * frames.shape[1], step.fields)
    for part in stream(frames, step, Computing("cpu", show_progressbar=False)):
        expected.add(part)
    udf = live.StepUDF(step, device="cpu")
    found = udf.collected(ctx.run_udf(dataset=from_memory(ctx, frames), udf=udf))
    (name,) = step.fields
    tables, others = (each.tables(name, (4,)) for each in (found, expected))
    assert sum(map(len, tables)) > 100
    assert all(np.array_equal(one, other) for one, other in zip(tables, others, strict=True))


def test_ctrl_c_while_nothing_comes_keeps_what_is_done(live, ctx, frames):
    class Stalled:
        def run_udf_iter(self, **options):
            yield next(iter(ctx.run_udf_iter(**options)))
            raise KeyboardInterrupt

    udf = live.OrientationUDF(make_model(), CALIBRATION, device="cpu")
    with pytest.warns(UserWarning, match=r"The stream stopped after 64 of 320 patterns \(KeyboardInterrupt\)"):
        (partial,) = live.follow(Stalled(), from_memory(ctx, frames), udf)
    assert partial.to_crystal_map().is_in_data.sum() == 64


@pytest.mark.parametrize("change, message", [
    ({"model": "no-such-model"}, "no-such-model"),
    ({"calibration": 0.05}, "calibration must be a Calibration, not float: give .Calibration.from_signal"),
    ({"signal_mask": np.zeros((3, 3), bool)}, r"bool of shape \(64, 60\) .True = excluded., not bool of \(3, 3\)"),
    ({"n_best": 0}, "n_best"),
])  # fmt: skip
def test_errors_say_what_to_do(live, change, message):
    arguments = {"model": make_model(), "calibration": CALIBRATION} | change
    with pytest.raises((TypeError, ValueError, FileNotFoundError), match=message):
        live.OrientationUDF(**arguments)


def test_a_step_of_the_scan_is_positive(live, ctx, frames):
    udf = live.OrientationUDF(make_model(), CALIBRATION, device="cpu")
    with pytest.raises(ValueError, match="scan_step must be a positive number, or one for each"):
        next(live.follow(ctx, from_memory(ctx, frames), udf, scan_step=-1))


def test_an_error_before_the_first_result_is_raised(live, ctx, frames):
    class Broken(live.OrientationUDF):
        def process_partition(self, partition):
            raise ArithmeticError("nothing can be computed")

    udf = Broken(make_model(), CALIBRATION, device="cpu")
    with pytest.raises(Exception, match="nothing can be computed"):
        list(live.follow(ctx, from_memory(ctx, frames), udf))


@pytest.mark.parametrize("line", ["import pyxem_dl.live", "import pyxem_dl; pyxem_dl.live.OrientationUDF"])
def test_without_libertem_the_extra_is_named(root, line):
    code = f"import sys; sys.modules['libertem'] = None; {line}"
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    assert done.returncode == 1
    assert 'Following a detector needs LiberTEM: python -m pip install "pyxem-dl[live]"' in done.stderr


def test_the_package_gives_it_when_it_is_first_used(live):
    import pyxem_dl

    assert pyxem_dl.live is live


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


def test_the_map_grows_while_the_camera_sends(merlin, recorded, frames, expected):
    udf = merlin.OrientationUDF(make_model(), CALIBRATION, n_best=2, flip_y=True, device="cpu")
    done = []
    with Camera(recorded) as camera, acquisition(camera) as (ctx, dataset):
        for partial in merlin.follow(ctx, dataset, udf):
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


def test_hyperspy_turns_the_file_of_a_merlin_upside_down(recorded, frames):
    import hyperspy.api as hs

    shown = hs.load(recorded.with_suffix(".mib")).data.reshape(frames.shape)
    assert np.array_equal(shown, frames) and not np.array_equal(shown, upside_down(frames))


def test_a_file_that_hyperspy_turns_gives_the_same_map_when_it_is_turned(live, recorded, ctx, expected):
    raw = ctx.load("mib", path=str(recorded), nav_shape=SHAPE)
    results = {}
    for flip_y in (True, False):
        udf = live.OrientationUDF(make_model(), CALIBRATION, n_best=2, flip_y=flip_y, device="cpu")
        results[flip_y] = udf.to_crystal_map(ctx.run_udf(dataset=raw, udf=udf))
    assert_same_map(results[True], expected)
    assert not np.array_equal(results[False].rotations.data, expected.rotations.data)


def test_a_stream_that_stops_keeps_what_is_done(merlin, recorded, expected):
    udf = merlin.OrientationUDF(make_model(), CALIBRATION, n_best=2, flip_y=True, device="cpu")
    with Camera(recorded, stop_after=303) as camera, acquisition(camera) as (ctx, dataset):
        with pytest.warns(UserWarning, match="The stream stopped after [0-9]+ of 320 patterns"):
            *_, last = merlin.follow(ctx, dataset, udf)
    xmap, n = last.to_crystal_map(), last.n_done
    assert 32 <= n < 303 and n % 32 == 0
    assert xmap.is_in_data[:n].all() and not xmap.is_in_data[n:].any()
    assert np.array_equal(xmap.rotations.data, expected[xmap.is_in_data].rotations.data)
