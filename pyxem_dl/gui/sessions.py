"""What stands behind a viewer: the scan, and whom it asks about a position."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from pyxem_dl.crystals import load_phases
from pyxem_dl.frames import Calibration
from pyxem_dl.gui.answers import Frame
from pyxem_dl.gui.chunks import ChunkCache
from pyxem_dl.gui.disks import DiskSession, KnownDisks, LiveDisks
from pyxem_dl.gui.layers import Layer
from pyxem_dl.gui.session import Session
from pyxem_dl.gui.wire import binned, binning
from pyxem_dl.models import BraggModel, OrientationModel, load_model
from pyxem_dl.models.loading import bundled_of
from pyxem_dl.plot.markers import phases_of
from pyxem_dl.results.assembly import DEFAULT_THRESHOLDS
from pyxem_dl.scans import Positions, Reading, Scan

VIRTUAL = "virtual image"
# Models that are kept ready
_MOST_SESSIONS = 4


@dataclass(frozen=True, eq=False)
class Given:
    """A scan, and what a user gave with it.

    Parameters
    ----------
    signal : pyxem.signals.Diffraction2D
        The scan.
    model : str, pathlib.Path, OrientationModel or BraggModel, optional
        Who is asked.
    xmap : orix.crystal_map.CrystalMap, optional
        A finished map.
    vectors : pyxem.signals.DiffractionVectors, optional
        Disks that are known.
    phases, center, signal_mask, beam_energy, device
        As in :func:`pyxem_dl.predict_orientation`.
    """

    signal: object
    model: object = None
    xmap: object = None
    vectors: object = None
    phases: object = None
    center: object = None
    signal_mask: np.ndarray | None = None
    beam_energy: float | None = None
    device: str = "auto"


def asked_thresholds(settings: dict) -> dict:
    """Thresholds by the models' names for them, those that were chosen."""
    chosen = {"score": settings["threshold"], "crystal": settings["crystal_threshold"]}
    return {name: value for name, value in chosen.items() if value is not None}


@dataclass(eq=False)
class Opened:
    """Whom a viewer asks.

    Parameters
    ----------
    session : Session, DiskSession or PlainSession
        What answers.
    thresholds : dict
        Its own ``score`` and ``crystal``.
    most : int
        Candidates that it has.
    center : tuple of float or None
        Direct beam (row, column) in pixels, where it is one for all patterns.
    phases : dict of str to orix.crystal_map.Phase
        By name.
    """

    session: object
    thresholds: dict = field(default_factory=dict)
    most: int = 1
    center: tuple[float, float] | None = None
    phases: dict = field(default_factory=dict)

    def frame(self, settings: dict, candidates: int) -> Frame:
        """Show a position with settings as they were asked for."""
        session, limits = self.session, self.thresholds | asked_thresholds(settings)
        if "score" in limits:
            session.threshold = limits["score"]
        if isinstance(session, Session):
            session.crystal_threshold = limits["crystal"]
            session.candidates = min(candidates, self.most)
            session.scale_factor = settings["scale_factor"]
            session.center_shift = settings["center_shift"]
        return session.frame(settings["x"], settings["y"])


class PlainSession:
    """Shows patterns where nobody can say more of them.

    Parameters
    ----------
    patterns : ChunkCache
        Of the scan.
    columns : int
        Positions along x.
    center : tuple of float
        (row, column) in pixels.
    """

    def __init__(self, patterns: ChunkCache, columns: int, center: tuple[float, float]) -> None:
        self._patterns, self._columns, self._center = patterns, columns, center

    def frame(self, x: int, y: int) -> Frame:
        """Show a position."""
        text = f"(x, y) = ({x}, {y})"
        return Frame(x, y, self._patterns.pattern(y * self._columns + x), self._center, [], text)


