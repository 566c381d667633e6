"""What all verbs that make a crystal map share: reading a signal and its masks, and the map."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pyxem_dl.frames import Calibration, beam_shift_to_center
from pyxem_dl.preprocessing import check_patterns, find_direct_beam

_MAP_SUFFIXES = (".h5", ".hdf5", ".ang")
#: Colour of points without an orientation, in every picture
NOT_INDEXED = "darkgray"
_COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown", "tab:pink")


@dataclass
class Scan:
    """A signal as the verbs need it, with everything checked.

    Parameters
    ----------
    data : numpy.ndarray or dask.array.Array, shape (..., rows, columns)
        Patterns in data order (y, x, ky, kx).
    calibration : Calibration
        Of the detector.
    navigation_mask : array of bool, shape (n,)
        True where a pattern is excluded.
    signal_mask : tensor of bool, shape (rows, columns), or None
        True where the detector is excluded.
    centers : None, "auto" or array, shape (n, 2)
        Direct beams (row, column) in pixels, where they are not the calibration's.
    x, y : array, shape (n,), or None
        Coordinates of the scan, from 0, in `scan_unit`; None for a dimension that is not there.
    scan_unit : str
        Of the navigation axes, "px" where they have none.
    """

    data: object
    calibration: Calibration
    navigation_mask: np.ndarray
    signal_mask: torch.Tensor | None
    centers: object
    x: np.ndarray | None
    y: np.ndarray | None
    scan_unit: str

    @classmethod
    def from_signal(cls, signal, *, navigation_mask=None, signal_mask=None, center=None, beam_energy=None) -> Scan:
        """Check a signal and what the user gave with it.

        Parameters
        ----------
        signal : hyperspy.signals.Signal2D
            Patterns with 0, 1 or 2 navigation dimensions.
        navigation_mask : array of bool, optional
            True where a pattern is excluded, of the navigation's shape in data order (y, x).
        signal_mask : array of bool, shape (rows, columns), optional
            True where the detector is excluded.
        center : optional
            Position of the direct beam: None for the calibration's; "auto" to find it in each
            pattern; (row, column) in pixels; an array (..., 2) of those, of the navigation's
            shape in data order; or pyxem's ``BeamShift``.
        beam_energy : float, optional
            In kV; by default what the metadata say.

        Raises
        ------
        ValueError, TypeError
            For what cannot be used; the message says what to do.
        """
        if not hasattr(signal, "axes_manager"):
            raise TypeError(f"A HyperSpy signal is needed, not {type(signal).__name__}.")
        calibration = Calibration.from_signal(signal, beam_energy)
        data = _in_data_order(signal)
        check_patterns(data)
        shape = data.shape[:-2]
        mask = _checked_navigation_mask(navigation_mask, shape)
        detector = _checked_mask(signal_mask, data.shape[-2:], "signal_mask", "(rows, columns)")
        if detector is not None and detector.all():
            raise ValueError("All pixels are excluded by signal_mask (True = excluded). Did you mean `~signal_mask`?")
        calibration, centers = _read_center(center, calibration, shape)
        x, y, unit = _coordinates(signal.axes_manager.navigation_axes, shape)
        return cls(
            data=data,
            calibration=calibration,
            navigation_mask=mask.reshape(-1),
            signal_mask=None if detector is None else torch.from_numpy(detector.copy()),
            centers=centers,
            x=x,
            y=y,
            scan_unit=unit,
        )

    @classmethod
    def of_positions(cls, axes, shape, navigation_mask, calibration: Calibration) -> Scan:
        """Positions without patterns: for what was already found at them.

        Parameters
        ----------
        axes : sequence of hyperspy axes
            Of the navigation, x first.
        shape : tuple of int
            Of the navigation, in data order.
        navigation_mask : array of bool, optional
            True where a position is excluded.
        calibration : Calibration
            With the beam energy.
        """
        mask = _checked_navigation_mask(navigation_mask, shape)
        x, y, unit = _coordinates(axes, shape if len(axes) else ())
        return cls(None, calibration, mask.reshape(-1), None, None, x, y, unit)

    @property
    def size(self) -> int:
        """Number of positions, the excluded ones too."""
        return self.navigation_mask.size

    @property
    def n_patterns(self) -> int:
        """Number of patterns that are not excluded."""
        return int((~self.navigation_mask).sum())

    def batch_centers(self, patterns: torch.Tensor, indices) -> torch.Tensor | None:
        """Direct beams (n, 2) of a batch, on its device; None where the calibration has it.

        Parameters
        ----------
        patterns : tensor, shape (n, rows, columns)
            The batch.
        indices : array of int, shape (n,)
            Its flat navigation indices.
        """
        if self.centers is None:
            return None
        if isinstance(self.centers, str):
            if self.signal_mask is not None:
                patterns = torch.where(self.signal_mask.to(patterns.device), 0.0, patterns)
            return find_direct_beam(patterns, self.calibration)
        return torch.from_numpy(self.centers[indices]).to(patterns)

    def describe(self) -> str:
        """Patterns, detector and center in a line."""
        rows, columns = self.calibration.shape
        excluded = int(self.navigation_mask.sum())
        text = f"{self.n_patterns} of {rows} x {columns} px, {self.calibration.scale[1]:.4g} 1/Å per px"
        return text + (f" ({excluded} more are excluded)" if excluded else "")


def make_signal(patterns, calibration: Calibration, title: str):
    """Make a pyxem signal of patterns.

    Parameters
    ----------
    patterns : array, shape (..., rows, columns)
        In data order; a dask array makes a lazy signal.
    calibration : Calibration
        Of the detector, with the beam energy.
    title : str
        Of the signal.

    Returns
    -------
    pyxem.signals.ElectronDiffraction2D
        Calibrated, with its beam energy.
    """
    from pyxem.signals import ElectronDiffraction2D, LazyElectronDiffraction2D

    kind = LazyElectronDiffraction2D if hasattr(patterns, "dask") else ElectronDiffraction2D
    signal = kind(patterns)
    signal.metadata.General.title = title
    signal.set_experimental_parameters(beam_energy=calibration.beam_energy)
    axes = signal.axes_manager.signal_axes
    for axis, name, scale, center in zip(axes, ("kx", "ky"), calibration.scale[::-1], calibration.center[::-1]):
        axis.name, axis.units, axis.scale, axis.offset = name, "$A^{-1}$", float(scale), float(-center * scale)
    return signal


def to_crystal_map(
    scan: Scan,
    rotations: np.ndarray,
    phase_id: np.ndarray,
    scores: np.ndarray,
    phases: list,
    *,
    indexed: np.ndarray | None = None,
    is_in_data: np.ndarray | None = None,
    prop: dict | None = None,
):
    """Make orix' crystal map of orientations.

    Parameters
    ----------
    scan : Scan
        Which gives coordinates and mask.
    rotations : array, shape (n, n_best, 4)
        Quaternions lab to crystal, the best first.
    phase_id : array of int, shape (n, n_best)
        Index into `phases`.
    scores : array, shape (n, n_best)
        Greater is better.
    phases : list of orix.crystal_map.Phase
        Those that are not found at all are missing in the map, as orix has it.
    indexed : array of bool, shape (n,), optional
        False where nothing was indexed: phase_id is -1 there.
    is_in_data : array of bool, shape (n,), optional
        By default what the navigation mask does not exclude.
    prop : dict of str to array, shape (n,) or (n, ...), optional
        Further properties.

    Returns
    -------
    orix.crystal_map.CrystalMap
        Rotations (n, n_best), or (n,) for one; ``prop["scores"]`` likewise, and ``prop["score"]``
        (n,) is the best one, which can be plotted.  With several phases
        and n_best > 1 ``prop["candidate_phase_id"]`` (n, n_best) says which phase each rotation
        belongs to.
    """
    from orix.crystal_map import CrystalMap
    from orix.quaternion import Rotation

    in_data = ~scan.navigation_mask if is_in_data is None else is_in_data
    indexed = in_data if indexed is None else indexed & in_data
    quaternions = np.asarray(rotations, dtype=float)
    norm = np.linalg.norm(quaternions, axis=-1, keepdims=True)
    quaternions = np.where(norm > 0, quaternions / np.where(norm > 0, norm, 1), [1.0, 0, 0, 0])
    scores = np.asarray(scores, dtype=float)
    # orix plots and writes one number for a point: the best score is kept as one, too
    prop = {"score": scores[:, 0].copy(), "scores": scores} | (prop or {})
    n_best = quaternions.shape[1]
    if n_best == 1:
        quaternions, prop["scores"] = quaternions[:, 0], prop["scores"][:, 0]
    elif len(phases) > 1:
        prop["candidate_phase_id"] = np.where(in_data[:, None], phase_id, -1)
    xmap = CrystalMap(
        rotations=Rotation(quaternions),
        phase_id=np.where(indexed, phase_id[:, 0], -1),
        x=scan.x,
        y=scan.y,
        phase_list=phase_list(phases),
        prop=prop,
        scan_unit=scan.scan_unit,
        is_in_data=in_data.copy(),
    )
    if -1 in xmap.phases.ids:
        xmap.phases[-1].color = NOT_INDEXED  # for orix' own plots
    if not indexed.any():
        xmap.phases.add(phase_list(phases))  # a map without any phase makes no .ang file
    return xmap


def phase_list(phases: list):
    """Make orix' list of phases, with ids from 0 and colours that differ."""
    from orix.crystal_map import PhaseList

    phases = [phase.deepcopy() for phase in phases]
    used = set()
    for phase in phases:
        if phase.color in used:
            phase.color = next((c for c in _COLORS if c not in used), phase.color)
        used.add(phase.color)
    return PhaseList(phases=phases, ids=list(range(len(phases))))


