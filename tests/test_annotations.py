"""Editors and type checkers are told the types of what is public: every function says them, and they exist."""

import inspect
import runpy
import types
import typing

import hyperspy.api as hs
import pytest
from hyperspy.signals import BaseSignal
from orix.crystal_map import CrystalMap, Phase
from pyxem.signals import Diffraction2D, DiffractionVectors, ElectronDiffraction2D, OrientationMap

import pyxem_dl
from pyxem_dl import annotations

FUNCTIONS = [name for name in pyxem_dl.__all__ if isinstance(getattr(pyxem_dl, name), types.FunctionType)]


@pytest.fixture
def named(monkeypatch):
    """Types by the names that signatures give them."""
    monkeypatch.setattr(typing, "TYPE_CHECKING", True)
    return runpy.run_path(annotations.__file__) | {
        "BaseSignal": BaseSignal, "CrystalMap": CrystalMap, "Diffraction2D": Diffraction2D, "Phase": Phase,
        "DiffractionVectors": DiffractionVectors, "OrientationMap": OrientationMap,
        "ElectronDiffraction2D": ElectronDiffraction2D,
        "Signal1D": hs.signals.Signal1D, "Signal2D": hs.signals.Signal2D,
    }  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_says_its_types_and_they_exist(name, named):
    function = getattr(pyxem_dl, name)
    signature = inspect.signature(function)
    given = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    assert [p.name for p in given if p.annotation is p.empty] == []
    assert signature.return_annotation is not signature.empty
    for annotation in (*(p.annotation for p in given), signature.return_annotation):
        eval(annotation, function.__globals__ | named)


def test_the_package_is_marked_as_typed(root):
    assert (root / "pyxem_dl" / "py.typed").is_file()
