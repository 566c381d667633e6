"""Strain of scans: deformations that are known, what is masked, and what is refused with a word on what to do."""

import hyperspy.api as hs
import lattices
import numpy as np
import pytest
from hyperspy.roi import CircleROI, RectangularROI, SpanROI
from orix.crystal_map import Phase
from pyxem.signals import StrainMap
from scipy.ndimage import gaussian_filter

import pyxem_dl
from pyxem_dl.data.phases import aluminium, lithium_nickel_oxide
from pyxem_dl.strain import Strain
from pyxem_dl.strain.deformation import deformation, gradient_of, strain_of

SQUARE = lattices.BASES["square"]


def measure(vectors, **given):
    return pyxem_dl.strain_map(vectors, **{"show_progressbar": False} | given)


def one(basis, **deformed):
    """Places of the disks of a deformed crystal."""
    return lattices.points(lattices.deformed(basis, lattices.gradient(**deformed)))


def rows_of(basis):
    """Basis as a user gives it: ky, kx, downwards."""
    return np.stack([-basis[:, 1], basis[:, 0]], axis=1)


@pytest.mark.parametrize("basis", lattices.BASES.values(), ids=lattices.BASES)
def test_a_deformation_is_found_exactly(basis, rng):
    vectors, truth = lattices.random_scan(rng, basis, noise=0, strain=0.03, turn=3, origin=0.01)
    found = measure(vectors, reference=rows_of(basis))
    assert np.abs(found.values - truth).max() < 1e-6
    assert (found.n_disks > 10).all()


@pytest.mark.parametrize("name, index", [("xx", 0), ("yy", 1), ("xy", 2), ("theta", 3)])
def test_signs(name, index):
    """A crystal that is longer along x has disks nearer to each other along x; counterclockwise is positive."""
    size = 1.0 if name == "theta" else 0.01
    places = [one(SQUARE)] * 7 + [one(SQUARE, **{name: size})]
    found = measure(lattices.vectors_of(places, (2, 4)))
    expected = np.zeros(4)
    expected[index] = size
    assert found.values[:, 1, 3] == pytest.approx(expected, abs=1e-7)
    assert np.abs(found.values[:, 0]).max() < 1e-7
    longer = found.basis[1, 3]
    if name == "xx":  # the columns are ky, kx
        assert np.linalg.norm(longer[:, 1]) == pytest.approx(np.linalg.norm(found.reference[:, 1]) / 1.01)


def test_turning_the_axes():
    places = [one(SQUARE)] * 3 + [one(SQUARE, xx=0.02, theta=0.5)]
    found = measure(lattices.vectors_of(places, (4,)), angle=90)
    assert found.values[:, 3] == pytest.approx([0, 0.02, 0, 0.5], abs=1e-7)
    oblique = measure(lattices.vectors_of(places, (4,)), angle=45)
    # along the diagonal, turned counterclockwise from x: half of the strain, and shear of the opposite sign
    assert oblique.values[:, 3] == pytest.approx([0.01, 0.01, -0.01, 0.5], abs=1e-7)


def test_pyxem_finds_the_same_in_its_own_order_and_signs():
    truth = {"xx": 0.008, "yy": -0.005, "xy": 0.003, "theta": 0.4}
    places = [one(SQUARE)] * 5 + [one(SQUARE, **truth)]
    vectors = lattices.vectors_of(places, (2, 3))
    ours = measure(vectors).values[:, 1, 2]
    undeformed = rows_of(SQUARE)
    theirs = np.asarray(vectors.get_strain_maps(undeformed, distance=0.05).data)[:, 1, 2]
    assert ours == pytest.approx(list(truth.values()), abs=1e-7)
    # second order in the strain apart
    assert theirs[[1, 0, 2]] == pytest.approx(ours[:3], abs=1e-4)
    assert np.degrees(theirs[3]) == pytest.approx(ours[3], abs=1e-3)


