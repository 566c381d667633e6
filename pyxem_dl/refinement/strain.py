"""Orientation, thickness and strain of each pattern, in turns."""

from __future__ import annotations

from typing import NamedTuple

import torch

from pyxem_dl.refinement.fitting import Given, Refined, Refiner
from pyxem_dl.refinement.places import Places
from pyxem_dl.rotations import rotate_in_plane

# By so much the misfit may be larger with a strain
_WORSE = 0.5
# A strain whose error is larger is not known, and a larger one is none
_LARGEST_ERROR, _LARGEST = 0.02, 0.1


class Strained(NamedTuple):
    """Strain of patterns.

    ``e_xx``, ``e_yy``, ``e_xy (n,)`` along x and y of the pattern, as of :func:`pyxem_dl.strain.strain_map`, and their
    standard deviations; NaN where they are not known.
    """

    e_xx: torch.Tensor
    e_yy: torch.Tensor
    e_xy: torch.Tensor
    e_xx_error: torch.Tensor
    e_yy_error: torch.Tensor
    e_xy_error: torch.Tensor


def refine_strained(refiner: Refiner, given: Given, rotations: torch.Tensor) -> tuple[Refined, Strained]:
    """Refine orientation and thickness, fit the strain, refine again with it, and fit it again.

    Parameters
    ----------
    refiner : Refiner
        Of the phase.
    given : Given
        Patterns.
    rotations : tensor, shape (n, 4)
        Lab to crystal, to be refined.
    """
    first = refiner.refine(given, rotations, look_far=False)
    places, _ = refiner.places(given, first.rotations, first.thickness)
    stretch, turn, known = _deformed(_unstrained(rotations), places)
    known = known & first.refined
    stretch = stretch.where(known[:, None, None], _unstrained(rotations))
    begin = rotate_in_plane(first.rotations, turn).where(known[:, None], rotations.double())
    with_strain = given._replace(deformation=stretch)
    found = refiner.refine(with_strain, begin)
    # a strain that makes it worse is none
    known = known & found.refined & (found.misfit < first.misfit + _WORSE)
    places, turn_error = refiner.places(with_strain, found.rotations, found.thickness)
    total, turn, plausible = _deformed(stretch, places)
    known = known & plausible
    errors, new_error = _errors(places)
    # a crystal that is not as it should be has not its disks where they should be
    errors = errors * found.misfit.clamp_min(1)[:, None]
    known = known & (errors < _LARGEST_ERROR).all(1)
    strain = torch.stack([total[:, 0, 0] - 1, total[:, 1, 1] - 1, total[:, 0, 1]], dim=1)
    known = known & (strain.abs() < _LARGEST).all(1)
    of_tilt = (torch.deg2rad(found.orientation_error) ** 2 - turn_error**2).clamp_min(0)
    turned = found._replace(
        rotations=rotate_in_plane(found.rotations, turn),
        orientation_error=torch.rad2deg((of_tilt + new_error**2).sqrt()),
    )
    numbers = torch.cat([strain, errors], dim=1).where(known[:, None], torch.nan)
    return turned.where(known, found), Strained(*numbers.unbind(1))


def _unstrained(rotations: torch.Tensor) -> torch.Tensor:
    return torch.eye(3, dtype=torch.float64, device=rotations.device).expand(len(rotations), 3, 3)


def _deformed(before: torch.Tensor, places: Places) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Stretch V (n, 3, 3) and turn Q (n,) in radians of ``F = V Q``, after a further change of places; and if known.

    What is at k in a crystal that is stretched already is seen at (1 + A) k, so that ``F = (1 + A)^-T V``.
    """
    change = torch.eye(2, dtype=torch.float64, device=before.device) + places.numbers[:, :4].unflatten(1, (2, 2))
    gradient = torch.linalg.inv(change).mT @ before[:, :2, :2]
    turn = torch.atan2(gradient[:, 1, 0] - gradient[:, 0, 1], gradient[:, 0, 0] + gradient[:, 1, 1])
    cos, sin = turn.cos(), turn.sin()
    back = torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], -2)
    stretch = before.clone()
    stretch[:, :2, :2] = gradient @ back
    return stretch, turn, places.known & ((change - torch.eye(2).to(change)).abs() < 2 * _LARGEST).all(2).all(1)


def _errors(places: Places) -> tuple[torch.Tensor, torch.Tensor]:
    """Propagate errors, to first order: standard deviations of the strain (n, 3) and of the turn (n,) in radians."""
    to = torch.tensor(
        [[1, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0.5, 0.5, 0, 0, 0], [0, -0.5, 0.5, 0, 0, 0]], dtype=torch.float64
    ).to(places.numbers.device)
    errors = torch.diagonal(to @ places.covariance @ to.T, dim1=1, dim2=2).clamp_min(0).sqrt()
    return errors[:, :3], errors[:, 3]