def reliability(scores: np.ndarray) -> np.ndarray:
    """How much better the best candidate is: 1 - second score / first score.

    Parameters
    ----------
    scores : array, shape (n, n_best)
        Of separated candidates, descending, n_best at least 2.

    Returns
    -------
    array, shape (n,)
        1: no rival; 0: a rival that is as good, or no score at all.
    """
    first, second = scores[:, 0].astype(float), scores[:, 1].astype(float)
    return np.where(first > 0, 1 - second / np.where(first > 0, first, 1), 0.0)


def save_map(path, xmap, *, overwrite: bool = False) -> Path:
    """Save a crystal map, as orix does, without asking.

    Parameters
    ----------
    path : str or pathlib.Path
        Ending in ``.h5``, ``.hdf5`` (everything) or ``.ang`` (the best orientations, ``scores`` as
        confidence index).
    xmap : orix.crystal_map.CrystalMap
        The map.
    overwrite : bool
        Replace a file that is there.

    Returns
    -------
    pathlib.Path
        The file.
    """
    from orix import io

    path = check_map_path(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    io.save(str(path), xmap, overwrite=True)
    return path


def check_map_path(path, *, overwrite: bool = False) -> Path:
    """Path that :func:`save_map` can write to, or an error: better before than after the work."""
    path = Path(path)
    if path.suffix.lower() not in _MAP_SUFFIXES:
        raise ValueError(f"A crystal map is saved as {', '.join(_MAP_SUFFIXES)}, not as {path.name!r}.")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} is there already. Give another name, or overwrite=True.")
    return path


