"""Pictures of results: orientation maps with their keys, comparisons, and patterns with simulated spots.

Every function returns a matplotlib figure that belongs to no window, so that it can be shown in a notebook and saved
in a script alike.  Maps are drawn as the scan was made: x to the right, y downwards, in the scan's unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from pyxem_dl.frames import Calibration, distorted, k_to_pixel, pixel_to_k
from pyxem_dl.metrics import disorientation
from pyxem_dl.plot.checks import best_of, check_map, check_numbers, check_positions, check_property
from pyxem_dl.plot.figures import new_figure
from pyxem_dl.results.maps import NOT_INDEXED, property_of
from pyxem_dl.results.spots import predict_spots
from pyxem_dl.symmetry import laue_group, setting

_DIRECTIONS = {
    "x": ((1, 0, 0), "x, to the right in the pattern"),
    "y": ((0, 1, 0), "y, upwards in the pattern"),
    "z": ((0, 0, 1), "z, along the beam"),
}
_SPOT_COLORS = ("#00c8ff", "#ff3d7f", "#ffd000", "#4de04d")
_SPOT_MARKERS = ("o", "s", "D", "^")


def orientation_map(xmap, *, directions: str | Sequence[str] = ("z", "x"), brightness=None, title: str = ""):
    """Draw a map of inverse pole figure colours, with the colour key of each phase.

    Parameters
    ----------
    xmap : orix.crystal_map.CrystalMap
        Of a scan in one or two dimensions; the best orientation of each point is drawn.
    directions : {"x", "y", "z"} or a sequence of these
        One map for each: the colour says which crystal direction is parallel to this axis of the lab (z is along the
        beam, x and y are those of the pattern).
    brightness : str or array, optional
        A property of the map, such as "reliability", or values for its points.  From its 2nd to its 98th percentile,
        colours go from a third of their brightness to full.  If a point has several values the first is used.
    title : str
        Of the figure.

    Returns
    -------
    matplotlib.figure.Figure
        Points that are not indexed, or not in the map's data, are grey.

    Raises
    ------
    TypeError, ValueError
        For a map that is none, an unknown direction, and a property that the map does not have.
    """
    check_map(xmap)
    directions = [directions] if isinstance(directions, str) else list(directions)
    unknown = [d for d in directions if d not in _DIRECTIONS]
    if unknown or not directions:
        raise ValueError(f"directions must be 'x', 'y' or 'z', not {unknown or directions!r}.")
    factors = _brightness(xmap, brightness)
    from matplotlib.colors import to_rgb

    phases = {key: phase for key, phase in xmap.phases if key >= 0}
    grid = _Grid.of(xmap)
    width = 4.2 * len(directions) + 2.3
    figure = new_figure(width, 3.8 / grid.aspect + 1.5)
    columns = figure.add_gridspec(1, len(directions) + 1, width_ratios=[*[4.2] * len(directions), 2.0])
    for i, direction in enumerate(directions):
        axes = figure.add_subplot(columns[i])
        image = np.empty((*grid.shape, 3))
        image[:] = to_rgb(NOT_INDEXED)
        colors = ipf_colors(_best_quaternions(xmap), xmap.phase_id, phases, direction) * factors[:, None]
        grid.fill(image, np.where((xmap.phase_id >= 0)[:, None], colors, to_rgb(NOT_INDEXED)))
        grid.show(axes, image, interpolation="nearest")
        axes.set_title(f"Crystal direction along {_DIRECTIONS[direction][1]}", fontsize=10)
    _draw_keys(figure, columns[-1], phases)
    if grid.has_gaps(xmap.phase_id >= 0):
        _not_indexed_legend(figure)
    figure.suptitle(title or "Orientations")
    return figure


def property_map(xmap, name: str = "reliability", *, title: str = "", label: str = "", **imshow):
    """Draw a property of a map, such as its reliability or score.

    Parameters
    ----------
    xmap : orix.crystal_map.CrystalMap
        Of a scan in one or two dimensions.
    name : str
        A key of ``xmap.prop``; if a point has several values the first is drawn.
    title, label : str
        Above the map, and beside the colour bar.
    **imshow
        Passed to matplotlib's ``imshow``, for example ``vmin``, ``vmax`` and ``cmap``.

    Returns
    -------
    matplotlib.figure.Figure
        Points that are not indexed are grey.
    """
    check_map(xmap)
    values = check_property(xmap, name)
    values = np.where(xmap.phase_id >= 0, values, np.nan)
    label = label or {"reliability": "1 − second score / first score"}.get(name, name)
    return _value_map(_Grid.of(xmap), values, title or name.capitalize(), label, **({"cmap": "viridis"} | imshow))


def disorientation_map(a, b, *, modulo_180: bool = True, title: str = "", max_angle: float | None = None):
    """Draw the disorientation between two maps of one scan.

    Parameters
    ----------
    a, b : orix.crystal_map.CrystalMap
        With the same points; phases of the same name are the same.
    modulo_180 : bool
        Count orientations that differ by 180 degrees about the beam as the same: zero-order spots cannot tell them
        apart.
    title : str
        Above the map.
    max_angle : float, optional
        Upper end of the colour scale in degrees; by default 62.8, the largest possible for cubic crystals, or more if
        it occurs.

    Returns
    -------
    matplotlib.figure.Figure
        Points are grey if one of the maps does not index them, or if the maps give them different phases.
    """
    check_map(a)
    check_map(b)
    if max_angle is not None:
        check_numbers(max_angle=max_angle)
    angles = disorientation(a, b, modulo_180=modulo_180)
    known = angles[np.isfinite(angles)]
    if max_angle is None:
        max_angle = max(62.8, known.max(initial=0))
    title = title or "Disorientation" + (" modulo 180° about the beam" if modulo_180 else "")
    if known.size:
        title += f"\nmedian {np.median(known):.1f}°, {np.mean(known < 5):.0%} within 5° (n = {known.size})"
    return _value_map(_Grid.of(a), angles, title, "degrees", cmap="magma", vmin=0, vmax=max_angle)


def virtual_image(signal, *, inner: float = 0.3, outer: float = 1.2, title: str = ""):
    """Draw the image of a virtual annular detector.

    Parameters
    ----------
    signal : pyxem.signals.Diffraction2D
        A calibrated scan in one or two dimensions, in memory or lazy.
    inner, outer : float
        Radii of the detector in Å⁻¹.  An `inner` of 0 makes it a disk (bright field).
    title : str
        Above the image.

    Returns
    -------
    matplotlib.figure.Figure
        With the mean intensity per pixel of the detector.
    """
    if not 0 <= inner < outer:
        raise ValueError(f"inner and outer must be radii in Å⁻¹ with 0 <= inner < outer, not {inner!r} and {outer!r}.")
    calibration = Calibration.from_signal(signal)
    row, column = np.indices(calibration.shape)
    k = np.hypot(*pixel_to_k(row, column, calibration))
    detector = (k >= inner) & (k < outer)
    if not detector.any():
        raise ValueError(f"No pixel lies between {inner:g} and {outer:g} Å⁻¹.")
    axes = signal.axes_manager.navigation_axes
    shape = signal.axes_manager._navigation_shape_in_array
    if len(shape) not in (1, 2):
        raise ValueError(f"The scan must have 1 or 2 navigation dimensions, not {len(shape)}.")
    values = np.asarray((signal.data * detector).sum(axis=(-2, -1)) / detector.sum()).ravel()
    steps = [abs(axis.scale) or 1.0 for axis in axes]
    unit = str(axes[0].units)
    grid = _Grid.regular(shape, steps, "px" if unit in ("<undefined>", "None", "") else unit)
    title = title or f"Virtual image, {inner:g} to {outer:g} Å⁻¹"
    return _value_map(grid, values, title, "mean intensity per pixel", cmap="gray")


def patterns_with_spots(
    signal,
    maps,
    positions=None,
    *,
    reciprocal_radius: float | None = None,
    max_excitation_error: float = 0.03,
    gamma: float = 0.4,
    title: str = "",
):
    """Draw patterns with the spots that the orientations of one or more maps predict.

    Parameters
    ----------
    signal : pyxem.signals.Diffraction2D
        A calibrated scan with the beam energy in its metadata, in memory or lazy.
    maps : CrystalMap, or dict of str to CrystalMap
        Of the whole scan; several get a colour and a name in the legend each.
    positions : sequence of int, optional
        Flat indices of the patterns in data order, or their indices (row, column) of the scan (one index for a line
        scan); by default six of :func:`spread_positions` of the first map.
    reciprocal_radius : float, optional
        How far out patterns and spots are drawn, in Å⁻¹; by default the detector's nearest edge.
    max_excitation_error : float
        Largest distance of drawn reflections from the Ewald sphere, in Å⁻¹.
    gamma : float
        Exponent of the drawn intensity.
    title : str
        Of the figure.

    Returns
    -------
    matplotlib.figure.Figure
        Markers grow with the kinematical intensity.

    Raises
    ------
    TypeError, ValueError
        For maps that are none, or of another scan; for positions outside of the scan; for a signal without
        calibration or beam energy.

    See Also
    --------
    markers : The same on every pattern of ``s.plot()``.
    """
    maps = dict(maps) if isinstance(maps, Mapping) else {"": maps}
    calibration = Calibration.from_signal(signal)
    _ = calibration.wavelength  # its error before anything is drawn
    shape = tuple(signal.axes_manager._navigation_shape_in_array)
    for xmap in maps.values():
        check_map(xmap, shape)
    given = {} if reciprocal_radius is None else {"reciprocal_radius": reciprocal_radius}
    check_numbers(max_excitation_error=max_excitation_error, gamma=gamma, **given)
    if positions is None:
        positions = spread_positions(next(iter(maps.values()))) if maps else []
    positions = check_positions(positions, shape)
    radius = min(reciprocal_radius or math.inf, calibration.reciprocal_radius)
    columns = min(3, len(positions))
    rows = math.ceil(len(positions) / columns)
    figure = new_figure(3.7 * columns, 3.7 * rows + 1.0)
    for i, index in enumerate(positions):
        axes = figure.add_subplot(rows, columns, i + 1)
        where = np.unravel_index(index, shape) if shape else ()
        _show_pattern(axes, np.asarray(signal.data[where]), calibration, radius, gamma)
        for m, (name, xmap) in enumerate(maps.items()):
            spots = _spots_at(xmap, index, calibration, radius, max_excitation_error)
            _draw_spots(axes, spots, name, m)
        axes.set_title("(x, y) = ({})".format(", ".join(str(w) for w in where[::-1])) if shape else "", fontsize=9)
        if i >= len(positions) - columns:
            axes.set_xlabel("$k_x$ (Å⁻¹)")
        if i % columns == 0:
            axes.set_ylabel("$k_y$ (Å⁻¹)")
    _legend(figure, maps)
    figure.suptitle(title or "Patterns and predicted spots")
    return figure


def spread_positions(xmap, n: int = 6, *, among=None) -> np.ndarray:
    """Choose indexed points that are reliable, and differ in orientation and position.

    Parameters
    ----------
    xmap : orix.crystal_map.CrystalMap
        A map; its property "reliability" is used where there is one.
    n : int
        How many, at most.
    among : array of bool, optional
        For the points in the map's data: those to choose from.

    Returns
    -------
    array of int, shape (m,)
        Flat indices into the whole scan, in rising order.
    """
    check_map(xmap)
    if among is not None and np.shape(among) != (xmap.size,):
        raise ValueError(f"among has the shape {np.shape(among)}; the map has {xmap.size} points in its data.")
    indexed = np.flatnonzero((xmap.phase_id >= 0) & (True if among is None else np.asarray(among, dtype=bool)))
    if not indexed.size:
        return indexed
    trust = np.asarray(property_of(xmap, "reliability", np.ones(xmap.size)), dtype=float)
    indexed = indexed[trust[indexed] >= np.median(trust[indexed])]
    grid = _Grid.of(xmap)
    place = np.stack([grid.row, grid.column], axis=1)[indexed] / max(grid.shape)
    quaternions = _best_quaternions(xmap)[indexed]
    phase = next(phase for key, phase in xmap.phases if key == xmap.phase_id[indexed[0]])
    chosen = [int(np.argmax(trust[indexed]))]
    distance = np.full(len(indexed), np.inf)
    while len(chosen) < min(n, len(indexed)):
        last = chosen[-1]
        angle = disorientation(quaternions, quaternions[last], phase, modulo_180=True)
        # 10 degrees count as much as a quarter of the scan
        away = np.minimum(angle / 40, 0.5) + np.linalg.norm(place - place[last], axis=1)
        distance = np.minimum(distance, away)
        chosen.append(int(np.argmax(distance)))
    return np.sort(xmap.id[indexed[np.unique(chosen)]])


class _Grid:
    """Where the points of a scan are drawn."""

    def __init__(self, shape, row, column, steps, unit: str) -> None:
        self.shape, self.row, self.column = shape, row, column
        self.steps, self.unit = steps, unit

    @classmethod
    def regular(cls, shape, steps, unit) -> _Grid:
        """Grid of all points of a scan; `shape` in data order, `steps` (x, y)."""
        shape = (1, *shape) if len(shape) == 1 else tuple(shape)
        row, column = np.indices(shape).reshape(2, -1)
        return cls(shape, row, column, (*steps, steps[0])[:2], unit)

    @classmethod
    def of(cls, xmap) -> _Grid:
        """Grid of the points in a map's data, in the frame of the whole scan."""
        whole_x, whole_y = (_all_coordinates(xmap, name) for name in "xy")
        step_x, row_size = _steps(whole_x)
        step_y, column_size = _steps(whole_y)
        column = np.round((whole_x - whole_x.min()) / step_x).astype(int)[xmap.is_in_data]
        row = np.round((whole_y - whole_y.min()) / step_y).astype(int)[xmap.is_in_data]
        unit = {"um": "µm"}.get(xmap.scan_unit, xmap.scan_unit)
        return cls((column_size, row_size), row, column, (step_x, step_y), unit)

    @property
    def aspect(self) -> float:
        """Width by height of the drawn scan, within reason."""
        (rows, columns), (dx, dy) = self.shape, self.steps
        return min(3.0, max(0.5, columns * dx / (rows * dy)))

    def has_gaps(self, there) -> bool:
        """Whether points of the scan are not drawn, or not there."""
        return len(self.row) < self.shape[0] * self.shape[1] or not np.all(there)

    def fill(self, image, values) -> None:
        """Put values of the points into an image of the grid's shape."""
        image[self.row, self.column] = values

    def show(self, axes, image, **imshow):
        """Draw an image in the scan's unit, with a scale bar."""
        (rows, columns), (dx, dy) = self.shape, self.steps
        extent = (-dx / 2, (columns - 0.5) * dx, (rows - 0.5) * dy, -dy / 2)
        drawn = axes.imshow(image, extent=extent, **imshow)
        axes.set_xlabel(f"x ({self.unit})")
        axes.set_ylabel(f"y ({self.unit})")
        self._scale_bar(axes)
        return drawn

    def _scale_bar(self, axes) -> None:
        from matplotlib.offsetbox import AnchoredText
        from matplotlib.patches import Rectangle

        (rows, columns), (dx, dy) = self.shape, self.steps
        width, height = columns * dx, rows * dy
        if rows < 4:
            return
        raw = width / 4
        power = 10 ** math.floor(math.log10(raw))
        length = max(m * power for m in (1, 2, 5) if m * power <= raw)
        left, bottom = -dx / 2 + 0.05 * width, -dy / 2 + 0.95 * height
        axes.add_patch(
            Rectangle((left, bottom - 0.018 * height), length, 0.018 * height, facecolor="white", edgecolor="black")
        )
        text = AnchoredText(
            f"{length:g} {self.unit}", loc="lower left", frameon=False, pad=0, borderpad=0,
            bbox_to_anchor=(left, bottom - 0.03 * height), bbox_transform=axes.transData,
            prop={"color": "white", "fontsize": 9, "path_effects": _outline()},
        )  # fmt: skip
        axes.add_artist(text)


