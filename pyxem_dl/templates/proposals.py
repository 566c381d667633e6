"""A few orientations that a pattern may have, proposed by coarse templates: fast, for any crystal."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from pyxem_dl.electrons import electron_wavelength
from pyxem_dl.preprocessing import PolarPreprocessing
from pyxem_dl.preprocessing.elementary import fourth_root
from pyxem_dl.rotations import full_float32, rotate_in_plane
from pyxem_dl.symmetry import laue_group, reduced_grid
from pyxem_dl.templates.bank import check_size
from pyxem_dl.templates.drawing import Drawing

# Exponent of the intensities (as that of the bank, whose docstring says why); in-plane angles that are compared, and
# frequencies over the angle: what is finer a coarse template does not know
_GAMMA, _ANGLES, _FREQUENCIES = 0.25, 72, 24
# Rings of the patterns that are put together
_RINGS = 2
#: Numbers of a template for each ring of the patterns
TEMPLATE_NUMBERS = 4 * _FREQUENCIES // _RINGS
# Templates of a phase, at most: for crystals of low symmetry the zone axes are further apart
MOST_TEMPLATES = 2000
# Reflections of a phase, at most: of the largest cells the weakest are left out
MOST_REFLECTIONS = 6000
# Numbers of the correlation that are in memory at once; and templates, so that of many phases each is read once for
# several patterns
_AT_ONCE, _TEMPLATES_AT_ONCE = {"cpu": 2**21, "other": 2**27}, {"cpu": 4096, "other": 2**17}


class Proposals(NamedTuple):
    """Orientations that patterns may have, most similar first.

    ``rotations (n, m, 4)`` lab to crystal, each as good as the one turned by 180° about the beam; ``score (n, m)``,
    the correlation, below 1; ``phase_id (n, m)``; each is the ``template (n, m)`` turned by ``angle (n, m)`` radians.
    """

    rotations: torch.Tensor
    score: torch.Tensor
    phase_id: torch.Tensor
    template: torch.Tensor
    angle: torch.Tensor


def coarse_resolution(phase, wanted: float, most: int = MOST_TEMPLATES) -> float:
    """Degrees between zone axes with which a phase has about `most` templates, or `wanted` where it has less."""
    sphere = 4 * math.pi / laue_group(phase).proper_subgroup.size
    return max(wanted, math.degrees(math.sqrt(1.2 * sphere / most)))


def coarse_size(phase, wanted: float = 3.0, most: int = MOST_TEMPLATES) -> int:
    """About how many templates a phase has."""
    sphere = 4 * math.pi / laue_group(phase).proper_subgroup.size
    return round(1.2 * sphere / math.radians(coarse_resolution(phase, wanted, most)) ** 2)


@dataclass(eq=False)
class Proposer:
    """Templates of all zone axes of some phases, a few degrees apart, as factors of matrix products.

    The scores are those of :class:`TemplateBank`, of every second ring and the low frequencies over the angle.  Sums
    over rings and frequencies are products of matrices, in the precision that the device is fastest with.

    Parameters
    ----------
    preprocessing : PolarPreprocessing
        The patterns' polar grid.
    quaternions : tensor, shape (t, 4)
        Orientations of the templates, with the first Euler angle 0.
    phase_id : tensor of int, shape (t,)
        Phase of each.
    resolution : tensor, shape (phases,)
        Degrees between the zone axes of each phase.
    templates : tensor, shape (2 frequencies, 2 rings, t)
        Real factors of the real parts, and then of the imaginary parts, of the correlation.
    """

    preprocessing: PolarPreprocessing
    quaternions: torch.Tensor
    phase_id: torch.Tensor
    resolution: torch.Tensor
    templates: torch.Tensor

    @classmethod
    def from_phases(
        cls, phases: list, beam_energy: float, preprocessing: PolarPreprocessing, resolution: float = 3.0,
        device: str | torch.device = "cpu",
    ) -> Proposer:  # fmt: skip
        """Simulate the templates of phases.

        Parameters
        ----------
        phases : list of orix.crystal_map.Phase
            From :func:`pyxem_dl.crystals.load_phases`.
        beam_energy : float
            In kV.
        preprocessing : PolarPreprocessing
            The polar grid of the patterns.
        resolution : float
            Degrees between zone axes; more for phases of which this would be more than two thousand templates.
        device : str or torch.device
            Where they are made and kept.
        """
        grid = replace(preprocessing, n_k=preprocessing.n_k // _RINGS, gamma=_GAMMA)
        draw = Drawing(
            grid, electron_wavelength(beam_energy), most_reflections=MOST_REFLECTIONS, most_frequencies=_FREQUENCIES + 1
        )
        resolutions = [coarse_resolution(phase, resolution) for phase in phases]
        for phase, each in zip(phases, resolutions, strict=True):
            check_size([phase], grid, each, draw.max_excitation_error)
        quaternions = [reduced_grid(*each).to(device) for each in zip(phases, resolutions, strict=True)]
        sizes = torch.tensor([len(q) for q in quaternions])
        # written to where they stay: many phases take their memory once
        factors = torch.empty(2 * _FREQUENCIES, 2 * grid.n_k, int(sizes.sum()), device=device)
        begin = 0
        for phase, grid_of_phase in zip(phases, quaternions, strict=True):
            for spectra in draw(phase, grid_of_phase):
                factors[..., begin : begin + len(spectra)] = _factors(spectra.permute(2, 1, 0))
                begin += len(spectra)
        phase_id = torch.repeat_interleave(torch.arange(len(phases)), sizes)
        resolutions = torch.tensor(resolutions, device=device)
        return cls(preprocessing, torch.cat(quaternions), phase_id.to(device), resolutions, factors)

    def __len__(self) -> int:
        return len(self.quaternions)

    def to(self, device: torch.device | str) -> Proposer:
        """Move the templates to a device; returns the proposer itself."""
        for name in ("quaternions", "phase_id", "resolution", "templates"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def __call__(self, polar: torch.Tensor, valid: torch.Tensor, n_best: int = 16) -> Proposals:
        """Propose orientations.

        Parameters
        ----------
        polar : tensor, shape (n, n_k, n_phi)
            Mean intensities, from :meth:`PolarPreprocessing.resample`.
        valid : tensor of bool, shape (n or 1, n_k, n_phi)
            Where a bin was measured.
        n_best : int
            How many; nearby ones are not put together.

        Returns
        -------
        Proposals
        """
        spectra, kind = self._spectra(polar, valid), "cpu" if polar.device.type == "cpu" else "other"
        inverse, found, begin = self._inverse(spectra), [], 0
        for templates in self.templates.split(_TEMPLATES_AT_ONCE[kind], dim=2):
            size = _AT_ONCE[kind] // (len(inverse[0]) * templates.shape[2])
            # a power of two, so that micro-batches come out whole
            parts = spectra.split(2 ** max(0, size.bit_length() - 1), dim=1)
            templates = templates.to(spectra.dtype)
            best = (self._best(part, templates, inverse, n_best) for part in parts)
            score, template, step = (torch.cat(column) for column in zip(*best, strict=True))
            found.append((score, template + begin, step))
            begin += templates.shape[2]
        score, template, step = (torch.cat(column, dim=1) for column in zip(*found, strict=True))
        if len(found) > 1:
            score, order = score.topk(min(n_best, len(self)), dim=1)
            template, step = template.gather(1, order), step.gather(1, order)
        angle = step * (2 * math.pi / _ANGLES)
        rotations = rotate_in_plane(self.quaternions[template], angle)
        return Proposals(rotations, score, self.phase_id[template], template, angle)

    @staticmethod
    def _best(spectra, templates, inverse, n_best: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Score, number and in-plane step of the templates that are most similar to each of a few patterns (n, m)."""
        even, odd = inverse
        with full_float32():
            real, imaginary = torch.bmm(spectra, templates).unflatten(0, (2, -1)).flatten(2)
            # of an angle and its negative the correlation is the sum and the difference of these
            both, either = ((x @ y).unflatten(1, (spectra.shape[1], -1)) for x, y in ((even, real), (odd, imaginary)))
        score, template = (both + either.abs()).amax(0).topk(min(n_best, templates.shape[2]), dim=1)
        at = template.expand(len(even), -1, -1)
        both, either = both.gather(2, at), either.gather(2, at)
        step = (both + either.abs()).argmax(0)
        negative = either.gather(0, step[None])[0] > 0
        return score.float(), template, torch.where(negative, _ANGLES - step, step)

    def _spectra(self, polar, valid) -> torch.Tensor:
        """Factors (2 frequencies, n, 2 rings) of polar patterns."""
        weight = valid.to(polar)
        total, weight = ((x.unflatten(1, (-1, _RINGS))).sum(2) for x in (polar.clamp_min(0) * weight, weight))
        x = fourth_root((total / weight.clamp_min(1)).clamp_min(torch.finfo(polar.dtype).tiny))
        weight = (weight > 0).to(x)
        ring = (x * weight).sum(-1, keepdim=True) / weight.sum(-1, keepdim=True).clamp_min(1)
        x = (x - ring) * weight * _ring_weights(self.preprocessing, x)[:, None]
        angle = torch.arange(x.shape[2], device=x.device) * (2 * math.pi / x.shape[2])
        order = torch.arange(1, _FREQUENCIES + 1, device=x.device)
        wave = angle[:, None] * order
        with full_float32():
            spectrum = x @ torch.cat([wave.cos(), -wave.sin()], dim=1)
        spectrum = spectrum / spectrum.flatten(1).norm(dim=1).clamp_min(1e-20)[:, None, None]
        spectrum = torch.cat(spectrum.split(_FREQUENCIES, dim=2), dim=1).permute(2, 0, 1)
        device = spectrum.device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else spectrum.dtype
        return spectrum.to(kind).repeat(2, 1, 1)

    @staticmethod
    def _inverse(like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Matrices (angles, frequencies) from real, and imaginary, parts to the correlation at angles up to 180°."""
        order = torch.arange(1, _FREQUENCIES + 1, device=like.device)
        step = torch.arange(_ANGLES // 2 + 1, device=like.device)
        wave = step[:, None] * (2 * math.pi / _ANGLES) * order
        return wave.cos().to(like.dtype), wave.sin().to(like.dtype)


def _ring_weights(preprocessing: PolarPreprocessing, like: torch.Tensor) -> torch.Tensor:
    """Weigh rings, put together, by their radius; those inside of the inner one not at all."""
    n_k = preprocessing.n_k // _RINGS
    k = (torch.arange(n_k, device=like.device) + 0.5) * (preprocessing.reciprocal_radius / n_k)
    return k * (k > preprocessing.inner_radius)


def _factors(spectra: torch.Tensor) -> torch.Tensor:
    """Real factors (2 frequencies, 2 rings, t) of spectra (frequencies, rings, t), of which the conjugates multiply."""
    low = torch.view_as_real(spectra[1 : _FREQUENCIES + 1])
    low = low / low.square().sum((0, 1, 3), keepdim=True).sqrt().clamp_min(1e-20)
    real, imaginary = low.unbind(-1)
    return torch.cat([torch.cat([real, imaginary], dim=1), torch.cat([-imaginary, real], dim=1)])
