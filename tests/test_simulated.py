"""`simulate_patterns`: intensities of other programs and of theory, the places of disks, and arguments of all kinds."""

import math

import numpy as np
import pytest
import torch
from diffpy.structure import Atom, Lattice, Structure
from diffsims.generators.simulation_generator import SimulationGenerator
from orix.crystal_map import Phase
from orix.quaternion import Rotation
from pretend_device import pretend_device
from sample_phases import phase

import pyxem_dl
from pyxem_dl import metrics, simulated
from pyxem_dl.devices import on_one_core
from pyxem_dl.frames import Calibration, excitation_error, k_to_pixel
from pyxem_dl.rotations import random_rotations
from pyxem_dl.simulation import engines
from pyxem_dl.simulation.cells import tilted, zone_axis_rotation
from pyxem_dl.simulation.engines import make_engine

DETECTOR = Calibration((0.02, 0.02), (64.0, 64.0), (128, 128), 200.0)


@pytest.fixture(autouse=True)
def _small_matrices():
    """Many small operations, which two threads only hold up."""
    with on_one_core():
        yield


def rotations(n=3, seed=0):
    return random_rotations(n, torch.Generator().manual_seed(seed))


def simulate(crystal, orientations, thickness, **settings):
    crystal = phase(crystal) if isinstance(crystal, str) else crystal
    return pyxem_dl.simulate_patterns(crystal, orientations, thickness, show_progressbar=False, **settings)


def engine(name, crystal, disk_radius=0.0, **settings):
    settings = {"n_beams": 256, "debye_waller": 0.5, "device": "cpu"} | settings
    if name == "bloch":
        settings = {"absorption": 0.0, "n_strong": None} | settings
    return make_engine(name, phase(crystal), DETECTOR, disk_radius, **settings)


def around(pattern, kx, ky, calibration, radius=4):
    """Sum of a pattern around each of some places."""
    y, x = np.indices(pattern.shape)
    places = zip(*k_to_pixel(np.asarray(kx), np.asarray(ky), calibration))
    return np.array([pattern[np.hypot(y - row, x - column) < radius].sum() for row, column in places])


# ---------------------------------------------------------------- intensities
@pytest.mark.parametrize("name", ["Al", "LiNiO2", "ZrO2"])
def test_kinematical_intensities_are_those_of_diffsims(name):
    thickness, crystal = 120.0, phase(name)
    generator = SimulationGenerator(200, shape_factor_model=lambda error, width: np.sinc(thickness * error) ** 2)
    for tilt in (0.6, 1.5, 3.0):
        rotation = tilted(zone_axis_rotation(crystal, [0, 1, 1], 17.0), tilt, 65.0)
        elements = {atom.element for atom in crystal.structure}
        known = generator.calculate_diffraction2d(
            crystal, Rotation(rotation), reciprocal_radius=1.7, with_direct_beam=False,
            max_excitation_error=0.1, debye_waller_factors=dict.fromkeys(elements, 0.5),
        ).coordinates  # fmt: skip
        beams = engine("kinematical", name)(torch.as_tensor(rotation).float()[None], torch.full((1, 1), 120.0), 0.0, 1)
        ours = torch.stack([beams.kx[0], beams.ky[0], beams.excitation_error[0]], 1).double().numpy()
        theirs = np.column_stack([known.data[:, :2], excitation_error(*known.data.T, DETECTOR.wavelength)])
        distance = np.linalg.norm(theirs[:, None] - ours[None], axis=2)
        # of hexagonal cells diffsims loses some reflections near its radius
        bright = (known.intensity > 1e-4 * known.intensity.max()) & (np.linalg.norm(known.data, axis=1) < 1.3)
        assert bright.sum() > 10 and distance[bright].min(1).max() < 1e-5
        seen, expected = beams.intensity[0, distance.argmin(1), 0, 0].numpy()[bright], known.intensity[bright]
        np.testing.assert_allclose(seen / seen.max(), expected / expected.max(), rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["MgO", "LiNiO2"])
@pytest.mark.parametrize("kind", ["many-beam", "bloch"])
def test_what_is_thin_scatters_once(name, kind):
    orientations, thickness = rotations(), torch.full((3, 1), 12.0)
    one, two = (engine(each, name)(orientations, thickness, 0.0, 1) for each in ("kinematical", kind))
    for i in range(3):
        known = one.intensity[i, 1:20, 0, 0].numpy()
        nearest = np.hypot(*(a[i, 1:20, None] - b[i, None] for a, b in ((one.kx, two.kx), (one.ky, two.ky))))
        found = two.intensity[i, nearest.argmin(1), 0, 0].numpy()
        assert nearest.min(1).values.max() < 1e-4
        assert np.abs(found - known).sum() < 0.08 * known.sum()


