"""CPU time of disk detection by py4DSTEM or quantem, on the patterns of the benchmark's section "cost".

They want another NumPy than pyxem_dl, so this runs in an environment of theirs, and needs nothing of pyxem_dl:

    pip install "py4dstem>=0.14" (or "quantem>=0.1.10"), and then
    OMP_NUM_THREADS=1 python rivals.py py4dstem ../../shared/data/multislice/Al_3mrad.npz
"""

from __future__ import annotations

import contextlib
import io
import sys
import time

import numpy as np

ELECTRONS, SEED = 1e5, 2718
# As the benchmark calls py4DSTEM; of quantem the faster of its ways to sub-pixel positions, and its own
SPACING, BORDER, MOST = 8, 4, 70


def patterns_of(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Patterns and probe, as ``suite.disks.bragg_disks`` makes them."""
    with np.load(path) as file:
        images, vacuum = file["images"].astype(float), file["vacuum"]
    images *= (ELECTRONS / images.sum(axis=(1, 2)))[:, None, None]
    return np.random.default_rng(SEED).poisson(images).astype(np.float32), vacuum


def py4dstem(patterns, vacuum):
    """Yield names and functions that find disks."""
    from py4DSTEM import DataCube, Probe

    cube, probe = DataCube(patterns[:, None].astype(np.uint16)), Probe(np.asarray(vacuum))
    probe.get_kernel(mode="flat")
    yield "py4DSTEM, poly", lambda: cube.find_Bragg_disks(
        probe.kernel, corrPower=1, sigma_cc=0, subpixel="poly", minAbsoluteIntensity=0, minRelativeIntensity=0,
        minPeakSpacing=SPACING, edgeBoundary=BORDER, maxNumPeaks=MOST,
    )  # fmt: skip


def quantem(patterns, vacuum):
    """Yield names and functions that find disks."""
    import torch
    from quantem.diffraction.disk_detection import detect_disks_batch, make_template, template_fourier

    torch.set_num_threads(1)
    stack = torch.from_numpy(patterns)
    template = template_fourier(make_template(torch.from_numpy(np.asarray(vacuum, dtype=np.float32))))
    for subpixel in ("parabolic", "upsample"):
        yield f"quantem, {subpixel}", lambda subpixel=subpixel: detect_disks_batch(
            stack, template, min_spacing=SPACING, edge_boundary=BORDER, max_num_peaks=MOST, subpixel=subpixel
        )


def main(rival: str, path: str, repeats: int = 5) -> None:
    """Print CPU microseconds for a pattern: median, least and most."""
    patterns, vacuum = patterns_of(path)
    for name, find in {"py4dstem": py4dstem, "quantem": quantem}[rival](patterns, vacuum):
        seconds = []
        with contextlib.redirect_stderr(io.StringIO()):  # bars
            find()
            for _ in range(repeats):
                start = time.process_time()
                find()
                seconds.append((time.process_time() - start) / len(patterns))
        print(f"{name}: {1e6 * np.median(seconds):.0f} ({1e6 * min(seconds):.0f} to {1e6 * max(seconds):.0f}) us")


if __name__ == "__main__":
    main(*sys.argv[1:])
