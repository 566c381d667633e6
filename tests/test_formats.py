"""Formats that users have: read lazily, whatever the chunks, the answer is that of the same patterns in memory.

RosettaSciIO's own test files are not installed with it (its tests download them): all files are made here.
"""

import dask
import hyperspy.api as hs
import numpy as np
import pytest
from scan_files import write_arina, write_dm4, write_empad, write_mib, write_mrc
from test_plot import CLEAN

import pyxem_dl
from pyxem_dl.crystals import load_phases
from pyxem_dl.models import load_model
from pyxem_dl.scans import arina, loading, make_signal
from pyxem_dl.simulation import PatternSimulator

SHAPE = (2, 3)


@pytest.fixture(scope="module")
def patterns():
    """Whole numbers to 255 of aluminium in six orientations: none is like itself turned over or transposed."""
    made = PatternSimulator(load_phases(load_model("al-200kv").phases), 200.0, 1.5, CLEAN, seed=3)()
    images = made.patterns.numpy().reshape(*SHAPE, 128, 128)
    counts = np.clip(np.rint(images / np.quantile(images, 0.999) * 200), 0, 255).astype("u1")
    for turned in (counts[..., ::-1, :], counts[..., ::-1], counts.swapaxes(-1, -2)):
        assert (turned != counts).any((-1, -2)).all()
    return counts, made.calibration


def calibrated(signal, calibration):
    """Scale, centre and beam energy, which most of these formats do not keep."""
    for axis, scale, center in zip(signal.axes_manager.signal_axes, calibration.scale[::-1], calibration.center[::-1]):
        axis.units, axis.scale, axis.offset = "1/Å", scale, -center * scale
    signal.metadata.set_item("Acquisition_instrument.TEM.beam_energy", 200.0)
    return signal


def predict(signal):
    return pyxem_dl.predict_orientation(signal, "al-200kv", device="cpu", show_progressbar=False)


@pytest.fixture(scope="module")
def expected(patterns):
    counts, calibration = patterns
    return predict(make_signal(counts.astype("f4"), calibration, "in memory"))


def hyperspy_file(suffix, **settings):
    def write(path, counts):
        signal = hs.signals.Signal2D(counts)
        signal.set_signal_type("electron_diffraction")
        for axis in signal.axes_manager.signal_axes:
            axis.units = "cm" if suffix == ".blo" else "1/nm"
        for axis in signal.axes_manager.navigation_axes:
            axis.units = "nm"
        signal.save(path, **settings)

    return write


SPLIT = {"chunks": (1, 2, 40, 50)}
FILES = {
    "hspy": ("scan.hspy", hyperspy_file(".hspy"), {}),
    "hspy, chunks that split the detector": ("scan.hspy", hyperspy_file(".hspy", **SPLIT), {}),
    "zspy": ("scan.zspy", hyperspy_file(".zspy"), {}),
    "zspy, chunks that split the detector": ("scan.zspy", hyperspy_file(".zspy", **SPLIT), {}),
    "blo": ("scan.blo", hyperspy_file(".blo"), {}),
    "tvips": ("scan_000.tvips", hyperspy_file(".tvips", mode=2), {"scan_shape": SHAPE}),
    "NCEM emd": ("scan.emd", hyperspy_file(".emd"), {}),
    "NCEM emd, chunks that split the detector": ("scan.emd", hyperspy_file(".emd", **SPLIT), {}),
    "mib, big-endian": ("scan.mib", write_mib, {}),
    "mrc": ("scan.mrc", write_mrc, {"navigation_shape": SHAPE[::-1]}),
    "dm4": ("scan.dm4", write_dm4, {}),
    "EMPAD": ("scan.xml", write_empad, {}),
    "Arina": ("scan_master.h5", write_arina, {}),
}


def load_plainly(path, settings):
    """As a user of HyperSpy does."""
    file_format = {".h5": arina, ".xml": "EMPAD"}.get(path.suffix)
    signal = hs.load(path, lazy=True, file_format=file_format, **settings)
    return signal.transpose(signal_axes=2) if path.suffix == ".emd" else signal


