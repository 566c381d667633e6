"""Dynamical diffraction by a few dozen beams: the uneven insides of convergent-beam disks.

The amplitudes of the beams follow Howie and Whelan's equations.  Between two thin slices each
beam gathers the phase of its excitation error, and in each slice the beams scatter into each
other: a multislice calculation with Bragg beams for pixels, for all the directions of a
convergent probe at once.
"""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import numpy as np
import torch

from pyxem_dl import crystals
from pyxem_dl.crystals import Reflections
from pyxem_dl.electrons import POTENTIAL, electron_wavelength, interaction_parameter
from pyxem_dl.frames import excitation_error_in_disk, excitation_phase
from pyxem_dl.rotations import full_float32
from pyxem_dl.simulation.random_numbers import sent

# Thickness of a slice in Angstrom: a quarter of the shortest beating at the excitation errors
# that are let in.
_SLICE = 4.0
_MAX_EXCITATION_ERROR = 0.06
# Further off, up to here, reflections are faint, and each scatters for itself.
_FAR_EXCITATION_ERROR = 0.3
# Beams to this radius (Å⁻¹) take part, though detectors end before; less where the unit cell is so large that its
# structure factors would be more than this many.
_COUPLING_RADIUS, _MOST_FACTORS = 2.4, 400_000
# In a crystal of this thickness (Angstrom) beams are compared: which are strong by scattering once, which by twice.
_TYPICAL_THICKNESS = 100.0


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


class ManyBeam:
    """Many-beam calculation for one phase.

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

    Notes
    -----
    Without absorption and without thermal diffuse scattering; relativistic corrections are in
    the wavelength and the interaction parameter.  See Hirsch, Howie, Nicholson, Pashley &
    Whelan, *Electron Microscopy of Thin Crystals*, chapter 12.
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

    def with_beam_energy(self, beam_energy: float) -> ManyBeam:
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

    @staticmethod
    def whole_slices(thickness):
        """Thickness (Å) that is simulated where another is asked for: whole slices."""
        return max(1, round(thickness / _SLICE)) * _SLICE

    def __call__(
        self, rotations: torch.Tensor, thickness: torch.Tensor, disk_radius: float, n_grid: int = 9
    ) -> BeamIntensities:
        """Compute the disks of crystals.

        Parameters
        ----------
        rotations : tensor, shape (n, 4)
            Lab to crystal.
        thickness : tensor, shape (n,)
            In Angstrom; rounded to slices of 4 Angstrom.  On the CPU: how many slices there are is looked at.
        disk_radius : float
            In Å⁻¹: semi-convergence angle over wavelength.
        n_grid : int
            Positions along a disk's diameter.
        """
        n = len(rotations)
        spots = crystals.find_spots(
            self.table, torch.zeros(n, dtype=torch.long, device=self.device), rotations,
            self.beam_energy, n_spots=self.n_beams - 1, max_excitation_error=_MAX_EXCITATION_ERROR,
        )  # fmt: skip
        present = spots.structure_factor > 0
        hkl = self._hkl[spots.index] * present[..., None]
        kx, ky, error, present, hkl = (
            torch.cat([column.new_full(column[:, :1].shape, first), column], dim=1)
            for column, first in (
                (spots.kx * present, 0), (spots.ky * present, 0),
                (spots.excitation_error * present, 0), (present, True), (hkl, 0),
            )
        )
        q = torch.linspace(-1, 1, n_grid, device=self.device) * disk_radius
        in_disk = excitation_error_in_disk(
            error[..., None, None], kx[..., None, None], ky[..., None, None],
            q[None, :], q[:, None], self.wavelength,
        )  # fmt: skip
        # the direct beam is the reference of all phases
        in_disk = in_disk - in_disk[:, :1]
        amplitude = self._propagate(in_disk.flatten(2), self._scattering(hkl, present), thickness)
        intensity = (amplitude.abs() ** 2 * present[:, None]).transpose(1, 2)
        shape = (*kx.shape, n_grid, n_grid)
        coupling = self._coupling[(hkl + self._offset).unbind(-1)].abs() * present
        coupling[:, 0] = 0
        return BeamIntensities(kx, ky, error, intensity.reshape(shape), present, coupling)

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
        far = (spots.structure_factor > 0) & (spots.excitation_error.abs() >= _MAX_EXCITATION_ERROR)
        coupling = self._coupling[(self._hkl[spots.index] + self._offset).unbind(-1)].abs() * far
        strength = coupling / spots.excitation_error.abs().clamp_min(1e-6)
        index = strength.topk(min(n_beams, strength.shape[1]), dim=1).indices
        kx, ky, error, coupling, present = (
            column.gather(1, index) for column in (spots.kx, spots.ky, spots.excitation_error, coupling, far)
        )
        q = torch.linspace(-1, 1, n_grid, device=self.device) * disk_radius
        in_disk = excitation_error_in_disk(
            error[..., None, None], kx[..., None, None], ky[..., None, None], q[None, :], q[:, None], self.wavelength
        )
        wave = torch.sin(math.pi * sent(thickness, self.device)[:, None, None, None] * in_disk)
        intensity = (coupling[..., None, None] * wave / torch.where(in_disk.abs() < 1e-3, 1e-3, in_disk)) ** 2
        return BeamIntensities(kx, ky, error, intensity, present, coupling)

    def _scattering(self, hkl, present) -> torch.Tensor:
        """Matrices (n, beams, beams): how a slice scatters the beams into each other."""
        difference = (hkl[:, :, None] - hkl[:, None, :] + self._offset).unbind(-1)
        coupling = self._coupling[difference]
        both = present[:, :, None] & present[:, None, :]
        diagonal = torch.eye(hkl.shape[1], dtype=torch.bool, device=self.device)
        coupling = torch.where(both & ~diagonal, coupling, 0)
        return torch.linalg.matrix_exp(1j * math.pi * _SLICE * coupling)

    def _propagate(self, error, scattering, thickness) -> torch.Tensor:
        """Amplitudes (n, positions, beams) behind the crystal."""
        slices = (thickness / _SLICE).round().long().clamp_min(1)
        # the thickest first: of those that are left at a slice only these are scattered
        order = slices.argsort(descending=True)
        left = [int(n) for n in slices.bincount().flip(0).cumsum(0).flip(0)[1:]]
        error, scattering = (x[sent(order, self.device)] for x in (error, scattering))
        # half a slice of free propagation before and after each scattering
        half = torch.exp(1j * excitation_phase(error.transpose(1, 2), _SLICE / 2))
        between, scattering = half * half, scattering.transpose(1, 2)
        amplitude = torch.zeros_like(half)
        amplitude[..., 0] = half[..., 0]
        done = []
        with full_float32():
            for n, rest in zip(left, [*left[1:], 0], strict=True):
                amplitude = torch.bmm(amplitude, scattering)
                if rest < n:
                    done.append(half[rest:n] * amplitude[rest:])
                    amplitude, scattering, between = amplitude[:rest], scattering[:rest], between[:rest]
                amplitude = between * amplitude
        return torch.cat(done[::-1])[sent(order.argsort(), self.device)]


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
