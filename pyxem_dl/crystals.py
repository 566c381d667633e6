"""Phases: crystal structures in, reflections with structure factors out."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from pyxem_dl.frames import electron_wavelength, excitation_error, interaction_parameter
from pyxem_dl.rotations import matmul, to_matrix

# Below this share of the strongest |F|^2 a reflection is extinct for our purposes.
_EXTINCT = 1e-6
# Half width (1/Angstrom) of the curve that ranks reflections by how strong they may be.
_SELECTION_WIDTH = 0.01
# Extinction distance (Angstrom) of padding: dark, and finite, so that 0 times it is 0.
_NEVER = 1e9


@dataclass(frozen=True)
class Reflections:
    """Reflections of a phase inside a sphere, strongest first, without (000).

    Parameters
    ----------
    hkl : array of int, shape (n, 3)
        Miller indices.
    g : tensor, shape (n, 3)
        Reciprocal vectors in the crystal's Cartesian frame (e1 || a, e3 || c*), 1/Angstrom.
    structure_factor : tensor, shape (n,)
        |F| in Angstrom, from Lobato's scattering factors.
    volume : float
        Of the unit cell, in cubic Angstrom.
    """

    hkl: np.ndarray
    g: torch.Tensor
    structure_factor: torch.Tensor
    volume: float

    def __len__(self) -> int:
        return len(self.hkl)

    def extinction_distance(self, beam_energy: float) -> torch.Tensor:
        """Two-beam extinction distances (n,) in Angstrom at a beam energy in kV."""
        scale = np.pi * self.volume / interaction_parameter(beam_energy)
        return scale / self.structure_factor


def load_phases(phases) -> list:
    """Read phases and make them fit for simulation.

    Charges are stripped off element labels (``Mg2+`` becomes ``Mg``: diffsims returns no
    spots for such labels), atoms are completed by the space group, and a structure that
    came without symmetry gets its space group from spglib.

    Parameters
    ----------
    phases : orix.crystal_map.Phase, path of a CIF file, or an iterable of these
        Phases with a structure.

    Returns
    -------
    list of orix.crystal_map.Phase
        New phases, with space group and a full unit cell.

    Raises
    ------
    FileNotFoundError, ValueError
        For a file or a phase that cannot be used; the message says why.
    """
    from orix.crystal_map import Phase, PhaseList

    if isinstance(phases, (Phase, str, Path)):
        phases = [phases]
    elif isinstance(phases, PhaseList):
        phases = [phase for _, phase in phases if phase.name != "not_indexed"]
    elif not isinstance(phases, Iterable):
        raise TypeError(f"A phase is an orix Phase or the path of a CIF file, not {phases!r}.")
    loaded = [_load_phase(phase) for phase in phases]
    if not loaded:
        raise ValueError("No phase was given: give an orix Phase or the path of a CIF file.")
    names = [phase.name for phase in loaded]
    for i, phase in enumerate(loaded):
        if names.count(phase.name) > 1:
            phase.name = f"{phase.name} ({i})"
    return loaded


def _load_phase(phase):
    from orix.crystal_map import Phase

    if not isinstance(phase, Phase):
        path = Path(phase)
        if not path.is_file():
            raise FileNotFoundError(f"There is no structure file {str(path)!r}.")
        try:
            phase = Phase.from_cif(str(path))
        except Exception as error:
            raise ValueError(f"{path.name} could not be read as a CIF file: {error}") from error
        phase.name = phase.name or path.stem
        if not phase.name or phase.name.isdigit():
            phase.name = path.stem
    if len(phase.structure) == 0:
        raise ValueError(
            f"The phase {phase.name!r} has no atoms. Give a CIF file with atom sites, or a Phase "
            "with `structure=diffpy.structure.Structure(atoms=..., lattice=...)`."
        )
    phase = phase.deepcopy()
    for atom in phase.structure:
        atom.element = _plain_element(atom.element, phase.name)
    if phase.space_group is None or phase.space_group.number == 1:
        return _with_symmetry_found(phase)
    full = phase.expand_asymmetric_unit()
    if len(full.structure) != len(phase.structure):
        full.name, full.color = phase.name, phase.color
        return full
    return phase


def _plain_element(label: str, phase_name: str) -> str:
    """``Mg2+`` -> ``Mg``; an error for what is no element."""
    from diffsims.utils.lobato_scattering_params import ATOMIC_SCATTERING_PARAMS_LOBATO

    match = re.match(r"([A-Z][a-z]?)", label.strip().capitalize() if label.isupper() else label)
    element = {"D": "H", "T": "H"}.get(match[1], match[1]) if match else ""
    if element not in ATOMIC_SCATTERING_PARAMS_LOBATO:
        raise ValueError(f"{label!r} in the phase {phase_name!r} is no element known to diffsims.")
    return element


def _with_symmetry_found(phase):
    """Give a phase without symmetry the space group that spglib finds."""
    import spglib
    from diffpy.structure import Atom, Lattice, Structure
    from orix.crystal_map import Phase

    lattice = phase.structure.lattice
    kinds = {}
    atoms = list(phase.structure)
    numbers = [kinds.setdefault((a.element, round(a.occupancy, 4)), len(kinds)) for a in atoms]
    cell = (lattice.base, fractional_coordinates(phase.structure), numbers)
    # coordinates of three digits, as many files have them, are off by 0.003 Angstrom
    data = spglib.get_symmetry_dataset(cell, symprec=1e-2)
    if data is None or data.number == 1:
        phase.space_group = 1
        warnings.warn(
            f"{phase.name!r} came without symmetry, and spglib finds none: space group P1 (1).",
            stacklevel=4,
        )
        return phase
    species = list(kinds)
    standard = Structure(
        lattice=Lattice(*Lattice(base=data.std_lattice).abcABG()),
        atoms=[
            Atom(species[kind][0], xyz, occupancy=species[kind][1])
            for kind, xyz in zip(data.std_types, data.std_positions, strict=True)
        ],
    )
    found = Phase(
        name=phase.name, space_group=data.number, structure=standard, color=phase.color
    )
    cell_text = ", ".join(f"{x:.4g}" for x in found.structure.lattice.abcABG())
    warnings.warn(
        f"{phase.name!r} came without symmetry; spglib finds space group {data.international} "
        f"({data.number}). Orientations refer to its standard cell ({cell_text}).",
        stacklevel=4,
    )
    return found


def reflections(phase, reciprocal_radius: float) -> Reflections:
    """List a phase's reflections with their structure factors.

    Parameters
    ----------
    phase : orix.crystal_map.Phase
        From :func:`load_phases`.
    reciprocal_radius : float
        Radius of the sphere in 1/Angstrom.

    Raises
    ------
    ValueError
        If no reflection lies inside.

    Notes
    -----
    Indices are enumerated here, since orix' ``from_min_dspacing`` loses reflections of
    hexagonal cells; structure factors are diffsims'.
    """
    from diffsims.utils.sim_utils import get_kinematical_intensities

    lattice = phase.structure.lattice
    limits = np.floor(reciprocal_radius * np.array([lattice.a, lattice.b, lattice.c])).astype(int)
    axes = [np.arange(-n, n + 1) for n in limits]
    hkl = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    # diffpy: the rows of base are a, b, c, the columns of recbase a*, b*, c*
    g = hkl @ lattice.recbase.T
    length = np.linalg.norm(g, axis=1)
    inside = (length <= reciprocal_radius) & (length > 0)
    hkl, g, length = hkl[inside], g[inside], length[inside]
    if len(hkl):
        squared = get_kinematical_intensities(phase.structure, hkl, length)
        # where all are extinct, what is left of them by rounding has to be told from intensity
        forward = get_kinematical_intensities(phase.structure, np.zeros((1, 3)), np.zeros(1))[0]
        present = squared > _EXTINCT * max(squared.max(), _EXTINCT * forward)
        hkl, g, squared = hkl[present], g[present], squared[present]
    if not len(hkl):
        raise ValueError(
            f"The phase {phase.name!r} has no reflection within {reciprocal_radius:g} 1/Å. "
            "Give a larger reciprocal_radius, and check the unit of the cell (Angstrom)."
        )
    order = np.argsort(-squared, kind="stable")
    return Reflections(
        hkl=hkl[order],
        g=torch.as_tensor(g[order], dtype=torch.float32),
        structure_factor=torch.as_tensor(np.sqrt(squared[order]), dtype=torch.float32),
        volume=float(lattice.volume),
    )


def structure_factors(phase, limits, debye_waller: float = 0.0) -> np.ndarray:
    """Complex structure factors of all reflections in a box of Miller indices.

    Parameters
    ----------
    phase : orix.crystal_map.Phase
        From :func:`load_phases`.
    limits : sequence of 3 int
        Largest h, k and l.
    debye_waller : float
        B in square Angstrom, of all atoms.

    Returns
    -------
    array of complex, shape (2h + 1, 2k + 1, 2l + 1)
        In Angstrom; indices (h, k, l) are at ``[h + limits[0], k + limits[1], l + limits[2]]``.
        Moduli are those of :func:`reflections` for B = 0.
    """
    from diffpy.structure import Atom, Structure
    from diffsims.utils.sim_utils import get_kinematical_intensities

    axes = [np.arange(-n, n + 1) for n in limits]
    hkl = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    flat = hkl.reshape(-1, 3)
    lattice = phase.structure.lattice
    length = np.linalg.norm(flat @ lattice.recbase.T, axis=1)
    total = np.zeros(len(flat), dtype=complex)
    scattering = {}
    for atom, xyz in zip(phase.structure, fractional_coordinates(phase.structure), strict=True):
        if atom.element not in scattering:
            # diffsims gives squares only: the scattering factor is that of an atom alone
            alone = Structure(lattice=lattice, atoms=[Atom(atom.element, [0, 0, 0])])
            scattering[atom.element] = np.sqrt(get_kinematical_intensities(alone, flat, length))
        phase_factor = np.exp(2j * np.pi * (flat @ xyz))
        total += atom.occupancy * scattering[atom.element] * phase_factor
    return (total * np.exp(-debye_waller * length**2 / 4)).reshape(hkl.shape[:3])


class Spots(NamedTuple):
    """Reflections near the Ewald sphere, per pattern; all tensors (n_patterns, n_spots).

    ``kx``, ``ky`` and ``excitation_error`` are in 1/Angstrom, ``structure_factor`` in
    Angstrom, ``extinction_distance`` in Angstrom; ``index`` points into the phase's
    reflections.  Padding has structure factor 0.
    """

    kx: torch.Tensor
    ky: torch.Tensor
    excitation_error: torch.Tensor
    structure_factor: torch.Tensor
    extinction_distance: torch.Tensor
    index: torch.Tensor


class ReflectionTable(NamedTuple):
    """Reflections of several phases, padded to one length: (n_phases, n, ...)."""

    g: torch.Tensor
    structure_factor: torch.Tensor
    extinction_distance: torch.Tensor

    @classmethod
    def stack(cls, reflections: list, beam_energy: float, device="cpu") -> ReflectionTable:
        """Stack :class:`Reflections`; beam energy in kV."""
        n = max(len(r) for r in reflections)

        def pad(tensor, value):
            shape = (n - len(tensor), *tensor.shape[1:])
            return torch.cat([tensor, tensor.new_full(shape, value)])

        columns = (
            [pad(r.g, 0.0) for r in reflections],
            [pad(r.structure_factor, 0.0) for r in reflections],
            [pad(r.extinction_distance(beam_energy), _NEVER) for r in reflections],
        )
        return cls(*(torch.stack(column).to(device) for column in columns))


def find_spots(
    table: ReflectionTable,
    phase_id: torch.Tensor,
    rotations: torch.Tensor,
    beam_energy: float,
    *,
    n_spots: int = 96,
    max_excitation_error: float = 0.12,
) -> Spots:
    """Find the reflections near the Ewald sphere of crystals in given orientations.

    Parameters
    ----------
    table : ReflectionTable
        Of the phases.
    phase_id : tensor of int, shape (n,)
        Phase of each crystal.
    rotations : tensor, shape (n, 4)
        Orientations, lab to crystal.
    beam_energy : float
        In kV.
    n_spots : int
        How many to keep: those that promise to be the strongest.
    max_excitation_error : float
        In 1/Angstrom.

    Returns
    -------
    Spots
        Strongest first.
    """
    g = table.g[phase_id]
    # g_lab = R^-1 g: row vectors from the left of R's matrix
    lab = matmul(g, to_matrix(rotations))
    error = excitation_error(*lab.unbind(-1), electron_wavelength(beam_energy))
    f = table.structure_factor[phase_id] * (error.abs() < max_excitation_error)
    promise = f**2 / (1 + (error / _SELECTION_WIDTH) ** 2)
    index = promise.topk(min(n_spots, promise.shape[1]), dim=1).indices

    def chosen(tensor):
        return tensor.gather(1, index)

    return Spots(
        chosen(lab[..., 0]),
        chosen(lab[..., 1]),
        chosen(error),
        chosen(f),
        chosen(table.extinction_distance[phase_id]),
        index,
    )


def fractional_coordinates(structure) -> np.ndarray:
    """Fractional coordinates (n, 3) of the atoms of an orix phase's structure.

    orix turns the lattice to its own Cartesian frame and keeps the atoms where they were in
    diffpy's; this undoes it.
    """
    lattice = structure.lattice
    if not len(structure):
        return np.zeros((0, 3))
    return np.asarray(structure.xyz) @ np.linalg.inv(lattice.stdbase @ lattice.recbase)


def phase_to_dict(phase) -> dict:
    """Phase as plain numbers and strings, for a model's ``config.json``."""
    if phase.space_group is None and phase.point_group is None:
        raise ValueError(
            f"The phase {phase.name!r} has neither a space group nor a point group, and a model cannot be kept "
            "without: set phase.space_group or phase.point_group."
        )
    known = {"space_group": int(phase.space_group.number)} if phase.space_group is not None else {
        "space_group": None, "point_group": phase.point_group.name,  # as files of orientation maps have it
    }  # fmt: skip
    return {
        "name": phase.name,
        **known,
        "color": phase.color,
        "lattice": [float(x) for x in phase.structure.lattice.abcABG()],
        "atoms": [
            [atom.element, *(round(float(x), 8) for x in xyz), float(atom.occupancy)]
            for atom, xyz in zip(
                phase.structure, fractional_coordinates(phase.structure), strict=True
            )
        ],
    }


def phase_from_dict(entry: dict):
    """Phase from what :func:`phase_to_dict` returned."""
    from diffpy.structure import Atom, Lattice, Structure
    from orix.crystal_map import Phase

    atoms = [Atom(a[0], a[1:4], occupancy=a[4]) for a in entry["atoms"]]
    structure = Structure(lattice=Lattice(*entry["lattice"]), atoms=atoms)
    return Phase(
        name=entry["name"],
        space_group=entry["space_group"],
        point_group=entry.get("point_group"),
        structure=structure,
        color=entry["color"],
    )
