"""Intensity of scattering: shape factors of thin crystals."""

from __future__ import annotations

import math

import torch

# How much of the precession circle's rocking curve is sampled.
_PRECESSION_STEPS = 12

def _two_beam(error, thickness, extinction_distance):
    """Two-beam dynamical intensity (Howie-Whelan without absorption)."""
    effective = (error**2 + extinction_distance**-2).sqrt()
    return (torch.sin(math.pi * thickness * effective) / (effective * extinction_distance)) ** 2


def _kinematical(error, thickness, extinction_distance):
    """Thin slab, first Born approximation: sinc squared."""
    amplitude = math.pi * thickness / extinction_distance
    return (amplitude * torch.sinc(thickness * error)) ** 2


def _lorentzian(error, thickness, extinction_distance):
    """Envelope of the slab's curve, as if the thickness varied."""
    return extinction_distance**-2 / (1 + (math.pi * thickness * error) ** 2)


def _linear(error, thickness, extinction_distance):
    """Triangle that ends at 2 / thickness, as pyxem's template libraries often take."""
    return extinction_distance**-2 * (1 - (error * thickness / 2).abs()).clamp_min(0)


def _gaussian(error, thickness, extinction_distance):
    """Bent or mosaic crystals."""
    return extinction_distance**-2 * torch.exp(-((thickness * error) ** 2))


SHAPE_FACTORS = {
    "two_beam": _two_beam,
    "kinematical": _kinematical,
    "lorentzian": _lorentzian,
    "linear": _linear,
    "gaussian": _gaussian,
}


def spot_intensity(
    shape_factor: str, error, thickness, extinction_distance, *, k=None, precession_angle=0.0
):
    """Intensity of reflections by a shape-factor model, up to a factor common to a pattern.

    Parameters
    ----------
    shape_factor : str
        A key of :data:`SHAPE_FACTORS`.
    error : tensor
        Excitation error in Å⁻¹.
    thickness, extinction_distance : tensor
        In Angstrom; broadcast with `error`.  Padding is at infinite extinction distance.
    k : tensor, optional
        Distance from the direct beam in Å⁻¹; for precession.
    precession_angle : float
        In degrees.  The curve is averaged over the cone: the excitation error swings by
        ``k * sin(angle)``.
    """
    function = SHAPE_FACTORS[shape_factor]
    if precession_angle == 0:
        return function(error, thickness, extinction_distance)
    azimuth = torch.arange(_PRECESSION_STEPS, device=error.device) + 0.5
    azimuth = azimuth * (math.pi / _PRECESSION_STEPS)
    swing = k * math.sin(math.radians(precession_angle))
    cos = azimuth.cos().reshape(-1, *(1,) * max(error.ndim, swing.ndim))
    return sum(function(error + swing * cos, thickness, extinction_distance)) / _PRECESSION_STEPS
