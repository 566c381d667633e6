"""Regions of an image: which descriptors belong together, and how many kinds of them there are.

Many clusters are made first, and then fewer: a cluster without a core (all its places lie near other ones) is a
boundary or chance; two clusters that are not separated in the middle of what they cover, or not in both of two halves
of the shifts, or by no more than their noise, are one.  What is left is periodic, or it is label 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch.nn import functional

from pyxem_dl.images.symmetry import Grid

# Principal components; clusters in the beginning
_COMPONENTS, _CLUSTERS = 12, 12
# In windows: radius of the core that a region has at least, before and after its boundary is refined; and how deep
# inside of it a place is certainly its own
_CORE, _REFINED_CORE, _DEEP = 0.44, 0.3, 0.4
# Two clusters are two: distance in standard deviations; correlation between two halves of the shifts; distance² in what
# the noise of both makes of it
_SEPARATION, _AGREEMENT, _SIGNIFICANCE = 5.0, 0.5, 3.0
# Share of the difference between two clusters that there is across their boundary at least; and how many places, in
# cells of a window, must lie beside it
_JUMP, _FEW_NEAR = 0.63, 0.7
# Places by which clusters are found and judged; every third of them tells whether two halves of the shifts agree
_ENOUGH, _EVERY = 12_000, 3
# Something periodic: share of its descriptors' variance that all of its places have in common; variance, and the second
# highest peaks, of the mean descriptor, in units of the image's own signal
_COMMON, _COMMON_OF_FEW, _VARIANCE, _PEAK = 0.06, 0.15, 0.02, 0.33
# Share of these from which on something may be periodic
_DOUBTFUL = 0.5
# Windows that lie apart from each other, from which on a cluster's scatter is its own
_FEW_WINDOWS = 3.0
# Å from which on a shift tells of order; and from the line through the middle along which an edge makes a ridge
_FAR, _RIDGE = 2.0, 1.2
# Share of the window below which what is periodic does not count: at a boundary, correlations across it are lost
_LEAST_SHARE = 0.38
# Share in the window below which there is nothing, and half the width that this has at least, in windows; and how many
# standard deviations it is below 1 at least, where it is noisy
_NOTHING, _THICK, _SURELY = 0.2, 0.2, 3.0
# Share of the highest correlation that another shift of the lattice has at least
_NEARLY = 0.85
# Standard deviation of the shares up to which the small window is used
_NOISY = 0.2


@dataclass(frozen=True, eq=False)
class Regions:
    """Kinds of regions, by which every frame of a series is divided.

    Parameters
    ----------
    window, small_window : float
        In Å.
    centers : tensor, shape (k, p)
        Of the clusters, in principal components.
    mean : tensor, shape (shifts,)
        Of all descriptors.
    components : tensor, shape (shifts, p)
        Principal components.
    periodic : tensor of int, shape (n,)
        Clusters that are regions 1, 2, ...
    kinds : tensor, shape (n, p)
        Their descriptors, in components without a mean.
    metric : tensor, shape (p, p)
        By which components are weighted.
    small : tensor of bool, shape (n,)
        Whether the boundary of a region is found with the small window.
    noise : tensor, shape (n,)
        Standard deviation, inside of a region, of the share of the window that is of its kind.
    spacings : tuple of float
        Å after which the image repeats itself in each.
    """

    window: float
    small_window: float
    centers: torch.Tensor
    mean: torch.Tensor
    components: torch.Tensor
    periodic: torch.Tensor
    kinds: torch.Tensor
    metric: torch.Tensor
    small: torch.Tensor
    noise: torch.Tensor
    spacings: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.periodic)

    def to(self, device: torch.device) -> Regions:
        """Move it to a device."""
        moved = {name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in vars(self).items()}
        return Regions(**moved)

    def shares(self, wide: torch.Tensor, narrow: torch.Tensor, grid: Grid) -> torch.Tensor:
        """Say how much of the window at each place is of each kind.

        Parameters
        ----------
        wide, narrow : tensor, shape (shifts, rows, columns)
            Correlations in the window and in the small one.

        Returns
        -------
        tensor, shape (n + 1, rows, columns)
            First what is of none; they add up to 1.
        """
        shape = wide.shape[1:]
        wide, narrow = wide.flatten(1).T, narrow.flatten(1).T
        if not len(self):
            return wide.new_ones(1, *shape)
        nearest = torch.cdist((wide - self.mean) @ self.components, self.centers).argmin(1).view(shape)
        own = torch.stack([nearest == i for i in self.periodic.tolist()]).float()
        reach = int(grid.cells_of(self.window / 2))
        nearby = _grown(own, reach).flatten(1).T
        kinds = self.kinds @ self.metric
        found = [unmixed(x @ self.components @ self.metric, kinds, nearby) for x in (wide, narrow)]
        together = found[0].sum(1)
        small = (found[0] * self.small).sum(1) > 0.5 * together
        shares = torch.where(small[:, None], found[1], found[0])
        # between two crystals correlations are lost, too: there is nothing only where there is nothing in some width
        least = ((1 - _SURELY * self.noise).clamp_max(_NOTHING)[:, None, None] * own).sum(0)
        nothing = ((own.sum(0) == 0) | (together.view(shape) < least)).float()[None]
        thick = int(_THICK * grid.cells_of(self.window))
        empty = _grown(1 - _grown(1 - nothing, thick), thick + reach)[0].flatten() > 0
        total = shares.sum(1, keepdim=True)
        # where noise leaves nothing of any kind, but something is there, it is what is nearest
        all_of_it = torch.where(total > 1e-3, shares / total.clamp_min(1e-3), own.flatten(1).T)
        shares = torch.where(empty[:, None], shares, all_of_it)
        return torch.cat([1 - shares.sum(1, keepdim=True), shares], 1).T.reshape(-1, *shape)


def _grown(masks: torch.Tensor, reach: int) -> torch.Tensor:
    """Masks (n, rows, columns) of 0 and 1, wider by so many cells to all sides."""
    return functional.max_pool2d(masks[None], 2 * reach + 1, stride=1, padding=reach)[0]


def labels_of(shares: torch.Tensor) -> torch.Tensor:
    """Labels (rows, columns) of shares (n + 1, rows, columns): the largest, or 0 where all together are too small."""
    if len(shares) == 1:
        return shares.new_zeros(shares.shape[1:], dtype=torch.int64)
    return torch.where(shares[0] > 1 - _LEAST_SHARE, 0, shares[1:].argmax(0) + 1)


def unmixed(x: torch.Tensor, kinds: torch.Tensor, allowed: torch.Tensor, steps: int = 60) -> torch.Tensor:
    """Shares (n, k), not negative and together at most 1, with which the kinds come nearest to descriptors.

    Parameters
    ----------
    x : tensor, shape (n, p)
        Descriptors.
    kinds : tensor, shape (k, p)
        What they are made of.
    allowed : tensor of 0 and 1, shape (n, k)
        Which kinds are near.
    """
    product, b = kinds @ kinds.T, x @ kinds.T
    length = float(torch.linalg.eigvalsh(product.double().cpu())[-1])
    shares = before = allowed / allowed.sum(1, keepdim=True).clamp_min(1) / 2
    ahead, t = shares, 1.0
    for _ in range(steps):  # Nesterov's accelerated gradient
        shares = ((ahead - (ahead @ product - b) / length).clamp_min(0)) * allowed
        shares = torch.where(shares.sum(1, keepdim=True) > 1, _onto_simplex(shares), shares)
        t, last = (1 + (1 + 4 * t * t) ** 0.5) / 2, t
        ahead, before = shares + (last - 1) / t * (shares - before), shares
    return shares


def _onto_simplex(v: torch.Tensor) -> torch.Tensor:
    """Nearest rows that are not negative and add up to 1."""
    falling = v.sort(dim=1, descending=True).values
    over = (falling.cumsum(1) - 1) / torch.arange(1, v.shape[1] + 1, dtype=v.dtype, device=v.device)
    last = ((falling > over).sum(1, keepdim=True) - 1).clamp_min(0)
    return (v - over.gather(1, last)).clamp_min(0)


# ---------------------------------------------------------------- finding them
class Some(NamedTuple):
    """Descriptors of some of the places: in the windows, in the small ones, share of signal, principal components."""

    places: np.ndarray
    wide: np.ndarray
    narrow: np.ndarray
    share: np.ndarray
    x: np.ndarray


class Descriptors:
    """Descriptors of some frames, with what clustering needs of them.

    Parameters
    ----------
    wide, narrow : array, shape (frames, operations, rows, columns)
        In the window and in the small one; shifts first.
    share : array, shape (frames, rows, columns)
        Of signal in the variance.
    grid : Grid
        Of the frames.
    """

    def __init__(self, wide: np.ndarray, narrow: np.ndarray, share: np.ndarray, grid: Grid) -> None:
        self.grid, self.shape = grid, share.shape
        n = wide.shape[1]
        self.wide, self.narrow = wide, narrow
        places = np.linspace(0, share.size - 1, min(share.size, _ENOUGH)).astype(int)
        frame, rest = np.divmod(places, share[0].size)
        wide_some, narrow_some = (x.reshape(len(x), n, -1)[frame, :, rest] for x in (wide, narrow))
        self.mean = wide_some.mean(0)
        _, vectors = np.linalg.eigh(np.cov(wide_some.T))
        self.components = np.ascontiguousarray(vectors[:, ::-1][:, :_COMPONENTS], dtype=np.float32)
        flat = np.tensordot(wide.reshape(len(wide), n, -1), self.components, (1, 0)).reshape(-1, _COMPONENTS)
        self.x = flat - self.mean @ self.components
        self.some = Some(places, wide_some, narrow_some, share.reshape(-1)[places], self.x[places])
        self.window = grid.cells_of(grid.window)
        shifts = np.array(grid.shifts)
        half = (shifts.sum(1) // np.gcd.reduce(shifts.ravel())) % 2 == 0
        # rotations and reflections follow, every second one in each half
        self.half = np.concatenate([half, np.arange(n - len(half)) % 2 == 0])
        # at the border of an image windows are cut, and descriptors differ: no strip along it is a region
        self.beyond = int(self.window / 4)
        # a triangle's windows are independent where they are 3/4 of its base apart
        self.independent = (0.75 * self.window) ** 2

    def nearest(self, centers: np.ndarray) -> np.ndarray:
        """Which center each descriptor is nearest to."""
        return _squared(self.x, centers).argmin(1)

    def depths(self, labels: np.ndarray, k: int) -> np.ndarray:
        """How far inside of its cluster each place lies, (k, n) in cells; a cluster ends beyond the image's border."""
        frames = labels.reshape(self.shape)
        return np.array([
            np.concatenate([_depth(frame == i, self.beyond).reshape(-1) for frame in frames]) for i in range(k)
        ])  # fmt: skip

    def deep(self, depth: np.ndarray) -> np.ndarray:
        """Places that are certainly a cluster's own."""
        return depth >= max(1.0, min(_DEEP * self.window, 0.6 * depth.max()))


