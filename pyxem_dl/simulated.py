"""Patterns of a crystal as a signal: orientations and thicknesses in, pyxem's patterns out."""

from __future__ import annotations

import math
import os
import reprlib
from typing import TYPE_CHECKING

import numpy as np
import torch

from pyxem_dl.checks import flag, number, whole_number
from pyxem_dl.crystals import load_phases
from pyxem_dl.devices import check_batch_size, default_batch_size, in_micro_batches, resolve_device
from pyxem_dl.electrons import electron_wavelength, read_beam_energy
from pyxem_dl.frames import STORED_DISTORTION, Calibration
from pyxem_dl.messages import warn
from pyxem_dl.progress import progressbar
from pyxem_dl.records import made_by, with_record
from pyxem_dl.scans import make_signal
from pyxem_dl.simulation.engines import (
    ENGINES,
    MOST_EXCITED,
    Optics,
    azimuths_around,
    excited,
    expected_patterns,
    make_engine,
    points_along,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orix.crystal_map import Phase
    from pyxem.signals import ElectronDiffraction2D

    from pyxem_dl.annotations import File, Rotations

# Angstrom; kV; mrad; degrees: beyond these forward scattering by a plate is the wrong theory, or nobody's experiment
_THICKNESS, _BEAM_ENERGY, _CONVERGENCE, _PRECESSION = (1.0, 5000.0), (30.0, 1000.0), (0.0, 50.0), (0.0, 5.0)
# Beams of a pattern: by default, and at most; and patterns with so many times as many are warned of
_N_BEAMS = {"kinematical": 512, "many-beam": 256, "bloch": 256}
_MOST_BEAMS, _TOO_MANY = 1024, 1.5
# Px of a detector
_SHAPE = (8, 4096)
# A pattern of so many electrons has no pixel with more than 16 bits
_SHORT_COUNTS = 50_000
# Bytes of the matrices that are decomposed at once
_MATRICES = {"cpu": 2**26, "cuda": 2**31}


def simulate_patterns(
    phase: Phase | File,
    rotations: Rotations,
    thickness: float | Sequence[float] | np.ndarray,
    *,
    engine: str = "bloch",
    beam_energy: float | None = None,
    shape: tuple[int, int] = (128, 128),
    reciprocal_radius: float | None = None,
    scale: float | None = None,
    calibration: Calibration | None = None,
    convergence_semi_angle: float = 0.0,
    precession_angle: float = 0.0,
    debye_waller: float = 0.5,
    absorption: float = 0.0,
    n_beams: int | None = None,
    n_strong: int | None = None,
    electrons: float | None = None,
    background: float = 0.0,
    direct_beam: bool = True,
    blur: float = 0.7,
    seed: int = 0,
    batch_size: int | None = None,
    device: str | torch.device = "auto",
    show_progressbar: bool | None = None,
) -> ElectronDiffraction2D:
    """Simulate the diffraction patterns of a crystal, kinematically or with all that dynamical scattering does.

    Parameters
    ----------
    phase : orix.crystal_map.Phase or path of a CIF file
        The crystal.
    rotations : orix.quaternion.Rotation, or array of shape (..., 4)
        Orientations, lab to crystal, with no, one or two dimensions.
    thickness : float, or array
        In Angstrom, 1 to 5000. Of shape (m,): each orientation at each of them. Of the shape of `rotations`, where that
        has two dimensions: one for each orientation. Of this shape with one more axis: m of its own for each.
    engine : {"bloch", "many-beam", "kinematical"}
        Bloch waves, all thicknesses at the cost of one; the same equations slice by slice, thicknesses rounded to 4 Å;
        or single scattering.
    beam_energy : float, optional
        In kV, 30 to 1000; by default 200, or that of `calibration`.
    shape : tuple of int
        Of the detector in px, (rows, columns). The direct beam is in the middle, at ``shape // 2``.
    reciprocal_radius : float, optional
        From the direct beam to the nearest edge, in Å⁻¹; by default 1.5.
    scale : float, optional
        Size of a pixel in Å⁻¹, instead of `reciprocal_radius`.
    calibration : Calibration, optional
        A detector instead of `shape`, `reciprocal_radius` and `scale`, such as ``Calibration.from_signal(s)``.
    convergence_semi_angle : float
        In mrad, up to 50. 0 makes spots; else disks are computed direction by direction, and added where they overlap.
    precession_angle : float
        In degrees, up to 5; averaged over the azimuths.
    debye_waller : float
        B of all atoms in square Angstrom.
    absorption : float
        Imaginary part of the potential as a share of the real part, with "bloch": electrons that are lost.
    n_beams : int, optional
        So many take part at most, the direct one included: those that promise to be the strongest. By default 256,
        and 512 with "kinematical".
    n_strong : int, optional
        With "bloch": so many scatter into each other, the others to second order (faster). By default all.
    electrons : float, optional
        That are incident for each pattern: the result is a draw of counts. By default the expected share of the
        incident electrons in each pixel.
    background : float
        Share of the electrons in a halo around the direct beam, from 0 to below 1.
    direct_beam : bool
        Draw it.
    blur : float
        Of spots and of the edges of disks, standard deviation in px.
    seed : int
        Of the counts.
    batch_size : int, optional
        Orientations that are computed at once; by default chosen for the device.
    device : str or torch.device
        "auto", "cpu", "cuda", ...
    show_progressbar : bool, optional
        By default HyperSpy's preference.

    Returns
    -------
    pyxem.signals.ElectronDiffraction2D
        Calibrated, with the beam energy. Its navigation has the dimensions of `rotations` in data order, and at last
        that of the thicknesses, if more than one were given for each. float32, or whole numbers with `electrons`.

    Raises
    ------
    TypeError, ValueError
        For arguments that cannot be used; the message says what to do.

    Notes
    -----
    The plate's surfaces are normal to the beam, and intensities those behind it, relative to the incident beam. Without
    `absorption` no electron is lost, but those that leave the detector. Beams within 0.06 Å⁻¹ of the Ewald sphere take
    part in the dynamical engines, others to 0.3 Å⁻¹ are scattered once. There is no thermal diffuse scattering, and
    disks that overlap do not interfere.

    Examples
    --------
    >>> import pyxem_dl
    >>> from pyxem_dl.simulation.cells import zone_axis_rotation
    >>> mgo = pyxem_dl.data.mgo_phase()
    >>> pyxem_dl.simulate_patterns(mgo, zone_axis_rotation(mgo, [0, 0, 1]), [200, 400])
    <ElectronDiffraction2D, title: MgO, dimensions: (2|128, 128)>
    """
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(map(repr, ENGINES))}, not {engine!r}.")
    for name, given in (("absorption", absorption != 0), ("n_strong", n_strong is not None)):
        if given and engine != "bloch":
            raise ValueError(f"{name} is for engine='bloch': {engine!r} has none. Leave it out.")
    calibration = _read_calibration(calibration, beam_energy, shape, reciprocal_radius, scale)
    quaternions, depths, navigation = _read_crystals(rotations, thickness)
    wanted = {"debye_waller": number("debye_waller", debye_waller, 0, 10)}
    wanted["n_beams"] = whole_number("n_beams", _N_BEAMS[engine] if n_beams is None else n_beams, 2, _MOST_BEAMS)
    if engine == "bloch":
        wanted["absorption"] = number("absorption", absorption, 0, 0.9)
        wanted["n_strong"] = None if n_strong is None else whole_number("n_strong", n_strong, 2, _MOST_BEAMS)
    optics = _read_optics(calibration, depths, convergence_semi_angle, precession_angle, blur, direct_beam, background)
    electrons = None if electrons is None else number("electrons", electrons, 0, 1e12, above=True)
    values = np.random.default_rng(whole_number("seed", seed))
    result = _room(depths.shape, calibration, electrons)
    device = _device(device)
    (phase,) = _one(load_phases(phase))
    simulate = make_engine(engine, phase, calibration, optics.disk_radius, device=device, **wanted)
    size = check_batch_size(batch_size) or _batch_size(device, simulate, optics, depths.shape[1])
    if engine != "kinematical":
        _check_excited(simulate.crystal, phase)

    @torch.inference_mode()  # of each thread
    def compute(rotation, depth):
        return (expected_patterns(simulate, rotation, depth, optics),)

    at_once = size * (torch.get_num_threads() if device.type == "cpu" else 1)
    with progressbar(depths.size, show_progressbar) as bar:
        for start in range(0, len(depths), at_once):
            part = slice(start, start + at_once)
            columns = torch.as_tensor(quaternions[part], dtype=torch.float32), torch.as_tensor(depths[part])
            expected = in_micro_batches(compute, size, device, *columns)[0].cpu().numpy()
            result[part] = expected if electrons is None else values.poisson(expected.clip(0) * electrons)
            bar.update(depths[part].size)
    signal = _signal(result.reshape(*navigation, *calibration.shape), optics, phase.name, thickness)
    return with_record(signal, made_by(
        "simulate_patterns", calibration=calibration, phase=phase.name, rotations=quaternions, thickness=depths,
        engine=engine, convergence_semi_angle=convergence_semi_angle, precession_angle=precession_angle,
        electrons=electrons, background=background, direct_beam=direct_beam, blur=blur, seed=seed, **wanted,
    ))  # fmt: skip