@pytest.mark.parametrize("name", ["Al", "LiNiO2"])
def test_bloch_waves_and_slices_agree(name):
    orientations = torch.cat([rotations(2), torch.as_tensor(zone_axis_rotation(phase(name), [0, 0, 1]))[None].float()])
    slices, waves = (
        simulate(name, orientations, [100, 400], engine=each).data for each in ("many-beam", "bloch")
    )
    assert slices.shape == waves.shape == (3, 2, 128, 128)
    assert (np.abs(slices - waves).sum((2, 3)) < [0.01, 0.02]).all()
    kinematical = simulate(name, orientations, [100, 400], engine="kinematical").data
    assert np.abs(kinematical - waves).sum((2, 3)).max() > 0.2


def test_a_zone_axis_has_the_symmetry_of_its_crystal():
    """[001] of MgO is 4mm; [001] of LiNiO2 is 3m, its zero-order Laue zone 6mm."""
    crystal = phase("MgO")
    rotation = zone_axis_rotation(crystal, [0, 0, 1])
    pattern = simulate(crystal, rotation, 400, shape=(129, 129), convergence_semi_angle=3, n_beams=40).data
    for other in (np.rot90(pattern), pattern[::-1], pattern[:, ::-1]):
        assert np.abs(pattern - other).max() < 3e-3 * pattern.max()
    trigonal = phase("LiNiO2")
    patterns = simulate(
        trigonal, [zone_axis_rotation(trigonal, [0, 0, 1], turn) for turn in (0, 60, 120, 180, 30)], 300,
        convergence_semi_angle=1.5, n_beams=60, reciprocal_radius=1.2,
    ).data  # fmt: skip
    first, *others = patterns
    off = [np.abs(first - other).sum() / first.sum() for other in others]
    # by 120 degrees the same, by 60 and 180 only nearly, by 30 another one
    assert off[1] < 1e-3 and off[3] > 0.1 and 1e-3 < off[0] == pytest.approx(off[2], rel=0.1)


def test_absorption_takes_electrons_and_no_engine_makes_some():
    for name in engines.ENGINES:
        total = simulate("MgO", rotations(2), [50, 500], engine=name, reciprocal_radius=2).data.sum((2, 3))
        assert (total < 1.0001).all() and (total > 0.97).all()
    lost = simulate("MgO", rotations(2), [50, 500], absorption=0.1, reciprocal_radius=2).data.sum((2, 3))
    assert (lost[:, 1] < lost[:, 0]).all() and (lost < 0.99).all()


def test_weak_beams_are_nearly_exact():
    exact = simulate("LiNiO2", rotations(2), 300).data
    found = simulate("LiNiO2", rotations(2), 300, n_strong=40).data
    assert 0 < np.abs(found - exact).sum() < 0.02 * exact.sum()


# ---------------------------------------------------------------- disks, precession
@pytest.mark.parametrize("kind", engines.ENGINES)
def test_a_point_in_a_disk_is_a_tilted_crystal(kind):
    """At (qx, qy) from its middle a disk has the intensity that the spot has when the crystal leans to there."""
    disk, thickness = 0.1, torch.full((1, 2), 200.0, dtype=torch.float64)
    compute = engine(kind, "LiNiO2", disk)
    rotation = zone_axis_rotation(phase("LiNiO2"), [2, 2, 1], 17.0)
    inside = compute(torch.as_tensor(rotation, dtype=torch.float32)[None], thickness, disk, 9)
    q = np.linspace(-1, 1, 9) * disk
    for i, j in ((4, 7), (2, 3), (6, 6)):
        qx, qy = q[j], q[i]
        angle = math.degrees(math.asin(np.hypot(qx, qy) * DETECTOR.wavelength))
        leaning = tilted(rotation, angle, math.degrees(math.atan2(qy, qx)))
        spots = compute(torch.as_tensor(leaning, dtype=torch.float32)[None], thickness, 0.0, 1)
        bright = inside.intensity[1, :, i, j] > 1e-3
        assert bright.sum() > 3
        distance = torch.hypot(inside.kx[1, bright, None] - spots.kx[1], inside.ky[1, bright, None] - spots.ky[1])
        found = inside.intensity[1, bright, i, j]
        expected = spots.intensity[1, distance.argmin(1), 0, 0]
        assert distance.min(1).values.max() < 1e-3
        assert (found - expected).abs().sum() < 0.02 * expected.sum()


