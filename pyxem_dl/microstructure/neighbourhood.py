"""Which positions of a map lie beside each other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pyxem_dl.metrics.orientations import grid_positions

#: Steps (rows, columns) to half of the eight neighbours: each pair once, those that share an edge first
STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))
#: A neighbour across a corner counts so much beside one across an edge
DIAGONAL = 0.7


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """Positions on the grid of a scan.

    Parameters
    ----------
    row, column : array of int, shape (n,)
        Of each position.
    weight : float
        How much a pair counts that shares an edge: on a line the two neighbours count as much as eight on an area.
    """

    row: np.ndarray
    column: np.ndarray
    weight: float = 1.0

    @classmethod
    def of(cls, xmap) -> Neighbourhood:
        """Positions in a map's data."""
        row, column = grid_positions(xmap)
        is_line = not row.any() or not column.any()
        return cls(row, column, 2 + 2 * DIAGONAL if is_line else 1.0)

    def __len__(self) -> int:
        return len(self.row)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the rectangle that holds all positions."""
        return int(self.row.max(initial=-1)) + 1, int(self.column.max(initial=-1)) + 1

    @cached_property
    def _grid(self) -> np.ndarray:
        """Number of the position at each place, with a rim of -1."""
        rows, columns = self.shape
        grid = np.full((rows + 2, columns + 2), -1)
        grid[self.row + 1, self.column + 1] = np.arange(len(self))
        return grid

    def at(self, down: int, right: int) -> np.ndarray:
        """Neighbour (n,) of each position so many steps away; -1 where there is none."""
        rows, columns = self._grid.shape
        row, column = self.row + 1 + down, self.column + 1 + right
        inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        return np.where(inside, self._grid[np.where(inside, row, 0), np.where(inside, column, 0)], -1)

    def pairs(self, steps=STEPS):
        """Yield positions, their neighbours one step away, and how much each such pair counts."""
        for down, right in steps:
            there = self.at(down, right)
            here = np.flatnonzero(there >= 0)
            yield here, there[here], self.weight * (DIAGONAL if down and right else 1.0)

    @cached_property
    def eight(self) -> np.ndarray:
        """The up to eight neighbours (n, 8) of each position, -1 where there is none."""
        return np.stack([self.at(s * down, s * right) for down, right in STEPS for s in (1, -1)], axis=1)

    def part(self, kept: np.ndarray) -> Neighbourhood:
        """Keep some of the positions, where they are."""
        return Neighbourhood(self.row[kept], self.column[kept], self.weight)

    def tiles(self, size: int, halo: int):
        """Yield positions that are looked at together (m,), and which of them (m,) the tile is for."""
        rows, columns = self.shape
        for top in range(0, rows, size):
            for left in range(0, columns, size):
                around = (self.row >= top - halo) & (self.row < top + size + halo)
                around &= (self.column >= left - halo) & (self.column < left + size + halo)
                part = np.flatnonzero(around)
                row, column = self.row[part], self.column[part]
                inner = (row >= top) & (row < top + size) & (column >= left) & (column < left + size)
                if inner.any():
                    yield part, inner
