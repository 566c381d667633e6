"""Scale, ellipse and centre of a scan from its refined patterns."""

import re

import numpy as np
import pytest
import torch
from distorted_scans import stretched
from orix.crystal_map import CrystalMap, PhaseList
from orix.quaternion import Rotation
from test_refined_strain import deformed
from test_refinement import CALIBRATION, PHASES, off, turned

import pyxem_dl
from pyxem_dl.frames import k_to_pixel
from pyxem_dl.rotations import random_rotations
from pyxem_dl.scans import make_signal

SHAPE = (3, 4)
GIVEN = {"thickness": (60, 320), "convergence_semi_angle": 1.5, "show_progressbar": False, "on_message": str}


pytestmark = pytest.mark.usefixtures("one_thread")


def made(name, matrix, center, orientations=6):
    """Scan of a few orientations with the nominal calibration, its map, the truth, and the true calibration."""
    n, phase = int(np.prod(SHAPE)), PHASES[name]()
    seeds = torch.Generator().manual_seed(11)
    rotations = turned(random_rotations(orientations, seeds).repeat_interleave(n // orientations, 0), 0.3, seed=4)
    thickness = torch.linspace(90, 260, n)
    true = CALIBRATION.replace(
        distortion=tuple(map(tuple, matrix.tolist())), center=tuple(np.add(CALIBRATION.center, center).tolist())
    )
    signal = make_signal(
        deformed(phase, rotations, thickness, None, 1e5, true).numpy().reshape(*SHAPE, 128, 128), CALIBRATION, name
    )
    y, x = (each.ravel() for each in np.indices(SHAPE))
    xmap = CrystalMap(Rotation(turned(rotations, 0.15).numpy()), x=x, y=y, phase_list=PhaseList(phase))
    return signal, xmap, rotations, true


@pytest.mark.parametrize("name", PHASES)
def test_scale_ellipse_and_centre_come_back(name):
    signal, xmap, rotations, true = made(name, stretched(0.02, 30, 1.012), (0.5, -0.7))
    messages = []
    refined = pyxem_dl.refine_orientation(
        signal, xmap, calibrate=True, **GIVEN | {"on_message": messages.append}
    )
    found = pyxem_dl.calibration_of(refined)
    k = 1.2 * np.array([[1, 0], [0, 1], [-1, 0], [0, -1], [0, 0]])
    expected, seen, nominal = (np.stack(k_to_pixel(*k.T, each), axis=1) for each in (true, found, CALIBRATION))
    assert np.abs(seen - expected).max() < 0.15 < 0.8 < np.abs(nominal - expected).max()
    before, after = (float(x) for x in re.search(r"misfit (\S+) → (\S+)", "\n".join(messages)).groups())
    assert np.median(refined.prop["misfit"]) < 1.2 * after < 0.8 * before
    assert off(torch.from_numpy(refined.rotations.data), rotations).median() < 0.06


def test_what_was_found_can_be_given(tmp_path):
    signal, xmap, rotations, true = made("LiNiO2", stretched(0.0, 0, 1.01), (0.0, 0.0), orientations=2)
    messages = []
    given = GIVEN | {"on_message": messages.append}
    refined = pyxem_dl.refine_orientation(signal, xmap, calibrate=True, output=tmp_path / "refined.zarr", **given)
    text = "\n".join(messages)
    assert "Calibration of the scan, by refined patterns" in text
    # of two orientations no ellipse is believed
    assert "Ellipse: not determined" in text and "2 orientations" in text
    found = pyxem_dl.calibration_of(refined)
    assert found.scale[0] == pytest.approx(CALIBRATION.scale[0] / 1.01, rel=2e-3)
    stored = pyxem_dl.results.open_result(tmp_path / "refined.zarr")
    assert pyxem_dl.calibration_of(stored) == found
    with pytest.raises(TypeError, match="calibrate"):
        pyxem_dl.refine_orientation(signal, xmap, calibrate="yes", **GIVEN)


def test_a_scan_that_cannot_keeps_its_calibration():
    signal, xmap, *_ = made("LiNiO2", stretched(0.0, 0), (0.0, 0.0), orientations=2)
    wrong = CrystalMap(
        Rotation(random_rotations(12, torch.Generator().manual_seed(99)).numpy()), x=xmap.x, y=xmap.y,
        phase_list=xmap.phases,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="cannot calibrate itself by refined patterns"):
        refined = pyxem_dl.refine_orientation(signal, wrong, calibrate=True, **GIVEN)
    assert pyxem_dl.calibration_of(refined) is None


def test_a_map_of_another_calibration_is_told():
    signal, xmap, *_ = made("LiNiO2", stretched(0.0, 0, 1.01), (0.0, 0.0), orientations=2)
    refined = pyxem_dl.refine_orientation(signal, xmap, calibrate=True, **GIVEN)
    with pytest.warns(UserWarning, match=r"another calibration than the signal has: a scale that is -\d"):
        pyxem_dl.refine_orientation(signal, refined, **GIVEN)
