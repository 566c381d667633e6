"""Every result says where it comes from, parts, copies and files of it, too; what a stranger wrote is not trusted."""

import copy
import json
import pickle

import h5py
import hyperspy.api as hs
import numpy as np
import pytest
from orix import io
from typer.testing import CliRunner

import pyxem_dl
from pyxem_dl import commands, data, records
from pyxem_dl.frames import Calibration
from pyxem_dl.results import save_map
from pyxem_dl.results.vector_files import save_vectors

QUIET = {"show_progressbar": False}


@pytest.fixture(scope="module")
def scan():
    scan = data.mgo_nanocubes(lazy=False).inav[6:11, 8:12]
    scan.metadata.General.original_filename = "/home/somebody/secret/ACOM MTEX scan.mib"
    return scan


@pytest.fixture(scope="module")
def xmap(scan):
    return pyxem_dl.predict_orientation(scan, "mgo-300kv", n_best=2, **QUIET)


@pytest.fixture(scope="module")
def vectors(scan):
    return pyxem_dl.predict_bragg_vectors(scan, threshold=0.2, **QUIET)


# ---------------------------------------------------------------- what is recorded
def test_a_map_says_what_made_it(xmap):
    import hashlib

    record = pyxem_dl.provenance(xmap)
    weights = pyxem_dl.models.PRETRAINED / "mgo-300kv" / "model.safetensors"
    assert record["verb"] == "predict_orientation" and record["pyxem_dl"] == pyxem_dl.__version__
    assert record["model"] == [{
        "name": "mgo-300kv", "network": "any_crystal", "source": "bundled as mgo-300kv",
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }]  # fmt: skip
    assert record["settings"]["n_best"] == 2 and record["settings"]["phases"] == ["MgO"]
    assert record.thresholds == pyxem_dl.load_model("mgo-300kv").thresholds
    assert record["data"]["shape"] == [4, 5, 144, 144]
    assert record.calibration == Calibration((0.03246, 0.03246), (72.0, 72.0), (144, 144), 300.0)
    text = str(record)
    assert text.startswith("predict_orientation, pyxem_dl") and "n_best: 2" in text and "beam_energy 300" in text


def test_folders_of_users_are_not_told(xmap):
    record = pyxem_dl.provenance(xmap)
    assert record["data"]["file"] == "ACOM MTEX scan.mib" and "somebody" not in json.dumps(record)


def test_arrays_are_named_by_their_hash_and_the_same_work_has_the_same_record(scan, xmap):
    mask = np.zeros((144, 144), dtype=bool)
    mask[:70, 70:75] = True
    made = [pyxem_dl.predict_orientation(scan, "mgo-300kv", signal_mask=mask, center=(72, 71.5), **QUIET)
            for _ in range(2)]  # fmt: skip
    first, second = map(pyxem_dl.provenance, made)
    assert first == second != pyxem_dl.provenance(xmap)
    assert first["settings"]["signal_mask"]["true"] == 350 and len(first["settings"]["signal_mask"]["sha256"]) == 64
    assert first["settings"]["center"] == [72, 71.5]


def test_changed_thresholds_and_a_calibrated_scan(scan):
    model = pyxem_dl.load_model("mgo-300kv")
    model.thresholds["score"] = 0.25
    scan = scan.deepcopy()
    scan.metadata.set_item("Pyxem_dl.Calibration.distortion", [1.01, 0.002, 0.99])
    record = pyxem_dl.provenance(pyxem_dl.predict_orientation(scan, model, **QUIET))
    assert record.thresholds["score"] == 0.25
    assert record.calibration.distortion == ((1.01, 0.002), (0.002, 0.99))


def test_an_ensemble_names_its_models(scan):
    record = pyxem_dl.provenance(pyxem_dl.predict_orientation(scan, ["mgo-300kv", "mgo-300kv"], **QUIET))
    assert [each["name"] for each in record["model"]] == ["mgo-300kv", "mgo-300kv"]


