"""Pixels that are wrong in every pattern of a sample: not finite, hot, stuck or dead, and rows outside the image.

What is wrong with a pixel shows beside its neighbours. A hot pixel is sharper than any disk; a stuck or dead one does
not change where all around it changes; rows of metadata begin where the picture ends. Spots that are in every pattern,
as the direct beam is, are never so sharp: their light falls on the neighbours, too.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np

from pyxem_dl.messages import warn

# Wrong in this share of the patterns is wrong in every one: a pattern may be spoilt otherwise
_SHARE = 0.9
# A pixel is judged hot beside so many at least: of a beam behind a gap a single pixel may be left
_FEWEST_BESIDE = 5
# A hot pixel exceeds its surroundings by so many times their spread, and what is beside it has no more than this share
# of its excess; a Gaussian spot with a standard deviation of 0.35 px, on the middle of a pixel, has 0.08.  Three or
# four pixels together have the second share: a disk of 1 px on the corner of four would look like them.
_HOT, _SHARP, _SHARP_CLUSTER, _LARGEST_CLUSTER = 10.0, 0.08, 0.03, 4
# ... and of few patterns, which know less of the noise, so many times more; so many are several
_ALONE, _SEVERAL = 10, 3
# By chance pixels are constant with this probability at most, all together and (half of them) each, or they are taken
# for stuck: there are many to choose from, of ten together less; larger areas are no fault
_CHANCE, _CHANCE_EACH, _CHANCE_OF_MANY, _LARGEST_STUCK = 1e-9, 1e-5, 1e-2, 0.15
# Lines have so many pixels at least, and fewer than so many across; so far from a pixel is what it is compared with
_SHORTEST_LINE, _THICKEST_LINE, _BESIDE, _CHANCE_OF_LINE = 10, 9, 2, 1e-26
# Hot in this share of so many patterns is hot, too
_SHARE_HOT, _MANY = 0.3, 12
# Bright lines: so thick at most, standing out in this share of their length, by so many times what changes beside them
_THICKEST_BRIGHT, _SHARE_OF_LINE, _STEP = 4, 0.8, 3.0
# Larger numbers are marks, not intensities, and sums of them are not finite
_LARGEST = 1e35
# Rows beside each border that may be no part of the picture, and how much brighter than it they then are
_BORDER, _BRIGHTER, _BORDER_SHARE = 4, 20.0, 0.05
# ... or, of a few pixels, how much brighter than all of the picture
_BRIGHTEST, _FEW = 3.0, 2
# So many electrons of one pixel in all patterns together may be chance where there are hardly any beside
_ELECTRONS = 30
_NAMED = 5


@dataclass(frozen=True, eq=False)
class BadPixels:
    """Pixels that are wrong in every pattern that was looked at.

    Parameters
    ----------
    mask : array of bool, shape (rows, columns)
        True where a pixel is wrong.
    kinds : dict of str to array of bool
        Which of them are "not finite", "hot", "stuck", and "outside the image".
    n_patterns : int
        How many patterns were looked at.
    n_not_finite : int
        Of those, how many have NaN or infinite pixels elsewhere: nothing is found in them.
    """

    mask: np.ndarray
    kinds: dict = field(default_factory=dict)
    n_patterns: int = 0
    n_not_finite: int = 0

    def describe(self) -> str:
        """Say how many there are, of which kind, and where."""
        kinds = ", ".join(f"{int(mask.sum())} {name}" for name, mask in self.kinds.items() if mask.any())
        left, lines = self.mask.copy(), []
        for axis, name in ((1, "row"), (0, "column")):
            whole = np.flatnonzero(self.mask.all(axis))
            if len(whole):
                lines.append(f"{name}{'s' if len(whole) > 1 else ''} {_ranges(whole)}")
                left[(whole,) if axis else (slice(None), whole)] = False
        single = [f"({row}, {column})" for row, column in np.argwhere(left)[:_NAMED]]
        if single:
            more = int(left.sum()) - len(single)
            lines.append("(row, column) = " + ", ".join(single) + (f" and {more} more" if more else ""))
        return f"{kinds}: {'; '.join(lines)}"


def inspect_pixels(patterns: np.ndarray, signal_mask: np.ndarray | None = None) -> BadPixels:
    """Find pixels that are wrong in every pattern.

    Parameters
    ----------
    patterns : array, shape (n, rows, columns), float
        Spread over a scan.  A single one tells less: a stuck pixel cannot be told from others.
    signal_mask : array of bool, shape (rows, columns), optional
        True where the detector is excluded: what is known already.

    Returns
    -------
    BadPixels
        None of them under `signal_mask`.
    """
    shape = patterns.shape[1:]
    known = np.zeros(shape, bool) if signal_mask is None else np.asarray(signal_mask, bool)
    finite = np.abs(patterns) < _LARGEST
    finite[:, known] = True
    some = finite.reshape(len(finite), -1).mean(1) > 0.5  # others say nothing at all
    if not some.any():
        return BadPixels(np.zeros(shape, bool), n_patterns=len(patterns), n_not_finite=len(patterns))
    not_finite = (~finite[some]).mean(0) >= _SHARE
    spoilt = ~(finite | not_finite).all((1, 2))
    good = patterns[~spoilt]
    bad = known | not_finite
    good = np.where(bad, np.nan, good)
    if len(good) and not bad.all():
        seen = good[:, ~bad]
        good = _distinct(good[seen.max(1) > seen.min(1)])
    kinds = {"not finite": not_finite}
    if len(good):
        outside = _beside_the_picture(good, bad)
        good[:, outside] = np.nan
        stuck = _stuck(good, bad | outside)
        good[:, stuck] = np.nan
        lines = _bright_lines(good) | _bright_lines(good.transpose(0, 2, 1)).T
        good[:, lines] = np.nan
        kinds |= {"stuck": stuck, "hot": _hot(good) | lines, "outside the image": outside}
    mask = np.logical_or.reduce(list(kinds.values()))
    mask &= ~known
    if mask.all():
        mask = np.zeros(shape, bool)
    return BadPixels(mask, {name: kind & mask for name, kind in kinds.items()}, len(patterns), int(spoilt.sum()))


def _distinct(patterns) -> np.ndarray:
    """Patterns without those that are the same bit for bit, whose noise says the same."""
    first = {hash(pattern.tobytes()): i for i, pattern in reversed(list(enumerate(patterns)))}
    return patterns[sorted(first.values())]


def warn_of_bad_pixels(found: BadPixels) -> None:
    """Tell what was left out, and in how many patterns nothing can be found."""
    if found.mask.any():
        warn(
            f"{int(found.mask.sum())} detector pixels are wrong in all of {found.n_patterns} sampled patterns and are "
            f"masked ({found.describe()}). To silence this warning, mask them yourself: "
            "`signal_mask=pyxem_dl.find_bad_pixels(s)`."
        )
    if found.n_not_finite:
        warn(
            f"{found.n_not_finite} of {found.n_patterns} sampled patterns have NaN or infinite pixels that differ "
            "from pattern to pattern. Such patterns give no result. Replace these pixels, or mask them with "
            "`signal_mask=` (True = excluded)."
        )


def _stuck(patterns, bad) -> np.ndarray:
    """Pixels whose values never change, as by chance they would not, since the values around them do.

    Looked at are small areas, and lines that are thin: of these the dark parts of the detector, where nothing changes
    either, are no part.
    """
    n = len(patterns)
    constant = (patterns == patterns[:1]).all(0) & ~bad
    stuck = np.zeros_like(bad)
    if n < 3 or not constant.any():
        return stuck
    stuck |= _stuck_lines(patterns, constant, bad)
    stuck |= _stuck_lines(patterns.transpose(0, 2, 1), constant.T, bad.T).T
    return stuck | _unlikely_regions(patterns, constant & ~stuck, constant, bad)


def _stuck_lines(patterns, constant, bad) -> np.ndarray:
    """Rows, up to eight together, that are empty over a quarter of their length or more, and bright on both sides.

    Their pixels are seen together: there are few lines to choose from.  The gap between two rows of disks is bright on
    both sides at few places only.
    """
    from scipy.ndimage import binary_opening, label, uniform_filter1d

    n, (rows, columns) = len(patterns), bad.shape
    across = np.ones((_THICKEST_LINE, 1))
    thin = constant & ~binary_opening(constant, across)
    thin = binary_opening(thin, np.ones((1, max(_SHORTEST_LINE, columns // 4))))
    # where all around is dark, too, a line can be told by its length
    whole = (constant | bad).all(1)
    thin |= constant & (whole & ~binary_opening(whole, across[:, 0]))[:, None]
    zero = (patterns == 0).mean(0)
    zero = uniform_filter1d(np.where(bad, 1.0, zero), 2 * _BESIDE + 1, axis=1)
    regions, _ = label(thin)
    stuck = np.zeros_like(bad)
    for i in range(1, regions.max() + 1):
        here = (regions == i) & (patterns[0] == 0)
        row = np.flatnonzero(here.any(1))
        if not len(row) or row[0] < _BESIDE or row[-1] >= rows - _BESIDE:
            continue
        sides = zero[row[0] - _BESIDE : row[0]].mean(0), zero[row[-1] + 1 : row[-1] + 1 + _BESIDE].mean(0)
        chance = n * np.log(np.clip(np.maximum(*sides), 1e-3, 1)) * here.sum(0)
        if chance.sum() < np.log(_CHANCE_OF_LINE):
            stuck |= here
    # a row that never changes, and is wrong where this can be seen, is wrong where it is dark, too
    return stuck | ((stuck.any(1) & whole)[:, None] & ~bad)


def _unlikely_regions(patterns, chosen, constant, bad) -> np.ndarray:
    """Of constant pixels, the connected regions that are constant by chance with a tiny probability."""
    from scipy.ndimage import find_objects, label

    regions, _ = label(chosen, np.ones((3, 3)))
    small = np.bincount(regions.ravel()) <= _LARGEST_STUCK * bad.size
    unlikely = np.zeros_like(bad)
    for i, place in enumerate(find_objects(regions), start=1):
        if small[i]:
            place = tuple(slice(max(0, s.start - 3), s.stop + 3) for s in place)
            here = regions[place] == i
            unlikely[place] |= _unlikely(patterns[(slice(None), *place)], here, constant[place], bad[place])
    return unlikely


def _unlikely(patterns, here, constant, bad) -> np.ndarray:
    """Of constant pixels, those that are constant by chance with a tiny probability, seen by what is beside them."""
    from scipy.ndimage import maximum_filter

    n, size = len(patterns), 2 * _BESIDE + 1
    others = ~constant & ~bad
    values, counts = np.unique(patterns[0][here], return_counts=True)
    if not len(values) or not others.any():
        return np.zeros_like(here)
    value = values[counts.argmax()]
    # what is above all around it is a saturated beam, or hot, which is told by its sharpness
    around = np.where(others, patterns.mean(0), -np.inf)
    if value > around[maximum_filter(here, size)].max():
        return np.zeros_like(here)
    # how often the pixels beside have this value: of those beside each pixel, the one that has it most often
    often = np.where(others, ((patterns == value).sum(0) + 1) / (n + 2), 0)
    often = maximum_filter(often, size)[here]
    chance = n * np.log(often[often > 0])
    each = _CHANCE_EACH if len(chance) < _SHORTEST_LINE else _CHANCE_OF_MANY
    unlikely = chance.sum() < np.log(_CHANCE) and np.median(chance) < np.log(each)
    return here if unlikely else np.zeros_like(here)


def _hot(patterns) -> np.ndarray:
    """Pixels, and clusters of up to four, that are sharper and higher than a spot in every pattern."""
    from scipy.ndimage import binary_dilation, label, median_filter

    mean = patterns.mean(0)
    filled = np.where(np.isnan(mean), -np.inf, mean)
    hot = np.zeros(mean.shape, bool)
    times = _HOT * (1 + _ALONE / len(patterns))
    inside = filled[1:-1, 1:-1].max(initial=0)
    # in one pattern or two a single electron is as sharp, and hot is only what is brighter than all that is not
    brightest = median_filter(np.nan_to_num(mean), 3).max() if len(patterns) < _SEVERAL else -np.inf
    for row, column, level, height in _peaks(mean, filled, _few_electrons(patterns), times):
        at_border = row in (0, mean.shape[0] - 1) or column in (0, mean.shape[1] - 1)
        if (at_border and height < inside) or level + height < _BRIGHTEST * brightest:
            continue  # it may be the rim of a disk that lies beyond, or an electron
        place = slice(max(0, row - 4), row + 5), slice(max(0, column - 4), column + 5)
        # what is higher than half of the peak belongs to one cluster with it
        regions, _ = label(filled[place] > level + 0.5 * height, np.ones((3, 3)))
        here = regions == regions[row - place[0].start, column - place[1].start]
        beside = binary_dilation(here, np.ones((3, 3))) & ~here & np.isfinite(mean[place])
        n = int(here.sum())
        if n > _LARGEST_CLUSTER or beside.sum() < _FEWEST_BESIDE:
            continue
        if mean[place][beside].max() - level > (_SHARP if n <= 2 else _SHARP_CLUSTER) * height:
            continue
        values = patterns[(slice(None), *place)]
        above = values[:, here].min(1) > values[:, beside].max(1)
        if above.mean() >= (_SHARE_HOT if len(patterns) >= _MANY else _SHARE):
            hot[place] |= here
    return hot


def _bright_lines(patterns) -> np.ndarray:
    """Columns, or halves of them, that stand out from both sides all along by a step: the ridge of a halo has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        mean = np.nanmean(patterns, 0)
    rows, columns = mean.shape
    bright = np.zeros(mean.shape, bool)
    for part in (slice(None), slice(0, rows // 2), slice(rows // 2, None)):
        m = mean[part]
        if len(m) < 2 * _SHORTEST_LINE:
            continue
        for thick in range(1, _THICKEST_BRIGHT + 1):
            n = columns - thick - 3  # lines with two columns on both sides
            if n < 1:
                break
            line = np.min([m[:, 2 + i : 2 + i + n] for i in range(thick)], axis=0)
            near = m[:, 1 : 1 + n], m[:, 2 + thick : 2 + thick + n]
            far = m[:, :n], m[:, 3 + thick : 3 + thick + n]
            change = np.maximum(*(np.abs(a - b) for a, b in zip(near, far, strict=True)))
            known = np.isfinite(line - change)
            out = known & (line - np.maximum(*near) > _STEP * change)
            enough = (known.mean(0) > 0.5) & (out.sum(0) >= _SHARE_OF_LINE * known.sum(0))
            for first in np.flatnonzero(enough):
                bright[part, 2 + first : 2 + first + thick] = True
    return bright & np.isfinite(mean)


def _peaks(mean, filled, electrons: float, times: float) -> list[tuple[int, int, float, float]]:
    """Pixels that are the highest around and far above it: row, column, level around (2 or 3 px away), and height."""
    from scipy.ndimage import maximum_filter

    row, column = np.nonzero((filled == maximum_filter(filled, 3)) & np.isfinite(filled))
    away = np.array([(i, j) for i in range(-3, 4) for j in range(-3, 4) if max(abs(i), abs(j)) >= 2])
    padded = np.pad(mean, 3, constant_values=np.nan)
    ring = padded[row[:, None] + 3 + away[:, 0], column[:, None] + 3 + away[:, 1]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where all around is masked
        level = np.nanmedian(ring, 1)
        spread = np.nanmean(np.abs(ring - level[:, None]), 1)
    height = mean[row, column] - level
    # neither is rounding a height, nor are a few electrons
    least = max(1e-6 * np.nanmax(np.abs(mean)), electrons)
    high = np.nan_to_num(height) > np.maximum(times * np.nan_to_num(spread), least)
    return list(zip(row[high], column[high], level[high], height[high], strict=True))


def _beside_the_picture(patterns, bad) -> np.ndarray:
    """Rows or columns at the borders that are much brighter, or more negative, than the picture beside them."""
    outside = np.zeros_like(bad)
    size = np.abs(patterns)
    for axis in (0, 1):
        size = np.where(outside, np.nan, size) if outside.any() else size
        for end in (0, -1):
            lines = size if axis == 0 else size.transpose(0, 2, 1)
            lines = lines if end == 0 else lines[:, ::-1]
            depth = _depth_of_border(lines)
            if depth:
                where = slice(0, depth) if end == 0 else slice(lines.shape[1] - depth, None)
                outside[(where,) if axis == 0 else (slice(None), where)] = True
    return outside & ~bad


def _depth_of_border(lines) -> int:
    """How many of the first rows (n, rows, columns), not negative, are no picture: up to the last one too bright."""
    if lines.shape[1] < 4 * _BORDER:
        return 0
    lines = lines[:: max(1, len(lines) // 16)]
    at_border = np.nan_to_num(lines[:, :_BORDER])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        beside = np.nanmax(lines[:, _BORDER : 3 * _BORDER], (1, 2))
        # most pictures end here, for the rest takes long
        if not (at_border.max((1, 2)) > min(_BRIGHTER, _BRIGHTEST) * np.nan_to_num(beside)).any():
            return 0
        # the picture's brightest pixels near this border, and everywhere what is no spot
        level = beside + np.nanmedian(lines, (1, 2))
        highest = np.nanmax(lines[:, _BORDER:-_BORDER, _BORDER:-_BORDER], (1, 2))
    many = ((at_border > _BRIGHTER * level[:, None, None]).mean(0) >= _SHARE).mean(1) >= _BORDER_SHARE
    few = ((at_border > _BRIGHTEST * highest[:, None, None]).mean(0) >= _SHARE).sum(1) >= _FEW
    deepest = np.flatnonzero(many | few)
    return int(deepest[-1]) + 1 if len(deepest) else 0


def _few_electrons(patterns) -> float:
    """Height, in the mean of patterns, of so many electrons that they are no chance; 0 where nothing is counted."""
    positive = patterns[patterns > 0]
    quantum = positive.min() if len(positive) else 0.0
    counts = positive[:: max(1, len(positive) // 10000)] / max(quantum, 1e-38)
    whole = len(counts) and np.abs(counts - counts.round()).max() < 0.01
    return float(_ELECTRONS * quantum / len(patterns)) if whole else 0.0


def _ranges(numbers) -> str:
    """Numbers as text, neighbours as ranges: "3, 5-8"."""
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    return ", ".join(f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
