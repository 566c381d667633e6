"""Curves: what choosing labels gains, and whether uncertainties are as large as errors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pyxem_dl.metrics import reliability_curve
from pyxem_dl.plot.checks import check_numbers
from pyxem_dl.plot.figures import new_figure
from pyxem_dl.results.labels import SelectionCurve


def selection_curves(curves: SelectionCurve | list[SelectionCurve], *, title: str = ""):
    """Draw which share of the kept labels is right against the share that is kept.

    Parameters
    ----------
    curves : SelectionCurve or list of SelectionCurve
        From :func:`pyxem_dl.results.selection_curve`.
    title : str
        Above all.

    Returns
    -------
    matplotlib.figure.Figure
    """
    curves = [curves] if isinstance(curves, SelectionCurve) else list(curves)
    wrong = [type(curve).__name__ for curve in curves if not isinstance(curve, SelectionCurve)]
    if wrong or not curves:
        raise TypeError(
            "Give curves of `pyxem_dl.results.selection_curve(labels, truth, by)`, one or a list of them, not "
            f"{', '.join(wrong) or 'an empty list'}."
        )
    figure = new_figure(5.5, 4.2, dpi=100)
    axes = figure.subplots()
    for curve in curves:
        (line,) = axes.plot(curve.kept, curve.agreement, "o-", markersize=3, label=f"by {curve.name}")
        step = max(1, len(curve.kept) // 4)
        # the first threshold, with which all are kept, says nothing
        for i in range(step, len(curve.kept), step):
            axes.annotate(f"{curve.threshold[i]:.2g}", (curve.kept[i], curve.agreement[i]), fontsize=7,
                          xytext=(3, 3), textcoords="offset points", color=line.get_color())  # fmt: skip
    axes.set(
        xlabel="share of the labels that is kept", ylabel=f"of these, within {curves[0].tolerance:g}° of the truth",
        xlim=(0, 1.02), ylim=(None, 1.02), title=title,
    )  # fmt: skip
    axes.legend()
    return figure


def reliability_diagram(pairs: Mapping[str, tuple], *, title: str = "", n_bins: int = 10):
    """Draw errors against what was said of them: on the diagonal, what is called 2° is wrong by 2°.

    Parameters
    ----------
    pairs : mapping of str to (array, array)
        Expected error, as ``xmap.prop["uncertainty"]``, and true error (both degrees, of one shape), by name.
    title : str
        Above all.
    n_bins : int
        Groups of equal size, from the surest to the least sure.

    Returns
    -------
    matplotlib.figure.Figure
        With the root mean square error and the error of the middle pattern of each group.
    """
    if not isinstance(pairs, Mapping) or not pairs:
        raise TypeError(
            "Give {name: (expected error, true error)}, both in degrees and of one shape, for example "
            "{'held out': (xmap.prop['uncertainty'], angles)}."
        )
    for name, pair in pairs.items():
        if len(pair) != 2 or np.shape(pair[0]) != np.shape(pair[1]):
            shapes = " and ".join(str(np.shape(each)) for each in pair)
            raise ValueError(f"{name!r} needs expected and true errors of one shape, not {shapes}.")
    check_numbers(n_bins=n_bins)
    figure = new_figure(5.2, 4.8, dpi=100)
    axes = figure.subplots()
    highest, lowest = 1.0, 1.0
    for name, (expected, error) in pairs.items():
        curve = reliability_curve(expected, error, n_bins)
        (line,) = axes.plot(curve.expected, curve.rms, "o-", markersize=4, label=f"{name}, root mean square")
        axes.plot(curve.expected, curve.median, "s--", markersize=3, color=line.get_color(), label=f"{name}, median")
        seen = np.concatenate([curve.expected, curve.rms, np.maximum(curve.median, 0.05)])
        highest, lowest = max(highest, seen.max()), min(lowest, seen.min())
    axes.plot([lowest, highest], [lowest, highest], color="0.6", linewidth=1, zorder=0)
    axes.set(xscale="log", yscale="log", xlabel="expected error (degrees)", ylabel="true error (degrees)", title=title)
    axes.legend(fontsize=8)
    return figure