def _depth(inside: np.ndarray, beyond: int) -> np.ndarray:
    """Distance in cells to what is not inside; an image goes on for some cells beyond its border."""
    wide = np.pad(np.pad(inside, beyond, mode="edge"), 1)
    return distance_transform_edt(wide)[beyond + 1 : -beyond - 1, beyond + 1 : -beyond - 1]


def _squared(x: np.ndarray, centers: np.ndarray) -> np.ndarray:
    return (x * x).sum(1)[:, None] - 2 * x @ centers.T + (centers * centers).sum(1)


def find_regions(found: Descriptors, n_regions: int | None, seed: int) -> Regions:
    """Find the kinds of regions.

    Parameters
    ----------
    found : Descriptors
        Of some frames.
    n_regions : int, optional
        How many are periodic; by default as many as there are.
    seed : int
        Of the first clusters.
    """
    centers = _first_centers(found, max(_CLUSTERS, 2 * (n_regions or 0)), np.random.default_rng(seed))
    clusters = _Clusters(found, centers)
    regions = _fewer(clusters, None)
    if n_regions is None or len(regions) == n_regions:
        return regions
    doubtful = clusters.regions(n_regions)
    if len(doubtful) == n_regions > len(regions):
        return doubtful
    # with a number, clusters are kept until there are so many; or merged until there are no more
    return _fewer(_Clusters(found, centers), n_regions)


