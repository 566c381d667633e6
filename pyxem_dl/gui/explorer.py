"""The viewer without its face: what is shown, what may be changed, and what follows from a change."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hyperspy.ui_registry import add_gui_method
from traits.api import HasTraits, Instance

from pyxem_dl.checks import flag, number, whole_number
from pyxem_dl.gui.answers import Frame
from pyxem_dl.gui.background import Background
from pyxem_dl.gui.current_map import CurrentMap
from pyxem_dl.gui.keys import ColorKey
from pyxem_dl.gui.latest import Latest
from pyxem_dl.gui.layers import Layer
from pyxem_dl.gui.link import NavigatorLink
from pyxem_dl.gui.recipe import Recipe
from pyxem_dl.gui.sessions import VIRTUAL, Given, Opened, Sessions, asked_thresholds
from pyxem_dl.gui.traits import Checked, scale_factor, share, shift
from pyxem_dl.gui.virtual import ring, virtual_image
from pyxem_dl.gui.wire import frame_message, layer_message
from pyxem_dl.records import provenance

logger = logging.getLogger(__name__)

#: Name by which HyperSpy knows the viewer
TOOLKEY = "pyxem_dl.explore"
# Candidates that are asked for, where there are so many
_CANDIDATES = 3
# A scan of more bytes is not read for its virtual image until that is asked for
_READ_AT_ONCE = 2e9
#: What a browser may set, and what changes what is found in a pattern
FOUND_WITH = ("x", "y", "source", "model", "phase", "threshold", "crystal_threshold", "scale_factor", "center_shift")
SETTINGS = (*FOUND_WITH, "layer", "candidate", "link")


def _share_or_none(viewer, name, value):
    return None if value is None else share(viewer, name, value)


def _one_of(words: str):
    def check(viewer, name, value):
        known = getattr(viewer, words)
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, known)) or 'nothing'}, not {value!r}.")
        return value

    return check


@dataclass(frozen=True)
class _Asked:
    """A position and settings, as they were when it was asked for; `number` is the browser's, to know the answer by."""

    number: int
    settings: dict


