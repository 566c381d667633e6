"""Reflections of a phase: structure factors, and the spots near the Ewald sphere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from pyxem_dl.crystals.phases import fractional_coordinates
from pyxem_dl.electrons import electron_wavelength, interaction_parameter
from pyxem_dl.frames import excitation_error
from pyxem_dl.rotations import matmul, to_matrix

# Below this share of the strongest |F|^2 a reflection is extinct for our purposes.
_EXTINCT = 1e-6
# Half width (Å⁻¹) of the curve that ranks reflections by how strong they may be.
_SELECTION_WIDTH = 0.01
# Extinction distance (Angstrom) of padding: dark, and finite, so that 0 times it is 0.
_NEVER = 1e9
# Reflections of a phase: a protein's 10^5 fit, those of a cell in the wrong unit do not.
_MAX_REFLECTIONS = 1_000_000
# Numbers in an array of reflections x atoms
_MAX_ELEMENTS = 1_000_000
# With so many lattice points in the sphere not all are extinct
_CERTAINLY_SOME = 500
# Crystals x reflections that are looked at at once
_ROWS_AT_ONCE = {"cpu": 2**18, "other": 2**25}


@dataclass(frozen=True)
class Reflections:
    """Reflections of a phase inside a sphere, strongest first, without (000).

    Parameters
    ----------
    hkl : array of int, shape (n, 3)
        Miller indices.
    g : tensor, shape (n, 3)
        Reciprocal vectors in the crystal's Cartesian frame (e1 || a, e3 || c*), Å⁻¹.
    structure_factor : tensor, shape (n,)
        ``|F|`` in Angstrom, from Lobato's scattering factors.
    volume : float
        Of the unit cell, in cubic Angstrom.
    """

    hkl: np.ndarray
    g: torch.Tensor
    structure_factor: torch.Tensor
    volume: float

    def __len__(self) -> int:
        return len(self.hkl)

    def strongest(self, n: int) -> Reflections:
        """Leave out all but the `n` strongest."""
        return Reflections(self.hkl[:n], self.g[:n], self.structure_factor[:n], self.volume)

    def extinction_distance(self, beam_energy: float) -> torch.Tensor:
        """Two-beam extinction distances (n,) in Angstrom at a beam energy in kV."""
        scale = np.pi * self.volume / interaction_parameter(beam_energy)
        return scale / self.structure_factor


def reflections(phase, reciprocal_radius: float, *, extinct: bool = False) -> Reflections:
    """List a phase's reflections with their structure factors.

    Parameters
    ----------
    phase : orix.crystal_map.Phase
        From :func:`load_phases`.
    reciprocal_radius : float
        Radius of the sphere in Å⁻¹.
    extinct : bool
        List those without intensity, too: electrons that are scattered twice may fill them.

    Raises
    ------
    ValueError
        If no reflection lies inside, or more than fit into the memory.

    Notes
    -----
    Indices are enumerated here, since orix' ``from_min_dspacing`` loses reflections of
    hexagonal cells; structure factors are diffsims'.
    """
    lattice = phase.structure.lattice
    hkl, g = _inside(lattice, reciprocal_radius, phase.name)
    if len(hkl):
        squared = _intensities(phase.structure, hkl, np.linalg.norm(g, axis=1))
        # where all are extinct, what is left of them by rounding has to be told from intensity
        forward = _intensities(phase.structure, np.zeros((1, 3)), np.zeros(1))[0]
        present = squared > _EXTINCT * max(squared.max(), _EXTINCT * forward)
        squared = squared * present
        if not extinct:
            hkl, g, squared = hkl[present], g[present], squared[present]
    if not len(hkl) or not squared.any():
        raise ValueError(
            f"The phase {phase.name!r} has no reflection within {reciprocal_radius:.4g} Å⁻¹ (its first one lies at "
            f"{_first_length(phase):.4g} Å⁻¹). Give a larger reciprocal_radius, and check the unit of the cell (Å) and "
            "of the scale; or leave the phase out."
        )
    order = np.argsort(-squared, kind="stable")
    return Reflections(
        hkl=hkl[order],
        g=torch.as_tensor(g[order], dtype=torch.float32),
        structure_factor=torch.as_tensor(np.sqrt(squared[order]), dtype=torch.float32),
        volume=float(lattice.volume),
    )


def _first_length(phase) -> float:
    """Length in Å⁻¹ of the shortest reflection; infinite where there is none to be found."""
    lattice = phase.structure.lattice
    radius = 2.1 * max(lattice.ar, lattice.br, lattice.cr)
    if 4 / 3 * np.pi * radius**3 * lattice.volume > _CERTAINLY_SOME:
        radius = (_CERTAINLY_SOME / 4 / lattice.volume) ** (1 / 3)
    hkl, g = _inside(lattice, radius, phase.name)
    length = np.linalg.norm(g, axis=1)
    squared = _intensities(phase.structure, hkl, length) if len(hkl) else np.zeros(0)
    return float(length[squared > _EXTINCT * squared.max(initial=0)].min(initial=np.inf))


def check_seen(phases: list, reciprocal_radius: float) -> None:
    """Raise the error of :func:`reflections` for a phase without any, before work that may take long.

    Parameters
    ----------
    phases : list of orix.crystal_map.Phase
        From :func:`load_phases`.
    reciprocal_radius : float
        How far out a detector is looked at, in Å⁻¹.
    """
    for phase in phases:
        if 4 / 3 * np.pi * reciprocal_radius**3 * phase.structure.lattice.volume < _CERTAINLY_SOME:
            reflections(phase, reciprocal_radius)


def _inside(lattice, radius: float, name: str) -> tuple[np.ndarray, np.ndarray]:
    """List indices and reciprocal vectors in a sphere, without (000); plane by plane, to be sparing of memory."""
    expected = 4 / 3 * np.pi * radius**3 * lattice.volume
    if not expected < _MAX_REFLECTIONS:
        raise ValueError(
            f"The phase {name!r} has about {expected:.2g} reflections within {radius:g} Å⁻¹; at most "
            f"{_MAX_REFLECTIONS} are allowed. Give a smaller reciprocal_radius, and check the cell: "
            f"{lattice.volume:.4g} Å³."
        )
    h_limit, *limits = np.floor(radius * np.array([lattice.a, lattice.b, lattice.c])).astype(int)
    plane = np.stack(np.meshgrid(0, *(np.arange(-n, n + 1) for n in limits), indexing="ij"), axis=-1).reshape(-1, 3)
    indices, vectors = [], []
    for h in range(-h_limit, h_limit + 1):
        hkl = plane + [h, 0, 0]
        # diffpy: the rows of base are a, b, c, the columns of recbase a*, b*, c*
        g = hkl @ lattice.recbase.T
        length = np.linalg.norm(g, axis=1)
        here = (length <= radius) & (length > 0)
        indices.append(hkl[here])
        vectors.append(g[here])
    return np.concatenate(indices), np.concatenate(vectors)


def _intensities(structure, hkl: np.ndarray, length: np.ndarray) -> np.ndarray:
    """|F|^2 by diffsims, in blocks: it makes arrays of reflections x atoms."""
    from diffsims.utils.sim_utils import get_kinematical_intensities

    n = max(1, _MAX_ELEMENTS // max(len(structure), 1))
    parts = [get_kinematical_intensities(structure, hkl[i : i + n], length[i : i + n]) for i in range(0, len(hkl), n)]
    return np.concatenate(parts)


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

    n_factors = np.prod([2.0 * n + 1 for n in limits])
    if n_factors > 8 * _MAX_REFLECTIONS:
        raise ValueError(
            f"The phase {phase.name!r} needs {n_factors:.2g} structure factors, too many to compute. Give a smaller "
            "reciprocal_radius."
        )
    axes = [np.arange(-n, n + 1) for n in limits]
    hkl = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    flat = hkl.reshape(-1, 3)
    lattice = phase.structure.lattice
    length = np.linalg.norm(flat @ lattice.recbase.T, axis=1)
    total = np.zeros(hkl.shape[:3], dtype=complex)
    elements = np.array([atom.element for atom in phase.structure])
    occupancy = np.array([atom.occupancy for atom in phase.structure])
    # exp(2 pi i g r) is a product of one factor for each index, and the sum over atoms one of matrices
    waves = [np.exp(2j * np.pi * np.outer(n, x)) for n, x in zip(axes, fractional_coordinates(phase.structure).T)]
    for element in dict.fromkeys(elements):
        # diffsims gives squares only: the scattering factor is that of an atom alone
        alone = Structure(lattice=lattice, atoms=[Atom(element, [0, 0, 0])])
        scattering = np.sqrt(get_kinematical_intensities(alone, flat, length)).reshape(total.shape)
        of_h, of_k, of_l = (wave[:, elements == element] for wave in waves)
        for plane, factor, along in zip(total, scattering, of_h * occupancy[elements == element]):
            plane += factor * ((of_k * along) @ of_l.T)
    return total * np.exp(-debye_waller * length**2 / 4).reshape(total.shape)


class Spots(NamedTuple):
    """Reflections near the Ewald sphere, per pattern; all tensors (n_patterns, n_spots).

    ``kx``, ``ky`` and ``excitation_error`` are in Å⁻¹, ``structure_factor`` in
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


