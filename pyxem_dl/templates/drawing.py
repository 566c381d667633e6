"""Templates drawn: the spots of a crystal, as Gaussians on polar grids that are Fourier transformed along the angle."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pyxem_dl.crystals import near_ewald_sphere, reflections
from pyxem_dl.preprocessing import PolarPreprocessing

# Templates and spots that are simulated at once, at most: few spots stay in a processor's cache, and many take memory,
# 3 kB each if all frequencies are drawn
SIMULATED_AT_ONCE, _DRAWN_AT_ONCE = 256, {"cpu": 2**15, "other": 2**18}


def spot_radius_of(preprocessing: PolarPreprocessing) -> float:
    """Choose the standard deviation of spots, in Å⁻¹, that suits a polar grid."""
    return 0.8 * preprocessing.reciprocal_radius / preprocessing.n_k


@dataclass(frozen=True)
class Drawing:
    """Make the spectra of a phase's templates.

    Parameters
    ----------
    preprocessing : PolarPreprocessing
        The polar grid.
    wavelength : float
        Of the electrons in Å.
    max_excitation_error : float
        In Å⁻¹.
    spot_radius : float, optional
        Standard deviation in Å⁻¹; by default what suits the grid.
    most_reflections : int, optional
        The strongest ones; by default all.
    most_frequencies : int, optional
        Along the angle, from 0; by default all.  The others cost as much each.
    """

    preprocessing: PolarPreprocessing
    wavelength: float
    max_excitation_error: float = 0.08
    spot_radius: float | None = None
    most_reflections: int | None = None
    most_frequencies: int | None = None

    @property
    def n_frequencies(self) -> int:
        """How many are drawn."""
        all_of_them = self.preprocessing.n_phi // 2 + 1
        return min(all_of_them, self.most_frequencies or all_of_them)

    def __call__(self, phase, quaternions: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield normalised spectra (t, n_k, frequencies) of orientations (n, 4), some at a time."""
        radius, spot = self.preprocessing.reciprocal_radius, self._spot
        # Reflections a little outside still reach into the outermost ring
        crystal = reflections(phase, radius + 2 * spot)
        if not bool((crystal.g.norm(dim=1) <= radius).any()):
            reflections(phase, radius)  # its error
        crystal = crystal.strongest(self.most_reflections or len(crystal))
        g, strength = (x.to(quaternions.device) for x in (crystal.g, crystal.structure_factor))
        near = len(g) * min(1.0, 1.5 * self.max_excitation_error / (radius + 2 * spot))
        most = _DRAWN_AT_ONCE["cpu" if quaternions.device.type == "cpu" else "other"]
        size = max(1, min(SIMULATED_AT_ONCE, int(most / max(near, 1))))
        for part in quaternions.split(size):
            yield normalised_spectra(self._render(g, strength, part), self.preprocessing)

    @property
    def _spot(self) -> float:
        return spot_radius_of(self.preprocessing) if self.spot_radius is None else self.spot_radius

    def _spots(self, g, strength, quaternions) -> tuple[torch.Tensor, ...]:
        """Template, k, phi and intensity of all spots."""
        g, error, near = near_ewald_sphere(g, quaternions, self.wavelength, self.max_excitation_error)
        template, h = near.nonzero(as_tuple=True)
        width = error[template, h] * (math.pi / self.max_excitation_error)
        intensity = strength[h] ** 2 / (1 + width**2)
        kx, ky, _ = g[template, h].unbind(-1)
        intensity = intensity**self.preprocessing.gamma
        return template, torch.hypot(kx, ky), torch.atan2(ky, kx), intensity

    def _render(self, g, strength, quaternions) -> torch.Tensor:
        """Spectra of the templates' spots: (t, n_k, frequencies)."""
        template, k, phi, intensity = self._spots(g, strength, quaternions)
        return draw_spectra(
            len(quaternions), template, k, phi, intensity, self.preprocessing, self._spot, self.n_frequencies
        )


def draw_spectra(
    n: int, owner, k, phi, amplitude, preprocessing: PolarPreprocessing, spot_radius: float,
    n_frequencies: int | None = None,
) -> torch.Tensor:
    """Draw spots as Gaussians, exactly in angle, on polar grids that are Fourier transformed along it.

    Parameters
    ----------
    n : int
        Number of grids.
    owner : tensor of int, shape (m,)
        On which grid each spot is.
    k, phi, amplitude : tensor, shape (m,)
        Of the spots, in Å⁻¹ and radians.
    preprocessing : PolarPreprocessing
        The grid.
    spot_radius : float
        Standard deviation in Å⁻¹.
    n_frequencies : int, optional
        The lowest ones, from 0; by default all.

    Returns
    -------
    tensor of complex, shape (n, n_k, n_frequencies)
    """
    p = preprocessing
    step = p.reciprocal_radius / p.n_k
    reach = max(1, math.ceil(2.5 * spot_radius / step))
    order = torch.arange(n_frequencies or p.n_phi // 2 + 1, device=k.device)
    # the spot's radius as an angle; and the two bins wide tent of the polar resampling
    angular = spot_radius / k.clamp_min(spot_radius)
    shape = torch.exp(-0.5 * (order * angular[:, None]) ** 2)
    shape = shape * (amplitude * angular)[:, None] * torch.sinc(order / p.n_phi) ** 2
    # real and imaginary parts beside each other: a complex number times a real one is four products, and not two
    spectrum = torch.view_as_real(torch.polar(shape, -order * phi[:, None])).flatten(1)
    result = torch.zeros(n * p.n_k, 2 * len(order), dtype=spectrum.dtype, device=k.device)
    nearest = (k / step).floor().long()
    for offset in range(-reach, reach + 1):
        ring = nearest + offset
        distance = (ring + 0.5) * step - k
        weight = torch.exp(-0.5 * (distance / spot_radius) ** 2)
        # a spot off the grid adds nothing: how many there are of them nobody has to know
        weight = torch.where((ring >= 0) & (ring < p.n_k), weight, 0.0)
        result.index_add_(0, owner * p.n_k + ring.clamp(0, p.n_k - 1), spectrum * weight[:, None])
    return torch.view_as_complex(result.reshape(n, p.n_k, len(order), 2))


def normalised_spectra(spectrum, preprocessing: PolarPreprocessing) -> torch.Tensor:
    """Weight the rings, take away their mean, and normalise (..., n_k, frequencies)."""
    p = preprocessing
    k = torch.arange(p.n_k, device=spectrum.device) + 0.5
    k = k * (p.reciprocal_radius / p.n_k)
    spectrum = spectrum * (k * (k > p.inner_radius))[:, None]
    spectrum[..., 0] = 0
    # Parseval: what stands for two frequencies counts twice
    twice = torch.full((spectrum.shape[-1],), 2.0, device=spectrum.device)
    twice[0] = 1
    if p.n_phi % 2 == 0 and len(twice) == p.n_phi // 2 + 1:
        spectrum[..., -1] = spectrum[..., -1].real.to(spectrum.dtype)
        twice[-1] = 1
    square = (torch.view_as_real(spectrum).square().sum(-1) * twice).sum((-1, -2))
    return spectrum / square.sqrt().clamp_min(1e-20)[..., None, None]