def _fewer(clusters: _Clusters, n_regions: int | None) -> Regions:
    """Remove clusters until all of them are right, or as many as are wanted."""
    while (worst := clusters.superfluous(n_regions)) is not None:
        clusters.remove(*worst)
    while True:
        regions = clusters.regions(n_regions)
        thin = clusters.thin(regions) if n_regions is None else None
        if thin is None:
            return regions
        clusters.remove(thin)


def _first_centers(found: Descriptors, k: int, rng, steps: int = 12) -> np.ndarray:
    """Centers by k-means, the better of two tries."""
    x = found.some.x
    k = min(k, len(x))
    best = None
    for _ in range(2):
        centers = x[rng.integers(len(x))][None]
        while len(centers) < k:
            distance = _squared(x, centers).min(1).clip(1e-12)
            centers = np.concatenate([centers, x[rng.choice(len(x), p=distance / distance.sum())][None]])
        centers = moved_centers(x, centers, steps)
        cost = _squared(x, centers).min(1).sum()
        if best is None or cost < best[0]:
            best = cost, centers
    return best[1]


def moved_centers(x: np.ndarray, centers: np.ndarray, steps: int = 20) -> np.ndarray:
    """Move centers to the means of what is nearest to them (Lloyd)."""
    for _ in range(steps):
        labels = _squared(x, centers).argmin(1)
        counts = np.bincount(labels, minlength=len(centers))
        sums = np.stack([np.bincount(labels, column, len(centers)) for column in x.T], 1)
        new = np.where(counts[:, None] > 0, sums / counts.clip(1)[:, None], centers)
        if np.allclose(new, centers, atol=1e-5):
            break
        centers = new
    return centers


