"""Boundaries between the grains of a map: where they are, how far both sides are turned, and which are twins."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from pyxem_dl.microstructure.beliefs import half_turn
from pyxem_dl.rotations import conjugate, from_matrix, logarithm, multiply
from pyxem_dl.symmetry import disorientation_angle, laue_group, proper_operations, setting

#: Degrees that a boundary may be off and still be Σ3, by D. G. Brandon (Acta Metallurgica 14, 1966, 1479): 15° / √3
BRANDON = 15 / math.sqrt(3)
_CUBIC = ("m-3", "m-3m")
#: How kinds of boundaries are called
SIGMA_3, HALF_TURN, GENERAL, PHASES = "Σ3", "half-turn", "general", "phases"


class Boundaries(NamedTuple):
    """Pairs of neighbouring positions that belong to different grains; arrays, one entry for each of b pairs.

    ``positions (b, 2)``, numbers among the points in the map's data; ``grains (b, 2)``, those that they belong to;
    ``angle (b,)``, disorientation in degrees, NaN between phases; ``axis (b, 3)``, about which the second crystal is
    turned against the first: a unit vector in the crystal's Cartesian frame, of all that are alike by the Laue group
    that in orix' fundamental sector, NaN between phases; ``length (b,)``, of the piece between the two positions, in
    the map's unit; ``sigma_3 (b,)``, turned by 60° about ⟨111⟩ of a cubic crystal, within Brandon's 8.7°;
    ``half_turn (b,)``, within the threshold of grains turned by 180° about the beam: what a pattern of zero-order
    reflections does not tell from no boundary at all.
    """

    positions: np.ndarray
    grains: np.ndarray
    angle: np.ndarray
    axis: np.ndarray
    length: np.ndarray
    sigma_3: np.ndarray
    half_turn: np.ndarray

    @property
    def kind(self) -> np.ndarray:
        """Name of each: "Σ3", "half-turn" (Σ3 if it is both), "phases" between two phases, or "general"."""
        kind = np.where(self.half_turn, HALF_TURN, GENERAL)
        return np.where(np.isnan(self.angle), PHASES, np.where(self.sigma_3, SIGMA_3, kind))

    def share(self, which: np.ndarray) -> float:
        """Share of the whole length that some of them have; 0 where there are no boundaries."""
        total = self.length.sum()
        return float(self.length[which].sum() / total) if total else 0.0


def find_boundaries(label, phase_id, phases: dict, quaternions, near, steps, threshold: float) -> Boundaries:
    """Find the boundaries.

    Parameters
    ----------
    label, phase_id : array of int, shape (n,)
        Grain and phase of each position, -1 for none.
    phases : dict of int to orix.crystal_map.Phase
        By their numbers.
    quaternions : array, shape (n, 4)
        Orientations, lab to crystal.
    near : Neighbourhood
        Of the positions.
    steps : (float, float)
        Of the scan, along x and y.
    threshold : float
        In degrees.
    """
    pairs = []
    # a pair beside each other has a piece of boundary as long as a step in the other direction
    for (here, there, _), length in zip(near.pairs(((0, 1), (1, 0))), steps[::-1], strict=True):
        differ = (label[here] != label[there]) & (label[here] >= 0) & (label[there] >= 0)
        pairs.append((here[differ], there[differ], np.full(int(differ.sum()), length)))
    here, there, length = (np.concatenate(column) for column in zip(*pairs, strict=True))
    angle, axis = np.full(len(here), np.nan), np.full((len(here), 3), np.nan)
    sigma_3, turned = np.zeros(len(here), dtype=bool), np.zeros(len(here), dtype=bool)
    q = torch.as_tensor(quaternions, dtype=torch.float64)
    for key, phase in phases.items():
        k = np.flatnonzero((phase_id[here] == key) & (phase_id[there] == key))
        if not len(k):
            continue
        a, b, operations = q[here[k]], q[there[k]], proper_operations(phase).double()
        between, angle[k] = _smallest(a, b, operations)
        axis[k] = _in_sector(between, phase)
        sigma_3[k] = _is_sigma_3(between, operations, phase)
        across = disorientation_angle(a, half_turn(b), operations)
        turned[k] = np.rad2deg(across.numpy()) < threshold
    turned &= angle >= threshold
    positions = np.stack([here, there], axis=1)
    return Boundaries(positions, label[positions], angle, axis, length, sigma_3, turned)


def _smallest(a, b, operations) -> tuple[torch.Tensor, np.ndarray]:
    """Take the smallest of the turns (n, 4) from crystal a to b that are alike, and its angle in degrees."""
    alike = multiply(multiply(operations, b[:, None]), conjugate(a)[:, None])
    best = alike[..., 0].abs().argmax(1)
    found = alike[torch.arange(len(a)), best]
    return found, np.rad2deg(2 * torch.acos(found[:, 0].abs().clamp_max(1)).numpy())


def _in_sector(turns: torch.Tensor, phase) -> np.ndarray:
    """Axes (n, 3) of turns, in the fundamental sector of the phase's Laue group."""
    from orix.quaternion import Rotation
    from orix.vector import Vector3d

    vector = logarithm(torch.where(turns[:, :1] < 0, -turns, turns))
    axis = torch.nn.functional.normalize(vector, dim=-1).numpy()
    # to the axes that orix takes for the Laue group, and back
    own = Rotation(setting(phase).numpy())
    return (own * (~own * Vector3d(axis)).in_fundamental_sector(laue_group(phase))).data


def _is_sigma_3(turns: torch.Tensor, operations: torch.Tensor, phase) -> np.ndarray:
    """Whether the turns between two cubic crystals are near to 60° about ⟨111⟩."""
    if laue_group(phase).name not in _CUBIC:
        return np.zeros(len(turns), dtype=bool)
    if laue_group(phase).name == "m-3":  # the lattice has all the turns of a cube
        quarter = from_matrix(torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=torch.float64))
        operations = torch.cat([operations, multiply(operations, quarter)])
    twin = torch.tensor([math.cos(math.pi / 6), *[math.sin(math.pi / 6) / math.sqrt(3)] * 3], dtype=torch.float64)
    # what is alike on both sides: an operation before it, and one after it
    twins = multiply(multiply(operations[:, None], twin), operations[None]).flatten(0, 1)
    return ((turns @ twins.T).abs().amax(1) > math.cos(math.radians(BRANDON) / 2)).numpy()
