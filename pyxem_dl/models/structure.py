"""Which crystal is in an atomic-resolution image, seen along which zone axis: a network with its classes."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from pyxem_dl.checks import whole_number
from pyxem_dl.crystals import phase_from_dict, phase_to_dict
from pyxem_dl.devices import computing
from pyxem_dl.frames import in_plane_quaternion
from pyxem_dl.models.folder import Model
from pyxem_dl.rotations import multiply
from pyxem_dl.simulation.columns import ProjectedCrystal, project_columns


@dataclass
class StructureModel(Model):
    """A network that tells structures, with its phases and zone axes.

    Parameters
    ----------
    network_name : str
        By which `pyxem_dl.networks.build_network` knows it.
    network : torch.nn.Module
        A :class:`~pyxem_dl.networks.images.StructureNetwork`.
    phases : list of orix.crystal_map.Phase
        What it was trained for.
    classes : list of tuple
        Of each class the index of its phase, and its zone axis (u, v, w).
    alternatives : list of list of int
        Of each class the others that cannot be told apart from it within the tolerance of the calibration.
    domain : dict
        What the model was trained for: ``pixel``, smallest and largest in Å.
    thresholds : dict
        ``other``: the probability from which on a window is none of the classes.
    name, description : str
        A name, and a line on what the model is for.
    training, provenance : dict
        The training's configuration, and how it went.
    precision : str
        float32: the network is small.
    """

    network_name: str
    network: torch.nn.Module
    phases: list
    classes: list
    alternatives: list = field(default_factory=list)
    domain: dict = field(default_factory=dict)
    thresholds: dict = field(default_factory=lambda: {"other": 0.5})
    name: str = "unnamed"
    description: str = ""
    training: dict = field(default_factory=dict)
    provenance: dict = field(default_factory=dict)
    precision: str = "float32"

    format = "pyxem_dl structure model"
    inputs = "spectra"
    threshold_names = ("other",)

    def __repr__(self) -> str:
        return f"StructureModel {self.name!r} ({', '.join(self.class_names)})"

    @cached_property
    def crystals(self) -> list[ProjectedCrystal]:
        """Projected columns of each class."""
        return [project_columns(self.phases[i], axis) for i, axis in self.classes]

    @property
    def class_names(self) -> list[str]:
        """Phase and zone axis of each class, "Fe [1 0 0]"."""
        return [f"{self.phases[i].name} [{' '.join(map(str, axis))}]" for i, axis in self.classes]

    def rotations(self, class_id: np.ndarray, angle: np.ndarray) -> np.ndarray:
        """Orientations (..., 4), lab to crystal.

        Parameters
        ----------
        class_id : array of int
            Classes.
        angle : array
            By which each is turned about the beam, in radians, counter-clockwise with y up.
        """
        return rotations_of(np.array([crystal.quaternion for crystal in self.crystals]), class_id, angle)

    def predict_batch(self, windows: torch.Tensor, pixel: float, n_samples: int = 20) -> dict[str, torch.Tensor]:
        """Say what is in windows.

        Parameters
        ----------
        windows : tensor, shape (n, size, size)
            Of the model's side, or more, in Å.
        pixel : float
            In Å.
        n_samples : int
            Networks drawn by dropout, of which all but the head is computed once; 0 predicts once, without.

        Returns
        -------
        dict of tensor
            ``probabilities (n, classes + 1)``, the last of none of them; ``angle (n, classes)`` in radians;
            ``mutual_information`` and ``entropy (n,)`` in bits.
        """
        with computing(self.device, self.precision):
            features = self.network.features(self.network.grid(windows, windows.new_full((len(windows),), pixel)))
            once, angle = self.network.probabilities(features)
            masks = self.network.drawn_masks(n_samples, features)
            drawn = [self.network.probabilities(features, each)[0] for each in masks] or [once]
        p = torch.stack(drawn)
        mean = p.mean(0)
        entropy = bits(mean)
        return {
            "probabilities": mean, "angle": angle, "entropy": entropy,
            "mutual_information": (entropy - bits(p).mean(0)).clamp_min(0),
        }  # fmt: skip

    # ---------------------------------------------------------------- the folder
    def _own_config(self) -> dict:
        names = ("window", "n_k", "n_phi")
        return {
            "preprocessing": {"name": "spectrum", "arguments": {n: self.network.arguments[n] for n in names}},
            "phases": [phase_to_dict(phase) for phase in self.phases],
            "classes": [[int(i), [int(n) for n in axis]] for i, axis in self.classes],
            "alternatives": [[int(i) for i in others] for others in self.alternatives],
        }

    @classmethod
    def _from_config(cls, network, config: dict, **common) -> StructureModel:
        phases = [phase_from_dict(entry) for entry in config["phases"]]
        n = len(network.folds)
        if len(config["classes"]) != n or len(config["alternatives"]) != n:
            raise ValueError(f"{len(config['classes'])} classes, for a network of {n}")
        classes = [
            (whole_number("classes", i, 0, len(phases) - 1), tuple(whole_number("axis", x, -100, 100) for x in axis))
            for i, axis in config["classes"]
        ]
        if any(len(axis) != 3 or not any(axis) for _, axis in classes):
            raise ValueError("a zone axis is three whole numbers, not all 0")
        alternatives = [[whole_number("alternatives", i, 0, n - 1) for i in each] for each in config["alternatives"]]
        return cls(network=network, phases=phases, classes=classes, alternatives=alternatives, **common)

    def _default_reference(self) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        grid = self.network.grid
        return 3 * torch.rand(4, 1, grid.n_k, grid.n_phi, generator=generator)

    def _predictions(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        probabilities, _ = self.network.probabilities(self.network.features(inputs))
        return {"probabilities": probabilities}

    def _differences(self, now: dict, stored: dict) -> str:
        off = float((now["probabilities"] - stored["probabilities"]).abs().max())
        return f"probabilities differ by up to {off:.2g} (allowed 0.001)" if off > 1e-3 else ""

    def _minimal_card(self) -> str:
        description = self.description or "A structure model of pyxem_dl."
        return f"# {self.name}\n\n{description}\n\n{', '.join(self.class_names)}\n"


def rotations_of(quaternions: np.ndarray, class_id: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Orientations (..., 4), lab to crystal, of classes with given orientations (classes, 4) at an angle of 0.

    Parameters
    ----------
    quaternions : array, shape (classes, 4)
        Of each class as it lies at an angle of 0.
    class_id : array of int, shape (...)
        Classes.
    angle : array, shape (...)
        By which each is turned about the beam, in radians, counter-clockwise with y up.
    """
    turn = torch.stack(in_plane_quaternion(torch.as_tensor(np.asarray(angle, dtype=float))), -1)
    return multiply(torch.as_tensor(quaternions[class_id]), turn).numpy()


def bits(p: torch.Tensor) -> torch.Tensor:
    """Entropy in bits of probabilities along the last axis."""
    return -(p * p.clamp_min(1e-12).log2()).sum(-1)
