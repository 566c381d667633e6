"""Patterns that are expected behind crystals, each way to compute its beams called alike, and drawn by one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from pyxem_dl import crystals
from pyxem_dl.electrons import electron_wavelength
from pyxem_dl.frames import Calibration, excitation_error_in_disk, out_of_plane, tilt_quaternion
from pyxem_dl.rotations import matmul, multiply, to_matrix
from pyxem_dl.simulation.beams import MAX_EXCITATION_ERROR, BeamIntensities, Chosen
from pyxem_dl.simulation.bloch_waves import BlochWaves
from pyxem_dl.simulation.detector import Background, draw_beams, draw_spots, expected_background
from pyxem_dl.simulation.many_beam import ManyBeam
from pyxem_dl.simulation.random_numbers import sent

ENGINES = ("kinematical", "many-beam", "bloch")
# Reflections of a pattern that scatter for themselves, beside those that take part in dynamical scattering
_FAR_BEAMS = 96
# Reflections further from the Ewald sphere (Å⁻¹) are in no kinematical pattern
_KINEMATICAL_EXCITATION_ERROR = 0.3
#: So many beams of a crystal may be excited at once, on the average of its orientations
MOST_EXCITED = 4096
# Points along the diameter of a disk: for each fringe of its rocking curve, and from how many to how many
_PER_FRINGE, _LEAST_POINTS, _MOST_POINTS = 4, 5, 41
# Azimuths of a precession for each fringe that the cone sweeps over, and from how many to how many
_PER_SWEEP, _LEAST_AZIMUTHS, _MOST_AZIMUTHS = 1.0, 12, 240
# Disks of a smaller radius (px) are even inside
_RESOLVED = 1.2
# Where half of the halo is lost (Å⁻¹), and the points of its profile
_HALO, _PROFILE_POINTS = 0.15, 512


@dataclass(frozen=True)
class Optics:
    """What all patterns of a simulation share.

    Parameters
    ----------
    calibration : Calibration
        Of the detector, with the beam energy.
    disk_radius : float
        In Å⁻¹; 0 for spots.
    precession_angle : float
        In radians.
    n_azimuths : int
        Directions of a precession over which intensities are averaged.
    n_grid : int
        Points along the diameter of a disk.
    blur : float
        Of spots and of the edges of disks, in px.
    direct_beam : bool
        Whether it is drawn.
    background : float
        Share of the electrons in a halo around the direct beam.
    """

    calibration: Calibration
    disk_radius: float = 0.0
    precession_angle: float = 0.0
    n_azimuths: int = 1
    n_grid: int = 1
    blur: float = 0.7
    direct_beam: bool = True
    background: float = 0.0


def points_along(fringes: float, pixels: float, least: int = _LEAST_POINTS) -> int:
    """Points along a disk's diameter: enough for its fringes, and no more than there are pixels."""
    n = min(_PER_FRINGE * math.ceil(fringes) + 1, math.ceil(pixels), _MOST_POINTS)
    return max(n, least)


def azimuths_around(fringes: float) -> int:
    """Directions of a precession: enough for the fringes that a reflection goes through."""
    return int(min(max(math.ceil(_PER_SWEEP * fringes), _LEAST_AZIMUTHS), _MOST_AZIMUTHS))


