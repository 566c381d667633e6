"""Intensities of many crystals that differ little from one another: tilts and thicknesses of one batch of patterns."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from pyxem_dl.frames import excitation_error_after_tilt
from pyxem_dl.simulation.beams import Beams, Chosen
from pyxem_dl.simulation.bloch_waves import NEAREST

# Two eigenvalues of a strong and a weak beam are at least so far apart (1/Å): the weak one is moved by as much
_APART = 1e-5


class Pool(NamedTuple):
    """Beams of a batch of patterns, and how they scatter into each other.

    ``kx``, ``ky``, ``error (n, beams)`` in Å⁻¹; ``present (n, beams)``; ``half (n, beams, beams)``: half the inverse
    extinction distances in 1/Å, complex; ``absorption``: imaginary part of the potential, as a share of the real one.
    """

    kx: torch.Tensor
    ky: torch.Tensor
    error: torch.Tensor
    present: torch.Tensor
    half: torch.Tensor
    absorption: float = 0.0

    @classmethod
    def of(cls, beams: Beams, chosen: Chosen, dtype: torch.dtype, absorption: float = 0.0) -> Pool:
        """Take what :class:`~pyxem_dl.simulation.beams.Beams` chose, as real numbers of a type."""
        half = beams.with_each_other(chosen).to(dtype.to_complex()) / 2
        return cls(*(x.to(dtype) for x in chosen[:3]), chosen.present, half, absorption)

    def __getitem__(self, rows) -> Pool:
        return Pool(*(x[rows] for x in tuple(self)[:5]), self.absorption)

    def turned(self, tilt: torch.Tensor) -> torch.Tensor:
        """Excitation errors (n, m, beams) after tilts (n, m, 2) or (m, 2), in radians."""
        tilt_x, tilt_y = tilt[..., :1], tilt[..., 1:]
        return excitation_error_after_tilt(self.error[:, None], self.kx[:, None], self.ky[:, None], tilt_x, tilt_y)


def promise(pool: Pool, error: torch.Tensor) -> torch.Tensor:
    """How strong beams (n, m, beams) may become, the direct one's infinite; of excitation errors of this shape."""
    # the direct beam is coupled to nothing more than to itself
    coupled = pool.half[:, None, :, 0].abs()
    found = coupled / (error.abs() + 0.5 * coupled + 1e-9)
    found = torch.where(pool.present[:, None], found, -1.0)
    found[..., 0] = math.inf
    return found


class _Split(NamedTuple):
    """Beams by their strength, and waves.

    ``order (n, m, beams)``, the strong ones first; ``across (n, m, weak, strong)``: half the coupling of these;
    ``outside (n, m, d, weak)``: minus the errors of weak beams; of the waves of strong ones ``gamma (n, m, d, strong)``
    in 1/Å (complex with absorption), ``vectors (n, m, d, strong, waves)`` and their inverse, ``back``, and what they
    scatter, ``to_weak (n, m, d, weak, waves)``.
    """

    order: torch.Tensor
    across: torch.Tensor
    outside: torch.Tensor
    gamma: torch.Tensor
    vectors: torch.Tensor
    back: torch.Tensor
    to_weak: torch.Tensor


