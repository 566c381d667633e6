"""What strain is measured from: positions of the scan, a lattice, or a crystal."""

from __future__ import annotations

import itertools

import numpy as np

from pyxem_dl.patterns.lattice import reduced_basis
from pyxem_dl.strain.deformation import Tensors, deformation, gradient_of, rotation_matrix, strain_of

#: In what a reference can be given
_FORMS = (
    "None (all positions), a mask of bool with the shape of the navigation (True = reference), slices as np.s_[0:9, :] "
    "(rows first), a HyperSpy ROI over the navigation, a basis of shape (2, 2) in the units of the vectors, or "
    "(phase, zone axis)"
)
# Reflections of a crystal that are looked at (Å⁻¹), and how much a lattice may be stretched from the crystal's
_CRYSTAL_RADIUS, _CRYSTAL_STRAIN = 2.5, 0.06


class Reference:
    """A reference as it was given.

    Parameters
    ----------
    given
        As in :func:`pyxem_dl.strain_map`.
    shape : tuple of int
        Of the navigation.
    axes : sequence of hyperspy axes
        Of the navigation, x first.
    to_k : callable
        From vectors as pyxem has them to (kx, ky) in Å⁻¹.

    Raises
    ------
    TypeError, ValueError
        For what is none, or has another shape.
    """

    def __init__(self, given, shape: tuple[int, ...], axes, to_k) -> None:
        self.region, self.basis, self.zone = None, None, None
        if given is None:
            if np.prod(shape, dtype=int) == 1:
                raise ValueError(
                    "A single pattern has no strain relative to itself: give reference=, a basis of shape (2, 2) or "
                    "(phase, zone axis)."
                )
            self.region = np.ones(shape, dtype=bool)
        elif isinstance(given, tuple) and given and hasattr(given[0], "point_group"):
            self.zone = _zone_lattice(given)
        elif _is_roi(given):
            self.region = _region_of_roi(given, shape, axes)
        elif isinstance(given, slice) or (isinstance(given, tuple) and any(isinstance(g, slice) for g in given)):
            self.region = _region_of_slices(given, shape)
        else:
            self._read_array(np.asarray(given.data if hasattr(given, "axes_manager") else given), shape, to_k)
        if self.region is not None and not self.region.any():
            raise ValueError("The reference region has no positions: give one inside of the scan.")

    def _read_array(self, array: np.ndarray, shape, to_k) -> None:
        if array.dtype == bool:
            if array.shape != shape:
                raise ValueError(
                    f"The reference has the shape {array.shape}, the scan {shape} (rows first): give a mask of bool of "
                    "the scan's shape."
                )
            self.region = array
        elif array.shape == (2, 2) and array.dtype.kind in "iuf":
            self.basis = read_basis("reference", array, to_k)
        else:
            raise TypeError(f"reference must be {_FORMS}; not {array.dtype} of shape {array.shape}.")

    def lattice(self, bases: np.ndarray, accepted: np.ndarray) -> np.ndarray:
        """Give the reference's basis (2, 2), rows (kx, ky) in Å⁻¹, in the setting of the scan's lattices.

        Parameters
        ----------
        bases : array of shape (n, 2, 2)
            Of all positions.
        accepted : array of bool, shape (n,)
            Which of them there are.
        """
        if self.region is None:
            typical = median_basis(bases[accepted])
            return _in_setting_of(typical, self.basis) if self.zone is None else _turned_onto(typical, self.zone)
        here = self.region.ravel() & accepted
        if not here.any():
            raise ValueError(
                f"No lattice was found at any of the {self.region.sum()} positions of the reference region: choose a "
                f"region with crystal (the scan has {accepted.sum()} positions with a lattice), or give a basis of "
                "shape (2, 2) or (phase, zone axis)."
            )
        return median_basis(bases[here])


def read_basis(name: str, given, to_k) -> np.ndarray:
    """Basis (2, 2) as rows (kx, ky) in Å⁻¹ of one in the columns and units of vectors; an error for what is none."""
    try:
        array = np.asarray(given, dtype=float)
    except (TypeError, ValueError):
        array = np.zeros(0)
    if array.shape != (2, 2) or not np.isfinite(array).all():
        raise ValueError(
            f"{name} must be two vectors of the lattice as rows, shape (2, 2), with the first two columns and the "
            f"units of the vectors, not {given!r}."
        )
    basis = to_k(array)
    lengths = np.linalg.norm(basis, axis=1)
    if abs(np.linalg.det(basis)) < 0.02 * lengths.prod() or not lengths.all():
        raise ValueError(f"The two vectors of {name} are parallel: give two that span the lattice, not {given!r}.")
    return basis


def median_basis(bases: np.ndarray) -> np.ndarray:
    """Median (2, 2) of bases (n, 2, 2): of their strain in axes of the crystal, and of their rotation."""
    first = bases[0]
    each = strain_of(deformation(bases, first), in_crystal=True)
    return first @ np.linalg.inv(gradient_of(Tensors(*(np.median(values) for values in each))))


def _is_roi(given) -> bool:
    from hyperspy.roi import BaseROI

    return isinstance(given, BaseROI)