def test_every_verb_of_scans(scan, vectors, tmp_path):
    matched = pyxem_dl.match_templates(scan, data.mgo_phase(), resolution=8, **QUIET)
    disks = pyxem_dl.match_disks(scan, **QUIET)
    of_vectors = pyxem_dl.match_templates(vectors, data.mgo_phase(), resolution=8, **QUIET)
    lazy = pyxem_dl.match_disks(scan, lazy_output=True, **QUIET)
    found = {
        "match_templates": matched, "match_disks": disks, "predict_bragg_vectors": vectors,
    }  # fmt: skip
    for verb, result in found.items():
        record = pyxem_dl.provenance(result)
        assert record["verb"] == verb and record.calibration.beam_energy == 300
    assert pyxem_dl.provenance(lazy) == pyxem_dl.provenance(disks)
    assert pyxem_dl.provenance(of_vectors)["made_from"] == pyxem_dl.provenance(vectors)
    assert pyxem_dl.provenance(vectors)["settings"]["threshold"] == 0.2
    assert "Made from:\n  predict_bragg_vectors" in str(pyxem_dl.provenance(of_vectors))


def test_identified_phases(scan, tmp_path):
    found = pyxem_dl.identify_phases(scan, [data.mgo_phase()], n_patterns=10, **QUIET)
    record = pyxem_dl.provenance(found)
    assert record["verb"] == "identify_phases" and record["model"][0]["name"] == "any-crystal"
    assert pyxem_dl.provenance(found.save(tmp_path / "found.json")) == record


def test_tilts_and_maps_of_pyxem(scan, xmap, vectors):
    tilt = pyxem_dl.tilt_map(vectors, max_tilt=5, **QUIET)
    record = pyxem_dl.provenance(tilt)
    assert record == tilt.provenance and record["verb"] == "tilt_map" and record["settings"] == {"max_tilt": 5}
    assert record["made_from"] == pyxem_dl.provenance(vectors)
    assert pyxem_dl.provenance(copy.deepcopy(tilt)) == pyxem_dl.provenance(pickle.loads(pickle.dumps(tilt))) == record
    angles, error, *_ = tilt  # it is a tuple as before
    assert angles.shape == (*error.shape, 2)
    known = pyxem_dl.tilt_map(vectors, calibration=pyxem_dl.provenance(vectors).calibration, **QUIET)
    assert known.provenance["made_from"]["verb"] == "calibrated_vectors"
    of_pyxem = pyxem_dl.to_orientation_map(xmap, "mgo-300kv", **QUIET)
    assert pyxem_dl.provenance(of_pyxem) == pyxem_dl.provenance(xmap)


def test_strain_keeps_that_of_its_vectors(tmp_path):
    vectors = pyxem_dl.match_disks(data.strained_multilayer((2, 12)).signal, **QUIET)
    strain = pyxem_dl.strain_map(vectors, reference=np.s_[:, :2], **QUIET)
    record = pyxem_dl.provenance(strain)
    assert record["verb"] == "strain_map" and record["made_from"]["verb"] == "match_disks"
    known = pyxem_dl.provenance(pyxem_dl.calibrated_vectors(vectors, pyxem_dl.provenance(vectors).calibration))
    assert known["verb"] == "calibrated_vectors" and known["made_from"] == pyxem_dl.provenance(vectors)
    path = strain.save(tmp_path / "strain.hspy")
    assert pyxem_dl.provenance(type(strain).load(path)) == pyxem_dl.provenance(path) == record
    assert pyxem_dl.provenance(strain.to_signal()) == record


def test_every_verb_of_images(tmp_path):
    image = data.atomic_grains((160, 160)).signal
    labels = pyxem_dl.segment_by_symmetry(image, 2, **QUIET)
    classes = pyxem_dl.classify_structure(image, n_samples=0, **QUIET)
    lattice = pyxem_dl.map_lattice(image, **QUIET)
    of_map = pyxem_dl.map_lattice(image, classes, **QUIET)
    described = pyxem_dl.get_symmetry_descriptors(image, **QUIET)
    found = {
        "segment_by_symmetry": labels, "classify_structure": classes, "map_lattice": lattice,
        "get_symmetry_descriptors": described,
    }  # fmt: skip
    for verb, result in found.items():
        assert pyxem_dl.provenance(result)["verb"] == verb
    assert pyxem_dl.provenance(lattice.rotation)["verb"] == "map_lattice"
    assert pyxem_dl.provenance(of_map)["made_from"] == pyxem_dl.provenance(classes)
    path = lattice.save(tmp_path / "lattice.zspy")
    assert pyxem_dl.provenance(type(lattice).load(path)) == pyxem_dl.provenance(path) == pyxem_dl.provenance(lattice)


