"""Figures that belong to no window, and that a notebook shows all the same."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


class NotebookFigure(Figure):
    """Figure without pyplot: nothing keeps it alive, and as the last line of a notebook's cell it is a picture.

    A notebook shows matplotlib's own figures only after pyplot has been used in it.
    """

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


def new_figure(width: float, height: float, dpi: float = 150) -> NotebookFigure:
    """Make a figure of a size in inches."""
    return NotebookFigure(figsize=(width, height), layout="constrained", dpi=dpi)
