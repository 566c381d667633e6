"""Crystal maps of what a step found: an assembly knows all that a map needs beside the arrays, and fits into a file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pyxem_dl.checks import thresholds
from pyxem_dl.crystals import phase_from_dict, phase_to_dict
from pyxem_dl.networks import MOST_CRYSTALS
from pyxem_dl.results.calibrations import calibration_property
from pyxem_dl.results.maps import reliability, renumbered, to_crystal_map
from pyxem_dl.scans import Collected, Field, Positions

#: What thresholds are where a model has none
DEFAULT_THRESHOLDS = {"crystal": 0.5, "score": 0.0}


def indexed(score, crystal, thresholds: dict):
    """Whether what a network says of patterns is enough for an orientation.

    Parameters
    ----------
    score, crystal : array, shape (n,)
        Probability of the best orientation, and that there is a crystal.
    thresholds : dict
        The lowest of both, ``score`` and ``crystal``.

    Returns
    -------
    array of bool, shape (n,)
    """
    lowest = DEFAULT_THRESHOLDS | thresholds
    return (crystal > 0) & (crystal >= lowest["crystal"]) & (score >= lowest["score"])


@dataclass(frozen=True, eq=False)
class PredictedMap:
    """Makes the map of a network's predictions.

    Parameters
    ----------
    positions : Positions
        Of the scan.
    phases : list of orix.crystal_map.Phase
        In the order of the network's.
    n_best : int
        Orientations to keep for each position.
    thresholds : dict
        A pattern is not indexed if the probability of a crystal is below ``crystal``, or that of the best orientation
        below ``score``.
    calibration : dict, optional
        Numbers of the calibration that was found in the patterns: a property of the map, so that all files keep it.
    overlap : bool
        The orientations of a position are those of crystals that lie above each other.
    """

    positions: Positions
    phases: list
    n_best: int
    thresholds: dict
    calibration: dict | None = None
    overlap: bool = False

    kind = "predicted orientations"

    @staticmethod
    def fields(n_best: int, with_uncertainty: bool) -> dict[str, Field]:
        """List what a network gives for each pattern: rotations, their scores, and whether there is a crystal."""
        fields = {
            "rotations": Field((n_best, 4), "float32"), "phase_id": Field((n_best,), "int64"),
            "scores": Field((n_best,), "float32"), "crystal": Field((), "float32"),
        }  # fmt: skip
        return fields | ({"uncertainty": Field((), "float32")} if with_uncertainty else {})

    @staticmethod
    def fields_of_overlaps() -> dict[str, Field]:
        """List what is given where crystals may lie above each other."""
        return PredictedMap.fields(MOST_CRYSTALS, False) | {"share": Field((MOST_CRYSTALS,), "float32")}

    def __call__(self, found: Collected):
        """Crystal map of what was found; what is not done is not in its data."""
        rotations, phase_id, scores, crystal = (
            found.arrays[name] for name in ("rotations", "phase_id", "scores", "crystal")
        )
        prop = calibration_property(self.calibration, self.positions)
        is_indexed = indexed(scores[:, 0], crystal, self.thresholds)
        if self.overlap:
            prop |= _of_crystals(found.arrays["share"], phase_id, is_indexed & found.done)
        elif scores.shape[1] > 1:
            prop["reliability"] = reliability(scores)
        if "uncertainty" in found.arrays:
            prop["uncertainty"] = found.arrays["uncertainty"].astype(float)
        kept = slice(self.n_best)
        return to_crystal_map(
            self.positions, rotations[:, kept], phase_id[:, kept], scores[:, kept], self.phases,
            indexed=is_indexed, is_in_data=found.done, prop=prop,
        )  # fmt: skip

    def to_dict(self) -> dict:
        """Plain numbers and texts for a file."""
        entry = {
            "positions": self.positions.to_dict(), "phases": [phase_to_dict(phase) for phase in self.phases],
            "n_best": self.n_best, "thresholds": {k: float(v) for k, v in self.thresholds.items()},
        }  # fmt: skip
        entry |= {"overlap": True} if self.overlap else {}
        return entry if self.calibration is None else entry | {"calibration": self.calibration}

    @classmethod
    def from_dict(cls, entry: dict) -> PredictedMap:
        """Read what :meth:`to_dict` gave."""
        limits = dict(entry["thresholds"])
        thresholds(limits, "The store", ("crystal", "score"))
        phases = [phase_from_dict(each) for each in entry["phases"]]
        positions = Positions.from_dict(entry["positions"])
        overlap = entry.get("overlap") is True
        return cls(positions, phases, int(entry["n_best"]), limits, entry.get("calibration"), overlap)


def _of_crystals(share, phase_id, is_indexed) -> dict:
    """Properties of the crystals (n, crystals) at each position; those that are none have no share, and no phase."""
    share = np.where(is_indexed[:, None], share.astype(float), 0.0)
    return {
        "share": share, "n_crystals": (share > 0).sum(1), "candidate_phase_id": np.where(share > 0, phase_id, -1),
    }  # fmt: skip


@dataclass(frozen=True, eq=False)
class MatchedMap:
    """Makes the map of what template matching found.

    Parameters
    ----------
    positions : Positions
        Of the scan.
    phases : list of orix.crystal_map.Phase
        In the order of the templates'.
    """

    positions: Positions
    phases: list

    kind = "matched orientations"

    @staticmethod
    def fields(n_best: int) -> dict[str, Field]:
        """List what a matcher gives for each pattern; see :class:`~pyxem_dl.templates.modes.Match`."""
        return {
            "rotations": Field((n_best, 4), "float32"), "phase_id": Field((n_best,), "int64"),
            "scores": Field((n_best,), "float32"), "simulation_indices": Field((n_best,), "int64"),
            "reliability": Field((), "float32"),
        }  # fmt: skip

    def __call__(self, found: Collected):
        """Crystal map of what was found; what is not done is not in its data."""
        arrays = found.arrays
        indices = arrays["simulation_indices"]
        return to_crystal_map(
            self.positions, arrays["rotations"], arrays["phase_id"], arrays["scores"], self.phases,
            indexed=arrays["phase_id"][:, 0] >= 0, is_in_data=found.done,
            prop={
                "reliability": arrays["reliability"].astype(float),
                "simulation_indices": indices[:, 0] if indices.shape[1] == 1 else indices,
            },
        )  # fmt: skip

    def to_dict(self) -> dict:
        """Plain numbers and texts for a file."""
        phases = [phase_to_dict(phase) for phase in self.phases]
        return {"positions": self.positions.to_dict(), "phases": phases}

    @classmethod
    def from_dict(cls, entry: dict) -> MatchedMap:
        """Read what :meth:`to_dict` gave."""
        return cls(Positions.from_dict(entry["positions"]), [phase_from_dict(each) for each in entry["phases"]])


@dataclass(frozen=True, eq=False)
class RefinedMap:
    """Makes the map of refined orientations: what the map that was refined has, and what was found.

    Parameters
    ----------
    positions : Positions
        Of the scan.
    phases : list of orix.crystal_map.Phase
        In the order of the map's.
    ids : list of int
        Their ids in the map.
    properties : list of str
        Of the map, that are kept.
    strain : bool
        Whether strain was refined.
    calibration : dict, optional
        As of :class:`PredictedMap`.
    """

    positions: Positions
    phases: list
    ids: list[int]
    properties: list[str]
    strain: bool = False
    calibration: dict | None = None

    kind = "refined orientations"
    #: What refining finds beside rotations, and where strain is refined
    NAMES = ("thickness", "thickness_error", "orientation_error", "misfit", "refined", "candidate")
    STRAIN = ("e_xx", "e_yy", "e_xy", "e_xx_error", "e_yy_error", "e_xy_error")

    @classmethod
    def of(cls, xmap, positions: Positions, properties, strain: bool = False, calibration=None) -> RefinedMap:
        """For the map that is refined."""
        known = [(key, phase) for key, phase in xmap.phases if key >= 0]
        phases, ids = [phase for _, phase in known], [int(key) for key, _ in known]
        return cls(positions, phases, ids, sorted(properties), strain, calibration)

    @classmethod
    def fields(cls, n_best: int, properties: dict, strain: bool = False) -> dict[str, Field]:
        """List what refining gives for each pattern, and what the map said."""
        fields = {"rotations": Field((n_best, 4), "float64"), "phase_id": Field((), "int64")}
        fields |= {name: Field((), "float64") for name in (*cls.NAMES, *(cls.STRAIN if strain else ()))}
        fields |= {"refined": Field((), "bool"), "candidate": Field((), "int64")}
        return fields | {name: Field(array.shape[1:], str(array.dtype)) for name, array in properties.items()}

    def __call__(self, found: Collected):
        """Crystal map of what was found; what is not done is not in its data."""
        arrays = found.arrays
        rotations, number = arrays["rotations"], arrays["phase_id"]
        n_best = rotations.shape[1]
        names = {*self.properties, *self.NAMES, *(self.STRAIN if self.strain else ())}
        # of one candidate the map says no more than of the position
        names -= {"candidate_phase_id"} if n_best == 1 else set()
        prop = {name: arrays[name] for name in names - {"scores"}}
        prop |= calibration_property(self.calibration, self.positions)
        scores = arrays["scores"].reshape(-1, n_best) if "scores" in names else np.zeros(rotations.shape[:2])
        phase_id = np.repeat(number[:, None], n_best, axis=1)
        xmap = to_crystal_map(
            self.positions, rotations, phase_id, scores, self.phases, indexed=number >= 0, is_in_data=found.done,
            prop=prop,
        )  # fmt: skip
        return renumbered(xmap, self.ids, without={"score", "scores", "candidate_phase_id"} - names)

    def to_dict(self) -> dict:
        """Plain numbers and texts for a file."""
        phases = [phase_to_dict(phase) for phase in self.phases]
        return {
            "positions": self.positions.to_dict(), "phases": phases, "ids": self.ids, "properties": self.properties,
        } | ({"strain": True} if self.strain else {}) | (
            {} if self.calibration is None else {"calibration": self.calibration}
        )  # fmt: skip

    @classmethod
    def from_dict(cls, entry: dict) -> RefinedMap:
        """Read what :meth:`to_dict` gave."""
        phases = [phase_from_dict(each) for each in entry["phases"]]
        ids, names = [int(i) for i in entry["ids"]], [str(name) for name in entry["properties"]]
        positions, strain = Positions.from_dict(entry["positions"]), entry.get("strain") is True
        return cls(positions, phases, ids, names, strain, entry.get("calibration"))
