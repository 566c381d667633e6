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
    """

    def __init__(self, failed: Callable) -> None:
        self._failed, self._thread, self._stop = failed, None, threading.Event()

    @property
    def running(self) -> bool:
        """Whether there is work."""
        return self._thread is not None and self._thread.is_alive()

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

        self._stop = stop
        self._thread = threading.Thread(target=run, name="pyxem_dl-background", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Ask what is at work to stop; may be called at any time, and twice."""
        self._stop.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end, for so many seconds at most; returns whether it has come."""
        if self._thread is not None:
            self._thread.join(timeout)
        return not self.running