def test_both_decompositions_belong_to_one_gradient(rng):
    f = lattices.gradient(0.1, -0.05, 0.08, 25.0)
    lab, crystal = strain_of(f), strain_of(f, in_crystal=True)
    assert [lab.xx, lab.yy, lab.xy, np.degrees(lab.theta)] == pytest.approx([0.1, -0.05, 0.08, 25.0])
    assert gradient_of(crystal) == pytest.approx(f)
    assert deformation(lattices.deformed(SQUARE, f), SQUARE) == pytest.approx(f)


@pytest.mark.parametrize("false", [0.0, 0.1], ids=["clean", "a tenth of the disks false"])
@pytest.mark.parametrize("basis", lattices.BASES.values(), ids=lattices.BASES)
def test_errors_are_as_large_as_they_say(basis, false, rng):
    vectors, truth = lattices.random_scan(rng, basis, (20, 20), false=false)
    found = measure(vectors, reference=rows_of(basis))
    pulls = ((found.values - truth) / found.errors).reshape(4, -1)
    assert (found.n_disks > 0).all()
    # of 400 positions: three standard deviations of a standard deviation are a tenth
    assert pulls.std(axis=1) == pytest.approx(1, abs=0.12)
    assert np.abs(pulls.mean(axis=1)).max() < 0.2 and np.abs(pulls).max() < 6
    assert np.median(found.chi2) == pytest.approx(1, abs=0.1) and found.scale == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("wrong", [0.5, 2.0])
def test_errors_that_are_said_wrong_are_corrected(wrong, rng):
    vectors, truth = lattices.random_scan(rng, SQUARE, (15, 15))
    for table in vectors.data.ravel():
        table[:, 4] *= wrong
    found = measure(vectors, reference=rows_of(SQUARE))
    pulls = ((found.values - truth) / found.errors).reshape(4, -1)
    assert pulls.std(axis=1) == pytest.approx(1, abs=0.15)
    assert np.median(found.chi2) == pytest.approx(1 / wrong**2, rel=0.15)


def test_without_errors_they_follow_from_the_scatter(rng):
    vectors, truth = lattices.random_scan(rng, SQUARE, (15, 15))
    plain = lattices.vectors_of([t[:, 1::-1] * [1, -1] for t in vectors.data.ravel()], (15, 15))
    found, weighted = (measure(v, reference=rows_of(SQUARE)) for v in (plain, vectors))
    pulls = ((found.values - truth) / found.errors).reshape(4, -1)
    assert pulls.std(axis=1) == pytest.approx(1, abs=0.15)
    assert np.median(found.chi2) == pytest.approx(1, abs=0.1)
    # disks with different errors: weights are better than none
    assert (weighted.values - truth)[:3].std() < 0.9 * (found.values - truth)[:3].std()


def test_errors_in_other_units_are_read_with_their_unit(rng):
    vectors, _ = lattices.random_scan(rng, SQUARE)
    nm = lattices.vectors_of([10 * t[:, 1::-1] * [1, -1] for t in vectors.data.ravel()], (6, 8),
                             [t[:, 4] for t in vectors.data.ravel()], unit="1/nm")  # fmt: skip
    nm.units[4] = "1/Å"
    expected, found = measure(vectors), measure(nm)
    assert found.values == pytest.approx(expected.values, abs=1e-9)
    assert found.errors == pytest.approx(expected.errors, rel=1e-6)
    assert found.residual == pytest.approx(10 * expected.residual, rel=1e-6)
    assert found.reference == pytest.approx(10 * expected.reference)


def test_another_crystal_over_it_and_false_disks_do_not_matter(rng):
    vectors, truth = lattices.random_scan(rng, lattices.BASES["centred"])
    mirrored = lattices.points(lattices.BASES["centred"] @ np.array([[0.6, 0.8], [-0.8, 0.6]]))
    places, errors = [], []
    for table in vectors.data.ravel():
        k = table[:, 1::-1] * [1, -1]
        both = [k, mirrored[rng.random(len(mirrored)) < 0.4], rng.uniform(-1, 1, (3, 2))]
        places.append(np.concatenate(both))
        errors.append(np.concatenate([table[:, 4], np.full(len(both[1]) + 3, 0.004)]))
    over = measure(lattices.vectors_of(places, (6, 8), errors), reference=rows_of(lattices.BASES["centred"]))
    assert (over.n_disks > 0).all()
    pulls = (over.values - truth) / over.errors
    assert np.abs(pulls).max() < 6 and pulls.std() == pytest.approx(1, abs=0.15)


