"""Strain at every position of a scan: vectors in, maps out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from pyxem_dl.calibration import FoundCalibration
from pyxem_dl.checks import number, whole_number
from pyxem_dl.frames import Calibration
from pyxem_dl.messages import warn
from pyxem_dl.patterns.lattice import PRIOR_FREEDOM, Lattices, fit_lattices, shared_lattice
from pyxem_dl.progress import progressbar
from pyxem_dl.records import made_by, with_record
from pyxem_dl.results.vectors import calibrated_vectors, without_distortion
from pyxem_dl.scans import Reading
from pyxem_dl.strain.deformation import deformation, errors_of, strain_of
from pyxem_dl.strain.reference import Reference, read_basis
from pyxem_dl.strain.result import Strain
from pyxem_dl.strain.tables import VectorTables

if TYPE_CHECKING:
    from pyxem_dl.annotations import StrainReference, Vectors

# Patterns that are fitted at once, and those among which a shared lattice is searched for
_BLOCK, _SAMPLE = 8192, 2048
# Disks are expected to lie as near to their lattices as their errors say, up to this factor
_HONEST = 3.0


def strain_map(
    vectors: Vectors,
    *,
    reference: StrainReference | None = None,
    basis: np.ndarray | None = None,
    angle: float = 0.0,
    min_disks: int = 5,
    max_rotation: float = 15.0,
    navigation_mask: np.ndarray | None = None,
    beam_energy: float | None = None,
    calibration: Calibration | FoundCalibration | None = None,
    show_progressbar: bool | None = None,
) -> Strain:
    """Map strain and rotation from the lattice of each pattern.

    To all disks of a pattern a lattice is fitted, with an origin of its own (the direct beam may be off by a fraction
    of a pixel), each disk with the weight that its expected error gives it; disks of other crystals and false ones are
    recognised and count nothing. The lattice's deformation from a reference is strain and rotation.

    Parameters
    ----------
    vectors : pyxem.signals.DiffractionVectors
        Of ``s.predict_bragg_vectors()``, ``s.match_disks()`` or pyxem's ``s.get_diffraction_vectors()``, measured from
        the direct beam; 0 to 2 navigation dimensions. A lazy one is computed. Columns that are used: the first two (row
        axis first), ``position_error``, and where there is none, ``confidence`` as a correlation.
    reference : optional
        What is not strained. None (default): the median of all lattices. A region: a mask of bool of the navigation's
        shape (**True = reference**), slices (rows first, ``np.s_[0:10, :]``), or a HyperSpy ROI over the navigation;
        the median of its lattices. Two vectors of the lattice as rows, shape (2, 2), in the columns and units of
        `vectors`. Or ``(phase, zone_axis)``, an orix phase and the direct lattice indices (u, v, w) of the direction
        towards the source: strain is then absolute, as good as the calibration, and rotations are from their median.
    basis : array of shape (2, 2), optional
        Two vectors that span the lattice, in the columns and units of `vectors`, from which each pattern's is searched.
        By default found in the patterns with the most disks.
    angle : float
        Of the axis x of the strain, in degrees, counterclockwise from the pattern's x axis (to the right).
    min_disks : int
        On the lattice; where there are fewer, all maps are NaN. At least 4.
    max_rotation : float
        Lattices are searched for that are turned from the shared one by up to so many degrees, in steps of 5.
    navigation_mask : array of bool, optional
        Positions to leave out, with the shape of the navigation in data order. True = excluded.
    beam_energy : float, optional
        In kV, where units are angles; by default that of the metadata.
    calibration : Calibration or FoundCalibration, optional
        Of the scan, found after the vectors were: its scale and ellipse are used, as :func:`calibrated_vectors` does
        it, which gives the vectors for :meth:`Strain.refine`. By default the vectors are what they are; those of a
        scan that was calibrated before (``found.apply(s)``) are without its ellipse.
    show_progressbar : bool, optional
        By default HyperSpy's preference.

    Returns
    -------
    Strain
        Maps ``e_xx``, ``e_yy``, ``e_xy`` and ``theta`` (degrees) with their errors, and what they rest on; NaN where
        the disks are too few, lie on a line, hang on a single disk, or fit no lattice better than chance.

    Raises
    ------
    TypeError, ValueError
        For vectors that are not calibrated or not measured from the direct beam, without any lattice, a reference
        without crystal or of another shape, vectors of a basis that are parallel; the message says what to do.

    Warns
    -----
    UserWarning
        Where the disks lie farther from their lattices than their errors say, and where most positions with enough
        disks have no lattice.

    Notes
    -----
    **Convention.** The crystal is deformed by ``r = F r0``, its reciprocal lattice by ``g = F^-T g0``. ``F = V Q`` with
    a rotation Q by ``theta`` and a stretch V: ``e = V - 1``, exact for any size, along the axes of the pattern (x to
    the right, y **up**; with `angle` turned). Stretched is positive, counterclockwise is positive. pyxem's
    ``get_strain_maps`` orders its maps e_yy, e_xx, e_xy, theta, since the first column of vectors runs along y,
    downwards; its e_xy has our sign because it is that of the reciprocal lattice, and its theta is in radians.

    **Errors** are standard deviations: the expected errors of the disks, propagated to first order, times a factor by
    which the disks of this pattern (and, if they are few, of the scan) lie farther from their lattice than expected.
    They do not contain what all disks have in common, such as a wrong camera length, nor the reference's own error.

    **Model.** :mod:`pyxem_dl.patterns.lattice`.

    Examples
    --------
    >>> vectors = s.predict_bragg_vectors()  # doctest: +SKIP
    >>> strain = pyxem_dl.strain_map(vectors, reference=np.s_[:, :10])  # doctest: +SKIP
    >>> strain.e_xx, strain.e_xx_error  # doctest: +SKIP
    """
    angle = number("angle", angle)
    min_disks = whole_number("min_disks", min_disks, 4)
    max_rotation = number("max_rotation", max_rotation, 0, 90)
    tables, given = VectorTables(vectors, beam_energy), vectors
    vectors = without_distortion(vectors) if calibration is None else calibrated_vectors(vectors, calibration)
    tables = tables if vectors is given else VectorTables(vectors, beam_energy)
    axes = vectors.axes_manager.navigation_axes
    origin = Reference(reference, tables.shape, axes, tables.to_k)
    first = None if basis is None else read_basis("basis", basis, tables.to_k)
    wanted = np.flatnonzero(~_read_mask(navigation_mask, tables.shape))
    start, scale = _shared(tables, wanted, first, min_disks)
    lattices = _fit_all(tables, wanted, start, scale, min_disks, max_rotation, show_progressbar)
    _say_doubts(tables, wanted, lattices, scale, min_disks)
    record = made_by(
        "strain_map", signal=given, calibration=_used(calibration), made_from=given, reference=reference, basis=basis,
        angle=angle, min_disks=min_disks, max_rotation=max_rotation,
        **Reading(navigation_mask, beam_energy=beam_energy).asked(),
    )  # fmt: skip
    return with_record(_strain(vectors, tables, lattices, origin, scale, angle), record)


def _used(calibration) -> Calibration | None:
    return calibration.calibration if isinstance(calibration, FoundCalibration) else calibration


def _read_mask(navigation_mask, shape: tuple[int, ...]) -> np.ndarray:
    """Mask (n,) of excluded positions."""
    if navigation_mask is None:
        return np.zeros(math.prod(shape), dtype=bool)
    mask = np.asarray(navigation_mask.data if hasattr(navigation_mask, "axes_manager") else navigation_mask)
    if mask.shape != shape or mask.dtype != bool:
        raise ValueError(
            f"navigation_mask must be bool of the shape {shape} (rows first; True = excluded), not {mask.dtype} of "
            f"shape {mask.shape}."
        )
    return mask.ravel()


def _shared(tables: VectorTables, wanted, basis, min_disks: int) -> tuple[np.ndarray, float]:
    """Lattice (3, 2) from which those of all positions are searched, and the scale of the disks' errors."""
    counts = np.array([len(tables.tables[i]) for i in wanted], dtype=int)
    enough = wanted[counts >= min_disks]
    if not len(enough):
        raise ValueError(
            f"No position has {min_disks} disks (the most: {counts.max(initial=0)}), which a lattice needs. Find more: "
            "with a lower threshold, or a larger reciprocal_radius."
        )
    sample = enough[np.unique(np.linspace(0, len(enough) - 1, _SAMPLE).astype(int))]
    found = shared_lattice(tables.read(sample)[0], basis)
    if found is None:
        given = "" if basis is None else " Check basis, or leave it out."
        raise ValueError(
            f"The disks lie on no common lattice, at none of the {len(enough)} positions with at least {min_disks} "
            "disks: no crystal near a zone axis, or too few disks. Look at `vectors` on the patterns; find more disks "
            "with a lower threshold; or give basis=, two vectors that span the lattice." + given
        )
    return found


