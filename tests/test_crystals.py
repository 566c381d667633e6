"""Structures in, reflections out: against sums over typed-in atoms, and against diffsims."""

import json

import numpy as np
import pytest
import torch
from diffpy.structure import Lattice, Structure
from diffsims.generators.simulation_generator import SimulationGenerator
from diffsims.utils.sim_utils import (
    get_atomic_scattering_factors,
    get_kinematical_intensities,
    get_vectorized_list_for_atomic_scattering_factors,
)
from orix.crystal_map import Phase, PhaseList
from orix.quaternion import Rotation
from sample_phases import STRUCTURES, cell_atoms, phase, raw_phase

from pyxem_dl.crystals import (
    fractional_coordinates,
    load_phases,
    near_ewald_sphere,
    phase_from_dict,
    phase_to_dict,
    reflections,
)
from pyxem_dl.electrons import electron_wavelength

MGO_CIF = """data_MgO
_cell_length_a 4.217
_cell_length_b 4.217
_cell_length_c 4.217
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M '{group}'
_symmetry_Int_Tables_number {number}
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
{atoms}
"""


def write_cif(path, atoms, number=225, group="F m -3 m"):
    path.write_text(MGO_CIF.format(atoms="\n".join(atoms), number=number, group=group))
    return path


def structure_factors(name, hkl):
    """Squared sums over all atoms of the cell, with Lobato's factors as diffsims gives them."""
    elements, xyz, occupancy, lattice = cell_atoms(name)
    structure = Structure(lattice=lattice)
    for element, position in zip(elements, xyz):
        structure.addNewAtom(element, position)
    coefficients, _, _, _ = get_vectorized_list_for_atomic_scattering_factors(structure, {}, "lobato")
    # the metric, written out
    a, b, c, alpha, beta, gamma = (np.deg2rad(v) if i > 2 else v for i, v in enumerate(lattice.abcABG()))
    ab, ac, bc = a * b * np.cos(gamma), a * c * np.cos(beta), b * c * np.cos(alpha)
    metric = np.linalg.inv([[a * a, ab, ac], [ab, b * b, bc], [ac, bc, c * c]])
    length = np.sqrt(np.einsum("ni,ij,nj->n", hkl, metric, hkl))
    scattering = get_atomic_scattering_factors(length**2, coefficients, "lobato")
    return length, np.abs((scattering * occupancy * np.exp(2j * np.pi * hkl @ xyz.T)).sum(1)) ** 2


@pytest.mark.parametrize("name", STRUCTURES)
def test_reflections_are_all_there_with_the_right_structure_factors(name):
    radius = 1.0
    found = reflections(phase(name), radius)
    everything = np.stack(np.meshgrid(*[np.arange(-16, 17)] * 3, indexing="ij"), -1).reshape(-1, 3)
    everything = everything[np.abs(everything).any(1)]
    lattice = cell_atoms(name)[3]
    everything = everything[np.linalg.norm(everything @ lattice.recbase.T, axis=1) < radius]
    length, squared = structure_factors(name, everything)
    allowed = squared > 1e-6 * squared.max()
    assert {tuple(hkl) for hkl in found.hkl} == {tuple(hkl) for hkl in everything[allowed]}
    length, squared = structure_factors(name, found.hkl)
    np.testing.assert_allclose(found.structure_factor**2, squared, rtol=1e-4, atol=1e-6 * squared.max())
    np.testing.assert_allclose(found.g.norm(dim=1), length, rtol=1e-5)
    assert (np.diff(found.structure_factor) <= 0).all()
    assert found.volume == pytest.approx(lattice.volume)


@pytest.mark.parametrize("name", STRUCTURES)
def test_intensities_are_those_of_diffsims(name):
    radius, p = 1.0, phase(name)
    generator = SimulationGenerator(200, shape_factor_model=lambda error, width: np.ones_like(error))
    rotation = Rotation.from_euler([20, 35, 50], degrees=True)
    simulation = generator.calculate_diffraction2d(
        p, rotation, reciprocal_radius=1.3 * radius, max_excitation_error=0.1, with_direct_beam=False
    )
    vectors = simulation.coordinates
    found = reflections(p, radius)
    lab = found.g @ np.float32(rotation.to_matrix()[0])
    # by their positions: rotated vectors of diffsims have forgotten their indices
    distance = np.linalg.norm(lab[:, None].numpy() - vectors.data[None], axis=2)
    i, j = np.nonzero(distance < 1e-4)
    assert len(i) > 5
    strong = vectors.intensity[j] > 1e-5 * vectors.intensity.max()
    ratio = found.structure_factor.numpy()[i] ** 2 / vectors.intensity[j]
    np.testing.assert_allclose(ratio[strong], 1, rtol=1e-3)
    squared = get_kinematical_intensities(p.structure, found.hkl, found.g.norm(dim=1).numpy())
    np.testing.assert_allclose(found.structure_factor**2, squared, rtol=1e-4)