def test_large_rotations_are_found_where_they_are_looked_for():
    places = [one(SQUARE)] * 6 + [one(SQUARE, theta=12.0, xx=0.01), one(SQUARE, theta=-14.0)]
    vectors = lattices.vectors_of(places, (2, 4))
    found = measure(vectors)
    assert found.theta[1, 2:] == pytest.approx([12.0, -14.0], abs=1e-6) and found.e_xx[1, 2] == pytest.approx(0.01)
    near = measure(vectors, max_rotation=0)
    assert np.isnan(near.values[:, 1, 2:]).all() and (near.n_disks[1, 2:] == 0).all()
    assert np.isfinite(near.values[:, 0]).all()


def test_too_few_disks_are_masked_and_not_guessed():
    lattice = one(SQUARE)
    line = lattice[np.abs(lattice @ SQUARE[1]) < 1e-9]
    hanging = np.concatenate([line, SQUARE[1:]])  # one direction by a single disk
    places = [lattice] * 4 + [line, hanging, lattice[:4], np.zeros((0, 2))]
    found = measure(lattices.vectors_of(places, (2, 4)))
    assert np.isnan(found.values[:, 1]).all() and np.isnan(found.errors[:, 1]).all()
    assert (found.n_disks[1] == 0).all() and (found.n_disks[0] == len(lattice)).all()
    for each in (found.basis, found.origin, found.residual, found.chi2):
        assert np.isnan(each[1]).all() and np.isfinite(each[0]).all()


def test_disks_anywhere_are_no_lattice(rng):
    stray = [rng.uniform(-1, 1, (n, 2)) for n in rng.integers(8, 40, 60)]
    places = [one(SQUARE)] * 100 + stray
    found = measure(lattices.vectors_of(places, (8, 20)))
    assert (found.n_disks.ravel()[:100] > 0).all() and (found.n_disks.ravel()[100:] > 0).mean() < 0.03


def test_disks_without_a_place_are_left_out():
    table = one(SQUARE)
    broken = np.concatenate([[[np.nan, 0.3], [np.inf, 0.1], [0.2, np.nan]], table])
    found = measure(lattices.vectors_of([table, broken, table, table], (2, 2)))
    assert np.abs(found.values).max() < 1e-7 and (found.n_disks == len(table)).all()


def test_disks_without_an_error_have_a_typical_one(rng):
    vectors, truth = lattices.random_scan(rng, SQUARE)
    for table in vectors.data.ravel():
        table[::5, 4] = [np.nan, 0.0, -1.0, np.inf][rng.integers(4)]
    found = measure(vectors, reference=rows_of(SQUARE))
    assert np.abs((found.values - truth)[:3]).max() < 0.01


# What strain is measured from


@pytest.fixture(scope="module")
def halves():
    """Eight columns, of which the right four are stretched by 2 % along x."""
    return lattices.vectors_of(([one(SQUARE)] * 4 + [one(SQUARE, xx=0.02)] * 4) * 5, (5, 8))


RIGHT = np.zeros((5, 8), dtype=bool)
RIGHT[:, 4:] = True
REGIONS = {
    "mask": RIGHT,
    "signal": hs.signals.Signal2D(RIGHT),
    "slices": np.s_[:, 4:],
    "rows and columns": np.s_[1:3, 5:6],
    "rectangle": RectangularROI(4, 0, 8, 5),
    "circle": CircleROI(6, 2, 1.2),
}


@pytest.mark.parametrize("reference", REGIONS.values(), ids=REGIONS)
def test_a_region_is_the_reference(reference, halves):
    found = measure(halves, reference=reference)
    assert found.e_xx[:, 4:] == pytest.approx(0, abs=1e-7)
    assert found.e_xx[:, :4] == pytest.approx(1 / 1.02 - 1, abs=1e-7)


