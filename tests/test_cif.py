"""CIF files as strangers write them: the structure that comes out is the file's, or the error says what to do."""

import json
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from diffpy.structure import Atom, Lattice, Structure
from diffpy.structure.spacegroups import GetSpaceGroup
from orix.crystal_map import Phase

from pyxem_dl import rotations
from pyxem_dl.crystals import fractional_coordinates, load_phases, phase_from_dict, phase_to_dict, reflections
from pyxem_dl.crystals.elements import read_formula
from pyxem_dl.symmetry import proper_operations

CUBIC = (5.6, 5.6, 5.6, 90, 90, 90)
FM3M = "_space_group_name_H-M_alt 'F m -3 m'\n"
COLUMNS = ("label", "type_symbol", "fract_x", "fract_y", "fract_z", "occupancy")
BARE = ("label", "fract_x", "fract_y", "fract_z")


def operations(*texts, tag="_space_group_symop_operation_xyz"):
    return f"loop_\n{tag}\n" + "".join(f"'{text}'\n" for text in texts)


def cif(atoms, symmetry=FM3M, cell=CUBIC, extra="", columns=COLUMNS, block="data_t\n"):
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    cell = "".join(f"_cell_{name} {value}\n" for name, value in zip(names, cell))
    loop = "loop_\n" + "".join(f"_atom_site_{column}\n" for column in columns)
    return block + extra + cell + symmetry + loop + "\n".join(atoms) + "\n"


def count(phase):
    counts = {}
    for atom in phase.structure:
        counts[atom.element] = round(counts.get(atom.element, 0) + atom.occupancy, 3)
    return counts


