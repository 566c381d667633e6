"""Symmetry operations whose correlations describe each place: shifts, rotations, reflections."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from pyxem_dl.images.symmetry import Correlations, Grid, flattened

#: Which operations there are
OPERATIONS = ("shifts", "rotations", "reflections", "all")
# Polar patches: angles, and the distance of radii in Å
_ANGLES, _RADIUS = 72, 0.3
# Degrees between the rotations, and between the mirror lines; centers that are sampled at once
_EVERY, _MIRRORS, _AT_ONCE = 10, 5, 4096


class Operations:
    """Measures the correlations of a frame.

    Parameters
    ----------
    grid : Grid
        Of the frames.
    which : str
        One of :data:`OPERATIONS`.
    """

    def __init__(self, grid: Grid, which: str) -> None:
        self.grid, self.which = grid, which

    @property
    def weight(self) -> float:
        """By what rotations and reflections are multiplied, so that together they count like the shifts."""
        return math.sqrt(len(self.grid.shifts) / max(len(self) - len(self.grid.shifts), 1))

    def in_windows(self, frame: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Correlations (m, rows, columns) in the window and in one of half its side, weighted; shifts first.

        Only for shifts, or for all operations.
        """
        correlations = Correlations(frame, self.grid)
        found = [correlations.within(window) for window in (self.grid.window, self.grid.window / 2)]
        if self.which == "all":
            x = flattened(frame, self.grid)
            more = (torch.cat(self._polar(x, w)) * self.weight for w in (self.grid.window, self.grid.window / 2))
            found = [torch.cat(both) for both in zip(found, more)]
        return tuple(found)

    @property
    def names(self) -> list[list]:
        """What each correlation is of."""
        p = self.grid.working_pixel
        shifts = [["shift", j * p, i * p] for i, j in self.grid.shifts]
        rotations = [["rotation", float(angle)] for angle in range(2 * _EVERY, 181, _EVERY)]
        mirrors = [["reflection", float(angle)] for angle in range(0, 180, _MIRRORS)]
        return {"shifts": shifts, "rotations": rotations, "reflections": mirrors}.get(
            self.which, [*shifts, *rotations, *mirrors]
        )

    def __len__(self) -> int:
        return len(self.names)

    def __call__(self, frame: torch.Tensor) -> torch.Tensor:
        """Correlations (rows, columns, operations) of a finite frame."""
        found = []
        if self.which in ("shifts", "all"):
            found.append(Correlations(frame, self.grid).within(self.grid.window))
        if self.which != "shifts":
            turned, mirrored = self._polar(flattened(frame, self.grid), self.grid.window)
            found += {"rotations": [turned], "reflections": [mirrored]}.get(self.which, [turned, mirrored])
        return torch.cat(found).permute(1, 2, 0).contiguous()

    def _polar(self, x: torch.Tensor, window: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Correlations (m, rows, columns) with patches turned and mirrored about places of twice as fine a grid."""
        grid = self.grid
        every = max(1, grid.cell // 2)
        rows, columns = (n * grid.cell // every for n in grid.cells)
        place = torch.stack(torch.meshgrid(*(
            torch.arange(n, dtype=x.dtype, device=x.device) * every + (every - 1) / 2 for n in (rows, columns)
        ), indexing="ij"), -1).view(-1, 2)  # fmt: skip
        parts = [self._of_patches(x, each, window) for each in place.split(_AT_ONCE)]
        turned, mirrored = (torch.cat(column).T.view(-1, rows, columns) for column in zip(*parts))
        # the best place of a cell of the lattice, which lies somewhere in half a window
        reach = 2 * int(grid.cells_of(window) / 4 * grid.cell / every / 2) + 1
        best = (functional.max_pool2d(y[None], reach, stride=1, padding=reach // 2)[0] for y in (turned, mirrored))
        return tuple(functional.adaptive_avg_pool2d(y, grid.cells) for y in best)

    def _of_patches(self, x: torch.Tensor, place: torch.Tensor, window: float) -> tuple[torch.Tensor, torch.Tensor]:
        radii = torch.arange(_RADIUS, window / 2, _RADIUS, device=x.device) / self.grid.working_pixel
        angles = torch.arange(_ANGLES, device=x.device) * (2 * math.pi / _ANGLES)
        # counter-clockwise with y up: rows run down
        offset = torch.stack([-radii[:, None] * angles.sin(), radii[:, None] * angles.cos()], -1)
        at = place[:, None, None] + offset
        size = torch.tensor(x.shape, dtype=x.dtype, device=x.device)
        at = (2 * at + 1) / size - 1
        patch = functional.grid_sample(
            x.expand(len(place), 1, *x.shape), at.flip(-1), mode="bilinear", align_corners=False
        )[:, 0]
        waves = torch.fft.rfft(patch - patch.mean(2, keepdim=True))
        weighed = radii[:, None] * waves
        power = (weighed * waves.conj()).sum(1)
        own = torch.fft.irfft(power, n=_ANGLES)
        norm = own[:, :1].clamp_min(1e-9)
        turns = [angle * _ANGLES // 360 for angle in range(2 * _EVERY, 181, _EVERY)]
        # mirrored about a line at an angle a: what was at b is at 2 a - b
        mirrored = torch.fft.irfft((weighed * waves).sum(1), n=_ANGLES)
        lines = [2 * angle * _ANGLES // 360 for angle in range(0, 180, _MIRRORS)]
        return own[:, turns] / norm, mirrored[:, lines] / norm