@pytest.mark.filterwarnings("ignore::UserWarning")  # of the formats' writers and readers
@pytest.mark.parametrize("name, write, settings", FILES.values(), ids=FILES)
@pytest.mark.parametrize("by_hyperspy", [True, False], ids=["hyperspy.api.load", "pyxem_dl.load_scan"])
def test_the_answer_is_that_of_the_patterns_in_memory(
    tmp_path, patterns, expected, name, write, settings, by_hyperspy
):
    counts, calibration = patterns
    write(tmp_path / name, counts)
    # small chunks, as a large file has them: where the reader chooses, they split the detector
    with dask.config.set({"array.chunk-size": "20 KiB"}):
        path = tmp_path / name
        signal = load_plainly(path, settings) if by_hyperspy else pyxem_dl.load_scan(path, **settings)
    assert signal._lazy and signal.data.shape == counts.shape
    np.testing.assert_array_equal(np.asarray(signal.data), counts)
    if not by_hyperspy and name.endswith((".mib", ".mrc", ".blo", ".dm4")):
        assert signal.data.numblocks[-2:] == (1, 1)
    xmap = predict(calibrated(signal, calibration))
    np.testing.assert_array_equal(xmap.phase_id, expected.phase_id)
    np.testing.assert_array_equal(xmap.rotations.data, expected.rotations.data)
    np.testing.assert_array_equal(xmap.prop["scores"], expected.prop["scores"])
    assert (xmap.phase_id == 0).mean() > 0.5


def test_chunks_of_these_readers_do_split_the_detector(tmp_path, patterns):
    """What the test above guards against is there."""
    counts, _ = patterns
    for name in ("mrc", "dm4", "mib, big-endian"):
        file, write, settings = FILES[name]
        write(tmp_path / file, counts)
        with dask.config.set({"array.chunk-size": "20 KiB"}):
            assert np.prod(load_plainly(tmp_path / file, settings).data.numblocks[-2:]) > 1


def test_merlin_frames_are_stored_from_the_last_row_and_turned_by_rosettasciio(tmp_path, patterns):
    """Frames.py: +ky is up, -row.  What LiberTEM gives, which does not turn them, has to be turned there."""
    counts, _ = patterns
    write_mib(tmp_path / "scan.mib", counts)
    frame = np.dtype([("header", "S384"), ("data", ">u2", (128, 128))])
    stored = np.fromfile(tmp_path / "scan.mib", frame)["data"].reshape(counts.shape)
    loaded = np.asarray(hs.load(tmp_path / "scan.mib", lazy=True).data)
    np.testing.assert_array_equal(loaded, stored[..., ::-1, :])
    np.testing.assert_array_equal(loaded, counts)


# ---------------------------------------------------------------- files that end in the middle
def cut(path, share=0.6):
    """Leave the first part of a file."""
    with open(path, "r+b") as file:
        file.truncate(int(path.stat().st_size * share))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "kind", ["hspy", "blo", "tvips", "NCEM emd", "mrc", "dm4", "EMPAD", "hspy, chunks that split the detector"]
)
def test_a_file_that_ends_in_the_middle_is_an_error(tmp_path, patterns, kind):
    name, write, settings = FILES[kind]
    raw = write(tmp_path / name, patterns[0]) or tmp_path / name
    cut(raw)
    with pytest.raises(ValueError, match=rf"{name}.* MiB.*Copy it again") as error:
        pyxem_dl.load_scan(tmp_path / name, **settings)
    text = str(error.value)
    if kind in ("blo", "mrc", "EMPAD"):
        assert "ends in the middle: 6 patterns of 128 x 128 px" in text
    else:
        assert "cannot be read (" in text and ("truncated" in text or kind in ("tvips", "dm4"))


def test_a_merlin_scan_that_ends_early_is_a_warning_with_both_numbers(tmp_path, patterns):
    counts, _ = patterns
    write_mib(tmp_path / "scan.mib", counts)
    frame = 384 + 2 * 128**2
    with open(tmp_path / "scan.mib", "r+b") as file:
        file.truncate(4 * frame + 1000)
    with pytest.warns(UserWarning, match="it has 4 of 6 frames, of which 3 are used, in whole rows"):
        signal = pyxem_dl.load_scan(tmp_path / "scan.mib")
    np.testing.assert_array_equal(np.asarray(signal.data).reshape(-1, 128, 128), counts.reshape(-1, 128, 128)[:3])
    with open(tmp_path / "scan.mib", "r+b") as file:
        file.truncate(2 * frame)
    with pytest.raises(ValueError, match="scan.mib"):
        pyxem_dl.load_scan(tmp_path / "scan.mib")