def _outline():
    """Black rim that keeps white text legible on any colour."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2, foreground="black")]


def _all_coordinates(xmap, name: str) -> np.ndarray:
    """Coordinates of all points of a scan, those outside of the data too."""
    values = getattr(xmap, f"_{name}")
    return np.zeros(xmap.is_in_data.size) if values is None or not len(values) else np.asarray(values, dtype=float)


def _steps(values) -> tuple[float, int]:
    """Step and number of the positions along an axis."""
    unique = np.unique(np.round(values, 6))
    if len(unique) == 1:
        return 1.0, 1
    step = float(np.diff(unique).min())
    return step, round((unique[-1] - unique[0]) / step) + 1


def _value_map(grid: _Grid, values, title: str, label: str, **imshow):
    """Draw numbers with a colour bar, and those that are NaN in the colour of what is not indexed."""
    import matplotlib

    image = np.full(grid.shape, np.nan)
    grid.fill(image, values)
    figure = new_figure(5.2, 3.8 / grid.aspect + 1.0)
    axes = figure.add_subplot()
    cmap = matplotlib.colormaps[imshow.pop("cmap")].with_extremes(bad=NOT_INDEXED)
    drawn = grid.show(axes, image, cmap=cmap, interpolation="nearest", **imshow)
    figure.colorbar(drawn, ax=axes, label=label, shrink=0.85)
    axes.set_title(title, fontsize=11)
    if np.isnan(image).any():
        _not_indexed_legend(figure)
    return figure


def _not_indexed_legend(figure) -> None:
    """Say what the grey means."""
    from matplotlib.patches import Patch

    patch = Patch(facecolor=NOT_INDEXED, edgecolor="black", linewidth=0.5, label="not indexed, or left out")
    figure.legend(handles=[patch], loc="outside lower center", frameon=False, fontsize=9)


def _best_quaternions(xmap) -> np.ndarray:
    """Quaternions (n, 4) of the best orientations of the points in a map's data."""
    data = xmap.rotations.data
    return data[:, 0] if data.ndim == 3 else data


