"""Methods of pyxem's diffraction vectors."""

from __future__ import annotations

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without the import
if TYPE_CHECKING:
    import numpy as np
    from hyperspy.roi import BaseROI
    from pyxem.signals import DiffractionVectors

    from pyxem_dl.calibration import FoundCalibration
    from pyxem_dl.frames import Calibration
    from pyxem_dl.strain import Strain
    from pyxem_dl.tilt import TiltMap


def tilt_map(
    self: DiffractionVectors,
    *,
    max_tilt: float = 10.0,
    beam_energy: float | None = None,
    navigation_mask: np.ndarray | None = None,
    calibration: Calibration | FoundCalibration | None = None,
    show_progressbar: bool | None = None,
) -> TiltMap:
    """Find the tilt of the zone axis next to the beam from the disks of each pattern, of any crystal.

    Parameters
    ----------
    max_tilt : float, optional
        Largest tilt in degrees that is looked for. Default is 10.
    beam_energy : float, optional
        Beam energy in kV. Default is that in the metadata.
    navigation_mask : numpy.ndarray of bool, optional
        Positions to leave out, with the shape of the navigation dimensions in data order. True = excluded.
    calibration : Calibration or FoundCalibration, optional
        Of the scan, from ``s.find_calibration(...)``, if the vectors were found before: its scale and ellipse are used.
        Default is to take the vectors as they are.
    show_progressbar : bool, optional
        Default is HyperSpy's preference.

    Returns
    -------
    pyxem_dl.tilt.TiltMap
        ``tilt`` (x, y) in degrees, its ``error``, ``laue_center`` in Å⁻¹, ``n_disks`` and ``lattice``; NaN where disks
        are too few.

    See Also
    --------
    pyxem_dl.tilt_map : The same as a function, with the conventions of axes and signs, and all errors.

    Notes
    -----
    This method was attached by pyxem_dl. Set the environment variable ``PYXEM_DL_NO_AUTOLOAD=1`` to switch it off.
    """
    from pyxem_dl import tilt

    return tilt.tilt_map(
        self,
        max_tilt=max_tilt,
        beam_energy=beam_energy,
        navigation_mask=navigation_mask,
        calibration=calibration,
        show_progressbar=show_progressbar,
    )


def strain_map(
    self: DiffractionVectors,
    *,
    reference: np.ndarray | slice | tuple | BaseROI | None = None,
    basis: np.ndarray | None = None,
    angle: float = 0.0,
    min_disks: int = 5,
    max_rotation: float = 15.0,
    navigation_mask: np.ndarray | None = None,
    beam_energy: float | None = None,
    calibration: Calibration | FoundCalibration | None = None,
    show_progressbar: bool | None = None,
) -> Strain:
    """Map strain and rotation from the lattice of each pattern, with their errors.

    Parameters
    ----------
    reference : numpy.ndarray, slices, hyperspy.roi.BaseROI or tuple, optional
        What is not strained. A region of the scan: a mask of bool (True = reference), slices (rows first), or a ROI
        over the navigation; the median of its lattices counts. A lattice: two of its vectors as rows, in the columns
        and units of these vectors. A crystal: ``(phase, zone_axis)``. Default is the median of all lattices.
    basis : numpy.ndarray of shape (2, 2), optional
        Two vectors that span the lattice, in the columns and units of these vectors, from which each pattern's is
        searched. Default is to find them.
    angle : float, optional
        Of the axis x of the strain, in degrees, counterclockwise from the pattern's x axis. Default is 0.
    min_disks : int, optional
        On the lattice; with fewer the maps are NaN. Default is 5.
    max_rotation : float, optional
        Lattices are searched for that are turned by up to so many degrees. Default is 15.
    navigation_mask : numpy.ndarray of bool, optional
        Positions to leave out, with the shape of the navigation dimensions in data order. True = excluded.
    beam_energy : float, optional
        Beam energy in kV, for units that are angles. Default is the one in the metadata.
    calibration : Calibration or FoundCalibration, optional
        Of the scan, from ``s.find_calibration(...)``, if the vectors were found before: its scale and ellipse are used.
        Default is to take the vectors as they are.
    show_progressbar : bool, optional
        Default is HyperSpy's preference.

    Returns
    -------
    pyxem_dl.Strain
        ``e_xx``, ``e_yy``, ``e_xy`` and ``theta`` (degrees), ``e_xx_error`` and so on, ``n_disks``, ``chi2``,
        ``basis``, ``origin``; ``to_signal()`` gives pyxem's ``StrainMap``.

    See Also
    --------
    pyxem_dl.strain_map : The same as a function, with the conventions of axes and signs, and all errors.
    get_strain_maps : pyxem's own.

    Notes
    -----
    This method was attached by pyxem_dl. Set the environment variable ``PYXEM_DL_NO_AUTOLOAD=1`` to switch it off.
    """
    from pyxem_dl.strain import mapping

    return mapping.strain_map(
        self,
        reference=reference,
        basis=basis,
        angle=angle,
        min_disks=min_disks,
        max_rotation=max_rotation,
        navigation_mask=navigation_mask,
        beam_energy=beam_energy,
        calibration=calibration,
        show_progressbar=show_progressbar,
    )