def test_chunks_that_are_missing_are_a_warning(tmp_path, patterns):
    FILES["zspy, chunks that split the detector"][1](tmp_path / "scan.zspy", patterns[0])
    chunks = [path for path in (tmp_path / "scan.zspy").rglob("*") if path.is_file() and path.name[0].isdigit()]
    assert len(chunks) > 10
    pyxem_dl.load_scan(tmp_path / "scan.zspy")
    chunks[3].unlink()
    with pytest.warns(UserWarning, match=f"1 of {len(chunks)} chunks are missing, whose patterns are read as zeros"):
        pyxem_dl.load_scan(tmp_path / "scan.zspy")


@pytest.mark.parametrize("name, write", [
    ("scan.mrc", lambda path, counts: write_mrc(path, counts, ">")),
    ("scan.dm4", lambda path, counts: write_dm4(path, counts, little_endian=False)),
])  # fmt: skip
def test_what_would_be_read_in_the_wrong_order_of_bytes_is_refused(tmp_path, patterns, name, write):
    write(tmp_path / name, patterns[0])
    with pytest.raises(ValueError, match=f"{name} is big-endian"):
        pyxem_dl.load_scan(tmp_path / name)


def test_files_that_are_none(tmp_path):
    for name in ("scan.hspy", "scan.blo", "scan.mib", "scan.dm4", "scan.mrc", "scan_000.tvips", "scan.xml", "a.h5"):
        (tmp_path / name).write_bytes(b"no scan")
        with pytest.raises(ValueError, match=name):
            pyxem_dl.load_scan(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="There is no file"):
        pyxem_dl.load_scan(tmp_path / "nowhere.hspy")


# ---------------------------------------------------------------- Arina
@pytest.mark.parametrize("n_files", [1, 4])
@pytest.mark.parametrize("block", [1, 3 * 2 * 128**2, 2**30])
def test_frames_of_an_arina_scan_in_blocks_of_any_size(tmp_path, patterns, monkeypatch, n_files, block):
    counts, _ = patterns
    monkeypatch.setattr(arina, "_BLOCK", block)
    write_arina(tmp_path / "scan_master.h5", counts, n_files)
    signal = pyxem_dl.load_arina(tmp_path / "scan_master.h5")
    assert type(signal).__name__ == "LazyElectronDiffraction2D" and signal.data.dtype == "u2"
    assert signal.data.numblocks == {1: (2, 3, 1, 1), 2**30: (1, 1, 1, 1)}.get(block, (2, 1, 1, 1))
    assert signal.metadata.Acquisition_instrument.TEM.beam_energy == 200
    np.testing.assert_array_equal(np.asarray(signal.data), counts)
    np.testing.assert_array_equal(np.asarray(signal.data[1, 1:, 5:90, 7]), counts[1, 1:, 5:90, 7])
    in_memory = pyxem_dl.load_arina(tmp_path / "scan_master.h5", (3, 2), lazy=False)
    np.testing.assert_array_equal(in_memory.data, counts.reshape(3, 2, 128, 128))
    assert not in_memory.original_metadata.arina.pixel_mask.any()


@pytest.mark.parametrize("energy, found", [(80e3, 80), (8041.0, None), (0.0, None)])
def test_the_energy_of_an_arina_scan_is_that_of_electrons(tmp_path, patterns, energy, found):
    write_arina(tmp_path / "scan_master.h5", patterns[0][..., :20, :20], energy=energy)
    signal = pyxem_dl.load_arina(tmp_path / "scan_master.h5")
    assert signal.metadata.get_item("Acquisition_instrument.TEM.beam_energy") == found


def test_the_shape_of_an_arina_scan(tmp_path, patterns):
    counts = patterns[0].reshape(6, 128, 128)
    master = tmp_path / "scan_master.h5"

    def shape(n, asked, given=None):
        write_arina(master, counts[:n, None, :20, :30], asked=asked)
        return pyxem_dl.load_arina(master, given).data.shape

    assert shape(6, (3, 2)) == (3, 2, 20, 30)
    assert shape(4, (4, 1)) == (2, 2, 20, 30)
    with pytest.warns(UserWarning, match="its 6 frames are taken for a line"):
        assert shape(6, (6, 1)) == (6, 20, 30)
    for asked, given in (((3, 2), None), ((9, 1), (3, 2))):
        with pytest.warns(UserWarning, match="has 5 of the 6 frames of the scan: its first 2 of 3 rows are kept"):
            assert shape(5, asked, given) == (2, 2, 20, 30)
    with pytest.raises(ValueError, match=r"has 6 frames, but navigation_shape \(2, 2\) has 4"):
        shape(6, (6, 1), (2, 2))
    with pytest.raises(ValueError, match=r"must be \(rows, columns\)"):
        shape(6, (6, 1), (2.5, 2))
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"fewer than a row of the scan \(3\)"):
        shape(2, (3, 3))


