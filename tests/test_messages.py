"""Warnings show the user's own line, whichever verb they come from and however it was called."""

import threading
import warnings

import numpy as np
import pytest
from fake_network import FakeNetwork, make_model

import pyxem_dl
from pyxem_dl import data, networks, training
from pyxem_dl.frames import Calibration
from pyxem_dl.messages import heard, warn
from pyxem_dl.results import maps
from pyxem_dl.results.labels import read_labels
from pyxem_dl.scans import Computing, make_signal

QUIET = {"device": "cpu", "show_progressbar": False}
# Too small a radius: the call ends with an error right after the phases were loaded
SMALL = {"beam_energy": 200, "reciprocal_radius": 0.05, "max_steps": 1, "device": "cpu"}
WITH_VACANCY = """data_t
_cell_length_a 4
_cell_length_b 4
_cell_length_c 4
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_IT_number 224
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Al1 Al 0 0 0
Va1 Va 0.5 0.5 0.5
"""


@pytest.fixture
def scan(rng):
    """Disks around a beam, and one hot pixel."""
    row, column = np.indices((48, 48))
    image = np.full((48, 48), 0.2)
    for y, x in ((24, 24), (24, 36), (24, 12), (12, 24), (36, 24)):
        image += 50 * np.clip(3.5 - np.hypot(row - y, column - x), 0, 1)
    patterns = rng.poisson(image, (4, 4, 48, 48)).astype(np.float32)
    patterns[..., 5, 40] = 1e6
    return make_signal(patterns, Calibration((0.05, 0.05), (24, 24), (48, 48), 200.0), "test")


@pytest.fixture
def cif(tmp_path):
    path = tmp_path / "vacancy.cif"
    path.write_text(WITH_VACANCY, encoding="utf-8")
    return path


def places(call, text):
    """Run a call; the files and lines of the warnings with a text."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            call()
        except ValueError:
            pass  # the warning came before
    found = {(w.filename, w.lineno) for w in caught if text in str(w.message)}
    assert found, [str(w.message) for w in caught]
    return found


def line_of(call):
    return {(__file__, call.__code__.co_firstlineno)}


@pytest.mark.parametrize("verb", ["predict_orientation", "match_templates", "predict_bragg_vectors", "match_disks"])
def test_verbs_as_methods_and_as_functions(scan, verb, monkeypatch):
    monkeypatch.setitem(networks.NETWORKS, "fake", FakeNetwork)
    arguments, options = {
        "predict_orientation": ([make_model()], {}),
        "match_templates": ([data.aluminium()], {"resolution": 12}),
        "predict_bragg_vectors": ([], {}),
        "match_disks": ([], {}),
    }[verb]
    options |= QUIET
    method, function = getattr(scan, verb), getattr(pyxem_dl, verb)
    call = lambda: method(*arguments, **options)  # noqa: E731 (its line is what is tested)
    assert places(call, "wrong in all") == line_of(call)
    call = lambda: function(scan, *arguments, **options)  # noqa: E731
    assert places(call, "wrong in all") == line_of(call)


def test_phases_loaded_by_the_user_or_by_a_verb(scan, cif, tmp_path):
    call = lambda: pyxem_dl.load_phases(cif)  # noqa: E731
    assert places(call, "are vacancies") == line_of(call)
    call = lambda: scan.match_templates(cif, resolution=12, **QUIET)  # noqa: E731
    assert places(call, "are vacancies") == line_of(call)
    call = lambda: training.train(cif, output=tmp_path / "model", **SMALL)  # noqa: E731
    assert places(call, "are vacancies") == line_of(call)


def test_probe():
    row, column = np.indices((32, 32))
    spot = 100 * np.clip(1.5 - np.hypot(row - 16, column - 16), 0, 1)
    call = lambda: pyxem_dl.Probe.from_image(spot)  # noqa: E731
    assert places(call, "hardly a disk") == line_of(call)


def test_maps_and_labels(tmp_path):
    xmap = data.polycrystal((3, 3), 1e3, n_grains=2, pixels=32)[1]
    path = tmp_path / "map.ang"
    call = lambda: maps.save_map(path, xmap)  # noqa: E731
    assert places(call, "does not keep") == line_of(call)
    text = path.read_text(encoding="utf-8").splitlines()
    text[-1] = "nan nan nan " + " ".join(text[-1].split()[3:])
    path.write_text("\n".join(text), encoding="utf-8")
    call = lambda: read_labels(path)  # noqa: E731
    assert places(call, "NaN or infinite") == line_of(call)


def test_calls_through_other_packages_and_in_threads():
    """What another package calls back points at the user, not at that package; a thread has no user."""
    ours = {"__name__": "pyxem_dl.made_up", "np": np, "warn": warn}
    exec("def outer():\n    np.vectorize(lambda _: warn('from inside'), otypes=[object])(np.zeros(1))", ours)
    call = lambda: ours["outer"]()  # noqa: E731
    assert places(call, "from inside") == line_of(call)

    def in_thread():
        thread = threading.Thread(target=warn, args=("from a thread",))
        thread.start()
        thread.join()

    assert {file.rpartition("/")[2] for file, _ in places(in_thread, "from a thread")} == {"threading.py"}


def test_what_is_printed_is_logged_by_the_module_that_says_it(capsys, caplog):
    heard = []
    with caplog.at_level("INFO", logger="pyxem_dl"):
        Computing().say("Patterns: 12")
        Computing(on_message=heard.append).say("Patterns: 13")
    assert capsys.readouterr().out == "Patterns: 12\n"
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        ("pyxem_dl.scans.options", "Patterns: 12")
    ]
    assert heard == ["Patterns: 13"]


def test_what_is_heard_changes_nothing_for_other_threads():
    """Two threads that come and go in each other's time leave Python's filters as they were."""
    inside, leave, found = threading.Event(), threading.Event(), []

    def other():
        with heard() as texts:
            inside.set()
            leave.wait(10)
            found.extend(texts)

    before, show = list(warnings.filters), warnings.showwarning
    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(10)
    with pytest.warns(UserWarning, match="this one"), heard() as texts:
        warn("this one")
        warn("this one")
        warn("old", DeprecationWarning)
        assert texts == ["this one"]
        leave.set()
        thread.join(10)
    assert found == [] and list(warnings.filters) == before and warnings.showwarning is show
