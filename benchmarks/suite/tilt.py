"""Tilts of patterns from their disks: multislice patterns whose orientations are known."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from pyxem_dl.crystals import near_ewald_sphere, reflections
from pyxem_dl.electrons import electron_wavelength
from pyxem_dl.rotations import to_matrix, zone_axes
from pyxem_dl.symmetry import proper_operations
from pyxem_dl.template_matching import match_templates
from pyxem_dl.tilt import tilt_map
from suite.datasets import multislice_file, multislice_phase
from suite.disks import bragg_disks
from suite.tables import header, line, percent

#: Electrons per pattern in all
ELECTRONS = 1e5
# A tilt counts as known if its own error (degrees) is below; what is asked
_KNOWN, _ASKED = 1.0, 0.2
# A disk is on a node, or is a reflection, so near to it (Å⁻¹), and is sure enough
_NEAR, _CONFIDENCE = 0.02, 0.3
# Longest period along a zone axis (Å): planes of longer ones lie too near to each other to be told apart
_PERIOD = 30.0


def measure(find: Callable, label: str, folder: Path, device: str) -> Iterator[tuple[str, str, dict]]:
    """Yield data, method and numbers of both materials; `find(signal, probe)` returns vectors, faint ones, too."""
    for name in ("Al", "LiNiO2"):
        disks = bragg_disks(folder, name, ELECTRONS)
        phase = multislice_phase(folder, name)
        with np.load(multislice_file(folder, name, "3mrad")) as file:
            rotations = torch.as_tensor(file["quat"], dtype=torch.float32)
        vectors = find(disks.signal, disks.vacuum)
        of_plane = partial(_of_plane, vectors, phase, rotations)
        of_phase = partial(_of_phase, vectors, phase, rotations, device)
        for method, numbers in (("plane of the disks, any crystal", of_plane), ("known crystal, matched", of_phase)):
            yield disks.title, f"{label}, {method}", numbers()


def _of_plane(vectors, phase, rotations) -> dict:
    """Tilts of the planes that are found, against those planes of the crystal in which their disks lie."""
    start = time.perf_counter()
    found = tilt_map(vectors, show_progressbar=False)
    seconds = time.perf_counter() - start
    truth = np.array([
        _true_tilt(phase, rotation, lattice, table)
        for rotation, lattice, table in zip(rotations, found.lattice, vectors.data, strict=True)
    ])  # fmt: skip
    return _numbers(np.linalg.norm(found.tilt - truth, axis=1), found.error, seconds)


def _of_phase(vectors, phase, rotations, device) -> dict:
    """How far the crystal's direction along the beam is from the true one."""
    start = time.perf_counter()
    xmap = match_templates(vectors, phase, device=device, show_progressbar=False)
    seconds = time.perf_counter() - start
    found = torch.as_tensor(xmap.rotations.data, dtype=torch.float64)
    along = zone_axes(found) @ to_matrix(proper_operations(phase).double()).mT
    cosine = (along * zone_axes(rotations.double())).sum(-1).abs().amax(0)
    angle = np.degrees(np.arccos(cosine.clamp_max(1).numpy()))
    return _numbers(np.where(xmap.phase_id >= 0, angle, np.nan), np.where(xmap.phase_id >= 0, 0.0, np.nan), seconds)


def _numbers(angle, error, seconds: float) -> dict:
    """Of all patterns, and of those whose tilt is known; an answer without a true plane counts as wrong."""
    answered, known = np.isfinite(error), error < _KNOWN
    angle = np.where(np.isfinite(angle), angle, 90.0)

    def of(here):
        share, median = ((angle[here] <= _ASKED).mean(), np.median(angle[here])) if here.any() else (0.0, np.nan)
        return {"n": int(here.sum()), "within": round(float(share), 4), "median": round(float(median), 3)}

    return {
        "n": len(angle), "answered": of(answered), "known": of(known),
        "patterns_per_second": round(len(angle) / seconds, 1),
    }  # fmt: skip


def _true_tilt(phase, rotation, lattice, table) -> np.ndarray:
    """Where the axis leans (degrees) of the zone in which the disks on a lattice are; NaN if they are in none."""
    nothing = np.full(2, np.nan)
    if not np.isfinite(lattice).all():
        return nothing
    k = np.stack([table[:, 1], -table[:, 0]], 1)
    index = np.round(k @ np.linalg.inv(lattice))
    on = (np.linalg.norm(k - index @ lattice, axis=1) < _NEAR) & index.any(1) & (table[:, 3] > _CONFIDENCE)
    every = reflections(phase, 1.6)
    lab, error, near = (x[0] for x in near_ewald_sphere(every.g, rotation[None], electron_wavelength(200.0), 0.12))
    lab, error, hkl = lab[near].numpy(), error[near].numpy(), every.hkl[near.numpy()]
    away = np.linalg.norm(k[on][:, None] - lab[None, :, :2], axis=-1)
    nearest = (away + 0.05 * np.abs(error)).argmin(1)
    hkl = hkl[nearest[away[np.arange(len(away)), nearest] < 1.5 * _NEAR]]
    zones, length = _zones(phase.structure.lattice)
    inside = hkl @ zones.T == 0
    order = np.argsort(length / 1e3 - inside.sum(0), kind="stable")
    for zone in order[:80]:
        if inside[:, zone].sum() >= 3 and np.linalg.matrix_rank(hkl[inside[:, zone]]) == 2:
            axis = to_matrix(rotation.double()).mT.numpy() @ (zones[zone] @ phase.structure.lattice.base)
            axis *= np.sign(axis[2]) / np.linalg.norm(axis)
            return np.degrees(axis[:2])
    return nothing


def _zones(lattice) -> tuple[np.ndarray, np.ndarray]:
    """List indices [uvw] of zone axes, and their periods in Å."""
    limits = (np.floor(_PERIOD * np.linalg.norm(lattice.recbase, axis=0))).astype(int)
    zones = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in limits), indexing="ij"), -1).reshape(-1, 3)
    zones = zones[np.gcd.reduce(zones, axis=1) == 1]
    length = np.linalg.norm(zones @ lattice.base, axis=1)
    return zones[length <= _PERIOD], length[length <= _PERIOD]


def table(rows: list[dict], letter: Callable) -> str:
    """Write the table; `letter` names the run of a row."""
    lines = [
        "## Tilt from disks", "",
        f"Multislice patterns of 40 orientations, 3 mrad, 10⁵ electrons (asked on Al: ≤ {_ASKED}°). Of planes: the tilt"
        " of the zone axis whose plane the disks are found on, without the crystal, from positions and intensities;"
        f" known: with an error of its own below {_KNOWN:g}°. Of a known crystal: the direction along the beam of the"
        " orientation that the vectors are matched with. Random orientations are seldom near a zone axis: often no"
        " plane has more than a few disks. How planes are found was developed on these very patterns: the numbers"
        " without a crystal are a little too good.",
        "",
        *header("data", "method", "n", *(f"{kind}{what}" for kind in ("answered", "known") for what in (
            "", f", within {_ASKED}°", ", median")), "patterns/s", "run"),
    ]  # fmt: skip
    for row in rows:
        cells = [x for kind in ("answered", "known") for x in (
            row[kind]["n"], percent(row[kind]["within"]), f"{row[kind]['median']:.2f}°"
        )]  # fmt: skip
        lines.append(line(
            row["data"], row["predictor"], row["n"], *cells, f"{row['patterns_per_second']:.0f}", letter(row)
        ))  # fmt: skip
    return "\n".join(lines)