@pytest.fixture
def read(tmp_path):
    """Read a text (or bytes) as a CIF file: the phases, and what was said."""

    def reader(text, name="t.cif"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            phases = load_phases(path)
        reader.said = " | ".join(str(w.message) for w in caught if w.category is UserWarning)
        return phases

    return reader


def positions(phase, element):
    return fractional_coordinates(phase.structure)[[atom.element == element for atom in phase.structure]]


def distance_to(phase, element, xyz):
    """How far (fractions) the nearest atom of an element is from a place."""
    shift = positions(phase, element) - np.asarray(xyz)
    return np.abs(shift - np.round(shift)).max(1).min()


# ------------------------------------------------------------------------------------------------- special positions


@pytest.mark.parametrize(
    "third, two_thirds",
    [
        ("0.33", "0.67"),
        ("0.333", "0.667"),
        ("0.3333", "0.6667"),
        ("0.33333(2)", "0.66667(2)"),
        ("1/3", "2/3"),
        ("0.333", "0.666"),
    ],
)
def test_rounded_coordinates_are_laid_onto_their_special_position(read, third, two_thirds):
    atoms = [f"Mo1 Mo {third} {two_thirds} 0.25 1", f"S1 S {third} {two_thirds} 0.621 1"]
    (phase,) = read(cif(atoms, "_space_group_name_H-M_alt 'P 63/m m c'\n", (3.16, 3.16, 12.29, 90, 90, 120)))
    assert count(phase) == {"Mo": 2, "S": 4}
    assert distance_to(phase, "Mo", (1 / 3, 2 / 3, 0.25)) < 1e-9
    assert distance_to(phase, "S", (2 / 3, 1 / 3, 0.121)) < 1e-9


def test_magnesium_iodide_is_not_tripled(read):
    atoms = ["Mg1 Mg 0 0 0 1", "I1 I 0.3333 0.6667 0.2385 1"]
    (phase,) = read(cif(atoms, "_space_group_name_H-M_alt 'P -3 m 1'\n", (4.154, 4.154, 6.874, 90, 90, 120)))
    assert count(phase) == {"Mg": 1, "I": 2}


def test_species_that_share_a_site_stay_apart(read):
    (phase,) = read(cif(["Fe1 Fe 0 0 0 0.7", "Ni1 Ni 0 0 0 0.3"], cell=(3.6, 3.6, 3.6, 90, 90, 90)))
    assert count(phase) == {"Fe": 2.8, "Ni": 1.2} and len(phase.structure) == 8
    assert "occupancies" not in read.said


def test_two_charges_of_one_element_on_a_site_are_both_kept(read):
    (phase,) = read(cif(["Fe1 Fe2+ 0 0 0 0.5", "Fe2 Fe3+ 0 0 0 0.5", "O1 O2- 0.5 0.5 0.5 1"]))
    assert count(phase) == {"Fe": 4, "O": 4} and len(phase.structure) == 12


@pytest.mark.parametrize("y, occupancy, oxygens", [(0.0429, 0.5, 2), (0.02, 0.5, 2), (0.005, 0.5, 1), (0.02, 1, 1)])
def test_split_sites_remain_split(read, y, occupancy, oxygens):
    """Across a mirror at y = 0 of a 7 Å cell: 0.60, 0.28 and 0.07 Å apart, half occupied; or whole and rounded."""
    atoms = ["Pb1 Pb 0.5 0.5 0.5 1", f"O1 O 0 {y} 0 {occupancy}"]
    (phase,) = read(cif(atoms, operations("x,y,z", "x,-y,z"), (5, 7, 6, 90, 90, 90)))
    assert len(positions(phase, "O")) == oxygens


def test_partly_filled_sites_near_special_positions_are_talked_about(read):
    """Lead 0.05 Å off its cube's corner, which may be split; and gallium of two digits in a wide cell, tripled."""
    atoms = ["Pb1 Pb 0 0 0.012 0.1667", "Ti1 Ti 0.5 0.5 0.5 1", "O1 O 0.5 0.5 0 1"]
    read(cif(atoms, "_space_group_name_H-M_alt 'P m -3 m'\n", (4,) * 3 + (90,) * 3))
    assert "Pb1 was 0.05 Å off a special position and was moved onto it" in read.said
    atoms = ["Ga1 Ga 0.33 0.67 0 0.5", "N1 N 0.33 0.67 0.377 1"]
    read(cif(atoms, "_space_group_name_H-M_alt 'P 63 m c'\n", (17.3, 17.3, 5.19, 90, 90, 120)))
    assert "the occupancies at Ga1 add up to 1.50" in read.said


def test_beta_alumina_is_not_filled_up(read):
    """Sodium in two sites that cannot be full at once: 22 Al, 34 O, and atoms of partial occupancy beside."""
    atoms = [
        "Al1 Al 0.8322 0.6644 0.1060 1", "Al2 Al 0.3333 0.6667 0.0247 1", "Al3 Al 0.3333 0.6667 0.1757 1",
        "Al4 Al 0 0 0 1", "O1 O 0.1573 0.3146 0.0501 1", "O2 O 0.5028 0.0056 0.1467 1",
        "O3 O 0.6667 0.3333 0.0549 1", "O4 O 0 0 0.1423 1", "O5 O 0.3333 0.6667 0.25 1",
        "Na1 Na 0.6667 0.3333 0.25 0.744", "Na2 Na 0.878 0.122 0.25 0.168",
    ]  # fmt: skip
    (phase,) = read(cif(atoms, "_space_group_name_H-M_alt 'P 63/m m c'\n", (5.594, 5.594, 22.53, 90, 90, 120)))
    assert count(phase) == {"Al": 22, "O": 34, "Na": pytest.approx(2 * 0.744 + 6 * 0.168)} and not read.said
    assert count(load_phases(load_phases(phase))[0]) == count(phase)


@pytest.mark.parametrize("occupancy", ["0.02083", "0.0208(3)"])
def test_occupancies_times_multiplicities_are_talked_about(read, occupancy):
    read(cif([f"Na1 Na 0 0 0 {occupancy}", f"Cl1 Cl 0.5 0.5 0.5 {occupancy}"]))
    assert "no site is occupied by more than 2%" in read.said


def test_sites_listed_again_are_left_out_and_said(read):
    """All four atoms of the cell are listed, and the operations that make them, too."""
    atoms = [f"Cu{i} Cu {x} 1" for i, x in enumerate(["0 0 0", "0 0.5 0.5", "0.5 0 0.5", "0.5 0.5 0"])]
    (phase,) = read(cif(atoms, cell=(3.615, 3.615, 3.615, 90, 90, 90)))
    assert count(phase) == {"Cu": 4}
    assert "3 sites are symmetry copies" in read.said


def test_atoms_on_top_of_each_other_are_refused(read):
    with pytest.raises(ValueError, match=r"two fully occupied atoms, .* are only 0\.\d\d Å apart"):
        read(cif(["Cu1 Cu 0 0 0 1", "O1 O 0.05 0.05 0 1"]))


def test_hydrogen_may_be_as_near_as_hydrogen_is(read):
    (phase,) = read(cif(["O1 O 0 0 0 1", "H1 H 0.15 0.05 0.06 1"], "_space_group_name_H-M_alt 'P -1'\n"))
    assert count(phase) == {"O": 1, "H": 2}


# ------------------------------------------------------------------------------------------------------- the setting


def test_operations_come_before_the_symbol(read):
    """Fddd on its second origin, by operations; the symbol alone would mean the first to diffpy."""
    import gemmi

    listed = [op.triplet() for op in gemmi.SpaceGroup("F d d d:2").operations()]
    symmetry = "_space_group_name_H-M_alt 'F d d d'\n_space_group_IT_number 70\n" + operations(*listed)
    (phase,) = read(cif(["S1 S 0.8554 0.9526 0.9516 1"], symmetry, (10.46, 12.87, 24.49, 90, 90, 90)))
    assert count(phase) == {"S": 32} and not read.said
    # a glide plane of origin 2: 3/4 - x, 3/4 - y, z
    assert distance_to(phase, "S", (0.75 - 0.8554, 0.75 - 0.9526, 0.9516)) < 1e-9


def test_P21n_is_not_P21c(read):
    symmetry = "_symmetry_space_group_name_H-M 'P 1 21/n 1'\n_symmetry_Int_Tables_number 14\n"
    (phase,) = read(cif(["Pb1 Pb 0.13 0.24 0.08 1"], symmetry, (5.35, 5.5, 7.7, 90, 91.2, 90)))
    assert count(phase) == {"Pb": 4}
    assert distance_to(phase, "Pb", (0.5 - 0.13, 0.5 + 0.24, 0.5 - 0.08)) < 1e-9
    assert phase.space_group.number == 14 and phase.space_group.short_name == "P21/n"


@pytest.mark.parametrize("symbol", ["R -3 m", "R-3m", "R -3 m :H", "R -3 m H", "R -3 m S"])
def test_hexagonal_axes_of_a_rhombohedral_group(read, symbol):
    atoms = ["Ni1 Ni 0 0 0 1", "Li1 Li 0 0 0.5 1", "O1 O 0 0 0.242 1"]
    (phase,) = read(cif(atoms, f"_space_group_name_H-M_alt '{symbol}'\n", (2.88, 2.88, 14.19, 90, 90, 120)))
    assert count(phase) == {"Ni": 3, "Li": 3, "O": 6} and not read.said
    assert phase.space_group.short_name == GetSpaceGroup(166).short_name


def test_rhombohedral_axes_keep_their_cell_and_are_the_same_crystal(read):
    """Bismuth in both cells: the same reflections of the same strength, and the threefold axis is along [111]."""
    symmetry = "_space_group_name_H-M_alt 'R -3 m'\n_space_group_IT_number 166\n"
    (small,) = read(cif(["Bi1 Bi 0.234 0.234 0.234 1"], symmetry, (4.746, 4.746, 4.746, 57.23, 57.23, 57.23)))
    assert count(small) == {"Bi": 2} and "Its axes differ from those that orix uses" in read.said
    angle = np.deg2rad(57.23)
    a = 2 * 4.746 * np.sin(angle / 2)
    c = 4.746 * np.sqrt(3 + 6 * np.cos(angle))
    (large,) = read(cif(["Bi1 Bi 0 0 0.234 1"], symmetry, (round(a, 6), round(a, 6), round(c, 6), 90, 90, 120)))
    assert count(large) == {"Bi": 6}
    ours, theirs = (reflections(phase, 0.8) for phase in (small, large))
    assert len(ours) == len(theirs)
    np.testing.assert_allclose(3 * ours.structure_factor, theirs.structure_factor, rtol=1e-3)
    np.testing.assert_allclose(np.sort(ours.g.norm(dim=1)), np.sort(theirs.g.norm(dim=1)), atol=1e-4)
    axis = small.structure.lattice.base.sum(0)
    turned = rotations.to_matrix(proper_operations(small)).numpy() @ axis
    np.testing.assert_allclose(np.abs(turned @ axis), axis @ axis, rtol=1e-4)


def test_unique_axis_c(read):
    listed = operations("x,y,z", "-x,-y,z", "-x,-y,-z", "x,y,-z", tag="_symmetry_equiv_pos_as_xyz")
    symmetry = "_symmetry_space_group_name_H-M 'P 1 1 2/m'\n_symmetry_Int_Tables_number 10\n"
    for text in (symmetry, symmetry + listed, "_symmetry_space_group_name_H-M 'P 2/m'\n"):
        (phase,) = read(cif(["Pb1 Pb 0.13 0.24 0.18 1"], text, (5.35, 7.7, 5.5, 90, 90, 101)))
        assert count(phase) == {"Pb": 4}
        assert distance_to(phase, "Pb", (-0.13, -0.24, 0.18)) < 1e-9


def test_operations_in_a_setting_that_no_table_has(read):
    """P-1 in a cell that is centred at (1/4, 1/4, 1/2) for no good reason."""
    listed = [
        "x,y,z",
        "-x,-y,-z",
        "x+1/4,y+1/4,z+1/2",
        "x+1/2,y+1/2,z",
        "x+3/4,y+3/4,z+1/2",
        "-x+1/4,-y+1/4,-z+1/2",
        "-x+1/2,-y+1/2,-z",
        "-x+3/4,-y+3/4,-z+1/2",
    ]
    (phase,) = read(cif(["Pb1 Pb 0.13 0.24 0.08 1"], operations(*listed), (12, 13, 14, 88, 95, 101)))
    assert count(phase) == {"Pb": 8} and phase.space_group.number == 2
    assert len(load_phases(phase_from_dict(json.loads(json.dumps(phase_to_dict(phase)))))[0].structure) == 8


def test_decimal_translations(read):
    texts = ["x,y,z", "-y,x-y,z+0.3333", "-x+y,-x,.66667+z"]
    (phase,) = read(cif(["Te1 Te 0.26 0 0.3333 1"], operations(*texts), (4.45, 4.45, 5.93, 90, 90, 120)))
    assert phase.space_group.number == 144 and count(phase) == {"Te": 3}


def test_operations_and_symbol_that_contradict_each_other(read):
    listed = operations("x,y,z", "1/2-x,1/2+y,1/2-z", "-x,-y,-z", "1/2+x,1/2-y,1/2+z")
    symmetry = "_space_group_name_H-M_alt 'P 1 21/c 1'\n" + listed
    (phase,) = read(cif(["Pb1 Pb 0.13 0.24 0.08 1"], symmetry, (5.35, 5.5, 7.7, 90, 91.2, 90)))
    assert re.search(r"operations are those of P21/n \(14\), but its symbol is P 1 21/c 1", read.said)
    assert distance_to(phase, "Pb", (0.5 - 0.13, 0.5 + 0.24, 0.5 - 0.08)) < 1e-9


def test_hall_symbol_that_contradicts_the_other(read):
    symmetry = "_space_group_name_H-M_alt 'P 1 21/c 1'\n_space_group_name_Hall '-P 2yn'\n"
    (phase,) = read(cif(["Pb1 Pb 0.13 0.24 0.08 1"], symmetry, (5.35, 5.5, 7.7, 90, 91.2, 90)))
    assert phase.space_group.short_name == "P21/n"
    assert "Hall symbol -P 2yn is that of P21/n (14), but its symbol is P 1 21/c 1" in read.said


def test_symbol_and_number_that_contradict_each_other(read):
    (phase,) = read(cif(["Cu1 Cu 0 0 0 1"], FM3M + "_space_group_IT_number 229\n"))
    assert count(phase) == {"Cu": 4} and re.search("symbol .* number 225, but its number is 229", read.said)


@pytest.mark.parametrize("x, name", [("0", "Fd-3m"), ("0.125", "Fd-3m:2")])
def test_of_two_origins_the_one_with_the_formula(read, x, name):
    extra = "_chemical_formula_sum 'Si'\n_cell_formula_units_Z 8\n"
    text = cif([f"Si1 Si {x} {x} {x} 1"], "_space_group_name_H-M_alt 'F d -3 m'\n", (5.431,) * 3 + (90,) * 3, extra)
    (phase,) = read(text)
    assert count(phase) == {"Si": 8} and phase.space_group.short_name == name
    assert "does not say which of Fd-3m:1, Fd-3m:2 it means" in read.said


def test_of_two_origins_the_one_with_the_distances(read):
    """MgAl2O4 on origin 2, and no word about it: origin 1 would put aluminium where magnesium is."""
    atoms = ["Mg1 Mg 0.125 0.125 0.125 1", "Al1 Al 0.5 0.5 0.5 1", "O1 O 0.2624 0.2624 0.2624 1"]
    (phase,) = read(cif(atoms, "_space_group_IT_number 227\n", (8.08, 8.08, 8.08, 90, 90, 90)))
    assert count(phase) == {"Mg": 8, "Al": 16, "O": 32}
    assert "Fd-3m:2 is used" in read.said


def test_of_two_origins_the_first_as_a_guess(read):
    text = cif(["Si1 Si 0 0 0 1"], "_space_group_name_H-M_alt 'F d -3 m'\n", (5.431,) * 3 + (90,) * 3)
    (phase,) = read(text)
    assert count(phase) == {"Si": 8} and "as a guess" in read.said


def test_symbol_that_does_not_fit_the_cell(read):
    with pytest.raises(ValueError, match=r"Fm-3m \(225\) does not fit the cell.*do not map the lattice onto itself"):
        read(cif(["Cu1 Cu 0 0 0 1"], cell=(3.6, 3.7, 3.6, 90, 90, 90)))


def test_operations_that_do_not_fit_the_cell(read):
    with pytest.raises(ValueError, match="do not map the lattice onto itself .they change it by"):
        read(cif(["Cu1 Cu 0 0 0 1"], operations("x,y,z", "y,x,-z"), (3.6, 4.6, 3.6, 90, 90, 90)))


def test_cell_rounded_a_little_is_made_symmetric(read):
    symmetry = "_space_group_name_H-M_alt 'P 63/m m c'\n"
    (phase,) = read(cif(["Mg1 Mg 0.3333 0.6667 0.25 1"], symmetry, (3.209, 3.2093, 5.211, 90, 90, 120.01)))
    a, b, _, alpha, beta, gamma = phase.structure.lattice.abcABG()
    assert a == pytest.approx(b, abs=1e-9) and (alpha, beta, gamma) == pytest.approx((90, 90, 120), abs=1e-7)


@pytest.mark.parametrize("hall", ["-P 2yn", "-p 2yn"])
def test_hall_symbol(read, hall):
    (phase,) = read(
        cif(["Pb1 Pb 0.13 0.24 0.08 1"], f"_space_group_name_Hall '{hall}'\n", (5.35, 5.5, 7.7, 90, 91, 90))
    )
    assert phase.space_group.short_name == "P21/n" and count(phase) == {"Pb": 4}


def test_unknown_symbol_of_a_centring_that_its_number_has_not(read):
    """F 41/d d m is I 41/a m d in a larger cell: the number's standard setting would be another crystal."""
    symmetry = "_space_group_name_H-M_alt 'F 41/d d m'\n_space_group_IT_number 141\n"
    with pytest.raises(ValueError, match="'F 41/d d m' is unknown, .* standard setting I41/amd:1 of number"):
        read(cif(["Ti1 Ti 0 0 0 1"], symmetry, (5.4, 5.4, 9.5, 90, 90, 90)))
    (phase,) = read(cif(["Cu1 Cu 0 0 0 1"], "_space_group_name_H-M_alt 'F nonsense'\n_space_group_IT_number 225\n"))
    assert count(phase) == {"Cu": 4} and "is unknown" in read.said


@pytest.mark.parametrize("symmetry", ["_space_group_name_H-M_alt 'Q 4'\n", "_space_group_name_Hall 'nonsense'\n"])
def test_symbols_that_are_none(read, symmetry):
    with pytest.raises(ValueError, match="is unknown|is not a Hall symbol"):
        read(cif(["Cu1 Cu 0 0 0 1"], symmetry))


@pytest.mark.parametrize(
    "symbol, cell, atom, n",
    [
        ("F 4/m -3 2/m", (3.6,) * 3 + (90,) * 3, "Cu1 Cu 0 0 0 1", 4),
        ("P 63/m 2/m 2/c", (2.66, 2.66, 4.95, 90, 90, 120), "Zn1 Zn 0.3333 0.6667 0.25 1", 2),
        ("P 42/m 21/n 2/m", (4.6, 4.6, 2.96, 90, 90, 90), "Ti1 Ti 0 0 0 1", 2),
        ("P 21/n 21/m 21/a", (5.4, 7.6, 5.5, 90, 90, 90), "Ca1 Ca 0.03 0.25 0.99 1", 4),
        ("I 41/a -3 2/d", (12, 12, 12, 90, 90, 90), "Al1 Al 0 0 0 1", 16),
        ("F d d 2", (8, 9, 5, 90, 90, 90), "S1 S 0 0 0 1", 8),
    ],
)
def test_full_symbols(read, symbol, cell, atom, n):
    (phase,) = read(cif([atom], f"_space_group_name_H-M_full '{symbol}'\n", cell))
    assert len(phase.structure) == n and not read.said


@pytest.mark.parametrize("number, said", [(225, False), (194, False), (166, True), (15, True), (227, True)])
def test_number_alone_is_talked_about_where_it_leaves_a_choice(read, number, said):
    cell = {225: CUBIC, 227: CUBIC, 15: (6, 7, 8, 90, 100, 90)}.get(number, (3.2, 3.2, 9.2, 90, 90, 120))
    read(cif(["Zn1 Zn 0 0 0 1"], f"_space_group_IT_number {number}\n", cell))
    assert ("gives only the number" in read.said) == said


# --------------------------------------------------------------------------------------------------------- formulas


MOS2 = ["Mo1 Mo 0.3333 0.6667 0.25 1", "S1 S 0.3333 0.6667 0.621 1"]
MOS2_CELL = (3.16, 3.16, 12.29, 90, 90, 120)


@pytest.mark.parametrize("formula, z", [("Mo S2", 2), ("MoS2", 2), ("Mo1 S2", None), ("S2 Mo", None)])
def test_formula_that_fits_is_not_talked_about(read, formula, z):
    extra = f"_chemical_formula_sum '{formula}'\n" + (f"_cell_formula_units_Z {z}\n" if z else "")
    read(cif(MOS2, "_space_group_name_H-M_alt 'P 63/m m c'\n", MOS2_CELL, extra))
    assert not read.said


def test_formula_of_the_whole_cell_beside_z(read):
    """As pymatgen and the Materials Project write it."""
    extra = "_chemical_formula_structural MoS2\n_chemical_formula_sum 'Mo2 S4'\n_cell_formula_units_Z 2\n"
    read(cif(MOS2, "_space_group_name_H-M_alt 'P 63/m m c'\n", MOS2_CELL, extra))
    assert not read.said
    wrong = extra.replace("Mo2 S4", "Mo2 S12")
    with pytest.raises(ValueError, match="the cell holds Mo2 S4, but the file's formula x Z"):
        read(cif(MOS2, "_space_group_name_H-M_alt 'P 63/m m c'\n", MOS2_CELL, wrong))


@pytest.mark.parametrize("formula, z", [("Mo S6", 2), ("Mo3 S2", 2), ("Mo S6", None), ("Mo", None)])
def test_formula_that_wrong_symmetry_explains_is_refused(read, formula, z):
    extra = f"_chemical_formula_sum '{formula}'\n" + (f"_cell_formula_units_Z {z}\n" if z else "")
    with pytest.raises(ValueError, match=r"the cell holds Mo2 S4, but the file's formula x Z \(\d\) is"):
        read(cif(MOS2, "_space_group_name_H-M_alt 'P 63/m m c'\n", MOS2_CELL, extra))


def test_three_times_too_many_atoms_are_refused(read):
    """Atoms near a threefold axis and not on it, of a formula that has them on it."""
    atoms = ["Mo1 Mo 0.40 0.60 0.25 1", "S1 S 0.40 0.60 0.621 1"]
    extra = "_chemical_formula_sum 'Mo S2'\n_cell_formula_units_Z 2\n"
    with pytest.raises(ValueError, match="Mo6 S12|less than any crystal|two fully occupied"):
        read(cif(atoms, "_space_group_name_H-M_alt 'P 63/m m c'\n", MOS2_CELL, extra))


def test_missing_hydrogen_is_a_doubt_with_both_formulas(read):
    atoms = ["C1 C 0.1 0.2 0.3 1", "O1 O 0.1 0.2 0.5 1"]
    extra = "_chemical_formula_sum 'C H4 O'\n_cell_formula_units_Z 2\n"
    (phase,) = read(cif(atoms, "_space_group_name_H-M_alt 'P -1'\n", extra=extra))
    assert count(phase) == {"C": 2, "O": 2}
    assert "the cell holds C2 O2, but the file's formula x Z (2) is C2 H8 O2" in read.said


def test_formula_with_another_share_of_a_mixed_site_is_a_doubt(read):
    atoms = ["Mg1 Mg 0 0 0 0.6", "Fe1 Fe 0 0 0 0.4", "O1 O 0.5 0.5 0.5 1"]
    read(cif(atoms, cell=(4.25,) * 3 + (90,) * 3, extra="_chemical_formula_sum 'Mg0.9 Fe0.1 O'\n"))
    assert "Fe1.6 Mg2.4 O4" in read.said


def test_vacant_sites_that_the_formula_forgets_are_a_doubt(read):
    atoms = ["Si1 Si 0 0 0 0.75", "C1 C 0.25 0.25 0.25 0.85"]
    extra = "_chemical_formula_sum 'C Si'\n_cell_formula_units_Z 4\n"
    (phase,) = read(cif(atoms, "_space_group_name_H-M_alt 'F -4 3 m'\n", (4.35,) * 3 + (90,) * 3, extra))
    assert count(phase) == {"Si": 3, "C": 3.4} and "C3.4 Si3, but the file's formula x Z (4) is C4 Si4" in read.said


def test_item_that_is_there_twice(read):
    (phase,) = read(cif(["Cu1 Cu 0 0 0 1"], extra="_chemical_formula_sum 'Cu'\n_chemical_formula_sum 'Cu2'\n"))
    assert count(phase) == {"Cu": 4} and "_chemical_formula_sum occur twice" in read.said


def test_symbol_rescues_operations_that_miss_the_formula(read):
    """Programs write x,y,z alone beside a symbol that is right."""
    extra = "_chemical_formula_sum 'Cu'\n_cell_formula_units_Z 4\n"
    (phase,) = read(cif(["Cu1 Cu 0 0 0 1"], FM3M + operations("x,y,z"), (3.615,) * 3 + (90,) * 3, extra))
    assert count(phase) == {"Cu": 4} and phase.space_group.number == 225
    assert "Fm-3m (225) is used, because it fits" in read.said


@pytest.mark.parametrize(
    "text, counts",
    [
        ("C6 H12 O6", {"C": 6, "H": 12, "O": 6}),
        ("La1.85 Sr0.15 Cu O4", {"La": 1.85, "Sr": 0.15, "Cu": 1, "O": 4}),
        ("D2 O", {"H": 2, "O": 1}),
        ("LiNiO2", {"Li": 1, "Ni": 1, "O": 2}),
        ("C2 H5 N O2 2+", {"C": 2, "H": 5, "N": 1, "O": 2}),
        ("Ca(OH)2", None),
        ("?", None),
        ("import os", None),
        (None, None),
        ("Xx2 O", None),
    ],
)
def test_formulas_are_counted(text, counts):
    assert read_formula(text) == counts


# ------------------------------------------------------------------------------------------------ labels and vacancies


@pytest.mark.parametrize(
    "label, element",
    [
        ("Fe3+", "Fe"),
        ("Mg2+", "Mg"),
        ("O2-", "O"),
        ("Cu1A", "Cu"),
        ("Al_1", "Al"),
        ("D1", "H"),
        ("Oap", "O"),
        ("Oa", "O"),
        ("W1", "W"),
        ("Co2", "Co"),
        ("Ho1", "Ho"),
        ("Sn(1)", "Sn"),
        ("C1'", "C"),
        ("CA1", "Ca"),
        ("cu1", "Cu"),
        ("Cs", "Cs"),
    ],
)
def test_labels_without_types(read, label, element):
    (phase,) = read(cif([f'"{label}" 0 0 0'], columns=BARE))
    assert count(phase) == {element: 4}


@pytest.mark.parametrize("label", ["OH1", "OW1", "Wat", "H2O", "M1", "Fe1/Ni1", "Q1", "NH4", "T1", "T2A", "T"])
def test_labels_that_are_no_element(read, label):
    with pytest.raises(ValueError, match="label .* does not name an element. Give _atom_site_type_symbol"):
        read(cif([f"{label} 0 0 0"], columns=BARE))


@pytest.mark.parametrize("formula, element", [("C", "C"), ("Ca", "Ca")])
def test_formula_tells_calcium_from_carbon(read, formula, element):
    (phase,) = read(cif(["CA1 0 0 0"], columns=BARE, extra=f"_chemical_formula_sum {formula}\n"))
    assert count(phase) == {element: 4} and "is read as" not in read.said


def test_both_readings_of_a_label_are_said(read):
    read(cif(["CA1 0 0 0"], columns=BARE))
    assert "CA1 is read as Ca, not as C" in read.said
    (phase,) = read(cif(["CA1 0 0 0", "Cl1 0.5 0.5 0.5"], columns=BARE))
    assert count(phase) == {"C": 4, "Cl": 4}, "where Cl is written as it should be, CA is not calcium"


@pytest.mark.parametrize(
    "kind, element",
    [
        ("Fe+3", "Fe"),
        ("O-II", "O"),
        ("Cval", "C"),
        ("Siva", "Si"),
        ("CU", "Cu"),
        ("D", "H"),
        ("Zr4+", "Zr"),
        ("O1-", "O"),
        ("C_sp3", "C"),
        ("7Li", "Li"),
        ("2H", "H"),
        ("T", "H"),
    ],
)
def test_types(read, kind, element):
    (phase,) = read(cif([f"A1 {kind} 0 0 0 1"]))
    assert count(phase) == {element: 4}


@pytest.mark.parametrize("kind", ["H2O", "OH", "NH4", "M", "Og", "Uiso", "Fe/Ni", "CO3", "2H2O", "29"])
def test_types_that_are_no_element(read, kind):
    with pytest.raises(ValueError, match="not an element that .*_atom_site_type_symbol"):
        read(cif([f"A1 {kind} 0 0 0 1"]))


@pytest.mark.parametrize("vacancy", ["Va1 Va", "V2 Vac", "X1 X", "□1 □", "Vac1 ."])
def test_vacancies_are_left_out_and_said(read, vacancy):
    atoms = ["Sr1 Sr 0.5 0.5 0.5 1", "Ti1 Ti 0 0 0 1", f"{vacancy} 0.5 0 0 0.1", "O1 O 0.5 0 0 0.9"]
    (phase,) = read(cif(atoms, "_space_group_name_H-M_alt 'P m -3 m'\n", (3.9,) * 3 + (90,) * 3))
    assert count(phase) == {"Sr": 1, "Ti": 1, "O": 2.7}
    assert "vacancies and are ignored" in read.said


@pytest.mark.parametrize("occupancy, copper", [("?", 4), (".", 4), ("0.50(3)", 2), ("1.00(2)", 4), ("1.02", 4)])
def test_occupancies(read, occupancy, copper):
    (phase,) = read(cif([f"Cu1 Cu 0 0 0 {occupancy}"]))
    assert count(phase) == {"Cu": copper}


def test_site_that_holds_more_than_one_atom_is_a_doubt(read):
    read(cif(["Fe1 Fe 0 0 0 0.7", "Ni1 Ni 0 0 0 0.6"]))
    assert "add up to 1.30" in read.said


def test_sites_without_coordinates_are_left_out_and_said(read):
    (phase,) = read(cif(["Cu1 Cu 0 0 0 1", "H1 H ? ? ? 1"]))
    assert count(phase) == {"Cu": 4} and "sites without coordinates are ignored: H1" in read.said


# -------------------------------------------------------------------------------------------------- dialects and files


def test_two_structures_are_two_phases(read):
    two = cif(["Fe1 Fe 0 0 0 1"], block="data_alpha\n") + "\n" + cif(["Fe1 Fe 0 0 0 1"], block="data_gamma\n")
    assert [phase.name for phase in read("data_global\n_publ_contact_author 'N N'\n" + two)] == ["alpha", "gamma"]
    assert "2 structures, in the blocks alpha, gamma" in read.said


def test_atoms_in_two_loops_are_refused(read):
    second = "loop_\n" + "".join(f"_atom_site_{c}\n" for c in COLUMNS) + "Cl1 Cl 0.5 0.5 0.5 1\n"
    with pytest.raises(ValueError, match="lists atoms in two loops. Put them into one"):
        read(cif(["Na1 Na 0 0 0 1"]) + second)


def test_text_blocks_are_skipped_silently(read):
    (phase,) = read("data_global\n_publ_contact_author 'N N'\n" + cif(["Cu1 Cu 0 0 0 1"]), "copper.cif")
    assert phase.name == "copper" and not read.said


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_encodings(read, coding, ends):
    text = cif(["Fe1 Fe 0 0 0 1"], extra="_publ_author_name 'Müller, Å.'\n_chemical_name_mineral 'Löwensteinit'\n")
    (phase,) = read(text.replace("\n", ends).encode(coding))
    assert count(phase) == {"Fe": 4}


def test_letters_that_are_not_ascii_outside_of_strings(read):
    text = cif(["Feα Fe 0 0 0 1"], block="data_Löwenstein-β-Fe\n", extra="_publ_contact_author Müller\n")
    (phase,) = read(text, "1234.cif")
    assert count(phase) == {"Fe": 4} and phase.name == "Löwenstein-β-Fe"


@pytest.mark.parametrize(
    "content, match",
    [
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (b"<!DOCTYPE html><html>404</html>", "HTML or XML"),
        (b"\x1f\x8b\x08\x00\x00", "binary file, not CIF text"),
        (b"hello", "could not be read as a CIF"),
        (b"data_t\n_cell_length_a 3\n", "no atoms"),
        (b"data_t\nloop_\n_a\n_b\n1 2 3\n", "could not be read as a CIF"),
        (b"data_t\n", "no atoms"),
    ],
)
def test_files_that_are_no_cif(read, content, match):
    with pytest.raises(ValueError, match=rf"t\.cif.*{match}"):
        read(content)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ValueError, match="is a folder. Give the path of a CIF file"):
        load_phases(tmp_path)