def test_a_region_is_in_the_units_of_the_scan(halves):
    scan = halves.deepcopy()
    for axis in scan.axes_manager.navigation_axes:
        axis.scale, axis.offset, axis.units = 2.0, 100.0, "nm"
    found = measure(scan, reference=RectangularROI(108, 100, 116, 110))
    assert found.e_xx[0] == pytest.approx([1 / 1.02 - 1] * 4 + [0] * 4, abs=1e-7)


def test_a_line_of_positions(halves):
    line = halves.inav[:, 0]
    found = measure(line, reference=SpanROI(0, 4))
    assert found.shape == (8,) and found.e_xx == pytest.approx([0] * 4 + [0.02] * 4, abs=1e-7)
    assert measure(line, reference=np.s_[:4]).e_xx == pytest.approx(found.e_xx)
    assert isinstance(found.to_signal(), hs.signals.Signal1D) and found.to_signal().data.shape == (4, 8)


def test_a_single_pattern(halves):
    single = halves.inav[7, 0]
    found = measure(single, reference=rows_of(SQUARE))
    assert found.shape == () and float(found.e_xx) == pytest.approx(0.02)
    assert found.to_signal().data.shape == (4,) and found.refine(single).data[0].shape == single.data[0].shape
    with pytest.raises(ValueError, match="single pattern has no strain.*give reference="):
        measure(single)


def test_a_coarser_basis_is_the_same_reference(halves):
    fine = measure(halves, reference=rows_of(SQUARE))
    coarse = measure(halves, reference=rows_of(np.array([[1, 1], [-1, 1]]) @ SQUARE))
    assert coarse.values == pytest.approx(fine.values, abs=1e-9)


def test_the_median_lattice_of_turned_crystals_is_not_smaller():
    places = [one(SQUARE, theta=angle) for angle in (-8, -8, -8, 0, 8, 8, 8, 0, 0)]
    found = measure(lattices.vectors_of(places, (3, 3)))
    assert np.abs(found.values[:3]).max() < 1e-7
    assert found.theta.ravel() == pytest.approx([-8, -8, -8, 0, 8, 8, 8, 0, 0], abs=1e-6)


def spots_of(phase, euler):
    """Places of diffsims' kinematical spots (kx, ky)."""
    from diffsims.generators.simulation_generator import SimulationGenerator
    from orix.quaternion import Rotation

    simulation = SimulationGenerator(200, minimum_intensity=1e-6).calculate_diffraction2d(
        phase, Rotation.from_euler(np.array([euler]), degrees=True), reciprocal_radius=1.6, max_excitation_error=0.03
    )
    spots = simulation.coordinates
    return spots.data[:, :2]


def stretched(phase, by):
    other = Phase(phase)
    base = phase.structure.lattice.abcABG()
    other.structure.lattice.setLatPar(base[0] * by, base[1] * by, base[2])
    return other


@pytest.mark.parametrize("phase", [aluminium(), lithium_nickel_oxide()], ids=["cubic", "trigonal"])
def test_strain_from_a_crystal_and_rotation_as_diffsims_has_them(phase):
    places = [spots_of(phase, (20, 0, 0))] * 7 + [spots_of(stretched(phase, 1.01), (21.5, 0, 0))]
    found = measure(lattices.vectors_of(places, (2, 4)), reference=(phase, (0, 0, 1)))
    assert np.abs(found.values[:, 0]).max() < 1e-5
    assert found.values[:, 1, 3] == pytest.approx([0.01, 0.01, 0, 1.5], abs=1e-5)


# What is refused


def test_a_reference_without_crystal(halves):
    scan = halves.deepcopy()
    for i in range(5):
        scan.data[i, 0] = np.zeros((0, 3))
    with pytest.raises(ValueError, match="No lattice was found at any of the 5 positions.*choose a region"):
        measure(scan, reference=np.s_[:, :1])