def ipf_colors(quaternions: np.ndarray, phase_id: np.ndarray, phases: dict, direction: str) -> np.ndarray:
    """Colours of orientations.

    Parameters
    ----------
    quaternions : array, shape (n, 4)
        Lab to crystal.
    phase_id : array of int, shape (n,)
        Of which phase each is; -1 for none.
    phases : dict of int to orix.crystal_map.Phase
        By these numbers.
    direction : {"x", "y", "z"}
        Of the lab.

    Returns
    -------
    array, shape (n, 3)
        From 0 to 1; 0 where nothing is indexed.
    """
    from orix.plot import IPFColorKeyTSL
    from orix.quaternion import Orientation, Rotation
    from orix.vector import Vector3d

    colors = np.zeros((len(quaternions), 3))
    for key, phase in phases.items():
        here = phase_id == key
        if here.any():
            laue = laue_group(phase)
            ipf = IPFColorKeyTSL(laue, direction=Vector3d(_DIRECTIONS[direction][0]))
            # to the axes that orix takes for the Laue group, where the cell has others
            turned = ~Rotation(setting(phase).numpy()) * Rotation(quaternions[here])
            colors[here] = ipf.orientation2color(Orientation(turned.data, symmetry=laue))
    return colors


def _brightness(xmap, brightness) -> np.ndarray:
    """Factors (n,) between a third and 1."""
    if brightness is None:
        return np.ones(xmap.size)
    named = isinstance(brightness, str)
    values = check_property(xmap, brightness) if named else best_of(brightness, xmap, "brightness")
    indexed = values[xmap.phase_id >= 0]
    low, high = np.nanpercentile(indexed if indexed.size else values, (2, 98))
    share = np.clip((values - low) / (high - low), 0, 1) if high > low else np.ones(xmap.size)
    return 1 / 3 + 2 / 3 * np.nan_to_num(share)


