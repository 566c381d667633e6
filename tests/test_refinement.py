"""Refinement by Bloch waves, of patterns that the slices of another code made."""

import math
import warnings

import dask.array as da
import numpy as np
import pytest
import torch
from diffpy.structure import Atom, Lattice, Structure
from orix.crystal_map import CrystalMap, Phase, PhaseList
from orix.quaternion import Rotation

import pyxem_dl
from pyxem_dl import data
from pyxem_dl.electrons import electron_wavelength
from pyxem_dl.frames import Calibration, k_to_pixel
from pyxem_dl.refinement import Physics, Refiner
from pyxem_dl.refinement.fitting import Given
from pyxem_dl.refinement.search import Net, Optics
from pyxem_dl.refinement.spots import measure
from pyxem_dl.refinement.waves import Pool, intensities, jacobian
from pyxem_dl.rotations import (
    conjugate,
    exponential,
    logarithm,
    misorientation_angle,
    multiply,
    random_rotations,
    rotate_in_plane,
)
from pyxem_dl.scans import make_signal
from pyxem_dl.simulation.bloch_waves import BlochWaves
from pyxem_dl.simulation.detector import draw_beams
from pyxem_dl.simulation.many_beam import ManyBeam

SEMIANGLE = 1.5e-3
CALIBRATION = Calibration((0.024, 0.024), (64.0, 64.0), (128, 128), 200.0)
RADIUS = SEMIANGLE / electron_wavelength(200.0) / 0.024
PHASES = {"MgO": data.mgo_phase, "LiNiO2": data.lithium_nickel_oxide}


def simulated(phase, rotations, thickness, electrons=3e4, seed=0, background=0.0):
    """Patterns of so many scattered electrons, with disks that are uneven within, and a background per pixel."""
    disk = SEMIANGLE / electron_wavelength(200.0)
    beams = ManyBeam(phase, 200.0, 1.5, n_beams=100)(rotations.float(), thickness, disk, 9)
    share = beams.intensity[:, 1:].mean((2, 3)).sum(1)
    images = draw_beams(beams, (electrons / share)[:, None], CALIBRATION, disk_radius=disk, blur=0.4) + background
    return torch.from_numpy(np.random.default_rng(seed).poisson(images.numpy()).astype(np.float32))


