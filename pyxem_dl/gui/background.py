"""Long work in a thread of its own, of which there is one at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Background:
    """Runs one piece of work at a time; a new one waits until the old one has stopped.

    Parameters
    ----------
    failed : callable
        ``failed(error)``, called in the thread with what the work raised.
    ended : callable, optional
        ``ended()``, called in the thread when no work is left.

    Attributes
    ----------
    running : bool
        Whether there is work; no longer when `ended` is called.
    """

    def __init__(self, failed: Callable, ended: Callable | None = None) -> None:
        self._failed, self._ended, self._thread, self._stop = failed, ended, None, threading.Event()
        self.running = False

    def start(self, work: Callable) -> None:
        """Begin; what is at work is stopped.

        Parameters
        ----------
        work : callable
            ``work(stopped)``; it returns soon after ``stopped()`` is true.
        """
        self.cancel()
        before, stop = self._thread, threading.Event()

        def run():
            if before is not None:
                before.join()
            try:
                if not stop.is_set():
                    work(stop.is_set)
            except Exception as error:  # nobody sees what a thread raises
                self._failed(error)
            if self._stop is stop:  # nothing was started meanwhile
                self.running = False
                if self._ended is not None:
                    self._ended()

        self._stop, self.running = stop, True
        self._thread = threading.Thread(target=run, name="pyxem_dl-background", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Ask what is at work to stop; may be called at any time, and twice."""
        self._stop.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end, for so many seconds at most; returns whether it has come."""
        if self._thread is not None:
            self._thread.join(timeout)
        return self._thread is None or not self._thread.is_alive()
