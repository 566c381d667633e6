"""The benchmark's patterns as a detector sees them: dose, background, distortion and overlap, all from seeds.

What is kept in files is free of noise.  Each condition is put on when it is loaded, pattern by pattern, from a seed of
the crystal, the pattern's number and the condition.  This needs NumPy and SciPy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

#: The part that lies in the repository
PART = Path(__file__).resolve().parent / "part.npz"
#: Second crystals of overlaps are found among so many patterns that follow each other, so that the part needs no other
_BLOCK = 24
#: How far the direct beam reaches beyond its disk, in px: what is outside counts as scattered
_MARGIN = 1.5
_SEED = 271828


@dataclass(frozen=True)
class Condition:
    """How patterns are recorded.

    Parameters
    ----------
    name, text : str
        For commands and for tables.
    electrons : float
        Expected outside the direct beam, from the crystals; with `background` there are more.
    background : tuple of 2 float
        Electrons of halo and rings, in units of those: from, to.
    ellipticity, axis : float
        A spot at k is seen at k times (1 + ellipticity) along the axis (degrees from +x), and (1 - ellipticity) across.
    wander : float
        Standard deviation of the direct beam's place along each axis, in px.
    second : tuple of 2 float
        Share of a second crystal, of the scattered electrons: from, to.
    """

    name: str
    text: str
    electrons: float
    background: tuple[float, float] = (0.0, 0.0)
    ellipticity: float = 0.0
    axis: float = 25.0
    wander: float = 0.0
    second: tuple[float, float] = (0.0, 0.0)


#: In this order: a pattern's seed is made of the condition's place here
CONDITIONS = (
    Condition("1e5", "10⁵ electrons", 1e5),
    Condition("1e4", "10⁴ electrons", 1e4),
    Condition("1e3", "10³ electrons", 1e3),
    Condition("background", "10⁴, halo and rings of 1 to 4 times as many", 1e4, background=(1.0, 4.0)),
    Condition("distorted", "10⁴, ellipse of 2 %, beam wanders by 1 px", 1e4, ellipticity=0.02, wander=1.0),
    Condition("overlap", "10⁴, 30 to 50 % from a second crystal", 1e4, second=(0.3, 0.5)),
    Condition(
        "hard", "3·10³, background and distortion", 3e3, background=(1.0, 4.0), ellipticity=0.02, wander=1.0
    ),
)  # fmt: skip
NAMES = tuple(condition.name for condition in CONDITIONS)


@dataclass(frozen=True, eq=False)
class Patterns:
    """Patterns with their truth.

    Parameters
    ----------
    condition : Condition
        Under which they were recorded.
    ids : array of str, shape (n,)
        "Cu-007".
    crystals : array of str, shape (n,)
        "Cu".
    patterns : array of float32, shape (n, 128, 128)
        Electrons.
    quaternions : array, shape (n, 4)
        Orientations, lab to crystal.
    second : array, shape (n, 4)
        The same of the second crystal; NaN without one.
    share : array, shape (n,)
        Of the second crystal, of the scattered electrons.
    thickness : array, shape (n,)
        In Å.
    scale, center, beam_energy, disk_radius : float
        Å⁻¹ per px; row and column of the direct beam, as a user is told; kV; Å⁻¹.
    """

    condition: Condition
    ids: np.ndarray
    crystals: np.ndarray
    patterns: np.ndarray
    quaternions: np.ndarray
    second: np.ndarray
    share: np.ndarray
    thickness: np.ndarray
    scale: float
    center: float
    beam_energy: float
    disk_radius: float

    def of(self, crystal: str) -> Patterns:
        """Only those of one crystal."""
        here = self.crystals == crystal
        names = ("ids", "crystals", "patterns", "quaternions", "second", "share", "thickness")
        return Patterns(**{**vars(self), **{name: getattr(self, name)[here] for name in names}})


def condition_of(name: str) -> Condition:
    """One of the conditions; a ValueError that lists them."""
    if name not in NAMES:
        raise ValueError(f"There is no condition {name!r}: take one of {', '.join(NAMES)}.")
    return CONDITIONS[NAMES.index(name)]


def load(condition: str = "1e4", path: Path | str = PART) -> Patterns:
    """Load the benchmark's patterns as recorded under a condition.

    Parameters
    ----------
    condition : str
        Name of one of :data:`CONDITIONS`.
    path : path
        Written by ``recipe.pack``; by default the part that lies in the repository.

    Returns
    -------
    Patterns

    Raises
    ------
    ValueError
        For a condition that there is not, or a file that is none of the benchmark's.
    """
    how = condition_of(condition)
    kept, clean = read(path)
    ids = kept["ids"]
    place = {each: i for i, each in enumerate(ids)}
    recorded, second, shares = [], np.full((len(ids), 4), np.nan), np.zeros(len(ids))
    for i, each in enumerate(ids):
        rng = _generator(each, how)
        partner, shares[i] = _partner(each, how, place, rng)
        expected = _scattering(clean[i], kept)
        if partner is not None:
            second[i] = kept["quaternions"][partner]
            expected = (1 - shares[i]) * expected + shares[i] * _scattering(clean[partner], kept)
        recorded.append(_recorded(expected, how, kept, rng))
    return Patterns(
        how, ids, np.array([each.rsplit("-", 1)[0] for each in ids]), np.stack(recorded), kept["quaternions"], second,
        shares, kept["thickness"], *(float(kept[key]) for key in ("scale", "center", "beam_energy", "disk_radius")),
    )  # fmt: skip


def read(path: Path | str = PART) -> tuple[dict, np.ndarray]:
    """Read what is kept, and the patterns without noise: share of the incident electrons, float32 (n, 128, 128)."""
    with np.load(path, allow_pickle=False) as file:
        kept = {key: file[key] for key in file.files}
    missing = {"ids", "roots", "largest", "quaternions", "thickness", "scale"} - set(kept)
    if missing:
        raise ValueError(f"{path} is no file of the open benchmark: it has no {', '.join(sorted(missing))}.")
    roots = kept["roots"].astype(np.float32) / np.float32(kept["steps"])
    return kept, roots**2 * kept["largest"][:, None, None]


def _generator(name: str, how: Condition):
    """Random numbers of one pattern under one condition."""
    letters = [ord(letter) for letter in name]
    return np.random.default_rng([_SEED, NAMES.index(how.name), *letters])


def _partner(name: str, how: Condition, place: dict, rng) -> tuple[int | None, float]:
    """Another pattern of the crystal, and the share that it gets."""
    if not how.second[1]:
        return None, 0.0
    crystal, number = name.rsplit("-", 1)
    first = int(number) // _BLOCK * _BLOCK
    others = [f"{crystal}-{other:03d}" for other in range(first, first + _BLOCK)]
    others = [place[other] for other in others if other in place and other != name]
    if not others:
        raise ValueError(f"{name} has no other pattern of its crystal to lie on: load a file with more patterns.")
    return others[rng.integers(len(others))], float(rng.uniform(*how.second))


def _scattering(pattern: np.ndarray, kept: dict) -> np.ndarray:
    """Scale a pattern so that 1 is scattered outside the direct beam."""
    radius = float(kept["disk_radius"]) / float(kept["scale"]) + _MARGIN
    return pattern / pattern[_distance(pattern.shape, kept) > radius].sum(dtype=float)


def _distance(shape, kept: dict) -> np.ndarray:
    row, column = np.indices(shape) - float(kept["center"])
    return np.hypot(row, column)


def _recorded(expected: np.ndarray, how: Condition, kept: dict, rng) -> np.ndarray:
    """Background, distortion and noise: electrons, float32 (128, 128)."""
    expected = expected * how.electrons
    if how.background[1]:
        background = _background(expected.shape, kept, rng)
        expected = expected + background * (how.electrons * rng.uniform(*how.background))
    if how.ellipticity or how.wander:
        expected = _distorted(expected, how, kept, rng)
    return rng.poisson(expected).astype(np.float32)


def _background(shape, kept: dict, rng) -> np.ndarray:
    """Draw a halo around the direct beam and two rings of amorphous carbon, summing to 1."""
    k = _distance(shape, kept) * float(kept["scale"])
    halo = np.exp(-k / rng.uniform(0.15, 0.35))
    inner, outer = (np.exp(-0.5 * ((k - radius) / width) ** 2) for radius, width in ((0.48, 0.06), (0.84, 0.08)))
    return 0.7 * halo / halo.sum() + 0.2 * inner / inner.sum() + 0.1 * outer / outer.sum()


def _distorted(expected: np.ndarray, how: Condition, kept: dict, rng) -> np.ndarray:
    """Stretch a pattern along one direction, and move its direct beam."""
    from scipy.ndimage import affine_transform

    cos, sin = np.cos(np.radians(how.axis)), np.sin(np.radians(how.axis))
    # (row, column) of the axis, which is counted from +x to +y: rows run down
    along = np.array([-sin, cos])
    back = np.eye(2) / (1 - how.ellipticity)
    back += np.outer(along, along) * (1 / (1 + how.ellipticity) - 1 / (1 - how.ellipticity))
    center = np.full(2, float(kept["center"]))
    moved = center + rng.normal(0, how.wander, 2)
    # linear, so that there is no ringing around the direct beam
    return affine_transform(expected, back, center - back @ moved, order=1)
