"""The solver's tangent: how the order parameter of all frames follows a change of the start field, and the way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch


class Scheme(NamedTuple):
    """What a step does with waves.

    ``steps`` between two frames; ``decay`` of the waves in a step; ``first`` and ``second``: weights of what pushes
    them at a step's start, and of its change; ``factor``: that of the waves of a push.
    """

    steps: int
    decay: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    factor: torch.Tensor | float


@dataclass
class Flow:
    """A linear map from start fields to frames, with its transposed.

    Parameters
    ----------
    scheme : Scheme
        Of the solver.
    slopes : list of (tensor, tensor)
        Of the push by the field, at the start of each step and at its trial.
    shifts : list of tensor
        Of the picture by its drift, for each frame: phases of waves, or 1.
    shape : tuple of int
        (rows, columns), with the margin.
    inside : tuple of slice
        Where in it the image is.
    """

    scheme: Scheme
    slopes: list
    shifts: list
    shape: tuple[int, int]
    inside: tuple[slice, slice]

    def forward(self, start: torch.Tensor) -> torch.Tensor:
        """Change of the order parameter (frames, rows, columns) by one of the start field."""
        n, decay, first, second, factor = self.scheme
        spectrum = torch.fft.rfft2(start)
        seen = [start[self.inside]]
        for t, shift in enumerate(self.shifts[1:]):
            for here, there in self.slopes[t * n : (t + 1) * n]:
                push = factor * torch.fft.rfft2(here * self._field(spectrum))
                trial = decay * spectrum + first * push
                spectrum = trial + second * (factor * torch.fft.rfft2(there * self._field(trial)) - push)
            seen.append(self._field(spectrum * shift)[self.inside])
        return torch.stack(seen)

    def transposed(self, changes: torch.Tensor) -> torch.Tensor:
        """Product of changes of the order parameter (frames, rows, columns) with the transposed map."""
        n, decay, first, second, factor = self.scheme
        spectrum = torch.zeros_like(decay, dtype=torch.complex64)
        for t in range(len(changes) - 1, 0, -1):
            shift = self.shifts[t]
            back = shift.conj() if isinstance(shift, torch.Tensor) else shift
            spectrum = spectrum + back * torch.fft.rfft2(self._framed(changes[t]))
            for here, there in reversed(self.slopes[(t - 1) * n : t * n]):
                late = second * spectrum
                trial = spectrum + torch.fft.rfft2(there * self._field(factor * late))
                push = first * trial - late
                spectrum = decay * trial + torch.fft.rfft2(here * self._field(factor * push))
        return self._field(spectrum) + self._framed(changes[0])

    def _field(self, spectrum: torch.Tensor) -> torch.Tensor:
        return torch.fft.irfft2(spectrum, s=self.shape)

    def _framed(self, image: torch.Tensor) -> torch.Tensor:
        """Image with zeros around it."""
        whole = image.new_zeros(self.shape)
        whole[self.inside] = image
        return whole
