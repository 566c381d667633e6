"""No file of a stranger runs anything, fetches anything, or fills the memory; each ends in an error that names it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hostile_files import MADE, SENTINEL

resource = pytest.importorskip("resource", reason="memory cannot be bounded on this system")


@pytest.fixture(scope="module")
def results(tmp_path_factory, polar_folder):
    """What came of each file, read in one process with the network blocked and the memory bounded."""
    folder = tmp_path_factory.mktemp("hostile")
    script = Path(__file__).with_name("hostile_files.py")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYXEM_DL_NO_AUTOLOAD": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, str(script), str(folder), str(polar_folder)], env=environment, capture_output=True, text=True,
        timeout=600,
    )  # fmt: skip
    found = re.search(r"^RESULTS(.*)$", process.stdout, re.MULTILINE)
    assert found, process.stderr[-3000:] + process.stdout[-1000:]
    assert not list(folder.rglob(SENTINEL)), "a file was executed"
    return json.loads(found[1])


@pytest.mark.parametrize("name", MADE)
def test_a_hostile_file_is_refused(results, name):
    reader, _, message = MADE[name]
    kind, text, seconds = results[name]
    assert kind in ("ValueError", "FileNotFoundError"), (kind, text)
    assert re.search(message, text, re.DOTALL), text
    assert seconds < 20


def test_there_are_files_for_all_readers():
    assert len(MADE) > 100
    readers = {"model", "verify", "plan", "recipe", "pretrained", "store", "crystal", "checkpoint", "quartets"}
    assert {reader for reader, _, _ in MADE.values()} == readers