BAD = {
    "shape": (np.ones((8, 5), dtype=bool), ValueError, "shape \\(8, 5\\), the scan \\(5, 8\\)"),
    "no bool": (np.ones((5, 8)), TypeError, "a mask of bool"),
    "nothing": (np.zeros((5, 8), dtype=bool), ValueError, "no positions"),
    "text": ("left", TypeError, "must be None .all positions."),
    "parallel": (np.array([[0.3, 0.1], [0.6, 0.2]]), ValueError, "parallel"),
    "not finite": (np.array([[0.3, np.nan], [0.6, 0.2]]), ValueError, "two vectors of the lattice"),
    "other lattice": (np.array([[0.21, 0.0], [0.0, 0.29]]), ValueError, "not of the scan's lattice"),
    "slices": (np.s_[:, :, 2:], ValueError, "does not fit a scan of shape"),
    "outside": (RectangularROI(20, 20, 30, 30), ValueError, "reference"),
    "other crystal": ((aluminium(), (1, 1, 0)), ValueError, "nearest would be strained by"),
    "no zone": ((aluminium(), (0, 0, 0)), ValueError, "phase, zone axis"),
}


@pytest.mark.parametrize("reference, error, match", BAD.values(), ids=BAD)
def test_what_is_no_reference(reference, error, match, halves):
    with pytest.raises(error, match=match):
        measure(halves, reference=reference)


def test_vectors_that_are_none(halves):
    for wrong in (halves.data, hs.signals.Signal2D(np.ones((4, 4)))):
        with pytest.raises(TypeError, match="find the disks first"):
            measure(wrong)
    with pytest.raises(ValueError, match="not ragged"):
        flat = halves.deepcopy()
        flat.data = np.zeros((5, 8, 3, 3))
        measure(flat)


def test_vectors_that_are_not_calibrated(halves):
    for unit in ("px", "<undefined>", "nm"):
        with pytest.raises(ValueError, match="not calibrated|real space"):
            measure(lattices.vectors_of([one(SQUARE)] * 4, (2, 2), unit=unit))
    with pytest.raises(ValueError, match="beam energy"):
        measure(lattices.vectors_of([25 * one(SQUARE)] * 4, (2, 2), unit="mrad"))
    found = measure(lattices.vectors_of([25 * one(SQUARE)] * 4, (2, 2), unit="mrad"), beam_energy=200)
    assert np.abs(found.values).max() < 1e-7


@pytest.mark.parametrize("table", [None, np.ones((4, 5)), np.ones(3), 0.0, [[0.1, 0.2]]], ids=repr)
def test_tables_that_are_none(table, halves):
    scan = halves.deepcopy()
    scan.data[1, 2] = table
    with pytest.raises(ValueError, match=r"3 columns .ky, kx, intensity., but the table at \(1, 2\)"):
        measure(scan)


def test_tables_of_nothing_in_any_shape(halves):
    scan = halves.deepcopy()
    scan.data[1, 2], scan.data[1, 3], scan.data[1, 4] = np.zeros(0), np.zeros((0, 2)), []
    assert np.flatnonzero(measure(scan).n_disks == 0).tolist() == [10, 11, 12]


def test_vectors_of_two_columns_only():
    places = [one(SQUARE)] * 3 + [one(SQUARE, xx=0.01)]
    vectors = lattices.vectors_of(places, (2, 2))
    for index in np.ndindex(2, 2):
        vectors.data[index] = vectors.data[index][:, :2].astype(np.float32)
    bare = type(vectors)(vectors.data, column_names=["ky", "kx"], units=["1/Å", "1/Å"])
    assert measure(bare).e_xx[1, 1] == pytest.approx(0.01, abs=1e-5)


def test_columns_in_different_units():
    places = [one(SQUARE)] * 3 + [one(SQUARE, yy=0.01)]
    mixed = lattices.vectors_of([k * [1, 10] for k in places], (2, 2), units=["1/nm", "1/Å", "a.u."])
    assert measure(mixed).values[:, 1, 1] == pytest.approx([0, 0.01, 0, 0], abs=1e-7)


def test_vectors_from_the_first_pixel():
    places = [one(SQUARE) * [1, -1] + 1.3] * 4
    vectors = lattices.vectors_of([k * [1, -1] for k in places], (2, 2), offsets=None)
    with pytest.raises(ValueError, match="measured from the first pixel"):
        measure(vectors)