@add_gui_method(toolkey=TOOLKEY)
class Explorer(HasTraits):
    """A viewer of a scan; :func:`explore` opens one.

    Whatever is set here is shown at once, and what is done in the browser is set here.

    Parameters
    ----------
    given : Given
        The scan, and what :func:`explore` was given with it.
    sessions : Sessions or ImageSessions
        Who answers.
    current : CurrentMap or ImageResult
        The map.

    Attributes
    ----------
    x, y : int
        Position.
    source : str
        Where spots come from, one of `sources`: "model", that is asked at every position, "map" or "disks".
    model, phase : str
        One of `models`, and one of `phases`: "all", or the only one that is looked for.
    threshold, crystal_threshold : float or None
        Lowest score, and lowest probability of a crystal; None for those of the model.
    scale_factor : float
        By which the scale of the calibration is multiplied, from 0.95 to 1.05.
    center_shift : tuple of float
        (rows, columns) in pixels.
    layer : str
        What the map shows, one of `layers`.
    candidate : int
        Whose orientation the map shows; 0 is the best.
    link : bool
        Whether HyperSpy's navigator and this viewer move together.
    xmap : orix.crystal_map.CrystalMap or None
        The map with the thresholds as they are now.
    code : str
        Lines that make this map.
    status : str
        What happened last.
    """

    x = Checked(0, lambda viewer, name, value: whole_number(name, value, 0, viewer.grid[1] - 1))
    y = Checked(0, lambda viewer, name, value: whole_number(name, value, 0, viewer.grid[0] - 1))
    source = Checked("", _one_of("sources"))
    model = Checked("", _one_of("models"))
    phase = Checked("all", _one_of("phases"))
    threshold = Checked(None, _share_or_none)
    crystal_threshold = Checked(None, _share_or_none)
    scale_factor = Checked(1.0, scale_factor)
    center_shift = Checked((0.0, 0.0), shift)
    layer = Checked("", _one_of("layers"))
    candidate = Checked(0, lambda viewer, name, value: whole_number(name, value, 0, _CANDIDATES - 1))
    link = Checked(False, lambda viewer, name, value: flag(name, value))
    #: What the last position gave
    opened = Instance(Opened)

    def __init__(self, given: Given, sessions: Sessions, current: CurrentMap) -> None:
        super().__init__()
        self._given, self._signal = given, given.signal
        self._sessions, self.current = sessions, current
        self.grid = ((1, 1) + tuple(sessions.shape))[-2:]
        self._views: list[Callable] = []
        self._number, self.status, self._failed, self._no_frame, self._done = 0, "", False, False, 0
        self._keys: dict[str, ColorKey] = {}
        self._told: dict = {}
        self._telling = threading.RLock()
        self._shown, self._closed = 0, False
        self._frames = Latest(self._find, self._show)
        self._pictures = Latest(self._draw, self._show_layer)
        self._reading, self._indexing = Background(self._fail), Background(self._fail, self._tell)
        self._navigator: NavigatorLink | None = None
        self._picture = sessions.first_picture()
        self.trait_setq(source=sessions.first_source, model=sessions.first_model, layer=self._picture.name)
        if self.current.there:
            self.trait_setq(layer=self.current.names[0])
        self.observe(self._changed, list(FOUND_WITH))
        self.observe(self._relayer, ["layer", "candidate", "crystal_threshold"])
        self.observe(self._relink, "link")
        self._ask()
        self._relayer()
        if self._reads and not self.current.there and sessions.nbytes <= _READ_AT_ONCE:
            self.show_virtual()

    # ---------------------------------------------------------------- what may be chosen
    @property
    def sources(self) -> list[str]:
        """Where spots may come from."""
        return self._sessions.sources(self.current.there)

    @property
    def models(self) -> list[str]:
        """Models that may be asked."""
        return self._sessions.models

    @property
    def phases(self) -> list[str]:
        """Phases that may be looked for."""
        return self._sessions.phase_choices(self.model)

    @property
    def layers(self) -> list[str]:
        """Pictures of the scan."""
        return [self._picture.name, *self.current.names]

    @property
    def _reads(self) -> bool:
        """Whether there are patterns for a virtual detector."""
        return self._picture.name == VIRTUAL

    # ---------------------------------------------------------------- results
    @property
    def thresholds(self) -> dict:
        """Those that count now."""
        known = {} if self.opened is None else dict(self.opened.thresholds)
        known |= self.current.made_with() if self.source == "map" else {}
        return known | self._asked_thresholds()

    @property
    def xmap(self):
        """The map with the thresholds as they are now; None where there is none."""
        return self.current.final(self._of_map())

    def _of_map(self) -> dict:
        """Thresholds of the map: those that it was made with, and what was chosen here."""
        return self.current.made_with() | self._asked_thresholds()

    def _asked_thresholds(self) -> dict:
        return asked_thresholds({"threshold": self.threshold, "crystal_threshold": self.crystal_threshold})

    @property
    def code(self) -> str:
        """Lines that make the map that spots are taken from, or that of the model that is asked."""
        if self.source not in ("map", "model"):
            return f"# {self.source}: what the viewer was given"
        if self.source == "map":
            return self.current.code(self._asked_thresholds())
        return self._recipe().code()

    def _recipe(self) -> Recipe:
        """Describe what would be computed now."""
        given, known = self._given, self._sessions.limits(self.model)
        changed = {name: value for name, value in self._asked_thresholds().items() if value != known.get(name)}
        scales, center = None, given.center
        if self.scale_factor != 1 or any(self.center_shift):
            axes = self._signal.axes_manager.signal_axes
            scales = tuple(float(axis.scale) * self.scale_factor for axis in axes) if self.scale_factor != 1 else None
            if any(self.center_shift) and self.opened is not None and self.opened.center is None:
                raise ValueError(
                    "center_shift moves one direct beam, and here each pattern has its own: set it to (0, 0), or give "
                    "center=(row, column)."
                )
            if self.opened is not None and self.opened.center is not None:
                center = tuple(a + b for a, b in zip(self.opened.center, self.center_shift, strict=True))
        model, phases = self._sessions.model_and_phases(self.model, self.phase)
        n_best = _CANDIDATES if self.opened is None else min(_CANDIDATES, self.opened.most)
        return Recipe(
            model, phases, n_best, changed, scales, center, given.signal_mask, given.beam_energy, given.device
        )

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Save the map as it is now, or the picture that is shown.

        Parameters
        ----------
        path : str or pathlib.Path
            Ends in ``.h5``, ``.ang``, ``.ctf``, or in ``.png`` for the picture.
        overwrite : bool
            Replace a file that is there.

        Returns
        -------
        pathlib.Path

        Raises
        ------
        ValueError, FileExistsError, OSError
            If there is nothing to be saved, or it cannot be written.
        """
        layer, indexed, scores = self._draw((self.layer, self.candidate, self.crystal_threshold))
        hidden = None if indexed is None else indexed == 0
        limit = self._of_map().get("score", 0.0)
        if scores is not None and limit > 0:
            hidden |= ~(scores >= limit)
        path = self.current.save(path, self._of_map(), (layer, hidden), overwrite)
        self.say(f"Saved {path}")
        return path

    # ---------------------------------------------------------------- a position
    def _changed(self, event) -> None:
        if event.name in ("source", "model", "phase"):
            self.trait_setq(threshold=None, crystal_threshold=None)
            if event.name == "model":
                self.trait_setq(phase="all")
        if event.name in "xy" and self._navigator is not None:
            self._navigator.move(self.x, self.y)
        self._ask()

    def _ask(self) -> None:
        self._frames.submit(_Asked(self._number, {name: getattr(self, name) for name in FOUND_WITH}))

    def _find(self, asked: _Asked):
        """Answer in the thread of the frames; what goes wrong is an answer, too."""
        settings = asked.settings
        try:
            opened = self._sessions.open(settings, self.current)
            return asked, opened, opened.frame(settings, _CANDIDATES), ""
        except Exception as error:
            words = f"{error}" or type(error).__name__
        plain = self._sessions.plain(settings)
        try:
            return asked, plain, plain.frame(settings, _CANDIDATES), words
        except Exception as error:  # the pattern itself cannot be read
            nothing = np.zeros(self._sessions.detector, dtype=np.float32)
            frame = Frame(settings["x"], settings["y"], nothing, self._sessions.center, [], f"No pattern: {error}")
            return asked, plain, frame, words

    def _show(self, found) -> None:
        asked, opened, frame, error = found
        self.trait_setq(opened=opened)
        self.frame = frame
        for name, phase in opened.phases.items():
            if name not in self._keys:
                self._keys[name] = ColorKey(phase)
                self._send({"kind": "key", "phase": name}, [self._keys[name].png])
        message, buffers = frame_message(frame, self._keys)
        self._send(message | {"number": asked.number, "source": asked.settings["source"]}, buffers)
        if error:
            self.say(error, failed=True)
            self._no_frame = True
        elif self._no_frame:
            self._no_frame = False
            self.say("")
        self._tell()

    def wait(self, timeout: float | None = 60) -> bool:
        """Wait until all that was asked for is shown, for so many seconds at most; returns whether it is."""
        return self._frames.wait(timeout) and self._pictures.wait(timeout)

    # ---------------------------------------------------------------- the map
    def _relayer(self, event=None) -> None:
        self._pictures.submit((self.layer, self.candidate, self.crystal_threshold))

    def _draw(self, asked) -> tuple:
        name, candidate, crystal = asked
        if name == self._picture.name or not self.current.there:
            return self._picture, None, None
        return self.current.layer(name, candidate, crystal)

    def _show_layer(self, drawn) -> None:
        message, buffers = layer_message(*drawn)
        self._send(message, buffers)
        self._tell()

    def index(self) -> None:
        """Index the whole scan in the background, with the settings as they are now."""
        if self.source not in ("map", "model"):
            raise ValueError("Only orientations of a scan are indexed here.")
        recipe = self._recipe()
        self._done = 0
        self.say("Indexing ...")

        def work(stopped):
            growing = None
            for growing in recipe.iterate(self._signal, stopped, lambda line: None):
                self._grown(growing)
            if growing is None:
                self.say("Cancelled: nothing was done yet.")
                return
            n, total = growing.partial.n_done, growing.partial.n
            share = float((growing.to_map().phase_id >= 0).mean()) if n else 0.0
            how = f"Indexed {n} of {total} positions" if n == total else f"Cancelled: {n} of {total} positions are kept"
            self.say(f"{how}, {share:.0%} of them with an orientation")

        self._indexing.start(work)
        self._tell()

    def _grown(self, growing) -> None:
        self.current.grow(growing)
        self._done = growing.partial.n_done
        if self._closed:
            return
        if self.source == "map":
            self._ask()  # there may be more at this position now
        if self.layer == VIRTUAL:
            self.layer = self.current.names[0]
        else:
            self._relayer()
        self.say(f"Indexing: {self._done} of {growing.partial.n}")

    def cancel(self) -> None:
        """Stop indexing; what is done is kept. May be called twice."""
        self._indexing.cancel()

    def wait_for_index(self, timeout: float | None = None) -> bool:
        """Wait for the end of :meth:`index`, for so many seconds at most; returns whether it has come."""
        return self._indexing.wait(timeout)

    def show_virtual(self, inner: float | None = None, outer: float | None = None, center=None) -> None:
        """Read the scan for the image of a virtual detector, in the background.

        Parameters
        ----------
        inner, outer : float, optional
            Radii in pixels; by default a ring that leaves the direct beam out.
        center : tuple of float, optional
            (row, column) in pixels; by default the direct beam.
        """
        rows, columns = self._sessions.detector
        outer = 0.45 * min(rows, columns) if outer is None else number("outer", outer, 0)
        inner = 0.1 * min(rows, columns) if inner is None else number("inner", inner, 0)
        middle = self._sessions.center if center is None else tuple(number("center", each) for each in center)
        mask = ring((rows, columns), middle, inner, outer, self._given.signal_mask)

        def show(image, n):
            self._picture = Layer(VIRTUAL, image, unit="mean intensity per pixel")
            if self.layer == VIRTUAL:
                self._relayer()

        def work(stopped):
            image = virtual_image(self._sessions.data, self._sessions.shape, mask, show, stopped)
            if not stopped():
                show(image, image.size)

        self._reading.start(work)

    # ---------------------------------------------------------------- views
    def attach(self, send: Callable) -> None:
        """Add a view: ``send(header, buffers)`` is called with all that changes."""
        self._views.append(send)

    def detach(self, send: Callable) -> None:
        """Take a view away."""
        if send in self._views:
            self._views.remove(send)

    def _send(self, header: dict, buffers: list[bytes] | None = None) -> None:
        for send in list(self._views):
            try:
                send(header, buffers or [])
            except Exception:  # one that is gone must not keep the others from hearing it
                logger.exception("A view of the viewer could not be told.")

    def say(self, text: str, failed: bool = False) -> None:
        """Write into the status line."""
        self.status, self._failed = text, failed
        self._tell()

    def _fail(self, error: Exception) -> None:
        self.say(f"{error}" or type(error).__name__, failed=True)

    def state(self) -> dict:
        """All that a view needs to draw its controls."""
        chosen = {name: getattr(self, name) for name in SETTINGS}
        choices = {name: getattr(self, name) for name in ("sources", "models", "phases", "layers")}
        return chosen | choices | {
            "kind": "state", "grid": list(self.grid), "limits": self.thresholds,
            "map_threshold": self._of_map().get("score", 0.0), "step": self._sessions.step,
            "unit": self._sessions.unit, "detector": list(self._sessions.detector), "map": self.current.there,
            "most": 1 if self.opened is None else self.opened.most, "status": self.status, "failed": self._failed,
            "can_index": self.source in ("map", "model"), "running": self._indexing.running,
            "done": self._done, "scale": self._sessions.scale,
            "provenance": self._provenance(),
            "keys": [] if self.opened is None else list(self.opened.phases),
            "fixed_center": self.opened is not None and self.opened.center is not None,
        }  # fmt: skip

    def _provenance(self) -> str:
        """Say where the map comes from."""
        return "" if not self.current.there else str(provenance(self.current.shown()))

    def _tell(self, always: bool = False) -> None:
        """Send the state, if there is anything new in it; where the cursor is comes with the frames."""
        with self._telling:  # else an older state of another thread might be the last that is sent
            state = self.state()
            told = {name: value for name, value in state.items() if name not in ("x", "y")}
            if always or told != self._told:
                self._told = told
                self._send(state)

    def receive(self, message: dict) -> None:
        """Do what a view asks for; what cannot be done is said in the status line."""
        try:
            self._do(dict(message))
        except Exception as error:
            self._fail(error)

    def _do(self, message: dict) -> None:
        kind = message.get("kind")
        if kind == "ask":
            self._number = max(self._number, int(message["number"]))
            if self._failed and not self._no_frame:
                self.say("")
            self._set(message["set"])
        elif kind == "hello":
            self._shown += 1
            self._hello()
        elif kind == "bye":
            self._shown -= 1
            if self._shown < 1:  # the cell was run again: what nobody sees must not move with the navigator
                self.trait_set(link=False)
        elif kind in ("index", "cancel"):
            getattr(self, kind)()
        elif kind == "virtual":
            self.trait_set(layer=VIRTUAL)
            self.show_virtual(message["inner"], message["outer"], message["center"])
        elif kind == "code":
            self._send({"kind": "code", "text": self.code})
        elif kind == "save":
            self.save(message["path"], message.get("overwrite") is True)
        else:
            raise ValueError(f"The browser asks for {kind!r}, which this version does not know: reload the page.")

    def _set(self, values: dict) -> None:
        """Set several at once: one answer to all."""
        unknown = set(values) - set(SETTINGS)
        if unknown:
            raise ValueError(f"There is no setting {', '.join(sorted(unknown))}.")
        before = {name: getattr(self, name) for name in FOUND_WITH}
        try:
            self.trait_set(**values)
        finally:
            if all(getattr(self, name) == value for name, value in before.items()):
                self._ask()  # the browser waits for an answer to every question

    def _hello(self) -> None:
        """Send all that a view that has just been opened needs."""
        self._tell(always=True)
        for name, key in list(self._keys.items()):
            self._send({"kind": "key", "phase": name}, [key.png])
        mask = self._sessions.mask_on_screen()
        if mask is not None:
            self._send({"kind": "mask", "shape": list(mask.shape)}, [mask.tobytes()])
        self._ask()
        self._relayer()

    # ---------------------------------------------------------------- HyperSpy's navigator, and the end
    def _relink(self, event=None) -> None:
        if self._navigator is not None:
            self._navigator.close()
            self._navigator = None
        if self.link:
            self._navigator = NavigatorLink(self._signal, lambda x, y: self.trait_set(x=x, y=y))
            x, y = (*self._signal.axes_manager.indices, 0, 0)[:2]
            self.trait_set(x=int(x), y=int(y))
        self._tell()

    def close(self) -> None:
        """Stop all that is at work and untie the navigator; may be called twice."""
        self._closed = True
        self.cancel()
        self._reading.cancel()
        if self._navigator is not None:
            self._navigator.close()
            self._navigator = None
        self._frames.close()
        self._pictures.close()
        self._views.clear()

    def _ipython_display_(self) -> None:
        from IPython.display import display

        from pyxem_dl.gui.widget import make_widget

        display(make_widget(self))
