"""Crystals from the table, from folders and phases: laws, draws, exclusions, manifests, files."""

import json
import pickle
import warnings
from collections import Counter

import numpy as np
import pytest
import spglib
from diffpy.structure import Atom, Lattice, Structure
from orix.crystal_map import Phase

import pyxem_dl
from pyxem_dl.crystals import (
    Structures,
    check_manifest,
    load_phases,
    manifest_of,
    read_manifest,
    reflections,
    structure_hash,
)
from pyxem_dl.crystals.phases import fractional_coordinates
from pyxem_dl.crystals.prototypes import prototype_of, standard, table
from pyxem_dl.crystals.space_groups import group_of_spglib
from pyxem_dl.crystals.twins import COMMON, intensity_curve, isostructural, similarity


def crystal(name, group, cell, *atoms):
    """Phase of an asymmetric unit; a cell of one number is cubic."""
    cell = (cell, cell, cell, 90, 90, 90) if isinstance(cell, float) else cell
    structure = Structure([Atom(e, x, occupancy=o) for e, x, o in atoms], Lattice(*cell))
    return load_phases(Phase(name, space_group=group, structure=structure))[0]


def metal(element, a, group=225):
    return crystal(element, group, a, (element, (0, 0, 0), 1.0))


def rock_salt(first, second, a):
    return crystal(first + second, 225, a, (first, (0, 0, 0), 1.0), (second, (0.5, 0.5, 0.5), 1.0))


def layered(metal, a, c):
    atoms = (metal, (0, 0, 0), 1.0), ("Li", (0, 0, 0.5), 1.0), ("O", (0, 0, 0.242), 1.0)
    return crystal(f"Li{metal}O2", 166, (a, a, c, 90, 90, 120), *atoms)