def test_a_series_of_images_has_it_in_every_map_and_a_fit_in_its_signals():
    made = data.phase_field_series("allen-cahn", "circles", (40, 40), 8, counts=100.0, diffusivity=0.8, velocity=0.05)
    fit = pyxem_dl.fit_phase_field(made.signal, "allen-cahn", **QUIET)
    for each in (fit, fit.signal, fit.residuals):
        assert pyxem_dl.provenance(each)["settings"]["equation"] == "allen-cahn"
    image = data.atomic_grains((160, 160)).signal
    series = hs.stack([image, image])
    maps = pyxem_dl.classify_structure(series, n_samples=0, **QUIET)
    record, part = pyxem_dl.provenance(maps), maps[0][maps[0].prop["score"] > 0.5]
    assert record["verb"] == "classify_structure"
    assert record == pyxem_dl.provenance(maps[1]) == pyxem_dl.provenance(part)


# ---------------------------------------------------------------- what keeps it
def test_parts_and_copies_of_a_map_keep_it(xmap):
    record = pyxem_dl.provenance(xmap)
    parts = [xmap[1:3], xmap[1:3, 2:], xmap["MgO"], xmap[xmap.prop["score"] > 0.5], xmap[3]]
    for part in [*parts, *(each.deepcopy() for each in parts), copy.copy(xmap), copy.deepcopy(xmap)]:
        assert pyxem_dl.provenance(part) == record


@pytest.mark.parametrize("suffix", [".h5", ".hdf5", ".ang", ".ctf"])
def test_files_of_a_map_keep_it(xmap, tmp_path, suffix):
    path = tmp_path / f"map{suffix}"
    with pytest.warns(UserWarning) if suffix in (".ang", ".ctf") else _nothing():
        save_map(path, xmap)
    assert pyxem_dl.provenance(path) == pyxem_dl.provenance(str(path)) == pyxem_dl.provenance(xmap)
    read = io.load(path)
    assert pyxem_dl.provenance(read) == {}  # orix does not know of it
    np.testing.assert_allclose(read.rotations.data[..., :4].reshape(20, -1, 4)[:, 0].shape, (20, 4))
    if suffix in (".h5", ".hdf5"):
        opened = pyxem_dl.open_result(path)
        assert pyxem_dl.provenance(opened) == pyxem_dl.provenance(opened[1:]) == pyxem_dl.provenance(xmap)
        np.testing.assert_array_equal(opened.prop["score"], xmap.prop["score"])
        assert save_map(tmp_path / f"again{suffix}", opened).read_bytes()
        assert pyxem_dl.provenance(tmp_path / f"again{suffix}") == pyxem_dl.provenance(xmap)


def _nothing():
    from contextlib import nullcontext

    return nullcontext()


def test_words_of_other_programs_do_not_mislead_the_readers(xmap, tmp_path):
    """The scan's file is called after two of them."""
    for name in ("map.ang", "map.ctf"):
        with pytest.warns(UserWarning):
            save_map(tmp_path / name, xmap)
        text = (tmp_path / name).read_text(encoding="latin-1")
        assert "ACOM" not in text and "MTEX" not in text
        assert io.load(tmp_path / name).phases[1].name == "MgO"


def test_stores_keep_it(scan, xmap, tmp_path):
    stored = pyxem_dl.predict_orientation(scan, "mgo-300kv", n_best=2, output=tmp_path / "map.zarr", **QUIET)
    record = pyxem_dl.provenance(xmap)
    assert pyxem_dl.provenance(stored) == pyxem_dl.provenance(tmp_path / "map.zarr") == record
    assert pyxem_dl.provenance(pyxem_dl.open_result(tmp_path / "map.zarr")) == record
    again = pyxem_dl.predict_orientation(scan, "mgo-300kv", n_best=2, output=tmp_path / "map.zarr", **QUIET)
    assert pyxem_dl.provenance(again) == record
    pyxem_dl.convert_result(tmp_path / "map.zarr", tmp_path / "map.h5")
    assert pyxem_dl.provenance(tmp_path / "map.h5") == record


@pytest.mark.parametrize("suffix", [".hspy", ".zspy", ".h5", ".emd"])
def test_files_of_vectors_keep_it(vectors, tmp_path, suffix):
    path = save_vectors(tmp_path / f"vectors{suffix}", vectors)
    assert pyxem_dl.provenance(path) == pyxem_dl.provenance(vectors) != {}
    if suffix in (".hspy", ".zspy"):
        read = hs.load(path)
        assert pyxem_dl.provenance(read) == pyxem_dl.provenance(read.inav[1:]) == pyxem_dl.provenance(vectors)


