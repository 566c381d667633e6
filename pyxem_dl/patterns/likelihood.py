"""How well orientations explain Bragg vectors: positions, intensities, what is missing, and q_z where it is known."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from pyxem_dl.frames import before_turn, excitation_error_after_tilt

# Without an absorbing or a thickness-averaging part a disk is as wide as a crystal of 1 / (pi 0.0007) = 450 Å makes it
_WIDTH = 0.0007
#: Standard deviation of the logarithm of an intensity from the two-beam formula: dynamical scattering between beams
SCATTER = 1.2
# Share of the disks that no reflection explains, and of the q_z that are wrong (their sign, above all)
_STRAY, _WRONG = 0.05, 0.2
# Degrees of freedom of the distribution of distances: its tails forgive distortion of the pattern and strain
_FREEDOM = 3.0
# Of a distance, beside what the detector says: Å⁻¹, and a share of |k|
_DISTANCE, _DISTORTION = 0.004, 0.005
# Of excitation errors of disks, whatever the crystal (Å⁻¹)
_ANY_EXCITATION_ERROR = 0.04
# What the logarithm of the scale of intensities may differ from the sum over all reflections by
_SCALE_SPREAD = 1.0


class VectorBatch(NamedTuple):
    """Vectors of n patterns, padded to m; all tensors (n, m), and padding has confidence 0.

    ``kx``, ``ky`` in Å⁻¹; ``log_intensity``; ``confidence``, how probable it is that there is a disk; ``variance`` of a
    position along each axis, Å⁻²; ``excitation_error`` by the detector's q_z, Å⁻¹, with its ``excitation_variance``,
    infinite where it gives none.
    """

    kx: torch.Tensor
    ky: torch.Tensor
    log_intensity: torch.Tensor
    confidence: torch.Tensor
    variance: torch.Tensor
    excitation_error: torch.Tensor
    excitation_variance: torch.Tensor

    def to(self, device) -> VectorBatch:
        """Move it to a device."""
        return VectorBatch(*(x.to(device) for x in self))


class SpotLists(NamedTuple):
    """Reflections near the Ewald sphere of many orientations; all tensors (..., spots).

    ``kx``, ``ky``, ``excitation_error`` in Å⁻¹, ``log_strength``: of 1 / extinction distance (Å⁻¹), -inf for padding.
    """

    kx: torch.Tensor
    ky: torch.Tensor
    excitation_error: torch.Tensor
    log_strength: torch.Tensor


class _Pairs(NamedTuple):
    """The two nearest reflections of each vector: which, and the logarithm of the density of the distance (2, ...)."""

    index: torch.Tensor
    log_density: torch.Tensor


def turned(spots: SpotLists, angle: torch.Tensor) -> SpotLists:
    """Turn spots (n, c, spots) about the beam by angles (n, c) in radians, counter-clockwise."""
    kx, ky = before_turn(spots.kx, spots.ky, -angle[..., None])
    return spots._replace(kx=kx, ky=ky)


def in_plane_misfit(vectors: VectorBatch, spots: SpotLists) -> torch.Tensor:
    """Angle in radians (n, c) by which spots have to be turned to lie on the vectors, by weighted least squares."""
    squared, index = _distances(vectors, spots).min(-1)
    kx, ky = (k.gather(2, index) for k in (spots.kx, spots.ky))
    x, y = vectors.kx[:, None], vectors.ky[:, None]
    variance = _variance(vectors)[:, None]
    # the angle itself may be off by a degree, so that far vectors are allowed more
    allowed = variance + (0.015**2) * (x**2 + y**2)
    weight = vectors.confidence[:, None] / variance / (1 + squared / (_FREEDOM * allowed)) ** (1 + _FREEDOM / 2)
    along, across = (weight * (kx * x + ky * y)).sum(-1), (weight * (kx * y - ky * x)).sum(-1)
    return torch.atan2(across, along.clamp_min(1e-9)).clamp(-0.03, 0.03)


def log_likelihood(
    vectors: VectorBatch, spots: SpotLists, tilts: torch.Tensor, step: float, scatter: float = SCATTER
) -> torch.Tensor:
    """Logarithm of how much better orientations explain vectors than vectors anywhere.

    Parameters
    ----------
    vectors : VectorBatch
        Of n patterns.
    spots : SpotLists
        Of c candidates for each, (n, c, spots).
    tilts : tensor, shape (t, 2) or (n, c, t, 2)
        Small turns of the crystal about x and y, in radians.
    step : float
        In radians: what a tilt stands for reaches to half of it.
    scatter : float
        Standard deviation of the logarithm of an intensity.

    Returns
    -------
    tensor, shape (n, c, t)

    Notes
    -----
    Disks are a Poisson process: that a reflection g is found at x with intensity I has the density

        t(x - x_g) N(log I; log a + log P_g, scatter**2),  P_g = A_g**2 / (A_g**2 + s_g**2),

    with a bivariate t-distribution t, the excitation error s_g, A_g = 1 / extinction distance, and a factor a. P is the
    intensity of two beams, averaged over the thickness: against many-beam calculations of MgO, Fe, Mg and Al₂O₃ (50 to
    500 Å) the logarithm scatters by 0.4 to 0.9 and is biased by 0.6 at most for all s up to 0.2 Å⁻¹, where the
    kinematical A**2 with a width of 0.08 Å⁻¹ is off by 1 to 3. A vector with confidence c is one of these disks, one of
    another origin, or (1 - c) none.  Reflections that ought to be above the weakest disks and are not found count
    against an orientation.
    """
    pairs = _pairs(vectors, spots)
    error = excitation_error_after_tilt(
        spots.excitation_error[..., None], spots.kx[..., None], spots.ky[..., None],
        tilts[..., None, :, 0], tilts[..., None, :, 1],
    )  # fmt: skip
    strength = (2 * spots.log_strength).exp()[..., None]
    # what a tilt stands for blurs excitation errors
    per_k = 0.4 * step
    blur = _WIDTH**2 + (spots.kx**2 + spots.ky**2)[..., None] * per_k**2
    log_p = torch.log(strength / (strength + error**2 + blur) + 1e-12)
    paired = [_of_pair(log_p, index) for index in pairs.index]
    log_scale = _log_scale(vectors, log_p, pairs, paired, scatter)
    found = _found(vectors, pairs, paired, log_scale, error, scatter, per_k)
    missing = torch.special.ndtr((log_p + log_scale[:, :, None] - _weakest(vectors)[:, None, None, None]) / scatter)
    return found - (missing * (spots.log_strength > -math.inf)[..., None]).sum(2)


def _distances(vectors: VectorBatch, spots: SpotLists) -> torch.Tensor:
    """Squared distances (n, c, m, spots) in Å⁻²."""
    dx = vectors.kx[:, None, :, None] - spots.kx[:, :, None]
    dy = vectors.ky[:, None, :, None] - spots.ky[:, :, None]
    return (dx.square_() + dy.square_()) + (spots.log_strength == -math.inf)[:, :, None] * 1e3


def _variance(vectors: VectorBatch) -> torch.Tensor:
    return vectors.variance + _DISTANCE**2 + _DISTORTION**2 * (vectors.kx**2 + vectors.ky**2)


def _pairs(vectors: VectorBatch, spots: SpotLists) -> _Pairs:
    squared = _distances(vectors, spots)
    first, i = squared.min(-1)
    second, j = squared.scatter(-1, i[..., None], 1e3).min(-1)
    variance = _variance(vectors)[:, None]

    def log_density(d):
        return -torch.log(2 * math.pi * variance) - (1 + _FREEDOM / 2) * torch.log1p(d / (_FREEDOM * variance))

    return _Pairs(torch.stack([i, j]), torch.stack([log_density(first), log_density(second)]))


def _of_pair(of_spots: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Take what reflections (n, c, spots, t) have for the vectors (n, c, m) that they are paired with: (n, c, m, t)."""
    return of_spots.gather(2, index[..., None].expand(*index.shape, of_spots.shape[-1]))