@pytest.fixture(scope="module")
def everything():
    """The whole table, as the user gets it; nothing in it is doubtful."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return pyxem_dl.structures()


# ------------------------------------------------------------------------------------------------------- the table


def test_the_table_holds_what_the_page_says(everything, root):
    assert len(everything) == len(table()) == 268
    assert len({entry["prototype"] for entry in table()}) == 253
    assert len({site[0] for entry in table() for site in entry["sites"]}) == 68
    assert (root / "pyxem_dl" / "_data" / "prototypes.json").stat().st_size < 300_000
    assert len({phase.name for phase in everything}) == 268
    assert all(entry["reference"] for entry in table())


def test_each_crystal_has_the_space_group_of_its_label_and_the_atoms_of_its_pearson_symbol(everything):
    for phase, entry in zip(everything, table()):
        elements = [atom.element for atom in phase.structure]
        kinds = sorted(set(elements))
        cell = phase.structure.lattice.base, fractional_coordinates(phase.structure), [kinds.index(e) for e in elements]
        found = spglib.get_symmetry_dataset(cell, symprec=1e-3)
        # of Au2V the coordinates are more symmetric than the label
        label = 63 if entry["prototype"] == "A2B_oC12_38_de_ab" else int(entry["prototype"].split("_")[2])
        assert found.number == label == phase.space_group.number, entry["id"]
        assert len(elements) == int(entry["pearson"][2:]) * (3 if entry["pearson"].startswith("hR") else 1), entry["id"]


@pytest.mark.parametrize(
    "name, group, cell, neighbour, number",
    [
        # lattice constants and shortest distances from the literature
        ("NaCl cF8", "Fm-3m", (5.640, 5.640, 5.640, 90, 90, 90), 2.820, 6),
        ("C cF8", "Fd-3m", (3.567, 3.567, 3.567, 90, 90, 90), 1.545, 4),
        ("ZnS hP4", "P63mc", (3.823, 3.823, 6.261, 90, 90, 120), 2.34, 4),
        ("Cu cF4", "Fm-3m", (3.615, 3.615, 3.615, 90, 90, 90), 2.556, 12),
        ("TiO2 tP6", "P42/mnm", (4.594, 4.594, 2.959, 90, 90, 90), 1.95, None),
    ],
)
def test_known_crystals(everything, name, group, cell, neighbour, number):
    (phase,) = (p for p in everything if p.name == name)
    assert phase.space_group.short_name == group
    # the table's diamond is half a per cent small
    assert np.allclose(phase.structure.lattice.abcABG(), cell, rtol=0.006, atol=0.01)
    lattice, xyz = phase.structure.lattice, fractional_coordinates(phase.structure)
    shifts = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3), axis=-1).reshape(-1, 3)
    away = np.linalg.norm((xyz[:, None] + shifts - xyz[0]).reshape(-1, 3) @ lattice.base, axis=1)
    nearest = away[away > 0.1].min()
    assert nearest == pytest.approx(neighbour, rel=0.01)
    assert number is None or (away < 1.05 * nearest).sum() - 1 == number


def test_gemmi_makes_the_same_atoms_of_the_tables_sites(everything):
    import gemmi

    for phase, entry in zip(everything[::9], table()[::9]):
        structure = gemmi.SmallStructure()
        structure.cell = gemmi.UnitCell(*entry["cell"])
        structure.symops = group_of_spglib(entry["hall"]).triplets()
        structure.determine_and_set_spacegroup("S")
        for i, (element, *xyz) in enumerate(entry["sites"]):
            site = gemmi.SmallStructure.Site()
            site.label, site.element, site.fract = f"{element}{i}", gemmi.Element(element), gemmi.Fractional(*xyz)
            structure.add_site(site)
        counts = Counter(site.element.name for site in structure.get_all_unit_cell_sites())
        assert counts == Counter(atom.element for atom in phase.structure), entry["id"]


def test_extinctions(everything):
    names = {p.name: p for p in everything}
    diamond = {tuple(sorted(map(abs, hkl))) for hkl in reflections(names["C cF8"], 1.5).hkl.tolist()}
    assert (1, 1, 1) in diamond and (0, 2, 2) in diamond and (0, 0, 2) not in diamond and (2, 2, 2) not in diamond
    salt = {tuple(sorted(map(abs, hkl))) for hkl in reflections(names["NaCl cF8"], 0.8).hkl.tolist()}
    assert all(len({h % 2 for h in hkl}) == 1 for hkl in salt)


def test_crystals_find_their_own_prototype(everything):
    found = [prototype_of(standard(phase)) for phase in everything]
    others = {entry["id"]: name for entry, name in zip(table(), found) if name != entry["prototype"]}
    # so near to the symmetry of FeB that ordinary tolerances cannot tell
    assert others == {"AB_oP8_33_a_a:CoAs": "AB_oP8_62_c_c"}


@pytest.mark.parametrize(
    "phase, prototype",
    [
        (metal("Ag", 4.086), "A_cF4_225_a"),
        (metal("W", 3.165, 229), "A_cI2_229_a"),
        (rock_salt("Pb", "S", 5.936), "AB_cF8_225_a_b"),
        (layered("Co", 2.816, 14.05), "ABC2_hR4_166_a_b_c"),
        # one signature, another structure: antifluorite counts as fluorite, ReO3 and Cu3Au are kept apart
        (crystal("Na2O", 225, 5.55, ("O", (0, 0, 0), 1.0), ("Na", (0.25, 0.25, 0.25), 1.0)), "AB2_cF12_225_a_c"),
        (crystal("WO3", 221, 3.77, ("W", (0, 0, 0), 1.0), ("O", (0.5, 0, 0), 1.0)), "A3B_cP4_221_d_a"),
        (crystal("Ni3Al", 221, 3.57, ("Al", (0, 0, 0), 1.0), ("Ni", (0.5, 0.5, 0), 1.0)), "AB3_cP4_221_a_c"),
        (crystal("CuNi", 225, 3.57, ("Cu", (0, 0, 0), 0.5), ("Ni", (0, 0, 0), 0.5)), "A_cF4_225_a"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_prototypes_of_other_crystals(phase, prototype):
    assert prototype_of(standard(phase)) == prototype


def test_a_prototype_that_is_not_in_the_table_is_named_alike_whatever_the_origin_and_the_elements():
    def made(first, shift):
        atoms = (first, (0.1 + shift, 0.2, 0.3), 1.0), ("O", (0.4 + shift, 0.15, 0.05), 1.0)
        return prototype_of(standard(crystal("x", 19, (5.0, 6.0, 7.0, 90, 90, 90), *atoms)))

    assert made("Fe", 0) == made("Sr", 0.5) == "AB_oP8_19_4(1)_4(1)"


# -------------------------------------------------------------------------------------------------- laws and draws


@pytest.fixture(scope="module")
def collection():
    """9 fcc, 4 bcc and 1 rock salt."""
    fcc = [metal("Al", 3.5 + 0.2 * i) for i in range(9)]
    bcc = [metal("Fe", 2.8 + 0.2 * i, 229) for i in range(4)]
    return Structures([*fcc, *bcc, rock_salt("Mg", "O", 4.21)])


def drawn(collection, *args, **kwargs):
    found = pyxem_dl.structures(collection, *args, **kwargs)
    return Counter(entry["prototype"].split("_")[1] for entry in found.manifest)


def test_the_square_root_law(collection):
    assert drawn(collection, law="sqrt") == {"cF4": 3, "cI2": 2, "cF8": 1}
    # as published: by the counts of a table, with what is not in it together
    assert drawn(collection, law="sqrt", counts={"A_cF4_225_a": 30, "Other": 10}) == {"cF4": 5, "cI2": 3}
    assert drawn(collection, law="sqrt", counts={"A_cF4_225_a": 2, "A_cI2_229_a": 7}) == {"cF4": 1, "cI2": 3}


def test_other_laws(collection):
    assert drawn(collection) == {"cF4": 9, "cI2": 4, "cF8": 1}
    assert drawn(collection, law="uniform") == {"cF4": 1, "cI2": 1, "cF8": 1}
    assert drawn(collection, 9, law="uniform") == {"cF4": 4, "cI2": 4, "cF8": 1}


def test_a_draw_is_that_of_its_seed():
    ids = [e["id"] for e in pyxem_dl.structures("prototypes", 5, law="sqrt", seed=0).manifest]
    # on any computer
    assert ids == ["ABC4_mP12_13_e_a_2g:AgTe4Au", "A_hR2_166_c:O", "A_hR3_166_ac:Sm", "AB_oP8_62_c_c:GeS",
                   "AB2_mC6_12_a_i:Te2Au"]  # fmt: skip
    assert [e["id"] for e in pyxem_dl.structures(n=3, law="sqrt").manifest] == ids[:3]
    other = [e["id"] for e in pyxem_dl.structures("prototypes", 5, law="sqrt", seed=1).manifest]
    assert len(set(other) & set(ids)) < 3


def test_more_than_there_are(collection):
    with pytest.warns(UserWarning, match="n=20 crystals were asked for, and 14 are there"):
        assert len(pyxem_dl.structures(collection, 20)) == 14
    with pytest.warns(UserWarning, match="n=10 .* law='sqrt' takes 6 of the 14"):
        assert len(pyxem_dl.structures(collection, 10, law="sqrt")) == 6


@pytest.mark.parametrize(
    "kwargs, error, message",
    [
        ({"law": "cube"}, ValueError, "law must be 'sqrt', 'uniform' or None, not 'cube'"),
        ({"n": 0}, ValueError, "n must be a whole number of at least 1"),
        ({"n": 2.5}, ValueError, "n must be a whole number"),
        ({"seed": -1}, ValueError, "seed must be a whole number"),
        ({"max_atoms": "many"}, TypeError, "max_atoms must be a whole number"),
        ({"counts": {"a": 1}}, ValueError, "counts= is for law='sqrt'"),
        ({"counts": {"a": -1}, "law": "sqrt"}, ValueError, r"counts\['a'\] must be"),
        ({"counts": 3, "law": "sqrt"}, TypeError, "counts must be a dict"),
        ({"timeout": 0}, ValueError, "timeout must be a number above 0"),
        ({"exclude": "Xx"}, ValueError, "'Xx' is neither a formula"),
        ({"exclude": {"Al", "Q"}}, ValueError, "'Q' is no chemical element"),
        ({"exclude": [3]}, TypeError, "exclude takes formulas"),
        ({"exclude": 3}, TypeError, "exclude takes formulas"),
        ({"exclude": "nowhere.cif"}, FileNotFoundError, "nowhere.cif"),
        ({"source": "prototypez"}, ValueError, "Did you mean 'prototypes'.*'optimade:<database>"),
        ({"source": "no/such/folder"}, ValueError, "no such folder.*a folder of CIF files"),
        ({"source": 3}, TypeError, "source must be 'prototypes'"),
        ({"source": []}, ValueError, "No phase was given"),
        ({"source": "nowhere.json"}, FileNotFoundError, "no manifest"),
    ],
)
def test_bad_arguments(kwargs, error, message):
    with pytest.raises(error, match=message):
        pyxem_dl.structures(**kwargs)


# ------------------------------------------------------------------------------------------------------ exclusions

AL, CU, SI = metal("Al", 4.05), metal("Cu", 3.615), metal("Si", 5.431, 227)
MGO, LINIO2 = rock_salt("Mg", "O", 4.212), layered("Ni", 2.88, 14.19)


@pytest.mark.parametrize(
    "excluded, twin",
    [
        (AL, metal("Ag", 4.086)),
        (AL, metal("Au", 4.078)),
        (CU, crystal("CuNi", 225, 3.57, ("Cu", (0, 0, 0), 0.5), ("Ni", (0, 0, 0), 0.5))),
        (CU, crystal("Cu3Au", 221, 3.75, ("Au", (0, 0, 0), 1.0), ("Cu", (0.5, 0.5, 0), 1.0))),
        # tetragonal by 3 %: neither the space group nor the cell of aluminium
        (AL, crystal("In", 139, (2.84, 2.84, 4.14, 90, 90, 90), ("In", (0, 0, 0), 1.0))),
        (LINIO2, rock_salt("Ni", "O", 4.177)),
        (SI, metal("Ge", 5.658, 227)),
        (SI, crystal("GaP", 216, 5.451, ("Ga", (0, 0, 0), 1.0), ("P", (0.25, 0.25, 0.25), 1.0))),
        (MGO, rock_salt("Ni", "O", 4.177)),
        (MGO, rock_salt("Ti", "N", 4.24)),
        (LINIO2, layered("Co", 2.816, 14.05)),
    ],
    ids=lambda phase: phase.name,
)
def test_twins_are_left_out(excluded, twin):
    far = metal("Pb", 4.95)
    for first, second in ((excluded, twin), (twin, excluded)):
        found = pyxem_dl.structures(Structures([second, far]), exclude=first)
        assert [phase.name for phase in found] == ["Pb"]
        (reason,) = found.left_out.values()
        assert first.name in reason


def test_a_twin_on_other_axes(tmp_path):
    cell = "".join(f"_cell_length_{axis} 4.96\n" for axis in "abc")
    cell += "".join(f"_cell_angle_{angle} 32.98\n" for angle in ("alpha", "beta", "gamma"))
    columns = "\n".join(f"_atom_site_{key}" for key in ("type_symbol", "fract_x", "fract_y", "fract_z"))
    atoms = "Co 0 0 0\nLi 0.5 0.5 0.5\nO 0.242 0.242 0.242\n"
    (tmp_path / "a.cif").write_text(f"data_a\n{cell}_space_group_name_H-M_alt 'R -3 m :R'\nloop_\n{columns}\n{atoms}")
    with pytest.warns(UserWarning, match="orientations refer to the cell of the file"):
        (phase,) = found = pyxem_dl.structures(tmp_path)
    assert len(phase.structure) == 4 and found.manifest[0]["prototype"] == "ABC2_hR4_166_a_b_c"
    with pytest.raises(ValueError, match="No crystal is left .*structure type and nearly the cell of LiNiO2"):
        pyxem_dl.structures(phase, exclude=LINIO2)
    assert pyxem_dl.structures(found.save(tmp_path / "saved")).manifest == found.manifest


@pytest.mark.parametrize(
    "excluded, other",
    [
        (AL, metal("Pb", 4.95)),
        (AL, metal("Cu", 3.615)),
        (AL, crystal("Ti", 194, (2.95, 2.95, 4.68, 90, 90, 120), ("Ti", (1 / 3, 2 / 3, 0.25), 1.0))),
        (AL, metal("Ta", 3.30, 229)),
        (SI, metal("C", 3.567, 227)),
        (SI, metal("Ca", 5.58)),
        (MGO, rock_salt("Na", "Cl", 5.64)),
        (MGO, crystal("SrTiO3", *COMMON["SrTiO3"][:2], *((e, x, 1.0) for e, x in COMMON["SrTiO3"][2]))),
        (LINIO2, layered("Na", 3.4, 17.0)),
    ],
    ids=lambda phase: phase.name,
)
def test_what_is_no_twin_stays(excluded, other):
    assert len(pyxem_dl.structures([other], exclude=[excluded])) == 1


def test_a_crystal_is_its_own_twin_and_likeness_is_mutual():
    for phase in (AL, SI, LINIO2):
        assert isostructural(standard(phase), standard(phase))
        assert similarity(intensity_curve(phase), intensity_curve(phase)) == pytest.approx(1)
    one, other = intensity_curve(AL), intensity_curve(MGO)
    assert similarity(one, other) == pytest.approx(similarity(other, one)) and similarity(one, other) < 0.7


def test_formulas_stand_for_the_crystals_that_are_known(everything):
    names = ["Al", "Cu", "Si", "Ag", "MgO", "LiNiO2"]
    out = {"A_cF4_225_a:Cu", "A_cF136_227_aeg:Si", "AB_cF8_216_c_a:ZnS", "AB3_cP4_221_a_c:Cu3Au"}
    some = [phase for i, (phase, e) in enumerate(zip(everything, table())) if i % 9 == 0 or e["id"] in out]
    some = Structures(some, everything.manifest)
    found = pyxem_dl.structures(some, exclude=names, show_progressbar=False)
    assert out <= set(found.left_out) and len(found) + len(found.left_out) == len(some) and len(found) > 25
    assert "composition of Cu" in found.left_out["A_cF4_225_a:Cu"]
    for group, cell, atoms in (COMMON[name] for name in names):
        reference = crystal("reference", group, cell, *((e, x, 1.0) for e, x in atoms))
        assert not any(isostructural(standard(reference), standard(phase)) for phase in found)


def test_compositions_and_chemical_systems():
    oxides = Structures([rock_salt("Mg", "O", 4.21), rock_salt("Ni", "O", 4.9), metal("Ni", 3.0), LINIO2])
    names = [p.name for p in pyxem_dl.structures(oxides, exclude="Li-Ni-O")]
    assert names == ["MgO"]
    assert [p.name for p in pyxem_dl.structures(oxides, exclude=[{"Ni", "O"}])] == ["MgO", "LiNiO2"]
    with pytest.warns(UserWarning, match="no structure of Al13Fe4 is known here"):
        assert len(pyxem_dl.structures(oxides, exclude="Al13Fe4")) == 4
    with pytest.raises(ValueError, match="No crystal is left .* 1 were left out, such as .*composition of Al"):
        pyxem_dl.structures([AL], exclude="Al")


# ------------------------------------------------------------------------------------------------------- manifests


def test_a_hash_is_that_of_the_structure():
    first = rock_salt("Mg", "O", 4.212)
    atoms = [Atom("O", (0.5, 0.5, 0.5)), Atom("Mg", (0, 0, 0))]
    structure = Structure(atoms, Lattice(4.212, 4.212, 4.212, 90, 90, 90))
    (other,) = load_phases(Phase("another name", space_group=225, structure=structure, color="red"))
    assert structure_hash(first) == structure_hash(other)
    assert structure_hash(first) != structure_hash(rock_salt("Mg", "O", 4.213))
    assert structure_hash(first) != structure_hash(rock_salt("Mg", "S", 4.212))
    # on any computer
    assert structure_hash(metal("Al", 4.05))[:16] == "71a8e4a1c6904a9d"


def test_manifests_follow_their_phases(everything):
    some = everything[10:14]
    assert isinstance(some, Structures) and some.manifest == everything.manifest[10:14]
    assert some.copy().manifest == pickle.loads(pickle.dumps(some)).manifest == some.manifest
    turned = Structures(sorted(some, key=lambda p: p.name)[::-1], some.manifest)
    assert [e["name"] for e in turned.manifest] == [p.name for p in turned]
    both = some + [AL]
    assert both.manifest[:4] == some.manifest
    entry = both.manifest[4]
    assert (entry["source"], entry["formula"], entry["prototype"]) == ("user", "Al", "A_cF4_225_a")
    assert json.loads(json.dumps(both.manifest)) == both.manifest
    assert "4 from prototypes, 1 from user" in repr(both)


def test_phases_and_files_of_a_user(root):
    path = root / "pyxem_dl" / "_data" / "MgO.cif"
    (entry,) = manifest_of(path)
    assert entry["source"] == "user" and entry["id"] == f"user:{entry['hash'][:16]}" and entry["n_atoms"] == 8
    assert manifest_of([path]) == pyxem_dl.structures(path).manifest == pyxem_dl.structures([path]).manifest
    half = crystal("CuNi", 225, 3.57, ("Cu", (0, 0, 0), 0.7), ("Ni", (0, 0, 0), 0.3))
    assert manifest_of(half)[0]["formula"] == "Cu0.7Ni0.3"
    assert manifest_of(LINIO2)[0]["formula"] == "LiNiO2"
    wustite = crystal("FeO", 225, 4.3, ("Fe", (0, 0, 0), 0.95), ("O", (0.5, 0, 0), 1.0))
    assert manifest_of(wustite)[0]["formula"] == "Fe0.95O"


def test_a_manifest_that_does_not_fit(everything):
    some = everything[:3]
    check_manifest(some.manifest, some)
    with pytest.raises(ValueError, match="3 entries, and there are 2 structures"):
        check_manifest(some.manifest, some[:2])
    with pytest.raises(ValueError, match="structure 0, .* has the hash .* but the entry"):
        check_manifest(some.manifest, some[::-1])
    for change, message in (
        ({"hash": "abc"}, r"structures.1.hash"),
        ({"space_group": 231}, r"structures.1.space_group.*not 231"),
        ({"n_atoms": "8"}, r"structures.1.n_atoms"),
        ({"colour": "red"}, r"structures.1.colour: unknown entry"),
        ({"file": "../x.cif"}, r"structures.1.file"),
        ({"name": "red\x1b[31m"}, r"structures.1.name: text on one line"),
        ({"id": ""}, r"structures.1.id"),
    ):
        entries = some.manifest
        entries[1] |= change
        with pytest.raises(ValueError, match=message):
            check_manifest(entries, some)
    with pytest.raises(ValueError, match="a list of dicts"):
        check_manifest({"a": 1}, some)


# ------------------------------------------------------------------------------------------------ files and folders


def test_crystals_of_the_table_come_back_from_files(everything, tmp_path):
    saved = everything[::2]
    folder = saved.save(tmp_path / "all")
    assert len(list(folder.glob("*.cif"))) == 134
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        back = pyxem_dl.structures(folder)
        again = pyxem_dl.structures(folder / "manifest.json", n=3)
    assert back.manifest == saved.manifest and [p.name for p in back] == [p.name for p in saved]
    check_manifest(read_manifest(folder / "manifest.json"), back)
    assert again.manifest == pyxem_dl.structures(saved, n=3).manifest
    # the table makes again what came from it, without the files
    (tmp_path / "alone.json").write_text((folder / "manifest.json").read_text())
    assert pyxem_dl.structures(tmp_path / "alone.json").manifest == saved.manifest


def test_solid_solutions_and_other_settings_come_back_from_files(tmp_path):
    atoms = ("Cu", (0, 0, 0), 0.7), ("Ni", (0, 0, 0), 0.3)
    mixed = crystal("Cu 70 Ni 30", 225, 3.57, *atoms)
    low = crystal("low", 14, (5.0, 6.0, 7.0, 90, 100, 90), ("Fe", (0.11, 0.27, 0.3), 1.0), ("O", (0.4, 0.1, 0.6), 0.8))
    found = Structures([mixed, low, LINIO2])
    assert pyxem_dl.structures(found.save(tmp_path / "set")).manifest == found.manifest


def test_names_of_files_are_safe(tmp_path):
    names = ["../../evil", "con", "a/b\\c", "  ", "\x1b[31mred\x07", "Å⁻¹ & Co", "x" * 300, "same", "SAME", ".hidden"]
    found = Structures([metal("Al", 4.0 + 0.1 * i) for i in range(len(names))])
    for phase, name in zip(found, names):
        phase.name = name
    folder = found.save(tmp_path / "set")
    files = sorted(path.name for path in folder.iterdir())
    assert len(files) == 11 and {path.name for path in tmp_path.iterdir()} == {"set"}
    assert all(name.isascii() and len(name) < 90 and name[0] not in ".-" for name in files)
    assert len(pyxem_dl.structures(folder)) == 10


def test_folders_are_not_overwritten_by_chance(tmp_path):
    found = Structures([AL])
    found.save(tmp_path / "set")
    with pytest.raises(FileExistsError, match="already exists"):
        found.save(tmp_path / "set")
    Structures([CU]).save(tmp_path / "set", overwrite=True)
    assert [p.name for p in pyxem_dl.structures(tmp_path / "set")] == ["Cu"]
    (tmp_path / "set" / "thesis.docx").write_text("years of work")
    with pytest.raises(FileExistsError, match="holds other files"):
        found.save(tmp_path / "set", overwrite=True)
    assert (tmp_path / "set" / "thesis.docx").exists()


def test_a_folder_with_a_broken_file(tmp_path, root):
    (tmp_path / "good.cif").write_text((root / "pyxem_dl" / "_data" / "MgO.cif").read_text())
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "twice.CIF").write_text((tmp_path / "good.cif").read_text())
    (tmp_path / "broken.cif").write_text("data_x\n_cell_length_a 4\nloop_\n")
    (tmp_path / "empty.cif").write_text("")
    with pytest.warns(UserWarning) as said:
        found = pyxem_dl.structures(tmp_path)
    (text,) = (str(w.message) for w in said if "could not be read" in str(w.message))
    assert "2 structures" in text and "broken.cif: " in text and "empty.cif: empty.cif is empty" in text
    (entry,) = found.manifest
    assert entry["source"] == "folder" and entry["licence"] == "not stated" and str(tmp_path) not in str(found.manifest)
    assert len(found.left_out) == 3 and any("same structure as" in why for why in found.left_out.values())


def test_folders_without_crystals(tmp_path):
    with pytest.raises(ValueError, match="holds no CIF file"):
        pyxem_dl.structures(tmp_path)
    (tmp_path / "a.cif").write_text("data_a\n_cell_length_a 4\n")
    with pytest.raises(ValueError, match="None of the 1 CIF files .* a.cif .*has no atoms"):
        pyxem_dl.structures(tmp_path)


def test_overlapping_atoms_and_large_cells(tmp_path):
    def write(name, a, places):
        cell = "".join(f"_cell_length_{axis} {a}\n" for axis in "abc")
        rows = "".join(f"Al {x:.4f} {y:.4f} {z:.4f}\n" for x, y, z in places)
        columns = "\n".join(f"_atom_site_{key}" for key in ("type_symbol", "fract_x", "fract_y", "fract_z"))
        (tmp_path / name).write_text(f"data_a\n{cell}_space_group_IT_number 1\nloop_\n{columns}\n{rows}")

    write("near.cif", 4, [(0, 0, 0), (0.1, 0, 0)])
    write("large.cif", 28, np.random.default_rng(0).normal(np.indices((10, 10, 10)).reshape(3, -1).T / 10, 0.005))
    Structures([AL]).save(tmp_path / "more")
    with pytest.warns(UserWarning) as said:
        found = pyxem_dl.structures(tmp_path)
    assert [phase.name for phase in found] == ["Al"]
    texts = " ".join(str(w.message) for w in said)
    assert "near.cif: " in texts and "only 0.40 Å apart" in texts
    assert "1 structures are too large: large.cif: it has 1000 atoms, more than max_atoms=500" in texts
    assert set(found.left_out) == {"near.cif", "large.cif"}


def test_files_that_are_not_what_the_manifest_says(tmp_path):
    folder = Structures([AL, CU]).save(tmp_path / "set")
    text = (folder / "Al.cif").read_text()
    (folder / "Al.cif").write_text(text.replace("4.05", "4.15"))
    with pytest.warns(UserWarning, match="1 structures are not what manifest.json says.*Al.cif"):
        found = pyxem_dl.structures(folder)
    assert [entry["source"] for entry in found.manifest] == ["folder", "user"]
    with pytest.raises(ValueError, match="1 of its 2 structures cannot be made again.*another hash"):
        pyxem_dl.structures(folder / "manifest.json")
    (folder / "Al.cif").unlink()
    with pytest.raises(ValueError, match="from user, not here.*Give the folder"):
        pyxem_dl.structures(folder / "manifest.json")


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "not JSON"),
        ("[]", "lacks 'format'"),
        ('{"format": "pyxem_dl structures", "version": 2, "structures": []}', "of version 2; .* reads 1"),
        ('{"format": "pyxem_dl structures", "version": 1, "structures": [1]}', "a list of dicts"),
        ('{"format": "pyxem_dl structures", "version": 1, "structures": [{}]}', "structures.0.id: is missing"),
        ("[" * 100_000, "nested more than"),
    ],
)
def test_damaged_manifests(text, message, tmp_path):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        pyxem_dl.structures(tmp_path / "manifest.json")


# ------------------------------------------------------------------------------------------------ the command line


def test_the_command(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from pyxem_dl.__main__ import app

    def run(*arguments):
        done = CliRunner().invoke(app, ["structures", *map(str, arguments)])
        return done.exit_code, done.output

    monkeypatch.chdir(tmp_path)
    code, text = run("-n", 4, "--law", "sqrt", "--output", "set", "--no-progress")
    assert code == 0 and "AgTe4Au mP12" in text and "4 crystals of 4 prototypes." in text and "Written to set." in text
    assert pyxem_dl.structures("set").manifest == pyxem_dl.structures(n=4, law="sqrt").manifest
    code, text = run("set", "--exclude", "Sm", "--no-progress")
    assert code == 0 and "3 crystals" in text and "1 were left out:\n  A_hR3_166_ac:Sm: it has the composition" in text
    for arguments, message in (
        (["set", "--output", "set"], "already exists. Give another name, or --overwrite"),
        (["prototypez"], "Did you mean 'prototypes'?"),
        (["--law", "cube"], "law must be 'sqrt', 'uniform' or None"),
    ):
        code, text = run(*arguments)
        assert code == 1 and text.startswith("Error: ") and message in text
