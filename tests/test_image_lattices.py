"""Lattices in windows of images: rotation, strain, errors and drift against known answers, and what cannot be."""

import dataclasses

import hyperspy.api as hs
import numpy as np
import pytest
from orix.crystal_map import CrystalMap, PhaseList
from orix.quaternion import Rotation

import pyxem_dl
from pyxem_dl import data
from pyxem_dl.frames import drift_gradient
from pyxem_dl.images import nets
from pyxem_dl.models.structure import rotations_of
from pyxem_dl.strain.deformation import rotation_matrix, strain_of

PHASES = data.metals()
CRYSTALS = data.metal_crystals()
#: bcc [100] is a square net, hcp [0001] a hexagonal one
SQUARE, HEXAGONAL = (0, 0), (2, 7)
QUIET = {"show_progressbar": False, "on_message": lambda line: None}


def scene_of(which, gradient=None, angle=20.0, counts=20, shape=(160, 160), seed=1, labels=None):
    """An image of one crystal, deformed along the image's axes after it was turned by an angle in degrees."""
    crystal = CRYSTALS[which[1]]
    if gradient is not None:
        # the simulation turns last
        turn = rotation_matrix(np.deg2rad(angle))
        own = turn.T @ np.asarray(gradient) @ turn
        crystal = dataclasses.replace(crystal, basis=crystal.basis @ own.T)
    labels = np.ones(shape, int) if labels is None else labels
    return data.atomic_grains(shape, counts, crystals=[crystal], angles=[angle], labels=labels, seed=seed).signal


def map_of(which, angle=20.0, shape=(160, 160), every=14, unit="Å"):
    """The map that a perfect classification would give; every so many pixels of 0.12 Å."""
    phase_id, k = which
    y, x = (each.ravel() for each in np.mgrid[50 : shape[0] - 50 : every, 50 : shape[1] - 50 : every] * 0.12)
    factor = {"Å": 1.0, "nm": 0.1}[unit]
    n = len(x)
    turned = np.full(n, np.deg2rad(angle))
    rotations = rotations_of(CRYSTALS[k].quaternion[None], np.zeros(n, int), turned)
    return CrystalMap(
        Rotation(rotations), np.full(n, phase_id), x * factor, y * factor, scan_unit=unit,
        phase_list=PhaseList(phases=PHASES, ids=[0, 1, 2]),
    )  # fmt: skip


# ---------------------------------------------------------------- known answers
@pytest.mark.parametrize("which", [SQUARE, HEXAGONAL])
def test_rotation_strain_and_vectors_of_a_known_crystal(which):
    gradient = np.array([[1.02, 0.012], [0.004, 0.985]])
    shape = (280, 280)
    lattice = scene_of(which, gradient, shape=shape).map_lattice(map_of(which, shape=shape, every=20), **QUIET)
    truth = strain_of(gradient)
    fold = 4 if which == SQUARE else 6
    rotation = 20 + np.rad2deg(truth.theta)
    away = (lattice.values[3] - rotation + 180 / fold) % (360 / fold) - 180 / fold
    assert np.abs(away).max() < 0.6 and abs(np.median(away)) < 0.15
    assert np.ptp(lattice.values[3]) < 1.5
    for values, true in zip(lattice.values[:3], truth[:3]):
        assert np.median(values) == pytest.approx(true, abs=0.002)
        assert np.abs(values - true).max() < 0.012
    # the vectors are those of the phase, deformed; which of those that look alike is open
    a = np.median(lattice.vectors[..., 0, :], axis=(0, 1))
    turn = [rotation_matrix(np.deg2rad(20 + 360 * i / fold)) for i in range(fold)]
    near = [gradient @ t @ CRYSTALS[which[1]].basis[0] for t in turn]
    assert min(np.linalg.norm(a - each) for each in near) < 0.01
    assert lattice.names == [CRYSTALS[which[1]].name] and (lattice.crystal == 0).all()
    assert np.median(lattice.score) > 0.9
    area = np.linalg.det(gradient) * np.linalg.det(CRYSTALS[which[1]].basis)
    assert np.median(lattice.cell_area.data) == pytest.approx(area, rel=0.005)


