"""Refined orientations once more, tempered by what their neighbours say."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from pyxem_dl.preprocessing import in_electrons, usable_patterns
from pyxem_dl.refinement.fitting import Given, Prior
from pyxem_dl.refinement.step import RefinementStep, Start
from pyxem_dl.refinement.strain import Strained
from pyxem_dl.rotations import conjugate, exponential, logarithm, multiply
from pyxem_dl.scans import Collected, Job
from pyxem_dl.symmetry import proper_operations

# Neighbours are of the same grain within so many degrees, and so many of them make a prior
_SAME, _FEWEST = 3.0, 3
# Errors of a prior are not smaller, in degrees and Å
_LEAST_TILT, _LEAST_THICKNESS = 0.05, 10.0
# Rounds in which those that are far from the others come to count less
_ROUNDS = 4
# The misfit of a new answer is no larger than the old one's and so much, nor than so many times the old one's
_MORE, _TIMES = 0.3, 1.2


@dataclass(frozen=True, eq=False)
class Told:
    """What the neighbours of each position say.

    Parameters
    ----------
    count : array of int, shape (n,)
        How many of them; 0: too few, and what the prior says is of no use.
    prior : Prior
        Of all n.
    """

    count: np.ndarray
    prior: Prior


def told_by_neighbours(
    shape: tuple[int, ...], errors, thickness, thickness_error, *, rotations, phase: np.ndarray, phases: list
) -> Told:
    """Find robust means of neighbours that are of the same grain.

    Parameters
    ----------
    shape : tuple of int
        Of the scan of n positions; () for one.
    errors, thickness, thickness_error : tensor, shape (n,)
        Of orientations in degrees, and in Å; NaN where nothing was refined.
    rotations : tensor, shape (n, 4)
        Lab to crystal.
    phase : array of int, shape (n,)
        Number in the list of phases, -1: not indexed.
    phases : list of orix.crystal_map.Phase
        Whose symmetry counts.

    Returns
    -------
    Told
    """
    there = torch.from_numpy(_eight(shape))
    away = torch.full((*there.shape, 3), math.nan, dtype=torch.float64)
    for number in np.unique(phase[phase >= 0]):
        operations = proper_operations(phases[number]).double()
        of_phase = torch.from_numpy(phase == number)
        for i in range(there.shape[1]):
            here = (of_phase & (there[:, i] >= 0) & of_phase[there[:, i]]).nonzero()[:, 0]
            away[here, i] = _from(rotations[here], rotations[there[here, i]], operations)
    tilt_error = torch.deg2rad(errors)[there] / math.sqrt(2)  # about each of two axes
    depth, depth_error = thickness[there], thickness_error[there]
    near = (away.norm(dim=2) < math.radians(_SAME)) & (there >= 0)
    near &= tilt_error.isfinite() & depth.isfinite() & depth_error.isfinite()
    mean, width = _mean(away, tilt_error, near, math.radians(_LEAST_TILT))
    thick, thick_width = _mean(depth[..., None], depth_error, near, _LEAST_THICKNESS)
    count = near.sum(1).numpy()
    tilt_width, turn_width = torch.rad2deg(torch.stack([width[:, :2].square().mean(1).sqrt(), width[:, 2]]))
    prior = Prior(
        multiply(rotations, exponential(mean)), tilt_width, turn_width, thick[:, 0], thick_width[:, 0]
    )  # fmt: skip
    return Told(np.where(count >= _FEWEST, count, 0), prior)


def _eight(shape: tuple[int, ...]) -> np.ndarray:
    """Give the number of each of the eight neighbours (n, 8) of positions of a scan, -1 where there is none."""
    rows, columns = (1,) * (2 - len(shape)) + tuple(shape)
    grid = np.pad(np.arange(rows * columns).reshape(rows, columns), 1, constant_values=-1)
    steps = [(i, j) for i in range(3) for j in range(3) if (i, j) != (1, 1)]
    return np.stack([grid[i : i + rows, j : j + columns].ravel() for i, j in steps], axis=1)


def _from(a: torch.Tensor, b: torch.Tensor, operations: torch.Tensor) -> torch.Tensor:
    """Rotation vectors (n, 3) in the lab from orientations to the nearest symmetric copy of others, in radians."""
    between = multiply(conjugate(a)[:, None], multiply(operations, b[:, None]))
    nearest = between[..., 0].abs().argmax(1)
    return logarithm(between[torch.arange(len(a)), nearest])


def _mean(values: torch.Tensor, error: torch.Tensor, counts: torch.Tensor, least: float):
    """Robust mean (n, k) of values (n, m, k) with errors (n, m), and how far one more may be off (n, k).

    A value counts by its error and by how far it is from the mean, from the median at first.
    """
    mean = values.where(counts[..., None], torch.nan).nanmedian(1).values.nan_to_num()
    values, error = values.where(counts[..., None], 0.0), error.where(counts, 1.0)
    for _ in range(_ROUNDS):
        distance = (values - mean[:, None]).square().mean(2)
        weight = counts / (error**2 + distance + least**2)
        share = weight / weight.sum(1, keepdim=True).clamp_min(1e-30)
        mean = (share[..., None] * values).sum(1)
    scatter = (share[..., None] * (values - mean[:, None]).square()).sum(1)
    own = (share * error**2).sum(1)  # not that of the mean: neighbours share what a model has wrong
    return mean, (scatter + own[:, None]).sqrt().clamp_min(least)


class TemperedStep(RefinementStep):
    """Refines once more what neighbours tell of, and keeps the rest.

    Parameters
    ----------
    first : RefinementStep
        That was done.
    start : Start
        What it found, of the same properties.
    found : dict of str to array, shape (n, ...)
        All that it found, by the names of its fields.
    told : Told
        What neighbours say.
    """

    def __init__(self, first: RefinementStep, start: Start, found: dict[str, np.ndarray], told: Told) -> None:
        super().__init__(first.phases, first.scan, first.physics, start, first.gain, first.strain)
        self.found, self.told = found, told

    def __call__(self, patterns: torch.Tensor, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Give what was found of a batch, and what is found now where it fits as well."""
        result = {name: torch.from_numpy(values[indices]).to(patterns.device) for name, values in self.found.items()}
        rows = np.flatnonzero(self.told.count[indices])
        if not len(rows):
            return result
        at = torch.from_numpy(rows).to(patterns.device)
        centers = self.scan.batch_centers(patterns, indices)
        patterns, usable = usable_patterns(in_electrons(patterns, self.gain), self._mask)
        prior = Prior(*(x[indices[rows]].to(patterns.device) for x in self.told.prior))
        given = Given(patterns, self._mask, centers)[at]._replace(prior=prior)
        found, strain = self._refined(given, usable[at], prior.rotations, self.start.phase[indices[rows]])
        before = result["misfit"][at]
        fits = found.refined & (found.misfit < before + _MORE) & (found.misfit < _TIMES * before)
        new = found._asdict() | (Strained(*strain.unbind(1))._asdict() if self.strain else {})
        new["rotations"] = torch.cat([found.rotations[:, None], result["rotations"][at, 1:]], dim=1)
        for name, values in new.items():
            taken = values.where(fits.reshape(-1, *(1,) * (values.ndim - 1)), result[name][at])
            result[name] = result[name].index_copy(0, at, taken)
        return result


