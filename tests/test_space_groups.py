"""Every tabulated setting of every space group: what a CIF says is what comes out, by gemmi's structure factors."""

import warnings

import gemmi
import numpy as np
import pytest
import torch
from orix.crystal_map import CrystalMap, Phase, PhaseList
from orix.quaternion import Rotation
from scipy.spatial import cKDTree

from pyxem_dl import rotations, symmetry
from pyxem_dl.crystals import fractional_coordinates, load_phases, phase_from_dict, phase_to_dict, reflections
from pyxem_dl.crystals.space_groups import settings_of_symbol

TABLE = list(gemmi.spacegroup_table())
HKL = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, -1], [0, 2, 1], [1, 1, 1], [2, 1, 0], [1, 2, 3],
                [2, 0, 2], [-1, 3, 2], [3, 1, 1], [2, 2, 2], [4, 0, 2], [0, 4, 2], [-3, 1, 4], [2, -2, 4]])  # fmt: skip
SITES = [("Ti", (0.3992, 0.1633, 0.2172)), ("O", (0.1188, 0.3009, 0.0334)), ("Pb", (0, 0, 0))]


def cell_for(entry):
    """A cell that has the symmetry of a setting, and no more than it must."""
    rotation = np.array([op.rot for op in entry.operations()]) / 24
    metric = np.array([[225, 20, -29], [20, 289, 17], [-29, 17, 361.0]])
    metric = (np.swapaxes(rotation, 1, 2) @ metric @ rotation).mean(0)
    length = np.sqrt(np.diag(metric))
    angles = [np.rad2deg(np.arccos(metric[i, j] / length[i] / length[j])) for i, j in ((1, 2), (0, 2), (0, 1))]
    return [*length, *angles]


def cif_of(entry, operations=False, symbol=None, number=None):
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    lines = ["data_t", *(f"_cell_{name} {value:.8f}" for name, value in zip(names, cell_for(entry)))]
    lines += [f"_space_group_name_H-M_alt '{symbol}'"] if symbol else []
    lines += [f"_space_group_IT_number {number}"] if number else []
    if operations:
        lines += ["loop_", "_space_group_symop_operation_xyz", *(f"'{op.triplet()}'" for op in entry.operations())]
    lines += ["loop_", "_atom_site_label", "_atom_site_type_symbol"]
    lines += [f"_atom_site_fract_{axis}" for axis in "xyz"]
    return "\n".join([*lines, *(f"{e}1 {e} {x} {y} {z}" for e, (x, y, z) in SITES), ""])


def load(path, text):
    path.write_text(text)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (phase,) = load_phases(path)
    return phase, [str(w.message) for w in caught]


def by_gemmi(cell, sites, entry):
    """Moduli of gemmi's structure factors: of sites that gemmi completes by an entry of its table."""
    structure = gemmi.SmallStructure()
    structure.cell = gemmi.UnitCell(*cell)
    structure.spacegroup_hm = entry.xhm()
    structure.spacegroup = entry
    structure.setup_cell_images()
    for n, (element, xyz) in enumerate(sites):
        site = gemmi.SmallStructure.Site()
        site.label, site.element, site.fract = f"{element}{n}", gemmi.Element(element), gemmi.Fractional(*xyz)
        structure.add_site(site)
    structure.change_occupancies_to_crystallographic()
    calculator = gemmi.StructureFactorCalculatorX(structure.cell)
    return np.array([abs(calculator.calculate_sf_from_small_structure(structure, hkl.tolist())) for hkl in HKL])


def of_phase(phase):
    """The same of the atoms that we made, without any symmetry of gemmi's."""
    xyz = fractional_coordinates(phase.structure)
    sites = [(atom.element, x) for atom, x in zip(phase.structure, xyz)]
    return by_gemmi(phase.structure.lattice.abcABG(), sites, gemmi.SpaceGroup("P 1"))


