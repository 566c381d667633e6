"""Two and three crystals above each other: patterns of single ones are added up, whose orientations are known.

Aluminium and LiNiO2 are the multislice patterns; GaN, hexagonal, and Ga2O3, monoclinic, are Bloch-wave patterns of
orientations and thicknesses drawn here. All patterns scatter as many electrons outside of the direct beam.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffpy.structure import Atom, Lattice, Structure
from orix.crystal_map import Phase

from pyxem_dl.crystals import load_phases
from pyxem_dl.frames import Calibration
from pyxem_dl.orientation import predict_orientation
from pyxem_dl.rotations import random_rotations
from pyxem_dl.scans import make_signal
from pyxem_dl.simulation.bloch_waves import BlochWaves
from pyxem_dl.simulation.detector import draw_spots
from pyxem_dl.symmetry import disorientation_angle, proper_operations
from suite.datasets import SEED, multislice_file, multislice_phase
from suite.tables import header, line, percent

#: Shares of the crystals, the stronger first
SHARES = ((1.0,), (0.9, 0.1), (0.8, 0.2), (0.7, 0.3), (0.6, 0.4), (0.5, 0.5), (0.5, 0.3, 0.2), (0.4, 0.35, 0.25))
#: Electrons outside the direct beam; None: no noise
DOSES = (1e4, None)
# Name: space group, lattice (Å, degrees), asymmetric unit
_SIMULATED = {
    "GaN": (186, (3.19, 3.19, 5.189, 90, 90, 120), [("Ga", (1 / 3, 2 / 3, 0)), ("N", (1 / 3, 2 / 3, 0.377))]),
    "Ga2O3": (12, (12.23, 3.04, 5.80, 90, 103.7, 90), [
        ("Ga", (0.0904, 0, 0.7948)), ("Ga", (0.3414, 0, 0.6857)), ("O", (0.1674, 0, 0.1011)),
        ("O", (0.4957, 0, 0.2553)), ("O", (0.8279, 0, 0.4365))]),
}  # fmt: skip
MATERIALS = ("Al", "LiNiO2", *_SIMULATED)
# kV; Å⁻¹; patterns of a material; thicknesses (Å); radius of the disks (Å⁻¹); electrons of patterns without noise
_ENERGY, _RADIUS, _N, _THICKNESS, _DISK, _PLENTY = 200.0, 1.5, 200, (50.0, 500.0), 0.03, 1e6
# Crystals are further apart than this, and found within that (degrees, modulo 180° about the beam)
_APART, _FOUND = 10.0, 5.0


def measure(models: list[str], folder: Path, device: str, materials=MATERIALS, n: int = _N) -> Iterator:
    """Yield data, method and numbers for each material, dose and share."""
    for name in materials:
        images, rotations, calibration, phase, radius = patterns_of(name, folder, n)
        for dose in DOSES:
            for shares in SHARES:
                patterns, truth = added(images, rotations, calibration, phase, radius, shares, dose, n)
                signal = make_signal(patterns, calibration, name)
                title = f"{name}, {'10⁴ scattered electrons' if dose else 'no noise'}, {_named(shares)}"
                for model in models:
                    predict = partial(predict_orientation, signal, model, phases=phase, device=device)
                    yield title, f"network {Path(model).name}", _numbers(predict, truth, phase)


def _named(shares: tuple[float, ...]) -> str:
    return " : ".join(f"{100 * share:.0f}" for share in sorted(shares)) if len(shares) > 1 else "one crystal"


def patterns_of(name: str, folder: Path, n: int):
    """Patterns without noise, orientations (n, 4), calibration, phase, and radius (px) of the direct beam."""
    if name in _SIMULATED:
        return _simulated(name, n)
    with np.load(multislice_file(folder, name)) as file:
        images, rotations, scale = file["images"].astype(float), file["quat"], float(file["px"])
        center, radius = tuple(map(float, file["centre"])), float(file["disk_radius_px"])
    calibration = Calibration((scale, scale), center, images.shape[1:], _ENERGY)
    return images, rotations, calibration, multislice_phase(folder, name), radius


def _simulated(name: str, n: int):
    group, lattice, unit = _SIMULATED[name]
    structure = Structure([Atom(element, xyz) for element, xyz in unit], Lattice(*lattice))
    (phase,) = load_phases(Phase(name, space_group=group, structure=structure))
    generator = torch.Generator().manual_seed(SEED)
    rotations = random_rotations(n, generator)
    low, high = np.log(_THICKNESS)
    thickness = torch.exp(low + (high - low) * torch.rand(n, 1, generator=generator))
    calibration = Calibration((_RADIUS / 64,) * 2, (64.0, 64.0), (128, 128), _ENERGY)
    waves, images = BlochWaves(phase, _ENERGY, _RADIUS), []
    for part, depth in zip(rotations.split(16), thickness.split(16), strict=True):
        found = waves(part, depth)
        beams = found.chosen
        intensity = found.intensity[:, 0].float() * beams.present
        images.append(draw_spots(beams.kx, beams.ky, intensity, calibration, disk_radius=_DISK, blur=0.6))
    return torch.cat(images).double().numpy(), rotations.numpy(), calibration, phase, _DISK / calibration.scale[0]


def added(images, rotations, calibration: Calibration, phase, radius: float, shares, dose: float | None, n: int):
    """Add up patterns: what a detector counts, and orientations (n, crystals, 4), in the order of the shares."""
    generator = np.random.default_rng(SEED)
    row, column = np.indices(calibration.shape)
    outside = np.hypot(row - calibration.center[0], column - calibration.center[1]) > radius + 1.5
    images = images / images[:, outside].sum(1)[:, None, None]
    quaternions, k = torch.as_tensor(rotations, dtype=torch.float32), len(shares)
    chosen = np.arange(min(n, len(images)))[None]
    if k > 1:
        chosen = generator.integers(len(images), size=(k, 4 * k * n))
        one, other = np.triu_indices(k, 1)
        angle = disorientation_angle(
            quaternions[chosen[one]], quaternions[chosen[other]], proper_operations(phase), modulo_180=True
        )
        chosen = chosen[:, np.flatnonzero((np.degrees(angle.numpy()) > _APART).all(0))[:n]]
    expected = (dose or _PLENTY) * sum(share * images[each] for share, each in zip(shares, chosen, strict=True))
    patterns = generator.poisson(expected) if dose else expected
    return patterns.astype(np.float32), quaternions[chosen].transpose(0, 1)


def _numbers(predict: Callable, truth: torch.Tensor, phase) -> dict:
    start = time.process_time()
    xmap = predict(overlap=True, show_progressbar=False, on_message=lambda line: None)
    cost = 1e3 * (time.process_time() - start) / xmap.size
    found = torch.as_tensor(xmap.rotations.data, dtype=torch.float32)
    there = torch.as_tensor(xmap.prop["share"] > 0)
    angle = disorientation_angle(found[:, :, None], truth[:, None], proper_operations(phase), modulo_180=True)
    right = (torch.rad2deg(angle) < _FOUND) & there[..., None]
    number, all_of_them = there.sum(1), right.any(1).all(1)
    numbers = {
        "n": len(truth), "all": _mean(all_of_them), "stronger": _mean(right[..., 0].any(1)),
        "two": _mean(right.any(1).sum(1) >= min(2, truth.shape[1])),
        "foreign": _mean((there & ~right.any(2)).any(1)), "too_many": _mean(number > truth.shape[1]),
        "too_few": _mean(number < truth.shape[1]), "cost": round(cost, 1),
    }  # fmt: skip
    all_of_them = all_of_them.numpy()
    if truth.shape[1] > 1 and all_of_them.any():
        place = right[..., -1].int().argmax(1).numpy()
        of_weakest = xmap.prop["share"][np.arange(len(place)), place][all_of_them]
        numbers["share"] = [round(float(x), 3) for x in np.quantile(of_weakest, (0.16, 0.5, 0.84))]
    return numbers


def _mean(x: torch.Tensor) -> float:
    return round(float(x.float().mean()), 4)


def table(rows: list[dict], letter: Callable) -> str:
    """Write the table; `letter` names the run of a row."""
    lines = [
        "## Crystals above each other", "",
        f"Patterns of two or three orientations of one crystal, more than {_APART:g}° apart, added up: shares are"
        " of the electrons outside of the direct beam. Multislice patterns of Al and LiNiO₂ (disks of 1.5 mrad),"
        " Bloch-wave patterns of GaN (hexagonal) and Ga₂O₃ (monoclinic; spots). *All*, *two*, *stronger*: so many,"
        f" or the one with the largest share, are found within {_FOUND:g}° modulo 180° about the beam, among the"
        " crystals that are said to be there. *Foreign*: one that is said to be there is none of them. *Too many*,"
        " *too few*: more or fewer are said to be there than there are. *Share*: that of the weakest one where all"
        " are found, the median and between which values two thirds lie. *Cost*: CPU time for a pattern, on a"
        " machine that may be busy. The weights of the evidence were chosen while looking at other sums of the"
        " patterns of Al, LiNiO₂ and GaN, and at others of Mg, ZrO₂, Fe₂O₃, SnO₂ and LiFePO₄. Asked: all in ≥ 80 %"
        " at 30 : 70, too many in ≤ 5 % of single crystals.",
        "",
        *header("data", "model", "n", "all", "two", "stronger", "foreign", "too many", "too few", "share", "cost",
                "run"),
    ]  # fmt: skip
    for row in rows:
        low, middle, high = (f"{100 * x:.0f}" for x in row.get("share", (0, 0, 0)))
        share = f"{middle} % ({low} to {high})" if "share" in row else "–"
        cells = (percent(row[key]) for key in ("all", "two", "stronger", "foreign", "too_many", "too_few"))
        cost = f"{row['cost']:.0f} ms"
        lines.append(line(row["data"], row["predictor"], row["n"], *cells, share, cost, letter(row)))
    return "\n".join(lines)
