"""Pictures of grains and of what was settled."""

from __future__ import annotations

import colorsys

import numpy as np

from pyxem_dl.plot.figures import new_figure
from pyxem_dl.plot.maps import NOT_INDEXED, _Grid, ipf_colors

# Each hue is far from those before it
_GOLDEN = 0.6180339887
_BOUNDARIES = (("general", "black"), ("Σ3", "red"), ("half-turn", "magenta"), ("phases", "white"))


def distinct_colors(n: int) -> np.ndarray:
    """Make n colours (n, 3), from 0 to 1, each unlike those just before it."""
    return np.array([colorsys.hsv_to_rgb(i * _GOLDEN % 1, 0.55, 0.95) for i in range(n)]).reshape(n, 3)


def grain_map(grains, *, color: str = "grains", title: str = ""):
    """Draw grains with the boundaries between them.

    Parameters
    ----------
    grains : pyxem_dl.Grains
        What :func:`pyxem_dl.grains` returns.
    color : {"grains", "mean", "kam", "grod"}
        Each grain in a colour of its own, in that of the crystal direction along the beam of its mean orientation, or
        each position by its kernel average misorientation or its disorientation from the mean orientation.
    title : str
        Above the map.

    Returns
    -------
    matplotlib.figure.Figure
        Boundaries are black; those of Σ3 red, half-turn twins magenta, and those between phases white.  Positions that
        are not indexed are grey.
    """
    if not hasattr(grains, "grain_id") or not hasattr(grains, "boundaries"):
        raise TypeError(f"Expected what pyxem_dl.grains returns, not {type(grains).__name__}.")
    if color not in ("grains", "mean", "kam", "grod"):
        raise ValueError(f"color must be 'grains', 'mean', 'kam' or 'grod', not {color!r}.")
    from matplotlib.colors import to_rgb

    grid, label = _Grid.of(grains.xmap), grains.grain_id
    figure = new_figure(5.6, 3.8 / grid.aspect + 1.2)
    axes = figure.add_subplot()
    if color in ("kam", "grod"):
        _show_numbers(figure, axes, grid, grains.xmap.prop[color], color)
    else:
        phases = {key: phase for key, phase in grains.xmap.phases if key >= 0}
        each = distinct_colors(len(grains)) if color == "grains" else ipf_colors(
            grains.mean.data, grains.phase_id, phases, "z"
        )  # fmt: skip
        image = np.empty((*grid.shape, 3))
        image[:] = to_rgb(NOT_INDEXED)
        grid.fill(image, np.vstack([each.reshape(-1, 3), to_rgb(NOT_INDEXED)])[label])
        grid.show(axes, image, interpolation="nearest")
    _draw_boundaries(figure, axes, grid, grains.boundaries)
    axes.set_title(title or f"{len(grains)} grains, threshold {grains.threshold:g}°", fontsize=11)
    return figure


def _show_numbers(figure, axes, grid: _Grid, values, name: str) -> None:
    import matplotlib

    image = np.full(grid.shape, np.nan)
    grid.fill(image, values)
    cmap = matplotlib.colormaps["viridis"].with_extremes(bad=NOT_INDEXED)
    top = float(np.nanpercentile(values, 98)) if np.isfinite(values).any() else 1.0
    drawn = grid.show(axes, image, cmap=cmap, vmin=0, vmax=top or 1.0, interpolation="nearest")
    label = {"kam": "kernel average misorientation (°)", "grod": "from the grain's mean orientation (°)"}[name]
    figure.colorbar(drawn, ax=axes, label=label, shrink=0.85)


def _draw_boundaries(figure, axes, grid: _Grid, boundaries) -> None:
    """Draw a line between the two positions of each pair."""
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D

    step = np.array(grid.steps)
    place = np.stack([grid.column, grid.row], axis=1) * step
    a, b = (place[boundaries.positions[:, i]] for i in (0, 1))
    across = np.where(b > a, 0.0, 0.5) * step
    middle, kind, there = (a + b) / 2, boundaries.kind, []
    for name, color in _BOUNDARIES:
        here = kind == name
        if here.any():
            lines = np.stack([middle[here] - across[here], middle[here] + across[here]], axis=1)
            axes.add_collection(LineCollection(lines, colors=color, linewidths=1.2, capstyle="projecting"))
            there.append(Line2D([], [], color=color, label=name))
    if there:
        legend = figure.legend(handles=there, loc="outside lower center", ncols=4, fontsize=9, title="boundaries")
        legend.get_frame().set_facecolor("lightgray")
