"""What simulates patterns: many beams, and multislice, with one kind of result."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from pyxem_dl.frames import Calibration
from pyxem_dl.quartets.settings import Drawn, Settings
from pyxem_dl.quartets.truth import Disks, in_lab, miller_indices
from pyxem_dl.simulation.cells import MAX_ATOMS
from pyxem_dl.simulation.detector import draw_beams
from pyxem_dl.simulation.engines import points_along
from pyxem_dl.simulation.many_beam import BeamIntensities, ManyBeam
from pyxem_dl.simulation.multislice import Multislice

#: Disks of a pattern that are kept, the direct beam included: the brightest
MOST_DISKS = 128
# Beams of a pattern that are far from their Bragg condition, and scattered once
_N_FAR = 64
# Coefficients of the potential that are rounding, relative to the mean inner potential
_NONE = 1e-5
#: Atoms of a unit cell; of larger cells a few dozen beams are no longer the most of what is diffracted
MOST_ATOMS = 500
#: Bytes of the structure factors of all crystals that are kept: of some five hundred
MOST_BYTES = 2**30
# Width of the disks' edges in px (standard deviation)
EDGE = 0.5
# Points along the diameter of a disk, at least
_LEAST_POINTS = 9


class Simulated(NamedTuple):
    """One simulated pattern.

    ``pattern (rows, columns)`` and ``probe``, relative to the incident beam; ``disks`` without padding, as they come;
    ``thickness`` (Å) that was simulated, and ``origin`` (fractions of the cell) under the probe, NaN where it plays no
    role.
    """

    probe: np.ndarray
    pattern: np.ndarray
    disks: Disks
    thickness: float
    origin: np.ndarray


class ManyBeamEngine:
    """A few dozen beams that scatter into each other, and some that are scattered once; disks that overlap are added.

    Parameters
    ----------
    phases : list of orix.crystal_map.Phase
        From :func:`pyxem_dl.crystals.load_phases`.
    settings : Settings
        Of the detector, and of the atoms.
    """

    #: Whether several threads may call it at once
    in_threads = True

    def __init__(self, phases: list, settings: Settings) -> None:
        self.phases, self.settings = phases, settings
        self._crystals: OrderedDict[int, ManyBeam] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, drawn: Drawn) -> Simulated:
        """Simulate one pattern, alone: the same numbers in whatever company."""
        crystal = self.crystal(drawn.phase_id).with_beam_energy(drawn.beam_energy)
        thickness = crystal.whole_slices(drawn.thickness)
        radius = self.settings.disk_radius(drawn.semi_angle, drawn.beam_energy)
        beams = self._beams(crystal, drawn.rotation, thickness, radius)
        disks = self._disks(beams, crystal, drawn, radius)
        pattern = _drawn(beams, radius, self.settings.calibration)[0]
        return Simulated(self.probe(radius), pattern, disks, thickness, np.full(3, np.nan))

    def crystal(self, phase_id: int) -> ManyBeam:
        """Structure factors of a phase, which are kept as long as there is room."""
        with self._lock:
            found = self._crystals.pop(phase_id, None)
            if found is None:
                s = self.settings
                # to the corners of the detector
                radius = math.sqrt(2) * s.reciprocal_radius
                found = ManyBeam(self.phases[phase_id], s.beam_energy[0], radius, debye_waller=s.debye_waller)
            self._crystals[phase_id] = found
            while len(self._crystals) > 1 and sum(each.nbytes for each in self._crystals.values()) > MOST_BYTES:
                self._crystals.popitem(last=False)
            return found

    def probe(self, radius: float) -> np.ndarray:
        """Image of the direct beam without a crystal; its radius in Å⁻¹."""
        zero = torch.zeros(1, 1)
        beam = BeamIntensities(zero, zero, zero, torch.ones(1, 1, 2, 2), zero == 0, zero)
        return _drawn(beam, radius, self.settings.calibration)[0]

    def _beams(self, crystal: ManyBeam, rotation, thickness: float, radius: float) -> BeamIntensities:
        rotations, depth = torch.as_tensor(rotation, dtype=torch.float32)[None], torch.tensor([thickness])
        n = self._points(crystal.wavelength, thickness, radius)
        beams = crystal(rotations, depth, radius, n)
        return beams.joined(crystal.far(rotations, depth, radius, n, _N_FAR))

    def _points(self, wavelength: float, thickness: float, radius: float) -> int:
        """Points along a disk's diameter: enough for its fringes, and no more than there are pixels."""
        s = self.settings
        fringes = wavelength * s.reciprocal_radius * 2 * radius * thickness
        pixels = 2 * math.ceil(radius / s.calibration.scale[0]) + 1
        return points_along(fringes, pixels, _LEAST_POINTS)

    def _disks(self, beams: BeamIntensities, crystal: ManyBeam, drawn: Drawn, radius: float) -> Disks:
        """Table of what the beams are; present are those that the detector sees, in whole or in part."""
        phase = self.phases[drawn.phase_id]
        kx, ky, error = (column[0].double().numpy() for column in beams[:3])
        hkl = miller_indices(kx, ky, error, phase, drawn.rotation, drawn.beam_energy)
        found = in_lab(hkl, phase, drawn.rotation, drawn.beam_energy)
        intensity = (_mean_in_disk(beams.intensity[0]) * beams.present[0]).numpy()
        v_g = crystal.potential(hkl)
        v_g[np.abs(v_g) < _NONE * np.abs(crystal.potential([0, 0, 0]))] = 0
        seen = np.maximum(np.abs(kx), np.abs(ky)) < self.settings.reciprocal_radius + radius
        return Disks(hkl, **found, v_g=v_g, intensity=intensity, present=beams.present[0].numpy() & seen)