def print_summary(title: str, lines: dict) -> None:
    """Print what will be done, in kikuchipy's manner."""
    print(f"{title}:")
    for name, value in lines.items():
        print(f"  {name}: {value}")


@contextmanager
def timed(count):
    """Print patterns/s at the end; `count()` gives how many were done."""
    start = time.perf_counter()
    try:
        yield
    finally:
        n, seconds = count(), time.perf_counter() - start
        if n:
            print(f"  Speed: {n / max(seconds, 1e-9):.5g} patterns/s ({n} in {seconds:.1f} s)")


def _in_data_order(signal):
    """Array of the signal with the navigation axes first."""
    manager = signal.axes_manager
    order = [a.index_in_array for a in (*manager.navigation_axes[::-1], *manager.signal_axes[::-1])]
    data = signal.data
    if not (hasattr(data, "dask") or isinstance(data, np.ndarray)):
        data = np.asarray(data)
    return data if order == sorted(order) else data.transpose(order)


def _checked_navigation_mask(mask, shape) -> np.ndarray:
    """Return a mask of the positions; an error where it leaves nothing."""
    mask = _checked_mask(mask, shape, "navigation_mask", "positions (y, x)")
    mask = np.zeros(shape, dtype=bool) if mask is None else mask
    if mask.all():
        raise ValueError(
            "All patterns are excluded by navigation_mask (True = excluded): there is nothing "
            "to do. Did you mean `~navigation_mask`?"
        )
    return mask


