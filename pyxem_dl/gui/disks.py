"""Bragg disks under the cursor: a detector that is asked now, or vectors that are there."""

from __future__ import annotations

import numpy as np

from pyxem_dl.bragg_vectors.detection import disk_finder
from pyxem_dl.bragg_vectors.searching import Search
from pyxem_dl.bragg_vectors.step import DiskStep
from pyxem_dl.gui.answers import Candidate, Frame
from pyxem_dl.gui.chunks import ChunkCache
from pyxem_dl.models import load_model
from pyxem_dl.scans import Computing, Reading
from pyxem_dl.scans.streaming import OneByOne

# As predict_bragg_vectors has it, and a confidence below which all is noise
_MOST_DISKS, _LEAST = 1000, 0.02


class LiveDisks:
    """Asks a detector of disks about one pattern at a time.

    Parameters
    ----------
    signal, model, center, signal_mask, beam_energy, device
        As in :func:`pyxem_dl.predict_bragg_vectors`.
    """

    def __init__(self, signal, model, center=None, signal_mask=None, beam_energy=None, device: str = "auto") -> None:
        model = load_model(model)
        search = Search(signal, None, Reading(None, signal_mask, center, beam_energy))
        model.check_domain(search.probe.radius)
        self._search, self._model, self.scan = search, model, search.scan
        self._device = Computing(device, show_progressbar=False).torch_device
        self._runners: dict[float, OneByOne] = {}
        self.name = f"Model {model.name}, probe of radius {search.probe.radius:.3g} px"
        self.threshold = model.thresholds.get("confidence", 0.5)

    def _runner(self, least: float) -> OneByOne:
        """Make what finds disks of a confidence; where they are depends on it, as they share the light."""
        if least not in self._runners:
            finder = disk_finder(self._search, self._model, least, _MOST_DISKS)
            step = DiskStep(self.scan.without_data(), finder, None, False, 9)
            step.prepare(self._device)
            self._runners = {least: OneByOne(step, self._device, 1)}
        return self._runners[least]

    def __call__(self, index: int, pattern: np.ndarray, least: float) -> np.ndarray:
        """Row, column, intensity and confidence (m, 4) of a pattern's disks."""
        (part,) = self._runner(max(least, _LEAST)).compute(np.array([index]), pattern[None])
        (table,) = part.arrays["disks"].tables()
        return np.asarray(table, dtype=float)[:, :4]


class KnownDisks:
    """Looks disks up in vectors.

    Parameters
    ----------
    vectors : pyxem.signals.DiffractionVectors
        Of the whole scan.
    scan : Scan
        Of the signal.
    """

    threshold = 0.0

    def __init__(self, vectors, scan) -> None:
        shape = tuple(vectors.axes_manager._navigation_shape_in_array)
        if shape != tuple(scan.shape):
            raise ValueError(
                f"The vectors are of {shape} positions, the scan has {tuple(scan.shape)}: crop both in the same way."
            )
        self._vectors, self.scan = vectors, scan
        scales = np.array(vectors.scales if vectors.scales is not None else scan.calibration.scale, dtype=float)[:2]
        offsets = np.zeros(2) if vectors.offsets is None else np.array(vectors.offsets, dtype=float)[:2]
        self._scales, self._offsets = scales, offsets
        names = list(vectors.column_names or ["ky", "kx"])
        self._column = {name: names.index(name) for name in ("intensity", "confidence") if name in names}
        self.name = f"Vectors ({', '.join(names)})"

    def __call__(self, index: int, pattern: np.ndarray, least: float) -> np.ndarray:
        """Row, column, intensity and confidence (m, 4) of a position, those of a lower confidence, too."""
        data = self._vectors.data
        table = data[np.unravel_index(index, self.scan.shape)] if self.scan.shape else data
        table = table.compute() if hasattr(table, "compute") else table
        table = table.item() if np.shape(table) == () else table
        table = np.atleast_2d(np.asarray(table, dtype=float))
        found = np.ones((len(table), 4))
        found[:, :2] = (table[:, :2] - self._offsets) / self._scales
        for place, name in ((2, "intensity"), (3, "confidence")):
            if name in self._column:
                found[:, place] = table[:, self._column[name]]
        return found


class DiskSession:
    """Shows the disks of a position.

    Parameters
    ----------
    source : LiveDisks or KnownDisks
        Who says where they are.
    patterns : ChunkCache
        Of the scan.
    """

    def __init__(self, source, patterns: ChunkCache) -> None:
        self._source, self._patterns, self.threshold = source, patterns, source.threshold
        self.source_name = source.name

    def frame(self, x: int, y: int) -> Frame:
        """Show a position; disks that are known, and below the threshold, are counted and not drawn."""
        scan = self._source.scan
        index = y * ((1, 1) + tuple(scan.shape))[-1] + x
        pattern = self._patterns.pattern(index)
        row, column, intensity, confidence = self._source(index, pattern, self.threshold).T
        kept = confidence >= self.threshold
        strongest = np.abs(intensity[kept]).max(initial=1e-12)
        shown = Candidate(
            "disks", None, float(confidence[kept].mean()) if kept.any() else np.nan, row[kept], column[kept],
            np.clip(intensity[kept] / strongest, 0, 1), np.zeros((int(kept.sum()), 0), dtype=int),
        )  # fmt: skip
        more = f", {(~kept).sum()} more below it" if (~kept).any() else ""
        lines = [f"(x, y) = ({x}, {y})", f"{kept.sum()} disks from a confidence of {self.threshold:.3g} on{more}"]
        lines.append(self.source_name)
        return Frame(x, y, pattern, scan.calibration.center, [shown], "\n".join(lines))
