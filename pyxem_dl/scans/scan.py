"""A checked signal, as the methods need it: patterns, detector, masks, direct beams and coordinates."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from pyxem_dl.frames import Calibration, beam_shift_to_center, centers_of_drift
from pyxem_dl.messages import warn
from pyxem_dl.preprocessing import check_patterns, counts_per_electron
from pyxem_dl.scans import inspection
from pyxem_dl.scans.beam import Beam
from pyxem_dl.scans.options import Reading
from pyxem_dl.scans.positions import Positions
from pyxem_dl.scans.sample import Sample, filled, read_sample

if TYPE_CHECKING:
    from pyxem_dl.annotations import Patterns

#: Item of a signal's metadata with the drift of the direct beam over the scan, as ``frames.centers_of_drift`` reads it
STORED_DRIFT = "Pyxem_dl.Calibration.drift"


@dataclass
class Scan:
    """A signal in which everything that the methods need is checked.

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
    positions : Positions
        Where the patterns lie in the scan.
    beam : Beam, optional
        Where a sample of the patterns has the direct beam.
    """

    data: object
    calibration: Calibration
    navigation_mask: np.ndarray
    signal_mask: torch.Tensor | None
    centers: object
    positions: Positions
    beam: Beam | None = None

    _sample: Sample | None = None

    @classmethod
    def from_signal(cls, signal, reading: Reading | None = None, *, inspect: bool = True, **given) -> Scan:
        """Check a signal and what the user gave with it.

        Parameters
        ----------
        signal : hyperspy.signals.Signal2D
            Patterns with 0, 1 or 2 navigation dimensions.
        reading : Reading, optional
            Masks, center and beam energy.
        inspect : bool
            Read a sample of the patterns (:func:`~pyxem_dl.scans.read_sample`), mask the pixels that are wrong in all
            of it, and compare the direct beam in it with where it should be.
        **given
            Fields of :class:`~pyxem_dl.scans.options.Reading`, in its place.

        Raises
        ------
        ValueError, TypeError
            For a signal or options that cannot be used, such as a direct beam outside of the detector; the message
            says what to do.

        Warns
        -----
        UserWarning
            If pixels are wrong in every pattern (they are masked); if the direct beam is not where it should be, or
            "auto" is not sure where it is.
        """
        if not hasattr(signal, "axes_manager"):
            raise TypeError(f"Expected a HyperSpy signal, not {type(signal).__name__}.")
        reading = Reading(**given) if reading is None else reading
        calibration = Calibration.from_signal(signal, reading.beam_energy)
        data = _in_data_order(signal)
        check_patterns(data)
        shape = data.shape[:-2]
        mask = _checked_navigation_mask(reading.navigation_mask, shape)
        detector = _checked_mask(reading.signal_mask, data.shape[-2:], "signal_mask", "(rows, columns)")
        if detector is not None and detector.all():
            raise ValueError("signal_mask excludes all pixels (True = excluded). Did you mean `~signal_mask`?")
        center = stored_centers(signal, calibration) if reading.center is None else reading.center
        calibration, centers = _read_center(center, calibration, shape)
        given_center = reading.center is not None
        inspection.check_on_detector(calibration, centers, ~mask.reshape(-1), given=given_center)
        scan = cls(
            data=data,
            calibration=calibration,
            navigation_mask=mask.reshape(-1),
            signal_mask=None if detector is None else torch.from_numpy(detector.copy()),
            centers=centers,
            positions=Positions.of_axes(signal.axes_manager.navigation_axes, shape),
        )
        if inspect:
            scan._inspect()
        return scan

    def _inspect(self) -> None:
        """Ask the sample which pixels are wrong, and where the direct beam is."""
        sample = self.sample()
        mask = None if self.signal_mask is None else self.signal_mask.numpy()
        bad = inspection.inspect_pixels(sample.patterns, mask)
        inspection.warn_of_bad_pixels(bad)
        if bad.mask.any():
            mask = bad.mask if mask is None else mask | bad.mask
            self.signal_mask = torch.from_numpy(mask)
        self.calibration, self.beam = inspection.inspect_beam(
            sample, self.calibration, self.centers, self.shape, mask
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
        positions = Positions.of_axes(axes, tuple(shape) if len(axes) else ())
        return cls(None, calibration, mask.reshape(-1), None, None, positions)

    def sample(self) -> Sample:
        """Patterns that stand for the scan, the same for any chunks; read once, until they are forgotten."""
        if self._sample is None:
            self._sample = read_sample(self.data, self.navigation_mask)
        return self._sample

    def sample_patterns(self) -> np.ndarray:
        """Patterns of the sample (n, rows, columns), what is excluded filled with what is beside it."""
        patterns = self.sample().patterns
        return patterns if self.signal_mask is None else filled(patterns, ~self.signal_mask.numpy())

    def counts_per_electron(self) -> float:
        """Estimate, by the sample, what the detector writes for an electron."""
        return counts_per_electron(torch.from_numpy(self.sample_patterns()), self.signal_mask)

    def forget_sample(self) -> None:
        """Give the memory back."""
        self._sample = None

    def without_data(self) -> Scan:
        """All but the patterns: what a worker in another process needs."""
        return replace(self, data=None, _sample=None)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the navigation, in data order."""
        return self.positions.shape

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
            if self.beam is None:
                return None
            return self.beam.find(patterns, indices, self.shape, self.signal_mask)
        return torch.from_numpy(self.centers[indices]).to(patterns)

    def describe(self) -> str:
        """Patterns, detector and center in a line."""
        rows, columns = self.calibration.shape
        excluded = int(self.navigation_mask.sum())
        text = f"{self.n_patterns} of {rows} x {columns} px, {self.calibration.scale[1]:.4g} Å⁻¹ per px"
        return text + (f" ({excluded} more are excluded)" if excluded else "")


