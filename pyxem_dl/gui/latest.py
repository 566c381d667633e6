"""One request at a time, and of those that wait only the newest: a viewer that follows a cursor is never behind."""

from __future__ import annotations

import threading
from collections.abc import Callable

_NOTHING = object()


class Latest:
    """Answers requests in a thread of its own, one at a time; the newest that comes meanwhile is the next.

    Answers come in the order of their requests, and the last one is that of the newest request.

    Parameters
    ----------
    answer : callable
        ``answer(request)``, which may take long.
    deliver : callable
        ``deliver(result)``, called in the same thread.

    Attributes
    ----------
    error : str
        What the last request ran into, here or in `deliver`; empty where it went well.

    Examples
    --------
    >>> shown = []
    >>> with Latest(lambda x: x**2, shown.append) as squares:
    ...     squares.submit(3)
    ...     squares.wait(10)
    True
    >>> shown
    [9]
    """

    def __init__(self, answer: Callable, deliver: Callable) -> None:
        self._answer, self._deliver = answer, deliver
        self._waiting, self._busy, self._closed, self.error = _NOTHING, False, False, ""
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="pyxem_dl-latest", daemon=True)
        self._thread.start()

    def submit(self, request) -> None:
        """Ask; returns at once, from any thread.

        Raises
        ------
        RuntimeError
            After :meth:`close`.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError("This viewer is closed: open a new one.")
            self._waiting = request
            self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all is answered, for so many seconds at most; returns whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._waiting is _NOTHING and not self._busy, timeout)

    def close(self, timeout: float | None = None) -> None:
        """End the thread after the request that it is at; the one that waits is not answered any more.

        Parameters
        ----------
        timeout : float, optional
            How many seconds to wait for that.
        """
        with self._changed:
            self._closed, self._waiting = True, _NOTHING
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)

    def __enter__(self) -> Latest:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting is not _NOTHING)
                if self._closed:
                    return
                request, self._waiting, self._busy = self._waiting, _NOTHING, True
            error = ""
            try:
                self._deliver(self._answer(request))
            except Exception as failed:  # nobody sees what a thread raises
                error = f"{type(failed).__name__}: {failed}".removesuffix(": ")
            with self._changed:
                self.error, self._busy = error, False
                self._changed.notify_all()