def test_dotted_names(read):
    text = cif(["Cu1 CU 0 0 0 1"]).replace("_cell_", "_cell.").replace("_atom_site_", "_atom_site.")
    text = text.replace("_space_group_name_H-M_alt", "_symmetry.space_group_name_H-M")
    (phase,) = read(text)
    assert count(phase) == {"Cu": 4} and phase.space_group.number == 225


def test_cartesian_coordinates_of_mmcif(read):
    """x along a, z along c*, as in the files of the Protein Data Bank."""
    text = cif(
        ["CS CS 2.06 2.06 2.06 1", "CL CL 0 0 0 1"],
        "_symmetry.space_group_name_H-M 'P m -3 m'\n",
        (4.12,) * 3 + (90,) * 3,
    )
    text = text.replace("_cell_", "_cell.").replace("_atom_site_fract_", "_atom_site.Cartn_")
    (phase,) = read(text.replace("_atom_site_", "_atom_site.").replace("site.label", "site.label_atom_id"))
    assert count(phase) == {"Cs": 1, "Cl": 1} and distance_to(phase, "Cs", (0.5, 0.5, 0.5)) < 1e-6
    assert "mmCIF" in read.said
    with pytest.raises(ValueError, match="only Cartesian coordinates.*Give fractional"):
        read(cif(["Cu1 Cu 0 0 0 1"]).replace("_fract_", "_Cartn_"))


