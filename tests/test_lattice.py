"""Lattices of patterns: reduced bases, the lattice that patterns share, and what is no lattice."""

import lattices
import numpy as np
import pytest

from pyxem_dl.patterns.lattice import Disks, fit_lattices, nearest_points, reduced_basis, shared_lattice


def disks_of(places, deviation=0.004):
    k = np.concatenate(places)
    owner = np.repeat(np.arange(len(places)), [len(each) for each in places])
    return Disks(k, np.full(len(k), deviation**2), owner, len(places))


def start_of(basis):
    return np.concatenate([basis, np.zeros((1, 2))])


def same_lattice(a, b, tolerance=0.05):
    """Whether two bases span one lattice."""
    between = a @ np.linalg.inv(b)
    return np.abs(between - np.rint(between)).max() < tolerance and round(abs(np.linalg.det(between))) == 1


def noisy(rng, basis, n, *, deviation=0.004, share=0.8, **deformation):
    """Places of disks of n patterns."""
    found = []
    for _ in range(n):
        k = lattices.points(lattices.deformed(basis, lattices.gradient(**deformation)), origin=rng.normal(0, 0.003, 2))
        k = k[rng.random(len(k)) < share]
        found.append(k + rng.normal(0, deviation, k.shape))
    return found


@pytest.mark.parametrize("basis", lattices.BASES.values(), ids=lattices.BASES)
def test_a_reduced_basis_is_the_shortest_of_its_lattice(basis):
    found = reduced_basis(np.array([[5, 2], [7, 3]]) @ basis)
    assert same_lattice(found, basis, 1e-9) and np.linalg.det(found) > 0
    shortest = np.sort(np.linalg.norm(lattices.points(basis), axis=1))
    assert np.linalg.norm(found[0]) == pytest.approx(shortest[1])
    assert abs(found[0] @ found[1]) <= 0.5 * found[0] @ found[0] + 1e-12


@pytest.mark.parametrize("n", [1, 3, 100])
@pytest.mark.parametrize("basis", lattices.BASES.values(), ids=lattices.BASES)
def test_the_shared_lattice_is_found(basis, n, rng):
    start, scale = shared_lattice(disks_of(noisy(rng, basis, n)))
    assert same_lattice(start[:2], basis)
    assert scale == pytest.approx(1, abs=0.35 if n == 1 else 0.15)
    assert np.hypot(*start[2]) < 0.02


@pytest.mark.parametrize("basis", lattices.BASES.values(), ids=lattices.BASES)
def test_the_shared_lattice_is_found_among_as_many_false_disks(basis, rng):
    places = [np.concatenate([k, rng.uniform(-1, 1, (len(k), 2))]) for k in noisy(rng, basis, 40)]
    assert same_lattice(shared_lattice(disks_of(places))[0][:2], basis)


def test_the_shared_lattice_is_that_of_most_patterns(rng):
    square, oblique = lattices.BASES["square"], lattices.BASES["oblique"]
    places = noisy(rng, square, 30) + noisy(rng, oblique, 15)
    assert same_lattice(shared_lattice(disks_of(places))[0][:2], square)


@pytest.mark.parametrize("n", [5, 12, 30, 80])
@pytest.mark.parametrize("patterns", [1, 60])
def test_disks_anywhere_share_no_lattice(n, patterns, rng):
    places = [np.concatenate([np.zeros((1, 2)), rng.uniform(-1, 1, (n - 1, 2))]) for _ in range(patterns)]
    assert shared_lattice(disks_of(places)) is None


@pytest.mark.parametrize("n", [6, 12, 30, 80])
def test_disks_anywhere_are_hardly_ever_taken_for_a_given_lattice(n, rng):
    places = [rng.uniform(-1, 1, (n, 2)) for _ in range(1000)]
    for basis in lattices.BASES.values():
        found = fit_lattices(disks_of(places), start_of(basis), max_rotation=10)
        assert found.accepted.mean() <= 0.005


def test_origins_and_distances_are_those_of_the_disks(rng):
    basis = lattices.BASES["hexagonal"]
    places = [k + [0.03, -0.02] for k in noisy(rng, basis, 200, share=1.0)]
    disks = disks_of(places)
    found = fit_lattices(disks, start_of(basis))
    assert found.accepted.all()
    assert found.parameters[:, 2].mean(axis=0) == pytest.approx([0.03, -0.02], abs=1e-3)
    n = len(places[0])
    assert found.n_disks.mean() == pytest.approx(n, abs=0.2)
    assert np.sqrt((found.residual**2).mean()) == pytest.approx(0.004 * np.sqrt(2 * (1 - 3 / n)), rel=0.05)
    assert found.chi2.mean() == pytest.approx(1, abs=0.05)
    index, on = nearest_points(disks, found.parameters, 1.0)
    assert on.mean() > 0.995
    assert index @ basis == pytest.approx(disks.k - [0.03, -0.02], abs=0.03)


def test_disks_far_out_get_their_indices_from_the_inner_ones():
    """Turned by 3 degrees, the outermost of a fine lattice lie nearer to the next point than to their own."""
    basis = 0.1 * np.eye(2)
    places = [lattices.points(lattices.deformed(basis, lattices.gradient(0.02, -0.02, 0.01, 3.0)))]
    assert (0.02 + np.radians(3)) * 1.1 > 0.05
    found = fit_lattices(disks_of(places), start_of(basis))
    assert found.accepted.all() and found.n_disks[0] == len(places[0])
    assert found.residual[0] < 1e-9


def test_no_disks_and_no_patterns():
    empty = Disks(np.zeros((0, 2)), np.zeros(0), np.zeros(0, dtype=int), 3)
    found = fit_lattices(empty, start_of(np.eye(2)))
    assert not found.accepted.any() and np.isnan(found.parameters).all()
    assert shared_lattice(empty) is None
    assert len(fit_lattices(Disks(*empty[:3], 0), start_of(np.eye(2))).accepted) == 0
    assert nearest_points(empty, found.parameters, 1.0)[1].size == 0


def test_one_disk_may_not_decide_a_direction():
    line = np.arange(-4, 5)[:, None] * [[0.3, 0.0]]
    two = np.array([[0.0, 0.3], [0.3, -0.3]])
    places = [line, np.concatenate([line, two[:1]]), np.concatenate([line, two])]
    found = fit_lattices(disks_of(places), start_of(0.3 * np.eye(2)))
    assert found.accepted.tolist() == [False, False, True]
