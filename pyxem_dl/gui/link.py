"""The cursor of a viewer tied to HyperSpy's navigator."""

from __future__ import annotations

import logging
from collections.abc import Callable

logger = logging.getLogger(__name__)


class NavigatorLink:
    """Ties a position to ``signal.axes_manager.indices``, both ways.

    Parameters
    ----------
    signal : hyperspy.api.signals.BaseSignal
        Whose navigator it is.
    moved : callable
        ``moved(x, y)``, called when HyperSpy's position has changed; what it raises never reaches the navigator.
    """

    def __init__(self, signal, moved: Callable) -> None:
        self._manager, self._moved = signal.axes_manager, moved
        self._seen = self._position()
        self._manager.events.indices_changed.connect(self._changed, [])

    def move(self, x: int, y: int) -> None:
        """Move HyperSpy's navigator."""
        indices = (x, y)[: self._manager.navigation_dimension]
        self._seen = x, y
        if indices and tuple(self._manager.indices) != indices:
            self._manager.indices = indices

    def close(self) -> None:
        """Untie them; may be called twice."""
        if self._changed in self._manager.events.indices_changed.connected:
            self._manager.events.indices_changed.disconnect(self._changed)

    def _position(self) -> tuple[int, int]:
        x, y = (*self._manager.indices, 0, 0)[:2]
        return int(x), int(y)

    def _changed(self) -> None:
        position = self._position()
        if position == self._seen:  # HyperSpy tells of every axis by itself
            return
        self._seen = position
        try:
            self._moved(*position)
        except Exception:
            logger.exception("The viewer could not follow the navigator to %s.", position)