def test_a_growing_map_has_it(scan, xmap):
    for partial in pyxem_dl.iter_predict_orientation(scan, "mgo-300kv", n_best=2, **QUIET):
        assert pyxem_dl.provenance(partial.to_crystal_map()) == pyxem_dl.provenance(xmap)


def test_the_command_line_writes_it(scan, xmap, tmp_path):
    scan.save(tmp_path / "scan.zspy")
    arguments = ["predict", str(tmp_path / "scan.zspy"), "--model", "mgo-300kv", "--output", str(tmp_path / "map.h5")]
    run = CliRunner().invoke(commands.app, [*arguments, "--no-progress"])
    assert run.exit_code == 0, run.output
    record = pyxem_dl.provenance(tmp_path / "map.h5")
    assert record["data"]["file"] == "scan.zspy" and record["model"] == pyxem_dl.provenance(xmap)["model"]


# ---------------------------------------------------------------- files without it, and those of strangers
def test_what_others_made_has_none(scan, xmap, tmp_path):
    assert pyxem_dl.provenance(scan) == {} and pyxem_dl.provenance(object()) == {}
    assert str(pyxem_dl.provenance(scan)) == "Nothing is known of where this comes from."
    assert pyxem_dl.provenance(scan).calibration is None and pyxem_dl.provenance(scan).thresholds == {}
    io.save(tmp_path / "orix.h5", xmap)
    assert pyxem_dl.provenance(tmp_path / "orix.h5") == {}
    assert pyxem_dl.provenance(pyxem_dl.open_result(tmp_path / "orix.h5")) == {}
    scan.save(tmp_path / "scan.hspy")
    assert pyxem_dl.provenance(tmp_path / "scan.hspy") == {}
    with pytest.raises(FileNotFoundError, match="no file"):
        pyxem_dl.provenance(tmp_path / "nothing.h5")
    (tmp_path / "text.h5").write_text("words")
    with pytest.raises(ValueError, match="text.h5 is no file that holds a result"):
        pyxem_dl.provenance(tmp_path / "text.h5")


@pytest.mark.parametrize(
    "text, message",
    [
        ("[" * 50_000, "nested"),
        ('{"verb": ' + "9" * 1000 + "}", "digits"),
        ("{", "not JSON"),
        ('{"verb": "a", "verb": "b"}', "occurs twice"),
        (7, "no text"),
        (np.zeros(10**6), "no text"),
    ],
)
def test_damaged_records_are_refused(xmap, tmp_path, text, message):
    path = save_map(tmp_path / "map.h5", xmap)
    with h5py.File(path, "r+") as file:
        del file.attrs[records.KEY]
        if isinstance(text, np.ndarray):
            file.attrs.create(records.KEY, text[:1000])
        else:
            file.attrs[records.KEY] = text
    with pytest.raises(ValueError, match=message):
        pyxem_dl.provenance(path)


def test_strange_entries_are_left_out_and_print_no_codes(xmap, tmp_path):
    path = save_map(tmp_path / "map.h5", xmap)
    strange = {"verb": "a\x1b[2J", "model": "text", "settings": {"b\n": "\x1b]0;x\x07"}, "calibration": {"scale": "x"},
               "__class__": "os.system", "made_from": {"verb": 1}}  # fmt: skip
    with h5py.File(path, "r+") as file:
        file.attrs[records.KEY] = json.dumps(strange)
    found = pyxem_dl.provenance(path)
    assert set(found) == {"verb", "settings", "calibration"}
    assert found.calibration is None and found.thresholds == {}
    assert "\x1b" not in str(found) and "\x07" not in str(found)


def test_links_to_other_files_are_not_followed(vectors, tmp_path):
    save_vectors(tmp_path / "vectors.hspy", vectors)
    with h5py.File(tmp_path / "link.hspy", "w") as file:
        file["Experiments"] = h5py.ExternalLink(str(tmp_path / "vectors.hspy"), "/Experiments")
    assert pyxem_dl.provenance(tmp_path / "link.hspy") == {}


def test_large_values_are_cut():
    record = records.made_by("x", text="a" * 10_000, many=list(range(1000)), deep=[[[[[[[[[[1]]]]]]]]]], nan=np.nan)
    settings = record["settings"]
    assert len(settings["text"]) == 400 and settings["many"][-1] == "and 936 more" and settings["nan"] == "nan"
    assert len(json.dumps(record)) < 2000
    assert set(records.made_by("x", **{f"a{i}": "b" * 400 for i in range(400)})) == {"verb", "pyxem_dl", "settings"}
