"""What it costs to look for phases: templates, reflections, time and memory, estimated before anything is made."""

from __future__ import annotations

import math
from typing import NamedTuple

from pyxem_dl.preprocessing import PolarPreprocessing
from pyxem_dl.templates.proposals import MOST_REFLECTIONS, TEMPLATE_NUMBERS, coarse_size

# Seconds of a core, measured with ten monoclinic and triclinic crystals of 12 to 144 atoms: for a phase, for each spot
# of its templates, and for each reflection of an atom
_OF_PHASE, _OF_SPOT, _OF_ATOM = 0.15, 9e-7, 6e-7
# And for a pattern, and each template that it is compared with
_OF_PATTERN, _OF_COMPARISON = 1e-3, 2.4e-7
# Bytes of a template beside its factors, its reflections; and what the work takes otherwise
_REFLECTIONS_BYTES, _REST = 600, 2**28
# Bytes of all templates, at most
_MOST_BYTES = 8 * 2**30


class Cost(NamedTuple):
    """Of looking for phases: ``templates``, ``reflections``, ``seconds`` of a core to make them, ``n_bytes``."""

    templates: int
    reflections: int
    seconds: float
    n_bytes: float

    @classmethod
    def of(cls, phase, preprocessing: PolarPreprocessing) -> Cost:
        """Estimate it for a phase.

        Parameters
        ----------
        phase : orix.crystal_map.Phase
            From :func:`pyxem_dl.crystals.load_phases`.
        preprocessing : PolarPreprocessing
            The polar grid of the patterns.
        """
        radius, n = preprocessing.reciprocal_radius, coarse_size(phase)
        inside = 4 / 3 * math.pi * radius**3 * phase.structure.lattice.volume
        # those near the Ewald sphere are drawn, of the strongest ones
        spots = n * min(inside, MOST_REFLECTIONS) * min(1.0, 0.12 / radius)
        seconds = _OF_PHASE + _OF_SPOT * spots + _OF_ATOM * inside * len(phase.structure)
        return cls(n, round(inside), seconds, n * (4 * TEMPLATE_NUMBERS * preprocessing.n_k + _REFLECTIONS_BYTES))

    @classmethod
    def of_all(cls, phases: list, preprocessing: PolarPreprocessing) -> Cost:
        """Estimate it for phases together."""
        return cls(*map(sum, zip(*(cls.of(phase, preprocessing) for phase in phases), strict=True)))

    def of_pattern(self) -> float:
        """Seconds of a core for each pattern."""
        return _OF_PATTERN + _OF_COMPARISON * self.templates


def cost_together(phases: list, preprocessing: PolarPreprocessing, n_patterns: int, times: int = 1) -> str:
    """Say what it costs to look for phases in each pattern at once.

    Parameters
    ----------
    phases : list of orix.crystal_map.Phase
        From :func:`pyxem_dl.crystals.load_phases`.
    preprocessing : PolarPreprocessing
        The polar grid of the patterns.
    n_patterns : int
        Of the scan.
    times : int
        As often as this the work for a pattern is done.

    Raises
    ------
    ValueError
        If there are more templates than memory is meant for, with both numbers.
    """
    cost = Cost.of_all(phases, preprocessing)
    if cost.n_bytes > _MOST_BYTES:
        raise ValueError(
            f"{len(phases)} phases at once have about {cost.templates} templates, which take "
            f"{_memory(cost.n_bytes)}; at most {_memory(_MOST_BYTES)} are allowed. Find out first which of them are "
            "there, with s.identify_phases(...), which takes one after another, and give those."
        )
    each = times * cost.of_pattern()
    return (
        f"{len(phases)} phase{'s' * (len(phases) > 1)}: about {cost.templates} templates of {cost.reflections} "
        f"reflections, {time_of(cost.seconds)} to make; {1e3 * each:.2g} ms for a pattern, "
        f"{time_of(each * n_patterns)} for {n_patterns} (one core); {_memory(_REST + cost.n_bytes)} of memory"
    )


def cost_one_by_one(phases: list, preprocessing: PolarPreprocessing, n_patterns: int, seconds: float) -> str:
    """Say what it costs to look for phases one after another in some patterns; `seconds` more for each look."""
    costs = [Cost.of(phase, preprocessing) for phase in phases]
    total = sum(cost.seconds + n_patterns * (seconds + cost.of_pattern()) for cost in costs)
    most = max(costs, key=lambda cost: cost.n_bytes)
    return (
        f"One after another: about {sum(cost.templates for cost in costs)} templates of "
        f"{sum(cost.reflections for cost in costs)} reflections, {time_of(total)} for {n_patterns} patterns (one "
        f"core); {_memory(_REST + most.n_bytes)} of memory at a time"
    )


def time_of(seconds: float) -> str:
    """Write seconds, minutes or hours."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"about {seconds / size:.2g} {unit}"
    return f"about {max(1, round(seconds))} s"


def _memory(n_bytes: float) -> str:
    return f"{n_bytes / 2**30:.2g} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"