def _split(pool: Pool, error: torch.Tensor, n_strong: int) -> _Split:
    """Beams (n, m, d, beams) of excitation errors, solved; for d directions near to one another the same are strong."""
    n_strong = min(n_strong, error.shape[-1])
    order = promise(pool, error.mean(2)).argsort(dim=-1, descending=True)
    strong, weak = order[..., :n_strong], order[..., n_strong:]
    at = torch.arange(len(error), device=error.device)[:, None, None, None]
    far_away = torch.where(pool.present[:, None, None], error, 1.0)
    sorted_error = far_away.gather(3, order[:, :, None].expand_as(error))
    inner = pool.half[at, strong[..., :, None], strong[..., None, :]][:, :, None]
    inner = inner - torch.diag_embed(sorted_error[..., :n_strong]).to(inner.dtype)
    across = pool.half[at, weak[..., :, None], strong[..., None, :]]
    outside = -sorted_error[..., n_strong:]
    far = torch.where(outside.abs() < NEAREST, NEAREST * torch.where(outside < 0, -1.0, 1.0), outside)
    inner = inner - _times(across.mH, across[:, :, None] / far[..., None])
    if pool.absorption:
        lost = inner - torch.diag_embed(torch.diagonal(inner, dim1=-2, dim2=-1))
        gamma, vectors = torch.linalg.eig(inner + 1j * pool.absorption * lost)
        back = torch.linalg.inv(vectors)
    else:
        gamma, vectors = torch.linalg.eigh(inner)
        back = vectors.mH
    apart = outside[..., None] - gamma[..., None, :]
    least = apart.abs().min(-1, keepdim=True)
    nearest = apart.gather(-1, least.indices)[..., 0].real
    outside = outside + torch.where(nearest.abs() < _APART, _APART * torch.where(nearest < 0, -1.0, 1.0), 0)
    to_weak = _times(across, vectors) / (gamma[..., None, :] - outside[..., None])
    return _Split(order, across, outside, gamma, vectors, back, to_weak)