def _draw_keys(figure, place, phases) -> None:
    """Draw the colour keys below each other, one for each Laue group."""
    keys = {}
    for phase in phases.values():
        keys.setdefault(laue_group(phase).name, (laue_group(phase), []))[1].append(phase.name)
    from orix import plot as _registers_the_projection  # noqa: F401

    column = place.subgridspec(max(1, len(keys)), 1)
    for i, (name, (laue, names)) in enumerate(keys.items()):
        axes = figure.add_subplot(column[i], projection="ipf", symmetry=laue)
        axes.plot_ipf_color_key(show_title=False)
        for text in axes.texts:
            text.set_fontsize(9)
        axes.set_title(f"{', '.join(names)} ({name})", fontsize=10, pad=20)


def _show_pattern(axes, pattern, calibration: Calibration, radius: float, gamma: float) -> None:
    """Draw a pattern, as it is, over (kx, ky) in Å⁻¹."""
    calibration = calibration.replace(distortion=None)
    rows, columns = calibration.shape
    left, top = pixel_to_k(-0.5, -0.5, calibration)
    right, bottom = pixel_to_k(rows - 0.5, columns - 0.5, calibration)
    shown = np.clip(pattern.astype(float), 0, None) ** gamma
    finite = shown[np.isfinite(shown)]
    top_value = np.percentile(finite, 99.8) if finite.size else 1
    axes.imshow(shown, extent=(left, right, bottom, top), cmap="gray_r", vmin=0, vmax=top_value or 1)
    low_x, low_y = pixel_to_k(*k_to_pixel(-radius, -radius, calibration), calibration)
    axes.set_xlim(low_x, radius)
    axes.set_ylim(low_y, radius)


