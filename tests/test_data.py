"""The data that come with the package: what they are, and that they carry their attribution."""

import numpy as np
import pytest

from pyxem_dl import data
from pyxem_dl.frames import Calibration


@pytest.fixture(scope="module")
def scan():
    return data.mgo_nanocubes()


def test_the_scan_is_lazy_calibrated_and_small(scan, root):
    assert type(scan).__name__ == "LazyElectronDiffraction2D"
    assert scan.data.shape == (28, 21, 144, 144) and scan.data.dtype == np.uint16
    calibration = Calibration.from_signal(scan)
    assert calibration.scale == pytest.approx((0.03246, 0.03246))
    assert calibration.center == pytest.approx((72, 72), abs=0.1)
    assert calibration.beam_energy == 300
    x, y = scan.axes_manager.navigation_axes
    assert (x.scale, x.units, y.scale, y.units) == (9.09, "nm", 9.09, "nm")
    assert (root / "pyxem_dl" / "_data" / "mgo_nanocubes.hspy").stat().st_size < 4e6


def test_eager_and_lazy_are_the_same(scan):
    eager = data.mgo_nanocubes(lazy=False)
    assert not eager._lazy
    assert np.array_equal(eager.data[3, 4:6], scan.data[3, 4:6].compute())


def test_the_direct_beam_is_where_the_calibration_says(scan):
    mean = scan.data[::7, ::7].mean(axis=(0, 1)).compute()
    row, column = np.indices(mean.shape)
    near = np.hypot(row - 72, column - 72) < 4
    found = [np.average(axis[near], weights=mean[near]) for axis in (row, column)]
    assert found == pytest.approx((72, 72), abs=0.3)


def test_the_attribution_travels_with_the_file(scan, root):
    general = scan.metadata.General
    assert "Tina Bergh" in general.authors and "15490547" in general.doi
    assert "CC-BY-4.0" in general.notes and "Every third position" in general.notes
    readme = (root / "pyxem_dl" / "_data" / "README.md").read_text(encoding="utf-8")
    assert "Tina Bergh, NTNU" in readme and "CC-BY-4.0" in readme


def test_it_is_a_piece_of_the_whole_scan(scan, shared_data):
    import hyperspy.api as hs

    whole = hs.load(shared_data / "mgo_nanocubes.zspy", lazy=True)
    for row, column in [(0, 0), (10, 7), (27, 20)]:
        original = whole.data[21 + 3 * row, 3 + 3 * column].compute()
        assert np.array_equal(scan.data[row, column].compute(), original)


@pytest.mark.parametrize(
    "make, name, space_group, n_atoms, cell",
    [
        (data.mgo_phase, "MgO", 225, 8, (4.217, 4.217, 4.217, 90, 90, 90)),
        (data.aluminium, "Al", 225, 4, (4.05, 4.05, 4.05, 90, 90, 90)),
        (data.lithium_nickel_oxide, "LiNiO2", 166, 12, (2.88, 2.88, 14.19, 90, 90, 120)),
    ],
)
def test_phases(make, name, space_group, n_atoms, cell):
    phase = make()
    assert phase.name == name and phase.space_group.number == space_group
    assert len(phase.structure) == n_atoms
    assert phase.structure.lattice.abcABG() == pytest.approx(cell)
    assert {atom.element for atom in phase.structure} <= {"Mg", "O", "Al", "Li", "Ni"}
