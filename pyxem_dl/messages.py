"""What the package says: warnings that point at the user's own line, and lines that are printed and logged."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType

_PACKAGE = __name__.partition(".")[0]
_heard: ContextVar[list[str] | None] = ContextVar("heard", default=None)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line of the user's code that called the package.

    Parameters
    ----------
    message : str
        Text of the warning.
    category : type of Warning, optional
        Default is UserWarning.

    Notes
    -----
    ``warnings.warn(..., stacklevel=n)`` needs the number of calls in between, which differs between a method of a
    signal and the function that it calls; ``skip_file_prefixes`` needs Python 3.12, and stops at other packages
    (Lightning, dask) that call ours back.
    """
    frame = _user_frame(sys._getframe(1))
    module = frame.f_globals.get("__name__", "<string>")
    texts = _heard.get()
    if texts is not None and category is UserWarning and message not in texts:
        texts.append(message)
    registry = frame.f_globals.setdefault("__warningregistry__", {})
    warnings.warn_explicit(message, category, frame.f_code.co_filename, frame.f_lineno, module, registry)


@contextmanager
def heard() -> Iterator[list[str]]:
    """Keep the texts of what the package warns of in this thread; it is warned of nevertheless.

    Yields
    ------
    list of str
        Texts of plain warnings, each once.

    Notes
    -----
    ``warnings.catch_warnings`` changes the filters of all threads, and threads that leave it in another order than
    they came leave them changed: afterwards a notebook would show no warning any more.
    """
    texts: list[str] = []
    token = _heard.set(texts)
    try:
        yield texts
    finally:
        _heard.reset(token)


def say(text: str) -> None:
    """Print what is being done, and log it (level INFO) as the module that says it.

    Parameters
    ----------
    text : str
        One or more lines.
    """
    print(text, flush=True)
    logging.getLogger(sys._getframe(1).f_globals["__name__"]).info(text)


def _user_frame(frame: FrameType) -> FrameType:
    """Caller of the outermost frame of this package; that frame itself where it has no caller, as in a thread."""
    found, each = frame, frame
    while each is not None:
        name = each.f_globals.get("__name__", "")
        if name == _PACKAGE or name.startswith(f"{_PACKAGE}."):
            found = each.f_back or each
        each = each.f_back
    while found.f_back is not None and found.f_globals.get("__name__", "").startswith("importlib."):
        found = found.f_back  # who imports a module of ours stands behind Python's own machinery
    return found
