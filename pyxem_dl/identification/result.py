"""What is found of the phases of a scan."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from pyxem_dl.files import check_target, replacing
from pyxem_dl.records import KEY, provenance

#: A phase is there from this probability on
THERE = 0.5
# What is shown at least of those that are not
_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Entry:
    """A phase, or several that cannot be told apart.

    Parameters
    ----------
    phases : list of orix.crystal_map.Phase
        The first one stands for all.
    probability : float
        That it is in the scan.
    share : float
        Of the sample's patterns; 0 for what is not likely there.
    score : float
        Mean probability, by the network, that one of its orientations is right, in its patterns; of a phase that is not
        there, in all.
    explained, chance : float
        Share of the peaks, in the same patterns, that its best orientation explains, and that it would explain if they
        were turned about the beam.
    why : list of str
        Why its phases cannot be told apart.
    """

    phases: list
    probability: float
    share: float
    score: float
    explained: float
    chance: float
    why: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Names of all its phases."""
        return " or ".join(phase.name for phase in self.phases)

    @property
    def there(self) -> bool:
        """Whether it is in the scan."""
        return self.probability >= THERE and self.share > 0


@dataclass(frozen=True, eq=False)
class Identified:
    """The phases of a scan; ``print`` shows them as a table.

    Parameters
    ----------
    entries : list of Entry
        All candidates, the likeliest first.
    n_patterns : int
        Patterns that were looked at.
    n_faint : int
        Further ones with fewer than three peaks, which were left out.
    none : float
        Share of the patterns that are none of the phases that are there.
    left_out : dict of str
        Phases that could not be looked for, with the reasons.
    """

    entries: list[Entry]
    n_patterns: int
    n_faint: int
    none: float
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def phases(self) -> list:
        """Phases that are there, for ``predict_orientation(phases=...)``: the first of each entry, likeliest first."""
        return [entry.phases[0] for entry in self.entries if entry.there]

    def __len__(self) -> int:
        return len(self.entries)

    def __str__(self) -> str:
        there = [entry for entry in self.entries if entry.there]
        shown = self.entries[: max(_SHOWN, len(there) + 2)]
        cells = [("phase", "there", "probability", "patterns", "score", "explained", "by chance"), *map(_row, shown)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [f"| {' | '.join(c.ljust(w) for c, w in zip(row, widths, strict=True))} |" for row in cells]
        lines.insert(1, f"|{'|'.join('-' * (w + 2) for w in widths)}|")
        hidden = len(self.entries) - len(shown)
        if hidden:
            lines.append(f"and {hidden} less likely ones")
        return "\n".join([*lines, "", *self._notes(there)])

    def _notes(self, there: list[Entry]) -> list[str]:
        looked = f"{self.n_patterns} patterns were looked at; {self.n_faint} more have fewer than three peaks."
        notes = [looked if self.n_faint else f"{self.n_patterns} patterns were looked at."]
        if not there:
            notes.append("None of these phases was identified.")
        elif self.n_patterns:
            notes.append(f"{self.none:.0%} of them are none of the phases that are there.")
        notes += [text for entry in self.entries for text in entry.why]
        return notes + [f"{name} was left out: {reason}" for name, reason in self.left_out.items()]

    def __repr__(self) -> str:
        there = ", ".join(entry.name for entry in self.entries if entry.there) or "none"
        return f"Identified({there}; of {len(self.entries)} candidates)"

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write all numbers.

        Parameters
        ----------
        path : str or pathlib.Path
            Of a ``.json`` file.
        overwrite : bool
            Replace one that is there.
        """
        path = check_identified_path(path, overwrite=overwrite)
        with replacing(path) as written:
            record = provenance(self)
            numbers = self.to_dict() | ({KEY: record} if record else {})
            text = json.dumps(numbers, indent=1, ensure_ascii=False)
            written.write_text(text + "\n", encoding="utf-8")
        return path

    def to_dict(self) -> dict:
        """Plain numbers, for a file."""
        return {
            "n_patterns": self.n_patterns, "n_faint": self.n_faint, "none": self.none, "left_out": self.left_out,
            "entries": [
                {"phases": [phase.name for phase in entry.phases], "there": entry.there, "why": entry.why}
                | {k: getattr(entry, k) for k in ("probability", "share", "score", "explained", "chance")}
                for entry in self.entries
            ],
        }  # fmt: skip


def check_identified_path(path, *, overwrite: bool = False) -> Path:
    """Path that :meth:`Identified.save` can write to, or an error: better before than after the work."""
    path = Path(path)
    if path.suffix.lower() != ".json":
        raise ValueError(f"Identified phases can be saved as .json, not as {path.name!r}.")
    return check_target(path, overwrite=overwrite)


def _row(entry: Entry) -> tuple[str, ...]:
    shares = (f"{x:.0%}" for x in (entry.explained, entry.chance))
    return (
        entry.name, "yes" if entry.there else "no", f"{entry.probability:.3f}", f"{entry.share:.0%}",
        f"{entry.score:.2f}", *shares,
    )  # fmt: skip
