"""The conventions, measured against diffsims, orix and pyxem."""

import numpy as np
import pytest
import torch
from diffsims.crystallography._diffracting_vector import DiffractingVector
from diffsims.generators.simulation_generator import SimulationGenerator
from diffsims.utils.sim_utils import get_electron_wavelength
from orix.quaternion import Rotation
from sample_phases import phase

from pyxem_dl import electrons, frames, rotations
from pyxem_dl.crystals import reflections

RADIUS, MAX_ERROR = 1.2, 0.05


def lab_positions(crystal, quaternion):
    """Reciprocal vectors in the lab by our code, in double precision."""
    return (crystal.g.double() @ rotations.to_matrix(quaternion)).numpy()


def random_quaternions(n, seed=0):
    return rotations.random_rotations(n, torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("name", ["Al", "LiNiO2"])
def test_spots_lie_where_diffsims_has_them(name):
    p = phase(name)
    crystal = reflections(p, RADIUS)
    ours = {tuple(hkl): i for i, hkl in enumerate(crystal.hkl)}
    # returns the excitation error itself as the shape factor
    generator = SimulationGenerator(200, shape_factor_model=lambda error, width: error)
    vectors = DiffractingVector.from_min_dspacing(p, min_dspacing=1 / (1.2 * RADIUS), include_zero_vector=False)
    for quaternion in random_quaternions(5):
        found, hkl, error = generator.get_intersecting_reflections(
            vectors, Rotation(quaternion.numpy()), generator.wavelength, MAX_ERROR, with_direct_beam=False
        )
        lab = lab_positions(crystal, quaternion)
        our_error = frames.excitation_error(*lab.T, frames.electron_wavelength(200))
        rows = [(ours[key], j) for j, key in enumerate(map(tuple, np.round(hkl).astype(int))) if key in ours]
        i, j = np.array(rows).T
        np.testing.assert_allclose(lab[i], found.data[j], atol=1e-4)
        np.testing.assert_allclose(our_error[i], error[j], atol=1e-5)
        assert set(i) == set(np.flatnonzero(np.abs(our_error) < MAX_ERROR))


@pytest.mark.parametrize("name", ["Al", "LiNiO2"])
def test_a_mirrored_pattern_is_that_of_the_mirrored_crystal(name):
    p = phase(name)
    generator = SimulationGenerator(200)
    mirror = Rotation(frames.MIRROR_QUATERNION)
    for quaternion in random_quaternions(3, seed=2):
        spots = []
        for rotation in (Rotation(quaternion.numpy()), Rotation(quaternion.numpy()) * mirror):
            found = generator.calculate_diffraction2d(
                p, rotation, reciprocal_radius=RADIUS, max_excitation_error=MAX_ERROR, with_direct_beam=False
            ).coordinates
            spots.append(np.column_stack([found.data[:, :2], found.intensity]))
        ours, mirrored = spots
        expected = np.column_stack([*frames.mirror(ours[:, 0], ours[:, 1]), ours[:, 2]])
        assert len(expected) == len(mirrored) > 2
        distance = np.linalg.norm((expected[:, None] - mirrored[None]) / [1, 1, mirrored[:, 2].max()], axis=2)
        assert distance.min(axis=1).max() < 1e-3
        # and not of the crystal as it was
        other = np.linalg.norm(expected[:, None, :2] - ours[None, :, :2], axis=2)
        assert other.min(axis=1).max() > 0.05


def test_euler_angles_are_those_of_orix():
    q = torch.nn.functional.normalize(random_quaternions(200, seed=3), dim=-1)
    angles = torch.stack(frames.quaternion_to_euler(*q.unbind(-1)), dim=-1)
    expected = Rotation(q.numpy()).to_euler()
    difference = np.abs(expected - angles.numpy())
    np.testing.assert_allclose(np.minimum(difference, 2 * np.pi - difference), 0, atol=1e-9)
    back = torch.stack(frames.euler_to_quaternion(*angles.unbind(-1)), dim=-1)
    np.testing.assert_allclose((back * q).sum(-1).abs(), 1, atol=1e-12)


@pytest.mark.parametrize("turn", [0, 37, 90])
@pytest.mark.parametrize("flipped", [False, True])
def test_orientations_of_another_frame_come_into_ours(turn, flipped):
    # axes of the other frame in ours
    cos, sin = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    x = np.array([cos, sin, 0])
    y = np.array([-sin, cos, 0]) * (-1 if flipped else 1)
    axes = np.stack([x, y, np.cross(x, y)])
    ours = Rotation(random_quaternions(1, seed=4).numpy())
    theirs = ours.to_matrix()[0] @ axes.T
    back = Rotation.from_matrix(theirs[None]) * Rotation(frames.other_frame_quaternion(turn, flipped))
    np.testing.assert_allclose(back.to_matrix()[0], ours.to_matrix()[0], atol=1e-6)


@pytest.mark.parametrize("name", ["Al", "LiNiO2"])
def test_pattern_of_diffsims_flipped_is_ours(name):
    p, size, scale = phase(name), 96, 0.025
    for quaternion in random_quaternions(3, seed=1):
        simulation = SimulationGenerator(200).calculate_diffraction2d(
            p, Rotation(quaternion.numpy()), reciprocal_radius=1.2 * RADIUS, max_excitation_error=MAX_ERROR
        )
        drawn = simulation.get_diffraction_pattern(
            (size, size),
            sigma=1.5,
            calibration=scale,
            fast=False,
            clip_threshold=1e-9,
            direct_beam_position=(48, 47),
        )
        drawn = np.flipud(drawn)
        calibration = frames.Calibration((scale, scale), (48, 48), (size, size), 200)
        crystal = reflections(p, 1.2 * RADIUS)
        lab = lab_positions(crystal, quaternion)
        error = frames.excitation_error(*lab.T, calibration.wavelength)
        intensity = crystal.structure_factor.numpy() ** 2 / (1 + (np.pi * error / MAX_ERROR) ** 2)
        row, column = frames.k_to_pixel(lab[:, 0], lab[:, 1], calibration)
        y, x = np.indices((size, size))
        ours = np.zeros((size, size))
        for i in np.flatnonzero(np.abs(error) < MAX_ERROR):
            ours += intensity[i] * np.exp(-((y - row[i]) ** 2 + (x - column[i]) ** 2) / 2 / 1.5**2)
        outside = np.hypot(y - 48, x - 48) > 8  # the direct beam is not ours
        assert np.corrcoef(ours[outside], drawn[outside])[0, 1] > 0.999


def test_first_euler_angle_turns_the_spots():
    crystal = reflections(phase("LiNiO2"), RADIUS)
    euler = np.array([30.0, 40.0, 50.0])
    before, after = (
        lab_positions(crystal, torch.from_numpy(Rotation.from_euler(e, degrees=True).data[0]))
        for e in (euler, euler + [10, 0, 0])
    )
    turned = (before[:, 0] + 1j * before[:, 1]) * np.exp(1j * np.deg2rad(10))
    np.testing.assert_allclose(after[:, 0] + 1j * after[:, 1], turned, atol=1e-6)
    np.testing.assert_allclose(after[:, 2], before[:, 2], atol=1e-6)


def test_in_plane_quaternion_acts_from_the_right():
    rotation = Rotation.from_euler([[30, 40, 50]], degrees=True)
    turned = rotation * Rotation(np.array(frames.in_plane_quaternion(np.deg2rad(10))))
    np.testing.assert_allclose(np.rad2deg(turned.to_euler()), [[40, 40, 50]], atol=1e-6)


def test_in_plane_angle_undoes_in_plane_quaternion():
    angle = torch.linspace(-3, 3, 7)
    w, _, _, z = frames.in_plane_quaternion(angle)
    torch.testing.assert_close(frames.in_plane_angle(w, z), angle)


def test_zero_order_patterns_are_blind_to_half_a_turn():
    # [001]: all zero-order reflections have their mates opposite
    crystal = reflections(phase("Al"), 1.0)
    zero_order = crystal.g[crystal.hkl[:, 2] == 0].numpy()
    turned = np.concatenate([-zero_order[:, :2], zero_order[:, 2:]], axis=1)
    assert {tuple(np.round(g, 5)) for g in zero_order + 0.0} == {tuple(np.round(g, 5) + 0.0) for g in turned}


@pytest.mark.parametrize("beam_energy", [60.0, 200.0, 300.0])
def test_wavelength_is_that_of_diffsims(beam_energy):
    assert frames.electron_wavelength(beam_energy) == pytest.approx(get_electron_wavelength(beam_energy), rel=1e-5)


def test_interaction_parameter_of_williams_and_carter():
    # Al 111 at 100 kV: extinction distance 556 Å for the X-ray-like |F|, see their table 13.2
    assert frames.interaction_parameter(100) == pytest.approx(0.037014 * (1 + 100 / 511), rel=1e-4)


def test_excitation_error_in_disk_is_that_of_a_tilted_beam():
    wavelength = frames.electron_wavelength(200)
    radius = 1 / wavelength
    rng = np.random.default_rng(0)
    kx, ky = rng.uniform(-1, 1, (2, 50))
    kz = rng.uniform(-0.02, 0.02, 50)
    qx, qy = rng.uniform(-0.06, 0.06, (2, 50))
    # the beam (qx, qy, -sqrt(radius^2 - q^2)) ends in the origin: the sphere's centre is where it begins
    center_z = np.sqrt(radius**2 - qx**2 - qy**2)
    sphere_z = center_z - np.sqrt(radius**2 - (kx + qx) ** 2 - (ky + qy) ** 2)
    error = frames.excitation_error(kx, ky, kz, wavelength)
    ours = frames.excitation_error_in_disk(error, kx, ky, qx, qy, wavelength)
    np.testing.assert_allclose(ours, sphere_z - kz, atol=3e-5)
    assert np.abs(ours - error).max() > 1e-3


def test_a_tilt_of_the_crystal_is_a_direction_of_the_beam():
    wavelength = frames.electron_wavelength(200)
    kx, ky, error = np.random.default_rng(0).uniform(-1, 1, (3, 50))
    for tilt in ((2e-3, 0.0), (0.0, 2e-3), (1e-3, -3e-3)):
        x, y = frames.direction_of_tilt(*tilt)
        of_beam = frames.excitation_error_in_disk(error, kx, ky, x / wavelength, y / wavelength, wavelength)
        np.testing.assert_allclose(of_beam, frames.excitation_error_after_tilt(error, kx, ky, *tilt))


def test_pixels_and_back():
    calibration = frames.Calibration((0.02, 0.03), (30.0, 40.0), (64, 80))
    kx, ky = frames.pixel_to_k(29.0, 42.0, calibration)
    assert (kx, ky) == pytest.approx((0.06, 0.02))  # right is +kx, up is +ky
    assert frames.k_to_pixel(kx, ky, calibration) == pytest.approx((29, 42))
    assert frames.pixel_to_k(29.0, 42.0, calibration, (29, 42)) == pytest.approx((0, 0))


def test_beam_shift_of_pyxem(rng):
    import hyperspy.api as hs

    data = np.zeros((2, 32, 40))
    data[0, 20, 12] = data[1, 13, 25] = 1
    s = hs.signals.Signal2D(data)
    s.set_signal_type("electron_diffraction")
    shift = s.get_direct_beam_position(method="center_of_mass")
    calibration = frames.Calibration((0.1, 0.1), (16, 20), (32, 40))
    np.testing.assert_allclose(frames.beam_shift_to_center(shift.data, calibration), [[20, 12], [13, 25]], atol=1e-6)


def make_signal(units, scale=0.02, offset=-0.64, shape=(64, 60), beam_energy=200.0):
    import hyperspy.api as hs

    s = hs.signals.Signal2D(np.zeros((3, *shape), dtype=np.uint16))
    s.set_signal_type("electron_diffraction")
    for axis in s.axes_manager.signal_axes:
        axis.scale, axis.offset = scale, offset
        if units is not None:
            axis.units = units
    if beam_energy:
        s.set_experimental_parameters(beam_energy=beam_energy)
    return s


@pytest.mark.parametrize(
    "units, factor",
    [
        ("$A^{-1}$", 1),
        (r"$\AA^{-1}$", 1),
        (r"$\mathrm{\AA^{-1}}$", 1),
        ("1/Å", 1),
        ("1/A", 1),
        ("Å^-1", 1),
        ("Å⁻¹", 1),
        ("A^-1", 1),
        ("1 / angstrom", 1),
        ("k_A^-1", 1),
        ("1/nm", 0.1),
        ("nm^-1", 0.1),
        ("nm⁻¹", 0.1),
        ("$nm^{-1}$", 0.1),
        ("k_nm^-1", 0.1),
        ("mrad", 1e-3 / 0.025079),
        ("rad", 1 / 0.025079),
        ("deg", np.pi / 180 / 0.025079),
    ],
)
def test_units_of_real_files(units, factor):
    calibration = frames.Calibration.from_signal(make_signal(units))
    assert calibration.scale == pytest.approx((0.02 * factor, 0.02 * factor), rel=1e-4)
    assert calibration.center == pytest.approx((32, 32))
    assert calibration.shape == (64, 60)
    assert calibration.beam_energy == 200


@pytest.mark.parametrize(
    "units, match",
    [
        (None, "not calibrated .*s.calibration.scale"),
        ("px", "not calibrated"),
        ("nm", "real space .* looks like an image"),
        ("Å", "real space"),
        ("cm", "'cm' of the signal axes is not understood.*s.calibration.scale"),
        ("Angle", "'Angle' of the signal axes is not understood"),
    ],
)
def test_units_that_say_nothing(units, match):
    with pytest.raises(ValueError, match=match):
        frames.Calibration.from_signal(make_signal(units))


def test_angles_need_the_beam_energy():
    s = make_signal("mrad", beam_energy=None)
    with pytest.raises(ValueError, match="needs the beam energy.*beam_energy=.*metadata.set_item"):
        frames.Calibration.from_signal(s)
    assert frames.Calibration.from_signal(s, 200).beam_energy == 200


def test_wavelength_without_beam_energy_says_what_to_do():
    calibration = frames.Calibration.from_signal(make_signal("1/Å", beam_energy=None))
    with pytest.raises(ValueError, match="beam energy is unknown. Give `beam_energy="):
        _ = calibration.wavelength


def test_axes_that_were_never_centred_have_the_beam_in_the_middle():
    assert frames.Calibration.from_signal(make_signal("1/Å", offset=0)).center == (32, 30)


def test_scale_must_be_positive():
    with pytest.raises(ValueError, match="scale 0"):
        frames.Calibration.from_signal(make_signal("1/Å", scale=0))
    with pytest.raises(ValueError, match="must be positive.*flip the data"):
        frames.Calibration.from_signal(make_signal("1/Å", scale=-0.02))


def test_other_dimensions_are_refused():
    import hyperspy.api as hs

    with pytest.raises(ValueError, match="this signal has 1.*transpose"):
        frames.Calibration.from_signal(hs.signals.Signal1D(np.zeros((4, 5))))


def test_reciprocal_radius_is_the_nearest_edge():
    assert frames.Calibration((0.1, 0.2), (3, 5), (10, 20)).reciprocal_radius == pytest.approx(0.35)
    assert frames.Calibration((0.1, 0.1), (3, 18), (10, 20)).reciprocal_radius == pytest.approx(0.15)


def test_calibration_replace():
    assert frames.Calibration((1, 1), (0, 0), (2, 2)).replace(beam_energy=80.0).beam_energy == 80


def test_out_of_plane_is_the_third_component_of_a_reciprocal_vector():
    wavelength = frames.electron_wavelength(200)
    g = np.random.default_rng(0).normal(size=(50, 3))
    error = frames.excitation_error(*g.T, wavelength)
    np.testing.assert_allclose(frames.out_of_plane(g[:, 0], g[:, 1], error, wavelength), g[:, 2], atol=1e-12)


def test_interaction_constant_of_kirkland():
    # 0.0007288 rad / (V Å) at 200 kV, 0.0009244 at 100 kV
    assert 1 / electrons.potential_per_radian(200) == pytest.approx(7.288e-4, rel=1e-3)
    assert 1 / electrons.potential_per_radian(100) == pytest.approx(9.244e-4, rel=1e-3)


def test_small_tilts_move_excitation_errors_zone_axes_and_the_laue_circle_alike():
    from pyxem_dl.crystals import near_ewald_sphere
    from pyxem_dl.rotations import exponential, multiply, random_rotations, to_matrix

    wavelength, tilt = 0.02508, torch.tensor([0.004, -0.007, 0.0], dtype=torch.float64)
    rotation = random_rotations(1, torch.Generator().manual_seed(0)).double()
    g = torch.randn(50, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.6
    lab, before, _ = near_ewald_sphere(g, rotation, wavelength, 1.0)
    _, after, _ = near_ewald_sphere(g, multiply(rotation, exponential(tilt)), wavelength, 1.0)
    first_order = frames.excitation_error_after_tilt(before, lab[..., 0], lab[..., 1], *tilt[:2])
    assert (after - first_order).abs().max() < 5e-4 and (after - before).abs().max() > 5e-3
    # the axis that was along the beam, where it is now
    axis = to_matrix(rotation)[0, :, 2]
    now = to_matrix(multiply(rotation, exponential(tilt)))[0].T @ axis
    x, y = frames.zone_axis_after_tilt(*tilt[:2])
    np.testing.assert_allclose(now[:2], (x, y), atol=1e-4)
    # reflections of that zone are excited on the Laue circle
    center = np.array(frames.laue_circle_center(*now[:2].numpy(), wavelength))
    angle = np.linspace(0, 6, 9)
    k = center + np.hypot(*center) * np.stack([np.cos(angle), np.sin(angle)], -1)
    q_z = -(k @ now[:2].numpy()) / float(now[2])
    np.testing.assert_allclose(frames.excitation_error(*k.T, q_z, wavelength), 0, atol=1e-4)