@pytest.mark.parametrize("which, counts", [(SQUARE, 2), (HEXAGONAL, 50)])
def test_errors_are_as_large_as_the_deviations(which, counts):
    # windows that do not overlap much
    xmap = map_of(which, shape=(420, 420), every=64)
    lattice = scene_of(which, counts=counts, shape=(420, 420)).map_lattice(xmap, **QUIET)
    assert lattice.shape == (5, 5)
    truth = np.array([0, 0, 0, np.median(lattice.values[3])])
    pulls = (lattice.values - truth[:, None, None]) / lattice.errors
    assert 0.5 < np.sqrt(np.mean(pulls[:3] ** 2)) < 1.7 and 0.5 < np.sqrt(np.mean(pulls[3] ** 2)) < 1.7
    assert np.isfinite(lattice.vector_errors).all() and (lattice.vector_errors > 0).all()


@pytest.mark.parametrize("which", [SQUARE, HEXAGONAL])
def test_without_a_map_the_typical_lattice_is_the_reference(which):
    scene = scene_of(which, angle=8.0, counts=100, shape=(260, 260))
    lattice = scene.map_lattice(step=3.0, **QUIET)
    assert len(lattice.names) == 1 and (lattice.crystal == 0).all()
    lengths = np.linalg.norm(lattice.references[0], axis=1)
    assert lengths == pytest.approx(np.linalg.norm(CRYSTALS[which[1]].basis, axis=1), rel=0.01)
    assert np.abs(np.median(lattice.values[:3], axis=(1, 2))).max() < 0.002
    period = lattice.periods[0]
    assert period == (90 if which == SQUARE else 60)
    assert np.median(lattice.values[3]) % period == pytest.approx(8, abs=0.3)
    x, y = lattice.rotation.axes_manager.signal_axes
    assert x.units == "Å" and x.scale == pytest.approx(0.12 * 25)
    assert x.offset == pytest.approx(6, abs=0.2)


def test_two_grains_one_rotation_each():
    labels = np.where(np.arange(240) < 120, 1, 2) * np.ones((160, 1), int)
    scene = data.atomic_grains((160, 240), 20, crystals=[CRYSTALS[0]] * 2, angles=[5, 40], labels=labels, seed=1)
    lattice = scene.signal.map_lattice(step=2.4, **QUIET)
    rotation = lattice.values[3]
    left, right = rotation[:, :2], rotation[:, -2:]
    assert np.abs(left - np.median(left)).max() < 1 and np.abs(right - np.median(right)).max() < 1
    assert (np.median(right) - np.median(left)) % 90 == pytest.approx(35, abs=0.3)
    # windows with a fifth of the other grain; in those that have parts alike there is no lattice
    assert 0.6 < np.median(lattice.score[:, 2]) < 0.85 < np.median(lattice.score[:, :2])
    assert (lattice.crystal[:, 3] == -1).all() and np.isnan(lattice.values[:, :, 3]).all()


@pytest.mark.parametrize("which", [SQUARE, HEXAGONAL])
def test_drift_is_found_and_taken_away(which):
    drift = np.array([0.03, -0.02])
    scene = scene_of(which, drift_gradient(*drift), shape=(200, 200))
    xmap = map_of(which, shape=(200, 200))
    with_it = scene.map_lattice(xmap, **QUIET)
    without = scene.map_lattice(xmap, drift=True, **QUIET)
    assert with_it.drift is None
    assert without.drift == pytest.approx(drift, abs=0.003)
    assert abs(np.median(with_it.values[2])) > 0.012 and abs(np.median(without.values[2])) < 1e-4
    assert abs(np.median(with_it.values[1] - with_it.values[0])) > 0.015
    period = without.periods[0]
    away = (np.median(without.values[3]) - 20 + period / 2) % period - period / 2
    assert abs(away) < 0.15
    assert np.median(without.cell_area.data) == pytest.approx(np.linalg.det(CRYSTALS[which[1]].basis), rel=0.006)


def test_a_drift_downwards_and_to_the_right():
    # what is scanned later, further down, has moved to the right by 0.1 Å per Å, and up
    moved = drift_gradient(0.1, 0.05) @ np.array([0.0, -1.0])
    assert moved == pytest.approx([0.1, -0.95])


