"""A series in overlapping blocks of frames: each has a start field of its own, all share the parameters."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch

from pyxem_dl.devices import on_one_core

# Frames of a block, and those that it shares with the next one
LENGTH, OVERLAP = 24, 4


@dataclass(frozen=True)
class Block:
    """Frames that one start field tells.

    Parameters
    ----------
    first, last : int
        First frame, and the one after the last.
    weights : tuple of float
        Of each: where blocks overlap, one fades out as the next one fades in.
    """

    first: int
    last: int
    weights: tuple[float, ...]


def blocks_of(frames: int, length: int = LENGTH, overlap: int = OVERLAP) -> list[Block]:
    """Divide a series; the weights of each frame add up to 1."""
    if frames <= length + overlap:
        return [Block(0, frames, (1.0,) * frames)]
    n = int(np.ceil((frames - overlap) / (length - overlap)))
    firsts = np.linspace(0, frames - length, n).round().astype(int)
    total = np.zeros(frames)
    ramp = np.minimum(np.arange(length) + 1, np.arange(length)[::-1] + 1)
    each = []
    for i, first in enumerate(firsts):
        rise = ramp.copy()
        rise[: length // 2] = ramp[: length // 2] if i else length
        rise[length // 2 :] = ramp[length // 2 :] if i < n - 1 else length
        each.append(np.minimum(rise, overlap + 1).astype(float))
        total[first : first + length] += each[-1]
    return [
        Block(int(a), int(a) + length, tuple((w / total[a : a + length]).tolist()))
        for a, w in zip(firsts, each, strict=True)
    ]


class Fitted:
    """Grey values of the frames of a series, computed block by block from start fields; dask knows it by its content.

    Parameters
    ----------
    equation : Equation
        What steps them.
    values : dict of str to float
        Parameters, in px and frames.
    blocks : list of Block
        Of the series.
    starts : list of array
        Order parameter at the first frame of each block, with the margin.
    inside : tuple of slice
        Where the image is.
    """

    def __init__(self, equation, values, blocks, starts, inside) -> None:
        self.equation, self.values, self.blocks, self.starts, self.inside = equation, values, blocks, starts, inside

    def __dask_tokenize__(self) -> tuple:
        content = hashlib.sha256(repr((self.equation.name, self.values, self.blocks, self.inside)).encode())
        for start in self.starts:
            content.update(np.ascontiguousarray(start))
        return type(self).__name__, content.hexdigest()

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self.blocks[-1].last

    def chunks(self) -> tuple[int, ...]:
        """Frames that are computed together: those that begin with the same block."""
        firsts = [block.first for block in self.blocks] + [self.frames]
        return tuple(int(n) for n in np.diff(firsts))

    def __call__(self, first: int, last: int) -> np.ndarray:
        """Grey values (n, rows, columns) of some frames."""
        made = None
        for block, start in zip(self.blocks, self.starts, strict=True):
            if block.last <= first or block.first >= last:
                continue
            each = self.block(block, start, min(last, block.last) - block.first)
            if made is None:
                made = np.zeros((last - first, *each.shape[1:]), np.float32)
            a, b = max(first, block.first), min(last, block.last)
            weights = np.array(block.weights, np.float32)[a - block.first : b - block.first, None, None]
            made[a - first : b - first] += weights * each[a - block.first :]
        return made

    def block(self, block: Block, start: np.ndarray, frames: int) -> np.ndarray:
        """Grey values of the first frames of a block."""
        values = {name: torch.tensor(value, dtype=torch.float32) for name, value in self.values.items()}
        with torch.inference_mode(), on_one_core():
            order = self.equation.orders(torch.from_numpy(start), values, frames, self.inside)
            return (values["background"] + values["contrast"] * order).numpy()


def lazy(fitted, chunks: tuple[int, ...], shape: tuple[int, int]):
    """Dask array (frames, rows, columns) of what is computed for (first, last) frames."""
    import dask.array as da

    ends = np.cumsum((0, *chunks))

    def chunk(block_info=None):
        first, last = block_info[None]["array-location"][0]
        return fitted(first, last)

    token = hashlib.sha256(repr(fitted.__dask_tokenize__()).encode()).hexdigest()
    del ends
    return da.map_blocks(
        chunk, chunks=(chunks, (shape[0],), (shape[1],)), dtype=np.float32, name=f"phase-field-{token[:16]}",
        meta=np.empty((0, 0, 0), np.float32),
    )  # fmt: skip