MAGNETIC = (
    "loop_\n_space_group_symop_magn_operation.id\n_space_group_symop_magn_operation.xyz\n1 x,y,z,+1\n2 -x,-y,-z,-1\n"
)


def test_magnetic_structure_is_read_as_the_nuclear_one(read):
    """A chain that is doubled along c by its moments: the nuclei have half of the cell."""
    tag = "_space_group_symop_magn_centering"
    centring = f"loop_\n{tag}.id\n{tag}.xyz\n1 x,y,z,+1\n2 x,y,z+1/2,-1\n"
    atoms = ["Mn1 Mn 0 0 0 1", "O1 O 0.1 0.2 0.23 1"]
    (phase,) = read(cif(atoms, MAGNETIC + centring, (4, 5, 6, 82, 97, 95)), "t.mcif")
    assert count(phase) == {"Mn": 1, "O": 2} and phase.space_group.number == 2
    assert phase.structure.lattice.volume == pytest.approx(Lattice(4, 5, 6, 82, 97, 95).volume / 2, rel=1e-3)
    assert "magnetic" in read.said


def test_magnetic_structure_without_operations(read):
    with pytest.raises(ValueError, match="magnetic structure without symmetry operations. Give a CIF file"):
        read(cif(["Ni1 Ni 0 0 0 1"], "_space_group_magn.number_BNS '167.108'\n"))