def test_vectors_of_no_crystal(rng):
    with pytest.raises(ValueError, match="on no common lattice.*give basis="):
        measure(lattices.vectors_of([rng.uniform(-1, 1, (20, 2)) for _ in range(30)], (5, 6)))
    with pytest.raises(ValueError, match="No position has 5 disks .the most: 3."):
        measure(lattices.vectors_of([rng.uniform(-1, 1, (3, 2)) for _ in range(30)], (5, 6)))
    with pytest.raises(ValueError, match="the most: 0"):
        measure(lattices.vectors_of([np.zeros((0, 2))] * 4, (2, 2)))


def test_more_than_two_dimensions():
    with pytest.raises(ValueError, match="3 navigation dimensions.*one map at a time"):
        measure(lattices.vectors_of([one(SQUARE)] * 8, (2, 2, 2)))


@pytest.mark.parametrize(
    "given, match",
    [
        ({"basis": np.ones((2, 2))}, "parallel"),
        ({"basis": "ab"}, "basis must be two vectors"),
        ({"basis": [[0.13, 0.0], [0.0, 0.17]]}, "Check basis"),
        ({"min_disks": 3}, "min_disks"),
        ({"angle": np.nan}, "angle"),
        ({"max_rotation": 200}, "max_rotation"),
        ({"navigation_mask": np.ones((2, 2), dtype=bool)}, "True = excluded"),
        ({"navigation_mask": np.ones((5, 8), dtype=bool)}, "the most: 0"),
    ],
)
def test_arguments_that_are_wrong(given, match, halves):
    with pytest.raises((ValueError, TypeError), match=match):
        measure(halves, **given)


def test_doubts_are_said(rng):
    vectors, _ = lattices.random_scan(rng, SQUARE)
    for table in vectors.data.ravel():
        table[:, 4] *= 0.1
    with pytest.warns(UserWarning, match="times as far from their lattices as position_error says"):
        measure(vectors)
    places = [one(SQUARE)] * 3 + [one(lattices.BASES["oblique"])] * 6
    with pytest.warns(UserWarning, match="At 6 of 9 positions .* there is no lattice"):
        measure(lattices.vectors_of(places, (3, 3)), basis=rows_of(SQUARE), reference=np.s_[:1])


# What is left out, what is kept, and what is lazy


def test_a_navigation_mask(halves):
    mask = np.zeros((5, 8), dtype=bool)
    mask[2, 3] = True
    found = measure(halves, navigation_mask=mask)
    assert np.isnan(found.e_xx[2, 3]) and np.isfinite(found.e_xx).sum() == 39


def test_lazy_vectors_and_the_method(halves):
    lazy = halves.as_lazy()
    found = lazy.strain_map(reference=np.s_[:, :4], show_progressbar=False)
    assert found.values == pytest.approx(measure(halves, reference=np.s_[:, :4]).values)
    refined = found.refine(lazy)
    assert not refined._lazy and lazy._lazy and refined.data[4, 7] == pytest.approx(found.refine(halves).data[4, 7])


def test_any_block_gives_the_same(halves, monkeypatch):
    whole = measure(halves)
    monkeypatch.setattr(pyxem_dl.strain.mapping, "_BLOCK", 7)
    assert measure(halves).values == pytest.approx(whole.values, abs=1e-12)


def test_vectors_of_pyxem_itself_and_of_correlation():
    scan = pyxem_dl.data.strained_multilayer((1, 8))
    probe = pyxem_dl.Probe.from_image(scan.vacuum)
    vectors = scan.signal.match_disks(probe=probe, show_progressbar=False)
    ours = vectors.strain_map(reference=scan.strain == 0, show_progressbar=False)
    assert np.sqrt(np.mean((ours.e_xx - scan.strain) ** 2)) < 0.006
    assert ours.axes[0]["units"] == "nm" and ours.axes[0]["scale"] == 2.0
    blurred = scan.signal.map(gaussian_filter, sigma=4.0, inplace=False, output_dtype=float, show_progressbar=False)
    theirs = blurred.get_diffraction_vectors(min_distance=8, threshold_abs=3.0, show_progressbar=False)
    found = theirs.strain_map(reference=scan.strain == 0, show_progressbar=False)
    # whole pixels of 0.02 Å⁻¹
    assert np.sqrt(np.mean((found.e_xx - scan.strain) ** 2)) < 0.015