# ---------------------------------------------------------------- series, files, pictures
def test_a_series_lazy_or_not_with_a_frame_that_cannot_be_used():
    frames = np.stack([scene_of(SQUARE, angle=a, seed=i).data for i, a in enumerate((10.0, 30.0))])
    frames = np.concatenate([frames, np.zeros_like(frames[:1])])
    series = hs.signals.Signal2D(frames)
    for axis in series.axes_manager.signal_axes:
        axis.scale, axis.units = 0.12, "Å"
    series.axes_manager.navigation_axes[0].name, series.axes_manager.navigation_axes[0].scale = "time", 0.5
    maps = [map_of(SQUARE, angle=a) for a in (10.0, 30.0, 30.0)]
    with pytest.warns(UserWarning, match=r"1 of 3 frames could not be used \(2\)"):
        lattice = series.map_lattice(maps, **QUIET)
    assert lattice.shape == (3, 5, 5) and (lattice.crystal[2] == -1).all()
    assert np.isnan(lattice.values[:, 2]).all() and np.isnan(lattice.score[2]).all()
    assert np.median(lattice.values[3, 1]) - np.median(lattice.values[3, 0]) == pytest.approx(20, abs=0.3)
    time = lattice.rotation.axes_manager.navigation_axes[0]
    assert (time.name, time.scale) == ("time", 0.5)
    assert lattice.a.axes_manager.navigation_shape == (2, 3)
    lazy = series.as_lazy()
    lazy.data = lazy.data.rechunk((1, 60, 70))
    with pytest.warns(UserWarning, match="1 of 3 frames"):
        again = lazy.map_lattice(maps, **QUIET)
    assert np.array_equal(again.values, lattice.values, equal_nan=True)


def test_saved_and_loaded(tmp_path):
    lattice = scene_of(HEXAGONAL).map_lattice(map_of(HEXAGONAL, every=30), drift=True, **QUIET)
    path = lattice.save(tmp_path / "lattice.hspy")
    again = pyxem_dl.LatticeMap.load(path)
    for field in dataclasses.fields(lattice):
        mine, theirs = (getattr(each, field.name) for each in (lattice, again))
        if isinstance(mine, np.ndarray):
            assert np.allclose(mine, theirs, equal_nan=True), field.name
        else:
            assert mine == theirs, field.name
    signal = hs.load(path)
    assert signal.axes_manager.navigation_shape == (4,)
    assert signal.data[3] == pytest.approx(lattice.rotation.data)
    with pytest.raises(FileExistsError, match="overwrite"):
        lattice.save(path)
    with pytest.raises(ValueError, match=".hspy or .zspy"):
        lattice.save(tmp_path / "lattice.png")
    with pytest.raises(FileNotFoundError, match="no file"):
        pyxem_dl.LatticeMap.load(tmp_path / "other.hspy")
    lattice.rotation.save(tmp_path / "rotation.hspy")
    with pytest.raises(ValueError, match="no maps of"):
        pyxem_dl.LatticeMap.load(tmp_path / "rotation.hspy")


def test_pictures():
    import matplotlib.pyplot as plt

    from pyxem_dl.plot import strain_map

    lattice = scene_of(SQUARE).map_lattice(map_of(SQUARE, every=30), **QUIET)
    assert len(strain_map(lattice).axes) >= 8
    lattice.plot()
    plt.close("all")
    assert "25 windows" not in repr(lattice) and "Fe [1 0 0]" in repr(lattice)
    with pytest.raises(AttributeError, match="no attribute 'e_zz'"):
        lattice.e_zz  # noqa: B018
    assert {"rotation_error", "a", "e_xx"} <= set(dir(lattice))


# ---------------------------------------------------------------- what cannot be
def test_a_map_that_does_not_belong_to_the_image():
    scene = scene_of(SQUARE)
    with pytest.raises(ValueError, match=r"reaches to column 246 .* but the image has 160 x 160 px"):
        scene.map_lattice(map_of(SQUARE, shape=(300, 300)), **QUIET)
    with pytest.raises(ValueError, match="3 crystal maps and 1 images"):
        scene.map_lattice([map_of(SQUARE)] * 3, **QUIET)
    with pytest.raises(TypeError, match="crystal map of `classify_structure`"):
        scene.map_lattice(np.zeros((3, 3)), **QUIET)
    with pytest.raises(ValueError, match="give xmap"):
        scene.map_lattice(drift=True, **QUIET)
    nothing = map_of(SQUARE)
    nothing.phase_id[:] = -1
    nothing["not_indexed"]  # noqa: B018
    with pytest.raises(ValueError, match="no indexed point"):
        scene.map_lattice(nothing["not_indexed"], **QUIET)
    tilted = map_of(SQUARE)
    tilted = CrystalMap(
        Rotation.from_euler(np.full((tilted.size, 3), 0.37)), tilted.phase_id, tilted.x, tilted.y, scan_unit="Å",
        phase_list=tilted.phases,
    )  # fmt: skip
    with pytest.raises(ValueError, match="no zone axis"):
        scene.map_lattice(tilted, **QUIET)
    assert map_of(SQUARE, unit="nm").scan_unit == "nm"
    lattice = scene.map_lattice(map_of(SQUARE, unit="nm", every=30), **QUIET)
    assert (lattice.crystal == 0).all()


