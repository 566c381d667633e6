"""Quartets against known answers: potentials in volts, signs of q_z, what is drawn, and the images."""

import itertools
import math

import numpy as np
import pytest
import torch
from diffpy.structure import Atom, Lattice, Structure
from diffsims.crystallography._diffracting_vector import DiffractingVector
from diffsims.generators.simulation_generator import SimulationGenerator
from orix.crystal_map import Phase
from orix.quaternion import Rotation
from orix.vector import Miller, Vector3d
from sample_phases import phase

from pyxem_dl import crystals
from pyxem_dl.crystals import load_phases
from pyxem_dl.electrons import POTENTIAL, electron_wavelength, potential_per_radian
from pyxem_dl.frames import k_to_pixel
from pyxem_dl.quartets import engines
from pyxem_dl.quartets.engines import EDGE, ManyBeamEngine, MultisliceEngine, make_engine
from pyxem_dl.quartets.settings import Drawn, Settings, draw, phase_ids
from pyxem_dl.quartets.truth import Disks, disk_images, in_lab, miller_indices
from pyxem_dl.simulation.cells import tilted, zone_axis_rotation
from pyxem_dl.simulation.many_beam import ManyBeam

#: Small and quick
QUICK = {"pixels": 96, "reciprocal_radius": 1.2, "semi_angle": (1.2, 2.0), "thickness": (40, 300)}


@pytest.fixture(scope="module")
def quartz():
    """Alpha quartz, P3_221, which has no inversion centre."""
    atoms = [Atom("Si", [0.4697, 0, 0]), Atom("O", [0.4135, 0.2669, 0.1191])]
    lattice = Lattice(4.913, 4.913, 5.405, 90, 90, 120)
    return load_phases(Phase("quartz", space_group=154, structure=Structure(atoms, lattice)))[0]


@pytest.fixture(scope="module")
def silicon():
    cell = Structure([Atom("Si", [0, 0, 0])], Lattice(*(5.431,) * 3, *(90,) * 3))
    return load_phases(Phase("Si", space_group=227, structure=cell))[0]


# ---------------------------------------------------------------- potentials
@pytest.mark.parametrize(
    "name, hkl, distance",
    # extinction distances at 100 kV in Angstrom: Hirsch et al., Electron Microscopy of Thin Crystals, table 4
    [("Al", (1, 1, 1), 556), ("Al", (2, 0, 0), 673), ("Al", (2, 2, 0), 1057), ("Si", (1, 1, 1), 602),
     ("Si", (2, 2, 0), 757)],
)  # fmt: skip
def test_potentials_are_those_of_published_extinction_distances(name, hkl, distance, silicon):
    crystal = ManyBeam(silicon if name == "Si" else phase("Al"), 100.0, 1.0, debye_waller=0)
    published = math.pi * potential_per_radian(100.0) / distance
    assert abs(crystal.potential(np.array(hkl))) == pytest.approx(published, rel=0.05)


def test_potentials_of_a_trigonal_crystal_are_sums_over_its_atoms(quartz):
    """By hand, with the scattering factors of abTEM's file of Lobato and Van Dyck where it is there."""
    hkl = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 2], [-1, -1, -2], [2, -1, 3]])
    b = 0.7
    found = ManyBeam(quartz, 200.0, 1.2, debye_waller=b).potential(hkl)
    lattice = quartz.structure.lattice
    g = np.linalg.norm(hkl @ lattice.recbase.T, axis=1)
    abtem = pytest.importorskip("abtem.parametrizations", reason="needs the extra multislice")
    table = abtem.LobatoParametrization()
    # abTEM: V Å³ in projection, so that over the cell's volume it is a Fourier coefficient in volts
    factor = {element: table.projected_scattering_factor(element)(g**2) for element in ("Si", "O")}
    xyz = crystals.fractional_coordinates(quartz.structure)
    expected = sum(
        factor[atom.element] * np.exp(2j * np.pi * (hkl @ place)) for atom, place in zip(quartz.structure, xyz)
    )
    expected = expected * np.exp(-b * g**2 / 4) / lattice.volume
    np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_friedel_pairs_of_the_potential_are_conjugate_and_quartz_is_no_mirror(quartz):
    crystal = ManyBeam(quartz, 200.0, 1.0)
    hkl = np.array([[1, 0, 1], [1, 0, 2], [2, 1, 1], [1, 2, 3]])
    np.testing.assert_allclose(crystal.potential(-hkl), crystal.potential(hkl).conj(), atol=1e-5)
    assert abs(crystal.potential([1, 0, 2])) != pytest.approx(abs(crystal.potential([0, 1, 2])), rel=0.1)  # 3-fold only
    factors = crystals.structure_factors(quartz, (2, 2, 3), 0.5)
    volts = POTENTIAL / quartz.structure.lattice.volume * factors[tuple((hkl + [2, 2, 3]).T)]
    np.testing.assert_allclose(crystal.potential(hkl), volts, rtol=1e-5)