# ---------------------------------------------------------------- engines: rotations (n, 4), thickness (n, m) -> n * m
class Kinematical:
    """Beams that are scattered once, as :class:`~pyxem_dl.simulation.beams.BeamIntensities` of n * m patterns.

    Intensities are ``|F|²`` times the shape factor of a plate, ``(pi t / extinction distance)² sinc²(t s)``; since this
    knows of no electrons that the direct beam loses, they are divided by their sum with it.

    Parameters
    ----------
    phase, beam_energy, reciprocal_radius, n_beams, debye_waller, device
        As of :class:`~pyxem_dl.simulation.beams.Beams`.
    """

    def __init__(self, phase, beam_energy, reciprocal_radius, *, n_beams, debye_waller, device) -> None:
        self.beam_energy, self.n_beams, self.debye_waller = beam_energy, n_beams, debye_waller
        found = crystals.reflections(phase, reciprocal_radius)
        self.table = crystals.ReflectionTable.stack([found], beam_energy, device)

    def __call__(self, rotations: torch.Tensor, thickness: torch.Tensor, disk_radius: float, n_grid: int):
        """Compute beams, the direct one first."""
        m = thickness.shape[1]
        spots = crystals.find_spots(
            self.table, torch.zeros(len(rotations), dtype=torch.long, device=rotations.device), rotations,
            self.beam_energy, n_spots=self.n_beams - 1, max_excitation_error=_KINEMATICAL_EXCITATION_ERROR,
        )  # fmt: skip
        kx, ky, error, coupling, present = (
            torch.cat([column.new_full(column[:, :1].shape, first), column], dim=1).repeat_interleave(m, 0)
            for column, first in zip(
                (spots.kx, spots.ky, spots.excitation_error, 1 / spots.extinction_distance, spots.structure_factor > 0),
                (0, 0, 0, 0, True), strict=True,
            )
        )  # fmt: skip
        coupling = coupling * present * torch.exp(-self.debye_waller * (kx**2 + ky**2) / 4)
        depth = thickness.float().reshape(-1, 1, 1, 1)
        in_disk = _errors_in_disk(error, kx, ky, electron_wavelength(self.beam_energy), disk_radius, n_grid)
        intensity = (math.pi * depth * coupling[..., None, None] * torch.sinc(depth * in_disk)) ** 2
        intensity[:, 0] = 1
        return BeamIntensities(kx, ky, error, intensity / intensity.sum(1, keepdim=True), present, coupling)


class Slices:
    """Many beams slice by slice (:class:`~pyxem_dl.simulation.many_beam.ManyBeam`), called as the other engines."""

    def __init__(self, crystal: ManyBeam) -> None:
        self.crystal = crystal

    def __call__(self, rotations: torch.Tensor, thickness: torch.Tensor, disk_radius: float, n_grid: int):
        """Compute beams, the direct one first."""
        rotations = rotations.repeat_interleave(thickness.shape[1], 0)
        # on the host: how many slices there are is looked at
        depths = thickness.reshape(-1).float().cpu()
        beams = self.crystal(rotations, depths, disk_radius, n_grid)
        return _with_far(beams, self.crystal.far(rotations, depths, disk_radius, n_grid, _FAR_BEAMS))


class Waves:
    """Bloch waves (:class:`~pyxem_dl.simulation.bloch_waves.BlochWaves`), called as the other engines.

    Parameters
    ----------
    crystal : BlochWaves
        Of one phase.
    n_far : int
        Reflections of a pattern that scatter for themselves, at most.
    """

    def __init__(self, crystal: BlochWaves, n_far: int = _FAR_BEAMS) -> None:
        self.crystal, self.n_far = crystal, n_far

    def __call__(self, rotations: torch.Tensor, thickness: torch.Tensor, disk_radius: float, n_grid: int):
        """Compute beams, the direct one first."""
        crystal, m = self.crystal, thickness.shape[1]
        chosen = crystal.choose(rotations)
        # the rest is padding, which costs as much as beams do
        used = int(chosen.present.sum(1).max())
        chosen = Chosen(*(column[:, :used] for column in chosen))
        kx, ky, error = (column.double() for column in (chosen.kx, chosen.ky, chosen.excitation_error))
        points, nearest = _disk_points(n_grid)
        found = []
        for qx, qy in points * disk_radius:
            at_point = excitation_error_in_disk(error, kx, ky, float(qx), float(qy), crystal.wavelength)
            found.append(crystal.amplitudes(chosen, at_point, thickness).abs().square().float())
        intensity = torch.stack(found, dim=-1)[..., sent(nearest, crystal.device)]
        coupling = crystal.with_direct_beam(chosen.hkl).abs() * chosen.present
        coupling[:, 0] = 0
        columns = (chosen.kx, chosen.ky, chosen.excitation_error, chosen.present, coupling)
        kx, ky, error, present, coupling = (column.repeat_interleave(m, 0) for column in columns)
        beams = BeamIntensities(kx, ky, error, intensity.flatten(0, 1), present, coupling)
        depths = thickness.reshape(-1).float()
        far = crystal.far(rotations.repeat_interleave(m, 0), depths, disk_radius, n_grid, self.n_far)
        return _with_far(beams, far)

    def in_turn(self, rotations: torch.Tensor, thickness: torch.Tensor, disk_radius: float, n_grid: int, each: int):
        """Compute beams of crystals of which `each` in a row have the same orientation: waves are found once for them.

        Parameters
        ----------
        rotations, thickness : tensor, shapes (n, 4) and (n,)
            Lab to crystal, and Angstrom; the last row may be shorter.
        disk_radius, n_grid
            As when called.
        each : int
            Crystals in a row.
        """
        n = len(thickness)
        rows = torch.nn.functional.pad(thickness, (0, -n % each), value=1.0).reshape(-1, each)
        beams = self(rotations[::each], rows, disk_radius, n_grid)
        return BeamIntensities(*(column[:n] for column in beams))