def test_disks_are_refined(rng):
    vectors, truth = lattices.random_scan(rng, SQUARE, false=0.2)
    found = measure(vectors)
    refined = found.refine(vectors)
    assert type(refined) is type(vectors)
    assert refined.column_names == vectors.column_names and refined.units == vectors.units
    assert [axis.size for axis in refined.axes_manager.navigation_axes] == [8, 6]
    before, after, said = [], [], []
    for index in np.ndindex(6, 8):
        basis = lattices.deformed(SQUARE, lattices.gradient(*truth[(slice(None), *index)]))
        # random_scan's origins are not known here: places are compared up to their mean
        for table, errors in ((vectors.data[index], before), (refined.data[index], after)):
            k = table[:, 1::-1] * [1, -1]
            away = k - np.rint(k @ np.linalg.inv(basis)) @ basis
            away = away[np.hypot(*away.T) < 0.03]
            errors.append(np.mean(((away - np.median(away, axis=0)) ** 2).sum(axis=1)))
        said.append(np.mean(refined.data[index][:, 4] ** 2))
        assert len(refined.data[index]) == found.n_disks[index] < len(vectors.data[index]) + 1
    assert np.mean(after) < 0.3 * np.mean(before)
    assert np.mean(said) == pytest.approx(np.mean(after), rel=0.6)
    with pytest.raises(ValueError, match="The strain is of a scan of shape"):
        found.refine(vectors.inav[:2, :2])


@pytest.mark.parametrize("suffix", [".hspy", ".zspy"])
@pytest.mark.parametrize("dimensions", [0, 1, 2])
def test_files_hold_everything(suffix, dimensions, tmp_path, rng):
    shape = (3, 4)[:dimensions]
    vectors, _ = lattices.random_scan(rng, SQUARE, shape or (1,))
    for axis in vectors.axes_manager.navigation_axes:
        axis.scale, axis.offset, axis.units, axis.name = 0.5, 3.0, "nm", f"axis {axis.index_in_axes_manager}"
    vectors.metadata.General.title = "A scan"
    found = measure(vectors, reference=rows_of(SQUARE), angle=10)
    path = found.save(tmp_path / f"strain{suffix}")
    again = Strain.load(path)
    for name in ("values", "errors", "n_disks", "chi2", "residual", "parameters", "covariance", "reference"):
        assert np.array_equal(getattr(again, name), getattr(found, name)) or name == "errors", name
    assert again.errors == pytest.approx(found.errors, rel=1e-12)
    assert (again.angle, again.scale, again.title) == (10.0, found.scale, "A scan")
    assert list(again.units) == found.units and again.axes == found.axes and again.shape == found.shape
    signal = hs.load(path)
    assert np.array_equal(np.asarray(signal.data).reshape(4, *shape), found.values)
    assert again.refine(vectors).data.ravel()[0].shape[1] == 5
    with pytest.raises(FileExistsError):
        found.save(path)
    found.save(path, overwrite=True)


def test_files_that_hold_none(tmp_path, halves):
    with pytest.raises(ValueError, match="saved as .hspy or .zspy"):
        measure(halves).save(tmp_path / "strain.png")
    with pytest.raises(FileNotFoundError):
        Strain.load(tmp_path / "missing.hspy")
    hs.signals.Signal2D(np.ones((3, 3))).save(tmp_path / "other.hspy")
    with pytest.raises(ValueError, match="holds no maps"):
        Strain.load(tmp_path / "other.hspy")