def _times(shared: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Product of matrices (n, m, a, b) and (..., n, m, d, b, c), as few large ones."""
    side_by_side = matrices.transpose(-3, -2)
    product = shared @ side_by_side.flatten(-2)
    return product.unflatten(-1, side_by_side.shape[-2:]).transpose(-3, -2)


def intensities(pool: Pool, error: torch.Tensor, thickness: torch.Tensor, n_strong: int, wanted: torch.Tensor):
    """Intensities at several thicknesses.

    Parameters
    ----------
    pool : Pool
        Of n patterns.
    error : tensor, shape (n, m, beams)
        Excitation errors of m crystals in the place of each, in Å⁻¹.
    thickness : tensor, shape (thicknesses,)
        In Å, equally spaced.
    n_strong : int
        Beams that scatter as often as they like.
    wanted : tensor of int, shape (n, wanted beams)
        Beams whose intensities are returned.

    Returns
    -------
    tensor, shape (n, m, thicknesses, wanted beams)
    """
    parts = _split(pool, error[:, :, None], n_strong)
    place = _place(parts, wanted)
    # one direction each
    parts = parts._replace(**{name: getattr(parts, name)[:, :, 0] for name in parts._fields[2:]})
    excited = parts.back[..., 0]
    rows = torch.cat([parts.vectors, parts.to_weak], dim=-2) * excited[..., None, :]
    rows = rows.gather(-2, place[..., None].expand(*place.shape, rows.shape[-1]))
    amplitude = _waves(parts.gamma, thickness) @ rows.mT
    # what weak beams scatter on their own way to the exit; strong ones have none
    alone = torch.nn.functional.pad(parts.outside, (parts.gamma.shape[-1], 0)).gather(-1, place)
    into = rows.sum(-1) * (place >= parts.gamma.shape[-1])
    amplitude.addcmul_(_waves(alone, thickness), into[..., None, :], value=-1)
    return amplitude.real.square().addcmul_(amplitude.imag, amplitude.imag)


def jacobian(pool: Pool, error: torch.Tensor, thickness: torch.Tensor, n_strong: int, wanted: torch.Tensor):
    """Intensities, and how they change when crystals tilt and grow.

    Parameters
    ----------
    pool, n_strong, wanted
        As of :func:`intensities`.
    error : tensor, shape (n, m, d, beams)
        Excitation errors for d directions of the beam that are near to one another, in Å⁻¹.
    thickness : tensor, shape (n, m)
        In Å.

    Returns
    -------
    tensor, shape (n, m, d, wanted beams, 4)
        Intensities, and their derivatives by the tilts about x and y (rad) and by the thickness (1/Å).

    Notes
    -----
    Of ``exp(2 pi i M t)`` in the basis of the waves the derivative has divided differences of the exponential, which
    are written with sin(x)/x so that they hold where two waves are degenerate (Daleckii & Krein, 1965).
    """
    parts = _split(pool, error, n_strong)
    vectors, gamma, depth = parts.vectors, parts.gamma, thickness[..., None, None]
    n_strong = gamma.shape[-1]
    excited = parts.back[..., 0]
    place = _place(parts, wanted)[:, :, None].expand(*error.shape[:3], -1)
    rows = torch.cat([vectors, parts.to_weak], dim=-2)
    rows = rows.gather(-2, place[..., None].expand(*place.shape, n_strong))
    weak = place >= n_strong
    alone = torch.nn.functional.pad(parts.outside, (n_strong, 0)).gather(-1, place)
    lever = torch.stack([pool.ky, -pool.kx])[:, :, None] * pool.present[:, None]  # ds / d tilt (2, n, 1, beams)
    of_strong = lever.expand(2, *parts.order.shape).gather(-1, parts.order.expand(2, *parts.order.shape))
    of_wanted = lever.gather(-1, wanted[:, None].expand(2, *wanted[:, None].shape))[:, :, :, None]
    far = torch.where(parts.outside.abs() < NEAREST, math.inf, parts.outside)
    detour = (of_strong[:, :, :, None, n_strong:] / far**2)[..., None] * parts.across[:, :, None]
    detour = _times(parts.across.mH, detour)
    changed = -(torch.diag_embed(of_strong[..., :n_strong])[:, :, :, None].to(detour.dtype) + detour)
    among = parts.back @ changed @ vectors  # (2, n, m, strong, strong)
    half = _wave(math.pi * gamma * depth)
    half_alone = _wave(math.pi * alone * depth)
    arrived = (half * excited)[..., None]
    near = _sinc((gamma[..., :, None] - gamma[..., None, :]) * depth[..., None])
    moved = (rows * half[..., None, :]) @ ((near * among) @ arrived)  # (2, n, m, wanted, 1)
    onto = -(rows @ among) - of_wanted[..., None] * rows
    near = _sinc((alone[..., :, None] - gamma[..., None, :]) * depth[..., None])
    into = (rows @ excited[..., None])[..., 0]
    apart = ((near * onto) @ arrived)[..., 0] + of_wanted * (half_alone * into)
    moved = 2j * math.pi * depth * (moved[..., 0] + weak * half_alone * apart)
    waves = half**2 * excited
    both = rows @ torch.stack([waves, 2j * math.pi * gamma * waves], dim=-1)
    left = weak * half_alone**2 * into
    amplitude = both[..., 0] - left
    grown = both[..., 1] - 2j * math.pi * alone * left
    change = torch.stack([amplitude, 2 * moved[0], 2 * moved[1], 2 * grown], dim=-1)
    return (amplitude.conj()[..., None] * change).real


def _wave(phase: torch.Tensor) -> torch.Tensor:
    """``exp(i phase)``; complex phases are those of waves that decay."""
    return torch.exp(1j * phase) if phase.is_complex() else torch.polar(torch.ones_like(phase), phase)


def _waves(gamma: torch.Tensor, thickness: torch.Tensor) -> torch.Tensor:
    """``exp(2 pi i gamma t)`` (..., thicknesses, waves) at equal steps: of t = a + b, since products cost less."""
    n = math.ceil(math.sqrt(len(thickness)))
    fine, coarse = thickness[:n], thickness[::n] - thickness[0]
    fine, coarse = (_wave(2 * math.pi * gamma[..., None, :] * t[:, None]) for t in (fine, coarse))
    return (coarse[..., :, None, :] * fine[..., None, :, :]).flatten(-3, -2)[..., : len(thickness), :]


def _sinc(x: torch.Tensor) -> torch.Tensor:
    """``sin(pi x) / (pi x)``, of complex numbers, too."""
    if not x.is_complex():
        return torch.sinc(x)
    near = x.abs() < 1e-3
    z = math.pi * torch.where(near, torch.ones_like(x), x)
    return torch.where(near, 1 - (math.pi * x) ** 2 / 6, torch.sin(z) / z)


def _place(parts: _Split, wanted: torch.Tensor) -> torch.Tensor:
    """Where wanted beams (n, wanted) are in the order of strength, (n, m, wanted)."""
    return parts.order.argsort(-1).gather(-1, wanted[:, None].expand(-1, parts.order.shape[1], -1))