@pytest.mark.parametrize("energy", [80.0, 300.0])
def test_another_beam_energy_is_another_crystal(energy):
    made, changed = ManyBeam(phase("LiNiO2"), energy, 1.0), ManyBeam(phase("LiNiO2"), 200.0, 1.0)
    rotations, thickness = torch.as_tensor(Rotation.random(4).data, dtype=torch.float32), torch.full((4,), 120.0)
    ours, theirs = (crystal(rotations, thickness, 0.05) for crystal in (changed.with_beam_energy(energy), made))
    # which faint beams take part, and in which order they come, may differ
    for i in range(4):
        found, expected = ({tuple(np.round([float(kx), float(ky)], 4)): image for kx, ky, image in zip(
            beams.kx[i], beams.ky[i], beams.intensity[i])} for beams in (ours, theirs))  # fmt: skip
        bright = [place for place, image in expected.items() if image.mean() > 1e-3]
        assert len(bright) > 1 and set(bright) <= set(found)
        for place in bright:
            torch.testing.assert_close(found[place], expected[place], atol=1e-4, rtol=0.02)
    assert changed.with_beam_energy(200.0) is changed
    assert changed.beam_energy == 200.0  # it is as it was
    np.testing.assert_allclose(
        changed.with_beam_energy(energy).potential([1, 0, 4]), changed.potential([1, 0, 4]), rtol=1e-5
    )


# ---------------------------------------------------------------- q_z and excitation errors
@pytest.mark.parametrize("name", ["Al", "LiNiO2", "quartz"])
def test_places_and_excitation_errors_are_those_of_diffsims(name, quartz, request):
    crystal = quartz if name == "quartz" else phase(name)
    generator = SimulationGenerator(200, shape_factor_model=lambda error, width: error)
    vectors = DiffractingVector.from_min_dspacing(crystal, min_dspacing=1 / 1.2, include_zero_vector=False)
    for rotation in Rotation.random(4):
        found, hkl, error = generator.get_intersecting_reflections(
            vectors, rotation, generator.wavelength, 0.1, with_direct_beam=False
        )
        ours = in_lab(np.round(hkl), crystal, rotation.data[0], 200.0)
        np.testing.assert_allclose(np.stack([ours["kx"], ours["ky"], ours["q_z"]], axis=1), found.data, atol=1e-5)
        np.testing.assert_allclose(ours["excitation_error"], error, atol=1e-5)
        back = miller_indices(ours["kx"], ours["ky"], ours["excitation_error"], crystal, rotation.data[0], 200.0)
        np.testing.assert_array_equal(back, np.round(hkl))


@pytest.mark.parametrize("name", ["Al", "LiNiO2", "quartz"])
def test_orix_turns_reciprocal_vectors_as_we_do(name, quartz):
    crystal = quartz if name == "quartz" else phase(name)
    rotation = Rotation.from_euler([31, 62, 17], degrees=True)
    hkl = np.array([[1, 0, 4], [0, -1, 1], [2, -1, 3]])
    lab = (~rotation * Vector3d(Miller(hkl=hkl, phase=crystal).data)).data
    ours = in_lab(hkl, crystal, rotation.data[0], 120.0)
    np.testing.assert_allclose(np.stack([ours["kx"], ours["ky"], ours["q_z"]], axis=1), lab, atol=1e-9)