class MultisliceEngine(ManyBeamEngine):
    """Multislice by abTEM (extra ``multislice``): all that is scattered, with the interference of disks that overlap.

    Which disk an electron belongs to is told by where it is; where disks overlap, it is shared out as the many-beam
    calculation says.
    """

    in_threads = False

    def __init__(self, phases: list, settings: Settings) -> None:
        super().__init__(phases, settings)
        # where abTEM is missing, or a probe too wide, this says so
        least = settings.disk_radius(settings.semi_angle[0], settings.beam_energy[0])
        side, thickness = self._multislice(0, settings.beam_energy[0]).side(least), settings.thickness[1]
        densest = max(phases, key=lambda phase: len(phase.structure) / phase.structure.lattice.volume)
        n_atoms = side**2 * thickness * len(densest.structure) / densest.structure.lattice.volume
        if n_atoms > MAX_ATOMS:
            raise ValueError(
                f"Multislice needs boxes of {side:.0f} × {side:.0f} × {thickness:g} Å, of {densest.name!r} with some "
                f"{n_atoms:.2g} atoms; at most {MAX_ATOMS:.0e} are possible. Give a larger semi_angle (the smallest is "
                f"{settings.semi_angle[0]:g} mrad), a smaller thickness, or the engine 'many-beam'."
            )

    def _multislice(self, phase_id: int, beam_energy: float) -> Multislice:
        s = self.settings
        radius = math.sqrt(2) * s.reciprocal_radius
        return Multislice(self.phases[phase_id], beam_energy, radius, debye_waller=s.debye_waller)

    def __call__(self, drawn: Drawn) -> Simulated:
        """Simulate one pattern."""
        s = self.settings
        crystal = self.crystal(drawn.phase_id).with_beam_energy(drawn.beam_energy)
        radius = s.disk_radius(drawn.semi_angle, drawn.beam_energy)
        pattern = self._multislice(drawn.phase_id, drawn.beam_energy)(
            drawn.rotation[None], [drawn.thickness], radius, s.calibration, origin=drawn.origin
        )[0]
        beams = self._beams(crystal, drawn.rotation, crystal.whole_slices(drawn.thickness), radius)
        disks = self._disks(beams, crystal, drawn, radius)
        disks = disks._replace(intensity=_shared_out(pattern, beams, disks.intensity, radius, s.calibration))
        return Simulated(self.probe(radius), pattern, disks, drawn.thickness, drawn.origin)


def make_engine(phases: list, settings: Settings) -> ManyBeamEngine:
    """Make the engine that the settings name."""
    return {"many-beam": ManyBeamEngine, "multislice": MultisliceEngine}[settings.engine](phases, settings)


def _drawn(beams: BeamIntensities, radius: float, calibration: Calibration) -> np.ndarray:
    """Patterns (n, rows, columns) of disks, relative to the incident beam."""
    return draw_beams(beams, 1.0, calibration, disk_radius=radius, blur=EDGE).numpy()


def _mean_in_disk(intensity: torch.Tensor) -> torch.Tensor:
    """Mean (m,) over disks of which there is a grid (m, p, p) over the square around them."""
    u = torch.linspace(-1, 1, 61)
    v, u = torch.meshgrid(u, u, indexing="ij")
    inside = u**2 + v**2 <= 1
    points = torch.stack([u[inside], v[inside]], dim=-1)[None, None].expand(len(intensity), -1, -1, -1)
    return functional.grid_sample(intensity[:, None], points, align_corners=True).mean((1, 2, 3))


def _shared_out(pattern: np.ndarray, beams: BeamIntensities, expected: np.ndarray, radius: float, calibration):
    """Intensities (m,) of disks in a pattern: of each pixel, the share that the many beams say is a disk's."""
    alone = BeamIntensities(*(column[0][:, None] for column in beams))
    images = _drawn(alone, radius, calibration)
    seen = images.sum((1, 2))
    total = np.maximum(images.sum(0), 1e-12)
    found = np.einsum("mij,ij->m", images, pattern / total)
    # of disks that the detector's edge cuts, the whole
    return np.where(seen > 0, expected * found / np.maximum(seen, 1e-30), 0.0).astype(np.float32)