def _fit_all(tables: VectorTables, wanted, start, scale, min_disks, max_rotation, show_progressbar) -> Lattices:
    """Lattices of all positions, some thousands at once."""
    found = Lattices.none(len(tables.tables))
    with progressbar(len(wanted), show_progressbar, unit=" positions") as bar:
        for begin in range(0, len(wanted), _BLOCK):
            part = wanted[begin : begin + _BLOCK]
            disks, _ = tables.read(part)
            found.put(part, fit_lattices(disks, start, scale=scale, min_disks=min_disks, max_rotation=max_rotation))
            bar.update(len(part))
    return found


def _say_doubts(tables: VectorTables, wanted, lattices: Lattices, scale: float, min_disks: int) -> None:
    """Warn of errors that are not those of the disks, and of many positions without a lattice."""
    if tables.knows_errors and not 1 / _HONEST < scale < _HONEST:
        warn(
            f"The disks lie {scale:.2g} times as far from their lattices as position_error says (root mean square "
            f"distance {np.nanmedian(lattices.residual):.3g} Å⁻¹). Errors of the strain follow from the lattices; "
            "check the units of that column, and whether the disks are those of one crystal."
        )
    enough = sum(len(tables.tables[i]) >= min_disks for i in wanted)
    missing = enough - lattices.accepted.sum()
    if 2 * missing > enough:
        warn(
            f"At {missing} of {enough} positions with at least {min_disks} disks there is no lattice near the shared "
            "one; the maps are NaN there. Other crystals or orientations need a map of their own: give basis=, and "
            "navigation_mask= without the others."
        )


