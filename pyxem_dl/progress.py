"""Progress bars: where they can be seen, and where they are only lines of a log."""

from __future__ import annotations

import sys


def progressbar(total: int, show: bool | None, unit: str = " patterns", *, scaled: bool = False):
    """Return tqdm's bar; `show` None asks HyperSpy's preference, and `scaled` is for the bytes of a file."""
    from tqdm.auto import tqdm

    if show is None:
        import hyperspy.api as hs

        show = hs.preferences.General.show_progressbar
    # in a log file every refresh is a line of its own
    return tqdm(total=total, unit=unit, disable=not show, mininterval=0.1 if can_draw() else 30.0,
                unit_scale=scaled)  # fmt: skip


def can_draw() -> bool:
    """Whether a bar can be seen: in a terminal, or in a notebook."""
    if sys.stderr is not None and sys.stderr.isatty():
        return True
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None
