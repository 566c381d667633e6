"""What a set of quartets says of itself: its crystals and where they come from, its settings, its versions."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pyxem_dl.checks import whole_number
from pyxem_dl.crystals import load_phases, phase_from_dict, phase_to_dict
from pyxem_dl.crystals.provenance import Structures, check_entries, structure_hash, user_entry
from pyxem_dl.quartets.engines import MOST_ATOMS
from pyxem_dl.quartets.settings import Settings

#: Version of the layout of sets; sets of another one are not read
FORMAT = 1
#: Quartets and crystals of a set, and quartets of a shard
MOST_QUARTETS, MOST_PHASES, MOST_IN_A_SHARD = 2**31, 200_000, 4096
# Bytes of one kind of images in a shard
_MOST_BYTES = 2**30


@dataclass(frozen=True)
class Crystal:
    """A crystal of a set.

    Parameters
    ----------
    structure : dict
        From :func:`pyxem_dl.crystals.phase_to_dict`.
    source : dict
        Where it comes from: its entry of :attr:`pyxem_dl.crystals.Structures.manifest`.
    """

    structure: dict
    source: dict

    @cached_property
    def phase(self):
        """Phase of orix, as everything is simulated with."""
        return phase_from_dict(self.structure)

    @cached_property
    def counts(self) -> dict[str, float]:
        """Atoms of each element in the unit cell."""
        counts: dict[str, float] = {}
        for element, *_, occupancy in self.structure["atoms"]:
            counts[element] = counts.get(element, 0.0) + occupancy
        return dict(sorted(counts.items()))

    @property
    def composition(self) -> tuple[tuple[str, float], ...]:
        """Shares of the elements, to 2 %."""
        total = sum(self.counts.values())
        return tuple((element, round(50 * n / total) / 50) for element, n in self.counts.items())

    @property
    def formula(self) -> str:
        """Atoms of the unit cell, such as Mg4O4."""
        return "".join(f"{element}{n:.4g}" if abs(n - 1) > 1e-3 else element for element, n in self.counts.items())

    @property
    def hash(self) -> str:
        """SHA-256 of cell, atoms and symmetry to the last digit, in their order; not of names."""
        return _sha256({k: v for k, v in self.structure.items() if k not in ("name", "color")})

    def to_dict(self) -> dict:
        """For the manifest."""
        return {
            "structure": self.structure, "formula": self.formula, "space_group": self.structure["space_group"],
            "hash": self.hash, "source": self.source,
        }  # fmt: skip


@dataclass(frozen=True)
class Manifest:
    """What a set says of itself.

    Parameters
    ----------
    n : int
        Quartets, made or not.
    shard : int
        Quartets in a shard.
    settings : Settings
        Of what is drawn.
    crystals : tuple of Crystal
        In the order of ``phase_id``.
    package_version : str
        Of pyxem_dl, which began the set.
    """

    n: int
    shard: int
    settings: Settings
    crystals: tuple[Crystal, ...]
    package_version: str

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that the quartets depend on; not of how many there are."""
        return _sha256([FORMAT, self.settings.to_dict(), [crystal.hash for crystal in self.crystals]])

    @property
    def tag(self) -> int:
        """Number that stands beside each quartet of the set; never 0."""
        return int(self.fingerprint[:16], 16) | 1

    @property
    def n_shards(self) -> int:
        """How many shards there are."""
        return -(-self.n // self.shard)

    def to_dict(self) -> dict:
        """Plain entries, as they are stored."""
        return {
            "format": FORMAT, "package_version": self.package_version, "n": self.n, "shard": self.shard,
            "settings": self.settings.to_dict(), "phases": [crystal.to_dict() for crystal in self.crystals],
            "fingerprint": self.fingerprint,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, entry, where: Path) -> Manifest:
        """Read what :meth:`to_dict` gave; a ValueError for what it cannot have given."""
        if not isinstance(entry, dict) or "format" not in entry:
            raise ValueError(f"{where} is no set of quartets: `pyxem_dl.make_quartets` makes one.")
        if entry["format"] != FORMAT:
            raise ValueError(
                f"{where} is a set of another version: format {entry['format']!r:.20}, made by pyxem_dl "
                f"{entry.get('package_version')!r:.20}; this version reads format {FORMAT}. Read it with that version "
                "of pyxem_dl, or make it again."
            )
        try:
            settings = Settings.from_dict(entry["settings"])
            n = whole_number("n", entry["n"], 1, MOST_QUARTETS)
            shard = whole_number("shard", entry["shard"], 1, largest_shard(settings.pixels))
            if not 1 <= len(entry["phases"]) <= MOST_PHASES:
                raise ValueError(f"{len(entry['phases'])} phases")
            sources = check_entries([each["source"] for each in entry["phases"]])
            crystals = tuple(Crystal(dict(each["structure"]), s) for each, s in zip(entry["phases"], sources))
            found = cls(n, shard, settings, crystals, str(entry["package_version"]))
            fitting = all(structure_hash(crystal.phase) == crystal.source["hash"] for crystal in crystals)
            hashes = [each["hash"] for each in entry["phases"]], entry["fingerprint"]
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ValueError(f"{where} is damaged: its manifest cannot be read ({error}).") from error
        if not fitting or hashes != ([crystal.hash for crystal in crystals], found.fingerprint):
            raise ValueError(
                f"{where}: its manifest was changed: settings or phases do not fit their hashes. Take the manifest "
                "that was made with the set, or make the set again."
            )
        return found


def largest_shard(pixels: int) -> int:
    """Quartets in a shard at most: its images have to be held in the memory."""
    return max(1, min(MOST_IN_A_SHARD, _MOST_BYTES // (4 * pixels**2)))


def read_crystals(phases) -> tuple[Crystal, ...]:
    """Crystals of phases as a user gives them.

    Parameters
    ----------
    phases : Structures, orix.crystal_map.Phase, path of a CIF file, or an iterable of these
        The first know where they come from.

    Raises
    ------
    ValueError
        For cells that are too large.
    """
    loaded = load_phases(phases)
    large = [phase for phase in loaded if len(phase.structure) > MOST_ATOMS]
    if large:
        names = ", ".join(f"{phase.name!r} ({len(phase.structure)} atoms)" for phase in large[:5])
        raise ValueError(
            f"{len(large)} of {len(loaded)} phases have more than {MOST_ATOMS} atoms in the unit cell: {names}. The "
            "few dozen beams that are computed are not enough there. Leave them out, or give primitive cells."
        )
    if len(loaded) > MOST_PHASES:
        raise ValueError(f"{len(loaded)} phases are given; at most {MOST_PHASES} are possible.")
    sources = phases.manifest if isinstance(phases, Structures) else [user_entry(phase) for phase in loaded]
    structures = [json.loads(json.dumps(phase_to_dict(phase), allow_nan=False)) for phase in loaded]
    return tuple(Crystal(*both) for both in zip(structures, sources, strict=True))


def _sha256(entries) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()
