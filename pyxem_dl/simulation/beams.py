"""Beams of a crystal that take part in dynamical diffraction, and how strongly they scatter into each other."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import numpy as np
import torch

from pyxem_dl import crystals
from pyxem_dl.crystals import Reflections
from pyxem_dl.crystals.reflections import promise_of
from pyxem_dl.electrons import POTENTIAL, electron_wavelength, interaction_parameter
from pyxem_dl.frames import excitation_error, excitation_error_in_disk
from pyxem_dl.rotations import to_matrix
from pyxem_dl.simulation.random_numbers import sent

#: Beams that are further from the Ewald sphere (Å⁻¹) take no part.
MAX_EXCITATION_ERROR = 0.06
# Further off, up to here, reflections are faint, and each scatters for itself.
_FAR_EXCITATION_ERROR = 0.3
# Beams to this radius (Å⁻¹) take part, though detectors end before; less where the unit cell is so large that its
# structure factors would be more than this many.
_COUPLING_RADIUS, _MOST_FACTORS = 2.4, 400_000
# Promises that differ by less are those of symmetric beams
_ALIKE = 1e-3
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


class BeamIntensities(NamedTuple):
    """Disks of patterns: the direct beam first, then the reflections.

    ``kx``, ``ky``, ``excitation_error`` of the disks' centres, shape (n, beams), in Å⁻¹;
    ``intensity (n, beams, p, p)`` on a grid of positions (qy, qx) in the disk, from -1 to 1
    times its radius, relative to the incident beam; ``present (n, beams)`` is False for padding;
    ``coupling (n, beams)`` how strongly each reflection and the direct beam scatter into each other: the inverse of
    the extinction distance in 1/Å, 0 for the direct beam itself.
    """

    kx: torch.Tensor
    ky: torch.Tensor
    excitation_error: torch.Tensor
    intensity: torch.Tensor
    present: torch.Tensor
    coupling: torch.Tensor

    def joined(self, other: BeamIntensities) -> BeamIntensities:
        """Put further beams of the same patterns behind these."""
        return BeamIntensities(*(torch.cat(both, dim=1) for both in zip(self, other, strict=True)))


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
    keep_symmetry : bool
        Of beams that promise as much as each other all are chosen, or none: a zone axis keeps its symmetry, with a few
        beams less than `n_beams`.
    """

    def __init__(
        self, phase, beam_energy: float, reciprocal_radius: float, *, n_beams: int = 128,
        coupling_radius: float | None = None, debye_waller: float = 0.5, device="cpu", keep_symmetry: bool = False,
    ) -> None:  # fmt: skip
        self.beam_energy, self.n_beams, self.keep_symmetry = float(beam_energy), n_beams, keep_symmetry
        self.max_excitation_error = MAX_EXCITATION_ERROR
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
        # diffpy: the columns of recbase are a*, b*, c*; on the CPU, since not all devices have numbers of 64 bits
        self._reciprocal = torch.as_tensor(phase.structure.lattice.recbase.T.copy())
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

    def with_n_beams(self, n_beams: int, max_excitation_error: float = MAX_EXCITATION_ERROR) -> Beams:
        """Let so many beams of the same phase take part, to another excitation error (Å⁻¹), with the factors there are.

        What is further than :data:`MAX_EXCITATION_ERROR` from the Ewald sphere is faint.
        """
        other = copy.copy(self)
        other.n_beams, other.max_excitation_error = n_beams, max_excitation_error
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
            self.beam_energy, n_spots=self.n_beams - 1 + self.keep_symmetry,
            max_excitation_error=self.max_excitation_error,
        )  # fmt: skip
        present = spots.structure_factor > 0
        if self.keep_symmetry and present.shape[1] == self.n_beams:
            promise = promise_of(spots.structure_factor, spots.excitation_error)
            # those that promise no more than the first one that is left out
            whole = promise > (1 + _ALIKE) * promise[:, -1:]
            present &= whole | ~whole.any(1, keepdim=True)
        hkl = self._hkl[spots.index] * present[..., None]
        columns = (
            (spots.kx * present, 0), (spots.ky * present, 0), (spots.excitation_error * present, 0),
            (present, True), (hkl, 0),
        )  # fmt: skip
        return Chosen(*(torch.cat([each.new_full(each[:, :1].shape, first), each], dim=1) for each, first in columns))

    def deformed(
        self, chosen: Chosen, rotations: torch.Tensor, deformation: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute where beams are in crystals that are strained a little; it can be differentiated.

        Parameters
        ----------
        chosen : Chosen
            Beams, from :meth:`choose`.
        rotations : tensor, shape (n, 4)
            Lab to crystal.
        deformation : tensor, shape (3, 3) or (n, 3, 3), optional
            Deformation gradient in the lab frame, 1 + strain: what was at r is at ``deformation @ r``. By default there
            is none.

        Returns
        -------
        kx, ky, excitation_error : tensor, shape (n, beams)
            In Å⁻¹, in double precision.
        """
        lab = (chosen.hkl.double() @ self._reciprocal.to(self.device)) @ to_matrix(rotations.double())
        if deformation is not None:
            # reciprocal vectors turn and stretch by the inverse's transpose
            lab = lab @ torch.linalg.inv(deformation.double())
        kx, ky, kz = lab.unbind(-1)
        return kx, ky, excitation_error(kx, ky, kz, self.wavelength)

    def far(
        self, rotations: torch.Tensor, thickness: torch.Tensor, disk_radius: float, n_grid: int = 9, n_beams: int = 40
    ) -> BeamIntensities:
        """Compute the disks of reflections that are far from their Bragg condition, kinematically.

        Parameters
        ----------
        rotations, thickness, disk_radius, n_grid
            As when called.
        n_beams : int
            At most so many, the strongest.
        """
        spots = crystals.find_spots(
            self._once, torch.zeros(len(rotations), dtype=torch.long, device=self.device), rotations,
            self.beam_energy, n_spots=6 * n_beams + self.n_beams, max_excitation_error=_FAR_EXCITATION_ERROR,
        )  # fmt: skip
        far = (spots.structure_factor > 0) & (spots.excitation_error.abs() >= MAX_EXCITATION_ERROR)
        coupling = self.with_direct_beam(self._hkl[spots.index]).abs() * far
        strength = coupling / spots.excitation_error.abs().clamp_min(1e-6)
        index = strength.topk(min(n_beams, strength.shape[1]), dim=1).indices
        kx, ky, error, coupling, present = (
            column.gather(1, index) for column in (spots.kx, spots.ky, spots.excitation_error, coupling, far)
        )
        q = torch.linspace(-1, 1, n_grid, device=self.device) * disk_radius
        in_disk = excitation_error_in_disk(
            error[..., None, None], kx[..., None, None], ky[..., None, None], q[None, :], q[:, None], self.wavelength
        )
        depth = sent(thickness, self.device) if thickness.device.type == "cpu" else thickness
        wave = torch.sin(math.pi * depth[:, None, None, None] * in_disk)
        intensity = (coupling[..., None, None] * wave / torch.where(in_disk.abs() < 1e-3, 1e-3, in_disk)) ** 2
        return BeamIntensities(kx, ky, error, intensity, present, coupling)

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