def test_first_axis_lies_along_a_and_third_along_c_star():
    found = reflections(phase("LiNiO2"), 1.0)
    g = dict(zip(map(tuple, found.hkl), found.g.numpy()))
    np.testing.assert_allclose(g[(2, -1, 0)], [2 / 2.88, 0, 0], atol=1e-6)
    np.testing.assert_allclose(g[(1, 1, 0)], [1 / 2.88, np.sqrt(3) / 2.88, 0], atol=1e-6)
    np.testing.assert_allclose(g[(0, 0, 3)], [0, 0, 3 / 14.19], atol=1e-6)


def test_extinction_distance_of_aluminium():
    found = reflections(phase("Al"), 0.5)
    by_index = dict(zip(map(tuple, np.abs(found.hkl)), found.extinction_distance(100).tolist()))
    # Williams and Carter, table 13.2, from other scattering factors: 556 and 673 Å
    assert by_index[(1, 1, 1)] == pytest.approx(556, rel=0.05)
    assert by_index[(0, 0, 2)] == pytest.approx(673, rel=0.05)


def test_charges_are_stripped(tmp_path):
    atoms = ["Mg1 Mg2+ 0 0 0 1", "O1 O2- 0.5 0.5 0.5 1"]
    (loaded,) = load_phases(write_cif(tmp_path / "charged.cif", atoms))
    assert {atom.element for atom in loaded.structure} == {"Mg", "O"}
    assert loaded.space_group.number == 225
    assert len(loaded.structure) == 8
    neutral = reflections(phase("MgO"), 1.0)
    charged = reflections(loaded, 1.0)
    assert {tuple(h) for h in charged.hkl} == {tuple(h) for h in neutral.hkl}
    np.testing.assert_allclose(charged.structure_factor, neutral.structure_factor, rtol=1e-5)


def test_cif_without_symmetry_gets_its_space_group(tmp_path):
    atoms = [f"{e}{i} {e} {x} {y} {z} 1" for i, (e, (x, y, z), _) in enumerate(STRUCTURES["MgO"][3])]
    path = write_cif(tmp_path / "p1.cif", atoms, 1, "P 1")
    with pytest.warns(UserWarning, match=r"has no symmetry; spglib finds space group Fm-3m \(225\)"):
        (loaded,) = load_phases(str(path))
    assert loaded.name == "p1" or loaded.name == "MgO"
    assert loaded.space_group.number == 225 and loaded.point_group.name == "m-3m"
    np.testing.assert_allclose(
        reflections(loaded, 1.0).structure_factor, reflections(phase("MgO"), 1.0).structure_factor, rtol=1e-4
    )


def test_primitive_cell_becomes_the_standard_cell():
    a = 4.05 / np.sqrt(2)
    primitive = Structure(lattice=Lattice(a, a, a, 60, 60, 60))
    primitive.addNewAtom("Al", (0, 0, 0))
    with pytest.warns(UserWarning, match=r"\(225\).*standard cell \(4.05, 4.05, 4.05, 90, 90, 90\)"):
        (loaded,) = load_phases(Phase("Al", space_group=1, structure=primitive))
    assert len(loaded.structure) == 4
    assert len(reflections(loaded, 1.0)) == len(reflections(phase("Al"), 1.0))


@pytest.mark.parametrize("name", ["LiNiO2", "ZrO2", "Mg"])
def test_symmetry_is_found_in_oblique_cells(name):
    with pytest.warns(UserWarning, match=f"({STRUCTURES[name][0]})"):
        (loaded,) = load_phases(raw_phase(name, full=True))
    ours, known = reflections(loaded, 0.8), reflections(phase(name), 0.8)
    assert len(ours) == len(known)
    np.testing.assert_allclose(ours.structure_factor, known.structure_factor, rtol=1e-3)
    np.testing.assert_allclose(np.sort(ours.g.norm(dim=1)), np.sort(known.g.norm(dim=1)), rtol=1e-4)


def test_partial_occupancy_is_kept():
    occupancies = {atom.element: atom.occupancy for atom in phase("MgFeO").structure}
    assert occupancies == {"Mg": 0.5, "Fe": 0.4, "O": 1}


def test_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no structure file .*nothing.cif"):
        load_phases(tmp_path / "nothing.cif")


