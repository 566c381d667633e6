"""Dynamical diffraction by a few dozen beams: the uneven insides of convergent-beam disks.

The amplitudes of the beams follow Howie and Whelan's equations.  Between two thin slices each
beam gathers the phase of its excitation error, and in each slice the beams scatter into each
other: a multislice calculation with Bragg beams for pixels, for all the directions of a
convergent probe at once.
"""

from __future__ import annotations

import math

import torch

from pyxem_dl.frames import excitation_error_in_disk, excitation_phase
from pyxem_dl.rotations import full_float32
from pyxem_dl.simulation.beams import BeamIntensities, Beams
from pyxem_dl.simulation.random_numbers import sent

# Thickness of a slice in Angstrom: a quarter of the shortest beating at the excitation errors
# that are let in.
_SLICE = 4.0


class ManyBeam(Beams):
    """Many-beam calculation for one phase, slice by slice; its parameters are those of :class:`Beams`.

    Notes
    -----
    Without absorption and without thermal diffuse scattering; relativistic corrections are in
    the wavelength and the interaction parameter.  See Hirsch, Howie, Nicholson, Pashley &
    Whelan, *Electron Microscopy of Thin Crystals*, chapter 12.
    """

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
        chosen = self.choose(rotations)
        kx, ky, error, present, hkl = chosen
        q = torch.linspace(-1, 1, n_grid, device=self.device) * disk_radius
        in_disk = excitation_error_in_disk(
            error[..., None, None], kx[..., None, None], ky[..., None, None],
            q[None, :], q[:, None], self.wavelength,
        )  # fmt: skip
        # the direct beam is the reference of all phases
        in_disk = in_disk - in_disk[:, :1]
        amplitude = self._propagate(in_disk.flatten(2), self._scattering(chosen), thickness)
        intensity = (amplitude.abs() ** 2 * present[:, None]).transpose(1, 2)
        shape = (*kx.shape, n_grid, n_grid)
        coupling = self.with_direct_beam(hkl).abs() * present
        coupling[:, 0] = 0
        return BeamIntensities(kx, ky, error, intensity.reshape(shape), present, coupling)

    def _scattering(self, chosen) -> torch.Tensor:
        """Matrices (n, beams, beams): how a slice scatters the beams into each other."""
        return torch.linalg.matrix_exp(1j * math.pi * _SLICE * self.with_each_other(chosen))

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
