"""How well the spots of one crystal or of several explain the peaks of a pattern: by where they are, not how bright."""

from __future__ import annotations

import math
from itertools import product
from typing import NamedTuple

import torch

from pyxem_dl.crystals import Spots
from pyxem_dl.networks.spot_verifier import PatternView, Peaks
from pyxem_dl.preprocessing import PolarPreprocessing

# Peaks of a pattern; they stand out by so many standard deviations at least
_PEAKS, _FAINTEST = 48, 2.5
# Theory is not better than so many electrons are: more of them count as if there were so many
_MOST_ELECTRONS = 2e4
# Shares of the pattern's electrons that a crystal may have, when it is said what of it would be seen, and what they may
# be together, roughly as they are; and by how many standard deviations what is seen stands out
_SHARES, _TOGETHER, _SEEN = (0.1, 0.25, 0.6), 1.35, 3.0
# Width (Å⁻¹) of the curve of intensity over excitation error: that of a crystal of 200 Å
_WIDTH = 0.0015
# Distance of a peak from its reflection: Å⁻¹, shares of the disk's radius and of |k|; degrees of freedom of its
# t-distribution, whose tails forgive distortion
_DISTANCE, _OF_DISK, _OF_K, _FREEDOM = 0.012, 0.25, 0.012, 3.0
# Peaks of other origin: for each peak that stands out, at least one, and so many that are noise
_STRAY, _NOISE, _NOISE_FROM = 0.05, 60.0, 1.5
# Reflections nearer to the direct beam than its rim by so much (Å⁻¹) cannot be expected
_RIM = 0.03
# Bins over which the counts of peaks are summed
_BINS = 9


class Explained(NamedTuple):
    """What n patterns' peaks say of c candidates.

    For each share of the light that a candidate may have, ``ratio (n, c, peaks, shares)``: how much denser peaks are
    there than those of other origin, 0 for faint ones; ``expected (n, c, shares)`` peaks of the candidate.
    """

    ratio: torch.Tensor
    expected: torch.Tensor

    def of(self, *sets: torch.Tensor) -> torch.Tensor:
        """Logarithm of how much better sets of candidates explain the peaks than chance does.

        Parameters
        ----------
        *sets : tensor of int, shape (sets,) or (n, sets)
            The first, the second, ... candidate of each set.

        Returns
        -------
        tensor, shape (n, sets)
            For the shares of the light that explain most.

        Notes
        -----
        Peaks are a Poisson process whose density is that of stray ones and of the crystal that explains a peak best:
        a second crystal gains by peaks that the first one does not explain, and pays for each of its own that ought to
        be seen, so that one whose spots are among the first one's never pays.
        """
        n, _, n_peaks, n_shares = self.ratio.shape
        sets = [each.expand(n, -1) for each in sets]
        ratios = [self.ratio.gather(1, each[..., None, None].expand(-1, -1, n_peaks, n_shares)) for each in sets]
        paid = [self.expected.gather(1, each[..., None].expand(-1, -1, n_shares)) for each in sets]
        found = []
        for shares in product(range(n_shares), repeat=len(sets)):
            if sum(_SHARES[i] for i in shares) > _TOGETHER:
                continue
            best, *others = (ratio[..., i] for ratio, i in zip(ratios, shares, strict=True))
            for ratio in others:
                best = torch.maximum(best, ratio)
            found.append(torch.log1p(best).sum(2) - sum(each[..., i] for each, i in zip(paid, shares, strict=True)))
        return torch.stack(found).amax(0)


class Evidence(NamedTuple):
    """The peaks of n patterns, and what is needed to compare candidates with them."""

    peaks: Peaks
    level: torch.Tensor
    electrons: torch.Tensor
    least: torch.Tensor
    radius: torch.Tensor
    preprocessing: PolarPreprocessing

    @classmethod
    def of(cls, view: PatternView, radius: torch.Tensor, preprocessing: PolarPreprocessing) -> Evidence:
        """Find the peaks.

        Parameters
        ----------
        view : PatternView
            Of the patterns.
        radius : tensor, shape (n,)
            Of the disks, in Å⁻¹.
        preprocessing : PolarPreprocessing
            That made them.
        """
        scale = (_MOST_ELECTRONS / view.log_electrons.exp().clamp_min(1)).clamp_max(1)
        found, ring = view.found * scale[:, None, None], view.ring * scale[:, None]
        peaks = Peaks.of(found, ring, view.valid, preprocessing.reciprocal_radius, _PEAKS)
        # where there are more peaks than are looked at, the faintest of them is what can be expected to be seen
        least = peaks.significance.amin(1).clamp_min(_SEEN)
        return cls(peaks, _BINS * ring, scale * view.log_electrons.exp(), least, radius, preprocessing)

    def explained(self, spots: Spots) -> Explained:
        """Compare with the reflections (n, c, s) of candidates."""
        kx, ky = spots.kx, spots.ky
        there = self._there(spots)
        seen = self._probability(spots, there)
        x, y = self.peaks.kx[:, None, :, None], self.peaks.ky[:, None, :, None]
        squared = (x - kx[:, :, None]) ** 2 + (y - ky[:, :, None]) ** 2
        k = torch.hypot(self.peaks.kx, self.peaks.ky)
        variance = _DISTANCE**2 + (_OF_DISK * self.radius[:, None]) ** 2 + (_OF_K * k) ** 2
        variance = variance[:, None, :, None]
        density = (1 + squared / (_FREEDOM * variance)) ** -(1 + _FREEDOM / 2) / (2 * math.pi * variance)
        density = torch.stack([(density * each[:, :, None]).sum(3) for each in seen.unbind(3)], dim=3)
        clear = (self.peaks.significance > _FAINTEST) / self._stray()
        return Explained(density * clear[:, None, :, None], seen.sum(2))

    def _there(self, spots: Spots) -> torch.Tensor:
        k = torch.hypot(spots.kx, spots.ky)
        outside = k > self.preprocessing.inner_radius + _RIM
        return (spots.structure_factor > 0) & outside & (k < self.preprocessing.reciprocal_radius)

    def _probability(self, spots: Spots, there: torch.Tensor) -> torch.Tensor:
        """How probable it is that reflections are seen, (n, c, s, shares): intensities are known to a factor only."""
        p = self.preprocessing
        strength = spots.extinction_distance**-2
        share = strength / (strength + spots.excitation_error**2 + _WIDTH**2) * there
        share = share / share.sum(2, keepdim=True).clamp_min(1e-9)
        k = torch.hypot(spots.kx, spots.ky)
        row = (k * (p.n_k / p.reciprocal_radius)).long().clamp_max(p.n_k - 1)
        level = self.level.gather(1, row.flatten(1)).reshape(k.shape) + 0.375
        needed = (level.sqrt() + self.least[:, None, None] / 2) ** 2 - level
        expected = self.electrons[:, None, None] * share
        needed = needed.clamp_min(0.5)
        return torch.stack([part * expected / (part * expected + needed) * there for part in _SHARES], dim=3)

    def _stray(self) -> torch.Tensor:
        """Density (n, peaks) of peaks of other origin, in Å²."""
        significance = self.peaks.significance
        number = (significance > _FAINTEST).sum(1, keepdim=True)
        noise = _NOISE * torch.exp(-0.5 * (significance - _NOISE_FROM).clamp_min(0) ** 2)
        return (1 + _STRAY * number + noise) / (math.pi * self.preprocessing.reciprocal_radius**2)
