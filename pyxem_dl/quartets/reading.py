"""Sets of quartets as data sets: items when they are asked for, whole shards, and splits by crystal."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pyxem_dl.checks import flag, number, whole_number
from pyxem_dl.frames import Calibration
from pyxem_dl.quartets.settings import Settings, phase_ids
from pyxem_dl.quartets.store import Store
from pyxem_dl.quartets.truth import Disks, Quartet

if TYPE_CHECKING:
    from orix.crystal_map import Phase


class Quartets:
    """A set of quartets, or a part of it: what torch calls a map-style data set.

    ``quartets[i]`` reads one, :meth:`shards` many at once, which is faster.  It can be sent to other processes.

    Parameters
    ----------
    store : Store
        The set on the disk.
    indices : array of int
        Numbers of the quartets that belong to the part, ascending.
    """

    def __init__(self, store: Store, indices: np.ndarray) -> None:
        self._store, self.indices = store, indices
        self._last: tuple[int, Quartet | None] = (-1, None)

    def __repr__(self) -> str:
        n, s = len(np.unique(self.phase_ids)), self.settings
        return (
            f"<Quartets: {len(self)} of {n} crystals, {s.pixels} × {s.pixels} px, {s.engine}, in {self.path}>"
        )

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, i: int) -> Quartet:
        """Read one quartet; the shard that it lies in is kept until one of another shard is asked for."""
        i = whole_number("the number of a quartet", i, -(2**63))
        if not -len(self) <= i < len(self):
            raise IndexError(f"There are {len(self)} quartets: {i} is too large.")
        shard, place = divmod(int(self.indices[i]), self._store.manifest.shard)
        if self._last[0] != shard:
            self._last = shard, self._store.read(shard)
        found = self._last[1]
        return Quartet(*(_one(column, place) for column in found))

    def __iter__(self) -> Iterator[Quartet]:
        return (self[i] for i in range(len(self)))

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_last": (-1, None)}

    @property
    def path(self) -> Path:
        """Of the set."""
        return self._store.path

    @property
    def manifest(self) -> dict:
        """What the set says of itself: versions, settings, and its phases with where they come from."""
        return self._store.manifest.to_dict()

    @property
    def settings(self) -> Settings:
        """Between what the quartets were drawn."""
        return self._store.manifest.settings

    @property
    def calibration(self) -> Calibration:
        """Of the detector; the beam energy is there where all quartets have one."""
        return self.settings.calibration

    @property
    def phases(self) -> list[Phase]:
        """All crystals of the set, in the order of ``phase_id``."""
        return [crystal.phase for crystal in self._store.manifest.crystals]

    @property
    def phase_ids(self) -> np.ndarray:
        """Which crystal each quartet of this part shows; no file is read."""
        return phase_ids(self.indices, self.settings.seed, len(self._store.manifest.crystals))

    def shards(self, *, seed: int | None = None) -> Iterator[Quartet]:
        """Read shard after shard, each once.

        Parameters
        ----------
        seed : int, optional
            Of a random order; without it, ascending.

        Yields
        ------
        Quartet
            With one axis more in each array: the quartets of the shard that belong to this part.
        """
        shard, place = np.divmod(self.indices, self._store.manifest.shard)
        wanted = np.unique(shard)
        if seed is not None:
            wanted = np.random.default_rng(whole_number("seed", seed)).permutation(wanted)
        for i in wanted:
            yield self._store.read(int(i), place[slice(*np.searchsorted(shard, [i, i + 1]))])

    def split(self, validation: float = 0.1, seed: int = 0) -> tuple[Quartets, Quartets]:
        """Split by crystal: no crystal is in both parts, nor two that have composition and space group in common.

        Parameters
        ----------
        validation : float
            Share of the crystals in the second part, at least one.
        seed : int
            Of the choice.

        Returns
        -------
        train, validation : Quartets

        Raises
        ------
        ValueError
            If there are no two crystals.
        """
        share = number("validation", validation, 0, 1, above=True)
        kinds: dict = {}
        crystals = self._store.manifest.crystals
        kind = np.array([kinds.setdefault((c.composition, c.structure["space_group"]), len(kinds)) for c in crystals])
        mine = self.phase_ids
        here = np.unique(kind[mine])
        if len(here) < 2:
            raise ValueError(
                f"All {len(self)} quartets are of one crystal: they cannot be split so that training and validation "
                "have none in common. Make a set of several phases."
            )
        n = min(max(1, round(share * len(here))), len(here) - 1)
        chosen = np.random.default_rng(whole_number("seed", seed)).permutation(here)[:n]
        second = np.isin(kind[mine], chosen)
        return self._part(~second), self._part(second)

    def _part(self, which: np.ndarray) -> Quartets:
        part = copy.copy(self)
        part.indices = self.indices[which]
        return part


def _one(column, place: int):
    if isinstance(column, Disks):
        return Disks(*(each[place] for each in column))
    value = column[place]
    return value if value.ndim else value.item()


def open_quartets(path: str | Path, *, allow_missing: bool = False) -> Quartets:
    """Open a set of quartets that :func:`make_quartets` made.

    Parameters
    ----------
    path : str or pathlib.Path
        Of the set, a folder.
    allow_missing : bool
        Open a set that is not finished: what is made of it.

    Returns
    -------
    Quartets
        Nothing is read yet but the manifest, which is checked against the set.

    Raises
    ------
    FileNotFoundError
        If there is no such set.
    ValueError
        For a folder that is no set, a set of another version, a manifest that is damaged or belongs to another set,
        and for a set of which shards are missing.

    Examples
    --------
    >>> import pyxem_dl
    >>> quartets = pyxem_dl.open_quartets("set.zarr")  # doctest: +SKIP
    >>> training, validation = quartets.split(validation=0.1)  # doctest: +SKIP
    """
    flag("allow_missing", allow_missing)
    store = Store.open(Path(path))
    made = store.n_made()
    n, shard = store.manifest.n, store.manifest.shard
    n_made, n_shards = sum(made.values()), store.manifest.n_shards
    if n_made < n:
        whole = sum(k == len(store.indices(i)) for i, k in made.items())
        if not allow_missing or not made:
            raise ValueError(
                f"{n_shards - whole} of {n_shards} shards of {path} are missing or not whole: {n_made} of {n} "
                "quartets are made. Repeat the call of make_quartets with which the set was made: it makes the rest. "
                "allow_missing=True opens what is there."
            )
    places = [np.arange(i * shard, i * shard + k) for i, k in made.items()]
    return Quartets(store, np.concatenate(places))
