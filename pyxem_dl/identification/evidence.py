"""What patterns say of one phase: the network's logits, and how well its spots explain the peaks, without weights."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from pyxem_dl.crystals import ReflectionTable, find_spots
from pyxem_dl.frames import Calibration, pixel_to_k
from pyxem_dl.metrics import find_peaks

# Peaks of a pattern that are looked at, the highest ones; and how many it must have
_MOST_PEAKS, FEWEST_PEAKS = 32, 3
# Reflections that may explain them: the most promising ones, up to so far (Å⁻¹) from the Ewald sphere
_SPOTS, _FURTHEST, _ERROR = 96, 0.06, 0.01
# Of promises: dynamical intensities are spread more evenly than kinematical ones
_EVENER = 0.4
# Standard deviation of a peak's place: so much (Å⁻¹), and so much of its distance from the beam, as scales are known
_PLACE, _SCALE = 0.008, 0.008
# Share of the peaks that no reflection explains, even of the right phase
_STRAY = 0.15
# A peak is explained within so many standard deviations; turned by these angles (degrees) it is by chance
_WITHIN = 2.5
_TURNS = 7.5 + 15.0 * np.arange(24)
# Distances that are in memory at once
_AT_ONCE = 2**23


class Weights(NamedTuple):
    """Weights of what speaks for an orientation.

    Of the ``network``'s logits, and of the logarithms of how likely its spots make the ``peaks``; less so much for
    ``each`` peak, and for ``all``.
    """

    network: float
    peaks: float
    each: float
    all: float


#: Those of the bundled model, from :func:`~pyxem_dl.identification.fitting.fit_evidence`
WEIGHTS = Weights(1.75, 0.08, 0.16, 3.75)


class PeakPlaces(NamedTuple):
    """Places of the peaks of n patterns: ``kx``, ``ky (n, p)`` in Å⁻¹, and ``there (n, p)`` where there is one."""

    kx: torch.Tensor
    ky: torch.Tensor
    there: torch.Tensor

    @classmethod
    def of(cls, patterns, calibration: Calibration, centers, signal_mask, radius: float) -> PeakPlaces:
        """Find the peaks of patterns.

        Parameters
        ----------
        patterns : array, shape (n, rows, columns)
            In electrons, or whole numbers.
        calibration : Calibration
            Of the detector.
        centers : array, shape (n, 2), or None
            Direct beams (row, column) in px, where they are not the calibration's.
        signal_mask : array of bool, shape (rows, columns), or None
            True where the detector is excluded.
        radius : float
            What is further from the beam is left out, in Å⁻¹.
        """
        where = calibration.center if centers is None else centers
        places = torch.zeros(3, len(patterns), _MOST_PEAKS)
        for i, found in enumerate(find_peaks(patterns, where, signal_mask=signal_mask)):
            center = None if centers is None else centers[i]
            kx, ky = (torch.as_tensor(x) for x in pixel_to_k(found[:, 0], found[:, 1], calibration, center))
            inside = torch.hypot(kx, ky) < radius
            kx, ky = kx[inside][:_MOST_PEAKS], ky[inside][:_MOST_PEAKS]
            places[0, i, : len(kx)], places[1, i, : len(kx)], places[2, i, : len(kx)] = kx, ky, 1
        return cls(places[0], places[1], places[2] > 0)

    @property
    def count(self) -> torch.Tensor:
        """How many each pattern has (n,)."""
        return self.there.sum(1)

    def at(self, rows) -> PeakPlaces:
        """Those of some patterns."""
        return PeakPlaces(*(x[rows] for x in self))

    def spread(self) -> torch.Tensor:
        """Say how far (standard deviation, Å⁻¹) they may be from where they should (n, p)."""
        return torch.hypot(torch.full_like(self.kx, _PLACE), _SCALE * torch.hypot(self.kx, self.ky))


def likelihood(
    peaks: PeakPlaces, table: ReflectionTable, rotations: torch.Tensor, beam_energy: float, radius: float
) -> torch.Tensor:
    """Logarithms of how much likelier the places of peaks are with a crystal than anywhere.

    Each peak is drawn from the crystal's reflections near the Ewald sphere, by their promise, or it lies anywhere on
    the detector.  A crystal with many reflections pays for them: each is the less likely.

    Parameters
    ----------
    peaks : PeakPlaces
        Of n patterns.
    table : ReflectionTable
        Of one phase.
    rotations : tensor, shape (n, m, 4)
        Orientations, lab to crystal.
    beam_energy : float
        In kV.
    radius : float
        To which peaks were looked for, in Å⁻¹.

    Returns
    -------
    tensor, shape (n, m)
    """
    size, found = max(1, _AT_ONCE // (rotations.shape[1] * _MOST_PEAKS * _SPOTS)), []
    for start in range(0, len(rotations), size):
        some, r = peaks.at(slice(start, start + size)), rotations[start : start + size]
        kx, ky, share = _spots(table, r, beam_energy, radius)
        x, y = (p[:, None, :, None] - k[:, :, None] for p, k in ((some.kx, kx), (some.ky, ky)))
        width = some.spread()[:, None, :, None]
        density = torch.exp(-0.5 * (x * x + y * y) / width**2) / (2 * math.pi * width**2)
        ratio = (density * share[:, :, None]).sum(3) * (math.pi * radius**2)
        found.append((torch.log(_STRAY + (1 - _STRAY) * ratio) * some.there[:, None]).sum(2))
    return torch.cat(found)


def evidence(
    logits: torch.Tensor, of_peaks: torch.Tensor, n_peaks: torch.Tensor, weights: Weights = WEIGHTS
) -> torch.Tensor:
    """Logarithms (n,) of how much likelier patterns are with a phase than with none.

    Parameters
    ----------
    logits : tensor, shape (n, m)
        Of the network, for the phase's orientations against none of them.
    of_peaks : tensor, shape (n, m)
        From :func:`likelihood`.
    n_peaks : tensor, shape (n,)
        Peaks of each pattern: even a wrong orientation, chosen among all, is near some of them.
    weights : Weights
        Of these.
    """
    w = weights
    return (w.network * logits + w.peaks * of_peaks - w.each * n_peaks[:, None] - w.all).logsumexp(1)


def explained(
    peaks: PeakPlaces, table: ReflectionTable, rotations: torch.Tensor, beam_energy: float, radius: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Shares (n,) of the peaks of patterns that orientations (n, 4) explain, and that they would by chance."""
    kx, ky, share = (x[:, 0] for x in _spots(table, rotations[:, None], beam_energy, radius))
    turns = torch.deg2rad(torch.tensor([0.0, *_TURNS], dtype=torch.float32))
    place, shares = torch.complex(peaks.kx, peaks.ky), []
    spots = torch.complex(torch.where(share > 0, kx, 1e3), ky)
    for turn in turns:
        turned = place * torch.polar(torch.ones(()), turn)
        near = (turned[:, :, None] - spots[:, None]).abs().amin(2) < _WITHIN * peaks.spread()
        shares.append((near & peaks.there).sum(1) / peaks.count.clamp_min(1))
    return shares[0], torch.stack(shares[1:]).mean(0)


def _spots(table, rotations, beam_energy: float, radius: float) -> tuple[torch.Tensor, ...]:
    """Reflections (n, m, s) of orientations: kx, ky (Å⁻¹) and the share of the peaks that each promises to give."""
    n, m = rotations.shape[:2]
    spots = find_spots(
        table, torch.zeros(n * m, dtype=torch.long), rotations.reshape(-1, 4).float(), beam_energy, n_spots=_SPOTS,
        max_excitation_error=_FURTHEST,
    )
    kx, ky, error, factor = (x.reshape(n, m, -1) for x in spots[:4])
    promise = (factor.square() / (1 + (error / _ERROR) ** 2)) ** _EVENER * (torch.hypot(kx, ky) < radius) * (factor > 0)
    return kx, ky, promise / promise.sum(2, keepdim=True).clamp_min(1e-20)