@pytest.mark.parametrize("name, axis", [("Al", (1, 1, 2)), ("LiNiO2", (0, 0, 1)), ("quartz", (1, 0, 0))])
def test_a_tilt_moves_reflections_up_on_one_side(name, axis, quartz):
    """A zone axis that leans towards +x: reflections there go down, away from the source, by the sine of the tilt."""
    crystal = quartz if name == "quartz" else phase(name)
    tilt, azimuth = 1.5, 40.0
    rotation = tilted(zone_axis_rotation(crystal, axis, 25.0), tilt, azimuth)
    hkl = crystals.reflections(crystal, 0.8).hkl
    zone = hkl[hkl @ np.array(axis) == 0]
    found = in_lab(zone, crystal, rotation, 200.0)
    direction = np.deg2rad(azimuth)
    along = found["kx"] * np.cos(direction) + found["ky"] * np.sin(direction)
    np.testing.assert_allclose(found["q_z"], -along * np.tan(np.deg2rad(tilt)), atol=1e-9)
    # and these are nearer to the Ewald sphere, which bends up, on the other side
    assert np.corrcoef(found["excitation_error"], along)[0, 1] > 0.9


# ---------------------------------------------------------------- what is drawn
def test_what_is_drawn_is_known_for_ever():
    """Typed in: a set that was begun today goes on tomorrow."""
    found = draw(12345, Settings(beam_energy=(80, 300), seed=7), [phase("Al"), phase("MgO"), phase("LiNiO2")])
    assert found.phase_id == 2
    known = [0.06471544841484556, -0.051181985026087666, -0.09928882503421027, -0.9916320105606621]
    np.testing.assert_allclose(found.rotation, known, atol=1e-9)
    numbers = found.thickness, found.beam_energy, found.semi_angle
    np.testing.assert_allclose(numbers, (154.79838906205916, 296.7464293330553, 3.1875988334098033), rtol=1e-9)
    np.testing.assert_allclose(found.origin, [0.5942793809802832, 0.7218291595262216, 0.579589401399642], rtol=1e-9)


def test_draws_fill_their_ranges_evenly():
    settings = Settings(thickness=(20, 1000), tilt=(0.5, 2), semi_angle=(1, 4), beam_energy=(80, 300), seed=1)
    al = phase("Al")
    drawn = [draw(i, settings, [al]) for i in range(600)]
    for values, low, high in (
        (np.log([d.thickness for d in drawn]), math.log(20), math.log(1000)),
        (np.log([d.semi_angle for d in drawn]), 0, math.log(4)), ([d.beam_energy for d in drawn], 80, 300),
        (np.stack([d.origin for d in drawn]).ravel(), 0, 1),
    ):  # fmt: skip
        share = (np.asarray(values) - low) / (high - low)
        assert 0 <= share.min() < 0.02 and 0.98 < share.max() <= 1
        assert abs(share.mean() - 0.5) < 0.05 and abs(share.std() - 12**-0.5) < 0.03
    # how far the source's direction is from the nearest [uvw], and to where it leans
    axes = np.array([uvw for uvw in itertools.product(range(-2, 3), repeat=3) if any(uvw)])
    axes = np.unique(np.round(axes / np.linalg.norm(axes, axis=1, keepdims=True), 9), axis=0)
    source = (Rotation([d.rotation for d in drawn]) * Vector3d.zvector()).data
    tilt = np.degrees(np.arccos(np.clip((source @ axes.T).max(axis=1), -1, 1)))
    assert 0.5 - 1e-6 <= tilt.min() and tilt.max() <= 2 + 1e-6 and abs(tilt.mean() - 1.25) < 0.06
    nearest = (source @ axes.T).argmax(axis=1)
    assert len(np.unique(nearest)) > 0.95 * len(axes)
    lean = (~Rotation([d.rotation for d in drawn]) * Vector3d(axes[nearest])).data[:, :2]
    assert np.linalg.norm((lean / np.linalg.norm(lean, axis=1, keepdims=True)).mean(axis=0)) < 0.1