def test_disks_lie_where_the_calibration_says():
    odd = Calibration((0.02, 0.02), (40.3, 71.6), (100, 130), 200.0, ((1.03, 0.02), (0.02, 0.98)))
    rotation = tilted(zone_axis_rotation(phase("Al"), [0, 1, 1], 17.0), 0.7, 65.0)
    signal = simulate("Al", rotation, 100, calibration=odd, convergence_semi_angle=2)
    read = Calibration.from_signal(signal)
    assert read.shape == odd.shape and read.beam_energy == 200
    np.testing.assert_allclose([*read.center, *read.scale], [*odd.center, *odd.scale], rtol=1e-6)
    np.testing.assert_allclose(read.distortion, odd.distortion)
    beams = engine("bloch", "Al")(torch.as_tensor(rotation).float()[None], torch.full((1, 1), 100.0), 0.0, 1)
    expected = beams.intensity[0, :8, 0, 0].numpy()
    seen = around(signal.data, beams.kx[0, :8].numpy(), beams.ky[0, :8].numpy(), odd, 5.5)
    np.testing.assert_allclose(seen, expected, atol=0.02)
    assert simulate("Al", rotation, 100, convergence_semi_angle=2).metadata.Acquisition_instrument.TEM.convergence_angle


def test_small_disks_have_the_mean_of_what_large_ones_show():
    rotation = rotations(1)[0]
    small, large = (
        simulate("LiNiO2", rotation, 400, convergence_semi_angle=0.4, reciprocal_radius=1.2, shape=(n, n), blur=0.5)
        for n in (64, 512)
    )
    sums = []
    for signal in (small, large):
        beams = engine("bloch", "LiNiO2")(rotation[None], torch.full((1, 1), 400.0), 0.0, 1)
        bright = (beams.intensity[0, :, 0, 0] > 3e-3) & (torch.hypot(beams.kx[0], beams.ky[0]) < 1.05)
        calibration = Calibration.from_signal(signal)
        radius = 0.06 / calibration.scale[0]
        sums.append(around(signal.data, beams.kx[0, bright].numpy(), beams.ky[0, bright].numpy(), calibration, radius))
    assert len(sums[0]) > 3
    np.testing.assert_allclose(sums[0], sums[1], rtol=0.04)


def test_a_precession_is_the_mean_over_tilted_crystals_with_spots_that_stay():
    rotation, angle = zone_axis_rotation(phase("LiNiO2"), [2, 2, 1], 17.0), 0.5
    found = simulate("LiNiO2", rotation, [300], precession_angle=angle, calibration=DETECTOR, blur=0.5).data[0]
    plain = engine("bloch", "LiNiO2")
    still = plain(torch.as_tensor(rotation).float()[None], torch.full((1, 1), 300.0), 0.0, 1)
    near = torch.hypot(still.kx[0], still.ky[0]) < 1
    kx, ky = still.kx[0, near], still.ky[0, near]
    expected = torch.zeros(len(kx))
    azimuths = np.arange(90) * 4.0
    for azimuth in azimuths:
        beams = plain(
            torch.as_tensor(tilted(rotation, angle, azimuth)).float()[None], torch.full((1, 1), 300.0), 0.0, 1
        )
        distance = torch.hypot(kx[:, None] - beams.kx[0], ky[:, None] - beams.ky[0])
        here = torch.where(distance.min(1).values < 0.01, beams.intensity[0, distance.argmin(1), 0, 0], 0)
        expected += here / len(azimuths)
    bright = (expected > 2e-3).numpy()
    seen = around(found, kx.numpy()[bright], ky.numpy()[bright], DETECTOR, 3.2)
    assert bright.sum() > 4
    np.testing.assert_allclose(seen, expected.numpy()[bright], rtol=0.04, atol=5e-4)
    # intensities that the crystal has without are others
    assert np.abs(seen - still.intensity[0, near, 0, 0].numpy()[bright]).sum() > 0.2 * seen.sum()


def test_a_precession_has_azimuths_enough():
    rotation = tilted(zone_axis_rotation(phase("Al"), [0, 1, 1], 17.0), 0.4, 65.0)
    settings = {"precession_angle": 1.0, "direct_beam": False, "reciprocal_radius": 1.2}
    found = simulate("Al", rotation, 500, **settings).data
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulated, "azimuths_around", lambda fringes: 150)
        exact = simulate("Al", rotation, 500, **settings).data
    assert np.abs(found - exact).sum() < 0.02 * exact.sum()


