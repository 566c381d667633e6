"""A step is what a verb does to every pattern; parts are what comes of it, and gather in arrays of the whole scan."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch


class Field(NamedTuple):
    """What a step gives for each pattern under one name.

    Parameters
    ----------
    shape : tuple of int
        Of one pattern's values; of one row, where there are any number of rows.
    dtype : str
        NumPy's name.
    ragged : bool
        Any number of rows for each pattern.
    """

    shape: tuple[int, ...]
    dtype: str
    ragged: bool = False


class Padded(NamedTuple):
    """Rows of a ragged field as a device makes them: ``values (n, m, ...)``, and which are there, ``keep (n, m)``."""

    values: torch.Tensor
    keep: torch.Tensor


class Rows(NamedTuple):
    """Rows of a ragged field as they are kept: all ``values (sum of lengths, ...)``, and ``lengths (n,)``."""

    lengths: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, tables: Iterable[np.ndarray]) -> Rows:
        """Rows of tables, one for each pattern."""
        tables = list(tables)
        return cls(np.array([len(table) for table in tables]), np.concatenate(tables))

    def tables(self) -> list[np.ndarray]:
        """Return the table of each pattern; all are views of one array."""
        ends = np.cumsum(self.lengths)
        return [self.values[end - n : end] for n, end in zip(self.lengths.tolist(), ends.tolist())]


class Part(NamedTuple):
    """Results of one batch.

    Parameters
    ----------
    indices : array of int, shape (n,)
        Flat navigation indices, in data order (y, x).
    arrays : dict of str to array (n, ...) or Rows
        The step's fields.
    """

    indices: np.ndarray
    arrays: dict[str, np.ndarray | Rows]


class Step(ABC):
    """What a verb does to every pattern.

    A step can be pickled: it goes to other processes with what it needs, and no signal. In each of them
    :meth:`prepare` is called once, then the step itself for every batch, perhaps in several threads at once.
    """

    #: Patterns that one core computes at once; a device takes what `batch_size` says
    micro_batch: int = 64
    #: Whether several threads may call it at once
    in_threads: bool = True
    #: Whether it divides the work of a batch among threads itself
    divides: bool = False
    #: What a message calls what the step is done to
    noun: str = "patterns"
    #: Patterns after which results are kept: some seconds of work
    keep_every: int = 4096

    @property
    @abstractmethod
    def fields(self) -> dict[str, Field]:
        """What a call gives."""

    def prepare(self, device: torch.device) -> None:  # noqa: B027 (many steps have nothing to prepare)
        """Get ready on a device, once in a process."""

    @abstractmethod
    def __call__(self, patterns, indices: np.ndarray) -> dict[str, torch.Tensor | Padded]:
        """Results for a batch.

        Parameters
        ----------
        patterns : tensor of float32, shape (n, rows, columns)
            On the device. What is no array of patterns (tables of vectors) comes as an object array (n,).
        indices : array of int, shape (n,)
            Their flat navigation indices.
        """


class Collected:
    """Results, gathered in arrays that are allocated once.

    Parameters
    ----------
    n : int
        Number of positions of the scan.
    fields : dict of str to Field, optional
        What there will be; others are added as they come.

    Attributes
    ----------
    done : array of bool, shape (n,)
        Where there are results.
    arrays : dict of str to array, shape (n, ...)
        The fields; 0 where nothing was done.
    """

    def __init__(self, n: int, fields: dict[str, Field] | None = None) -> None:
        self.done = np.zeros(n, dtype=bool)
        self.arrays: dict[str, np.ndarray] = {
            name: np.zeros((n, *field.shape), field.dtype) for name, field in (fields or {}).items() if not field.ragged
        }
        self._tables: dict[str, np.ndarray] = {}

    @property
    def n_done(self) -> int:
        """How many positions have results."""
        return int(np.count_nonzero(self.done))

    def add(self, part: Part) -> None:
        """Put the results of a batch where they belong."""
        for name, values in part.arrays.items():
            if isinstance(values, Rows):
                tables = self.tables(name, values.values.shape[1:])
                for i, table in zip(part.indices.tolist(), values.tables()):
                    tables[i] = table
                continue
            array = self.arrays.get(name)
            if array is None:
                array = self.arrays[name] = np.zeros((len(self.done), *values.shape[1:]), dtype=values.dtype)
            array[part.indices] = values
        self.done[part.indices] = True

    def tables(self, name: str, row: tuple[int, ...]) -> np.ndarray:
        """Tables ``(m, *row)`` of a ragged field in an object array (n,); without rows where nothing was done."""
        if name not in self._tables:
            tables = self._tables[name] = np.empty(len(self.done), dtype=object)
            empty = np.zeros((0, *row))
            tables[:] = [empty] * len(tables)
        return self._tables[name]


def to_tensor(patterns: np.ndarray) -> torch.Tensor:
    """Tensor of patterns that torch takes, without a copy where it can be; object arrays stay what they are."""
    if patterns.dtype == object:
        return patterns
    if not patterns.dtype.isnative or patterns.dtype.kind == "f" and patterns.dtype.itemsize > 8:
        patterns = patterns.astype(np.float32 if patterns.dtype.kind == "f" else patterns.dtype.newbyteorder("="))
    if not patterns.flags.writeable or any(stride < 0 for stride in patterns.strides):
        patterns = patterns.copy()
    return torch.from_numpy(patterns)


def to_host(results: dict) -> dict[str, np.ndarray | Rows]:
    """Tensors to arrays."""
    return {name: _to_host(value) for name, value in results.items()}


def _to_host(value) -> np.ndarray | Rows:
    if isinstance(value, Padded):
        return _rows(value)
    return value if isinstance(value, Rows) else _array(value)


def _array(tensor) -> np.ndarray:
    if isinstance(tensor, np.ndarray):
        return tensor
    tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return tensor.cpu().numpy()


def _rows(padded: Padded) -> Rows:
    values, keep = _array(padded.values), _array(padded.keep)
    return Rows(keep.sum(1), values[keep])
