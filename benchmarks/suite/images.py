"""Atomic-resolution images: regions by local symmetry, structures and lattices, simulated, at several doses."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from orix.crystal_map import CrystalMap, PhaseList
from orix.quaternion import Rotation
from scipy.ndimage import distance_transform_edt
from scipy.optimize import linear_sum_assignment

from pyxem_dl import data
from pyxem_dl.images import map_lattice, segment_by_symmetry
from pyxem_dl.images.classify import hear_neighbours
from pyxem_dl.models import load_model
from pyxem_dl.models.structure import rotations_of
from pyxem_dl.simulation.windows import WindowSettings, WindowSimulator
from pyxem_dl.training.structures import WindowBatches, structure_scores, validate_structures
from suite.tables import degrees, header, line, percent

#: Electrons per pixel of 0.12 Å
DOSES = (0.5, 2.0, 10.0, 100.0)
# Scenes of each kind, side in pixels, and how far from a boundary a pixel counts
_SCENES, _SIDE, _MARGIN = 20, 384, 10
# Side in Å of images whose windows are heard together, and their distance, which is how far they are heard, too
_IMAGE, _STEP = 22.0, 1.6
# By how many degrees grains of one class are turned against each other at least, and how a class looks the same when it
# is turned by 360 degrees / n
_APART, _FOLD = 10.0, (4, 2, 6, 4, 2, 6, 2, 6, 2, 2)


def scenes(kind: str, counts: float, n: int = _SCENES, seed: int = 0) -> Iterator[data.AtomicGrains]:
    """Draw scenes: "bicrystals", "four grains", or "with vacuum" (three grains, vacuum, and in half of them glass)."""
    classes = data.metal_crystals()
    rng = np.random.default_rng(seed)
    grains = {"bicrystals": 2, "four grains": 4, "with vacuum": 3}[kind]
    for i in range(n):
        while True:
            chosen, angles = rng.integers(0, len(classes), grains), rng.uniform(0, 180, grains)
            if kind == "bicrystals" and i % 2 == 0:
                chosen[:] = chosen[0]
            if _all_differ(chosen, angles):
                break
        more = {"vacuum": True, "amorphous": i % 2 == 1} if kind == "with vacuum" else {}
        yield data.atomic_grains(
            (_SIDE, _SIDE), counts, crystals=[classes[j] for j in chosen], angles=angles.tolist(), seed=1000 * seed + i,
            **more,
        )  # fmt: skip


def _all_differ(chosen, angles) -> bool:
    for i in range(len(chosen)):
        for j in range(i):
            same = chosen[i] == chosen[j] or {int(chosen[i]), int(chosen[j])} == {0, 3}  # two square nets
            period = 360 / _FOLD[chosen[i]]
            apart = (angles[i] - angles[j]) % period
            if same and min(apart, period - apart) < _APART:
                return False
    return True


def share_right(labels: np.ndarray, truth: np.ndarray) -> float:
    """Share of the pixels away from boundaries that are right, with the names of labels that fit best; 0 is 0."""
    edge = np.zeros(truth.shape, bool)
    edge[1:] |= truth[1:] != truth[:-1]
    edge[:, 1:] |= truth[:, 1:] != truth[:, :-1]
    far = distance_transform_edt(~edge) > _MARGIN
    names = [np.unique(x[x > 0]) for x in (truth, labels)]
    counts = np.array([[((truth == a) & (labels == b) & far).sum() for b in names[1]] for a in names[0]])
    right = counts[linear_sum_assignment(-counts)].sum() if counts.size else 0
    return float((right + ((truth == 0) & (labels == 0) & far).sum()) / far.sum())


def measure(device: str, n: int = _SCENES, doses=DOSES) -> Iterator[tuple[str, str, dict]]:
    """Measure scenes of each kind.

    Yields
    ------
    data, label : str
        What was measured.
    numbers : dict
        ``right`` with the number of regions given, ``found`` where it is found, ``number``, the share of scenes where
        that is right, and ``seconds`` of an image.
    """
    for kind in ("bicrystals", "four grains", "with vacuum"):
        for counts in doses:
            right, found, number, seconds = [], [], [], []
            for scene in scenes(kind, counts, n):
                options = {"device": device, "show_progressbar": False, "on_message": lambda line: None}
                start = time.perf_counter()
                auto = segment_by_symmetry(scene.signal, **options).data
                seconds.append(time.perf_counter() - start)
                known = segment_by_symmetry(scene.signal, len(scene.crystals), **options).data
                right.append(share_right(known, scene.labels))
                found.append(share_right(auto, scene.labels))
                number.append(int(auto.max()) == len(scene.crystals))
            yield f"{kind}, {counts:g} electrons per pixel", "segment_by_symmetry", {
                "right": float(np.mean(right)), "found": float(np.mean(found)), "number": float(np.mean(number)),
                "seconds": float(np.median(seconds)),
            }  # fmt: skip


def measure_structures(name: str, device: str, n: int = 1000, doses=DOSES) -> Iterator[tuple[str, str, dict]]:
    """Measure a structure model inside of grains, of its classes and of what is none of them.

    Single windows, and the middles of images of 22 Å whose windows are heard together, as `classify_structure` does.

    Yields
    ------
    data, label : str
        What was measured.
    numbers : dict
        As :func:`pyxem_dl.training.structures.validate_structures` has them.
    """
    model = load_model(name)
    model.to(torch.device("cpu" if device == "auto" else device))
    settings = WindowSettings(second_share=0.0)
    for counts in doses:
        made = WindowBatches(WindowSimulator(model.crystals, settings, seed=77), model.network.grid, 64)
        numbers = validate_structures(model.network, made.make(n, counts=counts))
        yield f"{counts:g} electrons per pixel", f"{model.name}, single windows", numbers
        yield f"{counts:g} electrons per pixel", f"{model.name}, windows with their neighbours", _in_images(
            model, counts, n
        )


def _in_images(model, counts: float, n: int) -> dict[str, float]:
    """Numbers of the windows in the middle of small images of one grain each."""
    simulate = WindowSimulator(model.crystals, WindowSettings(window=_IMAGE, second_share=0.0), seed=78)
    found = []
    for start in range(0, n, 50):
        made = simulate(min(50, n - start), counts=counts)
        for image, pixel, label, angle in zip(made.images, made.pixel.tolist(), made.label, made.angle):
            p, angles = _middle(model, image, pixel)
            found.append((p, angles, label, angle))
    return structure_scores(*(torch.stack(column) for column in zip(*found)), model.network.folds)


def _middle(model, image: torch.Tensor, pixel: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities and angles of the middle window of an image, all of whose windows are heard."""
    away = (len(image) - round(_IMAGE / pixel)) // 2  # what is farther out has no columns
    image = image[away : len(image) - away, away : len(image) - away]
    window = model.network.arguments["window"]
    size, step = int(np.ceil(window / pixel)) + 1, max(1, round(_STEP / pixel))
    windows = image.unfold(0, size, step).unfold(1, size, step)
    rows, columns = windows.shape[:2]
    made = model.predict_batch(windows.reshape(-1, size, size).to(model.device), pixel)
    made = hear_neighbours(made, model.network.folds, (rows, columns), _STEP / (step * pixel))
    middle = (rows // 2) * columns + columns // 2
    return made["probabilities"][middle].cpu(), made["angle"][middle].cpu()


def measure_lattices(device: str, n: int = 1, doses=DOSES) -> Iterator[tuple[str, str, dict]]:
    """Measure the lattices in windows inside of grains of each of the ten classes.

    Yields
    ------
    data, label : str
        What was measured: with a map, whose angles are off by a degree, and without.
    numbers : dict
        Median errors ``turn`` (degrees) and ``area`` (relative, of the square root of the cell's area); ``pull``, the
        errors of the rotation over those that are given; ``mapped``, the share of the windows that has a lattice; and
        ``windows`` a second.
    """
    for counts in doses:
        for with_map in (True, False):
            found = [_lattice_errors(k, seed, counts, with_map, device) for k in range(10) for seed in range(n)]
            turn, area, pull = (np.concatenate([each[i] for each in found]) for i in range(3))
            seconds, windows = (sum(each[i] for each in found) for i in (3, 4))
            yield f"{counts:g} electrons per pixel", "with a map" if with_map else "without a map", {
                "turn": float(np.median(turn)), "area": float(np.median(area)), "pull": float(np.median(pull)) / 0.6745,
                "mapped": len(turn) / windows, "windows": windows / seconds,
            }  # fmt: skip


def _lattice_errors(k: int, seed: int, counts: float, with_map: bool, device: str) -> tuple:
    """Errors of the rotation (degrees), the relative ones of the cell, and pulls; seconds, and number of windows."""
    crystal = data.metal_crystals()[k]
    angle = float(np.random.default_rng(100 * k + seed).uniform(0, 180))
    scene = data.atomic_grains(
        (256, 256), counts, crystals=[crystal], angles=[angle], labels=np.ones((256, 256), int), seed=1000 * seed + k
    )
    options = {"step": 2.4, "device": device, "show_progressbar": False, "on_message": lambda line: None}
    xmap = _true_map(k, angle) if with_map else None
    start = time.perf_counter()
    lattice = map_lattice(scene.signal, xmap, **options)
    seconds, there = time.perf_counter() - start, lattice.crystal >= 0
    period, true = 360 / crystal.fold(), np.sqrt(abs(np.linalg.det(crystal.basis)))
    off = np.abs((lattice.values[3][there] - angle + period / 2) % period - period / 2)
    area = np.abs(np.sqrt(lattice.cell_area.data[there]) / true - 1)
    return off, area, off / lattice.errors[3][there], seconds, lattice.crystal.size


def _true_map(k: int, angle: float, side: int = 256, pixel: float = 0.12) -> CrystalMap:
    """Map that a classification would give of one crystal, with angles that are off by a degree."""
    phases = data.metals()
    phase_id = [0, 0, 0, 1, 1, 1, 1, 2, 2, 2][k]
    y, x = (each.ravel() for each in np.mgrid[51 : side - 51 : 20, 51 : side - 51 : 20] * pixel)
    angles = np.deg2rad(angle + np.random.default_rng(k).normal(0, 1, len(x)))
    rotations = rotations_of(data.metal_crystals()[k].quaternion[None], np.zeros(len(x), int), angles)
    return CrystalMap(
        Rotation(rotations), np.full(len(x), phase_id), x, y, phase_list=PhaseList(phases=phases, ids=[0, 1, 2]),
        scan_unit="Å",
    )  # fmt: skip


def table(rows: list[dict], letter: Callable) -> str:
    """Write the table."""
    lines = [
        "## Atomic-resolution images",
        "",
        f"Regions by local symmetry, in simulated scenes of {_SIDE} × {_SIDE} pixels of 0.12 Å, {_SCENES} of each kind,"
        " of ten classes: bcc 100, 110, 111, fcc 100, 110, 111, 211, hcp 0001, 10-10, 2-1-10. *Right*: pixels more"
        f" than {_MARGIN} px from a boundary with the right label, the number of regions given; *found*: the same, and"
        " their number is found, too; *number*: scenes in which that is right.",
        "",
        *header("scenes", "right", "found", "number", "seconds", "run"),
    ]
    for row in (row for row in rows if "found" in row):
        lines.append(line(
            row["data"], f"{row['right']:.4f}", f"{row['found']:.4f}", percent(row["number"]), f"{row['seconds']:.2f}",
            letter(row),
        ))  # fmt: skip
    lines += [
        "",
        "Structures of windows of 12 Å inside of grains, with scales off by up to 5.5 %, sheared, disordered, by the"
        f" simulation of the training with other seeds: by themselves, and in images of {_IMAGE:g} Å with their"
        " neighbours, as `classify_structure` does by default. *Right*: the right one of ten classes, what"
        " is none of them left aside; *AUROC* of the probability of none; *rejected*: of what is none, where 5 % of the"
        " others are lost; *rotation*: median error; *calibration*: expected error of the probabilities.",
        "",
        *header("dose", "model", "right", "AUROC", "rejected", "rotation", "calibration", "run"),
    ]
    for row in (row for row in rows if "auroc" in row):
        lines.append(line(
            row["data"], row["predictor"], percent(row["right"]), f"{row['auroc']:.3f}", percent(row["rejected"]),
            degrees(row["rotation"]), f"{row['calibration']:.3f}", letter(row),
        ))  # fmt: skip
    lines += [
        "",
        "Lattices of single windows of 12 Å inside of grains of the ten classes, at true scale, their columns displaced"
        " by 0.04 Å. *Rotation* and *√area* (of the cell): median errors; *pull*: errors of the rotation over those"
        " that are given, 1 is as it should be; *mapped*: windows with a lattice. With a map: the phase and zone axis"
        " known, its angle to a degree.",
        "",
        *header("dose", "lattices", "rotation", "√area", "pull", "mapped", "windows/s", "run"),
    ]
    for row in (row for row in rows if "pull" in row):
        lines.append(line(
            row["data"], row["predictor"], f"{row['turn']:.3f}°", f"{100 * row['area']:.2f} %", f"{row['pull']:.2f}",
            percent(row["mapped"]), f"{row['windows']:.0f}", letter(row),
        ))  # fmt: skip
    return "\n".join(lines)