def find_bad_pixels(signal: Patterns, signal_mask: np.ndarray | None = None) -> np.ndarray:
    """Find the pixels of a detector that are wrong in every pattern of a scan.

    Parameters
    ----------
    signal : hyperspy.signals.Signal2D
        Patterns with 0, 1 or 2 navigation dimensions, in memory or lazy, of which up to 64 are read.
    signal_mask : array of bool, shape (rows, columns), optional
        True where the detector is excluded; these pixels stay excluded.

    Returns
    -------
    array of bool, shape (rows, columns)
        True where a pixel is NaN or infinite, hot, stuck, outside the image, or excluded: give it as ``signal_mask``.
    """
    data = _in_data_order(signal)
    check_patterns(data)
    known = _checked_mask(signal_mask, data.shape[-2:], "signal_mask", "(rows, columns)")
    sample = read_sample(data, np.zeros(int(np.prod(data.shape[:-2])), dtype=bool))
    found = inspection.inspect_pixels(sample.patterns, known).mask
    return found if known is None else found | known


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
            "navigation_mask excludes all patterns (True = excluded). Did you mean `~navigation_mask`?"
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


def stored_centers(signal, calibration: Calibration) -> np.ndarray | None:
    """Direct beams (..., 2) in px of a signal whose metadata say that they drift; else None."""
    stored = signal.metadata.get_item(STORED_DRIFT, None)
    if stored is None:
        return None
    try:
        if len(stored) != 3 * signal.axes_manager.navigation_dimension:
            warn(
                "The direct beam is known to drift over the scan that these patterns are from, but not where they were "
                "in it: the centre of that scan is used. Give `center=\"auto\"` to find it in the patterns."
            )
            return None
        return centers_of_drift(stored, signal, calibration.center)
    except (TypeError, ValueError):
        raise ValueError(
            f"The metadata of the signal hold the drift {stored!r} ({STORED_DRIFT}), which is none for its axes. "
            "Remove it with `del s.metadata.Pyxem_dl`, or give `center=`."
        ) from None


def _read_center(center, calibration: Calibration, shape):
    """Calibration and per-pattern centers of what the user gave."""
    if center is None:
        return calibration, None
    if isinstance(center, str):
        if center != "auto":
            raise ValueError(f"center must be 'auto', (row, column), an array of these or None, not {center!r}.")
        return calibration, "auto"
    if hasattr(center, "axes_manager"):
        center = _read_beam_shift(center, calibration)
    try:
        center = np.asarray(center, dtype=float)
    except (TypeError, ValueError):
        raise TypeError(
            f"center is \"auto\", (row, column) in pixels, or an array of those, not {reprlib.repr(center)}."
        ) from None
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
        raise ValueError("center has NaN or infinite values; replace them, for example by a neighbour's.")


def _read_beam_shift(signal, calibration: Calibration) -> np.ndarray:
    if getattr(signal, "_signal_type", "") != "beam_shift":
        raise TypeError(
            f"center is a {type(signal).__name__}; the only signal that can be given is pyxem's BeamShift, "
            "from `s.get_direct_beam_position(...)`."
        )
    shifts = signal.data
    shifts = shifts.compute() if hasattr(shifts, "compute") else shifts
    return beam_shift_to_center(shifts, calibration)
