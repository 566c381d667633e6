"""Dynamical diffraction by multislice: the referee of :mod:`~pyxem_dl.simulation.many_beam` (extra ``multislice``).

abTEM takes the wave of a convergent probe through a box that is cut out of the crystal.  The slices' potentials are
made here, by a sum over the atoms at their exact places in Fourier space.  abTEM puts atoms between grid points by
bilinear weights and does not undo the blur that this brings: its intensities come out damped, as by B = 0.5 square
Angstrom at a sampling of 0.2 Angstrom.  Made like this nothing is damped but by `debye_waller`, at any sampling, and
both engines compute the same crystal.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.fft import fft2, irfft2, next_fast_len

from pyxem_dl.checks import number
from pyxem_dl.electrons import electron_wavelength, read_beam_energy
from pyxem_dl.frames import Calibration, grid_center, grid_to_pattern
from pyxem_dl.progress import progressbar
from pyxem_dl.simulation.cells import Cell, cut_cell

#: Least side of a box in Angstrom, and in units of 1 / disk radius: the probe with its rings
_LEAST_BOX, _LEAST_RINGS = 80.0, 9.0
#: Largest side in Angstrom; a probe that needs more is (nearly) a plane wave
_LARGEST_BOX = 600.0
# abTEM keeps two thirds of what the grid can hold, to be free of aliases, with a taper of .02
_KEPT = 0.646
# Slices whose potentials are in the memory at a time
_CHUNK = 16


class Multislice:
    """Multislice calculation for one phase, by abTEM.

    Parameters
    ----------
    phase : orix.crystal_map.Phase
        From :func:`pyxem_dl.crystals.load_phases`.
    beam_energy : float
        In kV.
    reciprocal_radius : float
        What is scattered to this radius takes part, in Å⁻¹; beyond it patterns are dark.
    debye_waller : float
        B in square Angstrom, of all atoms.
    slice_thickness : float
        At most, in Angstrom.
    box : float, optional
        Sides of the box at least, in Angstrom; by default so that the probe fits.

    Raises
    ------
    ImportError
        Where abTEM is not installed.

    Notes
    -----
    As in the many-beam calculation there is no absorption and no thermal diffuse scattering.  Potentials are Lobato's,
    with those of partly filled sites weighted by their occupancy.  Disks that overlap interfere, which depends on the
    place of the probe (`origin`); many-beam disks are added.
    """

    def __init__(
        self, phase, beam_energy: float, reciprocal_radius: float, *, debye_waller: float = 0.5,
        slice_thickness: float = 2.0, box: float | None = None,
    ) -> None:  # fmt: skip
        self._abtem = _abtem()
        self.phase, self.beam_energy = phase, read_beam_energy(beam_energy)
        self.wavelength = electron_wavelength(self.beam_energy)
        self.reciprocal_radius = number("reciprocal_radius", reciprocal_radius, 0, above=True)
        self.debye_waller = number("debye_waller", debye_waller, 0)
        self.slice_thickness = number("slice_thickness", slice_thickness, 0, above=True)
        self.box = None if box is None else number("box", box, 0, _LARGEST_BOX, above=True)

    def __call__(
        self, rotations, thickness, disk_radius: float, calibration: Calibration, *, beam_tilt=(0.0, 0.0),
        origin=(0.0, 0.0, 0.0), show_progressbar: bool | None = False,
    ) -> np.ndarray:  # fmt: skip
        """Compute patterns.

        Parameters
        ----------
        rotations : array or tensor, shape (n, 4), or orix.quaternion.Rotation
            Lab to crystal.
        thickness : array, shape (n,) or (n, m)
            In Angstrom; several of a crystal cost no more than the largest of them.
        disk_radius : float
            In Å⁻¹: semi-convergence angle over wavelength.
        calibration : Calibration
            Of the detector.
        beam_tilt : tuple of 2 float
            Direction (kx, ky) of the incident beam in Å⁻¹; the pattern stays centred on the direct beam.
        origin : array, shape (3,) or (n, 3)
            Point of the crystal under the middle of the probe, in fractions of the unit cell.
        show_progressbar : bool, optional
            By default HyperSpy's preference says.

        Returns
        -------
        array of float32, shape (n, rows, columns) or (n, m, rows, columns)
            Share of the incident electrons in each pixel.
        """
        rotations = np.asarray(getattr(rotations, "data", rotations), dtype=float).reshape(-1, 4)
        thickness = np.asarray(thickness, dtype=float)
        if thickness.ndim not in (1, 2) or len(thickness) != len(rotations):
            raise ValueError(
                f"thickness must have the shape ({len(rotations)},) or ({len(rotations)}, m), one row for each "
                f"rotation, and not {thickness.shape}."
            )
        if not (np.isfinite(thickness).all() and (thickness > 0).all()):
            raise ValueError("Each thickness must be a positive number of Angstrom.")
        origins = np.broadcast_to(np.asarray(origin, dtype=float), (len(rotations), 3))
        grid = _Grid(self.side(disk_radius), self.reciprocal_radius, disk_radius, calibration, beam_tilt)
        result = np.zeros((*thickness.shape, *calibration.shape), dtype=np.float32)
        with progressbar(len(rotations), show_progressbar) as bar:
            for i, rotation in enumerate(rotations):
                depths = np.atleast_1d(thickness[i])
                cell = cut_cell(self.phase, rotation, grid.box, depths.max(), origin=origins[i])
                patterns = dict(self._waves(cell, grid, np.unique(depths)))
                result[i] = np.stack([patterns[float(depth)] for depth in depths]).reshape(result[i].shape)
                bar.update()
        return result

    def side(self, disk_radius: float) -> float:
        """Least side of the box in Angstrom."""
        disk_radius = number("disk_radius", disk_radius, 0, above=True)
        side = max(_LEAST_BOX, _LEAST_RINGS / disk_radius) if self.box is None else self.box
        if side > _LARGEST_BOX:
            raise ValueError(
                f"A probe with disks of {disk_radius:.3g} Å⁻¹ needs a box of {side:.0f} Å, more than {_LARGEST_BOX:g} "
                "Å: for a (nearly) parallel beam take the many-beam engine."
            )
        return side

    def _waves(self, cell: Cell, grid: _Grid, depths: np.ndarray):
        """Yield each depth (Angstrom, ascending) with the pattern of the wave there."""
        # abTEM's words for the tilt are milliradians
        tilt = 1e3 * np.arctan(self.wavelength * grid.tilt)
        waves = self._abtem.Waves(
            grid.probe(), energy=1e3 * self.beam_energy, extent=grid.box,
            metadata={"base_tilt_x": tilt[0], "base_tilt_y": tilt[1]},
        )  # fmt: skip
        scattering = _scattering(self._abtem, cell.elements, self.debye_waller, grid)
        top = 0.0
        for depth in depths:
            edges = np.linspace(top, depth, max(1, math.ceil((depth - top) / self.slice_thickness - 1e-9)) + 1)
            for first in range(0, len(edges) - 1, _CHUNK):
                part = edges[first : first + _CHUNK + 1]
                slices = np.stack([_potential(cell, scattering, grid, *ends) for ends in zip(part[:-1], part[1:])])
                waves = waves.multislice(
                    self._abtem.PotentialArray(slices, slice_thickness=float(part[1] - part[0]), extent=grid.box)
                )
            top = depth
            yield float(depth), grid.pattern(waves.array)


class _Grid:
    """Grid [x, y] of the wave: the probe in it, and the detector's pixels.

    The sides of the box are whole numbers of a detector pixel's period, so that each pixel gathers as many points of
    the wave's spectrum.  These are ``(j + offset) / side`` with whole j, so that they lie evenly in the pixels
    wherever the direct beam is; the offset is a tilt of the frame that the wave is written in.
    """

    def __init__(self, least_side, reciprocal_radius, disk_radius, calibration: Calibration, beam_tilt) -> None:
        self._calibration, self._disk_radius = calibration, disk_radius
        scale = np.array(calibration.scale[::-1])
        self._per_pixel = np.maximum(1, np.ceil(least_side * scale - 1e-9)).astype(int)
        self.box = tuple(float(side) for side in self._per_pixel / scale)
        if max(self.box) > _LARGEST_BOX:
            raise ValueError(
                f"Pixels of {scale.min():.3g} Å⁻¹ need a box of {max(self.box):.0f} Å, more than {_LARGEST_BOX:g} Å: "
                "give a calibration with larger pixels."
            )
        half = (math.ceil(reciprocal_radius * side / _KEPT) for side in self.box)
        self.shape = tuple(2 * next_fast_len(n, real=True) for n in half)
        #: Points of the spectrum on each side of 0 in which something is scattered
        self.reach = tuple(math.floor(reciprocal_radius * side) for side in self.box)
        # first point of the detector's first pixel, on the axes [kx, ky]
        first = -np.array(grid_center(calibration)) * self._per_pixel - (self._per_pixel - 1) / 2
        self._first = np.rint(first).astype(int)
        self._offset = first - self._first
        #: Of the frame that the wave is written in, (kx, ky) in Å⁻¹
        self.tilt = np.asarray(beam_tilt, dtype=float) + self._offset / self.box

    def probe(self) -> np.ndarray:
        """Wave of the focused probe in the middle of the box; the squares of its spectrum add up to 1."""
        kx, ky = ((np.fft.fftfreq(n, 1 / n) + o) / side for n, o, side in zip(self.shape, self._offset, self.box))
        # the disk's edge is one point wide
        edge = (self._disk_radius - np.hypot(kx[:, None], ky)) * min(self.box)
        aperture = np.clip(edge + 0.5, 0, 1) ** 0.5
        wave = np.fft.fftshift(np.fft.ifft2(aperture / np.linalg.norm(aperture)))
        return wave.astype(np.complex64)

    def pattern(self, wave: np.ndarray) -> np.ndarray:
        """Gather the wave's spectrum in the detector's pixels: shape (rows, columns)."""
        spectrum = np.fft.fftshift(np.abs(fft2(wave)) ** 2)
        rows, columns = self._calibration.shape
        points = np.zeros(np.array([columns, rows]) * self._per_pixel, dtype=np.float32)
        start = self._first + np.array(self.shape) // 2
        low, high = np.maximum(0, -start), np.minimum(points.shape, self.shape - start)
        if (high > low).all():
            here, there = (tuple(map(slice, low + shift, high + shift)) for shift in (0, start))
            points[here] = spectrum[there]
        m, n = self._per_pixel
        return grid_to_pattern(points.reshape(columns, m, rows, n).sum(axis=(1, 3)))


def _scattering(abtem, elements, debye_waller: float, grid: _Grid) -> dict[str, np.ndarray]:
    """Projected potentials of the elements' atoms in V Å³, on the half grid of :func:`_phases`."""
    parametrization = abtem.parametrizations.LobatoParametrization()
    kx, ky = (np.arange(-n * both, n + 1) / side for n, side, both in zip(grid.reach, grid.box, (1, 0)))
    squared = kx[:, None] ** 2 + ky**2
    limit = max(n / side for n, side in zip(grid.reach, grid.box)) ** 2
    damping = np.exp(-debye_waller * squared / 4) * (squared <= limit)
    return {
        str(element): (parametrization.projected_scattering_factor(str(element))(squared) * damping).astype(np.float32)
        for element in np.unique(elements)
    }