class Sessions:
    """Opens what answers, when it is first asked, and keeps it.

    Parameters
    ----------
    given : Given
        The scan and what came with it.

    Raises
    ------
    TypeError, ValueError
        For a signal that is no scan of patterns.
    """

    def __init__(self, given: Given) -> None:
        self._given, self._ready = given, OrderedDict()
        signal = given.signal
        self.data = signal.data
        self.shape = tuple(int(n) for n in signal.axes_manager._navigation_shape_in_array)
        self.detector = tuple(int(n) for n in self.data.shape[-2:])
        self.nbytes = int(self.data.nbytes)
        positions = Positions.of_axes(signal.axes_manager.navigation_axes, self.shape)
        self.step, self.unit = ([1.0, 1.0, *positions.steps])[-2:], positions.scan_unit
        self.center, self.scale = self._where()
        self.models = self._models()
        self.first_model = self.models[0]
        bragg = isinstance(self._loaded(self.first_model), BraggModel) if given.model is not None else False
        self._bragg = bragg or given.vectors is not None
        self.first_source = "map" if given.xmap is not None else "disks" if self._bragg else "model"
        model = None if given.model is None or bragg else self._loaded(self.first_model)
        self.map_phases = None
        if given.xmap is not None:
            self.map_phases = phases_of(given.xmap, model, given.phases)

    @cached_property
    def patterns(self) -> ChunkCache:
        """Patterns that are kept: for all who answer, so that there is one bound for them together."""
        return ChunkCache(self.data)

    def _where(self) -> tuple[tuple[float, float], float | None]:
        """Direct beam in pixels and Å⁻¹ per px, as far as the signal says."""
        rows, columns = self.detector
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                calibration = Calibration.from_signal(self._given.signal, self._given.beam_energy)
        except (TypeError, ValueError):
            return ((rows - 1) / 2, (columns - 1) / 2), None
        center = self._given.center
        center = calibration.center if np.shape(center) != (2,) else tuple(float(each) for each in center)
        return center, float(calibration.scale[0])

    # ---------------------------------------------------------------- choices
    def _models(self) -> list[str]:
        """Names of models that may be asked, the one that was given first."""
        self._objects = {}
        given = self._given.model
        if given is not None:
            name = str(given) if isinstance(given, (str, Path)) else getattr(given, "name", "ensemble")
            self._objects[name] = given
        else:
            self._objects["any-crystal"] = "any-crystal"
        if not isinstance(given, BraggModel) and not (isinstance(given, str) and given == "bragg-disks"):
            self._objects |= {name: name for name in bundled_of(OrientationModel) if name not in self._objects}
        return list(self._objects)

    def limits(self, name: str) -> dict:
        """Thresholds of a model by itself."""
        return DEFAULT_THRESHOLDS | dict(self._loaded(name).thresholds)

    def _loaded(self, name: str):
        model = load_model(self._objects[name])
        self._objects[name] = model
        return model

    def sources(self, there_is_a_map: bool) -> list[str]:
        """Where spots may come from."""
        if self._bragg:
            return ["disks"]
        return (["map"] if there_is_a_map else []) + ["model"]

    def phase_choices(self, model: str) -> list[str]:
        """All phases together, or one of them."""
        names = [phase.name for phase in self._phases]
        return ["all", *(names if len(names) > 1 else [])]

    @cached_property
    def _phases(self) -> list:
        if self._given.phases is None:
            return []
        try:
            return load_phases(self._given.phases)
        except (TypeError, ValueError, OSError):  # said when a model is asked
            return []

    def model_and_phases(self, model: str, phase: str):
        """Model as it was given, and the phases that it is to look for."""
        loaded = self._loaded(model)
        named = getattr(loaded, "bundled_name", None) or self._given.model
        if loaded is not self._loaded(self.first_model) or self._given.model is None:
            named = model
        own = model != self.first_model and getattr(loaded, "phases", None)
        if own or not getattr(loaded, "takes_phases", False):
            return named, None  # it knows its phases
        given = self._given.phases
        if phase == "all":
            return named, given
        chosen = [each.name for each in self._phases].index(phase)
        one_each = isinstance(given, (list, tuple)) and len(given) == len(self._phases)
        return named, [(given if one_each else self._phases)[chosen]]  # a file has a name that code can say

    # ---------------------------------------------------------------- who answers
    def open(self, settings: dict, current) -> Opened:
        """Get ready whom the settings ask.

        Parameters
        ----------
        settings : dict
            Of the viewer.
        current : CurrentMap
            The map.
        """
        source = settings["source"]
        key = (source, settings["model"], settings["phase"]) if source == "model" else (source, current.version)
        if source == "map" and current.made_here:
            key += (settings["threshold"], settings["crystal_threshold"])
        if key not in self._ready:
            make = {"model": self._of_model, "map": self._of_map, "disks": self._of_disks}[source]
            self._ready[key] = make(settings, current)
            while len(self._ready) > _MOST_SESSIONS:
                self._ready.popitem(last=False)
        self._ready.move_to_end(key)
        return self._ready[key]

    def _of_model(self, settings: dict, current) -> Opened:
        model, phases = self.model_and_phases(settings["model"], settings["phase"])
        given = self._given
        session = Session(
            given.signal, model, phases=phases, center=given.center, signal_mask=given.signal_mask,
            beam_energy=given.beam_energy, device=given.device, patterns=self.patterns,
        )  # fmt: skip
        return _opened(session)

    def _of_map(self, settings: dict, current) -> Opened:
        given = self._given
        if not current.there:
            raise ValueError("There is no map yet: index the scan, or let the model be asked.")
        xmap, model, phases = given.xmap, given.model, given.phases
        if current.made_here:  # with all phases that it was asked for, and with the thresholds of this question
            xmap, model, phases = current.final(current.made_with() | asked_thresholds(settings)), None, None
        session = Session(
            given.signal, model, xmap=xmap, phases=phases, center=given.center, signal_mask=given.signal_mask,
            beam_energy=given.beam_energy or self._energy(), device=given.device, patterns=self.patterns,
        )  # fmt: skip
        return _opened(session)

    def _energy(self) -> float | None:
        """Beam energy of the model, for a signal that does not tell."""
        if self._given.signal.metadata.get_item("Acquisition_instrument.TEM.beam_energy"):
            return None
        model = next((each for each in self._objects.values() if hasattr(each, "domain")), None)
        return None if model is None else model.domain.get("beam_energy")

    def _of_disks(self, settings: dict, current) -> Opened:
        given = self._given
        where = given.center, given.signal_mask, given.beam_energy
        if given.vectors is not None:
            scan = Scan.from_signal(given.signal, Reading(None, *where[1::-1], where[2]), inspect=False)
            source = KnownDisks(given.vectors, scan)
        else:
            source = LiveDisks(given.signal, given.model, *where, given.device)
        return Opened(DiskSession(source, self.patterns), {"score": source.threshold})

    def first_picture(self) -> Layer:
        """Picture of the scan before it is read."""
        return Layer(VIRTUAL, np.full(((1, 1) + self.shape)[-2:], np.nan, dtype=np.float32))

    def plain(self, settings: dict) -> Opened:
        """Whom to ask where nobody else can answer."""
        if "plain" not in self._ready:
            self._ready["plain"] = Opened(PlainSession(self.patterns, ((1, 1) + self.shape)[-1], self.center))
        return self._ready["plain"]

    def mask_on_screen(self) -> np.ndarray | None:
        """Excluded pixels as they are shown, uint8; None where there are none."""
        mask = self._given.signal_mask
        if mask is None or np.shape(mask) != self.detector:
            return None
        return (binned(np.asarray(mask, dtype=np.float32), binning(self.detector)) > 0.5).astype(np.uint8)


def _opened(session: Session) -> Opened:
    limits = {"score": session.threshold, "crystal": session.crystal_threshold}
    return Opened(session, limits, session.most_candidates, session.center, session.phases)
