"""Dynamical diffraction by Bloch waves: one eigen-decomposition of a pattern gives all its thicknesses."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from pyxem_dl.frames import excitation_error_after_tilt
from pyxem_dl.simulation.beams import Beams, Chosen


class Diffracted(NamedTuple):
    """Intensities of patterns at several thicknesses, the direct beam first.

    ``intensity (n, thicknesses, beams)`` relative to the incident beam, 0 for padding; ``chosen``: the beams.
    """

    intensity: torch.Tensor
    chosen: Chosen


class BlochWaves(Beams):
    """Bloch waves of one phase.

    Parameters
    ----------
    phase, beam_energy, reciprocal_radius, n_beams, coupling_radius, debye_waller, device, keep_symmetry
        As of :class:`~pyxem_dl.simulation.beams.Beams`.
    n_strong : int, optional
        So many beams scatter into each other as often as they like; the others gather what these scatter into them, and
        act on them to second order (Bethe's potentials). By default all.
    absorption : float
        Imaginary part of the potential as a share of the real part: electrons that are lost to inelastic scattering.

    Notes
    -----
    Amplitudes follow ``d psi / d z = 2 pi i M psi``, with minus the excitation errors on the diagonal of M, and half
    the inverse extinction distances beside it: forward scattering through a plate whose surfaces are normal to the
    beam. Relativistic corrections are in the wavelength and the interaction parameter. See Hirsch, Howie, Nicholson,
    Pashley & Whelan, *Electron Microscopy of Thin Crystals*, chapters 8 to 12; for the weak beams, Bethe, *Annalen der
    Physik* 392, 55 (1928).
    """

    def __init__(
        self, phase, beam_energy: float, reciprocal_radius: float, *, n_beams: int = 96, n_strong: int | None = None,
        coupling_radius: float | None = None, debye_waller: float = 0.5, absorption: float = 0.0, device="cpu",
        keep_symmetry: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            phase, beam_energy, reciprocal_radius, n_beams=n_beams, coupling_radius=coupling_radius,
            debye_waller=debye_waller, device=device, keep_symmetry=keep_symmetry,
        )  # fmt: skip
        if n_strong is not None and not 2 <= n_strong:
            raise ValueError(f"n_strong must be at least 2, the direct beam and another, not {n_strong}.")
        if not 0 <= absorption < 1:
            raise ValueError(f"absorption must be from 0 to below 1, not {absorption}.")
        self.n_strong, self.absorption = n_strong, float(absorption)

    def __call__(self, rotations: torch.Tensor, thickness: torch.Tensor) -> Diffracted:
        """Compute the spots of crystals.

        Parameters
        ----------
        rotations : tensor, shape (n, 4)
            Lab to crystal.
        thickness : tensor, shape (thicknesses,) or (n, thicknesses)
            In Angstrom.
        """
        chosen = self.choose(rotations)
        amplitude = self.amplitudes(chosen, chosen.excitation_error, thickness)
        return Diffracted(amplitude.abs() ** 2, chosen)

    def amplitudes(self, chosen: Chosen, excitation_error: torch.Tensor, thickness: torch.Tensor) -> torch.Tensor:
        """Amplitudes behind the crystal; they can be differentiated, where waves are degenerate, too.

        Parameters
        ----------
        chosen : Chosen
            Beams, from :meth:`choose`.
        excitation_error : tensor, shape (n, beams)
            In Å⁻¹: those of `chosen`, or of crystals that are turned or strained a little.
        thickness : tensor, shape (thicknesses,) or (n, thicknesses)
            In Angstrom.

        Returns
        -------
        tensor of complex, shape (n, thicknesses, beams)
            0 for padding.
        """
        error = excitation_error.double() * chosen.present
        thickness = torch.as_tensor(thickness, dtype=torch.float64, device=self.device).expand(len(error), -1)
        half = self.with_each_other(chosen).to(torch.complex128) / 2
        strong = error.shape[1] if self.n_strong is None else min(self.n_strong, error.shape[1])
        inner = half[:, :strong, :strong] - torch.diag_embed(error[:, :strong]).to(half.dtype)
        if strong == error.shape[1]:
            amplitude, _ = _waves(inner, thickness, self.absorption)
            return amplitude * chosen.present[:, None]
        across, outside = half[:, strong:, :strong], -error[:, strong:]
        # second order: a detour over a weak beam, the further from its Bragg condition the less
        far = torch.where(outside.abs() < NEAREST, NEAREST * torch.where(outside < 0, -1.0, 1.0), outside)
        inner = inner - across.mH @ (across / far[..., None])
        amplitude, waves = _waves(inner, thickness, self.absorption)
        weak = _gathered(across, outside, waves, thickness)
        return torch.cat([amplitude, weak], dim=2) * chosen.present[:, None]

    def jacobian(self, chosen: Chosen, thickness: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Intensities, and how they change when the crystal tilts and grows; all beams count as strong here.

        Parameters
        ----------
        chosen : Chosen
            Beams.
        thickness : tensor, shape (n,)
            In Angstrom.

        Returns
        -------
        tensor, shape (n, beams)
            Intensities.
        tensor, shape (n, beams, 3)
            Their derivatives by the tilts about x and y (rad; the orientation R becomes ``R * exp(tilt)``), and by the
            thickness (1/Å).
        """
        thickness = torch.as_tensor(thickness, dtype=torch.float64, device=self.device)[:, None]
        error = chosen.excitation_error.double() * chosen.present
        matrix = self.with_each_other(chosen).to(torch.complex128) / 2 - torch.diag_embed(error).to(torch.complex128)
        amplitude, waves = _waves(matrix, thickness, self.absorption)
        back = torch.linalg.inv(waves.vectors) if self.absorption else waves.vectors.mH
        divided = _divided(waves.gamma, thickness)[:, 0] * waves.excited[:, None]
        changes = []
        for tilt_x, tilt_y in ((1.0, 0.0), (0.0, 1.0)):
            turned = excitation_error_after_tilt(0.0, chosen.kx.double(), chosen.ky.double(), tilt_x, tilt_y)
            among = -back @ ((turned * chosen.present)[..., None] * waves.vectors)
            changes.append((waves.vectors @ (divided * among).sum(2, keepdim=True))[..., 0])
        grown = torch.exp(2j * math.pi * waves.gamma * thickness) * 2j * math.pi * waves.gamma * waves.excited
        changes.append((waves.vectors @ grown[..., None])[..., 0])
        amplitude = (amplitude[:, 0] * chosen.present)[..., None]
        return amplitude[..., 0].abs() ** 2, 2 * (amplitude.conj() * torch.stack(changes, dim=2)).real


#: Weak beams that are nearer to the Ewald sphere than this (Å⁻¹) act on the strong ones as if they were so far away
NEAREST = 0.004


class _Waves(NamedTuple):
    """Beams in waves ``vectors (n, beams, waves)``, ``gamma (n, waves)`` in 1/Å, and how they are ``excited``."""

    vectors: torch.Tensor
    gamma: torch.Tensor
    excited: torch.Tensor


def _waves(matrix: torch.Tensor, thickness: torch.Tensor, absorption: float) -> tuple[torch.Tensor, _Waves]:
    """Amplitudes (n, thicknesses, beams), and the waves."""
    if absorption:
        lost = matrix - torch.diag_embed(torch.diagonal(matrix, dim1=-2, dim2=-1))
        # as much on the average as it takes that no wave grows
        mean = torch.linalg.eigvalsh(lost.detach())[:, 0].abs()
        mean = torch.diag_embed(mean[:, None].expand(-1, matrix.shape[1])).to(matrix.dtype)
        matrix = matrix + 1j * absorption * (lost + mean)
    amplitude, vectors, gamma, excited = _Propagated.apply(matrix, thickness, not absorption)
    return amplitude, _Waves(vectors, gamma, excited)


class _Propagated(torch.autograd.Function):
    """First column of ``exp(2 pi i M t)``.

    Eigenvectors turn without bounds where two eigenvalues meet, and what they add up to does not: its derivative is
    told by divided differences of the exponential (Daleckii and Krein), which have a limit there.
    """

    @staticmethod
    def forward(matrix, thickness, hermitian):
        if hermitian:
            gamma, vectors = torch.linalg.eigh(matrix)
            gamma, excited = gamma.to(vectors.dtype), vectors[:, 0].conj()
        else:
            gamma, vectors = torch.linalg.eig(matrix)
            first = torch.zeros_like(vectors[..., :1])
            first[:, 0] = 1
            excited = torch.linalg.solve(vectors, first)[..., 0]
        phase = torch.exp(2j * math.pi * gamma[:, None] * thickness[..., None])
        return (phase * excited[:, None]) @ vectors.mT, vectors, gamma, excited

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, thickness, ctx.hermitian = inputs
        _, vectors, gamma, excited = output
        ctx.save_for_backward(vectors, gamma, excited, thickness)
        ctx.mark_non_differentiable(vectors, gamma, excited)

    @staticmethod
    def backward(ctx, grad, *_):
        vectors, gamma, excited, thickness = ctx.saved_tensors
        among = grad @ vectors.conj()  # (n, thicknesses, waves)
        outer = among[..., :, None] * excited.conj()[:, None, None, :]
        inside = (_divided(gamma, thickness).conj() * outer).sum(1)
        inside = vectors @ inside if ctx.hermitian else torch.linalg.solve(vectors.mH, inside)
        phase = torch.exp(2j * math.pi * gamma[:, None] * thickness[..., None])
        change = 2j * math.pi * gamma[:, None] * phase * excited[:, None]
        return inside @ vectors.mH, (among.conj() * change).sum(-1).real, None


def _divided(gamma: torch.Tensor, thickness: torch.Tensor) -> torch.Tensor:
    """Divided differences (n, thicknesses, waves, waves) of ``exp(2 pi i gamma t)``."""
    mean = (gamma[:, None, :, None] + gamma[:, None, None, :]) / 2
    apart = (gamma[:, None, :, None] - gamma[:, None, None, :]) * thickness[..., None, None]
    near = apart.abs() < 1e-6
    z = torch.where(near, torch.ones_like(apart), math.pi * apart)
    sinc = torch.where(near, 1 - (math.pi * apart) ** 2 / 6, torch.sin(z) / z)
    depth = thickness[..., None, None]
    return 2j * math.pi * depth * torch.exp(2j * math.pi * mean * depth) * sinc


def _gathered(across, outside, waves: _Waves, thickness) -> torch.Tensor:
    """Amplitudes (n, thicknesses, weak beams) of what the waves scatter into beams that scatter nothing back."""
    into = (across @ waves.vectors) * waves.excited[:, None]
    mean = (waves.gamma[:, None] + outside[..., None]) / 2
    apart = waves.gamma[:, None] - outside[..., None]
    depth = thickness[:, :, None, None]
    z = math.pi * apart[:, None] * depth
    near = z.abs() < 1e-6
    sinc = torch.where(near, 1 - z**2 / 6, torch.sin(z) / torch.where(near, torch.ones_like(z), z))
    return (into[:, None] * 2j * math.pi * depth * torch.exp(2j * math.pi * mean[:, None] * depth) * sinc).sum(-1)