# ---------------------------------------------------------------- strain
@pytest.mark.parametrize("name", ["MgO", "LiNiO2"])
def test_intensities_can_be_differentiated_by_strain(name):
    from pyxem_dl.simulation.bloch_waves import BlochWaves

    waves = BlochWaves(phase(name), 200, 1.2, n_beams=50)
    chosen = waves.choose(rotations())

    def intensity(strain):
        _, _, error = waves.deformed(chosen, rotations(), torch.eye(3).double() + strain)
        return waves.amplitudes(chosen, error, torch.tensor([150.0])).abs().pow(2)[:, 0]

    weights = torch.linspace(0.5, 1.5, 50, dtype=torch.float64)[: chosen.kx.shape[1]]
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad((intensity(strain)[:, 1:] * weights[1:]).sum(), strain)
    step = 1e-6
    for i, j in np.ndindex(3, 3):
        change = torch.zeros(3, 3, dtype=torch.float64)
        change[i, j] = step
        expected = ((intensity(change) - intensity(-change))[:, 1:] * weights[1:]).sum() / (2 * step)
        assert gradient[i, j].item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-4 * gradient.abs().max().item())


def test_a_strain_moves_beams_to_where_those_of_a_strained_crystal_are():
    from pyxem_dl.simulation.bloch_waves import BlochWaves

    crystal, rotation = phase("MgO"), torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    larger = Phase(
        "larger", space_group=123,
        structure=Structure(list(crystal.structure), Lattice(4.217 * 1.01, 4.217 * 1.01, 4.217 * 0.98, 90, 90, 90)),
    )  # fmt: skip
    chosen = BlochWaves(crystal, 200, 1.2, n_beams=50).choose(rotation)
    strain = torch.diag(torch.tensor([1.01, 1.01, 0.98]))
    found = BlochWaves(crystal, 200, 1.2, n_beams=50).deformed(chosen, rotation, strain)
    (larger,) = pyxem_dl.load_phases(larger)
    expected = BlochWaves(larger, 200, 1.2, n_beams=50).deformed(chosen, rotation)
    for a, b in zip(found, expected):
        assert torch.allclose(a, b, atol=1e-9)


# ---------------------------------------------------------------- the signal
def test_thicknesses_and_orientations_are_axes():
    one = simulate("MgO", Rotation(rotations(1).double().numpy()), 200)
    assert one.data.shape == (128, 128) and one.data.dtype == np.float32
    assert type(one).__name__ == "ElectronDiffraction2D" and one.metadata.General.title == "MgO"
    several = simulate("MgO", rotations(2).double().numpy(), [100, 250, 400], shape=(32, 40), scale=0.08)
    assert several.data.shape == (2, 3, 32, 40)
    axis = several.axes_manager.navigation_axes[0]
    assert (axis.name, axis.units, axis.scale, axis.offset) == ("thickness", "Å", 150, 100)
    calibration = Calibration.from_signal(several)
    assert calibration.center == (16, 20) and calibration.scale == pytest.approx((0.08, 0.08))
    alone = simulate("MgO", rotations(2)[1], 250.0, shape=(32, 40), scale=0.08)
    np.testing.assert_allclose(several.data[1, 1], alone.data, atol=1e-6)
    np.testing.assert_allclose(several.inav[250.0, 1].data, alone.data, atol=1e-6)
    uneven = simulate("MgO", rotations(2), [100, 250, 300], shape=(16, 16))
    assert uneven.axes_manager.navigation_axes[0].scale == 1
    # a scan, with a thickness of its own at each position
    scan = rotations(6).reshape(2, 3, 4)
    depths = np.linspace(50, 300, 6).reshape(2, 3)
    wedge = simulate("MgO", scan, depths, shape=(32, 40), scale=0.08)
    assert wedge.data.shape == (2, 3, 32, 40)
    for each in (wedge, simulate("MgO", scan, depths[..., None], shape=(32, 40), scale=0.08)):
        np.testing.assert_allclose(
            np.squeeze(each.data)[1, 2], simulate("MgO", scan[1, 2], 300, shape=(32, 40), scale=0.08).data, atol=1e-6
        )


def test_batches_do_not_show():
    whole = simulate("MgO", rotations(5), [100, 300], shape=(32, 32), batch_size=5).data
    parts = simulate("MgO", rotations(5), [100, 300], shape=(32, 32), batch_size=2).data
    np.testing.assert_allclose(whole, parts, atol=1e-6)