def _with_far(beams: BeamIntensities, far: BeamIntensities) -> BeamIntensities:
    """Put beams that are scattered once behind the others, which lose as much; of all of them the same is absorbed."""
    left = beams.intensity.sum(1, keepdim=True)
    lost = far.intensity.sum(1, keepdim=True).clamp_max(1)
    return beams._replace(intensity=beams.intensity * (1 - lost)).joined(
        far._replace(intensity=far.intensity * left)
    )


def make_engine(name: str, phase, calibration: Calibration, disk_radius: float, **settings):
    """Make one of :data:`ENGINES`.

    Parameters
    ----------
    name : str
        Which.
    phase : orix.crystal_map.Phase
        From :func:`pyxem_dl.crystals.load_phases`.
    calibration : Calibration
        Of the detector; all that reaches it takes part.
    disk_radius : float
        In Å⁻¹.
    **settings
        ``n_beams``, ``debye_waller``, ``device``; of Bloch waves ``n_strong`` and ``absorption``, too.
    """
    radius = farthest(calibration) + disk_radius
    if name == "kinematical":
        return Kinematical(phase, calibration.beam_energy, radius, **settings)
    kind, called = {"many-beam": (ManyBeam, Slices), "bloch": (BlochWaves, Waves)}[name]
    return called(kind(phase, calibration.beam_energy, radius, keep_symmetry=True, **settings))


def farthest(calibration: Calibration) -> float:
    """Distance (Å⁻¹) of the detector's farthest corner from the direct beam."""
    (rows, columns), (row, column) = calibration.shape, calibration.center
    y, x = max(row, rows - 1 - row) * calibration.scale[0], max(column, columns - 1 - column) * calibration.scale[1]
    # a distortion brings corners that are far away nearer, at most by its smaller stretch
    least = 1.0 if calibration.distortion is None else np.linalg.eigvalsh(np.array(calibration.distortion))[0]
    return math.hypot(x, y) / least


def excited(crystal) -> float:
    """How many beams take part on the average of all orientations, without a limit to their number."""
    g = crystal.table.g[0].norm(dim=1)
    radius = float(g.max())
    # those in the sphere, of which the shell around the Ewald sphere holds its share
    return g.numel() * 2 * MAX_EXCITATION_ERROR * math.pi * radius**2 / (4 / 3 * math.pi * radius**3)


# ---------------------------------------------------------------- patterns
def expected_patterns(engine, rotations: torch.Tensor, thickness: torch.Tensor, optics: Optics) -> torch.Tensor:
    """Share of the incident electrons that is expected in each pixel.

    Parameters
    ----------
    engine : callable
        From :func:`make_engine`.
    rotations : tensor, shape (n, 4)
        Lab to crystal.
    thickness : tensor, shape (n, m)
        In Angstrom.
    optics : Optics
        Detector, disks and precession.

    Returns
    -------
    tensor, shape (n, m, rows, columns)

    Notes
    -----
    In a precession the spots stay where they are, since the beam is tilted back behind the crystal; only excitation
    errors change.
    """
    n, m = thickness.shape
    total = 0
    if optics.precession_angle == 0:
        total = _drawn(engine(rotations, thickness, optics.disk_radius, optics.n_grid), optics)
    else:
        azimuths = 2 * math.pi * np.arange(optics.n_azimuths) / optics.n_azimuths
        for azimuth in azimuths:
            tilt = torch.tensor(tilt_quaternion(optics.precession_angle, azimuth), dtype=rotations.dtype)
            tilt = tilt.to(rotations.device)
            beams = engine(multiply(rotations, tilt), thickness, optics.disk_radius, optics.n_grid)
            wavelength = electron_wavelength(optics.calibration.beam_energy)
            total = total + _drawn(_tilted_back(beams, tilt, wavelength), optics) / optics.n_azimuths
    if optics.background:
        total = (1 - optics.background) * total + optics.background * _halo(optics, total.device)
    return total.reshape(n, m, *optics.calibration.shape)


