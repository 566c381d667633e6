"""Answers of py4DSTEM and quantem.

They want other versions of NumPy than pyxem_dl, so this runs in environments of theirs, and needs nothing of this
package: ``python -m open_benchmark export`` and ``cif`` write what it reads.

    pip install "py4dstem==0.14.18" "pymatgen<2025" "numpy<2"   (or "quantem==0.1.10"), and then
    OMP_NUM_THREADS=1 python rivals.py py4dstem patterns.npz CIF_FOLDER answers.csv

Both find disks by cross-correlation with the probe, and match them with templates by their sparse correlation.  Disks
count from a threshold on the correlation.  Matching is as in their tutorials, with zone axes 2 degrees apart, as in the
paper on ACOM; quantem refines what it finds.
"""

from __future__ import annotations

import contextlib
import csv
import io
import sys
import time
import warnings
from pathlib import Path

import numpy as np

#: Candidates; px between disks and from the border; disks
CANDIDATES, SPACING, BORDER, MOST = 3, 4, 2, 100
#: Of the largest correlation outside the direct beam's
THRESHOLD = 0.01
#: Degrees between zone axes
STEP = 2.0


def probe_of(file) -> np.ndarray:
    """Image of the probe without a crystal, its middle as told."""
    row, column = np.indices(file["patterns"].shape[1:]) - float(file["center"])
    disk = np.clip(float(file["disk_radius"]) / float(file["scale"]) + 0.5 - np.hypot(row, column), 0, 1)
    return disk / disk.sum()


def radius_of(file) -> float:
    """Distance in Å⁻¹ from the middle to the edge of the patterns."""
    return float(file["scale"]) * file["patterns"].shape[1] / 2


def in_lab(rows, columns, intensity, file, threshold: float) -> np.ndarray:
    """Disks as kx, ky (Å⁻¹, +x to the right and +y up) and intensity (m, 3), without those below the threshold."""
    scale, center = float(file["scale"]), float(file["center"])
    found = np.stack([(columns - center) * scale, (center - rows) * scale, intensity], axis=1)
    radius = np.hypot(found[:, 0], found[:, 1])
    scattered = radius > 1.5 * float(file["disk_radius"])
    least = threshold * found[scattered, 2].max() if scattered.any() else 0.0
    return found[(radius < radius_of(file)) & (found[:, 2] >= least)]


def py4dstem(file, folder: Path, threshold: float):
    """Yield the orientations (k, 4), lab to crystal, of each pattern."""
    from emdfile import PointList
    from py4DSTEM import DataCube, Probe
    from py4DSTEM.process.diffraction import Crystal

    cube, probe = DataCube(file["patterns"][:, None].astype(np.float32)), Probe(probe_of(file))
    probe.get_kernel(mode="flat")
    disks = cube.find_Bragg_disks(
        probe.kernel, corrPower=1, sigma_cc=1, subpixel="poly", minAbsoluteIntensity=0, minRelativeIntensity=0,
        minPeakSpacing=SPACING, edgeBoundary=BORDER, maxNumPeaks=MOST,
    )  # fmt: skip
    for name in dict.fromkeys(file["crystals"].tolist()):
        crystal = Crystal.from_CIF(str(folder / f"{name}.cif"), conventional_standard_structure=False, primitive=False)
        crystal.calculate_structure_factors(radius_of(file))
        crystal.orientation_plan(
            zone_axis_range="auto", angle_step_zone_axis=STEP, angle_step_in_plane=2.0, corr_kernel_size=0.08,
            accel_voltage=1e3 * float(file["beam_energy"]),
        )  # fmt: skip
        for i in np.flatnonzero(file["crystals"] == name):
            raw = disks.raw[i, 0]
            found = in_lab(raw.qx, raw.qy, raw.I, file, threshold)
            points = PointList(np.zeros(len(found), dtype=[("qx", float), ("qy", float), ("intensity", float)]))
            for key, column in zip(("qx", "qy", "intensity"), found.T):
                points.data[key] = column
            orientation = crystal.match_single_pattern(points, num_matches_return=CANDIDATES)
            # the columns of a matrix are the lab's axes in the crystal; without a match it is zero
            matrices = [m for m in orientation.matrix if abs(np.linalg.det(m) - 1) < 1e-3]
            yield i, np.array([quaternion_of(matrix) for matrix in matrices]).reshape(-1, 4)


def quantem(file, folder: Path, threshold: float):
    """Yield the orientations (k, 4), lab to crystal, of each pattern."""
    import torch
    from quantem.core.datastructures.vector import Vector
    from quantem.diffraction.crystal import Crystal
    from quantem.diffraction.disk_detection import detect_disks_batch, make_template, template_fourier
    from quantem.diffraction.orientation import OrientationMap

    torch.set_num_threads(1)
    template = template_fourier(make_template(torch.from_numpy(probe_of(file).astype(np.float32))))
    disks = detect_disks_batch(
        torch.from_numpy(file["patterns"]), template, min_spacing=SPACING, edge_boundary=BORDER, max_num_peaks=MOST,
        sigma_cc=1.0,
    )  # fmt: skip
    for name in dict.fromkeys(file["crystals"].tolist()):
        here = np.flatnonzero(file["crystals"] == name)
        crystal = Crystal.from_cif(folder / f"{name}.cif").calculate_structure_factors(radius_of(file))
        found = [in_lab(*disks[i].T, file, threshold) for i in here]
        peaks = Vector.from_data([found], fields=("qx", "qy", "intensity"))
        matching = OrientationMap.from_vectors(peaks, crystal, 1e3 * float(file["beam_energy"]))
        matching.build_plan(STEP, detector_q_max=radius_of(file), progress_bar=False)
        matching.match_orientations(num_matches=CANDIDATES, min_number_peaks=3, progress_bar=False)
        # each pattern is a scan of its own: neighbours know nothing of each other
        matching.refine_orientations(neighbor_rescue=False, progress_bar=False)
        quaternions, scores = matching.quats[0].numpy(), matching.corr[0].numpy()
        for i, candidates, score in zip(here, quaternions, scores):
            # crystal to lab
            yield i, candidates[score > 0] * np.array([1, -1, -1, -1])


def quaternion_of(matrix: np.ndarray) -> np.ndarray:
    """Quaternion (4,) of a rotation matrix."""
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(matrix).as_quat()
    return np.array([w, x, y, z])


def main(rival: str, patterns: str, folder: str, output: str, threshold: float = THRESHOLD) -> None:
    """Write the answers of one program."""
    warnings.simplefilter("ignore")
    with np.load(patterns, allow_pickle=False) as file:
        file = {key: file[key] for key in file.files}
    start, rows = time.process_time(), []
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # reports and bars
        for i, candidates in {"py4dstem": py4dstem, "quantem": quantem}[rival](file, Path(folder), threshold):
            rows += [(file["ids"][i], rank, *candidate) for rank, candidate in enumerate(candidates)]
    with open(output, "w", newline="", encoding="utf-8") as answers:
        csv.writer(answers).writerows([("id", "rank", "a", "b", "c", "d"), *rows])
    print(f"{len(file['ids'])} patterns, {time.process_time() - start:.0f} s of CPU time: {output}")


if __name__ == "__main__":
    main(*sys.argv[1:5], *map(float, sys.argv[5:6]))