def _region_of_roi(roi, shape: tuple[int, ...], axes) -> np.ndarray:
    """Positions inside of a HyperSpy ROI, which is in the units of the navigation axes."""
    import hyperspy.api as hs

    region = np.zeros(shape, dtype=bool)
    grid = np.arange(region.size, dtype=float).reshape(shape)
    signal = hs.signals.Signal2D(grid) if len(shape) == 2 else hs.signals.Signal1D(grid)
    for new, old in zip(signal.axes_manager.signal_axes, axes, strict=True):
        new.name, new.units, new.scale, new.offset = old.name, old.units, old.scale, old.offset
    try:
        inside = np.asarray(roi(signal).data, dtype=float)
    except (ValueError, IndexError, AttributeError) as error:
        message = f"The reference {roi!r} is no region of this scan of shape {shape} (rows first): {error}"
        raise ValueError(message) from error
    region.flat[inside[np.isfinite(inside)].astype(int)] = True
    return region


def _region_of_slices(slices, shape: tuple[int, ...]) -> np.ndarray:
    """Positions of slices, rows first."""
    region = np.zeros(shape, dtype=bool)
    try:
        region[slices] = True
    except (IndexError, TypeError) as error:
        message = f"The reference {slices!r} does not fit a scan of shape {shape} (rows first): {error}"
        raise ValueError(message) from error
    return region


# ---------------------------------------------------------------- lattices that were not measured in this scan
def _zone_lattice(given) -> np.ndarray:
    """Reduced basis (2, 2) of the reflections of a zone axis, seen with the axis towards the viewer, in any turn."""
    from pyxem_dl.crystals import load_phases, reflections

    if len(given) != 2 or np.shape(given[1]) != (3,) or not np.any(given[1]):
        raise ValueError(f"A crystal as reference is (phase, zone axis), as (phase, (0, 0, 1)), not {given!r}.")
    (phase,) = load_phases(given[0])
    axis = np.asarray(given[1], dtype=float)
    found = reflections(phase, _CRYSTAL_RADIUS)
    in_zone = np.abs(found.hkl @ axis) < 1e-6
    normal = np.asarray(phase.structure.lattice.cartesian(axis))
    normal /= np.linalg.norm(normal)
    g = np.asarray(found.g, dtype=float)[in_zone]
    order = np.argsort(np.linalg.norm(g, axis=1), kind="stable")
    if len(order) < 2:
        raise ValueError(f"{phase.name} has no two reflections within {_CRYSTAL_RADIUS} Å⁻¹ in the zone {tuple(axis)}.")
    first = g[order[0]]
    x = first / np.linalg.norm(first)
    plane = np.stack([g @ x, g @ np.cross(normal, x)], axis=1)
    second = next((i for i in order if abs(plane[i, 1]) > 1e-6), None)
    if second is None:
        raise ValueError(f"The reflections of {phase.name} in the zone {tuple(axis)} lie on a line: give another axis.")
    return reduced_basis(plane[[order[0], second]])


def _in_setting_of(typical: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Undeformed basis that corresponds to a typical one of the scan, where two vectors of the lattice are given."""
    index = basis @ np.linalg.inv(typical)
    whole = np.rint(index)
    if np.abs(index - whole).max() > 0.25 or abs(np.linalg.det(whole)) < 0.5:
        raise ValueError(
            f"The reference, vectors of {_lengths(basis)} Å⁻¹, is not of the scan's lattice, whose shortest ones have "
            f"{_lengths(typical)} Å⁻¹. Give two vectors on which disks lie, in the units of the vectors."
        )
    return np.linalg.inv(whole) @ basis


def _turned_onto(typical: np.ndarray, zone: np.ndarray) -> np.ndarray:
    """Basis of a zone's lattice, or else of a coarser one in it, that is stretched little into one of the scan.

    It is turned as the scan's is.
    """
    least, sign = np.inf, np.sign(np.linalg.det(typical) * np.linalg.det(zone))
    matrices = [np.array(m).reshape(2, 2) for m in itertools.product(range(-3, 4), repeat=4)]
    sizes = np.array([round(np.linalg.det(m) * sign) for m in matrices])
    for size in range(1, 5):
        for matrix in (m for m, n in zip(matrices, sizes, strict=True) if n == size):
            basis = matrix @ zone
            e = strain_of(deformation(typical, basis), in_crystal=True)
            strain = max(abs(e.xx), abs(e.yy), abs(e.xy))
            if strain < least:
                least, best = strain, basis @ rotation_matrix(e.theta).T
        if least < _CRYSTAL_STRAIN:
            return best
    raise ValueError(
        f"The scan's lattice ({_lengths(typical)} Å⁻¹) is none of this crystal and zone axis ({_lengths(zone)} Å⁻¹): "
        f"the nearest would be strained by {least:.1%}. Check the phase, the zone axis (also its opposite) and the "
        "calibration."
    )


def _lengths(basis: np.ndarray) -> str:
    return " and ".join(f"{length:.4f}" for length in np.linalg.norm(basis, axis=1))