def _tilted_back(beams: BeamIntensities, tilt: torch.Tensor, wavelength: float) -> BeamIntensities:
    """Beams of a tilted crystal where those of the crystal are that is not."""
    g = torch.stack([beams.kx, beams.ky, out_of_plane(beams.kx, beams.ky, beams.excitation_error, wavelength)], dim=-1)
    kx, ky, _ = matmul(g, to_matrix(tilt).mT).unbind(-1)
    return beams._replace(kx=kx, ky=ky)


def _drawn(beams: BeamIntensities, optics: Optics) -> torch.Tensor:
    """Draw beams: spots, even disks, or disks as they are inside; what overlaps is added."""
    if not optics.direct_beam:
        beams = BeamIntensities(*(column[:, 1:] for column in beams))
    radius, calibration = optics.disk_radius, optics.calibration
    if radius > _RESOLVED * calibration.scale[0]:
        return draw_beams(beams, 1.0, calibration, disk_radius=radius, blur=optics.blur)
    inside = _inside(optics.n_grid).to(beams.intensity.device)
    mean = (beams.intensity * inside).sum((-1, -2)) / inside.sum()
    return draw_spots(beams.kx, beams.ky, mean * beams.present, calibration, disk_radius=radius, blur=optics.blur)


def _halo(optics: Optics, device) -> torch.Tensor:
    """Halo (1, rows, columns) of what is scattered without a direction."""
    radius = 1.1 * farthest(optics.calibration)
    k = torch.linspace(0, radius, _PROFILE_POINTS, device=device)[None]
    profile = (1 + (k / _HALO) ** 2) ** -1.5
    return expected_background(Background(profile, radius, torch.zeros(1, 2, device=device)), optics.calibration)


# ---------------------------------------------------------------- points in a disk
def _grid(n_grid: int) -> torch.Tensor:
    """Distances of n points along a diameter from its middle, in radii."""
    return torch.linspace(-1, 1, n_grid) if n_grid > 1 else torch.zeros(1)


def _inside(n_grid: int) -> torch.Tensor:
    """Which points of a grid (n, n) are inside of the disk."""
    q = _grid(n_grid)
    return (torch.hypot(q[None, :], q[:, None]) <= 1 + 1e-6).float()


def _disk_points(n_grid: int) -> tuple[np.ndarray, torch.Tensor]:
    """Points (p, 2) that a disk needs, and for each of the grid (n, n) in [qy, qx] the nearest of them."""
    q = _grid(n_grid)
    every = torch.stack([q[None, :].expand(n_grid, -1), q[:, None].expand(-1, n_grid)], dim=-1).reshape(-1, 2)
    step = 2 / max(n_grid - 1, 1)
    # between points of which one is inside, values are interpolated
    needed = every[every.norm(dim=1) <= 1 + math.sqrt(2) * step]
    return needed.numpy(), torch.cdist(every, needed).argmin(1).reshape(n_grid, n_grid)


def _errors_in_disk(error, kx, ky, wavelength: float, disk_radius: float, n_grid: int) -> torch.Tensor:
    """Excitation errors (n, beams, p, p) on the grid of positions in disks."""
    q = _grid(n_grid).to(error.device) * disk_radius
    error, kx, ky = (column[..., None, None] for column in (error, kx, ky))
    return excitation_error_in_disk(error, kx, ky, q[None, :], q[:, None], wavelength)
