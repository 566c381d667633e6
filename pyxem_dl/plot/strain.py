"""Pictures of strain: maps with their errors."""

from __future__ import annotations

import numpy as np

from pyxem_dl.plot.checks import check_numbers
from pyxem_dl.plot.figures import new_figure
from pyxem_dl.plot.maps import NOT_INDEXED, _Grid

_TITLES = ("strain $e_{xx}$", "strain $e_{yy}$", "strain $e_{xy}$", "rotation")
_UNITS = ("%", "%", "%", "degrees")


def strain_map(strain, *, max_strain: float | None = None, max_rotation: float | None = None, title: str = ""):
    """Draw the maps of strain and rotation, and their errors below.

    Parameters
    ----------
    strain : pyxem_dl.Strain
        Of a scan in one or two dimensions; one in one dimension is drawn as curves with error bars.
    max_strain : float, optional
        Upper end of the colour scale of the three maps of strain, which is symmetric; by default the 99th percentile of
        the absolute values.
    max_rotation : float, optional
        The same of the rotation, in degrees.
    title : str
        Of the figure; by default that of the scan.

    Returns
    -------
    matplotlib.figure.Figure
        Positions without a lattice are grey.  Red is longer, and turned counterclockwise.
    """
    if not hasattr(strain, "e_xx_error"):
        raise TypeError(f"Expected what pyxem_dl.strain_map returns, not {type(strain).__name__}.")
    if len(strain.shape) not in (1, 2):
        raise ValueError(f"Maps have 1 or 2 dimensions, the strain of a single pattern has none: {strain!r}.")
    given = {"max_strain": max_strain, "max_rotation": max_rotation}
    check_numbers(**{name: value for name, value in given.items() if value is not None})
    factors = np.array([100, 100, 100, 1])
    values, errors = ((factors * np.moveaxis(maps, 0, -1)) for maps in (strain.values, strain.errors))
    limits = [100 * (max_strain or _limit(strain.values[:3]))] * 3 + [max_rotation or _limit(strain.values[3])]
    draw = _curves if len(strain.shape) == 1 else _maps
    figure = draw(strain, values, errors, limits)
    figure.suptitle(title or strain.title or "Strain")
    return figure


def _limit(values: np.ndarray) -> float:
    there = np.abs(values[np.isfinite(values)])
    return float(np.percentile(there, 99)) or 1e-6 if there.size else 1.0


def _grid(strain) -> _Grid:
    """Where positions are drawn, in the unit of the scan."""
    steps = [abs(axis.get("scale", 1.0)) or 1.0 for axis in strain.axes]
    unit = strain.axes[0].get("units", "")
    return _Grid.regular(strain.shape, steps, "px" if unit in ("", "<undefined>", "None") else unit)


def _maps(strain, values, errors, limits):
    """Four maps above their errors."""
    grid = _grid(strain)
    rows, columns = (n * step for n, step in zip(strain.shape, grid.steps[::-1], strict=True))
    wide = columns > 2.5 * rows
    cells = (4, 2) if wide else (2, 4)
    height = min(max((4.9 if wide else 2.3) * rows / columns, 0.8), 6.0)
    figure = new_figure(15.0 if not wide else 13.0, cells[0] * (height + 0.9) + 0.6)
    axes = figure.subplots(*cells, squeeze=False)
    axes = axes if wide else axes.T
    for i, (name, unit, limit) in enumerate(zip(_TITLES, _UNITS, limits, strict=True)):
        pictures = ((values, name, "RdBu_r", (-limit, limit)), (errors, f"error of the {name}", "viridis", (0, None)))
        for each, (maps, label, colors, (low, high)) in zip(axes[i], pictures, strict=True):
            each.set_facecolor(NOT_INDEXED)
            high = 1.5 * _limit(maps[..., i]) if high is None else high
            shown = grid.show(each, maps[..., i], cmap=colors, vmin=low, vmax=high, interpolation="nearest")
            each.set_title(label, fontsize=10)
            figure.colorbar(shown, ax=each, label=unit)
    return figure


def _curves(strain, values, errors, limits):
    """Curves of a line of positions, with error bars."""
    figure = new_figure(9.0, 8.0)
    grid = _grid(strain)
    x = np.arange(strain.shape[0]) * grid.steps[0]
    for i, axes in enumerate(figure.subplots(4, 1, sharex=True)):
        axes.axhline(0, color=NOT_INDEXED, linewidth=1)
        axes.errorbar(x, values[:, i], errors[:, i], fmt=".-", linewidth=1, capsize=2)
        axes.set_ylabel(f"{_TITLES[i]} ({_UNITS[i]})")
        axes.set_ylim(-1.3 * limits[i], 1.3 * limits[i])
    axes.set_xlabel(f"x ({grid.unit})")
    return figure