def turned(rotations, degrees, seed=1):
    by = torch.randn(len(rotations), 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    by *= math.radians(degrees) / by.norm(dim=1, keepdim=True)
    return multiply(rotations.double(), exponential(by))


def off(found, rotations):
    """Degrees from the truth."""
    return torch.rad2deg(misorientation_angle(found, rotations.double()))


@pytest.fixture(scope="module", params=PHASES)
def case(request):
    phase = PHASES[request.param]()
    rotations = random_rotations(8, torch.Generator().manual_seed(5))
    thickness = torch.linspace(80, 360, 8)
    return phase, rotations, thickness, simulated(phase, rotations, thickness)


def test_orientation_thickness_and_their_errors_are_found(case):
    phase, rotations, thickness, patterns = case
    found = Refiner(phase, CALIBRATION, Physics(RADIUS, (40.0, 420.0)))(patterns, turned(rotations, 0.3))
    error = off(found.rotations, rotations)
    assert error.median() < 0.05 and (error < 0.17).float().mean() > 0.8
    assert (found.thickness - thickness).abs().median() < 4
    assert found.refined.sum() >= 7 and found.misfit.median() < 2
    assert 0.005 < found.orientation_error.median() < 0.15
    assert (error < 3 * found.orientation_error).float().mean() > 0.7


def test_a_background_is_taken_off(case):
    phase, rotations, thickness, _ = case
    patterns = simulated(phase, rotations, thickness, background=3.0)
    found = Refiner(phase, CALIBRATION, Physics(RADIUS, (40.0, 420.0)))(patterns, turned(rotations, 0.3))
    assert off(found.rotations, rotations).median() < 0.06
    assert (found.thickness - thickness).abs().median() < 6


def test_what_was_further_off_is_found_again(case):
    phase, rotations, thickness, patterns = case
    found = Refiner(phase, CALIBRATION, Physics(RADIUS, (40.0, 420.0)))(patterns, turned(rotations, 1.4))
    assert (off(found.rotations, rotations) < 0.3).float().mean() >= 0.5


def test_another_crystal_is_not_refined(case):
    """What explains nothing keeps the orientation of the map, and says so."""
    phase, rotations, _, patterns = case
    start = random_rotations(8, torch.Generator().manual_seed(77)).double()
    found = Refiner(phase, CALIBRATION, Physics(RADIUS, (40.0, 420.0)))(patterns, start)
    lost = ~found.refined
    assert torch.equal(found.rotations[lost], start[lost]) and found.thickness[lost].isnan().all()
    doubtful = lost | (found.misfit > 2) | (found.orientation_error > 0.3)
    assert doubtful.float().mean() > 0.5


@pytest.mark.parametrize("n_strong, wrong", [(14, 0.03), (24, 0.012), (60, 1e-4)])
def test_few_strong_beams_are_nearly_all(case, n_strong, wrong):
    phase, rotations, thickness, _ = case
    waves = BlochWaves(phase, 200.0, 1.5, n_beams=60)
    chosen = waves.choose(rotations.float())
    expected, slopes = waves.jacobian(chosen, thickness)
    pool = Pool.of(waves, chosen, torch.float32)
    wanted = torch.arange(1, 25).expand(8, -1)
    expected, slopes = expected[:, 1:25], slopes[:, 1:25]
    found = jacobian(pool, pool.error[:, None, None], thickness[:, None], n_strong, wanted)[:, 0, 0]
    assert (found[..., 0] - expected).abs().sum() < wrong * expected.sum()
    assert (found[..., 1:] - slopes).abs().sum() < 4 * wrong * slopes.abs().sum()
    series = intensities(pool, pool.error[:, None], thickness, n_strong, wanted)[:, 0]
    own = torch.stack([series[i, i] for i in range(8)])
    assert torch.allclose(own, found[..., 0], atol=1e-5)


def test_absorption_is_that_of_bloch_waves(case):
    """Of relative intensities, for what all waves lose alike is in the scale."""
    phase, rotations, thickness, _ = case
    lossy = BlochWaves(phase, 200.0, 1.5, n_beams=40, absorption=0.05)
    chosen = lossy.choose(rotations.float())
    expected = lossy.amplitudes(chosen, chosen.excitation_error, thickness[:, None])[:, 0].abs() ** 2
    wanted = torch.arange(chosen.kx.shape[1]).expand(8, -1)

    def difference(absorption):
        pool = Pool.of(lossy, chosen, torch.float32, absorption)
        found = jacobian(pool, pool.error[:, None, None], thickness[:, None], 40, wanted)[:, 0, 0, :, 0]
        found = found * (expected.sum(1) / found.sum(1))[:, None]
        return (found - expected).abs().sum() / expected[:, 1:].sum()

    assert difference(0.05) < 1e-3 < 5e-3 < difference(0.0)


def test_precession_is_the_mean_of_its_directions(case):
    phase, rotations, thickness, _ = case
    refiner = Refiner(phase, CALIBRATION, Physics(RADIUS, precession_angle=0.3))
    still = Refiner(phase, CALIBRATION, Physics(RADIUS))
    tilts = refiner._optics.precession
    assert tilts.shape == (16, 2) and torch.rad2deg(tilts.norm(dim=1)).numpy() == pytest.approx(np.full(16, 0.3))
    given = refiner._prepared(refiner._beams, Given(torch.ones(8, 128, 128)), rotations.double())[1:3]
    depth = thickness[:, None]
    mean = sum(still._disks(*given, t.expand(8, 1, 2), depth, 1, 20)[0] for t in tilts) / 16
    found = refiner._disks(*given, torch.zeros(8, 1, 2), depth, 1, 20)[0]
    assert torch.allclose(found, mean, atol=1e-5)


def test_a_turn_in_the_plane_is_seen_with_its_sign(case):
    phase, rotations, _, patterns = case
    waves = BlochWaves(phase, 200.0, 1.5, n_beams=40)
    for degrees in (-0.5, 0.4):
        wrong = rotate_in_plane(rotations, torch.full((8,), math.radians(degrees)))
        found = measure(patterns, waves.choose(wrong.float()), CALIBRATION, RADIUS)
        assert torch.rad2deg(found.turn).numpy() == pytest.approx(np.full(8, -degrees), abs=0.15)


def test_light_within_disks_is_no_turn():
    """Disks that are brighter on one side are not turned about the direct beam."""
    phase = data.lithium_nickel_oxide()
    rotations = random_rotations(12, torch.Generator().manual_seed(8))
    patterns = simulated(phase, rotations, torch.linspace(150, 420, 12), electrons=3e6)
    waves = BlochWaves(phase, 200.0, 1.5, n_beams=60)
    by_eye = measure(patterns, waves.choose(rotations.float()), CALIBRATION, RADIUS).turn
    found = Refiner(phase, CALIBRATION, Physics(RADIUS))(patterns, turned(rotations, 0.1))
    turn = logarithm(multiply(conjugate(rotations.double()), found.rotations))[:, 2]
    assert turn.square().mean().sqrt() < 0.7 * by_eye.square().mean().sqrt()


def test_disks_are_added_up_where_they_are():
    phase = data.mgo_phase()
    rotations = random_rotations(2, torch.Generator().manual_seed(0))
    chosen = BlochWaves(phase, 200, 1.2, n_beams=20).choose(rotations.float())
    row, column = (each[0].numpy() for each in k_to_pixel(chosen.kx, chosen.ky, CALIBRATION))
    rows, columns = np.indices(CALIBRATION.shape)
    alone = next(
        i for i in range(1, 20)
        if chosen.present[0, i] and 20 < row[i] < 108 and 20 < column[i] < 108
        and np.sort(np.hypot(row - row[i], column - column[i]))[1] > 8 and np.hypot(row[i] - 64, column[i] - 64) > 10
    )  # fmt: skip
    disk = np.hypot(rows - row[alone], columns - column[alone]) < RADIUS
    patterns = torch.zeros(2, 128, 128)
    patterns[0][torch.from_numpy(disk)] = 3.0
    found = measure(patterns, chosen, CALIBRATION, RADIUS)
    assert found.intensity[0, alone] == 3 * disk.sum() and found.used[0, alone]
    assert not found.intensity[1].any() and found.turn[1] == 0
    centers = torch.tensor([[66.0, 61.0]] * 2)
    moved = measure(patterns.roll((2, -3), (1, 2)), chosen, CALIBRATION, RADIUS, centers=centers)
    assert moved.intensity[0, alone] == 3 * disk.sum()
    mask = torch.zeros(128, 128, dtype=torch.bool)
    mask[round(row[alone]), round(column[alone])] = True
    assert not measure(patterns, chosen, CALIBRATION, RADIUS, signal_mask=mask).used[0, alone]
    patterns[0][torch.from_numpy(disk)] = 3000.0
    assert not measure(patterns, chosen, CALIBRATION, RADIUS).used[0, alone]  # all alike: where the detector ends


def test_disks_that_touch_are_told_apart():
    """A disk beside the direct beam holds some of its light, which the model does not know."""
    structure = Structure([Atom("Ti", [1 / 3, 2 / 3, 1 / 4])], Lattice(2.95, 2.95, 4.68, 90, 90, 120))
    titanium = Phase("Ti", space_group=194, structure=structure)
    rotations = random_rotations(12, torch.Generator().manual_seed(3)).double()
    s = pyxem_dl.simulate_patterns(
        titanium, rotations.numpy()[:, None], 200, shape=(64, 64), convergence_semi_angle=1.5, electrons=5e4,
        engine="many-beam",
    )  # fmt: skip
    start = Rotation(turned(rotations, 0.25).numpy())
    xmap = CrystalMap(start, np.zeros(12, int), np.zeros(12), np.arange(12), phase_list=PhaseList(titanium))
    refined = pyxem_dl.refine_orientation(s, xmap, show_progressbar=False)
    angle = pyxem_dl.metrics.disorientation(refined, Rotation(rotations.numpy()), modulo_180=True)
    # half of these patterns have disks that touch
    assert refined.prop["refined"].all() and np.median(angle) < 0.1
    assert (np.abs(refined.prop["thickness"] - 200) < 10).mean() > 0.7


def test_crystals_that_scatter_strongly_have_more_strong_beams():
    structure = Structure([Atom("Au", [0, 0, 0])], Lattice(4.078, 4.078, 4.078, 90, 90, 90))
    gold = pyxem_dl.load_phases(Phase("Au", space_group=225, structure=structure))[0]
    most = [Refiner(phase, CALIBRATION, Physics(RADIUS)).strong_beams for phase in (data.aluminium(), gold)]
    assert most[0] == 24 and most[1] > 36
    rotations = random_rotations(8, torch.Generator().manual_seed(5))
    patterns = simulated(gold, rotations, torch.linspace(80, 360, 8), electrons=1e5)
    found = Refiner(gold, CALIBRATION, Physics(RADIUS))(patterns, turned(rotations, 0.2))
    assert found.refined.sum() >= 7 and found.misfit.median() < 2
    assert off(found.rotations, rotations).median() < 0.1


def test_means_over_the_cone_have_the_moment_of_a_disk():
    optics = Optics.of(2e-3, 0.0, 8)
    for n in (3, 4, 7):
        cone = optics.cone(n)
        assert cone.mean(0).abs().max() < 1e-9 and cone.square().mean(0).numpy() == pytest.approx([1e-6] * 2, rel=1e-4)
    net = Net.of(2e-3)
    inner = net.ring[0]
    assert torch.allclose(net.tilts[inner], net.around, atol=1e-7) and not net.tilts[0].any()


# ---------------------------------------------------------------- the verb
@pytest.fixture(scope="module")
def scan():
    phase = data.lithium_nickel_oxide()
    rotations = random_rotations(6, torch.Generator().manual_seed(3))
    thickness = torch.linspace(90, 300, 6)
    patterns = simulated(phase, rotations, thickness).reshape(2, 3, 128, 128)
    signal = make_signal(patterns.numpy(), CALIBRATION, "simulated")
    y, x = (each.ravel() for each in np.indices((2, 3)))
    start = turned(rotations, 0.25).numpy()
    ids = np.array([4, 4, 4, 4, -1, 4])
    xmap = CrystalMap(
        Rotation(start), phase_id=ids, x=x, y=y, phase_list=PhaseList(phases=[phase], ids=[4]),
        prop={"ci": np.linspace(0, 1, 6)},
    )  # fmt: skip
    return signal, xmap, rotations, thickness


def test_a_map_is_refined_and_keeps_what_it_has(scan):
    signal, xmap, rotations, thickness = scan
    refined = pyxem_dl.refine_orientation(signal, xmap, thickness=(40, 360), show_progressbar=False)
    assert refined.phase_id.tolist() == [4, 4, 4, 4, -1, 4] and refined.phases[4].name == xmap.phases[4].name
    assert refined.prop["ci"].tolist() == xmap.prop["ci"].tolist() and refined.shape == (2, 3)
    known = refined.phase_id >= 0
    error = off(torch.from_numpy(refined.rotations.data), rotations).numpy()[known]
    assert np.median(error) < 0.06 and refined.prop["refined"][known].all()
    assert np.median(np.abs(refined.prop["thickness"] - thickness.numpy())[known]) < 4
    assert not refined.prop["refined"][4] and np.isnan(refined.prop["thickness"][4])
    assert np.allclose(refined.rotations.data[4], xmap.rotations.data[4])
    assert pyxem_dl.provenance(refined)["verb"] == "refine_orientation"


def test_a_second_candidate_wins_where_the_first_does_not_fit(scan):
    signal, xmap, rotations, _ = scan
    right, wrong = xmap.rotations.data, random_rotations(6, torch.Generator().manual_seed(9)).numpy()
    first = np.arange(6) % 2 == 0  # where the right one is the first
    both = np.where(first[:, None, None], np.stack([right, wrong], 1), np.stack([wrong, right], 1))
    scores = np.tile([0.6, 0.4], (6, 1))
    scores[1] = 0.99, 0.01  # no rival
    two = CrystalMap(
        Rotation(both), phase_id=xmap.phase_id, x=xmap.x, y=xmap.y, phase_list=xmap.phases,
        prop={"scores": scores, "n": np.arange(6)},
    )  # fmt: skip
    refined = pyxem_dl.refine_orientation(signal, two, thickness=(40, 360), show_progressbar=False)
    assert refined.prop["candidate"].tolist() == [0, 0, 0, 1, 0, 1]
    won = refined.prop["candidate"] == 1
    assert np.allclose(refined.prop["scores"], np.where(won[:, None], scores[:, ::-1], scores))
    error = off(torch.from_numpy(refined.rotations.data[:, 0].copy()), rotations).numpy()
    assert np.all(error[[0, 2, 3, 5]] < 0.3) and refined.prop["n"].tolist() == list(range(6))
    # the loser is behind
    assert np.allclose(np.abs((refined.rotations.data[won, 1] * wrong[won]).sum(-1)), 1)


def test_lazy_signals_and_stores_give_the_same(scan, tmp_path):
    signal, xmap, *_ = scan
    given = {"thickness": (40, 360), "convergence_semi_angle": 1.5, "show_progressbar": False}
    expected = pyxem_dl.refine_orientation(signal, xmap, **given)
    lazy = signal.as_lazy()
    lazy.data = da.from_array(signal.data, chunks=(1, 2, 128, 128))
    pyxem_dl.refine_orientation(lazy, xmap, output=tmp_path / "refined.zarr", **given)
    stored = pyxem_dl.results.open_result(tmp_path / "refined.zarr")
    assert np.allclose(stored.rotations.data, expected.rotations.data, atol=1e-5)
    assert np.allclose(stored.prop["thickness"], expected.prop["thickness"], atol=0.05, equal_nan=True)
    assert set(stored.prop) == set(expected.prop) and stored.phases.ids == expected.phases.ids


def test_nothing_of_empty_or_broken_patterns_is_refined(scan):
    signal, xmap, *_ = scan
    broken = signal.deepcopy()
    broken.data = broken.data.astype(np.float32)
    broken.data[0, 0], broken.data[0, 1, 5, 5] = 0, np.nan
    refined = pyxem_dl.refine_orientation(
        broken, xmap, thickness=(40, 360), convergence_semi_angle=1.5, show_progressbar=False
    )
    assert refined.prop["refined"].tolist()[:2] == [False, False] and refined.prop["refined"][2]
    assert np.allclose(refined.rotations.data[:2], xmap.rotations.data[:2])


def test_vacuum_alone_is_told(scan):
    signal, xmap, *_ = scan
    rng = np.random.default_rng(0)
    empty = signal._deepcopy_with_new_data(rng.poisson(0.5, signal.data.shape).astype(np.uint16))
    with pytest.warns(UserWarning, match="could be refined"):
        refined = pyxem_dl.refine_orientation(empty, xmap, convergence_semi_angle=1.5, show_progressbar=False)
    assert not refined.prop["refined"].any()


def test_large_misfits_are_told(scan):
    signal, xmap, *_ = scan
    given = {"thickness": (40, 360), "convergence_semi_angle": 1.5, "show_progressbar": False}
    with pytest.warns(UserWarning, match="may be worse than before"):
        refined = pyxem_dl.refine_orientation(signal, xmap, center=(64.9, 63.4), **given)
    assert np.nanmedian(refined.prop["misfit"][refined.prop["refined"].astype(bool)]) > 3.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pyxem_dl.refine_orientation(signal, xmap, **given)


def test_prediction_and_refinement_in_one_call(scan):
    signal, _, rotations, thickness = scan
    given = {"phases": data.lithium_nickel_oxide(), "show_progressbar": False}
    mask = np.zeros((2, 3), dtype=bool)
    mask[0, 1] = True
    refined = signal.predict_orientation(**given, refine={"thickness": (40, 360)}, navigation_mask=mask)
    assert refined.size == 5 and {"score", "thickness", "refined"} <= set(refined.prop)
    assert refined.rotations.shape == (5,) and refined.prop["scores"].shape == (5,)
    error = np.abs(refined.prop["thickness"] - thickness.numpy()[~mask.ravel()])
    assert np.nanmedian(error) < 4 and refined.prop["refined"].sum() >= 4
    with pytest.raises(ValueError, match="thicknes"):
        signal.predict_orientation(**given, refine={"thicknes": (40, 360)})
    with pytest.raises(TypeError, match="refine"):
        signal.predict_orientation(**given, refine="yes")


@pytest.mark.parametrize(
    "wrong, words",
    [({"thickness": (0, 100)}, "thickness"), ({"thickness": (300, 100)}, "thickness"),
     ({"thickness": 200}, "thickness"), ({"thickness": (20, 1e5)}, "3000"),
     ({"beam_energy": 5.0}, "beam_energy"), ({"n_beams": 5000}, "n_beams"),
     ({"absorption": 2.0}, "absorption"), ({"precession_angle": -1.0}, "precession_angle"),
     ({"convergence_semi_angle": float("nan")}, "convergence_semi_angle")],
)  # fmt: skip
def test_bad_settings_are_refused(scan, wrong, words):
    signal, xmap, *_ = scan
    with pytest.raises(ValueError, match=words):
        pyxem_dl.refine_orientation(signal, xmap, **wrong)


def test_maps_that_do_not_fit_are_refused(scan):
    signal, xmap, *_ = scan
    with pytest.raises(ValueError, match="positions"):
        pyxem_dl.refine_orientation(signal.inav[:2, :], xmap)
    with pytest.raises(TypeError, match="CrystalMap"):
        pyxem_dl.refine_orientation(signal, "map.ang")
    bare = CrystalMap(
        xmap.rotations, phase_id=np.full(6, 4), x=xmap.x, y=xmap.y,
        phase_list=PhaseList(phases=[Phase("unknown", space_group=166)], ids=[4]),
    )  # fmt: skip
    with pytest.raises(ValueError, match="no atoms"):
        pyxem_dl.refine_orientation(signal, bare)
    refined = pyxem_dl.refine_orientation(
        signal, bare, phases=data.lithium_nickel_oxide(), thickness=(40, 360), show_progressbar=False
    )
    assert refined.prop["refined"].any()
    with pytest.raises(ValueError, match="Laue group -3m.*m-3m"):
        pyxem_dl.refine_orientation(signal, bare, phases=data.mgo_phase())
    with pytest.raises(ValueError, match="of the cell 2.8.*4.2"):
        pyxem_dl.refine_orientation(signal, xmap, phases=data.mgo_phase())
    unknown = signal.deepcopy()
    del unknown.metadata.Acquisition_instrument
    with pytest.raises(ValueError, match="Give `beam_energy=`"):
        pyxem_dl.refine_orientation(unknown, xmap)


def test_a_map_and_a_signal_are_cropped_alike(scan):
    """orix keeps the whole scan behind a part of a map."""
    signal, xmap, *_ = scan
    given = {"thickness": (40, 360), "convergence_semi_angle": 1.5, "show_progressbar": False}
    whole = pyxem_dl.refine_orientation(signal, xmap, **given)
    parts = ((signal.inav[1:, :], xmap[:, 1:]), (signal.inav[:, 1], xmap[1]), (signal.inav[0, 1], xmap[1, 0]))
    for part, of_map in parts:
        refined = pyxem_dl.refine_orientation(part, of_map, **given)
        assert refined.size == of_map.size == refined.is_in_data.size
        np.testing.assert_allclose(refined.prop["thickness"], whole[of_map.is_in_data].prop["thickness"], atol=0.5)
        np.testing.assert_array_equal(refined.prop["ci"], of_map.prop["ci"])


def test_an_empty_scan_is_not_indexed_and_not_refined(scan):
    signal, *_ = scan
    empty = signal._deepcopy_with_new_data(np.zeros_like(signal.data))
    with pytest.warns(UserWarning, match="None of 6 patterns is indexed"):
        refined = empty.predict_orientation(phases=data.lithium_nickel_oxide(), refine=True, show_progressbar=False)
    assert (refined.phase_id == -1).all() and not refined.prop["refined"].any()
