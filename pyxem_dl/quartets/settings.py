"""Settings of a set of quartets, and what they make of each pattern's number: crystal, orientation, thickness."""

from __future__ import annotations

import math
import numbers
from dataclasses import asdict, dataclass, fields
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from pyxem_dl.checks import number, whole_number
from pyxem_dl.electrons import electron_wavelength, read_beam_energy
from pyxem_dl.frames import Calibration
from pyxem_dl.simulation.cells import tilted, zone_axis_rotation

#: Between what the settings may be drawn: Angstrom, kV, mrad, degrees
DOMAIN = {"thickness": (1.0, 5000.0), "beam_energy": (30.0, 1000.0), "semi_angle": (0.1, 50.0), "tilt": (0.0, 90.0)}
ENGINES = ("many-beam", "multislice")
ORIENTATIONS = ("zone-axes", "random")
# Indices of zone axes
_LARGEST_INDEX = 2
# Disks of a smaller radius (px) have no inside, and larger detectors no place in the memory
_LEAST_RADIUS, _PIXELS = 1.0, (16, 2048)
# Numbers that are drawn for each pattern
_N_DRAWN = 10
# Patterns of a round, in which phases come equally often, at least
_LEAST_ROUND = 256


@dataclass(frozen=True)
class Settings:
    """What is drawn for a set of quartets, and how it is simulated.

    Parameters
    ----------
    thickness : float or tuple of float
        In Angstrom, 1 to 5000; drawn evenly in the logarithm.
    tilt : float or tuple of float
        Of the crystal away from the zone axis in degrees, drawn evenly, its direction, too; for zone axes only.
    orientations : str
        ``"zone-axes"``, [uvw] of indices up to 2, each as likely, turned about the beam and tilted; or ``"random"``,
        all orientations.
    beam_energy : float or tuple of float
        In kV, 30 to 1000; drawn evenly.
    semi_angle : float or tuple of float
        Of convergence in mrad, 0.1 to 50; drawn evenly in the logarithm.
    pixels : int
        Of the square detector along each side.
    reciprocal_radius : float
        From the direct beam to the middles of the detector's sides, in Å⁻¹.
    debye_waller : float
        B of all atoms in square Angstrom.
    minimum_intensity : float
        Fainter disks, relative to the incident beam, are not in the tables.
    engine : str
        ``"many-beam"`` or ``"multislice"``.
    seed : int
        Of all that is drawn.

    Raises
    ------
    TypeError, ValueError
        For what is outside of these bounds.
    """

    thickness: tuple[float, float] = (20.0, 1000.0)
    tilt: tuple[float, float] = (0.0, 2.0)
    orientations: str = "zone-axes"
    beam_energy: tuple[float, float] = (200.0, 200.0)
    semi_angle: tuple[float, float] = (1.0, 4.0)
    pixels: int = 256
    reciprocal_radius: float = 1.5
    debye_waller: float = 0.5
    minimum_intensity: float = 1e-6
    engine: str = "many-beam"
    seed: int = 0

    def __post_init__(self) -> None:
        def put(name, value):
            object.__setattr__(self, name, value)

        if isinstance(self.beam_energy, str):
            put("beam_energy", read_beam_energy(self.beam_energy))
        for name, bounds in DOMAIN.items():
            put(name, _range(name, getattr(self, name), *bounds))
        for name, known in (("engine", ENGINES), ("orientations", ORIENTATIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be {' or '.join(map(repr, known))}, not {getattr(self, name)!r}.")
        put("pixels", whole_number("pixels", self.pixels, *_PIXELS))
        put("reciprocal_radius", number("reciprocal_radius", self.reciprocal_radius, 0.1, 5))
        put("debye_waller", number("debye_waller", self.debye_waller, 0, 10))
        put("minimum_intensity", number("minimum_intensity", self.minimum_intensity, 0, 1))
        put("seed", whole_number("seed", self.seed, 0, 2**63 - 1))
        self._check_disks()

    def _check_disks(self) -> None:
        least, most = (
            self.disk_radius(angle, energy) for angle, energy in zip(self.semi_angle, self.beam_energy, strict=True)
        )
        scale = self.calibration.scale[0]
        if least < _LEAST_RADIUS * scale:
            raise ValueError(
                f"The smallest disks have a radius of {least:.3g} Å⁻¹, {least / scale:.2g} px; at least "
                f"{_LEAST_RADIUS:g} px is needed. Give more pixels, a smaller reciprocal_radius or a larger semi_angle."
            )
        if most > self.reciprocal_radius / 2:
            raise ValueError(
                f"The largest disks have a radius of {most:.3g} Å⁻¹, more than half of reciprocal_radius "
                f"({self.reciprocal_radius:g} Å⁻¹). Give a smaller semi_angle or a larger reciprocal_radius."
            )

    @classmethod
    def from_dict(cls, entries: dict) -> Settings:
        """Read what :meth:`to_dict` gave; a ValueError or TypeError for anything else."""
        names = {field.name for field in fields(cls)}
        if not isinstance(entries, dict) or set(entries) != names:
            raise ValueError(f"the settings must be {', '.join(sorted(names))}")
        return cls(**entries)

    def to_dict(self) -> dict:
        """Plain numbers and texts, as JSON gives them back."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @cached_property
    def calibration(self) -> Calibration:
        """Of the detector; the direct beam is in its middle."""
        n = self.pixels
        energy = self.beam_energy[0] if self.beam_energy[0] == self.beam_energy[1] else None
        return Calibration((2 * self.reciprocal_radius / n,) * 2, (n / 2, n / 2), (n, n), energy)

    @staticmethod
    def disk_radius(semi_angle: float, beam_energy: float) -> float:
        """Radius of disks in Å⁻¹, of an angle in mrad and an energy in kV."""
        return 1e-3 * semi_angle / electron_wavelength(beam_energy)


def _range(name: str, value, low: float, high: float) -> tuple[float, float]:
    """Return a number as a range of one, and a pair as it is, within bounds."""
    if isinstance(value, numbers.Real):
        value = (value, value)
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name} must be a number or a pair (smallest, largest), not {value!r}.")
    smallest, largest = (number(name, each, low, high) for each in value)
    if smallest > largest:
        raise ValueError(f"{name} must be (smallest, largest), not {(smallest, largest)}.")
    return smallest, largest


class Drawn(NamedTuple):
    """What a pattern's number makes of the settings.

    ``rotation`` lab to crystal (quaternion); ``thickness`` in Angstrom, ``beam_energy`` in kV, ``semi_angle`` in mrad;
    ``origin`` is the point of the unit cell, in fractions of it, under the middle of the probe.
    """

    phase_id: int
    rotation: np.ndarray
    thickness: float
    beam_energy: float
    semi_angle: float
    origin: np.ndarray


def draw(index: int, settings: Settings, phases: list) -> Drawn:
    """Draw what a pattern shows: of its number and the seed alone.

    Parameters
    ----------
    index : int
        Number of the pattern.
    settings : Settings
        Between what is drawn.
    phases : list of orix.crystal_map.Phase
        Of the set, which are drawn equally often.
    """
    phase_id = int(phase_ids(np.array([index]), settings.seed, len(phases))[0])
    u = _uniform(_N_DRAWN, settings.seed, index, 0)
    log = [math.exp(_between(u[i], *map(math.log, pair)))
           for i, pair in enumerate((settings.thickness, settings.semi_angle))]  # fmt: skip
    # exp(log(x)) may miss the limits by a last digit
    thickness, semi_angle = (min(max(x, a), b) for x, (a, b) in zip(log, (settings.thickness, settings.semi_angle)))
    if settings.orientations == "random":
        rotation = _random_rotation(*u[3:6])
    else:
        axes = _zone_axes()
        rotation = zone_axis_rotation(phases[phase_id], axes[int(u[3] * len(axes))], 360 * u[4])
        rotation = tilted(rotation, _between(u[5], *settings.tilt), 360 * u[6])
    energy = _between(u[2], *settings.beam_energy)
    return Drawn(phase_id, rotation, thickness, energy, semi_angle, u[7:10])


def phase_ids(indices: np.ndarray, seed: int, n_phases: int) -> np.ndarray:
    """Phases (n,) of patterns by their numbers: in a round of these, all phases come as often."""
    n = n_phases * max(1, _LEAST_ROUND // n_phases)
    rounds, places = np.divmod(indices, n)
    different, which = np.unique(rounds, return_inverse=True)
    orders = np.stack([_order(seed, int(r), n) % n_phases for r in different])
    return orders[which, places]


def _between(u: float, low: float, high: float) -> float:
    return low + (high - low) * float(u)


def _bits(n: int, *key: int) -> np.ndarray:
    """Random 64-bit numbers of a key; of numpy's ways to draw, this one gives the same in every release."""
    return np.random.SeedSequence(key).generate_state(n, np.uint64)


def _uniform(n: int, *key: int) -> np.ndarray:
    """Numbers from 0 to below 1, of 53 bits."""
    return (_bits(n, *key) >> np.uint64(11)) * 2.0**-53


@lru_cache(maxsize=4)
def _order(seed: int, round_: int, n: int) -> np.ndarray:
    """Order in which phases are drawn in a round."""
    return np.argsort(_bits(n, seed, round_, 1), kind="stable")


def _random_rotation(u: float, v: float, w: float) -> np.ndarray:
    """Quaternion, spread evenly over all (Shoemake, *Graphics Gems III*, 1992)."""
    a, b = 2 * math.pi * v, 2 * math.pi * w
    return np.array([
        math.sqrt(u) * math.cos(b), math.sqrt(1 - u) * math.sin(a), math.sqrt(1 - u) * math.cos(a),
        math.sqrt(u) * math.sin(b),
    ])  # fmt: skip


@lru_cache
def _zone_axes() -> np.ndarray:
    """Directions [uvw] of small indices without a common divisor, and their opposites."""
    axis = np.arange(-_LARGEST_INDEX, _LARGEST_INDEX + 1)
    uvw = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    return uvw[np.gcd.reduce(uvw, axis=1) == 1]