class _Clusters:
    """Clusters that become fewer."""

    def __init__(self, found: Descriptors, centers: np.ndarray) -> None:
        self.found, self.centers = found, centers
        self._settle()

    def _settle(self) -> None:
        """Find what belongs to each center."""
        found = self.found
        self.centers = moved_centers(found.some.x, self.centers)
        self.labels = found.nearest(self.centers)
        self.depth = found.depths(self.labels, len(self.centers))
        deep = np.array([found.deep(depth) for depth in self.depth])
        self.n = np.maximum(1.0, deep.sum(1) / found.independent)
        # what follows is told by some of the places
        self.own = self.labels[found.some.places] == np.arange(len(self.centers))[:, None]
        self.deep = deep[:, found.some.places]
        for i in np.flatnonzero(~self.deep.any(1)):
            self.deep[i] = self.own[i]
        middle = [found.some.wide[deep] if deep.any() else found.some.wide[:1] for deep in self.deep]
        self.kinds = np.array([x.mean(0) for x in middle])
        self.scatter, self.scatter_of_shifts = (
            self._at_least_common(np.array([x[:, :n].var(0).sum() for x in middle]))
            for n in (None, len(found.grid.shifts))
        )  # fmt: skip

    def _at_least_common(self, scatter: np.ndarray) -> np.ndarray:
        """Scatter of clusters, which is not less than that of the widest one.

        Places of a cluster that holds hardly more than one window are nearly the same, noise and all.
        """
        return np.maximum(scatter, scatter[self.n.argmax()] * (self.n < _FEW_WINDOWS))

    def remove(self, i: int, into: int | None = None) -> None:
        """Remove a cluster, or make one of two."""
        if into is None:
            self.centers = np.delete(self.centers, i, 0)
        else:
            weights = [self.deep[j].sum() for j in (i, into)]
            middle = np.average([self.found.some.x[self.deep[j]].mean(0) for j in (i, into)], axis=0, weights=weights)
            self.centers = np.concatenate([np.delete(self.centers, [i, into], 0), middle[None]])
        self._settle()

    def superfluous(self, n_regions: int | None) -> tuple | None:
        """Cluster that is none, or two that are one; None where all are right, or as many as are wanted."""
        if len(self.centers) == 1:
            return None
        if n_regions is not None and self.is_periodic().sum() <= n_regions:
            return None
        cores = self.depth.max(1)
        if cores.min() < _CORE * self.found.window:
            return (int(cores.argmin()),)
        k = len(self.centers)
        pairs = [(self._apart(i, j), i, j) for i in range(k) for j in range(i)]
        apart, i, j = min(pairs)
        if apart >= 1 and n_regions is None:
            periodic = self.is_periodic()
            jumps = [(self._jump(i, j) / _JUMP, i, j) for _, i, j in pairs if periodic[i] and periodic[j]]
            apart, i, j = min([*jumps, (1.0, i, j)])
        return (i, j) if apart < 1 or n_regions is not None else None

    def _jump(self, i: int, j: int) -> float:
        """Share of the difference of two clusters that there is across their common boundary; 1 where there is none.

        Across a grain boundary it is nearly all; where a crystal is bent it is little.
        """
        found, shape = self.found, self.found.shape
        near = []
        # where a third one is near, too, there is no telling
        frames = np.isin(self.labels, (i, j)).reshape(shape)
        alone = np.concatenate([_depth(frame, found.beyond).reshape(-1) for frame in frames]) > 0.15 * found.window
        for one, other in ((i, j), (j, i)):
            away = [distance_transform_edt(frame != other) if (frame == other).any() else np.full(shape[1:], np.inf)
                    for frame in self.labels.reshape(shape)]  # fmt: skip
            away = np.concatenate([each.reshape(-1) for each in away]) / found.window
            near.append((self.labels == one) & alone & (away > 0.4) & (away < 0.65))
        if min(each.sum() for each in near) < _FEW_NEAR * found.window:
            return 1.0
        middles = [found.some.x[self.deep[each]].mean(0) for each in (i, j)]
        across = middles[0] - middles[1]
        steps = [found.x[each].mean(0) for each in near]
        return float((steps[0] - steps[1]) @ across / (across @ across))

    def _apart(self, i: int, j: int) -> float:
        """How surely two clusters are two: above 1 they are."""
        some = self.found.some
        a, b = (some.x[self.deep[each]] for each in (i, j))
        across = a.mean(0) - b.mean(0)
        length = np.linalg.norm(across) + 1e-12
        spread = np.sqrt(0.5 * ((a @ across).var() + (b @ across).var())) / length
        separation = length / (spread + 1e-12)
        difference = self.kinds[i] - self.kinds[j]
        both = some.wide[np.flatnonzero(self.own[i] | self.own[j])[:: _EVERY]]
        halves = [both[:, half] @ difference[half] for half in (self.found.half, ~self.found.half)]
        agreement = np.corrcoef(halves)[0, 1] if min(half.std() for half in halves) > 0 else 0.0
        noise = self.scatter[i] / self.n[i] + self.scatter[j] / self.n[j]
        significance = (difference**2).sum() / (noise + 1e-12)
        return min(separation / _SEPARATION, agreement / _AGREEMENT, significance / _SIGNIFICANCE)

    def is_periodic(self) -> np.ndarray:
        """Which clusters are something periodic."""
        return self.periodicity() >= 1

    def periodicity(self) -> np.ndarray:
        """How surely clusters are something periodic: from 1 on they are."""
        return np.array([self._periodicity(i) for i in range(len(self.centers))])

    def _periodicity(self, i: int) -> float:
        found, deep, lengths = self.found, self.deep[i], self.found.grid.lengths.numpy()
        if not deep.any():
            return 0.0
        kind = self.kinds[i][: len(lengths)]
        far = lengths > min(_FAR, 0.6 * lengths.max())
        ring = (lengths[far] / 0.5).astype(int)
        means = np.bincount(ring, kind[far]) / np.bincount(ring).clip(1)
        variance = ((kind[far] - means[ring]) ** 2).mean() - self.scatter_of_shifts[i] / len(kind) / self.n[i]
        share = max(float(found.some.share[deep].mean()), 1e-3)
        common = variance / (found.some.wide[deep][:, : len(far)][:, far] ** 2).mean()
        return float(min(
            common / max(_COMMON, min(_COMMON_OF_FEW, 0.4 / self.n[i])), variance / (_VARIANCE * share**2),
            _second_peak(kind, found.grid) / (_PEAK * share),
        ))  # fmt: skip

    def regions(self, n_regions: int | None) -> Regions:
        """Make the regions of what is left, the largest first."""
        found = self.found
        surely = self.periodicity()
        # with a number, what is doubtful counts, too, the surest first
        least = 1.0 if n_regions is None else np.sort(surely)[::-1][: n_regions][-1].clip(_DOUBTFUL, 1)
        periodic = np.flatnonzero(surely >= least)
        sizes = np.bincount(self.labels, minlength=len(self.centers))
        periodic = periodic[np.argsort(-sizes[periodic], kind="stable")][:n_regions]
        kinds = self.kinds[periodic] @ found.components
        metric = self._metric()
        strength = (self.kinds[periodic] ** 2).sum(1)
        small = np.array([found.some.narrow[self.deep[i]].var(0).mean() for i in periodic]) < _NOISY**2 * strength
        weighted = kinds @ metric
        along = [(weighted[n] / (weighted[n] @ weighted[n])) @ (found.components @ metric).T for n in range(len(kinds))]
        noise = np.array([(found.some.wide[self.own[i]] @ x).std() for i, x in zip(periodic, along)])
        tensors = self.centers, found.mean, found.components, kinds, metric, noise
        centers, mean, components, kinds, metric, noise = (torch.as_tensor(x, dtype=torch.float32) for x in tensors)
        return Regions(
            found.grid.window, found.grid.window / 2, centers, mean, components, torch.as_tensor(periodic), kinds,
            metric, torch.as_tensor(small), noise, tuple(self._spacing(i) for i in periodic),
        )  # fmt: skip

    def _spacing(self, i: int) -> float:
        """Shortest shift in Å of nearly the highest correlation."""
        lengths = self.found.grid.lengths.numpy()
        kind = self.kinds[i][: len(lengths)]
        return float(lengths[kind > _NEARLY * kind.max()].min())

    def _metric(self) -> np.ndarray:
        """By which components count the less, the more they scatter inside of clusters."""
        found = self.found
        scatter, n = np.zeros((found.components.shape[1],) * 2), 0
        for deep in self.deep:
            if deep.sum() > 2:
                x = found.some.narrow[deep] @ found.components
                scatter += np.cov(x.T) * deep.sum()
                n += deep.sum()
        scatter = scatter / max(n, 1)
        scatter += (0.3 * np.trace(scatter) / len(scatter) + 1e-9) * np.eye(len(scatter))
        return np.linalg.cholesky(np.linalg.inv(scatter))

    def thin(self, regions: Regions) -> int | None:
        """Cluster whose region is nowhere wide, once its boundary is refined; None where there is none."""
        if len(regions) < 2:
            return None
        found = self.found
        maps = (map(torch.as_tensor, each) for each in (found.wide, found.narrow))
        labels = [labels_of(regions.shares(wide, narrow, found.grid)).numpy() for wide, narrow in zip(*maps)]
        cores = [max(_depth(frame == i + 1, found.beyond).max() for frame in labels) for i in range(len(regions))]
        worst = int(np.argmin(cores))
        return int(regions.periodic[worst]) if cores[worst] < _REFINED_CORE * found.window else None


def _second_peak(kind: np.ndarray, grid: Grid) -> float:
    """Highest correlation off the line through the middle that leaves least: an edge has a ridge and nothing else."""
    shifts = grid.working_pixel * np.array(grid.shifts, dtype=float)
    angles = np.deg2rad(np.arange(0, 180, 5))
    off = np.abs(shifts @ np.stack([np.cos(angles), np.sin(angles)]))
    return float(np.where(off > min(_RIDGE, 0.4 * off.max()), kind[:, None], -1).max(0).min())
