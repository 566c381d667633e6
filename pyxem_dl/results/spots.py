"""The spots that orientations predict: where they lie, and how strong they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from pyxem_dl.crystals import Reflections, near_ewald_sphere, reflections
from pyxem_dl.electrons import electron_wavelength

# Orientations x reflections that are looked at at once
_BLOCK = 4_000_000


@dataclass(frozen=True, eq=False)
class PredictedSpots:
    """Spots of n orientations, those of the first one first.

    Parameters
    ----------
    owner : array of int, shape (m,)
        Which orientation a spot belongs to, in rising order.
    xyz : array, shape (m, 3)
        Reciprocal vectors in the lab frame (x to the right of the pattern, y up, z to the source), in Å⁻¹.
    hkl : array of int, shape (m, 3)
        Miller indices.
    excitation_error : array, shape (m,)
        In Å⁻¹.
    squared_structure_factor : array, shape (m,)
        ``|F|²`` in Å².
    n : int
        Number of orientations.
    """

    owner: np.ndarray
    xyz: np.ndarray
    hkl: np.ndarray
    excitation_error: np.ndarray
    squared_structure_factor: np.ndarray
    n: int

    @property
    def ends(self) -> np.ndarray:
        """Where the spots of each orientation end (n,)."""
        return np.cumsum(np.bincount(self.owner, minlength=self.n))

    def split(self, values) -> list[np.ndarray]:
        """Values (m, ...) of the spots, as one array for each orientation."""
        return np.split(values, self.ends[:-1])


def predict_spots(
    rotations,
    phase_id,
    phases: Mapping,
    beam_energy: float,
    reciprocal_radius: float,
    *,
    max_excitation_error: float = 0.03,
    progress=None,
    tables: Mapping[int, Reflections] | None = None,
) -> PredictedSpots:
    """Find the reflections near the Ewald sphere for many orientations at once.

    Parameters
    ----------
    rotations : array, shape (n, 4)
        Quaternions lab to crystal.
    phase_id : array of int, shape (n,)
        Keys of `phases`; other values (as -1, not indexed) have no spots.
    phases : mapping of int to orix.crystal_map.Phase
        With atoms.
    beam_energy : float
        In kV.
    reciprocal_radius : float
        Largest ``|g|`` in Å⁻¹.
    max_excitation_error : float
        In Å⁻¹.
    progress : callable, optional
        Called with a number of orientations when these are done.
    tables : mapping of int to Reflections, optional
        From :func:`spot_table`, by phase, for who asks again and again.

    Returns
    -------
    PredictedSpots

    Raises
    ------
    ValueError
        For a phase without atoms, or without reflections inside the radius; the message says what to do.
    """
    rotations, phase_id = np.asarray(rotations, dtype=float).reshape(-1, 4), np.asarray(phase_id).reshape(-1)
    wavelength = electron_wavelength(beam_energy)
    parts = []
    for key, phase in phases.items():
        mine = np.flatnonzero(phase_id == key)
        if not mine.size:
            continue
        known = spot_table(phase, reciprocal_radius) if tables is None else tables[key]
        # exact: reflections are kept with 32 bits, positions need not be
        g = torch.from_numpy(known.hkl @ phase.structure.lattice.recbase.T)
        strength = known.structure_factor.numpy().astype(float) ** 2
        size = max(1, _BLOCK // len(known))
        for some in (mine[i : i + size] for i in range(0, len(mine), size)):
            lab, error, near = near_ewald_sphere(
                g, torch.from_numpy(rotations[some]), wavelength, max_excitation_error
            )
            row, index = np.nonzero(near.numpy())
            parts.append((
                some[row], lab.numpy()[row, index], known.hkl[index], error.numpy()[row, index], strength[index],
            ))  # fmt: skip
            if progress is not None:
                progress(len(some))
    if not parts:
        parts = [(np.zeros(0, int), np.zeros((0, 3)), np.zeros((0, 3), int), np.zeros(0), np.zeros(0))]
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    return PredictedSpots(*(column[order] for column in columns), n=len(rotations))


def spot_table(phase, reciprocal_radius: float) -> Reflections:
    """List the reflections of a phase of a map out to a radius in Å⁻¹; an error says where there are none."""
    if not len(phase.structure):
        raise ValueError(
            f"The phase {phase.name!r} of the map has no atoms (.ang files do not keep them), so its spots are not "
            "known. Give the structures, as `phases=\"structure.cif\"`, or a model."
        )
    return reflections(phase, reciprocal_radius)