@pytest.mark.parametrize("chunk", range(8))
def test_operations_listed(chunk, tmp_path):
    """The file's cell stays, gemmi's structure factors come out, and again after every way through our hands."""
    for entry in TABLE[chunk::8]:
        if entry.number == 1:
            continue
        expected = by_gemmi(cell_for(entry), SITES, entry)
        phase, said = load(tmp_path / "t.cif", cif_of(entry, operations=True))
        assert phase.structure.lattice.abcABG() == pytest.approx(cell_for(entry), abs=1e-5), entry.xhm()
        np.testing.assert_allclose(of_phase(phase), expected, rtol=1e-5, atol=1e-3, err_msg=entry.xhm())
        assert phase.space_group.number == entry.number
        assert phase.point_group.name == Phase(space_group=entry.number).point_group.name
        saved = phase_from_dict(phase_to_dict(phase))
        for other in (saved, load_phases(saved)[0]):
            assert len(other.structure) == len(phase.structure), entry.xhm()
            np.testing.assert_allclose(of_phase(other), expected, rtol=1e-4, atol=1e-2, err_msg=entry.xhm())


@pytest.mark.parametrize("chunk", range(8))
def test_laue_group_leaves_the_moduli_alone(chunk, tmp_path):
    """The rotations that orientations are compared by map reflections onto reflections of one strength, all of them."""
    for entry in TABLE[chunk::8]:
        if entry.number == 1:
            continue
        phase, _ = load(tmp_path / "t.cif", cif_of(entry, operations=True))
        found = reflections(phase, 0.2)
        operations = symmetry.proper_operations(phase)
        point = {tuple(np.sign(np.linalg.det(op.rot)) * np.array(op.rot).ravel()) for op in entry.operations()}
        assert len(operations) == len(point), entry.xhm()
        g = found.g.double()
        moved = (rotations.to_matrix(operations.double())[:, None] @ g[:, :, None])[..., 0].reshape(-1, 3)
        distance, partner = cKDTree(g).query(moved)
        partner = partner.reshape(len(operations), -1)
        assert float(distance.max()) < 1e-4, entry.xhm()
        difference = (found.structure_factor[partner] - found.structure_factor).abs().max()
        assert float(difference) < 1e-3 * float(found.structure_factor.max()), entry.xhm()


@pytest.mark.parametrize("chunk", range(8))
def test_symbol_alone(chunk, tmp_path):
    for entry in TABLE[chunk::8]:
        if entry.number == 1:
            continue
        symbol = entry.xhm() if entry.ext.strip("\0") else entry.hm
        phase, said = load(tmp_path / "t.cif", cif_of(entry, symbol=symbol))
        expected = by_gemmi(cell_for(entry), SITES, entry)
        np.testing.assert_allclose(of_phase(phase), expected, rtol=1e-5, atol=1e-3, err_msg=entry.xhm())
        assert not any("it means" in text for text in said), (entry.xhm(), said)


def test_number_alone(tmp_path):
    """The standard setting is taken, and said where there are others; of two origins one, by atoms or as a guess."""
    for entry in TABLE:
        if entry.number == 1 or not entry.is_reference_setting():
            continue
        phase, said = load(tmp_path / "t.cif", cif_of(entry, number=entry.number))
        choice = sum(other.number == entry.number for other in TABLE) > 1
        assert any("only the number" in text for text in said) == choice, entry.xhm()
        wanted = entry
        if entry.ext == "2":
            assert any("does not say which of" in text for text in said), entry.xhm()
            wanted = gemmi.SpaceGroup(f"{entry.hm}:{phase.space_group.short_name[-1]}") if ":" in (
                phase.space_group.short_name) else gemmi.SpaceGroup(f"{entry.hm}:1")  # fmt: skip
        expected = by_gemmi(cell_for(entry), SITES, wanted)
        np.testing.assert_allclose(of_phase(phase), expected, rtol=1e-5, atol=1e-3, err_msg=entry.xhm())


def test_number_alone_does_not_stand_for_other_axes(tmp_path):
    """Where the cell does not fit the standard setting, nothing is guessed."""
    refused = 0
    for entry in TABLE:
        standard = next(o for o in TABLE if o.number == entry.number and o.is_reference_setting())
        metric = gemmi.UnitCell(*cell_for(entry))
        if entry.hm == standard.hm or metric.is_compatible_with_spacegroup(standard):
            continue
        with pytest.raises(ValueError, match="does not (fit|say)"):
            load(tmp_path / "t.cif", cif_of(entry, number=entry.number))
        refused += 1
    assert refused > 50