def test_arina_files_that_cannot_be_read(tmp_path, patterns):
    import h5py

    master, frames = tmp_path / "scan_master.h5", tmp_path / "scan_data_000002.h5"
    write_arina(master, patterns[0])
    cut(frames)
    with pytest.raises(ValueError, match="scan_data_000002.h5 is damaged"):
        pyxem_dl.load_arina(master)
    frames.unlink()
    with pytest.raises(FileNotFoundError, match="scan_data_000002.h5 is missing: keep all files of a scan in one"):
        pyxem_dl.load_arina(master)
    with h5py.File(master, "r+") as file:
        del file["entry/data/data_000002"]
        file["entry/data/data_000002"] = h5py.ExternalLink("../elsewhere.h5", "entry/data/data")
    with pytest.raises(ValueError, match="in another folder, '../elsewhere.h5': put them beside it"):
        pyxem_dl.load_arina(master)
    with h5py.File(master, "r+") as file:
        del file["entry/data/data_000002"]
        file["entry/data/data_000002"] = np.zeros((3, 5, 5), "u2")
    with pytest.raises(ValueError, match="frames are not all alike"):
        pyxem_dl.load_arina(master)
    with h5py.File(master, "r+") as file:
        del file["entry/data/data_000002"]
        file["entry/data/data_000002"] = np.zeros(3)
    with pytest.raises(ValueError, match="has no frames at"):
        pyxem_dl.load_arina(master)
    cut(master)
    with pytest.raises(ValueError, match="scan_master.h5 is damaged"):
        pyxem_dl.load_arina(master)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["a"] = 1
    with pytest.raises(ValueError, match="is no master file of an ARINA detector"):
        pyxem_dl.load_arina(tmp_path / "other.h5")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        pyxem_dl.load_arina(tmp_path / "nowhere.h5")


def test_frames_that_vanish_after_loading_are_an_error(tmp_path, patterns):
    write_arina(tmp_path / "scan_master.h5", patterns[0])
    signal = pyxem_dl.load_arina(tmp_path / "scan_master.h5")
    (tmp_path / "scan_data_000001.h5").unlink()
    with pytest.raises(FileNotFoundError, match="scan_data_000001.h5 is missing"):
        signal.data[0, 0].compute()


def test_compressed_as_dectris_does(tmp_path, patterns):
    hdf5plugin = pytest.importorskip("hdf5plugin", reason="needs hdf5plugin, the extra 'arina'")
    write_arina(tmp_path / "scan_master.h5", patterns[0], compression=hdf5plugin.Bitshuffle(cname="lz4"))
    np.testing.assert_array_equal(np.asarray(pyxem_dl.load_arina(tmp_path / "scan_master.h5").data), patterns[0])


def test_a_filter_that_is_missing_names_the_extra(tmp_path, patterns, monkeypatch):
    import h5py

    write_arina(tmp_path / "scan_master.h5", patterns[0])
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda code: False)
    monkeypatch.setitem(__import__("sys").modules, "hdf5plugin", None)
    with pytest.raises(ImportError, match=r'is compressed \(deflate\): to read it, .* "pyxem-dl\[arina\]"'):
        pyxem_dl.load_arina(tmp_path / "scan_master.h5")


def test_chunks_are_asked_for_where_the_reader_takes_them(tmp_path):
    kinds = ("mib", "blo", "mrc", "dm4", "hspy")
    assert [loading._takes_chunks(tmp_path / f"a.{kind}") for kind in kinds] == [True, True, True, True, False]


@pytest.mark.parametrize("kind", ["mib, big-endian", "Arina", "EMPAD", "NCEM emd"])
def test_the_command_line_reads_them(tmp_path, patterns, expected, kind):
    from orix import io
    from typer.testing import CliRunner

    from pyxem_dl.commands import app

    counts, calibration = patterns
    name, write, _ = FILES[kind]
    write(tmp_path / name, counts)
    center = ",".join(map(str, calibration.center))
    arguments = ["predict", tmp_path / name, "--model", "al-200kv", "--scale", calibration.scale[0], "--center", center,
                 "--beam-energy", 200, "--output", tmp_path / "map.h5", "--device", "cpu"]  # fmt: skip
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    found = io.load(tmp_path / "map.h5")
    np.testing.assert_array_equal(found.phase_id, expected.phase_id)
    np.testing.assert_allclose(found.rotations.angle_with(expected.rotations, degrees=True), 0, atol=0.01)