def _phases(positions: np.ndarray, reach: int, side: float, both: bool) -> np.ndarray:
    """Phases (frequencies, atoms) of atoms along one axis, at the frequencies from 0, or from -reach, to reach."""
    angle = (-2 * np.pi / side) * np.arange(reach + 1)[:, None] * positions
    phase = np.empty(angle.shape, dtype=np.complex64)
    phase.real, phase.imag = np.cos(angle), np.sin(angle)
    return np.concatenate([phase[:0:-1].conj(), phase]) if both else phase


def _potential(cell: Cell, scattering: dict, grid: _Grid, top: float, bottom: float) -> np.ndarray:
    """Projected potential in V Å of the atoms from one depth to another (Angstrom), on the grid [x, y]."""
    part = slice(*np.searchsorted(cell.positions[:, 2], [top, bottom - 1e-5]))
    spectrum = np.zeros((grid.shape[0], grid.shape[1] // 2 + 1), dtype=np.complex64)
    (nx, ny), x, y = grid.reach, cell.positions[part, 0], cell.positions[part, 1]
    rows = np.arange(-nx, nx + 1)
    for element, factor in scattering.items():
        chosen = np.flatnonzero(cell.elements[part] == element)
        across = _phases(x[chosen], nx, grid.box[0], both=True) * cell.occupancy[part][chosen].astype(np.float32)
        spectrum[rows, : ny + 1] += factor * (across @ _phases(y[chosen], ny, grid.box[1], both=False).T)
    cells_per_area = np.prod(grid.shape) / np.prod(grid.box)
    return irfft2(spectrum, s=grid.shape) * np.float32(cells_per_area)


def _abtem():
    """Import abTEM, or say how to install it."""
    try:
        import abtem
        import abtem.parametrizations
    except ImportError as error:
        raise ImportError('Multislice needs abTEM: python -m pip install "pyxem-dl[multislice]"') from error
    return abtem
