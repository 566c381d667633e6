"""The scale of patterns without any orientation: distances of peaks from the beam against those of reflections."""

from __future__ import annotations

import numpy as np

#: Errors of the scale that are looked for, relative
LARGEST = 0.15
# Grid of ln(k), width of a ring (an ellipse blurs it) and of what is not a ring, in the same
_STEP, _WIDTH, _BROAD = 0.002, 0.012, 0.1
_NEAREST = 0.1


def scales_by_rings(peaks: np.ndarray, phases: list, radius: float, most: int = 3) -> list[tuple[float, float]]:
    """List scales that bring the peaks onto the rings of the phases.

    Parameters
    ----------
    peaks : array, shape (m,)
        Distances from the beam in Å⁻¹, of all patterns.
    phases : list of pyxem_dl.crystals.Reflections
        What may be there.
    radius : float
        Peaks beyond are not looked at, in Å⁻¹.
    most : int
        How many to return.

    Returns
    -------
    list of tuple of float
        (scale, height): a spot at k is seen at k times the scale, from 0.85 to 1.15; how well it fits in units of the
        scatter over all scales, the best first.  Empty where there is nothing to compare.
    """
    from scipy.ndimage import gaussian_filter1d

    margin = np.log1p(LARGEST) + 4 * _WIDTH
    edges = np.arange(np.log(_NEAREST) - margin, np.log(radius) + margin, _STEP)
    seen = np.histogram(np.log(peaks[(peaks > _NEAREST) & (peaks < radius)]), edges)[0].astype(float)
    g, weight = (np.concatenate(x) for x in zip(*((_lengths(r), _weights(r)) for r in phases), strict=True))
    rings = np.histogram(np.log(g), edges, weights=weight)[0]
    if seen.sum() < 30 or not rings.any():
        return []

    def sharp(x):
        return gaussian_filter1d(x, _WIDTH / _STEP) - gaussian_filter1d(x, _BROAD / _STEP)

    a, b = sharp(seen), sharp(rings)
    shifts = np.arange(-round(np.log1p(LARGEST) / _STEP), round(np.log1p(LARGEST) / _STEP) + 1)
    fit = np.array([(np.roll(b, shift) * a).sum() for shift in shifts])
    fit = (fit - np.median(fit)) / max(fit.std(), 1e-12)
    top = np.flatnonzero((fit[1:-1] >= fit[:-2]) & (fit[1:-1] > fit[2:])) + 1
    top = top[np.argsort(-fit[top], kind="stable")][:most]
    return [(float(np.exp(shifts[i] * _STEP)), float(fit[i])) for i in top if fit[i] > 0]


def _lengths(reflections) -> np.ndarray:
    return reflections.g.norm(dim=1).double().numpy()


def _weights(reflections) -> np.ndarray:
    """How often a reflection is seen: the strong, and the near ones, which stay near the Ewald sphere longer."""
    strength = reflections.structure_factor.double().numpy()
    return strength / strength.max() / np.maximum(_lengths(reflections), 1e-6)
