"""The benchmark of strain: what it says of vectors that are right, and its samples."""

import lattices
import numpy as np
import pytest

pytest.importorskip("suite", reason="needs the benchmark, which lies beside the package, in benchmarks/suite")
from pyxem_dl.data.multilayer import StrainedMultilayer  # noqa: E402
from suite import strain  # noqa: E402

BASIS = 2 / 5.658 * np.array([[1, 1], [-1, 1]])


def perfect(scan):
    """Vectors of what is simulated, with errors that are much too large."""
    places = [lattices.points(lattices.deformed(BASIS, lattices.gradient(xx=e))) for e in scan.strain.ravel()]
    return lattices.vectors_of(places, scan.strain.shape, [np.full(len(k), 1e-3) for k in places])


def test_perfect_vectors_have_no_error():
    layers = np.tile(np.repeat([0.0, 0.02, -0.01, 0.0], 2), (3, 1))
    scan = StrainedMultilayer(None, layers, np.tile([[100.0], [400.0], [800.0]], (1, 8)), None)
    for method in strain.METHODS.values():
        found = strain._errors([scan], [method(perfect(scan), scan)])
        assert found["n"] == 24 and found["missing"] == 0
        assert max(found[name] for name in ("all", "0-250", "250-500", "750-1000")) < 0.01
    assert found["pull"] < 0.1
    off = strain._errors([scan], [(scan.strain + 0.001, None)])
    assert off["all"] == pytest.approx(0.1) and off["0-250"] == pytest.approx(0.1) and "pull" not in off


def test_turned_aluminium_is_dilated_and_turned_as_it_says():
    scan = strain.turned_aluminium(0, shape=(1, 6))
    vectors = scan.signal.match_disks(probe=scan.vacuum, show_progressbar=False)
    found = vectors.strain_map(reference=scan.strain == 0, show_progressbar=False)
    assert scan.strain[0].tolist() == [0.0] * 3 + [0.01] * 3
    assert np.abs(found.e_xx - scan.strain).max() < 0.006 and np.abs(found.e_yy - scan.strain).max() < 0.006
    turned = 2 * np.sin(np.arange(6))
    assert found.theta[0] - turned == pytest.approx(np.median(-turned[:3]) * np.ones(6), abs=0.3)


def test_the_table():
    row = {"data": "sample", "predictor": "network, own lattice", "n": 12, "all": 0.1234, "missing": 0.0, "pull": 1.1}
    row |= {"0-250": 0.1, "250-500": 0.2, "500-750": 0.3, "750-1000": 0.4}
    text = strain.strain_table([row], lambda row: "a")
    assert "| sample | network, own lattice | 12 | 0.123 | 0.100 | 0.200 | 0.300 | 0.400 | 0.0 % | 1.10 | a |" in text
