"""Bloch waves against abTEM's: kept numbers, and abTEM itself where it is installed; and the benchmark's own sums."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from pyxem_dl.devices import on_one_core
from pyxem_dl.simulation.bloch_waves import BlochWaves
from pyxem_dl.simulation.cells import tilted, zone_axis_rotation
from suite import bloch, dynamical

needs_abtem = pytest.mark.skipif(find_spec("abtem") is None, reason="abTEM is not installed (extra multislice)")
#: Half a degree from a zone axis, at 100, 400 and 800 Å, the seven brightest beams by `suite.bloch.abtem_bloch`
KEPT = {
    ("GaAs", (1, 1, 0)): {
        (-2, 2, 0): (0.06737, 0.11121, 0.17693),
        (-1, 1, -3): (0.06869, 0.0771, 0.12849),
        (-2, 2, -2): (0.00257, 0.07555, 0.17093),
        (0, 0, -2): (0.00118, 0.18758, 0.00369),
        (-3, 3, -3): (0.03111, 0.01016, 0.11621),
        (1, -1, -1): (0.03979, 0.05649, 0.04601),
        (0, 0, -4): (0.02657, 0.07481, 0.02845),
    },
    ("LiNiO2", (2, 2, 1)): {
        (-2, 0, 4): (0.0892, 0.05192, 0.16481),
        (-1, 0, 2): (0.02234, 0.13613, 0.01436),
        (2, 0, -4): (0.00288, 0.0017, 0.00086),
        (1, 0, -2): (0.00309, 0.00129, 0.00104),
        (-3, 3, 0): (0.00076, 0.00235, 0.00074),
        (-1, 3, -4): (0.00169, 0.00038, 0.00111),
        (4, 1, -9): (0.00138, 0.00024, 0.00125),
    },
    ("Si", (1, 1, 0)): {
        (-2, 2, 0): (0.11458, 0.39122, 0.19782),
        (-1, 1, -3): (0.05013, 0.0785, 0.22843),
        (-1, 1, -1): (0.11424, 0.06839, 0.10531),
        (-1, 1, 1): (0.09393, 0.1134, 0.02226),
        (1, -1, -1): (0.07994, 0.05564, 0.05265),
        (-3, 3, -1): (0.02, 0.03112, 0.06362),
        (0, 0, -2): (0.00063, 0.04724, 0.04581),
    },
}
THICKNESSES = (100.0, 400.0, 800.0)


@pytest.fixture(autouse=True)
def _small_matrices():
    """Many small operations, which two threads only hold up."""
    with on_one_core():
        yield


def of_abtem(name, axis):
    phase = dynamical.phase_of(name, bloch.MATERIALS)
    return phase, tilted(zone_axis_rotation(phase, axis, 17.0), 0.5, 65.0)


@pytest.mark.parametrize("name, axis", KEPT)
def test_intensities_are_those_that_abtem_found(name, axis):
    phase, rotation = of_abtem(name, axis)
    known = KEPT[name, axis]
    waves = BlochWaves(phase, 200, 2.1, n_beams=400)

    def found(orientation):
        result = waves(torch.as_tensor(orientation, dtype=torch.float32)[None], torch.tensor(THICKNESSES))
        intensity = {tuple(h): result.intensity[0, :, i] for i, h in enumerate(result.chosen.hkl[0].tolist())}
        return np.stack([intensity[h] if h in intensity else np.zeros(3) for h in known])

    np.testing.assert_allclose(found(rotation), list(known.values()), atol=6e-4)
    # half a degree the other way are other ones
    other = tilted(zone_axis_rotation(phase, axis, 17.0), 0.5, 245.0)
    assert np.abs(found(other) - list(known.values())).max() > 0.02


@needs_abtem
@pytest.mark.parametrize("name", ["GaAs", "LiNiO2"])
def test_abtems_bloch_waves_are_ours(name):
    phase = dynamical.phase_of(name, bloch.MATERIALS)
    rotations = [zone_axis_rotation(phase, [2, 2, 1], 10.0), of_abtem(name, (1, 1, 0))[1]]
    for percent, held in bloch._against_bloch(phase, rotations, (100.0, 400.0)).values():
        assert percent < 1.0 and held > 0


@needs_abtem
def test_abtems_multislice_tells_which_way_a_polar_crystal_points():
    """Along [110] of GaAs; the inverted crystal, which abTEM's Bloch waves take for it, has other intensities."""
    phase = dynamical.phase_of("GaAs", bloch.MATERIALS)
    found = bloch._against_plane_waves(phase, [1, 1, 0], (50.0, 150.0))
    assert all(percent < 4 for percent, _ in found.values())
    inverted = dynamical.phase_of("GaAs", {"GaAs": (216, (5.65, 5.65, 5.65, 90, 90, 90), [
        ("Ga", (0.25, 0.25, 0.25)), ("As", (0, 0, 0))
    ])})  # fmt: skip
    rotation = torch.as_tensor(zone_axis_rotation(phase, [1, 1, 0]), dtype=torch.float32)[None]
    right, wrong = (
        BlochWaves(crystal, 200, 1.5, n_beams=300)(rotation, torch.tensor([150.0])) for crystal in (phase, inverted)
    )
    assert (right.intensity - wrong.intensity)[..., 1:].abs().sum() > 0.1 * right.intensity[..., 1:].sum()


def test_differences_are_sums_over_sums():
    ours, theirs = np.array([[0.1, 0.2], [0.0, 0.3]]), np.array([[0.1, 0.1], [0.1, 0.3]])
    np.testing.assert_allclose(bloch.difference(ours, theirs), [[50, 0.2], [25, 0.4]])


def test_the_tables_have_a_line_for_each_row():
    rows = [
        {"data": "Al, random", "predictor": "abTEM, Bloch", "100": [0.123, 0.456]},
        {"data": "Al, Bloch, spots", "predictor": "x", "n": 64, "device": "cpu", "patterns_per_second": 458.2,
         "cpu_ms": 0.72},
    ]  # fmt: skip
    text = bloch.table(rows, lambda row: "a")
    assert "| Al, random | abTEM, Bloch | 0.12 % (0.46) | a |" in text
    assert "| Al, Bloch, spots | cpu | 458.2 | 0.72 | a |" in text


def test_speed_is_measured_on_the_device_that_is_asked_for(monkeypatch):
    monkeypatch.setattr(bloch, "_SPEED_PATTERNS", 3)
    monkeypatch.setattr(bloch, "_SPEEDS", {"Bloch, spots": {"shape": (32, 32)}})
    rows = list(bloch.measure_speed("cpu"))
    assert [row[0] for row in rows] == ["Al, Bloch, spots", "LiNiO2, Bloch, spots"]
    assert all(row[2]["patterns_per_second"] > 0 and row[2]["device"] == "cpu" for row in rows)