def test_modulated_structure(read):
    superspace = "_cell_modulation_dimension 1\nloop_\n_space_group_symop_ssg_operation_algebraic\n'x1,x2,x3,x4'\n"
    with pytest.raises(ValueError, match="modulated crystal in superspace. Give a CIF file of its average structure"):
        read(cif(["Na1 Na 0 0 0 1"], superspace))


@pytest.mark.parametrize(
    "item", ["_cell_wave_vector_x", "_atom_site_Fourier_wave_vector_q1_coeff", "_space_group_ssg_name"]
)
def test_modulated_structure_without_its_dimension(read, item):
    loop = f"loop_\n{item}\n0.18\n"
    with pytest.raises(ValueError, match="modulated crystal in superspace"):
        read(cif(["Na1 Na 0 0 0 1"], FM3M + loop))
    (phase,) = read(cif(["Na1 Na 0 0 0 1"], operations("x,y,z", "-x,-y,-z") + loop))
    assert count(phase) == {"Na": 1} and "its average structure is used" in read.said


@pytest.mark.parametrize(
    "name, extra, expected",
    [
        ("quartz.cif", "", "quartz"),
        ("1000041.cif", "_chemical_name_mineral Halite\n", "Halite"),
        ("1000041.cif", "_chemical_formula_sum 'Cu'\n", "Cu"),
        ("x.cif", "_chemical_name_common 'blue vitriol'\n", "blue vitriol"),
    ],
)
def test_names(read, name, extra, expected):
    (phase,) = read(cif(["Cu1 Cu 0 0 0 1"], extra=extra), name)
    assert phase.name == expected