def _checked_mask(mask, shape, name: str, order: str) -> np.ndarray | None:
    """Return a mask as an array of bool; an error says what was given and what is needed."""
    if mask is None:
        return None
    mask = getattr(mask, "data", mask) if hasattr(mask, "axes_manager") else mask
    mask = np.asarray(mask)
    if mask.dtype != bool:
        raise TypeError(
            f"{name} must be an array of bool (True = excluded), not of {mask.dtype}. Use `{name}.astype(bool)`."
        )
    if mask.shape != tuple(shape) and not (shape == () and mask.size == 1):
        hint = " It is transposed." if mask.T.shape == tuple(shape) else ""
        raise ValueError(f"{name} has the shape {mask.shape}; the {order} of this signal have {tuple(shape)}." + hint)
    return mask.reshape(shape)


def _read_center(center, calibration: Calibration, shape):
    """Calibration and per-pattern centers of what the user gave."""
    if center is None:
        return calibration, None
    if isinstance(center, str):
        if center != "auto":
            raise ValueError(f"center must be 'auto', positions or None, not {center!r}.")
        return calibration, "auto"
    if hasattr(center, "axes_manager"):
        center = _read_beam_shift(center, calibration)
    center = np.asarray(center, dtype=float)
    if center.shape == (2,) or (shape == () and center.size == 2):
        _check_finite(center)
        return calibration.replace(center=tuple(float(c) for c in center.reshape(2))), None
    if center.shape != (*shape, 2):
        raise ValueError(
            f"center has the shape {center.shape}; give (row, column) in pixels, or an array of "
            f"shape {(*shape, 2)}: one (row, column) for each position, in data order (y, x)."
        )
    _check_finite(center)
    return calibration, center.reshape(-1, 2)


def _check_finite(center) -> None:
    if not np.isfinite(center).all():
        raise ValueError("center has values that are not finite; replace them by a neighbour's.")


def _read_beam_shift(signal, calibration: Calibration) -> np.ndarray:
    if getattr(signal, "_signal_type", "") != "beam_shift":
        raise TypeError(
            f"center is a {type(signal).__name__}; of the signals only pyxem's BeamShift can be "
            "read, from `s.get_direct_beam_position(...)`."
        )
    shifts = signal.data
    shifts = shifts.compute() if hasattr(shifts, "compute") else shifts
    return beam_shift_to_center(shifts, calibration)


def _coordinates(axes, shape):
    """x, y (n,) and unit of the scan from the navigation axes (x first)."""
    steps, units = [], []
    for axis in axes:
        step = abs(float(axis.scale)) if axis.is_uniform else 1.0
        units.append(_scan_unit(axis.units) if step and axis.is_uniform else "px")
        steps.append(step or 1.0)
    if not shape:
        return np.zeros(1), None, "px"
    if len(shape) == 1:
        return np.arange(shape[0]) * steps[0], None, units[0]
    row, column = np.indices(shape).reshape(2, -1)
    return column * steps[0], row * steps[1], units[0]


def _scan_unit(units) -> str:
    text = "" if units is None else str(units)
    return "px" if text in ("", "<undefined>", "None") else text
