"""
A map that grows while a camera measures
========================================

A simulated polycrystal is written as a Merlin camera writes it. The Merlin camera that LiberTEM-live simulates sends it
over TCP, 200 frames a second, and the map grows while the frames come. The script needs the extra ``live``:
``python -m pip install "pyxem-dl[live]"``.
"""

# sphinx_gallery_thumbnail_path = "gallery/08_live/map_1.webp"

import socket
import tempfile
from pathlib import Path

import numpy as np
from libertem.executor.inline import InlineJobExecutor
from libertem_live.api import Hooks, LiveContext
from libertem_live.detectors.merlin.sim import CameraSim

import pyxem_dl
from pyxem_dl import plot
from pyxem_dl.frames import Calibration, upside_down
from pyxem_dl.live import OrientationUDF, follow

OUTPUT = Path("08_live")  # folder of the pictures
OUTPUT.mkdir(parents=True, exist_ok=True)

# %%
# A camera to try with
# --------------------
# With a real camera you do not need this cell. The camera's file has a header for each frame.

HEADER = (
    "MQ1,{number:06d},00384,01,{columns:04d},{rows:04d},U16,   1x1,01,2020-05-18 16:51:49.971626,0.000555,0,0,0,1.2E+2,"
    "5.11E+2,0,0,0,0,0,0,3RX,175,511,000,000,000,000,000,000,125,255,125,125,100,100,082,100,087,030,128,004,255,129,128,"
    "176,168,511,511,MQ1A,2020-05-18T14:51:49.971626178Z,555000ns,12,"
)
SCAN = """HDR,\t
Time and Date Stamp (day, mnth, yr, hr, min, s):\t18/05/2020 16:51:48
Frames in Acquisition (Number):\t{n}
Frames per Trigger (Number):\t{width}
Counter Depth (number):\t12
ScanX:\t{width}
ScanY:\t{height}
End\t"""


def make_camera(folder, patterns):
    """Start the simulated camera with patterns (y, x, rows, columns); it and its ports (data, control, trigger)."""
    height, width, rows, columns = patterns.shape
    with open(folder / "scan.mib", "wb") as file:
        for i, frame in enumerate(upside_down(patterns).reshape(-1, rows, columns)):
            header = HEADER.format(number=i + 1, rows=rows, columns=columns)
            file.write(header.encode().ljust(384, b"\0") + frame.astype(">u2").tobytes())
    (folder / "scan.hdr").write_text(SCAN.format(n=height * width, width=width, height=height))
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    camera = CameraSim(
        path=str(folder / "scan.hdr"), nav_shape=(height, width), host="127.0.0.1", data_port=ports[0],
        control_port=ports[1], trigger_port=ports[2], wait_trigger=True, dwelltime=5000,
    )  # fmt: skip
    camera.start()
    camera.wait_for_listen()
    return camera, ports


# %%
# LiberTEM tells when it is ready. Before that the camera sends nothing.


class Start(Hooks):
    """Starts the measurement, and gives the trigger that a scan would give."""

    def __init__(self, connection):
        self.connection = connection

    def on_ready_for_data(self, env):
        with self.connection.control() as control:
            control.cmd("STARTACQUISITION")
            control.cmd("SOFTTRIGGER")


# %%
# Follow it
# ---------
# ``OrientationUDF`` is the step that LiberTEM runs on the frames; ``follow`` gives what is known so far. Three maps are
# kept: of the first patterns, on the way, and of all.

scan = pyxem_dl.data.polycrystal((16, 24), 2e4, n_grains=6)
shape = scan.signal.data.shape[:2]
udf = OrientationUDF("linio2-200kv", Calibration.from_signal(scan.signal), n_best=2, flip_y=True, device="cpu")
grown = []
with tempfile.TemporaryDirectory() as folder:
    camera, ports = make_camera(Path(folder), scan.signal.data)
    # one thread for torch in each of LiberTEM's workers; here there is one, in this process
    ctx = LiveContext(executor=InlineJobExecutor(inline_threads=1))
    where = {"api_host": "127.0.0.1", "data_host": "127.0.0.1", "api_port": ports[1], "data_port": ports[0]}
    try:
        with ctx.make_connection("merlin").open(**where, drain=False) as connection:
            acquisition = ctx.make_acquisition(
                conn=connection, nav_shape=shape, frames_per_partition=64, hooks=Start(connection),
                controller=connection.get_active_controller(),
            )  # fmt: skip
            for partial in follow(ctx, acquisition, udf, scan_step=4.0, scan_unit="nm"):
                print(partial)
                if not grown or partial.n_done >= grown[-1][0] + partial.n // 3 or partial.n_done == partial.n:
                    grown.append((partial.n_done, partial.to_crystal_map()))
    finally:
        ctx.close()
        camera.stop()

# %%
# Look
# ----
# The first patterns:


def draw(n, xmap):
    """Map of the patterns that have come."""
    return plot.orientation_map(xmap, title=f"{n} of {shape[0] * shape[1]} patterns")


figure = draw(*grown[0])
figure.savefig(OUTPUT / "map_0.png")
figure

# %%
# On the way:

figure = draw(*grown[len(grown) // 2])
figure.savefig(OUTPUT / "map_1.png")
figure

# %%
# All of them:

figure = draw(*grown[-1])
figure.savefig(OUTPUT / "map_2.png")
figure

# %%
# The map of the camera is the map of the file, to the last bit:

same = pyxem_dl.predict_orientation(scan.signal, "linio2-200kv", n_best=2, device="cpu")
print("As from the file:", np.array_equal(same.rotations.data, grown[-1][1].rotations.data))
print(f"In {OUTPUT}: map_0.png, map_1.png, map_2.png")