# ---------------------------------------------------------------- arguments
def _read_calibration(calibration, beam_energy, shape, reciprocal_radius, scale) -> Calibration:
    """Detector that is asked for in one of three ways."""
    given = [name for name, value in (("reciprocal_radius", reciprocal_radius), ("scale", scale)) if value is not None]
    if len(given) > 1 or (given and calibration is not None):
        names = [*given, *(["calibration"] if calibration is not None else [])]
        raise ValueError(f"Give one of {' and '.join(names)}: each says how large the pixels are.")
    if calibration is not None and not isinstance(calibration, Calibration):
        raise TypeError(
            f"calibration must be a Calibration, such as pyxem_dl.Calibration.from_signal(s), not {calibration!r}."
        )
    if beam_energy is None:
        beam_energy = 200.0 if calibration is None or calibration.beam_energy is None else calibration.beam_energy
    beam_energy = number("beam_energy", read_beam_energy(beam_energy), *_BEAM_ENERGY)
    if calibration is None:
        if np.shape(shape) != (2,):
            raise ValueError(f"shape must be two numbers of px, (rows, columns), not {shape!r}.")
        shape = tuple(whole_number("shape", n, *_SHAPE) for n in shape)
        if scale is None:
            radius = number("reciprocal_radius", 1.5 if reciprocal_radius is None else reciprocal_radius, 0.05, 6)
            scale = 2 * radius / min(shape)
        scale = number("scale", scale, 0, 1, above=True)
        calibration = Calibration((scale,) * 2, tuple(float(n // 2) for n in shape), shape)
    calibration = calibration.replace(beam_energy=beam_energy)
    if abs(calibration.scale[0] / calibration.scale[1] - 1) > 1e-3:
        raise ValueError(f"The pixels must be square, not {calibration.scale} Å⁻¹. Give another calibration.")
    if not 0.05 <= calibration.reciprocal_radius <= 6:
        raise ValueError(
            f"The detector ends at {calibration.reciprocal_radius:.3g} Å⁻¹ from the direct beam; 0.05 to 6 Å⁻¹ are "
            "possible. Check scale and shape, or the calibration."
        )
    return calibration


def _read_crystals(rotations, thickness) -> tuple[np.ndarray, np.ndarray, tuple[int, ...]]:
    """Quaternions (n, 4), thicknesses (n, m), and the shape of the navigation in data order."""
    quaternions = _numbers("rotations", getattr(rotations, "data", rotations))
    if quaternions.shape[-1:] != (4,) or quaternions.ndim > 3 or not quaternions.size:
        raise ValueError(
            "rotations must be an orix Rotation, or an array of quaternions of the shape (..., 4), with up to two "
            f"dimensions before, and not of {quaternions.shape}."
        )
    norm = np.linalg.norm(quaternions, axis=-1)
    wrong = ~(np.isfinite(norm) & (norm > 0))
    if wrong.any():
        raise ValueError(
            f"{wrong.sum()} of {wrong.size} rotations are not finite, or 0. Leave them out, as with "
            "`xmap[xmap.is_indexed].rotations`."
        )
    where = quaternions.shape[:-1]
    if where == (1,) and getattr(rotations, "shape", None) == (1,):
        where = ()  # orix has no single rotation but this
    depths = _numbers("thickness", thickness)
    low, high = _THICKNESS
    if not depths.size or not np.isfinite(depths).all() or depths.min() < low or depths.max() > high:
        raise ValueError(f"Each thickness must be from {low:g} to {high:g} Å, and is {reprlib.repr(thickness)}.")
    if depths.ndim < 2:
        each = np.broadcast_to(depths, (*where, *depths.shape))
    elif depths.shape == where or depths.shape[:-1] == where:
        each = depths
    else:
        raise ValueError(
            f"thickness has the shape {depths.shape}, which does not go with rotations of the shape {where}: give one "
            "number, a list, or an array of the rotations' shape and one more axis."
        )
    return quaternions.reshape(-1, 4), each.reshape(math.prod(where), -1).copy(), each.shape


def _numbers(name: str, values) -> np.ndarray:
    """Array of what may be a list."""
    try:
        return np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers, and an array of one shape, not {reprlib.repr(values)}.") from error


def _read_optics(calibration, depths, semi_angle, precession, blur, direct_beam, background) -> Optics:
    """Disks and precession, and how finely they are sampled."""
    wavelength = electron_wavelength(calibration.beam_energy)
    angle = number("convergence_semi_angle", semi_angle, *_CONVERGENCE)
    disk_radius = math.sin(1e-3 * angle) / wavelength
    precession = math.radians(number("precession_angle", precession, *_PRECESSION))
    # what a reflection's excitation error goes through, in units of the rocking curve's period
    per_radian = calibration.reciprocal_radius * float(depths.max())
    pixels = 2 * math.ceil(disk_radius / calibration.scale[0]) + 1
    return Optics(
        calibration, disk_radius, precession,
        azimuths_around(2 * math.pi * precession * per_radian) if precession else 1,
        points_along(2 * disk_radius * wavelength * per_radian, pixels) if disk_radius else 1,
        number("blur", blur, 0.1, 100), flag("direct_beam", direct_beam), number("background", background, 0, 0.999),
    )  # fmt: skip


def _one(phases: list) -> list:
    if len(phases) > 1:
        raise ValueError(
            f"Patterns of one phase are simulated at a time, and here are {len(phases)}: "
            f"{', '.join(phase.name for phase in phases)}. Give `pyxem_dl.load_phases(...)[i]`."
        )
    return phases


def _device(device) -> torch.device:
    """Device that computes with 64 bits."""
    found = resolve_device(device)
    if found.type != "mps":
        return found
    if device == "auto":
        return torch.device("cpu")
    raise ValueError("Simulations need numbers of 64 bits, which 'mps' has not. Give device='cpu'.")


def _room(depths: tuple[int, int], calibration: Calibration, electrons: float | None) -> np.ndarray:
    """Array (n, m, rows, columns) for all patterns; an error where they do not fit into the memory."""
    dtype = np.float32 if electrons is None else np.uint16 if electrons <= _SHORT_COUNTS else np.uint32
    size = math.prod(depths) * math.prod(calibration.shape) * np.dtype(dtype).itemsize
    try:
        there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        there = 2**34
    if size > 0.7 * there:
        raise ValueError(
            f"{math.prod(depths)} patterns of {' × '.join(map(str, calibration.shape))} px take {size / 2**30:.3g} GB, "
            f"and this computer has {there / 2**30:.3g} GB. Simulate fewer rotations or thicknesses at a time, or give "
            "a smaller shape."
        )
    return np.empty((*depths, *calibration.shape), dtype)


def _batch_size(device: torch.device, simulate, optics: Optics, m: int) -> int:
    """Orientations whose matrices, or disks, fit into the memory."""
    beams = simulate.n_beams if not hasattr(simulate, "crystal") else simulate.crystal.n_beams
    most = _MATRICES.get(device.type, _MATRICES["cpu"])
    return max(1, min(default_batch_size(device), most // (16 * beams * max(beams, 4 * m * optics.n_grid**2))))


def _check_excited(crystal, phase) -> None:
    """Refuse cells with thousands of beams, and warn where many are left out."""
    n = excited(crystal)
    what = f"In a crystal of {phase.name!r} some {n:.0f} beams are excited at once"
    if n > MOST_EXCITED:
        raise ValueError(
            f"{what}; at most {MOST_EXCITED} can be dealt with. Give a smaller reciprocal_radius, or "
            "engine='kinematical'."
        )
    if n > _TOO_MANY * crystal.n_beams:
        warn(
            f"{what}, and only the {crystal.n_beams} that promise to be the strongest take part: intensities of thick "
            f"crystals are rough. Give n_beams={min(math.ceil(n / 100) * 100, _MOST_BEAMS)}, or a smaller "
            "reciprocal_radius."
        )


# ---------------------------------------------------------------- the signal
def _signal(patterns: np.ndarray, optics: Optics, name: str, thickness) -> ElectronDiffraction2D:
    """Make the signal, its first navigation axis in Angstrom where that is of thicknesses."""
    signal = make_signal(patterns, optics.calibration, name)
    signal.set_experimental_parameters(
        convergence_angle=1e3 * math.asin(optics.disk_radius * optics.calibration.wavelength),
        rocking_angle=1e3 * optics.precession_angle,
    )
    if optics.calibration.distortion is not None:
        (xx, xy), (_, yy) = optics.calibration.distortion
        signal.metadata.set_item(STORED_DISTORTION, [xx, xy, yy])
    depths = np.asarray(thickness, dtype=float)
    if depths.ndim == 1 and signal.axes_manager.navigation_dimension:
        axis = signal.axes_manager.navigation_axes[0]
        axis.name = "thickness"
        steps = np.diff(depths)
        if len(steps) and (steps != 0).all() and np.allclose(steps, steps[0]):
            axis.units, axis.scale, axis.offset = "Å", float(steps[0]), float(depths[0])
    return signal
