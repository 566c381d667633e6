"""Windows of atomic-resolution images to train on: projected columns with all that goes wrong with them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from pyxem_dl.checks import drawn_settings
from pyxem_dl.frames import lab_to_image
from pyxem_dl.simulation.columns import ProjectedCrystal, draw_columns

# Å around a window from which columns reach into it
_BEYOND = 2.0
# Å between columns that no probe shows apart
_UNSEEN = 0.45
# Area of a pixel in Å² that counts are given for
_AREA = 0.12**2


@dataclass(frozen=True)
class WindowSettings:
    """What windows look like; pairs are the ends of what is drawn.

    Parameters
    ----------
    window : float
        Side in Å.
    pixel : tuple of float
        Size of the pixels in Å.
    counts : tuple of float
        Electrons on (0.12 Å)², drawn evenly in their logarithm.
    scale_error, shear : tuple of float
        Of the calibration, and of the scan.
    probe : tuple of float
        Standard deviation in Å.
    displaced : tuple of float
        Standard deviation in Å of the places of columns.
    spread : tuple of float
        Relative standard deviation of their weights.
    vacancy_share : float
        Largest share of columns that are missing.
    tails : tuple of float
        Share of the intensity in tails of three times the width.
    background : tuple of float
        Relative to the mean of the columns.
    slope : tuple of float
        Change of thickness over the window, relative.
    jitter : tuple of float
        Standard deviation in Å of the places of rows.
    second_share, other_share, empty_share, fringe_share : float
        Of windows with a second grain, of those that are no class, of these without any crystal, and of the others with
        fringes: a crystal that is seen along no zone axis, of which one family of planes shows.
    """

    window: float = 12.0
    pixel: tuple[float, float] = (0.17, 0.32)
    counts: tuple[float, float] = (0.3, 200.0)
    scale_error: tuple[float, float] = (-0.055, 0.055)
    shear: tuple[float, float] = (-0.03, 0.03)
    probe: tuple[float, float] = (0.3, 0.6)
    displaced: tuple[float, float] = (0.02, 0.14)
    spread: tuple[float, float] = (0.0, 0.15)
    vacancy_share: float = 0.06
    tails: tuple[float, float] = (0.0, 0.3)
    background: tuple[float, float] = (0.02, 1.0)
    slope: tuple[float, float] = (-0.4, 0.4)
    jitter: tuple[float, float] = (0.0, 0.08)
    second_share: float = 0.2
    other_share: float = 0.3
    empty_share: float = 0.25
    fringe_share: float = 0.15

    def __post_init__(self) -> None:
        drawn_settings(self, window=(4, 100), pixel=(0.05, 0.34), counts=(0.01, 1e6), probe=(0.1, 2))


class Windows(NamedTuple):
    """Simulated windows: ``images (n, size, size)``, ``pixel (n,)`` in Å, ``label (n,)``, ``angle (n,)`` in radians."""

    images: torch.Tensor
    pixel: torch.Tensor
    label: torch.Tensor
    angle: torch.Tensor


class WindowSimulator:
    """Makes windows of classes, and of what is none of them.

    Parameters
    ----------
    classes : sequence of ProjectedCrystal
        Crystals along zone axes.
    settings : WindowSettings, optional
        What windows look like.
    seed : int
        Of all that is drawn.
    """

    def __init__(self, classes: list[ProjectedCrystal], settings: WindowSettings | None = None, seed: int = 0) -> None:
        self.classes, self.settings = list(classes), WindowSettings() if settings is None else settings
        self.rng = np.random.default_rng(seed)
        self.size = int(math.ceil(self.settings.window / self.settings.pixel[0])) + 1

    def __call__(self, n: int, counts: float | None = None, label: int | None = None) -> Windows:
        """Make n windows; of given counts or of one class, if these are given."""
        rng, s = self.rng, self.settings
        drawn, pixels, labels, angles = [], rng.uniform(*s.pixel, n), [], []
        for pixel in pixels:
            rows, columns, weights, sigma, which, angle = self._columns(pixel, label)
            drawn.append((rows, columns, weights, sigma))
            labels.append(which)
            angles.append(angle)
        most = max(max(len(each[0]) for each in drawn), 1)
        rows, columns, weights, sigma = (
            torch.tensor(np.stack([_padded(each[i], most, 1.0 if i == 3 else 0.0) for each in drawn])) for i in range(4)
        )
        shape = (self.size, self.size)
        tails = torch.tensor(rng.uniform(*s.tails, (n, 1)), dtype=torch.float32)
        images = draw_columns(rows, columns, weights * (1 - tails), sigma, shape)
        images += draw_columns(rows, columns, weights * tails / 9, 3 * sigma, shape)
        return Windows(self._noisy(images, pixels, counts), torch.tensor(pixels, dtype=torch.float32),
                       torch.tensor(labels), torch.tensor(angles, dtype=torch.float32))  # fmt: skip

    def _noisy(self, images: torch.Tensor, pixels, counts) -> torch.Tensor:
        """Give images a background and a slope, and count electrons."""
        rng, s, n = self.rng, self.settings, len(images)
        level = images.mean((1, 2), keepdim=True)
        even = torch.tensor(rng.uniform(*s.background, (n, 1, 1)), dtype=torch.float32)
        images = images + even * level.clamp_min(1e-3)
        at = torch.linspace(-0.5, 0.5, images.shape[1])
        along = torch.tensor(rng.uniform(*s.slope, (n, 2)), dtype=torch.float32)
        images = images * (1 + along[:, :1, None] * at[:, None] + along[:, 1:, None] * at).clamp_min(0.1)
        dose = np.exp(rng.uniform(*np.log(s.counts), n)) if counts is None else np.full(n, counts)
        mean = torch.tensor(dose * pixels**2 / _AREA, dtype=torch.float32)[:, None, None]
        expected = images * mean / images.mean((1, 2), keepdim=True)
        return torch.poisson(expected, torch.Generator().manual_seed(int(rng.integers(2**31))))

    # ---------------------------------------------------------------- the columns of one window
    def _columns(self, pixel: float, label: int | None):
        """Rows, columns, weights and widths of columns in pixels, and the label and the angle."""
        rng, s, none = self.rng, self.settings, len(self.classes)
        if label is None:
            label = none if rng.random() < s.other_share else int(rng.integers(none))
        angle = rng.uniform(0, 180)
        crystal = self.classes[label] if label < none else self._other()
        places, weights = self._grain(crystal, angle)
        if rng.random() < s.second_share and crystal is not None:
            second = self.classes[rng.integers(none)] if rng.random() < 0.7 else self._other()
            places, weights = self._with_second(places, weights, second)
        sigma = np.full(len(weights), rng.uniform(*s.probe)) * rng.normal(1, 0.03, len(weights)).clip(0.8)
        weights = weights / max(weights.max(), 1e-9) if len(weights) else weights
        rows, columns = lab_to_image(*places.T)
        columns = columns + rng.normal(0, rng.uniform(*s.jitter), 1) * np.sin(rows * rng.uniform(0.2, 3.0))
        middle = (self.size - 1) / 2
        return rows / pixel + middle, columns / pixel + middle, weights, sigma / pixel, label, math.radians(angle)

    def _grain(self, crystal: ProjectedCrystal | None, angle: float):
        """Places and weights of columns, distorted and disordered; the angle of the crystal stays what it is."""
        rng, s = self.rng, self.settings
        radius = s.window / math.sqrt(2) + _BEYOND
        if crystal is None:
            return self._disorder(radius)
        places, weights = crystal.within((0, 0), 1.15 * radius, angle, rng.uniform(-5, 5, 2))
        keep = rng.random(len(weights)) >= rng.uniform(0, s.vacancy_share)
        places, weights = places[keep], weights[keep]
        e = rng.uniform(*s.shear, 2) / 2
        stretch = np.array([[1 + e[0], e[1]], [e[1], 1 - e[0]]]) * (1 + rng.uniform(*s.scale_error))
        places = places @ stretch + rng.normal(0, rng.uniform(*s.displaced), places.shape)
        return places, weights * rng.normal(1, rng.uniform(*s.spread), len(weights)).clip(0.2)

    def _with_second(self, places, weights, second: ProjectedCrystal | None):
        """Put another grain beyond a line that leaves more than half of the window."""
        rng = self.rng
        normal = rng.normal(size=2)
        normal /= np.linalg.norm(normal)
        edge = rng.uniform(0.12, 0.45) * self.settings.window
        other, heavy = self._grain(second, rng.uniform(0, 180))
        mine, theirs = places @ normal < edge, other @ normal >= edge
        ratio = rng.uniform(0.6, 1.6) * max(weights.max(), 1e-9) / max(heavy.max(), 1e-9) if len(heavy) else 1.0
        return np.concatenate([places[mine], other[theirs]]), np.concatenate([weights[mine], ratio * heavy[theirs]])

    def _disorder(self, radius: float):
        """Nothing, or columns without order, that keep some distance or not."""
        rng = self.rng
        if rng.random() < 0.25:
            return np.zeros((0, 2)), np.zeros(0)
        n = rng.poisson(rng.uniform(0.08, 0.5) * (2 * radius) ** 2)
        places, apart = rng.uniform(-radius, radius, (n, 2)), rng.uniform(0, 1.8)
        kept: list = []
        for i, place in enumerate(places):
            if not kept or (np.abs(places[kept] - place).max(1) > apart).all():
                kept.append(i)
        return places[kept], rng.uniform(0.2, 1, len(kept))

    def _other(self) -> ProjectedCrystal | None:
        """Net with any cell and motif that is not nearly a class; None for no crystal."""
        rng = self.rng
        if rng.random() < self.settings.empty_share:
            return None
        if rng.random() < self.settings.fringe_share:
            return self._fringes()
        while True:
            a = rng.uniform(1.2, 4.2)
            b = a * math.exp(rng.uniform(0, 1.1)) if rng.random() < 0.75 else a
            gamma = math.radians(rng.choice([90, 90, 60, 120, rng.uniform(55, 90)]))
            basis = np.array([[a, 0.0], [b * math.cos(gamma), b * math.sin(gamma)]])
            area = np.linalg.det(basis)
            m = 1 if rng.random() < 0.45 else int(rng.integers(2, 6))
            if not 1.6 * m**0.8 < area < 40:
                continue
            places, weights = rng.random((m, 2)), np.exp(rng.uniform(-1.6, 0, m))
            places[0] = 0
            if m > 1 and rng.random() < 0.5:
                places = np.round(places * 12) / 12
            made = ProjectedCrystal("other", (0, 0, 1), np.array([1.0, 0, 0, 0]), basis, places, weights)
            if not any(alike_nets(made, known) for known in self.classes):
                return made

    def _fringes(self) -> ProjectedCrystal:
        """Planes of any spacing, one or two in a period, of columns so near to each other that none is seen."""
        rng = self.rng
        m = 1 if rng.random() < 0.7 else 2
        basis = np.array([[_UNSEEN, 0.0], [rng.uniform(0, _UNSEEN), m * rng.uniform(1.5, 3.6)]])
        places = np.stack([np.zeros(m), np.arange(m) / m + rng.uniform(-0.15, 0.15, m)], 1)
        weights = np.exp(rng.uniform(-1.0, 0, m))
        return ProjectedCrystal("fringes", (0, 0, 1), np.array([1.0, 0, 0, 0]), basis, places, weights)


def _padded(numbers: np.ndarray, n: int, value: float) -> np.ndarray:
    return np.pad(numbers, (0, n - len(numbers)), constant_values=value).astype(np.float32)


def alike_nets(a: ProjectedCrystal, b: ProjectedCrystal, tolerance: float = 0.09) -> bool:
    """Whether two nets with as many columns in a cell have nearly the same cell."""
    if len(a.places) != len(b.places):
        return False
    one, two = (_metric(each.basis) for each in (a, b))
    return bool(np.all(np.abs(one - two) < tolerance * np.array([two[0], two[1], two[0]])))


def _metric(basis: np.ndarray) -> np.ndarray:
    """Lengths of the two shortest vectors, and that of the third one less what it would be for a right angle."""
    vectors = sorted(np.linalg.norm(np.array([[i, j] for i in range(-2, 3) for j in range(-2, 3)]) @ basis, axis=1))
    lengths = [vectors[1], next(v for v in vectors[3:] if v > 0)]
    third = next((v for v in vectors[5:] if v > 0), lengths[1])
    return np.array([*lengths, third])
