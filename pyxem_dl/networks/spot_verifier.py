"""Verification of proposed orientations, for crystals that it has never seen.

For each proposal the reflections near the Ewald sphere are looked up in the polar pattern.  What stands there, next to
what the reflection could give and to what noise could, goes through one small network for each reflection.  The other
way round, the pattern's peaks are looked up among the reflections: one that none explains speaks against the proposal.
What all of them say together gives the proposal's score, and a small rotation that improves it.  No weight belongs to a
crystal.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn

from pyxem_dl.crystals import Spots
from pyxem_dl.preprocessing import PolarPreprocessing
from pyxem_dl.preprocessing.elementary import log_1p, square_root

# Distance (Å⁻¹) between sample points around each predicted spot; how many along the radius and across it
_PITCH = 0.03
_RADIAL, _AZIMUTHAL = 5, 5
# Unit of the corrections (radians), and of excitation errors (Å⁻¹)
_ANGLE, _ERROR = math.radians(1.0), 0.01
# Numbers of each reflection besides its samples
_KNOWN = 12
# Correlations with the pattern: widths of the shape factor (Å⁻¹), and typical value
_WIDTHS, _TYPICAL = (0.005, 0.02), 10.0
# Numbers of each proposal: with each width there are two powers of the intensities
_GLOBAL = 9 + 4 * len(_WIDTHS)
# What an earlier look said counts so much beside the present one
_EARLIER = 0.5
# Sums of what reflections, and peaks, say
_SAID = 4
# Peaks of a pattern that are to be explained; numbers of each, and width of their network
_PEAKS, _OF_PEAK, _PEAK_WIDTH = 24, 7, 32
# A peak is the highest of so many bins along the radius and the angle, and a sum over so many
_APART, _SUMMED = 5, 3
# Of a ring's level: so many times it stands out, and after so many rounds it is left out
_OUT, _ROUNDS = 3.0, 3
# Peaks that are fainter say nothing; what is further (Å⁻¹) from all reflections is as far; unit of the evidence
_FAINT, _FAR, _SPOKEN = 2.0, 0.2, 4.0
# Where reflections are that are not there (Å⁻¹)
_NOWHERE = 30.0
# What stands out by more standard deviations is not more certain
_CLEAR = 30.0


class Peaks(NamedTuple):
    """The peaks of patterns: ``kx``, ``ky`` in Å⁻¹, and by how many standard deviations they stand out; (n, peaks)."""

    kx: torch.Tensor
    ky: torch.Tensor
    significance: torch.Tensor

    @classmethod
    def of(
        cls, found: torch.Tensor, ring: torch.Tensor, valid: torch.Tensor, radius: float, number: int = _PEAKS
    ) -> Peaks:
        """Find the clearest ones in mean counts around each bin (n, n_k, n_phi)."""
        n_bins = _SUMMED**2
        out = _stands_out(n_bins * found, n_bins * ring[..., None]) * valid
        around = _highest(out, _APART)
        significance, at = torch.where(out >= around, out, 0).flatten(1).topk(number, dim=1)
        n_k, n_phi = out.shape[1:]
        k, phi = (at // n_phi + 0.5) * (radius / n_k), (at % n_phi) * (2 * math.pi / n_phi)
        return cls(k * phi.cos(), k * phi.sin(), significance)


def _around(x: torch.Tensor, n: int) -> torch.Tensor:
    """Means over n x n bins of polar arrays (n, n_k, n_phi); beyond the first and the last ring is nothing."""
    half = n // 2
    x = torch.cat([x[..., -half:], x, x[..., :half]], dim=-1)
    x = sum(x[..., i : x.shape[-1] - n + 1 + i] for i in range(n))
    x = nn.functional.pad(x, (0, 0, half, half))
    return sum(x[:, i : x.shape[1] - n + 1 + i] for i in range(n)) / n**2


def _highest(x: torch.Tensor, n: int) -> torch.Tensor:
    """Maxima of n x n bins, as the means of :func:`_around`; for n = 5."""
    half = n // 2
    x = torch.cat([x[..., -half:], x, x[..., :half]], dim=-1)
    pair = torch.maximum(x[..., :-1], x[..., 1:])
    x = torch.maximum(torch.maximum(pair[..., :-3], pair[..., 2:-1]), x[..., 4:])
    x = nn.functional.pad(x, (0, 0, half, half))
    pair = torch.maximum(x[:, :-1], x[:, 1:])
    return torch.maximum(torch.maximum(pair[:, :-3], pair[:, 2:-1]), x[:, 4:])


class PatternView(NamedTuple):
    """What all looks at the same patterns share.

    ``intensity (n, 1, n_k, n_phi + 2)``: square roots, of a root mean square of 1, with one column beyond each end,
    which closes the circle; ``found (n, n_k, n_phi)``, electrons per bin around each; ``valid (n or 1, n_k, n_phi)``,
    where it was measured, outside of the direct beam;
    ``ring (n, n_k)``: electrons per bin without what stands out; ``log_electrons (n,)`` of what stands out of the rings
    in all; ``peaks`` of the counts.
    """

    intensity: torch.Tensor
    found: torch.Tensor
    valid: torch.Tensor
    ring: torch.Tensor
    log_electrons: torch.Tensor
    peaks: Peaks

    @classmethod
    def of(cls, polar, valid, normalised, pixels, preprocessing: PolarPreprocessing) -> PatternView:
        """Look at polar patterns.

        Parameters
        ----------
        polar : tensor, shape (n, n_k, n_phi)
            Mean electrons per pixel.
        valid : tensor, shape (n or 1, n_k, n_phi)
            1 where the bin was measured.
        normalised : tensor, shape (n, n_k, n_phi)
            The same, compressed and normalised.
        pixels : tensor, shape (n_k,) or (n, n_k)
            Of the detector in a bin.
        preprocessing : PolarPreprocessing
            That made them.
        """
        counts = polar * pixels[..., None]
        # the rim of the direct beam, a little off its centre, is no peak
        valid = valid * preprocessing.is_outside(polar.device)[:, None]
        ring = counts.mean(2)
        for _ in range(_ROUNDS):  # what stands out of a ring does not count for its level
            ring = torch.minimum(counts, _OUT * ring[..., None] + 1 / _OUT).mean(2)
        excess = ((counts - ring[..., None]).clamp_min(0) * valid).sum((1, 2))
        found = _around(counts, _SUMMED)
        closed = torch.cat([normalised[..., -1:], normalised, normalised[..., :1]], dim=-1)[:, None]
        peaks = Peaks.of(found, ring, valid, preprocessing.reciprocal_radius)
        return cls(closed, found, valid, ring, log_1p(excess), peaks)

    def at(self, rows: torch.Tensor) -> PatternView:
        """Look at some of the patterns."""
        valid = self.valid if len(self.valid) == 1 else self.valid[rows]
        peaks = Peaks(*(x[rows] for x in self.peaks))
        return PatternView(*(x[rows] for x in self[:2]), valid, self.ring[rows], self.log_electrons[rows], peaks)


class SpotVerifier(nn.Module):
    """Score and improve proposed orientations of any crystal.

    Parameters
    ----------
    width : int
        Of the small networks.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.width = width
        self.sample = nn.Linear(_RADIAL * _AZIMUTHAL + _KNOWN, width)
        # what all reflections say of the pattern (how thick, how clear) decides on what each one says
        self.context = nn.Sequential(nn.Linear(2 * width + _GLOBAL, width), nn.GELU(), nn.Linear(width, width))
        self.spot = nn.Linear(width, width)
        # of each reflection: its weights among the others, what it says for the proposal or against it, and its pull
        self.say = nn.Linear(width, 2 + _SAID + 3)
        self.peak = nn.Sequential(nn.Linear(_OF_PEAK, _PEAK_WIDTH), nn.GELU(), nn.Linear(_PEAK_WIDTH, _SAID))
        self.score = nn.Sequential(
            nn.Linear(2 * width + _GLOBAL + _SAID, width), nn.GELU(), nn.Linear(width, width), nn.GELU(),
            nn.Linear(width, 1),
        )  # fmt: skip
        for layer in (self.say, self.peak[-1], self.context[-1]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        view: PatternView,
        spots: Spots,
        belief: torch.Tensor,
        reciprocal_radius: float,
        earlier: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compare proposals with patterns.

        Parameters
        ----------
        view : PatternView
            Of n patterns.
        spots : Spots
            Reflections of the proposals, (n, m, s), those that promise most.
        belief : tensor, shape (n, m)
            Correlation of the proposals with templates.
        reciprocal_radius : float
            Of the polar patterns, in Å⁻¹.
        earlier : tensor, shape (n, m), optional
            Score of an earlier look, by which the proposals were improved.

        Returns
        -------
        score : tensor, shape (n, m)
            Logits over the proposals; that of "none of these" is 0.
        correction : tensor, shape (n, m, 3)
            Rotation vectors v in radians; ``R * exp(v)`` is the better orientation.
        """
        spots = _Seen.of(view, *spots[:5], reciprocal_radius)
        there = spots.there[..., None]
        h = nn.functional.gelu(self.sample(torch.cat([spots.samples, spots.known()], dim=-1)))
        numbers = [*spots.numbers(), *spots.correlations(), *_beliefs(belief, earlier)]
        numbers = torch.stack(numbers, dim=-1).to(h)
        mean = _weighted(there[..., 0] / there.sum(2).clamp_min(1), h)
        context = self.context(torch.cat([mean, (h * there).amax(2), numbers], dim=-1))
        h = nn.functional.gelu(self.spot(h) + context[:, :, None])
        weight, said, pull = self.say(h).split([2, _SAID, 3], dim=-1)
        weight = (weight + -1e4 * ~there).softmax(dim=2) * there
        said = (said * there).sum(2) + self._explain(view.peaks, spots)
        pooled = torch.cat([_weighted(weight[..., 0], h), (h * there).amax(2), numbers, said / _SPOKEN], dim=-1)
        score = self.score(pooled)[..., 0] + said[..., 0]
        score = score if earlier is None else score + _EARLIER * earlier
        correction = (spots.pulls(pull) * weight[..., 1:]).sum(2)
        return score.float(), _ANGLE * correction.float()

    def _explain(self, peaks: Peaks, spots: _Seen) -> torch.Tensor:
        """Let the pattern's peaks speak of proposals (n, m, said), by how near the nearest reflection is."""
        distance, nearest = _nearest(peaks, spots)
        columns = torch.hypot(peaks.kx, peaks.ky), peaks.significance
        k, out = (column[:, None].expand_as(distance) for column in columns)
        known = (
            distance / _PITCH, torch.exp(-0.5 * (distance / _PITCH) ** 2), k, out.clamp_max(_CLEAR) / 5,
            (out > 3).to(k), log_1p(out) / 2, spots.share.gather(2, nearest).clamp_min(1e-4).log() / 4,
        )  # fmt: skip
        said = self.peak(torch.stack(known, dim=-1))
        return (said * (out > _FAINT)[..., None]).sum(2)


def _weighted(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Sum x (n, m, s, width) over reflections with weights (n, m, s), as products of matrices."""
    return torch.matmul(weight.to(x)[..., None, :], x)[..., 0, :]


def _nearest(peaks: Peaks, spots: _Seen) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances (n, m, peaks) of peaks from the nearest reflection, at most :data:`_FAR`, and which one that is."""
    # squares as a product of matrices: a fifth of the time of the differences; what is not there is far away
    x, y = torch.where(spots.there, spots.kx, _NOWHERE), spots.ky
    places = torch.stack([x, y, x * x + y * y], dim=1).flatten(2)
    ones = torch.ones_like(peaks.kx)
    with torch.autocast(x.device.type, enabled=False):
        of_peaks = torch.stack([-2 * peaks.kx, -2 * peaks.ky, ones], dim=2)
        squares, nearest = torch.bmm(of_peaks.float(), places.float()).unflatten(2, x.shape[1:]).min(3)
    squares = squares + (peaks.kx.square() + peaks.ky.square())[:, :, None]
    return square_root(squares.clamp_min(0)).clamp_max(_FAR).transpose(1, 2), nearest.transpose(1, 2)


class _Seen(NamedTuple):
    """Reflections of proposals (n, m, s), and what stands in the patterns where they should be.

    ``kx``, ``ky`` and excitation ``error`` in Å⁻¹; structure ``factor``; extinction ``distance`` in Å; ``there`` where
    there is one, and it was looked; ``share`` of the intensity, kinematically; ``samples (n, m, s, p)`` around them;
    electrons ``found`` in a bin, and in others of the ring (``level``); ``electrons (n, 1)`` of the patterns, as
    logarithms.
    """

    kx: torch.Tensor
    ky: torch.Tensor
    error: torch.Tensor
    factor: torch.Tensor
    distance: torch.Tensor
    there: torch.Tensor
    share: torch.Tensor
    samples: torch.Tensor
    found: torch.Tensor
    level: torch.Tensor
    electrons: torch.Tensor

    @classmethod
    def of(cls, view: PatternView, kx, ky, error, factor, distance, reciprocal_radius: float) -> _Seen:
        """Look reflections up in patterns."""
        n, n_k, n_phi = view.found.shape
        k, phi = torch.hypot(kx, ky), torch.atan2(ky, kx)
        row, column = k * (n_k / reciprocal_radius), phi * (n_phi / (2 * math.pi))
        at = (row.long().clamp_max(n_k - 1) * n_phi + column.round().long() % n_phi).flatten(1)
        found, valid = (x.flatten(1).expand(n, -1).gather(1, at).reshape(k.shape) for x in (view.found, view.valid))
        level = view.ring.gather(1, at // n_phi).reshape(k.shape)
        there = (factor > 0) & (k < reciprocal_radius) & (valid > 0)
        strength = factor * factor / (1 + (error / _ERROR) ** 2) * there
        share = strength / strength.sum(2, keepdim=True).clamp_min(1e-12)
        samples = cls._samples(view.intensity, k, row, column, reciprocal_radius)
        return cls(kx, ky, error, factor, distance, there, share, samples, found, level, view.log_electrons[:, None])

    @staticmethod
    def _samples(intensity, k, row, column, reciprocal_radius: float) -> torch.Tensor:
        n_k, n_phi = intensity.shape[2], intensity.shape[3] - 2
        # made on the device: nothing is sent there
        radial, azimuthal = (
            (torch.arange(number, device=k.device) - number // 2) * _PITCH for number in (_RADIAL, _AZIMUTHAL)
        )
        y = row[..., None] + radial * (n_k / reciprocal_radius)
        x = column[..., None] + azimuthal * (n_phi / (2 * math.pi)) / k[..., None].clamp_min(0.1)
        y = ((y - 0.5) * (2 / (n_k - 1)) - 1)[..., :, None]
        x = ((x % n_phi + 1) * (2 / (n_phi + 1)) - 1)[..., None, :]
        grid = torch.stack(torch.broadcast_tensors(x, y), dim=-1).flatten(1, 2).flatten(2, 3)
        values = nn.functional.grid_sample(intensity, grid, align_corners=True, padding_mode="zeros")
        return values[:, 0].unflatten(1, k.shape[1:])

    def expected(self) -> torch.Tensor:
        """Electrons that would be there, if the pattern's were shared out kinematically."""
        return self.share * self.electrons.exp()[..., None]

    def known(self) -> torch.Tensor:
        """Numbers of each reflection."""
        rocking = self.error / _ERROR
        # inverse hyperbolic sine: linear near the Bragg condition, a logarithm far from it
        far = (rocking.abs() + square_root(rocking * rocking + 1)).log()
        out = _stands_out(self.found, self.level)
        k = torch.hypot(self.kx, self.ky)
        columns = (
            k, far.copysign(rocking), far, 1 / (1 + rocking * rocking), 100 / self.distance.clamp_min(1.0),
            self.share.clamp_min(1e-4).log() / 4, out.clamp(-_CLEAR, _CLEAR) / 5,
            _stands_out(self.level + self.expected(), self.level).clamp_max(_CLEAR) / 5, log_1p(self.level) / 2,
            log_1p(self.found) / 4, (out > 3).to(k), self.there.to(k),
        )  # fmt: skip
        return torch.stack(columns, dim=-1)

    def numbers(self) -> tuple[torch.Tensor, ...]:
        """Numbers of each proposal (n, m)."""
        explained = log_1p(((self.found - self.level).clamp_min(0) * self.there).sum(2))
        due = (self.expected() > 3 * square_root(self.level + 1)) & self.there
        seen = (due & (_stands_out(self.found, self.level) > 2)).sum(2) / due.sum(2).clamp_min(1)
        n_there = log_1p(self.there.sum(2).to(explained))
        return explained / 4, explained - self.electrons, self.electrons.expand_as(explained) / 4, n_there / 2, seen

    def correlations(self) -> list[torch.Tensor]:
        """Of each proposal (n, m) with its pattern, and how far it is behind the best one.

        For each shape factor with the fourth and the square root of the intensities.
        """
        around = self.samples.unflatten(-1, (_RADIAL, _AZIMUTHAL))
        there = around[..., _RADIAL // 2 - 1 :, _AZIMUTHAL // 2 - 1 :][..., :3, :3].mean((-2, -1))
        columns = []
        for width in _WIDTHS:
            strength = self.factor.square() / (1 + (self.error / width) ** 2) * self.there
            amplitude = square_root(strength)
            for expected in (square_root(amplitude), amplitude):
                size = expected.square().sum(2).sqrt().clamp_min(1e-12)
                found = (expected * there).sum(2) / size / _TYPICAL
                columns += found, 10 * (found - found.amax(1, keepdim=True))
        return columns

    def pulls(self, pull: torch.Tensor) -> torch.Tensor:
        """Rotation vectors (n, m, s, 3) that reflections ask for: about the axis across each, along it, and z."""
        k = torch.hypot(self.kx, self.ky).clamp_min(1e-3)
        x, y = self.kx / k, self.ky / k
        a, b, c = pull.unbind(-1)
        return 5 * torch.stack([a * x - b * y, a * y + b * x, c], dim=-1)


def _beliefs(belief: torch.Tensor, earlier: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
    refined = torch.full_like(belief, earlier is not None)
    earlier = torch.zeros_like(belief) if earlier is None else earlier.to(belief)
    return belief, belief - belief.amax(1, keepdim=True), refined, earlier / 4


def _stands_out(found: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """By how many standard deviations of counting: differences of roots (Anscombe)."""
    return 2 * (square_root(found.clamp_min(0) + 0.375) - square_root(level.clamp_min(0) + 0.375))