def test_random_orientations_cover_all():
    settings = Settings(orientations="random")
    drawn = Rotation([draw(i, settings, [phase("Al")]).rotation for i in range(800)])
    np.testing.assert_allclose(np.linalg.norm(drawn.data, axis=1), 1, atol=1e-12)
    for axis in (Vector3d.xvector(), Vector3d.zvector()):
        turned = (drawn * axis).data
        np.testing.assert_allclose(turned.mean(axis=0), 0, atol=0.07)
        np.testing.assert_allclose((turned[:, :, None] * turned[:, None]).mean(axis=0), np.eye(3) / 3, atol=0.05)


@pytest.mark.parametrize("n_phases", [1, 3, 200, 1000])
def test_phases_come_equally_often(n_phases):
    ids = phase_ids(np.arange(20 * n_phases * max(1, 256 // n_phases)), 0, n_phases)
    assert np.ptp(np.bincount(ids, minlength=n_phases)) == 0
    later = np.arange(777, 1777)
    np.testing.assert_array_equal(phase_ids(later, 0, n_phases), phase_ids(np.arange(1777), 0, n_phases)[777:])
    if n_phases > 1:
        assert (phase_ids(later, 1, n_phases) != phase_ids(later, 0, n_phases)).mean() > 0.3


@pytest.mark.parametrize("given, match", [
    ({"thickness": 0.5}, "thickness must be a number from 1 to 5000"),
    ({"thickness": (20, 6000)}, "thickness must be a number from 1 to 5000, not 6000"),
    ({"thickness": (500, 100)}, r"thickness must be \(smallest, largest\)"),
    ({"thickness": (1, 2, 3)}, "thickness must be a number or a pair"),
    ({"thickness": "thin"}, "thickness must be a number or a pair"),
    ({"thickness": float("nan")}, "thickness must be a number from"),
    ({"beam_energy": 20}, "beam_energy must be a number from 30 to 1000"),
    ({"beam_energy": 200_000}, "beam_energy must be a number from 30 to 1000"),
    ({"beam_energy": "2 V"}, "is not the beam energy of a microscope"),
    ({"semi_angle": 0}, "semi_angle must be a number from 0.1 to 50"),
    ({"semi_angle": 0.2}, "The smallest disks have a radius of .* Give more pixels"),
    ({"semi_angle": 40}, "The largest disks .* Give a smaller semi_angle"),
    ({"tilt": (-1, 1)}, "tilt must be a number from 0 to 90"),
    ({"orientations": "all"}, "orientations must be 'zone-axes' or 'random', not 'all'"),
    ({"engine": "bloch"}, "engine must be 'many-beam' or 'multislice'"),
    ({"pixels": 8}, "pixels must be a whole number of at least 16"),
    ({"pixels": 10**6}, "pixels must be a whole number of at most 2048"),
    ({"reciprocal_radius": 100}, "reciprocal_radius must be a number from 0.1 to 5"),
    ({"debye_waller": -1}, "debye_waller must be"),
    ({"seed": -1}, "seed must be a whole number"),
])  # fmt: skip
def test_settings_outside_of_their_bounds_are_refused(given, match):
    with pytest.raises((ValueError, TypeError), match=match):
        Settings(**given)


def test_settings_come_back_as_they_were():
    settings = Settings(beam_energy="300 kV", thickness=120, seed=3)
    assert settings.beam_energy == (300.0, 300.0) and settings.thickness == (120.0, 120.0)
    assert Settings.from_dict(settings.to_dict()) == settings
    assert settings.calibration.beam_energy == 300.0 and Settings(beam_energy=(80, 300)).calibration.beam_energy is None
    with pytest.raises(ValueError, match="the settings must be"):
        Settings.from_dict({"thickness": 3})


# ---------------------------------------------------------------- one quartet
@pytest.mark.parametrize("name", ["Al", "LiNiO2"])
def test_disks_are_where_the_table_says_and_hold_its_electrons(name):
    settings = Settings(**QUICK, orientations="random")
    crystal = phase(name)
    engine = make_engine([crystal], settings)
    ratios = []
    for index in range(4):
        drawn = draw(index, settings, [crystal])
        found, disks = engine(drawn), engine(drawn).disks
        radius = settings.disk_radius(drawn.semi_angle, 200.0) / settings.calibration.scale[0]
        row, column = k_to_pixel(disks.kx, disks.ky, settings.calibration)
        y, x = np.indices(settings.calibration.shape)
        distance = np.hypot(row[:, None] - row, column[:, None] - column) + 1e9 * np.eye(len(row))
        within = np.minimum(np.minimum(row, column), 95 - np.maximum(row, column)) > radius + 2
        others = (disks.intensity * (distance < 2 * radius + 3)).sum(axis=1)
        alone = within & (others < 0.01 * disks.intensity) & (disks.intensity > 1e-6)
        for i in np.flatnonzero(alone):
            near = np.hypot(y - row[i], x - column[i]) < radius + 1.5
            ratios.append(found.pattern[near].sum() / disks.intensity[i])
            outside = near & (np.hypot(y - row[i], x - column[i]) > radius + 2.5 * EDGE)
            assert found.pattern[outside].sum() < 0.02 * found.pattern[near].sum()
        assert found.probe.sum() == pytest.approx(1, abs=1e-5)
        assert found.pattern.min() >= 0 and found.pattern.sum() < 1.01
        assert not disks.hkl[0].any() and disks.kx[0] == disks.q_z[0] == 0
    assert len(ratios) > 12
    # a disk of few pixels, bright at its edge only, is not quite that of the table
    np.testing.assert_allclose(ratios, 1, atol=0.15)
    assert np.median(ratios) == pytest.approx(1, abs=0.02)


def test_a_thin_crystal_scatters_as_its_potential_times_thickness():
    """In the first Born approximation a disk at its Bragg condition has the square of potential x thickness x sigma."""
    crystal, thickness = phase("LiNiO2"), 8.0
    rotation = zone_axis_rotation(crystal, (0, 0, 1), 10.0)
    settings = Settings(**{**QUICK, "thickness": thickness, "semi_angle": 1.2})
    found = make_engine([crystal], settings)(Drawn(0, rotation, thickness, 200.0, 1.2, np.zeros(3)))
    disks = found.disks
    phase_shift = np.abs(disks.v_g) * found.thickness / potential_per_radian(200.0)
    # fainter ones are as much scattered twice
    bright = (disks.intensity > 1e-4) & disks.hkl.any(axis=1)
    assert bright.sum() >= 12
    expected = (phase_shift * np.sinc(thickness * disks.excitation_error)) ** 2
    np.testing.assert_allclose(disks.intensity[bright], expected[bright], rtol=0.06)


def test_images_are_those_of_the_table_and_the_brightest_is_on_top():
    settings = Settings(**QUICK)
    calibration, radius = settings.calibration, 0.08
    hkl = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0], [0, 0, 0]])
    disks = Disks(
        hkl, np.array([0, 0.3, 0.4, -1.2, 0.9]), np.array([0, 0.3, 0.3, 0.0, 0.9]), np.zeros(5),
        np.array([0, 0.01, -0.02, 0.03, 7]), np.array([20, 3 + 4j, -2, 1, 99]), np.array([0.5, 0.01, 0.2, 0.1, 9]),
        np.array([True] * 4 + [False]),
    )  # fmt: skip
    potential, q_z = disk_images(disks, 50.0, radius, calibration)
    row, column = (np.rint(x).astype(int) for x in k_to_pixel(disks.kx, disks.ky, calibration))
    assert potential[row[1], column[1]] == 5 * 50 and q_z[row[1], column[1]] == np.float32(0.01)
    assert potential[row[2], column[2]] == 2 * 50 and q_z[row[2], column[2]] == np.float32(-0.02)
    middle = (column[1] + column[2]) // 2  # in both disks
    assert potential[row[1], middle] == 2 * 50
    assert potential[48, 0] == 50 and potential[48, 48] == 0  # cut by the edge; the direct beam
    assert sorted(np.unique(potential)) == [0, 50, 100, 250]
    y, x = np.indices(potential.shape)
    inside = np.hypot(y - row[2], x - column[2]) <= radius / calibration.scale[0]
    np.testing.assert_array_equal(potential == 100, inside)
    # +ky is up
    assert row[1] < 48 < column[1]


