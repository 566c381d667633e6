"""All atoms of a unit cell from the asymmetric unit, special positions by distance."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from pyxem_dl.crystals.space_groups import Group, cell_of_metric, metric_tensor

#: Images of an atom that are nearer than this (Angstrom) are one atom, on a special position written in few digits.
SAME_ATOM = 0.3
# A site that is occupied in part may be split on purpose: only what rounding explains is one atom (Angstrom).
_SAME_PARTIAL_ATOM = 0.1
# Of atoms on special positions, what few digits do not explain (Angstrom); a partly filled site may be split on purpose
_ROUNDING, _PARTIAL_ROUNDING = 0.1, 0.03
#: Atoms of a unit cell that are computed with.
MAX_ATOMS = 20_000
_FULL = 0.99


@dataclass(frozen=True)
class Atoms:
    """Atoms of a cell, or of its asymmetric unit.

    Parameters
    ----------
    elements : tuple of str
        Without charges.
    species : tuple of str
        As the file tells atoms apart: with charges, ``Fe2+``.
    labels : tuple of str
        Of the sites.
    xyz : array, shape (n, 3)
        Fractions of the cell.
    occupancy : array, shape (n,)
        Between 0 and 1.
    site : array of int, shape (n,)
        Which site of the asymmetric unit an atom comes from.
    cell : tuple of 6 float
        Angstrom and degrees.
    """

    elements: tuple[str, ...]
    species: tuple[str, ...]
    labels: tuple[str, ...]
    xyz: np.ndarray
    occupancy: np.ndarray
    site: np.ndarray
    cell: tuple

    def __len__(self) -> int:
        return len(self.elements)

    def take(self, index) -> Atoms:
        """Return some of the atoms, by their numbers."""
        return replace(
            self,
            **{name: tuple(getattr(self, name)[i] for i in index) for name in ("elements", "species", "labels")},
            xyz=self.xyz[index], occupancy=self.occupancy[index], site=self.site[index],
        )  # fmt: skip

    @property
    def metric(self) -> np.ndarray:
        """Metric tensor of the cell in square Angstrom."""
        return metric_tensor(self.cell)

    @property
    def base(self) -> np.ndarray:
        """Lattice vectors in rows, Angstrom, in some Cartesian frame."""
        return np.linalg.cholesky(self.metric)

    def neighbours(self, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pairs (i, j) with i <= j of atoms nearer than a radius in Angstrom, over the cell's borders, with distances.

        An atom is its own neighbour where the lattice is that short.
        """
        base = self.base
        wrapped = self.xyz % 1.0
        reach = radius * np.linalg.norm(np.linalg.inv(base), axis=0)
        ranges = [np.arange(-int(np.ceil(r)), int(np.ceil(r)) + 1) for r in reach]
        shifts = np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, 3)
        images, owner = [], []
        for shift in shifts:
            moved = wrapped + shift
            near = ((moved > -reach) & (moved < 1 + reach)).all(axis=1)
            images.append(moved[near] @ base)
            owner.append(np.nonzero(near)[0])
        images, owner = np.concatenate(images), np.concatenate(owner)
        matrix = cKDTree(wrapped @ base).sparse_distance_matrix(cKDTree(images), radius, output_type="coo_matrix")
        i, j, distance = matrix.row, owner[matrix.col], matrix.data
        # a zero distance is the atom itself, or another one at the same place
        keep = (i < j) | ((i == j) & (distance > 1e-6))
        return i[keep], j[keep], distance[keep]


def expanded(unit: Atoms, group: Group, notes: list[str] | None = None) -> Atoms:
    """All atoms of the cell from those of the asymmetric unit.

    Images of a site within :data:`SAME_ATOM` are one atom, which is laid onto the special position; a site that is
    listed again is left out.

    Raises
    ------
    ValueError
        If there are more than :data:`MAX_ATOMS`.
    """
    if len(unit) * len(group) > 64 * MAX_ATOMS:
        raise ValueError(f"{len(unit)} sites and {len(group)} operations give more than {MAX_ATOMS} atoms")
    # the cell of the group: what is rounded in a = b, or in gamma = 120 degrees, is not written in structure factors
    metric = group.symmetric_metric(unit.metric)
    error = np.abs(metric - unit.metric).max() / np.diag(metric).max()
    cell = unit.cell if error < 1e-12 else cell_of_metric(metric)
    unit = replace(unit, cell=cell)
    positions, owner = [], []
    for i in range(len(unit)):
        orbit = _orbit(unit.xyz[i], group, metric, SAME_ATOM if unit.occupancy[i] >= _FULL else _SAME_PARTIAL_ATOM)
        positions.append(orbit)
        owner += [i] * len(orbit)
        if len(owner) > MAX_ATOMS:
            raise ValueError(f"the cell holds more than {MAX_ATOMS} atoms")
    full = replace(unit.take(np.array(owner, dtype=int)), xyz=np.concatenate(positions))
    moved = _moved(full, unit)
    excess = moved - np.where(unit.occupancy >= _FULL, _ROUNDING, _PARTIAL_ROUNDING)
    if notes is not None and len(moved) and excess.max() > 0:
        worst = int(excess.argmax())
        notes.append(f"{unit.labels[worst]} was {moved[worst]:.2f} Å off a special position and was moved onto it")
    twice = _listed_again(full, unit)
    if twice and notes is not None:
        names = ", ".join(unit.labels[i] for i in sorted(twice)[:6])
        notes.append(f"{len(twice)} sites are symmetry copies of other sites and were ignored: {names}")
    return full.take(np.nonzero(~np.isin(full.site, list(twice)))[0]) if twice else full