def test_errors_name_the_file_and_the_block(read):
    with pytest.raises(ValueError, match="bad.cif, block 't'"):
        read(cif(["Cu1 Cu 0 0 0 7"]), "bad.cif")


# --------------------------------------------------------------------------------------------------- hostile and insane


@pytest.mark.parametrize(
    "cell, match",
    [
        (("nan", 4, 4, 90, 90, 90), "not a finite number"),
        (("inf", 4, 4, 90, 90, 90), "not a finite number"),
        (("1e400", 4, 4, 90, 90, 90), "not a finite number"),
        ((1e6, 1e6, 1e6, 90, 90, 90), "outside 1 to 500"),
        ((0, 4, 4, 90, 90, 90), "outside 1 to 500"),
        ((-5, -5, -5, 90, 90, 90), "outside 1 to 500"),
        ((-4, 4, 4, 90, 90, 90), "outside 1 to 500"),
        ((0.3615, 0.3615, 0.3615, 90, 90, 90), "in nm"),
        ((361.5, 361.5, 361.5, 90, 90, 90), "in pm"),
        ((4, 4, 4, 0, 90, 90), "has no volume"),
        ((4, 4, 4, 120, 120, 120), "has no volume"),
        ((4, 4, 4, 30, 30, 90), "has no volume"),
        (("?", 4, 4, 90, 90, 90), "no _cell_length_a"),
        (("4,0", 4, 4, 90, 90, 90), "not a finite number"),
        ((2.0, 2.0, 2.0, 90, 90, 90), "less than any crystal"),
    ],
)
def test_cells_that_are_none(read, cell, match):
    with pytest.raises(ValueError, match=match):
        read(cif(["Cu1 Cu 0 0 0 1"], cell=cell))