def test_each_pattern_is_computed_alone(silicon):
    """The same bits, whatever was computed before."""
    settings = Settings(**QUICK)
    phases = [phase("LiNiO2"), silicon]
    first, second = make_engine(phases, settings), make_engine(phases, settings)
    for i in (5, 1, 3):
        second(draw(i, settings, phases))
    drawn = draw(1, settings, phases)
    for ours, theirs in zip(first(drawn).disks, second(drawn).disks):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(first(drawn).pattern, second(drawn).pattern)


def test_crystals_that_have_no_room_are_made_again(monkeypatch):
    phases = [phase(name) for name in ("Al", "MgO", "LiNiO2")]
    small, large = (make_engine(phases, Settings(**QUICK)) for _ in range(2))
    monkeypatch.setattr(engines, "MOST_BYTES", 1)
    for i in (0, 1, 2, 0):
        small.crystal(i)
        assert list(small._crystals) == [i]
    monkeypatch.undo()
    for i in (0, 1, 2, 0):
        assert large.crystal(i) is large.crystal(i)
    assert list(large._crystals) == [1, 2, 0]


# ---------------------------------------------------------------- the referee
def test_without_abtem_multislice_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "abtem", None)
    with pytest.raises(ImportError, match=r"pip install .*multislice"):
        make_engine([phase("Al")], Settings(**QUICK, engine="multislice"))