def _spots_at(xmap, index, calibration: Calibration, radius, max_excitation_error):
    """Spots kx, ky and relative intensity of the orientation at a point of the scan; None where not indexed."""
    (point,) = np.nonzero(xmap.id == index)
    if not point.size or xmap.phase_id[point[0]] < 0:
        return None
    spots = predict_spots(
        _best_quaternions(xmap)[point[:1]], xmap.phase_id[point[:1]], dict(iter(xmap.phases)), calibration.beam_energy,
        radius, max_excitation_error=max_excitation_error,
    )  # fmt: skip
    intensity = relative_intensity(spots, max_excitation_error)
    return *distorted(spots.xyz[:, 0], spots.xyz[:, 1], calibration), intensity


def relative_intensity(spots, max_excitation_error: float) -> np.ndarray:
    """Kinematical intensity (m,) of predicted spots, for the size of markers; the strongest of a pattern is 1."""
    intensity = spots.squared_structure_factor * (1 - (spots.excitation_error / max_excitation_error) ** 2)
    strongest = np.full(spots.n, 1e-12)
    np.maximum.at(strongest, spots.owner, intensity)
    return np.clip(intensity / strongest[spots.owner], 0, 1)


def _draw_spots(axes, spots, name: str, number: int) -> None:
    """Mark spots with the colour and the marker of a map."""
    color, marker = _SPOT_COLORS[number % 4], _SPOT_MARKERS[number % 4]
    if spots is None:
        text = f"{name or 'orientation'}: not indexed"
        axes.text(0.03, 0.97 - 0.07 * number, text, color=color, fontsize=8, va="top", transform=axes.transAxes,
                  path_effects=_outline())  # fmt: skip
        return
    kx, ky, intensity = spots
    size = (25 if number == 0 else 60) + 90 * intensity**0.5
    axes.scatter(kx, ky, s=size, marker=marker, facecolors="none", edgecolors=color, linewidths=1.1)


def _legend(figure, maps) -> None:
    """Name the maps below the patterns, if they have names."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", marker=_SPOT_MARKERS[i % 4], markerfacecolor="none",
               markeredgecolor=_SPOT_COLORS[i % 4], markersize=9, label=name)
        for i, name in enumerate(maps) if name
    ]  # fmt: skip
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
