"""Beams of a crystal that take part in dynamical diffraction, and how strongly they scatter into each other."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import numpy as np
import torch

from pyxem_dl import crystals
from pyxem_dl.crystals import Reflections
from pyxem_dl.electrons import POTENTIAL, electron_wavelength, interaction_parameter

#: Beams that are further from the Ewald sphere (Å⁻¹) take no part.
MAX_EXCITATION_ERROR = 0.06
# Beams to this radius (Å⁻¹) take part, though detectors end before; less where the unit cell is so large that its
# structure factors would be more than this many.
_COUPLING_RADIUS, _MOST_FACTORS = 2.4, 400_000
# In a crystal of this thickness (Angstrom) beams are compared: which are strong by scattering once, which by twice.
_TYPICAL_THICKNESS = 100.0


class Chosen(NamedTuple):
    """Beams of patterns, the direct beam first.

    ``kx``, ``ky``, ``excitation_error (n, beams)`` in Å⁻¹, ``present (n, beams)`` False for padding,
    ``hkl (n, beams, 3)``.
    """

    kx: torch.Tensor
    ky: torch.Tensor
    excitation_error: torch.Tensor
    present: torch.Tensor
    hkl: torch.Tensor


class Beams:
    """Beams of one phase.

    Parameters
    ----------
    phase : orix.crystal_map.Phase
        From :func:`pyxem_dl.crystals.load_phases`.
    beam_energy : float
        In kV.
    reciprocal_radius : float
        Disks to this radius are wanted, in Å⁻¹.
    n_beams : int
        At most so many take part, the direct beam included: those that promise to be the strongest.
    coupling_radius : float, optional
        Beams to this radius take part, in Å⁻¹, whether they are wanted or not; they are returned, too.  By default 2.4,
        less for unit cells of more than 450 Å³, and never less than `reciprocal_radius`.
    debye_waller : float
        B in square Angstrom, of all atoms.
    device : str or torch.device
        Where to compute.
    """

    def __init__(
        self, phase, beam_energy: float, reciprocal_radius: float, *, n_beams: int = 128,
        coupling_radius: float | None = None, debye_waller: float = 0.5, device="cpu",
    ) -> None:  # fmt: skip
        self.beam_energy, self.n_beams = float(beam_energy), n_beams
        self.wavelength = electron_wavelength(beam_energy)
        self.device = torch.device(device)
        if coupling_radius is None:
            most = (_MOST_FACTORS / (64 * phase.structure.lattice.volume)) ** (1 / 3)
            coupling_radius = min(_COUPLING_RADIUS, most)
        found = crystals.reflections(phase, max(coupling_radius, reciprocal_radius), extinct=True)
        span = np.abs(found.hkl).max(axis=0)
        factors = crystals.structure_factors(phase, 2 * span, debye_waller)
        # 1 / extinction distance, complex, by Miller indices. Of waves exp(2 pi i k r) the potential's coefficients are
        # sums over exp(-2 pi i g r); structure factors are by convention their conjugates, which a centre hides
        coupling = interaction_parameter(beam_energy) / (math.pi * found.volume) * factors.conj()
        promise = _promise(coupling, found.hkl, span)
        lit = promise > 0
        hkl, g = found.hkl[lit], found.g[torch.as_tensor(lit)]
        once = np.abs(coupling[tuple((hkl + 2 * span).T)])
        # what is scattered once, to where it is wanted: extinct reflections stay dark
        once = once * (once > 1e-4 * once.max()) * (g.norm(dim=1) <= reciprocal_radius).numpy()
        self.table, self._once = (
            crystals.ReflectionTable.stack(
                [Reflections(hkl, g, torch.as_tensor(strength, dtype=torch.float32), found.volume)],
                beam_energy, self.device,
            )
            for strength in (promise[lit], once)
        )  # fmt: skip
        self._hkl = torch.as_tensor(hkl, device=self.device)
        self._coupling = torch.as_tensor(coupling, dtype=torch.complex64, device=self.device)
        self._offset = torch.as_tensor(2 * span, device=self.device)

    def with_beam_energy(self, beam_energy: float) -> Beams:
        """Give the same phase at another beam energy (kV), without computing its structure factors again."""
        if beam_energy == self.beam_energy:
            return self
        other = copy.copy(self)
        ratio = interaction_parameter(beam_energy) / interaction_parameter(self.beam_energy)
        other.beam_energy, other.wavelength = float(beam_energy), electron_wavelength(beam_energy)
        other._coupling = self._coupling * ratio
        other.table, other._once = (
            table._replace(extinction_distance=table.extinction_distance / ratio) for table in (self.table, self._once)
        )
        return other

    def potential(self, hkl: np.ndarray) -> np.ndarray:
        """Fourier coefficients of the potential that scatters.

        Parameters
        ----------
        hkl : array of int, shape (..., 3)
            Miller indices, of beams or of differences of two.

        Returns
        -------
        array of complex, shape (...)
            In volts, with the Debye-Waller factor; of structure factors as crystallography writes them, sums over
            exp(2 pi i g r), so that the potential is the sum of ``V_g exp(-2 pi i g r)``.
        """
        index = (torch.as_tensor(np.asarray(hkl), dtype=torch.long, device=self.device) + self._offset).unbind(-1)
        volts = POTENTIAL * math.pi / interaction_parameter(self.beam_energy)
        return (volts * self._coupling[index].conj()).resolve_conj().cpu().numpy()

    @property
    def nbytes(self) -> int:
        """Bytes of the structure factors and reflections."""
        return sum(tensor.nbytes for tensor in (*self.table, *self._once, self._hkl, self._coupling))

    def choose(self, rotations: torch.Tensor) -> Chosen:
        """Choose the beams that promise to be the strongest for crystals in given orientations.

        Parameters
        ----------
        rotations : tensor, shape (n, 4)
            Lab to crystal.
        """
        spots = crystals.find_spots(
            self.table, torch.zeros(len(rotations), dtype=torch.long, device=self.device), rotations,
            self.beam_energy, n_spots=self.n_beams - 1, max_excitation_error=MAX_EXCITATION_ERROR,
        )  # fmt: skip
        present = spots.structure_factor > 0
        hkl = self._hkl[spots.index] * present[..., None]
        columns = (
            (spots.kx * present, 0), (spots.ky * present, 0), (spots.excitation_error * present, 0),
            (present, True), (hkl, 0),
        )  # fmt: skip
        return Chosen(*(torch.cat([each.new_full(each[:, :1].shape, first), each], dim=1) for each, first in columns))

    def with_direct_beam(self, hkl: torch.Tensor) -> torch.Tensor:
        """How strongly beams (..., 3) scatter from the direct beam: 1 / extinction distance in 1/Å, complex."""
        return self._coupling[(hkl + self._offset).unbind(-1)]

    def with_each_other(self, chosen: Chosen) -> torch.Tensor:
        """How strongly beams scatter into each other: 1 / extinction distance in 1/Å, complex, 0 on the diagonal.

        Returns
        -------
        tensor, shape (n, beams, beams)
            Hermitian.
        """
        difference = (chosen.hkl[:, :, None] - chosen.hkl[:, None, :] + self._offset).unbind(-1)
        both = chosen.present[:, :, None] & chosen.present[:, None, :]
        diagonal = torch.eye(chosen.hkl.shape[1], dtype=torch.bool, device=self.device)
        return torch.where(both & ~diagonal, self._coupling[difference], 0)


def _promise(coupling: np.ndarray, hkl: np.ndarray, span: np.ndarray) -> np.ndarray:
    """How strongly reflections may be excited (n,), as 1 / extinction distance: by scattering once, or twice.

    Glide planes and screw axes extinguish reflections that electrons reach on a detour over two others; those that the
    centring of the lattice forbids have no detour either, and promise exactly 0.
    """
    squared = np.abs(coupling) ** 2
    inside = tuple(slice(n, 3 * n + 1) for n in span)
    first = np.zeros_like(squared)
    first[inside] = squared[inside]
    # the direct beam is no detour
    first[tuple(2 * span)] = 0
    # sum over h of |U_h|² |U_(g - h)|², at g + 2 span: both factors are shifted by as much
    spectrum = np.fft.rfftn(first)
    twice = np.roll(np.fft.irfftn(spectrum**2, s=first.shape, axes=(0, 1, 2)), -2 * span, axis=(0, 1, 2))
    at = tuple((hkl + 2 * span).T)
    twice = np.where(twice[at] > 1e-9 * twice.max(), twice[at], 0)
    once = np.where(squared[at] > 1e-9 * first.max(), squared[at], 0)
    return np.sqrt(once + (math.pi / 2 * _TYPICAL_THICKNESS) ** 2 * twice)