def test_file_that_is_no_cif(tmp_path):
    path = tmp_path / "bad.cif"
    path.write_text("this is no structure")
    with pytest.raises(ValueError, match="bad"):
        load_phases(path)


def test_cif_without_atoms(tmp_path):
    path = tmp_path / "empty.cif"
    path.write_text(MGO_CIF.split("loop_")[0].format(number=225, group="F m -3 m"))
    with pytest.raises(ValueError, match="no atoms|could not be read"):
        load_phases(path)


def test_phase_without_atoms():
    with pytest.raises(ValueError, match="'empty' has no atoms"):
        load_phases(Phase("empty", space_group=225))


def test_unknown_element():
    with pytest.raises(ValueError, match="'Xx' in the phase 'odd' is not an element"):
        structure = Structure(lattice=Lattice(3, 3, 3, 90, 90, 90))
        structure.addNewAtom("Xx", (0, 0, 0))
        load_phases(Phase("odd", space_group=221, structure=structure))


@pytest.mark.parametrize("nothing", [[], ()])
def test_no_phase(nothing):
    with pytest.raises(ValueError, match="No phase was given"):
        load_phases(nothing)


def test_something_else_than_a_phase():
    with pytest.raises(TypeError, match="A phase must be"):
        load_phases(3)


def test_no_reflection_inside_the_radius():
    with pytest.raises(ValueError, match="'Al' has no reflection within 0.2 Å⁻¹ .*0.4277 Å⁻¹.*larger reciprocal_r"):
        reflections(phase("Al"), 0.2)


def test_several_phases_and_equal_names():
    loaded = load_phases(PhaseList([raw_phase("Al"), raw_phase("MgO")]))
    assert [p.name for p in loaded] == ["Al", "MgO"]
    names = [p.name for p in load_phases([raw_phase("Al"), raw_phase("Al")])]
    assert len(set(names)) == 2


def test_load_phases_leaves_the_given_phase_alone():
    p = raw_phase("MgO")
    p.structure[0].element = "Mg2+"
    load_phases(p)
    assert p.structure[0].element == "Mg2+" and len(p.structure) == 2


@pytest.mark.parametrize("name", STRUCTURES)
def test_dictionary_round_trip(name):
    p = phase(name)
    entry = json.loads(json.dumps(phase_to_dict(p)))
    again = phase_from_dict(entry)
    assert phase_to_dict(again) == entry
    assert (again.name, again.color, again.space_group.number) == (p.name, p.color, p.space_group.number)
    ours, known = (dict(zip(map(tuple, r.hkl), r.g.tolist())) for r in (reflections(x, 0.8) for x in (again, p)))
    assert ours.keys() == known.keys()
    for hkl, g in known.items():
        assert ours[hkl] == pytest.approx(g, abs=1e-6)


def test_fractional_coordinates_of_an_oblique_cell():
    coordinates = fractional_coordinates(raw_phase("LiNiO2", full=True).structure)
    np.testing.assert_allclose(coordinates, cell_atoms("LiNiO2")[1], atol=1e-9)


def test_reflections_near_the_ewald_sphere_of_one_turned_vector():
    """A vector along x is turned to where the sphere passes, and a little beyond."""
    wavelength, length = electron_wavelength(200), 1.0
    # on the sphere about (0, 0, 1 / wavelength): z = 1 / wavelength - sqrt(1 / wavelength² - x²) with x² + z² = length²
    tilt = np.arcsin(wavelength * length / 2)
    angles = torch.tensor([tilt, tilt + 0.01, 0.0], dtype=torch.float64)
    # turns the crystal about y, so that x comes to (cos, 0, sin)
    q = torch.stack([(angles / 2).cos(), 0 * angles, (angles / 2).sin(), 0 * angles], dim=-1)
    g = torch.tensor([[length, 0.0, 0.0], [0.0, length, 0.0]], dtype=torch.float64)
    lab, error, near = near_ewald_sphere(g, q, wavelength, 0.005)
    assert lab.shape == (3, 2, 3) and lab.dtype == torch.float64
    torch.testing.assert_close(lab[:, 0], torch.stack([angles.cos(), 0 * angles, angles.sin()], dim=-1))
    assert abs(float(error[0, 0])) < 1e-12
    assert error[1:, 0].abs().min() > 0.005
    assert near[:, 0].tolist() == [True, False, False]
    # one list of vectors for all, or one for each
    again = near_ewald_sphere(g.expand(3, 2, 3), q, wavelength, 0.005)
    torch.testing.assert_close(again[0], lab)
