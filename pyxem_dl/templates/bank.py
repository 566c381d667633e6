"""Our engine: every template at every in-plane angle, batched on the device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate

import torch

from pyxem_dl.crystals import load_phases
from pyxem_dl.devices import padded
from pyxem_dl.electrons import electron_wavelength
from pyxem_dl.frames import Calibration
from pyxem_dl.moved import renamed_attribute
from pyxem_dl.patterns.peaks import parabola_shift
from pyxem_dl.preprocessing import PolarPreprocessing, usable_patterns
from pyxem_dl.rotations import full_float32, rotate_in_plane
from pyxem_dl.symmetry import laue_group, proper_operations, reduced_grid, stack_operations
from pyxem_dl.templates.drawing import (
    SIMULATED_AT_ONCE,
    Drawing,
    draw_spectra,
    normalised_spectra,
    spot_radius_of,
)
from pyxem_dl.templates.modes import Match, separate_modes

# Patterns that are matched at once, at most
_MICRO_BATCH = {"cpu": 32, "other": 256}
# Bytes of the correlations that are in memory at once.
_WORK_BYTES = {"cpu": 2**26, "cuda": 2**30}
# Bytes of all templates; reflections that are listed; and spots that are drawn at once (0.6 kB each)
_LARGEST_BANK, _MOST_REFLECTIONS, _MOST_SPOTS = 32 * 2**30, 10**7, 10**7


@dataclass(eq=False)
class TemplateBank:
    """Simulated patterns of all zone axes on a polar grid.

    Parameters
    ----------
    phases : list of orix.crystal_map.Phase
        The crystals.
    preprocessing : PolarPreprocessing
        The polar grid that patterns are resampled to, the exponent of their intensity, and
        the radius inside which nothing is compared.
    resolution : float
        Step between zone axes in degrees.
    quaternions : tensor, shape (t, 4)
        Orientations of the templates, with the first Euler angle 0.
    phase_id : tensor of int, shape (t,)
        Which phase a template belongs to.
    spectra : tensor of complex, shape (n_phi // 2 + 1, n_k, t)
        Conjugate Fourier transforms over the angle, normalised.
    operations : tensor, shape (phases, m, 4)
        Symmetry of each phase, from :func:`pyxem_dl.symmetry.proper_operations`; padded
        with the identity.

    Notes
    -----
    A template holds the zero- and higher-order reflections g within `max_excitation_error` of
    the Ewald sphere as Gaussian spots of intensity

        (abs(F)**2 / (1 + (pi * s / max_excitation_error)**2))**gamma

    with the excitation error s, which is diffsims' Lorentzian shape factor.  With P, the polar
    pattern to the power gamma, and T, the template, both less their mean over each ring and 0
    inside `inner_radius`, the score of a template turned by the angle a is

        sum_k,phi k**2 P(k, phi) T(k, phi - a) / (norm(k P) norm(k T)),

    between -1 and 1.  pyxem's score is the sum over the template's spots of P * I without ring
    means and weights (the spots' I normalised, P not).  Taking away the ring means makes halo
    and amorphous rings harmless; the weight undoes that spots near the centre fill more bins.

    On the multislice patterns of the benchmark (Al and LiNiO2, 10**3 and 10**4 electrons) the
    exponent 0.25 with these weights was much better than 0.5: dynamical intensities are spread
    more evenly than kinematical ones.  Exponent, weight and grid were chosen among some 35
    settings on these very patterns, so that this engine's numbers there are optimistic.

    The bank takes ``8 * t * n_k * n_phi / 2`` bytes.
    """

    phases: list
    preprocessing: PolarPreprocessing
    resolution: float
    quaternions: torch.Tensor
    phase_id: torch.Tensor
    spectra: torch.Tensor
    operations: torch.Tensor
    phase_index = renamed_attribute("phase_index", "phase_id")

    @classmethod
    def from_phases(
        cls,
        phases,
        beam_energy: float,
        preprocessing: PolarPreprocessing | float,
        resolution: float = 1.0,
        *,
        max_excitation_error: float = 0.08,
        spot_radius: float | None = None,
        most_reflections: int | None = None,
        device: str | torch.device = "cpu",
    ) -> TemplateBank:
        """Simulate the templates of some phases.

        Parameters
        ----------
        phases : orix.crystal_map.Phase, path of a CIF file, or an iterable of these
            The crystals.
        beam_energy : float
            In kV.
        preprocessing : PolarPreprocessing or float
            The polar grid; or its radius in Å⁻¹, for the grid that matches best:
            see :func:`polar_grid`.
        resolution : float
            Step between zone axes in degrees.
        max_excitation_error : float
            Largest distance of a reflection from the Ewald sphere, and width of the shape
            factor, in Å⁻¹.
        spot_radius : float, optional
            Standard deviation of the spots in Å⁻¹; by default 0.8 bins of the radius.
        most_reflections : int, optional
            Of each phase, the strongest ones; by default all.
        device : str or torch.device
            Where the templates are simulated and kept.

        Raises
        ------
        ValueError
            If a phase cannot be used, see :func:`pyxem_dl.crystals.load_phases`.
        """
        if not isinstance(preprocessing, PolarPreprocessing):
            preprocessing = polar_grid(preprocessing)
        phases = load_phases(phases)
        check_size(phases, preprocessing, resolution, max_excitation_error)
        draw = Drawing(
            preprocessing, electron_wavelength(beam_energy), max_excitation_error, spot_radius, most_reflections
        )
        grids = [reduced_grid(phase, resolution).to(device) for phase in phases]
        ends = list(accumulate(map(len, grids)))
        # templates are written to where they stay: a bank may take half of a device's memory
        spectra = torch.empty(
            preprocessing.n_phi // 2 + 1, preprocessing.n_k, ends[-1], dtype=torch.complex64, device=device
        )
        for phase, grid, end in zip(phases, grids, ends, strict=True):
            begin = end - len(grid)
            for drawn in draw(phase, grid):
                spectra[..., begin : begin + len(drawn)] = drawn.conj().permute(2, 1, 0)
                begin += len(drawn)
        index = [torch.full((len(q),), i, device=device) for i, q in enumerate(grids)]
        return cls(
            phases, preprocessing, resolution, torch.cat(grids), torch.cat(index), spectra,
            stack_operations([proper_operations(phase) for phase in phases]).to(device),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.quaternions)

    @property
    def micro_batch(self) -> int:
        """Patterns that are correlated at once."""
        return self._chunks()[0]

    def to(self, device: torch.device | str) -> TemplateBank:
        """Move the templates to a device; returns the bank itself."""
        for name in ("quaternions", "phase_id", "spectra", "operations"):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def match(
        self,
        patterns: torch.Tensor,
        calibration: Calibration,
        centers: torch.Tensor | None = None,
        signal_mask: torch.Tensor | None = None,
        *,
        n_best: int = 1,
    ) -> Match:
        """Find the orientations of a batch of patterns.

        Parameters
        ----------
        patterns : tensor, shape (n, rows, columns)
            Intensities, on the bank's device.
        calibration : Calibration
            Of the detector.
        centers : tensor, shape (n, 2), optional
            Direct beam (row, column) in pixels of each pattern.
        signal_mask : tensor of bool, shape (rows, columns), optional
            True where the detector is excluded.
        n_best : int
            How many modes to return.
        """
        n, size, parts = len(patterns), self._chunks()[0], []
        for start in range(0, n, size):
            # whole micro-batches: how many patterns there are must not show in the orientations
            part, _ = usable_patterns(padded(patterns[start : start + size], size), signal_mask)
            beams = None if centers is None else padded(centers[start : start + size], size)
            polar, valid = self.preprocessing.resample(part, calibration, beams, signal_mask)
            parts.append(self.match_polar(polar, valid, n_best=n_best))
        return Match(*(torch.cat(field)[:n] for field in zip(*parts, strict=True)))

    def match_polar(
        self, polar: torch.Tensor, valid: torch.Tensor | None = None, *, n_best: int = 1
    ) -> Match:
        """Find the orientations of polar patterns from :meth:`PolarPreprocessing.resample`.

        Parameters
        ----------
        polar : tensor, shape (n, n_k, n_phi)
            Mean intensities.
        valid : tensor of bool, shape (n, n_k, n_phi) or (1, n_k, n_phi), optional
            Where a bin was measured; by default everywhere.
        n_best : int
            How many modes to return.

        Returns
        -------
        Match
            Each template enters with its best angle (refined by a parabola) and with that
            angle + 180 degrees.  Modes are of different phases or at least 5 degrees of
            disorientation apart.  ``reliability = 1 - s2 / s1``, with the best score s1
            and s2, the best score of another phase or of an orientation that is more than 5
            degrees from the best one and from its twin turned by 180 degrees about the beam.
            Patterns without any contrast are not indexed.
        """
        return self._match_spectra(self._spectrum(polar, valid), n_best)

    def match_spots(self, n: int, owner, k, phi, intensity, *, n_best: int = 1) -> Match:
        """Find the orientations of patterns of which only the spots are known.

        Parameters
        ----------
        n : int
            Number of patterns.
        owner : tensor of int, shape (m,)
            To which pattern each spot belongs.
        k, phi, intensity : tensor, shape (m,)
            Of the spots: Å⁻¹, radians from +kx to +ky, any unit.
        n_best : int
            How many modes to return.

        Returns
        -------
        Match
            As of :meth:`match_polar`.
        """
        return self._match_spectra(self._spectrum_of_spots(n, owner, k, phi, intensity), n_best)

    def best_templates(self, n: int, owner, k, phi, intensity, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Find the templates that fit best to patterns of which only the spots are known, turned by 180° or not.

        Parameters
        ----------
        n, owner, k, phi, intensity
            As of :meth:`match_spots`.
        number : int
            Of templates for each pattern.

        Returns
        -------
        index : tensor of int, shape (n, number)
            Of the templates.
        angle : tensor, shape (n, number)
            By which they are turned about the beam, in radians.
        """
        size, found = self._chunks()[0], []
        for part in self._spectrum_of_spots(n, owner, k, phi, intensity).split(size):
            score, angle, twin_score = self._correlate(padded(part, size))
            index = torch.maximum(score, twin_score).topk(number, 1).indices
            found.append((index, angle.gather(1, index)))
        return tuple(torch.cat(column)[:n] for column in zip(*found, strict=True))

    def _spectrum_of_spots(self, n: int, owner, k, phi, intensity) -> torch.Tensor:
        amplitude = intensity.clamp_min(0).pow(self.preprocessing.gamma)
        spectra = draw_spectra(
            n, owner, k, phi, amplitude, self.preprocessing, spot_radius_of(self.preprocessing)
        )
        return normalised_spectra(spectra, self.preprocessing)

    def _match_spectra(self, spectrum, n_best: int) -> Match:
        n, size = len(spectrum), self._chunks()[0]
        parts = [
            self._select(*self._correlate(padded(part, size)), n_best) for part in spectrum.split(size)
        ]
        return Match(*(torch.cat(field)[:n] for field in zip(*parts, strict=True)))

    def _chunks(self) -> tuple[int, int]:
        """Patterns and templates to correlate at once."""
        each = 8 * self.preprocessing.n_phi
        pairs = _WORK_BYTES.get(self.spectra.device.type, 2**28) // each
        templates = min(len(self), max(256, pairs // 32))
        most = _MICRO_BATCH["cpu" if self.spectra.device.type == "cpu" else "other"]
        # a power of two, as batches are by default: nothing has to be padded
        return min(most, 2 ** (max(1, pairs // templates).bit_length() - 1)), templates

    def _spectrum(self, polar, valid) -> torch.Tensor:
        """Normalised Fourier transforms (n, n_k, n_phi // 2 + 1) of polar patterns."""
        x = polar.clamp_min(0).pow(self.preprocessing.gamma)
        if valid is None:
            valid = torch.ones_like(x[:1], dtype=torch.bool)
        valid = valid.to(x)
        ring = (x * valid).sum(-1, keepdim=True) / valid.sum(-1, keepdim=True).clamp_min(1)
        # A sparse product sums in its own order: what is no more than rounding is constant
        x = (x - ring) * valid
        x = torch.where(x.abs() > 1e-5 * ring, x, 0.0)
        return normalised_spectra(torch.fft.rfft(x), self.preprocessing)

    def _correlate(self, spectrum) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Score, angle (radians) and score of the twin of every template, each (n, t)."""
        n_phi = self.preprocessing.n_phi
        spectrum = spectrum.permute(2, 0, 1).contiguous()
        found = []
        for templates in self.spectra.split(self._chunks()[1], dim=2):
            with full_float32():
                product = torch.bmm(spectrum, templates).permute(1, 2, 0).contiguous()
            found.append(_best_angle(torch.fft.irfft(product, n=n_phi, norm="forward")))
        return tuple(torch.cat(f, dim=1) for f in zip(*found, strict=True))

    def _select(self, score, angle, twin_score, n_best: int) -> Match:
        """Pick the best modes from all templates and their twins."""
        rotation = rotate_in_plane(self.quaternions, angle)
        twin = rotate_in_plane(rotation, torch.full_like(angle, math.pi))
        index = torch.arange(len(self), device=score.device).expand_as(score).repeat(1, 2)
        return separate_modes(
            torch.cat([score, twin_score], dim=1),
            torch.cat([rotation, twin], dim=1),
            index,
            self.phase_id[index],
            self.operations,
            n_best,
        )


def check_size(phases, preprocessing, resolution: float, max_excitation_error: float) -> None:
    """Refuse templates that no memory holds, before the first is made.

    Parameters
    ----------
    phases : list of orix.crystal_map.Phase
        From :func:`pyxem_dl.crystals.load_phases`.
    preprocessing : PolarPreprocessing
        The polar grid.
    resolution : float
        Step between zone axes in degrees.
    max_excitation_error : float
        In Å⁻¹.

    Raises
    ------
    ValueError
        With the number of templates or reflections, and the memory that they would take.
    """
    p = preprocessing
    # the proper Laue group leaves one of as many parts of the sphere as it has operations; the mesh is denser here
    # and there
    sphere = sum(4 * math.pi / laue_group(phase).proper_subgroup.size for phase in phases)
    n = 1.2 * sphere / math.radians(resolution) ** 2
    n_bytes = 8 * n * p.n_k * (p.n_phi // 2 + 1)
    if n_bytes > _LARGEST_BANK:
        finest = resolution * math.sqrt(n_bytes / _LARGEST_BANK)
        raise ValueError(
            f"A resolution of {resolution:g}° would need {n:.3g} templates, which take {n_bytes / 2**30:.3g} GB; at "
            f"most {_LARGEST_BANK / 2**30:.3g} GB are allowed. Give a resolution of at least {finest:.2g}°."
        )
    for phase in phases:
        sphere = 4 / 3 * math.pi * p.reciprocal_radius**3 * phase.structure.lattice.volume
        near = sphere * min(1.0, 1.5 * max_excitation_error / p.reciprocal_radius)
        if sphere > _MOST_REFLECTIONS or near * SIMULATED_AT_ONCE > _MOST_SPOTS:
            raise ValueError(
                f"{phase.name!r} has about {sphere:.3g} reflections within {p.reciprocal_radius:g} Å⁻¹, {near:.3g} of "
                f"them within {max_excitation_error:g} Å⁻¹ of the Ewald sphere: too many to simulate. Give a "
                "smaller reciprocal_radius or max_excitation_error, and check the unit of the scale (Å⁻¹)."
            )


def polar_grid(reciprocal_radius: float, **changes) -> PolarPreprocessing:
    """Polar grid that suits template matching: 48 by 144 bins, intensities ** 0.25.

    Parameters
    ----------
    reciprocal_radius : float
        In Å⁻¹.
    **changes
        Other fields of :class:`pyxem_dl.preprocessing.PolarPreprocessing`.
    """
    settings = {"n_k": 48, "n_phi": 144, "gamma": 0.25, **changes}
    return PolarPreprocessing(reciprocal_radius=reciprocal_radius, **settings)


def _best_angle(correlation) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Peak over the last axis by a parabola: value, angle (radians), value 180 degrees on."""
    n_phi = correlation.shape[-1]

    def at(index):
        return correlation.gather(-1, (index % n_phi)[..., None])[..., 0]

    middle, index = correlation.max(-1)
    before, after = at(index - 1), at(index + 1)
    shift = parabola_shift(before, middle, after)
    value = middle - 0.25 * (before - after) * shift
    twin = at(index + n_phi // 2) if n_phi % 2 == 0 else torch.full_like(value, -1)
    return value, (index + shift) * (2 * math.pi / n_phi), twin