def test_counts_are_drawn_of_what_is_expected():
    expected = simulate("MgO", rotations(1)[0], 200, background=0.2).data
    counts = simulate("MgO", rotations(1)[0], 200, background=0.2, electrons=2e4, seed=1)
    assert counts.data.dtype == np.uint16
    assert counts.data.sum() == pytest.approx(2e4 * expected.sum(), abs=5 * 2e4**0.5)
    assert (expected > 0).all() and expected[:8, :8].sum() > 1e-5
    other = simulate("MgO", rotations(1)[0], 200, background=0.2, electrons=2e4, seed=2)
    again = simulate("MgO", rotations(1)[0], 200, background=0.2, electrons=2e4, seed=1)
    assert (counts.data == again.data).all() and (counts.data != other.data).any()
    assert simulate("MgO", rotations(1)[0], 200, electrons=1e6).data.dtype == np.uint32


@pytest.mark.parametrize("name", ["MgO", "LiNiO2"])
@pytest.mark.parametrize("kind", engines.ENGINES)
def test_orientations_are_found_in_them(name, kind):
    truth = Rotation(rotations(6, seed=3).double().numpy())
    signal = simulate(
        name, truth, 150, engine=kind, electrons=1e6, convergence_semi_angle=1, beam_energy=300, n_beams=64
    )
    assert signal.metadata.Acquisition_instrument.TEM.beam_energy == 300
    xmap = signal.match_templates(phases=phase(name), resolution=2, show_progressbar=False)
    error = metrics.disorientation(xmap, truth, modulo_180=True)
    assert np.median(error) < 2 and (error < 5).sum() >= 5


def test_where_it_comes_from_is_known():
    record = pyxem_dl.provenance(simulate("MgO", rotations(2), 200, electrons=100, shape=(16, 16)))
    assert record["verb"] == "simulate_patterns" and record["settings"]["engine"] == "bloch"
    assert record["settings"]["phase"] == "MgO" and record["settings"]["electrons"] == 100


@pytest.mark.parametrize("kind", engines.ENGINES)
@pytest.mark.parametrize("settings", [{}, {"convergence_semi_angle": 3.0}, {"precession_angle": 0.3}])
def test_a_gpu_gives_the_same(kind, settings, monkeypatch):
    """On a pretended one, which refuses tensors that are elsewhere."""
    settings = settings | {"engine": kind, "shape": (48, 48), "n_beams": 40, "background": 0.1}
    monkeypatch.setattr(simulated, "azimuths_around", lambda fringes: 3)
    monkeypatch.setattr(simulated, "points_along", lambda fringes, pixels: 5)
    known = simulate("LiNiO2", rotations(3), [60, 100], **settings).data
    with pretend_device() as device:
        monkeypatch.setattr(simulated, "resolve_device", torch.device)
        found = simulate("LiNiO2", rotations(3), [60, 100], device="cuda", **settings).data
        assert device.n_calls > 10
    np.testing.assert_allclose(found, known, atol=1e-5)


# ---------------------------------------------------------------- arguments
CORRECT = {"phase": "MgO", "rotations": [[1, 0, 0, 0]], "thickness": 100}