@pytest.mark.parametrize(
    "spelling, hall",
    [
        ("P 21/n", "-P 2yn"), ("P 1 21/n 1", "-P 2yn"), ("P121/n1", "-P 2yn"), ("p 21/n", "-P 2yn"),
        ("P2_1/n", "-P 2yn"), ("P 2_1/c", "-P 2ybc"), ("C2/m", "-C 2y"), ("P 1 1 2/m", "-P 2"), ("P112/m", "-P 2"),
        ("R-3m:H", '-R 3 2"'), ("R -3 m :H", '-R 3 2"'), ("R-3mH", '-R 3 2"'), ("R -3 m h", '-R 3 2"'),
        ("R-3m:R", '-P 3* 2'), ("R-3mR", "-P 3* 2"), ("Fd-3mS", "F 4d 2 3 -1d"), ("F d -3 m Z", "-F 4vw 2vw 3"),
        ("F d -3 m :2", "-F 4vw 2vw 3"), ("Fd-3m (origin choice 2)", "F 4d 2 3 -1d"), ("F d 3 m :2", "-F 4vw 2vw 3"),
        ("P 63/m m c", "-P 6c 2c"), ("P6_3/mmc", "-P 6c 2c"), ("P63/MMC", "-P 6c 2c"), ("Fm3m", "-F 4 2 3"),
        ("F m 3̅ m", "-F 4 2 3"), ("Pbnm", "-P 2c 2ab"), ("C m c e", "-C 2bc 2"), ("P21", "P 2yb"),
        ("P 21 21 21", "P 2ac 2ab"), ("P n m a (62)", "-P 2ac 2n"), ("I 41/a m d S", "I 4bw 2bw -1bw"),
    ],
)  # fmt: skip
def test_spellings_of_symbols(spelling, hall):
    (first, *_) = settings_of_symbol(spelling)
    assert first.key == _key(gemmi.symops_from_hall(hall)), (spelling, first.name)


def _key(operations):
    from pyxem_dl.crystals.space_groups import Group

    rotation = np.array([op.rot for op in operations]) // 24
    return Group(rotation, np.array([op.tran for op in operations]), 1, "").key


@pytest.mark.parametrize("name", ["R -3 m:R", "P 1 1 2/m", "P 2/m 1 1", "C 1 2/m 1", "R 3:R", "P 3 1 2"])
def test_grids_and_colours_have_the_axes_of_the_cell(name, tmp_path):
    """Every zone axis is near one of the grid's, by the Laue group; orientations that are alike have one colour."""
    from pyxem_dl.plot.maps import ipf_colors

    phase, _ = load(tmp_path / "t.cif", cif_of(gemmi.SpaceGroup(name), operations=True))
    operations = symmetry.proper_operations(phase)
    generator = torch.Generator().manual_seed(0)
    axes = rotations.zone_axes(symmetry.reduced_grid(phase, 5.0))
    anywhere = torch.nn.functional.normalize(torch.randn(200, 3, generator=generator), dim=1)
    alike = torch.einsum("oij,nj->noi", rotations.to_matrix(operations), anywhere)
    distance = torch.rad2deg(torch.acos((alike @ axes.T).amax((1, 2)).clamp(-1, 1)))
    assert distance.max() < 5 / np.sqrt(2) * 1.1
    q = rotations.random_rotations(10, generator)
    copies = rotations.multiply(operations[:, None], q).reshape(-1, 4)
    xmap = CrystalMap(Rotation(copies.numpy()), phase_list=PhaseList([phase]))
    colors = ipf_colors(xmap.rotations.data, xmap.phase_id, {0: phase}, "z").reshape(len(operations), 10, 3)
    np.testing.assert_allclose(colors, np.broadcast_to(colors[:1], colors.shape), atol=1e-3)
    assert np.ptp(colors[0], axis=0).max() > 0.2