def _log_scale(vectors: VectorBatch, log_p, pairs: _Pairs, paired, scatter) -> torch.Tensor:
    """Logarithm of the factor a (n, c, t): from the sum over all, and from the pairs."""
    total = torch.log((vectors.log_intensity.exp() * vectors.confidence).sum(1).clamp_min(1e-9))
    prior = total[:, None, None] - torch.logsumexp(log_p, 2)
    variance = _variance(vectors)[:, None]
    near = torch.exp(pairs.log_density[0] + torch.log(2 * math.pi * variance))
    weight = (vectors.confidence[:, None] * near / scatter**2)[..., None]
    seen = (weight * (vectors.log_intensity[:, None, :, None] - paired[0])).sum(2)
    return (prior / _SCALE_SPREAD**2 + seen) / (1 / _SCALE_SPREAD**2 + weight.sum(2))


def _found(vectors: VectorBatch, pairs: _Pairs, paired, log_scale, error, scatter, per_k) -> torch.Tensor:
    """Logarithm of the likelihood ratio (n, c, t) of all vectors."""
    confidence, log_intensity = vectors.confidence, vectors.log_intensity
    number = confidence.sum(1, keepdim=True).clamp_min(1e-6)
    mean = (confidence * log_intensity).sum(1, keepdim=True) / number
    spread = ((confidence * (log_intensity - mean) ** 2).sum(1, keepdim=True) / number).sqrt().clamp_min(1.0)
    area = math.pi * (vectors.kx**2 + vectors.ky**2).mul(confidence > 0).amax(1, keepdim=True).clamp_min(0.01)
    # disks anywhere, of any intensity
    anywhere = torch.log(number.clamp_min(1.0) / area / spread) - 0.5 * ((log_intensity - mean) / spread) ** 2
    constant = -math.log(scatter) - anywhere
    ratio = _STRAY
    for index, log_density, log_p in zip(*pairs, paired, strict=True):
        off = (log_intensity[:, None, :, None] - log_scale[:, :, None] - log_p) / scatter
        density = (log_density + constant[:, None])[..., None] - 0.5 * off**2
        ratio = ratio + density.clamp_max(25.0).exp() * _of_excitation_errors(vectors, _of_pair(error, index), per_k)
    confidence = confidence[:, None, :, None]
    return torch.log1p(confidence * (ratio - 1)).sum(2)


