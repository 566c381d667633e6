"""All that a training is made of."""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass, field
from typing import Self

from pyxem_dl.checks import number, read_yaml, whole_number
from pyxem_dl.simulation import SimulationSettings

__all__ = [
    "SCHEDULES", "SPLITS", "LabelledConfiguration", "LearningConfiguration", "TrainingConfiguration", "read_yaml",
]  # fmt: skip

# A year; and more patterns than fit into any memory
_LONGEST, _LARGEST_BATCH = 525_600, 2**20
SCHEDULES = ("cosine", "exponential", "one_cycle")


@dataclass(frozen=True, kw_only=True)
class LearningConfiguration:
    """What every training has: its clock, its optimizer, and its seed.

    Parameters
    ----------
    max_minutes : float
        Time limit, validation included.
    max_steps : int, optional
        Limit on the number of batches, shared out like the time; the earlier limit counts.
    batch_size : int
        Patterns in a batch; a multiple of the patterns in one setup of the simulation.
    learning_rate : float
        Its peak, after a short warm-up.
    schedule : {"cosine", "exponential", "one_cycle"}
        How the learning rate goes: down to 0 along half a cosine; down exponentially; or up for three tenths of the
        training and then down, both along a cosine (Smith & Topin 2017).
    decay : float
        To this share of the peak an exponential schedule falls.
    patience : int, optional
        Stop when so many validations in a row were not better than the best.
    weight_decay : float
        Of AdamW.
    validation_minutes : float
        Time between validations, at least ten times as long as one takes.
    seed : int
        Of weights and patterns.
    network : dict
        Arguments of the network other than the crystals'.
    """

    max_minutes: float = 20.0
    max_steps: int | None = None
    batch_size: int = 64
    learning_rate: float = 1.2e-3
    schedule: str = "cosine"
    decay: float = 0.02
    patience: int | None = None
    weight_decay: float = 0.02
    validation_minutes: float = 4.0
    seed: int = 0
    network: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, not {reprlib.repr(self.schedule)}.")
        self._check_positive("max_minutes", "decay", "batch_size")
        number("max_minutes", self.max_minutes, 0, _LONGEST)
        number("decay", self.decay, 0, 1)
        number("weight_decay", self.weight_decay, 0, 100)
        number("validation_minutes", self.validation_minutes, 0, _LONGEST)
        whole_number("batch_size", self.batch_size, 1, _LARGEST_BATCH)
        whole_number("seed", self.seed, 0, 2**31 - 1_100_000)  # some are added to it
        for name in ("max_steps", "patience"):
            if getattr(self, name) is not None:
                whole_number(name, getattr(self, name), 1, 10**12)
        if not isinstance(self.network, dict):
            raise TypeError(f"network must be a dict of the network's arguments, not {reprlib.repr(self.network)}.")

    @classmethod
    def from_dict(cls, entries: dict) -> Self:
        """Make a configuration of what ``asdict`` made of one, also after a way through JSON."""
        check_names(entries, cls)
        entries = _with_tuples(entries)
        simulation = entries.get("simulation")
        if isinstance(simulation, dict):
            check_names(simulation, SimulationSettings, "simulation.")
            entries["simulation"] = SimulationSettings(**_with_tuples(simulation))
        elif "simulation" in entries and not isinstance(simulation, SimulationSettings):
            raise TypeError(f"simulation must be SimulationSettings or a dict of them, not {reprlib.repr(simulation)}.")
        return cls(**entries)

    def _check_positive(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if number(name, value) <= 0:
                raise ValueError(f"{name} must be positive, not {value!r}.")

    def _check_batch_size(self, setup_size: int) -> None:
        if self.batch_size % setup_size:
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of the simulation's setup_size "
                f"({setup_size})."
            )

    @property
    def shares(self) -> dict[str, float]:
        """Share of the training that each stage has."""
        return {"train": 1.0}

    def stages(self) -> dict[str, tuple[float, float]]:
        """Minutes and steps (infinite without a limit) of each stage of the training."""
        return {
            stage: (
                share * self.max_minutes,
                math.ceil(share * self.max_steps) if self.max_steps else math.inf,
            )
            for stage, share in self.shares.items() if share > 0
        }

    def rate(self, progress: float, step: int) -> float:
        """Learning rate relative to its peak, after a share `progress` of the training."""
        # 200 steps, but of a short training, or of a large network, no more than a fifth: Swin that sets out faster
        # ends in one prediction for all patterns
        warm_up = min(1.0, max((step + 1) / 200, 5 * progress))
        if self.schedule == "exponential":
            return warm_up * math.exp(math.log(self.decay) * progress)
        if self.schedule == "one_cycle":
            rising = min(progress / 0.3, 1.0)
            falling = max(0.0, min((progress - 0.3) / 0.7, 1.0))
            return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * rising)) if rising < 1 else (
                1e-4 + (1 - 1e-4) * 0.5 * (1 + math.cos(math.pi * falling)))  # fmt: skip
        return warm_up * (0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


@dataclass(frozen=True)
class TrainingConfiguration(LearningConfiguration):
    """All that the training of an orientation model is made of; saved with the weights.

    Parameters
    ----------
    beam_energy : float
        In kV.
    reciprocal_radius : float
        How far out the model looks, in Å⁻¹.
    verification_share : float
        Share of the time in which the network learns to verify its own proposals; before, it
        learns to propose.  0 leaves verification out.
    simulation : SimulationSettings
        What the patterns look like.
    **further
        Those of :class:`LearningConfiguration`; `network` holds arguments of
        :class:`pyxem_dl.networks.PolarNetwork`.
    """

    beam_energy: float
    reciprocal_radius: float
    verification_share: float = 0.25
    simulation: SimulationSettings = field(default_factory=SimulationSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_positive("beam_energy", "reciprocal_radius", "learning_rate")
        number("beam_energy", self.beam_energy, 1, 5000)
        number("reciprocal_radius", self.reciprocal_radius, 0, 20)
        number("learning_rate", self.learning_rate, 0, 10)
        number("verification_share", self.verification_share)
        if not 0 <= self.verification_share < 1:
            raise ValueError(
                f"verification_share must be at least 0 and below 1, not {self.verification_share!r}."
            )
        self._check_batch_size(self.simulation.setup_size)

    @property
    def displacement(self) -> float:
        """How far distortions displace a spot at the rim, at most, in Å⁻¹."""
        s, radius = self.simulation, self.reciprocal_radius
        return radius * (max(map(abs, s.scale_error)) + max(s.ellipticity) + radius * max(s.coma))

    @property
    def shares(self) -> dict[str, float]:
        """Shares of proposing and verifying."""
        return {"propose": 1 - self.verification_share, "verify": self.verification_share}


@dataclass(frozen=True, kw_only=True)
class LabelledConfiguration(LearningConfiguration):
    """All that the training on labelled scans is made of; saved with the weights.

    Parameters
    ----------
    network_name : str
        "polar", "cnn", "densenet121", "swin_tiny", "swin_tiny_adapted", or any network of timm; "any_crystal" where
        such a network is fine-tuned.
    pretrained : bool or str
        Begin with weights learnt on ImageNet: timm's, or those of a local file.
    reciprocal_radius : float, optional
        How far out the model looks, in Å⁻¹; by default as far as all detectors reach.
    size : int, optional
        Pixels along each side of the images that a network other than "polar" takes; by default its own.
    label_frame : dict
        The labels' convention, where it is another: arguments of :func:`pyxem_dl.results.in_lab_frame`, as
        ``{"turn": 90}``.
    min_score, min_reliability : float
        Of the labels that are kept.
    split : {"region", "scan", "random"}
        What is held out for validation: regions of each scan, the last scan, or single positions, whose neighbours are
        trained on.
    validation_share : float
        Of the labels, to be held out.
    turn : float, optional
        Patterns are turned about the beam by up to this angle in degrees, to both sides: 180 makes all directions
        alike.  By default 180 for the polar network, to which a turn is nothing new, and 10 for the others, which
        would have to learn all directions and need far longer for it.
    mirror : bool, optional
        Mirror half of the patterns, for crystals with an inversion only; by default where the polar network learns
        such.
    balance : float
        From 0, all labels are drawn alike, to 1, all zone axes are.
    simulated_share : float
        Of the batches, simulated patterns of the model that is fine-tuned, so that it does not forget.
    verification_share : float
        Of the time, for the polar network's verification.
    learning_rate : float, optional
        At its peak; by default 1e-3 for the polar network, 1e-4 for Swin networks, and 2e-4 for the others, which at
        higher ones may end in one prediction for all patterns.
    **further
        Those of :class:`LearningConfiguration`; `network` holds arguments of
        :class:`pyxem_dl.networks.RegressionNetwork` or :class:`pyxem_dl.networks.PolarNetwork`.
    """

    network_name: str = "polar"
    pretrained: bool | str = False
    reciprocal_radius: float | None = None
    size: int | None = None
    label_frame: dict = field(default_factory=dict)
    min_score: float = 0.0
    min_reliability: float = 0.0
    split: str = "region"
    validation_share: float = 0.2
    turn: float | None = None
    mirror: bool | None = None
    balance: float = 0.5
    simulated_share: float = 0.0
    verification_share: float = 0.0
    learning_rate: float | None = None
    batch_size: int = 32
    validation_minutes: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learning_rate is not None:
            self._check_positive("learning_rate")
        if self.split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {self.split!r}.")
        for name, highest in (
            ("validation_share", 0.9), ("balance", 1.0), ("simulated_share", 0.95), ("verification_share", 0.95),
        ):  # fmt: skip
            if not 0 <= number(name, getattr(self, name)) <= highest:
                raise ValueError(f"{name} must be from 0 to {highest}, not {getattr(self, name)!r}.")
        switches = ("inverse", "turn", "flipped", "crystal_x")
        if not isinstance(self.label_frame, dict) or set(self.label_frame) - set(switches):
            raise ValueError(f"label_frame has {', '.join(switches)}, not {reprlib.repr(self.label_frame)}.")
        for name in ("min_score", "min_reliability"):  # other programs' scores have any size
            number(name, getattr(self, name))
        if self.size is not None:
            whole_number("size", self.size, 8, 1024)
        if self.reciprocal_radius is not None:
            number("reciprocal_radius", self.reciprocal_radius, 0, 20, above=True)
        if self.turn is not None and not 0 <= number("turn", self.turn) <= 180:
            raise ValueError(f"turn must be an angle from 0 to 180 degrees, not {self.turn!r}.")
        if self.validation_share == 0:
            raise ValueError("validation_share must be positive: only held-out labels tell how good the model is.")

    @property
    def shares(self) -> dict[str, float]:
        """The polar network may learn to verify after it has learnt to propose; the others learn at once."""
        if self.network_name != "polar":
            return {"train": 1.0}
        return {"propose": 1 - self.verification_share, "verify": self.verification_share}


SPLITS = ("region", "scan", "random")


def _with_tuples(entries: dict) -> dict:
    """Turn the lists of JSON into tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entries.items()}


def check_names(entries: dict, kind: type, path: str = "") -> None:
    """Refuse settings that there are not, and list those that there are."""
    known = kind.__dataclass_fields__
    unknown = [str(name) for name in entries if name not in known]
    if unknown:
        raise ValueError(
            f"Unknown settings {', '.join(path + reprlib.repr(name).strip(chr(39)) for name in sorted(unknown)[:5])}. "
            f"The known ones are: {', '.join(path + name for name in known)}."
        )