@pytest.mark.parametrize(
    "atom, match",
    [
        ("Cu1 Cu nan 0 0 1", "not a finite number"),
        ("Cu1 Cu 1e300 0 0 1", "not fractional coordinates"),
        ("Cu1 Cu 0 0 0 2", "occupancy of 2"),
        ("Cu1 Cu 0 0 0 -1", "occupancy of -1"),
        ("Cu1 Cu 0 0 0 nan", "not a finite number"),
        ("Cu1 Cu 0 0 0 0", "every site is empty"),
        ("Cu1 Cu (0).__class__ 0 0 1", "not a finite number"),
    ],
)
def test_atoms_that_are_none(read, atom, match):
    with pytest.raises(ValueError, match=match):
        read(cif([atom]))


HOSTILE = '__import__("pathlib").Path("ran").touch()'


@pytest.mark.parametrize(
    "text",
    [
        HOSTILE,
        f"{HOSTILE},y,z",
        "x+y,y,z",
        "2x,y,z",
        "h,k,l",
        "x,y",
        "x,x,z",
        "x,y,z+1/7",
        "x/0,y,z",
        "9**9**9,y,z",
        "1e9*x,y,z",
        "x" * 5000,
        "(x),y,z",
    ],
)
def test_what_is_no_symmetry_operation(read, text, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    listed = f"loop_\n_space_group_symop_operation_xyz\n'x,y,z'\n;{text}\n;\n"
    with pytest.raises(ValueError, match="is not a symmetry operation"):
        read(cif(["Cu1 Cu 0 0 0 1"], listed))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "listed, match",
    [
        (["x,y,z"] * 5000, "5000 symmetry operations"),
        (["x,y,z", "-y,x,z", "z,x,y", "-y,x-y,z"], "do not form a space group"),
    ],
)
def test_operations_that_make_no_group(read, listed, match):
    with pytest.raises(ValueError, match=match):
        read(cif(["Cu1 Cu 0 0 0 1"], operations(*listed)))