def near_ewald_sphere(
    g: torch.Tensor, rotations: torch.Tensor, wavelength: float, max_excitation_error: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Turn reciprocal vectors of crystals into the lab frame, and tell which are near the Ewald sphere.

    Parameters
    ----------
    g : tensor, shape (m, 3) or (n, m, 3)
        Reciprocal vectors in the crystals' Cartesian frames, in Å⁻¹.
    rotations : tensor, shape (n, 4)
        Orientations, lab to crystal.
    wavelength : float
        Of the electrons in Å.
    max_excitation_error : float
        In Å⁻¹.

    Returns
    -------
    lab : tensor, shape (n, m, 3)
        Reciprocal vectors in the lab frame, in Å⁻¹; of the precision of `g` and `rotations`.
    error : tensor, shape (n, m)
        Excitation errors in Å⁻¹.
    near : tensor of bool, shape (n, m)
        Whether their moduli are below `max_excitation_error`.
    """
    # g_lab = R^-1 g, in memory one component after the other
    lab = matmul(to_matrix(rotations).mT, g.mT)
    error = excitation_error(*lab.unbind(-2), wavelength)
    return lab.mT, error, error.abs() < max_excitation_error


def promise_of(strength: torch.Tensor, excitation_error: torch.Tensor) -> torch.Tensor:
    """How strong reflections may be, by which they are ranked; excitation errors in Å⁻¹."""
    return strength**2 / (1 + (excitation_error / _SELECTION_WIDTH) ** 2)


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
        In Å⁻¹.

    Returns
    -------
    Spots
        Strongest first.
    """
    most = _ROWS_AT_ONCE["cpu" if rotations.device.type == "cpu" else "other"]
    size = max(1, most // table.structure_factor.shape[1])
    if len(rotations) <= size:
        return _find_spots(table, phase_id, rotations, beam_energy, n_spots, max_excitation_error)
    parts = zip(phase_id.split(size), rotations.split(size), strict=True)
    found = [_find_spots(table, *part, beam_energy, n_spots, max_excitation_error) for part in parts]
    return Spots(*map(torch.cat, zip(*found, strict=True)))


def _find_spots(table, phase_id, rotations, beam_energy: float, n_spots: int, max_excitation_error: float) -> Spots:
    """As :func:`find_spots`, of as many crystals as fit into the memory."""
    def of_phase(column):
        # what all crystals share is not copied for each of them
        return column[0] if len(column) == 1 else column[phase_id]

    wavelength = electron_wavelength(beam_energy)
    lab, error, near = near_ewald_sphere(of_phase(table.g), rotations, wavelength, max_excitation_error)
    f = of_phase(table.structure_factor) * near
    index = promise_of(f, error).topk(min(n_spots, f.shape[1]), dim=1).indices

    def chosen(tensor):
        return tensor.expand_as(f).gather(1, index)

    return Spots(
        chosen(lab[..., 0]),
        chosen(lab[..., 1]),
        chosen(error),
        chosen(f),
        chosen(of_phase(table.extinction_distance)),
        index,
    )
