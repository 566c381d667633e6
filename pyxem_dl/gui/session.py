"""A viewer's core: it needs no browser, and answers for one position of a scan at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from traits.api import HasTraits, TraitType

from pyxem_dl.checks import whole_number
from pyxem_dl.frames import k_to_pixel
from pyxem_dl.gui.answers import Candidate, Found, Frame
from pyxem_dl.gui.chunks import ChunkCache
from pyxem_dl.gui.sources import FromMap, FromModel, Question, as_mapped
from pyxem_dl.gui.traits import Checked, scale_factor, share, shift
from pyxem_dl.messages import heard
from pyxem_dl.models import load_model
from pyxem_dl.orientation import orientation_job
from pyxem_dl.plot.checks import check_numbers
from pyxem_dl.plot.maps import relative_intensity
from pyxem_dl.results.spots import predict_spots, spot_table
from pyxem_dl.scans import Computing, Reading, Scan
from pyxem_dl.scans.steps import to_tensor

if TYPE_CHECKING:
    from pyxem_dl.annotations import Center, Patterns, Phases


class _Count(TraitType):
    """How many candidates, of those that there are."""

    default_value = 1

    def validate(self, object, name, value) -> int:
        n = whole_number(name, value, 1)
        if n > object.most_candidates:
            raise ValueError(
                f"{name} must be a whole number of at most {object.most_candidates}, not {n}: so many orientations "
                f"there are for each position ({object.source_name})."
            )
        return n


class Session(HasTraits):
    """What a viewer shows of a scan, at whatever position, with settings that may change at any time.

    Parameters
    ----------
    signal : pyxem.signals.Diffraction2D
        Calibrated patterns with 0, 1 or 2 navigation dimensions, in memory or lazy.
    model : str, pathlib.Path or OrientationModel, or a list of these, optional
        What is asked about the pattern, as in :func:`pyxem_dl.predict_orientation`; with a map, what made it.
    xmap : orix.crystal_map.CrystalMap, optional
        A finished map of this scan: it is shown, and no model is asked.
    phases : orix.crystal_map.Phase, path of a CIF file, or a list of these, optional
        What may be there, for a model that takes any crystal; or the map's phases, where it has no atoms.
    center, signal_mask, beam_energy
        As in :func:`pyxem_dl.predict_orientation`.
    max_excitation_error : float
        Largest distance of spots from the Ewald sphere, in Å⁻¹.
    device : str
        "auto" (CUDA, else MPS, else CPU) or a name of torch.
    patterns : ChunkCache, optional
        Of this signal, where several sessions show it: one cache for all.

    Attributes
    ----------
    candidates : int
        How many orientations are shown, at most `most_candidates`.
    threshold, crystal_threshold : float
        Lowest score of the best orientation, and lowest probability that there is a crystal, from 0 to 1; at first the
        model's. A map is shown as it is, unless its scores are asked for; it keeps no such probability.
    scale_factor : float
        By which the scale of the calibration is multiplied, from 0.95 to 1.05.
    center_shift : tuple of float
        (rows, columns) in pixels, by which the direct beam is moved.
    notes : list of str
        What was warned of.

    Raises
    ------
    TypeError, ValueError, FileNotFoundError
        For a signal, a model or a map that cannot be used, and for settings out of their range; the message says what
        to do.

    Warns
    -----
    UserWarning
        As :func:`pyxem_dl.predict_orientation`.

    Examples
    --------
    >>> session = Session(s, "any-crystal", phases="MgO.cif")  # doctest: +SKIP
    >>> print(session.frame(3, 5).text)  # doctest: +SKIP
    """

    candidates = _Count()
    threshold = Checked(0.0, share)
    crystal_threshold = Checked(0.0, share)
    scale_factor = Checked(1.0, scale_factor)
    center_shift = Checked((0.0, 0.0), shift)

    def __init__(
        self,
        signal: Patterns,
        model=None,
        *,
        xmap=None,
        phases: Phases | None = None,
        center: Center | None = None,
        signal_mask: np.ndarray | None = None,
        beam_energy: float | None = None,
        max_excitation_error: float = 0.03,
        device: str = "auto",
        patterns: ChunkCache | None = None,
    ) -> None:
        super().__init__()
        check_numbers(max_excitation_error=max_excitation_error)
        reading = Reading(None, signal_mask, center, beam_energy)
        computing = Computing(device, show_progressbar=False, on_message=lambda line: None)
        with heard() as notes:
            if xmap is None:
                job = orientation_job(signal, model, phases, False, 1, 0, reading, computing)
                self._scan, self._source = job.scan, FromModel(job)
            else:
                self._scan = Scan.from_signal(signal, reading, inspect=isinstance(center, str))
                model = None if model is None else load_model(model)
                self._scan = as_mapped(self._scan, xmap, center_given=center is not None)
                self._source = FromMap(xmap, self._scan, model, phases)
        self.notes = notes
        self._scan.forget_sample()
        self._prepare_spots(max_excitation_error)
        self._patterns = ChunkCache(self._scan.data) if patterns is None else patterns
        self.threshold, self.crystal_threshold = (self._source.thresholds[name] for name in ("score", "crystal"))

    def _prepare_spots(self, max_excitation_error: float) -> None:
        """List the reflections once: they are drawn out to the detector's nearest edge."""
        calibration = self._scan.calibration
        if calibration.beam_energy is None:
            calibration = calibration.replace(beam_energy=self._source.beam_energy)
        _ = calibration.wavelength  # its error
        self._energy, self._radius = calibration.beam_energy, calibration.reciprocal_radius
        self._max_error = max_excitation_error
        phases = self._source.phases
        self._tables = {key: spot_table(phase, self._radius) for key, phase in phases.items()}

    @property
    def most_candidates(self) -> int:
        """How many orientations there are for each position."""
        return self._source.most

    @property
    def source_name(self) -> str:
        """Who says which orientations these are."""
        return self._source.name

    @property
    def navigation_shape(self) -> tuple[int, ...]:
        """Of the scan, in data order: (y, x), (x,) or ()."""
        return self._scan.shape

    @property
    def center(self) -> tuple[float, float] | None:
        """Direct beam (row, column) in pixels, before it is shifted; None where each pattern has its own."""
        return self._scan.calibration.center if self._scan.centers is None else None

    @property
    def phases(self) -> dict:
        """Phases by name."""
        return {phase.name: phase for phase in self._source.phases.values()}

    # ---------------------------------------------------------------- a position
    def frame(self, x: int = 0, y: int = 0) -> Frame:
        """Show a position, with the settings as they are now.

        Parameters
        ----------
        x, y : int
            Position, from 0; 0 along what the scan does not have.

        Returns
        -------
        Frame

        Raises
        ------
        TypeError, ValueError
            For a position outside of the scan, and a direct beam that is shifted off the detector.
        """
        index = self._index(x, y)
        pattern = self._patterns.pattern(index)
        calibration, centers = self._where(pattern, index)
        center = calibration.center if centers is None else tuple(centers[0].tolist())
        thresholds = {"score": self.threshold, "crystal": self.crystal_threshold}
        n = self.candidates
        found = self._source(Question(index, pattern, calibration, centers, n, thresholds))
        candidates = self._with_spots(found, calibration.replace(center=center))
        return Frame(int(x), int(y), pattern, center, candidates, self._text(x, y, found, candidates))

    def _index(self, x: int, y: int) -> int:
        """Flat navigation index of a position."""
        rows, columns = ((1, 1) + self._scan.shape)[-2:]
        x, y = whole_number("x", x, 0, columns - 1), whole_number("y", y, 0, rows - 1)
        return y * columns + x

    def _where(self, pattern: np.ndarray, index: int):
        """Calibration as it is to be used; and the direct beam (1, 2), where each pattern has its own."""
        scan = self._scan
        with torch.inference_mode():
            batch = to_tensor(pattern[None]).float()
            found = scan.batch_centers(batch, np.array([index]))
        center = np.array(scan.calibration.center if found is None else found[0].tolist()) + self.center_shift
        rows, columns = scan.calibration.shape
        if not ((center > -0.5) & (center < np.array([rows, columns]) - 0.5)).all():
            raise ValueError(
                f"center_shift {self.center_shift} moves the direct beam to (row, column) = ({center[0]:.4g}, "
                f"{center[1]:.4g}), outside of the detector of {rows} × {columns} px."
            )
        scale = tuple(self.scale_factor * each for each in scan.calibration.scale)
        calibration = scan.calibration.replace(scale=scale)
        if found is None:
            return calibration.replace(center=tuple(center.tolist())), None
        return calibration, center[None]

    def _with_spots(self, found: Found, calibration) -> list[Candidate]:
        """Orientations with their spots, those on the detector."""
        spots = predict_spots(
            found.rotations, found.phase_id, self._source.phases, self._energy, self._radius,
            max_excitation_error=self._max_error, tables=self._tables,
        )  # fmt: skip
        row, column = k_to_pixel(spots.xyz[:, 0], spots.xyz[:, 1], calibration)
        rows, columns = calibration.shape
        seen = (row > -0.5) & (row < rows - 0.5) & (column > -0.5) & (column < columns - 0.5)
        intensity = relative_intensity(spots, self._max_error)
        candidates = []
        for i, key in enumerate(found.phase_id.tolist()):
            mine = np.flatnonzero(seen & (spots.owner == i))
            candidates.append(Candidate(
                self._source.phases[key].name, found.rotations[i], float(found.scores[i]), row[mine], column[mine],
                intensity[mine], spots.hkl[mine],
            ))  # fmt: skip
        return candidates

    def _text(self, x: int, y: int, found: Found, candidates: list[Candidate]) -> str:
        """Lines of what is to be said of a position."""
        lines = [f"(x, y) = ({x}, {y})"]
        lines += [f"Not indexed: {found.why}."] if found.why else []
        lines += [f"{i}. {candidate}" for i, candidate in enumerate(candidates, 1)]
        lines.append(self.source_name)
        if self.scale_factor != 1 or any(self.center_shift):
            rows, columns = self.center_shift
            lines.append(f"Scale × {self.scale_factor:g}, direct beam moved by ({rows:g}, {columns:g}) px")
        return "\n".join(lines + [f"Note: {note}" for note in self.notes])
