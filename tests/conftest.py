"""Fixtures for all tests."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

os.environ.setdefault("MPLBACKEND", "Agg")  # before anything imports pyplot

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def _two_threads():
    """The machines that run the tests have two cores; more threads than cores are slower."""
    torch.set_num_threads(2)


@pytest.fixture(scope="module")
def one_thread():
    """Many small tensors: threads would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _seeded():
    """Each test draws the same numbers, whichever tests run before it."""
    np.random.seed(0)  # noqa: NPY002 (for code of others, which draws from the global generator)
    torch.manual_seed(0)


@pytest.fixture
def rng():
    """A fresh NumPy generator with a fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def polycrystal():
    """A small polycrystal of LiNiO2 with its truth; tests change copies of it."""
    from pyxem_dl import data

    return data.polycrystal((14, 16), 2e4, n_grains=6, pixels=64)


@pytest.fixture(scope="session")
def polar_folder(tmp_path_factory):
    """A model with a polar network that proposes and verifies, after a few steps of training; not to be changed."""
    import pyxem_dl
    from pyxem_dl import training
    from pyxem_dl.simulation import SimulationSettings

    folder = tmp_path_factory.mktemp("models") / "polar"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.learning, "VALIDATION_PATTERNS", 32)
        training.train(
            pyxem_dl.data.aluminium(), network="polar", output=folder, beam_energy=200.0, reciprocal_radius=1.5,
            max_steps=6, batch_size=16, simulation=SimulationSettings(setup_size=16, pixels=(48,)), device="cpu",
            show_progressbar=False,
        )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def root():
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data():
    """The folder with the development and benchmark data, which is no part of the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the development data in ../shared/data, which is not here")
    return SHARED_DATA