def test_signals_are_pyxems_and_plot(halves):
    from matplotlib import pyplot

    halves.axes_manager[0].units, halves.axes_manager[0].scale = "nm", 2.0
    found = measure(halves)
    signal = found.to_signal()
    assert isinstance(signal, StrainMap) and signal.axes_manager.signal_axes[0].scale == 2.0
    assert signal.get_noise_variance().data[0] == pytest.approx(found.e_xx_error**2)
    turned = signal.rotate_strain_basis([0.0 + 1e-9, 1.0])
    assert np.asarray(turned.data)[1] == pytest.approx(found.e_xx, abs=1e-6)
    found.plot()
    pyplot.close("all")
    assert repr(found).startswith("<Strain") and "40 of 40 positions" in repr(found)
    assert "e_xy_error" in dir(found)
    with pytest.raises(AttributeError, match="no attribute 'e_zz'"):
        _ = found.e_zz


# Pictures and the command line


@pytest.mark.parametrize("dimensions", [1, 2])
def test_pictures(dimensions, rng, tmp_path):
    vectors, _ = lattices.random_scan(rng, SQUARE, (4, 12)[-dimensions:])
    vectors.data.ravel()[3] = np.zeros((0, 5))
    figure = pyxem_dl.plot.strain_map(measure(vectors), max_strain=0.03, title="A title")
    figure.savefig(tmp_path / "strain.png")
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert len(panels) == (8 if dimensions == 2 else 4)
    if dimensions == 2:
        shown = panels[0].get_images()[0]
        assert shown.get_clim() == (-3.0, 3.0) and np.ma.getmaskarray(shown.get_array())[0, 3]


def test_what_is_not_drawn(halves):
    with pytest.raises(TypeError, match="what pyxem_dl.strain_map returns"):
        pyxem_dl.plot.strain_map(np.ones((4, 3, 3)))
    with pytest.raises(ValueError, match="positive"):
        pyxem_dl.plot.strain_map(measure(halves), max_strain=-1)
    with pytest.raises(ValueError, match="single pattern"):
        pyxem_dl.plot.strain_map(measure(halves.inav[0, 0], reference=rows_of(SQUARE)))


@pytest.fixture
def command(tmp_path, monkeypatch, halves):
    """Run ``pyxem-dl strain`` in a folder with vectors, and return its exit code and what it wrote."""
    from typer.testing import CliRunner

    from pyxem_dl.commands import app

    monkeypatch.chdir(tmp_path)
    halves.save("vectors.hspy")
    np.save("right.npy", RIGHT)

    def run(*arguments):
        finished = CliRunner().invoke(app, ["strain", *arguments, "--no-progress"])
        return finished.exit_code, " ".join(finished.output.split())

    return run


@pytest.mark.parametrize("reference", ["0:5,4:8", ":,4:", "right.npy"])
def test_the_command_maps_strain(reference, command):
    code, said = command("vectors.hspy", "--output", "s.hspy", "--picture", "s.png", "--reference", reference)
    assert code == 0 and "40 of 40 positions have a lattice" in said, said
    found = Strain.load("s.hspy")
    assert found.e_xx[0] == pytest.approx([1 / 1.02 - 1] * 4 + [0] * 4, abs=1e-7)
    basis = ",".join(str(n) for n in rows_of(SQUARE).ravel())
    code, said = command("vectors.hspy", "--output", "s.hspy", "--basis", basis, "--angle", "90")
    assert code == 1 and "--overwrite" in said
    assert command("vectors.hspy", "--output", "s.hspy", "--basis", basis, "--angle", "90", "--overwrite")[0] == 0
    assert np.ptp(Strain.load("s.hspy").e_yy[0]) == pytest.approx(0.02, abs=1e-3)


@pytest.mark.parametrize(
    "arguments, code, match",
    [
        (["none.hspy", "--output", "s.hspy"], 1, "There is no file 'none.hspy'"),
        (["vectors.hspy", "--output", "s.tif"], 1, "saved as .hspy or .zspy"),
        (["vectors.hspy", "--output", "s.hspy", "--reference", "left"], 2, "0:20"),
        (["vectors.hspy", "--output", "s.hspy", "--basis", "1,2,3"], 2, "4 numbers"),
        (["vectors.hspy", "--output", "s.hspy", "--reference", "90:99,:"], 1, "no positions"),
    ],
)
def test_the_command_says_what_is_wrong(arguments, code, match, command):
    found, said = command(*arguments)
    assert found == code and match in said, said