def test_noise_and_amorphous_have_no_lattice(rng):
    noise = hs.signals.Signal2D(rng.poisson(5, (200, 200)).astype(float))
    for axis in noise.axes_manager.signal_axes:
        axis.scale, axis.units = 0.12, "Å"
    with pytest.warns(UserWarning, match="No window has a lattice"):
        lattice = noise.map_lattice(step=3.0, **QUIET)
    assert not lattice.names and (lattice.crystal == -1).all() and np.isnan(lattice.values).all()
    # of a known crystal, too
    with pytest.warns(UserWarning, match="No window has a lattice"):
        known = noise.map_lattice(map_of(SQUARE, every=10), **QUIET)
    assert (known.crystal == -1).all()


def test_pixels_and_windows_with_both_numbers():
    scene = scene_of(HEXAGONAL, shape=(160, 160))
    with pytest.warns(UserWarning, match=r"window is 6 Å, and a cell is up to 2\.95 Å .*window=8"):
        scene.map_lattice(map_of(HEXAGONAL, every=30), window=6, **QUIET)
    coarse = scene.rebin(scale=[4, 4])
    for axis in coarse.axes_manager.signal_axes:
        axis.scale = 0.75
    with pytest.raises(ValueError, match=r"0\.75 Å wide; .*0\.5 Å"):
        coarse.map_lattice(**QUIET)
    with pytest.raises(ValueError, match="window is 30 Å, but the image has 19.2"):
        scene.map_lattice(window=30, **QUIET)
    with pytest.raises((ValueError, TypeError), match="window"):
        scene.map_lattice(window=2, **QUIET)
    with pytest.raises((ValueError, TypeError), match="drift"):
        scene.map_lattice(drift="yes", **QUIET)


def test_a_pixel_above_half_of_a_spacing():
    from pyxem_dl.images.lattice import Crystal, Grid, _check_crystals

    def check(size, pixel):
        # Cu [111]: its first waves are 1.28 Å long
        small = dataclasses.replace(CRYSTALS[5], basis=size * CRYSTALS[5].basis)
        _check_crystals([Crystal.of(small)], Grid(12.0, 1, pixel, 25))

    check(1.0, 0.49)
    with pytest.raises(ValueError, match=r"0\.49 Å wide, more than half of the spacing 0\.959 Å of Cu \[1 1 1\]"):
        check(0.75, 0.49)
    with pytest.raises(ValueError, match=r"no two spacings above 0\.8 Å"):
        check(0.5, 0.2)


# ---------------------------------------------------------------- nets
def test_bases_are_matched_to_the_least_strained(rng):
    for basis in (CRYSTALS[0].basis, CRYSTALS[7].basis, CRYSTALS[9].basis):
        angle = rng.uniform(-3, 3, 40)
        gradient = rotation_matrix(angle) @ (np.eye(2) + 0.02 * rng.standard_normal((40, 2, 2)))
        true = basis @ np.swapaxes(gradient, -1, -2)
        other = nets._CHANGES[rng.integers(len(nets._CHANGES), size=40)] @ true
        found = nets.matched(other, basis, angle)
        assert found == pytest.approx(true, abs=1e-9)
    assert np.isnan(nets.matched(1.3 * CRYSTALS[9].basis[None], CRYSTALS[9].basis)).all()
    assert np.isnan(nets.matched(np.full((1, 2, 2), np.nan), CRYSTALS[0].basis)).all()


def test_kinds_of_lattices(rng):
    turn = rotation_matrix(rng.uniform(0, 6, 60))
    bases = np.concatenate([CRYSTALS[0].basis @ turn[:40], CRYSTALS[7].basis @ turn[40:]])
    bases = bases * (1 + 0.003 * rng.standard_normal((60, 2, 2)))
    kinds = nets.kinds_of(np.concatenate([bases, np.full((3, 2, 2), np.nan)]))
    assert len(kinds) == 2 and [nets.fold_of(kind) for kind in kinds] == [4, 6]
    assert np.linalg.norm(kinds[0], axis=1) == pytest.approx([2.027, 2.027], rel=0.01)
    assert all(kind[0, 1] == pytest.approx(0, abs=1e-9) for kind in kinds)
    assert nets.kinds_of(np.full((3, 2, 2), np.nan)) == []
