"""What a viewer shows at a position: a pattern, spots, and words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True, eq=False)
class Candidate:
    """An orientation, and the spots that it predicts on the detector.

    Parameters
    ----------
    phase : str
        Name.
    rotation : array, shape (4,), or None
        Quaternion, lab to crystal; None for disks, and for columns of an image.
    score : float
        Greater is better; NaN where a map has none.
    row, column : array, shape (m,)
        Places of the spots in pixels; the direct beam is none of them.
    intensity : array, shape (m,)
        Kinematical, of the strongest 1: for the size of what is drawn.
    hkl : array of int, shape (m, 3)
        Miller indices; shape (m, 0) where there are none.
    """

    phase: str
    rotation: np.ndarray | None
    score: float
    row: np.ndarray
    column: np.ndarray
    intensity: np.ndarray
    hkl: np.ndarray

    def __str__(self) -> str:
        if self.rotation is None:
            return f"{self.phase}: {len(self.row)}"
        from orix.quaternion import Rotation

        angles = ", ".join(f"{angle:.1f}°" for angle in Rotation(self.rotation).to_euler(degrees=True)[0])
        score = "" if np.isnan(self.score) else f"score {self.score:.4f}, "
        return f"{self.phase}: {score}Euler angles ({angles}), {len(self.row)} spots"


@dataclass(frozen=True, eq=False)
class Frame:
    """All that is shown at a position of the scan.

    Parameters
    ----------
    x, y : int
        Position; 0 along what the scan does not have.
    pattern : array, shape (rows, columns)
        As the signal has it.
    center : tuple of float
        Direct beam, (row, column) in pixels.
    candidates : list of Candidate
        The best first; none where nothing is indexed.
    text : str
        Lines: the orientations, or why there are none; who says so; what the user should know.
    """

    x: int
    y: int
    pattern: np.ndarray
    center: tuple[float, float]
    candidates: list[Candidate]
    text: str

    @property
    def indexed(self) -> bool:
        """Whether there is an orientation."""
        return bool(self.candidates)


class Found(NamedTuple):
    """Orientations at a position, the best first.

    ``rotations (n, 4)``, ``phase_id (n,)``, ``scores (n,)``; ``why`` says why it is not indexed, empty where it is.
    """

    rotations: np.ndarray
    phase_id: np.ndarray
    scores: np.ndarray
    why: str = ""

    @classmethod
    def of(cls, rotations, phase_id, scores, n: int) -> Found:
        """Keep the best, `n` at most: further ones with a score of 0 only fill the places of what there is not."""
        kept = [i for i in range(min(n, len(scores))) if i == 0 or scores[i] != 0]
        return cls(rotations[kept], phase_id[kept], scores[kept])

    @classmethod
    def nothing(cls, why: str) -> Found:
        """No orientation, and why."""
        return cls(np.zeros((0, 4)), np.zeros(0, dtype=int), np.zeros(0), why)


def why_unusable(pattern: np.ndarray, signal_mask: np.ndarray | None = None) -> str:
    """Say why nothing can be told of a pattern; empty for one that can be looked at.

    Parameters
    ----------
    pattern : array, shape (rows, columns)
        Intensities.
    signal_mask : array of bool, shape (rows, columns), optional
        True where the detector is excluded.
    """
    pixels = pattern.reshape(-1) if signal_mask is None else pattern[~signal_mask]
    wrong = int(np.count_nonzero(~np.isfinite(pixels)))
    if wrong:
        return f"{wrong} pixels of the pattern are NaN or infinite"
    low, high = (max(0.0, float(limit)) for limit in (pixels.min(), pixels.max()))
    if high > low:
        return ""
    return f"all pixels are {high:g}: the pattern is saturated" if high else "no pixel is above 0: the pattern is empty"