@pytest.mark.parametrize("place", ["symmetry", "symbol", "hall", "label", "type", "number", "block", "cell"])
def test_code_in_a_file_is_text(read, place, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code = HOSTILE.replace('"', "`")
    text = {
        "symmetry": cif(["Cu1 Cu 0 0 0 1"], operations(code)),
        "symbol": cif(["Cu1 Cu 0 0 0 1"], f"_space_group_name_H-M_alt '{code}'\n"),
        "hall": cif(["Cu1 Cu 0 0 0 1"], f"_space_group_name_Hall '{code}'\n"),
        "label": cif([f"'{code}' 0 0 0"], columns=BARE),
        "type": cif([f"Cu1 '{code}' 0 0 0 1"]),
        "number": cif(["Cu1 Cu 0 0 0 1"], f"_space_group_IT_number '{code}'\n"),
        "block": cif(["Cu1 Cu 0 0 0 3"], block=f"data_{code}\n"),
        "cell": cif(["Cu1 Cu 0 0 0 1"], cell=(f"'{code}'", 4, 4, 90, 90, 90)),
    }[place]
    with pytest.raises(ValueError):
        read(text)
    assert not (tmp_path / "ran").exists()


def test_diffpys_reader_is_never_called(read, monkeypatch):
    from diffpy.structure.parsers import p_cif

    def refuse(*args, **kwargs):
        raise AssertionError("diffpy read a stranger's text")

    for name in ("parseFile", "parse", "parseLines"):
        monkeypatch.setattr(p_cif.P_cif, name, refuse)
    monkeypatch.setattr(p_cif, "getSymOp", refuse)
    (phase,) = read(cif(["Cu1 Cu 0 0 0 1"], operations("x,y,z", "-x,-y,-z") + FM3M.replace("F m -3 m", "P -1")))
    load_phases(phase_from_dict(phase_to_dict(phase)))


LIMITED = """
import resource, sys
from pyxem_dl.crystals import load_phases, reflections
import diffsims.utils.sim_utils, orix.crystal_map, gemmi, spglib, scipy.spatial
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 2**29, used + 3 * 2**29))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
for path in sys.argv[1:]:
    try:
        (phase,) = load_phases(path)
        reflections(phase, 2.0)
        print("read")
    except ValueError as error:
        print(error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory as Linux sets them")
def test_huge_files_are_refused_in_little_memory(tmp_path):
    """30,000 sites, 3,000 sites x 192 operations, cells of kilometres and of 499 Å, 10^5 operations, NaN."""
    many = [f"Cu{i} Cu {i % 97 / 97:.5f} {i % 89 / 89:.5f} {i % 83 / 83:.5f} 1" for i in range(30_000)]
    texts = [
        cif(many, cell=(300, 300, 300, 90, 90, 90)),
        cif(many[:3000], cell=(300, 300, 300, 90, 90, 90)),
        cif(["Cu1 Cu 0 0 0 1"], cell=(1e13, 1e13, 1e13, 90, 90, 90)),
        cif(many[:4000], "_space_group_name_H-M_alt 'P -1'\n", cell=(499, 499, 499, 90, 90, 90)),
        cif(["Cu1 Cu 0 0 0 1"], operations(*["x,y,z"] * 100_000)),
        cif(["Cu1 Cu 0 0 0 1"], cell=("nan", "nan", "nan", "nan", "nan", "nan")),
    ]
    paths = [tmp_path / f"{i}.cif" for i in range(len(texts))]
    for path, text in zip(paths, texts):
        path.write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *map(str, paths)], capture_output=True, text=True, timeout=300
    )
    lines = done.stdout.strip().splitlines()
    assert done.returncode == 0, done.stderr[-2000:]
    for line, expected in zip(
        lines,
        [
            "30000 atom sites",
            "more than 20000 atoms",
            "outside 1 to 500",
            "reflections within 2 Å⁻¹; at most",
            "100000 symmetry",
            "finite",
        ],
    ):
        assert expected in line
    assert len(lines) == len(texts)


# ---------------------------------------------------------------------------------------------------- without symmetry


@pytest.mark.parametrize(
    "symmetry", ["", "_space_group_name_H-M_alt 'P 1'\n", operations("x,y,z"), "_space_group_IT_number 1\n"]
)
def test_shared_sites_without_symmetry_get_their_space_group(read, symmetry):
    """A P1 cell of rock salt with mixed sites, as pymatgen writes it."""
    fcc = ["0 0 0", "0 0.5 0.5", "0.5 0 0.5", "0.5 0.5 0"]
    other = ["0.5 0.5 0.5", "0.5 0 0", "0 0.5 0", "0 0 0.5"]
    atoms = [f"{e}{i} {e} {x} {o}" for e, o in (("Mg", 0.6), ("Fe", 0.4)) for i, x in enumerate(fcc)]
    atoms += [f"O{i} O {x} 1" for i, x in enumerate(other)]
    (phase,) = read(cif(atoms, symmetry, (4.25,) * 3 + (90,) * 3))
    assert phase.space_group.number == 225 and count(phase) == {"Mg": 2.4, "Fe": 1.6, "O": 4}
    assert "has no symmetry" in read.said


def test_symmetry_found_has_the_origin_of_its_atoms(read):
    """Diamond: spglib's standard cell is on origin 1, and so must be the operations."""
    eight = [
        f"C{i} C {x} {y} {z} 1"
        for i, (x, y, z) in enumerate(
            (np.array(a) + b) % 1 for a in ((0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)) for b in (0.1, 0.35)
        )
    ]
    (phase,) = read(cif(eight, "", (3.567,) * 3 + (90,) * 3))
    assert phase.space_group.number == 227 and count(phase) == {"C": 8}
    assert count(load_phases(phase)[0]) == {"C": 8}


# ------------------------------------------------------------------------------------------------------- orix' phases


def made(atoms, group, cell=CUBIC):
    return Phase("made", space_group=group, structure=Structure([Atom(*a) for a in atoms], Lattice(*cell)))


def loaded(phase):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (found,) = load_phases(phase)
    return found, " | ".join(str(w.message) for w in caught if w.category is UserWarning)


def test_asymmetric_unit_with_rounded_coordinates():
    phase, _ = loaded(made([("Mo", (0.3333, 0.6667, 0.25)), ("S", (0.3333, 0.6667, 0.621))], 194, MOS2_CELL))
    assert count(phase) == {"Mo": 2, "S": 4}


@pytest.mark.parametrize("turn", [None, 0.0, 0.7, 2.0])
@pytest.mark.parametrize("copied", [False, True])
def test_lattices_in_any_frame(turn, copied):
    """As diffpy has it, as orix has it, or turned about c: the atoms are at the same fractions of the cell."""
    lattice = Lattice(*MOS2_CELL)
    if turn is not None:
        aligned = made([("Mo", (0, 0, 0))], 194, MOS2_CELL).structure.lattice.base
        c, s = np.cos(turn), np.sin(turn)
        lattice = Lattice(base=aligned @ [[c, -s, 0], [s, c, 0], [0, 0, 1]])
    atoms = [Atom("Mo", (1 / 3, 2 / 3, 0.25)), Atom("S", (1 / 3, 2 / 3, 0.621))]
    phase = Phase("made", space_group=194, structure=Structure(atoms, lattice))
    if copied and turn is None:
        phase = Phase(phase)
    found, _ = loaded(phase)
    assert count(found) == {"Mo": 2, "S": 4} and distance_to(found, "Mo", (1 / 3, 2 / 3, 0.25)) < 1e-6


def test_full_cell_with_partial_occupancy_gets_no_more_atoms():
    """Coordinates of three digits: the operations meet them to 0.01 Å only."""
    sites = [(0.333, 0.667, 0.25), (0.667, 0.333, 0.75)]
    atoms = [Atom("Mo", x, occupancy=o) for x in sites for o in (0.6,)]
    atoms += [Atom("W", x, occupancy=0.4) for x in sites]
    atoms += [
        Atom("S", x)
        for x in ((0.333, 0.667, 0.621), (0.333, 0.667, 0.879), (0.667, 0.333, 0.121), (0.667, 0.333, 0.379))
    ]
    phase, _ = loaded(Phase("made", space_group=194, structure=Structure(atoms, Lattice(*MOS2_CELL))))
    assert count(phase) == {"Mo": 1.2, "W": 0.8, "S": 4} and len(phase.structure) == 8


def test_full_cell_in_another_setting_is_seen():
    """As a map's file has it: the number 14, and the atoms of P21/n."""
    x, y, z = 0.13, 0.24, 0.08
    cell = (5.35, 5.5, 7.7, 90, 91.2, 90)
    four = [(x, y, z), (0.5 - x, 0.5 + y, 0.5 - z), (-x, -y, -z), (0.5 + x, 0.5 - y, 0.5 + z)]
    phase, said = loaded(made([("Pb", xyz) for xyz in four], 14, cell))
    assert count(phase) == {"Pb": 4} and phase.space_group.short_name == "P21/n"
    assert "fill a cell of P21/n" in said


@pytest.mark.parametrize(
    "cell, match",
    [
        ((float("nan"), 4, 4, 90, 90, 90), "not finite"),
        ((4e4, 4, 4, 90, 90, 90), "outside 1 to 500"),
        ((3.6, 3.9, 3.6, 90, 90, 90), "does not fit the cell"),
        ((0.4, 0.4, 0.4, 90, 90, 90), "nm"),
    ],
)
def test_phases_with_cells_that_are_none(cell, match):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        phase = made([("Cu", (0, 0, 0))], 225, (4, 4, 4, 90, 90, 90))
        phase.structure.lattice = _lattice(cell)
    with pytest.raises(ValueError, match=match):
        load_phases(phase)


def _lattice(cell):
    lattice = Lattice(4, 4, 4, 90, 90, 90)
    try:
        lattice.setLatPar(*cell)
    except (ValueError, ArithmeticError):
        pass
    return lattice


def test_phase_with_atoms_on_top_of_each_other():
    with pytest.raises(ValueError, match="'made': with Fm-3m .*two fully occupied atoms"):
        load_phases(made([("Cu", (0, 0, 0)), ("O", (0.05, 0.05, 0))], 225))


def test_vacancies_of_a_phase():
    phase, said = loaded(made([("Cu", (0, 0, 0)), ("Va", (0.5, 0.5, 0.5))], 225))
    assert count(phase) == {"Cu": 4} and "vacancies" in said


@pytest.mark.parametrize("phases", [[3], b"a.cif", {"a.cif": 1}, [None], [["a.cif"]], 3.5, None])
def test_what_is_no_phase(phases):
    with pytest.raises(TypeError, match="A phase must be an orix Phase or the path of a CIF file, not "):
        load_phases(phases)


@pytest.mark.parametrize(
    "entry, match",
    [
        (None, "lattice, name, space_group is missing"),
        ({"name": "x"}, "atoms, color, lattice, space_group is missing"),
        ({"name": "x", "color": "r", "space_group": 225, "lattice": "abc", "atoms": []}, "lattice must be six numbers"),
        ({"name": "x", "color": "r", "space_group": 225, "lattice": [4] * 6, "atoms": 5}, "its atoms .element"),
    ],
)
def test_entries_that_are_no_phase(entry, match):
    with pytest.raises(ValueError, match=match):
        phase_from_dict(entry)


@pytest.mark.parametrize(
    "change, match",
    [
        ({"lattice": [float("nan"), 4, 4, 90, 90, 90]}, "not finite"),
        ({"lattice": [1e9, 4, 4, 90, 90, 90]}, "outside 1"),
        ({"atoms": [["Cu", 0, 0, float("inf"), 1]]}, "not finite numbers"),
        ({"operations": [HOSTILE]}, "not a symmetry operation"),
        ({"operations": ["x,y,z", "-x,-y,-z"]}, r"space group 225, but the operations of P-1 \(2\)"),
        ({"atoms": [["Cu", 0, 0, 0, 1]] * 20001}, "20001 atoms"),
    ],
)
def test_configurations_of_a_stranger(change, match):
    entry = phase_to_dict(loaded(made([("Cu", (0, 0, 0))], 225))[0])
    with pytest.raises(ValueError, match=match):
        phase_from_dict({**entry, **change})