def tempered(job: Job) -> Job:
    """Do a job that refines, and make the one that refines again, with what the neighbours of each position say."""
    # as it was collected: phases have their numbers in it, which they have not in a map
    first = replace(job, assemble=_collected, record=None).run()
    step, scan = job.step, replace(job.scan, navigation_mask=job.scan.navigation_mask | ~first.done)
    found, phase = first.arrays, np.where(first.done, first.arrays["phase_id"], -1)
    told = told_by_neighbours(
        scan.shape, *(torch.from_numpy(found[name]) for name in ("orientation_error", "thickness", "thickness_error")),
        rotations=torch.from_numpy(found["rotations"][:, 0]), phase=phase, phases=step.phases,
    )  # fmt: skip
    found = found | {"neighbours": told.count}
    start = replace(
        step.start, rotations=found["rotations"], phase=phase, rival=np.full_like(phase, -1),
        properties={name: found[name] for name in (*step.start.properties, "neighbours")},
    )  # fmt: skip
    again = TemperedStep(step, start, found, told)
    settings = job.record.get("settings", {}) | {"neighbours": True}
    return replace(
        job, title=f"{job.title}, with neighbours",
        lines=job.lines | {"Neighbours": f"{(told.count > 0).sum()} positions have enough of their grain"},
        scan=scan, step=again, assemble=replace(job.assemble, properties=sorted(start.properties)),
        # what the first one found follows from the same settings
        settings=[*job.settings, "neighbours"], record=job.record | {"settings": settings},
    )  # fmt: skip


def _collected(found: Collected) -> Collected:
    return found