def _strain(vectors, tables: VectorTables, lattices: Lattices, origin: Reference, scale: float, angle: float) -> Strain:
    """Strain of lattices, as it is returned."""
    there, shape = lattices.accepted, tables.shape
    if not there.any():
        raise ValueError(
            "No position has a lattice of at least min_disks disks that hangs on none of them alone: find more disks "
            "with a lower threshold, or lower min_disks."
        )
    bases = lattices.parameters[:, :2]
    reference = origin.lattice(bases, there)
    values, errors = np.full((2, 4, len(there)), np.nan)
    values[:, there] = strain_of(deformation(bases[there], reference), math.radians(angle))
    # of few disks the scatter says little: that of the scan is added
    freedom = 2.0 * lattices.n_disks[there] - 6
    factor = (PRIOR_FREEDOM * scale**2 + freedom * lattices.chi2[there]) / (PRIOR_FREEDOM + freedom)
    covariance = np.full_like(lattices.covariance, np.nan)
    covariance[there] = lattices.covariance[there] * factor[:, None, None]
    errors[:, there] = errors_of(bases[there], covariance[there, :2, :2], math.radians(angle))
    for maps in (values, errors):
        maps[3] = np.degrees(maps[3])
    masked = np.where(there[:, None, None], lattices.parameters, np.nan)
    chi2 = np.where(there, lattices.chi2, np.nan) / (1 if tables.knows_errors else scale**2)
    per_k = float(np.linalg.norm(tables.from_k(np.array([1.0, 0.0]))))
    return Strain(
        values=values.reshape(4, *shape), errors=errors.reshape(4, *shape),
        n_disks=np.where(there, lattices.n_disks, 0).reshape(shape), chi2=chi2.reshape(shape),
        residual=np.where(there, lattices.residual * per_k, np.nan).reshape(shape),
        parameters=tables.from_k(masked).reshape(*shape, 3, 2),
        covariance=(covariance * per_k**2).reshape(*shape, 3, 3),
        reference=tables.from_k(reference), scale=scale, angle=angle, units=tables.units[:2],
        axes=[_axis(axis) for axis in vectors.axes_manager.navigation_axes],
        title=str(vectors.metadata.get_item("General.title", "")),
    )  # fmt: skip


def _axis(axis) -> dict:
    """Name, units, scale and offset of a navigation axis."""
    uniform = {"scale": float(axis.scale), "offset": float(axis.offset)} if axis.is_uniform else {}
    return {name: str(getattr(axis, name)) for name in ("name", "units")} | uniform