def _of_excitation_errors(vectors: VectorBatch, error: torch.Tensor, per_k: float) -> torch.Tensor:
    """How much more probable (n, c, m, t) reflections make the excitation errors that the detector gives."""
    variance = vectors.excitation_variance
    known = torch.isfinite(variance)
    variance = torch.where(known, variance, 1.0) + per_k**2 * (vectors.kx**2 + vectors.ky**2)
    measured = torch.where(known, vectors.excitation_error, 0.0)
    wide = variance + _ANY_EXCITATION_ERROR**2
    anyway = -0.5 * (measured**2 / wide + torch.log(wide))
    so = -0.5 * ((measured[:, None, :, None] - error) ** 2 / variance[:, None, :, None])
    ratio = torch.exp(so - (0.5 * torch.log(variance) + anyway)[:, None, :, None])
    return torch.where(known[:, None, :, None], _WRONG + (1 - _WRONG) * ratio, 1.0)


def _weakest(vectors: VectorBatch) -> torch.Tensor:
    """Logarithm of the intensity (n,) at which a disk is found or not: that of the vectors that are doubtful."""
    doubt = vectors.confidence * (1 - vectors.confidence) + 1e-6 * (vectors.confidence > 0)
    return (doubt * vectors.log_intensity).sum(1) / doubt.sum(1).clamp_min(1e-12)