def _orbit(xyz: np.ndarray, group: Group, metric: np.ndarray, tolerance: float) -> np.ndarray:
    """Images (n, 3) of a position, in the cell, each once; the position is moved to the special one near it."""

    def stabiliser(x, limit):
        images = x @ np.swapaxes(group.rotations, 1, 2) + group.translations / 24
        delta = images - x
        delta -= np.round(delta)
        return delta, np.einsum("ni,ij,nj->n", delta, metric, delta) < limit**2

    for _ in range(20):
        delta, same = stabiliser(xyz, tolerance)
        xyz = xyz + delta[same].mean(axis=0)
        if np.abs(delta[same]).max() < 1e-9:
            break
    delta, same = stabiliser(xyz, 1e-3)
    xyz = xyz + delta[same].mean(axis=0)
    images = (xyz @ np.swapaxes(group.rotations, 1, 2) + group.translations / 24) % 1.0
    images[np.abs(images - 1) < 1e-9] = 0.0
    images[images < 1e-9] = 0.0
    if same.sum() == 1:
        return images
    between = images[:, None] - images
    between -= np.round(between)
    alike = np.einsum("abi,ij,abj->ab", between, metric, between) < 1e-4
    return images[alike.argmax(axis=1) == np.arange(len(images))]


def _moved(full: Atoms, unit: Atoms) -> np.ndarray:
    """How far (Angstrom) the sites of a unit were moved onto special positions."""
    shift = full.xyz - unit.xyz[full.site]
    shift -= np.round(shift)
    distance = np.sqrt(np.einsum("ni,ij,nj->n", shift, unit.metric, shift))
    moved = np.full(len(unit), np.inf)
    np.minimum.at(moved, full.site, distance)
    return moved


def _listed_again(full: Atoms, unit: Atoms) -> set[int]:
    """Sites of the unit that are images of earlier ones of the same species."""
    twice: set[int] = set()
    for i, j, distance in zip(*full.neighbours(SAME_ATOM), strict=True):
        first, second = sorted((int(full.site[i]), int(full.site[j])))
        if first == second or full.species[i] != full.species[j] or first in twice:
            continue
        both_full = min(full.occupancy[i], full.occupancy[j]) >= _FULL
        # parts of one atom share a place on purpose; a copy of it is written where its image is
        shift = unit.xyz[first] - unit.xyz[second]
        apart = np.abs(shift - np.round(shift)).max() > 1e-3
        alike = full.occupancy[i] == full.occupancy[j] and distance < _SAME_PARTIAL_ATOM
        if both_full or (alike and apart):
            twice.add(second)
    return twice


def is_complete(atoms: Atoms, group: Group, tolerance: float = SAME_ATOM) -> bool:
    """Whether every operation of a group maps the atoms onto atoms of their species: nothing is left to add."""
    if group.metric_error(atoms.metric) > 0.05:
        return False
    base = atoms.base
    kinds = sorted({(atoms.elements[i], round(float(atoms.occupancy[i]), 3)) for i in range(len(atoms))})
    numbers = {kind: n for n, kind in enumerate(kinds)}
    kind = np.array([numbers[e, round(float(o), 3)] for e, o in zip(atoms.elements, atoms.occupancy, strict=True)])
    for number in range(len(kinds)):
        xyz = atoms.xyz[kind == number] % 1.0
        xyz[xyz >= 1.0] = 0.0
        tree = cKDTree(xyz, boxsize=1.0)
        for rotation, translation in zip(group.rotations, group.translations, strict=True):
            images = (xyz @ rotation.T + translation / 24) % 1.0
            images[images >= 1.0] = 0.0
            _, nearest = tree.query(images)
            delta = images - xyz[nearest]
            delta -= np.round(delta)
            if np.linalg.norm(delta @ base, axis=1).max() > tolerance:
                return False
            if len(xyz) > 1 and len(np.unique(nearest)) < len(xyz):
                return False
    return True