@pytest.mark.parametrize("given, match", [
    ({"semi_angle": (0.3, 1), "reciprocal_radius": 0.5}, "needs a box of .* take the many-beam engine"),
    ({"semi_angle": (0.5, 1), "reciprocal_radius": 0.8, "thickness": (20, 5000)}, "at most 2e.07 .* larger semi_angle"),
])  # fmt: skip
def test_what_multislice_cannot_do_is_said_before(given, match):
    pytest.importorskip("abtem", reason="needs the extra multislice")
    with pytest.raises(ValueError, match=match):
        make_engine([phase("Al"), phase("LiNiO2")], Settings(**{**QUICK, **given}, engine="multislice"))


@pytest.mark.parametrize("name", ["Al", "LiNiO2"])
def test_both_engines_give_one_result(name):
    """And the signs are right: a crystal that is tilted the other way looks otherwise."""
    pytest.importorskip("abtem", reason="needs the extra multislice")
    crystal = phase(name)
    settings = Settings(**{**QUICK, "semi_angle": 1.5}, engine="multislice")
    rotation = tilted(zone_axis_rotation(crystal, (0, 0, 1), 20.0), 1.0, 70.0)
    other = tilted(zone_axis_rotation(crystal, (0, 0, 1), 20.0), 1.0, 250.0)
    drawn = Drawn(0, rotation, 60.0, 200.0, 1.5, np.array([0.1, 0.2, 0.3]))
    sliced = MultisliceEngine([crystal], settings)(drawn)
    beams, wrong = (ManyBeamEngine([crystal], settings)(drawn._replace(rotation=r)) for r in (rotation, other))
    assert sliced.pattern.shape == beams.pattern.shape and sliced.thickness == beams.thickness == 60.0
    assert sliced.pattern.sum() == pytest.approx(beams.pattern.sum(), rel=0.02)
    np.testing.assert_array_equal(sliced.disks.hkl, beams.disks.hkl)
    bright = (beams.disks.intensity > 1e-4) & beams.disks.hkl.any(axis=1)

    def correlation(found):
        return np.corrcoef(np.sqrt(sliced.disks.intensity[bright]), np.sqrt(found.disks.intensity[bright]))[0, 1]

    at = {tuple(h): i for i, h in enumerate(wrong.disks.hkl.tolist())}
    there = [at.get(tuple(h)) for h in beams.disks.hkl.tolist()]
    mirrored = np.array([0 if i is None else wrong.disks.intensity[i] for i in there])
    wrong = wrong._replace(disks=wrong.disks._replace(intensity=mirrored))
    assert bright.sum() > 5
    assert correlation(beams) > 0.9 > correlation(wrong) + 0.2
    assert np.isnan(beams.origin).all() and (sliced.origin == drawn.origin).all()
    assert electron_wavelength(200.0) == pytest.approx(0.02508, abs=1e-5)