@pytest.mark.parametrize(
    "wrong, match",
    [
        ({"engine": "multislice"}, "'kinematical', 'many-beam', 'bloch'"),
        ({"thickness": 0}, "from 1 to 5000 Å"),
        ({"thickness": -100}, "from 1 to 5000 Å"),
        ({"thickness": [100, math.nan]}, "from 1 to 5000 Å"),
        ({"thickness": 1e6}, "from 1 to 5000 Å"),
        ({"thickness": []}, "from 1 to 5000 Å"),
        ({"thickness": "thick"}, "thickness must be numbers"),
        ({"thickness": [[100], [100, 200]]}, "thickness must be numbers"),
        ({"rotations": "all"}, "rotations must be numbers"),
        ({"thickness": np.full((2, 2), 100.0)}, "does not go with rotations"),
        ({"rotations": [1, 0, 0]}, r"shape \(\.\.\., 4\)"),
        ({"rotations": np.zeros((0, 4))}, r"shape \(\.\.\., 4\)"),
        ({"rotations": np.ones((2, 2, 2, 4))}, "up to two"),
        ({"rotations": [[1, 0, 0, 0], [math.nan, 0, 0, 0]]}, "1 of 2 rotations are not finite, or 0"),
        ({"rotations": [[0, 0, 0, 0]]}, "not finite, or 0"),
        ({"beam_energy": 5}, "beam_energy must be a number from 30 to 1000"),
        ({"beam_energy": 200000}, "volts"),
        ({"shape": (128,)}, "shape must be two numbers"),
        ({"shape": (2, 128)}, "shape must be a whole number of at least 8"),
        ({"scale": 0.02, "reciprocal_radius": 1.0}, "Give one of reciprocal_radius and scale"),
        ({"scale": 0.02, "calibration": DETECTOR}, "Give one of scale and calibration"),
        ({"scale": 0.0}, "scale must be"),
        ({"scale": 0.5}, "detector ends at"),
        ({"calibration": Calibration((0.02, 0.03), (64, 64), (128, 128))}, "square"),
        ({"convergence_semi_angle": 100}, "convergence_semi_angle"),
        ({"precession_angle": -1}, "precession_angle"),
        ({"absorption": 2}, "absorption"),
        ({"absorption": 0.1, "engine": "many-beam"}, "absorption is for engine='bloch'"),
        ({"n_strong": 20, "engine": "kinematical"}, "n_strong is for engine='bloch'"),
        ({"n_beams": 1}, "n_beams"),
        ({"n_beams": 10**5}, "n_beams must be a whole number of at most 1024"),
        ({"electrons": 0}, "electrons"),
        ({"background": 1.0}, "background"),
        ({"blur": 0.0}, "blur"),
        ({"debye_waller": math.inf}, "debye_waller"),
        ({"device": "tpu"}, "device"),
        ({"batch_size": 0}, "batch_size"),
        ({"rotations": np.ones((100_000, 4)), "shape": (4096, 4096)}, "Simulate fewer rotations"),
    ],
)
def test_impossible_arguments_are_refused(wrong, match):
    arguments = CORRECT | wrong
    with pytest.raises(ValueError, match=match):
        simulate(arguments.pop("phase"), arguments.pop("rotations"), arguments.pop("thickness"), **arguments)


@pytest.mark.parametrize("wrong", [{"calibration": 0.02}, {"direct_beam": "no"}, {"electrons": "many"}])
def test_arguments_of_the_wrong_kind_are_refused(wrong):
    with pytest.raises(TypeError):
        simulate("MgO", rotations(1), 100, **wrong)


def test_one_phase_with_atoms_is_needed(tmp_path):
    with pytest.raises(ValueError, match="one phase are simulated at a time, and here are 2"):
        simulate([phase("MgO"), phase("Al")], rotations(1), 100)
    with pytest.raises(ValueError, match="atom"):
        simulate(Phase("none", space_group=225), rotations(1), 100)
    with pytest.raises(FileNotFoundError):
        simulate(tmp_path / "none.cif", rotations(1), 100)
    with pytest.raises(ValueError, match="no reflection within"):
        simulate("Al", rotations(1), 100, engine="kinematical", reciprocal_radius=0.1)


def cube(side):
    """A cell of one atom in a corner, far too large for it, with others inside so that it is none of lead's."""
    atoms = [Atom("Pb", [0, 0, 0]), Atom("O", [0.31, 0.12, 0.07]), Atom("Si", [0.52, 0.61, 0.44])]
    atoms += [Atom("Fe", [x, y, 0.23]) for x in (0.17, 0.66, 0.83) for y in (0.37, 0.78)]
    return Phase("cube", space_group=1, structure=Structure(atoms, Lattice(side, side, side, 90, 90, 90)))


def test_cells_with_many_beams_are_warned_of_and_with_thousands_refused():
    with pytest.warns(UserWarning, match="only the 60 that promise to be the strongest take part"):
        simulate("ZrO2", rotations(1), 100, n_beams=60, shape=(32, 32))
    with pytest.raises(ValueError, match="at most 4096 can be dealt with"):
        simulate(cube(14.0), rotations(1), 100, shape=(32, 32), reciprocal_radius=2)
    assert simulate(cube(14.0), rotations(1), 100, shape=(64, 64), engine="kinematical").data.sum() > 0.9


def test_mps_is_not_for_numbers_of_64_bits(monkeypatch):
    monkeypatch.setattr(simulated, "resolve_device", lambda device: torch.device("mps"))
    assert simulate("MgO", rotations(1)[0], 100, shape=(16, 16)).data.shape == (16, 16)
    with pytest.raises(ValueError, match="Give device='cpu'"):
        simulate("MgO", rotations(1), 100, device="mps")
