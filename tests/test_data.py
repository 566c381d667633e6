"""The data that come with the package: what they are, and that they carry their attribution."""

import hashlib
import warnings

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


# ---------------------------------------------------------------- the whole scan, from a server of this computer
@pytest.fixture
def published(tmp_path, monkeypatch):
    """A few positions as pyxem's collection has the scan: floats in a zipped zarr store, and a server that gives it."""
    import pyxem.data
    import zarr
    from database import Database

    scan = data.mgo_nanocubes(lazy=False).inav[:3, :2]
    truth = scan.data.copy()
    scan.change_dtype("float32")
    scan.metadata.General.title = "MgO Nano-Crystals"
    scan.axes_manager[0].scale = 1.0
    with zarr.ZipStore(tmp_path / "mgo_nano.zspy", mode="w") as store, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # HyperSpy writes some attributes twice
        scan.save(store)
    content = (tmp_path / "mgo_nano.zspy").read_bytes()
    server, collection = Database(), pyxem.data._data
    server.answers["/mgo_nano.zspy"] = (200, {}, content)
    name, cache = "mgo_nano.zspy", tmp_path / "cache"
    monkeypatch.setattr(collection.kipper, "path", cache)
    monkeypatch.setitem(collection._file_names_hash, name, "md5:" + hashlib.md5(content).hexdigest())
    monkeypatch.setitem(collection.kipper.registry, name, "md5:" + hashlib.md5(content).hexdigest())
    for urls in (collection._urls, collection.kipper.urls):
        monkeypatch.setitem(urls, name, f"{server.base}/{name}")
    yield server, content, cache, truth
    server.close()


@pytest.mark.parametrize("lazy", [True, False])
def test_the_whole_scan_is_downloaded_once(published, lazy):
    server, _, _, truth = published
    for _ in range(2):
        whole = data.mgo_nanocubes(lazy=lazy, full=True)
        assert whole._lazy == lazy and whole.data.dtype == np.uint16
        np.testing.assert_array_equal(np.asarray(whole.data), truth)
    assert len(server.asked) == 1
    piece = data.mgo_nanocubes()
    assert [axis.scale for axis in whole.axes_manager.signal_axes] == [
        axis.scale for axis in piece.axes_manager.signal_axes
    ]
    assert [axis.scale for axis in whole.axes_manager.navigation_axes] == [3.03, 3.03]
    assert whole.metadata.General.title == "MgO nanocubes" and whole.metadata.Signal.signal_type == piece._signal_type
    assert whole.metadata.Acquisition_instrument.TEM.beam_energy == 300


def test_without_a_network_the_file_and_its_place_are_named(published):
    server, content, cache, _ = published
    server.close()
    with pytest.raises(ConnectionError, match=rf"mgo_nano.zspy.*{server.base}.*{cache}.*bring the file from another"):
        data.mgo_nanocubes(full=True)
    (cache / "mgo_nano.zspy").write_bytes(content)
    assert data.mgo_nanocubes(full=True).axes_manager.navigation_shape == (3, 2)


def test_another_file_is_refused(published):
    server, content, cache, _ = published
    server.answers["/mgo_nano.zspy"] = (200, {}, content[:-1])
    with pytest.raises(ValueError, match="hash of downloaded file"):
        data.mgo_nanocubes(full=True)
    assert not (cache / "mgo_nano.zspy").exists()
