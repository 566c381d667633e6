"""What the package says: warnings that point at the user's own line, and lines that are printed and logged."""

from __future__ import annotations

import logging
import sys
import warnings
from types import FrameType

_PACKAGE = __name__.partition(".")[0]


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
    registry = frame.f_globals.setdefault("__warningregistry__", {})
    warnings.warn_explicit(message, category, frame.f_code.co_filename, frame.f_lineno, module, registry)


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
